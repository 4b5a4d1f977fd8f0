"""One node that is a stub: `gpen-galera check` and `serve` of one that trickles, or refuses the account."""

from __future__ import annotations

import os
import ssl
import subprocess
import time
from collections.abc import Iterator

import pytest
from pymysql.connections import Connection

from gpen.galera import serve
from gpen.galera.access import Access
from gpen.galera.check import Finding, Rules, check
from gpen.galera.node import Problem
from gpen.galera.serve import Responder
from tests.galera.cluster import WATCHER
from tests.galera.stub import Error, Group, Stub
from tests.galera.test_watch_faults import ENVIRONMENT, asked, serving
from tests.galera.watcher import COMMAND
from tests.harness import wait_until

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def group() -> Iterator[Group]:
    with Group(2) as group:
        yield group


def checked(node: Stub, timeout: float) -> tuple[int, str, float]:
    """What `check` says, and within how many seconds."""
    began = time.monotonic()
    done = subprocess.run([*COMMAND, "check", f"--timeout={timeout}", node.address], capture_output=True, text=True,
                          timeout=20, check=False, env={**os.environ, **ENVIRONMENT})
    assert done.stderr == ""
    return done.returncode, done.stdout, time.monotonic() - began


@pytest.mark.parametrize("greeting", [None, b"\xff\xff\x00\x00\x0a" + b"5" * 1000])
def test_a_node_that_trickles_has_no_more_time(group: Group, greeting: bytes | None) -> None:
    node = group.nodes[0]
    assert checked(node, 10)[:2] == (0, "Synced\n")
    node.greeting, node.pace = greeting, 0.1
    status, text, taken = checked(node, 0.5)
    assert (status, text) == (1, "no answer for 0.5 s\n") and taken < 8


@pytest.mark.parametrize("insists", [True, False])
def test_no_login_is_sent_in_plain_where_tls_is_wanted(
        group: Group, monkeypatch: pytest.MonkeyPatch, insists: bool) -> None:
    """The stub offers no TLS. Not ``insists``: as PyMySQL was before 1.2, and went on without."""
    if not insists:
        monkeypatch.setattr(Connection, "_ssl_required", property(lambda _: False, lambda *_: None), raising=False)
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    node = group.nodes[0]
    finding = check(node.address, Access(*WATCHER, tls=context), Rules(), 10)
    assert finding == Finding(False, "the watcher can't log in: TLS is wanted, and it does not offer that")
    assert node.hellos == 0
    assert check(node.address, Access(*WATCHER), Rules(), 10).usable and node.hellos == 1


ACCOUNTS = [Error(1045, "Access denied"), Error(1862, "Your password has expired"), Error(4151, "Account is locked"),
            Error(1226, "User has exceeded the 'max_user_connections' resource"), Error(1129, "Host is blocked"),
            Error(1203, "too many"), Error(1130, "Host is not allowed"), Error(1040, "Too many connections")]


@pytest.mark.parametrize("refusal", ACCOUNTS)
def test_an_account_that_fails_takes_no_node_out(
        group: Group, refusal: Error, capfd: pytest.CaptureFixture[str]) -> None:
    node = group.nodes[0]
    with serving(node) as (port, _):
        node.refusal = refusal
        node.end_sessions(WATCHER[0])
        wait_until(lambda: refusal.text in asked(port)[1], what="the refusal being told")
        status, body = asked(port)
        assert status == 200 and body.startswith("Synced ") and " s ago; now: " in body
        node.refusal = None
        wait_until(lambda: asked(port) == (200, "Synced\n"), what="it being seen again")
    said = capfd.readouterr().err.splitlines()
    assert len(said) == 2 and refusal.text in said[0] and "told for 300 s" in said[0] and "seen again" in said[1]


def test_a_question_that_the_account_may_not_ask_takes_no_node_out(group: Group) -> None:
    """1820 comes after the login."""
    node = group.nodes[0]
    with serving(node) as (port, _):
        node.error = Error(1820, "You must SET PASSWORD before executing this statement")
        wait_until(lambda: "You must SET PASSWORD" in asked(port)[1], what="it being told")
        assert asked(port)[0] == 200
        node.kill()
        wait_until(lambda: asked(port)[0] == 503, what="the node itself failing")


def test_what_was_found_last_is_kept_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    responder = Responder("127.0.0.1:1", Access("u", "p"), Rules(), 0.25, 1.0)
    refused = Problem("access denied", True)
    responder._take("127.0.0.1:1", refused)
    assert responder.finding() == Finding(False, "access denied")  # it was never seen
    responder._take("127.0.0.1:1", Problem("read-only"))
    responder._take("127.0.0.1:1", refused)
    assert responder.finding() == Finding(False, "read-only 0 s ago; now: access denied")
    monkeypatch.setattr(serve, "KEPT", -1.0)
    assert responder.finding() == Finding(False, "access denied")
