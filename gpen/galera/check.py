"""One node: `gpen-galera check` asks it once, `gpen-galera serve` keeps asking and answers in HTTP.

The rules are those of the watcher, as far as a node can say by itself: whether it is of the group that the others are
in, it does not know.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from typing import NamedTuple

from gpen.galera.access import Access
from gpen.galera.node import ask, explain, silence
from gpen.galera.report import Grade, Report, grade, read

IN_ENVIRONMENT = {"donor": "AVAILABLE_WHEN_DONOR", "read_only": "AVAILABLE_WHEN_READONLY"}  # clustercheck's names


@dataclass(frozen=True)
class Rules:
    """What a node that is asked alone may be: a donor or desynced, read_only."""

    donor: bool = False
    read_only: bool = False


class Finding(NamedTuple):
    """Whether a node is usable, and why."""

    usable: bool
    text: str


def rules_from(options: Mapping[str, bool], environment: Mapping[str, str]) -> Rules:
    """The rules that the options switch on, or the environment does with a 1."""
    return Rules(**{name: options[name] or environment.get(variable, "0").strip() == "1"
                    for name, variable in IN_ENVIRONMENT.items()})


def judge(report: Report, rules: Rules) -> Finding:
    """What a report says about its node."""
    forgiven = report.read_only and rules.read_only
    found, reason = grade(replace(report, read_only=False) if forgiven else report)
    usable = found is Grade.GOOD or (found is Grade.DONOR and rules.donor)
    return Finding(usable, f"{reason}, read_only" if forgiven else reason)


def check(address: str, access: Access, rules: Rules, timeout: float) -> Finding:
    """Log in, ask and take leave, within ``timeout`` seconds in all: a node that says a byte now and then has no more.

    Nothing can interrupt PyMySQL, nor a name that is looked up, so they have a thread, which is not waited for.
    """
    from gpen.galera import bounded  # noqa: F401  PyMySQL is loaded before the time runs

    found: queue.SimpleQueue[Finding] = queue.SimpleQueue()
    threading.Thread(target=lambda: found.put(_ask_once(address, access, rules, timeout)), daemon=True).start()
    try:
        return found.get(timeout=timeout)
    except queue.Empty:
        return Finding(False, silence(timeout))


def _ask_once(address: str, access: Access, rules: Rules, timeout: float) -> Finding:
    began = time.monotonic()
    try:
        with closing(access.connect(address, timeout, timeout)) as connection:
            return judge(read(ask(connection), time.monotonic() - began), rules)
    except Exception as error:  # whatever PyMySQL makes of what a node says
        return Finding(False, explain(error, access.user, timeout).text)
