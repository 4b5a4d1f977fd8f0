"""From the ssl_* settings to ssl.SSLContexts: certificates, keys, authorities, versions and ciphers.

Everything is read when the contexts are made, the directory of authorities too: that is before privileges are dropped
and a chroot is entered, and no file is asked for in a handshake.
"""

from __future__ import annotations

import _ssl
import logging
import os
import re
import ssl
import stat
from collections.abc import Callable, Iterable

from gpen.model.settings import Settings

log = logging.getLogger("gpen")

Pace = Callable[[Iterable[str]], Iterable[str]]  # gently, or what does not switch
Path = Callable[[str], str]  # from a file's name to where it is found in a chroot

_VERSIONS = {"tls1.2": ssl.TLSVersion.TLSv1_2, "tls1.3": ssl.TLSVersion.TLSv1_3}
HASHED = re.compile(r"[0-9a-f]{8}\.[0-9]+")  # what openssl rehash makes
_TICKETS = 1  # behind a handshake of TLS 1.3: OpenSSL would send two, and each takes 20 us of 260 (P-256)
_TIMES = {9: "is not valid yet", 10: "has expired"}  # verify codes of OpenSSL (x509_vfy.h)
_OF_ANOTHER = {"KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED"}  # the last: of another kind
# With forward secrecy and authenticated encryption only: CBC, where padding has told secrets again and again (Lucky
# Thirteen was the last), is out, and so are DHE, whose parameters would be another file to look after, and plain RSA.
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
# The server's order, but for a client that wants ChaCha20 most: its processor has no instructions for AES.
_SERVER_S_ORDER = ssl.OP_CIPHER_SERVER_PREFERENCE | 0x200000  # SSL_OP_PRIORITIZE_CHACHA, which ssl does not name
_MOST_OF_PASSPHRASE = 1000  # bytes; Python's ssl takes 1,024
_PASSPHRASE_OF = dict.fromkeys(("ssl_certificate", "ssl_key", "ssl_sni_path"), ", or give ssl_key_passphrase")
_ALL_CIPHERS = "ALL:@SECLEVEL=0"


class ServerContext(ssl.SSLContext):
    """One with a certificate of ours. ``chain`` is its PEM, which OpenSSL would show to clients only; ``authorities``
    are those, in PEM, by whose word clients are let in."""

    authorities: tuple[str, ...] = ()
    chain = ""


class TlsError(Exception):
    """Certificates, keys or settings that make no TLS: one line that names the setting, the file and the reason."""


def main_context(settings: Settings, path: Path) -> ServerContext:
    """The context of ssl_certificate. Raises TlsError."""
    certificate = settings.ssl_certificate
    assert certificate is not None
    return _context(settings, path, ("ssl_certificate", certificate), ("ssl_key", settings.ssl_key), _authorities(
        settings, path))


def contexts_by_name(settings: Settings, path: Path, pace: Pace) -> dict[str, ServerContext]:
    """The contexts of the certificates in ssl_sni_path, by domain in small letters. Where ``pace`` does, it switches
    greenlets, since there may be thousands. Raises TlsError."""
    directory = settings.ssl_sni_path
    found: dict[str, ServerContext] = {}
    if directory is None:
        return found
    files = set(_listed("ssl_sni_path", directory, path))
    authorities = _authorities(settings, path)
    for file in pace(sorted(file for file in files if file.endswith(".crt"))):
        domain = file.removesuffix(".crt")
        certificate, key, own = (os.path.join(directory, domain + suffix) for suffix in (".crt", ".key", ".ca"))
        found[domain.lower()] = _context(
            settings, path, ("ssl_sni_path", certificate),
            ("ssl_sni_path", key if f"{domain}.key" in files else None),
            [authority("ssl_sni_path", own, path)] if f"{domain}.ca" in files else authorities)
    return found


