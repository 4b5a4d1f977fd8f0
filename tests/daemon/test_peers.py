"""Two gpens that tell each other which client is at which server, and whom they talk with."""

from __future__ import annotations

import os
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from gpen.proto.peers import (
    ASK,
    FINISHED,
    HEARTBEAT,
    IPV4,
    PARTIAL,
    Control,
    Definition,
    Encoder,
    Hello,
    control,
    definition,
    hello,
    parse_hello,
    status_line,
)
from tests.certificates import Certificates
from tests.daemon.crew import workers
from tests.door import value
from tests.harness import LOCAL, Gpen, Server, family_of, free_port, naming, run_gpen, wait_until
from tests.peers import Circle, Stub, peer, remembered, stub, visitor, wait_connected, wait_remembered
from tests.replacing import replacing

Start = Callable[..., Gpen]


@pytest.fixture
def circle() -> Circle:
    return Circle("a", "b", "c")


@pytest.fixture
def both(servers: Callable[..., Server]) -> list[Server]:
    """Two servers, which say their names."""
    return [servers(naming("x")), servers(naming("y"))]


def test_a_client_goes_where_it_was_at_the_other_balancer(gpen: Start, circle: Circle, both: list[Server]) -> None:
    """Both ways; though the other has the servers in another order, and the address of one written as one of IPv6."""
    family_of("::1")
    a = gpen(*circle.options("a"), servers=both)
    b = gpen(*circle.options("b"), servers=[f"[::ffff:127.0.0.1]:{both[1].port}", both[0]])
    wait_connected(a, "b")
    wait_connected(b, "a")
    at_a = {number: a.ask(source=f"127.1.0.{number}") for number in range(1, 5)}
    at_b = {number: b.ask(source=f"127.1.0.{number}") for number in range(5, 9)}
    assert set(at_a.values()) == set(at_b.values()) == {b"x", b"y"}
    wait_until(lambda: len(remembered(b)) == len(remembered(a)) == 8, what="all at both")
    assert {number: b.ask(source=f"127.1.0.{number}") for number in at_a} == at_a
    assert {number: a.ask(source=f"127.1.0.{number}") for number in at_b} == at_b


def test_what_is_learnt_is_not_told_on(gpen: Start, circle: Circle, both: list[Server]) -> None:
    a, b, c = (gpen(*circle.options(name), servers=both) for name in "abc")
    wait_connected(a, "b", "c")
    wait_connected(b, "c")
    b.ctl("client 127.1.0.2 server 0")
    c.ctl("client 127.1.0.3 server 0")
    for other in (a, b, c):
        wait_remembered(other, _2=0, _3=0)  # what is told first is over
    before = [peer(a, name)["received"] for name in "bc"], peer(b, "c")["sent"], peer(c, "b")["sent"]
    a.ask(source="127.1.0.1")
    for other in (b, c):
        wait_remembered(other, _1=0)
    a.ctl("client 127.1.0.4 server 1")
    for other in (b, c):
        wait_remembered(other, _4=1)
    assert ([peer(a, name)["received"] for name in "bc"], peer(b, "c")["sent"], peer(c, "b")["sent"]) == before


def test_each_listener_has_a_table_of_its_name(gpen: Start, circle: Circle, both: list[Server]) -> None:
    other = ("-O", "listener web listen 127.0.0.1:0")
    a = gpen(*circle.options("a"), *other, servers=both)
    b = gpen(*circle.options("b"), *other, "-O", "listener late listen 127.0.0.1:0", servers=both)
    wait_connected(a, "b")
    a.ctl("client 127.1.0.1 server 1", "listener web client 127.1.0.2 server 0")
    wait_until(lambda: remembered(b) == {"127.1.0.1": 1, "web 127.1.0.2": 0}, what="both at the other")
    a.ctl("listener late listen 127.0.0.1:0", "listener late client 127.1.0.3 server 1", "listener web tracking_with -")
    wait_until(lambda: remembered(b).get("late 127.1.0.3") == 1, what="what a new listener has")


