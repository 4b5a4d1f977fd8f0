"""gpenlogd as a process: lines, signals, files, rights."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.harness import PATIENCE, family_of, free_port, needs_root, open_to_all, wait_until
from tests.netlog.programs import GPENLOG, GPENLOGD, WEB, Collector, Piped, line, note, run, send

Start = Callable[..., Collector]
F_SETPIPE_SZ = 1031  # fcntl(2)
LOT = 50  # datagrams that any socket's buffer holds


def numbered(start: int, count: int = LOT) -> list[bytes]:
    return [line(b"GET /%d" % number) for number in range(start, start + count)]


# --- lines ---------------------------------------------------------------------------------------------------------


def test_a_line_gets_its_client_and_is_written_at_once(gpenlogd: Start) -> None:
    collector = gpenlogd()
    send(collector.address, note("192.0.2.7", b"GET /a HTTP/1.1"), source="127.0.0.1")
    send(collector.address, line(b"GET /a HTTP/1.1"))
    collector.wait_for(line(b"GET /a HTTP/1.1", address="192.0.2.7"))


def test_unknown_requests_and_other_servers_stay(gpenlogd: Start) -> None:
    collector = gpenlogd()
    send(collector.address, note("192.0.2.7", b"GET /a"), source="127.0.0.1")
    send(collector.address, line(b"GET /b"))
    collector.wait_for(line(b"GET /b"))
    send(collector.address, line(b"GET /a"), source="127.0.0.3")
    collector.wait_for(line(b"GET /b") + line(b"GET /a"))


def test_n_requests_are_held(gpenlogd: Start) -> None:
    collector = gpenlogd("-n2")
    for number in (1, 2, 3):
        send(collector.address, note(f"192.0.2.{number}", b"GET /%d" % number))
    send(collector.address, *(line(b"GET /%d" % number) for number in (1, 2, 3)))
    collector.wait_for(line(b"GET /1") + line(b"GET /2", address="192.0.2.2") + line(b"GET /3", address="192.0.2.3"))


def test_a_thousand_requests_are_held_unless_told_otherwise(gpenlogd: Start) -> None:
    collector = gpenlogd()
    for number in range(0, 1001, LOT):
        last = min(number + LOT, 1001)
        send(collector.address, *(note("192.0.2.7", b"GET /%d" % each) for each in range(number, last)),
             b'"mark" "%d"' % number)
        collector.wait_for_lines(number // LOT + 1)
    written = len(collector.log)
    send(collector.address, line(b"GET /0"), line(b"GET /1"))
    collector.wait_for(collector.log[:written] + line(b"GET /0") + line(b"GET /1", address="192.0.2.7"))


def test_ipv6_servers_and_clients(gpenlogd: Start) -> None:
    family_of("::")
    collector = gpenlogd(listen="[::]:0")
    port = collector.address[1]
    send(("::1", port), note("2001:db8::7", b"GET /6", "::1"), source="::1")
    send(("127.0.0.1", port), note("192.0.2.7", b"GET /4", WEB))
    done = run([*GPENLOG, "::1", str(port)], line(b"GET /6", address="::1"))
    assert done.returncode == 0
    collector.wait_for_lines(1)
    send(("127.0.0.1", port), line(b"GET /4"))
    collector.wait_for(line(b"GET /6", address="2001:db8::7") + line(b"GET /4", address="192.0.2.7"))


def test_a_named_address_is_the_only_one(gpenlogd: Start) -> None:
    collector = gpenlogd(listen="127.0.0.3:0")
    assert collector.address[0] == "127.0.0.3"
    send(("127.0.0.1", collector.address[1]), line(b"GET /elsewhere"))
    send(collector.address, line(b"GET /here"))
    collector.wait_for(line(b"GET /here"))


def test_datagrams_of_any_bytes(gpenlogd: Start) -> None:
    collector = gpenlogd("-d")
    bad = [b"", b"\n", b"+", b"+ ", b"+ a b c\n", b"+ 1.1.1.1 nosuch.invalid GET /\n", b"+ \xff \xff \xff",
           bytes(range(256)), b"\0" * 60_000, b"x\n" * 5000]
    forged = line(b"GET /\x1b[2J\r") + line(b"GET /forged")
    send(collector.address, *bad, forged, line(b"GET /genuine"))
    lines = collector.wait_for_lines(2).splitlines(keepends=True)
    assert lines == [
        line(rb"GET /\x1b[2J\x0d").rstrip() + rb"\x0a" + line(b"GET /forged"), line(b"GET /genuine")]
    assert collector.stop() == 0
    assert f"ended: 2 lines, 0 of them with their client, {len(bad)} datagrams ignored" in collector.stderr
    assert "ignored '+ a b c\\x0a' from 127.0.0.2: 'a' does not appear to be an IPv4 or IPv6" in collector.stderr
    assert "\x1b" not in collector.stderr


def test_what_is_ignored_is_quoted_once(gpenlogd: Start) -> None:
    collector = gpenlogd("-d")
    send(collector.address, b"\x1b[31m\n", line(b"GET /"))
    collector.wait_for(line(b"GET /"))
    assert collector.stop() == 0
    assert r"ignored '\x1b[31m\x0a' from 127.0.0.2: it is neither" in collector.stderr


def test_without_d_what_is_ignored_is_only_counted(gpenlogd: Start) -> None:
    collector = gpenlogd()
    send(collector.address, b"bad", b"+ bad", line(b"GET /a"))
    collector.wait_for_lines(1)
    assert collector.stop() == 0
    assert "1 lines, 0 of them with their client, 2 datagrams ignored" in collector.stderr
    assert "'bad'" not in collector.stderr


@needs_root
def test_a_burst_waits_in_the_kernel(gpenlogd: Start) -> None:
    """A socket's default buffer holds some hundred lines; root may have a larger one."""
    collector = gpenlogd()
    collector.process.send_signal(signal.SIGSTOP)
    send(collector.address, *numbered(0, 5000))
    collector.process.send_signal(signal.SIGCONT)
    collector.wait_for(b"".join(numbered(0, 5000)))


