"""Sums over the rows of a matrix: the gradients of biases."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tvm import te
from tvm.tirx.script import builder as T

from bucketmod.compiler.kernels import emission as emit
from bucketmod.compiler.kernels import streams
from bucketmod.compiler.kernels.kernel import Kernel, TensorShape

if TYPE_CHECKING:
    from bucketmod.compiler.target import CpuFeatures

Expr = Any


@dataclass(frozen=True)
class ColumnSum(Kernel):
    """y[cols] = sum of the rows of x[rows, cols]; float32. Rows are added in order, whatever the threads."""

    rows: int
    cols: int

    @property
    def name(self) -> str:
        return "column_sum"

    @property
    def outputs(self) -> list[TensorShape]:
        return [((self.cols,), "float32")]

    def portable(self) -> Any:
        x = te.placeholder((self.rows, self.cols), name="x")
        row = te.reduce_axis((0, self.rows), name="row")
        return te.create_prim_func([x, te.compute((self.cols,), lambda col: te.sum(x[row, col], axis=row))])

    def tuned(self, cpu: CpuFeatures) -> Any:
        # A task sums a block of columns; its sums stay in half of the registers, so that additions overlap.
        block = cpu.registers // 4 * cpu.lanes
        whole, rest = divmod(self.cols, block)
        cost = self.rows * self.cols * streams.NS_PER_FLOAT

        def body(x: Expr, y: Expr) -> None:
            with streams.tasks(whole + (rest > 0), cost) as task:
                if whole:
                    with T.If(task < whole), T.Then():
                        self._block(x, y, task * block, block, cpu.lanes)
                if rest:
                    with T.If(task == whole), T.Then():
                        self._block(x, y, whole * block, rest, cpu.lanes)

        arguments = [("x", ((self.rows, self.cols), "float32")), ("y", ((self.cols,), "float32"))]
        return emit.build_function(self.name, arguments, body)

    def _block(self, x: Expr, y: Expr, first: Expr, width: int, lanes: int) -> None:
        pieces = list(emit.pieces(width, lanes))
        sums = [emit.Register(piece) if piece > 1 else None for _, piece in pieces]
        single = T.alloc_buffer((1,), "float32", layout=None)  # of a last column that fills no vector
        for total, (_, piece) in zip(sums, pieces, strict=True):
            if total is not None:
                total.value = emit.splat(0.0, piece)
            else:
                T.buffer_store(single, T.float32(0), [0])
        with T.serial(self.rows) as row:
            for total, (offset, piece) in zip(sums, pieces, strict=True):
                value = emit.load(x, row, first + offset, lanes=piece)
                if total is not None:
                    total.value = total.value + value
                else:
                    T.buffer_store(single, single[0] + value, [0])
        for total, (offset, piece) in zip(sums, pieces, strict=True):
            emit.store(y, single[0] if total is None else total.value, first + offset, lanes=piece)
