"""What is answered over HTTP, as a WSGI application (PEP 3333): metrics, the page, JSON, and a few actions.

JSON is the control language's own: /api/NAME is the reply to a command that looks, with the word json behind it, and
which commands these are says the table of commands. What a client writes in a query becomes a word of that command
only if it can be nothing else.
"""

from __future__ import annotations

import hmac
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

from gpen.control.commands import COMMANDS, SCOPED, Command
from gpen.control.reply import readiness
from gpen.model.text import quote
from gpen.web.exposition import OPENMETRICS_TYPE, PROMETHEUS_TYPE, wants_openmetrics
from gpen.web.snapshot import INDEX, SCRIPT, STYLE

Environ = Mapping[str, Any]
StartResponse = Callable[[str, list[tuple[str, str]]], object]

MOST_BODY = 1024
PIECE = 32_768
JSON_TYPE = "application/json"
# what a control client with the least access may say, and what is answered in JSON
LOOKING = tuple(command for command in COMMANDS.values()
                if command.json and command.access == "view" and command.setting is None and command.name != "help")
ACTIONS = {"drain": "server {}{} state drain", "maint": "server {}{} state maint", "ready": "server {}{} state ready",
           "close": "close {}"}  # by number; of a server, only where it is at some address, if that is said
PAGE = {"/": (INDEX, "text/html"), "/page.css": (STYLE, "text/css"), "/page.js": (SCRIPT, "text/javascript")}
HEADERS = [
    ("Cache-Control", "no-store"),
    ("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
                                "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Referrer-Policy", "no-referrer"),
    ("X-Content-Type-Options", "nosniff"),
]
_ARGUMENT = re.compile(r"\[([a-z]+) [A-Z]+\]|([A-Z]+)")  # one behind a word that says which; or by its place
_WORD = re.compile(r"[0-9A-Za-z._:%/-]{1,128}")


class Refusal(Exception):
    """What a client gets instead of what it asked for."""

    def __init__(self, status: str, reason: str, headers: Iterable[tuple[str, str]] = ()) -> None:
        super().__init__(reason)
        self.status = status
        self.headers = list(headers)


class Door(NamedTuple):
    """What the application asks of gpen. ``execute`` carries out a line of the control language, and ``metrics`` gives
    the text for Prometheus, or OpenMetrics, in pieces; both may switch greenlets. ``may_act`` says whether actions are
    on, and ``token`` gives what who acts must know: it raises OSError, or ValueError, when there is none. ``acted`` is
    told of each action: the client's address, and what it did or why not; ``turned_away`` of those who may not act: the
    address, and why."""

    execute: Callable[[str], Iterator[str]]
    metrics: Callable[[bool], Iterator[str]]
    may_act: Callable[[], bool]
    token: Callable[[], str]
    acted: Callable[[str, str], object]
    turned_away: Callable[[str, str], object]


def arguments_of(command: Command) -> list[str]:
    """What a command that looks takes, by the names that a query has for it: ``explain ADDRESS [sni NAME]`` takes
    address and sni."""
    return [word or place.lower() for word, place in _ARGUMENT.findall(command.usage)]


