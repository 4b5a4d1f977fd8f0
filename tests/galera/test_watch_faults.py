"""Nothing from outside ends the watcher or `serve`, or blinds them for good: nodes, gpens and clients that say what
nobody understands cost themselves alone, and are tried again."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import queue
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gpen import console
from gpen.galera import bounded, gpen_client, watch
from gpen.galera.access import Access
from gpen.galera.node import Node, ask
from gpen.galera.plan import Changes, Order, Plans
from gpen.galera.report import Report
from gpen.galera.requests import Requests
from gpen.galera.status import show
from gpen.gpenctl import lines
from gpen.gpenctl.lines import ask_lines
from gpen.gpenctl.link import LinkError, Target, parse_target
from tests.galera.cluster import WATCHER
from tests.galera.stub import Answer, Error, Group, Stub
from tests.galera.watcher import COMMAND, Watcher, credentials
from tests.harness import Gpen, connect, free_port, read_all, wait_until

pytestmark = pytest.mark.timeout(60)

Start = Callable[..., Any]
ENVIRONMENT = {"GPEN_GALERA_USER": WATCHER[0], "GPEN_GALERA_PASSWORD": WATCHER[1]}
GARBAGE = [
    b"\0\0\0\0", b"\x01\0\0\0\x0a", b"\x01\0\0\0\xff", b"\x02\0\0\0\xff\x15", b"\x05\0\0\0\x0a5.5\0", b"\x01\0\0\0\x63",
    b"\x0b\0\0\0\x0a\xff\xfe\0\x01\0\0\0abc", b"HTTP/1.1 200 OK\r\n\r\n", bytes(range(256)) * 8, b"\xff" * 300,
]


@pytest.fixture
def group() -> Iterator[Group]:
    with Group(3) as group:
        yield group


def verdicts(gpen: Gpen) -> list[Any]:
    return [row["verdict"] for row in gpen.json("servers")]


def status(watcher: Watcher) -> Any:
    return json.loads(watcher.command("status", "--json").stdout)


# --- nodes -----------------------------------------------------------------------------------------------------------


def test_a_node_that_greets_with_nonsense_costs_itself_alone(group: Group, gpen: Start, watcher: Start) -> None:
    front = gpen("-r", servers=group.addresses)
    judge = watcher("--reader", front.control)
    wait_until(lambda: verdicts(front) == ["up"] * 3, what="all nodes being up")
    strange, other, _ = group.nodes
    for greeting in GARBAGE:
        strange.greeting = greeting
        strange.end_sessions()
        wait_until(lambda: verdicts(front)[0] == "down", what=f"the node that says {greeting[:20]!r} being down")
        other.said["read_only"] = "ON"
        wait_until(lambda: verdicts(front)[1] == "down", what="another node being judged meanwhile")
        other.said["read_only"], strange.greeting = "OFF", None
        wait_until(lambda: verdicts(front) == ["up"] * 3, what="both being back")
    assert judge.running and "does not speak MySQL's protocol" in judge.stderr


def test_an_answer_that_is_cut_anywhere(group: Group, gpen: Start, watcher: Start) -> None:
    front = gpen("-r", servers=group.addresses)
    judge = watcher("--reader", front.control)
    wait_until(lambda: verdicts(front) == ["up"] * 3, what="all nodes being up")
    for cut in (1, 4, 5, 30, 200):
        group.nodes[0].cut = cut
        wait_until(lambda: verdicts(front)[0] == "down", what="the node whose answers end early being down")
        group.nodes[0].cut = None
        wait_until(lambda: verdicts(front) == ["up"] * 3, what="its return")
    assert judge.running


@pytest.mark.parametrize("columns", [["a"], ["a", "b", "c"]])
def test_an_answer_of_another_shape_is_the_nodes_fault(
        group: Group, gpen: Start, watcher: Start, monkeypatch: pytest.MonkeyPatch, columns: list[str]) -> None:
    front = gpen("-r", servers=group.addresses)
    watcher("--reader", front.control)
    wait_until(lambda: verdicts(front) == ["up"] * 3, what="all nodes being up")
    monkeypatch.setattr(group.nodes[0], "_state", lambda _: Answer(columns, [columns]))
    wait_until(lambda: verdicts(front) == ["down", "up", "up"], what="the node being left")
    assert "names with a value each" in front.server(0)["verdict_reason"]


def test_an_answer_without_end_is_not_kept(group: Group, gpen: Start, watcher: Start) -> None:
    front = gpen("-r", servers=group.addresses)
    judge = watcher("--reader", front.control)
    wait_until(lambda: verdicts(front) == ["up"] * 3, what="all nodes being up")
    group.nodes[0].said["wsrep_incoming_addresses"] = "x" * 8_000_000
    wait_until(lambda: front.server(0)["verdict_reason"] == "its answer has more than 256 kB", what="its end")
    group.form(*group.nodes)
    wait_until(lambda: verdicts(front) == ["up"] * 3, what="its return")
    group.nodes[1].greeting = b"\xff\xff\xff\0" + bytes(8_000_000)
    group.nodes[1].end_sessions()
    wait_until(lambda: front.server(1)["verdict_reason"] == "its answer has more than 256 kB", what="its end at login")
    assert judge.running


@pytest.mark.parametrize("comment", ["a\0b\x1b[2J\r\nnode x: down -> up", "#\"' \\ \u202e\ufe0f\udcff", "x" * 70_000,
                                     "\x1b" * 5000, "\u00e9" * 300])
def test_a_state_of_any_characters_and_length_takes_the_node_down(
        group: Group, gpen: Start, watcher: Start, comment: str) -> None:
    front = gpen("-r", servers=group.addresses)
    judge = watcher("--reader", front.control)
    wait_until(lambda: verdicts(front) == ["up"] * 3, what="all nodes being up")
    group.nodes[0].said.update({"wsrep_local_state": "1", "wsrep_local_state_comment": comment,
                                "wsrep_node_name": comment})
    wait_until(lambda: verdicts(front) == ["down", "up", "up"], what="the node being left")
    shown = judge.command("status").stdout
    assert shown.replace("\n", "").isprintable() and judge.stderr.replace("\n", "").isprintable()
    assert max(map(len, [*shown.splitlines(), *judge.stderr.splitlines()])) < 2500
    assert status(judge)["gpens"][0]["problem"] == ""


@pytest.mark.parametrize("number", [1047, 1105, 1129])
def test_an_error_of_any_length_takes_the_node_down(group: Group, gpen: Start, watcher: Start, number: int) -> None:
    front = gpen("-r", servers=group.addresses)
    judge = watcher("--reader", front.control)
    wait_until(lambda: verdicts(front) == ["up"] * 3, what="all nodes being up")
    group.nodes[0].error = group.nodes[0].refusal = Error(number, "\x1b[31m no\0\n" * 7000)
    group.nodes[0].end_sessions()
    if number != 1129:
        wait_until(lambda: verdicts(front) == ["down", "up", "up"], what="the node being left")
    else:
        wait_until(lambda: "max_connect_errors" in judge.stderr, what="the block being told")
    assert status(judge)["gpens"][0]["problem"] == ""
    assert max(map(len, judge.stderr.splitlines())) < 2500 and "\x1b" not in judge.stderr


def test_a_watcher_that_stood_still_asks_before_it_tells(group: Group, gpen: Start, watcher: Start) -> None:
    """What it knew is old, and its plan as well."""
    front = gpen("-r", "-O", "health_ttl 60", servers=group.addresses)
    judge = watcher("--reader", front.control)
    wait_until(lambda: verdicts(front) == ["up"] * 3, what="all nodes being up")
    heard: list[Any] = []
    for _ in range(5):
        judge.process.send_signal(signal.SIGSTOP)
        group.nodes[0].said["read_only"] = "ON"
        take_down(front)
        time.sleep(0.8)  # longer than half of --timeout
        take_down(front)  # what the watcher said just before may have come behind the first
        judge.process.send_signal(signal.SIGCONT)
        questions = group.nodes[0].questions
        while group.nodes[0].questions < questions + 3:
            heard.append(verdicts(front)[0])
        wait_until(lambda: front.server(0)["verdict_reason"] == "read_only", what="what is so now being told")
        group.nodes[0].said["read_only"] = "OFF"
        wait_until(lambda: verdicts(front) == ["up"] * 3, what="all nodes being up again")
    assert "up" not in heard


def take_down(front: Gpen) -> None:
    while verdicts(front)[0] != "down":
        front.ctl("server 0 health down because the operator says so")


@contextlib.contextmanager
def watching(front: Gpen, **options: Any) -> Iterator[watch.Watcher]:
    """A watcher in this process, which has told this gpen that all nodes are up."""
    judge = watch.Watcher(watch.Options([parse_target(front.control)], [], **options), Access(*WATCHER))
    thread = threading.Thread(target=judge.run)
    thread.start()
    try:
        wait_until(lambda: verdicts(front) == ["up"] * 3, what="all nodes being up")
        yield judge
    finally:
        judge.stop()
        thread.join(10)


def test_answers_like_those_before_are_thought_about_at_each_interval_only(
        group: Group, gpen: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """With 50 nodes there are 200 answers a second."""
    front = gpen("-r", servers=group.addresses)
    with watching(front, interval=3.0) as judge:
        thoughts, think = [], judge.cluster.judge
        monkeypatch.setattr(judge.cluster, "judge", lambda now: thoughts.append(now) or think(now))
        began = time.monotonic()
        for number in range(20):
            group.nodes[0].said["wsrep_local_recv_queue"] = str(number)
            asked_before = [node.questions for node in group.nodes]
            for node in judge._nodes.values():
                node.poke()
            wait_until(lambda before=asked_before: all(node.questions > count for node, count in
                                                       zip(group.nodes, before, strict=True)), what="a question to all")
        assert len(thoughts) <= 3 + 2 * (time.monotonic() - began)
        group.nodes[0].said["read_only"] = "ON"
        judge._nodes[group.addresses[0]].poke()
        wait_until(lambda: verdicts(front)[0] == "down", 2, "one that is not like that being thought about at once")


def test_what_is_found_while_a_gpen_hangs_is_told_when_it_goes_on(
        group: Group, gpen: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan that has become old meanwhile is made anew at once, and not at the next interval."""
    monkeypatch.setattr(gpen_client, "STALE", 0.2)
    front = gpen("-r", servers=group.addresses)
    with watching(front, interval=20.0) as judge:
        client = judge.gpens[0].balancer
        front.signal(signal.SIGSTOP)
        for node in group.nodes[:2]:
            before = client._wanted.made
            node.said["read_only"] = "ON"
            judge._nodes[node.address].poke()
            wait_until(lambda before=before: client._wanted.made > before, what="a plan")
        wait_until(lambda: time.monotonic() - client._wanted.made > 0.2, what="its getting old")
        front.signal(signal.SIGCONT)
        wait_until(lambda: verdicts(front) == ["down", "down", "up"], 5, "both being told")


