"""docs/METRICS.md, made from the tables of metrics, so that names can't drift from what is exported.

    python -m gpen.docs.metrics > docs/METRICS.md
    python -m gpen.galera.manual metrics >> docs/METRICS.md
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby

from gpen.docs.markdown import code, escape, table
from gpen.web.exposition import HISTOGRAM, INFO, Metric
from gpen.web.metrics import IDENTITIES, METRICS

_INTRODUCTION = """\
# Metrics

Made from the tables by `make man`: change them there. What to do with them is in [MONITORING.md](MONITORING.md).

A series that has nothing to tell is left out: the limit of a server without one, the checks of a server that is not
checked, what a node does not say. A counter begins at 0 when the process begins; those of a server go on where another
gpen takes over. A `_info` is always 1, and its labels tell. `_bucket`, `_sum` and `_count` of a histogram belong
together; its times are in seconds.

## gpen

At `http://HOST:PORT/metrics`, with the setting `metrics HOST:PORT`. Where there are workers, all of them are added up.
Of states and the like there is a series for each word, 1 for the one that holds and 0 for all others. `listener` is the
listener's name, and `-` that of the one without a name; `server` is a server's number, or what a special one is called;
`peer` is a peer's name.
"""

_HEADINGS = {"gpen": "gpen as a whole", "listener": "Listeners", "server": "Servers", "worker": "Workers",
             "peer": "Peers", "process": "The process"}


def page() -> str:
    """What there is of gpen."""
    return _INTRODUCTION + "".join(tables(METRICS, IDENTITIES, _HEADINGS))


def tables(metrics: Iterable[Metric], identities: Mapping[str, Iterable[str]],
           headings: Mapping[str, str]) -> Iterator[str]:
    """A table for each kind of things that metrics are about."""
    for about, group in groupby(metrics, key=lambda metric: metric.about):
        rows = ((code(metric.name), metric.kind, ", ".join(map(code, labels_of(metric, identities))),
                 escape(metric.help)) for metric in group)
        yield f"\n### {headings[about]}\n\n{table(('name', 'kind', 'labels', 'what it tells'), rows)}\n"


def labels_of(metric: Metric, identities: Mapping[str, Iterable[str]]) -> list[str]:
    """The labels of a metric's series; of a histogram those of its buckets."""
    more: list[str] = [metric.label] if metric.label else []
    if metric.kind == INFO:
        more = list(metric.value(defaultdict(str)))
    elif metric.kind == HISTOGRAM:
        more = ["le"]
    return [*identities[metric.about], *more]


if __name__ == "__main__":
    sys.stdout.write(page())
