"""Replies: the values that commands return, as pen's text or as JSON.

Where pen has the command, the text is pen's to the letter; a client program that reads pen's can read ours.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from gpen.control import help
from gpen.control.commands import Option
from gpen.control.script import Call, UnknownCommand
from gpen.journal import timestamp
from gpen.model.numbers import numbers_words
from gpen.model.scheduler import RULES
from gpen.model.settings import SETTINGS, Setting
from gpen.model.text import counted, quote
from gpen.model.value_types import UNNAMED

Row = Mapping[str, Any]
PEN_MODES = ("hash", "roundrobin", "stubborn", "weight", "prio")
MORE_MODES = tuple(rule.name for rule in RULES if rule.name not in PEN_MODES)
ROWS_AT_ONCE = 100  # about 2 ms of work, with rows of servers
_AS_IT_COMES = ("drain", "rebalance", "state")  # text, piece by piece, with time between them
_AS_A_WHOLE = ("help",)  # its rows are laid out together


def error(message: str) -> str:
    """An error: one line."""
    return f"error: {' '.join(message.split())}\n"


def unknown(problem: UnknownCommand) -> str:
    """pen's words for a command that it does not know."""
    return f"do_cmd: ignoring command starting with '{problem.name}'\n"


def render(call: Call, value: Any) -> Iterator[str]:
    """The reply to a call that returned ``value``, in pieces; None gives none. Rows may come from an iterator: a long
    list is made while it is sent, and delays nobody."""
    if value is None:
        return
    if call.command.name in _AS_IT_COMES:
        yield from value
    elif isinstance(value, list | Iterator):
        yield from _rows(call, iter(value))
    elif call.json:
        yield _json(value) + "\n"
    elif call.command.setting is not None:
        yield _setting(call.command.setting, value)
    else:
        yield _TEXT.get(call.command.name, _plain)(value)


def _rows(call: Call, rows: Iterator[Row]) -> Iterator[str]:
    if call.json:
        yield "["
    separator = ""
    while piece := list(islice(rows, None if call.command.name in _AS_A_WHOLE else ROWS_AT_ONCE)):
        yield separator + ",".join(map(_json, piece)) if call.json else _TEXT[call.command.name](piece)
        separator = ","
    if call.json:
        yield "]\n"


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def _setting(setting: Setting, value: Any) -> str:
    shown = setting.show(value)
    return (setting.reply or "{}").format(shown) + "\n" if shown else ""


def _plain(value: Any) -> str:
    return f"{value}\n"


def _text(value: str) -> str:
    return value


def _server(row: Row) -> str:
    # pen's field addr holds the numeric address; the two special servers have no number and are not pen's to list
    return (f"{row['number']} addr {row['address']} port {row['port']} conn {row['sessions']} max {row['max']} "
            f"hard {row['hard']} weight {row['weight']} prio {row['prio']} sx {row['sx']} rx {row['rx']}"
            f"{_old(row)}\n")


def _old(row: Row) -> str:
    """The sessions of gpens that this one has replaced, where there are any: pen has no such thing."""
    return f" old {row['old']}" if row["old"] else ""


def _servers(rows: Sequence[Row]) -> str:
    return "".join(_server(row) for row in rows if row["number"] is not None)


def _recent(rows: Sequence[Row]) -> str:
    return "".join(f"{row['address']} connects {row['connects']} sx {row['sx']} rx {row['rx']}\n" for row in rows)


def _sessions(rows: Sequence[Row]) -> str:
    return "".join(
        f"{row['id']} client {row['client']} server {row['server'] if row['server'] is not None else '-'} "
        f"addr {row['server_address'] or '-'} state {row['state']} age {row['age']:.1f} idle {row['idle']:.1f} "
        f"up {row['up']} down {row['down']}{_tls(row)}{_listener(row)}\n" for row in rows)


