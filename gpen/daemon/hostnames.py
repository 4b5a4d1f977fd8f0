"""Keeps the names resolved: those of the servers, and that of a log elsewhere.

A name is looked up when a command brings it, which fails if that does; then again every name_refresh seconds, and at
once when anything says that a server of that name is not well. What is found counts for all servers of the name; what
is not found leaves its last known address in force.

Nothing waits for these lookups. They are spread over the time, and which may begin depends on how many of the
resolver's threads are busy: so that names which have no answer (a forwarded domain whose servers are down) hold up no
others, those that matter now go before those whose turn it is, and the name of a command always finds a thread.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from gevent.pool import Pool as Greenlets

from gpen.control.draft import Draft
from gpen.control.script import Errors, ScriptError
from gpen.control.ways import Way, Ways
from gpen.daemon.session_log import NetworkLog
from gpen.model.address import Address, bracketed
from gpen.model.pool import Pool
from gpen.model.server import UDP, Server, Target
from gpen.model.settings import Settings
from gpen.model.value_types import listener_prefix
from gpen.wire.pacing import gently
from gpen.wire.resolver import Answer, Endpoints, ResolveError, Resolver, at_port, no_answer, numeric

log = logging.getLogger("gpen")

LOOKUPS_AT_ONCE = 12  # for a command
# how many threads may be busy when a name is looked up that had no answer last time, that is not known, whose turn it
# is, or that has a server which is not well; the rest of THREADS is for commands
MOST_FOR_SILENT, MOST_FOR_MISSING, MOST_FOR_TURN, MOST_FOR_WANTED = 8, 12, 16, 24
LOOKUP_PAUSE = 5.0  # between two lookups of a name out of turn; and when one that has no answer counts as failed
LISTED = 5  # servers of a name that a line of the diagnostics lists

class Place(NamedTuple):
    """A server's number or special name, how it is reached, its address there, and what that means."""

    label: int | str
    way: Way
    address: Address
    endpoints: Endpoints


class Hostname:
    """One name: what is known of it, and how its lookups stand. Times are the clock's, in seconds."""

    def __init__(self, host: str) -> None:
        self.host = host
        self.known: Endpoints = ()  # without a port; the last answer
        self.asked = -math.inf  # when the last lookup began
        self.answered = -math.inf  # when the one began that has the last answer
        self.is_asked = False  # a lookup is under way
        self.is_wanted = False  # something says that a server of this name is not well
        self.problem: ResolveError | None = None  # of the last lookup

    @property
    def most_busy(self) -> int:
        """How many threads may be busy when it is looked up."""
        if self.problem is not None and self.problem.temporary:
            return MOST_FOR_SILENT
        if not self.known:
            return MOST_FOR_MISSING
        return MOST_FOR_WANTED if self.is_wanted else MOST_FOR_TURN

    def is_due(self, now: float, refresh: float) -> bool:
        """Whether it is to be looked up: out of turn, or every ``refresh`` seconds."""
        if self.is_asked:
            return False
        since = now - self.asked
        return (since >= LOOKUP_PAUSE and (self.is_wanted or not self.known)) or 0 < refresh <= since


