"""What the commands that look and act return; ``control/reply.py`` turns it into text or JSON.

One method a command, of the same name. Only drain waits; what may be long is an iterator over a snapshot, or made in
turns.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import takewhile
from typing import Any

from gpen.control import help, reply
from gpen.control.configuration import Configuration
from gpen.control.script import Call
from gpen.daemon.drain import drain
from gpen.daemon.front import Front
from gpen.daemon.session_log import tls_fields
from gpen.daemon.sessions import Sessions
from gpen.daemon.status import status_page
from gpen.model.client import Client
from gpen.model.ending import Ending
from gpen.model.pool import SPECIAL, Choice
from gpen.model.server import Server
from gpen.model.text import counted
from gpen.wire.conversation import Conversation
from gpen.wire.pacing import gently

Row = dict[str, Any]

# pen's bits of a connection's state, as `connection N` answers them
_CONNECTING, _CONNECTED, _CLOSED_UP, _CLOSED_DOWN = 1, 2, 4, 8


class Queries:
    """The commands that change no configuration."""

    def __init__(self, configuration: Configuration, sessions: Sessions, front: Front,
                 stop: Callable[[], object]) -> None:
        """``stop`` ends gpen."""
        self._configuration = configuration
        self._pool = configuration.pool
        self._settings = configuration.settings
        self._clients = configuration.clients
        self._sessions = sessions
        self._front = front
        self._stop = stop

    def servers(self, call: Call) -> Iterator[Row]:
        live, agreed = self._live_by_server(), self._live_tls()
        now = time.monotonic()
        return (self._server_row(server, live.get(id(server), ()), now) | {"tls": agreed.get(id(server), {})}
                for server in self._pool.all_servers())

    def sessions(self, call: Call) -> Iterator[Row]:
        now = time.monotonic()
        return (_session_row(session, now) for session in self._sessions)

    def recent(self, call: Call) -> Iterator[Row]:
        now = time.monotonic()
        live: dict[int, list[Conversation]] = {}
        for session in self._live():
            if session.client is not None:
                live.setdefault(session.client.number, []).append(session)
        seen = takewhile(lambda client: now - client.last <= call["seconds"], list(self._clients))
        return (_client_row(client, live.get(client.number, ()), self._clients.sessions_of(client.address), now)
                for client in seen)

    def events(self, call: Call) -> list[Row]:
        return [event._asdict() for event in list(self._pool.events)[-call["count"]:]]

    def state(self, call: Call) -> Iterator[str]:
        return (f"{line}\n" for line in gently(self._configuration.state()))

    def explain(self, call: Call) -> Row:
        settings, pool, address = self._settings, self._pool, call["address"]
        now = time.monotonic()
        client = self._clients.glimpse(address, now, settings.tracking)
        turned_away = self._turned_away(client)
        if turned_away is not None:
            server, why = turned_away
        else:
            dice = pool.turns.random.getstate()
            choice = pool.choose(client, now)
            pool.turns.random.setstate(dice)
            server, why = choice[0], self._why(choice, client, now)
        others = [other for other in pool.all_servers() if other is not server]
        return {
            "client": address,
            "server": server.label if server else None,
            "server_address": server.shown if server else None,
            "why": why,
            "sessions": self._clients.sessions_of(address),
            "others": [{"server": other.label, "address": other.shown,
                        "why_not": why if turned_away and other.name not in SPECIAL else
                        self._why_not(other, server, client, now)} for other in gently(others)],
        }

    def _turned_away(self, client: Client) -> tuple[Server | None, str] | None:
        """Where a client goes that no server of number would get, whatever these can take, and why; None for others."""
        settings, pool = self._settings, self._pool
        denied, abuse = not pool.permits(settings.client_acl, client), pool.special.get("abuse")
        sessions, most = self._clients.sessions_of(client.address), settings.client_max
        if 0 < most <= sessions and (abuse is not None or not denied):
            return None, f"it has {counted(sessions, 'session')} already, and client_max is {most}"
        return (abuse, f"access list {settings.client_acl} (client_acl) denies it") if denied else None

    def mode(self, call: Call) -> dict[str, bool]:
        return {name: self._settings.get(name) for name in reply.PEN_MODES + reply.MORE_MODES}

    def connection(self, call: Call) -> Row:
        number = call["number"]
        session = self._sessions.get(number)
        row: Row = {"connection": number}
        if session is None:
            if number < self._settings.conn_max:
                row |= {"state": 0, "downfd": -1, "upfd": -1, "client": 0, "server": 0, "pend": 0}
            return row
        server, (down, up) = session.server, session.descriptors
        return row | {
            "state": _pen_state(session), "downfd": down, "upfd": up,
            "client": session.client.number if session.client else -1,
            "server": server.number if server and server.number is not None else -1, "pend": session.waiting,
        }

    def socket(self, call: Call) -> str:
        fd = call["number"]
        owner = next((session.id for session in self._sessions if fd in session.descriptors), -1)
        return f"Socket {fd} belongs to connection {owner}\n"

    def close(self, call: Call) -> str:
        if "server" in call.arguments:
            number = call["server"]
            call.refuse_elsewhere(self._configuration.address_of(number))
            closing = self._sessions.close_number(number)
            if not closing and number not in self._pool.servers:
                raise call.error(f"there is no server {number}, nor a session of a deleted one")
            return f"Closing {closing} connections of server {number}\n"
        number = call["number"]
        session = self._sessions.get(number)
        if session is not None:
            session.stop(Ending.KILLED)
        elif number >= self._settings.conn_max:
            return f"Connection {number} out of range\n"
        return f"Forcibly closing connection {number}\n"

    def drain(self, call: Call) -> Iterator[str]:
        return drain(self._pool, self._sessions, call)

    def status(self, call: Call) -> str:
        return status_page(self)

    def pid(self, call: Call) -> int:
        return os.getpid()

    def help(self, call: Call) -> Row | list[Row]:
        if call["name"] is None:
            return help.rows()
        try:
            return help.row(call["name"])
        except ValueError as error:
            raise call.error(str(error)) from None

    def stay(self, call: Call) -> None:
        """The control socket has seen to it."""

    def exit(self, call: Call) -> str | None:
        if not self._settings.exit_enabled:
            return "Exit is not enabled; restart with -X flag\n"
        self._stop()
        return None

    # --- what the status page asks as well ------------------------------------------------------------------------

    def summary(self) -> Row:
        """The figures at the head of the status page."""
        front, sessions = self._front, self._sessions
        return {"listen": front.address, "sessions": len(sessions), "held": len(front.hold),
                "looped": front.loops.dropped, "conn_max": self._settings.conn_max, "clients": len(self._clients),
                "clients_max": self._settings.clients_max, "total": sessions.total, "started": sessions.started,
                "rule": self._pool.rule.name, "protocol": self._protocol(), "endings": dict(sessions.endings)}

    def _protocol(self) -> str:
        settings = self._settings
        names = [name for name, is_on in (("HTTP", settings.http), ("TLS", settings.ssl_certificate)) if is_on]
        return " over ".join(names or ["UDP" if settings.udp else "TCP"])

    def _server_row(self, server: Server, sessions: Sequence[Conversation], now: float) -> Row:
        live = [session for session in sessions if not session.finished and session.server is server]
        return {
            "number": server.number, "name": server.name, "address": server.shown_host, "host": _host(server),
            "port": server.shown_port, "state": server.state, "health": server.health(now),
            "reason": server.why(now), "since": round(server.since, 3),
            "for": round(now - server.changed, 1), "blacklisted": round(max(server.down_until - now, 0), 1),
            "sessions": server.sessions, "max": server.max, "hard": server.hard, "weight": server.weight,
            "prio": server.prio, "acl": server.acl, "sx": server.sx + sum(session.to_server for session in live),
            "rx": server.rx + sum(session.from_server for session in live),
            "total": server.total, "failures": server.failures,
            **_verdict_fields(server, now), "check": str(server.check or self._settings.check),
            "held": len(self._front.hold), "looped": self._front.loops.dropped,
        }

    def _live(self) -> Iterator[Conversation]:
        """The sessions that are not over. One whose last words are on their way has its bytes added up already."""
        return (session for session in self._sessions if not session.finished)

    def _live_by_server(self) -> dict[int, list[Conversation]]:
        """The sessions that run, by server: by its identity, for a number may have been given to another one since.
        What they have moved is asked when a row is made: in a long list some end meanwhile, and are added up."""
        live: dict[int, list[Conversation]] = {}
        for session in self._live():
            if session.server is not None and session.connected:
                live.setdefault(id(session.server), []).append(session)
        return live

    def _live_tls(self) -> dict[int, Counter[str]]:
        """How many of a server's clients have which TLS version and cipher and asked for which name."""
        agreed: dict[int, Counter[str]] = {}
        for session in self._live() if self._settings.ssl_certificate else ():
            if session.server is not None and session.secured is not None:
                agreed.setdefault(id(session.server), Counter())[str(session.secured)] += 1
        return agreed

    def _why(self, choice: Choice, client: Client, now: float) -> str:
        server, rule, _ = choice
        if server is None:
            why = "stubborn, and its server can't take it" if self._settings.stubborn else "none can take it"
            return why + self._patience()
        if server.name in SPECIAL:
            return "no other server can take it"
        if rule is None:
            return "the client used it last"
        if now < server.down_until:
            return f"{rule.name}; no other can take it, and this one failed a while ago: it is tried again"
        return rule.name

    def _patience(self) -> str:
        """What becomes of a client that no server can take."""
        settings, held = self._settings, len(self._front.hold)
        if not settings.hold:
            return ""
        if not self._front.hold.has_room():
            return f"; it would be closed: hold_max is reached, {held} waiting"
        return f"; it would wait up to {settings.hold:g} s" + (f", {held} before it" if held else "")

    def _why_not(self, other: Server, chosen: Server | None, client: Client, now: float) -> str:
        if other.name in SPECIAL:
            if other.is_full:
                return f"full: {other.sessions} sessions, max {other.max}"
            if other.is_empty or other.condemned:
                return other.condemned or "its slot is empty"
            return "only for clients that client_acl denies" if other.name == "abuse" else "another server can take it"
        refusal = self._pool.refusal(other, client, now)
        if refusal is not None:
            return refusal
        rule = self._pool.rule
        if other.weight == 0 and rule.weighs:
            return f"its weight is 0, and the rule is {rule.name}"
        if chosen is not None and chosen is client.server and not self._settings.roundrobin:
            return "available, but the client is remembered at another"
        return f"available, but not chosen by {rule.name}"


