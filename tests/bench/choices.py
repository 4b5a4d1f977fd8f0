"""What it costs to choose a server, by rule and number of servers: python -m tests.bench.choices"""

from __future__ import annotations

import time

from gpen.core import CORE
from gpen.model.client import Client
from gpen.model.scheduler import RULES
from tests.model.world import World, endpoint

SERVERS = (3, 100, 4000)
ROUNDS = 5


def cost(rule: str, servers: int) -> float:
    """Seconds of CPU time a choice, in the best of some rounds."""
    world = World(0, **({rule: True} if rule else {}))
    for number in range(servers):
        world.pool.resolved(world.add(number).target, [endpoint(f"10.0.{number // 250}.{number % 250}")])
    clients = [Client(f"10.1.{number // 250}.{number % 250}", 0) for number in range(max(20_000 // servers, 20))]
    return min(_round(world, clients) for _ in range(ROUNDS))


def _round(world: World, clients: list[Client]) -> float:
    begun = time.process_time()
    for client in clients:
        world.selector.choose(client, world.clock())
    return (time.process_time() - begun) / len(clients)


if __name__ == "__main__":
    print(f"gpen, {CORE.flavour}: us a choice, with {', '.join(map(str, SERVERS))} servers")
    for name in ("", *(rule.name for rule in RULES)):
        print(f"{name or 'in turn':10}", *(f"{cost(name, servers) * 1e6:9.1f}" for servers in SERVERS))
