"""One question to the agent of a server: connect, send nothing, and read a line."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence

import gevent

from gpen.model.address import Endpoint
from gpen.model.settings import Settings
from gpen.model.text import shortened
from gpen.wire.poller import EPOLLIN, FOR_EVER, Poller
from gpen.wire.sockets import Socket, cause_of, connect

_MOST = 4096  # bytes of a line


class AgentFailed(Exception):
    """There was no answer: the reason, for people."""


def ask(endpoints: Sequence[Endpoint], port: int, settings: Settings, poller: Poller, seconds: float) -> str:
    """The line that the agent at this port says, within so many seconds for all the addresses of its server, which are
    tried in order. Switches greenlets. Raises AgentFailed with what was wrong at the first of them."""
    deadline = time.monotonic() + seconds
    problem: AgentFailed | None = None
    for number, endpoint in enumerate(endpoints):
        share = (deadline - time.monotonic()) / (len(endpoints) - number)
        try:
            with gevent.Timeout(max(share, 0), AgentFailed(f"no answer within {seconds:g} s")):
                return _line(endpoint.at(port), settings, poller)
        except OSError as error:
            problem = problem or AgentFailed(cause_of(error))
        except AgentFailed as failure:
            problem = problem or failure
    raise problem or AgentFailed("the address of its server is not resolved")


def _line(endpoint: Endpoint, settings: Settings, poller: Poller) -> str:
    heard = b""
    with contextlib.closing(connect(endpoint, settings, poller, FOR_EVER)) as sock:
        while not _has_end(heard):
            piece = _receive(sock, poller)
            heard += piece
            if not piece:
                break
            if len(heard) > _MOST:
                raise AgentFailed(f"its answer has more than {_MOST} bytes: '{shortened(heard, 40)}'")
    line = heard.replace(b"\r", b"\n").partition(b"\n")[0].strip()
    if not line:
        raise AgentFailed("it answered nothing")
    return line.decode("utf-8", "surrogateescape")


def _has_end(heard: bytes) -> bool:
    return b"\n" in heard or b"\r" in heard


def _receive(sock: Socket, poller: Poller) -> bytes:
    while True:
        try:
            data: bytes = sock.recv(_MOST)
            return data
        except BlockingIOError:
            poller.wait(sock.fileno(), EPOLLIN, FOR_EVER)
