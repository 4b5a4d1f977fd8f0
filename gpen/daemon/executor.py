"""The commands of control clients: what each may do, who carries it out, and what is answered."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from gpen.control import reply
from gpen.control.commands import ACCESS
from gpen.control.configuration import Configuration
from gpen.control.draft import ACTIONS, no_listener
from gpen.control.script import (
    Call,
    NotInOurLanguage,
    ScriptError,
    ScriptErrors,
    Step,
    UnknownCommand,
    attempt,
    parse_line,
    read_file,
)
from gpen.daemon.changes import Changes
from gpen.daemon.chroot import Chroot
from gpen.daemon.queries import Queries
from gpen.model.check import Check
from gpen.model.text import shortened
from gpen.wire import sockets
from gpen.wire.pacing import gently

log = logging.getLogger("gpen")


# what only this process knows, and what workers alone know of their sessions; all else follows from what they have said
_OF_OURS = ("help", "pid", "ready", "mode", "state", "stay")
_OF_WORKERS = ("servers", "listeners", "sessions", "recent", "connection", "socket", "status")


class Executor:
    """Runs a line at a time, for as many clients as there are."""

    def __init__(self, configuration: Configuration, changes: Changes, queries: Queries, chroot: Chroot,
                 answers: Mapping[str, Callable[[str], Any]], acted: Callable[[], object],
                 upgrade: Callable[[Call], Any], refresh: Callable[[bool], object]) -> None:
        """``answers`` has the settings that are answered with something else than their value, which are told for which
        listener; ``acted`` is called when something was done to a server; ``upgrade`` carries out the command of that
        name; ``refresh`` asks the workers what has become of their sessions, and if wanted what those have moved."""
        self._configuration = configuration
        self._settings = configuration.settings
        self._changes = changes
        self._queries = queries
        self._chroot = chroot
        self._answers = answers
        self._acted = acted
        self._upgrade = upgrade
        self._refresh = refresh

    def execute(self, line: str, address: str) -> Iterator[str]:
        """Run one line of the control client at this address, which is empty at a socket that is a file; the reply
        comes in pieces. Switches greenlets."""
        try:
            call = parse_line(line)
            if call is not None:
                self._check_access(call, address)
                yield from reply.render(call, self._run(call, address))
        except UnknownCommand as problem:
            yield reply.unknown(problem)
        except ScriptError as problem:
            yield from map(reply.error, problem.told())
        except sockets.ListenError as problem:
            yield reply.error(str(problem))
        except OSError as problem:
            yield reply.error(f"{line.split()[0]}: '{problem.filename or ''}': {problem.strerror}")
        except Exception:
            log.exception("the command '%s' failed", shortened(line))
            yield reply.error(f"{line.split()[0]}: gpen failed; the traceback is in its diagnostics")

    def _check_access(self, call: Call, address: str) -> None:
        allowed = self._settings.control_access if address else ACCESS[-1]
        needed = call.access
        if ACCESS.index(needed) > ACCESS.index(allowed):
            raise call.error(f"needs {needed} access; control_access gives clients of the control port '{allowed}'")
        if address and _runs_a_program(call):
            what = "exec" if call.command.name != "on_event" else "it"
            raise call.error(f"{what} runs programs, which no client of a TCP control port may: use the file of -F, or "
                             "a control socket that is a file")

    def _run(self, call: Call, address: str) -> Any:
        name = call.command.name
        if call.listener and (call.asks or not call.command.configures):
            self._check_listener(call.listener)
        if call.command.setting is not None:
            return self._read_or_set(call)
        if name == "include":
            return self._include(call, address)
        if name == "reload":
            self._refresh(False)  # sessions that are over are logged where they ended
            return self._changes.reload()
        if name == "upgrade":
            return self._upgrade(call)
        if name == "write":
            self._changes.write(call)
        elif self._is_action(call):
            self._configuration.run(call)
            self._acted()
        elif call.command.configures and not call.asks:
            if name == "listener":
                self._check_listener(call["listener"])
            self._changes.apply([call])
        else:
            if name not in _OF_OURS:
                self._refresh(name in _OF_WORKERS)
            return getattr(self._queries, name)(call)
        return None

    def _is_action(self, call: Call) -> bool:
        """Whether a command but acts on a server: verdicts come several times a second, and nothing can be wrong with
        them, so that they need not wait while others resolve names."""
        if call.command.name == "client":
            return True
        return (call.command.name == "server" and not (call.no or call.listener)
                and call["changes"].keys() <= set(ACTIONS)
                and call["number"] in self._configuration.pool.servers)

    def _check_listener(self, name: str) -> None:
        if name not in self._configuration.scopes:
            raise no_listener(self._configuration, name)

    def _include(self, call: Call, address: str) -> str | None:
        """A client's ``include``: its lines may do what the client may, and it learns nothing from a file that is no
        configuration. Returns what counts later only."""
        waiting: list[str] = []

        def steps() -> Iterator[Step]:
            for step in gently(read_file(call["file"], self._chroot.path)):
                if isinstance(step, Call) and step.command.setting is not None and step.command.setting.startup:
                    waiting.extend(self._startup_notes(step))
                else:
                    yield from attempt(lambda: self._allowed(step, address))  # noqa: B023 (it is used up at once)

        try:
            self._changes.apply(steps())
        except ScriptError as problem:
            foreign = [error.discreet for error in problem.errors if isinstance(error, NotInOurLanguage)]
            if foreign:
                raise ScriptErrors(foreign) from None
            raise
        return "\n".join(waiting) or None

    def _allowed(self, step: Step, address: str) -> Call:
        if isinstance(step, ScriptError):
            raise step
        self._check_access(step, address)
        return step

    def _startup_notes(self, call: Call) -> list[str]:
        """What is to be said of a line that waits for the next start: nothing where it would change nothing."""
        setting = call.command.setting
        assert setting is not None
        value = setting.default if call["value"] is None else call["value"]
        is_old = value == self._settings.get(setting.name)
        return [] if is_old else [f"{call.origin}: {setting.name} counts at the next start only"]

    def _read_or_set(self, call: Call) -> Any:
        setting = call.command.setting
        assert setting is not None
        if call.arguments:
            if setting.startup:
                raise call.error("it counts at start only: write the configuration, change that, upgrade or restart")
            self._changes.apply([call])
            if call.no or setting.is_flag or setting.reply is None:
                return None
        if setting.is_listed:
            self._refresh(False)
        answer = self._answers.get(setting.name)
        scope = self._configuration.scopes[call.listener]
        return scope.settings.get(setting.name) if answer is None else answer(call.listener)


def _runs_a_program(call: Call) -> bool:
    check = call.arguments.get("value") or call.arguments.get("changes", {}).get("check")
    if call.command.name == "on_event":
        return bool(check)
    return isinstance(check, Check) and check.kind == "exec"
