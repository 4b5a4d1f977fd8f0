"""The flag stateless: two gpens that know nothing of each other give a client the same server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests import datagrams
from tests.datagrams import DatagramServer
from tests.harness import Gpen, Server, naming, seeing, wait_until

Start = Callable[..., Gpen]
CLIENTS = [f"127.0.5.{i}" for i in range(1, 101)]
FEW = CLIENTS[:30]
HOSTS = "127.0.0.1 localhost\n127.0.0.2 two.test\n::1 two.test\n127.0.0.3 three.test\n"


@pytest.fixture
def named(tmp_path: Path) -> tuple[str, ...]:
    """The wrapper for a gpen that knows other names of the servers."""
    path = tmp_path / "hosts"
    path.write_text(HOSTS)
    return seeing({"/etc/hosts": path})


@pytest.fixture
def three() -> Iterator[list[Server]]:
    """Servers at three addresses, that tell their names."""
    with ExitStack() as stack:
        yield [stack.enter_context(Server(naming(name), at=f"127.0.0.{i}")) for i, name in enumerate("ABC", 1)]


def served(balancer: Gpen, clients: Sequence[str] = CLIENTS) -> str:
    return "".join(balancer.ask(source=client).decode() for client in clients)


def mixed(servers: Sequence[Server] | Sequence[DatagramServer]) -> list[str]:
    """The same servers by names, in another order."""
    one, two, three = (server.port for server in servers)
    return [f"three.test:{three}", f"localhost:{one}", f"two.test:{two}"]


def test_two_agree_for_a_hundred_clients(gpen: Start, three: list[Server], named: tuple[str, ...]) -> None:
    """However they list the servers: in whatever order, by other numbers and names; also when servers leave."""
    first = gpen("-O", "stateless", servers=three)
    second = gpen("-O", "stateless", servers=mixed(three), wrapper=named)
    before = served(first)
    assert before == served(second) and min(Counter(before).values()) > 15
    second.ctl(f"server 7 address two.test port {three[1].port}", "no server 2")
    before = before[:30]
    assert served(second, FEW) == before
    first.ctl("server 0 state maint")  # one and the same
    second.ctl("no server 1")
    after = served(first, FEW)
    assert after == served(second, FEW)
    assert {old for old, new in zip(before, after, strict=True) if old != new} == {"A"}, "only its own have moved"
    first.ctl("server 0 state ready")
    assert served(first, FEW) == before, "and they come back: where they have been is not remembered"
    first.ctl("no stateless")
    assert "used it last" not in first.json(f"explain {CLIENTS[0]}")["why"]


def test_over_udp(gpen: Start, named: tuple[str, ...]) -> None:
    with ExitStack() as stack:
        servers = [stack.enter_context(DatagramServer(datagrams.naming(name), f"127.0.0.{i}"))
                   for i, name in enumerate("ABC", 1)]
        first = gpen("-U", "-O", "stateless", servers=[server.address for server in servers])
        second = gpen("-U", "-O", "stateless", servers=mixed(servers), wrapper=named)
        chosen, again = (b"".join(datagrams.ask(balancer, source=client) for client in CLIENTS)
                         for balancer in (first, second))
        assert chosen == again and set(chosen) == set(b"ABC")


def test_with_workers(gpen: Start, three: list[Server]) -> None:
    assert served(gpen("-O", "stateless", servers=three), FEW) == served(
        gpen("-O", "stateless", "-O", "workers 2", servers=three[::-1]), FEW)


def test_the_next_where_its_own_is_dead(gpen: Start, three: list[Server]) -> None:
    """The client is served by the same other one on both, and by its own again once that is back."""
    here, there = gpen("-b", "9", "-O", "stateless", servers=three), gpen("-O", "stateless", servers=three[::-1])
    before = served(here, FEW)
    port = three[0].port
    three[0].close()
    after = served(here, FEW)
    assert after == served(there, FEW)
    assert all(new == old or old == "A" for old, new in zip(before, after, strict=True)) and "A" not in after
    with Server(naming("A"), port=port):
        for balancer in (here, there):
            balancer.ctl("blacklist 0", "server 0 blacklist 0", "server 2 blacklist 0")
            wait_until(lambda balancer=balancer: served(balancer, FEW) == before)


def test_explain_tells_it(gpen: Start, three: list[Server]) -> None:
    balancer = gpen("-O", "stateless", servers=three)
    for address in CLIENTS[:10]:
        row = balancer.json(f"explain {address}")
        assert row["why"] == "stateless"
        assert "ABC"[row["server"]] == served(balancer, [address])
        assert balancer.json(f"explain ::ffff:{address}")["server"] == row["server"]
        assert {other["why_not"] for other in row["others"]} == {"available, but not chosen by stateless"}


def test_by_weight(gpen: Start, three: list[Server]) -> None:
    balancer = gpen("-O", "stateless", servers=three)
    balancer.ctl("server 0 weight 0", "server 1 weight 3")
    counts = Counter(served(balancer))
    assert counts["A"] == 0 and 60 < counts["B"] < 90


def test_a_unix_socket_is_known_by_its_path(gpen: Start, three: list[Server], tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with Server(naming("U"), at=path):
        here = gpen("-O", "stateless", servers=[*three, path])
        there = gpen("-O", "stateless", servers=[path, *three])
        before = served(here, FEW)
        assert before == served(there, FEW) and before.count("U") > 2


def test_what_has_no_effect_is_told(gpen: Start, three: list[Server]) -> None:
    balancer = gpen("-O", "stateless", "-T", "60", "-h", servers=[f"{three[0].address}:3:5"])
    wait_until(lambda: "hard 5 has no effect" in balancer.stderr)
    assert "tracking 60 has no effect: stateless remembers nobody's server" in balancer.stderr
    assert "hash has no effect" in balancer.stderr
