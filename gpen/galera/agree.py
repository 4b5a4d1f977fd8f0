"""The table in which several watchers agree on the writer.

It has one row. A change is one UPDATE of the version that was read to the next: of two that are made at a time, on
whichever nodes, Galera certifies one; the other finds a deadlock (1213) or no such version.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING

from gpen.galera.access import Access
from gpen.galera.report import Choice

if TYPE_CHECKING:
    from pymysql.connections import Connection

NO_TABLE = (1049, 1146)  # unknown database, no such table
OUTRUN = (1213, 1205)  # somebody else was first
SECONDS = 10.0  # longer than Galera takes to drop a node that is gone


class Ledger:
    """The table gpen_writer in a schema."""

    def __init__(self, schema: str) -> None:
        """Raises ValueError for what is no name of a schema."""
        if not re.fullmatch(r"[A-Za-z0-9_$-]{1,64}", schema):
            raise ValueError(f"'{schema}' is not the name of a schema")
        self.table = f"`{schema}`.gpen_writer"
        self._select = f"SELECT version, writer, succession FROM {self.table} WHERE name = 'writer'"

    def read(self, connection: Connection) -> Choice | str | None:
        """The choice; None: there is none yet; a text: why it can't be read."""
        import pymysql

        try:
            with connection.cursor() as cursor:
                cursor.execute(self._select)
                row = cursor.fetchone()
        except (pymysql.err.ProgrammingError, pymysql.err.InternalError, pymysql.err.OperationalError) as error:
            number, text = (*error.args, 0, "")[:2]
            if not connection.open:
                raise
            return None if number in NO_TABLE else f"{self.table}: {text}"
        return Choice(int(row[0]), row[1], tuple(row[2].split(","))) if row else None

    def write(self, connection: Connection, choice: Choice) -> bool:
        """Make this the choice, if it is the next version. Returns whether it is; False: somebody else was first.

        Waits as long as the cluster can't certify. Raises pymysql.err.Error.
        """
        import pymysql

        succession = ",".join(choice.succession)
        try:
            with connection.cursor() as cursor:
                if choice.version == 1:
                    self._create(connection)
                    return bool(cursor.execute(
                        f"INSERT IGNORE INTO {self.table} (name, writer, succession, version) "
                        "VALUES ('writer', %s, %s, 1)", (choice.writer, succession)))
                return bool(cursor.execute(
                    f"UPDATE {self.table} SET writer = %s, succession = %s, version = %s "
                    "WHERE name = 'writer' AND version = %s",
                    (choice.writer, succession, choice.version, choice.version - 1)))
        except pymysql.err.OperationalError as error:
            if error.args[0] in OUTRUN:
                return False
            raise

    def _create(self, connection: Connection) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SET SESSION sql_notes = 0")
            cursor.execute(
                f"CREATE TABLE IF NOT EXISTS {self.table} (name VARCHAR(32) PRIMARY KEY, writer VARCHAR(255) NOT NULL, "
                "succession TEXT NOT NULL, version BIGINT NOT NULL, changed TIMESTAMP NOT NULL DEFAULT "
                "CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP) ENGINE=InnoDB")


def propose(ledger: Ledger, access: Access, node: str, choice: Choice, tell: Callable[[str], None]) -> None:
    """Write a choice through a node, in a thread of its own, for it may take until the cluster has a new view. Then
    tell: an empty text, or what went wrong."""

    def run() -> None:
        import pymysql

        try:
            with closing(access.connect(node, SECONDS, SECONDS)) as connection:
                ledger.write(connection, choice)
            tell("")
        except (OSError, pymysql.err.Error) as error:
            tell(" ".join(str(error.args[-1] if error.args else error).split()))

    threading.Thread(target=run, name=f"proposal {choice.version}", daemon=True).start()
