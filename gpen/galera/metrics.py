"""The table of the watcher's metrics: what is exported, under which name, and what it means. Pure.

What a node has not told, or nobody knows, is left out: a series that ends is seen in a graph, a number that was made up
is not.
"""

from __future__ import annotations

from gpen.model.server import VERDICTS
from gpen.web.exposition import COUNTER, GAUGE, HISTOGRAM, INFO, Metric, item, items, one_of
from gpen.web.metrics import METRICS as OF_GPEN

# by wsrep_local_state; unknown: the node does not report
STATES = {0: "initialized", 1: "joining", 2: "donor", 3: "joined", 4: "synced", 5: "error"}
UNKNOWN = "unknown"
ROLES = ("writer", "standby", "reader", "out")

# what a row is about: the keys of it that are its labels
IDENTITIES: dict[str, dict[str, str]] = {
    "watcher": {}, "process": {}, "cluster": {}, "writer": {}, "node": {"node": "node"}, "gpen": {"gpen": "gpen"},
}

METRICS: tuple[Metric, ...] = (
    # the watcher
    Metric("gpen_galera_build_info", INFO, "What the watcher is: its version, and Python's.", "watcher",
           items("version", "python")),
    Metric("gpen_galera_start_time_seconds", GAUGE, "When it began to watch, in seconds since 1970.", "watcher",
           item("started")),
    Metric("gpen_galera_well", GAUGE, "Whether every node is usable, every gpen answers, and nothing fails in the "
           "watcher: the exit status of gpen-galera status.", "watcher", item("well")),
    Metric("gpen_galera_pass_duration_seconds", HISTOGRAM, "What a pass took in which it judged all nodes, settled the "
           "writer and made plans for the gpens.", "watcher", item("passes")),
    Metric("gpen_galera_wakes_total", COUNTER, "How often it was woken to ask all nodes at once: by gpen-galera "
           "notify, or by what it has done itself.", "watcher", item("wakes")),
    Metric("gpen_galera_faults_total", COUNTER, "What failed in the watcher itself and was tried again; its log says "
           "how.", "watcher", item("faults")),
    # the cluster
    Metric("gpen_galera_cluster_info", INFO, "The cluster that is followed, by its UUID.", "cluster",
           items("uuid")),
    Metric("gpen_galera_cluster_primary", GAUGE, "Whether a node answers that is in the primary component of the "
           "cluster that is followed.", "cluster", item("primary")),
    Metric("gpen_galera_cluster_size", GAUGE, "How many members that component has, by its own account; arbitrators "
           "(garbd) count.", "cluster", item("size")),
    Metric("gpen_galera_cluster_answering", GAUGE, "How many of the nodes that are watched answer and are in it.",
           "cluster", item("answering")),
    Metric("gpen_galera_cluster_conf_id", GAUGE, "The number of its membership, which is another one after each change "
           "(wsrep_cluster_conf_id).", "cluster", item("conf_id")),
    # the writer, where a gpen or a listener gets the writes
    Metric("gpen_galera_writer_known", GAUGE, "Whether there is a writer.", "writer", item("known")),
    Metric("gpen_galera_writer_usable", GAUGE, "Whether the writer is usable now, and does not hand over.", "writer",
           item("usable")),
    Metric("gpen_galera_writer_changes_total", COUNTER, "How often another node became the writer, or none was left.",
           "writer", item("changes")),
    Metric("gpen_galera_writer_choice", GAUGE, "The number of the choice that the watchers have agreed upon (--agree).",
           "writer", item("choice")),
    Metric("gpen_galera_agreement_trouble", GAUGE, "Whether something is wrong with the agreement (--agree); "
           "gpen-galera status says what.", "writer", item("trouble")),
    # nodes
    Metric("gpen_galera_node_info", INFO, "A node: its address, and what it calls itself.", "node",
           items("name")),
    Metric("gpen_galera_node_state", GAUGE, "Its state by its own account: 1 for the one that holds.", "node",
           one_of((*STATES.values(), UNKNOWN), "state"), "state"),
    Metric("gpen_galera_node_role", GAUGE, "Its part: the writer, one that may follow it, one for reads only, or out, "
           "not usable: 1 for the one that holds.", "node", one_of(ROLES, "role"), "role"),
    Metric("gpen_galera_node_verdict", GAUGE, "What gpens are told of it: 1 for what holds.", "node",
           one_of(VERDICTS, "verdict"), "verdict"),
    Metric("gpen_galera_node_usable", GAUGE, "Whether it is usable.", "node", item("usable")),
    Metric("gpen_galera_node_changed_seconds", GAUGE, "Seconds since that verdict changed.", "node", item("changed")),
    Metric("gpen_galera_node_blind", GAUGE, "Whether the watcher can't see it, for a reason of its own or its account; "
           "the last verdict stays.", "node", item("blind")),
    Metric("gpen_galera_node_primary", GAUGE, "Whether it is in a primary component, by its own account.", "node",
           item("primary")),
    Metric("gpen_galera_node_cluster_size", GAUGE, "How many members its component has, by its own account.", "node",
           item("size")),
    Metric("gpen_galera_node_ready", GAUGE, "Whether it takes queries (wsrep_ready).", "node", item("ready")),
    Metric("gpen_galera_node_read_only", GAUGE, "Whether it has read_only.", "node", item("read_only")),
    Metric("gpen_galera_node_receive_queue", GAUGE, "Write sets that it has received and not applied "
           "(wsrep_local_recv_queue).", "node", item("queue")),
    Metric("gpen_galera_node_flow_control_paused_ratio", GAUGE, "For what share of the last second its writes waited "
           "for flow control, 0 to 1.", "node", item("paused")),
    Metric("gpen_galera_node_flow_control_paused_seconds_total", COUNTER, "For how long they have waited since it "
           "began.", "node", item("paused_total")),
    Metric("gpen_galera_node_committed_writesets_total", COUNTER, "The number of the last write set that it has "
           "committed (wsrep_last_committed): one that is behind the others lags.", "node", item("committed")),
    Metric("gpen_galera_node_connections", GAUGE, "Connections that it has (Threads_connected).", "node",
           item("connections")),
    Metric("gpen_galera_node_connections_limit", GAUGE, "The most that it takes (max_connections).", "node",
           item("max_connections")),
    Metric("gpen_galera_node_answer_seconds", GAUGE, "How long its last answer took.", "node", item("latency")),
    Metric("gpen_galera_node_questions_total", COUNTER, "Questions to it by what came of them: answered, failed, blind "
           "(the watcher could not ask), late (once each time that it owed an answer for --timeout).", "node",
           item("questions"), "result"),
    # gpens
    Metric("gpen_galera_gpen_up", GAUGE, "Whether a gpen answers, and carries out what it is told.", "gpen",
           item("up")),
    Metric("gpen_galera_gpen_rounds_total", COUNTER, "How often it was to be told how the nodes are, by what came of "
           "it: told, refused (or something is amiss with it), unreachable, late (what it was to be told was old).",
           "gpen", item("rounds"), "result"),
    # the process, under the names that all programs use
    *(metric for metric in OF_GPEN if metric.about == "process"),
)
