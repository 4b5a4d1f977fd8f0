"""Whether clients can be served, as load balancers and scripts ask it over HTTP: by the status."""

from __future__ import annotations

from collections.abc import Callable

from tests.door import DOOR, ask, value
from tests.harness import Gpen, Server, hold
from tests.listeners import own

Start = Callable[..., Gpen]
Servers = Callable[..., Server]


def test_the_status_tells(gpen: Start, servers: Servers) -> None:
    """And the text why, as the command; with HEAD too."""
    balancer = gpen(*DOOR, *own("web", "servers 1"), servers=[servers(hold), servers(hold)])
    well = ask(balancer, "/ready")
    assert (well.status, well.headers["content-type"], well.text) == (200, "text/plain; charset=utf-8", "ready\n")
    assert ask(balancer, "/api/ready").json == {"ready": True, "reasons": [], "listeners": {"-": True, "web": True}}
    balancer.ctl("server 1 state maint")
    for path in ("/ready", "/ready?listener=web", "/api/ready", "/api/ready?listener=web"):
        answer, head = ask(balancer, path), ask(balancer, path, "HEAD")
        assert answer.status == head.status == 503, path
        assert "listener web: its only server can't be used: maint" in answer.text, path
        assert (head.text, head.headers["content-length"]) == ("", str(len(answer.text))), path
    assert ask(balancer, "/ready").text == balancer.ctl("ready")
    for path in ("/ready?listener=-", "/api/ready?listener=-"):
        assert ask(balancer, path).status == 200, path


def test_the_metric_says_the_same(gpen: Start, servers: Servers) -> None:
    """For each listener; that no server is full makes no difference."""
    balancer = gpen(*DOOR, *own("web", "servers 1"), servers=[f"{servers(hold).address}:1", servers(hold)])
    with balancer.connect():
        balancer.ctl("server 1 health down")
        assert value(balancer, "gpen_listener_ready", listener="-") == 1
        assert value(balancer, "gpen_listener_ready", listener="web") == 0
        balancer.ctl("server 1 health up")
        assert value(balancer, "gpen_listener_ready", listener="web") == 1


def test_what_makes_no_sense_is_refused(gpen: Start, servers: Servers) -> None:
    balancer = gpen(*DOOR, servers=[servers(hold)])
    for path, words in (("/ready?listener=nowhere", "there is no listener of this name"),
                        ("/ready?name=web", "takes listener, not 'name'"),
                        ("/ready?listener=a%20b", "none of what"), ("/api/ready?listener=x%0Aexit", "none of what")):
        answer = ask(balancer, path)
        assert answer.status == 400 and words in answer.json["error"], path
    assert ask(balancer, "/ready", "POST", "").status == 405
    assert balancer.ctl("ready") == "ready\n"
