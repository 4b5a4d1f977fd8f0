"""The page in a real browser: what it shows of a gpen and its servers, and that it shows it soon."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from tests.harness import free_port, hold, naming, wait_until
from tests.web.chromium import Tab
from tests.web.conftest import EVIL, Serve, Start, forgive, opened, row, url_of

SOON = 3.0  # seconds in which a change is to be seen
CHECKED = ("-O", "check connect", "-O", "check_interval 0.2", "-O", "check_fall 1")


def test_a_server_that_dies(tab: Tab, paged: Start, servers: Serve) -> None:
    one, other = servers(naming("a")), servers(naming("b"))
    balancer = paged(*CHECKED, servers=[one, other])
    opened(tab, balancer)
    assert [tab.until(f"{row(n)} .health", "up") and tab.text(f"{row(n)} .who") for n in (0, 1)] == [
        f"0\n{one.address}", f"1\n{other.address}"]
    other.close()
    wait_until(lambda: balancer.server(1)["health"] == "down")
    tab.until(f"{row(1)} .health", "down", SOON)
    assert "refused" in tab.text(f"{row(1)} .reason") and re.search(r"\d s", tab.text(f"{row(1)} .health"))
    assert tab.text("#events li:first-child").split("\n")[1:3] == ["server 1", "down"], "the newest event is first"
    assert tab.run("document.title").startswith("1 not well: gpen at ")
    assert "1 of 2" in tab.text("#figures").replace("\n", " ")
    assert tab.run("getComputedStyle(document.querySelector('#servers .badge.down')).color") != tab.run(
        "getComputedStyle(document.querySelector('#servers .badge.up')).color")


def test_the_head(tab: Tab, paged: Start, servers: Serve) -> None:
    balancer = paged("-x", "10", "-O", "log_format json", servers=[servers(hold)])
    with balancer.connect(), balancer.connect():
        wait_until(lambda: balancer.json("info")["sessions"] == 2)
        opened(tab, balancer)
        words = tab.text("#figures").replace("\n", " ")
        assert "Sessions 2 of 10" in words and "2 in all" in words
        assert balancer.ctl("listen").strip() in tab.text("h1") and "up for" in tab.text("#about")
        assert tab.run("document.querySelector('#figures .bar i').style.width") == "20%"
    tab.until("#endings", "client-closed 2")


def test_errors_stand_out(tab: Tab, paged: Start) -> None:
    balancer = paged("-O", "blacklist 0", servers=[f"127.0.0.1:{free_port()}"])
    balancer.ask()
    opened(tab, balancer)
    assert tab.texts("#endings .bad") == ["error: connect-failed 1"]
    assert tab.text(f"{row(0)} .failed-some") == "1"


def test_rates(tab: Tab, paged: Start, servers: Serve) -> None:
    """What comes between two looks is to be seen as so much a second, in figures and as a line."""
    balancer = paged(servers=[servers(naming("x" * 1000))])
    opened(tab, balancer)

    def speed() -> str:
        balancer.ask()
        return shown if "KiB/s" in (shown := tab.text(f"{row(0)} .speed")) else ""

    assert wait_until(speed, what="bytes a second").startswith("↑ 0 B/s\n↓ ")
    wait_until(lambda: "L" in tab.run(f"document.querySelector('{row(0)} .stroke').getAttribute('d')"), what="a line")
    assert "now " in tab.run(f"document.querySelector('{row(0)} svg').getAttribute('aria-label')")


def test_markup(tab: Tab, paged: Start, servers: Serve, tmp_path: Path) -> None:
    """Markup in a server's address, in a reason and in a cause does nothing."""
    place = tmp_path / EVIL
    balancer = paged(servers=[servers(naming("a"), at=str(place)), servers(naming("b"))])
    assert balancer.ctl(f'server 1 health down because "{EVIL}"') == ""
    opened(tab, balancer)
    assert EVIL in tab.text(f"{row(0)} .who") and EVIL in tab.text(f"{row(1)} .reason")
    assert EVIL in tab.text("#events")
    tab.click("#sessions-section summary")
    with balancer.connect():
        tab.until("#sessions", EVIL)
    tab.click("#explain-address")
    tab.type("10.0.0.7")
    tab.press("Enter")
    tab.until("#explained", EVIL)
    assert tab.run("document.images.length") == 0 and tab.run("window.name") == ""
    assert not [address for address in tab.requests if not address.startswith((url_of(balancer), "data:"))]


