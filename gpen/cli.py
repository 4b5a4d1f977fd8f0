"""gpen, the command: options and addresses become a script of control commands, and the script a daemon."""

from __future__ import annotations

import logging
import os
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import docopt

from gpen import __version__
from gpen.control import reply
from gpen.control.commands import OPTIONS, Option
from gpen.control.configuration import Configuration
from gpen.control.script import Call, ScriptError, parse_line, parse_words, read_file
from gpen.daemon import ownaddress, process
from gpen.daemon.balancer import Balancer, check_directory, check_extras, make_terminator
from gpen.daemon.countries import open_countries
from gpen.daemon.names import Endpoints, Names
from gpen.daemon.sessionlog import SessionLog
from gpen.model.address import network_address, parse_listen, parse_server
from gpen.model.settings import Settings
from gpen.wire.resolve import ResolveError, resolve
from gpen.wire.sock import ListenError

log = logging.getLogger("gpen")

FAILED, USAGE = 1, 2
REPEATABLE = ("-d", "-O", "-o")
_BY_FLAG = {option.flag: option for option in OPTIONS}


def main(argv: Sequence[str] | None = None) -> int:
    """Run gpen with these arguments (without the program's name) and return its exit status.

    0: ended as it was told to; 1: it could not start or failed; 2: wrong arguments or a wrong configuration.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    process.tell_on_stderr()
    try:
        arguments = parse_arguments(argv)
        if arguments["--help"]:
            print(reply.usage(__version__), end="")
            return 0
        if arguments["--version"]:
            print(f"gpen {__version__}")
            return 0
        configuration = configure(arguments)
        if arguments["--check"]:
            endpoints = _check_names(configuration)
            _check_files(configuration.settings)
            _check_places(configuration, endpoints)
            print("configuration is valid")
            return 0
    except (ScriptError, process.StartError) as error:
        return _complain(error, USAGE)
    return run(configuration, arguments["-F"], shlex.join(["gpen", *argv]))


def parse_arguments(argv: Sequence[str]) -> dict[str, Any]:
    """The command line as docopt reads it. Raises ScriptError that names the first wrong option."""
    try:
        return dict(docopt.docopt(reply.usage(__version__), tidied(argv), default_help=False))
    except docopt.DocoptExit:
        raise ScriptError("these arguments make no sense together; see gpen --help") from None


def tidied(argv: Sequence[str]) -> list[str]:
    """The arguments with each option in a word of its own and, as in pen, the last of a repeated one only.

    Raises ScriptError that names the first option that is not gpen's, or lacks its argument.
    """
    options: dict[str, list[str]] = {}
    repeated: list[str] = []
    addresses: list[str] = []
    words = iter(argv)
    for word in words:
        if word == "--":
            continue
        if not word.startswith("-") or word == "-":
            addresses.append(word)
        else:
            for option in _options_in(word, words):
                if option[0] in REPEATABLE:
                    repeated += option
                else:
                    options[option[0]] = option
    return [*(part for option in options.values() for part in option), *repeated, *addresses]


def _options_in(word: str, words: Iterator[str]) -> Iterator[list[str]]:
    """The options in one word: a long one, or short ones glued together and to the last one's argument."""
    if word.startswith("--"):
        if word not in _BY_FLAG:
            raise ScriptError(f"{word} is not an option; see gpen --help")
        yield [word]
        return
    for position, letter in enumerate(word[1:], 1):
        flag = f"-{letter}"
        option = _BY_FLAG.get(flag)
        if option is None:
            raise ScriptError(f"{flag} is not an option; see gpen --help")
        if not option.argument:
            yield [flag]
            continue
        argument = word[position + 1 :] or next(words, None)
        if argument is None:
            raise ScriptError(f"{flag} needs {option.argument}; see gpen --help")
        yield [flag, argument]
        return


def configure(arguments: dict[str, Any]) -> Configuration:
    """The configuration that the command line describes. Raises ScriptError or StartError."""
    configuration = Configuration(time.monotonic, time.time)
    given = [*_calls_of_options(arguments), *_calls_of_addresses(arguments), *_calls_of_commands(arguments)]
    file = read_file(arguments["-F"]) if arguments["-F"] else []
    for call in [*given, *file]:
        configuration.run(call)
    # pen reads the file last, and so do we; but where the process itself is concerned the command line wins
    for call in given:
        if call.command.setting is not None and call.command.setting.startup:
            configuration.run(call)
    _check(configuration)
    return configuration


def _calls_of_options(arguments: dict[str, Any]) -> Iterator[Call]:
    for option in OPTIONS:
        value = arguments[option.flag]
        if value in (None, False, 0, []):
            continue
        if option.setting:
            yield parse_words(_words_of_option(option, value), option.flag)
        elif option.help.startswith("Obsolete"):
            log.warning("%s: obsolete option, ignored", option.flag)


def _words_of_option(option: Option, value: Any) -> list[str]:
    if option.flag == "-d":
        return [option.setting, str(value)]
    return [option.setting, value] if option.argument else [option.setting]


