"""The command gpen-discover: a watch for each source (sources.py), and status; the usage texts are in usage.py."""

from __future__ import annotations

import re
import sys
from typing import Any

from gpen import __version__
from gpen.start import PackageError
from gpen.usage import UsageError, carry_out, complain, read, seconds

Arguments = dict[str, Any]
NAME = "gpen-discover"
_RANGE = re.compile("([0-9]{1,9})-([0-9]{1,9})")


def main(argv: list[str] | None = None) -> int:
    """Run gpen-discover with ``argv``, without the program's name; None: the process's own. Returns the status."""
    return carry_out(NAME, run, sys.argv[1:] if argv is None else argv)


def run(words: list[str]) -> int:
    """Carry out a command line. Raises UsageError."""
    from gpen.discover.usage import OVERVIEW, USAGES

    command = words[0] if words else ""
    if command not in USAGES:
        read_usage(OVERVIEW, words)
        raise UsageError(f"'{command}' is neither a source nor a command: expected one of {', '.join(USAGES)}")
    arguments = read_usage(USAGES[command], words, command)
    return status(arguments) if command == "status" else watch(command, arguments)


def read_usage(usage: str, words: list[str], command: str = "") -> Arguments:
    """The arguments, as docopt finds them in a usage. Raises UsageError; --help and --version exit."""
    from gpen.discover.sources import SOURCES
    from gpen.discover.usage import USAGES

    kind = SOURCES.get(command)
    missing = f"{kind.argument} is missing" if kind else f"SOURCE is missing: one of {', '.join(USAGES)}"
    return read(f"{NAME} {command}".strip(), usage, words, f"{NAME} {__version__}", missing, options_first=not command)


# --- the commands -----------------------------------------------------------------------------------------------------


def watch(command: str, arguments: Arguments) -> int:
    """Keep the gpens as a source says until a signal comes."""
    from gpen import rights
    from gpen.console import Answer, Console, ConsoleError
    from gpen.discover.sources import SOURCES
    from gpen.discover.watch import Discoverer
    from gpen.log import say
    from gpen.service import on_signals, tell_of_failures

    targets = targets_in(arguments)
    try:
        source = SOURCES[command].make(arguments)
    except PackageError as error:
        raise UsageError(str(error)) from None
    discoverer = Discoverer(source, targets, terms_in(arguments, source.name), arguments["--allow-empty"])
    rights.bind()
    rights.give_up()
    on_signals(discoverer.stop)

    def answer(line: str) -> Answer:
        return discoverer.status() if line == "status" else {"error": f"'{line}' is no request: expected status"}

    try:
        console = Console(arguments["--socket"], lambda line, reply: reply(answer(line)), NAME)
    except ConsoleError as error:
        raise UsageError(str(error)) from None
    tell_of_failures()
    try:
        discoverer.run()
    finally:
        console.close()
    say("ended; the gpens keep the servers that they have")
    return 0


def status(arguments: Arguments) -> int:
    """Show what the one that runs knows."""
    import json

    from gpen.console import ConsoleError, ask
    from gpen.discover.status import show

    try:
        answer = ask(arguments["--socket"], "status", f"{NAME} SOURCE")
    except ConsoleError as error:
        complain(NAME, error)
        return 3
    try:
        shown, well = json.dumps(answer, indent=2) if arguments["--json"] else show(answer), answer["well"]
    except (KeyError, TypeError, AttributeError, ValueError):
        unknown = f"{arguments['--socket']}: what answers there is no gpen-discover of this version"
        complain(NAME, answer.get("error") or unknown)
        return 3
    print(shown)
    return 0 if well else 1


# --- their arguments --------------------------------------------------------------------------------------------------


def targets_in(arguments: Arguments) -> list[Any]:
    """The gpens that are to be told. Raises UsageError."""
    from gpen.gpenctl.link import parse_target

    if not arguments["--gpen"]:
        raise UsageError("no gpen to tell: give --gpen=CONTROL, the address of its option -C")
    try:
        return list({text: parse_target(text) for text in arguments["--gpen"]}.values())
    except ValueError as error:
        raise UsageError(str(error)) from None


def terms_in(arguments: Arguments, source: str) -> Any:
    """How gpens are treated. Raises UsageError."""
    from gpen.discover.plan import Terms
    from gpen.model.value_types import parse_owner

    try:
        owner = parse_owner(arguments["--owner"])
    except ValueError as error:
        raise UsageError(f"--owner: {error}") from None
    return Terms(owner, source, numbers_in(arguments["--numbers"]), floor_in(arguments["--floor"]),
                 seconds(arguments, "--drain") if arguments["--drain"] else None)


def floor_in(text: str) -> int:
    """A number of servers. Raises UsageError."""
    if not re.fullmatch("[0-9]{1,9}", text):
        raise UsageError(f"--floor: '{text}' is not a number of servers")
    return int(text)


def numbers_in(text: str) -> range:
    """The numbers of servers. Raises UsageError."""
    match = _RANGE.fullmatch(text)
    first, last = (int(match[1]), int(match[2])) if match else (1, 0)
    if first > last:
        raise UsageError(f"--numbers: '{text}' is not FIRST-LAST: expected something like 100-199")
    return range(first, last + 1)
