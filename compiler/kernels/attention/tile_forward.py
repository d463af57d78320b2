"""``Attention`` in tile registers.

Scores are a product of queries (left, as they lie) and keys (right, transposed while they are packed), so a row of
scores belongs to a query, and its powers are pairs along the keys, as the second product wants them on its left; the
values are its right side as they lie. Only the keys need a transpose. A block of queries has its scores and powers in
the first cache while the keys and values, packed once a head, pass by from the second.
"""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from functools import partial
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from bucketmod.compiler.kernels import emission as emit
from bucketmod.compiler.kernels import math as vector
from bucketmod.compiler.kernels import streams, tiles
from bucketmod.compiler.kernels.attention.heads import UNIT, Heads, pairwise
from bucketmod.compiler.kernels.attention.panels import (
    BLOCK,
    LANES,
    LEAST_ROWS,
    PANEL,
    Panels,
    Spread,
    known,
    over_lanes,
    pieces,
    products,
    ranges,
    steps_of,
    store_pairs,
)

Expr = Any

_TOGETHER = 2  # steps of a row of scores whose powers are taken at once


def worth_tiles(heads: Heads) -> bool:
    """Whether tiles are faster."""
    return min(heads.queries, heads.keys) >= LEAST_ROWS and heads.size > LANES and heads.value_size > LANES


@dataclass(frozen=True)
class _Place:
    """A block: sequence, head, number of the head over all sequences, first query, slot of the head's panels."""

    b: Expr
    h: Expr
    head: Expr
    query: Expr
    slot: Expr


