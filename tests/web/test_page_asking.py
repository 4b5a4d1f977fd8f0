"""How the page asks: it says when gpen can't be reached, waits for a slow one, and asks nothing when nobody looks."""

from __future__ import annotations

import signal

from tests.harness import free_port, naming, wait_until
from tests.web.chromium import Browser, Tab
from tests.web.conftest import Serve, Start, forgive, opened, row


def test_a_gpen_that_goes_away_and_comes_back(tab: Tab, gpen: Start, servers: Serve) -> None:
    place, server = f"127.0.0.1:{free_port()}", servers(naming("a"))
    balancer = gpen("-O", f"metrics {place}", servers=[server])
    opened(tab, balancer)
    balancer.stop()
    tab.until("#notice", "gpen can't be reached since ")
    assert tab.text("#live") == "not reached" and server.address in tab.text(f"{row(0)} .who"), "what was"
    gpen("-O", f"metrics {place}", "-O", "dummy")
    tab.until("#live", "live")
    assert tab.text("#notice") == "" and tab.until("#servers-more", "none")
    forgive(tab, "ERR_CONNECTION")


def test_a_gpen_that_does_not_answer_is_not_asked_again(tab: Tab, browser: Browser, paged: Start) -> None:
    balancer = paged("-O", "dummy")
    opened(tab, balancer)
    balancer.signal(signal.SIGSTOP)
    try:
        before = asked = len(tab.requests)

        def is_waited_for() -> bool:
            nonlocal asked
            asked = len(tab.requests)
            browser.listen(1.5)  # it asks each second, as long as it is answered
            return before < asked == len(tab.requests)

        wait_until(is_waited_for, 12, "that it is asked once, and waited for")
    finally:
        balancer.signal(signal.SIGCONT)
    wait_until(lambda: tab.text("#live") == "live" and len(tab.requests) > asked, what="that it goes on")


def test_a_page_that_nobody_sees_asks_nothing(browser: Browser, tab: Tab, paged: Start) -> None:
    opened(tab, paged("-O", "dummy"))
    with tab.neighbour():
        wait_until(lambda: tab.run("document.hidden"), what="that the tab is hidden")
        browser.listen(0.5)
        asked = len(tab.requests)
        browser.listen(1.5)
        assert len(tab.requests) == asked
    wait_until(lambda: tab.run("!document.hidden") and len(tab.requests) > asked, what="that it asks again")
