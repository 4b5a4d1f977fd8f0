"""The source `file` by itself: a file that is away for a moment, and directories that are others."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gpen.discover.file import FileSource, observers_of
from tests.discover.running import write
from tests.discover.watching import Watching

pytest.importorskip("watchdog", reason="inotify by the package watchdog")


def watching(file: Path) -> Watching:
    return Watching(FileSource(str(file), "auto", observers_of(str(file))))


def renamed_first(file: Path, text: str) -> None:
    """As editors do that keep a backup."""
    os.rename(file, f"{file}~")
    time.sleep(0.01)
    file.write_text(text)


def deleted_first(file: Path, text: str) -> None:
    file.unlink()
    time.sleep(0.01)
    file.write_text(text)


def directory_replaced(file: Path, text: str) -> None:
    new = file.parent.with_name("new")
    new.mkdir()
    (new / file.name).write_text(text)
    os.rename(file.parent, file.parent.with_name(f"old{time.monotonic_ns()}"))
    os.rename(new, file.parent)


@pytest.mark.parametrize("change", [renamed_first, deleted_first, directory_replaced])
def test_a_file_that_is_away_for_a_moment_is_no_fault(file: Path, change: Callable[[Path, str], None]) -> None:
    write(file, "127.0.0.1:1")
    with watching(file) as source:
        source.wait_for("127.0.0.1:1")
        for port in (2, 3, 4):
            change(file, f"127.0.0.1:{port}\n")
            source.wait_for(f"127.0.0.1:{port}")
        assert source.errors == []


def test_changes_count_at_once_where_a_directory_has_been_replaced(file: Path) -> None:
    """What was watched is gone then. Of five changes, the quickest is quick: this machine may do other things."""
    write(file, "127.0.0.1:1")
    with watching(file) as source:
        source.wait_for("127.0.0.1:1")
        directory_replaced(file, "127.0.0.1:2\n")
        source.wait_for("127.0.0.1:2")
        times = []
        for port in range(3, 8):
            began = time.monotonic()
            write(file, f"127.0.0.1:{port}")
            source.wait_for(f"127.0.0.1:{port}")
            times.append(time.monotonic() - began)
        assert min(times) < 0.2, times


def to_a_pipe(file: Path) -> None:
    os.mkfifo(file)


def to_itself(file: Path) -> None:
    file.symlink_to(file)


@pytest.mark.parametrize(("make", "why"), [(to_a_pipe, "it is no regular file"), (Path.mkdir, "Is a directory"),
                                           (to_itself, "Too many levels of symbolic links")])
def test_what_is_no_file_is_an_error_until_it_is_one_again(file: Path, make: Callable[[Path], None], why: str) -> None:
    write(file, "127.0.0.1:1")
    with watching(file) as source:
        source.wait_for("127.0.0.1:1")
        file.unlink()
        make(file)
        source.wait_error(why)
        file.rmdir() if file.is_dir() else file.unlink()
        write(file, "127.0.0.1:2")
        source.wait_for("127.0.0.1:2")


def test_a_byte_order_mark_is_no_part_of_what_is_listed(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbf127.0.0.1:1\r\n127.0.0.1:2\r\n")
    with watching(file) as source:
        source.wait_for("127.0.0.1:1", "127.0.0.1:2")
