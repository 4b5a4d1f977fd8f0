"""The command line: what is refused, in one line that names it; --check, --help, --version."""

from __future__ import annotations

import platform
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from gpen.cli import main
from tests.harness import COMMAND, ROOT, Gpen, Server, hold, knowing, naming, needs_root, run_gpen

SERVER = "127.0.0.1:9"

# arguments, what the message names; NONE is a path where nothing is
WRONG = [
    ("-Y 80 www1", "-Y"), ("--wrong 80 www1", "--wrong"), ("-t 80", "HOST"), ("-t", "-t"),
    ("-tsoon 80 10.0.0.1", "'soon'"),
    ("-t 0 80 10.0.0.1", "'0'"), ("-x none 80 10.0.0.1", "'none'"), ("-x 0 80 10.0.0.1", "'0'"),
    ("-b -3 80 10.0.0.1", "'-3'"), ("-c many 80 10.0.0.1", "'many'"), ("-m -1 80 10.0.0.1", "'-1'"),
    ("-q x 80 10.0.0.1", "'x'"), ("-T x 80 10.0.0.1", "'x'"), ("-e :: 80 10.0.0.1", "::"),
    ("-B a:b:c:d 80 10.0.0.1", "a:b:c:d"), ("-u nosuchuser 80 10.0.0.1", "'nosuchuser'"),
    ("-j NONE 80 10.0.0.1", "'NONE'"), ("-F NONE 80 10.0.0.1", "'NONE'"),
    ("-l NONE/log 80 10.0.0.1", "'NONE'"), ("-p NONE/pid 80 10.0.0.1", "'NONE'"),
    ("-w NONE/w 80 10.0.0.1", "'NONE'"), ("-u nobody -C nowhere 80 10.0.0.1", "nowhere"),
    ("-UH 80 10.0.0.1", "http"), ("-U /sock 127.0.0.1:80", "/sock"), ("-U 80 /sock", "/sock"),
    ("-E NONE 80 10.0.0.1", "'NONE'"), ("-G NONE 80 10.0.0.1", "-E"),
    ("-A NONE 80 10.0.0.1", "-E"), ("-R 80 10.0.0.1", "-E"), ("-L ssl4 80 10.0.0.1", "'ssl4'"),
    ("-l 127.0.0.1:99999 80 10.0.0.1", "99999"), ("-l 127.0.0.1:0 80 10.0.0.1", "port 0"),
    ("-HOmysql 80 10.0.0.1", "mysql"),
    ("nosuchservice 127.0.0.1:80", "'nosuchservice'"),
    ("99999 127.0.0.1", "99999"), ("80 127.0.0.1:99999", "99999"), ("80 127.0.0.1:80:many", "'many'"),
    ("80 1.2.3", "'1.2.3'"), ("80 [::1:80", "[::1:80"), ("80 ::1:80", "::1:80"), ("80 /sock:80", "/sock:80"),
    ("80 127.0.0.1:1:2:3:4:5:6", "too many"),
    (f"/{'x' * 120} 127.0.0.1", "too long"), ("", "LISTEN"), ("80", "SERVER"), ("-f", "LISTEN"),
    ("-O pid 80 10.0.0.1", "pid"), ("-O nonsense 80 10.0.0.1", "'nonsense'"),
    ("-O greeting 1 127.0.0.1 127.0.0.1", "-O 'greeting 1'"), ("-O hold 80 10.0.0.1", "-O 'hold ...'"),
    ("-O hold 80 10.0.0.1", "needs a value: hold S"), ("-d 2 127.0.0.1", "-dd"), ("-rd 2 127.0.0.1", "0.0.0.0:2"),
    ("-o debug 3 127.0.0.1", "-o 'debug 3'"), ("http://127.0.0.1:80 10.0.0.1", "here 127.0.0.1:80"),
    ("https://www1 127.0.0.1:80", "URL"), ("80 http://127.0.0.1:80/x", "URL"), ("127.0.0.1 127.0.0.1:80", "no port"),
    ("www.example.com 127.0.0.1:80", "www.example.com:PORT"), ("-e http://a:1 80 10.0.0.1", "URL"),
    ("-C tcp://a:1 80 10.0.0.1", "URL"), ("80 10.0.0.1 -- -r:", "'-r'"), ("-- -r:x:y 127.0.0.1", "-r:x:y"),
    ("-v", "-v is not an option; did you mean --version?"), ("-version", "--version"), ("--hlep", "--help?"),
    ("--chekc 80 10.0.0.1", "--check?"), ("-? 80 10.0.0.1", "--help?"), ("--nothing-like-it 80 x", "see gpen --help"),
    ("10.0.0.1:80 8080", "server '8080' is a number: LISTEN comes first"), ("-f FILE", "-F FILE"),
    ("-O timeout\u00a0x 80 10.0.0.1", "timeout"), ("-O server 80 10.0.0.1", "server"),
]


