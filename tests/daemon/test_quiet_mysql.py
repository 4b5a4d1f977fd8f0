"""`drain N quiet` where servers speak MySQL: no command is cut, and no transaction, whatever the pauses."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.daemon.test_drain import Drain
from tests.harness import Gpen, Server, read_all, wait_until

Start = Callable[..., Gpen]
Serve = Callable[..., Server]
PING, QUIT = b"\x0e", b"\1"
GREETING = (b"\x0a5.5.5-fake\0" + bytes(4) + b"12345678\0" + b"\xff\xf7" + b"\x2d\2\0" + b"\xff\x81" + b"\x15"
            + bytes(10) + b"123456789012\0mysql_native_password\0")
LOGIN = b"\5\xa2\x0f\0" + b"\0\0\0\1" + b"\x2d" + bytes(23) + b"app\0\0"
SSL_REQUEST = b"\5\xaa\x0f\0" + b"\0\0\0\1" + b"\x2d" + bytes(23)
DEADLOCK = b"\xff\xbd\x04#40001Deadlock found"
ROW = b"\5hello"


def packet(body: bytes, number: int = 0) -> bytes:
    return len(body).to_bytes(3, "little") + bytes([number]) + body


def ok(status: int, number: int = 1) -> bytes:
    return packet(b"\0\0\0" + status.to_bytes(2, "little") + b"\0\0", number)


def result(rows: int) -> bytes:
    column = b"\3def\0\0\0\1a\0\x0c\x2d\0\4\0\0\0\xfd\0\0\0\0\0"
    parts = [b"\1", column, b"\xfe\0\0\2\0", *[ROW] * rows, b"\xfe\0\0\2\0"]
    return b"".join(packet(part, number % 256) for number, part in enumerate(parts, 1))


class Fake:
    """A server. "slow" makes it stop in the middle of an answer until ``go_on`` is set; "lost" makes the transaction a
    deadlock, of which it tells with the next answer."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self.go_on = threading.Event()
        self.answers_pings = threading.Event()
        self.answers_pings.set()
        self.encrypted: list[bytes] = []

    def __call__(self, sock: socket.socket) -> None:
        status, is_lost = 2, False
        sock.sendall(packet(GREETING))
        if len(received(sock)) == 32:
            while data := sock.recv(100):
                self.encrypted.append(data)
                sock.sendall(data)
            return
        sock.sendall(ok(status, 2))
        while command := received(sock):
            self.heard.append(command)
            if command == QUIT:
                return
            if command == PING:
                self.answers_pings.wait(20)
            if is_lost:
                is_lost = False
                sock.sendall(packet(DEADLOCK, 1))
                continue
            status = {b"\3BEGIN": 3, b"\3COMMIT": 2}.get(command, status)
            if command == b"\3SELECT":
                sock.sendall(result(3))
            elif command == b"\3SLOW":
                answer = result(600)
                sock.sendall(answer[:1001])
                self.go_on.wait(20)
                sock.sendall(answer[1001:])
            else:
                is_lost = command == b"\3LOST"
                sock.sendall(ok(status))


def received(sock: socket.socket) -> bytes:
    """The next packet's body; nothing at the end."""
    head = sock.recv(4, socket.MSG_WAITALL)
    return sock.recv(int.from_bytes(head[:3], "little"), socket.MSG_WAITALL) if len(head) == 4 else b""


@pytest.fixture
def fake() -> Iterator[Fake]:
    server = Fake()
    yield server
    server.go_on.set()
    server.answers_pings.set()


@pytest.fixture(params=[(), ("-O", "workers 1")], ids=["one process", "workers"])
def balancer(gpen: Start, servers: Serve, fake: Fake, request: pytest.FixtureRequest) -> Gpen:
    return gpen("-r", "-O", "mysql", "-O", "quiet 0.1", *request.param, servers=[servers(fake)])


@pytest.fixture
def client(balancer: Gpen) -> Iterator[Callable[[], socket.socket]]:
    """Clients that have logged in."""
    with ExitStack() as stack:

        def start() -> socket.socket:
            sock = stack.enter_context(balancer.connect())
            received(sock)
            sock.sendall(packet(LOGIN, 1))
            assert received(sock)[0] == 0
            return sock

        yield start


Clients = Callable[[], socket.socket]


def ask(sock: socket.socket, command: bytes) -> bytes:
    """The first packet of an answer."""
    sock.sendall(packet(command))
    return received(sock)


def rest(sock: socket.socket, answer: bytes) -> None:
    """Read what is left of an answer, behind its first packet."""
    left = answer[5:]
    assert sock.recv(len(left), socket.MSG_WAITALL) == left


def test_idle_sessions_end_and_the_server_is_told(balancer: Gpen, client: Clients, fake: Fake) -> None:
    fresh, used = client(), client()
    ask(used, b"\3SELECT")
    rest(used, result(3))
    assert balancer.ctl("drain 0 10 quiet").splitlines()[-1] == (
        "drained server 0: 0 sessions went by themselves, 2 ended when they were quiet, 0 were closed")
    assert read_all(fresh) == read_all(used) == b""
    wait_until(lambda: sorted(fake.heard) == sorted([b"\3SELECT", PING, PING, QUIT, QUIT]))


def test_a_transaction_that_was_open_before(balancer: Gpen, client: Clients, fake: Fake) -> None:
    """However long it says nothing."""
    busy, idle = client(), client()
    assert ask(busy, b"\3BEGIN")[3] == 3
    with Drain(balancer, "0 15 quiet") as drain:
        assert read_all(idle) == b""
        wait_until(lambda: fake.heard.count(PING) == 2, what="the server being asked for both")
        for _ in range(2):
            assert "1 session left" in [drain.line(), drain.line()][-1]
        assert ask(busy, b"\3SELECT") == b"\1"
        rest(busy, result(3))
        assert ask(busy, b"\3COMMIT")[3] == 2
        assert read_all(busy) == b""
        assert "2 ended when they were quiet" in drain.last()
    assert fake.heard.count(PING) == 2