class ForwardTiles(Panels):
    """Emits the loops."""

    def __init__(self, heads: Heads, buffers: dict[str, Any]):
        super().__init__(heads, buffers)
        self.key_steps, self.size_steps = steps_of(heads.keys), steps_of(heads.size)
        self.value_panels = steps_of(heads.value_size)
        self.blocks = -(-heads.queries // BLOCK)
        self.chunks = -(-self.key_steps // _TOGETHER)
        self.stride, self.out_stride = self.key_steps * BLOCK, self.value_panels * BLOCK

    def run(self) -> None:
        p = self.p
        units = p.batch * p.heads * self.blocks
        cost = p.product_flops(p.size, p.value_size) * p.batch * p.heads / 200
        with ranges(units, cost) as (begin, end), tiles.tile_registers():
            self._allocate()
            self.last = known(end - 1)
            with T.serial(end - begin + 1) as i:
                self._iteration(known(begin + i), i == 0, begin + i == end)

    def _allocate(self) -> None:
        """Packed keys and values of two heads, and two blocks of scores."""
        self.k_words, self.v_words = (
            steps * self.key_steps * PANEL for steps in (self.size_steps, self.value_panels)
        )
        self.keys, self.values = tiles.packed(2 * self.k_words), tiles.packed(2 * self.v_words)
        self.queries = tiles.packed(self.size_steps * PANEL)
        self.powers = tiles.packed(self.key_steps * PANEL)
        self.scores = emit.scratch(2 * BLOCK * self.stride)
        self.outs = emit.scratch(BLOCK * self.out_stride)
        self.sums = emit.scratch(2 * BLOCK * LANES)  # a vector for each query
        self.tops, self.factors = (emit.scratch(2 * BLOCK) for _ in range(2))

    def _iteration(self, unit: Expr, first: Expr, after_last: Expr) -> None:
        """The scores of a block, beside the powers of the one before; then that one's output, beside the largest scores
        of the new one and the packing of the next."""
        p = self.p
        before = self._place(known(T.max(unit - 1, 0)))
        here = self._place(known(T.min(unit, self.last)))
        after = self._place(known(T.min(unit + 1, self.last)))
        with T.If(tirx.all(tirx.any(first, here.query == 0), tirx.Not(after_last))), T.Then():
            self.b, self.h = here.b, here.h
            self.columns("k", p.k, p.size, p.keys, (self.keys, here.slot * self.k_words))
            self.across("v", p.v, p.value_size, p.keys, (self.values, here.slot * self.v_words))
        with T.If(first), T.Then(), T.serial(BLOCK) as row:
            self._query(here, row)
        parity = known(unit & 1)
        old, new = known((1 - parity) * (BLOCK * self.stride)), known(parity * (BLOCK * self.stride))
        products(
            (self.queries, 0), (self.keys, here.slot * self.k_words), self.size_steps, self.key_steps,
            (self.scores, new), self.stride,
            [Spread(BLOCK * self.chunks, partial(self._powers, old, 1 - parity), (0, 1, 3, 4))],
        )  # fmt: skip
        if p.mask is not None and p.mask.shape[3] > 1:
            self._mask_squares(here, new)
        products(
            (self.powers, 0), (self.values, before.slot * self.v_words), self.key_steps, self.value_panels,
            (self.outs, 0), self.out_stride,
            [
                Spread(BLOCK, partial(self._top, here, new, parity), (0, 3)),
                Spread(BLOCK, partial(self._query, after), (1, 4)),
            ],
        )  # fmt: skip
        with T.If(tirx.Not(first)), T.Then():
            self._finish(before, 1 - parity)

    def _place(self, unit: Expr) -> _Place:
        head = known(unit // self.blocks)
        b, h = known(head // self.p.heads), known(head % self.p.heads)
        return _Place(b, h, head, known(unit % self.blocks * BLOCK), known(head & 1))

    def _query(self, place: _Place, row: Expr) -> None:
        """Packs a row of the queries."""
        p = self.p
        at = known(p.q.at(place.b, place.h, T.min(place.query + row, p.queries - 1), 0))
        self.along_row("q", at, p.size, self.queries, row * LANES, p.scale / UNIT)

    def _finish(self, place: _Place, parity: Expr) -> None:
        """Divides a block of the output by the sums of its rows, and stores it."""
        p = self.p
        with T.serial(BLOCK // LANES) as half:
            self._sums(place, parity, half)

        def divided(row: Expr, value: Expr) -> Expr:
            return value * emit.splat(self.factors[row], LANES)

        self.b, self.h = place.b, place.h
        self.store_rows("out", p.out, self.outs, self.out_stride, place.query, p.queries, p.value_size, divided)

    def _top(self, place: _Place, scores: Expr, parity: Expr, row: Expr) -> None:
        """The largest score of a row."""
        p = self.p
        names = {"q": (p.q, p.size), "k": (p.k, p.size), "v": (p.v, p.value_size)}
        self.fetch_next(names, place.head, place.query + row)
        start = known(scores + row * self.stride)
        self._finish_scores(place, start)
        tops = [streams.hold(emit.splat(-math.inf, LANES)) for _ in range(2)]
        with T.serial(self.key_steps) as step:
            for half, top in enumerate(tops):
                value = emit.load(self.scores, start + step * BLOCK + half * LANES, lanes=LANES)
                top.value = tirx.max(top.value, value)
        top = over_lanes(tirx.max(tops[0].value, tops[1].value), tirx.max)
        T.buffer_store(self.tops, tirx.Shuffle([top], [0]), [parity * BLOCK + row])
        emit.store(self.sums, emit.splat(0.0, LANES), (parity * BLOCK + row) * LANES, lanes=LANES)

    def _powers(self, scores: Expr, parity: Expr, item: Expr) -> None:
        """Some steps of a row of scores to powers, packed as pairs along the keys."""
        row, chunk = known(item // self.chunks), known(item % self.chunks)
        number = known(parity * BLOCK + row)
        rest = self.key_steps % _TOGETHER
        if rest == 0:
            self._powers_of(_TOGETHER, scores, row, chunk, number)
            return
        with T.If(chunk < self.chunks - 1):
            with T.Then():
                self._powers_of(_TOGETHER, scores, row, chunk, number)
            with T.Else():
                self._powers_of(rest, scores, row, chunk, number)

    def _powers_of(self, steps: int, scores: Expr, row: Expr, chunk: Expr, number: Expr) -> None:
        """Several vectors at a time, lest each instruction waits for the one before."""
        lanes, first = steps * BLOCK, known(chunk * _TOGETHER)
        values = emit.load(self.scores, scores + row * self.stride + first * BLOCK, lanes=lanes)
        powers = emit.let(vector.exp2_limited(values - emit.splat(self.tops[number], lanes), emit.bind))
        parts = pieces(powers, 2 * steps)
        total = emit.load(self.sums, number * LANES, lanes=LANES) + pairwise(parts, operator.add)
        emit.store(self.sums, total, number * LANES, lanes=LANES)
        to = known(first * PANEL + row * LANES)
        pairs = list(zip(parts[::2], parts[1::2], strict=True))
        store_pairs(pairs, self.powers, [to + i * PANEL for i in range(steps)])

    def _finish_scores(self, place: _Place, start: Expr) -> None:
        """Applies a mask of keys, and leaves out the keys that do not exist."""
        p = self.p
        if p.mask is not None and p.mask.shape[3] == 1:
            with T.serial(-(-p.keys // LANES)) as vector_:
                key = known(vector_ * LANES)
                width = None if p.keys % LANES == 0 else known(T.min(p.keys - key, LANES))
                index = p.mask.index(place.b, place.h, key, 0)
                mask = emit.load(self.buffers["mask"], *index, lanes=LANES, width=width)  # the keys lie side by side
                score = p.mask.apply(emit.load(self.scores, start + key, lanes=LANES), mask, UNIT)
                emit.store(self.scores, score, start + key, lanes=LANES)
        for at in range(p.keys // LANES * LANES, self.stride, LANES):
            value = emit.load(self.scores, start + at, lanes=LANES)
            exists = T.ramp(at, 1, LANES) < tirx.Broadcast(T.int32(p.keys), LANES)
            value = tirx.Select(exists, value, emit.splat(-math.inf, LANES))
            emit.store(self.scores, value, start + at, lanes=LANES)

    def _mask_squares(self, place: _Place, scores: Expr) -> None:
        """Applies a mask of keys and queries to all scores of a block; it lies transposed."""
        p = self.p
        mask = p.mask
        assert mask is not None
        with T.serial(-(-p.keys // LANES)) as tile, T.serial(BLOCK // LANES) as half:
            first = known(place.query + half * LANES)
            width = None if p.queries % BLOCK == 0 else known(T.max(T.min(p.queries - first, LANES), 0))
            rows = []
            for i in range(LANES):
                key = known(T.min(tile * LANES + i, p.keys - 1))
                index = mask.index(place.b, place.h, key, first)
                rows.append(emit.let(emit.load(self.buffers["mask"], *index, lanes=LANES, width=width)))
            for i, row in enumerate(emit.transpose(rows)):
                at = known(scores + (half * LANES + i) * self.stride + tile * LANES)
                score = mask.apply(emit.load(self.scores, at, lanes=LANES), row, UNIT)
                emit.store(self.scores, score, at, lanes=LANES)

    def _sums(self, place: _Place, parity: Expr, half: Expr) -> None:
        """factors[query] = 1 / sum, and the statistics, for 16 queries."""
        at = known(parity * BLOCK + half * LANES)
        sums = [emit.let(emit.load(self.sums, (at + i) * LANES, lanes=LANES)) for i in range(LANES)]
        total = emit.let(pairwise(emit.transpose(sums), operator.add))
        emit.store(self.factors, emit.splat(1.0, LANES) / total, half * LANES, lanes=LANES)
        if "statistics" in self.buffers:
            top = emit.load(self.tops, at, lanes=LANES)
            value = emit.let(top + vector.log(total, emit.bind) * emit.splat(1 / UNIT, LANES))
            first = known(place.query + half * LANES)
            width = None if self.p.queries % BLOCK == 0 else known(T.max(T.min(self.p.queries - first, LANES), 0))
            emit.store(self.buffers["statistics"], value, place.b, place.h, first, lanes=LANES, width=width)
