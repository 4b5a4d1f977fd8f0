"""Messages between two gpens of this machine, with descriptors in them (SCM_RIGHTS of unix(7)): how one hands its
sockets to the one that takes its place.

A SOCK_SEQPACKET keeps a message and its descriptors together. One end is a plain socket, whose program does nothing
else as long as it waits, the other one of gevent's; the same calls do for both.
"""

from __future__ import annotations

import _socket
import array
import errno
import json
import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import gevent
from gevent import socket as gsocket

MOST_DESCRIPTORS = 253  # of a message: SCM_MAX_FD
PIECE = 32768  # bytes: a message holds so much, and what one more line or flow has
SEND_SECONDS = 5.0
_LARGEST = 1 << 20
_MOST_TRIES = 100
_PAUSE = 0.01
_PEER = struct.Struct("3i")  # struct ucred

Fields = dict[str, Any]


class PassingError(Exception):
    """The other side ended, was silent, or has said what makes no sense: why, in small letters."""


class SilenceError(PassingError):
    """It says nothing."""


@dataclass
class Message:
    """One message: its ``kind``, the other ``fields``, and descriptors, which are the receiver's to close."""

    kind: str
    fields: Fields
    descriptors: list[int]

    def __getitem__(self, name: str) -> Any:
        return self.fields[name]

    def close(self) -> None:
        """Nobody needs its descriptors."""
        for fd in self.descriptors:
            os.close(fd)


class Peer(NamedTuple):
    """Who is at the other end of a unix socket: of one that listens, who has called listen(2)."""

    pid: int
    uid: int


def peer_of(sock: Any) -> Peer:
    """Who is there. Raises OSError where the socket is none of this machine's processes alone."""
    pid, uid, _ = _PEER.unpack(sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, _PEER.size))
    return Peer(pid, uid)


class Channel:
    """One end of the line."""

    def __init__(self, sock: Any) -> None:
        self._sock = sock

    def fileno(self) -> int:
        return int(self._sock.fileno())

    def close(self) -> None:
        self._sock.close()

    def made_cooperative(self) -> Channel:
        """The same end, to be waited for as gevent does; this one is closed."""
        return cooperative(self._sock.detach())

    def send(self, kind: str, descriptors: Sequence[int] = (), **fields: Any) -> None:
        """Send one message. Raises PassingError."""
        data = json.dumps({"kind": kind, **fields}, separators=(",", ":")).encode()
        self._sock.settimeout(SEND_SECONDS)
        rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        for _ in range(_MOST_TRIES):
            try:
                self._sock.sendmsg([data], rights)
                return
            except TimeoutError:
                raise PassingError("it does not read") from None
            except OSError as error:
                if error.errno != errno.ETOOMANYREFS:  # more are on their way than we may have: it is about to read
                    raise PassingError(_cause(error)) from None
                gevent.sleep(_PAUSE)
        raise PassingError("it does not read")

    def receive(self, seconds: float | None) -> Message:
        """The next message, which comes within so many seconds. Raises PassingError."""
        self._sock.settimeout(seconds)
        try:
            data, ancillary, flags, _ = self._sock.recvmsg(
                _LARGEST, _socket.CMSG_SPACE(4 * MOST_DESCRIPTORS), _socket.MSG_CMSG_CLOEXEC)
        except TimeoutError:
            raise SilenceError(f"it says nothing for {seconds:g} s") from None
        except OSError as error:
            raise PassingError(_cause(error)) from None
        message = _read(data, [fd for _, _, part in ancillary for fd in array.array("i", part)])
        if flags & _socket.MSG_CTRUNC:
            message.close()
            raise PassingError("descriptors were lost: the limit is too low (ulimit -n, LimitNOFILE)")
        return message

    def all_until(self, last: str, seconds: float) -> Iterator[Message]:
        """The messages before one of kind ``last``, which is the last of these. Raises PassingError."""
        while (message := self.receive(seconds)).kind != last:
            yield message
        yield message

    def send_lines(self, kind: str, lines: Iterable[str]) -> None:
        """Send many lines, in as many messages as that takes. Raises PassingError."""
        for piece in pieces(lines, len):
            self.send(kind, lines=piece)


def _read(data: bytes, descriptors: list[int]) -> Message:
    if not data:
        raise PassingError("it has ended")
    try:
        fields = json.loads(data)
    except ValueError:
        fields = None
    message = Message("", fields if isinstance(fields, dict) else {}, descriptors)
    message.kind = str(message.fields.pop("kind", ""))
    if not message.kind:
        message.close()
        raise PassingError("it does not speak our language")
    return message


def _cause(error: OSError) -> str:
    if error.errno in (errno.ECONNRESET, errno.EPIPE):
        return "it has ended"
    return (error.strerror or str(error)).lower()


def pieces(items: Iterable[Any], size: Any, most: int = MOST_DESCRIPTORS * 4) -> Iterator[list[Any]]:
    """The items in parts that fit into a message each: so many, or of PIECE bytes as ``size`` tells."""
    part: list[Any] = []
    room = PIECE
    for item in items:
        part.append(item)
        room -= size(item)
        if room <= 0 or len(part) >= most:
            yield part
            part, room = [], PIECE
    if part:
        yield part


def pair() -> tuple[Channel, int]:
    """Our end of a new line, of gevent's kind, and a descriptor of the other, to be passed on and closed."""
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    for sock in (ours, theirs):
        sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDBUF, _LARGEST)
    return cooperative(ours.detach()), theirs.detach()


def cooperative(fd: int) -> Channel:
    """An end of a line that is waited for as gevent does."""
    return Channel(gsocket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, fd))


def plain(fd: int) -> Channel:
    """An end of a line whose process waits for nothing else meanwhile."""
    return Channel(_socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, fd))
