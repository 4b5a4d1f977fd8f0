"""What the benchmark before a cluster makes of sysbench's words and of its samples."""

from __future__ import annotations

import pytest

from tests.bench import galera
from tests.bench.measure import CpuTime
from tests.bench.process import BenchError
from tests.bench.trials import Sample


def samples(*rounds: tuple[float, float]) -> list[Sample]:
    """Of transactions a second, and microseconds of CPU time for each."""
    return [Sample(rate, cpu=CpuTime(micros / 4e6, micros * 3 / 4e6)) for rate, micros in rounds]


FOUND = {
    "direct": [Sample(800.0), Sample(820.0), Sample(700.0)],
    "haproxy": samples((500, 700), (600, 800), (400, 1000)),
    "gpen": samples((510, 665), (600, 768), (400, 990)),
    "gpen, pure": samples((450, 770), (594, 896), (400, 1200)),
}


def test_sysbench_is_read() -> None:
    text = """
SQL statistics:
    queries performed:
        read:                            56434
    transactions:                        4031   (402.86 per sec.)
    queries:                             80620  (8057.18 per sec.)
"""
    assert galera.parse_sysbench(text) == (4031, 402.86)


@pytest.mark.parametrize("text", ["", "FATAL: unable to connect", "transactions:    0      (0.00 per sec.)"])
def test_a_sysbench_that_did_nothing_is_no_measurement(text: str) -> None:
    with pytest.raises(BenchError, match="made no transactions"):
        galera.parse_sysbench(text)


def test_ratios_are_the_median_of_the_rounds_own() -> None:
    assert galera.table(FOUND).rows == [
        ["direct", "800", "1.60", "", ""],
        ["haproxy", "500", "1.00", "800.0 (200.0)", "1.00"],
        ["gpen", "510", "1.00", "768.0 (192.0)", "0.96"],
        ["gpen, pure", "450", "0.99", "896.0 (224.0)", "1.12"]]


def test_each_gpen_is_held_to_haproxy() -> None:
    assert [(target.title, round(target.measured, 2), target.met) for target in galera.targets(FOUND)] == [
        ("gpen: CPU time of a transaction, of haproxy's", 0.96, True),
        ("gpen, pure: CPU time of a transaction, of haproxy's", 1.12, False)]


def test_without_haproxy_nothing_is_compared() -> None:
    alone = {name: found for name, found in FOUND.items() if name != "haproxy"}
    assert galera.targets(alone) == []
    assert galera.table(alone).rows[1] == ["gpen", "510", "", "768.0 (192.0)", ""]
