"""The checks: one attempt to find out whether a server is well, in the way that a Check says.

A failure of the server is a CheckFailed, with a reason that stays the same as long as the trouble does. A failure of
this machine, which says nothing about the server, stays an OSError.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

import gevent

from gpen.model.address import Endpoint
from gpen.model.check import Check
from gpen.model.server import Server
from gpen.model.settings import Settings
from gpen.model.text import shortened
from gpen.proto.protocol import ServerFirst
from gpen.proto.proxy_header import local_header
from gpen.wire.dial import await_greeting, reach
from gpen.wire.poller import EPOLLIN, EPOLLOUT, FOR_EVER, Poller
from gpen.wire.server_tls import SecuredSocket, ServerTls, tls_name
from gpen.wire.sockets import LOCAL_ERRORS, PROHIBITIONS, cause_of, connect
from gpen.wire.subprocesses import Children, Flood, Program, how_it_ended, passed_environment, place_of

_GREETING = ServerFirst()  # all that check greeting knows: it is refused with mysql
_MOST = 65536  # bytes of an answer that are looked at
_PIECE = 16384
_SHOWN = 40  # characters
_PARTING_SECONDS = 0.25  # for a server's answer to our goodbye in TLS


class CheckFailed(Exception):
    """The server is not well: the reason, for ``servers`` and ``events``."""


class KeptAway(CheckFailed):
    """This machine keeps gpen from the server, and perhaps from others."""


class Prober:
    """Checks one server, one time at a time."""

    def __init__(self, server: Server, settings: Settings, poller: Poller, children: Children,
                 locate: Callable[[str], str], server_tls: Callable[[], ServerTls | None]) -> None:
        """``locate`` gives the name of a file as it is seen from within the chroot, ``server_tls`` what speaks TLS to
        servers."""
        self._server = server
        self._settings = settings
        self._poller = poller
        self._children = children
        self._locate = locate
        self._server_tls = server_tls
        self._program: Program | None = None
        self._port: int | None = None  # the one that is checked, if that is not the server's own

    def probe(self, check: Check, seconds: float, port: int | None = None) -> str:
        """What is good about the server, found within so many seconds at its own port, or at another. Switches
        greenlets.

        Its addresses are tried in order and share the time. Raises CheckFailed with what was wrong at the first of
        them, and OSError when this machine is to blame.
        """
        self._port = port
        deadline = time.monotonic() + seconds
        problem: CheckFailed | OSError | None = None
        endpoints = self._server.target.endpoints
        for number, endpoint in enumerate(endpoints):
            share = (deadline - time.monotonic()) / (len(endpoints) - number)
            late = CheckFailed(f"{'not done' if check.kind == 'exec' else 'no answer'} within {seconds:g} s")
            try:
                with gevent.Timeout(max(share, 0), late):  # for all of its steps together
                    return self._attempt(check, endpoint)
            except (CheckFailed, OSError) as failure:
                if not isinstance(problem, CheckFailed):
                    problem = failure if isinstance(failure, CheckFailed) else problem or failure
        raise problem or CheckFailed(f"its address {self._server.address} is not resolved")

    def _attempt(self, check: Check, endpoint: Endpoint) -> str:
        try:
            return _PROBES[check.kind](self, check, endpoint if self._port is None else endpoint.at(self._port))
        except OSError as error:
            if check.kind == "exec":
                raise  # it was this machine that could not run it
            if error.errno in LOCAL_ERRORS:
                raise
            failure = KeptAway if error.errno in PROHIBITIONS else CheckFailed
            raise failure(cause_of(error)) from None

    def _knock(self, check: Check, endpoint: Endpoint) -> str:
        """Half a handshake, where TLS is not spoken. MySQL counts a client that connects and goes away as an error, and
        may block it."""
        if self._tls_name() is not None:
            with contextlib.closing(self._connected(endpoint)) as sock:
                sock.part(_PARTING_SECONDS)
            return "speaks TLS"
        connect(endpoint, self._settings, self._poller, FOR_EVER, unseen=True).close()
        return "listens"

    def _await_greeting(self, check: Check, endpoint: Endpoint) -> str:
        with contextlib.closing(self._connected(endpoint)) as sock:
            if isinstance(sock, SecuredSocket):
                sock.await_first_byte(FOR_EVER)
            else:
                await_greeting(sock, _GREETING, self._poller, FOR_EVER)
        return "greeted"

    def _ask(self, check: Check, endpoint: Endpoint) -> str:
        with contextlib.closing(self._connected(endpoint)) as sock:
            self._send(sock, check.question)
            self._await_answer(sock, check)
        return f"answered '{check.expect[:_SHOWN]}'"

    def _tls_name(self) -> str | None:
        """The name that the server is asked for in TLS; None where a check speaks plainly, as it does at another port
        than the server's unless that is told."""
        settings = self._settings
        is_wanted = settings.check_tls == "on" or (settings.check_tls == "default" and self._port is None)
        return tls_name(self._server, settings) if is_wanted and self._server_tls() is not None else None

    def _connected(self, endpoint: Endpoint) -> Any:
        """A socket that is connected, or what speaks TLS on it."""
        header = local_header(self._settings.proxy_protocol) if self._port is None else b""
        name, server_tls = self._tls_name(), self._server_tls()
        if name is None or server_tls is None:
            return reach(endpoint, self._settings, self._poller, FOR_EVER, header)
        stream = server_tls.reach(endpoint, name, self._settings, self._poller, FOR_EVER, header)
        return SecuredSocket(stream, self._poller)

    def _send(self, sock: Any, data: bytes) -> None:
        while data:
            try:
                data = data[sock.send(data) :]
            except BlockingIOError:
                self._poller.wait(sock.fileno(), EPOLLOUT, FOR_EVER)

    def _await_answer(self, sock: Any, check: Check) -> None:
        """Read until the answer has come, in whatever pieces."""
        heard, piece = b"", b""
        try:
            while check.answer not in heard and len(heard) < _MOST:
                piece = self._receive(sock)
                heard += piece
                if not piece:
                    break
        except (CheckFailed, ConnectionError):
            if not heard:
                raise
        if check.answer not in heard:
            wrong = f"answered '{_shown(heard)}' instead of '{check.expect[:_SHOWN]}'"
            raise CheckFailed(wrong if heard else "closed before its first byte")

    def _receive(self, sock: Any) -> bytes:
        while True:
            try:
                data: bytes = sock.recv(_PIECE)
                return data
            except BlockingIOError:
                self._poller.wait(sock.fileno(), EPOLLIN, FOR_EVER)

    def _execute(self, check: Check, endpoint: Endpoint) -> str:
        if self._program is not None and not self._program.is_over:
            raise CheckFailed("its program can't be killed")
        path, *arguments = check.command
        environment = passed_environment() | place_of(endpoint) | {"GPEN_SERVER": self._server.name}
        self._program = program = Program([self._locate(path), *arguments, str(endpoint)],
                                          environment, self._poller, self._children)
        try:
            status, line = program.outcome()
        except Flood:
            raise CheckFailed("its program wrote more than 1 MiB") from None
        finally:
            program.end()
        if status:
            raise CheckFailed(how_it_ended(status, line))
        return line or how_it_ended(status)


# by the kinds of model/check.py
_PROBES: dict[str, Callable[[Prober, Check, Endpoint], str]] = {
    "connect": Prober._knock, "greeting": Prober._await_greeting, "send": Prober._ask, "exec": Prober._execute}


def _shown(data: bytes) -> str:
    """The beginning of the first line."""
    return shortened(data.lstrip().partition(b"\n")[0].rstrip(b"\r"), _SHOWN)
