"""Kubernetes: the ready endpoints of a service, by its EndpointSlices (discovery.k8s.io/v1, Kubernetes 1.21 or newer).

All slices are listed, then their changes are followed from that version on. A watch that has ended goes on where it
was; when the server has forgotten that version (410 Gone), all are listed again.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

from gpen.discover.entries import LONGEST
from gpen.discover.http_client import HttpClient, HttpError, Silent, words_in
from gpen.discover.http_source import (
    ODD,
    PAUSE,
    HttpSource,
    clients_in,
    listed,
    rest,
    secret_in,
    strange,
    tls_in,
    token_in,
    warn_if_readable,
)
from gpen.discover.listing import server_of
from gpen.discover.plan import MOST_SERVERS
from gpen.discover.source import Found, SourceError, Tell
from gpen.model.address import bracketed
from gpen.model.text import counted, shortened
from gpen.usage import UsageError

SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
HOST, PORT = "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"  # of the environment in a pod
TYPES = ("IPv4", "IPv6", "FQDN")  # of addresses; the first that there is counts, unless one is asked for
PAGE = 500  # slices
PAGES = 100
CONTINUES = 8192  # characters of what asks for the next page
WATCH = 20  # seconds that the server shall keep a watch, if nothing happens: who is silent for longer is not alive
LATE = 5.0  # seconds that it may take longer
GONE, FORBIDDEN = 410, 403
_NAME = re.compile("[a-z0-9-]{1,63}")  # of a service; more would be more than a name in what selects its slices


class Account(NamedTuple):
    """Whom a pod is to Kubernetes: where its interface is, the files that let it in, and its namespace."""

    url: str
    ca: str
    token: str
    namespace: str


class Gone(Exception):
    """The version that was asked for is forgotten."""


class Slice(NamedTuple):
    """What counts of an EndpointSlice: the addresses of those that are ready."""

    kind: str
    ports: tuple[tuple[str, int], ...]
    addresses: tuple[str, ...]


class Kubernetes(HttpSource):
    """The ready endpoints of ``service``."""

    def __init__(self, name: str, service: str, namespace: str, client: HttpClient,
                 token: Callable[[], str] | None = None, port_name: str | None = None, kind: str = "",
                 seconds: float = WATCH) -> None:
        """``token`` is asked for each request, and raises SourceError; it goes by HTTPS only. ``port_name``: of the
        service's ports, None: it has one. ``kind`` of addresses: one of TYPES, "": the first of them. ``seconds``: for
        a watch. Raises ValueError when there is no service."""
        super().__init__(name, [client])
        if not _NAME.fullmatch(service):
            raise ValueError(f"'{service}' is no name of a service in Kubernetes: expected letters, digits and -")
        self._path = f"/apis/discovery.k8s.io/v1/namespaces/{quote(namespace, safe='')}/endpointslices"
        self._query = {"labelSelector": f"kubernetes.io/service-name={service}"}
        self._token = token if client.is_safe else None
        self._port_name = port_name
        self._kind = kind
        self._seconds = seconds
        self._slices: dict[str, Slice] = {}

    def _follow(self, client: HttpClient, tell: Tell, stopping: threading.Event) -> None:
        try:
            version = self._list(client)
            tell(self._servers())
            while not stopping.is_set():
                began = time.monotonic()
                version = self._changes(client, version, tell, stopping)
                tell(self._servers())  # as before: what is known is not old
                rest(stopping, began + PAUSE)
        except (Gone, Silent):
            return
        except HttpError as error:
            if error.status == GONE:
                return
            if error.status == FORBIDDEN:
                raise SourceError(f"{error}; it needs the verbs list and watch of endpointslices: see "
                                  "contrib/kubernetes") from None
            raise

    def _list(self, client: HttpClient) -> str:
        """Take all slices. Returns the version that they are of. Raises SourceError."""
        slices: dict[str, Slice] = {}
        onwards = ""
        for _ in range(PAGES):
            page = {**self._query, "limit": str(PAGE), **({"continue": onwards} if onwards else {})}
            said = client.ask("GET", f"{self._path}?{urlencode(page)}", headers=self._headers).value
            try:
                slices |= dict(map(_slice, listed(said, "items")))
                version, onwards = _version(said), _text(said["metadata"].get("continue"), CONTINUES)
            except ODD:
                raise strange(client, "Kubernetes") from None
            _check_room(slices)
            if not onwards:
                self._slices = slices
                return version
        raise SourceError(f"{client.place}: its list has no end")

    def _changes(self, client: HttpClient, version: str, tell: Tell, stopping: threading.Event) -> str:
        """Take what changes after that version, and tell it, until the watch ends. Returns the version that is known
        then. Raises Gone and SourceError."""
        query = {**self._query, "watch": "1", "allowWatchBookmarks": "true", "resourceVersion": version,
                 "timeoutSeconds": f"{max(1, round(self._seconds))}"}
        for event in client.lines("GET", f"{self._path}?{urlencode(query)}", self._seconds + LATE,
                                  headers=self._headers):
            if stopping.is_set():
                break
            try:
                kind, thing = event["type"], event["object"]
                if kind == "ERROR":
                    raise _ended(client, thing)
                version = _version(thing)
                if kind == "BOOKMARK":
                    continue
                self._take(kind, thing)
            except ODD:
                raise strange(client, "Kubernetes") from None
            tell(self._servers())
        return version

    def _take(self, kind: str, thing: Any) -> None:
        """Take a change of one slice. Raises one of ODD, and SourceError."""
        name, there = _slice(thing)
        if kind == "DELETED":
            self._slices.pop(name, None)
        elif kind in ("ADDED", "MODIFIED"):
            self._slices[name] = there
            _check_room(self._slices)
        else:
            raise ValueError

    @property
    def _headers(self) -> Mapping[str, str]:
        return {"Authorization": f"Bearer {self._token()}"} if self._token else {}

    def _servers(self) -> list[Found]:
        """What the slices say together. Raises SourceError when it is not known which port is meant."""
        kind = self._kind or next((kind for kind in TYPES if any(it.kind == kind for it in self._slices.values())), "")
        slices = [it for it in self._slices.values() if it.kind == kind and it.addresses]
        found = [server_of({"host": address, "port": port}) for it in slices for port in self._ports(it)
                 for address in it.addresses]
        if slices and not found:
            names = sorted({name for it in slices for name, _ in it.ports})
            said = ", ".join(f"'{shortened(name)}'" for name in names[:10]) or "none"
            wanted = f"port '{self._port_name}' with a number" if self._port_name is not None else "port with a number"
            raise SourceError(f"the service has no {wanted}; its ports: {said}")
        return list(dict.fromkeys(found))

    def _ports(self, it: Slice) -> list[int]:
        """The number of the port that is meant; none where the slice lacks it. Raises SourceError when there are
        several."""
        meant = [port for name, port in it.ports if self._port_name is None or name == self._port_name]
        if len(meant) > 1:
            names = ", ".join(f"'{shortened(name)}'" for name, _ in it.ports[:10])
            raise SourceError(f"the service has {counted(len(meant), 'port')} ({names}): choose one with "
                              "--port-name")
        return meant


def made(arguments: Mapping[str, Any]) -> Kubernetes:
    """That of a command line: of the pod that we are in, or with --kubernetes of somebody outside. Raises
    UsageError."""
    service, kind = arguments["SERVICE"], arguments["--address-type"] or ""
    if kind and kind not in TYPES:
        raise UsageError(f"--address-type: '{kind}' is not one of {', '.join(TYPES)}")
    tls, url, token, namespace = tls_in(arguments), arguments["--kubernetes"], arguments["--token"], "default"
    if not url:
        try:
            url, ca, own_token, namespace = account(arguments["--service-account"] or SERVICE_ACCOUNT)
        except SourceError as error:
            raise UsageError(str(error)) from None
        tls, token = tls._replace(ca=tls.ca or ca), token or own_token
    client, *others = clients_in({"--kubernetes": url}, "--kubernetes", tls)
    if others:
        raise UsageError(f"--kubernetes: '{url}' is more than one URL")
    if token and not client.is_safe:
        raise UsageError("--token: a token goes to an https:// URL only")
    if arguments["--token"]:
        warn_if_readable(token)
    try:
        return Kubernetes(f"kubernetes {service}", service, arguments["--namespace"] or namespace, client,
                          token_in(token, [client]), arguments["--port-name"], kind)
    except ValueError as error:
        raise UsageError(str(error)) from None


def account(directory: str, environment: Mapping[str, str] = os.environ) -> Account:
    """Whom this pod is, by the files of its service account. Raises SourceError when this is no pod."""
    host, port = environment.get(HOST, ""), environment.get(PORT, "")
    if not host or not port:
        raise SourceError(f"{HOST} and {PORT} are not set: outside a pod, --kubernetes URL says where Kubernetes is")
    return Account(f"https://{bracketed(host)}:{port}", os.path.join(directory, "ca.crt"),
                   os.path.join(directory, "token"), secret_in(os.path.join(directory, "namespace")))


# --- what stands in answers ------------------------------------------------------------------------------------------


def _ended(client: HttpClient, status: Any) -> Exception:
    """Why the server ends a watch. Raises one of ODD."""
    if status.get("code") == GONE:
        return Gone()
    return SourceError(f"{client.place}: ends the watch: {words_in(status)}")


def _version(said: Any) -> str:
    """The version of a list or an object. Raises one of ODD."""
    version = _text(said["metadata"]["resourceVersion"])
    if not version:
        raise ValueError
    return version


def _slice(said: Any) -> tuple[str, Slice]:
    """The name of a slice, and what counts of it. Raises one of ODD."""
    name, kind = _text(said["metadata"]["name"]), _text(said["addressType"])
    ports = tuple((_text(port.get("name")), port["port"]) for port in listed(said, "ports")
                  if port.get("port") is not None)
    ready = [endpoint for endpoint in listed(said, "endpoints") if _is_ready(endpoint.get("conditions") or {})]
    return name, Slice(kind, ports, tuple(_text(listed(endpoint, "addresses")[0]) for endpoint in ready))


def _is_ready(conditions: Any) -> bool:
    """Whether new clients may come: not to one that is about to end, though it may still serve those that it has. What
    is not known counts as ready."""
    return conditions.get("ready") is not False and conditions.get("terminating") is not True


def _text(value: Any, most: int = LONGEST) -> str:
    """A text of at most so many characters, of which null is the empty one. Raises ValueError."""
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > most:
        raise ValueError
    return value


def _check_room(slices: Mapping[str, Slice]) -> None:
    """Raises SourceError when there are more than can be servers."""
    number = len(slices) + sum(len(it.addresses) + len(it.ports) for it in slices.values())
    if number > MOST_SERVERS:
        raise SourceError(f"{number:,} endpoints are more than {MOST_SERVERS:,}")
