"""Lines of listeners: whatever stands behind the prefix is read or refused, and what is dumped is read back."""

from __future__ import annotations

import contextlib
import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpen.cli import main
from gpen.control.configuration import Configuration
from gpen.control.draft import Draft
from gpen.control.script import ScriptError, ScriptErrors, parse_line, read_lines
from gpen.model.settings import SETTINGS
from tests.control.test_configuration import acl_lines, line_of, server_lines, settings_lines
from tests.control.test_difference import Running

PROCESS = {"conn_max_total", "clients_max", "blacklist", "check", "check_interval", "check_timeout", "check_rise",
           "check_fall", "health_ttl", "name_refresh", "idlers", "geoip_db", "web_stats", "debug", "ascii",
           "check_port", "check_tls", "on_event",
           "abort_on_error", "control", "control_acl", "control_mode", "control_access", "exit_enabled", "foreground",
           "pid_file", "user", "chroot", "drain_timeout", "workers",
           "metrics", "metrics_acl", "metrics_control", "metrics_token",
           "peers", "peer", "peers_certificate", "peers_ca"}
OWN = {"listen", "tracking_with"}
HERE = {name for name, setting in SETTINGS.items() if setting.scope == "listener" and not setting.missing}


def configured(*lines: str) -> Configuration:
    """What these lines make, all at once. Raises ScriptErrors."""
    configuration = Configuration(lambda: 1000.0, lambda: 1e9)
    draft = Draft(configuration)
    draft.run_all(read_lines(lines, "test"))
    draft.check()
    configuration.adopt(draft)
    return configuration


def test_the_scope_of_each_setting() -> None:
    scopes = {scope: {name for name, setting in SETTINGS.items() if setting.scope == scope and not setting.missing}
              for scope in ("process", "own", "listener")}
    assert (scopes["process"], scopes["own"]) == (PROCESS, OWN)
    assert set().union(*scopes.values()) == {name for name, setting in SETTINGS.items() if not setting.missing}


# --- any line ---------------------------------------------------------------------------------------------------------

names = st.one_of(st.sampled_from(["a", "443", "w.x_y-z", "0" * 32]),
                  st.text("abcXYZ019_.-", min_size=1, max_size=32).filter(lambda name: name[0].isalnum()))
few = st.sampled_from(["a", "b", "443"])
odd = st.one_of(st.text(max_size=40), st.sampled_from(["-", ".", "-x", "x" * 33, "a/b", '""', '"a b"', "ü", "no", "#"]))
ranges = st.lists(st.one_of(st.integers(0, 9).map(str), st.sampled_from(["0-2", "3-3", "5-9"])), min_size=1,
                  max_size=4).map(",".join)
fields = st.fixed_dictionaries({}, optional={
    name: st.one_of(st.integers(0, 99).map(str), st.just("default")) for name in ("max", "weight", "prio", "port")})
differences = st.builds(lambda number, each: " ".join([f"server {number}", *(f"{k} {v}" for k, v in each.items())]),
                        st.integers(0, 5), fields.filter(bool))
words_here = st.one_of(
    *(line_of(SETTINGS[name]) for name in sorted(HERE)), st.sampled_from(sorted(HERE)).map("inherit {}".format),
    ranges.map(lambda text: f"servers {text}"), st.just("servers all"), differences,
    st.integers(0, 5).map(lambda number: f"inherit server {number}"),
    st.builds(lambda ip, number: f"client {ip} server {number}", st.ip_addresses(), st.integers(0, 5)),
    st.ip_addresses().map(lambda ip: f"no client {ip}"), few.map(lambda name: f"tracking_with {name}"),
    st.sampled_from(["tracking_with -", "no tracking_with"]),
    st.integers(1, 65535).map(lambda port: f"listen 127.0.0.1:{port}"))
listener_lines = st.builds(lambda name, words: f"listener {name} {words}", few, words_here)


@given(st.one_of(names, odd), st.one_of(words_here, odd, st.sampled_from(
    ["servers", "servers json", "sessions", "recent 5 json", "explain 10.0.0.1", "mode json", "events 7", "events json",
     "close server 3", "timeout", "listen", "listener a timeout 5", "no", "inherit", "no server 0", "state", "write"])))
