"""A worker: a process that serves sessions, whose places the main process chooses.

It is forked by the fork server, before it has a hub or a poller: a child of a process that has them would share the
epoll, and deafen it by what it removes. All that it knows of the configuration are the listeners' settings and TLS
contexts. It ends when the main process does, or lets go of it.
"""

from __future__ import annotations

import errno
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NoReturn

from gevent.hub import get_hub

from gpen.daemon import janitor, process
from gpen.daemon.fork_server import Services
from gpen.daemon.front import DUMP_LEVEL
from gpen.daemon.session_log import dump_watch, request_watch
from gpen.daemon.sessions import Sessions
from gpen.model.address import Endpoint, network_address
from gpen.model.client import ClientTable
from gpen.model.ending import BY_WORD, Ending
from gpen.model.pool import Pool, stand_in
from gpen.model.roster import Roster
from gpen.model.route import table_of
from gpen.model.selector import Selector
from gpen.model.server import TCP, Member
from gpen.model.settings import Settings
from gpen.proto.protocols import protocol_of
from gpen.wire import kernel
from gpen.wire.channel import Channel, Record
from gpen.wire.conversation import Conversation, Front, Handshakes, Watch
from gpen.wire.faults import Troubles
from gpen.wire.greenlets import KEPT, Greenlets
from gpen.wire.hold import Hold
from gpen.wire.limits import Limits
from gpen.wire.pacing import gently
from gpen.wire.poller import Poller
from gpen.wire.quiet import Quieter
from gpen.wire.server_tls import ServerTls
from gpen.wire.session import Session
from gpen.wire.shaping import Grant
from gpen.wire.tls import Terminator
from gpen.wire.worker_session import WorkerSession

log = logging.getLogger("gpen")

FIGURES_AT_ONCE = 200
MOST_MEMBERS = 10_000  # servers as they were at some time: one is met again by the next session


class WorkerFront(Front):
    """What sessions know of the listener that they came to."""

    def __init__(self, name: str, settings: Settings, tls: Terminator | None, server_tls: ServerTls | None,
                 worker: Worker) -> None:
        self.name = name
        self._worker = worker
        self.selector = Selector(Pool(settings, time.monotonic, time.time), settings, Roster(TCP), name)
        self.clients = ClientTable()
        self.poller = worker.poller
        self.greenlets = worker.greenlets
        self.troubles = worker.troubles
        self.quieter = worker.quieter
        self.listener = None
        self.dialing = 0
        self.handshakes = Handshakes()
        self.limits = Limits(self)
        self._grants: dict[int, Grant] = {}  # that the main process was asked for, by their direction
        self.count = 0
        self.adopt(settings, tls, server_tls)
        self.hold = Hold(self, {})

    def adopt(self, settings: Settings, tls: Terminator | None, server_tls: ServerTls | None) -> None:
        """Be so from now on."""
        self.settings = settings
        self.tls = tls
        self.server_tls = server_tls
        self.protocol = protocol_of(settings)
        self.routes = table_of(settings)
        self.limits.shape(self._own_sessions, self._ask)

    def _own_sessions(self) -> Iterator[Session]:
        return (session for session in self._worker.sessions if session.front is self and isinstance(session, Session))

    def _ask(self, direction: int, grant: Grant) -> None:
        """The main process knows what the sessions of all workers may move together."""
        self._grants[direction] = grant
        self._worker.tell("bandwidth", self.name, direction)

    def granted(self, direction: int, count: int) -> None:
        """So many bytes more may pass."""
        grant = self._grants.pop(direction, None)
        if grant is not None:
            grant(count)

    def begin(self, session: Conversation) -> None:
        self._worker.sessions.begin(session)
        self.count += 1

    def watch(self, session: Conversation) -> Watch | None:
        settings, watch = self.settings, None
        if settings.log and (settings.log_format == "pen" or network_address(settings.log) is not None):
            watch = request_watch(session, lambda: _RequestLog(self._worker, session.id))
        return dump_watch(session, settings, watch) if settings.debug >= DUMP_LEVEL else watch

    def resume(self) -> None:
        """The main process accepts."""

    def stir(self) -> None:
        """And knows who waits."""

    def shed(self) -> bool:
        return self.poller.pipes.shed()

    def ended(self, session: Conversation) -> None:
        self.forget(session)
        ending = session.ending or Ending.ERROR
        self._worker.tell("ended", session.id, ending.value, session.finished, *session.volumes())

    def forget(self, session: Conversation) -> None:
        if self._worker.sessions.forget(session):
            self.count -= 1
            if session.client is not None:
                session.clients.leave(session.client)


