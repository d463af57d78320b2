"""Matrix products: C = op(A) op(B) (+ bias), in all transposes, batched or not.

The tuned form keeps a tile of C in registers while it runs along K. ``plan`` chooses how the product is cut; the
emission below only follows the plan.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tvm import te, tirx
from tvm.tirx.script import builder as T

from bucketmod.compiler.kernels import emission as emit
from bucketmod.compiler.kernels.kernel import Kernel, TensorShape

if TYPE_CHECKING:
    from bucketmod.compiler.target import CpuFeatures

Expr = Any


@dataclass(frozen=True)
class Gemm(Kernel):
    """C[(batch,) m, n] = op(A) op(B) (+ bias[n]); arguments A, B, (edge), (bias), C, all float32.

    A is [m, k], with ``trans_a`` [k, m]; B is [k, n], with ``trans_b`` [n, k]. With ``batch`` > 1 each has that many
    matrices along a first axis, except an operand whose ``batch_a`` or ``batch_b`` is False: one matrix serves all.

    With ``shift`` s the rows of B (one matrix, not transposed) are used s places later (earlier if negative), and those
    that get free are the rows of edge [abs(s), n]: so a sequence of states is multiplied one step late, beginning with
    the initial state, without being copied.
    """

    m: int
    k: int
    n: int
    trans_a: bool = False
    trans_b: bool = False
    batch: int = 1
    batch_a: bool = True
    batch_b: bool = True
    bias: bool = False
    shift: int = 0

    def __post_init__(self) -> None:
        if self.shift and (self.trans_b or self.batch > 1):
            raise ValueError(f"{self}: a shift needs one B that is not transposed")

    @property
    def name(self) -> str:
        return "gemm_" + "nt"[self.trans_a] + "nt"[self.trans_b] + "_bias" * self.bias + "_shifted" * bool(self.shift)

    @property
    def flops(self) -> int:
        return 2 * self.batch * self.m * self.k * self.n

    @property
    def inputs(self) -> list[TensorShape]:
        a = self._matrix(*((self.k, self.m) if self.trans_a else (self.m, self.k)), self.batch_a)
        b = self._matrix(*((self.n, self.k) if self.trans_b else (self.k, self.n)), self.batch_b)
        edge = [self._matrix(abs(self.shift), self.n, False)] if self.shift else []
        return [a, b, *edge] + ([((self.n,), "float32")] if self.bias else [])

    @property
    def outputs(self) -> list[TensorShape]:
        return [self._matrix(self.m, self.n, True)]

    def _matrix(self, rows: int, columns: int, batched: bool) -> TensorShape:
        return ((self.batch, rows, columns) if batched and self.batch > 1 else (rows, columns)), "float32"

    def portable(self) -> Any:
        inputs = [te.placeholder(shape, dtype, f"input{i}") for i, (shape, dtype) in enumerate(self.inputs)]
        a, b = inputs[:2]
        axis = te.reduce_axis((0, self.k), "k")

        def right(lead: list[Any], j: Any) -> Any:
            if not self.shift:
                return b(*(lead if self.batch_b else []), *((j, axis) if self.trans_b else (axis, j)))
            edge, row = inputs[2], axis - self.shift
            # One of the two is read; the other index is kept in range for the sake of analysis.
            inside = b(tirx.max(tirx.min(row, self.k - 1), 0), j)
            return tirx.if_then_else(tirx.all(row >= 0, row < self.k), inside, edge(axis % abs(self.shift), j))

        def product(*indices: Any) -> Any:
            *lead, i, j = indices
            left = a(*(lead if self.batch_a else []), *((axis, i) if self.trans_a else (i, axis)))
            return te.sum(left * right(lead, j), axis=axis)

        c = te.compute(self.outputs[0][0], product, name="C")
        if self.bias:
            product_only = c
            c = te.compute(product_only.shape, lambda *i: product_only(*i) + inputs[-1](i[-1]), name="D")
        return te.create_prim_func([*inputs, c])

    def tuned(self, cpu: CpuFeatures) -> Any:
        names = ["A", "B"] + ["edge"] * bool(self.shift) + ["bias"] * self.bias + ["C"]
        arguments = dict(zip(names, [*self.inputs, *self.outputs], strict=True))
        return emit.build_named(self.name, arguments, lambda buffers: emit_product(self, cpu, buffers))


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
    operands that are to be packed, in the order of use, then runs through its tiles, row by row.
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

    def tiles(self, gemm: Gemm) -> list[Segment]:
        """Rows of tiles; the last may be lower."""
        full, rest = divmod(gemm.m, self.tile_rows)
        segments = [Segment(0, full, 0, self.tile_rows), Segment(full, 1, full * self.tile_rows, rest)]
        return [s for s in segments if s.count and s.size]

    def panels(self, gemm: Gemm) -> list[Segment]:
        """Panels, as few as there can be, of widths that differ by a vector at most: none is computed in vain."""
        vectors = -(-gemm.n // self.lanes)
        count = -(-vectors // self.tile_vectors)
        narrow, wide = divmod(vectors, count)
        segments, at, first = [], 0, 0
        for parts, width in ((wide, narrow + 1), (count - wide, narrow)):
            size = width * self.lanes
            full = min(parts, (gemm.n - first) // size) if parts else 0
            segments.append(Segment(at, full, first, size))
            segments.append(Segment(at + full, parts - full, first + full * size, gemm.n - first - full * size))
            at, first = at + parts, first + parts * size
        return [s for s in segments if s.count]


@functools.cache
def plan(gemm: Gemm, cpu: CpuFeatures) -> Plan:
    """The cheapest plan under the model of cost that README.md explains."""
    return min(_candidates(gemm, cpu), key=lambda p: _cost(gemm, cpu, p))


def most_rows(vectors: int, registers: int) -> int:
    """The highest tile that leaves a register for each value of its shorter side, and one for the longer side."""
    return max(r for r in range(1, registers) if r * vectors + min(r, vectors) + 1 <= registers)


# Depths that are tried. Below 128 the sums travel to memory and back too often; above 512 nothing is gained.
_DEPTHS = (128, 192, 256, 384, 512)
# A dimension is cut into at most this many parts for the sake of threads; more only copies operands more often.
_MOST_PARTS = 32


def _candidates(gemm: Gemm, cpu: CpuFeatures) -> Iterator[Plan]:
    lanes = cpu.lanes
    for vectors in range(1, min(4, -(-gemm.n // lanes)) + 1):
        tallest = min(most_rows(vectors, cpu.registers), cpu.registers // 2)
        tiles = -(-gemm.m // tallest)
        rows = -(-gemm.m // tiles)
        panels = -(-gemm.n // (vectors * lanes))
        pack_b = gemm.trans_b or bool(gemm.shift) or tiles > 3
        for depth in sorted({_even_part(gemm.k, most, lanes) for most in _DEPTHS}):
            # Half of the second cache is for what is packed; the rest passes through the other half.
            space = cpu.l2 // 2 // (4 * depth)
            widest = max(1, space // (vectors * lanes)) if pack_b else panels
            for width in _cuts(panels, min(panels, widest)):
                left = (space - width * vectors * lanes * pack_b) // rows if gemm.trans_a else tiles
                for height in _cuts(tiles, max(1, min(tiles, left))):
                    yield _with_threads(gemm, Plan(lanes, rows, vectors, depth, height, width, gemm.trans_a, pack_b))


def _with_threads(gemm: Gemm, p: Plan) -> Plan:
    parallel = _tasks(gemm, p) > 1 and gemm.flops >= 2 * _MIN_TASK_FLOPS
    return p if parallel else replace(p, parallel=False)


def _packed_tile(rows: int, depth: int, lanes: int) -> int:
    """Values of a packed tile of A. Whole vectors are stored, so the last column needs room behind it."""
    return rows * depth + lanes


def _even_part(total: int, most: int, least: int) -> int:
    """The size of parts that cut ``total`` evenly, at most ``most``; the last is smaller, but not below ``least``."""
    parts = -(-total // most)
    while parts > 1 and total - (parts - 1) * -(-total // parts) < least:
        parts += 1
    return -(-total // parts)


def _cuts(total: int, most: int) -> list[int]:
    """Sizes of parts that cut ``total`` evenly into ever more parts, none larger than ``most``."""
    fewest = -(-total // most)
    return sorted({-(-total // parts) for parts in range(fewest, min(total, fewest + _MOST_PARTS) + 1)})


def _count(segments: list[Segment]) -> int:
    return segments[-1].start + segments[-1].count


def _blocks(gemm: Gemm, p: Plan) -> tuple[int, int]:
    """Tasks of one matrix, along its rows and along its columns."""
    return -(-_count(p.tiles(gemm)) // p.block_tiles), -(-_count(p.panels(gemm)) // p.block_panels)


def _tasks(gemm: Gemm, p: Plan) -> int:
    row_blocks, column_blocks = _blocks(gemm, p)
    return gemm.batch * row_blocks * column_blocks


# Cycles for one value, measured: to bring it in from the second cache or from beyond, to copy it into its packed place,
# there also transposed, and to take a sum of C up and down again between two blocks of K.
_NEAR_CYCLES, _FAR_CYCLES = 0.05, 0.8
_COPY_CYCLES, _TRANSPOSE_CYCLES = 0.1, 0.25
_SUM_CYCLES = 0.4
# A task that runs shorter than this many floating point operations is not worth starting a thread for (about 5 us).
_MIN_TASK_FLOPS = 5e5
# The plan has to be good for these numbers of threads; how many will run it is not known when it is compiled.
_THREADS = (1, 2, 4, 8)


def _cost(gemm: Gemm, cpu: CpuFeatures, p: Plan) -> float:
    """Sum over the numbers of threads of the cycles of the busiest one, times the number of threads."""
    row_blocks, column_blocks = _blocks(gemm, p)
    tasks = gemm.batch * row_blocks * column_blocks
    if tasks > 1 and gemm.flops / tasks < _MIN_TASK_FLOPS:
        return float("inf")
    rows, columns, depth = gemm.m / row_blocks, gemm.n / column_blocks, gemm.k  # of a task, on average
    cycles = rows * depth / column_blocks * sum(s.count * _tile_cycles(p, s.size) for s in p.panels(gemm))
    cycles += rows * depth * _fetch_cycles(cpu, gemm.m * depth) * (2 if p.pack_a else 1)
    if p.pack_a:
        cycles += rows * depth * _COPY_CYCLES
    if 4 * p.depth * p.tile_rows > cpu.l1 * 3 // 4:  # a tile of A does not wait in the first cache for the next panel
        cycles += rows * depth * p.block_panels * _NEAR_CYCLES
    if p.pack_b:
        copy = _TRANSPOSE_CYCLES if gemm.trans_b else _COPY_CYCLES
        cycles += columns * depth * (copy + _fetch_cycles(cpu, gemm.n * depth))
    cycles += rows * columns * (-(-depth // p.depth) - 1) * _SUM_CYCLES
    return sum(-(-tasks // threads) * cycles * threads for threads in _THREADS)


def _fetch_cycles(cpu: CpuFeatures, values: int) -> float:
    """Cycles to bring in one of the ``values`` of an operand."""
    return _NEAR_CYCLES if 4 * values <= cpu.l2 // 2 else _FAR_CYCLES


def _tile_cycles(p: Plan, columns: int) -> float:
    """Cycles for one k of one row of a tile: two multiply-adds or two loads a cycle, and what B costs to bring in."""
    vectors = -(-columns // p.lanes)
    loads = 1.25 * (p.tile_rows + vectors)  # loads are never paired as well as multiply-adds
    near = vectors * p.lanes * _NEAR_CYCLES / 4  # of B; its rows come one after the other and are prefetched
    return (max(p.tile_rows * vectors, loads) / 2 + near) / p.tile_rows


def emit_product(gemm: Gemm, cpu: CpuFeatures, buffers: dict[str, Any]) -> None:
    """Emits the loops of the product into the function under construction; ``buffers`` by name: A, B, C, and edge and
    bias where the product has them. Families that go on with C in the same kernel call this."""
    _Emitter(gemm, plan(gemm, cpu), buffers).run()


class _Emitter:
    """Emits the loops of one plan."""

    def __init__(self, gemm: Gemm, p: Plan, buffers: dict[str, Any]):
        self.gemm, self.plan = gemm, p
        self.a, self.b, self.c = buffers["A"], buffers["B"], buffers["C"]
        self.bias, self.edge = buffers.get("bias"), buffers.get("edge")
        self.columns = p.tile_vectors * p.lanes
        self.k_blocks = -(-gemm.k // p.depth)
        self.a_lead: list[Expr] = []
        self.b_lead: list[Expr] = []
        self.c_lead: list[Expr] = []

    def run(self) -> None:
        gemm, p = self.gemm, self.plan
        row_blocks, column_blocks = _blocks(gemm, p)
        with (T.parallel if p.parallel else T.serial)(_tasks(gemm, p)) as task:
            # Neighbouring tasks, which one thread runs one after the other, share columns of B.
            row_block = T.bind(task % row_blocks)
            column_block = T.bind(task // row_blocks % column_blocks)
            if gemm.batch > 1:
                lead = [T.bind(task // (row_blocks * column_blocks))]
                self.c_lead = lead
                self.a_lead = lead if gemm.batch_a else []
                self.b_lead = lead if gemm.batch_b else []
            self.task(row_block, column_block)

    def task(self, row_block: Expr, column_block: Expr) -> None:
        p = self.plan
        if p.pack_a:
            self.packed_a = emit.scratch(p.block_tiles * _packed_tile(p.tile_rows, p.depth, p.lanes))
        if p.pack_b:
            self.packed_b = emit.scratch(p.block_panels * p.depth * self.columns)
        with T.serial(self.k_blocks) as k_block:
            self.k_block = k_block
            self.first_k = T.bind(k_block * p.depth)
            self.depth = T.bind(T.min(self.gemm.k - self.first_k, p.depth)) if self.gemm.k % p.depth else p.depth
            if p.pack_b:
                self.each_panel(column_block, self.pack_b)
            if p.pack_a:
                with T.serial(self.depth) as k:
                    self.each_tile(row_block, lambda *tile: self.pack_a(k, *tile))
            self.each_tile(
                row_block, lambda *tile: self.each_panel(column_block, lambda *panel: self.tile(*tile, *panel))
            )

    def each_tile(self, block: Expr, body: Callable[[Expr, Expr, int], None]) -> None:
        """``body(number in the block, first row, rows)`` for the tiles of a block of rows."""
        self._each(block, self.plan.block_tiles, self.plan.tiles(self.gemm), body)

    def each_panel(self, block: Expr, body: Callable[[Expr, Expr, int], None]) -> None:
        """``body(number in the block, first column, columns)`` for the panels of a block of columns."""
        self._each(block, self.plan.block_panels, self.plan.panels(self.gemm), body)

    def _each(self, block: Expr, count: int, segments: list[Segment], body: Callable[[Expr, Expr, int], None]) -> None:
        for s in segments:
            low = T.max(block * count, s.start)
            high = T.min((block + 1) * count, s.start + s.count)
            with T.serial(T.max(high - low, 0)) as i:
                index = T.bind(low + i)
                body(index - block * count, T.bind((index - s.start) * s.size + s.first), s.size)

    def pack_a(self, k: Expr, local: Expr, first_row: Expr, rows: int) -> None:
        """Packed A: [tile, k, row]."""
        lanes = self.plan.lanes
        for offset in range(0, rows, lanes):
            at = (*self.a_lead, self.first_k + k, first_row + offset)
            value = emit.load(self.a, *at, lanes=lanes, width=rows - offset)
            # Lanes beyond the tile are written too; what comes there later comes after this.
            emit.store(self.packed_a, value, self.a_place(local, k) + offset, lanes=lanes)

    def pack_b(self, local: Expr, first_column: Expr, columns: int) -> None:
        """Packed B: [panel, k, column], columns that do not exist as zeros."""
        if not self.gemm.trans_b:
            with T.serial(self.depth) as k:
                self.pack_row(local, first_column, columns, k)
            return
        lanes = self.plan.lanes
        for offset, width in self.vectors(columns):

            def source(row: int, k: Expr, count: int, offset: int = offset) -> Expr:
                at = (*self.b_lead, first_column + offset + row, self.first_k + k)
                return emit.load(self.b, *at, lanes=lanes, width=count)

            def target(k: Expr, value: Expr, offset: int = offset) -> None:
                emit.store(self.packed_b, value, self.b_place(local, k, offset), lanes=lanes)

            emit.copy_transposed(source, target, self.depth, width, lanes)

    def pack_row(self, local: Expr, first_column: Expr, columns: int, k: Expr) -> None:
        def copy(source: Any, row: Expr) -> None:
            for offset, width in self.vectors(columns):
                at = (*self.b_lead, row, first_column + offset)
                value = emit.load(source, *at, lanes=self.plan.lanes, width=width)
                emit.store(self.packed_b, value, self.b_place(local, k, offset), lanes=self.plan.lanes)

        shift = self.gemm.shift
        if not shift:
            copy(self.b, self.first_k + k)
            return
        row = T.bind(self.first_k + k - shift)
        with T.If(row >= 0 if shift > 0 else row < self.gemm.k):
            with T.Then():
                copy(self.b, row)
            with T.Else():
                copy(self.edge, row + shift if shift > 0 else row - self.gemm.k)

    def a_place(self, local: Expr, k: Expr) -> Expr:
        p = self.plan
        return local * _packed_tile(p.tile_rows, p.depth, p.lanes) + k * p.tile_rows

    def b_place(self, local: Expr, k: Expr, offset: int) -> Expr:
        return (local * self.plan.depth + k) * self.columns + offset

    def vectors(self, columns: int) -> list[tuple[int, int]]:
        """Offset and width of each vector of a panel."""
        lanes = self.plan.lanes
        return [(offset, min(lanes, columns - offset)) for offset in range(0, columns, lanes)]

    def tile(self, local_tile: Expr, row: Expr, rows: int, local_panel: Expr, column: Expr, columns: int) -> None:
        """One tile of C over one block of K."""
        vectors, lanes = self.vectors(columns), self.plan.lanes
        sums = {at: emit.Register(lanes) for at in itertools.product(range(rows), range(len(vectors)))}
        self.initialise(sums, row, column, vectors)

        def factor(i: int, k: Expr) -> Expr:
            return self.a_element(local_tile, row, i, k)

        def vector(v: int, k: Expr) -> Expr:
            offset, width = vectors[v]
            if self.plan.pack_b:
                return emit.load(self.packed_b, self.b_place(local_panel, k, offset), lanes=lanes)
            at = (*self.b_lead, self.first_k + k, column + offset)
            return emit.load(self.b, *at, lanes=lanes, width=width)

        emit.multiply(sums, self.depth, factor, vector)
        for (i, v), total in sums.items():
            offset, width = vectors[v]
            emit.store(self.c, total.value, *self.c_lead, row + i, column + offset, lanes=lanes, width=width)

    def a_element(self, local_tile: Expr, row: Expr, i: int, k: Expr) -> Expr:
        if self.plan.pack_a:
            return self.packed_a[self.a_place(local_tile, k) + i]
        at = (self.first_k + k, row + i) if self.gemm.trans_a else (row + i, self.first_k + k)
        return emit.element(self.a, *self.a_lead, *at)

    def initialise(
        self, sums: dict[tuple[int, int], emit.Register], row: Expr, column: Expr, vectors: list[tuple[int, int]]
    ) -> None:
        """The first block of K starts from the bias or zero, the others from what is in C."""
        lanes = self.plan.lanes

        def start() -> None:
            for (_, v), total in sums.items():
                offset, width = vectors[v]
                if self.bias is None:
                    total.value = emit.splat(0.0, lanes)
                else:
                    total.value = emit.load(self.bias, column + offset, lanes=lanes, width=width)

        def resume() -> None:
            for (i, v), total in sums.items():
                offset, width = vectors[v]
                total.value = emit.load(self.c, *self.c_lead, row + i, column + offset, lanes=lanes, width=width)

        if self.k_blocks == 1:
            return start()
        with T.If(self.k_block == 0):
            with T.Then():
                start()
            with T.Else():
                resume()
