"""How a matrix product is cut into tasks, blocks and tiles: the model of cost that README.md explains."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bucketmod.compiler.kernels import emission as emit

if TYPE_CHECKING:
    from bucketmod.compiler.kernels.products.gemm import Gemm
    from bucketmod.compiler.target import CpuFeatures

@dataclass(frozen=True)
class Segment:
    """``count`` equal parts of a dimension, each of ``size``: the part numbered ``start`` begins at ``first``."""

    start: int
    count: int
    first: int
    size: int


@dataclass(frozen=True)
class Plan:
    """How a product is cut.

    A tile of C that is computed in registers is ``tile_rows`` high and up to ``tile_vectors`` vectors of ``lanes``
    wide; a column of tiles is called a panel. K is cut into blocks of ``depth``. A task, the unit of parallel work, is
    ``block_tiles`` tiles high and ``block_panels`` panels wide. For each block of K it first copies its part of the
    operands that are to be packed, in the order of use, then runs through its tiles, row by row. ``pack_all``: B is
    packed once, as a whole, before the tasks begin.
    """

    lanes: int
    tile_rows: int
    tile_vectors: int
    depth: int
    block_tiles: int
    block_panels: int
    pack_a: bool
    pack_b: bool
    parallel: bool = True
    pack_all: bool = False

    @property
    def kind(self) -> tuple[int, ...]:
        """Plans of one kind differ little in their speed."""
        return self.tile_rows, self.tile_vectors, self.depth, self.block_panels, self.pack_all

    def tiles(self, gemm: Gemm) -> list[Segment]:
        """Rows of tiles; the last may be lower."""
        return _tiles(gemm.m, self.tile_rows)

    def panels(self, gemm: Gemm) -> list[Segment]:
        """Panels, as few as there can be, of widths that differ by a vector at most: none is computed in vain."""
        return _panels(gemm.n, self.tile_vectors, self.lanes)


@functools.cache
def _tiles(rows: int, height: int) -> list[Segment]:
    full, rest = divmod(rows, height)
    segments = [Segment(0, full, 0, height), Segment(full, 1, full * height, rest)]
    return [s for s in segments if s.count and s.size]


@functools.cache
def _panels(columns: int, widest: int, lanes: int) -> list[Segment]:
    vectors = -(-columns // lanes)
    count = -(-vectors // widest)
    narrow, wide = divmod(vectors, count)
    segments, at, first = [], 0, 0
    for parts, width in ((wide, narrow + 1), (count - wide, narrow)):
        size = width * lanes
        full = min(parts, (columns - first) // size) if parts else 0
        segments.append(Segment(at, full, first, size))
        segments.append(Segment(at + full, parts - full, first + full * size, columns - first - full * size))
        at, first = at + parts, first + parts * size
    return [s for s in segments if s.count]


def plan(gemm: Gemm, cpu: CpuFeatures) -> Plan:
    """The cheapest plan under the model of cost that README.md explains."""
    return _cheapest(gemm, cpu)[0]


def plan_cycles(gemm: Gemm, cpu: CpuFeatures) -> float:
    """What that plan costs, in cycles of the busiest thread, added up over several numbers of threads."""
    return _cheapest(gemm, cpu)[1]


def priced_plans(gemm: Gemm, cpu: CpuFeatures) -> Iterator[tuple[float, Plan]]:
    """Every plan with what it costs, also those of kinds that ``plan`` leaves aside."""
    return ((_cost(gemm, p, _work(gemm, cpu, p)), p) for p in _candidates(gemm, cpu, every=True))


def _cost(gemm: Gemm, p: Plan, work: float) -> float:
    """Cycles of the busiest thread, added up over several numbers of threads, where all tasks have ``work``."""
    return work if work == float("inf") else sum(work * threads * _busiest(gemm, p, threads) for threads in THREADS)


@functools.cache
def _cheapest(gemm: Gemm, cpu: CpuFeatures) -> tuple[Plan, float]:
    best, least = None, float("inf")
    # The work of all tasks is quick to tell; how evenly threads share it is asked only where that could still win.
    for work, p in sorted(((_work(gemm, cpu, p), p) for p in _candidates(gemm, cpu)), key=lambda pair: pair[0]):
        if best is not None and work * len(THREADS) >= least:
            break
        cost = _cost(gemm, p, work)
        if best is None or cost < least:
            best, least = p, cost
    assert best is not None
    return best, least


def most_rows(vectors: int, registers: int) -> int:
    """The highest tile that leaves a register for each value of its shorter side, and one for the longer side."""
    return max(r for r in range(1, registers) if r * vectors + min(r, vectors) + 1 <= registers)


# Depths that are tried. Below 128 the sums travel to memory and back too often; above 512 nothing is gained.
_DEPTHS = (128, 192, 256, 384, 512)
# A dimension is cut into at most this many parts for the sake of threads; more only copies operands more often.
_MOST_PARTS = 32
_COUNTS = sorted(2**twos * 3**threes for twos in range(12) for threes in range(2))


def _candidates(gemm: Gemm, cpu: CpuFeatures, every: bool = False) -> Iterator[Plan]:
    """``every``: also those of kinds that no measurement recommends."""
    lanes = cpu.lanes
    # Packed tiles are copied in whole vectors; with AVX2 four and two rows at a time are no worse.
    whole = gemm.trans_a and cpu.registers > 16 and not every
    # Tasks would bring in and pack a large B several times.
    large = not gemm.panel and not gemm.trans_b and gemm.batch == 1
    large = large and (every or (gemm.trans_a and gemm.k * gemm.n >= _LARGE))
    widths = [gemm.panel // lanes] if gemm.panel else range(1, min(4, -(-gemm.n // lanes)) + 1)
    for vectors in widths:
        tallest = min(most_rows(vectors, cpu.registers), cpu.registers // 2)
        if whole and tallest > lanes // 2:
            tallest -= tallest % (lanes // 2)
        tiles = -(-gemm.m // tallest)
        rows = -(-gemm.m // tiles) if not gemm.trans_a else min(tallest, gemm.m)
        panels = -(-gemm.n // (vectors * lanes))
        pack_b = not gemm.panel and (gemm.trans_b or bool(gemm.shift) or tiles > 3)
        depths = _DEPTHS[:3] if gemm.trans_a else _DEPTHS  # packing deep blocks of A pushes B out of the first caches
        for depth in sorted({_even_part(gemm.k, most, lanes) for most in depths}):
            # Most of the second cache is for what is packed; the rest passes through what is left.
            space = cpu.l2 * 3 // 4 // (4 * depth)
            widest = max(1, space // (vectors * lanes)) if pack_b or gemm.panel else panels
            for width in cuts(panels, min(panels, widest)):
                left = (space - width * vectors * lanes * pack_b) // rows if gemm.trans_a else tiles
                for height in cuts(tiles, max(1, min(tiles, left))):
                    found = Plan(lanes, rows, vectors, depth, height, width, gemm.trans_a, pack_b)
                    found = _with_threads(gemm, cpu, found)
                    repeats = large and found.parallel and pack_b and blocks(gemm, found)[0] >= _REPEATS
                    if every or not repeats:
                        yield found
                    if repeats:
                        yield replace(found, pack_b=False, pack_all=True)


def _with_threads(gemm: Gemm, cpu: CpuFeatures, p: Plan) -> Plan:
    parallel = tasks(gemm, p) > 1 and gemm.flops >= 2 * _min_task_flops(cpu)
    return p if parallel else replace(p, parallel=False)


def _even_part(total: int, most: int, least: int) -> int:
    """The size of parts that cut ``total`` evenly, at most ``most``; the last is smaller, but not below ``least``."""
    parts = -(-total // most)
    while parts > 1 and total - (parts - 1) * -(-total // parts) < least:
        parts += 1
    return -(-total // parts)


def cuts(total: int, most: int) -> list[int]:
    """Sizes of parts that cut ``total`` evenly into ever more parts, none larger than ``most``: into the fewest, and
    then into counts that twos and threes divide, as threads would have them."""
    fewest = -(-total // most)
    counts = {fewest, *(parts for parts in _COUNTS if fewest < parts <= min(total, fewest + _MOST_PARTS))}
    return sorted({-(-total // parts) for parts in counts})


def _count(segments: list[Segment]) -> int:
    return segments[-1].start + segments[-1].count


def blocks(gemm: Gemm, p: Plan) -> tuple[int, int]:
    """Tasks of one matrix, along its rows and along its columns."""
    return -(-_count(p.tiles(gemm)) // p.block_tiles), -(-_count(p.panels(gemm)) // p.block_panels)


def tasks(gemm: Gemm, p: Plan) -> int:
    row_blocks, column_blocks = blocks(gemm, p)
    return gemm.batch * row_blocks * column_blocks


# Cycles for one value, measured: to bring it in from the second cache or from beyond, to copy it into its packed place,
# there also transposed, and to take a sum of C up and down again between two blocks of K.
_NEAR_CYCLES, _FAR_CYCLES = 0.05, 0.8
_COPY_CYCLES, _TRANSPOSE_CYCLES = 0.1, 0.25
_SUM_CYCLES = 0.4
# For a vector of B, by its lanes: rows of a panel come one after the other, so the CPU fetches them ahead.
_VECTOR_CYCLES = {8: 0.3, 16: 0.2}
# Cycles to copy one vector into packed A, and to start and end one tile over one block of K.
_PIECE_CYCLES, _TILE_CYCLES = 1.5, 60
# A task of fewer floating point operations is not worth starting a thread for. With few rows, where weights come from
# beyond the first cache, two of these take 5 us or more; threads begin and end in 2 or 3. Where plans are compared to
# those in tile registers, both have the least of these.
_MIN_TASK_FLOPS, MIN_TASK_FLOPS_IN_TILES = 1e5, 5e5
# Where the gradient of a weight has that many blocks of rows, and the right operand that many values, packing that as a
# whole takes 0.9 to 1.02 of the time (AVX2; 0.87 to 0.97 with 650 columns). Tasks then bring in whole panels, which
# costs a half of what pieces of rows do.
_REPEATS, _LARGE, _IN_PANELS = 3, 1 << 18, 0.5
# The plan has to be good for these numbers of threads; how many will run it is not known when it is compiled. Small
# products in more tasks would cost every machine a tenth, for the copies that each task makes.
THREADS = (1, 2, 4)


def _min_task_flops(cpu: CpuFeatures) -> float:
    return MIN_TASK_FLOPS_IN_TILES if cpu.tiles else _MIN_TASK_FLOPS


def _work(gemm: Gemm, cpu: CpuFeatures, p: Plan) -> float:
    """Cycles of all tasks together."""
    row_blocks, column_blocks = blocks(gemm, p)
    count = gemm.batch * row_blocks * column_blocks
    if count > 1 and gemm.flops / count < _min_task_flops(cpu):
        return float("inf")
    rows, columns, depth = gemm.m / row_blocks, gemm.n / column_blocks, gemm.k  # of a task, on average
    cycles = rows * depth / column_blocks * sum(s.count * _step_cycles(p, s.size) for s in p.panels(gemm))
    cycles += rows * depth * _fetch_cycles(cpu, gemm.m * depth) * (2 if p.pack_a else 1)
    if p.pack_a:
        cycles += rows / p.tile_rows * depth * len(list(emit.pieces(p.tile_rows, p.lanes))) * _PIECE_CYCLES
    if 4 * p.depth * p.tile_rows > cpu.l1 * 3 // 4:  # a tile of A does not wait in the first cache for the next panel
        cycles += rows * depth * p.block_panels * _NEAR_CYCLES
    if p.pack_b or p.pack_all:
        copy = _TRANSPOSE_CYCLES if gemm.trans_b else _COPY_CYCLES
        packing = columns * depth * (copy + _fetch_cycles(cpu, gemm.n * depth))
        cycles += packing / row_blocks if p.pack_all else packing
    if p.pack_all:
        cycles += columns * depth * _fetch_cycles(cpu, gemm.n * depth) * _IN_PANELS
    if gemm.panel:
        cycles += columns * depth * _fetch_cycles(cpu, gemm.n * depth)
    blocks_of_k = -(-depth // p.depth)
    cycles += rows * columns * (blocks_of_k - 1) * _SUM_CYCLES
    cycles += rows / p.tile_rows * p.block_panels * blocks_of_k * _TILE_CYCLES
    return count * cycles


def _busiest(gemm: Gemm, p: Plan, threads: int) -> float:
    """The share of the work that the busiest thread has: each gets as many tasks, one after the other in order, and
    those of the last rows and columns are smaller."""
    row_blocks, column_blocks = blocks(gemm, p)
    height = p.block_tiles * p.tile_rows
    rows = [min(gemm.m, block * height) for block in range(row_blocks + 1)]  # before each block
    panels = [_step_cycles(p, s.size) for s in p.panels(gemm) for _ in range(s.count)]
    before = list(itertools.accumulate(panels, initial=0.0))
    columns = [before[min(len(panels), block * p.block_panels)] for block in range(column_blocks + 1)]

    def done(tasks: int) -> float:
        matrices, rest = divmod(tasks, row_blocks * column_blocks)
        block, row = divmod(rest, row_blocks)
        work = matrices * rows[-1] * columns[-1] + columns[block] * rows[-1]
        return work + (rows[row] * (columns[block + 1] - columns[block]) if row else 0.0)

    count = gemm.batch * row_blocks * column_blocks
    share = -(-count // threads)
    ends = [min(count, share * thread) for thread in range(threads + 1)]
    return max(done(end) - done(start) for start, end in itertools.pairwise(ends)) / done(count)


def _fetch_cycles(cpu: CpuFeatures, values: int) -> float:
    """Cycles to bring in one of the ``values`` of an operand."""
    return _NEAR_CYCLES if 4 * values <= cpu.l2 // 2 else _FAR_CYCLES


def _step_cycles(p: Plan, columns: int) -> float:
    """Cycles for one k of one row of a tile: two multiply-adds or two loads a cycle, and what B costs to bring in."""
    vectors = -(-columns // p.lanes)
    loads = 1.25 * (p.tile_rows + vectors)  # loads are never paired as well as multiply-adds
    near = vectors * _VECTOR_CYCLES[p.lanes]
    loop = 1  # its own instructions
    return (max(p.tile_rows * vectors, loads) / 2 + near + loop) / p.tile_rows
