"""The same traffic through pen and through gpen: who gets which server.

pen needs ``poll`` here: with epoll, its default, pen 0.34.1 does not notice that a connect was refused. gpen accepts
the word, and does what it always does. pen's round robin starts at server 1, so what is compared is the order.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.harness import Server, naming, wait_until
from tests.pen.balancers import GPEN, Balancer, needs_pen
from tests.pen.conftest import Start

pytestmark = needs_pen

Farm = dict[str, Server]
CLIENTS = [f"127.0.0.{i}" for i in range(2, 8)]
POLL = ("-O", "poll")


def gone(farm: Farm, names: str) -> None:
    for name in names:
        farm[name].close()


def places(farm: Farm, *options: str) -> list[str]:
    """The servers A, B... each with these fields behind its port."""
    return [farm[name].address + more for name, more in zip("ABC", options, strict=False)]


def test_a_client_stays_with_its_server(start: Start) -> None:
    balancer = start()
    first = {client: balancer.name(client) for client in CLIENTS}
    assert sorted(first.values()) == ["A"] * 3 + ["B"] * 3, "new ones by turns"
    for client in CLIENTS:
        assert balancer.names(3, client) == first[client] * 3


def test_roundrobin_does_not_look(start: Start, farm: Farm) -> None:
    balancer = start("-r", servers=places(farm, "", "", ""))
    names = balancer.names(9)
    assert names in "ABCABCABCAB"
    assert names[0] == "A" or balancer.kind != GPEN


def test_switched_at_runtime(start: Start) -> None:
    balancer = start()
    assert len(set(balancer.names(4))) == 1
    balancer.ask("roundrobin")
    assert balancer.names(4) in ("ABAB", "BABA")
    balancer.ask("no roundrobin")
    assert len(set(balancer.names(4))) == 1


def test_weight(start: Start, farm: Farm) -> None:
    balancer = start("-r", "-W", servers=places(farm, ":0:0:1", ":0:0:3"))
    assert balancer.spread(8) == {"A": 2, "B": 6}


def test_prio_and_max(start: Start, farm: Farm) -> None:
    balancer = start("-r", "-O", "prio", servers=places(farm, ":0:0:1:2", ":2:0:1:1"))
    for _ in range(4):
        assert balancer.name() == "B"
        wait_until(lambda: not any(balancer.sessions()), what="the end of the session, which counts until it is seen")
    assert balancer.spread(4) == {"A": 2, "B": 2}


def test_hash_is_the_clients_own(start: Start, farm: Farm) -> None:
    balancer = start("-h", servers=places(farm, "", "", ""))
    first = {client: balancer.name(client) for client in CLIENTS}
    assert first == {client: balancer.name(client) for client in CLIENTS}
    assert len(set(first.values())) > 1


def test_hard_is_for_a_client_that_returns(start: Start, farm: Farm) -> None:
    balancer = start(servers=places(farm, ":1:3"))
    with ExitStack() as stack:
        for _ in range(3):
            sock, name = balancer.open()
            stack.callback(sock.close)
            assert name == "A"
        assert balancer.name() == "", "hard is reached"
        assert balancer.name("127.0.0.2") == "", "a new one gets no more than max"


# --- failover -------------------------------------------------------------------------------------------------------


def test_failover_when_a_server_ends(start: Start, farm: Farm) -> None:
    balancer = start(*POLL)
    first = balancer.name()
    gone(farm, first)
    other = "AB".replace(first, "")
    assert balancer.names(3) == other * 3
    assert balancer.names(3, "127.0.0.2") == other * 3


def test_stubborn_does_not_fail_over(start: Start, farm: Farm) -> None:
    balancer = start(*POLL, "-s")
    first = balancer.name()
    gone(farm, first)
    assert balancer.names(3) == ""
    assert balancer.names(3, "127.0.0.2") == "AB".replace(first, "") * 3


def test_clients_that_return_take_nobodys_turn(start: Start, farm: Farm) -> None:
    balancer, returning = start(servers=places(farm, "", "", "")), "127.0.0.9"
    its = balancer.name(returning)
    new = ""
    for i in range(9):
        assert balancer.name(returning) == its
        new += balancer.name(f"127.0.1.{i + 1}")
    assert new in "ABCABCABCABC"


def test_stubborn_gives_a_full_server_its_turn(start: Start, farm: Farm) -> None:
    """pen forgets a session of a server with each client that it turns away, so what comes later differs."""
    balancer = start("-r", "-s", servers=places(farm, ":1", ""))
    with ExitStack() as stack:
        names = ""
        for _ in range(4):
            sock, name = balancer.open()
            stack.callback(sock.close)
            names += name or "-"
    assert names == ("AB-B" if balancer.kind == GPEN else "BAB-")


@pytest.mark.parametrize("rule", ["roundrobin", "prio", "weight"])
def test_stubborn_passes_over_what_is_blacklisted_but_not_what_denies(start: Start, farm: Farm, rule: str) -> None:
    balancer = start("-r", "-s", "-O", rule, "-O", "acl 1 deny 127.0.0.1",
                     servers=places(farm, ":0:0:9:1", ":0:0:2:2", ":0:0:1:3"))
    balancer.ask("server 0 blacklist 600")
    assert "A" not in (names := balancer.names(3)) and len(names) == 3
    balancer.ask("server 0 blacklist 0")
    balancer.ask("server 0 acl 1")
    assert len(balancer.names(3)) == (2 if rule == "roundrobin" else 0)


@pytest.mark.parametrize("emptying", ["address 0.0.0.0 port 0", "address 0 port 0 max 0 weight 0 prio 0", "port 0",
                                      "address 0.0.0.0 port 80", "address 0x0 port 0", "address 127.0.0.1 port 0"])
def test_a_slot_is_emptied(start: Start, farm: Farm, emptying: str) -> None:
    balancer = start("-r", servers=places(farm, ":0:0:1", ":0:0:1"))
    with ExitStack() as stack:
        for _ in range(2):
            stack.callback(balancer.open()[0].close)
        assert balancer.ask(f"server 1 {emptying}") == ""
        assert balancer.names(4) == "AAAA"
        assert f" port {80 if '80' in emptying else 0} conn 1 " in balancer.ask("servers").splitlines()[1]
        assert balancer.ask(f"server 1 address 127.0.0.1 port {farm['C'].port}") == ""
        assert set(balancer.names(4)) == {"A", "C"}


def test_a_server_that_comes_back(start: Start, farm: Farm) -> None:
    balancer = start(*POLL, "-r")
    gone(farm, "B")
    assert set(balancer.names(4)) == {"A"}
    with Server(naming("B"), port=farm["B"].port):
        assert set(balancer.names(4)) == {"A"}, "it is blacklisted"
        balancer.ask("server 1 blacklist 0")
        assert set(balancer.names(4)) == {"A", "B"}


def test_a_short_blacklist_ends(start: Start, farm: Farm) -> None:
    balancer = start(*POLL, "-r", "-b", "1")
    gone(farm, "B")
    assert set(balancer.names(4)) == {"A"}
    with Server(naming("B"), port=farm["B"].port):
        wait_until(lambda: "B" in balancer.names(2), what="the end of the blacklist")


def test_nobody_is_left(start: Start, farm: Farm) -> None:
    balancer = start(*POLL, "-r")
    gone(farm, "AB")
    assert balancer.names(4) == ""


def test_the_emergency_server(start: Start, farm: Farm) -> None:
    balancer = start(*POLL, "-e", farm["E"].address)
    assert balancer.name() in "AB"
    gone(farm, "AB")
    assert balancer.names(3, "127.0.0.2") == "EEE" and balancer.names(3) == "EEE"


def test_the_emergency_server_when_all_are_full(start: Start, farm: Farm) -> None:
    balancer = start("-r", "-e", farm["E"].address, servers=places(farm, ":1", ":2"))
    assert balancer.spread(5) == {"A": 1, "B": 2, "E": 2}


# --- access lists ----------------------------------------------------------------------------------------------------


def test_the_abuse_server(start: Start, farm: Farm) -> None:
    balancer = start("-B", farm["E"].address, "-O", "acl 1 deny 127.0.0.2", "-O", "client_acl 1")
    assert balancer.names(2, "127.0.0.2") == "EE"
    assert balancer.name("127.0.0.3") in "AB"


def test_denied_without_an_abuse_server(start: Start) -> None:
    balancer = start("-O", "acl 1 permit 127.0.0.0 255.255.255.254", "-O", "client_acl 1")
    assert balancer.name("127.0.0.2") == ""
    assert balancer.name("127.0.0.1") in "AB"
    balancer.ask("acl 1 permit 127.0.0.2")
    assert balancer.name("127.0.0.2") in "AB"
    balancer.ask("no acl 1")
    assert balancer.name("127.0.0.3") in "AB"


def test_the_access_list_of_a_server(start: Start) -> None:
    balancer = start("-r", "-O", "acl 1 permit 127.0.0.2", "-O", "server 0 acl 1")
    assert set(balancer.names(4, "127.0.0.2")) == {"A", "B"}
    assert set(balancer.names(4, "127.0.0.3")) == {"B"}


# --- servers, changed at runtime -------------------------------------------------------------------------------------


def blacklisted(balancer: Balancer, farm: Farm) -> None:
    balancer.ask("server 0 blacklist 60")
    assert balancer.names(4) == "BBBB"
    balancer.ask("server 0 blacklist 0")
    assert set(balancer.names(4)) == {"A", "B"}


def moved(balancer: Balancer, farm: Farm) -> None:
    balancer.ask(f"server 1 port {farm['C'].port}")
    assert set(balancer.names(4)) == {"A", "C"}
    balancer.ask(f"server 0 address 127.0.0.1 port {farm['B'].port}")
    assert set(balancer.names(4)) == {"B", "C"}


def limited(balancer: Balancer, farm: Farm) -> None:
    balancer.ask("server 0 max 1")
    assert balancer.spread(6) == {"A": 1, "B": 5}
    balancer.ask("server 0 max 0")
    assert balancer.spread(6) == {"A": 3, "B": 3}


def joined(balancer: Balancer, farm: Farm) -> None:
    balancer.ask(f"server 2 address 127.0.0.1 port {farm['C'].port}")
    assert set(balancer.names(6)) == {"A", "B", "C"}


@pytest.mark.parametrize("change", [blacklisted, moved, limited, joined])
def test_changed_at_runtime(start: Start, farm: Farm, change: Callable[[Balancer, Farm], None]) -> None:
    change(start("-r"), farm)


def test_the_same_file_drives_both(start: Start, farm: Farm, tmp_path: Path) -> None:
    file = tmp_path / "balancer.cfg"
    file.write_text(f"""# the same words for both
roundrobin
no hash
timeout 4
acl 2 deny 127.0.0.9
client_acl 2
server 0 acl 0 address 127.0.0.1 port {farm['C'].port} max 0 hard 0
server 1 acl 0 address 127.0.0.1 port {farm['B'].port} max 0 hard 0
""")
    balancer = start("-F", str(file), servers=[])
    assert set(balancer.names(4)) == {"B", "C"}
    assert balancer.name("127.0.0.9") == "" and balancer.ask("timeout") == "4\n"
