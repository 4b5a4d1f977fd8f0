"""What is around direct server return: the tarpit, errors about what was sent, other machines, and what is told."""

from __future__ import annotations

import json
import random
import socket
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest

from gpen.dsr import frames
from gpen.rights import NET_RAW, OF_ROOT
from tests.daemon.test_rights import bits, rights_of
from tests.datagrams import client
from tests.dsr.conftest import BALANCER, CLIENT, PORT, SERVERS, SERVICE, Lan, Start
from tests.harness import Gpen, Server, free_port, naming, needs_root, open_to_all, run_gpen, wait_until
from tests.metrics import samples
from tests.networks import FAR, Machine, two_machines
from tests.servers import PATIENCE

pytestmark = needs_root

NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")


def knocks(lan: Lan, address: str, port: int = 22) -> socket.socket:
    """A connection from the client, which is there once it is returned."""
    with lan.client.entered():
        return socket.create_connection((address, port), timeout=1.2)


def tarpitted(balancer: Gpen) -> int:
    return int(balancer.json("listeners")[0]["dsr"]["frames"]["tarpit"])


def test_the_tarpit(direct: Start, lan: Lan) -> None:
    """There is somebody at each address that the list permits, who says nothing; those that are real are left alone."""
    lan.balancer.run("ip address add 192.0.2.77/24 dev cable")  # beside BALANCER
    balancer = direct("-r", "-O", "acl 3 deny 192.0.2.66", "-O", "acl 3 permit 192.0.2.0/24", "-O", "tarpit_acl 3")
    with knocks(lan, "192.0.2.55") as sock, knocks(lan, "192.0.2.56", 443):
        sock.sendall(b"hello?")
        sock.settimeout(0.3)
        with pytest.raises(TimeoutError):
            sock.recv(100)
        assert tarpitted(balancer) == 2
        assert "tarpit: 192.0.2.1 connects to 192.0.2.55:22" in balancer.stderr
    for _ in range(2):  # once with the tarpit, once without
        assert {lan.name() for _ in SERVERS} == set(SERVERS)
        with pytest.raises(OSError):
            knocks(lan, "192.0.2.66")
        for own in (BALANCER, "192.0.2.77"):
            with pytest.raises(ConnectionRefusedError):
                knocks(lan, own)
        assert lan.connect(SERVERS[0])[0].close() is None
        assert tarpitted(balancer) in (0, 2)
        assert balancer.ctl("tarpit_acl -1") == "tarpit_acl = off\n"
    lan.client.run("ip neigh flush dev cable")
    with pytest.raises(OSError):
        knocks(lan, "192.0.2.55")


def test_who_looks_whether_an_address_is_free(direct: Start, lan: Lan) -> None:
    """Gets no answer from the tarpit, as one does who wants to talk; for the address of the service, both do."""
    direct("-r", "-O", "acl 3 permit 192.0.2.64/28", "-O", "tarpit_acl 3")
    with lan.client.entered(), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
        sock.bind(("cable", 0x0806))
        sock.settimeout(PATIENCE)
        mac, client = sock.getsockname()[4], socket.inet_aton(CLIENT)
        for sender, asked in ((frames.NO_ADDRESS, "192.0.2.70"), (frames.NO_ADDRESS, SERVICE), (client, "192.0.2.71")):
            wanted = socket.inet_aton(asked)
            sock.send(frames.arp(frames.REQUEST, mac, sender, frames.BROADCAST, wanted)[frames.VIRTIO:])
        answers: list[str] = []
        while len(answers) < 2:
            told = frames.parse_arp(memoryview(bytes(frames.VIRTIO) + sock.recv(100)))
            if told is not None and told[0] == frames.REPLY:
                answers.append(socket.inet_ntoa(told[2]))
    assert answers == [SERVICE, "192.0.2.71"]


