"""Settings and certificates reach all workers, whole or not at all; who gives no answer keeps all from changing."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

import pytest

from gpen.daemon.chroot import Chroot
from gpen.daemon.fork_server import Services, packed
from gpen.model.settings import Settings
from tests.certificates import Certificates
from tests.daemon.crew import (
    is_echoed,
    pids_of,
    rows_of,
    standing_still,
    stop_process,
    talking,
    workers,
)
from tests.daemon.test_tls_files import copy
from tests.harness import LOCAL, Gpen, Server, connect, echo, hold, naming, pair_of, read_all, wait_until
from tests.tlsclient import TlsClient, trusting
from tests.wire.http_peers import OK, Recorder, get, read_response

Start = Callable[..., Gpen]
Serve = Callable[..., Server]
Told = TypeVar("Told")


@pytest.fixture
def balancer(gpen: Start, servers: Serve) -> Gpen:
    """An echo, three workers."""
    return gpen("-l", "gpen.log", *workers(3), servers=[servers(echo)])


def told_by_each(balancer: Gpen, visit: Callable[[], Told]) -> set[Told]:
    """What clients are told, until each worker has served one."""
    before = {row["pid"]: row["total"] for row in rows_of(balancer)}
    told = set()
    while any(row["total"] == before.get(row["pid"], 0) for row in rows_of(balancer)):
        told.add(visit())
    return told


# --- settings ---------------------------------------------------------------------------------------------------------


def test_sessions_that_go_on_have_new_settings(balancer: Gpen) -> None:
    with talking(balancer, 6) as socks:
        assert "1 seconds" in balancer.ctl("idle_timeout 1")
        assert [read_all(sock) for sock in socks] == [b""] * 6
    balancer.wait_idle()
    wait_until(lambda: [line.split()[-1] for line in balancer.log.splitlines()] == ["idle"] * 6)


def test_new_sessions_have_them(gpen: Start, servers: Serve) -> None:
    balancer = gpen(*workers(3), servers=[servers(echo)])

    def echoed() -> bytes:
        answer = balancer.ask(b"x")
        return b"PROXY" if answer.startswith(b"PROXY TCP4 127.0.0.1 ") and answer.endswith(b"\r\nx") else answer

    assert told_by_each(balancer, echoed) == {b"x"}
    balancer.ctl("proxy_protocol v1")
    assert told_by_each(balancer, echoed) == {b"PROXY"}
    balancer.ctl("no proxy_protocol")
    assert told_by_each(balancer, echoed) == {b"x"}


def test_greeting(gpen: Start, servers: Serve) -> None:
    """Of two servers the first says nothing."""
    balancer = gpen(*workers(3), "-b", "0", "-O", "prio", servers=[servers(hold), servers(naming("b"))])
    balancer.ctl("server 0 prio 1", "server 1 prio 2", "greeting 0.2")
    assert told_by_each(balancer, lambda: read_first(balancer)) == {b"b"}


def read_first(balancer: Gpen) -> bytes:
    with balancer.connect() as sock:
        return sock.recv(1)


def test_http(gpen: Start, servers: Serve) -> None:
    recorder = Recorder(lambda request: OK)
    balancer = gpen(*workers(3), servers=[servers(recorder)])

    def is_forwarded() -> bool:
        with balancer.connect() as sock:
            sock.sendall(get("/"))
            assert read_response(sock).endswith(b"ok")
        return b"X-Forwarded-For" in recorder.requests[-1]

    assert told_by_each(balancer, is_forwarded) == {False}
    balancer.ctl("http")
    assert told_by_each(balancer, is_forwarded) == {True}
    balancer.ctl("no http")
    assert told_by_each(balancer, is_forwarded) == {False}


def test_a_listener_comes_changes_and_goes(balancer: Gpen, certificates: Certificates, tmp_path: Path) -> None:
    """It speaks TLS; its sessions go on when it is gone."""
    file, context = certificates.server.in_one(tmp_path / "pem"), trusting(certificates.authority.certificate)
    for _ in range(2):
        told = balancer.ctl(f"listener tls listen {LOCAL}", f"listener tls ssl_certificate {file}")
        assert "error" not in told
        place = pair_of(balancer.ctl("listener tls listen").strip())

        def visit(place: object = place) -> bool:
            with TlsClient(place, context) as client:  # type: ignore[arg-type]
                return is_echoed(client)

        assert told_by_each(balancer, visit) == {True}
        with ExitStack() as stack:
            clients = [stack.enter_context(TlsClient(place, context)) for _ in range(3)]
            assert all(map(is_echoed, clients))
            balancer.ctl("listener tls no ssl_certificate")
            assert told_by_each(balancer, lambda place=place: is_plain(place)) == {True}  # type: ignore[misc]
            balancer.ctl("no listener tls")
            assert told_by_each(balancer, lambda: is_plain(balancer.address)) == {True}
            assert all(map(is_echoed, clients))
        balancer.wait_idle()


def is_plain(place: tuple[str, int] | str) -> bool:
    with connect(place) as sock:
        return is_echoed(sock)


# --- certificates -----------------------------------------------------------------------------------------------------


@pytest.fixture
def secure(gpen: Start, servers: Serve, tmp_path: Path, certificates: Certificates) -> Gpen:
    """The same with TLS: its certificate and key are files of these names."""
    copy(certificates.server, tmp_path)
    return gpen("-E", str(tmp_path / "certificate"), "-K", str(tmp_path / "key"), *workers(3), servers=[servers(echo)])


def names_shown(balancer: Gpen, certificates: Certificates) -> set[str]:
    """The names in the certificates that workers show."""
    context = trusting(certificates.authority.certificate)
    context.check_hostname = False

    def shown() -> str:
        with TlsClient(balancer.address, context) as client:
            return dict(field for (field,) in client.tls.getpeercert()["subject"])["commonName"]  # type: ignore[index,misc]

    return told_by_each(balancer, shown)


def test_new_certificates(secure: Gpen, tmp_path: Path, certificates: Certificates) -> None:
    assert names_shown(secure, certificates) == {"localhost"}
    copy(certificates.client, tmp_path)
    assert secure.ctl("reload") == "nothing has changed\n"
    assert names_shown(secure, certificates) == {"client"}

    (tmp_path / "key").write_bytes(certificates.server.key.read_bytes())
    told = secure.ctl("reload")
    assert told.count("error") == 1 and "the old certificates stay in force" in told
    assert names_shown(secure, certificates) == {"client"}

    os.kill(pids_of(secure)[1], signal.SIGKILL)  # who comes in its place has what the others have
    wait_until(lambda: len(pids_of(secure)) == 3 and secure.json("events")[-1]["event"] == "worker ended")
    assert names_shown(secure, certificates) == {"client"}

    copy(certificates.server, tmp_path)
    assert secure.ctl("reload") == "nothing has changed\n"
    assert names_shown(secure, certificates) == {"localhost"}


def test_a_name_that_clients_ask_for(gpen: Start, servers: Serve, tmp_path: Path, certificates: Certificates) -> None:
    (tmp_path / "names").mkdir()
    balancer = gpen(*certificates.server.options, "-O", f"ssl_sni_path {tmp_path}/names", *workers(3),
                    servers=[servers(echo)])
    context = trusting(certificates.authority.certificate)

    def name_of(asked: str) -> str:
        with TlsClient(balancer.address, context, asked) as client:
            assert is_echoed(client)
            assert {row["sni"] for row in balancer.json("sessions") if row["state"] == "open"} >= {asked}
            return dict(field for (field,) in client.tls.getpeercert()["subject"])["commonName"]  # type: ignore[index,misc]

    assert told_by_each(balancer, lambda: name_of("localhost")) == {"localhost"}
    certificates.authority.issue("new.example", file="asked").in_one(tmp_path / "names" / "new.example.crt")
    balancer.ctl("reload")
    assert told_by_each(balancer, lambda: name_of("new.example")) == {"new.example"}
    assert told_by_each(balancer, lambda: name_of("localhost")) == {"localhost"}


# --- one that does not answer -----------------------------------------------------------------------------------------


def test_whoever_does_not_answer_keeps_all_from_changing(balancer: Gpen, tmp_path: Path) -> None:
    place, pid = balancer.address, pids_of(balancer)[1]
    commands = ["listen 127.0.0.2:0", f"log {tmp_path}/other.log", "proxy_protocol v1", f"listener new listen {LOCAL}"]
    before = balancer.ctl("state"), balancer.fds()
    with standing_still(pid):
        for command in commands:
            start = time.monotonic()
            told = balancer.ctl(command)
            assert told.startswith("error: ") and told.count("\n") == 1
            assert f"worker 1 (pid {pid})" in told and "nothing was changed" in told
            assert time.monotonic() - start < 8
        assert not (tmp_path / "other.log").exists()
        assert (balancer.ctl("state"), balancer.fds()) == before
        assert balancer.address == place and "-" not in [row["name"] for row in balancer.json("listeners")]
        wait_until(lambda: balancer.ask(b"x") == b"x")
    wait_until(lambda: max(row["silent"] for row in rows_of(balancer)) == 0)
    for command in commands:
        assert "error" not in balancer.ctl(command)
    assert (tmp_path / "other.log").exists() and balancer.address != place
    assert {answer[:5] for answer in told_by_each(balancer, lambda: balancer.ask(b"x"))} == {b"PROXY"}
    balancer.wait_idle()


def test_what_was_given_up_meanwhile_comes_never_in_force(tmp_path: Path, certificates: Certificates) -> None:
    """One that did not answer goes on with what was asked of it then, while it is asked for something else."""
    slow, quick = Settings(), Settings()
    (tmp_path / "names").mkdir()
    slow.ssl_certificate = str(certificates.server.in_one(tmp_path / "pem"))
    slow.ssl_sni_path, quick.timeout = str(tmp_path / "names"), 7.0
    services = Services(Chroot())
    asked = []

    def pace(names: Iterable[Path]) -> Iterator[Path]:
        if not asked:
            asked.append(services.abort())
            asked.append(services.prepare(packed({"": quick}), iter))
        return iter(names)

    assert services.prepare(packed({"": slow}), pace) == ""
    assert asked == [None, ""]
    services.commit()
    assert services.current[""][0].timeout == 7.0 and services.current[""][1] is None
    services.prepare(packed({"": slow}), iter)
    services.abort()
    services.commit()
    assert services.current[""][0].timeout == 7.0


def test_one_that_dies_meanwhile_keeps_nothing_from_changing(balancer: Gpen) -> None:
    """The change waits for its answer; who comes in its place has the new settings."""
    pid = pids_of(balancer)[0]
    stop_process(pid)
    with connect(balancer.control) as sock:
        sock.sendall(b"proxy_protocol v1\n")
        os.kill(pid, signal.SIGKILL)
        assert b"error" not in sock.recv(100)
    wait_until(lambda: len(pids_of(balancer)) == 3 and pid not in pids_of(balancer))
    assert {answer[:5] for answer in told_by_each(balancer, lambda: balancer.ask(b"x"))} == {b"PROXY"}
