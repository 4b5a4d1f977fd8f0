"""UDP and TCP in one gpen: a port for both, a server that is gone for one of them, and a listener that changes over."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.daemon.test_udp_protocols import needs
from tests.datagrams import DatagramServer, is_silent
from tests.datagrams import ask as ask_by_datagram
from tests.datagrams import client as datagram_client
from tests.datagrams import naming as naming_datagrams
from tests.datagrams import refusing as refusing_datagrams
from tests.harness import Gpen, Server, naming, wait_until
from tests.listeners import own, place, port_of, row_of, server_of, told, visit
from tests.nameserver import name_server
from tests.servers import free_port

Start = Callable[..., Gpen]
Serve = Callable[..., Server]


@pytest.fixture
def datagrams() -> Iterator[Callable[..., DatagramServer]]:
    """Start a server of datagrams that names itself: datagrams("a", port=53)."""
    with ExitStack() as stack:
        yield lambda name, **options: stack.enter_context(DatagramServer(naming_datagrams(name), **options))


def answered(balancer: Gpen, name: str, count: int, source: str = "") -> str:
    """Who answered so many datagrams, each from a port of its own."""
    where = place(balancer, name)
    assert not isinstance(where, str)
    return "".join(ask_by_datagram(where, source=source).decode() for _ in range(count))


def dig(port: int, *question: str) -> str:
    """The answer, without another try."""
    done = subprocess.run(["dig", "+short", "+tries=1", "+time=5", "@127.0.0.1", "-p", str(port), *question],
                          capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0, done.stdout
    return done.stdout.strip()


@needs("nsd", "dig")
def test_a_name_server(gpen: Start, tmp_path: Path) -> None:
    """`53/tcp,53/udp`; and when it dies, what one of them has found does not count for the other."""
    port = free_port()
    with name_server(tmp_path / "two", "two") as two:
        with name_server(tmp_path / "one", "one") as one:
            balancer = gpen("-r", "-O", "udp_replies 1", servers=[f"127.0.0.1:{one}", f"127.0.0.1:{two}"],
                            listen=f"127.0.0.1:{port}/tcp,127.0.0.1:{port}/udp")
            for how in ("+tcp", "+notcp"):
                assert {dig(port, how, "name.gpen.test", "TXT") for _ in range(2)} == {'"one"', '"two"'}
            assert [(row["name"], row["transport"], row["protocol"], row["total"])
                    for row in balancer.json("listeners")] == [(None, "tcp", "TCP", 2), (str(port), "udp", "UDP", 2)]
            assert dig(port, "+bufsize=512", "large.gpen.test", "TXT").count("x") == 3600, "truncated, and asked by TCP"
        assert [dig(port, "+notcp", "name.gpen.test", "TXT") for _ in range(2)] == ['"two"'] * 2
        assert server_of(balancer, str(port), 0)["reason"] == "connection refused"
        assert balancer.server(0)["health"] == "up"
        assert [dig(port, "+tcp", "name.gpen.test", "TXT") for _ in range(2)] == ['"two"'] * 2


def test_a_port_that_is_gone_for_one_of_them(gpen: Start, servers: Serve,
                                             datagrams: Callable[..., DatagramServer]) -> None:
    """TCP that is refused takes no UDP away, nor the other way round."""
    ports = free_port(), free_port()
    both = datagrams("a", port=ports[0]), datagrams("b", port=ports[1])
    streams = servers(naming("a"), port=ports[0]), servers(naming("b"), port=ports[1])
    balancer = gpen("-r", *own("u", "udp"), *own("v", "udp"), servers=[server.address for server in both])
    assert (told(balancer, "-", 4), answered(balancer, "u", 4)) == ("abab", "abab")
    streams[0].close()
    assert (told(balancer, "-", 4), answered(balancer, "u", 4)) == ("bbbb", "abab")
    assert [server_of(balancer, "u", 0)["health"], balancer.server(0)["health"]] == ["up", "down"]
    servers(naming("a"), port=ports[0])
    both[1].close()
    assert (answered(balancer, "u", 4), answered(balancer, "v", 2)) == ("aaaa", "aa")
    assert [server_of(balancer, name, 1)["health"] for name in ("u", "v")] == ["down"] * 2
    assert balancer.server(1)["health"] == "up" and "b" in told(balancer, "-", 2)
    balancer.ctl("server 1 blacklist 0", "server 0 health down")
    assert told(balancer, "-", 2) == "bb", "a verdict is for both"


def test_another_port_there(gpen: Start, datagrams: Callable[..., DatagramServer]) -> None:
    """A port that refuses at one listener says nothing of another port at another."""
    a, b, other = (datagrams(name) for name in "abx")
    with refusing_datagrams() as dead:
        balancer = gpen("-U", "-r", *own("w", f"server 0 port {dead.rpartition(':')[2]}"),
                        *own("v", f"server 0 port {other.port}"), servers=[a.address, b.address])
        assert (answered(balancer, "w", 4), server_of(balancer, "w", 0)["health"]) == ("bbbb", "down")
        assert (answered(balancer, "-", 4), answered(balancer, "v", 4)) == ("abab", "xbxb")


def test_a_listener_changes_over(gpen: Start, servers: Serve, datagrams: Callable[..., DatagramServer]) -> None:
    """From TCP to UDP and back, while its sessions and flows go on."""
    port = free_port()
    servers(naming("t"), port=port)
    server = datagrams("u", port=port)
    where = free_port()
    balancer = gpen(*own("w", at=f"127.0.0.1:{where}"), servers=[server.address])
    with visit(balancer, "w") as session:
        assert session.recv(1) == b"t"
        assert balancer.ctl("listener w udp") == ""
        assert (row_of(balancer, "w")["transport"], port_of(balancer, "w")) == ("udp", where)
        with datagram_client(("127.0.0.1", where)) as flow:
            flow.send(b"x")
            assert flow.recv(9) == b"u"
            session.sendall(b"x")
            assert session.recv(1) == b"x"
            assert told(balancer, "-", 1) == "t"
            assert balancer.ctl("listener w no udp") == ""
            assert (row_of(balancer, "w")["transport"], told(balancer, "w", 2)) == ("tcp", "tt")
    balancer.ctl("udp_timeout 0.1")
    balancer.wait_idle()


def test_all_change_over_but_who_has_a_value_of_its_own(gpen: Start, servers: Serve,
                                                       datagrams: Callable[..., DatagramServer]) -> None:
    port = free_port()
    servers(naming("t"), port=port)
    balancer = gpen(*own("w"), *own("v", "no udp"), servers=[datagrams("u", port=port).address])
    assert balancer.ctl("udp") == ""
    assert [row["transport"] for row in balancer.json("listeners")] == ["udp", "udp", "tcp"]
    assert (answered(balancer, "-", 2), answered(balancer, "w", 2), told(balancer, "v", 1)) == ("uu", "uu", "t")
    balancer.ctl("listener v inherit udp", "no udp")
    assert [told(balancer, name, 1) for name in ("-", "w", "v")] == ["t"] * 3


def test_what_no_datagrams_go_with(gpen: Start, servers: Serve, tmp_path: Path) -> None:
    balancer = gpen(*own("unix", at=str(tmp_path / "front")), *own("g", "greeting 1"), servers=[servers(naming("t"))])
    for line, named in (("listener unix udp", "/front"), ("listener g udp", "greeting"), ("udp", "/front")):
        reply = balancer.ctl(line)
        assert reply.startswith("error: ") and named in reply, reply
    assert [row["transport"] for row in balancer.json("listeners")] == ["tcp", "unix", "tcp"]
    assert [told(balancer, name, 1) for name in ("-", "unix", "g")] == ["t"] * 3


def test_an_address_that_is_taken_for_datagrams(gpen: Start, servers: Serve,
                                                datagrams: Callable[..., DatagramServer]) -> None:
    """By another program, or another listener; the same port is free for TCP."""
    port = free_port()
    servers(naming("t"), port=port)
    taken = datagrams("x")
    balancer = gpen(*own("w", at=taken.address), servers=[datagrams("u", port=port).address])
    reply = balancer.ctl("listener w udp")
    assert reply.startswith("error: ") and taken.address in reply, reply
    assert (row_of(balancer, "w")["transport"], told(balancer, "w", 1)) == ("tcp", "t")
    where = f"127.0.0.1:{free_port()}"
    assert balancer.ctl(f"listener v listen {where}", "listener v udp") == f"{where}\n"
    assert balancer.ctl(f"listener z listen {where}") == f"{where}\n"
    assert (told(balancer, "z", 1), answered(balancer, "v", 1)) == ("t", "u")
    assert balancer.ctl("listener z udp").startswith("error: ")
    assert told(balancer, "z", 1) == "t"


def test_flows_end_with_what_they_came_through(gpen: Start, datagrams: Callable[..., DatagramServer]) -> None:
    """A flow's replies go on when its listener is closed; what the client sends then is for nobody."""
    balancer = gpen("-U", "-l", "gpen.log", "-O", "udp_timeout 0.3", *own("w", "conn_max 1"),
                    servers=[datagrams("a").address])
    with datagram_client(("127.0.0.1", port_of(balancer, "w"))) as first:
        first.send(b"x")
        assert first.recv(9) == b"a"
        assert answered(balancer, "w", 1) == "a", "the first gives way"
        wait_until(lambda: balancer.log.count("evicted") == 1)
        assert " listener w server 0 " in balancer.log
        balancer.ctl("no listener w")
        assert is_silent_or_refused(first)
    balancer.wait_idle()
    assert answered(balancer, "-", 1) == "a"


