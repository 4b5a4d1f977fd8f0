"""Records and descriptors from one process of gpen to another, in order, over a pair of unix sockets.

A record is a tuple of what marshal knows, with a word for its kind in front: both ends are the same build. What is sent
within one turn of the poller goes in one frame, and the descriptors with its first bytes (SCM_RIGHTS, unix(7)): with a
system call for each record, a connection would take two or three more.
"""

from __future__ import annotations

import _socket
import array
import errno
import marshal
import os
import struct
from collections import deque
from collections.abc import Callable
from typing import Any

from gpen.wire.faults import Faults
from gpen.wire.kernel import EPOLLIN, EPOLLOUT, Handler
from gpen.wire.passing import MOST_DESCRIPTORS
from gpen.wire.poller import Poller

Record = tuple[Any, ...]
_HEAD = struct.Struct("=IH")  # of a frame: its bytes behind this, and the descriptors that go with it
_HEAD_SIZE = _HEAD.size
_PIECE = 1 << 18  # bytes that are read at once
_ANCILLARY = _socket.CMSG_SPACE(MOST_DESCRIPTORS * 4)
_AGAIN_SECONDS = 0.02
_SOON = 0.005  # seconds


class Closed(Exception):
    """The process at the other end is gone."""


def pair() -> tuple[Any, Any]:
    """Both ends of a channel. Raises OSError."""
    return _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)


def framed(records: list[Any], descriptors: int = 0) -> bytes:
    """Records as they are sent, with so many descriptors."""
    data = marshal.dumps(records)
    return _HEAD.pack(len(data), descriptors) + data


class Frames:
    """What was read of a channel: records, in order, and the descriptors that came with them; -1 for one that the
    kernel could not give to this process, which has as many as it may have."""

    def __init__(self) -> None:
        self.descriptors: deque[int] = deque()
        self._came: deque[array.array[int]] = deque()  # with frames that are not whole yet
        self._buffer = memoryview(bytearray(_PIECE))
        self._rest = b""

    def read(self, sock: Any) -> list[Record]:
        """What has come; if the socket waits, what comes next. Raises Closed, and BlockingIOError."""
        try:
            count, ancillary, flags, _ = sock.recvmsg_into((self._buffer,), _ANCILLARY, _socket.MSG_CMSG_CLOEXEC)
        except ConnectionError:
            raise Closed from None
        if not count:
            raise Closed
        if ancillary or flags & _socket.MSG_CTRUNC:  # of one frame: the kernel reads no further (unix(7))
            self._came.append(array.array("i", b"".join([descriptors for _, _, descriptors in ancillary])))
        data = self._buffer[:count]
        return self._records(memoryview(self._rest + bytes(data)) if self._rest else data)

    def close(self) -> None:
        """Close the descriptors that nobody has taken."""
        for descriptors in (self.descriptors, *self._came):
            for fd in descriptors:
                if fd >= 0:
                    os.close(fd)
        self.descriptors.clear()
        self._came.clear()

    def _records(self, data: memoryview) -> list[Record]:
        records: list[Record] = []
        start, size = 0, len(data)
        while size - start >= _HEAD_SIZE:
            length, descriptors = _HEAD.unpack_from(data, start)
            end = start + _HEAD_SIZE + length
            if end > size:
                break
            if descriptors:
                came = self._came.popleft()
                self.descriptors.extend(came)
                self.descriptors.extend([-1] * (descriptors - len(came)))
            records += marshal.loads(data[start + _HEAD_SIZE : end])
            start = end
        self._rest = bytes(data[start:]) if start < size else b""
        return records