def _listener(row: Row) -> str:
    """What came to the end of the line of a session later."""
    return (f" listener {row['listener']}" if row["listener"] else "") + (
        f" route {quote(row['route'])}" if row["route"] else "") + (
        f" subject {quote(row['subject'])}" if row["subject"] else "")


def _workers(rows: Sequence[Row]) -> str:
    return "".join(f"{row['number']} pid {row['pid']} sessions {row['sessions']} total {row['total']} "
                   f"cpu {row['cpu']:.2f} started {timestamp(row['started'])} silent {row['silent']}\n" for row in rows)


def _peers(rows: Sequence[Row]) -> str:
    return "".join(f"{row['name']} addr {row['address']} state {row['state']}{_contact(row)}\n" for row in rows)


def _contact(row: Row) -> str:
    """How it goes with a peer; of ourselves there is nothing to say."""
    if row["since"] is None:
        return ""
    error = f" error {quote(row['error'])}" if row["error"] else ""
    return (f" since {timestamp(row['since'])} sent {row['sent']} received {row['received']} unknown {row['unknown']} "
            f"pending {row['pending']}{error}")


def _listeners(rows: Sequence[Row]) -> str:
    return "".join(
        f"{row['name'] or UNNAMED} listen {row['address']} protocol {_word(row['protocol'])} "
        f"conn {row['sessions']} max {row['conn_max']} held {row['held']} total {row['total']} "
        f"rule {row['rule'].replace(' ', '-')} servers {numbers_words(row['servers'])}"
        f"{_tracking(row['tracking_with'])}{_routes(row['routes'])}\n" for row in rows)


def _word(protocol: str) -> str:
    return protocol.replace(" over ", "/").replace(" ", "")


def _tracking(other: str | None) -> str:
    return f" tracking_with {other}" if other is not None else ""


def _routes(routes: Sequence[Row]) -> str:
    return f" routes {len(routes)}" if routes else ""


def _tls(row: Row) -> str:
    clients = f" tls {row['tls']} {row['cipher']} {row['sni'] or '-'}" if row["tls"] else ""
    if not row["server_tls"]:
        return clients
    return f"{clients} server_tls {row['server_tls']} {row['server_cipher']} {row['tls_name']}"


def _mode(modes: Mapping[str, bool]) -> str:
    words = [name if modes[name] else f"no {name}" for name in PEN_MODES]
    return " ".join(words + [name for name in MORE_MODES if modes[name]]) + "\n"


def _info(row: Row) -> str:
    """Sentence by sentence, a line each."""
    lines = [f"gpen {row['version']} ({row['flavour']}), pid {row['pid']}, at {row['listen']}",
             f"up since {timestamp(row['started'])}",
             f"sessions {row['sessions']} of {row['conn_max']}, {row['held']} held, {row['total']} in all",
             f"clients {row['clients']} of {row['clients_max']}"]
    lines += [f"ended {word} {count}" for word, count in sorted(row["endings"].items())]
    return "\n".join(lines) + "\n"


def _connection(row: Row) -> str:
    if "state" not in row:
        return f"Connection {row['connection']} out of range\n"
    return (f"Connection {row['connection']}:\nstate = {row['state']}\n"
            f"downfd = {row['downfd']}, upfd = {row['upfd']}\n"
            f"client = {row['client']}, server = {row['server']}\npend = {row['pend']}\n")


def _events(rows: Sequence[Row]) -> str:
    return "".join(f"{timestamp(row['time'])} {_subject(row)} {row['event']}: {row['cause']}\n" for row in rows)


def _subject(row: Row) -> str:
    if row["server"] is not None:
        return f"server {row['server']}"
    return f"listener {row['listener']}" if row["listener"] else "gpen"


def readiness(row: Mapping[str, Any]) -> str:
    """The row of ``ready`` as text."""
    return "ready\n" if row["ready"] else "".join(f"not ready: {reason}\n" for reason in row["reasons"])


