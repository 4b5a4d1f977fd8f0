"""What can be done on the page: servers are drained and taken back, sessions closed; by those who know the token."""

from __future__ import annotations

from tests.harness import Gpen, hold, naming, read_all, wait_until
from tests.web.chromium import Tab
from tests.web.conftest import TOKEN, Serve, Start, forgive, opened, row

DRAIN = f"{row(0)} .actions button:not([hidden])"  # the first that is offered to one that is ready


def asked(tab: Tab, selector: str) -> Tab:
    """Press a button behind which there is a question."""
    tab.click(selector)
    wait_until(lambda: tab.run("document.querySelector('#question').open"), what="a question")
    return tab


def answered(tab: Tab) -> None:
    wait_until(lambda: not tab.run("document.querySelector('#question').open"), what="the end of the question")


def state(balancer: Gpen) -> str:
    return str(balancer.server(0)["state"])


def test_a_page_that_only_shows(tab: Tab, paged: Start, servers: Serve) -> None:
    balancer = paged(servers=[servers(hold)])
    with balancer.connect():
        opened(tab, balancer)
        tab.click("#sessions-section summary")
        tab.until("#sessions", "127.0.0.1")
        assert tab.texts("td button") == ["-"], "that of the listener"
        assert tab.run("document.querySelectorAll('.actions').length") == 0


def test_drain_and_ready(tab: Tab, controlled: Start, servers: Serve) -> None:
    """The question names the server; the token is asked for once in a tab, a wrong one is told, and not kept."""
    server = servers(naming("a"))
    balancer = controlled(servers=[server])
    opened(tab, balancer)
    asked(tab, DRAIN)
    assert tab.text("#question-title") == f"Drain server 0 ({server.address})?"
    tab.type("a-wrong-one-of-the-tests")
    tab.press("Enter")
    tab.until("#question-error", "the token is wrong")
    assert state(balancer) == "ready"
    tab.click("#token")
    tab.type(TOKEN)
    tab.press("Enter")
    answered(tab)
    assert state(balancer) == "drain"
    tab.until(f"{row(0)} .state", "drain")
    assert tab.texts(f"{row(0)} .actions button:not([hidden])") == ["ready", "maint"]
    asked(tab, f"{row(0)} [aria-label='ready server 0']")
    assert tab.text("#token-row") == ""
    tab.click("#question-yes")
    answered(tab)
    assert state(balancer) == "ready"
    forgive(tab, "status of 401")
    assert TOKEN not in tab.run("JSON.stringify(localStorage) + location.href")


def test_a_server_that_has_moved_meanwhile_is_left_alone(tab: Tab, controlled: Start, servers: Serve) -> None:
    balancer = controlled(servers=[servers(hold)])
    opened(tab, balancer)
    asked(tab, DRAIN).type(TOKEN)
    assert balancer.ctl(f"server 0 address {servers(hold).address}") == ""
    tab.press("Enter")
    tab.until("#question-error", "nothing is changed")
    assert state(balancer) == "ready"
    forgive(tab, "status of 400")


def test_a_question_says_what_becomes_of_sessions(tab: Tab, controlled: Start, servers: Serve) -> None:
    balancer = controlled(servers=[servers(hold)])
    opened(tab, balancer)
    for action, words in (("drain", "those that it has stay"), ("maint", "the sessions that it has are closed")):
        asked(tab, f"{row(0)} [aria-label='{action} server 0']")
        assert words in tab.text("#question-text")
        tab.press("Escape")
        answered(tab)


def test_whoever_says_no(tab: Tab, controlled: Start, servers: Serve) -> None:
    balancer = controlled(servers=[servers(naming("a"))])
    opened(tab, balancer)
    asked(tab, DRAIN).click("#question-no")
    answered(tab)
    asked(tab, DRAIN).press("Escape")
    answered(tab)
    assert state(balancer) == "ready" and not [address for address in tab.requests if "control" in address]
    assert tab.run("document.activeElement.getAttribute('aria-label')") == "drain server 0", "the focus is back"


def test_close_a_session(tab: Tab, controlled: Start, servers: Serve) -> None:
    server = servers(hold)
    balancer = controlled(servers=[server])
    with balancer.connect() as sock, balancer.connect():
        port = sock.getsockname()[1]
        opened(tab, balancer)
        tab.click("#sessions-section summary")
        tab.click("#sessions-filter")
        tab.type(f":{port}")
        tab.until("#sessions-more", "1 of 2")
        asked(tab, "#sessions .actions button")
        assert f" of 127.0.0.1:{port} at server 0 ({server.address})?" in tab.text("#question-title")
        tab.type(TOKEN)
        tab.press("Enter")
        assert read_all(sock) == b""
        answered(tab)
        tab.until("#endings", "killed 1")
        assert len(balancer.json("sessions")) == 1


def test_control_that_is_switched_off(tab: Tab, controlled: Start, servers: Serve) -> None:
    """What has been open meanwhile is told so, and the buttons go away."""
    balancer = controlled(servers=[servers(naming("a"))])
    opened(tab, balancer)
    asked(tab, DRAIN).type(TOKEN)
    balancer.ctl("metrics_control off")
    tab.press("Enter")
    tab.until("#question-error", "actions are off")
    tab.click("#question-no")
    wait_until(lambda: not tab.run("document.querySelectorAll('.actions').length"), what="a page without actions")
    assert state(balancer) == "ready"
    forgive(tab, "status of 403")
