"""The command table: every command of the control language, declared once.

The parser, ``help``, the suggestion for an unknown command, the man pages, shell completion and gpenctl read it.
Settings (``model/settings.py``) are commands too: NAME reads the value, NAME VALUE sets it, ``no NAME`` puts the
default back.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from gpen.control.elsewhere import ELSEWHERE
from gpen.model.acl import Entry, parse_country, parse_entry
from gpen.model.address import UNIX, UNSPECIFIED, Address, parse_host, parse_port
from gpen.model.agent import SILENT
from gpen.model.check import parse_port_number, take_check
from gpen.model.numbers import parse_numbers
from gpen.model.route import Asked, parse_key
from gpen.model.server import MEMBER_FIELDS, STATES, VERDICTS, Said
from gpen.model.settings import OWN, PROCESS, SETTINGS, SHARED, Setting, by_topic
from gpen.model.text import shortened
from gpen.model.value_types import (
    ACL,
    FILE,
    TEXT,
    UNNAMED,
    one_of,
    parse_listener,
    parse_owner,
    parse_tls_name,
    seconds,
    whole,
)

ACCESS = ("view", "operate", "admin")
Arguments = dict[str, Any]
Parse = Callable[[Sequence[str]], Arguments]


@dataclass(frozen=True)
class Command:
    """One command.

    ``parse`` reads the words behind the name (``parse_no`` those behind ``no NAME``) and raises ValueError; ``access``
    is what a control client needs; ``configures`` says that it may stand in a configuration file; ``json`` that it
    takes the word json at its end; ``is_ignored`` that it has no effect; ``topic`` is the one that it stands under in
    the table.
    """

    name: str
    usage: str
    help: str
    parse: Parse
    access: str = "view"
    parse_no: Parse | None = None
    usage_no: str = ""
    configures: bool = False
    json: bool = False
    example: str = ""
    setting: Setting | None = None
    is_ignored: bool = False
    topic: str = ""

    @property
    def negatable(self) -> bool:
        return self.parse_no is not None


@dataclass(frozen=True)
class Option:
    """One option of gpen's command line: ``setting`` is what it sets, if that is all it does, and ``topic`` what it
    stands under."""

    flag: str
    argument: str
    help: str
    setting: str = ""
    topic: str = ""


# --- readers of arguments ---------------------------------------------------------------------------------------------


def nothing(words: Sequence[str]) -> Arguments:
    if words:
        raise ValueError(f"'{words[0]}' is too much: no argument expected")
    return {}


def anything(words: Sequence[str]) -> Arguments:
    return {}


def one(name: str, parse: Callable[[str], Any], what: str) -> Parse:
    """Exactly one argument."""

    def read(words: Sequence[str]) -> Arguments:
        if len(words) != 1:
            raise ValueError(f"'{words[1]}' is too much: expected {what}" if words else f"expected {what}")
        return {name: parse(words[0])}

    return read


def maybe(name: str, parse: Callable[[str], Any], default: Any) -> Parse:
    """At most one argument."""

    def read(words: Sequence[str]) -> Arguments:
        if len(words) > 1:
            raise ValueError(f"'{words[1]}' is too much: at most one argument expected")
        return {name: parse(words[0]) if words else default}

    return read


_NUMBER = whole(0)
Take = Callable[[Sequence[str]], tuple[Any, Sequence[str]]]


def _word(parse: Callable[[str], Any]) -> Take:
    """A reader of one word, which returns what it read and the words behind it."""
    return lambda words: (parse(words[0]), words[1:])


def _check(words: Sequence[str]) -> tuple[Any, Sequence[str]]:
    return (None, words[1:]) if words[0] == "default" else take_check(words)


def _said(words: Sequence[str]) -> tuple[Said, Sequence[str]]:
    """``up|drain|down [for SECONDS] [because WORDS...]``, or ``unknown``."""
    word, rest = words[0], words[1:]
    if word == "unknown":
        return Said(word), rest
    if word not in VERDICTS:
        raise ValueError(f"'{word}' is not {', '.join(VERDICTS)} or unknown")
    age = 0.0
    if list(rest[:1]) == ["for"]:
        if not rest[1:]:
            raise ValueError("for: expected SECONDS")
        age, rest = seconds().parse(rest[1]), rest[2:]
    reason, rest = _because(rest, "by a command")
    return Said(word, reason, age), rest


def _failed(words: Sequence[str]) -> tuple[Said, Sequence[str]]:
    """``SECONDS [because WORDS...]``."""
    reason, rest = _because(words[1:], "connect failed")
    return Said("down", reason, seconds(zero=False).parse(words[0])), rest


def _answered(words: Sequence[str]) -> tuple[Said, Sequence[str]]:
    """``TEXT [for SECONDS]``, what an agent says; or ``unknown``."""
    text, rest = words[0], words[1:]
    if text == "unknown":
        return Said(text), rest
    SILENT.followed_by(text)
    if list(rest[:1]) != ["for"]:
        return Said(text), rest
    if not rest[1:]:
        raise ValueError("for: expected SECONDS")
    return Said(text, seconds=seconds().parse(rest[1])), rest[2:]


def _because(words: Sequence[str], default: str) -> tuple[str, Sequence[str]]:
    """A reason, which goes to the end of the line; and the words behind it, where there is none."""
    if list(words[:1]) != ["because"]:
        return default, words
    if not words[1:]:
        raise ValueError("because: expected WORDS")
    return TEXT.parse(" ".join(words[1:])), []


def _address(words: Sequence[str]) -> tuple[Address, Sequence[str]]:
    """An address; or what pen's ``write`` says, in so many words, of a slot that never had one."""
    if tuple(words[:3]) == _PENS_NONE and len(words) > 3:
        return Address(UNSPECIFIED[0]), words[4:]
    return parse_host(words[0]), words[1:]


