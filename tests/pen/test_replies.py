"""Every reply of pen's control protocol, to the letter: the same script to pen and to gpen, by penctl and by gpenctl.

Not sent, because pen 0.34.1 dies of them: ``source`` without an address and ``no acl`` without a number.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.harness import Server, read_all, wait_until
from tests.pen.balancers import GPEN, PEN, Balancer, needs_pen

pytestmark = needs_pen

# Groups of commands that do not touch each other's state; in a group each meets what those before it have made.
SCRIPT = """
pid
listen
control
connection 0
connection 3
connection 499
connection 5000
close 0
close 9000
socket 0
socket 99
idlers
idlers 0

recent
recent 60
exit
foo
foo bar
keepalive
no keepalive
no http
no transparent
pending_max 5
source 127.0.0.1

blacklist
blacklist 9
blacklist
tracking
tracking 2
tracking
clients_max
clients_max 3000
clients_max
debug
write {directory}/written.cfg

client_acl
client_acl 1
client_acl
client_acl 0
control_acl
control_acl 2
control_acl 0
acl 1 permit 10.0.0.0 255.0.0.0
acl 1 deny 10.0.0.1
acl 9 permit 2001:db8::/32
acl 9 deny ::1
no acl 1
no acl 9

log
log {directory}/session.log
log
no log
log
web_stats
web_stats {directory}/status.html
web_stats
no web_stats
web_stats

idle_timeout
idle_timeout 5
idle_timeout
idle_timeout 0
abort_on_error
no abort_on_error
ascii
no ascii
dummy
no dummy
tcp_nodelay
no tcp_nodelay
tcp_fastclose up
tcp_fastclose down
tcp_fastclose both
tcp_fastclose off

mode
hash
mode
roundrobin
stubborn
weight
prio
mode
no hash
no roundrobin
no stubborn
no weight
no prio
mode
timeout
timeout 7
timeout
include {directory}/more.cfg
timeout
mode

servers
server 0 acl 1
server 0 acl 0
server 0 max 11 hard 21
servers
server 0 weight 5 prio 6
servers
server 1 port 9
server 1 address 127.0.0.2 port 10 max 1 hard 2
servers
server 0 blacklist 3
server 0 blacklist 0
server 2 address 127.0.0.3 port 11 max 0 hard 0 weight 7 prio 0
servers

