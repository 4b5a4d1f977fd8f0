"""One Chromium for all tests, and a tab in which nothing may go wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.harness import Gpen, Server, wait_until
from tests.web.chromium import Browser, Tab

TOKEN = "a-token-for-the-tests"
EVIL = "<img src=x onerror=name='taken'>"  # the name of the window, were it markup
Start = Callable[..., Gpen]
Serve = Callable[..., Server]


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture
def tab(browser: Browser, gpen: Start) -> Iterator[Tab]:
    """A tab as wide as a small desktop, whose console stays empty: no error, and nothing that its policy forbids. It is
    closed before the gpens are."""
    with browser.tab() as tab:
        tab.show(1280, 900)
        yield tab
        browser.listen()
        assert tab.complaints == []


@pytest.fixture
def paged(gpen: Start) -> Start:
    """Start a gpen that has the page: see ``gpen``."""
    return lambda *options, **more: gpen("-O", "metrics 127.0.0.1:0", *options, **more)


@pytest.fixture
def controlled(paged: Start, tmp_path: Path) -> Start:
    """The same, where who knows TOKEN may act."""
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    (tmp_path / "token").chmod(0o600)
    return lambda *options, **more: paged("-O", "metrics_control on", "-O", "metrics_token token", *options, **more)


def url_of(balancer: Gpen) -> str:
    """Where its page is."""
    return f"http://{balancer.ctl('metrics').strip()}/"


def opened(tab: Tab, balancer: Gpen) -> Tab:
    """The page of a gpen, once it shows something."""
    tab.open(url_of(balancer))
    tab.until("#live", "live")
    return tab


def row(number: int) -> str:
    """The selector of a server's row."""
    return f"#servers tbody tr:nth-child({number + 1})"


def forgive(tab: Tab, word: str) -> None:
    """Forget complaints that have this word: there is one, and it is the browser that tells it of a failed request."""
    wait_until(lambda: tab.run("1") and any(word in text for text in tab.complaints), what=f"a complaint of {word}")
    tab.complaints[:] = [text for text in tab.complaints if word not in text]
