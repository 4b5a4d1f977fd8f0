"""The subject of a certificate as text: pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from gpen.model.text import printable

_SHORT = {"commonName": "CN", "organizationName": "O", "organizationalUnitName": "OU", "countryName": "C",
          "stateOrProvinceName": "ST", "localityName": "L", "streetAddress": "STREET", "domainComponent": "DC",
          "userId": "UID"}
_SPECIAL = re.compile(r'([,+"\\<>;=]|^[# ]| $)')


def subject_in(certificate: Mapping[str, Any] | None) -> str:
    """The subject of a certificate, as Python's ssl has decoded it, in the form of RFC 4514, the most particular part
    first; empty where there is none."""
    parts: Sequence[Sequence[tuple[str, str]]] = (certificate or {}).get("subject", ())
    return ",".join("+".join(f"{_SHORT.get(name, name)}={_SPECIAL.sub(_escaped, printable(value))}"
                             for name, value in part) for part in reversed(parts))


def _escaped(found: re.Match[str]) -> str:
    return f"\\{found[0]}"
