"""gpenctl's way to the daemon: one connection, one line out, the reply until the daemon closes.

So a pen, a gpen and an older gpen are asked alike. Knows nothing of what the words mean. Everything that can go wrong
on the way is a `LinkError`, whose text is one line that names the target and the remedy.

Imports what a call over a unix socket takes, and the rest where it is needed: `socket` alone, with enum, selectors and
all, costs as much as the call.
"""

from __future__ import annotations

import _socket
import errno
import os
import stat
import time

TYPE_CHECKING = False  # typing's own costs an import
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    Address = tuple[int, str | tuple[Any, ...]]


class LinkError(Exception):
    """The daemon can't be reached, went away or stayed silent; one line for the user."""


class Target:
    """Where a daemon listens for commands: `path` of a unix socket, or `host` and `port`. `text` is as it was said."""

    __slots__ = ("host", "path", "port", "text")

    def __init__(self, text: str, path: str = "", host: str = "", port: int = 0) -> None:
        self.text, self.path, self.host, self.port = text, path, host, port


def parse_target(text: str) -> Target:
    """The target that `text` names: /path, HOST:PORT, [IPV6]:PORT or IPV6:PORT (the last colon splits).

    Raises ValueError, in one line, when it names none.
    """
    if ("/" in text and "://" not in text) or (":" not in text and os.path.exists(text)):
        return Target(text, path=text)
    if ("/" not in text and ":" not in text) or text.endswith("]"):
        raise ValueError(f"target {text!r}: expected /path/to.ctl (./{text} for a file here) or HOST:PORT")
    from gpen.model.address import parse_listen

    try:
        host = parse_listen(text, "localhost").host
    except ValueError as error:
        raise ValueError(f"target {error}") from None
    return Target(text, host=host, port=parse_port(text.rpartition(":")[2], text))


def parse_port(port: str, text: str) -> int:
    if port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65536:
        return int(port)
    try:
        return _socket.getservbyname(port)
    except (OSError, ValueError):
        raise ValueError(
            f"target {text!r}: port {port!r} is neither a number from 1 to 65535 nor a known service"
        ) from None


def meet(target: Target, timeout: float) -> str:
    """Make sure that a pen or gpen listens at the target, by asking its pid: what is meant for a daemon is told nobody
    else. Returns the pid, or the line in which the daemon refuses to talk to us.

    Raises LinkError, also for who answers something else, or never comes to an end.
    """
    heard, deadline = b"", time.monotonic() + timeout
    for chunk in exchange(target, "pid", timeout, timeout):
        heard += chunk
        if len(heard) > LONGEST_GREETING or not _is_greeting(heard, is_whole=False) or time.monotonic() > deadline:
            break
    if _is_greeting(heard, is_whole=True):
        return heard.decode("utf-8", "replace").strip()
    from gpen.model.text import shortened

    said = shortened(heard.lstrip().partition(b"\n")[0].strip(), SHOWN)
    why = f"it answers '{said}'" if heard else f"it closed without a word; {CUT.partition('; ')[2]}"
    raise LinkError(f"{target.text}: is not a control socket: {why}")


def _is_greeting(heard: bytes, is_whole: bool) -> bool:
    """Whether this is what a pen or gpen answers to `pid`, or, unless it `is_whole`, may become that."""
    pid = heard.rstrip()
    if (pid.isdigit() and len(pid) <= LONGEST_PID) or (not pid and not is_whole):
        return True
    return any(heard.startswith(word) or (not is_whole and word.startswith(heard)) for word in REFUSALS)


def ask(target: Target, line: str, timeout: float) -> str:
    """Send `line` (without its end) and return the whole reply.

    `timeout` in seconds limits the way to a connection, name lookup included, and then each silence. Bytes that
    are no UTF-8 come back as surrogates.
    Raises LinkError, also when the reply is larger than any that a daemon gives.
    """
    heard, size = [], 0
    for chunk in exchange(target, line, timeout, timeout):
        heard.append(chunk)
        size += len(chunk)
        if size > LONGEST_REPLY:
            from gpen.model.text import shortened

            raise LinkError(f"{target.text}: is not a control socket: its answer to '{shortened(line, SHOWN)}' has no "
                            "end")
    return b"".join(heard).decode("utf-8", "surrogateescape")


