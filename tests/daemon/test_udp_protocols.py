"""Real protocols over UDP: DNS with nsd, dig and dnsperf; syslog with logger."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.datagrams import DatagramServer, endings, silence
from tests.harness import Gpen, wait_until
from tests.nameserver import name_server

Start = Callable[..., Gpen]


def needs(*programs: str) -> pytest.MarkDecorator:
    absent = [program for program in programs if not shutil.which(program, path="/usr/sbin:/usr/bin:/sbin:/bin")]
    return pytest.mark.skipif(bool(absent), reason=f"not installed: {', '.join(absent)}")


@pytest.fixture
def names(tmp_path: Path) -> Iterator[list[str]]:
    """Two name servers, called one and two."""
    with ExitStack() as stack:
        yield [f"127.0.0.1:{stack.enter_context(name_server(tmp_path / name, name))}" for name in ("one", "two")]


def dig(balancer: Gpen, *question: str, at: str = "127.0.0.1", source: str = "") -> str:
    """The answer; without another try, so that nothing may be lost."""
    address = [f"@{at}", "-p", str(balancer.address[1]), *(["-b", source] if source else [])]
    done = subprocess.run(["dig", "+short", "+tries=1", "+time=5", *address, *question], capture_output=True, text=True,
                          timeout=20, check=False)
    assert done.returncode == 0, done.stdout
    return done.stdout.strip()


def dnsperf(balancer: Gpen, *options: str) -> tuple[int, int]:
    """Queries sent and lost."""
    queries = balancer.directory / "queries"
    queries.write_text("www.gpen.test A\nname.gpen.test TXT\n")
    done = subprocess.run(["dnsperf", "-s", "127.0.0.1", "-p", str(balancer.address[1]), "-d", str(queries), *options],
                          capture_output=True, text=True, timeout=50, check=True)
    found = dict(re.findall(r"Queries (sent|lost): +(\d+)", done.stdout))
    return int(found["sent"]), int(found["lost"])


@needs("nsd", "dig")
@pytest.mark.parametrize("listen", ["127.0.0.1:0", "0", "[::]:0"])
def test_dig(gpen: Start, names: list[str], listen: str) -> None:
    balancer = gpen("-U", "-r", "-O", "udp_replies 1", servers=names, listen=listen)
    for at in ("127.0.0.1",) if listen.startswith("127") else ("127.0.0.1", "127.0.0.2"):
        assert {dig(balancer, "name.gpen.test", "TXT", at=at) for _ in range(2)} == {'"one"', '"two"'}
    assert dig(balancer, "www.gpen.test") == "192.0.2.2"
    assert dig(balancer, "+bufsize=4096", "+ignore", "large.gpen.test", "TXT").count("x") == 3600
    balancer.wait_idle()


@needs("nsd", "dig")
def test_the_resolver_stays_with_its_server(gpen: Start, names: list[str]) -> None:
    balancer = gpen("-U", servers=names)
    for source in ("127.0.0.2", "127.0.0.3"):
        first = dig(balancer, "name.gpen.test", "TXT", source=source)
        assert {dig(balancer, "name.gpen.test", "TXT", source=source) for _ in range(3)} == {first}


@needs("nsd", "dig")
def test_a_name_server_that_dies_and_comes_back(gpen: Start, tmp_path: Path) -> None:
    """Nobody's query is lost: what the dead one refuses goes to the other."""
    with name_server(tmp_path / "two", "two") as two:
        with name_server(tmp_path / "one", "one") as one:
            balancer = gpen("-U", "-r", "-b", "1", "-O", "udp_replies 1",
                            servers=[f"127.0.0.1:{one}", f"127.0.0.1:{two}"])
            assert {dig(balancer, "name.gpen.test", "TXT") for _ in range(2)} == {'"one"', '"two"'}
        assert [dig(balancer, "name.gpen.test", "TXT") for _ in range(4)] == ['"two"'] * 4
        assert balancer.server(0)["reason"] == "connection refused"
        with name_server(tmp_path / "again", "one", port=one):
            wait_until(lambda: balancer.server(0)["health"] == "trial")
            assert {dig(balancer, "name.gpen.test", "TXT") for _ in range(3)} == {'"one"', '"two"'}
            assert balancer.server(0)["health"] == "up"


@needs("nsd", "dnsperf")
@pytest.mark.parametrize("replies", [0, 1])
def test_nothing_is_lost(gpen: Start, names: list[str], replies: int) -> None:
    balancer = gpen("-U", "-r", "-O", f"udp_replies {replies}", servers=names)
    sent, lost = dnsperf(balancer, "-l", "2", "-Q", "2000", "-c", "50")
    assert sent > 3000
    assert lost == 0
    assert min(row["total"] for row in balancer.json("servers")) >= 25
    if replies:
        balancer.wait_idle()


@needs("logger")
def test_syslog(gpen: Start) -> None:
    """Nobody replies, and nobody is to blame; a collector that is gone is replaced, with what was refused."""
    with DatagramServer(silence) as a, DatagramServer(silence) as b:
        balancer = gpen("-U", "-l", "gpen.log", "-O", "udp_timeout 0.1", servers=[a.address, b.address])
        say = ["logger", "--udp", "-n", "127.0.0.1", "-P", str(balancer.address[1]), "--rfc3164", "-t", "tests"]
        for number in range(5):
            subprocess.run([*say, f"message {number}"], check=True, timeout=20)
        wait_until(lambda: len(a.received) == 5)
        assert [line.rpartition(b"tests: ")[2] for line in a.received] == [b"message %d" % n for n in range(5)]
        assert endings(balancer, 5) == ["silent"] * 5
        assert balancer.server(0)["failures"] == 0
        a.close()
        subprocess.run([*say, "message 5"], check=True, timeout=20)
        wait_until(lambda: len(b.received) == 1)
        assert b.received[0].endswith(b"tests: message 5")
