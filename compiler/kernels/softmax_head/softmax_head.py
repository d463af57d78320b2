"""The head of a classifier over many classes: projection and softmax in one kernel.

The rows of probabilities are the largest tensor of a language model, many times larger than the caches.
``gradients.py`` has what their gradient needs, ``tile_forward.py`` the form in tile registers.
"""

from __future__ import annotations

import itertools
import operator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tvm import te, topi
from tvm.tirx.script import builder as T

from bucketmod.compiler.kernels import emission as emit
from bucketmod.compiler.kernels import math as vector
from bucketmod.compiler.kernels import streams
from bucketmod.compiler.kernels.kernel import Kernel, TensorShape
from bucketmod.compiler.kernels.products.gemm import most_rows
from bucketmod.compiler.kernels.products.packed_weight import PANEL_VECTORS, PackedWeight, pack_weight, packed_size
from bucketmod.compiler.kernels.softmax import divide_row
from bucketmod.compiler.kernels.softmax_head.tile_forward import LEAST_CLASSES, TileCut, TileEmitter

if TYPE_CHECKING:
    from bucketmod.compiler.target import CpuFeatures

Expr = Any


@dataclass(frozen=True)
class SoftmaxProjection(Kernel):
    """p[rows, classes] = softmax over the classes of (x w' + bias); x[rows, depth], w[classes, depth], bias[classes].

    The tuned form packs w once into panels of a few vectors. A task is a block of rows small enough for its scores to
    wait in the second cache; it runs through all panels and divides by the sums before it goes on. The largest score
    of a row, which softmax subtracts lest exp overflows, is known too late for that: the sum tells whether it was
    needed, and such rows are done again.

    ``panel``: w is a ``PackedWeight`` of that many classes a panel, which serves all calls. ``cut``: the cut of the
    tuned form in vector registers, in place of what the model of cost says.
    """

    rows: int
    depth: int
    classes: int
    bias: bool = True
    panel: int = 0
    cut: BlockCut | None = None

    @property
    def name(self) -> str:
        return "softmax_projection"

    @property
    def flops(self) -> int:
        return 2 * self.rows * self.depth * self.classes

    @property
    def inputs(self) -> list[TensorShape]:
        shapes: list[tuple[int, ...]] = [(self.rows, self.depth), (self.classes, self.depth), (self.classes,)]
        if self.panel:
            shapes[1] = (packed_size(self.depth, self.classes, self.panel),)
        return [(shape, "float32") for shape in shapes[: 2 + self.bias]]

    @property
    def outputs(self) -> list[TensorShape]:
        return [((self.rows, self.classes), "float32")]

    def scratch(self, cpu: CpuFeatures) -> list[TensorShape]:
        if self.by_tiles(cpu):
            return TileCut.of(self).scratch
        return [] if self.panel else self.packed_weight(cpu).outputs

    def packed_weight(self, cpu: CpuFeatures) -> PackedWeight:
        """The order in which panels of w are read."""
        return PackedWeight(self.depth, self.classes, True, PANEL_VECTORS * cpu.lanes)

    def with_packed_weight(self, cpu: CpuFeatures, once: bool) -> tuple[int, Kernel, Kernel] | None:
        if self.panel or self.by_tiles(cpu):
            return None
        weight = self.packed_weight(cpu)
        return 1, weight, replace(self, panel=weight.panel)

    def by_tiles(self, cpu: CpuFeatures) -> bool:
        """Whether the tuned form is the one in tile registers."""
        return cpu.tiles and self.classes >= LEAST_CLASSES and not self.panel

    def portable(self) -> Any:
        if self.panel:
            raise NotImplementedError(f"{self.name}: weights are packed for CPUs only")
        buffers = [te.placeholder(shape, dtype, f"input{i}") for i, (shape, dtype) in enumerate(self.inputs)]
        k = te.reduce_axis((0, self.depth), "k")
        scores = te.compute(self.outputs[0][0], lambda i, j: te.sum(buffers[0][i, k] * buffers[1][j, k], axis=k))
        if self.bias:
            product = scores
            scores = te.compute(product.shape, lambda i, j: product[i, j] + buffers[2][j])
        return te.create_prim_func([*buffers, topi.nn.softmax(scores)])

    def tuned(self, cpu: CpuFeatures) -> Any:
        names = ["x", "packed" if self.panel else "w"] + ["bias"] * self.bias + ["p"]
        names += ["left", "sums"] if self.by_tiles(cpu) else ["packed"] * (not self.panel)
        arguments = dict(zip(names, [*self.inputs, *self.outputs, *self.scratch(cpu)], strict=True))
        if self.by_tiles(cpu):
            return emit.build_named(self.name, arguments, lambda b: TileEmitter(self, b).run())

        def body(buffers: dict[str, Any]) -> None:
            if not self.panel:
                pack_weight(self.packed_weight(cpu), buffers["w"], buffers["packed"], cpu.lanes)
            _ProjectionEmitter(self, self.cut or BlockCut.of(self, cpu), buffers).run()

        return emit.build_named(self.name, arguments, body)

    def alternatives(self, cpu: CpuFeatures) -> list[Kernel]:
        return [] if self.by_tiles(cpu) else [replace(self, cut=cut) for cut in BlockCut.of(self, cpu).near(self.rows)]


