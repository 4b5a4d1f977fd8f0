"""The source `dns`: the addresses of a name, or the hosts of its SRV records (RFC 2782).

Each answer is asked for anew when its time to live is over, within limits. All that belongs to an answer must have been
had: where one of two questions fails, nothing counts.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from gpen.discover.source import Found, Source, SourceError, Tell
from gpen.model.address import parse_host
from gpen.start import check_optional
from gpen.usage import UsageError, seconds

if TYPE_CHECKING:
    from dns.resolver import Resolver

PATIENCE = 3.0  # seconds for an answer, from whichever server
WHOLE = 60.0  # seconds for all that belongs to one: the addresses of each target
MOST_TARGETS = 1000
A, AAAA, SRV = "A", "AAAA", "SRV"


class DnsSource(Source):
    """The servers that DNS has for ``name``: at ``port``, or None for those of its SRV records. ``families``: A, AAAA
    or both; ``limits``: seconds between two questions, at least and at most; ``resolver`` makes who is asked."""

    def __init__(self, name: str, port: int | None, families: Sequence[str], limits: tuple[float, float],
                 resolver: Callable[[], Resolver]) -> None:
        super().__init__(f"dns {name}")
        self._name = name
        self._port = port
        self._families = families
        self._limits = limits
        self._resolver = resolver
        self._ended = threading.Event()

    def watch(self, tell: Tell, stopping: threading.Event) -> None:
        """See Source."""
        while not stopping.is_set():
            question = _Question(self._resolver(), self._families)
            tell(question.srv(self._name) if self._port is None else question.addresses(self._name, self._port))
            shortest, longest = self._limits
            self._ended.wait(min(max(question.expires - time.time(), shortest), longest))

    def stop(self) -> None:
        """See Source."""
        self._ended.set()


class _Question:
    """What is asked for one answer. ``expires``: when the first part of that does, by the wall clock."""

    def __init__(self, resolver: Resolver, families: Sequence[str]) -> None:
        self.expires = time.time() + 86400.0
        self._deadline = time.monotonic() + WHOLE
        self._answers: dict[tuple[str, str], Sequence[Any]] = {}
        self._resolver = resolver
        self._families = families

    def addresses(self, name: str, port: int, **fields: int) -> list[Found]:
        """The servers at a name's addresses, over CNAMEs; none where it has no addresses. Raises SourceError."""
        return [Found(record.address, port, **fields) for family in self._families
                for record in self._ask(name, family)]

    def srv(self, name: str) -> list[Found]:
        """Those of its SRV records: a weight of 0 is a small one to DNS, but none to gpen, and a target . says that
        there is no such service. They come in any order: a server that two of them tell of is as the first by its
        priority says. Raises SourceError."""
        records = sorted((record for record in self._ask(name, SRV) if str(record.target) != "."),
                         key=lambda record: (record.priority, -record.weight, str(record.target), record.port))
        if len(records) > MOST_TARGETS:
            raise SourceError(f"{len(records)} SRV records are more than {MOST_TARGETS}")
        found: list[Found] = []
        for record in records:
            hosts = self.addresses(str(record.target), record.port, weight=max(record.weight, 1), prio=record.priority)
            if not hosts:
                raise SourceError(f"{record.target} has no addresses: nothing is changed")
            found += hosts
        return found

    def _ask(self, name: str, kind: str) -> Sequence[Any]:
        """The records of this kind, each asked for once; none where the name has none, but others. Raises
        SourceError."""
        if (name, kind) not in self._answers:
            if time.monotonic() > self._deadline:
                raise SourceError(f"not all addresses could be had within {WHOLE:g} s: nothing is changed")
            self._answers[name, kind] = self._answer(name, kind)
        return self._answers[name, kind]

    def _answer(self, name: str, kind: str) -> Sequence[Any]:
        """What name servers say now. Raises SourceError."""
        import dns.exception
        import dns.resolver

        try:
            answer = self._resolver.resolve(name, kind, lifetime=PATIENCE)
        except dns.resolver.NoAnswer as error:
            self.expires = min(self.expires, time.time() + _negative(error))
            return []
        except dns.resolver.NXDOMAIN:
            raise SourceError(f"there is no name {name} (NXDOMAIN): nothing is changed") from None
        except dns.exception.Timeout:
            asked = ", ".join(map(str, self._resolver.nameservers))
            raise SourceError(f"{name} {kind}: no answer within {PATIENCE:g} s from {asked}") from None
        except (dns.exception.DNSException, OSError) as error:
            raise SourceError(f"{name} {kind}: {' '.join(str(error).split()) or type(error).__name__}") from None
        self.expires = min(self.expires, answer.expiration)
        # who has answered is asked first from now on: those before it have been silent
        self._resolver.nameservers = sorted(self._resolver.nameservers, key=lambda it: str(it) != answer.nameserver)
        return list(answer)


