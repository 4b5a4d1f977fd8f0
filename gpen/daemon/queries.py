"""What the commands that look and act return; ``control/reply.py`` turns it into text or JSON.

One method a command, of the same name. Only drain waits; what may be long is an iterator over a snapshot, or made in
turns.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from gpen import __version__
from gpen.control import help, reply
from gpen.control.configuration import Configuration
from gpen.control.draft import no_listener
from gpen.control.script import Call
from gpen.core import CORE
from gpen.daemon.checks import Checks
from gpen.daemon.drain import drain
from gpen.daemon.elders import Elders
from gpen.daemon.front import Front
from gpen.daemon.listeners import Listeners
from gpen.daemon.readiness import Readiness
from gpen.daemon.rebalance import Rebalancing
from gpen.daemon.session_log import introduction_fields, tls_fields
from gpen.daemon.sessions import Sessions
from gpen.daemon.status import status_page
from gpen.daemon.workers import Workers
from gpen.model.client import Client
from gpen.model.ending import ERRORS, Ending
from gpen.model.listener import Scope, transport_of
from gpen.model.rates import show_bytes
from gpen.model.route import REJECT, Asked, table_of
from gpen.model.routes import RouteSelector
from gpen.model.selector import Selector
from gpen.model.server import Member, Server, Target
from gpen.model.settings import Settings
from gpen.model.slowstart import fraction
from gpen.model.text import counted, shortened
from gpen.wire.conversation import Conversation
from gpen.wire.listener import Listener
from gpen.wire.loops import Loops
from gpen.wire.pacing import gently
from gpen.wire.server_tls import tls_name
from gpen.wire.transparent import objection

if TYPE_CHECKING:
    from gpen.model.selector import Choice

Row = dict[str, Any]
Live = dict[int, list[Conversation]]  # the sessions that run, by the identity of their servers

# pen's bits of a connection's state, as `connection N` answers them
_CONNECTING, _CONNECTED, _CLOSED_UP, _CLOSED_DOWN = 1, 2, 4, 8


class Queries:
    """The commands that change no configuration."""

    def __init__(self, configuration: Configuration, sessions: Sessions, listeners: Listeners, loops: Loops,
                 workers: Workers, elders: Elders, checks: Checks, readiness: Readiness,
                 stop: Callable[[], object]) -> None:
        """``stop`` ends gpen."""
        self._checks = checks
        self._elders = elders
        self._configuration = configuration
        self._pool = configuration.pool
        self._settings = configuration.settings
        self._sessions = sessions
        self._listeners = listeners
        self._loops = loops
        self._workers = workers
        self._readiness = readiness
        self._stop = stop
        self._rebalancing = Rebalancing(listeners, sessions)
        self.alerts: Callable[[], dict[str, int]] = dict  # how many of on_event have become what

    def _scope(self, call: Call) -> Scope:
        """The listener that a call is about; the one without a name where none is named."""
        return self._configuration.scopes[call.listener]

    def listeners(self, call: Call) -> list[Row]:
        fronts = [front for front in self._listeners if front.listener is not None]
        live: dict[str, list[Conversation]] = {}
        for session in self._live():
            if session.lease is not None:
                live.setdefault(session.front.name, []).append(session)
        return [_listener_row(front, live.get(front.name, ())) for front in gently(fronts)]

    def servers(self, call: Call) -> Iterator[Row]:
        live, agreed = self._live_by_server(), self._live_tls()
        now = time.monotonic()
        rows = self._rows_of_all(live, now) if not call.listener else self._rows_of(self._scope(call), live, now)
        return (row | {"tls": agreed.get(id(server), {})} for server, row in rows)

    def _rows_of_all(self, live: Live, now: float) -> Iterator[tuple[Server, Row]]:
        """All servers, as the listener without a name has them, with the sessions that they have of all."""
        held = sum(len(front.hold) for front in self._listeners)
        for server in self._pool.all_servers():
            if "/" not in server.name:
                yield server, self._server_row(server, server.target, live.get(id(server), ()), now, held)

    def _rows_of(self, scope: Scope, live: Live, now: float) -> Iterator[tuple[Server, Row]]:
        """The servers of one listener, as that has them, with its own sessions."""
        held = len(self._listeners[scope.name].hold)
        for member in scope.all_members():
            server = member.server
            row = self._server_row(server, member.target, live.get(id(server), ()), now, held)
            old = self._elders.count(server, scope.name)
            yield server, row | {"sessions": scope.selector.load_of(member) - old, "old": old,
                                 "max": member.max or server.max, "weight": member.configured,
                                 "weight_now": member.weight, "prio": member.prio,
                                 "slow_start": _slow_start(member.target, scope.settings, now),
                                 "server_tls": server.tls or scope.settings.server_tls,
                                 "tls_name": tls_name(server, scope.settings)}

    def sessions(self, call: Call) -> Iterator[Row]:
        now = time.monotonic()
        return (_session_row(session, now) for session in self._sessions
                if not call.listener or session.listener == call.listener)

    def recent(self, call: Call) -> Iterator[Row]:
        now, clients = time.monotonic(), self._scope(call).clients
        live: dict[int, list[Conversation]] = {}
        for session in self._live():
            if session.client is not None and session.clients.is_memory_of(clients):
                live.setdefault(session.client.number, []).append(session)
        seen = [client for client in clients if now - client.last <= call["seconds"]]  # peers' ones are anywhere
        return (_client_row(client, live.get(client.number, ()), clients.sessions_of(client.address), now)
                for client in seen)

    def events(self, call: Call) -> list[Row]:
        rows = [event._asdict() for event in self._pool.events]
        if call.listener:
            its = {member.server.label for member in self._scope(call).all_members()}
            rows = [row for row in rows if row["listener"] in (None, call.listener)
                    and (row["server"] is None or row["server"] in its)]
        return rows[-call["count"]:]

    def state(self, call: Call) -> Iterator[str]:
        return (f"{line}\n" for line in gently(self._configuration.state()))

    def ready(self, call: Call) -> Row:
        name = call["listener"]
        if name is not None and self._listeners.get(name) is None:
            raise no_listener(self._configuration, name)
        return self._readiness.told(name)

    def explain(self, call: Call) -> Row:
        scope, address = self._scope(call), call["address"]
        settings, clients = scope.settings, scope.clients
        selector, now = self._way(scope, call["asked"]), time.monotonic()
        client = clients.glimpse(address, now, settings.tracking)
        if isinstance(selector, RouteSelector):
            client = selector.recalled(client)
        turned_away = self._turned_away(client, scope, selector, call["asked"].sni)
        if turned_away is not None:
            member, why = turned_away
        else:
            dice = selector.turns.random.getstate()
            choice = selector.choose(client, now)
            selector.turns.random.setstate(dice)
            member, why = choice[0], self._why(choice, client, now, scope)
            why += self._delay(scope)
            if member is not None:
                why += self._pace(settings) + (_seen_as(address, member.target) if settings.transparent else "")
        others = [other for other in self._candidates(scope, selector)
                  if member is None or other.server is not member.server]
        return {
            "client": address,
            "route": selector.route or None,
            "server": member.server.label if member else None,
            "server_address": member.target.shown if member else None,
            "why": why,
            "sessions": clients.sessions_of(address),
            "others": [{"server": other.server.label, "address": other.target.shown,
                        "why_not": why if turned_away and not other.server.is_special else
                        self._why_not(other, member, client, now, scope, selector)} for other in gently(others)],
        }

    def _way(self, scope: Scope, asked: Asked) -> Selector:
        """What chooses for a client of this listener that asks for this."""
        routes = table_of(scope.settings)
        return scope.selector if routes is None else scope.routes.get(routes.find(asked))

    def _candidates(self, scope: Scope, selector: Selector) -> Iterator[Member]:
        """The servers that a client of this listener might get, were they well, there, and not kept from it by its
        route."""
        if scope.name:
            ways = {member.server.label: member for member in (*scope.selector.all_members(), *selector.all_members())}
            yield from ways.values()
            return
        for server in self._pool.servers.values():
            yield selector.roster.get(server) or Member(server, server.target)
        yield from (member for member in selector.all_members() if member.server.is_special)

    def _turned_away(self, client: Client, scope: Scope, selector: Selector, sni: str,
                     ) -> tuple[Member | None, str] | None:
        """Where a client goes that no server of number would get, whatever these can take, and why; None for others.
        ``sni`` is the name that it asks for in TLS, if that is known."""
        settings, tls = scope.settings, self._listeners[scope.name].tls
        denied, abuse = not self._pool.permits(settings.client_acl, client), selector.abuse
        sessions, most = scope.clients.sessions_of(client.address), settings.client_max
        if 0 < most <= sessions and (abuse is not None or not denied):
            return None, f"it has {counted(sessions, 'session')} already, and client_max is {most}"
        guard = self._listeners[scope.name].limits.guard
        if guard is not None and (abuse is not None or not denied) and (wait := guard.wait(client.address)):
            return None, (f"it has begun {counted(guard.within(client.address), 'session')} in {guard.rate.seconds:g} "
                          f"s, and client_rate is {guard.rate}: the next one may come in {wait:.1f} s")
        if denied:
            return abuse, f"access list {settings.client_acl} (client_acl) denies it"
        if sni and tls is not None and tls.refuses(sni):
            return None, f"no certificate has the name {shortened(sni)}, and ssl_strict_sni is on"
        return (None, "the route rejects it") if isinstance(selector, RouteSelector) and selector.to == REJECT else None

    def mode(self, call: Call) -> dict[str, bool]:
        settings = self._scope(call).settings
        return {name: settings.get(name) for name in reply.PEN_MODES + reply.MORE_MODES}

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
            closing = self._close_number(number, call)
            if not closing and number not in self._pool.servers:
                raise call.error(f"there is no server {number}, nor a session of a deleted one")
            when = " when they are quiet" if call["quiet"] else ""
            return f"Closing {closing} connections of server {number}{when}\n"
        if "clients" in call.arguments:
            clients = call["clients"]
            closing = self._sessions.close_clients(clients, call.listener)
            return f"Closing {closing} connections of address {clients.text}\n"
        number = call["number"]
        session = self._sessions.get(number)
        if session is not None:
            session.stop(Ending.KILLED)
        elif number >= self._settings.conn_max:
            return f"Connection {number} out of range\n"
        return f"Forcibly closing connection {number}\n"

    def _close_number(self, number: int, call: Call) -> int:
        if not call["quiet"]:
            return self._sessions.close_number(number, call.listener)
        theirs = self._sessions.of_number(number, call.listener)
        for session in theirs:
            session.leave_quietly(Ending.DRAINED)
        return len(theirs)

    def drain(self, call: Call) -> Iterator[str]:
        return drain(self._pool, self._sessions, call)

    def rebalance(self, call: Call) -> Iterator[str]:
        return self._rebalancing.begin(call)

    def info(self, call: Call) -> Row:
        """gpen as a whole; the status page shows it as well."""
        sessions, unnamed, settings = self._sessions, self._listeners.unnamed, self._settings
        listening = [front for front in self._listeners if front.listener is not None]
        most = unnamed.settings.conn_max if len(listening) == 1 else settings.conn_max_total or sum(
            front.settings.conn_max for front in listening)
        return {
            "version": __version__, "flavour": CORE.flavour, "pid": os.getpid(),
            "listen": ", ".join(front.address for front in listening),
            "started": round(sessions.started, 3), "uptime": round(time.time() - sessions.started, 1),
            "sessions": len(sessions), "conn_max": most, "total": sessions.total,
            "held": sum(len(front.hold) for front in listening), "looped": self._loops.dropped,
            "clients": len(unnamed.clients), "clients_max": settings.clients_max,
            "endings": self._listeners.endings(), "errors": sorted(ERRORS), "alerts": self.alerts(),
            "workers": self._workers.rows(),
            "control": settings.metrics_control == "on",
        }

    def status(self, call: Call) -> str:
        return status_page(self)

    def pid(self, call: Call) -> int:
        return os.getpid()

    def handover(self, call: Call) -> None:
        """Where it can be had, the control socket has seen to it."""
        raise call.error("descriptors pass over a control socket that is a file only (control, -C /PATH)")

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

    # --- rows -----------------------------------------------------------------------------------------------------

    def _server_row(self, server: Server, target: Target, sessions: Sequence[Conversation], now: float,
                    held: int) -> Row:
        live = [session for session in sessions if not session.finished and session.server is server]
        old = self._elders.count(server)
        return {
            "number": server.number, "name": server.name, "address": target.shown_host, "host": _host(server),
            "port": target.shown_port, "state": server.state, "health": target.health(now),
            "reason": target.why(now), "since": round(target.since, 3),
            "for": round(now - target.changed, 1), "blacklisted": round(max(target.down_until - now, 0), 1),
            "sessions": server.sessions - old, "old": old, "max": server.max, "hard": server.hard,
            "weight": server.weight, "weight_now": server.agent.of(server.weight),
            "slow_start": _slow_start(target, self._settings, now),
            "prio": server.prio, "acl": server.acl, "owner": server.owner,
            "server_tls": server.tls or self._settings.server_tls, "tls_name": tls_name(server, self._settings),
            "sx": server.sx + sum(session.to_server for session in live),
            "rx": server.rx + sum(session.from_server for session in live),
            "total": server.total, "failures": server.failures,
            **_verdict_fields(server, now), "check": str(server.check or self._settings.check),
            "check_port": server.check_port or self._settings.check_port, "agent": self._checks.agents.figures(server),
            "causes": dict(server.causes), "checks": self._checks.figures(server),
            "held": held, "looped": self._loops.dropped,
        }

    def _live(self) -> Iterator[Conversation]:
        """The sessions that are not over. One whose last words are on their way has its bytes added up already."""
        return (session for session in self._sessions if not session.finished)

    def _live_by_server(self) -> Live:
        """The sessions that run, by server: by its identity, for a number may have been given to another one since.
        What they have moved is asked when a row is made: in a long list some end meanwhile, and are added up."""
        live: Live = {}
        for session in self._live():
            if session.server is not None and session.connected:
                live.setdefault(id(session.server), []).append(session)
        return live

    def _live_tls(self) -> dict[int, Counter[str]]:
        """How many of a server's clients have which TLS version and cipher and asked for which name."""
        agreed: dict[int, Counter[str]] = {}
        for session in self._live():
            if session.server is not None and session.secured is not None:
                agreed.setdefault(id(session.server), Counter())[str(session.secured)] += 1
        return agreed

    def _why(self, choice: Choice, client: Client, now: float, scope: Scope) -> str:
        member, rule, _ = choice
        if member is None:
            why = "stubborn, and its server can't take it" if scope.settings.stubborn else "none can take it"
            return why + self._patience(scope)
        if member.server.is_special:
            return "no other server can take it"
        if rule is None:
            return "the client used it last"
        if now < member.target.down_until:
            return f"{rule.name}; no other can take it, and this one failed a while ago: it is tried again"
        left = _left_by_agent(member) if rule.weighs else ""
        return rule.name + left + _newcomer(member.target, scope.settings, now, "; ")

    def _delay(self, scope: Scope) -> str:
        """What becomes of a client that comes when its listener has had as many as it may."""
        throttle = self._listeners[scope.name].limits.throttle
        wait = throttle.wait() if throttle is not None else 0.0
        if throttle is None or not wait:
            return ""
        what = "its datagram would be dropped for" if scope.settings.udp else "it would wait"
        return (f"; {what} {wait:.1f} s yet: {counted(throttle.within, 'client')} came in {throttle.rate.seconds:g} s, "
                f"and connection_rate is {throttle.rate}")

    def _pace(self, settings: Settings) -> str:
        """How fast the bytes of a client may move, where that is limited."""
        limits = [f"{name} is {show_bytes(settings.get(name))}" for name in ("bandwidth", "bandwidth_total")
                  if settings.get(name) and not settings.udp]
        return "".join(f"; {limit}" for limit in limits)

    def _patience(self, scope: Scope) -> str:
        """What becomes of a client that no server can take."""
        settings, hold = scope.settings, self._listeners[scope.name].hold
        held = len(hold)
        if not settings.hold:
            return ""
        if not hold.has_room():
            return f"; it would be closed: hold_max is reached, {held} waiting"
        return f"; it would wait up to {settings.hold:g} s" + (f", {held} before it" if held else "")

    def _why_not(self, other: Member, chosen: Member | None, client: Client, now: float, scope: Scope,
                 selector: Selector) -> str:
        server = other.server
        if server.is_special:
            if server.is_full:
                return f"full: {server.sessions} sessions, max {server.max}"
            if server.is_empty or server.condemned:
                return server.condemned or "its slot is empty"
            is_abuse = other is selector.abuse
            return "only for clients that client_acl denies" if is_abuse else "another server can take it"
        if selector.route and selector.roster.get(server) is None:
            return "it is none of this route"
        refusal = selector.refusal(other, client, now)
        if refusal is not None:
            return refusal
        rule = selector.rule
        if other.weight == 0 and rule.weighs:
            return f"its weight is 0{_left_by_agent(other)}, and the rule is {rule.name}"
        if chosen is not None and chosen.server is client.server and scope.settings.returns:
            return "available, but the client is remembered at another"
        why_not = _newcomer(other.target, scope.settings, now) or f"not chosen by {rule.name}"
        return f"available, but {why_not}{_left_by_agent(other) if rule.weighs else ''}"


