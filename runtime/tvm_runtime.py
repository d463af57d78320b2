"""The one place of the runtime that loads TVM, and only its 3 MB runtime library.

``import tvm`` would run the whole Python side of the compiler (a quarter of a second of CPU), of which running programs
needs nothing: calls, tensors and modules belong to ``tvm_ffi``, and the thread pool is in the library.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from bucketmod.runtime.threads import configure_threads

_SWITCH = "TVM_USE_RUNTIME_LIB"
_LIBRARY = "libtvm_runtime.so"


@functools.lru_cache(maxsize=1)
def tvm_runtime() -> Any:
    """The module ``tvm_ffi``, after TVM's runtime library was loaded. A process that imported TVM before keeps that
    one, and one that imports TVM later gets this one: one process, one library."""
    configure_threads()
    import tvm_ffi

    if "tvm" in sys.modules:
        return tvm_ffi
    if path := _library_path():
        ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)  # compiled code looks for its symbols among the process's
    else:
        _import_tvm()
    return tvm_ffi


def _library_path() -> Path | None:
    """Where TVM as a package keeps the library, ``TVM_LIBRARY_PATH`` first as TVM has it; None where it is not."""
    spec = importlib.util.find_spec("tvm")  # runs nothing of the package
    folders = [Path(place, "lib") for place in (spec and spec.submodule_search_locations) or ()]
    if given := os.environ.get("TVM_LIBRARY_PATH"):
        folders.insert(0, Path(given))
    return next((folder / _LIBRARY for folder in folders if (folder / _LIBRARY).is_file()), None)


def _import_tvm() -> None:
    """TVM itself knows where its library is when it was built in place; loads the runtime library alone."""
    given = os.environ.get(_SWITCH)
    os.environ[_SWITCH] = given or "1"
    try:
        import tvm.runtime  # noqa: F401
    finally:
        if given is None:
            del os.environ[_SWITCH]  # compile workers inherit the environment, and they need the compiler


def tensor(array: np.ndarray) -> Any:
    """A TVM tensor over the array's own memory, which it keeps alive; no copy.

    The array must be C-contiguous, writable and 64-byte aligned (see ``memory.aligned_empty``).
    """
    return tvm_runtime().from_dlpack(array)


def set_pool_size(threads: int) -> None:
    """Kernels that the calling thread starts use this many threads from now on; those of other threads do as before."""
    tvm_runtime().get_global_func("runtime.config_threadpool")(1, threads)  # 1: processors in order of their speed


def pool_size() -> int:
    """Threads that kernels started by the calling thread use."""
    return int(tvm_runtime().get_global_func("runtime.NumThreads")())


def load_library(path: Path) -> Any:
    """A loaded module whose functions are reached by ``module[name]``.

    ``.so`` goes through the system's loader; ``.o`` is linked in memory, on machines that had no linker.
    """
    if path.suffix == ".so":
        return tvm_runtime().load_module(str(path))
    tvm_runtime()  # the object file refers to symbols of TVM's runtime library: it must be there first
    import tvm_ffi_orcjit

    return tvm_ffi_orcjit.default_session().load_module(str(path))
