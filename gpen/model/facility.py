"""The log that goes to syslog: ``syslog``, or ``syslog:FACILITY`` with one of the names of syslog(3)."""

from __future__ import annotations

FACILITIES = {
    "kern": 0, "user": 1, "mail": 2, "daemon": 3, "auth": 4, "syslog": 5, "lpr": 6, "news": 7, "uucp": 8, "cron": 9,
    "authpriv": 10, "ftp": 11, **{f"local{number}": 16 + number for number in range(8)}}
TAKEN = tuple(name for name in FACILITIES if name != "kern")  # that is the kernel's alone
DEFAULT = "local0"  # the diagnostics have daemon
_NAME = "syslog"


def facility_of(target: str) -> int | None:
    """The number of the facility that a log's target names; None for a file, or a log elsewhere: ``./syslog`` is a
    file, and ``syslog:514`` a host of that name. Raises ValueError for a facility that is none."""
    name, colon, facility = target.partition(":")
    if name != _NAME or facility.isdecimal():
        return None
    facility = facility if colon else DEFAULT
    if facility not in TAKEN:
        raise ValueError(f"'{target}': '{facility}' is not a facility of syslog: expected one of {', '.join(TAKEN)}")
    return FACILITIES[facility]


def is_syslog(target: str) -> bool:
    """Whether a log's target, which has been read, is syslog."""
    return facility_of(target) is not None
