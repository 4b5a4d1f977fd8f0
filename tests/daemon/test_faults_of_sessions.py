"""What fails while a session is served, by what is Python in gpen compiled as well, or by what this machine lacks: it
costs that session, which leaves nothing behind, and the poller goes on."""

from __future__ import annotations

import contextlib
import json
import re
import resource
import socket
import threading
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.certificates import Certificates
from tests.faulty import Faulty
from tests.harness import LOCAL, PATIENCE, Gpen, Serve, Server, connect, echo, naming, wait_until
from tests.tlsclient import TlsClient, Truncated, trusting
from tests.wire.http_peers import OK, Recorder, get, read_exactly, read_response

pytestmark = pytest.mark.one_process

Start = Callable[..., Faulty]
StartServer = Callable[..., Server]

LOG, PEN_LOG = ("-l", "gpen.log"), ("-l", "gpen.log", "-O", "log_format pen")
GREETING, HTTP, HELD, PROXY = ("-O", "greeting 5"), ("-H",), ("-O", "hold 20"), ("-O", "proxy_protocol v1")
TLS = ("TLS",)  # and a certificate
PLACES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("daemon.session_log:session_line", LOG),
    ("daemon.session_log:SessionLog.write", LOG),
    ("daemon.session_log:SessionLog.write_request", PEN_LOG),  # a tap
    ("daemon.session_log:request_watch", PEN_LOG),
    ("proto.protocol:Protocol.opening", ()),
    ("proto.protocol:Protocol.is_whole", GREETING),
    ("proto.protocol:Protocol.refusal", GREETING),
    ("proto.proxy_header:header", PROXY),
    ("wire.hold:Hold.has_room", HELD),
    ("wire.hold:Hold.wait", HELD),
    ("wire.http:read_opening", HTTP),
    ("wire.http:HttpFilter.join", HTTP),
    ("wire.http:HttpFilter.begin", HTTP),
    ("wire.http:HttpFilter._pass_on", HTTP),
    ("wire.http:HttpFilter._take", HTTP),
    ("wire.http:HttpFilter._watched", HTTP),
    ("wire.http:HttpFilter.served", HTTP),
    ("wire.http:HttpFilter.leave", HTTP),
    ("wire.tls:Terminator.accept", TLS),
    ("wire.tls:TlsStream.join", TLS),
    ("wire.tls:TlsStream._decrypt_into", TLS),
    ("wire.tls:TlsStream._encrypt", TLS),
    ("wire.tls:TlsStream.half_close", TLS),
)


def behind_header(sock: socket.socket) -> None:
    """What `echo` does, behind a PROXY header."""
    while sock.recv(1) != b"\n":
        pass
    echo(sock)


SERVERS: dict[tuple[str, ...], Serve] = {GREETING: naming("A"), PROXY: behind_header}


class Clients:
    """Those of a gpen that speak as its options make them."""

    def __init__(self, balancer: Gpen, options: Sequence[str], authority: Path) -> None:
        self._gpen, self._address = balancer, balancer.address
        self._options = options
        self._context = trusting(authority) if options == TLS else None

    @contextlib.contextmanager
    def client(self) -> Iterator[Any]:
        if self._context is not None:
            with TlsClient(self._address, self._context) as peer:
                yield peer
        else:
            with connect(self._address) as sock:
                yield sock

    def is_served(self, peer: Any) -> bool:
        """Whether it gets its answer."""
        if self._options == HTTP:
            peer.sendall(get("/"))
            return read_response(peer) == OK
        peer.sendall(b"hello")
        return read_exactly(peer, 5) == b"hello"

    def come_and_go(self) -> None:
        """One speaks twice, and reads until all is over, whatever it gets."""
        try:
            with self.client() as peer:
                for _ in range(2):
                    self.is_served(peer)
                peer.shutdown(socket.SHUT_WR)
                while peer.recv(1 << 16):
                    pass
        except TimeoutError:
            raise
        except (OSError, Truncated):
            return

    @contextlib.contextmanager
    def served(self) -> Iterator[Any]:
        """One that has been."""
        with self.client() as peer:
            if self._options == GREETING:
                assert peer.recv(1) == b"A"
            assert self.is_served(peer)
            assert self._gpen.ctl("pid")  # it is through with that answer
            yield peer


@pytest.mark.parametrize(("place", "options"), PLACES, ids=[place for place, _ in PLACES])
def test_it_costs_one_session(faulty: Start, servers: StartServer, certificates: Certificates, place: str,
                              options: tuple[str, ...]) -> None:
    server = servers(Recorder() if options == HTTP else SERVERS.get(options, echo))
    words = certificates.server.options if options == TLS else options
    balancer = faulty(place, *words, LOCAL, server.address + (":1" if options == HELD else ""))
    gpen, clients = balancer.gpen, Clients(balancer.gpen, options, certificates.authority.certificate)
    with clients.served() as bystander:
        before = gpen.fds()
        with balancer.failing():
            for _ in range(5):
                clients.come_and_go()
            balancer.has_failed(5)
            assert gpen.ctl("pid")
            wait_until(lambda: len(gpen.json("sessions")) == 1, what="the end of the others")
            assert gpen.server(0)["sessions"] == 1
        assert gpen.json("explain 127.0.0.1")["sessions"] == 1
        wait_until(lambda: gpen.fds() == before, what="their descriptors")
        assert clients.is_served(bystander)
        if options != HELD:
            with clients.served():
                pass
    gpen.wait_idle()
    assert gpen.json("explain 127.0.0.1")["sessions"] == 0
    assert balancer.tracebacks and "on purpose" in gpen.stderr
    with clients.served():
        pass


