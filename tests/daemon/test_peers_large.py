"""Two hundred thousand clients: they are learnt soon, and nobody waits for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from gpen.proto.peers import ASK, IPV4, Definition, Encoder, control, definition
from tests.harness import Gpen, Server, echo, wait_until
from tests.peers import Circle, peer, stub

CLIENTS = 200_000


def test_many_are_learnt_and_told(gpen: Callable[..., Gpen], servers: Callable[..., Server]) -> None:
    """Each takes a few us of CPU, and a session that goes on meanwhile has its echoes soon."""
    circle = Circle("a", "b", "c")
    places = [servers(echo), servers(echo)]
    balancer = gpen(*circle.options("a", f"clients_max {CLIENTS}"), servers=places)
    encoder = Encoder()
    lesson = [definition(Definition(1, "gpen", IPV4, 4)), *(
        encoder.update(IPV4, number, 1000, number.to_bytes(4, "big"), places[number % 2].address)
        for number in range(CLIENTS))]
    delays: list[float] = []
    with stub(circle, "b", "a") as teacher, balancer.connect() as client:
        client.sendall(b"x")
        client.recv(1)
        before, began = balancer.cpu, time.monotonic()
        thread = threading.Thread(target=teacher.say, args=lesson)
        thread.start()
        while thread.is_alive():
            asked = time.monotonic()
            client.sendall(b"x")
            client.recv(1)
            delays.append(time.monotonic() - asked)
        thread.join()
        wait_until(lambda: peer(balancer, "b")["received"] == CLIENTS, what="all to be learnt")
        took, cpu = time.monotonic() - began, balancer.cpu - before
        print(f"{took:.2f} s, {cpu / CLIENTS * 1e6:.2f} us each; echoes within {max(delays) * 1000:.1f} ms")
    with stub(circle, "c", "a") as listener:
        listener.say(control(ASK))
        assert {server for _, server, _, _ in listener.wait_entries(CLIENTS)} == {place.address for place in places}
    assert balancer.json("info")["clients"] == CLIENTS
    assert took < 10 and cpu < CLIENTS * 8e-6 and max(delays) < 0.25  # 1.2 s and 3.4 us, where nobody else works
