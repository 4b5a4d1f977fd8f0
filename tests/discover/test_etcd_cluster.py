"""gpen-discover's etcd with several members, of which some are killed or stopped; with users, and with TLS."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from gpen.discover.etcd import Login
from gpen.discover.http_client import Tls
from tests.certificates import Certificates
from tests.discover.etcd import etcd, source
from tests.discover.watching import Watching
from tests.harness import wait_until

A, B = "127.0.0.1:81", "127.0.0.1:82"


def test_another_endpoint_is_asked_when_one_is_gone(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with etcd(tmp_path, members=3) as three:
        three.put("/web/1", A)
        with Watching(source(*three.urls)) as watching:
            watching.wait_for(A)
            three.members[0].kill()
            three.put("/web/2", B)
            watching.wait_for(A, B)
            assert not watching.errors
            assert f"{three.urls[1].removeprefix('http://')} is asked" in capfd.readouterr().err
            count = len(watching.told)
            three.members[2].kill()  # the last has no majority around it any more
            watching.wait_error("")
            assert watching.servers == [A, B] and all(len(told) == 2 for told in watching.told[count:])
            three.start(three.members[0])
            three.start(three.members[2])
            three.wait()
            three.delete("/web/1")
            watching.wait_for(B)


def test_one_that_is_stopped_is_noticed(tmp_path: Path) -> None:
    with etcd(tmp_path, members=3) as three:
        three.put("/web/1", A)
        with Watching(source(*three.urls, silence=0.5)) as watching:
            watching.wait_for(A)
            three.members[0].kill(signal.SIGSTOP)
            three.put("/web/2", B)
            watching.wait_for(A, B)
            assert not watching.errors
            three.members[0].kill(signal.SIGCONT)


def test_users_log_in_again_when_their_token_has_expired(tmp_path: Path) -> None:
    with etcd(tmp_path, options=("--auth-token-ttl", "1")) as one:
        one.ctl("put", "/web/1", A)
        one.ctl("user", "add", "root:secret")
        one.ctl("user", "add", "web:web secret")
        one.ctl("role", "add", "reader")
        one.ctl("role", "grant-permission", "--prefix", "reader", "read", "/web/")
        one.ctl("user", "grant-role", "web", "reader")
        one.ctl("user", "grant-role", "root", "root")
        one.ctl("auth", "enable")
        passwords = ["wrong secret"]

        def login() -> Login:
            return Login("web", passwords[0])

        with Watching(source(*one.urls, login=login, silence=1.5)) as watching:
            said = watching.wait_error("authentication failed")
            assert "secret" not in said
            passwords[0] = "web secret"
            watching.wait_for(A)
            count, errors = len(watching.told), len(watching.errors)
            one.ctl("--user", "root:secret", "put", "/web/2", B)
            watching.wait_for(A, B)
            wait_until(lambda: len(watching.told) > count + 3, what="it is read anew twice, after the token's end")
            assert len(watching.errors) == errors
        with Watching(source(*one.urls)) as watching:
            watching.wait_error("give --login FILE")
        with Watching(source(*one.urls, prefix="/else/", login=login)) as watching:
            watching.wait_error("permission denied")


def test_tls_with_a_certificate_of_our_own(tmp_path: Path, certificates: Certificates) -> None:
    ours, theirs = str(certificates.authority.certificate), str(certificates.other.certificate)
    pair = certificates.client
    with etcd(tmp_path, tls=certificates) as one:
        one.ctl("put", "/web/1", A)
        (url,) = one.urls
        shown = Tls(ours, str(pair.certificate), str(pair.key))
        with Watching(source(url, tls=shown)) as watching:
            watching.wait_for(A)
            one.ctl("put", "/web/2", B)
            watching.wait_for(A, B)
            assert not watching.errors
        for tls in (Tls(ours), shown._replace(ca=theirs)):
            with Watching(source(url, tls=tls)) as watching:
                watching.wait_error("certificate")
                assert not watching.told
