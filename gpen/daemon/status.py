"""The status page: one HTML file without outside assets, legible on a phone; what came from outside is escaped."""

from __future__ import annotations

import time
from collections.abc import Iterable
from html import escape
from itertools import islice
from typing import TYPE_CHECKING, Any

from gpen import __version__
from gpen.control.reply import timestamp
from gpen.control.script import Call, parse_words
from gpen.control.units import size
from gpen.core import CORE
from gpen.model.address import bracketed
from gpen.model.ending import ERRORS
from gpen.model.listener import numbers_words
from gpen.model.text import printable
from gpen.model.value_types import UNNAMED

if TYPE_CHECKING:
    from gpen.daemon.queries import Queries

MOST_ROWS = 200

_STYLE = """
:root{color-scheme:light dark;--line:#8884;--soft:#8882;--good:#1a7f37;--bad:#cf222e;--wait:#b35900}
body{font:15px/1.45 system-ui,sans-serif;margin:1rem auto;max-width:75rem;padding:0 1rem}
h1{font-size:1.4rem}h2{font-size:1.1rem;margin:2rem 0 .5rem}
.figures{display:flex;flex-wrap:wrap;gap:.5rem}.figures div{background:var(--soft);border-radius:.5rem;
padding:.4rem .8rem}.figures b{display:block;font-size:1.2rem}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{padding:.35rem .6rem;text-align:left;border-bottom:1px solid var(--line);white-space:nowrap}
td.n,th.n{text-align:right}td.why{white-space:normal;min-width:12rem}
.up{color:var(--good)}.down{color:var(--bad)}.trial,.drain,.maint{color:var(--wait)}
@media(max-width:40rem){thead{display:none}tr{display:block;padding:.5rem 0;border-bottom:1px solid var(--line)}
td{display:flex;justify-content:space-between;border:0;padding:.1rem 0;white-space:normal}
td:empty{display:none}td::before{content:attr(data-name);opacity:.7;margin-right:1rem}}
"""

# key of the row, heading, class of the cell
_SERVERS = (
    ("name", "Server", ""), ("place", "Address", ""), ("health", "Health", "health"), ("changed", "Since", ""),
    ("state", "State", "health"), ("verdict_by", "Verdict by", ""), ("why", "Reason", "why"),
    ("sessions", "Sessions", "n"), ("limits", "Max / hard", "n"), ("weight", "Weight", "n"), ("prio", "Prio", "n"),
    ("total", "Total", "n"), ("failures", "Failed", "n"), ("sx", "Sent", "n bytes"), ("rx", "Received", "n bytes"),
)
_CLIENTS = (
    ("address", "Client", ""), ("sessions", "Sessions", "n"), ("connects", "Connects", "n"), ("server", "Server", ""),
    ("idle", "Seconds ago", "n"),
    ("sx", "Sent", "n bytes"), ("rx", "Received", "n bytes"),
)
_LISTENERS = (
    ("name", "Listener", ""), ("address", "Address", ""), ("protocol", "Clients speak", ""),
    ("rule", "Servers chosen by", ""), ("used", "Servers", "why"), ("tracking_with", "Memory shared with", ""),
    ("limits", "Sessions", "n"), ("held", "Waiting", "n"), ("total", "Total", "n"),
)
_WORKERS = (
    ("number", "Worker", "n"), ("pid", "Process", "n"), ("sessions", "Sessions", "n"), ("total", "Total", "n"),
    ("cpu", "CPU time, s", "n"), ("since", "Since", ""), ("silent", "Seconds without a sign", "n"),
)
_SESSIONS = (
    ("id", "Session", "n"), ("listener", "Listener", ""), ("client", "Client", ""), ("server", "Server", ""),
    ("server_address", "Address", ""),
    ("state", "State", ""), ("age", "Age, s", "n"), ("idle", "Idle, s", "n"), ("up", "To server", "n bytes"),
    ("down", "To client", "n bytes"), ("secured", "TLS", "why"),
)


