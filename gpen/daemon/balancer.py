"""The balancer: owns the configuration, the sockets, the sessions and the log, and runs the commands.

A command that configures is carried out whole or not at all, as is a file of them: it is run on a draft, names are
resolved, sockets and files are opened; only then, in one step without a switch, is the draft adopted. So nobody ever
sees half a change, and a change costs what it changes.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from importlib.util import find_spec
from itertools import chain, count
from typing import Any

import gevent
from gevent.event import Event
from gevent.hub import get_hub
from gevent.lock import BoundedSemaphore

from gpen.control import reply
from gpen.control.commands import ACCESS
from gpen.control.configuration import Configuration
from gpen.control.draft import ACTIONS, Draft
from gpen.control.script import (
    Call,
    Errors,
    NotInOurLanguage,
    ScriptError,
    ScriptErrors,
    Step,
    UnknownCommand,
    asks_to_stay,
    attempt,
    parse_line,
    read_file,
    read_lines,
)
from gpen.control.sources import Sources
from gpen.control.validation import notes
from gpen.daemon import janitor, ownaddress, process
from gpen.daemon.checks import Checks, unusable
from gpen.daemon.countries import Countries, open_countries
from gpen.daemon.lines import STDOUT
from gpen.daemon.names import Names, Place
from gpen.daemon.queries import Queries
from gpen.daemon.sessionlog import AnyLog, NetworkLog, SessionLog, dump_watch, request_watch, session_line
from gpen.daemon.status import status_page
from gpen.files import Entry, write_whole
from gpen.model.address import Address, Endpoint, network_address, parse_listen
from gpen.model.check import Check
from gpen.model.client import Client
from gpen.model.ending import Ending
from gpen.model.pool import SPECIAL
from gpen.model.server import Server
from gpen.model.settings import SETTINGS, Settings
from gpen.model.words import counted, shortened
from gpen.wire import sock as sockets
from gpen.wire.control import ControlServer
from gpen.wire.conversation import Conversation, Some, Watch
from gpen.wire.datagram import DatagramListener
from gpen.wire.faults import Seldom, Troubles
from gpen.wire.hold import Hold
from gpen.wire.idlers import Idlers
from gpen.wire.listener import Listener
from gpen.wire.loops import Loops
from gpen.wire.poller import Poller
from gpen.wire.program import Children
from gpen.wire.resolve import Endpoints, ResolveError, Resolver
from gpen.wire.session import Session
from gpen.wire.tls import Terminator, TlsError
from gpen.wire.turns import PAUSE, gently
from gpen.wire.workers import Workers

log = logging.getLogger("gpen")

FAREWELL_SECONDS = 5.0
DUMP_LEVEL = 2
LARGE = 5000  # servers and entries of access lists
KEPT_WORKERS = 128
EXTRAS = (("http", "httptools", "http"), ("geoip_db", "maxminddb", "geoip"))  # setting, its package, and who brings it


class Balancer:
    """One load balancer. Made from a Configuration, it opens everything in ``open`` and serves until ``stop``."""

    listener: Listener | DatagramListener
    control: ControlServer | None

    def __init__(self, configuration: Configuration, sources: Sources, command_line: str = "") -> None:
        """``sources`` is where the configuration came from; ``command_line`` stands in the head of what ``write``
        saves. ``jail`` is set when gpen enters a chroot."""
        self.configuration = configuration
        self._sources = sources
        self.settings = configuration.settings
        self.pool = configuration.pool
        self.clients = configuration.clients
        self.command_line = command_line
        self.jail = process.Jail()
        self.poller = Poller()
        self.children = Children()
        self.sessions: dict[int, Conversation] = {}
        self.troubles = Troubles()
        self.dialing = 0
        self.session_limit = process.sessions_within_limit(self.settings)
        self.endings: Counter[str] = Counter()
        self.total = 0
        self.started = time.time()
        self.session_log: AnyLog | None = None
        self.tls: Terminator | None = None
        self._countries = Countries(self.pool, self.clients)
        self.control = None
        self.hold = Hold(self)
        self.loops = Loops(self.pool, self._datagram_listeners)
        self.idlers = Idlers(self)
        self.checks = Checks(self)
        self.pool.on_condemned = self._condemned
        self.pool.is_ourselves = self._is_ourselves
        self.pool.on_moved = self.loops.changed
        self._queries = Queries(self)
        self._workers = Workers(KEPT_WORKERS)
        self._ids = count()
        self._stopping = Event()
        self._changing = BoundedSemaphore()
        self._is_hung_up = False
        self._threads = get_hub().threadpool  # now: gevent loads it when it is first asked, perhaps inside a chroot
        self._resolver = Resolver()
        self.names = Names(self.pool, self.settings, self._resolver, lambda: self.session_log, self._renamed)
        self.pool.on_unwell = self.names.refresh
        self._janitor: Any = None
        self._control_address = ""
        self._told: set[str] = set()
        self._socket_files: dict[str, os.stat_result] = {}
        self._refusals = Seldom()
        self._leaving: list[DatagramListener] = []  # listeners of before that have flows yet

    # --- opening and closing --------------------------------------------------------------------------------------

    def open(self) -> None:
        """Resolve names, bind, open files; nothing is accepted yet. Switches greenlets.

        Raises ScriptError, sockets.ListenError or OSError.
        """
        settings = self.settings
        process.set_debug(settings.debug)
        check_programs(checks_of(self.configuration), self.jail)
        answers = self.names.resolve(self._sources.said, patient=True)
        self.tls = make_terminator(settings, self.jail)
        self._countries.adopt(open_countries(settings, self.jail))
        if settings.chroot:
            self._resolver.prepare_for_chroot(settings.timeout)
        assert settings.listen is not None
        self.listener = self._listener(settings.listen, settings)
        places = list(self.names.places(self._sources.said, answers))
        ownaddress.refuse(places, self.listener.endpoint, self._sources.said.origin_of)
        self.names.adopt(answers, places)
        if settings.control:
            self._open_control(settings.control)
        if settings.log:
            self.session_log = self._open_log(settings.log, patient=True)
        self._tell_notes(self.pool.all_servers())

    def serve(self, ready: Callable[[], None]) -> None:
        """Accept clients until ``stop``; then close everything. ``ready`` is called when clients and signals are
        taken. Switches greenlets."""
        hub: Any = get_hub()
        hub.print_exception = _tell_failure
        loop = hub.loop
        watchers = []
        for number, action in ((signal.SIGHUP, self._hang_up), (signal.SIGUSR1, self._write_statistics),
                               (signal.SIGTERM, self._terminate), (signal.SIGINT, self._terminate)):
            watcher = loop.signal(number)
            watcher.start(gevent.spawn, action)
            watchers.append(watcher)
        self._spare_collections()
        self._janitor = gevent.spawn(janitor.run, self)
        self.checks.tend_all()
        self.listener.start()
        if self.control is not None:
            self.control.start()
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
        listener: Listener | DatagramListener | None = getattr(self, "listener", None)
        if listener is not None:
            self._close_listener(listener)
        for session in list(self.sessions.values()):
            try:
                session.stop(Ending.SHUTDOWN)
            except Exception:
                session.failed()
        deadline = time.monotonic() + FAREWELL_SECONDS
        while self.sessions and time.monotonic() < deadline:
            gevent.sleep(PAUSE)
        if self.control is not None:
            self.control.close()
            self._unlink_socket(self._control_address)
        if self._janitor is not None:
            self._janitor.kill()
        self.idlers.close()
        self.checks.close()
        if self.session_log is not None:
            self.session_log.close()
            self.session_log = None
        self._workers.dismiss()
        self.poller.close()

    def _unlink_socket(self, address: str) -> None:
        """Remove the file of a unix socket, unless it is another gpen's by now."""
        made = self._socket_files.pop(address, None)
        if made is None:
            return
        path = self.jail.path(address)
        try:
            with Entry(path, follow=False) as entry:
                entry.remove(made)
        except OSError as error:
            log.debug("can't remove the socket %s: %s", path, error.strerror)

    @property
    def listen_address(self) -> str:
        """The address that clients connect to, as it was given; with the real port where 0 was given."""
        given = self.settings.listen or ""
        return self.listener.bound_to if parse_listen(given).port == 0 and "/" not in given else given

    def _listener(self, text: str, settings: Settings) -> Listener | DatagramListener:
        """The listener for an address: the one that is there already, though it may be about to close, or a new one
        with these settings."""
        address = parse_listen(text)
        if address.path:
            address = Address(path=self.jail.path(address.path))
        endpoint = self._resolved("listen", address, settings.udp)[0]
        current: Listener | DatagramListener | None = getattr(self, "listener", None)
        if current is not None and self._is_at(current, endpoint):
            return current
        for leaving in self._leaving:
            if leaving.is_open and self._is_at(leaving, endpoint):
                leaving.keep()
                return leaving
        if settings.udp:
            ours = [listener.socket for listener in (current, *self._leaving) if isinstance(listener, DatagramListener)
                    and listener.is_open]
            return DatagramListener(sockets.receive_datagrams(address, endpoint, ours), self)
        if address.path:
            sock = self._listen_at_path(address)
        else:
            sock = sockets.listen(address, endpoint, settings, current and current.socket)
            endpoint = sockets.endpoint_of(sock)
        return Listener(sock, endpoint, self.poller, settings.multi_accept, self._workers, self._begin,
                        self.no_room, self.shed)

    def _listen_at_path(self, address: Address, mode: int | None = None) -> sockets.Socket:
        """A socket with a file of this mode, which belongs to the user that gpen becomes; `_unlink_socket` removes
        it."""
        sock = sockets.listen_at_path(address, self.settings.backlog, mode, process.user_to_be(self.settings))
        with Entry(address.path, follow=False) as entry:
            made = entry.status()
        if made is not None:
            self._socket_files[address.path] = made
        return sock

    def _datagram_listeners(self) -> Iterator[DatagramListener]:
        """Those that clients of UDP may reach."""
        return (listener for listener in (self.listener, *self._leaving) if isinstance(listener, DatagramListener))

    def _is_at(self, listener: Listener | DatagramListener, endpoint: Endpoint) -> bool:
        """Whether a listener of ours is where one is wanted, in whatever notation."""
        file = self._socket_files.get(listener.bound_to)
        if file is None:
            return bool(listener.endpoint.sockaddr == endpoint.sockaddr)
        try:
            return os.path.samestat(os.stat(endpoint.host), file)
        except OSError:  # it was removed, or is not there yet
            return False

    def _open_control(self, text: str) -> None:
        address = parse_listen(text, "127.0.0.1")
        if address.path:
            sock = self._listen_at_path(address, self.settings.control_mode)
        else:
            sock = sockets.listen(address, self._resolved("control", address)[0], self.settings)
        self._control_address = str(sockets.endpoint_of(sock)) if address.port == 0 and not address.path else text
        self.control = ControlServer(sock, self.execute, asks_to_stay, self._welcome)

    # --- sessions (what wire/session.py asks of its Front) --------------------------------------------------------

    def _begin(self, sock: Any, peer: Any) -> Any:
        return self.begin(lambda number: Session(number, self, sock, peer)).run

    def begin(self, make: Callable[[int], Some]) -> Some:
        """Make a session or flow of a fresh number, and count it."""
        session = make(next(self._ids))
        self.sessions[session.id] = session
        self.total += 1
        return session

    def no_room(self) -> bool:
        """Whether no session may begin now."""
        limit = self.settings.pending_max
        if limit and self.dialing >= limit:
            return True
        return len(self.sessions) >= min(self.settings.conn_max, self.session_limit)

    def watch(self, session: Conversation) -> Watch | None:
        """What shall see the bytes of a session: pen's request log, the dumps of debug 2, or nothing."""
        watch = None
        if isinstance(self.session_log, NetworkLog) or (self.session_log and self.settings.log_format == "pen"):
            watch = request_watch(session, lambda: self.session_log)
        return dump_watch(session, self.settings, watch) if self.settings.debug >= DUMP_LEVEL else watch

    def ended(self, session: Conversation) -> None:
        """A session is over: forget it, log it, and let the next client in."""
        self.forget(session)
        assert session.ending is not None
        self.endings[session.ending.value] += 1
        if self.session_log is not None and self.settings.log_format != "pen":
            self.session_log.write(session_line(session, self.settings))
        if self.settings.debug:
            log.debug("session %d: %s", session.id, session_line(session, self.settings))
        self.resume()

    def forget(self, session: Conversation) -> None:
        """It is no session any more, however it ended. A second call does nothing."""
        if self.sessions.pop(session.id, None) is not None and session.client is not None:
            self.clients.leave(session.client)

    def refused_for_client_max(self, address: str, others: int) -> None:
        """This address has so many sessions already, which is the most."""
        more = self._refusals.comes()
        if more is not None:
            most = self.settings.client_max
            cause = f"{address} has {counted(others, 'session')} already, and client_max is {most}{more}"
            self.pool.note_own("refused", cause)
            log.warning("refused: %s", cause)

    def resume(self) -> None:
        """There may be room for another client."""
        self.listener.resume()
        self.hold.stir()

    def shed(self) -> bool:
        """Descriptors or memory are short: end what no client needs. Whether there was any."""
        return self.idlers.shed()

    def _renamed(self) -> None:
        """A name means other addresses now. Does not switch."""
        self._follow_servers()
        gevent.spawn(self.checks.tend_all)
        self.resume()

    def _is_ourselves(self, endpoint: Endpoint) -> bool:
        return ownaddress.is_own(endpoint, self.listener.endpoint, self.jail.path)

    def _follow_servers(self) -> None:
        """Clients that are just being connected to where a server was get another place: there, or elsewhere."""
        for session in list(self.sessions.values()):
            if session.is_connecting and session.lease is not None and session.lease.is_outdated:
                session.leave(session.lease)

    def close_sessions(self, number: int) -> int:
        """End all sessions of the servers that have or had this number, wherever these were then; returns how many they
        are. Clients that are just being connected go to another."""
        leases = [(session, session.lease) for session in self.sessions.values()
                  if session.lease is not None and session.lease.server.number == number]
        for session, lease in leases:
            session.leave(lease, Ending.KILLED)
        return len(leases)

    def _close_sessions_of(self, server: Server) -> None:
        """The same for the sessions of one server, at the address where it is now."""
        for session in list(self.sessions.values()):
            lease = session.lease
            if lease is not None and lease.server is server and not lease.is_elsewhere:
                session.leave(lease, Ending.KILLED)

    def _condemned(self, server: Server) -> None:
        """A verdict gives a server no clients any more. Those that are just being connected to it go to another. One
        that is down loses its sessions as well, if on_down says so."""
        ending = Ending.SERVER_DOWN if server.condemned and self.settings.on_down == "close" else None
        for session in list(self.sessions.values()):
            if session.lease is not None and session.server is server and session.is_where_its_server_is:
                session.leave(session.lease, ending)

    # --- commands -------------------------------------------------------------------------------------------------

    def execute(self, line: str, address: str) -> Iterator[str]:
        """Run one line of a control client; the reply comes in pieces. Switches greenlets."""
        try:
            call = parse_line(line)
            if call is not None:
                self._check_access(call, address)
                yield from reply.render(call, self._run(call, address))
        except UnknownCommand as problem:
            yield reply.unknown(problem)
        except ScriptError as problem:
            yield from map(reply.error, problem.told())
        except sockets.ListenError as problem:
            yield reply.error(str(problem))
        except OSError as problem:
            yield reply.error(f"{line.split()[0]}: '{problem.filename or ''}': {problem.strerror}")
        except Exception:
            log.exception("the command '%s' failed", shortened(line))
            yield reply.error(f"{line.split()[0]}: gpen failed; the traceback is in its diagnostics")

    def _check_access(self, call: Call, address: str) -> None:
        allowed = self.settings.control_access if address else ACCESS[-1]
        reads = call.command.setting is not None and not call.arguments
        needed = ACCESS[0] if reads else call.command.access
        if ACCESS.index(needed) > ACCESS.index(allowed):
            raise call.error(f"needs {needed} access; control_access gives clients of the control port '{allowed}'")
        if address and _runs_a_program(call):
            raise call.error("exec runs programs, which no client of a TCP control port may: use the file of -F, or a "
                             "control socket that is a file")

    def _welcome(self, address: str) -> str | None:
        """Why a control client of this address is refused; None when it is not."""
        number = self.settings.control_acl
        is_local = not address or address == "::1" or address.startswith("127.")
        if (number is None and is_local) or self.pool.permits(number or 0, Client(address or "unix", -1)):
            return None
        return reply.error(f"access list {number or 0} (control_acl) denies {address}")

    def _run(self, call: Call, address: str) -> Any:
        name = call.command.name
        if call.command.setting is not None:
            return self._read_or_set(call)
        if name == "include":
            return self._include(call, address)
        if name == "reload":
            return self.reload()
        if name == "write":
            self.write(call)
        elif self._is_action(call):
            self.configuration.run(call)
            self.hold.stir()
        elif call.command.configures:
            self.apply([call])
        else:
            return getattr(self._queries, name)(call)
        return None

    def _is_action(self, call: Call) -> bool:
        """Whether a command but acts on a server: verdicts come several times a second, and nothing can be wrong with
        them, so that they need not wait while others resolve names."""
        return (call.command.name == "server" and not call.no and call["changes"].keys() <= set(ACTIONS)
                and call["number"] in self.pool.servers)

    def _include(self, call: Call, address: str) -> str | None:
        """A client's ``include``: its lines may do what the client may, and it learns nothing from a file that is no
        configuration. Returns what counts later only."""
        waiting: list[str] = []

        def steps() -> Iterator[Step]:
            for step in gently(read_file(call["file"], self.jail.path)):
                if isinstance(step, Call) and step.command.setting is not None and step.command.setting.startup:
                    waiting.extend(self._startup_notes(step))
                else:
                    yield from attempt(lambda: self._allowed(step, address))  # noqa: B023 (it is used up at once)

        try:
            self.apply(steps())
        except ScriptError as problem:
            foreign = [error.discreet for error in problem.errors if isinstance(error, NotInOurLanguage)]
            if foreign:
                raise ScriptErrors(foreign) from None
            raise
        return "\n".join(waiting) or None

    def _allowed(self, step: Step, address: str) -> Call:
        if isinstance(step, ScriptError):
            raise step
        self._check_access(step, address)
        return step

    def _startup_notes(self, call: Call) -> list[str]:
        """What is to be said of a line that waits for the next start: nothing where it would change nothing."""
        setting = call.command.setting
        assert setting is not None
        value = setting.default if call["value"] is None else call["value"]
        is_old = value == self.settings.get(setting.name)
        return [] if is_old else [f"{call.origin}: {setting.name} counts at the next start only"]

    def _read_or_set(self, call: Call) -> Any:
        setting = call.command.setting
        assert setting is not None
        if call.arguments:
            if setting.startup:
                raise call.error("it counts at start only: write the configuration, change it there and restart")
            self.apply([call])
            if call.no or setting.is_flag or setting.reply is None:
                return None
        if setting.name == "listen":
            return self.listen_address
        if setting.name == "control":
            return self._control_address or None
        if setting.name == "idlers":
            return f"{self.idlers.connected}/{self.settings.idlers}"
        if setting.name == "control_acl":
            return self.settings.control_acl or 0
        return self.settings.get(setting.name)

    def apply(self, steps: Iterable[Step]) -> None:
        """Carry out configuring commands, all or none. Switches greenlets.

        Raises ScriptError, sockets.ListenError or OSError, with nothing changed.
        """
        with self._changing:
            draft = Draft(self.configuration)
            draft.run_all(steps)
            self._commit(draft)

    def _commit(self, draft: Draft) -> None:
        """Put a draft in force, all of it or nothing. Switches greenlets. Raises as ``apply`` does."""
        self._check(draft)
        answers = self.names.resolve(draft)
        places = list(gently(self.names.places(draft, answers)))
        with ExitStack() as undo:
            opened = self._open_changes(draft.settings, undo)
            self._refuse_ourselves(draft, places, opened.get("listen"))
            self._open_changed_log(draft.settings, opened, undo)  # last, for it may make a file
            if "listen" in opened:
                opened["listen"].start()  # nobody comes yet: from here on nothing switches
            undo.pop_all()
        touched = [self.pool.servers[number] for number in draft.deleted]
        self.configuration.adopt(draft)
        self.names.adopt(answers, places)
        self._adopt(opened, draft.values.keys())
        touched += [self.pool.servers[number] for number in draft.servers]
        self._tell_notes(self.pool.all_servers() if draft.values or draft.lists else
                         [server for server in touched if not server.deleted])
        if draft.new_addresses() or draft.deleted or not draft.values.keys().isdisjoint(SPECIAL):
            self._follow_servers()
        for server in touched:
            if server.state == "maint" and not server.deleted:
                self._close_sessions_of(server)
        if "check" in draft.values or "check_interval" in draft.values:
            self.checks.tend_all()
        else:
            self.checks.tend(touched)
        self.hold.stir()

    def _check(self, draft: Draft) -> None:
        """Raises ScriptError for what can't work."""
        old, new = self.settings, draft.settings
        if new.listen is None:
            raise ScriptError("no listen: gpen needs an address to listen on")
        draft.check()
        check_extras(new)
        check_programs(_new_checks(draft), self.jail)
        if new.web_stats != old.web_stats:
            check_directory("web_stats", new.web_stats and self.jail.path(new.web_stats))

    def _refuse_ourselves(self, draft: Draft, places: Sequence[Place],
                          listener: Listener | DatagramListener | None) -> None:
        """Raises ScriptErrors when a server is gpen itself: one at a new place, or with a new ``listener`` any."""
        new = draft.new_addresses() if listener is not None else ()
        others = _places(server for server in self.pool.all_servers() if listener is not None
                         and server.label not in new and server.label not in draft.deleted)
        ownaddress.refuse(chain(places, others), (listener or self.listener).endpoint, draft.origin_of, self.jail.path)

    def _open_changes(self, new: Settings, undo: ExitStack) -> dict[str, Any]:
        """Open what the changed settings need, beside what is in use; ``undo`` closes it again."""
        old = self.settings
        opened: dict[str, Any] = {}
        if tls_settings(new) != tls_settings(old):
            opened["tls"] = make_terminator(new, self.jail)
        if new.geoip_db != old.geoip_db:
            opened["countries"] = open_countries(new, self.jail)
        if new.listen is not None and new.listen != old.listen:
            listener = self._listener(new.listen, new)
            if listener is not self.listener:
                opened["listen"] = listener
                undo.callback(self._close_listener, listener)
        return opened

    def _open_changed_log(self, new: Settings, opened: dict[str, Any], undo: ExitStack) -> None:
        """The same for the log."""
        try:
            if new.log != self.settings.log:
                opened["log"] = session_log = self._open_log(new.log) if new.log else None
                if session_log is not None:
                    undo.callback(session_log.close)
        except OSError as error:
            raise ScriptError(f"log: can't open '{new.log}': {error.strerror}") from None

    def _close_listener(self, listener: Listener | DatagramListener) -> None:
        listener.close()
        self._unlink_socket(listener.bound_to)
        known = [*self._leaving, listener] if isinstance(listener, DatagramListener) else self._leaving
        self._leaving = list(dict.fromkeys(leaving for leaving in known if leaving.is_open))

    def _adopt(self, opened: dict[str, Any], changed: Collection[str]) -> None:
        """Put what was opened in the place of what was in use, and take up the settings that were ``changed``. Does not
        switch."""
        settings = self.settings
        if "tls" in opened:
            self.tls = opened["tls"]
        if "countries" in opened:
            self._countries.adopt(opened["countries"])
        if "log" in opened:
            if self.session_log is not None:
                self.session_log.close()
            self.session_log = opened["log"]
        if "listen" in opened:
            old, self.listener = self.listener, opened["listen"]
            self._leaving = [leaving for leaving in self._leaving if leaving is not self.listener]
            old.empty()
            self._close_listener(old)
            self.names.adopt_again()
            self.loops.changed()
        self.listener.tune(settings)
        self.listener.resume()
        process.set_debug(settings.debug)
        if "control_mode" in changed:
            self._set_control_mode()
        if "conn_max" in changed:
            process.raise_descriptor_limit(settings)
        self.session_limit = process.sessions_within_limit(settings)

    def _set_control_mode(self) -> None:
        made = self._socket_files.get(self._control_address)
        if made is None:
            return
        control = self.jail.path(self._control_address)
        try:
            with Entry(control, follow=False) as entry:
                entry.change_mode(self.settings.control_mode, made)
        except OSError as error:
            log.warning("control_mode: can't change the mode of '%s': %s", control, error.strerror)

    def _tell_notes(self, servers: Iterable[Server]) -> None:
        """Say once what has no effect, or means something else now, in the configuration and at these servers."""
        for about, words in notes(self.configuration, servers):
            if about not in self._told:
                self._told.add(about)
                log.warning("%s", words)

    # --- files and signals ----------------------------------------------------------------------------------------

    def write(self, call: Call) -> None:
        """Save the configuration so that it starts the same gpen; the file appears whole or not at all. Switches
        greenlets."""
        path = call["file"] or self._sources.file
        if path is None:
            raise call.error("no FILE given, and gpen was started without -F")
        with self._changing:
            head = [f"# Generated by gpen at {reply.timestamp(time.time())}", f"# {self.command_line}"]
            lines = list(gently(chain(head, self.configuration.dump(self._sources.given))))
            text = "".join(f"{line}\n" for line in lines)
            error = self._threads.apply(_written, (self.jail.path(path), text))  # a disk may take its time
            if error is not None:
                raise call.error(f"can't write '{path}': {error.strerror}")
            if self._is_our_file(path):
                self._sources.said = self._sources.read(gently(read_lines(lines, path)))

    def _is_our_file(self, path: str) -> bool:
        """Whether this is the file of -F, by whatever name."""
        file = self._sources.file
        return file is not None and os.path.realpath(self.jail.path(path)) == os.path.realpath(self.jail.path(file))

    def reload(self) -> str:
        """What HUP does: reopen the log, read certificates and the country database again, and carry out what has
        changed in the file of -F, whole or not at all. Switches greenlets.

        Returns what was changed, a line each. What was wrong is told and remembered as an event. Raises ScriptErrors
        when nothing of the file was changed.
        """
        errors = Errors()
        with self._changing:
            self._is_hung_up = False
            changes = self._reload_file(errors)
            self._renew(errors)
        if errors:
            lines = errors.told()
            self.pool.note_own("reload failed", lines[0] + (f" (and {len(lines) - 1} more)" if lines[1:] else ""))
            for line in lines:
                log.error("reload: %s", line)
        if changes is None:
            log.error("reload: nothing of '%s' was changed", self._sources.file)
            errors.raise_all()
            raise AssertionError("a reload failed without an error")
        for line in gently(changes):
            log.info("reload: %s", line)
        if self._sources.file and not changes:
            log.info("reload: '%s': nothing has changed", self._sources.file)
        told = changes or ["nothing has changed"]
        return "".join([*map(reply.error, errors.told()), *(f"{line}\n" for line in told)])

    def _check_start(self, said: Draft) -> None:
        """Raises ScriptErrors for what has changed in the file and would keep gpen from starting with it."""
        errors, old, new = Errors(), self._sources.said.settings, said.settings
        with errors.gathered():
            check_completeness(said)
        with errors.gathered():
            said.check()
        if (new.user, new.chroot) != (old.user, old.chroot) and not self.jail.is_closed:
            with errors.gathered():
                check_user(new)
        if new.pid_file != old.pid_file:
            with errors.gathered():
                check_directory("pid_file", new.pid_file and self.jail.path(new.pid_file))
        errors.raise_all()

    def _renew(self, errors: Errors) -> None:
        """Take up the log, certificates, keys and the country database as they are now; what is broken leaves the old
        in force, and keeps nothing else from changing. Names are looked up again beside."""
        settings = self.settings
        self.names.refresh_all()
        try:
            if self.session_log is not None:
                self.session_log.reopen(self.jail)
        except OSError as error:
            errors.add(ScriptError(f"can't reopen the log '{settings.log}': {error.strerror}; the old file stays"))
        try:
            self.tls = make_terminator(settings, self.jail)
        except ScriptError as error:
            errors.add(ScriptError(f"{error}; the old certificates stay in force"))
        try:
            self._countries.adopt(open_countries(settings, self.jail))
        except ScriptError as error:
            errors.add(ScriptError(f"{error}; the old database stays in force"))

    def _reload_file(self, errors: Errors) -> list[str] | None:
        """Carry out what has changed in the file of -F, and return it; None when nothing was changed for something is
        wrong."""
        file = self._sources.file
        try:
            said = self._sources.read(gently(read_file(file, self.jail.path) if file else ()))
            self._check_start(said)
            difference = self._sources.difference(said, self.configuration)
            changes = list(gently(difference.find()))
            self._commit(difference.draft)
        except ScriptError as error:
            errors.add(error)
        except sockets.ListenError as error:
            errors.add(ScriptError(str(error)))
        except OSError as error:
            errors.add(ScriptError(f"'{error.filename or ''}': {error.strerror}"))
        else:
            self._sources.said = said
            return changes + difference.waiting
        return None

    def _hang_up(self) -> None:
        """HUP: reload; what there is to tell has been told then. One that waits for its turn does for all that come
        meanwhile."""
        if self._is_hung_up:
            return
        self._is_hung_up = True
        with suppress(ScriptError):
            self.reload()

    def _open_log(self, target: str, patient: bool = False) -> AnyLog:
        """The log: a file, or where its datagrams go; when ``patient``, once its name is resolved.

        Raises ScriptError or OSError.
        """
        address = network_address(target)
        if address is None:
            return SessionLog(target if target == STDOUT else self.jail.path(target))
        endpoints = self._resolved("log", address, datagrams=True, patient=patient)
        return NetworkLog(target, address, endpoints, self.names.refresh_log, self.troubles.tell)

    def _resolved(self, name: str, address: Address, datagrams: bool = False, patient: bool = False) -> Endpoints:
        try:
            return self._resolver.resolve(address, self.settings.timeout, datagrams)
        except ResolveError as error:
            if patient and error.temporary:
                return ()
            raise ScriptError(f"{name}: {error}") from None

    def _write_statistics(self) -> None:
        """USR1: the status page to the file of -w, or else a summary to the diagnostics."""
        if self.settings.web_stats:
            try:
                write_whole(self.jail.path(self.settings.web_stats), status_page(self._queries))
            except OSError as error:
                log.error("can't write '%s': %s", self.settings.web_stats, error.strerror)
            return
        for line in ("servers", "sessions", "recent"):
            for piece in gently(self.execute(line, "")):
                for row in piece.splitlines():
                    log.info("%s: %s", line, row)


