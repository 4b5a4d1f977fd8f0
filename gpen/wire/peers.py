"""A connection with one peer: what has changed is told, and what it tells is learnt, until the connection ends.

What goes out is not kept: each time that there is room, what is new since then is looked up in the journals of the
tables, from where the peer has acknowledged it. So a peer that is slow or gone costs no memory.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import gevent
from gevent.event import Event

from gpen.model.shared import Exchange, Journal
from gpen.proto import peers
from gpen.proto.peers import (
    IPV4,
    IPV6,
    KEY_BYTES,
    Acknowledgement,
    Control,
    Decoder,
    Definition,
    Encoder,
    Failure,
    Message,
    PeersError,
    Updates,
    parse_hello,
    parse_status,
)
from gpen.wire.pacing import Pacer

HELLO_SECONDS = 5.0  # for a hello, and its answer
HEARTBEAT_SECONDS = 3.0  # of silence, behind which we say that we are there
SILENCE_SECONDS = 5.0  # behind which a peer is given up
# What comes within it goes together. Of 5,000 changes a second one costs its reader 8 us, and 5 with 0.05; but what has
# not gone when a gpen is killed, nobody knows.
TOGETHER_SECONDS = 0.01
FIRST_SECONDS = 0.05  # for a peer that is new to ask for all, before it is told what is new
_READ = 16_384  # bytes: it takes 2 ms to learn what is in them
_BATCH = 500  # entries that are looked up, and sent, together
_NUMBERS = 1 << 32  # of updates
_MAPPED = bytes(10) + b"\xff\xff"  # in front of an IPv4 address among those of IPv6

_FAMILIES = {IPV4: socket.AF_INET, IPV6: socket.AF_INET6}


class LostError(Exception):
    """The connection can't be had, or has ended: one line that says why."""


# --- hello ------------------------------------------------------------------------------------------------------------


def greet(sock: Any, words: peers.Hello) -> bytes:
    """Say hello over a connection that we have made; returns what has come behind the answer. Switches greenlets.
    Raises LostError, PeersError or OSError."""
    sock.sendall(peers.hello(words))
    data = b""
    while (status := parse_status(data)) is None:
        data += _received(sock)
    if status != peers.ACCEPTED:
        raise LostError(peers.STATUSES.get(status, f"it answers {status}"))
    return data.partition(b"\n")[2]


def await_hello(sock: Any) -> tuple[peers.Hello, bytes]:
    """What the side that has connected says, and what has come behind that. Switches greenlets. Raises LostError,
    PeersError or OSError."""
    data = b""
    while (words := parse_hello(data)) is None:
        data += _received(sock)
    return words, data[peers.hello_length(data):]


def _received(sock: Any) -> bytes:
    data: bytes = sock.recv(peers.MOST_HELLO)
    if not data:
        raise LostError("it has closed the connection")
    return data


# --- messages ---------------------------------------------------------------------------------------------------------


class Cursor:
    """How far a peer has got in one journal: what it was ``sent``, and of that what it has ``acknowledged``. It
    acknowledges no more than it was ``told``: of what is last there may be nothing to be said."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.acknowledged = self.sent = self.told = -1  # nothing: it has to be told all

    def begin(self) -> None:
        """Another connection: what it did not acknowledge, nobody knows to have come."""
        self.sent = self.told = self.acknowledged

    def acknowledge(self, update: int) -> None:
        """All up to this update, in 32 bits, has come."""
        lead = (update - self.acknowledged) % _NUMBERS
        if self.acknowledged + lead <= self.sent:
            self.acknowledged += lead
            self.skip()

    def skip(self) -> None:
        """Nobody will acknowledge what was not told."""
        if self.acknowledged >= self.told:
            self.acknowledged = self.sent


class Figures:
    """What is counted of a peer: entries ``sent`` and ``received``, and of these those at servers that are ``unknown``
    here. ``cursors`` are kept for its next connection, by the names of tables."""

    def __init__(self) -> None:
        self.sent = self.received = self.unknown = 0
        self.cursors: dict[str, Cursor] = {}

    def cursor(self, exchange: Exchange) -> Cursor:
        """How far it has got in this table."""
        cursor, journal = self.cursors.get(exchange.name), exchange.clients.journal
        if cursor is None or cursor.journal is not journal:
            cursor = self.cursors[exchange.name] = Cursor(journal)
        return cursor

    def pending(self, exchanges: Iterable[Exchange]) -> int:
        """How many changes of these tables it has not acknowledged; where it has to be told all, how many clients."""
        cursors = [(self.cursor(exchange), exchange.clients) for exchange in exchanges]
        return sum(cursor.journal.end - cursor.acknowledged if cursor.acknowledged >= cursor.journal.begin else
                   len(clients) for cursor, clients in cursors)

    def keep(self, exchanges: Iterable[Exchange]) -> None:
        """There are but these tables."""
        names = {exchange.name for exchange in exchanges}
        self.cursors = {name: cursor for name, cursor in self.cursors.items() if name in names}


class Batch(NamedTuple):
    """What a peer is told of one table: clients, and by which updates, of which the ``last`` is the last entry's."""

    exchange: Exchange
    addresses: Sequence[str]
    first: int
    last: int


