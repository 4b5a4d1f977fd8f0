"""What is wrong about a listener is told in one line: which listener, which value, and what would be right."""

from __future__ import annotations

import re

import pytest

from gpen.control.configuration import Configuration
from gpen.control.draft import Draft
from gpen.control.script import ScriptError, parse_configuring, parse_line
from tests.scripts import parse_lines

LINES = ("listen 127.0.0.1:80", "server 0 address 10.0.0.1 port 81", "server 1 address /run/www",
         "listener web listen 127.0.0.1:8080", "listener dns listen 127.0.0.1:53", "listener dns tracking_with web")


def problem_of(line: str) -> str:
    """What is said of a line that is wrong there."""
    draft = Draft(Configuration(lambda: 1000.0, lambda: 1e9))
    draft.run_all(parse_lines(LINES, "test"))
    draft.check()
    with pytest.raises(ScriptError) as problem:
        call = parse_line(line)
        assert call is not None
        draft.run(call)
        draft.check()
    (told,) = problem.value.told()
    return told


@pytest.mark.parametrize(("line", "told"), [
    # the name
    ("listener", "listener: expected NAME and a COMMAND: listener NAME listen [HOST:]PORT, say"),
    ("listener web", "listener web: expected a command behind the name: listener web listen [HOST:]PORT, say"),
    ("listener 'a b' listen 80", "listener: ''a' is not a name for a listener: expected letters, digits and _ . -, at "
     "most 32, a letter or digit first"),
    ("listener - servers", "listener -: it is the one without a name: say the command without 'listener -'"),
    ("no listener", "no listener: expected no listener NAME"),
    ("no listener web listen", "no listener: 'listen' is too much: expected no listener NAME"),
    ("listener mail client 10.0.0.1 server 0", "listener mail: there is no listener of this name (known: web, dns)"),
    ("listener mail http", "listener mail: it has no address, and there is no such listener unless it gets one: "
     "'listener mail listen [HOST:]PORT' (others: web, dns)"),
    # the command
    ("listener web no", "listener web: no: expected the name of a command"),
    ("listener web foo", "listener web: unknown command 'foo': 'help listener' tells what may stand there"),
    ("listener web no foo", "listener web: unknown command 'foo': 'help listener' tells what may stand there"),
    ("listener web no no", "listener web: unknown command 'no': 'help listener' tells what may stand there"),
    ("listener web sever 0 max 3", "listener web: unknown command 'sever'; did you mean 'server'?"),
    ("listener web listenres", "listener web: unknown command 'listenres'; did you mean 'listen'?"),
    ("listener web debug 2", "listener web: debug: it is of the whole gpen, not of one listener: say it without "
     "'listener web'"),
    ("listener web no acl 1", "listener web: acl: it is of the whole gpen, not of one listener: say it without "
     "'listener web'"),
    ("listener web no servers", "listener web: no servers: there is no such command: listener web servers [json] | "
     "listener web servers NUMBERS|all"),
    ("listener web no events", "listener web: no events: there is no such command: events [N] [json]"),
    ("listener web close 3", "listener web: close: expected server N, or address ADDRESS: a session is closed by its "
     "number alone, 'close N'"),
    # its address
    ("listener web no listen", "listener web: no listen: a listener needs an address; 'no listener web' closes it"),
    ("listener web listen 80,443,8443", "listener web: listen: '80,443,8443' are several addresses: expected 80, and "
     "each other as a listener of its own: 'listener NAME listen 443'"),
    ("listener web listen 53/udp", "listener web: listen: '53/udp' names a transport: expected 53, and 'udp' in a line "
     "of its own"),
    ("listener web listen [::1]:53/tcp", "listener web: listen: '[::1]:53/tcp' names a transport: expected [::1]:53, "
     "and 'no udp' in a line of its own"),
    ("listener web listen 127.0.0.1:80", "listener web: listen: 127.0.0.1:80 is where the listener without a name "
     "listens: give it another address"),
    ("listener mail listen 127.0.0.1:8080", "listener mail: listen: 127.0.0.1:8080 is where listener web listens: give "
     "it another address"),
    # its servers
    ("listener web servers 5-2", "listener web: servers: '5-2' is not a number or a range of numbers: expected "
     "something like 0-2,5, or all"),
    ("listener web servers 1,,2", "listener web: servers: '1,,2' is not a number or a range of numbers: expected "
     "something like 0-2,5, or all"),
    ("listener web servers 0-200000", "listener web: servers: '0-200000' is more than 100,000 numbers"),
    ("listener web server 99 max 3", "listener web: server 99: there is no server 99 (known: 0, 1)"),
    ("listener web server 1 port 80", "listener web: server 1: it is the unix socket /run/www, which has no port"),
    ("listener web server 0", "listener web: server: expected N, the number of a server, and what is different of "
     "it: max, weight, prio, port"),
    ("listener web server 0 hard 3", "listener web: server: 'hard' is not one of max, weight, prio, port: what else a "
     "server has is the same for all listeners"),
    ("listener web server 0 max", "listener web: server: max: expected a value, or default"),
    ("listener web server 0 max many", "listener web: server: max: 'many' is not a whole number from 0 to 2147483647"),
    ("listener web server 0 port 0", "listener web: server: port: nobody listens at port 0: expected 1 to 65535, or "
     "default"),
    # what it shares
    ("listener web inherit", "listener web: inherit: expected the name of a setting, or server N"),
    ("listener web inherit server", "listener web: inherit: expected the name of a setting, or server N"),
    ("listener web inherit foo", "listener web: inherit: 'foo' is not a setting"),
    ("listener web inherit timeoot", "listener web: inherit: 'timeoot' is not a setting; did you mean 'timeout'?"),
    ("listener web inherit debug", "listener web: inherit: debug: it is of the whole gpen, not of one listener, and "
     "there is nothing to inherit"),
    ("listener web inherit listen", "listener web: inherit: listen: it is of each listener alone, and there is nothing "
     "to inherit"),
    ("listener web inherit http now", "listener web: inherit: 'now' is too much: expected the name of a setting, or "
     "server N"),
    ("listener web inherit server 0 1", "listener web: inherit: '1' is too much: expected server N"),
    ("listener web tracking_with mail", "listener web: tracking_with: there is no listener 'mail' (known: -, web, "
     "dns)"),
    ("listener web tracking_with web", "listener web: tracking_with: leads in a circle, web to web: one of them needs "
     "a memory of its own"),
    ("listener web tracking_with dns", "listener web: tracking_with: leads in a circle, web to "
     "dns to web: one of them needs a memory of its own"),
])
def test_a_wrong_line(line: str, told: str) -> None:
    assert problem_of(line) == told


def test_a_line_of_a_file_tells_where_it_stands() -> None:
    with pytest.raises(ScriptError, match=re.escape("web.cfg:3: listener web: no: expected")):
        parse_line("listener web no", "web.cfg:3")


@pytest.mark.parametrize(("line", "needed"), [
    ("listener web servers", "servers NUMBERS, or all"), ("listener web listen", "listen ADDRESS"),
    ("listener web timeout", "timeout S")])
def test_what_only_asks_makes_no_configuration(line: str, needed: str) -> None:
    with pytest.raises(ScriptError, match=f": needs a value: {needed}$"):
        parse_configuring(line, "web.cfg:3")


def test_several_may_listen_at_any_port_that_is_free() -> None:
    draft = Draft(Configuration(lambda: 1000.0, lambda: 1e9))
    draft.run_all(parse_lines(["listen 127.0.0.1:0", "listener a listen 127.0.0.1:0", "listener b listen 0"], "test"))
    draft.check()
