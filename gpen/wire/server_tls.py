"""TLS to servers, where gpen is the client: the handshake behind the connection, the stream, and sessions to resume.

Whatever fails in a handshake is an OSError with EPROTO, as a greeting that is none: the server was reached, and is no
good. Of TLS 1.3 one failure comes too late for that: a server that wants a certificate says so behind the handshake.
Where it speaks first (greeting) that is noticed in time; else it is held against the server when it comes, and the
client is lost; a check waits for it.

Each server's last session is kept, by its endpoint and the name that it was asked for, and the next connection goes on
with it: OpenSSL then verifies nothing anew. So sessions belong to their context, and go with it when certificates are
read again; and checks resume none, for they shall see that a certificate has expired. A ticket of TLS 1.3 comes behind
the handshake, in front of the first byte, and is taken there.
"""

from __future__ import annotations

import errno
import os
import ssl
from collections.abc import Callable, Iterator
from typing import Any

from gpen.model.address import Endpoint
from gpen.model.server import Server
from gpen.model.settings import SETTINGS, Settings
from gpen.proto.protocol import Protocol
from gpen.wire import kernel
from gpen.wire.conversation import Secured
from gpen.wire.dial import reach
from gpen.wire.introduction import Introduction
from gpen.wire.poller import EPOLLIN, Poller
from gpen.wire.relay import End
from gpen.wire.sockets import Socket
from gpen.wire.tls import Channel, TlsStream, shake_hands
from gpen.wire.tls_contexts import HASHED, Path, TlsError, authority, load_pair, reason_of

_MOST = 4096  # sessions that are kept
_HERE = "localhost"  # the name of a server at a unix socket
_NOT_OF_CONTEXT = ("server_tls", "server_tls_name")  # of the settings
_HINTS = {
    "wrong version number": "no TLS is spoken there",
    "http request": "no TLS is spoken there",
    "unexpected eof while reading": "it closed the connection in the handshake",
    "certificate required": "it wants a certificate: give server_tls_certificate",
    "no application protocol": "it speaks none of the protocols of server_tls_alpn",
}

Key = tuple[Endpoint, str]


def tls_name(server: Server, settings: Settings) -> str | None:
    """The name that a server is asked for, by a listener with these settings; None where it speaks plainly."""
    if (server.tls or settings.server_tls) != "on":
        return None
    return server.tls_name or settings.server_tls_name or _host_of(server)


def _host_of(server: Server) -> str:
    host = server.address.host.partition("%")[0].removesuffix(".")  # which no certificate has
    if not host.isascii():
        host = host.encode("idna").decode()
    return host or _HERE


def server_tls_settings(settings: Settings, is_wanted: bool) -> tuple[object, ...]:
    """The values of the settings that make the context; empty where there is none. ``is_wanted``: some server speaks
    TLS, whatever server_tls says."""
    if settings.udp or not (is_wanted or settings.server_tls == "on"):
        return ()
    return tuple(settings.get(name) for name in SETTINGS
                 if name.startswith("server_tls") and name not in _NOT_OF_CONTEXT)


