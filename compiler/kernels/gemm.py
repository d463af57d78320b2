"""Matrix products: C = op(A) op(B) (+ bias), in all transposes, batched or not.

The tuned form keeps a tile of C in registers while it runs along K. ``plan`` chooses how the product is cut; the
emission below only follows the plan.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
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
        return emit.build_named(self.name, arguments, lambda buffers: _Emitter(self, plan(self, cpu), buffers).run())


@dataclass(frozen=True)
class Plan:
    """How a product is cut.

    A register tile is ``tile_rows`` x (``tile_vectors`` * ``lanes``) of C. K is cut into blocks of ``depth``. A task,
    the unit of parallel work, is ``block_tiles`` tiles high and ``block_panels`` panels (columns of tiles) wide.
    ``pack_a`` and ``pack_b``: the task first copies its part of the operand, one block of K at a time, in the order of
    use.
    """

    lanes: int
    tile_rows: int
    tile_vectors: int
    depth: int
    block_tiles: int
    block_panels: int
    pack_a: bool
    pack_b: bool
    parallel: bool


# Cycles an element for copying an operand into its packed form, measured with L2-resident data.
_COPY_CYCLES = 0.15
_TRANSPOSE_CYCLES = 0.5
# A task that runs shorter than this many floating point operations is not worth starting a thread for (about 5 us).
_MIN_TASK_FLOPS = 5e5
# The plan has to be good for these numbers of threads; how many will run it is not known when it is compiled.
_THREADS = (1, 2, 4, 8)


def plan(gemm: Gemm, cpu: CpuFeatures) -> Plan:
    """The cheapest plan under the model of cost in README.md."""
    lanes = cpu.lanes
    vectors = min(2, -(-gemm.n // lanes))
    # Two registers hold the values of B, one or two the value of A that is broadcast.
    most_rows = (cpu.registers - 2 - vectors) // 2
    tiles = -(-gemm.m // most_rows)
    rows = -(-gemm.m // tiles)
    depth = _even_part(gemm.k, cpu.l1 // 2 // (4 * vectors * lanes) * 2, lanes)
    panels = -(-gemm.n // (vectors * lanes))
    most_panels = max(1, cpu.l2 // 2 // (4 * depth * vectors * lanes))
    base = Plan(lanes, rows, vectors, depth, tiles, panels, gemm.trans_a, True, True)
    if not gemm.trans_b and not gemm.shift and tiles <= 3:
        base = replace(base, pack_b=False)
    candidates = [
        replace(base, block_tiles=height, block_panels=width)
        for height in _cuts(tiles, tiles)
        for width in _cuts(panels, most_panels)
    ]
    best = min(candidates, key=lambda p: _cost(gemm, p))
    return replace(best, parallel=_tasks(gemm, best) > 1 and gemm.flops >= 2 * _MIN_TASK_FLOPS)


def _even_part(total: int, most: int, least: int) -> int:
    """The size of parts that cut ``total`` evenly, at most ``most``; the last is smaller, but not below ``least``."""
    parts = -(-total // most)
    while parts > 1 and total - (parts - 1) * -(-total // parts) < least:
        parts += 1
    return -(-total // parts)


def _cuts(total: int, most: int) -> list[int]:
    """Sizes of parts that cut ``total`` evenly into ever more parts, none larger than ``most``."""
    fewest = -(-total // most)
    return sorted({-(-total // parts) for parts in range(fewest, min(total, fewest + 64) + 1)})


def _tasks(gemm: Gemm, p: Plan) -> int:
    tiles, panels = _counts(gemm, p)
    return gemm.batch * -(-tiles // p.block_tiles) * -(-panels // p.block_panels)


def _counts(gemm: Gemm, p: Plan) -> tuple[int, int]:
    return -(-gemm.m // p.tile_rows), -(-gemm.n // (p.tile_vectors * p.lanes))


def _cost(gemm: Gemm, p: Plan) -> float:
    """Mean over the numbers of threads of the time of the busiest one, in cycles, against the perfectly shared time."""
    rows, columns = p.block_tiles * p.tile_rows, p.block_panels * p.tile_vectors * p.lanes
    task = rows * columns * gemm.k / (2 * p.lanes)
    if p.pack_b:
        task += columns * gemm.k * (_TRANSPOSE_CYCLES if gemm.trans_b else _COPY_CYCLES)
    if p.pack_a:
        task += rows * gemm.k * _COPY_CYCLES
    tasks = _tasks(gemm, p)
    if tasks > 1 and gemm.flops / tasks < _MIN_TASK_FLOPS:
        return float("inf")
    return sum(-(-tasks // threads) * task * threads for threads in _THREADS)


class _Emitter:
    """Emits the loops of one plan."""

    def __init__(self, gemm: Gemm, p: Plan, buffers: dict[str, Any]):
        self.gemm, self.plan = gemm, p
        self.a, self.b, self.c = buffers["A"], buffers["B"], buffers["C"]
        self.bias, self.edge = buffers.get("bias"), buffers.get("edge")
        self.columns = p.tile_vectors * p.lanes
        self.tiles, self.panels = _counts(gemm, p)
        self.row_blocks = -(-self.tiles // p.block_tiles)
        self.column_blocks = -(-self.panels // p.block_panels)
        self.k_blocks = -(-gemm.k // p.depth)
        self.a_lead: list[Expr] = []
        self.b_lead: list[Expr] = []
        self.c_lead: list[Expr] = []

    def run(self) -> None:
        tasks = _tasks(self.gemm, self.plan)
        with (T.parallel if self.plan.parallel else T.serial)(tasks) as task:
            # Neighbouring tasks, which one thread runs one after the other, share columns of B.
            row_block = T.bind(task % self.row_blocks)
            column_block = T.bind(task // self.row_blocks % self.column_blocks)
            matrix = task // (self.row_blocks * self.column_blocks)
            if self.gemm.batch > 1:
                lead = [T.bind(matrix)]
                self.c_lead = lead
                self.a_lead = lead if self.gemm.batch_a else []
                self.b_lead = lead if self.gemm.batch_b else []
            self.task(row_block, column_block)

    def task(self, row_block: Expr, column_block: Expr) -> None:
        p = self.plan
        if p.pack_a:
            self.packed_a = emit.scratch(p.block_tiles * p.depth * p.tile_rows)
        if p.pack_b:
            self.packed_b = emit.scratch(p.block_panels * p.depth * self.columns)
        with T.serial(self.k_blocks) as k_block:
            self.first_k = T.bind(k_block * p.depth)
            self.depth = T.bind(T.min(self.gemm.k - self.first_k, p.depth)) if self.gemm.k % p.depth else p.depth
            self.k_block = k_block
            if p.pack_b:
                self.each_panel(column_block, self.pack_b)
            if p.pack_a:
                self.each_tile(row_block, self.pack_a)
            self.each_tile(
                row_block,
                lambda tile, local_tile, rows: self.each_panel(
                    column_block, lambda *panel: self.micro_kernel(tile, local_tile, rows, *panel)
                ),
            )

    def each_tile(self, block: Expr, body: Any) -> None:
        """``body(tile, tile in the block, rows)`` for the tiles of a block of rows; the last of all may be lower."""
        self._each(block, self.plan.block_tiles, self.tiles, self.plan.tile_rows, self.gemm.m, body)

    def each_panel(self, block: Expr, body: Any) -> None:
        """``body(panel, panel in the block, columns)``; the last panel of all may be narrower."""
        self._each(block, self.plan.block_panels, self.panels, self.columns, self.gemm.n, body)

    def _each(self, block: Expr, count: int, total: int, size: int, extent: int, body: Any) -> None:
        last_size = extent - (total - 1) * size
        full = total if last_size == size else total - 1
        with T.serial(count) as local:
            index = block * count + local
            if full:
                with T.If(index < full), T.Then():
                    body(index, local, size)
            if last_size != size:
                with T.If(index == total - 1), T.Then():
                    body(index, local, last_size)

    def pack_a(self, tile: Expr, local: Expr, rows: int) -> None:
        """Packed A: [tile, k, row]."""
        p = self.plan
        with T.serial(self.depth) as k:
            place = (local * p.depth + k) * p.tile_rows
            for offset, lanes in emit.pieces(rows, p.lanes):
                value = emit.load(self.a, *self.a_lead, self.first_k + k, tile * p.tile_rows + offset, lanes=lanes)
                emit.store(self.packed_a, value, place + offset, lanes=lanes)

    def pack_b(self, panel: Expr, local: Expr, columns: int) -> None:
        """Packed B: [panel, k, column], columns that do not exist as zeros."""
        if not self.gemm.trans_b:
            with T.serial(self.depth) as k:
                self.pack_row(panel, local, columns, k)
            return
        lanes = self.plan.lanes
        for column, width in self.vectors(columns):

            def source(row: int, k: Expr, count: int, column: int = column) -> Expr:
                at = (*self.b_lead, panel * self.columns + column + row, self.first_k + k)
                return emit.load(self.b, *at, lanes=lanes, width=count)

            def target(k: Expr, value: Expr, column: int = column) -> None:
                emit.store(self.packed_b, value, self.b_place(local, k, column), lanes=lanes)

            emit.copy_transposed(source, target, self.depth, width, lanes)

    def pack_row(self, panel: Expr, local: Expr, columns: int, k: Expr) -> None:
        def copy(source: Any, row: Expr) -> None:
            for column, width in self.vectors(columns):
                at = (row, panel * self.columns + column)
                value = emit.load(source, *self.b_lead, *at, lanes=self.plan.lanes, width=width)
                emit.store(self.packed_b, value, self.b_place(local, k, column), lanes=self.plan.lanes)

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

    def b_place(self, local: Expr, k: Expr, column: Expr) -> Expr:
        return (local * self.plan.depth + k) * self.columns + column

    def load_b(self, k: Expr, column: Expr, width: int) -> Expr:
        return emit.load(self.b, *self.b_lead, k, column, lanes=self.plan.lanes, width=width)

    def vectors(self, columns: int) -> Iterator[tuple[int, int]]:
        """First column and width of each vector of a panel."""
        lanes = self.plan.lanes
        return ((first, min(lanes, columns - first)) for first in range(0, columns, lanes))

    def micro_kernel(
        self, tile: Expr, local_tile: Expr, rows: int, panel: Expr, local_panel: Expr, columns: int
    ) -> None:
        p = self.plan
        vectors = list(self.vectors(columns))
        first_row, first_column = tile * p.tile_rows, panel * self.columns
        sums = {at: emit.Register(p.lanes) for at in itertools.product(range(rows), vectors)}
        self.initialise(sums, first_row, first_column)
        with T.serial(self.depth) as k:
            values = [
                emit.let(
                    emit.load(self.packed_b, self.b_place(local_panel, k, column), lanes=p.lanes)
                    if p.pack_b
                    else self.load_b(self.first_k + k, first_column + column, width)
                )
                for column, width in vectors
            ]
            for row in range(rows):
                factor = emit.let(emit.splat(self.a_element(first_row, local_tile, row, k), p.lanes))
                for vector, value in zip(vectors, values, strict=True):
                    sums[row, vector].value = sums[row, vector].value + factor * value
        for (row, (column, width)), total in sums.items():
            emit.store(self.c, total.value, *self.c_lead, first_row + row, first_column + column,
                       lanes=p.lanes, width=width)  # fmt: skip

    def a_element(self, first_row: Expr, local_tile: Expr, row: int, k: Expr) -> Expr:
        if self.plan.pack_a:
            return self.packed_a[(local_tile * self.plan.depth + k) * self.plan.tile_rows + row]
        at = (self.first_k + k, first_row + row) if self.gemm.trans_a else (first_row + row, self.first_k + k)
        return emit.element(self.a, *self.a_lead, *at)

    def initialise(self, sums: dict[Any, emit.Register], first_row: Expr, first_column: Expr) -> None:
        """The first block of K starts from the bias or zero, the others from what is in C."""
        lanes = self.plan.lanes

        def start() -> None:
            for (_, (column, width)), total in sums.items():
                if self.bias is None:
                    total.value = emit.splat(0.0, lanes)
                else:
                    total.value = emit.load(self.bias, first_column + column, lanes=lanes, width=width)

        def resume() -> None:
            for (row, (column, width)), total in sums.items():
                total.value = emit.load(self.c, *self.c_lead, first_row + row, first_column + column,
                                        lanes=lanes, width=width)  # fmt: skip

        if self.k_blocks == 1:
            return start()
        with T.If(self.k_block == 0):
            with T.Then():
                start()
            with T.Else():
                resume()
