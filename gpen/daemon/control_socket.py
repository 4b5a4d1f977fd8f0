"""The control socket: where it is, who may connect, and what becomes of it at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from gpen.control import reply
from gpen.control.script import asks_to_stay
from gpen.daemon.socket_files import SocketFiles
from gpen.model.address import parse_listen
from gpen.model.client import Client
from gpen.model.pool import Pool
from gpen.model.settings import Settings
from gpen.wire import sockets
from gpen.wire.control import ControlServer
from gpen.wire.resolver import Endpoints

Execute = Callable[[str, str], Iterator[str]]


class ControlSocket:
    """Open once it was asked to ``open``; ``address`` is then where, as it was given, or with the port that the kernel
    chose; else empty."""

    def __init__(self, settings: Settings, pool: Pool, files: SocketFiles) -> None:
        self.address = ""
        self._settings = settings
        self._pool = pool
        self._files = files
        self._server: ControlServer | None = None

    def open(self, text: str, resolve: Callable[[], Endpoints], execute: Execute) -> None:
        """Bind it at this address; ``resolve`` says what that means, ``execute`` runs a line of a client. Raises
        ScriptError, ListenError or OSError."""
        address = parse_listen(text, "127.0.0.1")
        if address.path:
            sock = self._files.listen(address, self._settings.control_mode)
        else:
            sock = sockets.listen(address, resolve()[0], self._settings)
        self.address = str(sockets.endpoint_of(sock)) if address.port == 0 and not address.path else text
        self._server = ControlServer(sock, execute, asks_to_stay, self._welcome)

    def start(self) -> None:
        """Take commands, if it is open."""
        if self._server is not None:
            self._server.start()

    def renew_mode(self) -> None:
        """Give its file the mode of the settings."""
        self._files.change_mode(self.address, self._settings.control_mode)

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
