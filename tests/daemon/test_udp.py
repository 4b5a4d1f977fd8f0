"""What holds for TCP sessions holds for flows: who gets which server, what commands do, what is shown and logged."""

from __future__ import annotations

import json
import re
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.datagrams import DatagramServer, ask, client, echo, endings, is_silent, naming, refusing, silence, tell
from tests.harness import Gpen, knowing, run_gpen, wait_until
from tests.web.pages import data_of

Start = Callable[..., Gpen]
Serve = Callable[..., DatagramServer]

CLIENTS = [f"127.0.3.{number}" for number in range(1, 21)]


@pytest.fixture
def servers() -> Iterator[Serve]:
    with ExitStack() as stack:
        yield lambda *arguments, **options: stack.enter_context(DatagramServer(*arguments, **options))


@pytest.fixture
def three(servers: Serve) -> list[DatagramServer]:
    return [servers(naming(name)) for name in "abc"]


def names(balancer: Gpen, count: int, source: str = "") -> str:
    return "".join(ask(balancer, source=source).decode() for _ in range(count))


# --- who gets which server -------------------------------------------------------------------------------------------


def test_tracking(gpen: Start, three: list[DatagramServer]) -> None:
    """Each flow of a client goes where its last one went, the port notwithstanding."""
    balancer = gpen("-U", servers=three)
    first = [names(balancer, 1, source) for source in CLIENTS[:6]]
    assert first == ["a", "b", "c"] * 2
    assert [names(balancer, 3, source) for source in CLIENTS[:6]] == [name * 3 for name in first]


def test_round_robin(gpen: Start, three: list[DatagramServer]) -> None:
    assert names(gpen("-U", "-r", servers=three), 9, "127.0.3.1") == "abcabcabc"


@pytest.mark.parametrize(("options", "wanted"), [
    (["-O", "leastconn"], {"a": 2, "b": 4, "c": 6}), (["-O", "prio"], {"b": 12}), (["-W"], {"a": 2, "b": 4, "c": 6})])
def test_rules(gpen: Start, three: list[DatagramServer], options: list[str], wanted: dict[str, int]) -> None:
    a, b, c = (server.address for server in three)
    balancer = gpen("-U", "-r", *options, servers=[f"{a}:::1:9", f"{b}:::2:1", f"{c}:::3:5"])
    assert Counter(names(balancer, 12)) == wanted


def test_hash(gpen: Start, three: list[DatagramServer]) -> None:
    """By the address alone, whatever the port; with roundrobin by both."""
    balancer = gpen("-U", "-h", "-c", "1", servers=three)  # a memory of one client: the hash it is
    chosen = [names(balancer, 1, source) for source in CLIENTS]
    assert set(chosen) == set("abc")
    assert [names(balancer, 1, source) for source in CLIENTS] == chosen
    balancer.ctl("roundrobin")
    assert set(names(balancer, 30, CLIENTS[0])) == set("abc")


def test_the_hash_of_a_port(gpen: Start, three: list[DatagramServer]) -> None:
    balancer = gpen("-U", "-h", "-r", "-O", "udp_replies 1", servers=three)
    for _ in range(5):
        with client(balancer, "127.0.3.1") as sock:
            answers = set()
            for _ in range(4):  # four flows from one port
                sock.send(b"who?")
                answers.add(sock.recv(10))
            assert len(answers) == 1


def test_limits(gpen: Start, servers: Serve) -> None:
    """A flow takes a place; without one, the next server; then the emergency server; then its datagrams are dropped."""
    a, b, e = (servers(naming(name)) for name in "abe")
    balancer = gpen("-U", "-l", "gpen.log", "-e", f"{e.address}:1", servers=[f"{a.address}:2:3", f"{b.address}:1"])
    assert "".join(names(balancer, 1, source) for source in CLIENTS[:4]) == "abae"
    tell(balancer, source=CLIENTS[4])
    assert endings(balancer, 1) == ["no-server"]
    assert names(balancer, 1, CLIENTS[0]) == "a"  # one who returns, up to hard
    assert [row["sessions"] for row in balancer.json("servers")] == [3, 1, 1]
    balancer.ctl("udp_timeout 0.1")
    balancer.wait_idle()


