"""What a process of this package may still do once it serves: no program that it starts gains rights (prctl(2),
PR_SET_NO_NEW_PRIVS), and what it does not need of root's power (capabilities(7)) is gone, for them and for itself.

All of this is a thread's own, and threads that begin later inherit it.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import os
from collections.abc import Collection

log = logging.getLogger("gpen")

CHOWN, DAC_OVERRIDE, FOWNER, NET_BIND_SERVICE, SYS_RESOURCE = 0, 1, 3, 10, 24  # linux/capability.h
# What who stays root needs when it serves: to give a file that it replaces back to its owner (write, -w), to open logs,
# keys and control sockets of others', to remove its own from /tmp, to listen below 1024, to raise its limit of
# descriptors (conn_max).
OF_ROOT = (CHOWN, DAC_OVERRIDE, FOWNER, NET_BIND_SERVICE, SYS_RESOURCE)

_PR_CAPBSET_READ, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 23, 24, 38  # linux/prctl.h
_VERSION = 0x20080522  # of the structs of capget(2) and capset(2): two of 32 capabilities
_NUMBERS = range(64)


def bind(needed: Collection[int] = OF_ROOT) -> None:
    """No program that is run from now on gains rights, or gets other capabilities than these, whoever it runs as. What
    the kernel or a container forbids is told at debug, and no hindrance."""
    if _prctl(_PR_SET_NO_NEW_PRIVS, 1) != 0:
        _tell("set no_new_privs")
    for number in _NUMBERS:
        if number not in needed and _prctl(_PR_CAPBSET_READ, number) == 1 and _prctl(_PR_CAPBSET_DROP, number) != 0:
            _tell("drop capabilities from the bounding set")  # the right to do that is missing: for all of them
            return


def give_up(needed: Collection[int] = OF_ROOT) -> None:
    """Have no other capabilities any more than these, of those that we have. Told and no hindrance as with ``bind``."""
    libc = _libc()
    header = (ctypes.c_uint32 * 2)(_VERSION, 0)
    held = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable of the first 32; of the others
    if libc.capget(header, held) != 0:
        _tell("ask for capabilities")
        return
    mask = sum(1 << number for number in needed)
    kept = (ctypes.c_uint32 * 6)(*(word & (mask >> 32 * (place // 3)) for place, word in enumerate(held)))
    if libc.capset(header, kept) != 0:
        _tell("give up capabilities")


def _tell(what: str) -> None:
    log.debug("can't %s: %s", what, os.strerror(ctypes.get_errno()))


def _prctl(option: int, value: int) -> int:
    return int(_libc().prctl(option, *map(ctypes.c_ulong, (value, 0, 0, 0))))


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
