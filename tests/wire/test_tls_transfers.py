"""The 240 transfers of test_transfers.py over TLS, and one by one: half-closes, truncation, odd pieces, bad records."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.certificates import Certificates
from tests.harness import Gpen, Server, echo, hold, read_all, reset, sending, wait_until
from tests.tlsclient import TlsClient, Truncated, trusting
from tests.wire.test_transfers import AT_ONCE, DATA, TRANSFERS, Digests, server_of, transfer

pytestmark = pytest.mark.long

Start = Callable[..., Gpen]
Serve = Callable[..., Server]
Dial = Callable[..., TlsClient]
TLS12, TLS13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
MB = 1 << 20

each_version = pytest.mark.parametrize("version", [TLS12, TLS13], ids=["tls1.2", "tls1.3"])


@pytest.fixture
def secure(gpen: Start, certificates: Certificates) -> Start:
    """Start gpen with a certificate and a log."""
    return lambda *options, **more: gpen("-l", "gpen.log", *certificates.server.options, *options, **more)


@pytest.fixture
def dial(certificates: Certificates) -> Dial:
    """Connect to a gpen: dial(balancer, version)."""

    def dial(balancer: Gpen, version: ssl.TLSVersion = TLS13, **options: object) -> TlsClient:
        context = trusting(certificates.authority.certificate, version)
        return TlsClient(balancer.address, context, **options)  # type: ignore[arg-type]

    return dial


def ending_of(balancer: Gpen) -> str:
    """The ending in the last line of the log, which the TLS version, cipher and name follow."""
    wait_until(lambda: balancer.log.endswith("\n"), what="a line in the session log")
    return balancer.log.splitlines()[-1].partition(" TLSv")[0].split()[-1]


def waiting(balancer: Gpen) -> int:
    """Bytes of its only session that find no room."""
    (session,) = balancer.json("sessions")
    return int(balancer.json(f"connection {session['id']}")["pend"])


def read_then_say(received: list[bytes], answer: bytes = b"") -> Callable[[socket.socket], None]:
    """A server that reads to the end, keeps what came, and then answers."""

    def serve(sock: socket.socket) -> None:
        received.append(read_all(sock))
        sock.sendall(answer)

    return serve


@pytest.mark.parametrize(("version", "fin"), [(TLS12, True), (TLS13, False)], ids=["tls1.2", "tls1.3"])
def test_all_arrive_whole(secure: Start, servers: Serve, dial: Dial, version: ssl.TLSVersion, fin: bool) -> None:
    uploads: Digests = {}
    serve = server_of(uploads)
    balancer = secure("-r", servers=[servers(serve) for _ in range(3)])
    dial(balancer, version).close()
    balancer.wait_idle()
    descriptors = balancer.fds()

    def connect(address: tuple[str, int] | str, seconds: float) -> TlsClient:
        return dial(balancer, version, fin=fin, seconds=seconds)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        wrong = list(pool.map(lambda number: transfer("", number, uploads, connect), range(TRANSFERS)))
    assert [text for text in wrong if text] == []
    balancer.wait_idle()
    assert wait_until(lambda: balancer.fds() == descriptors)
    assert [line for line in balancer.log.splitlines() if "closed TLSv" not in line] == []


# --- ends ------------------------------------------------------------------------------------------------------------


@each_version
def test_a_client_that_says_goodbye_first_gets_the_whole_answer(secure: Start, servers: Serve, dial: Dial,
                                                                 version: ssl.TLSVersion) -> None:
    received: list[bytes] = []
    balancer = secure(servers=[servers(read_then_say(received, DATA[:MB]))])
    with dial(balancer, version, fin=False) as client:
        client.sendall(b"question")
        client.shutdown(socket.SHUT_WR)
        assert client.read_all() == DATA[:MB]
    assert received == [b"question"]
    balancer.wait_idle()
    assert ending_of(balancer) == "client-closed"


@each_version
def test_a_client_goes_on_behind_a_servers_end(secure: Start, servers: Serve, dial: Dial, version: ssl.TLSVersion,
                                                ) -> None:
    received: list[bytes] = []

    def serve(sock: socket.socket) -> None:
        sock.sendall(b"all")
        sock.shutdown(socket.SHUT_WR)
        received.append(read_all(sock))

    balancer = secure(servers=[servers(serve)])
    with dial(balancer, version, fin=False) as client:
        assert client.read_all() == b"all"
        client.sendall(DATA[:MB])
    wait_until(lambda: received)
    assert received == [DATA[:MB]]
    balancer.wait_idle()
    assert ending_of(balancer) == "server-closed"


@each_version
def test_a_truncated_stream_is_delivered_and_logged(secure: Start, servers: Serve, dial: Dial,
                                                     version: ssl.TLSVersion) -> None:
    received: list[bytes] = []
    balancer = secure(servers=[servers(read_then_say(received, b"answer"))])
    client = dial(balancer, version)
    client.sendall(DATA[:100_000])
    client.sock.shutdown(socket.SHUT_WR)
    assert client.read_all() == b"answer"
    client.sock.close()
    assert received == [DATA[:100_000]]
    balancer.wait_idle()
    assert ending_of(balancer) == "client-truncated"


def test_a_goodbye_behind_data_in_one_packet(secure: Start, servers: Serve, dial: Dial) -> None:
    received: list[bytes] = []
    balancer = secure(servers=[servers(read_then_say(received, b"answer"))])
    client = dial(balancer)
    client.sock.sendall(client.encrypted(b"question") + client.goodbye())
    assert client.read_all() == b"answer"
    client.sock.close()
    balancer.wait_idle()
    assert (received, ending_of(balancer)) == ([b"question"], "client-closed")


@pytest.mark.parametrize("ends", [False, True], ids=["open", "closed"])
def test_data_in_the_packet_that_ends_the_handshake(secure: Start, servers: Serve, certificates: Certificates,
                                                     ends: bool) -> None:
    """It comes before there is a server, and no event tells of it any more."""
    balancer = secure(servers=[servers(echo)])
    with balancer.connect() as sock:
        client = TlsClient.__new__(TlsClient)
        client.begin(sock, trusting(certificates.authority.certificate, TLS13))
        client.step()
        while not client.step(flushed=False):
            pass
        sock.sendall(client.encrypted(b"early") + (client.goodbye() if ends else b""))
        assert client.recv(100) == b"early"
        assert not ends or client.recv(100) == b""
    balancer.wait_idle()


def test_a_servers_reset_is_no_goodbye(secure: Start, servers: Serve, dial: Dial) -> None:
    """The client can tell that the end is missing, and has all that left the server."""
    balancer = secure(servers=[servers(sending(DATA[:1000], reset))])
    with dial(balancer) as client, pytest.raises(Truncated):
        assert client.recv(1) == DATA[:1]
        client.read_all()
    balancer.wait_idle()
    assert ending_of(balancer) == "server-reset"


def test_a_killed_session_gets_no_goodbye(secure: Start, servers: Serve, dial: Dial) -> None:
    balancer = secure(servers=[servers(echo)])
    with dial(balancer) as client:
        client.sendall(b"x")
        assert client.recv(1) == b"x"
        balancer.ctl(f"close {balancer.json('sessions')[0]['id']}")
        with pytest.raises(Truncated):
            client.read_all()
    assert ending_of(balancer) == "killed"


def test_a_client_without_a_server_is_told_that_this_is_all(secure: Start, dial: Dial) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        refusing = f"127.0.0.1:{sock.getsockname()[1]}"
    balancer = secure(servers=[refusing])
    with dial(balancer) as client:
        assert client.read_all() == b""
    assert ending_of(balancer) == "connect-failed"


def test_a_goodbye_waits_behind_bytes_that_find_no_room(secure: Start, servers: Serve, dial: Dial) -> None:
    """Also where the server's end is the last thing in the session, and a mere close would do without TLS."""
    balancer = secure(servers=[servers(read_then_say([], DATA))])
    with dial(balancer, fin=False) as client:
        client.shutdown(socket.SHUT_WR)
        wait_until(lambda: waiting(balancer) > 0)
        assert client.read_all() == DATA
    balancer.wait_idle()


