"""gpenlog, the program: sends a web server's log to gpenlogd (or penlogd), a datagram for each line."""

from __future__ import annotations

import ipaddress
import socket
import sys
from collections.abc import Sequence
from typing import BinaryIO

from gpen.model.address import Address, bracketed, parse_listen
from gpen.netlog.arguments import Place, find, read
from gpen.netlog.entries import PIECE
from gpen.usage import USAGE, UsageError, complain

USAGE_TEXT = """\
Send a web server's log to gpenlogd (or penlogd), a datagram for each line.

Usage:
  gpenlog SERVER PORT [MY_ADDRESS]
  gpenlog SERVER:PORT [MY_ADDRESS]
  gpenlog (-h | --help | --version)

SERVER is the machine where gpenlogd runs, by name or address, and PORT where it
listens. gpenlogd knows a web server by the address that its lines come from:
where this machine has several, MY_ADDRESS is the one by which the balancer
reaches the web server. The lines are read from standard input, until it ends.

Options:
  -h --help     Show this.
  --version     Show the version.

Examples:
  CustomLog "|/usr/local/bin/gpenlog lb.example.com 10000" common
  tail -n0 -F /var/log/nginx/access.log | gpenlog 192.0.2.1:10000 192.0.2.11

Exit status: 0 at the end of the input; 2 wrong usage, or an address that can't
be used.
"""
NAME = "gpenlog"
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run gpenlog with these arguments, without the program's name; returns the exit status."""
    try:
        arguments = read(NAME, USAGE_TEXT, argv)
        words = [arguments[word] for word in ("SERVER", "SERVER:PORT", "PORT", "MY_ADDRESS") if arguments[word]]
        sock, place = reach(words)
    except UsageError as error:
        complain(NAME, error)
        return USAGE
    with sock:
        try:
            if sys.stdin is not None:  # it is None where whoever started us has closed it
                Sender(sock, place).send_all(sys.stdin.buffer)
        except KeyboardInterrupt:
            return INTERRUPTED
    return 0


def reach(words: Sequence[str]) -> tuple[socket.socket, Place]:
    """A socket, and where to send, for the words of the command line. Raises UsageError."""
    server, my_address = addresses(words)
    if is_address(server.host) and my_address and family_of(server.host) != family_of(my_address):
        raise UsageError(f"no way from MY_ADDRESS '{my_address}' to '{server}': give two IPv4 or two IPv6 addresses")
    place = find(server, family_of(my_address) if my_address else socket.AF_UNSPEC)
    sock = socket.socket(place.family, socket.SOCK_DGRAM)
    if my_address:
        try:
            sock.bind((my_address, 0))
        except OSError as error:
            sock.close()
            raise UsageError(f"can't send from MY_ADDRESS '{my_address}': {error.strerror}") from None
    return sock, place


def addresses(words: Sequence[str]) -> tuple[Address, str]:
    """SERVER and PORT, in one word or two, and MY_ADDRESS or nothing. Raises UsageError."""
    my_address = words[-1] if len(words) > 1 and is_address(words[-1]) else ""
    server, *more = words[:-1] if my_address else words
    if len(more) > 1:
        raise UsageError(f"MY_ADDRESS '{more[1]}' is not an IP address")
    host, port = (server.strip("[]"), more[0]) if more else (server.rpartition(":")[0], server.rpartition(":")[2])
    if not host or not port or "/" in server:
        raise UsageError(f"'{server}' is not a server with its port: expected SERVER PORT or SERVER:PORT")
    try:
        address = parse_listen(f"{bracketed(host.strip('[]'))}:{port}")
    except ValueError as error:
        raise UsageError(str(error)) from None
    if not address.port:
        raise UsageError(f"'{address}': nobody can listen on port 0")
    return address, my_address


def is_address(word: str) -> bool:
    """Whether it is an IP address: neither a name, nor a port."""
    try:
        ipaddress.ip_address(word.partition("%")[0])
    except ValueError:
        return False
    return True


def family_of(address: str) -> int:
    """The family of an IP address."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


class Sender:
    """Sends lines to a place; what can't be sent is lost, and never waited for: the web server waits for us."""

    def __init__(self, sock: socket.socket, place: Place) -> None:
        """``sock`` is of the family of ``place``."""
        self._socket = sock
        self._place = place
        self._lost = 0

    def send_all(self, lines: BinaryIO) -> None:
        """Send each line at once, a long one in pieces as penlog does, until the input ends."""
        for piece in iter(lambda: lines.readline(PIECE), b""):
            self._send(piece)

    def _send(self, piece: bytes) -> None:
        try:
            self._socket.sendto(piece, self._place.sockaddr)
        except OSError as error:
            if not self._lost:
                self._tell(f"{error.strerror}: lines are lost until that is over")
            self._lost += 1
            return
        if self._lost:
            self._tell(f"lines go out again; {self._lost} were lost")
            self._lost = 0

    def _tell(self, what: str) -> None:
        host, port = self._place.sockaddr[:2]
        complain(NAME, f"{bracketed(host)}:{port}: {what}")
