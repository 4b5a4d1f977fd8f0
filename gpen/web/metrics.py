"""The table of gpen's metrics: what is exported, under which name, and what it means.

/metrics, docs/METRICS.md, the dashboard's and the alerts' tests read it. Names are as prometheus.io asks: base units,
``_total`` for what only grows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from gpen.model.address import bracketed
from gpen.model.server import HEALTHS, STATES
from gpen.web.exposition import COUNTER, GAUGE, HISTOGRAM, INFO, Metric, Row, item, items, one_of

# seconds: of a choice, which takes microseconds unless clients are held, and of a connect over a network
TIMES = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

# what rows are about, and the labels by which they are told apart, each with the key of a row that it has its value
# from: rows are those of the commands info, listeners and servers, and of the settings workers and peers
IDENTITIES: dict[str, dict[str, str]] = {
    "gpen": {}, "process": {}, "listener": {"listener": "name"}, "server": {"server": "name"},
    "worker": {"worker": "number"}, "peer": {"peer": "name"},
}


def _causes(row: Row) -> dict[str, int]:
    """Failures by cause; of those that a gpen before has counted nobody knows it."""
    causes: dict[str, int] = dict(row["causes"])
    unknown = row["failures"] - sum(causes.values())
    return causes | {"unknown": unknown} if unknown else causes


def _routes(row: Row) -> dict[str, int]:
    return {route["route"]: route["total"] for route in row["routes"]}


def _is_up(server: Row) -> bool:
    return bool(server["state"] == "ready" and server["health"] in ("up", "trial"))


def _check(name: str) -> Callable[[Row], Any]:
    return lambda row: row["checks"][name] if row["checks"] is not None else None


def _checks(row: Row) -> dict[str, int]:
    checks = row["checks"]
    return {} if checks is None else {word: checks[word] for word in ("passed", "failed")}


def _agents(row: Row) -> dict[str, int]:
    agent = row["agent"]
    return {} if agent is None else {word: agent[word] for word in ("answered", "failed")}


_SENT, _RECEIVED = "Bytes sent to {}, those of sessions that run included.", "Bytes received from {}, likewise."
METRICS: tuple[Metric, ...] = (
    # gpen as a whole
    Metric("gpen_build_info", INFO, "What gpen is: version, and compiled or pure Python.", "gpen",
           items("version", "flavour", "python")),
    Metric("gpen_start_time_seconds", GAUGE, "When it began to serve, in seconds since 1970.", "gpen", item("started")),
    Metric("gpen_sessions", GAUGE, "Sessions, and flows of UDP, now.", "gpen", item("sessions")),
    Metric("gpen_sessions_limit", GAUGE, "Most sessions at one time, of all listeners together.", "gpen",
           item("conn_max")),
    Metric("gpen_sessions_begun_total", COUNTER, "Sessions that began.", "gpen", item("total")),
    Metric("gpen_sessions_ended_total", COUNTER, "Sessions that ended, by the reason, as the log has it.", "gpen",
           item("endings"), "ending"),
    Metric("gpen_session_errors_total", COUNTER, "Of these, those whose clients did not get what they came for.",
           "gpen", lambda row: sum(row["endings"].get(word, 0) for word in row["errors"])),
    Metric("gpen_held_clients", GAUGE, "Clients that wait for a server (hold).", "gpen", item("held")),
    Metric("gpen_clients", GAUGE, "Clients that are remembered.", "gpen", item("clients")),
    Metric("gpen_looped_datagrams_total", COUNTER, "Datagrams dropped because they came from a server, or gpen.",
           "gpen", item("looped")),
    Metric("gpen_events_total", COUNTER, "What happened to servers and gpen itself, as the command events tells it.",
           "gpen", item("events"), "event"),
    Metric("gpen_alerts_total", COUNTER, "Alerts of on_event, by what became of them: done, failed or lost.", "gpen",
           item("alerts"), "result"),
    # listeners
    Metric("gpen_listener_info", INFO, "A listener: where, what clients speak, how servers are chosen.", "listener",
           items("address", "protocol", "rule")),
    Metric("gpen_listener_ready", GAUGE, "Whether it can serve clients, as the command ready tells it.", "listener",
           item("ready")),
    Metric("gpen_listener_sessions", GAUGE, "Its sessions, or flows, now.", "listener", item("sessions")),
    Metric("gpen_listener_sessions_limit", GAUGE, "The most that it may have (conn_max).", "listener",
           item("conn_max")),
    Metric("gpen_listener_sessions_begun_total", COUNTER, "Its sessions that began.", "listener", item("total")),
    Metric("gpen_listener_sessions_ended_total", COUNTER, "Its sessions that ended, by the reason.", "listener",
           item("endings"), "ending"),
    Metric("gpen_listener_held_clients", GAUGE, "Its clients that wait for a server.", "listener", item("held")),
    Metric("gpen_listener_waiting_connections", GAUGE, "Connections that wait in the kernel to be accepted: "
           "at conn_max, say, or for connection_rate.", "listener", item("waiting")),
    Metric("gpen_listener_delayed_connections_total", COUNTER, "Connections that had to wait for connection_rate.",
           "listener", item("delayed")),
    Metric("gpen_listener_dropped_flows_total", COUNTER, "Flows of UDP that did not begin, for connection_rate.",
           "listener", item("dropped")),
    Metric("gpen_listener_bandwidth_limit_bytes", GAUGE, "Bytes a second that its sessions may move together, in each "
           "direction (bandwidth_total); none is exported where 0.", "listener",
           lambda row: row["bandwidth_total"] or None),
    Metric("gpen_listener_session_bandwidth_limit_bytes", GAUGE, "The same for each session (bandwidth).", "listener",
           lambda row: row["bandwidth"] or None),
    Metric("gpen_listener_bandwidth_shortages_total", COUNTER, "How often sessions had to wait for bandwidth_total.",
           "listener", item("shortages")),
    Metric("gpen_listener_rate_refusals_total", COUNTER, "Sessions, and flows, that were refused for client_rate.",
           "listener", lambda row: row["endings"].get("client-rate", 0)),
    Metric("gpen_listener_clients", GAUGE, "Clients that it remembers.", "listener", item("clients")),
    Metric("gpen_listener_servers", GAUGE, "Servers that it uses; special ones do not count.", "listener",
           item("servers_used")),
    Metric("gpen_listener_servers_up", GAUGE, "Of these, those that may get new clients.", "listener",
           item("servers_up")),
    Metric("gpen_listener_sent_bytes_total", COUNTER, _SENT.format("servers"), "listener", item("sx")),
    Metric("gpen_listener_received_bytes_total", COUNTER, _RECEIVED.format("servers"), "listener", item("rx")),
    Metric("gpen_listener_tls_handshakes_total", COUNTER, "TLS handshakes that clients completed.", "listener",
           item("handshakes")),
    Metric("gpen_listener_tls_failures_total", COUNTER, "TLS handshakes that failed, or were late.", "listener",
           lambda row: row["endings"].get("tls-handshake", 0)),
    Metric("gpen_listener_server_tls_handshakes_total", COUNTER, "TLS handshakes that its servers completed; one that "
           "fails is a failure of its server.", "listener", item("server_handshakes")),
    Metric("gpen_listener_server_tls_resumed_total", COUNTER, "Of these, those that went on with a session of before.",
           "listener", item("server_resumed")),
    Metric("gpen_listener_route_sessions_total", COUNTER, "Sessions that went a route, or were rejected by it; default "
           "is for those whom no other matched.", "listener", _routes, "route"),
    Metric("gpen_listener_udp_unanswered_total", COUNTER, "Flows of UDP that got no reply where one was due.",
           "listener", lambda row: row["endings"].get("unanswered", 0) if row["transport"] == "udp" else None),
    Metric("gpen_listener_dsr_frames_total", COUNTER, "Frames of direct server return: forwarded, dropped, overrun "
           "(the kernel had no room), arp (requests answered) and tarpit (connections accepted).", "listener",
           lambda row: row["dsr"]["frames"] if row["dsr"] else {}, "frames"),
    Metric("gpen_listener_choose_seconds", HISTOGRAM, "From a client's coming to the choice of its server.",
           "listener", item("choose")),
    Metric("gpen_listener_connect_seconds", HISTOGRAM, "From that choice to the connection with the server.",
           "listener", item("connect")),
    # servers
    Metric("gpen_server_info", INFO, "A server: its address, and the name that it was given by.", "server",
           lambda row: {"address": f"{bracketed(row['address'])}:{row['port']}" if row["port"] else row["address"],
                        "host": row["host"]}),
    Metric("gpen_server_state", GAUGE, "What the operator has said of it: 1 for the state that holds.", "server",
           one_of(STATES, "state"), "state"),
    Metric("gpen_server_health", GAUGE, "What was found of it: 1 for what holds.", "server",
           one_of(HEALTHS, "health"), "health"),
    Metric("gpen_server_up", GAUGE, "Whether it may get new clients: it is ready, and up or on trial.", "server",
           lambda row: int(_is_up(row))),
    Metric("gpen_server_changed_seconds", GAUGE, "Seconds since its health changed.", "server", item("for")),
    Metric("gpen_server_sessions", GAUGE, "Its sessions now.", "server", item("sessions")),
    Metric("gpen_server_sessions_limit", GAUGE, "The most that it may have (max); none is exported where 0.", "server",
           lambda row: row["max"] or None),
    Metric("gpen_server_weight", GAUGE, "Its weight.", "server", item("weight")),
    Metric("gpen_server_weight_now", GAUGE, "What counts of that: the share that its agent says.", "server",
           item("weight_now")),
    Metric("gpen_server_slow_start_ratio", GAUGE, "The part of its share that it has, up to 1: less while it came back "
           "less than slowstart seconds ago.", "server",
           lambda row: 1 if row["slow_start"] is None else row["slow_start"] / 100),
    Metric("gpen_server_sessions_begun_total", COUNTER, "Sessions that were given to it.", "server", item("total")),
    Metric("gpen_server_failures_total", COUNTER, "Connections to it that failed, by the cause.", "server", _causes,
           "cause"),
    Metric("gpen_server_sent_bytes_total", COUNTER, _SENT.format("it"), "server", item("sx")),
    Metric("gpen_server_received_bytes_total", COUNTER, _RECEIVED.format("it"), "server", item("rx")),
    Metric("gpen_server_checks_total", COUNTER, "Checks of it, by their result.", "server", _checks, "result"),
    Metric("gpen_server_check_duration_seconds", GAUGE, "How long its last check took.", "server", _check("seconds")),
    Metric("gpen_server_agent_checks_total", COUNTER, "How often its agent was asked, by whether it answered.",
           "server", _agents, "result"),
    # workers
    Metric("gpen_worker_sessions", GAUGE, "Sessions that a worker process serves now.", "worker", item("sessions")),
    Metric("gpen_worker_sessions_begun_total", COUNTER, "Sessions that it was given.", "worker", item("total")),
    Metric("gpen_worker_cpu_seconds_total", COUNTER, "CPU time that it took.", "worker", item("cpu")),
    Metric("gpen_worker_silent_seconds", GAUGE, "For how long it has given no sign.", "worker", item("silent")),
    # peers
    Metric("gpen_peer_connected", GAUGE, "Whether a peer is connected.", "peer",
           lambda row: int(row["state"] == "connected")),
    Metric("gpen_peer_changed_seconds", GAUGE, "Seconds since it was connected, or lost.", "peer", item("for")),
    Metric("gpen_peer_sent_entries_total", COUNTER, "Clients that it was told of.", "peer", item("sent")),
    Metric("gpen_peer_received_entries_total", COUNTER, "Clients that it has told of.", "peer", item("received")),
    Metric("gpen_peer_unknown_entries_total", COUNTER, "Of these, those at servers that are unknown here.", "peer",
           item("unknown")),
    Metric("gpen_peer_pending_entries", GAUGE, "Changes that it has not acknowledged.", "peer", item("pending")),
    # the process that chooses, under the names that all programs use
    Metric("process_cpu_seconds_total", COUNTER, "CPU time of the main process, user and system.", "process",
           item("cpu")),
    Metric("process_resident_memory_bytes", GAUGE, "Its memory.", "process", item("memory")),
    Metric("process_open_fds", GAUGE, "Its open descriptors.", "process", item("descriptors")),
    Metric("process_max_fds", GAUGE, "The most that it may have.", "process", item("most_descriptors")),
)


def with_servers(row: Row, servers: Mapping[str, Row]) -> Row:
    """A row of the command listeners, with how many of these rows of ``servers``, by their names, are its own, and how
    many of those are up."""
    numbers = row["servers"]
    names = [name for name, server in servers.items() if server["number"] is not None] if numbers is None else map(
        str, numbers)
    used = [servers[name] for name in names if name in servers and servers[name]["health"] != "empty"]
    return dict(row) | {"servers_used": len(used), "servers_up": sum(map(_is_up, used))}


def names(metric: Metric) -> Iterator[str]:
    """The names of all series of a metric."""
    if metric.kind == HISTOGRAM:
        yield from (f"{metric.name}_{part}" for part in ("bucket", "sum", "count"))
    else:
        yield metric.name
