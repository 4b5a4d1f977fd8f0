"""Changes that are not in force yet: commands are run on a draft, and only a draft that is right is adopted.

A draft is laid over a base and holds what differs, so that it costs what is changed, not what there is (a copy of 4,000
servers took 1.2 s). The base is the configuration in force, or another draft: the file of -F is a draft over the
command line's, which is one over nothing. What the file says, and what it said before, is compared that way.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from gpen.control.script import Call, Errors, ScriptError, ScriptErrors, Step
from gpen.control.validation import errors
from gpen.model.acl import AccessList
from gpen.model.address import Address, ServerSpec, parse_listen
from gpen.model.check import Check
from gpen.model.listener import ListenerConfig
from gpen.model.pool import SPECIAL
from gpen.model.route import NO_MATCH, Key, called
from gpen.model.selector import special_name
from gpen.model.server import FIELDS, MEMBER_FIELDS, Said
from gpen.model.settings import Settings
from gpen.model.text import ranges

_MOST_KNOWN = 20  # of what there is, that are listed where something else was meant

# what is done to a server, and is no part of its configuration
ACTIONS = ("blacklist", "returned", "failed", "health", "checked", "answered")


class Base(Protocol):
    """What a draft is laid over."""

    @property
    def settings(self) -> Settings: ...

    def numbers(self) -> Iterable[int]:
        """Those of the servers."""

    def address_of(self, number: int) -> Address | None:
        """That of a server; None when there is no such server."""

    def fields_of(self, number: int) -> Mapping[str, Any] | None:
        """All of FIELDS, and the address, of a server; None when there is no such server."""

    def list_of(self, number: int) -> AccessList:
        """An access list."""

    def own_checks(self) -> Mapping[int, Check]:
        """The checks of the servers that have one of their own, by their numbers."""

    def with_own_tls(self) -> frozenset[int]:
        """The numbers of the servers that speak TLS whatever server_tls says."""

    def listener_names(self) -> Iterable[str]:
        """Those of the listeners that have one."""

    def listener_of(self, name: str) -> ListenerConfig | None:
        """What is said of a listener; None when there is none of this name."""

    def new_addresses(self) -> Mapping[int | str, Address]:
        """See Draft."""

    def origin_of(self, label: int | str) -> str:
        """See Draft."""


class Draft:
    """Changes to a configuration.

    ``values`` are the settings that are given, ``servers`` the fields of the servers that are made or changed,
    ``deleted`` the base's servers that go, ``lists`` the access lists that differ, ``listeners`` those with a name that
    are made or changed, or go (None), ``actions`` what shall be done to servers, ``failed`` what a listener shall take
    for found of one, and ``clients`` where clients of a listener, or of one of its routes, shall be remembered: the
    number of a server, and for how many seconds the client has been idle; None for one that shall be forgotten.
    """

    def __init__(self, base: Base, settled: Iterable[str] = (), cause: str = "by a command") -> None:
        """Settings that are ``settled`` stay as they are, whatever the commands say; ``cause`` is told in events."""
        self.cause = cause
        self._base = base
        self._settled = frozenset(settled)
        self.settings = base.settings.copy()
        self.values: dict[str, Any] = {}
        self.servers: dict[int, dict[str, Any]] = {}
        self.deleted: set[int] = set()
        self.lists: dict[int, AccessList] = {}
        self.actions: dict[int, dict[str, Any]] = {}
        self.listeners: dict[str, ListenerConfig | None] = {}
        self.failed: dict[tuple[str, int], Said] = {}
        self.clients: dict[tuple[str, str, Key | None], tuple[int, float] | None] = {}
        self.ignored: set[str] = set()  # commands without effect that were run
        self._origins: dict[int | str, str] = {}
        self._every: dict[str, Settings] | None = None  # of all listeners, once somebody has asked
        self._unmade: set[str] = set()  # the numbers of servers whose line was wrong

    # --- what it is a base for --------------------------------------------------------------------------------------

    def numbers(self) -> Iterable[int]:
        return dict.fromkeys([*(number for number in self._base.numbers() if number not in self.deleted),
                              *self.servers])

    def address_of(self, number: int) -> Address | None:
        address = self.servers.get(number, {}).get("address")
        if address is not None or number in self.deleted:
            return address
        return self._base.address_of(number)

    def fields_of(self, number: int) -> Mapping[str, Any] | None:
        under, changes = self._under(number), self.servers.get(number)
        if changes is None:
            return under
        return {**(under or FIELDS), **changes}

    def list_of(self, number: int) -> AccessList:
        return self.lists.get(number) or self._base.list_of(number)

    def own_checks(self) -> Mapping[int, Check]:
        checks = {number: check for number, check in self._base.own_checks().items() if number not in self.deleted}
        checks |= {number: fields["check"] for number, fields in self.servers.items() if "check" in fields}
        return {number: check for number, check in checks.items() if check is not None}

    def with_own_tls(self) -> frozenset[int]:
        said = {number: fields["tls"] == "on" for number, fields in self.servers.items() if "tls" in fields}
        base = self._base.with_own_tls() - self.deleted - said.keys()
        return base | {number for number, is_on in said.items() if is_on}

    def listener_names(self) -> Iterable[str]:
        names = dict.fromkeys([*self._base.listener_names(), *self.listeners])
        return [name for name in names if self.listeners.get(name, self) is not None]

    def listener_of(self, name: str) -> ListenerConfig | None:
        return self.listeners[name] if name in self.listeners else self._base.listener_of(name)

    def settings_of(self, name: str) -> Settings:
        """Those of a listener; of the one without a name, that is empty, they are the shared ones."""
        config = self.listener_of(name) if name else None
        return self.settings if config is None else self.settings.overlaid(config.own)

    def all_settings(self) -> dict[str, Settings]:
        """Those of all listeners by their names, first of the one without. A change asks half a dozen times, so they
        are kept until something is said: with 100 listeners 'server 5 max 4' takes 5.0 ms by that instead of 7.4."""
        if self._every is None:
            self._every = {name: self.settings_of(name) for name in ("", *self.listener_names())}
        return self._every

    def _under(self, number: int) -> Mapping[str, Any] | None:
        """A server as the base has it; None for one that is new here."""
        return None if number in self.deleted else self._base.fields_of(number)

    # --- commands ---------------------------------------------------------------------------------------------------

    def run_all(self, steps: Iterable[Step]) -> None:
        """Run the commands of a script. Raises ScriptErrors, with all that is wrong; then the draft is of no use."""
        wrong = Errors()
        for step in steps:
            if isinstance(step, ScriptError):
                wrong.add(step)
                self._unmade.add(step.server)
                continue
            with wrong.gathered():
                self.run(step)
        wrong.raise_all()

    def run(self, call: Call) -> None:
        """Run one configuring command. Raises ScriptError, with nothing changed, when it makes no sense."""
        self._every = None
        name = call.command.name
        if name == "client":
            self._remember(call)
        elif call.listener:
            self._run_scoped(call)
        elif name == "listener":
            if self.listener_of(call["listener"]) is not None:  # else it is as it shall be: write says so of one of -O
                self.listeners[call["listener"]] = None
        elif call.command.setting is not None:
            if name not in self._settled:
                _refuse_unknown(call, self.settings)
                self.set(name, call["value"], call.origin)
        elif name == "server":
            self._delete(call) if call.no else self._change(call)
        elif call.command.is_ignored:
            self.ignored.add(name)
        elif name == "acl":
            self._list(call)

    def _run_scoped(self, call: Call) -> None:
        """Run a command that is said for one listener. Its lines may come in any order, and before those of servers:
        what is missing is found when all have been read (control/validation.py)."""
        name, listener = call.command.name, call.listener
        config = self._listener(listener)
        if call.command.setting is not None:
            self._set_own(config, listener, name, call)
        elif name == "servers":
            config.servers = call["numbers"]
        elif name == "server":
            self._differ(config, call)
        elif call["setting"] is not None:
            config.own.pop(call["setting"], None)
        else:
            config.members.pop(call["number"], None)

    def _no_listener(self, call: Call, name: str) -> ScriptError:
        return no_listener(self, name, call.origin)

    def _listener(self, name: str) -> ListenerConfig:
        """What is said of a listener, to be changed."""
        config = self.listeners.get(name)
        if config is None:
            under = None if name in self.listeners else self._base.listener_of(name)
            config = self.listeners[name] = under.copy() if under is not None else ListenerConfig()
        return config

    def _set_own(self, config: ListenerConfig, listener: str, name: str, call: Call) -> None:
        value = call["value"]
        settings = self.settings_of(listener)
        _refuse_unknown(call, settings)
        if isinstance(value, ServerSpec):
            value = _with_port(value, _port_of(settings))
            self._origins[special_name(listener, name)] = call.origin
        settings.set(name, value)
        config.own[name] = settings.get(name)
        if name == "listen":
            for special in SPECIAL:
                spec = config.own.get(special)
                if spec is not None:
                    config.own[special] = _with_port(spec, _port_of(settings))

    def _differ(self, config: ListenerConfig, call: Call) -> None:
        number, changes = call["number"], call["changes"]
        fields = config.members.setdefault(number, {})
        for name in (name for name in MEMBER_FIELDS if name in changes):
            fields.pop(name, None)
            if changes[name] is not None:
                fields[name] = changes[name]
        if not fields:
            del config.members[number]
        if changes.get("failed") is not None:
            self.failed[call.listener, number] = changes["failed"]

    def set(self, name: str, value: Any, origin: str = "") -> None:
        """Give a setting a value that its kind has read, or None for its default."""
        if isinstance(value, ServerSpec):
            value = _with_port(value, _port_of(self.settings))
            self._origins[name] = origin
        self.settings.set(name, value)
        self.values[name] = self.settings.get(name)
        if name == "listen":
            self._give_port()

    def replace(self, name: str, value: Any) -> None:
        """Give a setting a value that another configuration has."""
        self._every = None
        self.settings.replace(name, value)
        self.values[name] = value

    def change_listener(self, name: str, config: ListenerConfig | None) -> None:
        """Say this of a listener from now on; None ends it."""
        self._every = None
        self.listeners[name] = config

    def configure(self, number: int, fields: Mapping[str, Any]) -> None:
        """Give a server these fields; one that is not there needs an address among them."""
        self.servers.setdefault(number, {}).update(fields)

    def delete(self, number: int) -> None:
        """Take a server away."""
        self.servers.pop(number, None)
        self.actions.pop(number, None)
        for name in self.listener_names():
            config = self.listener_of(name)
            if config is not None and number in config.members:  # a new server of this number is another one
                del self._listener(name).members[number]
        if self._base.address_of(number) is not None:
            self.deleted.add(number)

    def _change(self, call: Call) -> None:
        number, changes = call["number"], call["changes"]
        address = self.address_of(number)
        if address is None and "address" not in changes:
            if str(number) in self._unmade:
                return  # its address was wrong, which is told
            raise self._no_server(call, number, "; a new one needs an address")
        call.refuse_elsewhere(self._place(Address(), changes) if address is None else address)
        fields = {name: changes[name] for name in FIELDS if name in changes}
        if "address" in changes or "port" in changes:
            fields["address"] = self._place(address or Address(), changes)
            self._origins[number] = call.origin
        _refuse_port(call, {**(self.fields_of(number) or FIELDS), **fields})
        self.configure(number, fields)
        for name in (name for name in changes if name in ACTIONS):
            actions = self.actions.setdefault(number, {})
            actions.pop(name, None)  # the last word counts, in its place
            actions[name] = changes[name]

    def _no_server(self, call: Call, number: int, more: str = "") -> ScriptError:
        return call.error(f"there is no server {number} (known: {ranges(self.numbers())}){more}")

    def _delete(self, call: Call) -> None:
        number = call["number"]
        address = self.address_of(number)
        if address is None:
            raise call.error(f"there is no server {number}")
        call.refuse_elsewhere(address)
        self.delete(number)

    def _remember(self, call: Call) -> None:
        if call.listener and self.listener_of(call.listener) is None:
            raise self._no_listener(call, call.listener)
        place = None if call.no else (call["server"], call["idle"])
        route = None if call.no else call["route"]
        if place is not None and self.address_of(place[0]) is None:
            raise self._no_server(call, place[0])
        if route is not None:
            known = [key for key, _ in self.settings_of(call.listener).route]
            if route not in known and not (known and route == NO_MATCH):
                raise _no_key(call, "route", route, known)
        client = call.listener, call["address"], route
        self.clients.pop(client, None)  # the last word counts, in its place
        self.clients[client] = place

    def _list(self, call: Call) -> None:
        number = call["number"]
        if call.no:
            self.lists[number] = AccessList()
            return
        if number not in self.lists:
            self.lists[number] = self._base.list_of(number).copy()
        self.lists[number].add(call["entry"])

    # --- addresses --------------------------------------------------------------------------------------------------

    def _place(self, address: Address, changes: Mapping[str, Any]) -> Address:
        """A server's address with the changes; a new server has the listening port unless it is told another."""
        given = changes.get("address", address)
        if given.path:
            return Address(path=given.path)
        port = changes.get("port", given.port)
        if port == "":
            port = address.port or _port_of(self.settings)  # port 0 was the slot's, when there was no server in it
        return Address(given.host, port)

    def _give_port(self) -> None:
        """Give the listening port to the servers that were named before it was, without a port."""
        for number in list(self.numbers()):
            address = self.address_of(number)
            if address is not None and not address.path and address.port == "":
                self.configure(number, {"address": self._place(address, {})})
        for name in SPECIAL:
            spec = self.settings.get(name)
            if spec is not None and not spec.address.path and spec.address.port == "":
                self.set(name, spec)

    def new_addresses(self) -> Mapping[int | str, Address]:
        """The addresses that are not in force yet, by the number or special name of the server."""
        new: dict[int | str, Address] = {label: address for label, address in self._base.new_addresses().items()
                                         if label not in self.deleted and label not in self.values}
        new |= {number: fields["address"] for number, fields in self.servers.items() if "address" in fields}
        new |= {name: self.values[name].address for name in SPECIAL if self.values.get(name) is not None}
        new = {label: address for label, address in new.items() if _listener_in(label) not in self.listeners}
        for listener, config in self.listeners.items():
            own = {} if config is None else config.own
            new |= {special_name(listener, name): own[name].address for name in SPECIAL if own.get(name) is not None}
        return new

    def give_origin(self, label: int | str, origin: str) -> None:
        """Say where the address of a server was given."""
        self._origins[label] = origin

    def origin_of(self, label: int | str) -> str:
        """Where the address of a server was given; empty when nobody knows."""
        return self._origins.get(label) or self._base.origin_of(label)

    # --- whether it can work ----------------------------------------------------------------------------------------

    def is_unmade(self, number: int) -> bool:
        """Whether the line that makes a server was wrong, which is told."""
        return str(number) in self._unmade

    def check(self) -> None:
        """Raises ScriptErrors for what each line allows, but not all of them together."""
        wrong = list(errors(self))
        if wrong:
            raise ScriptErrors(wrong)


