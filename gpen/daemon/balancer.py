"""The balancer: makes all the parts of a gpen and tells each of them what it needs of the others."""

from __future__ import annotations

import gc
import logging
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
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
from gpen.daemon.agents import Agents
from gpen.daemon.ages import Ages
from gpen.daemon.alerts import Alerts
from gpen.daemon.changes import WITH_ALL_CHECKS, Changes, check_alert, check_programs, checks_of, listening_at
from gpen.daemon.checks import Checks
from gpen.daemon.chroot import Chroot
from gpen.daemon.control_socket import ControlSocket
from gpen.daemon.countries import Countries, open_countries, prepare_for_chroot
from gpen.daemon.door import HttpDoor
from gpen.daemon.elders import Elders
from gpen.daemon.executor import Executor
from gpen.daemon.front import Shared, resolved
from gpen.daemon.handover import Handover
from gpen.daemon.hostnames import Hostnames
from gpen.daemon.inheritance import Inheritance
from gpen.daemon.listeners import Listeners
from gpen.daemon.logs import Logs
from gpen.daemon.metrics import Metrics
from gpen.daemon.notify import Notifier
from gpen.daemon.peers import Peers
from gpen.daemon.ports import tell_shortages
from gpen.daemon.queries import Queries
from gpen.daemon.readiness import Readiness
from gpen.daemon.sessions import Sessions
from gpen.daemon.socket_files import SocketFiles
from gpen.daemon.status import status_page
from gpen.daemon.takeover import Takeover
from gpen.daemon.upgrade import Upgrade
from gpen.daemon.workers import Workers
from gpen.files import write_whole
from gpen.model.address import Endpoint, parse_listen
from gpen.model.ending import Ending
from gpen.model.pool import SPECIAL
from gpen.model.server import Server, Target
from gpen.model.text import counted
from gpen.wire.check import Prober
from gpen.wire.faults import Troubles
from gpen.wire.given import GivenSockets
from gpen.wire.greenlets import KEPT, Greenlets
from gpen.wire.idlers import Idlers
from gpen.wire.loops import Loops
from gpen.wire.pacing import PAUSE, gently
from gpen.wire.poller import Poller
from gpen.wire.quiet import Quieter
from gpen.wire.resolver import Resolver
from gpen.wire.subprocesses import Children

log = logging.getLogger("gpen")

FAREWELL_SECONDS = 5.0
LARGE = 5000  # servers and entries of access lists


