"""Agents beside servers: what they say becomes verdicts and weights, and what they don't say changes nothing."""

from __future__ import annotations

import shutil
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.agents import Agent
from tests.daemon.test_verdicts import events, verdict
from tests.harness import ROOT, Gpen, Server, echo, free_port, hold, naming, reset, run_gpen, started, wait_until
from tests.metrics import fetch, samples
from tests.replacing import replacing

Start = Callable[..., Gpen]
Serve = Callable[..., Server]
QUICK = ("-O", "check_interval 0.1")


@pytest.fixture
def agents() -> Iterator[Callable[..., Agent]]:
    """Start an agent: agents("up")."""
    with ExitStack() as stack:
        yield lambda *said, **more: stack.enter_context(Agent(*said, **more))


def says(balancer: Gpen, number: int = 0) -> str | None:
    """All that an agent has said, and counts."""
    agent = balancer.server(number)["agent"]
    return None if agent is None else agent["says"]


WORDS = (  # what it says, how the server is then, and why
    ("down #disk full\n", "down", "its agent says 'down #disk full'"),
    ("stopped\r\n", "down", "its agent says 'stopped'"), ("maint\n", "down", "its agent says 'stopped maint'"),
    ("up drain\n", "drain", "its agent says 'up drain'"), ("ready 0%", "drain", "its agent says 'up ready 0%'"),
    ("UP,50%\nsecond line", "up", ""),
)


def test_words(gpen: Start, servers: Serve, agents: Callable[..., Agent]) -> None:
    """One after the other: the server gets clients where it shall, and events tell why."""
    agent = agents()
    balancer = gpen(*QUICK, "-r", "-O", f"server 0 check agent {agent.port}",
                    servers=[servers(naming("a")), servers(naming("b"))])
    wait_until(lambda: says(balancer) == "up")
    assert (events(balancer), verdict(balancer)) == ([], ("up", "agent", "its agent says 'up'"))
    for line, health, reason in WORDS:
        agent.line, before = line, says(balancer)
        wait_until(lambda before=before: says(balancer) != before)
        row = balancer.server(0)
        assert (row["health"], row["reason"], row["state"]) == (health, reason, "ready")
        assert {balancer.ask() for _ in range(4)} == ({b"a", b"b"} if health == "up" else {b"b"})
    reasons = [reason for _, _, reason in WORDS]
    assert events(balancer) == [("down", reasons[0]), ("drained", reasons[3]), ("up", "its agent says 'up ready 50%'")]


def test_weights_follow(gpen: Start, servers: Serve, agents: Callable[..., Agent]) -> None:
    """A quarter of the weight is a quarter of the clients; of a listener's own weight as well."""
    agent = agents("25%\n")
    balancer = gpen(*QUICK, "-r", "-O", "leastconn", "-O", f"server 0 weight 4 check agent {agent.port}",
                    "-O", "server 1 weight 4", "-O", "listener w listen 127.0.0.1:0",
                    "-O", "listener w server 0 weight 8",
                    servers=[servers(naming("a")), servers(naming("b"))])
    wait_until(lambda: says(balancer) == "25%")
    row = balancer.server(0)
    assert (row["weight"], row["weight_now"], row["health"]) == (4, 1, "up")
    there = next(row for row in balancer.json("listener w servers") if row["number"] == 0)
    assert (there["weight"], there["weight_now"]) == (8, 2)
    assert Counter(balancer.ask() for _ in range(25)) == {b"a": 5, b"b": 20}
    told = balancer.ctl("explain 127.0.0.1")
    assert "(its agent says 25%: weight 1 of 4)" in told
    assert events(balancer) == [("weight", "1 of 4: its agent says '25%'")]
    agent.line = "100%\n"
    wait_until(lambda: says(balancer) == "100%")
    assert Counter(balancer.ask() for _ in range(20)) == {b"a": 10, b"b": 10}


def test_one_that_says_something_else_each_time(gpen: Start, servers: Serve, agents: Callable[..., Agent]) -> None:
    """Loads that go up and down are heeded, but are no events, of which only so many are kept; nor is the log full of
    them, or of what is no answer."""
    agent, other = agents("90%\n"), agents("nonsense 0\n")
    balancer = gpen(*QUICK, "-O", f"server 0 check agent {agent.port}", "-O", f"server 1 check agent {other.port}",
                    servers=[servers(echo), servers(echo)])
    for share in (90, 80, 95, 77, 70, 60, 80, 94, 96, 0, 10):
        agent.line, other.line = f"up {share}% load={share} # load {share}\n", f"nonsense {share}\n"
        wait_until(lambda share=share: says(balancer) == f"up {share}% #load {share}")
        wait_until(lambda share=share: f"'nonsense {share}'" in balancer.server(1)["agent"]["problem"])
    told = [(event, reason.partition(":")[0]) for event, reason in events(balancer)]
    assert told == [("weight", "0.7 of 1"), ("weight", "0.96 of 1"), ("drained", "its agent says 'up 0% #load 0'"),
                    ("up", "its agent says 'up 10% #load 10'")]
    assert balancer.stderr.count("which means nothing here") == balancer.stderr.count("can't be asked") == 1
    assert balancer.stderr.count("by its agent, which says") == 5


