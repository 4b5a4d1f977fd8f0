"""Chromium without a window, driven over a pair of pipes by its own protocol (DevTools): nothing else is installed."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from tests.harness import PATIENCE, wait_until

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
Message = dict[str, Any]


def program() -> str:
    """The path of a Chromium; where there is none the test is skipped, but for CI."""
    found = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if found is None:
        assert "CI" not in os.environ, "apt-get install chromium"
        pytest.skip("Chromium is not installed: it is in Debian's package chromium")
    return found


class BrowserError(Exception):
    """The browser has refused a command, or a script has failed."""


class Browser:
    """A Chromium with a profile of its own; use it in a ``with``."""

    def __init__(self, directory: Path) -> None:
        """``directory`` takes its profile, and what it tells on stderr."""
        its_input, self._output = os.pipe()
        self._input, its_output = os.pipe()
        # it reads commands from descriptor 3 and writes to descriptor 4: a shell moves ours there
        words = ["bash", "-c", 'exec "${@:3}" 3<&"$1" 4>&"$2"', "-", str(its_input), str(its_output), program(),
                 "--headless", "--remote-debugging-pipe", f"--user-data-dir={directory / 'profile'}", "--no-first-run",
                 "--disable-gpu", "--disable-dev-shm-usage", "--disable-extensions", "--disable-background-networking",
                 "--hide-scrollbars", "--force-color-profile=srgb", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
        with (directory / "chromium.err").open("w") as stderr:
            self._process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=stderr, stderr=stderr,
                                             pass_fds=(its_input, its_output), start_new_session=True,
                                             env={**os.environ, "HOME": str(directory), "LANG": "C.UTF-8"})
        os.close(its_input)
        os.close(its_output)
        self._numbers = itertools.count(1)
        self._received = b""
        self._tabs: dict[str, Tab] = {}

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.call("Browser.close")
            self._process.wait(PATIENCE)
        finally:
            os.close(self._output)
            os.close(self._input)
            if self._process.poll() is None:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()

    def tab(self) -> Tab:
        """A tab that shares nothing with others; use it in a ``with``."""
        context = self.call("Target.createBrowserContext")["browserContextId"]
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self._tabs[session] = Tab(self, session, context)
        return self._tabs[session]

    def call(self, method: str, session: str = "", **parameters: Any) -> Message:
        """A command's result. Raises BrowserError when it is refused."""
        number = next(self._numbers)
        command = {"id": number, "method": method, "params": parameters} | ({"sessionId": session} if session else {})
        os.write(self._output, json.dumps(command).encode() + b"\0")
        while (message := self._next(PATIENCE)).get("id") != number:
            self._tell(message)
        if "error" in message:
            raise BrowserError(f"{method}: {message['error']['message']}")
        result: Message = message["result"]
        return result

    def listen(self, seconds: float = 0.0) -> None:
        """Take what has been told meanwhile, and comes within so many seconds."""
        deadline = time.monotonic() + seconds
        while select.select([self._input], [], [], max(deadline - time.monotonic(), 0))[0] or b"\0" in self._received:
            self._tell(self._next(PATIENCE))

    def _tell(self, message: Message) -> None:
        if (tab := self._tabs.get(message.get("sessionId", ""))) is not None:
            tab.heed(message)

    def _next(self, seconds: float) -> Message:
        deadline = time.monotonic() + seconds
        while b"\0" not in self._received:
            if not select.select([self._input], [], [], max(deadline - time.monotonic(), 0))[0]:
                raise BrowserError(f"Chromium has told nothing for {seconds:g} s")
            piece = os.read(self._input, 1 << 16)
            if not piece:
                raise BrowserError("Chromium has ended")
            self._received += piece
        line, _, self._received = self._received.partition(b"\0")
        message: Message = json.loads(line)
        return message


