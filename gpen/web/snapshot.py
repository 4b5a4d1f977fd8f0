"""The page as one file, which holds what it shows and asks nobody for more.

Its style, its script and the data stand in it. So that nothing of the data can become markup, or a script, the data are
JSON without a <, and a policy in the page's head lets the browser run this very script and no other.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

MOST_ROWS = 200  # of each table

# read now: from within a chroot they are not to be seen
INDEX, STYLE, SCRIPT = (Path(__file__).with_name("page").joinpath(name).read_text("utf-8")
                        for name in ("index.html", "page.css", "page.js"))


def _source(text: str) -> str:
    """How a policy names a style or a script that stands in the page."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


_POLICY = (f"default-src 'none'; script-src {_source(SCRIPT)}; style-src {_source(STYLE)}; img-src data:; "
           "base-uri 'none'; form-action 'none'")
_HEAD = '<meta charset="utf-8">'
_PLACE = '<script src="page.js"></script>'
_BEFORE, _AFTER = (
    INDEX
    .replace(_HEAD, f'{_HEAD}\n<meta http-equiv="Content-Security-Policy" content="{_POLICY}">')
    .replace('<link rel="stylesheet" href="page.css">', f"<style>{STYLE}</style>")
    .split(_PLACE))


def snapshot(now: float, info: Mapping[str, Any], tables: Mapping[str, Iterable[Mapping[str, Any]]]) -> str:
    """The page as of ``now`` (seconds since 1970), in HTML; ``info`` and the rows of ``tables`` are those of the
    commands of these names. At most MOST_ROWS of each table are taken."""
    rows = {name: list(islice(table, MOST_ROWS + 1)) for name, table in tables.items()}
    cut = [name for name in rows if len(rows[name]) > MOST_ROWS]
    data = {"as_of": now, "info": info, "cut": cut, **{name: rows[name][:MOST_ROWS] for name in rows}}
    return (f'{_BEFORE}<script type="application/json" id="data">{embedded(data)}</script>\n'
            f"<script>{SCRIPT}</script>{_AFTER}")


def embedded(value: object) -> str:
    """A value as JSON that can stand in an element of a page: in ASCII, and without a <."""
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")
