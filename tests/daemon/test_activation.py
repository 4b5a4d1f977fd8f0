"""Sockets that systemd has bound, or who does as it does: from descriptor 3 on, with names (sd_listen_fds(3))."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from gpen.daemon.activation import Passed, passed
from gpen.wire.kernel import IP_PKTINFO
from tests import datagrams
from tests.daemon.test_parent import left
from tests.harness import (
    COMMAND,
    PATIENCE,
    Gpen,
    Server,
    connect,
    family_of,
    free_port,
    naming,
    run_gpen,
    started,
    wait_until,
)

Start = Callable[..., Gpen]
Serve = Callable[..., Server]
Bind = Callable[..., socket.socket]


@pytest.fixture
def bind() -> Iterator[Bind]:
    """A socket as systemd makes it: bound to a host and any port, or to a path; listening, if it is of TCP."""
    with ExitStack() as stack:

        def bound(at: str = "127.0.0.1", kind: int = socket.SOCK_STREAM, port: int = 0) -> socket.socket:
            family = socket.AF_UNIX if "/" in at else family_of(at)
            sock = stack.enter_context(socket.socket(family, kind))
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            sock.bind(at if "/" in at else (at, port))
            if kind == socket.SOCK_STREAM:
                sock.listen(1)
            return sock

        yield bound


def passing(*socks: socket.socket, names: str = "gpen.socket", pid: str = "os.getpid()") -> dict[str, Any]:
    """What starts a command with these sockets as systemd would."""
    fds = [sock.fileno() for sock in socks]
    high = f"[fcntl.fcntl(fd, fcntl.F_DUPFD, 100) for fd in {fds}]"
    return {"fds": fds, "wrapper": left(
        f"for number, fd in enumerate({high}): os.dup2(fd, 3 + number), os.close(fd)\n"
        f"os.environ.update(LISTEN_PID=str({pid}), LISTEN_FDS='{len(socks)}', LISTEN_FDNAMES='{names}')")}


def place(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@pytest.fixture
def server(servers: Serve) -> Server:
    return servers(naming("a"))


# --- what is taken ----------------------------------------------------------------------------------------------------


def test_tcp(gpen: Start, bind: Bind, server: Server) -> None:
    """As one that gpen binds: it does not block, and what it accepts inherits the options of the settings."""
    sock = bind()
    balancer = gpen("-O", "user_timeout 7", "-O", "tcp_nodelay", listen=place(sock), servers=[server], **passing(sock))
    assert [balancer.ask() for _ in range(3)] == [b"a"] * 3
    assert not os.get_blocking(sock.fileno())
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 7000
    assert "was given" not in balancer.stderr


def test_in_the_background(daemonize: Callable[..., int], bind: Bind, server: Server) -> None:
    sock = bind()
    daemonize(place(sock), server.address, **passing(sock))
    with connect(sock.getsockname()) as client:
        assert client.recv(1) == b"a"


def test_the_file_of_a_unix_socket_stays(gpen: Start, bind: Bind, server: Server, tmp_path: Path) -> None:
    """It is not gpen's; also after gpen has left that place, and at its end."""
    path = tmp_path / "s"
    sock = bind(str(path))
    balancer = gpen(listen=f"{tmp_path}/./s", servers=[server], **passing(sock))
    assert balancer.ask() == b"a"
    assert balancer.ctl("listen 127.0.0.1:0").startswith("127.0.0.1:")
    assert balancer.ask() == b"a" and path.exists()
    assert balancer.stop() == 0
    assert path.exists()


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::"])
def test_udp(gpen: Start, bind: Bind, host: str) -> None:
    """One at all addresses answers with that which was asked."""
    sock = bind(host, socket.SOCK_DGRAM)
    with datagrams.DatagramServer(datagrams.naming("a")) as server:
        balancer = gpen("-U", listen=place(sock), servers=[server.address], **passing(sock))
        for asked in ("127.0.0.1",) if host == "127.0.0.1" else ("127.0.0.1", "127.0.0.3"):
            with datagrams.client((asked, sock.getsockname()[1])) as client:  # connected: takes no other's answers
                client.send(b"who?")
                assert client.recv(10).startswith(b"a")
        assert balancer.stop() == 0


