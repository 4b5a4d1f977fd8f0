"""Addresses as people write them: what is read, how it prints again, and what is refused with which words."""

from __future__ import annotations

import pytest

from gpen.model.address import (
    MAX_PATH,
    Address,
    Endpoint,
    normalize,
    parse_host,
    parse_listen,
    parse_port,
    parse_server,
)


@pytest.mark.parametrize(("text", "host", "port"), [
    ("80", "0.0.0.0", 80),
    ("0", "0.0.0.0", 0),
    (":80", "0.0.0.0", 80),
    ("http", "0.0.0.0", "http"),
    ("localhost:smtp", "localhost", "smtp"),
    ("127.0.0.1:65535", "127.0.0.1", 65535),
    ("[::1]:80", "::1", 80),
    ("[::]:80", "::", 80),
    ("::1:80", "::1", 80),  # as pen takes it
    (":::80", "::", 80),
    ("[2001:DB8::0:1]:80", "2001:db8::1", 80),
    ("[fe80::1%eth0]:80", "fe80::1%eth0", 80),
    ("www-1.example.org:x-port", "www-1.example.org", "x-port"),
])
def test_listen(text: str, host: str, port: int | str) -> None:
    assert parse_listen(text) == Address(host, port)


def test_listen_elsewhere_by_default() -> None:
    assert parse_listen("8888", "127.0.0.1") == Address("127.0.0.1", 8888)


@pytest.mark.parametrize("text, remedy", [
    ("gpen.ctl", "expected gpen.ctl:PORT, or ./gpen.ctl for a unix socket here"),
    ("10.0.0.1", "expected 10.0.0.1:PORT"),
])
def test_no_port(text: str, remedy: str) -> None:
    with pytest.raises(ValueError, match=f"^'{text}' has no port: {remedy}$"):
        parse_listen(text)


def test_listen_on_a_path() -> None:
    assert parse_listen("/run/gpen.sock") == Address(path="/run/gpen.sock")
    assert parse_listen("./gpen.ctl") == Address(path="./gpen.ctl")
    assert parse_listen("/" + "x" * (MAX_PATH - 1)).path


@pytest.mark.parametrize("text", [
    "", ":", "80:", "127.0.0.1:", "65536", "-1", "--5", "localhost:99999", "[::1]", "[::1]80", "[::1:80", "::1]:80",
    "127.0.0.256:80", "127.0.0:80", "1:2:3:80:80:80:80:80:80:80", "a b:80", "www:8 0", "www:8\u00b2", "\u0663",
    'w"w:80', "www#1:80", "[www]:80", "[]:80", "[[::1]]:80", "\u00fc.de:80", "/tmp/a\nb",
    "/" + "x" * MAX_PATH, "/" + "\u00fc" * 60,
])
def test_not_to_listen_on(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected|out of range|not an IP|too long") as caught:
        parse_listen(text)
    message = str(caught.value)
    assert "\n" not in message
    assert text in message or repr(text) in message or text.rpartition(":")[2] in message


@pytest.mark.parametrize(("text", "address", "options"), [
    ("10.0.0.1", Address("10.0.0.1", 3306), {}),
    ("www", Address("www", 3306), {}),
    ("www:", Address("www", 3306), {}),
    ("www:http", Address("www", "http"), {}),
    ("www:80:5", Address("www", 80), {"max": 5}),
    ("www:80:5:6:7:8", Address("www", 80), {"max": 5, "hard": 6, "weight": 7, "prio": 8}),
    ("www::::7", Address("www", 3306), {"weight": 7}),
    ("[::1]", Address("::1", 3306), {}),
    ("[::1]:80:5", Address("::1", 80), {"max": 5}),
    ("[2001:db8::1]:80:::4", Address("2001:db8::1", 80), {"weight": 4}),
    ("/run/www.sock", Address(path="/run/www.sock"), {}),
    ("/run/www.sock::5", Address(path="/run/www.sock"), {"max": 5}),
])
def test_server(text: str, address: Address, options: dict[str, int]) -> None:
    spec = parse_server(text, 3306)
    assert (spec.address, spec.options) == (address, options)
    assert parse_server(str(spec)) == spec, "it prints as it may be written again"


@pytest.mark.parametrize("text", [
    "", ":80", "[::1", "[::1]80", "[]:80", "[www]:80", "::1:80", "www:80:x", "www:80:-1", "www:80:1:2:3:4:5",
    "www:70000", "www:80:\u00b2", "www:--1", "1.2.3:80", "a/b:80", "/run/x:80", "w w:80", "/" + "x" * MAX_PATH,
])
def test_not_a_server(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected|is not|out of range|too long") as caught:
        parse_server(text, 80)
    assert text in str(caught.value) or text.rpartition(":")[2] in str(caught.value)


@pytest.mark.parametrize(("text", "address"), [
    ("www", Address("www")), ("::1", Address("::1")), ("[::1]", Address("::1")), ("/run/x", Address(path="/run/x")),
    ("10.0.0.1", Address("10.0.0.1")), ("10.0.0.9:80", Address("10.0.0.9", 80)), ("[::1]:80", Address("::1", 80)),
    ("www:http", Address("www", "http")), ("::1:80", Address("::1:80")), ("fe80::1%eth0.5", Address("fe80::1%eth0.5")),
])
def test_host(text: str, address: Address) -> None:
    assert parse_host(text) == address


@pytest.mark.parametrize("text", ["", "10.0.0.1:80:5", "10.0.0.1:", ":80", "[::1]:", "[::1]x:80", "10.0.0.1:x!",
                                  "a b", "[", "[]", "1.2.3", "a/b", "(unknown", "fe80::1%a b", "[fe80::1%a\nb]:80",
                                  "fe80::1%a\tb", "fe80::1%"])
def test_not_a_host(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected|not an IP address"):
        parse_host(text)


@pytest.mark.parametrize("text", ["0.0.0.0", "0", "0.0", "0x0", "00", "0x0.0", "000.0.0.0", "0X00.0.0.0", "::", "[::]",
                                  "::0",
                                  "0:0:0:0:0:0:0:0", "::ffff:0.0.0.0", "0.0.0.0:80", "[::]:80", "10.0.0.1:0", "www:0"])
def test_no_address(text: str) -> None:
    """As inet_aton reads it, on which pen relies."""
    assert parse_host(text).is_none


@pytest.mark.parametrize("text", ["0", "0:80", "0.0.0.0:80:5", "[::]:80", "10.0.0.1:0", "0x0:0:0"])
def test_no_server(text: str) -> None:
    assert parse_server(text, 80).address.is_none


@pytest.mark.parametrize("text", ["0.0.0.1", "1.0.0.0", "127.0.0.1", "::1", "www", "x0", "0.0.0.0.com", "/0"])
def test_an_address(text: str) -> None:
    assert not parse_host(text).is_none


@pytest.mark.parametrize("text", ["", "-1", "--1", "65536", "8o!", "\u00b2", "-", "9" * 5000])
def test_not_a_port(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        parse_port(text)


def test_printing() -> None:
    assert str(Address("::1", 80)) == "[::1]:80"
    assert str(Address("www", "http")) == "www:http"
    assert str(Address(path="/x")) == "/x"
    assert str(Endpoint(10, ("::1", 80), "::1", 80)) == "[::1]:80"
    assert str(Endpoint(1, "/x", "/x", 0)) == "/x"


def test_an_ipv4_client_of_an_ipv6_socket() -> None:
    assert normalize("::ffff:192.0.2.1") == "192.0.2.1"
    assert normalize("::1") == "::1"
    assert normalize("::ffff:1:2") == "::ffff:1:2"
