"""Moving statistics: which of them a training step replaces, and by what."""

from __future__ import annotations

import numpy as np
from reference_ops import run_program

import bucketmod as mx
from bucketmod.compiler.gradient import differentiate
from bucketmod.export import export_symbol


def test_auxiliary_states_stay_where_their_normalization_has_no_backward_pass():
    def program(head: bool):
        data, label = mx.sym.Variable("data"), mx.sym.Variable("softmax_label")
        frozen = mx.sym.BatchNorm(data, name="frozen")
        scores = mx.sym.FullyConnected(mx.sym.BlockGrad(frozen), num_hidden=3, name="scores")
        moved = mx.sym.BatchNorm(scores, fix_gamma=False, name="moved")
        out = mx.sym.SoftmaxOutput(moved, label) if head else mx.sym.BlockGrad(moved)
        return export_symbol(out, {"data": (4, 3)}, data_names=["data"], label_names=["softmax_label"], is_train=True)

    training = differentiate(program(True), ["scores_weight", "frozen_beta"])
    states = [port.of for port in training.outputs if port.role == "auxiliary"]
    assert states == ["frozen_gamma", "moved_moving_mean", "moved_moving_var"]
    assert not training.by_role("head_gradient")
    nothing = differentiate(program(False), ["scores_weight"])
    assert [port.of for port in nothing.outputs if port.role == "auxiliary"] == ["frozen_gamma"]


def test_a_normalization_used_twice_moves_its_statistics_in_the_order_of_the_backward_pass():
    data = mx.sym.Variable("data")
    shared = {name: mx.sym.Variable(name) for name in ("gamma", "beta", "moving_mean", "moving_var")}
    first = mx.sym.BatchNorm(data, **shared, fix_gamma=False, momentum=0.5, name="first")
    both = mx.sym.BatchNorm(first * 3 + 1, **shared, fix_gamma=False, momentum=0.5, name="second")
    program = export_symbol(both, {"data": (4, 2)}, data_names=["data"], label_names=[], is_train=True)
    training = differentiate(program, ["gamma"])
    rng = np.random.default_rng(3)
    inputs = {port.name: rng.uniform(0.5, 2, port.shape).astype(np.float32) for port in training.inputs}
    found = run_program(training, inputs)
    once = mx.sym.BatchNorm(data, **shared, fix_gamma=False, momentum=0.5, name="first")
    first_program = export_symbol(once, {"data": (4, 2)}, data_names=["data"], label_names=[], is_train=True)
    middle = run_program(first_program, inputs)[once.list_outputs()[0]] * 3 + 1
    means = [inputs["data"].mean(0), middle.mean(0)]
    expected = 0.5 * (0.5 * inputs["moving_mean"] + 0.5 * means[1]) + 0.5 * means[0]
    (mean_port,) = [p for p in training.outputs if p.role == "auxiliary" and p.of == "moving_mean"]
    np.testing.assert_allclose(found[mean_port.name], expected, rtol=1e-5)
