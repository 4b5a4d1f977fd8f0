"""Lines of the control language: read and run in this process, and by a running gpen over its socket and from a file.

What the running one must come to is told by a configuration in this process, which runs the same lines: so what is
accepted does just that, and what is refused changes nothing.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from gpen.control.commands import COMMANDS
from gpen.control.configuration import Configuration
from gpen.control.script import Call, ScriptError, parse_line, read_file, read_lines
from gpen.control.sources import Sources
from gpen.model.address import Address, ServerSpec, network_address, parse_listen
from gpen.model.check import Check
from tests.control.test_configuration import acl_lines, server_lines, settings_lines
from tests.fuzz.kind import Balanced, Trial
from tests.fuzz.mutations import BYTES, cuts, pieces, spoiled
from tests.harness import PATIENCE, Gpen, Server, connect, echo, pair_of, read_all
from tests.scripts import parse_lines

WORDS = ("", '"', "\\", '""', '"a b"', "#", "no", "json", "address", "port", "default", "because", "country", "exec",
         "-1", "0", "00", "1e9", "nan", "inf", "0x10", "2147483648", "9" * 20, "\u0663", "\x1b[31m", "\0", "\x7f",
         "\x9b31m", "\u2028", "\u202e", "\ufeff", "\udcff", "a" * 300, "/", "0.0.0.0", "[::1", "127.0.0.1:80:1:2:3:4:5",
         "::1%lo", "10.0.0.0/33", "255.0.255.0", "%s", "{0}")
EXAMPLES = sorted({command.example or command.name for command in COMMANDS.values()})

# --- lines -----------------------------------------------------------------------------------------------------------


@st.composite
def spoiled_lines(draw: st.DrawFn) -> str:
    """A line that is well, with up to three of its words changed."""
    words = draw(st.one_of(st.sampled_from(EXAMPLES), settings_lines, acl_lines, server_lines)).split(" ")
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(words)))
        word = draw(st.sampled_from(WORDS) | st.text(max_size=8))
        match draw(st.integers(0, 3)):
            case 0:
                words[at:at] = [word]
            case 1:
                words[at:at + 1] = [word]
            case 2:
                words[at:at + 1] = []
            case 3:
                words[at:at] = words[:2]
    return draw(st.sampled_from((" ", " ", "\t", "  "))).join(words).replace("\n", "\v")


# one server of five, near by: what can also be carried out by a gpen that runs
near = st.builds(lambda number, last, rest: f"server {number} address 127.0.0.{last}{rest}", st.integers(0, 4),
                 st.integers(1, 9), st.sampled_from((" port 1", " port 1 max 3", " prio 2", " weight 0 port 9", ":7")))
fields = st.builds(lambda number, words: f"server {number} {words}", st.integers(0, 4), st.sampled_from((
    "max 5", "hard 1", "weight 3", "prio 9", "acl 3", "state drain", "state ready", "state maint", "blacklist 1",
    "health up", "health drain because it is busy", "health down because it rains", "health unknown", "check connect",
    "check default", "port 0", "owner x", "owner default")))
lines = st.one_of(spoiled_lines(), near, fields, st.text(max_size=40).map(lambda text: text.replace("\n", "\v")))
scripts = st.lists(lines, min_size=1, max_size=6)


def check_parsing(script: Sequence[str]) -> None:
    """Whatever the lines are: read, or refused in one line; run, or refused with nothing changed."""
    configuration = Configuration(lambda: 1000.0, lambda: 1e9)
    for line in script:
        before = list(configuration.dump())
        try:
            call = parse_line(line, "here:1")
            if call is not None and call.command.configures and call.command.name != "include" and is_whole(call):
                configuration.run(call)
        except ScriptError as error:
            assert list(configuration.dump()) == before, f"{line!r} was refused, and changed something"
            for told in error.told():
                assert "\n" not in told and told.startswith("here:1: "), f"{line!r}: {told!r}"
        written = list(configuration.dump())
        copy = Configuration(lambda: 1000.0, lambda: 1e9)
        for call in parse_lines(written, "written"):
            copy.run(call)
        assert list(copy.dump()) == written, f"behind {line!r} what is written does not make the same again"


def is_whole(call: Call) -> bool:
    """Whether it changes something: a setting without a value only asks."""
    return call.command.setting is None or bool(call.arguments)


# --- what may be tried on a running gpen -----------------------------------------------------------------------------

# What these do can't be seen in what is written, or waits; or it reaches others.
LEFT_OUT = ("drain", "include", "reload", "exit", "stay", "upgrade", "peers", "peer")


def is_harmless(line: str) -> bool:
    """Whether a gpen may carry it out: it writes, listens, runs and connects nowhere but where it may."""
    if any(character in line for character in "/~") or ".." in line or "gpen" in line:
        return False
    try:
        call = parse_line(line)
    except ScriptError:
        return True
    if call is None:
        return True
    if call.command.name in LEFT_OUT or (call.command.name == "web_stats" and call.arguments):
        return False
    return all(map(_is_near, _values(call.arguments, call.command.name)))


def _values(arguments: Mapping[str, Any], name: str) -> Iterator[Any]:
    for key, value in arguments.items():
        if isinstance(value, dict):
            yield from _values(value, key)
        elif name == "listen" and isinstance(value, str):
            yield parse_listen(value)
            yield value.startswith("127.") and value.endswith(":0")
        elif name == "log" and isinstance(value, str):
            yield network_address(value) or value
        else:
            yield value


def _is_near(value: Any) -> bool:
    if isinstance(value, ServerSpec):
        return _is_near(value.address)
    if isinstance(value, Check):
        return value.kind != "exec"
    if isinstance(value, Address):
        try:
            return ipaddress.ip_address(value.host).is_loopback or value.host == "0.0.0.0"
        except ValueError:
            return False
    return value is not False or value is None


def written(balancer: Gpen) -> list[str]:
    """Its configuration, without the head that says when it was written."""
    return (balancer.directory / "dump.cfg").read_text(encoding="utf-8").split("\n")[2:-1]


class Shadow:
    """The configuration of a running gpen, run again in this process."""

    def __init__(self, lines: Iterable[str]) -> None:
        self.configuration = Configuration(lambda: 1000.0, lambda: 1e9)
        self.run(lines)

    def run(self, lines: Iterable[str]) -> None:
        for call in parse_lines(lines, "shadow"):
            self.configuration.run(call)

    @property
    def dump(self) -> list[str]:
        return list(self.configuration.dump())


class Line:
    """An open control connection; where one reply ends is told by that to a command that there is not."""

    def __init__(self, balancer: Gpen) -> None:
        self._numbers = count()
        self._sock = connect(pair_of(balancer.control))
        self._sock.sendall(b"stay\n")

    def ask(self, line: str) -> str:
        mark = f"mark{next(self._numbers)}"
        end = f"do_cmd: ignoring command starting with '{mark}'\n".encode()
        self._sock.sendall(line.encode("utf-8", "surrogateescape") + f"\n{mark}\n".encode())
        reply = b""
        while not reply.endswith(end):
            piece = self._sock.recv(1 << 16)
            assert piece, f"the control connection ended behind {line!r}: {reply!r}"
            reply += piece
        return reply.removesuffix(end).decode()

    def close(self) -> None:
        self._sock.close()


def serves(balancer: Gpen) -> None:
    """Whether a client gets its echo."""
    assert balancer.ask(b"well?") == b"well?", "a healthy client is not served"


class ControlTrial(Balanced):
    """Lines over the control socket."""

    def _begin(self) -> None:
        super()._begin()
        self._line = Line(self.balancer)
        self._stack.callback(self._line.close)
        self._base = Shadow(self._dumped())
        self._descriptors = self.balancer.fds()

    def _dumped(self) -> list[str]:
        """Its configuration, from the defaults: what it writes also undoes what its command line gives."""
        assert self._line.ask("write dump.cfg") == ""
        return Shadow(written(self.balancer)).dump

    def attempt(self, case: Sequence[str]) -> None:
        shadow = Shadow(self._base.dump)
        for line in filter(is_harmless, case):
            reply = self._line.ask(line)
            if not is_refusal(reply):
                self._follow(shadow, line)
            assert self._dumped() == shadow.dump, f"behind {line!r}, answered {reply!r}"
        self._restore(shadow.configuration)

    def _restore(self, now: Configuration) -> None:
        base = self._base.configuration
        lines = [line for line in base.dump(now) if not counts_at_start(line)]
        lines += [f"no server {number}" for number in now.numbers() if number not in base.numbers()]
        for line in (*lines, "server 0 health up", "server 0 health unknown"):
            reply = self._line.ask(line)
            assert not is_refusal(reply), f"{line!r} is refused: {reply!r}"

    @staticmethod
    def _follow(shadow: Shadow, line: str) -> None:
        call = parse_line(line.rstrip("\r"))
        if call is not None and call.command.configures and is_whole(call):
            shadow.configuration.run(call)

    def settle(self) -> None:
        super().settle()
        assert self._dumped() == self._base.dump


def counts_at_start(line: str) -> bool:
    """Whether a running gpen can't be given this."""
    setting = COMMANDS[line.removeprefix("no ").partition(" ")[0]].setting
    return setting is not None and setting.startup


