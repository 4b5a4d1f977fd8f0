"""How to log in to the nodes: who, with which password, by TLS or not. Never from the command line, where ps shows it.

PyMySQL is imported when the first connection is made, so that what needs none starts at once.
"""

from __future__ import annotations

import os
import re
import socket
import ssl
import stat
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gpen.galera.report import MYSQL_PORT
from gpen.log import warn
from gpen.model.address import Address, parse_server

if TYPE_CHECKING:
    from pymysql.connections import Connection

MODES = DISABLED, PREFERRED, REQUIRED, VERIFY_CA, VERIFY_IDENTITY = (
    "DISABLED", "PREFERRED", "REQUIRED", "VERIFY_CA", "VERIFY_IDENTITY")  # MySQL's words
OFF = ("0", "off", "false")
USER, PASSWORD = "GPEN_GALERA_USER", "GPEN_GALERA_PASSWORD"

# A node that is stopped keeps its connections for good, and is waited for: to close one and open the next would leave
# a trace in its log for each. A machine that is gone answers no keepalive within these seconds, and is noticed so.
_KEEPALIVE = ((socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1), (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 3),
              (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 2), (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
              (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 9000), (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1))

# A login that is given up (by --timeout, or by gpen, whose `check exec` it is) ends with a reset. A frozen node that
# goes on counts those who have closed as connections without a login, and may block this address; not who has reset.
_RESET_AT_CLOSE, _AS_USUAL = struct.pack("ii", 1, 0), struct.pack("ii", 0, 0)


# A session that waits for the cluster would hang when the cluster does; one whose rows or time are limited, by the
# account or by the server, would make a node that is well one that fails. MySQL does not limit time so, and skips the
# comment.
_SESSION = ("SET SESSION wsrep_sync_wait = 0, sql_select_limit = 18446744073709551615 "
            "/*M!100100 , max_statement_time = 0 */")


class AccessError(Exception):
    """No credentials, or none that can be used; one line for the user."""


@dataclass(frozen=True)
class Access:
    """Credentials, and a TLS context if TLS is wanted: made once, since making one costs 30 times a login."""

    user: str
    password: str = field(repr=False)
    tls: ssl.SSLContext | None = None

    def connect(self, address: str, connect_timeout: float, timeout: float | None = None) -> Connection:
        """Log in at HOST:PORT or /path. ``connect_timeout`` in seconds is for the way there, ``timeout`` for each
        silence after; None waits as long as the node's machine is there.

        Raises OSError, or pymysql.err.MySQLError when the node refuses.
        """
        from pymysql.constants import CLIENT

        from gpen.galera.bounded import Bounded

        place = parse_node(address)
        connection = Bounded(
            host=place.host or "localhost", user=self.user, password=self.password, ssl=self.tls,
            ssl_disabled=self.tls is None, autocommit=True, read_timeout=timeout, write_timeout=timeout,
            init_command=_SESSION, program_name="gpen-galera", defer_connect=True,
            client_flag=CLIENT.MULTI_STATEMENTS)
        sock = _reach(place, connect_timeout)
        with sock.dup() as same:  # for PyMySQL closes sock, or wraps it in TLS
            same.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
            connection.connect(sock)
            same.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AS_USUAL)
        return connection


def parse_node(text: str) -> Address:
    """A node's address, HOST[:PORT] or /path. Raises ValueError."""
    spec = parse_server(text, MYSQL_PORT)
    if spec.options or spec.address.is_none or not (spec.address.path or isinstance(spec.address.port, int)):
        raise ValueError(f"'{text}' is not a node: expected HOST:PORT")
    return spec.address


def _reach(place: Address, timeout: float) -> socket.socket:
    if place.path:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(timeout)
        try:
            sock.connect(place.path)
        except OSError:
            sock.close()
            raise
        return sock
    assert isinstance(place.port, int)
    sock = socket.create_connection((place.host, place.port), timeout)
    for level, option, value in _KEEPALIVE:
        sock.setsockopt(level, option, value)
    return sock


