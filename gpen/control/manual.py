"""The man pages, made from the tables: options, commands, settings and endings can't drift from the program.

    python -m gpen.control.manual gpen > man/gpen.1
    python -m gpen.control.manual gpenctl > man/gpenctl.1
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator

from gpen import __version__
from gpen.control.commands import COMMANDS, OPTIONS, Command
from gpen.model.ending import Ending
from gpen.model.settings import SETTINGS

DATE = "November 2026"


def gpen_page() -> str:
    """gpen(1)."""
    return _page("GPEN", "gpen", "load balancer for TCP services, compatible with pen", [
        ("SYNOPSIS", [r"\fBgpen\fR [\fIoptions\fR] \fILISTEN\fR \fISERVER\fR...", ".br",
                      r"\fBgpen\fR [\fIoptions\fR] \fB\-F\fR \fIFILE\fR"]),
        ("DESCRIPTION", _paragraphs(_GPEN_DESCRIPTION)),
        ("OPTIONS", _options()),
        ("HOW A SERVER IS CHOSEN", _paragraphs(_CHOICE)),
        ("HEALTH", _paragraphs(_HEALTH)),
        ("SESSION LOG", [*_paragraphs(_LOG), *_endings()]),
        ("SIGNALS", list(_terms(_SIGNALS))),
        ("FILES", list(_terms(_FILES))),
        ("EXIT STATUS", list(_terms(_GPEN_STATUS))),
        ("EXAMPLES", list(_examples(_GPEN_EXAMPLES))),
        ("SEE ALSO", [r"\fBgpenctl\fR(1), \fBgpen\-galera\fR(1), \fBpen\fR(1), \fBpenctl\fR(1)"]),
    ])


def gpenctl_page() -> str:
    """gpenctl(1)."""
    settings = [c for c in _sorted(COMMANDS.values()) if c.setting is not None and not c.setting.missing]
    others = [c for c in _sorted(COMMANDS.values()) if c.setting is None]
    return _page("GPENCTL", "gpenctl", "ask and steer a running gpen", [
        ("SYNOPSIS", [r"\fBgpenctl\fR [\fIoptions\fR] \fITARGET\fR [\fICOMMAND\fR...]", ".br",
                      r"\fBgpenctl\fR [\fIoptions\fR] \fITARGET\fR \fBwatch\fR [\fISECONDS\fR]"]),
        ("DESCRIPTION", _paragraphs(_CTL_DESCRIPTION)),
        ("OPTIONS", list(_terms(_CTL_OPTIONS))),
        ("COMMANDS", [line for command in others for line in _command(command)]),
        ("SETTINGS", [*_paragraphs(_SETTINGS), *(line for command in settings for line in _command(command))]),
        ("NOT IN THIS VERSION", _paragraphs(f"These are refused with an error: {', '.join(_missing())}.")),
        ("THE PROTOCOL", _paragraphs(_PROTOCOL)),
        ("FILES", list(_terms(_CTL_FILES))),
        ("EXIT STATUS", list(_terms(_CTL_STATUS))),
        ("EXAMPLES", list(_examples(_CTL_EXAMPLES))),
        ("SEE ALSO", [r"\fBgpen\fR(1), \fBpenctl\fR(1)"]),
    ])


def _page(title: str, name: str, purpose: str, sections: Iterable[tuple[str, list[str]]]) -> str:
    lines = [r".\" made by gpen.control.manual from the command table: change it there",
             f'.TH {title} 1 "{DATE}" "gpen {__version__}" "User Commands"', ".SH NAME", rf"{name} \- {purpose}"]
    for heading, body in sections:
        lines += [f'.SH "{heading}"', *body]
    return "\n".join(lines) + "\n"


def _options() -> list[str]:
    lines: list[str] = []
    for option in sorted(OPTIONS, key=lambda option: (option.flag.lower().lstrip("-"), option.flag)):
        setting = SETTINGS.get(option.setting)
        default = ""
        if setting is not None and not setting.missing and not setting.is_flag and setting.default is not None:
            default = f" Default: {setting.show(setting.default)}."
        argument = rf" \fI{_escape(option.argument)}\fR" if option.argument else ""
        name = f" Command: {option.setting}." if setting is not None and not setting.missing else ""
        text = f"{option.help.rstrip('.')}.{default}{name}"
        lines += [".TP", rf"\fB{_escape(option.flag)}\fR{argument}", _escape(text)]
    return lines


def _command(command: Command) -> Iterator[str]:
    yield ".TP"
    usages = [command.usage, *([command.usage_no] if command.usage_no else [])]
    yield ", ".join(rf"\fB{_escape(usage)}\fR" for usage in usages)
    setting = command.setting
    text = command.help
    if setting is not None:
        text += f" Default: {'off' if setting.is_flag else setting.show(setting.default) or 'unset'}."
        text += f" Option {setting.flag}." if setting.flag else ""
        text += " Counts at start only." if setting.startup else ""
    text += f" Needs {command.access} access." if command.access == "operate" else ""
    text += f" Example: {command.example}" if command.example else ""
    yield _escape(text)


def _sorted(commands: Iterable[Command]) -> list[Command]:
    return sorted(commands, key=lambda command: command.name)


def _missing() -> list[str]:
    return sorted(name for name, setting in SETTINGS.items() if setting.missing)


def _endings() -> Iterator[str]:
    for ending in Ending:
        yield from (".TP", rf"\fB{_escape(ending.value)}\fR", _escape(ending.text[0].upper() + ending.text[1:] + "."))


def _terms(rows: Iterable[tuple[str, str]]) -> Iterator[str]:
    for term, text in rows:
        yield from (".TP", rf"\fB{_escape(term)}\fR", _escape(text))


def _examples(rows: Iterable[tuple[str, str]]) -> Iterator[str]:
    for text, command in rows:
        yield from (".PP", _escape(text), ".PP", ".RS 4", ".nf", _escape(command), ".fi", ".RE")


def _paragraphs(text: str) -> list[str]:
    paragraphs = [" ".join(paragraph.split()) for paragraph in text.strip().split("\n\n")]
    return [line for paragraph in paragraphs for line in (".PP", _escape(paragraph))][1:]


def _escape(text: str) -> str:
    text = text.replace("\\", r"\e").replace("-", r"\-")
    return re.sub(r"^([.'])", r"\\&\1", text, flags=re.MULTILINE)


_GPEN_DESCRIPTION = """
gpen accepts connections at LISTEN and passes each on to one of the SERVERs, bytes both ways, until both ends are done.
A client goes to the server that it used last; if that can't be reached, to another one. It takes pen's options, speaks
pen's control language, and reads the files that pen writes.

