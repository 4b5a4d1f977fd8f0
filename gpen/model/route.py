"""What routes are, in words and as they are looked up: which of its servers a listener gives a client by what that asks
for, a name (SNI, Host) or a protocol (ALPN)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from gpen.model.numbers import numbers_words, parse_numbers
from gpen.model.text import quote
from gpen.model.value_types import Kind

if TYPE_CHECKING:
    from gpen.model.settings import Settings

SNI, ALPN, HOST, DEFAULT = "sni", "alpn", "host", "default"
REJECT, ALL = "reject", "all"
KEY_FORM = "sni NAME|alpn PROTOCOL|host NAME|default"
FORM = f"({KEY_FORM}) (servers LIST|reject)"

Key = tuple[str, str]  # one of the kinds above, and what is asked for; empty for DEFAULT
To = tuple[int, ...] | str  # numbers of servers, ALL or REJECT
NO_MATCH: Key = (DEFAULT, "")

_NAME = re.compile(r"(?:\*\.)?[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,252})")
_LITERAL = re.compile(r"\[[0-9A-Fa-f:.]{2,45}\]")
_PORT = re.compile(r":[0-9]*$")


class Asked(NamedTuple):
    """What a client asks for: a name in its TLS handshake, the protocols that it offers there, or that was agreed on,
    and the Host of its HTTP request; empty where it does not say."""

    sni: str = ""
    alpn: tuple[str, ...] = ()
    host: str = ""


def bare(name: str) -> str:
    """A name as names are compared: in small letters, without a port, or a dot at its end."""
    return _PORT.sub("", name.lower()).removesuffix(".")


class Table:
    """Finds the route of what is asked for."""

    def __init__(self, routes: Iterable[tuple[Key, To]]) -> None:
        self._routes = dict(routes)
        self._places = {key: place for place, key in enumerate(self._routes)}

    def find(self, asked: Asked) -> Key:
        """The route that matches: an exact one before a wildcard, and of several the one that was said first; NO_MATCH
        where there is none."""
        names = [(kind, bare(name)) for kind, name in ((HOST, asked.host), (SNI, asked.sni)) if name]
        exact = [*names, *((ALPN, protocol) for protocol in asked.alpn)]
        wild = [(kind, f"*.{name.partition('.')[2]}") for kind, name in names if not name.startswith(("*", "."))]
        for keys in (exact, wild):
            found = [key for key in keys if key in self._places]
            if found:
                return min(found, key=self._places.__getitem__)
        return NO_MATCH

    def rejects(self, key: Key) -> bool:
        """Whether clients that go this way are turned away."""
        return self._routes.get(key) == REJECT


def table_of(settings: Settings) -> Table | None:
    """The routes of a listener with these settings; None where it has none, or TLS and HTTP are not for it."""
    return Table(settings.route) if settings.route and not settings.udp else None


def kinds_of(routes: Iterable[tuple[Key, To]]) -> set[str]:
    """By what these routes go."""
    return {kind for (kind, _), _ in routes}


def used_with(servers: tuple[int, ...] | None, routes: Iterable[tuple[Key, To]]) -> tuple[int, ...] | None:
    """The numbers of these servers, and of all that routes lead to; None: of all there are."""
    targets = [to for _, to in routes]
    if servers is None or ALL in targets:
        return None
    return tuple(sorted({*servers, *(number for to in targets if not isinstance(to, str) for number in to)}))


def called(key: Key) -> str:
    """A route in words."""
    kind, pattern = key
    return f"{kind} {quote(pattern)}" if pattern else kind


def shown(routes: Sequence[tuple[Key, To]]) -> str:
    """Routes as they are written; of several, with commas between them."""
    return ", ".join(f"{called(key)} {to if to == REJECT else f'servers {to_words(to)}'}" for key, to in routes)


def to_words(to: To) -> str:
    """The servers of a route as they are written."""
    return to if isinstance(to, str) else numbers_words(to)


def parse_route(words: Sequence[str]) -> tuple[tuple[Key, To], ...]:
    """Read a route. Raises ValueError."""
    length = 1 if list(words[:1]) == [DEFAULT] else 2
    key, rest = parse_key(words[:length]), list(words[length:])
    if rest == [REJECT]:
        return ((key, REJECT),)
    if rest[:1] != ["servers"] or not rest[1:]:
        raise ValueError(f"expected servers LIST, or reject, behind {called(key)}: {called(key)} servers 0-2,5, say")
    text = " ".join(rest[1:])
    return ((key, ALL if text == ALL else parse_numbers(text)),)


def parse_key(words: Sequence[str]) -> Key:
    """Read what a route is for. Raises ValueError."""
    kind, *rest = words or [""]
    if kind == DEFAULT:
        if rest:
            raise ValueError(f"'{rest[0]}' is too much: expected default alone")
        return NO_MATCH
    if kind not in (SNI, ALPN, HOST):
        raise ValueError(f"'{kind}' is not sni, alpn, host or default: expected {KEY_FORM}")
    if len(rest) != 1:
        what = "a PROTOCOL" if kind == ALPN else "a name"
        raise ValueError(f"'{rest[1]}' is too much: expected {what} behind {kind}" if rest else
                         f"{kind}: expected {what}")
    return kind, _protocol(rest[0]) if kind == ALPN else _pattern(kind, rest[0])


def _protocol(text: str) -> str:
    if not (text.isascii() and text.isprintable() and 0 < len(text) < 256):
        raise ValueError(f"'{text}' is not an ALPN protocol: expected something like h2")
    return text


def _pattern(kind: str, text: str) -> str:
    name = text.lower().removesuffix(".")
    if (_NAME.fullmatch(name) and ".." not in name) or (kind == HOST and _LITERAL.fullmatch(name)):
        return name
    remedy = "something like www.example.org or *.example.org" if text.isascii() else "letters of ASCII (xn--...)"
    raise ValueError(f"'{text}' is not a name, or a name with *. in front: expected {remedy}")


ROUTE = Kind(FORM, parse_route, shown, many=True)
