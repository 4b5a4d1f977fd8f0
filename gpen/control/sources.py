"""Where the configuration comes from: the command line, and the file of -F as it was read last."""

from __future__ import annotations

from collections.abc import Iterable

from gpen.control.configuration import Configuration
from gpen.control.difference import Difference
from gpen.control.draft import Draft
from gpen.control.script import Step
from gpen.model.settings import SETTINGS


class Sources:
    """``given`` is what the command line says, ``said`` what the file does on top of it; ``file`` is its name, if there
    is one."""

    def __init__(self, file: str | None = None) -> None:
        self.file = file
        self.given = Draft(Configuration(lambda: 0.0, lambda: 0.0))
        self.said = self.over_given()

    def give(self, steps: Iterable[Step]) -> None:
        """The commands of the command line. Raises ScriptErrors, with all that is wrong."""
        try:
            self.given.run_all(steps)
        finally:
            self.said = self.over_given()

    def read(self, steps: Iterable[Step]) -> Draft:
        """What the file says with these commands. pen reads it last, and so do we; but where the process itself is
        concerned the command line wins. Raises ScriptErrors, with all that is wrong."""
        draft = self.over_given()
        draft.run_all(steps)
        return draft

    def difference(self, now: Draft, configuration: Configuration) -> Difference:
        """What has to change in the configuration in force, when the file says ``now`` something else."""
        return Difference(self.said, now, self.given, configuration)

    def over_given(self) -> Draft:
        """What a file says that is empty."""
        return Draft(self.given, [name for name in self.given.values if SETTINGS[name].startup])
