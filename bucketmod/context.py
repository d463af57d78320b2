"""Where arrays live and programs run: ``cpu(0)``, ``gpu(0)``."""

from __future__ import annotations

import ctypes
import threading
from functools import lru_cache
from typing import Any, ClassVar


class _Current(threading.local):
    def __init__(self) -> None:
        self.value = Context("cpu", 0)


class Context:
    """A device: type and number. Making one touches no device.

    ``device_type``: "cpu", "gpu", "cpu_pinned" or "cpu_shared" (ValueError otherwise), or another Context to copy.
    ``with context:`` makes it the default of this thread.
    """

    devtype2str: ClassVar[dict[int, str]] = {1: "cpu", 2: "gpu", 3: "cpu_pinned", 5: "cpu_shared"}
    devstr2type: ClassVar[dict[str, int]] = {name: code for code, name in devtype2str.items()}
    _default_ctx: ClassVar[_Current]
    device_typeid: int
    device_id: int

    def __init__(self, device_type: str | Context, device_id: int = 0) -> None:
        if isinstance(device_type, Context):
            self.device_typeid, self.device_id = device_type.device_typeid, device_type.device_id
        elif device_type in self.devstr2type:
            self.device_typeid, self.device_id = self.devstr2type[device_type], int(device_id)
        else:
            raise ValueError(f"device type {device_type!r} is none of {', '.join(self.devstr2type)}")
        self._old: list[Context] = []

    @property
    def device_type(self) -> str:
        return self.devtype2str[self.device_typeid]

    def empty_cache(self) -> None:
        """Nothing is pooled by device here, so there is nothing to give back."""

    def __hash__(self) -> int:
        return hash((self.device_typeid, self.device_id))

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Context)
            and self.device_typeid == other.device_typeid
            and self.device_id == other.device_id
        )

    def __repr__(self) -> str:
        return f"{self.device_type}({self.device_id})"

    def __enter__(self) -> Context:
        self._old.append(Context._default_ctx.value)
        Context._default_ctx.value = self
        return self

    def __exit__(self, *exc: Any) -> None:
        Context._default_ctx.value = self._old.pop()


Context._default_ctx = _Current()


def cpu(device_id: int = 0) -> Context:
    """The host. Several numbers may stand side by side in data-parallel tests; they are the same processor."""
    return Context("cpu", device_id)


def gpu(device_id: int = 0) -> Context:
    """An NVIDIA GPU by number; whether it exists shows when something is bound to it."""
    return Context("gpu", device_id)


def current_context() -> Context:
    """The innermost ``with context:`` of this thread, else ``cpu(0)``."""
    return Context._default_ctx.value


@lru_cache(maxsize=1)
def num_gpus() -> int:
    """Number of NVIDIA GPUs that the driver shows to this process; 0 without a driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value
