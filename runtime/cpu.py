"""The CPU this process runs on."""

from __future__ import annotations

import functools


@functools.lru_cache(maxsize=1)
def host_flags() -> frozenset[str]:
    """Linux's names of this CPU's features (``avx2``, ``avx512f``, ...)."""
    with open("/proc/cpuinfo") as cpuinfo:
        for line in cpuinfo:
            if line.startswith("flags"):
                return frozenset(line.partition(":")[2].split())
    return frozenset()