def test_a_pass_that_fails_is_told_by_status(group: Group, gpen: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """At its head, as the log tells it."""
    front = gpen("-r", servers=group.addresses)
    with watching(front) as judge:
        assert told_by(judge)["well"] and told_by(judge)["fault"] == ""
        monkeypatch.setattr(judge.cluster, "judge", lambda now: 1 // 0)
        wait_until(lambda: not told_by(judge)["well"], what="it being told")
        fault = told_by(judge)["fault"]
        assert fault.startswith("a pass failed: ZeroDivisionError in test_watch_faults.py")
        assert show(told_by(judge)).startswith(f"the watcher itself fails: {fault}\n\n")
        monkeypatch.undo()
        wait_until(lambda: told_by(judge)["well"], what="its end")


def told_by(judge: watch.Watcher) -> dict[str, Any]:
    """What a watcher in this process says to `status`."""
    answers: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    Requests(judge).take("status", answers.put)
    return answers.get(timeout=10)


@pytest.mark.parametrize("pace", [0.02, 60])
def test_an_answer_that_does_not_end_is_asked_for_again(
        group: Group, monkeypatch: pytest.MonkeyPatch, pace: float) -> None:
    monkeypatch.setattr(bounded, "WHOLE", 0.3)
    one, news = group.nodes[0], queue.SimpleQueue[Any]()
    node = Node(one.address, Access(*WATCHER), 0.05, 1.0, lambda _, told: news.put(told))
    node.start()
    try:
        assert isinstance(news.get(timeout=10), Report)
        one.pace = pace
        while isinstance(told := news.get(timeout=10), Report):
            pass
        assert told.text == "no answer for 1 s" and not told.blind
        one.pace = 0.0
        while not isinstance(news.get(timeout=10), Report):
            pass
    finally:
        node.stop()


def test_an_answer_may_begin_late(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded, "WHOLE", 0.1)
    one = group.nodes[0]
    connection = Access(*WATCHER).connect(one.address, 5.0)
    one.delay = 0.5
    for _ in range(2):
        assert ask(connection)
    assert one.logins == 1


# --- gpens -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def answering(path: Path, answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """A control socket that answers so, whatever is asked."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(64)

    def talk(sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError):
            answer(sock)

    def run() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=talk, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=run, daemon=True).start()
    try:
        yield str(path)
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        path.unlink(missing_ok=True)


def saying(text: bytes) -> Callable[[socket.socket], None]:
    def answer(sock: socket.socket) -> None:
        sock.recv(65536)
        sock.sendall(text)
        sock.shutdown(socket.SHUT_WR)
        sock.recv(65536)

    return answer


ROW = {"number": 0, "address": "127.0.0.1", "host": "h", "port": 1, "prio": 0, "state": "ready", "health": "up",
       "sessions": 0}


NONSENSE = [
    "5", "null", "[{}]", "{}", "[5]", '"x"', "[" * 100_000, "", "nonsense", "[null]", '[{"number": 0}]', "1" * 5000,
    *(json.dumps([ROW | odd]) for odd in (
        {"address": [1]}, {"prio": None}, {"port": {}}, {"number": "0"}, {"state": 7}, {"max": "x"}, {"reason": 5},
        {"rx": [], "health": "down"}, {"verdict": {}}, {"sessions": -1}, {"prio": 10 ** 4000},
        {"address": "x" * 100_000}, {"address": "\x1b[2J"}, {"host": "a\nserver 0 health up"}, {"address": "a b"})),
    json.dumps([ROW | {"number": number, "port": number + 1} for number in range(5000)])]


def test_control_sockets_that_answer_nonsense_cost_themselves_alone(
        group: Group, gpen: Start, watcher: Start, tmp_path: Path) -> None:
    front = gpen("-r", servers=group.addresses)
    with contextlib.ExitStack() as stack:
        odd = [stack.enter_context(answering(tmp_path / f"{number}.ctl", saying(f"5\noff\n{last}\n".encode())))
               for number, last in enumerate(NONSENSE)]
        judge = watcher("--reader", front.control, *odd[::2], "--writer", *odd[1::2])
        wait_until(lambda: verdicts(front) == ["up"] * 3, what="the other gpen being told")
        wait_until(lambda: all(f"gpen {name}: " in judge.stderr for name in odd), what="the odd ones being named")
        group.nodes[0].said["read_only"] = "ON"
        wait_until(lambda: verdicts(front)[0] == "down", what="the other gpen being told still")
        assert judge.running and all(judge.stderr.count(f"gpen {name}: ") == 1 for name in odd)
        assert [bool(row["problem"]) for row in status(judge)["gpens"]] == [False] + [True] * len(odd)


def test_a_gpen_that_takes_the_place_of_nonsense_is_told(
        group: Group, gpen: Start, watcher: Start, tmp_path: Path) -> None:
    control = tmp_path / "same.ctl"
    with answering(control, saying(b"null\n")):
        judge = watcher("--reader", str(control))
        wait_until(lambda: "is it a gpen?" in judge.stderr, what="the nonsense being told")
    front = gpen("-r", servers=group.addresses, control=str(control))
    wait_until(lambda: verdicts(front) == ["up"] * 3, what="the gpen being told")


def test_an_answer_that_trickles_for_ever_is_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def trickle(sock: socket.socket) -> None:
        while True:
            sock.sendall(b"5")
            time.sleep(0.05)

    monkeypatch.setattr(console, "REPLY_TIME", -4.5)
    monkeypatch.setattr(lines, "WHOLE", 0.5)
    with answering(tmp_path / "slow.ctl", trickle) as slow:
        began = time.monotonic()
        with pytest.raises(LinkError, match="has no end"):
            ask_lines(Target(slow, path=slow), ["servers json"])
        with pytest.raises(console.ConsoleError, match=f"{slow}: timed out; does 'gpen-galera watch' run"):
            console.ask(slow, "status", "gpen-galera watch")
        assert time.monotonic() - began < 5


def test_a_server_that_got_the_number_of_another_is_not_meant(gpen: Start) -> None:
    front = gpen("-r", servers=["127.0.0.1:1", "127.0.0.1:2"])
    news: queue.SimpleQueue[Any] = queue.SimpleQueue()
    teller = gpen_client.GpenClient(parse_target(front.control), False,
                                    lambda _, rows, problem: news.put((rows, problem)))
    teller.start()
    try:
        assert [row["port"] for row in news.get(timeout=10)[0]] == [1, 2]
        front.ctl("server 0 address 127.0.0.1 port 2", "server 1 address 127.0.0.1 port 1")
        plan = {"127.0.0.1:1": Order(False, "read_only", close=True), "127.0.0.1:2": Order(True, "Synced")}
        teller.want(Plans(plan), Changes(), 1)
        rows, problem = news.get(timeout=10)
        assert [(row["port"], row["verdict"]) for row in rows] == [(2, "up"), (1, "down")] and problem == ""
        assert [event for event in front.json("events") if "127.0.0.1:2" in str(event) and "read_only" in str(event)
                ] == []
    finally:
        teller.stop()


def answer_of(front: Gpen, asked: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as link:
        link.connect(front.control)
        link.sendall(asked)
        link.shutdown(socket.SHUT_WR)
        return read_all(link)


@pytest.mark.parametrize("goes_on", [True, False])
def test_what_grows_old_while_a_gpen_answers_is_told_if_it_is_still_so(
        gpen: Start, tmp_path: Path, goes_on: bool) -> None:
    """The orders come twice in a round where the look shows that they were not followed."""
    front, orders, answers = gpen("-r", servers=["127.0.0.1:1"]), queue.SimpleQueue[bytes](), threading.Event()

    def pass_on(sock: socket.socket) -> None:
        asked = read_all(sock)
        if b" health " in asked:
            orders.put(asked)
            if not answers.is_set():
                answers.wait(10)
                asked = asked.replace(b"server 0 at 127.0.0.1:1 prio 5\n", b"")
        sock.sendall(answer_of(front, asked))

    news: queue.SimpleQueue[Any] = queue.SimpleQueue()
    with answering(tmp_path / "slow.ctl", pass_on) as slow:
        teller = gpen_client.GpenClient(Target(slow, path=slow), False, lambda *told: news.put(told))
        teller.start()
        try:
            news.get(timeout=10)
            plan = Plans({"127.0.0.1:1": Order(True, "Synced", prio=5)})
            teller.want(plan, Changes(), 1, began := time.monotonic())
            orders.get(timeout=10)
            wait_until(lambda: time.monotonic() > began + gpen_client.STALE, what="its getting old")
            if goes_on:
                teller.want(Plans({"127.0.0.1:1": Order(True, "still", prio=5)}), Changes(), 1)
            answers.set()
            news.get(timeout=10)
            assert (teller.is_late, teller.told, orders.empty()) == (not goes_on, int(goes_on), not goes_on)
        finally:
            teller.stop()


def test_a_slow_gpen_is_told_all(group: Group, gpen: Start, watcher: Start, tmp_path: Path) -> None:
    """Each of its answers takes longer than a plan lasts, and the last of three in a round ends a session that began at
    a number that its server has no more."""
    front = gpen("-r", "-O", "prio", servers=group.addresses)

    def dawdle(sock: socket.socket) -> None:
        answer = answer_of(front, read_all(sock))
        time.sleep(gpen_client.STALE + 0.1)
        sock.sendall(answer)

    def used() -> list[int]:
        return [row["port"] for row in front.json("servers") if row["health"] == "up"]

    with answering(tmp_path / "slow.ctl", dawdle) as slow:
        judge = watcher("--writer", slow)
        wait_until(lambda: used() == [group.nodes[0].port], what="the writer being used")
        with connect(front.address) as old:
            assert old.recv(1)
            front.ctl(f"server 7 address 127.0.0.1 port {group.nodes[0].port}", "no server 0")
            wait_until(lambda: status(judge)["writer"] == group.addresses[0] and used() == [group.nodes[0].port],
                       what="the writer having another number")
            moved = judge.command("move", group.addresses[1])
            assert (moved.returncode, used()) == (0, [group.nodes[1].port]), moved
            read_all(old)  # until its end


# --- clients of the watcher ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("said", [b"5\n", b"null\n", b"[{}]\n", b"", b"[" * 100_000 + b"\n", b"{}\n",
                                  b'{"well": true, "nodes": 5}\n', b'{"error": "no\\u001b[2J"}\n'])
