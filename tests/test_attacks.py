"""Root, and a user who owns the directory where root has its files: a link leads nowhere, and nothing is given away."""

from __future__ import annotations

import contextlib
import os
import pwd
import socket
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gpen.console import Console, ConsoleError
from gpen.daemon.chroot import Chroot
from gpen.daemon.line_file import LineFile
from gpen.daemon.process import PidFile, StartError
from gpen.files import Entry, write_whole
from gpen.gpenctl.prompt import history_file
from gpen.model.address import Address
from gpen.wire.sockets import ListenError, listen_at_path
from tests.attacker import NOBODY, attacking
from tests.harness import PATIENCE, home_of, needs_root, open_to_all

pytestmark = needs_root
ATTACK_SECONDS = 1.0
SECRET = "root's\n"

Try = Callable[[str], None]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A directory of nobody's."""
    return home_of(NOBODY, tmp_path)


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Path]:
    """A file of root's that must be neither written to, nor changed, nor given away; nor may its directory get
    another."""
    directory = tmp_path / "roots"
    directory.mkdir()
    victim = directory / "name"
    victim.write_text(SECRET)
    victim.chmod(0o600)
    yield victim
    assert victim.read_text() == SECRET
    assert (victim.stat().st_uid, stat.S_IMODE(victim.stat().st_mode)) == (0, 0o600)
    assert list(directory.iterdir()) == [victim]
    assert (directory.stat().st_uid, stat.S_IMODE(directory.stat().st_mode)) == (0, 0o755)


def log(path: str) -> None:
    file = LineFile(path)
    try:
        for fd in file.made():
            os.fchown(fd, NOBODY, NOBODY)  # as at the start with -u
        file.write(b"line\n")
        file.reopen(path)
    finally:
        file.close()


def pid_file(path: str) -> None:
    PidFile(path).remove(Chroot())


def write(path: str) -> None:
    write_whole(path, "text\n")


def listen(path: str) -> None:
    listen_at_path(Address(path=path), 5, 0o660).close()


def listen_for_the_user(path: str) -> None:
    listen_at_path(Address(path=path), 5, 0o666, pwd.getpwuid(NOBODY)).close()


def console(path: str) -> None:
    Console(path, lambda line, reply: reply({}), "gpen-galera").close()


WAYS = [log, pid_file, write, listen, listen_for_the_user, console]
each_way = pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)


def attempts(way: Try, path: Path) -> int:
    """Try for a while, and until that was refused; how often it was."""
    refused = 0
    begun = time.monotonic()
    while time.monotonic() < begun + ATTACK_SECONDS or (not refused and time.monotonic() < begun + PATIENCE):
        try:
            way(str(path))
        except (OSError, StartError, ListenError, ConsoleError):
            refused += 1
    return refused


@each_way
def test_a_name_that_is_swapped(way: Try, home: Path, victim: Path) -> None:
    rights = os.geteuid(), os.getegid(), os.getgroups()
    with attacking(home / "name", victim):
        refused = attempts(way, home / "name")
    assert refused
    assert rights == (os.geteuid(), os.getegid(), os.getgroups())


@each_way
def test_a_directory_that_is_swapped(way: Try, home: Path, victim: Path) -> None:
    with attacking(home / "directory", victim.parent):
        refused = attempts(way, home / "directory" / "name")
    assert refused


@each_way
@pytest.mark.parametrize("link", [os.symlink, os.link], ids=["symbolic", "hard"])
def test_a_link_that_stands_there(way: Try, link: Callable[[Path, Path], None], home: Path, victim: Path) -> None:
    link(victim, home / "name")
    if way is write and link is os.link:  # replaces the name only
        write(str(home / "name"))
        return
    with pytest.raises((OSError, StartError, ListenError, ConsoleError), match=r"link|socket"):
        way(str(home / "name"))
    assert os.path.samefile(home / "name", victim)


@each_way
def test_a_link_on_the_way(way: Try, home: Path, victim: Path) -> None:
    (home / "directory").symlink_to(victim.parent)
    with pytest.raises((OSError, StartError, ListenError, ConsoleError), match="'directory' is a symbolic link"):
        way(str(home / "directory" / "name"))


@each_way
def test_a_fifo_holds_up_nobody(way: Try, home: Path) -> None:
    os.mkfifo(home / "name")
    with contextlib.suppress(OSError, StartError, ListenError, ConsoleError):
        way(str(home / "name"))
    assert stat.S_ISFIFO((home / "name").stat().st_mode)


def test_a_log_for_another_socket(home: Path, victim: Path) -> None:
    """Lines don't go to a socket of root's by a user's link."""
    private = home.parent / "private"
    private.mkdir(0o700)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as roots:
        roots.bind(str(private / "socket"))
        (home / "name").symlink_to(private / "socket")
        with pytest.raises(OSError, match="symbolic link"):
            log(str(home / "name"))