@dataclass(frozen=True)
class BlockCut:
    """``vectors`` of ``lanes`` make a panel of ``width`` classes; a block of rows is cut into tiles of ``height``."""

    lanes: int
    vectors: int
    height: int
    block: int

    @property
    def width(self) -> int:
        return self.vectors * self.lanes

    def near(self, rows: int) -> list[BlockCut]:
        """Blocks of some tiles more or less, of ``rows`` rows at most."""
        tiles = self.block // self.height
        most = min(_MOST_TILES, -(-rows // self.height))
        others = sorted({tiles - 2, tiles - 1, tiles + 1, tiles + 2, tiles + 4} & set(range(1, most + 1)))
        return [replace(self, block=self.height * count) for count in others]

    @staticmethod
    def of(kernel: SoftmaxProjection, cpu: CpuFeatures) -> BlockCut:
        # Tiles whose sums fill the registers, but for those that hold a row of the panel and a value of x.
        vectors = PANEL_VECTORS
        height = most_rows(vectors, cpu.registers)
        # The panels pass by once a block, so a block has some tiles even where its scores exceed the cache.
        fitting = cpu.l2 // (4 * kernel.classes * height)
        least = max(_LEAST_ROWS, 4 * kernel.classes * kernel.depth // _WEIGHTS_A_ROW)
        most = min(max(-(-least // height), fitting), _MOST_TILES)
        tiles = min(range(most, 0, -1), key=lambda tiles: _uneven(kernel.rows, height * tiles, least))
        return BlockCut(cpu.lanes, vectors, height, height * tiles)


# The panels come from the third cache or beyond: fewer rows than this would wait for them, and so would these where the
# bytes of all weights are more for each row, for then no cache holds them.
_LEAST_ROWS = 24
_WEIGHTS_A_ROW = 384 << 10
_MOST_TILES = 16
_FETCHING_TILES = 4  # of a block; each fetches the lines of one panel more ahead


def _uneven(rows: int, block: int, least: int) -> float:
    """What blocks of this size cost: the rows of the busiest of one, two and four threads beside an even share, and
    more where the panels pass by too often."""
    blocks = -(-rows // block)
    shares = (min(rows, -(-blocks // threads) * block) * threads / rows for threads in (1, 2, 4))
    return sum(shares) + 0.3 * max(0.0, least / block - 1)


class _ProjectionEmitter:
    def __init__(self, kernel: SoftmaxProjection, cut: BlockCut, buffers: dict[str, Any]):
        self.kernel, self.cut = kernel, cut
        self.x, self.p, self.packed = (buffers[name] for name in ("x", "p", "packed"))
        self.bias = buffers.get("bias")
        whole, rest = divmod(kernel.classes, cut.width)
        self.whole, self.rest = whole, rest  # panels of full width, and classes in the last one

    def run(self) -> None:
        kernel, cut = self.kernel, self.cut
        full, rest = divmod(kernel.rows, cut.block)
        with streams.tasks(full + (rest > 0), kernel.flops / _FLOPS_PER_NS) as block:
            if full:
                with T.If(block < full), T.Then():
                    self.block(block * cut.block, cut.block)
            if rest:
                with T.If(block == full), T.Then():
                    self.block(full * cut.block, rest)

    def place(self, panel: Expr, k: Expr, vector: int) -> Expr:
        return (panel * self.kernel.depth + k) * self.cut.width + vector * self.cut.lanes

    def block(self, first: Expr, rows: int) -> None:
        """Probabilities of ``rows`` rows from ``first`` on."""
        cut = self.cut
        self.first = first
        self.sums = emit.scratch(rows * cut.lanes)  # of each row so far, lane by lane
        self.scores = emit.scratch(cut.height * cut.width)  # of one tile
        with T.serial(rows) as row:
            emit.store(self.sums, emit.splat(0.0, cut.lanes), row * cut.lanes, lanes=cut.lanes)
        if self.whole:
            with T.serial(self.whole) as panel:
                self.panel(panel, rows, cut.width)
        if self.rest:
            self.panel(self.whole, rows, self.rest)
        with T.serial(rows) as row:
            self.finish(row)

    def panel(self, panel: Expr, rows: int, classes: int) -> None:
        tiles, rest = divmod(rows, self.cut.height)
        if tiles:
            with T.serial(tiles) as tile:
                self.tile(panel, tile * self.cut.height, self.cut.height, classes)
        if rest:
            self.tile(panel, tiles * self.cut.height, rest, classes)

    def tile(self, panel: Expr, row: Expr, rows: int, classes: int) -> None:
        """exp(score) of ``rows`` rows of the block, from ``row`` on, for the first ``classes`` of a panel."""
        lanes, width = self.cut.lanes, self.cut.width
        vectors = range(-(-classes // lanes))
        self.fetch_places(panel + 1, row, rows)
        step = (row // self.cut.height * self.kernel.depth) if rows == self.cut.height else None
        sums = self.product(panel, [self.first + row + r for r in range(rows)], classes, step)
        for (r, v), total in sums.items():
            emit.store(self.scores, total.value, r * width + v * lanes, lanes=lanes)
        with T.serial(rows) as r:
            total = emit.Register(lanes)
            total.value = emit.load(self.sums, (row + r) * lanes, lanes=lanes)
            for v in vectors:
                present = min(lanes, classes - v * lanes)
                power = streams.hold(_exp(emit.load(self.scores, r * width + v * lanes, lanes=lanes)))
                emit.store(self.p, power.value, self.first + row + r, panel * width + v * lanes, lanes=lanes,
                           width=present)  # fmt: skip
                total.value = total.value + streams.keep(power.value, 0.0, lanes, present)
            emit.store(self.sums, total.value, (row + r) * lanes, lanes=lanes)

    def fetch_places(self, panel: Expr, row: Expr, rows: int) -> None:
        """Starts to fetch where the probabilities of the next panel will go: rows lie pages apart, and each store would
        wait for its line from memory."""
        for r, at in itertools.product(range(rows), range(0, self.cut.width, emit.LINE)):
            emit.prefetch(self.p, self.first + row + r, panel * self.cut.width + at, first=True)

    def product(
        self, panel: Expr, rows: list[Expr], classes: int, step: Expr | None = None
    ) -> dict[tuple[int, int], emit.Register]:
        """Scores of a few rows for the first ``classes`` of a panel, in registers by (row, vector).

        ``step``: steps along the depth that the block's tiles made so far in this panel: the first of them share out
        the lines of the next panels, which are fetched meanwhile.
        """
        lanes = self.cut.lanes
        vectors = range(-(-classes // lanes))
        sums = {(r, v): emit.Register(lanes) for r in range(len(rows)) for v in vectors}
        for v in vectors:
            start = emit.splat(0.0, lanes)
            if self.bias is not None:
                column, present = panel * self.cut.width + v * lanes, min(lanes, classes - v * lanes)
                start = emit.load(self.bias, column, lanes=lanes, width=present)
            start = emit.let(start)
            for r in range(len(rows)):
                sums[r, v].value = start
        tiles = self.cut.block // self.cut.height
        lines = -(-self.cut.width // (emit.LINE * tiles))  # to fetch at each step

        def fetch_lines(step: Expr) -> None:
            for line in range(lines):
                emit.prefetch(self.packed, self.place(panel + 1, 0, 0) + (step * lines + line) * emit.LINE)

        def fetch(k: Expr) -> None:
            if step is not None:
                few = tiles <= _FETCHING_TILES
                conditions = [] if few else [step < _FETCHING_TILES * self.kernel.depth]
                emit.when(conditions, lambda: fetch_lines(step + k))

        emit.multiply(
            sums,
            self.kernel.depth,
            lambda r, k: self.x[rows[r], k],
            lambda v, k: emit.load(self.packed, self.place(panel, k, v), lanes=lanes),
            fetch,
        )
        return sums

    def finish(self, row: Expr) -> None:
        """From exp(score) to probabilities; a row whose sum is not a safe number starts again, from its scores."""
        lanes = self.cut.lanes
        sums = emit.Register(lanes)
        sums.value = emit.load(self.sums, row * lanes, lanes=lanes)
        total = streams.combine([sums], operator.add)
        divide_row(self.p, self.first + row, self.kernel.classes, total, lanes, lambda: self.write_row(row))

    def write_row(self, row: Expr) -> None:
        if self.whole:
            with T.serial(self.whole) as panel:
                self.write_scores(panel, row, self.cut.width)
        if self.rest:
            self.write_scores(self.whole, row, self.rest)

    def write_scores(self, panel: Expr, row: Expr, classes: int) -> None:
        lanes = self.cut.lanes
        for (_, v), total in self.product(panel, [self.first + row], classes).items():
            emit.store(self.p, total.value, self.first + row, panel * self.cut.width + v * lanes, lanes=lanes,
                       width=min(lanes, classes - v * lanes))  # fmt: skip


def _exp(score: Expr) -> Expr:
    """By the power of 2, half the work: the exponent is rounded once more, as the sums of the product were many times.
    Where it is too large the sum is not safe."""
    return vector.exp2_saturated(score * vector.constant(vector.LOG2_E, score))


_FLOPS_PER_NS = 100.0  # of one thread, to tell whether the product is worth several