LISTEN is [HOST:]PORT, [IPV6]:PORT or /PATH of a unix socket. A SERVER is HOST[:PORT[:MAX[:HARD[:WEIGHT[:PRIO]]]]],
[IPV6]:PORT... or /PATH; fields may be empty. PORT is a number or a service's name, and that of LISTEN unless given. MAX
limits the sessions of a server, HARD those of clients that return to it.

Options are read first, then the addresses, then -O commands, and the file of -F last, as in pen; but where the
process itself is concerned (pid file, control socket, user, chroot, foreground) the command line wins over the file.

A name of a host that does not exist is an error. When the name service does not answer at start, the server waits until
it does, and the others serve.

In the background the command returns when gpen serves, with status 0, or when it can't, with the reason on stderr.
"""

_CHOICE = """
A client that client_acl denies gets the abuse server (-B), or is closed. Else, unless -r is given, the client gets the
server that it used last, as long as that is remembered (-c, -T). A new client gets a server by the first of these that
is on: prio, weight (-W), leastconn, random, hash (-h); without any, the next one in turn.

A server is passed over while it is blacklisted, found down by a check or by 'server N health', full, drained, or while
its own access list denies the client. When a connection is refused, reset, unreachable or times out, or when the
server does not speak within greeting seconds, the server is blacklisted (-b) and the rule chooses again among the
others; when none is left, the emergency server (-e) is tried; then the client waits for hold seconds, if that is set,
and is closed. With -s the first failure is the last. After the blacklist time one connection is the trial that decides
whether the server is back; the others do not wait for it. A failure of this machine (no descriptors, no ports) is held
against no server.

The command explain says which server a client would get, and why not the others.
"""

_HEALTH = """
Beside the blacklist, which needs a client to find out, a server's health is what a check (the settings check and
check_...) or somebody outside ('server N health up|down because ...') says of it: down, it gets no new clients; those
that are just being connected to it go to another; on_down says what becomes of its sessions. health_ttl drops the word
of somebody outside who has fallen silent.

Where servers speak first, as those of MySQL and mail do, greeting sees to it that one which is connected but says
nothing is left before the client notices; mysql adds that its errors are understood, and that a client which is turned
away is told why. proxy_protocol tells servers who the client is; accept_proxy believes other balancers who say so.

