"""The projection of a softmax head in tile registers.

A task has a block of rows and a range of classes. The rows wait in the second cache, split into parts
(``tiles.split``); the classes pass by in panels, which the task splits itself just before, so that the split weights
are never in memory. A panel's sums are kept until the next panel: while the tile registers work on that, the vector
registers raise 2 to the scores of this one, a row between two products.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tvm import tirx
from tvm.tirx.script import builder as T

from bucketmod.compiler.kernels import emission as emit
from bucketmod.compiler.kernels import math as vector
from bucketmod.compiler.kernels import streams, tiles
from bucketmod.compiler.kernels.kernel import TensorShape
from bucketmod.compiler.kernels.products import tile_rest
from bucketmod.compiler.kernels.softmax import divide_row
from bucketmod.compiler.kernels.tiles import PARTS, SIDE, STEP, TILE

if TYPE_CHECKING:
    from bucketmod.compiler.kernels.softmax_head.softmax_head import SoftmaxProjection

Expr = Any

LEAST_CLASSES = 128  # with fewer, a range has no panels to work on beside the powers of others
_TILES = 2  # a product has so many tiles on each side
_WIDTH = _TILES * SIDE  # classes of a panel
_STEP_WORDS = PARTS * _TILES * TILE  # of a packed panel
_DEEP = 4  # steps along the depth: a panel of so many stays in the first cache beside what passes by
_SPLIT_ROWS = 1 << 20  # bytes of a block's split rows that stay in the second cache
_RANGES = 8  # of classes, where there are as many panels: threads share them evenly
_AHEAD = 2048  # values: rows that memory has are asked for so far ahead
_FLOPS_PER_NS = 300.0  # of one thread, to tell whether the product is worth several


@dataclass(frozen=True)
class TileCut:
    """``blocks`` of ``rows`` rows, the last of which overlaps the one before it; each is ``pairs`` of tiles of
    ``height`` rows. ``ranges`` of ``share`` panels of classes. ``steps`` along the depth, in ``depths`` pieces.
    ``words`` of two packed tiles side by side over the whole depth."""

    rows: int
    blocks: int
    height: int
    pairs: int
    ranges: int
    share: int
    steps: int
    depths: int
    words: int

    @staticmethod
    def of(kernel: SoftmaxProjection) -> TileCut:
        rest = tile_rest.words(kernel.depth)
        steps = kernel.depth // STEP if rest else -(-kernel.depth // STEP)
        words = steps * _STEP_WORDS + rest
        most = max(1, _SPLIT_ROWS // (4 * words)) * _WIDTH
        blocks = -(-kernel.rows // most)
        rows = -(-kernel.rows // blocks)
        pairs = -(-rows // (_TILES * SIDE))
        panels = -(-kernel.classes // _WIDTH)
        share = -(-panels // _RANGES)
        height, ranges, depths = -(-rows // (_TILES * pairs)), -(-panels // share), -(-steps // _DEEP)
        return TileCut(rows, blocks, height, pairs, ranges, share, steps, depths, words)

    @property
    def pair_rows(self) -> int:
        return _TILES * self.height

    @property
    def sums(self) -> int:
        """Sums of a range in a block: one for each row, in whole vectors."""
        return -(-self.rows // SIDE) * SIDE

    @property
    def scratch(self) -> list[TensorShape]:
        split = self.blocks * self.pairs * self.words
        return [((split,), "uint32"), ((self.blocks * self.ranges * self.sums,), "float32")]


class TileEmitter:
    def __init__(self, kernel: SoftmaxProjection, buffers: dict[str, Any]):
        self.kernel, self.cut = kernel, TileCut.of(kernel)
        self.x, self.w, self.p, self.left, self.sums = (buffers[name] for name in ("x", "w", "p", "left", "sums"))
        self.bias = buffers.get("bias")
        self.rest = tile_rest.count(kernel.depth)
        self.panels = -(-kernel.classes // _WIDTH)

    def run(self) -> None:
        kernel, cut = self.kernel, self.cut
        rows = cut.blocks * cut.pairs * cut.pair_rows
        with streams.tasks(rows, rows * kernel.depth * 4 * streams.NS_PER_FLOAT) as row:
            self.split_row(row)
        with streams.tasks(cut.blocks * cut.ranges, kernel.flops / _FLOPS_PER_NS) as task:
            self.task(T.bind(task // cut.ranges), T.bind(task % cut.ranges))
        with streams.tasks(kernel.rows, kernel.rows * kernel.classes * 2 * streams.NS_PER_FLOAT) as row:
            self.finish(row)

    def first_row(self, block: Expr) -> Expr:
        return T.min(block * self.cut.rows, self.kernel.rows - self.cut.rows)

    def split_row(self, number: Expr) -> None:
        """Splits a row of x, times log2(e): the scores are exponents of 2. The last tiles of a block repeat its last
        row."""
        cut = self.cut
        tile, block_rows = T.bind(number // cut.height), cut.pairs * cut.pair_rows
        row = T.bind(self.first_row(number // block_rows) + T.min(number % block_rows, cut.rows - 1))
        at = tile // _TILES * cut.words + tile % _TILES * TILE + number % cut.height * SIDE
        at = T.bind(at)

        def split(step: Expr, width: int) -> None:
            halves = [half * emit.splat(vector.LOG2_E, SIDE) for half in _halves(self.x, row, step, width)]
            place = at + step * _STEP_WORDS
            if width < STEP and self.rest:
                tile_rest.store_row(halves, self.kernel.depth, 0, self.left, place, _TILES * TILE)
            else:
                tiles.store_parts(tiles.split(*halves), self.left, place, _TILES * TILE)

        self.over_depth(split)

    def over_depth(self, emit_step: Callable[[Expr, int], None]) -> None:
        """``emit_step(step, width)`` for all steps; the last may have less than 32 values."""
        whole, rest = divmod(self.kernel.depth, STEP)
        with T.serial(whole) as step:
            emit_step(step, STEP)
        if rest:
            emit_step(whole, rest)

    def task(self, block: Expr, number: Expr) -> None:
        cut = self.cut
        self.block, self.row = block, T.bind(self.first_row(block))
        self.right = tiles.packed(cut.words)
        self.scores = emit.scratch(2 * cut.pairs * cut.pair_rows * _WIDTH)  # of this panel and the one before it
        self.biases = emit.scratch(2 * _WIDTH)
        self.lanes = emit.scratch(cut.sums * SIDE)  # sums of each row so far, lane by lane
        self.lines = emit.scratch(2 * (_WIDTH + 2 * emit.LINE))  # of two rows, as they go to p
        self.waiting = emit.scratch(cut.sums * emit.LINE)  # the last powers of each row
        with T.serial(cut.sums) as row:
            emit.store(self.lanes, emit.splat(0.0, SIDE), row * SIDE, lanes=SIDE)
        self.first = T.bind(number * cut.share)
        count = T.bind(T.min(cut.share, self.panels - self.first))
        self.last = T.bind(count - 1)
        with tiles.tile_registers(cut.height):
            with T.serial(count) as index:
                self.pack(index)
                with T.serial(cut.depths) as piece, T.serial(cut.pairs) as pair:
                    self.unit(index, piece, pair)
        with T.serial(cut.rows) as row:
            self.raise_row(self.last, row)
        T.evaluate(T.call_llvm_intrin("void", "llvm.x86.sse.sfence"))
        with T.serial(cut.sums // SIDE) as square:
            sums = emit.transpose([emit.load(self.lanes, (square * SIDE + r) * SIDE, lanes=SIDE) for r in range(SIDE)])
            while len(sums) > 1:
                sums = [emit.let(a + b) for a, b in zip(sums[::2], sums[1::2], strict=True)]
            emit.store(self.sums, sums[0], (block * cut.ranges + number) * cut.sums + square * SIDE, lanes=SIDE)

    def pack(self, index: Expr) -> None:
        """Splits the task's panel ``index``. Classes that do not exist repeat the last one and have a bias of -inf."""
        kernel = self.kernel
        panel = T.bind((self.first + index) * _WIDTH)
        for tile in range(_TILES):
            column = panel + tile * SIDE
            bias = emit.splat(0.0, SIDE)
            if self.bias is not None:
                bias = emit.load(self.bias, column, lanes=SIDE, width=kernel.classes - column)
                bias = bias * emit.splat(vector.LOG2_E, SIDE)
            present = T.ramp(column, 1, SIDE) < tirx.Broadcast(T.int32(kernel.classes), SIDE)
            bias = tirx.Select(present, bias, emit.splat(float("-inf"), SIDE))
            emit.store(self.biases, bias, index % 2 * _WIDTH + tile * SIDE, lanes=SIDE)
        with T.serial(_TILES) as tile:
            self.over_depth(lambda step, width: self.pack_tile(panel, tile, step, width))

    def pack_tile(self, panel: Expr, tile: Expr, step: Expr, width: int) -> None:
        """The first ``width`` values of a step of 16 classes."""

        def row(r: Expr) -> Expr:
            return T.min(panel + tile * SIDE + r, self.kernel.classes - 1)

        at = step * _STEP_WORDS + tile * TILE
        if width < STEP and self.rest:
            read = functools.partial(_halves, self.w, step=step, width=width)
            tile_rest.store_columns(lambda r: read(row(r)), self.kernel.depth, self.right, at, _TILES * TILE)
            return
        rows = [_halves(self.w, row(r), step, width) for r in range(SIDE)]
        halves = [emit.transpose([emit.let(half) for half in side]) for side in zip(*rows, strict=True)]
        for pair, (u, v) in enumerate(zip(*halves, strict=True)):
            tiles.store_parts(tiles.split(u, v), self.right, at + pair * SIDE, _TILES * TILE)

    def unit(self, index: Expr, piece: Expr, pair: Expr) -> None:
        """A pair of tiles of rows by the panel, over a piece of the depth; meanwhile powers of the panel before."""
        cut = self.cut
        start = T.bind(piece * cut.steps // cut.depths)
        steps = T.bind((piece + 1) * cut.steps // cut.depths - start)
        sums = T.bind(self.scores_of(index, pair * cut.pair_rows))
        places = [
            sums + (tile * cut.height * _WIDTH + column * SIDE) for tile in range(_TILES) for column in range(_TILES)
        ]
        with T.If(piece == 0):
            with T.Then():
                for register in range(len(places)):
                    tiles.zero(register)
            with T.Else():
                for register, place in enumerate(places):
                    tiles.load(register, self.scores, place, 4 * _WIDTH)
        rows_at = T.bind((self.block * cut.pairs + pair) * cut.words)
        left = tiles.Panel(self.left, rows_at + start * _STEP_WORDS, _TILES, _TILES)
        right = tiles.Panel(self.right, start * _STEP_WORDS, _TILES, _TILES)
        tiles.multiply(left, right, steps, between=self.meanwhile(index, piece, pair, start, steps))
        if self.rest:
            with T.If(piece == cut.depths - 1), T.Then():
                whole = cut.steps * _STEP_WORDS
                tile_rest.multiply(self.left, rows_at + whole, self.right, whole, self.kernel.depth)
        for register, place in enumerate(places):
            tiles.store(register, self.scores, place, 4 * _WIDTH)

    def meanwhile(self, index: Expr, piece: Expr, pair: Expr, start: Expr, steps: Expr) -> Callable[[Expr, int], None]:
        """What ``unit`` does between products, a little at a time: powers of the panel before, and fetching the next
        panel. ``start``: the steps before this piece."""
        cut = self.cut
        # Rows of this unit, and of each of its steps.
        rows = -(-cut.pair_rows // cut.depths)
        each = -(-rows // (cut.steps // cut.depths))
        first = T.bind(pair * cut.pair_rows + piece * rows)
        end = T.bind(T.min(T.min(first + rows, (pair + 1) * cut.pair_rows), cut.rows))
        end = T.bind(T.if_then_else(index > 0, end, 0))

        # The lines of the next panel are shared out among the products of this one.
        slots = cut.pairs * cut.steps * tiles.PRODUCTS
        values = _WIDTH * self.kernel.depth
        lines = -(-values // (emit.LINE * slots))
        done = (start * cut.pairs + pair * steps) * (tiles.PRODUCTS * lines * emit.LINE)
        place = T.bind((self.first + index + 1) * values + done)

        def between(step: Expr, number: int) -> None:
            for line in range(lines):
                at = place + ((step * tiles.PRODUCTS + number) * lines + line) * emit.LINE
                emit.prefetch(self.w, 0, at)
            begin, stop = number * each // tiles.PRODUCTS, (number + 1) * each // tiles.PRODUCTS
            row = T.bind(first + step * each + begin)
            if stop - begin == 1:
                with T.If(row < end), T.Then():
                    self.raise_row(index - 1, row)
            elif stop > begin:
                with T.serial(T.max(T.min(stop - begin, end - row), 0)) as r:
                    self.raise_row(index - 1, row + r)

        return between

    def scores_of(self, index: Expr, row: Expr) -> Expr:
        return (index % 2 * (self.cut.pairs * self.cut.pair_rows) + row) * _WIDTH

    def raise_row(self, index: Expr, row: Expr) -> None:
        """2^score of a row of the block, for the classes of a panel, and their sum."""
        total = emit.Register(SIDE)
        total.value = emit.load(self.lanes, row * SIDE, lanes=SIDE)
        powers: list[Expr] = []
        for tile in range(_TILES):
            at = tile * SIDE
            score = emit.load(self.scores, self.scores_of(index, row) + at, lanes=SIDE)
            score = score + emit.load(self.biases, index % 2 * _WIDTH + at, lanes=SIDE)
            power = streams.hold(vector.exp2_saturated(score))
            powers.append(power.value)
            total.value = total.value + power.value
        emit.store(self.lanes, total.value, row * SIDE, lanes=SIDE)
        self.write(index, row, powers)

    def write(self, index: Expr, row: Expr, powers: list[Expr]) -> None:
        """The classes of a panel in a row of p, in whole lines past the caches: to fetch what is overwritten would hold
        up the tiles. Where rows start within a line, what does not fill one waits for the next panel."""
        first, line = T.bind((self.first + index) * _WIDTH), emit.LINE
        width = T.bind(T.min(self.kernel.classes - first, _WIDTH))
        at = T.bind(row % 2 * (_WIDTH + line) + line)  # of the new values in ``lines``
        for number, power in enumerate(powers):
            emit.store(self.lines, power, at + number * SIDE, lanes=SIDE)
        row_of_p = T.bind(self.row + row)
        waiting: Expr = 0
        if self.kernel.classes % line:
            waiting = T.bind(row_of_p % line * (self.kernel.classes % line) % line)
            emit.store(self.lines, emit.load(self.waiting, row * line, lanes=line), at - line, lanes=line)
            emit.store(self.waiting, powers[-1], row * line, lanes=line)
        lines = T.bind((waiting + width) // line)
        for number in range(_TILES):
            column, source = first - waiting + number * line, at - waiting + number * line
            if self.kernel.classes % line and number == 0:
                with T.If(tirx.all(index == 0, waiting > 0)):
                    with T.Then():  # the first values of this line are another task's, or another row's
                        count = T.bind(T.min(line - waiting, width))
                        emit.store(self.p, powers[0], row_of_p, first, lanes=line, width=count)
                    with T.Else(), T.If(lines > 0), T.Then():
                        self.put(row_of_p, column, source)
            else:
                with T.If(lines > number), T.Then():
                    self.put(row_of_p, column, source)
        if self.kernel.classes % line:
            rest = T.bind(waiting + width - lines * line)
            with T.If(tirx.all(index == self.last, rest > 0, tirx.any(lines > 0, index > 0, waiting == 0))), T.Then():
                value = emit.load(self.lines, at - waiting + lines * line, lanes=line)
                emit.store(self.p, value, row_of_p, first - waiting + lines * line, lanes=line, width=rest)

    def put(self, row: Expr, column: Expr, source: Expr) -> None:
        places = T.address_of(self.p[row, column]), T.address_of(self.lines[source])
        T.evaluate(T.call_llvm_intrin("void", "llvm.x86.movdir64b", *places))

    def finish(self, row: Expr) -> None:
        """From powers to probabilities."""
        cut = self.cut
        block = T.bind(T.min(row // cut.rows, cut.blocks - 1))
        at = T.bind(block * cut.ranges * cut.sums + row - self.first_row(block))
        total = emit.Register(1)
        total.value = T.float32(0.0)
        with T.serial(cut.ranges) as number:
            total.value = total.value + self.sums[at + number * cut.sums]
        divide_row(self.p, row, self.kernel.classes, T.bind(total.value), SIDE, lambda: self.write_scores(row), _AHEAD)

    def write_scores(self, row: Expr) -> None:
        """The scores of a row: products with one class in each register, along the depth."""
        kernel = self.kernel
        with T.serial(-(-kernel.classes // SIDE)) as group:
            first = T.bind(group * SIDE)
            sums = [emit.Register(SIDE) for _ in range(SIDE)]
            for total in sums:
                total.value = emit.splat(0.0, SIDE)

            def add(_slot: int, k: Expr, width: int) -> None:
                value = emit.let(emit.load(self.x, row, k, lanes=SIDE, width=width))
                for r, total in enumerate(sums):
                    number = T.min(first + r, kernel.classes - 1)
                    total.value = total.value + value * emit.load(self.w, number, k, lanes=SIDE, width=width)

            streams.walk(kernel.depth, SIDE, add, unroll=1)
            columns = emit.transpose([total.value for total in sums])
            while len(columns) > 1:
                columns = [emit.let(a + b) for a, b in zip(columns[::2], columns[1::2], strict=True)]
            score, width = columns[0], T.bind(kernel.classes - first)
            if self.bias is not None:
                score = score + emit.load(self.bias, first, lanes=SIDE, width=width)
            emit.store(self.p, score, row, first, lanes=SIDE, width=width)


def _halves(buffer: Expr, row: Expr, step: Expr, width: int) -> list[Expr]:
    """The first ``width`` values of a step of a row, in two vectors with zeros at the end."""
    halves = []
    for first in (0, SIDE):
        value = emit.splat(0.0, SIDE)
        if width > first:
            value = emit.load(buffer, row, step * STEP + first, lanes=SIDE, width=width - first)
        halves.append(value)
    return halves