def test_only_one_listener_has_the_tarpit(direct: Start, lan: Lan) -> None:
    """Of those at an interface, and it leaves the addresses of the others alone."""
    balancer = direct("-r", "-O", "acl 3 permit 192.0.2.96/27", "-O", "tarpit_acl 3",
                      "-O", f"listener other listen 192.0.2.101:{PORT}")
    for machine in lan.servers:
        machine.run("ip address add 192.0.2.101/32 dev lo")
    assert lan.name("192.0.2.101") in SERVERS and lan.name() in SERVERS
    knocks(lan, "192.0.2.99").close()
    assert [row["dsr"]["frames"]["tarpit"] for row in balancer.json("listeners")] == [1, 0]


def test_errors_about_what_servers_send(direct: Start, lan: Lan) -> None:
    """A client behind a narrow path gets all that a server sends: it learns of that by ICMP, which comes by here."""
    balancer = direct("-r", servers=SERVERS[:1])
    far, data = "198.51.100.9", bytes(200_000)
    with Machine() as remote, ExitStack() as stack:
        lan.client.run(f"ip link add narrow type veth peer name cable netns {remote.path}")
        for machine, link, address in ((lan.client, "narrow", "198.51.100.1"), (remote, "cable", far)):
            machine.run(f"ip address add {address}/24 dev {link}")
            machine.run(f"ip link set {link} up")
        lan.client.run("ip link set narrow mtu 1200")
        lan.client.run("sysctl -qw net.ipv4.ip_forward=1")
        remote.run("ip route add default via 198.51.100.1")
        lan.servers[0].run(f"ip route add 198.51.100.0/24 via {CLIENT}")
        with lan.servers[0].entered():
            stack.enter_context(Server(lambda sock: sock.sendall(data), at=SERVICE, port=7001))
        balancer.ctl(f"listen {SERVICE}:7001")
        with remote.entered():
            sock = stack.enter_context(socket.create_connection((SERVICE, 7001), timeout=PATIENCE))
        got = 0
        while piece := sock.recv(1 << 16):
            got += len(piece)
        assert got == len(data)


@pytest.mark.parametrize("forgotten", ["arp_announce", "arp_ignore"])
def test_a_server_that_claims_the_address(direct: Start, lan: Lan, forgotten: str) -> None:
    """Somebody forgot this there: that is told, at the start or when it happens, and once a minute, however many do."""
    for each in ("all", "cable"):
        lan.servers[0].run(f"sysctl -qw net.ipv4.conf.{each}.{forgotten}=0")
    balancer = direct("-r")
    with lan.servers[0].entered(), client((CLIENT, 9), SERVICE) as sock:
        sock.send(b"who is there?")
    wait_until(lambda: f"dsr_ip: {SERVICE} is claimed by {mac_of(lan.servers[0]).hex(':')} too" in balancer.stderr)
    with lan.client.entered(), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as other:
        other.bind(("cable", 0))
        service = socket.inet_aton(SERVICE)
        for number in range(20):
            mac = bytes((2, 0, 0, 0, 0, number))
            other.send(frames.arp(frames.REPLY, mac, service, frames.BROADCAST, service)[frames.VIRTIO:])
    assert lan.name() in SERVERS
    assert balancer.stderr.count("is claimed by") == 1


def test_servers_of_other_families(direct: Start, lan: Lan) -> None:
    """Are passed over, and it is told why."""
    balancer = direct("-r", servers=("[fd00::1]:80", SERVERS[1], "/run/nobody.sock"))
    assert {lan.name() for _ in range(4)} == {SERVERS[1]}
    assert [balancer.server(number)["reason"] for number in (0, 2)] == ["it has no IPv4 address"] * 2


def test_what_makes_this_machine_answer_is_told(direct: Start, lan: Lan) -> None:
    lan.balancer.run(f"ip address add {SERVICE}/32 dev lo")
    lan.balancer.run("sysctl -qw net.ipv4.ip_forward=1")
    told = direct("-r").stderr
    assert f"dsr_ip: {SERVICE} is an address of this machine" in told
    assert "sysctl net.ipv4.conf.cable.forwarding=0" in told


