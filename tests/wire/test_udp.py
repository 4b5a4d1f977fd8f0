"""Datagrams both ways: of every size, between every two addresses, in flows of their own that end."""

from __future__ import annotations

import json
import random
import resource
import signal
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.datagrams import (
    LARGEST,
    DatagramServer,
    ask,
    client,
    echo,
    endings,
    is_silent,
    naming,
    refusing,
    silence,
    tell,
)
from tests.harness import Gpen, family_of, free_port, needs_root, seeing, wait_until

Start = Callable[..., Gpen]
Serve = Callable[..., DatagramServer]

SIZES = [0, 1, 1472, 20000, LARGEST]


@pytest.fixture
def servers() -> Iterator[Serve]:
    with ExitStack() as stack:
        yield lambda *arguments, **options: stack.enter_context(DatagramServer(*arguments, **options))


# --- addresses and sizes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "0", "[::1]:0", "[::]:0"])
@pytest.mark.parametrize("at", ["127.0.0.1", "::1"])
def test_every_size(gpen: Start, servers: Serve, listen: str, at: str) -> None:
    balancer = gpen("-U", servers=[servers(echo, at=at)], listen=listen)
    with client(balancer) as sock:
        for size in SIZES:
            data = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
            sock.send(data)
            assert sock.recv(1 << 17) == data
        row, = balancer.json("sessions")
        assert (row["up"], row["down"], row["state"]) == (sum(SIZES), sum(SIZES), "open")


@pytest.mark.parametrize("listen", ["0", "[::]:0"])
def test_the_address_that_was_asked_answers(gpen: Start, servers: Serve, listen: str) -> None:
    """A client with one port asks several addresses of ours: so many flows, and each answers from its own."""
    server = servers(echo)
    balancer = gpen("-U", servers=[server], listen=listen)
    port = int(balancer.address[1])
    asked = ["127.0.0.1", "127.0.0.2", "127.0.0.3"]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(20)
        sock.bind(("127.0.0.1", 0))
        for host in asked * 2:
            sock.sendto(host.encode(), (host, port))
            assert sock.recvfrom(100) == (host.encode(), (host, port))
    assert len(set(server.clients)) == len(balancer.json("sessions")) == 3
    assert {row["client"].rpartition(":")[0] for row in balancer.json("sessions")} == {"127.0.0.1"}


def test_both_families_at_once(gpen: Start, servers: Serve) -> None:
    balancer = gpen("-U", servers=[servers(echo)], listen="[::]:0")
    port = int(balancer.address[1])
    assert ask(("127.0.0.1", port), b"four") == b"four"
    assert ask(("::1", port), b"six") == b"six"
    assert [row["client"].rpartition(":")[0] for row in balancer.json("sessions")] == ["127.0.0.1", "[::1]"]


def test_one_that_is_too_large_for_the_server_is_dropped(gpen: Start, servers: Serve) -> None:
    """IPv6 has room for 20 bytes more: nobody is to blame, and the flow goes on."""
    balancer = gpen("-U", servers=[servers(echo)], listen="[::1]:0")
    with client(balancer) as sock:
        for data in (b"a" * (LARGEST + 10), b"b"):
            sock.send(data)
        assert sock.recv(100) == b"b"
    assert (balancer.server(0)["health"], balancer.server(0)["failures"]) == ("up", 0)


# --- flows -----------------------------------------------------------------------------------------------------------


def test_a_flow_for_each_port(gpen: Start, servers: Serve) -> None:
    server = servers(echo)
    balancer = gpen("-U", servers=[server])
    with client(balancer) as a, client(balancer) as b:
        for number in range(50):
            for sock in (a, b):
                sock.send(b"%d" % number)
        for sock in (a, b):
            assert [sock.recv(10) for _ in range(50)] == [b"%d" % number for number in range(50)]
    assert len(set(server.clients)) == len(balancer.json("sessions")) == 2
    assert balancer.server(0)["sessions"] == 2


