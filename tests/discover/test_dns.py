"""The source `dns`, with a real name server whose zone changes, and which fails in all ways."""

from __future__ import annotations

import shutil
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.discover.running import Discoverer, numbered, run, wait_servers
from tests.discover.zone import Silent, Zone
from tests.harness import Gpen, seeing
from tests.resolver import Resolver

pytest.importorskip("dns", reason="the package dnspython")
if not shutil.which("nsd") and not Path("/usr/sbin/nsd").exists():
    pytest.skip("nsd is not installed", allow_module_level=True)

from gpen.discover.dns import DnsSource, made
from gpen.discover.source import Found, SourceError

Start = Callable[..., Gpen]
USUAL = {"--port": None, "--srv": False, "--ipv4": False, "--ipv6": False, "--nameserver": None, "--ttl-min": "1",
         "--ttl-max": "60"}
HAND = "127.0.0.9:4000"


def source_of(zone: Zone | Silent | Slow, name: str, **options: Any) -> DnsSource:
    named = {f"--{option.replace('_', '-')}": value for option, value in options.items()}
    return made({**USUAL, "NAME": name, "--nameserver": zone.server, **named})


def told(source: DnsSource, count: int) -> list[tuple[float, Sequence[Found]]]:
    """What a source tells so many times, and when, by the monotonic clock. Raises SourceError."""
    news: list[tuple[float, Sequence[Found]]] = []
    stopping = threading.Event()

    def tell(found: Sequence[Found]) -> None:
        news.append((time.monotonic(), found))
        if len(news) == count:
            stopping.set()
            source.stop()

    source.watch(tell, stopping)
    return news


def asked(zone: Zone | Silent | Slow, name: str, **options: Any) -> Sequence[Found]:
    """What the source tells first of a name. Raises SourceError."""
    return told(source_of(zone, name, **options), 1)[0][1]


def test_addresses_and_srv_records(tmp_path: Path) -> None:
    many = [f"many IN A 10.1.{number // 200}.{number % 200 + 1}" for number in range(400)]  # over TCP: 6 KB
    with Zone(tmp_path, "web IN A 10.0.0.1", "web IN A 10.0.0.2", "web IN AAAA 2001:db8::1", "alias IN CNAME other",
              "other IN CNAME web", "text IN TXT hello", "db1 IN A 10.0.0.7", "db2 IN AAAA 2001:db8::7",
              "_db._tcp IN SRV 1 5 3306 db1", "_db._tcp IN SRV 2 0 3307 db2", "svc IN SRV 0 9 80 db1",
              "none._tcp IN SRV 0 0 0 .", "_half._tcp IN SRV 0 0 80 db1", "_half._tcp IN SRV 0 0 80 nothing",
              "_empty._tcp IN SRV 0 0 80 text", *many) as zone:
        v4, v6 = [Found("10.0.0.1", 80), Found("10.0.0.2", 80)], [Found("2001:db8::1", 80)]
        for name in ("web.gpen.test", "alias.gpen.test", "WEB.gpen.test."):
            assert sorted(asked(zone, name, port="80")) == v4 + v6
        assert sorted(asked(zone, "web.gpen.test", port="80", ipv4=True)) == v4
        assert asked(zone, "web.gpen.test", port="80", ipv6=True) == v6
        assert sorted(asked(zone, "_db._tcp.gpen.test")) == [Found("10.0.0.7", 3306, 5, 1),
                                                             Found("2001:db8::7", 3307, 1, 2)]
        assert asked(zone, "svc.gpen.test", srv=True) == [Found("10.0.0.7", 80, 9, 0)]
        assert asked(zone, "text.gpen.test", port="80") == asked(zone, "none._tcp.gpen.test", srv=True) == []
        assert len(asked(zone, "many.gpen.test", port="80")) == 400
        for name, why in (("no.gpen.test", r"there is no name no.gpen.test \(NXDOMAIN\): nothing is changed"),
                          ("_half._tcp.gpen.test", "there is no name nothing.gpen.test. "),
                          ("_empty._tcp.gpen.test", "text.gpen.test. has no addresses: nothing is changed"),
                          ("other.test", "other.test A: .*REFUSED")):
            with pytest.raises(SourceError, match=why):
                asked(zone, name, port=None if name.startswith("_") else "80")


