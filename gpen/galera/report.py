"""What a node says of itself. Two questions in one read all of it, which are answered in every state of the node, by
MariaDB as by MySQL 8 and Percona XtraDB Cluster 8.

Login, ``SELECT 1`` and ``USE`` succeed on a node that has lost its cluster, so none of them is a check.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import NamedTuple

from gpen.model.text import printable, shortened

_STATUS = ("wsrep_local_state", "wsrep_local_state_comment", "wsrep_ready", "wsrep_cluster_status",
           "wsrep_cluster_state_uuid", "wsrep_cluster_conf_id", "wsrep_cluster_size", "wsrep_local_index",
           "wsrep_incoming_addresses")  # of every node of a Galera cluster, whoever made it
_MORE_STATUS = ("wsrep_local_recv_queue", "wsrep_flow_control_paused_ns", "wsrep_last_committed",
                "Threads_connected")
_VARIABLES = ("wsrep_node_name", "read_only", "wsrep_reject_queries", "wsrep_sst_donor_rejects_queries",
              "wsrep_desync", "pxc_maint_mode")
_BLOCKING = ("max_connections", "max_connect_errors", "skip_name_resolve", "host_cache_size")  # MySQL has them too


def _show(what: str, names: Iterable[str]) -> str:
    return f"SHOW GLOBAL {what} WHERE Variable_name IN ({', '.join(map(repr, names))})"


# What a server does not have is no error in these, but missing; information_schema.GLOBAL_STATUS is missing in MySQL 8.
# Both are asked at once: a second question would be a second wake-up of the node's thread each time.
QUERY = f'{_show("STATUS", (*_STATUS, *_MORE_STATUS))}; {_show("VARIABLES", (*_VARIABLES, *_BLOCKING))}'

MYSQL_PORT = 3306
SAID = 300  # characters of a node's error that are quoted
WORD = 64  # characters of a name or a state
MEMBERS = 512  # nodes of a cluster, at most: who tells more lies
LIST = 64 * MEMBERS  # characters of their list
DONOR, JOINED, SYNCED = 2, 3, 4  # wsrep_local_state
NO_INDEX = 1 << 30  # sorts behind every wsrep_local_index


class View(NamedTuple):
    """A membership of the cluster: the nodes that say the same are in one group. Two halves that were both bootstrapped
    differ in nothing but the ``members`` (wsrep_incoming_addresses; one text, which is compared and hashed at once)."""

    uuid: str
    conf_id: int
    size: int
    members: str = ""


class Choice(NamedTuple):
    """The writer that several watchers have agreed upon: the ``version``-th choice, who would follow by and by, the
    ``heir`` that is to have the role when everybody has left the writer, and whether an operator wanted this one (the
    heir, if there is one), so that there is no failback from it."""

    version: int
    writer: str
    succession: tuple[str, ...] = ()
    heir: str = ""
    pinned: bool = False


class Claim(NamedTuple):
    """Which process has the row of a watcher's name, by its ``instance``; the ``number``-th that was made. Ordered by
    age."""

    number: int = 0
    instance: str = ""  # nobody's


NOBODYS = Claim()


@dataclass(frozen=True)
class Page:
    """What a node knows of the agreement: the choice, if there is one, the newest one that each watcher that takes part
    has carried out, and the ``newest`` of these that anybody ever has, those that take no part any more included."""

    choice: Choice | None = None
    watchers: Mapping[str, int] = field(default_factory=dict)
    newest: int = 0
    claim: Claim = NOBODYS


@dataclass(frozen=True)
class Report:
    """The answers to QUERY, when they were asked, and ``latency``: the seconds that they took. Two are equal that
    differ in nothing but figures that change all the time, and by which no node is judged alone.

    ``blocks``: after ``max_connect_errors`` connections in a row without a login the node refuses their address; not
    where it does not look names up, or remembers no hosts.
    """

    state: int
    comment: str
    ready: bool
    status: str  # Primary, non-Primary, Disconnected
    view: View
    index: int
    members: tuple[str, ...]  # wsrep_incoming_addresses: HOST:PORT, AUTO, or empty for an arbitrator
    queue: int = field(compare=False)
    name: str
    read_only: bool
    rejects: str  # NONE, ALL, ALL_KILL
    donor_rejects: bool
    desync: bool
    maintenance: str = ""  # pxc_maint_mode, unless it is DISABLED
    # nanoseconds in which flow control held replication up, since the node began; -1: not told
    paused_ns: int = field(default=-1, compare=False)
    committed: int = field(default=-1, compare=False)  # the number of the last write set; -1: not told
    max_connections: int = -1  # not told
    connections: int = field(default=-1, compare=False)  # not told
    max_connect_errors: int = -1  # not told
    blocks: bool = True
    latency: float = field(default=0.0, compare=False)
    asked: float = field(default=0.0, compare=False)  # when, in seconds of the monotonic clock
    page: Page | str | None = None  # a text: why it can't be read

    @property
    def is_full(self) -> bool:
        """Whether only SUPER users get in: others are greeted, and refused (1040) after the login."""
        return 0 < self.max_connections <= self.connections


class NoGalera(ValueError):
    """The node is none of a Galera cluster; one line."""


class Grade(Enum):
    """How a node is by its own account: GOOD, a DONOR (works, but lags or stalls; or was one, and catches up), in
    MAINTENANCE (works, but is to get no new clients), UNFIT (its sessions work in part, or nobody knows), or LOST (what
    its sessions ask fails or is stale). A good one that LAGGING names is behind the others by more than the operator
    wants."""

    GOOD = auto()
    LAGGING = auto()
    DONOR = auto()
    MAINTENANCE = auto()
    UNFIT = auto()
    LOST = auto()


def read(rows: Iterable[tuple[str, object]], latency: float = 0.0, asked: float = 0.0) -> Report:
    """The report in the rows that QUERY gave. Raises NoGalera when the node is none of a Galera cluster."""
    try:
        said = {str(name).lower(): _text(value) for name, value in rows}
    except ValueError:
        raise NoGalera("no Galera node: its answer is no list of names with a value each") from None
    missing = [name for name in _STATUS if name not in said]
    if missing:
        raise NoGalera(f"no Galera node: it does not tell {missing[0]}")
    said = dict.fromkeys(map(str.lower, (*_MORE_STATUS, *_VARIABLES, *_BLOCKING)), "") | said
    members = printable(said["wsrep_incoming_addresses"][:LIST])
    return Report(
        state=_number(said["wsrep_local_state"]), comment=_word(said["wsrep_local_state_comment"]) or "no state",
        ready=_is_on(said["wsrep_ready"]), status=_word(said["wsrep_cluster_status"]) or "no cluster",
        view=View(_word(said["wsrep_cluster_state_uuid"]), _number(said["wsrep_cluster_conf_id"]),
                  _number(said["wsrep_cluster_size"]), members),
        index=_number(said["wsrep_local_index"], NO_INDEX),
        members=tuple(member.strip() for member in members.split(",")[:MEMBERS]),
        queue=_number(said["wsrep_local_recv_queue"]), name=_word(said["wsrep_node_name"]),
        read_only=_is_on(said["read_only"]), rejects=_word(said["wsrep_reject_queries"]).upper() or "NONE",
        donor_rejects=_is_on(said["wsrep_sst_donor_rejects_queries"]), desync=_is_on(said["wsrep_desync"]),
        maintenance=_word(said["pxc_maint_mode"]).upper() if said["pxc_maint_mode"].upper() != "DISABLED" else "",
        paused_ns=_number(said["wsrep_flow_control_paused_ns"]), committed=_number(said["wsrep_last_committed"]),
        max_connections=_number(said["max_connections"]), connections=_number(said["threads_connected"]),
        max_connect_errors=_number(said["max_connect_errors"]),
        blocks=not _is_on(said["skip_name_resolve"]) and said["host_cache_size"] != "0", latency=latency, asked=asked)


def grade(report: Report) -> tuple[Grade, str]:
    """How a node is by its own account, and why in a few words without figures that change."""
    if report.status != "Primary":
        return Grade.LOST, report.status
    if not report.ready:
        return Grade.LOST, f"not ready ({report.comment})"
    if report.rejects != "NONE":
        return Grade.LOST, f"rejects queries ({report.rejects})"
    if report.state == DONOR and report.donor_rejects and not report.desync:
        return Grade.LOST, "donor that rejects queries"
    if report.state not in (DONOR, JOINED, SYNCED):
        return Grade.UNFIT, report.comment
    if report.read_only:
        return Grade.UNFIT, "read_only"
    if report.maintenance:
        return Grade.MAINTENANCE, f"pxc_maint_mode is {report.maintenance}"
    return (Grade.GOOD if report.state == SYNCED else Grade.DONOR), report.comment


def _text(value: object) -> str:
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else "" if value is None else str(value)


def _word(text: str) -> str:
    """A name or a state, as it may be quoted in commands, in a table and in the log."""
    return shortened(text, WORD)


def _number(text: str, default: int = -1) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else default


def _is_on(text: str) -> bool:
    return text.upper() not in ("", "0", "OFF", "NO", "FALSE")