def read_access(defaults_file: str | None, ca_file: str | None, environment: Mapping[str, str] = os.environ) -> Access:
    """The credentials in the group [client] of a my.cnf, or in the environment. Raises AccessError."""
    options = _client_group(defaults_file) if defaults_file else {}
    user = options.get("user") or environment.get(USER, "")
    password = options["password"] if "password" in options else environment.get(PASSWORD, "")
    if not user:
        where = f"{defaults_file}: no user in its group [client]" if defaults_file else "no credentials"
        raise AccessError(f"{where}; give --defaults-file FILE, or set {USER} and {PASSWORD}")
    return Access(user, password, _tls(options | ({"ssl-ca": ca_file} if ca_file else {}), bool(ca_file)))


def _client_group(path: str) -> dict[str, str]:
    """The options in the group [client] of a my.cnf: ``ssl_ca`` as ``ssl-ca``; a name alone has the value ""."""
    try:
        with open(path, encoding="utf-8") as file:
            mode = os.fstat(file.fileno()).st_mode
            lines = file.read().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "no UTF-8 text"
        raise AccessError(f"{path}: {why}; --defaults-file wants a my.cnf with a group [client]") from None
    options: dict[str, str] = {}
    group = ""
    for line in map(str.strip, lines):
        if line.startswith("["):
            group = line.strip("[] \t")
        elif group == "client" and line and line[0] not in "#;!":
            name, _, value = line.partition("=")
            options[name.strip().replace("_", "-")] = _value(value.strip())
    if "password" in options and mode & stat.S_IROTH:
        warn(f"{path}: everybody on this machine can read the password in it: chmod o= {path}")
    return options


def _value(text: str) -> str:
    """A value of a my.cnf: perhaps in quotes, with a comment behind it, with backslash sequences."""
    quoted = re.match(r"(['\"])((?:\\.|(?!\1).)*)\1", text)
    bare = quoted[2] if quoted else text.partition("#")[0].rstrip()
    return re.sub(r"\\(.)", lambda found: {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "s": " "}.get(
        found[1], found[1]), bare)


def _mode(options: Mapping[str, str]) -> str:
    """Whether the options want TLS and what of it, in MySQL's words; MariaDB has a switch for each."""
    said = options.get("ssl-mode", "").upper()
    if said and said not in MODES:
        raise AccessError(f"ssl-mode: '{options['ssl-mode']}' is not one of {', '.join(MODES)}")
    if not said and (_flag(options, "skip-ssl") or _flag(options, "disable-ssl") or options.get("ssl", "").lower()
                     in OFF):
        return DISABLED
    has_ca = bool(options.get("ssl-ca") or options.get("ssl-capath"))
    if has_ca and said in ("", PREFERRED, REQUIRED):
        return VERIFY_IDENTITY if _flag(options, "ssl-verify-server-cert") else VERIFY_CA
    return said or (REQUIRED if options.get("ssl-cert") or _flag(options, "ssl") else DISABLED)


def _tls(options: Mapping[str, str], insists: bool) -> ssl.SSLContext | None:
    """``insists``: the command line wants TLS, whatever the file says."""
    mode, ca_file, certificate = _mode(options), options.get("ssl-ca"), options.get("ssl-cert")
    if mode == DISABLED and not insists:
        return None
    try:
        context = ssl.create_default_context(cafile=ca_file, capath=options.get("ssl-capath"))
        # the certificates that MariaDB's own tools make lack what Python 3.13 wants to see in them
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        context.check_hostname = mode == VERIFY_IDENTITY
        if mode in (PREFERRED, REQUIRED):
            context.verify_mode = ssl.CERT_NONE
        if certificate:
            context.load_cert_chain(certificate, options.get("ssl-key"))
    except (OSError, ssl.SSLError) as error:
        raise AccessError(f"TLS: {ca_file or certificate}: {error.strerror or error}; check the PEM file") from None
    return context


def _flag(options: Mapping[str, str], name: str) -> bool:
    return name in options and options[name].lower() not in OFF
