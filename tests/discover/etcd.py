"""A real etcd, of one member or several, and Debian's etcdctl to change it."""

from __future__ import annotations

import base64
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from gpen.discover.etcd import Etcd
from gpen.discover.http_client import NO_FILES, HttpClient, HttpError, Tls
from tests.certificates import Certificates
from tests.harness import PATIENCE, wait_until
from tests.servers import free_port


class Member:
    """One etcd, which may be killed, stopped by a signal and started again."""

    def __init__(self, directory: Path, name: str, client_port: int, peer_port: int, options: Sequence[str | Path],
                 scheme: str) -> None:
        self.directory, self.name = directory, name
        self.url = f"{scheme}://{'127.0.0.1' if scheme == 'http' else 'localhost'}:{client_port}"
        self._listen = f"{scheme}://127.0.0.1:{client_port}"
        self.peer = f"http://127.0.0.1:{peer_port}"
        self._options = options
        self.process: subprocess.Popen[bytes] | None = None
        self.is_stopped = False

    def start(self, cluster: str) -> None:
        """Don't wait until it answers: it has to find others first."""
        with (self.directory / f"{self.name}.log").open("ab") as log:
            self.process = subprocess.Popen(
                ["etcd", "--name", self.name, "--data-dir", self.directory / self.name, "--initial-cluster", cluster,
                 "--listen-client-urls", self._listen, "--advertise-client-urls", self.url,
                 "--listen-peer-urls", self.peer, "--initial-advertise-peer-urls", self.peer,
                 "--unsafe-no-fsync", "--logger", "zap", *self._options],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def kill(self, number: int = signal.SIGKILL) -> None:
        assert self.process is not None
        self.process.send_signal(number)
        self.is_stopped = number == signal.SIGSTOP
        if number == signal.SIGKILL:
            self.process.wait(PATIENCE)
            self.process = None


class Cluster:
    """Members that know each other."""

    def __init__(self, members: Sequence[Member], tls: Sequence[str | Path] = ()) -> None:
        """``tls``: options of etcdctl."""
        self.members = members
        self._tls = tls
        self._environment = {name: value for name, value in os.environ.items() if not name.startswith("ETCDCTL_")}

    @property
    def urls(self) -> list[str]:
        return [member.url for member in self.members]

    def start(self, member: Member) -> None:
        member.start(",".join(f"{it.name}={it.peer}" for it in self.members))

    def wait(self) -> None:
        """Wait until the members answer."""
        for member in self.members:
            wait_until(lambda member=member: self._ctl(["endpoint", "health"], [member.url]).returncode == 0,
                       what=f"an answer of {member.url}")

    def close(self) -> None:
        for member in self.members:
            if member.process is not None:
                member.kill()

    def put(self, key: str, value: str) -> None:
        self._post("kv/put", key=key, value=value)

    def delete(self, key: str) -> None:
        self._post("kv/deleterange", key=key)

    def compact(self) -> None:
        """Forget what was before now."""
        header = self._post("kv/put", key="now", value="")["header"]
        self._post("kv/compaction", revision=header["revision"])

    def _post(self, path: str, **fields: str) -> Any:
        """Ask for this at once, without etcdctl; again where a leader is still looked for."""
        body = {name: text if name == "revision" else base64.b64encode(text.encode()).decode()
                for name, text in fields.items()}

        def answer() -> Any:
            try:
                return HttpClient(self._running[0]).ask("POST", f"/v3/{path}", body, seconds=PATIENCE).value
            except HttpError as error:
                if error.status != 503:
                    raise
                return None

        return wait_until(answer, what=f"{path} done")

    @property
    def _running(self) -> list[str]:
        return [member.url for member in self.members if member.process and not member.is_stopped]

    def ctl(self, *words: str) -> str:
        """What etcdctl prints, that must succeed; it asks those that run."""
        done = self._ctl(words, self._running)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def _ctl(self, words: Sequence[str], urls: Sequence[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["etcdctl", *self._tls, "--endpoints", ",".join(urls), "--command-timeout=20s", *words],
                              env={**self._environment, "ETCDCTL_API": "3"}, capture_output=True, text=True,
                              timeout=2 * PATIENCE, check=False, stdin=subprocess.DEVNULL)


@contextmanager
def etcd(directory: Path, members: int = 1, options: Sequence[str | Path] = (), tls: Certificates | None = None,
         ) -> Iterator[Cluster]:
    """A cluster of so many members that answers; with ``tls`` it is at localhost, and wants to see certificates. Skips
    the test where there is no etcd."""
    if not shutil.which("etcd") or not shutil.which("etcdctl"):
        pytest.skip("etcd and etcdctl are not installed (Debian: etcd-server, etcd-client)")
    with ExitStack() as stack:
        shown: Sequence[str | Path] = ()
        scheme = "https" if tls else "http"
        if tls is not None:
            ca, own, client = tls.authority.certificate, tls.server, tls.client
            options = [*options, "--cert-file", own.certificate, "--key-file", own.key, "--trusted-ca-file", ca,
                       "--client-cert-auth"]
            shown = ["--cacert", ca, "--cert", client.certificate, "--key", client.key]
        cluster = Cluster([Member(directory, f"m{number}", free_port(), free_port(), options, scheme)
                           for number in range(members)], shown)
        stack.callback(cluster.close)
        for member in cluster.members:
            cluster.start(member)
        cluster.wait()
        yield cluster


def source(*urls: str, prefix: str = "/web/", tls: Tls = NO_FILES, **options: Any) -> Etcd:
    """What gpen-discover makes of these URLs."""
    return Etcd(f"etcd {prefix}", prefix, [HttpClient(url, tls) for url in urls], **options)