def test_ipv6_clients(gpen: Start, circle: Circle, both: list[Server]) -> None:
    a, b = (gpen(*circle.options(name), servers=both) for name in "ab")
    a.ctl("client 2001:db8::7 server 1", "client ::1 server 0", "client 192.0.2.1 server 1", "client unix server 0")
    expected = {"2001:db8::7": 1, "::1": 0, "192.0.2.1": 1}
    wait_until(lambda: remembered(b) == expected, what="all that have an address")


def test_servers_that_the_other_does_not_have(gpen: Start, circle: Circle, both: list[Server]) -> None:
    """Such clients are not remembered; when the server comes, they are told again, and only then."""
    a, b = gpen(*circle.options("a"), servers=both), gpen(*circle.options("b"), servers=both[:1])
    a.ctl("client 127.1.0.1 server 1", "client 127.1.0.2 server 0")
    wait_remembered(b, _2=0)
    assert (remembered(b), peer(b, "a")["unknown"]) == ({"127.1.0.2": 0}, 1)
    b.ctl(f"server 7 address {both[1].address}")
    wait_remembered(b, _1=7, _2=0)
    received = peer(b, "a")["received"]
    b.ctl("timeout 7", "server 7 max 5", f"server 8 address {both[0].address}")
    a.ctl("client 127.1.0.3 server 1")
    wait_remembered(b, _1=7, _2=0, _3=7)
    assert peer(b, "a")["received"] == received + 1


def test_one_that_starts_anew_is_told_all(gpen: Start, circle: Circle, both: list[Server]) -> None:
    """Of what it has told itself as well; and an old word does not count where a newer is."""
    a = gpen(*circle.options("a"), servers=both)
    b = Gpen(a.directory, *circle.options("b"), LOCAL, *(server.address for server in both), name="b")
    try:
        a.ctl("client 127.1.0.1 server 1")
        b.ctl("client 127.1.0.2 server 1", "client 127.1.0.3 server 0 idle 100")
        wait_remembered(a, _1=1, _2=1, _3=0)
    finally:
        b.signal(signal.SIGKILL)
        b.process.wait()
    wait_until(lambda: peer(a, "b")["state"] == "unreachable", what="a to notice")
    a.ctl("client 127.1.0.3 server 1 idle 50", "client 127.1.0.4 server 1")
    with Gpen(a.directory, *circle.options("b", "client 127.1.0.4 server 0 idle 9"), LOCAL, *(
            server.address for server in both), name="again") as again:
        wait_remembered(again, _1=1, _2=1, _3=1, _4=1)
        wait_until(lambda: peer(a, "b")["pending"] == 0, what="the other to acknowledge all")


def test_three_of_which_one_comes_late(gpen: Start, circle: Circle, both: list[Server]) -> None:
    a, b = (gpen(*circle.options(name), servers=both) for name in "ab")
    a.ctl("client 127.1.0.1 server 1")
    b.ctl("client 127.1.0.2 server 0")
    wait_remembered(a, _1=1, _2=0)
    c = gpen(*circle.options("c"), servers=both)
    wait_remembered(c, _1=1, _2=0)


@pytest.mark.parametrize("tracking", [0, 30])
def test_times_go_with_it(gpen: Start, circle: Circle, both: list[Server], tracking: int) -> None:
    """For how long a client has been away: so it is forgotten when it would be here."""
    a, b = (gpen(*circle.options(name, f"tracking {tracking}"), servers=both) for name in "ab")
    a.ctl("client 127.1.0.1 server 1 idle 20", "client 127.1.0.2 server 1 idle 40", "client 127.1.0.3 server 1")
    wait_remembered(b, _1=1, _3=1)
    idle = float(next(line for line in b.ctl("state").splitlines() if " 127.1.0.1 " in line).split()[-1])
    assert 20 <= idle < 25 and ("127.1.0.2" in remembered(b)) == (tracking == 0)


