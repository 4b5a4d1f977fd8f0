"""What `servers json`, `events`, `explain` and the status page say of verdicts, checks and clients that are held."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable

import pytest

from tests.harness import Gpen, Server, naming, refusing, wait_until
from tests.web.pages import data_of

Start = Callable[..., Gpen]
Serve = Callable[..., Server]
NOTHING = (None, None, None, None)


@pytest.fixture
def balancer(gpen: Start, servers: Serve) -> Gpen:
    return gpen("-r", servers=[servers(naming(name)) for name in "ab"])


def verdict(balancer: Gpen, number: int) -> tuple[object, ...]:
    row = balancer.server(number)
    return tuple(row[f"verdict{field}"] for field in ("", "_by", "_reason", "_since"))


def test_a_verdict_with_its_reason_and_time(balancer: Gpen) -> None:
    assert verdict(balancer, 0) == NOTHING
    before = time.time()
    assert balancer.ctl("server 0 health down because Donor/Desynced, queue 17") == ""
    *said, since = verdict(balancer, 0)
    assert said == ["down", "command", "Donor/Desynced, queue 17"]
    assert isinstance(since, float) and before - 0.01 <= since <= time.time()
    row = balancer.server(0)
    assert (row["health"], row["reason"], row["state"]) == ("down", "Donor/Desynced, queue 17", "ready")
    assert verdict(balancer, 1) == NOTHING

    balancer.ctl("server 0 health down because still a donor")
    assert verdict(balancer, 0) == ("down", "command", "still a donor", since)  # renewed: since when it is so stays
    balancer.ctl("server 0 health up because Synced")
    row = balancer.server(0)
    assert (row["health"], row["reason"], row["verdict"], row["verdict_reason"]) == ("up", "", "up", "Synced")
    assert [(event["event"], event["cause"]) for event in balancer.json("events 2")] == [
        ("down", "Donor/Desynced, queue 17"), ("up", "Synced")]


def test_where_drain_is_shown(balancer: Gpen) -> None:
    port = balancer.server(0)["port"]
    assert "not at 127.0.0.1:1" in balancer.ctl("server 0 at 127.0.0.1:1 health drain")
    assert balancer.ctl(f"server 0 at 127.0.0.1:{port} health drain because Donor/Desynced") == ""
    assert verdict(balancer, 0)[:3] == ("drain", "command", "Donor/Desynced")
    row = balancer.server(0)
    assert (row["health"], row["reason"], row["state"]) == ("drain", "Donor/Desynced", "ready")
    others = balancer.json("explain 127.0.0.1")["others"]
    assert re.fullmatch(r"draining for \d+ s: Donor/Desynced", others[0]["why_not"])
    assert data_of(balancer.ctl("status"))["servers"][0]["health"] == "drain"
    balancer.ctl("server 0 health unknown", "server 0 state drain")
    assert [(event["event"], event["cause"]) for event in balancer.json("events 4")] == [
        ("drained", "Donor/Desynced"), ("withdrawn", "the verdict drain (Donor/Desynced) is withdrawn by a command"),
        ("up", "no verdict says otherwise"), ("drain", "by a command")]
    assert balancer.server(0)["health"] == "up"


def test_the_bad_verdict_counts(gpen: Start) -> None:
    """A check and a command disagree: what is shown is what takes the server down."""
    with refusing() as nobody:
        balancer = gpen("-O", "check connect", "-O", "check_interval 0.1", "-O", "check_fall 1", servers=[nobody])
        balancer.ctl("server 0 health up because Synced")
        wait_until(lambda: verdict(balancer, 0)[:2] == ("down", "check"), what="the check's verdict")
        row = balancer.server(0)
        assert row["health"] == "down" and "refused" in row["reason"] == row["verdict_reason"]


def test_the_check_in_force(balancer: Gpen) -> None:
    assert [row["check"] for row in balancer.json("servers")] == ["off", "off"]
    balancer.ctl("check connect", "server 1 check send PING expect PONG")
    assert [row["check"] for row in balancer.json("servers")] == ["connect", "send PING expect PONG"]


def test_pens_line_is_as_ever(balancer: Gpen) -> None:
    plain = balancer.ctl("servers")
    balancer.ctl("server 0 health down because Donor", "hold 5")
    assert balancer.ctl("servers") == plain


def test_clients_that_are_held(balancer: Gpen) -> None:
    balancer.ctl("hold 20", *(f"server {number} health down because Donor" for number in (0, 1)))
    assert [row["held"] for row in balancer.json("servers")] == [0, 0]
    with balancer.connect() as first, balancer.connect() as second:
        wait_until(lambda: [row["held"] for row in balancer.json("servers")] == [2, 2])
        assert [row["state"] for row in balancer.json("sessions")] == ["held", "held"]
        assert [row["server"] for row in balancer.json("sessions")] == [None, None]
        assert balancer.ctl("sessions").count(" server - addr - state held ") == 2
        assert data_of(balancer.ctl("status"))["info"]["held"] == 2
        balancer.ctl("server 1 health up")
        assert first.recv(1) == second.recv(1) == b"b"
        assert [row["held"] for row in balancer.json("servers")] == [0, 0]


def test_explain_says_the_verdict(balancer: Gpen) -> None:
    balancer.ctl("server 0 health down because Donor/Desynced")
    row = balancer.json("explain 127.0.0.1")
    assert row["server"] == 1
    assert re.fullmatch(r"down for \d+ s: Donor/Desynced", row["others"][0]["why_not"])


def test_explain_says_who_would_wait(balancer: Gpen) -> None:
    def why() -> str:
        row = balancer.json("explain 127.0.0.7")
        assert row["server"] is None
        return str(row["why"])

    balancer.ctl("server 0 health down because Donor", "server 1 state drain")
    assert why() == "none can take it"
    balancer.ctl("hold 20", "hold_max 1")
    assert why() == "none can take it; it would wait up to 20 s"
    balancer.ctl("stubborn")
    assert why() == "stubborn, and its server can't take it; it would wait up to 20 s"
    balancer.ctl("no stubborn")
    with balancer.connect():
        wait_until(lambda: balancer.server(0)["held"] == 1)
        assert why() == "none can take it; it would be closed: hold_max is reached, 1 waiting"
        balancer.ctl("hold_max 2")
        assert why() == "none can take it; it would wait up to 20 s, 1 before it"
    wait_until(lambda: balancer.server(0)["held"] == 0)
    assert why() == "none can take it; it would wait up to 20 s"


def test_the_status_page_says_verdicts(balancer: Gpen) -> None:
    balancer.ctl('server 0 health down because "<b>Donor</b>"', "server 1 health up because Synced")
    page = balancer.ctl("status")
    assert "<b>Donor" not in page
    one, other = data_of(page)["servers"]
    assert (one["verdict"], one["verdict_by"], one["reason"]) == ("down", "command", "<b>Donor</b>")
    assert (other["verdict"], other["verdict_by"], other["verdict_reason"]) == ("up", "command", "Synced")
    assert one["verdict_since"] == balancer.server(0)["verdict_since"]


def test_gpenctl_shows_them(balancer: Gpen) -> None:
    from gpen.gpenctl.tables import table

    balancer.ctl("server 0 health down because Donor", "server 1 health up because Synced", "hold 20")
    shown = table("servers", json.loads(balancer.ctl("servers json")))
    rows = [line.split() for line in shown.split("\n")[2:]]
    assert [(row[0], *row[2:4], row[5]) for row in rows] == [("0", "ready", "down", "Donor"),
                                                             ("1", "ready", "up", "Synced")]
