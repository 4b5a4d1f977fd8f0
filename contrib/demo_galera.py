"""gpen before a real Galera cluster, in a minute: clients write all the time, and the node that they write to dies.

Run by `make demo-galera`. Three MariaDB nodes, a gpen before them and its watcher beside it, all on this machine and in
a temporary directory. Ends all that it started, at Ctrl-C too.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pymysql
from cluster import START_SECONDS, Cluster, ClusterError, Node, find_servers, missing, wait_until
from demo import BIN, called, control, gpen, gpenctl, nearest, say
from pymysql.connections import Connection

WATCHER = BIN.parent / "contrib" / "galera" / "gpen-galera"
CLIENTS, PERIOD = 8, 0.1  # seconds from one write of a client to its next
BEFORE, AFTER = 3.0, 6.0  # seconds of writing
HANGING = 20.0
INTERRUPTED = 130
REMEDY = "apt-get install mariadb-server galera-4 rsync lsof openssl"

SCHEMA = """\
FLUSH PRIVILEGES;
CREATE DATABASE shop;
CREATE TABLE shop.orders (client INT, number INT, PRIMARY KEY (client, number)) ENGINE=InnoDB;
CREATE USER app@'%' IDENTIFIED BY 'app';
GRANT ALL ON shop.* TO app@'%';
CREATE USER watcher@'%' IDENTIFIED BY 'watching';
"""


class Shop(Cluster):
    """A cluster that takes orders."""

    schema = SCHEMA


@dataclass(frozen=True)
class Order:
    """One try to write: by whom, which, when (time.monotonic()), how long it took, and the error if it failed."""

    client: int
    number: int
    began: float
    took: float
    error: str = ""


def main() -> int:
    find_servers()
    if reason := missing():
        print(f"this needs MariaDB with Galera: {reason}\non Debian: {REMEDY}", file=sys.stderr)
        return 1
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    directory = Path(tempfile.mkdtemp(prefix="gpen-demo-"))
    directory.chmod(0o755)  # the nodes run as mysql
    try:
        show(directory)
    except KeyboardInterrupt:
        say("Interrupted: all is ended.")
        return INTERRUPTED
    except ClusterError as error:
        print(f"the cluster does not do what it should: {error}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    say("All is ended again. In front of your own cluster: docs/GALERA.md")
    return 0


def show(directory: Path) -> None:
    """The whole play."""
    say("A MariaDB Galera cluster of three nodes; half a minute, please ...")
    with Shop(directory / "cluster") as cluster:
        for node in cluster.nodes:
            print(f"    {node.name}: {node.address}")
        say("... a gpen before them: one port for reads, one for writes, which go to one node ...")
        with balancer(directory, cluster.nodes) as ctl, watcher(directory, ctl):
            wait_until(lambda: {row["verdict"] for row in servers(ctl)} == {"up"}, START_SECONDS, "all nodes being up")
            writer = wait_until(lambda: writer_of(ctl, cluster.nodes), START_SECONDS, "a writer")
            play(ctl, cluster, writer, directory)


def play(ctl: Path, cluster: Cluster, writer: Node, directory: Path) -> None:
    """Clients, a death, and what they noticed."""
    look(ctl, directory)
    say(f"Eight clients write, each ten times a second: connect, INSERT, close. In {BEFORE:g} seconds ...")
    with writing(port_of(ctl)) as orders:
        time.sleep(BEFORE)
        say(f"... {writer.name} is killed (SIGKILL), to which all of them write:")
        event = time.monotonic()
        writer.kill()
        time.sleep(AFTER)
    say(f"{AFTER:g} seconds later:")
    look(ctl, directory)
    gpenctl(ctl, "events", "1")
    tell(orders, event, stored(next(node for node in cluster.nodes if node is not writer)))


def tell(orders: Sequence[Order], event: float, found: set[tuple[int, int]]) -> None:
    """What the clients noticed, exactly."""
    say("What the clients noticed:")
    before, after = ([order for order in orders if (order.began < event) == early] for early in (True, False))
    for words, some in (("before", before), ("after", after)):
        longest = max((order.took for order in some), default=0.0)
        failed = [order for order in some if order.error]
        print(f"    {len(some)} writes that began {words} it: {len(failed)} failed, the longest took {longest:.2f} s")
    for error, count in Counter(order.error for order in orders if order.error).items():
        print(f"    {count} x {error}")
    confirmed = {(order.client, order.number) for order in orders if not order.error}
    lost = len(confirmed - found)
    print(f"    {len(confirmed)} writes were confirmed; {lost} of them are missing on the other nodes")
    if any(order.error for order in orders):
        print("    (Who is connected to a node when it dies is told so: no balancer can repeat what was asked there.)")


# --- the parts -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def balancer(directory: Path, nodes: Sequence[Node]) -> Iterator[Path]:
    """A gpen for reads, with a listener for writes; its control socket."""
    words = ["-r", "-O", "mysql", "-O", "greeting 1", "-O", "hold 10", "-O", "listener writer listen 127.0.0.1:0",
             "-O", "listener writer prio", "127.0.0.1:0", *(node.address for node in nodes)]
    with gpen(directory / "gpen.ctl", words) as (_, ctl):
        yield ctl


@contextlib.contextmanager
def watcher(directory: Path, ctl: Path) -> Iterator[None]:
    """gpen-galera watch beside it."""
    credentials = directory / "watcher.cnf"
    credentials.touch(mode=0o600)
    credentials.write_text("[client]\nuser=watcher\npassword=watching\n")
    command = [sys.executable, str(WATCHER), "watch", f"--defaults-file={credentials}", f"--gpen={ctl}",
               "--writer=writer", f"--socket={directory}/watcher.sock"]
    with (directory / "watcher.err").open("wb") as stderr:
        process = subprocess.Popen(command, stdout=stderr, stderr=stderr, start_new_session=True)
    try:
        yield
    finally:
        process.terminate()
        process.wait(10)


def look(ctl: Path, directory: Path) -> None:
    """Show what gpen knows of its servers, and the watcher of the nodes."""
    gpenctl(ctl, "servers")
    installed = Path(sys.executable).with_name(WATCHER.name).exists()
    words = ["status", f"--socket={directory}/watcher.sock"]
    print(f"$ {called(WATCHER.name) if installed else nearest(str(WATCHER))} {' '.join(words)}", flush=True)
    subprocess.run([sys.executable, str(WATCHER), *words], check=False)


def servers(ctl: Path, *listener: str) -> list[dict[str, Any]]:
    """The servers, or those that a listener uses."""
    return list(json.loads(control(ctl, *listener, "servers", "json")))


def writer_of(ctl: Path, nodes: Sequence[Node]) -> Node | None:
    """The node that the listener for writes uses, once the watcher has told it."""
    used = servers(ctl, "listener", "writer")
    return nodes[int(used[0]["number"])] if len(used) == 1 else None


def port_of(ctl: Path) -> int:
    """Where the writes go in."""
    return int(control(ctl, "listener", "writer", "listen").strip().rpartition(":")[2])


@contextlib.contextmanager
def writing(port: int) -> Iterator[list[Order]]:
    """As long as this lasts clients write through this port; what became of it."""
    orders: list[Order] = []
    over = threading.Event()
    threads = [threading.Thread(target=write, args=(number, port, orders, over), daemon=True)
               for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield orders
    finally:
        over.set()
    for thread in threads:
        thread.join(HANGING)


def write(client: int, port: int, orders: list[Order], over: threading.Event) -> None:
    """What one client does."""
    number = 0
    while not over.wait(PERIOD):
        number += 1
        began, error = time.monotonic(), ""
        try:
            with Connection(host="127.0.0.1", port=port, user="app", password="app", ssl_disabled=True, autocommit=True,
                            connect_timeout=HANGING, read_timeout=HANGING) as connection:
                connection.cursor().execute("INSERT INTO shop.orders VALUES (%s, %s)", (client, number))
        except pymysql.MySQLError as problem:
            error = " ".join(map(str, problem.args))
        orders.append(Order(client, number, began, time.monotonic() - began, error))


def stored(node: Node) -> set[tuple[int, int]]:
    """The orders that a node has."""
    return {(client, number) for client, number in node.sql("SELECT client, number FROM shop.orders")}


if __name__ == "__main__":
    sys.exit(main())
