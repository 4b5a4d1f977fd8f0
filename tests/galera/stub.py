"""Nodes made of answers: they speak MySQL's protocol as well or as badly as a test wants, and start in a millisecond.

A stub is a table of what it says. A test changes the table, and sees what the watcher makes of it::

    with Group(3) as group:
        one, two, three = group.nodes
        two.said["wsrep_local_recv_queue"] = "100"      # any status or variable; None: it does not have that
        two.greeting = b"\\x00\\x00\\x00\\x00"             # these bytes instead of a greeting, and goodbye
        two.refusal = Error(1045, "Access denied")      # to the login of the watcher
        two.error = Error(1047, "not yet prepared")     # to each question for its state
        two.delay = 0.8                                 # seconds before each answer
        two.pace = 1.0                                  # seconds after each byte of an answer
        two.is_stopped = True                           # connections are accepted, and nothing is said
        two.plugin = CACHING                            # the login as MySQL 8 wants it
        two.cut = 20                                    # bytes of each answer, and then the connection ends
        group.form(one, two)                            # another view of the cluster, which only these two know
        group.tables.execute("SELECT version FROM agreed.gpen_writer")

What it can't show: certification, replication and their time; for these there is the real cluster.
"""

from __future__ import annotations

import contextlib
import re
import socket
import sqlite3
import struct
import threading
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tests.galera.cluster import WATCHER
from tests.servers import free_port

HOST = "127.0.0.1"

STATUS = {  # what a node of MariaDB 10.11 with Galera 26.4 says when all is well
    "wsrep_local_state": "4", "wsrep_local_state_comment": "Synced", "wsrep_ready": "ON",
    "wsrep_cluster_status": "Primary", "wsrep_cluster_state_uuid": "", "wsrep_cluster_conf_id": "0",
    "wsrep_cluster_size": "0", "wsrep_local_index": "0", "wsrep_incoming_addresses": "", "wsrep_local_recv_queue": "0",
    "wsrep_flow_control_paused": "0", "wsrep_flow_control_paused_ns": "0", "Threads_connected": "1",
}
VARIABLES = {
    "wsrep_on": "ON", "wsrep_node_name": "", "read_only": "OFF", "wsrep_reject_queries": "NONE",
    "wsrep_sst_donor_rejects_queries": "OFF", "wsrep_desync": "OFF", "max_connections": "151",
    "max_connect_errors": "4294967295", "skip_name_resolve": "OFF", "host_cache_size": "279",
    "version": "10.11.6-MariaDB", "version_comment": "Debian",
}
XTRADB = {  # how Percona XtraDB Cluster 8 differs, by its documentation
    "wsrep_reject_queries": None, "pxc_maint_mode": "DISABLED", "version": "8.0.36-28.1",
    "version_comment": "Percona XtraDB Cluster (GPL)", "super_read_only": "OFF",
}

_CAPABILITIES = 0x0001 | 0x0008 | 0x0200 | 0x2000 | 0x8000 | 0x00080000  # PROTOCOL_41, SECURE_CONNECTION, PLUGIN_AUTH
_LATIN, _UTF8, _BINARY = 8, 45, 63
_SALT = b"abcdefghijklmnopqrst"
CACHING = "caching_sha2_password"
_TEXT, _NUMBER = 253, 8
_IN_SHOW = re.compile(r"SHOW GLOBAL (STATUS|VARIABLES) (?:WHERE .*?IN \((.*)\)|LIKE '([^']*)')",
                      re.IGNORECASE | re.DOTALL)


class Error(NamedTuple):
    """What a server answers instead of what it was asked for."""

    number: int
    text: str

    @property
    def packet(self) -> bytes:
        return b"\xff" + struct.pack("<H", self.number) + b"#HY000" + self.text.encode("utf-8", "surrogateescape")


@dataclass
class Answer:
    """The rows of a query, with the names of the columns."""

    columns: Sequence[str]
    rows: Iterable[Sequence[Any]]