def test_a_transaction_that_begins_meanwhile(balancer: Gpen, client: Clients) -> None:
    balancer.ctl("quiet 5")
    busy = client()
    ask(busy, PING)
    with Drain(balancer, "0 20 quiet") as drain:
        drain.line()
        assert ask(busy, b"\3BEGIN")[3] == 3
        balancer.ctl("quiet 0.1")
        for _ in range(2):
            assert "1 session left" in drain.line()
        assert ask(busy, b"\3COMMIT")[3] == 2
        assert "1 ended when they were quiet" in drain.last()


def test_an_answer_that_stops_in_the_middle(balancer: Gpen, client: Clients, fake: Fake) -> None:
    """The server is asked then; what it answers to that comes behind the rest, and does not reach the client."""
    slow = client()
    answer = result(600)
    assert ask(slow, b"\3SLOW") == b"\1"
    assert slow.recv(996, socket.MSG_WAITALL) == answer[5:1001]
    with Drain(balancer, "0 15 quiet") as drain:
        for _ in range(3):
            assert "1 session left" in drain.line()
        fake.go_on.set()
        assert slow.recv(len(answer) - 1001, socket.MSG_WAITALL) == answer[1001:]
        assert ask(slow, b"\3BEGIN")[3] == 3
        assert ask(slow, b"\3SELECT") == b"\1"
        rest(slow, result(3))
        assert ask(slow, b"\3COMMIT")[3] == 2
        assert read_all(slow) == b""
        assert "1 ended when they were quiet" in drain.last()


def test_its_speed_is_limited_meanwhile(balancer: Gpen, client: Clients, fake: Fake) -> None:
    """What the server answers to the question still does not reach the client."""
    slow = client()
    answer = result(600)
    ask(slow, b"\3SLOW")
    slow.recv(996, socket.MSG_WAITALL)
    with Drain(balancer, "0 15 quiet") as drain:
        for _ in range(2):
            drain.line()
        balancer.ctl("bandwidth 10m")
        fake.go_on.set()
        assert slow.recv(len(answer) - 1001, socket.MSG_WAITALL) == answer[1001:]
        assert ask(slow, b"\3SELECT") == b"\1"
        rest(slow, result(3))
        assert read_all(slow) == b""
        assert "1 ended when they were quiet" in drain.last()


def test_an_error_that_comes_in_pieces(balancer: Gpen, client: Clients) -> None:
    """As where the speed is limited. It ends the session all the same."""
    lost = client()
    ask(lost, b"\3LOST")
    balancer.ctl("bandwidth 50")
    assert "1 ended when they were quiet" in balancer.ctl("drain 0 10 quiet")
    assert read_all(lost) == packet(DEADLOCK, 1)


def test_a_transaction_that_is_lost_by_then(balancer: Gpen, client: Clients) -> None:
    """Its client is told so, which was to be told with its next command."""
    lost = client()
    ask(lost, b"\3BEGIN")
    ask(lost, b"\3LOST")
    assert "1 ended when they were quiet" in balancer.ctl("drain 0 10 quiet")
    assert read_all(lost) == packet(DEADLOCK, 1)


def test_a_session_that_is_spared(balancer: Gpen, client: Clients, fake: Fake) -> None:
    busy = client()
    ask(busy, b"\3BEGIN")
    for _ in range(3):
        asked = fake.heard.count(PING)
        with Drain(balancer, "0 quiet") as drain:
            drain.line()
            wait_until(lambda before=asked: fake.heard.count(PING) > before, what="the server being asked")
            balancer.ctl("server 0 state ready")
            assert "set back to ready" in drain.last()
        assert ask(busy, b"\3SELECT") == b"\1"
        rest(busy, result(3))
    assert ask(busy, b"\3COMMIT")[3] == 2


def test_a_login_is_not_cut(balancer: Gpen) -> None:
    with balancer.connect() as sock:
        received(sock)
        assert "still has 1 session" in balancer.ctl("drain 0 1 quiet")
        sock.sendall(packet(LOGIN, 1))
        assert received(sock)[0] == 0
        assert "1 ended when they were quiet" in balancer.ctl("drain 0 10 quiet")


def test_encrypted_sessions_go_by_time(balancer: Gpen, fake: Fake) -> None:
    """Nothing of ours gets into what they say."""
    with balancer.connect() as sock:
        received(sock)
        sock.sendall(packet(SSL_REQUEST, 1))
        sock.sendall(b"ciphertext")
        assert sock.recv(10, socket.MSG_WAITALL) == b"ciphertext"
        assert "1 ended when they were quiet" in balancer.ctl("drain 0 10 quiet")
        assert read_all(sock) == b""
    assert b"".join(fake.encrypted) == b"ciphertext"


def test_a_limit_that_is_set_while_the_server_is_asked(balancer: Gpen, client: Clients, fake: Fake) -> None:
    """The answer to that stays gpen's, whoever reads the server from then on."""
    idle = client()
    fake.answers_pings.clear()
    with Drain(balancer, "0 6 quiet") as drain:
        wait_until(lambda: PING in fake.heard, what="the server being asked")
        balancer.ctl("bandwidth 10m")
        drain.line()
        fake.answers_pings.set()
        assert read_all(idle) == b""
        assert "1 ended when they were quiet" in drain.last()