def test_a_burst_never_overruns_the_limits(gpen: Start, servers: Serve) -> None:
    server = servers(naming("a"))
    balancer = gpen("-U", "-r", servers=[f"{server.address}:5"])
    with ExitStack() as stack:
        socks = [stack.enter_context(client(balancer)) for _ in range(30)]
        for sock in socks:
            sock.send(b"who?")
        wait_until(lambda: balancer.server(0)["sessions"] == 5)
        wait_until(lambda: len(server.received) == 5)
        assert sum(not is_silent(sock, 0.02) for sock in socks) == 5


def test_access_lists(gpen: Start, servers: Serve) -> None:
    """client_acl with and without an abuse server, and a server's own list."""
    a, b, abuse = servers(naming("a")), servers(naming("b")), servers(naming("x"))
    balancer = gpen("-U", "-r", "-l", "gpen.log", "-O", "acl 1 deny 127.0.3.1", "-O", "client_acl 1",
                    "-O", "acl 2 permit 127.0.3.2", "-O", "server 1 acl 2", servers=[a, b])
    tell(balancer, source="127.0.3.1")
    assert endings(balancer, 1) == ["denied"]
    assert set(names(balancer, 4, "127.0.3.2")) == {"a", "b"}
    assert set(names(balancer, 4, "127.0.3.3")) == {"a"}
    balancer.ctl(f"abuse {abuse.address}")
    assert names(balancer, 2, "127.0.3.1") == "xx"
    assert names(balancer, 1, "127.0.3.3") == "a"


def test_stubborn(gpen: Start, servers: Serve) -> None:
    with refusing() as address:
        balancer = gpen("-U", "-r", "-s", "-l", "gpen.log", servers=[address, servers(naming("b"))])
        tell(balancer)
        assert endings(balancer, 1) == ["connect-failed"]


def test_source(gpen: Start, servers: Serve) -> None:
    server = servers(echo)
    balancer = gpen("-U", "-O", "source 127.0.0.77", servers=[server])
    assert ask(balancer, b"x") == b"x"
    assert server.clients[0][0] == "127.0.0.77"
    balancer.ctl("source 192.0.2.1")  # not ours: no server's fault
    tell(balancer)
    wait_until(lambda: "datagrams are dropped" in balancer.stderr)
    assert (balancer.server(0)["health"], balancer.server(0)["failures"]) == ("up", 0)


def test_the_emergency_server_is_tried_always(gpen: Start, servers: Serve) -> None:
    emergency = servers(naming("e"))
    with refusing() as address:
        balancer = gpen("-U", "-e", emergency.address, servers=[address])
        assert names(balancer, 2) == "ee"
        emergency.close()
        tell(balancer)
        emergency = servers(naming("e"), port=emergency.port)
        assert names(balancer, 2) == "ee"


# --- servers that fail, and come back --------------------------------------------------------------------------------


def test_a_server_comes_back(gpen: Start, servers: Serve) -> None:
    """The first flow after the blacklist is its trial, and its reply decides."""
    a, b = servers(naming("a")), servers(naming("b"))
    balancer = gpen("-U", "-r", "-b", "0.5", servers=[a, b])
    a.close()
    assert set(names(balancer, 4)) == {"b"}
    assert balancer.server(0)["health"] != "up"
    wait_until(lambda: balancer.server(0)["health"] == "trial")
    assert set(names(balancer, 2)) == {"b"}  # refused again
    assert balancer.server(0)["failures"] == 2
    servers(naming("a"), port=a.port)
    wait_until(lambda: balancer.server(0)["health"] == "trial")
    assert set(names(balancer, 4)) == {"a", "b"}
    assert balancer.server(0)["health"] == "up"