@pytest.mark.parametrize("command", [["status"], ["move", "node1"]])
def test_who_answers_nonsense_is_no_watcher(tmp_path: Path, said: bytes, command: list[str]) -> None:
    with answering(tmp_path / "w", saying(said)) as path:
        done = subprocess.run([*COMMAND, *command, f"--socket={path}"], capture_output=True, text=True, timeout=20,
                              check=False)
    assert done.returncode in (1, 3) and done.stdout == ""
    assert done.stderr.startswith("gpen-galera: ") and done.stderr.count("\n") == 1 and "\x1b" not in done.stderr


def test_clients_of_the_console_cost_themselves_alone(group: Group, gpen: Start, watcher: Start) -> None:
    front = gpen("-r", servers=group.addresses)
    judge = watcher("--reader", front.control)
    wait_until(lambda: verdicts(front) == ["up"] * 3, what="all nodes being up")
    with contextlib.ExitStack() as stack:
        for number in range(200):
            sock = stack.enter_context(socket.socket(socket.AF_UNIX))
            wait_until(lambda sock=sock: sock.connect_ex(str(judge.socket)) == 0, what="a place in the queue")
            with contextlib.suppress(BrokenPipeError):
                sock.sendall([b"", b"\xff\xfe", b"move \x1b\n", b"x" * 9000, b"move \n"][number % 5])
        assert judge.command("status").returncode == 0
    assert judge.command("status").returncode == 0