def test_an_interface_that_goes_and_comes(direct: Start, lan: Lan) -> None:
    """Down and up; and anew, with another number and another MAC."""
    balancer = direct("-r")
    assert lan.name() == SERVERS[0]
    lan.balancer.run("ip link set cable down")
    wait_until(lambda: "dsr_if: can't receive from 'cable': network is down" in balancer.stderr)
    lan.balancer.run("ip link set cable up")
    wait_until(lambda: _is_served(lan), what="service again")
    lan.balancer.run("ip link del cable")
    wait_until(lambda: "dsr_if: 'cable': no such device" in balancer.stderr)
    lan.switch.plug(lan.balancer, f"{BALANCER}/24")
    wait_until(lambda: _is_served(lan), what="service by the new interface")


def _is_served(lan: Lan) -> bool:
    try:
        with lan.client.entered():
            socket.create_connection((SERVICE, PORT), timeout=0.5).close()
    except OSError:
        return False
    return True


def test_who_may_not(lan: Lan) -> None:
    """The remedy is told."""
    done = run_gpen("-f", "-O", "dsr_if cable", f"{SERVICE}:{PORT}", *SERVERS,
                    wrapper=(*lan.balancer.wrapper, *NOBODY))
    assert done.returncode == 1
    assert "dsr_if: can't open 'cable': Operation not permitted: frames need CAP_NET_RAW: start gpen as root" in (
        done.stderr)


OPTIONS = pytest.mark.parametrize("options", [(), ("-u", "nobody")], ids=["root", "nobody"])


@OPTIONS
def test_a_user_goes_on(direct: Start, lan: Lan, tmp_path: Path, options: tuple[str, ...]) -> None:
    """Keeps the right to take frames, where they were taken from the start: of another address, say. Workers, which
    take none, do not."""
    open_to_all(tmp_path)
    balancer = direct("-r", *options, "-O", "workers 2")
    assert lan.name() == SERVERS[0]
    lasting = int(bits(*(() if options else OF_ROOT)), 16)
    effective = [int(rights_of(pid)["CapEff"], 16)
                 for pid in (balancer.pid, *(row["pid"] for row in balancer.json("workers")))]
    assert effective == [lasting | int(bits(NET_RAW), 16), lasting, lasting]
    told = balancer.ctl(f"listener plain listen {BALANCER}:{PORT}", "listener plain no dsr_if",
                        "listener plain transparent")
    assert "listener plain: transparent: needs the capability CAP_NET_RAW" in told and "set when it starts" in told
    assert balancer.ctl("listener plain no transparent") == ""
    for machine in lan.servers:
        machine.run("ip address add 192.0.2.101/32 dev lo")
    assert balancer.ctl("dsr_ip 192.0.2.101") == ""
    assert lan.name("192.0.2.101") in SERVERS


@OPTIONS
def test_who_has_given_the_right_up(gpen: Start, lan: Lan, tmp_path: Path, options: tuple[str, ...]) -> None:
    """A gpen that was started without it does not get it later, and says what to do."""
    open_to_all(tmp_path)
    balancer = gpen(*options, servers=[SERVERS[0]], listen=f"{BALANCER}:{PORT}", wrapper=lan.balancer.wrapper)
    told = balancer.ctl(f"dsr_ip {SERVICE}", "dsr_if cable")
    assert "frames need CAP_NET_RAW" in told and "start it anew" in told
    assert balancer.json("listeners")[0]["dsr"] is None


def test_frames_of_all_kinds(gpen: Start) -> None:
    """Cut off, with lengths that lie, of protocols that nobody knows: they cost themselves only."""
    dice = random.Random(12)
    with two_machines() as (near, far):
        balancer = gpen("-r", "-O", "dsr_if cable", "-O", "acl 3 permit 192.0.2.64/28", "-O", "tarpit_acl 3",
                        servers=[FAR], listen=f"{SERVICE}:{PORT}", wrapper=near.wrapper)
        mac = mac_of(near)
        with far.entered(), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
            sock.bind(("cable", 0))
            own = sock.getsockname()[4]
            for _ in range(5000):
                sock.send(dice.choice((mac, mac, b"\xff" * 6)) + own + _packet(dice))
        wait_until(lambda: balancer.json("listeners")[0]["dsr"]["frames"]["forwarded"] > 50, what="some of them")
        wait_until(lambda: tarpitted(balancer), what="some for the tarpit")
        assert "failed" not in balancer.stderr and "can't" not in balancer.stderr


