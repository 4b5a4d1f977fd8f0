"""The watcher. Whatever is known is changed by one thread only, this file's; the others put their news into its inbox.

A pass: take the news, notice who hangs, judge the nodes, settle who is the writer, and tell the gpens, at once when
something changed and at each interval anyway, so that verdicts don't grow old (``health_ttl``).
"""

from __future__ import annotations

import math
import os
import queue
import secrets
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from ipaddress import ip_address

from gpen.galera import blocking
from gpen.galera.access import Access
from gpen.galera.agree import Agreed
from gpen.galera.cluster import Cluster, Verdict
from gpen.galera.discover import Discovery
from gpen.galera.election import SingleWatcher, Situation
from gpen.galera.gpen_client import TTL, GpenClient
from gpen.galera.group import FORGET
from gpen.galera.identity import Identity
from gpen.galera.lag import Lag
from gpen.galera.ledger import Ledger, Work, in_background
from gpen.galera.listeners import Roles, check_roles
from gpen.galera.node import FULL_WORD, Node, Problem, silence
from gpen.galera.plan import LAST_RANK, OTHERS, Changes, Order, Plan, Plans, Row, front, nodes_of
from gpen.galera.report import NO_INDEX, Choice, Page, Report
from gpen.galera.scout import Scout
from gpen.galera.tally import Tally
from gpen.galera.writer import NEWS, Reachability, Writer, common, draining, withdrawn
from gpen.gpenctl.link import Target
from gpen.journal import DEBUG, INFO, WARNING
from gpen.log import Faults, say, warn
from gpen.model.address import parse_server

POKES = (0.0, 0.05, 0.1)  # seconds after a notify: a change may show some milliseconds later
GOODBYE = 0.5  # seconds for the last words to the nodes
CLAIM = 1.0  # seconds in which another watcher of this name has noticed that there are two
TASK = 2.0  # seconds until something is done again of which no outcome was seen
PAUSE = 0.1  # seconds until the next pass after one that failed
SLEEP = 0.25  # seconds at least for which a process did not run that stood still: less is a busy machine
SIGNALLED = 1.0  # seconds until a signal is noticed at the latest
AWAKE = 0.02  # seconds between two looks whether the nodes have answered since this process stood still
NO_THREAD = "the watcher can't ask: no thread is to be had"


@dataclass(frozen=True)
class Options:
    """What the command line says."""

    readers: Sequence[Target]
    writers: Sequence[Target]
    gpens: Sequence[Target] = ()  # with listeners of these roles
    roles: Roles = Roles()  # noqa: RUF009
    interval: float = 0.25
    timeout: float = 1.0
    donor: str = "avoid"
    prefer: Sequence[str] = ()
    failback: bool = False
    keep_sessions: bool = False
    keep_old_sessions: bool = False
    agree: str | None = None
    name: str = "watcher"  # of this one, among those that agree
    discover: bool = False
    floor: int = 1
    forget: float = 60.0
    max_queue: int | None = None
    mapped: Mapping[str, str] = field(default_factory=dict)  # where nodes are reached, by what they call themselves
    quiet: float = 1.0
    reserve: int = 10
    verbose: bool = False

    @property
    def has_writer(self) -> bool:
        return bool(self.writers or self.roles.writers)


def _check(options: Options) -> None:
    """Raises ValueError, in one line, for options that contradict each other or that nothing can come of."""
    places: dict[object, str] = {}
    for name, targets in (
            ("--reader", options.readers), ("--writer", options.writers), ("--gpen", options.gpens)):
        for target in targets:
            place, text = os.path.realpath(target.path) if target.path else (target.host, target.port), target.text
            if place in places:
                raise ValueError(f"{places[place]} {name}={text}: they are one gpen: give it once, as what it is")
            places[place] = f"{name}={text}"
    check_roles(options.roles)
    of_writers = {"--prefer": options.prefer, "--failback": options.failback, "--agree": options.agree,
                  "--keep-old-sessions": options.keep_old_sessions}
    for name, value in of_writers.items():
        if value and not options.has_writer:
            which = "a listener that gets the writes: add --writer=NAME" if options.gpens else (
                "a gpen that gets the writes: add --writer=CONTROL")
            raise ValueError(f"{name}: there is no writer without {which}")
    for node in options.prefer:
        if not _is_numeric(node):
            raise ValueError(f"--prefer: '{node}' is not HOST:PORT with a numeric HOST, as gpen-galera status shows "
                             "nodes")


