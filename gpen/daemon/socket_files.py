"""The files of unix sockets: made with the right owner and mode, and removed if they are still gpen's."""

from __future__ import annotations

import logging
import os

from gpen.daemon import process
from gpen.daemon.chroot import Chroot
from gpen.files import Entry
from gpen.model.address import Address, Endpoint
from gpen.model.settings import Settings
from gpen.wire import sockets

log = logging.getLogger("gpen")


class SocketFiles:
    """Those that gpen has made and not removed yet, by the name under which each was made."""

    def __init__(self, settings: Settings, chroot: Chroot) -> None:
        self._settings = settings
        self._chroot = chroot
        self._made: dict[str, os.stat_result] = {}

    def listen(self, address: Address, mode: int | None = None) -> sockets.Socket:
        """A socket with a file of this mode, which belongs to the user that gpen becomes. Raises ListenError."""
        user = process.user_to_be(self._settings)
        sock = sockets.listen_at_path(address, self._settings.backlog, mode, user)
        with Entry(address.path, follow=False) as entry:
            made = entry.status()
        if made is not None:
            self._made[address.path] = made
        return sock

    def remove(self, name: str) -> None:
        """Remove the file of that name, unless it is none, or another gpen's by now."""
        made = self._made.pop(name, None)
        if made is None:
            return
        path = self._chroot.path(name)
        try:
            with Entry(path, follow=False) as entry:
                entry.remove(made)
        except OSError as error:
            log.debug("can't remove the socket %s: %s", path, error.strerror)

    def change_mode(self, name: str, mode: int) -> None:
        """Give the file of that name, if it is one, another mode; what keeps it from that is told."""
        made = self._made.get(name)
        if made is None:
            return
        path = self._chroot.path(name)
        try:
            with Entry(path, follow=False) as entry:
                entry.change_mode(mode, made)
        except OSError as error:
            log.warning("control_mode: can't change the mode of '%s': %s", path, error.strerror)

    def is_at(self, name: str, bound: Endpoint, endpoint: Endpoint) -> bool:
        """Whether a socket that is bound there, or made under this name, is where one is wanted, in whatever
        notation."""
        file = self._made.get(name)
        if file is None:
            return bool(bound.sockaddr == endpoint.sockaddr)
        try:
            return os.path.samestat(os.stat(endpoint.host), file)
        except OSError:  # it was removed, or is not there yet
            return False
