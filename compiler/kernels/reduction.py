"""Sums over the rows of a matrix, as the gradients of biases need them."""

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
# Rows read side by side: as many as hardware prefetchers follow, and the sums are stored 8 times less often.
_STREAMS = 8
_MOST_PARTS = 16
_COLUMNS_OF_TASK = 512


@dataclass(frozen=True)
class ColumnSum(Kernel):
    """out[cols] = sum of x[rows, cols] over the rows; float32. The order of additions depends on the shape alone."""

    rows: int
    cols: int

    @property
    def name(self) -> str:
        return "column_sum"

    @property
    def outputs(self) -> list[TensorShape]:
        return [((self.cols,), "float32")]

    @property
    def _cost(self) -> float:
        return self.rows * self.cols * streams.NS_PER_FLOAT

    @property
    def _part(self) -> int:
        """Rows that one task adds up; all of them where threads do not pay."""
        if self._cost < streams.WORTH_THREADS_NS:
            return self.rows
        return -(-self.rows // (_MOST_PARTS * _STREAMS)) * _STREAMS

    @property
    def _parts(self) -> int:
        return -(-self.rows // self._part)

    def scratch(self, cpu: CpuFeatures) -> list[TensorShape]:
        return [((self._parts, self.cols), "float32")] if self._parts > 1 else []

    def portable(self) -> Any:
        x = te.placeholder((self.rows, self.cols), name="x")
        k = te.reduce_axis((0, self.rows), "k")
        return te.create_prim_func([x, te.compute((self.cols,), lambda j: te.sum(x[k, j], axis=k), name="out")])

    def tuned(self, cpu: CpuFeatures) -> Any:
        lanes = cpu.lanes

        def body(x: Expr, out: Expr, partial: Expr | None = None) -> None:
            if partial is None:
                sum_rows(x, 0, self.rows, out, (), (0, self.cols), lanes)
                return
            whole, rest = divmod(self.rows, self._part)
            with streams.tasks(whole, self._cost) as part:
                sum_rows(x, part * self._part, self._part, partial, (part,), (0, self.cols), lanes)
            if rest:
                sum_rows(x, whole * self._part, rest, partial, (whole,), (0, self.cols), lanes)
            sum_parts(partial, self._parts, self.cols, out, lanes)

        arguments = [("x", ((self.rows, self.cols), "float32")), ("out", self.outputs[0])]
        arguments += [("partial", shape) for shape in self.scratch(cpu)]
        return emit.build_function(self.name, arguments, body)


def sum_parts(partial: Expr, parts: int, cols: int, out: Expr, lanes: int) -> None:
    """Emits out[cols] = sum of partial[parts, cols] over the parts, split over threads where that pays."""
    cost = parts * cols * streams.NS_PER_FLOAT
    tasks, rest = divmod(cols, _COLUMNS_OF_TASK)
    if tasks:
        with streams.tasks(tasks, cost) as task:
            columns = (task * _COLUMNS_OF_TASK, _COLUMNS_OF_TASK)
            sum_rows(partial, 0, parts, out, (), columns, lanes)
    if rest:
        sum_rows(partial, 0, parts, out, (), (tasks * _COLUMNS_OF_TASK, rest), lanes)


def sum_rows(
    source: Expr, row: Expr, rows: int, target: Expr, at: tuple[Expr, ...], columns: tuple[Expr, int], lanes: int
) -> None:
    """Emits the sum of ``rows`` rows of ``source``, from ``row`` on, into ``target[at]``.

    ``columns``: the first column and how many. Few rows at a time run through all columns, whose sums stay in cache.
    """
    start, count = columns

    def add(first_row: Expr, together: int, fresh: bool) -> None:
        def vector(_slot: int, first: Expr, width: int) -> None:
            first = start + first
            values = [emit.load(source, first_row + i, first, lanes=lanes, width=width) for i in range(together)]
            value = _pairwise(values)
            if not fresh:
                value = emit.load(target, *at, first, lanes=lanes, width=width) + value
            emit.store(target, value, *at, first, lanes=lanes, width=width)

        streams.walk(count, lanes, vector, unroll=2)

    groups, rest = divmod(rows, _STREAMS)
    if groups:
        add(row, _STREAMS, True)
    if groups > 1:
        with T.serial(groups - 1) as group:
            add(row + (group + 1) * _STREAMS, _STREAMS, False)
    if rest:
        add(row + groups * _STREAMS, rest, not groups)


def _pairwise(values: list[Expr]) -> Expr:
    """Sum of ``values`` in the order of a binary tree."""
    if len(values) == 1:
        return values[0]
    half = len(values) // 2
    return _pairwise(values[:half]) + _pairwise(values[half:])