def test_replies_are_not_counted_by_default(gpen: Start, servers: Serve) -> None:
    """Three for one, and some later, out of the blue."""
    server = servers(lambda data: [data] * 3)
    balancer = gpen("-U", servers=[server])
    with client(balancer) as sock:
        sock.send(b"x")
        assert [sock.recv(10) for _ in range(3)] == [b"x"] * 3
        server.socket.sendto(b"news", server.clients[0])
        assert sock.recv(10) == b"news"
    assert len(balancer.json("sessions")) == 1


@pytest.mark.parametrize("replies", [1, 3])
def test_a_flow_ends_with_its_last_reply(gpen: Start, servers: Serve, replies: int) -> None:
    server = servers(lambda data: [data] * replies)
    balancer = gpen("-U", "-l", "gpen.log", "-O", f"udp_replies {replies}", servers=[server])
    before = balancer.fds()
    with client(balancer) as sock:
        for number in range(5):
            sock.send(b"%d" % number)
            assert [sock.recv(10) for _ in range(replies)] == [b"%d" % number] * replies
            wait_until(lambda: not balancer.json("sessions"))
    assert endings(balancer, 5) == ["replied"] * 5
    assert balancer.fds() == before


def test_every_datagram_of_a_flow_has_its_reply(gpen: Start, servers: Serve) -> None:
    """A resolver asks for A and AAAA from one port: the first answer does not end the flow."""
    server = servers()
    balancer = gpen("-U", "-O", "udp_replies 1", servers=[server])
    with client(balancer) as sock:
        for kind in (b"A", b"AAAA", b"MX"):
            sock.send(kind)
        wait_until(lambda: len(server.received) == 3)
        for answer in (b"a", b"b", b"c"):
            assert len(balancer.json("sessions")) == 1
            server.socket.sendto(answer, server.clients[0])
            assert sock.recv(10) == answer
        wait_until(lambda: not balancer.json("sessions"))


@contextmanager
def standing_still(balancer: Gpen) -> Iterator[None]:
    """What comes meanwhile is there at once when gpen looks, in this order."""
    balancer.signal(signal.SIGSTOP)
    stat = Path(f"/proc/{balancer.process.pid}/stat")
    wait_until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T")
    yield
    balancer.signal(signal.SIGCONT)


def test_a_flow_whose_client_asks_more_at_once_goes_on(gpen: Start, servers: Serve) -> None:
    server = servers()
    balancer = gpen("-U", "-l", "gpen.log", "-O", "udp_replies 1", servers=[server])
    with client(balancer) as sock:
        sock.send(b"0")
        for number in range(5):
            wait_until(lambda number=number: len(server.clients) == number + 1)
            with standing_still(balancer):
                server.socket.sendto(b"%d" % number, server.clients[-1])
                sock.send(b"%d" % (number + 1))
            assert sock.recv(10) == b"%d" % number
        wait_until(lambda: len(server.clients) == 6)
        assert len(set(server.clients)) == 1
        server.socket.sendto(b"at last", server.clients[-1])
        assert sock.recv(10) == b"at last"
    assert endings(balancer, 1) == ["replied"]


