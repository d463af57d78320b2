"""``AttentionGrad`` in tile registers.

Scores are computed transposed: a block of keys has rows of probabilities P' and of gradients of scores dS', which are
pairs along the queries, as the gradients of values and keys want them on the left; queries and the gradient of the
output are on the right, once in columns, for scores and dP', and once as they lie, for the two gradients. dS is dS' of
all keys transposed back, on the left of the gradient of the queries. The vector work of one block runs beside the
products of the next.
"""

from __future__ import annotations

import math
import operator
from functools import partial
from typing import TYPE_CHECKING, Any

from tvm import tirx
from tvm.tirx.script import builder as T

from bucketmod.compiler.kernels import emission as emit
from bucketmod.compiler.kernels import math as vector
from bucketmod.compiler.kernels import streams, tiles
from bucketmod.compiler.kernels.attention.heads import UNIT, Heads, pairwise
from bucketmod.compiler.kernels.attention.panels import (
    BLOCK,
    LANES,
    PANEL,
    Panels,
    Spread,
    known,
    pieces,
    products,
    steps_of,
    store_pairs,
)

if TYPE_CHECKING:
    from bucketmod.compiler.target import CpuFeatures

Expr = Any

_TOGETHER = 2  # steps of a row that are taken at once
# From this many rows on the gradient gains more than the longer code costs to compile: 1.17 times the speed at 256
# rows, 1.04 at 128.
LEAST_ROWS = 192
_TURNS = 4  # parts of transposing a tile


def worth_tiles(heads: Heads, cpu: CpuFeatures) -> bool:
    """Whether tiles are faster, and all of a head fits the second cache."""
    words = sum(size for size in _sizes(heads).values())
    long = min(heads.queries, heads.keys) >= LEAST_ROWS and min(heads.size, heads.value_size) > LANES
    return long and steps_of(heads.size) == steps_of(heads.value_size) and 4 * words <= cpu.l2 * 3 // 4


def _sizes(p: Heads) -> dict[str, int]:
    """Words of the packed operands."""
    queries, keys, width = steps_of(p.queries), steps_of(p.keys), steps_of(p.size)
    return {
        "rows": 2 * keys * width * PANEL,  # of keys and values, on the left; each key's panel, then each value's
        "columns": 2 * queries * width * PANEL,  # queries, and the gradient of the output
        "right": 2 * queries * width * PANEL,  # the gradient of the output and queries, as they lie
        "keys": keys * width * PANEL,
        "block": 2 * queries * PANEL,  # P' and dS' of a block
        "slopes": queries * keys * PANEL,  # dS
    }


