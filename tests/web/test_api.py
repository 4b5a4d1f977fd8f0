"""JSON over HTTP: the control language's own, and nothing of it that changes anything."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest

from gpen.web.application import ACTIONS, LOOKING, arguments_of
from tests.door import DOOR, Connection, ask, asked
from tests.harness import (
    COMMAND,
    Gpen,
    Server,
    connect,
    echo,
    free_port,
    hold,
    needs_root,
    pair_of,
    read_all,
    wait_until,
)

Start = Callable[..., Gpen]
Servers = Callable[..., Server]
TOKEN = "a-token-that-is-long-enough"


def steady(reply: object) -> object:
    """A reply without what changes from one moment to the next."""
    if isinstance(reply, list):
        return [steady(row) for row in reply]
    if isinstance(reply, dict):
        return {key: value for key, value in reply.items() if key not in (
            "for", "idle", "age", "uptime", "blacklisted", "verdict_for", "workers")}
    return reply


def test_each_command_that_looks_is_there(gpen: Start, servers: Servers) -> None:
    balancer = gpen(*DOOR, servers=[servers(hold)])
    with balancer.connect():
        wait_until(lambda: balancer.json("sessions"))
        given = {"address": "127.0.0.1", "n": "0", "seconds": "60", "listener": "-"}
        for command in LOOKING:
            arguments = {name: given[name] if command.name != "events" else "5" for name in arguments_of(command)
                         if name in given}
            line = " ".join([command.name, *arguments.values()])
            query = "&".join(f"{name}={word}" for name, word in arguments.items())
            answer = ask(balancer, f"/api/{command.name}?{query}")
            assert (answer.status, answer.headers["content-type"]) == (200, "application/json"), command.name
            assert steady(answer.json) == steady(balancer.json(line)), command.name
    assert {command.name for command in LOOKING} >= {"info", "servers", "sessions", "listeners", "events", "explain"}


def test_what_there_is_is_told(gpen: Start, servers: Servers) -> None:
    index = ask(gpen(*DOOR, servers=[servers(echo)]), "/api").json
    assert index["/api/explain"]["arguments"] == ["address", "sni", "alpn", "host", "listener"]
    assert index["/api/info"]["arguments"] == []
    assert all(entry["help"] for entry in index.values())


def test_of_one_listener(gpen: Start, servers: Servers) -> None:
    balancer = gpen(*DOOR, "-O", "listener web listen 127.0.0.1:0", "-O", "listener web servers 1",
                    servers=[servers(echo), servers(echo)])
    assert [row["number"] for row in ask(balancer, "/api/servers?listener=web").json] == [1]
    assert ask(balancer, "/api/explain?address=10.0.0.1&listener=web").json["server"] == 1
    assert ask(balancer, "/api/servers?listener=nowhere").status == 400
    balancer.ctl("listener web route sni a.example reject", "listener web route alpn http/1.1 servers 0")
    told = [ask(balancer, f"/api/explain?address=10.0.0.1&listener=web&{asked}").json
            for asked in ("sni=a.example", "alpn=http/1.1", "host=x")]
    assert [(row["route"], row["server"]) for row in told] == [
        ("sni a.example", None), ("alpn http/1.1", 0), ("default", 1)]


NONSENSE = (
    ("/api/explain", 400, "ADDRESS"),
    ("/api/explain?address=rubbish", 400, "rubbish"),
    ("/api/explain?address=10.0.0.1%20json%0Aserver%200%20state%20drain", 400, "none of what"),
    ("/api/explain?address=" + quote('"10.0.0.1"'), 400, "none of what"),
    ("/api/events?n=-1", 400, "-1"),
    ("/api/events?n=1%0D%0Aexit", 400, "none of what"),
    ("/api/events?count=1", 400, "takes n, listener, not 'count'"),
    ("/api/info?listener=web", 400, "takes no listener"),
    ("/api/servers?listener=a%20servers%200%0A", 400, "none of what"),
    ("/api/exit", 404, "/api lists"),
    ("/api/server", 404, "/api lists"),
    ("/api/write", 404, "/api lists"),
    ("/api/../metrics", 404, "/api lists"),
    ("/rubbish", 404, "there is nothing"),
)


def test_what_makes_no_sense_is_refused(gpen: Start, servers: Servers) -> None:
    """And changes nothing."""
    balancer = gpen(*DOOR, servers=[servers(echo)])
    before = balancer.ctl("state")
    for path, status, words in NONSENSE:
        answer = ask(balancer, path)
        assert answer.status == status and words in answer.json["error"], path
        assert balancer.ctl("state") == before and balancer.server(0)["state"] == "ready", path


def test_methods(gpen: Start, servers: Servers) -> None:
    balancer = gpen(*DOOR, servers=[servers(echo)])
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        answer = ask(balancer, "/api/servers", method, "")
        assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")
    assert ask(balancer, "/api/control").status == 405
    for path in ("/", "/api/servers"):
        head, size = ask(balancer, path, "HEAD"), len(ask(balancer, path).text.encode())
        assert (head.status, head.text) == (200, "") and abs(int(head.headers["content-length"]) - size) < 9
    assert int(ask(balancer, "/metrics", "HEAD").headers["content-length"]) > 1000


def test_what_a_browser_is_told(gpen: Start, servers: Servers) -> None:
    """Nothing from elsewhere runs in the page, nobody else's page shows this one, and no proxy keeps it."""
    balancer = gpen(*DOOR, servers=[servers(echo)])
    for path in ("/", "/page.js", "/page.css", "/api/servers", "/metrics", "/nowhere"):
        headers = ask(balancer, path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
        assert headers["cache-control"] == "no-store" and headers["x-content-type-options"] == "nosniff"
        assert "set-cookie" not in headers and "access-control-allow-origin" not in headers


def test_several_requests_on_a_connection(gpen: Start, servers: Servers) -> None:
    balancer = gpen(*DOOR, servers=[servers(echo)])
    with contextlib.closing(Connection(balancer)) as connection:
        for path in ("/api/info", "/nowhere", "/metrics", "/api/servers"):
            assert asked(connection, path).status in (200, 404)


def test_rubbish_and_slow_clients_harm_nobody(gpen: Start, servers: Servers) -> None:
    balancer = gpen(*DOOR, servers=[servers(echo)])
    place = pair_of(balancer.ctl("metrics").strip())
    with contextlib.ExitStack() as stack:
        for text in (b"\x16\x03\x01\x02\x00rubbish\r\n\r\n", b"GET", b"GET / HTTP/9.9\r\n\r\n", b"A" * 100_000,
                     b"GET /metrics HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 20_000,
                     b"POST /api/control HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
                     b"POST /api/control HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n"):
            sock = stack.enter_context(connect(place))
            with contextlib.suppress(OSError):
                sock.sendall(text)
        assert ask(balancer, "/api/info").status == 200
    assert balancer.ask(b"hello") == b"hello"


# --- acting ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def token(tmp_path: Path) -> Path:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    file.chmod(0o600)
    return file


def act(balancer: Gpen, action: str, number: int, token: str = TOKEN, **more: str) -> tuple[int, str]:
    answer = ask(balancer, "/api/control", "POST", json.dumps({"action": action, "number": number, **more}),
                 Authorization=f"Bearer {token}")
    return answer.status, answer.json.get("error", "")


def test_actions(gpen: Start, servers: Servers, token: Path) -> None:
    balancer = gpen(*DOOR, "-O", f"metrics_token {token}", "-O", "metrics_control on", servers=[servers(hold)])
    assert balancer.json("info")["control"] is True
    with balancer.connect() as sock:
        (session,) = wait_until(lambda: balancer.json("sessions"))
        assert act(balancer, "close", session["id"]) == (200, "")
        assert read_all(sock) == b""
    for action, state in (("drain", "drain"), ("maint", "maint"), ("ready", "ready")):
        assert act(balancer, action, 0) == (200, "")
        assert balancer.server(0)["state"] == state
    assert "server 0 state maint" in balancer.stderr  # who did what is told
    status, error = act(balancer, "drain", 7)
    assert status == 400 and "7" in error
    for body in ("", "rubbish", "[]", "[" * 1000, '{"action": "exit", "number": 0}', '{"action": [], "number": 0}',
                 '{"action": "drain", "number": "0 max 1"}', '{"action": "drain", "number": true}',
                 '{"action": "drain"}', '{"action": "drain", "number": 0, "at": 5}',
                 '{"action": "drain", "number": 0, "at": "127.0.0.1:1\\nexit"}',
                 '{"action": "close", "number": 0, "at": "127.0.0.1:1"}'):
        answer = ask(balancer, "/api/control", "POST", body, Authorization=f"Bearer {TOKEN}")
        assert answer.status == 400 and "expected" in answer.json["error"]
    assert ask(balancer, "/api/control", "POST", "x" * 2000, Authorization=f"Bearer {TOKEN}").status == 413
    assert balancer.server(0)["state"] == "ready"
    assert set(ACTIONS) == {"drain", "maint", "ready", "close"}


def test_an_action_is_for_the_server_at_an_address(gpen: Start, servers: Servers, token: Path, tmp_path: Path) -> None:
    """The number may be another server's by then; an address may be a path with whatever in it."""
    place = tmp_path / 'a "server" # of mine'
    one = servers(echo, at=str(place))
    balancer = gpen(*DOOR, "-O", f"metrics_token {token}", "-O", "metrics_control on", servers=[servers(hold), one])
    assert act(balancer, "drain", 1, at=one.address) == (200, "")
    assert balancer.server(1)["state"] == "drain"
    status, error = act(balancer, "drain", 0, at=one.address)
    assert status == 400 and "nothing is changed" in error
    status, error = act(balancer, "maint", 1, at="rubbish:rubbish")
    assert status == 400 and "rubbish" in error
    assert [balancer.server(n)["state"] for n in (0, 1)] == ["ready", "drain"]


def test_nobody_acts_without_the_token(gpen: Start, servers: Servers, token: Path) -> None:
    balancer = gpen(*DOOR, "-O", f"metrics_token {token}", "-O", "metrics_control on", servers=[servers(echo)])
    body = json.dumps({"action": "drain", "number": 0})
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {TOKEN}"},
                    {"Authorization": f"Bearer {TOKEN[:-1]}"}, {"Cookie": f"token={TOKEN}"}):
        answer = ask(balancer, f"/api/control?token={TOKEN}", "POST", body, **headers)
        assert answer.status == 401 and answer.headers["www-authenticate"] == "Bearer"
    assert balancer.server(0)["state"] == "ready"
    for other in ("ein-ungewöhnliches-Wörtchen", "\udcff" * 16):  # as its bytes
        token.write_text(other, errors="surrogateescape")
        assert act(balancer, "ready", 0, other.encode(errors="surrogateescape").decode("latin-1")) == (
            (200, "") if other.isprintable() else (403, act(balancer, "ready", 0)[1]))
    token.write_text("another-token-of-enough-letters")  # it counts at once
    assert act(balancer, "drain", 0)[0] == 401
    assert act(balancer, "drain", 0, "another-token-of-enough-letters")[0] == 200


