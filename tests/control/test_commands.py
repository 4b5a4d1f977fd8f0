"""The command table: all of pen's commands and flags, each with help, usage, an example that parses and a handler."""

from __future__ import annotations

import re

import pytest

from gpen.control import help, reply
from gpen.control.commands import ACCESS, COMMANDS, OPTIONS, START, suggestion
from gpen.control.script import ScriptError, UnknownCommand, parse_line, parse_words
from gpen.daemon.queries import Queries
from gpen.model.rates import Rate
from gpen.model.settings import SETTINGS

PEN_COMMANDS = {
    "abort_on_error", "acl", "ascii", "blacklist", "block", "client_acl", "clients_max", "close", "conn_max",
    "connection", "control", "control_acl", "debug", "delayed_forward", "dsr_if", "dsr_ip", "dummy", "epoll",
    "exit", "hash", "http", "idle_timeout", "idlers", "include", "keepalive", "kqueue", "listen", "log", "mode",
    "peek", "pending_max", "pid", "poll", "prio", "recent", "roundrobin", "select", "server", "servers",
    "socket", "source", "ssl_ciphers", "ssl_client_renegotiation_interval", "ssl_ocsp_response", "ssl_option",
    "ssl_sni_path", "status", "stubborn", "tarpit_acl", "tcp_fastclose", "tcp_nodelay", "timeout", "tracking",
    "transparent", "web_stats", "weight", "write",
}
PEN_FLAGS = "abcdefhijlmnopqrstuwxABCDEFGHKLOPQRSTUWXZ"
OUR_COMMANDS = {"sessions", "explain", "events", "help", "leastconn", "random"}
each_command = pytest.mark.parametrize("name", sorted(COMMANDS))


@pytest.mark.parametrize("name", sorted(PEN_COMMANDS | OUR_COMMANDS))
def test_there_is(name: str) -> None:
    assert name in COMMANDS


@pytest.mark.parametrize("letter", PEN_FLAGS)
def test_there_is_the_flag(letter: str) -> None:
    assert f"-{letter}" in {option.flag for option in OPTIONS}


def test_no_flag_twice() -> None:
    flags = [option.flag for option in OPTIONS]
    assert len(flags) == len(set(flags))


@each_command
def test_help(name: str) -> None:
    command = COMMANDS[name]
    assert command.name == name and command.access in ACCESS
    assert re.match(r"[A-Z']", command.help) or command.setting is not None
    assert command.help.endswith(".") and len(command.help) > 10
    text = help.details(help.row(name))
    words = " ".join(text.split())
    assert words.startswith(f"{command.usage.replace(' | ', ' ')} ") and command.help in words and text.endswith("\n")
    assert (f"\n{command.usage_no}\n" in text) == command.negatable


def test_each_way_to_write_a_command_has_a_line_of_its_own() -> None:
    assert help.details(help.row("acl")).split("\n")[:3] == [
        "acl N permit|deny ADDRESS [MASK]", "acl N permit|deny country CC", "no acl N"]


@each_command
def test_usage(name: str) -> None:
    command = COMMANDS[name]
    assert re.match(rf"{name}( |$)", command.usage)
    assert ("[json]" in command.usage) == command.json
    if command.negatable:
        assert re.match(rf"no {name}( |$)", command.usage_no)


@each_command
def test_example(name: str) -> None:
    command, setting = COMMANDS[name], COMMANDS[name].setting
    is_told = setting is None or setting.is_flag or setting.missing or setting.is_ignored
    assert command.example or is_told, "whoever asks for help wants to see a value"
    if command.example:
        call = parse_line(command.example)
        assert call is not None and call.command is (COMMANDS["listen"] if name == "listener" else command)
        words = command.example.split()
        assert call.listener == (words[1] if words[0] == "listener" else "")
        assert setting is None or call.arguments["value"] != setting.default


ODD = ("", "-1", "9" * 20, "1e999", "nan", "inf", "10ms", "\xbd", "\u0663", "0x10", "1_000", "+5", "x" * 5000, "\u202e",
       "\x1b" * 5000)


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_what_is_no_value_is_refused_in_a_line(name: str) -> None:
    """Which names the setting, and is not longer than a screen whatever was said."""
    taken = []
    for text in ODD:
        try:
            parse_words([name, text])
            taken.append(text)
        except ScriptError as error:
            told = str(error)
            assert told.startswith(f"{name}: ") and "\n" not in told and len(told) < 700 and "literal" not in told
            assert text[:20] in told or not text.isprintable() or SETTINGS[name].missing
    is_figure = type(SETTINGS[name].default) in (int, float, Rate) and not SETTINGS[name].is_ignored
    assert not (is_figure and taken)


@each_command
def test_a_handler(name: str) -> None:
    command = COMMANDS[name]
    if command.configures or name in ("write", "reload", "upgrade"):
        assert not hasattr(Queries, name)
    else:
        assert callable(getattr(Queries, name))


