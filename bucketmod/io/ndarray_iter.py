"""Batches cut from arrays in memory."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import numpy as np

from bucketmod.base import MXNetError
from bucketmod.io.batch import DataBatch, DataDesc, DataIter
from bucketmod.ndarray import NDArray, array, concatenate

LAST_BATCH = ("pad", "discard", "roll_over")
Named = list[tuple[str, NDArray]]


def _named_arrays(source: Any, allow_empty: bool, default_name: str) -> Named:
    """(name, array) pairs sorted by name. TypeError for what is neither array nor list or dict of arrays."""
    assert source is not None or allow_empty, "data must not be None"
    if source is None:
        return []
    if isinstance(source, (np.ndarray, NDArray)) or _unread(source):
        source = [source]
    if isinstance(source, list):
        assert source or allow_empty, "data must not be an empty list"
        names = [default_name] if len(source) == 1 else [f"_{i}_{default_name}" for i in range(len(source))]
        source = dict(zip(names, source, strict=True))
    if not isinstance(source, Mapping):
        raise TypeError(f"data must be an NDArray, a numpy array, or a list or dict of them, got {type(source)}")
    arrays: Named = []
    for name, values in source.items():
        if kind := _unread(values):
            raise NotImplementedError(f"NDArrayIter: {name} is {kind}; give an array of its rows")
        try:
            arrays.append((name, values if isinstance(values, NDArray) else array(values)))
        except TypeError as error:
            raise TypeError(f"{name} is no array but {type(values)}: {error}") from error
    return sorted(arrays, key=lambda pair: pair[0])


def _unread(values: Any) -> str:
    """What MXNet takes besides arrays; empty for everything else."""
    module = type(values).__module__
    kinds = {"h5py": "an h5py Dataset", "scipy": "a sparse matrix"}
    return kinds.get(module.partition(".")[0], "")


class NDArrayIter(DataIter):
    """Batches of ``batch_size`` rows from arrays.

    ``data``, ``label``: an array, a list or a dict of arrays of equal length (``_0_data``... name the items of a list);
    numpy arrays become float32. ``shuffle`` reorders all rows with ``numpy.random``, here and at every reset.
    ``last_batch_handle``: "pad" fills the last batch from the start (pad = rows added), "discard" drops it, "roll_over"
    starts the next epoch with its rows. ``layout``: where the batch axis N is.
    """

    def __init__(
        self,
        data: Any,
        label: Any = None,
        batch_size: int = 1,
        shuffle: bool = False,
        last_batch_handle: str = "pad",
        data_name: str = "data",
        label_name: str = "softmax_label",
        layout: str = "NCHW",
    ) -> None:
        super().__init__(batch_size)
        self.data = _named_arrays(data, False, data_name)
        self.label = _named_arrays(label, True, label_name)
        self.num_data = len(self.data[0][1])
        self.num_source = len(self.data) + len(self.label)
        self.idx = np.arange(self.num_data)
        self._order = np.arange(self.num_data)  # of the source's rows in ``data``: each shuffle builds on the last
        self.shuffle = shuffle
        self.last_batch_handle = last_batch_handle
        self.layout = layout
        self.cursor = -batch_size
        self._left_data: list[NDArray] | None = None  # rows of an unfinished batch, kept for the next epoch
        self._left_label: list[NDArray] | None = None
        self.reset()

    @property
    def provide_data(self) -> list[DataDesc]:
        return self._describe(self.data)

    @property
    def provide_label(self) -> list[DataDesc]:
        return self._describe(self.label)

    def _describe(self, arrays: Named) -> list[DataDesc]:
        axis = self._batch_axis
        return [
            DataDesc(name, (*item.shape[:axis], self.batch_size, *item.shape[axis + 1 :]), item.dtype, self.layout)
            for name, item in arrays
        ]

    @property
    def _batch_axis(self) -> int:
        return self.layout.find("N")

    def hard_reset(self) -> None:
        """Back to the first row; rows left over are forgotten."""
        if self.shuffle:
            self._shuffle()
        self.cursor = -self.batch_size
        self._left_data = self._left_label = None

    def reset(self) -> None:
        """Back to the first row, or with roll_over to the rows that were left over."""
        if self.shuffle:
            self._shuffle()
        if self.last_batch_handle == "roll_over" and self.num_data - self.batch_size < self.cursor < self.num_data:
            self.cursor -= self.num_data + self.batch_size
        else:
            self.cursor = -self.batch_size

    def _shuffle(self) -> None:
        np.random.shuffle(self.idx)
        self._reorder(self.idx)

    def _reorder(self, rows: np.ndarray) -> None:
        self._order = self._order[rows]
        for arrays in (self.data, self.label):
            arrays[:] = [(name, array(NDArray(item.numpy_view()[rows]), item.context)) for name, item in arrays]

    def get_state(self) -> dict[str, Any]:
        """The order of the rows, the place in them, and rows left over: what ``set_state`` takes."""
        order = (self.idx.copy(), self._order.copy()) if self.shuffle else None
        return {"cursor": self.cursor, "order": order, "left": (self._left_data, self._left_label)}

    def set_state(self, state: Any) -> None:
        """Goes on from ``get_state``, given the same data. MXNetError for anything else."""
        try:
            cursor, order, (left_data, left_label) = (state[name] for name in ("cursor", "order", "left"))
            cursor = operator.index(cursor)
            if order is not None:
                idx, rows = order
                if any((np.sort(each) != np.arange(self.num_data)).any() for each in order):
                    raise ValueError(f"it is no order of {self.num_data} rows")
                self._reorder(np.argsort(self._order)[rows])
                self.idx[:] = idx
            for arrays, left in ((self.data, left_data), (self.label, left_label)):
                if left is not None and len(left) != len(arrays):
                    raise ValueError("rows left over of other arrays")
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise MXNetError(f"no state of this NDArrayIter: {error}") from None
        self.cursor, self._left_data, self._left_label = cursor, left_data, left_label

    def iter_next(self) -> bool:
        self.cursor += self.batch_size
        return self.cursor < self.num_data

    def next(self) -> DataBatch:
        """The next batch. StopIteration at the end; an incomplete batch is kept for roll_over."""
        if not self.iter_next():
            raise StopIteration
        data, label = self.getdata(), self.getlabel()
        if data[0].shape[self._batch_axis] != self.batch_size:
            self._left_data, self._left_label = data, label
            raise StopIteration
        return DataBatch(data=data, label=label, pad=self.getpad(), index=None)

    def getdata(self) -> list[NDArray]:
        left, self._left_data = (self._left_data, None) if self._starts_with_rest else (None, self._left_data)
        return self._batch(self.data, left)

    def getlabel(self) -> list[NDArray]:
        left, self._left_label = (self._left_label, None) if self._starts_with_rest else (None, self._left_label)
        return self._batch(self.label, left)

    def getpad(self) -> int:
        if self.last_batch_handle == "pad":
            return max(0, self.cursor + self.batch_size - self.num_data)
        return -self.cursor if self._starts_with_rest else 0

    @property
    def _starts_with_rest(self) -> bool:
        return self.last_batch_handle == "roll_over" and -self.batch_size < self.cursor < 0

    def _batch(self, arrays: Named, left: list[NDArray] | None) -> list[NDArray]:
        assert self.cursor < self.num_data, "the iterator is at its end; call reset()"
        if self._starts_with_rest:
            assert left is not None or not arrays, "the rows that the last epoch left over are gone; call hard_reset()"
            return self._join(left or [], self._rows(arrays, 0, self.cursor + self.batch_size))
        missing = self.cursor + self.batch_size - self.num_data
        if self.last_batch_handle != "pad" or missing <= 0:
            return self._rows(arrays, self.cursor, min(self.cursor + self.batch_size, self.num_data))
        batch = self._rows(arrays, self.cursor, self.num_data)
        while missing > 0:
            batch = self._join(batch, self._rows(arrays, 0, min(missing, self.num_data)))
            missing -= self.num_data
        return batch

    def _rows(self, arrays: Named, begin: int, end: int) -> list[NDArray]:
        return [item.slice_axis(axis=self._batch_axis, begin=begin, end=end) for _, item in arrays]

    def _join(self, first: list[NDArray], second: list[NDArray]) -> list[NDArray]:
        return [concatenate(pair, self._batch_axis) for pair in zip(first, second, strict=True)]
