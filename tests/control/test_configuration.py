"""Configurations: dump() and running what it gives are inverse, and a line that makes no sense changes nothing."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from gpen.control.configuration import Configuration
from gpen.control.draft import Draft
from gpen.control.script import ScriptError, read_file, read_lines
from gpen.model import value_types as types
from gpen.model.listener import Scope
from gpen.model.server import STATES
from gpen.model.settings import SETTINGS, Setting, quote
from tests.scripts import all_of, parse_lines

SERVER_FIELDS = ("number", "name", "address", "max", "hard", "weight", "prio", "acl", "state", "owner", "check",
                 "check_port", "tls", "tls_name")


def configured(*lines: str) -> Configuration:
    configuration = Configuration(lambda: 1000.0, lambda: 1e9)
    for call in parse_lines(lines, "test"):
        configuration.run(call)
    return configuration


def state_of(configuration: Configuration) -> dict[str, Any]:
    """All that can be configured, as plain values."""
    pool = configuration.pool
    return {
        "settings": {name: configuration.settings.get(name) for name in SETTINGS},
        "servers": {n: [getattr(server, field) for field in SERVER_FIELDS] for n, server in pool.servers.items()},
        "special": {n: [getattr(server, field) for field in SERVER_FIELDS] for n, server in pool.special.items()},
        "acls": [access.entries for access in pool.acls],
    }


# --- any configuration -----------------------------------------------------------------------------------------------

words = st.text(min_size=1, max_size=20).filter(str.isprintable)
ports = st.one_of(st.integers(0, 65535).map(str), st.sampled_from(["http", "x-port"]))
hosts = st.one_of(st.ip_addresses().map(str), st.sampled_from(["www", "www-1.example.org", "localhost", "fe80::1%lo"]))
paths = words.map(lambda text: f"/tmp/{text}").filter(lambda path: len(path.encode()) < 100)
numbers = st.one_of(st.integers(0, 9), st.integers(0, types.MOST)).map(str)
durations = st.one_of(st.integers(1, 10**6).map(str), st.decimals("0.000001", 1000, places=6).map(str))


def bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


listens = st.one_of(ports, paths, st.builds(lambda host, port: f"{bracketed(host)}:{port}", hosts, ports))
specs = st.one_of(
    hosts.map(bracketed), paths.filter(lambda path: ":" not in path),
    st.builds(lambda host, port, *options: ":".join([bracketed(host), port, *options]), hosts, ports,
              st.integers(0, 99).map(str), st.integers(0, 99).map(str)))
ranges = st.builds(lambda ip, more: f"{ip}-{ip + more}", st.ip_addresses(network="10.0.0.0/9"), st.integers(0, 99))
sources = st.lists(st.ip_addresses().map(str) | ranges, min_size=1, max_size=3).map(",".join)
VALUES: dict[int, SearchStrategy[str]] = {
    id(types.TEXT): words, id(types.FILE): words, id(types.DIRECTORY): words, id(types.USER): words,
    id(types.SOURCES): sources, id(types.MODE): st.integers(0, 0o777).map(lambda mode: f"{mode:o}"),
    id(types.LISTEN): listens, id(types.CONTROL): listens, id(types.SPEC): specs,
    id(types.ACL): st.integers(0, 9).map(str), id(types.LOG): words | st.just("[::1]:514"),
    id(types.ALPN): st.sampled_from(["h2", "h2,http/1.1"]),
    id(types.RATE): st.builds("{}/{}".format, st.integers(1, 10**6), st.decimals("0.001", 86400, places=3)),
    id(types.BANDWIDTH): st.builds("{}{}".format, st.integers(1, 10**6), st.sampled_from(["", "k", "m", "g"])),
    id(types.TLS_NAME): st.ip_addresses().map(str) | st.sampled_from(["db.example.com", "localhost"]),
    id(types.PROGRAM): words.map(lambda text: f"/bin/{shlex.quote(text)}").filter(
        lambda text: fits(types.PROGRAM, text)),
}
peers = st.builds("{} {}".format, st.sampled_from(["lb1", "lb2", "web.example:b"]), st.builds(
    lambda host, port: f"{bracketed(host)}:{port}", hosts, st.integers(1, 65535)))
checks = st.sampled_from(["connect", 'send "a b" expect \\x00', "agent 9777", "connect agent 9777",
                          'exec "/bin/true \\"a b\\""'])
# of several words; and the example of its help is a value of each setting
WORDS: dict[str, SearchStrategy[str]] = {
    "peers": peers, "peer": peers, "check": checks,
    "route": st.builds(
        "{} {}".format, st.sampled_from(["sni www.example", "sni *.example", "alpn h2", "host [::1]", "default"]),
        st.sampled_from(["reject", "servers all", "servers 0", "servers 0-2,5"])),
    "keepalive": st.tuples(st.integers(1, 32767), st.integers(1, 32767), st.integers(1, 127)).map(
        lambda each: " ".join(map(str, each))),
    "listen_mode": st.sampled_from(["0660", "600 www-data", "0666 :www", "0640 1000:1000"]),
}


def line_of(setting: Setting) -> SearchStrategy[str]:
    unset = st.just(f"no {setting.name}")
    if setting.is_flag:
        return st.one_of(unset, st.just(setting.name))
    told = [st.just(setting.example[setting.example.index(f"{setting.name} "):])] if setting.example else []
    if setting.on is not None:
        told.append(st.just(setting.name))
    if setting.name in WORDS:
        return st.one_of(unset, *told, WORDS[setting.name].map(lambda words: f"{setting.name} {words}"))
    return st.one_of(unset, *told, value_of(setting).map(lambda value: f"{setting.name} {quote(value)}"))


def value_of(setting: Setting) -> SearchStrategy[str]:
    kind = setting.kind
    if kind.choices:
        return st.sampled_from(kind.choices)
    if id(kind) in VALUES:
        return VALUES[id(kind)]
    candidates = durations if kind.metavar == "S" else numbers
    return candidates.filter(lambda text: fits(kind, text))


def fits(kind: types.Kind, text: str) -> bool:
    try:
        kind.parse(text)
    except ValueError:
        return False
    return True


settings_lines = st.one_of([line_of(setting) for setting in SETTINGS.values() if not setting.missing])
networks = st.one_of(
    st.sampled_from(["country SE", "country de"]),
    st.ip_addresses(v=4).map(str), st.ip_addresses(v=6).map(str),
    st.builds(lambda ip, length: f"{ip}/{length}", st.ip_addresses(v=4), st.integers(0, 32)),
    st.builds(lambda ip, length: f"{ip}/{length}",
              st.ip_addresses(v=6).filter(lambda ip: ip.ipv4_mapped is None), st.integers(0, 128)),
    st.builds(lambda ip, mask: f"{ip} {mask}", st.ip_addresses(v=4), st.ip_addresses(v=4)))
acl_lines = st.builds(lambda number, action, network: f"acl {number} {action} {network}", st.integers(0, 9),
                      st.sampled_from(["permit", "deny"]), networks)
options = st.fixed_dictionaries({}, optional={
    "port": ports, "max": numbers, "hard": numbers, "weight": numbers, "prio": numbers,
    "acl": st.integers(0, 9).map(str), "state": st.sampled_from(STATES), "blacklist": durations,
    "owner": st.sampled_from(["discover", "default", "x.y_z-1"]), "check": checks | st.sampled_from(["off", "default"]),
    "check_port": st.sampled_from(["1", "65535", "default"]), "tls": st.sampled_from(["on", "off", "default"]),
    "tls_name": st.sampled_from(["db.example.com", "192.0.2.1", "default"])})


def server_line(number: int, place: str, more: dict[str, str]) -> str:
    """Of a server; a unix socket is checked at no port."""
    more = {**more, "check_port": "default"} if place.startswith("/") else more
    return " ".join([f"server {number} address {quote(place)}", *(f"{key} {value}" for key, value in more.items())])


server_lines = st.builds(server_line, st.integers(0, 5), st.one_of(hosts, paths), options)
scripts = st.lists(st.one_of(settings_lines, acl_lines, server_lines), max_size=25)


@given(scripts, st.sets(st.integers(0, 5)))
def test_dump_and_run_are_inverse(lines: list[str], deleted: set[int]) -> None:
    configuration = configured(*lines)
    present = configuration.pool.servers
    for call in parse_lines([f"no server {number}" for number in deleted if number in present], "test"):
        configuration.run(call)
    copy = configured(*configuration.dump())
    assert list(copy.dump()) == list(configuration.dump())
    assert state_of(copy) == state_of(configuration)


@given(scripts)
def test_a_dump_that_is_run_again_changes_nothing(lines: list[str]) -> None:
    """So it is when a file is read again at HUP: no access list grows."""
    configuration = configured(*lines)
    before = state_of(configuration)
    for call in parse_lines(list(configuration.dump()), "test"):
        configuration.run(call)
    assert state_of(configuration) == before


@given(scripts)
def test_a_dump_can_stand_in_a_file(lines: list[str]) -> None:
    configuration = configured(*lines)
    dumped = list(configuration.dump())
    copy = Configuration(lambda: 1000.0, lambda: 1e9)
    # as write and -F do it, with a file's line ends only between the lines
    for call in parse_lines("".join(f"{line}\n" for line in dumped).split("\n"), "file"):
        copy.run(call)
    assert state_of(copy) == state_of(configuration)


@given(scripts, scripts)
def test_a_draft_changes_nothing(lines: list[str], more: list[str]) -> None:
    configuration = configured(*lines)
    before = state_of(configuration)
    draft = Draft(configuration)
    draft.run_all(read_lines(more, "more"))
    assert state_of(configuration) == before
    other = configured(*lines)
    for call in parse_lines(more, "more"):
        other.run(call)
    configuration.adopt(draft)
    assert state_of(configuration) == state_of(other), "all at once is as one after the other"


def test_a_dump_that_is_read_from_a_file(tmp_path: Path) -> None:
    configuration = configured("listen 80", 'log "/tmp/a \u00fc#c"', "timeout 0.00001", "server 0 address www")
    (tmp_path / "gpen.cfg").write_text("".join(f"{line}\n" for line in configuration.dump()), encoding="utf-8")
    copy = Configuration(lambda: 1000.0, lambda: 1e9)
    for call in all_of(read_file(str(tmp_path / "gpen.cfg"))):
        copy.run(call)
    assert state_of(copy) == state_of(configuration)


# --- single commands -------------------------------------------------------------------------------------------------


def test_servers() -> None:
    pool = configured("listen 80", "server 1 address www", "server 0 address 10.0.0.1 port 81 max 5",
                      "server 1 max 7 weight 3", "server 0 state drain").pool
    assert str(pool.servers[1].address) == "www:80" and pool.servers[1].max == 7 and pool.servers[1].weight == 3
    assert pool.servers[0].max == 5 and pool.servers[0].state == "drain"
    assert [server.number for server in pool.all_servers()] == [0, 1]


def test_the_default_port_may_come_later() -> None:
    configuration = configured("emergency www", "server 0 address 10.0.0.1", "server 1 address /tmp/x", "listen 81")
    pool = configuration.pool
    assert [str(server.address) for server in pool.all_servers()] == ["10.0.0.1:81", "/tmp/x", "www:81"]
    for call in parse_lines(["listen 82"], "test"):
        configuration.run(call)
    assert str(pool.servers[0].address) == "10.0.0.1:81", "it is the server's own now"
    assert str(pool.special["emergency"].address) == "www:81"


def test_moving_a_server_forgets_what_its_name_meant() -> None:
    configuration = configured("server 0 address www port 80")
    server = configuration.pool.servers[0]
    server.target.endpoints = (object(),)  # type: ignore[assignment]
    for line in ("server 0 max 5", "server 0 address www port 80"):
        for call in parse_lines([line], "test"):
            configuration.run(call)
        assert server.target.endpoints
    for call in parse_lines(["server 0 port 81"], "test"):
        configuration.run(call)
    assert not server.target.endpoints and str(server.address) == "www:81"


def test_a_server_that_was_a_unix_socket() -> None:
    pool = configured("listen 80", "server 0 address /tmp/x", "server 0 address www").pool
    assert str(pool.servers[0].address) == "www:80"


@pytest.mark.parametrize(("line", "message"), [
    ("server 7 max 5", "test:1: server: there is no server 7 (known: none); a new one needs an address"),
    ("no server 7", "test:1: no server: there is no server 7"),
])
def test_what_makes_no_sense(line: str, message: str) -> None:
    with pytest.raises(ScriptError) as caught:
        configured(line)
    assert str(caught.value) == message


def test_a_script_is_carried_out_whole_or_not_at_all() -> None:
    configuration = configured("timeout 7", "server 0 address www port 80")
    before = state_of(configuration)
    with pytest.raises(ScriptError, match="no server 9"):
        Draft(configuration).run_all(parse_lines(["timeout 8", "no server 0", "server 9 max 4"], "test"))
    assert state_of(configuration) == before


def test_access_lists() -> None:
    pool = configured("acl 1 permit 10.0.0.0/8", "acl 1 deny 10.0.0.1", "acl 2 permit ::1", "no acl 2").pool
    assert [str(entry) for entry in pool.acls[1].entries] == ["permit 10.0.0.0/8", "deny 10.0.0.1"]
    assert not pool.acls[2].entries


def test_fewer_clients_max_forgets_at_once() -> None:
    configuration = configured()
    for number in range(10):
        configuration.unnamed.clients.touch(str(number), number, 100, 0)
    for call in parse_lines(["clients_max 3"], "test"):
        configuration.run(call)
    assert [client.address for client in configuration.unnamed.clients] == ["9", "8", "7"]


def test_no_puts_the_default_back() -> None:
    settings = configured(*(f"{name} {value}" for name, value in {
        "timeout": "9", "conn_max": "7", "control_mode": "666", "tcp_fastclose": "up", "log": "x", "control_acl": "3",
        "emergency": "www:80"}.items()), *(f"no {name}" for name in SETTINGS)).settings
    switched_off = {"keepalive": ()}
    assert {name: settings.get(name) for name in SETTINGS} == {
        name: setting.default for name, setting in SETTINGS.items()} | switched_off


@pytest.mark.parametrize(("lines", "value", "dumped"), [
    ([], (60, 10, 6), []), (["keepalive"], (60, 10, 6), []), (["keepalive 60 10 6"], (60, 10, 6), []),
    (["keepalive 5 4 3"], (5, 4, 3), ["keepalive 5 4 3"]), (["keepalive 5 4 3", "keepalive"], (60, 10, 6), []),
    (["no keepalive"], (), ["no keepalive"]), (["no keepalive", "keepalive"], (60, 10, 6), []),
])
def test_keepalive_is_a_flag_with_values(lines: list[str], value: tuple[int, ...], dumped: list[str]) -> None:
    configuration = configured(*lines)
    assert (configuration.settings.keepalive, list(configuration.dump())) == (value, dumped)


@pytest.mark.parametrize(("line", "says"), [
    ("keepalive 60", "expected IDLE INTERVAL COUNT, 3 numbers; '60' has 1"),
    ("keepalive 60 10 6 1", "expected IDLE INTERVAL COUNT, 3 numbers; '60 10 6 1' has 4"),
    ("keepalive 0 10 6", "IDLE: '0' is not a whole number from 1 to 32767"),
    ("keepalive 60 32768 6", "INTERVAL: '32768' is not a whole number from 1 to 32767"),
    ("keepalive 60 10 128", "COUNT: '128' is not a whole number from 1 to 127"),
    ("keepalive 60 1.5 6", "INTERVAL: '1.5' is not a whole number"), ("keepalive off", "'off' has 1"),
    ("no keepalive 60", "'60' is too much"), ("user_timeout -1", "'-1' is not a number of seconds"),
    ("user_timeout 2147484", "'2147484' is not a number of seconds up to 2147483"),
    ("user_timeout 5 5", "'5' is too much"), ("half_closed_timeout x", "'x' is not a number of seconds"),
])
def test_wrong_values_of_timeouts(line: str, says: str) -> None:
    with pytest.raises(ScriptError, match=re.escape(says)):
        configured(line)


# --- rosters of listeners ---------------------------------------------------------------------------------------------

TWO = ("listen 80", "server 0 address 10.0.0.1 port 80", "server 1 address 10.0.0.2 port 80")


def change(configuration: Configuration, *lines: str) -> None:
    for call in parse_lines(lines, "test"):
        configuration.run(call)
    configuration.dismiss_unused()


def used_by(scope: Scope) -> list[tuple[int, int, str]]:
    return [(member.number, member.weight, str(member.target.address)) for member in scope.selector.roster.members]


def test_listeners_for_which_nothing_is_different_share_a_roster() -> None:
    configuration = configured(*TWO, "listener a listen 81", "listener b listen 82", "listener b server 0 max 5")
    unnamed, a, b = (configuration.scopes[name].selector.roster for name in ("", "a", "b"))
    assert unnamed is a and a is not b
    change(configuration, "listener b inherit server 0", "listener a servers 0")
    unnamed, a, b = (configuration.scopes[name].selector.roster for name in ("", "a", "b"))
    assert unnamed is b and a is not b
    assert len(configuration.pool.rosters) == 2


def test_what_changed_while_no_listener_was_of_tcp_is_known_to_the_next_one() -> None:
    configuration = configured(*TWO)
    for line in ("udp", "no server 1", "server 0 weight 5", "no udp"):
        change(configuration, line)
    assert used_by(configuration.unnamed) == [(0, 5, "10.0.0.1:80")]


def test_a_listener_that_was_deleted_and_has_sessions_knows_of_changes() -> None:
    """Clients may yet wait there for a server."""
    configuration = configured(*TWO, "listener a listen 81", "listener a server 0 port 99")
    ended = configuration.scopes["a"]
    for line in ("no listener a", "no server 1", "server 0 address 10.0.0.9 weight 3"):
        for call in parse_lines([line], "test"):
            configuration.run(call)
        configuration.dismiss_unused([ended])
    assert used_by(ended) == [(0, 3, "10.0.0.9:99")]
    configuration.dismiss_unused()
    assert used_by(ended) == [] and len(configuration.pool.rosters) == 1
    assert len(configuration.pool.servers[0].targets) == 1, "nobody goes that way any more"
