"""One node, polled by a thread of its own over one kept connection; so that a node that hangs delays no other.

The thread never gives up on a node that hangs: it waits for the answer, which is old by then, throws it away and asks
again. Meanwhile ``asked`` tells everybody else how long it has been waiting. Nor does it give up on one that says what
no server says, by which PyMySQL fails in any way: what goes wrong is told as any other problem.
"""

from __future__ import annotations

import errno
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple

from gpen.galera.access import USER, Access
from gpen.galera.ledger import Ledger
from gpen.galera.report import QUERY, SAID, Grade, NoGalera, Report, grade, read
from gpen.log import failure
from gpen.model.text import shortened

if TYPE_CHECKING:
    from pymysql.connections import Connection

CONNECT_TIMEOUT = 10.0  # seconds for the way to a machine that does not answer at all
RECONNECT = 3.0  # at least so many seconds between two logins that the node refuses
# The same between two that are broken off here (TLS, a password plugin that PyMySQL lacks): max_connect_errors counts
# these. Every 3 s, they had the balancer's address blocked after five minutes in which no client logged in.
BROKEN_OFF = 60.0
BLOCKED = 1129
FULL, FULL_WORD = 1040, "full: "  # it has no room: no reason to leave it, and one day it will have
DENIED = (1044, 1045, 1130, 1698)  # the watcher may not log in, which says nothing about the node
# What else is about the watcher's account, and the remedy there; from 3000 on as MySQL numbers it.
ACCOUNT = {
    **dict.fromkeys((1820, 1862), "ALTER USER ... IDENTIFIED BY ... PASSWORD EXPIRE NEVER"),
    **dict.fromkeys((4151, 3118, 3955), "ALTER USER ... ACCOUNT UNLOCK"),
    4150: "FLUSH PRIVILEGES: there were max_password_errors wrong passwords",
    1969: "ALTER USER ... WITH MAX_STATEMENT_TIME 0",
    **dict.fromkeys((1203, 1226), "ALTER USER ... WITH MAX_USER_CONNECTIONS 0 MAX_QUERIES_PER_HOUR 0 "
                                  "MAX_CONNECTIONS_PER_HOUR 0"),
    **dict.fromkeys((1251, 1275, 1524, 2049, 2059, 2061), "ALTER USER ... IDENTIFIED VIA mysql_native_password"),
    **dict.fromkeys((1142, 1143, 1227, 1370, 1873), "GRANT it"),
    3159: "give the watcher --ssl-ca, or ALTER USER ... REQUIRE NONE",
}
OWN_TROUBLE = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL}
CUT = "connection lost"
WORDS = {errno.ECONNREFUSED: "connection refused", errno.ECONNRESET: CUT, errno.EPIPE: CUT,
         errno.EHOSTUNREACH: "no route to it", errno.ENETUNREACH: "no route to it"}
BY_CLIENT = range(2000, 3000)  # errors of PyMySQL's own
LOST = (2006, 2013)  # a connection ended, as PyMySQL numbers it
NO_TLS = 2026
PLUGINS = "(pip install 'PyMySQL[rsa,ed25519]', or another plugin for that user)"


class Problem(NamedTuple):
    """Why a node gave no report. ``blind``: for a reason of the watcher's own; ``pause``: seconds until the next login,
    at least."""

    text: str
    blind: bool = False
    pause: float = 0.0


Tell = Callable[[str, "Report | Problem"], None]


