"""Profiles tell of every kernel call of the program, with the arithmetic of its matrix products."""

from __future__ import annotations

import numpy as np

import bucketmod as mx
from bucketmod.compiler.pipeline import compile_program
from bucketmod.compiler.profile import profile_program
from bucketmod.export import export_symbol

BATCH, WIDTH, CLASSES = 6, 40, 5


def test_a_profile_covers_every_kernel_call_and_counts_the_products() -> None:
    scores = mx.sym.FullyConnected(mx.sym.Variable("data"), num_hidden=CLASSES, name="fc")
    symbol = mx.sym.SoftmaxOutput(scores, mx.sym.Variable("softmax_label"), name="softmax")
    shapes = {"data": (BATCH, WIDTH), "softmax_label": (BATCH,)}
    program = export_symbol(symbol, shapes, data_names=["data"], label_names=["softmax_label"], is_train=True)
    wrt = ["fc_weight", "fc_bias"]
    rows = profile_program(program, "train", wrt, "cpu", {"softmax_label": np.arange(BATCH) % CLASSES}, rounds=2)
    calls = compile_program(program, "train", wrt, "cpu").manifest.nodes
    assert sum(row.calls for row in rows) == calls, f"expected an entry for each of {calls} calls: {rows}"
    # The product of the forward part, and the one for the gradient of the weight.
    assert sum(row.flops for row in rows) == 2 * 2 * BATCH * WIDTH * CLASSES, f"expected two products: {rows}"
    assert all(row.seconds > 0 and row.bytes > 0 for row in rows), f"expected times and traffic: {rows}"
    assert [row.seconds for row in rows] == sorted((row.seconds for row in rows), reverse=True)
