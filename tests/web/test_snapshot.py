"""The page as one file (status, -w FILE): in a browser, and as text."""

from __future__ import annotations

import contextlib
import json
import signal
import time
from pathlib import Path

import pytest

from gpen.web.snapshot import MOST_ROWS, embedded, snapshot
from tests.harness import Gpen, hold, naming, wait_until
from tests.web.chromium import Tab
from tests.web.conftest import EVIL, Serve, Start, row
from tests.web.pages import data_of


@pytest.fixture
def balancer(gpen: Start, servers: Serve) -> Gpen:
    balancer = gpen("-w", "status.html", "-O", "listener w listen 127.0.0.1:0",
                    servers=[servers(hold), servers(naming("b"))])
    balancer.ctl(f'server 1 health down because "{EVIL}</script>"')
    return balancer


def written(balancer: Gpen) -> Path:
    """The file of -w, once a signal has had it written."""
    balancer.signal(signal.SIGUSR1)
    file = balancer.directory / "status.html"
    wait_until(file.exists)
    return file


def test_it_shows_what_was(tab: Tab, balancer: Gpen) -> None:
    with balancer.connect():
        wait_until(lambda: balancer.json("sessions"))
        file = written(balancer)
    tab.open(file.as_uri())
    year = time.strftime("%Y-%m-%d")
    assert tab.text("#live").startswith(f"as of {year}")
    assert tab.text(f"{row(0)} .health").startswith("up") and "1 of 1,000" in tab.text("#figures").replace("\n", " ")
    assert f"{EVIL}</script>" in tab.text(f"{row(1)} .reason") and tab.text("#events li:first-child .badge") == "down"
    assert "127.0.0.1" in tab.text("#sessions tbody") and "127.0.0.1" in tab.text("#recent tbody")
    assert len(tab.texts("#listeners tbody tr")) == 2 and "w" in tab.text("#listeners")
    assert tab.text("#explain-section") == tab.text("#sessions .rate") == "", "what asks for more is not there"
    tab.click("#sessions th:nth-child(3) button")
    assert tab.run("document.images.length") == 0
    assert tab.run("document.documentElement.scrollWidth") <= 1280
    tab.run("new Promise((done) => setTimeout(done, 1500))")
    assert {address.partition(":")[0] for address in tab.requests} <= {"file", "data"}, "it asks nobody, nor later"


def test_what_the_eye_would_not_see_is_written_out(tab: Tab, balancer: Gpen) -> None:
    """Should something ever tell it: characters that turn the direction round, or that nobody sees."""
    data = data_of(balancer.ctl("status"))
    data["servers"][0]["verdict_reason"] = "a\u202eb\u200bc\x1bd\u2028e\u3164f"
    page = balancer.directory / "page.html"
    page.write_text(snapshot(data.pop("as_of"), data.pop("info"), {name: data[name] for name in data if name != "cut"}))
    tab.open(page.as_uri())
    assert r"a\xe2\x80\xaeb\xe2\x80\x8bc\x1bd\xe2\x80\xa8e\xe3\x85\xa4f" in tab.text(f"{row(0)} .reason")


def test_only_its_own_script_runs(tab: Tab, balancer: Gpen) -> None:
    """Its policy stands in it: whatever else got into the file would not run."""
    file = written(balancer)
    file.write_text(file.read_text().replace("<main", "<script>document.title = 'taken'</script><main"))
    tab.open(file.as_uri())
    assert "gpen" in tab.run("document.title")
    wait_until(lambda: tab.run("1") and tab.complaints)
    assert all("Content Security Policy" in text or "ContentSecurityPolicy" in text for text in tab.complaints)
    tab.complaints.clear()


def test_without_javascript(tab: Tab, balancer: Gpen) -> None:
    tab.call("Emulation.setScriptExecutionDisabled", value=True)
    tab.call("Page.navigate", url=written(balancer).as_uri())
    tab.until("noscript", "JavaScript is off")
    assert tab.text("main") == ""


def test_status_is_the_same_page(balancer: Gpen) -> None:
    assert balancer.ctl("status").partition('"as_of"')[0] == written(balancer).read_text().partition('"as_of"')[0]


def test_no_more_rows_than_it_says(tab: Tab, gpen: Start, servers: Serve, tmp_path: Path) -> None:
    """However many there are: of each table the first 200, and it tells so."""
    balancer = gpen("-w", "status.html", "-x", "300", servers=[servers(hold)])
    balancer.ctl(*(f"server {n} address 127.1.1.{n % 250 + 1} port {n + 1}" for n in range(1, 300)))
    with contextlib.ExitStack() as stack:
        for _ in range(201):
            stack.enter_context(balancer.connect())
        wait_until(lambda: len(balancer.json("sessions")) == 201)
        file = written(balancer)
    data = data_of(file.read_text())
    assert {name: len(data[name]) for name in ("servers", "sessions", "events")} == dict.fromkeys(
        ("servers", "sessions", "events"), MOST_ROWS)
    assert file.stat().st_size < 400_000
    tab.open(file.as_uri())
    for name in ("servers", "sessions"):
        assert tab.text(f"#{name}-more") == "and more: the first 200 are shown"
        assert len(tab.texts(f"#{name} tbody tr")) == MOST_ROWS


@pytest.mark.parametrize("text", ["</script><script>alert(1)</script>", "<!--<script>", "\u2028\u2029", "\ud800", "]]>",
                                  "\0"])
def test_what_is_embedded_stays_in_its_element(text: str) -> None:
    """It is one element of ASCII, without a <, and the same again for whoever reads it."""
    shown = embedded({"name": text})
    assert shown.isascii() and "<" not in shown and shown.isprintable()
    assert json.loads(shown) == {"name": text}


def test_there_is_one_end_of_each_element() -> None:
    page = snapshot(0.0, {}, {"servers": [{"name": EVIL}]})
    assert page.count("</script>") == page.count("<script") == 2 and page.count("<style>") == 1
    assert EVIL not in page and data_of(page)["servers"] == [{"name": EVIL}]
    assert "page.js" not in page and "page.css" not in page
