"""Whatever a daemon answers, gpenctl shows it or says what is wrong: no reply ends it in a traceback."""

from __future__ import annotations

import contextlib
import io
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gpen.gpenctl.main import main
from tests.gpenctl.daemon import Daemon, Run, unix_daemon

COMMANDS = ("servers", "sessions", "recent 5", "events", "explain 10.0.0.1", "mode", "connection 3", "help",
            "help server", "drain 1", "timeout", "server 1 max 5", "status", "nosuch", "log",
            "listeners", "listener x servers", "listener x servers 0", "listener x recent 5")
FORMATS = ("table", "plain", "json", "csv")

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text()
    | st.sampled_from(["\ud800", "\udcff", 10**400]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["others", "server", "state", "tls", "since", "number", "name", "group", "usage", "help"])
        | st.text(), inner, max_size=4))
replies = (values.map(lambda value: json.dumps(value).encode() + b"\n") | st.binary()
           | st.text().map(lambda text: f"error: {text}".encode("utf-8", "surrogatepass"))
           | st.text().map(lambda text: f"do_cmd: ignoring command starting with '{text}'\n".encode("utf-8", "replace"))
           | st.sampled_from([b"[" * 100_000, b"[" * 950 + b"]" * 950, b"1" * 5000, b'{"connection": 3}', b"{}", b"[]",
                              b"draining server 1: " + b"9" * 5000 + b" sessions left\n", b"\n" * 50, b"", b"\0",
                              b'[{"sx": 1e999, "since": NaN}]', b"Connection 3:\nstate = x\n"]))


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    running = unix_daemon(tmp_path_factory.mktemp("ctl") / "gpen.ctl")
    yield running
    running.close()


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(COMMANDS), st.sampled_from(FORMATS), replies, replies)
@example("explain 10.0.0.1", "csv", b'{"others": 1}', b"")
@example("servers", "csv", b'[{"name": "\\ud800"}]', b"")
def test_no_reply_ends_in_a_traceback(daemon: Daemon, command: str, form: str, reply: bytes, plain: bytes) -> None:
    """``reply`` is what the daemon answers to the command with the word json, ``plain`` without."""
    def answer(data: bytes) -> Any:
        return lambda link: link.sendall(data)

    daemon.replies |= {f"{command} json": answer(reply), command: answer(plain)}
    out = io.TextIOWrapper(io.BytesIO(), "utf-8")
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()) as told:
        status = main(["-f", form, daemon.target, *command.split()])
    assert status in (0, 1, 3)
    assert "Traceback" not in told.getvalue()


@pytest.mark.parametrize("reply", [
    '{"others": 1}', "[[[]]]", "[1, null, {}]", '[{"number": [], "address": {}, "tls": 1, "since": 1e999}]', "", "\n",
    "error: no\n", '[{"name": "\\ud800"}]', "0 addr\n"])
def test_watch_and_the_prompt(gpenctl: Run, tmp_path: Path, reply: str) -> None:
    running = unix_daemon(tmp_path / "gpen.ctl")
    running.replies |= {"servers json": reply, "servers": reply, "explain 1.2.3.4 json": reply, "help json": reply}
    done = gpenctl("-f", "csv", running.target, stdin="servers\nexplain 1.2.3.4\nhelp\nservers\n")
    running.close()
    assert done.returncode in (0, 1) and "Traceback" not in done.stderr


def test_a_reply_in_bytes_that_are_cut(gpenctl: Run, tmp_path: Path) -> None:
    def cut(link: socket.socket) -> None:
        link.sendall(b'[{"number": 0, "address": "\xe2\x82')

    running = unix_daemon(tmp_path / "gpen.ctl")
    running.replies |= {"servers json": cut, "servers": cut}
    for form in FORMATS:
        done = gpenctl("-f", form, running.target, "servers")
        assert "Traceback" not in done.stderr and done.stdout.startswith("[{")
    running.close()
