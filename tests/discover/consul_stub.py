"""Consul as its public documentation describes the health of a service, with blocking queries: a real HTTP server.

A test changes what there is, and what goes wrong::

    with ConsulStub() as consul:
        consul.register("web", "n1", "127.0.0.1", 81)
        consul.deregister("web", "n1")
        consul.index = 1                    # began anew
        consul.said = "7"                   # this instead of an answer; None: the answer
        consul.headers = {}                 # these instead of its header fields
        consul.status = 500
        consul.is_silent = True             # requests are read, and nothing is said
"""

from __future__ import annotations

import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.harness import PATIENCE


class ConsulStub:
    """An agent that knows some services."""

    def __init__(self, token: str = "", port: int = 0) -> None:
        self.index = 10
        self.services: dict[str, dict[str, dict[str, Any]]] = {}
        self.asked: list[dict[str, str]] = []  # the query of each request, with its path
        self.said: str | None = None
        self.headers: dict[str, str] | None = None
        self.status = 200
        self.is_silent = False
        self.token = token
        self.changed = threading.Condition()
        self._server = _Server(("127.0.0.1", port), _Handler)
        self._server.stub = self
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def __enter__(self) -> ConsulStub:
        return self

    def __exit__(self, *_: object) -> None:
        self.is_silent = False
        self.touch()
        self._server.shutdown()
        self._server.server_close()

    def register(self, service: str, node: str, address: str, port: Any, *, of_node: str = "127.0.0.9",
                 passing: int = 1, tags: tuple[str, ...] = (), status: str = "passing") -> None:
        """An instance on a node, with its weight when it passes, and what its check says."""
        self.services.setdefault(service, {})[node] = {
            "Node": {"ID": f"id-{node}", "Node": node, "Address": of_node, "Datacenter": "dc1", "Meta": None},
            "Service": {"ID": f"{service}-1", "Service": service, "Tags": list(tags), "Address": address,
                        "Port": port, "Weights": {"Passing": passing, "Warning": 1}},
            "Checks": [{"Node": node, "CheckID": "serfHealth", "Status": "passing"},
                       {"Node": node, "CheckID": f"service:{service}", "Status": status, "Output": "ok"}]}
        self.touch()

    def deregister(self, service: str, node: str) -> None:
        del self.services[service][node]
        self.touch()

    def touch(self) -> None:
        """Have blocking queries answered."""
        with self.changed:
            self.index += 1
            self.changed.notify_all()

    def passing(self, service: str, query: dict[str, str], tags: list[str]) -> list[dict[str, Any]]:
        return [it for it in self.services.get(service, {}).values()
                if ("passing" not in query or all(check["Status"] == "passing" for check in it["Checks"]))
                and set(tags) <= set(it["Service"]["Tags"]) and query.get("dc", "dc1") == "dc1"]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    stub: ConsulStub


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        stub, parts = self.server.stub, urlsplit(self.path)
        lists = parse_qs(parts.query, keep_blank_values=True)
        query = {name: values[0] for name, values in lists.items()}
        stub.asked.append({"path": parts.path, **query})
        found = re.fullmatch("/v1/health/service/([^/]+)", parts.path)
        if stub.token and self.headers.get("X-Consul-Token") != stub.token:
            return self._answer(403, "Permission denied: token with AccessorID lacks permission 'service:read'")
        if not found:
            return self._answer(404, "Invalid URL path")
        self._wait(int(query.get("index", 0)), query.get("wait", "300s"))
        said = json.dumps(stub.passing(found[1], query, lists.get("tag", [])))
        return self._answer(stub.status, said if stub.said is None else stub.said)

    def _wait(self, index: int, wait: str) -> None:
        """Until there is something newer than an index, or the time of a query is over."""
        stub, deadline = self.server.stub, time.monotonic() + float(wait.removesuffix("s"))
        with stub.changed:
            stub.changed.wait_for(lambda: index == 0 or stub.index > index or stub.index < index,
                                  max(0.0, deadline - time.monotonic()))
            stub.changed.wait_for(lambda: not stub.is_silent, PATIENCE)

    def _answer(self, status: int, text: str) -> None:
        stub, data = self.server.stub, text.encode()
        fields = {"X-Consul-Index": str(stub.index), "X-Consul-KnownLeader": "true", "X-Consul-LastContact": "0"}
        self.send_response(status)
        for name, value in (fields if stub.headers is None else stub.headers).items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json" if status == 200 else "text/plain")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """A test looks at ``asked``."""
