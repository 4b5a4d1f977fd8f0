"""Real protocols over UDP: DNS with nsd, dig and dnsperf; syslog with logger."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.datagrams import DatagramServer, client, endings, silence
from tests.harness import Gpen, wait_until
from tests.nameserver import QUESTION, name_server

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


# --- attacks, and servers that hang ----------------------------------------------------------------------------------

RESPONSE = QUESTION[:2] + b"\x80" + QUESTION[3:]  # the QR bit says that it is none of a query
IGNORED = [RESPONSE, b"", b"x", b"\0" * 11, QUESTION[:3] + b"\x80" + QUESTION[4:11] + b"\xff" * 40, RESPONSE * 20]


def attack(balancer: Gpen, count: int, one_port: bool = False) -> None:
    """Datagrams that nsd does not answer, or hardly, each from a port of its own."""
    address = balancer.address
    assert not isinstance(address, str)
    with client(address, "127.0.0.66") as first:
        for number in range(count):
            with contextlib.ExitStack() as stack:
                sock = first if one_port else stack.enter_context(client(address, f"127.0.0.{number % 100 + 100}"))
                with contextlib.suppress(ConnectionError):
                    sock.send(IGNORED[number % len(IGNORED)] if number % 2 else RESPONSE)


@contextlib.contextmanager
def stopped(directory: Path) -> Iterator[None]:
    """The name server of this directory hangs as long as the context lasts."""
    pids = [int((directory / "nsd.pid").read_text())]
    for pid in pids:
        pids += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def overflow(sent: int) -> int:
    """How many queries may be lost in the name servers' own sockets, which hold 280, while a busy machine does not run
    them. Whoever is blacklisted by mistake loses more."""
    return sent // 20


def health(balancer: Gpen) -> list[str]:
    return [row["health"] for row in balancer.json("servers")]


@needs("nsd", "dnsperf")
@pytest.mark.parametrize("one_port", [False, True])
def test_garbage_takes_nobody_down(gpen: Start, names: list[str], one_port: bool) -> None:
    """Each server answers others meanwhile."""
    balancer = gpen("-U", "-r", "-l", "gpen.log", "-O", "udp_replies 1", "-O", "udp_timeout 1", servers=names)
    attacker = threading.Thread(target=attack, args=(balancer, 3000, one_port))
    attacker.start()
    sent, lost = dnsperf(balancer, "-l", "4", "-Q", "1000", "-c", "20", "-t", "1")
    attacker.join()
    assert (sent > 3000, lost <= overflow(sent)) == (True, True)
    balancer.wait_idle()
    assert endings(balancer, 0).count("unanswered") > (0 if one_port else 100)
    assert [(row["health"], row["failures"]) for row in balancer.json("servers")] == [("up", 0)] * 2


@needs("nsd", "dnsperf")
@pytest.mark.parametrize("options", [[], ["-h"], ["-O", "prio"]])
def test_garbage_does_not_take_the_one_down_that_answers(gpen: Start, names: list[str], options: list[str]) -> None:
    """All who ask are one client, so that the other server may seem to hang."""
    balancer = gpen("-U", *options, "-l", "gpen.log", "-O", "udp_replies 1", "-O", "udp_timeout 1", servers=names)
    attacker = threading.Thread(target=attack, args=(balancer, 3000))
    attacker.start()
    sent, lost = dnsperf(balancer, "-l", "4", "-Q", "1000", "-c", "20", "-t", "1")
    assert lost <= overflow(sent)
    assert "up" in health(balancer)
    attacker.join()
    balancer.wait_idle()
    assert endings(balancer, 0).count("unanswered") > 100
    assert dnsperf(balancer, "-l", "1", "-Q", "1000", "-c", "20", "-t", "1")[1] == 0


@needs("nsd", "dig")
@pytest.mark.parametrize("count", [1, 2])
def test_garbage_while_nobody_asks(gpen: Start, names: list[str], count: int) -> None:
    balancer = gpen("-U", "-r", "-l", "gpen.log", "-O", "udp_replies 1", "-O", "udp_timeout 1", servers=names[:count])
    for _ in range(2):
        attack(balancer, 40)
        balancer.wait_idle()
        assert dig(balancer, "www.gpen.test") == "192.0.2.2"
    assert endings(balancer, 0).count("unanswered") > 40
    assert health(balancer) == ["up"] * count


@needs("nsd", "dig")
@pytest.mark.parametrize("state", ["state drain", "health down", "max 1", "blacklist 600"])
def test_garbage_while_one_server_is_away(gpen: Start, names: list[str], state: str) -> None:
    balancer = gpen("-U", "-r", "-O", "udp_replies 1", "-O", "udp_timeout 1", servers=names)
    with client(balancer, "127.0.0.9") as sock:
        sock.send(RESPONSE)  # the place of "max 1"; to the first
        wait_until(lambda: balancer.server(0)["sessions"] == 1)
        balancer.ctl(f"server 0 {state}")
        attack(balancer, 40)
        assert dig(balancer, "name.gpen.test", "TXT") == '"two"'
        balancer.wait_idle()
        assert balancer.server(1)["health"] == "up"


@needs("nsd", "dnsperf")
@pytest.mark.parametrize("attacked", [False, True])
def test_a_name_server_that_hangs(gpen: Start, names: list[str], tmp_path: Path, attacked: bool) -> None:
    """It is noticed, attack or not; nothing is lost from then on, and it comes back when it goes on."""
    balancer = gpen("-U", "-r", "-b", "600", "-O", "udp_replies 1", "-O", "udp_timeout 1", servers=names)
    attacker = threading.Thread(target=attack, args=(balancer, 3000 * attacked))
    with stopped(tmp_path / "one"):
        attacker.start()
        wait_until(lambda: dnsperf(balancer, "-l", "1", "-Q", "200", "-c", "20", "-t", "1")
                   and health(balancer) == ["down", "up"])
        assert balancer.server(0)["reason"].endswith(" in a row unanswered")
        assert dnsperf(balancer, "-l", "1", "-Q", "200", "-c", "20", "-t", "1")[1] == 0
        attacker.join()
    balancer.ctl("server 0 blacklist 0")
    assert dnsperf(balancer, "-l", "1", "-Q", "200", "-c", "20", "-t", "1")[1] == 0
    assert health(balancer) == ["up", "up"]


@needs("nsd", "dig")
@pytest.mark.parametrize("options", [["-r"], [], ["-h"], ["-O", "prio"]])
def test_the_client_of_a_name_server_that_hangs(gpen: Start, names: list[str], tmp_path: Path,
                                                options: list[str]) -> None:
    """Nobody else asks: its questions alone get it to the other, which nobody has asked."""
    balancer = gpen("-U", *options, "-O", "udp_replies 1", "-O", "udp_timeout 0.5", servers=names)
    hung = {'"one"': "one", '"two"': "two"}[dig(balancer, "name.gpen.test", "TXT")]
    with stopped(tmp_path / hung), client(balancer) as sock:
        sock.settimeout(0.3)

        def is_answered() -> bool:
            sock.send(QUESTION)
            with contextlib.suppress(TimeoutError):
                return bool(sock.recv(512))
            return False

        wait_until(is_answered)


@needs("nsd", "dig")
def test_all_name_servers_hang(gpen: Start, names: list[str], tmp_path: Path) -> None:
    """Somebody has to be asked: who goes on answers at once."""
    balancer = gpen("-U", "-r", "-b", "600", "-l", "gpen.log", "-O", "udp_replies 1", "-O", "udp_timeout 0.5",
                    servers=names)
    for first, last in (("one", "two"), ("two", "one")):
        with stopped(tmp_path / last):
            with stopped(tmp_path / first):
                before = endings(balancer, 0).count("unanswered")
                for _ in range(6):
                    with client(balancer) as sock:
                        for _ in range(4):
                            sock.send(QUESTION)
                    balancer.wait_idle()
                assert endings(balancer, 0).count("unanswered") > before
                assert "up" in health(balancer)
            wait_until(lambda: QUESTION[:2] in answer(balancer))
        wait_until(lambda: QUESTION[:2] in answer(balancer))


def answer(balancer: Gpen) -> bytes:
    """What a client gets that waits for half a second."""
    with client(balancer) as sock:
        sock.settimeout(0.5)
        sock.send(QUESTION)
        with contextlib.suppress(TimeoutError):
            return sock.recv(512)
    return b""


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
