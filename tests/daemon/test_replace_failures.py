"""A gpen that shall take the place of another fails, at whatever step: the one that runs goes on as if nothing had
been, and all that the other leaves is a line and an exit status."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from gpen.daemon.handover import SERVING_SECONDS
from gpen.wire.passing import PassingError
from tests.harness import (
    COMMAND,
    LOCAL,
    ROOT,
    Gpen,
    Server,
    echo,
    needs_root,
    open_to_all,
    run_gpen,
    started,
    wait_until,
)
from tests.replacing import Pretender, descriptors_unchanged, replacing

Start = Callable[..., Gpen]
Servers = Callable[..., Server]

NOTHING = "gpen: --replace: there is no gpen to replace at "


@pytest.fixture
def balancer(gpen: Start, servers: Servers) -> Iterator[Gpen]:
    """One with a session that began before, which goes on at the end; and all else is as it was."""
    running = gpen("-p", "gpen.pid", "-O", f"listener web listen {LOCAL}", servers=[servers(echo)])
    with descriptors_unchanged(running), running.connect() as sock:
        sock.sendall(b"before")
        assert sock.recv(100) == b"before"
        yield running
        wait_until(lambda: running.ask(b"behind") == b"behind")
        for row in running.json("listeners"):
            host, _, port = row["address"].rpartition(":")
            with socket.create_connection((host, int(port))) as other:
                other.sendall(b"each")
                assert other.recv(100) == b"each"
        assert (running.directory / "gpen.pid").read_text() == f"{running.pid}\n"
        assert running.ctl("pid") == f"{running.pid}\n"
        assert not Path(f"{running.control}.old").exists()
        sock.sendall(b"after")
        assert sock.recv(100) == b"after"
        sock.close()
        running.wait_idle()
    assert "Traceback" not in running.stderr


# --- nothing to replace -----------------------------------------------------------------------------------------------


def test_it_needs_a_control_socket() -> None:
    done = run_gpen("--replace", "-f", LOCAL, "127.0.0.1:1")
    assert (done.returncode, done.stderr) == (
        2, "gpen: --replace: needs the control socket of the gpen that runs: give -C PATH\n")


def test_no_descriptor_passes_over_a_port() -> None:
    done = run_gpen("--replace", "-f", "-u", "nobody", "-C", "127.0.0.1:4444", LOCAL, "127.0.0.1:1")
    assert (done.returncode, done.stderr) == (
        2, "gpen: --replace: sockets pass over a control socket that is a file only, and this is '127.0.0.1:4444': "
           "give -C /PATH\n")


def test_nobody_is_there(tmp_path: Path) -> None:
    path = tmp_path / "gpen.ctl"
    done = run_gpen("--replace", "-f", "-C", str(path), LOCAL, "127.0.0.1:1")
    assert (done.returncode, done.stderr) == (1, f"{NOTHING}'{path}': No such file or directory\n")
    with closing(socket.socket(socket.AF_UNIX)) as sock:
        sock.bind(str(path))
    done = run_gpen("--replace", "-f", "-C", str(path), LOCAL, "127.0.0.1:1")
    assert (done.returncode, done.stderr) == (1, f"{NOTHING}'{path}': Connection refused\n")
    assert path.exists()


def test_another_program_is_there(tmp_path: Path) -> None:
    """One that does not know the command, or says nothing and ends."""
    path = tmp_path / "gpen.ctl"
    for reply, said in ((b"do_cmd: ignoring command starting with 'handover'\n",
                         "do_cmd: ignoring command starting with 'handover'"), (b"", "it closes")):
        with closing(socket.socket(socket.AF_UNIX)) as listener:
            listener.bind(str(path))
            listener.listen()
            with started([*COMMAND, "--replace", "-f", "-C", str(path), LOCAL, "127.0.0.1:1"],
                         stderr=subprocess.PIPE) as process:
                with listener.accept()[0] as sock:
                    assert sock.recv(100).startswith(b"handover 1 ")
                    sock.sendall(reply)
                _, stderr = process.communicate(timeout=20)
        path.unlink()
        assert process.returncode == 1
        assert stderr.decode() == f"gpen: --replace: the gpen at '{path}' does not hand over: {said}\n"


@needs_root
def test_a_control_port_hands_nothing_over(gpen: Start, servers: Servers, tmp_path: Path) -> None:
    balancer = gpen("-u", "nobody", servers=[servers(echo)], control="127.0.0.1:4445")
    assert balancer.ctl("handover 1 0").startswith("error: handover: descriptors pass over a control socket that is a ")
    assert balancer.ctl("upgrade").startswith("error: upgrade: needs a control socket that is a file")


@needs_root
def test_another_user(balancer: Gpen) -> None:
    """Who may connect, for the file has that mode, but is neither root nor who gpen runs as."""
    balancer.ctl("control_mode 0666")
    open_to_all(balancer.directory)
    os.seteuid(65534)
    try:
        other = Pretender(balancer)
    finally:
        os.seteuid(0)
    assert other.reply == ("error: handover: it runs as user 0, and hands over to that one or root, not to user "
                           "65534\n")


# --- it fails by itself -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("arguments", "status", "said"), [
    (("-O", "timeout never"), 2, "timeout: 'never' is not a number of seconds"),
    (("-l", "/"), 1, "Is a directory"),
    (("-E", "missing.pem"), 2, "missing.pem"),
    (("-O", "listener other listen 192.0.2.1:80"), 1, "this machine does not have that address"),
    (("-O", "check exec /nowhere/check"), 2, "/nowhere/check"),
])
def test_it_can_not_start(balancer: Gpen, arguments: tuple[str, ...], status: int, said: str) -> None:
    done = run_gpen("--replace", "-f", "-C", balancer.control, *arguments, *balancer.arguments,
                    directory=balancer.directory)
    assert done.returncode == status
    (line,) = done.stderr.splitlines()
    assert line.startswith("gpen: ") and said in line


def fault(directory: Path, place: str, action: str) -> dict[str, str]:
    """The environment of a gpen that does this where it would call that method."""
    module, _, method = place.partition(":")
    (directory / "sitecustomize.py").write_text(f"""
