"""Completion of gpenlog and gpenlogd for shells, made from their usage texts.

    python -m gpen.netlog.completion gpenlog bash > contrib/completion/gpenlog.bash
    python -m gpen.netlog.completion gpenlog zsh > contrib/completion/_gpenlog
    python -m gpen.netlog.completion gpenlogd bash > contrib/completion/gpenlogd.bash
    python -m gpen.netlog.completion gpenlogd zsh > contrib/completion/_gpenlogd
"""

from __future__ import annotations

import sys

from gpen.docs.usage_completion import Program, bash, options_of, zsh
from gpen.netlog import collector, sender

USAGES = {sender.NAME: sender.USAGE_TEXT, collector.NAME: collector.USAGE_TEXT}


def program(name: str) -> Program:
    """What there is to complete."""
    return Program(name, f"gpen.netlog.completion {name}", options_of(USAGES[name]), {})


if __name__ == "__main__":
    sys.stdout.write({"bash": bash, "zsh": zsh}[sys.argv[2]](program(sys.argv[1])))
