"""The balancer: owns the configuration, the sockets, the sessions and the log, and runs the commands.

A command that configures is carried out whole or not at all, as is a file of them: it is rehearsed on a copy, names
are resolved, sockets and files are opened; only then, in one step without a switch, does it count.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from itertools import count
from typing import Any

import gevent
from gevent.event import Event
from gevent.hub import get_hub
from gevent.lock import BoundedSemaphore

from gpen.control import reply
from gpen.control.commands import ACCESS
from gpen.control.configuration import Configuration
from gpen.control.script import Call, ScriptError, UnknownCommand, parse_line, read_file
from gpen.daemon import janitor, ownaddress, process
from gpen.daemon.checks import Checks, unusable
from gpen.daemon.countries import Countries, open_countries
from gpen.daemon.files import write_whole
from gpen.daemon.names import Names
from gpen.daemon.queries import Queries
from gpen.daemon.sessionlog import AnyLog, NetworkLog, SessionLog, dump_watch, request_watch, session_line
from gpen.daemon.status import status_page
from gpen.model.address import Address, Endpoint, network_address, parse_listen
from gpen.model.check import Check
from gpen.model.client import Client
from gpen.model.ending import Ending
from gpen.model.server import Server
from gpen.model.settings import SETTINGS, Settings
from gpen.wire import sock as sockets
from gpen.wire.control import ControlServer
from gpen.wire.conversation import Conversation, Some, Watch
from gpen.wire.datagram import DatagramListener
from gpen.wire.hold import Hold
from gpen.wire.idlers import Idlers
from gpen.wire.listener import Listener
from gpen.wire.poller import Poller
from gpen.wire.resolve import ResolveError, prepare_lookups, resolve
from gpen.wire.session import Session
from gpen.wire.tls import Terminator, TlsError
from gpen.wire.workers import Workers

log = logging.getLogger("gpen")

FAREWELL_SECONDS = 5.0
DUMP_LEVEL = 2
KEPT_WORKERS = 128
EXTRAS = (("http", "httptools", "http"), ("geoip_db", "maxminddb", "geoip"))  # setting, its package, and who brings it


class Balancer:
    """One load balancer. Made from a Configuration, it opens everything in ``open`` and serves until ``stop``."""

    listener: Listener | DatagramListener
    control: ControlServer | None

    def __init__(self, configuration: Configuration, file: str | None = None, command_line: str = "") -> None:
        """``file`` is what HUP reads again; ``command_line`` stands in the head of what ``write`` saves. ``jail`` is
        set when gpen enters a chroot."""
        self.configuration = configuration
        self.settings = configuration.settings
        self.pool = configuration.pool
        self.clients = configuration.clients
        self.file = file
        self.command_line = command_line
        self.jail = process.Jail()
        self.poller = Poller()
        self.sessions: dict[int, Conversation] = {}
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
        self.idlers = Idlers(self)
        self.checks = Checks(self)
        self.pool.on_condemned = self._condemned
        self._queries = Queries(self)
        self._workers = Workers(KEPT_WORKERS)
        self._ids = count()
        self._stopping = Event()
        self._changing = BoundedSemaphore()
        self.names = Names(self.pool, self.settings)
        self._janitor: Any = None
        self._control_address = ""
        self._told: set[str] = set()
        self._socket_files: dict[str, os.stat_result] = {}

    # --- opening and closing --------------------------------------------------------------------------------------

    def open(self) -> None:
        """Resolve names, bind, open files; nothing is accepted yet. Switches greenlets.

        Raises ScriptError, sockets.ListenError or OSError.
        """
        settings = self.settings
        process.set_debug(settings.debug)
        check_programs(_checks_of(self.configuration), self.jail)
        self._tell_what_is_old()
        self.names.adopt(self.names.resolve(self.configuration, patient=True))
        self.tls = make_terminator(settings, self.jail)
        self._countries.adopt(open_countries(settings, self.jail))
        if settings.chroot:
            prepare_lookups(settings.timeout)
        assert settings.listen is not None
        self.listener = self._listener(settings.listen)
        servers = self.pool.all_servers()
        ownaddress.refuse(servers, {server.address: server.endpoints for server in servers}, self.listener.endpoint,
                          self.configuration.origins)
        ownaddress.watch(self.pool, lambda: self.listener.endpoint, lambda path: self.jail.path(path))
        if settings.control:
            self._open_control(settings.control)
        if settings.log:
            self.session_log = self._open_log(settings.log)

    def serve(self, ready: Callable[[], None]) -> None:
        """Accept clients until ``stop``; then close everything. ``ready`` is called when clients and signals are
        taken. Switches greenlets."""
        loop = get_hub().loop
        watchers = []
        for number, action in ((signal.SIGHUP, self._hang_up), (signal.SIGUSR1, self._write_statistics),
                               (signal.SIGTERM, self._terminate), (signal.SIGINT, self._terminate)):
            watcher = loop.signal(number)
            watcher.start(gevent.spawn, action)
            watchers.append(watcher)
        self._janitor = gevent.spawn(janitor.run, self)
        self.checks.tend()
        self.listener.start()
        if self.control is not None:
            self.control.start()
        ready()
        self._stopping.wait()
        self.close()
        for watcher in watchers:
            watcher.stop()
            watcher.close()

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
            listener.close()
            self._unlink_socket(listener.bound_to)
        for session in list(self.sessions.values()):
            session.stop(Ending.SHUTDOWN)
        deadline = time.monotonic() + FAREWELL_SECONDS
        while self.sessions and time.monotonic() < deadline:
            gevent.sleep(0)
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
            if os.path.samestat(os.stat(path), made):
                os.unlink(path)
        except OSError as error:
            log.debug("can't remove the socket %s: %s", path, error.strerror)

    @property
    def listen_address(self) -> str:
        """The address that clients connect to, as it was given; with the real port where 0 was given."""
        given = self.settings.listen or ""
        return self.listener.bound_to if parse_listen(given).port == 0 and "/" not in given else given

    def _listener(self, text: str) -> Listener | DatagramListener:
        address = parse_listen(text)
        endpoint = _resolved("listen", address, self.settings.timeout, self.settings.udp)[0]
        old = getattr(self, "listener", None)
        beside = old.socket if old is not None else None
        if self.settings.udp:
            return DatagramListener(sockets.receive_datagrams(address, endpoint, beside), self)
        sock = sockets.listen(address, endpoint, self.settings.backlog, beside)
        if address.path:
            self._socket_files[address.path] = os.stat(address.path)
        return Listener(sock, self.poller, self.settings.multi_accept, self._workers, self._begin, self.no_room)

    def _open_control(self, text: str) -> None:
        address = parse_listen(text, "127.0.0.1")
        endpoint = _resolved("control", address, self.settings.timeout)[0]
        previous = os.umask(0o177)
        try:
            sock = sockets.listen(address, endpoint, self.settings.backlog)
        finally:
            os.umask(previous)
        if address.path:
            os.chmod(address.path, self.settings.control_mode)
            self._socket_files[address.path] = os.stat(address.path)
        self._control_address = str(sockets.endpoint_of(sock)) if address.port == 0 and not address.path else text
        self.control = ControlServer(sock, self.execute, self._welcome)

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
        del self.sessions[session.id]
        assert session.ending is not None
        self.endings[session.ending.value] += 1
        if self.session_log is not None and self.settings.log_format != "pen":
            self.session_log.write(session_line(session, self.settings))
        if self.settings.debug:
            log.debug("session %d: %s", session.id, session_line(session, self.settings).rstrip())
        self.resume()

    def resume(self) -> None:
        """There may be room for another client."""
        self.listener.resume()
        self.hold.stir()

    def unreachable(self, server: Server) -> None:
        """A connect to this server failed: perhaps its name means another address by now."""
        self.names.refresh(server)

    def close_sessions(self, number: int) -> int:
        """End all sessions of the servers that have or had this number; returns how many they are. Clients that are
        just being connected go to another."""
        its = [session for session in self.sessions.values()
               if session.server is not None and session.server.number == number and session.lease is not None]
        for session in its:
            assert session.server is not None
            session.leave(session.server, Ending.KILLED)
        return len(its)

    def _condemned(self, server: Server) -> None:
        """A verdict has taken a server down. Clients that are just being connected to it go to another."""
        ending = Ending.SERVER_DOWN if self.settings.on_down == "close" else None
        for session in list(self.sessions.values()):
            if session.server is server:
                session.leave(server, ending)

    # --- commands -------------------------------------------------------------------------------------------------

    def execute(self, line: str, address: str) -> Iterator[str]:
        """Run one line of a control client; the reply comes in pieces. Switches greenlets."""
        try:
            call = parse_line(line)
            if call is not None:
                self._check_access(call, address)
                yield from reply.render(call, self._run(call))
        except UnknownCommand as problem:
            yield reply.unknown(problem)
        except (ScriptError, sockets.ListenError) as problem:
            yield reply.error(str(problem))
        except OSError as problem:
            yield reply.error(f"{line.split()[0]}: '{problem.filename or ''}': {problem.strerror}")
        except Exception:
            log.exception("the command '%s' failed", line)
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

    def _run(self, call: Call) -> Any:
        name = call.command.name
        if call.command.setting is not None:
            return self._read_or_set(call)
        if name == "include":
            self.apply(read_file(call["file"]))
        elif name == "write":
            self.write(call)
        elif self._is_verdict(call):
            self.configuration.run(call)
            self.hold.stir()
        elif call.command.configures:
            self.apply([call])
        else:
            return getattr(self._queries, name)(call)
        return None

    def _is_verdict(self, call: Call) -> bool:
        """Whether a command is but a verdict on a server: they come several times a second, and need no rehearsal."""
        return (call.command.name == "server" and not call.no and call["changes"].keys() == {"health"}
                and call["number"] in self.pool.servers)

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

    def apply(self, calls: Sequence[Call]) -> None:
        """Carry out configuring commands, all or none. Switches greenlets while it resolves names.

        Raises ScriptError, sockets.ListenError or OSError, with nothing changed.
        """
        with self._changing:
            rehearsed = self.configuration.rehearse(calls)
            endpoints = self.names.resolve(rehearsed, calls)
            opened = self._open_changes(rehearsed, lambda listening: ownaddress.refuse(
                ownaddress.placed_by(calls, rehearsed, self.configuration), endpoints, listening,
                rehearsed.origins, self.jail.path))
            for call in calls:
                self.configuration.run(call)
            self.names.adopt(endpoints)
            self._adopt(opened)
            self.checks.tend()
            for number, server in self.pool.servers.items():
                if server.state == "maint":
                    self.close_sessions(number)

    def _open_changes(self, rehearsed: Configuration, check_places: Callable[[Endpoint], None]) -> dict[str, Any]:
        """Open what the changed settings need, beside what is in use. ``check_places`` gets where gpen will listen."""
        old, new = self.settings, rehearsed.settings
        opened: dict[str, Any] = {}
        if new.listen is None:
            raise ScriptError("no listen: gpen needs an address to listen on")
        rehearsed.check()
        check_extras(new)
        check_programs(_checks_of(rehearsed) - _checks_of(self.configuration), self.jail)
        if new.web_stats != old.web_stats:
            check_directory("web_stats", new.web_stats and self.jail.path(new.web_stats))
        if tls_settings(new) != tls_settings(old):
            opened["tls"] = make_terminator(new, self.jail)
        if new.geoip_db != old.geoip_db:
            opened["countries"] = open_countries(new, self.jail)
        if new.listen != old.listen:
            opened["listen"] = self._listener(new.listen)
        try:
            check_places(opened.get("listen", self.listener).endpoint)
            if new.log != old.log:
                opened["log"] = self._open_log(new.log) if new.log else None
        except (OSError, ScriptError):
            if "listen" in opened:
                opened["listen"].close()
                self._unlink_socket(opened["listen"].bound_to)
            raise
        return opened

    def _adopt(self, opened: dict[str, Any]) -> None:
        """Put what was opened in the place of what was in use. Does not switch."""
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
            self.listener.start()
            old.empty()
            old.close()
            self._unlink_socket(old.bound_to)
            for server in self.pool.all_servers():
                self.pool.resolved(server, server.endpoints)  # it may mean gpen itself now, or no longer
        self._tell_what_is_old()
        self.listener.tune(settings)
        self.listener.resume()
        control = self.jail.path(self._control_address)
        if "/" in control and os.path.exists(control):
            os.chmod(control, settings.control_mode)
        process.set_debug(settings.debug)
        process.raise_descriptor_limit(settings)
        self.session_limit = process.sessions_within_limit(self.settings)

    def _tell_what_is_old(self) -> None:
        """Say once of each of pen's words that has no effect, or means something else now."""
        old = dict.fromkeys(self.configuration.ignored, "accepted for pen's sake, without effect")
        protocol = self.settings.ssl_protocol
        if protocol and not protocol.startswith("tls1."):
            old[f"ssl_protocol {protocol}"] = "means TLS 1.2 and 1.3 now: the versions of its time are broken and gone"
        for words in sorted(old.keys() - self._told):
            log.warning("%s: %s", words, old[words])
        self._told |= old.keys()

    # --- files and signals ----------------------------------------------------------------------------------------

    def write(self, call: Call) -> None:
        """Save the configuration so that it starts the same gpen; the file appears whole or not at all."""
        path = call["file"] or self.file
        if path is None:
            raise call.error("no FILE given, and gpen was started without -F")
        head = f"# Generated by gpen at {reply.timestamp(time.time())}\n# {self.command_line}\n"
        try:
            write_whole(self.jail.path(path), head + "".join(f"{line}\n" for line in self.configuration.dump()))
        except OSError as error:
            raise call.error(f"can't write '{path}': {error.strerror}") from None

    def _hang_up(self) -> None:
        """HUP: reopen the log and read the file again."""
        if self.session_log is not None:
            try:
                self.session_log.reopen(self.jail)
            except OSError as error:
                log.error("can't reopen the log '%s': %s; the old file stays", self.session_log.path, error.strerror)
        self._reload_files()
        if self.file is None:
            return
        try:
            calls = [call for call in read_file(self.jail.path(self.file)) if not self._counts_at_start_only(call)]
            self.apply(calls)
            log.info("read '%s' again", self.file)
        except (ScriptError, sockets.ListenError, OSError) as error:
            log.error("%s; nothing of '%s' was changed", error, self.file)

    def _reload_files(self) -> None:
        """Take up certificates, keys and the country database as they are now; what is broken leaves the old in
        force."""
        settings = self.settings
        try:
            self.tls = make_terminator(settings, self.jail)
        except ScriptError as error:
            log.error("%s; the old certificates stay in force", error)
        try:
            self._countries.adopt(open_countries(settings, self.jail))
        except ScriptError as error:
            log.error("%s; the old database stays in force", error)

    def _open_log(self, target: str) -> AnyLog:
        """The log: a file, or where its datagrams go. Raises ScriptError or OSError."""
        address = network_address(target)
        if address is None:
            return SessionLog(self.jail.path(target))
        return NetworkLog(target, _resolved("log", address, self.settings.timeout, datagrams=True)[0])

    def _counts_at_start_only(self, call: Call) -> bool:
        """Whether a line of the file waits for the next start; told when it would change something."""
        setting = call.command.setting
        if setting is None or not setting.startup:
            return False
        value = setting.default if call["value"] is None else call["value"]
        if value != self.settings.get(setting.name):
            log.warning("%s: %s counts at the next start only", call.origin, setting.name)
        return True

    def _write_statistics(self) -> None:
        """USR1: the status page to the file of -w, or else a summary to the diagnostics."""
        if self.settings.web_stats:
            try:
                write_whole(self.jail.path(self.settings.web_stats), status_page(self._queries))
            except OSError as error:
                log.error("can't write '%s': %s", self.settings.web_stats, error.strerror)
            return
        for line in ("servers", "sessions", "recent"):
            for piece in self.execute(line, ""):
                for row in piece.splitlines():
                    log.info("%s: %s", line, row)
                gevent.sleep(0)


def _runs_a_program(call: Call) -> bool:
    check = call.arguments.get("value") or call.arguments.get("changes", {}).get("check")
    return isinstance(check, Check) and check.kind == "exec"


def _checks_of(configuration: Configuration) -> set[Check]:
    own = {server.check for server in configuration.pool.servers.values() if server.check is not None}
    return {configuration.settings.check, *own}


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


def check_directory(name: str, path: str | None) -> None:
    """Raises ScriptError when the file of this setting has no directory to be in."""
    directory = os.path.dirname(path or "") or "."
    if not os.path.isdir(directory):
        raise ScriptError(f"{name}: the directory '{directory}' does not exist")


def _resolved(name: str, address: Address, seconds: float, datagrams: bool = False) -> tuple[Endpoint, ...]:
    try:
        return resolve(address, seconds, datagrams)
    except ResolveError as error:
        raise ScriptError(f"{name}: {error}") from None