def _negative(error: Any) -> float:
    """For how many seconds it is so that there is nothing: as the zone says, in an answer without records."""
    response = error.kwargs.get("response")
    times = [min(rrset.ttl, rrset[0].minimum) for rrset in (response.authority if response else ())
             if rrset.rdtype == 6]  # SOA
    return float(min(times, default=0))


# --- the command line -------------------------------------------------------------------------------------------------


def made(arguments: Mapping[str, Any]) -> DnsSource:
    """The source that a command line asks for. Raises UsageError and PackageError."""
    check_optional("dns")
    import dns.resolver  # noqa: F401  now: threads that load modules side by side may wait for each other for good

    check_name(arguments["NAME"])
    is_srv = arguments["--srv"] or arguments["NAME"].startswith("_")
    if is_srv and arguments["--port"]:
        raise UsageError("--port: SRV records have ports of their own: leave it out")
    if arguments["--ipv4"] and arguments["--ipv6"]:
        raise UsageError("--ipv4 --ipv6: give one of them, or none for both")
    families = [A] if arguments["--ipv4"] else [AAAA] if arguments["--ipv6"] else [A, AAAA]
    limits = seconds(arguments, "--ttl-min"), seconds(arguments, "--ttl-max")
    if limits[0] > limits[1]:
        raise UsageError(f"--ttl-min: {arguments['--ttl-min']} is more than --ttl-max, {arguments['--ttl-max']}")
    servers = name_servers(arguments["--nameserver"] or "")
    return DnsSource(arguments["NAME"], None if is_srv else port_in(arguments["--port"]), families, limits,
                     lambda: resolver_of(servers))


def check_name(name: str) -> None:
    """Raises UsageError for what is no name in DNS."""
    import dns.exception
    import dns.name

    try:
        dns.name.from_text(name)
    except (dns.exception.DNSException, UnicodeError) as error:
        raise UsageError(f"'{name}' is no name in DNS: {error}") from None


def port_in(text: str | None) -> int:
    """A port. Raises UsageError."""
    if text is None:
        raise UsageError("--port=PORT is missing: addresses in DNS have no ports (SRV records have: --srv)")
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 0 < int(text) <= 65535):
        raise UsageError(f"--port: '{text}' is not a port: expected 1 to 65535")
    return int(text)


def name_servers(text: str) -> dict[str, int]:
    """The ports of name servers by their numeric addresses; none: those of this machine. Raises UsageError."""
    found: dict[str, int] = {}
    for part in filter(None, text.split(",")):
        try:
            place = parse_host(part)
            host, port = str(ip_address(place.host)), int(place.port or 53)
        except ValueError:
            raise UsageError(f"--nameserver: '{part}' is not HOST[:PORT] with a numeric HOST") from None
        if found.setdefault(host, port) != port:
            raise UsageError(f"--nameserver: '{part}': {host} is there already, with port {found[host]}")
    return found


def resolver_of(servers: Mapping[str, int]) -> Resolver:
    """Who asks these name servers, or those that /etc/resolv.conf names now. Raises SourceError."""
    import dns.resolver

    try:
        resolver = dns.resolver.Resolver(configure=not servers)
    except dns.resolver.NoResolverConfiguration as error:
        raise SourceError(f"/etc/resolv.conf: {error}") from None
    if servers:
        resolver.nameservers = list(servers)
        resolver.nameserver_ports = dict(servers)
    resolver.timeout = PATIENCE / (len(resolver.nameservers) + 1)  # so that each is asked in time, and the first again
    return resolver


