"""Whether what is configured makes sense together: what is refused, and what is told because it has no effect.

Settings may come in any order and one by one, so that most of what waits for another line is no error. Refused is what
would be dangerous to leave out in silence; told, once, is what somebody may believe in though nothing comes of it. What
prepares for later, or is seen to do nothing, is neither: geoip_db before the entries that name countries, say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from gpen.control.script import ScriptError
from gpen.model.acl import LISTS, number_of
from gpen.model.address import network_address
from gpen.model.check import OFF
from gpen.model.pool import Pool
from gpen.model.scheduler import RULES
from gpen.model.server import FIELDS, Server
from gpen.model.settings import SETTINGS, Settings

if TYPE_CHECKING:
    from gpen.control.configuration import Configuration
    from gpen.control.draft import Draft


class Refused(NamedTuple):
    """Settings that can't be given, each of them, ``when`` the others are so."""

    names: Sequence[str]
    when: Callable[[Settings], object]
    why: str


class Vain(NamedTuple):
    """Settings that have no effect ``when`` the rest is so."""

    names: Sequence[str]
    when: Callable[[Settings, Pool], object]
    why: str


class VainAtServer(NamedTuple):
    """A field of a server, or a setting, that has no effect on a server ``when`` that, and the rest, is so."""

    name: str
    when: Callable[[Settings, Pool, Server], object]
    why: str


_FOR_TCP = "it is for TCP, and this gpen balances UDP (-U)"
_PERMITS_ALL = "the access list is empty, and permits everybody"
_NO_LOGIN = ("a MySQL server (mysql) blocks gpen's address (1129) after max_connect_errors connections without a "
             "login: take check connect, which it does not see")

REFUSED = (
    Refused(("http", "ssl_certificate", "mysql", "greeting", "hold", "proxy_protocol", "accept_proxy", "idlers",
             "dummy"), lambda settings: settings.udp, _FOR_TCP),
    Refused(("ssl_ca_file", "ssl_ca_path", "ssl_require_peer", "ssl_sni_path"),  # who asks for these must get them
            lambda settings: not settings.ssl_certificate,
            "TLS needs a certificate: give ssl_certificate (-E FILE)"),
    Refused(("ssl_require_peer",), lambda settings: settings.ssl_certificate and not (
        settings.ssl_ca_file or settings.ssl_ca_path or settings.ssl_sni_path),
            "by whose word is a certificate valid? give ssl_ca_file (-G) or ssl_ca_path (-A)"),
    Refused(("ssl_alpn",), lambda settings: settings.http and "h2" in (settings.ssl_alpn or ()),
            "HTTP mode (-H) speaks HTTP/1 only: leave h2 out"),
    Refused(("mysql", "greeting"), lambda settings: settings.http, "servers of HTTP (-H) don't speak first"),
    Refused(("idlers",), lambda settings: settings.mysql, _NO_LOGIN),
    Refused(("check",), lambda settings: settings.mysql and settings.check.is_talk, _NO_LOGIN),
)

VAIN = (
    Vain(("udp_timeout", "udp_replies", "udp_unanswered"), lambda settings, pool: not settings.udp,
         "it is for UDP, and this gpen balances TCP (no -U)"),
    Vain(("udp_unanswered",), lambda settings, pool: settings.udp and not settings.udp_replies,
         "silence is held against no server unless udp_replies says that replies are due"),
    Vain(("backlog", "pending_max", "idle_timeout", "half_closed_timeout", "tcp_fastclose", "tcp_nodelay", "keepalive",
          "user_timeout"), lambda settings, pool: settings.udp, _FOR_TCP),
    Vain(("client_max",), lambda settings, pool: settings.client_max > settings.conn_max,
         "conn_max allows fewer in all"),
    Vain(("client_max",), lambda settings, pool: "/" in (settings.listen or "") and settings.accept_proxy == "off",
         "clients of a unix socket have no address"),
    Vain(("half_closed_timeout",), lambda settings, pool: (
        0 < settings.idle_timeout <= settings.half_closed_timeout), "idle_timeout is shorter, or the same"),
    Vain(("hold_max",), lambda settings, pool: not settings.hold, "no client waits, unless hold says for how long"),
    Vain(("http_header_max", "http_head_timeout"), lambda settings, pool: not settings.http,
         "it is for HTTP mode (-H), which is off"),
    Vain(("ssl_key", "ssl_protocol", "ssl_ciphers", "ssl_option", "ssl_alpn", "ssl_handshake"),
         lambda settings, pool: not settings.ssl_certificate, "without a certificate (-E FILE) there is no TLS"),
    Vain(("ssl_ciphers",), lambda settings, pool: (
        settings.ssl_protocol == "tls1.3" or "no_tlsv1.2" in settings.ssl_option),
         "it is for TLS 1.2, which is not spoken; TLS 1.3 has its own"),
    Vain(("ssl_ca_file", "ssl_ca_path"), lambda settings, pool: not settings.ssl_require_peer,
         "no client is asked for a certificate, unless with ssl_require_peer (-R)"),
    Vain(("check_interval", "check_timeout", "check_rise", "check_fall"), lambda settings, pool: (
        settings.check == OFF and not any(server.check not in (None, OFF) for server in pool.servers.values())),
         "no server is checked: see check"),
    Vain(("tracking",), lambda settings, pool: (
        settings.roundrobin and not any(server.hard for server in pool.servers.values())),
         "roundrobin (-r) does not look a client's last server up"),
    *(Vain((rule.name,), lambda settings, pool, name=rule.name: pool.rule.name != name,  # type: ignore[misc]
           f"of {', '.join(rule.name for rule in RULES)}, the first that is on chooses") for rule in RULES),
    Vain(("emergency",), lambda settings, pool: settings.stubborn, "stubborn (-s) does not fail over"),
    Vain(("abuse",), lambda settings, pool: not pool.acls[settings.client_acl].entries,
         "the access list of client_acl is empty, and denies nobody"),
    Vain(("client_acl",), lambda settings, pool: not pool.acls[settings.client_acl].entries, _PERMITS_ALL),
    Vain(("control_acl",), lambda settings, pool: (  # 0 stands in all files that pen has written
        settings.control_acl and not pool.acls[settings.control_acl].entries), _PERMITS_ALL),
    Vain(("accept_proxy",), lambda settings, pool: not pool.acls[int(settings.accept_proxy)].entries,
         "the access list is empty: whoever comes must begin with a header, and is who it says"),
    Vain(("log_format",), lambda settings, pool: network_address(settings.log or ""),
         "a log elsewhere gets pen's datagram for each request"),
    Vain(("control_access",), lambda settings, pool: "/" in (settings.control or ""),
         "the control socket is a file: whoever may open that may do all"),
    Vain(("control_acl",), lambda settings, pool: settings.control_acl and "/" in (settings.control or ""),
         "the control socket is a file, and clients of that have no address"),
    Vain(("control_mode",), lambda settings, pool: settings.control and "/" not in settings.control,
         "the control socket is a port, not a file"),
)

