"""Memory that all buckets share: it is as large as the largest of them needs, and no larger."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import DTypeLike

from bucketmod.runtime.memory import aligned_empty, aligned_zeros


class Borrower(Protocol):
    """Whoever keeps views of shared memory."""

    def release(self) -> None:
        """Called before the memory moves: drop every view, take new ones before the next use."""


class Workspace:
    """One buffer for everything between a program's inputs and outputs, outputs included.

    Every program starts at its beginning, so whatever one wrote there is valid until the next program runs.
    ``owner``: the borrower whose results it holds now.
    """

    def __init__(self) -> None:
        self._buffer = aligned_empty(0, np.uint8)
        self._borrowers: weakref.WeakSet[Borrower] = weakref.WeakSet()
        self.owner: Borrower | None = None
        self._parts: dict[int, Workspace] = {}

    def part(self, number: int) -> Workspace:
        """Memory beside this one for part ``number`` of a program that is cut into parts: each keeps what it left while
        the others run."""
        return self._parts.setdefault(number, Workspace())

    @property
    def nbytes(self) -> int:
        """Present size in bytes."""
        return self._buffer.nbytes

    def borrow(self, borrower: Borrower, nbytes: int) -> np.ndarray:
        """A uint8 array of exactly ``nbytes``, 64-byte aligned, valid until ``borrower.release()`` is called.

        When the buffer must grow, all borrowers release it first and the old memory is given back (unless the user
        still holds an output in it).
        """
        if nbytes > self._buffer.nbytes:
            self.owner = None
            _release(self._borrowers)
            self._buffer = aligned_empty(0, np.uint8)  # first: old and new need not exist at the same time
            self._buffer = aligned_empty(nbytes, np.uint8)
        self._borrowers.add(borrower)
        return self._buffer[:nbytes]


class InputBuffers:
    """One buffer a name for what a batch brings (data, labels, states, head gradients), as large as the largest bucket
    needs. New memory is zero; otherwise the last values written by any bucket stay until they are overwritten."""

    def __init__(self) -> None:
        self._buffers: dict[str, np.ndarray] = {}
        self._borrowers: dict[str, weakref.WeakSet[Borrower]] = {}

    def borrow(self, borrower: Borrower, name: str, shape: Sequence[int], dtype: DTypeLike) -> np.ndarray:
        """An array over the buffer called ``name``, valid until ``borrower.release()`` is called."""
        nbytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        buffer = self._buffers.get(name)
        if buffer is None or buffer.nbytes < nbytes:
            _release(self._borrowers.get(name, ()))
            buffer = self._buffers[name] = aligned_zeros(max(nbytes, 1), np.uint8)
        self._borrowers.setdefault(name, weakref.WeakSet()).add(borrower)
        return buffer[:nbytes].view(dtype).reshape(tuple(shape))


def _release(borrowers: weakref.WeakSet[Borrower] | tuple[()]) -> None:
    for borrower in list(borrowers):
        borrower.release()