def test_one_that_never_replies_comes_back(gpen: Start, servers: Serve) -> None:
    """Where no reply is due, a trial is won when nothing is refused for a second."""
    a, b = servers(silence), servers(silence)
    balancer = gpen("-U", "-r", "-b", "0.5", servers=[a, b])
    a.close()
    with client(balancer) as sock:
        sock.send(b"1")
        wait_until(lambda: b.received == [b"1"])
        servers(silence, port=a.port)
        wait_until(lambda: balancer.server(0)["health"] == "trial")
        for _ in range(2):
            tell(balancer)
        wait_until(lambda: balancer.server(0)["health"] == "up")


def test_what_is_sent_for_long_is_not_sent_again(gpen: Start, servers: Serve) -> None:
    """Where no reply is due: a refusal is of the last second's datagrams."""
    a, b = servers(silence), servers(silence)
    balancer = gpen("-U", servers=[a, b])
    with client(balancer) as sock:
        sock.send(b"old")
        wait_until(lambda: balancer.json("sessions")[0]["idle"] > 2.2)
        a.close()
        sock.send(b"new")
        wait_until(lambda: b.received == [b"new"])


@pytest.mark.parametrize("allowed", [1, 3])
def test_servers_that_do_not_answer(gpen: Start, servers: Serve, allowed: int) -> None:
    """So many flows in a row are too many: blacklisted; and then one trial is."""
    a, b = servers(silence), servers(naming("b"))
    balancer = gpen("-U", "-r", "-b", "1", "-l", "gpen.log", "-O", "udp_timeout 0.1", "-O", "udp_replies 1",
                    "-O", f"udp_unanswered {allowed}", servers=[a, b])
    for number in range(1, allowed + 1):
        assert balancer.server(0)["health"] == "up"
        tell(balancer)
        assert ask(balancer) == b"b"
        wait_until(lambda number=number: endings(balancer, 0).count("unanswered") == number)
    row = balancer.server(0)
    assert (row["health"], row["failures"]) == ("down", 1)
    assert row["reason"] == ("1 flow in a row unanswered" if allowed == 1 else "3 flows in a row unanswered")
    wait_until(lambda: balancer.server(0)["health"] == "trial")
    tell(balancer)
    tell(balancer)
    wait_until(lambda: balancer.server(0)["failures"] == 2)
    a.reply = naming("a")
    wait_until(lambda: balancer.server(0)["health"] == "trial")
    assert set(names(balancer, 2)) == {"a", "b"}
    assert balancer.server(0)["health"] == "up"


def test_any_answer_counts(gpen: Start, servers: Serve) -> None:
    """Two flows without an answer and one with: never three in a row. And with 0, silence is never held against it."""
    server = servers(lambda data: [data] if data == b"answer" else [])
    balancer = gpen("-U", "-l", "gpen.log", "-O", "udp_timeout 0.1", "-O", "udp_replies 1", servers=[server])
    for number in range(1, 4):
        tell(balancer)
        tell(balancer)
        wait_until(lambda number=number: endings(balancer, 0).count("unanswered") == 2 * number)
        assert ask(balancer, b"answer") == b"answer"
    assert balancer.server(0)["failures"] == 0
    balancer.ctl("udp_unanswered 0")
    for _ in range(5):
        tell(balancer)
    wait_until(lambda: endings(balancer, 0).count("unanswered") == 11)
    assert balancer.server(0)["health"] == "up"


def insist(sock: socket.socket, until: Callable[[], object]) -> None:
    """Ask from one port, some ten times a second, until something holds."""

    def ask_again() -> object:
        sock.send(b"who?")
        return until() or (not is_silent(sock, 0.1) and until())

    wait_until(ask_again)