def test_any_line_is_read_or_refused_in_one_line(name: str, words: str) -> None:
    for line in (f"listener {name} {words}", f"listener {name}{words}", f"no listener {name} {words}",
                 f"listener {words}"):
        try:
            parse_line(line, "here")
        except ScriptError as error:
            assert str(error).startswith("here: ") and "\n" not in str(error)
            assert "invalid literal" not in str(error) and "object has no" not in str(error)


@given(st.lists(st.one_of(listener_lines, server_lines, settings_lines, acl_lines,
                          st.builds("listener {} {}".format, st.one_of(names, odd), st.one_of(words_here, odd)),
                          few.map("no listener {}".format)), max_size=20))
def test_any_script_is_run_or_refused(lines: list[str]) -> None:
    try:
        configured("server 0 address 10.0.0.1 port 80", *lines)
    except (ScriptError, ScriptErrors) as error:
        assert str(error)


@given(st.lists(st.builds("listener {} {}".format, few, st.one_of(words_here, odd)), max_size=6))
def test_any_option_is_taken_or_refused(lines: list[str]) -> None:
    """As a user gives it, with --check: status 0 or 2, and no traceback."""
    lines = [line for line in lines if line.isprintable()]
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        status = main(["--check", *(word for line in lines for word in ("-O", line)), "127.0.0.1:0", "127.0.0.1:9"])
    assert status in (0, 2), output.getvalue()
    assert "Traceback" not in output.getvalue()
    assert (status == 2) == ("gpen: " in output.getvalue() and "valid" not in output.getvalue().splitlines()[-1])


# --- what is written --------------------------------------------------------------------------------------------------

SERVERS = [f"server {number} address 10.0.0.{number + 1} port 80" for number in range(6)]


LISTENERS = [f"listener {name} listen 127.0.0.1:{port}" for port, name in enumerate(("a", "b", "443"), 8000)]
SHARED = ("listener b tracking_with 443", "listener b tracking_with a", "listener 443 tracking_with a")


def sound(lines: list[str]) -> list[str]:
    """Lines that make sense together: each listener is somewhere, and no memory is shared in a circle."""
    kept = [line for line in lines if line in SHARED or line.endswith(" -") or " tracking_with " not in line]
    return [*SERVERS, *LISTENERS, *kept]


scripts = st.lists(st.one_of(listener_lines, listener_lines, server_lines, settings_lines), max_size=20).map(sound)


def ran(lines: list[str]) -> Configuration:
    """What these lines make, be they of use together or not."""
    configuration = Configuration(lambda: 1000.0, lambda: 1e9)
    draft = Draft(configuration)
    draft.run_all(read_lines(lines, "test"))
    configuration.adopt(draft)
    return configuration


@given(scripts)
def test_dump_and_run_are_inverse(lines: list[str]) -> None:
    configuration = ran(lines)
    dumped = list(configuration.dump())
    assert list(ran(dumped).dump()) == dumped
    draft = Draft(configuration)
    draft.run_all(read_lines(dumped, "test"))
    configuration.adopt(draft)
    assert list(configuration.dump()) == dumped, "run again it changes nothing"


@given(scripts)
def test_state_can_be_read(lines: list[str]) -> None:
    configuration = ran(lines)
    state = list(configuration.state())
    again = ran([*configuration.dump(), *state])
    assert sorted(map(without_time, again.state())) == sorted(map(without_time, state))


def without_time(line: str) -> str:
    """What was said, but for when."""
    return re.sub(r"( (?:for|idle|failed|blacklist)) [0-9.]+", r"\1 S", line)


@given(scripts, scripts, scripts)
def test_a_reload_is_as_a_start_with_the_new_file(line: list[str], before: list[str], after: list[str]) -> None:
    at_start = {setting.name for setting in SETTINGS.values() if setting.startup}
    line, before, after = ([text for text in lines if text.removeprefix("no ").split()[0] not in at_start]
                           for lines in (line, before, after))
    started, running = Running(line, after), Running(line, before)
    running.reload(*after)
    assert running.dump == started.dump


@given(scripts, scripts)
def test_what_was_done_at_runtime_stays(file: list[str], runtime: list[str]) -> None:
    """Where the file has not changed."""
    running = Running([], file)
    running.run(*(line for line in runtime if not SETTINGS.get(line.removeprefix("no ").split()[0], SETTINGS["hash"]
                                                               ).startup))
    dumped = running.dump
    assert running.reload(*file) == []
    assert running.dump == dumped


