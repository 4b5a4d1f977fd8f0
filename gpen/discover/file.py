"""The source `file`: a file that lists the servers, read whenever it has changed.

What wakes is inotify, by the package watchdog, on the directories where the name and what it leads to are; what counts
is whether the file is another one, or has another time or size: so it is the same whether it was written in place,
replaced by a rename, or reached over a symbolic link that leads elsewhere now. Without inotify it is looked at each
second, as it is besides, for a link further on may have changed.
"""

from __future__ import annotations

import logging
import os
import stat
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from gpen.discover.listing import FORMS, read
from gpen.discover.source import Source, SourceError, Tell
from gpen.log import say
from gpen.start import PackageError, check_optional
from gpen.usage import UsageError

if TYPE_CHECKING:
    from watchdog.events import FileSystemEventHandler
    from watchdog.observers.api import BaseObserver

LOOK = 1.0  # seconds between two looks
SETTLED = 0.02  # seconds for which a file has not changed that is read: else somebody is writing it
ABSENT = 0.25  # seconds for which it may be away or unreadable: some editors and scripts take the old one away first
LARGEST = 1 << 22  # bytes

Sign = tuple[int, ...]  # what is another when a file has changed
Place = tuple[str, int, int]  # a directory, which may be replaced by another of its name


class FileSource(Source):
    """The servers that are listed in the file at ``path``, written as ``form`` (of listing.FORMS). ``observers`` makes
    what wakes us; None: nothing does, and it is looked at each second."""

    def __init__(self, path: str, form: str, observers: Callable[[], BaseObserver] | None) -> None:
        super().__init__(f"file {path}")
        self._observers = observers
        self._path = os.path.abspath(path)
        self._form = form
        self._changed = threading.Event()
        self._is_warned = False

    def watch(self, tell: Tell, stopping: threading.Event) -> None:
        """See Source."""
        places = self._places()
        observer = self._observer(places)
        try:
            known: Sign = ()
            while not stopping.is_set() and places == self._places():
                self._changed.clear()
                changed = self._renewed(known)
                if changed is None:
                    self._changed.wait(LOOK)
                else:
                    text, known = changed
                    tell(read(text, self._form, self._path))
        finally:
            if observer is not None:
                observer.stop()
                observer.join()

    def stop(self) -> None:
        """See Source."""
        self._changed.set()

    def _places(self) -> set[Place]:
        """The directories where the file's name is, and what that leads to."""
        return {_place(os.path.dirname(self._path)), _place(os.path.dirname(os.path.realpath(self._path)))}

    def _renewed(self, known: Sign) -> tuple[str, Sign] | None:
        """The text of the file and its sign, if that is not the one that is known. Raises SourceError."""
        deadline = time.monotonic() + ABSENT
        while True:
            try:
                now = self._sign()
                return None if now == known else self._settled(now)
            except SourceError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(SETTLED)

    def _settled(self, sign: Sign) -> tuple[str, Sign]:
        """The text of the file, and its sign, which is the same before and after. Raises SourceError."""
        deadline = time.monotonic() + LOOK
        while True:
            time.sleep(SETTLED)
            text, now = self._text(), self._sign()
            if now == sign:
                return text, sign
            if time.monotonic() > deadline:
                raise SourceError("it is being written, and does not come to an end: nothing is changed")
            sign = now

    def _sign(self) -> Sign:
        """Raises SourceError."""
        try:
            status = os.stat(self._path)
        except OSError as error:
            raise _unreadable(error) from None
        return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns

    def _text(self) -> str:
        """Raises SourceError."""
        try:
            with open(os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise SourceError("it is no regular file")
                data = file.read(LARGEST + 1)
        except OSError as error:
            raise _unreadable(error) from None
        if len(data) > LARGEST:
            raise SourceError(f"it is larger than {LARGEST >> 20} MiB")
        try:
            return data.decode("utf-8-sig")
        except UnicodeDecodeError:
            raise SourceError("it is not text in UTF-8") from None

    # --- inotify ------------------------------------------------------------------------------------------------------

    def _observer(self, places: Iterable[Place]) -> BaseObserver | None:
        """What wakes us when something has changed at one of these places; None where that is not to be had."""
        observer = self._observers() if self._observers is not None else None
        if observer is None:
            return None
        try:
            for directory, *_ in places:
                observer.schedule(waker(self._changed), directory)
            observer.start()
        except OSError as error:  # no such directory, or too many watches: fs.inotify.max_user_instances
            with suppress(RuntimeError):  # it has not begun
                observer.stop()
                observer.join()
            self._warn(f"inotify: {error.strerror or error}")
            return None
        return observer

    def _warn(self, why: str) -> None:
        if not self._is_warned:
            say(f"{self.name}: changes count within {LOOK:g} s, not at once: {why}")
        self._is_warned = True


def _place(directory: str) -> Place:
    try:
        status = os.stat(directory)
    except OSError:
        return directory, 0, 0
    return directory, status.st_dev, status.st_ino


def waker(changed: threading.Event) -> FileSystemEventHandler:
    """What sets this when something has changed."""
    from watchdog.events import FileSystemEvent, FileSystemEventHandler

    class Waker(FileSystemEventHandler):
        def on_any_event(self, event: FileSystemEvent) -> None:
            if event.event_type not in ("opened", "closed_no_write"):  # as each look of ours is
                changed.set()

    return Waker()


def _unreadable(error: OSError) -> SourceError:
    return SourceError(f"can't be read: {error.strerror}")


def made(arguments: Mapping[str, Any]) -> FileSource:
    """The source that a command line asks for. Raises UsageError and PackageError."""
    form = arguments["--format"]
    if not arguments["PATH"]:
        raise UsageError("PATH is empty: expected the name of a file")
    if form not in FORMS:
        raise UsageError(f"--format: '{form}' is not one of {', '.join(FORMS)}")
    try:
        check_optional("yaml")
    except PackageError:
        if form == "yaml":
            raise
    return FileSource(arguments["PATH"], form, observers_of(arguments["PATH"]))


def observers_of(path: str) -> Callable[[], BaseObserver] | None:
    """What makes what wakes by inotify; None, which is told, where the package for that is missing. It is loaded now:
    threads that load modules side by side may wait for each other for good."""
    try:
        check_optional("watchdog")
    except PackageError as error:
        say(f"file {path}: changes count within {LOOK:g} s, not at once: {error}")
        return None
    from watchdog.observers.inotify import InotifyObserver

    log = logging.getLogger("watchdog")  # it tells what is no matter, and not as ours does
    log.addHandler(logging.NullHandler())
    log.propagate = False
    return InotifyObserver
