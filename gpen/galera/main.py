"""The command gpen-galera: each of its commands is a function here; the usage texts are in usage.py."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gpen import __version__
from gpen.galera import notify
from gpen.model.text import printable
from gpen.start import PackageError, check_optional
from gpen.usage import FAILED, UsageError, carry_out, complain, number, read, seconds, spread

if TYPE_CHECKING:
    from gpen.galera.access import Access
    from gpen.galera.exporter import Exporter
    from gpen.galera.watch import Options, Watcher

Arguments = dict[str, Any]
NAME = "gpen-galera"
MOST_QUIET = 1.5  # seconds
MANY = ("--gpen", "--reader", "--writer")  # options that take several values


class NotYet(UsageError):
    """Something that is named can't be had now, and may be later: a service manager may try again."""

    status = FAILED


def main(argv: list[str] | None = None) -> int:
    """Run gpen-galera with ``argv``, without the program's name; None: the process's own. Returns the status."""
    words = sys.argv[1:] if argv is None else argv
    if words[:1] == ["notify"]:  # before anything that takes time to load
        return notify.main(words[1:])
    return carry_out(NAME, run, words)


def run(words: list[str]) -> int:
    """Carry out a command line. Raises UsageError."""
    from gpen.galera.usage import OVERVIEW, USAGES

    command = words[0] if words else ""
    if command not in COMMANDS:
        read_usage(OVERVIEW, words)
        raise UsageError(f"'{command}' is no command: expected one of {', '.join(USAGES)}")
    return COMMANDS[command](read_usage(USAGES[command], list(spread(words, MANY)), command))


def read_usage(usage: str, words: list[str], command: str = "") -> Arguments:
    """The arguments, as docopt finds them in a usage. Raises UsageError; --help and --version exit."""
    from gpen.galera.usage import USAGES

    missing = "an argument is missing" if command else f"COMMAND is missing: one of {', '.join(USAGES)}"
    return read(f"{NAME} {command}".strip(), usage, words, f"{NAME} {__version__}", missing, options_first=not command)


# --- the commands ----------------------------------------------------------------------------------------------------


def watch(arguments: Arguments) -> int:
    """Watch until a signal comes."""
    options = watch_options(arguments)
    access = credentials(arguments)
    from gpen import rights
    from gpen.console import Console, ConsoleError
    from gpen.galera.requests import Requests
    from gpen.galera.watch import Watcher
    from gpen.log import say
    from gpen.service import on_signals, tell_of_failures

    try:
        watcher = Watcher(options, access)
    except ValueError as error:
        raise UsageError(str(error)) from None
    rights.bind()
    rights.give_up()
    if arguments["--listen"]:
        hear(arguments["--listen"], lambda: watcher.post(watcher.poke))
    exporter = export(arguments["--metrics"], watcher) if arguments["--metrics"] else None
    try:
        console = Console(arguments["--socket"], Requests(watcher).take, NAME)
    except ConsoleError as error:
        raise UsageError(str(error)) from None
    on_signals(watcher.stop)
    tell_of_failures()
    try:
        watcher.run()
    finally:
        console.close()
        if exporter is not None:
            exporter.close()
    say("ended; the gpens keep what they know")
    return 0


def status(arguments: Arguments) -> int:
    """Show what the running watcher knows."""
    answer = ask_watcher(arguments, "status")
    if answer is None:
        return 3
    import json

    from gpen.galera.status import show

    try:
        shown, well = json.dumps(answer, indent=2) if arguments["--json"] else show(answer), answer["well"]
    except (KeyError, TypeError, AttributeError):
        unknown = f"{arguments['--socket']}: what answers there is no watcher of this version"
        complain(NAME, answer.get("error", unknown))
        return 3
    print(shown)
    return 0 if well else 1


def move(arguments: Arguments) -> int:
    """Have the running watcher move the writer."""
    return told(arguments, f"move {arguments['NODE']}")


def adopt(arguments: Arguments) -> int:
    """Have the running watcher follow another cluster."""
    return told(arguments, f"adopt {arguments['UUID']}")


def told(arguments: Arguments, request: str) -> int:
    """Ask the running watcher for something, and print what came of it. Returns the status."""
    answer = ask_watcher(arguments, request)
    if answer is None:
        return 3
    if "done" not in answer:
        complain(NAME, answer.get("error", f"{arguments['--socket']}: what answers there is no watcher"))
        return 1
    print(answer["done"])
    return 0


def check(arguments: Arguments) -> int:
    """Ask a node once."""
    from gpen.galera.check import check as ask_once
    from gpen.galera.check import rules_from

    address, timeout = node(arguments["NODE"]), seconds(arguments, "--timeout")
    rules = rules_from(availability(arguments), os.environ)
    finding = ask_once(address, credentials(arguments), rules, timeout)
    print(printable(finding.text))
    return 0 if finding.usable else 1


def serve(arguments: Arguments) -> int:
    """Answer HTTP requests until a signal comes."""
    import threading

    from gpen import rights
    from gpen.galera.check import rules_from
    from gpen.galera.serve import Responder, Server
    from gpen.model.address import parse_listen
    from gpen.service import on_signals

    responder = Responder(node(arguments["--node"]), credentials(arguments),
                          rules_from(availability(arguments), os.environ),
                          seconds(arguments, "--interval"), seconds(arguments, "--timeout"))
    try:
        server = Server(parse_listen(arguments["LISTEN"]), responder.finding)
    except (OSError, ValueError) as error:
        raise unusable(f"{arguments['LISTEN']}", error, "; LISTEN is [HOST:]PORT") from None
    rights.bind()
    rights.give_up()
    responder.node.start()
    on_signals(lambda: threading.Thread(target=server.shutdown).start())
    with server:
        server.serve_forever(0.1)
    responder.node.stop()
    responder.node.join(0.5)
    return 0