_PENS_NONE = ("(unknown", "address", "family")
SERVER_FIELDS: dict[str, Take] = {
    "address": _address,
    "port": _word(parse_port),
    "max": _word(_NUMBER.parse),
    "hard": _word(_NUMBER.parse),
    "weight": _word(_NUMBER.parse),
    "prio": _word(_NUMBER.parse),
    "acl": _word(ACL.parse),
    "blacklist": _word(seconds().parse),
    "state": _word(one_of(*STATES).parse),
    "check": _check,
    "check_port": _word(lambda text: None if text == "default" else parse_port_number(text)),
    "owner": _word(lambda text: None if text == "default" else parse_owner(text)),
    "tls": _word(lambda text: None if text == "default" else one_of("on", "off", "default").parse(text)),
    "tls_name": _word(lambda text: None if text == "default" else parse_tls_name(text)),
    "returned": _word(seconds().parse),
    "failed": _failed,
    "health": _said,
    "checked": _said,
    "answered": _answered,
}


def _which(what: str) -> Parse:
    """The number of a server, and where it is to be for the command to count."""

    def read(words: Sequence[str]) -> Arguments:
        number, rest = words[:1], words[1:]
        if len(number) != 1 or (rest and (rest[0] != "at" or len(rest) != 2)):
            raise ValueError(f"expected {what}")
        return {"number": _NUMBER.parse(number[0]), "at": parse_host(rest[1]) if rest else None}

    return read


def _server(words: Sequence[str]) -> Arguments:
    if not words:
        raise ValueError("expected the number of a server")
    if not words[0].isdecimal():
        raise ValueError(f"'{shortened(words[0])}' is not a whole number: a server has a number, from 0 on, and no "
                         "name: server 0 address HOST:PORT, say")
    number, changes = _NUMBER.parse(words[0]), {}
    at, rest = None, words[1:]
    if rest[:1] == ["at"]:
        if not rest[1:]:
            raise ValueError("at: expected a value")
        at, rest = parse_host(rest[1]), rest[2:]
    while rest:
        name, *rest = rest
        if name not in SERVER_FIELDS:
            raise ValueError(f"'{shortened(name)}' is not one of {', '.join(SERVER_FIELDS)}{_meant(name)}")
        if not rest:
            raise ValueError(f"{name}: expected a value")
        try:
            changes[name], rest = SERVER_FIELDS[name](rest)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    _check_port(changes)
    return {"number": number, "changes": changes, "at": at}


def _meant(name: str) -> str:
    """What may be meant by a word where what is to be changed of a server belongs."""
    if re.search("[.:/]", name):
        return f"; if that is the address: address {shortened(name)}"
    if name in STATES:
        return f"; did you mean 'state {name}'?"
    if name in VERDICTS:
        return f"; did you mean 'health {name}'?"
    near = suggestion(name, SERVER_FIELDS)
    if near:
        return f"; did you mean '{near}'?"
    return f"; here that is {ELSEWHERE[name]}" if name in ELSEWHERE else ""