@pytest.mark.parametrize("before", ["no listener w", "listener w listen 127.0.0.2:0"], ids=["closed", "moved"])
def test_where_one_has_flows_yet_another_can_listen(gpen: Start, datagrams: Callable[..., DatagramServer],
                                                    before: str) -> None:
    """It gets what comes from now on."""
    balancer = gpen("-U", *own("w"), servers=[datagrams("a").address])
    at = balancer.ctl("listener w listen").strip()
    with datagram_client(("127.0.0.1", port_of(balancer, "w"))) as client:
        client.send(b"x")
        assert client.recv(9) == b"a"
        balancer.ctl(before)
        assert balancer.ctl(f"listener v listen {at}") == f"{at}\n"
        assert answered(balancer, "v", 3) == "aaa"
        assert row_of(balancer, "v")["total"] == 3
        client.send(b"x")
        assert client.recv(9) == b"a"


@pytest.mark.parametrize("change", [
    ("no listener w", "listener w udp\nlistener w listen {w}\nlistener w servers 1"),
    ("no listener w", "listener z udp\nlistener z listen {w}\nlistener z servers 1"),
    ("no listener w\nlistener z udp\nlistener z listen {w}\nlistener z servers 1",),
    ("listener w listen 127.0.0.2:0", "listener v listen {w}"), ("listener w listen {v}\nlistener v listen {w}",),
    ("listener w listen {v}\nlistener v listen {w}\nlog /no/such/directory/x",
     "listener w listen {v}\nlistener v listen {w}"),
])
def test_an_address_is_taken_over_while_flows_live(gpen: Start, datagrams: Callable[..., DatagramServer],
                                                   tmp_path: Path, change: tuple[str, ...]) -> None:
    """By another listener, or by one of the same name. The flows go on, and all who are new are the other's."""
    balancer = gpen("-U", "-O", "udp_timeout 2", *own("w", "servers 0", "conn_max 3"), *own("v", "servers 1"),
                    servers=[datagrams("a").address, datagrams("b").address])
    before = balancer.fds()
    with ExitStack() as stack:
        where, other = place(balancer, "w"), place(balancer, "v")
        first, second = (stack.enter_context(datagram_client(at)) for at in (where, other))
        for sock, reply in ((first, b"a"), (second, b"b")):
            sock.send(b"x")
            assert sock.recv(9) == reply
        for lines in change:
            (tmp_path / "more.cfg").write_text(
                lines.format(w=f"127.0.0.1:{where[1]}", v=f"127.0.0.1:{other[1]}") + "\n")
            assert balancer.ctl(f"include {tmp_path}/more.cfg").startswith("error") == ("/no/such" in lines)
        assert "".join(ask_by_datagram(where).decode() for _ in range(20)) == "b" * 20
        for sock, reply in ((first, b"a"), (second, b"b")):
            sock.send(b"x")
            assert sock.recv(9) == reply
    balancer.ctl(*(f"no listener {row['name']}" for row in balancer.json("listeners")[1:]))
    balancer.wait_idle()
    wait_until(lambda: balancer.fds() == before - 2, what="the end of their sockets")


