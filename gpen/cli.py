"""gpen, the command: options and addresses become a script of control commands, and the script a daemon."""

from __future__ import annotations

import logging
import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, nullcontext, suppress
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

import docopt

from gpen import __version__, build
from gpen.control import reply
from gpen.control.commands import OPTIONS, Option, suggestion
from gpen.control.configuration import Configuration
from gpen.control.draft import Draft
from gpen.control.script import (
    Call,
    Errors,
    ScriptError,
    Step,
    attempt,
    parse_configuring,
    parse_words,
    read_file,
)
from gpen.control.sources import Sources
from gpen.control.validation import notes
from gpen.control.ways import Ways
from gpen.core import CORE
from gpen.daemon import activation, fork_server, own_address, process, worker
from gpen.daemon.activation import Passed
from gpen.daemon.balancer import Balancer
from gpen.daemon.changes import (
    check_alert,
    check_completeness,
    check_directory,
    check_extras,
    check_owner,
    check_programs,
    check_transparency,
    check_user,
    checks_of,
    listening_at,
)
from gpen.daemon.chroot import Chroot
from gpen.daemon.countries import open_countries
from gpen.daemon.door import check_token
from gpen.daemon.front import make_server_tls, make_terminator, resolved
from gpen.daemon.hostnames import Hostnames
from gpen.daemon.inheritance import Inheritance
from gpen.daemon.listeners import named
from gpen.daemon.notify import Notifier
from gpen.daemon.peers import check_peers
from gpen.daemon.ports import tell_shortages
from gpen.daemon.upgrade import REPLACE, without_replace
from gpen.journal import ERROR, marked
from gpen.model.address import Endpoint, network_address, parse_listen, parse_server
from gpen.model.facility import is_syslog
from gpen.model.listener import Scope
from gpen.model.pool import SPECIAL
from gpen.model.server import TCP, UDP
from gpen.model.settings import SETTINGS, Settings
from gpen.model.text import printable, shortened
from gpen.wire.given import GivenSockets
from gpen.wire.resolver import Answer, ResolveError, Resolver
from gpen.wire.sockets import ListenError

log = logging.getLogger("gpen")