class Tables:
    """The tables that a cluster replicates: at once, and for all of its nodes alike."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._base = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
        self._base.execute("ATTACH ':memory:' AS agreed")

    def execute(self, statement: str) -> Answer | int | Error:
        """Rows, the number of rows that were changed, or why not, as MariaDB numbers it."""
        with self._lock:
            try:
                cursor = self._base.execute(_sqlite(statement))
                if cursor.description is None:
                    return max(cursor.rowcount, 0)
                return Answer([column[0] for column in cursor.description], cursor.fetchall())
            except sqlite3.Error as error:
                number = 1146 if "no such table" in str(error) else 1049 if "unknown database" in str(error) else 1064
                return Error(number, f"{error}: {statement}")

    def close(self) -> None:
        with self._lock:  # a session may be asking: SQLite's module then uses what is freed
            self._base.close()


def _sqlite(statement: str) -> str:
    """A statement of MariaDB's dialect as SQLite understands it."""
    for pattern, other in ((r"\)\s*ENGINE=\w+", ")"), (r"ON UPDATE CURRENT_TIMESTAMP(\(\d\))?", ""),
                           (r"INSERT IGNORE", "INSERT OR IGNORE"), (r"\bUUID\(\)", "hex(randomblob(16))"),
                           (r"ON DUPLICATE KEY UPDATE", "ON CONFLICT (name) DO UPDATE SET"),
                           (r"VALUES\((\w+)\)(?=[,\s]*(?:\w+ = |$))", r"excluded.\1"),
                           (r"(CURRENT_TIMESTAMP)\(\d\)", r"\1"), (r"\\'", "''")):
        statement = re.sub(pattern, other, statement, flags=re.IGNORECASE)
    return statement