class Channel(Handler):
    """One end, watched by a poller. ``take`` is called with each record that comes, in the hub: it must not switch; and
    ``lost`` once, when the process at the other end is gone."""

    def __init__(self, sock: Any, poller: Poller, take: Callable[[Record], object], lost: Callable[[], object]) -> None:
        self._sock = sock
        self._poller = poller
        self._take = take
        self._lost = lost
        self._frames = Frames()
        self._faults = Faults()
        self._records: list[Record] = []
        self._passed: list[Any] = []  # sockets that go with these records
        self._out: deque[tuple[memoryview, list[Any]]] = deque()
        self._is_due = False
        self._is_taking = False
        self._mask = EPOLLIN
        self._timer: Any = None
        self._is_mentioned = False
        self._soon: Any = poller.loop.timer(_SOON)
        sock.setblocking(False)
        poller.add(sock.fileno(), EPOLLIN, self)

    @property
    def is_open(self) -> bool:
        """Whether there is somebody at the other end, as far as it is known."""
        return bool(self._sock.fileno() >= 0)

    @property
    def is_blocked(self) -> bool:
        """Whether what was sent has to wait, for the other end does not read."""
        return bool(self._out)

    def send(self, *record: Any, passed: Any = None) -> None:
        """Send a record, in this turn of the poller at the latest, and a socket with it, which is closed here then.
        What can't be sent waits; when nobody is there it is lost."""
        if passed is not None:
            if len(self._passed) == MOST_DESCRIPTORS:
                self._pack()
            self._passed.append(passed)
        self._records.append(record)
        if not self._is_due:
            self._is_due = True
            self._poller.at_end_of_turn(self)

    def mention(self, *record: Any) -> None:
        """Send a record with the next that is sent, or soon: for it alone the other process need not wake."""
        self._records.append(record)
        if not (self._is_due or self._is_mentioned):
            self._is_mentioned = True
            self._soon.start(self._flush_soon)

    def _flush_soon(self) -> None:
        self._is_mentioned = False
        if self._records:
            self.flush()

    def descriptor(self) -> int:
        """The descriptor that came with the record that is being taken; -1 if this process can't have it."""
        return self._frames.descriptors.popleft()

    def close(self) -> None:
        """Be no more. A second call does nothing."""
        if self.is_open:
            self._poller.remove(self._sock.fileno())
            self._sock.close()
        self._forget_timer()
        self._soon.stop()
        self._soon.close()
        for _, passed in self._out:
            _close(passed)
        _close(self._passed)
        self._frames.close()
        self._out.clear()
        self._records, self._passed = [], []

    def ready(self, events: int) -> None:
        """The poller's word: bytes have come, or there is room; 0 at the end of its turn."""
        if events & ~EPOLLOUT:
            self._read()
        if not events or events & EPOLLOUT:
            self.flush()

    def failed(self) -> None:
        """What comes can't be read: the other end is as good as gone."""
        self._faults.tell("the way to another process of gpen's")
        self._end()

    def listen(self) -> None:
        """Take what has come by now; not from within ``take``."""
        if self.is_open and not self._is_taking:
            self._read()

    def _read(self) -> None:
        self._is_taking = True
        try:
            self._take_all()
        finally:
            self._is_taking = False

    def _take_all(self) -> None:
        try:
            records = self._frames.read(self._sock)
        except BlockingIOError:
            return
        except Closed:
            self._end()
            return
        take = self._take
        for record in records:
            try:
                take(record)
            except Exception:  # it costs what it is about, and nothing behind it
                self._faults.tell(f"'{record[0]}', which another process of gpen's has said,")

    def flush(self) -> None:
        """Send what waits to be sent."""
        self._is_due = False
        if not self.is_open:
            self.close()  # of what was passed
            return
        if self._records:
            self._pack()
        try:
            while self._out:
                self._send_piece()
        except BlockingIOError:
            self._watch(EPOLLIN | EPOLLOUT)
        except OSError as error:
            if error.errno != errno.ETOOMANYREFS:
                self._end()
            elif self._timer is None:  # descriptors under way: more than this user's RLIMIT_NOFILE (unix(7))
                self._timer = self._poller.loop.timer(_AGAIN_SECONDS)
                self._timer.start(self._flush_again)
        else:
            self._watch(EPOLLIN)

    def _flush_again(self) -> None:
        self._forget_timer()
        self.flush()

    def _forget_timer(self) -> None:
        if self._timer is not None:
            self._timer.stop()
            self._timer.close()
            self._timer = None

    def _pack(self) -> None:
        self._out.append((memoryview(framed(self._records, len(self._passed))), self._passed))
        self._records, self._passed = [], []

    def _send_piece(self) -> None:
        """Send what comes first, or what there is room for. Raises OSError."""
        data, passed = self._out[0]
        if passed:
            descriptors = array.array("i", [sock.fileno() for sock in passed])
            count = self._sock.sendmsg((data,), ((_socket.SOL_SOCKET, _socket.SCM_RIGHTS, descriptors),))
            _close(passed)
        else:
            count = self._sock.send(data)
        if count < len(data):
            self._out[0] = data[count:], []
        else:
            self._out.popleft()

    def _watch(self, mask: int) -> None:
        if mask != self._mask:
            self._mask = mask
            self._poller.change(self._sock.fileno(), mask)

    def _end(self) -> None:
        if self.is_open:
            self.close()
            self._lost()


def _close(sockets: list[Any]) -> None:
    for sock in sockets:
        sock.close()
