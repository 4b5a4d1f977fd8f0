"""A real name server, nsd, with one small zone."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.servers import PATIENCE, family_of, free_port

ZONE = """\
$TTL 60
@ IN SOA ns hostmaster 1 3600 600 86400 60
@ IN NS ns
ns IN A 127.0.0.1
name IN TXT "{name}"
large IN TXT {large}
* IN A 192.0.2.2
"""

CONFIG = """\
server:
    ip-address: {host}@{port}
    username: ""
    zonesdir: "{directory}"
    database: ""
    pidfile: "{directory}/nsd.pid"
    xfrdfile: ""
    xfrdir: "{directory}"
    zonelistfile: "{directory}/zone.list"
    logfile: "{directory}/nsd.log"
    server-count: 1
    rrl-ratelimit: 0
    ipv4-edns-size: 4096
remote-control:
    control-enable: no
zone:
    name: gpen.test
    zonefile: "{directory}/zone"
"""

QUESTION = b"\0\7\1\0\0\1\0\0\0\0\0\0\3www\4gpen\4test\0\0\1\0\1"  # www.gpen.test A, number 7


@contextlib.contextmanager
def name_server(directory: Path, name: str = "one", host: str = "127.0.0.1", port: int = 0,
                wrapper: Sequence[str] = ()) -> Iterator[int]:
    """Serve the zone gpen.test, whose TXT record ``name`` says who answers; gives the port once it answers.

    ``wrapper`` is a command that starts commands. Raises AssertionError when it does not answer.
    """
    directory.mkdir(exist_ok=True)
    port = port or free_port(host)
    large = " ".join(f'"{"x" * 200}"' for _ in range(18))
    (directory / "zone").write_text(ZONE.format(name=name, large=large))
    (directory / "nsd.conf").write_text(CONFIG.format(directory=directory, host=host, port=port))
    command = [shutil.which("nsd") or "/usr/sbin/nsd", "-d", "-c", str(directory / "nsd.conf")]
    with (directory / "nsd.err").open("w") as errors:
        process = subprocess.Popen([*wrapper, *command], stdin=subprocess.DEVNULL, stdout=errors, stderr=errors)
    try:
        wait_for_answer(host, port, process)
        yield port
    finally:
        process.terminate()
        process.wait(PATIENCE)


def wait_for_answer(host: str, port: int, process: subprocess.Popen[bytes]) -> None:
    """Ask until somebody answers, for as long as the program that shall answer runs, or PATIENCE."""
    with socket.socket(family_of(host), socket.SOCK_DGRAM) as sock:
        sock.settimeout(0.1)
        sock.connect((host, port))
        for _ in range(int(PATIENCE / 0.1)):
            with contextlib.suppress(OSError):
                sock.send(QUESTION)
                if sock.recv(512)[:2] == QUESTION[:2]:
                    return
            assert process.poll() is None, f"{process.args!r} ended with {process.returncode}; its log says why"
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.05)
    raise AssertionError(f"no answer on {host}:{port}")
