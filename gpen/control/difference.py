"""What has changed in the file of -F since it was read last, as a draft over the configuration in force.

What the file says is a draft over what the command line gives. A line that is new or has changed counts; one that went
is undone: a setting has the command line's value or its default again, a server is taken away, an access list is built
anew. What the file says as before is left as it is, whatever has been done to it at runtime; so is what the file never
mentioned.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gpen.control.configuration import (
    Configuration,
    address_words,
    field_words,
    inherit_line,
    listener_lines,
    member_words,
)
from gpen.control.draft import ACTIONS, Draft
from gpen.model.acl import LISTS, Entry
from gpen.model.listener import ListenerConfig
from gpen.model.numbers import numbers_words
from gpen.model.route import called
from gpen.model.server import FIELDS, MEMBER_FIELDS, Said
from gpen.model.settings import SETTINGS
from gpen.model.text import quote

SHOWN_ENTRIES, COMPARED_ENTRIES = 5, 1000  # comparing 1,000 takes about a millisecond
_UNDONE = {"blacklist": 0, "failed": 0, "health": Said("unknown"), "checked": Said("unknown"),
           "answered": Said("unknown")}
_MISSING = object()


class Difference:
    """``draft`` is what has to change in the configuration in force, and ``waiting`` a line for each change that counts
    at the next start only; ``find`` fills them."""

    def __init__(self, old: Draft, new: Draft, given: Draft, configuration: Configuration) -> None:
        """``old`` and ``new`` are what the file said and says, over what the command line has ``given``."""
        self._old, self._new, self._given, self._configuration = old, new, given, configuration
        self.draft = Draft(configuration, cause="by a reload")
        self.draft.ignored |= new.ignored
        self.waiting: list[str] = []

    def find(self) -> Iterator[str]:
        """Compare, and yield a line for each change."""
        yield from self._settings()
        yield from self._servers()
        for label in self.draft.new_addresses():
            self.draft.give_origin(label, self._new.origin_of(label))
        yield from self._lists()
        yield from self._listeners()
        yield from self._actions()
        yield from self._clients()

    def _settings(self) -> Iterator[str]:
        old, new, given = self._old.values, self._new.values, self._given.settings
        for name, setting in SETTINGS.items():
            if new.get(name, _MISSING) == old.get(name, _MISSING):
                continue
            value = new.get(name, given.get(name))
            current = self._configuration.settings.get(name)
            if value == current:
                continue
            change = setting.line(value)
            if setting.startup:
                self.waiting.append(f"{change}: counts at the next start only")
                continue
            self.draft.replace(name, value)
            yield f"{change} (was {setting.told(current)})"

    def _servers(self) -> Iterator[str]:
        old, new = self._old, self._new
        for number in sorted(old.servers.keys() | old.deleted | new.servers.keys() | new.deleted):
            said = old.servers.get(number), number in old.deleted
            if (new.servers.get(number), number in new.deleted) != said:
                yield from self._server(number)

    def _server(self, number: int) -> Iterator[str]:
        """Bring a server of which the file says something else now to what a start with it would bring."""
        fields, current = self._new.fields_of(number), self._configuration.fields_of(number)
        if fields is None:
            if current is not None:
                self.draft.delete(number)
                yield f"no server {number}"
            return
        if current is None:
            self.draft.configure(number, fields)
            yield f"server {number} {_words(fields, FIELDS)} (new)"
            return
        was = self._old.fields_of(number) or {}
        changed = {name: value for name, value in fields.items()
                   if value != was.get(name, _MISSING) and value != current[name]}
        if changed:
            self.draft.configure(number, changed)
            were = {name: current[name] for name in changed}
            yield f"server {number} {_words(changed)} (was {_words(were)})"

    def _lists(self) -> Iterator[str]:
        for number in range(LISTS):
            before, now = (draft.list_of(number).entries for draft in (self._old, self._new))
            current = self._configuration.list_of(number).entries
            if now != before and now != current:
                self.draft.lists[number] = self._new.list_of(number)
                yield f"acl {number}: {_entries(len(now))} (had {len(current)}){_news(now, current)}"

    def _listeners(self) -> Iterator[str]:
        for name in dict.fromkeys([*self._old.listener_names(), *self._new.listener_names()]):
            was, now = self._old.listener_of(name), self._new.listener_of(name)
            current = self.draft.listener_of(name)
            if now in (was, current):
                continue
            if now is None or current is None:
                self.draft.change_listener(name, None if now is None else now.copy())
                yield from (f"{line} (new)" if now is not None else line for line in listener_lines(name, now))
            else:
                changed = current.copy()
                self.draft.change_listener(name, changed)
                yield from (f"listener {name} {line}" for line in _listener(was or ListenerConfig(), now, changed))

    def _actions(self) -> Iterator[str]:
        old, new = self._old.actions, self._new.actions
        for number in sorted(old.keys() | new.keys()):
            if self.draft.address_of(number) is None:
                continue
            for name in ACTIONS:
                was, now = (actions.get(number, {}).get(name, _MISSING) for actions in (old, new))
                if was != now:
                    value = _UNDONE[name] if now is _MISSING else now
                    self.draft.actions.setdefault(number, {})[name] = value
                    yield f"server {number} {name} {_action(value)}"

    def _clients(self) -> Iterator[str]:
        old, new = self._old.clients, self._new.clients
        for key in sorted(old.keys() | new.keys(), key=lambda key: (*key[:2], key[2] or ())):
            (listener, address, route), place = key, new.get(key)
            if (key in old, old.get(key)) != (key in new, place) and (
                    not listener or self.draft.listener_of(listener) is not None):
                self.draft.clients[key] = place
                prefix = f"listener {listener} " if listener else ""
                yield prefix + (f"no client {address}" if place is None else f"client {address} server {place[0]}") + (
                    f" route {called(route)}" if route is not None else "")


def _listener(was: ListenerConfig, now: ListenerConfig, changed: ListenerConfig) -> Iterator[str]:
    """Bring a listener of which the file says something else now, and of which this is in force (``changed``), to what
    a start with the file would bring."""
    for name, setting in SETTINGS.items():
        value, current = now.own.get(name, _MISSING), changed.own.get(name, _MISSING)
        if value == was.own.get(name, _MISSING) or value == current:
            continue
        if value is _MISSING:
            del changed.own[name]
            yield inherit_line(name)
        else:
            changed.own[name] = value
            yield setting.line(value) + (f" (was {setting.told(current)})" if current is not _MISSING else "")
    if now.servers not in (was.servers, changed.servers):
        yield f"servers {numbers_words(now.servers)} (was {numbers_words(changed.servers)})"
        changed.servers = now.servers
    for number in sorted(was.members.keys() | now.members.keys()):
        yield from _member(number, was.members.get(number, {}), now.members.get(number, {}), changed)


def _member(number: int, was: Mapping[str, Any], now: Mapping[str, Any], changed: ListenerConfig) -> Iterator[str]:
    """The same of what is different of a server there."""
    current = changed.members.get(number, {})
    for name in MEMBER_FIELDS:
        value = now.get(name)
        if value != was.get(name) and value != current.get(name):
            yield f"server {number} {member_words({name: value} if value is not None else {}, {name: None})}"
            fields = changed.members.setdefault(number, {})
            fields.pop(name, None)
            if value is not None:
                fields[name] = value
            if not fields:
                del changed.members[number]


def _words(fields: Mapping[str, Any], defaults: Mapping[str, Any] | None = None) -> str:
    """Fields of a server as they are written, without those that are the defaults."""
    words = [address_words(fields["address"])] if "address" in fields else []
    words += [field_words(name, fields[name]) for name in FIELDS
              if name in fields and not (defaults and fields[name] == defaults[name])]
    return " ".join(words)


def _entries(count: int) -> str:
    return "1 entry" if count == 1 else f"{count} entries"


def _news(now: Sequence[Entry], current: Sequence[Entry]) -> str:
    """What comes to a list and what goes, where that is little."""
    if len(now) + len(current) > COMPARED_ENTRIES:
        return ""
    told, kept = set(map(str, now)), set(map(str, current))
    news = [f"+ {entry}" for entry in map(str, now) if entry not in kept]
    news += [f"- {entry}" for entry in map(str, current) if entry not in told]
    return f": {', '.join(news)}" if 0 < len(news) <= SHOWN_ENTRIES else ""


def _action(value: Any) -> str:
    if not isinstance(value, Said):
        return f"{value:g}"
    return f"{value.word} because {value.reason}" if value.reason else quote(value.word)
