"""The responses of an HTTP/1 server, watched: pure. They pass as they are; only where each one ends is of interest."""

from __future__ import annotations

from contextlib import suppress

with suppress(ImportError):  # an extra: without it the balancer refuses the setting http
    from httptools import HttpParserCallbackError, HttpParserError, HttpResponseParser


class Responses:
    """What a server answers, to one request at a time.

    ``whole``: no response is awaited, or the last one came to its end; ``begun``: some of it has come. ``switched``: it
    was the end of HTTP on this connection (101, to a request that asked for it). ``lost``: what comes is not what was
    asked for, or can't be read, or no more will come; then nothing further can be asked.
    """

    __slots__ = ("_method", "_parser", "_switch", "begun", "lost", "switched", "whole")

    def __init__(self) -> None:
        self._method = b""
        self._switch: _Switch | None = None  # what such a request waits for
        self._parser: HttpResponseParser | None = None  # made anew for each response: nothing is carried over
        self.whole = True
        self.begun = self.switched = self.lost = False

    def expect(self, method: bytes, upgrade: bool) -> None:
        """The next response is one to this method; with ``upgrade`` it may end HTTP here, in favour of a WebSocket."""
        self._method = method
        self._switch = _Switch(self) if upgrade else None
        self._parser = HttpResponseParser(self._switch or self)
        self.whole = self.begun = False

    def watch(self, data: memoryview) -> None:
        """This comes from the server."""
        self.begun = True
        if self._parser is None:  # nobody asked
            self.lost = True
            return
        try:
            self._parser.feed_data(data)
        except HttpParserCallbackError:
            if not self.whole:  # that was not _Enough
                raise
        except HttpParserError:
            self.lost = True
        if self.whole:
            self.close()

    def close(self) -> None:
        """Forget the parser, which refers back to here."""
        self._parser = self._switch = None

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        status = self._parser.get_status_code()
        if self.whole:  # a second response to one request
            self.lost = True
        elif status == 101:
            self.switched = self._switch is not None and self._switch.is_agreed
            self.lost = not self.switched
        elif status < 200 or (self._method != b"HEAD" and status not in (204, 304)):
            return
        self.whole = True
        raise _Enough

    def on_message_complete(self) -> None:
        assert self._parser is not None
        if not self.whole and self._parser.get_status_code() >= 200:
            self.whole = True
            self.lost = not self._parser.should_keep_alive()


class _Switch:
    """A response that may be the beginning of a WebSocket. The status alone is not its word for that: an application
    may pass on the status of another one, and go on speaking HTTP."""

    __slots__ = ("_headers", "_responses", "on_message_complete")

    def __init__(self, responses: Responses) -> None:
        self._responses = responses
        self._headers: set[tuple[bytes, bytes]] = set()
        self.on_message_complete = responses.on_message_complete

    @property
    def is_agreed(self) -> bool:
        """Whether it says so: Upgrade: websocket, Connection: upgrade (RFC 6455, 4.1)."""
        return self._headers >= {(b"upgrade", b"websocket"), (b"connection", b"upgrade")}

    def on_message_begin(self) -> None:  # there may be others before, as 103
        self._headers.clear()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.update((name.lower(), word.strip(b" \t")) for word in value.lower().split(b","))

    def on_headers_complete(self) -> None:
        self._responses.on_headers_complete()


class _Enough(Exception):
    """There is no need to read on."""