def test_workers(gpen: Start, circle: Circle, both: list[Server]) -> None:
    a = gpen(*circle.options("a"), *workers(2), servers=both)
    b = gpen(*circle.options("b"), *workers(2), servers=both)
    wait_connected(a, "b")
    answers = {number: a.ask(source=f"127.1.0.{number}") for number in range(1, 7)}
    wait_until(lambda: len(remembered(b)) == 6, what="all at the other")
    assert {number: b.ask(source=f"127.1.0.{number}") for number in answers} == answers


# --- TLS and strangers ------------------------------------------------------------------------------------------------


@pytest.fixture
def mutual(certificates: Certificates, gpen: Start) -> Callable[[str], list[str]]:
    def lines(who: str) -> list[str]:
        pair = {"ours": certificates.server, "client's": certificates.client, "stranger's": certificates.stranger}[who]
        file = pair.in_one(certificates.directory / f"{who}.pem")
        return [f"peers_certificate {file}", f"peers_ca {certificates.authority.certificate}"]

    return lines


def test_tls(gpen: Start, circle: Circle, both: list[Server], mutual: Callable[[str], list[str]]) -> None:
    a = gpen(*circle.options("a", *mutual("ours")), servers=both)
    b = gpen(*circle.options("b", *mutual("client's")), servers=both)
    a.ctl("client 127.1.0.1 server 1")
    b.ctl("client 127.1.0.2 server 1")
    wait_remembered(b, _1=1, _2=1)
    wait_remembered(a, _1=1, _2=1)


def test_certificates_are_read_again(gpen: Start, circle: Circle, both: list[Server], certificates: Certificates,
                                     mutual: Callable[[str], list[str]]) -> None:
    """A broken one leaves the old in force; that of another authority keeps its gpen out."""
    a, b = (gpen(*circle.options(name, *mutual("ours")), servers=both) for name in "ab")
    file = certificates.directory / "ours.pem"
    shutil.copy(file, file.with_suffix(".whole"))
    try:
        wait_connected(a, "b")
        file.write_text("")
        assert "peers_certificate: " in a.ctl("reload") and peer(a, "b")["state"] == "connected"
        certificates.stranger.in_one(file)
        assert "error" not in a.ctl("reload")
        b.signal(signal.SIGSTOP)
        wait_until(lambda: peer(a, "b")["state"] == "unreachable", what="a to give it up")
        b.signal(signal.SIGCONT)
        wait_until(lambda: "certificate" in peer(a, "b")["error"] or "unknown ca" in peer(a, "b")["error"], 30,
                   "it to be refused")
    finally:
        os.replace(file.with_suffix(".whole"), file)


@pytest.mark.parametrize("is_plain", [False, True])
def test_strangers_with_tls(gpen: Start, circle: Circle, both: list[Server], mutual: Callable[[str], list[str]],
                            is_plain: bool) -> None:
    """One whose certificate is of another authority, and one that has none."""
    a = gpen(*circle.options("a", *mutual("ours")), servers=both)
    b = gpen(*circle.options("b", *([] if is_plain else mutual("stranger's"))), servers=both)
    a.ctl("client 127.1.0.1 server 1")
    wait_until(lambda: peer(a, "b")["error"] and peer(b, "a")["error"], what="both to see that they can't")
    why = "it speaks no TLS: give it peers_certificate and peers_ca, too\n" if is_plain else ""
    assert remembered(b) == {} and f"peers: 127.0.0.2: refused: {why}" in a.stderr and "_ssl.c" not in a.stderr