def _packet(dice: random.Random) -> bytes:
    """What may be in a frame: IPv4 or ARP, more or less."""
    address, size = socket.inet_aton(dice.choice((SERVICE, "192.0.2.70"))), dice.randrange(1, 120)
    if dice.random() < 0.2:
        return b"\x08\x06\x00\x01\x08\x00\x06\x04" + (dice.randbytes(16) + address)[:size]
    head = bytes([dice.choice((0x45, 0x45, 0x4F, 0x40, 0x46))]) + dice.randbytes(5)
    head += dice.choice((bytes(2), bytes(2), b"\x20\x00", b"\x00\x07"))  # not in pieces, the first, another
    head += b"\x40" + bytes([dice.choice((1, 6, 6, 17))]) + dice.randbytes(2) + dice.randbytes(4) + address
    return b"\x08\x00" + (head + dice.randbytes(2) + PORT.to_bytes(2, "big") + dice.randbytes(90))[:size]


def mac_of(machine: Machine) -> bytes:
    """Of its interface."""
    done = subprocess.run([*machine.wrapper, "ip", "-j", "link", "show", "cable"], capture_output=True, text=True,
                          check=True)
    return bytes.fromhex(json.loads(done.stdout)[0]["address"].replace(":", ""))


@pytest.mark.parametrize(("arguments", "expected"), [
    (("-O", "dsr_if lo", "8080"), "dsr_if: which address do clients connect to? give dsr_ip ADDRESS"),
    (("-O", "dsr_if lo", "[::1]:8080"), "dsr_if: which address do clients connect to?"),
    (("-O", "dsr_if lo", f"{SERVICE}:80"), "dsr_if: can't open 'lo': it is no interface of Ethernet"),
    (("-O", "dsr_if nowhere", f"{SERVICE}:80"), "can't open 'nowhere': No such device: there is none of that name"),
    (("-H", "-O", "dsr_if lo", f"{SERVICE}:80"), "http: servers answer clients themselves (dsr_if)"),
    (("-O", "hold 5", "-O", "dsr_if lo", f"{SERVICE}:80"), "hold: servers answer clients themselves (dsr_if)"),
])
def test_what_is_refused(arguments: tuple[str, ...], expected: str) -> None:
    done = run_gpen("-f", *arguments, "127.0.0.1:9")
    assert done.returncode in (1, 2)
    assert expected in done.stderr


def test_what_is_told(direct: Start, lan: Lan) -> None:
    """In metrics, and in notes of what has no effect."""
    port = free_port()
    balancer = direct("-r", "-O", f"metrics 127.0.0.1:{port}", "-O", "tcp_nodelay", "-O", "tarpit_acl 4",
                      "-x", "2000000")
    lan.name()
    with lan.balancer.entered():
        sock = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
    with sock:
        sock.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        found = samples(sock.makefile().read().partition("\n\n")[2])
    series = {name: value for name, value in found.items() if name.startswith("gpen_listener_dsr_frames_total")}
    assert series['gpen_listener_dsr_frames_total{listener="-",frames="forwarded"}'] > 3
    assert series['gpen_listener_dsr_frames_total{listener="-",frames="dropped"}'] == 0
    assert len(series) == 5
    assert "tcp_nodelay has no effect: servers answer clients themselves" in balancer.stderr
    assert "tarpit_acl 4 has no effect: the access list is empty" in balancer.stderr
    assert "conn_max" not in balancer.stderr  # flows take neither descriptors nor ports


def test_without_an_interface(gpen: Start) -> None:
    with Server(naming("a")) as server:
        balancer = gpen("-O", f"dsr_ip {SERVICE}", servers=[server])
        assert balancer.ask() == b"a"
        assert f"dsr_ip {SERVICE} has no effect: it is for direct server return" in balancer.stderr
