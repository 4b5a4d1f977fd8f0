"""gpen-discover and its gpens: one that hangs, is away or begins anew, several owners, and what others do by hand."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable
from pathlib import Path

from tests.discover.running import Discoverer, numbered, wait_servers, write
from tests.harness import LOCAL, Gpen, Server, free_port, naming, wait_until
from tests.replacing import replacing

Start = Callable[..., Gpen]
Servers = Callable[..., Server]
A, B, C = "127.0.0.1:4001", "127.0.0.2:4002", "127.0.0.3:4003"


def test_a_gpen_that_hangs_or_is_down_delays_no_other(gpen: Start, tmp_path: Path, file: Path) -> None:
    """And is brought up to date when it is there again, be it another one that has forgotten all."""
    one, two, three = gpen(servers=[A]), gpen(servers=[A]), gpen(servers=[A])
    write(file, B)
    with Discoverer(tmp_path, "file", str(file), gpens=(one, two, three)) as discoverer:
        for balancer in (one, two, three):
            wait_servers(balancer, B)
        two.signal(signal.SIGSTOP)
        try:
            assert three.stop() == 0
            write(file, C)
            wait_servers(one, C)
            discoverer.wait_told(f"gpen {two.control}: no answer within 2 s")
            discoverer.wait_told(f"gpen {three.control}: no such socket")
            answer = discoverer.status()
            assert [bool(row["problem"]) for row in answer["gpens"]] == [False, True, True] and not answer["well"]
        finally:
            two.signal(signal.SIGCONT)
        wait_servers(two, C)
        with Gpen(tmp_path, LOCAL, A, control=three.control, name="again") as again:
            wait_servers(again, C)
            wait_until(lambda: discoverer.status()["well"])


def test_what_somebody_does_by_hand_is_mended(gpen: Start, tmp_path: Path, file: Path) -> None:
    balancer = gpen(servers=[A])
    write(file, f"{B} weight 3", C)
    with Discoverer(tmp_path, "file", str(file), gpens=(balancer,)) as discoverer:
        wait_servers(balancer, f"{B} weight 3", C)
        balancer.ctl("server 1 weight 7", f"server 9 address {C}", "no server 2")  # last, or it would be made again
        discoverer.wait_told(f"{C} is server 9, which nobody owns: it is left as it is, and not made again")
        wait_servers(balancer, f"{B} weight 3")
        balancer.ctl("server 1 address 127.0.0.9:4009")
        wait_servers(balancer, f"{B} weight 3")
        assert numbered(balancer, None) == {0: A, 9: C}


def test_two_of_different_owners_share_a_gpen(gpen: Start, tmp_path: Path, file: Path) -> None:
    """Each listener uses the servers of one of them."""
    other = file.with_name("other")
    balancer = gpen("-O", f"listener web listen 127.0.0.1:{free_port()}", "-O", "listener web servers 100-199",
                    servers=[A])
    write(file, B)
    write(other, B.replace("4002", "4009"), C)
    with (Discoverer(tmp_path, "file", str(file), "--numbers=1-99", gpens=(balancer,)),
          Discoverer(tmp_path, "file", str(other), "--numbers=100-199", "--owner=web", gpens=(balancer,), name="web")):
        wait_servers(balancer, B)
        wait_servers(balancer, B.replace("4002", "4009"), C, owner="web")
        write(file, A.replace("4001", "4008"))
        wait_servers(balancer, A.replace("4001", "4008"))
        web = balancer.json("listener web servers")
        assert sorted(row["number"] for row in web) == [100, 101]
        wait_servers(balancer, B.replace("4002", "4009"), C, owner="web")


def test_servers_outlive_a_reload_a_replacement_and_discoverers(tmp_path: Path, file: Path) -> None:
    """They are known again by their owner."""
    config = tmp_path / "gpen.cfg"
    config.write_text(f"listen {LOCAL}\nserver 0 address {A}\n")
    write(file, B, C)
    with Gpen(tmp_path, "-F", str(config)) as balancer:
        with Discoverer(tmp_path, "file", str(file), gpens=(balancer,)):
            wait_servers(balancer, B, C)
        config.write_text(f"listen {LOCAL}\nserver 0 address {A} max 5\n")
        assert balancer.ctl("reload") == "server 0 max 5 (was max 0)\n"
        assert sorted(numbered(balancer).values()) == [B, C]
        assert balancer.ctl("write") == ""
        assert f"address {B.replace(':', ' port ')} owner discover\n" in config.read_text()
        config.write_text(f"listen {LOCAL}\nserver 0 address {A} max 5\n")
        assert "no server 1" in balancer.ctl("reload")
        assert numbered(balancer) == {}
        write(file, C)
        with Discoverer(tmp_path, "file", str(file), gpens=(balancer,), name="next"):
            wait_servers(balancer, C)
        with replacing(balancer) as new:
            assert numbered(new) == numbered(balancer) == {1: C}
            with Discoverer(tmp_path, "file", str(file), gpens=(new,), name="last"):
                write(file, B)
                wait_servers(new, B)


def test_many_at_once(gpen: Start, tmp_path: Path, file: Path) -> None:
    balancer = gpen(servers=[A])
    many = [f"127.1.{number // 250}.{number % 250 + 1}:80" for number in range(500)]
    write(file, *many)
    with Discoverer(tmp_path, "file", str(file), gpens=(balancer,)) as discoverer:
        wait_servers(balancer, *many)
        write(file, many[0])
        wait_servers(balancer, many[0])
        assert "500 servers: + 127.1.0.1:80, " in discoverer.told and " and 492 more" in discoverer.told


def test_who_is_no_gpen_or_too_old_is_told_of(gpen: Start, servers: Servers, tmp_path: Path, file: Path) -> None:
    def old(sock: socket.socket) -> None:
        sock.recv(100)
        sock.sendall(b'[{"number": 0, "address": "10.0.0.1"}]\n')

    stranger = servers(old)
    silent = servers(naming("hello"))
    write(file, B)
    with Discoverer(tmp_path, "file", str(file), gpens=(stranger.address, silent.address)) as discoverer:
        discoverer.wait_told(f"gpen {stranger.address}: it is older than this program, and knows no owners")
        discoverer.wait_told(f"gpen {silent.address}: no answer to 'servers json': is it a gpen?")


def test_a_gpen_that_refuses_is_told_of(tmp_path: Path, gpen: Start, file: Path) -> None:
    balancer = gpen("-u", "nobody", "-O", "control_access view", servers=[A], control=f"127.0.0.1:{free_port()}")
    write(file, B)
    with Discoverer(tmp_path, "file", str(file), gpens=(balancer,)) as discoverer:
        discoverer.wait_told(f"gpen {balancer.control}: error: ")
        row = discoverer.status()["gpens"][0]
        assert "access" in row["refusal"] and row["problem"] == ""


def test_one_of_many_changes_that_is_refused_hides_no_other(gpen: Start, tmp_path: Path, file: Path) -> None:
    """Here somebody has written our name to a server whose port is a word, as which nothing else names it."""
    balancer = gpen(servers=[A])
    balancer.ctl("server 7 address 127.0.0.9 port http owner discover")
    write(file, B, C)
    with Discoverer(tmp_path, "file", str(file), gpens=(balancer,)) as discoverer:
        wait_servers(balancer, B, C, "127.0.0.9:80")
        discoverer.wait_told("of 3 changes of servers not all are taken")
        wait_until(lambda: "is at 127.0.0.9:http" in discoverer.status()["gpens"][0]["refusal"])
        balancer.ctl("server 7 port 80")
        wait_servers(balancer, B, C)
        wait_until(lambda: discoverer.status()["well"])
        assert discoverer.told.count("not all are taken") == 1