@pytest.mark.parametrize("everywhere", ["", "[::]:"])
def test_one_of_all_addresses_in_the_place_of_another_of_one(gpen: Start, datagrams: Callable[..., DatagramServer],
                                                             everywhere: str) -> None:
    """Its clients are served, though a flow keeps the socket of before; and so they are by the next in its place."""
    balancer = gpen("-U", *own("w"), *own("v"), servers=[datagrams("a").address])
    port = port_of(balancer, "w")
    with datagram_client(("127.0.0.1", port)) as client:
        client.send(b"x")
        assert client.recv(9) == b"a"
        for change, name in (("no listener w", "v"), ("no listener v", "u")):
            (balancer.directory / "change").write_text(f"{change}\nlistener {name} listen {everywhere}{port}\n")
            assert balancer.ctl("include change") == ""
            assert [ask_by_datagram((f"127.0.0.{host}", port)) for host in (1, 2, 1)] == [b"a"] * 3
            assert (row_of(balancer, name)["sessions"], row_of(balancer, name)["total"]) == (3, 3)
        client.send(b"x")
        assert client.recv(9) == b"a"
    balancer.ctl("close server 0")
    balancer.wait_idle()


def test_flows_of_before_and_a_verdict_about_another_place(gpen: Start, servers: Serve,
                                                           datagrams: Callable[..., DatagramServer]) -> None:
    """A listener has changed over, and then its server has moved: what is said of the server does not mean them."""
    balancer = gpen("-U", "-O", "on_down close", servers=[datagrams("a").address])
    where = ("127.0.0.1", port_of(balancer, "-"))
    with datagram_client(where) as flow:
        flow.send(b"x")
        assert flow.recv(9) == b"a"
        wait_until(lambda: [row["state"] for row in balancer.json("sessions")] == ["open"])
        host, port = servers(naming("b")).address.split(":")
        balancer.ctl("no udp", f"server 0 address {host} port {port}")
        assert told(balancer, "-", 1) == "b"
        balancer.ctl("server 0 health down because of rain")
        assert [row["state"] for row in balancer.json("sessions")] == ["open"]
        flow.send(b"x")
        assert flow.recv(9) == b"a"


