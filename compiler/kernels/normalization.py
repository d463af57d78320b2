"""Layer normalization over rows, and its gradient."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tvm import te, tirx
from tvm.tirx.script import builder as T

from bucketmod.compiler.kernels import emission as emit
from bucketmod.compiler.kernels import streams
from bucketmod.compiler.kernels.kernel import Kernel, TensorShape
from bucketmod.compiler.kernels.reduction import sum_parts

if TYPE_CHECKING:
    from bucketmod.compiler.target import CpuFeatures

Expr = Any
_MOST_PARTS = 16  # sums over rows for gamma and beta are taken in so many pieces, whatever the number of threads


@dataclass(frozen=True)
class LayerNorm(Kernel):
    """(x[rows, cols], gamma[cols], beta[cols]) -> y[rows, cols], mean[rows], inv_std[rows]; float32.

    y = (x - mean) * inv_std * gamma + beta, where inv_std = 1 / sqrt(variance + epsilon).
    """

    rows: int
    cols: int
    epsilon: float = 1e-5

    @property
    def name(self) -> str:
        return "layer_norm"

    @property
    def outputs(self) -> list[TensorShape]:
        return [((self.rows, self.cols), "float32"), ((self.rows,), "float32"), ((self.rows,), "float32")]

    def portable(self) -> Any:
        x = te.placeholder((self.rows, self.cols), name="x")
        gamma, beta = (te.placeholder((self.cols,), name=name) for name in ("gamma", "beta"))
        share = tirx.FloatImm("float32", 1.0 / self.cols)
        k, m = te.reduce_axis((0, self.cols), "k"), te.reduce_axis((0, self.cols), "m")
        total = te.compute((self.rows,), lambda i: te.sum(x[i, k], axis=k), name="total")
        mean = te.compute((self.rows,), lambda i: total[i] * share, name="mean")
        square = te.compute(
            (self.rows,), lambda i: te.sum((x[i, m] - mean[i]) * (x[i, m] - mean[i]), axis=m), name="square"
        )
        epsilon, one = tirx.FloatImm("float32", self.epsilon), tirx.FloatImm("float32", 1.0)
        inv_std = te.compute((self.rows,), lambda i: one / te.sqrt(square[i] * share + epsilon), name="inv_std")
        y = te.compute(x.shape, lambda i, j: (x[i, j] - mean[i]) * inv_std[i] * gamma[j] + beta[j], name="y")
        return te.create_prim_func([x, gamma, beta, y, mean, inv_std])

    def tuned(self, cpu: CpuFeatures) -> Any:
        lanes = cpu.lanes

        def body(x: Expr, gamma: Expr, beta: Expr, y: Expr, mean: Expr, inv_std: Expr) -> None:
            with streams.tasks(self.rows, self.rows * self.cols * 6 * streams.NS_PER_FLOAT) as row:
                average = self._average(lambda f, w: emit.load(x, row, f, lanes=lanes, width=w), lanes)
                center = T.bind(emit.splat(average, lanes))

                def square(first: Expr, width: int) -> Expr:
                    distance = emit.load(x, row, first, lanes=lanes, width=width) - center
                    return streams.keep(distance * distance, 0.0, lanes, width)

                variance = self._average(square, lanes)
                inverse = T.bind(T.float32(1) / tirx.sqrt(variance + T.float32(self.epsilon)))
                T.buffer_store(mean, average, [row])
                T.buffer_store(inv_std, inverse, [row])

                def write(_slot: int, first: Expr, width: int) -> None:
                    value = (emit.load(x, row, first, lanes=lanes, width=width) - center) * emit.splat(inverse, lanes)
                    value = value * emit.load(gamma, first, lanes=lanes, width=width)
                    value = value + emit.load(beta, first, lanes=lanes, width=width)
                    emit.store(y, value, row, first, lanes=lanes, width=width)

                streams.walk(self.cols, lanes, write)

        matrix, vector = self.outputs[0], ((self.cols,), "float32")
        arguments = [("x", matrix), ("gamma", vector), ("beta", vector)]
        arguments += zip(("y", "mean", "inv_std"), self.outputs, strict=True)
        return emit.build_function(self.name, arguments, body)

    def _average(self, term: Any, lanes: int) -> Expr:
        """The mean over a row of the vectors ``term(first, width)``."""
        sums = streams.accumulators(self.cols, lanes, 0.0)

        def add(slot: int, first: Expr, width: int) -> None:
            sums[slot].value = sums[slot].value + term(first, width)

        streams.walk(self.cols, lanes, add)
        return T.bind(streams.combine(sums, operator.add) * T.float32(1.0 / self.cols))


@dataclass(frozen=True)
class LayerNormGrad(Kernel):
    """(dy[rows, cols], x[rows, cols], gamma[cols], mean[rows], inv_std[rows]) -> dx, dgamma[cols], dbeta[cols].

    float32. The order of additions depends on the shape alone.
    """

    rows: int
    cols: int

    @property
    def name(self) -> str:
        return "layer_norm_grad"

    @property
    def outputs(self) -> list[TensorShape]:
        return [((self.rows, self.cols), "float32"), ((self.cols,), "float32"), ((self.cols,), "float32")]

    @property
    def _cost(self) -> float:
        return self.rows * self.cols * 12 * streams.NS_PER_FLOAT

    @property
    def _part(self) -> int:
        """Rows of a task."""
        return -(-self.rows // _MOST_PARTS) if self._cost > streams.WORTH_THREADS_NS else self.rows

    @property
    def _parts(self) -> int:
        return -(-self.rows // self._part)

    def scratch(self, cpu: CpuFeatures) -> list[TensorShape]:
        return [((self._parts, self.cols), "float32")] * 2

    def portable(self) -> Any:
        dy, x = (te.placeholder((self.rows, self.cols), name=name) for name in ("dy", "x"))
        gamma = te.placeholder((self.cols,), name="gamma")
        mean, inv_std = (te.placeholder((self.rows,), name=name) for name in ("mean", "inv_std"))
        share = tirx.FloatImm("float32", 1.0 / self.cols)

        def normal(i: Any, j: Any) -> Any:
            return (x[i, j] - mean[i]) * inv_std[i]

        k, m = te.reduce_axis((0, self.cols), "k"), te.reduce_axis((0, self.cols), "m")
        a = te.compute((self.rows,), lambda i: te.sum(dy[i, k] * gamma[k], axis=k), name="a")
        b = te.compute((self.rows,), lambda i: te.sum(dy[i, m] * gamma[m] * normal(i, m), axis=m), name="b")
        dx = te.compute(
            x.shape,
            lambda i, j: inv_std[i] * (dy[i, j] * gamma[j] - share * (a[i] + normal(i, j) * b[i])),
            name="dx",
        )
        r, s = te.reduce_axis((0, self.rows), "r"), te.reduce_axis((0, self.rows), "s")
        dgamma = te.compute((self.cols,), lambda j: te.sum(dy[r, j] * normal(r, j), axis=r), name="dgamma")
        dbeta = te.compute((self.cols,), lambda j: te.sum(dy[s, j], axis=s), name="dbeta")
        return te.create_prim_func([dy, x, gamma, mean, inv_std, dx, dgamma, dbeta])

    def tuned(self, cpu: CpuFeatures) -> Any:
        lanes = cpu.lanes

        def body(*buffers: Expr) -> None:
            dgamma, dbeta, *partial = buffers[6:]
            whole, rest = divmod(self.rows, self._part)

            def rows_of(part: Expr, rows: int) -> None:
                for buffer in partial:
                    self._clear(buffer, part, lanes)
                with T.serial(rows) as r:
                    self._row(buffers[:6], partial, part, T.bind(part * self._part + r), lanes)

            with streams.tasks(whole, self._cost) as part:
                rows_of(part, self._part)
            if rest:
                rows_of(whole, rest)
            for buffer, target in zip(partial, (dgamma, dbeta), strict=True):
                sum_parts(buffer, self._parts, self.cols, target, lanes)

        matrix, row, column = ((self.rows, self.cols), "float32"), ((self.rows,), "float32"), ((self.cols,), "float32")
        arguments = [("dy", matrix), ("x", matrix), ("gamma", column), ("mean", row), ("inv_std", row)]
        names = ("dx", "dgamma", "dbeta", "gamma_parts", "beta_parts")
        arguments += zip(names, self.outputs + self.scratch(cpu), strict=True)
        return emit.build_function(self.name, arguments, body)

    def _clear(self, buffer: Expr, part: Expr, lanes: int) -> None:
        def clear(_slot: int, first: Expr, width: int) -> None:
            emit.store(buffer, emit.splat(0.0, lanes), part, first, lanes=lanes, width=width)

        streams.walk(self.cols, lanes, clear)

    def _row(self, buffers: tuple[Expr, ...], partial: list[Expr], part: Expr, row: Expr, lanes: int) -> None:
        """One row: its sums together with its share of dgamma and dbeta, then dx."""
        dy, x, gamma, mean, inv_std, dx = buffers
        center, scale = T.bind(emit.splat(mean[row], lanes)), T.bind(emit.splat(inv_std[row], lanes))
        sums = [streams.accumulators(self.cols, lanes, 0.0, unroll=2) for _ in range(2)]

        def values(first: Expr, width: int) -> tuple[Expr, Expr, Expr]:
            d = T.bind(emit.load(dy, row, first, lanes=lanes, width=width))
            normal = T.bind((emit.load(x, row, first, lanes=lanes, width=width) - center) * scale)
            return d, normal, T.bind(d * emit.load(gamma, first, lanes=lanes, width=width))

        def add(slot: int, first: Expr, width: int) -> None:
            d, normal, weighted = values(first, width)
            sums[0][slot].value = sums[0][slot].value + weighted
            sums[1][slot].value = sums[1][slot].value + weighted * normal
            for buffer, term in zip(partial, (d * normal, d), strict=True):
                total = emit.load(buffer, part, first, lanes=lanes, width=width)
                emit.store(buffer, total + term, part, first, lanes=lanes, width=width)

        streams.walk(self.cols, lanes, add, unroll=2)
        share = T.float32(1.0 / self.cols)
        a, b = (T.bind(emit.splat(streams.combine(registers, operator.add) * share, lanes)) for registers in sums)

        def write(_slot: int, first: Expr, width: int) -> None:
            _, normal, weighted = values(first, width)
            emit.store(dx, scale * (weighted - (a + normal * b)), row, first, lanes=lanes, width=width)

        streams.walk(self.cols, lanes, write, unroll=2)
