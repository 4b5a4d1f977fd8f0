"""The old gpen's side, when another takes its place (``gpen --replace``); inheritance.py is the new one's.

What listens is told at once, and is used on. When the new one is ready, this one stops accepting, and tells what it
knows; when that one says that it serves, this one only ends its sessions. Until then it can go on at any moment as if
nothing had been: it has closed and removed nothing, and nobody else has changed what it needs.
"""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import gevent

from gpen import __version__
from gpen.control import reply
from gpen.control.configuration import Configuration
from gpen.control.script import Call, ScriptError, parse_line
from gpen.control.sources import Sources
from gpen.control.succession import told_at_start
from gpen.daemon.changes import Changes
from gpen.daemon.control_socket import ControlSocket
from gpen.daemon.door import HttpDoor
from gpen.daemon.elders import Elders, Rows, send_rows
from gpen.daemon.inheritance import COMMAND, PROTOCOL
from gpen.daemon.listeners import Listeners
from gpen.daemon.peers import Peers
from gpen.daemon.process import PidFile
from gpen.daemon.sessions import Sessions
from gpen.dsr.flow import DirectFlow
from gpen.model.text import counted
from gpen.wire import passing
from gpen.wire.control import Offered
from gpen.wire.faults import Faults
from gpen.wire.flow import Flow
from gpen.wire.pacing import gently
from gpen.wire.passing import Channel, Message, PassingError, SilenceError

log = logging.getLogger("gpen")

READY_SECONDS, SERVING_SECONDS = 30.0, 5.0
TELL_SECONDS = 0.2  # between two words on how many sessions are left
_FLOW_BYTES, _ROW_BYTES = 400, 60


