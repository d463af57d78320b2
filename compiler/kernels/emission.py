"""A thin layer over TVM's IR builder, shared by the tuned kernels: functions, register values, vectors, transposes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from bucketmod.compiler.kernels.kernel import TUNED, TensorShape

Expr = Any  # a tirx expression or a Python int; TVM carries no type annotations
Buffer = Any


def build_function(name: str, arguments: Sequence[tuple[str, TensorShape]], body: Callable[..., None]) -> Any:
    """The tuned PrimFunc whose statements ``body(*buffers)`` emits."""
    with IRBuilder() as ib, T.prim_func(s_tir=True):
        T.func_name(name)
        T.func_attr({"tirx.noalias": True, TUNED: True})
        buffers = [T.arg(label, T.buffer(shape, dtype, layout=None)) for label, (shape, dtype) in arguments]
        body(*buffers)
    return ib.get()


class Register:
    """A float32 vector that can be assigned: LLVM keeps buffers of one vector in registers."""

    def __init__(self, lanes: int):
        self.lanes = lanes
        self.buffer = T.alloc_buffer((lanes,), "float32", layout=None)

    @property
    def value(self) -> Expr:
        return self.buffer[T.ramp(0, 1, self.lanes)]

    @value.setter
    def value(self, value: Expr) -> None:
        T.buffer_store(self.buffer, value, [T.ramp(0, 1, self.lanes)])


def scratch(size: int) -> Buffer:
    """Memory of the running thread (float32), for packed operands; large ones come from TVM's workspace pool."""
    return T.alloc_buffer((size,), "float32", layout=None)


def load(buffer: Buffer, *indices: Expr, lanes: int, width: int | None = None) -> Expr:
    """``lanes`` values from ``indices`` on along the last axis; beyond ``width`` values nothing is read, and 0 given."""
    *lead, first = indices
    if width is None or width == lanes:
        return buffer[(*lead, T.ramp(first, 1, lanes))]
    return T.masked_load(f"float32x{lanes}", buffer, *lead, T.ramp(first, 1, lanes), _mask(lanes, width))


def store(buffer: Buffer, value: Expr, *indices: Expr, lanes: int, width: int | None = None) -> None:
    """Writes the first ``width`` (all, by default) of ``lanes`` values from ``indices`` on along the last axis."""
    *lead, first = indices
    if width is None or width == lanes:
        T.buffer_store(buffer, value, [*lead, T.ramp(first, 1, lanes)])
    else:
        T.evaluate(T.masked_store(buffer, value, *lead, T.ramp(first, 1, lanes), _mask(lanes, width)))


def splat(value: Expr, lanes: int) -> Expr:
    """``value`` in every lane."""
    return tirx.Broadcast(tirx.FloatImm("float32", value) if isinstance(value, (int, float)) else value, lanes)


def pieces(width: int, lanes: int) -> Iterator[tuple[int, int]]:
    """``width`` consecutive values as vectors of ``lanes``, then of smaller powers of two: (offset, lanes) of each."""
    offset = 0
    while offset < width:
        while lanes > width - offset:
            lanes //= 2
        yield offset, lanes
        offset += lanes


def transpose(rows: Sequence[Expr]) -> list[Expr]:
    """Transposes a square of ``lanes`` vectors of ``lanes`` values in registers.

    Stage b exchanges bit b of the row number with bit b of the lane number; every new vector takes half of its lanes
    from each of two old ones, which is one shuffle instruction for most b.
    """
    lanes = len(rows)
    rows = list(rows)
    step = lanes // 2
    while step:
        old, rows = rows, []
        for i in range(lanes):
            low = i & ~step
            # Lane l of the pair (low, low + step), numbered 0 .. 2 lanes - 1 over both vectors.
            if i == low:
                source = [lane if not lane & step else (lane ^ step) + lanes for lane in range(lanes)]
            else:
                source = [lane ^ step if not lane & step else lane + lanes for lane in range(lanes)]
            rows.append(T.bind(tirx.Shuffle([old[low], old[low + step]], source)))
        step //= 2
    return rows


def _mask(lanes: int, width: int) -> Expr:
    return T.ramp(0, 1, lanes) < tirx.Broadcast(tirx.IntImm("int32", width), lanes)
