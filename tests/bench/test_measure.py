"""CPU time and memory of real programs, from /proc: with threads, with children, and with some that have ended."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.bench.measure import cpu_time, family, memory_kb, thread_states
from tests.harness import wait_until

BURN = """
import os, sys, threading, time

def burn():  # 0.3 s of the thread's own CPU time
    while time.thread_time() < 0.3:
        pass

def threaded():
    thread = threading.Thread(target=burn)
    thread.start()
    return thread

"""
ACTS = {
    "thread that has ended": "threaded().join()",
    "thread that waits now": """
done, stay = threading.Event(), threading.Event()
def burn_and_stay():
    burn()
    done.set()
    stay.wait()
threading.Thread(target=burn_and_stay, daemon=True).start()
done.wait()""",
    "child that waits now": """
ready, tell = os.pipe()
if not os.fork():
    burn()
    os.write(tell, b".")
    sys.stdin.read()
    os._exit(0)
os.read(ready, 1)""",
    "child that has ended": """
if not os.fork():
    burn()
    os._exit(0)
os.wait()""",
    "child of a thread": """
ready, tell = os.pipe()
def fork():
    if not os.fork():
        burn()
        os.write(tell, b".")
        sys.stdin.read()
        os._exit(0)
    threading.Event().wait()
threading.Thread(target=fork, daemon=True).start()
os.read(ready, 1)""",
}


@contextmanager
def program(text: str) -> Iterator[int]:
    """A Python program that has said that it is ready; it waits then."""
    with subprocess.Popen([sys.executable, "-c", f"{text}\nprint('ready', flush=True)\nsys.stdin.read()\nos._exit(0)"],
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process.pid


@pytest.mark.parametrize("act", ACTS)
def test_cpu_time_is_of_all_threads_and_children(act: str) -> None:
    with program(BURN) as pid:
        idle = cpu_time(pid).total
    with program(BURN + ACTS[act]) as pid:
        burnt = cpu_time(pid).total
    assert 0.25 <= burnt - idle <= 0.5


def test_the_family_is_the_process_and_its_descendants() -> None:
    with program(BURN + ACTS["child of a thread"]) as pid:
        first, child = family(pid)
        assert first == pid
        assert family(child) == [child]
        assert memory_kb(pid) > memory_kb(child) > 0


def test_threads_are_seen_to_wait_and_to_run() -> None:
    with program(BURN + ACTS["thread that waits now"]) as pid:
        wait_until(lambda: thread_states(pid) == "SS")
    with program(BURN + "threading.Thread(target=lambda: [0 for _ in iter(int, 1)], daemon=True).start()") as pid:
        wait_until(lambda: "R" in thread_states(pid))


def test_what_has_ended_has_no_family_and_no_time() -> None:
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    pid = int(ended.stdout)
    assert not os.path.exists(f"/proc/{pid}")
    assert family(pid) == [pid]
    assert cpu_time(pid).total == 0
