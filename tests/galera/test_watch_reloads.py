"""A writer's gpen that reads its file again (HUP), or is killed and begins anew, while clients come: what is opened
elsewhere before the watcher has told it the writer ends there. The nodes are stubs. (For a listener for writes, see
test_watch_listeners.py.)"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pymysql
import pytest

from tests.galera.stub import Group
from tests.galera.test_watch_gpens import in_background, is_cut, node_of, session, told, used
from tests.galera.watcher import Watcher
from tests.harness import Gpen, free_port, wait_until

pytestmark = pytest.mark.timeout(60)

Start = Callable[..., Any]
TTL = 2  # of the verdicts, in seconds
OPTIONS = [(), ("--agree=agreed",)]


@pytest.fixture
def group() -> Iterator[Group]:
    with Group(3) as group:
        yield group


@pytest.fixture
def patient(group: Group, tmp_path: Path) -> Path:
    """The file of a writer's gpen, in which no server is up before the watcher has said so."""
    lines = [f"listen 127.0.0.1:{free_port()}", "roundrobin", "prio", "mysql", "greeting 1", "hold 10",
             f"health_ttl {TTL}"]
    lines += [f"server {number} address 127.0.0.1 port {node.port} prio {number}"
              for number, node in enumerate(group.nodes)]
    lines += [f"server {number} health down because not told yet" for number in range(3)]
    file = tmp_path / "writer.cfg"
    file.write_text("".join(f"{line}\n" for line in lines))
    return file


@pytest.fixture
def hasty(patient: Path) -> Path:
    """The same without its verdicts: the server in front is used at once."""
    lines = patient.read_text().splitlines()
    patient.write_text("\n".join(line for line in lines if " health down " not in line))
    return patient


def begun(file: Path, name: str = "first") -> Gpen:
    return Gpen(file.parent, "-F", str(file), name=name, control=str(file.parent / "gpen.ctl"))


def exchange(file: Path, group: Group) -> None:
    """Change the file so that its reload puts the first two, at each other's places, in front of the third."""
    one, two, three = (f"port {node.port} prio {rank}" for rank, node in enumerate(group.nodes))
    text = file.read_text().replace(three, three.replace("prio 2", "prio 5"))
    file.write_text(text.replace(one, "one").replace(two, one).replace("one", two.replace("prio 1", "prio 0")))


def renumber(file: Path, group: Group) -> None:
    """The same, under numbers of which the watcher has never said anything."""
    exchange(file, group)
    file.write_text(file.read_text().replace("server 0 ", "server 5 ").replace("server 1 ", "server 6 "))


def overrule(file: Path, group: Group) -> None:
    """Change the file so that its reload puts the first one in front of the third, and says that it is well."""
    three = f"port {group.nodes[2].port} prio 2"
    file.write_text(file.read_text().replace(three, three.replace("prio 2", "prio 5"))
                    + "\nserver 0 health up because the file says so\n")


def third(front: Gpen, judge: Watcher, group: Group) -> None:
    """Make the third node the writer: to the file it is the last."""
    wait_until(lambda: len(used(front)) == 1, what="the writer")
    assert judge.command("move", group.addresses[2]).returncode == 0


@contextlib.contextmanager
def standing_still(judge: Watcher) -> Iterator[None]:
    judge.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        judge.process.send_signal(signal.SIGCONT)


def stays_alone(front: Gpen, group: Group) -> None:
    """The third node is used and no other, and nobody is elsewhere."""
    wait_until(lambda: used(front) == [2], what="the writer alone being used")
    wait_until(lambda: all(node.sessions("app") == 0 for node in group.nodes[:2]), what="no session elsewhere")
    with session(front) as new:
        assert node_of(new) == "node2"


@pytest.mark.parametrize("options", OPTIONS)
def test_what_was_opened_elsewhere_after_a_reload_ends(
        group: Group, hasty: Path, watcher: Start, options: tuple[str, ...]) -> None:
    with begun(hasty) as front:
        judge = watcher("--writer", front.control, *options)
        third(front, judge, group)
        with session(front) as kept:
            assert node_of(kept) == "node2"
            with contextlib.ExitStack() as stack:
                with standing_still(judge):
                    overrule(hasty, group)
                    front.signal(signal.SIGHUP)
                    wait_until(lambda: front.server(2)["prio"] == 5, what="the file being read")
                    wrong = stack.enter_context(session(front))
                    assert node_of(wrong) != "node2"
                wait_until(lambda: is_cut(wrong), what="the end of the session elsewhere")
            stays_alone(front, group)
            assert node_of(kept) == "node2"


@pytest.mark.parametrize("change", [exchange, renumber])
def test_who_moves_to_another_number_by_a_reload_gets_nobody(
        group: Group, hasty: Path, watcher: Start, change: Callable[[Path, Group], None]) -> None:
    """The watcher judges all: at another address, or under a new number, they wait for its word."""
    with begun(hasty) as front:
        judge = watcher("--writer", front.control)
        third(front, judge, group)
        with standing_still(judge):
            change(hasty, group)
            front.signal(signal.SIGHUP)
            wait_until(lambda: front.server(2)["prio"] == 5, what="the file being read")
            with session(front) as new:
                assert node_of(new) == "node2"
        stays_alone(front, group)


def test_clients_that_come_all_the_time_do_not_stay_elsewhere(group: Group, hasty: Path, watcher: Start) -> None:
    with begun(hasty) as front, contextlib.ExitStack() as sessions:
        judge = watcher("--writer", front.control)
        third(front, judge, group)
        coming = True

        def come() -> None:
            while coming:
                with contextlib.suppress(pymysql.err.Error):
                    sessions.enter_context(session(front))

        clients = in_background(come)
        came = group.nodes[2].logins
        overrule(hasty, group)
        front.signal(signal.SIGHUP)
        wait_until(lambda: group.nodes[2].logins >= came + 3, what="more clients")
        coming = False
        clients.join(10)
        stays_alone(front, group)
        assert told(judge)["well"]


@pytest.mark.parametrize("options", OPTIONS)
def test_a_gpen_that_begins_anew_with_a_patient_file(
        group: Group, patient: Path, watcher: Start, options: tuple[str, ...]) -> None:
    """It uses nobody before the watcher has told it whom; when that does not come, the file's first."""
    with begun(patient) as front:
        judge = watcher("--writer", front.control, *options)
        third(front, judge, group)
        with standing_still(judge):
            front.process.kill()
            front.process.wait()
            front.process.returncode = 0
            with begun(patient, "second") as front, contextlib.ExitStack() as stack:
                assert used(front) == []
                wrong = stack.enter_context(session(front))  # waits until the file's verdicts have expired
                assert node_of(wrong) == "node0"
                judge.process.send_signal(signal.SIGCONT)
                wait_until(lambda: is_cut(wrong), what="the end of the session on the first node")
                stays_alone(front, group)
    assert f"gpen {front.control}: began anew" in judge.stderr


def test_a_reload_of_what_has_not_changed_disturbs_nobody(group: Group, patient: Path, watcher: Start) -> None:
    """As logrotate asks for it, whoever is the writer."""
    with begun(patient) as front:
        third(front, watcher("--writer", front.control), group)
        with session(front) as kept:
            front.signal(signal.SIGHUP)
            wait_until(lambda: "nothing has changed" in front.stderr, what="the file being read")
            with session(front) as new:
                assert node_of(new) == node_of(kept) == "node2"
        assert [node.logins for node in group.nodes[:2]] == [1, 1]  # the watcher's
