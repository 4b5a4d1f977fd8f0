"""One command of gpenctl: ask the daemon, and show what it says."""

from __future__ import annotations

import json

from gpen.gpenctl.link import ask, follow
from gpen.gpenctl.progress import progress
from gpen.gpenctl.quick import is_followed, is_unready
from gpen.gpenctl.show import View, explained, fetch, is_json, out, refused, show_reply
from gpen.gpenctl.tables import asked, csv_text, table

UPGRADE = 90.0  # seconds that a new gpen may take until it serves, however short --timeout is


def run(line: str, view: View) -> int:
    """Send `line`, show the reply. The exit status: 0, or 1 when the daemon said error, or that it is not ready. Raises
    LinkError."""
    name = asked(line)
    if refusal := refused(view):
        return show_reply(refusal, view)
    if is_followed(line):
        return progress(line, view)
    if line.split()[:1] == ["upgrade"]:
        return show_reply("".join(f"{told}\n" for told in follow(view.target, line, view.timeout, UPGRADE)), view)
    if view.format == "plain" or not name or (name == "ready" and view.format == "table"):  # lines for people already
        reply = ask(view.target, line, view.timeout)
        return show_reply(reply, view) or int(is_unready(line, reply))
    reply, value = fetch(line, view)
    if value is None:
        return show_reply(reply, view)
    if view.format == "json":
        out(reply if is_json(reply) else json.dumps(value), view)
    elif view.format == "csv":
        out(csv_text(name, value), view)
    elif name == "help":
        out(explained(value, view.width), view)
    else:
        out(table(name, value, view.width, view.color), view, painted=True)
    return int(name == "ready" and value.get("ready") is not True)