def follow(target: Target, line: str, timeout: float, silence: float) -> Iterator[str]:
    """Send `line` and give each line of the reply, without its end, as soon as it is there.

    `timeout` in seconds limits the way to a connection, `silence` each wait for more. Raises LinkError.
    """
    rest = b""
    for chunk in exchange(target, line, timeout, silence):
        *lines, rest = (rest + chunk).split(b"\n")
        if len(rest) > LONGEST_GREETING:
            raise LinkError(f"{target.text}: is not a control socket: its answer has no lines")
        yield from (each.decode("utf-8", "surrogateescape") for each in lines)
    if rest:
        yield rest.decode("utf-8", "surrogateescape")


def exchange(target: Target, line: str, timeout: float, silence: float) -> Iterator[bytes]:
    patience = timeout
    try:
        link = connect(target, timeout)
        try:
            patience = silence
            link.settimeout(patience)
            link.sendall(line.encode("utf-8", "surrogateescape") + b"\n")
            link.shutdown(_socket.SHUT_WR)
            while chunk := link.recv(65536):
                yield chunk
        finally:
            link.close()
    except (OSError, ValueError) as error:  # ValueError: a host name or a path that can't be one
        raise LinkError(f"{target.text}: {remedy(target, error, patience)}") from None


def connect(target: Target, timeout: float) -> _socket.socket:
    deadline = time.monotonic() + timeout
    refusal: OSError = TimeoutError()
    for address in addresses(target, timeout):
        left = deadline - time.monotonic()
        if left <= 0:
            break
        try:
            link = reach(address, left)
        except OSError as error:
            refusal = error
        else:
            link.settimeout(timeout)
            return link
    raise refusal


def addresses(target: Target, timeout: float) -> list[Address]:
    if target.path:
        return [(_socket.AF_UNIX, target.path)]
    return look_up(target.host, target.port, timeout)


def look_up(host: str, port: int, timeout: float) -> list[Address]:
    """The addresses of a host, within `timeout` seconds.

    Nothing can interrupt a lookup, so it has a thread of its own, for which the interpreter does not wait at exit.
    """
    import threading

    found: list[Address] = []
    problems: list[Exception] = []

    def resolve() -> None:
        try:
            answers = _socket.getaddrinfo(host, port, type=_socket.SOCK_STREAM)
            found.extend((family, address) for family, _, _, _, address in answers)
        except (OSError, ValueError) as error:
            problems.append(error)

    thread = threading.Thread(target=resolve, daemon=True)
    thread.start()
    thread.join(timeout)
    if thread.is_alive():
        raise _socket.gaierror(_socket.EAI_AGAIN, f"no address found within {timeout:g} s (--timeout)")
    for problem in problems:
        raise problem
    return found


def reach(address: Address, timeout: float) -> _socket.socket:
    family, place = address
    link = _socket.socket(family, _socket.SOCK_STREAM)
    try:
        link.settimeout(timeout)
        link.connect(place)
    except BaseException:
        link.close()
        raise
    return link


LONGEST_GREETING = 8192  # bytes
LONGEST_REPLY = 1 << 28
LONGEST_WAIT = 1e6  # seconds
SHOWN = 40
LONGEST_PID = 10  # digits
REFUSALS = (b"error: ", b"do_cmd: ")  # how a line begins that says no
CUT = "the daemon cut the connection; has it ended, or does its control_acl deny this client?"
REMEDIES = {
    errno.ENOENT: "no such socket; is the daemon running, and is this the path given to its -C?",
    errno.EACCES: "permission denied; run this as root, or as the owner of the socket",
    errno.EPERM: "permission denied; run this as root, or as the owner of the socket",
    errno.EAGAIN: "the daemon is too busy to take another connection; try again",
    errno.ECONNRESET: CUT,
    errno.EPIPE: CUT,
    errno.EPROTOTYPE: "is not a control socket; give the path that the daemon was given with -C",
    errno.ENOTCONN: CUT,
}


def is_socket(path: str) -> bool:
    """Whether a file is a socket, or may be one."""
    try:
        return not path or stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return True


def remedy(target: Target, error: OSError | ValueError, timeout: float) -> str:
    if isinstance(error, TimeoutError) and error.errno is None:
        return (f"no answer within {timeout:g} s; is the daemon stopped, the network slow (--timeout), or is this "
                "not a control socket?")
    if isinstance(error, _socket.gaierror):
        return f"{error.strerror}; check the host name and DNS"
    if isinstance(error, ConnectionRefusedError) and not is_socket(target.path):
        return REMEDIES[errno.EPROTOTYPE]
    if isinstance(error, ConnectionRefusedError):
        return f"nobody answers; is the daemon running, with -C {target.text}?"
    number = getattr(error, "errno", None)
    return REMEDIES.get(number or 0) or f"{getattr(error, 'strerror', None) or error}; check the target"