def test_who_asks_over_udp_before_gpen_is_there(gpen: Start, bind: Bind) -> None:
    """With PassPacketInfo= the kernel keeps what address was asked."""
    sock = bind("0.0.0.0", socket.SOCK_DGRAM)
    sock.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
    with (datagrams.DatagramServer(datagrams.naming("a")) as server,
          datagrams.client(("127.0.0.3", sock.getsockname()[1])) as client):
        client.send(b"who?")
        balancer = gpen("-U", listen=place(sock), servers=[server.address], **passing(sock))
        assert client.recv(10).startswith(b"a")
        assert balancer.stop() == 0


def test_each_goes_to_the_listener_of_its_name(gpen: Start, bind: Bind, server: Server, tmp_path: Path) -> None:
    web, unnamed, file = bind(), bind(), bind(str(tmp_path / "s"))
    gpen("-O", f"listener web listen {place(web)}", "-O", f"listener file listen {tmp_path}/s",
         listen=place(unnamed), servers=[server], **passing(web, file, unnamed, names="web:file:gpen.socket"))
    for address in (web.getsockname(), unnamed.getsockname(), str(tmp_path / "s")):
        with connect(address) as client:
            assert client.recv(1) == b"a"


def test_those_of_one_unit_go_where_their_addresses_are_wanted(gpen: Start, bind: Bind, server: Server) -> None:
    """systemd gives all of a unit one name; which is wanted where can be seen."""
    one, two, three = bind(), bind(), bind()
    balancer = gpen("-O", f"listener web listen {place(two)}", "-O", "listener free listen 127.0.0.1:0",
                    listen=place(one), servers=[server], **passing(three, two, one, names="u:u:u"))
    for sock in (one, two, three):
        with connect(sock.getsockname()) as client:
            assert client.recv(1) == b"a"
    assert "was given" not in balancer.stderr


def test_a_port_at_all_addresses_as_systemd_binds_it(gpen: Start, bind: Bind, server: Server) -> None:
    sock = bind("::")
    port = sock.getsockname()[1]
    gpen(listen=str(port), servers=[server], **passing(sock))
    for host in ("127.0.0.1", "::1"):
        with connect((host, port)) as client:
            assert client.recv(1) == b"a"


# --- what is not ------------------------------------------------------------------------------------------------------


def test_what_no_listener_wants_is_told_and_closed(gpen: Start, bind: Bind, server: Server) -> None:
    mine, odd, twice = bind(), bind(), bind()
    web = bind()
    balancer = gpen("-O", f"listener web listen {place(web)}", listen=place(mine), servers=[server],
                    **passing(web, mine, odd, twice, names="web:gpen.socket:odd:web"))
    for name, sock in (("odd", odd), ("web", twice)):
        assert f"'{name}' at {place(sock)} (tcp) was given, and no listener is there: closed" in balancer.stderr
    assert balancer.ask() == b"a"
    for sock in (odd, twice):
        address = sock.getsockname()
        sock.close()
        with pytest.raises(ConnectionRefusedError):
            connect(address)


def test_it_is_said_what_does_not_fit(bind: Bind, server: Server, tmp_path: Path) -> None:
    tcp, udp, deaf, path = bind(), bind(kind=socket.SOCK_DGRAM), socket.socket(), bind(str(tmp_path / "s"))
    with deaf:
        deaf.bind(("127.0.0.1", 0))
        for sock, listen, told in ((tcp, "127.0.0.1:1", f"{place(tcp)} (tcp)"),
                                   (udp, place(udp), f"{place(udp)} (udp)"),
                                   (deaf, place(deaf), f"{place(deaf)} (tcp, but not listening)"),
                                   (path, "127.0.0.1:1", f"{tmp_path}/s (tcp)")):
            done = run_gpen("-f", listen, server.address, **passing(sock))
            assert (done.returncode, done.stderr) == (1, (
                f"gpen: can't listen on {listen}: what was given for it is 'gpen.socket' at {told}, and wanted is one "
                f"at {listen} (tcp)\n"))


def test_the_listener_is_named(bind: Bind, server: Server) -> None:
    sock = bind()
    done = run_gpen("-f", "-O", "listener web listen 127.0.0.1:1", "127.0.0.1:0", server.address,
                    **passing(sock, names="web"))
    assert done.returncode == 1
    assert done.stderr == (f"gpen: listener web: can't listen on 127.0.0.1:1: what was given for it is 'web' at "
                           f"{place(sock)} (tcp), and wanted is one at 127.0.0.1:1 (tcp)\n")


