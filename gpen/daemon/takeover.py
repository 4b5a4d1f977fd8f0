"""What the new gpen does with what it inherits (inheritance.py): all of it is here before anybody is served."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

from gpen.control.configuration import Configuration
from gpen.control.script import Step, parse_line
from gpen.control.sources import Sources
from gpen.daemon.changes import Changes
from gpen.daemon.control_socket import ControlSocket
from gpen.daemon.door import HttpDoor
from gpen.daemon.elders import Elders, Rows
from gpen.daemon.inheritance import Inheritance
from gpen.daemon.listeners import Listeners
from gpen.daemon.process import PidFile
from gpen.model.lease import carry_on
from gpen.model.text import counted
from gpen.wire import passing
from gpen.wire.passing import Message

log = logging.getLogger("gpen")


class Takeover:
    """Takes the place of another gpen."""

    def __init__(self, inheritance: Inheritance, configuration: Configuration, sources: Sources, listeners: Listeners,
                 control: ControlSocket, door: HttpDoor, changes: Changes, elders: Elders) -> None:
        self._inheritance = inheritance
        self._configuration = configuration
        self._sources = sources
        self._listeners = listeners
        self._control = control
        self._door = door
        self._changes = changes
        self._elders = elders
        self._lines: list[str] = []
        self._rows: Rows = []
        self._before: list[tuple[Message, Rows]] = []  # the gpens that the old one had replaced
        self._flows: list[Message] = []
        self._direct_flows: list[Message] = []  # which have no sockets
        self._adopted = 0  # flows

    def take_over(self, pid_file: PidFile | None) -> None:
        """Have the old one stop, and be where it was; nobody is accepted yet. Switches greenlets. Raises StartError,
        ScriptError, ListenError or OSError, and then the old one goes on."""
        inheritance = self._inheritance
        estate = inheritance.estate
        for message in inheritance.ready(pid_file is not None and pid_file.is_passed_on):
            self._take(message)
        if inheritance.estate is not estate:
            self._changes.apply(self._news())
        self._configuration.adopt(inheritance.estate.observations(self._lines, self._configuration))
        inheritance.confirm()
        self._own(pid_file)

    def _take(self, message: Message) -> None:
        if message.kind == "state":
            self._lines += message["lines"]
        elif message.kind == "servers":
            for label, *counters in message["rows"]:
                server = self._configuration.pool.server(label)
                if server is not None:
                    carry_on(server, *counters)
        elif message.kind == "sessions":
            self._rows += message["rows"]
        elif message.kind == "elder":
            self._before.append((message, []))
        elif message.kind == "elder's":
            self._before[-1][1].extend(message["rows"])
        elif message.kind == "flows":
            self._flows.append(message)
        elif message.kind == "direct flows":
            self._direct_flows.append(message)
        else:
            message.close()

    def _news(self) -> Iterator[Step]:
        """The commands for what has changed while this gpen opened all that it needs."""
        merged = Configuration(lambda: 0.0, lambda: 0.0)
        merged.adopt(self._inheritance.estate.merged(self._sources))
        for line in merged.dump(self._configuration):
            call = parse_line(line)
            if call is not None and not (call.command.setting is not None and call.command.setting.startup):
                yield call

    def _own(self, pid_file: PidFile | None) -> None:
        """The place is ours: nothing here may fail."""
        if pid_file is not None:
            try:
                pid_file.write()
            except OSError as error:
                log.error("can't write the pid file '%s': %s", pid_file.path, error.strerror)
        for message in self._flows:
            front = self._listeners.get(message["listener"])
            for told, fd in zip(message["flows"], message.descriptors, strict=True):
                if front is None or not front.adopt_flow(told, fd):
                    os.close(fd)
                else:
                    self._adopted += 1
        for message in self._direct_flows:
            front = self._listeners.get(message["listener"])
            self._adopted += sum(front.adopt_direct_flow(told) for told in message["flows"]) if front is not None else 0
        for front in self._listeners:
            if front.name in self._inheritance.files:
                front.own_file()
        self._control.own()
        self._door.own()
        for message, rows in self._before:
            self._elders.add(passing.cooperative(message.descriptors[0]), message["pid"], rows)
        self._elders.add(self._inheritance.line(), self._inheritance.pid, self._rows)
        self._elders.go_on()
        self._inheritance.settle()

    def tell(self) -> None:
        """Say what was taken."""
        log.info("took the place of pid %d, with %s and %s", self._inheritance.pid,
                 counted(len(self._inheritance.listeners.taken), "socket"), counted(self._adopted, "flow"))
