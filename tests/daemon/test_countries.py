"""Access lists by country, with a real database of the MaxMind kind."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from mmdb_writer import MMDBWriter
from netaddr import IPSet

from gpen.control.script import ScriptError
from gpen.daemon.chroot import Chroot
from gpen.daemon.countries import open_countries
from gpen.model.settings import Settings
from tests.harness import Gpen, Serve, naming, run_gpen, wait_until

Start = Callable[..., Gpen]
HOME, ABROAD, NOWHERE = "127.0.0.2", "127.0.0.3", "127.0.0.4"


def write_database(path: Path, countries: Mapping[str, str]) -> Path:
    """A database that knows the country of these networks, in the place of the one that is there."""
    writer = MMDBWriter(ip_version=6, ipv4_compatible=True, database_type="Test-Country")
    for network, country in countries.items():
        writer.insert_network(IPSet([network]), {"country": {"iso_code": country}})
    fresh = path.with_suffix(".new")
    writer.to_db_file(str(fresh))
    return fresh.replace(path)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return write_database(tmp_path / "countries.mmdb",
                          {f"{HOME}/32": "SE", f"{ABROAD}/32": "NO", "2001:db8::/32": "SE"})


def test_clients_of_a_country_are_let_in(gpen: Start, servers: Serve, database: Path) -> None:
    balancer = gpen("-O", f"geoip_db {database}", "-O", "acl 3 permit country se", "-O", "client_acl 3",
                    servers=[servers(naming("in"))])
    assert [balancer.ask(source=source) for source in (HOME, ABROAD, NOWHERE)] == [b"in", b"", b""]
    assert "denies it" not in balancer.ctl("explain 2001:db8::7")
    assert "access list 3 (client_acl) denies it" in balancer.ctl("explain 2001:db9::7")


def test_a_country_can_be_kept_out(gpen: Start, servers: Serve, database: Path) -> None:
    balancer = gpen("-O", f"geoip_db {database}", "-O", "acl 3 deny country NO", "-O", "client_acl 3",
                    servers=[servers(naming("in"))])
    assert [balancer.ask(source=source) for source in (HOME, ABROAD, NOWHERE)] == [b"in", b"", b"in"]


def test_addresses_and_countries_in_one_list(gpen: Start, servers: Serve, database: Path) -> None:
    """The first match decides, whatever it names."""
    balancer = gpen("-O", f"geoip_db {database}", "-O", f"acl 3 deny {HOME}", "-O", "acl 3 permit country SE",
                    "-O", f"acl 3 permit {NOWHERE}", "-O", "client_acl 3", servers=[servers(naming("in"))])
    assert [balancer.ask(source=source) for source in (HOME, ABROAD, NOWHERE)] == [b"", b"", b"in"]


def test_a_server_for_a_country(gpen: Start, servers: Serve, database: Path) -> None:
    balancer = gpen("-r", "-O", f"geoip_db {database}", "-O", "acl 3 permit country NO",
                    servers=[servers(naming("theirs")), servers(naming("all"))])
    balancer.ctl("server 0 acl 3")
    assert {balancer.ask(source=HOME) for _ in range(4)} == {b"all"}
    assert {balancer.ask(source=ABROAD) for _ in range(4)} == {b"theirs", b"all"}


def test_a_new_database_counts_for_clients_that_are_known(gpen: Start, servers: Serve, database: Path) -> None:
    balancer = gpen("-O", f"geoip_db {database}", "-O", "acl 3 permit country SE", "-O", "client_acl 3",
                    servers=[servers(naming("in"))])
    assert balancer.ask(source=ABROAD) == b""
    write_database(database, {f"{ABROAD}/32": "SE"})
    balancer.signal(signal.SIGHUP)
    wait_until(lambda: balancer.ask(source=ABROAD) == b"in", what="the new database")
    assert balancer.ask(source=HOME) == b""


def test_a_broken_database_leaves_the_old_one_in_force(gpen: Start, servers: Serve, database: Path) -> None:
    balancer = gpen("-O", f"geoip_db {database}", "-O", "acl 3 permit country SE", "-O", "client_acl 3",
                    servers=[servers(naming("in"))])
    database.write_bytes(b"no database")
    balancer.signal(signal.SIGHUP)
    wait_until(lambda: "the old database stays in force" in balancer.stderr, what="a word about it")
    assert f"geoip_db: '{database}' is not a MaxMind database" in balancer.stderr
    assert [balancer.ask(source=source) for source in (HOME, ABROAD)] == [b"in", b""]


def test_at_runtime(gpen: Start, servers: Serve, database: Path) -> None:
    balancer = gpen(servers=[servers(naming("in"))])
    assert "geoip_db" in balancer.ctl("acl 3 deny country SE")
    assert balancer.ctl(f"geoip_db {database}", "acl 3 deny country SE", "client_acl 3") == f"{database}\n3\n"
    assert [balancer.ask(source=source) for source in (HOME, ABROAD)] == [b"", b"in"]
    assert balancer.ctl("no geoip_db").startswith("error: acl: country needs a database")
    assert balancer.ask(source=HOME) == b""


def test_what_is_written_is_read_back(gpen: Start, servers: Serve, database: Path, tmp_path: Path) -> None:
    server = servers(naming("in"))
    balancer = gpen("-O", f"geoip_db {database}", "-O", "acl 3 deny country se", servers=[server])
    balancer.ctl(f"write {tmp_path}/written.cfg")
    text = (tmp_path / "written.cfg").read_text()
    assert "acl 3 deny country SE\n" in text
    assert run_gpen("--check", "-F", str(tmp_path / "written.cfg")).returncode == 0


@pytest.mark.parametrize(("file", "reason"), [("missing", "No such file"), ("text", "is not a MaxMind database")])
def test_a_database_that_can_not_be_read(tmp_path: Path, file: str, reason: str) -> None:
    (tmp_path / "text").write_text("no database")
    done = run_gpen("--check", "-O", f"geoip_db {tmp_path / file}", "80", "127.0.0.1:81")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert f"geoip_db: can't read '{tmp_path / file}'" in done.stderr or reason in done.stderr


def test_a_damaged_database_costs_nobody(gpen: Start, servers: Serve, database: Path) -> None:
    """Where a lookup ends in the damage, the country is not known; that is told once."""
    data = bytearray(database.read_bytes())
    start = data.index(b"country")
    data[start - 1:start + 40] = b"\xff" * 41
    database.write_bytes(data)
    balancer = gpen("-O", f"geoip_db {database}", "-O", "acl 3 deny country SE", "-O", "client_acl 3",
                    servers=[servers(naming("in"))])
    assert [balancer.ask(source=source) for source in (HOME, ABROAD, NOWHERE)] == [b"in"] * 3
    assert balancer.stderr.count("geoip_db: damaged") == 1


@pytest.mark.parametrize("seed", range(20))
def test_no_damage_keeps_a_reload_from_its_end(tmp_path: Path, database: Path, seed: int) -> None:
    data, dice = bytearray(database.read_bytes()), random.Random(seed)
    for _ in range(dice.randrange(1, 30)):
        data[dice.randrange(len(data))] = dice.randrange(256)
    (tmp_path / "damaged").write_bytes(data)
    try:
        settings = Settings()
        settings.geoip_db = str(tmp_path / "damaged")
        open_countries(settings, Chroot())
    except ScriptError as error:
        assert "damaged" in str(error)


def test_a_pipe_in_the_place_of_a_database(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    done = run_gpen("--check", "-O", f"geoip_db {tmp_path}/pipe", "80", "127.0.0.1:81")
    assert (done.returncode, done.stderr) == (2, f"gpen: geoip_db: '{tmp_path}/pipe' is not a regular file\n")


def test_a_denied_client_is_explained(gpen: Start, servers: Serve, database: Path) -> None:
    balancer = gpen("-O", f"geoip_db {database}", "-O", "acl 3 deny country SE", "-O", "client_acl 3",
                    servers=[servers(naming("in"))])
    assert balancer.ctl(f"explain {HOME}").count("access list 3 (client_acl) denies it") == 2
