"""Small real servers, each in threads of this process: they name themselves, echo, reset, or never answer a SYN."""

from __future__ import annotations

import collections
import contextlib
import os
import random
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

PATIENCE = 20.0

# sockets whose names (of no file) say which ports `free_port` gave this process: the last hundred
_claims: collections.deque[int] = collections.deque(maxlen=100)
_claiming = threading.Lock()

Serve = Callable[[socket.socket], None]


def reset(sock: socket.socket) -> None:
    """Close with a reset instead of an end of input."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


class Server:
    """A server on a real socket: each connection is handed to ``serve`` in a thread, and closed when that returns."""

    def __init__(self, serve: Serve, at: str = "127.0.0.1", port: int = 0) -> None:
        """``at`` is an IPv4 or IPv6 address, or the path of a unix socket."""
        self._serve = serve
        self.socket = _listening(at, port)
        self.address = address_of(self.socket)
        self.port = self.socket.getsockname()[1] if not at.startswith("/") else 0
        self.served = 0
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def _start(self, target: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        thread.start()
        self._threads = [*filter(threading.Thread.is_alive, self._threads), thread]

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.socket.accept()
            except OSError:
                return
            self.served += 1
            self._open.add(client)
            self._start(self._handle, client)

    def _handle(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            self._serve(client)
        self._open.discard(client)

    @property
    def live(self) -> int:
        """How many connections are open."""
        return len(self._open)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening and end what is being served."""
        for sock in (self.socket, *self._open):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        for thread in self._threads:
            thread.join(PATIENCE)


class SilentServer:
    """A listener that never answers a SYN: its backlog is full, and nobody accepts."""

    def __init__(self, port: int = 0, at: str = "127.0.0.1") -> None:
        self.socket = _listening(at, port, backlog=0)
        self.address, self.port = address_of(self.socket), self.socket.getsockname()[1]
        self._fillers: list[socket.socket] = []
        while not self._is_full():
            pass

    def _is_full(self) -> bool:
        filler = socket.socket()
        self._fillers.append(filler)
        filler.settimeout(0.1)
        try:
            filler.connect(self.socket.getsockname())
        except TimeoutError:
            return True
        return False

    def __enter__(self) -> SilentServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for sock in (self.socket, *self._fillers):
            sock.close()


def _listening(at: str, port: int, backlog: int = 1000) -> socket.socket:
    if at.startswith("/"):
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(at)
        sock.listen(backlog)
        return sock
    return socket.create_server((at, port or free_port(at)), family=family_of(at), backlog=backlog)


def family_of(host: str) -> socket.AddressFamily:
    """The family of an address of this machine; a test that needs IPv6 is skipped where there is none."""
    if ":" not in host:
        return socket.AF_INET
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    return socket.AF_INET6


def free_port(host: str = "127.0.0.1") -> int:
    """A port for TCP and UDP that is free and stays so until it is used, or used again: the kernel does not give it to
    somebody who asks for any port, be it for a connection, and no other test is given it for a good while."""
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    family = family_of(host)
    while True:
        port = random.SystemRandom().randrange(min(10_000, lowest // 2), lowest)
        claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            claim.bind(f"\0gpen test port {port}")
        except OSError:
            claim.close()
            continue
        with _claiming:  # two threads that close the same number would close somebody else's
            if len(_claims) == _claims.maxlen:
                os.close(_claims.popleft())
            _claims.append(claim.detach())
        if all(_is_free(family, kind, host, port) for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM)):
            return port


def _is_free(family: int, kind: int, host: str, port: int) -> bool:
    with socket.socket(family, kind) as sock:
        try:
            sock.bind((host, port))
        except OSError:
            return False
        return True


def address_of(sock: socket.socket) -> str:
    """The address of a socket as gpen takes it."""
    name = sock.getsockname()
    if isinstance(name, str):
        return name
    return f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"


@contextlib.contextmanager
def refusing() -> Iterator[str]:
    """An address of this machine where nobody listens, as long as the context lasts."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", free_port()))
        yield address_of(sock)


def echo(sock: socket.socket) -> None:
    """Send back what comes."""
    while piece := sock.recv(1 << 16):
        sock.sendall(piece)


def hold(sock: socket.socket) -> None:
    """Take what comes, say nothing, until the client closes."""
    while sock.recv(1 << 16):
        pass


def naming(name: str) -> Serve:
    """Say one's name at once, then behave like `echo`."""

    def serve(sock: socket.socket) -> None:
        sock.sendall(name.encode())
        echo(sock)

    return serve


def sending(data: bytes, ends: Callable[[socket.socket], None] = socket.socket.close) -> Serve:
    """Send and close at once, or end by ``reset``."""

    def serve(sock: socket.socket) -> None:
        sock.sendall(data)
        ends(sock)

    return serve
