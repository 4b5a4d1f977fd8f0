"""gpenctl's prompt: a command a line, each on a connection of its own, with history and completion."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from gpen.gpenctl.command import run
from gpen.gpenctl.link import LinkError, meet
from gpen.gpenctl.show import View, fetch, out, show_reply
from gpen.gpenctl.tables import plain, records
from gpen.gpenctl.top import top
from gpen.gpenctl.watch import watch
from gpen.model.value_types import UNNAMED
from gpen.usage import UsageError, complain, tell

PROMPT = "gpen> "
OWN = ("quit", "top", "watch")  # the prompt's own commands, beside the daemon's
HISTORY_LINES = 1000
PATIENCE = 2.0  # seconds that a Tab may wait for the daemon
NAMED_BY = {"listeners": "name", "servers": "number", "sessions": "id", "recent": "address"}
Known = Callable[[str], list[str]]  # what each of these is called


def prompt(view: View) -> int:
    """Run commands from stdin: from a prompt on a terminal, else line by line.

    Returns 0; without a terminal 1 when a command failed. Raises LinkError when the first contact fails.
    """
    pid = meet(view.target, view.timeout)
    if not pid.isdigit():
        return show_reply(f"{pid}\n", view)
    if not (sys.stdin.isatty() and view.terminal):
        failures = sum(execute(line, view) for line in commands(sys.stdin))
        return 1 if failures else 0
    out(f"{view.target.text}, pid {pid}. help lists the commands, Ctrl-D or quit leaves this prompt.", view)
    with line_editing(partial(known, view)):
        for line in commands(ask_user()):
            if line == "quit":
                break
            if line.split()[0] == "exit" and not confirmed("Stop the daemon?", view):
                continue
            try:
                if execute(line, view):
                    hint(line)
            except KeyboardInterrupt:
                print()
    return 0


def commands(lines: Iterator[str]) -> Iterator[str]:
    """The lines that hold a command."""
    for line in lines:
        line = line.strip()
        if line and not line.startswith("#"):
            yield line


def ask_user() -> Iterator[str]:
    """Lines as they are typed, until Ctrl-D. Ctrl-C gives up the line, not the prompt."""
    while True:
        try:
            yield input(PROMPT)
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print()


def confirmed(question: str, view: View) -> bool:
    """Whether the user says yes. Not asked with input(), which would put the answer into the history."""
    try:
        out(f"{question} [y/N] ", view, ended=False)
        answer = sys.stdin.readline()
    except KeyboardInterrupt:
        answer = ""
    if not answer:
        print()
    return answer.strip().lower() in ("y", "yes")


def execute(line: str, view: View) -> int:
    """Run one line and say what went wrong; 0 if nothing did. Ctrl-C goes on up."""
    words = line.split()
    try:
        if words[0] == "watch":
            return watch(view, words[1:])
        if words[0] == "top":
            return top(view, words[1:])
        return run(line, view)
    except (LinkError, UsageError) as error:
        complain("gpenctl", error)
    return 1


def hint(line: str) -> None:
    """After an error: how the command is written, if that is more than its name."""
    from gpen.control.commands import COMMANDS, SCOPED, scoped_usage

    table, scope, (first, *rest) = COMMANDS, "", line.split()
    if first == "listener" and rest[1:]:
        table, scope, (first, *rest) = SCOPED, f"listener {rest[0]} ", rest[1:]
    command = table.get(rest[0] if first == "no" and rest else first)
    if not command:
        return
    usage = command.usage_no if first == "no" and command.negatable else scoped_usage(command)
    if f"{scope}{usage}" != line:
        tell(f"usage: {scope}{usage.replace(' | ', f' | {scope}')}")
        if command.example:
            is_scoped = command.example.startswith("listener ")
            tell(f"example: {'' if is_scoped else scope}{command.example}")


# Line editing


def history_file() -> Path:
    """Where the history is kept. Raises PermissionError where root, by sudo perhaps, has the home of a user, who might
    let it lead anywhere; RuntimeError where there is no home."""
    from gpen.files import Entry

    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state").absolute()
    existing = next(directory for directory in (state, *state.parents) if directory.is_dir())
    with Entry(f"{existing}/gpenctl_history") as entry:
        if not entry.is_safe and os.geteuid() == 0:
            raise PermissionError
    return state / "gpenctl_history"


@contextlib.contextmanager
def line_editing(known: Known) -> Iterator[None]:
    """History and completion for input(), where Python has readline. A history need not be possible; `known` is what
    the daemon knows."""
    try:
        import readline
    except ImportError:
        yield
        return
    libedit = "libedit" in (readline.__doc__ or "")
    readline.parse_and_bind("bind ^I rl_complete" if libedit else "tab: complete")
    readline.set_completer_delims(" \t")
    readline.set_completer(completer(lambda: readline.get_line_buffer()[: readline.get_begidx()], known))
    readline.set_history_length(HISTORY_LINES)
    with contextlib.suppress(OSError, RuntimeError):
        readline.read_history_file(history_file())
    try:
        yield
    finally:
        with contextlib.suppress(OSError, RuntimeError):
            history_file().parent.mkdir(parents=True, exist_ok=True)
            readline.write_history_file(history_file())


def completer(before: Callable[[], str], known: Known) -> Callable[[str, int], str | None]:
    """A completer as readline wants it; `before()` is the line up to the word that is being completed, `known` what
    the daemon knows, which is asked for it."""
    found: list[str] = []

    def complete(word: str, state: int) -> str | None:
        if not state:  # the others of the same Tab follow
            found[:] = [choice for choice in candidates(before().split(), known) if choice.startswith(word)]
        return f"{found[state]} " if state < len(found) else None

    return complete


def known(view: View, what: str) -> list[str]:
    """What each of the daemon's listeners, servers, sessions or recent clients is called; nothing where it tells of
    none."""
    value = None
    with contextlib.suppress(LinkError):
        _, value = fetch(what, view._replace(timeout=min(view.timeout, PATIENCE)))
    return [name for record in records(what, value) if (name := plain(record.get(NAMED_BY[what])))]


def candidates(before: list[str], known: Known) -> list[str]:
    """What can follow the words `before`, as far as the command table says, and the daemon knows."""
    from gpen.control.commands import COMMANDS

    match before:
        case []:
            return sorted({*COMMANDS, *OWN, "no"})
        case ["no"]:
            return sorted(name for name, command in COMMANDS.items() if command.negatable)
        case ["help"]:
            return sorted(COMMANDS)
        case ["listener"] | ["no", "listener"]:
            return known("listeners")
        case ["listener", _, *words]:
            return scoped(words, known)
        case ["close"]:
            return [*known("sessions"), "server", "address"]
        case ["connection"]:
            return known("sessions")
        case ["no", "server"] | ["drain"]:
            return known("servers")
        case ["no", "client"]:
            return known("recent")
    command = COMMANDS.get(before[0])
    return values(before, known) or (arguments(command.usage, before[1:]) if command else [])


def values(before: list[str], known: Known) -> list[str]:
    """What the daemon knows that can follow these words, whether or not they stand behind the name of a listener."""
    match before:
        case ["tracking_with"]:
            return [*known("listeners"), UNNAMED]
        case ["server"] | ["close", "server"] | ["client", _, "server"]:
            return known("servers")
        case ["explain"] | ["client"] | ["close", "address"]:
            return known("recent")
    return []


def scoped(before: list[str], known: Known) -> list[str]:
    """What can follow the words `before` behind the name of a listener."""
    from gpen.control.commands import SCOPED, SHARED_NAMES, scoped_usage

    match before:
        case []:
            return sorted({*SCOPED, "no"})
        case ["no"]:
            return sorted(name for name, command in SCOPED.items() if command.negatable)
        case ["inherit"]:
            return sorted({*SHARED_NAMES, "server"})
        case ["inherit", "server"]:
            return known("servers")
        case ["close"]:
            return ["server", "address"]
    command = SCOPED.get(before[0])
    return values(before, known) or (arguments(scoped_usage(command), before[1:]) if command else [])


def arguments(usage: str, given: list[str]) -> list[str]:
    """The keywords of a usage line that can follow the words `given`.

    In `server N [port P] [state ready|drain]` small letters are keywords, large ones stand for values, and
    choices after a keyword are its values. ` | ` stands between two ways to write a command.
    """
    keywords: list[str] = []
    values: dict[str, list[str]] = {}
    for way in ways(usage, given):
        previous = ""
        for token in way:
            if not token.islower():
                values[previous] = []
                keywords += filter(str.islower, token.split("|"))
            elif "|" in token and previous in keywords:
                values[previous] = token.split("|")
            else:
                keywords += token.split("|")
            previous = token
    if given and given[-1] in values:
        return values[given[-1]]
    return [keyword for keyword in keywords if keyword not in given]


def ways(usage: str, given: list[str]) -> list[list[str]]:
    """The words behind the command's name, in each way to write it; in those only that begin as what is given, if one
    does."""
    all_ways = [re.findall(r"[\w|-]+", way)[1:] for way in usage.split(" | ")]
    return [way for way in all_ways if given and way[:1] == given[:1]] or all_ways