def test_queries_that_come_while_flows_end(gpen: Start, servers: Serve) -> None:
    """With the replies to 20 clients come the next queries of some of them, and those of others. Each is passed on
    once. Who asks first goes on in its flow; the others have one new flow each, for which those that are done make
    room, though all places are taken."""
    server = servers()
    balancer = gpen("-U", "-x", "20", "-l", "gpen.log", "-O", "udp_replies 1", servers=[server])
    with ExitStack() as stack:
        old, new = ([stack.enter_context(client(balancer)) for _ in range(count)] for count in (20, 10))
        first, last = old[:5], old[5:10]
        tell_all(old, b"old")
        wait_until(lambda: len(server.clients) == 20)
        with standing_still(balancer):
            for asker in server.clients:
                server.socket.sendto(b"for old", asker)
            for socks, query in ((first, b"first"), (new, b"new"), (last, b"last")):
                tell_all(socks, query)
        assert {sock.recv(10) for sock in old} == {b"for old"}
        wait_until(lambda: len(server.clients) == 40)
        assert server.received[20:] == [b"first"] * 5 + [b"new"] * 10 + [b"last"] * 5
        assert len(balancer.json("sessions")) == 20
        for asker, data in zip(server.clients[20:], server.received[20:], strict=True):
            server.socket.sendto(b"for " + data, asker)
        for socks, answer in ((first, b"for first"), (new, b"for new"), (last, b"for last")):
            assert {sock.recv(10) for sock in socks} == {answer}
        expected = [*old, *new, *last]
        assert endings(balancer, len(expected)) == ["replied"] * len(expected)
        ports = [int(line.split()[0].rpartition(":")[2]) for line in balancer.log.splitlines()]
        assert sorted(ports) == sorted(sock.getsockname()[1] for sock in expected)


def tell_all(socks: list[socket.socket], data: bytes) -> None:
    for sock in socks:
        sock.send(data)


@pytest.mark.parametrize(("options", "reply", "ending"), [
    ([], echo, "silent"), ([], silence, "silent"), (["udp_replies 1"], silence, "unanswered"),
    (["udp_replies 2"], echo, "silent")])
def test_silence_ends_a_flow(gpen: Start, servers: Serve, options: list[str], reply: Callable[[bytes], list[bytes]],
                             ending: str) -> None:
    settings = [word for line in ["udp_timeout 1.2", *options] for word in ("-O", line)]
    balancer = gpen("-U", "-l", "gpen.log", *settings, servers=[servers(reply)])
    tell(balancer)
    assert endings(balancer, 1) == [ending]
    assert 1.2 <= float(balancer.log.split(" total ")[1].split()[0]) < 5


def test_a_flow_that_speaks_goes_on(gpen: Start, servers: Serve) -> None:
    """Either side's word counts."""
    server = servers(echo)
    balancer = gpen("-U", "-l", "gpen.log", "-O", "udp_timeout 1.2", servers=[server])
    with client(balancer) as a, client(balancer) as b:
        for sock in (a, b):
            sock.send(b"x")
            assert sock.recv(10) == b"x"
        for _ in range(6):
            assert is_silent(a, 0.4)
            a.send(b"x")
            assert a.recv(10) == b"x"
            server.socket.sendto(b"news", server.clients[1])
            assert b.recv(10) == b"news"
        assert not balancer.log
    assert endings(balancer, 2) == ["silent"] * 2


def test_descriptors_come_back(gpen: Start, servers: Serve) -> None:
    balancer = gpen("-U", "-x", "100", "-l", "gpen.log", "-O", "udp_replies 1", servers=[servers(echo)])
    before, address = balancer.fds(), balancer.address
    assert not isinstance(address, str)
    for number in range(300):
        assert ask(address, b"%d" % number, f"127.0.1.{number % 250 + 1}") == b"%d" % number
    balancer.ctl("udp_replies 0", "udp_timeout 0.5")
    for number in range(300):
        assert ask(address, b"%d" % number) == b"%d" % number
        assert number % 50 or balancer.fds() <= before + 101  # and the control socket's
    wait_until(lambda: not balancer.json("sessions"))
    assert balancer.fds() == before
    assert endings(balancer, 300).count("replied") == 300
    balancer.wait_idle()


# --- conn_max --------------------------------------------------------------------------------------------------------


def test_the_longest_idle_gives_way(gpen: Start, servers: Serve) -> None:
    balancer = gpen("-U", "-x", "3", "-l", "gpen.log", servers=[servers(echo)])
    with ExitStack() as stack:
        socks = [stack.enter_context(client(balancer, f"127.0.0.{number}")) for number in range(1, 6)]
        for number in (0, 1, 2, 0, 3, 0, 4):
            socks[number].send(b"%d" % number)
            assert socks[number].recv(10) == b"%d" % number
        hosts = [row["client"].rpartition(":")[0] for row in balancer.json("sessions")]
        assert sorted(hosts) == ["127.0.0.1", "127.0.0.4", "127.0.0.5"]
        assert endings(balancer, 2) == ["evicted"] * 2
        assert [line.split(":")[0] for line in balancer.log.splitlines()] == ["127.0.0.2", "127.0.0.3"]


