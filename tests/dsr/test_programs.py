"""Direct server return with real programs: nginx and nsd behind it, and pen in gpen's place."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.dsr.conftest import PORT, SERVERS, SERVICE, Lan, Start
from tests.dsr.measure import leave_nothing_to_the_card
from tests.harness import COMMAND, needs_root, wait_until
from tests.networks import Machine

pytestmark = needs_root

NGINX = """\
daemon off;
user root;
pid {directory}/nginx.pid;
error_log stderr crit;
worker_processes 1;
events {{ worker_connections 100; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy; fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi; scgi_temp_path {directory}/scgi;
    server {{
        listen 80;
        root {directory};
        location /who {{ return 200 "{name} sees $remote_addr at $server_addr"; }}
    }}
}}
"""
NSD = """\
server:
    ip-address: {service}
    server-count: 1
    username: ""
    zonesdir: {directory}
    database: ""
    xfrdfile: {directory}/xfrd
    pidfile: ""
    identity: "{name}"
zone:
    name: example.org
    zonefile: zone
"""
ZONE = "@ 60 IN SOA ns hostmaster 1 60 60 60 60\n@ 60 IN NS ns\nns 60 IN A 192.0.2.100\n@ 60 IN TXT {texts}\n"


@contextmanager
def at(machine: Machine, *command: str) -> Iterator[None]:
    with subprocess.Popen([*machine.wrapper, *command], stdin=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.terminate()


def needs(program: str) -> None:
    if not shutil.which(program) and not os.environ.get("CI"):
        pytest.skip(f"{program} is not installed")


def test_nginx(direct: Start, lan: Lan, tmp_path: Path) -> None:
    """Serves a file of some megabytes past gpen, which carries the acknowledgements only."""
    needs("nginx")
    balancer = direct("-r", listen=f"{SERVICE}:80")
    with ExitStack() as stack:
        for machine, name in zip(lan.servers, SERVERS, strict=True):
            directory = tmp_path / name
            directory.mkdir()
            (directory / "file").write_bytes(data := os.urandom(4 << 20))
            (directory / "nginx.conf").write_text(NGINX.format(directory=directory, name=name))
            stack.enter_context(at(machine, "nginx", "-e", "stderr", "-p", str(directory), "-c",
                                   str(directory / "nginx.conf")))
        for name in SERVERS:
            wait_until(partial(_is_open, lan, name, 80), what="nginx")
        with lan.client.entered():
            said = {_get("/who") for _ in SERVERS}
            assert said == {f"{name} sees 192.0.2.1 at {SERVICE}".encode() for name in SERVERS}
            balancer.ctl(*(f"server {number} state drain" for number in (0, 1)))
            assert hashlib.sha256(_get("/file")).digest() == hashlib.sha256(data).digest()
    assert balancer.server(2)["sx"] < 1 << 20


def _is_open(lan: Lan, host: str, port: int) -> bool:
    try:
        with lan.client.entered():
            socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True


def _get(path: str) -> bytes:
    with urllib.request.urlopen(f"http://{SERVICE}{path}", timeout=20) as answer:
        body: bytes = answer.read()
    return body


def test_name_servers(direct: Start, lan: Lan, tmp_path: Path) -> None:
    """Answer questions of UDP, and what does not fit is asked again over TCP: at one address, two listeners."""
    needs("nsd")
    needs("dig")
    direct("-r", "-U", "-O", f"listener tcp listen {SERVICE}:53", "-O", "listener tcp no udp", listen=f"{SERVICE}:53")
    with ExitStack() as stack:
        for machine, name in zip(lan.servers, SERVERS, strict=True):
            directory = tmp_path / name
            directory.mkdir()
            (directory / "zone").write_text(ZONE.format(texts=" ".join(f'"{"x" * 200}"' for _ in range(20))))
            (directory / "nsd.conf").write_text(NSD.format(directory=directory, name=name, service=SERVICE))
            stack.enter_context(at(machine, "nsd", "-d", "-c", str(directory / "nsd.conf")))
        wait_until(lambda: {_dig(lan, "id.server", "CH", "TXT") for _ in range(6)} >= {f'"{name}"' for name in SERVERS},
                   what="all name servers")
        assert _dig(lan, "ns.example.org", "A") == SERVICE
        assert len(_dig(lan, "example.org", "TXT")) > 4000


def _dig(lan: Lan, *question: str) -> str:
    done = subprocess.run([*lan.client.wrapper, "dig", f"@{SERVICE}", "+short", "+tries=1", "+timeout=2", *question],
                          capture_output=True, text=True, check=False, timeout=30)
    return done.stdout.strip()


@pytest.mark.parametrize("program", ["gpen", "pen"])
def test_beside_pen(lan: Lan, tmp_path: Path, program: str) -> None:
    """With the same command line, and nothing left to the card, which pen needs: connections of one client go to all
    servers, and last."""
    needs("pen")
    for machine in (lan.client, lan.balancer, *lan.servers):
        leave_nothing_to_the_card(machine)
    lan.balancer.run("ip address flush dev cable")
    command = COMMAND if program == "gpen" else ["pen"]
    options = ["-f", "-r", "-O", "dsr_if cable", "-O", "acl 1 permit 192.0.2.55", "-O", "tarpit_acl 1",
               f"{SERVICE}:{PORT}", *(f"{server}:{PORT}" for server in SERVERS)]
    with at(lan.balancer, *map(str, command), *options), ExitStack() as stack:
        wait_until(lambda: _is_open(lan, SERVICE, PORT), what="the first connection")
        names = set()
        for _ in range(40):
            sock, name = lan.connect()
            stack.enter_context(sock)
            sock.sendall(b"still there?")
            assert sock.recv(100) == b"still there?"
            names.add(name)
        assert names == set(SERVERS)
        if program == "gpen":  # Linux does not take pen's SYN+ACK
            wait_until(lambda: _is_open(lan, "192.0.2.55", 22), what="the tarpit")


def test_begun_anew(direct: Start, lan: Lan) -> None:
    """On another machine, which tells the network that the address is there now: a gpen that knows no connection sends
    what comes in their midst where stateless says, which is where it was."""
    first = direct("-O", "stateless")
    with ExitStack() as stack, Machine() as spare:
        lan.switch.plug(spare, "192.0.2.3/24")
        socks = [stack.enter_context(lan.connect()[0]) for _ in range(4)]
        assert first.stop() == 0
        lan.balancer = spare
        second = direct("-O", "stateless")
        for sock in socks:
            sock.sendall(b"still there?")
            assert sock.recv(100) == b"still there?"
        assert len(second.json("sessions")) == 4
        assert {row["state"] for row in second.json("sessions")} == {"open"}
