"""gpen-galera's command line, credentials and manual; no cluster."""

from __future__ import annotations

import re
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from gpen.docs.usage_manual import options_of
from gpen.galera.access import AccessError, read_access
from gpen.galera.blocking import warning
from gpen.galera.ledger import Ledger
from gpen.galera.main import MANY
from gpen.galera.manual import page
from gpen.galera.status import show
from gpen.galera.usage import OVERVIEW, USAGES
from gpen.usage import spread
from tests.certificates import Authority
from tests.galera.watcher import COMMAND
from tests.harness import ROOT


def run(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *words], capture_output=True, text=True, timeout=20, check=False, **options)


@pytest.mark.parametrize("command", [*USAGES, ""])
def test_help_has_examples_and_fits_a_terminal(command: str) -> None:
    done = run(*filter(None, [command, "--help"]))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.rstrip("\n") == (USAGES[command] if command else OVERVIEW).rstrip("\n")
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert command == "status" or "Example" in done.stdout


@pytest.mark.parametrize(("words", "expected"), [
    ("", "COMMAND is missing: one of watch, status,"),
    ("bogus", "'bogus' is no command: expected one of watch, status, move, adopt, check, serve, notify"),
    ("watch", "no gpen to tell: give --gpen=CONTROL, --reader=CONTROL or --writer=CONTROL"),
    ("watch --reader=x", "'x' is no CONTROL, /PATH or HOST:PORT; if it is the name of a listener, give --gpen=CONTROL"),
    ("watch --reader=x:y:z:w:v", "target 'x:y:z:w:v': "),
    ("watch --gpen=x", "target 'x': expected"),
    ("watch --foo --reader=/x", "unknown or repeated --foo; gpen-galera watch --help"),
    ("watch --reader=/x --interval=soon", "--interval: 'soon' is not a number"),
    ("watch --reader=/x --timeout=0", "--timeout: '0' is out of range"),
    ("watch --reader=/x --max-queue=long", "--max-queue: 'long' is not a number"),
    ("watch --reader=/x --map=10.0.0.1", "--map: '10.0.0.1' is not A=B: expected two addresses HOST[:PORT]"),
    ("watch --reader=/x --donor=maybe", "--donor: 'maybe' is not one of avoid, use, never"),
    ("watch --reader=/x --prefer=a:b:c:d:e:f:g", "'a:b:c:d:e:f:g' has too many fields"),
    ("watch --reader=/x", "no credentials; give --defaults-file FILE, or set GPEN_GALERA_USER"),
    ("watch --reader=/x --defaults-file=NONE", "NONE: No such file or directory; --defaults-file wants"),
    ("move", "an argument is missing; gpen-galera move --help"),
    ("adopt", "an argument is missing; gpen-galera adopt --help"),
    ("check 10.0.0.1:http", "'10.0.0.1:http' is not a node: expected HOST:PORT"),
])
def test_a_wrong_command_line_is_one_line(tmp_path: Path, words: str, expected: str) -> None:
    words, expected = (text.replace("NONE", str(tmp_path / "none")) for text in (words, expected))
    done = run(*words.split())
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"gpen-galera: {expected}") and done.stderr.count("\n") == 1


@pytest.mark.parametrize("command", ["status", "move node2"])
def test_no_watcher(command: str, tmp_path: Path) -> None:
    done = run(*command.split(), f"--socket={tmp_path}/none")
    assert done.returncode == 3
    assert done.stderr == (f"gpen-galera: {tmp_path}/none: No such file or directory; does 'gpen-galera watch' run, "
                           "with this --socket?\n")


def test_without_pymysql_it_says_how_to_get_it(tmp_path: Path) -> None:
    finder = ("import sys; sys.modules['pymysql'] = None; from gpen.galera.main import main; "
              "sys.exit(main(['check', 'localhost']))")
    done = subprocess.run([sys.executable, "-c", finder], capture_output=True, text=True, timeout=20, check=False,
                          cwd=ROOT)
    assert (done.returncode, done.stderr) == (
        2, "gpen-galera: needs the package pymysql: pip install 'PyMySQL[rsa]>=1.0', or Debian's python3-pymysql\n")


# --- notify ----------------------------------------------------------------------------------------------------------


def test_notify_wakes_all_and_takes_what_galera_adds() -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as first, socket.socket(type=socket.SOCK_DGRAM) as second:
        for sock in (first, second):
            sock.bind(("127.0.0.1", 0))
            sock.settimeout(10)
        ports = [sock.getsockname()[1] for sock in (first, second)]
        done = run("notify", "--to", f"127.0.0.1:{ports[0]}", f"--to={ports[1]}", "--status", "Synced", "--uuid", "x",
                   "--primary", "yes", "--members", "a/b/c:3306,d/e/f:3306", "--index", "0")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert first.recv(64) and second.recv(64)


@pytest.mark.parametrize("words", [[], ["--to"], ["--to", "127.0.0.1:9"], ["--to=nonsense:port"], ["--to=::1:x"]])
def test_notify_never_fails_the_node(words: list[str]) -> None:
    began = time.monotonic()
    assert run("notify", *words).returncode == 0
    assert time.monotonic() - began < 5


