"""The two operands of a matrix product as tiles see them: lines of values along K."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tvm import tirx
from tvm.tirx.script import builder as T

from bucketmod.compiler.kernels import emission as emit
from bucketmod.compiler.kernels.products.tile_plan import PAIR, pairs
from bucketmod.compiler.kernels.tiles import SIDE, STEP

if TYPE_CHECKING:
    from bucketmod.compiler.kernels.products.gemm import Gemm

Expr = Any


class Operand:
    """A or B: ``size`` lines, each with ``depth`` values, contiguous along the lines (``by_lines``) or along K.

    ``across``: that is not the order in which tiles have them; then ``turned`` is to be the operand the other way
    round, with zeros up to whole pairs of tiles and whole steps. ``matrix``: index of the running task's matrix where
    there are ``matrices``, else empty. ``sums``: its lines are added up.
    """

    def __init__(self, gemm: Gemm, name: str, buffers: dict[str, Any], right: bool, across: bool):
        self.gemm, self.name, self.buffers = gemm, name, buffers
        self.right, self.across = right, across
        first = name == "A"
        self.size, self.depth = gemm.m if first else gemm.n, gemm.k
        self.by_lines = gemm.trans_a if first else not gemm.trans_b
        self.sums = first and gemm.column_sums
        self.matrices = gemm.batch if (gemm.batch_a if first else gemm.batch_b) else 1
        self.matrix: list[Expr] = []
        self.turned: Any = None

    @property
    def lines(self) -> int:
        """Up to a whole pair of tiles."""
        return pairs(self.size) * PAIR

    @property
    def steps(self) -> int:
        return -(-self.depth // STEP)

    @property
    def whole(self) -> bool:
        """Whether all tiles are full."""
        return self.across or (self.size % PAIR == 0 and self.depth % STEP == 0)

    def turned_place(self, line: Expr, k: Expr) -> Expr:
        matrix = self.matrix[0] * (self.lines * self.steps * STEP) if self.matrix else 0
        return matrix + (k * self.lines + line if self.right else line * (self.steps * STEP) + k)

    def vector(self, line: Expr, k: Expr) -> Expr:
        """In the order of the tiles: along the lines on the right, along K on the left."""
        if self.across:
            return emit.let(emit.load(self.turned, self.turned_place(line, k), lanes=SIDE))
        return emit.let(self.load(line, k, None if self.whole else self.width(line, k)))

    def fetch(self, line: Expr, k: Expr) -> None:
        """Asks for the vector. The place may lie beyond the operand."""
        if self.across:
            emit.prefetch(self.turned, self.turned_place(line, k))
        else:
            self.ask(line, k)

    def ask(self, line: Expr, k: Expr) -> None:
        shift = self.gemm.shift if self.name == "B" else 0
        emit.prefetch(self.buffers[self.name], *self.place(line, k - shift))

    def place(self, line: Expr, k: Expr) -> tuple[Expr, ...]:
        return (*self.matrix, k, line) if self.by_lines else (*self.matrix, line, k)

    def load(self, line: Expr, k: Expr, width: Expr | None) -> Expr:
        """A vector in the order of the operand."""
        gemm = self.gemm
        if self.name == "A" or not gemm.shift:
            return emit.load(self.buffers[self.name], *self.place(line, k), lanes=SIDE, width=width)
        found, row = emit.Register(SIDE), T.bind(k - gemm.shift)
        with T.If(row >= 0 if gemm.shift > 0 else row < gemm.k):
            with T.Then():
                found.value = emit.load(self.buffers["B"], row, line, lanes=SIDE, width=width)
            with T.Else():
                row = row + gemm.shift if gemm.shift > 0 else row - gemm.k
                found.value = emit.load(self.buffers["edge"], row, line, lanes=SIDE, width=width)
        return found.value

    def width(self, line: Expr, k: Expr) -> Expr:
        """How many values there are from a place on in the direction of its vector; none outside of the operand."""
        along, limit = (line, self.size) if self.by_lines else (k, self.depth)
        other, other_limit = (k, self.depth) if self.by_lines else (line, self.size)
        return emit.let(tirx.Select(other < other_limit, limit - along, 0))
