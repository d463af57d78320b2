"""CPU loops for one nest: vectors of the target's width along memory, long loops split over threads.

Reductions are split by fixed rules of their extents only, so a result does not depend on the number of threads.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import tvm_ffi
from tvm import ir, sym, tirx

from bucketmod.compiler.passes.loop_nest import Access, Expr, Loop, Nest, Stmt, loads_of, same_element, substitute
from bucketmod.compiler.target import CpuFeatures

# Starting a parallel region costs 2.6 us; a nest estimated to take less than this alone stays on one thread.
_WORTH_THREADS_NS = 16_000
_NS_PER_ACCESS = 0.3  # float32 from or to L2, vectorised
_NS_PER_STEP_APART = 1.0  # the same through strided or indirect addresses
_NS_PER_CALL = 0.4  # polynomial exp, tanh, ...
# Tasks of a parallel loop: divisible among 2, 3, 4, 6, 8, 12, 16, 24 and 48 threads.
TASKS = 48
_FEW_TASKS = 8  # with fewer, a long loop inside is split instead
_REDUCTION_PARTS = (48, 32, 24, 16, 12, 10, 8, 6, 5, 4)
_MOST_SEGMENTS = 8
_ACCUMULATORS = 4  # independent vectors, to hide the latency of additions

Body = Callable[[Expr], Stmt]


def sequence(*parts: Stmt | Sequence[Stmt]) -> Stmt:
    """Statements, or lists of them, one after the other, in one scope."""
    flat: list[Stmt] = []

    def add(part: Stmt | Sequence[Stmt]) -> None:
        if isinstance(part, tirx.SeqStmt):
            part = list(part.seq)
        if isinstance(part, (list, tuple)):
            for inner in part:
                add(inner)
        else:
            flat.append(part)

    add(parts)
    return flat[0] if len(flat) == 1 else tirx.SeqStmt(flat)


def loop(extent: Expr, body: Body, kind: tirx.ForKind = tirx.ForKind.SERIAL, name: str = "i") -> Stmt:
    """A loop from 0; ``body`` is given the loop variable. A serial loop of one iteration is its body."""
    if kind == tirx.ForKind.SERIAL and isinstance(extent, int) and extent == 1:
        return body(tirx.IntImm("int64", 0))
    var = tirx.Var(name, "int64")
    return tirx.For(var, 0, extent, kind, body(var))


def vectorized(extent: int, body: Body) -> Stmt:
    """``extent`` neighbours at once; ``extent`` is at most the width of a register."""
    if extent == 1:
        return body(tirx.IntImm("int64", 0))
    return loop(extent, body, tirx.ForKind.VECTORIZED, "lane")


def pieces(extent: int, lanes: int) -> Iterator[tuple[int, int]]:
    """``extent`` < ``lanes`` values as (start, width) of powers of two, widest first."""
    start, width = 0, lanes
    while start < extent:
        while width > extent - start:
            width //= 2
        yield start, width
        start += width


def along(begin: int, end: int, lanes: int, body: Body) -> list[Stmt]:
    """``body`` at every index in [begin, end), as vectors and then as narrower ones for the rest."""
    vectors, rest = divmod(end - begin, lanes)
    found = []
    if vectors:
        found.append(loop(vectors, lambda k: vectorized(lanes, lambda v: body(k * lanes + v + begin)), name="vector"))
    for start, width in pieces(rest, lanes):
        first = begin + vectors * lanes + start
        found.append(vectorized(width, _shifted(body, first)))
    return found


def _shifted(body: Body, first: int) -> Body:
    return lambda v: body(v + first)


def estimate_ns(nest: Nest) -> float:
    """Rough time of the nest on one thread."""
    calls = len(find_calls(nest.body))
    inner = nest.loops[-1].var if nest.loops else None
    cost = calls * _NS_PER_CALL
    for access in nest.accesses:
        near = inner is None or access.steps[inner] in (0, 1)
        cost += _NS_PER_ACCESS if near else _NS_PER_STEP_APART
    return cost * nest.points


def find_calls(node: Any) -> list[Expr]:
    """Calls of elementary functions in ``node``."""
    found: list[Expr] = []
    tvm_ffi.structural_walk(node, (ir.Call, found.append), order="post")
    cheap = {"tirx.if_then_else", "tirx.reinterpret", "tirx.sqrt", "tirx.fabs", "tirx.likely"}
    return [call for call in found if isinstance(call.op, ir.Op) and call.op.name not in cheap]


def emit(nest: Nest, cpu: CpuFeatures) -> Stmt:
    """The loops of ``nest``; nests of no known shape get plain loops, parallel outside."""
    if nest.reduction:
        reduction = _Reduction.of(nest)
        return _emit_plain(nest) if reduction is None else _emit_reduction(reduction, cpu)
    if nest.spatial and isinstance(nest.body, tirx.BufferStore):
        return _emit_map(nest, cpu)
    return _emit_plain(nest)


def _emit_plain(nest: Nest) -> Stmt:
    def point(values: dict[Expr, Expr]) -> Stmt:
        body = substitute(nest.body, values)
        for inner in reversed(nest.reduction):
            body = tirx.For(inner.var, 0, inner.extent, tirx.ForKind.SERIAL, body)
        return body if nest.init is None else sequence(substitute(nest.init, values), body)

    return _outer_loops(nest.spatial, point, estimate_ns(nest) > _WORTH_THREADS_NS)


def _outer_loops(loops: Sequence[Loop], body: Callable[[dict[Expr, Expr]], Stmt], parallel: bool) -> Stmt:
    """``body`` inside ``loops``; the first of them that make enough tasks become one parallel loop."""
    split, tasks = 0, 1
    while parallel and split < len(loops) and tasks < TASKS:
        tasks *= loops[split].extent
        split += 1

    def serial(values: dict[Expr, Expr], rest: Sequence[Loop]) -> Stmt:
        if not rest:
            return body(values)
        return loop(rest[0].extent, lambda i: serial({**values, rest[0].var: i}, rest[1:]), name=rest[0].var.name)

    def task(index: Expr) -> Stmt:
        values: dict[Expr, Expr] = {}
        for outer in reversed(loops[1:split]):
            values[outer.var] = index % outer.extent
            index = index // outer.extent
        if split:
            values[loops[0].var] = index
        return serial(values, loops[split:])

    if tasks == 1:
        return serial({}, loops)
    return loop(tasks, task, tirx.ForKind.PARALLEL, "task")


def _emit_map(nest: Nest, cpu: CpuFeatures) -> Stmt:
    *outer, inner = nest.spatial
    if nest.accesses[-1].steps[inner.var] != 1:
        return _emit_plain(nest)
    parallel = estimate_ns(nest) > _WORTH_THREADS_NS
    across = _loop_of_unit_step(outer, [a for a in nest.accesses if a.steps[inner.var] not in (0, 1)])
    if across is not None:
        return _emit_transpose(nest, cpu, across, parallel)
    split = parallel and math.prod(o.extent for o in outer) < _FEW_TASKS and inner.extent >= TASKS * cpu.lanes

    def row(values: dict[Expr, Expr]) -> Stmt:
        parts = []
        for begin, end, body in _segments(nest, inner):
            walk = _chunks if split else along
            parts.append(walk(begin, end, cpu.lanes, _at(substitute(body, values), inner)))
        return sequence(*parts)

    return _outer_loops(outer, row, parallel and not split)


def _at(statement: Stmt, of: Loop) -> Body:
    return lambda i: substitute(statement, {of.var: i})


def _chunks(begin: int, end: int, lanes: int, body: Body) -> list[Stmt]:
    """As ``along``, with the vectors split over threads."""
    vectors = (end - begin) // lanes
    per_task = -(-vectors // TASKS)
    tasks = -(-vectors // per_task)

    def task(t: Expr) -> Stmt:
        count = per_task if vectors % per_task == 0 else tirx.min(per_task, vectors - t * per_task)
        return loop(
            count,
            lambda k: vectorized(lanes, lambda v: body((t * per_task + k) * lanes + v + begin)),
            name="vector",
        )

    rest = along(begin + vectors * lanes, end, lanes, body)
    return [loop(tasks, task, tirx.ForKind.PARALLEL, "task"), *rest]


def _loop_of_unit_step(loops: Sequence[Loop], accesses: Sequence[Access]) -> Loop | None:
    """The loop along which a strided access lies in memory, if any."""
    for candidate in loops:
        if any(access.steps[candidate.var] == 1 for access in accesses):
            return candidate
    return None


def _emit_transpose(nest: Nest, cpu: CpuFeatures, across: Loop, parallel: bool) -> Stmt:
    """Square tiles, so that each cache line that is read across is used up before it is evicted."""
    *outer, inner = nest.spatial
    tile = cpu.lanes
    blocks = Loop(tirx.Var("block", "int64"), -(-across.extent // tile))

    def strip(values: dict[Expr, Expr]) -> Stmt:
        first = values.pop(blocks.var) * tile
        count = tile if across.extent % tile == 0 else tirx.min(tile, across.extent - first)

        def tile_rows(width: int, start: Expr) -> Stmt:
            def point(u: Expr, v: Expr) -> Stmt:
                return substitute(nest.body, {**values, across.var: first + u, inner.var: start + v})

            return loop(count, lambda u: vectorized(width, lambda v: point(u, v)), name="row")

        vectors, rest = divmod(inner.extent, cpu.lanes)
        parts = [loop(vectors, lambda k: tile_rows(cpu.lanes, k * cpu.lanes), name="tile")] if vectors else []
        for start, width in pieces(rest, cpu.lanes):
            parts.append(tile_rows(width, tirx.IntImm("int64", vectors * cpu.lanes + start)))
        return sequence(parts)

    loops = [blocks if o is across else o for o in outer]
    return _outer_loops(loops, strip, parallel)


def _segments(nest: Nest, inner: Loop) -> Iterator[tuple[int, int, Stmt]]:
    """Parts of ``inner`` as (begin, end, body): cut where conditions on it change, so that none is left in a part."""
    if inner.var not in nest.free_vars:
        yield 0, inner.extent, nest.body
        return
    cuts = sorted({0, inner.extent, *_breakpoints(nest.body, inner)})
    for begin, end in zip(cuts, cuts[1:], strict=False):
        analyzer = sym.Analyzer()
        analyzer.bind(inner.var, ir.Range.from_min_extent(begin, end - begin))
        value = analyzer.simplify(nest.body.value)
        yield begin, end, tirx.BufferStore(nest.body.buffer, value, nest.body.indices)


def _breakpoints(body: Stmt, inner: Loop) -> set[int]:
    """Indices at which a comparison of ``inner`` with a constant changes; none when they would be many."""
    found: set[int] = set()

    def visit(comparison: Expr) -> None:
        if not str(comparison.a.ty.dtype).startswith("int"):
            return
        parts = sym.detect_linear_equation(comparison.a - comparison.b, [inner.var])
        if len(parts) == 2 and all(isinstance(part, tirx.IntImm) for part in parts) and abs(int(parts[0].value)) == 1:
            step, base = int(parts[0].value), int(parts[1].value)
            zero = -base * step
            after = isinstance(comparison, (tirx.LE, tirx.GT)) == (step == 1)
            both = isinstance(comparison, (tirx.EQ, tirx.NE))
            found.update({zero, zero + 1} if both else {zero + 1 if after else zero})

    kinds = (tirx.LT, tirx.LE, tirx.GT, tirx.GE, tirx.EQ, tirx.NE)
    tvm_ffi.structural_walk(body, (kinds, visit), order="post")
    inside = {cut for cut in found if 0 < cut < inner.extent}
    return inside if len(inside) <= _MOST_SEGMENTS else set()


@dataclass(frozen=True)
class _Reduction:
    """``out[spatial] = combine(out[spatial], term)`` over the reduction loops, from the neutral value ``start``."""

    nest: Nest
    combine: Callable[[Expr, Expr], Expr]
    start: Expr
    term: Expr

    @staticmethod
    def of(nest: Nest) -> _Reduction | None:
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
                return _Reduction(nest, combine, init.value, term)
        return None

    @property
    def store(self) -> Stmt:
        return self.nest.body

    def steps(self, var: Expr) -> list[int | None]:
        """How far ``var`` moves each load of the term."""
        return [a.steps[var] for a in self.nest.accesses if not a.buffer.same_as(self.store.buffer)]


def _emit_reduction(reduction: _Reduction, cpu: CpuFeatures) -> Stmt:
    nest = reduction.nest
    if nest.points == 0:
        return _emit_plain(nest)
    column = _column_loop(reduction, cpu.lanes)
    row = None if column else _row_loop(reduction)
    parallel = estimate_ns(nest) > _WORTH_THREADS_NS
    tasks = math.prod(s.extent for s in nest.spatial)
    if column:
        tasks = -(-tasks // (cpu.lanes * _columns_at_once(cpu)))
    if parallel and tasks < _FEW_TASKS and (column or row):
        split = _split_in_parts(reduction)
        if split is not None:
            buffer, partial, final = split
            return sequence(tirx.AllocBuffer(buffer), _emit_reduction(partial, cpu), _emit_reduction(final, cpu))
    if column:
        return _emit_columns(reduction, column, cpu, parallel)
    if row:
        return _emit_rows(reduction, row, cpu, parallel)
    return _emit_plain(nest)


def _column_loop(reduction: _Reduction, lanes: int) -> Loop | None:
    """The spatial loop along which output and inputs lie in memory."""
    if not reduction.nest.spatial:
        return None
    last = reduction.nest.spatial[-1]
    near = all(step in (0, 1) for step in reduction.steps(last.var))
    stored = reduction.nest.accesses[-1].steps[last.var] == 1
    wide = last.extent >= lanes or _row_loop(reduction) is None
    return last if near and stored and wide and last.var not in reduction.nest.free_vars else None


def _row_loop(reduction: _Reduction) -> Loop | None:
    """The reduction loop along which the inputs lie in memory."""
    for candidate in reversed(reduction.nest.reduction):
        if all(step in (0, 1) for step in reduction.steps(candidate.var)):
            return candidate
    return None


def _columns_at_once(cpu: CpuFeatures) -> int:
    """Vectors of columns that are summed together: long enough reads, while most registers stay free."""
    return cpu.registers // 4


def _split_in_parts(reduction: _Reduction) -> tuple[Expr, _Reduction, _Reduction] | None:
    """Partial results over parts of the outermost reduction loop, and their reduction."""
    nest = reduction.nest
    first = nest.reduction[0]
    parts = next((p for p in _REDUCTION_PARTS if first.extent % p == 0 and first.extent >= 2 * p), None)
    if parts is None:
        return None
    part = Loop(tirx.Var("part", "int64"), parts)
    within = Loop(tirx.Var(first.var.name, "int64"), first.extent // parts)
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


def _emit_columns(reduction: _Reduction, column: Loop, cpu: CpuFeatures, parallel: bool) -> Stmt:
    """Blocks of columns in registers while the reduction loops run."""
    lanes, at_once = cpu.lanes, _columns_at_once(cpu)
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
                vectorized(width, functools.partial(body, start, total))
                for (start, width), total in zip(parts, totals, strict=True)
            ]

        loops = _serial(reduction.nest.reduction, sequence(each(add)))
        return sequence([_fresh(reduction, t) for t in totals], loops, each(store))

    whole = [(k * lanes, lanes) for k in range(at_once)]
    tail = [(k * lanes, lanes) for k in range(rest // lanes)]
    tail += [(rest // lanes * lanes + start, w) for start, w in pieces(rest % lanes, lanes)]
    outer = reduction.nest.spatial[:-1]
    parts = []
    if blocks:
        index = Loop(tirx.Var("block", "int64"), blocks)
        parts.append(
            _outer_loops((*outer, index), lambda values: block(values, values[index.var] * width, whole), parallel)
        )
    if tail:
        first = tirx.IntImm("int64", blocks * width)
        parts.append(_outer_loops(outer, lambda values: block(values, first, tail), parallel and not blocks))
    return sequence(parts)


def _emit_rows(reduction: _Reduction, row: Loop, cpu: CpuFeatures, parallel: bool) -> Stmt:
    """Several vectors of partial results along ``row``, combined pairwise at the end."""
    lanes = cpu.lanes
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

            return vectorized(width, lane)

        steps = vectors // count
        main = loop(steps, lambda k: sequence([add(t, lanes, (k * count + n) * lanes) for n, t in enumerate(totals)]))
        more = [add(totals[k], lanes, (steps * count + k) * lanes) for k in range(vectors % count)]
        tail = [add(totals[0], w, vectors * lanes + start) for start, w in pieces(rest, lanes)]
        total, halving = _combine_all(reduction, totals, lanes)
        out = reduction.store
        store = tirx.BufferStore(out.buffer, total, [substitute(i, values) for i in out.indices])
        sums = _serial(others, sequence(main, more, tail))
        return sequence([_fresh(reduction, t) for t in totals], sums, halving, store)

    return _outer_loops(reduction.nest.spatial, point, parallel)


def _combine_all(reduction: _Reduction, totals: Sequence[Expr], lanes: int) -> tuple[Expr, list[Stmt]]:
    """The single value left of vectors of partial results, and the statements that make it."""
    statements = []
    remaining = list(totals)
    while len(remaining) > 1:
        other = remaining.pop()
        into = remaining[len(remaining) // 2] if len(remaining) > 1 else remaining[0]
        statements.append(_combine_into(reduction, into, other, lanes))
    total, width = remaining[0], lanes
    while width > 1:
        width //= 2
        statements.append(_combine_into(reduction, total, total, width, width))
    return total[0], statements


def _combine_into(reduction: _Reduction, into: Expr, other: Expr, lanes: int, start: int = 0) -> Stmt:
    return vectorized(lanes, lambda v: tirx.BufferStore(into, reduction.combine(into[v], other[v + start]), [v]))


def _local(reduction: _Reduction, lanes: int) -> Expr:
    return tirx.decl_buffer((lanes,), reduction.store.buffer.ty.dtype, "total", scope="local")


def _fresh(reduction: _Reduction, buffer: Expr) -> Stmt:
    """Allocates ``buffer`` and fills it with the neutral value."""
    fill = vectorized(int(buffer.ty.shape[0]), lambda v: tirx.BufferStore(buffer, reduction.start, [v]))
    return tirx.SeqStmt([tirx.AllocBuffer(buffer), fill])


def _serial(loops: Sequence[Loop], body: Stmt) -> Stmt:
    for inner in reversed(loops):
        body = tirx.For(inner.var, 0, inner.extent, tirx.ForKind.SERIAL, body)
    return body
