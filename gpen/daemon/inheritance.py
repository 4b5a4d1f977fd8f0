"""The new gpen's side, when one takes the place of another that runs (``gpen --replace``); handover.py is the other.

It asks over the control socket, gets what listens there, opens all that it needs beside, and says that it is ready:
only then does the old one stop accepting, and tell what it knows. Until the old one has taken its word that it serves,
it has changed nothing that the old one needs, and removes nothing when it fails.

All this is waited for without a look at anything else: nobody is served here yet.
"""

from __future__ import annotations

import _socket
import contextlib
import os
import socket
from collections.abc import Iterator
from typing import Any

from gpen import __version__
from gpen.control.draft import Draft
from gpen.control.script import ScriptError
from gpen.control.sources import Sources
from gpen.control.succession import Estate
from gpen.daemon import process
from gpen.daemon.process import StartError
from gpen.model.address import parse_listen
from gpen.model.settings import Settings
from gpen.wire import passing
from gpen.wire.given import Given, GivenSockets
from gpen.wire.passing import Channel, Message, PassingError, SilenceError

PROTOCOL = 1
COMMAND = "handover"  # by which it is asked for
ANSWER_SECONDS = 30.0
CONFIRM_SECONDS = 10.0
_LINE = 1024


class Inheritance:
    """What the old gpen, whose process is ``pid``, hands over: ``listeners``, ``control``, ``door`` and ``peers`` are
    its sockets, ``files`` the listeners whose sockets have files that it would remove, ``estate`` is its configuration.
    Get it by ``claim``."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._lines: dict[str, list[str]] = {"start": [], "running": []}
        self._pid_fd = self._stderr = -1
        self.pid = 0
        self.listeners = GivenSockets(exact=True)
        self.control = GivenSockets(exact=True)
        self.door = GivenSockets(exact=True)
        self.peers = GivenSockets(exact=True)
        self.files: set[str] = set()
        self.estate = Estate((), ())

    # --- asking ---------------------------------------------------------------------------------------------------

    @classmethod
    def claim(cls, settings: Settings) -> Inheritance:
        """Ask the gpen that has this control socket. Raises StartError."""
        inheritance = cls(_asked(settings))
        with inheritance._told():
            inheritance._take()
        return inheritance

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """What goes wrong here keeps us from starting, and is told in a line."""
        try:
            yield
        except PassingError as error:
            raise StartError(f"--replace: the gpen that runs{self._called()}: {error}") from None
        except ScriptError as error:
            raise StartError(f"--replace: what the gpen that runs{self._called()} tells makes no sense to "
                             f"{__version__}: {error.told()[0]}") from None

    def _called(self) -> str:
        return f" with pid {self.pid}" if self.pid else ""

    def _take(self) -> None:
        """Take what the old one has. Raises PassingError or ScriptError."""
        for message in self._channel.all_until("end", ANSWER_SECONDS):
            if message.kind in self._lines:
                self._lines[message.kind] += message["lines"]
            elif message.kind == "listener":
                self.listeners.give_to(message["name"], [_given(message)])
                if message["has_file"]:
                    self.files.add(message["name"])
            elif message.kind == "control":
                self.control.give_to("", [_given(message)])
            elif message.kind == "metrics":
                self.door.give_to("", [_given(message)])
            elif message.kind == "peers":
                self.peers.give_to("", [_given(message)])
            elif message.kind == "pid":
                self._pid_fd = message.descriptors[0]
            elif message.kind == "stderr":
                self._stderr = message.descriptors[0]
            elif message.kind == "end":
                self.pid = message["pid"]
        self._read_estate()

    def _read_estate(self) -> None:
        self.estate = Estate(self._lines["start"], self._lines["running"])
        self._lines = {"start": [], "running": []}

    @property
    def has_peers(self) -> bool:
        """Whether the old one has peers, who have told it all."""
        return self.estate.running.settings.peers is not None

    def merged(self, sources: Sources) -> Draft:
        """What a gpen with these sources has in its place, as a draft over nothing. Raises StartError."""
        with self._told():
            return self.estate.merged(sources)

    def pid_file(self, path: str) -> process.PidFile:
        """The pid file, locked: the old one's, which holds its pid as long as that serves, or another. Raises
        StartError."""
        return process.PidFile.passed_on(path, self._pid_fd) or process.PidFile(path)

    # --- taking over ----------------------------------------------------------------------------------------------

    def ready(self, has_pid_file: bool) -> Iterator[Message]:
        """All is prepared: have the old one stop. Yields what it knows, message by message; if its configuration has
        changed meanwhile, ``estate`` is another then. Raises StartError."""
        with self._told():
            self._channel.send("ready", listeners=self.listeners.taken, control=bool(self.control.taken),
                               metrics=bool(self.door.taken), pid_file=has_pid_file)
            for message in self._channel.all_until("end", ANSWER_SECONDS):
                if message.kind in self._lines:
                    self._lines[message.kind] += message["lines"]
                elif message.kind != "end":
                    yield message
            if self._lines["running"]:
                self._read_estate()

    def confirm(self) -> None:
        """From the next moment on we serve. Raises StartError when the old one goes on instead. One that is busy, or
        stopped, finds this word when it wakes, and believes it."""
        with self._told():
            self._channel.send("serving")
            with contextlib.suppress(SilenceError):
                self._channel.receive(CONFIRM_SECONDS)

    def line(self) -> Channel:
        """The line to the old one, to be waited for as gevent does, from now on."""
        return self._channel.made_cooperative()

    def settle(self) -> None:
        """All is taken. What this process tells goes from now on where the old one's goes, which has started it."""
        if self._stderr >= 0:
            os.dup2(self._stderr, 2)
        self.close()

    def close(self) -> None:
        """Let go of all that nobody has taken."""
        self._channel.close()
        self.listeners.close()
        self.control.close()
        self.door.close()
        self.peers.close()
        for fd in (self._pid_fd, self._stderr):
            if fd >= 0:
                os.close(fd)
        self._pid_fd = self._stderr = -1


def _asked(settings: Settings) -> Channel:
    """The line that the gpen with this control socket gives us. Raises StartError."""
    assert settings.control is not None
    path = parse_listen(settings.control).path
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as sock:
        sock.settimeout(ANSWER_SECONDS)
        try:
            sock.connect(path)
            _check_user(sock, settings)
            sock.sendall(f"{COMMAND} {PROTOCOL} {__version__}\n".encode())
            reply, descriptors, _, _ = socket.recv_fds(sock, _LINE, 1, _socket.MSG_CMSG_CLOEXEC)
        except OSError as error:
            reason = "it does not answer" if isinstance(error, TimeoutError) else error.strerror
            raise StartError(f"--replace: there is no gpen to replace at '{path}': {reason}") from None
    if not descriptors:
        said = reply.decode(errors="replace").strip().removeprefix("error: ")
        raise StartError(f"--replace: the gpen at '{path}' does not hand over: {said or 'it closes'}")
    return passing.plain(descriptors[0])


def _check_user(sock: Any, settings: Settings) -> None:
    """Raises StartError where another user's program listens: it may be anything."""
    account = process.user_to_be(settings)
    trusted = {0, os.geteuid(), account.pw_uid if account is not None else 0}
    uid = passing.peer_of(sock).uid
    if uid not in trusted:
        raise StartError(f"--replace: '{settings.control}' is the socket of another user ({uid})")


def _given(message: Message) -> Given:
    return Given(message["name"], _socket.socket(fileno=message.descriptors[0]), message["path"], message["is_wider"])
