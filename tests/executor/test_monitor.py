"""Monitors see what MXNet 1.9.1 shows them, in its order and under its names (tests/recorded/record_monitor.py)."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

import bucketmod as mx
from bucketmod import binding

RECORDED = Path(__file__).parents[1] / "recorded"
sys.path.insert(0, str(RECORDED))

from monitor_cases import CASES, classifier, logged, shown, values, watched_training  # noqa: E402

EXPECTED = json.loads((RECORDED / "monitor.json").read_text())


def check(found, expected):
    assert [entry[:-1] for entry in found] == [entry[:-1] for entry in expected]
    numbers = [entry[-1] for entry in found], [entry[-1] for entry in expected]
    np.testing.assert_allclose(*numbers, rtol=2e-4, atol=2e-6)


@pytest.mark.parametrize("case", CASES, ids=[case.__name__ for case in CASES])
def test_outputs_and_what_flows_back(case):
    forward, backward = shown(mx, case, False)
    check(forward, EXPECTED[case.__name__][0])
    check(backward, EXPECTED[case.__name__][1])


def test_inputs_too():
    """Backward, MXNet also shows what its gradient operators read, which is a matter of its kernels."""
    forward, backward = shown(mx, classifier, True)
    check(forward, EXPECTED["classifier_all"][0])
    check(backward, EXPECTED["classifier"][1])


def test_a_monitor_over_buckets_and_batch_sizes():
    for found, expected in zip(watched_training(mx), EXPECTED["watched_training"], strict=True):
        check(found, expected)
    for found, expected in zip(watched_training(mx, sort=True), EXPECTED["watched_sorted"], strict=True):
        check(found, expected)


def test_lines_of_the_log():
    assert logged(mx) == EXPECTED["logged"]


def test_dropout_shows_its_mask_and_computes_the_same():
    dropped = mx.sym.Dropout(mx.sym.exp(mx.sym.Variable("x"), name="e"), p=0.5, name="drop")
    outputs, seen = [], {}
    for watched in (False, True):
        mx.random.seed(3)
        executor = dropped.simple_bind(mx.cpu(), x=(4, 6))
        executor.arg_dict["x"][:] = values(4, 6)
        if watched:
            executor.set_monitor_callback(lambda name, array: seen.update({name: array.asnumpy()}))
        executor.forward(is_train=True)
        executor.backward(mx.nd.ones((4, 6)))
        outputs.append((executor.outputs[0].asnumpy(), executor.grad_dict["x"].asnumpy()))
    np.testing.assert_array_equal(outputs[0], outputs[1])
    assert list(seen) == ["e_output", "drop_output", "drop_mask", "_head_grad_0_id_output", "drop_backward_output",
                          "e_backward_output"]  # fmt: skip
    assert set(np.unique(seen["drop_mask"])) == {0, 2}
    np.testing.assert_array_equal(seen["drop_backward_output"], seen["drop_mask"])


def test_without_a_monitor_the_program_is_the_plain_one(monkeypatch):
    symbol, shapes = classifier(mx)
    executor = symbol.simple_bind(mx.cpu(), **shapes)
    executor.forward()
    plain = executor._programs[False, False]
    executor.set_monitor_callback(lambda name, array: None)
    executor.forward()
    assert executor._programs[False, False] is not plain
    executor.set_monitor_callback(None)
    before = binding.compiled_count()
    executor.forward()
    assert len(executor._programs[False, False].output_shapes) == 1 and binding.compiled_count() == before


def test_nodes_of_one_name_are_all_watched():
    x = mx.sym.Variable("x")
    symbol = mx.sym.exp(mx.sym.exp(x, name="same"), name="same")
    executor, seen = symbol.simple_bind(mx.cpu(), x=(2,)), []
    executor.set_monitor_callback(lambda name, array: seen.append((name, round(float(array.asnumpy()[0]), 3))))
    executor.forward(is_train=True)
    executor.backward(mx.nd.ones((2,)))
    assert seen == [("same_output", 1), ("same_output", 2.718), ("_head_grad_0_id_output", 1),
                    ("same_backward_output", 2.718), ("same_backward_output", 2.718)]  # fmt: skip


def test_reshaped_executors_keep_the_monitor():
    symbol, shapes = classifier(mx)
    seen = []
    executor = symbol.simple_bind(mx.cpu(), grad_req="null", **shapes)
    executor.set_monitor_callback(lambda name, array: seen.append((name, array.shape)))
    executor.reshape(partial_shaping=True, data=(1, 5)).forward()
    assert seen[-1] == ("softmax_output", (1, 3))


def test_several_contexts_are_all_watched():
    symbol, _ = classifier(mx)
    module = mx.mod.Module(symbol, context=[mx.cpu(0), mx.cpu(1)])
    module.bind([("data", (4, 5))], [("softmax_label", (4,))])
    module.init_params()
    monitor = mx.mon.Monitor(1, pattern="softmax_output|data", monitor_all=True)
    module.install_monitor(monitor)
    monitor.tic()
    module.forward(mx.io.DataBatch([mx.nd.ones((4, 5))], [mx.nd.ones((4,))]), is_train=False)
    assert sorted(name for _, name, _ in monitor.toc()) == ["data"] * 4 + ["softmax_output"] * 2


def test_statistics_must_be_arrays():
    executor = mx.sym.exp(mx.sym.Variable("x"), name="e").simple_bind(mx.cpu(), grad_req="null", x=(2,))
    for wrong in (lambda array: 1.0, lambda array: [1.0]):
        monitor = mx.monitor.Monitor(1, stat_func=wrong)
        monitor.install(executor)
        monitor.tic()
        with pytest.raises(AssertionError, match="stat_func"):
            monitor.toc()
    assert mx.mon.Monitor(1).toc() == []


def test_onnx_models_have_no_operators_to_watch():
    class Model:
        graph, graph_name = None, "exported"

    with pytest.raises(NotImplementedError, match="'exported'"):
        binding.monitored(Model(), print, False)
