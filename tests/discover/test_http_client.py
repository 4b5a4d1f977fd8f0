"""The HTTP of sources against servers that are slow, endless, broken, hostile, or somebody else."""

from __future__ import annotations

import contextlib
import itertools
import json
import resource
import socket
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gpen.discover.http_client import MOST, HttpClient, HttpError, Silent, Tls
from gpen.discover.http_source import secret_in
from gpen.discover.source import SourceError
from tests.certificates import Certificates
from tests.discover.request import request_of
from tests.harness import Server, family_of, read_all, wait_until

HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


def saying(*pieces: bytes, pause: float = 0.0, then: Callable[[socket.socket], None] | None = None) -> Server:
    """A server that reads a request, says this, with pauses, and closes."""
    def serve(client: socket.socket) -> None:
        request_of(client)
        for piece in pieces:
            client.sendall(piece)
            threading.Event().wait(pause)
        if then is not None:
            then(client)

    return Server(serve)


def for_ever(piece: bytes) -> Callable[[socket.socket], None]:
    def say(client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client.sendall(piece)

    return say


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def test_an_answer() -> None:
    with saying(HEAD + b"X-Index: 7\r\nContent-Length: 9\r\n\r\n", b'{"a": 1}\n') as server:
        answer = HttpClient(f"http://{server.address}").ask("GET", "/")
    assert answer.value == {"a": 1} and answer.headers["x-index"] == "7"


def test_lines_of_an_answer_that_goes_on_come_as_they_are_said() -> None:
    pieces = [CHUNKED, chunk(b'{"a"'), chunk(b': 1}\n\n[2'), chunk(b"]\n3\n"), b"0\r\n\r\n"]
    with saying(*pieces, pause=0.01) as server:
        assert list(HttpClient(f"http://{server.address}").lines("GET", "/", 5)) == [{"a": 1}, [2], 3]


def test_a_path_in_front_of_all_others_and_what_is_sent() -> None:
    heard = []

    def serve(client: socket.socket) -> None:
        heard.append(request_of(client))
        client.sendall(HEAD + b"Content-Length: 2\r\n\r\n{}")

    with Server(serve) as server:
        HttpClient(f"http://{server.address}/front/").ask("POST", "/a?b=c", {"d": 1}, {"X-Token": "t"})
    assert heard[0].startswith(b"POST /front/a?b=c HTTP/1.1\r\n") and heard[0].endswith(b'\r\n\r\n{"d": 1}')
    assert b"\r\nX-Token: t\r\n" in heard[0] and b"\r\nHost: " + server.address.encode() in heard[0]


def test_an_ipv6_address_is_a_place_as_well() -> None:
    heard = []

    def serve(client: socket.socket) -> None:
        heard.append(request_of(client))
        client.sendall(HEAD + b"Content-Length: 2\r\n\r\n[]")

    family_of("::")
    with Server(serve, at="::1") as server:
        assert HttpClient(f"http://[::1]:{server.port}").ask("GET", "/").value == []
    assert heard[0].lower().count(b"host:") == 1 and b"\r\nHost: [::1]:%d\r\n" % server.port in heard[0]


@pytest.mark.parametrize(("said", "then", "error"), [
    (HEAD + b"Content-Length: 9\r\n\r\n[1, ", None, "cut off"),
    (CHUNKED + b"4\r\n[1", None, "cut off"),
    (CHUNKED + b"zz\r\n", None, "cut off"),
    (HEAD + b"Content-Length: 4\r\n\r\n[1, ", None, "no JSON"),
    (HEAD + b"\r\n" + b"[" * 100_000, None, "no JSON"),
    (HEAD + b"\r\n\xff\xfe", None, "no JSON"),
    (b"", None, "closed connection without response"),
    (b"SSH-2.0-OpenSSH\r\n", None, "no HTTP"),
    (HEAD, for_ever(b"X-Header: more\r\n"), "no HTTP"),
    (HEAD, for_ever(b"x" * 4096), "no HTTP"),
    (b"HTTP/1.1 100 Continue\r\n\r\n", for_ever(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000), "longer than 8 MiB"),
    (HEAD + b"\r\n", for_ever(b"[" * 65536), "longer than 8 MiB"),
    (CHUNKED, for_ever(chunk(b"[" * 65536)), "longer than 8 MiB"),
    (CHUNKED + b"7fffffffffffffff\r\n", for_ever(b"[" * 65536), "longer than 8 MiB"),
    (HEAD + b"Content-Length: 99999999999\r\n\r\n", for_ever(b"[" * 65536), "longer than 8 MiB"),
])
def test_a_bad_answer_is_an_error(said: bytes, then: Callable[[socket.socket], None] | None, error: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with saying(said, then=then) as server, pytest.raises(SourceError, match=error):
        HttpClient(f"http://{server.address}").ask("GET", "/", seconds=10)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 8 * MOST // 1024


@pytest.mark.parametrize(("said", "then", "error"), [
    (CHUNKED + chunk(b"1\n2"), None, "a line of its answer has no end"),
    (CHUNKED + chunk(b"1\n2") + b"0\r\n\r\n", None, "a line of its answer has no end"),
    (CHUNKED + chunk(b"1\n{\n"), None, "no JSON"),
    (CHUNKED + chunk(b"1\n"), for_ever(chunk(b"[" * 65536)), "has no end|longer than 8 MiB"),
    (HEAD + b"\r\n1\n", for_ever(b"[" * 65536), "has no end|longer than 8 MiB"),
])
def test_a_bad_line_is_an_error(said: bytes, then: Callable[[socket.socket], None] | None, error: str) -> None:
    with saying(said, then=then) as server:
        lines = HttpClient(f"http://{server.address}").lines("GET", "/", 10)
        assert next(lines) == 1
        with pytest.raises(SourceError, match=error):
            next(lines)


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200", HEAD + b"Content-Length: 9000\r\n\r\n"])
def test_who_says_a_byte_now_and_then_says_nothing(said: bytes) -> None:
    with saying(said, *[b"x"] * 1000, pause=0.02) as server:
        began = time.monotonic()
        with pytest.raises(SourceError, match="does not answer in time"):
            HttpClient(f"http://{server.address}").ask("GET", "/", seconds=0.3)
        assert 0.2 < time.monotonic() - began < 2


def test_a_line_that_never_ends_is_silence() -> None:
    with saying(CHUNKED + chunk(b"1\n"), *[chunk(b"2")] * 1000, pause=0.02) as server:
        lines = HttpClient(f"http://{server.address}").lines("GET", "/", 0.3)
        assert next(lines) == 1
        with pytest.raises(Silent):
            next(lines)


def test_nobody_is_sent_elsewhere() -> None:
    with saying(HEAD + b"Content-Length: 2\r\n\r\n{}") as other:
        moved = f"HTTP/1.1 307 Temporary Redirect\r\nLocation: http://{other.address}/\r\nContent-Length: 0\r\n\r\n"
        with saying(moved.encode()) as server, pytest.raises(HttpError, match="307, which sends elsewhere"):
            HttpClient(f"http://{server.address}").ask("GET", "/", headers={"Authorization": "Bearer secret"})
        assert other.served == 0


@pytest.mark.parametrize(("body", "told"), [
    (b'{"message": "no leader\\u001b[2J"}', "answers 503: no leader\\\\x1b"), (b'{"error": "no"}', "503: no"),
    (b"<html>\n sorry\r\n</html>", "503: <html> sorry </html>"), (b"[" * 5000, r"503: \[\[\["), (b"", "503")])
def test_what_an_answer_that_says_no_says(body: bytes, told: str) -> None:
    said = b"HTTP/1.1 503 Sorry\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    with saying(said) as server, pytest.raises(HttpError, match=told) as error:
        HttpClient(f"http://{server.address}").ask("GET", "/")
    assert error.value.status == 503 and str(error.value).isprintable()


def test_stop_interrupts_at_once_and_for_good() -> None:
    with saying(CHUNKED + chunk(b"1\n"), then=read_all) as server:
        client = HttpClient(f"http://{server.address}")
        lines = client.lines("GET", "/", 20)
        assert next(lines) == 1
        began = time.monotonic()
        timer = threading.Timer(0.1, client.stop)
        timer.start()
        assert not list(lines)
        assert time.monotonic() - began < 2
        with pytest.raises(SourceError, match="stopped"):
            client.ask("GET", "/")
        timer.join()
        assert server.served == 1


@pytest.mark.parametrize("url", [
    "", "127.0.0.1:80", "ftp://127.0.0.1", "http://", "http://127.0.0.1:none", "http://127.0.0.1:99999",
    "http://127.0.0.1/?a=b", "http://user:secret@127.0.0.1", "unix:///path",
    "http://user:secret@127.0.0.1:99999", "http://127.0.0.1:0", "http://[::1"])
def test_what_is_no_url(url: str) -> None:
    with pytest.raises(ValueError) as error:
        HttpClient(url)
    assert "secret" not in str(error.value)


def test_a_secret_is_one_word_in_a_file_and_never_told(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(" s3cret\n")
    assert secret_in(str(file)) == "s3cret"
    for text in ("s3cret more", "s3cret\nX-Other: 1", "", "s3cr\u00e9t"):
        file.write_text(text)
        with pytest.raises(SourceError, match=str(file)) as error:
            secret_in(str(file))
        assert "s3cr" not in str(error.value)
    with saying(b"") as server, pytest.raises(SourceError) as refused:
        HttpClient(f"http://{server.address}").ask("GET", "/", headers={"Authorization": "s3cret\r\nX: y"})
    assert "s3cret" not in str(refused.value)


# --- TLS -------------------------------------------------------------------------------------------------------------


def safe(certificates: Certificates, pair: str = "server", wants: bool = False) -> Server:
    """A server that answers [] by TLS, and may want to see a client's certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made = getattr(certificates, pair)
    context.load_cert_chain(made.certificate, made.key)
    if wants:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(certificates.authority.certificate)

    def serve(client: socket.socket) -> None:
        with contextlib.suppress(OSError), context.wrap_socket(client, server_side=True) as tls:
            tls.recv(1 << 16)
            tls.sendall(HEAD + b"Content-Length: 2\r\n\r\n[]")

    return Server(serve)


def test_tls_is_verified(certificates: Certificates) -> None:
    ours, theirs = (Tls(str(it.certificate)) for it in (certificates.authority, certificates.other))
    with safe(certificates) as server:
        url = f"https://localhost:{server.port}"
        assert HttpClient(url, ours).ask("GET", "/").value == []
        for where, tls in ((url, theirs), (url, Tls()), (f"https://127.0.0.1:{server.port}", ours)):
            with pytest.raises(SourceError, match="its certificate is not accepted"):
                HttpClient(where, tls).ask("GET", "/", headers={"Authorization": "secret"})
        with pytest.raises(SourceError):
            HttpClient(f"http://localhost:{server.port}").ask("GET", "/")
    with safe(certificates, "expired") as server, pytest.raises(SourceError, match="expired"):
        HttpClient(f"https://localhost:{server.port}", ours).ask("GET", "/")


def test_a_certificate_is_shown_and_files_are_read_anew(certificates: Certificates, tmp_path: Path) -> None:
    authority, pair = tmp_path / "ca.crt", tmp_path / "client.pem"
    authority.write_bytes(certificates.other.certificate.read_bytes())
    certificates.stranger.in_one(pair)
    with safe(certificates, wants=True) as server:
        client = HttpClient(f"https://localhost:{server.port}", Tls(str(authority), str(pair)))
        with pytest.raises(SourceError, match="is not accepted"):
            client.ask("GET", "/")
        authority.write_bytes(certificates.authority.certificate.read_bytes())
        with pytest.raises(SourceError):
            client.ask("GET", "/")
        certificates.client.in_one(pair)
        assert client.ask("GET", "/").value == []


@pytest.mark.parametrize("broken", ["ca", "certificate"])
def test_files_that_are_no_pem_are_told(broken: str, tmp_path: Path) -> None:
    for name in ("missing.pem", "text.pem"):
        file = tmp_path / name
        if name == "text.pem":
            file.write_text("text")
        with pytest.raises(SourceError, match=f"TLS: {file}: .*a PEM file is needed"):
            HttpClient("https://127.0.0.1:1", Tls(**{broken: str(file)})).ask("GET", "/")


def test_a_server_that_does_not_shake_hands_is_given_up() -> None:
    with Server(read_all) as server:
        began = time.monotonic()
        with pytest.raises(SourceError, match="in time"):
            HttpClient(f"https://{server.address}").ask("GET", "/", seconds=0.5)
        assert time.monotonic() - began < 3
        wait_until(lambda: server.live == 0, what="the end of the connection")


def test_deep_json_of_any_depth_is_an_answer_or_an_error() -> None:
    client = HttpClient("http://127.0.0.1")
    for depth in itertools.accumulate(itertools.repeat(100, 30)):
        text = "[" * depth + "]" * depth
        try:
            assert json.dumps(client.read_json(text.encode())) == text
        except (SourceError, RecursionError):
            assert depth > 300