def _refuse_unknown(call: Call, settings: Settings) -> None:
    """Raises ScriptError when a setting is to have something no more that it has not."""
    setting, value = call.command.setting, call["value"]
    if setting is not None and setting.is_keyed and call.no and value:
        known = [key for key, _ in settings.get(setting.name)]
        if value[0][0] not in known:
            raise _no_key(call, setting.name, value[0][0], known)


def _no_key(call: Call, name: str, key: str | Key, known: Sequence[str | Key]) -> ScriptError:
    """A setting of this name has nothing under this key."""
    more = f" and {len(known) - _MOST_KNOWN} more" if len(known) > _MOST_KNOWN else ""
    return call.error(f"there is no {name} '{_key_words(key)}' (known: "
                      f"{', '.join(map(_key_words, known[:_MOST_KNOWN])) or 'none'}{more})")


def _key_words(key: str | Key) -> str:
    return key if isinstance(key, str) else called(key)


def _refuse_port(call: Call, fields: Mapping[str, Any]) -> None:
    """Raises ScriptError when a server that is a unix socket shall be checked at a port."""
    address = fields["address"]
    if address.path and fields["check_port"]:
        raise call.error(f"check_port: server {call['number']} is the unix socket {address}, which has no port")


def _port_of(settings: Settings) -> int | str:
    """The port where a listener with these settings listens; empty when it has none."""
    return parse_listen(settings.listen).port or "" if settings.listen else ""


def _with_port(spec: ServerSpec, port: int | str) -> ServerSpec:
    """A server that was named without a port is at this one."""
    address = spec.address
    return spec if address.path or address.port != "" else ServerSpec(Address(address.host, port), spec.options)


def _listener_in(label: int | str) -> str:
    """The listener whose special server has this name; empty for others."""
    return label.rpartition("/")[0] if isinstance(label, str) else ""


def no_listener(base: Base, name: str, origin: str = "") -> ScriptError:
    """There is none of this name."""
    known = ", ".join(base.listener_names()) or "none"
    return ScriptError(f"listener {name}: there is no listener of this name (known: {known})", origin)
