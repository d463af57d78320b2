"""Memory that vector kernels and TVM's zero-copy tensors accept: every buffer starts at a multiple of 64 bytes."""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Sequence

import numpy as np
from numpy.typing import DTypeLike

ALIGNMENT = 64  # bytes: a cache line and an AVX-512 register; from_dlpack refuses anything less

# From this size on a buffer gets pages of its own, so that dropping it gives the memory back at once. The allocator
# of the C library keeps freed blocks below its moving threshold, and growing workspaces would leave holes behind.
_OWN_PAGES = 1 << 20
_HUGE_PAGE = 2 << 20


def aligned_empty(shape: int | Sequence[int], dtype: DTypeLike = np.float32) -> np.ndarray:
    """An uninitialised C-contiguous array whose first byte is 64-byte aligned, also when it holds no element."""
    dtype = np.dtype(dtype)
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    return _raw(nbytes)[:nbytes].view(dtype).reshape(shape)


def aligned_zeros(shape: int | Sequence[int], dtype: DTypeLike = np.float32) -> np.ndarray:
    """Like :func:`aligned_empty`, filled with zeros."""
    array = aligned_empty(shape, dtype)
    if array.nbytes < _OWN_PAGES:  # fresh pages are zero already, and stay untouched until they are used
        array.fill(0)
    return array


def aligned_copy(source: np.ndarray) -> np.ndarray:
    """An aligned C-contiguous copy with the same shape and dtype."""
    array = aligned_empty(source.shape, source.dtype)
    array[...] = source
    return array


def is_aligned(array: np.ndarray) -> bool:
    """Whether TVM can look at the array's own memory: C-contiguous, writable and 64-byte aligned."""
    return bool(array.flags.c_contiguous and array.flags.writeable and array.ctypes.data % ALIGNMENT == 0)


def _raw(nbytes: int) -> np.ndarray:
    """At least ``nbytes`` (and at least one) aligned bytes."""
    if nbytes >= _OWN_PAGES:
        pages = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # shared ones get no huge pages
        if nbytes >= 2 * _HUGE_PAGE and hasattr(mmap, "MADV_HUGEPAGE"):
            with contextlib.suppress(OSError):  # a kernel without huge pages
                pages.madvise(mmap.MADV_HUGEPAGE)
        return np.frombuffer(pages, np.uint8)
    block = np.empty(nbytes + ALIGNMENT, np.uint8)
    start = -block.ctypes.data % ALIGNMENT
    return block[start : start + max(nbytes, 1)]