def test_a_token_that_is_none(gpen: Start, servers: Servers, token: Path) -> None:
    """Nobody acts with one that is too short, two words, for everybody to read, or not there; nor can actions be
    switched on."""
    balancer = gpen(*DOOR, "-O", f"metrics_token {token}", "-O", "metrics_control on", servers=[servers(echo)])

    def check(words: str, content: str = "") -> None:
        status, error = act(balancer, "drain", 0, content)
        assert status == 403 and words in error
        said = balancer.ctl("metrics_control off", "metrics_control on").removeprefix("off\n")
        assert said.startswith("error: metrics_token: ") and str(token) in said and words in said
        assert balancer.ctl("metrics_control") == "off\n"
        token.write_text(TOKEN)
        token.chmod(0o600)
        assert balancer.ctl("metrics_control on") == "on\n"

    for content, words in (("short", "at least 16"), ("two words that are long", "one word"), ("", "at least 16")):
        token.write_text(content)
        check(words, content)
    token.chmod(0o644)
    check("chmod o-r", TOKEN)
    token.unlink()
    check("No such file")
    assert balancer.server(0)["state"] == "ready"


def test_a_token_that_is_none_at_the_start(token: Path) -> None:
    """gpen does not start, and --check says the same."""
    token.chmod(0o644)
    for option in ("-f", "--check"):
        done = subprocess.run([*COMMAND, option, "-O", f"metrics_token {token}", "-O", "metrics_control on", *DOOR,
                               "127.0.0.1:0", "127.0.0.1:1"], capture_output=True, text=True, timeout=20, check=False)
        told = f"gpen: metrics_token: '{token}': everybody can read its file: chmod o-r\n"
        assert (done.returncode, done.stderr) == (2, told)


