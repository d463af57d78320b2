"""What both directions of a loop over time share: threads, tiles, vectors of hidden units, what is fetched ahead."""

from __future__ import annotations

import functools
import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tvm import tirx
from tvm.tirx.script import builder as T

from bucketmod.compiler.kernels import emission as emit
from bucketmod.compiler.kernels import math
from bucketmod.compiler.kernels.recurrence.cells import Maths

if TYPE_CHECKING:
    from bucketmod.compiler.kernels.recurrence.loop_tiling import Tiling
    from bucketmod.compiler.kernels.recurrence.time_loop import TimeLoop

Expr = Any
_SOON = 16  # steps of k, some 150 cycles: longer than the second cache takes
_CHEAP_MASKS = 16  # lanes from which on they are: AVX-512
Sums = dict[tuple[int, int], emit.Register]


@dataclass(frozen=True)
class Tile:
    """Tile ``number`` of a column: ``width`` vectors of units from ``unit``, ``rows`` of the batch from ``first``."""

    number: Expr
    unit: Expr
    width: Expr
    first: Expr
    rows: Expr


class LoopEmitter(ABC):
    """Base of the emitters of one direction. ``time``: of the step that is being emitted."""

    time: Expr

    def __init__(self, loop: TimeLoop, tiling: Tiling, buffers: dict[str, Any]):
        self.loop, self.cell, self.tiling, self.buffers = loop, loop.cell, tiling, buffers
        self.lanes = tiling.lanes
        self.maths = vector_maths()
        self.partial = bool(loop.hidden % tiling.lanes)  # whether a vector of units may have lanes that do not exist

    @property
    @abstractmethod
    def sums(self) -> int:
        """How many a step has for each hidden unit."""

    def run(self) -> None:
        with self.threads():
            self.loop_over_time()

    @abstractmethod
    def loop_over_time(self) -> None:
        """Emits everything that runs on all threads."""

    def threads(self) -> AbstractContextManager[Any]:
        """Everything inside runs on every thread at once, but for the ``shared`` loops."""
        return T.attr("default", "pragma_parallel_launch_point", 1) if self.tiling.parallel else nullcontext()

    @contextmanager
    def shared(self, extent: Expr) -> Iterator[Expr]:
        """A loop that the threads share; they wait for each other at its end. Each always gets the same part of it, so
        that its weights stay in its caches."""
        if not self.tiling.parallel:
            with T.serial(extent) as index:
                yield index
            return
        with T.attr("default", "pragma_parallel_barrier_when_finish", 1), T.parallel(extent) as index:
            yield index

    def width(self, unit: Expr) -> Expr | None:
        """How many lanes of a vector of units exist; None where all do."""
        return self.loop.hidden - unit * self.lanes if self.partial else None

    def load(self, name: str, *indices: Expr, unit: Expr, array: int = 0) -> Expr:
        """A vector of units in array ``array`` of those that stand side by side along the last axis."""
        at = array * self.loop.hidden + unit * self.lanes
        return emit.load(self.buffers[name], *indices, at, lanes=self.lanes, width=self.width(unit))

    def store(self, name: str, value: Expr, *indices: Expr, unit: Expr, array: int = 0) -> None:
        at = array * self.loop.hidden + unit * self.lanes
        emit.store(self.buffers[name], value, *indices, at, lanes=self.lanes, width=self.width(unit))

    def load_padded(self, name: str, *indices: Expr, unit: Expr) -> Expr:
        return emit.load(self.buffers[name], *indices, unit * self.lanes, lanes=self.lanes)

    def store_padded(self, name: str, value: Expr, *indices: Expr, unit: Expr) -> None:
        emit.store(self.buffers[name], value, *indices, unit * self.lanes, lanes=self.lanes)

    @contextmanager
    def each_vector(self) -> Iterator[tuple[Expr, Expr]]:
        """Row and unit for all of a state [N, H]."""
        with self.shared(self.loop.batch) as row, T.serial(self.tiling.units) as unit:
            yield row, unit

    def over_time(self, steps: int, begin: Callable[[Expr], None]) -> None:
        """Emits the loop over time: ``begin(step)``, then all tiles. Threads share either the rows of the batch, which
        have nothing to do with each other, or the tiles of each step, of which neighbours share a column's weights."""
        t = self.tiling
        if t.by_rows:
            with self.shared(t.tiles) as number, T.serial(steps) as step:
                begin(step)
                with T.serial(t.blocks) as column:
                    self.tile(column, number)
            return
        with T.serial(steps) as step:
            begin(step)
            with self.shared(t.blocks * t.tiles) as task:
                self.tile(T.bind(task // t.tiles), T.bind(task % t.tiles))

    def tile(self, column: Expr, number: Expr) -> None:
        """The product for the size that this tile has, one of up to four; its sums go into memory, a buffer
        [unit, row] each gate, so that the equations are emitted only once."""
        t = self.tiling
        place = self.place(column, number)
        widths = (t.width, t.width - 1)[: 1 + bool(t.narrow)]
        heights = (t.rows, t.rows - 1)[: 1 + bool(self.loop.batch % t.tiles)]
        self.fetch_rows(place)
        buffers = [emit.scratch(t.width * t.rows * self.lanes) for _ in range(self.sums)]

        def product(w: int, r: int) -> None:
            sums = {at: emit.Register(self.lanes) for at in itertools.product(range(r), range(w * self.sums))}
            self.product(replace(place, width=w, rows=r), sums)
            for (row, column), total in sums.items():
                v, gate = divmod(column, self.sums)
                emit.store(buffers[gate], total.value, (v * t.rows + row) * self.lanes, lanes=self.lanes)

        for w, r in itertools.product(widths, heights):
            conditions = [place.width == w] * (len(widths) > 1) + [place.rows == r] * (len(heights) > 1)
            emit.when(conditions, functools.partial(product, w, r))

        def sums(v: Expr, row: Expr) -> list[Expr]:
            return [emit.load(buffer, (v * t.rows + row) * self.lanes, lanes=self.lanes) for buffer in buffers]

        with T.serial(place.width) as v:
            unit = T.bind(place.unit + v)
            self.whole_or_not(unit, lambda: self.equations_of_rows(place, unit, functools.partial(sums, v)))

    def whole_or_not(self, unit: Expr, body: Callable[[], None]) -> None:
        """Emits ``body`` for a vector of units, and once more for the last one where that has lanes that do not exist:
        with AVX2 a store that leaves some out takes some 25 cycles on AMD."""
        rest = self.loop.hidden % self.lanes
        if not rest or self.lanes >= _CHEAP_MASKS:
            body()
            return
        with T.If(unit < self.loop.hidden // self.lanes):
            with T.Then():
                self.partial = False
                body()
            with T.Else():
                self.partial = True
                body()

    def place(self, column: Expr, number: Expr) -> Tile:
        """Tile ``number`` of a column."""
        t = self.tiling
        wide = t.blocks - t.narrow
        unit = T.bind(column * t.width - T.max(column - wide, 0) if t.narrow else column * t.width)
        width = T.bind(T.Select(column < wide, t.width, t.width - 1)) if t.narrow else t.width
        first = self.first_row(number)
        rows = T.bind(self.first_row(number + 1) - first) if self.loop.batch % t.tiles else t.rows
        return Tile(number, unit, width, first, rows)

    @abstractmethod
    def product(self, tile: Tile, sums: Sums) -> None:
        """Emits the ``sums`` of a tile of known size."""

    @abstractmethod
    def equations_of_rows(self, tile: Tile, unit: Expr, sums: Callable[[Expr], list[Expr]]) -> None:
        """Emits the equations for one unit and all rows of a tile. ``sums(row)``: one for each gate."""

    @abstractmethod
    def touched(self) -> dict[str, int]:
        """Sequences that the equations read or write at ``self.time``, with the number of arrays in each."""

    def first_row(self, tile: Expr) -> Expr:
        """Lower tiles stand among the higher ones, so that each half of the tiles has half of the rows."""
        return T.bind(tile * self.loop.batch // self.tiling.tiles)

    def fetch_rows(self, tile: Tile) -> None:
        """Starts to fetch what the equations of a tile will touch: it lies in short pieces far apart, so that no CPU
        guesses it, and comes while the product runs.

        The last value of a vector is named: where the vector reaches into two lines, the tile before this one has
        fetched the first of them.
        """
        with T.serial(tile.rows) as row, T.serial(tile.width) as v:
            self.fetch_row(tile.unit + v, tile.first + row)

    def fetch_row(self, unit: Expr, row: Expr) -> None:
        """The same for one row of a vector of units."""
        for name, arrays in self.touched().items():
            for array in range(arrays):
                at = array * self.loop.hidden + unit * self.lanes + self.lanes - 1
                emit.prefetch(self.buffers[name], self.time, row, at)

    def fetch_weights(self, tile: Tile, k: Expr) -> None:
        """Starts to fetch weights, while the product of a tile is at ``k``: into the first cache what comes a little
        later; into the second, where it does not keep all, some lines of what the next column of tiles needs. All tiles
        of this column together fetch all of that, evenly over time.
        """
        packed = self.buffers["packed"]
        depth, values = (int(d) for d in packed.shape[1:])  # of one unit
        vectors, lines = tile.width * values // self.lanes, tile.width * -(-values // emit.LINE)
        loads = tile.rows + vectors + lines
        if 4 * loads <= 3 * tile.rows * vectors:  # two loads a cycle are no more work than two multiply-adds
            for v, at in itertools.product(range(tile.width), range(0, values, emit.LINE)):
                emit.prefetch(packed, tile.unit + v, k + _SOON, at, first=True)
        t = self.tiling
        if t.fetch_ahead:
            column = -(-tile.width * depth * values // emit.LINE)  # lines, which lie there one after the other
            each = -(-column // (t.tiles * depth))
            needed = -(-column // (each * depth))  # tiles

            def fetch() -> None:
                for i in range(each):
                    at = ((tile.number * depth + k) * each + i) * emit.LINE
                    emit.prefetch(packed, tile.unit + t.width, 0, at)

            emit.when([tile.number < needed] if needed < t.tiles else [], fetch)


def vector_maths() -> Maths:
    """The equations of ``cells.py`` on vectors in registers."""

    def relu(x: Expr) -> Expr:
        return tirx.Select(x < math.constant(0.0, x), math.constant(0.0, x), x)

    def where_positive(x: Expr, y: Expr) -> Expr:
        return tirx.Select(x > math.constant(0.0, x), y, math.constant(0.0, y))

    def divide(x: Expr, y: Expr) -> Expr:
        return math.divide_near_one(x, y, emit.bind)

    return Maths(
        lambda x: math.sigmoid(x, emit.bind, divide),
        lambda x: math.tanh(x, emit.bind, divide),
        relu,
        where_positive,
        emit.let,
    )
