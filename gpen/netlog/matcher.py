"""Whose request was it? The memory of the requests that balancers have told of."""

from __future__ import annotations

from collections import deque

# Pen cuts a datagram at 1,024 bytes. With two IPv6 addresses that leaves a request 941, so a longer one is known by
# its beginning.
COMPARED = 900

_Key = tuple[str, bytes]


class _Entry:
    """A request that a client has made. Two entries that hold the same are still two."""

    __slots__ = ("client", "key")

    def __init__(self, key: _Key, client: str) -> None:
        self.key = key
        self.client = client


class _Alike:
    """The requests of one text to one server: those that wait for their line, by age, and the last that got one."""

    __slots__ = ("answered", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[_Entry] = deque()
        self.answered: _Entry | None = None


class Matcher:
    """The last so many requests, each with its client; the oldest goes when another one comes.

    A line of a web server belongs to the newest request that has none yet: so two clients that ask the same at a time
    get a line each, and where a line was lost on its way the next ones are right again at once. When every request has
    its line, the last one gets this one too: a balancer tells only once of requests that a client sends together.

    ``remember`` and ``client_of`` take the same time however many requests are held.
    """

    def __init__(self, limit: int) -> None:
        """``limit``: how many requests are held, at least 1."""
        self._limit = limit
        self._entries: deque[_Entry] = deque()
        self._by_key: dict[_Key, _Alike] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def remember(self, client: str, server: str, request: bytes) -> None:
        """A client has sent this request (its first line) to this server."""
        if len(self._entries) >= self._limit:
            self._forget(self._entries.popleft())
        entry = _Entry((server, request[:COMPARED]), client)
        self._entries.append(entry)
        self._by_key.setdefault(entry.key, _Alike()).waiting.append(entry)

    def client_of(self, server: str, request: bytes) -> str | None:
        """The client whose request this server has logged; None when it is not known."""
        alike = self._by_key.get((server, request[:COMPARED]))
        if alike is None:
            return None
        if alike.waiting:
            alike.answered = alike.waiting.pop()
        return alike.answered.client if alike.answered else None

    def _forget(self, entry: _Entry) -> None:
        """``entry`` is the oldest of all, so it is the oldest that waits, or it does not."""
        alike = self._by_key.get(entry.key)
        if alike is None:
            return
        if alike.waiting and alike.waiting[0] is entry:
            alike.waiting.popleft()
        elif alike.answered is entry:
            alike.answered = None
        if not alike.waiting and alike.answered is None:
            del self._by_key[entry.key]
