"""etcd, version 3.4 or newer, by its HTTP gateway: each key below a prefix is a server, for as long as it is there.

All keys are read, then their changes are followed from that revision on. What ends a watch is no error when reading
anew mends it: that etcd has forgotten this revision (compaction), or that it has said nothing for a while, as one that
has stopped does.
"""

from __future__ import annotations

import base64
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from gpen.discover.entries import Entries
from gpen.discover.http_client import HttpClient, HttpError, Silent, words_in
from gpen.discover.http_source import (
    ODD,
    HttpSource,
    clients_in,
    listed,
    strange,
    tls_in,
    warn_if_readable,
    warn_of_plaintext,
)
from gpen.discover.listing import server_in
from gpen.discover.source import SourceError, Tell
from gpen.model.text import shortened
from gpen.usage import UsageError

LONGEST = 1024  # bytes of a key, and of a login
SILENCE = 10.0  # seconds without a change, after which the keys are read anew: whoever answers is alive
# who has no majority around it ends the watch, instead of knowing nothing and saying nothing
NEEDS_LEADER = {"Grpc-Metadata-hasleader": "true"}
UNAUTHENTICATED = 401
OUTDATED = "auth store is old"  # of a token from before a change of users or roles
NO_LOGIN = "user name is empty"


USER, PASSWORD = "GPEN_ETCD_USER", "GPEN_ETCD_PASSWORD"


class Login(NamedTuple):
    """A user of etcd's."""

    user: str
    password: str


class Etcd(HttpSource):
    """The servers that the keys below ``prefix`` tell of."""

    def __init__(self, name: str, prefix: str, clients: Sequence[HttpClient],
                 login: Callable[[], Login] | None = None, silence: float = SILENCE) -> None:
        """``login`` says who is to be logged in, raising SourceError; it is asked at each login. Raises ValueError when
        there is no prefix."""
        super().__init__(name, clients)
        if not prefix:
            raise ValueError("PREFIX is empty: expected how the keys begin, as /gpen/web/")
        self._range = {"key": _encoded(prefix.encode("utf-8", "surrogateescape")),
                       "range_end": _encoded(_end_of(prefix.encode("utf-8", "surrogateescape")))}
        self._entries = Entries(name, server_in)
        self._login = login
        self._silence = silence
        self._token = ""

    def _follow(self, client: HttpClient, tell: Tell, stopping: threading.Event) -> None:
        read = self._logged_in(client, lambda: client.ask("POST", "/v3/kv/range", self._range, self._headers).value)
        try:
            revision = _revision(read["header"]["revision"])
            self._entries.renew(dict(_pair(said) for said in listed(read, "kvs")))
        except ODD:
            raise strange(client, "etcd") from None
        tell(self._entries.servers())
        request = {"create_request": {**self._range, "start_revision": revision + 1}}
        try:
            for line in client.lines("POST", "/v3/watch", self._silence, request, self._headers):
                if stopping.is_set() or not self._take(client, line):
                    return
                tell(self._entries.servers())
        except Silent:
            return

    def _take(self, client: HttpClient, line: Any) -> bool:
        """Take what a watch says. Returns whether it goes on. Raises SourceError."""
        try:
            if "error" in line:
                raise SourceError(f"{client.place}: ends the watch: {words_in(line['error'])}")
            result = line["result"]
            if "compact_revision" in result:
                return False
            if result.get("canceled"):
                raise SourceError(f"{client.place}: ends the watch: {words_in(result.get('cancel_reason'))}")
            events = [(event.get("type"), *_pair(event["kv"])) for event in listed(result, "events")]
        except ODD:
            raise strange(client, "etcd") from None
        latest = {key: (kind, value) for kind, key, value in events}
        self._entries.change({key: value for key, (kind, value) in latest.items() if kind != "DELETE"},
                             {key for key, (kind, _) in latest.items() if kind == "DELETE"})
        return True

    @property
    def _headers(self) -> Mapping[str, str]:
        return {**NEEDS_LEADER, **({"Authorization": self._token} if self._token else {})}

    def _logged_in(self, client: HttpClient, ask: Callable[[], Any]) -> Any:
        """Ask; with a new token, where the one at hand has expired, or there is none yet. Raises SourceError."""
        if self._login is None:
            try:
                return ask()
            except HttpError as error:
                if NO_LOGIN in error.said:
                    raise SourceError(f"{error}; give --login FILE") from None
                raise
        if self._token:
            try:
                return ask()
            except HttpError as error:
                if error.status != UNAUTHENTICATED and OUTDATED not in error.said:
                    raise
        self._token = ""
        self._token = self._new_token(client, self._login())
        return ask()

    def _new_token(self, client: HttpClient, login: Login) -> str:
        said = client.ask("POST", "/v3/auth/authenticate", {"name": login.user, "password": login.password}).value
        token = said.get("token") if isinstance(said, dict) else None
        if not isinstance(token, str) or not token.isascii() or not token.isprintable():
            raise SourceError(f"{client.place}: gives no token to '{shortened(login.user)}'")
        return token


# --- the command line -------------------------------------------------------------------------------------------------


def made(arguments: Mapping[str, Any]) -> Etcd:
    """That of a command line. Raises UsageError."""
    clients = clients_in(arguments, "--etcd", tls_in(arguments))
    login = _login_of(arguments["--login"], os.environ)
    if login is not None:
        warn_of_plaintext(clients)
    prefix = arguments["PREFIX"]
    try:
        return Etcd(f"etcd {prefix}", prefix, clients, login)
    except ValueError as error:
        raise UsageError(str(error)) from None


def _login_of(path: str | None, environment: Mapping[str, str]) -> Callable[[], Login] | None:
    """Who says who is to be logged in: a file, or else the environment; None where nobody is. Raises UsageError."""
    if path:
        try:
            login_in(path)
        except SourceError as error:
            raise UsageError(f"--login: {error}") from None
        warn_if_readable(path)
        return lambda: login_in(path)
    login = Login(environment.get(USER, ""), environment.get(PASSWORD, ""))
    return (lambda: login) if login.user else None


def login_in(path: str) -> Login:
    """The user and the password that a file holds, as USER:PASSWORD in its first line. Raises SourceError, which does
    not say what is there."""
    try:
        with open(path, encoding="utf-8") as file:
            user, colon, password = file.readline(LONGEST).rstrip("\r\n").partition(":")
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "no UTF-8 text"
        raise SourceError(f"{path}: {why}") from None
    if not user or not colon:
        raise SourceError(f"{path}: USER:PASSWORD is expected there")
    return Login(user, password)


# --- what stands in answers -------------------------------------------------------------------------------------------


def _revision(said: Any) -> int:
    """A number, which the gateway writes as a text. Raises ValueError."""
    if not isinstance(said, str) or len(said) > 20:
        raise ValueError
    return int(said)


def _pair(said: Any) -> tuple[str, str]:
    """The key and the value of one, as texts. Raises ValueError and others."""
    key, value = (base64.b64decode(said.get(name, ""), validate=True) for name in ("key", "value"))
    if len(key) > LONGEST:
        raise ValueError
    return key.decode("utf-8", "surrogateescape"), value.decode("utf-8", "surrogateescape")


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _end_of(prefix: bytes) -> bytes:
    """The first key behind all that begin so: as etcd wants it, zero where there is none."""
    kept = prefix.rstrip(b"\xff")
    return kept[:-1] + bytes([kept[-1] + 1]) if kept else b"\0"
