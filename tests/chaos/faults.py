"""What is done to a gpen and its servers while transfers are under way, in an order that a seed makes."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.harness import Gpen, Server, free_port, pair_of, wait_until

KEPT = 3  # a server is back in its place when so many other things were done
LONGEST_STOP = 0.25  # seconds
# how often each is done for a hundred reloads
SHARES = {"stop": 20, "move": 10, "drain": 10, "verdict": 10, "verdict that drains": 6, "listen": 6, "blacklist": 6,
          "close session": 6, "verdict that closes": 3, "maint": 3, "close server": 2}
CUTS = ("close session", "close server", "maint", "verdict that closes")


@dataclass(frozen=True)
class Act:
    """Something done on purpose that ends sessions: of a server, or of one client. Times are those of the wall."""

    name: str
    began: float
    ended: float
    server: int | None = None
    client: str = ""


class Faults:
    """Does one thing after the other. ``cuts`` are those that end sessions, ``done`` counts all."""

    def __init__(self, balancer: Gpen, places: Sequence[Sequence[Server]], dice: random.Random) -> None:
        """``places`` are where each server may be; the first server is never taken away."""
        self._balancer, self._places, self._dice = balancer, places, dice
        self._ports = [balancer.address, ("127.0.0.1", free_port())]
        self._file = balancer.directory / "gpen.cfg"
        self._undoing: deque[tuple[int, int, Callable[[], None]]] = deque()  # when, which server, how
        self._acts = 0
        self.where = 0
        self.cuts: list[Act] = []
        self.done: Counter[str] = Counter()
        self.logs = [balancer.log_file]

    @property
    def address(self) -> tuple[str, int]:
        """Where gpen listens now."""
        address = self._ports[self.where]
        assert not isinstance(address, str)
        return address

    def order(self, reloads: int) -> list[str]:
        """What will be done, with so many reloads."""
        names = [name for name, share in SHARES.items() for _ in range(max(round(share * reloads / 100), 1))]
        names += ["reload"] * reloads
        self._dice.shuffle(names)
        return names

    def act(self, name: str) -> None:
        """Do it, and undo what has lasted long enough."""
        self._acts += 1
        while self._undoing and self._undoing[0][0] <= self._acts:
            self._undoing.popleft()[2]()
        getattr(self, "_" + name.replace(" ", "_"))()
        self.done[name] += 1

    def calm(self) -> None:
        """Undo all."""
        while self._undoing:
            self._undoing.popleft()[2]()

    def _tell(self, *lines: str) -> None:
        reply = self._balancer.ctl(*lines)
        assert "error" not in reply, f"{lines}: {reply}"

    def _victim(self) -> int | None:
        """A server that may be taken away."""
        taken = {number for _, number, _ in self._undoing}
        free = [number for number in range(1, len(self._places)) if number not in taken]
        return self._dice.choice(free) if free else None

    def _for_a_while(self, number: int, undo: str) -> None:
        self._undoing.append((self._acts + KEPT, number, lambda: self._tell(undo)))

    # --- what ends nothing --------------------------------------------------------------------------------------------

    def _reload(self) -> None:
        """HUP with another file; now and then one that is wrong, and changes nothing; now and then a log that was moved
        away."""
        number = self.done["reload"] + 1
        lines = self._lines(number)
        is_wrong = self._dice.random() < 0.1
        lines += ["tracking soon"] if is_wrong else []
        self._file.write_text("\n".join(lines) + "\n")
        if is_wrong:
            assert self._balancer.ctl("reload").startswith("error: "), "a wrong file was taken"
            self.done["wrong file"] += 1
            return
        if self._dice.random() < 0.05:
            self.logs.append(self._balancer.log_file.with_suffix(f".{number}"))
            os.rename(self._balancer.log_file, self.logs[-1])
        self._balancer.signal(signal.SIGHUP)
        wait_until(lambda: self._balancer.ctl("tracking") == f"{number}\n", what="a reload")

    def _lines(self, number: int) -> list[str]:
        dice = self._dice
        lines = [f"tracking {number}", f"multi_accept {dice.randint(1, 100)}", f"clients_max {dice.randint(10, 5000)}"]
        lines += dice.sample(("roundrobin", "leastconn", "hash", "tcp_nodelay", "debug 1", "timeout 4", "blacklist 9",
                              "acl 5 deny 10.0.0.0/8", "acl 6 permit ::1", "conn_max 450"), 4)
        lines += [f"server {n} weight {dice.randint(1, 5)} max {dice.choice((0, 100))}" for n in self._numbers(2)]
        return lines + [f"server {n} {self._place(n)}" for n in self._numbers(1)]

    def _numbers(self, count: int) -> list[int]:
        return self._dice.sample(range(len(self._places)), count)

    def _place(self, number: int) -> str:
        return f"address 127.0.0.1 port {self._dice.choice(self._places[number]).port}"

    def _stop(self) -> None:
        self._balancer.signal(signal.SIGSTOP)
        time.sleep(self._dice.uniform(0.01, LONGEST_STOP))  # this pause is what is tested
        self._balancer.signal(signal.SIGCONT)

    def _move(self) -> None:
        (number,) = self._numbers(1)
        self._tell(f"server {number} {self._place(number)}")

    def _drain(self) -> None:
        if (number := self._victim()) is not None:
            self._tell(f"server {number} state drain")
            self._for_a_while(number, f"server {number} state ready")

    def _verdict(self) -> None:
        if (number := self._victim()) is not None:
            self._tell("on_down keep", f"server {number} health down because of chaos")
            self._for_a_while(number, f"server {number} health up")

    def _verdict_that_drains(self) -> None:
        if (number := self._victim()) is not None:
            self._tell("on_down close", f"server {number} health drain because of chaos", "on_down keep")
            self._for_a_while(number, f"server {number} health up")

    def _blacklist(self) -> None:
        if (number := self._victim()) is not None:
            self._tell(f"server {number} blacklist 0.2")

    def _listen(self) -> None:
        """The clients of the old port go on."""
        other = 1 - self.where
        host, port = self._ports[other]
        self._tell(f"listen {host}:{port}")
        assert self._balancer.address == pair_of(f"{host}:{port}")
        self.where = other

    # --- what ends sessions -------------------------------------------------------------------------------------------

    def _cut(self, name: str, *lines: str, server: int | None = None, client: str = "") -> None:
        began = time.time()
        self._balancer.ctl(*lines)
        self.cuts.append(Act(name, began, time.time(), server, client))

    def _close_session(self) -> None:
        sessions = self._balancer.json("sessions")
        if sessions:
            session = self._dice.choice(sessions)
            self._cut("close session", f"close {session['id']}", client=session["client"].rpartition(":")[0])

    def _close_server(self) -> None:
        (number,) = self._numbers(1)
        self._cut("close server", f"close server {number}", server=number)

    def _maint(self) -> None:
        if (number := self._victim()) is not None:
            self._cut("maint", f"server {number} state maint", server=number)
            self._for_a_while(number, f"server {number} state ready")

    def _verdict_that_closes(self) -> None:
        if (number := self._victim()) is not None:
            self._cut("verdict that closes", "on_down close", f"server {number} health down because of chaos",
                      "on_down keep", server=number)
            self._for_a_while(number, f"server {number} health up")