class Application:
    """The WSGI application."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._looking = {command.name: command for command in LOOKING}

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        try:
            status, kind, pieces = self._answer(environ)
        except Refusal as refusal:
            start_response(refusal.status, [("Content-Type", JSON_TYPE), *refusal.headers, *HEADERS])
            return [_json({"error": str(refusal)})]
        if environ["REQUEST_METHOD"] == "HEAD":
            length = sum(map(len, pieces))  # else the server would say 0
            start_response(status, [("Content-Type", kind), ("Content-Length", str(length)), *HEADERS])
            return []
        start_response(status, [("Content-Type", kind), *HEADERS])
        return pieces

    def _answer(self, environ: Environ) -> tuple[str, str, Iterable[bytes]]:
        """Status, type and text."""
        path = _path(environ)
        if "HTTP_TRANSFER_ENCODING" in environ:
            raise Refusal("411 Length Required", "a body needs a Content-Length: none is taken in chunks")
        if path in ("/ready", "/api/ready"):
            _expect(environ, "GET", "HEAD")
            return self._readiness(path, environ.get("QUERY_STRING", ""))
        return "200 OK", *self._found(path, environ)

    def _found(self, path: str, environ: Environ) -> tuple[str, Iterable[bytes]]:
        """Type and text of what has no status of its own."""
        if path == "/api/control":
            _expect(environ, "POST")
            return JSON_TYPE, [self._act(environ)]
        _expect(environ, "GET", "HEAD")
        if path == "/metrics":
            is_openmetrics = wants_openmetrics(environ.get("HTTP_ACCEPT", ""))
            pieces = self._door.metrics(is_openmetrics)
            return OPENMETRICS_TYPE if is_openmetrics else PROMETHEUS_TYPE, _encoded(pieces)
        if path in PAGE:
            text, kind = PAGE[path]
            return f"{kind}; charset=utf-8", [text.encode()]
        if path in ("/api", "/api/"):
            return JSON_TYPE, [_json(index())]
        if path.startswith("/api/"):
            return JSON_TYPE, self._look(path.removeprefix("/api/"), environ.get("QUERY_STRING", ""))
        raise Refusal("404 Not Found", f"there is nothing at {path}: /, /metrics, /ready and /api are here")

    # --- looking --------------------------------------------------------------------------------------------------

    def _look(self, name: str, query: str) -> Iterator[bytes]:
        command = self._looking.get(name)
        if command is None:
            raise Refusal("404 Not Found", f"there is no /api/{name}: /api lists what there is")
        pieces = self._door.execute(_line(command, _parsed(name, query)))
        first = next(pieces, "")
        if not first.startswith(("{", "[")):
            raise Refusal("400 Bad Request", first.strip().removeprefix("error: "))
        return _encoded(chain([first], pieces))

    def _readiness(self, path: str, query: str) -> tuple[str, str, Iterable[bytes]]:
        """Status, type and text, as the command ready answers, for those who look at the status alone."""
        row = json.loads(b"".join(self._look("ready", query)))
        status = "200 OK" if row["ready"] else "503 Service Unavailable"
        return (status, JSON_TYPE, [_json(row)]) if path == "/api/ready" else (
            status, "text/plain; charset=utf-8", [readiness(row).encode()])

    # --- acting ---------------------------------------------------------------------------------------------------

    def _act(self, environ: Environ) -> bytes:
        client = environ.get("REMOTE_ADDR") or "the unix socket"
        try:
            self._check_token(environ)
        except Refusal as refusal:
            self._door.turned_away(client, str(refusal))
            raise
        try:
            line = _action(_body(environ))
            said = "".join(self._door.execute(line)).strip()
            if said.startswith("error: "):
                raise Refusal("400 Bad Request", said.removeprefix("error: "))
        except Refusal as refusal:
            self._door.acted(client, f"refused: {refusal}")
            raise
        self._door.acted(client, line)
        return _json({"ok": True})

    def _check_token(self, environ: Environ) -> None:
        """Raises Refusal for whoever may not act."""
        if not self._door.may_act():
            raise Refusal("403 Forbidden", "actions are off: the setting metrics_control is")
        try:
            token = self._door.token()
        except (OSError, ValueError) as error:
            raise Refusal("403 Forbidden", f"metrics_token: {getattr(error, 'strerror', None) or error}") from None
        kind, _, given = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
        if kind.lower() != "bearer" or not hmac.compare_digest(
                given.strip().encode("latin-1"), token.encode()):
            raise Refusal("401 Unauthorized", "the token is wrong, or missing: it is in the file of metrics_token",
                          [("WWW-Authenticate", "Bearer")])


def index() -> dict[str, Any]:
    """What there is at /api, from the table of commands."""
    return {f"/api/{command.name}": {"arguments": [*arguments_of(command), *_listener_of(command)],
                                     "help": command.help} for command in LOOKING}


def _listener_of(command: Command) -> list[str]:
    return ["listener"] if command.name in SCOPED else []


def _path(environ: Environ) -> str:
    """What is asked for, also by a client that names the whole address of it (RFC 9112, section 3.2.2)."""
    path: str = environ["PATH_INFO"]
    if path.lower().startswith(("http://", "https://")):
        path = "/" + path.split("/", 3)[3] if path.count("/") > 2 else "/"
    return path or "/"


def _parsed(name: str, query: str) -> dict[str, str]:
    """A query, by its keys. Raises Refusal."""
    pairs = parse_qsl(query, keep_blank_values=True)
    parsed = dict(pairs)
    if len(parsed) < len(pairs):
        raise Refusal("400 Bad Request", f"/api/{name}: a part of the query is there twice")
    return parsed


def _line(command: Command, query: dict[str, str]) -> str:
    """The line of the control language that a query means. Raises Refusal."""
    takes_listener = command.name in SCOPED
    listener = query.pop("listener", "") if takes_listener or "listener" not in arguments_of(command) else ""
    if listener and not takes_listener:
        raise Refusal("400 Bad Request", f"/api/{command.name} is about all listeners: it takes no listener")
    words = [command.name]
    for name in arguments_of(command):
        if name in query:
            words += [*([name] if f"[{name} " in command.usage else []), query.pop(name)]
    if query:
        takes = ", ".join([*arguments_of(command), *_listener_of(command)]) or "nothing"
        raise Refusal("400 Bad Request", f"/api/{command.name} takes {takes}, not '{next(iter(query))}'")
    scope = ["listener", listener] if listener else []
    for word in (*words[1:], *scope[1:]):
        if not _WORD.fullmatch(word):
            raise Refusal("400 Bad Request", f"'{word[:128]}' is none of what /api/{command.name} takes")
    return " ".join([*scope, *words, "json"])


def _action(body: object) -> str:
    """The line of the control language that a body means. Raises Refusal."""
    said = body if isinstance(body, dict) else {}
    action, number, at = said.get("action"), said.get("number"), said.get("at", "")
    if not (isinstance(action, str) and action in ACTIONS and type(number) is int and 0 <= number < 1 << 63
            and isinstance(at, str) and at.isprintable() and not (at and action == "close")):
        raise Refusal("400 Bad Request", f'expected {{"action": one of {", ".join(ACTIONS)}, "number": N}}, and for a '
                                         'server "at": its ADDRESS if that matters')
    return ACTIONS[action].format(number, f" at {quote(at)}" if at else "")


def _body(environ: Environ) -> object:
    """What the JSON of a request says; None where it is none. Raises Refusal."""
    length = environ.get("CONTENT_LENGTH") or "0"
    if not length.isdigit() or int(length) > MOST_BODY:
        raise Refusal("413 Content Too Large", f"expected at most {MOST_BODY} bytes")
    try:
        return json.loads(environ["wsgi.input"].read(int(length)))
    except (ValueError, RecursionError, OSError):  # brackets in brackets in brackets; or it ends too early
        return None


def _expect(environ: Environ, *methods: str) -> None:
    """Raises Refusal for any other method."""
    if environ["REQUEST_METHOD"] not in methods:
        raise Refusal("405 Method Not Allowed", f"expected {' or '.join(methods)}", [("Allow", ", ".join(methods))])


def _encoded(pieces: Iterable[str]) -> Iterator[bytes]:
    """The same as bytes, in larger pieces: each is a system call and a segment of its own."""
    gathered: list[str] = []
    size = 0
    for piece in pieces:
        gathered.append(piece)
        size += len(piece)
        if size > PIECE:
            yield "".join(gathered).encode()
            gathered, size = [], 0
    if gathered:
        yield "".join(gathered).encode()


def _json(value: object) -> bytes:
    return json.dumps(value).encode() + b"\n"