def test_every_setting_is_a_command() -> None:
    for name, setting in SETTINGS.items():
        command = COMMANDS[name]
        assert command.setting is setting and command.configures and command.negatable


def test_no_handler_without_a_command() -> None:
    methods = {name for name in vars(Queries) if not name.startswith("_")} - {"summary"}
    assert methods <= set(COMMANDS)


def test_help_lists_all() -> None:
    text = help.overview(help.rows())
    groups = {part.split("\n")[0]: part.split("\n")[1:] for part in text.split("\n\n")[:-1]}
    assert list(groups) == [group.upper() for group in help.GROUPS]
    named = {heading: [line.split()[0] for line in lines if line[2] != " "] for heading, lines in groups.items()}
    for heading in ("WITHOUT EFFECT", "NOT IN THIS VERSION"):
        named[heading] = " ".join(groups[heading]).replace(",", " ").split()
        assert all(COMMANDS[name].help.startswith("Accepted") or COMMANDS[name].setting for name in named[heading])
    assert all(names == sorted(names) for names in named.values())
    assert sorted(name for names in named.values() for name in names) == sorted(COMMANDS)
    with pytest.raises(ValueError, match="'severs' is not a command; did you mean 'servers'"):
        help.row("severs")


@pytest.mark.parametrize("width", [40, 60, 80, 132, 200])
def test_help_is_folded(width: int) -> None:
    texts = [help.overview(help.rows(), width), *(help.details(help.row(name), width) for name in COMMANDS)]
    too_long = [line for text in texts for line in text.split("\n") if len(line) > width]
    assert all(len(line.split()) == 1 for line in too_long), too_long  # one long word


@pytest.mark.parametrize(("typed", "meant"), [
    ("severs", "servers"), ("sesions", "sessions"), ("stubborm", "stubborn"), ("roundrobbin", "roundrobin"),
    ("blaklist", "blacklist"), ("foo", None), ("", None), ("x" * 1000, None),
])
def test_suggestion(typed: str, meant: str | None) -> None:
    assert suggestion(typed) == meant


def test_the_reply_to_an_unknown_command() -> None:
    assert reply.unknown(UnknownCommand("foo")) == "do_cmd: ignoring command starting with 'foo'\n"
    assert reply.unknown(UnknownCommand("severs")) == "do_cmd: ignoring command starting with 'severs'\n"


def test_an_error_is_one_line() -> None:
    assert reply.error("a\nb  c") == "error: a b c\n"


def test_replies_in_pens_words() -> None:
    """The rest of pen's replies is compared with pen itself, in tests/pen."""
    call = parse_line("mode")
    assert call is not None
    modes = dict.fromkeys(reply.PEN_MODES + reply.MORE_MODES, False)
    assert "".join(reply.render(call, modes)) == "no hash no roundrobin no stubborn no weight no prio\n"
    assert "".join(reply.render(call, modes | {"leastconn": True})).endswith("no prio leastconn\n")
    row = {"connection": 5, "state": 2, "downfd": 7, "upfd": 8, "client": 0, "server": 1, "pend": 0}
    call = parse_line("connection 5")
    assert call is not None
    assert "".join(reply.render(call, row)) == (
        "Connection 5:\nstate = 2\ndownfd = 7, upfd = 8\nclient = 0, server = 1\npend = 0\n")
    call = parse_line("connection 5 json")
    assert call is not None
    assert "".join(reply.render(call, row)).startswith('{"connection":5,"state":2,')


def test_usage_text() -> None:
    text = reply.usage("1.2.3")
    for option in OPTIONS:
        assert f"\n    {option.flag}" in text
    assert max(map(len, text.splitlines())) <= 120
    assert "\n\n" not in text.partition("Options,")[2].partition("\n\nExamples")[0]  # which would end them for docopt


def test_each_command_and_option_has_a_topic() -> None:
    """And what a topic says can be read from the top: the same as -O stands behind -O."""
    assert all(command.topic in help.GROUPS for command in COMMANDS.values() if help.group_of(command) != help.MISSING)
    topics = dict(help.options())
    flags = [option.flag for options in topics.values() for option in options]
    assert sorted(flags) == sorted(option.flag for option in OPTIONS)
    for number, option in enumerate(option for options in topics.values() for option in options):
        if option.help.startswith("The same"):
            assert re.findall(r"-\w", option.help)[0] in flags[:number]
    assert next(iter(topics)) == START and list(topics)[-1] == help.IGNORED


@pytest.mark.parametrize("text, expected", [
    ("List the servers: address, limits. More.", "List the servers"),
    ("Round robin: do not look up.", "Round robin: do not look up"),
    ("Chosen by a hash (with x: port); so.", "Chosen by a hash (with x: port)"),
    ("The process id.", "The process id"), ("Word", "Word"),
])
def test_how_a_help_begins(text: str, expected: str) -> None:
    assert help.brief(text) == expected
