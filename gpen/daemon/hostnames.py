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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from gevent.pool import Pool as Greenlets

from gpen.control.draft import Draft
from gpen.control.script import Errors, ScriptError
from gpen.daemon.session_log import NetworkLog
from gpen.model.address import Address
from gpen.model.pool import Pool
from gpen.model.server import Server
from gpen.model.settings import Settings
from gpen.wire.pacing import gently
from gpen.wire.resolver import Answer, Endpoints, ResolveError, Resolver, at_port, no_answer, numeric

log = logging.getLogger("gpen")

LOOKUPS_AT_ONCE = 12  # for a command
# how many threads may be busy when a name is looked up that had no answer last time, that is not known, whose turn it
# is, or that has a server which is not well; the rest of THREADS is for commands
MOST_FOR_SILENT, MOST_FOR_MISSING, MOST_FOR_TURN, MOST_FOR_WANTED = 8, 12, 16, 24
LOOKUP_PAUSE = 5.0  # between two lookups of a name out of turn; and when one that has no answer counts as failed
LISTED = 5  # servers of a name that a line of the diagnostics lists

Place = tuple[int | str, Address, Endpoints]  # a server's number or special name, its address, and what that means


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

    def __init__(self, pool: Pool, settings: Settings, resolver: Resolver, log: Callable[[], object] = lambda: None,
                 changed: Callable[[], object] = lambda: None) -> None:
        """``log`` gives the log that is in use; ``changed`` is called when servers are elsewhere by now."""
        self._pool = pool
        self._settings = settings
        self._resolver = resolver
        self._log = log
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
        errors = Errors()
        for label, address in gently(draft.new_addresses().items()):
            server = None if patient else self._pool.server(label)
            if address.path or address.is_none or (server is not None and server.address == address):
                continue
            with errors.gathered():
                self._check_port(label, address, draft)
            if not numeric(address.host) and (server is None or server.address.host != address.host):
                brought.setdefault(address.host, label)
        answers: dict[str, Answer] = {}
        for host, answer in self._look_up_all(list(brought)):
            answers[host] = answer
            if isinstance(answer, ResolveError) and not (patient and answer.temporary):
                errors.add(ScriptError(f"{called(brought[host])}: {answer}", draft.origin_of(brought[host])))
        errors.raise_all()
        return answers

    def _check_port(self, label: int | str, address: Address, draft: Draft) -> None:
        problem = f"'{address.host}' needs a port" if address.port == "" else ""
        try:
            if not problem:
                self._resolver.port(address, self._settings.udp)
        except ResolveError as error:
            problem = str(error)
        if problem:
            raise ScriptError(f"{called(label)}: {problem}", draft.origin_of(label))

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
        for label, address, endpoints in places:
            server = self._pool.server(label)
            if server is not None and server.address == address and not server.endpoints:
                self._pool.resolved(server, endpoints)

    def places(self, draft: Draft, answers: Mapping[str, Answer]) -> Iterator[Place]:
        """Where the servers are to which a draft gives addresses, as far as it is known."""
        for label, address in draft.new_addresses().items():
            answer = answers.get(address.host, ())
            yield label, address, self._endpoints(address, () if isinstance(answer, ResolveError) else answer)

    def adopt_again(self) -> None:
        """Look at all places again: gpen itself listens elsewhere now. Does not switch."""
        for server in self._pool.all_servers():
            self._pool.resolved(server, self._endpoints(server.address) or server.endpoints)

    def _endpoints(self, address: Address, answer: Endpoints = ()) -> Endpoints:
        """What a server's address means, as far as it is known."""
        if address.path:
            return self._resolver.resolve(address, 0)
        if address.is_none or address.port == "":
            return ()
        known = answer or numeric(address.host) or self._name(address.host).known
        return at_port(known, self._resolver.port(address, self._settings.udp)) if known else ()

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
            before = server.endpoints
            self._pool.resolved(server, self._endpoints(server.address))
            changed |= server.endpoints is not before and (bool(before) or was_missing)
            if was_missing and not before:
                self._pool.events.note(server, "resolved", f"'{name.host}' is {server.shown_host}")
        network_log = self._network_log(name)
        if network_log is not None:
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
        network_log = self._log()
        if isinstance(network_log, NetworkLog) and not numeric(network_log.address.host):
            yield network_log.address.host

    def _servers(self, name: Hostname) -> list[Server]:
        return [server for server in self._pool.all_servers()
                if server.address.host == name.host and not server.is_empty]

    def _network_log(self, name: Hostname) -> NetworkLog | None:
        """The log, if it is at this name."""
        network_log = self._log()
        if isinstance(network_log, NetworkLog) and network_log.address.host == name.host:
            return network_log
        return None

    def _users(self, name: Hostname) -> str:
        """Who has the name, for the diagnostics: "server 0, 1 and 198 more"."""
        servers = [server.name for server in self._servers(name)]
        words = ", ".join(servers[:LISTED]) + (f" and {len(servers) - LISTED} more" if len(servers) > LISTED else "")
        return " and ".join([*([f"server {words}"] if servers else []), *(["log"] if self._network_log(name) else [])])


def called(label: int | str) -> str:
    """A server in messages: by its number, or its special name."""
    return f"server {label}" if isinstance(label, int) else label


def _has_name(server: Server) -> bool:
    """Whether the server is at a name, not at a number or a path."""
    host = server.address.host
    if server.is_empty or not host or (server.endpoints and server.endpoints[0].host == host):
        return False
    return bool(server.endpoints) or not numeric(host)