@pytest.mark.parametrize("options", [[], ["-r"]])
@pytest.mark.parametrize("allowed", [1, 3])
def test_a_client_that_keeps_its_port_leaves_a_silent_server(gpen: Start, servers: Serve, options: list[str],
                                                            allowed: int) -> None:
    """It never pauses for long enough to be idle: the oldest question counts."""
    silent, good = servers(silence), servers(naming("b"))
    balancer = gpen("-U", *options, "-l", "gpen.log", "-t", "1", "-O", "udp_replies 1", "-O", "udp_timeout 0.5",
                    "-O", f"udp_unanswered {allowed}", servers=[silent, good])
    with client(balancer) as sock:
        insist(sock, lambda: balancer.server(0)["health"] == "down")
        assert balancer.server(0)["reason"] == f"{allowed} flow{'s' * (allowed > 1)} in a row unanswered"
        assert endings(balancer, allowed).count("unanswered") == allowed
        while not is_silent(sock, 0.5):  # what is under way
            pass
        asked = len(silent.received)
        for _ in range(5):
            sock.send(b"who?")
            assert sock.recv(10) == b"b"
        assert len(silent.received) == asked


def test_a_server_that_falls_silent_in_the_middle_of_a_flow(gpen: Start, servers: Serve) -> None:
    """Each reply sets the clock back, also where one was lost before; those of long ago are no excuse."""
    server = servers(lambda data: [data] if data == b"answer" else [])
    balancer = gpen("-U", "-l", "gpen.log", "-O", "udp_replies 1", "-O", "udp_timeout 1.2", servers=[server])
    with client(balancer) as sock:
        sock.send(b"lost")
        for _ in range(12):
            assert is_silent(sock, 0.3)
            sock.send(b"answer")
            assert sock.recv(10) == b"answer"
        assert not balancer.log
        insist(sock, lambda: balancer.log)
    assert endings(balancer, 1) == ["unanswered"]


def test_flows_that_gave_way_soon_say_nothing_of_the_server(gpen: Start, servers: Serve) -> None:
    balancer = gpen("-U", "-x", "1", "-t", "1", "-l", "gpen.log", "-O", "udp_replies 1",
                    servers=[servers(silence), servers(silence)])
    for _ in range(6):
        tell(balancer)
    assert endings(balancer, 5) == ["evicted"] * 5
    assert balancer.server(0)["failures"] == 0
    for number in range(3):  # but these have waited
        wait_until(lambda: balancer.json("sessions")[0]["idle"] > 1.1)
        tell(balancer)
        assert len(endings(balancer, 6 + number)) == 6 + number
    assert balancer.server(0)["reason"] == "3 flows in a row unanswered"


def test_replies_that_came_while_gpen_was_stopped(gpen: Start, servers: Serve) -> None:
    """They wait in its sockets when it goes on, and the time of each flow is over."""
    a, b = servers(silence), servers(silence)
    balancer = gpen("-U", "-r", "-l", "gpen.log", "-O", "udp_replies 1", "-O", "udp_timeout 0.5", servers=[a, b])
    with ExitStack() as stack:
        socks = [stack.enter_context(client(balancer)) for _ in range(20)]
        for sock in socks:
            sock.send(b"x")
        wait_until(lambda: len(a.received) == len(b.received) == 10)
        balancer.signal(signal.SIGSTOP)
        late = time.monotonic() + 0.6
        for server in (a, b):
            for flow in server.clients:
                server.socket.sendto(b"y", flow)
        wait_until(lambda: time.monotonic() > late)
        balancer.signal(signal.SIGCONT)
        assert [sock.recv(10) for sock in socks] == [b"y"] * 20
    assert endings(balancer, 20) == ["replied"] * 20
    assert [(row["health"], row["failures"]) for row in balancer.json("servers")] == [("up", 0)] * 2