VAIN_AT_SERVERS = (
    VainAtServer("prio", lambda settings, pool, server: server.prio and not settings.prio, "the mode prio is off"),
    VainAtServer("weight", lambda settings, pool, server: server.weight != FIELDS["weight"] and not pool.rule.weighs,
                 "none of the modes that weigh is on"),
    VainAtServer("hard", lambda settings, pool, server: server.hard and (not server.max or server.hard < server.max),
                 "it is how far clients that return may go beyond max"),
    VainAtServer("acl", lambda settings, pool, server: server.acl and not pool.acls[server.acl].entries, _PERMITS_ALL),
    VainAtServer("source", lambda settings, pool, server: settings.source and _is_elsewhere(settings.source, server),
                 "it is of the other family (IPv4, IPv6) than the server's address"),
)


def errors(draft: Draft) -> Iterator[ScriptError]:
    """What each line allows, but not all of them together."""
    settings = draft.settings
    for names, when, why in REFUSED:
        if when(settings):
            yield from (ScriptError(f"{name}: {why}") for name in names if _is_given(settings, name))
    if settings.mysql:
        yield from _talks(draft)
    if settings.udp:
        places = [settings.listen or "", *map(str, draft.new_addresses().values())]
        yield from (ScriptError(f"udp: needs HOST:PORT, not a unix socket: {place}") for place in places
                    if "/" in place)
    if not settings.geoip_db and any(draft.list_of(number).names_countries for number in range(LISTS)):
        yield ScriptError("acl: country needs a database that knows countries: give geoip_db FILE first")


def _talks(draft: Draft) -> Iterator[ScriptError]:
    """The servers with a check of their own that a MySQL server would count."""
    its = [(number, check) for number, check in draft.own_checks().items() if check.is_talk]
    if its:
        (number, check), more = its[0], f" (and {len(its) - 1} more)" if len(its) > 1 else ""
        yield ScriptError(f"server {number}{more}: check {check.kind}: {_NO_LOGIN}")


def notes(configuration: Configuration, servers: Iterable[Server]) -> Iterator[tuple[str, str]]:
    """What is to be told of a configuration, and of these servers in it: what it is about, to tell it once, and a line
    of words."""
    settings, pool = configuration.settings, configuration.pool
    for name in sorted(configuration.ignored):
        yield name, f"{name}: accepted for pen's sake, without effect"
    protocol = settings.ssl_protocol
    if protocol and not protocol.startswith("tls1."):
        yield "ssl_protocol", (f"ssl_protocol {protocol}: means TLS 1.2 and 1.3 now: the versions of its time are "
                               "broken and gone")
    for names, when, why in VAIN:
        given = [name for name in names if _is_given(settings, name)]
        if given and when(settings, pool):
            yield from ((f"{name}: {why}", f"{SETTINGS[name].line(settings.get(name))} has no effect: {why}")
                        for name in given)
    servers = list(servers)
    for name, is_vain, why in VAIN_AT_SERVERS:
        its = [server for server in servers if is_vain(settings, pool, server)]
        if its:
            more = f" (and {len(its) - 1} more)" if len(its) > 1 else ""
            what = f"{name} {getattr(its[0], name) if name in FIELDS else settings.get(name)}"
            yield f"server {name}", f"{what} has no effect on server {its[0].name}{more}: {why}"


def _is_given(settings: Settings, name: str) -> bool:
    return bool(settings.get(name) != SETTINGS[name].default)


def _is_elsewhere(source: str, server: Server) -> bool:
    """Whether all addresses of a server that are known are of the family that ``source`` is not of."""
    if server.is_empty or server.address.path:
        return False
    families = {6 if ":" in endpoint.host else 4 for endpoint in server.endpoints} or {_family(server.address.host)}
    return all(families) and (6 if ":" in source else 4) not in families


def _family(host: str) -> int:
    """4 or 6; 0 for what is no address in numbers."""
    try:
        return number_of(host)[1]
    except ValueError:
        return 0