class Handover:
    """Offers the place of this gpen to whoever asks for it and may have it. ``successor`` is the pid of the one that
    has got it; 0 as long as this one serves. ``pid_file`` is what it gets too."""

    def __init__(self, configuration: Configuration, sources: Sources, sessions: Sessions, listeners: Listeners,
                 control: ControlSocket, door: HttpDoor, peers: Peers, changes: Changes, elders: Elders,
                 retired: Callable[[int], object], stop: Callable[[], object]) -> None:
        """``retired`` is called with the pid of the one that has the place, ``stop`` when no session is left here."""
        self.successor = 0
        self.pid_file: PidFile | None = None
        self.child = 0  # the process that shall become it, if we have started it
        self._configuration = configuration
        self._sources = sources
        self._sessions = sessions
        self._listeners = listeners
        self._control = control
        self._door = door
        self._peers = peers
        self._changes = changes
        self._elders = elders
        self._retired = retired
        self._stop = stop
        self._faults = Faults()
        self._greenlet: Any = None
        self._is_asked = False  # by somebody who has neither got the place nor failed

    @property
    def is_possible(self) -> bool:
        """Whether somebody can ask for it: over a socket by which descriptors pass."""
        return "/" in self._control.address

    # --- being asked ----------------------------------------------------------------------------------------------

    def offer(self, line: str, sock: Any) -> Offered | None:
        """What is answered to a control client that asks for our place, with the end of a line to us; None for one that
        says something else."""
        if not line.startswith(COMMAND):
            return None
        try:
            call = parse_line(line)
            if call is None or call.command.name != COMMAND:
                return None
            pid = self._check(call, sock)
        except ScriptError as error:
            return Offered(reply.error(error.told()[0]), -1)
        except OSError as error:
            return Offered(reply.error(f"{COMMAND}: {error.strerror}"), -1)
        channel, theirs = passing.pair()
        self._is_asked = True
        self._greenlet = gevent.spawn(self._conduct, channel, pid)
        return Offered("ok\n", theirs)

    def _check(self, call: Call, sock: Any) -> int:
        """The process that asks. Raises ScriptError where it gets nothing."""
        pid, uid = passing.peer_of(sock)
        if self.successor:
            raise call.error(f"pid {self.successor} has replaced it already: ask that one")
        if self._is_asked:
            raise call.error("another is about to replace it")
        if uid not in (0, os.geteuid()):
            raise call.error(f"it runs as user {os.geteuid()}, and hands over to that one or root, not to user {uid}")
        if call["protocol"] != PROTOCOL:
            raise call.error(f"gpen {__version__} hands over by protocol {PROTOCOL}, and gpen {call['version']} asks "
                             f"by {call['protocol']}: stop the one and start the other")
        return pid

    def _conduct(self, channel: Channel, pid: int) -> None:
        """All that follows. Switches greenlets."""
        try:
            try:
                self._hand_over(channel, pid)
            except PassingError as error:
                log.warning("pid %d does not take over: %s; this gpen goes on", pid, error)
            except Exception:
                log.exception("to hand over to pid %d failed", pid)
            self._is_asked = False
            if self.successor:
                self._see_out(channel)
        finally:
            channel.close()

    def abandon(self) -> None:
        """This gpen ends: who has asked for its place, and has not got it, does not get it. Switches greenlets."""
        if self._greenlet is not None and not self.successor:
            self._greenlet.kill()

    def _hand_over(self, channel: Channel, pid: int) -> None:
        """Raises PassingError when the other can't, and this one goes on."""
        running = self._tell_what_there_is(channel, pid)
        ready = _expected(channel, "ready", READY_SECONDS)
        with self._changes.halted():
            with self._suspended(ready):
                self._tell_state(channel, running, ready)
                _expected(channel, "serving", SERVING_SECONDS)
            try:
                self._retire(pid, ready)
            finally:
                with suppress(PassingError):  # it has gone on without that word, or is gone
                    channel.send("yours")

    # --- telling --------------------------------------------------------------------------------------------------

    def _tell_what_there_is(self, channel: Channel, pid: int) -> list[str]:
        """Tell the configuration, and pass what is open; returns the configuration as it was told."""
        with self._changes.halted():
            running = self._tell_configuration(channel, [])
        for front in self._listeners:
            if front.listener is not None:
                channel.send("listener", [front.listener.socket.fileno()], name=front.name, path=_path(front.address),
                             is_wider=front.is_wider, has_file=front.has_file)
        for kind, place in (("control", self._control), ("metrics", self._door), ("peers", self._peers)):
            if place.fileno() >= 0:
                channel.send(kind, [place.fileno()], name="", path=_path(place.address), is_wider=False)
        if self.pid_file is not None:
            channel.send("pid", [self.pid_file.fileno()])
        if pid == self.child:
            channel.send("stderr", [2])
        channel.send("end", pid=os.getpid(), version=__version__)
        return running

    def _tell_configuration(self, channel: Channel, told: list[str]) -> list[str]:
        """Tell what this gpen was started with and what it has now, unless it was ``told`` so before."""
        running = list(gently(self._configuration.dump()))
        if running != told:
            channel.send_lines("start", gently(told_at_start(self._sources)))
            channel.send_lines("running", running)
        return running

    def _tell_state(self, channel: Channel, told: list[str], ready: Message) -> None:
        self._tell_configuration(channel, told)
        channel.send("settled")
        channel.send_lines("state", self._configuration.state())
        counters = ([server.label, server.total, server.failures, server.sx, server.rx]
                    for server in self._configuration.pool.all_servers())
        for part in passing.pieces(counters, lambda row: _ROW_BYTES):
            channel.send("servers", rows=part)
        for elder in self._elders:
            channel.send("elder", [elder.channel.fileno()], pid=elder.pid)
            send_rows(channel, "elder's", elder.rows)
        send_rows(channel, "sessions", self._rows())
        for front in self._listeners:
            if front.name in ready["listeners"]:
                for part in passing.pieces(front.lent_flows(), _size_of, passing.MOST_DESCRIPTORS):
                    channel.send("flows", [flow.descriptors[1] for flow in part], listener=front.name,
                                 flows=[flow.told() for flow in part])
                for direct in passing.pieces(front.lent_direct_flows(), lambda flow: _FLOW_BYTES):
                    channel.send("direct flows", listener=front.name, flows=[flow.told() for flow in direct])
        channel.send("end")

    def _rows(self) -> Rows:
        """How many sessions each server has at the place where it is, by their listeners."""
        counts: Counter[tuple[str, int | str, str]] = Counter()
        for session in self._sessions:
            lease = session.lease
            if lease is None or not lease.is_open or lease.server.deleted or lease.is_elsewhere:
                continue
            if not _is_lent(session):
                counts[session.listener or "", lease.server.label, str(lease.server.address)] += 1
        return [(*key, count) for key, count in counts.items()]

    # --- stopping -------------------------------------------------------------------------------------------------

    @contextmanager
    def _suspended(self, ready: Message) -> Iterator[None]:
        """Nobody is accepted, and flows that pass on stand still; what comes meanwhile waits in the kernel. If it comes
        to nothing, all goes on."""
        try:
            self._elders.suspend()
            for front in self._listeners:
                front.suspend(front.name in ready["listeners"])
            self._control.suspend()
            self._door.suspend()
            self._peers.suspend()
            yield
        except BaseException:
            for go_on in (*(front.go_on for front in self._listeners), self._control.go_on, self._door.go_on,
                          self._peers.go_on, self._elders.go_on):
                self._faults.attempt("to go on, where nobody has taken over", go_on)
            raise

    def _retire(self, pid: int, ready: Message) -> None:
        """Another serves: close what it has, and keep what our sessions need."""
        self.successor = pid
        self._changes.retire(f"pid {pid} has replaced this gpen, which only ends its sessions: say it to that one")
        for front in self._listeners:
            front.hand_over(front.name in ready["listeners"])
        self._control.hand_over(ready["control"])
        self._door.hand_over(ready.fields.get("metrics", False))  # older ones know no door
        self._peers.close()
        if self.pid_file is not None and ready["pid_file"]:
            self.pid_file.hand_over()
        self._elders.let_go()
        self._retired(pid)
        log.info("gpen %d was replaced by pid %d; %s left", os.getpid(), pid, counted(len(self._sessions), "session"))

    def _see_out(self, channel: Channel) -> None:
        """Tell the new one how many sessions are left, until there are none, or drain_timeout is over. Switches
        greenlets."""
        hearing = gevent.spawn(self._hear, channel)
        seconds = self._configuration.settings.drain_timeout
        deadline = time.monotonic() + seconds if seconds else 0.0
        told: Rows = []
        while self._is_needed() and not (deadline and time.monotonic() >= deadline):
            rows = self._rows()
            if rows != told:
                with suppress(PassingError):  # it has ended; our sessions go on
                    send_rows(channel, "sessions", rows)
                told = rows
            gevent.sleep(TELL_SECONDS)
        if len(self._sessions):
            log.info("drain_timeout is over: %s left, which end now", counted(len(self._sessions), "session"))
        hearing.kill()
        self._stop()

    def _is_needed(self) -> bool:
        return bool(len(self._sessions)) or self._control.is_answering or self._door.is_answering

    def _hear(self, channel: Channel) -> None:
        """Do what the newest gpen says: it has been told to open its logs anew, and ours are the same. Switches
        greenlets."""
        with suppress(PassingError):
            while True:
                with suppress(SilenceError):  # a timeout that was meant for sending
                    channel.receive(None).close()
                    self._changes.hang_up()


def _expected(channel: Channel, kind: str, seconds: float) -> Message:
    """The next message, which is of this kind. Raises PassingError."""
    try:
        message = channel.receive(seconds)
    except SilenceError as silence:
        try:
            message = channel.receive(0)  # it may have come while this process was stopped
        except PassingError:
            raise silence from None
    if message.kind != kind:
        message.close()
        raise PassingError(f"it says '{message.kind}' where '{kind}' was expected")
    return message


def _is_lent(session: object) -> bool:
    return isinstance(session, (Flow, DirectFlow)) and session.is_lent


def _size_of(flow: Flow) -> int:
    return flow.kept_bytes * 2 + _FLOW_BYTES


def _path(address: str) -> str:
    return address if "/" in address else ""