def test_who_waits_for_an_answer_gives_way_last(gpen: Start, servers: Serve) -> None:
    server = servers(lambda data: [] if data == b"slow" else [data])
    balancer = gpen("-U", "-x", "2", "-l", "gpen.log", servers=[server])
    with client(balancer, "127.0.0.2") as slow, client(balancer, "127.0.0.3") as quick:
        slow.send(b"slow")
        wait_until(lambda: server.received)
        quick.send(b"quick")
        assert quick.recv(10) == b"quick"
        assert ask(balancer, b"new", "127.0.0.4") == b"new"
        assert endings(balancer, 1) == ["evicted"]
        assert balancer.log.startswith("127.0.0.3:")
        server.socket.sendto(b"at last", server.clients[0])
        assert slow.recv(10) == b"at last"


def test_all_wait(gpen: Start, servers: Serve) -> None:
    """Then the one that waits for longest gives way, and every datagram reaches the server."""
    server = servers()
    balancer = gpen("-U", "-x", "2", "-l", "gpen.log", servers=[server])
    for number in range(1, 6):
        tell(balancer, b"%d" % number, f"127.0.0.{number}")
        wait_until(lambda number=number: len(server.received) == number)
    assert endings(balancer, 3) == ["evicted"] * 3
    assert [line.split(":")[0] for line in balancer.log.splitlines()] == ["127.0.0.1", "127.0.0.2", "127.0.0.3"]
    assert balancer.server(0)["sessions"] == 2


def test_nobody_gives_way_in_vain(gpen: Start, servers: Serve) -> None:
    """A client that is denied, or that no server may take, ends no other flow; one that a full server takes does."""
    balancer = gpen("-U", "-x", "1", "-l", "gpen.log", "-O", "acl 1 deny 127.0.0.9", "-O", "client_acl 1",
                    servers=[f"{servers(echo).address}:1"])
    with client(balancer, "127.0.0.2") as sock, client(balancer, "127.0.0.9") as denied:
        sock.send(b"x")
        assert sock.recv(10) == b"x"
        denied.send(b"x")
        assert is_silent(denied)
        balancer.ctl("server 0 state drain")
        tell(balancer, b"x", "127.0.0.3")
        assert endings(balancer, 2) == ["denied", "no-server"]
        sock.send(b"y")
        assert sock.recv(10) == b"y"
        balancer.ctl("server 0 state ready")
        assert ask(balancer, b"z", "127.0.0.3") == b"z"
        assert balancer.json("sessions")[0]["client"].startswith("127.0.0.3:")


def test_many_clients_through_few_flows(gpen: Start, servers: Serve) -> None:
    """Each from its own port, more at a time than a wake-up reads; nobody loses an answer."""
    balancer = gpen("-U", "-x", "50", "-m", "20", servers=[servers(echo)])
    before = balancer.fds()
    for _ in range(60):
        with ExitStack() as stack:
            socks = [stack.enter_context(client(balancer)) for _ in range(45)]
            for number, sock in enumerate(socks):
                sock.send(b"%d" % number)
            for number, sock in enumerate(socks):
                assert sock.recv(10) == b"%d" % number
    assert len(balancer.json("sessions")) <= 50
    assert balancer.fds() <= before + 51


