"""Pictures of the page for docs/, of a gpen with servers and clients: ``python -m tests.web.pictures`` (make pictures).

Needs Chromium, half a minute, and 127.77.0.1 to 127.77.0.6 for itself.
"""

from __future__ import annotations

import contextlib
import math
import random
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from tests.harness import ROOT, Gpen
from tests.servers import Server
from tests.web.chromium import Browser
from tests.web.png import reduced

SECONDS = 32  # of traffic before the pictures
CLIENTS = 40
GPEN, REPORTS, PAGE = "127.77.0.6:3306", "127.77.0.6:3307", "127.77.0.6:9180"
LARGEST = 150_000  # bytes


def answer(sock: socket.socket) -> None:
    """A server: some more for each request."""
    while data := sock.recv(1 << 16):
        sock.sendall(data * random.randint(2, 12))


class Traffic:
    """Clients that come, ask for a while, and go."""

    def __init__(self, balancer: Gpen) -> None:
        self._balancer = balancer
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(CLIENTS)]

    def __enter__(self) -> None:
        for thread in self._threads:
            thread.start()

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, number: int) -> None:
        while not self._is_over.is_set():
            with contextlib.suppress(OSError), self._balancer.connect(f"127.77.1.{random.randint(1, 60)}") as sock:
                for _ in range(random.randint(10, 90)):
                    sock.sendall(b"x" * int(800 + 600 * math.sin(time.monotonic() / 4 + number % 3)))
                    sock.recv(1 << 16)
                    self._is_over.wait(random.uniform(0.02, 0.2))
                    if self._is_over.is_set():
                        return


@contextlib.contextmanager
def scene(directory: Path) -> Iterator[tuple[Gpen, Server]]:
    """A gpen with five servers, and one of these that may be closed."""
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(Server(answer, at=f"127.77.0.{n}", port=3306)) for n in range(1, 6)]
        (directory / "token").write_text("as-long-as-it-is-secret\n")
        (directory / "token").chmod(0o600)
        balancer = stack.enter_context(Gpen(
            directory, "-r", "-O", f"metrics {PAGE}", "-O", "metrics_control on", "-O", "metrics_token token", "-O",
            "check connect", "-O", "check_interval 1", "-O", "check_fall 1", "-O", f"listener reports listen {REPORTS}",
            "-O", "listener reports servers 3-4", GPEN, *(f"{server.address}:40" for server in servers)))
        balancer.ctl("server 0 health up because Synced", "server 1 health up because Synced",
                     "server 2 health up because Synced")
        yield balancer, servers[4]


def main() -> None:
    with tempfile.TemporaryDirectory() as name, scene(Path(name)) as (balancer, victim), Traffic(balancer), \
            Browser(Path(name)) as browser, browser.tab() as tab:
        tab.show(1280, 900)
        tab.open(f"http://{PAGE}/")
        browser.listen(SECONDS / 2)
        balancer.ctl('server 2 health down because "wsrep_local_state is Donor/Desynced, not Synced"')
        browser.listen(SECONDS / 4)
        balancer.ctl("server 3 state drain")
        victim.close()
        browser.listen(SECONDS / 4)
        tab.click("#explain-address")
        tab.type("10.0.0.7")
        tab.press("Enter")
        tab.until("#explained", "10.0.0.7")
        tab.run("document.activeElement.blur(), scrollTo(0, 0)")
        tab.call("Input.dispatchMouseEvent", type="mouseMoved", x=0, y=0)
        for width, height in ((1280, 900), (390, 1240)):
            for scheme in ("light", "dark"):
                tab.show(width, height, scheme, phone=width < 500)
                browser.listen(0.5)
                file = ROOT / "docs" / f"page-{width}-{scheme}.png"
                file.write_bytes(reduced(tab.picture()))
                assert file.stat().st_size <= LARGEST, f"{file} is larger than {LARGEST} bytes"
                print(file)


if __name__ == "__main__":
    main()