@given(scripts, scripts, scripts, st.sets(few))
def test_what_is_written_starts_the_same(line: list[str], file: list[str], runtime: list[str], gone: set[str]) -> None:
    """With the same command line, and without it."""
    running = Running(line, file)
    running.run(*(text for text in runtime if not SETTINGS.get(text.removeprefix("no ").split()[0], SETTINGS["hash"]
                                                               ).startup), *(f"no listener {name}" for name in gone))
    written = list(running.configuration.dump(running.sources.given))
    assert Running(line, written).dump == Running([], written).dump == running.dump


# --- single lines -----------------------------------------------------------------------------------------------------

MADE = (SERVERS[0], "listener w listen 8000")


@pytest.mark.parametrize(("lines", "dumped"), [
    (["listener w timeout 3"], ["listener w timeout 3"]),
    (["timeout 5", "listener w timeout 5"], ["listener w timeout 5"]),
    (["listener w timeout 5", "listener w inherit timeout"], []),
    (["listener w no roundrobin"], ["listener w no roundrobin"]),
    (["roundrobin", "listener w no roundrobin"], ["listener w no roundrobin"]),
    (["listener w no emergency"], ["listener w no emergency"]),
    (["listener w servers 2,0-1,5"], ["listener w servers 0-2,5"]),
    (["listener w servers 0", "listener w servers all"], []),
    (["listener w server 0 prio 1 max 0"], ["listener w server 0 max 0 prio 1"]),
    (["listener w server 0 max 1", "listener w server 0 max default"], []),
    (["listener w server 0 max 1", "listener w inherit server 0"], []),
    (["listener w tracking_with -"], ["listener w tracking_with -"]),
    (["listener w tracking_with -", "listener w no tracking_with"], ["listener w no tracking_with"]),
    (["listener v listen 8001", "listener v timeout 5", "no listener v"], []),
    (["listener w client 10.0.0.9 server 0"], []),
    (["listener w ssl_option no_ticket", "listener w ssl_option no_tlsv1.2"],
     ["listener w ssl_option no_ticket no_tlsv1.2"]),
])
def test_what_is_written(lines: list[str], dumped: list[str]) -> None:
    written = [line for line in configured(*MADE, *lines).dump() if line.startswith("listener w ")]
    assert [line for line in written if line not in ("listener w listen 8000", "listener w no ssl_option")] == dumped
    assert not any("listener v" in line for line in configured(*MADE, *lines).dump())


@pytest.mark.parametrize(("line", "says"), [
    ("listener", "NAME"), ("listener -x listen 1", "'-x'"), (f"listener {'x' * 33} listen 1", "32"),
    ("listener w", "listener w"), ("listener w blacklist 5", "it is of the whole gpen"),
    ("listener w listener v listen 1", "listener"), ("listener w inherit listen", "listen"),
    ("listener w servers 5-3", "5-3"), ("listener w servers 1,,2", "1,,2"), ("listener w server 0 hard 3", "hard"),
    ("no listener", "NAME"), ("no listener w x", "NAME"), ("listener w timeout never", "'never'"),
    ("listener w acl 1 permit ::1", "acl"), ("listener w include x", "include"), ("listener w nonsense", "nonsense"),
])
def test_what_is_refused_as_it_is_read(line: str, says: str) -> None:
    with pytest.raises(ScriptError) as caught:
        parse_line(line, "here")
    assert str(caught.value).startswith("here: ") and says in str(caught.value)


@pytest.mark.parametrize(("lines", "says"), [
    (["listener v timeout 5"], "listener v"), (["listener w tracking_with v"], "v"),
    (["listener w tracking_with w"], "w"), (["listener w server 7 max 3"], "7"),
    (["listener v listen 1", "listener v tracking_with w", "listener w tracking_with v"], "tracking_with"),
    (["listener v listen 1", "listener v tracking_with w", "no listener w"], "w"),
    (["listener w http", "listener w mysql"], "mysql"), (["listener w udp", "listener w greeting 1"], "greeting"),
    (["listener w ssl_require_peer"], "certificate"), (["listener w http", "listener w udp"], "http"),
    (["listener v listen /x", "udp"], "/x"),
])
def test_what_makes_no_sense(lines: list[str], says: str) -> None:
    with pytest.raises((ScriptError, ScriptErrors)) as caught:
        configured(*MADE, *lines)
    assert says in str(caught.value)
