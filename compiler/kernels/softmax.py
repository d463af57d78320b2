"""Softmax over rows, its gradient, and the gradient of the SoftmaxOutput loss head."""

from __future__ import annotations

import operator
from collections.abc import Callable
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
                    softmax_row(x, y, row, self.cols, cpu.lanes, self.log)

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


def softmax_row(x: Expr, y: Expr, row: Expr, cols: int, lanes: int, log: bool = False) -> None:
    """Emits y[row] = softmax(x[row]), or its logarithm. ``y`` may be ``x`` itself. The row passes by three times: for
    its largest value, for the sum and for the factor."""
    tops = streams.accumulators(cols, lanes, _LOWEST)

    def highest(slot: int, first: Expr, width: int) -> None:
        value = streams.keep(emit.load(x, row, first, lanes=lanes, width=width), _LOWEST, lanes, width)
        tops[slot].value = tirx.max(tops[slot].value, value)

    streams.walk(cols, lanes, highest)
    top = streams.combine(tops, tirx.max)
    sums = streams.accumulators(cols, lanes, 0.0)

    def raise_e(slot: int, first: Expr, width: int) -> None:
        shifted = emit.load(x, row, first, lanes=lanes, width=width) - emit.splat(top, lanes)
        power = streams.hold(vector.exp(shifted))
        if not log:
            emit.store(y, power.value, row, first, lanes=lanes, width=width)
        sums[slot].value = sums[slot].value + streams.keep(power.value, 0.0, lanes, width)

    streams.walk(cols, lanes, raise_e)
    total = streams.combine(sums, operator.add)
    total = emit.splat(total, lanes)
    factor = streams.hold(vector.log(total) if log else emit.splat(1.0, lanes) / total)

    def write(_slot: int, first: Expr, width: int) -> None:
        value = emit.load(x if log else y, row, first, lanes=lanes, width=width)
        if log:
            # Held, because TVM would rather subtract the sum of the two, which is less exact.
            result = streams.hold(value - emit.splat(top, lanes)).value - factor.value
        else:
            result = value * factor.value
        emit.store(y, result, row, first, lanes=lanes, width=width)

    streams.walk(cols, lanes, write)


# Sums of exp(score) between these lost nothing, though the largest score was not subtracted: no power overflowed, and
# those that underflowed are less than 1e-18 of the sum.
_SMALLEST_SUM, _LARGEST_SUM = 1e-20, 1e37


def divide_row(
    y: Expr, row: Expr, cols: int, total: Expr, lanes: int, write_scores: Callable[[], None], ahead: int = 0
) -> None:
    """Emits y[row] = softmax of scores whose exponentials are in y[row] and add up to ``total``.

    They were taken without the largest score; where ``total`` is not a safe number for that, ``write_scores`` emits
    what puts the scores themselves there, and the row starts again. ``ahead``: fetches what lies so many values ahead.
    """
    with T.If(tirx.all(total > T.float32(_SMALLEST_SUM), total < T.float32(_LARGEST_SUM))):
        with T.Then():
            factor = emit.let(emit.splat(1.0, lanes) / emit.splat(total, lanes))

            def scale(_slot: int, first: Expr, width: int) -> None:
                if ahead:
                    emit.prefetch(y, row, first + ahead, first=True)
                value = emit.load(y, row, first, lanes=lanes, width=width)
                emit.store(y, value * factor, row, first, lanes=lanes, width=width)

            streams.walk(cols, lanes, scale)
        with T.Else():
            write_scores()
            softmax_row(y, y, row, cols, lanes)


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