def _left_by_agent(member: Member) -> str:
    """What is to be told of a weight of which a server's agent has left a share."""
    agent = member.server.agent
    if agent.share in (None, 100):
        return ""
    return f" (its agent says {agent.share}%: weight {member.weight:g} of {member.configured})"


def _listener_row(front: Front, sessions: Sequence[Conversation]) -> Row:
    """One listener, which has these sessions, as ``listeners`` tells it."""
    settings, scope, selector = front.settings, front.scope, front.selector
    live = [session for session in sessions if not session.finished]
    return {"name": front.name or None, "address": front.address,
            "transport": "unix" if "/" in front.address else transport_of(settings), "protocol": _protocol(settings),
            "sessions": front.count, "conn_max": settings.conn_max, "held": len(front.hold), "total": front.total,
            "waiting": front.listener.waiting if isinstance(front.listener, Listener) else None,
            "delayed": front.limits.held_back.delayed, "dropped": front.limits.held_back.dropped,
            "bandwidth": settings.bandwidth, "bandwidth_total": settings.bandwidth_total,
            "shortages": front.limits.shortages,
            "clients": len(front.clients), "sx": selector.sent + sum(session.to_server for session in live),
            "rx": selector.received + sum(session.from_server for session in live),
            "endings": {word: count for word, count in front.endings.items() if count},
            "handshakes": front.handshakes.of_clients, "server_handshakes": front.handshakes.of_servers,
            "server_resumed": front.handshakes.resumed, "dsr": front.direct_row(),
            "transparent": settings.transparent, "rule": selector.rule.name,
            "servers": scope.config.servers and list(scope.config.servers), "tracking_with": settings.tracking_with,
            "routes": [_route_row(route, scope.config.servers) for route in scope.routes]}


