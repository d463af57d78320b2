"""Recurrent layers put together: large products before and after the loop over time, and the loop between them.

Shapes: X [T, N, I], states [N, H], weights [G H, I] and [G H, H], biases [G H], sequences of states [T, N, H]; G is the
number of gates. Sequences are in order of time also where the layer runs in ``reverse``.

On a CPU the loop is one kernel (``time_loop.py``). Elsewhere it is a product and one kernel for each time
(``time_steps.py``), which any target can schedule.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import relax

from bucketmod.compiler.kernels.emit import emit_kernel
from bucketmod.compiler.kernels.products.gemm import Gemm
from bucketmod.compiler.kernels.recurrence.cells import GRU, LSTM, RNN, Cell
from bucketmod.compiler.kernels.recurrence.time_loop import BackwardLoop, ForwardLoop
from bucketmod.compiler.kernels.recurrence.time_steps import NOWHERE, BackwardStep, ForwardStep, StepCalls
from bucketmod.compiler.kernels.reduction import ColumnSum

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
    return _forward_steps(context, loop, projected, wh, bh, states)


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
        found = _backward_steps(context, loop, values)
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


def _forward_steps(
    context: Any, loop: ForwardLoop, projected: Expr, wh: Expr, bh: Expr, states: list[Expr]
) -> list[Expr]:
    """The loop as a product and a step for each time."""
    cell = loop.cell
    product = Gemm(loop.batch, loop.hidden, cell.gates * loop.hidden, trans_b=True, bias=True)
    step = StepCalls(context, ForwardStep(loop))
    x = context.bb.emit(op.reshape(projected, (loop.steps, loop.batch, cell.gates * loop.hidden)))
    for time in _times(loop):
        (p,) = emit_kernel(context, product, [states[0], wh, bh])
        states = step.at([time], {"X": x, "p": p, **dict(zip(("h", "c"), states, strict=False))})
    y, *kept = step.sequences.values()
    return [y, *states, *kept]


def _backward_steps(context: Any, loop: BackwardLoop, values: dict[str, Expr]) -> dict[str, Expr]:
    """The same backward; returns what the loop returns, by name."""
    cell, bb = loop.cell, context.bb
    product = Gemm(loop.batch, cell.gates * loop.hidden, loop.hidden)
    step = StepCalls(context, BackwardStep(loop))
    zeros = bb.emit(op.zeros((loop.batch, loop.hidden), "float32"))
    dh, dc = (values[name] if values[name] is not None else zeros for name in ("dhn", "dcn"))
    times = [NOWHERE, *_times(loop)]
    for index in range(loop.steps, 0, -1):
        made = step.at([times[index], times[index - 1]], {**values, "dh": dh, "dc": dc})
        found = dict(zip(step.step.makes, made, strict=True))
        dc = found.get("dc", dc)
        if index > 1 or loop.wants_h0:
            (dh,) = emit_kernel(context, product, [found["dp"], values["W"]])
            dh = bb.emit(op.add(dh, found["dh"])) if "dh" in found else dh
    results = {**step.sequences, "dh0": dh, "dc0": dc}
    for sequence, bias in (("dX", "dbias"), ("dP", "dbias_products")):
        if sequence in results:
            columns = cell.gates * loop.hidden
            (results[bias],) = emit_kernel(context, ColumnSum(loop.steps * loop.batch, columns), [results[sequence]])
    return results


def _times(loop: ForwardLoop | BackwardLoop) -> list[int]:
    """In the order in which the layer runs."""
    times = list(range(loop.steps))
    return times[::-1] if loop.reverse else times


def _shape(expr: Expr) -> tuple[int, ...]:
    return tuple(int(d) for d in expr.ty.shape)