def _tell_failure(context: Any, *failure: Any) -> None:
    """What gevent would print: to the diagnostics, as all that is told, and not past what makes it fit for them."""
    log.error("%s failed", "a greenlet" if context is None else context, exc_info=failure)


def _written(path: str, text: str) -> OSError | None:
    """Write a file, and return why it can't be: what a thread raises, gevent tells on stderr."""
    try:
        write_whole(path, text)
    except OSError as error:
        return error
    return None


def _runs_a_program(call: Call) -> bool:
    check = call.arguments.get("value") or call.arguments.get("changes", {}).get("check")
    return isinstance(check, Check) and check.kind == "exec"


def _places(servers: Iterable[Server]) -> Iterator[Place]:
    """Where servers are that are known."""
    return ((server.label, server.address, server.endpoints) for server in servers)


def checks_of(configuration: Configuration) -> set[Check]:
    """The checks that are made."""
    own = {server.check for server in configuration.pool.servers.values() if server.check is not None}
    return {configuration.settings.check, *own}


def _new_checks(draft: Draft) -> set[Check]:
    """The checks that a draft brings."""
    given = {fields.get("check") for fields in draft.servers.values()} | {draft.values.get("check")}
    return {check for check in given if check is not None}


def tls_settings(settings: Settings) -> list[object]:
    """The values of the settings that make a TLS context."""
    return [settings.get(name) for name in SETTINGS if name.startswith("ssl_") and name != "ssl_handshake"]