# --- credentials -----------------------------------------------------------------------------------------------------


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(("text", "user", "password"), [
    ("[client]\nuser=a\npassword=b\n", "a", "b"),
    ("[mysqld]\nuser=x\n[client]\n  user = a\n  password = 'b # \"c'  # why\n", "a", 'b # "c'),
    ('[client]\nuser=a#comment\npassword="b\\"c\\\\d"\n!includedir /etc\n', "a", 'b"c\\d'),
    ("# said\n[client]\n; said\nuser=a\npassword=b%c\nskip-ssl\n[client2]\nuser=z\n", "a", "b%c"),
])
def test_a_my_cnf(tmp_path: Path, text: str, user: str, password: str) -> None:
    access = read_access(write(tmp_path / "my.cnf", text), None, {})
    assert (access.user, access.password, access.tls) == (user, password, None)
    assert password not in repr(access)


@pytest.mark.parametrize(("text", "environment", "expected"), [
    (None, {"GPEN_GALERA_USER": "e", "GPEN_GALERA_PASSWORD": "f"}, ("e", "f")),
    ("[client]\nuser=a\n", {"GPEN_GALERA_USER": "e", "GPEN_GALERA_PASSWORD": "f"}, ("a", "f")),
    ("[client]\nuser=a\npassword=\n", {"GPEN_GALERA_PASSWORD": "f"}, ("a", "")),
])
def test_the_environment(
        tmp_path: Path, text: str | None, environment: Mapping[str, str], expected: tuple[str, str]) -> None:
    file = write(tmp_path / "my.cnf", text) if text else None
    access = read_access(file, None, environment)
    assert (access.user, access.password) == expected


@pytest.mark.parametrize(("text", "expected"), [
    ("[mysqld]\nuser=x\n", "no user in its group [client]"),
    ("[client]\nuser=a\nssl-mode=SOME\n", "ssl-mode: 'SOME' is not one of DISABLED, PREFERRED, REQUIRED, VERIFY_CA, "),
    ("[client]\nuser=a\nssl-ca=NONE\n", "TLS: NONE: No such file or directory"),
])
def test_credentials_that_are_none(tmp_path: Path, text: str, expected: str) -> None:
    text, expected = (words.replace("NONE", str(tmp_path / "none")) for words in (text, expected))
    with pytest.raises(AccessError, match=re.escape(expected)):
        read_access(write(tmp_path / "my.cnf", text), None, {})


AUTHORITY = "ssl-ca=CA"


@pytest.mark.parametrize(("lines", "verifies", "hostname"), [
    ("ssl-mode=DISABLED", None, False), (f"{AUTHORITY} ssl-mode=disabled", None, False),
    ("ssl", False, False), ("ssl=1", False, False), ("ssl=0", None, False), ("ssl=OFF", None, False),
    ("skip-ssl", None, False), (f"{AUTHORITY} skip_ssl", None, False), ("skip-ssl=0", None, False),
    ("ssl_mode=REQUIRED", False, False), ("ssl-mode=PREFERRED", False, False),
    (AUTHORITY, True, False), (f"{AUTHORITY} ssl-mode=REQUIRED", True, False),
    (f"{AUTHORITY} ssl-mode=VERIFY_CA", True, False), (f"{AUTHORITY} ssl-mode=VERIFY_IDENTITY", True, True),
    (f"{AUTHORITY} ssl-verify-server-cert", True, True), (f"{AUTHORITY} ssl-verify-server-cert=0", True, False),
    ("ssl-mode=VERIFY_IDENTITY", True, True),  # by what the system trusts
])
def test_tls_as_mysql_and_mariadb_ask_for_it(
        tmp_path: Path, lines: str, verifies: bool | None, hostname: bool) -> None:
    authority = str(Authority(tmp_path, "ca").certificate)
    text = "\n".join(["[client]", "user=a", *lines.split()]).replace(AUTHORITY, f"ssl-ca={authority}")
    tls = read_access(write(tmp_path / "my.cnf", text), None, {}).tls
    assert (tls and tls.verify_mode is ssl.CERT_REQUIRED, bool(tls and tls.check_hostname)) == (verifies, hostname)
    insists = read_access(write(tmp_path / "my.cnf", text), authority, {}).tls
    assert insists is not None and insists.verify_mode == ssl.CERT_REQUIRED


@pytest.mark.parametrize(("number", "text", "remedied"), [
    (1142, "SELECT command denied to user 'u'@'10.0.0.9' for table `s`.`gpen_writer`", True),
    (1044, "Access denied for user 'u'@'%' to database 's'", True),
    (1049, "Unknown database 's'", True),
    (1290, "The MariaDB server is running with the --read-only option", False),
])
def test_a_missing_right_has_a_remedy(number: int, text: str, remedied: bool) -> None:
    remedy = ": CREATE DATABASE IF NOT EXISTS `s`; GRANT SELECT, INSERT, UPDATE, CREATE ON `s`.* TO 'u'@'%'"
    assert Ledger("s", "w1").complaint(number, text, "u") == text + (remedy if remedied else "")


# --- status ----------------------------------------------------------------------------------------------------------


