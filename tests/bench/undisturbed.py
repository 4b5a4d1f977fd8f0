"""gpen as it is, but what its janitor does once a second it does once a day: `python -m tests.bench.undisturbed ...`

That is 300,000 instructions a second: next to nothing, but under callgrind only a thousand requests pass in one, and on
a busy machine fewer. It was up to a third of what a compiled gpen seemed to take for each.
"""

from __future__ import annotations

import sys

from gpen.daemon import janitor
from gpen.start import start

assert janitor.PERIOD == 1.0
janitor.PERIOD = 86_400.0
sys.exit(start("gpen", "gpen.cli"))
