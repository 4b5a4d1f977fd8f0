"""Changes of the configuration: each is made whole or not at all, one after the other.

A change is carried out on a draft, names are resolved, sockets and files are opened; only then, in one step without a
switch, is the draft adopted. So nobody ever sees half a change, and a change costs what it changes.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import chain

from gevent.lock import BoundedSemaphore

from gpen.control import reply
from gpen.control.configuration import Configuration
from gpen.control.draft import Draft
from gpen.control.script import Call, Errors, ScriptError, Step, read_file, read_lines
from gpen.control.sources import Sources
from gpen.control.validation import notes
from gpen.control.ways import Ways
from gpen.daemon import own_address, process
from gpen.daemon.checks import unusable
from gpen.daemon.chroot import Chroot
from gpen.daemon.countries import Countries, open_countries
from gpen.daemon.door import HttpDoor, check_token
from gpen.daemon.front import check_transparent
from gpen.daemon.hostnames import Hostnames, Place
from gpen.daemon.listeners import Change, Listeners, named
from gpen.daemon.logs import Logs
from gpen.daemon.notify import Notifier
from gpen.daemon.peers import Peers
from gpen.daemon.socket_files import owner_of
from gpen.daemon.workers import Workers
from gpen.files import write_whole
from gpen.journal import timestamp
from gpen.model.address import Endpoint
from gpen.model.check import Check
from gpen.model.route import used_with
from gpen.model.server import Server
from gpen.model.settings import Settings
from gpen.model.value_types import listener_prefix
from gpen.start import PackageError, check_optional
from gpen.wire import sockets
from gpen.wire.pacing import gently
from gpen.wire.resolver import ResolveError

log = logging.getLogger("gpen")

EXTRAS = (("http", "httptools"), ("geoip_db", "maxminddb"))  # a setting, and the package that it needs
WITH_ALL_CHECKS = ("check", "check_interval", "check_port")  # settings that concern every server's check

TakenUp = Callable[[Draft, Sequence[Server]], None]
Listening = Callable[[Place], Iterator[tuple[str, Endpoint]]]


class Changes:
    """What changes the configuration that is in force."""

    def __init__(self, configuration: Configuration, sources: Sources, command_line: str,
                 listeners: Listeners, logs: Logs, names: Hostnames, countries: Countries, workers: Workers,
                 door: HttpDoor, peers: Peers, chroot: Chroot, in_thread: Callable[..., OSError | None],
                 taken_up: TakenUp, notifier: Notifier) -> None:
        """``sources`` is where the configuration came from; ``command_line`` stands in the head of what ``write``
        saves, which is done ``in_thread``. ``taken_up`` is called, and may switch, when a draft has come in force that
        concerns these servers, which may be deleted. ``notifier`` is told of reloads."""
        self._configuration = configuration
        self._settings = configuration.settings
        self._pool = configuration.pool
        self._sources = sources
        self._command_line = command_line
        self._listeners = listeners
        self._logs = logs
        self._names = names
        self._countries = countries
        self._workers = workers
        self._door = door
        self._peers = peers
        self._chroot = chroot
        self._in_thread = in_thread
        self._taken_up = taken_up
        self._notifier = notifier
        self._changing = BoundedSemaphore()
        self._is_hung_up = False
        self._told: set[str] = set()
        self._retired = ""  # why there are no more changes
        self.on_renewed: Callable[[], object] = lambda: None  # called when the logs were opened anew

    @contextmanager
    def halted(self) -> Iterator[None]:
        """Nothing changes meanwhile: changes wait. Switches greenlets."""
        with self._changing:
            yield

    def retire(self, why: str) -> None:
        """Nothing changes any more."""
        self._retired = why

    def apply(self, steps: Iterable[Step]) -> None:
        """Carry out configuring commands, all or none. Switches greenlets.

        Raises ScriptError, sockets.ListenError or OSError, with nothing changed.
        """
        with self._changing:
            self._refuse_retired()
            draft = Draft(self._configuration)
            draft.run_all(steps)
            self._commit(draft)

    def _refuse_retired(self) -> None:
        if self._retired:
            raise ScriptError(self._retired)

    def _commit(self, draft: Draft) -> None:
        """Put a draft in force, all of it or nothing. Switches greenlets. Raises as ``apply`` does."""
        self._check(draft)
        answers = self._names.resolve(draft)
        try:
            places = list(gently(self._names.places(draft, answers)))
        except ResolveError as error:
            raise ScriptError(str(error)) from None
        has_database = draft.settings.geoip_db != self._settings.geoip_db
        with ExitStack() as undo:
            database = open_countries(draft.settings, self._chroot) if has_database else None
            change = self._listeners.prepare(draft, undo)
            has_door = draft.settings.metrics != self._settings.metrics
            door = self._door.prepare(draft.settings, undo) if has_door else None
            peers = self._peers.prepare(draft.settings, undo) if self._peers.differs(draft.settings) else None
            self._refuse_ourselves(draft, places, change)
            self._workers.prepare({name: draft.settings_of(name) for name in change.fronts}, change.ended,
                                  wants_server_tls=change.wants_server_tls)
            undo.callback(self._workers.abort)
            self._listeners.prepare_logs(draft, change, undo)  # last, for it may make a file
            for listener in change.new_listeners.values():
                listener.start()  # nobody comes yet: from here on nothing switches
            undo.pop_all()
        touched = [self._pool.servers[number] for number in draft.deleted]
        self._configuration.adopt(draft, change.scopes)
        self._names.adopt(answers, places)
        self._listeners.adopt(change)
        self._workers.commit()
        if has_door:
            self._door.adopt(door)
        if peers is not None:
            self._peers.adopt(peers)
        if change.new_listeners or change.ended:
            self._names.adopt_again()
        for name in change.ended:
            self._told = {about for about in self._told if not about.startswith(listener_prefix(name))}
        if has_database:
            self._countries.adopt(database)
        touched += [self._pool.servers[number] for number in draft.servers]
        is_for_all = draft.values or draft.lists or draft.listeners
        self.tell_notes(self._pool.all_servers() if is_for_all else
                        [server for server in touched if not server.deleted])
        self._taken_up(draft, touched)

    def _check(self, draft: Draft) -> None:
        """Raises ScriptError for what can't work."""
        old, new = self._settings, draft.settings
        draft.check()
        check_listening(draft)
        check_extras(draft)
        check_transparency(draft)
        check_programs(_new_checks(draft), self._chroot)
        if new.on_event != old.on_event:
            check_alert(new, self._chroot)
        if new.web_stats != old.web_stats:
            check_directory("web_stats", new.web_stats and self._chroot.path(new.web_stats))
        if (new.metrics_control, new.metrics_token) != (old.metrics_control, old.metrics_token):
            check_token(new, self._chroot)

    def _refuse_ourselves(self, draft: Draft, places: Sequence[Place], change: Change) -> None:
        """Raises ScriptErrors when a server is a listener that uses it: one at a new place, or, where listeners are new
        or use others than before, any."""
        own = {front.name: front.listener.endpoint for front in self._listeners
               if front.listener is not None and front.name not in change.ended}
        own |= {name: listener.endpoint for name, listener in change.new_listeners.items()}
        is_news = places or change.new_listeners or draft.listeners or "route" in draft.values
        ways = Ways(draft) if is_news else None
        if ways is None:
            return
        self._refuse(places, listening_at(ways, own), draft)
        changed = {name: endpoint for name, endpoint in own.items()
                   if name in change.new_listeners or self._uses_others(draft, name)}
        if changed:
            new = draft.new_addresses()
            self._refuse((Place(server.label, (target.transport, target.port), target.address, target.endpoints)
                          for server in self._pool.all_servers()
                          if server.label not in new and server.label not in draft.deleted
                          for target in server.targets.values()), listening_at(ways, changed), draft)

    def _uses_others(self, draft: Draft, listener: str) -> bool:
        """Whether with this draft a listener uses servers that it has not used, or otherwise."""
        new, old = draft.listener_of(listener), self._configuration.scopes.get(listener)
        return new is not None and old is not None and (
            used_with(new.servers, draft.settings_of(listener).route), new.members) != (
            used_with(old.config.servers, old.settings.route), old.config.members)

    def _refuse(self, places: Iterable[Place], listening: Listening, draft: Draft) -> None:
        own_address.refuse(places, listening, draft.origin_of, self._chroot.path)

    def tell_notes(self, servers: Iterable[Server]) -> None:
        """Say once what has no effect, or means something else now, in the configuration and at these servers."""
        for about, words in notes(self._configuration, servers):
            if about not in self._told:
                self._told.add(about)
                log.warning("%s", words)

    # --- the file -------------------------------------------------------------------------------------------------

    def write(self, call: Call) -> None:
        """Save the configuration so that it starts the same gpen; the file appears whole or not at all. Switches
        greenlets."""
        path = call["file"] or self._sources.file
        if path is None:
            raise call.error("no FILE given, and gpen was started without -F")
        with self._changing:
            self._refuse_retired()
            head = [f"# Generated by gpen at {timestamp(time.time())}", f"# {self._command_line}"]
            lines = list(gently(chain(head, self._configuration.dump(self._sources.given))))
            text = "".join(f"{line}\n" for line in lines)
            error = self._in_thread(_written, (self._chroot.path(path), text))  # a disk may take its time
            if error is not None:
                raise call.error(f"can't write '{path}': {error.strerror}")
            if self._is_our_file(path):
                self._sources.said = self._sources.read(gently(read_lines(lines, path)))

    def _is_our_file(self, path: str) -> bool:
        """Whether this is the file of -F, by whatever name."""
        file = self._sources.file
        return file is not None and (os.path.realpath(self._chroot.path(path))
                                     == os.path.realpath(self._chroot.path(file)))

    def hang_up(self) -> None:
        """HUP: reload; what there is to tell has been told then. One that waits for its turn does for all that come
        meanwhile. Switches greenlets."""
        if self._is_hung_up:
            return
        self._is_hung_up = True
        with suppress(ScriptError):
            self.reload()

    def reload(self) -> str:
        """What HUP does: reopen the log, read certificates and the country database again, and carry out what has
        changed in the file of -F, whole or not at all. Switches greenlets.

        Returns what was changed, a line each. What was wrong is told and remembered as an event. Raises ScriptErrors
        when nothing of the file was changed.
        """
        errors = Errors()
        with self._changing, self._notifier.reloading():
            self._is_hung_up = False
            if self._retired:
                for error in self._logs.reopen():
                    log.error("reload: %s", error)
            self._refuse_retired()
            changes = self._reload_file(errors)
            self._renew(errors)
        if errors:
            lines = errors.told()
            more = f" (and {len(lines) - 1} more)" if lines[1:] else ""
            self._pool.events.note_own("reload failed", lines[0] + more)
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

    def _reload_file(self, errors: Errors) -> list[str] | None:
        """Carry out what has changed in the file of -F, and return it; None when nothing was changed for something is
        wrong."""
        file = self._sources.file
        try:
            said = self._sources.read(gently(read_file(file, self._chroot.path) if file else ()))
            self._check_start(said)
            difference = self._sources.difference(said, self._configuration)
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

    def _check_start(self, said: Draft) -> None:
        """Raises ScriptErrors for what has changed in the file and would keep gpen from starting with it."""
        errors, old, new = Errors(), self._sources.said.settings, said.settings
        with errors.gathered():
            check_completeness(said)
        with errors.gathered():
            said.check()
        if (new.user, new.chroot) != (old.user, old.chroot) and not self._chroot.is_entered:
            with errors.gathered():
                check_user(new)
        if new.pid_file != old.pid_file:
            with errors.gathered():
                check_directory("pid_file", new.pid_file and self._chroot.path(new.pid_file))
        errors.raise_all()

    def _renew(self, errors: Errors) -> None:
        """Take up the log, certificates, keys and the country database as they are now; what is broken leaves the old
        in force, and keeps nothing else from changing. Names are looked up again beside."""
        self._names.refresh_all()
        for error in self._logs.reopen():
            errors.add(error)
        self.on_renewed()
        renewed: dict[str, Settings] = {}
        for error in self._listeners.renew_certificates(renewed):
            errors.add(ScriptError(f"{error}; the old certificates stay in force"))
        try:
            self._workers.prepare(renewed, is_renewed=True,
                                  wants_server_tls=bool(self._configuration.with_own_tls()))
            self._workers.commit()
        except ScriptError as error:
            errors.add(ScriptError(f"{error}; the old certificates stay in force"))
        try:
            self._peers.renew()
        except ScriptError as error:
            errors.add(ScriptError(f"{error}; the old certificates stay in force"))
        try:
            self._countries.adopt(open_countries(self._settings, self._chroot))
        except ScriptError as error:
            errors.add(ScriptError(f"{error}; the old database stays in force"))


