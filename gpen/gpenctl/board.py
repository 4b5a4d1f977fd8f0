"""What `gpenctl TARGET top` knows: the servers with their rates, and the last minutes of these; what is sorted and
selected; what happened. Pure: it is told what the daemon said, and when."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from gpen.gpenctl.feed import Look
from gpen.gpenctl.rates import RATES, History, Rates, identity
from gpen.gpenctl.sheet import Field, Sheet, natural
from gpen.gpenctl.tables import Record, how_long, is_number, name, place, plain, rate, size, size_rate, span, why
from gpen.model.text import counted

STRETCH, KEPT = 3.0, 60  # seconds of a bar of the graphs, and how many there are: three minutes
GRAPHS = {"byte_rate": "bytes/s", "session_rate": "new/s", "sessions": "sessions"}  # by the figure that is drawn
BAR = 8  # characters of a bar, at least, without the blank in front of it
GRAPH = 8  # of a graph, at least
HELP = (  # keys, and what they do
    ("q", "quit"),
    ("s", "sort by the next column; left and right, and 1 to 9, choose one too"),
    ("r", "reverse the order"),
    ("up, down", "select a server, or a session"),
    ("d", "drain the server: no new sessions"),
    ("m", "maint: no new sessions, and those that it has are closed"),
    ("y", "ready: back to work"),
    ("c", "the server's sessions, and back; there x closes the selected one"),
    ("g", f"draw {', '.join(GRAPHS.values())}: {STRETCH * KEPT / 60:g} minutes, the same scale for all"),
    ("space", "pause, and go on"),
    ("+ -", "look less often, or more"),
    ("Ctrl-L", "draw everything anew"),
    ("?", "this help, and back"),
)
HINTS = (("q", "quit"), ("?", "help"), ("s", "sort"), ("r", "reverse"), ("d", "drain"), ("m", "maint"), ("y", "ready"),
         ("c", "sessions"), ("g", "graph"), ("space", "pause"), ("+-", "interval"))
SESSION_HINTS = (("c", "back"), ("x", "close it"), ("s", "sort"), ("r", "reverse"), ("q", "quit"), ("?", "help"))
HEALTH_ORDER = ("down", "trial", "drain", "up", "empty")  # what needs a look first


def sessions_of(server: Record) -> str:
    """How many sessions it has, of how many."""
    most = server.get("max")
    return f"{plain(server.get('sessions'))}/{plain(most)}" if most else plain(server.get("sessions"))


def share(record: Record, most: str = "max") -> float | None:
    """What part of its limit a server, or gpen, has reached; None where there is none."""
    sessions, limit = record.get("sessions"), record.get(most)
    if is_number(sessions) and is_number(limit) and limit > 0:
        return min(1.0, max(0.0, float(sessions / limit)))
    return None


def trouble(server: Record) -> str:
    """Why it is not up; empty where it is."""
    return why(server) if server.get("health") != "up" else ""


def _health_rank(server: Record) -> Any:
    health = plain(server.get("health"))
    return HEALTH_ORDER.index(health) if health in HEALTH_ORDER else health


def number_of(server: Record) -> str:
    """The number of a server, or what it is called where it has none."""
    number = server.get("number")
    return plain(number) if number is not None else plain(server.get("name"))


def _time(key: str) -> Callable[[Record], str]:
    return lambda record: span(record.get(key))


def _size(key: str) -> Callable[[Record], str]:
    return lambda record: size(record.get(key))


def _plain(key: str) -> Callable[[Record], str]:
    return lambda record: plain(record.get(key))


SERVERS = (
    Field("number", "#", number_of, is_right=True),
    Field("name", "name", name, 9, is_long=True),
    Field("address", "address", place, sort=lambda server: natural(place(server))),
    Field("state", "state", _plain("state")),
    Field("health", "health", _plain("health"), sort=_health_rank),
    Field("for", "for", how_long, 5, is_figure=True, sort=lambda server: server.get("for")),
    Field("sessions", "sessions", sessions_of, is_figure=True, sort=lambda server: server.get("sessions"), stretch=12),
    Field("session_rate", "new/s", lambda server: rate(server.get("session_rate")), 2, is_figure=True),
    Field("byte_rate", "bytes/s", lambda server: size_rate(server.get("byte_rate")), 3, is_figure=True),
    Field("failures", "failed", _plain("failures"), 6, is_figure=True),
    Field("total", "total", _plain("total"), 8, is_figure=True),
    Field("graph", "", lambda server: "", 4, stretch=KEPT - GRAPH),
    Field("reason", "reason", trouble, 1, is_long=True, sort=trouble),
)
SESSIONS = (
    Field("id", "id", _plain("id"), is_right=True),
    Field("client", "client", _plain("client"), sort=lambda session: natural(plain(session.get("client")))),
    Field("state", "state", _plain("state"), 1),
    Field("age", "age", _time("age"), 2, is_figure=True),
    Field("idle", "idle", _time("idle"), 3, is_figure=True),
    Field("up", "to server", _size("up"), 4, is_figure=True),
    Field("down", "to client", _size("down"), 5, is_figure=True),
    Field("server_address", "address", _plain("server_address"), 7),
    Field("listener", "listener", _plain("listener"), 6, is_long=True),
    Field("route", "route", _plain("route"), 6, is_long=True),
    Field("tls", "tls", _plain("tls"), 8),
    Field("cipher", "cipher", _plain("cipher"), 9),
    Field("sni", "sni", _plain("sni"), 10, is_long=True),
)


@dataclass
class Shown:
    """What is shown beside what the board knows."""

    target: str
    interval: float  # seconds
    page: str = "servers"  # servers, sessions or help
    is_paused: bool = False
    question: str = ""
    message: str = ""
    is_error: bool = False  # the message tells of one
    columns: list[str] = field(default_factory=list)  # those of the table that is shown, by their keys


class Board:
    """What is known now, and what of it is looked at."""

    def __init__(self) -> None:
        self.servers = Sheet(SERVERS, identity)
        self.sessions = Sheet(SESSIONS, lambda session: plain(session.get("id")))
        self.listeners: list[Record] = []
        self.events: list[Record] = []  # the newest first
        self.info: Record = {}
        self.problem, self.problem_since = "", 0.0
        self.is_known = False  # whether the daemon has told anything yet
        self.graph = next(iter(GRAPHS))
        self.total: Record = {}  # of all servers: sessions and rates
        self._sessions: list[Record] = []  # of all servers
        self._rates, self._listener_rates = Rates(), Rates()
        self._histories: dict[tuple[str, str], History] = {}  # by server and figure

    def take(self, look: Look) -> None:
        """What the daemon has told. Where it was nothing, what is known stays."""
        if look.problem:
            if not self.problem:
                self.problem_since = look.when
            self.problem = look.problem
            return
        self.problem, self.is_known = "", True
        servers, self.listeners = look.of("servers"), look.of("listeners")
        self.info = next(iter(look.of("info")), {})
        self.events = look.of("events")[::-1]
        self._rates.add(servers, look.when)
        self._listener_rates.add(self.listeners, look.when)
        self._remember(servers, look.when)
        self.servers.take(servers)
        self._sessions = look.of("sessions")
        self.choose(0)

    def choose(self, steps: int) -> None:
        """Select the server so many below, or above, and have its sessions."""
        self.servers.move(steps)
        label = number_of(self.servers.selected or {})
        self.sessions.take([session for session in self._sessions if plain(session.get("server")) == label])

    def _remember(self, servers: Sequence[Record], now: float) -> None:
        told = {figure: [server[figure] for server in servers if is_number(server.get(figure))]
                for figure in ("sessions", *RATES)}
        self.total = {figure: sum(values) for figure, values in told.items() if values}
        there = {(identity(row), figure) for row in (*servers, self.total) for figure in GRAPHS}
        self._histories = {key: history for key, history in self._histories.items() if key in there}
        for row in (*servers, self.total):
            for figure in GRAPHS:
                if is_number(value := row.get(figure)):
                    self._histories.setdefault((identity(row), figure), History(STRETCH, KEPT)).add(value, now)

    def history(self, row: Record, count: int) -> list[float]:
        """The last means of the figure that the graphs show, at most so many: of a server, or the total."""
        history = self._histories.get((identity(row), self.graph))
        return history.last(count) if history else []

    def highest(self, count: int) -> float:
        """The highest of all servers' last means: graphs have one scale, so that they can be compared."""
        return max((max(self.history(server, count), default=0.0) for server in self.servers.rows), default=0.0)

    def next_graph(self) -> str:
        """Draw the next figure; how it is called."""
        figures = list(GRAPHS)
        self.graph = figures[(figures.index(self.graph) + 1) % len(figures)]
        return GRAPHS[self.graph]

    @property
    def sessions_now(self) -> Record:
        """How many sessions there are in all, of how many; by the listeners, where the daemon does not tell."""
        if self.info:
            return {"sessions": self.info.get("sessions"), "max": self.info.get("conn_max")}
        rows = [row for row in self.listeners or self.servers.rows if is_number(row.get("sessions"))]
        most = self.listeners[0].get("conn_max") if len(self.listeners) == 1 else 0
        return {"sessions": sum(row["sessions"] for row in rows), "max": most}

    @property
    def up(self) -> tuple[int, int]:
        """How many servers are up, and of how many; special ones, slots without a server, and whose health is not told,
        do not count."""
        told = [server["health"] for server in self.servers.rows
                if server.get("number") is not None and server.get("health") not in (None, "", "empty")]
        return told.count("up"), len(told)

    @property
    def waiting(self) -> int:
        """How many clients wait for a server."""
        held = self.info.get("held") if self.info else next((row.get("held") for row in self.servers.rows), 0)
        return held if isinstance(held, int) else 0

    @property
    def errors(self) -> str:
        """The sessions that ended by an error, by the word for it; empty where there are none, or none are told."""
        endings, errors = self.info.get("endings"), self.info.get("errors")
        if not isinstance(endings, dict) or not isinstance(errors, list):
            return ""
        words = [word for word in errors if isinstance(word, str)]
        counts = [(word, endings[word]) for word in words if is_number(endings.get(word)) and endings[word]]
        return ", ".join(f"{count} {word}" for word, count in sorted(counts, key=lambda item: -item[1]))


