"""HTTP as sources speak it: whole answers in JSON, and streams of lines of it; no wait and no answer without an end.

Each request has a connection of its own: sources ask once in seconds, so that to keep one would save nothing that
counts, and what is rotated, authorities and certificates, is read when the next connection is made. Nobody is sent
elsewhere: an answer that names another place is an error, and proxies are not heeded.
"""

from __future__ import annotations

import http.client
import io
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple, cast
from urllib.parse import urlsplit

from gpen.discover.source import SourceError
from gpen.model.address import bracketed
from gpen.model.text import shortened

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

CONNECT = 1.5  # seconds for the way to an address
WHOLE = 4.0  # seconds for a whole answer, and for the head of one that goes on
MOST = 1 << 23  # bytes of an answer, or of a line of one that goes on: some thousand servers
SHOWN = 200  # characters of what a server says of an error
PORTS = {"http": 80, "https": 443}


class Tls(NamedTuple):
    """Files in PEM, "" for none: the authorities that vouch for the server (else the system's), and the certificate
    and key that are shown to it."""

    ca: str = ""
    certificate: str = ""
    key: str = ""

    def context(self) -> ssl.SSLContext:
        """Made anew for each connection, for the files are rotated. Raises SourceError."""
        file = self.ca
        try:
            context = ssl.create_default_context(cafile=file or None)
            file = self.certificate
            if file:
                context.load_cert_chain(file, self.key or None, password=_no_password)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            why = (error.strerror if isinstance(error, OSError) else "") or str(error)
            raise SourceError(f"TLS: {file}: {shortened(why)}; a PEM file is needed") from None
        return context


def _no_password() -> str:
    raise ValueError("its key has a passphrase, which nobody can enter here")


NO_FILES = Tls()


class HttpError(SourceError):
    """An answer that says no: ``status`` and, in ``said``, what it says."""

    def __init__(self, place: str, status: int, said: str) -> None:
        elsewhere = ", which sends elsewhere: give the place itself" if 300 <= status < 400 else ""
        super().__init__(f"{place}: answers {status}{elsewhere}{f': {said}' if said else ''}")
        self.status = status
        self.said = said


class Silent(SourceError):
    """A stream that has said nothing for too long."""


class Answer(NamedTuple):
    """A whole answer: what its JSON says, and its header fields, whose names are found in any case."""

    value: Any
    headers: http.client.HTTPMessage


