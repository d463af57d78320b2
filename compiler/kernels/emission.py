"""A thin layer over TVM's IR builder, shared by the tuned kernels: functions, register values, vectors, transposes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from bucketmod.compiler.kernels.kernel import TUNED, WRITTEN, TensorShape

Expr = Any  # a tirx expression or a Python int; TVM carries no type annotations
LINE = 16  # float32 values in a cache line
Buffer = Any


def build_function(name: str, arguments: Sequence[tuple[str, TensorShape]], body: Callable[..., None]) -> Any:
    """The tuned PrimFunc whose statements ``body(*buffers)`` emits."""
    with IRBuilder() as ib, T.prim_func(s_tir=True):
        T.func_name(name)
        T.func_attr({"tirx.noalias": True, TUNED: True, WRITTEN: True})
        buffers = [T.arg(label, T.buffer(shape, dtype, layout=None)) for label, (shape, dtype) in arguments]
        body(*buffers)
    return ib.get()


def build_named(name: str, arguments: dict[str, TensorShape], body: Callable[[dict[str, Buffer]], None]) -> Any:
    """The same for a ``body`` that takes its buffers by name."""
    names = list(arguments)
    return build_function(name, list(arguments.items()), lambda *b: body(dict(zip(names, b, strict=True))))


class Register:
    """A float32 vector that can be assigned: LLVM keeps buffers of one vector in registers."""

    def __init__(self, lanes: int):
        self.lanes = lanes
        self.buffer = T.alloc_buffer((lanes,), "float32", layout=None)

    @property
    def value(self) -> Expr:
        return self.buffer[_first(self.lanes)]

    @value.setter
    def value(self, value: Expr) -> None:
        T.buffer_store(self.buffer, value, [_first(self.lanes)])


def bind(value: Expr, body: Callable[[Expr], Expr]) -> Expr:
    """``body(v)`` where ``v`` is ``value`` in a register, as the functions of ``math.py`` want it.

    A variable would do as well, but TVM's simplifier puts what it knows of each one back in place of it: its time grows
    exponentially with the depth of an expression.
    """
    return body(let(value))


def let(value: Expr) -> Expr:
    """``value``, computed here and kept in a register."""
    lanes = value.ty.dtype.lanes
    dtype = str(value.ty.dtype).split("x")[0]
    buffer = T.alloc_buffer((lanes,), dtype, layout=None)
    T.buffer_store(buffer, value, [_first(lanes)])
    return buffer[_first(lanes)]


def scratch(size: int) -> Buffer:
    """Memory of the running thread (float32), for packed operands; large ones come from TVM's workspace pool."""
    return T.alloc_buffer((size,), "float32", layout=None)


def load(buffer: Buffer, *indices: Expr, lanes: int, width: Expr | None = None) -> Expr:
    """``lanes`` values from ``indices`` on along the last axis.

    Only ``width`` values are read where it is smaller (it may be known at run time only), the other lanes are 0.
    """
    *lead, first = indices
    if lanes == 1:  # a vector has at least two lanes
        return element(buffer, *indices)
    if width is None or (isinstance(width, int) and width >= lanes):
        return element(buffer, *lead, T.ramp(first, 1, lanes))
    mask = _mask(lanes, width)
    value = T.masked_load(f"float32x{lanes}", buffer, *lead, T.ramp(first, 1, lanes), mask)
    return tirx.Select(mask, value, splat(0.0, lanes))  # what the load leaves in the other lanes is undefined


def store(buffer: Buffer, value: Expr, *indices: Expr, lanes: int, width: Expr | None = None) -> None:
    """Writes the first ``width`` (all, by default) of ``lanes`` values from ``indices`` on along the last axis."""
    *lead, first = indices
    if lanes == 1:
        T.buffer_store(buffer, value, list(indices))
    elif width is None or (isinstance(width, int) and width >= lanes):
        T.buffer_store(buffer, value, [*lead, T.ramp(first, 1, lanes)])
    else:
        T.evaluate(T.masked_store(buffer, value, *lead, T.ramp(first, 1, lanes), _mask(lanes, width)))


