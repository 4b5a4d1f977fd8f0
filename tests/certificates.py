"""Authorities and certificates for tests, made by the openssl program."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

NEW_KEY = {"rsa": ("rsa:2048",), "ec": ("ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")}


def openssl(*arguments: str | Path) -> str:
    """What the openssl program prints, that must succeed."""
    return subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True, timeout=20,
                          check=True, stdin=subprocess.DEVNULL).stdout


@dataclass(frozen=True)
class Pair:
    """A certificate and its key: files in PEM."""

    certificate: Path
    key: Path

    @property
    def options(self) -> tuple[str, ...]:
        """What makes gpen use it."""
        return "-E", str(self.certificate), "-K", str(self.key)

    def in_one(self, file: Path) -> Path:
        """Write both into one file."""
        file.write_bytes(self.certificate.read_bytes() + self.key.read_bytes())
        return file


class Authority:
    """A certificate authority with its files in a directory."""

    def __init__(self, directory: Path, name: str) -> None:
        self.directory = directory
        self.name = name
        self.pair = Pair(directory / f"{name}.ca.crt", directory / f"{name}.ca.key")
        self._request(self.pair, name, "ec", "-x509", "-days", "30")

    @property
    def certificate(self) -> Path:
        return self.pair.certificate

    def issue(self, *names: str, days: int = 30, kind: str = "ec", file: str = "") -> Pair:
        """A certificate for these names, signed; with negative ``days`` it has expired already. ``kind`` is that of its
        key, rsa or ec; ``file`` the name of its files, unless the first name is it."""
        stem = self.directory / f"{self.name}.{file or names[0]}"
        pair = Pair(Path(f"{stem}.crt"), Path(f"{stem}.key"))
        request, extensions = Path(f"{stem}.csr"), Path(f"{stem}.ext")
        extensions.write_text("subjectAltName=" + ",".join(f"DNS:{name}" for name in names) + "\n")
        self._request(pair, names[0], kind, out=request)
        openssl("x509", "-req", "-in", request, "-CA", self.pair.certificate, "-CAkey", self.pair.key,
                "-CAcreateserial", "-days", str(days), "-extfile", extensions, "-out", pair.certificate)
        return pair

    @staticmethod
    def _request(pair: Pair, name: str, kind: str, *more: str, out: Path | None = None) -> None:
        openssl("req", "-new", "-newkey", *NEW_KEY[kind], "-nodes", "-subj", f"/CN={name}", "-keyout", pair.key,
                "-out", out or pair.certificate, *more)


@dataclass(frozen=True)
class Certificates:
    """What a session of tests shares: two authorities, and what the first has issued."""

    directory: Path
    authority: Authority
    other: Authority
    server: Pair
    client: Pair
    stranger: Pair  # a client's, of the other authority
    expired: Pair


def make_certificates(directory: Path) -> Certificates:
    """Make them all."""
    authority, other = Authority(directory, "ours"), Authority(directory, "theirs")
    return Certificates(directory, authority, other, authority.issue("localhost"), authority.issue("client"),
                        other.issue("stranger"), authority.issue("localhost", days=-1, file="expired"))