@pytest.mark.parametrize(("place", "options"), [
    ("daemon.session_log:SessionLog.write_request", PEN_LOG), ("wire.http:HttpFilter.begin", HTTP),
    ("wire.http:HttpFilter._watched", HTTP)], ids=["tap", "begin", "filter"])
def test_both_sides_are_told_that_bytes_are_missing(faulty: Start, servers: StartServer, place: str,
                                                    options: tuple[str, ...]) -> None:
    """By a reset: an end would say that this was all."""
    ends: list[str] = []

    def serve(sock: socket.socket) -> None:
        try:
            while data := sock.recv(1 << 16):
                sock.sendall(OK if options == HTTP else data)
            ends.append("end")
        except ConnectionResetError:
            ends.append("reset")

    balancer = faulty(place, *options, LOCAL, servers(serve).address)
    with balancer.failing(), connect(balancer.gpen.address) as sock:
        sock.sendall(get("/"))
        with pytest.raises(ConnectionResetError):
            sock.recv(1)
        wait_until(lambda: ends == ["reset"], what="the server's notice")
    assert balancer.tracebacks == 1


@pytest.mark.parametrize("error", ['OSError(errno.ENOMEM, "no memory")', 'OSError(errno.EBADF, "bad")',
                                   "MemoryError()", "BlockingIOError()"])
@pytest.mark.parametrize(("place", "options"), [
    ("daemon.session_log:SessionLog.write_request", PEN_LOG), ("daemon.session_log:session_line", LOG),
    ("proto.protocol:Protocol.opening", ()), ("wire.http:HttpFilter.served", HTTP)],
    ids=["tap", "log", "protocol", "filter"])
def test_whatever_is_raised(faulty: Start, servers: StartServer, certificates: Certificates, place: str,
                            options: tuple[str, ...], error: str) -> None:
    balancer = faulty(place, *options, LOCAL, servers(Recorder() if options == HTTP else echo).address, error=error)
    gpen, clients = balancer.gpen, Clients(balancer.gpen, options, certificates.authority.certificate)
    with clients.served() as bystander:
        with balancer.failing():
            for _ in range(3):
                clients.come_and_go()
            balancer.has_failed(3)
        assert clients.is_served(bystander)
    gpen.wait_idle()
    with clients.served():
        pass


# --- what this machine lacks -----------------------------------------------------------------------------------------

def test_no_memory_for_what_waits(tmp_path: Path, servers: StartServer) -> None:
    """Servers take nothing, and to keep what their clients have sent there is no memory: it costs those for whom there
    is none, whose servers get nothing behind what is lost, and the others lose nothing."""
    goes_on = threading.Event()
    received: dict[int, list[bool]] = {}  # by the client's port, a piece after the other: whether it is what was sent

    def take_later(sock: socket.socket) -> None:
        port = int(read_exactly(sock, 5))
        pieces = received.setdefault(port, [])
        goes_on.wait(PATIENCE)
        at = 0
        with contextlib.suppress(ConnectionError):
            while piece := sock.recv(1 << 16):
                pieces.append(piece == DATA[at:at + len(piece)])
                at += len(piece)
            totals[port] = at

    totals: dict[int, int] = {}
    balancer = Gpen(tmp_path, "-l", "gpen.log", "-O", "log_format json", LOCAL, servers(take_later).address)
    address = balancer.address
    with contextlib.ExitStack() as stack:
        stack.callback(balancer.stop)
        clients = {sock.getsockname()[1]: sock for sock in (stack.enter_context(connect(address)) for _ in range(30))}
        for port, client in clients.items():
            client.sendall(f"{port:05}".encode())
            client.setblocking(False)
        wait_until(lambda: balancer.server(0)["sessions"] == len(received) == 30, what="all servers")
        used = int(Path(f"/proc/{balancer.pid}/statm").read_text().split()[0]) * resource.getpagesize()
        # without descriptors there are no pipes, in which it would wait in the kernel
        resource.prlimit(balancer.pid, resource.RLIMIT_NOFILE, (balancer.fds(), balancer.fds()))
        limits = resource.prlimit(balancer.pid, resource.RLIMIT_AS, (used, resource.RLIM_INFINITY))
        sent = dict.fromkeys(clients, 0)
        wait_until(lambda: stuff(clients, sent) and "MemoryError" in balancer.stderr, what="that no memory is left")
        resource.prlimit(balancer.pid, resource.RLIMIT_AS, limits)
        goes_on.set()
        for client in clients.values():
            client.settimeout(PATIENCE)
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_WR)
                client.recv(1)
        balancer.wait_idle()
    logged = [json.loads(line) for line in balancer.log.splitlines()]
    ports = {int(row["client"].rpartition(":")[2]): row["ending"] for row in logged}
    unlogged = clients.keys() - ports.keys()  # for the line there was no memory either, which is told as well
    failed = unlogged | {port for port, ending in ports.items() if ending == "error"}
    reports = Counter(map(int, re.findall(r"session \d+ of \S+:(\d+) failed", balancer.stderr)))
    assert failed and reports == Counter([*failed, *unlogged])
    assert all(all(pieces) for pieces in received.values()), "nothing comes behind what is lost"
    assert [totals[port] == sent[port] for port in ports if port not in failed] == [True] * (30 - len(failed))


DATA = array("Q", range(1 << 21)).tobytes()


def stuff(clients: dict[int, socket.socket], sent: dict[int, int]) -> bool:
    """Send all that finds room."""
    for port, client in clients.items():
        with contextlib.suppress(BlockingIOError, ConnectionError):
            sent[port] += client.send(DATA[sent[port]:sent[port] + (1 << 20)])
    return True
