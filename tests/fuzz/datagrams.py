"""Datagrams through a gpen, whose diagnostics and log show them, and to gpenlogd."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from hypothesis import strategies as st

from tests import datagrams
from tests.fuzz.kind import Balanced, Told, Trial
from tests.fuzz.mutations import BYTES, spoiled
from tests.harness import Gpen, wait_until
from tests.netlog.programs import WEB, Collector, hearing, line, note

# --- through a gpen --------------------------------------------------------------------------------------------------

query = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03www\x07example\x03org\x00\x00\x01\x00\x01"
payloads = spoiled(st.one_of(st.binary(max_size=60), st.just(query), st.integers(0, 2000).map(bytes),
                             st.sampled_from((b"GET / HTTP/1.1\r\n", b"\xe2\x80\xae", b"\x1b]0;x\x07", b"%s\n%d",
                                              bytes(9000)))), BYTES, 2)
floods = st.lists(st.tuples(st.integers(0, 3), payloads), min_size=1, max_size=8)
_REQUEST = re.compile(r"127\.0\.0\.1 \d+ 127\.0\.0\.1 [ -~]*")  # pen's line


class DatagramTrial(Balanced):
    """Clients of an echo, each with a port of its own. All that they send is in the log and in the diagnostics."""

    def __init__(self, stack: ExitStack, server: datagrams.DatagramServer, start: Callable[[], Gpen]) -> None:
        self._server = server
        super().__init__(stack, start, serves)

    def attempt(self, case: Sequence[tuple[int, bytes]]) -> None:
        logged = self.balancer.log.count("\n")
        with ExitStack() as stack:
            clients = [stack.enter_context(datagrams.client(self.balancer)) for _ in range(4)]
            for number, payload in case:
                clients[number].send(payload)
                assert clients[number].recv(1 << 17) == payload, "another answer than the server's"
        lines = self.balancer.log.splitlines()[logged:]
        assert len(lines) == len(case) and all(map(_REQUEST.fullmatch, lines)), lines

    def settle(self) -> None:
        wait_until(lambda: not self.balancer.json("sessions"), what="the end of all flows")
        self.balancer.log_file.write_bytes(b"")
        self._server.received.clear()
        self._server.clients.clear()
        super().settle()


def serves(balancer: Gpen) -> None:
    """Whether a client gets its echo."""
    assert datagrams.ask(balancer, b"well?") == b"well?", "a healthy client is not served"


@contextmanager
def datagram_trial(directory: Path) -> Iterator[Trial]:
    """A gpen for UDP that tells all that it sees."""
    with ExitStack() as stack, datagrams.DatagramServer(datagrams.echo) as server:
        yield DatagramTrial(stack, server, lambda: Gpen(
            directory, "-U", "-r", "-l", "gpen.log", "-O", "log_format pen", "-O", "debug 2", "-O", "ascii", "-O",
            "udp_timeout 0.5", "127.0.0.1:0", server.address))


# --- gpenlogd --------------------------------------------------------------------------------------------------------

REQUEST = b"GET /a HTTP/1.1"
entries = spoiled(st.one_of(
    st.sampled_from((note("10.9.9.9", REQUEST), note("::1", REQUEST), line(REQUEST), line(b"GET /\\x1b\\\" HTTP/1.1"),
                     line(REQUEST, b"x" * 2000)[:1023], line(REQUEST, b"x" * 3000), b"+ 1.1.1.1 2.2.2.2 \n")),
    st.binary(max_size=80)), (*BYTES, b"+ ", b"\\x", b"\\", b"10.1.1.1 "), 3)
logs = st.lists(entries, min_size=1, max_size=8)
_CONTROL = re.compile(rb"[\x00-\x08\x0b-\x1f\x7f]")


def is_obeyed(line: bytes) -> bool:
    """Whether a terminal would do something by it, but show it: also by the controls of C1 in UTF-8."""
    return bool(_CONTROL.search(line)) or any("\x7f" <= c <= "\x9f" for c in line.decode("utf-8", "ignore"))


class CollectorTrial:
    """Datagrams to a gpenlogd: each makes one line at most, and none that a terminal obeys."""

    def __init__(self, collector: Collector, healthy: socket.socket) -> None:
        """``healthy`` is where a web server sends from: pieces of another's line might have come from any other."""
        self._collector, self._healthy = collector, healthy
        self._told = Told(Path(collector.file.parent / "gpenlogd.err"))
        self._told.news()
        self._memory = 0
        self._number = 0
        self._written = 0

    def check(self, case: Sequence[bytes]) -> None:
        collector, self._number = self._collector, self._number + 1
        assert collector.process.poll() is None, f"gpenlogd has ended: {collector.stderr}"
        mark = b"GET /well?%d HTTP/1.1" % self._number
        healthy = line(mark, address="10.9.9.8")
        with hearing(WEB) as sock:
            for entry in case:
                sock.sendto(entry, collector.address)
        self._healthy.sendto(note("10.9.9.8", mark), collector.address)
        self._healthy.sendto(line(mark), collector.address)
        written = wait_until(lambda: self._news(healthy), what="the line of a healthy request")
        self._written += len(written)
        lines = written.split(b"\n")[:-1]
        assert len(lines) - 1 <= len(case), f"{len(case)} datagrams made {len(lines) - 1} lines"
        assert lines[-1] + b"\n" == healthy and not any(map(is_obeyed, lines)), lines
        assert not self._told.news()

    def _news(self, last: bytes) -> bytes:
        with self._collector.file.open("rb") as file:
            file.seek(self._written)
            new = file.read()
        return new if new.endswith(last) else b""

    def settle(self) -> None:
        """Its memory has not grown since the first round."""
        memory = int(Path(f"/proc/{self._collector.process.pid}/statm").read_text().split()[1])
        self._memory = self._memory or memory
        assert memory - self._memory < 2000, "gpenlogd has grown"


@contextmanager
def collector_trial(directory: Path) -> Iterator[Trial]:
    """A gpenlogd."""
    with Collector(directory) as collector, hearing(WEB) as healthy:
        yield CollectorTrial(collector, healthy)
