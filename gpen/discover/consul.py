"""Consul by its HTTP interface: the instances of a service whose checks all pass.

A question that names the index of the last answer is answered when something has changed, or when its time is over.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlencode

from gpen.discover.entries import Entries
from gpen.discover.http_client import WHOLE, Answer, HttpClient, HttpError
from gpen.discover.http_source import (
    ODD,
    HttpSource,
    clients_in,
    listed,
    rest,
    strange,
    tls_in,
    token_in,
    warn_if_readable,
)
from gpen.discover.listing import server_of
from gpen.discover.source import Found, SourceError, Tell
from gpen.usage import UsageError

WAIT = 10  # seconds that Consul may hold a question back: who is silent for longer is not alive
JITTER = 16  # it adds up to this part of them
GAP = 0.1  # seconds between two questions at least, however often something changes
FORBIDDEN = 403
TOKEN = "CONSUL_HTTP_TOKEN"  # of the environment, as for Consul's own programs


class Consul(HttpSource):
    """The instances of ``service``, in the data centre, with the tags and in the namespace that are given."""

    def __init__(self, name: str, service: str, clients: Sequence[HttpClient], token: Callable[[], str] | None = None,
                 datacenter: str = "", tags: Sequence[str] = (), namespace: str = "", wait: float = WAIT) -> None:
        """``token`` is asked for each question, and raises SourceError. Raises ValueError when there is no service."""
        super().__init__(name, clients)
        if not service:
            raise ValueError("SERVICE is empty: expected the name of a service")
        self._path = f"/v1/health/service/{quote(service, safe='')}"
        self._query = [("passing", "1"), *(("tag", tag) for tag in tags),
                       *((key, value) for key, value in (("dc", datacenter), ("ns", namespace)) if value)]
        self._token = token
        self._wait = wait
        self._entries = Entries(name, _instance)

    def _follow(self, client: HttpClient, tell: Tell, stopping: threading.Event) -> None:
        index = 0
        while not stopping.is_set():
            began = time.monotonic()
            answer = self._ask(client, index)
            self._take(client, answer.value)
            tell(self._entries.servers())
            index = _next_index(client, answer, index)
            rest(stopping, began + GAP)

    def _ask(self, client: HttpClient, index: int) -> Answer:
        """Ask, and wait for something newer than ``index``; not with 0. Raises SourceError."""
        waiting = [("index", str(index)), ("wait", f"{self._wait:g}s")] if index else []
        seconds = WHOLE + (self._wait * (1 + 1 / JITTER) if index else 0)
        headers = {"X-Consul-Token": self._token()} if self._token else {}
        try:
            return client.ask("GET", f"{self._path}?{urlencode(self._query + waiting)}", headers=headers,
                              seconds=seconds)
        except HttpError as error:
            if error.status == FORBIDDEN:
                raise SourceError(f"{error}; a token with service:read and node:read is needed: --token FILE") from None
            raise

    def _take(self, client: HttpClient, said: Any) -> None:
        try:
            self._entries.renew({_called(instance): instance for instance in listed({"all": said}, "all")})
        except ODD:
            raise strange(client, "Consul") from None


def made(arguments: Mapping[str, Any]) -> Consul:
    """That of a command line. Raises UsageError."""
    service = arguments["SERVICE"]
    clients = clients_in(arguments, "--consul", tls_in(arguments))
    if arguments["--token"]:
        warn_if_readable(arguments["--token"])
    tags = [tag for tag in (arguments["--tag"] or "").split(",") if tag]
    try:
        return Consul(f"consul {service}", service, clients, token_in(arguments["--token"], clients, TOKEN),
                      arguments["--datacenter"] or "", tags, arguments["--namespace"] or "")
    except ValueError as error:
        raise UsageError(str(error)) from None


def _next_index(client: HttpClient, answer: Answer, index: int) -> int:
    """The index to ask with. One that went back is of a Consul that began anew: all is to be read at once. Raises
    SourceError for what is no index, as with 0 nothing would ever be waited for."""
    text = answer.headers.get("X-Consul-Index", "")
    if not (text.isascii() and text.isdigit()) or len(text) > 20 or int(text) == 0:
        raise SourceError(f"{client.place}: answers without an index (X-Consul-Index): is it Consul?")
    new = int(text)
    return 0 if new < index else new


def _called(instance: Any) -> str:
    """The name of an instance: its node's, and its own there. Raises one of ODD."""
    return f"{instance['Node']['Node']}/{instance['Service']['ID']}"


def _instance(said: Any) -> Found:
    """An instance, with the address of its node where it has none of its own. Raises SourceError."""
    try:
        service = said["Service"]
        host, port = service.get("Address") or said["Node"].get("Address"), service["Port"]
        weight = (service.get("Weights") or {}).get("Passing")
    except ODD:
        raise SourceError("it has no address or port") from None
    return server_of({"host": host, "port": port, "weight": weight})
