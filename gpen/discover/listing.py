"""How servers are listed in a file: JSON, YAML or lines. Pure.

A text that is not whole is refused as a whole: JSON that breaks off, and lines and YAML whose last has no end (in YAML
a bracket is one).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from gpen.discover.plan import MOST_SERVERS
from gpen.discover.source import Found, SourceError
from gpen.model.address import parse_host
from gpen.model.text import shortened
from gpen.start import PackageError, check_optional

FORMS = ("auto", "lines", "json", "yaml")
FIELDS = ("weight", "prio", "max")
KEYS = ("host", "address", "port", *FIELDS)
SHOWN = 10  # items of a list in what is told of it
LONGEST = 1000  # characters of a text there


def read(text: str, form: str = "auto", path: str = "") -> list[Found]:
    """The servers that a text lists, in this form; ``auto`` goes by what it begins with, and by its ``path``. Raises
    SourceError: nothing of it counts."""
    if not text.strip():
        raise SourceError("it is empty (a list without servers is [], or a comment)")
    if form == "auto":
        form = _form_of(text, path)
    if form != "json" and text[-1] not in ("\n" if form == "lines" else "\n]}"):
        raise SourceError("its last line has no end, so it may not be whole: end it with a newline")
    return _counted(_lines(text) if form == "lines" else _listed(_json(text) if form == "json" else _yaml(text)))


def _counted(servers: Iterator[Found]) -> list[Found]:
    """All of them, but no more than one above what is too many: a few lines of YAML can say them without an end."""
    return list(islice(servers, MOST_SERVERS + 1))


def _form_of(text: str, path: str) -> str:
    if os.path.splitext(path)[1].lower() in (".yaml", ".yml"):
        return "yaml"
    if text.lstrip()[0] in "[{" and not re.match(r"\s*\[[0-9a-fA-F:.]+(%[\w.-]+)?\]:", text):  # an IPv6 address
        return "json"
    return "yaml" if re.match(r"(\s*#.*\n|\s*\n)*(---|%YAML| *- |servers:)", text) else "lines"


# --- lines ------------------------------------------------------------------------------------------------------------


def _lines(text: str) -> Iterator[Found]:
    """HOST:PORT [weight W] [prio P] [max M], a line each; what stands behind a # is a comment."""
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if words:
            try:
                yield _of_words(words)
            except SourceError as error:
                raise SourceError(f"line {number}: {error}") from None


def _of_words(words: list[str]) -> Found:
    fields: dict[str, int] = {}
    for name, value in zip(words[1::2], [*words[2::2], ""], strict=False):
        if name not in FIELDS:
            raise SourceError(f"'{shortened(name)}' is not one of {', '.join(FIELDS)}")
        if name in fields:
            raise SourceError(f"{name} is there twice")
        fields[name] = _number(name, value)
    return _found(words[0], None, fields)


# --- JSON and YAML ----------------------------------------------------------------------------------------------------


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError:
        raise SourceError("it is no list of servers") from None
    except ValueError as error:
        raise SourceError(f"it is no JSON, or not all of it: {error}") from None


def _yaml(text: str) -> Any:
    try:
        check_optional("yaml")
    except PackageError as error:
        raise SourceError(str(error)) from None
    import yaml

    class Loader(yaml.SafeLoader):
        def flatten_mapping(self, node: Any) -> None:
            """A mapping may be merged into another, but not several, of which older PyYAML makes more than a machine
            has room for."""
            merged = [value for key, value in node.value if key.tag == "tag:yaml.org,2002:merge"]
            if len(merged) > 1 or not all(isinstance(value, yaml.MappingNode) for value in merged):
                raise yaml.constructor.ConstructorError(None, None, "<< takes one mapping, once", node.start_mark)
            super().flatten_mapping(node)

    try:
        return yaml.load(text, Loader)
    except RecursionError:
        raise SourceError("it is no list of servers") from None
    except yaml.YAMLError as error:
        raise SourceError(f"it is no YAML, or not all of it: {' '.join(str(error).split())}") from None
    except (ValueError, TypeError, LookupError, AttributeError) as error:  # of a value that is not of its type
        raise SourceError(f"it is no YAML: {' '.join(str(error).split())}") from None


