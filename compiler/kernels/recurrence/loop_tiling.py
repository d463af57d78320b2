"""How a step of a loop over time is cut into tiles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bucketmod.compiler.kernels.products.gemm import most_rows
from bucketmod.compiler.kernels.tiles import PARTS, SIDE, STEP, TILE

if TYPE_CHECKING:
    from bucketmod.compiler.kernels.recurrence.time_loop import TimeLoop
    from bucketmod.compiler.target import CpuFeatures

# Below this many floating point operations a step is faster on one thread, or in tile registers the whole loop. Threads
# that wait for each other in every step do so for 1 us or 2: with 60,000 operations and two threads that paid already.
_MIN_PARALLEL_FLOPS = 2e5
_MIN_PARALLEL_FLOPS_IN_TILES = 1e6
# With fewer tiles along the batch too few threads would find work there.
_MIN_TILES_BY_ROWS = 4
_SUMS = 4  # tile registers that hold sums
# Tile registers against vector registers, LSTM and GRU, T = 60, one thread: N = 32, H = 200 takes 0.65 to 0.75 of the
# time, H = 100 0.75 to 0.95, H = 64 0.75 to 1.2; two tiles of 10 rows, H = 200, 0.65 to 0.8; a single tile, which is
# work for one thread only, 1.04.
_MIN_ROWS = 10
_MIN_HIDDEN = 96


@dataclass(frozen=True)
class Tiling:
    """``units``: vectors of ``lanes`` hidden units. A column of tiles has ``width`` of them, the last ``narrow`` ones
    have one less. A column has ``tiles`` tiles of ``rows`` rows of the batch, some have one row less.

    ``by_rows``: threads share the rows for all time instead of the tiles of each step, so they never wait for each
    other: on a busy machine a thread may be away just when the others wait for it. ``fetch_ahead``: weights are fetched
    before their turn, because the second cache does not keep them from one step to the next.
    """

    lanes: int
    units: int
    width: int
    narrow: int
    rows: int
    tiles: int
    parallel: bool
    by_rows: bool
    fetch_ahead: bool

    @classmethod
    def of(cls, loop: TimeLoop, cpu: CpuFeatures, gates: int) -> Tiling:
        """The tiling for a step that computes ``gates`` sums for each hidden unit."""
        units = -(-loop.hidden // cpu.lanes)
        cached = 4 * loop.cell.gates * loop.hidden * units * cpu.lanes <= cpu.l2 * 3 // 4
        # With a single vector there would be a load for each multiply-add; with two a tile is higher, so that fewer of
        # them read the weights.
        width = min(units, 1 if gates > 1 else 3 if cached else 2)
        narrow = -(-units // width) * width - units
        tiles = -(-loop.batch // most_rows(gates * width, cpu.registers))
        # Every thread reads all weights where they share the rows; half of the tiles for each of two threads.
        by_rows = cached and tiles + tiles % 2 >= _MIN_TILES_BY_ROWS
        tiles += tiles % 2 if by_rows else 0
        parallel = loop.flops // loop.steps >= _MIN_PARALLEL_FLOPS
        fetch_ahead = tiles > 1 and not cached
        return cls(cpu.lanes, units, width, narrow, -(-loop.batch // tiles), tiles, parallel, by_rows, fetch_ahead)

    @property
    def blocks(self) -> int:
        """Columns of tiles."""
        return -(-self.units // self.width)


@dataclass(frozen=True)
class TileTiling(Tiling):
    """For tile registers: a tile of ``rows`` rows (up to 16) is up to four tile registers wide, which are all sums of
    ``width`` vectors of units, and ``steps`` steps of k deep. Threads share the rows."""

    steps: int

    @classmethod
    def where_faster(cls, loop: TimeLoop, cpu: CpuFeatures, gates: int) -> TileTiling | None:
        """None where vector registers are faster."""
        units = -(-loop.hidden // SIDE)
        depth = loop.hidden if gates > 1 else loop.cell.gates * loop.hidden
        steps = -(-depth // STEP)
        tiles = -(-loop.batch // SIDE)
        rows = -(-loop.batch // tiles)
        width = min(units, _SUMS // gates)
        narrow = -(-units // width) * width - units
        parallel = loop.flops // loop.steps >= _MIN_PARALLEL_FLOPS_IN_TILES
        found = cls(SIDE, units, width, narrow, rows, tiles, parallel, True, False, steps)
        cached = 4 * found.packed_words(gates) <= cpu.l2 * 3 // 4
        shared = tiles > 1 or not parallel
        return found if cached and shared and rows >= _MIN_ROWS and loop.hidden >= _MIN_HIDDEN else None

    def packed_words(self, gates: int) -> int:
        """Of the weight, split, with ``gates`` sums for each unit."""
        return self.units * gates * self.steps * PARTS * TILE

    @property
    def left_words(self) -> int:
        """Of the left operand of a step, split."""
        return self.tiles * self.steps * PARTS * TILE


def tiling(loop: TimeLoop, cpu: CpuFeatures, gates: int) -> Tiling:
    """The tiling for a step that computes ``gates`` sums for each hidden unit, in the faster kind of registers."""
    in_tiles = TileTiling.where_faster(loop, cpu, gates) if cpu.tiles else None
    return in_tiles or Tiling.of(loop, cpu, gates)