# --- signals and files ---------------------------------------------------------------------------------------------


def test_rotation_loses_no_line(gpenlogd: Start, tmp_path: Path) -> None:
    collector = gpenlogd()
    rotated: list[Path] = []
    for start in range(0, 20 * LOT, LOT):
        send(collector.address, *numbered(start))
        rotated.append(tmp_path / f"log.{start}")
        collector.file.rename(rotated[-1])
        collector.hang_up()
        wait_until(collector.file.exists, what="the fresh log")
        send(collector.address, *numbered(start + 20 * LOT))

        wait_until(partial(has_lines, [*rotated, collector.file], 2 * (start + LOT)), what="the lines of this round")
    written = b"".join(path.read_bytes() for path in [*rotated, collector.file])
    assert sorted(written.splitlines(keepends=True)) == sorted(numbered(0, 40 * LOT))


def has_lines(paths: list[Path], count: int) -> bool:
    """Whether so many lines are in these files."""
    return sum(path.read_bytes().count(b"\n") for path in paths) == count


def test_when_the_log_can_not_be_opened_again_the_old_one_stays(gpenlogd: Start, tmp_path: Path) -> None:
    directory = tmp_path / "logs"
    directory.mkdir()
    collector = gpenlogd(log=directory / "log")
    directory.rename(tmp_path / "moved")
    collector.hang_up()
    wait_until(lambda: f"can't reopen the log '{directory}/log': No such file or directory" in collector.stderr)
    send(collector.address, line(b"GET /a"))
    wait_until(lambda: (tmp_path / "moved" / "log").read_bytes() == line(b"GET /a"))


def test_the_log_is_appended_to(gpenlogd: Start, tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"old\n")
    collector = gpenlogd()
    send(collector.address, line(b"GET /a"))
    collector.wait_for(b"old\n" + line(b"GET /a"))


