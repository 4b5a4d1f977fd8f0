"""The balancer: makes all the parts of a gpen and tells each of them what it needs of the others."""

from __future__ import annotations

import gc
import logging
import os
import signal
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import gevent
from gevent.event import Event
from gevent.hub import get_hub

from gpen.control.configuration import Configuration
from gpen.control.draft import Draft
from gpen.control.sources import Sources
from gpen.control.ways import Ways
from gpen.daemon import janitor, own_address, process
from gpen.daemon.changes import WITH_ALL_CHECKS, Changes, check_programs, checks_of, listening_at
from gpen.daemon.checks import Checks
from gpen.daemon.chroot import Chroot
from gpen.daemon.control_socket import ControlSocket
from gpen.daemon.countries import Countries, open_countries, prepare_for_chroot
from gpen.daemon.executor import Executor
from gpen.daemon.front import Shared, resolved
from gpen.daemon.hostnames import Hostnames
from gpen.daemon.listeners import Listeners
from gpen.daemon.logs import Logs
from gpen.daemon.queries import Queries
from gpen.daemon.sessions import Sessions
from gpen.daemon.socket_files import SocketFiles
from gpen.daemon.status import status_page
from gpen.files import write_whole
from gpen.model.address import Endpoint, parse_listen
from gpen.model.ending import Ending
from gpen.model.pool import SPECIAL
from gpen.model.server import Server, Target
from gpen.model.settings import Settings
from gpen.wire.check import Prober
from gpen.wire.faults import Troubles
from gpen.wire.greenlets import Greenlets
from gpen.wire.idlers import Idlers
from gpen.wire.loops import Loops
from gpen.wire.pacing import PAUSE, gently
from gpen.wire.poller import Poller
from gpen.wire.resolver import Resolver
from gpen.wire.subprocesses import Children

log = logging.getLogger("gpen")

FAREWELL_SECONDS = 5.0
LARGE = 5000  # servers and entries of access lists
KEPT_GREENLETS = 128