def _check_port(changes: Arguments) -> None:
    """Raises ValueError when an address has a port of its own, and port says another."""
    address = changes.get("address")
    if address is not None and address.port != "" and changes.get("port", address.port) != address.port:
        raise ValueError(f"address {address} and port {changes['port']} say different ports: give one of them")


def _drain(words: Sequence[str]) -> Arguments:
    if not words:
        raise ValueError("expected the number of a server")
    number, limit, rest = words[0], None, list(words[1:])
    if rest and rest[0] not in _WAYS_TO_DRAIN:
        limit = seconds().parse(rest.pop(0))
    if wrong := [word for word in rest if word not in _WAYS_TO_DRAIN or rest.count(word) > 1]:
        raise ValueError(f"'{wrong[0]}' is too much: expected drain N [SECONDS] [quiet] [close]")
    if "close" in rest and limit is None:
        raise ValueError("close: expected after how many SECONDS: drain N SECONDS close")
    return {"number": _NUMBER.parse(number), "seconds": limit, "quiet": "quiet" in rest, "close": "close" in rest}


_WAYS_TO_DRAIN = ("quiet", "close")


def _rebalance(words: Sequence[str]) -> Arguments:
    """``[PERCENT] [over SECONDS]``."""
    percent = words[:1] if list(words[:1]) != ["over"] else []
    rest = words[len(percent):]
    if rest and (rest[0] != "over" or len(rest) != 2):
        raise ValueError(f"'{' '.join(rest)}' is not 'over SECONDS': expected rebalance [PERCENT] [over SECONDS]")
    return {"percent": _NUMBER.parse(percent[0].removesuffix("%")) if percent else _TOLERATED,
            "seconds": seconds().parse(rest[1]) if rest else _REBALANCE_SECONDS}


_TOLERATED, _REBALANCE_SECONDS = 10, 60.0


def _close(words: Sequence[str]) -> Arguments:
    if words and words[0] == "server":
        quietly = list(words[-1:]) == ["quiet"]
        which = _which("close server N [at ADDRESS] [quiet]")(words[1:-1] if quietly else words[1:])
        return {"server": which["number"], "at": which["at"], "quiet": quietly}
    if words and words[0] == "address":
        return one("clients", _network, "close address ADDRESS[/LENGTH]")(words[1:])
    return one("number", _NUMBER.parse, "N, server N or address ADDRESS")(words)


def _network(text: str) -> Entry:
    """The clients of an address, or of a network."""
    return parse_entry("permit", text)


def _acl(words: Sequence[str]) -> Arguments:
    if len(words) < 3 or (words[2] == "country" and len(words) < 4):
        raise ValueError("expected N permit|deny ADDRESS, or N permit|deny country CC")
    if len(words) > 4:
        raise ValueError(f"'{words[4]}' is too much: expected N permit|deny ADDRESS [MASK]")
    number = ACL.parse(words[0])
    is_country = words[2] == "country"
    return {"number": number, "entry": parse_country(words[1], words[3]) if is_country else parse_entry(*words[1:4])}


def _client(words: Sequence[str]) -> Arguments:
    if len(words) < 3 or words[1] != "server":
        raise ValueError(f"expected {_CLIENT}")
    address, _, server, *rest = words
    idle, route = 0.0, None
    if rest[:1] == ["idle"] and len(rest) > 1:
        idle, rest = seconds().parse(rest[1]), rest[2:]
    if rest[:1] == ["route"]:
        route, rest = parse_key(rest[1:]), []
    if rest:
        raise ValueError(f"'{rest[0]}' is not expected here: expected {_CLIENT}")
    return {"address": _client_address(address, unix=True), "server": _NUMBER.parse(server), "idle": idle,
            "route": route}


_CLIENT = "client ADDRESS server N [idle SECONDS] [route sni|alpn|host|default [NAME]]"


def _uses(words: Sequence[str]) -> Arguments:
    """Nothing, which asks; or the numbers of servers: ``all``, or numbers and ranges with commas between them."""
    if not words:
        return {}
    text = " ".join(words)
    return {"numbers": None if text == "all" else parse_numbers(text)}