class Node:
    """Polls the node at ``address`` every ``interval`` seconds, and tells each result (from its own thread)."""

    def __init__(self, address: str, access: Access, interval: float, timeout: float, tell: Tell,
                 ledger: Ledger | None = None) -> None:
        """``timeout``: an answer that comes later than so many seconds after the question is too old to be told.
        ``ledger``: the tables that hold the choice of the writer, where that is agreed."""
        self.address = address
        self.asked: float | None = None  # when the question was sent that has no answer yet (monotonic)
        self.answered = 0.0  # when the question was sent whose answer was told last
        self._access = access
        self._interval = interval
        self._timeout = timeout
        self._tell = tell
        self._ledger = ledger
        self._connection: Connection | None = None
        self._wake = threading.Event()
        self._stopping = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Poll from now on, if that is not done already. Raises RuntimeError when there is no thread to be had."""
        if self._thread is None or not self._thread.is_alive():
            thread = threading.Thread(target=self._run, name=f"node {self.address}", daemon=True)
            thread.start()
            self._thread = thread

    def poke(self) -> None:
        """Poll now."""
        self._wake.set()

    def stop(self) -> None:
        """Say goodbye to the node, soon; `join` waits for that."""
        self._stopping = True
        self._wake.set()

    def join(self, seconds: float) -> None:
        if self._thread is not None:
            self._thread.join(seconds)

    def waiting(self, now: float) -> float:
        """How many seconds the node has owed an answer; 0 while it owes none."""
        asked = self.asked
        return 0.0 if asked is None else now - asked

    def _run(self) -> None:
        while not self._stopping:
            began = time.monotonic()
            result, pause = self._poll()
            if result is not None and not self._stopping:
                self.answered = began
                self._tell(self.address, result)
            self._rest(began + pause, pause > self._interval)
        self._close()

    def _rest(self, until: float, is_firm: bool) -> None:
        """Wait; not ``is_firm``: or until somebody pokes."""
        while not self._stopping:
            poked = self._wake.wait(max(0.0, until - time.monotonic()))
            self._wake.clear()
            if not (poked and is_firm):
                return

    def _poll(self) -> tuple[Report | Problem | None, float]:
        """Ask once. Returns what is to be told, and the seconds until the next time."""
        self.asked = began = time.monotonic()
        kept = self._connection is not None
        try:
            if self._connection is None:
                self._connection = self._access.connect(self.address, CONNECT_TIMEOUT)
                self.asked = began = time.monotonic()
            report = read(ask(self._connection), time.monotonic() - began, began)
            if self._ledger is not None and grade(report)[0] in (Grade.GOOD, Grade.DONOR):
                report = replace(report, page=self._ledger.read(self._connection))
            if time.monotonic() - began > self._timeout:
                return None, 0.0
            return report, self._interval
        except Exception as error:
            self._close()
            if kept:  # a KILL perhaps: what the node is like, a new login tells
                return None, 0.0
            problem = explain(error, self._access.user, self._timeout)
            return problem, max(problem.pause, self._interval)
        finally:
            self.asked = None

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(Exception):
                connection.close()


def ask(connection: Connection) -> list[tuple[str, object]]:
    """What a node says of itself, as rows of a name and a value. Raises pymysql.err.Error."""
    with connection.cursor() as cursor:
        cursor.execute(QUERY)
        rows = list(cursor.fetchall())
        while cursor.nextset():
            rows += cursor.fetchall()
    return rows


def silence(timeout: float) -> str:
    """The words for a node that does not answer, however that was noticed."""
    return f"no answer for {timeout:g} s"


def explain(error: Exception, user: str, timeout: float) -> Problem:
    """What an error says of the node, in a few words."""
    import pymysql

    cause = getattr(error, "original_exception", None) or error
    if not isinstance(cause, (OSError, pymysql.err.Error)) and not _lacks_package(cause):
        return _unexpected(cause)
    if isinstance(cause, RuntimeError):  # PyMySQL's, who lacks a package for what the user's password wants
        return Problem(f"the watcher can't log in: {_quoted(cause.args[-1])} {PLUGINS}", True, BROKEN_OFF)
    if isinstance(cause, ssl.SSLError) or error.args[:1] == (NO_TLS,):
        return Problem(f"the watcher can't log in: {_quoted(cause.args[-1] if cause.args else cause)}", True,
                       BROKEN_OFF)
    if isinstance(cause, OSError):
        if cause.errno in OWN_TROUBLE:
            return Problem(f"the watcher can't ask: {cause.strerror}", True, RECONNECT)
        if isinstance(cause, TimeoutError):
            return Problem(silence(timeout))
        return Problem(WORDS.get(cause.errno or 0) or str(cause.strerror or cause))
    number = error.args[0] if error.args else 0
    text = str(error.args[1] if len(error.args) > 1 else error)
    if number == BLOCKED:
        return Problem(f"{_quoted(text)} (and raise max_connect_errors there)", True, RECONNECT)
    if number == FULL:
        return Problem(f"{FULL_WORD}{_quoted(text)}", True, RECONNECT)
    if number in DENIED:
        return Problem(f"access denied for user '{shortened(user)}': {_quoted(text)} (CREATE USER there, mend the "
                       f"password in --defaults-file or {USER}, or give --ssl-ca where it has REQUIRE SSL)",
                       True, RECONNECT)
    if number in ACCOUNT:
        pause = BROKEN_OFF if number in BY_CLIENT else RECONNECT
        return Problem(f"the watcher's account '{shortened(user)}': {_quoted(text)} ({ACCOUNT[number]})", True, pause)
    if number in LOST:
        return Problem(silence(timeout) if "timed out" in text else CUT)
    return Problem("rejects queries" if number == 1047 else _quoted(text))


def _lacks_package(error: Exception) -> bool:
    """Whether PyMySQL lacks a package to log in with."""
    return isinstance(error, RuntimeError) and "package" in str(error)


def _unexpected(error: Exception) -> Problem:
    """What an exception says that no server and no network accounts for: of the node, when PyMySQL could not read what
    that said; else of the watcher."""
    if isinstance(error, NoGalera):
        return Problem(_quoted(error))
    if _comes_from("pymysql", error.__traceback__):
        return Problem(f"it does not speak MySQL's protocol: {failure(error)}")
    return Problem(f"the watcher can't ask: {failure(error)}", True, RECONNECT)


def _comes_from(package: str, trace: TracebackType | None) -> bool:
    while trace is not None:
        if trace.tb_frame.f_globals.get("__name__", "").partition(".")[0] == package:
            return True
        trace = trace.tb_next
    return False


def _quoted(text: object) -> str:
    """What a node has said, in one line."""
    return shortened(" ".join(str(text).split()), SAID)