def test_a_server_that_hangs_is_noticed_though_its_flows_give_way(gpen: Start, servers: Serve) -> None:
    """More clients come than flows may wait, so that none waits for long."""
    balancer = gpen("-U", "-r", "-x", "10", "-t", "1", "-O", "udp_replies 1", servers=[servers(silence), servers(echo)])

    def is_noticed() -> bool:
        for _ in range(20):
            tell(balancer)
        return bool(balancer.server(0)["health"] == "down")

    wait_until(is_noticed)
    assert balancer.server(0)["reason"] == "3 flows in a row unanswered"
    assert balancer.server(1)["failures"] == 0


def test_who_replies_after_all_is_back(gpen: Start, servers: Serve) -> None:
    """To whomever: a flow that began before it was found silent."""
    a, b = servers(silence), servers(naming("b"))
    balancer = gpen("-U", "-r", "-b", "600", "-O", "udp_replies 1", "-O", "udp_timeout 6", "-O", "udp_unanswered 1",
                    servers=[a, b])
    tell(balancer)
    wait_until(lambda: balancer.json("sessions")[0]["age"] > 4)
    with client(balancer, "127.0.0.9") as sock:
        assert names(balancer, 1) == "b"
        sock.send(b"who?")
        wait_until(lambda: balancer.server(0)["health"] == "down")
        a.socket.sendto(b"a", a.clients[-1])
        assert sock.recv(10) == b"a"
    assert balancer.server(0)["health"] == "up"


def test_the_other_address_of_a_server_that_is_silent_at_one(gpen: Start, servers: Serve, tmp_path: Path) -> None:
    """It is the only server, and is not down."""
    a = servers(silence, at="127.0.0.7")
    servers(naming("b"), at="127.0.0.8", port=a.port)
    balancer = gpen("-U", "-r", "-O", "udp_replies 1", "-O", "udp_timeout 0.2", servers=[f"both.test:{a.port}"],
                    wrapper=knowing(tmp_path, "127.0.0.7 both.test\n127.0.0.8 both.test\n"))
    for _ in range(3):
        tell(balancer)
    wait_until(lambda: balancer.server(0)["address"] == "127.0.0.8")
    assert names(balancer, 5) == "b" * 5
    assert balancer.server(0)["failures"] == 0


def test_checks_and_verdicts(gpen: Start, three: list[DatagramServer]) -> None:
    """A verdict keeps new flows away, and closes the old ones where on_down is close."""
    balancer = gpen("-U", "-r", "-l", "gpen.log", servers=three[:2])
    with client(balancer) as first, client(balancer) as second:
        for sock, name in ((first, b"a"), (second, b"b")):
            sock.send(b"who?")
            assert sock.recv(10) == name
        balancer.ctl("server 0 health down because tests")
        assert set(names(balancer, 3)) == {"b"}
        first.send(b"who?")
        assert first.recv(10) == b"a"
        balancer.ctl("on_down close", "server 1 health down", "server 0 health up")
        assert endings(balancer, 4) == ["server-down"] * 4
        second.send(b"who?")
        assert second.recv(10) == b"a"


def test_drain_by_a_verdict_ends_no_flow(gpen: Start, servers: Serve) -> None:
    """Nor one whose first reply is to come yet."""
    slow, b = DatagramServer(silence), servers(naming("b"))
    with slow:
        balancer = gpen("-U", "-r", "-l", "gpen.log", "-O", "on_down close", servers=[slow, b])
        with client(balancer) as waiting, client(balancer) as other:
            waiting.send(b"who?")
            wait_until(lambda: slow.received == [b"who?"])
            balancer.ctl("server 0 health drain because busy")
            assert names(balancer, 2) == "bb"
            other.send(b"who?")
            assert other.recv(10) == b"b"
            balancer.ctl("server 1 health drain")
            other.send(b"who?")
            assert other.recv(10) == b"b"
            waiting.send(b"still?")
            wait_until(lambda: slow.received == [b"who?", b"still?"])
            balancer.ctl("server 1 health down")
            assert endings(balancer, 3) == ["server-down"] * 3
            balancer.ctl("server 0 health down")
            assert endings(balancer, 4)[-1] == "no-server", "it goes elsewhere now, and there is none"
    balancer.wait_idle()


