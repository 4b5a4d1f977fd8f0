"""gpen-discover's Consul, by a server that answers as its documentation says, or as it should not."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator

import pytest

from gpen.discover.consul import Consul
from gpen.discover.http_client import HttpClient
from gpen.discover.source import Found, SourceError
from tests.discover.consul_stub import ConsulStub
from tests.discover.watching import Watching
from tests.harness import wait_until

A, B, C = "127.0.0.1:81", "127.0.0.1:82", "127.0.0.1:83"


@pytest.fixture
def consul() -> Iterator[ConsulStub]:
    """With one instance of the service web."""
    with ConsulStub() as stub:
        stub.register("web", "n1", "127.0.0.1", 81)
        yield stub


def source(*stubs: ConsulStub, service: str = "web", **options: object) -> Consul:
    return Consul(f"consul {service}", service, [HttpClient(stub.url) for stub in stubs],
                  **options)  # type: ignore[arg-type]


def test_instances_come_fail_and_go(consul: ConsulStub) -> None:
    consul.register("db", "n1", "127.0.0.1", 9)
    with Watching(source(consul)) as watching:
        watching.wait_for(A)
        consul.register("web", "n2", "127.0.0.1", 82, passing=7)
        watching.wait_for(A, B)
        assert Found("127.0.0.1", 82, 7) in watching.told[-1]
        consul.register("web", "n1", "127.0.0.1", 81, status="critical")
        watching.wait_for(B)
        consul.deregister("web", "n2")
        watching.wait_for()
        assert not watching.errors
    assert {asked["path"] for asked in consul.asked} == {"/v1/health/service/web"}
    assert all("passing" in asked for asked in consul.asked)


def test_a_change_is_told_at_once(consul: ConsulStub) -> None:
    with Watching(source(consul)) as watching:
        watching.wait_for(A)
        took = []
        for number in range(10):
            wait_until(lambda: "index" in consul.asked[-1], what="a question that waits")
            began = time.monotonic()
            consul.register("web", "n1", "127.0.0.1", 90 + number)
            watching.wait_for(f"127.0.0.1:{90 + number}")
            took.append(time.monotonic() - began)
        assert sorted(took)[4] < 0.3


def test_an_instance_without_an_address_has_its_node_s(consul: ConsulStub) -> None:
    consul.register("web", "n2", "", 82, of_node="127.0.0.7")
    with Watching(source(consul)) as watching:
        watching.wait_for(A, "127.0.0.7:82")


def test_tags_data_centre_and_namespace_choose(consul: ConsulStub) -> None:
    consul.register("web", "n2", "127.0.0.1", 82, tags=("blue", "v2"))
    consul.register("web", "n3", "127.0.0.1", 83, tags=("blue",))
    with Watching(source(consul, tags=["blue", "v2"], datacenter="dc1", namespace="team")) as watching:
        watching.wait_for(B)
    assert consul.asked[0]["dc"] == "dc1" and consul.asked[0]["ns"] == "team"
    with Watching(source(consul, datacenter="dc2")) as watching:
        watching.wait_for()


def test_names_are_no_paths(consul: ConsulStub) -> None:
    with Watching(source(consul, service="../kv/a?b")) as watching:
        watching.wait_for()
    assert consul.asked[0]["path"] == "/v1/health/service/..%2Fkv%2Fa%3Fb"


def test_an_index_that_went_back_is_asked_anew(consul: ConsulStub) -> None:
    with Watching(source(consul)) as watching:
        watching.wait_for(A)
        wait_until(lambda: "index" in consul.asked[-1], what="a question that waits")
        asked = len(consul.asked)
        with consul.changed:
            consul.index = 1
            consul.changed.notify_all()
        wait_until(lambda: len(consul.asked) > asked + 1, what="two more questions")
        assert "index" not in consul.asked[asked] and consul.asked[asked + 1]["index"] == "1"


@pytest.mark.parametrize("index", [None, "0", "-1", "seven", "", "9" * 30, "\u0667"])
def test_what_is_no_index_is_no_answer(index: str | None, consul: ConsulStub) -> None:
    consul.headers = {} if index is None else {"X-Consul-Index": index.encode().decode("latin-1")}
    with Watching(source(consul)) as watching:
        watching.wait_error("answers without an index")
        consul.headers = None
        watching.wait_for(A)


def test_an_index_that_always_changes_makes_few_questions(consul: ConsulStub) -> None:
    numbers = itertools.count(20)
    with Watching(source(consul)) as watching:
        watching.wait_for(A)
        began = time.monotonic()
        while len(consul.asked) < 10:
            consul.index = next(numbers)
            consul.touch()
        assert time.monotonic() - began > 0.5


def test_silence_is_noticed_and_another_is_asked(consul: ConsulStub, capfd: pytest.CaptureFixture[str]) -> None:
    with ConsulStub() as other:
        other.register("web", "n2", "127.0.0.1", 82)
        with Watching(source(consul, other, wait=0.2)) as watching:
            watching.wait_for(A)
            consul.is_silent = True
            watching.wait_for(B)
            assert not watching.errors
            assert f"127.0.0.1:{other.port} is asked" in capfd.readouterr().err


def test_one_that_is_gone_changes_nothing_until_it_is_back() -> None:
    with ConsulStub() as consul:
        consul.register("web", "n1", "127.0.0.1", 81)
        watching = Watching(source(consul, wait=0.2))
        with watching:
            watching.wait_for(A)
            consul.status, consul.said = 500, "No cluster leader"
            watching.wait_error("answers 500: No cluster leader")
            count = len(watching.told)
            watching.wait_error("500", since=len(watching.errors))
            assert len(watching.told) == count
            consul.status, consul.said = 200, None
            consul.register("web", "n2", "127.0.0.1", 82)
            watching.wait_for(A, B)


@pytest.mark.parametrize("said", ["{}", "7", "[7]", "[null]", '[{"Node": {}}]', '[{"Node": 1, "Service": 2}]', '"a"',
                                  '[{"Node": {"Node": "n"}, "Service": {"ID": "s"}}]', "[", ""])
def test_what_consul_does_not_say_changes_nothing(said: str, consul: ConsulStub) -> None:
    with Watching(source(consul)) as watching:
        watching.wait_for(A)
        count = len(watching.told)
        consul.said = said
        consul.services["web"].clear()
        consul.touch()
        watching.wait_error("")
        assert all(watching.told[count - 1] == told for told in watching.told[count:])


def test_an_instance_that_is_not_understood_costs_itself_alone(consul: ConsulStub,
                                                               capfd: pytest.CaptureFixture[str]) -> None:
    consul.register("web", "n2", "127.0.0.1 port 1", 82)
    consul.register("web", "n3", "127.0.0.1", 0)
    with Watching(source(consul)) as watching:
        watching.wait_for(A)
        consul.register("web", "n1", "127.0.0.1", [])
        consul.register("web", "n3", "127.0.0.1", 83)
        watching.wait_for(A, C)
        assert not watching.errors
    told = capfd.readouterr().err
    assert "'n2/web-1' is not understood: '127.0.0.1 port 1' is not an address" in told
    assert "it is left out; the same goes for 1 other" in told
    assert "'n1/web-1' is not understood: port: [] is not a whole number; what it said before holds" in told


def test_a_token_is_read_for_each_question(consul: ConsulStub) -> None:
    consul.token = "s3cret"
    tokens = ["wr0ng"]
    with Watching(source(consul, token=lambda: tokens[0])) as watching:
        said = watching.wait_error("a token with service:read")
        assert "wr0ng" not in said
        tokens[0] = "s3cret"
        watching.wait_for(A)


def test_a_token_that_can_not_be_read_is_told(consul: ConsulStub) -> None:
    def token() -> str:
        raise SourceError("/etc/token: No such file or directory")

    with Watching(source(consul, token=token)) as watching:
        watching.wait_error("/etc/token: No such file")
    assert not consul.asked


def test_a_service_is_needed(consul: ConsulStub) -> None:
    with pytest.raises(ValueError, match="SERVICE is empty"):
        source(consul, service="")
