"""The tables in which several watchers agree on the writer (the protocol is in agree.py).

``gpen_writer`` has one row, the choice. A change is one UPDATE of the version that was read to the next: of two that
are made at a time, on whichever nodes, Galera certifies one; the other finds a deadlock (1213) or no such version.
``gpen_watcher`` has a row for each watcher, with the newest choice that its gpens have carried out (negative: as its
predecessor said, of which this process knows nothing), and ``gpen_instance`` says which process that row belongs to
(identity.py). Nodes are named as they call themselves (members.py), for each watcher may have other addresses of them.

Watchers that know neither the third table nor PINNED may go on beside others: they pass over that as a node that there
is not. So an upgrade needs nothing, not even a right to ALTER, which the watcher has not.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

from gpen.galera.access import Access
from gpen.galera.report import NOBODYS, SAID, Choice, Claim, Page
from gpen.log import failure
from gpen.model.text import shortened

if TYPE_CHECKING:
    from pymysql.connections import Connection
    from pymysql.cursors import Cursor

NO_TABLE = (1049, 1146)  # unknown database, no such table
NO_RIGHT = (1044, 1049, 1142)  # to the schema, which may not even exist, or to a table
OUTRUN = (1213, 1205)  # somebody else was first
SECONDS = 10.0  # longer than Galera takes to drop a node that is gone
PINNED = "(pinned)"  # the first of the succession: an operator wanted this writer
CREATE = (
    "CREATE TABLE IF NOT EXISTS {schema}.gpen_writer (name VARCHAR(32) PRIMARY KEY, writer VARCHAR(255) NOT NULL, "
    "heir VARCHAR(255) NOT NULL, succession TEXT NOT NULL, version BIGINT NOT NULL, changed TIMESTAMP NOT NULL "
    "DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP) ENGINE=InnoDB",
    "CREATE TABLE IF NOT EXISTS {schema}.gpen_watcher (name VARCHAR(255) PRIMARY KEY, version BIGINT NOT NULL, "
    "active BOOLEAN NOT NULL) ENGINE=InnoDB",
    "CREATE TABLE IF NOT EXISTS {schema}.gpen_instance (name VARCHAR(255) PRIMARY KEY, instance VARCHAR(64) NOT NULL, "
    "number BIGINT NOT NULL) ENGINE=InnoDB",
)

Work = Callable[["Connection"], object]


class Ledger:
    """The tables, in a schema; ``me`` is how this watcher is called there, ``instance`` this process."""

    def __init__(self, schema: str, me: str, instance: str = "") -> None:
        """Raises ValueError for what is no name of a schema."""
        if not re.fullmatch(r"[A-Za-z0-9_$-]{1,64}", schema):
            raise ValueError(f"'{schema}' is not the name of a schema")
        self.me = me
        self._instance = instance
        self._schema = f"`{schema}`"

    def read(self, connection: Connection) -> Page | str:
        """What the tables hold; a text: why they can't be read. Raises pymysql.err.Error when the connection ends."""
        import pymysql

        try:
            with connection.cursor() as cursor:
                cursor.execute(f"SELECT version, writer, succession, heir FROM {self._schema}.gpen_writer")
                row = cursor.fetchone()
                cursor.execute(f"SELECT name, version, active FROM {self._schema}.gpen_watcher WHERE active UNION ALL "
                               f"SELECT '', MAX(ABS(version)), 0 FROM {self._schema}.gpen_watcher")
                watchers = list(cursor.fetchall())
                claimed = self._claimed(cursor)
        except pymysql.err.MySQLError as error:
            if not connection.open:
                raise
            number, text = (*error.args, 0, "")[:2]
            return Page() if number in NO_TABLE else self.complaint(number, str(text), _user(connection))
        try:
            return Page(choice=_choice(*row) if row else None,
                        claim=Claim(int(claimed[0]), _text(claimed[1])) if claimed else NOBODYS,
                        watchers={_text(name): int(version) for name, version, active in watchers if active},
                        newest=max((abs(int(version)) for _, version, _ in watchers if version is not None), default=0))
        except (ArithmeticError, IndexError, TypeError, ValueError):  # its columns were altered, say
            return f"the tables of {self._schema} hold what no watcher has written"

    def _claimed(self, cursor: Cursor) -> Sequence[Any]:
        """The row that says whose this watcher's is, if there is one; nor is there before anybody made the table."""
        import pymysql

        try:
            cursor.execute(f"SELECT number, instance FROM {self._schema}.gpen_instance WHERE name = %s", (self.me,))
        except pymysql.err.ProgrammingError as error:
            if error.args[0] not in NO_TABLE:
                raise
            return ()
        return cursor.fetchone() or ()

    def join(self, connection: Connection) -> None:
        """Take part: from now on the writer is not moved without this watcher, and its row is this process's. Makes the
        tables if there are none."""
        with self._cursor(connection) as cursor:
            cursor.execute("SET SESSION sql_notes = 0")  # that a table exists is not worth a warning
            for statement in CREATE:
                cursor.execute(statement.format(schema=self._schema))
            cursor.execute(f"INSERT INTO {self._schema}.gpen_watcher (name, version, active) VALUES (%s, 0, 1) "
                           "ON DUPLICATE KEY UPDATE active = 1, version = -ABS(version)", (self.me,))
            cursor.execute(f"INSERT INTO {self._schema}.gpen_instance (name, instance, number) VALUES (%s, %s, 1) "
                           "ON DUPLICATE KEY UPDATE instance = %s, number = number + 1",
                           (self.me, self._instance, self._instance))

    def leave(self, connection: Connection) -> None:
        """Take no part any more."""
        with self._cursor(connection) as cursor:
            cursor.execute(f"UPDATE {self._schema}.gpen_watcher SET active = 0 WHERE name = %s", (self.me,))
            cursor.execute(f"UPDATE {self._schema}.gpen_instance SET instance = '', number = number + 1 "
                           "WHERE name = %s AND instance = %s", (self.me, self._instance))

    def confirm(self, connection: Connection, version: int) -> None:
        """This choice has been carried out by all gpens of this watcher."""
        with self._cursor(connection) as cursor:
            cursor.execute(f"UPDATE {self._schema}.gpen_watcher SET version = %s WHERE name = %s AND version < %s",
                           (version, self.me, version))

    def write(self, connection: Connection, choice: Choice, before: int | None) -> None:
        """Make this the choice, if the version ``before`` (None: there is none) is the one of now; else nothing
        happens.

        Waits as long as the cluster can't certify. Raises pymysql.err.Error.
        """
        import pymysql

        succession = ",".join([*[PINNED] * choice.pinned, *choice.succession])
        values = (choice.writer, choice.heir, succession, choice.version)
        try:
            with self._cursor(connection) as cursor:
                if before is None:
                    cursor.execute(f"INSERT IGNORE INTO {self._schema}.gpen_writer (writer, heir, succession, version, "
                                   "name) VALUES (%s, %s, %s, %s, 'writer')", values)
                else:
                    cursor.execute(f"UPDATE {self._schema}.gpen_writer SET writer = %s, heir = %s, succession = %s, "
                                   "version = %s WHERE name = 'writer' AND version = %s", (*values, before))
        except pymysql.err.OperationalError as error:
            if error.args[0] not in OUTRUN:
                raise

    def complaint(self, number: int, text: str, user: str) -> str:
        """What a node says of a statement for the tables; where a right or the schema is missing, with the remedy."""
        if number not in NO_RIGHT:
            return shortened(text, SAID)
        return (f"{shortened(text, SAID)}: CREATE DATABASE IF NOT EXISTS {self._schema}; "
                f"GRANT SELECT, INSERT, UPDATE, CREATE ON {self._schema}.* TO '{user}'@'%'")

    @contextmanager
    def _cursor(self, connection: Connection) -> Iterator[Cursor]:
        """A cursor whose errors have a remedy."""
        import pymysql

        try:
            with connection.cursor() as cursor:
                yield cursor
        except pymysql.err.MySQLError as error:
            number, text = (*error.args, 0, "")[:2]
            raise type(error)(number, self.complaint(number, str(text), _user(connection))) from None

    def removal(self, watcher: str) -> str:
        """The SQL that takes a watcher off the list, for the operator."""
        return f"UPDATE {self._schema}.gpen_watcher SET active = 0 WHERE name = '{watcher}'"


def _choice(version: int, writer: str, succession: str, heir: str) -> Choice:
    nodes = tuple(filter(None, _text(succession).split(",")))
    pinned = PINNED in nodes
    return Choice(int(version), _text(writer), tuple(node for node in nodes if node != PINNED), _text(heir), pinned)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _user(connection: Connection) -> str:
    user = connection.user  # PyMySQL encodes it when it logs in
    return user.decode(errors="replace") if isinstance(user, bytes) else str(user)


def in_background(access: Access, node: str, work: Work, tell: Callable[[str], None]) -> threading.Thread:
    """Do something with a node, in a thread of its own, for it may take until the cluster has a new view. Then tell: an
    empty text, or what went wrong."""

    def run() -> None:
        trouble = ""
        try:
            with closing(access.connect(node, SECONDS, SECONDS)) as connection:
                work(connection)
        except Exception as error:  # whatever PyMySQL makes of what a node says
            trouble = shortened(" ".join(str(error.args[-1] if error.args else error).split()), SAID) or failure(error)
        tell(trouble)

    thread = threading.Thread(target=run, name=f"task at {node}", daemon=True)
    thread.start()
    return thread
