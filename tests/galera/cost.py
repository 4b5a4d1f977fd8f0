"""What a watcher costs: `python -m tests.galera.cost [NODES [GPENS [SECONDS]]]` prints its share of a core before stub
nodes that are well, half of the gpens for readers, half for writers: CPU time, to which a busy machine does little."""

from __future__ import annotations

import contextlib
import io
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.bench.measure import cpu_time
from tests.galera.stub import Group
from tests.galera.watcher import Watcher
from tests.harness import Gpen, free_port, wait_until

USUAL = (50, 6, 20)
SETTLING = 3.0  # seconds after all was said


def measured(count: int, gpens: int, seconds: int) -> str:
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stubs = stack.enter_context(subprocess.Popen(
            [sys.executable, "-m", "tests.galera.cost", "stubs", str(count)], stdout=subprocess.PIPE, text=True))
        stack.callback(stubs.terminate)
        assert stubs.stdout is not None
        nodes = stubs.stdout.readline().split()
        fronts = [stack.enter_context(Gpen(directory, "-r", "-O", "prio", f"127.0.0.1:{free_port()}", *nodes,
                                           name=f"gpen{number}")) for number in range(gpens)]
        options = [f"--{'writer' if number % 2 else 'reader'}={front.control}" for number, front in enumerate(fronts)]
        judge = stack.enter_context(Watcher(directory, *options))
        wait_until(lambda: all(any(row["verdict"] == "up" for row in front.json("servers")) for front in fronts),
                   60, "all gpens being told")
        time.sleep(SETTLING)
        before, began = cpu_time(judge.process.pid), time.monotonic()
        time.sleep(seconds)
        spent, passed = (cpu_time(judge.process.pid) - before).total, time.monotonic() - began
    return f"{count} nodes, {gpens} gpens: {spent:.2f} s of CPU in {passed:.1f} s, {spent / passed:.1%} of a core"


def serve(count: int) -> None:
    """Be the nodes until a signal comes."""
    with Group(count) as group:
        print(*group.addresses, flush=True)
        signal.pause()


def main() -> None:
    if sys.argv[1:2] == ["stubs"]:
        serve(int(sys.argv[2]))
        return
    given = [int(word) for word in sys.argv[1:]]
    with contextlib.redirect_stdout(io.StringIO()):  # gpens and watcher tell there what they have said
        line = measured(*given, *USUAL[len(given):])
    print(line)


if __name__ == "__main__":
    main()
