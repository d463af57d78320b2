"""What is known of the tensors of a graph while a pass walks over it."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
from onnx import NodeProto, numpy_helper

from bucketmod.compiler.graph.shapes import TensorType

SMALL = 4096  # elements; larger constants are neither shared nor looked into, and folded only if that saves memory


class Tensors:
    """Types, values, second names and producers of tensors. New constants are shared by value."""

    def __init__(self, graph: onnx.GraphProto):
        self.constants: dict[str, np.ndarray] = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
        self.types: dict[str, TensorType] = {n: TensorType.of_array(v) for n, v in self.constants.items()}
        self.producers: dict[str, NodeProto] = {}
        self._taken = {v.name for v in (*graph.input, *graph.initializer)}
        self._taken |= {n for node in graph.node for n in (*node.input, *node.output)}
        self._interned: dict[tuple, str] = {}
        self.aliases: dict[str, str] = {}
        for name, value in self.constants.items():
            if value.size <= SMALL and self._interned.setdefault(_identity(value), name) != name:
                self.aliases[name] = self._interned[_identity(value)]

    def constant(self, value: np.ndarray) -> str:
        """Name of an initializer with this value and type; equal ones share a name."""
        key = _identity(value)
        if key not in self._interned:
            name = next(n for n in _numbered("constant", len(self._interned)) if n not in self._taken)
            self._taken.add(name)
            self.constants[name], self.types[name] = value, TensorType.of_array(value)
            self._interned[key] = name
        return self._interned[key]

    def value(self, name: str) -> np.ndarray | None:
        return self.constants.get(name) if name else None

    def type(self, name: str) -> TensorType | None:
        return self.types.get(name) if name else None


def _identity(value: np.ndarray) -> tuple:
    return value.dtype.str, value.shape, value.tobytes()


def _numbered(stem: str, start: int) -> Iterable[str]:
    index = start
    while True:
        yield f"{stem}_{index}"
        index += 1