def test_actions_are_off_unless_asked_for(gpen: Start, servers: Servers, token: Path) -> None:
    balancer = gpen(*DOOR, "-O", f"metrics_token {token}", servers=[servers(echo)])
    assert act(balancer, "drain", 0) == (403, "actions are off: the setting metrics_control is")
    assert balancer.json("info")["control"] is False
    assert balancer.ctl("no metrics_token", "metrics_control on").startswith("error: metrics_control: who may act?")
    assert balancer.ctl(f"metrics_token {token}", "metrics_control on", "no metrics_token").count("error") == 1
    assert act(balancer, "drain", 0)[0] == 200


# --- the door itself ------------------------------------------------------------------------------------------------


def is_closed(place: tuple[str, int] | str) -> bool:
    try:
        connect(place).close()
    except OSError:
        return True
    return False


def test_it_opens_moves_and_closes_at_runtime(gpen: Start, servers: Servers, tmp_path: Path) -> None:
    balancer = gpen(servers=[servers(echo)])
    assert balancer.ctl("metrics") == ""
    first = balancer.ctl("metrics 127.0.0.1:0").strip()
    assert ask(balancer, "/api/info").status == 200
    assert balancer.ctl(f"metrics {tmp_path}/door") == f"{tmp_path}/door\n"
    assert is_closed(pair_of(first)) and ask(balancer, "/metrics").status == 200
    assert (tmp_path / "door").stat().st_mode & 0o777 == 0o660
    with socket.create_server(("127.0.0.1", 0)) as taken:
        said = balancer.ctl(f"metrics 127.0.0.1:{taken.getsockname()[1]}")
    assert said.startswith("error: can't listen on")
    assert balancer.ctl("metrics rubbish:port").startswith("error")
    assert ask(balancer, "/metrics").status == 200
    balancer.ctl("no metrics")
    assert is_closed(f"{tmp_path}/door") and not (tmp_path / "door").exists()
    balancer.ctl(f"metrics {tmp_path}/door")
    assert balancer.stop() == 0 and not (tmp_path / "door").exists()


