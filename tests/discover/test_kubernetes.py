"""gpen-discover's Kubernetes, by an HTTPS server that answers as its documentation says, or as it should not."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpen.discover.http_client import HttpClient, Tls
from gpen.discover.http_source import secret_in
from gpen.discover.kubernetes import Kubernetes, account
from gpen.discover.source import SourceError
from tests.certificates import Certificates
from tests.discover.kubernetes_stub import NAMESPACE, KubernetesStub
from tests.discover.watching import Watching
from tests.harness import wait_until

A, B, C = "127.0.0.1:81", "127.0.0.2:81", "127.0.0.3:81"
HTTP, ADMIN = {"name": "http", "port": 81, "protocol": "TCP"}, {"name": "admin", "port": 82, "protocol": "TCP"}


@pytest.fixture
def kubernetes(certificates: Certificates, tmp_path: Path) -> Iterator[KubernetesStub]:
    """With one endpoint of the service web."""
    with KubernetesStub(certificates, tmp_path) as stub:
        stub.put("web-1", "web", ["127.0.0.1"])
        yield stub


def source(stub: KubernetesStub, service: str = "web", **options: object) -> Kubernetes:
    pod = account(str(stub.directory), stub.environment)
    return Kubernetes(f"kubernetes {service}", service, pod.namespace, HttpClient(pod.url, Tls(pod.ca)),
                      lambda: secret_in(pod.token), **options)  # type: ignore[arg-type]


def test_endpoints_come_and_go(kubernetes: KubernetesStub) -> None:
    kubernetes.put("other-1", "other", ["127.0.0.9"])
    with Watching(source(kubernetes)) as watching:
        watching.wait_for(A)
        kubernetes.put("web-2", "web", ["127.0.0.2", "127.0.0.3"])
        watching.wait_for(A, B, C)
        kubernetes.put("web-2", "web", ["127.0.0.3"])
        watching.wait_for(A, C)
        kubernetes.put("other-1", "other", ["127.0.0.8"])
        kubernetes.delete("web-1")
        watching.wait_for(C)
        kubernetes.delete("web-2")
        watching.wait_for()
        assert not watching.errors
    assert len(kubernetes.watches) == 1


def test_a_change_is_told_at_once(kubernetes: KubernetesStub) -> None:
    with Watching(source(kubernetes)) as watching:
        watching.wait_for(A)
        took = []
        for number in range(10):
            began = time.monotonic()
            kubernetes.put("web-1", "web", ["127.0.0.1"], port=90 + number)
            watching.wait_for(f"127.0.0.1:{90 + number}")
            took.append(time.monotonic() - began)
        assert sorted(took)[4] < 0.2


@pytest.mark.parametrize(("conditions", "told"), [
    ({"ready": True}, [A]), ({"ready": False}, []), ({"ready": None}, [A]),
    ({"ready": True, "serving": True, "terminating": False}, [A]),
    ({"ready": False, "serving": True, "terminating": True}, []),
    ({"ready": True, "serving": True, "terminating": True}, []),  # of a service that publishes those not ready
])
def test_those_that_new_clients_may_come_to(conditions: dict[str, bool | None], told: list[str],
                                            kubernetes: KubernetesStub) -> None:
    kubernetes.put("web-1", "web", ["127.0.0.1"], **conditions)
    with Watching(source(kubernetes)) as watching:
        watching.wait_for(*told)


def test_what_may_be_missing(kubernetes: KubernetesStub) -> None:
    """Conditions that are not known, and lists that are null."""
    metadata = {"labels": {"kubernetes.io/service-name": "web"}}
    kubernetes.put_object({"metadata": {"name": "web-1", **metadata}, "addressType": "IPv4", "ports": None,
                           "endpoints": None})
    kubernetes.put_object({"metadata": {"name": "web-2", **metadata}, "addressType": "IPv4", "ports": [{"port": 81}],
                           "endpoints": [{"addresses": ["127.0.0.1"]},
                                         {"addresses": ["127.0.0.2"], "conditions": None}]})
    with Watching(source(kubernetes)) as watching:
        watching.wait_for(A, B)


def test_one_that_stands_in_two_slices_is_one(kubernetes: KubernetesStub) -> None:
    kubernetes.put("web-2", "web", ["127.0.0.1", "127.0.0.2"])
    with Watching(source(kubernetes)) as watching:
        watching.wait_for(A, B)
        assert len(watching.told[-1]) == 2
        kubernetes.put("web-1", "web", ["127.0.0.1"], ready=False)
        wait_until(lambda: len(watching.told) > 1, what="a change")
        assert watching.servers == [A, B]


def test_one_kind_of_addresses_counts(kubernetes: KubernetesStub) -> None:
    """A service of both families has each endpoint twice."""
    kubernetes.put("web-6", "web", ["2001:db8::1"], kind="IPv6")
    kubernetes.put("web-f", "web", ["a.example"], kind="FQDN")
    with Watching(source(kubernetes)) as watching:
        watching.wait_for(A)
        kubernetes.delete("web-1")
        watching.wait_for("[2001:db8::1]:81")
    for kind, told in (("IPv6", "[2001:db8::1]:81"), ("FQDN", "a.example:81")):
        with Watching(source(kubernetes, kind=kind)) as watching:
            watching.wait_for(told)


def test_ports_have_names(kubernetes: KubernetesStub) -> None:
    kubernetes.put("web-1", "web", ["127.0.0.1"], ports=[HTTP, ADMIN])
    with Watching(source(kubernetes)) as watching:
        watching.wait_error("the service has 2 ports ('http', 'admin'): choose one with --port-name")
        assert not watching.told
    with Watching(source(kubernetes, port_name="ftp")) as watching:
        watching.wait_error("the service has no port 'ftp' with a number; its ports: 'admin', 'http'")
    with Watching(source(kubernetes, port_name="admin")) as watching:
        watching.wait_for("127.0.0.1:82")
        kubernetes.put("web-2", "web", ["127.0.0.2"], ports=[{**ADMIN, "port": 83}])
        watching.wait_for("127.0.0.1:82", "127.0.0.2:83")


def test_an_ended_watch_goes_on_where_it_was(kubernetes: KubernetesStub) -> None:
    with Watching(source(kubernetes)) as watching:
        watching.wait_for(A)
        kubernetes.put("other-1", "other", ["127.0.0.9"])
        kubernetes.put("web-2", "web", ["127.0.0.2"])
        kubernetes.delete("web-2")
        wait_until(lambda: len(watching.told) == 3, what="both changes")
        kubernetes.bookmark()
        kubernetes.put("web-2", "web", [])
        wait_until(lambda: len(watching.told) == 4, what="what is behind the bookmark")
        version = str(kubernetes.version)
        kubernetes.end_watches()
        wait_until(lambda: len(kubernetes.watches) == 2, what="another watch")
        kubernetes.put("web-3", "web", ["127.0.0.3"])
        watching.wait_for(A, C)
        assert not watching.errors
    assert len(kubernetes.asked) - len(kubernetes.watches) == 1
    assert kubernetes.watches[1]["resourceVersion"] == version


@pytest.mark.parametrize("as_event", [False, True])
def test_what_is_forgotten_is_listed_again(as_event: bool, kubernetes: KubernetesStub) -> None:
    kubernetes.tells_gone_as_event = as_event
    with Watching(source(kubernetes)) as watching:
        watching.wait_for(A)
        wait_until(lambda: kubernetes.watches, what="a watch")
        with kubernetes.changed:
            kubernetes.generation += 1
            kubernetes.slices["web-1"]["endpoints"][0]["addresses"] = ["127.0.0.2"]
            kubernetes.version += 10
            kubernetes.forget()
            kubernetes.changed.notify_all()
        watching.wait_for(B)
        assert not watching.errors


def test_a_server_that_always_forgets_is_asked_now_and_then(kubernetes: KubernetesStub) -> None:
    kubernetes.oldest = 1 << 40
    with Watching(source(kubernetes)) as watching:
        wait_until(lambda: len(kubernetes.watches) > 2, what="three watches")
        began, count = time.monotonic(), len(kubernetes.asked)
        wait_until(lambda: len(kubernetes.asked) >= count + 4, what="two more")
        assert time.monotonic() - began > 0.4
        assert watching.servers == [A]


def test_a_long_list_comes_in_pages(kubernetes: KubernetesStub) -> None:
    kubernetes.pages = 2
    for number in range(2, 6):
        kubernetes.put(f"web-{number}", "web", [f"127.0.0.{number}"])
    with Watching(source(kubernetes)) as watching:
        watching.wait_for(*(f"127.0.0.{number}:81" for number in range(1, 6)))
        assert [len(told) for told in watching.told] == [5]


def test_a_token_that_is_rotated_is_read_anew(kubernetes: KubernetesStub, certificates: Certificates) -> None:
    with Watching(source(kubernetes)) as watching:
        watching.wait_for(A)
        kubernetes.token = "second-token"
        kubernetes.end_watches()
        said = watching.wait_error("answers 401: Unauthorized")
        assert "token" not in said
        kubernetes.write_files(certificates, "second-token")
        kubernetes.put("web-2", "web", ["127.0.0.2"])
        watching.wait_for(A, B)


def test_who_may_not_list_is_told_what_is_missing(kubernetes: KubernetesStub) -> None:
    (kubernetes.directory / "namespace").write_text("other")
    with Watching(source(kubernetes)) as watching:
        watching.wait_error("is forbidden: User \"pod\" cannot list")
        watching.wait_error("it needs the verbs list and watch of endpointslices: see contrib/kubernetes")


def test_another_authority_gets_no_token(kubernetes: KubernetesStub, certificates: Certificates) -> None:
    (kubernetes.directory / "ca.crt").write_bytes(certificates.other.certificate.read_bytes())
    with Watching(source(kubernetes)) as watching:
        watching.wait_error("its certificate is not accepted")
    assert not kubernetes.asked


def test_no_token_goes_by_http_alone() -> None:
    asked = []
    client = HttpClient("http://127.0.0.1:1")
    unsafe = Kubernetes("kubernetes web", "web", NAMESPACE, client, lambda: str(asked.append("token")))
    with Watching(unsafe) as watching:
        watching.wait_error("Connection refused")
    assert not asked


def test_silence_is_noticed(kubernetes: KubernetesStub) -> None:
    with Watching(source(kubernetes, seconds=1)) as watching:
        watching.wait_for(A)
        kubernetes.is_silent = True
        watching.wait_error("does not answer in time")
        with kubernetes.changed:
            kubernetes.is_silent = False
            kubernetes.changed.notify_all()
        kubernetes.put("web-2", "web", ["127.0.0.2"])
        watching.wait_for(A, B)


@pytest.mark.parametrize("said", [
    "7", "[]", "{}", '{"items": []}', '{"items": 7, "metadata": {"resourceVersion": "1"}}',
    '{"items": [7], "metadata": {"resourceVersion": "1"}}', '{"items": [], "metadata": {"resourceVersion": 1}}',
    '{"items": [{"metadata": {"name": "a"}}], "metadata": {"resourceVersion": "1"}}',
    '{"items": [{"metadata": {"name": "a"}, "addressType": "IPv4", "endpoints": [{"addresses": []}]}], '
    '"metadata": {"resourceVersion": "1"}}',
    '{"items": [{"metadata": {"name": "a"}, "addressType": "IPv4", "endpoints": [{"addresses": ["x y"]}], '
    '"ports": [{"port": 1}]}], "metadata": {"resourceVersion": "1"}}',
    '{"items": [{"metadata": {"name": "a"}, "addressType": "IPv4", "endpoints": [{"addresses": ["::1"]}], '
    '"ports": [{"port": "x"}]}], "metadata": {"resourceVersion": "1"}}',
    '{"items": [], "metadata": {"resourceVersion": "1", "continue": "x"}}',
    '{"items": [], "metadata": {"resourceVersion": "1", "continue": 7}}'])
def test_a_list_that_kubernetes_does_not_say_changes_nothing(said: str, kubernetes: KubernetesStub) -> None:
    kubernetes.said = said
    with Watching(source(kubernetes)) as watching:
        watching.wait_error("")
        assert not watching.told


@pytest.mark.parametrize("said", [
    "7", "[]", "{}", '{"type": "MODIFIED"}', '{"type": "MODIFIED", "object": {}}', '{"type": "ERROR", "object": 7}',
    '{"type": "ERROR", "object": {"code": 500, "message": "etcd is gone"}}',
    '{"type": "EXPLODED", "object": {"metadata": {"name": "web-1", "resourceVersion": "7"}, "addressType": "IPv4"}}'])
def test_an_event_that_kubernetes_does_not_say_changes_nothing(said: str, kubernetes: KubernetesStub) -> None:
    with Watching(source(kubernetes)) as watching:
        watching.wait_for(A)
        wait_until(lambda: kubernetes.watches, what="a watch")
        with kubernetes.changed:
            kubernetes.said = said
            kubernetes.changed.notify_all()
        watching.wait_error("localhost")
        assert {tuple(told) for told in watching.told} == {tuple(watching.told[0])}


def test_more_endpoints_than_can_be_servers_are_an_error(kubernetes: KubernetesStub) -> None:
    with Watching(source(kubernetes)) as watching:
        watching.wait_for(A)
        kubernetes.put("web-2", "web", [f"10.0.{number // 250}.{number % 250}" for number in range(10_001)])
        watching.wait_error("are more than 10,000")
        assert watching.servers == [A]


def test_outside_a_pod_it_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="outside a pod, --kubernetes URL"):
        account(str(tmp_path), {})
    with pytest.raises(SourceError, match=f"{tmp_path}/namespace: No such file"):
        account(str(tmp_path), {"KUBERNETES_SERVICE_HOST": "::1", "KUBERNETES_SERVICE_PORT": "443"})
    (tmp_path / "namespace").write_text("shop\n")
    pod = account(str(tmp_path), {"KUBERNETES_SERVICE_HOST": "::1", "KUBERNETES_SERVICE_PORT": "443"})
    assert pod == ("https://[::1]:443", f"{tmp_path}/ca.crt", f"{tmp_path}/token", "shop")
