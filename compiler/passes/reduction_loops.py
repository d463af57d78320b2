"""CPU loops for reductions: along rows with vectors of partial results, along columns with one result a lane."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from tvm import tirx

from bucketmod.compiler.kernels.emission import pieces
from bucketmod.compiler.passes.loop_nest import Expr, Loop, Nest, Stmt, loads_of, same_element, substitute
from bucketmod.compiler.passes.vector_loops import (
    FEW_TASKS,
    LoopMaker,
    sequence,
    serial_loops,
    worth_threads,
)
from bucketmod.compiler.target import CpuFeatures

_PARTS = (48, 32, 24, 16, 12, 10, 8, 6, 5, 4)  # of a long reduction of few results
_ACCUMULATORS = 4  # independent vectors, to hide the latency of additions


@dataclass(frozen=True)
class Reduction:
    """``out[spatial] = combine(out[spatial], term)`` over the reduction loops, from the neutral value ``start``."""

    nest: Nest
    combine: Callable[[Expr, Expr], Expr]
    start: Expr
    term: Expr

    @staticmethod
    def of(nest: Nest) -> Reduction | None:
        """None when the nest is another kind of reduction."""
        body, init = nest.body, nest.init
        if not isinstance(body, tirx.BufferStore) or not isinstance(init, tirx.BufferStore):
            return None
        kinds = {tirx.Add: operator.add, tirx.Mul: operator.mul, tirx.Max: tirx.max, tirx.Min: tirx.min}
        combine = kinds.get(type(body.value))
        if combine is None or not isinstance(init.value, (tirx.FloatImm, tirx.IntImm)):
            return None
        neutral = {operator.add: 0, operator.mul: 1}.get(combine)
        if neutral is not None and init.value.value != neutral:
            return None
        for total, term in ((body.value.a, body.value.b), (body.value.b, body.value.a)):
            if same_element(total, body) and not any(load.source.same_as(body.buffer) for load in loads_of(term)):
                return Reduction(nest, combine, init.value, term)
        return None

    @property
    def store(self) -> Stmt:
        return self.nest.body

    def steps(self, var: Expr) -> list[int | None]:
        """How far ``var`` moves each load of the term."""
        return [a.steps[var] for a in self.nest.accesses if not a.buffer.same_as(self.store.buffer)]


def emit_reduction(reduction: Reduction, make: LoopMaker) -> Stmt:
    """The loops of ``reduction``; one with few results runs over fixed parts first, whose results are reduced again."""
    nest = reduction.nest
    if nest.points == 0:
        return make.plain(nest)
    column = _column_loop(reduction, make.lanes)
    row = None if column else _row_loop(reduction)
    parallel = worth_threads(nest)
    tasks = math.prod(s.extent for s in nest.spatial)
    if column:
        tasks = -(-tasks // (make.lanes * _columns_at_once(make.cpu)))
    if parallel and tasks < FEW_TASKS and (column or row):
        split = _split_in_parts(reduction, make)
        if split is not None:
            buffer, partial, final = split
            return sequence(tirx.AllocBuffer(buffer), emit_reduction(partial, make), emit_reduction(final, make))
    if column:
        return _emit_columns(reduction, column, make, parallel)
    if row:
        return _emit_rows(reduction, row, make, parallel)
    return make.plain(nest)


def _column_loop(reduction: Reduction, lanes: int) -> Loop | None:
    """The spatial loop along which output and inputs lie in memory."""
    if not reduction.nest.spatial:
        return None
    last = reduction.nest.spatial[-1]
    near = all(step in (0, 1) for step in reduction.steps(last.var))
    stored = reduction.nest.accesses[-1].steps[last.var] == 1
    wide = last.extent >= lanes or _row_loop(reduction) is None
    return last if near and stored and wide and last.var not in reduction.nest.free_vars else None


def _row_loop(reduction: Reduction) -> Loop | None:
    """The reduction loop along which the inputs lie in memory."""
    for candidate in reversed(reduction.nest.reduction):
        if all(step in (0, 1) for step in reduction.steps(candidate.var)):
            return candidate
    return None


def _columns_at_once(cpu: CpuFeatures) -> int:
    """Vectors of columns that are summed together: long enough reads, while most registers stay free."""
    return cpu.registers // 4


def _split_in_parts(reduction: Reduction, make: LoopMaker) -> tuple[Expr, Reduction, Reduction] | None:
    """Partial results over parts of the outermost reduction loop, and their reduction."""
    nest = reduction.nest
    first = nest.reduction[0]
    parts = next((p for p in _PARTS if first.extent % p == 0 and first.extent >= 2 * p), None)
    if parts is None:
        return None
    part = Loop(tirx.Var("part", make.dtype), parts)
    within = Loop(tirx.Var(first.var.name, make.dtype), first.extent // parts)
    shape = [parts, *(s.extent for s in nest.spatial)]
    buffer = tirx.decl_buffer(shape, reduction.store.buffer.ty.dtype, "partial")
    indices = [part.var, *(s.var for s in nest.spatial)]
    term = substitute(reduction.term, {first.var: part.var * within.extent + within.var})

    def nest_of(spatial: Sequence[Loop], over: Sequence[Loop], out: Expr, at: Sequence[Expr], value: Expr) -> Nest:
        body = tirx.BufferStore(out, reduction.combine(out[tuple(at)], value), at)
        return Nest(tuple(spatial), tuple(over), body, tirx.BufferStore(out, reduction.start, at))

    partial = nest_of((part, *nest.spatial), (within, *nest.reduction[1:]), buffer, indices, term)
    out = reduction.store
    final = nest_of(nest.spatial, (part,), out.buffer, list(out.indices), buffer[tuple(indices)])
    return (
        buffer,
        replace(reduction, nest=partial, term=term),
        replace(reduction, nest=final, term=buffer[tuple(indices)]),
    )


def _emit_columns(reduction: Reduction, column: Loop, make: LoopMaker, parallel: bool) -> Stmt:
    """Blocks of columns in registers while the reduction loops run."""
    lanes, at_once = make.lanes, _columns_at_once(make.cpu)
    width = lanes * at_once
    blocks, rest = divmod(column.extent, width)

    def block(values: dict[Expr, Expr], first: Expr, parts: Sequence[tuple[int, int]]) -> Stmt:
        totals = [_local(reduction, w) for _, w in parts]

        def at(start: int, v: Expr) -> dict[Expr, Expr]:
            return {**values, column.var: first + start + v}

        def add(start: int, total: Expr, v: Expr) -> Stmt:
            return tirx.BufferStore(total, reduction.combine(total[v], substitute(reduction.term, at(start, v))), [v])

        def store(start: int, total: Expr, v: Expr) -> Stmt:
            out = reduction.store
            return tirx.BufferStore(out.buffer, total[v], [substitute(i, at(start, v)) for i in out.indices])

        def each(body: Callable[[int, Expr, Expr], Stmt]) -> list[Stmt]:
            return [
                make.vectorized(width, functools.partial(body, start, total))
                for (start, width), total in zip(parts, totals, strict=True)
            ]

        loops = serial_loops(reduction.nest.reduction, sequence(each(add)))
        return sequence([_fresh(reduction, t, make) for t in totals], loops, each(store))

    whole = [(k * lanes, lanes) for k in range(at_once)]
    tail = [(k * lanes, lanes) for k in range(rest // lanes)]
    tail += [(rest // lanes * lanes + start, w) for start, w in pieces(rest % lanes, lanes)]
    outer = reduction.nest.spatial[:-1]
    parts = []
    if blocks:
        index = Loop(tirx.Var("block", make.dtype), blocks)
        parts.append(
            make.nested((*outer, index), lambda values: block(values, values[index.var] * width, whole), parallel)
        )
    if tail:
        first = make.number(blocks * width)
        parts.append(make.nested(outer, lambda values: block(values, first, tail), parallel and not blocks))
    return sequence(parts)


def _emit_rows(reduction: Reduction, row: Loop, make: LoopMaker, parallel: bool) -> Stmt:
    """Several vectors of partial results along ``row``, combined pairwise at the end."""
    lanes = make.lanes
    while lanes > row.extent:
        lanes //= 2
    vectors, rest = divmod(row.extent, lanes)
    count = min(_ACCUMULATORS, vectors)
    others = [o for o in reduction.nest.reduction if o is not row]

    def point(values: dict[Expr, Expr]) -> Stmt:
        totals = [_local(reduction, lanes) for _ in range(count)]

        def add(total: Expr, width: int, first: Expr) -> Stmt:
            def lane(v: Expr) -> Stmt:
                term = substitute(reduction.term, {**values, row.var: first + v})
                return tirx.BufferStore(total, reduction.combine(total[v], term), [v])

            return make.vectorized(width, lane)

        steps = vectors // count
        main = make.loop(
            steps, lambda k: sequence([add(t, lanes, (k * count + n) * lanes) for n, t in enumerate(totals)])
        )
        more = [add(totals[k], lanes, (steps * count + k) * lanes) for k in range(vectors % count)]
        tail = [add(totals[0], w, vectors * lanes + start) for start, w in pieces(rest, lanes)]
        total, halving = _combine_all(reduction, totals, make)
        out = reduction.store
        store = tirx.BufferStore(out.buffer, total, [substitute(i, values) for i in out.indices])
        sums = serial_loops(others, sequence(main, more, tail))
        return sequence([_fresh(reduction, t, make) for t in totals], sums, halving, store)

    return make.nested(reduction.nest.spatial, point, parallel)


def _combine_all(reduction: Reduction, totals: Sequence[Expr], make: LoopMaker) -> tuple[Expr, list[Stmt]]:
    """The single value left of vectors of partial results, and the statements that make it."""
    statements: list[Stmt] = []

    def combine(into: Expr, a: Expr, b: Expr, start: int = 0) -> None:
        def lane(v: Expr) -> Stmt:
            return tirx.BufferStore(into, reduction.combine(a[v], b[v + start]), [v])

        statements.append(make.vectorized(int(into.ty.shape[0]), lane))

    remaining = list(totals)
    while len(remaining) > 1:
        other = remaining.pop()
        into = remaining[len(remaining) // 2 - 1]
        combine(into, into, other)
    total = remaining[0]
    while int(total.ty.shape[0]) > 1:
        # A buffer for each width: LLVM keeps those in registers that are always accessed whole or by halves.
        half = _local(reduction, int(total.ty.shape[0]) // 2)
        statements.append(tirx.AllocBuffer(half))
        combine(half, total, total, int(half.ty.shape[0]))
        total = half
    return total[make.number(0)], statements


def _local(reduction: Reduction, lanes: int) -> Expr:
    return tirx.decl_buffer((lanes,), reduction.store.buffer.ty.dtype, "total")


def _fresh(reduction: Reduction, buffer: Expr, make: LoopMaker) -> Stmt:
    """Allocates ``buffer`` and fills it with the neutral value."""
    fill = make.vectorized(int(buffer.ty.shape[0]), lambda v: tirx.BufferStore(buffer, reduction.start, [v]))
    return tirx.SeqStmt([tirx.AllocBuffer(buffer), fill])
