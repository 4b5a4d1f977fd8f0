"""The workers, as the main process has them: who gets which session, what they are told, and what becomes of them.

The main process accepts, reserves a place, and passes the client's socket to the worker with the fewest sessions: so
long ones are spread evenly (of 40, each of four workers gets 10; where each accepts by itself, the kernel gives all to
one, or 4 to 17).
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from gevent.event import Event
from greenlet import getcurrent

from gpen.control.script import ScriptError
from gpen.daemon import process
from gpen.daemon.fork_server import packed
from gpen.daemon.front import Front
from gpen.model.ending import Ending
from gpen.model.events import Events
from gpen.model.settings import Settings
from gpen.model.text import counted
from gpen.wire.channel import Channel, Record, pair
from gpen.wire.poller import Poller
from gpen.wire.remote import Figures, RemoteSession
from gpen.wire.shaping import NO_LIMIT, Grant

log = logging.getLogger("gpen")

FIGURES_SECONDS = 0.5  # for the workers' answers to what a command asks of their sessions
CHANGE_SECONDS = 30.0  # to read thousands of certificates
SLOW, HUNG, LOST = 2, 10, 30  # seconds without a sign: it gets no sessions; that is told; it is replaced
APART = 1.0  # seconds between two that are forked in the place of others

Row = dict[str, Any]


class WorkerProcess:
    """One of them. ``silent`` is for how many seconds it has given no sign; ``status`` how it has ended, as waitpid
    tells it."""

    def __init__(self, number: int, channel: Channel, listen: Callable[[], None]) -> None:
        self.listen = listen
        self.number = number
        self.channel = channel
        self.tell = channel.send
        self.pid = 0
        self.sessions: dict[int, RemoteSession] = {}
        self.total = 0
        self.cpu = 0.0
        self.started = time.time()
        self.silent = 0
        self.is_terminated = False
        self.lost: int | None = None  # how many sessions were, when it had ended
        self.status: int | None = None

    def forget(self, session: RemoteSession) -> None:
        """It is over."""
        self.sessions.pop(session.id, None)

    @property
    def name(self) -> str:
        """What people call it."""
        return f"worker {self.number} (pid {self.pid})"


class _Round:
    """A question to several processes; ``answered`` is set when none of them is left that has to answer."""

    def __init__(self, asked: Iterable[object]) -> None:
        self.left = set(asked)
        self.problems: list[str] = []
        self.answered = Event()

    def heard(self, who: object, problem: str = "") -> None:
        """This one has answered, or is gone."""
        self.left.discard(who)
        if problem:
            self.problems.append(problem)
        if not self.left:
            self.answered.set()


class Workers:
    """As many as ``count``; none if that is 0. ``lend`` has one of them granted bytes that the sessions of a listener,
    by its name, may move in a direction."""

    def __init__(self, count: int, sock: Any, poller: Poller, events: Events, has_room: Callable[[], object]) -> None:
        """``sock`` is the way to the fork server; ``has_room`` is called when a session can be taken again."""
        self.count = count
        self.most = 1  # sessions of each, by its descriptors: those that go on serve for one that is missing
        self._poller = poller
        self._events = events
        self._has_room = has_room
        self.lend: Callable[[str, int, Grant], object] = _lend_all
        self._alive: list[WorkerProcess] = []
        self._takers: list[WorkerProcess] = []  # of these, those that take a session now
        self._ended: dict[int, WorkerProcess] = {}  # by pid, until it is known how
        self._rounds: dict[int, _Round] = {}
        self._tokens = 0
        self._confined = Event()
        self._complaint = ""
        self._forked_at = 0.0
        self._has_prepared = False
        self._is_closing = False
        self._server = Channel(sock, poller, self._take_from_server, self._server_lost) if count else None
        self._of_session: dict[str, Callable[..., None]] = {
            name: getattr(RemoteSession, name) for name in (
                "admit", "routed", "reserve", "reached", "parted", "has_secured", "server_secured", "refused",
                "settled", "ended")}
        self._of_session["request"] = _log_request

    # --- opening and closing --------------------------------------------------------------------------------------

    def open(self, every: Mapping[str, Settings], wants_server_tls: bool) -> None:
        """Have the fork server read what listeners with these settings need. Switches greenlets. Raises ScriptError."""
        if self.count:
            self.prepare(every, wants_server_tls=wants_server_tls)
            self.commit()

    def confine(self) -> None:
        """Have the fork server enter the chroot and become the user. Switches greenlets. Raises StartError."""
        if self._server is not None:
            self._server.send("confine")
            self._confined.wait()
            if self._complaint:
                raise process.StartError(self._complaint)

    def start(self) -> None:
        """Fork them all. Returns at once: what they are told until they are there waits for them."""
        for number in range(self.count):
            self._fork(number)

    def close(self) -> None:
        """Let them end; sessions that are left are cut."""
        self._is_closing = True
        for worker in self._alive:
            worker.channel.close()
            for session in list(worker.sessions.values()):  # of one that hangs: the others have told of theirs
                session.lost(Ending.SHUTDOWN)
        if self._server is not None:
            self._server.close()

    def _fork(self, number: int) -> None:
        assert self._server is not None
        ours, theirs = pair()
        try:
            channel = Channel(ours, self._poller, lambda record: self._take(worker, record),
                              lambda: self._lost(worker))
        except OSError:  # there is no watching it now
            ours.close()
            theirs.close()
            raise
        worker = WorkerProcess(number, channel, self.listen)
        self._server.send("fork", number, passed=theirs)
        self._forked_at = time.monotonic()
        self._alive.append(worker)
        self._alive.sort(key=lambda worker: worker.number)
        self._note_takers()

    # --- sessions -------------------------------------------------------------------------------------------------

    @property
    def is_ready(self) -> bool:
        """Whether there is one that takes a session now."""
        for worker in self._takers:  # noqa: SIM110 (asked at each accept; a generator takes 3,000 instructions)
            if len(worker.sessions) < self.most:
                return True
        return False

    @property
    def serve(self) -> bool:
        """Whether sessions are served: by one of them at least, however many it has, or without any."""
        return not self.count or bool(self._takers)

    def _note_takers(self) -> None:
        """Workers have come or gone, or are about to go, or have given a sign again, or none."""
        self._takers = [worker for worker in self._alive if worker.silent < SLOW and not worker.is_terminated]

    def begin(self, front: Front, sock: Any, address: str, port: int) -> None:
        """Have the one with the fewest sessions serve this client, who counts from now on. Does not switch."""
        candidates = self._takers or self._alive  # the latter for a listener that closes, and takes who waits there
        if not candidates:
            log.error("%s:%d is turned away: its listener closes, and there is no worker", address, port)
            sock.close()
            return
        worker = candidates[0]
        for other in candidates[1:]:
            difference = len(other.sessions) - len(worker.sessions)
            if difference < 0 or (not difference and other.total < worker.total):
                worker = other
        session = RemoteSession(front.fresh_id(), front, address, port, worker)
        front.begin(session)
        worker.sessions[session.id] = session
        worker.total += 1
        try:
            session.begin(sock)
        except Exception:
            session.not_begun(sock)

    def listen(self) -> None:
        """Take what all have said by now, if this is the hub, where that may be taken."""
        if getcurrent() is self._poller.hub:
            for worker in list(self._alive):
                worker.channel.listen()

    def _take(self, worker: WorkerProcess, record: Record) -> None:
        if worker.silent:
            was_silent, worker.silent = worker.silent, 0
            if was_silent >= SLOW:
                self._note_takers()
        word, number, *about = record
        handler = self._of_session.get(word)
        if handler is not None:
            session = worker.sessions.get(number)
            if session is not None:
                try:
                    handler(session, *about)
                except Exception:
                    session.failed()
        else:
            self._take_other(worker, word, number, *about)

    def _take_other(self, worker: WorkerProcess, word: str, *about: Any) -> None:
        if word == "figures":
            for number, *figures in about[0]:
                session = worker.sessions.get(number)
                if session is not None:
                    session.figures = Figures(*figures)
        elif word == "done":
            worker.cpu = about[1]
            self._heard(about[0], worker)
        elif word == "bandwidth":
            listener, direction = about
            self.lend(listener, direction, partial(worker.tell, "granted", listener, direction))
        elif word == "pong":
            worker.cpu = about[0]
        elif word == "prepared":
            self._heard(about[0], worker, about[1])
        elif word == "log":
            process.tell_for(*about)
        elif word == "terminated":
            worker.is_terminated = True
            self._note_takers()

    # --- their ends -----------------------------------------------------------------------------------------------

    def _lost(self, worker: WorkerProcess) -> None:
        """It has ended: its sessions are over, and their places free."""
        if worker in self._alive:
            self._alive.remove(worker)
            self._note_takers()
        sessions = list(worker.sessions.values())
        worker.lost = len(sessions)
        for session in sessions:
            session.lost()
        for token in list(self._rounds):
            self._heard(token, worker)
        self._tell_end(worker)
        self._refill()

    def _tell_end(self, worker: WorkerProcess) -> None:
        """Tell it, when both are known: how it has ended, and what was lost by that."""
        if self._is_closing:
            return
        if worker.status is None:
            self._ended[worker.pid] = worker
        elif worker.lost is not None:
            cause = f"{worker.name} ended {_how(worker.status)}: {counted(worker.lost, 'session')} lost"
            self._events.note_own("worker ended", cause)
            log.error("%s", cause)

    def _refill(self) -> None:
        """A new one takes the place of one that has ended; not too many at a time, if they end at once."""
        if self._is_closing or self._server is None or not self._server.is_open:
            return
        missing = sorted(set(range(self.count)) - {worker.number for worker in self._alive})
        if missing and time.monotonic() - self._forked_at >= APART:
            self._fork(missing[0])
            self._has_room()

    def tend(self) -> None:
        """To be called each second: see who gives no sign, and fork those that are missing. Time in which this process
        stood still does not count."""
        for worker in self._alive:
            worker.silent += 1
            # a TERM that was sent to all of gpen's processes has come here by now
            worker.tell("die" if worker.is_terminated else "ping")
            if worker.silent == HUNG:
                cause = f"{worker.name} has given no sign for {HUNG} s; it is replaced after {LOST}"
                self._events.note_own("worker hangs", cause)
                log.error("%s", cause)
            elif worker.silent >= LOST:
                self._kill(worker)
        self._note_takers()
        self._refill()

    def _kill(self, worker: WorkerProcess) -> None:
        """End one that hangs: the fork server does, which knows whether that pid is still its; or, without one, this
        process: the channel is open yet, and so there is the process."""
        if self._server is not None and self._server.is_open:
            self._server.send("kill", worker.pid)
        elif worker.pid:
            os.kill(worker.pid, signal.SIGKILL)

    def _take_from_server(self, record: Record) -> None:
        word, *about = record
        if word == "forked":
            self._forked(*about)
        elif word == "exited":
            self._exited(*about)
        elif word == "prepared":
            self._heard(about[0], self._server, about[1])
        elif word == "confined":
            self._complaint = about[0]
            self._confined.set()
        elif word == "log":
            process.tell_for(*about)

    def _forked(self, number: int, pid: int) -> None:
        for worker in self._alive:
            if worker.number == number and not worker.pid:
                worker.pid = pid

    def _exited(self, pid: int, status: int) -> None:
        worker = self._ended.pop(pid, None) or next((worker for worker in self._alive if worker.pid == pid), None)
        if worker is not None:
            worker.status = status
            self._tell_end(worker)

    def _server_lost(self) -> None:
        if not self._is_closing:
            cause = "the process that forks workers ended: the others go on, but none takes the place of one that ends"
            self._events.note_own("worker ended", cause)
            log.error("%s", cause)
            self._complaint = "the process that forks workers ended"
            self._confined.set()
            for token in list(self._rounds):
                self._heard(token, self._server)

    # --- what all are asked ---------------------------------------------------------------------------------------

    def _begin_round(self, asked: Sequence[object]) -> tuple[int, _Round]:
        self._tokens += 1
        asking = self._rounds[self._tokens] = _Round(asked)
        return self._tokens, asking

    def _heard(self, token: int, who: object, problem: str = "") -> None:
        asking = self._rounds.get(token)
        if asking is not None:
            asking.heard(who, problem)

    def refresh(self, with_figures: bool = True) -> None:
        """Learn what has become of all sessions by now, ``with_figures`` also what they have moved; of a worker that
        does not answer soon, or gives no sign, what it has told before. Switches greenlets."""
        asked = self._takers
        if not asked:
            return
        token, asking = self._begin_round(asked)
        try:
            for worker in asked:
                worker.tell("asked", token, with_figures)
            asking.answered.wait(FIGURES_SECONDS)
        finally:
            del self._rounds[token]

    def prepare(self, changed: Mapping[str, Settings], ended: Sequence[str] = (), is_renewed: bool = False,
                wants_server_tls: bool = False) -> None:
        """Have all prepare for these settings of listeners, for the end of others, or to read certificates again;
        ``commit`` or ``abort`` follows. Switches greenlets. Raises ScriptError, with nothing left of it."""
        if self._server is None or not (changed or ended):
            return
        self._has_prepared = True
        token, asking = self._begin_round([*self._alive, *([self._server] if self._server.is_open else [])])
        try:
            self._tell_all("prepare", token, packed(changed, ended, is_renewed, wants_server_tls))
            self._await(asking)
            if asking.problems:
                raise ScriptError(asking.problems[0])
        except BaseException:
            self.abort()
            raise
        finally:
            del self._rounds[token]

    def _await(self, asking: _Round) -> None:
        """Wait for all answers. Raises ScriptError when one hangs."""
        deadline = time.monotonic() + CHANGE_SECONDS
        while not asking.answered.wait(1.0):
            hung = [worker for worker in asking.left if isinstance(worker, WorkerProcess) and worker.silent > SLOW]
            if hung:
                raise ScriptError(f"{hung[0].name} does not answer, so nothing was changed; try again: it is replaced "
                                  f"after {LOST} s without a sign")
            if time.monotonic() > deadline:
                late = next(iter(asking.left))
                who = late.name if isinstance(late, WorkerProcess) else "the process that forks workers"
                raise ScriptError(f"{who} has not read what is new within {CHANGE_SECONDS:g} s, so nothing was changed")

    def commit(self) -> None:
        """Have all put in force what they have prepared, if that is anything. Does not switch."""
        if self._has_prepared:
            self._tell_all("commit")
        self._has_prepared = False

    def abort(self) -> None:
        """Have all forget it."""
        if self._has_prepared:
            self._tell_all("abort")
        self._has_prepared = False

    def _tell_all(self, *record: Any) -> None:
        for worker in self._alive:
            worker.tell(*record)
        if self._server is not None:
            self._server.send(*record)

    # --- what people ask ------------------------------------------------------------------------------------------

    def rows(self) -> list[Row]:
        """The workers, as the command ``workers`` tells them."""
        return [{"number": worker.number, "pid": worker.pid, "sessions": len(worker.sessions), "total": worker.total,
                 "cpu": round(worker.cpu, 2), "started": round(worker.started, 3), "silent": max(worker.silent - 1, 0)}
                for worker in self._alive]


def _log_request(session: RemoteSession, client: str, server: str, request: bytes) -> None:
    front = session.front
    assert isinstance(front, Front)
    if front.session_log is not None:
        front.session_log.write_request(client, server, request)


def _lend_all(listener: str, direction: int, grant: Grant) -> None:
    grant(NO_LIMIT)


def _how(status: int) -> str:
    """How a process has ended, by what waitpid told."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        return f"by signal {number} ({signal.Signals(number).name})"
    return f"with status {os.waitstatus_to_exitcode(status)}"