def _member(words: Sequence[str]) -> Arguments:
    """The number of a server, and what is different of it for a listener; None for what is not."""
    if len(words) < 2:
        raise ValueError(f"expected N, the number of a server, and what is different of it: {', '.join(MEMBER_FIELDS)}")
    number, rest = _NUMBER.parse(words[0]), words[1:]
    changes: Arguments = {}
    while rest:
        name, *rest = rest
        if name not in _MEMBER_FIELDS:
            raise ValueError(f"'{name}' is not one of {', '.join(MEMBER_FIELDS)}: what else a server has is the same "
                             "for all listeners")
        if not rest:
            raise ValueError(f"{name}: expected a value, or default")
        try:
            changes[name], rest = (None, rest[1:]) if rest[0] == "default" else _MEMBER_FIELDS[name](rest)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    return {"number": number, "changes": changes}


def _port_there(text: str) -> int | str:
    port = parse_port(text)
    if port == 0:
        raise ValueError("nobody listens at port 0: expected 1 to 65535, or default")
    return port


_MEMBER_FIELDS: dict[str, Take] = {
    **{name: SERVER_FIELDS[name] for name in ("max", "weight", "prio")}, "port": _word(_port_there), "failed": _failed}


def _inherit(words: Sequence[str]) -> Arguments:
    name, *rest = words or [""]
    if name == "server" and rest:
        return {"setting": None} | one("number", _NUMBER.parse, "server N")(rest)
    if not name or name == "server":
        raise ValueError("expected the name of a setting, or server N")
    if rest:
        raise ValueError(f"'{rest[0]}' is too much: expected the name of a setting, or server N")
    setting = SETTINGS.get(name)
    if setting is None:
        near = suggestion(name, SHARED_NAMES)
        raise ValueError(f"'{shortened(name)}' is not a setting" + (f"; did you mean '{near}'?" if near else ""))
    if setting.scope != SHARED:
        raise ValueError(f"{name}: it is {_NOT_SHARED[setting.scope]}, and there is nothing to inherit")
    return {"setting": name, "number": None}


_NOT_SHARED = {PROCESS: "of the whole gpen, not of one listener", OWN: "of each listener alone"}


def _close_there(words: Sequence[str]) -> Arguments:
    if list(words[:1]) not in (["server"], ["address"]):
        raise ValueError("expected server N, or address ADDRESS: a session is closed by its number alone, 'close N'")
    return _close(words)


def _no_listener(words: Sequence[str]) -> Arguments:
    raise ValueError("expected NAME and a COMMAND: listener NAME listen [HOST:]PORT, say")


def _handover(words: Sequence[str]) -> Arguments:
    if len(words) != 2:
        raise ValueError("expected PROTOCOL VERSION: it is what gpen --replace says")
    return {"protocol": whole(0).parse(words[0]), "version": words[1]}


def _ready(words: Sequence[str]) -> Arguments:
    """The name of a listener, which is empty for the one without; None for all."""
    return maybe("listener", lambda text: "" if text == UNNAMED else parse_listener(text), None)(words)


def _help(words: Sequence[str]) -> Arguments:
    return maybe("name", str, None)(words[1:] if words[:1] == ["no"] else words)


# --- the table --------------------------------------------------------------------------------------------------------

_NO_EFFECT_TOPIC = "without effect"
_NO_EFFECT = "Accepted for pen's sake, without effect: gpen always uses epoll and never blocks."

