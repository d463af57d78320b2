"""How a batch is shared out to contexts, and how their results become one again."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from bucketmod.io import DataDesc
from bucketmod.ndarray import NDArray
from bucketmod.runtime.memory import aligned_empty


def split_batch(batch_size: int, work_load: Sequence[float]) -> list[slice]:
    """The rows of each context, in proportion to ``work_load``.

    Counts are rounded (a half to the even number); rows left over go to the last context. ValueError when a context
    would get none.
    """
    total = sum(work_load)
    counts = [round(load * batch_size / total) for load in work_load]
    counts[-1] += max(0, batch_size - sum(counts))
    stops = [min(stop, batch_size) for stop in accumulate(counts)]
    slices = [slice(start, stop) for start, stop in zip([0, *stops], stops, strict=False)]
    if any(part.start >= part.stop for part in slices):
        raise ValueError(
            f"Too many slices. Some splits are empty: a batch of {batch_size} over work loads {list(work_load)}"
        )
    return slices


def rows(array: np.ndarray, part: slice, axis: int) -> np.ndarray:
    """A context's part of ``array``, as a view; all of it when ``axis`` is -1."""
    return array if axis < 0 else array[(slice(None),) * axis + (part,)]


def sliced(desc: DataDesc, part: slice | None) -> DataDesc:
    """The description of a context's part of an input."""
    axis = DataDesc.get_batch_axis(desc.layout)
    if axis < 0 or part is None:
        return desc
    shape = list(desc.shape)
    shape[axis] = part.stop - part.start
    return DataDesc(desc.name, tuple(shape), desc.dtype, desc.layout)


def merged(parts: Sequence[NDArray], axis: int) -> NDArray:
    """The parts of all contexts joined along ``axis``: the array itself when there is one, the first for axis -1."""
    if len(parts) == 1 or axis < 0:
        return parts[0]
    arrays = [part.numpy_view() for part in parts]
    shape = list(arrays[0].shape)
    shape[axis] = sum(array.shape[axis] for array in arrays)
    joined = aligned_empty(shape, arrays[0].dtype)
    np.concatenate(arrays, axis=axis, out=joined)
    return NDArray(joined, parts[0].context)