def test_a_regular_file_is_not_taken_for_a_socket(tmp_path: Path) -> None:
    file = tmp_path / "precious"
    file.write_text("mine")
    done = subprocess.run([*COMMAND, "watch", f"--defaults-file={credentials(tmp_path)}", "--reader=/x",
                           f"--socket={file}"], capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, file.read_text()) == (2, "mine")
    assert done.stderr == (f"gpen-galera: {file}: the file exists and is not a socket; give another --socket\n")


# --- notify and signals ----------------------------------------------------------------------------------------------


def test_a_flood_of_datagrams_blinds_nobody(group: Group, gpen: Start, watcher: Start) -> None:
    port, over = free_port(), threading.Event()
    front = gpen("-r", servers=group.addresses)
    judge = watcher("--reader", front.control, f"--listen=127.0.0.1:{port}")
    wait_until(lambda: verdicts(front) == ["up"] * 3, what="all nodes being up")

    def flood() -> None:
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            while not over.is_set():
                sock.sendto(b"change\n", ("127.0.0.1", port))

    thread = threading.Thread(target=flood)
    thread.start()
    try:
        asked = group.nodes[1].questions
        began = time.monotonic()
        group.nodes[0].said["read_only"] = "ON"
        wait_until(lambda: verdicts(front)[0] == "down", what="a change being told meanwhile")
        wait_until(lambda: group.nodes[1].questions > asked + 5, what="more questions")
        assert group.nodes[1].questions - asked < 10 + 60 * (time.monotonic() - began)
    finally:
        over.set()
        thread.join()
    assert judge.running