@pytest.mark.skipif(shutil.which("socat") is None, reason="socat is not installed")
def test_the_agent_of_the_manual(gpen: Start, servers: Serve, tmp_path: Path) -> None:
    """The script of docs/HEALTH.md, behind its socat."""
    page, file, port = (ROOT / "docs" / "HEALTH.md").read_text(), tmp_path / "maintenance", free_port()
    script = tmp_path / "agent"
    lines = page.partition("    #!/bin/sh\n")[2].partition("\n\n")[0].splitlines()
    text = "\n".join(["#!/bin/sh", *(line[4:] for line in lines), ""])
    script.write_text(text.replace("/run/maintenance", str(file)))
    script.chmod(0o755)
    command = page.partition("    socat ")[2].partition("\n")[0]
    words = command.replace("9777", f"{port},bind=127.0.0.1").replace("/usr/local/bin/gpen-agent", str(script)).split()
    with started(["socat", *words]) as socat:
        balancer = gpen(*QUICK, "-O", f"check connect agent {port}", servers=[servers(echo)])
        wait_until(lambda: (says(balancer) or "").startswith("up ready "))
        assert balancer.server(0)["health"] == "up"
        file.touch()
        wait_until(lambda: balancer.server(0)["health"] == "drain")
        assert balancer.server(0)["reason"].endswith(f"#{file}'")
        file.unlink()
        wait_until(lambda: balancer.server(0)["health"] == "up")
        socat.terminate()


def test_what_is_left_out_stays(gpen: Start, servers: Serve, agents: Callable[..., Agent]) -> None:
    agent = agents("drain #backup\n")
    balancer = gpen(*QUICK, "-O", f"check agent {agent.port}", servers=[servers(echo)])
    wait_until(lambda: balancer.server(0)["health"] == "drain")
    agent.line = "up 50%\n"
    wait_until(lambda: says(balancer) == "up drain 50%")
    assert balancer.server(0)["health"] == "drain"
    agent.line = "ready\n"
    wait_until(lambda: says(balancer) == "up ready 50%")
    assert (balancer.server(0)["health"], balancer.server(0)["weight_now"]) == ("up", 0.5)


@pytest.mark.parametrize("has_gone", [False, True])
def test_no_answer_changes_nothing(gpen: Start, servers: Serve, agents: Callable[..., Agent], has_gone: bool) -> None:
    """Nor does an agent that is gone; the trouble is told once, and that it is over."""
    agent = agents("down #disk\n")
    balancer = gpen(*QUICK, "-O", f"check agent {agent.port}", servers=[servers(echo)])
    wait_until(lambda: balancer.server(0)["health"] == "down")
    if has_gone:
        agent.close()
    for said in ("",) if has_gone else ("", "\n", "HTTP/1.0 400 Bad request\n", "75\n", "x" * 9000):
        agent.line, before = said, balancer.server(0)["agent"]["failed"]
        wait_until(lambda before=before: balancer.server(0)["agent"]["failed"] > before + 2)
        row = balancer.server(0)
        assert (row["health"], row["reason"]) == ("down", "its agent says 'down #disk'")
        assert row["agent"]["problem"] and balancer.stderr.count("can't be asked: ") == 1
    if has_gone:
        agents("up\n", port=agent.port)
    else:
        agent.line = "up\n"
    wait_until(lambda: balancer.server(0)["health"] == "up")
    wait_until(lambda: "answers again" in balancer.stderr)
    assert balancer.server(0)["agent"]["problem"] == ""


def test_a_silent_one_has_its_time(gpen: Start, servers: Serve) -> None:
    server, silent = servers(naming("a")), servers(hold)
    balancer = gpen(*QUICK, "-O", f"check agent {silent.port}", "-O", "check_timeout 0.2", servers=[server])
    wait_until(lambda: balancer.server(0)["agent"]["failed"] > 1)
    assert balancer.server(0)["agent"]["problem"] == "no answer within 0.2 s"
    assert (balancer.server(0)["health"], balancer.ask()) == ("up", b"a")


def test_an_answer_in_pieces_is_one(gpen: Start, servers: Serve) -> None:
    def slowly(sock: socket.socket) -> None:
        for piece in ("7", "5", "% ", "dr", "ain", "\n"):
            sock.sendall(piece.encode())
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.recv(1)

    balancer = gpen(*QUICK, "-O", f"check agent {servers(slowly).port}", servers=[servers(echo)])
    wait_until(lambda: says(balancer) == "drain 75%")


