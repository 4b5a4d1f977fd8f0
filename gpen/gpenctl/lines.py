"""Lines to a gpen and back, for programs that watch: gpen-galera and gpen-discover. What they ask has an end, in time
and in size, whoever answers."""

from __future__ import annotations

import time
from collections.abc import Sequence

from gpen.gpenctl.link import LinkError, Target, exchange
from gpen.model.text import shortened

PATIENCE = 2.0  # seconds that a gpen may take to answer, and for each pause in its answer
WHOLE = 10.0  # seconds for a whole answer: who says a byte a second says nothing
MOST = 1 << 21  # bytes of an answer: a server takes about 600
REFUSALS = ("error:", "do_cmd:")  # gpen's, and pen's
LONGEST_REFUSAL = 200  # characters


def ask_lines(target: Target, lines: Sequence[str], most: int = MOST) -> list[str]:
    """Send lines and return those of the reply. Raises LinkError, also when the reply has no end: more than ``most``
    bytes, say."""
    heard, size, deadline = [], 0, time.monotonic() + WHOLE
    for piece in exchange(target, "\n".join(lines), PATIENCE, PATIENCE):
        heard.append(piece)
        size += len(piece)
        if size > most or time.monotonic() > deadline:
            raise LinkError(f"{target.text}: its answer has no end: is it a gpen?")
    return b"".join(heard).decode("utf-8", "surrogateescape").splitlines()


def refusal_in(lines: Sequence[str]) -> str:
    """The first line of a reply that says that a command was refused."""
    return shortened(next((line for line in lines if line.startswith(REFUSALS)), ""), LONGEST_REFUSAL)
