"""gpen-galera's completion for shells, made from its usage texts.

    python -m gpen.galera.completion bash > contrib/completion/gpen-galera.bash
    python -m gpen.galera.completion zsh > contrib/completion/_gpen-galera
"""

from __future__ import annotations

import sys

from gpen.docs.usage_completion import Program, bash, with_commands, zsh
from gpen.galera.usage import OVERVIEW, USAGES


def program() -> Program:
    """What there is to complete."""
    return with_commands("gpen-galera", "gpen.galera.completion", OVERVIEW, USAGES)


if __name__ == "__main__":
    sys.stdout.write({"bash": bash, "zsh": zsh}[sys.argv[1]](program()))