def test_an_address_to_listen_on_may_come_later(group: Group, gpen: Start, watcher: Start) -> None:
    front = gpen("-r", servers=group.addresses)
    judge = watcher("--reader", front.control, "--listen=203.0.113.77:4570")
    wait_until(lambda: verdicts(front) == ["up"] * 3, what="all nodes being up")
    assert judge.running


def test_a_name_to_listen_on_may_be_known_later(tmp_path: Path) -> None:
    done = subprocess.run([*COMMAND, "watch", f"--defaults-file={credentials(tmp_path)}", "--reader=/x",
                           f"--socket={tmp_path}/w", "--listen=nowhere.invalid:4570"], capture_output=True, text=True,
                          timeout=20, check=False)
    assert done.returncode == 1 and done.stderr.startswith("gpen-galera: --listen=nowhere.invalid:4570: ")


def test_a_hangup_ends_it_with_goodbye(group: Group, gpen: Start, watcher: Start) -> None:
    front = gpen("-r", servers=group.addresses)
    judge = watcher("--reader", front.control)
    wait_until(lambda: verdicts(front) == ["up"] * 3, what="all nodes being up")
    judge.process.send_signal(signal.SIGHUP)
    assert judge.process.wait(10) == 0
    assert "ended; the gpens keep what they know" in judge.stderr and not judge.socket.exists()


