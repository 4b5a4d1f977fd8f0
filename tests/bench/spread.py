"""What a datagram costs where udp_requests spreads one client's over three servers: python -m tests.bench.spread

One port sends as fast as the servers hear it, with at most 200 datagrams under way. The CPU time says more than the
rate, for all share the machine's processors.
"""

from __future__ import annotations

import socket
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from tests import datagrams
from tests.harness import LOCAL, PATIENCE, Gpen
from tests.servers import address_of

COUNT = 20_000
UNDER_WAY = 200
_SO_RCVBUFFORCE = 33
CASES = ((), ("-O", "udp_requests 20"), ("-O", "udp_requests 1"))


def receiver(stack: ExitStack) -> socket.socket:
    """A server's socket, with room for all that is under way."""
    sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 1 << 22)
    sock.bind(("127.0.0.1", 0))
    sock.setblocking(False)
    return sock


def heard(sock: socket.socket) -> int:
    """How many datagrams have come since this was asked last."""
    count = 0
    try:
        while sock.recv(100):
            count += 1
    except BlockingIOError:
        return count
    raise AssertionError("an empty datagram")


def measure(directory: Path, options: tuple[str, ...]) -> str:
    """One case, as a line."""
    with ExitStack() as stack:
        socks = [receiver(stack) for _ in range(3)]
        balancer = stack.enter_context(Gpen(directory, "-U", *options, LOCAL, *map(address_of, socks)))
        client = stack.enter_context(datagrams.client(balancer))
        sent, got, begun, used = 0, [0, 0, 0], time.monotonic(), balancer.cpu
        while sum(got) < COUNT and time.monotonic() - begun < 10 * PATIENCE:
            while sent < COUNT and sent - sum(got) < UNDER_WAY:
                sent += bool(client.send(b"gpen.test:1|c"))
            got = [before + heard(sock) for before, sock in zip(got, socks, strict=True)]
        seconds, cpu = time.monotonic() - begun, balancer.cpu - used
        return (f"{' '.join(options) or 'without':22} {sum(got) / seconds:8,.0f}/s {cpu / sum(got) * 1e6:6.1f} us of "
                f"CPU each; servers {got}; {balancer.fds()} descriptors")


def main() -> int:
    for options in CASES:
        with tempfile.TemporaryDirectory() as directory:
            print(measure(Path(directory), options), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