# a text is the topic of what stands behind it
_COMMANDS: list[Command | str] = [
    "looking",
    Command("servers", "servers [json]", "List the servers: address, sessions (of all listeners), limits and "
            "bytes (sx sent to the server, rx received from it). Where this gpen has replaced another that has "
            "sessions yet, old is how many: max and hard count these as well.", nothing, json=True,
            example="servers json"),
    Command("sessions", "sessions [json]", "List the sessions: id, client, server, state, age and idle time in "
            "seconds, bytes to the server (up) and to the client (down), and the listener if it has a name.", nothing,
            json=True),
    Command("recent", "recent [SECONDS] [json]", "List the clients seen in the last SECONDS (300), with their connects "
            "and bytes (sx sent to the client, rx received from it).",
            maybe("seconds", seconds().parse, 300), json=True, example="recent 60"),
    Command("events", "events [N] [json]", "The last N (20) changes of servers' states, with time and cause.",
            maybe("count", whole(1).parse, 20), json=True, example="events 5"),
    Command("state", "state", "Print, as commands, what write does not save: verdicts with reason and age, what is "
            "left of blacklists and slow starts, drain and maint, and which client was at which server. A gpen with "
            "the same configuration that includes it goes on where this one is.", nothing),
    Command("explain", "explain ADDRESS [sni NAME] [alpn PROTOCOL] [host NAME] [json]", "The server that a client from "
            "ADDRESS would get now, and for every "
            "other server the reason why not; where there are routes, one that asks for this. Changes nothing.",
            lambda words: _explain(words), json=True, example="explain 10.0.0.7"),
    Command("ready", "ready [LISTENER] [json]", "Whether clients can be served, by all listeners that listen or by one "
            "(- is the one without a name): 'ready', or a line for each reason why not. One server that is "
            "ready, and up or on trial, is enough; so is an emergency server, which is not checked. A server that is "
            "full counts as ready: who moves an address moves its load as well. Changes nothing.", _ready, json=True,
            example="ready writer"),
    Command("info", "info [json]", "What gpen is and how it fares as a whole: version, process, since when, sessions "
            "now and in all, clients that wait, and how sessions have ended.", nothing, json=True),
    Command("mode", "mode [json]", "How servers are chosen: each mode, with no in front where it is off.", nothing,
            json=True),
    Command("connection", "connection N [json]", "Details of session N.", maybe("number", _NUMBER.parse, 0), json=True,
            example="connection 3"),
    Command("socket", "socket N", "The session that file descriptor N belongs to, or -1.",
            maybe("number", _NUMBER.parse, 0)),
    Command("status", "status", "The status page, in HTML.", nothing),
    Command("pid", "pid", "The process id.", nothing),
    Command("stay", "stay", "Keep this control connection open for lines that come later, until the client ends it or "
            "says nothing for 10 minutes. Without it, the connection is closed with the reply to the last line that "
            "has come.", nothing),
    Command("help", "help [COMMAND] [json]", "List the commands, or explain one.", _help, json=True,
            example="help server"),
    "listeners",
    Command("listeners", "listeners [json]", "List the listeners: name (- is the one without), address, what clients "
            "speak, sessions (conn) and their limit, clients that wait (held), sessions in all, how servers are "
            "chosen, and which; as JSON also frames of direct server return (dsr).", nothing, json=True),
    Command("listener", "listener NAME listen [HOST:]PORT | listener NAME SETTING [VALUE] | listener NAME no SETTING | "
            "listener NAME inherit SETTING | listener NAME servers [NUMBERS|all] | listener NAME server N [max M] "
            "[weight W] [prio P] [port P] | listener NAME inherit server N | listener NAME COMMAND",
            "Make, change or ask the listener of this name alone. 'listen' makes it, and is the first to be said of a "
            "new one; 'no listener NAME' closes it, and its sessions go on. A setting that is said here is its own "
            "('no SETTING': the default); all others have the value that is said without a name, and 'inherit' takes "
            "that again. 'servers 0-2,5' are "
            "those that it uses (all, unless told), 'server N' says what is different of one here: its max here counts "
            "this listener's sessions alone, and holds beside the server's own; 'max default' takes back one of these, "
            "'inherit server N' all. The states, verdicts and blacklists of servers are those of all listeners; the "
            "turn and the memory of clients are its own, unless tracking_with says otherwise. COMMAND is servers, "
            "sessions, recent, events, mode, explain, rebalance, close server N, close address A or client: what they "
            "say or do is about this listener then.",
            _no_listener, "admin", one("listener", parse_listener, "no listener NAME"), "no listener NAME",
            configures=True, example="listener writer listen 3306"),
    "servers",
    Command("server", "server N [at ADDRESS] [address HOST[:PORT]] [port P] [max M] [hard H] [weight W] [prio P] "
            "[acl A] [blacklist SECONDS] [state ready|drain|maint] [check CHECK|default] [check_port P|default] "
            "[owner WORD|default] [tls on|off|default] [tls_name NAME|default] "
            "[health up|drain|down [for SECONDS] [because WORDS...]|unknown] "
            "[returned SECONDS] [failed SECONDS [because WORDS...]] "
            "[checked up|drain|down [for SECONDS] [because WORDS...]|unknown] [answered TEXT [for SECONDS]|unknown]",
            "Change server N, or make it: with an address (HOST, HOST:PORT or /PATH) a new N is a new server. max and "
            "hard limit its sessions, but for those whose server's side has ended (0 = no limit; hard is for clients "
            "that return to it); blacklist leaves it alone for "
            "so long, 0 takes it back at once; drain gives it no new sessions, maint also closes those it has. check "
            "is how it is checked, in the words of the setting check, and check_port where; default takes what the "
            "settings of these names say. owner names the program that has made it, such as gpen-discover, which "
            "changes and deletes no other's; gpen itself does nothing by it. tls says whether TLS is spoken to it, "
            "whatever server_tls says, and tls_name the name that it is asked for and its certificate has to be for, "
            "in the place of server_tls_name. health is a verdict from "
            "outside: down gives it no new sessions, and on_down says what becomes of those that it has; drain keeps "
            "them, whatever on_down says; up also ends a blacklist, unknown withdraws it; write does not save it. "
            "failed, checked and answered are what 'state' prints of what connects and checks have found, and of what "
            "its agent has said: answered \"down #disk full\" counts until the agent says otherwise. "
            "returned is how long ago it came back, where slowstart gives it time yet. "
            "'no server N' deletes it: its sessions go on, the numbers of the others stay. Address 0.0.0.0, "
            "or port 0, empties its slot, as in pen: the same, but servers still lists it until it gets another "
            "address. With another address, the sessions at the old one go on, and no verdict, maint or drain of the "
            "server means them, nor do max and hard count them; clients that are just being connected go to the new "
            "one. Where verdicts expire (health_ttl), one that had a verdict is down there until the next, and so is a "
            "new server where all others have one. What "
            "a command has said stays, whatever connects and checks find. With at, the command counts only "
            "if the server has this address, or gets it as a new one: so a program changes no other that has got its "
            "number meanwhile.",
            _server, "operate", _which("no server N"), "no server N [at ADDRESS]", configures=True,
            example="server 2 address 10.0.0.3:3306 max 100"),
    Command("client", _CLIENT, "Remember that the client at ADDRESS was served by "
            "server N, as if it had been seen so many SECONDS (0) ago; with route, on this route alone, else on all "
            "that there are. 'no client ADDRESS' forgets it: when it comes "
            "again, it is new. write does not save it; state prints it.", _client, "operate",
            one("address", lambda text: _client_address(text, unix=True), "no client ADDRESS"), "no client ADDRESS",
            configures=True, example="client 192.0.2.7 server 1"),
    "access lists",
    Command("acl", "acl N permit|deny ADDRESS [MASK] | acl N permit|deny country CC", "Add an entry to access list N "
            "(0 to 9): an IPv4 address with an optional mask, a network as ADDRESS/LENGTH, an IPv6 address or network, "
            "or all addresses of a country (two letters, ISO 3166-1; needs geoip_db). The first match decides; "
            "without one, the opposite of the last entry of the client's family; a country's entry is of both. "
            "'no acl N' empties the list.",
            _acl, "admin", one("number", ACL.parse, "no acl N"), "no acl N", configures=True,
            example="acl 1 permit 10.0.0.0/8"),
    "servers",
    Command("close", "close N | close server N [at ADDRESS] [quiet] | close address ADDRESS[/LENGTH]", "End session N, "
            "or all sessions of the servers that have or had number N, at whatever address; with at, only if the "
            "server has this one now; with quiet, each of them between two exchanges, as soon as there is such a "
            "moment (see quiet). Or all sessions and flows of the clients at an address, or of a network: 0.0.0.0/0 is "
            "all of IPv4, ::/0 of IPv6.", _close, "operate", example="close address 192.0.2.7"),
    Command("drain", "drain N [SECONDS] [quiet] [close]", "Give server N no new sessions and wait until it has none, "
            "or so many SECONDS; quiet meanwhile ends each that it has between two exchanges (see quiet), and close "
            "then closes what is left. Tells each second how many there are, and at the end how many went by "
            "themselves. An error when sessions are left, which then go on. 'server N state ready' takes the server "
            "back. Sessions at an address that it had before are not waited for, nor are idlers.",
            _drain, "operate", example="drain 1 30 quiet close"),
    Command("rebalance", "rebalance [PERCENT] [over SECONDS]", "Spread the sessions that there are over the servers "
            "again, as after one has come back: where a server has PERCENT (10) more than its share, what it has too "
            "much is ended, evenly in so many SECONDS (60), each session between two exchanges (see quiet). Its client "
            "is forgotten, and gets a server anew when it comes again. The share is by weight, among the servers that "
            "may get clients; with prio, the first has all. Of all listeners, or of one behind its name; not of those "
            "with hash or stateless, where clients would come back to the same server, and not of UDP. Tells each "
            "second how many are left, and at the end what was done. An error when it is not done then. When the one "
            "who asked leaves, it stops.",
            _rebalance, "operate", example="rebalance 20 over 300"),
    "the process",
    Command("write", "write [FILE]", "Save the configuration as a file that starts the same gpen; without FILE, the "
            "file given with -F.", maybe("file", FILE.parse, None), "admin", example="write /etc/gpen/web.cfg"),
    Command("include", "include FILE", "Run the commands in FILE: all of them, or none if one is wrong.",
            one("file", FILE.parse, "a FILE"), "admin", configures=True, example="include /etc/gpen/servers.cfg"),
    Command("reload", "reload", "Carry out what has changed in the file of -F since it was read last, whole or not at "
            "all; reopen the logs, read certificates and the country database again, and look names up: as signal HUP "
            "does, but with an answer. A line that went is undone; what was changed at runtime, and the file never "
            "mentioned, stays. Answers the changes, a line each, or what is wrong.", nothing, "admin"),
    Command("upgrade", "upgrade", "Start gpen anew, with the same arguments and --replace: it gets the listening "
            "sockets and all that this one knows, and when it is ready this one only ends its sessions; PATH.old, "
            "beside the control socket, answers for it then. Answers the pid of the new one; or why it can't, and then "
            "this one goes on as before. Needs a control socket that is a file, and no chroot.", nothing, "admin"),
    Command("handover", "handover PROTOCOL VERSION", "What gpen --replace says to the gpen whose place it takes. For "
            "gpen alone.", _handover, "admin"),
    Command("exit", "exit", "Stop gpen. Only with option -X.", nothing, "admin"),
    _NO_EFFECT_TOPIC,
    *(Command(name, name, _NO_EFFECT, anything, parse_no=anything, usage_no=f"no {name}", configures=True,
              is_ignored=True)
      for name in ("epoll", "kqueue", "poll", "select", "block", "delayed_forward", "peek")),
]


