"""The fork server: a process that forks workers, now and whenever one has ended.

It is forked itself before gpen has a hub, and has none to its end, so that what is forked of it can have its own. It
holds the listeners' settings and TLS contexts as new workers shall have them: certificates are read while it is root
still, if gpen began as root, and what was read goes on to the workers with the fork. To execute Python anew for each
would cost 18.7 MB each in the place of 3 to 4.
"""

from __future__ import annotations

import gc
import logging
import os
import pickle
import select
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NoReturn

from gpen.control.script import ScriptError
from gpen.daemon import process
from gpen.daemon.chroot import Chroot
from gpen.daemon.front import check_transparent, make_server_tls, make_terminator, tls_settings
from gpen.model.settings import Settings
from gpen.model.value_types import listener_prefix
from gpen.wire.channel import Closed, Frames, framed, pair
from gpen.wire.server_tls import ServerTls, made_with, server_tls_settings
from gpen.wire.tls import Terminator
from gpen.wire.tls_contexts import Pace

log = logging.getLogger("gpen")

_PARTING_SECONDS = 1.0
_PAUSE = 0.01

Serve = Callable[[Any, "Services"], NoReturn]
Service = tuple[Settings, Terminator | None, ServerTls | None]


class Services:
    """The listeners by their names, as sessions need them: settings and TLS. ``current`` is what is in force."""

    def __init__(self, chroot: Chroot) -> None:
        self.current: dict[str, Service] = {}
        self._chroot = chroot
        self._coming: dict[str, Service] | None = None
        self._turn = 0  # of what is prepared: it may be given up meanwhile, and the next one begun

    def prepare(self, change: bytes, pace: Pace) -> str:
        """Make what a change (``packed``) needs, beside what is in use. Returns what is wrong, or nothing. Switches
        greenlets, if ``pace`` does."""
        try:
            return self._prepare(change, pace)
        except Exception as error:
            log.exception("a change can't be prepared")
            return f"a process of gpen's failed: {type(error).__name__}"  # who waits for an answer gets one

    def _prepare(self, change: bytes, pace: Pace) -> str:
        changed, ended, is_renewed, wants_server_tls = pickle.loads(change)
        self._turn += 1
        turn = self._turn
        in_use = () if is_renewed else self.current.values()
        known = {tls_settings(settings): tls for settings, tls, _ in in_use}
        of_servers = {made_with(server_tls): server_tls for _, _, server_tls in in_use}
        coming = {name: service for name, service in self.current.items() if name not in ended}
        for name, settings in changed.items():
            key, server_key = tls_settings(settings), server_tls_settings(settings, wants_server_tls)
            try:
                check_transparent(settings)
                if key not in known:
                    known[key] = make_terminator(settings, self._chroot.path, pace)
                if server_key not in of_servers:
                    of_servers[server_key] = make_server_tls(settings, self._chroot.path, wants_server_tls)
            except ScriptError as error:
                return f"{listener_prefix(name)}{error}"
            coming[name] = settings, known[key], of_servers[server_key]
        if turn == self._turn:
            self._coming = coming
        return ""

    def commit(self) -> None:
        """Put in force what was prepared, and have this process take as many descriptors as the main one does then."""
        if self._coming is not None:
            self.current, self._coming = self._coming, None
            process.take_descriptors([settings for settings, *_ in self.current.values()])

    def abort(self) -> None:
        """Forget what was prepared, or is being prepared."""
        self._turn += 1
        self._coming = None


def packed(changed: Mapping[str, Settings], ended: Sequence[str] = (), is_renewed: bool = False,
           wants_server_tls: bool = False) -> bytes:
    """A change for ``prepare``: the settings of listeners that are new or have others now, the names of those that are
    gone, whether certificates are to be read again though no setting is another, and whether some server speaks TLS
    whatever the settings say."""
    return pickle.dumps((dict(changed), tuple(ended), is_renewed, wants_server_tls))


