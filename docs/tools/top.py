"""docs/top.svg: `gpenctl TARGET top`, as a real run looks: a gpen, four servers, clients, and one server that dies.

    python docs/tools/top.py docs/top.svg [SECONDS]

Takes a minute and a half, so that there is something in the graphs. Needs rich. Run by `make pictures`.
"""

from __future__ import annotations

import contextlib
import math
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from terminal import picture

from gpen.gpenctl.board import Board, Shown
from gpen.gpenctl.dashboard import Dashboard
from gpen.gpenctl.feed import Feed
from gpen.gpenctl.link import Target, ask
from gpen.gpenctl.show import View
from gpen.gpenctl.signs import Signs

GPEN = Path(__file__).resolve().parent.parent.parent / "bin" / "gpen"
HOSTS = ("127.0.0.11", "127.0.0.12", "127.0.0.13", "127.0.0.14")
LIMITS = (16, 16, 16, 8)
CLIENTS = 60
WIDTH, HEIGHT = 132, 26  # characters
SECONDS = 90.0
DEATH = 0.8  # of that time, when one server dies


def main(file: str, seconds: float = SECONDS) -> None:
    """Write the picture."""
    with tempfile.TemporaryDirectory(prefix="gpen-top-") as directory, contextlib.ExitStack() as stack:
        servers = [stack.enter_context(serving(host)) for host in HOSTS]
        addresses = [f"{host}:{server.getsockname()[1]}:{most}"
                     for host, server, most in zip(HOSTS, servers, LIMITS, strict=True)]
        control = stack.enter_context(balancing(Path(directory, "gpen.ctl"), addresses))
        view = View(Target("/run/gpen.ctl", path=str(control)), 10.0, "table", True, True)
        board, shown, feed = Board(), Shown(view.target.text, 1.0), Feed(view)
        listen = listening(feed)
        stack.enter_context(asking(listen))
        ends, dies = time.monotonic() + seconds, time.monotonic() + seconds * DEATH
        while time.monotonic() < ends:
            board.take(feed.look("listeners", "events 30", "info"))
            if time.monotonic() > dies and servers[2].fileno() >= 0:
                close(servers[2])
                ask(view.target, "server 3 state drain", view.timeout)
            time.sleep(shown.interval)
        board.choose(2)
        lines = Dashboard(True, Signs()).lines(board, shown, WIDTH, HEIGHT)
    Path(file).write_text(picture(f"gpenctl {shown.target} top", "\n".join(lines), WIDTH))


@contextlib.contextmanager
def serving(host: str) -> Iterator[socket.socket]:
    """A server that answers each connection at length, when it has heard something; until the socket is closed."""
    server = socket.create_server((host, 0))

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=answer, args=(server.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    with server:
        yield server


def close(server: socket.socket) -> None:
    with contextlib.suppress(OSError):
        server.shutdown(socket.SHUT_RDWR)
    server.close()


def answer(client: socket.socket) -> None:
    with client, contextlib.suppress(OSError):
        while client.recv(4096):
            client.sendall(bytes(random.randrange(200, 20_000)))


@contextlib.contextmanager
def balancing(control: Path, servers: list[str]) -> Iterator[Path]:
    """A gpen with this control socket."""
    options = ("-r", "-x", "200", "-O", "check connect", "-O", "check_interval 1",
               "-O", "listener reports listen 127.0.0.1:0", "-O", "listener reports servers 2-3")
    with subprocess.Popen([sys.executable, GPEN, "-f", "-C", control, *options, "127.0.0.1:0", *servers],
                          stderr=subprocess.DEVNULL) as process:
        try:
            yield control
        finally:
            process.terminate()


def listening(feed: Feed) -> tuple[str, int]:
    """Where gpen listens for clients."""
    while (look := feed.look("listeners")).problem:
        time.sleep(0.1)
    host, _, port = str(look.of("listeners")[0]["address"]).rpartition(":")
    return host, int(port)


@contextlib.contextmanager
def asking(address: tuple[str, int]) -> Iterator[None]:
    """Clients that come and go, now more, now fewer."""
    over = threading.Event()

    def come(number: int) -> None:
        while not over.wait(random.random() * 2 + 1 + math.sin(time.monotonic() / 9 + number / CLIENTS)):
            with contextlib.suppress(OSError), socket.create_connection(address, 5) as client:
                for _ in range(random.randrange(1, 12)):
                    client.sendall(bytes(random.randrange(50, 800)))
                    if not client.recv(65536) or over.wait(random.random() / 3):
                        break

    threads = [threading.Thread(target=come, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


if __name__ == "__main__":
    main(sys.argv[1], *map(float, sys.argv[2:]))