def _written(path: str, text: str) -> OSError | None:
    """Write a file, and return why it can't be: what a thread raises, gevent tells on stderr."""
    try:
        write_whole(path, text)
    except OSError as error:
        return error
    return None


def listening_at(ways: Ways, own: Mapping[str, Endpoint]) -> Listening:
    """What says where those listeners listen that reach a server as it is reached at a place: ``own`` is where each
    does. Asked for a thousand servers and a hundred listeners, it looks only at those of the same port."""
    by_port: dict[int, list[str]] = {}
    for name, endpoint in own.items():
        by_port.setdefault(endpoint.port, []).append(name)

    def listening(place: Place) -> Iterator[tuple[str, Endpoint]]:
        candidates = by_port.get(place.endpoints[0].port)
        if candidates:
            users = set(ways.users(place.label, place.address, place.way))
            yield from ((name, own[name]) for name in candidates if name in users)

    return listening


def checks_of(configuration: Configuration) -> set[Check]:
    """The checks that are made."""
    own = {server.check for server in configuration.pool.servers.values() if server.check is not None}
    return {configuration.settings.check, *own}


def _new_checks(draft: Draft) -> set[Check]:
    """The checks that a draft brings."""
    given = {fields.get("check") for fields in draft.servers.values()} | {draft.values.get("check")}
    return {check for check in given if check is not None}