@dataclass(eq=False)
class Stub:
    """One node; what it says is in its fields, and they may be changed at any time. `start` it, or use a Group."""

    name: str = "node"
    said: dict[str, str | None] = field(default_factory=lambda: {**STATUS, **VARIABLES})
    tables: Tables | None = None
    greeting: bytes | None = None
    refusal: Error | None = None
    refuses: str = WATCHER[0]  # whom the refusal is for; "" for all
    error: Error | None = None
    delay: float = 0.0
    is_stopped: bool = False
    cut: int | None = None
    pace: float = 0.0  # seconds behind each byte of a greeting of its own, and of an answer
    may_write: bool = True  # the tables of the agreement
    has_global_status: bool = True  # information_schema.GLOBAL_STATUS, which MySQL 8 has not
    plugin: str = "mysql_native_password"
    remembers: bool = False  # with CACHING: somebody has logged in before, so that a hash of the password will do
    port: int = 0
    hellos: int = 0  # answers to its greeting, with a name and mostly a password's hash
    logins: int = 0
    questions: int = 0
    statements: list[str] = field(default_factory=list)  # that were to change something
    _users: dict[socket.socket, str] = field(default_factory=dict)
    _listener: socket.socket | None = None

    def __post_init__(self) -> None:
        self._wake = threading.Event()

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"

    def sessions(self, user: str) -> int:
        """How many sessions this user has here."""
        return list(self._users.values()).count(user)

    # --- up and down --------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Listen; on the same port as before, if there was one. No stub of another test gets it while this is down: it
        would be taken for this one."""
        self.port = self.port or free_port(HOST)
        self._listener = listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((HOST, self.port))
        listener.listen(512)
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def kill(self) -> None:
        """End at once, with all sessions."""
        listener, self._listener = self._listener, None
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        self.end_sessions()

    def end_sessions(self, user: str = "") -> None:
        """Cut the sessions of a user, or all."""
        for sock, who in list(self._users.items()):
            if user in ("", who):
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = listener.accept()
                threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    # --- a session ----------------------------------------------------------------------------------------------------

    def _serve(self, sock: socket.socket) -> None:
        self._users[sock] = ""
        wire = _Wire(sock)
        try:
            with contextlib.suppress(OSError, EOFError, sqlite3.Error):
                self._converse(sock, wire)
        finally:
            del self._users[sock]
            sock.close()

    def _converse(self, sock: socket.socket, wire: _Wire) -> None:
        self._pause(0.0)
        if self.greeting is not None:
            self._utter(sock, self.greeting)
            return
        wire.send(self._handshake())
        user = _user_in(wire.receive())
        self.hellos += 1
        if self.refusal is not None and self.refuses in ("", user):
            wire.send(self.refusal.packet)
            return
        if self.plugin == CACHING and not self.remembers and _password_sent(wire) != WATCHER[1].encode() + b"\0":
            wire.send(Error(1045, f"Access denied for user '{user}'").packet)
            return
        if self.plugin == CACHING and self.remembers:
            wire.send(b"\x01\x03")
        self.remembers = True
        self.logins += 1
        self._users[sock] = user
        wire.send(_OK)
        while True:
            packet = wire.receive()
            if packet[:1] == b"\x01":  # COM_QUIT
                return
            query = packet[1:].decode("utf-8", "surrogateescape") if packet[:1] == b"\x03" else ""
            answer = self._packets(query) if query else wire.framed([_OK])
            self._pause(self.delay)
            self._utter(sock, answer if self.cut is None else answer[: self.cut])
            if self.cut is not None:
                return

    def _utter(self, sock: socket.socket, data: bytes) -> None:
        while self.pace and data:
            sock.sendall(data[:1])
            data = data[1:]
            self._pause(self.pace)
        sock.sendall(data)

    def _packets(self, query: str) -> bytes:
        """The answers to a query, or to several SHOWs with semicolons between them, up to one that is an error."""
        bodies: list[bytes] = []
        queries = query.split("; ") if query.startswith("SHOW") else [query]
        for number, one in enumerate(queries, 1):
            answer = self._answer(one)
            bodies += _bodies(answer, number < len(queries))
            if isinstance(answer, Error):
                break
        return _Wire.framed(bodies)

    def _pause(self, seconds: float) -> None:
        """What a slow or stopped server does."""
        if seconds:
            self._wake.wait(seconds)
        while self.is_stopped:
            self._wake.wait(0.01)

    def _handshake(self) -> bytes:
        version = f"{self.said['version']}-{self.said['wsrep_node_name']}".encode("utf-8", "surrogateescape")
        return (b"\x0a" + version + b"\0" + struct.pack("<I", 1) + _SALT[:8] + b"\0"
                + struct.pack("<HBHH", _CAPABILITIES & 0xFFFF, _LATIN, 2, _CAPABILITIES >> 16)
                + bytes([21]) + bytes(10) + _SALT[8:] + b"\0" + self.plugin.encode() + b"\0")

    # --- answers ------------------------------------------------------------------------------------------------------

    def _answer(self, query: str) -> Answer | int | Error:
        if "gpen_" in query:
            if not query.upper().startswith("SELECT"):
                self.statements.append(query)
                if not self.may_write:
                    return Error(1142, "INSERT command denied to user 'watcher'@'%' for table `agreed`.`gpen_watcher`")
            return self.tables.execute(query) if self.tables else Error(1049, "Unknown database 'agreed'")
        if query.upper().startswith(("SET", "CREATE DATABASE", "COMMIT")):  # COMMIT: PyMySQL 1.0 says so
            return 0
        if query.upper() in ("SELECT 1", "SELECT @@WSREP_NODE_NAME"):
            return Answer(["1"], [("1" if query.endswith("1") else self.said["wsrep_node_name"],)])
        self.questions += 1
        return self.error or self._state(query)

    def _state(self, query: str) -> Answer | Error:
        """What is asked for of ``said``, in whichever of the two ways."""
        if shown := _IN_SHOW.match(query):
            table = VARIABLES if shown[1].upper() == "VARIABLES" else STATUS
            wanted = re.findall(r"'([^']*)'", shown[2]) if shown[2] else [shown[3]]
            rows = [(name, self.said[name]) for name in wanted if self._has(name, table)]
            return Answer(["Variable_name", "Value"], rows)
        if "GLOBAL_STATUS" in query.upper() and not self.has_global_status:
            return Error(1109, "Unknown table 'GLOBAL_STATUS' in information_schema")
        asked = [name for name in re.findall(r"'(\w+)'", query) if self.said.get(name) is not None]
        missing = [name for name in re.findall(r"@@(?:GLOBAL\.)?(\w+)", query) if self.said.get(name) is None]
        if missing:
            return Error(1193, f"Unknown system variable '{missing[0]}'")
        return Answer(["name", "value"], [(name, _number(self.said[name])) for name in asked])

    def _has(self, name: str, table: dict[str, str]) -> bool:
        other = VARIABLES if table is STATUS else STATUS
        return self.said.get(name) is not None and name not in other


def _number(value: str | None) -> str | None:
    """A switch as SELECT tells it: SHOW says ON and OFF, SELECT 1 and 0."""
    return {"ON": "1", "OFF": "0"}.get(value or "", value)


class Group:
    """Stubs that are one cluster: `nodes`, of which all are well at first. Use it in a ``with``."""

    def __init__(self, count: int, kind: dict[str, str | None] | None = None) -> None:
        """``kind``: how their server differs from MariaDB, XTRADB say."""
        self.tables = Tables()
        self.uuid = str(uuid.uuid1())
        self.nodes = [Stub(f"node{number}", {**STATUS, **VARIABLES, **(kind or {})}, self.tables,
                           has_global_status=kind is None) for number in range(count)]
        self._conf_id = 0

    def __enter__(self) -> Group:
        for node in self.nodes:
            node.start()
        self.form(*self.nodes)
        return self

    def __exit__(self, *_: object) -> None:
        for node in self.nodes:
            node.is_stopped, node.delay = False, 0.0
            node.kill()
        self.tables.close()

    @property
    def addresses(self) -> list[str]:
        return [node.address for node in self.nodes]

    def form(self, *nodes: Stub, addresses: Sequence[str] = ()) -> None:
        """A new view, of these nodes; the others know nothing of it. ``addresses``: what the members call themselves,
        when it is not what the watcher connects to."""
        self._conf_id += 1
        members = ",".join(addresses or [node.address for node in nodes])
        for index, node in enumerate(nodes):
            node.said.update({
                "wsrep_cluster_state_uuid": self.uuid, "wsrep_cluster_conf_id": str(self._conf_id),
                "wsrep_cluster_size": str(len(nodes)), "wsrep_local_index": str(index), "wsrep_node_name": node.name,
                "wsrep_incoming_addresses": members, "wsrep_cluster_status": "Primary", "wsrep_ready": "ON",
                "wsrep_local_state": "4", "wsrep_local_state_comment": "Synced"})

    def isolate(self, node: Stub) -> None:
        """It has lost the quorum, and says so; the others have not noticed yet (`form`)."""
        node.said.update({"wsrep_cluster_status": "non-Primary", "wsrep_ready": "OFF", "wsrep_local_state": "0",
                          "wsrep_local_state_comment": "Initialized"})


# --- packets ---------------------------------------------------------------------------------------------------------

_OK = b"\0\0\0\2\0\0\0"
_EOF, _MORE = b"\xfe\0\0\2\0", b"\xfe\0\0\x0a\0"


class _Wire:
    """Packets with their numbers."""

    def __init__(self, sock: socket.socket) -> None:
        self._stream = sock.makefile("rwb")
        self._next = 0

    def send(self, body: bytes) -> None:
        self._stream.write(struct.pack("<I", len(body))[:3] + bytes([self._next & 0xFF]) + body)
        self._stream.flush()
        self._next += 1

    def receive(self) -> bytes:
        head = self._exactly(4)
        self._next = head[3] + 1
        return self._exactly(int.from_bytes(head[:3], "little"))

    def _exactly(self, size: int) -> bytes:
        data = self._stream.read(size)
        if len(data) < size:
            raise EOFError
        return data

    @staticmethod
    def framed(bodies: Iterable[bytes]) -> bytes:
        return b"".join(struct.pack("<I", len(body))[:3] + bytes([number & 0xFF]) + body
                        for number, body in enumerate(bodies, 1))


def _bodies(answer: Answer | int | Error, more: bool) -> Iterator[bytes]:
    """An answer's packets; ``more``: another answer follows."""
    if isinstance(answer, Error):
        yield answer.packet
    elif isinstance(answer, int):
        yield b"\0" + _length(answer) + b"\0\2\0\0\0"
    else:
        yield from _result(answer, more)


