"""One gpen with a listener for writes beside others, before nodes that are stubs: how a node is counts for all of them,
who is the writer for that listener alone."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pymysql
import pytest

from tests.galera.stub import Group
from tests.galera.test_watch_gpens import FULL, first_answer, in_background, is_cut, node_of, told, used
from tests.galera.watcher import Watcher
from tests.harness import ROOT, Gpen, free_port, pair_of, wait_until

pytestmark = pytest.mark.timeout(60)

Start = Callable[..., Any]
Session = pymysql.connections.Connection
SHARED = ("-r", "-O", "mysql", "-O", "greeting 1", "-O", "hold 10")
TTL = 2  # of verdicts, in seconds
OPTIONS = [(), ("--agree=agreed",)]


@pytest.fixture
def group() -> Iterator[Group]:
    with Group(3) as group:
        yield group


def listening(name: str, *settings: str) -> list[str]:
    """The options that make a listener."""
    lines = [f"listener {name} listen 127.0.0.1:{free_port()}", *(f"listener {name} {line}" for line in settings)]
    return [word for line in lines for word in ("-O", line)]


@pytest.fixture
def start(group: Group, gpen: Start) -> Callable[..., Gpen]:
    """Start a gpen that listens for readers, for writers and for administrators."""
    return lambda *options: gpen(*SHARED, *listening("writer", "prio"), *listening("admin"), *options,
                                 servers=group.addresses)


@pytest.fixture
def front(start: Callable[..., Gpen]) -> Gpen:
    return start()


class At:
    """One listener of a gpen, for those who take a gpen for a place to connect to."""

    def __init__(self, front: Gpen, name: str = "writer") -> None:
        address = pair_of(front.ctl(f"listener {name} listen" if name else "listen").strip())
        self.address = address


@contextlib.contextmanager
def session(front: Gpen, name: str = "writer") -> Iterator[Session[Any]]:
    host, port = At(front, name).address
    connection = pymysql.connect(host=str(host), port=int(port), user="app", password="app", ssl_disabled=True,
                                 read_timeout=20)
    try:
        yield connection
    finally:
        with contextlib.suppress(pymysql.err.Error):
            connection.close()


def writers(front: Gpen, name: str = "writer") -> list[int]:
    """The numbers of the servers that a listener uses, of those that there are."""
    (row,) = [row for row in front.json("listeners") if row["name"] == name]
    there = [server["number"] for server in front.json("servers")]
    return [number for number in there if row["servers"] is None or number in row["servers"]]


def watching(watcher: Start, group: Group, *fronts: Gpen, options: tuple[str, ...] = ()) -> Watcher:
    """A watcher that has the first node as the writer, and all servers up."""
    judge: Watcher = watcher("--gpen", *(front.control for front in fronts), "--writer=writer", *options)
    wait_until(lambda: told(judge)["writer"] == group.addresses[0] and all(
        writers(front) == [0] and used(front) == [0, 1, 2] for front in fronts), what="the writer")
    return judge


def moved(judge: Watcher, node: str) -> None:
    done = judge.command("move", node)
    assert (done.returncode, done.stderr) == (0, "")


def test_writes_go_to_one_node_and_the_others_to_all(group: Group, front: Gpen, watcher: Start) -> None:
    judge = watching(watcher, group, front, options=("--reader=-", "--reader=admin"))
    with contextlib.ExitStack() as stack:
        for name, count in (("writer", 1), ("", 3), ("admin", 3)):
            nodes = {node_of(stack.enter_context(session(front, name))) for _ in range(6)}
            assert nodes == {"node0", "node1", "node2"} if count == 3 else nodes == {"node0"}
        expected = [("writer", "writer", 6, 1, group.addresses[0]), *((name, "reader", 6, 3, None)
                                                                      for name in ("-", "admin"))]
        wait_until(lambda: [tuple(row[key] for key in ("listener", "kind", "sessions", "up", "front"))
                            for row in told(judge)["gpens"]] == expected, what="it being told")
    assert front.ctl("health_ttl").strip() == "5" and told(judge)["well"]
    assert f"{front.control} writer  " in judge.command("status").stdout


def test_a_move_ends_the_writers_sessions_and_no_others(group: Group, front: Gpen, watcher: Start) -> None:
    judge = watching(watcher, group, front)
    with contextlib.ExitStack() as stack:
        reading = [stack.enter_context(session(front, "")) for _ in range(3)]
        writing = stack.enter_context(session(front))
        assert {node_of(each) for each in reading} == {"node0", "node1", "node2"} and node_of(writing) == "node0"
        moved(judge, "node1")
        wait_until(lambda: is_cut(writing), what="the end of the session on the old writer")
        with session(front) as new:
            assert node_of(new) == "node1"
        assert not any(is_cut(each) for each in reading)
    assert writers(front) == [1] and used(front) == [0, 1, 2]
    judge.stop()
    front.ctl("listener writer servers all")
    assert [row["prio"] for row in front.json("listener writer servers")] == [1, 0, 2]
    assert [row["prio"] for row in front.json("servers")] == [0, 0, 0]


def test_a_move_may_leave_them(group: Group, front: Gpen, watcher: Start) -> None:
    judge = watching(watcher, group, front, options=("--keep-old-sessions",))
    with session(front) as old:
        moved(judge, "node2")
        with session(front) as new:
            assert (node_of(old), node_of(new)) == ("node0", "node2")


def test_all_leave_a_dead_writer_at_one_moment(group: Group, front: Gpen, watcher: Start) -> None:
    """Clients come all the time: from the first that got another node on, none got another again."""
    watching(watcher, group, front)
    answers: list[tuple[float, str]] = []
    over = threading.Event()

    def come() -> None:
        while not over.is_set():
            began = time.monotonic()
            with contextlib.suppress(pymysql.err.Error):
                answers.append((began, first_answer(At(front))))  # type: ignore[arg-type]

    clients = [in_background(come) for _ in range(5)]
    wait_until(lambda: len(answers) > 50, what="clients")
    group.nodes[0].kill()
    group.form(*group.nodes[1:])
    died = time.monotonic()
    wait_until(lambda: len([began for began, _ in answers if began > died]) > 50, what="clients after it")
    over.set()
    for client in clients:
        client.join(20)
    (other,) = {node for began, node in answers if began > died}
    assert {node for began, node in answers if began < died} <= {"node0", other}
    assert used(front) == [1, 2] and writers(front) == [int(other[-1])]


def test_a_writer_that_fails_a_client_alone_is_waited_for(group: Group, front: Gpen, watcher: Start) -> None:
    """It is full, or refuses: nobody gets to another one, as long as the watcher has not moved it."""
    judge = watching(watcher, group, front)
    group.nodes[0].greeting = FULL
    clients: list[str] = []
    waiting = in_background(lambda: clients.append(first_answer(At(front))))  # type: ignore[arg-type]
    with session(front, "") as reader:
        assert node_of(reader) != "node0"
    began = time.monotonic()
    wait_until(lambda: time.monotonic() - began > 4 or clients, what="4 s")
    assert clients == [] and told(judge)["writer"] == group.addresses[0] and writers(front) == [0]
    group.nodes[0].greeting = None
    waiting.join(5)
    assert clients == ["node0"]


def test_a_server_that_comes_gets_no_writes(group: Group, front: Gpen, watcher: Start) -> None:
    watching(watcher, group, front)
    front.ctl(f"server 3 address 127.0.0.1 port {group.nodes[1].port} prio 0", "server 3 health up")
    front.ctl("listener writer servers 0,3")
    wait_until(lambda: writers(front) == [0], what="the one that came not being used")
    front.ctl(f"server 0 address 127.0.0.1 port {group.nodes[2].port}",
              f"server 7 address 127.0.0.1 port {group.nodes[0].port}")
    wait_until(lambda: writers(front) == [7] and 7 in used(front), what="the writer having another number")
    with session(front) as new:
        assert node_of(new) == "node0"


def test_what_somebody_else_changes_is_put_right(group: Group, front: Gpen, watcher: Start) -> None:
    watching(watcher, group, front)

    def strays_and_is_cut() -> bool:
        front.ctl("listener writer servers 1")
        try:
            with session(front) as wrong:
                if node_of(wrong) != "node1":
                    return False
                wait_until(lambda: is_cut(wrong), what="its end")
                return True
        except pymysql.err.OperationalError:
            return True  # the watcher was quick

    with session(front) as right, session(front, "admin") as other:
        assert node_of(right) == "node0"
        where = node_of(other)
        wait_until(strays_and_is_cut, what="the end of a session on the second node")
        wait_until(lambda: writers(front) == [0], what="the writer being used again")
        assert (node_of(right), node_of(other)) == ("node0", where)


def test_sessions_of_a_server_that_is_gone_end_with_its_role(group: Group, front: Gpen, watcher: Start) -> None:
    judge = watching(watcher, group, front)
    with session(front) as old, session(front, "admin") as other:
        assert node_of(other) == "node0"
        front.ctl(f"server 7 address 127.0.0.1 port {group.nodes[0].port}", "no server 0")
        wait_until(lambda: writers(front) == [7], what="the writer having another number")
        assert not is_cut(old)
        moved(judge, group.addresses[1])
        wait_until(lambda: is_cut(old), what="the session at the old writer ending")
        assert not is_cut(other)


def test_without_a_watcher_nobody_writes_elsewhere(group: Group, front: Gpen, watcher: Start) -> None:
    """Verdicts expire, the choice does not; an operator may make another."""
    front.ctl(f"health_ttl {TTL}", "hold 0")
    judge = watching(watcher, group, front)
    moved(judge, "node1")
    judge.process.send_signal(signal.SIGKILL)
    judge.process.wait()
    group.nodes[1].kill()
    wait_until(lambda: [row["verdict"] for row in front.json("servers")] == [None] * 3, what="the verdicts' end")
    with session(front, "") as reader:
        assert node_of(reader) != "node1"
    with pytest.raises(pymysql.err.OperationalError), session(front):
        pass
    assert group.nodes[0].sessions("app") == group.nodes[2].sessions("app") == 0
    front.ctl("listener writer servers all")
    with session(front) as new:
        assert node_of(new) == "node0"  # the next of the succession


def test_a_watcher_that_comes_takes_the_writer_as_it_is(group: Group, front: Gpen, watcher: Start) -> None:
    judge = watching(watcher, group, front)
    moved(judge, "node2")
    judge.process.send_signal(signal.SIGKILL)
    judge.process.wait()
    with session(front) as kept:
        second = watcher("--gpen", front.control, "--writer=writer", "--prefer", group.addresses[0])
        wait_until(lambda: told(second)["writer"] is not None, what="the second watcher having a writer")
        assert told(second)["writer"] == group.addresses[2] and node_of(kept) == "node2"
    assert writers(front) == [2] and "found in use" in second.stderr


def test_two_listeners_for_writes_have_one_writer(group: Group, start: Start, watcher: Start) -> None:
    front = start(*listening("more", "prio"))
    judge = watching(watcher, group, front, options=("--writer=more",))
    moved(judge, "node1")
    assert writers(front) == writers(front, "more") == [1]
    with session(front) as one, session(front, "more") as other:
        assert node_of(one) == node_of(other) == "node1"


def test_a_writer_that_is_drained_loses_the_role_and_keeps_its_sessions(
        group: Group, front: Gpen, watcher: Start) -> None:
    judge = watching(watcher, group, front)
    with session(front) as old:
        front.ctl("server 0 state drain")
        wait_until(lambda: told(judge)["writer"] not in (None, group.addresses[0]), what="another writer")
        wait_until(lambda: writers(front) not in ([], [0]), what="it being used")
        assert node_of(old) == "node0"


def test_a_node_that_is_discovered_is_no_writer(group: Group, gpen: Start, watcher: Start) -> None:
    front = gpen(*SHARED, *listening("writer", "prio"), servers=group.addresses[:2])
    watching(watcher, group, front, options=("--discover", "--forget=1"))
    group.nodes[0].kill()
    group.form(*group.nodes[1:])
    wait_until(lambda: [row["number"] for row in front.json("servers")] == [1, 2], 10, "the dead one being forgotten")
    (writer,) = writers(front)
    group.nodes[0].start()
    group.form(*group.nodes)
    wait_until(lambda: used(front) == [0, 1, 2], 10, "its return")
    assert writers(front) == [writer]


def test_two_watchers_that_fight_are_told(group: Group, front: Gpen, watcher: Start) -> None:
    one, two = (watching(watcher, group, front) for _ in range(2))
    assert told(one)["well"] and told(two)["well"]
    one.command("move", group.addresses[1])
    for judge in (one, two):
        wait_until(lambda judge=judge: "somebody else puts another node in front" in told(judge)["gpens"][0]["problem"],
                   what="the other watcher being noticed")


# --- watchers that agree ---------------------------------------------------------------------------------------------


def test_watchers_that_agree_hand_over(group: Group, start: Start, watcher: Start) -> None:
    """Nobody uses the new writer while somebody uses the old one."""
    fronts = [start(), start()]
    judges = [watching(watcher, group, front, options=("--agree=agreed", "--verbose")) for front in fronts]
    looks: list[set[int]] = []
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            looks.append({number for front in fronts for number in writers(front)})

    looker = in_background(look)
    for node, number in (("node1", 1), ("node2", 2), ("node0", 0)):
        moved(judges[number % 2], node)
        wait_until(lambda number=number: [writers(front) for front in fronts] == [[number]] * 2, what="both following")
    over.set()
    looker.join(10)
    assert {0} in looks and {1} in looks
    assert max(map(len, looks)) == 1 and set() in looks and len(looks) > 20
    assert all(used(front) == [0, 1, 2] for front in fronts)


def test_the_writer_stays_while_a_watcher_hangs(group: Group, start: Start, watcher: Start) -> None:
    fronts = [start(), start()]
    one, two = (watching(watcher, group, front, options=("--agree=agreed",)) for front in fronts)
    two.process.send_signal(signal.SIGSTOP)
    try:
        refused = one.command("move", "node1")
    finally:
        two.process.send_signal(signal.SIGCONT)
    assert refused.returncode == 1 and "not confirmed within 2 s" in refused.stderr
    wait_until(lambda: [writers(front) for front in fronts] == [[0], [0]], what="the old writer in use")
    moved(one, "node1")
    wait_until(lambda: [writers(front) for front in fronts] == [[1], [1]], what="both following")


# --- gpens that begin anew, or are not as they should be -------------------------------------------------------------


@pytest.fixture
def contribs(group: Group, tmp_path: Path) -> Path:
    """contrib's file, with the addresses of here."""
    text = (ROOT / "contrib" / "galera" / "gpen.cfg").read_text()
    for number, node in enumerate(group.nodes):
        text = text.replace(f"address 10.0.0.{number + 1} port 3306", f"address 127.0.0.1 port {node.port}")
    for port in ("3306", "3307"):
        text = text.replace(f"listen {port}", f"listen 127.0.0.1:{free_port()}")
    file = tmp_path / "gpen.cfg"
    file.write_text(text.replace("health_ttl 5", f"health_ttl {TTL}").replace("/var/log/gpen", str(tmp_path)))
    return file


