"""The common call of gpenctl, ``gpenctl [-t SEC] /SOCKET COMMAND...`` in a pipe, without all that it takes to read
options and to draw tables: that is what scripts say, some of them each second. What is not so plain is left to
``main.py``.

Imports nothing but ``link.py`` before there is a reply: with all else a call takes three times as much CPU.
"""

from __future__ import annotations

import sys

from gpen.gpenctl.link import LONGEST_WAIT, LinkError, Target, ask, meet

TIMEOUT = 10.0  # seconds: what --timeout is where it is not given
ELSEWHERE = ("watch", "top", "upgrade")  # what is more than a line and its reply
FOLLOWED = ("drain", "rebalance")  # so are these, of which the daemon tells each second how they go
DUBIOUS = ("error:", "do_cmd:", "Exit ", "Connection ")  # what is in a reply that may be an error, see show.failed


def main() -> int | None:
    """Do what the process's command line says, and return the exit status; None, with nothing done, where it is no
    common call."""
    timeout, words = _timeout(sys.argv[1:])
    target, *words = words or [""]
    line = line_of(words)
    if not line or target.startswith("-") or "/" not in target or "://" in target or sys.stdout.isatty():
        return None
    try:
        return _run(Target(target, path=target), line, timeout)
    except LinkError as error:
        from gpen.usage import complain

        complain("gpenctl", error)
        return 3
    except KeyboardInterrupt:
        return 130


def _timeout(words: list[str]) -> tuple[float, list[str]]:
    """The seconds of -t where it comes first, and the words behind it; one that is wrong is left there."""
    if words[:1] == ["-t"] and len(words) > 1:
        try:
            seconds = float(words[1])
        except ValueError:
            return TIMEOUT, words
        if 0 < seconds < LONGEST_WAIT:
            return seconds, words[2:]
    return TIMEOUT, words


def line_of(words: list[str]) -> str:
    """The words as a line of the control language, as ``main.join`` makes it of them; empty where that has more to do,
    or an option may be among them."""
    for word in words:
        is_plain = word.isprintable() and not (word.startswith(("-", "#")) and word != "-")
        if not word or not is_plain or (len(words) > 1 and any(mark in word for mark in " \"'")):
            return ""
    line = " ".join(words)
    return "" if is_followed(line) or line.split()[:1] in ([], *([name] for name in ELSEWHERE)) else line


def is_followed(line: str) -> bool:
    """Whether the daemon tells each second how it goes with this line."""
    words = line.split()
    return (words[2:3] if words[:1] == ["listener"] else words[:1]) in ([name] for name in FOLLOWED)


def _run(target: Target, line: str, timeout: float) -> int:
    """As ``command.run`` does with the format plain. Raises LinkError."""
    greeting = meet(target, timeout)
    reply = ask(target, line, timeout) if greeting.isdigit() else f"{greeting}\n"
    if any(word in reply for word in DUBIOUS):
        from gpen.gpenctl.show import View, show_reply

        return show_reply(reply, View(target, timeout, "plain", color=False, terminal=False))
    sys.stdout.buffer.write(reply.encode("utf-8", "surrogateescape"))
    sys.stdout.flush()
    return int(is_unready(line, reply))


def is_unready(line: str, reply: str) -> bool:
    """Whether this was the question whether clients can be served, and the answer is no."""
    return line.split()[:1] == ["ready"] and reply.startswith(("not ready: ", '{"ready":false'))