def _client_address(text: str, unix: bool = False) -> str:
    """The address of a client as it is remembered; that of clients of a unix socket is ``unix``, if that may be."""
    if unix and text == UNIX:
        return text
    try:
        address = ipaddress.ip_address(text)
        return str(getattr(address, "ipv4_mapped", None) or address)
    except ValueError:
        raise ValueError(f"'{text}' is not an IPv4 or IPv6 address") from None


def _explain(words: Sequence[str]) -> Arguments:
    """The address of a client, and what it asks for."""
    arguments = one("address", lambda text: _client_address(text), "the ADDRESS of a client")(words[:1])
    asked: dict[str, str] = {}
    rest = list(words[1:])
    while rest:
        name, *rest = rest
        if name not in Asked._fields:
            raise ValueError(f"'{shortened(name)}' is not one of {', '.join(Asked._fields)}")
        if not rest:
            raise ValueError(f"{name}: expected a value")
        asked[name], *rest = rest
    protocols = (asked["alpn"],) if "alpn" in asked else ()
    return arguments | {"asked": Asked(asked.get("sni", ""), protocols, asked.get("host", ""))}


def _of_setting(setting: Setting) -> Command:
    """The command that reads and sets a setting."""

    def parse(words: Sequence[str]) -> Arguments:
        if not words and not setting.is_flag:
            return {} if setting.on is None else {"value": setting.on}
        if setting.missing and not (setting.is_flag and words):
            raise ValueError(setting.missing)
        if setting.is_flag:
            return {"value": True} | nothing(words)
        if setting.kind.many:
            return {"value": setting.kind.parse(words)}
        if len(words) > 1:
            raise ValueError(f"'{words[1]}' is too much: expected {setting.kind.metavar}")
        return {"value": setting.kind.parse(words[0])}

    def parse_no(words: Sequence[str]) -> Arguments:
        if setting.is_keyed and words:
            return {"value": ((setting.read_key(words), ""),)}
        return {"value": setting.off} | nothing(words)

    usage = setting.name if setting.is_flag else f"{setting.name} [{setting.kind.metavar}]"
    if setting.is_listed:
        usage = f"{setting.name} [json] | {setting.name} {setting.kind.metavar}"
    usage_no = f"no {setting.name} [{setting.key}]" if setting.is_keyed else f"no {setting.name}"
    return Command(setting.name, usage, setting.help, parse, "admin", parse_no, usage_no, configures=True,
                   json=setting.is_listed, setting=setting, example=setting.example, is_ignored=setting.is_ignored,
                   topic=setting.topic)


