"""The scripts of contrib/on_event, run by a gpen whose servers come and go."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tests.contrib.service import CONTRIB
from tests.harness import Gpen, Server, naming, wait_until

SCRIPTS = CONTRIB / "on_event"
Start = Callable[..., Gpen]
Serve = Callable[..., Server]


class Service:
    """A web service that keeps what it is sent, and answers with a status."""

    def __init__(self) -> None:
        self.heard: list[dict[str, object]] = []
        self.status = 200
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                assert self.headers["Content-Type"] == "application/json"
                service.heard.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(service.status)
                self.end_headers()

            def log_message(self, format: str, *arguments: object) -> None:
                """Nobody needs to know."""

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def service() -> Iterator[Service]:
    service = Service()
    yield service
    service.close()


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_webhook(gpen: Start, servers: Serve, service: Service, tmp_path: Path) -> None:
    file = tmp_path / "hook"
    file.write_text(f'url = "{service.url}"\n')
    server = servers(naming("a"))
    balancer = gpen("-O", f'on_event "{SCRIPTS / "webhook"} -e \'down up unready\' {file}"', servers=[server])
    balancer.ctl("server 0 health drain because unimportant")
    balancer.ctl('server 0 health down because "a \\"quote\\" and \\\\ é $(id)"')
    wait_until(lambda: len(service.heard) == 2)
    told = next(row for row in service.heard if row["about"] == "server")
    reason = 'a "quote" and \\ é $(id)'
    assert {"event": "down", "server": "0", "address": server.address, "old": "drained", "new": "down",
            "reason": reason, "listener": "", "lost": 0}.items() <= told.items()
    assert told["text"] == f"gpen on {os.uname().nodename}: server 0 ({server.address}): down ({reason})"
    service.status = 500
    balancer.ctl("server 0 health up")
    wait_until(lambda: "on_event: 'up' of server 0 was not told: exit status 1: curl: (22) The requested URL" in
               balancer.stderr)


def test_mail(gpen: Start, servers: Serve, tmp_path: Path) -> None:
    sendmail, sent = tmp_path / "sendmail", tmp_path / "sent"
    sendmail.write_text(f'#!/bin/sh\n{{ echo "$*"; cat; }} >{sent}.new && mv {sent}.new {sent}\n')
    sendmail.chmod(0o755)
    server = servers(naming("a"))
    balancer = gpen("-O", f'on_event "{SCRIPTS / "mail"} -e down -f gpen@example.org -s {sendmail} '
                    'a@example.org b@example.org"', servers=[server, servers(naming("b"))])
    balancer.ctl("server 0 health down because disk é is full")
    words = wait_until(lambda: sent.exists() and sent.read_text())
    options, _, mail = words.partition("\n")
    head, _, body = mail.partition("\n\n")
    assert options == "-t -i"
    assert head.splitlines()[:3] == [
        "From: gpen@example.org", "To: a@example.org, b@example.org",
        f"Subject: gpen on {os.uname().nodename}: server 0 ({server.address}): down"]
    assert "reason:    disk é is full\nbefore:    up\nnow:       down\nlisteners: -\n" in body
    sendmail.write_text("#!/bin/sh\necho queue is full; exit 75\n")
    balancer.ctl("server 1 health down")
    wait_until(lambda: "exit status 1: queue is full" in balancer.stderr)


@pytest.mark.parametrize("asked", ["-h", "--help"])
@pytest.mark.parametrize("name", ["mail", "webhook"])
def test_usage(name: str, asked: str) -> None:
    done = subprocess.run([SCRIPTS / name, asked], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith(f"Usage: {name} ")
    assert max(map(len, done.stdout.splitlines())) <= 80
    for wrong in ([], ["-x"], ["/nowhere"]):
        done = subprocess.run([SCRIPTS / name, *wrong], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 2 and done.stdout.startswith(f"{name}: ")


@pytest.mark.parametrize("name", ["mail", "webhook"])
def test_shells_have_nothing_against_them(name: str) -> None:
    if not shutil.which("shellcheck"):
        pytest.skip("shellcheck is not installed")
    done = subprocess.run(["shellcheck", SCRIPTS / name], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "")
