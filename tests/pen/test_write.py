"""A file that pen's ``write`` made configures gpen, and says the same when it is asked again."""

from __future__ import annotations

from pathlib import Path

from tests.harness import Server, run_gpen
from tests.pen.balancers import GPEN, PEN, Balancer, needs_pen

pytestmark = needs_pen

CHANGES = """
acl 1 permit 10.0.0.0 255.0.0.0
acl 1 deny 0.0.0.0 0.0.0.0
acl 9 permit 2001:db8::/32
client_acl 0
server 0 acl 9
roundrobin
hash
stubborn
ascii
blacklist 12
timeout 4
tracking 600
debug 0
tcp_nodelay
tcp_fastclose up
""".strip().splitlines()
ASKED = ("mode", "servers", "blacklist", "timeout", "tracking", "client_acl", "control_acl", "debug", "log",
         "web_stats")


def written_by_pen(tmp_path: Path, directory: Path, farm: dict[str, Server]) -> tuple[Path, dict[str, str]]:
    """The file, and what the pen that wrote it answers."""
    file = directory / "pen.cfg"
    places = [f"{farm['A'].address}:10:20", farm["B"].address]
    with Balancer(PEN, tmp_path, servers=places) as pen:
        for line in [*CHANGES, f"log {directory}/session.log", f"web_stats {directory}/status.html", f"write {file}"]:
            pen.ask(line)
        return file, {line: pen.ask(line) for line in ASKED}


def test_it_is_valid(tmp_path: Path, open_directory: Path, farm: dict[str, Server]) -> None:
    file, _ = written_by_pen(tmp_path, open_directory, farm)
    done = run_gpen("--check", "-F", str(file), "127.0.0.1:0")
    assert (done.returncode, done.stdout, done.stderr) == (0, "configuration is valid\n", "")


def test_it_configures_gpen(tmp_path: Path, open_directory: Path, farm: dict[str, Server]) -> None:
    file, replies = written_by_pen(tmp_path, open_directory, farm)
    with Balancer(GPEN, tmp_path, "-F", str(file)) as gpen:
        expected = replies | {"servers": replies["servers"].replace("weight 0", "weight 1")}
        assert {line: gpen.ask(line) for line in ASKED} == expected
        assert gpen.ask(f"write {open_directory}/gpen.cfg") == ""
    configuring = {line for line in (open_directory / "gpen.cfg").read_text().splitlines() if line[:1] != "#"}
    for line in file.read_text().splitlines():
        if line.startswith(("acl", "tcp_", "ascii")):
            assert line in configuring, "and gpen leaves out what is the default"


def test_empty_slots(tmp_path: Path, open_directory: Path, farm: dict[str, Server]) -> None:
    """One that was emptied, and two that never had an address, of which pen writes in so many words."""
    file = open_directory / "pen.cfg"
    with Balancer(PEN, tmp_path, servers=[farm["A"].address, farm["B"].address]) as pen:
        for line in ("server 0 address 0 port 0", "server 3 max 7", f"write {file}"):
            pen.ask(line)
        told = pen.ask("servers")
    assert "(unknown address family 0 port 0 " in file.read_text()
    with Balancer(GPEN, tmp_path, "-r", "-F", str(file)) as gpen:
        shown = told.replace("(unknown address family 0 ", "0.0.0.0 ").replace("weight 0", "weight 1")
        assert gpen.ask("servers") == shown
        assert gpen.names(3) == "BBB"


def test_it_is_read_again_by_gpen(tmp_path: Path, open_directory: Path, farm: dict[str, Server]) -> None:
    """No access list grows when it is included, as it is at HUP."""
    file, _ = written_by_pen(tmp_path, open_directory, farm)
    with Balancer(GPEN, tmp_path, "-F", str(file)) as gpen:
        gpen.ask(f"write {open_directory}/before")
        assert gpen.ask(f"include {file}") == ""
        gpen.ask(f"write {open_directory}/after")
    before, after = ((open_directory / name).read_text().splitlines()[2:] for name in ("before", "after"))
    assert before == after
