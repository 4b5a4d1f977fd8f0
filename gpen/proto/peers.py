"""HAProxy's peers protocol 2.1, as far as it tells which client is at which server.

Each side says hello, and then what it knows, in messages: of a class and a type, with a length before what is in them
if the type is 128 or more. A table is told by a definition and from then on by a number; an entry by its key, how long
it is still to be remembered, and values, of which the server's key is wanted here and all others are passed over. A key
of a server is told once, and by a number from then on. haproxy's document (doc/peers.txt) says so, but for the
acknowledgement, which it calls type 133: on the wire it is 132, and 133 is an update with its time left.

What is read may come from anybody: lengths are limited, nothing grows without a limit, and PeersError is all that it
raises.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from struct import Struct, error
from typing import NamedTuple

PROTOCOL, MAJOR, MINOR = "HAProxyS", 2, 1
MOST_HELLO = 512  # bytes
MOST_MESSAGE = 16_384  # bytes of what is in a message; haproxy's buffer is as large
MOST_KEY = 255  # bytes of a server's key
DICTIONARY = 128  # keys of servers that are told by a number at one time
_MOST_NUMBER = 1 << 64

ACCEPTED, TRY_AGAIN, PROTOCOL_ERROR, BAD_VERSION, NOT_ME, UNKNOWN = 200, 300, 501, 502, 503, 504
STATUSES = {
    TRY_AGAIN: "it says to try again later", PROTOCOL_ERROR: "it does not understand our hello",
    BAD_VERSION: "it speaks another version of the protocol", NOT_ME: "it has another name",
    UNKNOWN: "it knows no peer of our name",
}

IPV4, IPV6 = 4, 5  # types of keys
KEY_BYTES = {IPV4: 4, IPV6: 16}

CONTROL, ERROR, TABLES = 0, 1, 10  # classes
ASK, FINISHED, PARTIAL, CONFIRM, HEARTBEAT = range(5)  # types of CONTROL
_UPDATE, _NEXT, _DEFINE, _SWITCH, _ACKNOWLEDGE, _TIMED, _NEXT_TIMED = range(128, 135)

_UPDATES = frozenset({_UPDATE, _NEXT, _TIMED, _NEXT_TIMED})
_LAST = 0xFFFFFFFF  # update: they go on with 0

_SERVER_KEY = 19  # the bit of the value that is wanted
_BEFORE = (1 << _SERVER_KEY) - 1
_RATES = frozenset({3, 5, 8, 10, 12, 14, 16, 18})  # values before it that are three numbers; all others are one

_UNSIGNED = Struct(">I")
_TWO = Struct(">II")
_one, _two = _UNSIGNED.unpack_from, _TWO.unpack_from
_HEADS = {kind: Struct(f">BBBII{size}s") for kind, size in KEY_BYTES.items()}


class PeersError(Exception):
    """Not what the protocol allows: one line. ``status`` is what a hello is answered with."""

    def __init__(self, message: str, status: int = PROTOCOL_ERROR, is_too_long: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.is_too_long = is_too_long


# --- hello ------------------------------------------------------------------------------------------------------------


class Hello(NamedTuple):
    """Who connects (``local``, with the process), and to whom (``remote``)."""

    remote: str
    local: str
    process: int = 0


def hello(words: Hello) -> bytes:
    """What is said first by the side that connects."""
    return f"{PROTOCOL} {MAJOR}.{MINOR}\n{words.remote}\n{words.local} {words.process} 0\n".encode()


def parse_hello(data: bytes) -> Hello | None:
    """Read the three lines of a hello; None when more of it is to come. Raises PeersError."""
    if data.count(b"\n") < 3:
        if len(data) > MOST_HELLO or not f"{PROTOCOL} ".encode().startswith(data[:len(PROTOCOL) + 1]):
            raise PeersError("it does not say hello as peers do")
        return None
    version, remote, local, *_ = data.decode("utf-8", "replace").split("\n")
    protocol, _, number = version.partition(" ")
    major, _, minor = number.partition(".")
    if protocol != PROTOCOL or not (_is_whole(major) and _is_whole(minor)):
        raise PeersError("it does not say hello as peers do")
    if (int(major), int(minor)) < (MAJOR, MINOR) or int(major) != MAJOR:
        raise PeersError(f"it speaks version {major}.{minor} of the protocol, and {MAJOR}.{MINOR} is wanted",
                         BAD_VERSION)
    name, process, *_ = [*local.split(" "), "", ""]
    if not name or not remote:
        raise PeersError("it does not say who it is")
    return Hello(remote, name, int(process) if _is_whole(process) else 0)


def _is_whole(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10


def hello_length(data: bytes) -> int:
    """How many bytes a hello that is whole has."""
    end = 0
    for _ in range(3):
        end = data.index(b"\n", end) + 1
    return end


def status_line(status: int) -> bytes:
    """The answer to a hello."""
    return f"{status}\n".encode()


def parse_status(data: bytes) -> int | None:
    """Read the answer to a hello; None when more of it is to come. Raises PeersError."""
    line, is_whole, _ = data.partition(b"\n")
    if len(line) > 3 or (line and not line.isdigit()) or (is_whole and len(line) != 3):
        raise PeersError("it does not answer a hello as peers do")
    return int(line) if is_whole else None


# --- numbers ----------------------------------------------------------------------------------------------------------


def encoded(value: int) -> bytes:
    """A number from 0 in as few bytes as it takes."""
    if value < 0xF0:
        return bytes((value,))
    out = [(value | 0xF0) & 0xFF]
    value = (value - 0xF0) >> 4
    while value >= 0x80:
        out.append((value | 0x80) & 0xFF)
        value = (value - 0x80) >> 7
    out.append(value)
    return bytes(out)


def decoded(data: bytes, index: int) -> tuple[int, int]:
    """The number at an index, and the index behind it. Raises IndexError when it is cut off, PeersError when it is
    larger than 64 bits."""
    value = data[index]
    index += 1
    if value < 0xF0:
        return value, index
    shift = 4
    while True:
        byte = data[index]
        index += 1
        value += byte << shift
        shift += 7
        if byte < 0x80:
            if value >= _MOST_NUMBER:
                break
            return value, index
        if shift > 67:
            break
    raise PeersError("a number of more than 64 bits")


# --- writing ----------------------------------------------------------------------------------------------------------


def control(kind: int) -> bytes:
    """A message of CONTROL."""
    return bytes((CONTROL, kind))


def failure(error: PeersError) -> bytes:
    """What is said before a connection is closed for what came over it."""
    return bytes((ERROR, int(error.is_too_long)))


def acknowledgement(table: int, update: int) -> bytes:
    """All up to this update of that table of theirs have come."""
    number = encoded(table)
    return bytes((TABLES, _ACKNOWLEDGE, len(number) + 4)) + number + _UNSIGNED.pack(update)


class Definition(NamedTuple):
    """A table: the ``number`` by which it is told from now on, its name, the type of its keys (IPV4, IPV6 or another),
    how many bytes these have, which values its entries have, and for how many milliseconds one is remembered."""

    number: int
    name: str
    kind: int
    size: int
    values: int = 1 << _SERVER_KEY
    expiry: int = 0


def definition(table: Definition) -> bytes:
    """The message that tells of a table, and that what follows is of it."""
    name = table.name.encode()
    body = b"".join((encoded(table.number), encoded(len(name)), name, *map(
        encoded, (table.kind, table.size, table.values, table.expiry))))
    return bytes((TABLES, _DEFINE)) + encoded(len(body)) + body


class Encoder:
    """Writes the entries of one connection: which keys of servers have a number there is known here."""

    def __init__(self) -> None:
        self._numbers: dict[str, bytes] = {}  # what stands for a key that was told, by the key, the oldest first
        self._told = 0

    def update(self, kind: int, update: int, left: int, key: bytes, server: str) -> bytes:
        """The message that the client with this key, IPV4 or IPV6, is at the server, and is to be remembered for so
        many milliseconds yet; ``update`` is what it is acknowledged by."""
        value = self._numbers.get(server) or self._introduced(server)
        head = _HEADS[kind]
        length = head.size - 3 + len(value)
        if length < 0xF0:
            return head.pack(TABLES, _TIMED, length, update, left, key) + value
        return bytes((TABLES, _TIMED)) + encoded(length) + _TWO.pack(update, left) + key + value

    def _introduced(self, server: str) -> bytes:
        """The key with its number, which will do from now on."""
        name = server.encode()[:MOST_KEY]
        number = encoded(self._told % DICTIONARY + 1)
        self._told += 1
        if len(self._numbers) >= DICTIONARY:
            del self._numbers[next(iter(self._numbers))]
        self._numbers[server] = encoded(len(number)) + number
        value = number + encoded(len(name)) + name
        return encoded(len(value)) + value


# --- reading ----------------------------------------------------------------------------------------------------------

# an entry: the client's key, that of its server (None: none is told), how many milliseconds it is to be remembered yet
# (None: that is not told), and the update that it is
Entry = tuple[bytes, str | None, int | None, int]


class Updates(NamedTuple):
    """Entries of one table that came together, and the ``last`` update that they make."""

    table: Definition
    entries: list[Entry]
    last: int


class Control(NamedTuple):
    """A message of CONTROL, by its type."""

    kind: int


class Failure(NamedTuple):
    """The other side says that what we said was wrong, and closes."""

    is_too_long: bool


class Acknowledgement(NamedTuple):
    """The other side has all up to this update of that table of ours."""

    table: int
    update: int


Message = Updates | Control | Failure | Acknowledgement

# each once: thousands may come at one time, and Python looks through all that there is when so many objects are new
_CONTROLS = tuple(map(Control, range(128)))
_UNKNOWN = Control(-1)  # of a class that nobody knows


class Decoder:
    """Reads the messages of one connection, in pieces as they come. ``wanted`` says which tables are: entries of all
    others are passed over."""

    def __init__(self, wanted: Callable[[Definition], bool]) -> None:
        self._wanted = wanted
        self._rest = b""
        self._tables: dict[int, Definition] = {}  # those that are wanted, by their numbers
        self._table: Definition | None = None  # the one that entries are of now
        self._update = 0
        self._servers: list[str | None] = [None] * (DICTIONARY + 1)

    def has(self, name: str, kind: int) -> bool:
        """Whether a table of this name was told of that has keys of this type."""
        return any((table.name, table.kind) == (name, kind) for table in self._tables.values())

    def read(self, data: bytes) -> list[Message]:
        """What comes with these bytes, in its order; what is cut off waits for the next. Raises PeersError."""
        buffer = self._rest + data if self._rest else data
        messages: list[Message] = []
        start, end = 0, len(buffer)
        while end - start >= 2:
            family, kind = buffer[start], buffer[start + 1]
            if kind < 128:
                messages.append(_short(family, kind))
                start += 2
                continue
            body, stop = _bounds(buffer, start + 2, end)
            if stop < 0:
                break
            try:
                if family != TABLES:
                    pass  # of a class that is not known yet
                elif kind not in _UPDATES:
                    messages += self._other(buffer[body:stop], kind)
                elif self._table is not None:
                    stop = self._entries(buffer, start, end, messages)
            except (IndexError, ValueError, error):
                raise PeersError(f"a message of class {family} and type {kind} makes no sense") from None
            start = stop
        self._rest = buffer[start:]
        return messages

    def _entries(self, buffer: bytes, start: int, end: int, messages: list[Message]) -> int:
        """Read the entry that begins at ``start``, which is whole, and all that follow at once; returns where the last
        of them ends. A hundred thousand come in a row, so this is one loop. Raises IndexError, ValueError or
        PeersError."""
        table = self._table
        assert table is not None
        size, values, servers, update = table.size, table.values & _BEFORE, self._servers, self._update
        entries: list[Entry] = []
        while end - start > 2 and buffer[start] == TABLES and buffer[start + 1] in _UPDATES:
            kind, length, index = buffer[start + 1], buffer[start + 2], start + 3
            stop = index + length
            if length >= 0xF0:
                index, stop = _bounds(buffer, start + 2, end)
            if stop > end or stop < 0:
                break
            left: int | None = None
            if kind == _TIMED:
                update, left = _two(buffer, index)
                index += 8
            elif kind == _NEXT:
                update = update + 1 & _LAST
            else:
                number, = _one(buffer, index)
                index += 4
                update, left = (number, None) if kind == _UPDATE else (update + 1 & _LAST, number)
            behind = index + size
            key = buffer[index:behind]
            if values:
                behind = _behind(values, buffer, behind)
            if behind + 2 == stop and buffer[behind] == 1:  # a number alone
                server = servers[buffer[behind + 1] or -MOST_KEY]  # 0 is none
            else:
                server = self._server(buffer, behind, stop)
            entries.append((key, server, left, update))
            start = stop
        self._update = update
        messages.append(Updates(table, entries, update))
        return start

    def _server(self, buffer: bytes, index: int, stop: int) -> str | None:
        """The server's key that is told there. Raises IndexError, ValueError or PeersError."""
        length, index = decoded(buffer, index)
        behind = index + length
        if behind > stop:
            raise IndexError
        if not length:
            return None
        number, index = decoded(buffer, index)
        if not 0 < number <= DICTIONARY:
            raise PeersError(f"the key of a server has the number {number}: 1 to {DICTIONARY} are allowed")
        if index < behind:
            size, index = decoded(buffer, index)
            if index + size > behind:
                raise IndexError
            self._servers[number] = buffer[index:index + size].decode() if size <= MOST_KEY else None
        return self._servers[number]

    def _other(self, body: bytes, kind: int) -> Iterator[Message]:
        """Raises IndexError, ValueError or PeersError."""
        if kind == _DEFINE:
            self._table = self._defined(body)
        elif kind == _SWITCH:
            self._table = self._tables.get(decoded(body, 0)[0])
        elif kind == _ACKNOWLEDGE:
            number, index = decoded(body, 0)
            if len(body) < index + 4:
                raise IndexError
            yield Acknowledgement(number, int.from_bytes(body[index:index + 4], "big"))

    def _defined(self, body: bytes) -> Definition | None:
        """The table that is told of, if it is wanted. Raises IndexError, ValueError or PeersError."""
        number, index = decoded(body, 0)
        length, index = decoded(body, index)
        name = body[index:index + length].decode()
        index += length
        kind, index = decoded(body, index)
        size, index = decoded(body, index)
        values, index = decoded(body, index)
        expiry = decoded(body, index)[0] if index < len(body) else 0
        self._tables.pop(number, None)
        table = Definition(number, name, kind, size, values, expiry)
        if KEY_BYTES.get(kind) != size or not values >> _SERVER_KEY & 1 or not self._wanted(table):
            return None
        for other in [other for other in self._tables.values() if (other.name, other.kind) == (name, kind)]:
            del self._tables[other.number]  # so that there are no more than are wanted
        self._tables[number] = table
        return table


def _bounds(buffer: bytes, start: int, end: int) -> tuple[int, int]:
    """Where what is in a message begins and ends, whose length stands at ``start``; an end of -1 is yet to come. Raises
    PeersError."""
    try:
        length, body = decoded(buffer, start)
    except IndexError:
        return 0, -1
    if length > MOST_MESSAGE:
        raise PeersError(f"a message of {length} bytes: {MOST_MESSAGE} are allowed", is_too_long=True)
    stop = body + length
    return body, stop if stop <= end else -1


def _behind(values: int, buffer: bytes, index: int) -> int:
    """The index behind these values. Raises IndexError or PeersError."""
    for bit in range(_SERVER_KEY):
        if values >> bit & 1:
            for _ in range(3 if bit in _RATES else 1):
                if buffer[index] < 0xF0:
                    index += 1
                else:
                    _, index = decoded(buffer, index)
    return index


def _short(family: int, kind: int) -> Message:
    if family == ERROR:
        return Failure(bool(kind))
    return _CONTROLS[kind] if family == CONTROL else _UNKNOWN


def entries_of(messages: Iterable[Message]) -> list[Entry]:
    """All entries in some messages, in their order."""
    return [entry for message in messages if isinstance(message, Updates) for entry in message.entries]