@pytest.mark.parametrize("side", ["up", "down"])
def test_fastclose(secure: Start, servers: Serve, dial: Dial, side: str) -> None:
    balancer = secure("-O", f"tcp_fastclose {side}", servers=[servers(sending(b"all") if side == "up" else hold)])
    with dial(balancer) as client:
        if side == "up":
            assert client.read_all() == b"all"
        else:
            client.shutdown(socket.SHUT_WR)
        balancer.wait_idle()
    assert ending_of(balancer) == ("server-closed" if side == "up" else "client-closed")


# --- pieces ----------------------------------------------------------------------------------------------------------


@each_version
def test_records_in_tiny_pieces(secure: Start, servers: Serve, dial: Dial, version: ssl.TLSVersion) -> None:
    balancer = secure(servers=[servers(echo)])
    with dial(balancer, version) as client:
        client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in client.encrypted(b"in single bytes"):
            client.sock.sendall(bytes([byte]))
        assert client.recv(100) == b"in single bytes"


def test_many_small_records_become_one_piece(secure: Start, servers: Serve, dial: Dial) -> None:
    received: list[bytes] = []
    balancer = secure(servers=[servers(read_then_say(received))])
    with dial(balancer) as client:
        client.sock.sendall(b"".join(client.encrypted(DATA[number : number + 1]) for number in range(5000)))
    wait_until(lambda: received)
    assert received == [DATA[:5000]]


