"""The man pages, made from the tables: options, commands, settings and endings can't drift from the program.

    python -m gpen.docs.manual gpen > man/gpen.1
    python -m gpen.docs.manual gpenctl > man/gpenctl.1
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator

from gpen import __version__
from gpen.control import help
from gpen.control.commands import COMMANDS, Command, Option
from gpen.docs import roff, texts
from gpen.model.ending import Ending
from gpen.model.settings import SETTINGS

DATE = "November 2026"


def gpen_page() -> str:
    """gpen(1)."""
    return _page("GPEN", "gpen", "load balancer for TCP and UDP services, compatible with pen", [
        ("SYNOPSIS", [r"\fBgpen\fR [\fIoptions\fR] \fILISTEN\fR \fISERVER\fR...", ".br",
                      r"\fBgpen\fR [\fIoptions\fR] \fB\-F\fR \fIFILE\fR"]),
        ("DESCRIPTION", _paragraphs(texts.GPEN_DESCRIPTION)),
        ("OPTIONS", _options()),
        ("HOW A SERVER IS CHOSEN", _paragraphs(texts.CHOICE)),
        ("SEVERAL LISTENERS", _paragraphs(texts.LISTENERS)),
        ("THE CONFIGURATION FILE", _paragraphs(texts.CONFIGURATION)),
        ("HEALTH", _paragraphs(texts.HEALTH)),
        ("WHO IS GONE, AND WHO COMES TOO OFTEN", _paragraphs(texts.GONE)),
        ("THE PROXY PROTOCOL", _paragraphs(texts.PROXY)),
        ("TRANSPARENT", _paragraphs(texts.TRANSPARENT)),
        ("UDP", _paragraphs(texts.UDP)),
        ("DIRECT SERVER RETURN", _paragraphs(texts.DSR)),
        ("TLS", _paragraphs(texts.TLS)),
        ("HTTP", _paragraphs(texts.HTTP)),
        ("ROUTES", _paragraphs(texts.ROUTES)),
        ("SESSION LOG", [*_paragraphs(texts.LOG), *_endings()]),
        ("ON ALL CORES", _paragraphs(texts.WORKERS)),
        ("PEERS", _paragraphs(texts.PEERS)),
        ("RIGHTS", _paragraphs(texts.RIGHTS)),
        ("REPLACING A GPEN THAT RUNS", _paragraphs(texts.REPLACEMENT)),
        ("AS A SERVICE", _paragraphs(texts.SERVICE)),
        ("SIGNALS", list(roff.terms(texts.SIGNALS))),
        ("ENVIRONMENT", list(roff.terms(texts.ENVIRONMENT))),
        ("FILES", list(roff.terms(texts.FILES))),
        ("EXIT STATUS", list(roff.terms(texts.GPEN_STATUS))),
        ("EXAMPLES", list(_examples(texts.GPEN_EXAMPLES))),
        ("SEE ALSO", [r"\fBgpenctl\fR(1), \fBgpen\-discover\fR(1), \fBgpen\-galera\fR(1), \fBgpenlogd\fR(1), "
                      r"\fBpen\fR(1), \fBpenctl\fR(1)"]),
    ])


def gpenctl_page() -> str:
    """gpenctl(1)."""
    ignored, missing = (_sorted(command for command in COMMANDS.values() if help.group_of(command) == group)
                        for group in (help.IGNORED, help.MISSING))
    present = [command for command in COMMANDS.values() if command not in ignored + missing]
    return _page("GPENCTL", "gpenctl", "ask and steer a running gpen", [
        ("SYNOPSIS", [r"\fBgpenctl\fR [\fIoptions\fR] \fITARGET\fR [\fICOMMAND\fR...]", ".br",
                      r"\fBgpenctl\fR [\fIoptions\fR] \fITARGET\fR \fBwatch\fR [\fISECONDS\fR]", ".br",
                      r"\fBgpenctl\fR [\fIoptions\fR] \fITARGET\fR \fBtop\fR [\fISECONDS\fR]"]),
        ("DESCRIPTION", _paragraphs(texts.CTL_DESCRIPTION)),
        ("OPTIONS", list(roff.terms(texts.CTL_OPTIONS))),
        ("TOP", [*_paragraphs(texts.CTL_TOP), *roff.terms(texts.CTL_TOP_KEYS)]),
        ("COMMANDS", _by_topic(command for command in present if command.setting is None)),
        ("SETTINGS", [*_paragraphs(texts.SETTINGS),
                      *_by_topic(command for command in present if command.setting is not None)]),
        ("WITHOUT EFFECT", _paragraphs(f"These are accepted for pen's sake, and do nothing: {_names(ignored)}.")),
        ("NOT IN THIS VERSION", _paragraphs(f"These are refused with an error: {_names(missing)}.")),
        ("THE PROTOCOL", _paragraphs(texts.PROTOCOL)),
        ("FILES", list(roff.terms(texts.CTL_FILES))),
        ("EXIT STATUS", list(roff.terms(texts.CTL_STATUS))),
        ("EXAMPLES", list(_examples(texts.CTL_EXAMPLES))),
        ("SEE ALSO", [r"\fBgpen\fR(1), \fBpenctl\fR(1)"]),
    ])


def _page(title: str, name: str, purpose: str, sections: Iterable[tuple[str, list[str]]]) -> str:
    lines = [r".\" made by gpen.docs.manual from the command table: change it there",
             f'.TH {title} 1 "{DATE}" "gpen {__version__}" "User Commands"', ".SH NAME", rf"{name} \- {purpose}"]
    for heading, body in sections:
        lines += [f'.SH "{heading}"', *body]
    return "\n".join(lines) + "\n"


def _options() -> list[str]:
    return [line for topic, options in help.options() for line in (
        _heading(topic), *(line for option in options for line in _option(option)))]


def _option(option: Option) -> list[str]:
    setting = SETTINGS.get(option.setting)
    default = ""
    if setting is not None and not setting.missing and not setting.is_flag and setting.default is not None:
        default = f" Default: {setting.show(setting.default)}."
    argument = rf" \fI{roff.escape(option.argument)}\fR" if option.argument else ""
    name = f" Command: {option.setting}." if setting is not None and not setting.missing else ""
    text = f"{option.help.rstrip('.')}.{default}{name}"
    return [".TP", rf"\fB{roff.escape(option.flag)}\fR{argument}", roff.escape(text)]


def _by_topic(commands: Iterable[Command]) -> list[str]:
    """Commands by the topics of help, and in each by their names."""
    known, lines = _sorted(commands), list[str]()
    for topic in help.GROUPS:
        if members := [command for command in known if command.topic == topic]:
            lines += [_heading(topic), *(line for command in members for line in _command(command))]
    return lines


def _heading(topic: str) -> str:
    return f'.SS "{topic[0].upper()}{topic[1:]}"'


def _command(command: Command) -> Iterator[str]:
    yield ".TP"
    usages = [command.usage, *([command.usage_no] if command.usage_no else [])]
    yield ", ".join(rf"\fB{roff.escape(usage)}\fR" for usage in usages)
    setting = command.setting
    text = command.help
    if setting is not None:
        text += f" Default: {setting.told(setting.default)}."
        text += f" Option {setting.flag}." if setting.flag else ""
        text += " Counts at start only." if setting.startup else ""
    text += f" Needs {command.access} access." if command.access == "operate" else ""
    text += f" Example: {command.example}" if command.example else ""
    yield roff.escape(text)


def _sorted(commands: Iterable[Command]) -> list[Command]:
    return sorted(commands, key=lambda command: command.name)


def _names(commands: Iterable[Command]) -> str:
    return ", ".join(command.name for command in commands)


def _endings() -> Iterator[str]:
    for ending in Ending:
        remark = " Counts as an error." if ending.is_error else ""
        yield from roff.term(ending.value, f"{ending.text[0].upper()}{ending.text[1:]}.{remark}")


def _examples(rows: Iterable[tuple[str, str]]) -> Iterator[str]:
    for text, command in rows:
        yield from (".PP", roff.escape(text), *roff.as_it_is([command]))


def _paragraphs(text: str) -> list[str]:
    """What stands behind a heading, which begins a paragraph by itself."""
    return list(roff.paragraphs(text))[1:]


if __name__ == "__main__":
    sys.stdout.write({"gpen": gpen_page, "gpenctl": gpenctl_page}[sys.argv[1]]())
