"""Whether a node may block the address that all clients of a gpen come from: its max_connect_errors. Pure.

After so many connections in a row without a login a server refuses the address that they came from, with error 1129,
until FLUSH HOSTS. Behind a balancer that is the balancer's, whoever it was that left. A login that succeeds begins the
count anew; one that is refused does not count (MariaDB 10.11, by performance_schema.host_cache).
"""

from __future__ import annotations

from gpen.galera.report import Report

# One gpen passes on some 10,000 new connections a second: for more than 100 seconds nobody may have logged in.
ENOUGH = 1_000_000


def limit(report: Report | None, is_shared: bool) -> int | None:
    """The max_connect_errors of a node, where it is so low that the node may block a gpen; else None.

    ``is_shared``: some gpen hides its clients' addresses from the node.
    """
    if report is None or not (is_shared and report.blocks):
        return None
    return report.max_connect_errors if 0 <= report.max_connect_errors < ENOUGH else None


def warning(limit: int) -> str:
    """What is to be said of a node with so low a limit, and the remedy."""
    return (f"max_connect_errors is {limit}: so many clients in a row that leave without a login, and it blocks gpen's "
            "address for all (error 1129): SET GLOBAL max_connect_errors = 4294967295, and in its configuration; or "
            "proxy_protocol v2 in gpen with proxy_protocol_networks there")