@each_version
def test_a_slow_reader_gets_it_all_and_holds_the_server_back(secure: Start, servers: Serve, dial: Dial,
                                                              version: ssl.TLSVersion) -> None:
    sent: list[int] = []

    def serve(sock: socket.socket) -> None:
        for start in range(0, 24 * MB, MB):
            sock.sendall(DATA[:MB])
            sent.append(start)

    balancer = secure(servers=[servers(serve)])
    with dial(balancer, version) as client:
        client.recv(1)
        wait_until(lambda: waiting(balancer) > 0)
        assert len(sent) < 24
        assert waiting(balancer) < 200_000
        count = 1
        while piece := client.recv(1 << 16):
            count += len(piece)
        assert count == 24 * MB
    balancer.wait_idle()
    assert balancer.server(0)["rx"] == 24 * MB
    assert f"down {24 * MB} server-closed" in balancer.log


def test_plain_bytes_are_counted(secure: Start, servers: Serve, dial: Dial) -> None:
    balancer = secure(servers=[servers(echo)])
    with dial(balancer) as client:
        client.sendall(bytes(1000))
        received = 0
        while received < 1000:
            received += len(client.recv(1000))
        (session,) = balancer.json("sessions")
        assert (session["up"], session["down"]) == (1000, 1000)


# --- what no client of good will sends --------------------------------------------------------------------------------


@pytest.mark.parametrize("good", [b"", b"good"], ids=["alone", "behind-data"])
def test_a_bad_record_ends_the_session_behind_what_was_good(secure: Start, servers: Serve, dial: Dial, good: bytes,
                                                             ) -> None:
    received: list[bytes] = []
    balancer = secure(servers=[servers(read_then_say(received))])
    client = dial(balancer)
    records = bytearray((client.encrypted(good) if good else b"") + client.encrypted(b"bad"))
    records[-1] ^= 1
    client.sock.sendall(records)
    with pytest.raises((ssl.SSLError, ConnectionError)) as caught:
        client.read_all()
    assert "bad record mac" in str(caught.value).lower().replace("_", " ")
    client.sock.close()
    balancer.wait_idle()
    assert (received, ending_of(balancer)) == ([good], "client-reset")


def test_a_record_that_never_ends_costs_no_more_than_a_record(secure: Start, servers: Serve, dial: Dial) -> None:
    balancer = secure("-x", "300", servers=[servers(echo)])
    before = balancer.rss
    clients = [dial(balancer) for _ in range(50)]
    for client in clients:
        client.sock.sendall(client.encrypted(bytes(16384))[:-1])
    wait_until(lambda: len(balancer.json("sessions")) == 50)
    assert balancer.rss - before < 50 * 200_000
    balancer.ctl("idle_timeout 1")  # from now on: on a busy machine fifty handshakes take longer
    balancer.wait_idle()
    assert balancer.log.count(" idle TLSv1.3") == 50
    for client in clients:
        client.sock.close()
