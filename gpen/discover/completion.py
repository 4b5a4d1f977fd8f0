"""gpen-discover's completion for shells, made from its usage texts.

    python -m gpen.discover.completion bash > contrib/completion/gpen-discover.bash
    python -m gpen.discover.completion zsh > contrib/completion/_gpen-discover
"""

from __future__ import annotations

import sys

from gpen.discover.usage import OVERVIEW, USAGES
from gpen.docs.usage_completion import Program, bash, with_commands, zsh


def program() -> Program:
    """What there is to complete."""
    return with_commands("gpen-discover", "gpen.discover.completion", OVERVIEW, USAGES)


if __name__ == "__main__":
    sys.stdout.write({"bash": bash, "zsh": zsh}[sys.argv[1]](program()))
