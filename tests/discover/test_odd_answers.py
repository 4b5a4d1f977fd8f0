"""Whatever JSON a server answers with, a source tells servers that gpen takes, or why it does not: nothing else."""

from __future__ import annotations

import copy
import json
import socket
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpen.discover.consul import Consul
from gpen.discover.etcd import Etcd
from gpen.discover.http_client import HttpClient
from gpen.discover.http_source import HttpSource
from gpen.discover.kubernetes import Kubernetes
from gpen.discover.plan import wanted_of
from gpen.discover.source import Found, SourceError
from tests.discover.request import request_of
from tests.harness import Server

PAIR = {"key": "L3dlYi8x", "value": "MTI3LjAuMC4xOjgx"}
SLICE = {"metadata": {"name": "web-1", "resourceVersion": "7"}, "addressType": "IPv4",
         "ports": [{"name": "http", "port": 81}],
         "endpoints": [{"addresses": ["127.0.0.1"], "conditions": {"ready": True, "terminating": False}}]}
ANSWERS: dict[str, tuple[Any, Any]] = {  # what is right: a whole answer, and a line of a watch
    "etcd": ({"header": {"revision": "5"}, "kvs": [PAIR]},
             {"result": {"events": [{"type": "PUT", "kv": PAIR}, {"type": "DELETE", "kv": PAIR}]}}),
    "consul": ([{"Node": {"Node": "n1", "Address": "127.0.0.9"},
                 "Service": {"ID": "web-1", "Address": "127.0.0.1", "Port": 81, "Weights": {"Passing": 1}}}], []),
    "kubernetes": ({"metadata": {"resourceVersion": "5", "continue": ""}, "items": [SLICE]},
                   {"type": "MODIFIED", "object": SLICE}),
}
odd = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    | st.sampled_from(["", "127.0.0.1", "::1", "fe80::1%a b", "MTI3LjAuMC4xOjgxIHdlaWdodCAz", "DELETED", 410, 65536, -1,
                       "[" * 900 + "]" * 900, "a" * 300]),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=3), children, max_size=3),
    max_leaves=5)


def places_in(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The ways to all that a value holds, and to itself."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, part in inside for place in places_in(part, (*path, key)))]


@st.composite
def spoilt(draw: st.DrawFn, right: Any) -> Any:
    """What is right, with something else in up to two places."""
    holder = [copy.deepcopy(right)]
    for _ in range(draw(st.integers(0, 2))):
        *way, last = draw(st.sampled_from(places_in(holder)[1:]))
        inner: Any = holder
        for key in way:
            inner = inner[key]
        inner[last] = draw(odd)
    return holder[0]


def source(kind: str, client: HttpClient) -> HttpSource:
    made: dict[str, Any] = {"etcd": lambda: Etcd("etcd", "/web/", [client]),
                            "consul": lambda: Consul("consul", "web", [client]),
                            "kubernetes": lambda: Kubernetes("kubernetes", "web", "shop", client)}
    return made[kind]()  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", sorted(ANSWERS))
def test_odd_answers(kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    whole, line = ANSWERS[kind]
    said = [b"", b""]

    def serve(client: socket.socket) -> None:
        request = request_of(client)
        body = said[b"watch" in request.split(b"\r\n")[0]]
        client.sendall(b"HTTP/1.1 200 OK\r\nX-Consul-Index: 7\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

    @given(st.tuples(spoilt(whole), spoilt(line)))
    def examine(answers: tuple[Any, Any]) -> None:
        said[:] = [json.dumps(answer).encode() + b"\n" for answer in answers]
        told, stopping = [], threading.Event()

        def tell(found: Sequence[Found]) -> None:
            told.append(wanted_of(found))
            if len(told) == (1 if kind == "consul" else 2):  # which has no second kind of answer
                stopping.set()

        try:
            source(kind, HttpClient(f"http://{server.address}")).watch(tell, stopping)
        except SourceError as error:
            assert 0 < len(str(error)) < 1000
        except ValueError:
            assert kind == "kubernetes"  # wanted_of refuses the whole, which the plan does as well

    with Server(serve) as server:
        examine()
    assert "Traceback" not in capfd.readouterr().err
