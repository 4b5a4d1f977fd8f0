"""A gpen takes the place of another (gpen --replace), as a process of the test's; and one that only says that it would,
and fails at some step."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gpen.daemon.inheritance import PROTOCOL
from gpen.wire.passing import Channel, Message, plain
from tests.harness import PATIENCE, Gpen, connect, read_all, wait_until


def replacing(old: Gpen, *more: str, name: str = "new", arguments: tuple[str, ...] | None = None,
              wrapper: tuple[str, ...] = ()) -> Gpen:
    """A gpen with the arguments of this one (or with these, and ``more``) in its place; ``name`` is that of the file
    that gets what it tells, ``wrapper`` a command that starts it."""
    new = Gpen(old.directory, "--replace", *(old.arguments if arguments is None else arguments), *more, name=name,
               control=old.control, wrapper=wrapper)
    new.arguments = old.arguments if arguments is None else arguments
    new.log_file = old.log_file
    return new


def old_ctl(balancer: Gpen, line: str, suffix: str = ".old") -> str:
    """The reply of the gpen that was replaced, at the socket that it has then."""
    with connect(f"{balancer.control}{suffix}") as sock:
        sock.sendall(f"{line}\n".encode())
        return read_all(sock).decode()


def has_old(balancer: Gpen, suffix: str = ".old") -> bool:
    return Path(f"{balancer.control}{suffix}").exists()


class Pretender:
    """What asks a gpen for its place, and gets it as far as it goes."""

    def __init__(self, balancer: Gpen, protocol: int = PROTOCOL) -> None:
        with connect(balancer.control) as sock:
            assert isinstance(sock, socket.socket)
            sock.sendall(f"handover {protocol} 0.0\n".encode())
            reply, descriptors, _, _ = socket.recv_fds(sock, 1000, 1)
        self.reply = reply.decode()
        self.channel: Channel | None = plain(descriptors[0]) if descriptors else None

    def __enter__(self) -> Pretender:
        return self

    def __exit__(self, *_: object) -> None:
        if self.channel is not None:
            self.channel.close()
            self.channel = None

    def listen(self) -> list[Message]:
        """All that comes up to the end of it; descriptors are closed."""
        assert self.channel is not None, self.reply
        messages = []
        for message in self.channel.all_until("end", PATIENCE):
            message.close()
            messages.append(message)
        return messages

    def say(self, kind: str, **fields: Any) -> None:
        assert self.channel is not None, self.reply
        self.channel.send(kind, **fields)

    def ready(self, *listeners: str) -> None:
        """Say that all is prepared, to take these listeners."""
        self.say("ready", listeners=listeners, control=True, pid_file=True)


@contextlib.contextmanager
def descriptors_unchanged(balancer: Gpen) -> Iterator[None]:
    """It has as many descriptors at the end as before, once those of connections that have ended are closed."""
    seen: list[int] = []
    wait_until(lambda: seen.append(balancer.fds()) or seen[-10:] == [seen[-1]] * 10)  # type: ignore[func-returns-value]
    before = seen[-1]
    yield
    wait_until(lambda: balancer.fds() == before, what=f"{before} descriptors ({balancer.fds()})")
