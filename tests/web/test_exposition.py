"""The text of metrics, as Prometheus' own parsers read it."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families as prometheus_families

from gpen.web.exposition import COUNTER, GAUGE, HISTOGRAM, INFO, Histogram, Metric, exposition, labelled
from gpen.web.metrics import IDENTITIES, METRICS, names

PARSERS = {False: prometheus_families, True: openmetrics_families}
both = pytest.mark.parametrize("is_openmetrics", [False, True])


def read(metrics: list[Metric], rows: dict[str, list[dict[str, Any]]], is_openmetrics: bool,
         ) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    of_each = {about: [labelled(row, {"name": "name"} if row else {}) for row in each] for about, each in rows.items()}
    text = "".join(exposition(metrics, of_each, is_openmetrics))
    return {(sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in PARSERS[is_openmetrics](text) for sample in family.samples}


@both
@given(names=st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r")), unique=True, min_size=1))
def test_labels_are_what_they_were(is_openmetrics: bool, names: list[str]) -> None:
    """Whatever servers and listeners may be called: nothing leaves its quotes."""
    metric = Metric("a_thing", GAUGE, 'A "thing", \\ and\nmore.', "thing", lambda row: 1)
    said = read([metric], {"thing": [{"name": name} for name in names]}, is_openmetrics)
    assert said == {("a_thing", (("name", name),)): 1 for name in names}


@both
@given(number=st.one_of(st.integers(0, 2**53), st.floats(0, allow_nan=False)))
def test_numbers_are_what_they_were(is_openmetrics: bool, number: float) -> None:
    metric = Metric("a_thing_total", COUNTER, "One.", "thing", lambda row: number)
    said = read([metric], {"thing": [{}]}, is_openmetrics)
    assert said == {("a_thing_total", ()): number}


@both
@given(values=st.lists(st.floats(0, 100)))
def test_a_histogram_counts_up_to_each_bound(is_openmetrics: bool, values: list[float]) -> None:
    histogram = Histogram((0.1, 1.0, 10.0))
    for value in values:
        histogram.observe(value)
    metric = Metric("a_wait_seconds", HISTOGRAM, "One.", "thing", lambda row: histogram)
    said = read([metric], {"thing": [{"name": "x"}]}, is_openmetrics)
    buckets = {float(dict(its)["le"]): count for (name, its), count in said.items() if name.endswith("_bucket")}
    assert buckets == {bound: sum(value <= bound for value in values) for bound in (0.1, 1.0, 10.0, math.inf)}
    assert said["a_wait_seconds_count", (("name", "x"),)] == len(values)
    assert said["a_wait_seconds_sum", (("name", "x"),)] == pytest.approx(math.fsum(values))


@both
def test_what_is_not_known_is_not_said(is_openmetrics: bool) -> None:
    """Nor is a family of which there is nothing."""
    metrics = [Metric("a_limit", GAUGE, "One.", "thing", lambda row: row["limit"]),
               Metric("a_build_info", INFO, "One.", "thing", lambda row: {"version": row["name"]}),
               Metric("a_state", GAUGE, "One.", "thing", lambda row: {"up": True, "down": False}, "state"),
               Metric("another", GAUGE, "One.", "other", lambda row: 1)]
    said = read(metrics, {"thing": [{"name": "x", "limit": None}], "other": []}, is_openmetrics)
    assert said == {("a_build_info", (("name", "x"), ("version", "x"))): 1,
                    ("a_state", (("name", "x"), ("state", "up"))): 1,
                    ("a_state", (("name", "x"), ("state", "down"))): 0}


def test_names_are_as_prometheus_asks() -> None:
    assert len({name for metric in METRICS for name in names(metric)}) == sum(len(list(names(m))) for m in METRICS)
    for metric in METRICS:
        assert metric.name.startswith(("gpen_", "process_")) and metric.about in IDENTITIES
        assert metric.name.endswith("_total") == (metric.kind == COUNTER), metric.name
        assert metric.name.endswith("_info") == (metric.kind == INFO), metric.name
        assert metric.help.endswith(".")