FAILED, USAGE = 1, 2
REPEATABLE = ("-d", "-O", "-o")
_NO_TEXT = re.compile("[\0-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
DISCARD = 9  # the port of a server that stands without one, where all ports are forwarded: for its checks alone
_STRANGE = re.compile(r"(?:[^/]*:)?[0-9]+/.*")  # behind a port in LISTEN, where the transport may stand
_BY_FLAG = {option.flag: option for option in OPTIONS}
_ASKED = {"-v": "--version", "-V": "--version", "-?": "--help"}  # of other programs


def main(argv: Sequence[str] | None = None) -> int:
    """Run gpen with these arguments (without the program's name) and return its exit status.

    0: ended as it was told to; 1: it could not start or failed; 2: wrong arguments or a wrong configuration. Without
    ``argv`` the process is gpen's own, with its arguments.
    """
    passed: Sequence[Passed] = ()
    if argv is None:
        passed = activation.passed(os.environ)
        process.begin(each.fd for each in passed)
    argv = list(sys.argv[1:] if argv is None else argv)
    process.tell_on_stderr()
    if CORE.problem:
        log.warning("%s: gpen runs as pure Python", CORE.problem)
    try:
        check_text(argv)
        arguments = parse_arguments(argv)
        if arguments["--help"]:
            print(reply.usage(__version__), end="")
            return 0
        if arguments["--version"]:
            print(printable(build.told(), keep="\n"))
            return 0
        configuration, sources = configure(arguments)
        if arguments[REPLACE]:
            check_replaces(configuration.settings)
        if arguments["--check"]:
            for _, words in notes(configuration, configuration.pool.all_servers()):
                log.warning("%s", words)
            print("configuration is valid")
            return 0
    except ScriptError as error:
        return _complain(error, USAGE)
    command_line = shlex.join(["gpen", *without_replace(argv)])
    return run(configuration, sources, command_line, passed, arguments[REPLACE])


def check_replaces(settings: Settings) -> None:
    """Raises ScriptError where --replace could ask nobody."""
    if settings.control is None:
        raise ScriptError(f"{REPLACE}: needs the control socket of the gpen that runs: give -C PATH")
    if not parse_listen(settings.control).path:
        raise ScriptError(f"{REPLACE}: sockets pass over a control socket that is a file only, and this is "
                          f"'{settings.control}': give -C /PATH")


def check_text(argv: Sequence[str]) -> None:
    """Raises ScriptError for an argument that can't stand in a line: of a file, a log, a message."""
    for word in argv:
        if _NO_TEXT.search(word):
            raise ScriptError(f"argument '{shortened(word)}': has an end of line, a control character, or bytes "
                              "that are not UTF-8")


def parse_arguments(argv: Sequence[str]) -> dict[str, Any]:
    """The command line as docopt reads it. Raises ScriptError that names the first wrong option."""
    try:
        return dict(docopt.docopt(reply.usage(__version__), tidied(argv), False))
    except docopt.DocoptExit:
        raise ScriptError("these arguments make no sense together; see gpen --help") from None


def tidied(argv: Sequence[str]) -> list[str]:
    """The arguments with each option in a word of its own and, as in pen, the last of a repeated one only; what stands
    behind -- is an address.

    Raises ScriptError that names the first option that is not gpen's, or lacks its argument.
    """
    options: dict[str, list[str]] = {}
    repeated: list[str] = []
    addresses: list[str] = []
    words = iter(argv)
    option = [""]
    for word in words:
        if word == "--":
            addresses += words
        elif not word.startswith("-") or word == "-":
            if not addresses:
                _check_quotes(option, word)
            addresses.append(word)
        else:
            for option in _options_in(word, words):
                if option[0] in REPEATABLE:
                    repeated += option
                else:
                    options[option[0]] = option
    return [*(part for option in options.values() for part in option), *repeated, "--", *addresses]


def _check_quotes(option: Sequence[str], listen: str) -> None:
    """Raises ScriptError where LISTEN is more likely to be a value that belongs to the option in front of it."""
    if option[0] not in REPEATABLE or not re.fullmatch("[0-9]", listen):
        return
    if option[0] == "-d":
        meant = f"-{'d' * int(listen) or 'd'}"
    else:
        setting = SETTINGS.get(option[1])
        if setting is None or setting.is_flag:
            return
        meant = f"{option[0]} '{option[1]} {listen}'"
    raise ScriptError(f"port {listen}, behind {' '.join(option)}? If a value is meant: {meant}; if the port: "
                      f"0.0.0.0:{listen}")


def _options_in(word: str, words: Iterator[str]) -> Iterator[list[str]]:
    """The options in one word: a long one, or short ones glued together and to the last one's argument."""
    if word.startswith("--"):
        if word not in _BY_FLAG:
            raise _no_option(word)
        yield [word]
        return
    for position, letter in enumerate(word[1:], 1):
        flag = f"-{letter}"
        option = _BY_FLAG.get(flag)
        if option is None:
            raise _no_option(flag)
        if not option.argument:
            yield [flag]
            continue
        argument = word[position + 1 :] or next(words, None)
        if argument is None:
            raise ScriptError(f"{flag} needs {option.argument}; see gpen --help")
        yield [flag, argument]
        return


def _no_option(flag: str) -> ScriptError:
    """That this is no option, and what may be meant."""
    meant = _ASKED.get(flag) or suggestion(flag, (name for name in _BY_FLAG if name.startswith("--")))
    return ScriptError(f"{flag} is not an option; " + (f"did you mean {meant}?" if meant else "see gpen --help"))


def configure(arguments: dict[str, Any]) -> tuple[Configuration, Sources]:
    """The configuration that the command line and the file of -F describe, and where it came from. Raises ScriptErrors,
    with all that is wrong."""
    sources = Sources(arguments["-F"])
    errors = Errors()
    with errors.gathered():
        sources.give(chain(_steps_of_options(arguments), _steps_of_addresses(arguments), _steps_of_commands(arguments)))
    said = sources.said = sources.over_given()
    with errors.gathered():
        said.run_all(read_file(sources.file) if sources.file is not None else ())
    configuration = Configuration(time.monotonic, time.time)
    configuration.adopt(sources.given)
    configuration.adopt(said)
    if not errors:
        with errors.gathered():
            check_completeness(said)
    _check(said, errors)
    if arguments["--check"]:
        check_outside(configuration, sources, errors)
    errors.raise_all()
    _warn(configuration)
    return configuration, sources


def _warn(configuration: Configuration) -> None:
    """Tell what can work, but not as it seems to be meant."""
    settings = configuration.settings
    tell_shortages(configuration.scopes.values())
    if settings.chroot and os.geteuid() == 0 and not settings.user:
        log.warning("chroot: root gets out of a chroot: give a user to change to as well (-u USER)")


def _steps_of_options(arguments: dict[str, Any]) -> Iterator[Step]:
    for option in OPTIONS:
        value = arguments[option.flag]
        if value in (None, False, 0, []):
            continue
        if option.setting:
            yield from attempt(partial(parse_words, _words_of_option(option, value), option.flag))
        elif option.help.startswith("Obsolete"):
            log.warning("%s: obsolete option, ignored", option.flag)


def _words_of_option(option: Option, value: Any) -> list[str]:
    if option.flag == "-d":
        return [option.setting, str(value)]
    return [option.setting, value] if option.argument else [option.setting]


def _steps_of_addresses(arguments: dict[str, Any]) -> Iterator[Step]:
    listen = arguments["LISTEN"]
    if not listen:
        return
    problem, doors = "", []
    try:
        doors = doors_in(listen)
    except ValueError as error:
        problem = str(error)
    if (problem or parse_listen(doors[0].place).path) and os.path.isfile(listen):  # a port may be called as a file is
        problem = f"'{listen}' is a file: if it holds commands, -F {listen}"
    if problem:
        yield ScriptError(f"listen: {problem}")
        return  # without it, what is the port of the servers?
    for door in doors:
        yield from (parse_words(words) for words in door.commands(doors[0].transport == UDP and not arguments["-U"]))
    default_port = parse_listen(doors[0].place).port or (DISCARD if _is_direct(arguments) else "")
    for number, text in enumerate(arguments["SERVER"]):
        yield from attempt(partial(_server_call, number, text, default_port))
        yield from _own_ports(number, text, doors)
    yield from _own_specials(arguments, doors)


def _is_direct(arguments: dict[str, Any]) -> bool:
    """Whether servers answer clients themselves: then port 0 is all ports, and a server needs none."""
    return any(line.split()[:1] == ["dsr_if"] for flag in ("-O", "-o") for line in arguments[flag])


class Door(NamedTuple):
    """One address of LISTEN: the name of its listener, which is empty for the first; where it is; and over which
    transport, if that is said."""

    name: str
    place: str
    transport: str | None

    def commands(self, first_alone: bool) -> list[list[str]]:
        """What makes this listener; ``first_alone``: that the first is one of UDP means no other."""
        prefix = ["listener", self.name] if self.name else []
        commands = [[*prefix, "listen", self.place]]
        if self.transport == UDP:
            commands.append([*prefix, "udp"])
        elif self.transport == TCP or (self.name and first_alone):
            commands.append([*prefix, "no", "udp"])
        return commands


def doors_in(listen: str) -> list[Door]:
    """Read LISTEN: addresses with commas between them, each with /tcp or /udp behind it if it is told. Raises
    ValueError."""
    doors: list[Door] = []
    for text in [listen] if listen.startswith("/") else listen.split(","):
        place, _, transport = text.rpartition("/") if text.endswith(("/tcp", "/udp")) and text[0] != "/" else (
            text, "", None)
        if _STRANGE.fullmatch(place):
            raise ValueError(f"'{text}': expected nothing but /tcp or /udp behind a port (a path begins with / or .)")
        address = parse_listen(place)
        name = "" if not doors else str(address.port)
        if doors and address.path:
            raise ValueError(f"'{text}': a unix socket has no port to be named by: give it by -O 'listener NAME listen "
                             f"{text}'")
        if name in [door.name for door in doors]:
            raise ValueError(f"'{listen}': two listeners would be called {name}: give one of them by -O 'listener NAME "
                             f"listen {text}'")
        doors.append(Door(name, place, transport))
    return doors


def _own_ports(number: int, text: str, doors: Sequence[Door]) -> Iterator[Step]:
    """A server without a port is reached by each listener at its own."""
    for door in _doors_elsewhere(text, doors):
        port = str(parse_listen(door.place).port)
        if port == "0":
            yield ScriptError(f"server {number}: '{text}' needs a port: {door.place} is at any that is free")
        else:
            yield parse_words(["listener", door.name, "server", str(number), "port", port])


def _own_specials(arguments: dict[str, Any], doors: Sequence[Door]) -> Iterator[Step]:
    """And so are those of -e and -B."""
    for option in (option for option in OPTIONS if option.setting in SPECIAL and arguments[option.flag]):
        text = arguments[option.flag]
        for door in _doors_elsewhere(text, doors):
            yield from attempt(partial(parse_words, ["listener", door.name, option.setting, text], option.flag))


def _doors_elsewhere(text: str, doors: Sequence[Door]) -> Iterator[Door]:
    """The doors at other ports than that of the first, if this server is given without one."""
    with suppress(ValueError):  # which has been told
        if parse_server(text, "").address.port == "" and not text.startswith("/"):
            first = parse_listen(doors[0].place).port
            yield from (door for door in doors[1:] if parse_listen(door.place).port != first)


def _server_call(number: int, text: str, default_port: int | str) -> Call:
    if text.isdecimal():
        raise ScriptError(f"server '{text}' is a number: LISTEN comes first, and servers behind it, each a HOST[:PORT]")
    try:
        spec = parse_server(text, default_port)
    except ValueError as error:
        raise ScriptError(f"server {error}") from None
    place = ["address", spec.address.path or spec.address.host]
    place += ["port", str(spec.address.port)] if spec.address.port != "" else []
    options = [word for name, value in spec.options.items() for word in (name, str(value))]
    return parse_words(["server", str(number), *place, *options])


def _steps_of_commands(arguments: dict[str, Any]) -> Iterator[Step]:
    for flag in ("-O", "-o"):
        for line in arguments[flag]:
            hint = f": one argument, in quotes: {flag} '{line} ...'"
            for step in attempt(partial(parse_configuring, line, f"{flag} '{line}'", hint)):
                if isinstance(step, Call) and step.command.name == "include":
                    yield from read_file(step["file"])
                else:
                    yield step


def _check(draft: Draft, errors: Errors) -> None:
    """Gather what can't work, though each line is right."""
    settings = draft.settings
    with errors.gathered():
        draft.check()
    if settings.control and "/" not in settings.control and os.geteuid() == 0 and not settings.user:
        errors.add(ScriptError(f"control: will not open the control port '{settings.control}' as root: give a user to "
                               "change to (-u USER), or use a unix socket (-C /PATH)"))
    with errors.gathered():
        check_user(settings)
    for name in ("pid_file", "web_stats"):
        with errors.gathered():
            check_directory(name, settings.get(name))
    with errors.gathered():
        check_token(settings, Chroot())
    logs = {each.log: name for name, each in reversed(draft.all_settings().items())}  # and the first that has it
    for path, listener in logs.items():
        with errors.gathered(), named(listener):
            is_file = path is not None and not is_syslog(path) and network_address(path) is None
            check_directory("log", path if is_file else None)
    with errors.gathered():
        check_extras(draft)
    with errors.gathered():
        check_transparency(draft)


def check_outside(configuration: Configuration, sources: Sources, errors: Errors) -> None:
    """Look at what the configuration names: hosts, services, programs, certificates, databases; what is wrong is
    gathered."""
    settings, outside, resolver = configuration.settings, Chroot(), Resolver()
    names, said = Hostnames(configuration.pool, settings, resolver), sources.said
    answers: Mapping[str, Answer] = {}
    with errors.gathered():
        answers = names.resolve(said, patient=True)
    own: dict[str, Endpoint] = {}
    scopes = configuration.scopes.values()
    for scope in scopes:
        with errors.gathered():
            _check_addresses(scope, resolver, own)
    with errors.gathered(), suppress(ResolveError):  # which is told above
        own_address.refuse(names.places(said, answers), listening_at(Ways(said), own), said.origin_of)
    for name in ("control", "metrics"):
        if settings.get(name):
            with errors.gathered():
                resolved(resolver, settings, name, parse_listen(settings.get(name), "127.0.0.1"))
    process.raise_descriptor_limit(configuration.settings_in_use())
    with errors.gathered():
        check_programs(checks_of(configuration), outside)
    with errors.gathered():
        check_alert(settings, outside)
    for scope in scopes:
        with errors.gathered(), named(scope.name):
            check_owner(scope.settings)
        with errors.gathered(), named(scope.name):
            make_terminator(scope.settings, outside.path)
            make_server_tls(scope.settings, outside.path, bool(configuration.with_own_tls()))
    with errors.gathered():
        check_peers(settings, outside, resolver)
    with errors.gathered():
        open_countries(settings, outside)


def _check_addresses(scope: Scope, resolver: Resolver, own: dict[str, Endpoint]) -> None:
    """Look up where one listener listens, which goes to ``own``, and its log. Raises ScriptErrors."""
    settings, errors = scope.settings, Errors()
    with errors.gathered(), named(scope.name):
        if settings.listen:
            address = parse_listen(settings.listen)
            own[scope.name] = resolved(resolver, settings, "listen", address, settings.udp)[0]
    try:
        if log_address := network_address(settings.log or ""):
            resolver.resolve(log_address, settings.timeout, datagrams=True)
    except ResolveError as error:
        if error.temporary:
            log.warning("log: %s", error)
        else:
            with errors.gathered(), named(scope.name):
                raise ScriptError(f"log: {error}") from None
    errors.raise_all()


def run(configuration: Configuration, sources: Sources, command_line: str, passed: Sequence[Passed] = (),
        replaces: bool = False) -> int:
    """Become the daemon, or stay in the foreground, and serve until stopped, with the sockets that were passed on to
    this process, or that the gpen has which it ``replaces``; returns the exit status."""
    settings = configuration.settings
    notifier = Notifier.of(os.environ)
    detached = None if settings.foreground else process.detach()
    status = FAILED
    try:
        process.set_debug(settings.debug)
        process.bind_rights(settings, process.lasting_rights(configuration.settings_in_use()))
        process.raise_descriptor_limit(configuration.settings_in_use())
        # now, for whatever is forked later shares the hub's epoll
        workers = fork_server.start(worker.serve, Chroot()) if process.workers_of(settings) else None
        make = partial(Balancer, notifier=notifier, fork_server=workers)
        with (closing(notifier), closing(workers) if workers is not None else nullcontext(),
              closing(activation.given(passed, configuration)) as given):
            status = (_replace(make, configuration, sources, command_line, detached) if replaces else
                      _serve(make(configuration, sources, command_line), detached, given))
    except ScriptError as error:
        status = _complain(error, USAGE)
    except (ListenError, process.StartError) as error:
        status = _complain(error, FAILED)
    except OSError as error:
        status = _complain(f"{error.filename or 'start'}: {error.strerror}", FAILED)
    except Exception:
        log.exception("gpen failed")
    finally:
        if detached is not None:
            detached.report(status)
    return status


def _replace(make: Callable[..., Balancer], configuration: Configuration, sources: Sources, command_line: str,
             detached: process.Detached | None) -> int:
    """Serve in the place of another gpen, with what that has been told at runtime."""
    with closing(Inheritance.claim(configuration.settings)) as inheritance:
        merged = Configuration(time.monotonic, time.time)
        merged.adopt(inheritance.merged(sources))
        balancer = make(merged, sources, command_line, inheritance)
        return _serve(balancer, detached, inheritance.listeners, inheritance)


def _serve(balancer: Balancer, detached: process.Detached | None, given: GivenSockets,
           inheritance: Inheritance | None = None) -> int:
    settings = balancer.settings
    pid_file = None
    if settings.pid_file:
        locked = inheritance.pid_file if inheritance is not None else process.PidFile
        pid_file = balancer.handover.pid_file = locked(settings.pid_file)
    syslog = process.syslog() if detached is not None else None  # while /dev/log is in sight
    try:
        try:
            balancer.open(given)
            balancer.confine(pid_file.made() if pid_file else ())
        except BaseException:
            balancer.close()  # or the socket files of those that are open stay behind
            raise
        balancer.serve(lambda: _announce(balancer, detached, syslog))
        log.info("gpen ended")
    finally:
        if pid_file is not None:
            pid_file.remove(balancer.chroot)
    return 0


def _announce(balancer: Balancer, detached: process.Detached | None, syslog: logging.Handler | None) -> None:
    """Clients are served from now on: let the command return, in the background."""
    if detached is not None and syslog is not None:
        process.tell(syslog)
        detached.quiet()
        detached.report(0)
    balancer.notifier.ready(balancer.status())
    log.info("gpen %s (%s) listens on %s", __version__, CORE.flavour, ", ".join(balancer.listeners.addresses()))


def _complain(problem: object, status: int) -> int:
    for error in problem.told() if isinstance(problem, ScriptError) else [problem]:
        print(marked(printable(f"gpen: {error}"), ERROR), file=sys.stderr)
    return status
