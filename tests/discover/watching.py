"""A source that is watched as gpen-discover does it: what it tells, and what it complains of."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from types import TracebackType

from gpen.discover.source import Found, Source, SourceError
from gpen.model.address import bracketed
from tests.harness import PATIENCE, wait_until

AGAIN = 0.1  # seconds until a source that has failed is asked again


def address_of(found: Found) -> str:
    return f"{bracketed(found.host)}:{found.port}"


class Watching:
    """Watches a source in a thread until the end of a ``with``."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.told: list[list[Found]] = []
        self.errors: list[str] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Watching:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None,
                 ) -> None:
        self._stopping.set()
        self.source.stop()
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), "the watch does not end"

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self.source.watch(self._tell, self._stopping)
            except SourceError as error:
                self.errors.append(str(error))
                self._stopping.wait(AGAIN)

    def _tell(self, servers: Sequence[Found]) -> None:
        self.told.append(list(servers))

    @property
    def servers(self) -> list[str]:
        """HOST:PORT of what was told last, in order; nothing where nothing was told yet."""
        return sorted(map(address_of, self.told[-1])) if self.told else []

    def wait_for(self, *servers: str) -> None:
        """Wait until these are told."""
        wait_until(lambda: self.told and self.servers == sorted(servers), what=f"{servers} told, not {self.servers}")

    def wait_error(self, words: str, since: int = 0) -> str:
        """Wait for a complaint with these words, the first after so many others."""
        return str(wait_until(lambda: next((said for said in self.errors[since:] if words in said), ""),
                              what=f"'{words}' in {self.errors}"))
