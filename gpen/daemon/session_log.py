"""The session log: one line at each session's end, as text or JSON, or pen's line for each request, in a file or to
syslog; and pen's log over the network.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

from gpen.daemon.chroot import Chroot
from gpen.daemon.line_file import LineFile
from gpen.daemon.syslog import SOCKET, Syslog
from gpen.journal import INFO, timestamp
from gpen.model.address import Address, Endpoint
from gpen.model.settings import Settings
from gpen.model.text import counted, printable, quote
from gpen.wire.conversation import Conversation, Secured, Watch
from gpen.wire.sockets import cause_of

log = logging.getLogger("gpen")

REQUEST_BYTES = 100  # in a line of the log, as in pen's
NETWORK_BYTES = 1000  # in a datagram; gpenlogd compares the first 900
DUMP_BYTES = 256


class SessionLog:
    """The open log file. Raises OSError when it can't be opened."""

    takes_requests = False  # alone

    def __init__(self, path: str) -> None:
        self.path = path
        self._file = LineFile(path)
        self._failed = False

    def made(self) -> list[int]:
        """The file's descriptor, if gpen has made it: the user that gpen becomes must be able to open it again."""
        return self._file.made()

    def unmake(self) -> None:
        """Remove the file if gpen has made it just now: nothing came of that."""
        self._file.unmake()

    def confined(self, chroot: Chroot, user: str | None) -> None:
        """gpen has become this user: tell what that means for rotation."""
        self._file.warn_of_reopening(chroot.path(self.path), user)

    def reopen(self, chroot: Chroot) -> None:
        """Take up the file of that name, for rotation; when that fails the old one stays. Raises OSError."""
        self._file.reopen(chroot.path(self.path))

    def write(self, line: str) -> None:
        """Append a line, to which its end is added. A full disk costs the lines, not the sessions, and is told once."""
        try:
            self._file.write(f"{printable(line)}\n".encode())
            self._failed = False
        except OSError as error:
            if not self._failed:
                log.error("can't write the log '%s': %s", self.path, error.strerror)
            self._failed = True

    def write_request(self, client: str, server: str, request: bytes) -> None:
        """pen's line for a request."""
        self.write(request_line(client, server, request))

    def close(self) -> None:
        self._file.close()


class SystemLog:
    """Lines go to syslog, as long as it takes them. That it does not is told once, and costs lines only."""

    takes_requests = False  # alone

    def __init__(self, target: str, facility: int) -> None:
        self.path = target
        self._way = Syslog("gpen", facility)
        self._lost = 0
        self._failed = False
        try:
            self._way.connect()
        except OSError as error:
            self._fail(error)

    def made(self) -> list[int]:
        """No file."""
        return []

    def unmake(self) -> None:
        """There is none to remove."""

    def confined(self, chroot: Chroot, user: str | None) -> None:
        """gpen is in its chroot: tell what that means for a syslog that is started anew."""
        if chroot.is_entered and not os.path.exists(SOCKET):
            log.warning("log: %s is not in the chroot: once syslog was started anew, lines are lost; let it listen at "
                        "%s in there as well", SOCKET, SOCKET)

    def reopen(self, chroot: Chroot) -> None:
        """Reach who listens there now; the old way stays where there is no other."""
        with suppress(OSError):
            self._way.connect()

    def write(self, line: str) -> None:
        """One line, informational."""
        try:
            self._way.send(INFO, printable(line))
        except OSError as error:
            self._lost += 1
            self._fail(error)
            return
        if self._failed:
            log.info("syslog takes the lines of the log again; %s lost", counted(self._lost, "line"))
            self._lost, self._failed = 0, False

    def _fail(self, error: OSError) -> None:
        if not self._failed:
            why = "it does not read" if isinstance(error, BlockingIOError) else error.strerror
            log.error("can't log to syslog at %s: %s; lines are lost until it takes them", SOCKET, why)
        self._failed = True

    def write_request(self, client: str, server: str, request: bytes) -> None:
        """pen's line for a request."""
        self.write(request_line(client, server, request))

    def close(self) -> None:
        self._way.close()