def _is_numeric(node: str) -> bool:
    """Whether this is how nodes are known: a numeric address with its port."""
    try:
        address = parse_server(node).address
        return bool(address.port) and str(ip_address(address.host)) == address.host
    except ValueError:
        return False


def _ledger(schema: str, me: str, instance: str) -> Ledger:
    try:
        return Ledger(schema, me, instance)
    except ValueError as error:
        raise ValueError(f"--agree: {error}") from None


@dataclass
class Gpen:
    """A gpen as it was seen last."""

    balancer: GpenClient
    rows: Sequence[Row] = ()
    nodes: Collection[str] = ()  # that are its servers
    shape: tuple[object, ...] = ()  # what of its servers may lead to another decision at once
    gist: tuple[object, ...] = ()  # the same, of all that it tells; the rest waits for the next round
    problem: str | None = None  # None: not asked yet; empty: none
    silent: bool = False  # it could not be reached
    seen: float = -math.inf  # when its servers were seen last (monotonic)
    met: float = math.inf  # and when first

    @property
    def name(self) -> str:
        return self.balancer.name

    @property
    def is_writers(self) -> bool:
        """Whether all of it gets the writes, and not only some of its listeners."""
        return self.balancer.is_writer and not self.balancer.desks

    def saw(self, rows: Sequence[Row], now: float) -> None:
        """Its servers are these."""
        self.seen, self.met = now, min(self.met, now)
        if rows is not self.rows:
            self.rows, self.nodes = rows, nodes_of(rows)
            self.shape = self.nodes, front(rows), withdrawn(rows)


