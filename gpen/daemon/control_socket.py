"""The control socket: where it is, who may connect, and what becomes of it at the end."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterator

from gpen.control import reply
from gpen.control.script import asks_to_stay
from gpen.daemon.chroot import Chroot
from gpen.daemon.socket_files import SocketFiles
from gpen.model.address import Address, Endpoint, parse_listen
from gpen.model.client import Client
from gpen.model.pool import Pool
from gpen.model.settings import Settings
from gpen.wire import sockets
from gpen.wire.control import ControlServer, Offer
from gpen.wire.given import GivenSockets
from gpen.wire.resolver import Endpoints

log = logging.getLogger("gpen")

Execute = Callable[[str, str], Iterator[str]]
MOST_BEFORE = 100  # gpens that end their sessions, and have sockets of their own for that


class ControlSocket:
    """Open once it was asked to ``open``; ``address`` is then where, as it was given, or with the port that the kernel
    chose; else empty."""

    def __init__(self, settings: Settings, pool: Pool, files: SocketFiles, chroot: Chroot) -> None:
        self.address = ""
        self._chroot = chroot
        self._settings = settings
        self._pool = pool
        self._files = files
        self._server: ControlServer | None = None
        self._former: ControlServer | None = None  # of a socket that was handed over
        self._execute: Execute = lambda line, address: iter(())
        self._offer: Offer = lambda line, sock: None

    def open(self, text: str, resolve: Callable[[], Endpoints], execute: Execute, offer: Offer,
             given: GivenSockets | None = None) -> None:
        """Bind it at this address, unless it is ``given``; ``resolve`` says what that means, ``execute`` runs a line of
        a client, ``offer`` is for what is more than that. Raises ScriptError, ListenError or OSError."""
        self._execute, self._offer = execute, offer
        address = parse_listen(text, "127.0.0.1")
        if address.path:
            place = Endpoint(socket.AF_UNIX, address.path, address.path, 0)
            sock = given.take("", address, place, False) if given is not None else None
            if sock is None:
                sock = self._files.listen(address, self._settings.control_mode)
        else:
            sock = sockets.listen(address, resolve()[0], self._settings)
        self.address = str(sockets.endpoint_of(sock)) if address.port == 0 and not address.path else text
        self._server = ControlServer(sock, execute, asks_to_stay, self._welcome, offer)

    def start(self) -> None:
        """Take commands, if it is open."""
        if self._server is not None:
            self._server.start()

    def renew_mode(self) -> None:
        """Give its file the mode of the settings."""
        self._files.change_mode(self.address, self._settings.control_mode)

    def fileno(self) -> int:
        """Its descriptor; -1 if it is not open."""
        return self._server.fileno() if self._server is not None else -1

    @property
    def is_answering(self) -> bool:
        """Whether a client waits for the rest of a reply."""
        return any(server is not None and server.answering for server in (self._server, self._former))

    def own(self) -> None:
        """The file of one that was given is ours from now on, with its mode."""
        if "/" in self.address:
            self._files.own(self.address, self._settings.control_mode)

    def suspend(self) -> None:
        """Accept nobody until ``go_on``, or ``hand_over``."""
        if self._server is not None:
            self._server.suspend()

    def go_on(self) -> None:
        """Accept again."""
        if self._server is not None:
            self._server.go_on()

    def hand_over(self, is_taken: bool) -> None:
        """Another gpen answers here, or, where it has taken none, nobody; this one does beside it, as PATH.old, for
        those who ask what it does yet."""
        server, address = self._server, self.address
        if server is None:
            return
        server.dismiss()
        server.close()
        if is_taken:
            self._files.disown(address)
        else:
            self._files.remove(address)
        self._server, self._former, self.address = None, server, ""
        if "/" in address:
            self._open_beside(address)

    def _open_beside(self, address: str) -> None:
        for number in range(1, MOST_BEFORE):
            name = f"{address}.old{number if number > 1 else ''}"
            try:
                sock = self._files.listen(Address(path=self._chroot.path(name)), self._settings.control_mode)
            except sockets.ListenError as error:
                problem = error
                continue
            self.address = self._chroot.path(name)
            self._server = ControlServer(sock, self._execute, asks_to_stay, self._welcome, self._offer)
            self._server.start()
            return
        log.warning("nobody can ask this gpen for its sessions: %s", problem)

    def close(self) -> None:
        """Take no more. A second call does nothing."""
        if self._server is not None:
            self._server.close()
            self._files.remove(self.address)

    def _welcome(self, address: str) -> str | None:
        """Why a control client of this address is refused; None when it is not."""
        number = self._settings.control_acl
        is_local = not address or address == "::1" or address.startswith("127.")
        if (number is None and is_local) or self._pool.permits(number or 0, Client(address or "unix", -1)):
            return None
        return reply.error(f"access list {number or 0} (control_acl) denies {address}")
