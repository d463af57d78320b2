"""Compilation targets: ``cpu`` (this machine), ``cpu:x86-64-v3``, ``cpu:x86-64-v4``, ``cpu:x86-64-v4-amx``,
``cuda:sm_XX``."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class CpuFeatures:
    """What kernels may know of a CPU: every tile size is derived from these, never from one machine.

    ``lanes``: float32 values in a vector register; ``registers``: vector registers; caches in bytes for one core;
    ``flags``: CPU flags (Linux names) that the code needs where it runs; ``tiles``: there are tile registers that
    multiply bfloat16 (AMX), beside vectors of 16 lanes.
    """

    level: str
    lanes: int
    registers: int
    l1: int
    l2: int
    flags: tuple[str, ...]
    tiles: bool = False


_V3 = ("avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe")
_V4 = (*_V3, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")
_AMX = (*_V4, "amx_tile", "amx_bf16", "movdir64b")
# Cache sizes are the smallest that CPUs of the level have: a tile that fits there fits everywhere.
_LEVELS = {
    "x86-64-v3": CpuFeatures("x86-64-v3", lanes=8, registers=16, l1=32 << 10, l2=256 << 10, flags=_V3),
    "x86-64-v4": CpuFeatures("x86-64-v4", lanes=16, registers=32, l1=32 << 10, l2=1 << 20, flags=_V4),
    "x86-64-v4-amx": CpuFeatures(
        "x86-64-v4-amx", lanes=16, registers=32, l1=48 << 10, l2=2 << 20, flags=_AMX, tiles=True
    ),
}


# TVM tells LLVM that accesses by way of two buffers never meet. Entry points hand kernels addresses in one workspace,
# so that stops being true once LLVM inlines a kernel: loads would move ahead of the stores that they depend on.
_LLVM_OPTIONS = ["-enable-tbaa:bool=0"]
# Level 3 takes a fifth longer and makes nothing faster: what it would vectorise or unroll, the kernels spell out.
_LLVM_LEVEL = 2


@dataclass(frozen=True)
class Target:
    """A parsed target. ``name`` is canonical (``cpu`` is resolved to this machine's level); ``cpu`` is None on CUDA."""

    name: str
    kind: str
    arch: str
    cpu: CpuFeatures | None

    def check_host(self) -> None:
        """Asks Linux for what code of this target needs; ValueError where this machine does not have it."""
        from bucketmod.runtime.cpu import host_flags

        missing = sorted(set(self.cpu.flags if self.cpu else ()) - host_flags())
        if missing:
            raise ValueError(f"{self.name} cannot run here: this machine has no {', '.join(missing)}")

    def tvm(self) -> Any:
        """The ``tvm.target.Target``; imports TVM's compiler."""
        import tvm

        if self.cpu is not None:
            options = {"mcpu": self.cpu.level.removesuffix("-amx"), "cl-opt": _LLVM_OPTIONS, "opt-level": _LLVM_LEVEL}
            if self.cpu.tiles:
                options["mattr"] = ["+amx-tile", "+amx-bf16", "+movdir64b"]
            return tvm.target.Target({"kind": "llvm", **options})
        cuda = {"kind": "cuda", "arch": self.arch, "max_threads_per_block": 1024,
                "max_shared_memory_per_block": 49152, "thread_warp_size": 32}  # fmt: skip
        return tvm.target.Target(cuda, host={"kind": "llvm", "mcpu": "x86-64-v3"})


def parse_target(text: str) -> Target:
    """Raises ValueError for an unknown target, or for ``cpu`` on a machine below x86-64-v3."""
    if text == "cpu":
        return parse_target(f"cpu:{host_level()}")
    kind, _, arch = text.partition(":")
    if kind == "cpu" and arch in _LEVELS:
        return Target(text, "cpu", arch, _LEVELS[arch])
    if kind == "cuda" and re.fullmatch(r"sm_\d{2,3}[a-z]?", arch):
        return Target(text, "cuda", arch, None)
    raise ValueError(f"unknown target {text!r}; expected cpu, {', '.join('cpu:' + x for x in _LEVELS)} or cuda:sm_XX")


@functools.lru_cache(maxsize=1)
def host_level() -> str:
    """The best level that this machine runs; ValueError when it has none."""
    from bucketmod.runtime.cpu import host_flags

    flags = host_flags()
    for level in reversed(_LEVELS):
        if flags.issuperset(_LEVELS[level].flags):
            return level
    missing = sorted(set(_V3) - flags)
    raise ValueError(f"this CPU lacks {', '.join(missing)}: bucketmod needs x86-64-v3 (AVX2 and FMA) or better")
