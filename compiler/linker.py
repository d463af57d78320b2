"""Turns the compiled object into what a process can load.

A system linker makes a shared library, which any process loads with ``dlopen``. Machines without one are common (slim
containers), and asking for a compiler there would defeat the purpose: the object is then kept as it is, and the
runtime loads it through the in-memory linker that ``apache-tvm-ffi-orcjit`` brings.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

_LINKERS = ("ld", "ld.lld", "ld.gold", "ld.bfd")


def find_linker() -> str | None:
    """Path of the first system linker on PATH, None without any."""
    return next((path for path in map(shutil.which, _LINKERS) if path), None)


def link(object_bytes: bytes) -> tuple[str, bytes]:
    """Returns the file name (``module.so`` or ``module.o``) and the bytes to store under it.

    A linker that fails is as good as none: the object serves.
    """
    linker = find_linker()
    if linker is None:
        return "module.o", object_bytes
    with tempfile.TemporaryDirectory(prefix="bucketmod-link-") as folder:
        source, library = Path(folder, "module.o"), Path(folder, "module.so")
        source.write_bytes(object_bytes)
        command = [linker, "-shared", "--build-id=none", "-z", "noexecstack", "-o", str(library), str(source)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode or not library.exists():
            return "module.o", object_bytes
        return "module.so", library.read_bytes()
