"""gpenctl, the program: its command line, and what becomes of it."""

from __future__ import annotations

import io
import os
import re
import sys

from gpen import __version__
from gpen.gpenctl.command import run
from gpen.gpenctl.link import LinkError, parse_target
from gpen.gpenctl.show import View, seconds
from gpen.usage import UsageError, complain, read

USAGE = """\
Ask and steer a running gpen (or pen) over its control socket.

Usage:
  gpenctl [options] TARGET [COMMAND...]
  gpenctl (-h | --help | --version)

TARGET is where the daemon takes commands, as given to its option -C: the path
of a socket (/run/gpen.ctl, ./gpen.ctl) or HOST:PORT. COMMAND is one of the
daemon's (`gpenctl TARGET help` lists them), or `watch [SECONDS]`, which redraws
the table of servers, and that of listeners if any has a name, until Ctrl-C; or
`top [SECONDS]`, which does so on the whole terminal, with rates, the last three
minutes, events, and keys to sort, drain and close (? tells them; needs rich).
Without a COMMAND a prompt opens, with history and completion; a stdin that is
no terminal holds commands, one a line.
Options may stand behind TARGET as well; words behind -- are the COMMAND's.

Options:
  -f FORMAT --format=FORMAT  table, plain (as pen writes it), json or csv. When
                             not given: table on a terminal, plain in a pipe.
  -t SEC --timeout=SEC       Seconds to wait for a connection, and then for each
                             part of an answer [default: 10].
  --color=WHEN               auto, always or never; auto respects NO_COLOR
                             [default: auto].
  -h --help                  Show this.
  --version                  Show the version.

Examples:
  gpenctl /run/gpen.ctl servers                 the servers and how they are
  gpenctl /run/gpen.ctl server 1 max 50         at most 50 sessions on server 1
  gpenctl /run/gpen.ctl server 2 address w3:80  one more server
  gpenctl /run/gpen.ctl drain 1 30 close        empty server 1, in 30 s by force
  gpenctl /run/gpen.ctl server 1 state ready    and back to work
  gpenctl /run/gpen.ctl explain 192.0.2.7       who would serve that client, why
  gpenctl -t 1 /run/gpen.ctl ready              can clients be served? In 1 s
  gpenctl /run/gpen.ctl listener 443 sessions   those of the listener 443
  gpenctl 127.0.0.1:8888 watch                  the servers, each second
  gpenctl /run/gpen.ctl top                     the same with keys and graphs
  gpenctl /run/gpen.ctl                         a prompt: Tab completes
  gpenctl -f csv /run/gpen.ctl recent           the clients, for a spreadsheet

Exit status: 0; 1 the daemon said error, or `ready` that it is not; 2 wrong
usage; 3 no connection, or no answer within --timeout.
"""
FORMATS = ("table", "plain", "json", "csv")
COLORS = ("auto", "always", "never")
VALUED = ("-f", "--format", "-t", "--timeout", "--color")  # options
PLAIN = ("-h", "--help", "--version")


def main(argv: list[str] | None = None) -> int:
    """Run gpenctl with `argv`, without the program's name; None: the process's own. Returns the status."""
    try:
        settle_streams()
        view, words = parse(sys.argv[1:] if argv is None else argv)
        return dispatch(view, words)
    except UsageError as error:
        complain("gpenctl", error)
        return 2
    except LinkError as error:
        complain("gpenctl", error)
        return 3
    except KeyboardInterrupt:
        return 130


def dispatch(view: View, words: list[str]) -> int:
    if not words:
        from gpen.gpenctl.prompt import prompt

        return prompt(view)
    if words[0] == "watch":
        from gpen.gpenctl.watch import watch

        return watch(view, words[1:])
    if words[0] == "top":
        from gpen.gpenctl.top import top

        return top(view, words[1:])
    return run(join(words), view)


def parse(argv: list[str]) -> tuple[View, list[str]]:
    """The command line as a view and the command's words. Raises UsageError; --help and --version exit."""
    argv = arranged(argv)
    options = read("gpenctl", USAGE, argv, f"gpenctl {__version__}", options_first=True,
                   missing="TARGET is missing: the path of a control socket or HOST:PORT")
    try:
        target = parse_target(options["TARGET"])
    except ValueError as error:
        raise UsageError(wrong_target(options["TARGET"], error)) from None
    terminal = sys.stdout.isatty()
    view = View(
        target=target,
        timeout=seconds("--timeout", options["--timeout"]),
        format=one_of("--format", options["--format"] or ("table" if terminal else "plain"), FORMATS),
        color=wants_color(one_of("--color", options["--color"], COLORS), terminal),
        terminal=terminal,
    )
    return view, options["COMMAND"]


def wrong_target(text: str, error: ValueError) -> str:
    """Why the target is none, in one line; a command in its place is the most likely."""
    from gpen.control.commands import COMMANDS
    from gpen.gpenctl.prompt import OWN

    if text in COMMANDS or text in OWN:
        return f"TARGET is missing in front of '{text}': the path of a control socket or HOST:PORT"
    return str(error)


def arranged(argv: list[str]) -> list[str]:
    """The command line with its options in front, wherever they stand; what stands behind -- is no option.

    An option that is not ours stays where it is: in front of the target it is an error, behind it a word for the
    daemon. Raises UsageError for an option that lacks its value.
    """
    options: list[str] = []
    others: list[str] = []
    words = iter(argv)
    for word in words:
        if word == "--":
            return [*options, *others, *words]
        name, equals, _ = word.partition("=")
        if word in VALUED:
            value = next(words, None)
            if value is None:
                raise UsageError(f"{word} needs a value; gpenctl --help shows the usage")
            options += [word, value]
        elif word in PLAIN or (equals and name in VALUED) or (word[:2] in VALUED and word[1] != "-"):
            options.append(word)
        elif others or not word.startswith("-"):
            others.append(word)
        else:
            options.append(word)
    return [*options, *others]


def one_of(option: str, value: str, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise UsageError(f"{option}: {value!r} is not one of {', '.join(choices)}")
    return value


def wants_color(when: str, terminal: bool) -> bool:
    if when == "auto":
        return terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return when == "always"


def settle_streams() -> None:
    """Let bytes that are no UTF-8 pass unchanged into a pipe."""
    for stream in (sys.stdin, sys.stdout):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="surrogateescape")


def join(words: list[str]) -> str:
    """The words as one line of the control language. A single word is taken as a whole line already.

    Raises UsageError where a word would end the line.
    """
    for word in words:
        if any(end in word for end in "\n\r\0"):
            raise UsageError(f"{word!r}: a command is one line, so no word can hold the end of one")
    return words[0] if len(words) == 1 else " ".join(map(quote, words))


def quote(word: str) -> str:
    if word and not re.search(r"""[\s"']|^#""", word):
        return word
    return '"' + word.replace("\\", r"\\").replace('"', r"\"") + '"'
