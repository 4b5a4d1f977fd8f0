"""What a node says of itself. One query reads all of it, from tables that answer in every state of the node.

Login, ``SELECT 1`` and ``USE`` succeed on a node that has lost its cluster, so none of them is a check.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import NamedTuple

from gpen.model.words import printable, shortened

_STATUS = ("wsrep_local_state", "wsrep_local_state_comment", "wsrep_ready", "wsrep_cluster_status",
           "wsrep_cluster_state_uuid", "wsrep_cluster_conf_id", "wsrep_cluster_size", "wsrep_local_index",
           "wsrep_incoming_addresses", "wsrep_local_recv_queue")
_VARIABLES = ("wsrep_node_name", "read_only", "wsrep_reject_queries", "wsrep_sst_donor_rejects_queries", "wsrep_desync")
_BLOCKING = ("max_connections", "max_connect_errors", "skip_name_resolve", "host_cache_size")  # MySQL has them too

QUERY = (
    "SELECT LOWER(VARIABLE_NAME), VARIABLE_VALUE FROM information_schema.GLOBAL_STATUS WHERE VARIABLE_NAME IN ("
    + ", ".join(f"'{name}'" for name in _STATUS) + ")"
    + "".join(f" UNION ALL SELECT '{name}', CAST(@@{name} AS CHAR)" for name in (*_VARIABLES, *_BLOCKING))
)

MYSQL_PORT = 3306
SAID = 300  # characters of a node's error that are quoted
WORD = 64  # characters of a name or a state
DONOR, SYNCED = 2, 4  # wsrep_local_state
NO_INDEX = 1 << 30  # sorts behind every wsrep_local_index


class View(NamedTuple):
    """A membership of the cluster: the nodes that say the same are in one group. Two halves that were both bootstrapped
    differ in nothing but the ``members`` (wsrep_incoming_addresses: HOST:PORT, AUTO, or empty for an arbitrator)."""

    uuid: str
    conf_id: int
    size: int
    members: tuple[str, ...] = ()


class Choice(NamedTuple):
    """The writer that several watchers have agreed upon: the ``version``-th choice, who would follow by and by, and the
    ``heir`` that is to have the role when everybody has left the writer."""

    version: int
    writer: str
    succession: tuple[str, ...] = ()
    heir: str = ""


@dataclass(frozen=True)
class Page:
    """What a node knows of the agreement: the choice, if there is one, and the newest one that each watcher that takes
    part has carried out."""

    choice: Choice | None = None
    watchers: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """The answer to QUERY, when it was asked, and ``latency``: the seconds that it took.

    ``blocks``: after ``max_connect_errors`` connections in a row without a login the node refuses their address; not
    where it does not look names up, or remembers no hosts.
    """

    state: int
    comment: str
    ready: bool
    status: str  # Primary, non-Primary, Disconnected
    view: View
    index: int
    queue: int
    name: str
    read_only: bool
    rejects: str  # NONE, ALL, ALL_KILL
    donor_rejects: bool
    desync: bool
    max_connections: int = -1  # not told
    max_connect_errors: int = -1  # not told
    blocks: bool = True
    latency: float = 0.0
    asked: float = 0.0  # when, in seconds of the monotonic clock
    page: Page | str | None = None  # a text: why it can't be read

    @property
    def members(self) -> tuple[str, ...]:
        """Of its view, in the order of their local index."""
        return self.view.members


class NoGalera(ValueError):
    """The node is none of a Galera cluster; one line."""


class Grade(Enum):
    """How a node is by its own account: GOOD, a DONOR (works, but lags or stalls), UNFIT (its sessions still work),
    or LOST (what its sessions ask fails or is stale)."""

    GOOD = auto()
    DONOR = auto()
    UNFIT = auto()
    LOST = auto()


def read(rows: Iterable[tuple[str, object]], latency: float = 0.0, asked: float = 0.0) -> Report:
    """The report in the rows that QUERY gave. Raises NoGalera when the node is none of a Galera cluster."""
    said = {str(name): _text(value) for name, value in rows}
    missing = [name for name in (*_STATUS, *_VARIABLES) if name not in said]
    if missing:
        raise NoGalera(f"no Galera node: it does not tell {missing[0]}")
    return Report(
        state=_number(said["wsrep_local_state"]), comment=_word(said["wsrep_local_state_comment"]) or "no state",
        ready=_is_on(said["wsrep_ready"]), status=_word(said["wsrep_cluster_status"]) or "no cluster",
        view=View(_word(said["wsrep_cluster_state_uuid"]), _number(said["wsrep_cluster_conf_id"]),
                  _number(said["wsrep_cluster_size"]),
                  tuple(printable(member.strip()) for member in said["wsrep_incoming_addresses"].split(","))),
        index=_number(said["wsrep_local_index"], NO_INDEX),
        queue=_number(said["wsrep_local_recv_queue"]), name=_word(said["wsrep_node_name"]),
        read_only=_is_on(said["read_only"]), rejects=_word(said["wsrep_reject_queries"]).upper() or "NONE",
        donor_rejects=_is_on(said["wsrep_sst_donor_rejects_queries"]), desync=_is_on(said["wsrep_desync"]),
        max_connections=_number(said.get("max_connections", "")),
        max_connect_errors=_number(said.get("max_connect_errors", "")),
        blocks=not _is_on(said.get("skip_name_resolve", "")) and said.get("host_cache_size") != "0", latency=latency,
        asked=asked)


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
    if report.state not in (DONOR, SYNCED):
        return Grade.UNFIT, report.comment
    if report.read_only:
        return Grade.UNFIT, "read_only"
    return (Grade.GOOD if report.state == SYNCED else Grade.DONOR), report.comment


def nodes_in(members: Iterable[str]) -> list[str]:
    """The members of a view that hold data: an arbitrator (garbd) has an empty entry."""
    return [member for member in members if member]


def _text(value: object) -> str:
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else "" if value is None else str(value)


def _word(text: str) -> str:
    """A name or a state, as it may be quoted in commands, in a table and in the log."""
    return shortened(text, WORD)


def _number(text: str, default: int = -1) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else default


def _is_on(text: str) -> bool:
    return text.upper() not in ("", "0", "OFF", "NO", "FALSE")
