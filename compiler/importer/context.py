"""State of one import: the Relax function under construction and what is known of each ONNX tensor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from tvm import ir, relax

from bucketmod.compiler.errors import CompileError, UnsupportedOperatorError
from bucketmod.compiler.graph.shapes import MICROSOFT, attributes
from bucketmod.compiler.lowering.calls import tensor_type
from bucketmod.compiler.program import DOMAIN
from bucketmod.compiler.target import Target
from bucketmod.compiler.tuning import Tuner


class Node:
    """An ONNX node with its attributes as Python values."""

    def __init__(self, proto: onnx.NodeProto):
        self.proto = proto
        self.name = proto.name or proto.output[0]
        self.op_type = proto.op_type
        self.domain = "" if proto.domain == "ai.onnx" else proto.domain
        self.inputs = list(proto.input)
        self.outputs = list(proto.output)
        self.attributes = attributes(proto)

    def attribute(self, name: str, default: Any = None) -> Any:
        return self.attributes.get(name, default)

    def wants(self, index: int) -> bool:
        """Whether output ``index`` is used by anyone."""
        return index < len(self.outputs) and bool(self.outputs[index])

    def fail(self, reason: str) -> UnsupportedOperatorError:
        kind = f"{self.domain}::{self.op_type}" if self.domain else self.op_type
        return UnsupportedOperatorError(f"node {self.name!r} ({kind}): {reason}", node=self.name)


class ImportContext:
    """What converters work with.

    ``bb``: the Relax builder; ``target``; ``functions``: kernels already added to the module, by kernel instance;
    ``values``: ONNX name -> Relax expression; ``row_tables``: name of a gradient -> table of its rows;
    ``parameters``: the variables of parameters and auxiliary states; ``inference``: whether nothing is trained;
    ``tuner``: chooses how kernels are cut, where that is measured.
    """

    def __init__(self, target: Target, bb: relax.BlockBuilder, inference: bool = False, tuner: Tuner | None = None):
        self.target = target
        self.tuner = tuner
        self.inference = inference
        self.bb = bb
        self.functions: dict[Any, Any] = {}
        self.values: dict[str, Any] = {}
        self.arrays: dict[str, np.ndarray] = {}
        self.cast_from: dict[str, str] = {}  # output of a Cast from float32 to an integer -> its input
        self.clipped_from: dict[str, tuple[str, int, int]] = {}  # output of a Clip of such a Cast -> its input, bounds
        self.transposed_from: dict[str, str] = {}  # output of a Transpose of the last two axes -> its input
        self.row_tables: dict[str, Any] = {}
        self.parameters: set[Any] = set()
        self._followers: dict[Any, bool] = {}  # variable -> whether it follows from parameters
        self.seed: Any = None  # the input that seeds random streams, made on first use

    def emit(self, expr: Any) -> Any:
        return self.bb.emit(expr)

    def shape(self, expr: Any) -> tuple[int, ...]:
        return tensor_type(expr.ty)[0]

    def dtype(self, expr: Any) -> str:
        return tensor_type(expr.ty)[1]

    def reshape(self, expr: Any, shape: Sequence[int]) -> Any:
        """A view; nothing is emitted where the shape is already right."""
        if self.shape(expr) == tuple(shape):
            return expr
        return self.emit(relax.op.reshape(expr, tuple(int(d) for d in shape)))

    def follows_from_parameters(self, expr: Any) -> bool:
        """Whether a value depends on parameters, auxiliary states and constants alone."""
        if isinstance(expr, ir.Var):
            if expr not in self._followers:
                bound = self.bb.lookup_binding(expr)
                known = self.follows_from_parameters(bound) if bound is not None else False
                self._followers[expr] = expr in self.parameters or known
            return self._followers[expr]
        if isinstance(expr, relax.Tuple):
            return all(map(self.follows_from_parameters, expr.fields))
        if isinstance(expr, relax.TupleGetItem):
            return self.follows_from_parameters(expr.tuple_value)
        if isinstance(expr, ir.Call):
            return all(map(self.follows_from_parameters, expr.args))
        return True  # constants, shapes and functions

    def expr(self, name: str) -> Any:
        if name not in self.values:
            array = self.arrays[name]
            self.values[name] = relax.const(array, array.dtype.name)  # without a dtype, int64 would become int32
        return self.values[name]

    def array(self, node: Node, index: int, what: str) -> np.ndarray:
        """The value of an input that must be known at compile time."""
        name = node.inputs[index]
        if name not in self.arrays:
            raise node.fail(f"{what} ({name!r}) must be a constant of the graph: shapes are fixed for each bucket")
        return self.arrays[name]

    def optional_array(self, node: Node, index: int, what: str) -> np.ndarray | None:
        return self.array(node, index, what) if index < len(node.inputs) and node.inputs[index] else None

    def scalar(self, node: Node, index: int) -> float | None:
        """The value of a one-element constant input, None for anything else."""
        array = self.arrays.get(node.inputs[index])
        return array.reshape(-1)[0].item() if array is not None and array.size == 1 else None


Converter = Callable[[ImportContext, Node, list[Any]], Any]
CONVERTERS: dict[tuple[str, str], Converter] = {}


def converter(*op_types: str, domain: str = "") -> Callable[[Converter], Converter]:
    """Registers a converter: (context, node, Relax inputs, None for absent ones) -> Relax output, or a list of them
    with None for outputs that are not wanted."""

    def register(function: Converter) -> Converter:
        for op_type in op_types:
            if (domain, op_type) in CONVERTERS:
                raise CompileError(f"internal: two converters for {domain}::{op_type}")
            CONVERTERS[domain, op_type] = function
        return function

    return register


def microsoft(*op_types: str) -> Callable[[Converter], Converter]:
    return converter(*op_types, domain=MICROSOFT)


def bucketmod(*op_types: str) -> Callable[[Converter], Converter]:
    return converter(*op_types, domain=DOMAIN)


def normalize_axis(node: Node, axis: int, rank: int) -> int:
    if not -rank <= axis < rank:
        raise node.fail(f"axis {axis} is out of range for a tensor of rank {rank}")
    return axis % rank