def test_what_is_no_socket(gpen: Start, bind: Bind, server: Server, tmp_path: Path) -> None:
    sock = bind()
    with (tmp_path / "file").open("w") as file:
        balancer = gpen(listen=place(sock), servers=[server], **passing(file, sock, names="f:s"))  # type: ignore[arg-type]
    assert balancer.ask() == b"a"
    assert "descriptor 3 ('f'), which was given, is no socket" in balancer.stderr


def test_what_was_passed_to_another_process_is_closed(gpen: Start, bind: Bind, server: Server) -> None:
    sock = bind()
    address = sock.getsockname()
    balancer = gpen(servers=[server], **passing(sock, pid="os.getppid()"))
    assert balancer.ask() == b"a"
    sock.close()
    with pytest.raises(ConnectionRefusedError):
        connect(address)


@pytest.mark.parametrize(("environment", "expected"), [
    ({"LISTEN_FDS": "2", "LISTEN_FDNAMES": "a:b"}, [Passed(3, "a"), Passed(4, "b")]),
    ({"LISTEN_FDS": "2", "LISTEN_FDNAMES": "a"}, [Passed(3, "a"), Passed(4, "unknown")]),
    ({"LISTEN_FDS": "2"}, [Passed(3, "unknown"), Passed(4, "unknown")]),
    ({"LISTEN_FDS": "1", "LISTEN_FDNAMES": "a:b"}, [Passed(3, "a")]),
    ({"LISTEN_FDS": "1", "LISTEN_FDNAMES": ":"}, [Passed(3, "unknown")]),
    ({"LISTEN_FDS": "-1"}, []), ({"LISTEN_FDS": ""}, []), ({"LISTEN_FDS": "9" * 30}, []), ({"LISTEN_FDS": "٣"}, []),
    ({"LISTEN_FDS": "1", "LISTEN_PID": "1"}, []), ({"LISTEN_FDS": "1", "LISTEN_PID": ""}, []),
], ids=str)
def test_the_variables(environment: dict[str, str], expected: list[Passed]) -> None:
    """They are taken away, so that no program of a check takes them for its own."""
    given = {"LISTEN_PID": str(os.getpid()), "PATH": "/bin"} | environment
    assert passed(given) == expected
    assert given == {"PATH": "/bin"}


# --- what it is for ---------------------------------------------------------------------------------------------------


def test_a_restart_loses_nobody(gpen: Start, bind: Bind, server: Server) -> None:
    """Who connects while no gpen is there waits in the backlog, which systemd keeps."""
    sock = bind()
    balancer = gpen("-O", "backlog 100", listen=place(sock), servers=[server], **passing(sock))
    for _ in range(3):
        assert balancer.stop() == 0
        with ExitStack() as stack:
            clients = [stack.enter_context(connect(sock.getsockname())) for _ in range(50)]
            balancer = gpen("-O", "backlog 100", listen=place(sock), servers=[server], **passing(sock))
            assert [client.recv(1) for client in clients] == [b"a"] * 50


@pytest.mark.skipif(not shutil.which("systemd-socket-activate"), reason="systemd-socket-activate is not installed")
def test_systemd_s_own_tool(server: Server, tmp_path: Path) -> None:
    """It listens, and with the first client becomes gpen."""
    port = free_port()
    passed_on = [word for name in ("GPEN_PURE", "PYTHONPATH") if name in os.environ for word in ("-E", name)]
    command = ["systemd-socket-activate", *passed_on, "-l", f"127.0.0.1:{port}", "--fdname=web", *COMMAND, "-f", "-O",
               f"listener web listen 127.0.0.1:{port}", "127.0.0.1:0", server.address]
    with started(command, cwd=tmp_path, stderr=subprocess.DEVNULL) as process:
        for _ in range(2):
            with wait_until(partial(reached, ("127.0.0.1", port))) as client:
                assert client.recv(1) == b"a"
        process.terminate()
        assert process.wait(PATIENCE) == 0


def reached(address: tuple[str, int]) -> socket.socket | None:
    try:
        return connect(address)
    except ConnectionRefusedError:
        return None
