"""Who gets which server, through the running gpen: turns, weights, trials, stubbornness; and a rule that is new."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import datagrams
from tests.harness import ROOT, Gpen, Server, naming, refusing, wait_until
from tests.web.pages import data_of

Start = Callable[..., Gpen]
Serve = Callable[..., Server]


def names(balancer: Gpen, count: int, source: str = "") -> str:
    return "".join(balancer.ask(source=source).decode() for _ in range(count))


@pytest.fixture
def three(servers: Serve) -> list[Server]:
    return [servers(naming(name)) for name in "ABC"]


def test_clients_that_return_take_nobodys_turn(gpen: Start, three: list[Server]) -> None:
    balancer, new = gpen(servers=three), Counter[str]()
    for i in range(30):
        assert names(balancer, 1, "127.0.1.1") == "A"
        new.update(names(balancer, 1, f"127.0.2.{i + 1}"))
    assert new == {"A": 10, "B": 10, "C": 10}


@pytest.mark.parametrize("rule", ["leastconn", "random"])
def test_short_connections_by_weight(gpen: Start, three: list[Server], rule: str) -> None:
    balancer = gpen("-r", "-O", rule, servers=[f"{three[0].address}:0:0:3", three[1]])
    assert Counter(names(balancer, 40)) == {"A": 30, "B": 10}
    for _ in range(3):
        balancer.ctl("explain 192.0.2.1")
    assert Counter(names(balancer, 4)) == {"A": 3, "B": 1}, "to explain is not to choose"


def test_a_full_server_has_its_turn_where_gpen_is_stubborn(gpen: Start, three: list[Server]) -> None:
    balancer = gpen("-r", "-s", servers=[f"{three[0].address}:1", three[1]])
    socks = [balancer.connect() for _ in range(8)]
    assert "".join(sock.recv(1).decode() or "-" for sock in socks) == "AB-B-B-B"
    assert "stubborn" in balancer.ctl("explain 192.0.2.1")
    for sock in socks:
        sock.close()


def test_the_only_server_restarts(gpen: Start) -> None:
    with refusing() as address:
        balancer = gpen("-r", servers=[address])
        assert balancer.ask() == b""
    with Server(naming("A"), port=int(address.rpartition(":")[2])):
        wait_until(lambda: balancer.ask() == b"A", 3, "the end of the trouble")
        assert names(balancer, 3) == "AAA"
    assert balancer.server(0)["health"] == "up"


def test_the_only_server_restarts_udp(gpen: Start) -> None:
    with datagrams.refusing() as address:
        balancer = gpen("-U", "-r", "-O", "udp_replies 1", servers=[address])
        datagrams.tell(balancer)
        wait_until(lambda: balancer.server(0)["health"] == "down")
    with datagrams.DatagramServer(datagrams.naming("A"), port=int(address.rpartition(":")[2])):
        def is_back() -> bool:
            datagrams.tell(balancer)
            return bool(balancer.server(0)["health"] == "up")

        wait_until(is_back, 5, "the end of the trouble")
        assert datagrams.ask(balancer) == b"A"


def test_explain_tells_of_the_trial(gpen: Start) -> None:
    with refusing() as address:
        balancer = gpen("-r", servers=[address])
        assert balancer.ask() == b""
        assert "would get no server" in balancer.ctl("explain 192.0.2.1")
        wait_until(lambda: "it is tried again" in balancer.ctl("explain 192.0.2.1"), 3)
        balancer.ctl("server 0 blacklist 60")
        assert "would get no server" in balancer.ctl("explain 192.0.2.1")


NEW_RULE = """
from gpen.model import scheduler

def highest(servers, usable, turns, key):
    return max(filter(usable, servers), key=lambda server: server.number, default=None)

scheduler.RULES = (scheduler.Rule("highest", "Choose the highest number.", highest), *scheduler.RULES)
"""


@pytest.fixture
def with_a_new_rule(tmp_path: Path) -> tuple[str, ...]:
    """The wrapper that gives a Python program one row more."""
    (tmp_path / "sitecustomize.py").write_text(NEW_RULE)
    return ("env", f"PYTHONPATH={tmp_path}:{ROOT}")


def test_a_new_rule_is_one_row(gpen: Start, three: list[Server], with_a_new_rule: tuple[str, ...], tmp_path: Path,
                               ) -> None:
    balancer = gpen("-r", "-O", "hash", "-O", "highest", servers=three, wrapper=with_a_new_rule)
    assert names(balancer, 3) == "CCC"
    assert balancer.json("mode")["highest"] and balancer.ctl("mode").endswith(" no prio highest\n")
    assert ": highest\n" in balancer.ctl("explain 192.0.2.1")
    assert "not chosen by highest" in balancer.ctl("explain 192.0.2.1")
    assert data_of(balancer.ctl("status"))["listeners"][0]["rule"] == "highest"
    assert "Choose the highest number." in balancer.ctl("help highest") and "\n  highest " in balancer.ctl("help")
    balancer.ctl(f"write {tmp_path}/written")
    assert "highest\n" in (tmp_path / "written").read_text()


@pytest.mark.parametrize("program", [("gpen.docs.completion", "bash"), ("gpen.docs.completion", "zsh"),
                                     ("gpen.docs.manual", "gpen"), ("gpen.docs.manual", "gpenctl")])
def test_what_is_printed_knows_it_too(program: tuple[str, str], with_a_new_rule: tuple[str, ...]) -> None:
    done = subprocess.run([*with_a_new_rule, sys.executable, "-m", *program], capture_output=True, text=True,
                          check=True)
    assert "highest" in done.stdout


def test_stubborn_clients_do_not_wait_while_a_server_is_up(gpen: Start, servers: Serve) -> None:
    """A choice is made once, also with hold: it takes no turns from others, ten times a second."""
    places = [servers(naming(name)) for name in "abc"]
    balancer = gpen("-r", "-s", "-O", "hold 20", servers=[f"{places[0].address}:1", *places[1:]])
    with balancer.connect() as kept:
        assert kept.recv(1) == b"a"
        assert [balancer.ask() for _ in range(5)] == [b"b", b"c", b"", b"b", b"c"]
    balancer.ctl("server 0 state drain", "server 1 state drain", "server 2 state drain")
    with balancer.connect() as waiting:
        wait_until(lambda: [row["state"] for row in balancer.json("sessions")] == ["held"])
        balancer.ctl("server 2 state ready")
        assert waiting.recv(1) == b"c"
