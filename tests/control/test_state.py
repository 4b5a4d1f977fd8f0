"""What `state` prints: a configuration that runs it, on top of what `write` saves, is where the first one was."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gpen.control.configuration import Configuration
from gpen.control.draft import Draft
from gpen.control.script import ScriptErrors, parse_line, read_lines
from gpen.model.address import Endpoint
from gpen.model.client import ClientTable
from gpen.model.server import VERDICTS, Server

SERVERS = [f"server {number} address 10.0.0.{number} port 80" for number in range(4)]


def quarters(seconds: float) -> int:
    """As time passes here, and as many as can be told apart."""
    return round(4 * seconds)


class World:
    """A configuration under a clock that is turned by hand."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now
        self.configuration = Configuration(lambda: self.now, lambda: self.now + 5e8)

    def run(self, *lines: str) -> World:
        draft = Draft(self.configuration)
        draft.run_all(read_lines(lines, "test"))
        self.configuration.adopt(draft)
        for server in self.pool.servers.values():
            for target in server.targets.values():
                self.pool.resolved(target, [Endpoint(2, (str(target.address), 80), str(target.address), 80)])
        return self

    @property
    def pool(self) -> Any:
        return self.configuration.pool

    def again(self) -> World:
        """Another one that has run what this one would write and print."""
        other = World(self.now).run(*self.configuration.dump(), *self.configuration.state())
        other.now += 0.002  # in which a blacklist that is over has ended there as well
        return other

    def seen_ways(self, server: Server) -> Any:
        """How a server is, however it is reached."""
        return {way: (
            target.health(self.now), target.reason,
            quarters(target.down_until - self.now) if target.down_until > self.now else bool(target.down_until),
            target.blamed == math.inf)
            for way, target in server.targets.items()}

    def seen(self) -> Any:
        """All that decides about clients, times as they are from now."""
        servers = {number: (
            server.state, server.condemned, server.drained, self.seen_ways(server),
            {source: (verdict.word, verdict.reason, quarters(self.now - verdict.began))
             for source, verdict in server.verdicts.items()})
            for number, server in self.pool.servers.items()}
        clients = {name: seen_clients(scope.clients, self.now) for name, scope in self.configuration.scopes.items()}
        return servers, clients


def seen_clients(clients: ClientTable, now: float) -> list[tuple[str, int | None, int]]:
    return [(client.address, client.server.number, quarters(now - client.last))
            for client in clients if client.server is not None and not client.server.deleted]


def test_each_thing_that_write_does_not_save() -> None:
    world = World().run(*SERVERS, "server 0 state drain", "server 1 health down because it rains",
                        "server 2 blacklist 60", "client 192.0.2.1 server 1", "client 2001:db8::7 server 3")
    world.pool.health.judge(world.pool.servers[2], "check", "down", "refused")
    world.pool.health.blame(world.pool.servers[3].target, "connection refused")
    world.now += 7.5
    world.run("client 192.0.2.2 server 0")
    assert list(world.configuration.state()) == [
        "server 0 state drain",
        'server 1 health down for 7.500 because "it rains"',
        "server 2 checked down for 7.500 because refused", "server 2 blacklist 52.500",
        'server 3 failed 22.500 because "connection refused"',
        "client 192.0.2.1 server 1 idle 7.500", "client 2001:db8::7 server 3 idle 7.500",
        "client 192.0.2.2 server 0 idle 0.000"]
    assert world.again().seen() == world.seen()


def test_what_routes_remember() -> None:
    """Each by itself, behind what its listener does; another listener may share that's memory, but not these."""
    world = World().run(*SERVERS, "route sni a.example servers 0-1", "listen 80", "listener web listen 81",
                        "listener web tracking_with -", "listener web route alpn h2 servers 2-3",
                        "client 192.0.2.1 server 1 idle 9", "client 192.0.2.1 server 0 idle 7 route sni A.example.",
                        "client 192.0.2.1 server 3 idle 5 route default", "client 192.0.2.9 server 2 idle 4",
                        "listener web client 192.0.2.1 server 3 route alpn h2",
                        "client 192.0.2.9 server 1 route default", "client 192.0.2.9 server 2 idle 4")
    lines = ["client 192.0.2.1 server 1 idle 9.000", "client 192.0.2.9 server 2 idle 4.000",
             "client 192.0.2.1 server 0 idle 7.000 route sni a.example",
             "client 192.0.2.1 server 3 idle 5.000 route default",
             "listener web client 192.0.2.1 server 3 idle 0.000 route alpn h2"]
    assert list(world.configuration.state()) == lines
    assert [line.rpartition(".002")[0] + ".000" + line.rpartition(".002")[2]
            for line in world.again().configuration.state()] == lines
    assert list(world.run("no server 0", "no client 192.0.2.9").configuration.state()) == [lines[0], *lines[3:]]
    for changes in (["client 192.0.2.1 server 2"], ["no listener web", "no route"]):
        assert list(world.run(*changes).configuration.state()) == ["client 192.0.2.1 server 2 idle 0.000"]