def test_a_password_that_everybody_can_read_is_told(group: Group, gpen: Start, watcher: Start, tmp_path: Path) -> None:
    file = credentials(tmp_path)
    file.chmod(0o644)
    front = gpen("-r", servers=group.addresses)
    judge = watcher("--reader", front.control)
    wait_until(lambda: verdicts(front) == ["up"] * 3, what="all nodes being up")
    told = f"{file}: everybody on this machine can read the password in it: chmod o= {file}"
    assert judge.stderr.count(told) == 1


# --- serve -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def serving(node: Stub, *wrapper: str) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    port = free_port()
    with subprocess.Popen([*wrapper, *COMMAND, "serve", f"--node={node.address}", f"127.0.0.1:{port}"],
                          env={**os.environ, **ENVIRONMENT}) as process:
        try:
            wait_until(lambda: asked(port) == (200, "Synced\n"), what="200")
            yield port, process
            assert process.poll() is None
        finally:
            process.terminate()


def asked(port: int) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/")
        response = connection.getresponse()
        return response.status, response.read().decode()
    except OSError:
        return 0, ""
    finally:
        connection.close()


def test_serve_says_what_became_of_the_node(group: Group) -> None:
    node = group.nodes[0]
    with serving(node) as (port, _):
        for greeting in GARBAGE:
            node.greeting = greeting
            node.end_sessions()
            wait_until(lambda: asked(port)[0] == 503, what=f"503 of a node that says {greeting[:20]!r}")
            node.greeting = None
            wait_until(lambda: asked(port) == (200, "Synced\n"), what="200 again")


