"""The plugin for Nagios, of real gpens: its states, its figures, and what it says when it can't know."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.contrib.service import CONTRIB
from tests.harness import Gpen, Server, free_port, hold, needs_root, wait_until

PLUGIN = CONTRIB / "nagios" / "check_gpen"
SYSTEM_PYTHON = Path("/usr/bin/python3")
NOBODY = 65534
OK, WARNING, CRITICAL, UNKNOWN = range(4)
CHECKED = ("-O", "check connect", "-O", "check_interval 0.2")
FIGURE = re.compile(r"'([^']+)'=([0-9.]+)(%|c|)(?:;([0-9.:~@-]*);([0-9.:~@-]*);([0-9.]*)(?:;([0-9.]*))?)?")

StartGpen = Callable[..., Gpen]
StartServer = Callable[..., Server]


class Result(NamedTuple):
    status: int
    text: str
    figures: dict[str, str]


def check(*words: str) -> Result:
    """Run it. It writes one line, whose figures are written as the guidelines want them."""
    done = subprocess.run([sys.executable, PLUGIN, *words], capture_output=True, text=True, timeout=30, check=False)
    assert done.stdout.count("\n") == 1 and done.stderr == "", done.stderr
    text, _, figures = done.stdout.strip().partition(" | ")
    assert text.startswith(f"GPEN {('OK', 'WARNING', 'CRITICAL', 'UNKNOWN')[done.returncode]} - ")
    found = {}
    for figure in figures.split():
        match = FIGURE.fullmatch(figure)
        assert match, figure
        found[match[1]] = match[2]
    return Result(done.returncode, text, found)


@pytest.fixture
def pair(servers: StartServer) -> tuple[Server, Server]:
    return servers(hold), servers(hold)


def test_from_well_to_nobody(gpen: StartGpen, pair: tuple[Server, Server]) -> None:
    balancer = gpen(*CHECKED, "-x", "10", servers=pair)
    with balancer.connect():
        wait_until(lambda: balancer.json("listeners")[0]["sessions"] == 1)
        result = check(balancer.control)
    assert result == (OK, "GPEN OK - 2 of 2 servers up, 1 of 10 sessions (10%)",
                      {"up": "2", "sessions": "1", "sessions_percent": "10.0", "waiting": "0", "total": "1"})
    pair[1].close()
    wait_until(lambda: balancer.server(1)["health"] == "down")
    result = check(balancer.control)
    assert result.status == WARNING and result.figures["up"] == "1"
    assert f"1 of 2 servers up, 0 of 10 sessions (0%); server 1 at {pair[1].address} down (" in result.text
    pair[0].close()
    wait_until(lambda: balancer.server(0)["health"] == "down")
    assert check(balancer.control).status == CRITICAL


def test_what_an_operator_has_drained_is_not_expected(gpen: StartGpen, pair: tuple[Server, Server]) -> None:
    balancer = gpen(servers=pair)
    balancer.ctl("server 1 state maint")
    result = check(balancer.control)
    assert result.status == OK and f"1 of 2 servers up, 0 of 500 sessions (0%); server 1 at {pair[1].address} maint" \
        in result.text
    balancer.ctl("server 0 state drain")
    assert check(balancer.control).status == CRITICAL  # nobody is served


def test_ranges(gpen: StartGpen, pair: tuple[Server, Server]) -> None:
    """Of two servers that are up, and of a tenth of the sessions."""
    balancer = gpen("-x", "10", servers=pair)
    with balancer.connect():
        wait_until(lambda: balancer.json("listeners")[0]["sessions"] == 1)
        for words, status in {"-w 2:": OK, "-w 3:": WARNING, "-c 3:": CRITICAL, "-w 1": WARNING, "-c ~:1": CRITICAL,
                              "-w @2:5": WARNING, "-w @3:5": OK, "-W 9": WARNING, "-W 10": OK, "-C 9.5": CRITICAL,
                              "-w 3: -C 1:5": CRITICAL}.items():
            assert check(*words.split(), balancer.control).status == status, words


def test_one_listener(gpen: StartGpen, pair: tuple[Server, Server]) -> None:
    """Its own servers, and its own sessions; without a name, the fullest one counts."""
    balancer = gpen(*CHECKED, servers=pair)
    for line in ("listen 127.0.0.1:0", "servers 0", "conn_max 1"):
        assert "error" not in balancer.ctl(f"listener small {line}")
    pair[1].close()
    wait_until(lambda: balancer.server(1)["health"] == "down")
    assert check(balancer.control).status == WARNING
    assert check("--listener", "small", balancer.control).text == "GPEN OK - 1 of 1 servers up, 0 of 1 sessions (0%)"
    address = next(row["address"] for row in balancer.json("listeners") if row["name"] == "small")
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port))):
        wait_until(lambda: any(row["sessions"] for row in balancer.json("listeners")))
        for words in ((), ("--listener", "small")):
            result = check(*words, balancer.control)
            assert result.status == CRITICAL and "(100%)" in result.text
    result = check("--listener", "large", balancer.control)
    assert result.status == UNKNOWN and "large" in result.text


def test_over_tcp(gpen: StartGpen, pair: tuple[Server, Server]) -> None:
    user = ("-u", "nobody") if os.geteuid() == 0 else ()
    balancer = gpen(*user, "-O", "control_access view", servers=pair, control=f"127.0.0.1:{free_port()}")
    assert check(balancer.control).status == OK


# --- what it can't know -------------------------------------------------------------------------------------


def test_gone(gpen: StartGpen, pair: tuple[Server, Server], tmp_path: Path) -> None:
    """A service that does not run is critical, say the guidelines: stopped, killed, or silent."""
    balancer = gpen(servers=pair)
    balancer.process.send_signal(signal.SIGSTOP)
    try:
        assert check("-t", "0.3", balancer.control)[:2] == (
            CRITICAL, f"GPEN CRITICAL - no answer from {balancer.control} within 0.3 s")
    finally:
        balancer.process.send_signal(signal.SIGCONT)
    dead = tmp_path / "dead.ctl"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(dead))
    result = check(str(dead))
    assert result.status == CRITICAL and "refused" in result.text
    result = check(str(tmp_path / "none.ctl"))
    assert result.status == CRITICAL and "there is no such socket" in result.text


@needs_root
@pytest.mark.skipif(not SYSTEM_PYTHON.exists(), reason="the machine has no Python that every user may run")
def test_no_permission(gpen: StartGpen, pair: tuple[Server, Server]) -> None:
    balancer = gpen(servers=pair)
    done = subprocess.run([SYSTEM_PYTHON, "-", balancer.control], input=PLUGIN.read_text(), capture_output=True,
                          text=True, timeout=30, check=False, user=NOBODY, cwd="/")
    assert done.returncode == UNKNOWN and done.stdout.startswith("GPEN UNKNOWN - no permission for "), done.stdout


def test_who_is_no_gpen(servers: StartServer) -> None:
    for said in (b"SSH-2.0-x|y\r\n", b"", b"[]\n{}\n", b"[3]\n[]\n", b"[" * 100_000 + b"\n[]\n",
                 b'[]\n[{"name": "a", "sessions": 1%s, "conn_max": 1, "held": 0, "total": 0}]\n' % (b"0" * 400),
                 b'[]\n[{"name": "a", "sessions": NaN, "conn_max": "x", "held": 0, "total": 0}]\n'):
        result = check(servers(lambda sock, said=said: sock.sendall(said)).address)
        assert result.status == UNKNOWN and "gpen" in result.text


def test_one_that_talks_without_end(servers: StartServer) -> None:
    """Silence is not all that takes too long."""
    def talk(sock: socket.socket) -> None:
        while True:
            sock.sendall(b"x" * 10)

    begun = time.monotonic()
    assert check("-t", "1", servers(talk).address).status == CRITICAL
    assert time.monotonic() - begun < 10


def test_a_port_that_is_none() -> None:
    result = check("127.0.0.1:99999")
    assert result.status == UNKNOWN and "neither /PATH nor HOST:PORT" in result.text


@pytest.mark.parametrize("words", [
    (), ("a", "b"), ("-w", "x", "/x"), ("-w", "5:1", "/x"), ("--listener", "a\nexit", "/x"), ("-t", "soon", "/x"),
    ("-t", "-1", "/x"), ("-t", "0", "/x"), ("-t", "nan", "/x")])
def test_wrong_usage_is_unknown(words: tuple[str, ...]) -> None:
    """What a plugin says on stderr nobody reads."""
    result = check(*words)
    assert result.status == UNKNOWN and result.text.endswith(": see check_gpen --help")


def test_help() -> None:
    done = subprocess.run([sys.executable, PLUGIN, "--help"], capture_output=True, text=True, timeout=30, check=True)
    assert "check_gpen -w 3: -c 2: /run/gpen.ctl" in done.stdout and "Exit status: 0 ok" in done.stdout
    assert os.access(PLUGIN, os.X_OK)