def test_beside_a_check(gpen: Start, agents: Callable[..., Agent]) -> None:
    """The worse of both counts: an agent that says up does not make a dead server well, nor does a good check one
    whose agent says down. Only the check ends a blacklist."""
    agent, port = agents("up\n"), free_port()
    balancer = gpen(*QUICK, "-b", "1000", "-O", f"check connect agent {agent.port}", servers=[f"127.0.0.1:{port}"])
    assert balancer.ask() == b""
    wait_until(lambda: says(balancer) == "up")
    wait_until(lambda: verdict(balancer)[:2] == ("down", "check"))
    assert balancer.server(0)["check"] == f"connect agent {agent.port}"
    with Server(naming("a"), port=port):
        wait_until(lambda: balancer.server(0)["health"] == "up")
        agent.line = "down\n"
        wait_until(lambda: verdict(balancer)[:2] == ("down", "agent"))
        assert balancer.ask() == b""
        agent.line = "up\n"
        wait_until(lambda: balancer.server(0)["health"] == "up")
        assert balancer.ask() == b"a"


def test_an_agent_s_up_ends_no_blacklist(gpen: Start, agents: Callable[..., Agent]) -> None:
    agent = agents("down\n")
    balancer = gpen(*QUICK, "-O", f"check agent {agent.port}", servers=[f"127.0.0.1:{free_port()}"])
    wait_until(lambda: balancer.server(0)["health"] == "down")
    balancer.ctl("server 0 blacklist 1000")
    agent.line = "up\n"
    wait_until(lambda: says(balancer) == "up")
    assert balancer.server(0)["reason"] == "blacklisted by a command"


@pytest.mark.parametrize(("line", "on_down", "closes"), [
    ("down\n", "close", True), ("maint\n", "close", True), ("drain\n", "close", False), ("down\n", "keep", False)])
def test_sessions(gpen: Start, servers: Serve, agents: Callable[..., Agent], line: str, on_down: str, closes: bool,
                  ) -> None:
    agent = agents("up\n")
    balancer = gpen(*QUICK, "-O", f"on_down {on_down}", "-O", f"check agent {agent.port}", servers=[servers(echo)])
    wait_until(lambda: says(balancer) == "up")
    with balancer.connect() as client:
        client.sendall(b"x")
        assert client.recv(1) == b"x"
        agent.line = line
        wait_until(lambda: balancer.server(0)["health"] != "up")
        if not closes:
            client.sendall(b"y")
        assert client.recv(1) == (b"" if closes else b"y")


def test_by_a_command(gpen: Start, servers: Serve) -> None:
    """What an agent would say, until it says otherwise; the operator's word is another's."""
    balancer = gpen("-O", "check_interval 1000", servers=[servers(naming("a"))])
    assert balancer.ctl('server 0 answered "down #by hand"') == ""
    assert verdict(balancer) == ("down", "agent", "its agent says 'down #by hand'")
    assert balancer.ask() == b""
    assert 'server 0 answered "down #by hand" for ' in balancer.ctl("state")
    balancer.ctl('server 0 answered "up maint"', "server 0 state ready")
    assert verdict(balancer)[0] == "down"
    balancer.ctl("server 0 answered unknown")
    assert verdict(balancer) == (None, None, None) and balancer.ask() == b"a"
    assert balancer.ctl("server 0 answered maybe").startswith("error: server: answered: 'maybe' is no answer")


def test_who_says_the_same_by_command_is_told_first(gpen: Start, servers: Serve, agents: Callable[..., Agent]) -> None:
    """A program that has drained a server finds its word there, whatever the agent has said before."""
    agent = agents("drain\n")
    balancer = gpen(*QUICK, "-O", f"check agent {agent.port}", servers=[servers(echo)])
    wait_until(lambda: verdict(balancer)[0] == "drain")
    balancer.ctl("server 0 health drain because gpen-discover")
    assert verdict(balancer) == ("drain", "command", "gpen-discover")
    balancer.ctl("server 0 health unknown")
    assert verdict(balancer) == ("drain", "agent", "its agent says 'drain'")


def test_one_that_is_asked_no_more_counts_no_more(gpen: Start, servers: Serve, agents: Callable[..., Agent]) -> None:
    agent, other = agents("drain 50%\n"), agents("75%\n")
    balancer = gpen(*QUICK, "-O", f"check agent {agent.port}", servers=[servers(echo)])
    wait_until(lambda: says(balancer) == "drain 50%")
    balancer.ctl(f"server 0 check agent {other.port}")
    wait_until(lambda: says(balancer) == "75%")
    assert balancer.server(0)["health"] == "up"
    balancer.ctl("server 0 check off")
    wait_until(lambda: says(balancer) is None)
    assert (balancer.server(0)["weight_now"], verdict(balancer)) == (1, (None, None, None))


