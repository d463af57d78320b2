"""The programs of one graph at one set of shapes, over memory that a whole family of modules shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bucketmod import random
from bucketmod.base import MXNetError
from bucketmod.binding import Bucket, default_target
from bucketmod.ndarray import NDArray
from bucketmod.runtime.executor import Executor
from bucketmod.runtime.parameter_store import ParameterStore
from bucketmod.runtime.workspace import InputBuffers, Workspace

GRAD_REQS = ("null", "write", "add")
_SEED_MASK = (1 << 63) - 1  # the generator takes a non-negative int64


@dataclass
class SharedMemory:
    """One of each for all buckets. ``copies_stale``: whether the modules' own copies of the parameters are older than
    what the store holds."""

    store: ParameterStore = field(default_factory=ParameterStore)
    workspace: Workspace = field(default_factory=Workspace)
    inputs: InputBuffers = field(default_factory=InputBuffers)
    copies_stale: bool = False


class ExecutorGroup:
    """Runs a bucket's programs; each is found or compiled when it is first needed.

    ``grad_req``: argument -> null, write or add. ``data_names``, ``label_names``: in the order in which batches bring
    their arrays. Parameters are taken from the store when the group is made: MXNetError when their shapes differ from
    those of another bucket.
    """

    def __init__(
        self,
        bucket: Bucket,
        memory: SharedMemory,
        data_names: Sequence[str],
        label_names: Sequence[str],
        grad_req: Mapping[str, str],
        batch_size: int,
    ):
        self.bucket = bucket
        self.memory = memory
        self.grad_req = dict(grad_req)
        self.batch_size = batch_size
        self._data_names = list(data_names)
        self._label_names = list(label_names)
        self._shapes = {argument.name: argument.shape for argument in bucket.arguments}
        self._executors: dict[bool, Executor] = {}
        self._last: Executor | None = None
        self.wrt = tuple(name for name in self._shapes if self.grad_req.get(name, "null") != "null")
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

    def forward(self, data: Sequence[NDArray], labels: Sequence[NDArray] | None, is_train: bool) -> None:
        """Copies the batch in and runs. Labels not given keep their last values, surplus arrays are ignored."""
        executor = self._executors.get(is_train) or self._make_executor(is_train)
        self._load(executor, self._data_names, data)
        if labels:
            self._load(executor, self._label_names, labels)
        self._run(executor)

    def _load(self, executor: Executor, names: Sequence[str], arrays: Sequence[NDArray]) -> None:
        for name, array in zip(names, arrays, strict=False):
            buffer = executor.input(name)
            if buffer is None:
                continue
            source = array.numpy_view()
            if source.shape != buffer.shape:
                raise MXNetError(f"input {name!r} has shape {source.shape}, but is bound to {buffer.shape}")
            np.copyto(buffer, source, casting="unsafe")

    def _run(self, executor: Executor) -> None:
        if executor.takes_seed:
            seed, step = random.next_step()
            executor.forward((seed & _SEED_MASK, step))
        else:
            executor.forward()
        self._last = executor

    def backward(self, out_grads: Sequence[NDArray] | None) -> None:
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
            heads = {name: grad.numpy_view() for name, grad in zip(names, out_grads, strict=False)}
        try:
            executor.backward(heads)
        except (ValueError, RuntimeError) as error:
            raise MXNetError(str(error)) from None

    def _make_executor(self, is_train: bool) -> Executor:
        wrt = self.wrt if is_train else ()
        memory, add = self.memory, frozenset(name for name in wrt if self.grad_req[name] == "add")
        self._executors[is_train] = self.bucket.executor(
            is_train, wrt, default_target(), memory.store, memory.workspace, memory.inputs, add
        )
        return self._executors[is_train]

    # ---- results

    def outputs(self) -> list[NDArray]:
        """Views of the workspace, valid until any bucket runs forward. MXNetError when that happened already."""
        if self._last is None:
            raise MXNetError("there are no outputs: call forward() first")
        try:
            return [NDArray(array) for array in self._last.outputs()]
        except RuntimeError as error:
            raise MXNetError(str(error)) from None

    def input_gradients(self, names: Sequence[str]) -> list[NDArray]:
        """Gradients of data inputs after backward, as views."""
        last = self._last
        if last is None or not last.trains:
            raise MXNetError("there are no gradients: call forward() and backward() first")
        try:
            return [NDArray(last.gradient(name)) for name in names]
        except (RuntimeError, KeyError) as error:
            raise MXNetError(f"gradients of the inputs: {error}") from None

    def release(self) -> None:
        """States are looked up each time: nothing is kept."""

    def states(self, names: Sequence[str]) -> list[np.ndarray]:
        """The buffers of state inputs, to be read or written."""
        arguments = {argument.name: argument for argument in self.bucket.by_role("state")}
        return [
            self.memory.inputs.borrow(self, f"state:{name}", arguments[name].shape, arguments[name].dtype)
            for name in names
        ]


def parse_grad_req(
    grad_req: Any, arguments: Sequence[str], parameters: Sequence[str], fixed: Sequence[str], inputs: Sequence[str]
) -> dict[str, str]:
    """null, write or add for every argument.

    ``grad_req``: a text for all ``parameters`` but the ``fixed`` ones, and for ``inputs``, whose gradients are wanted
    too; a dict by name that overrides this, with write for what it leaves out; a list or tuple in the order of
    ``arguments`` (AssertionError for another length). Other arguments (labels, states) have null. ValueError for
    another type, MXNetError for another word.
    """
    default = grad_req if isinstance(grad_req, str) else "write"
    chosen = {name: default for name in [*parameters, *inputs] if name not in fixed}
    if isinstance(grad_req, (list, tuple)):
        assert len(grad_req) == len(arguments), (
            f"grad_req has {len(grad_req)} entries for {len(arguments)} arguments: {', '.join(arguments)}"
        )
        chosen = dict(zip(arguments, grad_req, strict=True))
    elif isinstance(grad_req, Mapping):
        chosen.update(grad_req)
    elif not isinstance(grad_req, str):
        raise ValueError(f"grad_req must be a str, list, tuple or dict, got {type(grad_req)}")
    for name, word in chosen.items():
        if word not in GRAD_REQS:
            raise MXNetError(f"grad_req of {name!r} is {word!r}; it must be one of {', '.join(GRAD_REQS)}")
    differentiable = {*parameters, *inputs}
    return {name: chosen.get(name, "null") if name in differentiable else "null" for name in arguments}
