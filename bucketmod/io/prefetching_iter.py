"""Batches fetched by threads while the last one is in use, from several iterators side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from bucketmod.base import MXNetError
from bucketmod.io.batch import DataBatch, DataDesc, DataIter

Renames = Sequence[Mapping[str, str]] | None


def _fetch(iterator: Any) -> Any:
    """The next batch, None at the end."""
    try:
        return iterator.next()
    except StopIteration:
        return None


class PrefetchingIter(DataIter):
    """``iters``: one iterator or a list, whose batches are put together: all data arrays, then all labels.

    Each iterator has a thread that stays one batch ahead; what it raises is raised by ``next``. ``rename_data``,
    ``rename_label``: a dict for each iterator, from its names to the names here (KeyError for one that is missing). The
    bucket key is that of the first iterator. AssertionError when batches differ in their padding, or one iterator ends
    before another.
    """

    def __init__(self, iters: Any, rename_data: Renames = None, rename_label: Renames = None) -> None:
        super().__init__()
        self.iters = iters if isinstance(iters, list) else [iters]
        self.n_iter = len(self.iters)
        assert self.n_iter > 0, "PrefetchingIter needs an iterator"
        self.rename_data, self.rename_label = rename_data, rename_label
        self.batch_size = self.provide_data[0].shape[0]
        if hasattr(self.iters[0], "default_bucket_key"):
            self.default_bucket_key = self.iters[0].default_bucket_key
        self.current_batch: DataBatch | None = None
        self._threads = [ThreadPoolExecutor(1, thread_name_prefix="prefetch") for _ in self.iters]
        self._coming: list[Future[Any]] = []
        self._start()

    def _start(self) -> None:
        """Fetches the first batches, after a look at where the iterators are: they will be ahead of their user."""
        self._states = [getattr(each, "get_state", lambda: None)() for each in self.iters]
        self._ask()

    def _ask(self) -> None:
        self._coming = [
            thread.submit(_fetch, each) for thread, each in zip(self._threads, self.iters, strict=True)
        ]

    @property
    def provide_data(self) -> list[DataDesc]:
        """Of all iterators, renamed."""
        return _renamed([each.provide_data for each in self.iters], self.rename_data)

    @property
    def provide_label(self) -> list[DataDesc]:
        """Of all iterators, renamed."""
        return _renamed([each.provide_label for each in self.iters], self.rename_label)

    def reset(self) -> None:
        """Resets all iterators, and fetches their first batches."""
        self._wait()
        for each in self.iters:
            each.reset()
        self._start()

    def _wait(self) -> None:
        for future in self._coming:
            future.exception()

    def get_state(self) -> Any:
        """Where the iterators were at the last reset: what ``set_state`` takes, for use between epochs."""
        return {"iters": list(self._states)}

    def set_state(self, state: Any) -> None:
        """Goes on from ``get_state``. MXNetError for anything else."""
        states = state.get("iters") if isinstance(state, dict) else None
        if not isinstance(states, list) or len(states) != self.n_iter:
            raise MXNetError(f"no state of a PrefetchingIter over {self.n_iter} iterators: {state!r}")
        self._wait()
        for each, own in zip(self.iters, states, strict=True):
            if own is not None:
                each.set_state(own)
        self._start()

    def iter_next(self) -> bool:
        batches = [future.result() for future in self._coming]
        if batches[0] is None:
            assert all(batch is None for batch in batches), "Number of entry mismatches between iterators"
            return False
        assert all(batch is not None and batch.pad == batches[0].pad for batch in batches), (
            "Number of entry mismatches between iterators"
        )
        first = batches[0]
        data, label = ([getattr(batch, name) for batch in batches] for name in ("provide_data", "provide_label"))
        self.current_batch = DataBatch(
            [array for batch in batches for array in batch.data],
            [array for batch in batches for array in batch.label or ()],
            first.pad,
            first.index,
            bucket_key=first.bucket_key,
            provide_data=_renamed(data, self.rename_data) if all(data) else self.provide_data,
            provide_label=_renamed(label, self.rename_label) if all(label) else self.provide_label,
        )
        self._ask()
        return True

    def next(self) -> DataBatch:
        """The next batch. StopIteration at the end."""
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


def _renamed(described: Sequence[Sequence[Any]], renames: Renames) -> list[DataDesc]:
    """All descriptions in one list; bare (name, shape) pairs are not renamed, as in MXNet."""
    found: list[DataDesc] = []
    for number, descs in enumerate(described):
        for desc in descs:
            if renames is None:
                found.append(desc)
            elif isinstance(desc, DataDesc):
                found.append(DataDesc(renames[number][desc.name], desc.shape, desc.dtype))
            else:
                found.append(DataDesc(*desc))
    return found
