"""Files that gpen is told to read or write: devices, FIFOs and symbolic links stay what they are."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from gpen.files import write_whole
from tests.harness import Gpen, Server, hold, needs_root, open_to_all

Start = Callable[..., Gpen]
Serve = Callable[..., Server]


@pytest.fixture
def balancer(gpen: Start, servers: Serve) -> Gpen:
    return gpen(servers=[servers(hold)])


@pytest.fixture
def device(tmp_path: Path) -> Path:
    """A device that takes everything, like /dev/null."""
    os.mknod(tmp_path / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    (tmp_path / "null").chmod(0o666)
    return tmp_path / "null"


def is_refused(balancer: Gpen, command: str) -> bool:
    """Whether a command is answered by an error in one line."""
    reply = balancer.ctl(command)
    return reply.startswith("error: ") and reply.count("\n") == 1


@needs_root
def test_a_device_keeps_its_owner(gpen: Start, servers: Serve, device: Path) -> None:
    open_to_all(device.parent)
    balancer = gpen("-u", "nobody", "-l", str(device), servers=[servers(hold)])
    assert balancer.ctl("log") == f"{device}\n"
    assert device.stat().st_uid == 0


@needs_root
def test_a_device_is_not_replaced(balancer: Gpen, device: Path) -> None:
    assert is_refused(balancer, f"write {device}")
    assert stat.S_ISCHR(device.stat().st_mode)


def test_a_file_keeps_its_mode(balancer: Gpen, tmp_path: Path) -> None:
    file = tmp_path / "gpen.cfg"
    file.touch(0o600)
    assert balancer.ctl(f"write {file}") == ""
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "server 0 address" in file.read_text()


def test_a_symbolic_link_is_followed(balancer: Gpen, tmp_path: Path) -> None:
    link, file = tmp_path / "link", tmp_path / "gpen.cfg"
    file.touch()
    link.symlink_to("gpen.cfg")
    assert balancer.ctl(f"write {link}") == ""
    assert link.is_symlink()
    assert "server 0 address" in file.read_text()


def test_a_name_that_can_not_be(balancer: Gpen) -> None:
    assert is_refused(balancer, 'write "a\0b"')


@pytest.mark.parametrize("text", ["\udcff", "fine\n" * 10_000])
def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    def fail(fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises((OSError, UnicodeEncodeError)):
        write_whole(str(tmp_path / "gpen.cfg"), text)
    assert not list(tmp_path.iterdir())


def test_a_fifo_is_not_read(balancer: Gpen, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert is_refused(balancer, f"include {tmp_path}/fifo")
