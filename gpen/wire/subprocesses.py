"""A program that is run beside the loop: its exit status and its first line of output, until somebody's patience ends.

It is started by posix_spawn, which takes 0.4 ms of a gpen of 60 MB where gevent's fork took 9 ms. It is waited for
through a pidfd, so that its number is still its own, and its children's, when it is killed. gevent's own watchers of
children are not used beside it: they would reap it (waitpid(-1)).
"""

from __future__ import annotations

import _socket
import contextlib
import os
import signal
from collections.abc import Mapping

import gevent

from gpen.model.address import Endpoint
from gpen.model.text import shortened
from gpen.wire.poller import EPOLLIN, FOR_EVER, Call, Poller

_PIECE = 65536
_HEAD = 4096  # bytes that a first line may have before it is cut
_FLOOD = 1 << 20
_SHOWN = 200
_GRACE = 0.5
_FALSE_ALARM_PAUSE = 0.01
_REAP_PERIOD = 1.0
_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)
_PASSED, _PASSED_PREFIX = ("PATH", "LANG"), "GPEN_"  # of our environment, to a program


def passed_environment() -> dict[str, str]:
    """Of our own what is meant for a program that we run: no secret, no LD_PRELOAD, no socket of systemd's."""
    return {name: value for name, value in os.environ.items() if name in _PASSED or name.startswith(_PASSED_PREFIX)}


def place_of(endpoint: Endpoint) -> dict[str, str]:
    """Where a server is, in the environment of a program."""
    is_path = endpoint.family == _socket.AF_UNIX
    return {"GPEN_ADDRESS": str(endpoint), "GPEN_HOST": "" if is_path else endpoint.host,
            "GPEN_PORT": "" if is_path else str(endpoint.port)}


def how_it_ended(status: int, line: str = "") -> str:
    """How a program has ended, and the first line that it said."""
    ending = f"exit status {status}" if status >= 0 else f"killed by signal {-status}"
    return f"{ending}: {line}" if line else ending


class Flood(Exception):
    """The program wrote more than anybody wants to read, and was killed."""


class Children:
    """The processes that gpen is the parent of: the programs that it runs, which are waited for by those who run them;
    and strangers, which nobody waits for.

    The kernel gives strangers to process 1, which gpen is in many a container, when their parent has ended: what a
    check's program has started, say. And to whoever was started by a shell's exec.
    """

    def __init__(self) -> None:
        self._programs: set[int] = set()

    def add(self, pid: int) -> None:
        """A program runs."""
        self._programs.add(pid)

    def remove(self, pid: int) -> None:
        """A program was waited for."""
        self._programs.remove(pid)

    def reap(self) -> None:
        """Wait for the strangers that have ended. Where one of our programs is the first that has, its own greenlet is
        about to wait for it: the others come next time."""
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
                if ended.si_pid in self._programs:
                    return
                os.waitpid(ended.si_pid, 0)


class Program:
    """A running program, in a session of its own. ``end`` must be called, whatever happens."""

    def __init__(self, command: list[str], environment: Mapping[str, str], poller: Poller, children: Children) -> None:
        """Starts it, with nothing to read and its errors unheard. Raises OSError when it can't be."""
        self._poller = poller
        self._children = children
        self._head = bytearray()
        self._read = 0
        self._output, writing = os.pipe()
        try:
            os.set_blocking(self._output, False)
            poller.add(self._output, EPOLLIN, Call(self._drain))
            self._pid = _spawn(command, environment, writing)
            self._pidfd = _pidfd(self._pid)
        except BaseException:
            self._close_output()
            raise
        finally:
            os.close(writing)
        children.add(self._pid)
        self.is_over = False

    def outcome(self) -> tuple[int, str]:
        """Wait until it ends, and return its exit status (a signal's number below 0) and the first line of its output:
        at most 200 characters. Switches greenlets. Raises Flood."""
        ended = self._await_end()
        while b"\n" not in self._head and self._take():
            pass
        if self._read > _FLOOD:
            raise Flood
        line = shortened(bytes(self._head).partition(b"\n")[0].expandtabs(1).strip(), _SHOWN)
        return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status, line

    def _await_end(self) -> os.waitid_result:
        """How it ended. The process is asked without waiting, for the event alone proves nothing: a program that is
        traced has ended for its tracer first, and to wait for it would be to stop everything."""
        self._poller.wait(self._pidfd, EPOLLIN, FOR_EVER)
        while (ended := os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)) is None:
            gevent.sleep(_FALSE_ALARM_PAUSE)
            self._poller.wait(self._pidfd, EPOLLIN, FOR_EVER)
        return ended

    def end(self) -> None:
        """Kill what is left of it and of its children, and let go of it. Switches greenlets.

        A program that even SIGKILL can't end now, because it waits for a disk or a network file system, is reaped when
        it does end; until then ``is_over`` is false.
        """
        self._kill()
        self._close_output()
        if not self._reaped():
            try:
                self._poller.wait(self._pidfd, EPOLLIN, _GRACE)
            finally:  # also where the check that waits is itself ended
                if not self._reaped():
                    gevent.spawn(self._reap)

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # ended all, or another user's by setuid
            os.killpg(self._pid, signal.SIGKILL)

    def _drain(self, events: int) -> None:
        """It has written something, or has closed its output: a handler of the poller."""
        piece = self._take()
        if piece == b"":
            self._close_output()
        elif self._read > _FLOOD:
            self._close_output()
            self._kill()

    def _take(self) -> bytes | None:
        """Read a piece of what it wrote: nothing at the end, None where there is none yet."""
        if self._output < 0:
            return b""
        try:
            piece = os.read(self._output, _PIECE)
        except BlockingIOError:
            return None
        self._read += len(piece)
        self._head += piece[: _HEAD - len(self._head)]
        return piece

    def _close_output(self) -> None:
        if self._output >= 0:
            self._poller.closed(self._output)
            os.close(self._output)
            self._output = -1

    def _reaped(self) -> bool:
        if not self.is_over and os.waitpid(self._pid, os.WNOHANG)[0]:
            self.is_over = True
            self._children.remove(self._pid)
            os.close(self._pidfd)
        return self.is_over

    def _reap(self) -> None:
        while not self._reaped():
            gevent.sleep(_REAP_PERIOD)


def _spawn(command: list[str], environment: Mapping[str, str], output: int) -> int:
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        return os.posix_spawn(
            command[0], command, environment, setsid=True, setsigmask=(), setsigdef=_IGNORED_BY_PYTHON,
            file_actions=[(os.POSIX_SPAWN_DUP2, null, 0), (os.POSIX_SPAWN_DUP2, output, 1),
                          (os.POSIX_SPAWN_DUP2, null, 2)])
    finally:
        os.close(null)


def _pidfd(pid: int) -> int:
    try:
        return os.pidfd_open(pid)
    except OSError:
        os.killpg(pid, signal.SIGKILL)  # and a stranger it is: waited for when it has ended, however long that takes
        raise
