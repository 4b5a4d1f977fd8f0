"""gpenlogd, the program: writes one log for all web servers behind a balancer, with the clients' addresses."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gpen import __version__
from gpen.daemon import process
from gpen.daemon.chroot import Chroot
from gpen.model.address import bracketed, parse_listen
from gpen.model.settings import Settings
from gpen.netlog.arguments import Place, find, read
from gpen.netlog.merge import Merger
from gpen.netlog.output import Output
from gpen.usage import FAILED, USAGE, UsageError, complain

log = logging.getLogger("gpen")

USAGE_TEXT = """\
Write one log for all web servers behind a balancer, with the clients' addresses.

Usage:
  gpenlogd [options] PORT
  gpenlogd (-h | --help | --version)

PORT is [HOST:]PORT, where gpen or pen (-l HOST:PORT) tells of each request, and
gpenlog or penlog sends the lines of the web servers' logs. Without HOST, all
IPv4 addresses; [::]:PORT hears IPv6 and IPv4.

Options:
  -d          Tell why a datagram was ignored; at the end, how many there were.
  -f          Stay in the foreground, and tell on stderr instead of to syslog.
  -j DIR      Change the root directory to DIR.
  -l FILE     Append the lines to FILE, each as it comes; else to stdout. SIGHUP
              opens FILE again.
  -n N        How many requests to hold, with their clients [default: 1000].
  -p FILE     Write the process id to FILE.
  -u USER     Become USER, once all is open.
  -b          Accepted as penlogd does; every line is written at once anyway.
  -h --help   Show this.
  --version   Show the version.

Examples:
  gpenlogd -u www-data -l /var/log/web/access.log -p /run/gpenlogd.pid 10000
  gpenlogd -fd 127.0.0.1:10000

Exit status: 0 it ended as it was told to, or serves in the background; 1 it
could not start, or failed; 2 wrong usage, or something given can't be used.
"""
NAME = "gpenlogd"
DATAGRAM = 65_536  # bytes; none is longer
BUFFER = 8 << 20  # bytes that may wait in the kernel, as far as it allows
SO_RCVBUFFORCE = 33  # socket(7): beyond rmem_max, for root
BATCH = 100  # datagrams at a time, then signals
LAST = 100_000  # datagrams that are taken at the end: more than can wait, fewer than a flood
MAX_HELD = 10_000_000


@dataclass(frozen=True)
class Options:
    """What the command line says."""

    place: Place
    limit: int
    log: str | None
    foreground: bool
    process: Settings  # pid_file, user, chroot


def main(argv: Sequence[str] | None = None) -> int:
    """Run gpenlogd with these arguments, without the program's name; returns the exit status. Without ``argv`` the
    process is gpenlogd's own, with its arguments."""
    if argv is None:
        process.begin()
    process.tell_on_stderr()
    try:
        arguments = read(NAME, USAGE_TEXT, argv)
        settings = Settings()
        settings.pid_file, settings.user, settings.chroot = arguments["-p"], arguments["-u"], arguments["-j"]
        process.check_user(settings)
        options = Options(place_of(arguments["PORT"]), number(arguments["-n"]), arguments["-l"], arguments["-f"],
                          settings)
    except (UsageError, process.StartError) as error:
        complain(NAME, error)
        return USAGE
    process.set_debug(int(arguments["-d"]))
    return run(options)


def place_of(text: str) -> Place:
    """Where to listen, from [HOST:]PORT. Raises UsageError."""
    try:
        address = parse_listen(text)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if address.path:
        raise UsageError(f"'{text}' is not [HOST:]PORT: a unix socket can't be used here")
    return find(address)


def number(text: str) -> int:
    """How many requests to hold. Raises UsageError."""
    if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= MAX_HELD):
        raise UsageError(f"-n: '{text}' is not a number of requests from 1 to {MAX_HELD}")
    return int(text)


def run(options: Options) -> int:
    """Become a daemon, or stay in the foreground, and serve until stopped; returns the exit status."""
    detached = None if options.foreground else process.detach()
    status = FAILED
    try:
        status = serve(options, detached)
    except process.StartError as error:
        complain(NAME, error)
    except Exception:
        log.exception("%s failed", NAME)
    finally:
        if detached is not None:
            detached.report(status)
    return status


