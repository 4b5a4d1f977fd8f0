"""gpen-discover's etcd: a real one, that is killed and started again."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpen.discover.source import Found
from tests.discover.etcd import Cluster, etcd, source
from tests.discover.request import request_of
from tests.discover.watching import Watching
from tests.harness import Server, connect, pair_of, wait_until

A, B, C = "127.0.0.1:81", "127.0.0.1:82", "127.0.0.1:83"


@pytest.fixture
def one(tmp_path: Path) -> Iterator[Cluster]:
    """An etcd of one member."""
    with etcd(tmp_path) as cluster:
        yield cluster


def test_keys_come_change_and_go(one: Cluster) -> None:
    one.put("/web/1", A)
    one.put("/webs/1", "127.0.0.1:9")
    with Watching(source(*one.urls)) as watching:
        watching.wait_for(A)
        one.put("/web/2", '{"host": "localhost", "port": 82, "weight": 3, "prio": 1, "max": 50}')
        watching.wait_for(A, "localhost:82")
        assert Found("localhost", 82, 3, 1, 50) in watching.told[-1]
        one.put("/web/1", "[::1]:81")
        watching.wait_for("[::1]:81", "localhost:82")
        one.delete("/web/2")
        watching.wait_for("[::1]:81")
        one.ctl("del", "/web/", "--prefix")
        watching.wait_for()
        assert not watching.errors


def test_a_change_is_told_at_once(one: Cluster) -> None:
    one.put("/web/1", A)
    with Watching(source(*one.urls)) as watching:
        watching.wait_for(A)
        took = []
        for number in range(10):
            count, began = len(watching.told), time.monotonic()
            one.put("/web/2", (B, C)[number % 2])
            wait_until(lambda count=count: len(watching.told) > count)
            took.append(time.monotonic() - began)
        assert sorted(took)[4] < 0.2


def test_the_end_of_a_lease_takes_a_server_away(one: Cluster) -> None:
    one.put("/web/1", A)
    with Watching(source(*one.urls)) as watching:
        watching.wait_for(A)
        for seconds in ("2", "600"):
            lease = one.ctl("lease", "grant", seconds).split()[1]
            one.ctl("put", "--lease", lease, "/web/2", B)
            watching.wait_for(A, B)
            if seconds == "600":
                one.ctl("lease", "revoke", lease)
            watching.wait_for(A)  # as nobody has kept the first one alive


def test_what_is_not_understood_costs_itself_alone(one: Cluster, capfd: pytest.CaptureFixture[str]) -> None:
    one.put("/web/1", A)
    one.put("/web/2", B)
    with Watching(source(*one.urls)) as watching:
        watching.wait_for(A, B)
        one.put("/web/2", "127.0.0.1:eighty two")
        one.put("/web/3", '{"host": "127.0.0.1", "prot": 83}')
        one.delete("/web/1")
        watching.wait_for(B)
        one.put("/web/3", C)
        watching.wait_for(B, C)
        assert not watching.errors
    told = capfd.readouterr().err
    assert "'/web/2' is not understood" in told and "what it said before holds" in told
    assert "'/web/3' is not understood: " in told and "'prot' is not one of host" in told and "it is left out" in told
    assert told.count("\n") == 2


def test_keys_that_are_no_servers_at_all_change_nothing(one: Cluster) -> None:
    one.put("/web/1", "yes")
    with Watching(source(*one.urls)) as watching:
        watching.wait_error("no entry is understood; '/web/1'")
        assert not watching.told
        one.put("/web/1", A)
        watching.wait_for(A)


def test_killed_and_started_again_it_goes_on(one: Cluster) -> None:
    (member,) = one.members
    one.put("/web/1", A)
    with Watching(source(*one.urls)) as watching:
        watching.wait_for(A)
        count = len(watching.told)
        member.kill()
        watching.wait_error("Connection refused")
        assert len(watching.told) == count
        one.start(member)
        one.wait()
        one.put("/web/2", B)
        watching.wait_for(A, B)


def test_what_it_has_forgotten_is_read_anew(one: Cluster) -> None:
    """Compaction between the reading and the watch."""
    one.put("/web/1", A)
    watches = []

    def forward(client: socket.socket) -> None:
        request = request_of(client)
        if b"/v3/watch" in request:
            watches.append(request)
            if len(watches) == 1:
                one.put("/web/2", B)
                one.put("/web/1", C)
                one.compact()
        with connect(pair_of(one.urls[0].removeprefix("http://")), seconds=1) as server:
            server.sendall(request)
            while piece := server.recv(1 << 16):
                client.sendall(piece)

    with Server(forward) as between, Watching(source(f"http://{between.address}")) as watching:
        watching.wait_for(B, C)
        wait_until(lambda: len(watches) > 1, what="a second watch")
        one.delete("/web/1")
        watching.wait_for(B)
        assert not watching.errors


def test_what_can_not_be_asked_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="PREFIX is empty"):
        source("http://127.0.0.1:1", prefix="")
    with Watching(source("http://127.0.0.1:1", "http://127.0.0.1:2")) as watching:
        watching.wait_error("127.0.0.1:1: Connection refused; 127.0.0.1:2: Connection refused")
        wait_until(lambda: len(watching.errors) == 3, what="three rounds")
    assert capfd.readouterr().err.count("is asked") <= 2


@pytest.mark.parametrize("answer", [
    "{}", "[]", "null", "7", '{"header": {"revision": "x"}}', '{"header": {"revision": "1"}, "kvs": {}}',
    '{"header": {"revision": "1"}, "kvs": [7]}', '{"header": {"revision": "1"}, "kvs": [{"key": 1}]}',
    '{"header": {"revision": "1"}, "kvs": [{"key": "!", "value": ""}]}', '{"header": null}',
    '{"header": {"revision": Infinity}}'])
def test_what_etcd_does_not_say_changes_nothing(answer: str) -> None:
    def serve(client: socket.socket) -> None:
        request_of(client)
        client.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {len(answer)}\r\n\r\n{answer}".encode())

    with Server(serve) as server, Watching(source(f"http://{server.address}")) as watching:
        watching.wait_error("says what etcd does not say")
        assert not watching.told


@pytest.mark.parametrize("line", [
    "{}", "[]", '{"result": {"events": [{"kv": {"key": 7}}]}}', '{"result": {"events": 7}}', "{", '{"result": null}',
    '{"result": {"events": [7]}}', '{"error": {"message": "no leader"}}',
    '{"result": {"canceled": true, "cancel_reason": 7}}'])
def test_a_watch_that_says_what_etcd_does_not_say_changes_nothing(line: str) -> None:
    def serve(client: socket.socket) -> None:
        request = request_of(client)
        answer = '{"header": {"revision": "5"}, "kvs": [{"key": "L3dlYi8x", "value": "MTI3LjAuMC4xOjgx"}]}'
        if b"/v3/watch" in request:
            answer = line
        client.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {len(answer) + 1}\r\n\r\n{answer}\n".encode())

    with Server(serve) as server, Watching(source(f"http://{server.address}")) as watching:
        watching.wait_error(server.address)
        assert watching.servers == [A]
