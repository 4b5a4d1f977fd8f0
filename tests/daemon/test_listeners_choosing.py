"""Who gets which server at which listener: its rule, turn, memory, servers and limits; verdicts are for all of them."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.harness import Gpen, Server, naming, refusing, wait_until
from tests.listeners import HERE, own, place, row_of, server_of, told, visit

Start = Callable[..., Gpen]
Serve = Callable[..., Server]


@pytest.fixture
def ab(servers: Serve) -> list[Server]:
    return [servers(naming(name)) for name in "ab"]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def stay(stack: ExitStack, balancer: Gpen, name: str) -> tuple[socket.socket, str]:
    """A client that stays, and what it was told first; nothing when it was closed."""
    sock = stack.enter_context(visit(balancer, name))
    return sock, sock.recv(1).decode()


def letters(stack: ExitStack, balancer: Gpen, name: str, count: int) -> str:
    """What so many clients that stay are told; a dot for one that is closed."""
    return "".join(stay(stack, balancer, name)[1] or "." for _ in range(count))


def waits(sock: socket.socket) -> bool:
    """Whether nothing comes within a moment."""
    sock.settimeout(0.2)
    try:
        sock.recv(1)
    except TimeoutError:
        return True
    finally:
        sock.settimeout(20)
    return False


# --- rule, turn, memory -----------------------------------------------------------------------------------------------


def test_a_reader_and_a_writer(gpen: Start, ab: list[Server]) -> None:
    """Of the same servers, each by its own rule; one verdict moves both."""
    balancer = gpen("-r", *own("writer", "prio", "server 0 prio 1"), servers=ab)
    assert "".join(told(balancer, name, 1) for name in ("-", "writer") * 4) == "abbbabbb"
    assert balancer.ctl("server 1 health down because of rain") == ""
    assert (told(balancer, "-", 4), told(balancer, "writer", 4)) == ("aaaa", "aaaa")
    balancer.ctl("server 1 health up")
    assert (told(balancer, "-", 2), told(balancer, "writer", 2)) == ("ba", "bb")
    assert (row_of(balancer, "-")["rule"], row_of(balancer, "writer")["rule"]) == ("round robin", "prio")


def test_each_remembers_clients_by_itself(gpen: Start, ab: list[Server]) -> None:
    balancer = gpen(*own("w"), servers=ab)
    assert (told(balancer, "-", 1, "127.0.0.2"), told(balancer, "-", 3, "127.0.0.3")) == ("a", "bbb")
    assert (told(balancer, "w", 1, "127.0.0.3"), told(balancer, "w", 3, "127.0.0.2")) == ("a", "bbb")
    assert (told(balancer, "-", 2, "127.0.0.2"), told(balancer, "-", 2, "127.0.0.3")) == ("aa", "bb")
    assert balancer.ctl("listener w client 127.0.0.2 server 0 idle 5") == ""
    assert (told(balancer, "w", 2, "127.0.0.2"), told(balancer, "-", 2, "127.0.0.3")) == ("aa", "bb")
    balancer.ctl("listener w client 127.0.0.9 server 1", "client 127.0.0.9 server 0")
    assert (told(balancer, "w", 2, "127.0.0.9"), told(balancer, "-", 2, "127.0.0.9")) == ("bb", "aa")
    state = balancer.ctl("state")
    assert "listener w client 127.0.0.9 server 1 idle " in state and "\nclient 127.0.0.9 server 0 idle " in f"\n{state}"
    balancer.ctl("listener w no client 127.0.0.9")
    state = balancer.ctl("state")
    assert "listener w client 127.0.0.9" not in state and "client 127.0.0.9 server 0" in state


def test_its_own_tracking(gpen: Start, ab: list[Server]) -> None:
    balancer = gpen(*own("w", "tracking 10"), servers=ab)
    balancer.ctl("listener w client 127.0.0.9 server 1 idle 20", "client 127.0.0.9 server 1 idle 20")
    assert (told(balancer, "w", 1, "127.0.0.9"), told(balancer, "-", 1, "127.0.0.9")) == ("a", "b")


def test_one_memory_for_two(gpen: Start, ab: list[Server]) -> None:
    """As the ports 80 and 443 of a website have it; and one turn."""
    balancer = gpen(*own("443", "tracking_with -"), *own("8443", "tracking_with 443"), servers=ab)
    first = [(name, f"127.0.0.{number}") for number, name in enumerate(("-", "443", "8443", "-", "443"), 2)]
    assert "".join(told(balancer, name, 1, source) for name, source in first) == "ababa"
    for name in ("-", "443", "8443"):
        assert "".join(told(balancer, name, 1, source) for _, source in first) == "ababa"
    assert [row["tracking_with"] for row in balancer.json("listeners")][1:] == ["-", "443"]
    assert balancer.ctl("listener 443 tracking_with") == "-\n"
    balancer.ctl("listener 443 no tracking_with")
    assert balancer.ctl("listener 443 tracking_with") == ""
    balancer.ctl("client 127.0.0.3 server 0", "listener 443 client 127.0.0.3 server 1")
    assert "".join(told(balancer, name, 1, "127.0.0.3") for name in ("-", "443", "8443")) == "abb"


def test_memories_in_a_circle(gpen: Start, ab: list[Server]) -> None:
    balancer = gpen(*own("a"), *own("b", "tracking_with a"), *own("c", "tracking_with b"), servers=ab)
    for line in ("listener a tracking_with c", "listener a tracking_with a", "listener b tracking_with c"):
        assert balancer.ctl(line).startswith("error: listener "), line
    assert balancer.ctl("no listener a").startswith("error: "), "b would have none"
    assert [row["tracking_with"] for row in balancer.json("listeners")] == [None, None, "a", "b"]
    balancer.ctl("listener b tracking_with -")
    assert balancer.ctl("no listener a") == ""


# --- how many ---------------------------------------------------------------------------------------------------------


def test_conn_max_is_of_each_and_conn_max_total_of_all(gpen: Start, ab: list[Server], stack: ExitStack) -> None:
    """The excess waits in the kernel."""
    balancer = gpen("-r", "-O", "conn_max 3", *own("w", "conn_max 1"), servers=ab)
    first, _ = stay(stack, balancer, "w")
    second = stack.enter_context(visit(balancer, "w"))
    assert letters(stack, balancer, "-", 2) == "ab" and waits(second)
    assert [(row["sessions"], row["conn_max"]) for row in balancer.json("listeners")] == [(2, 3), (1, 1)]
    assert balancer.ctl("conn_max_total", "conn_max_total 3", "conn_max_total") == "0\n3\n"
    third = stack.enter_context(visit(balancer, "-"))
    assert waits(third)
    first.close()
    served, _, _ = select.select([second, third], [], [], 20)
    assert len(served) == 1
    (late,) = {second, third} - set(served)
    assert waits(late)
    balancer.ctl("no conn_max_total")
    assert (second.recv(1), third.recv(1)) == (b"b", b"a")


def test_client_max(gpen: Start, ab: list[Server], stack: ExitStack) -> None:
    balancer = gpen("-r", *own("w", "client_max 1"), servers=ab)
    assert letters(stack, balancer, "-", 2) == "ab"
    assert letters(stack, balancer, "w", 3) == "a.."


def test_max_here_and_max_of_the_server(gpen: Start, ab: list[Server], stack: ExitStack) -> None:
    balancer = gpen("-r", *own("w", "server 0 max 1"), servers=ab)
    assert letters(stack, balancer, "-", 4) == "abab"
    assert letters(stack, balancer, "w", 4) == "abbb", "its own sessions count, not those of others"
    assert server_of(balancer, "w", 0)["sessions"] == 1 and balancer.server(0)["sessions"] == 3
    assert (server_of(balancer, "w", 0)["max"], balancer.server(0)["max"]) == (1, 0)
    balancer.ctl("server 0 max 4", "listener w server 0 max 9")
    assert letters(stack, balancer, "-", 2) == "ab", "the fourth at a"
    assert letters(stack, balancer, "-", 2) == "bb", "over all listeners"
    assert letters(stack, balancer, "w", 2) == "bb", "however many may be here"
    balancer.ctl("server 0 max 5", "listener w server 0 max default")
    assert letters(stack, balancer, "w", 3) == "abb"


def test_hold_is_of_each(gpen: Start, ab: list[Server], stack: ExitStack) -> None:
    balancer = gpen("-r", *own("w", "hold 20", "hold_max 1"), servers=ab)
    balancer.ctl("server 0 health down", "server 1 health down")
    waiting = stack.enter_context(visit(balancer, "w"))
    wait_until(lambda: row_of(balancer, "w")["held"] == 1)
    assert row_of(balancer, "-")["held"] == 0
    assert (told(balancer, "-", 1), told(balancer, "w", 1)) == (".", "."), "the one place is taken"
    balancer.ctl("server 1 health up")
    assert waiting.recv(1) == b"b"


def test_who_waits_here_gets_the_place_that_comes_free_there(gpen: Start, servers: Serve, stack: ExitStack) -> None:
    balancer = gpen("-r", *own("w", "hold 20"), servers=[f"{servers(naming('a')).address}:1"])
    first, _ = stay(stack, balancer, "-")
    waiting = stack.enter_context(visit(balancer, "w"))
    wait_until(lambda: row_of(balancer, "w")["held"] == 1)
    first.close()
    assert waiting.recv(1) == b"a"


# --- which servers ----------------------------------------------------------------------------------------------------


def test_some_of_the_servers(gpen: Start, servers: Serve) -> None:
    balancer = gpen("-r", *own("w", "servers 0,2-3"), servers=[servers(naming(name)) for name in "abcd"])
    assert (told(balancer, "w", 6), told(balancer, "-", 4)) == ("acdacd", "abcd")
    assert [row["servers"] for row in balancer.json("listeners")] == [None, [0, 2, 3]]
    assert [row["number"] for row in balancer.json("listener w servers")] == [0, 2, 3]
    balancer.ctl("no server 2", "listener w servers 2")
    assert told(balancer, "w", 1) == "."
    balancer.ctl("listener w servers all")
    assert set(told(balancer, "w", 3)) == set("abd")
    assert row_of(balancer, "w")["servers"] is None


def test_what_is_different_of_a_server_here(gpen: Start, servers: Serve, ab: list[Server]) -> None:
    x = servers(naming("x"))
    balancer = gpen("-r", *own("w", f"server 0 port {x.port}"), *own("v", "weight", "server 0 weight 0"), servers=ab)
    assert (told(balancer, "-", 4), told(balancer, "w", 4), told(balancer, "v", 4)) == ("abab", "xbxb", "bbbb")
    row = server_of(balancer, "w", 0)
    assert (row["port"], balancer.server(0)["port"]) == (x.port, ab[0].port)
    assert (server_of(balancer, "v", 0)["weight"], balancer.server(0)["weight"]) == (0, 1)
    balancer.ctl("listener v no weight", "listener v prio", "listener v server 1 prio 9", "listener v server 0 prio 5",
                 "server 1 prio 7", "server 0 prio 6")
    assert told(balancer, "v", 2) == "aa"
    balancer.ctl("listener v server 1 prio 4 weight 3")
    assert told(balancer, "v", 2) == "bb"
    balancer.ctl("listener v server 1 prio default")
    row = server_of(balancer, "v", 1)
    assert (row["prio"], row["weight"], told(balancer, "v", 2)) == (7, 3, "aa")
    balancer.ctl("listener w inherit server 0", "listener v inherit server 1")
    assert (server_of(balancer, "v", 1)["weight"], told(balancer, "w", 4)) == (1, "abab")


def test_a_server_that_is_deleted_takes_what_was_different_with_it(gpen: Start, ab: list[Server]) -> None:
    balancer = gpen("-r", *own("w", "server 0 max 3 weight 5"), servers=ab)
    address = ab[0].address
    balancer.ctl("no server 0", f"server 0 address {address}")
    row = server_of(balancer, "w", 0)
    assert (row["max"], row["weight"]) == (0, 1)


def test_special_servers_and_access_lists(gpen: Start, ab: list[Server], servers: Serve) -> None:
    e, f, abuse = (servers(naming(name)) for name in "efx")
    balancer = gpen("-r", "-e", e.address, "-O", "acl 1 deny 127.0.0.5",
                    *own("w", f"emergency {f.address}", "client_acl 1", f"abuse {abuse.address}"),
                    *own("v", "no emergency", "client_acl 1"), servers=ab)
    assert [told(balancer, name, 1, "127.0.0.5") for name in ("-", "w", "v")] == ["a", "x", "."]
    assert [told(balancer, name, 1, "127.0.0.6") for name in ("w", "v")] == ["a", "a"]
    balancer.ctl("server 0 health down", "server 1 health down")
    assert [told(balancer, name, 1, "127.0.0.6") for name in ("-", "w", "v")] == ["e", "f", "."]
    balancer.ctl("listener v inherit emergency")
    assert told(balancer, "v", 1, "127.0.0.6") == "e"
    balancer.ctl("listener w inherit emergency", "no emergency")
    assert [told(balancer, name, 1, "127.0.0.6") for name in ("-", "w", "v")] == [".", ".", "."]


# --- what is found of a server ----------------------------------------------------------------------------------------


def test_a_failed_connect_is_of_its_port(gpen: Start, ab: list[Server]) -> None:
    """At another port the server is well; where the port is the same, one has found it for both."""
    with refusing() as address:
        dead = address.rpartition(":")[2]
        balancer = gpen("-r", *own("w", f"server 0 port {dead}"), *own("v"), servers=ab)
        assert told(balancer, "w", 4) == "bbbb"
        assert (server_of(balancer, "w", 0)["health"], server_of(balancer, "w", 0)["reason"]) == (
            "down", "connection refused")
        assert (balancer.server(0)["health"], server_of(balancer, "v", 0)["health"]) == ("up", "up")
        assert told(balancer, "-", 4) == "abab"
        ab[0].close()
        assert (told(balancer, "-", 2), told(balancer, "v", 2)) == ("bb", "bb")
        assert server_of(balancer, "v", 0)["reason"] == "connection refused"
        balancer.ctl(f"listener w server 0 port {ab[1].port}")
        assert told(balancer, "w", 4) == "bbbb" and server_of(balancer, "w", 0)["health"] == "up"


def test_what_a_command_says_is_for_all(gpen: Start, ab: list[Server], servers: Serve) -> None:
    other = servers(naming("x"))
    balancer = gpen("-r", *own("w", f"server 0 port {other.port}"), servers=ab)
    for line, back in (("state drain", "state ready"), ("state maint", "state ready"), ("blacklist 60", "blacklist 0"),
                       ("health drain", "health up")):
        balancer.ctl(f"server 0 {line}")
        assert (told(balancer, "-", 2), told(balancer, "w", 2)) == ("bb", "bb"), line
        balancer.ctl(f"server 0 {back}")
        assert (set(told(balancer, "-", 2)), set(told(balancer, "w", 2))) == (set("ab"), set("xb")), back


def test_a_trial_at_one_listener_is_the_trial_for_all(gpen: Start, ab: list[Server], servers: Serve) -> None:
    balancer = gpen("-r", "-b", "0.3", *own("w"), servers=ab)
    port = ab[0].port
    ab[0].close()
    assert told(balancer, "w", 2) == "bb"
    servers(naming("a"), port=port)
    wait_until(lambda: balancer.server(0)["health"] == "trial")
    wait_until(lambda: "a" in told(balancer, "w", 2))
    assert balancer.server(0)["health"] == "up" and set(told(balancer, "-", 2)) == set("ab")


def test_a_listener_made_at_runtime_knows_what_is_known(gpen: Start, ab: list[Server]) -> None:
    balancer = gpen("-r", servers=ab)
    ab[0].close()
    assert told(balancer, "-", 2) == "bb"
    balancer.ctl(f"listener w listen {HERE}")
    assert told(balancer, "w", 2) == "bb"
    assert balancer.server(0)["failures"] == server_of(balancer, "w", 0)["failures"] == 1
    assert place(balancer, "w") != place(balancer, "-")
