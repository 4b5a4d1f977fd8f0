"""What a process of this package may still do once it serves: no program that it starts gains rights (prctl(2),
PR_SET_NO_NEW_PRIVS), and what it does not need of root's power (capabilities(7)) is gone, for them and for itself.

All of this is a thread's own, and threads that begin later inherit it.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import logging
import os
from collections.abc import Collection, Iterator

log = logging.getLogger("gpen")

CHOWN, DAC_OVERRIDE, FOWNER, NET_BIND_SERVICE, SYS_RESOURCE = 0, 1, 3, 10, 24  # linux/capability.h
NET_ADMIN, NET_RAW = 12, 13
# What who stays root needs when it serves: to give a file that it replaces back to its owner (write, -w), to open logs,
# keys and control sockets of others', to remove its own from /tmp, to listen below 1024, to raise its limit of
# descriptors (conn_max).
OF_ROOT = (CHOWN, DAC_OVERRIDE, FOWNER, NET_BIND_SERVICE, SYS_RESOURCE)

_PR_CAPBSET_READ, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 23, 24, 38  # linux/prctl.h
_PR_SET_KEEPCAPS, _PR_CAP_AMBIENT, _AMBIENT_RAISE, _AMBIENT_LOWER = 8, 47, 2, 3
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


def holds(number: int) -> bool:
    """Whether we have this capability, or may take it up."""
    return bool(_held()[1 + 3 * (number // 32)] >> number % 32 & 1)


def keep_them() -> None:
    """What we have stays when we become another user, until ``give_up`` says what of it."""
    if _prctl(_PR_SET_KEEPCAPS, 1) != 0:
        _tell("keep capabilities")


def give_up(needed: Collection[int] = OF_ROOT, taken: Collection[int] = ()) -> None:
    """Have no other capabilities any more than these, of those that we have, and those that are ``taken`` up, which we
    may have: no program gets them, but within ``passing_on``. Told and no hindrance as with ``bind``."""
    mask, taking = (sum(1 << number for number in numbers) for numbers in ({*needed, *taken}, taken))
    held = _held()
    kept = (ctypes.c_uint32 * 6)()
    for word in (0, 3):
        effective, permitted, inheritable = held[word : word + 3]
        here, taken_here = (bits >> 32 * (word // 3) & 0xFFFFFFFF for bits in (mask, taking))
        kept[word : word + 3] = [(effective | taken_here) & permitted & here, permitted & here,
                                 (inheritable & here) | (permitted & taken_here)]
    if _libc().capset((ctypes.c_uint32 * 2)(_VERSION, 0), kept) != 0:
        _tell("give up capabilities")
    for number in taken:
        _prctl(_PR_CAP_AMBIENT, _AMBIENT_LOWER, number)


@contextlib.contextmanager
def passing_on(numbers: Collection[int]) -> Iterator[None]:
    """A program that this thread runs meanwhile gets these, as far as we have taken them up."""
    raised = [number for number in numbers if _prctl(_PR_CAP_AMBIENT, _AMBIENT_RAISE, number) == 0]
    try:
        yield
    finally:
        for number in raised:
            _prctl(_PR_CAP_AMBIENT, _AMBIENT_LOWER, number)


def _held() -> ctypes.Array[ctypes.c_uint32]:
    """Effective, permitted and inheritable ones of the first 32, and of the others; all 0 where the kernel does not
    tell."""
    held = (ctypes.c_uint32 * 6)()
    if _libc().capget((ctypes.c_uint32 * 2)(_VERSION, 0), held) != 0:
        _tell("ask for capabilities")
    return held


def _tell(what: str) -> None:
    log.debug("can't %s: %s", what, os.strerror(ctypes.get_errno()))


def _prctl(option: int, value: int, more: int = 0) -> int:
    return int(_libc().prctl(option, *map(ctypes.c_ulong, (value, more, 0, 0))))


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
