"""Small real UDP servers, each in a thread of this process, and clients of them."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

from tests.harness import Gpen, wait_until
from tests.servers import PATIENCE, address_of, family_of, free_port

LARGEST = 65507  # bytes of an IPv4 datagram

Reply = Callable[[bytes], list[bytes]]


def echo(data: bytes) -> list[bytes]:
    """The same."""
    return [data]


def silence(data: bytes) -> list[bytes]:
    """Nothing."""
    return []


def naming(name: str) -> Reply:
    """The server's name, whatever was asked."""
    return lambda data: [name.encode()]


class DatagramServer:
    """Sends ``reply`` of each datagram to whoever sent it; ``received`` has them all, ``clients`` their senders."""

    def __init__(self, reply: Reply = silence, at: str = "127.0.0.1", port: int = 0) -> None:
        self.reply = reply
        self.received: list[bytes] = []
        self.clients: list[tuple[str, int]] = []
        self.socket = socket.socket(family_of(at), socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        self.socket.bind((at, port or free_port(at)))
        self.address, self.port = address_of(self.socket), self.socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            data, client = self.socket.recvfrom(1 << 17)
            if not client:  # close
                return
            self.received.append(data)
            self.clients.append(client)
            for answer in self.reply(data):
                self.socket.sendto(answer, client)

    def __enter__(self) -> DatagramServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """From now on the port refuses what it is sent."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)  # wakes the thread, though it also says that there is no connection
        self._thread.join(PATIENCE)
        self.socket.close()


@contextlib.contextmanager
def refusing() -> Iterator[str]:
    """An address that refuses datagrams as long as the context lasts: its socket talks to another port only."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", free_port()))
        sock.connect(("127.0.0.1", 1))
        yield address_of(sock)


def client(address: tuple[str, int] | Gpen, source: str = "", port: int = 0) -> socket.socket:
    """A socket that is connected to an address, or to where gpen listens: it takes answers from there only."""
    where = address.address if isinstance(address, Gpen) else address
    assert not isinstance(where, str)
    sock = socket.socket(family_of(where[0]), socket.SOCK_DGRAM)
    sock.settimeout(PATIENCE)
    if source or port:
        sock.bind((source, port))
    sock.connect(where)
    return sock


def ask(address: tuple[str, int] | Gpen, data: bytes = b"who?", source: str = "") -> bytes:
    """What a client gets that sends one datagram."""
    with client(address, source) as sock:
        sock.send(data)
        return sock.recv(1 << 17)


def tell(address: tuple[str, int] | Gpen, data: bytes = b"x", source: str = "") -> None:
    """Send one datagram, and do not wait."""
    with client(address, source) as sock:
        sock.send(data)


def is_silent(sock: socket.socket, seconds: float = 0.3) -> bool:
    """Whether no datagram comes for so long."""
    sock.settimeout(seconds)
    try:
        sock.recv(1 << 17)
    except TimeoutError:
        return True
    finally:
        sock.settimeout(PATIENCE)
    return False


def endings(balancer: Gpen, count: int) -> list[str]:
    """How the flows ended, once so many have."""
    wait_until(lambda: balancer.log.count("\n") >= count, what=f"{count} lines in the log")
    return [line.split()[-1] for line in balancer.log.splitlines()]
