"""The one place of the runtime that imports TVM, and only its 3 MB runtime library."""

from __future__ import annotations

import functools
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from bucketmod.runtime.threads import configure_threads

_SWITCH = "TVM_USE_RUNTIME_LIB"


@functools.lru_cache(maxsize=1)
def tvm_runtime() -> Any:
    """The module ``tvm.runtime``. A process that imported TVM's compiler before keeps it: one process, one library."""
    configure_threads()
    if "tvm" not in sys.modules and _SWITCH not in os.environ:
        os.environ[_SWITCH] = "1"
        try:
            import tvm.runtime
        finally:
            del os.environ[_SWITCH]  # compile workers inherit the environment, and they need the compiler
    import tvm.runtime

    return tvm.runtime


def tensor(array: np.ndarray) -> Any:
    """A TVM tensor over the array's own memory, which it keeps alive; no copy.

    The array must be C-contiguous, writable and 64-byte aligned (see ``memory.aligned_empty``).
    """
    return tvm_runtime().from_dlpack(array)


def set_pool_size(threads: int) -> None:
    """Kernels that the calling thread starts use this many threads from now on; those of other threads do as before."""
    tvm_runtime()
    import tvm_ffi

    tvm_ffi.get_global_func("runtime.config_threadpool")(1, threads)  # 1: processors in order of their speed


def pool_size() -> int:
    """Threads that kernels started by the calling thread use."""
    tvm_runtime()
    import tvm_ffi

    return int(tvm_ffi.get_global_func("runtime.NumThreads")())


def load_library(path: Path) -> Any:
    """A loaded module whose functions are reached by ``module[name]``.

    ``.so`` goes through the system's loader; ``.o`` is linked in memory, on machines that had no linker.
    """
    if path.suffix == ".so":
        return tvm_runtime().load_module(str(path))
    tvm_runtime()  # the object file refers to symbols of TVM's runtime library: it must be there first
    import tvm_ffi_orcjit

    return tvm_ffi_orcjit.default_session().load_module(str(path))
