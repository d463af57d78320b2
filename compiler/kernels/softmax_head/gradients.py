"""What the gradient of a softmax head needs: the products of the gradient of its scores, without that gradient.

It is as large as the probabilities, many times larger than the caches, and never written: with p the probabilities,
y the one-hot labels and r a factor for each row, it is r (p - y), so its products with the weights W and the data X are

    dX = r (p W - W[label]),   dW = p' (r X) - (r X added up at the labels),   db = p' r - (r added up at the labels).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tvm import te, tirx
from tvm.tirx.script import builder as T

from bucketmod.compiler.kernels import emission as emit
from bucketmod.compiler.kernels import streams
from bucketmod.compiler.kernels.kernel import Kernel, TensorShape
from bucketmod.compiler.kernels.products.gemm import Cut, Gemm, emit_product, product_scratch

if TYPE_CHECKING:
    from bucketmod.compiler.target import CpuFeatures

Expr = Any


@dataclass(frozen=True)
class LabelScale(Kernel):
    """r[rows]: the factor of each row's gradient, from label[labels] (the first ``rows`` are used, all are counted).

    ``scale`` for a row that counts, 0 for one of ``ignore_label`` with ``use_ignore``; with ``count_valid`` divided by
    the number of labels that are not ``ignore_label`` (at least 1).
    """

    rows: int
    labels: int
    scale: float
    ignore_label: int
    use_ignore: bool
    count_valid: bool

    @property
    def name(self) -> str:
        return "label_scale"

    @property
    def outputs(self) -> list[TensorShape]:
        return [((self.rows,), "float32")]

    def portable(self) -> Any:
        label = te.placeholder((self.labels,), "float32", name="label")
        one, zero = tirx.FloatImm("float32", 1.0), tirx.FloatImm("float32", 0.0)
        scale: Any = tirx.FloatImm("float32", self.scale)

        def counts(i: Expr) -> Expr:
            return tirx.Select(label[i].astype("int32") != self.ignore_label, one, zero)

        if self.count_valid:
            i = te.reduce_axis((0, self.labels), "i")
            count = te.compute((1,), lambda _: te.sum(counts(i), axis=i), name="count")
            scale = scale / tirx.max(count[0], one)
        factor = te.compute((self.rows,), lambda i: counts(i) * scale if self.use_ignore else scale, name="r")
        return te.create_prim_func([label, factor])


def _class_of(label: Expr, row: Expr) -> Expr:
    return label[row].astype("int32")


@dataclass(frozen=True)
class HeadDataGradient(Kernel):
    """dx[rows, depth] = r (p w - w[label]) from p[rows, classes], w[classes, depth], label[rows], r[rows].

    A label outside of the classes has no one-hot: nothing is subtracted for it. ``cut``: that of the product.
    """

    rows: int
    depth: int
    classes: int
    cut: Cut = None

    @property
    def name(self) -> str:
        return "head_data_gradient"

    @property
    def product(self) -> Gemm:
        return Gemm(self.rows, self.classes, self.depth, cut=self.cut)

    @property
    def flops(self) -> int:
        return self.product.flops

    @property
    def inputs(self) -> list[TensorShape]:
        shapes = [(self.rows, self.classes), (self.classes, self.depth), (self.rows,), (self.rows,)]
        return [(shape, "float32") for shape in shapes]

    @property
    def outputs(self) -> list[TensorShape]:
        return [((self.rows, self.depth), "float32")]

    def portable(self) -> Any:
        p, w, label, r = (te.placeholder(s, name=n) for (s, _), n in zip(self.inputs, "pwlr", strict=True))
        zero = tirx.FloatImm("float32", 0.0)
        k = te.reduce_axis((0, self.classes), "k")
        pw = te.compute((self.rows, self.depth), lambda i, j: te.sum(p[i, k] * w[k, j], axis=k), name="pw")

        def gradient(i: Expr, j: Expr) -> Expr:
            known = tirx.all(_class_of(label, i) >= 0, _class_of(label, i) < self.classes)
            row = tirx.max(tirx.min(_class_of(label, i), self.classes - 1), 0)
            return (pw[i, j] - tirx.Select(known, w[row, j], zero)) * r[i]

        return te.create_prim_func([p, w, label, r, te.compute(pw.shape, gradient, name="dx")])

    def alternatives(self, cpu: CpuFeatures) -> list[Kernel]:
        return [replace(self, cut=product.cut) for product in self.product.alternatives(cpu)]

    def scratch(self, cpu: CpuFeatures) -> list[TensorShape]:
        return list(product_scratch(self.product, cpu).values())

    def tuned(self, cpu: CpuFeatures) -> Any:
        lanes = cpu.lanes
        names = ("p", "w", "label", "r", "dx")
        arguments = dict(zip(names, [*self.inputs, *self.outputs], strict=True))

        def body(buffers: dict[str, Any]) -> None:
            p, w, label, r, dx = (buffers.pop(name) for name in names)
            emit_product(self.product, cpu, {"A": p, "B": w, "C": dx, **buffers})
            with streams.tasks(self.rows, 3 * self.rows * self.depth * streams.NS_PER_FLOAT) as row:
                number = T.bind(_class_of(label, row))
                known = T.bind(tirx.all(number >= 0, number < self.classes))
                place = T.bind(tirx.Select(known, number, 0))
                share = emit.let(emit.splat(tirx.Select(known, T.float32(1.0), T.float32(0.0)), lanes))
                factor = emit.let(emit.splat(r[row], lanes))

                def correct(_slot: int, first: Expr, width: int) -> None:
                    taken = emit.load(w, place, first, lanes=lanes, width=width) * share
                    value = emit.load(dx, row, first, lanes=lanes, width=width) - taken
                    emit.store(dx, value * factor, row, first, lanes=lanes, width=width)

                streams.walk(self.depth, lanes, correct)

        return emit.build_named(self.name, arguments | product_scratch(self.product, cpu), body)


@dataclass(frozen=True)
class HeadWeightGradient(Kernel):
    """dw[classes, depth] and db[classes] from p[rows, classes], rx[rows, depth] = r x, r[rows] and label[rows].

    dw = p' rx - (the rows of rx added up at their labels), db = p' r - (r added up there); a label outside of the
    classes adds nothing. ``uniform``: all of r is the same number, which then multiplies the sums of p and not each p.
    ``cut``: that of the product.
    """

    rows: int
    depth: int
    classes: int
    uniform: bool = False
    cut: Cut = None

    @property
    def name(self) -> str:
        return "head_weight_gradient"

    @property
    def product(self) -> Gemm:
        return Gemm(self.classes, self.rows, self.depth, trans_a=True, column_sums=True, cut=self.cut)

    @property
    def flops(self) -> int:
        return self.product.flops

    @property
    def inputs(self) -> list[TensorShape]:
        shapes = [(self.rows, self.classes), (self.rows, self.depth), (self.rows,), (self.rows,)]
        return [(shape, "float32") for shape in shapes]

    @property
    def outputs(self) -> list[TensorShape]:
        return [((self.classes, self.depth), "float32"), ((self.classes,), "float32")]

    def portable(self) -> Any:
        """Every class looks at all labels: slow, but a plain reduction, which any target can schedule."""
        p, rx, r, label = (te.placeholder(s, name=n) for (s, _), n in zip(self.inputs, "pxrl", strict=True))
        one, zero = tirx.FloatImm("float32", 1.0), tirx.FloatImm("float32", 0.0)
        i, k = (te.reduce_axis((0, self.rows), n) for n in "ik")

        def excess(row: Expr, c: Expr) -> Expr:
            return p[row, c] - tirx.Select(_class_of(label, row) == c, one, zero)

        dw = te.compute((self.classes, self.depth), lambda c, j: te.sum(excess(i, c) * rx[i, j], axis=i), name="dw")
        db = te.compute((self.classes,), lambda c: te.sum(excess(k, c) * r[k], axis=k), name="db")
        return te.create_prim_func([p, rx, r, label, dw, db])

    def alternatives(self, cpu: CpuFeatures) -> list[Kernel]:
        return [replace(self, cut=product.cut) for product in self.product.alternatives(cpu)]

    def scratch(self, cpu: CpuFeatures) -> list[TensorShape]:
        return list(product_scratch(self.product, cpu).values())

    def tuned(self, cpu: CpuFeatures) -> Any:
        names = ("p", "rx", "r", "label", "dw", "db")
        arguments = dict(zip(names, [*self.inputs, *self.outputs], strict=True))

        def body(buffers: dict[str, Any]) -> None:
            p, rx, r, label, dw, db = (buffers.pop(name) for name in names)
            weights = {} if self.uniform else {"weights": r}
            emit_product(self.product, cpu, {"A": p, "B": rx, "C": dw, "sums": db, **weights, **buffers})
            self._subtract(rx, r, label, dw, db, cpu.lanes)

        return emit.build_named(self.name, arguments | product_scratch(self.product, cpu), body)

    def _subtract(self, rx: Expr, r: Expr, label: Expr, dw: Expr, db: Expr, lanes: int) -> None:
        """Each task owns a range of classes, so that no two threads touch one row and the order of the sums stays."""
        share = -(-self.classes // _LABEL_TASKS)
        with streams.tasks(_LABEL_TASKS, 3 * self.rows * self.depth * streams.NS_PER_FLOAT) as task:
            if self.uniform:
                first = T.bind(task * share)
                with T.serial(T.max(T.min(share, self.classes - first), 0)) as i:
                    T.buffer_store(db, db[first + i] * r[0], [first + i])
            with T.serial(self.rows) as row:
                number = T.bind(_class_of(label, row))
                mine = tirx.all(number >= task * share, number < (task + 1) * share, number < self.classes)
                with T.If(mine), T.Then():
                    T.buffer_store(db, db[number] - r[row], [number])

                    def subtract(_slot: int, first: Expr, width: int, row: Expr = row, number: Expr = number) -> None:
                        taken = emit.load(rx, row, first, lanes=lanes, width=width)
                        left = emit.load(dw, number, first, lanes=lanes, width=width) - taken
                        emit.store(dw, left, number, first, lanes=lanes, width=width)

                    streams.walk(self.depth, lanes, subtract)


_LABEL_TASKS = 8  # ranges of classes whose labels are subtracted at the same time