class ServerTls:
    """What servers' handshakes are made with: authorities, a certificate of our own, and the sessions of before.
    ``made_with`` are the values of its settings."""

    def __init__(self, settings: Settings, path: Path) -> None:
        """Read all files that the settings name; ``path`` tells where a file is found in a chroot. Raises TlsError."""
        self.made_with = server_tls_settings(settings, True)
        self._context: Any = _context(settings, path)
        self._kept: dict[Key, Any] = {}

    def dial(self, endpoint: Endpoint, name: str, settings: Settings, poller: Poller, seconds: float,
             protocol: Protocol, header: bytes | Introduction = b"") -> ServerStream:
        """As dial.dial: a connection, with its handshake, to a server that is asked for this name. ``header`` goes
        before TLS. Switches greenlets. Raises OSError."""
        stream = self.reach(endpoint, name, settings, poller, seconds, header, resumes=True)
        try:
            if protocol.server_speaks_first:
                stream.await_first_byte(poller, settings.greeting or settings.timeout)
        except BaseException:
            stream.sock.close()
            raise
        return stream

    def reach(self, endpoint: Endpoint, name: str, settings: Settings, poller: Poller, seconds: float,
              header: bytes | Introduction, resumes: bool = False) -> ServerStream:
        """As dial.reach, with a handshake; ``resumes``: it may go on with a session of before, and its own is kept.
        Switches greenlets. Raises OSError."""
        deadline = kernel.monotonic() + seconds
        sock = reach(endpoint, settings, poller, seconds, header)
        try:
            channel = Channel(self._context, name)
            kept = self._kept.get((endpoint, name)) if resumes else None
            if kept is not None:
                channel.tls.session = kept
            self._shake_hands(channel, sock, poller, deadline - kernel.monotonic())
            return ServerStream(channel, sock, name, self._keeper(endpoint, name) if resumes else _forgotten)
        except BaseException:
            self._kept.pop((endpoint, name), None)  # a server may fail by what it remembers of us
            sock.close()
            raise

    @staticmethod
    def _shake_hands(channel: Channel, sock: Socket, poller: Poller, seconds: float) -> None:
        try:
            shake_hands(channel, sock, poller, max(seconds, 0.0))
        except TimeoutError:
            raise OSError(errno.EPROTO, "TLS: the handshake was not done in time") from None
        except ssl.SSLError as error:
            raise OSError(errno.EPROTO, told(error)) from None
        except ConnectionError:
            raise OSError(errno.EPROTO, "TLS: it closed the connection in the handshake") from None

    def _keeper(self, endpoint: Endpoint, name: str) -> Callable[[Any], None]:
        return lambda tls: self._keep((endpoint, name), tls.session)

    def _keep(self, key: Key, session: Any) -> None:
        if session is not None:
            if key not in self._kept and len(self._kept) >= _MOST:
                del self._kept[next(iter(self._kept))]
            self._kept[key] = session


def made_with(server_tls: ServerTls | None) -> tuple[object, ...]:
    """The values of the settings that it was made with; empty for none."""
    return () if server_tls is None else server_tls.made_with


def _forgotten(what: Any) -> None:
    """A session that nobody goes on with, or words that nobody wants."""


