"""What both directions of a loop over time share: threads, tiles, vectors of hidden units, what is fetched ahead."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from tvm import tirx
from tvm.tirx.script import builder as T

from bucketmod.compiler.kernels import emission as emit
from bucketmod.compiler.kernels import math
from bucketmod.compiler.kernels.cells import Maths

if TYPE_CHECKING:
    from bucketmod.compiler.kernels.time_loop import Tiling, TimeLoop

Expr = Any
_SOON = 16  # steps of k, some 150 cycles: longer than the second cache takes
Sums = dict[tuple[int, int], emit.Register]


class LoopEmitter:
    """Base of the emitters of one direction."""

    def __init__(self, loop: TimeLoop, tiling: Tiling, buffers: dict[str, Any]):
        self.loop, self.cell, self.tiling, self.buffers = loop, loop.cell, tiling, buffers
        self.lanes = tiling.lanes
        self.maths = vector_maths()

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
        """How many lanes of a vector of units exist; None where all vectors are full."""
        return self.loop.hidden - unit * self.lanes if self.loop.hidden % self.lanes else None

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

    def over_time(
        self, steps: int, begin: Callable[[Expr], None], body: Callable[[Expr, int, Expr, int], None]
    ) -> None:
        """Emits the loop over time. Each step is ``begin(step)``, then ``body(first unit, width, tile, rows)`` for each
        tile. Threads share either the rows of the batch, which have nothing to do with each other, or the tiles of each
        step, of which neighbours share the weights of a column."""
        t = self.tiling
        if t.by_rows:
            with self.shared(t.tiles) as tile, T.serial(steps) as step:
                begin(step)
                with T.serial(t.blocks) as column:
                    self.tile_of(column, tile, body)
            return
        with T.serial(steps) as step:
            begin(step)
            with self.shared(t.blocks * t.tiles) as task:
                self.tile_of(T.bind(task // t.tiles), T.bind(task % t.tiles), body)

    def tile_of(self, column: Expr, tile: Expr, body: Callable[[Expr, int, Expr, int], None]) -> None:
        """``body`` for the size that this tile has, one of up to four."""
        t, batch = self.tiling, self.loop.batch
        wide = t.blocks - t.narrow
        unit = T.bind(column * t.width - T.max(column - wide, 0) if t.narrow else column * t.width)
        for width in (t.width, t.width - 1)[: 1 + bool(t.narrow)]:
            for rows in (t.rows, t.rows - 1)[: 1 + bool(batch % t.tiles)]:
                conditions = []
                if t.narrow:
                    conditions.append(column < wide if width == t.width else column >= wide)
                if batch % t.tiles:
                    conditions.append(self.first_row(tile + 1) - self.first_row(tile) == rows)
                when(conditions, functools.partial(body, unit, width, tile, rows))

    def first_row(self, tile: Expr) -> Expr:
        """Lower tiles stand among the higher ones, so that each half of the tiles has half of the rows."""
        return T.bind(tile * self.loop.batch // self.tiling.tiles)

    def fetch_rows(self, names: dict[str, int], time: Expr, unit: Expr, first: Expr, rows: int, width: int) -> None:
        """Starts to fetch what the equations of a tile will touch of sequences (``names``: name -> arrays side by
        side): it lies in short pieces far apart, so that no CPU guesses it, and comes while the product runs.

        The last value of a vector is named: where the vector reaches into two lines, the tile before this one has
        fetched the first of them.
        """
        for row, v in itertools.product(range(rows), range(width)):
            for name, arrays in names.items():
                for array in range(arrays):
                    at = array * self.loop.hidden + (unit + v) * self.lanes + self.lanes - 1
                    emit.prefetch(self.buffers[name], time, first + row, at)

    def fetch_weights(self, unit: Expr, width: int, tile: Expr, rows: int, k: Expr) -> None:
        """Starts to fetch weights, while the product of a tile is at ``k``: into the first cache what comes a little
        later; into the second, where it does not keep all, some lines of what the next column of tiles needs. All tiles
        of this column together fetch all of that, evenly over time.
        """
        packed = self.buffers["packed"]
        depth, values = (int(d) for d in packed.shape[1:])  # of one unit
        vectors, lines = width * values // self.lanes, width * -(-values // emit.LINE)
        if 4 * (rows + vectors + lines) <= 3 * rows * vectors:  # two loads a cycle are no more work than the sums
            for v, at in itertools.product(range(width), range(0, values, emit.LINE)):
                emit.prefetch(packed, unit + v, k + _SOON, at, first=True)
        t = self.tiling
        if t.fetch_ahead:
            column = -(-width * depth * values // emit.LINE)  # lines, which lie there one after the other
            each = -(-column // (t.tiles * depth))
            needed = -(-column // (each * depth))  # tiles
            places = [((tile * depth + k) * each + i) * emit.LINE for i in range(each)]
            when(
                [tile < needed] if needed < t.tiles else [],
                lambda: [emit.prefetch(packed, unit + t.width, 0, at) for at in places],
            )

    def spill(self, sums: Sums, rows: int, gates: int) -> list[Any]:
        """Puts the sums into memory, one buffer [unit, row] a gate, so that the equations are emitted only once."""
        width = len(sums) // rows // gates
        buffers = [emit.scratch(width * rows * self.lanes) for _ in range(gates)]
        for (row, column), total in sums.items():
            v, gate = divmod(column, gates)
            emit.store(buffers[gate], total.value, (v * rows + row) * self.lanes, lanes=self.lanes)
        return buffers

    def spilled(self, buffer: Any, v: Expr, row: Expr, rows: int) -> Expr:
        return emit.load(buffer, (v * rows + row) * self.lanes, lanes=self.lanes)


def when(conditions: list[Expr], body: Callable[[], Any]) -> None:
    """Emits ``body`` under all ``conditions``."""
    if not conditions:
        body()
        return
    with T.If(conditions[0]), T.Then():
        when(conditions[1:], body)


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
