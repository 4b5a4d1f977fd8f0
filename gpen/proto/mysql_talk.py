"""What a client and a server say to each other in MySQL's protocol, as far as it takes to know when they are at rest:
no command is under way, and no transaction is open.

``Login`` reads what is said before the first command, from which it follows how all that comes behind it is written.
``Talk`` is begun at any moment later: until the client says its first command behind an answer, it knows nothing. Of
what it does not understand (replication, an unknown command, bytes that do not fit) it says so, and nothing more.

Packets, their order and their numbers are those of MariaDB's knowledge base ("Client/Server Protocol") and of MySQL's
internals manual: three bytes of length, a number that begins with 0 at each command, and so many bytes; one of
0xffffff bytes is continued by the next.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import Enum, auto

_MYSQL = 1
COMPRESS, PROTOCOL_41, SSL = 1 << 5, 1 << 9, 1 << 11
DEPRECATE_EOF, ZSTD = 1 << 24, 1 << 26
NO_METADATA = 1 << 25  # MySQL's results begin with a byte that says whether definitions follow
CACHE_METADATA = 1 << 36  # MariaDB's, which are counted from 32 on
# of the status that OK and EOF tell
IN_TRANSACTION, AUTOCOMMIT, MORE_RESULTS, CURSOR = 0x0001, 0x0002, 0x0008, 0x0040

_MOST = 0xFFFFFF  # bytes of a packet; of one that is so long, more follows
_OK, _LOCAL_FILE, _EOF, _ERR = 0x00, 0xFB, 0xFE, 0xFF
_PROGRESS = 0xFFFF  # an error number that is none, but says how far a command is (MariaDB)
_EOF_BYTES = 9  # an EOF packet is shorter; what begins like one and is not, is a row
_HEAD = 32  # bytes that are kept of each packet: enough for the numbers of an OK and for a short command
_GREETING = 512  # bytes of it at most that are kept
_VERSION_10 = 10

QUIT, QUERY, PING, CHANGE_USER, RESET = 0x01, 0x03, 0x0E, 0x11, 0x1F
_FIELDS, _STATISTICS, _PREPARE, _EXECUTE, _FETCH = 0x04, 0x09, 0x16, 0x17, 0x1C
_CLOSE, _STMT_RESET = 0x19, 0x1A
_UNANSWERED = {0x18, _CLOSE}  # COM_STMT_SEND_LONG_DATA
# COM_INIT_DB, CREATE_DB, DROP_DB, REFRESH, SHUTDOWN, PROCESS_KILL, DEBUG, PING, REGISTER_SLAVE, STMT_RESET, SET_OPTION,
# RESET_CONNECTION
_SIMPLE = {0x02, 0x05, 0x06, 0x07, 0x08, 0x0C, 0x0D, PING, 0x15, _STMT_RESET, 0x1B, RESET}
_RESULTS = {QUERY, 0x0A, _EXECUTE, 0xFA}  # COM_PROCESS_INFO, COM_STMT_BULK_EXECUTE
_ENDS = (b"COMMIT", b"ROLLBACK")
_STATEMENT = slice(1, 5)  # of a command, and of the answer to COM_STMT_PREPARE: the number of what was prepared
_LAST_PREPARED = b"\xff\xff\xff\xff"  # in its place (MariaDB)


class NotUnderstood(Exception):
    """These bytes mean nothing here."""


class Packets:
    """The packets of one side. ``take`` is called with the number, the length and the first bytes of each that is
    whole, where those that continue one count to it; it raises NotUnderstood."""

    def __init__(self, take: Callable[[int, int, bytes], None], kept: int = _HEAD) -> None:
        self._take = take
        self._kept = kept
        self._header = b""
        self._number = 0
        self._left = 0  # bytes of the packet that are yet to come
        self._length = 0  # of all that belong together
        self._head = b""
        self._goes_on = False  # with the next packet

    @property
    def is_within(self) -> bool:
        """Whether some of a packet has come, and not all."""
        return bool(self._header) or self._goes_on

    def feed(self, data: memoryview | bytes) -> None:
        """These bytes come next. Raises NotUnderstood."""
        at, size = 0, len(data)
        while at < size:
            if len(self._header) < 4:
                piece = bytes(data[at : at + 4 - len(self._header)])
                at += len(piece)
                self._header += piece
                if len(self._header) < 4:
                    return
                self._begin()
            taken = min(self._left, size - at)
            if taken and len(self._head) < self._kept:
                self._head += bytes(data[at : at + min(taken, self._kept - len(self._head))])
            at += taken
            self._left -= taken
            if self._left:
                return
            self._end()

    def _begin(self) -> None:
        self._left = int.from_bytes(self._header[:3], "little")
        if not self._goes_on:
            self._number, self._length, self._head = self._header[3], 0, b""
        self._length += self._left
        self._goes_on = self._left == _MOST

    def _end(self) -> None:
        self._header = b""
        if not self._goes_on:
            self._take(self._number, self._length, self._head)


class Login:
    """What is said before the first command. ``is_over``: there is nothing more to learn; ``is_readable``: and what
    comes behind it can be read, which has these ``capabilities``."""

    def __init__(self) -> None:
        self.is_over = self.is_readable = False
        self.capabilities = 0
        self._offered = 0
        self._client = Packets(self._hear_client, 64)
        self._server = Packets(self._hear_server, _GREETING)
        self._has_answered = False  # the client, to the greeting

    def client(self, data: memoryview | bytes) -> bool:
        """The client says this. Whether there is more to learn."""
        return self._hear(self._client, data)

    def server(self, data: memoryview | bytes) -> bool:
        """The server says this. Whether there is more to learn."""
        return self._hear(self._server, data)

    def _hear(self, packets: Packets, data: memoryview | bytes) -> bool:
        if not self.is_over:
            try:
                packets.feed(data)
            except NotUnderstood:
                self.is_over = True
        return not self.is_over

    def _hear_client(self, number: int, length: int, head: bytes) -> None:
        if self._has_answered:
            return  # what proves who it is
        if length < 32 or not self._offered:
            raise NotUnderstood
        wanted = int.from_bytes(head[:4], "little")
        if not wanted & _MYSQL:  # MariaDB's have more of them
            wanted |= int.from_bytes(head[28:32], "little") << 32
        self.capabilities = wanted & (self._offered | SSL)
        self._has_answered = True
        if wanted & SSL or self.capabilities & (COMPRESS | NO_METADATA | ZSTD) or not self.capabilities & PROTOCOL_41:
            raise NotUnderstood

    def _hear_server(self, number: int, length: int, head: bytes) -> None:
        if not self._offered:
            self._offered = _offered(head)
        elif self._has_answered and head[:1] == b"\0":
            self.is_over = self.is_readable = True
        elif head[:1] == b"\xff":
            raise NotUnderstood


def _offered(greeting: bytes) -> int:
    """The capabilities of a server. Raises NotUnderstood."""
    end = greeting.find(b"\0", 1)
    if greeting[:1] != bytes([_VERSION_10]) or end < 0 or len(greeting) < end + 32:
        raise NotUnderstood
    at = end + 1 + 4 + 8 + 1
    offered = int.from_bytes(greeting[at : at + 2] + greeting[at + 5 : at + 7], "little")
    if not offered & _MYSQL:
        offered |= int.from_bytes(greeting[at + 14 : at + 18], "little") << 32
    return offered


class Await(Enum):
    """What the server is to say next."""

    NOTHING = auto()
    ONE = auto()  # a packet that is all
    WORD = auto()  # whether a command is done, or what a result looks like
    COLUMNS = auto()  # so many definitions, and what ends them
    ROWS = auto()
    PREPARED = auto()  # what became of COM_STMT_PREPARE
    FILE = auto()  # the client is to send a file
    PROOF = auto()  # the client is to prove who it is (COM_CHANGE_USER)


class Talk:
    """Commands and their answers, from some moment on. ``is_known``: it follows them; ``is_lost``: it can't."""

    def __init__(self, capabilities: int) -> None:
        self._has_eof = not capabilities & DEPRECATE_EOF
        self._caches = bool(capabilities & CACHE_METADATA)
        self.is_known = False
        self.is_lost = False
        self.status: int | None = None  # as the server told it last; None where it is not known
        self.last = 0  # command
        self.has_ended_transaction = False  # the last command
        self._client = Packets(self._hear_client)
        self._server = Packets(self._hear_server)
        self._commands: deque[bytes] = deque()  # that have yet to be answered, their heads; the first is being answered
        self._prepared_last = b""
        self._cursors: set[bytes] = set()  # what was prepared and has rows that the client has yet to fetch
        self._awaits = Await.NOTHING
        self._columns = 0  # definitions that are yet to come
        self._blocks: list[int] = []  # further definitions, of what was prepared
        self._is_prepared = False

    @property
    def is_at_rest(self) -> bool:
        """Whether no command is under way, nor anything else."""
        return (self.is_known and not (self.is_lost or self._commands or self._client.is_within
                                       or self._server.is_within))

    @property
    def is_in_transaction(self) -> bool:
        """Whether a transaction is open, or may be."""
        return self.status is None or bool(self.status & IN_TRANSACTION)

    @property
    def has_cursor(self) -> bool:
        """Whether the client has yet to fetch rows, of a cursor that was opened or read since."""
        return bool(self._cursors)

    @property
    def is_in_use(self) -> bool:
        """Whether its client, by what it said last, is about to say more: it has tried the connection, or has yet to
        commit or roll back what it may not even have begun."""
        return bool(self.last) and not self.has_ended_transaction and (
            self.last == PING or not (self.status or 0) & AUTOCOMMIT)

    def client(self, data: memoryview | bytes, answered: bool) -> None:
        """The client says this; ``answered``: the server had the last word before."""
        if self.is_lost:
            return
        if not self.is_known:
            if not (answered and len(data) > 4 and data[3] == 0):
                return
            self.is_known = True
        self._hear(self._client, data)

    def server(self, data: memoryview | bytes) -> None:
        """The server says this."""
        if self.is_known and not self.is_lost:
            self._hear(self._server, data)

    def told(self, status: int) -> None:
        """The server was asked for its status while nothing was under way."""
        self.is_known = True
        self.status = status

    def _hear(self, packets: Packets, data: memoryview | bytes) -> None:
        try:
            packets.feed(data)
        except NotUnderstood:
            self.is_lost = True

    # --- the client's -------------------------------------------------------------------------------------------------

    def _hear_client(self, number: int, length: int, head: bytes) -> None:
        if self._awaits is Await.FILE:
            if not length:
                self._awaits = Await.ONE
            return
        if self._awaits is Await.PROOF:
            return
        if number or not length:
            raise NotUnderstood
        command = head[0]
        if command in (_CLOSE, _STMT_RESET):
            self._cursors.discard(head[_STATEMENT])
        elif command in (CHANGE_USER, RESET):
            self._cursors.clear()
        if command not in _UNANSWERED and command != QUIT:
            self._commands.append(head)
            self.last = command
            self.has_ended_transaction = command == QUERY and head[1:length].strip(b" ;\r\n\t").upper() in _ENDS
            if len(self._commands) == 1:
                self._answer(command)

    def _answer(self, command: int) -> None:
        """This one is answered next."""
        if command in _RESULTS:
            self._awaits = Await.WORD
        elif command in _SIMPLE or command == _STATISTICS:
            self._awaits = Await.ONE
        elif command == _PREPARE:
            self._awaits = Await.PREPARED
        elif command in (_FETCH, _FIELDS):
            self._awaits = Await.ROWS
        elif command == CHANGE_USER:
            self._awaits = Await.PROOF
        else:
            raise NotUnderstood

    # --- the server's -------------------------------------------------------------------------------------------------

    def _hear_server(self, number: int, length: int, head: bytes) -> None:
        kind = head[0] if head else -1
        if self._awaits in (Await.NOTHING, Await.FILE) and kind != _ERR:
            raise NotUnderstood
        if kind == _ERR and not (self._awaits is Await.ONE and self._commands[0][0] == _STATISTICS):
            if int.from_bytes(head[1:3], "little") != _PROGRESS:
                self._failed()
            return
        _HEARD[self._awaits](self, kind, length, head)

    def _failed(self) -> None:
        """An error is all of the answer. Whether a transaction is open then, it does not tell."""
        if not self._commands:
            raise NotUnderstood  # the server ends the session
        self.status = None
        self._note_cursor(0)
        self._done()

    def _one(self, kind: int, length: int, head: bytes) -> None:
        if self._commands[0][0] == _STATISTICS:
            self._done()
        elif kind == _OK:
            self._end(_status_of(head))
        elif kind == _EOF:
            self._end(self._status_at_end(length, head))
        else:
            raise NotUnderstood

    def _word(self, kind: int, length: int, head: bytes) -> None:
        if kind == _OK:
            self._end(_status_of(head))
        elif kind == _LOCAL_FILE:
            self._awaits = Await.FILE
        elif kind in (_EOF, -1):
            raise NotUnderstood
        else:
            self._columns, at = _number(head, 0)
            if self._caches and head[at : at + 1] == b"\0":
                self._columns = 0  # the client knows them
            self._blocks = []
            self._is_prepared = False
            self._awaits = Await.COLUMNS
            self._next_block()

    def _prepared(self, kind: int, length: int, head: bytes) -> None:
        if kind != _OK or length < 12:
            raise NotUnderstood
        self._prepared_last = head[_STATEMENT]
        columns, parameters = int.from_bytes(head[5:7], "little"), int.from_bytes(head[7:9], "little")
        self._blocks = [count for count in (parameters, columns) if count]
        self._is_prepared = True
        self._columns = self._blocks.pop(0) if self._blocks else -1
        if self._columns < 0:
            self._done()
        else:
            self._awaits = Await.COLUMNS

    def _column(self, kind: int, length: int, head: bytes) -> None:
        if self._columns:
            self._columns -= 1
            self._next_block()
        else:  # what is behind the last definition
            if kind != _EOF or length >= _EOF_BYTES:
                raise NotUnderstood
            status = self._status_at_end(length, head)
            self.status = status
            if status & CURSOR and not self._is_prepared:
                self._end(status)
            else:
                self._begin_rows()

    def _next_block(self) -> None:
        if not self._columns and not self._has_eof:
            self._begin_rows()

    def _begin_rows(self) -> None:
        """All definitions are here; of what was prepared, more may follow, but no rows."""
        if not self._is_prepared:
            self._awaits = Await.ROWS
        elif self._blocks:
            self._columns = self._blocks.pop(0)
        else:
            self._done()

    def _row(self, kind: int, length: int, head: bytes) -> None:
        if kind == _EOF and length < (_EOF_BYTES if self._has_eof else _MOST):
            self._end(self._status_at_end(length, head))

    def _proof(self, kind: int, length: int, head: bytes) -> None:
        if kind == _OK:
            self._end(_status_of(head))

    def _status_at_end(self, length: int, head: bytes) -> int:
        """What an EOF tells, or the OK that begins like one."""
        if length < _EOF_BYTES and self._has_eof:
            if length < 5:
                raise NotUnderstood
            return int.from_bytes(head[3:5], "little")
        return _status_of(head)

    def _end(self, status: int) -> None:
        """A result is whole; there may be another."""
        was, self.status = self.status, status
        if status & MORE_RESULTS:
            self._awaits = Await.WORD
            return
        if was is not None and was & IN_TRANSACTION and not status & IN_TRANSACTION:
            self.has_ended_transaction = True
        self._note_cursor(status)
        self._done()

    def _note_cursor(self, status: int) -> None:
        """Behind the answer to a command that opens one, or reads it."""
        head = self._commands[0]
        if head[0] in (_EXECUTE, _FETCH):
            number = self._prepared_last if head[_STATEMENT] == _LAST_PREPARED else head[_STATEMENT]
            if status & CURSOR:
                self._cursors.add(number)
            else:
                self._cursors.discard(number)

    def _done(self) -> None:
        """The answer is whole."""
        self._awaits = Await.NOTHING
        self._commands.popleft()
        if self._commands:
            self._answer(self._commands[0][0])


_HEARD: dict[Await, Callable[[Talk, int, int, bytes], None]] = {
    Await.ONE: Talk._one, Await.WORD: Talk._word, Await.COLUMNS: Talk._column, Await.ROWS: Talk._row,
    Await.PREPARED: Talk._prepared, Await.PROOF: Talk._proof}


def _number(data: bytes, at: int) -> tuple[int, int]:
    """A number of variable length, and where it ends. Raises NotUnderstood."""
    first = data[at] if at < len(data) else _ERR
    if first < _LOCAL_FILE:
        return first, at + 1
    size = {0xFC: 2, 0xFD: 3, 0xFE: 8}.get(first, 0)
    if not size or len(data) < at + 1 + size:
        raise NotUnderstood
    return int.from_bytes(data[at + 1 : at + 1 + size], "little"), at + 1 + size


def _status_of(head: bytes) -> int:
    """What an OK packet tells. Raises NotUnderstood."""
    _, at = _number(head, 1)
    _, at = _number(head, at)
    if len(head) < at + 2:
        raise NotUnderstood
    return int.from_bytes(head[at : at + 2], "little")
