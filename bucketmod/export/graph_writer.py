"""An ONNX graph under construction, written node by node without any inference by onnx (3000 nodes must take well
under half a second)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, helper, numpy_helper

from bucketmod.compiler.functions import functions_for
from bucketmod.compiler.program import DOMAIN, IR_VERSION, OPSET


@dataclass(frozen=True)
class Tensor:
    """A value in the graph: its name, static shape and dtype; ``value`` when it is a constant."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    value: np.ndarray | None = None


class GraphWriter:
    """Collects inputs, constants, nodes and outputs; names are made unique here.

    ``reserved``: names that no intermediate value may get (those of graph inputs and outputs).
    """

    def __init__(self, reserved: Iterable[str]) -> None:
        self.graph = GraphProto(name="forward")
        self._reserved = frozenset(reserved)
        self._tensor_names = set(self._reserved)
        self._node_names: set[str] = set()
        self._copies: dict[str, int] = {}
        # What a step of training makes of an input: (the input, value after the step from the one before) by its name.
        self.following: dict[str, list[tuple[Tensor, Callable[[Tensor], Tensor]]]] = {}
        self._constants: dict[tuple[Any, ...], Tensor] = {}

    def input(self, name: str, shape: tuple[int, ...], dtype: np.dtype) -> Tensor:
        """A graph input under exactly this name."""
        _describe(self.graph.input.add(), name, shape, dtype)
        return Tensor(name, shape, dtype)

    def constant(self, value: np.ndarray) -> Tensor:
        """An initializer; equal values share one."""
        key = (value.dtype.name, value.shape, value.tobytes())
        if key not in self._constants:
            name = self.tensor_name(f"constant{len(self._constants)}")
            self.graph.initializer.append(numpy_helper.from_array(value, name))
            self._constants[key] = Tensor(name, value.shape, value.dtype, value)
        return self._constants[key]

    def tensor_name(self, wanted: str) -> str:
        """``wanted``, or with a number behind it when it is taken."""
        return self._unique(wanted, self._tensor_names)

    def _unique(self, wanted: str, taken: set[str]) -> str:
        name = wanted
        while name in taken:
            count = self._copies[wanted] = self._copies.get(wanted, 0) + 1
            name = f"{wanted}/{count}"
        taken.add(name)
        return name

    def node(
        self,
        name: str,
        op_type: str,
        inputs: Sequence[Tensor | None],
        outputs: Sequence[Tensor | None],
        attributes: Mapping[str, Any],
        domain: str = "",
    ) -> None:
        """A node; ``None`` is an input left out or an output that nobody wants."""
        node = self.graph.node.add(op_type=op_type, domain=domain, name=self._unique(name, self._node_names))
        node.input.extend("" if tensor is None else tensor.name for tensor in inputs)
        node.output.extend("" if tensor is None else tensor.name for tensor in outputs)
        for key, value in attributes.items():
            node.attribute.append(helper.make_attribute(key, value))

    def value(self, name: str, shape: tuple[int, ...], dtype: np.dtype) -> Tensor:
        """A value that a node makes, with its type on record. ``name``: from :meth:`tensor_name`, or reserved."""
        if name not in self._reserved:  # outputs are described at the end
            _describe(self.graph.value_info.add(), name, shape, dtype)
        return Tensor(name, shape, dtype)

    def output(self, tensor: Tensor) -> None:
        """Makes a value an output of the graph."""
        _describe(self.graph.output.add(), tensor.name, tensor.shape, tensor.dtype)

    def model(self) -> ModelProto:
        """The model: fixed opset and IR version, the functions that its nodes call."""
        model = ModelProto(ir_version=IR_VERSION, producer_name="bucketmod", graph=self.graph)
        model.opset_import.append(helper.make_opsetid("", OPSET))
        functions = functions_for(self.graph.node)
        if functions:
            model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
            model.functions.extend(functions)
        return model


def _describe(info: onnx.ValueInfoProto, name: str, shape: tuple[int, ...], dtype: np.dtype) -> None:
    info.name = name
    tensor = info.type.tensor_type
    tensor.elem_type = helper.np_dtype_to_tensor_dtype(dtype)
    tensor.shape.SetInParent()
    for size in shape:
        tensor.shape.dim.add().dim_value = size
