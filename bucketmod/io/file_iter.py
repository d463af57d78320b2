"""What the iterators over files share: keyword arguments only, one data and one label array."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bucketmod.base import MXNetError
from bucketmod.io.batch import DataBatch, DataDesc, DataIter
from bucketmod.ndarray import NDArray, array

# Where and how far ahead MXNet's C++ threads read; here batches are read when they are asked for.
_WITHOUT_EFFECT = ("prefetch_buffer", "ctx")


def arguments(
    kind: str, given: tuple[Any, ...], keywords: dict[str, Any], defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """Keyword arguments completed by ``defaults``, in which a type stands for an argument that must be given.

    As with MXNet's iterators: MXNetError for a missing one, TypeError for positional ones, a warning for unknown ones.
    """
    missing = [name for name, value in defaults.items() if isinstance(value, type) and name not in keywords]
    if missing:
        wanted = defaults[missing[0]].__name__
        raise MXNetError(f"Required parameter {missing[0]} of {wanted} is not presented ({kind})")
    if given:
        raise TypeError(f"{kind} can only accept keyword arguments")
    if unknown := sorted(set(keywords) - set(defaults) - set(_WITHOUT_EFFECT)):
        warnings.warn(f"{kind} does not know {', '.join(unknown)}", stacklevel=4)
    return {name: keywords.get(name, value) for name, value in defaults.items()}


def whole_number(kind: str, name: str, value: Any) -> int:
    """``value`` as a positive int. MXNetError otherwise."""
    try:
        number = int(value)
    except (TypeError, ValueError):
        number = 0
    if number < 1:
        raise MXNetError(f"{kind}: {name}={value!r}, expected a number of 1 or more")
    return number


class FileIter(DataIter):
    """Batches of one data and one label array; subclasses write ``_read``, ``reset`` and give the shapes of a row.

    ``_read``: the next (data, label, pad, index), or None at the end.
    """

    def __init__(self, batch_size: int, data: DataDesc, label: DataDesc) -> None:
        super().__init__(batch_size)
        self.provide_data = [data]
        self.provide_label = [label]
        self._current: tuple[np.ndarray, np.ndarray, int, np.ndarray] | None = None

    def _read(self) -> tuple[np.ndarray, np.ndarray, int, np.ndarray] | None:
        raise NotImplementedError(f"{type(self).__name__}._read")

    def iter_next(self) -> bool:
        self._current = self._read()
        return self._current is not None

    def next(self) -> DataBatch:
        """The next batch. StopIteration at the end."""
        if not self.iter_next():
            raise StopIteration
        return DataBatch(data=[self.getdata()], label=[self.getlabel()], pad=self.getpad(), index=self.getindex())

    def _part(self, index: int) -> Any:
        assert self._current is not None, "there is no batch yet; call iter_next()"
        return self._current[index]

    def getdata(self) -> NDArray:
        return self._array(self._part(0))

    def getlabel(self) -> NDArray:
        return self._array(self._part(1))

    @staticmethod
    def _array(values: np.ndarray) -> NDArray:
        return array(values, dtype=values.dtype)

    def getpad(self) -> int:
        return self._part(2)

    def getindex(self) -> np.ndarray:
        return self._part(3)


def described(name: str, batch_size: int, shape: Sequence[int], dtype: Any) -> DataDesc:
    """A batch of rows of ``shape``."""
    return DataDesc(name, (batch_size, *shape), np.dtype(dtype).type)