def _host(server: Server) -> str:
    return server.address.path or server.address.host


def _verdict_fields(server: Server, now: float) -> Row:
    if server.verdict is None:
        return dict.fromkeys(("verdict", "verdict_by", "verdict_reason", "verdict_since", "verdict_for"))
    source, verdict = server.verdict
    return {"verdict": verdict.word, "verdict_by": source, "verdict_reason": verdict.reason,
            "verdict_since": round(verdict.since, 3), "verdict_for": round(now - verdict.began, 1)}


def _client_row(client: Client, sessions: Sequence[Conversation], present: int, now: float) -> Row:
    live = [session for session in sessions if not session.finished]
    server = client.server if client.server is not None and not client.server.deleted else None
    return {"address": client.address, "connects": client.connects,
            "sx": client.sx + sum(session.to_client for session in live),
            "rx": client.rx + sum(session.from_client for session in live),
            "server": server.label if server else None, "idle": round(now - client.last, 1), "sessions": present}


def _session_row(session: Conversation, now: float) -> Row:
    server = session.server
    return {"id": session.id, "client": session.peername, "server": server.label if server else None,
            "server_address": session.server_address, "state": session.state,
            "age": round(session.age(now), 3), "idle": round(session.idle(now), 3), "up": session.to_server,
            "down": session.to_client, **tls_fields(session)}


def _pen_state(session: Conversation) -> int:
    if not session.connected:
        return _CONNECTING
    up, down = session.ended_sides
    return _CONNECTED | (_CLOSED_UP if up else 0) | (_CLOSED_DOWN if down else 0)
