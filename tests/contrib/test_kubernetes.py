"""contrib/kubernetes: what its pods run is a configuration and a command line that gpen and gpen-discover take."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.harness import PROGRAM, ROOT

MANIFEST = (ROOT / "contrib/kubernetes/gpen-discover.yaml").read_text()


def test_the_configuration_is_valid(tmp_path: Path) -> None:
    """As gpen is started in the image: with a control socket, over which the servers come."""
    (block,) = re.findall(r"^  gpen\.cfg: \|\n((?:    .*\n)+)", MANIFEST, re.MULTILINE)
    file = tmp_path / "gpen.cfg"
    file.write_text(textwrap.dedent(block))
    done = subprocess.run([sys.executable, PROGRAM, "--check", "-C", tmp_path / "gpen.ctl", "-F", file],
                          capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0, done.stderr


def test_gpen_discover_takes_its_command_line() -> None:
    """And misses only that it is in no pod."""
    commands = [json.loads(words) for words in re.findall(r"^ *command: (\[.*\])$", MANIFEST, re.MULTILINE)]
    ((program, *words),) = [command for command in commands if command[0] == "gpen-discover"]
    done = subprocess.run([sys.executable, ROOT / "bin" / program, *words], capture_output=True, text=True, timeout=20,
                          check=False, env={})
    assert done.returncode == 2 and "outside a pod" in done.stderr


def test_who_listens_to_everybody_holds_no_token() -> None:
    """And no more rights than the level `restricted` of Pod Security Standards lets a pod have."""
    yaml = pytest.importorskip("yaml")
    (deployment,) = [part for part in yaml.safe_load_all(MANIFEST) if part["kind"] == "Deployment"]
    spec = deployment["spec"]["template"]["spec"]
    mounts = {container["name"]: {mount["name"] for mount in container["volumeMounts"]}
              for container in spec["containers"]}
    assert not spec["automountServiceAccountToken"]
    assert "account" in mounts["gpen-discover"] and "account" not in mounts["gpen"]
    assert spec["securityContext"]["runAsNonRoot"]
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in spec["containers"]:
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
                                                "capabilities": {"drop": ["ALL"]}}