def serve(options: Options, detached: process.Detached | None) -> int:
    """Open all, let go of rights, and collect until a signal comes; returns the exit status. Raises StartError."""
    signals = signals_as_bytes()  # before anything is made that they would leave behind
    process.bind_rights(options.process)
    syslog = process.syslog(NAME) if detached is not None else None  # while /dev/log is in sight
    chroot = Chroot()
    pid_file = process.PidFile(options.process.pid_file) if options.process.pid_file else None
    try:
        with listening(options.place) as sock, contextlib.closing(opened(options.log)) as output:
            process.confine(options.process, [*(pid_file.made() if pid_file else ()), *output.made()], chroot)
            output.confined(chroot, options.process.user)
            collector = Collector(sock, output, chroot, options.limit, signals)
            if detached is not None and syslog is not None:
                process.tell(syslog)
                detached.quiet()
                detached.report(0)
            host, port = sock.getsockname()[:2]
            log.info("%s %s listens on %s:%d", NAME, __version__, bracketed(host), port)
            return collector.run()
    finally:
        if pid_file is not None:
            pid_file.remove(chroot)


def listening(place: Place) -> socket.socket:
    """A socket that hears datagrams there. Raises StartError."""
    sock = socket.socket(place.family, socket.SOCK_DGRAM)
    try:
        if place.sockaddr[0] == "::":
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
            sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
        sock.bind(place.sockaddr)
    except OSError as error:
        sock.close()
        host, port = place.sockaddr[:2]
        raise process.StartError(f"can't listen on {bracketed(host)}:{port}: {error.strerror}") from None
    return sock


def opened(path: str | None) -> Output:
    """Where to write. Raises StartError."""
    try:
        return Output(path)
    except OSError as error:
        raise process.StartError(f"can't write the log '{path or 'stdout'}': {error.strerror}") from None


class Collector:
    """Takes datagrams and signals, one after the other, until TERM or INT."""

    def __init__(self, sock: socket.socket, output: Output, chroot: Chroot, limit: int, signals: int) -> None:
        """``chroot`` is where the log is found again, ``limit`` how many requests are held, ``signals`` where they come
        as bytes."""
        self._socket = sock
        self._output = output
        self._chroot = chroot
        self._merger = Merger(limit)
        self._signals = signals

    def run(self) -> int:
        """Collect until a signal says to end, and return the exit status."""
        try:
            self._collect()
            self._take(LAST)
            self._write(self._merger.rest())
        except BrokenPipeError:
            log.error("nobody reads the log any more: a pipe was closed")
            return FAILED
        finally:
            merger = self._merger
            log.info("%s ended: %d lines, %d of them with their client, %d datagrams ignored", NAME, merger.lines,
                     merger.replaced, merger.ignored)
        return 0

    def _collect(self) -> None:
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        poll.register(self._signals, select.POLLIN)
        while True:
            ready = {fd for fd, _ in poll.poll()}
            if self._signals in ready:
                came = set(os.read(self._signals, 64))
                if came & {signal.SIGTERM, signal.SIGINT}:
                    return
                self._output.reopen(self._chroot)
            if self._socket.fileno() in ready:
                self._take(BATCH)

    def _take(self, most: int) -> None:
        """Take what has come, so many datagrams at most."""
        for _ in range(most):
            try:
                datagram, sender = self._socket.recvfrom(DATAGRAM, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            self._write(self._merger.take(datagram, sender))

    def _write(self, lines: Iterable[bytes]) -> None:
        for line in lines:
            self._output.write(line)


def signals_as_bytes() -> int:
    """A descriptor that TERM, INT and HUP are read from, as bytes: so that none comes amid something else.

    A second TERM or INT ends the process at once: it may be held up by a pipe that nobody reads.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    signal.signal(signal.SIGHUP, lambda *_: None)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: signal.signal(number, signal.SIG_DFL))
    return reading
