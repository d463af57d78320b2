"""The CPU this process runs on."""

from __future__ import annotations

import ctypes
import functools
import platform

_ARCH_PRCTL = {"x86_64": 158}  # number of the system call
_REQUEST_PERMISSION, _TILE_DATA = 0x1023, 18  # Linux: ARCH_REQ_XCOMP_PERM and the state component of tile registers


@functools.lru_cache(maxsize=1)
def host_flags() -> frozenset[str]:
    """Linux's names of this CPU's features (``avx2``, ``avx512f``, ...); those of tile registers (``amx_...``) only
    where this process may use them."""
    flags = _listed_flags()
    if any(flag.startswith("amx") for flag in flags) and not _request_tiles():
        return frozenset(flag for flag in flags if not flag.startswith("amx"))
    return flags


def _listed_flags() -> frozenset[str]:
    with open("/proc/cpuinfo") as cpuinfo:
        for line in cpuinfo:
            if line.startswith("flags"):
                return frozenset(line.partition(":")[2].split())
    return frozenset()


def _request_tiles() -> bool:
    """Asks Linux for tile registers, which it keeps from a process that did not: all threads have them from then on. It
    refuses under some sandboxes, and where a thread's stack for signals is too small to save them."""
    number = _ARCH_PRCTL.get(platform.machine())
    if number is None:
        return False
    return ctypes.CDLL(None, use_errno=True).syscall(number, _REQUEST_PERMISSION, _TILE_DATA) == 0
