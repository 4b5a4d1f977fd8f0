"""`gpen-galera notify`: wake the watchers, for Galera's wsrep_notify_cmd. And the watcher's ear for that.

The node waits for this program, and takes its failure for one of its own: so it is quick (no docopt, no PyMySQL), and
its exit status is always 0. A datagram only says that there is something to see, so whoever sends one does no harm.
"""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import pairwise

from gpen.model.address import Address, parse_listen
from gpen.model.text import printable

USAGE = """\
Wake watchers: for Galera's wsrep_notify_cmd, which adds arguments of its own.

Usage:
  gpen-galera notify --to=WATCHER... [ARGUMENTS...]

Options:
  --to=WATCHER           [HOST:]PORT, as given to the watcher's --listen; may be
                         repeated. HOST is 127.0.0.1 unless given.
  -h --help              Show this.

The arguments that Galera adds are not looked at.
Exit status: 0, always.

Example:
  # in the group [mariadbd] of each node's configuration
  wsrep_notify_cmd='gpen-galera notify --to balancer1:4570 --to balancer2:4570'
"""
LOCAL = "127.0.0.1"
REST = 0.02  # seconds after a datagram: a flood of them wakes no more than 50 times a second
DRAINED = 1000  # datagrams that are taken for one
_IP_FREEBIND = 15  # linux/in.h; Python has no name for it before 3.15
SECONDS = 0.5  # for all, since a name server that does not answer must not hold up the node


def main(arguments: Sequence[str]) -> int:
    """Send a datagram to each --to. What goes wrong is told on stderr, and is no error."""
    if set(arguments) & {"-h", "--help"}:
        print(USAGE, end="")
        return 0
    targets = list(_targets(arguments))
    if not targets:
        print("gpen-galera notify: --to=[HOST:]PORT is missing: nobody to wake", file=sys.stderr)
    senders = [threading.Thread(target=_send, args=(target,), daemon=True) for target in targets]
    for sender in senders:
        sender.start()
    deadline = time.monotonic() + SECONDS
    for sender in senders:
        sender.join(max(0.0, deadline - time.monotonic()))
    return 0


def _targets(arguments: Sequence[str]) -> list[str]:
    """The values of --to."""
    joined = [word.partition("=")[2] for word in arguments if word.startswith("--to=")]
    return joined + [value for word, value in pairwise(arguments) if word == "--to"]


def _send(target: str) -> None:
    """One datagram."""
    try:
        address = listening(target)
        family, kind, protocol, _, place = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as sock:
            sock.sendto(b"change\n", place)
    except (OSError, ValueError) as error:
        print(printable(f"gpen-galera notify: {target}: {getattr(error, 'strerror', None) or error}"), file=sys.stderr)


def listening(text: str) -> Address:
    """Read [HOST:]PORT. Raises ValueError."""
    address = parse_listen(text, LOCAL)
    if address.path or not isinstance(address.port, int) or not address.port:
        raise ValueError(f"'{text}' is not [HOST:]PORT")
    return address


class NotificationSocket:
    """Calls ``wake`` when datagrams come to an address (from a thread of its own), once for those that come together.
    """

    def __init__(self, address: Address, wake: Callable[[], None]) -> None:
        """Raises OSError when the address can't be had."""
        family, kind, protocol, _, place = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_DGRAM, flags=socket.AI_PASSIVE)[0]
        self._socket = socket.socket(family, kind, protocol)
        try:
            bind_early(self._socket)
            self._socket.bind(place)
        except OSError:
            self._socket.close()
            raise
        threading.Thread(target=self._listen, args=(wake,), name="notify", daemon=True).start()

    def _listen(self, wake: Callable[[], None]) -> None:
        while True:
            with suppress(OSError):
                self._socket.recv(64)
                with suppress(BlockingIOError):
                    for _ in range(DRAINED):
                        self._socket.recv(64, socket.MSG_DONTWAIT)
                wake()
            time.sleep(REST)


def bind_early(sock: socket.socket) -> None:
    """Let a socket be bound to an address that this machine gets later: a watcher may start before its network."""
    with suppress(OSError):
        sock.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