COMMANDS: dict[str, Command] = {command.name: command for command in by_topic(_COMMANDS)} | {
    name: _of_setting(setting) for name, setting in SETTINGS.items()
}

# what may stand behind ``listener NAME``: settings that are not of the process, and these
_SCOPED = (
    Command("servers", "listener NAME servers [json] | listener NAME servers NUMBERS|all", "", _uses, "operate",
            configures=True, json=True),
    Command("server", "listener NAME server N [max M] [weight W] [prio P] [port P]", "", _member, "operate",
            configures=True),
    Command("inherit", "listener NAME inherit SETTING|server N", "", _inherit, "admin", configures=True),
    Command("close", "listener NAME close server N [at ADDRESS] [quiet] | listener NAME close address "
            "ADDRESS[/LENGTH]", "", _close_there, "operate"),
    Command("rebalance", "listener NAME rebalance [PERCENT] [over SECONDS]", "", _rebalance, "operate"),
    *(COMMANDS[name] for name in ("sessions", "recent", "explain", "mode", "events", "client")),
)
SCOPED: dict[str, Command] = {command.name: command for command in _SCOPED} | {
    name: COMMANDS[name] for name, setting in SETTINGS.items() if setting.scope != PROCESS
}

SHARED_NAMES = tuple(name for name, setting in SETTINGS.items() if setting.scope == SHARED)