def begun(file: Path, name: str = "first") -> Gpen:
    return Gpen(file.parent, "-F", str(file), name=name, control=str(file.parent / "contrib.ctl"))


@pytest.mark.parametrize("options", OPTIONS)
def test_a_gpen_that_begins_anew_with_contribs_file(
        group: Group, contribs: Path, watcher: Start, options: tuple[str, ...]) -> None:
    """It uses nobody before the watcher has told it whom; when that does not come, the file's first."""
    with begun(contribs) as front:
        judge = watching(watcher, group, front, options=options)
        moved(judge, "node2")
        judge.process.send_signal(signal.SIGSTOP)
        front.process.kill()
        front.process.wait()
        front.process.returncode = 0
        with begun(contribs, "second") as front, contextlib.ExitStack() as stack:
            assert used(front) == []
            wrong = stack.enter_context(session(front))  # waits until the file's verdicts have expired
            assert node_of(wrong) == "node0"
            judge.process.send_signal(signal.SIGCONT)
            wait_until(lambda: is_cut(wrong), what="the end of the session on the first node")
            wait_until(lambda: (writers(front), used(front)) == ([2], [0, 1, 2]), what="the writer being used")
            with session(front) as new:
                assert node_of(new) == "node2"
        assert f"gpen {front.control}: began anew" in judge.stderr