import os, signal, gpen.{module} as module

def instead(*arguments, **more):
    {action}

module.{method} = instead
""")
    return {**os.environ, "PYTHONPATH": f"{directory}:{ROOT}"}


@pytest.mark.parametrize("place", [
    "daemon.inheritance:Inheritance._read_estate", "daemon.balancer:Balancer.open",
    "daemon.inheritance:Inheritance.ready", "daemon.takeover:Takeover._take",
    "daemon.inheritance:Inheritance.confirm"])
@pytest.mark.parametrize(("action", "status"), [
    ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL), ("raise RuntimeError('on purpose')", 1)])
def test_it_dies_on_the_way(balancer: Gpen, tmp_path: Path, place: str, action: str, status: int) -> None:
    """Killed, or with an exception of its own: before it is ready, and between that and its word that it serves."""
    command = [*COMMAND, "--replace", "-f", "-C", balancer.control, *balancer.arguments]
    done = subprocess.run(command, capture_output=True, env=fault(tmp_path, place, action), cwd=balancer.directory,
                          timeout=20, check=False)
    assert done.returncode == status
    wait_until(lambda: "; this gpen goes on" in balancer.stderr)


# --- what a running one makes of others -------------------------------------------------------------------------------


def test_who_asks_and_leaves(balancer: Gpen) -> None:
    parting = "does not take over: it has ended; this gpen goes on"
    with Pretender(balancer):
        pass
    wait_until(lambda: balancer.stderr.count(parting) == 1)
    with Pretender(balancer) as other:
        assert {message.kind for message in other.listen()} == {
            "start", "running", "listener", "control", "pid", "end"}
    wait_until(lambda: balancer.stderr.count(parting) == 2)


def test_who_is_ready_and_leaves(balancer: Gpen) -> None:
    with Pretender(balancer) as other:
        other.listen()
        other.ready("", "web")
        assert other.listen()[-1].kind == "end"
    wait_until(lambda: "; this gpen goes on" in balancer.stderr)


def test_who_comes_meanwhile_is_served_when_it_goes_on(balancer: Gpen) -> None:
    """Between its word that it is ready and its end nobody is accepted, and nobody turned away. Changes wait; after
    that they are made."""
    with Pretender(balancer) as other:
        other.listen()
        other.ready("", "web")
        other.listen()
        sock = balancer_socket(balancer)
        sock.sendall(b"early")
    with sock:
        assert sock.recv(100) == b"early"
    assert balancer.ctl("timeout 7") == "7\n"


def balancer_socket(balancer: Gpen) -> socket.socket:
    """A client at the listener without a name, which need not be asked for now."""
    place = next(line for line in balancer.stderr.splitlines() if "listens on" in line).split("listens on ")[1]
    host, _, port = place.split(",")[0].rpartition(":")
    return socket.create_connection((host, int(port)), 10)


def test_who_is_ready_and_hangs(balancer: Gpen) -> None:
    """Five seconds; then its late word counts no more: its line has ended."""
    with Pretender(balancer) as other:
        other.listen()
        other.ready("", "web")
        other.listen()
        wait_until(lambda: "it says nothing for 5 s; this gpen goes on" in balancer.stderr)
        assert other.channel is not None
        with pytest.raises(PassingError, match="it has ended"):
            other.say("serving")


def test_who_says_what_makes_no_sense(balancer: Gpen) -> None:
    with Pretender(balancer) as other:
        other.listen()
        other.say("serving")
        wait_until(lambda: "it says 'serving' where 'ready' was expected; this gpen goes on" in balancer.stderr)


def test_another_protocol(balancer: Gpen) -> None:
    with Pretender(balancer, protocol=7) as other:
        assert other.reply == ("error: handover: gpen 0.1.0 hands over by protocol 1, and gpen 0.0 asks by 7: stop the "
                               "one and start the other\n")


def test_one_at_a_time(balancer: Gpen) -> None:
    with Pretender(balancer) as other:
        with Pretender(balancer) as second:
            assert second.reply == "error: handover: another is about to replace it\n"
        done = run_gpen("--replace", "-f", "-C", balancer.control, *balancer.arguments, directory=balancer.directory)
        assert done.returncode == 1
        assert done.stderr == (f"gpen: --replace: the gpen at '{balancer.control}' does not hand over: handover: "
                               "another is about to replace it\n")
        assert other.channel is not None


def test_a_reload_and_changes_while_it_gets_ready(gpen: Start, servers: Servers, tmp_path: Path) -> None:
    """They are made, and told when it is ready."""
    server = servers(echo)
    balancer = gpen(servers=[server])
    with ExitStack() as stack:
        other = stack.enter_context(Pretender(balancer))
        other.listen()
        balancer.ctl("reload")
        assert balancer.ctl("timeout 7") == "7\n"
        other.ready("")
        messages = other.listen()
        lines = [line for message in messages if message.kind == "running" for line in message["lines"]]
        assert "timeout 7" in lines
    wait_until(lambda: "; this gpen goes on" in balancer.stderr)
    assert balancer.ask(b"x") == b"x"


def test_a_change_while_it_gets_ready_counts_there(gpen: Start, servers: Servers, tmp_path: Path) -> None:
    """The new one waits for a name server, say, and the old one is told another timeout meanwhile."""
    balancer = gpen("-O", "blacklist 33", servers=[servers(echo)])
    slow = "\n".join(["import os, time, gpen.daemon.balancer as module", "real = module.Balancer.open",
                      "def instead(self, *given):", "    real(self, *given)",
                      f"    open({str(tmp_path / 'opened')!r}, 'w').close()",
                      f"    while os.path.exists({str(tmp_path / 'opened')!r}): time.sleep(0.01)",
                      "module.Balancer.open = instead", ""])
    (tmp_path / "sitecustomize.py").write_text(slow)
    command = [*COMMAND, "--replace", "-f", "-C", balancer.control, *balancer.arguments]
    with (tmp_path / "new.err").open("w") as stderr, started(
            command, stderr=stderr, env={**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}, cwd=tmp_path) as process:
        wait_until((tmp_path / "opened").exists)
        assert balancer.ctl("timeout 7", "server 0 state drain") == "7\n"
        (tmp_path / "opened").unlink()
        assert balancer.process.wait(20) == 0
        wait_until(lambda: balancer.ctl("pid") == f"{process.pid}\n")
        assert balancer.ctl("timeout", "blacklist") == "7\n33\n"
        assert balancer.server(0)["state"] == "drain"
        process.send_signal(signal.SIGTERM)


def test_a_stopped_old_one_finds_the_word_when_it_wakes(gpen: Start, servers: Servers, tmp_path: Path) -> None:
    """The new one says that it serves, and the old one is stopped at that moment, for longer than it would wait: then
    both must not serve, and one must."""
    balancer = gpen(servers=[servers(echo)])
    place = balancer.address
    with Pretender(balancer) as other:
        other.listen()
        other.ready("")
        other.listen()
        balancer.signal(signal.SIGSTOP)
        other.say("serving")
        time.sleep(SERVING_SECONDS + 1)  # for it is time that is tried
        balancer.signal(signal.SIGCONT)
        assert other.channel is not None
        assert other.channel.receive(10).kind == "yours"
    assert balancer.process.wait(20) == 0
    assert isinstance(place, tuple)


def test_term_meanwhile(gpen: Start, servers: Servers) -> None:
    """It ends, and so does its offer, at once."""
    balancer = gpen(servers=[servers(echo)])
    with Pretender(balancer) as other:
        other.listen()
        other.ready("")
        other.listen()
        began = time.monotonic()
        assert balancer.stop() == 0
        assert time.monotonic() - began < SERVING_SECONDS
        assert other.channel is not None
        with pytest.raises(PassingError, match="it has ended"):
            other.channel.receive(5)


def test_after_all_that_it_can_be_replaced(balancer: Gpen, gpen: Start, servers: Servers) -> None:
    """By one that does not fail."""
    with Pretender(balancer) as other:
        other.listen()
        other.ready("", "web")
    other_one = gpen("-p", "other.pid", servers=[servers(echo)])
    with Pretender(other_one) as other:
        other.listen()
        other.ready("")
    wait_until(lambda: "; this gpen goes on" in other_one.stderr)
    with replacing(other_one) as new:
        assert new.ask(b"x") == b"x"
        assert other_one.process.wait(20) == 0