def scoped_usage(command: Command) -> str:
    """How one of SCOPED is written behind ``listener NAME``."""
    return command.usage.replace("listener NAME ", "")


START = "start"  # the topic of options that are no settings
OPTIONS: tuple[Option, ...] = (
    *(Option(s.flag, s.kind.metavar if not s.is_flag and s.flag != "-d" else "",
             s.missing or s.help, s.name, _NO_EFFECT_TOPIC if s.is_ignored else s.topic)
      for s in SETTINGS.values() if s.flag),
    *(Option(flag, argument, help, topic=START) for flag, argument, help in (
        ("-F", "FILE", "A file of commands, read at start; what has changed in it counts after signal HUP, or the "
         "command reload."),
        ("-O", "COMMAND", "Run a command at start, in quotes: -O 'hold 10'; may be given several times."),
        ("-o", "COMMAND", "The same as -O."),
        ("--check", "", "Read everything, say what is wrong or that it is valid, and open nothing."),
        ("--replace", "", "Take the place of the gpen that runs with this control socket (-C /PATH), which then only "
         "ends its sessions: clients do not notice."),
        ("--help", "", "Show this text."),
        ("--version", "", "Show the version, and what gpen runs on."))),
    *(Option(flag, argument, "Obsolete: accepted with a warning, without effect.", topic=_NO_EFFECT_TOPIC)
      for flag, argument in (("-D", ""), ("-n", ""), ("-Q", ""), ("-S", "N"), ("-P", ""), ("-i", "SERVICE"))),
)


def suggestion(name: str, known: Iterable[str] = COMMANDS) -> str | None:
    """The name of those that are known, of the commands, which is nearest to an unknown one, if any is near."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return near[0] if near else None


def advice(name: str, known: Iterable[str] = COMMANDS) -> str:
    """What may be meant by an unknown command: a word of other balancers, what belongs behind 'server N', or a slip;
    empty where nothing is near."""
    if name in ELSEWHERE:
        return f"here that is {ELSEWHERE[name]}"
    if name in SERVER_FIELDS:
        return f"that is said of a server: 'server N {name} ...'"
    near = suggestion(name, known)
    return f"did you mean '{near}'?" if near else ""
