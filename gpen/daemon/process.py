"""What makes a program a daemon: detaching, the pid file, descriptors, user and chroot, and where it tells."""

from __future__ import annotations

import fcntl
import logging
import logging.handlers
import os
import pwd
import resource
import sys
from collections.abc import Iterable

from gpen.model.settings import Settings

log = logging.getLogger("gpen")

RESERVED_DESCRIPTORS = 64  # listener, control clients, logs, the loop: what sessions must leave free


class StartError(Exception):
    """Something that keeps gpen from starting: one line with the thing, the value and the remedy."""


class Detached:
    """The daemon's line to the process that the user started, which waits for the outcome and exits with it."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def report(self, status: int) -> None:
        """Let the waiting process exit with this status. A second call does nothing."""
        if self._fd >= 0:
            os.write(self._fd, bytes([status]))
            os.close(self._fd)
            self._fd = -1

    def quiet(self) -> None:
        """Let go of the terminal: what is told from now on goes to syslog."""
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        os.close(null)


def detach() -> Detached:
    """Go into the background by a double fork; returns in the daemon only. Call it before gevent's hub exists.

    The first process stays until ``report``, so that its exit status says whether the daemon serves.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child:
        os.close(writing)
        os.waitpid(child, 0)
        status = os.read(reading, 1)
        os._exit(status[0] if status else 1)
    os.close(reading)
    os.setsid()
    if os.fork():
        os._exit(0)
    return Detached(writing)


class PidFile:
    """The pid file, locked as long as gpen runs. Raises StartError when another instance holds it."""

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.read(self._fd, 20).decode("ascii", "replace").strip() or "unknown"
            os.close(self._fd)
            raise StartError(f"pid file '{path}' is locked: gpen runs already, with pid {pid}") from None
        except OSError as error:
            raise StartError(f"can't write the pid file '{path}': {error.strerror}") from None
        os.ftruncate(self._fd, 0)
        os.write(self._fd, f"{os.getpid()}\n".encode())

    def fileno(self) -> int:
        return self._fd

    def remove(self) -> None:
        """Take the file away; where its directory may not be written any more, leave it empty."""
        try:
            os.unlink(self.path)
        except OSError:
            os.ftruncate(self._fd, 0)
        os.close(self._fd)


def raise_descriptor_limit(sessions: int) -> None:
    """Raise RLIMIT_NOFILE to what so many sessions need, as far as this user may; warn when it is not enough."""
    wanted = 2 * sessions + RESERVED_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= wanted:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(hard, wanted)))
    except (ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))
    room = sessions_within_limit()
    if room < sessions:
        log.warning("conn_max %d needs %d descriptors, the limit is %d: %d sessions at a time, the rest waits; "
                    "raise it with ulimit -n or LimitNOFILE", sessions, wanted, min(wanted, hard), room)


def sessions_within_limit() -> int:
    """How many sessions RLIMIT_NOFILE allows now."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    spare = min(RESERVED_DESCRIPTORS, soft // 2)
    return max((soft - spare) // 2, 1)


def check_user(settings: Settings) -> None:
    """Raises StartError when the user or the directory of the chroot does not exist."""
    if settings.user:
        try:
            pwd.getpwnam(settings.user)
        except KeyError:
            raise StartError(f"user: there is no user '{settings.user}'") from None
    if settings.chroot and not os.path.isdir(settings.chroot):
        raise StartError(f"chroot: '{settings.chroot}' is not a directory")


def confine(settings: Settings, files: Iterable[str | int]) -> None:
    """Enter the chroot and become the user, for good; ``files`` (paths or descriptors) are given to that user.

    Raises StartError.
    """
    account = pwd.getpwnam(settings.user) if settings.user else None
    try:
        if account and os.geteuid() == 0:
            for file in files:
                os.chown(file, account.pw_uid, account.pw_gid)
        if settings.chroot:
            os.chroot(settings.chroot)
            os.chdir("/")
        if account and (account.pw_uid != os.geteuid() or os.geteuid() == 0):
            os.initgroups(account.pw_name, account.pw_gid)
            os.setgid(account.pw_gid)
            os.setuid(account.pw_uid)
    except OSError as error:
        what = f"chroot '{settings.chroot}'" if settings.chroot else f"user '{settings.user}'"
        raise StartError(f"can't change to {what}: {error.strerror}: this needs root") from None


def tell_on_stderr() -> None:
    """Diagnostics go to stderr, with the time."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s: %(message)s", "%Y-%m-%d %H:%M:%S"))
    _tell(handler)


def tell_in_syslog() -> None:
    """Diagnostics go to syslog; without a syslog on this machine, nowhere."""
    handler: logging.Handler = logging.NullHandler()
    if os.path.exists("/dev/log"):
        handler = logging.handlers.SysLogHandler("/dev/log", logging.handlers.SysLogHandler.LOG_DAEMON)
        handler.setFormatter(logging.Formatter(f"gpen[{os.getpid()}]: %(message)s"))
    _tell(handler)


def set_debug(level: int) -> None:
    """How much is told: 0 changes and failures, 1 and more also steps."""
    log.setLevel(logging.DEBUG if level else logging.INFO)


def _tell(handler: logging.Handler) -> None:
    for old in list(log.handlers):
        log.removeHandler(old)
        old.close()
    log.addHandler(handler)
    log.propagate = False