def _explain(row: Mapping[str, Any]) -> str:
    chosen = "no server" if row["server"] is None else f"server {row['server']} {row['server_address']}"
    lines = [f"{row['client']} would get {chosen}: {row['why']}"]
    if row["route"]:
        lines[0] += f" (route {row['route']})"
    lines += [f"not server {other['server']} {other['address']}: {other['why_not']}" for other in row["others"]]
    if row["sessions"]:
        lines.append(f"{row['client']} has {counted(row['sessions'], 'session')} now")
    return "\n".join(lines) + "\n"


def _help(value: help.Row | list[help.Row]) -> str:
    return help.details(value) if isinstance(value, dict) else help.overview(value)


_TEXT: dict[str, Callable[[Any], str]] = {
    "listeners": _listeners, "servers": _servers, "recent": _recent, "sessions": _sessions, "mode": _mode,
    "info": _info,
    "workers": _workers, "peers": _peers, "connection": _connection, "events": _events, "explain": _explain,
    "ready": readiness, "status": _text,
    "help": _help, "close": _text, "socket": _text, "exit": _text, "reload": _text, "upgrade": _text,
}


def usage(version: str) -> str:
    """gpen's ``--help``, from which docopt parses the command line."""
    rows = "\n".join(row for topic, options in help.options() for row in (
        f"  {topic.upper()}", *map(_option_row, options)))
    return f"""gpen {version}: a load balancer for TCP and UDP services

Usage:
  gpen [options] [-d...] [-O COMMAND]... [-o COMMAND]... [--] [LISTEN [SERVER...]]

LISTEN is [HOST:]PORT, [IPV6]:PORT or /PATH; a SERVER is HOST[:PORT[:MAX[:HARD[:WEIGHT[:PRIO]]]]], [IPV6]:PORT... or
/PATH. They may also come from a file (-F) with the commands listen and server. With several addresses, as in 80,443 or
53/tcp,53/udp, each is a listener of the same servers; those behind the first are named by their ports, and what is
different there is said with -O 'listener NAME ...'.

Options, with defaults in parentheses:
{rows}

Examples:
  gpen -l gpen.log -p gpen.pid localhost:3306 10.0.0.1:3306 10.0.0.2:3306 10.0.0.3:3306
  gpen -r -O mysql -O 'greeting 1' -O 'hold 10' 3306 10.0.0.1 10.0.0.2   and nobody notices a node that is not well
  gpen -f -r -C /run/gpen.ctl 80 www1:8000 www2:8000          round robin, in the foreground
  gpen -h -x 10000 '[::]:443' 10.0.0.1 10.0.0.2 -e 10.0.0.9   by client address, with an emergency server
  gpen -U -r -O 'udp_replies 1' 53 10.0.0.1 10.0.0.2          name servers
  gpen -r 53/udp,53/tcp 10.0.0.1 10.0.0.2                     name servers, over UDP and TCP
  gpen -O 'listener 443 tracking_with -' 80,443 www1 www2     both ports of a site: a client has one server
  gpen -r -H -E www.pem 443 www1:8000 www2:8000               TLS, and servers that know their clients
  gpen -r -O 'metrics 127.0.0.1:9180' 80 www1 www2            a page to look at, and metrics: http://127.0.0.1:9180/
  gpen --check -F /etc/gpen/web.cfg                           is this file right?
  gpenctl /run/gpen.ctl servers                               ask and change a running gpen
"""


def _option_row(option: Option) -> str:
    head = f"    {option.flag} {option.argument}".rstrip()
    setting = SETTINGS.get(option.setting)
    default = setting.show(setting.default) if setting is not None and option.argument else ""
    lines = textwrap.wrap(f"{option.help} ({default})" if default else option.help, 98)
    if len(head) <= 18:
        head = f"{head:<20}{lines.pop(0)}"
    return "\n".join([head, *(" " * 20 + line for line in lines)])
