"""Names to addresses: with a time limit, beside the loop.

Numeric addresses are converted at once. Names of hosts are looked up by the system's getaddrinfo, which knows
/etc/hosts and whatever else nsswitch.conf names, in a thread: it can't be interrupted, and a name server that does not
answer keeps it for as long as resolv.conf says (10 to 30 seconds as a rule), however long the one who asked has waited.
So there are THREADS of them, apart from those of gevent. Names of services come from /etc/services.
"""

from __future__ import annotations

import encodings.idna  # noqa: F401  (getaddrinfo would load it when it is first asked, perhaps inside a chroot)
import socket
from collections.abc import Iterable, Sequence
from typing import Any

import gevent
from gevent.threadpool import ThreadPool

from gpen.model.address import Address, Endpoint, normalize

THREADS = 40
SERVICES = "/etc/services"
_DEFINITE = {getattr(socket, name, None) for name in ("EAI_NONAME", "EAI_NODATA", "EAI_ADDRFAMILY")}


class ResolveError(Exception):
    """A name that is not known, or was not resolved in time: one line that names it.

    ``temporary``: the name service did not answer, so that the name may be right.
    """

    def __init__(self, message: str, temporary: bool = False) -> None:
        super().__init__(message)
        self.temporary = temporary


Endpoints = tuple[Endpoint, ...]
Answer = Endpoints | ResolveError


class Resolver:
    """Looks names up. Made once a process, after it has become a daemon: threads do not outlive a fork."""

    def __init__(self) -> None:
        self._threads = ThreadPool(THREADS)
        self._services: dict[tuple[str, str], int] = {}  # the port by name and protocol, as it was seen last

    @property
    def busy(self) -> int:
        """How many threads have a name to look up."""
        return len(self._threads)

    def prepare_for_chroot(self, seconds: float) -> None:
        """Load what lookups need, before a chroot hides it: modules, the system's libraries, the names of services.
        Switches greenlets."""
        try:
            with open(SERVICES, encoding="utf-8", errors="replace") as file:
                self._services.update(read_services(file))
        except OSError:
            pass  # then there are no names of services
        try:
            self.look_up("localhost", seconds)
        except ResolveError:
            pass  # nothing but the attempt is wanted

    def resolve(self, address: Address, seconds: float, datagrams: bool = False) -> Endpoints:
        """All endpoints of an address, IPv4 first, for TCP or UDP (``datagrams``). Switches greenlets unless the
        address is numeric.

        Raises ResolveError.
        """
        if address.path:
            return (Endpoint(int(socket.AF_UNIX), address.path, address.path, 0),)
        port = self.port(address, datagrams)
        return at_port(numeric(address.host) or self.look_up(address.host, seconds), port)

    def look_up(self, host: str, seconds: float) -> Endpoints:
        """The addresses of a name, IPv4 first, without a port. Switches greenlets.

        Raises ResolveError.
        """
        try:
            with gevent.Timeout(seconds):
                answer: Answer = self.begin(host).get()
        except gevent.Timeout:
            raise no_answer(host, seconds) from None
        if isinstance(answer, ResolveError):
            raise answer
        return answer

    def begin(self, host: str) -> Any:
        """The Answer to come, as an AsyncResult. Switches greenlets if all threads are busy, and only then."""
        return self._threads.spawn(_ask, host)

    def port(self, address: Address, datagrams: bool = False) -> int:
        """The port as a number. /etc/services counts as it is now; what it says no more (a chroot may hide
        it), as it was seen last.

        Raises ResolveError for a service that is not known.
        """
        if isinstance(address.port, int):
            return address.port
        service = (address.port, "udp" if datagrams else "tcp")
        try:
            self._services[service] = socket.getservbyname(*service)
        except OSError:
            if service not in self._services:
                raise ResolveError(f"'{address.port}' is not a port, nor a service in {SERVICES}") from None
        return self._services[service]


def no_answer(host: str, seconds: float) -> ResolveError:
    """There was no answer within so many seconds."""
    return ResolveError(f"can't resolve the name '{host}': no answer within {seconds:g} s", temporary=True)


def numeric(host: str) -> Endpoints:
    """The endpoint of an address in numbers, without a port; empty for a name."""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host)
        except OSError:
            continue
        return (Endpoint(int(family), (host, 0) if family == socket.AF_INET else (host, 0, 0, 0), host, 0),)
    return ()


def at_port(endpoints: Sequence[Endpoint], port: int) -> Endpoints:
    """These endpoints with a port of their own."""
    return tuple(Endpoint(int(family), (sockaddr[0], port, *sockaddr[2:]), host, port)
                 for family, sockaddr, host, _ in endpoints)


def read_services(lines: Iterable[str]) -> dict[tuple[str, str], int]:
    """The port of each name and protocol in lines of /etc/services (services(5)); the first of a name counts."""
    ports: dict[tuple[str, str], int] = {}
    for line in lines:
        name, place, *aliases = [*line.partition("#")[0].split(), "", ""]
        port, _, protocol = place.partition("/")
        if port.isascii() and port.isdigit():
            for word in (name, *aliases):
                ports.setdefault((word, protocol), int(port))
    return ports


def _ask(host: str) -> Answer:
    """What getaddrinfo says; runs in a thread, where nothing of gevent may be touched."""
    try:
        found = socket.getaddrinfo(host, 0, 0, socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not a host name"
        temporary = isinstance(error, OSError) and error.errno not in _DEFINITE
        return ResolveError(f"can't resolve the name '{host}': {reason}", temporary)
    endpoints = dict.fromkeys(Endpoint(int(family), sockaddr, normalize(str(sockaddr[0])), 0)
                              for family, _, _, _, sockaddr in found if family in (socket.AF_INET, socket.AF_INET6))
    if not endpoints:
        return ResolveError(f"the name '{host}' has no IPv4 or IPv6 address")
    return tuple(sorted(endpoints, key=lambda endpoint: endpoint.family != socket.AF_INET))