def prefetch(buffer: Buffer, *indices: Expr, first: bool = False) -> None:
    """Starts to bring the value's cache line into the second cache, or into the ``first``. The place may lie beyond the
    buffer's end."""
    address = T.address_of(element(buffer, *indices))
    read, locality, data = (_integer(value) for value in (0, 3 if first else 2, 1))  # locality: from 0 to 3
    T.evaluate(T.call_llvm_intrin("void", "llvm.prefetch", address, read, locality, data))


def element(buffer: Buffer, *indices: Expr) -> Expr:
    """One value of ``buffer``."""
    return buffer[indices if len(indices) > 1 else indices[0]]


def splat(value: Expr, lanes: int) -> Expr:
    """``value`` in every lane."""
    scalar = tirx.FloatImm("float32", value) if isinstance(value, (int, float)) else value
    return tirx.Broadcast(scalar, lanes) if lanes > 1 else scalar


def pieces(width: int, lanes: int) -> Iterator[tuple[int, int]]:
    """``width`` consecutive values as vectors of ``lanes``, then of smaller powers of two: (offset, lanes) of each."""
    offset = 0
    while offset < width:
        while lanes > width - offset:
            lanes //= 2
        yield offset, lanes
        offset += lanes


def multiply(
    sums: dict[tuple[int, int], Register],
    depth: Expr,
    factor: Callable[[int, Expr], Expr],
    vector: Callable[[int, Expr], Expr],
    beside: Callable[[Expr], None] | None = None,
) -> None:
    """Adds ``factor(row, k)`` times ``vector(column, k)`` to ``sums[row, column]`` for all k below ``depth``.

    What belongs to the shorter side of the tile waits in registers, one value of the longer side is loaded at a time.
    ``beside(k)`` emits what is done for each k besides, for instance fetching ahead.
    """
    rows, columns = ({at[side] for at in sums} for side in (0, 1))
    lanes = sums[0, 0].lanes
    with T.serial(depth) as k:
        if beside is not None:
            beside(k)
        if len(rows) >= len(columns):
            vectors = {column: let(vector(column, k)) for column in columns}
            for row in rows:
                value = let(splat(factor(row, k), lanes))
                for column in columns:
                    sums[row, column].value = sums[row, column].value + value * vectors[column]
        else:
            values = {row: let(splat(factor(row, k), lanes)) for row in rows}
            for column in columns:
                loaded = let(vector(column, k))
                for row in rows:
                    sums[row, column].value = sums[row, column].value + values[row] * loaded


def when(conditions: list[Expr], body: Callable[[], None]) -> None:
    """Emits ``body`` under all ``conditions``."""
    if not conditions:
        body()
        return
    with T.If(conditions[0]), T.Then():
        when(conditions[1:], body)


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
            rows.append(let(tirx.Shuffle([old[low], old[low + step]], source)))
        step //= 2
    return rows


def copy_transposed(
    source: Callable[[int, Expr, int], Expr],
    target: Callable[[Expr, Expr], None],
    depth: Expr,
    width: int,
    lanes: int,
) -> None:
    """Copies ``width`` rows of ``depth`` values into columns: ``depth`` vectors, with zeros in lanes beyond ``width``.

    ``source(row, k, count)`` loads values k, k + 1, ... of a row, ``count`` of them into ``lanes`` lanes;
    ``target(k, vector)`` stores. A ``depth`` that is no constant must be ``lanes`` or more.
    """
    count = min(depth, lanes) if isinstance(depth, int) else lanes
    with T.serial((depth + lanes - 1) // lanes) as square:
        # The last square overlaps the one before it: what is copied twice is the same.
        first = T.bind(T.min(square * lanes, depth - count))
        zeros = splat(0.0, lanes)
        rows = [let(source(row, first, count) if row < width else zeros) for row in range(lanes)]
        for i, vector in enumerate(transpose(rows)[:count]):
            target(first + i, vector)


@functools.cache
def _first(lanes: int) -> Expr:
    """The index of values 0 .. lanes - 1; a ramp has at least two."""
    return T.ramp(0, 1, lanes) if lanes > 1 else 0


@functools.cache
def _integer(value: int) -> Expr:
    return T.int32(value)


def _mask(lanes: int, width: Expr) -> Expr:
    return T.ramp(0, 1, lanes) < tirx.Broadcast(T.int32(width) if isinstance(width, int) else width, lanes)
