"""The executors of one graph over all contexts of a module: a batch is split, every context runs its part."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import cached_property
from operator import methodcaller
from typing import Any

import numpy as np

from bucketmod import binding
from bucketmod.base import MXNetError
from bucketmod.context import Context
from bucketmod.io import DataDesc
from bucketmod.module.batch_slices import merged, rows, sliced, split_batch
from bucketmod.module.context_executor import ContextExecutor
from bucketmod.module.context_memory import ContextMemory, SharedMemory
from bucketmod.module.grad_req import parse_grad_req
from bucketmod.module.input_names import described
from bucketmod.ndarray import NDArray

_view = methodcaller("numpy_view")


class DataParallelExecutorGroup:
    """``execs``: one for each context. Contexts run at the same time; results are waited for when they are looked at.

    ``workload``: how much of a batch each context gets, in proportion. ``data_shapes``, ``label_shapes``: of the whole
    batch, DataDesc or (name, shape); layouts tell the axis of the batch. ``param_names``: arguments that are
    parameters. ``shared_group``: whose parameters, gradients and memory this one uses. ``key``: of the bucket, for
    messages. The others are those of Module and bind.

    AssertionError when inputs have different batch sizes, ValueError when a context would get no rows, ShapeError (an
    MXNetError) where shapes disagree.
    """

    def __init__(
        self,
        symbol: Any,
        contexts: Sequence[Context],
        workload: Sequence[float],
        data_shapes: Sequence[Any],
        label_shapes: Sequence[Any] | None,
        param_names: Sequence[str],
        for_training: bool,
        inputs_need_grad: bool,
        shared_group: DataParallelExecutorGroup | None = None,
        logger: Any = logging,
        fixed_param_names: Sequence[str] | None = None,
        grad_req: Any = "write",
        state_names: Sequence[str] | None = None,
        group2ctxs: Any = None,
        key: Any = None,
    ):
        self.symbol, self.contexts, self.workload = symbol, list(contexts), list(workload)
        self.param_names = list(param_names)
        self.arg_names, self.aux_names = symbol.list_arguments(), symbol.list_auxiliary_states()
        self.output_names = symbol.list_outputs()
        self.num_outputs = len(self.output_names)
        self.for_training, self.inputs_need_grad = for_training, inputs_need_grad
        self.logger = logger
        self.fixed_param_names, self.state_names = list(fixed_param_names or ()), list(state_names or ())
        self.group2ctxs = group2ctxs
        self.key = key
        data = [described(item) for item in data_shapes]
        labels = [described(item) for item in label_shapes] if label_shapes is not None else None
        self.grad_req = parse_grad_req(
            grad_req if for_training else "null", self.arg_names, self.param_names, self.fixed_param_names,
            [desc.name for desc in data] if inputs_need_grad else [],
        )  # fmt: skip
        assert shared_group is None or len(shared_group.contexts) >= len(contexts), "the shared group has fewer"
        self.memory: SharedMemory = (
            SharedMemory.of(self.contexts, self.workload) if shared_group is None else shared_group.memory
        )
        self._version = self.memory.version
        self._memories: list[ContextMemory] = self.memory.contexts[: len(self.contexts)]
        self.execs: list[ContextExecutor] = []
        self.batch_size: int | None = None
        self.slices: list[slice] | None = None
        self._known: dict[Any, list[ContextExecutor]] = {}  # by shapes: a group that was reshaped may be shaped back
        self.bind_exec(data, labels)

    # ---- shapes

    def decide_slices(self, data_shapes: Sequence[DataDesc]) -> list[int]:
        """The axis of the batch in each of these inputs (-1: none, every context gets the whole input); sets
        ``batch_size`` and ``slices``.

        AssertionError when batch sizes differ, also from those decided before; ValueError for an empty slice.
        """
        axes = [DataDesc.get_batch_axis(desc.layout) for desc in data_shapes]
        for desc, axis in zip(data_shapes, axes, strict=True):
            if axis < 0 or axis >= len(desc.shape):
                continue
            if self.batch_size is None:
                self.batch_size = desc.shape[axis]
                self.slices = split_batch(desc.shape[axis], self.workload)
            assert desc.shape[axis] == self.batch_size, (
                f"all data must have the same batch size: batch_size = {self.batch_size}, but {desc.name} has shape "
                f"{desc.shape} (layout {desc.layout})"
            )
        return axes

    def bind_exec(
        self,
        data_shapes: Sequence[DataDesc],
        label_shapes: Sequence[DataDesc] | None,
        shared_group: DataParallelExecutorGroup | None = None,
        reshape: bool = False,
    ) -> None:
        """Makes executors for these shapes, or takes those made for them before. AssertionError when there are
        executors already, unless ``reshape``."""
        assert reshape or not self.execs, "this group is bound: reshape it"
        before = self.batch_size, self.slices
        self.batch_size, self.slices = None, None
        try:
            data_layouts = self.decide_slices(data_shapes)
            label_layouts = self.decide_slices(label_shapes) if label_shapes is not None else None
            key = tuple((d.name, d.shape, str(d.dtype), d.layout) for d in (*data_shapes, *(label_shapes or ())))
            if key not in self._known:
                self._known[key] = self._make_executors(data_shapes, label_shapes)
        except BaseException:  # shapes that do not fit leave the group as it was
            self.batch_size, self.slices = before
            raise
        for executor, last in zip(self._known[key], self.execs or self._known[key], strict=True):
            executor.monitor_like(last)
        self.execs = self._known[key]
        self.data_layouts, self.label_layouts = data_layouts, label_layouts
        self._only = self.execs[0] if len(self.execs) == 1 else None
        self.data_shapes, self.label_shapes = list(data_shapes), label_shapes
        self.bound_shapes = [desc.shape for desc in data_shapes]
        self.data_names = [desc.name for desc in data_shapes]
        self.label_names = [desc.name for desc in label_shapes] if label_shapes is not None else None

    def _make_executors(
        self, data_shapes: Sequence[DataDesc], label_shapes: Sequence[DataDesc] | None
    ) -> list[ContextExecutor]:
        """Contexts with slices of equal size share one bucket, and so its artifacts; the parts of one that is cut over
        contexts are placed for each."""
        group2ctxs = binding.prepare_group2ctxs(self.group2ctxs, len(self._memories))
        data_names = [desc.name for desc in data_shapes]
        given = {*self.param_names, *data_names, *self.state_names}
        buckets: dict[int, binding.Bucket] = {}
        executors = []
        slices: Sequence[slice | None] = self.slices if self.slices else [None] * len(self._memories)
        for memory, part, group2ctx in zip(self._memories, slices, group2ctxs, strict=True):
            size = part.stop - part.start if part is not None else 0
            if size not in buckets:
                buckets[size] = binding.make_bucket(
                    self.symbol,
                    [sliced(desc, part) for desc in data_shapes],
                    [sliced(desc, part) for desc in label_shapes] if label_shapes is not None else None,
                    data_names=data_names,
                    label_names=[name for name in self.arg_names if name not in given],
                    state_names=self.state_names,
                    key=self.key,
                )
            label_names = [desc.name for desc in label_shapes or ()]
            bucket = binding.place(buckets[size], memory.context, group2ctx)
            executors.append(ContextExecutor(bucket, memory, data_names, label_names, self.grad_req))
        return executors

    def reshape(self, data_shapes: Sequence[Any], label_shapes: Sequence[Any] | None) -> None:
        """Executors for other shapes, with the same parameters and gradients; the present shapes change nothing."""
        data = [described(item) for item in data_shapes]
        labels = [described(item) for item in label_shapes] if label_shapes is not None else None
        if data != self.data_shapes or labels != self.label_shapes:
            self.bind_exec(data, labels, reshape=True)

    @cached_property
    def output_layouts(self) -> list[int]:
        """The axis of the batch in each output: of the attribute ``__layout__`` of the node that makes it, else 0."""
        if not hasattr(self.symbol, "attr"):  # an ONNX model has no attributes
            return [0] * self.num_outputs
        return [DataDesc.get_batch_axis(self.symbol[i].attr("__layout__")) for i in range(self.num_outputs)]

    def get_output_shapes(self) -> list[tuple[str, tuple[int, ...]]]:
        """(name, shape) of each output of the first context, with the size of the whole batch on the axis of the
        batch."""
        shapes = []
        for (name, shape), axis in zip(self.execs[0].bucket.outputs, self.output_layouts, strict=True):
            if 0 <= axis < len(shape) and self.batch_size is not None:
                shape = (*shape[:axis], self.batch_size, *shape[axis + 1 :])
            shapes.append((name, shape))
        return shapes

    # ---- running

    def forward(self, data_batch: Any, is_train: bool | None = None) -> None:
        """Starts a forward pass on every context with its part of the batch (of a list: its batch).

        ``is_train``: default: ``for_training``. A batch without labels leaves the last ones in place. MXNetError for
        arrays that do not fit.
        """
        is_train = self.for_training if is_train is None else is_train
        if self._only is not None:
            batch = data_batch[0] if isinstance(data_batch, list) else data_batch
            labels = getattr(batch, "label", None)
            self._only.forward(map(_view, batch.data), map(_view, labels) if labels else None, is_train)
            return
        self.wait()  # inputs may still be read
        if self._version != self.memory.version:
            self._bind_again()
        parts = self._given_parts(data_batch) if isinstance(data_batch, list) else self._cut_parts(data_batch)
        for executor, (data, labels) in zip(self.execs, parts, strict=True):
            executor.forward(data, labels, is_train)

    def _bind_again(self) -> None:
        """Parameters are in other arrays now."""
        for executors in self._known.values():
            for executor in executors:
                executor.bind_again()
        self._version = self.memory.version

    def _cut_parts(self, batch: Any) -> list[tuple[list[np.ndarray], list[np.ndarray] | None]]:
        data, labels = [*map(_view, batch.data)], [*map(_view, getattr(batch, "label", None) or ())]
        return [
            (
                [rows(array, part, axis) for array, axis in zip(data, self.data_layouts, strict=False)],
                [rows(array, part, axis) for array, axis in zip(labels, self.label_layouts or (), strict=False)],
            )
            for part in self._parts
        ]

    def _given_parts(self, batches: list[Any]) -> list[tuple[list[np.ndarray], list[np.ndarray] | None]]:
        if len(batches) != len(self.execs):
            raise MXNetError(f"a list of {len(batches)} batches for {len(self.execs)} contexts: give one to each")
        return [([*map(_view, batch.data)], [*map(_view, batch.label or ())]) for batch in batches]

    @property
    def _parts(self) -> list[slice]:
        """The slice of each context; all of it where no input has an axis for the batch."""
        return self.slices if self.slices is not None else [slice(None)] * len(self.execs)

    def backward(self, out_grads: Sequence[NDArray] | None = None) -> None:
        """Starts a backward pass on every context. ``out_grads``: gradients of all outputs, over the whole batch.

        AssertionError unless bound for training; MXNetError when a gradient is missing or has another shape.
        """
        assert self.for_training, "re-bind with for_training=True to run backward"
        if self._only is not None:
            self._only.backward(None if out_grads is None else map(_view, out_grads))
            return
        for executor, part in zip(self.execs, self._parts, strict=True):
            grads = None
            if out_grads is not None:  # copied: the caller may change them while contexts still run
                axes = zip(out_grads, self.output_layouts, strict=False)
                grads = [rows(grad.numpy_view(), part, axis).copy() for grad, axis in axes]
            executor.backward(grads)

    def wait(self) -> None:
        """Returns when every context is done; raises what went wrong on one."""
        if self._only is None or self._only.memory.stream is not None:
            for memory in self._memories:
                memory.wait()

    # ---- results

    def get_outputs(self, merge_multi_context: bool = True, begin: int = 0, end: int | None = None) -> list[Any]:
        """Outputs ``begin`` to ``end`` (default: all) of the last forward: joined over contexts, or a list a context
        for each. One context's outputs are views, valid until the next forward of any bucket."""
        found = [executor.outputs[begin:end] for executor in self.execs]
        if self._only is not None and merge_multi_context:
            return found[0]
        by_output = [list(parts) for parts in zip(*found, strict=True)]
        return self._merged(by_output, self.output_layouts[begin:end]) if merge_multi_context else by_output

    def get_input_grads(self, merge_multi_context: bool = True) -> list[Any]:
        """Gradients of the data inputs, in their order; as ``get_outputs``. AssertionError unless
        ``inputs_need_grad``."""
        assert self.inputs_need_grad, "gradients of inputs need bind(inputs_need_grad=True)"
        found = self.input_grad_arrays
        return self._merged(found, self.data_layouts) if merge_multi_context else found

    @staticmethod
    def _merged(by_name: list[list[NDArray]], axes: Sequence[int]) -> list[NDArray]:
        return [merged(parts, axis) for parts, axis in zip(by_name, axes, strict=True)]

    def get_states(self, merge_multi_context: bool = True) -> list[list[NDArray]]:
        """A list a context for each state. AssertionError unless ``merge_multi_context`` is False."""
        assert not merge_multi_context, "merge_multi_context=True is not supported for get_states yet."
        return self.state_arrays

    def set_states(self, states: Any = None, value: Any = None) -> None:
        """Fills the states with ``value``, or copies ``states`` (a list a context for each state, or one array for all
        contexts) into them. AssertionError unless exactly one of the two is given."""
        assert (states is None) != (value is None), "set_states() takes exactly one of states and value"
        for index, arrays in enumerate(self.state_arrays):
            for context, array in enumerate(arrays):
                if value is not None:
                    array[:] = value
                else:
                    given = states[index]
                    (given[context] if isinstance(given, (list, tuple)) else given).copyto(array)

    def update_metric(self, eval_metric: Any, labels: Any, pre_sliced: bool = False) -> None:
        """Adds every context's outputs and its part of the labels to the metric, one context after the other.
        ``pre_sliced``: labels come as a list a context."""
        for index, (executor, part) in enumerate(zip(self.execs, self._parts, strict=True)):
            if pre_sliced:
                own = labels[index]
            elif self._only is not None:
                own = labels or ()
            else:
                axes = zip(labels or (), self.label_layouts or (), strict=False)
                own = [_label_rows(label, part, axis) for label, axis in axes]
            found = OrderedDict(zip(self.label_names or (), own, strict=False))
            eval_metric.update_dict(found, OrderedDict(zip(self.output_names, executor.outputs, strict=True)))

    def install_monitor(self, mon: Any) -> None:
        """Has a monitor watch every context. Executors for other shapes go on with it."""
        for executor in self.execs:
            mon.install(executor)

    # ---- parameters

    def set_params(
        self, arg_params: Mapping[str, Any], aux_params: Mapping[str, Any], allow_extra: bool = False
    ) -> None:
        """Copies values to every context. ValueError for names that the graph does not have unless ``allow_extra``,
        MXNetError for another shape."""
        self.wait()
        if self.memory.sharer is not None:
            self.memory.sharer.keep_apart()
        groups = (
            (arg_params, self.param_names, [memory.store.parameters for memory in self._memories]),
            (aux_params, self.aux_names, [memory.store.auxiliary for memory in self._memories]),
        )
        try:
            for given, names, arrays in groups:
                self._copy_values(given, set(names), arrays, allow_extra)
        finally:
            self.parameters_changed()

    def _copy_values(
        self, given: Mapping[str, Any], known: set[str], arrays: list[dict[str, np.ndarray]], allow_extra: bool
    ) -> None:
        for name, value in given.items():
            if name in known:
                for array in _distinct([of_context[name] for of_context in arrays]):
                    copy_value(name, value, array)
            elif not allow_extra:
                raise ValueError(f'Find name "{name}" that is not in the arguments: see allow_extra')

    def parameters_changed(self) -> None:
        """To be called after values of parameters or auxiliary states were written."""
        for memory in self._memories:
            memory.store.parameters_changed()

    def get_params(self, arg_params: Mapping[str, NDArray], aux_params: Mapping[str, NDArray]) -> None:
        """Writes the mean over contexts of every parameter and auxiliary state into these arrays."""
        self.wait()
        stores = [memory.store for memory in self._memories]
        for names, own, groups in (
            (self.param_names, arg_params, [store.parameters for store in stores]),
            (self.aux_names, aux_params, [store.auxiliary for store in stores]),
        ):
            for name in names:
                first, *others = arrays = _distinct([group[name] for group in groups])
                mean = sum(others, first) / len(arrays) if others else first
                np.copyto(own[name].numpy_view(), mean, casting="unsafe")

    # ---- arrays, by name and then by context

    @property
    def param_arrays(self) -> list[list[NDArray]]:
        """Parameters in the order of the graph's arguments; see ``SharedMemory.share``."""
        return [[memory.parameter(name) for memory in self._memories] for name in self._in_order]

    def own_param_arrays(self) -> list[list[NDArray]]:
        """The same for those who call ``parameters_changed`` when they have written."""
        return [[memory.array(memory.store.parameters[name]) for memory in self._memories] for name in self._in_order]

    @property
    def _in_order(self) -> list[str]:
        parameters = set(self.param_names)
        return [name for name in self.arg_names if name in parameters]

    @cached_property
    def grad_arrays(self) -> list[list[NDArray | None]] | None:
        """Gradients in the order of ``param_arrays``, None for those not wanted; None unless bound for training."""
        if not self.for_training:
            return None
        return [
            [memory.gradient(name) if self.grad_req[name] != "null" else None
             for memory in self._memories]
            for name in self._in_order
        ]  # fmt: skip

    @property
    def aux_arrays(self) -> list[list[NDArray]]:
        """Auxiliary states in the order of the graph."""
        return [[memory.auxiliary_state(name) for memory in self._memories] for name in self.aux_names]

    @property
    def data_arrays(self) -> list[list[tuple[slice, NDArray]]]:
        """(rows of the batch, where they are copied to)."""
        return self._input_arrays(self.data_names)

    @property
    def label_arrays(self) -> list[list[tuple[slice, NDArray]]] | None:
        """As ``data_arrays``; None when bound without labels."""
        return self._input_arrays(self.label_names) if self.label_names is not None else None

    def _input_arrays(self, names: Sequence[str]) -> list[list[tuple[slice, NDArray]]]:
        parts = self.slices if self.slices is not None else [slice(i, i + 1) for i in range(len(self.execs))]
        return [
            [(part, executor.input(name)) for part, executor in zip(parts, self.execs, strict=True)]
            for name in names
            if name in self.arg_names
        ]

    @property
    def state_arrays(self) -> list[list[NDArray]]:
        """The states."""
        return [[executor.input(name) for executor in self.execs] for name in self.state_names]

    @property
    def input_grad_arrays(self) -> Any:
        """Gradients of the data inputs after backward; None unless ``inputs_need_grad``."""
        if not self.inputs_need_grad:
            return None
        return [[executor.input_gradient(name) for executor in self.execs] for name in self.data_names]

    @property
    def shared_data_arrays(self) -> list[dict[str, NDArray]]:
        """For each context its inputs (data, labels, states) by name."""
        names = [*self.data_names, *(self.label_names or ()), *self.state_names]
        return [{name: each.input(name) for name in names if name in self.arg_names} for each in self.execs]


def _distinct(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Each once, however many contexts hold it."""
    return list({id(array): array for array in arrays}.values())


def copy_value(name: str, value: Any, array: np.ndarray) -> None:
    """Copies a parameter's value, an NDArray or numpy array, into ``array``; MXNetError for another shape."""
    if tuple(value.shape) != array.shape:
        raise MXNetError(f"parameter {name!r} has shape {array.shape}, the value given for it {tuple(value.shape)}")
    source = value.numpy_view() if isinstance(value, NDArray) else value
    if source is not array:
        np.copyto(array, source, casting="unsafe")


def _label_rows(label: NDArray, part: slice, axis: int) -> NDArray:
    if axis <= 0:
        return label[part] if axis == 0 else label
    return NDArray(np.ascontiguousarray(rows(label.numpy_view(), part, axis)), label.context)
