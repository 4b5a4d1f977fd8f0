"""syslog, where gpen tells what happens when it is in the background, and which takes the session log; with a /dev of
the test's own."""

from __future__ import annotations

import json
import os
import re
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.daemon.conftest import ctl
from tests.harness import (
    PATIENCE,
    Gpen,
    Server,
    connect,
    knowing,
    naming,
    needs_root,
    pair_of,
    read_all,
    refusing,
    run_gpen,
    seeing,
    wait_until,
)

pytestmark = needs_root


@pytest.fixture
def dev(tmp_path: Path) -> Path:
    """A /dev with what Python needs there."""
    for name, minor in (("null", 3), ("urandom", 9)):
        (tmp_path / "dev").mkdir(exist_ok=True)
        os.mknod(tmp_path / "dev" / name, stat.S_IFCHR | 0o666, os.makedev(1, minor))
    return tmp_path / "dev"


def listening(dev: Path) -> socket.socket:
    """A syslog that everybody may write to, as it is."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.bind(str(dev / "log"))
    (dev / "log").chmod(0o666)
    sock.settimeout(PATIENCE)
    return sock


@pytest.fixture
def syslog(dev: Path) -> Iterator[socket.socket]:
    with listening(dev) as sock:
        yield sock


@pytest.fixture
def logging(gpen: Callable[..., Gpen], servers: Callable[..., Server], dev: Path) -> Callable[..., Gpen]:
    """Start a gpen that sees this /dev, with a server that says its name."""
    return lambda *arguments, **options: gpen(*arguments, servers=[servers(naming("a"))],
                                              wrapper=seeing({"/dev": dev}), **options)


def fill(path: Path) -> int:
    """Send until a datagram socket takes no more; returns how many it took."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.connect(str(path))
        for count in range(100_000):
            try:
                sock.send(b"filler", socket.MSG_DONTWAIT)
            except BlockingIOError:
                return count
    raise AssertionError(f"{path} takes without end")


def test_a_syslog_that_does_not_read_costs_lines(daemonize: Callable[..., int], servers: Callable[..., Server],
                                                 dev: Path, syslog: socket.socket, tmp_path: Path) -> None:
    """Each client of a server that refuses is worth a line; when syslog reads again, it is told again."""
    fillers = fill(dev / "log")
    with refusing() as nobody:
        pid = daemonize("-r", "-b", "0", "127.0.0.1:0", nobody, servers(naming("a")).address,
                        wrapper=seeing({"/dev": dev}))
        address = pair_of(ctl(tmp_path / "gpen.ctl", "listen").strip())

        def ask() -> bytes:
            with connect(address) as sock:
                sock.shutdown(socket.SHUT_WR)
                return read_all(sock)

        assert [ask() for _ in range(30)] == [b"a"] * 30
        assert [syslog.recv(1000) for _ in range(fillers)] == [b"filler"] * fillers
        assert ask() == ask() == b"a"
        line = syslog.recv(1000).decode()
    assert line.startswith("<28>gpen[") and f"[{pid}]: server 0 {nobody}: connect failed" in line


# --- the session log --------------------------------------------------------------------------------------------------


SESSION = r"gpen\[{pid}\]: 127\.0\.0\.2:\d+ \S+Z server 0 \S+ choose .* down 1 client-closed"


def visits(balancer: Gpen, count: int = 1) -> list[bytes]:
    return [balancer.ask(source="127.0.0.2") for _ in range(count)]


@pytest.mark.parametrize("target, priority", [("syslog", 16 * 8 + 6), ("syslog:mail", 2 * 8 + 6),
                                              ("syslog:local7", 23 * 8 + 6)])
def test_a_line_for_each_session(logging: Callable[..., Gpen], syslog: socket.socket, target: str,
                                 priority: int) -> None:
    balancer = logging("-l", target)
    assert visits(balancer, 2) == [b"a"] * 2
    for line in (syslog.recv(4096).decode(), syslog.recv(4096).decode()):
        assert re.fullmatch(rf"<{priority}>{SESSION.format(pid=balancer.pid)}", line)
    assert balancer.ctl("log") == f"{target}\n"


@pytest.mark.parametrize("form", ["json", "pen"])
def test_the_other_formats(logging: Callable[..., Gpen], syslog: socket.socket, form: str) -> None:
    balancer = logging("-l", "syslog", "-O", f"log_format {form}")
    balancer.ask(b"GET /\x1b[2J HTTP/1.0\r\n\r\n", source="127.0.0.2")
    line = syslog.recv(4096).decode().removeprefix(f"<134>gpen[{balancer.pid}]: ")
    if form == "json":
        assert (json.loads(line)["server"], json.loads(line)["ending"]) == (0, "client-closed")
    else:
        assert re.fullmatch(r"127\.0\.0\.2 \d{10} 127\.0\.0\.1 GET /\.\[2J HTTP/1\.0", line)