def _route_row(route: RouteSelector, own: tuple[int, ...] | None) -> Row:
    """A route as ``listeners`` tells it; ``own`` are the servers of the listener."""
    to = own if route.to is None else route.to
    return {"route": route.route, "reject": to == REJECT, "servers": list(to) if isinstance(to, tuple) else None,
            "total": route.total}


def _protocol(settings: Settings) -> str:
    """What clients speak, and with whom, where servers answer them by themselves or seem to."""
    names = [name for name, is_on in (("UDP", settings.udp), ("HTTP", settings.http), ("MySQL", settings.mysql),
                                      ("TLS", settings.ssl_certificate)) if is_on]
    more = " (dsr)" if settings.dsr_if else " (transparent)" if settings.transparent else ""
    return " over ".join(names or ["TCP"]) + more


def _slow_start(target: Target, settings: Settings, now: float) -> int | None:
    """How many percent of its share a server has that came back; None for one that has all of it."""
    part = 1.0 if settings.rule.is_personal or not target.takes_clients else fraction(target, settings.slowstart, now)
    return None if part == 1 else int(100 * part)


def _newcomer(target: Target, settings: Settings, now: float, prefix: str = "") -> str:
    """That a server has come back of late, and has but a part of its share; empty where it has all of it."""
    share = _slow_start(target, settings, now)
    return "" if share is None else (f"{prefix}it came back {now - target.returned:.0f} s ago, and has {share} % of "
                                     f"its share (slowstart {settings.slowstart:g})")


def _seen_as(address: str, target: Target) -> str:
    """Whom a server sees that a client of this address gets, where gpen is transparent."""
    why = objection(address, target.endpoints[0]) if target.endpoints else ""
    return "; " + (f"it sees gpen's own address, for the client's is {why}" if why else f"it sees {address}"
                   ) + " (transparent)"


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
            "server_address": session.server_address, "state": session.state, "age": round(session.age(now), 3),
            "idle": round(session.idle(now), 3), "up": session.to_server, "down": session.to_client,
            **tls_fields(session), "listener": session.listener, "route": session.route,
            **introduction_fields(session)}


def _pen_state(session: Conversation) -> int:
    if not session.connected:
        return _CONNECTING
    up, down = session.ended_sides
    return _CONNECTED | (_CLOSED_UP if up else 0) | (_CLOSED_DOWN if down else 0)
