"""Softmax over rows, its gradient, and the gradient of the SoftmaxOutput loss head."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tvm import te, tirx, topi
from tvm.tirx.script import builder as T

from bucketmod.compiler.kernels import emission as emit
from bucketmod.compiler.kernels import math as vector
from bucketmod.compiler.kernels import streams
from bucketmod.compiler.kernels.kernel import Kernel, TensorShape

if TYPE_CHECKING:
    from bucketmod.compiler.target import CpuFeatures

Expr = Any
_LOWEST = -3.4028234663852886e38


@dataclass(frozen=True)
class Softmax(Kernel):
    """y = softmax(x) along the rows of x[rows, cols], or its logarithm; float32."""

    rows: int
    cols: int
    log: bool = False

    @property
    def name(self) -> str:
        return "log_softmax" if self.log else "softmax"

    @property
    def outputs(self) -> list[TensorShape]:
        return [((self.rows, self.cols), "float32")]

    def portable(self) -> Any:
        x = te.placeholder((self.rows, self.cols), name="x")
        y = topi.nn.log_softmax(x) if self.log else topi.nn.softmax(x)
        return te.create_prim_func([x, y])

    def tuned(self, cpu: CpuFeatures) -> Any:
        shape = ((self.rows, self.cols), "float32")
        cost = self.rows * self.cols * (5 * streams.NS_PER_FLOAT + streams.NS_PER_EXP)

        def body(x: Expr, y: Expr) -> None:
            with streams.tasks(self.rows, cost) as row:
                # A row of few vectors is read once and stays in registers.
                if -(-self.cols // cpu.lanes) <= cpu.registers // 2:
                    self._short_row(x, y, row, cpu.lanes)
                else:
                    self._long_row(x, y, row, cpu.lanes)

        return emit.build_function(self.name, [("x", shape), ("y", shape)], body)

    def _short_row(self, x: Expr, y: Expr, row: Expr, lanes: int) -> None:
        tops = streams.accumulators(self.cols, lanes, _LOWEST)
        sums = streams.accumulators(self.cols, lanes, 0.0)
        values: list[emit.Register] = []

        def read(slot: int, first: Expr, width: int) -> None:
            value = emit.load(x, row, first, lanes=lanes, width=width)
            values.append(streams.hold(streams.keep(value, _LOWEST, lanes, width)))
            tops[slot].value = tirx.max(tops[slot].value, values[-1].value)

        def raise_e(slot: int, first: Expr, width: int) -> None:
            value = values[first // lanes]
            value.value = value.value - emit.splat(top, lanes)
            power = streams.hold(streams.keep(vector.exp(value.value), 0.0, lanes, width))
            if not self.log:
                values[first // lanes] = power
            sums[slot].value = sums[slot].value + power.value

        def write(_slot: int, first: Expr, width: int) -> None:
            value = values[first // lanes].value
            result = value - factor.value if self.log else value * factor.value
            emit.store(y, result, row, first, lanes=lanes, width=width)

        # Unrolled by the whole row, so that every index is a number; the accumulators still take turns.
        vectors = -(-self.cols // lanes)
        turn = len(tops)
        streams.walk(self.cols, lanes, lambda s, f, w: read(s % turn, f, w), vectors)
        top = streams.combine(tops, tirx.max)
        streams.walk(self.cols, lanes, lambda s, f, w: raise_e(s % turn, f, w), vectors)
        total = streams.combine(sums, operator.add)
        total = emit.splat(total, lanes)
        factor = streams.hold(vector.log(total) if self.log else emit.splat(1.0, lanes) / total)
        streams.walk(self.cols, lanes, write, vectors)

    def _long_row(self, x: Expr, y: Expr, row: Expr, lanes: int) -> None:
        tops = streams.accumulators(self.cols, lanes, _LOWEST)

        def highest(slot: int, first: Expr, width: int) -> None:
            value = streams.keep(emit.load(x, row, first, lanes=lanes, width=width), _LOWEST, lanes, width)
            tops[slot].value = tirx.max(tops[slot].value, value)

        streams.walk(self.cols, lanes, highest)
        top = streams.combine(tops, tirx.max)
        sums = streams.accumulators(self.cols, lanes, 0.0)

        def raise_e(slot: int, first: Expr, width: int) -> None:
            shifted = emit.load(x, row, first, lanes=lanes, width=width) - emit.splat(top, lanes)
            power = streams.hold(vector.exp(shifted))
            if not self.log:
                emit.store(y, power.value, row, first, lanes=lanes, width=width)
            sums[slot].value = sums[slot].value + streams.keep(power.value, 0.0, lanes, width)

        streams.walk(self.cols, lanes, raise_e)
        total = streams.combine(sums, operator.add)
        total = emit.splat(total, lanes)
        shift = emit.splat(top, lanes)
        factor = streams.hold(shift + vector.log(total) if self.log else emit.splat(1.0, lanes) / total)

        def write(_slot: int, first: Expr, width: int) -> None:
            value = emit.load(x if self.log else y, row, first, lanes=lanes, width=width)
            result = value - factor.value if self.log else value * factor.value
            emit.store(y, result, row, first, lanes=lanes, width=width)

        streams.walk(self.cols, lanes, write)


@dataclass(frozen=True)
class SoftmaxGrad(Kernel):
    """dx from (dy, y), each [rows, cols], where y = softmax(x), or log_softmax(x) with ``log``; float32."""

    rows: int
    cols: int
    log: bool = False

    @property
    def name(self) -> str:
        return "log_softmax_grad" if self.log else "softmax_grad"

    @property
    def outputs(self) -> list[TensorShape]:
        return [((self.rows, self.cols), "float32")]

    def portable(self) -> Any:
        dy, y = (te.placeholder((self.rows, self.cols), name=name) for name in ("dy", "y"))
        k = te.reduce_axis((0, self.cols), "k")
        term = (lambda i: dy[i, k]) if self.log else (lambda i: dy[i, k] * y[i, k])
        total = te.compute((self.rows,), lambda i: te.sum(term(i), axis=k), name="total")
        if self.log:
            dx = te.compute(dy.shape, lambda i, j: dy[i, j] - te.exp(y[i, j]) * total[i], name="dx")
        else:
            dx = te.compute(dy.shape, lambda i, j: (dy[i, j] - total[i]) * y[i, j], name="dx")
        return te.create_prim_func([dy, y, dx])

    def tuned(self, cpu: CpuFeatures) -> Any:
        lanes = cpu.lanes
        shape = ((self.rows, self.cols), "float32")
        cost = self.rows * self.cols * (5 * streams.NS_PER_FLOAT + self.log * streams.NS_PER_EXP)

        def body(dy: Expr, y: Expr, dx: Expr) -> None:
            with streams.tasks(self.rows, cost) as row:
                sums = streams.accumulators(self.cols, lanes, 0.0)

                def add(slot: int, first: Expr, width: int) -> None:
                    term = emit.load(dy, row, first, lanes=lanes, width=width)
                    if not self.log:
                        term = term * emit.load(y, row, first, lanes=lanes, width=width)
                    sums[slot].value = sums[slot].value + term

                streams.walk(self.cols, lanes, add)
                total = T.bind(emit.splat(streams.combine(sums, operator.add), lanes))

                def write(_slot: int, first: Expr, width: int) -> None:
                    d = emit.load(dy, row, first, lanes=lanes, width=width)
                    value = emit.load(y, row, first, lanes=lanes, width=width)
                    result = d - vector.exp(value) * total if self.log else (d - total) * value
                    emit.store(dx, result, row, first, lanes=lanes, width=width)

                streams.walk(self.cols, lanes, write)

        return emit.build_function(self.name, [("dy", shape), ("y", shape), ("dx", shape)], body)