class PeerConnection:
    """One connection, to its end. ``name`` is the peer's; ``since`` when it began, in seconds since 1970."""

    def __init__(self, sock: Any, name: str, figures: Figures, exchanges: Callable[[], Sequence[Exchange]],
                 is_complete: Callable[[], bool], completed: Callable[[bool], object]) -> None:
        """``exchanges`` gives the tables that there are; ``is_complete`` says whether this gpen has been told all that
        peers know, ``completed`` is called when the peer has told all, and whether it was sure that this is all."""
        self.name = name
        self.since = time.time()
        self._sock = sock
        self._figures = figures
        self._exchanges = exchanges
        self._is_complete = is_complete
        self._completed = completed
        self._decoder = Decoder(self._wants)
        self._encoder = Encoder()
        self._numbers: dict[tuple[str, int], int] = {}  # of our tables here, by name and type of key
        self._names: dict[int, str] = {}
        self._table: tuple[str, int, int] | None = None  # what is written is of: name, type of key, and expiry
        self._widened: set[str] = set()  # tables where the peer has all clients under IPv6 addresses
        self._said: list[bytes] = []  # what is to be written first
        self._acknowledged: dict[tuple[str, int], tuple[int, int]] = {}  # table and update of theirs to be acknowledged
        self._is_asked = False  # for all that we know
        self._asks = False
        self._has_told_all = False
        self._horizons: dict[tuple[str, int], int] = {}  # the newest of their updates that were told with their time
        self._news = Event()
        self._is_over = Event()
        self._pacer = Pacer()
        self._reader: Any = None
        self._end = ""

    def run(self, data: bytes, asks: bool) -> None:
        """Talk until the connection ends; ``data`` has come already. ``asks``: to be told all. Switches greenlets.
        Raises LostError, PeersError or OSError."""
        if self._end:  # before it could begin
            self._is_over.set()
            raise LostError(self._end)
        for exchange in self._exchanges():
            self._figures.cursor(exchange).begin()
        if asks:
            self.ask()
        self._sock.settimeout(SILENCE_SECONDS)
        writer = gevent.spawn(_attempt, self._write)
        self._reader = gevent.spawn(_attempt, self._read, data)
        try:
            gevent.wait((writer, self._reader), count=1)
            for greenlet in (writer, self._reader):
                if isinstance(greenlet.value, Exception):
                    raise greenlet.value
            raise LostError(self._end or "the connection was closed")
        except PeersError as error:
            writer.kill()  # two can't wait for room at one time
            self._sock.settimeout(0.0)
            with suppress(OSError):
                self._sock.sendall(peers.failure(error))
            raise
        finally:
            gevent.killall((writer, self._reader))
            self._is_over.set()

    def stop(self, why: str) -> None:
        """End the connection. Does not switch."""
        self._end = self._end or why
        if self._reader is not None:
            self._reader.kill(block=False)

    def end(self, why: str) -> None:
        """The same, and wait for it. Switches greenlets."""
        self.stop(why)
        self._is_over.wait(HELLO_SECONDS)

    def has_news(self) -> None:
        """Something is to be told. Does not switch."""
        self._news.set()

    # --- reading ------------------------------------------------------------------------------------------------------

    def _read(self, data: bytes) -> None:
        while True:
            for message in self._decoder.read(data):
                self._take(message)
                self._pacer.pause()
            if self._acknowledged:
                self._news.set()
            try:
                data = self._sock.recv(_READ)
            except TimeoutError:
                raise LostError(f"it has said nothing for {SILENCE_SECONDS:g} seconds") from None
            if not data:
                raise LostError("it has closed the connection")

    def _wants(self, table: Definition) -> bool:
        return any(exchange.name == table.name for exchange in self._exchanges())

    def _take(self, message: Message) -> None:
        if isinstance(message, Updates):
            self._learn(message)
        elif isinstance(message, Control):
            self._obey(message.kind)
        elif isinstance(message, Acknowledgement):
            cursor = self._figures.cursors.get(self._names.get(message.table, ""))
            if cursor is not None:
                cursor.acknowledge(message.update)
        elif isinstance(message, Failure):
            raise LostError("it says that a message was too long" if message.is_too_long else
                            "it says that a message made no sense")

    def _learn(self, updates: Updates) -> None:
        table = updates.table
        exchange = next((exchange for exchange in self._exchanges() if exchange.name == table.name), None)
        if exchange is None:
            return
        if table.kind == IPV6 and table.name not in self._widened and not self._decoder.has(table.name, IPV4):
            self._widened.add(table.name)
            cursor = self._figures.cursor(exchange)  # what it was told of IPv4 clients it has ignored
            cursor.acknowledged = cursor.sent = cursor.told = -1
        text = _text_of_ipv4 if table.kind == IPV4 else _text_of_ipv6
        entries = updates.entries
        if not self._has_told_all:
            self._note_horizon(updates)
        horizon = self._horizons.get((table.name, table.kind))
        self._figures.unknown += exchange.learn(
            ((text(key), server, left if left is not None else self._left_untold(update, horizon))
             for key, server, left, update in entries), table.expiry, self.name)
        self._figures.received += len(entries)
        self._acknowledged[table.name, table.kind] = table.number, updates.last  # its number may be another each time

    def _note_horizon(self, updates: Updates) -> None:
        """Remember the newest update of which the peer says when it was."""
        table = updates.table.name, updates.table.kind
        for _, _, left, update in updates.entries:
            if left is not None and _is_newer(update, self._horizons.get(table)):
                self._horizons[table] = update

    def _left_untold(self, update: int, horizon: int | None) -> int | None:
        """What an entry has left of which the peer does not say it. So haproxy tells what is new, and also what was new
        while there was no connection, however long ago. When it is asked for all it says it, and whatever has come
        behind that is new; what has not counts less than anything that is known."""
        if self._has_told_all and _is_newer(update, horizon):
            return None
        if not self._asks:
            self.ask()
        return 0

    def ask(self) -> None:
        """To be told all, again if it has been. Does not switch."""
        self._asks = True
        self._said.append(peers.control(peers.ASK))
        self._news.set()

    def _obey(self, kind: int) -> None:
        if kind == peers.ASK:
            self._is_asked = True
            self._news.set()
        elif kind in (peers.FINISHED, peers.PARTIAL):
            self._has_told_all = True
            self._completed(kind == peers.FINISHED)
            confirmation = peers.control(peers.CONFIRM)
            if confirmation not in self._said:  # as often as it may say so while it takes nothing
                self._said.append(confirmation)
            self._news.set()

    # --- writing ------------------------------------------------------------------------------------------------------

    def _write(self) -> None:
        self._say_tables()
        self._flush()
        gevent.sleep(FIRST_SECONDS)
        while True:
            self._news.clear()
            is_told = self._flush()
            if self._is_asked:
                self._is_asked = False
                is_told = self._tell_all()
            is_behind = False
            for exchange in self._exchanges():
                is_told |= self._tell_news(exchange)
                cursor = self._figures.cursor(exchange)
                is_behind |= cursor.journal.end - cursor.sent >= _BATCH
            if is_behind:
                self._pacer.pause()
            elif is_told:
                gevent.sleep(TOGETHER_SECONDS)
            elif not self._news.wait(HEARTBEAT_SECONDS):
                self._send(peers.control(peers.HEARTBEAT))

    def _say_tables(self) -> None:
        """Define all tables, with both types of keys, so that the peer can tell that we have both."""
        for exchange in self._exchanges():
            for kind in (IPV4, IPV6):
                self._said += self._switched(exchange, kind)

    def _flush(self) -> bool:
        """Whether there was something to say beside entries."""
        said, self._said = self._said, []
        acknowledged, self._acknowledged = self._acknowledged, {}
        said += [peers.acknowledgement(table, update) for table, update in acknowledged.values()]
        if said:
            self._send(b"".join(said))
        return bool(said)

    def _send(self, data: bytes) -> None:
        try:
            self._sock.sendall(data)
        except TimeoutError:
            raise LostError(f"it has taken nothing for {SILENCE_SECONDS:g} seconds") from None

    def _tell_all(self) -> bool:
        """Tell all that we know, of what the peer itself has told as well, and that this is all."""
        for exchange in self._exchanges():
            self._tell_table(exchange, "")
        self._send(peers.control(peers.FINISHED if self._is_complete() else peers.PARTIAL))
        return True

    def _tell_table(self, exchange: Exchange, peer: str) -> None:
        cursor = self._figures.cursor(exchange)
        known, end = cursor.acknowledged, cursor.journal.end
        addresses = exchange.clients.addresses()
        is_told = False
        for start in range(0, len(addresses), _BATCH):
            is_last = start + _BATCH >= len(addresses)
            if is_last:
                cursor.sent = cursor.told = end
            batch = Batch(exchange, addresses[start:start + _BATCH], known, end if is_last else known)
            is_told |= self._tell(batch, peer)
        cursor.sent = end
        if not is_told and cursor.acknowledged == known:
            cursor.acknowledged = end  # nobody will

    def _tell_news(self, exchange: Exchange) -> bool:
        """Tell what is new in a table; False when nothing is."""
        cursor = self._figures.cursor(exchange)
        journal = cursor.journal
        journal.read()
        if cursor.sent == journal.end:
            return False
        addresses = journal.since(cursor.sent, _BATCH)
        if addresses is None:
            self._tell_table(exchange, self.name)
            return True
        first, cursor.sent = cursor.sent, cursor.sent + len(addresses)
        is_told = self._tell(Batch(exchange, list(dict.fromkeys(addresses)), first, cursor.sent), self.name)
        if not is_told:
            cursor.skip()
        return is_told

    def _tell(self, batch: Batch, peer: str) -> bool:
        """Send these clients; False when there is nothing to be said of any."""
        entries = list(batch.exchange.tell(batch.addresses, peer))
        if not entries:
            return False
        cursor = self._figures.cursor(batch.exchange)
        cursor.told = max(cursor.told, batch.last)
        self._send(b"".join(self._written(batch, entries)))
        self._figures.sent += len(entries)
        self._pacer.pause()
        return True

    def _written(self, batch: Batch, entries: Sequence[tuple[str, str, int]]) -> Iterator[bytes]:
        """The messages for these entries. All have the update before them but the last, for whoever has that has all:
        so one acknowledgement is worth as much in each of our tables."""
        exchange, first, last = batch.exchange, batch.first % _NUMBERS, batch.last % _NUMBERS
        is_widened, update = exchange.name in self._widened, self._encoder.update
        count, expiry = len(entries), exchange.expiry
        for number, (address, place, left) in enumerate(entries, 1):
            kind, key = _key_of(address)
            if is_widened and kind == IPV4:
                kind, key = IPV6, _MAPPED + key
            if self._table != (exchange.name, kind, expiry):
                yield from self._switched(exchange, kind)
            yield update(kind, last if number == count else first, left, key, place)

    def _switched(self, exchange: Exchange, kind: int) -> Iterable[bytes]:
        """What is written from now on is of this table."""
        name, expiry = exchange.name, exchange.expiry
        self._table = name, kind, expiry
        number = self._numbers.setdefault((name, kind), len(self._numbers) + 1)
        self._names[number] = name
        yield peers.definition(Definition(number, name, kind, KEY_BYTES[kind], expiry=expiry))


def _attempt(work: Callable[..., None], *arguments: Any) -> Exception | None:
    """Do it until it fails; what it fails of."""
    try:
        work(*arguments)
    except (LostError, PeersError, OSError) as error:
        return error
    return None


def _is_newer(update: int, other: int | None) -> bool:
    """Whether an update comes behind another, if there is one: in 32 bits, they begin anew."""
    return other is None or 0 < (update - other) % _NUMBERS < _NUMBERS // 2


def _key_of(address: str) -> tuple[int, bytes]:
    """The type of a client's key, and the key."""
    kind = IPV6 if ":" in address else IPV4
    return kind, socket.inet_pton(_FAMILIES[kind], address)


def _text_of_ipv4(key: bytes) -> str:
    return socket.inet_ntoa(key)


def _text_of_ipv6(key: bytes) -> str:
    """An IPv4 address that stands among those of IPv6 is one of IPv4."""
    if key.startswith(_MAPPED):
        return socket.inet_ntoa(key[12:])
    return socket.inet_ntop(socket.AF_INET6, key)
