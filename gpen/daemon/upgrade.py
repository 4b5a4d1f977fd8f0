"""The command ``upgrade``: this gpen starts the one that takes its place, with its own command line."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Sequence

import gevent

from gpen import rights
from gpen.control.script import Call
from gpen.daemon.chroot import Chroot
from gpen.daemon.handover import Handover
from gpen.daemon.notify import Notifier
from gpen.wire.poller import EPOLLIN, Poller
from gpen.wire.subprocesses import Children

log = logging.getLogger("gpen")

REPLACE = "--replace"
SECONDS = 60.0  # until it serves
_PIECE = 65536
_LOOK_SECONDS = 0.02
_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)


class Upgrade:
    """Starts one at a time. It is our child, so that whoever watches over us (systemd, by its cgroup) finds it."""

    def __init__(self, handover: Handover, poller: Poller, children: Children, chroot: Chroot,
                 notifier: Notifier) -> None:
        self._handover = handover
        self._poller = poller
        self._children = children
        self._chroot = chroot
        self._notifier = notifier

    def run(self, call: Call) -> str:
        """Start it, and answer what has come of it. Switches greenlets. Raises ScriptError."""
        handover = self._handover
        if self._chroot.is_entered:
            raise call.error(f"no program can be started from within the chroot: run gpen {REPLACE} with the same "
                             "arguments, as root")
        if not handover.is_possible:
            raise call.error(f"needs a control socket that is a file (control, -C /PATH), where gpen {REPLACE} asks")
        if handover.successor or handover.child:
            raise call.error(f"pid {handover.successor or handover.child} has replaced it already, or is about to")
        told = self._outcome()
        if not handover.successor:
            raise call.error(told[-1].removeprefix("gpen: ") if told else "the new gpen ended without a word")
        return f"replaced by pid {handover.successor}\n"

    def _outcome(self) -> list[str]:
        """Start it, and wait until it serves, or has ended; returns what it told. Switches greenlets."""
        reading, writing = os.pipe()
        try:
            try:
                os.set_blocking(reading, False)
                pid = self._handover.child = _spawn(own_command(), self._notifier.environment(), writing)
            finally:
                os.close(writing)
            told = self._told_by(pid, reading)
        finally:
            os.close(reading)
            self._handover.child = 0
        for line in told:
            log.info("upgrade: %s", line)
        return told

    def _told_by(self, pid: int, reading: int) -> list[str]:
        """What this process tells there until it serves, or has ended."""
        self._children.add(pid)
        try:
            told = self._all_of(reading).decode("utf-8", "replace").splitlines()
            if not self._handover.successor:
                self._end(pid)
        finally:
            self._children.remove(pid)  # if it goes on, it is nobody's to wait for
        return told

    def _all_of(self, reading: int) -> bytes:
        """What it tells until it has our diagnostics, or ends."""
        heard = bytearray()
        deadline = time.monotonic() + SECONDS
        while self._poller.wait(reading, EPOLLIN, deadline - time.monotonic()):
            try:
                piece = os.read(reading, _PIECE)
            except BlockingIOError:
                continue
            if not piece:
                break
            heard += piece[: max(_PIECE - len(heard), 0)]
        return bytes(heard)

    def _end(self, pid: int) -> None:
        """It does not serve: it ends, or is killed."""
        deadline = time.monotonic() + 1.0
        while not os.waitpid(pid, os.WNOHANG)[0]:
            if time.monotonic() >= deadline:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                return
            gevent.sleep(_LOOK_SECONDS)


def own_command() -> list[str]:
    """The command that has started this process, to be run in its place."""
    arguments = sys.argv[1:]
    before = sys.orig_argv[1 : len(sys.orig_argv) - len(arguments)]
    return [sys.executable, *before, REPLACE, *without_replace(arguments)]


def without_replace(arguments: Sequence[str]) -> list[str]:
    """The arguments of a gpen that replaces none."""
    head = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return [*(word for word in head if word != REPLACE), *arguments[len(head):]]


def _spawn(command: list[str], more: dict[str, str], errors: int) -> int:
    """Run a command in our environment, with more."""
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        with rights.passing_on((rights.NET_RAW, rights.NET_ADMIN)):  # what transparent needs
            return os.posix_spawn(command[0], command, os.environ | more, setsigmask=(), setsigdef=_IGNORED_BY_PYTHON,
                                  file_actions=[(os.POSIX_SPAWN_DUP2, null, 0), (os.POSIX_SPAWN_DUP2, errors, 2)])
    finally:
        os.close(null)
