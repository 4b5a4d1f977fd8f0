"""What files list, in each form; what is not whole or not understood counts for nothing."""

from __future__ import annotations

import json

import pytest

from gpen.discover.listing import read
from gpen.discover.source import Found, SourceError

ONE, TWO = Found("10.0.0.1", 80), Found("db2.example", 3306, weight=5, prio=1, max=100)
LINES = """\
# the servers of the shop
10.0.0.1:80
db2.example:3306 weight 5 prio 1 max 100  # the large one

[2001:DB8::1]:80 max 3
"""
V6 = Found("2001:db8::1", 80, max=3)
OBJECTS = [{"host": "10.0.0.1", "port": 80}, {"address": "db2.example:3306", "weight": 5, "prio": 1, "max": 100}]
YAML = """\
# the servers of the shop
- 10.0.0.1:80
- host: db2.example
  port: 3306
  weight: 5
  prio: "1"
  max: 100
"""
PROMETHEUS = [{"targets": ["10.0.0.1:80"]}, {"targets": ["db2.example:3306"], "labels": {
    "weight": "5", "prio": "1", "max": "100", "env": "shop"}}]


@pytest.mark.parametrize(("text", "expected"), [
    (LINES, [ONE, TWO, V6]),
    ("[2001:db8::1]:80 max 3\n", [V6]),
    ("[fe80::1%eth0]:80\n", [Found("fe80::1%eth0", 80)]),
    ("# none\n", []),
    ('["10.0.0.1:80"]', [ONE]),
    (json.dumps(OBJECTS), [ONE, TWO]),
    (json.dumps({"servers": OBJECTS}), [ONE, TWO]),
    (json.dumps(PROMETHEUS), [ONE, TWO]),
    ("[]", []),
    (YAML, [ONE, TWO]),
    ("servers:\n- 10.0.0.1:80\n", [ONE]),
    ("---\n- 10.0.0.1:80\n", [ONE]),
    ("%YAML 1.1\n---\n  - 10.0.0.1:80\n", [ONE]),
    ("# the only one\n  - 10.0.0.1:80\n", [ONE]),
    ("- &one {host: 10.0.0.1, port: 80}\n- {<<: *one, weight: 3}\n", [ONE, ONE._replace(weight=3)]),
])
def test_what_is_listed(text: str, expected: list[Found]) -> None:
    if "\n-" in text or "- " in text or text.startswith("servers:"):
        pytest.importorskip("yaml")
    assert read(text) == expected


def test_the_name_or_an_option_says_the_form() -> None:
    pytest.importorskip("yaml")
    assert read('["10.0.0.1:80"]', path="/etc/gpen/servers.yml") == [ONE]
    assert read("[10.0.0.1:80, 'db2.example:1']", "yaml") == [ONE, Found("db2.example", 1)]


@pytest.mark.parametrize("text", [LINES, json.dumps(OBJECTS), json.dumps(PROMETHEUS, indent=2), YAML])
def test_what_breaks_off_is_refused_wherever_it_does(text: str) -> None:
    """Lines that end with one of theirs are as good as whole; those within one are not."""
    if text == YAML:
        pytest.importorskip("yaml")
        text = YAML[YAML.index("-"):YAML.index("\n- host") + 1] + "- db2.example:3306\n"
    whole = {end for end, letter in enumerate(text, 1) if letter == "\n" and text[0] in "#-"}
    for end in set(range(1, len(text))) - whole:
        with pytest.raises(SourceError):
            read(text[:end])


@pytest.mark.parametrize(("text", "why"), [
    ("", "it is empty"),
    ("\n\n", "it is empty"),
    ("10.0.0.1\n", "line 1: '10.0.0.1' is not HOST:PORT"),
    ("a:80\nb:80 weight\n", "line 2: weight: \"\" is not a whole number"),
    ("a:80 weigth 3\n", "line 1: 'weigth' is not one of weight, prio, max"),
    ("a:80 weight 1 weight 2\n", "line 1: weight is there twice"),
    ("a:80 weight -3\n", "line 1: weight: \"-3\" is not a whole number"),
    ("a:http\n", "with a number as PORT"),
    ("http://a:80/\n", "is a URL"),
    ("/run/web.sock\n", "is not HOST:PORT"),
    ('{"a": 1}', "it is no list of servers"),
    ("[7]", "7 is no server"),
    ('[{"host": "a"}]', "'a' is not HOST:PORT"),
    ('[{"host": "a:80", "port": 80}]', "'a:80': give a host, and its port once"),
    ('[{"host": "a", "address": "a", "port": 80}]', "not both"),
    ('[{"host": "a", "port": 80, "wieght": 3}]', "'wieght' is not one of host"),
    ('[{"host": "a", "port": 80, "weight": 1.5}]', "weight: 1.5 is not a whole number"),
    ('[{"host": "a", "port": true}]', "port: true is not a whole number"),
    ('[{"targets": "a:80"}]', "expected a list as targets"),
    ("[" * 100_000, "it is no"),
    ('[{"host": ' + "[" * 500 + "]" * 500 + ', "port": 80}]', "[[[...]]] is not the address of a server"),
    (json.dumps([{"key": "x" * 10_000}]), "'key' is not one of host"),
])
def test_what_is_not_understood_is_refused_in_one_line(text: str, why: str) -> None:
    with pytest.raises(SourceError) as refused:
        read(text)
    assert why in str(refused.value) and "\n" not in str(refused.value)


def test_yaml_that_is_none() -> None:
    pytest.importorskip("yaml")
    for text in ("- a: [\n", "- !!python/object/apply:os.system [ls]\n", "- a: b: c\n"):
        with pytest.raises(SourceError) as refused:
            read(text, "yaml")
        assert "it is no YAML" in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("text", [
    "- {2020-01-01: x}\n", "- &a [*a]\n", "- &a {host: *a, port: 80}\n", "- 2024-99-99\n", "- !!int abc\n",
    "- !!int ''\n", "- !!bool foo\n", "- !!timestamp foo\n",
    "- " + "9" * 5000 + "\n", "- !!set {a}\n", "- 10:30\n", "~\n",
    "- &a {host: a, port: 80}\n- {<<: [*a, *a]}\n", "- &a {host: a, port: 80}\n- {<<: *a, <<: *a}\n",
    "servers: [&a [x,x,x,x,x,x,x,x,x]"
    + "".join(f", &{new} [{','.join(['*' + old] * 9)}]" for old, new in zip("abcdefgh", "bcdefghi", strict=True))
    + "]\n",
])
def test_yaml_that_is_odd_is_refused_like_all_else(text: str) -> None:
    """Values that are none of their type, that hold themselves, or that are more than a machine has room for."""
    pytest.importorskip("yaml")
    with pytest.raises(SourceError) as refused:
        read(text, "yaml")
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 10_000


def test_a_few_lines_of_yaml_that_say_thousands_of_servers() -> None:
    """They are read as far as there are too many."""
    pytest.importorskip("yaml")
    text = f"- targets: &all [{', '.join(['a:80'] * 1000)}]\n" + "- targets: *all\n" * 100
    assert len(read(text, "yaml")) == 10_001
