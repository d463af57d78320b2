"""The loops of a matrix product, as its plan says."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tvm.tirx.script import builder as T

from bucketmod.compiler.kernels import emission as emit
from bucketmod.compiler.kernels.kernel import TensorShape
from bucketmod.compiler.kernels.products.choice import chosen_cut
from bucketmod.compiler.kernels.products.epilogue import activate, slope
from bucketmod.compiler.kernels.products.packed_weight import packed_size
from bucketmod.compiler.kernels.products.plan import Plan, Segment, blocks, tasks
from bucketmod.compiler.kernels.products.tile_emission import emit_tile_product
from bucketmod.compiler.kernels.products.tile_plan import TilePlan

if TYPE_CHECKING:
    from bucketmod.compiler.kernels.products.gemm import Gemm
    from bucketmod.compiler.target import CpuFeatures

Expr = Any

# Values of K that are copied from one tile of A before the next: long enough to add up columns in registers, short
# enough that a line of A, which several tiles share, is still in the first cache for the last of them.
_PACKED_AT_ONCE = 16
# What a task packs of all of B: the CPU follows about so many rows of panels that are written at once.
_ROWS_AT_ONCE, _PANELS_AT_ONCE = 64, 12


def emit_product(gemm: Gemm, cpu: CpuFeatures, buffers: dict[str, Any]) -> None:
    """Emits the loops of the product into the function under construction; ``buffers`` by the names of
    ``Gemm.arguments``. Families that go on with C in the same kernel call this; where they give "weights" [k], each row
    of A counts that often in the column sums."""
    found = chosen_cut(gemm, cpu)
    if isinstance(found, TilePlan):
        emit_tile_product(gemm, found, buffers)
    else:
        _Emitter(gemm, found, buffers).run()


def product_scratch(gemm: Gemm, cpu: CpuFeatures) -> dict[str, TensorShape]:
    """What the product needs besides its arguments, by the names of ``buffers``."""
    found = chosen_cut(gemm, cpu)
    if isinstance(found, TilePlan) or not found.pack_all:
        return {}
    panel = found.tile_vectors * cpu.lanes
    return {"packed": ((packed_size(gemm.k, gemm.n, panel),), "float32")}


class _Emitter:
    """Emits the loops of one plan."""

    def __init__(self, gemm: Gemm, p: Plan, buffers: dict[str, Any]):
        self.gemm, self.plan, self.buffers = gemm, p, buffers
        self.a, self.b, self.c = buffers["A"], buffers["B"], buffers["C"]
        self.columns = p.tile_vectors * p.lanes
        # All of B in panels, where it lies like that before the tasks begin.
        self.panels = buffers["packed"] if p.pack_all else self.b if gemm.panel else None
        self.packed_depth = p.depth if self.panels is None else gemm.k
        self.k_blocks = -(-gemm.k // p.depth)
        self.a_lead: list[Expr] = []
        self.b_lead: list[Expr] = []
        self.c_lead: list[Expr] = []

    def run(self) -> None:
        gemm, p = self.gemm, self.plan
        if p.pack_all:
            self.pack_all()
        row_blocks, column_blocks = blocks(gemm, p)
        with (T.parallel if p.parallel else T.serial)(tasks(gemm, p)) as task:
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
        self.row_block, self.column_block = row_block, column_block
        if p.pack_a:
            self.packed_a = emit.scratch(p.block_tiles * p.tile_rows * p.depth)
        if p.pack_b:
            self.packed_b = emit.scratch(p.block_panels * p.depth * self.columns)
        with T.serial(self.k_blocks) as k_block:
            self.k_block = k_block
            self.first_k = T.bind(k_block * p.depth)
            self.depth = T.bind(T.min(self.gemm.k - self.first_k, p.depth)) if self.gemm.k % p.depth else p.depth
            if p.pack_b:
                self.pack_b()
            if p.pack_a:
                self.pack_a()
            self.each_tile(lambda *tile: self.each_panel(lambda *panel: self.tile(*tile, *panel)))

    def pack_all(self) -> None:
        """Packs all of B, as ``pack_b`` does for a task: pieces of rows, to a few panels at a time."""
        panels = self.plan.panels(self.gemm)
        blocks = -(-(panels[-1].start + panels[-1].count) // _PANELS_AT_ONCE)
        self.packed_b, self.first_k = self.panels, 0
        with T.parallel(blocks * -(-self.gemm.k // _ROWS_AT_ONCE)) as part:
            block, first = T.bind(part % blocks), T.bind(part // blocks * _ROWS_AT_ONCE)

            def pack(k: Expr, local: Expr, first_column: Expr, columns: int) -> None:
                self.pack_row(k, block * _PANELS_AT_ONCE + local, first_column, columns)

            with T.serial(T.min(self.gemm.k - first, _ROWS_AT_ONCE)) as i:
                k = T.bind(first + i)
                self._each(block, _PANELS_AT_ONCE, panels, lambda *panel: pack(k, *panel))

    def each_tile(self, body: Callable[[Expr, Expr, int], None]) -> None:
        """``body(number in the block, first row, rows)`` for the tiles of the block of rows."""
        self._each(self.row_block, self.plan.block_tiles, self.plan.tiles(self.gemm), body)

    def each_panel(self, body: Callable[[Expr, Expr, int], None]) -> None:
        """``body(number in the block, first column, columns)`` for the panels of the block of columns."""
        self._each(self.column_block, self.plan.block_panels, self.plan.panels(self.gemm), body)

    def _each(self, block: Expr, count: int, segments: list[Segment], body: Callable[[Expr, Expr, int], None]) -> None:
        for s in segments:
            low = T.max(block * count, s.start)
            high = T.min((block + 1) * count, s.start + s.count)
            with T.serial(T.max(high - low, 0)) as i:
                index = T.bind(low + i)
                body(index - block * count, T.bind((index - s.start) * s.size + s.first), s.size)

    def pack_a(self) -> None:
        """Packed A: [tile, k, row]."""
        with T.serial((self.depth + _PACKED_AT_ONCE - 1) // _PACKED_AT_ONCE) as part:
            first = T.bind(part * _PACKED_AT_ONCE)
            count = T.bind(T.min(self.depth - first, _PACKED_AT_ONCE))
            self.each_tile(lambda *tile: self.pack_tile(first, count, *tile))

    def pack_tile(self, first: Expr, count: Expr, local: Expr, first_row: Expr, rows: int) -> None:
        parts = list(emit.pieces(rows, self.plan.lanes))
        weights = self.buffers.get("weights")
        totals = {offset: emit.Register(lanes) for offset, lanes in parts} if self.gemm.column_sums else {}
        for offset, lanes in parts[: len(totals)]:
            totals[offset].value = emit.splat(0.0, lanes)
        with T.serial(count) as i:
            for offset, lanes in parts:
                at = (*self.a_lead, self.first_k + first + i, first_row + offset)
                value = emit.let(emit.load(self.a, *at, lanes=lanes))
                emit.store(self.packed_a, value, self.a_place(local, rows, first + i) + offset, lanes=lanes)
                if totals:
                    if weights is not None:
                        value = value * emit.splat(weights[self.first_k + first + i], lanes)
                    totals[offset].value = totals[offset].value + value
        if totals:
            self.add_to_sums(first, first_row, parts, totals)

    def add_to_sums(self, first: Expr, first_row: Expr, parts: list[tuple[int, int]], totals: dict[int, Any]) -> None:
        """Adds to ``column_sums`` what a part of the rows comes to; one task of those that read these columns does."""
        sums = self.buffers["sums"]
        with T.If(self.column_block == 0):
            with T.Then():
                with T.If(self.first_k + first == 0):
                    with T.Then():
                        for offset, lanes in parts:
                            emit.store(sums, totals[offset].value, first_row + offset, lanes=lanes)
                    with T.Else():
                        for offset, lanes in parts:
                            so_far = emit.load(sums, first_row + offset, lanes=lanes)
                            emit.store(sums, so_far + totals[offset].value, first_row + offset, lanes=lanes)

    def pack_b(self) -> None:
        """Packed B: [panel, k, column], columns that do not exist as zeros."""
        if self.gemm.trans_b:
            self.each_panel(self.pack_transposed)
            return
        with T.serial(self.depth) as k:  # whole rows, one after the other, are what the CPU fetches ahead
            self.each_panel(lambda *panel: self.pack_row(k, *panel))

    def pack_transposed(self, local: Expr, first_column: Expr, columns: int) -> None:
        full, rest = divmod(columns, self.plan.lanes)
        if full:
            with T.serial(full) as v:  # a transpose is long code
                self.pack_square(local, first_column, T.bind(v * self.plan.lanes), self.plan.lanes)
        if rest:
            self.pack_square(local, first_column, full * self.plan.lanes, rest)

    def pack_square(self, local: Expr, first_column: Expr, offset: Expr, width: int) -> None:
        """The columns of one vector of a panel."""
        lanes = self.plan.lanes

        def source(row: int, k: Expr, count: int) -> Expr:
            at = (*self.b_lead, first_column + offset + row, self.first_k + k)
            return emit.load(self.b, *at, lanes=lanes, width=count)

        def target(k: Expr, value: Expr) -> None:
            emit.store(self.packed_b, value, self.b_place(local, k, offset), lanes=lanes)

        emit.copy_transposed(source, target, self.depth, width, lanes)

    def pack_row(self, k: Expr, local: Expr, first_column: Expr, columns: int) -> None:
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
                copy(self.buffers["edge"], row + shift if shift > 0 else row - self.gemm.k)

    def a_place(self, local: Expr, rows: int, k: Expr) -> Expr:
        return local * (self.plan.tile_rows * self.plan.depth) + k * rows

    def b_place(self, local: Expr, k: Expr, offset: Expr) -> Expr:
        return (local * self.packed_depth + k) * self.columns + offset

    def vectors(self, columns: int) -> list[tuple[int, int]]:
        """Offset and width of each vector of a panel."""
        lanes = self.plan.lanes
        return [(offset, min(lanes, columns - offset)) for offset in range(0, columns, lanes)]

    def tile(self, local_tile: Expr, row: Expr, rows: int, local_panel: Expr, column: Expr, columns: int) -> None:
        """One tile of C over one block of K."""
        vectors, lanes = self.vectors(columns), self.plan.lanes
        sums = {at: emit.Register(lanes) for at in itertools.product(range(rows), range(len(vectors)))}
        self.initialise(sums, row, column, vectors)
        self.fetch_next(local_panel, row, rows)
        self.fetch_beside(row, rows, column, columns)

        def factor(i: int, k: Expr) -> Expr:
            return self.a_element(local_tile, row, rows, i, k)

        def vector(v: int, k: Expr) -> Expr:
            offset, width = vectors[v]
            if self.panels is not None:
                panel = self.column_block * self.plan.block_panels + local_panel
                return emit.load(self.panels, self.b_place(panel, self.first_k + k, offset), lanes=lanes)
            if self.plan.pack_b:
                return emit.load(self.packed_b, self.b_place(local_panel, k, offset), lanes=lanes)
            at = (*self.b_lead, self.first_k + k, column + offset)
            return emit.load(self.b, *at, lanes=lanes, width=width)

        emit.multiply(sums, self.depth, factor, vector)
        for (i, v), total in sums.items():
            offset, width = vectors[v]
            at = (*self.c_lead, row + i, column + offset)
            if self.finishes_in_registers:
                total.value = self.finished(total.value, at, width)
            emit.store(self.c, total.value, *at, lanes=lanes, width=width)
        if not self.finishes_in_registers:
            self.finish(row, rows, column, vectors)

    def fetch_next(self, panel: Expr, row: Expr, rows: int) -> None:
        """Brings in the rows of A that the next tile reads, a share before each panel; packed ones are there."""
        p = self.plan
        if p.pack_a or self.k_blocks > 1:  # long rows are fetched ahead by the CPU itself
            return
        lines = -(-p.depth // emit.LINE)
        share = -(-lines // p.block_panels)
        with T.serial(share) as i:
            k = T.bind((panel * share + i) * emit.LINE)
            with T.If(k < self.depth):
                with T.Then():
                    for next_row in range(rows, 2 * rows):
                        emit.prefetch(self.a, *self.a_lead, row + next_row, self.first_k + k)

    def fetch_beside(self, row: Expr, rows: int, column: Expr, columns: int) -> None:
        """Brings in what is touched when the product of this tile is done: rows of it lie pages apart, and no CPU
        guesses them. C is in the caches already where it is added up over blocks of K."""
        names = ["saved"] * bool(self.gemm.slope_of) + ["C"] * (self.k_blocks == 1)

        def fetch() -> None:
            for name, i, offset in itertools.product(names, range(rows), range(0, columns, emit.LINE)):
                emit.prefetch(self.buffers[name], *self.c_lead, row + i, column + offset, first=True)

        emit.when([self.k_block == self.k_blocks - 1] if self.k_blocks > 1 else [], fetch)

    def a_element(self, local_tile: Expr, row: Expr, rows: int, i: int, k: Expr) -> Expr:
        if self.plan.pack_a:
            return self.packed_a[self.a_place(local_tile, rows, k) + i]
        at = (self.first_k + k, row + i) if self.gemm.trans_a else (row + i, self.first_k + k)
        return emit.element(self.a, *self.a_lead, *at)

    def initialise(
        self, sums: dict[tuple[int, int], emit.Register], row: Expr, column: Expr, vectors: list[tuple[int, int]]
    ) -> None:
        """The first block of K starts from the bias and the addend or zero, the others from what is in C."""
        lanes = self.plan.lanes
        bias = self.buffers.get("bias")

        def start() -> None:
            for (i, v), total in sums.items():
                offset, width = vectors[v]
                value = emit.splat(0.0, lanes)
                if bias is not None:
                    value = emit.load(bias, column + offset, lanes=lanes, width=width)
                if self.gemm.addend:
                    value = value + resumed("addend", i, v) if bias is not None else resumed("addend", i, v)
                total.value = value

        def resumed(name: str, i: int, v: int) -> Expr:
            offset, width = vectors[v]
            at = (*self.c_lead, row + i, column + offset)
            return emit.load(self.buffers[name], *at, lanes=lanes, width=width)

        if self.k_blocks == 1:
            return start()
        with T.If(self.k_block == 0):
            with T.Then():
                start()
            with T.Else():
                for (i, v), total in sums.items():
                    total.value = resumed("C", i, v)

    @property
    def finishes_in_registers(self) -> bool:
        """Whether what follows the product is so little that each sum has it before it is stored."""
        return self.k_blocks == 1 and {self.gemm.activation, self.gemm.slope_of} <= {"", "relu"}

    def finished(self, value: Expr, at: tuple[Expr, ...], width: int) -> Expr:
        """A vector of sums, in a register, after the activation and the slope of one before."""
        gemm, lanes = self.gemm, self.plan.lanes
        if gemm.activation:
            value = activate(gemm.activation, value, emit.bind)
        if gemm.slope_of:
            saved = emit.let(emit.load(self.buffers["saved"], *at, lanes=lanes, width=width))
            value = slope(gemm.slope_of, value, saved)
        return value

    def finish(self, row: Expr, rows: int, column: Expr, vectors: list[tuple[int, int]]) -> None:
        """Puts the finished tile, which is in the first cache, through the activation and the slope of one before."""
        lanes = self.plan.lanes
        if not self.gemm.activation and not self.gemm.slope_of:
            return

        def pass_on() -> None:
            with T.serial(rows) as i:
                for offset, width in vectors:
                    at = (*self.c_lead, row + i, column + offset)
                    value = emit.let(emit.load(self.c, *at, lanes=lanes, width=width))
                    emit.store(self.c, self.finished(value, at, width), *at, lanes=lanes, width=width)

        if self.k_blocks == 1:
            return pass_on()
        with T.If(self.k_block == self.k_blocks - 1), T.Then():
            pass_on()