class Hostnames:
    """The names of the servers in one pool, and of the log."""

    def __init__(self, pool: Pool, settings: Settings, resolver: Resolver,
                 logs: Callable[[], Sequence[NetworkLog]] = lambda: (),
                 changed: Callable[[], object] = lambda: None) -> None:
        """``logs`` gives those that are elsewhere; ``changed`` is called when servers are elsewhere by now."""
        self._pool = pool
        self._settings = settings
        self._resolver = resolver
        self._logs = logs
        self._changed = changed
        self._names: dict[str, Hostname] = {}
        self._waiting: deque[Hostname] = deque()  # whose turn it is

    # --- for commands ---------------------------------------------------------------------------------------------

    def resolve(self, draft: Draft, patient: bool = False) -> Mapping[str, Answer]:
        """Look up the names that a draft brings, side by side, and change nothing. Switches greenlets.

        Raises ScriptErrors that name each server, and where its address was given. When ``patient``, as at the start,
        nothing is known yet, and a name service that does not answer is no error: the server waits for it, and the
        others serve.
        """
        brought: dict[str, int | str] = {}
        errors, new = Errors(), draft.new_addresses()
        ways = Ways(draft) if new else None
        for label, address in gently(new.items()):
            server = None if patient else self._pool.server(label)
            if address.path or address.is_none or (server is not None and server.address == address):
                continue
            with errors.gathered():
                self._check_port(label, address, draft, ways)
            if not numeric(address.host) and (server is None or server.address.host != address.host):
                brought.setdefault(address.host, label)
        answers: dict[str, Answer] = {}
        for host, answer in self._look_up_all(list(brought)):
            answers[host] = answer
            if isinstance(answer, ResolveError) and not (patient and answer.temporary):
                errors.add(ScriptError(f"{called(brought[host])}: {answer}", draft.origin_of(brought[host])))
        errors.raise_all()
        return answers

    def _check_port(self, label: int | str, address: Address, draft: Draft, ways: Ways | None) -> None:
        if address.port == "":
            raise ScriptError(f"{called(label)}: '{address.host}' needs a port: {bracketed(address.host)}:PORT",
                              draft.origin_of(label))
        for way in ways.to(label, address) if ways else ():
            transport, port = way
            try:
                self._resolver.port(address if port is None else Address(address.host, port), transport == UDP)
            except ResolveError as error:
                user = next(ways.users(label, address, way), "") if ways and port is not None else ""
                scope = listener_prefix(user)
                origin = "" if scope else draft.origin_of(label)  # that of the server's own port
                raise ScriptError(f"{scope}{called(label)}: {error}", origin) from None

    def _look_up_all(self, hosts: Sequence[str]) -> Iterator[tuple[str, Answer]]:
        """The answer for each name, in order. Where names without an answer keep the threads busy, the others are not
        asked: with a dead name service, 200 names cost the start one timeout, not a dozen."""
        is_dead = False

        def ask(host: str) -> Answer | None:
            nonlocal is_dead
            if is_dead and self._resolver.busy >= LOOKUPS_AT_ONCE:
                return None
            try:
                return self._resolver.look_up(host, self._settings.timeout)
            except ResolveError as error:
                is_dead = is_dead or error.temporary
                return error

        lookups = Greenlets(LOOKUPS_AT_ONCE)
        answers = lookups.imap(ask, hosts)
        left = 0
        try:
            for host, answer in zip(hosts, answers, strict=True):
                if answer is None:
                    left += 1
                else:
                    yield host, answer
        finally:
            answers.kill()
            lookups.kill()
        if left:
            log.warning("the name service does not answer: %d more names are looked up later", left)

    def adopt(self, answers: Mapping[str, Answer], places: Iterable[Place]) -> None:
        """Give the servers their endpoints: those whose names were looked up, and those that are at new places. Does
        not switch."""
        now = time.monotonic()
        for host, answer in answers.items():
            name = self._name(host)
            name.asked = now - LOOKUP_PAUSE  # the next may be soon: what is wrong shows when a server is first used
            name.is_asked = False  # this answer is newer than what is under way
            self._take(name, now, answer)
        known = {(place.label, place.way): place for place in places}
        unresolved, self._pool.unresolved = self._pool.unresolved, []
        for target in unresolved:
            if target.endpoints:
                continue
            place = known.get((target.server.label, (target.transport, target.port)))
            is_known = place is not None and place.address == target.address
            self._pool.resolved(target, place.endpoints if is_known and place else self._endpoints_of(target))

    def places(self, draft: Draft, answers: Mapping[str, Answer]) -> Iterator[Place]:
        """Where servers are that a draft has at new addresses, or reaches otherwise, as far as it is known. Raises
        ResolveError."""
        new = draft.new_addresses()
        is_for_all = not draft.values.keys().isdisjoint(("udp", "listen", "route"))
        if not (new or is_for_all or draft.listeners):
            return
        ways = Ways(draft)
        for label, address in new.items():
            answer = answers.get(address.host, ())
            found = () if isinstance(answer, ResolveError) else answer
            yield from self._places_of(label, address, ways, found)
        if not (is_for_all or draft.listeners):
            return
        ways = ways if is_for_all else Ways(draft, draft.listeners)  # the others reach servers as before
        for server in gently(self._pool.all_servers()):
            if server.label not in new and server.label not in draft.deleted:
                yield from self._places_of(server.label, server.address, ways, known=server.targets)

    def _places_of(self, label: int | str, address: Address, ways: Ways, answer: Endpoints = (),
                   known: Container[Way] = ()) -> Iterator[Place]:
        """Where a server is in each of these ways that is not ``known``. Raises ResolveError."""
        for way in ways.to(label, address):
            if way in known:
                continue
            try:
                yield self._place(label, address, way, answer)
            except ResolveError as error:  # of a service that there is not, or not over this transport
                user = next(ways.users(label, address, way), "")
                raise ResolveError(f"{f'listener {user}: ' if user else ''}{called(label)}: {error}") from None

    def _place(self, label: int | str, address: Address, way: Way, answer: Endpoints = ()) -> Place:
        transport, port = way
        there = address if port is None or address.path else Address(address.host, port)
        return Place(label, way, there, self._endpoints(there, transport, answer))

    def adopt_again(self) -> None:
        """Look at all places again: gpen itself listens elsewhere now. Does not switch."""
        for server in self._pool.all_servers():
            for target in server.targets.values():
                self._pool.resolved(target, self._endpoints_of(target) or target.endpoints)

    def _endpoints_of(self, target: Target) -> Endpoints:
        try:
            return self._endpoints(target.address, target.transport)
        except ResolveError:  # of a service that this transport does not have
            return ()

    def _endpoints(self, address: Address, transport: str, answer: Endpoints = ()) -> Endpoints:
        """What a server's address means, as far as it is known."""
        if address.path:
            return self._resolver.resolve(address, 0)
        if address.is_none or address.port == "":
            return ()
        known = answer or numeric(address.host) or self._name(address.host).known
        return at_port(known, self._resolver.port(address, transport == UDP)) if known else ()

    # --- beside everything else -----------------------------------------------------------------------------------

    def tend(self) -> None:
        """Begin the lookups that are due; the janitor calls it each second. Does not switch."""
        now, refresh = time.monotonic(), self._settings.name_refresh
        self._names = {host: self._name(host) for host in self._hosts()}
        for name in self._names.values():
            if name.is_asked and now - name.asked >= LOOKUP_PAUSE:
                name.is_asked = False  # if its answer comes all the same, it is taken
                self._failed(name, no_answer(name.host, LOOKUP_PAUSE))
        due = sorted((name for name in self._names.values() if name.is_due(now, refresh)), key=lambda name: name.asked)
        urgent = [name for name in due if name.is_wanted or not name.known]
        turn = [name for name in due if not (name.is_wanted or not name.known)]
        a_second = math.ceil(len(self._names) / refresh) if refresh else 0
        self._waiting = deque(urgent + turn[:a_second])
        self._begin()

    def refresh(self, server: Server) -> None:
        """The server is not well: look its name up at once, beside, but at most once in LOOKUP_PAUSE seconds; a failure
        changes nothing. Does not switch."""
        if _has_name(server):
            self._want(self._name(server.address.host))

    def refresh_log(self) -> None:
        """Nobody takes what is sent to the log: the same for its name."""
        for host in self._hosts_of_log():
            self._want(self._name(host))

    def refresh_all(self) -> None:
        """The same for all names."""
        for host in self._hosts():
            self._want(self._name(host))

    def _want(self, name: Hostname) -> None:
        if name.is_wanted:
            return  # it waits already, or is seen to by the next tend
        name.is_wanted = True
        if name.is_due(time.monotonic(), 0):
            self._waiting.appendleft(name)
            self._begin()

    def _begin(self) -> None:
        """Begin lookups as long as there are threads for them."""
        resolver, now, left_out = self._resolver, time.monotonic(), []
        while self._waiting and resolver.busy < MOST_FOR_WANTED:
            name = self._waiting.popleft()
            if not name.is_due(now, self._settings.name_refresh):
                continue
            if resolver.busy >= name.most_busy:
                left_out.append(name)
                continue
            name.asked, name.is_asked, name.is_wanted = now, True, False
            resolver.begin(name.host).rawlink(partial(self._come, name, now))
        self._waiting.extend(left_out)

    def _come(self, name: Hostname, asked: float, result: Any) -> None:
        """The answer to a lookup that began then. Does not switch."""
        if name.asked == asked:
            name.is_asked = False
        if self._names.get(name.host) is name:  # else nobody has that name any more
            self._take(name, asked, result.get_nowait())
        self._begin()

    def _take(self, name: Hostname, asked: float, answer: Answer) -> None:
        """What came of a lookup counts, unless a later one was faster."""
        if asked < name.answered:
            return
        if isinstance(answer, ResolveError):
            self._failed(name, answer)
            return
        name.answered = asked
        problem, name.problem = name.problem, None
        if problem is not None:
            log.info("%s: the name '%s' is resolved again", self._users(name), name.host)
        if set(answer) != set(name.known):
            name.known = answer
            self._spread(name, was_missing=problem is not None)

    def _spread(self, name: Hostname, was_missing: bool) -> None:
        """All who use the name learn what it means now. That is news where they were elsewhere, or waited for it."""
        changed = False
        for server in self._servers(name):
            for target in list(server.targets.values()):
                before = target.endpoints
                self._pool.resolved(target, self._endpoints_of(target))
                changed |= target.endpoints is not before and (bool(before) or was_missing)
                if was_missing and not before and target is server.target:
                    self._pool.events.note(server, "resolved", f"'{name.host}' is {target.shown_host}")
        for network_log in self._network_logs(name):
            port = self._resolver.port(network_log.address, datagrams=True)
            was_there = network_log.is_connected
            changed |= network_log.move(at_port(name.known, port)) and (was_there or was_missing)
        if changed:
            log.info("%s: '%s' is %s now", self._users(name), name.host,
                     ", ".join(endpoint.host for endpoint in name.known))
            self._changed()

    def _failed(self, name: Hostname, error: ResolveError) -> None:
        """Tell it when it begins, and when it becomes another trouble."""
        told, name.problem = name.problem, error
        if told is not None and told.temporary == error.temporary:
            return
        fate = "its last known address stays" if name.known else "it is not used until there is one"
        if name.known and self._settings.chroot:
            fate += "; in the chroot, names need etc/hosts and etc/resolv.conf there"
        log.warning("%s: %s; %s", self._users(name), error, fate)

    # --- who has which name ---------------------------------------------------------------------------------------

    def _name(self, host: str) -> Hostname:
        return self._names.setdefault(host, Hostname(host))

    def _hosts(self) -> Iterator[str]:
        """All names that are in use."""
        yield from (server.address.host for server in self._pool.all_servers() if _has_name(server))
        yield from self._hosts_of_log()

    def _hosts_of_log(self) -> Iterator[str]:
        return (log.address.host for log in self._logs() if not numeric(log.address.host))

    def _servers(self, name: Hostname) -> list[Server]:
        return [server for server in self._pool.all_servers()
                if server.address.host == name.host and not server.is_empty]

    def _network_logs(self, name: Hostname) -> list[NetworkLog]:
        """The logs that are at this name."""
        return [log for log in self._logs() if log.address.host == name.host]

    def _users(self, name: Hostname) -> str:
        """Who has the name, for the diagnostics: "server 0, 1 and 198 more"."""
        servers = [server.name for server in self._servers(name)]
        words = ", ".join(servers[:LISTED]) + (f" and {len(servers) - LISTED} more" if len(servers) > LISTED else "")
        return " and ".join([*([f"server {words}"] if servers else []), *(["log"] if self._network_logs(name) else [])])


def called(label: int | str) -> str:
    """A server in messages: by its number, or its special name, with that of the listener whose own it is."""
    if isinstance(label, int):
        return f"server {label}"
    listener, _, name = label.rpartition("/")
    return f"listener {listener}: {name}" if listener else name


def _has_name(server: Server) -> bool:
    """Whether the server is at a name, not at a number or a path."""
    host, endpoints = server.address.host, server.target.endpoints
    if server.is_empty or not host or (endpoints and endpoints[0].host == host):
        return False
    return bool(endpoints) or not numeric(host)