@pytest.mark.parametrize("options", OPTIONS)
def test_a_gpen_and_its_watcher_that_begin_together(
        group: Group, contribs: Path, watcher: Start, start: Start, options: tuple[str, ...]) -> None:
    """Nobody writes on the file's first node while the other gpen goes with another one."""
    other = start()
    judge = watching(watcher, group, other, options=options)
    moved(judge, "node2")
    # to agree may take 2 s on a busy machine; behind the end of the file's verdicts its first node would be used
    contribs.write_text(contribs.read_text().replace(f"health_ttl {TTL}", "health_ttl 30"))
    with begun(contribs) as front:
        clients: list[str] = []
        waiting = in_background(lambda: clients.append(first_answer(At(front))))  # type: ignore[arg-type]
        if options:
            watcher("--gpen", front.control, "--writer=writer", *options)
        else:
            judge.stop()
            watcher("--gpen", other.control, front.control, "--writer=writer")
        waiting.join(15)
        assert clients == ["node2"] and group.nodes[0].sessions("app") == 0
        wait_until(lambda: (writers(front), used(front)) == ([2], [0, 1, 2]), what="the writer being used")


def test_a_reload_of_what_has_not_changed_disturbs_nobody(group: Group, contribs: Path, watcher: Start) -> None:
    """As logrotate asks for it, whoever is the writer."""
    with begun(contribs) as front:
        moved(watching(watcher, group, front), "node2")
        with session(front) as kept:
            front.signal(signal.SIGHUP)
            wait_until(lambda: "nothing has changed" in front.stderr, what="the file being read")
            with session(front) as new:
                assert node_of(new) == node_of(kept) == "node2"
        assert group.nodes[0].sessions("app") == group.nodes[1].sessions("app") == 0


