"""FeedForward gives the numbers of MXNet 1.9.1 (tests/recorded/record_feedforward.py) and refuses what it refuses."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest

import bucketmod as mx

RECORDED = Path(__file__).parents[1] / "recorded"
sys.path.insert(0, str(RECORDED))

from feedforward_cases import CASES, CLASSES, arrays, log_lines, start, symbol  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def recorded(case):
    with np.load(RECORDED / "feedforward.npz") as archive:
        return {n.removeprefix(f"{case}/"): archive[n] for n in archive.files if n.startswith(f"{case}/")}


@pytest.mark.parametrize("case", CASES, ids=[case.__name__ for case in CASES])
def test_feedforward_gives_the_numbers_of_mxnet(case):
    found, expected = case(mx), recorded(case.__name__)
    assert found.keys() == expected.keys() and expected
    for name, array in found.items():
        np.testing.assert_allclose(array, expected[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_lines_of_the_log():
    with np.load(RECORDED / "feedforward.npz") as archive:
        assert log_lines(mx) == archive["log"].tolist()


def model(**options):
    return mx.model.FeedForward(symbol(mx), **{"num_epoch": 1, **options})


def test_it_is_deprecated():
    with pytest.warns(DeprecationWarning, match="Module"):
        model()
    with pytest.raises(AttributeError):
        mx.model.FeedBackward  # noqa: B018


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ((arrays()[0], None), ValueError, "y must be specified"),
        ((arrays()[0], [1, 2]), TypeError, "y must be ndarray"),
        ((arrays()[0], np.zeros(3)), ValueError, "not equal: 20 and 3"),
        ((arrays()[0], np.zeros((20, 2))), ValueError, r"\(20, 2\)"),
        (([[1.0]], None), TypeError, "DataIter"),
        ((*arrays(), 5), TypeError, "Eval data"),
        ((*arrays(), (None, None)), ValueError, "None"),
    ],
)
def test_data_that_cannot_be_used(arguments, error, text):
    with pytest.raises(error, match=text):
        model().fit(*arguments)


def test_other_refusals(tmp_path):
    with pytest.raises(AssertionError, match="symbol"):
        mx.model.FeedForward("softmax")
    with pytest.raises(ValueError, match='duplicated argument name "a"'):
        mx.model.FeedForward(mx.sym.Variable("a") + mx.sym.Variable("a"))
    with pytest.raises(TypeError, match="rescale_grad"):
        model(rescale_grad=1.0).fit(*arrays())
    with pytest.raises(AssertionError, match="num_epoch"):
        model(num_epoch=None, arg_params=start(mx)).fit(*arrays())
    with pytest.raises(AssertionError, match="epoch"):
        model(num_epoch=None).save(str(tmp_path / "model"))


def test_parameters_with_other_names():
    given = {**start(mx), "other": mx.nd.ones((1,))}
    with pytest.raises(ValueError, match="other"):
        model(arg_params=given).predict(arrays()[0])
    predicted = model(arg_params=given, aux_params={"more": mx.nd.ones((1,))}, allow_extra_params=True)
    assert predicted.predict(arrays()[0]).shape == (20, CLASSES)
    assert set(predicted.arg_params) == set(start(mx)) and predicted.aux_params is None


def test_prediction_goes_on_after_pickling_and_for_other_shapes():
    one = model(arg_params=start(mx))
    expected = one.predict(arrays()[0])
    kept = one._pred_exec
    np.testing.assert_array_equal(one.predict(arrays()[0]), expected)
    assert one._pred_exec is kept
    np.testing.assert_allclose(one.predict(mx.nd.array(arrays()[0][:4])), expected[:4], rtol=1e-5)
    assert one._pred_exec is not kept
    again = pickle.loads(pickle.dumps(one))
    assert again._pred_exec is None
    np.testing.assert_array_equal(again.predict(arrays()[0]), expected)


def test_a_metric_and_callbacks_in_score():
    seen, metric = [], mx.metric.create("acc")
    one = model(arg_params=start(mx))
    batches = mx.io.NDArrayIter(*arrays(), batch_size=20)
    for _ in range(2):
        one.score(batches, metric, batch_end_callback=[seen.append])
    assert metric.num_inst == 40 and [param.nbatch for param in seen] == [0, 0]
    assert one.score(batches, num_batch=0) != one.score(batches)  # nan: nothing was scored


def test_evaluation_data_as_lists_and_iterators_and_monitors():
    data, labels = arrays()
    monitor = mx.mon.Monitor(1, pattern="fc2_output")
    one = model(arg_params=start(mx), numpy_batch_size=20)
    counted = []
    one.fit(data, labels, eval_data=([list(row) for row in data], list(labels)), monitor=monitor,
            eval_batch_end_callback=counted.append)  # fmt: skip
    one.fit(data, labels, eval_data=(mx.io.NDArrayIter(data, labels, 20), None), eval_end_callback=None,
            eval_batch_end_callback=counted.append)  # fmt: skip
    assert [param.nbatch for param in counted] == [0, 0] and monitor.step == 1


def test_weights_are_initialised_where_none_are_given():
    given = {"fc1_weight": start(mx)["fc1_weight"]}
    one = model(arg_params=given, initializer=mx.init.One(), learning_rate=0.0)
    one.fit(*arrays())
    np.testing.assert_array_equal(one.arg_params["fc1_weight"].asnumpy(), given["fc1_weight"].asnumpy())
    np.testing.assert_array_equal(one.arg_params["fc2_weight"].asnumpy(), 1)
    np.testing.assert_array_equal(one.arg_params["fc2_bias"].asnumpy(), 0)