def test_a_server_that_moves_has_another(gpen: Start, servers: Serve, agents: Callable[..., Agent]) -> None:
    agent = agents("drain 50%\n")
    balancer = gpen(*QUICK, "-O", f"check agent {agent.port}", servers=[servers(echo)])
    wait_until(lambda: says(balancer) == "drain 50%")
    assert balancer.ctl("server 0 address 127.0.0.2:1") == ""  # where no agent is
    row = wait_until(lambda: balancer.server(0)["agent"]["problem"] and balancer.server(0))
    assert (row["health"], row["weight_now"], row["agent"]["says"]) == ("up", 1, "")


def test_what_is_written(gpen: Start, servers: Serve, agents: Callable[..., Agent], tmp_path: Path) -> None:
    """And read again."""
    agent, server = agents("25%\n"), servers(echo)
    file = tmp_path / "gpen.cfg"
    file.write_text(f"server 0 address {server.address}\n")
    balancer = gpen(*QUICK, "-F", str(file))
    words = f"weight 8 check connect agent {agent.port} check_port {server.port}"
    file.write_text(f"server 0 address {server.address} {words}\n")
    assert f"check connect agent {agent.port}" in balancer.ctl("reload")
    wait_until(lambda: balancer.server(0)["weight_now"] == 2)
    balancer.ctl(f"write {tmp_path}/written")
    written = (tmp_path / "written").read_text()
    assert words in written and "answered" not in written


def test_with_workers(gpen: Start, servers: Serve, agents: Callable[..., Agent]) -> None:
    agent = agents("25%\n")
    balancer = gpen(*QUICK, "-r", "-O", "workers 2", "-O", "leastconn", "-O", f"server 0 check agent {agent.port}",
                    servers=[servers(naming("a")), servers(naming("b"))])
    wait_until(lambda: says(balancer) == "25%")
    counts = Counter(balancer.ask() for _ in range(50))
    assert 7 <= counts[b"a"] <= 13


def test_another_gpen_goes_on_with_it(gpen: Start, servers: Serve, agents: Callable[..., Agent]) -> None:
    """An agent that is gone can't say it again."""
    agent = agents("drain 50% #backup\n")
    balancer = gpen(*QUICK, "-O", f"check connect agent {agent.port}", servers=[servers(echo)])
    wait_until(lambda: says(balancer) == "drain 50% #backup")
    agent.close()
    wait_until(lambda: balancer.server(0)["agent"]["problem"])
    with replacing(balancer) as new:
        row = new.server(0)
        assert (row["health"], row["reason"], row["weight_now"]) == (
            "drain", "its agent says 'drain 50% #backup'", 0.5)


def test_metrics(gpen: Start, servers: Serve, agents: Callable[..., Agent]) -> None:
    agent = agents("up 150%\n")
    balancer = gpen(*QUICK, "-O", "metrics 127.0.0.1:0", "-O", f"server 0 weight 2 check agent {agent.port}",
                    servers=[servers(echo)])
    wait_until(lambda: balancer.server(0)["agent"]["answered"] > 1)
    told = samples(fetch(int(balancer.ctl("metrics").rpartition(":")[2])))
    assert (told['gpen_server_weight{server="0"}'], told['gpen_server_weight_now{server="0"}']) == (2, 3)
    assert told['gpen_server_agent_checks_total{server="0",result="answered"}'] > 1


def test_a_unix_socket_has_no_port() -> None:
    for line in ("server 1 check_port 80", "server 0 check_port 80 address /nowhere.sock"):
        done = run_gpen("--check", "-O", "server 1 address /nowhere.sock", "-O", line, "127.0.0.1:0", "127.0.0.1:1")
        assert done.returncode == 2 and "is the unix socket /nowhere.sock, which has no" in done.stderr, done.stderr


def test_what_has_no_effect() -> None:
    done = run_gpen("--check", "-O", "check connect agent 7", "-O", "check_port 8", "127.0.0.1:0", "/nowhere.sock")
    assert "check connect agent 7 has no effect on server 0: the agent of a unix socket" in done.stderr
    assert "check_port 8 has no effect on server 0: it is a unix socket, which has no port" in done.stderr
    done = run_gpen("--check", "-O", "check_port 8", "127.0.0.1:0", "127.0.0.1:1")
    assert "check_port 8 has no effect: no server is checked" in done.stderr


def test_resets_are_no_answer(gpen: Start, servers: Serve) -> None:
    balancer = gpen(*QUICK, "-O", f"check agent {servers(reset).port}", servers=[servers(naming("a"))])
    wait_until(lambda: balancer.server(0)["agent"]["failed"] > 1)
    assert (balancer.server(0)["health"], balancer.ask()) == ("up", b"a")
