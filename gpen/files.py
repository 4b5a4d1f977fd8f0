"""The one way in which a program of this package makes, writes, gives away or removes a file.

Where others than root and ourselves may change what a directory holds, a name means nothing for long: between two
calls it can become a symbolic link to a file that they may not touch, but root may. So a path is walked here from
directory to directory, each held by a descriptor. Wherever others may change names,

- no symbolic link is followed, on the way or at the end, whoever made it;
- a file that is there is taken only when this is its one name: a hard link would be another way to a file of ours;
- mode and owner are changed through the descriptor of what was just made, never by a name.

Where only root and we may change names all is as usual: /var/run may lead to /run, and a log to another disk.
"""

from __future__ import annotations

import errno
import os
import pwd
import secrets
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from types import TracebackType
from typing import Any

Account = pwd.struct_passwd

_HOLD = os.O_PATH | os.O_CLOEXEC
_DIRECTORY = _HOLD | os.O_DIRECTORY
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH
_PERMISSIONS = 0o777  # of a file that is replaced: no set-user-ID
_MAX_LINKS = 40  # as the kernel's own limit (path_resolution(7))


class Entry:
    """A name in a directory, which is held by a descriptor. Close it, or use it in a ``with``.

    Attributes: ``is_shared``: others than root and ourselves may change names in the directory; ``is_fixed``: they
    can't change which directory the path leads to.
    """

    def __init__(self, path: str, follow: bool = True) -> None:
        """``follow``: a symbolic link at the end is followed too, where that is safe. Raises OSError for a directory
        that is not there, or a link that is not to be followed."""
        self.path = path
        self.is_fixed = True
        self.name = ""
        self._leads_on = False  # the name is a link in /proc, which the kernel alone can follow: /proc/self/fd/1
        with self._naming_the_path():
            self._directory = os.open("/" if path.startswith("/") else ".", _DIRECTORY)
            try:
                self._judge()
                self._walk(follow)
            except BaseException:
                self.close()
                raise

    def __enter__(self) -> Entry:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None,
                 ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the directory."""
        os.close(self._directory)

    # --- the way there --------------------------------------------------------------------------------------------

    def _walk(self, follow: bool) -> None:
        """Go to the directory, and find the name in it."""
        ahead = self.path.split("/")[::-1]
        links = 0
        while ahead:
            name = ahead.pop()
            if name in ("", ".") and ahead:
                continue
            self.name = name
            is_link = (ahead or follow) and self._is_link(name)
            if is_link:
                links += 1
                if not self.is_safe:
                    raise OSError(errno.ELOOP, f"'{name}' is a symbolic link in a directory that others may write: "
                                               "give the name of what it leads to")
                if links > _MAX_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
                if self._is_in_proc():
                    self._leads_on = not ahead
                else:
                    ahead += self._target(name).split("/")[::-1]
                    continue
            if ahead:
                self._enter(name, 0 if is_link else os.O_NOFOLLOW)
        if self.name in ("", ".", ".."):
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))

    def _is_link(self, name: str) -> bool:
        try:
            return stat.S_ISLNK(os.stat(name, dir_fd=self._directory, follow_symlinks=False).st_mode)
        except FileNotFoundError:
            return False

    def _is_in_proc(self) -> bool:
        try:
            return os.fstat(self._directory).st_dev == os.stat("/proc/self").st_dev
        except FileNotFoundError:
            return False

    def _target(self, name: str) -> str:
        """Where a link leads; an absolute one begins again at the root."""
        target = os.readlink(name, dir_fd=self._directory)
        if target.startswith("/"):
            self._take(os.open("/", _DIRECTORY))
            self._judge()
        return target

    def _enter(self, name: str, flags: int) -> None:
        here = os.fstat(self._directory)
        self._take(os.open(name, _DIRECTORY | flags, dir_fd=self._directory))
        if name != ".." and _is_changed_by_others(here):
            # in a sticky directory of root's, /tmp say, nobody else moves what is root's
            owners = {here.st_uid, os.fstat(self._directory).st_uid}
            self.is_fixed = self.is_fixed and bool(here.st_mode & stat.S_ISVTX) and owners <= {*_trusted()}
        self._judge()

    def _take(self, directory: int) -> None:
        os.close(self._directory)
        self._directory = directory

    def _judge(self) -> None:
        self.is_shared = _is_changed_by_others(os.fstat(self._directory))

    @property
    def is_safe(self) -> bool:
        """Whether the path means what root or we have made of it, and stays so."""
        return self.is_fixed and not self.is_shared

    # --- what is there --------------------------------------------------------------------------------------------

    def status(self) -> os.stat_result | None:
        """What has the name now; None when nothing has. Raises OSError."""
        with self._naming_the_path(), suppress(FileNotFoundError):
            return os.stat(self.name, dir_fd=self._directory, follow_symlinks=self._leads_on)
        return None

    @contextmanager
    def reached(self) -> Iterator[str]:
        """A path by which the kernel reaches what has the name at this moment, and nothing that takes its place."""
        if self.is_safe:
            yield self.path
            return
        with self._naming_the_path():
            fd = os.open(self.name, _HOLD | os.O_NOFOLLOW, dir_fd=self._directory)
        try:
            if stat.S_ISLNK(os.fstat(fd).st_mode):
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), self.path)
            yield f"/proc/self/fd/{fd}"
        finally:
            os.close(fd)

    # --- what is done ---------------------------------------------------------------------------------------------

    def open(self, flags: int, mode: int) -> tuple[int, bool]:
        """A descriptor of the file, which is made with this mode where there is none; and whether it was. It does not
        wait for the other end of a FIFO. Raises OSError."""
        flags |= os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
        with self._naming_the_path():
            if self._leads_on:
                return os.open(self.name, flags, dir_fd=self._directory), False
            flags |= os.O_NOFOLLOW | os.O_CREAT
            with suppress(FileExistsError):
                return os.open(self.name, flags | os.O_EXCL, mode, dir_fd=self._directory), True
            # O_CREAT though it is there: the kernel's own rules for that hold as well (fs.protected_regular)
            try:
                fd = os.open(self.name, flags, mode, dir_fd=self._directory)
            except OSError as error:
                if error.errno != errno.ELOOP:
                    raise
                raise OSError(errno.ELOOP, "it is a symbolic link") from None
            info = os.fstat(fd)
            if not self.is_safe and info.st_nlink > 1:
                os.close(fd)
                raise OSError(errno.EMLINK, "it has a second name (a hard link), and others may write in its "
                                            "directory: remove it")
            return fd, False

    def replace(self, text: str) -> None:
        """Write the file by way of a temporary one beside it, so that nobody ever sees half of it. Raises OSError.

        A file that is replaced passes its mode and owner on.
        """
        was = self.status()
        if was is not None and not stat.S_ISREG(was.st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", self.path)
        if was is not None and self.is_shared and was.st_uid not in (*_trusted(), os.fstat(self._directory).st_uid):
            was = None  # who put it there shall not own what we write
        temporary = f".gpen-{secrets.token_hex(8)}"
        with self._naming_the_path():
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=self._directory)
            try:
                with open(fd, "w", encoding="utf-8") as file:
                    file.write(text)
                    file.flush()
                    os.fsync(fd)
                    _take_after(fd, was)
                os.rename(temporary, self.name, src_dir_fd=self._directory, dst_dir_fd=self._directory)
            except BaseException:
                with suppress(FileNotFoundError):
                    os.unlink(temporary, dir_fd=self._directory)
                raise

    def bind(self, sock: Any, mode: int | None = None, owner: Account | None = None) -> None:
        """Bind a unix socket to the name, in the place of one that nobody answers on. Its file has this mode (None:
        what the umask says) from the first moment, and becomes this owner's; where it can't, there is none. Raises
        OSError."""
        with self._naming_the_path(), _umask(mode):
            self._remove_dead_socket(sock)
            if owner is not None and self.is_shared and os.geteuid() == 0:
                with acting_as(owner):  # it makes what it may make, and need not be given what root has made
                    self._bind(sock)
                return
            self._bind(sock)
            if owner is not None:
                try:
                    os.chown(self.name, owner.pw_uid, owner.pw_gid, dir_fd=self._directory, follow_symlinks=False)
                except OSError:
                    os.unlink(self.name, dir_fd=self._directory)
                    raise

    def _bind(self, sock: Any) -> None:
        """By the path, for that is what ss(8) shows; through the directory where the path is not safe, or not open to
        the user."""
        if self.is_fixed:
            with suppress(PermissionError):
                sock.bind(self.path)
                return
        sock.bind(f"/proc/self/fd/{self._directory}/{self.name}")

    def _remove_dead_socket(self, sock: Any) -> None:
        """Remove a socket that nobody answers on; a live one, or another kind of file, is left and an error."""
        was = self.status()
        if was is None:
            return
        if not stat.S_ISSOCK(was.st_mode):
            raise OSError(errno.EEXIST, "the file exists and is not a socket")
        with self.reached() as route, closing(type(sock)(sock.family, sock.type)) as probe:
            probe.setblocking(False)
            if probe.connect_ex(route) != errno.ECONNREFUSED:
                raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        os.unlink(self.name, dir_fd=self._directory)

    def change_mode(self, mode: int, made: os.stat_result, owner: Account | None = None) -> None:
        """Change the mode of the file that was ``made`` here, and its owner, unless None. Raises OSError when it is
        another by now, or is root's and others may put another there at any time."""
        if self.is_shared and os.geteuid() == 0:
            raise OSError(errno.EPERM, "others may write in its directory: it counts at the next start", self.path)
        with self._naming_the_path(), self.reached() as route:
            if not os.path.samestat(os.stat(route), made):
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            if owner is not None:
                os.chown(route, owner.pw_uid, owner.pw_gid)
            os.chmod(route, mode)

    def remove(self, made: os.stat_result) -> bool:
        """Remove what was ``made`` here, unless the name is another's by now; whether it was removed. Raises
        OSError."""
        now = self.status()
        if now is None or not os.path.samestat(now, made):
            return False
        with self._naming_the_path():
            os.unlink(self.name, dir_fd=self._directory)
        return True

    @contextmanager
    def _naming_the_path(self) -> Iterator[None]:
        """An error tells the path that was given."""
        try:
            yield
        except OSError as error:
            raise OSError(error.errno, error.strerror or str(error), self.path) from None


