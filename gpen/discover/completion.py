"""gpen-discover's completion for shells, made from its usage texts.

    python -m gpen.discover.completion bash > contrib/completion/gpen-discover.bash
    python -m gpen.discover.completion zsh > contrib/completion/_gpen-discover
"""

from __future__ import annotations

import re
import sys

from gpen.discover.usage import OVERVIEW, USAGES
from gpen.docs.usage_completion import Program, bash, options_of, zsh


def program() -> Program:
    """What there is to complete."""
    does = dict(re.findall(r"^  (\w+)   *(\S.*)$", OVERVIEW, re.MULTILINE))
    return Program("gpen-discover", "gpen.discover.completion", options_of(OVERVIEW),
                   {command: (does[command], options_of(usage)) for command, usage in USAGES.items()})


if __name__ == "__main__":
    sys.stdout.write({"bash": bash, "zsh": zsh}[sys.argv[1]](program()))
