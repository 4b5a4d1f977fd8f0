"""Records what a MariaDB server answers to each kind of command, for tests/proto/test_mysql_talk.py:

    python -m tests.proto.record_mysql HOST PORT USER PASSWORD > tests/proto/mysql_talk.json

The user needs all rights and mysql_native_password; local_infile has to be on, and there is to be a database gpen_talk
with a table t (id INT PRIMARY KEY AUTO_INCREMENT, v VARCHAR(100)), and a procedure p of two SELECTs. A recording is a
list of exchanges: what the client said and the server answered, in pieces by turns, and whether a transaction is open
behind that.
"""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import sys
from typing import Any

from pymysql._auth import scramble_native_password

from gpen.proto.mysql_talk import CACHE_METADATA, DEPRECATE_EOF, PROTOCOL_41

SILENCE = 0.3  # seconds behind an answer
LOCAL_FILES, MULTI_STATEMENTS, MULTI_RESULTS, PS_MULTI_RESULTS, PLUGIN_AUTH = 1 << 7, 1 << 16, 1 << 17, 1 << 18, 1 << 19
USUAL = PROTOCOL_41 | LOCAL_FILES | MULTI_STATEMENTS | MULTI_RESULTS | PS_MULTI_RESULTS | PLUGIN_AUTH | 1 << 15 | 8 | 4
FLAVOURS = {"old": USUAL | 1, "without EOF": USUAL | DEPRECATE_EOF | 1,
            "MariaDB": USUAL | DEPRECATE_EOF | CACHE_METADATA | 1 << 34 | 1 << 35}
TABLE = "gpen_talk.t"


def query(text: str) -> bytes:
    return b"\3" + text.encode()


def packet(body: bytes, number: int = 0) -> bytes:
    return struct.pack("<I", len(body))[:3] + bytes([number]) + body


class Client:
    """A client that says what it is told, and writes down what comes."""

    def __init__(self, host: str, port: int, user: str, password: str, capabilities: int) -> None:
        self._sock = socket.create_connection((host, port))
        self._user, self._password = user, password
        greeting = self._answer()
        end = greeting.index(b"\0", 5) + 1
        salt = greeting[end + 4 : end + 12] + greeting[end + 31 : end + 43]
        response = (struct.pack("<IIB19xI", capabilities & 0xFFFFFFFF, 1 << 24, 45, capabilities >> 32)
                    + user.encode() + b"\0\x14" + scramble_native_password(password.encode(), salt)
                    + b"gpen_talk\0mysql_native_password\0")
        self._sock.sendall(packet(response, 1))
        self.login = [[greeting.hex(), packet(response, 1).hex(), self._answer().hex()]]
        self.exchanges: list[dict[str, Any]] = []

    def _answer(self) -> bytes:
        data = b""
        self._sock.settimeout(20)
        with contextlib.suppress(TimeoutError):
            while piece := self._sock.recv(1 << 20):
                data += piece
                self._sock.settimeout(SILENCE)
        return data

    def say(self, *bodies: bytes, is_open: bool = False, numbers: tuple[int, ...] = (), answers: bool = True) -> bytes:
        """Say these packets, each behind the answer to the one before."""
        turns, answer = [], b""
        for body, number in zip(bodies, numbers or (0,) * len(bodies), strict=True):
            self._sock.sendall(packet(body, number))
            answer = self._answer() if answers else b""
            turns.append([packet(body, number).hex(), answer.hex()])
        self.exchanges.append({"turns": turns, "open": is_open})
        return answer


def statements(client: Client) -> None:
    """Queries, results, transactions."""
    say = client.say
    say(b"\x0e")
    say(query("SELECT 1"))
    say(query(f"SELECT * FROM {TABLE}"))
    say(query(f"SELECT id FROM {TABLE} WHERE id < 0"))
    say(query("SELECT REPEAT('x', 300), 'y', '', NULL"))
    say(query("SELECT '', CHAR(254), CHAR(255), CHAR(0)"))
    say(query("SELECT seq, CHAR(0) FROM seq_1_to_300"))
    say(query("SELECT nothing"))
    say(query("SELECT 1; SELECT 2, 3; DO 1; SELECT 4"))
    say(query("SELECT 1; SELECT nothing"))
    say(query("CALL gpen_talk.p()"))
    say(query("BEGIN"), is_open=True)
    say(query(f"INSERT INTO {TABLE} (v) VALUES ('x')"), is_open=True)
    say(query(f"SELECT COUNT(*) FROM {TABLE}"), is_open=True)
    say(b"\x0e", is_open=True)
    say(query("COMMIT"))
    say(query("SET autocommit = 0"))
    say(query(f"SELECT COUNT(*) FROM {TABLE}"), is_open=True)
    say(query("ROLLBACK"))
    say(query("SET autocommit = 1"))
    say(query("START TRANSACTION READ ONLY"), is_open=True)
    say(query("CREATE TABLE IF NOT EXISTS gpen_talk.other (id INT)"))
    say(query("LOAD DATA LOCAL INFILE 'x' INTO TABLE gpen_talk.other"), b"1\n2\n" * 20, b"", numbers=(0, 2, 3))
    say(query("EXPLAIN SELECT 1"))
    say(query("SHOW WARNINGS"))


def others(client: Client) -> None:
    """Prepared statements, and commands that are no queries."""
    say = client.say
    answer = say(b"\x16SELECT id, v FROM gpen_talk.t WHERE id > ? OR v = ?")
    number = answer[5:9]
    say(b"\x18" + number + b"\1\0" + b"long data" * 10, answers=False)
    say(b"\x17" + number + b"\0\1\0\0\0" + b"\0" + b"\1" + b"\3\0\xfc\0" + struct.pack("<I", 0))
    say(b"\x17" + number + b"\0\1\0\0\0" + b"\0" + b"\0" + struct.pack("<I", 0) + b"\1x")
    say(b"\x1a" + number)
    say(b"\x17" + number + b"\1\1\0\0\0" + b"\0" + b"\1" + b"\3\0\xfc\0" + struct.pack("<I", 0) + b"\1x")  # a cursor
    say(b"\x1c" + number + struct.pack("<I", 1))
    say(b"\x1c" + number + struct.pack("<I", 100))
    say(b"\x19" + number, answers=False)
    answer = say(b"\x16INSERT INTO gpen_talk.t (v) VALUES ('prepared')")
    say(b"\x17" + answer[5:9] + b"\0\1\0\0\0")
    answer = say(b"\x16SELECT 1")
    say(b"\x17" + answer[5:9] + b"\0\1\0\0\0")
    say(b"\x17" + answer[5:9] + b"\0\1\0\0\0")
    answer = say(b"\x16CALL gpen_talk.p()")
    say(b"\x17" + answer[5:9] + b"\0\1\0\0\0")
    say(b"\x16SELECT nothing")
    say(b"\x16DO ?")
    say(b"\x09")
    say(b"\x02gpen_talk")
    say(b"\x04t\0")
    say(b"\x0a")
    say(b"\x1b\1\0")
    say(b"\x1b\0\0")
    say(b"\x1f")
    say(b"\x0d")
    say(query("SELECT 2"))


def main() -> None:
    host, port, user, password = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
    recordings = {}
    for name, capabilities in FLAVOURS.items():
        for kind in (statements, others):
            client = Client(host, port, user, password, capabilities)
            kind(client)
            recordings[f"{kind.__name__}, {name}"] = {"login": client.login[0], "exchanges": client.exchanges}
    json.dump(recordings, sys.stdout, indent=0)


if __name__ == "__main__":
    main()
