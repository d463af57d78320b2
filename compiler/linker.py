"""Turns compiled objects into what a process can load.

A system linker makes a shared library, which any process loads with ``dlopen``. Machines without one are common (slim
containers), and asking for a compiler there would defeat the purpose: one object is then kept as it is, and the runtime
loads it through the in-memory linker that ``apache-tvm-ffi-orcjit`` brings.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

_LINKERS = ("ld", "ld.lld", "ld.gold", "ld.bfd")


def find_linker() -> str | None:
    """Path of the first system linker on PATH, None without any."""
    return next((path for path in map(shutil.which, _LINKERS) if path), None)


def link(objects: Sequence[bytes]) -> bytes | None:
    """The shared library of some relocatable objects, None where there is no linker or it fails."""
    linker = find_linker()
    if linker is None:
        return None
    with tempfile.TemporaryDirectory(prefix="bucketmod-link-") as folder:
        library = Path(folder, "module.so")
        sources = [Path(folder, f"{number}.o") for number in range(len(objects))]
        for source, data in zip(sources, objects, strict=True):
            source.write_bytes(data)
        # Kernels are looked up in the library itself first: another one may have some of the same name.
        options = ["-shared", "-Bsymbolic-functions", "--build-id=none", "-z", "noexecstack"]
        done = subprocess.run([linker, *options, "-o", library, *sources], capture_output=True, check=False)
        return library.read_bytes() if done.returncode == 0 and library.exists() else None
