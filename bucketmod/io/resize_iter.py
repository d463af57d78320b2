"""An iterator of a fixed number of batches around another."""

from __future__ import annotations

from typing import Any

from bucketmod.base import MXNetError
from bucketmod.io.batch import DataBatch, DataIter


class ResizeIter(DataIter):
    """Exactly ``size`` batches an epoch from ``data_iter``, which starts again whenever it ends.

    ``reset_internal``: whether ``reset()`` resets ``data_iter`` too.
    """

    def __init__(self, data_iter: Any, size: int, reset_internal: bool = True) -> None:
        super().__init__(data_iter.batch_size)
        self.data_iter = data_iter
        self.size = size
        self.reset_internal = reset_internal
        self.cur = 0
        self.current_batch: DataBatch | None = None
        self.provide_data = data_iter.provide_data
        self.provide_label = data_iter.provide_label
        if hasattr(data_iter, "default_bucket_key"):
            self.default_bucket_key = data_iter.default_bucket_key

    def reset(self) -> None:
        self.cur = 0
        if self.reset_internal:
            self.data_iter.reset()

    def get_state(self) -> Any:
        """Where this iterator and the one inside are: what ``set_state`` takes."""
        return {"cur": self.cur, "inner": getattr(self.data_iter, "get_state", lambda: None)()}

    def set_state(self, state: Any) -> None:
        """Goes on from ``get_state``. MXNetError for anything else."""
        if not isinstance(state, dict) or type(state.get("cur")) is not int:
            raise MXNetError(f"no state of a ResizeIter: {state!r}")
        self.cur = state["cur"]
        if state.get("inner") is not None:
            self.data_iter.set_state(state["inner"])

    def iter_next(self) -> bool:
        if self.cur == self.size:
            return False
        try:
            self.current_batch = self.data_iter.next()
        except StopIteration:
            self.data_iter.reset()
            self.current_batch = self.data_iter.next()
        self.cur += 1
        return True

    def next(self) -> DataBatch:
        """The next batch as the inner iterator made it, bucket key and descriptions included."""
        if not self.iter_next():
            raise StopIteration
        return self._current

    @property
    def _current(self) -> DataBatch:
        assert self.current_batch is not None, "there is no batch yet; call iter_next()"
        return self.current_batch

    def getdata(self) -> Any:
        return self._current.data

    def getlabel(self) -> Any:
        return self._current.label

    def getindex(self) -> Any:
        return self._current.index

    def getpad(self) -> int | None:
        return self._current.pad
