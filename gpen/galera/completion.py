"""gpen-galera's completion for shells, made from its usage texts.

    python -m gpen.galera.completion bash > contrib/completion/gpen-galera.bash
    python -m gpen.galera.completion zsh > contrib/completion/_gpen-galera
"""

from __future__ import annotations

import re
import sys

from gpen.docs.usage_completion import Program, bash, options_of, zsh
from gpen.galera.usage import OVERVIEW, USAGES


def program() -> Program:
    """What there is to complete."""
    does = dict(re.findall(r"^  (\w+)   *(\S.*)$", OVERVIEW, re.MULTILINE))
    return Program("gpen-galera", "gpen.galera.completion", options_of(OVERVIEW),
                   {command: (does[command], options_of(usage)) for command, usage in USAGES.items()})


if __name__ == "__main__":
    sys.stdout.write({"bash": bash, "zsh": zsh}[sys.argv[1]](program()))