def test_at_term_what_has_come_is_written_and_the_pid_file_removed(gpenlogd: Start, tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    collector = gpenlogd("-p", str(pid_file))
    assert pid_file.read_text() == f"{collector.process.pid}\n"
    collector.process.send_signal(signal.SIGSTOP)
    send(collector.address, *numbered(0))
    collector.process.send_signal(signal.SIGTERM)
    collector.process.send_signal(signal.SIGCONT)
    assert collector.process.wait(PATIENCE) == 0
    assert collector.log == b"".join(numbered(0))
    assert not pid_file.exists()


def test_a_line_that_has_begun_is_written_at_the_end(gpenlogd: Start) -> None:
    collector = gpenlogd()
    piece = line(b"GET /a", b"x" * 2000)[:1023]
    send(collector.address, piece, line(b"GET /b"))
    send(collector.address, line(b"GET /c"), source="127.0.0.3")
    collector.wait_for_lines(1)
    send(collector.address, piece, source="127.0.0.3")
    assert collector.stop() == 0
    assert collector.log.endswith(piece + b"\n")


def test_a_second_one_with_the_same_pid_file_is_refused(gpenlogd: Start, tmp_path: Path) -> None:
    collector = gpenlogd("-p", str(tmp_path / "pid"))
    done = run([*GPENLOGD, "-p", str(tmp_path / "pid"), "-l", str(tmp_path / "other"), "127.0.0.1:0"])
    assert done.returncode == 1
    assert f"with pid {collector.process.pid}".encode() in done.stderr
    assert (tmp_path / "pid").read_text() == f"{collector.process.pid}\n"


def test_a_port_in_use_is_told(gpenlogd: Start) -> None:
    host, port = gpenlogd().address
    done = run([*GPENLOGD, f"{host}:{port}"])
    assert done.returncode == 1
    assert done.stderr == f"gpenlogd: can't listen on {host}:{port}: Address already in use\n".encode()


def test_a_full_disk_costs_lines_and_is_told_once(gpenlogd: Start) -> None:
    collector = gpenlogd("-d", log=Path("/dev/full"))
    send(collector.address, line(b"GET /a"), line(b"GET /b"), b"bad")
    wait_until(lambda: "ignored 'bad'" in collector.stderr)
    assert collector.stderr.count("can't write the log '/dev/full': No space left on device") == 1


def test_without_a_file_it_writes_to_stdout_until_nobody_reads() -> None:
    with Piped(*GPENLOGD, "-f", "127.0.0.1:0") as gpenlogd:
        address = gpenlogd.address()
        send(address, line(b"GET /a"))
        assert gpenlogd.stdout.readline() == line(b"GET /a")
        gpenlogd.stdout.close()
        send(address, line(b"GET /b"))
        assert gpenlogd.process.wait(PATIENCE) == 1
        assert b"nobody reads the log any more" in gpenlogd.stderr.read()


def test_a_pipe_that_nobody_reads_can_be_left() -> None:
    """The first TERM waits for the pipe, which holds less than what has come; the second one does not."""
    with Piped(*GPENLOGD, "-f", "127.0.0.1:0") as gpenlogd:
        fcntl.fcntl(gpenlogd.stdout, F_SETPIPE_SZ, 4096)
        send(gpenlogd.address(), *(line(b"GET /", b"x" * 30_000) for _ in range(4)))

        def has_ended() -> bool:
            gpenlogd.process.terminate()
            return gpenlogd.process.poll() is not None

        wait_until(has_ended)
        assert gpenlogd.process.returncode == -signal.SIGTERM


# --- in the background ---------------------------------------------------------------------------------------------


def in_background(directory: Path, *options: str) -> int:
    """Start it, and return its process id."""
    pid_file = directory / "run.pid"
    done = run([*GPENLOGD, "-p", str(pid_file), *options])
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    return int(pid_file.read_text())


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes() != b""
    except OSError:
        return False


def test_in_the_background_it_serves_when_the_command_returns(tmp_path: Path) -> None:
    address = ("127.0.0.1", free_port())
    log = tmp_path / "log"
    pid = in_background(tmp_path, "-l", str(log), f"127.0.0.1:{address[1]}")
    try:
        send(address, line(b"GET /a"))
        wait_until(lambda: log.read_bytes() == line(b"GET /a"))
    finally:
        os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not is_running(pid))
    assert not (tmp_path / "run.pid").exists()


