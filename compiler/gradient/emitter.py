"""Writes backward nodes of our own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import NodeProto, helper

from bucketmod.compiler.graph.shapes import TensorType


@dataclass
class Emitter:
    """Collects nodes and constants. ``types`` knows the forward tensors; names are settled later."""

    types: Mapping[str, TensorType]
    nodes: list[tuple[int, NodeProto]] = field(default_factory=list)
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    position: int = 0  # of the forward node whose backward is being written

    def op(self, op_type: str, inputs: Sequence[str], domain: str = "", **attributes: Any) -> str:
        return self.ops(op_type, inputs, [True], domain, **attributes)[0]

    def ops(
        self, op_type: str, inputs: Sequence[str], wanted: Sequence[bool], domain: str = "", **attributes: Any
    ) -> list[str]:
        """Names of the outputs, "" for those that are not wanted."""
        outputs = [f"\0emitted {len(self.nodes)} {i}" if want else "" for i, want in enumerate(wanted)]
        node = helper.make_node(op_type, inputs, outputs, domain=domain, **attributes)
        self.nodes.append((self.position, node))
        return outputs

    def constant(self, value: Any, dtype: Any) -> str:
        name = f"\0emitted constant {len(self.constants)}"
        self.constants[name] = np.asarray(value, dtype)
        return name

    def number_like(self, tensor: str, value: float) -> str:
        """A scalar of the element type of a forward tensor."""
        return self.constant(value, helper.tensor_dtype_to_np_dtype(self.types[tensor].elem_type))

    def zeros_like(self, tensor: str) -> str:
        kind = self.types[tensor]
        zero = helper.make_tensor("value", kind.elem_type, [1], [0])
        return self.op("ConstantOfShape", [self.constant(kind.shape, np.int64)], value=zero)

    def reduced(self, gradient: str, made: str, given: str) -> str:
        """Sums a gradient with the shape of tensor ``made`` over the axes along which ``given`` was broadcast."""
        big, small = self.types[made].shape, self.types[given].shape
        if big == small:
            return gradient
        padded = (1,) * (len(big) - len(small)) + tuple(small)
        axes = [axis for axis, (a, b) in enumerate(zip(big, padded, strict=True)) if b == 1 and a != 1]
        summed = self.op("ReduceSum", [gradient, self.constant(axes, np.int64)], keepdims=1) if axes else gradient
        return self.op("Reshape", [summed, self.constant(small, np.int64)])