class Watcher:
    """Watches the nodes that are servers of the gpens, and tells the gpens."""

    def __init__(self, options: Options, access: Access) -> None:
        """Raises ValueError, in one line, for options that make no sense."""
        _check(options)
        self.options = options
        self.cluster = Cluster(options.donor, options.mapped)
        self.lag = Lag(options.max_queue)
        self.cluster.lagging = self.lag.lagging
        self._access = access
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._instance = secrets.token_hex(8)
        self.ledger = _ledger(options.agree, options.name, self._instance) if options.agree else None
        writer = Writer(options.prefer, options.failback)
        self.election: SingleWatcher | Agreed = SingleWatcher(writer)
        if options.agree:
            handover = 2 * options.interval
            identity = Identity(self._instance, max(CLAIM, 2 * handover))
            self.election = Agreed(writer, options.name, handover, identity)
        self._reach = Reachability()
        self._discovery = Discovery(options.floor, options.forget)
        self._scout = Scout(access, options.timeout, self.post)
        self._nodes: dict[str, Node] = {}
        self.gpens = [Gpen(GpenClient(target, is_writer, self._from_balancer, roles, options.interval,
                                       options.quiet))
                      for targets, is_writer, roles in (
                          (options.readers, False, None), (options.writers, True, None),
                          (options.gpens, options.has_writer, options.roles))
                      for target in targets]
        self._next_round = self._awake_since = self._began = self._taken = self._slept = time.monotonic()
        self.started = time.time()  # of the wall clock
        self._faults = Faults()
        self.tally = Tally()
        self._pokes: list[float] = []
        self._warned: dict[str, int] = {}  # the low limits that the log has told
        self._noted: str | None = None  # the writer of which the log tells
        self._proposed: Choice | None = None
        self._read: dict[Choice, Choice] = {}  # the choices in the tables, with the addresses that count here
        self._tasks: dict[str, float] = {}  # what was begun, and until when it is waited for
        self.complaint = ""  # what went wrong in the agreement's tables
        self._obstacle = ""  # to the agreement, as the log has told it
        self.after_pass: Callable[[], None] = lambda: None
        self._stirred = True  # there is news, since the last decision, that may lead to another one
        self._stopping = False

    def post(self, news: Callable[[], None]) -> None:
        """Have the watcher's own thread call this, and think again; from any thread, or a signal handler."""
        self._inbox.put(partial(self._stir, news))

    def look(self, reading: Callable[[], None]) -> None:
        """Have the watcher's own thread call what only reads; from any thread."""
        self._inbox.put(reading)

    def _stir(self, news: Callable[[], None]) -> None:
        self._stirred = True
        news()

    def stop(self) -> None:
        """End `run`, soon. What the gpens know they keep."""
        self.post(self._stop)

    def poke(self) -> None:
        """Something changed: ask all nodes now, and again shortly after. What comes meanwhile only adds to that."""
        self._detail("woken")
        self.tally.wakes += 1
        now = time.monotonic()
        self._pokes = [*self._pokes[:-1], now + POKES[-1]] if self._pokes else [now + delay for delay in POKES]

    def adopt(self, uuid: str) -> None:
        """The operator wants this cluster followed; in the watcher's own thread."""
        if uuid != self.cluster.followed.uuid:
            say(f"cluster: {uuid} is followed: adopted by the operator")
            self.cluster.followed.adopt(uuid, time.monotonic())

    def run(self) -> None:
        """Watch until `stop`."""
        self._tend_threads()
        while not self._stopping:
            if not self._faults.attempt("a pass", self._pass):
                time.sleep(PAUSE)
        for gpen in self.gpens:
            gpen.balancer.stop()
        for node in self._nodes.values():
            node.stop()
        deadline = time.monotonic() + GOODBYE
        self._faults.attempt("the goodbye", self._leave_agreement)
        for node in self._nodes.values():
            node.join(max(0.0, deadline - time.monotonic()))

    def _stop(self) -> None:
        self._stopping = True

    def _pass(self) -> None:
        self._take_news()
        now = time.monotonic()
        self._poke_nodes(now)
        self._notice_hangs(now)
        if now >= self._next_round:
            self._tend_threads()
        if not self._is_awake(now):
            self._next_round = now + AWAKE
        elif self._stirred or now >= self._next_round:
            self._decide(now)
            self._stirred = False
            self.tally.passes.observe(time.monotonic() - now)
        self.after_pass()

    def _tend_threads(self) -> None:
        """Start the threads that are not there: new ones, those that have failed, and those that could not be had."""
        for gpen in self.gpens:
            self._faults.attempt(f"gpen {gpen.name}", gpen.balancer.start)
        for address, node in self._nodes.items():
            if not self._faults.attempt(f"node {address}", node.start):
                self.cluster.failed(address, NO_THREAD, blind=True)

    # --- news ---------------------------------------------------------------------------------------------------------

    def _take_news(self) -> None:
        """Wait for news until something else is due, and take all that there is by then. A signal that another thread
        gets, or that comes just before the wait, does not end it, and its handler runs in this thread only."""
        due = self._due()
        with suppress(queue.Empty):
            news = self._inbox.get(timeout=min(SIGNALLED, max(0.001, due - time.monotonic())))
            for _ in range(self._inbox.qsize()):
                self._faults.attempt("news", news)
                news = self._inbox.get_nowait()
            self._faults.attempt("news", news)
        before, self._taken = self._taken, time.monotonic()
        # This process did not run: that nobody answered says nothing, and what was known is old.
        late = self._taken - max(due, before)
        if late > self.options.timeout / 2:
            self._awake_since = self._taken
            self.election.woke(late, self._taken)
            self.cluster.followed.woke(self._taken)
        # one that is always late, on a busy machine, tells at every other pass
        if late > max(SLEEP, self.options.timeout / 2) and self._is_awake(before):
            self._slept = self._taken
            self._pokes = [self._taken]

    def _is_awake(self, now: float) -> bool:
        """Whether all nodes have answered since this process stood still, or had the time to."""
        return now - self._slept > self.options.timeout or all(
            node.answered >= self._slept for node in self._nodes.values())

    def _due(self) -> float:
        """When the next thing is to be done without any news."""
        hangs = [asked + self.options.timeout for address, node in self._nodes.items()  # whose thread goes on
                 if (asked := node.asked) is not None and self.cluster.report(address) is not None]
        return min([self._next_round, *self._pokes, *hangs])

    def _from_node(self, address: str, news: Report | Problem) -> None:
        self._inbox.put(partial(self._take_report, address, news))  # most are like the one before

    def _take_report(self, address: str, news: Report | Problem) -> None:
        if address not in self._nodes:
            return
        self._stirred = self._stirred or news != self.cluster.report(address)
        if isinstance(news, Problem):
            self.tally.asked(address, "blind" if news.blind else "failed")
            if news.blind and news.text != self.cluster.problem(address):
                warn(f"node {self.label(address)}: this watcher is blind to it, {self._kept(address)}: {news.text}")
            self.cluster.failed(address, news.text, news.blind)
            self.lag.forget(address)
        else:
            self.tally.asked(address, "answered")
            if self.cluster.blind_since(address) is not None:
                say(f"node {self.label(address)}: this watcher sees it again")
            before = self.cluster.report(address)
            if news.is_full != (before is not None and before.is_full):
                self._next_round = time.monotonic()  # a client may come, or waits
            self.cluster.saw(address, news)
            self._notice_lag(address, news)
            self._warn_of_blocks(address)
            if isinstance(news.page, str):
                self._complain(news.page)

    def _kept(self, address: str) -> str:
        """What counts of a node that can't be seen."""
        verdict = self.cluster.verdict(address)
        return f"{_word(verdict)} ({verdict.reason}) is kept" if verdict else "no verdict"

    def _notice_lag(self, address: str, report: Report) -> None:
        now = time.monotonic()
        self.lag.saw(address, report, now)
        if line := self.lag.news(address, self.label, now):
            say(line)

    def _from_balancer(self, balancer: GpenClient, rows: Sequence[Row] | None, problem: str) -> None:
        self._inbox.put(partial(self._take_rows, balancer, rows, problem))

    def _take_rows(self, balancer: GpenClient, rows: Sequence[Row] | None, problem: str) -> None:
        gpen = next(gpen for gpen in self.gpens if gpen.balancer is balancer)
        if rows is not None:
            gpen.saw(rows, time.monotonic())
            problem = problem or self._lack(gpen)
        if problem and problem != gpen.problem:
            warn(f"gpen {problem}")
        elif gpen.problem and not problem:
            say(f"gpen {gpen.name}: {'answers' if gpen.silent else 'well'} again")
        before, gpen.problem, gpen.silent = gpen.gist, problem, rows is None
        self.tally.told(gpen.name, _outcome(gpen))
        gpen.gist = problem, gpen.silent, balancer.told, gpen.shape
        self._stirred = self._stirred or gpen.gist != before
        if balancer.is_late:
            self._next_round = time.monotonic()
        if rows is None:
            return
        self._watch_nodes()
        if balancer.is_writer:
            self._reach.saw(gpen.name, gpen.rows, time.monotonic())

    def _lack(self, gpen: Gpen) -> str:
        """What is to be said of a gpen that goes with the writer and misses servers that others of these have."""
        if not gpen.balancer.is_writer or not gpen.rows:
            return ""
        others = set().union(*(other.nodes for other in self.heard_gpens(time.monotonic()) if other is not gpen))
        lacking = sorted(others.difference(gpen.nodes))
        return f"{gpen.name}: has no server {', '.join(lacking)}, which so can't be the writer" if lacking else ""

    def _watch_nodes(self) -> None:
        """Watch the nodes that are servers of some gpen, and no others."""
        wanted = {node for gpen in self.gpens for node in gpen.nodes}
        if wanted == self._nodes.keys():
            return
        for address in wanted - set(self._nodes):
            self.cluster.add(address)
            self._nodes[address] = Node(address, self._access, self.options.interval, self.options.timeout,
                                        self._from_node, self.ledger)
        for address in set(self._nodes) - wanted:
            self._nodes.pop(address).stop()
            self._faults.standing.pop(f"node {address}", None)
            self.cluster.remove(address)
            self.lag.forget(address)
            self.tally.forget(address)
            self._warned.pop(address, None)
        self._tend_threads()

    def _warn_of_blocks(self, address: str) -> None:
        """Tell, once, of a node that may block a gpen, and again when its limit is another one."""
        limit = self.limit(address)
        if limit is None:
            self._warned.pop(address, None)
        elif self._warned.get(address) != limit:
            self._warned[address] = limit
            warn(f"node {self.label(address)}: {blocking.warning(limit)}")

    def limit(self, address: str) -> int | None:
        """A node's max_connect_errors, if it may block a gpen."""
        hides = any(gpen.balancer.hides_clients and address in gpen.nodes for gpen in self.gpens)
        return blocking.limit(self.cluster.report(address), hides)

    def _poke_nodes(self, now: float) -> None:
        if self._pokes and self._pokes[0] <= now:
            self._pokes = [at for at in self._pokes if at > now]
            for node in self._nodes.values():
                node.poke()

    def _notice_hangs(self, now: float) -> None:
        for address, node in self._nodes.items():
            if min(node.waiting(now), now - self._awake_since) >= self.options.timeout:
                if self.cluster.problem(address) != silence(self.options.timeout):
                    self._stirred = True
                    self.tally.asked(address, "late")
                self.cluster.hangs(address, silence(self.options.timeout))

    # --- decisions ----------------------------------------------------------------------------------------------------

    def _decide(self, now: float) -> None:
        followed = self.cluster.followed.uuid
        changes = self.cluster.judge(now) if self._has_met_all(now) else []
        if followed != self.cluster.followed.uuid:
            say(f"cluster: {self.cluster.followed.uuid} is followed" + (
                f": for {FORGET:g} s no node of {followed} has answered" if followed else ""))
        for address, old, new in changes:
            if new is not None:
                line = f"node {self.label(address)}: {_word(old)} -> {_word(new)}: {new.reason}"
                say(line, INFO if new.usable else WARNING)
        before, refusal = (self._noted, now >= self.election.opens_at), self.election.refusal
        self._note_writer("moved by the operator")
        self._settle_writer(now)
        if self.election.refusal not in ("", refusal):
            warn(f"writer: {self.label(self.election.current)} stays: {self.election.refusal}")
        after = self.election.current, now >= self.election.opens_at
        if after[1] and not before[1]:
            self._detail(f"writer: {self.label(after[0])} is used now")
        if changes or before != after or now >= self._next_round:
            self._tell_all(now)

    def _has_met_all(self, now: float) -> bool:
        """Whether all gpens have answered, or had the time to: only then all nodes are known."""
        return now - self._began > self.options.timeout or all(gpen.problem is not None for gpen in self.gpens)

    def _tell_all(self, now: float) -> None:
        self._next_round = now + self.options.interval
        if now < self.election.opens_at:
            self._next_round = min(self._next_round, self.election.opens_at)
        members = self.cluster.members()
        if self.options.discover:
            self._discovery.saw(self._nodes, members, self.cluster.present(), now)
            members = self._reached(members, now)
        ranks = self.election.ranks(self.scene(now)) if self.election.current else []
        for gpen in self.gpens:
            changes = Changes()
            if self.options.discover and gpen.rows:
                rank = LAST_RANK if gpen.is_writers else None
                changes = self._discovery.changes(gpen.rows, members, now, rank)
            gpen.balancer.want(self._plans(gpen, ranks, now), changes, self.election.version, now)

    def _reached(self, members: Sequence[str], now: float) -> list[str]:
        """The members that may be servers: those that are, and those that were met where they say they are."""
        unknown = [member for member in members if member not in self._nodes]
        names = {self.cluster.name(node) for node in self._nodes if self.cluster.report(node) is None}
        uuid = self.cluster.view.uuid if self.cluster.view else ""
        return [*(member for member in members if member in self._nodes),
                *self._scout.reached(unknown, uuid, names, now)]

    def _settle_writer(self, now: float) -> None:
        """See to it that there is a writer."""
        gpens = self.writer_gpens()
        if not gpens:
            return
        scene = self.scene(now)
        if self.election.current is None:
            used = front(gpens[0].rows)
            if used is not None and (self.cluster.verdict(used) is not None or used in scene.blind):
                self.election.take_over(used)
                self._note_writer("found in use")
        self.election.settle(scene, now)
        self._note_writer(self._why_left(scene, now))
        if isinstance(self.election, Agreed):
            self._take_part(self.election, scene, now)

    def _note_writer(self, why: str) -> None:
        """Have the log tell of another writer."""
        before, self._noted = self._noted, self.election.current
        if before is None and self._noted:
            say(f"writer: {self.label(self._noted)}, {why}")
        elif before != self._noted:
            self.tally.writer_changes += 1
            say(f"writer: {self.label(before)} -> {self.label(self._noted)}: {why}")

    def _why_left(self, scene: Situation, now: float) -> str:
        """Why the writer of which the log tells is none any more."""
        old, new, agreed = self._noted, self.election.current, isinstance(self.election, Agreed)
        if old is None:
            return "as agreed" if agreed else "the first choice"
        if new is None:
            return "the table of the choice is empty"
        verdict = self.cluster.verdict(old)
        lacking = self.without(old, now)
        if lacking and old in self._nodes:
            return f"it is no server of {', '.join(lacking)}"
        if verdict is None or old not in scene.order:
            return "it is no server any more"
        if not verdict.usable:
            return verdict.reason
        if old in self._reach.cut_off(now):
            return "a gpen does not reach it"
        if old not in scene.candidates:
            return "drain or maint"
        if not agreed:
            return "failback"
        return "moved by an operator or by failback" if self.options.failback else "moved by the operator"

    def _take_part(self, election: Agreed, scene: Situation, now: float) -> None:
        """Do in the agreement's tables what is due."""
        ledger, proposal, before = self.ledger, election.proposal, election.before
        self._tell_obstacle()
        if ledger is None or not scene.candidates:
            return
        helper = next(iter(scene.candidates))
        claims = (ledger.me not in scene.watchers or election.is_misquoted(scene)
                  or (election.identity is not None and election.identity.wants_claim))
        if claims and not self.is_namesake and (scene.blank or scene.choices) and self._is_due("join", now):
            self._begin_task(helper, ledger.join)
        version = election.confirmation(scene)
        if version is not None and self._is_due(f"confirm {version}", now):
            self._begin_task(helper, lambda connection: ledger.confirm(connection, version))
        if proposal is not None and proposal is not self._proposed and election.bearer is not None:
            self._proposed = proposal
            self._detail(f"proposes choice {proposal.version}: writer {self.label(proposal.writer)}, "
                         f"heir {self.label(proposal.heir)}")
            called = self.cluster.called(proposal)
            self._begin_task(election.bearer, lambda connection: ledger.write(connection, called, before),
                         lambda: election.outcome(proposal, time.monotonic()))
        if election.heir and not self._pokes:
            self._pokes = [now + POKES[1]]  # the others' confirmations are waited for

    def _is_due(self, task: str, now: float) -> bool:
        """Whether to do what is needed still: not again at once, for it takes a moment until it is seen."""
        if now < self._tasks.get(task, now):
            return False
        self._tasks = {other: until for other, until in self._tasks.items() if now < until}
        self._tasks[task] = now + TASK
        return True

    def _begin_task(self, node: str, work: Work, after: Callable[[], None] = lambda: None) -> None:
        """Do something with a node, and look at the nodes when it is done."""

        def done(trouble: str) -> None:
            self._complain(f"{trouble} (through {self.label(node)})" if trouble else "")
            after()
            self.poke()

        in_background(self._access, node, work, lambda trouble: self.post(partial(done, trouble)))

    def _leave_agreement(self) -> None:
        """From now on the gpens are on their own: the others need not wait for this watcher."""
        if self.ledger is not None and not self.is_namesake:
            for node in self.cluster.usable()[:1]:
                in_background(self._access, node, self.ledger.leave, lambda trouble: None).join(GOODBYE)

    @property
    def is_namesake(self) -> bool:
        """Whether the row on the list is another watcher's, so that nothing may be done with it."""
        identity = self.election.identity if isinstance(self.election, Agreed) else None
        return identity is not None and identity.clash

    def _detail(self, line: str) -> None:
        if self.options.verbose:
            say(line, DEBUG)

    def _complain(self, trouble: str) -> None:
        if trouble != self.complaint:
            if trouble:
                warn(f"agreement: {trouble}")
            self.complaint = trouble

    def _tell_obstacle(self) -> None:
        if self.election.trouble != self._obstacle:
            say(f"agreement: {self.election.trouble or 'well again'}", WARNING if self.election.trouble else INFO)
            self._obstacle = self.election.trouble

    @property
    def faults(self) -> int:
        """How often something failed in the watcher itself, by what nobody expected."""
        return self._faults.count

    @property
    def fault(self) -> str:
        """What of that fails now."""
        return "; ".join(self._faults.standing.values())

    @property
    def trouble(self) -> str:
        """With the agreement."""
        return self.election.trouble or self.complaint

    def writer_gpens(self) -> list[Gpen]:
        """The gpens that go with the writer, as far as they have been seen."""
        return [gpen for gpen in self.gpens if gpen.balancer.is_writer and gpen.rows]

    def heard_gpens(self, now: float) -> list[Gpen]:
        """Those of them whose last word is no old news."""
        return [gpen for gpen in self.writer_gpens() if now - gpen.seen < NEWS]

    def without(self, node: str, now: float) -> list[str]:
        """The gpens that would have to go with this writer, and do not have it as a server."""
        return [gpen.name for gpen in self.heard_gpens(now) if node not in gpen.nodes]

    def scene(self, now: float) -> Situation:
        """What the writer is chosen from."""
        gpens = self.heard_gpens(now)
        servers = common(gpen.rows for gpen in gpens or self.writer_gpens())
        barred = self._reach.cut_off(now).union(*(withdrawn(gpen.rows) for gpen in gpens))
        usable = [node for node in self.cluster.usable() if node in servers]
        blind = [node for node in self.cluster.blind() if node in servers and node not in barred]
        candidates = [node for node in usable if node not in barred] or usable
        reports = {node: self.cluster.report(node) for node in self.cluster.nodes if node in servers}
        indexes = {node: report.index if report else NO_INDEX for node, report in reports.items()}
        pages = [report.page for node, report in reports.items() if report and node in usable]
        known = [page for page in pages if isinstance(page, Page)]
        watchers: dict[str, int] = {}
        for name, version in (pair for page in known for pair in page.watchers.items()):
            watchers[name] = max(version, watchers.get(name, 0))
        members, answering = self.cluster.members(), self.cluster.answering()
        newest = max((page.newest for page in known), default=0)
        claim = max((page.claim for page in known), default=None)
        return Situation(
            order=self.election.order(indexes, candidates), candidates=candidates, blind=blind,
            present={*members, *self.cluster.present(), *blind}, writable=self.cluster.writable(),
            choices=self._local([page.choice for page in known if page.choice]),
            watchers=watchers, blank=bool(known) and not any(page.choice for page in known),
            quorate=2 * len(answering) > len(members), told=self._told(), newest=newest, claim=claim)

    def _local(self, choices: Sequence[Choice]) -> list[Choice]:
        """Choices with the addresses that count here. Each is read once: it would be another choice if more is known of
        where the nodes are by and by."""
        if choices:
            self._read = {choice: self._read.get(choice) or self.cluster.known_as(choice) for choice in choices}
        return [self._read[choice] for choice in choices]

    def _told(self) -> int:
        """The newest choice that all gpens that there are have carried out."""
        return min((gpen.balancer.told for gpen in self.gpens
                    if gpen.balancer.is_writer and not gpen.balancer.absent), default=self.election.version)

    # --- plans --------------------------------------------------------------------------------------------------------

    def _plans(self, gpen: Gpen, ranks: Sequence[str], now: float) -> Plans:
        verdicts = {node: verdict for node in self.cluster.nodes if (verdict := self.cluster.verdict(node))}
        plan = self._writer_plan(gpen, ranks, verdicts, now) if gpen.is_writers else {
            node: Order(self._usable(gpen, verdict, now), verdict.reason, None, self._is_lost(verdict), self.room(node),
                        verdict.drains)
            for node, verdict in verdicts.items()}
        writers = self._choice_plan(gpen, ranks, now) if ranks and gpen.balancer.desks else {}
        return Plans({node: self._unless_full(node, order) for node, order in plan.items()}, writers)

    def _usable(self, gpen: Gpen, verdict: Verdict, now: float) -> bool | None:
        """Whether a gpen is told that a node is up. Where its listeners for writes wait for the choice that is agreed,
        nothing is said of that for a moment: they would begin with whom the file has in front."""
        waits = bool(gpen.balancer.desks) and self.election.current is None and now - gpen.met < TTL
        return None if verdict.usable and waits else verdict.usable

    def _unless_full(self, node: str, order: Order) -> Order:
        """A node that is full gets no new clients: it would refuse them after the login, when no gpen can have them
        wait, or give them another one."""
        full = self.fullness(node) if order.up is not False else ""
        return replace(order, up=False, drains=True, reason=full) if full else order

    def fullness(self, node: str) -> str:
        """Why a node has no room for a client, by its own account; nothing when it has."""
        report, problem = self.cluster.report(node), self.cluster.problem(node)
        if report is not None and report.is_full:
            return f"{FULL_WORD}all {report.max_connections} connections in use"
        return problem if problem.startswith(FULL_WORD) else ""

    def _writer_plan(self, gpen: Gpen, ranks: Sequence[str], verdicts: dict[str, Verdict], now: float) -> Plan:
        """As long as there is no writer, and so no ranks, only who is down. Then each server has a rank of its own, and
        no other than the writer is up, whatever is known of it: also one that the watcher has not seen yet."""
        if not ranks:
            return {node: Order(False, verdict.reason, close=self._is_lost(verdict))
                    for node, verdict in verdicts.items() if not verdict.usable}
        keeping = self.options.keep_old_sessions
        leaving = draining(gpen.rows)
        plan = {OTHERS: Order(False, f"standby: {self.election.current} is the writer", LAST_RANK, not keeping,
                              drains=keeping)}
        for rank, node in enumerate([*ranks, *sorted(set(gpen.nodes) - set(ranks))]):
            verdict = verdicts.get(node)
            up, reason = self._role(node, verdict, now)
            left = node != self.election.current or bool(self.election.heir)
            kept = keeping or node in leaving
            close = self._is_lost(verdict) or (left and not kept)
            plan[node] = Order(up, reason, rank, close, self.room(node), self._drains(verdict, left, kept),
                               self._serves(verdict))
        return plan

    def _choice_plan(self, gpen: Gpen, ranks: Sequence[str], now: float) -> Plan:
        """For the listeners that get the writes: they use the writer and no other, whatever is known of it; none while
        it hands over, or is to be used in a moment. The prios are what counts if an operator has them use all."""
        used = self.election.current if not self.election.heir and now >= self.election.opens_at else None
        staying = {self.election.current} if not self.election.heir else set()
        staying |= set(gpen.nodes) if self.options.keep_old_sessions else draining(gpen.rows)
        plan = {OTHERS: Order(False, "", LAST_RANK, not self.options.keep_old_sessions)}
        for rank, node in enumerate([*ranks, *sorted(set(gpen.nodes) - set(ranks))]):
            plan[node] = Order(node == used, "", rank, node not in staying,
                               quietly=self._serves(self.cluster.verdict(node)))
        return plan

    @staticmethod
    def _serves(verdict: Verdict | None) -> bool:
        """Whether a node serves the sessions that it has."""
        return verdict is not None and (verdict.usable or verdict.drains)

    @staticmethod
    def _drains(verdict: Verdict | None, left: bool, kept: bool) -> bool:
        """Whether a node that is not to be used may keep its sessions all the same, which might write there: the
        writer, until it is ``left``, if it serves them; another one if they are to be ``kept``, by the operator's word,
        and it does not fail."""
        if left:
            return kept and (verdict is None or verdict.usable or verdict.drains)
        return verdict is not None and verdict.drains

    def _role(self, node: str, verdict: Verdict | None, now: float) -> tuple[bool | None, str]:
        """Whether a gpen that goes with the writer may use a node: no other than the writer. So no client gets to
        another one when a connect to the writer fails, or the writer is full."""
        if verdict is not None and not verdict.usable:
            return False, verdict.reason
        if node != self.election.current:
            return False, f"standby: {self.election.current} is the writer"
        if self.election.heir:
            return False, f"hands over to {self.election.heir}"
        if now < self.election.opens_at:
            return False, "the writer in a moment: all watchers must have seen it"
        return (True, verdict.reason) if verdict is not None else (None, "")

    def room(self, node: str) -> int | None:
        """How many sessions a gpen may have on a node, so that others find room as well."""
        report = self.cluster.report(node)
        if report is None or report.max_connections <= 0:
            return None
        return max(1, report.max_connections - self.options.reserve)

    def _is_lost(self, verdict: Verdict | None) -> bool:
        return verdict is not None and verdict.lost and not self.options.keep_sessions

    def label(self, address: str | None) -> str:
        """How the log names a node: by its address, and what it calls itself."""
        name = self.cluster.name(address) if address else ""
        return f"{address} ({name})" if name else address or "none"


def _outcome(gpen: Gpen) -> str:
    """What came of the last round with a gpen, for the tally."""
    if gpen.silent:
        return "unreachable"
    return "late" if gpen.balancer.is_late else "refused" if gpen.problem else "told"


def _word(verdict: Verdict | None) -> str:
    return "unknown" if verdict is None else verdict.word