def test_a_syslog_that_is_restarted_gets_the_next_line(logging: Callable[..., Gpen], dev: Path) -> None:
    """And what was lost meanwhile is told, once."""
    with listening(dev) as old:
        balancer = logging("-l", "syslog")
        assert visits(balancer) == [b"a"] and old.recv(4096)
    (dev / "log").unlink()
    assert visits(balancer, 3) == [b"a"] * 3
    balancer.wait_idle()
    with listening(dev) as new:
        assert visits(balancer) == [b"a"]
        assert b" server 0 " in new.recv(4096)
    assert balancer.stderr.count("can't log to syslog at /dev/log: No such file or directory; lines are lost until it "
                                 "takes them") == 1
    wait_until(lambda: "syslog takes the lines of the log again; 3 lines lost" in balancer.stderr)


def test_a_syslog_that_does_not_read_costs_no_session(logging: Callable[..., Gpen], dev: Path, syslog: socket.socket,
                                                      ) -> None:
    balancer = logging("-l", "syslog")
    fillers = fill(dev / "log")
    assert visits(balancer, 5) == [b"a"] * 5
    balancer.wait_idle()
    assert balancer.stderr.count("can't log to syslog at /dev/log: it does not read") == 1
    assert [syslog.recv(4096) for _ in range(fillers)] == [b"filler"] * fillers
    assert visits(balancer) == [b"a"]
    assert syslog.recv(4096).startswith(b"<134>gpen[")


def test_without_a_syslog_gpen_serves(logging: Callable[..., Gpen], dev: Path) -> None:
    """It is told at the start, and lines come as soon as there is one."""
    balancer = logging("-l", "syslog")
    assert "can't log to syslog at /dev/log: No such file or directory" in balancer.stderr
    assert visits(balancer) == [b"a"]
    balancer.wait_idle()
    with listening(dev) as sock:
        assert visits(balancer) == [b"a"] and b" server 0 " in sock.recv(4096)


def test_as_another_user_in_a_chroot(logging: Callable[..., Gpen], syslog: socket.socket, tmp_path: Path) -> None:
    """The way was open before; there is none to another syslog, and gpen says so."""
    jail = tmp_path / "jail"
    jail.mkdir()
    balancer = logging("-l", "syslog", "-u", "nobody", "-j", str(jail))
    assert visits(balancer) == [b"a"] and b" server 0 " in syslog.recv(4096)
    assert "log: /dev/log is not in the chroot: once syslog was started anew, lines are lost" in balancer.stderr


def test_in_a_chroot_with_a_syslog_of_its_own(logging: Callable[..., Gpen], syslog: socket.socket, tmp_path: Path,
                                              ) -> None:
    jail = tmp_path / "jail"
    (jail / "dev").mkdir(parents=True)
    with listening(jail / "dev") as inside:
        balancer = logging("-l", "syslog", "-u", "nobody", "-j", str(jail))
        assert "is not in the chroot" not in balancer.stderr
        assert visits(balancer) == [b"a"] and syslog.recv(4096)
        syslog.close()
        assert visits(balancer) == [b"a"] and b" server 0 " in inside.recv(4096)


def test_it_is_set_and_taken_back_while_gpen_runs(logging: Callable[..., Gpen], syslog: socket.socket, tmp_path: Path,
                                                   ) -> None:
    """Each listener has its own."""
    balancer = logging("-l", "gpen.log")
    assert balancer.ctl("log syslog:local1") == "syslog:local1\n"
    assert balancer.ctl("listener two listen 127.0.0.1:0", "listener two log syslog:local2").endswith("syslog:local2\n")
    two = pair_of(balancer.ctl("listener two listen").strip())
    assert visits(balancer) == [b"a"] and syslog.recv(4096).startswith(b"<142>gpen[")
    with connect(two) as sock:
        sock.shutdown(socket.SHUT_WR)
        assert read_all(sock) == b"a"
    assert syslog.recv(4096).startswith(b"<150>gpen[")
    balancer.ctl("log gpen.log")
    assert visits(balancer) == [b"a"]
    balancer.wait_idle()
    assert balancer.log.count("\n") == 1
    balancer.ctl(f"write {tmp_path}/saved")
    assert "listener two log syslog:local2\n" in (tmp_path / "saved").read_text()


@pytest.mark.parametrize("target, wrong", [("syslog:", ""), ("syslog:local8", "local8"), ("syslog:kern", "kern"),
                                           ("syslog:LOCAL0", "LOCAL0")])
def test_a_wrong_facility_is_named(target: str, wrong: str) -> None:
    done = run_gpen("--check", "-l", target, "127.0.0.1:0", "127.0.0.1:1")
    assert done.returncode == 2
    assert done.stderr == (
        f"gpen: -l: log: '{target}': '{wrong}' is not a facility of syslog: expected one of user, mail, daemon, auth, "
        "syslog, lpr, news, uucp, cron, authpriv, ftp, "
        "local0, local1, local2, local3, local4, local5, local6, local7\n")


def test_what_is_no_syslog(tmp_path: Path) -> None:
    """A file, and pen's log at a host of that name."""
    assert run_gpen("--check", "-l", "./syslog:x", "127.0.0.1:0", "127.0.0.1:1", directory=tmp_path).returncode == 0
    done = run_gpen("--check", "-l", "syslog:514", "127.0.0.1:0", "127.0.0.1:1", wrapper=knowing(tmp_path))
    assert done.returncode == 2 and "syslog" in done.stderr and "facility" not in done.stderr
