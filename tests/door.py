"""A client of the HTTP door of a gpen (the setting metrics)."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families as prometheus_families

from tests.harness import PATIENCE, Gpen, connect, pair_of

DOOR = ("-O", "metrics 127.0.0.1:0")


class Answer(NamedTuple):
    """What came: the text, and the headers by their names in small letters."""

    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)


class Connection(http.client.HTTPConnection):
    """One to the door of this gpen, over TCP or a unix socket."""

    def __init__(self, balancer: Gpen) -> None:
        self._place = pair_of(balancer.ctl("metrics").strip())
        super().__init__("gpen", timeout=PATIENCE)

    def connect(self) -> None:
        self.sock: socket.socket = connect(self._place)


def ask(balancer: Gpen, path: str, method: str = "GET", body: str | None = None, **headers: str) -> Answer:
    """Ask for a path; headers are named with _ for -."""
    with contextlib.closing(Connection(balancer)) as connection:
        return asked(connection, path, method, body, **headers)


def asked(connection: Connection, path: str, method: str = "GET", body: str | None = None, **headers: str) -> Answer:
    """The same over a connection that stays open."""
    connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read().decode())


Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def samples(balancer: Gpen, openmetrics: bool = False) -> Samples:
    """All that /metrics says, as Prometheus' own parser reads it: values by name and labels."""
    accept = {"Accept": "application/openmetrics-text; version=1.0.0"} if openmetrics else {}
    text = ask(balancer, "/metrics", **accept).text
    return dict(_read(text, openmetrics))


def _read(text: str, openmetrics: bool) -> Iterator[tuple[tuple[str, tuple[tuple[str, str], ...]], float]]:
    families = (openmetrics_families if openmetrics else prometheus_families)(text)
    for family in families:
        for sample in family.samples:
            yield (sample.name, tuple(sorted(sample.labels.items()))), sample.value


def value(balancer: Gpen, name: str, **labels: str) -> float | None:
    """The value of one series, or None."""
    return samples(balancer).get((name, tuple(sorted(labels.items()))))