@dataclass(frozen=True)
class SoftmaxOutputGrad(Kernel):
    """Gradient of the SoftmaxOutput loss head with respect to its data, as MXNet 1.9.1 defines it; float32.

    Arguments prob, label(, head gradient) -> d_data: (prob - onehot(label)) * grad_scale / norm (* head gradient).
    Data is [outer, classes, inner], or [outer, classes] where ``inner`` is 1; labels are class numbers, [labels].
    ``labels`` is outer * inner; MXNet takes more as well: only the first ones are read, all count for the norm.
    With ``dense_label`` they are probabilities in the shape of the data, and nothing but ``grad_scale`` is applied.
    ``smooth_alpha``: the share of the one-hot that goes to the other classes. Rows of ``ignore_label`` get 0
    with ``use_ignore``. The norm: 1 for "null", the number of labels for "batch" (``batch`` times the spatial size with
    ``multi_output``), the number of labels that are not ``ignore_label`` for "valid".
    """

    outer: int
    classes: int
    inner: int = 1
    labels: int = 0  # outer * inner if not given
    batch: int = 1
    grad_scale: float = 1.0
    ignore_label: float = -1.0
    use_ignore: bool = False
    multi_output: bool = False
    normalization: str = "null"
    smooth_alpha: float = 0.0
    dense_label: bool = False
    head_gradient: bool = False

    @property
    def name(self) -> str:
        return "softmax_output_grad"

    @property
    def outputs(self) -> list[TensorShape]:
        return [self._data]

    @property
    def _data(self) -> TensorShape:
        return ((self.outer, self.classes) if self.inner == 1 else (self.outer, self.classes, self.inner)), "float32"

    @property
    def inputs(self) -> list[tuple[str, TensorShape]]:
        """Name, shape and dtype of each input."""
        label = self._data if self.dense_label else ((self._labels,), "float32")
        inputs = [("prob", self._data), ("label", label), ("head", self._data)]
        return inputs if self.head_gradient else inputs[:2]

    @property
    def _labels(self) -> int:
        return self.labels or self.outer * self.inner

    @property
    def _fixed_scale(self) -> float:
        """``grad_scale`` over that part of the norm that does not depend on the labels."""
        if self.dense_label or self.normalization == "valid":
            return self.grad_scale
        if self.normalization not in ("null", "batch"):
            raise ValueError(f"normalization is null, batch or valid, not {self.normalization!r}")
        norm = self.inner if self.multi_output else 1
        if self.normalization == "batch":
            norm *= self.batch if self.multi_output else self._labels
        return self.grad_scale / norm

    @property
    def _counts_valid(self) -> bool:
        return self.normalization == "valid" and not self.dense_label

    def _target(self, is_label: Expr) -> Expr:
        """What the probability of a class should be."""
        others = self.classes - 1
        alpha = 0.0 if self.multi_output else self.smooth_alpha  # MXNet ignores it there
        off = alpha / others if others else 0.0
        return tirx.Select(is_label, tirx.FloatImm("float32", 1.0 - alpha), tirx.FloatImm("float32", off))

    def portable(self) -> Any:
        """The only form: as a map of one pass, it is scheduled as well as it could be written."""
        buffers = [te.placeholder(shape, dtype, name=name) for name, (shape, dtype) in self.inputs]
        prob, label = buffers[:2]
        one, zero = tirx.FloatImm("float32", 1.0), tirx.FloatImm("float32", 0.0)
        scale: Any = tirx.FloatImm("float32", self._fixed_scale)
        if self._counts_valid:
            i = te.reduce_axis((0, self._labels), "i")
            counted = tirx.Select(label[i].astype("int32") != int(self.ignore_label), one, zero)
            count = te.compute((1,), lambda _: te.sum(counted, axis=i), name="count")
            scale = scale / tirx.max(count[0], one)

        def gradient(*index: Any) -> Any:
            o, k = index[:2]
            if self.dense_label:
                value = (prob[index] - label[index]) * scale
            else:
                number = label[o * self.inner + index[2] if self.inner > 1 else o].astype("int32")
                value = (prob[index] - self._target(number == k)) * scale
                if self.use_ignore:
                    value = tirx.Select(number == int(self.ignore_label), zero, value)
            return value * buffers[2][index] if self.head_gradient else value

        return te.create_prim_func([*buffers, te.compute(prob.shape, gradient, name="d_data")])