def test_a_port_of_its_own_that_a_listener_cannot_have() -> None:
    done = run_gpen("--check", "-O", "listener x listen 0", "-O", "listener x server 0 port nosuch", "0", SERVER)
    assert (done.returncode, done.stderr) == (2, "gpen: listener x: server 0: 'nosuch' is not a port, nor a service in "
                                              "/etc/services\n")


@pytest.mark.parametrize("word", ["a\nb", "a\r", "\x00", "\x1b[2J", "a\u2028b", "a\x85b", "\udcff", "\ud800"])
@pytest.mark.parametrize("place", ["{} 127.0.0.1", "80 {}", "-l {} 80 127.0.0.1", "-F {}", "-O {} 80 x", "--{}"])
def test_an_argument_that_is_no_line(capsys: pytest.CaptureFixture[str], place: str, word: str) -> None:
    assert main(["--check", *place.format(word).split(" ")]) == 2
    told = capsys.readouterr()
    assert (told.out, told.err.count("\n")) == ("", 1) and told.err.startswith("gpen: argument ")
    assert told.err.strip().isprintable()


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    """From outside, as a shell passes them on; and what is UTF-8 is right in any locale."""
    done = subprocess.run([*COMMAND, "--check", "-l", b"/tmp/\xff", "80", "127.0.0.1"], capture_output=True, text=True,
                          timeout=20, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1) and "not UTF-8" in done.stderr


@pytest.mark.parametrize("arguments", [
    ["-r", "7", SERVER], ["-d", "--", "7", SERVER], ["-d", "0.0.0.0:7", SERVER], ["-O", "hold 1", "7", SERVER],
    ["-O", "mysql", "7", SERVER], ["-d", "80", SERVER], ["--", "80", SERVER], ["80", "--", SERVER]])
