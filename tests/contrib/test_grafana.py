"""The dashboard and the alerts: they ask for metrics and labels that exist, and Prometheus understands them."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gpen.docs.metrics import labels_of
from gpen.galera import metrics as galera
from gpen.web import metrics as web
from tests.contrib.service import CONTRIB, ROOT
from tests.metrics import promtool

PROMETHEUS = CONTRIB / "prometheus"
DASHBOARD: dict[str, Any] = json.loads((CONTRIB / "grafana" / "gpen.json").read_text())
OF_SCRAPES = {"job", "instance"}  # labels that Prometheus puts on all that it scrapes
# what Grafana puts in the place of its variables
VARIABLES = {"$__rate_interval": "1m", "$__interval": "15s", "$__range": "1h", "$instance": "a|b", "$watcher": "a|b",
             "$listener": ".*", "$server": ".*"}

WORDS = {"and", "or", "unless", "by", "without", "on", "ignoring", "group_left", "group_right", "offset", "bool"}
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|\[[^]]*\]|[a-zA-Z_][\w:]*|[^\s\w]|[\d.]\w*')


def labels_of_series() -> dict[str, set[str]]:
    """The labels of all series that there are."""
    found: dict[str, set[str]] = {"up": set()}
    for table in (web, galera):
        for metric in table.METRICS:
            for name in web.names(metric):
                labels = set(labels_of(metric, table.IDENTITIES))
                found[name] = labels if name.endswith("_bucket") else labels - {"le"}
    return found


SERIES = labels_of_series()


class Unknown(AssertionError):
    """An expression asks for what is not there."""


def check(expression: str) -> set[str]:
    """The metrics that an expression asks for. Raises Unknown for one that does not exist, and for a label that none of
    them has, or not the one whose braces it stands in."""
    tokens = _TOKEN.findall(expression)
    metrics: set[str] = set()
    grouping: set[str] = set()
    metric, depth = "", 0  # the last one, and whether its braces, or a group's parentheses, are open
    opened = ""
    for place, token in enumerate(tokens):
        following = tokens[place + 1] if place + 1 < len(tokens) else ""
        if opened and token in ")}":
            opened = ""
        elif token == "{":
            opened = metric
        elif token in ("by", "without", "on", "ignoring", "group_left", "group_right"):
            depth = 1
        elif token == "(" and depth:
            opened, depth = "(", 0
        elif re.match(r"[a-zA-Z_]", token):
            depth = 0
            if opened == "(":
                grouping.add(token)
            elif opened:
                if token not in SERIES[opened] | OF_SCRAPES:
                    raise Unknown(f"{opened} has no label {token}: {expression}")
            elif token not in WORDS and following != "(" and not is_aggregation(token, following):
                if token not in SERIES:
                    raise Unknown(f"there is no metric {token}: {expression}")
                metric = token
                metrics.add(token)
    known = OF_SCRAPES.union(*(SERIES[name] for name in metrics))
    if not grouping <= known:
        raise Unknown(f"no metric has {grouping - known}: {expression}")
    return metrics


def is_aggregation(token: str, following: str) -> bool:
    """``sum by (...) (...)``."""
    return following in ("by", "without") and token not in SERIES


def alerts() -> list[tuple[str, str]]:
    """Names and expressions, which stand in one line or are folded."""
    found = re.findall(r"- alert: (\w+)\n +expr: (?:>-\n)?((?:.+\n)+?) +(?:for|labels):", (
        PROMETHEUS / "alerts.yml").read_text())
    return [(name, " ".join(text.split())) for name, text in found]


def panels() -> Iterator[dict[str, Any]]:
    return (panel for panel in DASHBOARD["panels"] if panel["type"] != "row")


def expressions() -> list[tuple[str, str]]:
    """All that the dashboard asks for, by the title of what shows it, with variables as Grafana fills them in."""
    asked = [(panel["title"], target["expr"]) for panel in panels() for target in panel["targets"]]
    asked += [(each["name"], each["expr"]) for each in DASHBOARD["annotations"]["list"]]
    return [(title, filled(text)) for title, text in asked]


def documented() -> list[str]:
    """The expressions in docs/MONITORING.md."""
    text = (ROOT / "docs" / "MONITORING.md").read_text()
    return re.findall(r"(?:^\| .*\? \| `|^    (?=gpen_))(.*?)(?:` \|)?$", text, re.MULTILINE)


def filled(text: str) -> str:
    for name, value in VARIABLES.items():
        text = text.replace(name, value)
    return text


# --- names and labels ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("title", "expression"), expressions())
def test_the_dashboard_asks_for_what_there_is(title: str, expression: str) -> None:
    assert "$" not in expression
    assert check(expression)


@pytest.mark.parametrize("expression", documented())
def test_the_manual_asks_for_what_there_is(expression: str) -> None:
    assert check(expression)


@pytest.mark.parametrize(("name", "expression"), alerts())
def test_alerts_ask_for_what_there_is(name: str, expression: str) -> None:
    assert check(expression)


def test_all_alerts_are_looked_at() -> None:
    assert len(alerts()) == (PROMETHEUS / "alerts.yml").read_text().count("- alert:") > 20


@pytest.mark.parametrize("expression", [
    "gpen_sesions", "rate(gpen_sessions_begun[1m])", 'gpen_sessions{listener="web"}', "sum by (worker) (gpen_sessions)",
    'gpen_server_health{state="up"}', "gpen_listener_choose_seconds",
    'histogram_quantile(0.9, sum by (lee) (gpen_listener_choose_seconds_bucket{le="1.0"}))',
    "gpen_server_up * on (instance, node) group_left (name) gpen_server_info",
    'gpen_galera_node_role{role="writer", name="a"}', 'up{node="a"}'])
def test_what_there_is_not_would_be_found(expression: str) -> None:
    with pytest.raises(Unknown):
        check(expression)


def test_variables_and_legends_use_labels_that_there_are() -> None:
    asked = [each["definition"] for each in DASHBOARD["templating"]["list"] if each["type"] == "query"]
    for definition in asked:
        selector, label = re.fullmatch(r"label_values\((.*), (\w+)\)", definition).groups()  # type: ignore[union-attr]
        (metric,) = check(filled(selector))
        assert label in SERIES[metric] | OF_SCRAPES, definition
    for panel in panels():
        for target in panel["targets"]:
            metrics = check(filled(target["expr"]))
            known = OF_SCRAPES.union(*(SERIES[name] for name in metrics))
            assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= known, target


def test_labels_in_annotations_are_those_of_the_expression() -> None:
    texts = dict(re.findall(r"- alert: (\w+)\n((?:(?! +- alert:).*\n?)+)", (PROMETHEUS / "alerts.yml").read_text()))
    for name, expression in alerts():
        known = OF_SCRAPES.union(*(SERIES[metric] for metric in check(expression)))
        assert set(re.findall(r"\$labels\.(\w+)", texts[name])) <= known, name


# --- the dashboard ---------------------------------------------------------------------------------------------------


def test_panels_do_not_overlap_and_have_ids_of_their_own() -> None:
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"])
                 for y in range(place["y"], place["y"] + place["h"])}
        assert not cells & taken and max(x for x, _ in cells) < 24, panel["title"]
        taken |= cells


def test_the_source_of_all_is_the_one_that_is_chosen() -> None:
    sources = [each["datasource"] for panel in panels() for each in (panel, *panel["targets"])]
    sources += [each["datasource"] for each in DASHBOARD["annotations"]["list"]]
    assert all(source == {"type": "prometheus", "uid": "${datasource}"} for source in sources)


# --- by Prometheus itself --------------------------------------------------------------------------------------------


def run(*words: str) -> str:
    done = subprocess.run([promtool(), *words], capture_output=True, text=True, timeout=60, check=False, cwd=PROMETHEUS)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_promtool_accepts_the_rules_and_the_configuration() -> None:
    assert "rules found" in run("check", "rules", "alerts.yml")
    assert "SUCCESS: prometheus.yml is valid" in run("check", "config", "prometheus.yml")


def test_alerts_come_when_they_should_and_not_else() -> None:
    assert "SUCCESS" in run("test", "rules", "alerts_test.yml")


def test_promtool_parses_all_that_the_dashboard_and_the_manual_ask(tmp_path: Path) -> None:
    texts = [*(text for _, text in expressions()), *documented()]
    assert len(documented()) > 5
    rules = [{"record": f"panel:{number}", "expr": text} for number, text in enumerate(texts)]
    file = tmp_path / "rules.yml"
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))  # JSON is YAML too
    assert f"SUCCESS: {len(rules)} rules found" in run("check", "rules", str(file))
