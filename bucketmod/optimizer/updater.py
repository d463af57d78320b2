"""The function that a module or a store calls for each parameter, with the states that it keeps."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from bucketmod.base import MXNetError
from bucketmod.context import Context
from bucketmod.ndarray import NDArray
from bucketmod.optimizer import state_file, state_format
from bucketmod.optimizer.optimizer import Optimizer
from bucketmod.runtime.optimizer_state import OptimizerState

_FORMATS: dict[str, Any] = {"bucketmod": state_file, "mxnet": state_format}


class Updater:
    """``updater(index, grad, weight)`` updates a parameter, or lists of them; ``states`` holds a state an index."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.states = OptimizerState()
        self.states_synced: dict[Hashable, bool] = {}
        self.aggregate_updates = optimizer.aggregate_num > 0

    def __call__(self, index: Any, grad: Any, weight: Any) -> None:
        """Updates in place; a state is made when its index comes for the first time."""
        several = isinstance(index, (list, tuple))
        indices, grads, weights = (list(each) if several else [each] for each in (index, grad, weight))
        if not weights:
            return
        self.optimizer._set_current_context(weights[0].context.device_id)
        indices = [each.decode() if isinstance(each, bytes) else each for each in indices]
        for each, w in zip(indices, weights, strict=True):
            self._prepare_state(each, w)
        sparse = [place for place, g in enumerate(grads) if g.stype == "row_sparse"]
        for place in reversed(sparse):
            each, g, w = (column.pop(place) for column in (indices, grads, weights))
            self.optimizer.update_rows(each, w, g, self.states[each])
        if not self.aggregate_updates:
            for each, g, w in zip(indices, grads, weights, strict=True):
                self.optimizer.update_multi_precision(each, w, g, self.states[each])
            return
        by_dtype: dict[Any, list[tuple[Any, NDArray, NDArray]]] = {}
        for item in zip(indices, weights, grads, strict=True):
            by_dtype.setdefault(item[1].dtype, []).append(item)
        for items in by_dtype.values():
            for start in range(0, len(items), self.optimizer.aggregate_num):
                part = items[start : start + self.optimizer.aggregate_num]
                keys, ws, gs = (list(column) for column in zip(*part, strict=True))
                self.optimizer.update_multi_precision(keys, ws, gs, [self.states[key] for key in keys])

    def _prepare_state(self, index: Hashable, weight: NDArray) -> None:
        if index not in self.states:
            self.states[index] = self.optimizer.create_state_multi_precision(index, weight)
        elif not self.states_synced.get(index, False):
            self.states[index] = self.sync_state_context(self.states[index], weight.context)
        self.states_synced[index] = True

    def sync_state_context(self, state: Any, context: Context) -> Any:
        """The state with its arrays on ``context``."""
        if isinstance(state, NDArray):
            return state.as_in_context(context)
        if isinstance(state, (tuple, list)):
            return type(state)(self.sync_state_context(each, context) for each in state)
        return state

    def get_states(self, dump_optimizer: bool = False, format: str = "bucketmod") -> bytes:
        """The states as bytes, with the optimizer (update counts included) if asked.

        ``format``: "bucketmod" (see ``state_file``), or "mxnet", a pickle that MXNet 1.9.1 reads. ValueError for
        others; TypeError for states, or an optimizer class, that the format cannot hold.
        """
        if format not in _FORMATS:
            raise ValueError(f"format of optimizer states must be one of {', '.join(_FORMATS)}, got {format!r}")
        states = dict(self.states)
        return _FORMATS[format].dumps((states, self.optimizer) if dump_optimizer else states)

    def set_states(self, states: bytes) -> None:
        """Takes states from ``get_states``, or from MXNet's; an optimizer in them replaces this one.

        MXNetError for data that is damaged or holds anything but arrays, plain containers and known optimizers.
        """
        found = (state_file if bytes(states[:8]) == state_file.MAGIC else state_format).loads(states)
        optimizer = self.optimizer
        if isinstance(found, tuple) and len(found) == 2:
            found, optimizer = found
        if not isinstance(found, dict) or not isinstance(optimizer, Optimizer):
            raise MXNetError(f"optimizer states: expected states by index, got {type(found)} and {type(optimizer)}")
        if optimizer is not self.optimizer:
            optimizer.kernels = self.optimizer.kernels
        self.states, self.optimizer = OptimizerState(found), optimizer
        self.aggregate_updates = optimizer.aggregate_num > 0
        self.states_synced = dict.fromkeys(found, False)


def get_updater(optimizer: Optimizer) -> Updater:
    """An Updater for ``optimizer``, without states yet."""
    return Updater(optimizer)
