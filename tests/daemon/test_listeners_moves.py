"""Listeners that change places: with each other, from one to the other, and to where another one is in their way."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from tests.datagrams import DatagramServer, client
from tests.datagrams import echo as datagram_echo
from tests.harness import Gpen, Server, echo, naming, wait_until
from tests.listeners import address, names_of, own, place, told, visit
from tests.servers import free_port

Start = Callable[..., Gpen]
Serve = Callable[..., Server]


def changed(balancer: Gpen, *lines: str) -> str:
    """The reply to a change of all these at once."""
    file = balancer.directory / "more.cfg"
    file.write_text("".join(f"{line}\n" for line in lines))
    return balancer.ctl(f"include {file}")


def test_two_change_places(gpen: Start, servers: Serve) -> None:
    """In one change, which keeps the sessions of both; nobody who comes meanwhile is refused."""
    one, two = (f"127.0.0.1:{free_port()}" for _ in range(2))
    balancer = gpen(*own("a", "servers 0", at=one), *own("b", "servers 1", at=two),
                    servers=[servers(naming(name)) for name in "xy"])
    before = balancer.fds()
    with visit(balancer, "a") as first, visit(balancer, "b") as second:
        assert (first.recv(1), second.recv(1)) == (b"x", b"y")
        assert changed(balancer, f"listener a listen {two}", f"listener b listen {one}") == ""
        assert (address(balancer, "a"), address(balancer, "b")) == (two, one)
        assert (told(balancer, "a", 2), told(balancer, "b", 2)) == ("xx", "yy")
        for sock in (first, second):
            sock.sendall(b"z")
            assert sock.recv(1) == b"z"
    wait_until(lambda: balancer.fds() == before)


def test_one_takes_the_place_of_another(gpen: Start, servers: Serve) -> None:
    """That goes in the same change, or loses its place to the one without a name."""
    place_of_a = f"127.0.0.1:{free_port()}"
    balancer = gpen("-r", *own("a", at=place_of_a), servers=[servers(naming(name)) for name in "xy"])
    before = balancer.fds()
    assert changed(balancer, "no listener a", f"listener c listen {place_of_a}", "listener c servers 1") == ""
    assert (names_of(balancer), told(balancer, "c", 2)) == ([None, "c"], "yy")
    front = address(balancer, "-")
    assert changed(balancer, f"listen {place_of_a}", f"listener c listen {front}") == ""
    assert (told(balancer, "-", 2), told(balancer, "c", 2)) == ("xy", "yy")
    assert (address(balancer, "-"), address(balancer, "c")) == (place_of_a, front)
    wait_until(lambda: balancer.fds() == before)


def test_where_another_one_is(gpen: Start, servers: Serve, tmp_path: Path) -> None:
    """By whatever notation it is there: it keeps its place, and answers."""
    port, path = free_port(), tmp_path / "a.sock"
    balancer = gpen(*own("a", at=f"127.0.0.1:{port}"), *own("u", at=str(path)), *own("w"),
                    servers=[servers(naming("x"))])
    before = balancer.fds(), place(balancer, "w")
    for taken in (f"127.0.0.1:{port}", f"localhost:{port}", f"0.0.0.0:{port}", f"{port}", str(path),
                  f"{tmp_path}/./a.sock"):
        for name in ("w", "new"):
            reply = balancer.ctl(f"listener {name} listen {taken}")
            assert reply.startswith(f"error: listener {name}: ") and reply.count("\n") == 1, reply
    wait_until(lambda: balancer.fds() == before[0])  # a file is tried by a connect
    assert (place(balancer, "w"), path.exists()) == (before[1], True)
    assert "".join(told(balancer, name, 1) for name in ("a", "u", "w")) == "xxx"
    balancer.ctl("no listener a")
    assert balancer.ctl(f"listener w listen 0.0.0.0:{port}") == f"0.0.0.0:{port}\n"
    assert balancer.ctl(f"listener w listen 127.0.0.1:{port}") == f"127.0.0.1:{port}\n"
    assert told(balancer, "w", 1) == "x"


def test_a_unix_socket_has_its_file_as_long_as_it_listens(gpen: Start, servers: Serve, tmp_path: Path) -> None:
    """Also where two change places, and where one takes the place of another that goes."""
    one, two = tmp_path / "one", tmp_path / "two"
    balancer = gpen(*own("a", "servers 0", at=str(one)), *own("b", "servers 1", at=str(two)),
                    servers=[servers(naming(name)) for name in "xy"])
    assert changed(balancer, f"listener a listen {two}", f"listener b listen {one}") == ""
    assert (told(balancer, "a", 1), told(balancer, "b", 1)) == ("x", "y") and one.exists() and two.exists()
    assert changed(balancer, "no listener a", f"listener b listen {two}") == ""
    assert told(balancer, "b", 1) == "y" and two.exists() and not one.exists()
    balancer.ctl("no listener b")
    assert not two.exists()


def test_flows_stay_when_listeners_change_places(gpen: Start) -> None:
    """Each goes on with the server that it has, and replies come from where the client asked."""
    one, two = (f"127.0.0.1:{free_port()}" for _ in range(2))
    with DatagramServer(datagram_echo) as server, ExitStack() as stack:
        balancer = gpen("-U", *own("a", at=one), *own("b", at=two), servers=[server.address])
        socks = [stack.enter_context(client(("127.0.0.1", int(where.rpartition(":")[2])))) for where in (one, two)]
        for sock in socks:
            sock.send(b"before")
            assert sock.recv(9) == b"before"
        assert changed(balancer, f"listener a listen {two}", f"listener b listen {one}") == ""
        for sock in socks:
            sock.send(b"behind")
            assert sock.recv(9) == b"behind"
        assert {row["listener"] for row in balancer.json("sessions")} == {"a", "b"}
        balancer.ctl("udp_timeout 0.1")
        balancer.wait_idle()


def test_a_listener_that_moves_all_the_time(gpen: Start, servers: Serve, tmp_path: Path) -> None:
    balancer = gpen(*own("w"), servers=[servers(echo)])
    port = free_port()
    before, sessions = balancer.fds(), []
    for where in (f"127.0.0.1:{port}", f"0.0.0.0:{port}", f"{tmp_path}/w.sock", f"[::]:{port}", f"localhost:{port}",
                  f"{tmp_path}/./w.sock", f"127.0.0.1:{port}"):
        assert balancer.ctl(f"listener w listen {where}") == f"{where}\n"
        sessions.append(visit(balancer, "w"))
        for sock in sessions:
            sock.sendall(b"x")
            assert sock.recv(1) == b"x"
    assert not (tmp_path / "w.sock").exists()
    for sock in sessions:
        sock.close()
    wait_until(lambda: balancer.fds() == before)
