"""Alarms: they ring once, when they are set to; and what fails in one is told and tried again, and stops nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from gevent.hub import get_hub

from gpen.wire.alarm import Alarm

LONG = 20.0  # seconds


@pytest.fixture
def loop() -> Iterator[Any]:
    loop = get_hub().loop
    loop.update_now()  # it knows the time of when it ran last, in a test before
    yield loop


def until(condition: Callable[[], Any]) -> None:
    """Let the loop run until something is true."""
    with gevent.Timeout(LONG):
        while not condition():
            gevent.sleep(0.001)


def test_it_rings_once(loop: Any) -> None:
    rung: list[bool] = []
    alarm = Alarm(loop, "a test", lambda: rung.append(alarm.is_set))
    alarm.set(0.0)
    assert alarm.is_set
    until(lambda: rung)
    gevent.sleep(0.05)
    assert rung == [False]


def test_one_that_is_set_anew_is_put_off(loop: Any) -> None:
    began = time.monotonic()
    rung: list[float] = []
    alarm = Alarm(loop, "a test", lambda: rung.append(time.monotonic() - began))
    alarm.set(0.0)
    alarm.set(0.1)
    until(lambda: rung)
    assert len(rung) == 1
    assert rung[0] > 0.09


def test_one_that_is_stopped_does_not_ring_until_it_is_set_again(loop: Any) -> None:
    rung: list[str] = []
    alarm = Alarm(loop, "a test", lambda: rung.append("late"))
    other = Alarm(loop, "a test", lambda: rung.append("other"))
    alarm.set(0.01)
    alarm.stop()
    alarm.stop()
    other.set(0.02)
    until(lambda: rung)
    assert rung == ["other"]
    alarm.set(0.0)
    until(lambda: len(rung) == 2)
    assert rung == ["other", "late"]


def test_it_may_set_itself_again(loop: Any) -> None:
    rung: list[int] = []

    def ring() -> None:
        rung.append(len(rung))
        if len(rung) < 3:
            alarm.set(0.0)

    alarm = Alarm(loop, "a test", ring)
    alarm.set(0.0)
    until(lambda: len(rung) == 3)
    assert not alarm.is_set


def test_what_fails_is_told_once_and_tried_again(loop: Any, caplog: pytest.LogCaptureFixture,
                                                 capfd: pytest.CaptureFixture[str]) -> None:
    """And the hub hears nothing of it: gevent would never call back again."""
    rung: list[int] = []

    def ring() -> None:
        rung.append(len(rung))
        if len(rung) < 3:
            raise RuntimeError("on purpose")

    alarm = Alarm(loop, "a test", ring)
    alarm.set(0.0)
    until(lambda: len(rung) == 3)
    assert not alarm.is_set
    assert [record.getMessage() for record in caplog.records] == ["a test failed; that is told once"]
    assert not capfd.readouterr().err
