"""Datagrams in, lines of the log out."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

from gpen.model.text import shortened
from gpen.netlog.entries import PIECE, canonical, is_note, is_web_line, one_line, read_note, read_web_line, unescaped
from gpen.netlog.matcher import Matcher

log = logging.getLogger("gpen")

LONGEST = 65_536  # bytes of a line: web servers take requests of 8 KiB; a longer line is written in two
BEGUN = 100  # lines that wait for their next piece: 6.5 MB, whatever is sent to us
SHOWN = 100  # characters of an ignored datagram


class Merger:
    """Makes one log of what balancers and web servers send. It does no I/O."""

    def __init__(self, limit: int) -> None:
        """``limit``: how many requests are held."""
        self._matcher = Matcher(limit)
        self._begun: OrderedDict[Any, bytes] = OrderedDict()  # by the sender: a line's first pieces
        self.lines = self.replaced = self.ignored = 0

    def take(self, datagram: bytes, sender: Any) -> Iterator[bytes]:
        """The lines to write now that this datagram has come, without their ends. ``sender`` is its socket address.

        To be iterated to its end, as it is a generator.
        """
        begun = self._begun.pop(sender, b"")
        if not begun and is_note(datagram):
            self._take_note(datagram, sender)
            return
        line = begun + datagram
        if len(datagram) == PIECE and not datagram.endswith(b"\n") and len(line) <= LONGEST - PIECE:
            self._begun[sender] = line
            if len(self._begun) > BEGUN:
                sender, line = self._begun.popitem(last=False)
                yield from self._web_line(line, sender)
            return
        yield from self._web_line(line, sender)

    def rest(self) -> Iterator[bytes]:
        """The lines whose further pieces have not come, at the end."""
        while self._begun:
            sender, line = self._begun.popitem(last=False)
            yield from self._web_line(line, sender)

    def _take_note(self, datagram: bytes, sender: Any) -> None:
        try:
            note = read_note(datagram)
        except ValueError as error:
            self._ignore(datagram, sender, error)
            return
        self._matcher.remember(note.client, note.server, note.request)

    def _web_line(self, datagram: bytes, sender: Any) -> Iterator[bytes]:
        line = one_line(datagram)
        if not is_web_line(line):
            self._ignore(datagram, sender, "it is neither a balancer's note nor a line with a request in quotes")
            return
        self.lines += 1
        parts = read_web_line(line)
        client = self._client_of(canonical(sender[0]), parts.request) if parts else None
        if parts is None or client is None:
            yield line
            return
        self.replaced += 1
        yield client.encode() + parts.rest

    def _client_of(self, server: str, request: bytes) -> str | None:
        client = self._matcher.client_of(server, request)
        if client is None and b"\\" in request:
            client = self._matcher.client_of(server, unescaped(request))
        return client

    def _ignore(self, datagram: bytes, sender: Any, reason: object) -> None:
        self.ignored += 1
        log.debug("ignored '%s' from %s: %s", shortened(datagram, SHOWN), sender[0], reason)
