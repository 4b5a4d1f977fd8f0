"""The command line: what is refused, in one line that names it; --check, --help, --version."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from gpen.cli import main
from tests.harness import Gpen, Server, hold, run_gpen

SERVER = "127.0.0.1:9"

# arguments, what the message names
WRONG = [
    ("-Y 80 www1", "-Y"), ("--wrong 80 www1", "--wrong"), ("-t 80", "HOST"), ("-t", "-t"), ("-tsoon 80 a", "'soon'"),
    ("-t 0 80 127.0.0.1", "'0'"), ("-x none 80 127.0.0.1", "'none'"), ("-x 0 80 127.0.0.1", "'0'"),
    ("-b -3 80 127.0.0.1", "'-3'"), ("-c many 80 127.0.0.1", "'many'"), ("-m 0 80 127.0.0.1", "'0'"),
    ("-q x 80 127.0.0.1", "'x'"), ("-T x 80 127.0.0.1", "'x'"), ("-e :: 80 127.0.0.1", "::"),
    ("-B a:b:c:d 80 127.0.0.1", "a:b:c:d"), ("-u nosuchuser 80 127.0.0.1", "'nosuchuser'"),
    ("-j /nonexistent 80 127.0.0.1", "'/nonexistent'"), ("-F /nonexistent 80 127.0.0.1", "'/nonexistent'"),
    ("-l /nonexistent/log 80 127.0.0.1", "'/nonexistent'"), ("-p /nonexistent/pid 80 127.0.0.1", "'/nonexistent'"),
    ("-w /nonexistent/w 80 127.0.0.1", "'/nonexistent'"), ("-C nowhere 80 127.0.0.1", "nowhere"),
    ("-UH 80 127.0.0.1", "http"), ("-U /sock 127.0.0.1:80", "/sock"), ("-U 80 /sock", "/sock"),
    ("-E /x 80 127.0.0.1", "'/x'"), ("-G /x 80 127.0.0.1", "-E"),
    ("-A /x 80 127.0.0.1", "-E"), ("-R 80 127.0.0.1", "-E"), ("-L ssl4 80 127.0.0.1", "'ssl4'"),
    ("-l 127.0.0.1:99999 80 127.0.0.1", "99999"), ("-l 127.0.0.1:0 80 127.0.0.1", "port 0"),
    ("-l nosuchhost.invalid:99 80 127.0.0.1", "log:"), ("-HOmysql 80 127.0.0.1", "mysql"),
    ("nosuchservice 127.0.0.1:80", "'nosuchservice'"),
    ("99999 127.0.0.1", "99999"), ("80 127.0.0.1:99999", "99999"), ("80 127.0.0.1:80:many", "'many'"),
    ("80 1.2.3", "'1.2.3'"), ("80 [::1:80", "[::1:80"), ("80 ::1:80", "::1:80"), ("80 /sock:80", "/sock:80"),
    ("80 127.0.0.1:1:2:3:4:5:6", "too many"), ("nosuchhost.invalid.:0:0 a", "nosuchhost.invalid."),
    (f"/{'x' * 120} 127.0.0.1", "too long"), ("", "LISTEN"), ("80", "SERVER"), ("-f", "LISTEN"),
    ("-O pid 80 127.0.0.1", "pid"), ("-O nonsense 80 127.0.0.1", "'nonsense'"),
    ("-O timeout\u00a0x 80 127.0.0.1", "timeout"), ("-O server 80 127.0.0.1", "server"),
]


@pytest.mark.parametrize("arguments, named", WRONG)
def test_wrong_arguments(capsys: pytest.CaptureFixture[str], arguments: str, named: str) -> None:
    status = main(["--check", *arguments.split(" ")] if arguments else ["--check"])
    told = capsys.readouterr()
    if named == "HOST":  # -t took 80 for its argument, and a server is missing
        named = "LISTEN"
    assert (status, told.out, told.err.count("\n")) == (2, "", 1)
    assert told.err.startswith("gpen: ")
    assert named in told.err


def test_the_last_of_a_repeated_option_counts(gpen: Callable[..., Gpen]) -> None:
    balancer = gpen("-t", "5", "-rr", "-t6", "-x3", "-sx4", servers=[SERVER])
    assert [balancer.ctl(name) for name in ("timeout", "conn_max")] == ["6\n", "4\n"]
    assert balancer.json("mode")["roundrobin"] and balancer.json("mode")["stubborn"]


def test_a_program_that_is_told_nonsense() -> None:
    """The same from outside, once: status, one line, no traceback."""
    done = run_gpen("-f", "-x", "none", "80", "127.0.0.1")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "-x: conn_max: 'none'" in done.stderr


def test_a_file_with_a_typo(tmp_path: Path) -> None:
    file = tmp_path / "gpen.cfg"
    file.write_text("# first\n\ntimeout abc\n")
    done = run_gpen("-f", "-F", str(file), "127.0.0.1:0", SERVER)
    assert (done.returncode, done.stderr) == (2, f"gpen: {file}:3: timeout: 'abc' is not a number of seconds above 0\n")


def test_check_opens_nothing(tmp_path: Path) -> None:
    with Server(hold) as server:
        done = run_gpen("--check", "-l", f"{tmp_path}/log", "-p", f"{tmp_path}/pid", "-C", f"{tmp_path}/ctl",
                        server.address, "127.0.0.1:1")
    assert (done.returncode, done.stdout, done.stderr) == (0, "configuration is valid\n", "")
    assert not list(tmp_path.iterdir())


def test_help_and_version() -> None:
    assert re.fullmatch(r"gpen \d+\.\d+\.\d+\n", run_gpen("--version").stdout)
    done = run_gpen("--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert all(flag in done.stdout for flag in ("-C ADDRESS", "-F FILE", "--check", "Usage:", "Examples:"))


def test_obsolete_options_are_told(gpen: Callable[..., Gpen], servers: Callable[..., Server]) -> None:
    balancer = gpen("-D", "-n", "-Q", "-S", "5", "-P", "-i", "x", servers=[servers(hold)])
    for flag in ("-D", "-n", "-Q", "-S", "-P", "-i"):
        assert f"{flag}: obsolete option, ignored" in balancer.stderr


def test_options_are_commands(gpen: Callable[..., Gpen], servers: Callable[..., Server], tmp_path: Path) -> None:
    """Glued or not, each flag sets what its command reads; -F has the last word."""
    (tmp_path / "gpen.cfg").write_text("blacklist 9\n")
    balancer = gpen("-rs", "-t5", "-b", "7", "-x20", "-c", "30", "-T", "40", "-hX", "-O", "no stubborn", "-dd",
                    "-F", "gpen.cfg", servers=[f"{servers(hold).address}:10:20:3:1"])
    values = balancer.ctl("timeout", "blacklist", "conn_max", "clients_max", "tracking", "debug")
    assert values.split() == ["5", "9", "20", "30", "40", "2"]
    assert balancer.ctl("mode") == "hash roundrobin no stubborn no weight no prio\n"
    assert [balancer.server(0)[name] for name in ("max", "hard", "weight", "prio")] == [10, 20, 3, 1]


def test_everything_from_a_file(tmp_path: Path) -> None:
    with Server(hold) as server:
        (tmp_path / "gpen.cfg").write_text(f"listen 127.0.0.1:0\nserver 0 address 127.0.0.1 port {server.port}\n")
        with Gpen(tmp_path, "-F", "gpen.cfg") as balancer:
            assert balancer.ask() == b""
            assert server.served == 1


def test_the_control_port_needs_a_user_as_root() -> None:
    done = run_gpen("-f", "-C", "127.0.0.1:0", "127.0.0.1:0", SERVER)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "-u USER" in done.stderr


def test_what_has_no_effect_is_said_once(gpen: Callable[..., Gpen]) -> None:
    balancer = gpen("-O", "epoll", "-O", "kqueue", "-O", "epoll", servers=[SERVER])
    balancer.ctl("epoll", "select", "select", "timeout 4")
    told = [line.split(": ", 1)[1] for line in balancer.stderr.splitlines() if "without effect" in line]
    assert told == [f"{name}: accepted for pen's sake, without effect" for name in ("epoll", "kqueue", "select")]


def test_a_key_without_a_certificate_is_no_tls(gpen: Callable[..., Gpen]) -> None:
    assert "ssl_key: without a certificate" in gpen("-K", "/nonexistent", servers=[SERVER]).stderr


def test_who_asks_for_certificates_gets_them_or_an_error(gpen: Callable[..., Gpen]) -> None:
    """What write saves can be started again."""
    balancer = gpen(servers=[SERVER])
    for line in ("ssl_require_peer", "ssl_ca_file /x", "ssl_ca_path /x", "ssl_sni_path /x"):
        name = line.split()[0]
        assert balancer.ctl(line) == f"error: {name}: TLS needs a certificate: give ssl_certificate (-E FILE)\n"
