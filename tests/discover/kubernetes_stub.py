"""Kubernetes as its public documentation describes EndpointSlices, with lists, watches and bookmarks: a real HTTPS
server, and the files that a pod has.

A test changes what there is, and what goes wrong::

    with KubernetesStub(certificates, tmp_path) as kubernetes:
        kubernetes.put("web-1", "web", ["127.0.0.1"], port=81)
        kubernetes.delete("web-1")
        kubernetes.bookmark()
        kubernetes.forget()                 # what was before now is gone: 410
        kubernetes.end_watches()
        kubernetes.said = "7"               # this instead of a list or an event; None: the answer
        kubernetes.is_silent = True         # requests are read, and nothing is said
"""

from __future__ import annotations

import json
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.certificates import Certificates
from tests.harness import PATIENCE

Object = dict[str, Any]
NAMESPACE = "shop"
PATH = f"/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices"


class KubernetesStub:
    """The slices of one namespace."""

    def __init__(self, certificates: Certificates, directory: Path) -> None:
        self.version = 100
        self.oldest = 100
        self.slices: dict[str, Object] = {}
        self.events: list[tuple[int, Object]] = []
        self.asked: list[dict[str, str]] = []
        self.said: str | None = None
        self.is_silent = False
        self.tells_gone_as_event = False
        self.pages = 500
        self.generation = 0  # of watches: those of an older one end
        self.changed = threading.Condition()
        self.directory = directory / "serviceaccount"
        self.directory.mkdir()
        self.write_files(certificates, "first-token")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificates.server.certificate, certificates.server.key)
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.stub, self._server.context = self, context
        self.port = self._server.server_address[1]
        self.environment = {"KUBERNETES_SERVICE_HOST": "localhost", "KUBERNETES_SERVICE_PORT": str(self.port)}
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def write_files(self, certificates: Certificates, token: str) -> None:
        """What a pod finds of its service account; only this token is let in from now on."""
        self.token = token
        (self.directory / "token").write_text(token)
        (self.directory / "ca.crt").write_bytes(certificates.authority.certificate.read_bytes())
        (self.directory / "namespace").write_text(NAMESPACE)

    def __enter__(self) -> KubernetesStub:
        return self

    def __exit__(self, *_: object) -> None:
        self.is_silent = False
        self.end_watches()
        self._server.shutdown()
        self._server.server_close()

    def put(self, name: str, service: str, addresses: list[str], port: Any = 81, *, kind: str = "IPv4",
            ports: list[Object] | None = None, **conditions: bool | None) -> None:
        """A slice with an endpoint for each address, all in the same conditions; ready unless these say otherwise."""
        endpoints = [{"addresses": [address], "conditions": {"ready": True, **conditions},
                      "targetRef": {"kind": "Pod", "name": f"pod-{address}"}, "zone": "a"} for address in addresses]
        self.put_object({
            "metadata": {"name": name, "namespace": NAMESPACE, "labels": {"kubernetes.io/service-name": service}},
            "addressType": kind, "endpoints": endpoints,
            "ports": [{"name": "http", "port": port, "protocol": "TCP"}] if ports is None else ports})

    def put_object(self, thing: Object) -> None:
        name = thing["metadata"]["name"]
        self._happen("MODIFIED" if name in self.slices else "ADDED", thing)
        self.slices[name] = thing

    def delete(self, name: str) -> None:
        self._happen("DELETED", self.slices.pop(name))

    def bookmark(self) -> None:
        self._happen("BOOKMARK", {"kind": "EndpointSlice", "metadata": {"creationTimestamp": None}, "endpoints": None})

    def _happen(self, kind: str, thing: Object) -> None:
        with self.changed:
            self.version += 1
            thing["metadata"]["resourceVersion"] = str(self.version)
            self.events.append((self.version, {"type": kind, "object": json.loads(json.dumps(thing))}))
            self.changed.notify_all()

    def forget(self) -> None:
        self.oldest = self.version

    def end_watches(self) -> None:
        with self.changed:
            self.generation += 1
            self.changed.notify_all()

    def news(self, version: int, generation: int, deadline: float) -> list[tuple[int, Object]]:
        """Wait for events after a version, as long as a watch of that generation is served."""
        def is_over() -> bool:
            has_news = not self.is_silent and bool(self.events) and self.events[-1][0] > version
            return has_news or self.generation != generation or self.said is not None

        with self.changed:
            self.changed.wait_for(is_over, max(0.0, deadline - time.monotonic()))
            return [(number, event) for number, event in self.events if number > version]

    @property
    def watches(self) -> list[dict[str, str]]:
        return [asked for asked in self.asked if "watch" in asked]


def is_of(thing: Object, selector: str) -> bool:
    """Whether a slice has a label, KEY=VALUE; a bookmark is for everybody."""
    key, _, value = selector.partition("=")
    labels = thing["metadata"].get("labels")
    return labels is None or labels.get(key) == value


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    stub: KubernetesStub
    context: ssl.SSLContext

    def finish_request(self, request: Any, client_address: Any) -> None:
        try:
            request.settimeout(PATIENCE)
            with self.context.wrap_socket(request, server_side=True) as tls:
                super().finish_request(tls, client_address)
        except OSError:
            pass  # a client that does not like the certificate


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        stub, parts = self.server.stub, urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        stub.asked.append(query)
        with stub.changed:
            stub.changed.wait_for(lambda: not stub.is_silent, PATIENCE)
        if self.headers.get("Authorization") != f"Bearer {stub.token}":
            return self._refuse(401, "Unauthorized")
        if parts.path != PATH:
            return self._refuse(403, f'endpointslices is forbidden: User "pod" cannot list {parts.path}')
        return self._watch(query) if query.get("watch") == "1" else self._list(query)

    def _list(self, query: dict[str, str]) -> None:
        stub = self.server.stub
        items = [it for it in stub.slices.values() if is_of(it, query["labelSelector"])]
        begin, size = int(query.get("continue", 0)), min(int(query["limit"]), stub.pages)
        onwards = str(begin + size) if begin + size < len(items) else ""
        said = {"kind": "EndpointSliceList", "apiVersion": "discovery.k8s.io/v1", "items": items[begin : begin + size],
                "metadata": {"resourceVersion": str(stub.version), "continue": onwards}}
        self._answer(200, json.dumps(said) if stub.said is None else stub.said)

    def _watch(self, query: dict[str, str]) -> None:
        stub, version, generation = self.server.stub, int(query["resourceVersion"]), self.server.stub.generation
        gone = {"kind": "Status", "status": "Failure", "message": "too old resource version", "reason": "Expired",
                "code": 410}
        if version < stub.oldest and not stub.tells_gone_as_event:
            return self._answer(410, json.dumps(gone))
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.flush()
        if version < stub.oldest:
            self._line({"type": "ERROR", "object": gone})
        deadline = time.monotonic() + float(query["timeoutSeconds"])
        while stub.generation == generation and time.monotonic() < deadline:
            news = stub.news(version, generation, deadline)
            for number, event in news:
                if is_of(event["object"], query["labelSelector"]):
                    self._line(event)
                version = number
            if stub.said is not None:
                self._line(json.loads(stub.said))
                break
        return self.wfile.write(b"0\r\n\r\n") and None

    def _line(self, event: Any) -> None:
        data = json.dumps(event).encode() + b"\n"
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def _refuse(self, status: int, message: str) -> None:
        self._answer(status, json.dumps({"kind": "Status", "status": "Failure", "message": message, "code": status}))

    def _answer(self, status: int, text: str) -> None:
        data = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """A test looks at ``asked``."""