class NetworkLog:
    """A log elsewhere, which gets a datagram for each request in pen's format: gpenlogd(1), penlogd(1)."""

    takes_requests = True  # and nothing else

    def __init__(self, target: str, address: Address, endpoints: Sequence[Endpoint],
                 refused: Callable[[], object], tell: Callable[[str], object]) -> None:
        """``address`` is the target, read, and ``endpoints`` are what it means: none as long as that is not known, and
        then datagrams are lost. ``refused`` is called when nobody listens there, ``tell`` with what else is wrong.
        Raises OSError when there is no way to it."""
        self.path = target
        self.address = address
        self._refused = refused
        self._tell = tell
        self._endpoint: Endpoint | None = None
        self._sock: socket.socket | None = None
        if endpoints:
            self._connect(endpoints[0])

    @property
    def is_connected(self) -> bool:
        """Whether it is known where datagrams go."""
        return self._sock is not None

    def move(self, endpoints: Sequence[Endpoint]) -> bool:
        """The target means these endpoints now; whether datagrams go elsewhere from now on."""
        if self._endpoint in endpoints:
            return False
        try:
            self._connect(endpoints[0])
        except OSError as error:
            log.error("can't log to %s at %s: %s; it stays where it was", self.path, endpoints[0], error.strerror)
            return False
        return True

    def _connect(self, endpoint: Endpoint) -> None:
        sock = socket.socket(endpoint.family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            sock.connect(endpoint.sockaddr)
        except OSError as error:
            sock.close()
            raise OSError(error.errno, error.strerror, self.path) from None
        self.close()
        self._sock, self._endpoint = sock, endpoint

    def made(self) -> list[int]:
        """No file."""
        return []

    def unmake(self) -> None:
        """There is none to remove."""

    def reopen(self, chroot: Chroot) -> None:
        """There is nothing to rotate here."""

    def confined(self, chroot: Chroot, user: str | None) -> None:
        """That means nothing here."""

    def write(self, line: str) -> None:
        """Lines of sessions are for files."""

    def write_request(self, client: str, server: str, request: bytes) -> None:
        """One datagram; lost when nobody listens there, as datagrams are."""
        line = request.split(b"\n", 1)[0].split(b"\r", 1)[0]
        datagram = b"+ %s %s %s\n" % (client.encode(), server.encode(), line)
        sock = self._sock
        if sock is None:
            return
        for _ in range(2):
            try:
                sock.send(datagram)
                return
            except ConnectionRefusedError:
                self._refused()  # that was about the one before: nobody listened
            except BlockingIOError:
                return  # more than the kernel keeps
            except OSError as error:
                self._tell(f"can't log to {self.path}: {cause_of(error)}")
                return

    def close(self) -> None:
        if self._sock is not None:
            self._sock.close()


AnyLog = SessionLog | SystemLog | NetworkLog


def session_line(session: Conversation, settings: Settings) -> str:
    """The line for a session that has ended, in the format of log_format."""
    fields = _fields(session)
    if settings.log_format == "json":
        return json.dumps(fields | introduction_fields(session), separators=(",", ":"))
    server = session.server
    place = f"{server.name} {session.server_address}" if server is not None else "- -"
    listener = f" listener {session.listener}" if session.listener else ""
    listener += f" route {quote(session.route)}" if session.route else ""
    return (f"{fields['client']} {fields['started']}{listener} server {place} "
            f"choose {fields['choose']:.6f} connect {fields['connect']:.6f} total {fields['total']:.6f} "
            f"up {fields['up']} down {fields['down']} {fields['ending']}"
            + (f" {session.secured}{_subject(session.secured, settings)}" if session.secured else "")
            + (f" to {session.secured_server}" if session.secured_server else "")
            + (f" id {session.unique_id}" if "unique-id" in settings.proxy_v2_options else ""))


def _subject(agreed: Secured, settings: Settings) -> str:
    """Whose certificate the client has, if it has one. Lines of those with ssl_require_peer alone end as they always
    did."""
    return f" {quote(agreed.subject)}" if agreed.subject and settings.ssl_verify_client != "off" else ""


def _fields(session: Conversation) -> dict[str, object]:
    choose, connect, total = session.timings()
    server, ending = session.server, session.ending
    return {
        "client": session.peername,
        "started": timestamp(session.started),
        "listener": session.listener,
        "server": server.label if server is not None else None,
        "server_address": session.server_address,
        "choose": round(choose, 6),
        "connect": round(connect, 6),
        "total": round(total, 6),
        "up": session.to_server,
        "down": session.to_client,
        "ending": ending.value if ending is not None else None,
        **tls_fields(session),
        "route": session.route,
    }


_PLAIN = Secured("", "", "")


def tls_fields(session: Conversation) -> dict[str, str | None]:
    """What a session's TLS handshakes agreed on, with the client and with the server, for JSON; each None without
    one."""
    agreed, there = session.secured or _PLAIN, session.secured_server or _PLAIN
    return {"tls": agreed.version or None, "cipher": agreed.cipher or None, "sni": agreed.sni or None,
            "subject": agreed.subject or None,
            "server_tls": there.version or None, "server_cipher": there.cipher or None, "tls_name": there.sni or None}


def introduction_fields(session: Conversation) -> dict[str, object]:
    """What a session is called along its way, and what a proxy has told of it, for JSON; that is None without."""
    told = session.introduced
    return {"unique_id": session.unique_id, "proxy": told.fields() if told is not None else None}


class RequestLog(Protocol):
    """What takes requests."""

    def write_request(self, client: str, server: str, request: bytes) -> None: ...


def request_line(client: str, server: str, request: bytes) -> str:
    """pen's line for a request: client, time, server, the first line of what came."""
    return f"{client} {int(time.time())} {server} {_first_line(request[:REQUEST_BYTES])}"


def request_watch(session: Conversation, current: Callable[[], RequestLog | None]) -> Watch:
    """Logs the first line of what the client sends at a time, as pen does.

    ``current`` gives the log of that moment: a session outlives the log that it began with.
    """

    def watch(whence: str, data: memoryview) -> None:
        session_log = current()
        endpoint = session.endpoint
        if session_log is not None and whence == "client" and endpoint is not None:
            session_log.write_request(session.address, endpoint.host, bytes(data[:NETWORK_BYTES]))

    return watch


def _first_line(data: bytes) -> str:
    line = data.split(b"\n", 1)[0].split(b"\r", 1)[0]
    return "".join(chr(byte) if 32 <= byte < 127 else "." for byte in line)


def dump_watch(session: Conversation, settings: Settings, further: Watch | None) -> Watch:
    """Shows the bytes of a session in the diagnostics (debug 2), as text (``ascii``) or hex, then passes them on."""

    def watch(whence: str, data: memoryview) -> None:
        shown = bytes(data[:DUMP_BYTES])
        text = "".join(chr(b) if 32 <= b < 127 else "." for b in shown) if settings.ascii else shown.hex(" ")
        log.debug("session %d: %d bytes from the %s: %s", session.id, len(data), whence, text)
        if further is not None:
            further(whence, data)

    return watch
