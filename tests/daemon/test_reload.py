"""The file of -F read again, by HUP and by `reload`; and what may be included."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.harness import ROOT, Gpen, Serve, Server, echo, naming, needs_root, open_to_all, wait_until

Start = Callable[..., Gpen]


def gpenctl(balancer: Gpen, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(ROOT / "bin" / "gpenctl"), balancer.control, *words],
                          capture_output=True, text=True, timeout=20, check=False)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "web.cfg"


@pytest.fixture
def balancer(gpen: Start, servers: Serve, file: Path) -> Gpen:
    """Two servers, a and b in turn, from the file."""
    places = [f"server {number} address 127.0.0.1 port {servers(naming(name)).port}\n"
              for number, name in enumerate("ab")]
    file.write_text(f"roundrobin\ntimeout 5\n{places[0]}{places[1]}")
    return gpen("-F", str(file))


def test_reload_answers_what_it_changed(balancer: Gpen, file: Path) -> None:
    a = file.read_text().splitlines()[2]
    file.write_text(f"roundrobin\ntimeout 6\n{a} max 7\nacl 1 permit 10.0.0.0/8\n")
    done = gpenctl(balancer, "reload")
    assert (done.returncode, done.stdout) == (0, (
        "timeout 6 (was 5)\nserver 0 max 7 (was max 0)\nno server 1\nacl 1: 1 entry (had 0): "
        "+ permit 10.0.0.0/8\n"))
    assert all(f"reload: {line}" in balancer.stderr for line in done.stdout.splitlines())
    assert {balancer.ask() for _ in range(4)} == {b"a"}
    assert [(event["event"], event["cause"]) for event in balancer.json("events 1")] == [("deleted", "by a reload")]
    assert gpenctl(balancer, "reload").stdout == "nothing has changed\n"


def test_a_server_that_went_keeps_its_sessions(gpen: Start, servers: Serve, file: Path) -> None:
    file.write_text(f"server 3 address 127.0.0.1 port {servers(echo).port}\n")
    balancer = gpen("-F", str(file), servers=[servers(naming("given"))])
    balancer.ctl("server 0 state drain")
    with balancer.connect() as old:
        old.sendall(b"x")
        assert old.recv(1) == b"x"
        file.write_text("")
        balancer.ctl("server 0 state ready")
        balancer.signal(signal.SIGHUP)
        wait_until(lambda: [row["number"] for row in balancer.json("servers")] == [0])
        old.sendall(b"still here")
        assert old.recv(10) == b"still here"
        assert balancer.ask() == b"given"


def test_all_that_is_wrong_is_told(balancer: Gpen, file: Path) -> None:
    file.write_text(file.read_text() + "timeout never\nserver 8 max 4\nno_such thing\n")
    done = gpenctl(balancer, "reload")
    assert done.returncode == 1
    told = (done.stdout + done.stderr).splitlines()
    assert [line.partition(f"{file}:")[2][:2] for line in told] == ["5:", "6:", "7:"]
    balancer.signal(signal.SIGHUP)
    wait_until(lambda: balancer.stderr.count(f"{file}:7: unknown command 'no_such'") == 2)
    assert (balancer.ctl("timeout"), len(balancer.json("servers"))) == ("5\n", 2)
    events = balancer.json("events")
    assert [(event["server"], event["event"]) for event in events[-2:]] == [(None, "reload failed")] * 2
    assert f"{file}:5: timeout: 'never' is not a number of seconds above 0: expected " in events[-1]["cause"]
    assert "(and 2 more)" in events[-1]["cause"]
    assert "gpen reload failed: " in balancer.ctl("events 1")


@pytest.mark.parametrize("extra, told", [
    ("listen 192.0.2.77:80", "can't listen on 192.0.2.77:80"),
    ("log /no/such/directory/x", "log: can't open '/no/such/directory/x': No such file or directory"),
    ("server 5 address no-such-host.invalid port 80", "server 5: can't resolve the name 'no-such-host.invalid'"),
    ("ssl_certificate /no/such/file", "ssl_certificate"),
    ("check exec /no/such/program", "there is no such program"),
    ("geoip_db /no/such/file", "geoip_db"),
    ("web_stats /no/such/directory/x", "web_stats"),
    ("acl 3 deny country SE", "geoip_db"),
])
def test_what_fails_late_changes_nothing_either(balancer: Gpen, file: Path, extra: str, told: str) -> None:
    before = balancer.ctl("servers", "timeout", "acl 4 permit ::1", "log")
    file.write_text(f"timeout 6\n{extra}\nno roundrobin\n")
    reply = balancer.ctl("reload")
    assert reply.startswith("error: ") and told in reply, reply
    assert balancer.ctl("servers", "timeout", "acl 4 permit ::1", "log") == before
    assert {balancer.ask() for _ in range(4)} == {b"a", b"b"}


def test_a_listener_that_was_opened_in_vain_is_closed(gpen: Start, servers: Serve, file: Path, tmp_path: Path) -> None:
    file.write_text("")
    balancer = gpen("-F", str(file), servers=[servers(naming("a"))])
    file.write_text(f"listen {tmp_path}/new.sock\nlog no-such-host.invalid:514\n")
    assert balancer.ctl("reload").startswith("error: log: can't resolve the name 'no-such-host.invalid'")
    assert not (tmp_path / "new.sock").exists()
    assert {balancer.ask() for _ in range(20)} == {b"a"}


def test_what_was_written_is_what_the_file_says(balancer: Gpen, file: Path) -> None:
    """So that a reload after `write` disturbs nobody."""
    balancer.ctl("timeout 9", "server 1 max 3", "write")
    balancer.ctl("timeout 8", "server 1 max 4")
    assert balancer.ctl("reload") == "nothing has changed\n"
    assert (balancer.ctl("timeout"), balancer.server(1)["max"]) == ("8\n", 4)


def test_without_a_file(gpen: Start, servers: Serve) -> None:
    balancer = gpen("-l", "gpen.log", servers=[servers(naming("a"))])
    balancer.ask()
    balancer.log_file.rename(balancer.log_file.with_suffix(".1"))
    assert balancer.ctl("reload") == "nothing has changed\n"
    balancer.ask()
    wait_until(lambda: balancer.log)
    assert balancer.log_file.with_suffix(".1").read_text().count("\n") == balancer.log.count("\n") == 1


def test_a_log_that_can_not_be_reopened_keeps_nothing_else(gpen: Start, servers: Serve, file: Path,
                                                           tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    file.write_text("timeout 5\n")
    balancer = gpen("-F", str(file), "-l", str(tmp_path / "logs" / "x"), servers=[servers(naming("a"))])
    (tmp_path / "logs" / "x").unlink()
    (tmp_path / "logs").rmdir()
    file.write_text("timeout 6\n")
    lines = balancer.ctl("reload").splitlines()
    assert lines[0].startswith(f"error: can't reopen the log '{tmp_path}/logs/x': No such file or directory")
    assert lines[1:] == ["timeout 6 (was 5)"]


def test_what_is_replaced_is_not_opened_again(gpen: Start, servers: Serve, file: Path, tmp_path: Path) -> None:
    """The old log and its directory are gone, and the file names a new one: nothing is wrong."""
    (tmp_path / "old").mkdir()
    file.write_text(f"log {tmp_path}/old/log\n")
    balancer = gpen("-F", str(file), servers=[servers(naming("a"))])
    (tmp_path / "old" / "log").unlink()
    (tmp_path / "old").rmdir()
    file.write_text(f"log {tmp_path}/log\n")
    assert balancer.ctl("reload") == f"log {tmp_path}/log (was {tmp_path}/old/log)\n"
    assert not balancer.json("events 1")[-1]["event"].startswith("reload")


@pytest.mark.parametrize("line, told", [
    ("udp\ngreeting 1", "greeting: it is for TCP"), ("mysql\nidlers 2", "idlers: a MySQL server"),
    ("check greeting\nmysql", "check: a MySQL server"), ("mysql\nserver 0 check greeting", "server 0: check gre"),
    ("user nosuchuser", "there is no user 'nosuchuser'"),
    ("pid_file /no/such/x", "pid_file: the directory '/no/such' does not exist"), ("chroot /no/such", "chroot:")])
def test_what_would_keep_it_from_starting_is_no_reload(balancer: Gpen, file: Path, line: str, told: str) -> None:
    file.write_text(f"{file.read_text()}{line}\n")
    reply = balancer.ctl("reload")
    assert reply.startswith("error: ") and told in reply


def test_a_late_error_says_where_the_server_was_given(balancer: Gpen, file: Path) -> None:
    file.write_text(f"{file.read_text()}server 2 address no-such-host.invalid port 80\n"
                    f"emergency {balancer.ctl('listen').strip()}\n")
    assert f"error: {file}:5: server 2: can't resolve" in balancer.ctl("reload")
    file.write_text("".join(line for line in file.read_text().splitlines(True) if "invalid" not in line))
    assert f"error: {file}:5: emergency: " in balancer.ctl("reload")


def test_the_file_by_another_name(balancer: Gpen, file: Path) -> None:
    balancer.ctl(f"write {file.parent}/../{file.parent.name}/{file.name}", "timeout 8")
    assert balancer.ctl("reload") == "nothing has changed\n"
    assert balancer.ctl("timeout") == "8\n"


def test_thousands_of_errors(balancer: Gpen, file: Path) -> None:
    file.write_text("bogus\n" * 20_000)
    lines = balancer.ctl("reload").splitlines()
    assert len(lines) == 101 and lines[-1] == "error: and 19,900 more errors"


def test_what_is_told_of_a_word_is_short_and_can_be_printed(balancer: Gpen, file: Path) -> None:
    file.write_text("\x1b]0;title\x07\n" + "x" * 9000 + "\n")
    first, second = balancer.ctl("reload").splitlines()
    assert "\x1b" not in first and "'\\x1b]0;title\\x07'" in first
    assert len(second) < 300


def test_a_watchers_word_outlives_hup(balancer: Gpen) -> None:
    balancer.ctl("server 0 health down because it rains", "server 1 state drain")
    for _ in range(3):
        assert balancer.ctl("reload") == "nothing has changed\n"
    assert balancer.server(0)["verdict_reason"] == "it rains"
    assert balancer.server(1)["state"] == "drain"


def test_a_name_that_is_gone_fails_no_reload_that_does_not_need_it(gpen: Start, servers: Serve, file: Path) -> None:
    file.write_text("server 1 address localhost port 9\n")
    balancer = gpen("-F", str(file), servers=[servers(naming("a"))])
    file.write_text("server 1 address localhost port 9\ntimeout 7\n")
    assert balancer.ctl("reload") == "timeout 7 (was 3)\n"


# --- what can be included ---------------------------------------------------------------------------------------------


def test_a_file_that_is_no_configuration_tells_nothing_of_itself(balancer: Gpen, tmp_path: Path) -> None:
    secret = tmp_path / "shadow"
    for content in ("root:$6$geheim:1\n", '"geheim\n', "\ufeffgeheim x\n", "geheim\x00\n",
                    "timeout geheim\n[geheim]\n"):
        secret.write_text(content)
        reply = balancer.ctl(f"include {secret}")
        assert reply.startswith("error: ") and "geheim" not in reply, reply
    secret.write_bytes(b"geheim \xff\n")
    assert "geheim" not in balancer.ctl(f"include {secret}")


@pytest.fixture
def odd(tmp_path: Path) -> Iterator[dict[str, Path]]:
    """Files that nobody should read."""
    files = {name: tmp_path / name for name in ("fifo", "large", "socket", "directory", "link")}
    os.mkfifo(files["fifo"])
    with files["large"].open("wb") as large:
        large.truncate(3 << 30)
    files["directory"].mkdir()
    files["link"].symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(files["socket"]))
        yield files


def test_files_that_nobody_should_read(balancer: Gpen, odd: dict[str, Path]) -> None:
    for path in [*odd.values(), Path("/dev/zero"), Path("/dev/tty")]:
        reply = balancer.ctl(f"include {path}")
        assert reply.startswith(f"error: can't read the file '{path}': "), reply
    assert balancer.rss < 200 << 20


def test_files_that_include_each_other_keep_nobody_waiting(balancer: Gpen, tmp_path: Path) -> None:
    for level in range(5):
        (tmp_path / f"{level}.cfg").write_text(f"include {tmp_path}/{level + 1}.cfg\n" * 25)
    (tmp_path / "5.cfg").write_text("timeout 4\n" * 25)
    with socket.socket(socket.AF_UNIX) as other:
        other.settimeout(60)
        other.connect(balancer.control)
        other.sendall(f"include {tmp_path}/0.cfg\n".encode())
        assert balancer.ctl("pid") == f"{balancer.pid}\n"
        assert balancer.ask() in (b"a", b"b")
        reply = other.recv(1 << 16).decode()
    assert "too many lines: at most 100,000, with those of all included files" in reply
    assert balancer.ctl("timeout") == "5\n"


@needs_root
def test_what_is_included_over_tcp_is_what_its_client_may_do(gpen: Start, servers: Serve, tmp_path: Path) -> None:
    program = tmp_path / "check"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    more = tmp_path / "more"
    more.write_text(f"timeout 9\ncheck exec {program}\n")
    open_to_all(tmp_path)
    with Server(naming("a")) as server:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        with Gpen(tmp_path, "-u", "nobody", "127.0.0.1:0", server.address, control=f"127.0.0.1:{port}") as balancer:
            assert balancer.ctl(f"include {more}").startswith(f"error: {more}:2: check: exec runs programs")
            assert balancer.ctl("timeout", "check") == "3\noff\n"


def test_settings_of_the_start_are_named(balancer: Gpen, tmp_path: Path) -> None:
    more = tmp_path / "more"
    more.write_text("timeout 9\npid_file /x\nexit_enabled\n")
    assert balancer.ctl(f"include {more}") == (f"{more}:2: pid_file counts at the next start only\n"
                                               f"{more}:3: exit_enabled counts at the next start only\n")
    assert balancer.ctl("timeout", "pid_file") == "9\n"


@needs_root
def test_files_in_a_chroot_have_the_names_that_they_have_outside(gpen: Start, servers: Serve, tmp_path: Path) -> None:
    more = tmp_path / "more.cfg"
    more.write_text("timeout 5\n")
    (tmp_path / "gpen.cfg").write_text(f"include {more}\nblacklist 5\n")
    balancer = gpen("-j", str(tmp_path), "-F", "gpen.cfg", servers=[servers(naming("a"))])
    more.write_text("timeout 6\n")
    assert balancer.ctl("reload") == "timeout 6 (was 5)\n"
    more.write_text("timeout 7\n")
    assert balancer.ctl(f"include {more}", "timeout") == "7\n"
    assert balancer.ctl(f"listen {tmp_path}/front", "listen") == f"{tmp_path}/front\n" * 2
    assert balancer.ask() == b"a"
    more.write_text("timeout x\n")
    assert balancer.ctl(f"include {more}").startswith(f"error: {more}:1: timeout: 'x'")