def status_page(queries: Queries) -> str:
    """The whole page for the balancer behind these queries."""
    summary = queries.summary()
    servers = [_server(row) for row in islice(queries.servers(_call("servers")), MOST_ROWS + 1)]
    listeners = [_listener(row) for row in islice(queries.listeners(_call("listeners")), MOST_ROWS + 1)]
    clients = list(islice(queries.recent(_call("recent")), MOST_ROWS + 1))
    sessions = [row | {"secured": _secured(row)} for row in islice(queries.sessions(_call("sessions")), MOST_ROWS + 1)]
    workers = [row | {"since": timestamp(row["started"])} for row in summary["workers"]]
    now = timestamp(time.time())
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<title>gpen {_shown(summary['listen'])}</title><style>{_STYLE}</style></head><body>
<h1>gpen at {_shown(summary['listen'])}</h1>
<p>Version {__version__} ({CORE.flavour}), {escape(now)}, up since {escape(timestamp(summary['started']))}.</p>
{_figures(summary)}
<h2>Listeners</h2>{_table(_LISTENERS, listeners)}
<h2>Servers</h2>{_table(_SERVERS, servers)}
<h2>Clients of the last five minutes</h2>{_table(_CLIENTS, clients)}
{f"<h2>Workers</h2>{_table(_WORKERS, workers)}" if workers else ""}
<h2>Sessions</h2>{_table(_SESSIONS, sessions)}
</body></html>
"""


def _secured(session: dict[str, Any]) -> str:
    return " ".join(filter(None, (session["tls"], session["cipher"], session["sni"])))


def _listener(row: dict[str, Any]) -> dict[str, Any]:
    """A row of the listeners as people read it."""
    return row | {"name": row["name"] or UNNAMED, "used": numbers_words(row["servers"]),
                  "limits": f"{row['sessions']} of {row['conn_max']}"}


def _server(row: dict[str, Any]) -> dict[str, Any]:
    """A row of the servers with what only people read: since when it is up or down, and what says so."""
    since = row["verdict_since"] if row["verdict"] == row["health"] else row["since"]
    why = row["reason"] or row["verdict_reason"]
    sessions = f"{row['sessions']} + {row['old']} old" if row["old"] else row["sessions"]
    return row | {"place": _place(row), "limits": _limits(row), "changed": timestamp(since), "why": why,
                  "sessions": sessions}


def _place(row: dict[str, Any]) -> str:
    """Where a server is, with the name that it was given by."""
    where = f"{bracketed(row['address'])}:{row['port']}" if row["port"] else row["address"]
    return where if row["host"] == row["address"] else f"{where} ({row['host']})"


def _limits(row: dict[str, Any]) -> str:
    return f"{row['max'] or 'no limit'}" + (f" / {row['hard']}" if row["hard"] else "")


def _call(name: str) -> Call:
    return parse_words([name])


def _figures(summary: dict[str, Any]) -> str:
    figures = [("sessions", f"{summary['sessions']} of {summary['conn_max']}"),
               ("clients that wait", summary["held"]), ("sessions in all", summary["total"]),
               ("clients remembered", f"{summary['clients']} of {summary['clients_max']}")]
    figures += [("datagrams dropped: loops", summary["looped"])] if summary["looped"] else []
    cells = "".join(f"<div>{escape(name)}<b>{_shown(value)}</b></div>" for name, value in figures)
    for word, count in sorted(summary["endings"].items()):
        style = ' class="down"' if word in ERRORS else ""
        cells += f"<div{style}>ended: {escape(word)}<b>{count}</b></div>"
    return f'<div class="figures">{cells}</div>'


def _shown(value: object) -> str:
    """A value as HTML, which can neither be taken for markup nor hide what is in it."""
    return escape(printable(str(value)))


def _table(columns: Iterable[tuple[str, str, str]], rows: list[dict[str, Any]]) -> str:
    columns = list(columns)
    head = "".join(f'<th class="{kind}">{escape(title)}</th>' for _, title, kind in columns)
    body = "".join(f"<tr>{_cells(columns, row)}</tr>\n" for row in rows[:MOST_ROWS])
    more = f"<p>and more: the first {MOST_ROWS} are shown</p>" if len(rows) > MOST_ROWS else ""
    more = more if rows else "<p>none</p>"
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table></div>{more}'


def _cells(columns: list[tuple[str, str, str]], row: dict[str, Any]) -> str:
    cells = []
    for key, title, kind in columns:
        value = "" if row[key] is None else size(row[key]) if kind == "n bytes" else str(row[key])
        style = value if kind == "health" else kind
        cells.append(f'<td class="{escape(style)}" data-name="{escape(title)}">{_shown(value)}</td>')
    return "".join(cells)
