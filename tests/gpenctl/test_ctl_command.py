"""gpenctl TARGET COMMAND...: what it sends, what it prints and its exit status."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import shlex
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from gpen.gpenctl.link import LinkError, ask, parse_target, remedy
from gpen.gpenctl.tables import csv_text
from tests.gpenctl.daemon import GPENCTL, REPLIES, ROOT, SERVERS, Daemon, Run, tcp_daemon, unix_daemon
from tests.harness import Gpen, Server, hold, knowing, wait_until


def one_line(text: str) -> bool:
    return text.count("\n") == 1 and text.endswith("\n") and "Traceback" not in text


def test_plain_reply_as_sent(gpenctl: Run, daemon: Daemon) -> None:
    done = gpenctl(daemon.target, "servers")
    assert (done.returncode, done.stdout, done.stderr) == (0, daemon.replies["servers"], "")
    assert daemon.lines == ["servers"]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["server", "1", "max", "50"], "server 1 max 50"),
        (["server 1 max 50"], "server 1 max 50"),
        (["log", "/tmp/my log"], 'log "/tmp/my log"'),
        (["log", 'a"b\\c'], 'log "a\\"b\\\\c"'),
        (["log", "a\\b"], "log a\\b"),
        (["log", "#1"], 'log "#1"'),
        (["log", ""], 'log ""'),
        (["source", "--x", "-y", "-1"], "source --x -y -1"),
        (["source", "--", "--x", "-f", "--help"], "source --x -f --help"),
        (["--", "source", "--", "-f"], "source -- -f"),
    ],
)
def test_words_are_one_line(gpenctl: Run, daemon: Daemon, words: list[str], line: str) -> None:
    daemon.replies[line] = ""
    done = gpenctl(daemon.target, *words)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert daemon.lines == [line]


def test_quoting_is_what_the_daemon_reads() -> None:
    script = pytest.importorskip("gpen.control.script")
    from gpen.gpenctl.main import join

    words = ["log", "", " ", 'a"b\\c d', "#x", "a#b", "'", "\\", 'x"']
    assert script.words_of(join(words)) == words


@pytest.mark.parametrize(
    ("command", "reply"),
    [
        ("server 1 max many", REPLIES["server 1 max many"]),
        ("exit", "Exit is not enabled; restart with -X flag\n"),
        ("close 9999", "Connection 9999 out of range\n"),
    ],
)
def test_an_error_goes_to_stderr(gpenctl: Run, daemon: Daemon, command: str, reply: str) -> None:
    daemon.replies[command] = reply
    done = gpenctl(daemon.target, *command.split())
    assert (done.returncode, done.stdout, done.stderr) == (1, "", reply)


@pytest.mark.parametrize(
    ("command", "hint"),
    [
        ("severs", "gpenctl: did you mean 'servers'?\n"),
        ("show", "gpenctl: here that is said without that word: servers, sessions, info, events\n"),
        ("xyzzy", "gpenctl: 'help' lists the commands\n"),
        ("events", ""),  # gpen's, unknown to a pen: nothing better to offer
    ],
)
def test_an_unknown_command(gpenctl: Run, daemon: Daemon, command: str, hint: str) -> None:
    done = gpenctl(daemon.target, command)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"do_cmd: ignoring command starting with '{command}'\n{hint}"


def test_info_in_each_form(gpenctl: Run, gpen: Callable[..., Gpen], servers: Callable[..., Server]) -> None:
    balancer = gpen(servers=[servers(hold)])
    told = json.loads(gpenctl("-f", "json", balancer.control, "info").stdout)
    assert told["pid"] == balancer.pid and told["sessions"] == 0
    (row,) = csv.DictReader(io.StringIO(gpenctl("-f", "csv", balancer.control, "info").stdout))
    assert row["pid"] == str(balancer.pid) and row.keys() == told.keys()
    lines = gpenctl("-f", "table", balancer.control, "info").stdout.splitlines()
    assert ["pid", str(balancer.pid)] in [line.split() for line in lines]
    assert gpenctl("-f", "plain", balancer.control, "info").stdout == balancer.ctl("info")


@pytest.mark.parametrize("form", ["plain", "table", "json", "csv"])
@pytest.mark.parametrize("answer", ["Connection 9999 out of range\n", '{"connection":9999}\n'])
def test_a_connection_out_of_range(gpenctl: Run, daemon: Daemon, form: str, answer: str) -> None:
    """An error in every format, although the JSON does not say so."""
    refusal = "Connection 9999 out of range\n"
    daemon.replies |= {"connection 9999 json": answer, "connection 9999": refusal}
    done = gpenctl("-f", form, daemon.target, "connection", "9999")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", refusal)


@pytest.mark.parametrize("form", ["plain", "table", "json", "csv"])
def test_an_error_in_every_format(gpenctl: Run, daemon: Daemon, form: str) -> None:
    done = gpenctl("-f", form, daemon.target, "explain", "nobody")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("do_cmd: ignoring")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("", "TARGET is missing: the path of a control socket or HOST:PORT"),
        ("-f csv", "TARGET is missing: the path"),
        ("--color always -t2", "TARGET is missing: the path"),
        ("servers", "TARGET is missing in front of 'servers': the path of a control socket or HOST:PORT"),
        ("watch 2", "TARGET is missing in front of 'watch': "),
        ("-f csv -x", "repeated -x;"),
        ("--wrong /x servers", "--wrong"),
        ("-x /x servers", "-x"),
        ("--format csv -f json /x servers", "repeated -f;"),
        ("--format xml /x servers", "xml"),
        ("--format", "--format"),
        ("--color sometimes /x servers", "sometimes"),
        ("--timeout soon /x servers", "soon"),
        ("--timeout -1 /x servers", "-1"),
        ("--timeout nan /x servers", "nan"),
        ("gpen.ctl servers", "gpen.ctl"),
        ("[::1] servers", "HOST:PORT"),
        ("[::1]x:80 servers", "[::1]x:80"),
        ("x[::1]:80 servers", "x[::1]:80"),
        ("::g:80 servers", "::g:80"),
        ("1.2.3:80 servers", "1.2.3"),
        ("'a b:80' servers", "a b:80"),
        ("localhost:0000655350 servers", "0000655350"),
        ("localhost:0 servers", "'0'"),
        ("/x servers --format xml", "xml"),
        ("/x servers -t", "-t"),
        ("/x servers -fcsv --format=json", "--format"),
        ("localhost:99999 servers", "99999"),
        ("localhost: servers", "localhost:"),
        ("localhost:nosuchservice servers", "nosuchservice"),
        ("/x watch 0", "'0'"),
        ("/x watch 1 2", "1 2"),
        ("-f csv /x watch", "csv"),
        ("/x log 'a\nexit'", "a\\nexit"),
    ],
)
def test_wrong_usage_is_one_line(gpenctl: Run, arguments: str, named: str) -> None:
    done = gpenctl(*shlex.split(arguments))
    assert (done.returncode, done.stdout) == (2, "")
    assert one_line(done.stderr) and named in done.stderr


def test_help_and_version(gpenctl: Run) -> None:
    from gpen import __version__

    assert gpenctl("--version").stdout == f"gpenctl {__version__}\n"
    shown = gpenctl("--help").stdout
    assert all(word in shown for word in ("Usage:", "Examples:", "watch", "drain 1 30", "Exit status"))
    assert max(map(len, shown.split("\n"))) <= 80


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:80", "127.0.0.1", 80),
        ("[::1]:80", "::1", 80),
        ("::1:10080", "::1", 10080),
        (":80", "localhost", 80),
        ("www1:http", "www1", 80),
    ],
)
def test_targets(text: str, host: str, port: int) -> None:
    target = parse_target(text)
    assert (target.path, target.host, target.port) == ("", host, port)


@pytest.mark.parametrize(
    "words", ["servers -f json", "servers -fjson", "servers --format=json", "--format json servers"]
)
def test_options_behind_the_target(gpenctl: Run, daemon: Daemon, words: str) -> None:
    assert gpenctl(daemon.target, *words.split()).stdout == daemon.replies["servers json"]
    assert "Usage:" in gpenctl(daemon.target, "servers", "--help").stdout


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_tcp(gpenctl: Run, host: str) -> None:
    daemon = tcp_daemon(host)
    try:
        assert gpenctl(daemon.target, "pid").stdout == "4711\n"
    finally:
        daemon.close()


# No connection


def test_no_such_socket(gpenctl: Run, tmp_path: Path) -> None:
    done = gpenctl(str(tmp_path / "none.ctl"), "servers")
    assert done.returncode == 3 and one_line(done.stderr)
    assert "none.ctl: no such socket; is the daemon running" in done.stderr


def test_nobody_behind_the_socket(gpenctl: Run, tmp_path: Path) -> None:
    unix_daemon(tmp_path / "old.ctl").close()
    done = gpenctl(str(tmp_path / "old.ctl"), "servers")
    assert done.returncode == 3 and one_line(done.stderr)
    assert "old.ctl: nobody answers; is the daemon running" in done.stderr


def test_nobody_behind_the_port(gpenctl: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        target = f"127.0.0.1:{gone.getsockname()[1]}"
    done = gpenctl(target, "servers")
    assert done.returncode == 3 and one_line(done.stderr)
    assert done.stderr.startswith(f"gpenctl: {target}: nobody answers")


def telling(link: socket.socket, greeting: bytes = b"", answer: bytes = b"", endless: bytes = b"") -> None:
    link.sendall(greeting)
    if answer:
        link.recv(100)
        link.sendall(answer)
    while endless:
        link.sendall(endless)


STRANGERS: dict[str, dict[str, bytes]] = {
    "http": {"answer": b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n<html>"},
    "html": {"answer": b"<html>"},
    "tls": {"answer": b"\x15\x03\x01\x00\x02\x02\x46"},
    "smtp": {"greeting": b"220 mail.example ESMTP\r\n", "answer": b"500 what?\r\n"},
    "mysql": {"greeting": b"\x4a\x00\x00\x00\x0a8.0.36\x00\x08"},
    "ssh": {"greeting": b"SSH-2.0-OpenSSH_9.2\r\n"},
    "redis": {"answer": b"-ERR unknown command 'pid'\r\n"},
    "echo": {"answer": b"pid\n"},
    "chargen": {"endless": b"!\"#$%&'()*+,-./0123456789" * 100},
    "digits": {"endless": b"1" * 100},
    "zeros": {"endless": bytes(4096)},
    "lines": {"endless": b"\n" * 100},
    "closes": {},
}


@pytest.mark.parametrize("kind", STRANGERS)
@pytest.mark.parametrize("command", ["servers", "server 1 max 5", "-f table sessions", "drain 1", ""])
def test_what_is_no_daemon(gpenctl: Run, kind: str, command: str) -> None:
    """It is told nothing but `pid`, and is found out soon."""
    with Server(lambda link: telling(link, **STRANGERS[kind])) as stranger:
        done = gpenctl(stranger.address, *command.split(), stdin="servers\n")
    assert (done.returncode, done.stdout) == (3, "")
    assert one_line(done.stderr)
    assert done.stderr.startswith(f"gpenctl: {stranger.address}: ")
    assert "is not a control socket" in done.stderr or "cut the connection" in done.stderr


def test_what_is_no_socket(gpenctl: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("4711\n")
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
        log.bind(str(tmp_path / "log"))
        for path in (tmp_path / "file", tmp_path / "fifo", tmp_path / "log", tmp_path, Path("/dev/null")):
            done = gpenctl(f"{path}/" if path == tmp_path else str(path), "servers")
            assert (done.returncode, done.stdout) == (3, "")
            assert one_line(done.stderr) and "is not a control socket" in done.stderr


def test_who_says_nothing(gpenctl: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        done = gpenctl("-t", "0.3", f"127.0.0.1:{silent.getsockname()[1]}", "servers")
    assert done.returncode == 3 and one_line(done.stderr)
    assert "no answer within 0.3 s" in done.stderr and "not a control socket" in done.stderr


def test_who_refuses_to_talk(gpenctl: Run, daemon: Daemon) -> None:
    """A daemon all the same: its error is shown, and nothing more is sent."""
    refusal = "error: access list 4 (control_acl) denies 10.0.0.1\n"
    daemon.replies["pid"] = refusal
    for words in (["servers"], ["-f", "json", "servers"], ["drain", "1"], []):
        done = gpenctl(daemon.target, *words)
        assert (done.returncode, done.stdout, done.stderr) == (1, "", refusal)
    assert daemon.lines == []


def test_impossible_path(gpenctl: Run) -> None:
    done = gpenctl("/" + "x" * 200, "servers")
    assert done.returncode == 3 and one_line(done.stderr)


@pytest.mark.parametrize(
    "number", [errno.EACCES, errno.ENOENT, errno.EAGAIN, errno.ECONNRESET, errno.EHOSTUNREACH]
)
def test_every_trouble_has_a_remedy(number: int) -> None:
    text = remedy(parse_target("/run/gpen.ctl"), OSError(number, os.strerror(number)), 10)
    assert ";" in text and "\n" not in text


def test_permission_names_the_owner() -> None:
    text = remedy(parse_target("/run/gpen.ctl"), PermissionError(errno.EACCES, "Permission denied"), 10)
    assert "owner of the socket" in text


@pytest.fixture
def silence(daemon: Daemon) -> threading.Event:
    """The daemon does not answer `pid` until this is set."""
    over = threading.Event()

    def answer(link: socket.socket) -> None:
        over.wait(30)

    daemon.replies["pid"] = answer
    return over


def test_silence(gpenctl: Run, daemon: Daemon, silence: threading.Event) -> None:
    done = gpenctl("--timeout", "0.2", daemon.target, "pid")
    silence.set()
    assert done.returncode == 3 and one_line(done.stderr)
    assert "no answer within 0.2 s" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can show a process other files")
def test_a_name_server_that_is_silent(environment: dict[str, str], tmp_path: Path) -> None:
    """The lookup obeys --timeout too, and the end of gpenctl does not wait for it either."""
    silent = "127.77.0.53"
    (tmp_path / "resolv.conf").write_text(f"nameserver {silent}\noptions timeout:15 attempts:2\n")
    seeing = f'mount --bind {tmp_path}/resolv.conf /etc/resolv.conf && exec "$0" "$@"'
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as name_server:
        name_server.bind((silent, 53))
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", seeing, *GPENCTL, "-t", "0.2", "slow.name:99", "servers"],
            env=environment,
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
        assert name_server.recv(512, socket.MSG_DONTWAIT)  # it was asked
    assert done.returncode == 3 and one_line(done.stderr)
    assert done.stderr.startswith("gpenctl: slow.name:99: no address found within 0.2 s")


def test_a_wrong_name(environment: dict[str, str], tmp_path: Path) -> None:
    done = subprocess.run([*knowing(tmp_path), *GPENCTL, "nosuch.invalid:99", "servers"], env=environment,
                          capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 3 and one_line(done.stderr)
    assert done.stderr.startswith("gpenctl: nosuch.invalid:99: ") and "check the host name" in done.stderr


def test_a_name_with_many_addresses(gpenctl: Run) -> None:
    """localhost may be ::1 first, where nobody listens."""
    daemon = tcp_daemon("127.0.0.1")
    try:
        assert gpenctl(daemon.target.replace("127.0.0.1", "localhost"), "pid").stdout == "4711\n"
    finally:
        daemon.close()


def test_cut_connection(daemon: Daemon) -> None:
    server = tcp_daemon("127.0.0.1")

    def cut(link: socket.socket) -> None:
        link.sendall(b"471")
        link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    server.replies["pid"] = cut
    try:
        with pytest.raises(LinkError, match="the daemon cut the connection"):
            ask(parse_target(server.target), "pid", 5)
    finally:
        server.close()


def test_interrupt(daemon: Daemon, silence: threading.Event, environment: dict[str, str]) -> None:
    asked = threading.Event()

    def answer(link: socket.socket) -> None:
        asked.set()
        silence.wait(30)

    daemon.replies["pid"] = answer
    process = subprocess.Popen(
        [*GPENCTL, daemon.target, "pid"], stderr=subprocess.PIPE, text=True, env=environment
    )
    assert asked.wait(20)
    process.send_signal(signal.SIGINT)
    _, complaint = process.communicate(timeout=20)
    silence.set()
    assert (process.returncode, complaint) == (130, "")


def test_a_reader_that_has_left(daemon: Daemon, environment: dict[str, str]) -> None:
    daemon.replies["status"] = "<html>\n" * 100_000
    reading, writing = os.pipe()
    os.close(reading)
    process = subprocess.run(
        [*GPENCTL, daemon.target, "status"],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        timeout=30,
        check=False,
    )
    os.close(writing)
    assert (process.returncode, process.stderr) == (0, "")


@pytest.mark.parametrize("words", [["--version"], ["TARGET", "servers"], ["TARGET", "watch"]])
def test_a_full_disk(daemon: Daemon, environment: dict[str, str], words: list[str]) -> None:
    words = [daemon.target if word == "TARGET" else word for word in words]
    with open("/dev/full", "w") as full:
        process = subprocess.run(
            [*GPENCTL, *words],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            timeout=30,
            check=False,
        )
    assert process.returncode == 1 and one_line(process.stderr)
    assert "standard output: No space left" in process.stderr


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-"])
@pytest.mark.parametrize("command", ["", "servers"])
def test_closed_streams(daemon: Daemon, environment: dict[str, str], closed: str, command: str) -> None:
    line = f"{shlex.join([*GPENCTL, daemon.target])} {command} {closed}"
    process = subprocess.run(
        ["sh", "-c", line],
        input="servers\n",
        capture_output=True,
        text=True,
        env=environment,
        timeout=30,
        check=False,
    )
    assert (process.returncode, process.stderr) == (0, "")


# Formats


def test_json(gpenctl: Run, daemon: Daemon) -> None:
    done = gpenctl("--format=json", daemon.target, "servers")
    assert done.stdout == daemon.replies["servers json"]
    assert gpenctl("--format=json", daemon.target, "servers", "json").stdout == done.stdout
    assert daemon.lines == ["servers json"] * 2


def test_csv(gpenctl: Run, daemon: Daemon) -> None:
    rows = list(csv.DictReader(io.StringIO(gpenctl("-f", "csv", daemon.target, "servers").stdout)))
    assert [row["rx"] for row in rows] == ["5242880"] * 4
    assert rows[3]["number"] == "" and rows[3]["name"] == "emergency"
    assert set(rows[0]) == set(SERVERS[0])


def test_csv_headings_are_those_of_gpen(
    gpenctl: Run, gpen: Callable[..., Gpen], servers: Callable[..., Server]
) -> None:
    """With rows the headings come from gpen, without rows from gpenctl: the same."""
    balancer = gpen(servers=[servers(hold)])
    headings = {name: csv_text(name, []) for name in ("servers", "sessions", "recent", "events", "listeners")}
    assert gpenctl("-f", "csv", balancer.control, "sessions").stdout == headings["sessions"]
    balancer.ctl("server 0 state drain", "server 0 state ready")  # two events
    with balancer.connect():
        wait_until(lambda: balancer.json("sessions"))
        for name, heading in headings.items():
            shown = gpenctl("-f", "csv", balancer.control, name).stdout
            assert shown.startswith(heading) and shown.count("\n") > 1
        (client,) = csv.DictReader(io.StringIO(gpenctl("-f", "csv", balancer.control, "recent").stdout))
        assert (client["server"], client["sessions"]) == ("0", "1")


def test_table_in_a_pipe(gpenctl: Run, daemon: Daemon) -> None:
    done = gpenctl("-f", "table", daemon.target, "servers")
    lines = done.stdout.split("\n")
    assert lines[0].split()[:5] == ["#", "name", "address", "state", "health"]
    assert "connection refused, retry in 12s" in lines[3] and "5.0 MiB" in lines[3]
    assert "\x1b" not in done.stdout
    assert "\x1b[31mdown" in gpenctl("-f", "table", "--color=always", daemon.target, "servers").stdout


@pytest.mark.parametrize("form", ["table", "json", "csv"])
def test_commands_without_json_are_shown_as_they_are(gpenctl: Run, daemon: Daemon, form: str) -> None:
    assert gpenctl("-f", form, daemon.target, "timeout").stdout == "5\n"
    assert daemon.lines == ["timeout"]


def test_a_daemon_that_knows_no_json(gpenctl: Run, daemon: Daemon) -> None:
    line = str(daemon.replies["servers"])
    daemon.replies |= {
        "servers json": line,
        "recent json": "",
        "recent": "127.0.0.1 connects 1 sx 160 rx 78\n",
    }
    assert json.loads(gpenctl("-f", "json", daemon.target, "servers").stdout)[0]["sessions"] == 3
    assert "10.0.0.1:3306" in gpenctl("-f", "table", daemon.target, "servers").stdout
    assert (
        gpenctl("-f", "csv", daemon.target, "recent").stdout == "address,connects,sx,rx\n127.0.0.1,1,160,78\n"
    )


@pytest.mark.parametrize("form", ["table", "json", "csv"])
def test_what_one_listener_says_is_the_same_table(gpenctl: Run, daemon: Daemon, form: str) -> None:
    daemon.replies["listener x servers json"] = daemon.replies["servers json"]
    expected = gpenctl("-f", form, daemon.target, "servers").stdout
    for words in (["servers"], ["servers", "json"]):
        assert gpenctl("-f", form, daemon.target, "listener", "x", *words).stdout == expected
    assert daemon.lines == ["servers json", *["listener x servers json"] * 2]


@pytest.mark.parametrize("form", ["table", "json", "csv"])
@pytest.mark.parametrize("line", ["listener x servers 0-2", "listener x servers all", "listener x timeout 5",
                                  "listener x server 1 max 5", "no listener x"])
def test_what_changes_a_listener_is_said_once_and_as_it_is(
    gpenctl: Run, daemon: Daemon, form: str, line: str
) -> None:
    daemon.replies[line] = ""
    assert gpenctl("-f", form, daemon.target, *line.split()).returncode == 0
    assert daemon.lines == [line]


@pytest.mark.parametrize("line", ["listeners", "listener x servers"])
def test_a_daemon_that_knows_no_listeners(gpenctl: Run, daemon: Daemon, line: str) -> None:
    word = line.split()[0]
    done = gpenctl("-f", "table", daemon.target, line)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"do_cmd: ignoring command starting with '{word}'\n"


def test_what_is_no_table_is_shown_as_it_is(gpenctl: Run, daemon: Daemon) -> None:
    reply = "Connection 3 is busy\n"
    daemon.replies |= {"connection 3 json": reply, "connection 3": reply}
    for form in ("table", "json", "csv", "plain"):
        done = gpenctl("-f", form, daemon.target, "connection", "3")
        assert (done.returncode, done.stdout) == (0, reply)


@pytest.mark.parametrize(
    ("command", "answer", "fields"),
    [
        ("sessions", "[]\n", "id,client,server,server_address,state,age,idle,up,down,tls,cipher,sni,subject,server_tls,"
         "server_cipher,tls_name,listener,route,unique_id,proxy\n"),
        ("recent", "[]\n", "address,connects,sx,rx,server,idle,sessions\n"),
        ("recent", "", "address,connects,sx,rx,server,idle,sessions\n"),  # of a pen
        ("events 5", "[]\n", "time,server,event,cause,listener\n"),
        ("listener x events", "[]\n", "time,server,event,cause,listener\n"),
        ("listeners", "[]\n", "name,address,transport,protocol,sessions,conn_max,held,total,waiting,delayed,dropped,"
         "bandwidth,bandwidth_total,shortages,clients,sx,rx,endings,handshakes,server_handshakes,server_resumed,"
         "dsr,transparent,rule,servers,tracking_with,routes\n"),
    ],
)
def test_csv_without_rows(gpenctl: Run, daemon: Daemon, command: str, answer: str, fields: str) -> None:
    daemon.replies |= {f"{command} json": answer, command: answer}
    done = gpenctl("-f", "csv", daemon.target, *command.split())
    assert (done.returncode, done.stdout, done.stderr) == (0, fields, "")


def test_bytes_pass_unchanged_into_a_pipe(gpenctl: Run, daemon: Daemon) -> None:
    daemon.replies["log"] = "/tmp/\udcff\x1b\x07\n"
    assert gpenctl(daemon.target, "log").stdout == "/tmp/\udcff\x1b\x07\n"
    daemon.replies["log /tmp/\udcff"] = ""
    assert gpenctl(daemon.target, "log", os.fsdecode(b"/tmp/\xff")).returncode == 0


# Commands from stdin


def test_lines_from_stdin(gpenctl: Run, daemon: Daemon) -> None:
    done = gpenctl(daemon.target, stdin='timeout\n\n# a comment\n  log "a b"\n')
    assert daemon.lines == ["timeout", 'log "a b"']
    assert done.returncode == 1 and done.stdout == "5\n"
    done = gpenctl(daemon.target, stdin="severs\ntimeout")
    assert (done.returncode, done.stdout) == (1, "5\n")
    assert gpenctl(daemon.target, stdin="timeout").returncode == 0


def test_stdin_without_a_daemon(gpenctl: Run, tmp_path: Path) -> None:
    done = gpenctl(str(tmp_path / "none.ctl"), stdin="servers\nservers\n")
    assert done.returncode == 3 and one_line(done.stderr)


# Its weight


def test_no_gevent(daemon: Daemon, environment: dict[str, str]) -> None:
    """Neither gevent nor the daemon's side: gpenctl starts at once."""
    program = """
import sys
from gpen.gpenctl.main import main
from gpen.gpenctl import prompt, watch
for arguments in (["servers"], []):
    assert main(["--format=table", sys.argv[1], *arguments]) == 0
prompt.candidates([], lambda what: [])
heavy = [name for name in sys.modules if name.split(".")[0] in ("gevent", "greenlet")]
ours = [name for name in sys.modules if name.startswith(("gpen.wire", "gpen.daemon"))]
sys.exit(f"{heavy} {ours}" if heavy or ours else 0)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, daemon.target],
        cwd=ROOT,
        env=environment,
        input="servers\n",
        text=True,
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