def _context(settings: Settings, path: Path, certificate: tuple[str, str], key: tuple[str, str | None],
             authorities: Iterable[str]) -> ServerContext:
    """A context with this certificate; it and its key come with the name of the setting that named them.

    Without ssl_require_peer and ssl_verify_client nobody is asked for a certificate, as with pen: the authorities then
    but complete the chain of our own.
    """
    context = ServerContext(ssl.PROTOCOL_TLS_SERVER)
    _choose_versions(context, settings)
    context.num_tickets = _TICKETS
    context.options |= _SERVER_S_ORDER | ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    if "no_ticket" in settings.ssl_option:
        context.options |= ssl.OP_NO_TICKET
    try:
        context.set_ciphers(settings.ssl_ciphers or _CIPHERS)
    except ssl.SSLError:
        raise TlsError(f"ssl_ciphers: '{settings.ssl_ciphers}' names no cipher of TLS 1.2 that there is: see "
                       "openssl ciphers -v") from None
    if settings.ssl_alpn:
        context.set_alpn_protocols(list(settings.ssl_alpn))
    context.chain = chain = load_pair(context, path, certificate, key, settings.ssl_key_passphrase)
    context.authorities = tuple(authorities)
    for text in context.authorities:
        context.load_verify_locations(cadata=text)
    _rehearse(context, *certificate, chain)
    context.verify_mode = _verification(settings)
    return context


def _verification(settings: Settings) -> ssl.VerifyMode:
    """Whether clients are asked for a certificate, and must have one."""
    if settings.ssl_require_peer or settings.ssl_verify_client == "required":
        return ssl.CERT_REQUIRED
    return ssl.CERT_OPTIONAL if settings.ssl_verify_client == "optional" else ssl.CERT_NONE


def names_of(settings: Settings, path: Path) -> set[str]:
    """The names that ssl_certificate has, in small letters: alternative ones, or, where it has none, its common name.
    Its file has been read."""
    assert settings.ssl_certificate is not None
    decoded = _ssl._test_decode_cert(path(settings.ssl_certificate))  # type: ignore[attr-defined]
    others = [name for kind, name in decoded.get("subjectAltName", ()) if kind == "DNS"]
    common = [value for part in decoded["subject"] for kind, value in part if kind == "commonName"]
    return {name.lower() for name in others or common}


def _choose_versions(context: ssl.SSLContext, settings: Settings) -> None:
    only, options = settings.ssl_protocol, settings.ssl_option
    wanted = [only] if only in _VERSIONS else _VERSIONS
    spoken = [_VERSIONS[name] for name in wanted if name.replace("tls", "no_tlsv") not in options]
    if not spoken:
        raise TlsError(f"ssl_option: {' '.join(options)} leaves no version of TLS to speak"
                       + (f", with ssl_protocol {only}" if only else ""))
    context.minimum_version, context.maximum_version = spoken[0], spoken[-1]


# --- files ------------------------------------------------------------------------------------------------------------


def load_pair(context: ssl.SSLContext, path: Path, certificate: tuple[str, str], key: tuple[str, str | None],
              passphrase: str | None = None) -> str:
    """Load a certificate and its key, which is in the same file unless it has its own; returns the certificate's PEM.
    ``passphrase`` is the file with that of an encrypted key. Raises TlsError."""
    setting, file = certificate
    key_setting, key_file = key[0] if key[1] else setting, key[1] or file
    chain = _text(setting, file, path)
    if "-----BEGIN CERTIFICATE-----" not in chain:
        raise TlsError(f"{setting}: '{file}' holds no certificate in PEM")
    if "PRIVATE KEY-----" not in _text(key_setting, key_file, path):
        remedy = "" if key[1] else ": put it there, or in a file of its own"
        raise TlsError(f"{key_setting}: '{key_file}' holds no private key in PEM{remedy}")

    is_encrypted = False

    def give_passphrase() -> bytes:
        nonlocal is_encrypted
        is_encrypted = True
        if passphrase is None:
            raise TlsError(f"{key_setting}: '{key_file}' is encrypted, and nobody is there to give the password: "
                           "decrypt it with openssl pkey" + _PASSPHRASE_OF.get(key_setting, ""))
        return _passphrase(passphrase, path)

    try:
        context.load_cert_chain(path(file), path(key_file), give_passphrase)
    except ssl.SSLError as error:
        if is_encrypted and error.reason not in _OF_ANOTHER:
            raise TlsError(f"ssl_key_passphrase: '{passphrase}' does not hold the passphrase of the key '{key_file}'"
                           ) from None
        if error.reason in _OF_ANOTHER:
            which = "the key in it" if key_file == file else f"'{key_file}'"
            raise TlsError(f"{key_setting}: {which} does not belong to the certificate '{file}'") from None
        raise TlsError(f"{setting}: '{file}' with the key '{key_file}' can't be used: {reason_of(error)}") from None
    except OSError as error:
        raise TlsError(f"{setting}: can't read '{file}': {error.strerror}") from None
    return chain


