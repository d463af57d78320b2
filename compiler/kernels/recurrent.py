"""Recurrent layers put together: large products before and after the loop over time, and the loop between them.

Shapes: X [T, N, I], states [N, H], weights [G H, I] and [G H, H], biases [G H], sequences of states [T, N, H]; G is the
number of gates. Sequences are in order of time also where the layer runs in ``reverse``.

On a CPU the loop is one kernel (``time_loop.py``). Elsewhere it is unrolled into products and elementwise operators,
which any target can schedule.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import relax

from bucketmod.compiler.kernels.cells import GRU, LSTM, RNN, Cell, Maths, States
from bucketmod.compiler.kernels.emit import emit_kernel
from bucketmod.compiler.kernels.gemm import Gemm
from bucketmod.compiler.kernels.time_loop import BackwardLoop, ForwardLoop

Expr = Any  # a Relax expression
op = relax.op


def emit_lstm(
    context: Any, x: Expr, wi: Expr, wh: Expr, bi: Expr, bh: Expr, h0: Expr, c0: Expr, *, training: bool, reverse: bool
) -> list[Expr]:
    """Y, h_n, c_n; for ``training`` then the gates [T, N, 4 H] and the cell states [T, N, H]."""
    return _forward(context, LSTM, x, wi, wh, bi, bh, [h0, c0], training, reverse)


def emit_gru(
    context: Any, x: Expr, wi: Expr, wh: Expr, bi: Expr, bh: Expr, h0: Expr, *, training: bool, reverse: bool
) -> list[Expr]:
    """Y, h_n; for ``training`` then r, z, o and h Wh_o + bh_o side by side [T, N, 4 H]."""
    return _forward(context, GRU, x, wi, wh, bi, bh, [h0], training, reverse)


def emit_rnn(
    context: Any, x: Expr, wi: Expr, wh: Expr, bi: Expr, bh: Expr, h0: Expr,
    *, activation: str, training: bool, reverse: bool,
) -> list[Expr]:  # fmt: skip
    """Y, h_n. ``activation``: "tanh" or "relu"."""
    return _forward(context, RNN[activation], x, wi, wh, bi, bh, [h0], training, reverse)


def emit_lstm_grad(
    context: Any, x: Expr, wi: Expr, wh: Expr, bi: Expr, bh: Expr, h0: Expr, c0: Expr,
    y: Expr, gates: Expr, cells: Expr, dy: Expr | None, dhn: Expr | None, dcn: Expr | None,
    *, reverse: bool, wanted: Sequence[bool],
) -> list[Expr | None]:  # fmt: skip
    """dX, dWi, dWh, dbi, dbh, dh0, dc0, None where not ``wanted``. Absent dY, dh_n, dc_n are zero."""
    values = {"gates": gates, "cells": cells, "Y": y, "h0": h0, "c0": c0}
    return _backward(context, LSTM, x, wi, wh, values, (dy, dhn, dcn), reverse, wanted)


def emit_gru_grad(
    context: Any, x: Expr, wi: Expr, wh: Expr, bi: Expr, bh: Expr, h0: Expr, y: Expr, gates: Expr,
    dy: Expr | None, dhn: Expr | None, *, reverse: bool, wanted: Sequence[bool],
) -> list[Expr | None]:  # fmt: skip
    """dX, dWi, dWh, dbi, dbh, dh0, None where not ``wanted``."""
    return _backward(context, GRU, x, wi, wh, {"gates": gates, "Y": y, "h0": h0}, (dy, dhn, None), reverse, wanted)


def emit_rnn_grad(
    context: Any, x: Expr, wi: Expr, wh: Expr, bi: Expr, bh: Expr, h0: Expr, y: Expr,
    dy: Expr | None, dhn: Expr | None, *, activation: str, reverse: bool, wanted: Sequence[bool],
) -> list[Expr | None]:  # fmt: skip
    """dX, dWi, dWh, dbi, dbh, dh0, None where not ``wanted``."""
    return _backward(context, RNN[activation], x, wi, wh, {"Y": y, "h0": h0}, (dy, dhn, None), reverse, wanted)


def _forward(
    context: Any, cell: Cell, x: Expr, wi: Expr, wh: Expr, bi: Expr, bh: Expr, states: list[Expr],
    training: bool, reverse: bool,
) -> list[Expr]:  # fmt: skip
    steps, batch, features = _shape(x)
    hidden = _shape(wh)[1]
    project = Gemm(steps * batch, features, cell.gates * hidden, trans_b=True, bias=True)
    (projected,) = emit_kernel(context, project, [x, wi, bi])
    loop = ForwardLoop(cell, steps, batch, hidden, reverse, training)
    if context.target.cpu is not None:
        return emit_kernel(context, loop, [projected, wh, bh, *states])
    return _Unrolled(context, loop).forward(projected, wh, bh, states)


def _backward(
    context: Any, cell: Cell, x: Expr, wi: Expr, wh: Expr, values: dict[str, Expr],
    heads: tuple[Expr | None, Expr | None, Expr | None], reverse: bool, wanted: Sequence[bool],
) -> list[Expr | None]:  # fmt: skip
    steps, batch, features = _shape(x)
    hidden = _shape(wh)[1]
    wants_dx, wants_dwi, wants_dwh, wants_dbi, wants_dbh, wants_dh0 = wanted[:6]
    given = (heads[0] is not None, heads[1] is not None, heads[2] is not None)
    loop = BackwardLoop(cell, steps, batch, hidden, reverse, given, bool(wants_dh0))
    values = {**values, "W": wh, "dY": heads[0], "dhn": heads[1], "dcn": heads[2]}
    if context.target.cpu is not None:
        outputs = emit_kernel(context, loop, [values[name] for name in loop.input_names])
        found = dict(zip(loop.output_names, outputs, strict=True))
    else:
        found = _Unrolled(context, loop).backward(values)
    inputs, products = found["dX"], found.get("dP", found["dX"])
    rows, gates = steps * batch, cell.gates * hidden

    def product(kernel: Gemm, *args: Expr) -> Expr:
        return emit_kernel(context, kernel, args)[0]

    shift = -batch if reverse else batch
    results: list[Expr | None] = [None] * len(wanted)
    if wants_dx:
        dx = product(Gemm(rows, gates, features), inputs, wi)
        results[0] = context.bb.emit(op.reshape(dx, (steps, batch, features)))
    if wants_dwi:
        results[1] = product(Gemm(gates, rows, features, trans_a=True), inputs, x)
    if wants_dwh:
        results[2] = product(Gemm(gates, rows, hidden, trans_a=True, shift=shift), products, values["Y"], values["h0"])
    if wants_dbi:
        results[3] = found["dbias"]
    if wants_dbh:
        results[4] = found.get("dbias_products", found["dbias"])
    if wants_dh0:
        results[5] = found["dh0"]
    if len(wanted) > 6 and wanted[6]:
        results[6] = found["dc0"]
    return results


class _Unrolled:
    """The loops as operators on whole tensors, one step after the other."""

    def __init__(self, context: Any, loop: ForwardLoop | BackwardLoop):
        self.context, self.loop, self.cell = context, loop, loop.cell
        times = range(loop.steps)
        self.times = list(reversed(times)) if loop.reverse else list(times)
        zero = relax.const(0.0, "float32")

        def where_positive(x: Expr, y: Expr) -> Expr:
            return op.where(op.greater(x, zero), y, op.multiply(y, zero))

        self.maths = Maths(op.sigmoid, op.tanh, op.nn.relu, where_positive, self.emit)

    def emit(self, expr: Expr) -> Expr:
        return self.context.bb.emit(expr)

    def at(self, sequence: Expr, time: int) -> Expr:
        """The [N, columns] of one time."""
        steps, batch = self.loop.steps, self.loop.batch
        columns = _size(sequence) // (steps * batch)
        flat = self.emit(op.reshape(sequence, (steps, batch * columns)))
        part = self.emit(op.strided_slice(flat, axes=[0], begin=[time], end=[time + 1]))
        return self.emit(op.reshape(part, (batch, columns)))

    def split(self, x: Expr, parts: int) -> list[Expr]:
        if parts == 1:
            return [x]
        hidden = self.loop.hidden
        return [
            self.emit(op.strided_slice(x, axes=[1], begin=[i * hidden], end=[(i + 1) * hidden])) for i in range(parts)
        ]

    def join(self, parts: Sequence[Expr], axis: int) -> Expr:
        return self.emit(op.concat(list(parts), axis=axis)) if len(parts) > 1 else parts[0]

    def sequence(self, by_time: dict[int, Expr]) -> Expr:
        steps, batch = self.loop.steps, self.loop.batch
        joined = self.join([by_time[time] for time in range(steps)], axis=0)
        return self.emit(op.reshape(joined, (steps, batch, _size(joined) // (steps * batch))))

    def forward(self, projected: Expr, wh: Expr, bh: Expr, states: list[Expr]) -> list[Expr]:
        loop, cell = self.loop, self.cell
        hidden, state = states[0], states[1] if cell.has_cell else None
        y, gates, cells = {}, {}, {}
        product = Gemm(loop.batch, loop.hidden, cell.gates * loop.hidden, trans_b=True, bias=True)
        for time in self.times:
            (p,) = emit_kernel(self.context, product, [hidden, wh, bh])
            x, p = self.split(self.at(projected, time), cell.gates), self.split(p, cell.gates)
            p = [p[i] if i in cell.apart else self.emit(op.add(x[i], p[i])) for i in range(cell.gates)]
            step = cell.forward(self.maths, x, p, hidden, state)
            hidden, state = step.hidden, step.cell
            y[time], cells[time], gates[time] = hidden, state, self.join(step.saved, 1) if step.saved else None
        results = [self.sequence(y), hidden] + ([state] if cell.has_cell else [])
        if isinstance(loop, ForwardLoop) and loop.training:
            results += [self.sequence(gates)] if cell.saved else []
            results += [self.sequence(cells)] if cell.has_cell else []
        return results

    def backward(self, values: dict[str, Expr]) -> dict[str, Expr]:
        loop, cell = self.loop, self.cell
        product = Gemm(loop.batch, cell.gates * loop.hidden, loop.hidden)
        zeros = self.emit(op.zeros((loop.batch, loop.hidden), "float32"))
        dh = values["dhn"] if values["dhn"] is not None else zeros
        dc = values["dcn"] if values["dcn"] is not None else zeros
        inputs, products = {}, {}
        for index in reversed(range(loop.steps)):
            time = self.times[index]
            if values["dY"] is not None:
                dh = self.emit(op.add(dh, self.at(values["dY"], time)))
            saved = self.split(self.at(values["gates"], time), cell.saved) if cell.saved else []
            step = cell.backward(self.maths, dh, dc, saved, self.states(values, index))
            inputs[time], products[time] = self.join(step.inputs, 1), self.join(step.products, 1)
            if index or getattr(loop, "wants_h0", False):
                (dh,) = emit_kernel(self.context, product, [products[time], values["W"]])
                dh = self.emit(op.add(dh, step.hidden)) if step.hidden is not None else dh
            dc = self.emit(step.cell) if step.cell is not None else dc
        found = {"dX": self.sequence(inputs), "dh0": dh, "dc0": dc}
        found["dbias"] = self.emit(op.sum(found["dX"], axis=[0, 1]))
        if cell.apart:
            found["dP"] = self.sequence(products)
            found["dbias_products"] = self.emit(op.sum(found["dP"], axis=[0, 1]))
        return found

    def states(self, values: dict[str, Expr], index: int) -> States:
        time, reads, states = self.times[index], self.cell.reads, States()
        if "cell" in reads:
            states.cell = self.at(values["cells"], time)
        if "hidden" in reads:
            states.hidden = self.at(values["Y"], time)
        for name, sequence, initial in (("cell_before", "cells", "c0"), ("hidden_before", "Y", "h0")):
            if name in reads:
                state = self.at(values[sequence], self.times[index - 1]) if index else values[initial]
                setattr(states, name, state)
        return states


def _shape(expr: Expr) -> tuple[int, ...]:
    return tuple(int(d) for d in expr.ty.shape)


def _size(expr: Expr) -> int:
    size = 1
    for d in _shape(expr):
        size *= d
    return size