@pytest.mark.parametrize(("words", "source", "status", "told"), [
    (Hello("a", "b"), "127.0.0.9", b"504", "it is the address of no peer"),
    (Hello("a", "b"), "127.0.0.3", b"504", "peer b is at 127.0.0.2, and does not connect from there"),
    (Hello("a", "x"), "127.0.0.2", b"504", "there is no peer 'x' here"),
    (Hello("z", "b"), "127.0.0.2", b"503", "it looks for the peer 'z', and this is a"),
])
def test_who_may_not_connect(gpen: Start, circle: Circle, both: list[Server], words: Hello, source: str, status: bytes,
                             told: str) -> None:
    a = gpen(*circle.options("a"), servers=both)
    with Stub(visitor(circle, "a", source)) as mate:
        mate.say(hello(words))
        assert mate.read_end() == status + b"\n"
    assert f"peers: {source}: refused: {told}\n" in a.stderr


# --- one that we are ourselves ----------------------------------------------------------------------------------------


def test_what_is_said_to_a_peer(gpen: Start, circle: Circle, both: list[Server]) -> None:
    """Clients with their servers' addresses and times, each once; at the end that this is all; and a sign of life."""
    a = gpen(*circle.options("a", "tracking 100"), servers=both)
    a.ctl("client 127.1.0.1 server 0 idle 10", "client 127.1.0.2 server 1")
    with stub(circle, "b", "a") as mate:
        mate.say(control(ASK))
        key, server, left, _ = mate.wait_entries(2)[0]
        assert (key, server) == (bytes((127, 1, 0, 1)), both[0].address)
        assert left is not None and 80_000 < left <= 90_000
        wait = [FINISHED, PARTIAL]
        while not any(isinstance(message, Control) and message.kind in wait for message in mate.messages):
            mate.listen()
        while Control(HEARTBEAT) not in mate.messages:
            mate.listen()
            mate.say(control(HEARTBEAT))


def test_a_client_that_has_no_server_yet(gpen: Start, circle: Circle, both: list[Server]) -> None:
    """haproxy tells of those whose connections it counts: nothing to remember, and no server that is unknown."""
    a = gpen(*circle.options("a"), servers=both)
    with stub(circle, "b", "a") as mate:
        entry = bytes((10, 133, 13)) + bytes(8) + bytes((127, 1, 0, 9, 0))
        mate.say(definition(Definition(1, "gpen", IPV4, 4)), entry)
        wait_until(lambda: peer(a, "b")["received"] == 1)
        assert (remembered(a), peer(a, "b")["unknown"]) == ({}, 0)


def test_what_is_not_acknowledged_is_told_again(gpen: Start, circle: Circle, both: list[Server]) -> None:
    a = gpen(*circle.options("a"), servers=both)
    for _ in range(2):
        with stub(circle, "b", "a") as mate:
            a.ctl("client 127.1.0.1 server 0")
            assert mate.wait_entries(1)[0][:2] == (bytes((127, 1, 0, 1)), both[0].address)
    assert peer(a, "b")["pending"] > 0


def test_the_last_to_connect_is_the_peer(gpen: Start, circle: Circle, both: list[Server]) -> None:
    a = gpen(*circle.options("a"), servers=both)
    with stub(circle, "b", "a") as first, stub(circle, "b", "a") as second:
        first.read_end()
        a.ctl("client 127.1.0.1 server 0")
        assert second.wait_entries(1)


@pytest.mark.parametrize(("own", "other"), ["ab", "ba"])
def test_both_connect_at_one_time(gpen: Start, circle: Circle, both: list[Server], own: str, other: str) -> None:
    """Of two connections both keep the one that was made by whose name is the first."""
    with socket.create_server(circle.pair(other)) as listening:
        balancer = gpen(*circle.options(own), servers=both)
        sock, _ = listening.accept()
        with Stub(sock) as called, stub(circle, other, own) as calling:
            wait_connected(balancer, other)
            while parse_hello(called.sock.recv(999, socket.MSG_PEEK)) is None:
                pass
            assert called.sock.recv(999).startswith(b"HAProxyS 2.1\n")
            called.say(status_line(200))
            kept, ended = (called, calling) if own < other else (calling, called)
            ended.read_end()
            balancer.ctl("client 127.1.0.1 server 0")
            assert kept.wait_entries(1) and peer(balancer, other)["state"] == "connected"