All of these are settings: gpenctl(1) describes them; -O sets them at start. gpen-galera(1) watches a Galera cluster.
"""

_LOG = """
With -l each session leaves one line when it ends: the client's address and port, the time when it was accepted, server
number and address, the seconds to choose, to connect and in all, the bytes sent to the server (up) and to the client
(down), and how it ended. With log_format json the same is a JSON object; with log_format pen there is a line for each
request instead: client, time, server and the first line of what the client sent. How a session ends:
"""

_SIGNALS = (
    ("HUP", "Reopen the log, and read the file of -F again: all of it, or nothing when a line is wrong."),
    ("USR1", "Write the status page to the file of -w, or else a summary to the diagnostics."),
    ("TERM, INT", "Close the listening socket and the sessions, log them, and exit. A second one: exit at once."),
)

_FILES = (
    ("the log (-l)", "Appended to; opened before a chroot and a change of user, and again at HUP."),
    ("the pid file (-p)", "Locked while gpen runs, removed at the end; left empty where the user of -u may not "
     "remove it."),
    ("the control socket (-C)", "Made with mode 0600 (control_mode). One that nobody answers on is replaced."),
    ("in a chroot (-j)", "Log, pid file, sockets, status page and the file of -F are found again after the start only "
     "when they lie inside it; name them as seen from outside."),
    ("/etc/services", "Names of ports."),
)

_GPEN_STATUS = (
    ("0", "Ended as it was told to; in the background: it serves."),
    ("1", "It could not start (an address in use, a file that can't be written), or failed."),
    ("2", "A wrong option, address, name or configuration; nothing was opened."),
)

_GPEN_EXAMPLES = (
    ("In front of a Galera cluster:",
     "gpen -l gpen.log -p gpen.pid localhost:3306 10.0.0.1:3306 10.0.0.2:3306 10.0.0.3:3306"),
    ("The same where nobody shall notice a node that is not well (see gpen-galera(1)):",
     "gpen -r -C /run/gpen.ctl -O mysql -O 'greeting 1' -O 'hold 10' 3306 10.0.0.1 10.0.0.2 10.0.0.3"),
    ("Three web servers in turn, in the foreground, with a control socket:",
     "gpen -f -r -C /run/gpen.ctl 80 www1:8000 www2:8000 www3:8000"),
    ("One server preferred, the second when the first is down, and a page that says sorry:",
     "gpen -r -O prio -e localhost:8099 80 www1:8000::::1 www2:8000::::2"),
    ("Is this file right?", "gpen --check -F /etc/gpen/web.cfg"),
)

_CTL_DESCRIPTION = """
gpenctl sends a COMMAND to the gpen (or pen) at TARGET, the /PATH or HOST:PORT of its option -C, and shows the reply: as
a table on a terminal, as pen's plain lines elsewhere. Without a COMMAND it opens a prompt with history and completion,
or reads commands from a stdin that is not a terminal. 'watch' redraws the table of servers each second until Ctrl-C.
"""

_CTL_OPTIONS = (
    ("-f FORMAT, --format=FORMAT", "table, plain, json or csv. When not given: table on a terminal, plain elsewhere."),
    ("-t SEC, --timeout=SEC", "Seconds to wait for a connection and for each part of an answer. Default: 10."),
    ("--color=WHEN", "auto, always or never; auto respects NO_COLOR."),
    ("-h, --help", "Show the usage."),
    ("--version", "Show the version."),
)

_SETTINGS = """
NAME reads a setting, NAME VALUE sets it, and 'no NAME' puts its default back. A flag is switched on by NAME and off by
'no NAME'.
"""

_PROTOCOL = """
A line goes in, the reply comes out. Words are separated by blanks; a word in double quotes may contain them; a word
that begins with # begins a comment. Several lines may be sent on one connection; it is closed at the end of its
input, or 0.2 seconds after a reply when no further line has come. An error is one line that begins with 'error:'; a
command that is not known is answered as pen does. 'json' at the end of a command that lists something asks for one
line of JSON.
"""

_CTL_FILES = (
    ("~/.local/state/gpenctl_history", "The history of the prompt; below $XDG_STATE_HOME if that is set."),
)

_CTL_STATUS = (
    ("0", "The command was carried out."),
    ("1", "The daemon answered with an error, or standard output could not be written."),
    ("2", "Wrong usage."),
    ("3", "No connection to the daemon."),
    ("130", "Ended by Ctrl-C."),
)

_CTL_EXAMPLES = (
    ("How are the servers?", "gpenctl /run/gpen.ctl servers"),
    ("Take server 1 out of service gently, and back:",
     "gpenctl /run/gpen.ctl drain 1 30\ngpenctl /run/gpen.ctl server 1 state ready"),
    ("Add a server, and delete one:",
     "gpenctl /run/gpen.ctl server 3 address 10.0.0.4 port 3306 max 200\ngpenctl /run/gpen.ctl no server 0"),
    ("Who would serve that client, and why not the others?", "gpenctl /run/gpen.ctl explain 192.0.2.7"),
    ("Keep the configuration for the next start:", "gpenctl /run/gpen.ctl write /etc/gpen/web.cfg"),
)


if __name__ == "__main__":
    sys.stdout.write({"gpen": gpen_page, "gpenctl": gpenctl_page}[sys.argv[1]]())
