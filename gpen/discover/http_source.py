"""What the sources that are asked over HTTP have in common: several servers that know the same, asked in turn; and what
is needed to be let in."""

from __future__ import annotations

import os
import re
import stat
import threading
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from ipaddress import ip_address
from typing import Any

from gpen.discover.http_client import HttpClient, Tls
from gpen.discover.source import Found, Source, SourceError, Tell
from gpen.log import warn
from gpen.usage import UsageError

PAUSE = 0.5  # seconds between two beginnings of a watch at least, however soon each is over
LONGEST = 1 << 16  # bytes of a file with a secret
ODD = (LookupError, TypeError, ValueError, AttributeError)  # of an answer that is not as it should be
_SECRET = re.compile(r"[\x21-\x7e]+")  # that can stand in a header field


class HttpSource(Source):
    """A source behind one of several servers: one that fails gives way to the next."""

    def __init__(self, name: str, clients: Sequence[HttpClient]) -> None:
        super().__init__(name)
        self._clients = tuple(clients)
        self._turn = 0
        self._began = 0.0
        self._warned: set[str] = set()  # of what was told since something was found out

    def watch(self, tell: Tell, stopping: threading.Event) -> None:
        def found(servers: Sequence[Found]) -> None:
            self._warned.clear()
            tell(servers)

        rest(stopping, self._began + PAUSE)
        self._began = time.monotonic()
        troubles: list[str] = []
        while len(troubles) < len(self._clients):
            if stopping.is_set():
                return
            client = self._clients[self._turn]
            if troubles:
                self._warn(f"{troubles[-1]}; {client.place} is asked")
            try:
                self._follow(client, found, stopping)
                return
            except (SourceError, RecursionError) as error:
                if stopping.is_set():
                    return
                troubles.append(str(error) if isinstance(error, SourceError) else f"{client.place}: is too deep")
                self._turn = (self._turn + 1) % len(self._clients)
        raise SourceError("; ".join(dict.fromkeys(troubles)))

    def stop(self) -> None:
        for client in self._clients:
            client.stop()

    def _warn(self, text: str) -> None:
        """Once, as long as all of them fail again and again."""
        if text not in self._warned:
            warn(f"{self.name}: {text}")
        self._warned.add(text)

    @abstractmethod
    def _follow(self, client: HttpClient, tell: Tell, stopping: threading.Event) -> None:
        """As ``watch``, with this server."""


def rest(stopping: threading.Event, until: float) -> None:
    """Wait until this time of the monotonic clock, or until it is to stop."""
    stopping.wait(max(0.0, until - time.monotonic()))


def strange(client: HttpClient, who: str) -> SourceError:
    """Of an answer that is not as it should be: one of ODD was raised."""
    return SourceError(f"{client.place}: says what {who} does not say")


def listed(said: Any, name: str) -> list[Any]:
    """A list of an answer, which may be missing or null when it is empty. Raises one of ODD."""
    found = said.get(name)
    if found is None:
        return []
    if not isinstance(found, list):
        raise TypeError
    return found


# --- the command line -------------------------------------------------------------------------------------------------


def clients_in(arguments: Mapping[str, Any], option: str, tls: Tls) -> list[HttpClient]:
    """A client for each URL of an option, whose commas separate them. Raises UsageError, also for files of TLS that
    can't be used, or are of no use."""
    try:
        clients = [HttpClient(url, tls) for url in arguments[option].split(",") if url]
        if any(client.is_safe for client in clients):
            tls.context()
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from None
    except SourceError as error:
        raise UsageError(str(error)) from None
    if not clients:
        raise UsageError(f"{option}: no URL: expected http://HOST:PORT or https://HOST:PORT")
    if any(tls) and not any(client.is_safe for client in clients):
        raise UsageError(f"{option}: --ca, --cert and --key are of no use without https://")
    return clients


def tls_in(arguments: Mapping[str, Any]) -> Tls:
    """The files of TLS. Raises UsageError."""
    if arguments["--key"] and not arguments["--cert"]:
        raise UsageError("--key: the certificate is missing that it belongs to: --cert FILE")
    return Tls(arguments["--ca"] or "", arguments["--cert"] or "", arguments["--key"] or "")


def token_in(path: str | None, clients: Sequence[HttpClient], name: str = "") -> Callable[[], str] | None:
    """Who reads a token, from a file or else from the variable of the environment with that name; None where there is
    none. Raises UsageError."""
    if path:
        try:
            secret_in(path)
        except SourceError as error:
            raise UsageError(f"--token: {error}") from None
        warn_of_plaintext(clients)
        return lambda: secret_in(path)
    secret = os.environ.get(name, "").strip()
    if not secret:
        return None
    if not _SECRET.fullmatch(secret):
        raise UsageError(f"{name}: one word in ASCII is expected in it")
    warn_of_plaintext(clients)
    return lambda: secret


# --- secrets ----------------------------------------------------------------------------------------------------------


def secret_in(path: str) -> str:
    """The secret that a file holds, without the blanks around it. Raises SourceError, which does not say what is
    there."""
    try:
        with open(path, encoding="ascii") as file:
            secret = file.read(LONGEST).strip()
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "no ASCII text"
        raise SourceError(f"{path}: {why}") from None
    if not _SECRET.fullmatch(secret):
        raise SourceError(f"{path}: one word in ASCII is expected there")
    return secret


def warn_if_readable(path: str) -> None:
    """Tell when everybody on this machine can read the secret in a file."""
    try:
        is_open = os.stat(path).st_mode & stat.S_IROTH
    except OSError:
        return  # who needs it will say so
    if is_open:
        warn(f"{path}: everybody on this machine can read the secret in it: chmod o= {path}")


def warn_of_plaintext(clients: Sequence[HttpClient]) -> None:
    """Tell when a secret goes over a network as everybody there can read it."""
    for client in clients:
        if not client.is_safe and not _is_here(client.host):
            warn(f"{client.place}: the password or token goes there as everybody on the way can read it: give an "
                 "https:// URL")


def _is_here(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
