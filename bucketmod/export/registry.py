"""Which function exports which operator, and what such a function works with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
from onnx import helper

from bucketmod.compiler.program import DOMAIN
from bucketmod.export.graph_writer import GraphWriter, Tensor
from bucketmod.operators.shapes import normal_axis

INT64 = np.dtype(np.int64)
BOOL = np.dtype(np.bool_)


class NodeExport:
    """One node of a Symbol on its way into the ONNX graph.

    ``attrs``: typed attributes; ``inputs``: the tensors that come in; ``outputs``: name, inferred shape and dtype of
    its outputs; ``is_train``: the mode; ``streams``: counts the Dropout nodes of the whole graph, each of which has its
    own stream of random numbers.
    """

    def __init__(
        self,
        writer: GraphWriter,
        op: str,
        name: str,
        attrs: Mapping[str, Any],
        inputs: list[Tensor],
        outputs: list[tuple[str, tuple[int, ...], np.dtype]],
        is_train: bool,
        streams: Iterator[int],
    ) -> None:
        self.op_name, self.name, self.attrs, self.inputs, self.is_train = op, name, attrs, inputs, is_train
        self.out_shapes = [shape for _, shape, _ in outputs]
        self.dtype = outputs[0][2]
        self._outputs, self._writer, self._streams = outputs, writer, streams
        self._emitted = 0

    def op(
        self,
        op_type: str,
        inputs: Sequence[Tensor | None],
        shape: tuple[int, ...] | None = None,
        dtype: np.dtype | None = None,
        **attributes: Any,
    ) -> Tensor:
        """An intermediate value; shape and dtype default to those of the first input."""
        first = inputs[0]
        assert first is not None
        output = self.intermediate(first.shape if shape is None else shape, first.dtype if dtype is None else dtype)
        self.emit(op_type, inputs, [output], **attributes)
        return output

    def result(
        self,
        op_type: str,
        inputs: Sequence[Tensor | None],
        index: int = 0,
        domain: str = "",
        **attributes: Any,
    ) -> Tensor:
        """Output ``index`` of the Symbol's node, made by this operator."""
        output = self.output(index)
        self.emit(op_type, inputs, [output], domain=domain, **attributes)
        return output

    def intermediate(self, shape: tuple[int, ...], dtype: np.dtype) -> Tensor:
        """A value inside the expansion of this node."""
        return self._writer.value(self._writer.tensor_name(f"{self.name}/value"), shape, dtype)

    def output(self, index: int = 0) -> Tensor:
        """The value that stands for output ``index`` of the Symbol's node."""
        return self._writer.value(*self._outputs[index])

    def emit(
        self,
        op_type: str,
        inputs: Sequence[Tensor | None],
        outputs: Sequence[Tensor | None],
        domain: str = "",
        **attributes: Any,
    ) -> None:
        """A node with the name of the Symbol's node; from the second one on ``/1``, ``/2`` ... follow."""
        name = f"{self.name}/{self._emitted}" if self._emitted else self.name
        self._emitted += 1
        self._writer.node(name, op_type, inputs, outputs, attributes, domain)

    def integers(self, values: int | Sequence[int] | np.ndarray) -> Tensor:
        """An int64 constant: a scalar, a vector, or whatever shape an array has."""
        return self._writer.constant(np.asarray(values, np.int64))

    def constant(self, value: Any, dtype: np.dtype | None = None) -> Tensor:
        """A constant; dtype defaults to that of the node's first output."""
        return self._writer.constant(np.array(value, self.dtype if dtype is None else dtype))

    def reshape(self, data: Tensor, shape: Sequence[int]) -> Tensor:
        """``data`` in another shape; nothing is emitted when it has that shape, and constants stay constants."""
        shape = tuple(shape)
        if data.shape == shape:
            return data
        if data.value is not None:
            return self._writer.constant(data.value.reshape(shape))
        return self.op("Reshape", [data, self.integers(shape)], shape)

    def transpose(self, data: Tensor, perm: Sequence[int]) -> Tensor:
        """An intermediate with its axes in another order; nothing is emitted when the order stays."""
        if list(perm) == list(range(len(data.shape))):
            return data
        return self.op("Transpose", [data], tuple(data.shape[axis] for axis in perm), perm=list(perm))

    def cast(self, data: Tensor, dtype: np.dtype) -> Tensor:
        """``data`` as ``dtype``; nothing is emitted when it has it."""
        if data.dtype == dtype:
            return data
        return self.op("Cast", [data], dtype=dtype, to=helper.np_dtype_to_tensor_dtype(dtype))

    def cast_result(self, data: Tensor) -> Tensor:
        """Output 0 of the Symbol's node: ``data`` in the dtype that the output has."""
        if data.dtype == self.dtype:
            return data
        return self.result("Cast", [data], to=helper.np_dtype_to_tensor_dtype(self.dtype))

    def replace(self, state: Tensor, following: Callable[[Tensor], Tensor]) -> None:
        """A step of training replaces ``state``, an input of the graph, by ``following(state)``.

        Nodes that replace the same input do so in reverse order, as their gradients are computed in MXNet.
        """
        self._writer.following.setdefault(state.name, []).append((state, following))

    def dropout(self, data: Tensor, rate: float, output: Tensor | None = None) -> Tensor:
        """An active Dropout with a random stream of its own."""
        output = self.intermediate(data.shape, data.dtype) if output is None else output
        mask = self.intermediate(data.shape, BOOL)
        inputs = [data, self.constant(rate, np.dtype(np.float32)), self.constant(True, BOOL)]
        self.emit("Dropout", inputs, [output, mask], seed=next(self._streams))
        return output

    def axis(self, axis: int, rank: int | None = None) -> int:
        """An axis of the first input (or of ``rank`` axes) counted from the front."""
        return normal_axis(axis, len(self.inputs[0].shape) if rank is None else rank)

    def refuse(self, what: str) -> NoReturn:
        """Raises NotImplementedError that names operator, node and what is missing."""
        raise NotImplementedError(f"operator {self.op_name!r}, node {self.name!r}: {what} is not supported")


NodeExporter = Callable[[NodeExport], Tensor | list[Tensor]]
EXPORTERS: dict[str, NodeExporter] = {}
FUNCTION_DOMAIN = DOMAIN


def exporter(*names: str) -> Callable[[NodeExporter], NodeExporter]:
    """Registers the exporter of the operators ``names``: it returns the node's output, or the list of its outputs."""

    def register(function: NodeExporter) -> NodeExporter:
        for name in names:
            if name in EXPORTERS:
                raise ValueError(f"operator {name!r} has an exporter already")
            EXPORTERS[name] = function
        return function

    return register
