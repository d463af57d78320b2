"""Attention of all heads in one kernel: scores, mask, softmax and the weighted sum of the values.

A task has one head of one sequence. It takes the queries in blocks, one in each lane of a few vectors: scores are
computed transposed, [key, query], so that the softmax over the keys is arithmetic between whole vectors, and they lie
as the second product wants them. A block has the scores of all its queries to all keys; these never leave the cache.
For the gradient only the logarithm of the sum of a row's exponentials is kept: with it the probabilities come out of
one exponential (T. Dao, FlashAttention-2, 2023).
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from tvm import te, tirx
from tvm.tirx.script import builder as T

from bucketmod.compiler.kernels import emission as emit
from bucketmod.compiler.kernels import math as vector
from bucketmod.compiler.kernels import streams
from bucketmod.compiler.kernels.attention.heads import UNIT, Heads, Place, coordinates, pairwise
from bucketmod.compiler.kernels.attention.tile_forward import ForwardTiles, worth_tiles
from bucketmod.compiler.kernels.kernel import Kernel, TensorShape
from bucketmod.compiler.kernels.products.plan import most_rows

if TYPE_CHECKING:
    from bucketmod.compiler.target import CpuFeatures

Expr = Any

@dataclass(frozen=True)
class Attention(Kernel):
    """(q, k, v(, mask)) -> out(, statistics[batch, heads, queries]): softmax(scale q k' + mask) v for every head.

    Operands are flat; ``heads`` says where their rows lie. ``training`` adds the statistics: for each query the
    logarithm to base 2 of the sum of the exponentials of its scores.
    """

    heads: Heads
    training: bool = False

    @property
    def name(self) -> str:
        return "attention" + "_masked" * (self.heads.mask is not None)

    @property
    def outputs(self) -> list[TensorShape]:
        return [self.heads.out.shape] + [self.heads.statistics] * self.training

    @property
    def flops(self) -> int:
        return self.heads.product_flops(self.heads.size, self.heads.value_size)

    def portable(self) -> Any:
        p = self.heads
        buffers = [te.placeholder(shape, dtype, name) for name, (shape, dtype) in p.inputs]
        scores = p.portable_scores(buffers[0], buffers[1], buffers[3] if p.mask else None)
        t1, t2, t3 = (te.reduce_axis((0, p.keys), f"t{i}") for i in range(3))
        rows = (p.batch, p.heads, p.queries)
        top = te.compute(rows, lambda *r: te.max(scores(*r, t1), axis=t1), name="top")
        power = te.compute(scores.shape, lambda b, h, s, t: te.exp(scores[b, h, s, t] - top[b, h, s]), name="power")
        total = te.compute(rows, lambda *r: te.sum(power(*r, t2), axis=t2), name="total")
        sums = te.compute(
            (*rows, p.value_size),
            lambda b, h, s, j: te.sum(power[b, h, s, t3] * buffers[2][p.v.at(b, h, t3, j)], axis=t3),
            name="sums",
        )
        results = [self._portable_out(sums, total)]
        if self.training:
            unit = tirx.FloatImm("float32", UNIT)
            results.append(te.compute(rows, lambda *r: (top(*r) + te.log(total(*r))) / unit, name="statistics"))
        return te.create_prim_func([*buffers, *results])

    def _portable_out(self, sums: Any, total: Any) -> Any:
        def value(index: Expr) -> Expr:
            p = self.heads
            b, h, t, j = coordinates(p.out, index, (p.batch, p.heads, p.queries, p.value_size))
            return sums[b, h, t, j] / total[b, h, t]

        return te.compute((self.heads.out.size,), value, name="out")

    def tuned(self, cpu: CpuFeatures) -> Any:
        arguments = dict(self.heads.inputs)
        arguments.update(zip(["out", "statistics"], self.outputs, strict=False))

        def body(buffers: dict[str, Any]) -> None:
            tiled = cpu.tiles and worth_tiles(self.heads)
            (ForwardTiles(self.heads, buffers) if tiled else _Forward(self.heads, cpu, buffers)).run()

        return emit.build_named(self.name, arguments, body)


class Blocks:
    """What both directions share: the cut into blocks of queries and tiles, packing, products in registers."""

    def __init__(self, heads: Heads, cpu: CpuFeatures, buffers: dict[str, Any]):
        self.p, self.cpu, self.lanes, self.buffers = heads, cpu, cpu.lanes, buffers
        self.vectors = self._query_vectors()
        self.width = self.vectors * self.lanes  # queries in a block
        self.size, self.value_size = (-(-n // self.lanes) * self.lanes for n in (heads.size, heads.value_size))
        self.b: Expr = 0
        self.h: Expr = 0

    def _query_vectors(self) -> int:
        """Vectors of a block of queries: few empty lanes, and a tile whose height the registers allow."""
        vectors = -(-self.p.queries // self.lanes)
        most = 4 if self.cpu.registers > 16 else 2

        def cost(count: int) -> float:
            rows = self.tile_rows(self.p.keys, count)
            return -(-vectors // count) * count * max(1.0, 1.1 * (rows + count) / (rows * count))

        return min(range(1, min(most, vectors) + 1), key=lambda count: (cost(count), abs(count - 2)))

    def tile_rows(self, total: int, vectors: int) -> int:
        """The height of tiles that cut ``total`` rows evenly."""
        most = min(most_rows(vectors, self.cpu.registers), self.cpu.registers // 2)
        return -(-total // -(-total // most))

    def tasks(self, parts: int, cost: float) -> Any:
        return streams.tasks(self.p.batch * self.p.heads * parts, cost)

    def enter(self, task: Expr) -> None:
        """Binds the sequence and the head that a task is for."""
        self.b, self.h = T.bind(task // self.p.heads), T.bind(task % self.p.heads)

    def row(self, place: Place, t: Expr) -> Expr:
        """Index of the first value of row ``t`` of the task's head."""
        return place.at(self.b, self.h, t, 0)

    def pieces(self, size: int) -> Iterator[tuple[int, int]]:
        """(first, width) of the vectors of a row of ``size`` values."""
        return ((first, min(self.lanes, size - first)) for first in range(0, size, self.lanes))

    def pack_rows(self, name: str, place: Place, first: Expr, rows: Expr, size: int) -> Expr:
        """A copy of rows, each filled up with zeros to whole vectors: rows of all heads may lie a power of two apart,
        which few places of the first cache would have to serve."""
        packed, stride = self.packed(name), -(-size // self.lanes) * self.lanes
        with T.serial(rows) as t:
            source = T.bind(self.row(place, first + t))
            for at, width in self.pieces(size):
                value = emit.load(self.buffers[name], source + at, lanes=self.lanes, width=width)
                emit.store(packed, value, t * stride + at, lanes=self.lanes)
        return packed

    def packed(self, name: str) -> Expr:
        raise NotImplementedError

    def transpose_rows(self, source: Callable[[Expr, Expr, int], Expr], target: Expr, size: int, scale: float) -> None:
        """target[value, query] = scale * row of a block of queries, for all its lanes.

        ``source(query of the block, first value, count)`` loads.
        """
        with T.serial(self.vectors) as v:  # a loop at run time, for the code of a transpose is long

            def row(i: int, j: Expr, count: int) -> Expr:
                return source(v * self.lanes + i, j, count) * emit.splat(scale, self.lanes)

            def column(j: Expr, value: Expr) -> None:
                emit.store(target, value, j * self.width + v * self.lanes, lanes=self.lanes)

            emit.copy_transposed(row, column, size, self.lanes, self.lanes)

    def each_tile(self, total: int, rows: int, body: Callable[[Expr, int], None], overlap: bool = True) -> None:
        """``body(first row, rows)`` for tiles that cover ``total`` rows: the last may overlap the one before, where it
        does no harm to compute rows twice; else it is a smaller one."""
        whole, rest = divmod(total, rows)
        with T.serial(whole + (overlap and rest > 0)) as tile:
            body(T.bind(T.min(tile * rows, total - rows) if overlap and rest else tile * rows), rows)
        if rest and not overlap:
            body(whole * rows, rest)

    def panels(self, vectors: int) -> Iterator[tuple[int, int, int]]:
        """(first vector, panels, vectors of a panel): rows of ``vectors`` cut evenly into panels for tiles."""
        most = 3 if self.cpu.registers > 16 else 2
        count = -(-vectors // most)
        narrow, wide = divmod(vectors, count)
        for first, panels, width in ((0, wide, narrow + 1), (wide * (narrow + 1), count - wide, narrow)):
            if panels:
                yield first, panels, width

    def score_tile(
        self, rows: int, depth: int, left: Callable[[int, Expr], Expr], right: Expr
    ) -> Iterator[tuple[int, int, Expr]]:
        """(key, vector of queries, sum of left(key, j) * right[j, query]) for a tile of [key, query]."""
        sums = self.sums(rows, self.vectors)
        self.clear(sums)
        lanes, width = self.lanes, self.width
        emit.multiply(sums, depth, left, lambda v, j: emit.load(right, j * width + v * lanes, lanes=lanes))
        return ((i, v, total.value) for (i, v), total in sums.items())

    def sums(self, rows: int, vectors: int) -> dict[tuple[int, int], emit.Register]:
        return {at: emit.Register(self.lanes) for at in itertools.product(range(rows), range(vectors))}

    def clear(self, sums: dict[tuple[int, int], emit.Register]) -> None:
        for total in sums.values():
            total.value = emit.splat(0.0, self.lanes)

    def mask_values(self, key: Expr, query: Expr) -> Expr:
        """The mask for a key and the queries from ``query`` on."""
        mask = self.p.mask
        assert mask is not None
        *lead, last = mask.index(self.b, self.h, key, query)
        if mask.shape[3] == 1:
            return emit.splat(emit.element(self.buffers["mask"], *lead, last), self.lanes)
        return emit.load(self.buffers["mask"], *lead, last, lanes=self.lanes, width=self.queries_left(query))

    def masked(self, score: Expr, key: Expr, query: Expr) -> Expr:
        """``score`` of a key and the queries from ``query`` on, after the mask."""
        return score if self.p.mask is None else self.p.mask.apply(score, self.mask_values(key, query), UNIT)

    def queries_left(self, query: Expr) -> Expr | None:
        """How many lanes have a query where the first has ``query``; None for all."""
        if self.p.queries % self.width == 0:
            return None
        return T.bind(T.max(T.min(self.p.queries - query, self.lanes), 0))

    def tail_width(self, column: Expr, size: int) -> Expr | None:
        """How many values a row of ``size`` has from ``column`` on, for a vector; None for enough."""
        return None if size % self.lanes == 0 else T.min(size - column, self.lanes)

    def if_query(self, query: Expr, body: Callable[[], None]) -> None:
        """``body()`` unless the query is one of the last block's that do not exist."""
        if self.p.queries % self.width == 0:
            return body()
        with T.If(query < self.p.queries), T.Then():
            body()

    def existing(self, query: Expr) -> Expr:
        """The query, or the last one: what is computed for lanes without a query is never stored."""
        return query if self.p.queries % self.width == 0 else T.min(query, self.p.queries - 1)


_MOST_PARTS = 8


class _Forward(Blocks):
    """Emits the loops of ``Attention``."""

    def run(self) -> None:
        p = self.p
        blocks = -(-p.queries // self.width)
        # Heads are enough tasks unless there are few of them; each part of a head packs the keys and values again.
        parts = next(n for n in range(1, blocks + 1) if n * p.batch * p.heads >= _MOST_PARTS or n == blocks)
        blocks_of_part = -(-blocks // parts)
        cost = p.product_flops(p.size, p.value_size) / 100
        with self.tasks(parts, cost) as task:
            self.enter(T.bind(task // parts) if parts > 1 else task)
            self.memory = {"k": emit.scratch(p.keys * self.size), "v": emit.scratch(p.keys * self.value_size)}
            self.q_columns = emit.scratch(p.size * self.width)
            self.scores = emit.scratch(p.keys * self.width)
            self.factors = emit.scratch(self.width)
            self.pack_rows("k", p.k, 0, p.keys, p.size)
            self.pack_rows("v", p.v, 0, p.keys, p.value_size)
            part = T.bind(task % parts) if parts > 1 else 0
            with T.serial(T.min(blocks_of_part, blocks - part * blocks_of_part) if parts > 1 else blocks) as i:
                self.block(T.bind((part * blocks_of_part + i) * self.width))

    def packed(self, name: str) -> Expr:
        return self.memory[name]

    def block(self, query: Expr) -> None:
        """All keys for the block of queries from ``query`` on."""
        p, lanes, width = self.p, self.lanes, self.width

        def row(i: Expr, j: Expr, count: int) -> Expr:
            at = self.row(p.q, self.existing(query + i)) + j
            return emit.load(self.buffers["q"], at, lanes=lanes, width=count)

        self.transpose_rows(row, self.q_columns, p.size, p.scale / UNIT)

        tops = [streams.hold(emit.splat(-math.inf, lanes)) for _ in range(self.vectors)]

        def tile(key: Expr, rows: int) -> None:
            keys = self.memory["k"]
            products = self.score_tile(rows, p.size, lambda i, j: keys[(key + i) * self.size + j], self.q_columns)
            scores: list[list[Expr]] = [[] for _ in tops]
            for i, v, score in products:
                scores[v].append(emit.let(self.masked(score, key + i, query + v * lanes)))
                emit.store(self.scores, scores[v][-1], (key + i) * width + v * lanes, lanes=lanes)
            for top, values in zip(tops, scores, strict=True):
                top.value = tirx.max(top.value, pairwise(values, tirx.max))

        self.each_tile(p.keys, self.tile_rows(p.keys, self.vectors), tile)
        self.exponentials(query, [top.value for top in tops])
        rows = self.tile_rows(width, max(count for *_, count in self.panels(self.value_size // lanes)))
        for first, panels, vectors in self.panels(self.value_size // lanes):
            with T.serial(panels) as panel:
                column = T.bind((first + panel * vectors) * lanes)
                self.each_tile(width, rows, partial(self.out_tile, query, column, vectors), overlap=False)

    def exponentials(self, query: Expr, tops: list[Expr]) -> None:
        """Scores to exponentials; factors[query] = 1 / their sum."""
        lanes = self.lanes
        together = min(max(1, 4 // self.vectors), self.p.keys)  # one chain of instructions waits for itself
        sums = [[streams.hold(emit.splat(0.0, lanes)) for _ in tops] for _ in range(together)]

        def key(number: Expr, sums: list[emit.Register]) -> None:
            for v, total in enumerate(sums):
                at = number * self.width + v * lanes
                score = emit.load(self.scores, at, lanes=lanes)
                power = emit.let(vector.exp2_limited(score - tops[v], emit.bind))
                emit.store(self.scores, power, at, lanes=lanes)
                total.value = total.value + power

        groups, rest = divmod(self.p.keys, together)
        with T.serial(groups) as group:
            for i in range(together):
                key(group * together + i, sums[i])
        for i in range(rest):
            key(groups * together + i, sums[i])
        for v, top in enumerate(tops):
            total = emit.let(pairwise([each[v].value for each in sums], operator.add))
            emit.store(self.factors, emit.splat(1.0, lanes) / total, v * lanes, lanes=lanes)
            if "statistics" in self.buffers:
                first = query + v * lanes
                value = emit.let(top + vector.log(total, emit.bind) * emit.splat(1 / UNIT, lanes))
                width = self.queries_left(first)
                emit.store(self.buffers["statistics"], value, self.b, self.h, first, lanes=lanes, width=width)

    def out_tile(self, query: Expr, column: Expr, vectors: int, first: Expr, rows: int) -> None:
        """Rows ``first`` and following of the block, ``vectors`` vectors from ``column`` on."""
        lanes = self.lanes
        sums = self.sums(rows, vectors)
        self.clear(sums)
        values = self.memory["v"]
        emit.multiply(
            sums,
            self.p.keys,
            lambda i, key: self.scores[key * self.width + first + i],
            lambda n, key: emit.load(values, key * self.value_size + column + n * lanes, lanes=lanes),
        )
        for i in range(rows):
            row = [sums[i, n].value for n in range(vectors)]
            self.if_query(query + first + i, partial(self.store_row, query, first + i, column, row))

    def store_row(self, query: Expr, i: Expr, column: Expr, row: list[Expr]) -> None:
        factor = emit.let(emit.splat(self.factors[i], self.lanes))
        at = T.bind(self.row(self.p.out, query + i) + column)
        for n, value in enumerate(row):
            width = self.tail_width(column + n * self.lanes, self.p.value_size)
            emit.store(self.buffers["out"], value * factor, at + n * self.lanes, lanes=self.lanes, width=width)
