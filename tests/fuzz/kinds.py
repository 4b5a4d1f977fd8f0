"""The table of all kinds of input."""

from __future__ import annotations

from tests.fuzz import datagrams, http, lines, mysql, peers, proxy, tls
from tests.fuzz.kind import Kind, pure

KINDS = (
    Kind("lines", "control lines, read and run", lines.scripts, pure(lines.check_parsing), 300, len),
    Kind("control", "control lines to a gpen", lines.scripts, lines.control_trial, 150, len),
    Kind("socket", "bytes to its control socket", lines.streams, lines.stream_trial, 150),
    Kind("files", "files of -F, read again", lines.files, lines.file_trial, 150),
    Kind("headers", "PROXY headers, read", proxy.streams, pure(proxy.check_reading), 400),
    Kind("proxy", "PROXY headers to a gpen", proxy.streams, proxy.proxy_trial, 100, lambda case: 2),
    Kind("requests", "HTTP requests, written anew", http.streams, pure(http.check_requests), 400),
    Kind("responses", "HTTP responses, watched", http.responses, pure(http.check_responses), 400),
    Kind("http", "HTTP through a gpen", http.conversations, http.http_trial, 100),
    Kind("names", "TLS hellos, read", tls.streams, pure(tls.check_reading), 400),
    Kind("routes", "TLS hellos passed on by a gpen", tls.streams, tls.routed_trial, 100),
    Kind("hellos", "TLS hellos to a gpen", tls.streams, tls.tls_trial, 100),
    Kind("greetings", "MySQL greetings to a gpen", mysql.conversations, mysql.greeting_trial, 100),
    Kind("datagrams", "UDP through a gpen", datagrams.floods, datagrams.datagram_trial, 100, len),
    Kind("messages", "what peers say, read", peers.streams, pure(peers.check_reading), 400),
    Kind("peers", "what peers say to a gpen", peers.streams, peers.peers_trial, 100, lambda case: 2),
    Kind("netlog", "datagrams to gpenlogd", datagrams.logs, datagrams.collector_trial, 150, len),
)
