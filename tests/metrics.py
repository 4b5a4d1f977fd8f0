"""Metrics as they are scraped, for tests: fetched, read, and checked by promtool."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import urllib.request

import pytest

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
_SAMPLE = re.compile(r"(\w+(?:\{.*\})?) ([-+.\dA-Za-z]+)")


def fetch(port: int, accept: str = "", path: str = "/metrics") -> str:
    """What a door on 127.0.0.1 answers. Raises OSError: HTTPError for a status that is an error."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"Accept": accept} if accept else {})
    with urllib.request.urlopen(request, timeout=20) as answer:
        text: str = answer.read().decode()
    return text


def samples(text: str) -> dict[str, float]:
    """The values by the name of the series with its labels, as they are written."""
    found = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            sample = _SAMPLE.fullmatch(line)
            assert sample, line
            assert sample[1] not in found, line
            found[sample[1]] = float(sample[2])
    return found


def promtool() -> str:
    """The program; skips where it is not installed, but for CI."""
    if not shutil.which("promtool") and not os.environ.get("CI"):
        pytest.skip("promtool is not installed: it is in Debian's package prometheus")
    return "promtool"


def checked(text: str) -> str:
    """What `promtool check metrics` finds in it."""
    done = subprocess.run([promtool(), "check", "metrics"], input=text, capture_output=True, text=True, timeout=60,
                          check=False)
    return done.stdout + done.stderr
