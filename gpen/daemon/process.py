"""What makes a program a daemon: detaching, the pid file, descriptors, user and chroot, and where it tells."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import pwd
import re
import resource
import select
import signal
import stat
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TextIO

from gpen import rights
from gpen.daemon.chroot import Chroot
from gpen.daemon.syslog import SOCKET, Syslog, severity
from gpen.files import Account, Entry
from gpen.journal import WARNING, has_stderr, marked
from gpen.model.facility import FACILITIES
from gpen.model.settings import Settings
from gpen.model.text import printable
from gpen.model.value_types import MOST
from gpen.start import unblock_signals

log = logging.getLogger("gpen")

LONGEST_LINE = 4096  # characters of diagnostics
UNLISTED_DESCRIPTORS = 1024  # that may be open, where /proc does not say which are
PID_FILE_BYTES = 4097  # a block and one: more is no pid file
_PID = re.compile(rb"[\0\s]*([0-9]{0,20})[\0\s]*")
RESERVED_DESCRIPTORS = 64  # listener, control clients, logs, the loop: what sessions must leave free


class StartError(Exception):
    """Something that keeps gpen from starting: one line with the thing, the value and the remedy."""


def begin(kept: Iterable[int] = ()) -> None:
    """Begin from a known state, whatever the parent has left but descriptors to be ``kept``; to be called first, by a
    process that is all ours."""
    _close_inherited(sys.argv, kept)
    _take_signals()
    for name in [name for name in os.environ if name.startswith("GEVENT")]:  # another loop, another resolver
        del os.environ[name]
    os.umask(os.umask(0o077) & 0o077)  # what a parent keeps from others it may; from ourselves, nothing
    for limit in (resource.RLIMIT_FSIZE, resource.RLIMIT_CPU, resource.RLIMIT_NPROC):
        hard = resource.getrlimit(limit)[1]
        resource.setrlimit(limit, (hard, hard))


def let_go_of_all_but(kept: Iterable[int]) -> None:
    """Have nothing of the process that has forked this one but these descriptors: no terminal, and no pipe whose end
    somebody waits for."""
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    _close_all_but(kept)


def _close_all_but(kept: Iterable[int]) -> None:
    """Close all but these and the standard streams."""
    for fd in _open_descriptors() - {0, 1, 2, *kept}:
        with contextlib.suppress(OSError):  # one of them was that of the listing
            os.close(fd)


def _open_descriptors() -> set[int]:
    try:
        return {int(name) for name in os.listdir("/proc/self/fd")}
    except OSError:
        return set(range(UNLISTED_DESCRIPTORS))


def _close_inherited(words: Iterable[str], kept: Iterable[int]) -> None:
    """Close what the parent has left open: a lock, a pipe whose end somebody waits for, a listening socket that would
    pass on to the programs of checks. What the command line names as a file (/dev/fd/N) stays, as what is ``kept``."""
    named = {int(number) for word in words for number in re.findall(r"/(?:dev|proc/self)/fd/([0-9]{1,9})", word)}
    named.update(kept)
    _close_all_but(named)
    for fd in (_open_descriptors() & named) - {0, 1, 2}:
        os.set_inheritable(fd, False)


def _take_signals() -> None:
    """No signal is blocked, and none ignored (SIGCHLD, so that programs can be waited for; SIGTERM, by nohup's kin) but
    those that Python ignores; and no alarm is set. Until the balancer takes signals HUP and USR1 mean nothing yet, TERM
    and INT end the start in good order."""
    for number in signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ}:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    for number in (signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(1))
    unblock_signals()


class Detached:
    """The daemon's line to the process that the user started, which waits for the outcome and exits with it."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)  # now: a chroot may have none

    def report(self, status: int) -> None:
        """Let the waiting process exit with this status. A second call does nothing."""
        if self._fd >= 0:
            os.write(self._fd, bytes([status]))
            os.close(self._fd)
            self._fd = -1

    def quiet(self) -> None:
        """Let go of the terminal: what is told from now on goes to syslog."""
        for fd in (0, 1, 2):
            os.dup2(self._null, fd)
        os.close(self._null)


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
        self._is_made = False
        self._is_ours = True
        self._lock()
        while not self._is_in_place():  # whoever held the lock has removed the file meanwhile
            os.close(self._fd)
            self._lock()
        try:
            self.write()
        except BaseException as error:  # also TERM, which comes as soon as somebody has read the pid
            self.remove(Chroot())
            if isinstance(error, OSError):
                raise StartError(f"can't write the pid file '{path}': {error.strerror}") from None
            raise

    @classmethod
    def passed_on(cls, path: str, fd: int) -> PidFile | None:
        """One that another gpen has locked, and passes on by this descriptor (-1: none), to be ours with ``write``;
        None where the file is another. The lock is of both."""
        file = cls.__new__(cls)
        file.path, file._is_made, file._is_ours, file._fd = path, False, False, fd
        if fd < 0 or not file._is_in_place():
            return None
        file._fd = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 0)
        return file

    @property
    def is_passed_on(self) -> bool:
        """Whether it is another gpen's as long as that serves."""
        return not self._is_ours

    def fileno(self) -> int:
        """Its descriptor, which has the lock."""
        return self._fd

    def write(self) -> None:
        """It holds our pid from now on, and is ours. Raises OSError."""
        self._is_ours = True
        pid = f"{os.getpid()}\n".encode()
        os.pwrite(self._fd, pid, 0)
        os.ftruncate(self._fd, len(pid))

    def hand_over(self) -> None:
        """It is another gpen's from now on, which has the lock as well."""
        self._is_ours = False

    def _is_in_place(self) -> bool:
        try:
            with Entry(self.path, follow=False) as entry:
                there = entry.status()
        except OSError:
            return False
        return there is not None and os.path.samestat(os.fstat(self._fd), there)

    def _lock(self) -> None:
        try:
            with Entry(self.path, follow=False) as entry:
                self._fd, self._is_made = entry.open(os.O_RDWR, 0o644)
        except OSError as error:
            raise StartError(f"can't write the pid file '{self.path}': {error.strerror}") from None
        try:
            self._take()
        except BaseException:
            os.close(self._fd)
            raise

    def _take(self) -> None:
        """Lock the file, if it is one that a daemon has left: with a pid, or what is left of one by a power loss."""
        if not stat.S_ISREG(os.fstat(self._fd).st_mode):
            raise StartError(f"can't write the pid file '{self.path}': it is not a regular file")
        held = os.pread(self._fd, PID_FILE_BYTES, 0)
        pid = _PID.fullmatch(held)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            by = f", with pid {pid[1].decode()}" if pid and pid[1] else ""
            raise StartError(f"pid file '{self.path}' is locked: it runs already{by}") from None
        except OSError as error:
            raise StartError(f"can't lock the pid file '{self.path}': {error.strerror}") from None
        if pid is None or len(held) == PID_FILE_BYTES:
            raise StartError(f"pid file '{self.path}' holds something else than a pid: will not overwrite it")

    def made(self) -> list[int]:
        """Its descriptor, if it was not there before."""
        return [self._fd] if self._is_made else []

    def remove(self, chroot: Chroot) -> None:
        """Take the file away, if it is ours; where it can't be reached or removed any more, leave it empty."""
        if not self._is_ours:
            os.close(self._fd)
            return
        try:
            with Entry(chroot.path(self.path), follow=False) as entry:
                is_removed = entry.remove(os.fstat(self._fd))
        except OSError:
            is_removed = False
        if not is_removed:
            os.ftruncate(self._fd, 0)
        os.close(self._fd)