def is_refusal(reply: str) -> bool:
    """Whether a line was refused; each line that says why is one."""
    refused = reply.startswith(("error: ", "do_cmd: "))
    if refused:
        assert reply.endswith("\n") and "\n" not in reply[:-1], f"not one line: {reply!r}"
    return refused


@contextmanager
def control_trial(directory: Path) -> Iterator[Trial]:
    """A gpen with a server that echoes."""
    with ExitStack() as stack, Server(echo) as server:
        yield ControlTrial(stack, lambda: Gpen(directory, "-r", "127.0.0.1:0", server.address), serves)


# --- anything on the socket ------------------------------------------------------------------------------------------

streams = st.tuples(spoiled(st.one_of(
    st.sampled_from((b"", b"servers\n", b"help server\n", b"timeout\nmode\n", b"recent 5 json\n", b"a" * 9000,
                     b"\n" * 99, b"stay\nexplain 127.0.0.1\n", b"status\r\n")), st.binary(max_size=99)), BYTES), cuts)


class StreamTrial(Balanced):
    """Bytes on the control socket that only ask, if they mean anything."""

    def attempt(self, case: tuple[bytes, Sequence[int]]) -> None:
        with connect(self.balancer.control, seconds=PATIENCE) as sock:
            try:
                for piece in pieces(*case):
                    sock.sendall(piece)
                sock.shutdown(1)
            except OSError:
                return  # it was ended: one line was too long
            read_all(sock).decode()


