"""Addresses as people write them, and as the kernel wants them.

``parse_listen`` and ``parse_server`` read pen's notation; an :class:`Address` prints as it may be written again.
Names of hosts and of services stay names here: ``wire/resolver.py`` turns an Address into Endpoints.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

_NAME = re.compile(r"[A-Za-z0-9._-]+")
_SERVICE = re.compile(r"[0-9+_-]*[A-Za-z][A-Za-z0-9+_-]*")
_COUNT = re.compile(r"[0-9]{1,9}")
_NETWORK = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^/\[\]:]+):[0-9]+")
SCOPED = re.compile(r"[0-9a-fA-F:.]+(%[A-Za-z0-9._-]+)?")
_ZERO = re.compile(r"(0x0+|0+)(\.(0x0+|0+)){0,3}", re.IGNORECASE)  # as inet_aton(3) reads 0.0.0.0
_BARE_IPV6 = re.compile(r"[0-9a-fA-F]{0,4}:[^:]*:.*")
UNIX = "unix"  # of clients who have none
UNSPECIFIED = ("0.0.0.0", "::")
MAX_PATH = 107  # sun_path of a unix socket holds 108 bytes with its end mark (unix(7))


@dataclass(frozen=True)
class Address:
    """A host and a port, or the path of a unix socket.

    ``port`` is a number, the name of a service that is looked up when the address is resolved, or empty as long as none
    was given. The unspecified address and port 0 are pen's words for no address.
    """

    host: str = ""
    port: int | str = ""
    path: str = ""

    @property
    def is_none(self) -> bool:
        """Whether this is no place to connect to."""
        return not self.path and (self.port == 0 or self.host in UNSPECIFIED)

    def __str__(self) -> str:
        if self.path:
            return self.path
        return f"{bracketed(self.host)}:{self.port}" if self.port != "" else bracketed(self.host)


class Endpoint(NamedTuple):
    """Where to connect: what the kernel takes, and how it is shown. ``family``, which is no member of an Enum, and
    ``sockaddr`` are opaque here."""

    family: int
    sockaddr: Any
    host: str
    port: int

    def __str__(self) -> str:
        return f"{bracketed(self.host)}:{self.port}" if self.port else self.host

    def at(self, port: int) -> Endpoint:
        """Another port of the same machine; a unix socket has none, and stays."""
        if not self.port:
            return self
        host, _, *rest = self.sockaddr
        return Endpoint(self.family, (host, port, *rest), self.host, port)


def digest(data: bytes) -> int:
    """64 bits that stand for these bytes, in all versions of gpen."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")


def digest_of(endpoints: Iterable[Endpoint]) -> int:
    """What stands for a server that is at these endpoints, of which there is one at least, on all machines alike. It is
    that of the least of them, IPv4 first: which one is in use may differ, and change."""
    _, address, port = min(map(_canonical, endpoints))
    return digest(address + port.to_bytes(2, "big"))


def _canonical(endpoint: Endpoint) -> tuple[int, bytes, int]:
    """The version of IP, the address without its interface, which has a number of its own on each machine, and the
    port; for a unix socket its path."""
    try:
        address = ipaddress.ip_address(endpoint.host.partition("%")[0])
    except ValueError:
        return 0, endpoint.host.encode(), endpoint.port
    address = getattr(address, "ipv4_mapped", None) or address
    return address.version, address.packed, endpoint.port


@dataclass(frozen=True)
class ServerSpec:
    """A server as the command line names it: ``host[:port[:max[:hard[:weight[:prio]]]]]``."""

    address: Address
    options: dict[str, int]

    def __str__(self) -> str:
        fields = [str(self.options.get(name, "")) for name in SPEC_OPTIONS]
        tail = ":".join(fields).rstrip(":")
        separator = "::" if self.address.path else ":"
        return f"{self.address}{separator}{tail}" if tail else str(self.address)


SPEC_OPTIONS = ("max", "hard", "weight", "prio")


def bracketed(host: str) -> str:
    """An IPv6 address in brackets, any other host as it is."""
    return f"[{host}]" if ":" in host else host


def parse_listen(text: str, default_host: str = "0.0.0.0") -> Address:
    """Read ``[host:]port`` or ``/path``; IPv6 as ``[::1]:80`` or, as pen takes it, ``::1:80``.

    Raises ValueError that names the text and what was expected.
    """
    _refuse_url(text)
    if "/" in text:
        return Address(path=_path(text))
    host, _, port = text.rpartition(":")
    if not host and "." in port:
        path = "" if text.replace(".", "").isdigit() else f", or ./{text} for a unix socket here"
        raise ValueError(f"'{text}' has no port: expected {text}:PORT{path}")
    if host.startswith("[") and host.endswith("]") and ":" in host:
        host = host[1:-1]
    if not port or "[" in host or "]" in host:
        raise ValueError(f"'{text}' is not an address: expected [HOST:]PORT, [IPV6]:PORT or /PATH")
    return Address(host=_host(host, text) if host else default_host, port=parse_port(port))


