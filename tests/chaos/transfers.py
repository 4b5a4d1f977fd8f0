"""A transfer: its number and a seed say all that both ends do, so that each knows what has to arrive."""

from __future__ import annotations

import random
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from tests.harness import connect, reset
from tests.tlsclient import TlsClient, Truncated
from tests.wire.test_transfers import HEADER, ORDERS, both_at_once, digest, download, upload

LARGEST = 21  # bits: sizes are equally often of each length up to that
SLOW_PIECES, SLOW_PAUSE = 40, 0.02  # a slow reader takes so many pieces, and rests before each
TRIES = 500  # to connect, while the listener moves

Address = tuple[str, int]


@dataclass(frozen=True)
class Plan:
    """What shall happen. ``cut``: whether its client or its server resets it behind ``cut_at`` bytes."""

    number: int
    order: int
    up: int
    down: int
    slow: tuple[bool, bool]  # the client, the server
    cut: str
    cut_at: int

    @property
    def source(self) -> str:
        """The address of its client, which nobody else has."""
        return f"127.50.{self.number // 250}.{1 + self.number % 250}"


def plan_of(seed: int, number: int) -> Plan:
    """The plan of a transfer."""
    dice = random.Random(f"{seed} {number}")
    order = dice.randrange(len(ORDERS))
    up, down = (int(2 ** dice.uniform(0, LARGEST)) * goes for goes in ORDERS[order][2:])
    cut = dice.choices(("", "client", "server"), (96, 2, 2))[0]
    if both_at_once in ORDERS[order]:
        cut = ""  # two threads are at work there, and one can't take the socket away from the other
    return Plan(number, order, up, down, (dice.random() < 0.1, dice.random() < 0.1), cut,
                dice.randint(1, max((up + down) // 2, 1)))


@dataclass
class Outcome:
    """What one end saw. ``cut``: it has reset the connection itself, as planned."""

    digest: str = ""
    size: int = 0
    error: str = ""
    cut: bool = False
    refused: int = 0  # connects, before one came through


class Cut(Exception):
    """This end has reset the connection."""


class Paced:
    """A socket, or a client of TLS, that reads as slowly and resets as early as it shall."""

    def __init__(self, sock: Any, slow: bool, expected: int, cut_at: int) -> None:
        """``expected`` bytes will come; behind ``cut_at``, in both directions together, it resets; 0 is never."""
        self._sock = sock
        self._piece = expected // SLOW_PIECES + 1 if slow else 0
        self._left = cut_at or 1 << 62
        self.shutdown = sock.shutdown
        self.close = sock.close

    def recv(self, most: int) -> bytes:
        if self._piece:
            time.sleep(SLOW_PAUSE)
        data: bytes = self._sock.recv(min(most, self._piece or most))
        self._count(len(data))
        return data

    def sendall(self, data: bytes) -> None:
        self._sock.sendall(data[:self._left])
        self._count(len(data))

    def _count(self, size: int) -> None:
        self._left -= size
        if self._left <= 0:
            reset(getattr(self._sock, "sock", self._sock))
            raise Cut


def carry_out(plan: Plan, side: int, sock: Any) -> Outcome:
    """Do one side's part (0 is the client) of a transfer."""
    mine, expected = (upload(plan.number, plan.up), plan.down) if side == 0 else (
        download(plan.number, plan.down), plan.up)
    cut_at = plan.cut_at if plan.cut == ("client", "server")[side] else 0
    outcome = Outcome()
    try:
        paced: Any = Paced(sock, plan.slow[side], expected, cut_at)
        received = ORDERS[plan.order][side](paced, mine)
        outcome.digest, outcome.size = digest(received), len(received)
    except Cut:
        outcome.cut = True
    except (OSError, Truncated) as error:
        outcome.error = str(error) or type(error).__name__
    return outcome


def server(seed: int, outcomes: dict[int, Outcome]) -> Callable[[socket.socket], None]:
    """A server of transfers, which keeps what came of them."""

    def serve(sock: socket.socket) -> None:
        header = sock.recv(HEADER.size, socket.MSG_WAITALL)
        if len(header) == HEADER.size:
            number = HEADER.unpack(header)[0]
            outcomes[number] = carry_out(plan_of(seed, number), 1, sock)

    return serve


def transfer(plan: Plan, where: Callable[[], Address], context: ssl.SSLContext | None) -> Outcome:
    """Do the client's part, over TLS if there is a context. ``where`` is gpen's address now."""
    outcome = Outcome()
    sock, refused = dial(where, plan.source)
    try:
        with sock, TlsClient(("", 0), context, sock=sock, fin=plan.number % 2 == 0) if context else sock as channel:
            channel.sendall(HEADER.pack(plan.number, plan.order, plan.up, plan.down))
            outcome = carry_out(plan, 0, channel)
            with suppress(OSError):
                channel.close()
    except (OSError, Truncated) as error:
        outcome.error = outcome.error or str(error) or type(error).__name__
    outcome.refused = refused
    return outcome


def dial(where: Callable[[], Address], source: str) -> tuple[socket.socket, int]:
    """A connection, and how often none came about before: the listener had just moved. The kernel resets those whose
    handshake was under way then."""
    for refused in range(TRIES):
        try:
            return connect(where(), source, seconds=60), refused
        except (ConnectionRefusedError, ConnectionResetError):
            time.sleep(0.01)
    raise AssertionError(f"nobody listens on {where()}")


def is_whole(plan: Plan, client: Outcome, server: Outcome | None) -> bool:
    """Whether all has arrived at both ends."""
    return server is not None and _got(client, plan, 0) and _got(server, plan, 1)


def _got(outcome: Outcome, plan: Plan, side: int) -> bool:
    expected = download(plan.number, plan.down) if side == 0 else upload(plan.number, plan.up)
    return not outcome.error and not outcome.cut and outcome.digest == digest(expected)
