"""Reads a Relax function whose operators are all lowered into the flat list of kernel calls that it stands for.

Reshapes and views disappear here: they become another way of looking at the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tvm import ir, relax

from bucketmod.compiler.errors import CompileError
from bucketmod.compiler.kernels.kernel import IN_PLACE


@dataclass(eq=False)
class Storage:
    """A piece of memory. ``kind``: "input" (caller's buffer), "constant" or "intermediate" (made by a kernel)."""

    kind: str
    name: str
    shape: tuple[int, ...]
    dtype: str
    value: np.ndarray | None = None  # of a constant

    @property
    def nbytes(self) -> int:
        return count_bytes(self.shape, self.dtype)


@dataclass(frozen=True)
class View:
    """A tensor inside a storage, ``offset`` bytes from its start."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    dtype: str

    @property
    def whole(self) -> bool:
        """Whether the view covers its storage exactly."""
        return self.offset == 0 and count_bytes(self.shape, self.dtype) == self.storage.nbytes


@dataclass(eq=False)
class KernelCall:
    """One call of a private function: it reads ``reads`` and writes ``writes``, passed in this order.

    ``in_place``: output index -> index of the input that it may be written over.
    """

    function: ir.GlobalVar
    reads: list[View]
    writes: list[View]
    in_place: dict[int, int] = field(default_factory=dict)


@dataclass
class CallList:
    """``results``: the function's outputs in order. ``inputs``: one storage for each parameter, in order."""

    inputs: list[Storage]
    calls: list[KernelCall] = field(default_factory=list)
    results: list[View] = field(default_factory=list)


def count_bytes(shape: Sequence[int], dtype: str) -> int:
    """Size of a dense tensor in bytes; booleans take one byte each."""
    return int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize


def tensor_type(type_: Any) -> tuple[tuple[int, ...], str]:
    """Static shape and dtype of a ``relax.TensorType``."""
    dtype = getattr(type_.dtype, "dtype", type_.dtype)
    return tuple(int(dim) for dim in type_.shape), str(dtype)


class _Reader:
    def __init__(self, module: ir.IRModule):
        self.module = module
        self.function = function = module["main"]
        self.values: dict[Any, Any] = {}  # Var -> View | list[View]
        self.constants: dict[Any, View] = {}
        inputs = []
        for parameter in function.params:
            storage = Storage("input", parameter.name, *tensor_type(parameter.ty))
            inputs.append(storage)
            self.values[parameter] = _whole(storage)
        self.result = CallList(inputs)

    def read(self) -> CallList:
        body = self.function.body
        for block in body.blocks:
            for binding in block.bindings:
                self.values[binding.var] = self.value(binding.value, binding.var)
        outputs = self.value(body.body, None)
        self.result.results = outputs if isinstance(outputs, list) else [outputs]
        return self.result

    def value(self, expr: Any, var: Any) -> Any:
        if isinstance(expr, ir.Var):
            return self.values[expr]
        if isinstance(expr, ir.GenericConst):
            return self.constant(expr)
        if isinstance(expr, relax.Tuple):
            return [self.value(item, None) for item in expr.fields]
        if isinstance(expr, relax.TupleGetItem):
            return self.value(expr.tuple_value, None)[expr.index]
        if isinstance(expr, ir.Call):
            return self.call(expr, var)
        raise CompileError(f"internal: cannot lower a Relax expression of kind {type(expr).__name__}")

    def constant(self, expr: Any) -> View:
        if expr not in self.constants:
            array = np.ascontiguousarray(expr.value.numpy())
            storage = Storage("constant", f"constant{len(self.constants)}", array.shape, array.dtype.name, array)
            self.constants[expr] = _whole(storage)
        return self.constants[expr]

    def call(self, call: Any, var: Any) -> Any:
        name = getattr(call.op, "name", "")
        if name == "relax.call_tir":
            return self.kernel(call, var)
        if name in ("relax.reshape", "relax.expand_dims", "relax.squeeze", "relax.flatten"):
            source = self.value(call.args[0], None)
            return View(source.storage, source.offset, *tensor_type(call.ty))
        if name == "relax.memory.view":
            source = self.value(call.args[0], None)
            return View(source.storage, source.offset + int(_prim(call.args[3])), *tensor_type(call.ty))
        raise CompileError(f"internal: operator {name or call.op} was not lowered to a kernel")

    def kernel(self, call: Any, var: Any) -> Any:
        function, arguments = call.args[0], self.value(call.args[1], None)
        out = call.ty_args[0]
        types = list(out.fields) if isinstance(out, ir.TupleType) else [out]
        writes = [
            _whole(Storage("intermediate", f"{function.name_hint}.{len(self.result.calls)}.{i}", *tensor_type(t)))
            for i, t in enumerate(types)
        ]
        attributes = self.module[function].attrs
        in_place = attributes.get(IN_PLACE, {}) if attributes is not None else {}
        in_place = {int(output): int(source) for output, source in in_place.items()}
        self.result.calls.append(KernelCall(function, arguments, writes, in_place))
        return writes if isinstance(out, ir.TupleType) else writes[0]


def _whole(storage: Storage) -> View:
    return View(storage, 0, storage.shape, storage.dtype)


def _prim(expr: Any) -> int:
    value = getattr(expr, "value", expr)
    return int(value)


def read_calls(module: ir.IRModule) -> CallList:
    """The calls of ``main``. Raises CompileError when an operator was left that is neither a kernel call nor a view."""
    return _Reader(module).read()
