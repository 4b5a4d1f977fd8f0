"""What a run of the benchmark tells of its samples: tables, ratios, targets for each gpen."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from tests.bench import load, report
from tests.bench.measure import CpuTime
from tests.bench.process import BenchError
from tests.bench.proxies import GPEN, GPEN_PURE, HAPROXY, HAPROXY_SPLICE, PEN, Proxy, undisturbed
from tests.bench.run import Result, rotated
from tests.bench.trials import CLIENTS, MEASURES, PLAIN, SESSIONS, Plan, Sample

PLAN = Plan(rounds=2, seconds=1, clients=1000, sessions=500, proxy_core=0)


def samples(*values: float, micros: float = 0, errors: int = 0) -> list[Sample]:
    cpu = CpuTime(micros / 4e6, micros * 3 / 4e6) if micros else None
    return [Sample(value, errors, cpu) for value in values]


@pytest.fixture
def result() -> Result:
    """Of a run in which the compiled gpen met its targets, and the pure one missed most."""
    found = Result(PLAN, [dataclasses.replace(proxy, version=lambda: "1.0")
                          for proxy in (PEN, HAPROXY, HAPROXY_SPLICE, GPEN, GPEN_PURE)])
    found.samples = {
        "requests": {"pen": samples(100, 200), "haproxy": samples(90, 180), "gpen": samples(101, 200),
                     "gpen, pure": samples(80, 170)},
        "connections": {"pen": samples(100, 100, micros=60), "gpen": samples(99, 99, micros=62),
                        "gpen, pure": samples(70, 70, micros=90)},
        "bulk": {"pen": samples(1000, 1000), "haproxy, splice": samples(1200, 1300), "gpen": samples(3200, 3300),
                 "gpen, pure": samples(3000, 2400)},
        "idle": {"gpen": samples(0.7, 0.8), "gpen, pure": samples(2.1, 2.2)},
        "connection-instructions": {"pen": samples(2_200), "gpen": samples(51_646), "gpen, pure": samples(192_500)},
        "request-instructions": {"gpen": samples(536), "gpen, pure": samples(15_900)},
    }
    found.burden = {"gpen, pure": {PLAIN: samples(100, 200, micros=10), CLIENTS: samples(96, 188, micros=11),
                                   SESSIONS: samples(93, 194, micros=11)}}
    found.remembered = {"gpen, pure": 999}
    return found


def verdicts(result: Result) -> dict[str, tuple[float, bool]]:
    return {target.title: (round(target.measured, 3), target.met) for target in report.targets(result)}


def test_each_gpen_has_targets_of_its_own(result: Result) -> None:
    assert verdicts(result) == {
        "gpen: requests/s, of pen's": (1.005, True),
        "gpen: bulk MB/CPU s, of haproxy, splice's": (2.603, True),
        "gpen: CPU time of new conn/s, pen's divided by its own": (0.968, True),
        "gpen: instructions a connection": (51_646, True),
        "gpen: instructions a request": (536, True),
        "gpen: idle session KB": (0.75, True),
        "gpen: errors under load": (0, True),
        "gpen, pure: requests/s, of pen's": (0.825, False),
        "gpen, pure: bulk MB/CPU s, of haproxy, splice's": (2.173, False),
        "gpen, pure: CPU time of new conn/s, pen's divided by its own": (0.667, False),
        "gpen, pure: instructions a connection": (192_500, False),
        "gpen, pure: instructions a request": (15_900, True),
        "gpen, pure: idle session KB": (2.15, False),
        "gpen, pure: new conn/s with many clients, of plain": (0.95, True),
        "gpen, pure: new conn/s with many sessions, of plain": (0.95, True),
        "gpen, pure: clients remembered": (999, False),
        "gpen, pure: errors under load": (0, True),
    }


def test_a_gpen_that_was_not_measured_has_no_targets(result: Result) -> None:
    for row in result.samples.values():
        row.pop("gpen")
    assert not [title for title in verdicts(result) if not title.startswith("gpen, pure: ")]


def test_what_is_compared_needs_the_other(result: Result) -> None:
    result.samples = {"connections": {"gpen": result.samples["connections"]["gpen"]}}
    result.burden.clear()
    result.remembered.clear()
    assert verdicts(result) == {}


def test_errors_of_one_gpen_are_not_the_others(result: Result) -> None:
    result.samples["requests"]["gpen"] = samples(100, 200, errors=2)
    result.burden["gpen, pure"][CLIENTS] = samples(100, 200, errors=1)
    found = verdicts(result)
    assert found["gpen: errors under load"] == (4, False)
    assert found["gpen, pure: errors under load"] == (2, False)


def test_no_gpen_is_a_reference(result: Result) -> None:
    row = result.samples["bulk"]
    assert report.reference(MEASURES["bulk"], row) == "haproxy, splice"
    assert report.reference(MEASURES["bulk"], {name: row[name] for name in ("gpen", "gpen, pure")}) is None
    assert report.reference(MEASURES["idle"], result.samples["idle"]) is None


def test_times_counts_and_burdens_are_tables_of_their_own(result: Result) -> None:
    timed, exact, burdens, targets = report.tables(result)
    assert timed.header == ["", "requests/s", "new conn/s", "CPU µs (user)", "bulk MB/CPU s", "idle session KB"]
    assert timed.rows == [
        ["pen", "150 (1.00)", "100 (1.00)", "60.0 (15.0)", "1,000 (0.80)", ""],
        ["haproxy", "135 (0.90)", "", "", "", ""],
        ["haproxy, splice", "", "", "", "1,250 (1.00)", ""],
        ["gpen", "150 (1.00)", "99.0 (0.99)", "62.0 (15.5)", "3,250 (2.60)", "0.8"],
        ["gpen, pure", "125 (0.82)", "70.0 (0.70)", "90.0 (22.5)", "2,700 (2.17)", "2.2"]]
    assert exact.rows == [["pen", "2,200", ""], ["gpen", "51,646", "536"], ["gpen, pure", "192,500", "15,900"]]
    assert burdens.rows == [["gpen, pure, remembering clients", "150 (1.00)", "10.0 (2.5)"],
                            ["with 999 clients remembered", "142 (0.95)", "11.0 (2.8)"],
                            ["with 500 idle sessions open", "144 (0.95)", "11.0 (2.8)"]]
    assert targets.rows[3] == ["gpen: instructions a connection", "at most 55,000", "51,646", "met"]
    assert targets.rows[-2] == ["gpen, pure: clients remembered", "at least 1,000", "999", "MISSED"]


def test_a_report_names_each_program_once_and_no_sample_is_left_out(result: Result) -> None:
    assert "\npen 1.0, haproxy 1.0, gpen 1.0, wrk " in report.as_text(result, verbose=False)
    rows = json.loads(report.as_json(result))["samples"]
    assert len(rows) == 2 * 13 + 5 + 6
    assert {"measure": "burden of gpen, pure", "name": "clients", "round": 2, "value": 188, "errors": 0,
            "cpu": {"user": 2.75e-6, "system": 8.25e-6}, "busy": None} in rows


def test_a_gpen_is_pure_by_its_environment_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPEN_PURE", "1")
    assert "GPEN_PURE" not in GPEN.environment
    monkeypatch.delenv("GPEN_PURE")
    assert GPEN_PURE.environment["GPEN_PURE"] == "1"
    assert command_of(GPEN) == command_of(GPEN_PURE)


def test_only_a_gpen_is_counted_without_its_janitor() -> None:
    assert undisturbed(PEN) is PEN
    assert undisturbed(GPEN_PURE).environment["GPEN_PURE"] == "1"
    python, option, module, *words = command_of(undisturbed(GPEN))
    assert (option, module) == ("-m", "tests.bench.undisturbed")
    assert [python, "bin/gpen", *words] == command_of(GPEN)


def command_of(proxy: Proxy) -> list[str]:
    return proxy.command("127.0.0.1:1", "127.0.0.1:2", Path("/"))


def test_each_round_begins_with_another() -> None:
    assert [rotated("abc", number) for number in range(4)] == [["a", "b", "c"], ["b", "c", "a"], ["c", "a", "b"],
                                                               ["a", "b", "c"]]


def test_wrk_is_read_with_its_errors() -> None:
    text = """
  300 requests in 1.01s, 40.00KB read
  Socket errors: connect 1, read 2, write 0, timeout 4
  Non-2xx or 3xx responses: 8
Requests/sec:    297.03
"""
    assert load.parse_wrk(text) == load.Load(300, 297.03, 15)
    with pytest.raises(BenchError, match="can't be read"):
        load.parse_wrk("unable to connect to 127.0.0.1:1 Connection refused")
