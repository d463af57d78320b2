"""The gradient of attention in one kernel (T. Dao, FlashAttention-2, 2023, algorithm 2).

A task has one head of one sequence. The probabilities P and the gradients dS of the scores are computed again for a
group of queries and all keys, transposed as in the forward kernel, and stay in the second cache until the three
products that need them are done. So memory grows with the length, not with its square.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, reduce
from typing import TYPE_CHECKING, Any

from tvm import te, tirx
from tvm.tirx.script import builder as T

from bucketmod.compiler.kernels import emission as emit
from bucketmod.compiler.kernels import math as vector
from bucketmod.compiler.kernels.attention.attention import Blocks
from bucketmod.compiler.kernels.attention.heads import UNIT, Heads, Place, coordinates
from bucketmod.compiler.kernels.attention.tile_gradient import BackwardTiles, worth_tiles
from bucketmod.compiler.kernels.kernel import Kernel, TensorShape

if TYPE_CHECKING:
    from bucketmod.compiler.target import CpuFeatures

Expr = Any


@dataclass(frozen=True)
class AttentionGrad(Kernel):
    """(dout, q, k, v, out, statistics(, mask)) -> dq, dk, dv, each flat and laid out as q, k and v are.

    With ``joint``, q, k and v are parts of one tensor that has nothing else: one output has all their gradients.
    """

    heads: Heads
    joint: bool

    @property
    def name(self) -> str:
        return "attention_grad" + "_masked" * (self.heads.mask is not None)

    @property
    def inputs(self) -> list[tuple[str, TensorShape]]:
        operands = self.heads.inputs
        saved = [("out", self.heads.out.shape), ("statistics", self.heads.statistics)]
        return [("dout", self.heads.out.shape), *operands[:3], *saved, *operands[3:]]

    @property
    def outputs(self) -> list[TensorShape]:
        p = self.heads
        return [p.q.shape] if self.joint else [p.q.shape, p.k.shape, p.v.shape]

    @property
    def flops(self) -> int:
        size, value_size = self.heads.size, self.heads.value_size
        return self.heads.product_flops(size, size, size, value_size, value_size)

    def portable(self) -> Any:
        p = self.heads
        names = {name: te.placeholder(shape, dtype, name) for name, (shape, dtype) in self.inputs}
        dout, q, k, v, out = (names[name] for name in ("dout", "q", "k", "v", "out"))
        mask, statistics = names.get("mask"), names["statistics"]
        scores = p.portable_scores(q, k, mask)
        square, unit = scores.shape, tirx.FloatImm("float32", UNIT)
        power = te.compute(square, lambda *i: te.exp(scores(*i) - statistics(*i[:3]) * unit), name="power")
        share = self._portable_sum((p.batch, p.heads, p.queries), p.value_size, "share",
                                   lambda b, h, s, j: dout[p.out.at(b, h, s, j)] * out[p.out.at(b, h, s, j)])
        weights = self._portable_sum(square, p.value_size, "weights",
                                     lambda b, h, s, t, j: dout[p.out.at(b, h, s, j)] * v[p.v.at(b, h, t, j)])

        def slope(b: Expr, h: Expr, s: Expr, t: Expr) -> Expr:
            value = power[b, h, s, t] * (weights[b, h, s, t] - share[b, h, s]) * tirx.FloatImm("float32", p.scale)
            if p.mask is None or p.mask.fill is None or mask is None:
                return value
            replaced = p.mask.replaces(mask(*p.mask.index(b, h, t, s)))
            return tirx.Select(replaced, tirx.FloatImm("float32", 0.0), value)

        slopes = te.compute(square, slope, name="slopes")
        lead = (p.batch, p.heads)
        parts = [
            self._portable_sum((*lead, p.queries, p.size), p.keys, "dq",
                               lambda b, h, s, j, t: slopes[b, h, s, t] * k[p.k.at(b, h, t, j)]),
            self._portable_sum((*lead, p.keys, p.size), p.queries, "dk",
                               lambda b, h, t, j, s: slopes[b, h, s, t] * q[p.q.at(b, h, s, j)]),
            self._portable_sum((*lead, p.keys, p.value_size), p.queries, "dv",
                               lambda b, h, t, j, s: power[b, h, s, t] * dout[p.out.at(b, h, s, j)]),
        ]  # fmt: skip
        return te.create_prim_func([*names.values(), *self._portable_places(parts)])

    def _portable_sum(self, shape: tuple[int, ...], count: int, name: str, term: Callable[..., Any]) -> Any:
        """``term(*index, i)`` summed over i below ``count``."""
        axis = te.reduce_axis((0, count), "i")
        return te.compute(shape, lambda *index: te.sum(term(*index, axis), axis=axis), name=name)

    def _portable_places(self, parts: list[Any]) -> list[Any]:
        """The gradients [batch, heads, rows, values] where the operands lie."""
        p = self.heads
        places = [(p.q, p.queries, p.size), (p.k, p.keys, p.size), (p.v, p.keys, p.value_size)]

        def value(number: int) -> Callable[[Expr], Expr]:
            place, rows, size = places[number]
            return lambda index: parts[number](*coordinates(place, index, (p.batch, p.heads, rows, size)))

        if not self.joint:
            return [te.compute((places[n][0].size,), value(n), name=f"out{n}") for n in range(3)]
        last, middle, first = sorted(range(3), key=lambda n: -places[n][0].offset)
        width = p.heads * p.size

        def any_of(index: Expr) -> Expr:
            column = index % (3 * width)
            rest = tirx.if_then_else(column >= width, value(middle)(index), value(first)(index))
            return tirx.if_then_else(column >= 2 * width, value(last)(index), rest)

        return [te.compute((p.q.size,), any_of, name="dqkv")]

    def tuned(self, cpu: CpuFeatures) -> Any:
        arguments = dict(self.inputs)
        names = ["dqkv"] if self.joint else ["dq", "dk", "dv"]
        arguments.update(zip(names, self.outputs, strict=True))

        def body(buffers: dict[str, Any]) -> None:
            whole = {name: buffers.get("dqkv", buffers.get(name)) for name in ("dq", "dk", "dv")}
            named = {**buffers, **whole}
            tiled = cpu.tiles and worth_tiles(self.heads, cpu)
            (BackwardTiles(self.heads, named) if tiled else _Backward(self.heads, cpu, named)).run()

        return emit.build_named(self.name, arguments, body)


class _Backward(Blocks):
    """Emits the loops of ``AttentionGrad``."""

    def run(self) -> None:
        p = self.p
        blocks = -(-p.queries // self.width)
        # Half of the second cache is for P and dS of a group.
        fitting = self.cpu.l2 // 2 // (2 * 4 * p.keys * self.width)
        groups = -(-blocks // max(1, min(blocks, fitting)))
        self.group_blocks = -(-blocks // groups)
        self.group = self.group_blocks * self.width
        self.groups = -(-blocks // self.group_blocks)
        sizes = {"k": p.keys * self.size, "v": p.keys * self.value_size,
                 "q": self.group * self.size, "dout": self.group * self.value_size}  # fmt: skip
        with self.tasks(1, p.product_flops(p.size, p.size, p.size, p.value_size, p.value_size) / 100) as task:
            self.enter(task)
            self.memory = {name: emit.scratch(size) for name, size in sizes.items()}
            self.q_columns, self.dout_columns = (emit.scratch(n * self.width) for n in (p.size, p.value_size))
            self.powers, self.slopes = (emit.scratch(p.keys * self.group) for _ in range(2))
            self.share = emit.scratch(self.width)
            self.pack_rows("k", p.k, 0, p.keys, p.size)
            self.pack_rows("v", p.v, 0, p.keys, p.value_size)
            with T.serial(self.groups) as group:
                self.number = group
                self.first = T.bind(group * self.group)
                self.count = T.bind(T.min(p.queries - self.first, self.group)) if p.queries % self.group else self.group
                self.group_of_queries()

    def packed(self, name: str) -> Expr:
        return self.memory[name]

    def group_of_queries(self) -> None:
        p, lanes = self.p, self.lanes
        self.pack_rows("q", p.q, self.first, self.count, p.size)
        self.pack_rows("dout", p.out, self.first, self.count, p.value_size)
        with T.serial((self.count + self.width - 1) // self.width) as block:
            self.block(T.bind(block * self.width))
        whole = self.groups == 1
        for name, place, weights, operand, size in (
            ("dv", p.v, self.powers, "dout", self.value_size),
            ("dk", p.k, self.slopes, "q", self.size),
        ):
            source = self.memory[operand]

            def product(key: Expr, column: Expr, w: Expr = weights, s: Expr = source, size: int = size) -> Any:
                return (
                    self.count,
                    lambda i, query: w[(key + i) * self.group + query],
                    lambda v, query: emit.load(s, query * size + column + v * lanes, lanes=lanes),
                )

            values = p.value_size if name == "dv" else p.size
            number = None if whole else self.number
            self.rows_of(name, place, p.keys, values, product, 0, number, lambda _, body: body())

        def product_dq(query: Expr, column: Expr) -> Any:
            keys = self.memory["k"]
            return (
                p.keys,
                lambda i, key: self.slopes[key * self.group + query + i],
                lambda v, key: emit.load(keys, key * self.size + column + v * lanes, lanes=lanes),
            )

        self.rows_of("dq", p.q, self.group, p.size, product_dq, self.first, None, self.if_query)

    def rows_of(
        self,
        name: str,
        place: Place,
        total: int,
        size: int,
        product: Callable[[Expr, Expr], Any],
        offset: Expr,
        number: Expr | None,
        guard: Callable[[Expr, Callable[[], None]], None],
    ) -> None:
        """Rows of a gradient, in tiles; with ``number`` those of group 0 begin them and the others add to them."""
        panels = list(self.panels(-(-size // self.lanes)))
        tallest = self.tile_rows(total, max(n for *_, n in panels))
        for first, count, vectors in panels:
            with T.serial(count) as panel:
                column = T.bind((first + panel * vectors) * self.lanes)

                def tile(row: Expr, rows: int, column: Expr = column, vectors: int = vectors) -> None:
                    sums = self.sums(rows, vectors)
                    widths = [self.tail_width(column + v * self.lanes, size) for v in range(vectors)]
                    self.start(sums, name, place, row, column, widths, number)
                    emit.multiply(sums, *product(row, column))

                    def store(i: int) -> None:
                        at = T.bind(self.row(place, offset + row + i) + column)
                        for v in range(vectors):
                            to = at + v * self.lanes
                            emit.store(self.buffers[name], sums[i, v].value, to, lanes=self.lanes, width=widths[v])

                    for i in range(rows):
                        guard(offset + row + i, partial(store, i))

                self.each_tile(total, tallest, tile, overlap=number is None)

    def start(
        self, sums: Any, name: str, place: Place, row: Expr, column: Expr, widths: list[Any], number: Expr | None
    ) -> None:
        if number is None:
            return self.clear(sums)
        with T.If(number == 0):
            with T.Then():
                self.clear(sums)
            with T.Else():
                for (i, v), total in sums.items():
                    at = self.row(place, row + i) + column + v * self.lanes
                    total.value = emit.load(self.buffers[name], at, lanes=self.lanes, width=widths[v])

    def block(self, local: Expr) -> None:
        """P and dS of a block of queries; ``local``: its place in the group."""
        p, lanes = self.p, self.lanes
        query = T.bind(self.first + local)
        last = self.count - 1

        def rows_of(name: str, stride: int) -> Callable[[Expr, Expr, int], Expr]:
            def row(i: Expr, j: Expr, count: int) -> Expr:
                place = local + i if p.queries % self.width == 0 else T.min(local + i, last)
                return emit.load(self.memory[name], place * stride + j, lanes=lanes, width=count)

            return row

        self.transpose_rows(rows_of("q", self.size), self.q_columns, p.size, p.scale / UNIT)
        self.transpose_rows(rows_of("dout", self.value_size), self.dout_columns, p.value_size, p.scale)
        with T.serial(self.vectors) as v:
            self.shares(v, query, rows_of("dout", self.value_size))
        statistics = []
        for v in range(self.vectors):
            at = query + v * lanes
            width = self.queries_left(at)
            value = emit.load(self.buffers["statistics"], self.b, self.h, at, lanes=lanes, width=width)
            statistics.append(emit.let(value))

        def tile(key: Expr, rows: int) -> None:
            self.power_tile(key, rows, local, query, statistics)
            values = self.memory["v"]
            products = self.score_tile(
                rows, p.value_size, lambda i, j: values[(key + i) * self.value_size + j], self.dout_columns
            )
            for i, v, weight in products:
                at = (key + i) * self.group + local + v * lanes
                slope = weight - emit.load(self.share, v * lanes, lanes=lanes)
                slope = slope * emit.load(self.powers, at, lanes=lanes)
                if p.mask is not None and p.mask.fill is not None:
                    replaced = p.mask.replaces(self.mask_values(key + i, query + v * lanes))
                    slope = tirx.Select(replaced, emit.splat(0.0, lanes), slope)
                emit.store(self.slopes, slope, at, lanes=lanes)

        self.each_tile(p.keys, self.tile_rows(p.keys, self.vectors), tile)

    def power_tile(self, key: Expr, rows: int, local: Expr, query: Expr, statistics: list[Expr]) -> None:
        """A tile of P: the scores first, for the exponentials of a tile at once would not fit the registers."""
        keys, lanes = self.memory["k"], self.lanes

        def at(i: Expr, v: int) -> Expr:
            return (key + i) * self.group + local + v * lanes

        products = self.score_tile(rows, self.p.size, lambda i, j: keys[(key + i) * self.size + j], self.q_columns)
        for i, v, score in products:
            emit.store(self.powers, score, at(i, v), lanes=lanes)
        with T.serial(rows) as i:
            for v in range(self.vectors):
                score = emit.load(self.powers, at(i, v), lanes=lanes)
                score = self.masked(score, key + i, query + v * lanes)
                power = vector.exp2_limited(score - statistics[v], emit.bind)
                emit.store(self.powers, power, at(i, v), lanes=lanes)

    def shares(self, v: Expr, query: Expr, dout: Callable[[Expr, Expr, int], Expr]) -> None:
        """share[query] = scale * the sum over a row of dout * out, for the queries of a vector."""
        p, lanes = self.p, self.lanes
        rows = []
        for i in range(lanes):
            at = T.bind(self.row(p.out, self.existing(query + v * lanes + i)))
            terms = []
            for first, width in self.pieces(p.value_size):
                out = emit.load(self.buffers["out"], at + first, lanes=lanes, width=width)
                terms.append(out * dout(v * lanes + i, first, lanes))
            rows.append(emit.let(reduce(operator.add, terms)))
        total = reduce(operator.add, emit.transpose(rows))
        emit.store(self.share, total * emit.splat(p.scale, lanes), v * lanes, lanes=lanes)