def is_silent_or_refused(sock: socket.socket) -> bool:
    """Whether who asks once more gets no answer."""
    try:
        sock.send(b"x")
        return is_silent(sock)
    except ConnectionRefusedError:
        return True


def test_a_memory_for_tcp_and_udp(gpen: Start, servers: Serve, datagrams: Callable[..., DatagramServer]) -> None:
    """`tracking_with`, over both transports."""
    ports = free_port(), free_port()
    for name, port in zip("ab", ports, strict=True):
        servers(naming(name), port=port)
        datagrams(name, port=port)
    balancer = gpen(*own("u", "udp", "tracking_with -"), servers=[f"127.0.0.1:{port}" for port in ports])
    assert (told(balancer, "-", 1, "127.0.0.2"), answered(balancer, "u", 1, "127.0.0.3")) == ("a", "b")
    assert (answered(balancer, "u", 2, "127.0.0.2"), told(balancer, "-", 2, "127.0.0.3")) == ("aa", "bb")


def test_a_flow_ends_no_session_of_others(gpen: Start, servers: Serve,
                                          datagrams: Callable[..., DatagramServer]) -> None:
    """Where they have all places, conn_max_total, nobody gives way, and least of all the flow itself that just begins;
    nor does a TCP session of before its listener was one of UDP."""
    port = free_port()
    servers(naming("t"), port=port)
    balancer = gpen(*own("u", "udp"), *own("w", "conn_max 1"), servers=[datagrams("u", port=port).address])
    balancer.ctl("conn_max_total 2")
    with visit(balancer, "-") as first, visit(balancer, "w") as second:
        assert (first.recv(1), second.recv(1)) == (b"t", b"t")
        for name in ("u", "w"):
            with datagram_client(("127.0.0.1", port_of(balancer, name))) as flow:
                flow.send(b"x")
                assert is_silent(flow)
            balancer.ctl("listener w udp", "no conn_max_total")
        for sock in (first, second):
            sock.sendall(b"x")
            assert sock.recv(1) == b"x"
        assert len(balancer.json("sessions")) == balancer.server(0)["sessions"] == 2
    wait_until(lambda: not balancer.json("sessions"))
    assert (answered(balancer, "u", 1), answered(balancer, "w", 1)) == ("u", "u")
    balancer.ctl("udp_timeout 0.1")
    balancer.wait_idle()
