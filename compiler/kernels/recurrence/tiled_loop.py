"""Emits the loop over time of a recurrent layer with its products in tile registers.

Threads share the rows of the batch. The weight is split once a call, the state (backward: the gradients of the gates)
in every step, while the first column of tiles is computed. Beside each further column run the equations of the one
before it: little by little, for a CPU looks only some 500 instructions ahead.
"""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tvm import tirx
from tvm.tirx.script import builder as T

from bucketmod.compiler.kernels import emission as emit
from bucketmod.compiler.kernels import tiles
from bucketmod.compiler.kernels.recurrence.backward_loop import BackwardEmitter
from bucketmod.compiler.kernels.recurrence.forward_loop import ForwardEmitter
from bucketmod.compiler.kernels.recurrence.loop_emission import LoopEmitter, Tile
from bucketmod.compiler.kernels.tiles import PARTS, SIDE, STEP, TILE

if TYPE_CHECKING:
    from bucketmod.compiler.kernels.recurrence.loop_tiling import TileTiling

Expr = Any
_TURNS = 3  # how often in a step of k the products pause for something else


class TiledLoop(LoopEmitter):
    """Buffers: ``packed`` [column, step of k, part, register], ``left`` [tile, step of k, part], all split."""

    tiling: TileTiling

    def run(self) -> None:
        with self.threads(), tiles.tile_registers(self.tiling.rows, left_tiles=1):
            self.loop_over_time()

    @abstractmethod
    def split_weight(self, unit: Expr, array: Expr, step: Expr, at: Expr, apart: Expr) -> None:
        """Emits the split of one step of k for the weights of a vector of units: the first part goes to word ``at`` of
        ``packed``, each next one ``apart`` words later."""

    @abstractmethod
    def left_value(self, row: Expr, k: Expr) -> Expr:
        """Sixteen values of the left operand, from ``k`` on along the depth; zeros beyond its end."""

    def pack_weight(self) -> None:
        t = self.tiling
        with self.shared(t.blocks) as column:
            place = self.place(column, 0)
            registers = place.width * self.sums
            with T.serial(registers) as register, T.serial(t.steps) as step:
                at = T.bind(self.panel(place) + step * PARTS * registers * TILE + register * TILE)
                self.split_weight(
                    T.bind(place.unit + register // self.sums), register % self.sums, step, at, registers * TILE
                )

    def panel(self, place: Tile) -> Expr:
        """Where the column starts in ``packed``."""
        return T.bind(place.unit * (self.sums * self.tiling.steps * PARTS * TILE))

    def over_time(self, steps: int, begin: Callable[[Expr], None]) -> None:
        t = self.tiling
        with self.shared(t.tiles) as number:
            # Sums of the column that is multiplied and of that before it.
            self.results = [emit.scratch(2 * t.width * t.rows * SIDE) for _ in range(self.sums)]
            with T.serial(steps) as step:
                begin(step)
                with T.If(self.multiplies(0)), T.Then():
                    self.split_left(number, 0, 0, t.rows)
                self.fetch_rows(self.place(0, number))
                with T.serial(t.blocks + 1) as column:
                    self.column(column, number)

    def column(self, column: Expr, number: Expr) -> None:
        """The product of a column of tiles, where there is one, and beside it the equations of the column before."""
        t = self.tiling
        now, before = self.place(column, number), self.place(column - 1, number)
        half = t.width * t.rows * SIDE  # of the results
        registers = opaque(T.Select(self.multiplies(column), now.width * self.sums, 0))
        vectors = T.bind(T.Select(column > 0, before.width * before.rows, 0))
        splits = opaque(T.Select(tirx.all(self.multiplies(column), column == 0), t.steps, 0))
        for register in range(t.width * self.sums):
            tiles.zero(register)
        with T.serial(t.steps) as k, T.serial(_TURNS) as turn:
            self.multiply(now, registers, k, turn)
            count, parts = k * _TURNS + turn, t.steps * _TURNS
            first = T.bind(count * vectors // parts)
            with T.serial((count + 1) * vectors // parts - first) as i:
                self.equations_of_vector(before, now, T.bind(first + i), T.bind((column + 1) % 2 * half))
            with T.If(k + 1 < splits), T.Then():
                self.split_left(number, k + 1, turn * t.rows // _TURNS, (turn + 1) * t.rows // _TURNS)
        into = T.bind(column % 2 * half)
        for register in range(t.width * self.sums):
            v, array = divmod(register, self.sums)
            tiles.store(register, self.results[array], into + v * t.rows * SIDE)

    def multiplies(self, column: Expr) -> Expr:
        """Whether there is a product to compute for a column."""
        return column < self.tiling.blocks

    def multiply(self, place: Tile, registers: Expr, k: Expr, turn: Expr) -> None:
        """A third of the products for step ``k``."""
        t = self.tiling
        left = tiles.Panel(self.buffers["left"], place.number * (t.steps * PARTS * TILE), tiles=1, stride=1)
        first = self.panel(place)

        def products(count: int) -> None:
            pieces = tiles.sixths(left, tiles.Panel(self.buffers["packed"], first, count, count), k)
            for number in range(_TURNS):
                with T.If(turn == number), T.Then():
                    for _ in range(tiles.PRODUCTS // _TURNS):
                        next(pieces)

        for width in (t.width, t.width - 1)[: 1 + bool(t.narrow)]:
            emit.when([registers == width * self.sums], functools.partial(products, width * self.sums))

    def split_left(self, number: Expr, step: Expr, begin: Expr, end: Expr) -> None:
        """Splits rows ``begin`` to ``end`` of a tile for one step of k."""
        place = self.place(0, number)
        with T.serial(T.min(end, place.rows) - begin) as i:
            row = T.bind(begin + i)
            parts = tiles.split(*(self.left_value(place.first + row, step * STEP + at) for at in (0, SIDE)))
            at = T.bind((number * self.tiling.steps + step) * (PARTS * TILE) + row * SIDE)
            tiles.store_parts(parts, self.buffers["left"], at, TILE)

    def equations_of_vector(self, place: Tile, following: Tile, index: Expr, results: Expr) -> None:
        """The equations for a vector of units in one row; starts to fetch the same of the ``following`` column."""
        t = self.tiling
        v = opaque(index // place.rows)
        row = opaque(index - v * place.rows)
        unit, at = opaque(place.unit + v), opaque(results + (v * t.rows + row) * SIDE)
        one = replace(place, first=opaque(place.first + row), rows=1)
        self.equations_of_rows(one, unit, lambda _: [
            self.completed(emit.load(sums, at, lanes=SIDE), unit, array) for array, sums in enumerate(self.results)
        ])  # fmt: skip
        self.fetch_row(following.unit + v, one.first)

    def completed(self, product: Expr, unit: Expr, array: int) -> Expr:
        """A sum with what is not part of the product."""
        return product


class TiledForward(TiledLoop, ForwardEmitter):
    """Multiplies the state by the transposed weight."""

    def left_value(self, row: Expr, k: Expr) -> Expr:
        hidden = self.loop.hidden
        width = hidden - k if hidden % STEP else None
        return emit.load(self.buffers["state"], self.old, row, k, lanes=SIDE, width=width)

    def split_weight(self, unit: Expr, array: Expr, step: Expr, at: Expr, apart: Expr) -> None:
        """Lanes beyond the last unit repeat it."""
        hidden, columns = self.loop.hidden, emit.scratch(STEP * SIDE)

        def weight(lane: int, k: Expr, count: int) -> Expr:
            row, at = array * hidden + T.min(unit * SIDE + lane, hidden - 1), step * STEP + k
            return emit.let(emit.load(self.buffers["W"], row, at, lanes=count, width=hidden - at))

        def keep(k: Expr, column: Expr) -> None:
            emit.store(columns, column, k * SIDE, lanes=SIDE)

        emit.copy_transposed(weight, keep, STEP, SIDE, SIDE)
        with T.serial(SIDE) as pair:
            parts = tiles.split(*(emit.load(columns, (half + pair) * SIDE, lanes=SIDE) for half in (0, SIDE)))
            tiles.store_parts(parts, self.buffers["packed"], at + pair * SIDE, apart)

    def completed(self, product: Expr, unit: Expr, array: int) -> Expr:
        return product + self.load("bias", unit=unit, array=array)


class TiledBackward(TiledLoop, BackwardEmitter):
    """Multiplies the gate gradients of the step before, which is the time after, by the weight."""

    def begin(self, step: Expr) -> None:
        super().begin(step)
        self.step = opaque(step)
        self.after = T.bind(self.time - 1 if self.loop.reverse else self.time + 1)

    def left_value(self, row: Expr, k: Expr) -> Expr:
        depth = self.cell.gates * self.loop.hidden
        width = depth - k if depth % STEP else None
        return emit.load(self.buffers[self.names[-1]], self.after, row, k, lanes=SIDE, width=width)

    def split_weight(self, unit: Expr, array: Expr, step: Expr, at: Expr, apart: Expr) -> None:
        """Beyond the depth the left operand is 0, and any numbers will do."""
        last = self.cell.gates * self.loop.hidden - 1
        with T.serial(SIDE) as pair:
            rows = [T.min(step * STEP + half + pair, last) for half in (0, SIDE)]
            parts = tiles.split(*(self.load("W", row, unit=unit) for row in rows))
            tiles.store_parts(parts, self.buffers["packed"], at + pair * SIDE, apart)

    def multiplies(self, column: Expr) -> Expr:
        return tirx.all(super().multiplies(column), self.step > 0)

    def begins(self, tile: Tile) -> Expr:
        return tirx.all(self.step == 0, tile.first == self.first_row(tile.number))

    def state_gradient(self, unit: Expr, row: Expr, product: Expr) -> Expr:
        total = emit.Register(self.lanes)
        total.value = super().state_gradient(unit, row, product)
        if "dhn" in self.buffers:
            with T.If(self.step == 0), T.Then():
                total.value = total.value + self.load("dhn", row, unit=unit)
        return total.value


def opaque(value: Expr) -> Expr:
    """``value``, which TVM does not see through: it would simplify at length whatever depends on it, and move
    conditions on it out of all loops, with a copy of what is in them."""
    return emit.let(value)
