"""gpen-discover, and somebody who undoes what it does: that is told, and not in a thousand lines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from gpen.discover.gpen_client import OFTEN, Repeats
from gpen.discover.plan import wanted_of
from gpen.discover.source import Found
from tests.discover.running import Discoverer, numbered, wait_servers, write
from tests.harness import Gpen, wait_until

Start = Callable[..., Gpen]
A, B = "127.0.0.1:4001", "127.0.0.2:4002"


def test_two_of_one_owner_are_told_of_each_other(gpen: Start, tmp_path: Path, file: Path) -> None:
    """Each takes away what the other one makes."""
    balancer, other = gpen(servers=["127.0.0.9:4009"]), file.with_name("other")
    write(file, A)
    write(other, B)
    quarrel = f"gpen {balancer.control}: what is done is undone, again and again: does another gpen-discover"
    with (Discoverer(tmp_path, "file", str(file), gpens=(balancer,)) as one,
          Discoverer(tmp_path, "file", str(other), gpens=(balancer,), name="two") as two):
        wait_until(lambda: quarrel in one.told + two.told)
        wait_until(lambda: any("is undone" in each.status()["gpens"][0]["refusal"] for each in (one, two)))
        assert max(each.told.count(f"{place} is new") for each, place in ((one, A), (two, B))) <= OFTEN
    with Discoverer(tmp_path, "file", str(file), gpens=(balancer,), name="alone") as alone:
        wait_servers(balancer, A)
        wait_until(lambda: alone.status()["well"])
    assert sorted(numbered(balancer).values()) == [A]


def test_what_is_done_again_is_news_when_something_else_is_wanted() -> None:
    repeats = Repeats()
    for found in (Found("10.0.0.1", 80), Found("10.0.0.2", 80)):
        repeats.begin(wanted_of([found]))
        assert [repeats.is_news("server 1 is new") for _ in range(OFTEN + 1)] == [True] * OFTEN + [False]
        assert repeats.are_many()
        repeats.begin(wanted_of([found]))
        assert repeats.are_many()