# --- commands --------------------------------------------------------------------------------------------------------


def test_drain_and_maint(gpen: Start, three: list[DatagramServer]) -> None:
    balancer = gpen("-U", "-r", "-l", "gpen.log", servers=three)
    with client(balancer) as sock:
        sock.send(b"who?")
        assert sock.recv(10) == b"a"
        balancer.ctl("server 0 state drain")
        assert set(names(balancer, 4)) == {"b", "c"}
        sock.send(b"who?")
        assert sock.recv(10) == b"a"
        assert balancer.ctl("drain 0 0.2 close").splitlines()[-1] == (
            "drained server 0: 0 sessions went by themselves, 1 were closed")
        assert endings(balancer, 1) == ["killed"]
        sock.send(b"who?")
        assert sock.recv(10) in (b"b", b"c")
    balancer.ctl("server 1 state maint", "server 2 state maint")
    balancer.wait_idle()


def test_close(gpen: Start, three: list[DatagramServer]) -> None:
    balancer = gpen("-U", "-r", "-l", "gpen.log", servers=three[:2])
    assert names(balancer, 4) == "abab"
    number = balancer.json("sessions")[0]["id"]
    assert balancer.ctl(f"close {number}") == f"Forcibly closing connection {number}\n"
    assert balancer.ctl("close server 1") == "Closing 2 connections of server 1\n"
    assert endings(balancer, 3) == ["killed"] * 3
    balancer.ctl("no server 0")
    row, = balancer.json("sessions")
    assert row["server"] == 0


def test_what_is_shown(gpen: Start, three: list[DatagramServer]) -> None:
    balancer = gpen("-U", servers=three)
    with client(balancer, "127.0.3.1") as sock:
        sock.send(b"who?")
        assert sock.recv(10) == b"a"
        place = f"127.0.3.1:{sock.getsockname()[1]}"
        row, = balancer.json("sessions")
        assert (row["client"], row["server"], row["server_address"], row["state"], row["up"], row["down"]) == (
            place, 0, three[0].address, "open", 4, 1)
        server = balancer.server(0)
        assert (server["sx"], server["rx"], server["sessions"], server["total"]) == (4, 1, 1, 1)
        assert balancer.ctl("recent") == "127.0.3.1 connects 1 sx 1 rx 4\n"
        connection = balancer.json(f"connection {row['id']}")
        assert (connection["state"], connection["downfd"], connection["server"], connection["pend"]) == (2, -1, 0, 0)
        assert balancer.ctl(f"socket {connection['upfd']}") == (
            f"Socket {connection['upfd']} belongs to connection {row['id']}\n")
        assert data_of(balancer.ctl("status"))["sessions"][0]["client"] == place
        assert balancer.ctl("explain 127.0.3.1").startswith(f"127.0.3.1 would get server 0 {three[0].address}")
    balancer.ctl("udp_timeout 0.1")
    balancer.wait_idle()
    assert balancer.ctl("recent") == "127.0.3.1 connects 1 sx 1 rx 4\n"
    assert (balancer.server(0)["sx"], balancer.server(0)["rx"]) == (4, 1)


def test_write(gpen: Start, three: list[DatagramServer], tmp_path: Path) -> None:
    balancer = gpen("-U", "-O", "udp_timeout 7", "-O", "udp_replies 2", "-O", "udp_unanswered 9", servers=three)
    balancer.ctl(f"write {tmp_path}/saved")
    lines = (tmp_path / "saved").read_text().splitlines()
    assert {"udp", "udp_timeout 7", "udp_replies 2", "udp_unanswered 9"} <= set(lines)


