"""The page in a wide window and in a narrow one, with much to show, and without a mouse."""

from __future__ import annotations

import pytest

from tests.harness import Gpen, hold
from tests.web.chromium import Tab
from tests.web.conftest import Serve, Start, opened, row


@pytest.fixture
def busy(controlled: Start, servers: Serve) -> Gpen:
    """A gpen with all there is to be shown: long reasons, long addresses, large figures, actions."""
    balancer = controlled("-O", "listener reports-of-the-night listen 127.0.0.1:0", "-O", "listener w listen [::1]:0",
                          servers=[servers(hold) for _ in range(4)])
    balancer.ctl("server 0 max 10000 hard 20000 weight 100 prio 10", "server 1 state maint",
                 'server 2 health down because of "wsrep_local_state is Donor/Desynced, not Synced"',
                 "server 3 address 2001:db8:1234:5678:9abc:def0:1234:5678 port 33060",
                 f"server 3 health drain because of {'x' * 80}", "listener w tracking_with reports-of-the-night")
    return balancer


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_desktop(tab: Tab, busy: Gpen, scheme: str) -> None:
    """All columns are to be seen at 1280 pixels, without scrolling."""
    tab.show(1280, 900, scheme)
    opened(tab, busy)
    tab.until(f"{row(3)} .actions", "maint")
    assert tab.run("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert tab.run("""[...document.querySelectorAll("#servers th, #servers td, #listeners th, #listeners td")]
        .filter((cell) => cell.getBoundingClientRect().right > 1280 || cell.scrollWidth > cell.clientWidth)
        .map((cell) => cell.innerText)""") == []
    assert tab.texts("#servers th") == ["Server", "Health", "State", "Reason", "Sessions", "New/s", "Bytes/s",
                                        "Last minutes", "Total", "Bytes", "Failed", "Weight / prio", "Max / hard", ""]
    light = tab.run("getComputedStyle(document.body).backgroundColor")
    tab.show(1280, 900, "dark" if scheme == "light" else "light")
    assert tab.run("getComputedStyle(document.body).backgroundColor") != light


def test_a_phone(tab: Tab, busy: Gpen) -> None:
    """Nothing is beyond the edge at 390 pixels, and a server takes three or four lines, beside the actions."""
    tab.show(390, 844, phone=True)
    opened(tab, busy)
    tab.until(f"{row(3)} .actions", "maint")
    assert tab.run("document.documentElement.scrollWidth") == 390
    assert tab.run("""[...document.querySelectorAll("#servers td, #listeners td")]
        .filter((cell) => cell.getBoundingClientRect().right > 390).map((cell) => cell.innerText)""") == []
    height = tab.run(f"""document.querySelector("{row(1)}").offsetHeight
        - document.querySelector("{row(1)} .actions").offsetHeight""")
    assert height <= 4 * 24 + 14


def test_without_a_mouse(tab: Tab, busy: Gpen) -> None:
    """Whatever can be pressed can be reached by Tab, is seen when it has the focus, and has a name."""
    opened(tab, busy)
    tab.until(f"{row(3)} .actions", "maint")
    reached = set()
    for _ in range(24):
        tab.press("Tab")
        name, outline = tab.run("""((e) => [e.ariaLabel || e.innerText, getComputedStyle(e).outlineStyle])
            (document.activeElement)""")
        assert tab.run("document.activeElement === document.body") or (name and outline != "none")
        reached.add(name)
    assert {"Show the servers as listener w has them", "drain server 0", "ready server 1", "Address of a client",
            "explain", "Sessions"} <= {name.strip() for name in reached}


def test_many_servers(tab: Tab, paged: Start) -> None:
    balancer = paged("-O", "dummy")
    balancer.ctl(*(f"server {n} address 127.1.{n // 200}.{n % 200 + 1} port 80" for n in range(600)))
    opened(tab, balancer)
    assert tab.text("#servers-more") == "the first 500 of 600" and len(tab.texts("#servers tbody tr")) == 500
    tab.click("#servers-filter")
    tab.type("127.1.2.200:80")
    assert tab.texts("#servers .who")[1:] == ["599\n127.1.2.200:80"]
    assert tab.text("#servers-more") == "1 of 600"
