"""Peers that mean no good, and what is told of them."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gpen.proto.peers import (
    ASK,
    CONFIRM,
    FINISHED,
    IPV4,
    Control,
    Definition,
    Encoder,
    acknowledgement,
    control,
    definition,
)
from tests.harness import Gpen, Server, connect, naming, wait_until
from tests.listeners import ask
from tests.peers import Circle, Stub, peer, remembered, stub, wait_connected

Start = Callable[..., Gpen]
MANY = 60_000
MB = 1 << 20
TOO_LONG = bytes((10, 130, 255, 255, 255, 255, 255, 127))


@pytest.fixture
def circle() -> Circle:
    return Circle("a", "b", "c")


@pytest.fixture
def both(servers: Callable[..., Server]) -> list[Server]:
    return [servers(naming("x")), servers(naming("y"))]


@pytest.fixture
def a(gpen: Start, circle: Circle, both: list[Server]) -> Gpen:
    """A gpen that has more to tell than buffers take."""
    balancer = gpen(*circle.options("a", f"clients_max {MANY}"), servers=both)
    encoder = Encoder()
    with stub(circle, "c", "a") as teacher:
        teacher.say(definition(Definition(1, "gpen", IPV4, 4)), *(
            encoder.update(IPV4, 1, 1, number.to_bytes(4, "big"), both[0].address) for number in range(MANY)))
        wait_until(lambda: peer(balancer, "c")["received"] == MANY, what="a to learn")
    return balancer


@contextlib.contextmanager
def blocked(a: Gpen, circle: Circle) -> Iterator[Stub]:
    """The peer b, to which a has been writing without end."""
    with stub(circle, "b", "a") as mate:
        mate.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        mate.say(control(ASK))
        sent = -1
        while sent != peer(a, "b")["sent"] or not sent:
            sent = peer(a, "b")["sent"]
            time.sleep(0.1)
        yield mate


def test_nonsense_of_one_that_takes_nothing(a: Gpen, circle: Circle) -> None:
    """It is sent away for that, though there is no room to tell it why; gpen's stderr has no traceback."""
    with blocked(a, circle) as mate:
        mate.say(TOO_LONG)
        wait_until(lambda: "16384 are allowed" in peer(a, "b")["error"], what="a to send it away")


def test_endless_ends(a: Gpen, circle: Circle) -> None:
    """One that says without end that it has told all, and takes no answer, costs no memory."""
    before = most = a.rss
    with blocked(a, circle) as mate, contextlib.suppress(ConnectionError):
        for _ in range(300):
            mate.say(control(FINISHED) * 20_000)
            most = max(most, a.rss)
            assert a.ask(source="127.1.0.1")
    assert most - before < 20 * MB
    wait_until(lambda: peer(a, "b")["error"], what="a to give it up")


def test_what_nobody_is_told_of_is_not_pending(gpen: Start, circle: Circle, both: list[Server], tmp_path: Path) -> None:
    """Clients of a path have no address, so that nobody acknowledges them, also behind one that is acknowledged late.
    """
    a = gpen(*circle.options("a"), servers=both)
    assert a.ctl(f"listener u listen {tmp_path}/u.sock", "listener u tracking_with -") == f"{tmp_path}/u.sock\n"
    with stub(circle, "b", "a") as mate:
        assert a.ask(source="127.1.0.1")
        (_, _, _, update), = mate.wait_entries(1)
        with connect(f"{tmp_path}/u.sock") as sock:
            assert sock.recv(1)
        wait_until(lambda: peer(a, "b")["pending"] == 2)
        for count in (1, 2):  # a looks for news each time
            mate.say(control(FINISHED))
            while mate.messages.count(Control(CONFIRM)) < count:
                assert mate.listen()
        mate.say(acknowledgement(1, update))
        wait_until(lambda: peer(a, "b")["pending"] == 0, what="nothing to be pending")


def test_a_listener_that_one_has_later(gpen: Start, circle: Circle, both: list[Server]) -> None:
    """Whoever came to it before, and whoever comes then, is known at both."""
    a, b = (gpen(*circle.options(name), servers=both) for name in "ab")
    wait_connected(a, "b")
    a.ctl("listener w listen 127.0.0.1:0")
    wait_until(lambda: peer(a, "b")["state"] == "connected", what="a connection with that listener")
    early = ask(a, "w", source="127.1.0.1")
    wait_until(lambda: peer(a, "b")["sent"] == 1, what="a to tell of it")
    b.ctl("listener w listen 127.0.0.1:0")
    wait_until(lambda: "w 127.1.0.1" in remembered(b), what="b to learn of who came before")
    late = ask(a, "w", source="127.1.0.2")
    wait_until(lambda: "w 127.1.0.2" in remembered(b), what="b to learn of who came then")
    assert [ask(b, "w", source=f"127.1.0.{number}") for number in (1, 2)] == [early, late]


@pytest.mark.parametrize(("before", "after"), [(0, 100), (100, 0), (100, 5000)])
def test_how_long_clients_are_remembered_changes(gpen: Start, circle: Circle, both: list[Server], before: int,
                                                 after: int) -> None:
    """Who comes then is told of as having been there just now."""
    a, b = (gpen(*circle.options(name, f"tracking {before}"), servers=both) for name in "ab")
    wait_connected(a, "b")
    a.ask(source="127.1.0.1")
    wait_until(lambda: len(remembered(b)) == 1, what="b to learn of one")
    for balancer in (a, b):
        balancer.ctl(f"tracking {after}")
    a.ask(source="127.1.0.2")
    wait_until(lambda: len(remembered(b)) == 2, what="b to learn of the other")
    idle = next(line for line in b.ctl("state").splitlines() if "127.1.0.2" in line).split()[-1]
    assert float(idle) < 20


def test_a_table_that_has_another_number_each_time(gpen: Start, circle: Circle, both: list[Server]) -> None:
    """It is one table, and costs the memory of one."""
    a = gpen(*circle.options("a"), servers=both)
    with stub(circle, "b", "a") as mate:
        for count in (3_000, 30_000):
            before, received = a.rss, peer(a, "b")["received"]
            for first in range(count, 2 * count, 1000):
                mate.say(*(piece for number in range(first, first + 1000) for piece in (
                    definition(Definition(number, "gpen", IPV4, 4)),
                    Encoder().update(IPV4, 1, 10, bytes((127, 1, 0, 1)), both[0].address))))
                mate.listen()
            wait_until(lambda: peer(a, "b")["received"] == received + count)  # noqa: B023 (it is awaited here)
    assert a.rss - before < MB