def _result(answer: Answer, more: bool) -> Iterator[bytes]:
    rows = [tuple(row) for row in answer.rows]
    yield _length(len(answer.columns))
    for column, name in enumerate(answer.columns):
        kind = _NUMBER if rows and all(isinstance(row[column], int) for row in rows) else _TEXT
        characters = _BINARY if any(isinstance(row[column], bytes) for row in rows) else _UTF8
        yield (_text("def") + _text("") * 3 + _text(name) + _text("") + b"\x0c"
               + struct.pack("<HIBHB", characters, 1024, kind, 0, 0) + b"\0\0")
    yield _EOF
    for row in rows:
        yield b"".join(b"\xfb" if value is None else _text(value) for value in row)
    yield _MORE if more else _EOF


def _text(value: object) -> bytes:
    data = value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogateescape")
    return _length(len(data)) + data


def _length(number: int) -> bytes:
    if number < 251:
        return bytes([number])
    return b"\xfc" + struct.pack("<H", number) if number < 1 << 16 else b"\xfd" + struct.pack("<I", number)[:3]


def _password_sent(wire: _Wire) -> bytes:
    """Ask for the password itself, as caching_sha2_password does at a user's first login without TLS: it comes mixed
    with the salt, and locked by a key that is handed out."""
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import padding, rsa

    key = rsa.generate_private_key(65537, 2048)
    wire.send(b"\x01\x04")
    if wire.receive() != b"\x02":
        return b""
    wire.send(b"\x01" + key.public_key().public_bytes(serialization.Encoding.PEM,
                                                     serialization.PublicFormat.SubjectPublicKeyInfo))
    mixed = key.decrypt(wire.receive(), padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None))
    return bytes(byte ^ _SALT[place % len(_SALT)] for place, byte in enumerate(mixed))


def _user_in(login: bytes) -> str:
    return login[32:].split(b"\0", 1)[0].decode(errors="replace")
