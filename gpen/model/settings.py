"""Every setting of gpen, declared once: its name, kind, default, flag on the command line, and help.

The command line, the control language, ``help``, ``write``, the man pages and shell completion all read SETTINGS.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from gpen.model.address import ServerSpec
from gpen.model.check import OFF, Check
from gpen.model.rates import NO_RATE, Rate
from gpen.model.route import KEY_FORM, ROUTE, Key, To, parse_key
from gpen.model.scheduler import ROUND_ROBIN, RULES, Rule
from gpen.model.slowstart import eased
from gpen.model.text import quote
from gpen.model.value_types import (
    ACCESS,
    ACL,
    ACL_OR_OFF,
    ALPN,
    BANDWIDTH,
    CHECK,
    CONTROL,
    DIRECTORY,
    DOOR,
    FILE,
    FLAG,
    INTERFACE,
    IPV4,
    KEEPALIVE,
    LISTEN,
    LISTENER,
    LOG,
    MODE,
    MOST,
    ONE_AT_LEAST,
    OTHER_PEER,
    OWN_PEER,
    PIT,
    PORT,
    PROGRAM,
    RATE,
    SOURCES,
    SPEC,
    TEXT,
    TLS_NAME,
    USER,
    V2_OPTIONS,
    WORKERS,
    Kind,
    one_of,
    seconds,
    whole,
    words,
)

PROCESS, SHARED, OWN = "process", "listener", "own"  # scopes


def _one_name(words: Sequence[str]) -> str:
    if len(words) > 1:
        raise ValueError(f"'{words[1]}' is too much: expected a NAME")
    return words[0]


@dataclass(frozen=True)
class Setting:
    """One setting.

    ``scope`` says whom it is of: of the process; of each listener, where what is said without the name of one is shared
    by all that say nothing else; or of each listener alone, which shares it with none. ``flag`` is its option of pen's
    command line, ``reply`` how its value is answered (None: pen answers nothing when it is set), ``startup`` that it
    counts only when the daemon starts, ``adds`` that setting it adds to its words, ``is_keyed`` that these are pairs of
    which the first is a name, that a new one has the place of the one of its name, and 'no NAME' takes one away
    (``key`` is how such a name is written, ``read_key`` reads it), ``missing`` why it can't be switched on,
    ``is_ignored`` that it has no effect, ``is_listed`` that without a value it is answered with rows. ``on`` and
    ``off`` are the values of one that NAME without a value switches on, and ``no NAME`` off. ``topic`` is the one that
    it stands under in the table.
    """

    name: str
    kind: Kind
    default: Any
    help: str
    flag: str = ""
    reply: str | None = "{}"
    startup: bool = False
    adds: bool = False
    is_keyed: bool = False
    key: str = "NAME"
    read_key: Callable[[Sequence[str]], Any] = _one_name
    missing: str = ""
    example: str = ""
    is_ignored: bool = False
    is_listed: bool = False
    on: Any = None
    off: Any = None
    scope: str = SHARED
    topic: str = ""

    @property
    def is_flag(self) -> bool:
        return self.kind is FLAG

    def show(self, value: Any) -> str:
        """The value as it may be written again; empty when there is none."""
        return "" if value is None else self.kind.show(value)

    def told(self, value: Any) -> str:
        """The value as people are told it."""
        if self.is_flag:
            return "on" if value else "off"
        return self.show(value) or ("unset" if self.off is None else "off")

    def lines(self, value: Any) -> list[str]:
        """The commands that give the setting this value, whatever it has had."""
        if self.is_keyed and value:
            return [f"no {self.name}", *(self.line((pair,)) for pair in value)]
        line = self.line(value)
        return [f"no {self.name}", line] if self.adds and value else [line]

    def added(self, old: Sequence[Any], new: Sequence[Any]) -> tuple[Any, ...]:
        """What it has when these are added to what it had. A pair of a name and nothing takes that away."""
        if not self.is_keyed:
            return tuple(dict.fromkeys((*old, *new)))
        return tuple(pair for pair in {**dict(old), **dict(new)}.items() if pair[1])

    def line(self, value: Any) -> str:
        """The command that gives the setting this value; the inverse of parsing it."""
        if self.is_flag:
            return self.name if value else f"no {self.name}"
        if value is None or value == self.off or (self.adds and not value):
            return f"no {self.name}"
        return f"{self.name} {self.show(value) if self.kind.many else quote(self.show(value))}"


Row = TypeVar("Row", bound=Any)  # a dataclass with a topic


def by_topic(rows: Iterable[Row | str]) -> Iterator[Row]:
    """The rows of a table, each with the topic that it stands under: the last text in front of it."""
    topic = ""
    for row in rows:
        if isinstance(row, str):
            topic = row
        else:
            yield replace(row, topic=topic)


def _flag(name: str, help: str, flag: str = "", **more: Any) -> Setting:
    return Setting(name, FLAG, False, help, flag, **more)


def _missing(name: str, why: str, kind: Kind = TEXT) -> Setting:
    return Setting(name, kind, None if kind is not FLAG else False, f"{why}.", reply=None, missing=why)


_ASKING = (60, 10, 6)  # as keepalive has it: a peer that is gone is noticed after two minutes
_PENS_OPTIONS = ("no_sslv2", "no_sslv3", "no_tlsv1", "no_tlsv1.1", "cipher_server_preference")
_PENS_PROTOCOLS = ("ssl23", "ssl3", "ssl2", "tls1")


# a text is the topic of what stands behind it, for help and the man pages
_ALL: tuple[Setting | str, ...] = (
    "listeners",
    Setting("listen", LISTEN, None, "The address where clients connect: [HOST:]PORT, [IPV6]:PORT or /PATH. Without a "
            "host, all IPv4 addresses; [::]:PORT takes IPv4 and IPv6. Changing it opens the new socket first.",
            example="listen [::]:3306", scope=OWN),
    Setting("conn_max", whole(1), 500, "Most sessions at one time of a listener. The excess waits in the kernel's "
            "backlog; a new flow of UDP takes the place of the one that was idle for longest, and flows beyond a "
            "lowered limit end.", "-x", example="conn_max 10000"),
    Setting("conn_max_total", whole(0), 0, "Most sessions at one time of all listeners together. 0 = as many as the "
            "limit of descriptors allows.", reply=None, example="conn_max_total 10000", scope=PROCESS),
    Setting("client_max", whole(0), 0, "Most sessions, or flows, of one client address at one time; more are refused, "
            "which the log calls client-max. The address is the one that accept_proxy learns; of IPv6, all 128 bits. "
            "When it is lowered, the sessions that are there stay. Clients of a unix socket have no address, and no "
            "such limit. 0 = no limit.",
            example="client_max 50"),
    Setting("connection_rate", RATE, NO_RATE, "Most new connections of a listener: N in any S seconds, or N in one. "
            "The excess waits in the kernel's backlog, and is then let in one by one, S/N seconds apart; of UDP, flows "
            "that are too many do not begin, and their datagrams are dropped. 'no connection_rate' = no limit.",
            example="connection_rate 200"),
    Setting("client_rate", RATE, NO_RATE, "Most new sessions, or flows, of one client address: N in any S seconds, or "
            "N in one; more are refused, which the log calls client-rate. Those that are refused do not count. The "
            "address is the one that client_max means. 'no client_rate' = no limit.", example="client_rate 30/10"),
    Setting("bandwidth", BANDWIDTH, 0, "Most bytes a second of each session, in each of its two directions: a number, "
            "with k, m or g for 1024 bytes, of these, and of these. Sessions that are there heed a change at once. "
            "'no bandwidth' = no limit.", example="bandwidth 10m"),
    Setting("bandwidth_total", BANDWIDTH, 0, "Most bytes a second of all sessions of a listener together, in each "
            "direction, as bandwidth has them. Those that have something to send take turns. 'no bandwidth_total' = "
            "no limit.", example="listener downloads bandwidth_total 100m"),
    Setting("backlog", whole(1), 500, "How many connections the kernel keeps waiting for us (listen(2)).", "-q",
            reply=None, example="backlog 4000"),
    _flag("freebind", "Listen also on an address that this machine does not have yet, as the one that two balancers "
          "share (keepalived): who connects once it is here is served. The sockets of control and metrics, too. A "
          "mistyped address is no error then."),
    Setting("listen_mode", ACCESS, (), "The mode of the file, where the listener is a unix socket (/PATH), and its "
            "owner; it has both before anybody can connect. USER without a GROUP: the group is the user's own; :GROUP "
            "alone is fine. Without it, the umask decides, and the file is of the user that gpen runs as (-u). Who may "
            "write the file may connect. Only root may give it to another user. 'no listen_mode' leaves a file that "
            "is there as it is.",
            reply=None, off=(), example="listen_mode 0660 www-data"),
    Setting("multi_accept", ONE_AT_LEAST, 100, "Most connections accepted, or datagrams read, at one wake-up; 0 is "
            "1, as in pen.", "-m", reply=None, example="multi_accept 10"),
    Setting("pending_max", whole(0), 0, "Most connections to servers under way at one time; while there are more, no "
            "client is accepted. 0 = no limit.", reply=None, example="pending_max 50"),
    Setting("client_acl", ACL, 0, "The access list that clients are checked against.",
            example="listener admin client_acl 9"),
    "choosing a server",
    Setting("clients_max", whole(1), 2048, "Most clients that a listener remembers; the least recently seen is "
            "forgotten first.", "-c", scope=PROCESS, example="clients_max 100000"),
    Setting("tracking", seconds(), 0, "How long a client's last server is remembered. 0 = for ever.", "-T",
            example="tracking 3600"),
    Setting("tracking_with", LISTENER, None, "The listener whose memory of clients, and whose turn, this one shares: "
            "that of port 80 for port 443, say. - is the one without a name. Unset: each has its own.", reply=None,
            example="listener 443 tracking_with -", scope=OWN),
    Setting("route", ROUTE, (), "Adds a route: clients that ask for this get these servers, whether or not the "
            "listener uses them otherwise, or are turned away (reject). sni is the name in the TLS handshake, alpn a "
            "protocol that is offered there, also where TLS is not ended here: the hello is read, which may take as "
            "long as ssl_handshake, and passed on as it came. Where TLS is ended, alpn is what was agreed on "
            "(ssl_alpn). host is the Host of a connection's first request in HTTP mode (-H); a later one that belongs "
            "to another route gets 421. A NAME may be *.NAME, for all one level below. An exact route goes "
            "before a *. one; else the one that was said first counts. 'route default servers LIST|reject' is for all "
            "whom none matches; unless said, they get the listener's own servers. 'no route sni NAME' takes one "
            "away, 'no route' all.",
            reply=None, adds=True, is_keyed=True, key=KEY_FORM, read_key=parse_key,
            example="route sni www.example.org servers 0-1"),
    _flag("roundrobin", "Round robin: do not look up the server that the client used last.", "-r"),
    *(_flag(rule.name, rule.help, rule.flag) for rule in RULES),
    _flag("stubborn", "Do not fail over: if the chosen server is full, denies the client or can't be reached, close. "
          "The rule chooses among the servers that are not down or blacklisted; hash and stateless, and a remembered "
          "server, stay the client's own even then.", "-s"),
    Setting("slowstart", seconds(), 0, "A server that has come back (from down, the blacklist, drain or maint, or as a "
            "new one) gets a share of the new clients that grows evenly over so many seconds, up to that of its "
            "weight; gpen's own start is none of these. A client that is remembered at it goes there at once, and "
            "where no other can take a client, it does. Without effect with hash and stateless. 0 = it has all of its "
            "share at once.", reply=None, example="slowstart 60"),
    Setting("blacklist", seconds(), 30, "How long a server that could not be reached is left alone. While no other can "
            "take a client, one connection at a time tries it again a second after it failed (not with stubborn).",
            "-b", scope=PROCESS, example="blacklist 5"),
    Setting("emergency", SPEC, None, "The server that is used when no other can serve.", "-e",
            example="emergency 10.0.0.9:80"),
    Setting("abuse", SPEC, None, "The server for clients that client_acl denies; without it they are closed.", "-B",
            example="abuse 127.0.0.1:8403"),
    "UDP",
    _flag("udp", "Balance UDP instead of TCP: a flow is what one client address and port sends; it has one server.",
          "-U"),
    Setting("udp_timeout", seconds(zero=False), 30, "A flow ends when it had no datagram for so long. Where "
            "udp_replies says that replies are due, it also ends when none came for so long after a datagram.",
            example="listener dns udp_timeout 3"),
    Setting("udp_replies", whole(0), 0, "How many replies each datagram of a client gets: a flow ends with the last of "
            "them; 1 suits DNS. 0 = replies aren't counted, and a server that sends none is well.",
            example="listener dns udp_replies 1"),
    Setting("udp_unanswered", whole(0), 3, "A server that leaves so many flows in a row without any reply is "
            "blacklisted, where udp_replies says that replies are due, and nobody has had one from there since they "
            "asked; but never the last that answers. A client that goes on asking from one port begins its next flow "
            "after each udp_timeout without a reply. 0 = never.", example="udp_unanswered 10"),
    Setting("udp_requests", whole(0), 0, "How many datagrams of a client a flow takes: the next one begins a new flow, "
            "whose server is chosen anew. 1 spreads what one client sends over all servers, as suits syslog and "
            "statsd. A flow that had them ends with the replies that are due (udp_replies); where none are, within a "
            "second. 0 = no limit.", example="udp_requests 1"),
    "direct server return",
    Setting("dsr_if", INTERFACE, None, "The network interface where the frames of clients are taken, and sent on to "
            "servers as they are but for the MAC address; servers answer clients themselves. They are in the same "
            "network, reached by Ethernet, and have the address of the service at their loopback (DSR.md tells how). "
            "The listener's port is theirs too; port 0 is all ports. IPv4, TCP or UDP; needs CAP_NET_RAW. What has to "
            "do with the bytes of connections is refused.",
            reply=None, example="dsr_if eth0"),
    Setting("dsr_ip", IPV4, None, "The address of the service, where clients connect, and for which gpen answers ARP "
            "on dsr_if. Unset: that of listen.", reply=None, example="dsr_ip 192.0.2.100"),
    Setting("tarpit_acl", PIT, "off", "With dsr_if, gpen answers ARP for each address that this access list permits, "
            "and accepts TCP connections there, of which nothing more comes: who scans the network is slowed down by "
            "machines that are none. The addresses of the service, the servers and the interface are left alone; the "
            "list must deny all others that are real. An empty list has nobody. -1, or off: none.",
            reply="tarpit_acl = {}", example="tarpit_acl 7"),
    "whether servers are well",
    Setting("check", CHECK, OFF, "How servers are checked. connect: by half a TCP handshake, which the server's "
            "program never sees; greeting: by its first byte (refused with mysql, as send is: see there); "
            "send: by what it answers (\\r, \\n, \\t, \\0, \\xHH and \\\\ are understood); exec: by a program that "
            "gets HOST:PORT behind its own arguments and GPEN_ADDRESS, GPEN_HOST, GPEN_PORT and GPEN_SERVER in the "
            "environment, of gpen's own environment PATH, LANG and GPEN_* alone, and no rights by sudo or a "
            "set-user-ID bit: exit status 0 is good, its first line of output is the reason. exec can't be set over a "
            "TCP control port. agent asks a program at PORT of the server's machine how it is, once in "
            "check_interval, alone or behind another check, as in 'check connect agent 9777'; it answers in a line, "
            "in HAProxy's words: up, down, stopped, fail (# and why), drain, maint, ready, or 75%, the share of its "
            "weight that it shall have. What it leaves out stays as it said before; an agent that can't be asked "
            "changes nothing.",
            example='check send "PING\\r\\n" expect +PONG', scope=PROCESS),
    Setting("check_port", PORT, None, "The port of the servers' addresses that checks ask, where it is not the one "
            "that serves: connect, greeting and send without the header of proxy_protocol, and allowed with mysql; "
            "exec gets it in the place of the other. Of one server: 'server N check_port'. Servers that are unix "
            "sockets have none.",
            reply=None, example="check_port 9200", scope=PROCESS),
    Setting("check_interval", seconds(zero=False), 2, "How often a server is checked that is up; one that is down, or "
            "about to change, is checked four times as often.", scope=PROCESS, example="check_interval 5"),
    Setting("check_timeout", seconds(zero=False), 1, "How long a check may take; a program that takes longer is "
            "killed.", scope=PROCESS, example="check_timeout 2.5"),
    Setting("check_rise", whole(1), 2, "How many checks in a row must be good before a server that "
            "is down is up.", scope=PROCESS, example="check_rise 3"),
    Setting("check_fall", whole(1), 3, "How many checks in a row must fail before a server that is "
            "up is down.", scope=PROCESS, example="check_fall 2"),
    Setting("check_tls", one_of("default", "on", "off"), "default", "Whether checks speak TLS where the server does "
            "(server_tls as all share it, server N tls): check connect is a whole handshake then, that the server's "
            "program sees, greeting and send go through TLS. default: at the server's own port, and plainly at a "
            "check_port; on: at both; off: plainly at both. Where it is plain, connect is half a TCP handshake.",
            scope=PROCESS, reply=None, example="check_tls on"),
    Setting("health_ttl", seconds(), 0, "A verdict of 'server N health' that is not renewed for so long is "
            "dropped. 0 = never.", scope=PROCESS, example="health_ttl 30"),
    Setting("on_down", one_of("keep", "close"), "keep", "What becomes of a server's sessions when a check, its agent "
            "or 'server N health' takes it down. A failed connect closes none, nor does 'server N health drain'.",
            example="listener writer on_down close"),
    Setting("on_event", PROGRAM, None, "The program that is run when the state of a server changes, or whether a "
            "listener can serve: once for each change, one at a time, for 30 seconds at most. Its environment tells "
            "what happened: GPEN_EVENT (as events calls it), GPEN_SERVER, GPEN_OLD, GPEN_NEW, GPEN_REASON and more, "
            "see gpen(1); of gpen's own it has PATH, LANG and GPEN_*, as a program of check exec has. Up to 100 "
            "changes wait; of more, the oldest are lost, which GPEN_LOST tells. It can't be set over a TCP control "
            "port.", reply=None, example="on_event /etc/gpen/alert", scope=PROCESS),
    "connections",
    Setting("timeout", seconds(zero=False), 3, "How long a connection to a server, or the lookup of a name, may take.",
            "-t", example="timeout 1.5"),
    Setting("name_refresh", seconds(), 30, "How often the name of a server, or of a log elsewhere, is looked up again "
            "by itself. Whatever says that a server is not well (a failed connect or check, a verdict, HUP) has its "
            "name looked up at once, but not more than once in 5 seconds. 0 = only then.", scope=PROCESS,
            example="name_refresh 10"),
    Setting("idle_timeout", seconds(), 0, "Close sessions that moved no byte for so long. 0 = never. Flows of UDP have "
            "udp_timeout instead.",
            reply="Idle timeout: {} seconds", example="idle_timeout 3600"),
    Setting("half_closed_timeout", seconds(), 300, "End a session of which one side has ended, the client's or the "
            "server's, when no byte moved for so long behind that. 0 = never; an idle_timeout that is shorter counts "
            "as well. Its place on a server is free as soon as the server's side has ended.",
            example="half_closed_timeout 60"),
    Setting("quiet", seconds(), 0.2, "How long nothing has come behind bytes of the server's when a session is taken "
            "to be between two exchanges, where 'drain N quiet' or 'close server N quiet' waits for that to end it. "
            "With mysql also no command is under way and no transaction open; behind COMMIT and ROLLBACK a tenth of "
            "the time is enough, and behind a ping it takes four times as long.", example="quiet 0.5"),
    Setting("session_max_age", seconds(), 0, "End each session that has lasted for so long, or up to a tenth less, so "
            "that those that began together don't end together: as soon as it is between two exchanges (see quiet), "
            "and never within one. Its client is forgotten, and gets a server anew: so pools spread again by "
            "themselves. One that is never quiet goes on. 0 = never.", reply=None, example="session_max_age 3600"),
    Setting("greeting", seconds(), 0, "The server speaks first, within so many seconds: one that closes, resets or "
            "stays silent before its first byte has failed, and the client is given to the next. 0 = off.",
            example="greeting 1"),
    _flag("mysql", "The servers speak MySQL's protocol: a greeting that is an error (1040, 1053; 1129 and 1130, unless "
          "proxy_protocol or transparent lets them know the client) has failed, as with greeting, and a client that is "
          "turned away is told so in an error that MySQL clients show. "
          "Without greeting, the first byte may take as long as timeout. A MySQL server blocks an address (1129) after "
          "max_connect_errors connections in a row without a login, and gpen's is that of all clients: set that high "
          "there, or see proxy_protocol. What gpen itself would add to them is refused: idlers, check greeting and "
          "check send."),
    Setting("hold", seconds(), 0, "How long a client waits when no server can take it; it gets the first that can, in "
            "order of arrival. 0 = it is closed at once; so is one whose choice has been made by stubborn.",
            example="hold 10"),
    Setting("hold_max", whole(1), 200, "Most clients that hold keeps waiting; more are closed, if no server can "
            "take them within a moment.", example="hold_max 1000"),
    Setting("proxy_protocol", one_of("off", "v1", "v2"), "off", "Tell the servers the client's address in a header of "
            "the PROXY protocol, of version 1 or 2. MariaDB understands it from the addresses in its "
            "proxy_protocol_networks, and then blocks who leaves without a login, not gpen.",
            example="proxy_protocol v2"),
    Setting("proxy_v2_options", V2_OPTIONS, (), "What proxy_protocol v2 tells the servers besides, by haproxy's words: "
            "ssl (whether the client speaks TLS with gpen, and which version), cert-cn (the name in the client's "
            "certificate), ssl-cipher, cert-sig and cert-key (how gpen's certificate is signed, and its key), "
            "authority (the name that the client asked for, SNI), alpn, crc32c (a checksum of the header), unique-id "
            "(what the session is called in the log and in sessions json). What a proxy has told of a client "
            "(accept_proxy) is passed on in any case.", off=(),
            example="proxy_v2_options ssl,cert-cn,authority,unique-id"),
    Setting("accept_proxy", ACL_OR_OFF, "off", "Clients that this access list permits must begin with a PROXY protocol "
            "header, and the address that it gives is theirs; nobody else may begin with one. What a header of version "
            "2 tells besides (TLS, the name that the client asked for, and so on) is shown in sessions json and the "
            "log in JSON, and passed on by proxy_protocol v2.",
            example="accept_proxy 3"),
    _flag("transparent", "Connect to servers from the client's address, and its port if that is free, so that they "
          "see the client: TCP and UDP, IPv4 and IPv6. What servers answer must come back through this machine: "
          "gpen(1) has the rules for that under TRANSPARENT. Checks, and clients that have no address of the server's "
          "family, come from gpen's own (or source). Needs CAP_NET_RAW or CAP_NET_ADMIN at the start, and keeps it.",
          example="listener db transparent"),
    Setting("source", SOURCES, None, "The local addresses of connections to servers, and of checks: single ones and "
            "ranges, IPv4 and IPv6, of which those of the server's family count. Each connection, or flow, comes from "
            "the next one that has a port left: with N addresses there are N times as many connections to one server "
            "at a time, which are some 28,000 from one address (net.ipv4.ip_local_port_range).", reply=None,
            example="source 10.0.0.1,10.0.0.5-10.0.0.9"),
    Setting("tcp_fastclose", one_of("off", "up", "down", "both"), "off", "End the session as soon as one side closes: "
            "the server's (up), the client's (down), or either.", reply=None, example="tcp_fastclose up"),
    _flag("tcp_nodelay", "Send small pieces at once, on both sides (TCP_NODELAY)."),
    Setting("keepalive", KEEPALIVE, _ASKING, "Let the kernel find peers that are gone, on both sides, in "
            "connections that begin from now on, once they have lasted a moment (SO_KEEPALIVE): when nothing has come "
            "for IDLE seconds it asks each INTERVAL seconds, and a peer that leaves COUNT questions in a row "
            "unanswered has reset its connection. 'keepalive' alone is 60 10 6, 'no keepalive' switches it off.",
            reply=None, on=_ASKING, off=(), example="keepalive 30 5 4"),
    Setting("user_timeout", seconds(high=MOST // 1000), 0, "A peer that acknowledges nothing of what it was sent for "
            "so long has reset its connection, on both sides, in connections that begin from now on "
            "(TCP_USER_TIMEOUT); so has one that has no room for what waits for it, and, with keepalive, one that "
            "answered no question for so long, whatever COUNT is. 0 = as the kernel has it: after some 15 minutes, and "
            "whoever has no room may take all time.", reply=None, example="user_timeout 30"),
    _flag("dummy", "Be a small web server that answers every request itself. For tests and demonstrations."),
    Setting("idlers", whole(0, 1000), 0, "Spare connections kept open to the servers, for the listener without a name, "
            "so that a server that is gone is noticed before a client comes. Limits don't count them: a client who "
            "needs the place or the descriptor of one gets it. Refused with mysql: see there. Answers how many are "
            "open, and how many are wanted.",
            reply="Idlers: {}", scope=PROCESS, example="idlers 5"),
    "HTTP",
    _flag("http", "The clients speak HTTP/1: add X-Forwarded-For and X-Forwarded-Proto to every request, refuse "
          "requests that are ambiguous (400), too large (431) or too slow (408), and say so when no server can be had "
          "(503). A server is chosen when the head of the first request is here. Needs the package "
          "httptools (Debian: python3-httptools).", "-H"),
    Setting("http_header_max", whole(256, 1 << 20), 16384, "Most bytes of a request's header, its first line included.",
            reply=None, example="http_header_max 32768"),
    Setting("http_head_timeout", seconds(), 10, "How long the head of a request may take, from its first byte (that of "
            "a connection's first request: from the connection, or the TLS handshake); then the client gets 408. "
            "Between two requests idle_timeout counts. 0 = for ever.", example="http_head_timeout 5"),
    "TLS",
    Setting("ssl_certificate", FILE, None, "The certificate, with its chain behind it, in PEM: clients speak TLS.",
            "-E", example="ssl_certificate /etc/gpen/www.pem"),
    Setting("ssl_key", FILE, None, "The private key of the certificate, in PEM; unset: in the same file.", "-K",
            example="ssl_key /etc/gpen/www.key"),
    Setting("ssl_key_passphrase", FILE, None, "The file with the passphrase of keys that are encrypted, ssl_key and "
            "those of ssl_sni_path, in its first line. It is read with the keys: at the start, at HUP, and when a "
            "setting of TLS changes.",
            reply=None, example="ssl_key_passphrase /etc/gpen/www.pass"),
    Setting("ssl_ca_file", FILE, None, "The authorities that clients' certificates are checked against, in PEM.", "-G",
            example="ssl_ca_file /etc/gpen/people-ca.pem"),
    Setting("ssl_ca_path", DIRECTORY, None, "The authorities that clients' certificates are checked "
            "against, as a directory of hashed files (openssl rehash).", "-A", example="ssl_ca_path /etc/ssl/certs"),
    _flag("ssl_require_peer", "Turn clients away, in the handshake, that have no valid certificate of ssl_ca_file or "
          "ssl_ca_path.", "-R"),
    Setting("ssl_verify_client", one_of("off", "optional", "required"), "off", "Whether clients are asked for a "
            "certificate of ssl_ca_file or ssl_ca_path: optional lets in who has none, and turns away who has one that "
            "is not valid; required is the same as ssl_require_peer. Whose it is stands in the log, and in 'sessions "
            "json', as subject.", reply=None, example="ssl_verify_client optional"),
    Setting("ssl_protocol", one_of("tls1.2", "tls1.3", *_PENS_PROTOCOLS, metavar="tls1.2|tls1.3"), None, "The only "
            "version of TLS that is spoken, tls1.2 or tls1.3; unset: both. pen's old names (ssl23, ssl3, ssl2, tls1) "
            "mean both: those versions are broken and gone.", "-L", reply=None, example="ssl_protocol tls1.3"),
    Setting("ssl_ciphers", TEXT, None, "Which ciphers TLS 1.2 may use, the best first, in OpenSSL's notation; unset: "
            "ECDHE+AESGCM:ECDHE+CHACHA20, those with forward secrecy and authenticated encryption. A client that wants "
            "ChaCha20 most gets it. TLS 1.3 has ciphers of its own.", reply=None,
            example="ssl_ciphers ECDHE+AESGCM:ECDHE+AES"),
    Setting("ssl_option", words("no_tlsv1.2", "no_tlsv1.3", "no_ticket", *_PENS_OPTIONS,
                                metavar="no_tlsv1.2|no_tlsv1.3|no_ticket"), (),
            "Adds options of TLS: a version that is not spoken, no session tickets. pen's no_sslv2, no_sslv3, "
            "no_tlsv1, no_tlsv1.1 and cipher_server_preference are always so.", reply=None, adds=True,
            example="ssl_option no_tlsv1.2"),
    Setting("ssl_sni_path", DIRECTORY, None, "A directory with certificates for names that clients ask for (SNI): "
            "DOMAIN.crt, DOMAIN.key, and DOMAIN.ca if it has an authority of its own; *.DOMAIN.crt is for all names "
            "one level below. Other names get ssl_certificate.", reply=None, example="ssl_sni_path /etc/gpen/names"),
    _flag("ssl_strict_sni", "Refuse clients, in the handshake (alert unrecognized_name), that ask for a name which "
          "neither ssl_sni_path nor ssl_certificate has, or for none."),
    Setting("ssl_alpn", ALPN, None, "The protocols that clients may choose in the handshake (ALPN), the best first; "
            "h2 only where the servers speak it. A client that offers others only is refused; one that offers none is "
            "not.",
            reply=None, example="ssl_alpn http/1.1"),
    Setting("ssl_handshake", seconds(zero=False), 10, "How long a client may take for its TLS handshake.",
            example="ssl_handshake 5"),
    _flag("ssl_compat", "Accepted for pen's sake: OpenSSL's workarounds for other programs' faults are always on.",
          "-Z", is_ignored=True),
    Setting("ssl_client_renegotiation_interval", seconds(), 3600, "Accepted for pen's sake, without effect: no client "
            "may renegotiate.", reply=None, is_ignored=True),
    "TLS to servers",
    Setting("server_tls", one_of("off", "on"), "off", "Speak TLS to the servers, whatever the clients speak: the "
            "handshake is part of the connection, within timeout, and a server that fails in it has failed, as one "
            "that can't be reached. A header of proxy_protocol goes before it. 'server N tls on' or off is for one "
            "server. Refused with mysql, whose TLS begins inside its own protocol. Checks speak it as well, see "
            "check_tls.", off="off", reply=None, example="server_tls on"),
    Setting("server_tls_ca", FILE, None, "The authorities that servers' certificates are checked against, in PEM, or "
            "such a certificate itself; unset: those of the system. Read again at signal HUP.", reply=None,
            example="server_tls_ca /etc/gpen/servers-ca.pem"),
    Setting("server_tls_verify", one_of("on", "off"), "on", "Whether a server's certificate has to be valid, and for "
            "its name. off takes whoever answers at the server's address for it, and is warned of.", reply=None,
            example="server_tls_verify off"),
    Setting("server_tls_name", TLS_NAME, None, "The name that servers are asked for (SNI), and that their certificates "
            "have to be for; unset: of each server the host of its address, of which a number is no SNI, but has to "
            "stand in the certificate (iPAddress), and of a unix socket localhost. 'server N tls_name NAME' is for one "
            "server.", reply=None, example="server_tls_name db.example.com"),
    Setting("server_tls_certificate", FILE, None, "The certificate that servers are shown which ask for one, with its "
            "chain behind it, in PEM.", reply=None, example="server_tls_certificate /etc/gpen/gpen.pem"),
    Setting("server_tls_key", FILE, None, "The private key of server_tls_certificate, in PEM; unset: in the same "
            "file.", reply=None, example="server_tls_key /etc/gpen/gpen.key"),
    Setting("server_tls_alpn", ALPN, None, "The protocols that servers are offered in the handshake (ALPN), the best "
            "first. What a client has chosen by ssl_alpn is not passed on: where both are set, one protocol should be "
            "all that either has.", reply=None, example="server_tls_alpn http/1.1"),
    "access lists",
    Setting("geoip_db", FILE, None, "The MaxMind database (.mmdb) that tells the country of an address, for 'acl N "
            "permit|deny country CC'. Read again at signal HUP. Needs the package maxminddb (Debian: "
            "python3-maxminddb).",
            example="geoip_db /usr/share/GeoIP/GeoLite2-Country.mmdb", scope=PROCESS),
    "logs",
    Setting("log", LOG, None, "Where a line for each session goes: to a FILE; to syslog, as FACILITY (local0 unless "
            "told; diagnostics are daemon's); or, as pen's datagram for each request, to HOST:PORT (gpenlogd, "
            "penlogd).",
            "-l", example="log /var/log/gpen.log"),
    Setting("log_format", one_of("session", "pen", "json"), "session", "What the log holds: a line at each session's "
            "end, as text or JSON, or pen's line for each request.", example="log_format json"),
    Setting("web_stats", FILE, None, "The file that gets the HTML status page at signal USR1.", "-w", scope=PROCESS,
            example="web_stats /var/www/html/gpen.html"),
    Setting("debug", whole(0, 9), 0, "How much is told: 0 events, 1 every session, 2 every step and the bytes.",
            "-d", scope=PROCESS, example="debug 1"),
    _flag("ascii", "Show the bytes of sessions as text, not as hex, at debug 2.", "-a", scope=PROCESS),
    _flag("abort_on_error", "Abort with a core file when gpen itself fails.", scope=PROCESS),
    "peers",
    Setting("peers", OWN_PEER, None, "What the other balancers call this one, and where they connect: [HOST:]PORT; "
            "without a host, at all IPv4 addresses. They and this one, gpens or haproxies, tell each other, by "
            "HAProxy's peers protocol, which client is at which server. A listener's memory of clients is a table of "
            "its name, gpen for the one without; a server is known by its ADDRESS:PORT. Unset: no peers. Without a "
            "value, lists the peers: whether they are connected and since when, clients told to them (sent) and by "
            "them (received), of these at servers that are unknown here, and changes that are pending, not "
            "acknowledged yet.",
            reply=None, is_listed=True, example="peers lb1 10.0.0.1:1024", scope=PROCESS),
    Setting("peer", OTHER_PEER, (), "Adds one of the others, or says where it is now: what it is called, and where it "
            "takes connections. The one that has the name of this gpen is this gpen, so that all may have the same "
            "lines. 'no peer NAME' takes it away, 'no peer' all.", reply=None, adds=True, is_keyed=True,
            example="peer lb2 10.0.0.2:1024", scope=PROCESS),
    Setting("peers_certificate", FILE, None, "The certificate of this gpen for connections with peers, with its key, "
            "in PEM: with peers_ca, they speak TLS, and each side takes certificates of that authority only. Without "
            "TLS, only the addresses of peers may connect.", scope=PROCESS,
            example="peers_certificate /etc/gpen/lb1.pem"),
    Setting("peers_ca", FILE, None, "The authority that has signed the certificates of all peers, and of nobody else, "
            "in PEM.", scope=PROCESS, example="peers_ca /etc/gpen/peers-ca.pem"),
    "the control socket",
    Setting("control", CONTROL, None, "The control socket: /PATH or HOST:PORT. As root, HOST:PORT needs a user to "
            "change to.", "-C", startup=True, scope=PROCESS, example="control /run/gpen.ctl"),
    Setting("control_acl", ACL, None, "The access list for the control port (0 unless set). As long as it isn't set, "
            "loopback addresses are not locked out.", scope=PROCESS, example="control_acl 8"),
    Setting("control_mode", MODE, 0o600, "The file mode of a control socket that is a file.", scope=PROCESS,
            example="control_mode 0660"),
    Setting("control_access", one_of("admin", "operate", "view"), "admin", "What a client of a TCP control port may "
            "do: all, change servers, or look. A control socket that is a file always allows all.", scope=PROCESS,
            example="control_access view"),
    _flag("exit_enabled", "Allow the command exit.", "-X", startup=True, scope=PROCESS),
    "metrics and the page",
    Setting("metrics", DOOR, None, "Where programs and browsers ask over HTTP: HOST:PORT (without a HOST, 127.0.0.1) "
            "or /PATH, a unix socket. / is a page that shows what happens, /metrics is for Prometheus, /api/servers "
            "and the like answer in JSON. It has no TLS, and shows all to whoever can connect.",
            example="metrics 127.0.0.1:9180", scope=PROCESS),
    Setting("metrics_acl", ACL_OR_OFF, "off", "The access list for the HTTP clients of metrics; off = nobody is turned "
            "away.", scope=PROCESS, example="metrics_acl 8"),
    Setting("metrics_control", one_of("off", "on"), "off", "Whether the page of metrics may also drain servers, put "
            "them in maint or take them back, and close sessions, for those who know the token of metrics_token.",
            example="metrics_control on", scope=PROCESS),
    Setting("metrics_token", FILE, None, "The file with the token for metrics_control: one word in the first line, 16 "
            "characters at least. It is read each time that somebody uses it.",
            example="metrics_token /etc/gpen/token", scope=PROCESS),
    "the process",
    Setting("drain_timeout", seconds(), 0, "How long a gpen that another has replaced (--replace, upgrade) goes on "
            "with the sessions that it has; then they end. 0 = as long as they last.", scope=PROCESS,
            example="drain_timeout 3600"),
    _flag("foreground", "Stay in the foreground and tell on stderr.", "-f", startup=True, scope=PROCESS),
    Setting("pid_file", FILE, None, "The file that holds the process id, and the lock against a second instance.",
            "-p", startup=True, scope=PROCESS, example="pid_file /run/gpen.pid"),
    Setting("user", USER, None, "The user to run as once the sockets are open.", "-u", startup=True, scope=PROCESS,
            example="user gpen"),
    Setting("chroot", DIRECTORY, None, "The directory to be confined to once the files are open.", "-j",
            startup=True, scope=PROCESS, example="chroot /var/lib/gpen"),
    Setting("workers", WORKERS, 0, "How many processes serve the sessions of TCP, TLS and HTTP: a number, or auto, one "
            "for each processor that gpen may use. One more process chooses servers, counts, checks, answers commands "
            "and relays UDP. 0 = that one does all. Without a value, lists them: pid, sessions now and in all (total), "
            "seconds of CPU time, and for how many seconds one has given no sign.",
            startup=True, is_listed=True, example="workers auto", scope=PROCESS),
    "not here",
    _missing("ssl_ocsp_response", "OCSP stapling is not possible with Python's ssl module, and authorities give OCSP "
             "up: leave it out, take a certificate without must-staple, or let nginx or haproxy end TLS in front"),
)

SETTINGS: dict[str, Setting] = {setting.name: setting for setting in by_topic(_ALL)}
OWN_NAMES = tuple(name for name, setting in SETTINGS.items() if setting.scope == OWN)


_RULE_NAMES = frozenset(("roundrobin", "udp", "slowstart", "udp_requests", *(rule.name for rule in RULES)))
_CLIENT_LIMITS = frozenset(("client_max", "client_rate"))
_INTRODUCING = frozenset(("proxy_protocol", "transparent"))


class Settings:
    """The values in force, as plain attributes: of the process, or of one listener. Changed through commands only.

    A listener's are computed when something changes, so that to read one costs the hot path an attribute. ``rule`` is
    the one that chooses for new clients, ``returns`` whether a client first goes back to the server that it used last,
    ``limits_clients`` whether one address may have, or begin, so many sessions only, and ``introduces`` whether a
    server is told, or sees, who its client is: they follow from the others.
    """

    __slots__ = (*SETTINGS, "introduces", "limits_clients", "returns", "rule")

    introduces: bool
    limits_clients: bool
    returns: bool
    rule: Rule

    listen: str | None
    conn_max: int
    conn_max_total: int
    client_max: int
    connection_rate: Rate
    client_rate: Rate
    bandwidth: int
    bandwidth_total: int
    backlog: int
    freebind: bool
    listen_mode: tuple[Any, ...]  # a mode and an owner, as text, or empty
    multi_accept: int
    pending_max: int
    client_acl: int
    clients_max: int
    tracking: float
    tracking_with: str | None
    route: tuple[tuple[Key, To], ...]
    roundrobin: bool
    stateless: bool
    hash: bool
    weight: bool
    prio: bool
    leastconn: bool
    random: bool
    stubborn: bool
    slowstart: float
    blacklist: float
    emergency: ServerSpec | None
    abuse: ServerSpec | None
    check: Check
    check_port: int | None
    check_interval: float
    check_timeout: float
    check_rise: int
    check_fall: int
    check_tls: str
    health_ttl: float
    on_down: str
    on_event: str | None
    timeout: float
    name_refresh: float
    greeting: float
    mysql: bool
    hold: float
    hold_max: int
    proxy_protocol: str
    proxy_v2_options: tuple[str, ...]
    accept_proxy: int | str
    transparent: bool
    udp: bool
    udp_timeout: float
    udp_replies: int
    udp_unanswered: int
    udp_requests: int
    dsr_if: str | None
    dsr_ip: str | None
    tarpit_acl: int | str
    http: bool
    http_header_max: int
    http_head_timeout: float
    ssl_certificate: str | None
    ssl_key: str | None
    ssl_key_passphrase: str | None
    ssl_ca_file: str | None
    ssl_ca_path: str | None
    ssl_require_peer: bool
    ssl_verify_client: str
    ssl_protocol: str | None
    ssl_ciphers: str | None
    ssl_option: tuple[str, ...]
    ssl_sni_path: str | None
    ssl_strict_sni: bool
    ssl_alpn: tuple[str, ...] | None
    ssl_handshake: float
    server_tls: str
    server_tls_ca: str | None
    server_tls_verify: str
    server_tls_name: str | None
    server_tls_certificate: str | None
    server_tls_key: str | None
    server_tls_alpn: tuple[str, ...] | None
    geoip_db: str | None
    idle_timeout: float
    half_closed_timeout: float
    quiet: float
    session_max_age: float
    source: tuple[str, ...] | None
    tcp_fastclose: str
    tcp_nodelay: bool
    keepalive: tuple[int, ...]
    user_timeout: float
    dummy: bool
    idlers: int
    log: str | None
    log_format: str
    web_stats: str | None
    debug: int
    ascii: bool
    abort_on_error: bool
    peers: tuple[str, str] | None
    peer: tuple[tuple[str, str], ...]
    peers_certificate: str | None
    peers_ca: str | None
    control: str | None
    control_acl: int | None
    control_mode: int
    control_access: str
    metrics: str | None
    metrics_acl: int | str
    metrics_control: str
    metrics_token: str | None
    drain_timeout: float
    exit_enabled: bool
    foreground: bool
    pid_file: str | None
    user: str | None
    chroot: str | None
    workers: int | str

    def __init__(self) -> None:
        for setting in SETTINGS.values():
            setattr(self, setting.name, setting.default)

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)
        if name in _RULE_NAMES:
            rule = next((rule for rule in RULES if getattr(self, rule.name, False)), ROUND_ROBIN)
            object.__setattr__(self, "rule", eased(rule, getattr(self, "slowstart", 0)))
            is_spread = getattr(self, "udp", False) and getattr(self, "udp_requests", 0)
            object.__setattr__(self, "returns", bool(
                rule.remembers and not getattr(self, "roundrobin", False) and not is_spread))
        elif name in _CLIENT_LIMITS:
            object.__setattr__(self, "limits_clients", bool(
                getattr(self, "client_max", 0) or getattr(self, "client_rate", NO_RATE)))
        elif name in _INTRODUCING:
            is_told = getattr(self, "proxy_protocol", "off") != "off"
            object.__setattr__(self, "introduces", is_told or getattr(self, "transparent", False))

    def copy(self) -> Settings:
        """The same values, to be changed by themselves."""
        return self.overlaid({name: self.get(name) for name in OWN_NAMES})

    def overlaid(self, own: Mapping[str, Any]) -> Settings:
        """These values as they are shared, with those that a listener has of its own."""
        copied = Settings.__new__(Settings)
        for name in SETTINGS:
            setattr(copied, name, getattr(self, name))
        for name in OWN_NAMES:
            setattr(copied, name, SETTINGS[name].default)
        for name, value in own.items():
            setattr(copied, name, value)
        return copied

    def equals(self, other: Settings) -> bool:
        """Whether all values are the same."""
        return all(getattr(self, name) == getattr(other, name) for name in SETTINGS)

    def become(self, other: Settings) -> None:
        """Have the values that others have."""
        for name in SETTINGS:
            setattr(self, name, getattr(other, name))

    def get(self, name: str) -> Any:
        """The value of the setting of this name."""
        return getattr(self, name)

    def set(self, name: str, value: Any) -> None:
        """Give the setting a value that its kind has read, or None for its default."""
        setting = SETTINGS[name]
        if setting.adds and value is not None:
            value = setting.added(self.get(name), value)
        self.replace(name, setting.default if value is None else value)

    def replace(self, name: str, value: Any) -> None:
        """Give the setting a value that ``get`` gave: the whole of it, also where setting it adds."""
        setattr(self, name, value)