HOSTILE = {
    "a huge length": b"\x0a\x85" + b"\xff" * 9 + b"\x7f",
    "a long message": b"\x0a\x85\xf0\xff\xff\x7f",
    "an entry that is cut off": definition(Definition(1, "gpen", IPV4, 4)) + b"\x0a\x80\x02ab",
    "a number of a server that there is not": definition(Definition(1, "gpen", IPV4, 4)) + b"\x0a\x85\x0e" + bytes(
        12) + b"\x01\x85",
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_peers(gpen: Start, circle: Circle, both: list[Server], what: str) -> None:
    """They are told so, and gpen goes on."""
    a = gpen(*circle.options("a"), servers=both)
    with stub(circle, "b", "a") as mate:
        mate.say(HOSTILE[what])
        assert mate.read_end().endswith((b"\x01\x00", b"\x01\x01"))
    wait_until(lambda: "b: the connection has ended: a" in a.stderr or "the key of a server has" in a.stderr)
    with stub(circle, "b", "a") as mate:
        mate.say(definition(Definition(1, "gpen", IPV4, 4)), Encoder().update(
            IPV4, 1, 10, bytes((127, 1, 0, 1)), both[1].address))
        wait_remembered(a, _1=1)


def test_crowds(gpen: Start, circle: Circle, both: list[Server]) -> None:
    """Of those that say nothing, or letter by letter, and of thousands of tables: peers come in all the same, and in
    the end nothing is left of it."""
    a = gpen(*circle.options("a"), servers=both)
    before, memory = a.fds(), a.rss
    with ExitStack() as stack:
        silent = [stack.enter_context(visitor(circle, "a", "127.0.0.9")) for _ in range(100)]
        slow = [stack.enter_context(visitor(circle, "a", "127.0.0.3")) for _ in range(40)]
        for sock in slow:
            sock.sendall(b"H")
        assert all(sock.recv(9) == b"504\n" for sock in silent)
        wait_until(lambda: a.fds() <= before, 15, "all of them sent away")
    with stub(circle, "b", "a") as mate:
        for number in range(0, 60_000, 1000):
            mate.say(*(definition(Definition(each, f"t{each}", IPV4, 4)) for each in range(number, number + 1000)))
        mate.say(definition(Definition(1, "gpen", IPV4, 4)), Encoder().update(
            IPV4, 1, 10, bytes((127, 1, 0, 1)), both[1].address))
        wait_remembered(a, _1=1)
    wait_until(lambda: a.fds() <= before, what="all descriptors to be closed")
    assert a.rss - memory < 20 << 20


# --- configuration ----------------------------------------------------------------------------------------------------


@pytest.fixture
def alone(gpen: Start, both: list[Server]) -> Iterator[Gpen]:
    """A gpen without peers."""
    return gpen("-F", "gpen.cfg", servers=both)


def test_at_runtime(gpen: Start, circle: Circle, both: list[Server]) -> None:
    a, b = gpen(servers=both), gpen(*circle.options("b"), servers=both)
    a.ctl("client 127.1.0.1 server 1")
    with a.connect("127.1.0.2") as client:
        name = client.recv(9)
        assert a.json("peers") == [] and a.ctl(f"peers a {circle.addresses['a']}") == ""
        assert a.ctl(f"peer b {circle.addresses['b']}") == ""
        wait_remembered(b, _1=1)
        assert a.json("peers")[0]["state"] == "here"
    a.wait_idle()
    wait_until(lambda: [row["sessions"] for row in a.json("recent")] == [0, 0], what="the end of its session")
    assert a.ask(source="127.1.0.2") == name
    assert a.ctl("no peer b") == "" and len(a.json("peers")) == 1
    a.ctl("client 127.1.0.3 server 1", f"peer b {circle.addresses['b']}")
    wait_remembered(b, _3=1)
    assert a.ctl("no peers") == "" and a.json("peers") == []
    wait_until(lambda: peer(b, "a")["state"] == "unreachable", what="the other to notice")
    assert a.ask(source="127.1.0.2") == name, "the memory is the same"


@pytest.mark.parametrize("line", [
    "peers", "peers a", "peers a /run/x", "peers / 1024", "peers a 1.2.3.4", "peers a b c", "peer b", "peer b 1024",
    "peer b /run/x", "peer b 10.0.0.2", "peers_ca /etc/passwd"])
def test_what_is_wrong(line: str) -> None:
    done = run_gpen("--check", "-O", line, LOCAL, "127.0.0.1:1")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1) and line.split()[0] in done.stderr


