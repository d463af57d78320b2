"""What an iterator hands to a module: descriptions of arrays, batches, and the protocol of iterators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from bucketmod.ndarray import NDArray


class _NameAndShape(NamedTuple):
    name: str
    shape: tuple[int, ...]


class DataDesc(_NameAndShape):
    """Name and shape of an input, as a pair, with the attributes ``dtype`` and ``layout`` beside it.

    Equality, length and iteration see the pair only.
    """

    dtype: DTypeLike
    layout: str | None

    def __new__(
        cls, name: str, shape: Sequence[int], dtype: DTypeLike = np.float32, layout: str | None = "NCHW"
    ) -> DataDesc:
        described = super().__new__(cls, name, shape)  # type: ignore[arg-type]
        described.dtype = dtype
        described.layout = layout
        return described

    def __reduce__(self) -> tuple[Any, ...]:
        return DataDesc, (self.name, self.shape, self.dtype, self.layout)

    def __repr__(self) -> str:
        return f"DataDesc[{self.name},{self.shape},{self.dtype},{self.layout}]"

    @staticmethod
    def get_batch_axis(layout: str | None) -> int:
        """The position of N in a layout such as "TNC"; -1 when there is none, 0 for None."""
        return 0 if layout is None else layout.find("N")

    @staticmethod
    def get_list(
        shapes: Sequence[tuple[str, Sequence[int]]], types: Sequence[tuple[str, Any]] | None
    ) -> list[DataDesc]:
        """Descriptions from (name, shape) pairs and, unless None, (name, dtype) pairs for all of these names."""
        if types is None:
            return [DataDesc(name, shape) for name, shape in shapes]
        dtypes = dict(types)
        return [DataDesc(name, shape, dtypes[name]) for name, shape in shapes]


class DataBatch:
    """Arrays for one step.

    ``data``, ``label``: list or tuple of NDArrays in the order of the module's names (AssertionError otherwise).
    ``pad``: number of rows at the end that only fill the batch up. ``index``: row numbers in the source.
    ``bucket_key``: which bucket of a BucketingModule runs it. ``provide_data``, ``provide_label``: descriptions, needed
    for batches whose shapes differ from the bound ones.
    """

    def __init__(
        self,
        data: Sequence[NDArray] | None,
        label: Sequence[NDArray] | None = None,
        pad: int | None = None,
        index: Any = None,
        bucket_key: Any = None,
        provide_data: Sequence[DataDesc] | None = None,
        provide_label: Sequence[DataDesc] | None = None,
    ) -> None:
        assert data is None or isinstance(data, (list, tuple)), f"data must be a list of NDArrays, got {type(data)}"
        assert label is None or isinstance(label, (list, tuple)), f"label must be a list of NDArrays, got {type(label)}"
        self.data: Any = data
        self.label: Any = label
        self.pad = pad
        self.index = index
        self.bucket_key = bucket_key
        self.provide_data = provide_data
        self.provide_label = provide_label

    def __str__(self) -> str:
        data = [item.shape for item in self.data or ()]
        label = [item.shape for item in self.label] if self.label else None
        return f"{type(self).__name__}: data shapes: {data} label shapes: {label}"


class DataIter:
    """The protocol of iterators: ``next()`` or ``iter_next()`` with ``getdata()`` and so on, and ``reset()``.

    ``iter(it)`` is the iterator itself and resets nothing. Subclasses also have ``provide_data`` and ``provide_label``
    (lists of DataDesc).
    """

    def __init__(self, batch_size: int = 0) -> None:
        self.batch_size = batch_size

    def __iter__(self) -> DataIter:
        return self

    def __next__(self) -> DataBatch:
        return self.next()

    def reset(self) -> None:
        """Back to the first batch."""

    def get_state(self) -> Any:
        """Where the iterator is and in which order it goes on, as plain data and arrays; ``set_state`` takes it. None,
        here, for an iterator that starts anew after a resume."""
        return None

    def set_state(self, state: Any) -> None:
        """Goes on from a state that ``get_state`` gave (not None)."""
        raise NotImplementedError(f"{type(self).__name__}.set_state")

    def next(self) -> DataBatch:
        """The next batch. StopIteration at the end."""
        if not self.iter_next():
            raise StopIteration
        return DataBatch(data=self.getdata(), label=self.getlabel(), pad=self.getpad(), index=self.getindex())

    def iter_next(self) -> bool:
        """Moves to the next batch; False at the end."""
        return False

    def getdata(self) -> Any:
        """The data arrays of the current batch."""

    def getlabel(self) -> Any:
        """The label arrays of the current batch."""

    def getindex(self) -> Any:
        """The row numbers of the current batch, or None."""

    def getpad(self) -> int | None:
        """The number of filling rows of the current batch."""
