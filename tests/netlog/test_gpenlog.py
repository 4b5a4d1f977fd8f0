"""gpenlog: each line goes out at once, as penlog sends it, and nothing stops it."""

from __future__ import annotations

import signal
import subprocess

import pytest

from tests.harness import PATIENCE, free_port, wait_until
from tests.netlog.programs import GPENLOG, WEB, Piped, hearing, needs_penlog, run

INPUTS = [
    b"", b"\n", b"a line\n", b"one\ntwo\n\nthree\r\n", b"no end", b"\xff\x01\x1b tab\t\n", b"x" * 1022 + b"\n",
    b"x" * 1023 + b"\n", b"x" * 5000 + b"\ny\n"]


def datagrams(program: list[str], given: bytes, *arguments: str) -> list[tuple[str, bytes]]:
    """What a collector gets from a program with this input: senders and datagrams. Both forms of the address."""
    with hearing() as sock:
        host, port = sock.getsockname()
        done = run([*program, host, str(port), *arguments], given)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
        sock.setblocking(False)
        found: list[tuple[str, bytes]] = []
        while True:
            try:
                datagram, sender = sock.recvfrom(70_000)
            except BlockingIOError:
                return found
            found.append((sender[0], datagram))


@needs_penlog
@pytest.mark.parametrize("given", INPUTS, ids=range(len(INPUTS)))
def test_the_datagrams_are_penlogs(given: bytes) -> None:
    assert datagrams(GPENLOG, given) == datagrams(["penlog"], given)


def test_every_line_is_a_datagram_and_a_zero_byte_no_end() -> None:
    assert datagrams(GPENLOG, b"one\nt\0wo\nend") == [("127.0.0.1", piece) for piece in (b"one\n", b"t\0wo\n", b"end")]


def test_my_address_is_where_they_come_from() -> None:
    assert datagrams(GPENLOG, b"one\n", WEB) == [(WEB, b"one\n")]


@pytest.mark.parametrize("form", ["{host}:{port}", "{host} {port}", "{host}:{port} {host}", "{host} {port} {host}",
                                  "[{host}]:{port}", "[{host}] {port}"])
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_forms_of_the_address(form: str, host: str) -> None:
    with hearing(host) as sock:
        done = run([*GPENLOG, *form.format(host=host, port=sock.getsockname()[1]).split()], b"a line\n")
        assert (done.returncode, done.stderr) == (0, b"")
        assert sock.recv(100) == b"a line\n"


def test_a_name_means_its_ipv4_address() -> None:
    with hearing() as sock:
        assert run([*GPENLOG, f"localhost:{sock.getsockname()[1]}"], b"a line\n").returncode == 0
        assert sock.recv(100) == b"a line\n"


def test_a_line_does_not_wait_for_the_next() -> None:
    with hearing() as sock, Piped(*GPENLOG, "127.0.0.1", str(sock.getsockname()[1])) as gpenlog:
        for text in (b"one\n", b"two\n"):
            gpenlog.write(text)
            assert sock.recv(100) == text
        gpenlog.stdin.close()
        assert gpenlog.process.wait(PATIENCE) == 0


def test_it_goes_on_while_the_collector_is_away() -> None:
    port = free_port()
    with Piped(*GPENLOG, "127.0.0.1", str(port)) as gpenlog:
        gpenlog.write(b"lost\n" * 1000)
        with hearing(port=port) as sock:
            sock.setblocking(False)

            def arrives() -> bool:
                gpenlog.write(b"found\n")
                try:
                    return sock.recv(100) == b"found\n"
                except BlockingIOError:
                    return False

            wait_until(arrives, what="a line at the collector that is back")
        gpenlog.write(b"lost again\n" * 1000)
        gpenlog.stdin.close()
        assert gpenlog.process.wait(PATIENCE) == 0
        assert gpenlog.stderr.read() == b""


def test_what_can_not_be_sent_is_told_once() -> None:
    """The broadcast address of the loopback net is refused by the kernel, with no packet sent."""
    done = run([*GPENLOG, "127.255.255.255:9"], b"line\n" * 1000)
    assert done.returncode == 0
    assert done.stderr == b"gpenlog: 127.255.255.255:9: Permission denied: lines are lost until that is over\n"


def test_without_a_standard_input_it_ends() -> None:
    done = subprocess.run(["sh", "-c", 'exec "$@" <&-', "sh", *GPENLOG, "127.0.0.1:9"], capture_output=True,
                          timeout=PATIENCE, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_an_interrupt_is_no_accident() -> None:
    with hearing() as sock, Piped(*GPENLOG, "127.0.0.1", str(sock.getsockname()[1])) as gpenlog:
        gpenlog.write(b"started\n")
        assert sock.recv(100) == b"started\n"
        gpenlog.process.send_signal(signal.SIGINT)
        assert gpenlog.process.wait(PATIENCE) == 130
        assert gpenlog.stderr.read() == b""


@pytest.mark.parametrize("arguments, told", [
    ("", "argument is missing"), ("-x", "-x"), ("127.0.0.1", "'127.0.0.1'"), ("10000", "'10000'"),
    (":10000", "SERVER:PORT"), ("/tmp/socket 5", "SERVER PORT"), ("127.0.0.1 99999", "'99999'"),
    ("127.0.0.1 0", "port 0"), ("127.0.0.1 no_such_service", "'no_such_service'"), ("127.0.0.1 5 name", "'name'"),
    ("127.0.0.1 5 192.0.2.1", "'192.0.2.1'"), ("127.0.0.1 5 ::1", "'::1'"), ("300.1.1.1 5", "'300.1.1.1"),
    ("a..b 5", "a..b"), ("127.0.0.1 5 127.0.0.1 more", "more")])
def test_a_wrong_argument_is_named_in_one_line(arguments: str, told: str) -> None:
    done = run([*GPENLOG, *arguments.split()], b"line\n")
    assert done.returncode == 2
    assert done.stderr.startswith(b"gpenlog: ") and told.encode() in done.stderr
    assert done.stderr.count(b"\n") == 1


def test_help_and_version() -> None:
    done = run([*GPENLOG, "--help"])
    assert done.returncode == 0 and b"MY_ADDRESS" in done.stdout and b"Examples:" in done.stdout
    assert run([*GPENLOG, "--version"]).stdout.startswith(b"gpenlog ")
