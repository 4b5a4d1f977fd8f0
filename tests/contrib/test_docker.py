"""The container's files, as far as they can be tried without an engine: what an image is made of, what it starts."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import subprocess
import sys
from pathlib import Path

from tests.contrib.service import CONTRIB, ROOT
from tests.harness import Server, connect, naming, needs_root, started, wait_until

DOCKER = CONTRIB / "docker"


def instruction(name: str) -> str:
    """The last one of this name, its lines put together."""
    lines = re.sub(r"\\\n\s*", "", (DOCKER / "Dockerfile").read_text()).splitlines()
    return [line.partition(" ")[2] for line in lines if line.startswith(f"{name} ")][-1]


def words(name: str) -> list[str]:
    """Those of an instruction in JSON, whatever options are before it."""
    found = json.loads(re.sub(r"^[^[]*", "", instruction(name)))
    assert all(isinstance(word, str) for word in found)
    return list(found)


def test_what_the_image_is_made_of_is_not_ignored(tmp_path: Path) -> None:
    """gpen can be built of what .dockerignore leaves."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    patterns = [line.removeprefix("**/") for line in lines if line[:1] != "#"]
    for directory, directories, names in os.walk(ROOT):
        ignored = {name for name in (*directories, *names) for pattern in patterns if fnmatch.fnmatch(name, pattern)}
        directories[:] = [name for name in directories if name not in ignored]
        for name in set(names) - ignored:
            copy = tmp_path / Path(directory).relative_to(ROOT) / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes((Path(directory) / name).read_bytes())
    build = "from setuptools import build_meta as b; print(b.build_wheel('dist'))"
    done = subprocess.run([sys.executable, "-c", build], cwd=tmp_path, env={**os.environ, "GPEN_PURE": "1"},
                          capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert [file.name for file in (tmp_path / "dist").iterdir()] == [done.stdout.splitlines()[-1]]


@needs_root
def test_what_it_starts_is_process_1_without_rights(tmp_path: Path) -> None:
    """It serves, says that it is well, takes another configuration, and ends when it is told to."""
    assert instruction("USER").isdigit() and instruction("USER") != "0"
    (tmp_path / "bin").mkdir()
    for name in ("gpen", "gpenctl"):
        program = tmp_path / "bin" / name
        program.write_text(f'#!/bin/sh\nexec {sys.executable} {ROOT}/bin/{name} "$@"\n')
        program.chmod(0o755)
    file = tmp_path / "gpen.cfg"
    here = {"/run/gpen": str(tmp_path), "/etc/gpen": str(tmp_path)}

    def run(name: str) -> list[str]:
        return [re.sub("|".join(here), lambda found: here[found[0]], word) for word in words(name)]

    environment = {**os.environ, "PATH": f"{tmp_path}/bin:/usr/bin:/bin"}
    alone = ["unshare", "--pid", "--fork", "--kill-child", "setpriv", "--bounding-set=-all", "--no-new-privs"]
    with Server(naming("a")) as server:
        file.write_text(f"listen 127.0.0.1:0\nserver 0 address 127.0.0.1 port {server.address.rpartition(':')[2]}\n")
        with started([*alone, *run("ENTRYPOINT"), *run("CMD")], env=environment, cwd="/") as container:

            def ask(*command: str) -> str:
                return subprocess.run([*run("HEALTHCHECK")[:-1], *command], env=environment, capture_output=True,
                                      text=True, timeout=20, check=False).stdout.strip()

            wait_until(lambda: ask("pid") == "1")
            checked = subprocess.run(run("HEALTHCHECK"), env=environment, capture_output=True, timeout=20, check=False)
            assert checked.returncode == 0
            host, _, port = ask("listen").rpartition(":")
            with connect((host, int(port))) as sock:
                assert sock.recv(1) == b"a"
            file.write_text(f"{file.read_text()}timeout 7\n")
            assert ask("reload").startswith("timeout 7") and ask("timeout") == "7"
            (inner,) = Path(f"/proc/{container.pid}/task/{container.pid}/children").read_text().split()
            os.kill(int(inner), 15)
            assert container.wait(20) == 0
    checked = subprocess.run(run("HEALTHCHECK"), env=environment, capture_output=True, timeout=20, check=False)
    assert checked.returncode != 0


def test_what_compose_mounts_is_there() -> None:
    mounted = re.findall(r"(?:- |\")(\.\.?/[^:]+):", (DOCKER / "compose.yml").read_text())
    assert len(mounted) >= 8
    assert [name for name in mounted if not (DOCKER / name).exists()] == []


def test_the_configuration_of_compose_is_valid(tmp_path: Path) -> None:
    """With addresses for names, which only there are known."""
    file = tmp_path / "gpen.cfg"
    file.write_text(re.sub(r"address node(\d)", r"address 203.0.113.\1", (DOCKER / "gpen.cfg").read_text()))
    done = subprocess.run([sys.executable, ROOT / "bin" / "gpen", "--check", "-F", file], capture_output=True,
                          text=True, timeout=20, check=False)
    assert (done.returncode, done.stdout) == (0, "configuration is valid\n"), done.stderr


def test_the_first_node_alone_begins_a_cluster(tmp_path: Path) -> None:
    """Where there is none yet, and where it was the last one of all to be stopped."""
    text = (DOCKER / "compose.yml").read_text()
    (folded,) = re.findall(r"- >-\n((?: {6}.*\n)+)", text)
    state = tmp_path / "grastate.dat"
    line = " ".join(folded.split()).replace("$$", "$").replace("/var/lib/mysql/grastate.dat", str(state))

    def begins(node: str) -> bool:
        shell = f"hostname() {{ echo {node}; }}; {line.replace('exec docker-entrypoint.sh', 'printf %s,')}"
        done = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, timeout=20, check=True,
                              env={"MARIADB_ROOT_PASSWORD": "a b"})
        told = done.stdout.split(",")
        assert told[:2] == ["mariadbd", "--wsrep-sst-auth=root:a b"]
        return told[2:] == ["--wsrep-new-cluster", ""]

    assert [begins(node) for node in ("node1", "node2", "node3")] == [True, False, False]
    state.write_text("safe_to_bootstrap: 0\n")
    assert not begins("node1")
    state.write_text("safe_to_bootstrap: 1\n")
    assert begins("node1") and not begins("node2")
