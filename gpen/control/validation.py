"""Whether what is configured makes sense together: what is refused, and what is told because it has no effect.

Settings may come in any order and one by one, so that most of what waits for another line is no error. Refused is what
would be dangerous to leave out in silence; told, once, is what somebody may believe in though nothing comes of it. What
prepares for later, or is seen to do nothing, is neither: geoip_db before the entries that name countries, say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from gpen.control.script import ScriptError
from gpen.model.acl import LISTS, number_of
from gpen.model.address import UNSPECIFIED, Address, network_address, parse_listen
from gpen.model.check import OFF
from gpen.model.listener import ListenerConfig, Misled, Scope, memory_of
from gpen.model.pool import Pool
from gpen.model.route import ALPN, HOST, SNI, called, kinds_of
from gpen.model.scheduler import RULES
from gpen.model.selector import Selector
from gpen.model.server import FIELDS, MEMBER_FIELDS, Member, Server
from gpen.model.settings import PROCESS, SETTINGS, Settings
from gpen.model.shared import NAME_OF_UNNAMED
from gpen.model.text import ranges
from gpen.model.value_types import listener_prefix

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
    when: Callable[[Settings, Selector], object]
    why: str


class VainAtServer(NamedTuple):
    """A field of a server, or a setting, that has no effect on a server of a listener ``when`` that, and the rest, is
    so."""

    name: str
    when: Callable[[Settings, Selector, Member], object]
    why: str


_FOR_TCP = "it is for TCP, and this is UDP (udp, -U)"
_DIRECT = "servers answer clients themselves (dsr_if), and gpen sees no bytes of theirs"
_PERMITS_ALL = "the access list is empty, and permits everybody"
_NO_ROUTE = "; 'no route' at this listener takes routes away that are shared"
_INSIDE = ("MySQL's TLS (mysql) begins inside its protocol, between client and server, and passes as it is: leave this "
           "out, and give the servers certificates")
_NO_LOGIN = ("a MySQL server (mysql) blocks gpen's address (1129) after max_connect_errors connections without a "
             "login: take check connect, which it does not see")

REFUSED = (
    Refused(("http", "ssl_certificate", "mysql", "greeting", "hold", "proxy_protocol", "accept_proxy", "idlers",
             "server_tls", "dummy", "route"), lambda settings: settings.udp, _FOR_TCP),
    Refused(("route",), lambda settings: not settings.ssl_certificate and (settings.mysql or settings.greeting),
            f"its servers speak first (mysql, greeting): what clients ask for in TLS comes too late{_NO_ROUTE}"),
    Refused(("route",), lambda settings: HOST in kinds_of(settings.route) and not settings.http,
            f"host is what clients of HTTP ask for: give http (-H), or take sni{_NO_ROUTE}"),
    Refused(("route",), lambda settings: settings.http and not settings.ssl_certificate and (
        {SNI, ALPN} & kinds_of(settings.route)),
            f"clients of HTTP mode (-H) speak TLS only where it is ended: give ssl_certificate (-E), or take host"
            f"{_NO_ROUTE}"),
    Refused(("route",), lambda settings: settings.ssl_certificate and not settings.ssl_alpn and (
        ALPN in kinds_of(settings.route)),
            f"alpn is what was agreed on where TLS is ended: give ssl_alpn, the protocols to choose from{_NO_ROUTE}"),
    Refused(("http", "ssl_certificate", "mysql", "greeting", "hold", "proxy_protocol", "accept_proxy", "idlers",
             "server_tls", "dummy", "route", "transparent", "bandwidth", "bandwidth_total"),
            lambda settings: settings.dsr_if, _DIRECT),
    Refused(("dsr_if",), lambda settings: settings.listen and not _has_service(settings),
            "which address do clients connect to? give dsr_ip ADDRESS, or listen ADDRESS:PORT, of IPv4"),
    # who asks for these must get them
    Refused(("ssl_ca_file", "ssl_ca_path", "ssl_require_peer", "ssl_verify_client", "ssl_sni_path", "ssl_strict_sni"),
            lambda settings: not settings.ssl_certificate,
            "TLS needs a certificate: give ssl_certificate (-E FILE)"),
    Refused(("ssl_require_peer", "ssl_verify_client"), lambda settings: settings.ssl_certificate and not (
        settings.ssl_ca_file or settings.ssl_ca_path or settings.ssl_sni_path),
            "by whose word is a certificate valid? give ssl_ca_file (-G) or ssl_ca_path (-A)"),
    Refused(("ssl_alpn",), lambda settings: settings.http and "h2" in (settings.ssl_alpn or ()),
            "HTTP mode (-H) speaks HTTP/1 only: leave h2 out"),
    Refused(("server_tls",), lambda settings: settings.mysql, _INSIDE),
    Refused(("server_tls_alpn",), lambda settings: settings.http and "h2" in (settings.server_tls_alpn or ()),
            "HTTP mode (-H) speaks HTTP/1 only: leave h2 out"),
    Refused(("peers_certificate",), lambda settings: not settings.peers_ca,
            "whose certificates are taken? give peers_ca, their authority"),
    Refused(("peers_ca",), lambda settings: not settings.peers_certificate,
            "peers verify each other: give peers_certificate, one of this authority"),
    Refused(("metrics_control",), lambda settings: not settings.metrics_token,
            "who may act? give metrics_token, a file with a word that they know"),
    Refused(("mysql", "greeting"), lambda settings: settings.http, "servers of HTTP (-H) don't speak first"),
    Refused(("idlers",), lambda settings: settings.mysql, _NO_LOGIN),
    Refused(("idlers",), lambda settings: settings.transparent,
            "they would come from gpen's own address, and clients come from theirs (transparent): take check connect"),
    Refused(("check",), lambda settings: settings.mysql and settings.check.is_talk and not settings.check_port,
            _NO_LOGIN),
)

VAIN = (
    Vain(("udp_timeout", "udp_replies", "udp_unanswered", "udp_requests"), lambda settings, selector: not settings.udp,
         "it is for UDP, and this is TCP (no udp, no -U)"),
    Vain(("udp_unanswered",), lambda settings, selector: settings.udp and not settings.udp_replies,
         "silence is held against no server unless udp_replies says that replies are due"),
    Vain(("session_max_age",), lambda settings, selector: settings.udp, _FOR_TCP),
    Vain(("dsr_ip", "tarpit_acl"), lambda settings, selector: not settings.dsr_if,
         "it is for direct server return, which is off (dsr_if)"),
    Vain(("tarpit_acl",), lambda settings, selector: settings.dsr_if and settings.udp, _FOR_TCP),
    Vain(("tarpit_acl",), lambda settings, selector: (
        settings.tarpit_acl != "off" and not selector.pool.acls[int(settings.tarpit_acl)].entries),
         "the access list is empty, and nobody is in the pit"),
    Vain(("backlog", "pending_max", "half_closed_timeout", "tcp_fastclose", "tcp_nodelay", "keepalive", "user_timeout",
          "source", "session_max_age", "udp_replies", "udp_unanswered"), lambda settings, selector: settings.dsr_if,
         _DIRECT),
    Vain(("udp_requests",), lambda settings, selector: settings.dsr_if and settings.udp,
         "flows of direct server return (dsr_if) end with their silence alone"),
    Vain(("backlog", "pending_max", "idle_timeout", "half_closed_timeout", "tcp_fastclose", "tcp_nodelay", "keepalive",
          "user_timeout", "bandwidth", "bandwidth_total"), lambda settings, selector: settings.udp, _FOR_TCP),
    Vain(("bandwidth",), lambda settings, selector: 0 < settings.bandwidth_total < settings.bandwidth,
         "bandwidth_total is less, for all together"),
    Vain(("client_max",), lambda settings, selector: settings.client_max > settings.conn_max,
         "conn_max allows fewer in all"),
    Vain(("client_max", "client_rate"),
         lambda settings, selector: "/" in (settings.listen or "") and settings.accept_proxy == "off",
         "clients of a unix socket have no address"),
    Vain(("route",), lambda settings, selector: settings.dummy, "dummy answers by itself"),
    Vain(("idlers",), lambda settings, selector: not settings.listen,
         "they are those of the listener without a name, which has no address"),
    Vain(("half_closed_timeout",), lambda settings, selector: (
        0 < settings.idle_timeout <= settings.half_closed_timeout), "idle_timeout is shorter, or the same"),
    Vain(("hold_max",), lambda settings, selector: not settings.hold, "no client waits, unless hold says for how long"),
    Vain(("http_header_max", "http_head_timeout"), lambda settings, selector: not settings.http,
         "it is for HTTP mode (-H), which is off"),
    Vain(("ssl_key", "ssl_key_passphrase", "ssl_protocol", "ssl_ciphers", "ssl_option", "ssl_alpn"),
         lambda settings, selector: not settings.ssl_certificate, "without a certificate (-E FILE) there is no TLS"),
    Vain(("ssl_handshake",), lambda settings, selector: (
        not settings.ssl_certificate and (settings.http or not settings.route)),
         "without a certificate (-E FILE), or routes, no TLS is looked at"),
    Vain(("ssl_ciphers",), lambda settings, selector: (
        settings.ssl_protocol == "tls1.3" or "no_tlsv1.2" in settings.ssl_option),
         "it is for TLS 1.2, which is not spoken; TLS 1.3 has its own"),
    Vain(("ssl_ca_file", "ssl_ca_path"), lambda settings, selector: (
        not settings.ssl_require_peer and settings.ssl_verify_client == "off"),
         "no client is asked for a certificate, unless with ssl_verify_client, or ssl_require_peer (-R)"),
    Vain(("ssl_verify_client",), lambda settings, selector: (
        settings.ssl_require_peer and settings.ssl_verify_client == "optional"), "ssl_require_peer (-R) requires one"),
    Vain(("listen_mode",), lambda settings, selector: settings.listen and "/" not in settings.listen,
         "the listener is a port, not a file"),
    Vain(("server_tls_key",), lambda settings, selector: not settings.server_tls_certificate,
         "it is that of server_tls_certificate, which is not set"),
    Vain(("server_tls_ca", "server_tls_verify", "server_tls_name", "server_tls_certificate", "server_tls_alpn"),
         lambda settings, selector: not _speaks_tls(settings, selector.pool),
         "no server speaks TLS: see server_tls"),
    Vain(("server_tls_ca",), lambda settings, selector: settings.server_tls_verify == "off",
         "server_tls_verify is off, and no certificate is checked"),
    Vain(("check_interval", "check_timeout", "check_rise", "check_fall", "check_port"), lambda settings, selector: (
        settings.check == OFF
        and not any(server.check not in (None, OFF) for server in selector.pool.servers.values())),
         "no server is checked: see check"),
    Vain(("tracking",), lambda settings, selector: (
        settings.roundrobin and not any(server.hard for server in selector.pool.servers.values())),
         "roundrobin (-r) does not look a client's last server up"),
    Vain(("tracking",), lambda settings, selector: not selector.rule.remembers, "stateless remembers nobody's server"),
    Vain(("slowstart",), lambda settings, selector: selector.rule.is_personal,
         "with hash and stateless a client has a server of its own"),
    *(Vain((rule.name,), lambda settings, selector, name=rule.name: selector.rule.name != name,  # type: ignore[misc]
           f"of {', '.join(rule.name for rule in RULES)}, the first that is on chooses") for rule in RULES),
    Vain(("emergency",), lambda settings, selector: settings.stubborn, "stubborn (-s) does not fail over"),
    Vain(("abuse",), lambda settings, selector: not selector.pool.acls[settings.client_acl].entries,
         "the access list of client_acl is empty, and denies nobody"),
    Vain(("client_acl",), lambda settings, selector: not selector.pool.acls[settings.client_acl].entries, _PERMITS_ALL),
    Vain(("control_acl",), lambda settings, selector: (  # 0 stands in all files that pen has written
        settings.control_acl and not selector.pool.acls[settings.control_acl].entries), _PERMITS_ALL),
    Vain(("accept_proxy",), lambda settings, selector: not selector.pool.acls[int(settings.accept_proxy)].entries,
         "the access list is empty: whoever comes must begin with a header, and is who it says"),
    Vain(("proxy_v2_options",), lambda settings, selector: settings.proxy_protocol != "v2",
         "only a header of version 2 has room for it: see proxy_protocol"),
    Vain(("transparent",), lambda settings, selector: "/" in (settings.listen or "") and settings.accept_proxy == "off",
         "clients of a unix socket have no address"),
    Vain(("log_format",), lambda settings, selector: network_address(settings.log or ""),
         "a log elsewhere gets pen's datagram for each request"),
    Vain(("control_access",), lambda settings, selector: "/" in (settings.control or ""),
         "the control socket is a file: whoever may open that may do all"),
    Vain(("control_acl",), lambda settings, selector: settings.control_acl and "/" in (settings.control or ""),
         "the control socket is a file, and clients of that have no address"),
    Vain(("control_mode",), lambda settings, selector: settings.control and "/" not in settings.control,
         "the control socket is a port, not a file"),
    Vain(("peer", "peers_certificate"), lambda settings, selector: settings.peers is None,
         "there are no peers, unless 'peers' says what this gpen is called among them, and where they connect"),
    Vain(("peers",), lambda settings, selector: settings.peers and not any(
        name != settings.peers[0] for name, _ in settings.peer), "there is no other: name one with 'peer'"),
    Vain(("metrics_acl", "metrics_control"), lambda settings, selector: not settings.metrics,
         "the door is closed: metrics says where it is"),
    Vain(("metrics_acl",), lambda settings, selector: (
        settings.metrics and not selector.pool.acls[int(settings.metrics_acl)].entries), _PERMITS_ALL),
    Vain(("metrics_acl",), lambda settings, selector: "/" in (settings.metrics or ""),
         "the door of metrics is a file, and clients of that have no address"),
    Vain(("metrics_token",), lambda settings, selector: settings.metrics_control == "off",
         "nobody may act, unless metrics_control is on"),
)

VAIN_AT_SERVERS = (
    VainAtServer("prio", lambda settings, selector, member: member.prio and not settings.prio, "the mode prio is off"),
    VainAtServer("weight", lambda settings, selector, member: (
        member.configured != FIELDS["weight"] and not selector.rule.weighs), "none of the modes that weigh is on"),
    VainAtServer("hard", lambda settings, selector, member: (
        member.server.hard and (not member.server.max or member.server.hard < member.server.max)),
                 "it is how far clients that return may go beyond max"),
    VainAtServer("hard", lambda settings, selector, member: member.server.hard and not selector.rule.remembers,
                 "stateless remembers nobody, so that nobody returns"),
    VainAtServer("acl", lambda settings, selector, member: (
        member.server.acl and not selector.pool.acls[member.server.acl].entries), _PERMITS_ALL),
    VainAtServer("tls_name", lambda settings, selector, member: (
        member.server.tls_name and (member.server.tls or settings.server_tls) == "off"), "no TLS is spoken to it"),
    VainAtServer("tls", lambda settings, selector, member: member.server.tls and settings.udp, _FOR_TCP),
    VainAtServer("check_port", lambda settings, selector, member: (
        settings.check_port and member.server.address.path), "it is a unix socket, which has no port"),
    VainAtServer("check", lambda settings, selector, member: (
        member.server.address.path and (member.server.check or settings.check).agent),
                 "the agent of a unix socket, which has no port, is not asked"),
    VainAtServer("source", lambda settings, selector, member: (
        settings.source and _is_elsewhere(settings.source, member)),
                 "it is of the other family (IPv4, IPv6) than the server's address"),
)


def errors(draft: Draft) -> Iterator[ScriptError]:
    """What each line allows, but not all of them together."""
    every = draft.all_settings()
    yield from _of_listeners(draft, every)
    for name, settings in every.items():
        if not (name or settings.listen) and len(every) > 1:
            continue  # nobody comes there: it only has what others share
        config = draft.listener_of(name)
        for names, when, why in REFUSED:
            if when(settings):
                yield from (_error(name, f"{setting}: {why}") for setting in names if _is_given(settings, setting)
                            and not (name and _is_of_another(setting, why, config)))
    if any(settings.mysql for settings in every.values()):
        yield from _talks(draft)
        yield from _secured(draft, every)
    if any(settings.udp for settings in every.values()):
        yield from _files(draft, every)
    if not draft.settings.geoip_db and any(draft.list_of(number).names_countries for number in range(LISTS)):
        yield ScriptError("acl: country needs a database that knows countries: give geoip_db FILE first")


def _error(listener: str, message: str) -> ScriptError:
    return ScriptError(f"{listener_prefix(listener)}{message}")


def _of_listeners(draft: Draft, every: Mapping[str, Settings]) -> Iterator[ScriptError]:
    """Listeners without an address, at that of another, or that share the memory of none."""
    places: dict[tuple[Address, bool], str] = {}
    for name, settings in every.items():
        config = draft.listener_of(name)
        if settings.listen:
            place = parse_listen(settings.listen)
            other = places.setdefault((place, settings.udp), name) if place.port != 0 else name  # 0: any that is free
            if other != name:
                whose = f"listener {other}" if other else "the listener without a name"
                yield _error(name, f"listen: {settings.listen} is where {whose} listens: give it another address")
        elif config is not None and "listen" in config.own:
            yield _error(name, f"no listen: a listener needs an address; 'no listener {name}' closes it")
        elif name:
            known = ", ".join(other for other in every if other not in ("", name)) or "none"
            yield _error(name, f"it has no address, and there is no such listener unless it gets one: 'listener {name} "
                               f"listen [HOST:]PORT' (others: {known})")
        for number, fields in config.members.items() if config is not None else ():
            address = draft.address_of(number)
            if address is None and not draft.is_unmade(number):
                yield _error(name, f"server {number}: there is no server {number} (known: {ranges(draft.numbers())})")
            elif address is not None and address.path and "port" in fields:
                yield _error(name, f"server {number}: it is the unix socket {address}, which has no port")
    yield from _misled(every)
    shared = draft.settings
    if shared.peers is not None and shared.listen and NAME_OF_UNNAMED in every:
        yield ScriptError(f"peers: listener {NAME_OF_UNNAMED}: so peers call the one without a name: give this one "
                          "another")


def _misled(every: Mapping[str, Settings]) -> Iterator[ScriptError]:
    """Where ``tracking_with`` leads nowhere, or round: told once, of a listener that makes it so, and not of those that
    it leads there."""
    told: set[str] = set()
    for name in every:
        try:
            memory_of(name, every)
        except Misled as error:
            if name in error.names and name not in told:
                yield _error(name, f"tracking_with: {error}")
                told.update(error.names)


def _is_of_another(setting: str, why: str, config: ListenerConfig | None) -> bool:
    """Whether a setting that a listener shares is none of its business: idlers are of the one without a name; and what
    is said to all is no word to those of UDP, or of direct server return."""
    is_own = config is not None and setting in config.own
    return setting == "idlers" or (why in (_FOR_TCP, _DIRECT) and not is_own)


def _has_service(settings: Settings) -> bool:
    """Whether it is known, with dsr_if, for which address: not as long as that is all addresses, or no internet one."""
    host = parse_listen(settings.listen or "").host
    return bool(settings.dsr_ip) or (host not in ("", *UNSPECIFIED) and ":" not in host)


def _files(draft: Draft, every: Mapping[str, Settings]) -> Iterator[ScriptError]:
    """Unix sockets where listeners of UDP would be, or connect to."""
    is_news = "udp" in draft.values or draft.listeners
    places: Mapping[int | str, Address | None] = draft.new_addresses()
    if is_news:
        places = {**{number: draft.address_of(number) for number in draft.numbers()}, **places}
    files = {label: address.path for label, address in places.items() if address is not None and address.path}
    for name, settings in every.items():
        if not settings.udp:
            continue
        config = draft.listener_of(name)
        numbers = None if config is None else config.servers
        used = [path for label, path in files.items()
                if not isinstance(label, int) or numbers is None or label in numbers]
        for path in [*([settings.listen] if "/" in (settings.listen or "") else []), *used]:
            yield _error(name, f"udp: needs HOST:PORT, not a unix socket: {path}")


def _talks(draft: Draft) -> Iterator[ScriptError]:
    """The servers with checks that a MySQL server would count: with one of their own, or where the port that is checked
    is just that of the server."""
    settings, its = draft.settings, []
    for number in draft.numbers() if settings.check.is_talk and settings.check_port else draft.own_checks():
        fields = draft.fields_of(number) or FIELDS
        check, port = fields["check"] or settings.check, fields["check_port"] or settings.check_port
        if check.is_talk and port in (None, fields["address"].port):
            its.append((number, check))
    if its:
        (number, check), more = its[0], f" (and {len(its) - 1} more)" if len(its) > 1 else ""
        yield ScriptError(f"server {number}{more}: check {check.kind}: {_NO_LOGIN}")


def _secured(draft: Draft, every: Mapping[str, Settings]) -> Iterator[ScriptError]:
    """The servers with TLS of their own among those of a listener whose servers speak MySQL."""
    its = draft.with_own_tls()
    for name, settings in every.items() if its else ():
        config = draft.listener_of(name)
        used = its if config is None or config.servers is None else its.intersection(config.servers)
        if settings.mysql and used and (settings.listen or not name):
            yield _error(name, f"server {min(used)}: tls on: {_INSIDE}")


def notes(configuration: Configuration, servers: Iterable[Server]) -> Iterator[tuple[str, str]]:
    """What is to be told of a configuration, and of these servers in it: what it is about, to tell it once, and a line
    of words."""
    for name in sorted(configuration.ignored):
        yield name, f"{name}: accepted for pen's sake, without effect"
    scopes = [scope for scope in configuration.scopes.values() if scope.settings.listen] or [configuration.unnamed]
    for scope in scopes:
        protocol = scope.settings.ssl_protocol
        if protocol and not protocol.startswith("tls1."):
            yield "ssl_protocol", (f"ssl_protocol {protocol}: means TLS 1.2 and 1.3 now: the versions of its time are "
                                   "broken and gone")
        if scope.settings.server_tls_verify == "off" and _speaks_tls(scope.settings, configuration.pool):
            yield "server_tls_verify", ("server_tls_verify off: whoever answers at a server's address is taken for it: "
                                        "better give server_tls_ca, a file with its authority or certificate")
        yield from _without_servers(scope, configuration)
    for row in VAIN:
        yield from _vain(row, configuration, scopes)
    by_label = {server.label: server for server in servers}
    for scope in scopes:
        yield from _vain_at_servers(scope, by_label)


def _without_servers(scope: Scope, configuration: Configuration) -> Iterator[tuple[str, str]]:
    """A listener all of whose servers are yet to come: or somebody mistook their numbers."""
    for key, to in scope.settings.route:
        if not isinstance(to, str) and configuration.pool.servers.keys().isdisjoint(to):
            about = f"{listener_prefix(scope.name)}route {called(key)}"
            yield about, (f"{about}: servers {ranges(to)}: there is none of them (known: "
                          f"{ranges(configuration.pool.servers)})")
    numbers = scope.config.servers
    if numbers is not None and configuration.pool.servers.keys().isdisjoint(numbers):
        known = ranges(configuration.pool.servers)
        yield f"listener {scope.name}: servers", (f"listener {scope.name}: servers {ranges(numbers)}: there is none of "
                                                  f"them (known: {known})")


def _vain(row: Vain, configuration: Configuration, scopes: Sequence[Scope]) -> Iterator[tuple[str, str]]:
    """What has no effect: at a listener that has it of its own, or, of what is shared, at all that share it."""
    names, when, why = row
    shared = configuration.settings
    vain = [scope for scope in scopes if any(_is_given(scope.settings, name) for name in names)
            and when(scope.settings, scope.selector)]
    for name in names:
        if SETTINGS[name].scope == PROCESS:
            is_vain = _is_given(shared, name) and when(shared, configuration.unnamed.selector)
        else:
            sharing = [scope for scope in scopes if name not in scope.config.own]
            is_vain = sharing and all(scope in vain for scope in sharing)
        if is_vain and _is_given(shared, name):
            yield _has_no_effect("", name, shared, why)
        yield from (_has_no_effect(scope.name, name, scope.settings, why) for scope in vain
                    if name in scope.config.own and _is_given(scope.settings, name))


def _has_no_effect(listener: str, name: str, settings: Settings, why: str) -> tuple[str, str]:
    prefix = listener_prefix(listener)
    return f"{prefix}{name}: {why}", f"{prefix}{SETTINGS[name].line(settings.get(name))} has no effect: {why}"


def _vain_at_servers(scope: Scope, servers: Mapping[int | str, Server]) -> Iterator[tuple[str, str]]:
    """What has no effect on these servers, by their labels, at a listener; at one with a name, of what is said there:
    to look at 1,000 servers for each of 100 listeners took 50 ms."""
    prefix, own = listener_prefix(scope.name), scope.config.own
    selector = scope.selector
    members: Sequence[Member] = ()
    if not scope.name or any(name in own for name, _, _ in VAIN_AT_SERVERS):
        members = [member for server in servers.values() for member in selector.members_of(server)]
    for name, is_vain, why in VAIN_AT_SERVERS:
        concerned = members
        if scope.name and name not in own:
            concerned = [member for number, fields in scope.config.members.items()
                         if name in fields and number in servers for member in selector.members_of(servers[number])]
        its = [member for member in concerned if is_vain(scope.settings, selector, member)]
        if its:
            more = f" (and {len(its) - 1} more)" if len(its) > 1 else ""
            own_name = "configured" if name == "weight" else name
            value = getattr(its[0] if name in MEMBER_FIELDS else its[0].server, own_name, None)
            is_its = name in FIELDS and value is not None
            what = f"{name} {value if is_its else SETTINGS[name].show(scope.settings.get(name))}"
            yield f"{prefix}server {name}", (f"{prefix}{what} has no effect on server {its[0].server.name}{more}: "
                                             f"{why}")


def _is_given(settings: Settings, name: str) -> bool:
    return bool(settings.get(name) != SETTINGS[name].default)


def _speaks_tls(settings: Settings, pool: Pool) -> bool:
    """Whether TLS is spoken to some server."""
    return settings.server_tls == "on" or any(server.tls == "on" for server in pool.servers.values())


def _is_elsewhere(sources: tuple[str, ...], member: Member) -> bool:
    """Whether all addresses of a server that are known are of the family that ``sources`` are not of."""
    server, endpoints = member.server, member.target.endpoints
    if server.is_empty or server.address.path:
        return False
    families = {6 if ":" in endpoint.host else 4 for endpoint in endpoints} or {_family(server.address.host)}
    return all(families) and families.isdisjoint(6 if ":" in source else 4 for source in sources)


def _family(host: str) -> int:
    """4 or 6; 0 for what is no address in numbers."""
    try:
        return number_of(host)[1]
    except ValueError:
        return 0