class Tab:
    """A tab, and what went wrong in it: what is written to its console, scripts that fail, what its policy forbids, and
    requests that fail."""

    def __init__(self, browser: Browser, session: str, context: str) -> None:
        self._browser, self._session, self._context = browser, session, context
        self.complaints: list[str] = []
        self.requests: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network", "Audits"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> Tab:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None,
                 ) -> None:
        self._browser.call("Target.disposeBrowserContext", browserContextId=self._context)

    @contextlib.contextmanager
    def neighbour(self) -> Iterator[None]:
        """Another tab in the same window, in front of it."""
        target = self._browser.call("Target.createTarget", url="about:blank", browserContextId=self._context)
        yield
        self._browser.call("Target.closeTarget", **target)

    def call(self, method: str, **parameters: Any) -> Message:
        return self._browser.call(method, self._session, **parameters)

    def heed(self, message: Message) -> None:
        """Remember what an event complains of, and which addresses are asked for."""
        method, params = message["method"], message["params"]
        if method == "Runtime.consoleAPICalled":
            self.complaints.append(str([value.get("value") for value in params["args"]]))
        elif method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.complaints.append(details.get("exception", {}).get("description", details["text"]))
        elif method == "Log.entryAdded":
            self.complaints.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
        elif method == "Audits.issueAdded" and params["issue"]["code"] == "ContentSecurityPolicyIssue":
            self.complaints.append(json.dumps(params["issue"]))
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])

    def show(self, width: int, height: int, scheme: str = "light", phone: bool = False) -> None:
        """How large its window is, in CSS pixels, and which colours are preferred: light or dark."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def open(self, url: str) -> None:
        """Go there, and wait until it is loaded."""
        if "errorText" in (told := self.call("Page.navigate", url=url)):
            raise BrowserError(f"{url}: {told['errorText']}")
        wait_until(lambda: self.run("document.readyState === 'complete' && location.href !== 'about:blank'"),
                   what=f"that {url} is loaded")

    def run(self, script: str) -> Any:
        """The value of an expression, as JSON has it; a promise is waited for. Raises BrowserError when it throws."""
        told = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in told:
            raise BrowserError(told["exceptionDetails"]["exception"].get("description", script))
        return told["result"].get("value")

    def text(self, selector: str) -> str:
        """What is to be read of an element; empty where there is none, or where it is hidden."""
        return str(self.run(f"""((element) => element?.checkVisibility() ? element.innerText : "")
            (document.querySelector({json.dumps(selector)}))"""))

    def texts(self, selector: str) -> list[str]:
        """The same of all elements of a kind."""
        found: list[str] = self.run(f"[...document.querySelectorAll({json.dumps(selector)})].map((e) => e.innerText)")
        return found

    def until(self, selector: str, word: str, seconds: float = PATIENCE) -> str:
        """Wait until this word is to be read in an element, and return all of its text."""
        def text() -> str:
            return shown if word in (shown := self.text(selector)) else ""

        return str(wait_until(text, seconds, f"{word!r} in {selector}"))

    def click(self, selector: str) -> None:
        """Press the mouse in the middle of what is there to be seen."""
        wait_until(lambda: self.run(f"!!document.querySelector({json.dumps(selector)})?.offsetParent"),
                   what=f"that {selector} can be seen")
        x, y = self.run(f"""(() => {{
            const element = document.querySelector({json.dumps(selector)});
            element.scrollIntoView({{block: "center"}});
            const {{x, y, width, height}} = element.getBoundingClientRect();
            return [x + width / 2, y + height / 2];
        }})()""")
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def type(self, text: str) -> None:
        """Type into what has the focus."""
        self.call("Input.insertText", text=text)

    def press(self, key: str) -> None:
        """A key by its name: Enter, Tab, Escape."""
        codes = {"Enter": 13, "Tab": 9, "Escape": 27}
        more = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=codes[key],
                      **(more if kind == "keyDown" else {}))

    def picture(self) -> bytes:
        """What is to be seen, as a PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])
