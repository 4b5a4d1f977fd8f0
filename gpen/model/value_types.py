"""Kinds of values that settings and commands take: how each is read, shown and described."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from ipaddress import ip_address
from itertools import chain
from typing import Any

from gpen.model.acl import number_of
from gpen.model.address import network_address, parse_listen, parse_server
from gpen.model.check import USAGE, parse_check, parse_port_number, parse_program
from gpen.model.facility import is_syslog
from gpen.model.rates import parse_bytes, parse_rate, show_bytes
from gpen.model.sources import parse_sources
from gpen.model.text import shortened

MOST = 2**31 - 1  # what the kernel takes, where a number gets that far
MOST_WORKERS = 64
LONGEST_NAME = 32  # characters of a listener's
UNNAMED = "-"  # what the listener without a name is called
_LISTENER = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_.-]{{0,{LONGEST_NAME - 1}}}")
LONGEST_OWNER = 64  # characters
_OWNER = re.compile(rf"[A-Za-z0-9._-]{{1,{LONGEST_OWNER}}}")
LONGEST_PEER = 64  # characters of a peer's name
_PEER = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_.:-]{{0,{LONGEST_PEER - 1}}}")
_ACCESS = "MODE [USER[:GROUP]]"
_FILE_OWNER = re.compile("(?=.)(?:[^:/]+)?(?::[^:/]+)?")
_MOST_ID = 2**32 - 2  # the last number is the kernel's word for "as it is" (chown(2))
_INTERFACE = re.compile(r"[^\s/:]{1,15}")  # as the kernel has it (dev_valid_name)
_WHOLE = re.compile("-?[0-9]{1,10}")
_LABEL = "[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST_NAME = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(\.{_LABEL})*")
V2_WORDS = ("ssl", "cert-cn", "ssl-cipher", "cert-sig", "cert-key", "authority", "alpn", "crc32c", "unique-id")


@dataclass(frozen=True)
class Kind:
    """One kind of value: ``parse`` raises ValueError with a message that names the value and what was expected.

    It takes one word; or, when ``many``, the list of all words, and ``show`` writes them as they are read back.
    """

    metavar: str
    parse: Callable[[Any], Any]
    show: Callable[[Any], str] = str
    choices: tuple[str, ...] = ()
    many: bool = False


def whole(low: int, high: int = MOST, metavar: str = "N") -> Kind:
    """A whole number from ``low`` to ``high``, both included."""

    def parse(text: str) -> int:
        if not _WHOLE.fullmatch(text) or not low <= int(text) <= high:
            raise ValueError(f"'{text}' is not a whole number from {low} to {high}")
        return int(text)

    return Kind(metavar, parse)


def seconds(zero: bool = True, high: int = 0) -> Kind:
    """A number of seconds, decimals allowed; ``zero`` says whether 0 is one, and ``high`` is the most, if there is."""

    def parse(text: str) -> float:
        digits = text.replace(".", "", 1)
        if not (digits.isascii() and digits.isdigit()) or len(digits) > 12 or (not zero and float(text) == 0):
            raise ValueError(f"'{text}' is not a number of seconds{'' if zero else ' above 0'}: expected one such as "
                             "30 or 0.5")
        value = float(text)
        if high and value > high:
            raise ValueError(f"'{text}' is not a number of seconds up to {high}")
        return int(value) if value.is_integer() else value

    return Kind("S", parse, lambda value: format(Decimal(str(value)), "f"))  # never as 1e-05, which is not read back


def one_of(*choices: str, metavar: str = "") -> Kind:
    """One of the given words."""

    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError(f"'{text}' is not one of {', '.join(choices)}")
        return text

    return Kind(metavar or "|".join(choices), parse, choices=choices)


def whole_each(**most: int) -> Kind:
    """Several whole numbers from 1, each with its name and the most that it may be."""
    metavar = " ".join(most)

    def parse(texts: Sequence[str]) -> tuple[int, ...]:
        if len(texts) != len(most):
            raise ValueError(f"expected {metavar}, {len(most)} numbers; '{' '.join(texts)}' has {len(texts)}")
        return tuple(_named(name, whole(1, high), text) for (name, high), text in zip(most.items(), texts, strict=True))

    return Kind(metavar, parse, lambda value: " ".join(map(str, value)), many=True)


def _named(name: str, kind: Kind, text: str) -> Any:
    try:
        return kind.parse(text)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _mode(text: str) -> int:
    if not text or any(c not in "01234567" for c in text) or int(text, 8) > 0o777:
        raise ValueError(f"'{text}' is not an octal file mode: expected something like 600 or 0660")
    return int(text, 8)


def _access(words: Sequence[str]) -> tuple[int, str]:
    """A file mode, and who owns the file: empty where that is not said."""
    if not 1 <= len(words) <= 2:
        raise ValueError(f"expected {_ACCESS}: 0660 www-data, say" + (f"; '{words[2]}' is too much" if words else ""))
    owner = words[1] if words[1:] else ""
    if owner and not _FILE_OWNER.fullmatch(owner):
        raise ValueError(f"'{owner}' is not the owner of a file: expected USER, USER:GROUP or :GROUP")
    for number in owner.split(":"):
        if number.isdecimal() and int(number) > _MOST_ID:
            raise ValueError(f"'{number}' is not the number of a user or a group: expected at most {_MOST_ID}")
    return _mode(words[0]), owner


def _text(text: str) -> str:
    if not text or not text.isprintable():
        raise ValueError(f"{text[:100]!r} is empty or has characters that can't be printed")
    return text


def _interface(text: str) -> str:
    if not (_INTERFACE.fullmatch(text) and text.isprintable()) or text in (".", ".."):
        raise ValueError(f"'{text}' is not the name of an interface: expected something like eth0")
    return text


def _ipv4(text: str) -> str:
    try:
        number, family = number_of(text)
    except ValueError:
        number, family = 0, 0
    if family != 4 or not number:
        raise ValueError(f"'{text}' is not an IPv4 address: expected something like 192.0.2.100")
    return text


def _log(text: str) -> str:
    if is_syslog(text):
        return text
    network = network_address(text)
    if network is not None and not network.port:
        raise ValueError(f"'{text}': nobody listens at port 0")
    return _text(text)


def words(*choices: str, metavar: str) -> Kind:
    """Some of the given words."""

    def parse(texts: Sequence[str]) -> tuple[str, ...]:
        for text in texts:
            if text not in choices:
                raise ValueError(f"'{text}' is not one of {', '.join(choices)}")
        return tuple(dict.fromkeys(texts))

    return Kind(metavar, parse, " ".join, choices=choices, many=True)


def _v2_options(texts: Sequence[str]) -> tuple[str, ...]:
    """Some of V2_WORDS, with blanks or commas between."""
    found = [word for text in texts for word in text.split(",") if word]
    for word in found:
        if word not in V2_WORDS:
            raise ValueError(f"'{shortened(word)}' is not one of {', '.join(V2_WORDS)}")
    return tuple(dict.fromkeys(found))


def _protocols(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if not all(name.isascii() and name.isprintable() and 0 < len(name) < 256 for name in names):
        raise ValueError(f"'{text}' is not a list of ALPN protocols: expected something like h2,http/1.1")
    return names


def parse_listener(text: str) -> str:
    """Read the name of a listener. Raises ValueError."""
    if not _LISTENER.fullmatch(text):
        raise ValueError(f"'{text}' is not a name for a listener: expected letters, digits and _ . -, at most "
                         f"{LONGEST_NAME}, a letter or digit first")
    return text


def parse_owner(text: str) -> str:
    """Read the name of a program that makes servers; "default" stands for none. Raises ValueError."""
    if not _OWNER.fullmatch(text) or text == "default":
        raise ValueError(f"'{shortened(text)}' is not a name for an owner: expected letters, digits and . _ -, at most "
                         f"{LONGEST_OWNER}, and not default")
    return text


def parse_tls_name(text: str) -> str:
    """Read the name that a server is asked for in TLS, or its address in numbers; "default" stands for none. Raises
    ValueError."""
    if text == "default" or not (_HOST_NAME.fullmatch(text) or _is_number(text)):
        raise ValueError(f"'{shortened(text)}' is no name for TLS: expected a host name, of letters, digits, . and -, "
                         "or an address in numbers")
    return text


def _is_number(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def listener_prefix(name: str) -> str:
    """What a message about a listener begins with; nothing for the one without a name."""
    return f"listener {name}: " if name else ""


def _door(text: str) -> str:
    """Where HTTP is spoken. To be off is what other settings say in a word."""
    if text == "off":
        raise ValueError("'off' is no address: to have none, say 'no metrics'")
    return str(CONTROL.parse(text))


def _listen(text: str) -> str:
    """Where clients connect. What LISTEN of the command line may say besides would be the name of a file here."""
    first, comma, others = text.partition(",")
    if comma and "/" not in text:
        raise ValueError(f"'{text}' are several addresses: expected {first}, and each other as a listener of its own: "
                         f"'listener NAME listen {others.partition(',')[0] or 'PORT'}'")
    port, _, transport = text.rpartition("/")
    if transport in ("tcp", "udp") and _PORT.fullmatch(port):
        setting = "udp" if transport == "udp" else "no udp"
        raise ValueError(f"'{text}' names a transport: expected {port}, and '{setting}' in a line of its own")
    parse_listen(text)
    return text


def _workers(text: str) -> int | str:
    """How many there are to be, or ``auto``."""
    if text == "auto":
        return text
    try:
        return int(whole(0, MOST_WORKERS).parse(text))
    except ValueError as error:
        raise ValueError(f"{error}, or auto") from None


def _peer_name(text: str) -> str:
    if not _PEER.fullmatch(text):
        raise ValueError(f"'{text}' is not a name for a peer: expected letters, digits and _ . : -, at most "
                         f"{LONGEST_PEER}, a letter or digit first")
    return text


def _pair(example: str, default_host: str) -> Callable[[Sequence[str]], tuple[str, str]]:
    """A reader of the name of a peer and an address."""

    def parse(words: Sequence[str]) -> tuple[str, str]:
        if len(words) != 2:
            raise ValueError(f"'{' '.join(words)}' is not a name and an address: expected {example}")
        address = parse_listen(words[1], default_host)
        if address.path or not address.host:
            raise ValueError(f"'{words[1]}' is no address for peers: expected {example}")
        return _peer_name(words[0]), words[1]

    return parse


_own_peer, _other_peer = _pair("NAME [HOST:]PORT", "0.0.0.0"), _pair("NAME HOST:PORT", "")
_PORT = re.compile("(?:[^/]*:)?[0-9]+")
FLAG = Kind("", lambda text: True)
TEXT = Kind("TEXT", _text)
FILE = Kind("FILE", _text)
LOG = Kind("FILE|syslog[:FACILITY]|HOST:PORT", _log)
ALPN = Kind("NAME,NAME...", _protocols, ",".join)
V2_OPTIONS = Kind("WORD,WORD...", _v2_options, ",".join, choices=V2_WORDS, many=True)
DIRECTORY = Kind("DIR", _text)
TLS_NAME = Kind("NAME", parse_tls_name)
USER = Kind("USER", _text)
SOURCES = Kind("ADDRESS[-LAST],...", parse_sources, ",".join, many=True)
MODE = Kind("MODE", _mode, lambda value: f"{value:04o}")
ACCESS = Kind(_ACCESS, _access, lambda value: f"{value[0]:04o} {value[1]}".rstrip() if value else "", many=True)
LISTEN = Kind("ADDRESS", _listen)
CONTROL = Kind("ADDRESS", lambda text: (parse_listen(text, "127.0.0.1"), text)[1])
DOOR = Kind("HOST:PORT|/PATH", _door)
SPEC = Kind("HOST:PORT", parse_server)
LISTENER = Kind("LISTENER|-", lambda text: text if text == UNNAMED else parse_listener(text))
ACL = whole(0, 9)
RATE = Kind("N/S|off", parse_rate)
BANDWIDTH = Kind("BYTES|off", parse_bytes, show_bytes)
WORKERS = Kind("N|auto", _workers)
ONE_AT_LEAST = Kind("N", lambda text: whole(0).parse(text) or 1)
INTERFACE = Kind("INTERFACE", _interface)
IPV4 = Kind("ADDRESS", _ipv4)
ACL_OR_OFF = Kind("N|off", lambda text: text if text == "off" else ACL.parse(text))
PIT = Kind("N|off", lambda text: "off" if text == "-1" else ACL_OR_OFF.parse(text))  # pen's word for off is -1
KEEPALIVE = whole_each(IDLE=32767, INTERVAL=32767, COUNT=127)  # what the kernel takes (tcp(7))
CHECK = Kind(USAGE, parse_check, many=True)
PORT = Kind("PORT", parse_port_number)
PROGRAM = Kind("PROGRAM", parse_program)
OWN_PEER = Kind("NAME [HOST:]PORT", _own_peer, " ".join, many=True)
OTHER_PEER = Kind("NAME HOST:PORT", lambda words: (_other_peer(words),), lambda value: " ".join(chain(*value)),
                  many=True)