def at(server: Record) -> str:
    """The address that a server was given, as commands take it."""
    return place({**server, "address": server.get("host")} if server.get("host") else server)


def called(server: Record) -> str:
    """A server, as a question names it."""
    return f"server {number_of(server)} at {place(server)}"


def in_words(server: Record) -> str:
    """All about a server, in one line."""
    since = f" for {how_long(server)}" if how_long(server) else ""
    by = f" by {plain(server['verdict_by'])}" if server.get("verdict_by") else ""
    reason = f": {why(server)}" if why(server) else ""
    parts = [f"{called(server)}{f' ({name(server)})' if name(server) else ''}: {plain(server.get('state'))}, "
             f"{plain(server.get('health'))}{since}{by}{reason}"]
    if is_number(server.get("failures")) and server["failures"]:
        parts.append(f"failed {counted(server['failures'], 'time')}")
    if server.get("old"):
        parts.append(f"{plain(server['old'])} sessions of gpens that were replaced")
    parts += [f"{key} {plain(server[key])}" for key in ("total", "weight", "prio", "hard", "owner") if server.get(key)]
    parts.append(f"sent {size(server.get('sx'))}, received {size(server.get('rx'))}")
    if server.get("check") not in (None, "off"):
        parts.append(f"check {plain(server['check'])}")
    agent = server.get("agent")
    if isinstance(agent, dict) and agent.get("says"):
        parts.append(f"its agent says {plain(agent['says'])}")
    return "; ".join(parts)
