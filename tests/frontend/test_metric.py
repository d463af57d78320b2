"""Metrics: MXNet 1.9.1's values for the same batches, and the behaviour around them."""

import math
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
from recorded_cases import recorded, recorder

import bucketmod as mx

RECORDED = recorded("metrics")
RECORDER = recorder("metrics")


@pytest.mark.parametrize("case", RECORDED["described"])
def test_descriptions_and_configurations_are_those_of_mxnet(case: str) -> None:
    assert RECORDER.describe(mx, case) == RECORDED["described"][case]


@pytest.mark.filterwarnings("ignore:invalid value encountered")
@pytest.mark.parametrize("case", RECORDED["edges"])
def test_edges_are_those_of_mxnet(case: str) -> None:
    assert RECORDER.run_edge(mx, case) == RECORDED["edges"][case]


@pytest.mark.parametrize("case", RECORDER.CASES)
def test_values_are_those_of_mxnet(case: str) -> None:
    found = RECORDER.run(mx, case)
    assert [[name for name, _ in pairs] for pairs in found] == [[name for name, _ in p] for p in RECORDED[case]]
    for pairs, expected in zip(found, RECORDED[case], strict=True):
        np.testing.assert_allclose([v for _, v in pairs], [v for _, v in expected], rtol=2e-6)


def test_perplexity_of_ignored_labels_only_is_nan() -> None:
    metric = mx.metric.Perplexity(ignore_label=0)
    metric.update([mx.nd.zeros((2,))], [mx.nd.ones((2, 3))])
    assert math.isnan(metric.get()[1])


def test_perplexity_bounds_zero_probability() -> None:
    metric = mx.metric.Perplexity(None)
    metric.update([mx.nd.zeros((1,))], [mx.nd.array([[0.0, 1.0]])])
    assert metric.get()[1] == pytest.approx(1e10, rel=1e-5)


def test_perplexity_reads_labels_of_any_shape_in_order() -> None:
    scores = np.random.default_rng(0).random((6, 4), np.float32)
    flat, square = mx.metric.Perplexity(None), mx.metric.Perplexity(None)
    label = mx.nd.array([0, 1, 2, 3, 0, 1])
    flat.update([label], [mx.nd.array(scores)])
    square.update([label.reshape((2, 3))], [mx.nd.array(scores)])
    assert flat.get() == square.get()
    with pytest.raises(AssertionError, match="shape mismatch"):
        flat.update([label[:5]], [mx.nd.array(scores)])


def test_update_leaves_predictions_alone() -> None:
    scores = mx.nd.array(np.random.default_rng(1).random((4, 3)))
    before = scores.asnumpy()
    for name in ("acc", "ce", "nll_loss", "mse", "loss"):
        label = mx.nd.zeros((4, 3)) if name == "mse" else mx.nd.array([0, 1, 2, 0])
        mx.metric.create(name).update([label], [scores])
    mx.metric.create("perplexity", ignore_label=None).update([mx.nd.array([0, 1, 2, 0])], [scores])
    np.testing.assert_array_equal(scores.asnumpy(), before)


def test_create_takes_names_functions_lists_and_instances() -> None:
    accuracy = mx.metric.create("ACC")
    assert isinstance(accuracy, mx.metric.Accuracy)
    assert mx.metric.create(accuracy) is accuracy
    both = mx.metric.create([accuracy, "ce"])
    assert isinstance(both, mx.metric.CompositeEvalMetric)
    assert both.get_metric(0) is accuracy
    assert isinstance(both.get_metric(7), ValueError)
    with pytest.raises(AssertionError, match="nonsense"):
        mx.metric.create("nonsense")


def test_config_makes_the_metric_again() -> None:
    metric = mx.metric.Perplexity(3, name="ppl", output_names=["out"])
    again = mx.metric.create(**metric.get_config())
    assert isinstance(again, mx.metric.Perplexity)
    assert (again.ignore_label, again.name, again.output_names) == (3, "ppl", ["out"])


def test_custom_metric_counts_numbers_once_and_pairs_as_given() -> None:
    metric = mx.metric.create(lambda label, pred: float(pred.sum()))
    assert metric.name == "custom(<lambda>)"
    metric.update([mx.nd.zeros((2,)), mx.nd.zeros((2,))], [mx.nd.ones((2,)), mx.nd.ones((4,))])
    assert metric.get()[1] == 3.0
    pair = mx.metric.np(lambda label, pred: (10.0, 4), name="pair")
    pair.update([mx.nd.zeros((2,))], [mx.nd.ones((2,))])
    assert pair.get() == ("pair", 2.5)
    with pytest.raises(ValueError, match="does not match"):
        pair.update([mx.nd.zeros((2,))], [])
    with pytest.raises(NotImplementedError):
        pair.get_config()


def test_update_dict_picks_by_name() -> None:
    metric = mx.metric.Loss(output_names=["b"])
    preds = OrderedDict(a=mx.nd.zeros((2,)), b=mx.nd.ones((2,)))
    metric.update_dict(OrderedDict(), preds)
    assert metric.get()[1] == 1.0
    with pytest.raises(KeyError):
        metric.update_dict({}, {"a": preds["a"]})
    composite = mx.metric.CompositeEvalMetric(["loss"], output_names=["a"])
    composite.update_dict({}, preds)
    assert composite.get() == (["loss"], [0.0])


def test_metrics_without_global_stats_report_local_values() -> None:
    class Plain(mx.metric.EvalMetric):
        def update(self, labels: Any, preds: Any) -> None:
            self.sum_metric += 6.0
            self.num_inst += 2

    metric = Plain("plain")
    metric.update([], [])
    assert metric.get_global() == ("plain", 3.0)
    assert metric.get_global_name_value() == [("plain", 3.0)]
    assert str(metric) == "EvalMetric: {'plain': 3.0}"


def test_registered_metric_is_created_by_name_and_alias() -> None:
    @mx.metric.register
    @mx.metric.alias("doubled_for_test")
    class DoubledForTest(mx.metric.Loss):
        pass

    assert isinstance(mx.metric.create("doubled_for_test"), DoubledForTest)
    assert isinstance(mx.metric.create("DoubledForTest"), DoubledForTest)


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(AssertionError, match="top_k"):
        mx.metric.TopKAccuracy(1)
    with pytest.raises(ValueError, match="two classes"):
        mx.metric.F1().update([mx.nd.array([0, 1, 2])], [mx.nd.zeros((3, 2))])
    with pytest.raises(ValueError, match="does not match"):
        mx.metric.Accuracy().update([mx.nd.zeros((3,))], [mx.nd.zeros((4, 2))])
    with pytest.raises(NotImplementedError):
        mx.metric.EvalMetric("base").update([], [])