def test_a_lowered_limit_holds(gpen: Start, servers: Serve) -> None:
    """Those that were idle for longest give way without any client's doing, and the last ones stay."""
    balancer = gpen("-U", "-x", "300", "-l", "gpen.log", servers=[servers(echo)])
    with ExitStack() as stack:
        socks = [stack.enter_context(client(balancer)) for _ in range(300)]
        for sock in socks:
            sock.send(b"x")
            assert sock.recv(10) == b"x"
        balancer.ctl("conn_max 3")
        wait_until(lambda: len(balancer.json("sessions")) <= 3)
        ports = [int(row["client"].rpartition(":")[2]) for row in balancer.json("sessions")]
        assert ports == [sock.getsockname()[1] for sock in socks[-3:]]
    assert endings(balancer, 297) == ["evicted"] * 297


@needs_root
@pytest.mark.parametrize(("listen", "source"), [
    ("127.0.0.1:0", "127.0.0.1"), ("0", "127.0.0.1"), ("0", "127.0.0.2"), ("[::]:0", "127.0.0.2")])
def test_a_forged_sender_makes_no_loop(gpen: Start, servers: Serve, listen: str, source: str) -> None:
    """A datagram that seems to come from our own socket: an answer would be taken for a question, and so on."""
    server = servers(echo)
    balancer = gpen("-U", servers=[server], listen=listen)
    port = int(balancer.address[1])
    ends = socket.inet_aton(source) + socket.inet_aton("127.0.0.1")
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        packet = struct.pack("!BBHHHBBH8s", 0x45, 0, 32, 0, 0, 64, socket.IPPROTO_UDP, 0, ends)
        raw.sendto(packet + struct.pack("!HHHH4s", port, port, 12, 0, b"loop"), ("127.0.0.1", 0))
    assert ask(("127.0.0.1", port), b"x") == b"x"
    assert server.received == [b"x"]


def test_a_neighbour_with_our_port_is_served(gpen: Start, servers: Serve) -> None:
    """Another address of this machine is another program's, where we have but one."""
    balancer = gpen("-U", servers=[servers(echo)])
    with client(balancer, "127.0.0.2", int(balancer.address[1])) as sock:
        sock.send(b"x")
        assert sock.recv(10) == b"x"


# --- the listening socket, and shortages -----------------------------------------------------------------------------


def test_the_listening_address_moves(gpen: Start, servers: Serve) -> None:
    """Flows of the old address go on, both ways; nobody else is served there; the socket closes with the last."""
    balancer = gpen("-U", "-l", "gpen.log", servers=[servers(echo)])
    before, old = balancer.fds(), balancer.address
    assert not isinstance(old, str)
    with client(old) as sock:
        sock.send(b"before")
        assert sock.recv(10) == b"before"
        balancer.ctl("listen 127.0.0.2:0")
        sock.send(b"after")
        assert sock.recv(10) == b"after"
        assert ask(balancer, b"new") == b"new"
        with client(old) as late:
            late.send(b"late")
            assert is_silent(late)
        balancer.ctl("udp_timeout 0.5")
        wait_until(lambda: not balancer.json("sessions"))
        assert balancer.fds() == before
        sock.send(b"too late")
        with pytest.raises(ConnectionRefusedError):
            sock.recv(10)


def test_to_all_addresses_and_back(gpen: Start, servers: Serve) -> None:
    """The port stays: whoever asks the old address is served, be it through the old socket or the new."""
    family_of("::")
    balancer = gpen("-U", servers=[servers(echo)])
    port = int(balancer.address[1])
    with client(balancer) as old:
        for listen in (f"0.0.0.0:{port}", f"127.0.0.1:{port}", f"[::]:{port}"):
            old.send(b"old")
            assert old.recv(10) == b"old"
            assert balancer.ctl(f"listen {listen}") == f"{listen}\n"
            for number in range(3):
                old.send(b"%d" % number)
                assert old.recv(10) == b"%d" % number
                assert ask(("127.0.0.1", port), b"new") == b"new"
    assert ask(("::1", port), b"six") == b"six"