def test_slow_clients_of_serve_keep_nobody_out(group: Group) -> None:
    with serving(group.nodes[0], "prlimit", "--nofile=256") as (port, process), contextlib.ExitStack() as stack:
        slow = [stack.enter_context(socket.create_connection(("127.0.0.1", port), 10)) for _ in range(280)]
        for _ in range(3):
            for sock in slow:
                with contextlib.suppress(OSError):
                    sock.sendall(b"G")
            assert asked(port) == (200, "Synced\n")
        assert len(os.listdir(f"/proc/{process.pid}/fd")) < 128
        began = time.monotonic()
        last = slow[-1]
        with contextlib.suppress(OSError):
            while time.monotonic() - began < 20 and last.fileno() >= 0:
                last.settimeout(0.2)
                with contextlib.suppress(TimeoutError):
                    if not last.recv(1):
                        break
                last.sendall(b"G")
        assert time.monotonic() - began < 10, "a head without end was waited for"


def test_what_serve_knows_grows_old(group: Group) -> None:
    """One whose answers always come too late is not usable, though each wait for one is short."""
    node = group.nodes[0]
    with serving(node) as (port, _):
        node.delay = 1.1
        wait_until(lambda: asked(port)[0] == 503, what="503")
        wait_until(lambda: "no news of it for" in asked(port)[1], what="its age being told")
