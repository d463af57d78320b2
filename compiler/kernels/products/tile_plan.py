"""How a matrix product in tile registers is cut into tasks and blocks: the model of cost that README.md explains."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bucketmod.compiler.kernels.products.plan import MIN_TASK_FLOPS_IN_TILES, THREADS, cuts
from bucketmod.compiler.kernels.tiles import PARTS, PRODUCTS, SIDE, STEP, TILE

if TYPE_CHECKING:
    from bucketmod.compiler.kernels.products.gemm import Gemm
    from bucketmod.compiler.target import CpuFeatures

PAIR = 2 * SIDE  # rows, or columns, of C that two tiles side by side have
PAIR_WORDS = 2 * PARTS * TILE  # of a packed pair, for each step
SUMS = 4 * TILE  # float32 values of C in a pair of rows by a pair of columns


@dataclass(frozen=True)
class TilePlan:
    """How a product is cut.

    The left operand gives rows to tiles, the right one columns: A and B, or the other way round with ``swap``, where a
    finished tile is transposed. A task has up to ``rows`` pairs of tiles of the left operand and ``columns`` pairs of
    the right one. For each block of ``depth`` steps along K it packs its part of the right operand; then, pair by pair,
    the left one, which meets all columns while it is in the first cache. K is shared by ``splits`` tasks, whose sums
    are added up at the end, where C has too few rows and columns for all threads.
    """

    swap: bool
    depth: int
    rows: int
    columns: int
    splits: int = 1
    parallel: bool = True

    @property
    def kind(self) -> tuple[int, ...]:
        """As of ``Plan``."""
        return self.swap, self.depth, self.columns, self.splits

    def sides(self, gemm: Gemm) -> tuple[int, int]:
        """Rows of the left operand and columns of the right one."""
        return (gemm.n, gemm.m) if self.swap else (gemm.m, gemm.n)

    def transposes(self, gemm: Gemm) -> tuple[bool, bool]:
        """Whether the left and the right operand lie across the order in which tiles have them."""
        across = gemm.trans_a, gemm.trans_b
        return (not across[1], not across[0]) if self.swap else across

    def steps(self, gemm: Gemm) -> int:
        return -(-gemm.k // STEP)

    def steps_of_task(self, gemm: Gemm) -> int:
        return -(-self.steps(gemm) // self.splits)

    def blocks_of_k(self, gemm: Gemm) -> int:
        """Of one task."""
        return -(-self.steps_of_task(gemm) // self.depth)

    def blocks(self, gemm: Gemm) -> tuple[int, int]:
        """Tasks of one matrix, along the rows and along the columns of the tiles."""
        left, right = self.sides(gemm)
        return -(-pairs(left) // self.rows), -(-pairs(right) // self.columns)

    def tasks(self, gemm: Gemm) -> int:
        rows, columns = self.blocks(gemm)
        return gemm.batch * self.splits * rows * columns


def pairs(size: int) -> int:
    """Pairs of tiles for ``size`` rows or columns; the last may have one tile only."""
    return -(-size // PAIR)


@functools.cache
def tile_plan(gemm: Gemm, cpu: CpuFeatures) -> TilePlan | None:
    """The cheapest plan; None where tiles would be empty for the most part."""
    found = min(((cost(gemm, p), i, p) for i, p in enumerate(candidates(gemm, cpu))), default=None)
    return found[2] if found is not None and found[0] < float("inf") else None


@functools.cache
def tile_cycles(gemm: Gemm, cpu: CpuFeatures) -> float:
    """What the plan costs, in cycles of the busiest thread, added up over several numbers of threads."""
    p = tile_plan(gemm, cpu)
    return float("inf") if p is None else cost(gemm, p)


def priced_tile_plans(gemm: Gemm, cpu: CpuFeatures) -> Iterator[tuple[float, TilePlan]]:
    """Every plan with what it costs."""
    return ((cost(gemm, p), p) for p in candidates(gemm, cpu))


_MOST_DEPTH = 24  # steps; no block of K is deeper, so that the pairs of a row stay near


def candidates(gemm: Gemm, cpu: CpuFeatures) -> Iterator[TilePlan]:
    steps = -(-gemm.k // STEP)
    for swap in (False, True):
        left, right = TilePlan(swap, 1, 1, 1).sides(gemm)
        few = gemm.batch == 1 and pairs(left) * pairs(right) <= _FEW_PAIRS and not (gemm.column_sums and swap)
        for splits in [1, *(n for n in (2, 4) if few and steps >= n * _LEAST_STEPS)]:
            share = -(-steps // splits)
            for depth in sorted({-(-share // -(-share // most)) for most in (5, 8, 16, _MOST_DEPTH)}):
                yield from _cuts(gemm, cpu, TilePlan(swap, depth, 1, 1, splits))


# Steps that a task has at least where it shares K with others, and how many pairs of rows and columns of C are few.
_LEAST_STEPS, _FEW_PAIRS = 12, 600


def _cuts(gemm: Gemm, cpu: CpuFeatures, p: TilePlan) -> Iterator[TilePlan]:
    """``p`` with all numbers of rows and columns that make sense."""
    left, right = p.sides(gemm)
    packed = p.depth * PAIR_WORDS * 4  # bytes of a pair
    # Half of the second cache for what is packed and for sums that wait for the next block of K.
    space = cpu.l2 // 2 - 2 * packed
    for columns in cuts(pairs(right), max(1, min(pairs(right), space // packed))):
        most = pairs(left)
        if p.blocks_of_k(gemm) > 1:
            most = (space - columns * packed) // (columns * SUMS * 4)
        for rows in cuts(pairs(left), max(1, min(pairs(left), most))):
            cut = replace(p, rows=rows, columns=columns)
            yield replace(cut, parallel=cut.tasks(gemm) > 1 and gemm.flops >= 2 * MIN_TASK_FLOPS_IN_TILES)


# Cycles, measured: for a product of two tiles, where the left pair of a block stays in the first cache and where not.
_NEAR_CYCLES, _FAR_CYCLES = 21.0, 23.0
_NEAR_DEPTH = 5  # steps of a left pair that stay there
# To bring in, split and pack a value of the left and of the right operand, beside products, and to turn one that lies
# across before. To pass a sum on to C, also across, and to keep it between blocks of K.
_LEFT_CYCLES, _TURN_CYCLES = 0.5, 2.5
_RIGHT_CYCLES = 0.7
_SUM_CYCLES, _SUM_ACROSS_CYCLES, _WAIT_CYCLES = 0.3, 0.6, 0.6
_TASK_CYCLES = 600


def cost(gemm: Gemm, p: TilePlan) -> float:
    row_blocks, column_blocks = p.blocks(gemm)
    count = p.tasks(gemm)
    if count > 1 and gemm.flops / count < MIN_TASK_FLOPS_IN_TILES:
        return float("inf")
    left, right = p.sides(gemm)
    tiles = -(-left // SIDE) * -(-right // SIDE)
    product = PRODUCTS * (_NEAR_CYCLES if p.depth <= _NEAR_DEPTH else _FAR_CYCLES)
    cycles = tiles * p.steps(gemm) * product
    left_across, right_across = p.transposes(gemm)
    deep = p.steps(gemm) * STEP
    cycles += left * deep * (column_blocks * _LEFT_CYCLES + left_across * _TURN_CYCLES)
    cycles += right * deep * (row_blocks * _RIGHT_CYCLES + right_across * _TURN_CYCLES)
    cycles += tiles * TILE * (_SUM_ACROSS_CYCLES if p.swap else _SUM_CYCLES)
    cycles += tiles * TILE * (p.splits * p.blocks_of_k(gemm) - 1) * _WAIT_CYCLES
    work = gemm.batch * cycles + count * _TASK_CYCLES
    return sum(work * threads * _busiest(gemm, p, threads) for threads in THREADS)


def _busiest(gemm: Gemm, p: TilePlan, threads: int) -> float:
    """The share of the work that the busiest thread has: each gets as many tasks, one after the other in order, and
    those of the last rows and columns are smaller."""
    row_blocks, column_blocks = p.blocks(gemm)
    left, right = (-(-size // SIDE) for size in p.sides(gemm))
    height, width = 2 * p.rows, 2 * p.columns

    def done(tasks: int) -> float:
        matrices, rest = divmod(tasks, row_blocks * column_blocks)
        block, row = divmod(rest, row_blocks)
        work = matrices * left * right + left * min(right, block * width)
        return work + min(left, row * height) * (min(right, (block + 1) * width) - min(right, block * width))

    count = p.tasks(gemm)
    share = -(-count // threads) if p.parallel else count
    ends = [min(count, share * thread) for thread in range(threads + 1)]
    return max(done(b) - done(a) for a, b in zip(ends, ends[1:], strict=False)) / done(count)