def check_programs(checks: set[Check], chroot: Chroot) -> None:
    """Raises ScriptError when the program of a check can't be run."""
    for check in checks:
        reason = unusable(check.program, chroot)
        if reason is not None:
            raise ScriptError(f"check: exec: {reason}")


def check_alert(settings: Settings, chroot: Chroot) -> None:
    """Raises ScriptError when the program of on_event can't be run."""
    reason = unusable(settings.on_event or "", chroot)
    if reason is not None:
        raise ScriptError(f"on_event: {reason}")


def check_extras(draft: Draft) -> None:
    """Raises ScriptError when a setting needs a package that is not installed, or too old."""
    for name, module in EXTRAS:
        is_on = any(settings.get(name) for settings in draft.all_settings().values())
        if is_on:
            try:
                check_optional(module)
            except PackageError as error:
                raise ScriptError(f"{name}: {error}") from None


def check_transparency(draft: Draft) -> None:
    """Raises ScriptError when gpen may not have the addresses of clients, as a listener would."""
    for name, settings in draft.all_settings().items():
        with named(name):
            check_transparent(settings)


def check_listening(draft: Draft) -> None:
    """Raises ScriptError when nobody could connect."""
    if not any(settings.listen for settings in draft.all_settings().values()):
        raise ScriptError("listen: gpen needs an address to listen on, and this is its last")


