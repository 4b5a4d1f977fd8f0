"""gpen takes as many instructions for a connection and for a request as were recorded, within a tenth."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from tests.bench import counts, instructions
from tests.bench.process import BenchError
from tests.bench.proxies import GPEN_PURE, GPENS, Proxy

pytestmark = pytest.mark.long


@pytest.mark.timeout(300)  # 8 seconds, where nothing else runs
@pytest.mark.parametrize("gpen", [gpen for gpen in GPENS if gpen.missing() is None], ids=lambda gpen: gpen.name)
def test_a_connection_and_a_request_take_as_many_as_recorded(gpen: Proxy, tmp_path: Path) -> None:
    recorded = instructions.records().get(instructions.kind_of(gpen))
    if reason := counts.missing():
        pytest.skip(reason)
    if recorded is None:
        pytest.skip(f"nothing is recorded for {instructions.kind_of(gpen)}: {instructions.COMMAND}")
    tmp_path.chmod(0o755)  # nginx's worker is another user
    found = instructions.counted(gpen, tmp_path)
    print(found)
    wrong = instructions.deviations(found, recorded)
    assert not wrong, "\n".join(wrong)


def test_what_deviates_is_told_with_what_to_do() -> None:
    recorded = counts.Instructions(100_000, 16_000)
    assert instructions.deviations(counts.Instructions(109_000, 14_500), recorded) == []
    assert instructions.deviations(counts.Instructions(115_000, 8_000), recorded) == [
        "a connection takes 115,000 instructions, recorded are 100,000 (+15%): if that is wanted, record it with "
        "python -m tests.bench.instructions --record",
        "a request takes 8,000 instructions, recorded are 16,000 (-50%): if that is wanted, record it with "
        "python -m tests.bench.instructions --record"]


def test_a_record_replaces_its_own_kind_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = tmp_path / "records"
    records.write_text(json.dumps({"2.7 pure": {"connection": 1.0, "request": 2.0},
                                   instructions.kind_of(GPEN_PURE): {"connection": 3.0, "request": 4.0}}))
    monkeypatch.setattr(instructions, "RECORDS", records)
    instructions.record(GPEN_PURE, counts.Instructions(123_456.7, 16_543.2))
    assert instructions.records() == {"2.7 pure": counts.Instructions(1, 2),
                                      instructions.kind_of(GPEN_PURE): counts.Instructions(123_500, 16_540)}


def test_a_dump_is_read_by_its_last_line() -> None:
    assert counts.total_of("events: Ir\nsummary: 0\n\nfn=(1) totals\n3 40\n\ntotals: 1460483\n") == 1_460_483
    with pytest.raises(BenchError, match="without totals"):
        counts.total_of("events: Ir\nsummary: 0\n")


def test_what_comes_through_is_verified() -> None:
    near, far = socket.socketpair()
    with near, far:
        near.sendall(counts.REPLY)
        counts.hear(far, counts.REPLY)
        near.sendall(counts.REPLY[:-1])
        with pytest.raises(BenchError, match="came b'HTTP"):
            counts.hear(far, counts.REPLY)


def test_a_system_call_that_another_thread_interrupts_is_one() -> None:
    log = ["7  epoll_wait(0x5, 0x7f, 0x64, 0x3b) = 0x1\n", "8  read(0x3 <unfinished ...>\n", "7  close(0x9) = 0\n",
           "8  <... read resumed>) = 0x1\n", "7  close(0xa) = 0\n", "7  +++ exited with 0 +++\n"]
    assert counts.calls_in(iter(log)) == {"close": 2, "epoll_wait": 1, "read": 1}
