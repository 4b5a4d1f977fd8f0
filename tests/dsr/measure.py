"""How much direct server return takes: frames and bytes through gpen or pen, in namespaces, with the CPU time that each
frame costs: `python -m tests.dsr.measure [gpen|pen] [plain]`, plain: without any help of (virtual) cards. Needs root,
and Debian's package pen for that."""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

from tests.dsr.conftest import BALANCER, CLIENT, PORT, SERVERS, SERVICE, Lan
from tests.harness import COMMAND, read_all
from tests.networks import Machine, switched

SECONDS = 3.0
BULK = 256 << 20
WARM = 0.5


SIOCETHTOOL = 0x8946
OFFLOADS = (0x1F, 0x17, 0x24, 0x2C)  # linux/ethtool.h: to set TSO, checksums of what is sent, GSO, GRO


def leave_nothing_to_the_card(machine: Machine) -> None:
    """As `ethtool -K cable tso off tx off gso off gro off` does: pen sends on what has no checksum yet, or is larger
    than the MTU, and a server drops that."""
    with machine.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for number in OFFLOADS:
            value = ctypes.create_string_buffer(struct.pack("II", number, 0))
            fcntl.ioctl(sock, SIOCETHTOOL, struct.pack("16sP16x", b"cable", ctypes.addressof(value)))


def command_of(program: str, udp: bool) -> list[str]:
    """What starts it, with the same options."""
    options = ["-f", "-r", "-O", "dsr_if cable", *(["-U"] if udp else []), f"{SERVICE}:{PORT}",
               *(f"{server}:{PORT}" for server in SERVERS)]  # pen takes none without a port
    return [*(COMMAND if program == "gpen" else [program]), *options]


def cpu_of(pid: int) -> float:
    """Seconds of CPU time."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def received(lan: Lan) -> int:
    """Frames that came to the servers."""
    total = 0
    for machine in lan.servers:
        done = subprocess.run([*machine.wrapper, "cat", "/proc/net/dev"], capture_output=True, text=True, check=True)
        line = next(line for line in done.stdout.splitlines() if "cable:" in line)
        total += int(line.split()[2])
    return total


def flood(lan: Lan, is_over: threading.Event) -> None:
    """Small datagrams of 20 clients' ports, as fast as they go."""
    with ExitStack() as stack:
        socks = [stack.enter_context(lan.datagrams()) for _ in range(20)]
        sends = [sock.send for sock in socks]
        while not is_over.is_set():
            for send in sends:
                try:
                    send(b"x" * 32)
                except OSError:
                    continue


def small_frames(lan: Lan, pid: int) -> str:
    """A flood of them."""
    for server in lan.udp:
        server.close()  # nobody answers: an ICMP error of a port is what a server's kernel sends then, rate-limited
    is_over = threading.Event()
    thread = threading.Thread(target=flood, args=(lan, is_over))
    thread.start()
    time.sleep(WARM)
    cpu, frames, began = cpu_of(pid), received(lan), time.monotonic()
    time.sleep(SECONDS)
    cpu, frames, took = cpu_of(pid) - cpu, received(lan) - frames, time.monotonic() - began
    is_over.set()
    thread.join()
    cost = cpu / max(frames, 1)
    return (f"{frames / took:,.0f} frames/s forwarded, {100 * cpu / took:.0f}% of a CPU, {cost * 1e6:.2f} us each: "
            f"{1 / cost if cost else 0:,.0f} frames/s of CPU time")


def bulk(lan: Lan, pid: int) -> str:
    """One connection's bytes to a server."""
    sock, _ = lan.connect()
    sock.settimeout(20)
    piece, sent = bytes(1 << 20), 0
    threading.Thread(target=lambda: read_all(sock), daemon=True).start()
    cpu, began = cpu_of(pid), time.monotonic()
    try:
        while sent < BULK and time.monotonic() - began < 10:
            sock.sendall(piece)
            sent += len(piece)
    except OSError as error:
        return f"{sent >> 20} MiB, then {error}"
    took, cpu = time.monotonic() - began, cpu_of(pid) - cpu
    return f"{sent / took / (1 << 20):,.0f} MiB/s, {100 * cpu / took:.0f}% of a CPU"


def main() -> None:
    program, *more = sys.argv[1:] or ["gpen"]
    for name, udp, measure in (("small frames", True, small_frames), ("bulk", False, bulk)):
        plugs = [[f"{address}/24"] for address in (CLIENT, BALANCER, *SERVERS)]
        with switched(*plugs) as (switch, machines), ExitStack() as stack:
            lan = Lan(switch, machines, stack)
            if program == "pen":
                lan.balancer.run("ip address flush dev cable")
            for machine in machines if "plain" in more else []:
                leave_nothing_to_the_card(machine)
            with subprocess.Popen([*lan.balancer.wrapper, *command_of(program, udp)], stdout=subprocess.DEVNULL,
                                  stderr=subprocess.DEVNULL) as process:
                time.sleep(2)
                try:
                    print(f"{program}, {name}: {measure(lan, process.pid)}", flush=True)
                finally:
                    process.send_signal(signal.SIGTERM)


if __name__ == "__main__":
    main()
