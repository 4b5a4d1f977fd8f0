"""What has changed in a file since it was read last, and what that does to what is in force."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given

from gpen.control.configuration import Configuration
from gpen.control.script import ScriptError, read_lines
from gpen.control.sources import Sources
from gpen.model.settings import SETTINGS
from tests.control.test_configuration import scripts, state_of
from tests.scripts import parse_lines


class Running:
    """A configuration that came from a command line and a file, as gpen has it."""

    def __init__(self, given: Iterable[str] = (), file: Iterable[str] = ()) -> None:
        self.sources = Sources("gpen.cfg")
        self.sources.give(read_lines(given, "-O"))
        self.sources.said = self.sources.read(read_lines(file, "gpen.cfg"))
        self.configuration = Configuration(lambda: 1000.0, lambda: 1e9)
        self.configuration.adopt(self.sources.given)
        self.configuration.adopt(self.sources.said)

    def run(self, *lines: str) -> None:
        for call in parse_lines(lines, "control"):
            self.configuration.run(call)

    def reload(self, *lines: str) -> list[str]:
        """The file has these lines now; what was changed."""
        said = self.sources.read(read_lines(lines, "gpen.cfg"))
        difference = self.sources.difference(said, self.configuration)
        changes = list(difference.find())
        self.configuration.adopt(difference.draft)
        self.sources.said = said
        return changes + difference.waiting

    def value(self, name: str) -> object:
        return self.configuration.settings.get(name)

    @property
    def dump(self) -> list[str]:
        return list(self.configuration.dump())


AT_START = {setting.name for setting in SETTINGS.values() if setting.startup}
SERVERS = ["server 0 address 10.0.0.1 port 80", "server 1 address 10.0.0.2 port 80 max 5"]


def test_a_setting_that_comes_changes_and_goes() -> None:
    running = Running()
    assert running.reload("timeout 5") == ["timeout 5 (was 3)"]
    assert running.reload("timeout 6", "hash") == ["hash (was off)", "timeout 6 (was 5)"]
    assert running.reload() == ["no hash (was on)", "timeout 3 (was 6)"]
    assert running.dump == []


def test_what_went_has_the_command_lines_value_again() -> None:
    running = Running(["timeout 7", "server 0 address www port 80 max 3"],
                      ["timeout 5", "server 0 max 9 weight 2"])
    assert running.reload() == ["timeout 7 (was 5)", "server 0 max 3 weight 1 (was max 9 weight 2)"]
    assert running.dump == ["timeout 7", "server 0 address www port 80 max 3"]


def test_an_unchanged_file_changes_nothing() -> None:
    file = ["timeout 5", *SERVERS, "acl 1 permit 10.0.0.0/8", "server 1 blacklist 30", "ssl_option no_ticket"]
    running = Running(file=file)
    running.run("timeout 9", "server 1 max 7 state drain", "server 0 health down because watched", "acl 1 deny ::1",
                "no ssl_option", "server 1 blacklist 0", "server 2 address 10.0.0.3 port 80")
    before, events = state_of(running.configuration), list(running.configuration.pool.events)
    assert running.reload(*file) == []
    assert (state_of(running.configuration), list(running.configuration.pool.events)) == (before, events)


def test_what_the_file_never_mentioned_stays() -> None:
    running = Running(file=["timeout 5", *SERVERS])
    running.run("blacklist 9", "server 1 weight 4", "server 7 address 10.0.0.7 port 80", "acl 3 permit 10.0.0.3")
    running.reload("timeout 6", *SERVERS)
    assert running.dump == ["blacklist 9", "timeout 6", "no acl 3", "acl 3 permit 10.0.0.3", SERVERS[0],
                            f"{SERVERS[1]} weight 4", "server 7 address 10.0.0.7 port 80"]


def test_a_line_counts_when_it_is_new_whatever_was_done_at_runtime() -> None:
    running = Running(file=["timeout 5"])
    running.run("timeout 9", "tracking 100")
    assert running.reload("timeout 5", "tracking 0") == ["tracking 0 (was 100)"]
    assert running.value("timeout") == 9


def test_servers_come_change_and_go() -> None:
    running = Running(file=SERVERS)
    assert running.reload(SERVERS[0], "server 2 address www port 81 prio 2", "server 1 address 10.0.0.2 port 80") == [
        "server 1 max 0 (was max 5)", "server 2 address www port 81 prio 2 (new)"]
    assert running.reload("server 2 address www port 82 prio 2") == [
        "no server 0", "no server 1", "server 2 address www port 82 (was address www port 81)"]
    assert running.dump == ["server 2 address www port 82 prio 2"]


def test_a_server_keeps_what_the_file_says_nothing_of() -> None:
    running = Running(file=SERVERS)
    server = running.configuration.pool.servers[1]
    running.run("server 1 weight 9 state drain")
    running.reload(SERVERS[0], "server 1 address 10.0.0.2 port 80 max 6")
    assert running.configuration.pool.servers[1] is server
    assert (server.max, server.weight, server.state) == (6, 9, "drain")


def test_a_server_that_was_deleted_at_runtime() -> None:
    running = Running(file=SERVERS)
    running.run("no server 1")
    assert running.reload(*SERVERS, "timeout 4") == ["timeout 4 (was 3)"]
    assert running.reload(SERVERS[0], "timeout 4") == [], "it is gone already"
    assert running.reload(SERVERS[0], f"{SERVERS[1]} weight 3", "timeout 4") == [f"{SERVERS[1]} weight 3 (new)"]


def test_the_file_takes_a_server_of_the_command_line_away_and_gives_it_back() -> None:
    running = Running(SERVERS, ["no server 0"])
    assert running.dump == SERVERS[1:]
    assert running.reload() == [f"{SERVERS[0]} (new)"]
    assert running.reload("no server 1") == ["no server 1"]
    assert running.dump == SERVERS[:1]


def test_a_list_whose_lines_changed_is_built_anew() -> None:
    running = Running(["acl 1 permit 192.0.2.1"], ["acl 1 permit 10.0.0.1", "acl 2 deny ::1"])
    running.run("acl 1 deny 10.9.9.9", "acl 2 deny ::9")
    assert running.reload("acl 1 deny 10.0.0.1", "acl 2 deny ::1") == [
        "acl 1: 2 entries (had 3): + deny 10.0.0.1, - permit 10.0.0.1, - deny 10.9.9.9"]
    assert running.dump == ["no acl 1", "acl 1 permit 192.0.2.1", "acl 1 deny 10.0.0.1", "no acl 2", "acl 2 deny ::1",
                            "acl 2 deny ::9"]
    assert running.reload("acl 2 deny ::1") == ["acl 1: 1 entry (had 2): - deny 10.0.0.1"]
    assert running.reload() == ["acl 2: 0 entries (had 2): - deny ::1, - deny ::9"]
    assert running.dump == ["no acl 1", "acl 1 permit 192.0.2.1"]


def test_words_that_add_up_are_replaced() -> None:
    running = Running(["ssl_option no_ticket"], ["ssl_option no_tlsv1.2"])
    assert running.value("ssl_option") == ("no_ticket", "no_tlsv1.2")
    running.reload("ssl_option cipher_server_preference")
    assert running.value("ssl_option") == ("no_ticket", "cipher_server_preference")
    running.reload()
    assert running.value("ssl_option") == ("no_ticket",)


def test_what_is_done_to_servers_is_done_once_and_undone() -> None:
    running = Running(file=SERVERS)
    pool = running.configuration.pool
    down = [*SERVERS, "server 1 health down because of rain", "server 0 blacklist 60"]
    assert running.reload(*down) == ["server 0 blacklist 60", "server 1 health down because of rain"]
    assert [server.target.is_down for server in pool.servers.values()] == [True, True]
    running.run("server 0 blacklist 0", "server 1 health up")
    assert running.reload(*down) == []
    assert running.reload(*SERVERS) == ["server 0 blacklist 0", "server 1 health unknown"]
    assert [server.target.is_down for server in pool.servers.values()] == [False, False]
    assert not pool.servers[1].verdicts
    assert running.reload(*SERVERS, "server 1 health drain because busy") == ["server 1 health drain because busy"]
    assert pool.servers[1].drained == "busy"


def test_settings_of_the_start_wait_for_it() -> None:
    running = Running(["pid_file x"])
    assert running.reload("pid_file y", "user nobody") == ["user nobody: counts at the next start only"], \
        "where the process itself is concerned, the command line wins"
    assert (running.value("user"), running.value("pid_file")) == (None, "x")


def test_special_servers() -> None:
    running = Running(["listen 80"])
    assert running.reload("emergency 10.0.0.9") == ["emergency 10.0.0.9:80 (was unset)"]
    emergency = running.configuration.pool.special["emergency"]
    running.reload("emergency 10.0.0.9:80:5")
    assert running.configuration.pool.special["emergency"] is emergency and emergency.max == 5
    assert running.reload() == ["no emergency (was 10.0.0.9:80:5)"]
    assert not running.configuration.pool.special


def test_a_wrong_file_tells_all_that_is_wrong_and_changes_nothing() -> None:
    running = Running(file=SERVERS)
    before = state_of(running.configuration)
    with pytest.raises(ScriptError) as caught:
        running.reload("timeout soon", "server 9 max 4", "bogus", "timeout 4")
    assert [str(error).partition(":")[2][:1] for error in caught.value.errors] == ["1", "2", "3"]
    assert state_of(running.configuration) == before


@given(scripts, scripts, scripts)
def test_a_reload_is_as_a_start_with_the_new_file(line: list[str], before: list[str], after: list[str]) -> None:
    """Where nothing was done at runtime, and but for what counts at start only."""
    started, running = Running(line, after), Running(line, before)
    running.reload(*after)
    for name in AT_START:
        started.configuration.settings.replace(name, running.value(name))
    assert state_of(running.configuration) == state_of(started.configuration)


@given(scripts, scripts, scripts)
def test_what_is_written_starts_the_same(line: list[str], file: list[str], runtime: list[str]) -> None:
    """With the same command line, and without it; and read again it changes nothing."""
    running = Running(line, file)
    running.run(*(line for line in runtime if line.removeprefix("no ").split()[0] not in AT_START))
    written = list(running.configuration.dump(running.sources.given))
    assert state_of(Running(line, written).configuration) == state_of(running.configuration)
    assert state_of(Running([], written).configuration) == state_of(running.configuration)


def test_what_routes_remember() -> None:
    """A line of a client is for its listener, or for one route; one that goes is forgotten there alone."""
    lines = [*SERVERS, "route sni a.example servers 0-1"]
    running = Running(file=lines)
    said = ["client 192.0.2.1 server 0", "client 192.0.2.1 server 1 route sni a.example"]
    assert running.reload(*lines, *said) == said
    assert [line.replace(" idle 0.000", "") for line in running.configuration.state()] == said
    assert running.reload(*lines, said[0]) == ["no client 192.0.2.1 route sni a.example"]
    assert [line.replace(" idle 0.000", "") for line in running.configuration.state()] == said[:1]