def test_sessions(tab: Tab, paged: Start, servers: Serve) -> None:
    """They are asked for only while they are looked at; sorted by any column, and filtered."""
    balancer = paged(servers=[servers(hold)])
    with contextlib.ExitStack() as stack:
        for source in ("127.0.0.9", "127.0.0.10", "127.0.1.1"):
            stack.enter_context(balancer.connect(source))
        wait_until(lambda: len(balancer.json("sessions")) == 3)
        opened(tab, balancer)
        assert not [address for address in tab.requests if "sessions" in address]
        tab.click("#sessions-section summary")
        tab.until("#sessions", "127.0.1.1")
        clients = "#sessions td:nth-child(3)"
        tab.click("#sessions th:nth-child(3) button")
        assert [text.partition(":")[0] for text in tab.texts(clients)] == ["127.0.0.9", "127.0.0.10", "127.0.1.1"]
        tab.click("#sessions th:nth-child(3) button")
        assert tab.texts(clients)[0].startswith("127.0.1.1")
        assert tab.run("document.querySelector('#sessions th:nth-child(3)').ariaSort") == "descending"
        tab.click("#sessions-filter")
        tab.type("127.0.0.10 open")
        assert len(tab.texts(clients)) == 1 and tab.text("#sessions-more") == "1 of 3"
        tab.click("#recent-section summary")
        tab.until("#recent", "127.0.0.10")


def test_explain(tab: Tab, paged: Start, servers: Serve) -> None:
    one, other = servers(naming("a")), servers(naming("b"))
    balancer = paged("-r", servers=[one, other])
    balancer.ctl("server 0 state maint")
    opened(tab, balancer)
    tab.click("#explain-address")
    tab.type("10.0.0.7")
    tab.press("Enter")
    tab.until("#explained", f"10.0.0.7 would get server 1 ({other.address}): round robin.")
    assert f"not server 0 ({one.address}): its state is maint" in tab.text("#explained")
    tab.run("document.querySelector('#explain-address').value = 'nowhere'")
    tab.click("#explain button")
    tab.until("#explained .error", "'nowhere' is not")
    forgive(tab, "status of 400")
    assert tab.run("document.querySelector('#explain-name').hidden")
    balancer.ctl("server 0 state ready", "slowstart 600", "route sni www.example servers 0")
    tab.until(row(0), "slow start, ")
    tab.until("#listeners", "all, 2 routes")
    tab.run("document.querySelector('#explain-address').value = '10.0.0.7'")
    tab.click("#explain-name")
    tab.type("www.example")
    tab.press("Enter")
    tab.until("#explained", "(route sni www.example).")


def test_listeners(tab: Tab, paged: Start, servers: Serve) -> None:
    """One that is chosen shows the servers as it has them; chosen again, or when it goes away, all are back."""
    balancer = paged("-O", "listener w listen 127.0.0.1:0", servers=[servers(hold), servers(hold)])
    balancer.ctl("listener w servers 1", "listener w server 1 max 7")
    opened(tab, balancer)
    assert [tab.text(f"#listeners tbody tr:nth-child({n}) .who") for n in (1, 2)] == ["-", "w"]
    assert len(tab.texts("#servers tbody tr")) == 2
    for undo in (lambda: tab.press("Enter"), lambda: balancer.ctl("no listener w")):
        tab.run("document.querySelector('#listeners tbody tr:nth-child(2) button').focus()")
        tab.press("Enter")
        tab.until("#servers-title", "Servers as listener w has them")
        wait_until(lambda: len(tab.texts("#servers tbody tr")) == 1, what="the one server of this listener")
        assert "0 of 7" in tab.text(f"{row(0)} .sessions")
        assert tab.run("document.activeElement.getAttribute('aria-pressed')") == "true"
        undo()
        wait_until(lambda: len(tab.texts("#servers tbody tr")) == 2, what="all servers")
    assert tab.text("#servers-title") == "Servers"


def test_workers(tab: Tab, paged: Start, servers: Serve) -> None:
    balancer = paged("-O", "workers 2", servers=[servers(naming("a"))])
    opened(tab, balancer)
    assert {str(worker["pid"]) for worker in balancer.json("workers")} == set(tab.texts("#workers td:nth-child(2)"))