class ForkServer:
    """This process, which is given commands by the main process."""

    def __init__(self, sock: Any, serve: Serve, chroot: Chroot) -> None:
        """``serve`` is what a worker does, with its way to the main process."""
        self._sock = sock
        self._serve = serve
        self._chroot = chroot
        self._services = Services(chroot)
        self._frames = Frames()
        self._workers: set[int] = set()
        self._is_short = False  # of processes, or memory
        self._commands: dict[str, Callable[..., object]] = {
            "fork": self._fork, "kill": self._kill, "prepare": self._prepare, "commit": self._services.commit,
            "abort": self._services.abort, "confine": self._confine}

    def run(self) -> NoReturn:
        """Do what is told, until the main process is gone."""
        process.tell(process.Diagnostics(partial(self._tell, "log")))
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
            signal.signal(number, signal.SIG_IGN)  # sent to all of gpen's processes, they are for the main process
        woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        waiting = select.poll()
        for fd in (self._sock.fileno(), woken):
            waiting.register(fd, select.POLLIN)
        while True:
            ready = {fd for fd, _ in waiting.poll()}
            if woken in ready:
                os.read(woken, 4096)
                self._reap()
            if self._sock.fileno() in ready:
                self._listen()

    def _listen(self) -> None:
        try:
            records = self._frames.read(self._sock)
        except Closed:
            self._end()
        for word, *about in records:
            self._commands[word](*about)

    def _end(self) -> NoReturn:
        """The main process is gone. Its workers see that as well; one that hangs does not."""
        deadline = time.monotonic() + _PARTING_SECONDS
        while self._workers and time.monotonic() < deadline:
            time.sleep(_PAUSE)
            self._reap()
        for pid in self._workers:
            os.kill(pid, signal.SIGKILL)
        os._exit(0)

    def _tell(self, *record: Any) -> None:
        with suppress(OSError):  # who is gone is noticed by who reads
            self._sock.sendall(framed([record]))

    def _prepare(self, token: int, change: bytes) -> None:
        self._tell("prepared", token, self._services.prepare(change, iter))

    def _confine(self) -> None:
        """Enter the chroot and become the user, as the main process does."""
        every = [settings for settings, *_ in self._services.current.values()]
        settings = self._services.current[""][0]
        try:
            process.confine(settings, (), self._chroot, process.lasting_rights(every, of_workers=True))
        except process.StartError as error:
            self._tell("confined", str(error))
        else:
            self._tell("confined", "")

    def _fork(self, number: int) -> None:
        """A new worker, which has the descriptor that came with this."""
        fd = self._frames.descriptors.popleft()
        gc.collect()
        gc.freeze()  # what is there stays: to look at it would copy the pages that all share
        try:
            pid = os.fork()
        except OSError as error:
            os.close(fd)  # by which the main process sees that there is none; it asks again
            if not self._is_short:
                log.error("can't fork a worker: %s; tried again each second", error.strerror)
            self._is_short = True
            return
        if not pid:
            self._become_worker(fd)
        os.close(fd)
        self._is_short = False
        self._workers.add(pid)
        self._tell("forked", number, pid)

    def _become_worker(self, fd: int) -> NoReturn:
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._sock.close()
            self._frames.close()  # those of its siblings: none would seem to end as long as this one has them
            self._serve(fd, self._services)
        except BaseException:
            log.exception("a worker failed")
        finally:
            os._exit(1)

    def _kill(self, pid: int) -> None:
        """End a worker that does not answer; not who has its pid when it has ended by itself."""
        if pid in self._workers:
            os.kill(pid, signal.SIGKILL)

    def _reap(self) -> None:
        for pid in tuple(self._workers):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                self._workers.discard(pid)
                self._tell("exited", pid, status)


def start(serve: Serve, chroot: Chroot) -> Any:
    """Fork the fork server, whose workers do this. Returns the way to it. To be called before there is a hub. Raises
    OSError."""
    ours, theirs = pair()
    if os.fork():
        theirs.close()
        return ours
    try:
        ours.close()
        process.let_go_of_all_but([theirs.fileno()])  # a listening socket would listen on when gpen has closed it
        ForkServer(theirs, serve, chroot).run()
    except BaseException:
        log.exception("the fork server failed")
    finally:
        os._exit(1)