@pytest.mark.parametrize(("arguments", "says"), [
    (["-U", "53", "/a/path"], "not a unix socket"), (["-U", "/a/path", "127.0.0.1:53"], "not a unix socket"),
    (["-U", "-H", "53", "127.0.0.1"], "it is for TCP"), (["-U", "192.0.2.1:53", "127.0.0.1"], "can't listen on"),
    (["-U", "-O", "udp_timeout 0", "0", "127.0.0.1:53"], "udp_timeout")])
def test_what_is_refused(arguments: list[str], says: str) -> None:
    done = run_gpen("-f", *arguments)
    assert done.returncode != 0
    assert says in done.stderr and done.stderr.count("\n") == 1


def test_a_port_that_is_taken(servers: Serve) -> None:
    server = servers(echo)
    done = run_gpen("-f", "-U", server.address, "127.0.0.1:53")
    assert f"can't listen on {server.address}" in done.stderr and "another program listens there" in done.stderr


# --- logs ------------------------------------------------------------------------------------------------------------


def test_the_log(gpen: Start, three: list[DatagramServer]) -> None:
    """A line for each flow at its end, not for each datagram."""
    balancer = gpen("-U", "-l", "gpen.log", "-O", "udp_timeout 0.1", servers=three)
    with client(balancer, "127.0.3.1") as sock:
        for _ in range(3):
            sock.send(b"who?")
            assert sock.recv(10) == b"a"
        port = sock.getsockname()[1]
        balancer.wait_idle()
    pattern = rf"127\.0\.3\.1:{port} \S+ server 0 {three[0].address} choose 0\.\d+ connect 0\.\d+ total \d+\.\d+ " \
              "up 12 down 3 silent\n"
    assert re.fullmatch(pattern, balancer.log)


def test_the_log_in_json(gpen: Start, three: list[DatagramServer]) -> None:
    balancer = gpen("-U", "-l", "gpen.log", "-O", "udp_replies 1", "-O", "log_format json", servers=three)
    assert ask(balancer) == b"a"
    wait_until(lambda: balancer.log)
    row = json.loads(balancer.log)
    assert (row["server"], row["up"], row["down"], row["ending"], row["tls"]) == (0, 4, 1, "replied", None)


def test_pens_log(gpen: Start, three: list[DatagramServer]) -> None:
    """A line for each datagram of the client."""
    balancer = gpen("-U", "-l", "gpen.log", "-O", "log_format pen", servers=three)
    with client(balancer) as sock:
        for word in (b"first\nline", b"second"):
            sock.send(word)
            assert sock.recv(10) == b"a"
    assert [line.split()[-1] for line in balancer.log.splitlines()] == ["first", "second"]


def test_the_network_log(gpen: Start, three: list[DatagramServer], servers: Serve) -> None:
    collector = servers(silence)
    balancer = gpen("-U", "-l", collector.address, servers=three)
    assert ask(balancer, b"GET /a\r\nx") == b"a"
    wait_until(lambda: collector.received == [b"+ 127.0.0.1 127.0.0.1 GET /a\n"])


def test_dumps(gpen: Start, three: list[DatagramServer]) -> None:
    balancer = gpen("-U", "-d", "-d", "-a", servers=three)
    assert ask(balancer, b"who\0?") == b"a"
    wait_until(lambda: "5 bytes from the client: who.?" in balancer.stderr)
    wait_until(lambda: "1 bytes from the server: a" in balancer.stderr)


def test_odd_bytes_and_ports_harm_nobody(gpen: Start, three: list[DatagramServer]) -> None:
    """A client at port 0 can't be; one that is gone, whose port refuses the answer, costs nothing."""
    balancer = gpen("-U", "-l", "gpen.log", "-O", "udp_replies 1", servers=three)
    for number in range(50):
        tell(balancer, bytes([number]) * number)
    assert endings(balancer, 50) == ["replied"] * 50
    assert [row["failures"] for row in balancer.json("servers")] == [0] * 3
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.sendto(b"who?", balancer.address)
        assert sock.recv(10) == b"a"
