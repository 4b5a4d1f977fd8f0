"""Slots that are emptied, which is pen's way to remove a server, and filled again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.harness import Gpen, Server, echo, naming, refusing, run_gpen, wait_until
from tests.web.pages import data_of

Start = Callable[..., Gpen]
Serve = Callable[..., Server]

EMPTYING = ["address 0.0.0.0 port 0", "address 0 port 0 max 0 weight 0 prio 0", "address 0.0.0.0 port 80", "address 0",
            "address 0x0 port 0", "address 0.0", "address ::", "address [::]", "port 0", "address 127.0.0.1 port 0",
            "address 0.0.0.0:80", "address [::]:0"]


@pytest.mark.parametrize("emptying", EMPTYING)
def test_a_slot_is_emptied_and_filled(gpen: Start, servers: Serve, emptying: str) -> None:
    a, b, c = servers(naming("a")), servers(echo), servers(naming("c"))
    balancer = gpen("-r", servers=[b, a])
    with balancer.connect() as old:
        old.sendall(b"1")
        assert old.recv(1) == b"1"
        assert balancer.ctl(f"server 0 {emptying}") == ""
        assert [balancer.ask() for _ in range(3)] == [b"a"] * 3
        old.sendall(b"2")
        assert old.recv(1) == b"2", "its sessions go on"
        assert balancer.server(0)["sessions"] == 1
        assert balancer.json("sessions")[0]["server_address"] == b.address, "and are where they were"
    balancer.wait_idle()
    row = balancer.server(0)
    assert (row["health"], row["failures"]) == ("empty", 0)
    assert "not server 0 " in balancer.ctl("explain 192.0.2.1") and "empty" in balancer.ctl("explain 192.0.2.1")
    assert data_of(balancer.ctl("status"))["servers"][0]["health"] == "empty"
    host, _, port = c.address.rpartition(":")
    assert balancer.ctl(f"server 0 address {host} port {port}") == ""
    assert {balancer.ask() for _ in range(2)} == {b"a", b"c"}
    events = [event["event"] for event in balancer.json("events") if event["server"] == 0]
    assert events == ["added", "emptied", "filled"]


def test_the_line_of_an_empty_slot_is_pens(gpen: Start) -> None:
    balancer = gpen(servers=["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"])
    for line in ("server 0 address 0 port 0", "server 1 address 0.0.0.0 port 80", "server 2 port 0"):
        assert balancer.ctl(line) == ""
    places = [" ".join(line.split()[:5]) for line in balancer.ctl("servers").splitlines()]
    assert places == ["0 addr 0.0.0.0 port 0", "1 addr 0.0.0.0 port 80", "2 addr 127.0.0.1 port 0"]


def test_empty_slots_are_written_and_read(gpen: Start, servers: Serve, tmp_path: Path) -> None:
    a = servers(naming("a"))
    pens = tmp_path / "pen.cfg"
    pens.write_text(f"""roundrobin
server 0 acl 0 address 0.0.0.0 port 0 max 0 hard 0
server 1 acl 0 address {a.address.replace(':', ' port ')} max 0 hard 0
server 2 acl 0 address (unknown address family 0 port 0 max 7 hard 0
server 3 acl 0 address :: port 80 max 0 hard 0
""")
    balancer = gpen("-F", str(pens))
    assert [balancer.ask() for _ in range(3)] == [b"a"] * 3
    shown = balancer.ctl("servers")
    assert [line.split()[:6] for line in shown.splitlines()][2] == ["2", "addr", "0.0.0.0", "port", "0", "conn"]
    assert balancer.server(2)["max"] == 7
    balancer.ctl(f"write {tmp_path}/gpen.cfg")
    again = gpen("-F", str(tmp_path / "gpen.cfg"))
    counted = ("sx", "rx", "total", "since", "for")

    def rows(gpen: Gpen) -> list[dict[str, object]]:
        return [{key: value for key, value in row.items() if key not in counted} for row in gpen.json("servers")]

    assert rows(again) == rows(balancer)


def test_nothing_else_looks_at_an_empty_slot(gpen: Start, servers: Serve) -> None:
    """Neither a check nor an idler, and what was known of the server that was there counts no more."""
    with refusing() as address:
        balancer = gpen("-r", "-O", "check connect", "-O", "check_interval 0.1", "-O", "idlers 1",
                        servers=[address, servers(echo)])
        wait_until(lambda: balancer.server(0)["verdict"] == "down")
        balancer.ctl("server 0 address 0.0.0.0 port 0")
        row = balancer.server(0)
        assert (row["health"], row["verdict"], row["reason"]) == ("empty", None, "")
        wait_until(lambda: balancer.server(1)["verdict"] == "up" and balancer.server(1)["sessions"] == 1)
        assert balancer.server(0)["verdict"] is None


def test_special_servers_without_a_place(gpen: Start) -> None:
    balancer = gpen("-e", "0.0.0.0:80", "-B", "127.0.0.1:0", "-O", "acl 1 deny 127.0.0.9", "-O", "client_acl 1",
                    servers=["0.0.0.0:0"])
    assert balancer.ask() == balancer.ask(source="127.0.0.9") == b""
    assert "empty" in balancer.ctl("explain 192.0.2.1")


@pytest.mark.parametrize(("line", "words"), [
    ("server 0 address 10.0.0.9:80 port 81", "address 10.0.0.9:80 and port 81 say different ports"),
    ("server 0 address 10.0.0.9:80:5", "'10.0.0.9:80:5' has too many fields: expected HOST[:PORT]"),
    ("server 0 address 10.0.0.9:", "expected a number or a service's name"),
    ("server 7 max 3", "a new one needs an address"),
])
def test_what_is_wrong_with_an_address(gpen: Start, line: str, words: str) -> None:
    balancer = gpen(servers=["127.0.0.1:1"])
    before = balancer.ctl("servers")
    assert words in balancer.ctl(line)
    assert balancer.ctl("servers") == before


@pytest.mark.parametrize(("line", "place"), [
    ("address 10.0.0.9:80", "10.0.0.9:80"), ("address [::1]:80", "[::1]:80"), ("address 10.0.0.9:http", "10.0.0.9:80"),
    ("address 10.0.0.9:80 port 80", "10.0.0.9:80"), ("address [::1]", "[::1]:7"), ("address ::1", "[::1]:7"),
])
def test_an_address_may_have_its_port(gpen: Start, line: str, place: str) -> None:
    balancer = gpen(servers=["127.0.0.1:7"])
    assert balancer.ctl(f"server 0 {line}") == ""
    assert f"not server 0 {place}:" in balancer.ctl("server 0 state drain", "explain 192.0.2.1")


def test_a_server_needs_a_port() -> None:
    done = run_gpen("--check", "127.0.0.1:0", "10.0.0.1")
    assert (done.returncode, done.stderr) == (2, "gpen: server 0: '10.0.0.1' needs a port: 10.0.0.1:PORT\n")