def check_completeness(draft: Draft) -> None:
    """Raises ScriptError when there is nothing to do."""
    settings, every = draft.settings, draft.all_settings().values()
    if not any(each.listen for each in every):
        raise ScriptError("no address to listen on: give LISTEN, or a file (-F) with 'listen'; see gpen --help")
    if not (any(True for _ in draft.numbers()) or settings.control
            or any(each.emergency or each.dummy for each in every)):
        raise ScriptError("no server: give at least one SERVER, or a file (-F) with 'server 0 address ...'; see "
                          "gpen --help")


def check_user(settings: Settings) -> None:
    """Raises ScriptError when the user or the directory of the chroot does not exist."""
    try:
        process.check_user(settings)
    except process.StartError as error:
        raise ScriptError(str(error)) from None


def check_owner(settings: Settings) -> None:
    """Raises ScriptError when there is no user or group as listen_mode names it."""
    try:
        if settings.listen_mode and settings.listen_mode[1]:
            owner_of(settings.listen_mode[1])
    except sockets.ListenError as error:
        raise ScriptError(str(error)) from None


def check_directory(name: str, path: str | None) -> None:
    """Raises ScriptError when the file of this setting has no directory to be in."""
    directory = os.path.dirname(path or "") or "."
    if not os.path.isdir(directory):
        raise ScriptError(f"{name}: the directory '{directory}' does not exist")