def test_it_is_written_and_reloaded(gpen: Start, servers: Servers, tmp_path: Path) -> None:
    port, file = free_port(), tmp_path / "gpen.cfg"
    file.write_text(f"server 0 address {servers(echo).address}\nlisten 127.0.0.1:0\n")
    balancer = Gpen(tmp_path, "-F", str(file))
    with balancer:
        file.write_text(f"{file.read_text()}metrics 127.0.0.1:{port}\n")
        assert f"metrics 127.0.0.1:{port}" in balancer.ctl("reload")
        assert ask(balancer, "/metrics").status == 200
        balancer.ctl("write")
        assert f"metrics 127.0.0.1:{port}\n" in file.read_text()


def test_who_may_come_in(gpen: Start, servers: Servers) -> None:
    balancer = gpen(*DOOR, servers=[servers(echo)])
    balancer.ctl("acl 3 permit 127.0.0.5", "metrics_acl 3")
    place = pair_of(balancer.ctl("metrics").strip())
    with connect(place, "127.0.0.5") as sock:
        sock.sendall(b"GET /api/info HTTP/1.0\r\n\r\n")
        assert read_all(sock).startswith(b"HTTP/1.1 200")
    with connect(place, "127.0.0.6") as sock:
        sock.sendall(b"GET /api/info HTTP/1.0\r\n\r\n")
        assert read_all(sock) == b""


def test_without_a_host_it_is_local(gpen: Start, servers: Servers) -> None:
    port = free_port()
    balancer = gpen("-O", f"metrics {port}", servers=[servers(echo)])
    with connect(("127.0.0.1", port)):
        assert is_closed(("127.0.0.2", port))
    assert ask_at(("127.0.0.1", port)).startswith(b"HTTP/1.1 200") and balancer.pid


def ask_at(place: tuple[str, int]) -> bytes:
    with connect(place) as sock:
        sock.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        return read_all(sock)


@needs_root
def test_within_a_chroot_as_a_user(gpen: Start, servers: Servers, tmp_path: Path) -> None:
    """What it needs was loaded before."""
    balancer = gpen("-j", str(tmp_path), "-u", "nobody", servers=[servers(echo)])
    balancer.ctl("metrics 127.0.0.1:0")
    assert "gpen_sessions 0" in ask(balancer, "/metrics").text
    assert ask(balancer, "/").status == 200
