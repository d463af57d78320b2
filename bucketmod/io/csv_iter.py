"""Batches from text files with comma-separated values, read as they are needed."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from bucketmod.base import MXNetError
from bucketmod.io.file_iter import FileIter, arguments, described, whole_number

_DTYPES = {None: np.float32, "None": np.float32, "float32": np.float32, "int32": np.int32, "int64": np.int64}
_DEFAULTS = {
    "batch_size": int, "data_csv": str, "data_shape": tuple, "label_csv": "NULL", "label_shape": (1,),
    "round_batch": True, "dtype": None, "data_name": "data", "label_name": "softmax_label",
}  # fmt: skip


class _Rows:
    """Rows of ``width`` numbers from a file, from several with ``;`` between their names, or from a folder's files."""

    def __init__(self, source: str, width: int, dtype: type) -> None:
        self.source, self.width, self.dtype = source, width, dtype
        self.rewind()

    def rewind(self) -> None:
        """Back to the first row."""
        self._lines = self._open()

    def _files(self) -> list[str]:
        files: list[str] = []
        for name in self.source.split(";"):
            folder = os.path.isdir(name)
            files += sorted(entry.path for entry in os.scandir(name) if entry.is_file()) if folder else [name]
        return files

    def _open(self) -> Iterator[str]:
        for name in self._files():
            with open(name, encoding="utf-8", errors="replace", newline="") as lines:
                for line in lines:
                    if line.strip():
                        yield line

    def skip(self, count: int) -> None:
        """Passes over rows without a look at them."""
        next(itertools.islice(self._lines, count, count), None)

    def take(self, count: int) -> np.ndarray:
        """The next rows [at most ``count``, width]. MXNetError for a file that cannot be read, or for a row that does
        not hold ``width`` numbers."""
        try:
            lines = list(itertools.islice(self._lines, count))
            if not lines:
                return np.empty((0, self.width), self.dtype)
            rows: np.ndarray = np.loadtxt(lines, delimiter=",", dtype=self.dtype, ndmin=2, comments=None)
        except OSError as error:
            raise MXNetError(f"CSVIter cannot read {self.source}: {error.strerror or error}") from error
        except (ValueError, OverflowError) as error:
            raise MXNetError(f"CSVIter: {self.source} holds something else than rows of numbers: {error}") from None
        if rows.shape[1] != self.width:
            raise MXNetError(f"CSVIter: {self.source} has rows of {rows.shape[1]} values, {self.width} are declared")
        return rows