def _listed(value: Any) -> Iterator[Found]:
    """The servers of a list, or of the list that is called servers."""
    if isinstance(value, dict) and set(value) == {"servers"}:
        value = value["servers"]
    if not isinstance(value, list):
        raise SourceError("it is no list of servers: expected [...], or {\"servers\": [...]}")
    for item in value:
        yield from _servers(item)


def _servers(item: Any) -> Iterator[Found]:
    """The server that an item is; those of a group, as Prometheus has them: {"targets": [...], "labels": {...}}."""
    if isinstance(item, str):
        yield _found(item, None, {})
    elif isinstance(item, dict) and "targets" in item:
        labels, targets = item.get("labels") or {}, item["targets"]
        if not isinstance(labels, dict) or not isinstance(targets, list):
            raise SourceError(f"{_shown(item)}: expected a list as targets, and an object as labels")
        fields = _fields(labels)
        for target in targets:
            yield _found(_text(target), None, fields)
    elif isinstance(item, dict):
        yield server_of(item)
    else:
        raise SourceError(f"{_shown(item)} is no server: expected \"HOST:PORT\", or an object with host and port")


def server_of(item: Mapping[Any, Any]) -> Found:
    """The server that an object is, with a host and a port, or an address. Raises SourceError."""
    strange = [name for name in item if name not in KEYS]
    if strange:
        raise SourceError(f"{_shown(item)}: '{shortened(str(strange[0]))}' is not one of {', '.join(KEYS)}")
    if ("host" in item) == ("address" in item):
        raise SourceError(f"{_shown(item)}: expected a host, or an address, and not both")
    port = _number("port", item["port"]) if item.get("port") is not None else None
    return _found(_text(item.get("host", item.get("address"))), port, _fields(item))


def _fields(item: Mapping[Any, Any]) -> dict[str, int]:
    return {name: _number(name, item[name]) for name in FIELDS if item.get(name) is not None}


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise SourceError(f"{_shown(value)} is not the address of a server: expected \"HOST:PORT\"")
    return value


def server_in(text: str) -> Found:
    """The server that a text is by itself, as a line has it, or as an object of JSON. Raises SourceError."""
    if text.lstrip().startswith("{"):
        return server_of(_json(text))
    words = text.split()
    if not words:
        raise SourceError("it is empty")
    return _of_words(words)


# --- one server -------------------------------------------------------------------------------------------------------


def _found(text: str, port: int | None, fields: Mapping[str, int]) -> Found:
    """A server at HOST:PORT, or at HOST where its port is said besides."""
    try:
        place = parse_host(text)
    except ValueError as error:
        raise SourceError(str(error)) from None
    if place.path or (place.port == "") == (port is None) or (isinstance(place.port, str) and place.port):
        raise SourceError(f"'{shortened(text)}' is not HOST:PORT, with a number as PORT" if port is None else
                          f"'{shortened(text)}': give a host, and its port once")
    return Found(place.host, port if port is not None else int(place.port), **fields)


def _number(name: str, value: Any) -> int:
    """A whole number, which YAML and labels may have as text."""
    if isinstance(value, str) and re.fullmatch("[0-9]{1,10}", value):
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise SourceError(f"{name}: {_shown(value)} is not a whole number")
    return value


def _shown(value: Any, depth: int = 2) -> str:
    """A value for people, as JSON: of what is in it as much as they read, for it may be deep, or hold itself."""
    if isinstance(value, (list, dict)) and value:
        if not depth:
            return "[...]" if isinstance(value, list) else "{...}"
        parts = [_shown(each, depth - 1) for each in islice(value, SHOWN)]
        if isinstance(value, dict):
            parts = [f"{name}: {_shown(each, depth - 1)}"
                     for name, each in zip(parts, islice(value.values(), SHOWN), strict=True)]
        return shortened(f"{{{', '.join(parts)}}}" if isinstance(value, dict) else f"[{', '.join(parts)}]")
    return shortened(json.dumps(value[:LONGEST] if isinstance(value, str) else value, default=str))
