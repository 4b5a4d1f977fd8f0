"""The files of unix sockets: made with the right owner and mode, and removed if they are still gpen's."""

from __future__ import annotations

import grp
import logging
import os
import pwd
import stat
from collections import Counter
from collections.abc import Mapping

from gpen.daemon import process
from gpen.daemon.chroot import Chroot
from gpen.files import Account, Entry
from gpen.model.address import Address, Endpoint
from gpen.model.settings import Settings
from gpen.wire import sockets

log = logging.getLogger("gpen")


class SocketFiles:
    """Those that gpen has made and not removed yet, by the name under which each was made. A listener that goes and
    another that comes to its place share a file; the last removes it."""

    def __init__(self, settings: Settings, chroot: Chroot) -> None:
        self._settings = settings
        self._chroot = chroot
        self._made: dict[str, os.stat_result] = {}
        self._users: Counter[str] = Counter()  # how many sockets each name is of

    def listen(self, address: Address, mode: int | None = None,
               leaving: Mapping[str, sockets.Socket] | None = None, owner: str = "") -> sockets.Socket:
        """A socket with a file of this mode, which belongs to this owner (listen_mode), or unless there is one to the
        user that gpen becomes. Of those that are ``leaving`` theirs, by the names of their files, one may be there:
        then it is the same socket. Raises ListenError."""
        for name, sock in (leaving or {}).items():
            made = self._made.get(name)
            if made is not None and _is_at(address.path, made):
                self._made[address.path] = made
                self._users[address.path] += 1
                if mode is not None:
                    self.change_mode(address.path, mode, owner, "listen_mode")
                return sockets.another(sock)
        user = owner_of(owner) if owner else process.user_to_be(self._settings)
        sock = sockets.listen_at_path(address, self._settings.backlog, mode, user)
        with Entry(address.path, follow=False) as entry:
            made = entry.status()
        if made is not None:
            self._made[address.path] = made
            self._users[address.path] += 1
        return sock

    def has_made(self, name: str) -> bool:
        """Whether a socket with a file of that name has a file that is ours to remove."""
        return name in self._made

    def own(self, name: str, mode: int | None = None) -> None:
        """A socket with a file of that name, which another gpen has made, is ours from now on, with this mode."""
        path = self._chroot.path(name)
        try:
            with Entry(path, follow=False) as entry:
                made = entry.status()
        except OSError:
            return
        if made is not None and name not in self._made:
            self._made[name] = made
            self._users[name] += 1
            if mode not in (None, stat.S_IMODE(made.st_mode)):
                self.change_mode(name, mode)

    def disown(self, name: str) -> None:
        """A socket with a file of that name is another gpen's from now on, and so is the file."""
        if self._made.pop(name, None) is not None:
            del self._users[name]

    def remove(self, name: str) -> None:
        """A socket with a file of that name, if it is one, is closed: remove the file, unless it is another socket's of
        ours, or another gpen's by now."""
        if name not in self._made:
            return
        self._users[name] -= 1
        if self._users[name]:
            return
        del self._users[name]
        made = self._made.pop(name)
        if any(os.path.samestat(made, other) for other in self._made.values()):
            return
        path = self._chroot.path(name)
        try:
            with Entry(path, follow=False) as entry:
                entry.remove(made)
        except OSError as error:
            log.debug("can't remove the socket %s: %s", path, error.strerror)

    def change_mode(self, name: str, mode: int, owner: str = "", setting: str = "control_mode") -> None:
        """Give the file of that name, if it is one, another mode, and an owner, unless empty, as this setting says;
        what keeps it from that is told."""
        made = self._made.get(name)
        if made is None:
            return
        path = self._chroot.path(name)
        try:
            with Entry(path, follow=False) as entry:
                entry.change_mode(mode, made, owner_of(owner) if owner else None)
        except (OSError, sockets.ListenError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            log.warning("%s: can't change the mode of '%s': %s", setting, path, reason)

    def is_at(self, name: str, bound: Endpoint, endpoint: Endpoint) -> bool:
        """Whether a socket that is bound there, or made under this name, is where one is wanted, in whatever
        notation."""
        file = self._made.get(name)
        if file is None:
            return bool(bound.sockaddr == endpoint.sockaddr)
        return _is_at(endpoint.host, file)


def owner_of(text: str) -> Account:
    """USER, USER:GROUP or :GROUP, by name or number, as this machine knows them. Raises ListenError."""
    user, _, group = text.partition(":")
    try:
        if user.isdecimal():
            uid, gid = int(user), _group_of(int(user))
        elif user:
            account = pwd.getpwnam(user)
            uid, gid = account.pw_uid, account.pw_gid
        else:
            uid, gid = os.geteuid(), os.getegid()
    except KeyError:
        raise sockets.ListenError(f"listen_mode: there is no user '{user}'") from None
    try:
        if group:
            gid = int(group) if group.isdecimal() else grp.getgrnam(group).gr_gid
    except KeyError:
        raise sockets.ListenError(f"listen_mode: there is no group '{group}'") from None
    return Account((user or str(uid), "", uid, gid, "", "", ""))


def _group_of(uid: int) -> int:
    """A user's own group; ours where this machine has no such user."""
    try:
        return pwd.getpwuid(uid).pw_gid
    except KeyError:
        return os.getegid()


def _is_at(path: str, file: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.stat(path), file)
    except OSError:  # it was removed, or is not there yet
        return False
