"""What the front and the control socket have in common: how they accept, and what they do when they can't."""

from __future__ import annotations

import errno
import logging
from typing import Any

from gevent.server import StreamServer

from gpen.wire.sockets import SHORTAGES

log = logging.getLogger("gpen")

_SHORTAGE_PAUSE = 0.5


class Acceptor(StreamServer):
    """A StreamServer that waits a little when descriptors run out; gevent's own tells a traceback each time.

    The attributes are gevent's (baseserver.py), which calls ``do_read`` in the hub.
    """

    socket: Any
    _watcher: Any
    _timer: Any
    _do_read: Any
    is_short = False
    is_suspended = False

    def do_read(self) -> Any:
        """The arguments of a session; None when nothing was accepted."""
        try:
            accepted = self.accept()
        except BlockingIOError:
            return None
        except OSError as error:
            self.not_accepted(error)
            return None
        self.is_short = False
        return accepted

    def accept(self) -> Any:
        """Accept one connection. Raises OSError."""
        return super().do_read()

    def resume(self) -> None:
        """Accept again, if it was stopped, unless the socket is closed or full."""
        if self._watcher is None and self.started and not self.full():
            self.start_accepting()

    def start_accepting(self) -> None:
        """gevent calls it also when a client has gone, and here when descriptors may be there again."""
        if not self.is_suspended:
            super().start_accepting()

    def suspend(self) -> None:
        """Accept nobody until ``go_on``: who comes waits in the kernel."""
        self.is_suspended = True
        self.stop_accepting()

    def go_on(self) -> None:
        """Accept again."""
        self.is_suspended = False
        self.resume()

    def shed(self) -> bool:
        """Descriptors are short: end what nobody needs. Whether there was any."""
        return False

    def not_accepted(self, error: OSError) -> None:
        """A client that left before it was accepted is no matter; out of descriptors, wait a little."""
        if error.errno not in SHORTAGES:
            if error.errno != errno.ECONNABORTED:
                log.warning("accept failed: %s", error.strerror)
            return
        if self.shed():
            return  # the next look at the socket accepts it
        self._accept_later(error)

    def _accept_later(self, error: OSError) -> None:
        """Wait a little: this machine is short of something."""
        if not self.is_short:
            log.warning("can't accept connections for now: %s; they wait in the kernel", error.strerror)
            self.is_short = True
        self.stop_accepting()
        self._timer = self.loop.timer(_SHORTAGE_PAUSE)
        self._timer.start(self.resume)