def test_in_the_background_without_a_file_it_keeps_stdout(tmp_path: Path) -> None:
    address = ("127.0.0.1", free_port())
    out, pid_file = tmp_path / "out", tmp_path / "pid"
    with out.open("w") as stdout:
        subprocess.run([*GPENLOGD, "-p", str(pid_file), f"127.0.0.1:{address[1]}"], stdout=stdout, check=True,
                       timeout=PATIENCE)
    try:
        send(address, line(b"GET /a"))
        wait_until(lambda: out.read_bytes() == line(b"GET /a"))
    finally:
        os.kill(int(pid_file.read_text()), signal.SIGTERM)


@needs_root
def test_it_becomes_another_user_in_a_chroot_and_reopens_there(tmp_path: Path, gpenlogd: Start) -> None:
    open_to_all(tmp_path)
    collector = gpenlogd("-u", "nobody", "-j", str(tmp_path), "-p", str(tmp_path / "pid"))
    status = Path(f"/proc/{collector.process.pid}/status").read_text()
    assert re.search(r"^Uid:\s+65534\s+65534", status, re.MULTILINE)
    assert re.search(r"^Groups:\s*(65534)?\s*$", status, re.MULTILINE)
    assert os.readlink(f"/proc/{collector.process.pid}/root") == str(tmp_path)
    assert collector.file.stat().st_uid == 65534
    send(collector.address, line(b"GET /a"))
    collector.wait_for(line(b"GET /a"))
    collector.file.rename(tmp_path / "old")
    collector.hang_up()
    wait_until(collector.file.exists)
    send(collector.address, line(b"GET /b"))
    collector.wait_for(line(b"GET /b"))
    assert collector.file.stat().st_uid == 65534
    assert collector.stop() == 0
    assert not (tmp_path / "pid").exists()


# --- the command line ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments, status, told", [
    ("", 2, "argument is missing"), ("-f", 2, "argument is missing"), ("-z 5", 2, "-z"), ("-f -f 5", 2, "-f"),
    ("5 6", 2, "6"), ("-l", 2, "-l"), ("/tmp/socket", 2, "'/tmp/socket'"), ("127.0.0.1:99999", 2, "'99999'"),
    ("no_such_service", 2, "'no_such_service'"), ("-n 0 0", 2, "-n: '0'"), ("-n many 0", 2, "'many'"),
    ("-u no_such_user 0", 2, "'no_such_user'"), ("-j /nosuch 0", 2, "'/nosuch'"),
    ("-l /nosuch/log 0", 1, "'/nosuch/log'"), ("-fl/nosuch/log 0", 1, "'/nosuch/log'"),
    ("-p /nosuch/pid 0", 1, "'/nosuch/pid'"), ("-f 192.0.2.1:5", 1, "192.0.2.1:5")])
def test_a_wrong_argument_is_named_in_one_line(arguments: str, status: int, told: str) -> None:
    done = run([*GPENLOGD, *arguments.split()])
    assert done.returncode == status
    assert done.stderr.startswith(b"gpenlogd: ") and told.encode() in done.stderr
    assert done.stderr.count(b"\n") == 1


def test_options_may_be_glued(gpenlogd: Start, tmp_path: Path) -> None:
    collector = gpenlogd("-bdn5", f"-p{tmp_path}/pid")
    assert (tmp_path / "pid").exists()
    send(collector.address, b"bad")
    wait_until(lambda: "ignored 'bad'" in collector.stderr)


def test_help_and_version() -> None:
    done = run([*GPENLOGD, "--help"])
    assert done.returncode == 0 and b"Examples:" in done.stdout
    assert set(b"bdfjlnpu") <= {word[1] for word in re.findall(rb"-\w\b", done.stdout)}
    assert run([*GPENLOGD, "--version"]).stdout.startswith(b"gpenlogd ")