def test_a_low_port_that_is_meant(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert main(["--check", *arguments]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("line", ["greeting", "timeout", "hold  # nothing", "listen", "log", "ssl_option"])
def test_a_line_without_its_value(tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str) -> None:
    (tmp_path / "gpen.cfg").write_text(f"\n{line}\n")
    assert main(["--check", "-F", str(tmp_path / "gpen.cfg"), "80", SERVER]) == 2
    assert f"gpen.cfg:2: {line.split()[0]}: needs a value: {line.split()[0]} " in capsys.readouterr().err


def test_a_byte_order_mark(gpen: Callable[..., Gpen], tmp_path: Path) -> None:
    (tmp_path / "gpen.cfg").write_text("\ufefftimeout 7\r\nblacklist 8\r\n", newline="")
    balancer = gpen("-F", "gpen.cfg", servers=[SERVER])
    assert balancer.ctl("\ufefftimeout", "blacklist") == "7\n8\n"


def test_a_port_behind_the_address_of_a_server(gpen: Callable[..., Gpen]) -> None:
    balancer = gpen(servers=[SERVER])
    for address, port, shown in (("127.0.0.9:80", "", "127.0.0.9 port 80"), ("[::1]:81", "", "::1 port 81"),
                                 ("::1:82", "", "::1:82 port 81"), ("127.0.0.9", "", "127.0.0.9 port 81"),
                                 ("127.0.0.9:80", "port 80", "127.0.0.9 port 80"), ("localhost:http", "", " port 80")):
        assert balancer.ctl(f"server 0 address {address} {port}") == ""
        assert shown in balancer.ctl("servers")
    assert "say different ports" in balancer.ctl("server 0 address 127.0.0.9:80 port 83")
    for wrong in ("127.0.0.9:", ":80", "127.0.0.9:99999", "[::1]x:80", "http://127.0.0.9:80", "a:b:80"):
        assert balancer.ctl(f"server 0 address {wrong}").startswith("error: server: address: ")


@pytest.mark.parametrize("arguments, named", WRONG)
def test_wrong_arguments(capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: str, named: str) -> None:
    (tmp_path / "web.cfg").touch()
    arguments, named = (text.replace("NONE", str(tmp_path / "none")).replace("FILE", str(tmp_path / "web.cfg"))
                        for text in (arguments, named))
    status = main(["--check", *arguments.split(" ")] if arguments else ["--check"])
    told = capsys.readouterr()
    if named == "HOST":  # -t took 80 for its argument, and a server is missing
        named = "LISTEN"
    assert (status, told.out, told.err.count("\n")) == (2, "", 1)
    assert told.err.startswith("gpen: ")
    assert named in told.err


@pytest.mark.parametrize("arguments, named", [
    ("-l www.test:99 80 127.0.0.1:81", "log:"), ("www.test.:0:0 127.0.0.1:80", "www.test.")])
def test_names_that_are_unknown(tmp_path: Path, arguments: str, named: str) -> None:
    done = run_gpen("--check", *arguments.split(), wrapper=knowing(tmp_path))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert named in done.stderr


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
    assert (done.returncode, done.stderr) == (
        2, f"gpen: {file}:3: timeout: 'abc' is not a number of seconds above 0: expected one such as 30 or 0.5\n")


def test_check_tells_all_that_is_wrong(tmp_path: Path) -> None:
    """On the command line, in the file and what it includes, and in what they name."""
    (tmp_path / "more.cfg").write_text("hash\nacl 1 permit here\n")
    (tmp_path / "gpen.cfg").write_text("timeout abc\ninclude more.cfg\nserver 0 max 3\nserver 7 max 3\nblaklist 4\n"
                                       "ssl_require_peer\nserver 3 address no-such-host.invalid port 80\n")
    done = run_gpen("--check", "-x", "none", "-F", "gpen.cfg", "-u", "nosuchuser", "-l", "no-such-dir/log", "-O",
                    "server 0 state gone", "127.0.0.1:0", SERVER, "127.0.0.1:port:x", directory=tmp_path)
    told = done.stderr.splitlines()
    assert done.returncode == 2 and all(line.startswith("gpen: ") for line in told), done.stderr
    for number, named in enumerate(("-x: conn_max: 'none'", "127.0.0.1:port:x", "-O 'server 0 state gone': server",
                                    "gpen.cfg:1: timeout", "more.cfg:2: acl", "gpen.cfg:4: server: there is no",
                                    "gpen.cfg:5: unknown command 'blaklist'", "ssl_require_peer: TLS needs a",
                                    "user: there is no user 'nosuchuser'",
                                    "log: the directory 'no-such-dir'")):
        assert named in told[number]
    assert "no-such-host.invalid" in told[10] and len(told) == 11


def test_check_tells_nothing_that_follows_from_what_is_wrong(tmp_path: Path) -> None:
    """A server whose address is wrong is not missed by later lines; what a right line gives counts."""
    (tmp_path / "gpen.cfg").write_text("server 0 address bad!host\nserver 0 max 3\nssl_certificate x.pem\nbogus\n")
    done = run_gpen("--check", "-G", "ca.pem", "-F", "gpen.cfg", "127.0.0.1:0", directory=tmp_path)
    told = done.stderr.splitlines()
    assert ["bad!host" in told[0], "bogus" in told[1], "ca.pem" in told[2], len(told)] == [True, True, True, 3]


def test_a_working_directory_that_is_gone(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    command = f"rmdir ../gone && exec {shlex.join(COMMAND)} --check -F x.cfg 127.0.0.1:0 {SERVER}"
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path / "gone", capture_output=True, text=True, timeout=20,
                          check=False)
    assert (done.returncode, done.stderr) == (2, "gpen: can't read the file 'x.cfg': No such file or directory\n")


def test_check_looks_at_what_is_named(tmp_path: Path) -> None:
    done = run_gpen("--check", "-O", "check exec /no-such-program", "-O", "geoip_db no-such.mmdb", "-E", "no-such.pem",
                    "-l", "no-such-host.invalid:514", "127.0.0.1:0", "no-such-host.invalid:80",
                    "no-such-host2.invalid:80")
    told = done.stderr.splitlines()
    assert done.returncode == 2
    assert [line.split(":")[1].strip() for line in told] == ["server 0", "server 1", "log", "check", "ssl_certificate",
                                                             "geoip_db"]


def test_check_opens_nothing(tmp_path: Path) -> None:
    with Server(hold) as server:
        done = run_gpen("--check", "-l", f"{tmp_path}/log", "-p", f"{tmp_path}/pid", "-C", f"{tmp_path}/ctl",
                        server.address, "127.0.0.1:1")
    assert (done.returncode, done.stdout, done.stderr) == (0, "configuration is valid\n", "")
    assert not list(tmp_path.iterdir())


def test_help_and_version() -> None:
    told = run_gpen("--version").stdout
    assert re.fullmatch(r"gpen \d+\.\d+\.\d+ \((compiled|pure)\)\nPython .*, gevent \d.*, OpenSSL \d.*\n", told)
    assert f"Python {platform.python_version()}, " in told and told.endswith(f"; in {ROOT}/gpen\n")
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


@needs_root
def test_the_control_port_needs_a_user_as_root() -> None:
    done = run_gpen("-f", "-C", "127.0.0.1:0", "127.0.0.1:0", SERVER)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "-u USER" in done.stderr


def test_what_has_no_effect_is_said_once(gpen: Callable[..., Gpen]) -> None:
    balancer = gpen("-O", "epoll", "-O", "kqueue", "-O", "epoll", servers=[SERVER])
    balancer.ctl("epoll", "select", "select", "timeout 4")
    told = [line.split(": ", 1)[1] for line in balancer.stderr.splitlines() if "without effect" in line]
    assert told == [f"{name}: accepted for pen's sake, without effect" for name in ("epoll", "kqueue", "select")]


@needs_root
def test_root_in_a_chroot_is_warned(tmp_path: Path) -> None:
    done = run_gpen("--check", "-j", str(tmp_path), "127.0.0.1:0", SERVER)
    assert done.returncode == 0 and "chroot: root gets out of a chroot" in done.stderr and "-u USER" in done.stderr
    assert run_gpen("--check", "-j", str(tmp_path), "-u", "nobody", "127.0.0.1:0", SERVER).stderr == ""


def test_multi_accept_0_is_1(gpen: Callable[..., Gpen], servers: Callable[..., Server]) -> None:
    """As in pen, which says "bumped to 1"; and over UDP."""
    balancer = gpen("-m", "0", servers=[servers(naming("a"))])
    assert [balancer.ask() for _ in range(5)] == [b"a"] * 5
    assert balancer.ctl("multi_accept 5", "multi_accept 0", "multi_accept") == "1\n"
    assert balancer.ask() == b"a"


def test_a_key_without_a_certificate_is_no_tls(gpen: Callable[..., Gpen], tmp_path: Path) -> None:
    assert "has no effect: without a certificate" in gpen("-K", str(tmp_path / "none"), servers=[SERVER]).stderr


def test_who_asks_for_certificates_gets_them_or_an_error(gpen: Callable[..., Gpen]) -> None:
    """What write saves can be started again."""
    balancer = gpen(servers=[SERVER])
    for line in ("ssl_require_peer", "ssl_ca_file /x", "ssl_ca_path /x", "ssl_sni_path /x"):
        name = line.split()[0]
        assert balancer.ctl(line) == f"error: {name}: TLS needs a certificate: give ssl_certificate (-E FILE)\n"