def test_gpen_follows_a_name(gpen: Start, tmp_path: Path) -> None:
    """Through a change, and the death of the name server, which changes nothing."""
    balancer = gpen(servers=[HAND])
    web = "_web._tcp IN SRV"
    hosts = ("a IN A 127.0.0.1", "b IN A 127.0.0.2", "c IN A 127.0.0.3")
    with Zone(tmp_path, f"{web} 0 5 80 a", f"{web} 1 3 80 b", *hosts) as zone, Discoverer(
            tmp_path, "dns", "_web._tcp.gpen.test", f"--nameserver={zone.server}", gpens=(balancer,)) as discoverer:
        wait_servers(balancer, "127.0.0.1:80 weight 5", "127.0.0.2:80 weight 3 prio 1")
        zone.change(f"{web} 0 7 80 a", f"{web} 0 1 81 c", *hosts)
        wait_servers(balancer, "127.0.0.1:80 weight 7", "127.0.0.3:81")
        zone.kill()
        discoverer.wait_told("dns _web._tcp.gpen.test: _web._tcp.gpen.test SRV: no answer within 3 s from 127.0.0.1")
        assert not discoverer.status()["well"]
        assert sorted(numbered(balancer).values()) == ["127.0.0.1:80 weight 7", "127.0.0.3:81"]
        zone.start()
        discoverer.wait_told("dns _web._tcp.gpen.test: answers")
        zone.change("x IN A 127.0.0.1")
        discoverer.wait_told("there is no name _web._tcp.gpen.test (NXDOMAIN): nothing is changed")
        zone.change(f"{web} 0 1 80 b", *hosts)
        wait_servers(balancer, "127.0.0.2:80")


def test_it_is_asked_again_when_the_answer_expires(tmp_path: Path) -> None:
    """Of all that belongs to an answer, what expires first counts, within limits."""
    with Zone(tmp_path, "web 3 IN CNAME other", "other 2 IN A 127.0.0.1", "long 900 IN A 127.0.0.1") as zone:
        for name, longest, expected in (("web", "60", 2), ("web", "1.2", 1.2), ("long", "1.3", 1.3)):
            source = source_of(zone, f"{name}.gpen.test", port="80", ipv4=True, ttl_max=longest)
            (first, _), (second, _) = told(source, 2)
            assert expected - 0.1 <= second - first < expected + 3


def test_the_name_servers_are_those_of_this_machine(gpen: Start, tmp_path: Path) -> None:
    """Of /etc/resolv.conf, as it is when they are asked."""
    balancer, resolver = gpen(servers=[HAND]), Resolver(tmp_path, {"web.test": ["127.0.0.1"]})
    with closing(resolver), Discoverer(tmp_path, "dns", "web.test", "--port=80", gpens=(balancer,),
                                       wrapper=seeing(resolver.mounts)):
        wait_servers(balancer, "127.0.0.1:80")
        resolver.names["web.test"] = ["127.0.0.1", "127.0.0.2", "::1"]
        wait_servers(balancer, "127.0.0.1:80", "127.0.0.2:80", "::1:80")


def test_a_name_server_that_is_silent() -> None:
    with Silent() as silent, pytest.raises(SourceError, match=r"web.test A: no answer within 3 s from 127.0.0.1$"):
        asked(silent, "web.test", port="80")