@pytest.mark.parametrize("again", ["127.0.0.1:{}", "0.0.0.0:{}", "[::]:{}"])
@pytest.mark.parametrize("first", ["127.0.0.1:0", "0", "[::]:0"])
def test_to_another_address_and_back(gpen: Start, servers: Serve, first: str, again: str) -> None:
    """While flows of the first address go on, in a socket that is about to close."""
    family_of("::")
    balancer = gpen("-U", servers=[servers(echo)], listen=first)
    before, port = balancer.fds(), int(balancer.address[1])
    with client(("127.0.0.1", port)) as old:
        for _ in range(3):
            old.send(b"old")
            assert old.recv(10) == b"old"
            assert balancer.ctl("listen 127.0.0.2:0").startswith("127.0.0.2:")
            with client(("127.0.0.1", port)) as late:
                late.send(b"late")
                assert is_silent(late, 0.05)
            assert balancer.ctl(f"listen {again.format(port)}") == f"{again.format(port)}\n"
            old.send(b"again")
            assert old.recv(10) == b"again"
            assert ask(("127.0.0.1", port), b"new") == b"new"
            assert balancer.ctl("listen no-such-host.invalid:1").startswith("error: ")
    balancer.ctl("udp_timeout 0.1")
    wait_until(lambda: not balancer.json("sessions"))
    assert wait_until(lambda: balancer.fds() == before)
    assert ask(("127.0.0.1", port), b"new") == b"new"


def test_the_socket_of_before_is_taken_up_with_its_flows(gpen: Start, servers: Serve) -> None:
    """They are the same flows, with the same servers."""
    balancer = gpen("-U", "-r", servers=[servers(naming(name)) for name in "abcde"])
    first = balancer.ctl("listen").strip()
    with ExitStack() as stack:
        clients = [stack.enter_context(client(balancer)) for _ in range(5)]

        def answers() -> list[bytes]:
            for sock in clients:
                sock.send(b"who?")
            return [sock.recv(10) for sock in clients]

        names, flows = answers(), [row["id"] for row in balancer.json("sessions")]
        for listen in ("127.0.0.2:0", "127.0.0.3:0", first, f"localhost:{first.rpartition(':')[2]}", first):
            assert not balancer.ctl(f"listen {listen}").startswith("error")
            assert answers() == names
        assert [row["id"] for row in balancer.json("sessions")] == flows


def test_the_listening_address_moves_at_random(gpen: Start, servers: Serve) -> None:
    """Between addresses that overlap, each with flows that live: whatever is set is served, and nothing stays."""
    family_of("::")
    balancer = gpen("-U", servers=[servers(echo)])
    before, port, dice = balancer.fds(), int(balancer.address[1]), random.Random(5)
    hosts = ("127.0.0.1", "0.0.0.0", "[::]", "[::1]", "127.0.0.2")
    with ExitStack() as stack:
        for _ in range(60):
            listen = f"{dice.choice(hosts)}:{dice.choice((port, free_port()))}"
            assert balancer.ctl(f"listen {listen}") == f"{listen}\n"
            sock = stack.enter_context(client(balancer))
            for _ in range(2):
                sock.send(b"x")
                assert sock.recv(10) == b"x"
    balancer.ctl("udp_timeout 0.1")
    wait_until(lambda: balancer.fds() == before)


def test_a_listener_that_is_taken_up_in_vain_closes_with_its_last_flow(gpen: Start, servers: Serve,
                                                                       tmp_path: Path) -> None:
    balancer = gpen("-U", servers=[servers(echo)])
    before, first = balancer.fds(), balancer.ctl("listen").strip()
    more = tmp_path / "more.cfg"
    more.write_text(f"listen {first}\nlog no-such-host.invalid:514\n")
    with client(balancer) as old:
        old.send(b"old")
        assert old.recv(10) == b"old"
        balancer.ctl("listen 127.0.0.2:0")
        assert balancer.ctl(f"include {more}").startswith("error: log: ")
        with client((first.split(":")[0], int(first.split(":")[1]))) as late:
            late.send(b"late")
            assert is_silent(late)
        old.send(b"on")
        assert old.recv(10) == b"on"
        balancer.ctl("udp_timeout 0.1")
        assert wait_until(lambda: balancer.fds() == before)


