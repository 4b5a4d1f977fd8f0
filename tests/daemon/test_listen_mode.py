"""The mode and owner of unix listeners: from the first moment, at runtime, and across a replacement."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.harness import Gpen, Server, connect, naming, needs_root, open_to_all, run_gpen, wait_until
from tests.listeners import own
from tests.replacing import replacing

Start = Callable[..., Gpen]
Serve = Callable[..., Server]

NOBODY = pwd.getpwnam("nobody")
DAEMON = grp.getgrnam("daemon").gr_gid


def access(path: Path) -> tuple[int, int, int]:
    """Mode, user and group of a file."""
    status = path.stat()
    return stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid


@needs_root
def test_at_the_start_and_at_runtime(gpen: Start, servers: Serve, tmp_path: Path) -> None:
    path = tmp_path / "front"
    balancer = gpen("-O", "listen_mode 0620 nobody:daemon", "-O", f"listener w listen {tmp_path}/w",
                    "-O", "listener w listen_mode 600", listen=str(path), servers=[servers(naming("x"))])
    assert access(path) == (0o620, NOBODY.pw_uid, DAEMON)
    assert access(tmp_path / "w") == (0o600, 0, 0)
    for words, expected in (("0660 :daemon", (0o660, 0, DAEMON)), ("606 nobody", (0o606, NOBODY.pw_uid, NOBODY.pw_gid)),
                            (f"0640 {NOBODY.pw_uid}", (0o640, NOBODY.pw_uid, NOBODY.pw_gid)),
                            ("0600 12:34", (0o600, 12, 34))):
        assert balancer.ctl(f"listen_mode {words}") == ""
        assert access(path) == expected
    assert access(tmp_path / "w") == (0o600, 0, 0)
    assert balancer.ctl("listen_mode") == "0600 12:34\n"
    assert balancer.ctl("listen_mode 0600 nobody-at-all") == "error: listen_mode: there is no user 'nobody-at-all'\n"
    assert balancer.ctl("listen_mode 0600 :no-group") == "error: listen_mode: there is no group 'no-group'\n"
    assert balancer.ctl("listen_mode 88").startswith("error: listen_mode: '88' is not an octal file mode")
    balancer.ctl("listener w inherit listen_mode", f"write {tmp_path}/written")
    assert access(tmp_path / "w") == (0o600, 12, 34)
    assert "listen_mode 0600 12:34\n" in (tmp_path / "written").read_text()
    with connect(str(path)) as sock:
        assert sock.recv(1) == b"x"


@needs_root
def test_a_replacement_and_another_user(gpen: Start, servers: Serve, tmp_path: Path) -> None:
    open_to_all(tmp_path)
    (room := tmp_path / "room").mkdir()
    os.chown(room, NOBODY.pw_uid, NOBODY.pw_gid)
    path = room / "front"
    arguments = ("-u", "nobody", "-O", "listen_mode 0660 nobody:daemon", str(path), servers(naming("x")).address)
    with Gpen(tmp_path, *arguments) as old:
        assert access(path) == (0o660, NOBODY.pw_uid, DAEMON)
        assert old.ctl("listen_mode 0600") == "" and access(path)[0] == 0o600
        with replacing(old, arguments=("-u", "nobody", "-O", "listen_mode 0666", *arguments[4:])) as new:
            assert new.ctl("listen_mode") == "0666\n"
            wait_until(lambda: access(path)[0] == 0o666)
            with connect(str(path)) as sock:
                assert sock.recv(1) == b"x"
    assert not path.exists()


@needs_root
def test_what_gpen_may_not_give_away(servers: Serve, tmp_path: Path) -> None:
    open_to_all(tmp_path)
    (room := tmp_path / "room").mkdir()
    os.chown(room, NOBODY.pw_uid, NOBODY.pw_gid)
    done = run_gpen("-f", "-O", "listen_mode 0660 root", str(room / "front"), "127.0.0.1:9", directory=room, wrapper=(
        "setpriv", f"--reuid={NOBODY.pw_uid}", f"--regid={NOBODY.pw_gid}", "--clear-groups"))
    assert done.returncode == 1 and "Operation not permitted" in done.stderr and done.stderr.count("\n") == 1
    assert not (room / "front").exists()


@pytest.mark.parametrize(("owner", "complaint"), [
    ("nobody-at-all", "listener w: listen_mode: there is no user 'nobody-at-all'"),
    (":no-group", "listener w: listen_mode: there is no group 'no-group'"),
    ("4294967295", "'4294967295' is not the number of a user or a group"),
    (f"0:{2**64}", f"'{2**64}' is not the number of a user or a group")])
def test_an_owner_that_there_is_not(owner: str, complaint: str, tmp_path: Path) -> None:
    """It is told before, too."""
    lines = own("w", f"listen_mode 0660 {owner}", at=f"{tmp_path}/w")
    for options in (("--check",), ("-f",)):
        done = run_gpen(*options, *lines, "127.0.0.1:0", "127.0.0.1:9", directory=tmp_path)
        assert done.returncode in (1, 2) and done.stderr.count("\n") == 1 and complaint in done.stderr, done.stderr
        assert not (tmp_path / "w").exists()


def test_without_it_the_umask_decides(gpen: Start, servers: Serve, tmp_path: Path) -> None:
    path = tmp_path / "front"
    balancer = gpen(listen=str(path), servers=[servers(naming("x"))], wrapper=("sh", "-c", 'umask 027; exec "$0" "$@"'))
    assert access(path)[0] == 0o750
    assert balancer.ctl("listen_mode 0777", "no listen_mode", "listen_mode") == ""
    assert access(path)[0] == 0o777