def test_name_servers_that_are_silent_cost_little_where_another_answers(tmp_path: Path) -> None:
    """Two of three: there is time for the third, which is asked first from then on, of an answer of many questions."""
    hosts = [f"h{number}" for number in range(12)]
    records = [*(f"_web._tcp SRV 0 1 80 {host}" for host in hosts), *(f"{host} A 127.0.0.1" for host in hosts)]
    with Zone(tmp_path, *records) as zone, Silent("127.0.0.2") as one, Silent("127.0.0.3") as other:
        began = time.monotonic()
        servers = ",".join((one.server, other.server, zone.server))
        assert len(asked(zone, "_web._tcp.gpen.test", nameserver=servers)) == 12
        assert time.monotonic() - began < 6


@pytest.mark.parametrize(("words", "why"), [
    ("web", "--port=PORT is missing"),
    ("_web._tcp.x --port=80", "--port: SRV records have ports of their own"),
    ("web --port=99999", "--port: '99999' is not a port"),
    ("web --port=80 --ipv4 --ipv6", "give one of them"),
    ("web --port=80 --nameserver=ns.example", "'ns.example' is not HOST[:PORT] with a numeric HOST"),
    ("web --port=80 --nameserver=127.0.0.1:x", "'127.0.0.1:x' is not HOST[:PORT]"),
    ("web --port=80 --nameserver=[::1]:53,[0::1]:54", "'[0::1]:54': ::1 is there already, with port 53"),
    ("web --port=80 --ttl-min=9 --ttl-max=3", "--ttl-min: 9 is more than --ttl-max, 3"),
    (f"{'x' * 64}.test --port=80", "is no name in DNS"),
])
def test_wrong_usage_is_one_line(words: str, why: str) -> None:
    done = run("dns", *words.split(), "--gpen=/nowhere")
    assert (done.returncode, done.stdout) == (2, "")
    assert why in done.stderr and done.stderr.count("\n") == 1


def test_a_server_that_two_records_tell_of_is_as_the_first_by_priority_says(tmp_path: Path) -> None:
    """Name servers give records in any order, and another one each time."""
    for name, records in (("a", ("0 9 80", "1 5 80")), ("b", ("1 5 80", "0 9 80"))):
        directory = tmp_path / name
        directory.mkdir()
        with Zone(directory, "web IN A 10.0.0.1", *(f"_web._tcp IN SRV {record} web" for record in records)) as zone:
            found = asked(zone, "_web._tcp.gpen.test", ipv4=True)
            assert found[0] == Found("10.0.0.1", 80, weight=9, prio=0)


class Slow:
    """A name server that has an SRV record with two ports on each of so many targets, and answers each question after
    so many seconds."""

    def __init__(self, targets: int, seconds: float) -> None:
        self.asked: list[str] = []
        self._targets = targets
        self._seconds = seconds
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sock.bind(("127.0.0.1", 0))
        self.server = f"127.0.0.1:{self._sock.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._sock.close()

    def _serve(self) -> None:
        from dns import message, rrset

        with suppress(OSError):
            while True:
                data, client = self._sock.recvfrom(4096)
                question = message.from_wire(data)
                name = question.question[0].name.to_text()
                self.asked.append(name)
                answer = message.make_response(question)
                answer.answer.append(
                    rrset.from_text(name, 9, "IN", "SRV", *(f"0 1 {port} a{number}.test." for port in (80, 81)
                                                            for number in range(self._targets)))
                    if name.startswith("_") else rrset.from_text(name, 9, "IN", "A", "10.0.0.1"))
                time.sleep(self._seconds)
                self._sock.sendto(answer.to_wire(), client)


def test_the_addresses_of_many_targets_are_asked_for_once_and_not_without_an_end(
        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpen.discover.dns.WHOLE", 1.0)
    with closing(Slow(3, 0.0)) as quick:
        assert len(asked(quick, "_web._tcp.test", ipv4=True)) == 6
        assert len(quick.asked) == 4
    with closing(Slow(20, 0.2)) as slow, pytest.raises(SourceError, match="not all addresses could be had within 1 s"):
        asked(slow, "_web._tcp.test", ipv4=True)