COMMANDS: dict[str, Callable[[Arguments], int]] = {
    "watch": watch, "status": status, "move": move, "adopt": adopt, "check": check, "serve": serve}


# --- their arguments -------------------------------------------------------------------------------------------------


def watch_options(arguments: Arguments) -> Options:
    """What the command line says to `watch`. Raises UsageError."""
    from gpen.galera.cluster import POLICIES
    from gpen.galera.members import mapping
    from gpen.galera.watch import Options

    if arguments["--donor"] not in POLICIES:
        raise UsageError(f"--donor: '{arguments['--donor']}' is not one of {', '.join(POLICIES)}")
    try:
        mapped = mapping(filter(None, (arguments["--map"] or "").split(",")))
    except ValueError as error:
        raise UsageError(f"--map: {error}") from None
    return Options(
        **told_gpens(arguments), donor=arguments["--donor"],
        interval=seconds(arguments, "--interval"), timeout=seconds(arguments, "--timeout"),
        prefer=[node(text) for text in (arguments["--prefer"] or "").split(",") if text],
        failback=arguments["--failback"], keep_sessions=arguments["--keep-sessions"],
        keep_old_sessions=arguments["--keep-old-sessions"], agree=arguments["--agree"],
        name=f"{os.uname().nodename}:{os.path.abspath(arguments['--socket'])}",
        discover=arguments["--discover"], floor=int(number(arguments, "--floor")),
        forget=seconds(arguments, "--forget"), quiet=_quiet(arguments),
        reserve=int(number(arguments, "--reserve")),
        max_queue=int(number(arguments, "--max-queue")) if arguments["--max-queue"] else None,
        mapped=mapped, verbose=arguments["--verbose"])


def _quiet(arguments: Arguments) -> float:
    """What --quiet says. Raises UsageError."""
    value = number(arguments, "--quiet")
    if value > MOST_QUIET:
        raise UsageError(f"--quiet: '{arguments['--quiet']}' is out of range: expected 0 to {MOST_QUIET:g} seconds, "
                         "for watchers that agree wait for each other for two")
    return value


def told_gpens(arguments: Arguments) -> dict[str, Any]:
    """Whom the command line has `watch` tell, as the options are called. Raises UsageError."""
    from gpen.galera.listeners import NAME, Roles
    from gpen.gpenctl.link import parse_target

    gpens, readers, writers = (arguments[name] for name in ("--gpen", "--reader", "--writer"))
    if not gpens + readers + writers:
        raise UsageError("no gpen to tell: give --gpen=CONTROL, --reader=CONTROL or --writer=CONTROL, the address of "
                         "its option -C")
    for text in [] if gpens else readers + writers:
        if NAME.fullmatch(text):
            raise UsageError(f"'{text}' is no CONTROL, /PATH or HOST:PORT; if it is the name of a listener, give "
                             "--gpen=CONTROL as well")
    try:
        if gpens:
            return {"readers": [], "writers": [], "gpens": [parse_target(text) for text in gpens],
                    "roles": Roles(readers, writers)}
        return {"readers": [parse_target(text) for text in readers],
                "writers": [parse_target(text) for text in writers]}
    except ValueError as error:
        raise UsageError(str(error)) from None


def credentials(arguments: Arguments) -> Access:
    """How to log in to the nodes. Raises UsageError, also when PyMySQL is missing."""
    from gpen.galera.access import AccessError, read_access

    try:
        check_optional("pymysql")
    except PackageError as error:
        raise UsageError(str(error)) from None
    try:
        return read_access(arguments["--defaults-file"], arguments["--ssl-ca"])
    except AccessError as error:
        raise UsageError(str(error)) from None


def hear(text: str, wake: Callable[[], None]) -> None:
    """Call ``wake`` when a datagram comes to this address. Raises UsageError."""
    try:
        notify.NotificationSocket(notify.listening(text), wake)
    except (OSError, ValueError) as error:
        raise unusable(f"--listen={text}", error) from None


def export(text: str, watcher: Watcher) -> Exporter:
    """Have the watcher's metrics told at this address. Raises UsageError."""
    from gpen.galera.exporter import Exporter

    try:
        exporter = Exporter(notify.listening(text), watcher)
    except (OSError, ValueError) as error:
        raise unusable(f"--metrics={text}", error) from None
    exporter.start()
    return exporter


def unusable(what: str, error: Exception, more: str = "") -> UsageError:
    """Why an address can't be listened on. A name may be known later."""
    kind = NotYet if isinstance(error, socket.gaierror) else UsageError
    return kind(f"{what}: {getattr(error, 'strerror', None) or error}{more}")


def ask_watcher(arguments: Arguments, line: str) -> Arguments | None:
    """The running watcher's answer; None, with a complaint, when there is none."""
    from gpen.console import ConsoleError, ask

    try:
        return ask(arguments["--socket"], line, f"{NAME} watch")
    except ConsoleError as error:
        complain(NAME, error)
        return None


def availability(arguments: Arguments) -> dict[str, bool]:
    return {"donor": arguments["--available-when-donor"], "read_only": arguments["--available-when-readonly"]}


def node(text: str) -> str:
    """A node's address with its port. Raises UsageError."""
    from gpen.galera.access import parse_node

    try:
        return str(parse_node(text))
    except ValueError as error:
        raise UsageError(str(error)) from None
