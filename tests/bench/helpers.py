"""The parts of the load that are processes of their own: `python -m tests.bench.helpers NAME ARGUMENT...`

They use blocking sockets in batches: simple, and a batch in flight keeps a balancer busy.
"""

from __future__ import annotations

import mmap
import os
import selectors
import socket
import ssl
import struct
import sys
import threading
import time
from collections.abc import Iterator

BATCH = 100  # in flight at once, well below every balancer's backlog
TIMEOUT_SECONDS = 20.0
BULK_STREAMS = 4
BULK_CHUNK = 1 << 20
IP_BIND_ADDRESS_NO_PORT = 24
FILL_NET = 0x7F800001  # 127.128.0.1: the upper half of 127.0.0.0/8, eight million addresses
CLIENT_NET = 0x7F7D0001  # 127.125.0.1

KEPT = b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n"
CLOSED = b"GET / HTTP/1.0\r\n\r\n"


def address(net: int, number: int) -> str:
    return socket.inet_ntoa(struct.pack("!I", net + number))


def connect(source: str, front: tuple[str, int]) -> socket.socket:
    """A connection from `source` whose close is a reset: no TIME_WAIT entry, no port is held."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
    sock.settimeout(TIMEOUT_SECONDS)
    sock.bind((source, 0))
    sock.connect(front)
    return sock


def batches(count: int) -> Iterator[range]:
    for start in range(0, count, BATCH):
        yield range(start, min(start + BATCH, count))


def fill(front: tuple[str, int], count: int) -> None:
    """One short connection from each of `count` addresses, each waited for until its response has ended."""
    for batch in batches(count):
        socks = [connect(address(FILL_NET, number), front) for number in batch]
        for sock in socks:
            sock.sendall(CLOSED)
        for sock in socks:
            while sock.recv(4096):
                pass
            sock.close()


def idle(front: tuple[str, int], count: int) -> None:
    """Open `count` sessions with one answered request each, say `ready`, and hold them until stdin ends."""
    held = []
    for batch in batches(count):
        socks = [connect(address(CLIENT_NET, number % 50), front) for number in batch]
        for sock in socks:
            sock.sendall(KEPT)
        for sock in socks:
            if not sock.recv(4096):
                raise ConnectionError("closed without a response")
        held += socks
    print("ready", flush=True)
    sys.stdin.read()
    for sock in held:
        sock.close()


def source(listen: tuple[str, int]) -> None:
    """Send zeros to whoever connects, without end, from memory by sendfile."""
    zeros = os.memfd_create("zeros")
    os.ftruncate(zeros, BULK_CHUNK)
    with socket.create_server(listen) as listener:
        while True:
            sock, _ = listener.accept()
            threading.Thread(target=send_zeros, args=(sock, zeros), daemon=True).start()


def send_zeros(sock: socket.socket, zeros: int) -> None:
    with sock:
        try:
            while os.sendfile(sock.fileno(), zeros, 0, BULK_CHUNK):
                pass
        except OSError:
            return  # the reader has gone: that is how each stream ends


def sink(front: tuple[str, int], seconds: float) -> None:
    """Read several streams for `seconds`, print the bytes that came. MSG_TRUNC: the kernel copies nothing."""
    count([connect(address(CLIENT_NET, number), front) for number in range(BULK_STREAMS)], seconds)


def count(socks: list[socket.socket], seconds: float) -> None:
    """Print the bytes that come within so many seconds."""
    scratch = mmap.mmap(-1, BULK_CHUNK)
    moved = 0
    with selectors.DefaultSelector() as selector:
        for sock in socks:
            sock.setblocking(False)
            selector.register(sock, selectors.EVENT_READ)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for key, _ in selector.select(timeout=0.1):
                assert isinstance(key.fileobj, socket.socket)
                came = key.fileobj.recv_into(scratch, BULK_CHUNK, socket.MSG_TRUNC)
                if not came:
                    raise ConnectionError("closed before the end")
                moved += came
    print(moved)


def tls_sink(front: tuple[str, int], seconds: float) -> None:
    """As sink, over TLS: the handshakes are done, but what comes then is counted without being decrypted."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    socks = [connect(address(CLIENT_NET, number), front) for number in range(BULK_STREAMS)]
    for sock in socks:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(incoming, outgoing)
        done = False
        while not done:
            try:
                tls.do_handshake()
                done = True
            except ssl.SSLWantReadError:
                pass
            sock.sendall(outgoing.read())
            if not done:
                incoming.write(sock.recv(1 << 14))
    count(socks, seconds)


def main(name: str, place: str, *amount: str) -> None:
    host, _, port = place.rpartition(":")
    where = (host, int(port))
    try:
        if name == "source":
            source(where)
        elif name in ("sink", "tls-sink"):
            {"sink": sink, "tls-sink": tls_sink}[name](where, float(amount[0]))
        else:
            {"fill": fill, "idle": idle}[name](where, int(amount[0]))
    except OSError as error:
        sys.exit(f"{name} {place}: {error}")


if __name__ == "__main__":
    main(*sys.argv[1:])
