"""The name that a server is asked for in TLS."""

from __future__ import annotations

import pytest

from gpen.model.address import parse_server
from gpen.model.server import Server
from gpen.model.settings import Settings
from gpen.wire.server_tls import tls_name


@pytest.mark.parametrize(("address", "name"), [
    ("db.example:443", "db.example"), ("db.example.:443", "db.example"), ("192.0.2.1:443", "192.0.2.1"),
    ("[2001:db8::1]:443", "2001:db8::1"), ("[fe80::1%eth0]:443", "fe80::1"), ("/run/db.sock", "localhost")])
def test_it_is_the_host_of_its_address(address: str, name: str) -> None:
    server = Server("0", 0)
    server.address, server.tls = parse_server(address).address, "on"
    assert tls_name(server, Settings()) == name