class BackwardTiles(Panels):
    """Emits the loops."""

    def __init__(self, heads: Heads, buffers: dict[str, Any]):
        super().__init__(heads, buffers)
        self.query_steps, self.key_steps, self.steps = (steps_of(n) for n in (heads.queries, heads.keys, heads.size))
        self.stride, self.width = self.query_steps * BLOCK, self.steps * BLOCK
        self.square = BLOCK * self.stride  # values of a block

    def run(self) -> None:
        p = self.p
        cost = p.product_flops(p.size, p.size, p.size, p.value_size, p.value_size) / 250
        with streams.tasks(p.batch * p.heads, cost) as head, tiles.tile_registers():
            self.head = head
            self.enter(head)
            self._allocate()
            self._pack()
            with T.serial(self.query_steps * 2) as group:
                self._row_values(known(group * LANES))
            with T.serial(self.key_steps + 1) as block:
                self._iteration(block)
            with T.serial(self.query_steps) as block:
                slopes = (self.packed["slopes"], known(block * (self.key_steps * PANEL)))
                products(slopes, (self.packed["keys"], 0), self.key_steps, self.steps, (self.outs, 0), self.width)
                self.store_rows("dq", p.q, self.outs, self.width, known(block * BLOCK), p.queries, p.size)

    def _allocate(self) -> None:
        self.packed = {name: tiles.packed(size) for name, size in _sizes(self.p).items()}
        self.scores = emit.scratch(2 * 2 * self.square)  # scores and dP' of two blocks; dP' becomes dS'
        self.outs = emit.scratch(2 * BLOCK * self.width)
        self.shares, self.statistics = (emit.scratch(self.stride) for _ in range(2))
        self.squares = emit.scratch(2 * tiles.TILE)

    def _pack(self) -> None:
        p, packed = self.p, self.packed
        half = self.query_steps * self.steps * PANEL
        self.along("k", p.k, p.size, p.keys, (packed["rows"], 0), 1.0, 2)
        self.along("v", p.v, p.value_size, p.keys, (packed["rows"], self.steps * PANEL), 1.0, 2)
        self.columns("q", p.q, p.size, p.queries, (packed["columns"], 0), p.scale / UNIT)
        self.columns("dout", p.out, p.value_size, p.queries, (packed["columns"], half), p.scale)

    def _row_values(self, query: Expr) -> None:
        """For 16 queries the share, scale * the sum over a row of dout * out, and the statistic."""
        p = self.p
        rows = []
        for i in range(LANES):
            at = known(self.row(p.out, T.min(query + i, p.queries - 1)))
            terms = [
                self.part("out", at, first, p.value_size) * self.part("dout", at, first, p.value_size)
                for first in range(0, p.value_size, LANES)
            ]
            rows.append(emit.let(pairwise(terms, operator.add)))
        total = pairwise(emit.transpose(rows), operator.add)
        emit.store(self.shares, total * emit.splat(p.scale, LANES), query, lanes=LANES)
        left = known(T.max(T.min(p.queries - query, LANES), 0))
        value = emit.load(self.buffers["statistics"], self.b, self.h, query, lanes=LANES, width=left)
        exists = T.ramp(0, 1, LANES) < tirx.Broadcast(left, LANES)
        # What has no query gets the smallest power.
        emit.store(self.statistics, tirx.Select(exists, value, emit.splat(math.inf, LANES)), query, lanes=LANES)

    def _iteration(self, block: Expr) -> None:
        """Scores and dP' of a block of keys beside P' and dS' of the one before; then the gradients of that one."""
        p = self.p
        parity = known(block & 1)
        new, old = known(parity * (2 * self.square)), known((1 - parity) * (2 * self.square))
        key = known((block - 1) * BLOCK)
        chunks = -(-self.query_steps // _TOGETHER)
        items = BLOCK * chunks
        # The first block has none before it. Then there is time to pack what is needed later.
        slopes = Spread(known(T.min(block, 1) * items), partial(self._slopes, key, old), (0, 1, 3, 4))
        pack = Spread(known(T.max(1 - block, 0) * (self.query_steps * LANES)), self._rights, (2, 5))
        with T.If(block < self.key_steps):
            with T.Then():
                left = known(block * (2 * self.steps * PANEL))
                products(
                    (self.packed["rows"], left), (self.packed["columns"], 0), self.steps, self.query_steps,
                    (self.scores, new), self.stride, [slopes, pack], 2,
                )  # fmt: skip
            with T.Else(), T.serial(items) as item:
                slopes.item(item)
        with T.If(block > 0), T.Then():
            beside = [
                Spread(2 * self.query_steps * _TURNS, partial(self._turn, known(block - 1), old), (0, 3)),
                Spread(BLOCK, partial(self._fetch, key), (2,)),
                Spread(LANES, partial(self._key_pair, known(block - 1)), (5,)),
            ]
            products(
                (self.packed["block"], 0), (self.packed["right"], 0), self.query_steps, self.steps,
                (self.outs, 0), self.width, beside, 2,
            )  # fmt: skip
            for number, (name, place, size) in enumerate((("dv", p.v, p.value_size), ("dk", p.k, p.size))):
                self.store_rows(name, place, self.outs, self.width, key, p.keys, size, None, number * BLOCK)

    def _rights(self, pair: Expr) -> None:
        """Packs a pair of rows of queries and of the gradient of the output, as they lie."""
        p, right = self.p, self.packed["right"]
        self.across_pair("dout", p.out, p.value_size, p.queries, (right, 0), pair)
        half = self.query_steps * self.steps * PANEL
        self.across_pair("q", p.q, p.size, p.queries, (right, half), pair)

    def _key_pair(self, block: Expr, number: Expr) -> None:
        """Packs a pair of rows of a block of keys, as they lie."""
        p = self.p
        self.across_pair("k", p.k, p.size, p.keys, (self.packed["keys"], 0), known(block * LANES + number))

    def _fetch(self, key: Expr, row: Expr) -> None:
        p = self.p
        places = {"q": (p.q, p.size), "k": (p.k, p.size), "v": (p.v, p.value_size),
                  "dout": (p.out, p.value_size), "out": (p.out, p.value_size)}  # fmt: skip
        self.fetch_next(places, self.head, key + row)

    def _slopes(self, key: Expr, scores: Expr, item: Expr) -> None:
        """Some steps of a row of P' and dS'."""
        chunks = -(-self.query_steps // _TOGETHER)
        row, chunk = known(item // chunks), known(item % chunks)
        rest = self.query_steps % _TOGETHER
        if rest == 0:
            self._slopes_of(_TOGETHER, key, scores, row, chunk)
            return
        with T.If(chunk < chunks - 1):
            with T.Then():
                self._slopes_of(_TOGETHER, key, scores, row, chunk)
            with T.Else():
                self._slopes_of(rest, key, scores, row, chunk)

    def _slopes_of(self, steps: int, key: Expr, scores: Expr, row: Expr, chunk: Expr) -> None:
        mask = self.p.mask
        lanes, first = steps * BLOCK, known(chunk * _TOGETHER)
        query = known(first * BLOCK)
        at = known(scores + row * self.stride + query)
        score = emit.load(self.scores, at, lanes=lanes)
        masks = None if mask is None else emit.let(self._mask(T.min(key + row, self.p.keys - 1), query, lanes))
        if mask is not None:
            score = mask.apply(score, masks, UNIT)
        power = emit.let(vector.exp2_limited(score - emit.load(self.statistics, query, lanes=lanes), emit.bind))
        weight = emit.load(self.scores, at + self.square, lanes=lanes) - emit.load(self.shares, query, lanes=lanes)
        slope = weight * power
        if mask is not None and mask.fill is not None:
            slope = tirx.Select(mask.replaces(masks), emit.splat(0.0, lanes), slope)
        slope = emit.let(slope)
        emit.store(self.scores, slope, at + self.square, lanes=lanes)
        for number, values in enumerate((power, slope)):
            parts = pieces(values, 2 * steps)
            to = known((number * self.query_steps + first) * PANEL + row * LANES)
            pairs = list(zip(parts[::2], parts[1::2], strict=True))
            store_pairs(pairs, self.packed["block"], [to + i * PANEL for i in range(steps)])

    def _mask(self, key: Expr, query: Expr, lanes: int) -> Expr:
        mask = self.p.mask
        assert mask is not None
        index = mask.index(self.b, self.h, key, query)
        if mask.shape[3] == 1:
            return emit.splat(emit.element(self.buffers["mask"], *index), lanes)
        width = None if self.p.queries % (_TOGETHER * BLOCK) == 0 else known(T.min(self.p.queries - query, lanes))
        return emit.load(self.buffers["mask"], *index, lanes=lanes, width=width)

    def _turn(self, block: Expr, scores: Expr, item: Expr) -> None:
        """Transposes dS' of a block of keys and 16 queries: two parts transpose, two make pairs along the keys."""
        tile, part = known(item // _TURNS), known(item % _TURNS)
        with T.If(part < 2):
            with T.Then():
                first = known(scores + self.square + part * (LANES * self.stride) + tile * LANES)
                rows = [emit.let(emit.load(self.scores, first + i * self.stride, lanes=LANES)) for i in range(LANES)]
                for i, value in enumerate(emit.transpose(rows)):
                    emit.store(self.squares, value, part * tiles.TILE + i * LANES, lanes=LANES)
            with T.Else():
                panel = tile // 2 * (self.key_steps * PANEL) + block * PANEL
                start = known((part - 2) * (tiles.TILE // 2))
                to = known(panel + tile % 2 * tiles.TILE + start)
                for group in range(0, LANES // 2, 4):
                    rows = [(group + i) * LANES for i in range(4)]
                    u, v = ([emit.load(self.squares, start + half + row, lanes=LANES) for row in rows]
                            for half in (0, tiles.TILE))  # fmt: skip
                    store_pairs(list(zip(u, v, strict=True)), self.packed["slopes"], [to + row for row in rows])
