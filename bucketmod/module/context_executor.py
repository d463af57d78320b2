"""The programs of one graph at one set of shapes, on one context."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from bucketmod import random
from bucketmod.base import MXNetError
from bucketmod.binding import Bucket, default_target, monitored
from bucketmod.module.context_memory import ContextMemory
from bucketmod.ndarray import NDArray
from bucketmod.runtime.executor import Executor

_SEED_MASK = (1 << 63) - 1  # the generator takes a non-negative int64


class ContextExecutor:
    """Runs a bucket's programs; each is found or compiled when it is first needed.

    ``grad_req``: argument -> null, write or add. ``data_names``, ``label_names``: in the order in which batches bring
    their arrays. Parameters are taken from the store when it is made: MXNetError when their shapes differ from those
    of another bucket.
    """

    def __init__(
        self,
        bucket: Bucket,
        memory: ContextMemory,
        data_names: Sequence[str],
        label_names: Sequence[str],
        grad_req: Mapping[str, str],
    ):
        self.bucket = bucket
        self.memory = memory
        self.grad_req = dict(grad_req)
        self._data_names = list(data_names)
        self._label_names = list(label_names)
        self._arguments = {argument.name: argument for argument in bucket.arguments}
        self._symbol = bucket.graph
        self._places = bucket.argument_contexts(memory.context)
        self._monitor: tuple[Callable[[str, NDArray], Any], bool] | None = None
        self._executors: dict[bool, Executor] = {}
        self._last: Executor | None = None
        self.wrt = tuple(name for name in self._arguments if self.grad_req.get(name, "null") != "null")
        self._take_parameters()

    def _take_parameters(self) -> None:
        store = self.memory.store
        try:
            for argument in self.bucket.by_role("parameter"):
                store.parameter(argument.name, argument.shape, argument.dtype)
                if argument.name in self.wrt:
                    store.gradient(argument.name, argument.shape, argument.dtype)
            for argument in self.bucket.by_role("auxiliary"):
                store.auxiliary_state(argument.name, argument.shape, argument.dtype)
        except ValueError as error:
            raise MXNetError(str(error)) from None

    # ---- running

    def forward(self, data: Iterable[np.ndarray], labels: Iterable[np.ndarray] | None, is_train: bool) -> None:
        """Copies the batch in and runs. Labels not given keep their last values, surplus arrays are ignored."""
        executor = self._executors.get(is_train) or self._make_executor(is_train)
        self._load(executor, self._data_names, data)
        if labels:
            self._load(executor, self._label_names, labels)
        self._run(executor)

    def _load(self, executor: Executor, names: Sequence[str], arrays: Iterable[np.ndarray]) -> None:
        for name, source in zip(names, arrays, strict=False):
            buffer = executor.input(name)
            if buffer is None:
                continue
            if source.shape != buffer.shape:
                raise MXNetError(f"input {name!r} has shape {source.shape}, but is bound to {buffer.shape}")
            np.copyto(buffer, source, casting="unsafe")

    def _run(self, executor: Executor) -> None:
        if executor.takes_seed:
            seed, step = random.next_step()
            self.memory.run(executor.forward, (seed & _SEED_MASK, step))
        elif self.memory.stream is None:  # as run() does, for what is called most
            executor.forward()
        else:
            self.memory.run(executor.forward)
        self._last = executor

    def backward(self, out_grads: Iterable[np.ndarray] | None) -> None:
        """Gradients of the last forward. After one in inference mode, the same batch runs in training mode first.

        ``out_grads``: one for each output, in order; those of losses do not matter. MXNetError when one is missing.
        """
        if not self.wrt:
            return
        if self._last is None:
            raise MXNetError("backward() needs a forward() before it")
        executor = self._executors.get(True) or self._make_executor(True)
        if self._last is not executor:
            self._run(executor)
        heads = None
        if out_grads is not None:
            names = [name for name, _ in executor.output_shapes]
            heads = dict(zip(names, out_grads, strict=False))
        if self.memory.stream is None:
            _run_backward(executor, heads)
            return
        try:
            executor.check_heads(heads)  # told at once, not by whoever waits for the stream
        except ValueError as error:
            raise MXNetError(str(error)) from None
        self.memory.run(_run_backward, executor, heads)

    def _make_executor(self, is_train: bool) -> Executor:
        wrt = self.wrt if is_train else ()
        memory, add = self.memory, frozenset(name for name in wrt if self.grad_req[name] == "add")
        memory.wait()  # making room for a larger program takes memory from smaller ones
        bucket = self.bucket if self._monitor is None else monitored(self.bucket, *self._monitor)
        self._executors[is_train] = bucket.executor(
            is_train, wrt, default_target(), memory.store, memory.workspace, memory.inputs, add
        )
        return self._executors[is_train]

    def set_monitor_callback(self, callback: Callable[[str, NDArray], Any], monitor_all: bool = False) -> None:
        """Has ``callback(name, array)`` called for every value that the programs compute: as of
        ``mx.executor.Executor``. Monitored programs are programs of their own, found or compiled when they run."""
        self.memory.wait()
        self._monitor = callback, monitor_all
        self._executors.clear()
        self._last = None

    def bind_again(self) -> None:
        """From the next forward on, programs use the arrays that parameters are in now."""
        self._executors.clear()

    def monitor_like(self, other: ContextExecutor) -> None:
        """Takes over what another executor has for a monitor."""
        if other._monitor is not None and other._monitor != self._monitor:
            self.set_monitor_callback(*other._monitor)

    def release(self) -> None:
        """Inputs are looked up each time: nothing is kept."""

    # ---- what it holds, as arrays that users see

    @property
    def outputs(self) -> list[NDArray]:
        """Views of the workspace, valid until any bucket runs forward. MXNetError when that happened already."""
        self.memory.wait()
        if self._last is None:
            raise MXNetError("there are no outputs: call forward() first")
        try:
            contexts = self.bucket.output_contexts(self.memory.context)
            found = zip(self._last.outputs(), contexts, strict=True)
            return [self.memory.array(array, context) for array, context in found]
        except RuntimeError as error:
            raise MXNetError(str(error)) from None

    def input_gradient(self, name: str) -> NDArray:
        """Gradient of a data input after backward, as a view. MXNetError when there is none."""
        self.memory.wait()
        last = self._last
        if last is None or not last.trains:
            raise MXNetError("there are no gradients: call forward() and backward() first")
        try:
            return self.memory.array(last.gradient(name), self._places[name])
        except (RuntimeError, KeyError) as error:
            raise MXNetError(f"gradients of the inputs: {error}") from None

    def input(self, name: str) -> NDArray:
        """The array of a data, label or state argument, to be read or written; valid as long as no larger bucket
        comes."""
        argument = self._arguments[name]
        self.memory.wait()
        borrowed = self.memory.inputs.borrow(self, f"{argument.role}:{name}", argument.shape, argument.dtype)
        return self.memory.array(borrowed, self._places[name])

    @property
    def arg_dict(self) -> dict[str, NDArray]:
        """Every argument by name."""
        return {
            name: self.memory.parameter(name, self._places[name]) if argument.role == "parameter" else self.input(name)
            for name, argument in self._arguments.items()
            if argument.role != "auxiliary"
        }

    @property
    def aux_dict(self) -> dict[str, NDArray]:
        """Every auxiliary state by name."""
        names = [each.name for each in self.bucket.by_role("auxiliary")]
        return {name: self.memory.auxiliary_state(name, self._places[name]) for name in names}

    @property
    def grad_dict(self) -> dict[str, NDArray | None]:
        """A gradient, or None, for every argument. Those of data inputs exist after backward."""
        found: dict[str, NDArray | None] = {}
        for name, argument in self._arguments.items():
            if argument.role == "parameter" and name in self.wrt:
                found[name] = self.memory.gradient(name, self._places[name])
            elif argument.role != "auxiliary":
                found[name] = None
                if name in self.wrt:
                    with contextlib.suppress(MXNetError):
                        found[name] = self.input_gradient(name)
        return found

    @property
    def arg_arrays(self) -> list[NDArray]:
        """As ``arg_dict``, in the order of the graph's arguments."""
        return list(self.arg_dict.values())

    @property
    def grad_arrays(self) -> list[NDArray | None]:
        """As ``grad_dict``, in the order of the graph's arguments."""
        return list(self.grad_dict.values())

    @property
    def aux_arrays(self) -> list[NDArray]:
        """As ``aux_dict``, in the order of the graph's auxiliary states."""
        return list(self.aux_dict.values())


def _run_backward(executor: Executor, heads: Mapping[str, np.ndarray] | None) -> None:
    try:
        executor.backward(heads)
    except (ValueError, RuntimeError) as error:
        raise MXNetError(str(error)) from None
