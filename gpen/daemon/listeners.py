"""All listeners of a gpen: a Front each; made, changed and ended whole or not at all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

from gpen.control.configuration import Configuration
from gpen.control.draft import Draft
from gpen.control.script import ScriptError
from gpen.daemon.front import (
    AnyListener,
    Front,
    Prepared,
    Shared,
    make_server_tls,
    make_terminator,
    tls_settings,
)
from gpen.daemon.logs import Logs
from gpen.daemon.session_log import AnyLog
from gpen.daemon.socket_files import owner_of
from gpen.model.address import network_address
from gpen.model.listener import Scope, transport_of
from gpen.model.settings import Settings
from gpen.model.value_types import listener_prefix
from gpen.wire.datagram import DatagramListener
from gpen.wire.given import GivenSockets
from gpen.wire.server_tls import ServerTls, made_with, server_tls_settings
from gpen.wire.shaping import NO_LIMIT, Grant
from gpen.wire.sockets import ListenError
from gpen.wire.tls import Terminator


class Listeners:
    """The listeners in force, by their names; the one without is there even if it listens nowhere."""

    def __init__(self, configuration: Configuration, shared: Shared, logs: Logs) -> None:
        self._configuration = configuration
        self._shared = shared
        self._logs = logs
        self._fronts = {name: Front(scope, shared) for name, scope in configuration.scopes.items()}
        self._by_port: dict[int, list[Front]] = {}
        self._leaving: list[Front] = []  # that were deleted, and have sessions yet
        self._gone: Counter[str] = Counter()  # the endings of those that have none any more
        self._coming: list[AnyLog] = []  # logs that were opened for a change, which is not in force yet

    def __iter__(self) -> Iterator[Front]:
        return iter(list(self._fronts.values()))

    def __getitem__(self, name: str) -> Front:
        return self._fronts[name]

    def get(self, name: str) -> Front | None:
        """The one of this name, if it is."""
        return self._fronts.get(name)

    @property
    def unnamed(self) -> Front:
        """The one without a name."""
        return self._fronts[""]

    def endings(self) -> dict[str, int]:
        """How often sessions have ended in each way that was met, at whatever listener."""
        return dict(sum((Counter(front.endings) for front in (*self, *self._leaving)), self._gone))  # leaves zeros out

    def lend(self, name: str, direction: int, grant: Grant) -> None:
        """Have the sessions of one, in some process, move more bytes of those that all of them may move; if it was
        deleted, as many as they want."""
        front = self._fronts.get(name)
        if front is None:
            grant(NO_LIMIT)
        else:
            front.limits.lend(direction, grant)

    def addresses(self) -> list[str]:
        """Where clients connect; with the transport, where there are both."""
        fronts = [front for front in self if front.listener is not None]
        is_mixed = len({transport_of(front.settings) for front in fronts}) > 1
        return [f"{front.address}/{transport_of(front.settings)}" if is_mixed and "/" not in front.address
                else front.address for front in fronts]

    def at_port(self, port: int) -> Iterator[tuple[Front, AnyListener]]:
        """Those that listen at this port, whatever the address; 0 is that of unix sockets. Asked for each server."""
        return ((front, front.listener) for front in self._by_port.get(port, ()) if front.listener is not None)

    def _note_ports(self) -> None:
        self._by_port = {}
        for front in self:
            if front.listener is not None:
                self._by_port.setdefault(front.listener.endpoint.port, []).append(front)

    def datagram_listeners(self) -> Iterator[DatagramListener]:
        """Those of UDP, also of listeners that were deleted and have flows yet."""
        for front in (*self._fronts.values(), *self._leaving):
            yield from front.datagram_listeners()

    # --- opening and closing --------------------------------------------------------------------------------------

    def open(self, given: GivenSockets | None = None) -> None:
        """Bind all, but those whose sockets are given, and read certificates; nobody is accepted yet. Switches
        greenlets. Raises ScriptError, ListenError or OSError."""
        change = Change(bool(self._configuration.with_own_tls()))
        for front in self:
            prepared = Prepared(has_tls=True, has_server_tls=True)
            with named(front.name), ExitStack() as undo:
                prepared.tls = self._terminator(tls_settings(front.settings), front.settings, change)
                prepared.server_tls = self._server_tls(front.settings, change)
                front.prepare_listener(front.settings, prepared, undo, given=given)
                undo.pop_all()
            front.adopt(prepared)
        if given is not None:
            given.dismiss()
        self._note_ports()

    def open_logs(self) -> None:
        """Open the logs; one elsewhere, whose name has no answer now, waits for it. Switches greenlets. Raises
        ScriptError."""
        for front in self:
            with named(front.name):
                front.session_log = self._logs.open(front.settings, patient=True)

    def start(self) -> None:
        """Accept clients."""
        for front in self:
            front.start()

    def close(self) -> None:
        """Accept no more; sessions go on."""
        for front in self:
            front.close()

    def close_logs(self) -> None:
        """Nothing is logged any more."""
        for front in (*self, *self._leaving):
            front.session_log = None
        self._logs.keep(())

    # --- changing -------------------------------------------------------------------------------------------------

    def prepare(self, draft: Draft, undo: ExitStack) -> Change:
        """Open what a draft's listeners need, beside what is in use; ``undo`` closes it again. Switches greenlets.
        Raises ScriptError, ListenError or OSError."""
        change = Change()
        if not (draft.values or draft.listeners or any("tls" in fields for fields in draft.servers.values())):
            return change
        change = Change(bool(draft.with_own_tls()))
        every = draft.all_settings()
        leaving = list(self._leaving_with(every))
        change.ended = [name for name in self._fronts if name not in every]
        for name, new in every.items():
            front = self._fronts.get(name)
            if front is None:
                scope = change.scopes[name] = self._configuration.new_scope(name)
                front = Front(scope, self._shared)
            elif front.settings.equals(new) and not _has_new_server_tls(front, new, change):
                continue
            with named(name):
                change.fronts[name] = front, self._prepared(front, new, undo, leaving, change)
        return change

    def _leaving_with(self, every: Mapping[str, Settings]) -> Iterator[AnyListener]:
        """The sockets that leave their places when these settings of all listeners come in force, and those that have
        left them but for the flows that they have yet."""
        for name, front in self._fronts.items():
            if front.listener is not None and (name not in every or _place(every[name]) != _place(front.settings)):
                yield front.listener
        yield from (listener for listener in self.datagram_listeners() if listener.is_closing)

    def _prepared(self, front: Front, new: Settings, undo: ExitStack, leaving: list[AnyListener],
                  change: Change) -> Prepared:
        prepared = Prepared()
        key = tls_settings(new)
        if key != tls_settings(front.settings):
            prepared.has_tls, prepared.tls = True, self._terminator(key, new, change)
        prepared.has_mode = new.listen_mode != front.settings.listen_mode
        if prepared.has_mode and new.listen_mode and new.listen_mode[1]:
            owner_of(new.listen_mode[1])  # if there is none of this name, it is said now
        if _has_new_server_tls(front, new, change):
            prepared.has_server_tls, prepared.server_tls = True, self._server_tls(new, change)
        if front.listener is None or _place(new) != _place(front.settings):
            front.prepare_listener(new, prepared, undo, leaving)
        return prepared

    def _terminator(self, key: tuple[object, ...], new: Settings, change: Change) -> Terminator | None:
        """What ends TLS with these settings: that of another listener that has the same, or a new one."""
        if key not in change.terminators:
            same = (front.tls for front in self if tls_settings(front.settings) == key)
            change.terminators[key] = next(same, None) or make_terminator(new, self._shared.locate)
        return change.terminators[key]

    def _server_tls(self, new: Settings, change: Change) -> ServerTls | None:
        """The same for what speaks TLS to servers."""
        key = server_tls_settings(new, change.wants_server_tls)
        if key not in change.server_tls:
            same = (front.server_tls for front in self if made_with(front.server_tls) == key)
            change.server_tls[key] = next(same, None) or make_server_tls(new, self._shared.locate,
                                                                         change.wants_server_tls)
        return change.server_tls[key]

    def prepare_logs(self, draft: Draft, change: Change, undo: ExitStack) -> None:
        """The same for the logs: last, for that may make files; and of these, those elsewhere first, for to find them
        switches."""
        undo.callback(self._close_coming_logs)
        settings = {name: draft.settings_of(name) for name in change.fronts}
        for name in sorted(settings, key=lambda name: network_address(settings[name].log or "") is None):
            front, prepared = change.fronts[name]
            if settings[name].log != front.settings.log or name in change.scopes:
                with named(name):
                    prepared.has_log, prepared.log = True, self._new_log(settings[name])

    def _new_log(self, new: Settings) -> AnyLog | None:
        try:
            return self._logs.open(new, opened=self._coming.append)
        except OSError as error:
            raise ScriptError(f"log: can't open '{new.log}': {error.strerror}") from None

    def _close_coming_logs(self) -> None:
        """Nothing comes of the change: there are no more logs than before."""
        for log in self._coming:
            log.unmake()
        self._coming.clear()
        self._keep_used_logs()

    def _keep_used_logs(self) -> None:
        self._logs.keep((*(front.session_log for front in (*self, *self._leaving)), *self._coming))

    def adopt(self, change: Change) -> None:
        """Take up the settings as they are now, with what was opened for them; close what was ended, whose sessions go
        on. Does not switch."""
        for front, prepared in change.fronts.values():
            if isinstance(prepared.listener, DatagramListener):
                prepared.listener.front = front
        for name in change.ended:
            front = self._fronts.pop(name)
            front.end()
            self._leaving.append(front)
        for name, (front, prepared) in change.fronts.items():
            self._fronts[name] = front
            front.adopt(prepared)
        self._coming.clear()
        self._note_ports()
        for front in self:
            front.clients = front.scope.clients
        self._pass_on()
        self.tend()

    def _pass_on(self) -> None:
        """What comes where flows keep a socket open that is closing is for the listener of all addresses at its port,
        if there is one: else new clients of that would be lost as long as flows of before live."""
        for listener in [listener for listener in self.datagram_listeners() if listener.is_closing]:
            heir = next((front for front in self if front.covers(listener)), None)
            if heir is not None and heir is not listener.front:
                heir.inherit(listener)

    def tend(self) -> None:
        """Forget listeners that were deleted and have no sessions any more, and close logs that nobody uses."""
        for front in self._leaving:
            if not front.count:
                self._gone.update(front.endings)
        self._leaving = [front for front in self._leaving if front.count]
        self._configuration.dismiss_unused(front.scope for front in self._leaving)
        self._keep_used_logs()

    def tend_direct(self) -> None:
        """See to the interfaces, and the servers there, of those whose servers answer clients themselves."""
        for front in self:
            front.tend_direct()

    def renew_certificates(self, renewed: dict[str, Settings]) -> Iterator[ScriptError]:
        """Read certificates and keys again, and say what is broken, each by itself: the old ones stay then. The
        listeners that have got new ones are ``renewed``."""
        terminators: dict[tuple[object, ...], Terminator | ScriptError | None] = {}
        for front in self:
            key = tls_settings(front.settings)
            if key not in terminators:
                try:
                    with named(front.name):
                        terminators[key] = make_terminator(front.settings, self._shared.locate)
                except ScriptError as error:
                    terminators[key] = error
                    yield error
            terminator = terminators[key]
            if not isinstance(terminator, ScriptError):
                front.tls = terminator
                if terminator is not None:
                    renewed[front.name] = front.settings
        yield from self._renew_server_tls(renewed)

    def _renew_server_tls(self, renewed: dict[str, Settings]) -> Iterator[ScriptError]:
        """The same for what speaks TLS to servers."""
        made: dict[tuple[object, ...], ServerTls | ScriptError | None] = {}
        for front in self:
            key = made_with(front.server_tls)
            if not key:
                continue
            if key not in made:
                try:
                    with named(front.name):
                        made[key] = make_server_tls(front.settings, self._shared.locate, is_wanted=True)
                except ScriptError as error:
                    made[key] = error
                    yield error
            server_tls = made[key]
            if not isinstance(server_tls, ScriptError):
                front.server_tls = server_tls
                renewed[front.name] = front.settings


class Change:
    """What was prepared for a draft: ``fronts`` that are new or have other settings, ``scopes`` of those that are new,
    and the names of those that are ``ended``. ``wants_server_tls``: some server speaks TLS of its own."""

    def __init__(self, wants_server_tls: bool = False) -> None:
        self.wants_server_tls = wants_server_tls
        self.scopes: dict[str, Scope] = {}
        self.fronts: dict[str, tuple[Front, Prepared]] = {}
        self.ended: list[str] = []
        self.terminators: dict[tuple[object, ...], Terminator | None] = {}
        self.server_tls: dict[tuple[object, ...], ServerTls | None] = {}

    @property
    def new_listeners(self) -> Mapping[str, AnyListener]:
        """The sockets that were opened, by the names of their listeners."""
        return {name: prepared.listener for name, (_, prepared) in self.fronts.items()
                if prepared.listener is not None}


@contextmanager
def named(name: str) -> Iterator[None]:
    """What goes wrong here is told with the name of the listener, if it has one."""
    try:
        yield
    except (ScriptError, ListenError) as error:
        if name:
            raise type(error)(f"{listener_prefix(name)}{error}") from None
        raise


def _has_new_server_tls(front: Front, new: Settings, change: Change) -> bool:
    """Whether with these settings it speaks TLS to servers otherwise than it does, or no more."""
    return made_with(front.server_tls) != server_tls_settings(new, change.wants_server_tls)


def _place(settings: Settings) -> tuple[str | None, bool, str | None, str | None]:
    """Where a listener with these settings listens."""
    return settings.listen, settings.udp, settings.dsr_if, settings.dsr_ip