def test_a_reload_that_lets_others_be_used_is_put_right(group: Group, contribs: Path, watcher: Start) -> None:
    with begun(contribs) as front:
        moved(watching(watcher, group, front), "node2")
        with session(front) as kept:
            contribs.write_text(contribs.read_text() + "listener writer servers 0-1\n")
            assert "servers" in front.ctl("reload")
            wait_until(lambda: writers(front) == [2], what="the writer alone being used")
            wait_until(lambda: all(node.sessions("app") == 0 for node in group.nodes[:2]), what="no session elsewhere")
            assert node_of(kept) == "node2"


def test_a_listener_that_is_missing_is_told(group: Group, front: Gpen, watcher: Start) -> None:
    judge = watcher("--gpen", front.control, "--writer=wrong", "--reader=none")
    missing = [f"{front.control}: has no listener {name}: gpenctl {front.control} listener {name} listen [HOST:]PORT"
               for name in ("none", "wrong")]

    def problems() -> set[str]:
        return {row["problem"] for row in told(judge)["gpens"]}

    wait_until(lambda: problems() == {missing[0]}, what="the first being missed")
    front.ctl(f"listener none listen 127.0.0.1:{free_port()}")
    wait_until(lambda: problems() == {missing[1]}, what="the second being missed")
    assert used(front) == [0, 1, 2]
    front.ctl(f"listener wrong listen 127.0.0.1:{free_port()}")
    wait_until(lambda: writers(front, "wrong") == [0], what="the writer")
    place = front.control
    wait_until(lambda: problems() == {f"{place}: listener wrong runs without prio: writes go to several nodes: gpenctl "
                                      f"{place} listener wrong prio"}, what="what it lacks")
    front.ctl("listener wrong prio")
    wait_until(lambda: problems() == {""}, what="no problem")


