"""gpen-discover with real gpens, by files: what comes, goes and comes back, and what happens when something fails."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.discover.running import Discoverer, numbered, wait_servers, write
from tests.harness import Gpen, Server, echo, free_port, naming, wait_until

pytest.importorskip("watchdog", reason="inotify by the package watchdog")

Start = Callable[..., Gpen]
Servers = Callable[..., Server]
A, B, C = "127.0.0.1:4001", "127.0.0.2:4002", "127.0.0.3:4003"


def test_servers_come_change_and_go(gpen: Start, servers: Servers, tmp_path: Path, file: Path) -> None:
    """Beside those of somebody else; a server that clients use stays until they are gone."""
    one, two, hand = servers(echo), servers(naming("two")), servers(naming("by hand"))
    balancer = gpen("-r", servers=[hand])
    write(file, one.address)
    with Discoverer(tmp_path, "file", str(file), gpens=(balancer,)) as discoverer:
        wait_servers(balancer, one.address)
        balancer.ctl("server 0 state maint")
        with balancer.connect() as client:
            client.sendall(b"x")
            assert client.recv(10) == b"x"
            write(file, f"{two.address} weight 3 prio 1 max 9")
            wait_servers(balancer, f"{two.address} weight 3 prio 1 max 9",
                         f"{one.address} drain: it has left file {file}")
            assert balancer.ask() == b"two"
            client.sendall(b"y")
            assert client.recv(10) == b"y"
            leaving = [row for row in discoverer.status()["gpens"][0]["servers"] if row["leaves"]]
            assert [(row["address"], row["sessions"]) for row in leaving] == [(one.address, 1)]
        wait_servers(balancer, f"{two.address} weight 3 prio 1 max 9")
        write(file, two.address, one.address)
        wait_servers(balancer, f"{two.address} weight 3 prio 1 max 9", one.address)
        assert numbered(balancer, None) == {0: hand.address}


def test_a_change_counts_at_once(gpen: Start, tmp_path: Path, file: Path) -> None:
    """Of five, the quickest is no slower than a tenth of a second; this machine may do other things meanwhile."""
    balancer = gpen(servers=[A])
    write(file, B)
    with Discoverer(tmp_path, "file", str(file), gpens=(balancer,)):
        wait_servers(balancer, B)
        times = []
        for port in range(5001, 5006):
            began = time.monotonic()
            write(file, B, f"127.0.0.1:{port}")
            wait_until(lambda port=port: f"127.0.0.1:{port}" in numbered(balancer).values())
            times.append(time.monotonic() - began)
        assert min(times) < 0.1, times


def in_place(path: Path, text: str) -> None:
    path.write_text(text)


def by_link(path: Path, text: str) -> None:
    """As Kubernetes changes the files of a ConfigMap: PATH leads to ..data/NAME, and ..data to another directory."""
    new = path.parent / f"..{time.monotonic_ns()}"
    new.mkdir()
    (new / path.name).write_text(text)
    (path.parent / "..data_tmp").symlink_to(new.name)
    os.replace(path.parent / "..data_tmp", path.parent / "..data")
    if not path.is_symlink():
        path.unlink(missing_ok=True)
        path.symlink_to(f"..data/{path.name}")


def from_elsewhere(path: Path, text: str) -> None:
    """As a link that leads to another directory, which is replaced by another link."""
    real = path.parent.parent / f"real{time.monotonic_ns()}"
    real.mkdir()
    (real / path.name).write_text(text)
    link = path.with_name("link")
    link.symlink_to(real / path.name)
    os.replace(link, path)


@pytest.mark.parametrize("change", [in_place, by_link, from_elsewhere])
def test_however_the_file_is_changed(gpen: Start, tmp_path: Path, file: Path, change: Callable[[Path, str], None],
                                     ) -> None:
    balancer = gpen(servers=[A])
    change(file, f'["{B}"]')
    with Discoverer(tmp_path, "file", str(file), gpens=(balancer,)):
        wait_servers(balancer, B)
        change(file, f'["{B}", "{C}"]')
        wait_servers(balancer, B, C)
        change(file, f"{C}\n")
        wait_servers(balancer, C)


def test_an_answer_that_is_none_changes_nothing(gpen: Start, tmp_path: Path, file: Path) -> None:
    """It is told once, status says so, and the next good one counts."""
    balancer = gpen(servers=[A])
    write(file, B, C)
    with Discoverer(tmp_path, "file", str(file), gpens=(balancer,)) as discoverer:
        for text, why in (("", "it is empty"), ("[]", "there are no servers, it says: nothing is changed"),
                          (f'["{B}", "127.0.', "it is no JSON, or not all of it"),
                          (f"{B}\n127.0.0.1:40", "its last line has no end"),
                          (f'["{B}", "127.0.0.1:99999"]', "port '99999' is out of range"),
                          (None, "can't be read: No such file or directory")):
            wait_servers(balancer, B, C)
            wait_until(lambda: discoverer.status()["well"])
            file.unlink() if text is None else file.write_text(text)
            discoverer.wait_told(why)
            answer = discoverer.status()
            assert not answer["well"] and why in answer["error"] and len(answer["servers"]) == 2
            assert sorted(numbered(balancer).values()) == [B, C]
            write(file, B, C)
            wait_until(lambda: discoverer.status()["well"])
            assert discoverer.told.count(why) == 1


def test_that_there_are_none_may_be_believed(gpen: Start, tmp_path: Path, file: Path) -> None:
    balancer = gpen(servers=[A])
    write(file, "# none yet")
    with Discoverer(tmp_path, "file", str(file), "--allow-empty", gpens=(balancer,)) as discoverer:
        discoverer.wait_told(": 0 servers\n")
        write(file, B)
        wait_servers(balancer, B)
        write(file, "# none")
        wait_servers(balancer)
        assert numbered(balancer, None) == {0: A}


def test_the_last_that_works_is_kept(gpen: Start, servers: Servers, tmp_path: Path, file: Path) -> None:
    """The one that takes its place is down, as clients have found."""
    good, bad = servers(naming("good")), f"127.0.0.1:{free_port()}"
    balancer = gpen("-r", servers=[A])
    balancer.ctl("server 0 state maint")
    write(file, good.address, bad)
    with Discoverer(tmp_path, "file", str(file), "--floor=1", gpens=(balancer,)) as discoverer:
        wait_servers(balancer, good.address, bad)
        balancer.ctl("server 2 health down because broken")
        write(file, bad)
        discoverer.wait_told("and is kept: without it fewer than 1 could be used (--floor)")
        assert balancer.ask() == b"good"
        assert [row["kept"] for row in discoverer.status()["gpens"][0]["servers"]] == [True, False]
        balancer.ctl("server 2 health up")
        wait_servers(balancer, f"{bad} up: by a command")


def test_a_list_of_servers_that_nobody_has_tried_takes_no_site_away(gpen: Start, servers: Servers, tmp_path: Path,
                                                                   file: Path) -> None:
    """The one that was there serves until one of the new ones has."""
    good, better, bad = servers(naming("good")), servers(naming("better")), f"127.0.0.1:{free_port()}"
    balancer = gpen("-r", servers=[A])
    balancer.ctl("server 0 state maint")
    write(file, good.address)
    with Discoverer(tmp_path, "file", str(file), "--floor=1", gpens=(balancer,)) as discoverer:
        wait_servers(balancer, good.address)
        write(file, bad)
        discoverer.wait_told("and is kept: without it fewer than 1 could be used (--floor)")
        assert [balancer.ask() for _ in range(4)] == [b"good"] * 4
        write(file, bad, better.address)
        wait_until(lambda: balancer.ask() == b"better")
        wait_servers(balancer, bad, better.address)


def test_sessions_end_when_their_time_is_over(gpen: Start, servers: Servers, tmp_path: Path, file: Path) -> None:
    one = servers(echo)
    balancer = gpen(servers=[A])
    balancer.ctl("server 0 state maint")
    write(file, one.address, B)
    with Discoverer(tmp_path, "file", str(file), "--drain=0.5", gpens=(balancer,)):
        wait_servers(balancer, one.address, B)
        with balancer.connect() as client:
            client.sendall(b"x")
            assert client.recv(10) == b"x"
            write(file, B)
            assert client.recv(10) == b""
        wait_servers(balancer, B)
