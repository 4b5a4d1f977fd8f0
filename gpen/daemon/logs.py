"""The session logs: one for each target, whichever listeners log there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from gpen.control.script import ScriptError
from gpen.daemon.chroot import Chroot
from gpen.daemon.front import resolved
from gpen.daemon.line_file import STDOUT
from gpen.daemon.session_log import AnyLog, NetworkLog, SessionLog, SystemLog
from gpen.model.address import network_address
from gpen.model.facility import facility_of
from gpen.model.settings import Settings
from gpen.wire.faults import Troubles
from gpen.wire.resolver import Resolver


class Logs:
    """Those that are open, by their targets."""

    def __init__(self, resolver: Resolver, chroot: Chroot, troubles: Troubles, refused: Callable[[], object]) -> None:
        """``refused`` is called when nobody listens where datagrams go."""
        self._resolver = resolver
        self._chroot = chroot
        self._troubles = troubles
        self._refused = refused
        self._open: dict[str, AnyLog] = {}

    def __iter__(self) -> Iterator[AnyLog]:
        return iter(list(self._open.values()))

    def networked(self) -> list[NetworkLog]:
        """Those that are elsewhere."""
        return [log for log in self._open.values() if isinstance(log, NetworkLog)]

    def open(self, settings: Settings, patient: bool = False,
             opened: Callable[[AnyLog], object] = lambda log: None) -> AnyLog | None:
        """The log of a listener with these settings, if it has one: a file, syslog, or where its datagrams go; when
        ``patient``, one elsewhere whose name has no answer now waits for it. ``opened`` is called with one that was not
        open before. Switches greenlets. Raises ScriptError or OSError."""
        target = settings.log
        if not target:
            return None
        log = self._open.get(target)
        if log is None:
            log = self._open[target] = self._made(target, settings, patient)
            opened(log)
        return log

    def _made(self, target: str, settings: Settings, patient: bool) -> AnyLog:
        facility = facility_of(target)
        if facility is not None:
            return SystemLog(target, facility)
        address = network_address(target)
        if address is None:
            return SessionLog(target if target == STDOUT else self._chroot.path(target))
        endpoints = resolved(self._resolver, settings, "log", address, datagrams=True, patient=patient)
        return NetworkLog(target, address, endpoints, self._refused, self._troubles.tell)

    def keep(self, used: Iterable[object]) -> None:
        """Close those that are none of these."""
        kept = set(map(id, used))
        for target, log in list(self._open.items()):
            if id(log) not in kept:
                log.close()
                del self._open[target]

    def confined(self, user: str | None) -> None:
        """gpen has become this user, and is in its chroot."""
        for log in self:
            log.confined(self._chroot, user)

    def made(self) -> list[int]:
        """The descriptors of the files that gpen has made."""
        return [fd for log in self for fd in log.made()]

    def reopen(self) -> Iterator[ScriptError]:
        """Take up the files of these names, for rotation; and what keeps one from that, each by itself."""
        for target, log in list(self._open.items()):
            try:
                log.reopen(self._chroot)
            except OSError as error:
                yield ScriptError(f"can't reopen the log '{target}': {error.strerror}; the old file stays")