def test_long_texts_do_not_widen_the_tables() -> None:
    denied, hung = "access denied for user 'watcher': " + "why " * 30, "/run/gpen.ctl: no answer within 2 s " + "x" * 99
    node = {"node": "10.0.0.1:3306", "name": "node1", "state": None, "usable": None, "reason": denied.strip(),
            "role": "writer", "latency": None, "queue": None, "since": None}
    gpen = {"gpen": "/run/gpen.ctl", "kind": "writer", "problem": hung, "up": 0, "servers": 3, "sessions": 0,
            "front": None}
    shown = show({"nodes": [node], "gpens": [gpen], "agreed": None, "heir": None, "trouble": "", "writer": None})
    nodes, reason, gpens, problem = shown.split("\n\n")
    assert reason == f"10.0.0.1:3306: {denied.strip()}" and problem == hung
    assert max(map(len, [*nodes.splitlines(), *gpens.splitlines()])) <= 120
    assert "access denied for user 'watcher':..." in nodes and "no answer within 2 s..." in gpens


def test_short_texts_are_told_once() -> None:
    node = {"node": "10.0.0.1:3306", "name": "node1", "state": "Synced", "usable": False, "reason": "read_only",
            "role": "reader", "latency": 0.001, "queue": 0, "since": 0.0}
    shown = show({"nodes": [node], "gpens": [], "agreed": None, "heir": None, "trouble": "", "writer": None})
    assert shown.count("read_only") == 1


def test_servers_that_an_operator_has_taken_out_are_counted() -> None:
    gpen = {"gpen": "/run/gpen.ctl", "kind": "reader", "problem": "", "up": 1, "servers": 4, "drain": 2, "maint": 1,
            "sessions": 0, "front": None}
    shown = show({"nodes": [], "gpens": [gpen], "agreed": None, "heir": None, "trouble": "", "writer": None})
    assert "  1 of 4, 2 drain, 1 maint  " in shown


def test_nodes_with_the_same_limit_share_a_line() -> None:
    node = {"name": "n", "state": "Synced", "usable": True, "reason": "Synced", "role": "reader", "latency": 0.001,
            "queue": 0, "since": 0.0, "blocks": True}
    low = {"max_connect_errors": 100, "warning": warning(100)}
    nodes = [node | {"node": "10.0.0.1:3306"} | low, node | {"node": "10.0.0.2:3306"} | low,
             node | {"node": "10.0.0.3:3306", "max_connect_errors": 5_000_000, "warning": ""},
             node | {"node": "10.0.0.4:3306", "max_connect_errors": None, "warning": ""}]
    shown = show({"nodes": nodes, "gpens": [], "agreed": None, "heir": None, "trouble": "", "writer": None})
    assert shown.split("\n\n")[1] == (f"10.0.0.1:3306, 10.0.0.2:3306: {warning(100)}\n"
                                      "10.0.0.3:3306: max_connect_errors is 5000000")


# --- the manual ------------------------------------------------------------------------------------------------------


def test_the_committed_page_is_what_the_usage_says() -> None:
    assert (ROOT / "man" / "gpen-galera.1").read_text() == page(), "run: make man"


def test_every_option_is_in_the_page() -> None:
    shown = page().replace("\\-", "-")
    for usage in USAGES.values():
        options = options_of(usage)
        assert options and all(text for _, text in options)
        assert all(f"\\fB{option}\\fR" in shown for option, _ in options)


def test_the_page_renders_without_warnings() -> None:
    if not shutil.which("man"):
        pytest.skip("man is not installed")
    done = subprocess.run(["man", "--warnings=all", "-l", str(ROOT / "man" / "gpen-galera.1")], capture_output=True,
                          text=True, check=True, timeout=30, env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8",
                                                                  "MANWIDTH": "100"})
    assert done.stderr == "" and "SEE ALSO" in done.stdout


@pytest.mark.parametrize(("words", "spreads"), [
    ("watch --reader A B --writer C D", "watch --reader A --reader B --writer C --writer D"),
    ("watch --reader A --reader B C --discover", "watch --reader A --reader B --reader C --discover"),
    ("watch --reader=A B --verbose", "watch --reader=A --reader B --verbose"), ("move node2", "move node2"),
    ("watch --gpen A B --reader=- --writer w", "watch --gpen A --gpen B --reader=- --writer w"),
])
def test_several_values_of_an_option(words: str, spreads: str) -> None:
    assert " ".join(spread(words.split(), MANY)) == spreads


def test_what_is_to_be_copied_keeps_its_lines() -> None:
    shown = page().replace("\\-", "-")
    for lines in ("CREATE DATABASE IF NOT EXISTS gpen;\nGRANT SELECT, INSERT, UPDATE, CREATE ON gpen.* TO",
                  "# in the group [mariadbd] of each node's configuration\nwsrep_notify_cmd="):
        before, _, after = shown.partition(lines)
        assert after, lines
        assert before.rpartition(".nf")[2].count(".fi") == 0 and after.index(".fi") < after.index(".SH")
    assert "Show this.\n.PP\nExit status: 0, always.\n.PP\nExample:\n" in shown
