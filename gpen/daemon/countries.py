"""Which country an address is in: a MaxMind database (geoip_db), asked once for each client."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpen.control.script import ScriptError
from gpen.model.client import ClientTable
from gpen.model.pool import Pool

if TYPE_CHECKING:
    import maxminddb


class Countries:
    """Tells a pool the countries of its clients, who remember them until the database changes."""

    def __init__(self, pool: Pool, clients: ClientTable) -> None:
        self._clients = clients
        self._reader: maxminddb.Reader | None = None
        pool.country_of = self.of

    def adopt(self, reader: maxminddb.Reader | None) -> None:
        """Ask this database from now on, or none."""
        if self._reader is not None or reader is not None:
            self._reader = reader
            self._clients.forget_countries()

    def of(self, address: str) -> str:
        """The country (ISO 3166-1) of an address; empty when nobody knows. Does not switch."""
        try:
            record = self._reader.get(address) if self._reader is not None else None
        except ValueError:
            return ""  # no IP address, or one of a family that the database does not have
        country = record.get("country") if isinstance(record, dict) else None
        code = country.get("iso_code") if isinstance(country, dict) else None
        return code if isinstance(code, str) else ""


def open_countries(path: str | None) -> maxminddb.Reader | None:
    """The database at this path; None without one. Raises ScriptError.

    It is read into memory: a mapped file that is written over would take gpen with it. A lookup then takes 8 us instead
    of 0.3 (20,000 networks), once for each client.
    """
    if not path:
        return None
    import maxminddb

    try:
        return maxminddb.open_database(path, maxminddb.MODE_MEMORY)
    except OSError as error:
        raise ScriptError(f"geoip_db: can't read '{path}': {error.strerror}") from None
    except (maxminddb.InvalidDatabaseError, ValueError):
        raise ScriptError(f"geoip_db: '{path}' is not a MaxMind database (.mmdb)") from None