def write_whole(path: str, text: str) -> None:
    """Write a file so that nobody ever sees half of it: ``Entry.replace``. Raises OSError."""
    with Entry(path) as entry:
        entry.replace(text)


def status(path: str) -> os.stat_result | None:
    """What has this name, as ``Entry`` finds it; None when nothing has. Raises OSError."""
    with Entry(path) as entry:
        return entry.status()


@contextmanager
def acting_as(account: Account) -> Iterator[None]:
    """Let root have the rights of a user for a moment; for a process that has no other threads, or none that need
    root's. Raises OSError."""
    groups, gid = os.getgroups(), os.getegid()
    os.initgroups(account.pw_name, account.pw_gid)
    try:
        os.setegid(account.pw_gid)
        os.seteuid(account.pw_uid)
        yield
    finally:
        os.seteuid(0)
        os.setegid(gid)
        os.setgroups(groups)


@contextmanager
def _umask(mode: int | None) -> Iterator[None]:
    """What is made meanwhile has this mode, for once."""
    if mode is None:
        yield
        return
    previous = os.umask(~mode & 0o777)
    try:
        yield
    finally:
        os.umask(previous)


def _trusted() -> tuple[int, int]:
    """Who may do to us what we may."""
    return 0, os.geteuid()


def _is_changed_by_others(directory: os.stat_result) -> bool:
    return directory.st_uid not in _trusted() or bool(directory.st_mode & _WRITABLE_BY_OTHERS)


def _take_after(fd: int, model: os.stat_result | None) -> None:
    os.fchmod(fd, stat.S_IMODE(model.st_mode) & _PERMISSIONS if model else 0o644)
    if model and os.geteuid() == 0:
        os.fchown(fd, model.st_uid, model.st_gid)