def test_the_history_of_root_is_not_kept_in_the_home_of_a_user(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it would be after sudo: with whatever its name leads to."""
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(home))
    with pytest.raises(PermissionError):
        history_file()
    (home / ".local").symlink_to(home.parent)
    with pytest.raises(OSError, match=r"'\.local' is a symbolic link"):
        history_file()
    monkeypatch.setenv("HOME", str(home.parent))
    assert history_file() == home.parent / ".local/state/gpenctl_history"


# --- what goes on working ---------------------------------------------------------------------------------------------


@each_way
def test_in_the_directory_of_a_user(way: Try, home: Path) -> None:
    for _ in range(2):
        way(str(home / "name"))


@each_way
def test_by_way_of_links_that_root_has_made(way: Try, tmp_path: Path, home: Path) -> None:
    """As /var/run leads to /run."""
    (tmp_path / "run").symlink_to("real")
    (tmp_path / "real").symlink_to(home)
    way(str(tmp_path / "run" / "name"))
    way(f"{tmp_path}/run/../././run//name")


@each_way
def test_in_a_directory_for_all(way: Try, tmp_path: Path) -> None:
    """As /tmp is."""
    open_to_all(tmp_path)
    tmp_path.chmod(0o1777)
    way(str(tmp_path / "name"))
    (tmp_path / "roots").mkdir()
    (tmp_path / "roots" / "link").symlink_to(".")  # in the directory of root's: nobody else could have made it
    way(str(tmp_path / "roots" / "link" / "name"))


@each_way
def test_relative(way: Try, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    way("./name")
    monkeypatch.chdir(home.parent)
    way("home/name")


def test_who_owns_what_is_made(home: Path, tmp_path: Path) -> None:
    log(str(home / "log"))
    assert (home / "log").stat().st_uid == NOBODY
    (home / "roots").mkdir()
    for directory in (home, tmp_path, home / "roots"):  # nobody's, root's, root's in nobody's
        with contextlib.closing(listen_at_path(Address(path=str(directory / "s")), 5, 0o640, pwd.getpwuid(NOBODY))):
            made = (directory / "s").stat()
            assert (made.st_uid, made.st_gid, stat.S_IMODE(made.st_mode)) == (NOBODY, NOBODY, 0o640)


def test_a_user_does_not_own_what_replaces_its_file_in_tmp(tmp_path: Path) -> None:
    """It could change the configuration that root starts with; in its own directory it can anyway."""
    tmp_path.chmod(0o1777)
    (tmp_path / "gpen.cfg").touch(0o666)
    os.chown(tmp_path / "gpen.cfg", NOBODY, NOBODY)
    write(str(tmp_path / "gpen.cfg"))
    made = (tmp_path / "gpen.cfg").stat()
    assert (made.st_uid, stat.S_IMODE(made.st_mode)) == (0, 0o644)


def test_no_set_user_id_is_passed_on(home: Path) -> None:
    (home / "page").touch()
    (home / "page").chmod(0o4755)
    write(str(home / "page"))
    assert stat.S_IMODE((home / "page").stat().st_mode) == 0o755


def test_the_mode_of_a_socket_that_others_may_replace(home: Path) -> None:
    """Root does not change it; in a directory of its own it does."""
    for directory in (home, home.parent):
        with contextlib.closing(listen_at_path(Address(path=str(directory / "s")), 5, 0o600)), \
                Entry(str(directory / "s")) as entry:
            made = entry.status()
            assert made is not None
            if directory == home:
                with pytest.raises(PermissionError, match="others may write in its directory"):
                    entry.change_mode(0o666, made)
            else:
                entry.change_mode(0o666, made)
            assert stat.S_IMODE((directory / "s").stat().st_mode) == (0o600 if directory == home else 0o666)


def test_a_loop_of_links(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    for name in ("a", "a/name"):
        with pytest.raises(OSError, match="Too many levels"):
            Entry(str(tmp_path / name))


@pytest.mark.parametrize("name", [".", "..", "", "name/", "none/.", "/"])
def test_a_name_that_is_none(tmp_path: Path, name: str) -> None:
    with pytest.raises(OSError, match=r"directory|No such"):
        Entry(name if name == "/" else f"{tmp_path}/{name}")


def test_nothing_stays_open(home: Path, victim: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    (home / "name").symlink_to(victim)
    for way in WAYS:
        for path in (home / "name", home / "none" / "name", home / "other"):
            with contextlib.suppress(OSError, StartError, ListenError, ConsoleError):
                way(str(path))
    assert len(os.listdir("/proc/self/fd")) == before