class HttpClient:
    """One server, at http://HOST[:PORT] or https://HOST[:PORT], perhaps with a path in front of all others. For one
    thread; ``stop`` may be called from another."""

    def __init__(self, url: str, tls: Tls = NO_FILES) -> None:
        """Raises ValueError when that is no such URL."""
        if "@" in url:
            raise ValueError("a URL with user or password would be shown to everybody: give them in a file")
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise ValueError(f"'{url}' is no URL: {error}") from None
        if parts.scheme not in PORTS or not parts.hostname or port == 0 or parts.query or parts.fragment:
            raise ValueError(f"'{url}' is no URL: expected http://HOST:PORT or https://HOST:PORT")
        self.host = parts.hostname
        self.port = port or PORTS[parts.scheme]
        self.is_safe = parts.scheme == "https"
        self.place = f"{bracketed(self.host)}:{self.port}"
        self._path = parts.path.rstrip("/")
        self._tls = tls
        self._lock = threading.Lock()
        self._sock: socket.socket | None = None
        self._is_stopped = False

    def stop(self) -> None:
        """Interrupt what is waited for, for good: all requests fail from now on."""
        with self._lock:
            self._is_stopped = True
            if self._sock is not None:
                with suppress(OSError):  # not SSLSocket's, which takes TLS away from whoever reads
                    socket.socket.shutdown(self._sock, socket.SHUT_RDWR)

    def ask(self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None,
            seconds: float = WHOLE) -> Answer:
        """Ask, and take the whole answer, which has so many seconds. Raises SourceError; HttpError when it is no."""
        with self._explained(), self._asked(method, path, body, headers, seconds) as (response, _):
            return Answer(self.read_json(_whole(response)), response.headers)

    def lines(self, method: str, path: str, silence: float, body: object = None,
              headers: Mapping[str, str] | None = None) -> Iterator[Any]:
        """Ask, and give each line of an answer that goes on, as its JSON says it, until that ends. Raises SourceError;
        HttpError when the answer is no, Silent when a line takes longer than so many seconds."""
        with self._explained(), self._asked(method, path, body, headers, WHOLE) as (response, bounded):
            while True:
                bounded.allow(silence)
                try:
                    line = response.readline(MOST + 1)
                except TimeoutError:
                    raise Silent(f"{self.place}: has said nothing for {silence:g} s") from None
                if not line:
                    return
                if not line.endswith(b"\n"):
                    raise SourceError(f"{self.place}: a line of its answer has no end")
                if line.strip():
                    yield self.read_json(line)

    def read_json(self, data: bytes) -> Any:
        """What this says. Raises SourceError, also when that is too deep to be true."""
        try:
            return json.loads(data)
        except (ValueError, RecursionError) as error:
            why = str(error) if isinstance(error, ValueError) else "too deep"
            raise SourceError(f"{self.place}: its answer is no JSON: {shortened(why)}") from None

    @contextmanager
    def _asked(self, method: str, path: str, body: object, headers: Mapping[str, str] | None, seconds: float,
               ) -> Iterator[tuple[http.client.HTTPResponse, _BoundedSocket]]:
        bounded = _BoundedSocket(time.monotonic() + seconds)
        connection = http.client.HTTPConnection(self.host, self.port)
        try:
            bounded.sock = self._connect(bounded)
            connection.sock = cast(socket.socket, bounded)
            data = None if body is None else json.dumps(body).encode()
            kind = {} if body is None else {"Content-Type": "application/json"}
            connection.request(method, self._path + path, data,
                               {"Host": self.place, "User-Agent": "gpen-discover", "Connection": "close",
                                "Accept": "application/json", **kind, **(headers or {})})
            response = http.client.HTTPResponse(cast(socket.socket, bounded), method=method)
            response.begin()
            if response.status != 200:
                raise HttpError(self.place, response.status, _reason(_whole(response)))
            yield response, bounded
        finally:
            self._close()

    def _connect(self, bounded: _BoundedSocket) -> socket.socket:
        """Raises OSError, and SourceError for a file of TLS."""
        context = self._tls.context() if self.is_safe else None
        failure: OSError = OSError(0, "its name has no address")
        for family, kind, number, _, place in socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM):
            try:
                sock = self._hold(socket.socket(family, kind, number))
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.settimeout(min(CONNECT, bounded.left()))
                sock.connect(place)
                if context is None:
                    return sock
                safe = self._hold(context.wrap_socket(sock, server_hostname=self.host, do_handshake_on_connect=False))
                safe.settimeout(bounded.left())
                cast(ssl.SSLSocket, safe).do_handshake()
                return safe
            except OSError as error:
                self._close()
                failure = error
        raise failure

    def _hold(self, sock: socket.socket) -> socket.socket:
        """Have ``stop`` interrupt it."""
        with self._lock:
            self._sock = sock
            if self._is_stopped:
                raise OSError(0, "stopped")
        return sock

    def _close(self) -> None:
        with self._lock:
            if self._sock is not None:
                self._sock.close()
            self._sock = None

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """What goes wrong, as a SourceError; without what http.client says of a header field that it refuses, as that
        may be a token."""
        try:
            yield
        except TimeoutError:
            raise SourceError(f"{self.place}: does not answer in time") from None
        except ssl.SSLCertVerificationError as error:
            raise SourceError(f"{self.place}: its certificate is not accepted: {error.verify_message}; is --ca the "
                              "authority that signed it, and is it made for this name?") from None
        except OSError as error:
            raise SourceError(f"{self.place}: {shortened(error.strerror or str(error))}") from None
        except (http.client.HTTPException, ValueError) as error:
            raise SourceError(f"{self.place}: its answer is no HTTP or is cut off ({type(error).__name__})") from None


class _BoundedSocket(io.RawIOBase):
    """A socket as http.client sees it: written and read until a deadline, and at most so many bytes."""

    def __init__(self, deadline: float) -> None:
        """``deadline`` in seconds of the monotonic clock."""
        super().__init__()
        self.sock: socket.socket | None = None
        self._deadline = deadline
        self._bytes = MOST

    def allow(self, seconds: float) -> None:
        """So many seconds more, and as many bytes as an answer may have."""
        self._deadline = time.monotonic() + seconds
        self._bytes = MOST

    def left(self) -> float:
        """Seconds until the deadline. Raises TimeoutError when that is over."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    def sendall(self, data: bytes) -> None:
        assert self.sock is not None
        self.sock.settimeout(self.left())
        self.sock.sendall(data)

    def makefile(self, *_: object) -> io.BufferedReader:
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Raises OSError; also when there is too much to be read."""
        assert self.sock is not None
        self.sock.settimeout(self.left())
        size = self.sock.recv_into(buffer)
        self._bytes -= size
        if self._bytes < 0:
            raise OSError(0, f"its answer is longer than {MOST >> 20} MiB")
        return size


def _whole(response: http.client.HTTPResponse) -> bytes:
    """The body. Raises OSError when it is cut off, and as _BoundedSocket."""
    data = response.read(MOST + 1)
    if response.length and response.length > 0:
        raise OSError(0, "its answer is cut off")
    return data


def _reason(data: bytes) -> str:
    """What an answer that says no says: of JSON, its message."""
    with suppress(ValueError, RecursionError):
        return words_in(json.loads(data))
    return shortened(b" ".join(data[:4 * SHOWN].split()), SHOWN)


def words_in(value: object) -> str:
    """What JSON says in words: a text, or the message of an object."""
    if isinstance(value, dict):
        value = value.get("message") or value.get("error")
    return shortened(value, SHOWN) if isinstance(value, str) and value else "without a reason"
