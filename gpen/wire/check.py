"""The checks: one attempt to find out whether a server is well, in the way that a Check says.

A failure of the server is a CheckFailed, with a reason that stays the same as long as the trouble does. A failure of
this machine, which says nothing about the server, stays an OSError.
"""

from __future__ import annotations

import _socket
import contextlib
import os
import time
from collections.abc import Callable

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
from gpen.wire.sockets import LOCAL_ERRORS, PROHIBITIONS, Socket, cause_of, connect
from gpen.wire.subprocesses import Children, Flood, Program

_GREETING = ServerFirst()  # all that check greeting knows: it is refused with mysql
_MOST = 65536  # bytes of an answer that are looked at
_PIECE = 16384
_SHOWN = 40  # characters
_PASSED, _PASSED_PREFIX = ("PATH", "LANG"), "GPEN_"  # of our environment, to a program


class CheckFailed(Exception):
    """The server is not well: the reason, for ``servers`` and ``events``."""


class KeptAway(CheckFailed):
    """This machine keeps gpen from the server, and perhaps from others."""


class Prober:
    """Checks one server, one time at a time."""

    def __init__(self, server: Server, settings: Settings, poller: Poller, children: Children,
                 locate: Callable[[str], str]) -> None:
        """``locate`` gives the name of a file as it is seen from within the chroot."""
        self._server = server
        self._settings = settings
        self._poller = poller
        self._children = children
        self._locate = locate
        self._program: Program | None = None

    def probe(self, check: Check, seconds: float) -> str:
        """What is good about the server, found within so many seconds. Switches greenlets.

        Its addresses are tried in order and share the time. Raises CheckFailed with what was wrong at the first of
        them, and OSError when this machine is to blame.
        """
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
            return _PROBES[check.kind](self, check, endpoint)
        except OSError as error:
            if check.kind == "exec":
                raise  # it was this machine that could not run it
            if error.errno in LOCAL_ERRORS:
                raise
            failure = KeptAway if error.errno in PROHIBITIONS else CheckFailed
            raise failure(cause_of(error)) from None

    def _knock(self, check: Check, endpoint: Endpoint) -> str:
        """Half a handshake. MySQL counts a client that connects and goes away as an error, and may block it."""
        connect(endpoint, self._settings, self._poller, FOR_EVER, unseen=True).close()
        return "listens"

    def _await_greeting(self, check: Check, endpoint: Endpoint) -> str:
        with contextlib.closing(self._connected(endpoint)) as sock:
            await_greeting(sock, _GREETING, self._poller, FOR_EVER)
        return "greeted"

    def _ask(self, check: Check, endpoint: Endpoint) -> str:
        with contextlib.closing(self._connected(endpoint)) as sock:
            self._send(sock, check.question)
            self._await_answer(sock, check)
        return f"answered '{check.expect[:_SHOWN]}'"

    def _connected(self, endpoint: Endpoint) -> Socket:
        header = local_header(self._settings.proxy_protocol)
        return reach(endpoint, self._settings, self._poller, FOR_EVER, header)

    def _send(self, sock: Socket, data: bytes) -> None:
        while data:
            try:
                data = data[sock.send(data) :]
            except BlockingIOError:
                self._poller.wait(sock.fileno(), EPOLLOUT, FOR_EVER)

    def _await_answer(self, sock: Socket, check: Check) -> None:
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

    def _receive(self, sock: Socket) -> bytes:
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
        self._program = program = Program([self._locate(path), *arguments, str(endpoint)],
                                          self._environment(endpoint), self._poller, self._children)
        try:
            status, line = program.outcome()
        except Flood:
            raise CheckFailed("its program wrote more than 1 MiB") from None
        finally:
            program.end()
        ending = f"exit status {status}" if status >= 0 else f"killed by signal {-status}"
        if status:
            raise CheckFailed(f"{ending}: {line}" if line else ending)
        return line or ending

    def _environment(self, endpoint: Endpoint) -> dict[str, str]:
        """Of our own only what is meant for it: no secret, no LD_PRELOAD, no socket of systemd's."""
        passed = {name: value for name, value in os.environ.items()
                  if name in _PASSED or name.startswith(_PASSED_PREFIX)}
        is_path = endpoint.family == _socket.AF_UNIX
        return passed | {"GPEN_ADDRESS": str(endpoint), "GPEN_HOST": "" if is_path else endpoint.host,
                         "GPEN_PORT": "" if is_path else str(endpoint.port), "GPEN_SERVER": self._server.name}


# by the kinds of model/check.py
_PROBES: dict[str, Callable[[Prober, Check, Endpoint], str]] = {
    "connect": Prober._knock, "greeting": Prober._await_greeting, "send": Prober._ask, "exec": Prober._execute}


def _shown(data: bytes) -> str:
    """The beginning of the first line."""
    return shortened(data.lstrip().partition(b"\n")[0].rstrip(b"\r"), _SHOWN)