class Balancer:
    """One gpen. Made from a Configuration, it opens everything in ``open`` and serves until ``stop``."""

    def __init__(self, configuration: Configuration, sources: Sources, command_line: str = "",
                 inheritance: Inheritance | None = None, notifier: Notifier | None = None, fork_server: Any = None,
                 ) -> None:
        """``sources`` is where the configuration came from; ``command_line`` stands in the head of what ``write``
        saves; ``inheritance`` is what another gpen has, whose place this one takes. ``notifier`` tells who has started
        gpen how it is; ``fork_server`` is the way to what forks workers, if there shall be any."""
        self.notifier = notifier = notifier or Notifier()
        self.settings = settings = configuration.settings
        self.pool = pool = configuration.pool
        self.chroot = Chroot()
        self._configuration = configuration
        self.sessions = Sessions(process.sessions_within_limit(configuration.settings_in_use()))
        self._wanted = process.descriptors_wanted(configuration.settings_in_use())
        self.troubles = Troubles()
        self._sources = sources
        self._threads = get_hub().threadpool  # now: gevent loads it when it is first asked, perhaps inside a chroot
        self._poller = Poller()
        self._children = Children()
        self._resolver = Resolver()
        self._greenlets = Greenlets(KEPT)
        files = SocketFiles(settings, self.chroot)
        self.logs = Logs(self._resolver, self.chroot, self.troubles, lambda: self.names.refresh_log())
        count = process.workers_of(settings) if fork_server is not None else 0
        self.workers = Workers(count, fork_server, self._poller, pool.events, self._resume)
        self._renew_limit()
        loops = Loops(pool, lambda: self.listeners.datagram_listeners())
        self.listeners = Listeners(configuration, Shared(
            self.sessions, self._poller, self._greenlets, self.troubles, self._resolver, loops, files, self.chroot.path,
            shed=self._shed, quieter=Quieter(self._poller.loop), holds={}, short={},
            workers=self.workers if count else None), self.logs)
        unnamed = self.listeners.unnamed
        self.idlers = Idlers(unnamed)
        self.names = Hostnames(pool, settings, self._resolver, self.logs.networked, self._renamed)
        self.checks = Checks(pool, settings, self._prober, self._agents(), self.troubles, self._resume)
        self._countries = Countries(pool, lambda: (scope.clients for scope in configuration.scopes.values()))
        self._control = ControlSocket(settings, pool, files, self.chroot)
        self._door = HttpDoor(settings, pool, files, self._resolver, self.chroot)
        self.peers = Peers(configuration, self._resolver, self.chroot, bool(inheritance and inheritance.has_peers))
        self._elders = Elders(configuration, self._resume)
        self._changes = Changes(configuration, sources, command_line, self.listeners, self.logs, self.names,
                                self._countries, self.workers, self._door, self.peers, self.chroot,
                                self._threads.apply, self._taken_up, notifier)
        readiness = Readiness(self.listeners, self.workers, self._absence)
        self._queries = Queries(configuration, self.sessions, self.listeners, loops, self.workers, self._elders,
                                self.checks, readiness, self.stop)
        self._metrics = Metrics(self._queries, readiness, self.listeners, pool.events, self.workers.refresh,
                                self.peers.others)
        self.handover = Handover(configuration, sources, self.sessions, self.listeners, self._control, self._door,
                                 self.peers, self._changes, self._elders, self._replaced, self.stop)
        self._inheritance = inheritance
        self._takeover = Takeover(inheritance, configuration, sources, self.listeners, self._control, self._door,
                                  self._changes, self._elders) if inheritance is not None else None
        upgrade = Upgrade(self.handover, self._poller, self._children, self.chroot, notifier)
        self._executor = Executor(configuration, self._changes, self._queries, self.chroot, self._answers(),
                                  unnamed.stir, upgrade.run, self.workers.refresh)
        self._door.leads_to(self._executor.execute, self._metrics.text)
        self._janitor: Any = None
        self._stopping = Event()
        self._let_know(loops, readiness)

    def _let_know(self, loops: Loops, readiness: Readiness) -> None:
        """Who is told what has happened."""
        pool = self.pool
        self.alerts = Alerts(self._configuration, self.listeners, readiness, self._poller, self._children,
                             self.chroot.path)
        self._queries.alerts = self.alerts.figures
        pool.health.on_condemned = self.sessions.condemned
        pool.health.on_unwell = self.names.refresh
        pool.on_moved = partial(self._moved, loops)
        pool.is_ourselves = self._is_ourselves
        self._changes.on_renewed = self._elders.renew
        self.workers.lend = self.listeners.lend

    def _answers(self) -> dict[str, Callable[[str], Any]]:
        """The settings that are answered with something else than their value."""
        settings = self.settings
        return {
            "listen": lambda listener: self.listeners[listener].address or None,
            "control": lambda listener: self._control.address or None,
            "metrics": lambda listener: self._door.address or None,
            "control_acl": lambda listener: settings.control_acl or 0,
            "idlers": lambda listener: f"{self.idlers.connected}/{settings.idlers}",
            "workers": lambda listener: self.workers.rows(),
            "peers": lambda listener: self.peers.rows(),
        }

    # --- opening and closing --------------------------------------------------------------------------------------

    def open(self, given: GivenSockets | None = None) -> None:
        """Resolve names, bind or take the sockets that are given, open files; nothing is accepted yet. Switches
        greenlets.

        Raises ScriptError, sockets.ListenError or OSError.
        """
        settings, said = self.settings, self._sources.said
        process.set_debug(settings.debug)
        check_programs(checks_of(self._configuration), self.chroot)
        check_alert(settings, self.chroot)
        answers = self.names.resolve(said, patient=True)
        self._countries.adopt(open_countries(settings, self.chroot))
        if settings.chroot:
            self._resolver.prepare_for_chroot(settings.timeout)
            prepare_for_chroot()
        self.listeners.open(given)
        places = list(self.names.places(said, answers))
        own = {front.name: front.listener.endpoint for front in self.listeners if front.listener is not None}
        self.workers.open({front.name: front.settings for front in self.listeners},
                          bool(self._configuration.with_own_tls()))
        own_address.refuse(places, listening_at(Ways(said), own), said.origin_of)
        self.names.adopt(answers, places)
        if settings.control:
            address = parse_listen(settings.control, "127.0.0.1")
            self._control.open(settings.control, partial(resolved, self._resolver, settings, "control", address),
                               self._executor.execute, self.handover.offer,
                               self._inheritance.control if self._inheritance is not None else None)
        self._door.open(self._inheritance.door if self._inheritance is not None else None)
        self.peers.open(self._inheritance.peers if self._inheritance is not None else None)
        self._time_sessions()
        self.listeners.open_logs()
        self._changes.tell_notes(self.pool.all_servers())

    def confine(self, made: Iterable[int]) -> None:
        """Enter the chroot and become the user, with all processes; ``made`` are descriptors of files that are to be
        the user's. Switches greenlets. Raises StartError."""
        self.workers.confine()
        process.confine(self.settings, [*made, *self.logs.made()], self.chroot,
                        process.lasting_rights(self._configuration.settings_in_use()))
        self.logs.confined(self.settings.user)

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
        self._take_over()
        self.pool.returns.is_serving = True
        self._spare_collections()
        self._janitor = gevent.spawn(janitor.run, self.sessions, self._works())
        self.checks.tend_all()
        self.workers.start()
        self.listeners.start()
        self._control.start()
        self._door.start()
        self.peers.start()
        self.alerts.start()
        ready()
        if self.notifier.watchdog:  # by the hub itself: one that hangs gives no sign
            watchdog = hub.loop.timer(self.notifier.watchdog / 2, self.notifier.watchdog / 2)
            watchdog.start(self.notifier.alive)
            watchers.append(watchdog)
        if self._takeover is not None:
            self._takeover.tell()
        self._stopping.wait()
        self.notifier.stopping()
        self.close()
        for watcher in watchers:
            watcher.stop()
            watcher.close()

    def _take_over(self) -> None:
        """Take the place of the gpen whose inheritance this one has, if it has one. Switches greenlets. Raises
        StartError, ScriptError, ListenError or OSError, with all closed again."""
        if self._takeover is None:
            return
        try:
            self._takeover.take_over(self.handover.pid_file)
        except BaseException:
            self.close()
            raise

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
        self.handover.abandon()
        self.listeners.close()
        self._door.close()
        self.peers.close()
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
        self.alerts.close()
        self.workers.close()
        self.listeners.close_logs()
        self._greenlets.dismiss()
        self._poller.close()

    # --- what one part has to tell the others ---------------------------------------------------------------------

    def _taken_up(self, draft: Draft, touched: Sequence[Server]) -> None:
        """A draft has come in force; these servers it has changed, made or deleted."""
        process.set_debug(self.settings.debug)
        if "control_mode" in draft.values:
            self._control.renew_mode()
        if self._wanted != (wanted := process.descriptors_wanted(self._configuration.settings_in_use())):
            self._wanted = wanted
            process.raise_descriptor_limit(self._configuration.settings_in_use())
            tell_shortages(self._configuration.scopes.values())
        self._renew_limit()
        self._time_sessions()
        if draft.new_addresses() or draft.deleted or draft.listeners or not draft.values.keys().isdisjoint(SPECIAL):
            self.sessions.follow_servers()
        for server in touched:
            if server.state == "maint" and not server.deleted:
                self.sessions.close_at(server)
        if draft.values.keys().isdisjoint(WITH_ALL_CHECKS):
            self.checks.tend(touched)
        else:
            self.checks.tend_all()
        self.peers.arrange()
        self.alerts.tend()
        self._resume()

    def _moved(self, loops: Loops) -> None:
        """Servers are elsewhere. Does not switch."""
        loops.changed()
        self.peers.servers_changed()

    def _renamed(self) -> None:
        """A name means other addresses now. Does not switch."""
        self.sessions.follow_servers()
        gevent.spawn(self.checks.tend_all)
        self._resume()

    def _replaced(self, pid: int) -> None:
        """Another process serves in our place from now on."""
        self.idlers.close()
        self.alerts.retire()
        self.notifier.hand_over(pid)

    def _absence(self) -> str:
        """Why this gpen takes no clients; empty as long as it does."""
        if self._stopping.is_set():
            return "it is stopping"
        return f"pid {self.handover.successor} has replaced it: ask that one" if self.handover.successor else ""

    def _resume(self) -> None:
        """There may be room, or a server, for another client of any listener."""
        for front in self.listeners:
            front.resume()

    def _is_ourselves(self, target: Target, endpoint: Endpoint) -> bool:
        """Whether a listener that uses a server so listens there itself."""
        return any(own_address.is_own(endpoint, listener.endpoint, self.chroot.path) and front.reaches(target)
                   for front, listener in self.listeners.at_port(endpoint.port))

    def _prober(self, server: Server) -> Prober:
        return Prober(server, self.settings, self._poller, self._children, self.chroot.path,
                      lambda: self.listeners.unnamed.server_tls)

    def _agents(self) -> Agents:
        return Agents(self.pool, self.settings, self._poller, self._resume)

    def _time_sessions(self) -> None:
        """Note how long sessions take where somebody may ask for it: it costs each a microsecond."""
        self.sessions.timed = self._metrics.timings.note if self.settings.metrics else None

    def _renew_limit(self) -> None:
        every = self._configuration.settings_in_use()
        self.sessions.most, self.workers.most = process.sessions_within_limit(every), process.sessions_of_each(every)

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
            ("alerts", self.alerts.tend),
            ("children", self._children.reap),
            ("workers", self.workers.tend),
            ("peers", self.peers.tend),
            ("direct server return", self.listeners.tend_direct),
            ("accepting", self._resume),
            ("sessions", lambda: janitor.tend_sessions(self.sessions)),
            ("session_max_age", Ages(self.listeners, self.sessions).tend),
            ("conn_max", self._evict_excess),
            ("listeners that are gone", self.listeners.tend),
            ("the service manager", self._tell_manager),
        )

    def status(self) -> str:
        """In a line where it listens, and what it does. Switches greenlets when there are many servers."""
        standing = Counter(server.target.standing for server in gently(self.pool.all_servers()) if not server.is_empty)
        servers = ", ".join(f"{standing[word]} {word}" for word in ("up", "drained", "down") if standing[word])
        return (f"listens on {', '.join(self.listeners.addresses())}; {counted(len(self.sessions), 'session')}; "
                f"servers: {servers or 'none'}")

    def _tell_manager(self) -> None:
        self.notifier.tend()
        if self.notifier.is_due():
            self.notifier.status(self.status())

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
                self.workers.refresh()
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
