"""Which route is taken by what a client asks for, and how routes are written."""

from __future__ import annotations

import pytest

from gpen.model.route import NO_MATCH, Asked, Key, Table, parse_key, parse_route, shown
from gpen.model.settings import SETTINGS


def found(lines: str, asked: Asked) -> str:
    """The pattern of the route that is taken, or the kind where it has none; routes are separated by commas."""
    routes = [route for line in lines.split(", ") for route in parse_route(line.split())]
    key = Table(routes).find(asked)
    return key[1] or key[0]


@pytest.mark.parametrize(("lines", "asked", "taken"), [
    ("sni a.example servers 0, sni b.example servers 1", Asked("b.example"), "b.example"),
    ("sni a.example servers 0", Asked("A.Example."), "a.example"),
    ("sni A.example. servers 0", Asked("a.example"), "a.example"),
    ("sni a.example servers 0", Asked("b.example"), "default"),
    ("sni a.example servers 0", Asked(), "default"),
    ("sni *.example servers 0, sni a.example servers 1", Asked("a.example"), "a.example"),
    ("sni *.example servers 0, sni a.example servers 1", Asked("b.example"), "*.example"),
    ("sni *.example servers 0", Asked("example"), "default"),
    ("sni *.example servers 0", Asked("a.b.example"), "default"),
    ("sni *.example servers 0", Asked("*.example"), "*.example"),
    ("sni *.example servers 0", Asked(".example"), "default"),
    ("alpn h2 servers 0", Asked("a.example", ("http/1.1", "h2")), "h2"),
    ("alpn h2 servers 0", Asked("h2", ("H2",)), "default"),
    ("sni a.example servers 0, alpn acme-tls/1 servers 1", Asked("a.example", ("acme-tls/1",)), "a.example"),
    ("alpn acme-tls/1 servers 1, sni a.example servers 0", Asked("a.example", ("acme-tls/1",)), "acme-tls/1"),
    ("sni *.example servers 0, alpn h2 servers 1", Asked("a.example", ("h2",)), "h2"),
    ("host a.example servers 0", Asked(host="a.example:8080"), "a.example"),
    ("host a.example servers 0", Asked(sni="a.example", host="b.example"), "default"),
    ("host [::1] servers 0", Asked(host="[::1]:80"), "[::1]"),
    ("host 10.0.0.1 servers 0", Asked(host="10.0.0.1"), "10.0.0.1"),
    ("default servers 1, sni a.example servers 0", Asked("b.example"), "default"),
])
def test_the_route_that_is_taken(lines: str, asked: Asked, taken: str) -> None:
    assert found(lines, asked) == taken


@pytest.mark.parametrize("line", ["sni a.example servers 0-2,5", "sni *.a.example reject", "alpn http/1.1 servers all",
                                  "host a.example servers 7", "default reject", "default servers 0",
                                  'alpn "a b" servers 1'])
def test_what_is_written_is_read_back(line: str) -> None:
    words = line.replace('"a b"', "a_b").split()
    assert shown(parse_route([word.replace("_", " ") for word in words])) == line.replace("0-2,5", "0-2,5")


@pytest.mark.parametrize(("line", "told"), [
    ("", "'' is not sni, alpn, host or default: expected sni NAME|alpn PROTOCOL|host NAME|default"),
    ("snl a servers 1", "'snl' is not sni"), ("sni", "sni: expected a name"), ("alpn", "alpn: expected a PROTOCOL"),
    ("sni a.example", "expected servers LIST, or reject, behind sni a.example"),
    ("sni a.example servers", "expected servers LIST"), ("sni a.example server 1", "expected servers LIST"),
    ("sni a.example reject 1", "expected servers LIST"), ("sni a.example servers x", "'x' is not a number or a range"),
    ("sni a..example servers 1", "'a..example' is not a name"), ("sni a/b servers 1", "'a/b' is not a name"),
    ("sni *.*.a servers 1", "'*.*.a' is not a name"), ("sni * servers 1", "'*' is not a name"),
    ("sni a*.example servers 1", "'a*.example' is not a name"), ("sni [::1] servers 1", "'[::1]' is not a name"),
    ("sni bücher.example servers 1", "letters of ASCII (xn--...)"), ("default", "behind default"),
    ("default a servers 1", "behind default"), ("host a.example:80 servers 1", "'a.example:80' is not a name"),
])
def test_what_is_no_route_is_told(line: str, told: str) -> None:
    with pytest.raises(ValueError) as error:
        parse_route(line.split())
    assert told in str(error.value)


def test_what_takes_one_away() -> None:
    setting = SETTINGS["route"]
    routes = setting.added(parse_route(["sni", "a.example", "servers", "0"]), parse_route(["default", "reject"]))
    routes = setting.added(routes, parse_route(["sni", "a.example", "servers", "1"]))
    assert shown(routes) == "sni a.example servers 1, default reject"  # in its old place
    gone: tuple[tuple[Key, str], ...] = ((parse_key(["sni", "A.example"]), ""),)
    assert shown(setting.added(routes, gone)) == "default reject"
    assert setting.lines(routes) == ["no route", "route sni a.example servers 1", "route default reject"]
    for words, told in ((["sni"], "expected a name"), (["default", "x"], "too much"), (["sni", "a", "b"], "too much")):
        with pytest.raises(ValueError, match=told):
            parse_key(words)
    assert parse_key(["default"]) == NO_MATCH
