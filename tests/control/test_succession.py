"""What a gpen has that takes the place of another: what that was told at runtime, unless its own command line and file
say something else."""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import given

from gpen.control.configuration import Configuration
from gpen.control.script import read_lines
from gpen.control.sources import Sources
from gpen.control.succession import Estate, told_at_start
from tests.control.test_configuration import scripts
from tests.scripts import parse_lines

SERVERS = ("listen 80", "server 0 address 10.0.0.1 max 5", "server 1 address 10.0.0.2")


def sources(given: Iterable[str], file: Iterable[str] = ()) -> Sources:
    found = Sources("gpen.cfg")
    found.give(read_lines(given, "-O"))
    found.said = found.read(read_lines(file, "gpen.cfg"))
    return found


def running(origin: Sources, *lines: str) -> Configuration:
    """What a gpen has that was started so and told these lines."""
    configuration = Configuration(lambda: 1000.0, lambda: 1e9)
    configuration.adopt(origin.given)
    configuration.adopt(origin.said)
    for call in parse_lines(lines, "control"):
        configuration.run(call)
    return configuration


def merged(origin: Sources, old: Configuration, own: Sources) -> list[str]:
    """What the one with sources of its own has in the place of the other, as commands."""
    configuration = Configuration(lambda: 1000.0, lambda: 1e9)
    configuration.adopt(Estate(told_at_start(origin), old.dump()).merged(own))
    return list(configuration.dump())


@given(scripts)
def test_the_same_arguments_give_what_runs(lines: list[str]) -> None:
    origin = sources(SERVERS)
    old = running(origin)
    for call in parse_lines(lines, "control"):
        if call.command.setting is None or not call.command.setting.startup:  # which nobody can say at runtime
            old.run(call)
    try:
        expected = list(old.dump())
        found = merged(origin, old, sources(SERVERS))
    except Exception as error:
        assert type(error).__name__.startswith("ScriptError"), error  # what draft.check() refuses in any start
        return
    assert found == expected


def test_what_is_said_otherwise_counts() -> None:
    """Field by field, and setting by setting."""
    origin = sources(SERVERS, ["timeout 4", "blacklist 9", "acl 1 permit 10.0.0.1"])
    old = running(origin, "server 0 max 50", "server 0 weight 7", "timeout 2", "blacklist 8", "hold 6", "no server 1",
                  "acl 1 deny 10.0.0.2")
    own = sources(["listen 80", "server 0 address 10.0.0.1 max 6", "server 1 address 10.0.0.2"],
                  ["timeout 5", "blacklist 9", "acl 1 permit 10.0.0.1"])
    found = merged(origin, old, own)
    assert "server 0 address 10.0.0.1 port 80 max 6 weight 7" in found
    assert {"timeout 5", "blacklist 8", "hold 6", "acl 1 deny 10.0.0.2"} <= set(found)
    assert not any(line.startswith("server 1") for line in found)


def test_a_line_that_went_is_undone() -> None:
    origin = sources(SERVERS, ["timeout 4", "server 7 address 10.0.0.7"])
    old = running(origin, "server 0 state drain")
    found = merged(origin, old, sources(SERVERS))
    assert not any(line.startswith(("timeout", "server 7")) for line in found)
    assert "server 0 address 10.0.0.1 port 80 max 5 state drain" in found


def test_what_counts_at_the_start_only_is_the_own() -> None:
    origin = sources([*SERVERS, "pid_file /run/old.pid", "control /run/gpen.ctl"])
    found = merged(origin, running(origin), sources([*SERVERS, "control /run/gpen.ctl", "foreground"]))
    assert {"foreground", "control /run/gpen.ctl"} <= set(found)
    assert not any(line.startswith("pid_file") for line in found)


def test_observations_are_of_servers_that_are_the_same() -> None:
    """Not those that have another address here, nor the operator's word, which the configuration has."""
    origin = sources(SERVERS)
    old = running(origin, "server 0 health down because of the moon", "server 1 health down", "server 0 state drain",
                  "client 192.0.2.1 server 0 idle 5", "client 192.0.2.2 server 1 idle 5")
    estate = Estate(told_at_start(origin), old.dump())
    own = sources(["listen 80", "server 0 address 10.0.0.1 max 5 state maint", "server 1 address 10.9.9.9"])
    new = Configuration(lambda: 1000.0, lambda: 1e9)
    new.adopt(estate.merged(own))
    new.adopt(estate.observations(old.state(), new))
    assert list(new.state()) == [
        "server 0 state maint", 'server 0 health down for 0.000 because "of the moon"',
        "client 192.0.2.1 server 0 idle 5.000"]