def test_no_descriptors(gpen: Start, servers: Serve) -> None:
    """Told once; no server is blamed, those who have a flow are served, and all are when there are some again."""
    balancer = gpen("-U", servers=[servers(echo), servers(echo)])
    hard = resource.prlimit(balancer.pid, resource.RLIMIT_NOFILE)[1]
    with client(balancer) as sock, client(balancer) as late:
        sock.send(b"x")
        assert sock.recv(10) == b"x"
        resource.prlimit(balancer.pid, resource.RLIMIT_NOFILE, (balancer.fds(), hard))
        for _ in range(20):
            late.send(b"x")
        assert is_silent(late)
        sock.send(b"y")
        assert sock.recv(10) == b"y"
        resource.prlimit(balancer.pid, resource.RLIMIT_NOFILE, (1000, hard))
        late.send(b"z")
        assert late.recv(10) == b"z"
    assert balancer.stderr.count("datagrams are dropped") == 1
    assert [(row["health"], row["failures"]) for row in balancer.json("servers")] == [("up", 0)] * 2


def test_an_end_leaves_nothing_open(gpen: Start, servers: Serve) -> None:
    balancer = gpen("-U", "-l", "gpen.log", servers=[servers(echo)])
    for _ in range(3):
        assert ask(balancer, b"x") == b"x"
    assert balancer.stop() == 0
    assert endings(balancer, 3) == ["shutdown"] * 3


# --- servers that refuse ---------------------------------------------------------------------------------------------


def test_a_refusal_goes_to_the_next_server(gpen: Start, servers: Serve) -> None:
    with refusing() as address:
        balancer = gpen("-U", "-r", "-l", "gpen.log", servers=[address, servers(naming("b"))])
        for _ in range(4):
            assert ask(balancer) == b"b"
        row = balancer.server(0)
    assert (row["health"], row["reason"], row["failures"], row["sessions"]) == ("down", "connection refused", 1, 0)
    assert "connection refused" in balancer.stderr
    assert [event["cause"] for event in balancer.json("events")][-1] == "connection refused; blacklisted for 30 s"


@pytest.mark.parametrize("replies", [0, 1])
def test_what_had_no_answer_goes_to_the_next_server(gpen: Start, servers: Serve, replies: int) -> None:
    """And what had one does not."""
    a, b = servers(lambda data: [data] if data.startswith(b"answered") else []), servers(echo)
    balancer = gpen("-U", "-r", "-O", f"udp_replies {replies}", servers=[a, b])
    datagrams = [b"", b"x" * LARGEST] if not replies else [b"one", b"two", b""]
    with client(balancer) as sock:
        sock.send(b"answered")
        assert sock.recv(100) == b"answered"
        if replies:  # the flow is over: the next begins at a again
            assert ask(balancer, b"other") == b"other"
        for data in datagrams:
            sock.send(data)
        wait_until(lambda: a.received == [b"answered", *datagrams])
        a.close()
        sock.send(b"last")
        assert [sock.recv(1 << 17) for _ in range(len(datagrams) + 1)] == [*datagrams, b"last"]
    assert [data for data in b.received if data != b"other"] == [*datagrams, b"last"]
    assert balancer.server(0)["reason"] == "connection refused"


def test_a_flow_survives_one_server_after_another(gpen: Start, servers: Serve) -> None:
    those = [servers(naming(name)) for name in "abc"]
    balancer = gpen("-U", "-l", "gpen.log", servers=those)
    with client(balancer) as sock:
        for server, name in zip(those, (b"a", b"b", b"c"), strict=True):
            sock.send(b"who?")
            assert sock.recv(10) == name
            server.close()
        sock.send(b"who?")
        assert endings(balancer, 1) == ["connect-failed"]
        sock.send(b"who?")
        assert endings(balancer, 2)[1] == "no-server"
    assert [row["sx"] for row in balancer.json("servers")][:2] == [8, 8]  # with what was refused
    assert [row["rx"] for row in balancer.json("servers")] == [1, 1, 1]


