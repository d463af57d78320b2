"""How an entry of a training or inference library is called: with a signature, then addresses in a table.

The library could check the shape of every argument, at every call, in as much code as its kernels are. It checks one
number instead, which the sizes of all arguments went into, and which is made once for memory that stays where it is.
"""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from bucketmod.runtime.memory import is_aligned


def entry_signature(sizes: Iterable[int]) -> int:
    """A number below 2^63 for the sizes in bytes of an entry's arguments, in order, the workspace last."""
    text = ",".join(str(size) for size in sizes)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def entry_arguments(arrays: Sequence[np.ndarray]) -> tuple[Any, ...]:
    """What an entry takes for ``arrays``, the workspace last. The caller keeps the arrays alive, and their memory in
    its place, for as long as it calls the entry with this.

    Raises ValueError for an array that is not C-contiguous and 64-byte aligned (see ``memory.aligned_empty``).
    """
    for array in arrays:
        if not is_aligned(array):
            raise ValueError(f"compiled code needs aligned contiguous arrays, got {array.dtype}{array.shape}")
    *places, workspace = (array.ctypes.data for array in arrays)
    return entry_signature(array.nbytes for array in arrays), _Table(places), ctypes.c_void_p(workspace)


class _Table(ctypes.c_void_p):
    """The address of a table of addresses, which it keeps alive: two words each, the second is the address (TVM has
    the type of an argument in the first)."""

    def __init__(self, addresses: Sequence[int]):
        self.table = (ctypes.c_uint64 * (2 * max(len(addresses), 1)))()
        self.table[1 : 2 * len(addresses) : 2] = [*addresses]
        super().__init__(ctypes.addressof(self.table))