def _passphrase(file: str, path: Path) -> bytes:
    """The first line of the file of ssl_key_passphrase. Raises TlsError."""
    try:
        with open(path(file), "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as opened:
            mode = os.fstat(opened.fileno()).st_mode
            if not stat.S_ISREG(mode):
                raise TlsError(f"ssl_key_passphrase: '{file}' is not a regular file")
            if mode & stat.S_IROTH:
                raise TlsError(f"ssl_key_passphrase: everybody can read '{file}': chmod o-r")
            line = opened.readline(_MOST_OF_PASSPHRASE + 2).rstrip(b"\r\n")
    except OSError as error:
        raise TlsError(f"ssl_key_passphrase: can't read '{file}': {error.strerror}") from None
    if not 0 < len(line) <= _MOST_OF_PASSPHRASE:
        raise TlsError(f"ssl_key_passphrase: '{file}' has no passphrase in its first line, of at most "
                       f"{_MOST_OF_PASSPHRASE} bytes")
    return line


def _authorities(settings: Settings, path: Path) -> list[str]:
    """The PEM of ssl_ca_file and of all hashed files of ssl_ca_path. Raises TlsError."""
    texts = [authority("ssl_ca_file", settings.ssl_ca_file, path)] if settings.ssl_ca_file else []
    directory = settings.ssl_ca_path
    if directory:
        hashed = [name for name in _listed("ssl_ca_path", directory, path) if HASHED.fullmatch(name)]
        if not hashed:
            raise TlsError(f"ssl_ca_path: '{directory}' has no certificates under hashed names: run openssl rehash")
        texts += [authority("ssl_ca_path", os.path.join(directory, name), path) for name in sorted(hashed)]
    return texts


def authority(setting: str, file: str, path: Path) -> str:
    """The text of a file of authorities, tried. Raises TlsError."""
    text = _text(setting, file, path)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(cadata=text)
    except (ssl.SSLError, ValueError):
        raise TlsError(f"{setting}: '{file}' holds no certificates in PEM") from None
    return text


def _text(setting: str, file: str, path: Path) -> str:
    try:
        if not stat.S_ISREG(os.stat(path(file)).st_mode):
            raise TlsError(f"{setting}: '{file}' is not a regular file")
        with open(path(file), "rb") as opened:
            return opened.read().decode("ascii", "ignore")
    except OSError as error:
        raise TlsError(f"{setting}: can't read '{file}': {error.strerror}") from None


def _listed(setting: str, directory: str, path: Path) -> list[str]:
    try:
        return os.listdir(path(directory))
    except OSError as error:
        raise TlsError(f"{setting}: can't read '{directory}': {error.strerror}") from None


def reason_of(error: ssl.SSLError) -> str:
    """What OpenSSL has against something, in small words."""
    return (error.reason or error.strerror or str(error)).lower().replace("_", " ")


def _rehearse(context: ssl.SSLContext, setting: str, file: str, chain: str) -> None:
    """Shake hands with ourselves as far as to where a client looks at the certificate: warns of one that is out of
    date, and raises TlsError where no client could come to that."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    client.set_ciphers(_ALL_CIPHERS)
    client.load_verify_locations(cadata=chain)
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    visitor, host = client.wrap_bio(back, there), context.wrap_bio(there, back, server_side=True)
    for side in (visitor, host, visitor):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
        except ssl.SSLCertVerificationError as error:
            if error.verify_code in _TIMES:
                log.warning("%s: the certificate '%s' %s", setting, file, _TIMES[error.verify_code])
        except ssl.SSLError as error:
            raise TlsError(f"{setting}: no client can use the certificate '{file}' with these ssl_ settings: "
                           f"{reason_of(error)}") from None