def _calls_of_addresses(arguments: dict[str, Any]) -> Iterator[Call]:
    listen = arguments["LISTEN"]
    if not listen:
        return
    yield parse_words(["listen", listen])
    default_port = parse_listen(listen).port or ""
    for number, text in enumerate(arguments["SERVER"]):
        try:
            spec = parse_server(text, default_port)
        except ValueError as error:
            raise ScriptError(f"server {error}") from None
        place = ["address", spec.address.path or spec.address.host]
        place += ["port", str(spec.address.port)] if spec.address.port != "" else []
        options = [word for name, value in spec.options.items() for word in (name, str(value))]
        yield parse_words(["server", str(number), *place, *options])


def _calls_of_commands(arguments: dict[str, Any]) -> Iterator[Call]:
    for flag in ("-O", "-o"):
        for line in arguments[flag]:
            call = parse_line(line, f"{flag} '{line}'")
            if call is None:
                continue
            if not call.command.configures:
                raise call.error("this command can't stand in a configuration; it is for the control socket")
            if call.command.name == "include":
                yield from read_file(call["file"])
            elif call.arguments or call.command.setting is None:
                yield call


def _check(configuration: Configuration) -> None:
    """Raises ScriptError or StartError for what can't work, though each line is right."""
    settings, pool = configuration.settings, configuration.pool
    if not settings.listen:
        raise ScriptError("no address to listen on: give LISTEN, or a file (-F) with 'listen'; see gpen --help")
    if not (pool.servers or settings.emergency or settings.dummy or settings.control):
        raise ScriptError("no server: give at least one SERVER, or a file (-F) with 'server 0 address ...'")
    if settings.control and "/" not in settings.control and os.geteuid() == 0 and not settings.user:
        raise ScriptError(f"control: will not open the control port '{settings.control}' as root: give a user to "
                          "change to (-u USER), or use a unix socket (-C /PATH)")
    configuration.check()
    if settings.ssl_key and not settings.ssl_certificate:
        log.warning("ssl_key: without a certificate (-E FILE) there is no TLS")
    process.check_user(settings)
    for name in ("log", "pid_file", "web_stats"):
        if name != "log" or not network_address(settings.log or ""):
            check_directory(name, settings.get(name))
    check_extras(settings)


def _check_names(configuration: Configuration) -> Endpoints:
    """The endpoints of the servers. Raises ScriptError for a name of a host or a service that does not exist."""
    settings = configuration.settings
    endpoints = Names(configuration.pool, settings).resolve(configuration, patient=True)
    log_address = network_address(settings.log or "")
    for name, address in (("listen", settings.listen and parse_listen(settings.listen)), ("log", log_address),
                          ("control", settings.control and parse_listen(settings.control))):
        try:
            if address:
                resolve(address, settings.timeout, name == "log" or (settings.udp and name == "listen"))
        except ResolveError as error:
            raise ScriptError(f"{name}: {error}") from None
    return endpoints


def _check_places(configuration: Configuration, endpoints: Endpoints) -> None:
    """Raises ScriptError for a server that is gpen itself."""
    settings = configuration.settings
    listening = resolve(parse_listen(settings.listen or ""), settings.timeout, settings.udp)[0]
    ownaddress.refuse(configuration.pool.all_servers(), endpoints, listening, configuration.origins)


def _check_files(settings: Settings) -> None:
    """Raises ScriptError for certificates, keys or a country database that can't be used."""
    outside = process.Jail()
    make_terminator(settings, outside)
    open_countries(settings, outside)


def run(configuration: Configuration, file: str | None, command_line: str) -> int:
    """Become the daemon, or stay in the foreground, and serve until stopped; returns the exit status."""
    detached = None if configuration.settings.foreground else process.detach()
    process.hold_signals()
    status = FAILED
    try:
        status = _serve(Balancer(configuration, file, command_line), detached)
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


def _serve(balancer: Balancer, detached: process.Detached | None) -> int:
    settings = balancer.settings
    pid_file = process.PidFile(settings.pid_file) if settings.pid_file else None
    syslog = process.syslog() if detached is not None else None  # while /dev/log is in sight
    try:
        process.raise_descriptor_limit(settings)
        try:
            balancer.open()
            balancer.jail = process.confine(settings, _files_of(balancer, pid_file))
        except BaseException:
            balancer.close()  # or the socket files of those that are open stay behind
            raise
        balancer.serve(lambda: _announce(balancer, detached, syslog))
        log.info("gpen ended")
    finally:
        if pid_file is not None:
            pid_file.remove(balancer.jail)
    return 0


def _announce(balancer: Balancer, detached: process.Detached | None, syslog: logging.Handler | None) -> None:
    """Clients are served from now on: let the command return, in the background."""
    if detached is not None and syslog is not None:
        process.tell(syslog)
        detached.quiet()
        detached.report(0)
    log.info("gpen %s listens on %s", __version__, balancer.listen_address)


def _files_of(balancer: Balancer, pid_file: process.PidFile | None) -> list[str | int]:
    """What must belong to the user that gpen runs as: files to reopen, sockets and the pid file to remove."""
    settings = balancer.settings
    files: list[str | int] = [pid_file.fileno()] if pid_file is not None else []
    if isinstance(balancer.session_log, SessionLog):
        files.append(balancer.session_log.fileno())
    return files + [path for path in (settings.listen or "", settings.control or "") if "/" in path]


def _complain(error: object, status: int) -> int:
    print(f"gpen: {error}", file=sys.stderr)
    return status