def raise_descriptor_limit(every: Sequence[Settings]) -> None:
    """Raise RLIMIT_NOFILE to what the conn_max of all listeners, which have these settings, need, as far as this user
    may; warn when it is not enough."""
    total = every[0].conn_max_total
    sessions, wanted = sum(settings.conn_max for settings in every), descriptors_wanted(every)
    what = f"conn_max {sessions}{' (of all listeners together)' if len(every) > 1 else ''}"
    if 0 < total < sessions:
        sessions, what = total, f"conn_max_total {total}"
    limit = take_descriptors(every)
    room = sessions_within_limit(every)
    if limit < wanted and room < sessions:
        log.warning("%s needs %d descriptors, the limit is %d: %d %s; raise it with ulimit -n or LimitNOFILE%s",
                    what, wanted, limit, room,
                    "flows at a time" if all(settings.udp for settings in every) else
                    "sessions at a time, the rest waits",
                    f", once 'sysctl fs.nr_open={wanted}' allows that" if wanted > _most_descriptors() else "")


def take_descriptors(every: Sequence[Settings]) -> int:
    """Raise RLIMIT_NOFILE as far, and return what it is."""
    wanted = min(descriptors_wanted(every), _most_descriptors())
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= wanted:
        return soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(hard, wanted)))
    except (ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def _most_descriptors() -> int:
    """How many a process may have at most, also one of root's."""
    try:
        with open("/proc/sys/fs/nr_open", "rb") as file:  # as bytes: a codec can't be loaded in a chroot
            return int(file.read())
    except OSError:
        return MOST


def descriptors_wanted(every: Sequence[Settings]) -> int:
    """How many descriptors the conn_max of all listeners, which have these settings, need."""
    total, kept = every[0].conn_max_total, RESERVED_DESCRIPTORS + len(every) - 1
    if _are_direct(every):
        return kept
    if 0 < total < sum(settings.conn_max for settings in every):
        return max(map(_each, every)) * total + kept
    return sum(_each(settings) * settings.conn_max for settings in every) + kept


def _each(settings: Settings) -> int:
    """Descriptors of a session, or of a flow; those of direct server return have none, and count for one beside
    others."""
    return 1 if settings.udp or settings.dsr_if else 2


def _are_direct(every: Sequence[Settings]) -> bool:
    """Whether all that they have are flows of direct server return."""
    return all(settings.dsr_if for settings in every)


def sessions_within_limit(every: Sequence[Settings]) -> int:
    """How many sessions, or flows, of listeners with these settings RLIMIT_NOFILE and conn_max_total allow now. With
    workers the limit is each one's; flows are the main process's, with a descriptor each."""
    most, count = sessions_of_each(every), workers_of(every[0])
    if count and not _are_direct(every):
        most = min(most * count, _spare(every)) if any(settings.udp for settings in every) else most * count
    return min(most, every[0].conn_max_total or most)


def sessions_of_each(every: Sequence[Settings]) -> int:
    """How many of them one process may have."""
    if _are_direct(every):
        return sum(settings.conn_max for settings in every)
    return max(_spare(every) // max(map(_each, every)), 1)


def _spare(every: Sequence[Settings]) -> int:
    """How many descriptors one process has for sessions."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return soft - min(RESERVED_DESCRIPTORS + len(every) - 1, soft // 2)


def spare_descriptors(sessions: int) -> int:
    """How many a worker with so many sessions has to spare."""
    return max(resource.getrlimit(resource.RLIMIT_NOFILE)[0] - RESERVED_DESCRIPTORS - 2 * sessions, 0) // 2


def workers_of(settings: Settings) -> int:
    """How many workers there are to be; ``auto`` is one for each processor that this process may use."""
    wanted = settings.workers
    return len(os.sched_getaffinity(0)) if wanted == "auto" else int(wanted)


def check_user(settings: Settings) -> None:
    """Raises StartError when the user or the directory of the chroot does not exist."""
    if settings.user:
        try:
            pwd.getpwnam(settings.user)
        except KeyError:
            raise StartError(f"user: there is no user '{settings.user}'") from None
    if settings.chroot and not os.path.isdir(settings.chroot):
        raise StartError(f"chroot: '{settings.chroot}' is not a directory")


def user_to_be(settings: Settings) -> Account | None:
    """The user that root is going to become; None when it stays what it is."""
    if not settings.user or os.geteuid() != 0:
        return None
    account = pwd.getpwnam(settings.user)
    return account if account.pw_uid != 0 else None


def lasting_rights(every: Sequence[Settings], of_workers: bool = False) -> tuple[int, ...]:
    """The capabilities that gpen goes on to need whoever it becomes, if listeners have these settings; those
    ``of_workers`` are less, for frames are the main process's."""
    if not of_workers and any(settings.dsr_if for settings in every):
        return (rights.NET_RAW,)
    if any(settings.transparent for settings in every):
        return (rights.NET_RAW if rights.holds(rights.NET_RAW) else rights.NET_ADMIN,)
    return ()


def bind_rights(settings: Settings, lasting: Sequence[int] = ()) -> None:
    """Let programs that are run gain no rights, and get none of root's that gpen does not need itself, and of the
    ``lasting``; to be called before there are threads."""
    rights.bind((*(() if user_to_be(settings) else rights.OF_ROOT), *lasting))


def confine(settings: Settings, made: Iterable[int], chroot: Chroot, lasting: Sequence[int] = ()) -> None:
    """Enter the chroot, become the user and give up what is left of root's rights, for good, but for the ``lasting``;
    what root has ``made`` (descriptors of files) is given to the user. ``chroot`` tells where files are found from then
    on. Raises StartError."""
    account = pwd.getpwnam(settings.user) if settings.user else None
    needed: Sequence[int] = rights.OF_ROOT
    try:
        if account and os.geteuid() == 0:
            for fd in made:
                os.fchown(fd, account.pw_uid, account.pw_gid)
        if settings.chroot:
            chroot.enter(settings.chroot)
        if account and (account.pw_uid != os.geteuid() or os.geteuid() == 0):
            if lasting and account.pw_uid != os.geteuid():
                rights.keep_them()
                needed = ()
            os.initgroups(account.pw_name, account.pw_gid)
            os.setgid(account.pw_gid)
            os.setuid(account.pw_uid)
    except OSError as error:
        what = f"chroot '{settings.chroot}'" if settings.chroot else f"user '{settings.user}'"
        raise StartError(f"can't change to {what}: {error.strerror}: this needs root") from None
    rights.give_up(needed, lasting)


def tell_on_stderr() -> None:
    """Diagnostics go to stderr, with the time; where that is the journal, with how urgent they are instead."""
    handler = _Stderr(sys.stderr)
    handler.setFormatter(_Formatter("%(asctime)s: %(message)s", "%Y-%m-%d %H:%M:%S"))
    tell(handler)


class Diagnostics(logging.Handler):
    """What a worker, or the process that forks them, has to tell: the main process tells it (``tell_for``)."""

    def __init__(self, tell: Callable[[int, str, str], object]) -> None:
        super().__init__()
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        trace = _Formatter().formatException(record.exc_info) if record.exc_info else ""
        self._tell(record.levelno, record.getMessage(), trace)


def tell_for(level: int, message: str, trace: str) -> None:
    """Tell what another process of gpen's has told."""
    record = log.makeRecord(log.name, level, "", 0, message, (), None)
    record.exc_text = trace or None
    if log.isEnabledFor(level):
        log.handle(record)


class _Formatter(logging.Formatter):
    """One line for a message, whatever it quotes; the lines of a traceback are set in, as no other line is."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        line = printable(super().formatMessage(record))
        return line if len(line) <= LONGEST_LINE else f"{line[:LONGEST_LINE]}..."

    def formatException(self, ei: Any) -> str:
        return "\n".join(f"  {printable(line)}" for line in super().formatException(ei).split("\n"))


class _Stderr(logging.Handler):
    """The library's waits when stderr is a pipe that is full, and everybody with it; this one loses what nobody reads,
    and then says how much that was."""

    _lost = 0
    _is_torn = False  # the last line lacks its end

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self.stream = stream

    def emit(self, record: logging.LogRecord) -> None:
        if self._lost and self._write(marked(f"{self._lost} lines were lost: nobody has read them", WARNING)):
            self._lost = 0
        if not self._write(self._text(record)):
            self._lost += 1

    def _text(self, record: logging.LogRecord) -> str:
        if not has_stderr():
            return self.format(record)
        return marked(_Formatter().format(record), severity(record.levelno))

    def _write(self, text: str) -> bool:
        """Write a line; whether all of it was taken."""
        line = ("\n" * self._is_torn + text + "\n").encode()
        try:
            fd = self.stream.fileno()
            for start in range(0, len(line), select.PIPE_BUF):  # a pipe that can be written to has room for so much
                if not select.select((), (fd,), (), 0)[1]:
                    self._is_torn = self._is_torn or start > 0
                    return False
                os.write(fd, line[start : start + select.PIPE_BUF])
        except (OSError, ValueError):  # no descriptor, or one beyond what select knows: a test's, or closed
            return self._write_to_stream(text)
        self._is_torn = False
        return True

    def _write_to_stream(self, text: str) -> bool:
        try:
            self.stream.write(f"{text}\n")
            self.stream.flush()
        except (OSError, ValueError):
            return True  # there is nobody to tell
        return True


class _Syslog(logging.Handler):
    """The library's waits for a syslog that does not read, and everybody with it; this one drops the line."""

    def __init__(self, way: Syslog) -> None:
        super().__init__()
        self._way = way

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError):
            self._way.send(severity(record.levelno), self.format(record))

    def close(self) -> None:
        self._way.close()
        super().close()


def syslog(name: str = "gpen") -> logging.Handler:
    """The way to syslog under this name, open from now on; without a syslog on this machine, the way to nowhere."""
    if not os.path.exists(SOCKET):
        return logging.NullHandler()
    way = Syslog(name, FACILITIES["daemon"])
    with contextlib.suppress(OSError):
        way.connect()
    handler = _Syslog(way)
    handler.setFormatter(_Formatter())
    return handler


def set_debug(level: int) -> None:
    """How much is told: 0 changes and failures, 1 and more also steps."""
    log.setLevel(logging.DEBUG if level else logging.INFO)


def tell(handler: logging.Handler) -> None:
    """Diagnostics go this way from now on."""
    for old in list(log.handlers):
        log.removeHandler(old)
        old.close()
    log.addHandler(handler)
    log.propagate = False
