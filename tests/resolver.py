"""A small name server of a test's own, whose answers change while it runs, and the files that make gpen ask it."""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections import Counter
from ipaddress import ip_address
from itertools import count
from pathlib import Path

from tests.harness import wait_until

_HEADER = struct.Struct("!6H")
_TYPES = {1: 4, 28: 6}  # A and AAAA, by the version of IP
_ANSWERED, _UNKNOWN = 0x8180, 0x8183
_NUMBERS = count(1)


class Resolver:
    """Answers over UDP, at an address of its own. ``names`` may be changed at any time: the addresses of each; None for
    one that gets no answer. Other names don't exist. As long as it ``is_dead``, nobody gets an answer."""

    def __init__(self, directory: Path, names: dict[str, list[str] | None], options: str = "timeout:1 attempts:1",
                 ) -> None:
        """``directory`` takes the files, ``options`` are those of resolv.conf."""
        self.names = names
        self.is_dead = False
        self.asked: Counter[str] = Counter()  # how often for each name's IPv4 addresses
        self.address = "127.79.{}.{}".format(*divmod((os.getpid() + 4099 * next(_NUMBERS)) % 65536, 256))
        self.hosts, resolv_conf = directory / "hosts", directory / "resolv.conf"
        self.hosts.write_text("127.0.0.1 localhost\n")
        resolv_conf.write_text(f"nameserver {self.address}\noptions {options}\n")
        self.mounts = {"/etc/resolv.conf": resolv_conf, "/etc/hosts": self.hosts}  # for `seeing`
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sock.bind((self.address, 53))
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as waker:
            waker.sendto(b"", (self.address, 53))
        self._thread.join()
        self._sock.close()

    def wait_asked(self, name: str, times: int = 1) -> None:
        """Wait until it has been asked for a name so many times more."""
        before = self.asked[name]
        wait_until(lambda: self.asked[name] >= before + times, what=f"a question for {name}")

    def _serve(self) -> None:
        while question := self._sock.recvfrom(512):
            data, client = question
            if not data:
                return
            answer = self._answer(data)
            if answer:
                self._sock.sendto(answer, client)

    def _answer(self, data: bytes) -> bytes:
        """The answer to one question; empty when there shall be none."""
        number, *_ = _HEADER.unpack_from(data)
        labels, position = [], _HEADER.size
        while data[position]:
            labels.append(data[position + 1 : position + 1 + data[position]].decode())
            position += 1 + data[position]
        kind, end = struct.unpack_from("!H", data, position + 1)[0], position + 5
        name = ".".join(labels).lower()
        self.asked[name] += kind == 1
        addresses = self.names.get(name, [])
        if self.is_dead or addresses is None:
            return b""
        known = [ip_address(address) for address in addresses]
        records = [address.packed for address in known if address.version == _TYPES.get(kind)]
        return (_HEADER.pack(number, _ANSWERED if name in self.names else _UNKNOWN, 1, len(records), 0, 0)
                + data[_HEADER.size : end]
                + b"".join(b"\xc0\x0c" + struct.pack("!HHIH", kind, 1, 0, len(packed)) + packed for packed in records))