def test_the_log_of_a_flow_that_changed_its_server(gpen: Start, servers: Serve) -> None:
    """All that was sent both ways; and the time with the old server was not spent to choose, or to connect."""
    a, b = servers(naming("a")), servers(naming("b"))
    balancer = gpen("-U", "-l", "gpen.log", "-O", "log_format json", servers=[a, b])
    with client(balancer) as sock:
        sock.send(b"who?")
        assert sock.recv(10) == b"a"
        assert is_silent(sock, 0.5)
        a.close()
        sock.send(b"who?")
        assert sock.recv(10) == b"b"
        wait_until(lambda: [(row["sx"], row["rx"]) for row in balancer.json("servers")] == [(8, 1), (4, 1)])
        number = balancer.json("sessions")[0]["id"]
        balancer.ctl(f"close {number}")
    wait_until(lambda: balancer.log)
    row = json.loads(balancer.log)
    assert (row["server"], row["up"], row["down"]) == (1, 12, 2)
    assert row["choose"] + row["connect"] <= row["total"] - 0.5
    assert [(row["sx"], row["rx"]) for row in balancer.json("servers")] == [(8, 1), (4, 1)]


def test_a_server_that_refuses_many_is_told_of_once(gpen: Start, servers: Serve) -> None:
    a, b = servers(naming("a")), servers(naming("b"))
    balancer = gpen("-U", servers=[a, b])
    with ExitStack() as stack:
        socks = [stack.enter_context(client(balancer)) for _ in range(20)]
        for sock in socks:
            sock.send(b"who?")
            assert sock.recv(10) == b"a"
        a.close()
        for sock in socks:
            sock.send(b"who?")
            assert sock.recv(10) == b"b"
    assert balancer.stderr.count("connection refused") == 1


def test_replies_before_a_refusal_arrive(gpen: Start, servers: Serve) -> None:
    server = servers(echo)
    balancer = gpen("-U", servers=[server])
    with client(balancer) as sock:
        for number in range(1, 20):
            sock.send(b"%d" % number)
        assert [sock.recv(10) for _ in range(19)] == [b"%d" % number for number in range(1, 20)]
        server.close()
        sock.send(b"x")
        assert is_silent(sock)


@needs_root
def test_the_next_address_of_a_name(gpen: Start, servers: Serve, tmp_path: Path) -> None:
    """Two addresses, and the first refuses: no fault of the server, and the second is preferred from then on."""
    (tmp_path / "hosts").write_text("127.0.0.1 both\n::1 both\n")
    server = servers(naming("six"), at="::1")
    balancer = gpen("-U", "-r", servers=[f"both:{server.port}"], wrapper=seeing({"/etc/hosts": tmp_path / "hosts"}))
    with client(balancer) as sock:
        sock.send(b"who?")
        assert sock.recv(10) == b"six"
    assert (balancer.server(0)["health"], balancer.server(0)["failures"]) == ("up", 0)
    assert balancer.server(0)["address"] == "::1"
    server.close()
    tell(balancer)
    wait_until(lambda: balancer.server(0)["health"] == "down")


@needs_root
def test_no_route(gpen: Start, servers: Serve, tmp_path: Path) -> None:
    """In a network of its own with a loopback interface, a server elsewhere is unreachable."""
    balancer = gpen("-U", "-l", "gpen.log", servers=["192.0.2.1:53"],
                    wrapper=("unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$0" "$@"'))
    address = balancer.address
    code = f"import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', {address!r})"
    subprocess.run(["nsenter", "-t", str(balancer.pid), "-n", "python3", "-c", code], check=True, timeout=20)
    assert endings(balancer, 1) == ["connect-failed"]
    assert balancer.server(0)["reason"] == "network is unreachable"
