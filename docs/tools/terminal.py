"""A picture of what a command shows on a terminal: `make pictures` makes docs/demo.svg of a real run of the demo.

    python docs/tools/terminal.py "make demo" 100 docs/demo.svg .venv/bin/python contrib/demo.py

The command has a terminal of so many columns, colors included; what it prints becomes text in an SVG that needs no font
from elsewhere. Needs rich.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import CONSOLE_SVG_FORMAT, Console
from rich.text import Text

ROWS = 50
FONT = "ui-monospace, SFMono-Regular, Menlo, Consolas, DejaVu Sans Mono, monospace"
_ELSEWHERE = re.compile(r"@font-face \{\{.*?\}\}\s*", re.DOTALL)


def main(title: str, columns: str, file: str, *command: str) -> int:
    """Run the command and write the picture; its exit status."""
    status, shown = run(command, int(columns))
    if status == 0:
        Path(file).write_text(picture(title, shown, int(columns)))
    else:
        print(shown, f"{command[0]}: exit status {status}; no picture was made", file=sys.stderr, sep="\n")
    return status


def run(command: Sequence[str], columns: int) -> tuple[int, str]:
    """What the command shows on a terminal of that width, and its exit status."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, columns, 0, 0))
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": str(columns)}
    with subprocess.Popen(command, stdin=its, stdout=its, stderr=its, env=environment) as process:
        os.close(its)
        shown = b"".join(pieces(ours)).decode()
    os.close(ours)
    return process.returncode, shown.replace("\r\n", "\n").strip("\n")


def pieces(terminal: int) -> Iterator[bytes]:
    """What comes from a terminal until nobody has its other side open."""
    while True:
        try:
            piece = os.read(terminal, 65536)
        except OSError:  # EIO: so a terminal ends
            return
        if not piece:
            return
        yield piece


def picture(title: str, shown: str, columns: int) -> str:
    """The SVG of a terminal with this on it."""
    with open(os.devnull, "w") as nowhere:
        console = Console(record=True, width=columns, file=nowhere, force_terminal=True, color_system="standard")
        console.print(Text.from_ansi(shown), soft_wrap=True)
        form = _ELSEWHERE.sub("", CONSOLE_SVG_FORMAT).replace("Fira Code, monospace", FONT)
        svg = console.export_svg(title=title, code_format=form, unique_id="terminal")
    return "".join(f"{line.rstrip()}\n" for line in svg.splitlines() if line.strip())


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