def test_times_as_long_as_can_be_said() -> None:
    """What is printed can be read, whoever means for ever by so many seconds."""
    most = "9" * 12
    world = World().run(*SERVERS, f"server 0 blacklist {most}", f"server 1 health down for {most}",
                        f"client 192.0.2.1 server 1 idle {most}")
    world.now += 100
    state, condemned, _, ways, _ = world.again().seen()[0][0]
    assert (state, ways["tcp", None][0], condemned) == ("ready", "down", "")
    assert len(list(world.again().configuration.state())) == 3


ADDRESSES = st.sampled_from(("192.0.2.1", "192.0.2.2", "2001:db8::1", "unix"))
NUMBERS = st.integers(0, 3)
LISTENERS = st.sampled_from(("", "listener web ", "listener dns "))
REASONS = st.sampled_from(("it rains", "x", 'a "quoted" word', "down for 3 because", "# no comment", "\\", "because"))
STEPS = st.one_of(
    st.builds(lambda n, state: ("run", f"server {n} state {state}"), NUMBERS, st.sampled_from(("ready", "drain"))),
    st.builds(lambda n, seconds: ("run", f"server {n} blacklist {seconds}"), NUMBERS, st.sampled_from((0, 5, 60))),
    st.builds(lambda who, a, n: ("run", f"{who}client {a} server {n}"), LISTENERS, ADDRESSES, NUMBERS),
    st.builds(lambda who, a: ("run", f"{who}no client {a}"), LISTENERS, ADDRESSES),
    st.builds(lambda n, s, w, r: ("judge", n, s, w, r), NUMBERS, st.sampled_from(("check", "command")),
              st.sampled_from(VERDICTS), REASONS),
    st.builds(lambda n, way, r: ("blame", n, way, r), NUMBERS, st.integers(0, 2), REASONS),
    st.builds(lambda n, way: ("restore", n, way), NUMBERS, st.integers(0, 2)),
    st.builds(lambda seconds: ("wait", seconds), st.sampled_from((0.25, 4, 40))))


@given(steps=st.lists(STEPS, max_size=12))
@example(steps=[("run", "server 2 blacklist 5"), ("wait", 40), ("blame", 2, 0, "it rains")])
@example(steps=[("run", "server 2 blacklist 60"), ("restore", 2, 0), ("wait", 4)])
@example(steps=[("run", "server 2 blacklist 60"), ("restore", 2, 1), ("blame", 2, 0, "x")])
def test_any_state(steps: list[tuple[Any, ...]]) -> None:
    world = World().run(*SERVERS, "blacklist 30", "clients_max 3", "listen 80", "listener web listen 81",
                        "listener web server 1 port 81", "listener dns listen 53", "listener dns udp",
                        "listener dns servers 1-2")
    for step, *values in steps:
        if step == "run":
            world.run(*values)
        elif step == "wait":
            world.now += values[0]
        elif step == "blame":
            number, way, reason = values
            targets = list(world.pool.servers[number].targets.values())
            world.pool.health.blame(targets[way % len(targets)], reason)
        elif step == "restore":
            number, way = values
            targets = list(world.pool.servers[number].targets.values())
            world.pool.health.restore(targets[way % len(targets)], "a connection succeeded")
        else:
            number, *said = values
            world.pool.health.judge(world.pool.servers[number], *said)
    again = world.again()
    assert again.seen() == world.seen()
    assert again.again().seen() == world.seen()


def errors_of(lines: Iterable[str]) -> str:
    with pytest.raises(ScriptErrors) as failed:
        World().run(*lines)
    return str(failed.value)


@pytest.mark.parametrize(("line", "said"), [
    ("client 192.0.2.1 server 9", "client: there is no server 9 (known: 0-3)"),
    ("client www.example.com server 1", "client: 'www.example.com' is not an IPv4 or IPv6 address"),
    ("client 192.0.2.1 at 1", "client: expected client ADDRESS server N [idle SECONDS]"),
    ("client 192.0.2.1 server 1 idle", "client: 'idle' is not expected here: expected client ADDRESS server N"),
    ("client 192.0.2.1 server 1 idle 1 x", "client: 'x' is not expected here"),
    ("client 192.0.2.1 server 1 route", "client: '' is not sni, alpn, host or default"),
    ("client 192.0.2.1 server 1 route sni", "client: sni: expected a name"),
    ("client 192.0.2.1 server 1 route sni a.example", "client: there is no route 'sni a.example' (known: none)"),
    ("client 192.0.2.1 server 1 route default", "client: there is no route 'default' (known: none)"),
    ("no client", "no client: expected no client ADDRESS"),
    ("server 0 health down for", "server: health: for: expected SECONDS"),
    ("server 0 health down for ever", "server: health: 'ever' is not a number of seconds"),
    ("server 0 failed 0", "server: failed: '0' is not a number of seconds above 0"),
    ("server 0 checked well", "server: checked: 'well' is not up, drain, down or unknown")])
def test_what_is_wrong(line: str, said: str) -> None:
    assert said in errors_of([*SERVERS, line])


def test_a_client_of_a_server_that_is_deleted_in_the_same_change() -> None:
    world = World().run(*SERVERS, "client 192.0.2.1 server 1")
    world.run("client 192.0.2.1 server 2", "no server 2")
    assert world.seen()[1] == {"": []}


def test_it_is_for_looking() -> None:
    call = parse_line("state")
    assert call is not None and call.command.access == "view"
