"""Walks over contiguous memory by vectors, and the choice of one thread or all: shared by the row and flat kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from bucketmod.compiler.kernels import emission as emit
from bucketmod.compiler.kernels import math as vector

Expr = Any

# Starting a parallel region costs 2.6 us: below this estimated time on one thread it does not pay.
WORTH_THREADS_NS = 16_000
NS_PER_FLOAT = 0.12  # one float32 read or written, in L2 or beyond
NS_PER_EXP = 0.15  # one vectorised elementary function


def tasks(extent: int, nanoseconds: float) -> Any:
    """A loop from 0 to ``extent``, over all threads where ``nanoseconds``, the time on one thread, are worth it."""
    parallel = extent > 1 and nanoseconds > WORTH_THREADS_NS
    return T.parallel(extent) if parallel else T.serial(extent)


def walk(extent: int, lanes: int, body: Callable[[int, Expr, int], None], unroll: int = 4) -> None:
    """Emits ``body(slot, first, width)`` for all of ``extent`` values: ``width`` of them from index ``first`` on.

    ``width`` is ``lanes`` except for the rest at the end. ``slot`` counts from 0 to ``unroll`` - 1, round and round:
    accumulators are picked by it, so that an addition need not wait for the one before.
    """
    vectors, rest = divmod(extent, lanes)
    groups = vectors // unroll
    if groups > 1:
        with T.serial(groups) as group:
            for slot in range(unroll):
                body(slot, (group * unroll + slot) * lanes, lanes)
    for index in range(groups * unroll if groups > 1 else 0, vectors):
        body(index % unroll, index * lanes, lanes)
    if rest:
        body(vectors % unroll, vectors * lanes, rest)


def hold(value: Expr) -> emit.Register:
    """``value`` computed now, in a register of its own.

    ``T.bind`` will not do for a result of the elementary functions: TVM analyses what is bound, and stumbles over the
    variables inside of it.
    """
    register = emit.Register(vector.lanes_of(value))
    register.value = value
    return register


def keep(value: Expr, other: float, lanes: int, width: int) -> Expr:
    """``value`` with the lanes from ``width`` on replaced by ``other``."""
    if width == lanes:
        return value
    mask = T.ramp(0, 1, lanes) < tirx.Broadcast(tirx.IntImm("int32", width), lanes)
    return tirx.Select(mask, value, emit.splat(other, lanes))


def accumulators(extent: int, lanes: int, start: float, unroll: int = 4) -> list[emit.Register]:
    """Registers filled with ``start``: as many as ``walk`` uses slots for ``extent`` values."""
    registers = [emit.Register(lanes) for _ in range(max(1, min(unroll, -(-extent // lanes))))]
    for register in registers:
        register.value = emit.splat(start, lanes)
    return registers


def combine(registers: list[emit.Register], operation: Callable[[Expr, Expr], Expr]) -> Expr:
    """All lanes of all ``registers`` combined to one scalar, pairwise and in a fixed order."""
    values = [register.value for register in registers]
    while len(values) > 1:
        pairs = [T.bind(operation(a, b)) for a, b in zip(values[::2], values[1::2], strict=False)]
        values = pairs + values[len(values) // 2 * 2 :]
    lanes = registers[0].lanes
    memory = T.alloc_buffer((lanes,), "float32", layout=None)
    emit.store(memory, values[0], 0, lanes=lanes)
    while lanes > 1:
        lanes //= 2
        half = operation(_piece(memory, 0, lanes), _piece(memory, lanes, lanes))
        memory = T.alloc_buffer((lanes,), "float32", layout=None)
        T.buffer_store(memory, half, [0 if lanes == 1 else T.ramp(0, 1, lanes)])
    return T.bind(memory[0])


def _piece(memory: Expr, first: int, lanes: int) -> Expr:
    return memory[first] if lanes == 1 else memory[T.ramp(first, 1, lanes)]
