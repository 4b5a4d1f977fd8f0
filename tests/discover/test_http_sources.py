"""gpen-discover with etcd, Consul and Kubernetes: the program, its command line, and a gpen."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.certificates import Certificates
from tests.discover.consul_stub import ConsulStub
from tests.discover.etcd import etcd
from tests.discover.kubernetes_stub import KubernetesStub
from tests.discover.running import Discoverer, run, wait_servers
from tests.harness import Gpen, wait_until

A, B, C = "127.0.0.1:81", "127.0.0.2:81", "127.0.0.3:81"


def test_etcd_to_gpen(tmp_path: Path, gpen: Callable[..., Gpen]) -> None:
    balancer = gpen("-r")
    with etcd(tmp_path) as one:
        one.put("/web/1", A)
        words = ("etcd", "/web/", f"--etcd=http://127.0.0.1:1,{one.urls[0]}")
        with Discoverer(tmp_path, *words, gpens=(balancer,)) as discoverer:
            wait_servers(balancer, A)
            took = []
            for _ in range(5):
                began = time.monotonic()
                one.put("/web/2", f"{B} weight 7")
                wait_servers(balancer, A, f"{B} weight 7")
                took.append(time.monotonic() - began)
                one.delete("/web/2")
                wait_servers(balancer, A)
            assert sorted(took)[2] < 0.3
            (member,) = one.members
            member.kill()
            discoverer.wait_told("Connection refused; 127.0.0.1:1: Connection refused")
            wait_servers(balancer, A)
            assert not discoverer.status()["well"]
            one.start(member)
            one.wait()
            one.put("/web/3", C)
            wait_servers(balancer, A, C)
            wait_until(lambda: discoverer.status()["well"], what="well again")


def test_consul_to_gpen(tmp_path: Path, gpen: Callable[..., Gpen], monkeypatch: pytest.MonkeyPatch) -> None:
    balancer = gpen("-r")
    monkeypatch.setenv("CONSUL_HTTP_TOKEN", "s3cret")
    with ConsulStub(token="s3cret") as consul:
        consul.register("web", "n1", "127.0.0.1", 81, tags=("blue", "v2"))
        consul.register("web", "n2", "127.0.0.2", 81, tags=("blue",))
        consul.register("web", "n3", "127.0.0.3", 81, tags=("blue", "v2"), passing=3)
        words = ("consul", "web", f"--consul={consul.url}", "--tag=blue,v2")
        with Discoverer(tmp_path, *words, gpens=(balancer,)) as discoverer:
            wait_servers(balancer, A, f"{C} weight 3")
            consul.deregister("web", "n1")
            wait_servers(balancer, f"{C} weight 3")
            consul.deregister("web", "n3")
            discoverer.wait_told("there are no servers, it says")
            wait_servers(balancer, f"{C} weight 3")
        assert "s3cret" not in discoverer.told


def test_kubernetes_to_gpen(tmp_path: Path, gpen: Callable[..., Gpen], certificates: Certificates,
                            monkeypatch: pytest.MonkeyPatch) -> None:
    balancer = gpen("-r")
    with KubernetesStub(certificates, tmp_path) as kubernetes:
        for name, value in kubernetes.environment.items():
            monkeypatch.setenv(name, value)
        kubernetes.put("web-1", "web", ["127.0.0.1", "127.0.0.2"])
        words = ("kubernetes", "web", f"--service-account={kubernetes.directory}", "--port-name=http")
        with Discoverer(tmp_path, *words, gpens=(balancer,)) as discoverer:
            wait_servers(balancer, A, B)
            kubernetes.put("web-1", "web", ["127.0.0.2"])
            wait_servers(balancer, B)
        assert kubernetes.token not in discoverer.told and "can read" not in discoverer.told
        monkeypatch.delenv("KUBERNETES_SERVICE_HOST")
        (tmp_path / "token").write_text(kubernetes.token)
        os.chmod(tmp_path / "token", 0o600)
        words = ("kubernetes", "web", f"--kubernetes=https://localhost:{kubernetes.port}", "--namespace=shop",
                 f"--ca={certificates.authority.certificate}", f"--token={tmp_path}/token")
        with Discoverer(tmp_path, *words, gpens=(balancer,), name="outside") as discoverer:
            kubernetes.put("web-1", "web", ["127.0.0.2", "127.0.0.3"])
            wait_servers(balancer, B, C)
        assert "can read" not in discoverer.told


@pytest.mark.parametrize(("words", "told"), [
    (("etcd", ""), "PREFIX is empty"),
    (("etcd", "/a", "--etcd="), "--etcd: no URL: expected http://HOST:PORT"),
    (("etcd", "/a", "--etcd=127.0.0.1:2379"), "--etcd: '127.0.0.1:2379' is no URL"),
    (("etcd", "/a", "--etcd=http://u:s3cret@localhost"), "--etcd: a URL with user or password would be shown"),
    (("etcd", "/a", "--ca=x.pem"), "--ca, --cert and --key are of no use without https://"),
    (("etcd", "/a", "--key=x.pem"), "--key: the certificate is missing that it belongs to"),
    (("etcd", "/a", "--etcd=https://localhost", "--ca=none.pem"), "TLS: none.pem: No such file or directory"),
    (("etcd", "/a", "--login=none"), "--login: none: No such file or directory"),
    (("consul", ""), "SERVICE is empty"),
    (("consul", "web", "--token=none"), "--token: none: No such file or directory"),
    (("kubernetes", "web"), "KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set: outside a pod"),
    (("kubernetes", "web", "--kubernetes=http://localhost", "--token=x"), "--token: a token goes to an https:// URL"),
    (("kubernetes", "web", "--address-type=ipv4"), "--address-type: 'ipv4' is not one of IPv4, IPv6, FQDN"),
    (("kubernetes", "", "--kubernetes=http://localhost"), "'' is no name of a service"),
    (("kubernetes", "web,app=other", "--kubernetes=http://localhost"), "is no name of a service in Kubernetes"),
])
def test_what_makes_no_sense_is_told_at_once(words: tuple[str, ...], told: str) -> None:
    done = run(*words, "--gpen=/none/gpen.ctl")
    assert done.returncode == 2 and told in done.stderr and done.stderr.count("\n") == 1
    assert "s3cret" not in done.stderr


def test_a_secret_that_others_can_read_or_hear_is_told(tmp_path: Path) -> None:
    login, token = tmp_path / "login", tmp_path / "token"
    login.write_text("web:web s3cret\n")
    token.write_text("s3cret\n")
    for words, place in ((("etcd", "/a", "--etcd=http://192.0.2.1", f"--login={login}"), "192.0.2.1:80"),
                         (("consul", "a", "--consul=http://a.invalid:81", f"--token={token}"), "a.invalid:81")):
        done = run(*words, "--gpen=/none/gpen.ctl", "--socket=/none/there.sock")
        assert f"{words[-1].partition('=')[2]}: everybody on this machine can read the secret in it" in done.stderr
        assert f"{place}: the password or token goes there as everybody on the way can read it" in done.stderr
        assert "s3cret" not in done.stderr
