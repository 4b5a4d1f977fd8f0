"""Names that change while gpen runs: by a name server of the test's own, and in a mount namespace."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.datagrams import DatagramServer, ask, tell
from tests.datagrams import naming as named
from tests.harness import (
    Gpen,
    Server,
    SilentServer,
    connect,
    naming,
    needs_root,
    read_all,
    seeing,
    wait_until,
)
from tests.listeners import ask as ask_listener
from tests.listeners import own
from tests.resolver import Resolver

Start = Callable[..., Gpen]
Serve = Callable[..., Server]

pytestmark = needs_root

OLD, NEW = "127.0.0.71", "127.0.0.72"


@pytest.fixture
def resolver(tmp_path: Path) -> Iterator[Resolver]:
    """A name server that knows web.test at OLD."""
    its = Resolver(tmp_path, {"web.test": [OLD]})
    yield its
    its.close()


def events(balancer: Gpen, number: int = 0) -> list[str]:
    """What happened to a server since it was added."""
    return [row["event"] for row in balancer.json("events 1000") if row["server"] == number][1:]


def address(balancer: Gpen, number: int = 0) -> str:
    """The address of a server that is tried first."""
    host: str = balancer.server(number)["address"]
    return host


# --- by itself, and when a server is not well -------------------------------------------------------------------------


def test_by_itself(gpen: Start, servers: Serve, resolver: Resolver) -> None:
    """Every name_refresh seconds; sessions at the old address go on, and the server there was well."""
    old = servers(naming("old"), at=OLD)
    servers(naming("new"), at=NEW, port=old.port)
    balancer = gpen("-r", "-O", "name_refresh 1", "-l", "gpen.log", servers=[f"web.test:{old.port}"],
                    wrapper=seeing(resolver.mounts))
    with balancer.connect() as session:
        assert session.recv(3) == b"old"
        resolver.names["web.test"] = [NEW]
        wait_until(lambda: address(balancer) == NEW)
        assert balancer.ask() == b"new"
        session.sendall(b"still there")
        assert session.recv(20) == b"still there"
    cause = balancer.json("events")[-1]["cause"]
    assert events(balancer) == ["moved"]
    assert cause == f"from {OLD}:{old.port} to {NEW}:{old.port}: 'web.test' was looked up again"
    assert f"server 0: 'web.test' is {NEW} now" in balancer.stderr
    wait_until(lambda: balancer.log.count("\n") == 2)
    assert sorted(line.split()[4] for line in balancer.log.splitlines()) == [f"{OLD}:{old.port}", f"{NEW}:{old.port}"]


def test_never_by_itself(gpen: Start, servers: Serve, resolver: Resolver) -> None:
    balancer = gpen("-O", "name_refresh 0", servers=[f"web.test:{servers(naming('old'), at=OLD).port}"],
                    wrapper=seeing(resolver.mounts))
    asked = resolver.asked["web.test"]
    time.sleep(3)  # there is nothing to wait for
    assert resolver.asked["web.test"] == asked
    balancer.ctl("name_refresh 1")
    wait_until(lambda: resolver.asked["web.test"] > asked)


def test_a_server_stops_and_its_name_moves(gpen: Start, servers: Serve, resolver: Resolver) -> None:
    """With nothing but a check to notice it, and name_refresh at its default."""
    with Server(naming("old"), at=OLD) as old:
        balancer = gpen("-r", "-O", "check connect", servers=[f"web.test:{old.port}"], wrapper=seeing(resolver.mounts))
        wait_until(lambda: balancer.server(0)["verdict"] == "up")
    wait_until(lambda: balancer.server(0)["verdict"] == "down")
    servers(naming("new"), at=NEW, port=old.port)
    resolver.names["web.test"] = [NEW]
    start = time.monotonic()
    wait_until(lambda: balancer.server(0)["verdict"] == "up")
    assert time.monotonic() - start < 8
    assert balancer.ask() == b"new"


def test_whatever_says_that_a_server_is_not_well(gpen: Start, servers: Serve, resolver: Resolver) -> None:
    told = ("connect", "check", "verdict", "blacklist", "hup")
    resolver.names |= {f"{name}.test": [OLD] for name in told}
    with Server(naming("old"), at=OLD) as old:
        balancer = gpen("-r", "-O", "name_refresh 0", servers=[f"{name}.test:{old.port}" for name in told],
                        wrapper=seeing(resolver.mounts))
    asked = Counter(resolver.asked)
    resolver.names |= {f"{name}.test": [NEW] for name in told}
    servers(naming("new"), at=NEW, port=old.port)
    balancer.ctl("server 1 check connect", "server 2 health down", "server 3 blacklist 60",
                 *(f"server {number} state drain" for number in (1, 2, 3, 4)))
    balancer.ask()
    wait_until(lambda: [address(balancer, number) for number in range(4)] == [NEW] * 4)
    assert address(balancer, 4) == OLD
    assert {resolver.asked[f"{name}.test"] - asked[f"{name}.test"] for name in told[:4]} == {1}
    balancer.signal(signal.SIGHUP)
    wait_until(lambda: address(balancer, 4) == NEW)
    assert resolver.asked["connect.test"] - asked["connect.test"] == 1, "that was a moment ago"


def test_not_for_each_client(gpen: Start, resolver: Resolver) -> None:
    """At most once in five seconds for a name, however many fail."""
    with Server(naming("old"), at=OLD) as old:
        balancer = gpen("-b", "0", "-O", "name_refresh 0", servers=[f"web.test:{old.port}"],
                        wrapper=seeing(resolver.mounts))
    asked, start = resolver.asked["web.test"], time.monotonic()
    for _ in range(50):
        assert balancer.ask() == b""
    wait_until(lambda: resolver.asked["web.test"] > asked)
    assert resolver.asked["web.test"] - asked <= 1 + (time.monotonic() - start) // 5


def test_an_idler_ends(gpen: Start, servers: Serve, resolver: Resolver) -> None:
    with Server(naming("old"), at=OLD) as old:
        balancer = gpen("-O", "name_refresh 0", "-O", "idlers 1", servers=[f"web.test:{old.port}"],
                        wrapper=seeing(resolver.mounts))
        wait_until(lambda: balancer.ctl("idlers") == "Idlers: 1/1\n")
        servers(naming("new"), at=NEW, port=old.port)
        resolver.names["web.test"] = [NEW]
    wait_until(lambda: address(balancer) == NEW)


def test_one_lookup_for_all_of_a_name(gpen: Start, resolver: Resolver) -> None:
    balancer = gpen("-e", "web.test:9", "-O", "name_refresh 1", servers=[f"web.test:{port}" for port in (7, 8, 9)],
                    wrapper=seeing(resolver.mounts))
    assert resolver.asked["web.test"] == 1
    resolver.names["web.test"] = [NEW]
    wait_until(lambda: [address(balancer, number) for number in range(3)] == [NEW] * 3)
    assert [balancer.server(number)["port"] for number in range(3)] == [7, 8, 9]
    assert balancer.json("servers")[-1]["address"] == NEW
    wait_until(lambda: "server 0, 1, 2, emergency: 'web.test' is" in balancer.stderr)
    assert balancer.stderr.count("is 127.0.0.72 now") == 1


def test_an_order_that_rotates(gpen: Start, servers: Serve, resolver: Resolver) -> None:
    """As name servers give it, to spread clients."""
    resolver.names["web.test"] = [OLD, NEW]
    old = servers(naming("old"), at=OLD)
    servers(naming("new"), at=NEW, port=old.port)
    balancer = gpen("-r", "-O", "name_refresh 1", servers=[f"web.test:{old.port}"], wrapper=seeing(resolver.mounts))
    used = balancer.ask()
    for _ in range(3):
        resolver.names["web.test"] = [NEW, OLD] if resolver.names["web.test"] == [OLD, NEW] else [OLD, NEW]
        resolver.wait_asked("web.test")
        assert balancer.ask() == used
    assert (events(balancer), "web.test" in balancer.stderr) == ([], False)


# --- what was known of the old address --------------------------------------------------------------------------------


def test_a_refusal_is_forgotten(gpen: Start, servers: Serve, resolver: Resolver) -> None:
    with Server(naming("old"), at=OLD) as old:
        pass
    servers(naming("new"), at=NEW, port=old.port)
    balancer = gpen("-b", "600", servers=[f"web.test:{old.port}"], wrapper=seeing(resolver.mounts))
    resolver.names["web.test"] = [NEW]
    assert balancer.ask() == b""
    wait_until(lambda: address(balancer) == NEW)
    assert balancer.server(0)["health"] == "up"
    assert balancer.ask() == b"new"
    assert events(balancer) == ["down", "moved"]


def test_a_client_that_is_held_gets_the_new_address(gpen: Start, servers: Serve, resolver: Resolver) -> None:
    with Server(naming("old"), at=OLD) as old:
        pass
    servers(naming("new"), at=NEW, port=old.port)
    balancer = gpen("-O", "hold 15", "-b", "600", servers=[f"web.test:{old.port}"], wrapper=seeing(resolver.mounts))
    resolver.names["web.test"] = [NEW]
    start = time.monotonic()
    with balancer.connect() as client:
        assert client.recv(3) == b"new"
    assert time.monotonic() - start < 1, "it was looked up, and the client went there, at once"


def test_a_connect_that_is_under_way(gpen: Start, servers: Serve, resolver: Resolver) -> None:
    """The client does not wait for its end, but gets the new address, which is not blamed."""
    with SilentServer(at=OLD) as silent:
        servers(naming("new"), at=NEW, port=silent.port)
        balancer = gpen("-t", "15", "-O", "name_refresh 1", servers=[f"web.test:{silent.port}"],
                        wrapper=seeing(resolver.mounts))
        with balancer.connect() as client:
            wait_until(lambda: [row["state"] for row in balancer.json("sessions")] == ["connecting"])
            resolver.names["web.test"] = [NEW]
            start = time.monotonic()
            assert client.recv(10) == b"new"
            assert time.monotonic() - start < 5
        assert (balancer.server(0)["failures"], events(balancer)) == (0, ["moved"])
    balancer.wait_idle()


def test_a_check_that_is_under_way(gpen: Start, servers: Serve, resolver: Resolver) -> None:
    """It fails after the name has moved: that is no verdict on the new address."""
    with SilentServer(at=OLD) as silent:
        servers(naming("new"), at=NEW, port=silent.port)
        balancer = gpen("-O", "check connect", "-O", "check_timeout 4", "-O", "check_fall 1", "-O", "name_refresh 1",
                        servers=[f"web.test:{silent.port}"], wrapper=seeing(resolver.mounts))
        resolver.names["web.test"] = [NEW]
        wait_until(lambda: balancer.server(0)["verdict"] is not None)
        assert (balancer.server(0)["verdict"], events(balancer)) == ("up", ["moved"])


def test_a_flow_of_udp_goes_on_where_it_was(gpen: Start, resolver: Resolver) -> None:
    """A new one goes to the new address, which is not held to account for the silence of the old one."""
    with DatagramServer(at=OLD) as old, DatagramServer(named("new"), at=NEW, port=old.port):
        balancer = gpen("-U", "-O", "udp_replies 1", "-O", "udp_timeout 4", "-O", "udp_unanswered 1",
                        "-O", "name_refresh 1", servers=[f"web.test:{old.port}"], wrapper=seeing(resolver.mounts))
        tell(balancer)
        wait_until(lambda: old.received)
        resolver.names["web.test"] = [NEW]
        wait_until(lambda: address(balancer) == NEW)
        assert ask(balancer) == b"new"
        wait_until(lambda: not balancer.json("sessions"))
        assert (balancer.server(0)["health"], balancer.server(0)["failures"]) == ("up", 0)


def test_a_server_of_udp_that_refuses(gpen: Start, resolver: Resolver) -> None:
    with DatagramServer(at=OLD) as old:
        pass
    with DatagramServer(named("new"), at=NEW, port=old.port):
        balancer = gpen("-U", "-b", "600", "-O", "name_refresh 0", servers=[f"web.test:{old.port}"],
                        wrapper=seeing(resolver.mounts))
        resolver.names["web.test"] = [NEW]
        tell(balancer)
        wait_until(lambda: address(balancer) == NEW)
        assert ask(balancer) == b"new"


# --- a name fails the command that brings it, and no other ------------------------------------------------------------


def test_a_dead_resolver_fails_no_other_command(gpen: Start, servers: Serve, resolver: Resolver, tmp_path: Path,
                                                ) -> None:
    known = servers(naming("known"))
    resolver.is_dead = True
    (tmp_path / "gpen.cfg").write_text(f"server 0 address {known.address.partition(':')[0]} port {known.port}\n"
                                       "server 1 address web.test port 80\n")
    balancer = gpen("-t", "1", "-F", str(tmp_path / "gpen.cfg"), wrapper=seeing(resolver.mounts))
    assert "server 1: can't resolve the name 'web.test'" in balancer.stderr
    for line in ("server 0 state drain", "server 1 state drain", "server 1 port 99", "debug 1", "conn_max 9",
                 f"include {tmp_path}/gpen.cfg", "server 1 state ready", "server 0 state ready"):
        assert not balancer.ctl(line).startswith("error"), line
    balancer.signal(signal.SIGHUP)
    wait_until(lambda: f"reload: '{tmp_path}/gpen.cfg': nothing has changed" in balancer.stderr)
    assert balancer.ask() == b"known"
    for line in ("server 2 address web.test port 80", "server 2 address other.test port 80",
                 "server 0 address other.test", "server 1 port nosuch", "emergency other.test:80"):
        assert balancer.ctl(line).startswith("error: "), line
    assert [row["number"] for row in balancer.json("servers")] == [0, 1]
    resolver.is_dead = False
    wait_until(lambda: address(balancer, 1) == OLD)


def test_a_name_that_was_resolved_fails_nothing(gpen: Start, servers: Serve, resolver: Resolver, tmp_path: Path,
                                                ) -> None:
    old = servers(naming("old"), at=OLD)
    (tmp_path / "gpen.cfg").write_text(f"server 0 address web.test port {old.port}\n")
    balancer = gpen("-F", str(tmp_path / "gpen.cfg"), wrapper=seeing(resolver.mounts))
    del resolver.names["web.test"]
    balancer.signal(signal.SIGHUP)
    wait_until(lambda: f"reload: '{tmp_path}/gpen.cfg': nothing has changed" in balancer.stderr)
    assert balancer.ctl("server 0 port 99") == ""
    assert (address(balancer), balancer.server(0)["port"]) == (OLD, 99)
    assert balancer.ctl(f"server 0 port {old.port}") == ""
    assert balancer.ask() == b"old"


# --- what is told -----------------------------------------------------------------------------------------------------


def test_a_failure_is_told_when_it_begins_and_when_it_ends(gpen: Start, servers: Serve, resolver: Resolver) -> None:
    balancer = gpen("-O", "name_refresh 1", servers=[f"web.test:{servers(naming('a'), at=OLD).port}"],
                    wrapper=seeing(resolver.mounts))
    told = ("server 0: can't resolve the name 'web.test': ", "its last known address stays",
            "server 0: the name 'web.test' is resolved again")
    for times in (1, 2):
        resolver.names = {}
        resolver.wait_asked("web.test", 4)
        assert [balancer.stderr.count(words) for words in told] == [times, times, times - 1]
        resolver.names = {"web.test": [OLD]}
        resolver.wait_asked("web.test", 3)
        assert [balancer.stderr.count(words) for words in told] == [times] * 3
    assert balancer.ask() == b"a"
    assert events(balancer) == []


# --- in a chroot ------------------------------------------------------------------------------------------------------


def test_services_in_a_chroot(gpen: Start, servers: Serve, resolver: Resolver, tmp_path: Path) -> None:
    """/etc/services is out of sight, and what it said still counts: for commands, files, lookups, TCP and UDP."""
    old = servers(naming("old"), at=OLD)
    servers(naming("new"), at=NEW, port=old.port)
    services, jail = tmp_path / "services", tmp_path / "jail"
    services.write_text(f"# made up\nfirst {old.port}/tcp\tpremier  # an alias\nonly-udp 99/udp\nhttp 80/tcp www\n")
    (jail / "etc").mkdir(parents=True)
    for path in resolver.mounts.values():
        (jail / "etc" / path.name).write_text(path.read_text())
    (jail / "gpen.cfg").write_text("server 0 address web.test port first\nserver 1 address 127.0.0.1 port premier\n")
    balancer = gpen("-r", "-j", str(jail), "-F", str(jail / "gpen.cfg"), "-O", "name_refresh 1",
                    wrapper=seeing({**resolver.mounts, "/etc/services": services}))
    assert balancer.ctl("server 2 address 127.0.0.1 port www", "server 0 port premier",
                        "server 3 address web.test port http", "log 127.0.0.1:only-udp") == "127.0.0.1:only-udp\n"
    assert [balancer.server(number)["port"] for number in range(4)] == [old.port, old.port, 80, 80]
    assert balancer.ctl("server 4 address 127.0.0.1 port only-udp").startswith("error: server 4: 'only-udp' is not")
    (jail / "gpen.cfg").write_text("server 0 address web.test port first\nserver 5 address 127.0.0.1 port http\n")
    balancer.signal(signal.SIGHUP)
    wait_until(lambda: [row for row in balancer.json("servers") if row["number"] == 5])
    resolver.names["web.test"] = [NEW]
    wait_until(lambda: address(balancer) == NEW)
    assert balancer.server(0)["port"] == old.port


def test_a_chroot_without_files(gpen: Start, servers: Serve, resolver: Resolver, tmp_path: Path) -> None:
    """Nobody can be asked in there: the last known address stays, and that is told once."""
    (tmp_path / "jail").mkdir()
    balancer = gpen("-j", str(tmp_path / "jail"), "-O", "name_refresh 1",
                    servers=[f"web.test:{servers(naming('a'), at=OLD).port}"], wrapper=seeing(resolver.mounts))
    wait_until(lambda: "its last known address stays" in balancer.stderr)
    assert "in the chroot, names need etc/hosts and etc/resolv.conf there" in balancer.stderr
    time.sleep(2.5)  # it is asked again and again
    assert balancer.stderr.count("can't resolve") == 1
    assert balancer.ask() == b"a"


# --- a log elsewhere --------------------------------------------------------------------------------------------------


def test_the_name_of_a_log(gpen: Start, servers: Serve, resolver: Resolver) -> None:
    resolver.names["log.test"] = [OLD]
    with DatagramServer(at=OLD) as old, DatagramServer(at=NEW, port=old.port) as new:
        balancer = gpen("-O", "name_refresh 1", "-l", f"log.test:{old.port}", servers=[servers(naming("a"))],
                        wrapper=seeing(resolver.mounts))
        balancer.ask(b"one")
        wait_until(lambda: old.received)
        resolver.names["log.test"] = [NEW]
        wait_until(lambda: f"log: 'log.test' is {NEW} now" in balancer.stderr)
        balancer.ask(b"two")
        wait_until(lambda: new.received)
        assert b"two" in new.received[0] and len(old.received) == 1


def test_a_log_that_refuses(gpen: Start, servers: Serve, resolver: Resolver) -> None:
    resolver.names["log.test"] = [OLD]
    with DatagramServer(at=OLD) as old:
        pass
    with DatagramServer(at=NEW, port=old.port) as new:
        balancer = gpen("-O", "name_refresh 0", "-l", f"log.test:{old.port}", servers=[servers(naming("a"))],
                        wrapper=seeing(resolver.mounts))
        resolver.names["log.test"] = [NEW]
        wait_until(lambda: balancer.ask(b"x") and new.received)


def test_a_log_whose_name_can_not_be_resolved_at_start(gpen: Start, servers: Serve, resolver: Resolver) -> None:
    """Clients are served, and the log begins when its name is known; a command that brings such a name fails."""
    resolver.is_dead, resolver.names["log.test"] = True, [NEW]
    with DatagramServer(at=NEW) as new:
        balancer = gpen("-t", "1", "-l", f"log.test:{new.port}", servers=[servers(naming("a"))],
                        wrapper=seeing(resolver.mounts))
        assert balancer.ask(b"x") == b"ax"
        assert balancer.ctl("log other.test:99").startswith("error: log: can't resolve the name 'other.test'")
        wait_until(lambda: "log: can't resolve the name 'log.test'" in balancer.stderr)
        resolver.is_dead = False
        wait_until(lambda: balancer.ask(b"x") and new.received)
        assert "log: the name 'log.test' is resolved again" in balancer.stderr


def test_a_log_whose_name_keeps_a_change_waiting(gpen: Start, servers: Serve, tmp_path: Path) -> None:
    """What was opened for the change before is there when it comes in force."""
    its = Resolver(tmp_path, {"log.test": [OLD], "late.test": None}, "timeout:1 attempts:5")
    with closing(its), DatagramServer(at=OLD) as log:
        balancer = gpen("-t", "9", *own("v"), *own("w"), servers=[servers(naming("a"))], wrapper=seeing(its.mounts))
        (tmp_path / "more.cfg").write_text(f"listener v log log.test:{log.port}\nlistener w log late.test:9\n")
        with connect(balancer.control) as control:
            control.sendall(f"include {tmp_path}/more.cfg\n".encode())
            its.wait_asked("late.test", 4)  # the janitor comes each second
            its.names["late.test"] = [NEW]
            assert read_all(control) == b""
        wait_until(lambda: ask_listener(balancer, "v", b"x") and log.received)
        assert "can't log" not in balancer.stderr


# --- many names and no answer -----------------------------------------------------------------------------------------


@pytest.fixture
def half_dead(tmp_path: Path) -> Iterator[Resolver]:
    """A name server that answers for web.test, and never for 200 others, whose threads wait for half a minute."""
    dead = {f"dead{number}.test": None for number in range(200)}
    its = Resolver(tmp_path, {"web.test": [OLD], **dead}, "timeout:15 attempts:2")
    yield its
    its.close()


def test_many_names_without_an_answer(gpen: Start, servers: Serve, half_dead: Resolver) -> None:
    """They don't keep gpen from starting, nor hold up the control socket, clients, commands and other names."""
    old = servers(naming("old"), at=OLD)
    servers(naming("new"), at=NEW, port=old.port)
    dead = [f"dead{number}.test:9" for number in range(200)]
    start = time.monotonic()
    balancer = gpen("-r", "-t", "2", "-O", "name_refresh 1", servers=[f"web.test:{old.port}", *dead],
                    wrapper=seeing(half_dead.mounts))
    assert time.monotonic() - start < 6, "it waits once, not for all of them one after the other"
    assert longest(lambda: balancer.ask() == b"old" and balancer.ctl("mode")) < 0.5
    half_dead.names["more.test"] = [OLD]
    assert longest(lambda: balancer.ctl(f"server 300 address more.test port {old.port}", "no server 300") == "", 1) < 1
    half_dead.names["web.test"] = [NEW]
    start = time.monotonic()
    wait_until(lambda: address(balancer) == NEW)
    assert time.monotonic() - start < 4
    assert balancer.ask() == b"new"


def longest(attempt: Callable[[], object], seconds: float = 8) -> float:
    """The longest time that an attempt takes, which must succeed, while so many seconds pass."""
    deadline, most = time.monotonic() + seconds, 0.0
    while time.monotonic() < deadline:
        start = time.monotonic()
        assert attempt()
        most = max(most, time.monotonic() - start)
    return most


def test_gpen_ends_while_it_waits_for_answers(gpen: Start, half_dead: Resolver) -> None:
    balancer = gpen("-t", "1", servers=["dead1.test:9", "dead2.test:9"], wrapper=seeing(half_dead.mounts))
    half_dead.wait_asked("dead1.test")
    start = time.monotonic()
    assert balancer.stop() == 0
    assert time.monotonic() - start < 2
