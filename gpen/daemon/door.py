"""The door for HTTP: where it is, who may come in, and what is behind it (gpen/web)."""

from __future__ import annotations

import logging
import os
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, NamedTuple

from gpen.control.script import ScriptError
from gpen.daemon.chroot import Chroot
from gpen.daemon.front import resolved
from gpen.daemon.socket_files import SocketFiles
from gpen.model.address import UNIX, Address, Endpoint, parse_listen
from gpen.model.client import Client
from gpen.model.pool import Pool
from gpen.model.settings import Settings
from gpen.wire import sockets
from gpen.wire.faults import Seldom
from gpen.wire.given import GivenSockets
from gpen.wire.pacing import gently
from gpen.wire.resolver import Resolver

if TYPE_CHECKING:
    from gpen.wire.web_server import Application, WebServer

log = logging.getLogger("gpen")

MODE = 0o660
SHORTEST_TOKEN = 16
MOST_TOKEN = 4096  # bytes of its file that are looked at

Execute = Callable[[str, str], Iterator[str]]
Tell = Callable[[bool], Iterator[str]]


class Opened(NamedTuple):
    """A server, and where it is: as it was given, or with the port that the kernel chose."""

    server: WebServer
    address: str


class HttpDoor:
    """Closed as long as the setting metrics says nothing. What it needs is loaded when it is opened first: most never
    open it, and it takes 13 ms and 2 MB."""

    def __init__(self, settings: Settings, pool: Pool, files: SocketFiles, resolver: Resolver, chroot: Chroot) -> None:
        self._settings = settings
        self._pool = pool
        self._files = files
        self._resolver = resolver
        self._chroot = chroot
        self._opened: Opened | None = None
        self._former: WebServer | None = None  # the one before, of which clients may be left
        self._application: Application | None = None
        self._execute: Execute = lambda line, address: iter(())
        self._tell: Tell = lambda is_openmetrics: iter(())
        self._is_started = False
        self._refused = Seldom()  # who can connect can ask without end

    def leads_to(self, execute: Execute, tell: Tell) -> None:
        """What is behind it: ``execute`` carries out a line of the control language, ``tell`` gives the text of the
        metrics, or OpenMetrics."""
        self._execute, self._tell = execute, tell

    @property
    def address(self) -> str:
        """Where it is; empty while it is closed."""
        return self._opened.address if self._opened is not None else ""

    @property
    def is_answering(self) -> bool:
        """Whether a client waits for the rest of an answer."""
        servers = (self._opened.server if self._opened is not None else None, self._former)
        return any(server is not None and server.is_answering for server in servers)

    # --- opening and closing --------------------------------------------------------------------------------------

    def load(self) -> Application:
        """Import and read all that is needed: from within a chroot nothing of that is to be seen."""
        if self._application is None:
            import gpen.wire.web_server  # noqa: F401
            from gpen.web.application import Application, Door

            self._application = Application(Door(
                lambda line: gently(self._execute(line, "")), lambda is_openmetrics: gently(self._tell(is_openmetrics)),
                lambda: self._settings.metrics_control == "on", lambda: _token(self._settings, self._chroot),
                _tell_action, self._tell_refusal))
        return self._application

    def open(self, given: GivenSockets | None = None) -> None:
        """Open it where the settings say, unless its socket is ``given``. Switches greenlets. Raises ScriptError,
        ListenError or OSError."""
        if self._settings.chroot:
            self.load()
        with ExitStack() as undo:
            self._opened = self.prepare(self._settings, undo, given)
            undo.pop_all()

    def prepare(self, settings: Settings, undo: ExitStack, given: GivenSockets | None = None) -> Opened | None:
        """One where these settings want it, that has not started; ``undo`` closes it again. Switches greenlets. Raises
        ScriptError, ListenError or OSError."""
        if settings.metrics is None:
            return None
        from gpen.wire.web_server import WebServer

        application = self.load()
        address = parse_listen(settings.metrics, "127.0.0.1")
        sock = self._socket(settings, address, given)
        shown = str(sockets.endpoint_of(sock)) if address.port == 0 and not address.path else settings.metrics
        opened = Opened(WebServer(sock, application, self._is_welcome), shown)
        undo.callback(self._close, opened)
        return opened

    def _socket(self, settings: Settings, address: Address, given: GivenSockets | None) -> sockets.Socket:
        if address.path:
            address = Address(path=self._chroot.path(address.path))
            endpoint = Endpoint(socket.AF_UNIX, address.path, address.path, 0)
        else:
            endpoint = resolved(self._resolver, settings, "metrics", address)[0]
        sock = given.take("", address, endpoint, False) if given is not None else None
        if sock is not None:
            return sock
        return self._files.listen(address, MODE) if address.path else sockets.listen(address, endpoint, settings)

    def adopt(self, opened: Opened | None) -> None:
        """It is there from now on, or closed. Does not switch."""
        old, self._opened = self._opened, opened
        if old is not None:
            self._former = old.server
            old.server.dismiss()
            self._close(old)
        if self._is_started and opened is not None:
            opened.server.start()

    def start(self) -> None:
        """Answer, if it is open; what is opened later answers at once."""
        self._is_started = True
        if self._opened is not None:
            self._opened.server.start()

    def close(self) -> None:
        """Let nobody in, and send away who is there."""
        self.adopt(None)

    def _close(self, opened: Opened) -> None:
        opened.server.close()
        self._files.remove(opened.address)

    # --- another gpen ---------------------------------------------------------------------------------------------

    def fileno(self) -> int:
        """The descriptor of its socket; -1 while it is closed."""
        return self._opened.server.fileno() if self._opened is not None else -1

    def suspend(self) -> None:
        """Let nobody in until ``go_on``, or ``hand_over``."""
        if self._opened is not None:
            self._opened.server.suspend()

    def go_on(self) -> None:
        """Let clients in again."""
        if self._opened is not None:
            self._opened.server.go_on()

    def hand_over(self, is_taken: bool) -> None:
        """Another gpen answers here; or nobody does any more."""
        if is_taken and "/" in self.address:
            self._files.disown(self.address)
        self.close()

    def own(self) -> None:
        """The file of a socket that was given is ours from now on."""
        if "/" in self.address:
            self._files.own(self.address, MODE)

    # --- who may what ---------------------------------------------------------------------------------------------

    def _is_welcome(self, address: str) -> bool:
        number = self._settings.metrics_acl
        return number == "off" or self._pool.permits(int(number), Client(address or UNIX, -1))

    def _tell_refusal(self, client: str, why: str) -> None:
        more = self._refused.comes()
        if more is not None:
            log.warning("page: %s: refused: %s%s", client, why, more)