def _refuse_url(text: str) -> None:
    scheme, is_url, rest = text.partition("://")
    if is_url:
        place = rest.partition("/")[0]
        raise ValueError(f"'{text}' is a URL: expected HOST:PORT{f', here {place}' if place else ''}, without {scheme}://")


def network_address(text: str) -> Address | None:
    """Read ``HOST:PORT``; None for what is the name of a file (./HOST:PORT is one). Raises ValueError."""
    return parse_listen(text) if _NETWORK.fullmatch(text) else None


def parse_server(text: str, default_port: int | str = "") -> ServerSpec:
    """Read ``host[:port[:max[:hard[:weight[:prio]]]]]``, ``[v6]:port...`` or ``/path``; empty fields keep the default.

    Raises ValueError that names the text and what was expected.
    """
    _refuse_url(text)
    host, fields = _split_server(text)
    if len(fields) > 1 + len(SPEC_OPTIONS):
        raise ValueError(f"'{text}' has too many fields: expected HOST[:PORT[:MAX[:HARD[:WEIGHT[:PRIO]]]]]")
    port = fields[0] if fields else ""
    if host.startswith("/"):
        if port:
            raise ValueError(f"'{text}': a unix socket has no port: expected /PATH or /PATH::MAX")
        address = Address(path=_path(host))
    else:
        address = Address(host=_host(host, text), port=parse_port(port) if port else default_port)
    values = zip(SPEC_OPTIONS, fields[1:], strict=False)
    return ServerSpec(address, {name: _count(name, value, text) for name, value in values if value})


def _split_server(text: str) -> tuple[str, list[str]]:
    if not text.startswith("["):
        host, *fields = text.split(":")
        return host, fields
    host, bracket, rest = text[1:].partition("]")
    if not bracket or (rest and not rest.startswith(":")) or ":" not in host:
        raise ValueError(f"'{text}' is not a server: expected [IPV6]:PORT after a bracket")
    return host, rest[1:].split(":") if rest else []


def parse_host(text: str) -> Address:
    """Read a server's address as it stands in a command of its own words: HOST or HOST:PORT, an IPv6 address with or
    without brackets, or ``/path``. Raises ValueError."""
    _refuse_url(text)
    if text.startswith("/"):
        return Address(path=_path(text))
    if _BARE_IPV6.fullmatch(text):
        return Address(host=_host(text, text))
    host, fields = _split_server(text)
    if len(fields) > 1:
        raise ValueError(f"'{text}' has too many fields: expected HOST[:PORT]; the others are words of their own, as "
                         f"in 'max {fields[1]}'")
    return Address(host=_host(host, text), port=parse_port(fields[0]) if fields else "")


def parse_port(text: str) -> int | str:
    """A port number from 0 to 65535, or a service's name as it is. Raises ValueError."""
    if text.isascii() and text.removeprefix("-").isdigit():
        if len(text) > 5 or not 0 <= int(text) <= 65535:
            raise ValueError(f"port '{text}' is out of range: expected 0 to 65535")
        return int(text)
    if not _SERVICE.fullmatch(text):
        raise ValueError(f"'{text}' is not a port: expected a number or a service's name (a path has a /: ./{text})")
    return text


def normalize(host: str) -> str:
    """A client's address in its one form: an IPv4 address that came through an IPv6 socket is shown as IPv4."""
    return host[7:] if host.startswith("::ffff:") and "." in host else host


def _host(host: str, text: str) -> str:
    if _ZERO.fullmatch(host):
        return UNSPECIFIED[0]
    if ":" in host or host.replace(".", "").isdigit():
        try:
            address = ipaddress.ip_address(host if SCOPED.fullmatch(host) else "")  # which lets anything be a scope
            mapped = getattr(address, "ipv4_mapped", None)
            if (mapped or address).is_unspecified:
                return UNSPECIFIED[address.version == 6 and mapped is None]
            return str(address)
        except ValueError:
            hint = " (IPv6 addresses are written in brackets)" if "::" in text else ""
            where = f"'{text}': " if text != host else ""
            raise ValueError(f"{where}'{host}' is not an IP address{hint}") from None
    if not _NAME.fullmatch(host):
        raise ValueError(f"'{text}' is not an address: expected HOST[:PORT], [IPV6]:PORT or /PATH")
    return host


def _path(path: str) -> str:
    if not path.isprintable():
        raise ValueError(f"{path!r} has characters that can't be printed: expected the path of a unix socket")
    if len(path.encode()) > MAX_PATH:
        raise ValueError(f"'{path}' is too long for a unix socket: at most {MAX_PATH} bytes")
    return path


def _count(name: str, value: str, text: str) -> int:
    if not _COUNT.fullmatch(value):
        raise ValueError(f"'{text}': {name} '{value}' is not a number")
    return int(value)
