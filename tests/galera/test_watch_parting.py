"""How sessions leave a writer that is well: each between two exchanges, while clients wait, and not for long."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.galera.stub import Group
from tests.galera.test_watch_gpens import node_of, session, watching
from tests.galera.test_watch_listeners import group, is_cut, moved, start
from tests.galera.test_watch_listeners import session as session_at
from tests.galera.test_watch_listeners import watching as watching_listeners
from tests.harness import Gpen, wait_until

pytestmark = pytest.mark.timeout(60)
__all__ = ["group", "start"]

Start = Callable[..., Any]
WRITER = ("-r", "-O", "prio", "-O", "mysql", "-O", "greeting 1")


def endings(front: Gpen) -> dict[str, int]:
    """How sessions of clients ended that a move has ended."""
    return {name: count for name, count in front.json("info")["endings"].items() if name in ("drained", "killed")}


@pytest.mark.parametrize("hold, options, ending", [
    ("10", (), "drained"), ("10", ("--agree=agreed",), "drained"), ("10", ("--quiet=0",), "killed"),
    ("0", (), "killed")])
@pytest.mark.parametrize("on_down", ["keep", "close"])
def test_a_gpen_for_writes(group: Group, gpen: Start, watcher: Start, hold: str, options: tuple[str, ...], ending: str,
                           on_down: str) -> None:
    front = gpen(*WRITER, "-O", f"hold {hold}", "-O", f"on_down {on_down}", servers=group.addresses)
    judge = watching(watcher, *options, first=group.addresses[0], fronts=[front])
    with session(front) as old:
        assert node_of(old) == "node0"
        moved(judge, "node1")
        wait_until(lambda: is_cut(old), what="the end of the session on the old writer")
        with session(front) as new:
            assert node_of(new) == "node1"
    expected = {"server-down": 1} if on_down == "close" and ending == "killed" else {ending: 1}
    wait_until(lambda: {name: count for name, count in front.json("info")["endings"].items()
                        if name in ("drained", "killed", "server-down")} == expected, what=f"{expected}")


def test_a_listener_for_writes(group: Group, start: Callable[..., Gpen], watcher: Start) -> None:
    front = start()
    judge = watching_listeners(watcher, group, front)
    with session_at(front) as writing, session_at(front, "") as reading:
        assert node_of(writing) == "node0" and node_of(reading)
        moved(judge, "node1")
        wait_until(lambda: is_cut(writing), what="the end of the session on the old writer")
        assert not is_cut(reading)
        with session_at(front) as new:
            assert node_of(new) == "node1"
    wait_until(lambda: endings(front) == {"drained": 1}, what="its ending")


def test_what_does_not_end_is_closed(group: Group, gpen: Start, watcher: Start) -> None:
    """A client that was the last to speak is waited for, and not for ever."""
    front = gpen(*WRITER, "-O", "hold 10", servers=group.addresses)
    judge = watching(watcher, first=group.addresses[0], fronts=[front])
    with session(front) as old:
        node_of(old)
        old._sock.sendall(b"\x20\0\0\0\x03SELECT")  # type: ignore[attr-defined]  # and not the rest
        moved(judge, "node1")
        wait_until(lambda: is_cut(old), what="its end")
    wait_until(lambda: endings(front) == {"killed": 1}, what="its ending")