def check_token(settings: Settings, chroot: Chroot) -> None:
    """Raises ScriptError when there may be actions, and nobody could know the word for them."""
    if settings.metrics_control != "on" or settings.metrics_token is None:  # without one, validation has refused it
        return
    try:
        _token(settings, chroot)
    except OSError as error:
        raise ScriptError(f"metrics_token: can't read '{settings.metrics_token}': {error.strerror}") from None
    except ValueError as error:
        raise ScriptError(f"metrics_token: '{settings.metrics_token}': {error}") from None


def _token(settings: Settings, chroot: Chroot) -> str:
    """The word in the file of metrics_token. Raises OSError or ValueError."""
    if settings.metrics_token is None:
        raise ValueError("it is not set, so nobody may act")
    path = chroot.path(settings.metrics_token)
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:  # a FIFO, say
        mode = os.fstat(file.fileno()).st_mode
        if not stat.S_ISREG(mode):
            raise ValueError("it is no file")
        if mode & stat.S_IROTH:
            raise ValueError("everybody can read its file: chmod o-r")
        first = file.read(MOST_TOKEN).split(b"\n", 1)[0].strip().decode("utf-8", "surrogateescape")
    if len(first) < SHORTEST_TOKEN or not first.isprintable() or " " in first:
        raise ValueError(f"expected one word of at least {SHORTEST_TOKEN} characters in the first line of its file")
    return first


def _tell_action(client: str, what: str) -> None:
    log.info("page: %s: %s", client, what)