def test_a_gpen_of_before_is_told(group: Group, tmp_path: Path, watcher: Start) -> None:
    """One that knows no listeners: it gets the verdicts even so."""
    path, heard = tmp_path / "old.ctl", []
    rows = [{"number": 0, "address": "127.0.0.1", "host": "127.0.0.1", "port": group.nodes[0].port, "prio": 0,
             "state": "ready", "health": "up", "sessions": 0, "max": 0, "verdict": None, "reason": ""}]

    def answer(line: str) -> str:
        heard.append(line)
        answers = {"pid": "1", "servers json": json.dumps(rows), "proxy_protocol": "off", "health_ttl": "5"}
        unknown = line.startswith("listener")
        return answers.get(line, f"error: unknown command '{line.split()[0]}'" if unknown else "") + "\n"

    def serve(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = listener.accept()
                with sock, sock.makefile() as stream:
                    for line in stream:
                        said = answer(line.strip())
                        sock.sendall(said.encode() if said.strip() else b"")

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        in_background(lambda: serve(listener))
        judge = watcher("--gpen", str(path), "--writer=writer")
        wait_until(lambda: "knows no listeners: it is older than this watcher" in told(judge)["gpens"][0]["problem"],
                   what="it being told")
        wait_until(lambda: any("health up" in line for line in heard), what="a verdict")
        listener.shutdown(socket.SHUT_RDWR)
