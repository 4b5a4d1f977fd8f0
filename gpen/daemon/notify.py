"""What started gpen as a service is told how it is (sd_notify(3)): systemd, or whoever sets NOTIFY_SOCKET.

It never waits for who listens there: what must not be lost is sent again later, the rest is not.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
from collections.abc import Iterator, Mapping, MutableMapping

from gpen.model.text import printable

log = logging.getLogger("gpen")

STATUS_SECONDS = 5.0  # between two lines of what it is doing, at least
_SOCKET, _WATCHDOG, _WATCHDOG_PID = "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"


class Notifier:
    """The way to who started gpen; to nowhere, without an ``address``. ``watchdog`` is within how many seconds that
    wants a sign of life, or 0."""

    def __init__(self, address: str = "", watchdog: float = 0.0) -> None:
        self.watchdog = watchdog
        self._address = address
        self._socket: socket.socket | None = None
        self._unsent: dict[str, str] = {}
        self._status = ""
        self._told_at = float("-inf")
        if address:
            try:
                self._socket = _connected(address)
            except OSError as error:
                log.warning("%s '%s': %s: it is not told how gpen is", _SOCKET, address, error.strerror or error)

    @classmethod
    def of(cls, environment: MutableMapping[str, str]) -> Notifier:
        """As the environment of this process says; it is taken out of there, so that no program that is run speaks for
        gpen. To be called before a fork, for the watchdog is of one process, and before a chroot."""
        address, seconds, pid = (environment.pop(name, "") for name in (_SOCKET, _WATCHDOG, _WATCHDOG_PID))
        is_ours = pid in ("", str(os.getpid()))
        is_number = seconds.isascii() and seconds.isdigit() and len(seconds) < 20
        return cls(address if address[:1] in ("/", "@") else "",
                   int(seconds) / 1e6 if address and is_ours and is_number else 0.0)

    @property
    def is_heard(self) -> bool:
        """Whether there is somebody to tell."""
        return self._socket is not None

    def environment(self) -> dict[str, str]:
        """What a process has to find in its environment that shall go on in our place."""
        if not self.is_heard:
            return {}
        watchdog = {_WATCHDOG: str(round(self.watchdog * 1e6))} if self.watchdog else {}
        return {_SOCKET: self._address} | watchdog

    # --- what is told ---------------------------------------------------------------------------------------------

    def ready(self, status: str) -> None:
        """It serves: this process, whichever was started."""
        self._status = status
        self._tell({"READY": "1", "MAINPID": str(os.getpid()), "STATUS": printable(status)})

    @contextlib.contextmanager
    def reloading(self) -> Iterator[None]:
        """It takes up another configuration, as long as this lasts."""
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._tell({"RELOADING": "1", "MONOTONIC_USEC": str(now)})
        try:
            yield
        finally:
            self._tell({"READY": "1"})

    def stopping(self) -> None:
        """It ends."""
        self._tell({"STOPPING": "1", "STATUS": "ends"})

    def hand_over(self, pid: int) -> None:
        """Another process is the service from now on. What becomes of this one is nobody's business then: its end would
        be taken for the service's, and its signs of life for the other's."""
        self._tell({"MAINPID": str(pid)})
        self.close()

    def alive(self) -> None:
        """A sign of life, for the watchdog."""
        self._send({"WATCHDOG": "1"})

    def tend(self) -> None:
        """Send what could not be sent."""
        if self._unsent:
            self._tell({})

    def is_due(self) -> bool:
        """Whether it is time for another status."""
        return self.is_heard and time.monotonic() - self._told_at >= STATUS_SECONDS

    def status(self, text: str) -> None:
        """What it is doing, in words; told if that is something else than before."""
        self._told_at = time.monotonic()
        if text != self._status and self._send({"STATUS": printable(text)}):
            self._status = text

    # --- how ------------------------------------------------------------------------------------------------------

    def _tell(self, fields: dict[str, str]) -> None:
        """Send these with those that could not be sent, but what they outdate; if that can't be either, keep them."""
        outdated = ("READY", "RELOADING", "MONOTONIC_USEC") if {"READY", "RELOADING"} & fields.keys() else ()
        unsent = {name: value for name, value in self._unsent.items() if name not in outdated} | fields
        self._unsent = {} if self._send(unsent) else unsent

    def _send(self, fields: Mapping[str, str]) -> bool:
        """Whether a message was taken, or there is nobody who could."""
        if self._socket is None:
            return True
        message = "".join(f"{name}={value}\n" for name, value in fields.items()).encode()
        try:
            self._socket.send(message, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return self._begin_again(message)
        return True

    def _begin_again(self, message: bytes) -> bool:
        """Who listens there was restarted, perhaps."""
        try:
            fresh = _connected(self._address)
        except OSError:
            return False
        assert self._socket is not None
        self._socket.close()
        self._socket = fresh
        try:
            fresh.send(message, socket.MSG_DONTWAIT)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Tell nothing any more. A second call does nothing."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _connected(address: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        sock.connect("\0" + address[1:] if address.startswith("@") else address)
    except OSError:
        sock.close()
        raise
    return sock