def test_a_change_that_fails_changes_nothing(gpen: Start, circle: Circle, both: list[Server]) -> None:
    a, b = (gpen(*circle.options(name), servers=both) for name in "ab")
    wait_connected(a, "b")
    for line, told in ((f"peers a {circle.addresses['b']}", "can't listen"), ("no peer x", "there is no peer 'x'"),
                       ("peers_certificate /nowhere", "peers_ca"), ("listener gpen listen 127.0.0.1:0", "peers: ")):
        answer = a.ctl(line)
        assert answer.startswith("error: ") and told in answer and answer.count("\n") == 1
    assert a.json("peers")[0]["address"] == circle.addresses["a"]
    b.ctl("client 127.1.0.1 server 1")
    wait_remembered(a, _1=1)


def test_it_is_written_and_read_again(gpen: Start, circle: Circle, both: list[Server]) -> None:
    a = gpen(*circle.options("a"), servers=both)
    a.ctl(f"write {a.directory}/a.cfg")
    text = (a.directory / "a.cfg").read_text()
    assert f"peers a {circle.addresses['a']}\n" in text and f"peer c {circle.addresses['c']}\n" in text
    a.stop()
    with Gpen(a.directory, "-F", "a.cfg", name="again") as again:
        assert [row["name"] for row in again.json("peers")] == ["a", "b", "c"]
        file = a.directory / "a.cfg"
        file.write_text(text.replace(f"peer c {circle.addresses['c']}\n", ""))
        assert "peer" in again.ctl("reload") and [row["name"] for row in again.json("peers")] == ["a", "b"]


def test_replaced(gpen: Start, circle: Circle, both: list[Server]) -> None:
    """A new gpen has the place among the peers too, and all that the old one knew."""
    a, b = (gpen(*circle.options(name), servers=both) for name in "ab")
    b.ctl("client 127.1.0.1 server 1")
    wait_remembered(a, _1=1)
    a.ctl("client 127.1.0.2 server 1")
    with replacing(a) as new:
        a.process.wait(10)
        assert remembered(new) == {"127.1.0.1": 1, "127.1.0.2": 1}
        new.ctl("client 127.1.0.3 server 1")
        b.ctl("client 127.1.0.4 server 1")
        wait_remembered(b, _2=1, _3=1)
        wait_remembered(new, _4=1)


def test_what_is_seen(gpen: Start, circle: Circle, both: list[Server]) -> None:
    a = gpen(*circle.options("a", f"metrics 127.0.0.1:{free_port()}"), servers=both)
    b = gpen(*circle.options("b"), servers=both)
    a.ctl("client 127.1.0.1 server 1")
    wait_remembered(b, _1=1)
    wait_until(lambda: value(a, "gpen_peer_connected", peer="b") == 1 and peer(a, "b")["pending"] == 0)
    assert value(a, "gpen_peer_sent_entries_total", peer="b") == 1
    assert (value(a, "gpen_peer_connected", peer="c"), peer(a, "c")["error"]) == (0, "connection refused")
    own, of_b, of_c = a.ctl("peers").splitlines()
    assert own == f"a addr {circle.addresses['a']} state here"
    assert of_b.startswith(f"b addr {circle.addresses['b']} state connected since ") and of_b.endswith(" pending 0")
    assert of_c.endswith('error "connection refused"')
