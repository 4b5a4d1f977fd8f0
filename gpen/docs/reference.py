"""All options, commands and settings on one page, made from the tables that the programs read.

    python -m gpen.docs.reference > docs/REFERENCE.md
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator

from gpen.control import help
from gpen.control.commands import COMMANDS, Command
from gpen.docs import texts
from gpen.docs.markdown import block, code, escape, table
from gpen.model.ending import Ending
from gpen.model.settings import OWN, PROCESS, SETTINGS, SHARED, Setting
from gpen.web.application import ACTIONS, index

_SCOPES = {
    SHARED: "Shared by all listeners that have no value of their own.",
    OWN: "Each listener has its own.",
    PROCESS: "Of the whole gpen, not of one listener.",
}
_OBSOLETE = "Obsolete"


def page() -> str:
    """docs/REFERENCE.md."""
    commands = sorted(COMMANDS.values(), key=lambda command: command.name)
    ignored = [command for command in commands if command.is_ignored]
    lacking = [command for command in commands if command.setting is not None and command.setting.missing]
    present = [command for command in commands if command not in ignored and command not in lacking]
    acting, settings = ([command for command in present if (command.setting is None) == acts] for acts in (True, False))
    parts = [
        "# Reference", _HEAD,
        "## Options of gpen", table(("about", "option", "what it does", "setting"), _options()),
        "## Options of gpenctl", table(("option", "what it does"), _terms(texts.CTL_OPTIONS)),
        "## Commands", _COMMANDS, table(("about", "commands"), _index(acting)), *_entries(acting),
        "## Settings", _SETTINGS, table(("about", "settings"), _index(settings)), *_entries(settings),
        "## Words without effect", f"These are accepted for pen's sake, and do nothing: {_names(ignored)}.",
        "## Words that are refused", f"These are pen's, and not in this version: {_names(lacking)}.",
        "## Over HTTP", _HTTP, table(("path", "arguments", "the reply to"), _paths()), _ACTING,
        "## How a session ends", _ENDINGS, table(("word", "meaning", "error"), _endings()),
        "## Signals", table(("signal", "what gpen does"), _terms(texts.SIGNALS)),
        "## Exit status", table(("gpen", "meaning"), _terms(texts.GPEN_STATUS)),
        table(("gpenctl", "meaning"), _terms(texts.CTL_STATUS)),
    ]
    return "\n\n".join(parts) + "\n"


_HEAD = """\
For those who look something up: every option, command and setting, made by `make man` from the tables that the programs
themselves read. The man pages say more: [gpen(1)](../man/gpen.1), [gpenctl(1)](../man/gpenctl.1),
[gpen-galera(1)](../man/gpen-galera.1), [gpen-discover(1)](../man/gpen-discover.1), [gpenlog(1)](../man/gpenlog.1),
[gpenlogd(1)](../man/gpenlogd.1). So does
`gpenctl TARGET help NAME`."""

_COMMANDS = """\
They are said to a gpen that runs (`gpenctl TARGET COMMAND`); those that configure may stand in a file (`-F`) and behind
`-O`. Access is what a client of a TCP control port needs (`control_access`). In usages small letters are typed, large
ones stand for a value, and what is in brackets may be left out."""

_SETTINGS = """\
`NAME` reads a setting, `NAME VALUE` sets it, `no NAME` puts its default back: in a file, behind `-O`, and over the
control socket. With `listener LISTENER` in front, and where it may be, it is said to one listener alone:
[several ports](LISTENERS.md)."""

_HTTP = """\
With the setting [metrics](#metrics), all this is answered to `GET` as JSON, which is that of the command:
`curl http://127.0.0.1:9180/api/explain?address=192.0.2.7` is `gpenctl TARGET explain 192.0.2.7 json`. What is wrong is
answered with a status of 400 or more and `{"error": "why"}`. `listener` names one, where it may be said; without it,
the reply is that of the whole gpen. `/metrics` is [for Prometheus](METRICS.md), and `/`
[a page](MONITORING.md#the-page)."""

_ACTING = f"""\
`POST /api/control` acts, where `metrics_control` is on: with the token of `metrics_token` in the header
`Authorization: Bearer TOKEN`, and a body like `{{"action": "drain", "number": 1}}`. The actions are
{", ".join(f"`{action}`" for action in ACTIONS)}; the number is a server's, of `close` a session's. With
`"at": "10.0.0.2:3306"` it is done only if the server has this address now. It answers `{{"ok": true}}`, 401 where the
token is wrong, and 403 where actions are off."""

_ENDINGS = """\
The word stands at the end of the line in the log, and in counters. With an error, the client did not get
what it came for."""


def _options() -> Iterator[tuple[str, str, str, str]]:
    for topic, options in help.options():
        for option in options:
            setting = SETTINGS.get(option.setting)
            if not option.help.startswith(_OBSOLETE) and not (setting and setting.missing):
                link = _link(setting.name) if setting is not None and not setting.is_ignored else ""
                yield topic, code(f"{option.flag} {option.argument}".strip()), escape(option.help), link


def _index(commands: Iterable[Command]) -> Iterator[tuple[str, str]]:
    """What there is about each topic, in the order of help."""
    known = list(commands)
    for topic in help.GROUPS:
        if members := [_link(command.name) for command in known if command.topic == topic]:
            yield topic, ", ".join(members)


def _link(name: str) -> str:
    return f"[{name}](#{name})"


def _entries(commands: Iterable[Command]) -> Iterator[str]:
    return (part for command in commands for part in _command(command))


def _command(command: Command) -> Iterator[str]:
    yield f"### {escape(command.name)}"
    ways = [*command.usage.split(" | "), *([command.usage_no] if command.usage_no else [])]
    yield block(ways)
    yield escape(command.help)
    setting = command.setting
    remarks = " ".join(_of_setting(setting)) if setting is not None else f"Access: {command.access}."
    example = f" Example: {code(command.example)}" if command.example else ""
    yield remarks + example


def _of_setting(setting: Setting) -> Iterator[str]:
    yield f"Default: {code(setting.told(setting.default))}."
    if setting.flag:
        yield f"Option {code(setting.flag)}."
    if setting.startup:
        yield "Counts at the start only."
    yield _SCOPES[setting.scope]


def _paths() -> Iterator[tuple[str, str, str]]:
    for path, entry in index().items():
        arguments = ", ".join(map(code, entry["arguments"]))
        name = path.rpartition("/")[2]
        yield code(path), arguments, f"[{name}](#{name})"


def _names(commands: Iterable[Command]) -> str:
    return ", ".join(code(command.name) for command in commands)


def _endings() -> Iterator[tuple[str, str, str]]:
    for ending in Ending:
        yield code(ending.value), escape(ending.text), "yes" if ending.is_error else ""


def _terms(rows: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    return ((code(name), escape(text)) for name, text in rows)


if __name__ == "__main__":
    sys.stdout.write(page())