class _RequestLog:
    """Where requests are logged: by the main process."""

    def __init__(self, worker: Worker, number: int) -> None:
        self._worker = worker
        self._number = number

    def write_request(self, client: str, server: str, request: bytes) -> None:
        self._worker.tell("request", self._number, client, server, request)


class Worker:
    """This process."""

    def __init__(self, sock: Any, services: Services) -> None:
        """``sock`` is the way to the main process, ``services`` are the listeners as they are now."""
        self.poller = Poller()
        self.greenlets = Greenlets(KEPT)
        self.troubles = Troubles()
        self.sessions = Sessions(0)
        self.quieter = Quieter(self.poller.loop)
        self._services = services
        self._fronts: dict[str, WorkerFront] = {}
        self._members: dict[tuple[Any, ...], Member] = {}
        self._channel = Channel(sock, self.poller, self._take, self._lost)
        self._of_session: dict[str, Callable[..., object]] = {
            "admitted": WorkerSession.answered, "place": WorkerSession.answered, "held": WorkerSession.held,
            "leave": self._leave, "stop": self._stop, "quiet": self._end_quietly, "spare": WorkerSession.spare}
        self._own: dict[str, Callable[..., object]] = {
            "begin": self._begin, "asked": self._asked, "ping": self._ping, "prepare": self._prepare,
            "commit": self._commit, "abort": services.abort, "granted": self._granted, "die": _die}
        self._adopt()

    def tell(self, *record: Any) -> None:
        """Send a record to the main process. Does not switch."""
        self._channel.send(*record)

    def mention(self, *record: Any) -> None:
        """Send it with the next, or soon. Does not switch."""
        self._channel.mention(*record)

    def hurry(self) -> None:
        """Send all that was said by now, at once. Does not switch."""
        self._channel.flush()

    def run(self) -> NoReturn:
        """Serve to the end of this process. Switches greenlets."""
        watcher = get_hub().loop.signal(signal.SIGTERM)
        watcher.start(self.tell, "terminated", os.getpid())
        janitor.run(self.sessions, (
            ("troubles", self.troubles.tend),
            ("pipes", lambda: self.poller.pipes.tend(process.spare_descriptors(len(self.sessions)))),
            ("sessions", lambda: janitor.tend_sessions(self.sessions)),
        ))
        raise AssertionError("the janitor has ended")

    def _lost(self) -> None:
        """The main process is gone, or has no use for this one any more."""
        os._exit(0)

    def _take(self, record: Record) -> None:
        word, *about = record
        handler = self._own.get(word)
        if handler is not None:
            handler(*about)
            return
        number, *about = about
        session = self.sessions.get(number)
        if session is not None:
            self._of_session[word](session, *about)

    # --- sessions -------------------------------------------------------------------------------------------------

    def _begin(self, number: int, listener: str, family: int, *about: Any) -> None:
        fd = self._channel.descriptor()
        if fd < 0:  # the client's end is closed by now
            self.troubles.tell(f"clients are lost: {os.strerror(errno.EMFILE).lower()}")
            self._end_unbegun(number, Ending.LOCAL)
            return
        sock = kernel.Socket(family, 1, 0, fd)
        try:
            session = self._made(number, listener, sock, *about)
        except Exception:
            sock.close()
            self._end_unbegun(number, Ending.ERROR)
            raise
        self.greenlets.start(session.run)

    def _made(self, number: int, listener: str, sock: Any, address: str, port: int, *known: Any) -> WorkerSession:
        front = self._fronts[listener]
        session = WorkerSession(number, front, sock, address, port, self)
        session.prepare(*known)
        front.begin(session)
        return session

    def _granted(self, listener: str, direction: int, count: int) -> None:
        front = self._fronts.get(listener)
        if front is not None:
            front.granted(direction, count)

    def _end_unbegun(self, number: int, ending: Ending) -> None:
        """The main process has a session that there is not here."""
        self.tell("ended", number, ending.value, time.monotonic(), 0, 0, 0, 0)

    @staticmethod
    def _stop(session: WorkerSession, ending: str) -> None:
        session.stop(BY_WORD[ending])

    @staticmethod
    def _end_quietly(session: WorkerSession, place: int, ending: str) -> None:
        session.part_from(place, BY_WORD[ending])

    @staticmethod
    def _leave(session: WorkerSession, place: int, ending: str) -> None:
        session.depart(place, BY_WORD[ending] if ending else None)

    def member(self, name: str, number: int | None, endpoints: tuple[Any, ...]) -> Member:
        """What stands here for a server."""
        key = name, number, endpoints
        member = self._members.get(key)
        if member is None:
            if len(self._members) >= MOST_MEMBERS:
                self._members.clear()
            member = self._members[key] = stand_in(name, number, [Endpoint(*each) for each in endpoints])
        return member

    # --- what all workers are told --------------------------------------------------------------------------------

    def _ping(self) -> None:
        self.tell("pong", time.process_time())

    def _asked(self, token: int, with_figures: bool) -> None:
        """Say that all before was heard, when what it has brought about is done."""
        get_hub().loop.run_callback(self._answer, token, with_figures)

    def _answer(self, token: int, with_figures: bool) -> None:
        self.greenlets.start(partial(self._tell_figures, token, self.sessions if with_figures else ()))

    def _tell_figures(self, token: int, sessions: Iterable[Conversation]) -> None:
        """Tell of these, in turns: of 10,000 it takes 30 ms. Switches greenlets."""
        rows: list[tuple[Any, ...]] = []
        for session in gently(sessions):
            rows.append(_figures_of(session))
            if len(rows) == FIGURES_AT_ONCE:
                self.tell("figures", rows)
                rows = []
        self.tell("figures", rows)
        self.tell("done", token, time.process_time())

    def _prepare(self, token: int, change: bytes) -> None:
        self.greenlets.start(lambda: self.tell("prepared", token, self._services.prepare(change, gently)))

    def _commit(self) -> None:
        self._services.commit()
        self._adopt()

    def _adopt(self) -> None:
        """Be as the services are now."""
        for name, (settings, tls, server_tls) in self._services.current.items():
            front = self._fronts.get(name)
            if front is None:
                self._fronts[name] = WorkerFront(name, settings, tls, server_tls, self)
            else:
                front.adopt(settings, tls, server_tls)
            process.set_debug(settings.debug)
        for name in self._fronts.keys() - self._services.current.keys():
            if not self._fronts[name].count:
                del self._fronts[name]


def _figures_of(session: Conversation) -> tuple[Any, ...]:
    now = time.monotonic()
    return (session.id, session.state, session.volumes(), now - session.idle(now), session.waiting, session.descriptors,
            session.ended_sides)


def _die() -> None:
    """By TERM, for it was sent here, and gpen goes on."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTERM)


def serve(fd: int, services: Services) -> NoReturn:
    """Be a worker, in a process that was forked for that; its way to the main process is this descriptor."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    worker = Worker(socket.socket(fileno=fd), services)
    process.tell(process.Diagnostics(partial(worker.tell, "log")))
    try:
        worker.run()
    except BaseException:
        log.exception("a worker failed")
        worker.hurry()
        os._exit(1)
