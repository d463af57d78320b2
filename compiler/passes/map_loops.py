"""CPU loops for maps: nests that compute each element of their output once, from elements of their inputs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import tvm_ffi
from tvm import ir, sym, tirx

from bucketmod.compiler.kernels.emission import pieces
from bucketmod.compiler.passes.loop_nest import Access, Expr, Loop, Nest, Stmt, substitute
from bucketmod.compiler.passes.vector_loops import FEW_TASKS, TASKS, Body, LoopMaker, sequence, worth_threads

_MOST_SEGMENTS = 8


def emit_map(nest: Nest, make: LoopMaker) -> Stmt:
    """Vectors along the last axis of the output, in tiles where an input lies across it."""
    *outer, inner = nest.spatial
    if nest.accesses[-1].steps[inner.var] != 1:
        return make.plain(nest)
    parallel = worth_threads(nest)
    across = _loop_of_unit_step(outer, [a for a in nest.accesses if a.steps[inner.var] not in (0, 1)])
    if across is not None:
        return _emit_tiles(nest, make, across, parallel)
    split = parallel and math.prod(o.extent for o in outer) < FEW_TASKS and inner.extent >= TASKS * make.lanes

    def row(values: dict[Expr, Expr]) -> Stmt:
        parts = []
        for begin, end, body in _segments(nest, inner):
            walk = make.chunks if split else make.along
            parts.append(walk(begin, end, _at(substitute(body, values), inner)))
        return sequence(*parts)

    return make.nested(outer, row, parallel and not split)


def _at(statement: Stmt, of: Loop) -> Body:
    return lambda i: substitute(statement, {of.var: i})


def _loop_of_unit_step(loops: Sequence[Loop], accesses: Sequence[Access]) -> Loop | None:
    """The loop along which a strided access lies in memory, if any."""
    for candidate in loops:
        if any(access.steps[candidate.var] == 1 for access in accesses):
            return candidate
    return None


def _emit_tiles(nest: Nest, make: LoopMaker, across: Loop, parallel: bool) -> Stmt:
    """Square tiles, so that each cache line that is read across is used up before it is evicted."""
    *outer, inner = nest.spatial
    tile = make.lanes
    blocks = Loop(tirx.Var("block", make.dtype), -(-across.extent // tile))

    def strip(values: dict[Expr, Expr]) -> Stmt:
        first = values.pop(blocks.var) * tile
        count = tile if across.extent % tile == 0 else tirx.min(make.number(tile), across.extent - first)

        def tile_rows(width: int, start: Expr) -> Stmt:
            def point(u: Expr, v: Expr) -> Stmt:
                return substitute(nest.body, {**values, across.var: first + u, inner.var: start + v})

            return make.loop(count, lambda u: make.vectorized(width, lambda v: point(u, v)), name="row")

        vectors, rest = divmod(inner.extent, make.lanes)
        parts = [make.loop(vectors, lambda k: tile_rows(make.lanes, k * make.lanes), name="tile")] if vectors else []
        for start, width in pieces(rest, make.lanes):
            parts.append(tile_rows(width, make.number(vectors * make.lanes + start)))
        return sequence(parts)

    loops = [blocks if o is across else o for o in outer]
    return make.nested(loops, strip, parallel)


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