def make_terminator(settings: Settings, jail: process.Jail) -> Terminator | None:
    """What ends the clients' TLS with these settings, if they speak it. Raises ScriptError."""
    try:
        return Terminator(settings, jail.path) if settings.ssl_certificate else None
    except TlsError as error:
        raise ScriptError(str(error)) from None


def check_programs(checks: set[Check], jail: process.Jail) -> None:
    """Raises ScriptError when the program of a check can't be run."""
    for check in checks:
        reason = unusable(check, jail)
        if reason is not None:
            raise ScriptError(f"check: {reason}")


def check_extras(settings: Settings) -> None:
    """Raises ScriptError when a setting needs a package that is not installed."""
    for name, module, extra in EXTRAS:
        if settings.get(name) and sys.modules.get(module) is None and find_spec(module) is None:
            raise ScriptError(f"{name}: needs the package {module}: pip install 'gpen[{extra}]'")


def check_completeness(draft: Draft) -> None:
    """Raises ScriptError when there is nothing to do."""
    settings = draft.settings
    if not settings.listen:
        raise ScriptError("no address to listen on: give LISTEN, or a file (-F) with 'listen'; see gpen --help")
    if not (any(True for _ in draft.numbers()) or settings.emergency or settings.dummy or settings.control):
        raise ScriptError("no server: give at least one SERVER, or a file (-F) with 'server 0 address ...'")


def check_user(settings: Settings) -> None:
    """Raises ScriptError when the user or the directory of the chroot does not exist."""
    try:
        process.check_user(settings)
    except process.StartError as error:
        raise ScriptError(str(error)) from None


def check_directory(name: str, path: str | None) -> None:
    """Raises ScriptError when the file of this setting has no directory to be in."""
    directory = os.path.dirname(path or "") or "."
    if not os.path.isdir(directory):
        raise ScriptError(f"{name}: the directory '{directory}' does not exist")