def told(error: ssl.SSLError) -> str:
    """What is wrong with a server's TLS."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"TLS: certificate verify failed: {error.verify_message.rstrip('.')}"
    reason = reason_of(error)
    _, is_alert, said = reason.partition(" alert ")
    words = _HINTS.get(said or reason)
    return f"TLS: {words or (f'it says: {said}' if is_alert else reason)}"


class _Nobody:
    """The session of an End that has none yet."""

    def settle(self, end: End) -> None: ...

    def parted(self, end: End) -> None: ...

    def failed(self) -> None: ...


class ServerStream(TlsStream):
    """TLS on the wire of a server's End. ``secured`` is what its handshake agreed on, ``is_resumed`` whether it went on
    with a session of before. ``refused`` is called, in the hub, with the words of a server that ends all by an alert
    before its first byte."""

    __slots__ = ("_keep_session", "_side", "_tls_of_server", "is_resumed", "refused", "secured", "sock")

    def __init__(self, channel: Channel, sock: Socket, name: str, keep: Callable[[Any], None]) -> None:
        """``keep`` takes the TLS whose session may be gone on with."""
        TlsStream.__init__(self, channel)
        self.sock = sock
        self.secured = Secured(channel.secured.version, channel.secured.cipher, name)
        self.is_resumed = bool(channel.tls.session_reused)
        self.refused: Callable[[str], object] = _forgotten
        self._tls_of_server = channel.tls
        self._keep_session = keep

    def join(self, end: End) -> None:
        TlsStream.join(self, end)
        self._side = end
        end.recv_into = self._listen

    def _listen(self, view: memoryview) -> int:
        """As recv_into, up to the first byte. Raises OSError."""
        try:
            count = self._decrypt_into(view)
        except ssl.SSLError as error:
            self.refused(told(error))
            raise
        if count:
            self._keep_session(self._tls_of_server)
            self._keep_session = self.refused = _forgotten
            if self._side.recv_into == self._listen:  # and nobody stands before it
                self._side.recv_into = self._decrypt_into
        return count

    def await_first_byte(self, poller: Poller, seconds: float) -> None:
        """Wait until the server has spoken; what it said stays here. Switches greenlets. Raises OSError."""
        end = End(self.sock, poller, _Nobody(), self)
        deadline = kernel.monotonic() + seconds
        while True:
            try:
                has_spoken = self.has_spoken(end)
            except BlockingIOError:
                pass
            except ssl.SSLError as error:
                raise OSError(errno.EPROTO, told(error)) from None
            except ConnectionError:
                raise OSError(errno.EPROTO, "reset before its first byte") from None
            else:
                if has_spoken:
                    return
                raise OSError(errno.EPROTO, "closed before its first byte")
            if not poller.wait(self.sock.fileno(), EPOLLIN, deadline - kernel.monotonic()):
                raise OSError(errno.EPROTO, f"no first byte within {seconds:g} s")


class SecuredSocket:
    """As much of a socket as checks need, with TLS on it."""

    def __init__(self, stream: ServerStream, poller: Poller) -> None:
        self._poller = poller
        self._stream = stream
        self._end = End(stream.sock, poller, _Nobody(), stream)

    def fileno(self) -> int:
        return int(self._end.fd)

    def send(self, data: bytes) -> int:
        """Raises OSError."""
        return self._end.send(memoryview(data))

    def recv(self, most: int) -> bytes:
        """What has come, however much that is; nothing at the end. Raises OSError, with EPROTO for what TLS says."""
        view = self._poller.view
        try:
            return bytes(view[: self._end.recv_into(view)])
        except ssl.SSLError as error:
            raise OSError(errno.EPROTO, told(error)) from None

    def await_first_byte(self, seconds: float) -> None:
        """As the stream's."""
        self._stream.await_first_byte(self._poller, seconds)

    def part(self, seconds: float) -> None:
        """Say goodbye, and wait for the server's word on that, which may be that it does not want us. Switches
        greenlets. Raises OSError, with EPROTO for what TLS says."""
        self._end.half_close()
        deadline = kernel.monotonic() + seconds
        while self._poller.wait(self.fileno(), EPOLLIN, deadline - kernel.monotonic()):
            try:
                self.recv(0)
                return
            except BlockingIOError:
                continue  # a ticket
            except ConnectionError:
                return

    def close(self) -> None:
        self._end.close()


# --- certificates -----------------------------------------------------------------------------------------------------


def _context(settings: Settings, path: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    if settings.server_tls_verify == "off":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    else:
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # what the file holds is trusted, an authority or not
        for text in _authorities(settings, path):
            context.load_verify_locations(cadata=text)
    if settings.server_tls_alpn:
        context.set_alpn_protocols(list(settings.server_tls_alpn))
    if settings.server_tls_certificate:
        load_pair(context, path, ("server_tls_certificate", settings.server_tls_certificate),
                  ("server_tls_key", settings.server_tls_key))
    return context


def _authorities(settings: Settings, path: Path) -> Iterator[str]:
    """Those of the file, or else the system's: read now, for in a handshake there may be a chroot. Raises TlsError."""
    if settings.server_tls_ca:
        yield authority("server_tls_ca", settings.server_tls_ca, path)
        return
    places = ssl.get_default_verify_paths()
    if places.cafile and os.path.exists(path(places.cafile)):
        yield authority("server_tls_ca", places.cafile, path)
        return
    directory = places.capath or places.openssl_capath
    try:
        names = sorted(name for name in os.listdir(path(directory)) if HASHED.fullmatch(name))
    except OSError:
        names = []
    if not names:
        raise TlsError(f"server_tls_ca: this system has no authorities in '{directory}': install ca-certificates, or "
                       "give a file")
    for name in names:
        yield authority("server_tls_ca", os.path.join(directory, name), path)
