"""What one gpen knows, another goes on with: the commands `state` and `client`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.harness import Gpen, Server, naming, refusing

Start = Callable[..., Gpen]
Serve = Callable[..., Server]


def test_another_gpen_goes_on_where_the_first_one_is(gpen: Start, servers: Serve, tmp_path: Path) -> None:
    a, b, c = (servers(naming(name)) for name in "abc")
    with refusing() as nobody:
        every = [a.address, b.address, c.address, nobody]
        first = gpen("-O", "blacklist 60", servers=every)
        first.ctl("server 0 state drain", "server 2 health down because it rains")
        assert first.ask(source="127.0.0.9") == b"b"
        first.ctl("server 3 prio 1", "client 127.0.0.8 server 3", "server 0 state ready")
        assert first.ask(source="127.0.0.8") in (b"a", b"b"), "the fourth can't be reached"
        printed = first.ctl("state")
        assert 'server 2 health down for 0.' in printed and 'because "it rains"' in printed
        assert "server 3 failed " in printed and "connection refused" in printed
        (tmp_path / "state").write_text(printed)
        second = gpen("-O", "blacklist 60", servers=every)
        assert second.ctl(f"include {tmp_path}/state") == ""
        for number in range(4):
            told, was = second.server(number), first.server(number)
            for name in ("health", "verdict", "verdict_reason", "reason", "state"):
                assert told[name] == was[name], (number, name)
            assert abs(told["blacklisted"] - was["blacklisted"]) < 10
        assert [second.ask(source="127.0.0.9") for _ in range(3)] == [b"b"] * 3


def test_where_a_client_is_remembered(gpen: Start, servers: Serve) -> None:
    balancer = gpen(servers=[servers(naming(name)) for name in "ab"])
    assert balancer.ctl("client 127.0.0.9 server 1") == ""
    assert [balancer.ask(source="127.0.0.9") for _ in range(3)] == [b"b"] * 3
    assert balancer.ctl("client 127.0.0.9 server 0") == ""
    assert balancer.ask(source="127.0.0.9") == b"a"
    assert balancer.ctl("client 127.0.0.9 server 7").startswith("error: client: there is no server 7")
    assert balancer.ctl("no client 127.0.0.9") == ""
    assert balancer.ctl("state") == ""


def test_time_goes_on_for_who_is_remembered(gpen: Start, servers: Serve) -> None:
    """tracking counts from when the client was seen, by whichever gpen."""
    balancer = gpen("-T", "100", servers=[servers(naming(name)) for name in "ab"])
    balancer.ctl("client 127.0.0.9 server 1 idle 200", "client 127.0.0.8 server 1 idle 50")
    assert (balancer.ask(source="127.0.0.8"), balancer.ask(source="127.0.0.9")) == (b"b", b"a")