class Balancer:
    """One gpen. Made from a Configuration, it opens everything in ``open`` and serves until ``stop``."""

    def __init__(self, configuration: Configuration, sources: Sources, command_line: str = "") -> None:
        """``sources`` is where the configuration came from; ``command_line`` stands in the head of what ``write``
        saves."""
        self.settings = settings = configuration.settings
        self.pool = pool = configuration.pool
        self.chroot = Chroot()
        self._configuration = configuration
        self.sessions = Sessions(process.sessions_within_limit(self.settings_in_use()))
        self._wanted = process.descriptors_wanted(self.settings_in_use())
        self.troubles = Troubles()
        self._sources = sources
        self._threads = get_hub().threadpool  # now: gevent loads it when it is first asked, perhaps inside a chroot
        self._poller = Poller()
        self._children = Children()
        self._resolver = Resolver()
        self._greenlets = Greenlets(KEPT_GREENLETS)
        files = SocketFiles(settings, self.chroot)
        self.logs = Logs(self._resolver, self.chroot, self.troubles, lambda: self.names.refresh_log())
        loops = Loops(pool, lambda: self.listeners.datagram_listeners())
        self.listeners = Listeners(configuration, Shared(
            self.sessions, self._poller, self._greenlets, self.troubles, self._resolver, loops, files, self.chroot.path,
            shed=self._shed, holds={}, short={}), self.logs)
        unnamed = self.listeners.unnamed
        self.idlers = Idlers(unnamed)
        self.names = Hostnames(pool, settings, self._resolver, self.logs.networked, self._renamed)
        self.checks = Checks(pool, settings, self._prober, self.troubles, self._resume)
        self._countries = Countries(pool, lambda: (scope.clients for scope in configuration.scopes.values()))
        self._control = ControlSocket(settings, pool, files)
        self._changes = Changes(configuration, sources, command_line, self.listeners, self.logs, self.names,
                                self._countries, self.chroot, self._threads.apply, self._taken_up)
        self._queries = Queries(configuration, self.sessions, self.listeners, loops, self.stop)
        self._executor = Executor(configuration, self._changes, self._queries, self.chroot, {
            "listen": lambda listener: self.listeners[listener].address or None,
            "control": lambda listener: self._control.address or None,
            "control_acl": lambda listener: settings.control_acl or 0,
            "idlers": lambda listener: f"{self.idlers.connected}/{settings.idlers}",
        }, unnamed.stir)
        self._janitor: Any = None
        self._stopping = Event()
        pool.health.on_condemned = self.sessions.condemned
        pool.health.on_unwell = self.names.refresh
        pool.on_moved = loops.changed
        pool.is_ourselves = self._is_ourselves

    def settings_in_use(self) -> list[Settings]:
        """Those of the listeners that have an address."""
        every = [scope.settings for scope in self._configuration.scopes.values()]
        return [settings for settings in every if settings.listen] or every[:1]

    # --- opening and closing --------------------------------------------------------------------------------------

    def open(self) -> None:
        """Resolve names, bind, open files; nothing is accepted yet. Switches greenlets.

        Raises ScriptError, sockets.ListenError or OSError.
        """
        settings, said = self.settings, self._sources.said
        process.set_debug(settings.debug)
        check_programs(checks_of(self._configuration), self.chroot)
        answers = self.names.resolve(said, patient=True)
        self._countries.adopt(open_countries(settings, self.chroot))
        if settings.chroot:
            self._resolver.prepare_for_chroot(settings.timeout)
            prepare_for_chroot()
        self.listeners.open()
        places = list(self.names.places(said, answers))
        own = {front.name: front.listener.endpoint for front in self.listeners if front.listener is not None}
        own_address.refuse(places, listening_at(Ways(said), own), said.origin_of)
        self.names.adopt(answers, places)
        if settings.control:
            address = parse_listen(settings.control, "127.0.0.1")
            self._control.open(settings.control, partial(resolved, self._resolver, settings, "control", address),
                               self._executor.execute)
        self.listeners.open_logs()
        self._changes.tell_notes(self.pool.all_servers())

    def serve(self, ready: Callable[[], None]) -> None:
        """Accept clients until ``stop``; then close everything. ``ready`` is called when clients and signals are
        taken. Switches greenlets."""
        hub: Any = get_hub()
        hub.print_exception = _tell_failure
        watchers = []
        for number, action in ((signal.SIGHUP, self._changes.hang_up), (signal.SIGUSR1, self._write_statistics),
                               (signal.SIGTERM, self._terminate), (signal.SIGINT, self._terminate)):
            watcher = hub.loop.signal(number)
            watcher.start(gevent.spawn, action)
            watchers.append(watcher)
        self._spare_collections()
        self._janitor = gevent.spawn(janitor.run, self.sessions, self._works())
        self.checks.tend_all()
        self.listeners.start()
        self._control.start()
        ready()
        self._stopping.wait()
        self.close()
        for watcher in watchers:
            watcher.stop()
            watcher.close()

    def _spare_collections(self) -> None:
        """What a large configuration has made stays: Python's collections of garbage need not look at it, which took
        100 ms in the middle of a reload (4,000 servers, 30,000 entries). Where little stays, they come so often then
        that a connection costs 5 us more."""
        if len(self.pool.servers) + sum(len(access.entries) for access in self.pool.acls) > LARGE:
            gc.collect()
            gc.freeze()

    def stop(self) -> None:
        """Let ``serve`` come to its end. A second call does nothing."""
        self._stopping.set()

    def _terminate(self) -> None:
        """TERM or INT: stop; at the second one, at once."""
        if self._stopping.is_set():
            os._exit(1)
        self.stop()

    def close(self) -> None:
        """Stop accepting, end all sessions, then close control socket and log. Switches greenlets."""
        self.listeners.close()
        for session in self.sessions:
            try:
                session.stop(Ending.SHUTDOWN)
            except Exception:
                session.failed()
        deadline = time.monotonic() + FAREWELL_SECONDS
        while len(self.sessions) and time.monotonic() < deadline:
            gevent.sleep(PAUSE)
        self._control.close()
        if self._janitor is not None:
            self._janitor.kill()
        self.idlers.close()
        self.checks.close()
        self.listeners.close_logs()
        self._greenlets.dismiss()
        self._poller.close()

    # --- what one part has to tell the others ---------------------------------------------------------------------

    def _taken_up(self, draft: Draft, touched: Sequence[Server]) -> None:
        """A draft has come in force; these servers it has changed, made or deleted."""
        process.set_debug(self.settings.debug)
        if "control_mode" in draft.values:
            self._control.renew_mode()
        if self._wanted != (wanted := process.descriptors_wanted(self.settings_in_use())):
            self._wanted = wanted
            process.raise_descriptor_limit(self.settings_in_use())
        self._renew_limit()
        if draft.new_addresses() or draft.deleted or draft.listeners or not draft.values.keys().isdisjoint(SPECIAL):
            self.sessions.follow_servers()
        for server in touched:
            if server.state == "maint" and not server.deleted:
                self.sessions.close_at(server)
        if draft.values.keys().isdisjoint(WITH_ALL_CHECKS):
            self.checks.tend(touched)
        else:
            self.checks.tend_all()
        self._resume()

    def _renamed(self) -> None:
        """A name means other addresses now. Does not switch."""
        self.sessions.follow_servers()
        gevent.spawn(self.checks.tend_all)
        self._resume()

    def _resume(self) -> None:
        """There may be room, or a server, for another client of any listener."""
        for front in self.listeners:
            front.resume()

    def _is_ourselves(self, target: Target, endpoint: Endpoint) -> bool:
        """Whether a listener that uses a server so listens there itself."""
        return any(own_address.is_own(endpoint, listener.endpoint, self.chroot.path) and front.reaches(target)
                   for front, listener in self.listeners.at_port(endpoint.port))

    def _prober(self, server: Server) -> Prober:
        return Prober(server, self.settings, self._poller, self._children, self.chroot.path)

    def _renew_limit(self) -> None:
        self.sessions.most = process.sessions_within_limit(self.settings_in_use())

    def _works(self) -> Sequence[janitor.Work]:
        """What is to be done each second."""
        return (
            ("the limit of sessions", self._renew_limit),
            ("names", self.names.tend),
            ("idlers", lambda: self.idlers.tend(2 * (self.sessions.most - len(self.sessions)))),
            ("pipes", lambda: self._poller.pipes.tend((self.sessions.most - len(self.sessions)) // 2)),
            ("verdicts", self.pool.health.expire),
            ("troubles", self.troubles.tend),
            ("checks", self.checks.tend_all),
            ("children", self._children.reap),
            ("accepting", self._resume),
            ("sessions", lambda: janitor.tend_sessions(self.sessions)),
            ("conn_max", self._evict_excess),
            ("listeners that are gone", self.listeners.tend),
        )

    def _shed(self) -> bool:
        """Descriptors or memory are short: end what no client needs. Whether there was any."""
        return self._poller.pipes.shed() or self.idlers.shed()

    def _evict_excess(self) -> None:
        for front in self.listeners:
            front.evict_excess()

    def _write_statistics(self) -> None:
        """USR1: the status page to the file of -w, or else a summary to the diagnostics."""
        if self.settings.web_stats:
            try:
                write_whole(self.chroot.path(self.settings.web_stats), status_page(self._queries))
            except OSError as error:
                log.error("can't write '%s': %s", self.settings.web_stats, error.strerror)
            return
        for line in ("servers", "sessions", "recent"):
            for piece in gently(self._executor.execute(line, "")):
                for row in piece.splitlines():
                    log.info("%s: %s", line, row)


def _tell_failure(context: Any, *failure: Any) -> None:
    """What gevent would print: to the diagnostics, as all that is told, and not past what makes it fit for them."""
    log.error("%s failed", "a greenlet" if context is None else context, exc_info=failure)
