"""240 transfers in all orders of half-close, 40 at once: each arrives whole, and nothing is left behind."""

from __future__ import annotations

import hashlib
import random
import socket
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.harness import Gpen, Server, connect, hold, read_all, wait_until

TRANSFERS, AT_ONCE = 240, 40
SIZES = (0, 1, 1000, 65_536, 65_537, 131_073, 700_000, 5_000_000)
DATA = random.Random(1).randbytes(6_000_000)
HEADER = struct.Struct("!IIII")  # number, order, bytes to the server, bytes to the client

Digests = dict[int, str]
Order = Callable[[socket.socket, bytes], bytes]  # sends the bytes, returns what came


def listen_then_talk(sock: socket.socket, data: bytes) -> bytes:
    received = read_all(sock)
    sock.sendall(data)
    sock.shutdown(socket.SHUT_WR)
    return received


def talk_then_listen(sock: socket.socket, data: bytes) -> bytes:
    sock.sendall(data)
    sock.shutdown(socket.SHUT_WR)
    return read_all(sock)


def both_at_once(sock: socket.socket, data: bytes) -> bytes:
    with ThreadPoolExecutor(1) as pool:
        received = pool.submit(read_all, sock)
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        return received.result()


def talk_and_leave(sock: socket.socket, data: bytes) -> bytes:
    sock.sendall(data)
    sock.close()
    return b""


def only_listen(sock: socket.socket, data: bytes) -> bytes:
    return read_all(sock)


# what the client does, what the server does, whether bytes go up, whether bytes go down
ORDERS: tuple[tuple[Order, Order, bool, bool], ...] = (
    (talk_then_listen, listen_then_talk, True, True),
    (listen_then_talk, talk_then_listen, True, True),
    (both_at_once, both_at_once, True, True),
    (talk_then_listen, talk_and_leave, False, True),
    (only_listen, talk_and_leave, False, True),
    (talk_and_leave, only_listen, True, False),
)


def digest(data: bytes | memoryview) -> str:
    return hashlib.sha256(data).hexdigest()


def upload(number: int, size: int) -> bytes:
    return DATA[number : number + size]


def download(number: int, size: int) -> bytes:
    return DATA[1000 + number : 1000 + number + size]


def server_of(uploads: Digests) -> Callable[[socket.socket], None]:
    """A server that behaves as the client's header says, and keeps the digests of what it got."""

    def serve(sock: socket.socket) -> None:
        header = sock.recv(HEADER.size, socket.MSG_WAITALL)
        if len(header) == HEADER.size:
            number, order, _, down = HEADER.unpack(header)
            uploads[number] = digest(ORDERS[order][1](sock, download(number, down)))

    return serve


def transfer(address: tuple[str, int] | str, number: int, uploads: Digests,
             connect: Callable[..., Any] = connect) -> str:
    """Do transfer ``number`` on a socket that ``connect`` makes; returns what was wrong with it, if anything."""
    order = number % len(ORDERS)
    client, _, goes_up, goes_down = ORDERS[order]
    up = random.Random(number).choice(SIZES) if goes_up else 0
    down = random.Random(-number - 1).choice(SIZES) if goes_down else 0
    with connect(address, seconds=40) as sock:
        sock.sendall(HEADER.pack(number, order, up, down))
        received = client(sock, upload(number, up))
    wrong = []
    if digest(received) != digest(download(number, down)):
        wrong.append(f"got {len(received)} of {down} bytes")
    wait_until(lambda: number in uploads, what=f"the end of transfer {number} at the server")
    if uploads[number] != digest(upload(number, up)):
        wrong.append("the upload differs")
    return f"{number} {client.__name__} up {up} down {down}: {', '.join(wrong)}" if wrong else ""


def test_all_arrive_whole(gpen: Callable[..., Gpen], servers: Callable[..., Server], tmp_path: Path) -> None:
    uploads: Digests = {}
    serve = server_of(uploads)
    backends = [servers(serve), servers(serve, at="::1"), servers(serve, at=str(tmp_path / "server"))]
    balancer = gpen("-r", "-l", "gpen.log", servers=backends)
    address = balancer.address
    balancer.ask()
    balancer.wait_idle()
    descriptors = balancer.fds()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        wrong = list(pool.map(lambda number: transfer(address, number, uploads), range(TRANSFERS)))
    assert [text for text in wrong if text] == []
    balancer.wait_idle()
    assert [server.served for server in backends] == [81, 80, 80]
    assert wait_until(lambda: balancer.fds() == descriptors)
    assert len(balancer.log.splitlines()) == TRANSFERS + 1
    assert balancer.json("events")[-1]["event"] == "added"


def test_bytes_are_counted(gpen: Callable[..., Gpen], servers: Callable[..., Server]) -> None:
    """Live and afterwards, by session, server and client."""
    balancer = gpen(servers=[servers(hold)])
    with balancer.connect() as sock:
        sock.sendall(bytes(300_000))
        wait_until(lambda: balancer.json("sessions")[0]["up"] == 300_000)
        assert balancer.server(0)["sx"] == 300_000
        assert balancer.json("recent")[0]["rx"] == 300_000
    balancer.wait_idle()
    assert (balancer.server(0)["sx"], balancer.server(0)["rx"]) == (300_000, 0)
    assert balancer.json("recent")[0]["rx"] == 300_000