class CSVIter(FileIter):
    """Batches of ``batch_size`` rows; each row of ``data_csv`` is an example of ``data_shape``.

    Keyword arguments only. ``data_csv``, ``label_csv``: a file, a folder (its files in order of their names), or names
    with ``;`` between them; ``label_csv="NULL"``: labels are 0. ``label_shape``: of the label of an example; (1,) gives
    labels [batch]. ``dtype``: float32 (None), int32 or int64, for data and labels.

    ``round_batch``: the last batch is filled up from the start of the data (pad = rows added), and the next epoch goes
    on after those; otherwise its last rows hold what the batch before had there, and pad counts them. Files are read
    line by line: memory does not depend on their size.

    MXNetError for missing arguments, files that cannot be read, rows of another length, fewer labels than rows, fewer
    rows than a batch with ``round_batch``; TypeError for positional arguments.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        given = arguments("CSVIter", args, kwargs, _DEFAULTS)
        if given["dtype"] not in _DTYPES:
            raise MXNetError(f"{given['dtype']} is not supported for CSVIter: expected float32, int32 or int64")
        dtype = _DTYPES[given["dtype"]]
        batch_size = whole_number("CSVIter", "batch_size", given["batch_size"])
        self._shape = _shape("data_shape", given["data_shape"])
        labelled = given["label_csv"] not in ("NULL", None)
        shape = _shape("label_shape", given["label_shape"]) if labelled else (1,)
        self._label_shape = () if shape == (1,) else shape
        super().__init__(
            batch_size,
            described(given["data_name"], batch_size, self._shape, dtype),
            described(given["label_name"], batch_size, self._label_shape, dtype),
        )
        self._rows = _Rows(str(given["data_csv"]), int(np.prod(self._shape)), dtype)
        self._labels = _Rows(str(given["label_csv"]), int(np.prod(shape)), dtype) if labelled else None
        self.round_batch = bool(given["round_batch"])
        self._begin(0)
        widths = (self._rows.width, int(np.prod(shape)))
        self._last = (np.zeros((batch_size, widths[0]), dtype), np.zeros((batch_size, widths[1]), dtype))
        self._last_index = np.zeros(batch_size, np.uint64)
        first = self._rows.take(1)  # a file that does not fit is told here, not in the middle of training
        if not len(first):
            raise MXNetError(f"CSVIter: {given['data_csv']} holds no rows")
        self._begin(0)

    def _begin(self, row: int) -> None:
        """Makes ``row`` the next one."""
        for rows in (self._rows, self._labels):
            if rows is not None:
                rows.rewind()
                rows.skip(row)
        self._place, self._wrapped = row, 0

    def reset(self) -> None:
        """Back to the first row; after a last batch that was filled up, to the first row that it did not use."""
        if self._wrapped:
            self._wrapped = 0
        else:
            self._begin(0)

    def get_state(self) -> dict[str, int]:
        """Where the iterator is; what ``set_state`` takes."""
        return {"row": self._place, "wrapped": self._wrapped}

    def set_state(self, state: Any) -> None:
        """Goes on where ``get_state`` was asked. MXNetError for anything else."""
        if not isinstance(state, dict) or any(type(state.get(name)) is not int for name in ("row", "wrapped")):
            raise MXNetError(f"no state of a CSVIter: {state!r}")
        self._begin(max(state["row"], 0))
        self._wrapped = state["wrapped"]

    def _take(self, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(data, labels, row numbers) of the next rows, as many as there are."""
        data = self._rows.take(count)
        labels = np.zeros((len(data), self._last[1].shape[1]), data.dtype)
        if self._labels is not None:
            labels = self._labels.take(len(data))
            if len(labels) < len(data):
                raise MXNetError(f"CSVIter: {self._labels.source} has fewer labels than {self._rows.source} has rows")
        index = np.arange(self._place, self._place + len(data), dtype=np.uint64)
        self._place += len(data)
        return data, labels, index

    def _read(self) -> tuple[np.ndarray, np.ndarray, int, np.ndarray] | None:
        if self._wrapped:
            return None
        parts = self._take(self.batch_size)
        pad = self.batch_size - len(parts[0])
        if pad == self.batch_size:
            return None
        if pad and self.round_batch:
            self._begin(0)
            more = self._take(pad)
            if len(more[0]) < pad:
                raise MXNetError(f"CSVIter: fewer rows than a batch of {self.batch_size}: set round_batch=False")
            parts = tuple(np.concatenate(pair) for pair in zip(parts, more, strict=True))  # type: ignore[assignment]
            self._wrapped = pad
        elif pad:
            filled = len(parts[0])
            old = (*self._last, self._last_index)
            parts = tuple(np.concatenate([new, last[filled:]]) for new, last in zip(parts, old, strict=True))  # type: ignore[assignment]
        data, labels, index = parts
        self._last, self._last_index = (data, labels), index
        size = self.batch_size
        return data.reshape(size, *self._shape), labels.reshape(size, *self._label_shape), pad, index


def _shape(name: str, given: Any) -> tuple[int, ...]:
    if not isinstance(given, Sequence) or isinstance(given, str) or not given:
        raise MXNetError(f"CSVIter: {name}={given!r}, expected a tuple such as (3,)")
    return tuple(whole_number("CSVIter", name, size) for size in given)