@contextmanager
def stream_trial(directory: Path) -> Iterator[Trial]:
    """A gpen with a server that echoes."""
    with ExitStack() as stack, Server(echo) as server:
        yield StreamTrial(stack, lambda: Gpen(directory, "-r", "127.0.0.1:0", server.address), serves)


# --- files -----------------------------------------------------------------------------------------------------------

texts = st.lists(st.one_of(near, fields, near, fields, lines), max_size=8).map(
    lambda lines: "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape"))
files = spoiled(st.one_of(texts, texts, st.binary(max_size=60)), (*BYTES, b"include gpen.cfg\n", b"\xef\xbb\xbf"), 2)


class FileTrial(Balanced):
    """A file of -F that is read again."""

    def _begin(self) -> None:
        self._file(b"")
        super()._begin()
        self._base = self._written()

    def _file(self, content: bytes) -> None:
        (self.directory / "gpen.cfg").write_bytes(content)

    def __init__(self, directory: Path, stack: ExitStack, address: str) -> None:
        self.directory = directory
        self._given = ["listen 127.0.0.1:0", f"server 9 address {address.replace(':', ' port ')}", "roundrobin"]
        options = [word for line in self._given for word in ("-O", line)]
        super().__init__(stack, lambda: Gpen(directory, "-F", "gpen.cfg", *options), serves)

    def _written(self) -> list[str]:
        assert self.balancer.ctl("write dump.cfg") == ""
        return written(self.balancer)

    def attempt(self, case: bytes) -> None:
        """Where the lines are harmless; and then back to a file that says nothing."""
        text = case.decode("utf-8", "replace")
        if not all(is_harmless(line) or line == "include gpen.cfg" for line in text.split("\n")):
            return
        self._file(case)
        reply = self.balancer.ctl("reload")
        if reply.startswith("error: "):
            for line in reply.splitlines():
                assert line.startswith(("error: ", "nothing has changed")), f"not one line: {line!r}"
            assert self._written() == self._base, f"it was refused, and changed something: {reply!r}"
        else:
            assert self._written() == self._expected(), f"answered {reply!r}"
        self._file(b"")
        reply = self.balancer.ctl("server 9 health up", "reload")
        assert not reply.startswith("error: "), reply
        assert self._written() == self._base

    def _expected(self) -> list[str]:
        """What a gpen writes that starts with this file."""
        sources = Sources("gpen.cfg")
        sources.give(read_lines(self._given, "given"))
        configuration = Configuration(lambda: 1000.0, lambda: 1e9)
        configuration.adopt(sources.given)
        configuration.adopt(sources.read(read_file("gpen.cfg", lambda path: str(self.directory / path))))
        started = Configuration(lambda: 1000.0, lambda: 1e9)
        for call in parse_lines(self._base, "base"):
            started.run(call)
        for name in (name for name, command in COMMANDS.items() if command.setting and command.setting.startup):
            configuration.settings.replace(name, started.settings.get(name))
        return list(configuration.dump(sources.given))


@contextmanager
def file_trial(directory: Path) -> Iterator[Trial]:
    """A gpen with a file, and a server that echoes."""
    with ExitStack() as stack, Server(echo) as server:
        yield FileTrial(directory, stack, server.address)

