"""The configuration: what commands can change, changed by running them, and written back as commands.

``dump`` and ``run`` are inverse: a new Configuration that runs what another one dumps is its equal. So a script can be
rehearsed on such a copy before its first line counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from gpen.control.script import Call, ScriptError, parse_lines
from gpen.model.address import Address, ServerSpec, parse_listen
from gpen.model.client import ClientTable
from gpen.model.pool import SPECIAL, Pool
from gpen.model.server import Server
from gpen.model.settings import SETTINGS, Settings
from gpen.model.words import quote

UDP_LACKS = ("http", "ssl_certificate", "mysql", "greeting", "hold", "proxy_protocol", "accept_proxy", "idlers",
             "dummy")
TLS_ONLY = ("ssl_ca_file", "ssl_ca_path", "ssl_require_peer", "ssl_sni_path")  # who asks for these must get them
_SERVER_OPTIONS = ("max", "hard", "weight", "prio", "acl")


class Configuration:
    """Settings, servers and access lists, with the memory of clients that they govern."""

    def __init__(self, clock: Callable[[], float], wall: Callable[[], float]) -> None:
        """``clock`` gives seconds that never jump, ``wall`` the time of day in seconds since 1970."""
        self.settings = Settings()
        self.pool = Pool(self.settings, clock, wall)
        self.clients = ClientTable()
        self.ignored: set[str] = set()  # commands without effect that were run
        self.origins: dict[str, str] = {}  # where the servers' places were given last, by their names
        self._clocks = (clock, wall)

    def run(self, call: Call) -> None:
        """Carry out one configuring command. Raises ScriptError, with nothing changed, when it makes no sense now."""
        name = call.command.name
        if call.command.setting is not None:
            self._set(name, call["value"])
            if name in SPECIAL:
                self.origins[name] = call.origin
        elif name == "server":
            self._delete_server(call) if call.no else self._change_server(call)
        elif call.command.is_ignored:
            self.ignored.add(name)
        elif name == "acl":
            entries = self.pool.acls[call["number"]].entries
            entries.clear() if call.no else entries.append(call["entry"])

    def rehearse(self, calls: Iterable[Call]) -> Configuration:
        """A copy of this configuration on which the calls have run. Raises ScriptError when one of them can't."""
        copy = Configuration(*self._clocks)
        for call in parse_lines(self.dump(), "the configuration in force"):
            copy.run(call)
        copy.origins.clear()
        for call in calls:
            copy.run(call)
        return copy

    def check(self) -> None:
        """Raises ScriptError for what each line allows, but not all of them together."""
        settings = self.settings
        for name in UDP_LACKS if settings.udp else ():
            if settings.get(name) != SETTINGS[name].default:
                raise ScriptError(f"{name}: it is for TCP, and this gpen balances UDP (-U)")
        places = [settings.listen or "", *(str(server.address) for server in self.pool.all_servers())]
        if settings.udp and any("/" in place for place in places):
            raise ScriptError(f"udp: needs HOST:PORT, not a unix socket: {next(p for p in places if '/' in p)}")
        self._check_tls()
        if settings.http and (settings.greeting or settings.mysql):
            raise ScriptError(f"{'mysql' if settings.mysql else 'greeting'}: servers of HTTP (-H) don't speak first")
        if not settings.geoip_db and any(access.names_countries for access in self.pool.acls):
            raise ScriptError("acl: country needs a database that knows countries: give geoip_db FILE first")

    def _check_tls(self) -> None:
        settings = self.settings
        for name in TLS_ONLY if not settings.ssl_certificate else ():
            if settings.get(name):
                raise ScriptError(f"{name}: TLS needs a certificate: give ssl_certificate (-E FILE)")
        if settings.ssl_require_peer and not (settings.ssl_ca_file or settings.ssl_ca_path or settings.ssl_sni_path):
            raise ScriptError("ssl_require_peer: by whose word is a certificate valid? give ssl_ca_file (-G) or "
                              "ssl_ca_path (-A)")
        if settings.http and "h2" in (settings.ssl_alpn or ()):
            raise ScriptError("ssl_alpn: HTTP mode (-H) speaks HTTP/1 only: leave h2 out")

    def dump(self) -> Iterator[str]:
        """The commands that make this configuration."""
        yield from self._dump_acls()
        for setting in SETTINGS.values():
            if not setting.missing:
                yield setting.line(self.settings.get(setting.name))
        for server in self.pool.servers.values():
            yield server_line(server)

    def _dump_acls(self) -> Iterator[str]:
        for number, access in enumerate(self.pool.acls):
            yield f"no acl {number}"
            yield from (f"acl {number} {entry}" for entry in access.entries)

    def _set(self, name: str, value: object) -> None:
        if isinstance(value, ServerSpec):
            value = self._with_port(value)
        self.settings.set(name, value)
        if name in SPECIAL:
            self.pool.set_special(name, self.settings.get(name))
        elif name == "listen":
            self._give_port()
        elif name == "clients_max":
            self.clients.shrink(self.settings.clients_max)

    def _change_server(self, call: Call) -> None:
        changes = dict(call["changes"])
        server = self.pool.servers.get(call["number"])
        if server is None:
            if "address" not in changes:
                known = ", ".join(map(str, self.pool.servers)) or "none"
                raise call.error(f"there is no server {call['number']} (known: {known}); a new one needs an address")
            server = self.pool.add(call["number"], self._place(Address(), changes))
        self.pool.move(server, self._place(server.address, changes))
        if "address" in changes or "port" in changes:
            self.origins[server.name] = call.origin
        if "blacklist" in changes:
            self.pool.blacklist(server, changes["blacklist"])
        if "state" in changes:
            self.pool.set_state(server, changes["state"])
        if "check" in changes:
            server.check = changes["check"]
        if "health" in changes:
            self.pool.judge(server, "command", *changes["health"])
        for option in _SERVER_OPTIONS:
            if option in changes:
                setattr(server, option, changes[option])

    def _place(self, address: Address, changes: dict[str, Any]) -> Address:
        """A server's address with the changes; a new server has the listening port unless it is told another."""
        given = changes.get("address", address)
        if given.path:
            return Address(path=given.path)
        port = changes.get("port", given.port)
        if port == "":
            port = address.port or self._listen_port()  # port 0 was the slot's, when there was no server in it
        return Address(given.host, port)

    def _delete_server(self, call: Call) -> None:
        try:
            self.pool.delete(call["number"])
        except KeyError:
            raise call.error(f"there is no server {call['number']}") from None

    def _listen_port(self) -> int | str:
        listen = self.settings.listen
        return parse_listen(listen).port or "" if listen else ""

    def _give_port(self) -> None:
        """Give the listening port to the servers that were named before it was, without a port."""
        for server in self.pool.servers.values():
            self.pool.move(server, self._place(server.address, {}))
        for name in SPECIAL:
            spec = self.settings.get(name)
            if spec is not None and not spec.address.path and spec.address.port == "":
                self._set(name, spec)

    def _with_port(self, spec: ServerSpec) -> ServerSpec:
        address = spec.address
        if address.path or address.port != "":
            return spec
        return ServerSpec(Address(address.host, self._listen_port()), spec.options)


def server_line(server: Server) -> str:
    """The command that makes this server."""
    address = server.address
    place = f"address {quote(address.path or address.host)}" + (f" port {address.port}" if address.port != "" else "")
    options = " ".join(f"{name} {getattr(server, name)}" for name in _SERVER_OPTIONS)
    state = "" if server.state == "ready" else f" state {server.state}"
    check = "" if server.check is None else f" check {server.check}"
    return f"server {server.number} {place} {options}{state}{check}"