conn_max
conn_max 600
conn_max
"""

Pair = dict[str, Balancer]


@pytest.fixture
def both(tmp_path: Path, farm: dict[str, Server]) -> Iterator[Callable[..., Pair]]:
    """Start pen and gpen with the same arguments: both("-r")."""
    with ExitStack() as stack:

        def begin(*options: str) -> Pair:
            places = [f"{farm['A'].address}:10:20:3:1", f"{farm['B'].address}:0:0:1:0"]
            return {kind: stack.enter_context(Balancer(kind, tmp_path, *options, servers=places))
                    for kind in (PEN, GPEN)}

        yield begin


def script(directory: Path) -> list[list[str]]:
    """The groups of SCRIPT, with a directory for their files."""
    (directory / "more.cfg").write_text("# more\ntimeout 8\n\nhash\n")
    return [group.splitlines() for group in SCRIPT.format(directory=directory).strip().split("\n\n")]


def test_every_reply_by_penctl(both: Callable[..., Pair], open_directory: Path) -> None:
    """In groups at the same time: penctl leaves its end open, so that each reply of gpen takes 0.2 s to end."""
    pair, groups = both(), script(open_directory)
    with ThreadPoolExecutor(len(groups)) as threads:
        for group, (of_pen, of_gpen) in zip(groups, threads.map(lambda g: replies_by_penctl(pair, g), groups),
                                            strict=True):
            assert list(zip(group, of_gpen, strict=True)) == list(zip(group, of_pen, strict=True))


def replies_by_penctl(pair: Pair, lines: list[str]) -> list[list[str]]:
    return [[balancer.plain(balancer.penctl(line)) for line in lines] for balancer in (pair[PEN], pair[GPEN])]


def test_every_reply_by_gpenctl(both: Callable[..., Pair], open_directory: Path) -> None:
    lines = [line for group in script(open_directory) for line in group]
    outcomes = []
    for balancer in both().values():
        status, replies, errors = balancer.gpenctl(*lines)
        outcomes.append((status, [balancer.plain(f"{reply}\n") for reply in replies.splitlines()], errors))
    assert outcomes[0] == outcomes[1]
    assert outcomes[0][0] == 1 and outcomes[0][2].count("do_cmd: ignoring command starting with 'foo'") == 2


def test_replies_after_traffic(both: Callable[..., Pair]) -> None:
    """Bytes and connects are counted alike."""
    said: dict[str, tuple[str, list[str]]] = {}
    for kind, balancer in both().items():
        balancer.ask("server 1 blacklist 600")
        for source, size in (("127.0.0.2", 10), ("127.0.0.3", 20), ("127.0.0.2", 70)):
            sock, name = balancer.open(source)
            assert name == "A"
            sock.sendall(b"x" * size)
            assert len(sock.recv(size)) == size
            sock.close()
            wait_until(lambda: not any(balancer.sessions()))  # noqa: B023
        said[kind] = balancer.ask("servers"), sorted(balancer.ask("recent").splitlines())
    assert said[GPEN] == said[PEN]
    assert said[GPEN][0].splitlines()[0].endswith(" sx 100 rx 103")
    assert said[GPEN][1] == ["127.0.0.2 connects 2 sx 82 rx 80", "127.0.0.3 connects 1 sx 21 rx 20"]


def test_a_connection_that_is_open(both: Callable[..., Pair]) -> None:
    for balancer in both().values():
        balancer.ask("server 0 blacklist 600")
        with balancer.open()[0] as sock:
            sock.sendall(b"x")
            assert sock.recv(1) == b"x"
            reply = balancer.ask("connection 0")
            shown = re.fullmatch(r"Connection 0:\nstate = (\d+)\ndownfd = (\d+), upfd = (\d+)\n"
                                 r"client = 0, server = 1\npend = 0\n", reply)
            assert shown, f"{balancer.kind}: {reply}"
            assert shown[1] == "2"
            for number in shown.groups()[1:]:
                assert balancer.ask(f"socket {number}") == f"Socket {number} belongs to connection 0\n"
            assert balancer.ask("close 0") == "Forcibly closing connection 0\n"
            assert read_all(sock) == b""


def test_exit(both: Callable[..., Pair]) -> None:
    for balancer in both("-X").values():
        assert balancer.ask("exit") == ""
        balancer.ends()


def test_the_status_page(both: Callable[..., Pair], open_directory: Path) -> None:
    for balancer in both("-w", f"{open_directory}/status.html").values():
        reply = balancer.penctl("status")
        assert re.search(r"(?i)<html", reply) and "127.0.0.1" in reply


# --- where gpen differs on purpose -----------------------------------------------------------------------------------

DIFFERENCES = [
    ("timeout abc", "0\n", r"error: timeout: 'abc' is not .*"),  # pen takes a wrong number as 0
    ("client_acl 12", "0\n", r"error: client_acl: '12' is not .*"),
    ("acl 12 permit 10.0.0.1", "", r"error: acl: '12' is not .*"),
    ("server 0 max x", "", r"error: server: max: 'x' is not .*"),
    ("server 7 max 1", "", r"error: server: there is no server 7 .*"),  # pen makes ghosts up to number 7
    ("clients_max 100", "2048\n", "100"),  # pen only grows them
    ("conn_max 100", "500\n", "100"),
    ("include NONE", "", r"error: can't read the file 'NONE'.*"),  # pen: only in its log
    ("transparent", "", "error: transparent: needs the capability CAP_NET_RAW .*"),  # which it has given up
    ("ssl_ocsp_response /x", "", "error: ssl_ocsp_response: OCSP stapling is not possible .*"),
]


def test_intended_differences(both: Callable[..., Pair], tmp_path: Path) -> None:
    pair = both()
    for line, of_pen, of_gpen in DIFFERENCES:
        line, of_gpen = (text.replace("NONE", str(tmp_path / "none")) for text in (line, of_gpen))
        assert pair[PEN].ask(line) == of_pen, line
        assert re.fullmatch(f"{of_gpen}\n", pair[GPEN].ask(line)), line
    for kind, servers in (PEN, 8), (GPEN, 2):
        assert len(pair[kind].ask("servers").splitlines()) == servers, "servers are never ghosts in gpen"


def test_the_default_weight(both: Callable[..., Pair]) -> None:
    for balancer, weight in zip(both().values(), (0, 1), strict=True):
        balancer.ask("server 2 address 127.0.0.1 port 9")
        assert f" weight {weight} " in balancer.ask("servers").splitlines()[2]
