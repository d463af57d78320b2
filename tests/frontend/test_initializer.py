"""Initialisers: rules by name, texts, distributions, repeatability."""

import logging
from typing import Any

import numpy as np
import pytest

import bucketmod as mx
from bucketmod.initializer import InitDesc


def filled(init: Any, name: str, shape: tuple[int, ...], **attrs: str) -> np.ndarray:
    array = mx.nd.full(shape, -7.0)
    init(InitDesc(name, attrs), array)
    return array.asnumpy()


@pytest.mark.parametrize(
    ("ending", "value"), [("bias", 0), ("gamma", 1), ("beta", 0), ("min", 0), ("max", 1), ("weight", 5)]
)
def test_names_decide(ending: str, value: float) -> None:
    assert np.all(filled(mx.init.Constant(5), f"fc_{ending}", (3,)) == value)


def test_other_names_are_refused_unless_their_variable_says_how() -> None:
    with pytest.raises(ValueError, match="state0"):
        filled(mx.init.Uniform(), "state0", (3,))
    assert np.all(filled(mx.init.Uniform(), "state0", (3,), __init__=mx.init.One().dumps()) == 1)
    assert np.all(filled(mx.init.Uniform(), "fc_bias", (3,), __init__='["constant", {"value": 2.5}]') == 2.5)


def test_plain_names_take_the_older_rules() -> None:
    for name, value in (("bn_moving_mean", 0), ("bn_moving_var", 1), ("fc_weight", 5), ("stn_loc_weight", 0)):
        array = mx.nd.full((2,), -7)
        with pytest.warns(DeprecationWarning):
            mx.init.Constant(5)(name, array)
        assert np.all(array.asnumpy() == value), name
    affine = mx.nd.zeros((6,))
    with pytest.warns(DeprecationWarning):
        mx.init.Zero()("stn_loc_bias", affine)
    assert affine.asnumpy().tolist() == [1, 0, 0, 0, 1, 0]
    with pytest.warns(DeprecationWarning), pytest.raises(ValueError, match="whatever"):
        mx.init.Zero()("whatever", affine)
    with pytest.warns(DeprecationWarning), pytest.raises(TypeError):
        mx.init.Zero()("fc_weight", np.zeros(3))


@pytest.mark.parametrize(
    ("init", "text"),
    [
        (lambda: mx.init.Xavier(), '["xavier", {"rnd_type": "uniform", "factor_type": "avg", "magnitude": 3}]'),
        (lambda: mx.init.Normal(0.5), '["normal", {"sigma": 0.5}]'),
        (lambda: mx.init.Constant(mx.nd.ones((2,))), '["constant", {"value": [1.0, 1.0]}]'),
        (lambda: mx.init.MSRAPrelu(), '["msraprelu", {"factor_type": "avg", "slope": 0.25}]'),
        (lambda: mx.init.LSTMBias(2.0), '["lstmbias", {"forget_bias": 2.0}]'),
        (
            lambda: mx.init.FusedRNN(mx.init.Uniform(0.1), 2, 1, "lstm"),
            '["fusedrnn", {"init": "[\\"uniform\\", {\\"scale\\": 0.1}]", "num_hidden": 2, "num_layers": 1, '
            '"mode": "lstm", "bidirectional": false, "forget_bias": 1.0}]',
        ),
    ],
)
def test_texts_are_those_of_mxnet_and_make_the_initializer_again(init: Any, text: str) -> None:
    assert init().dumps() == text
    assert mx.init.create(text).dumps() == text


def test_create_by_name_alias_and_instance() -> None:
    assert mx.init.create("Zeros") == mx.init.Zero()
    assert mx.init.create("uniform", scale=0.5) == mx.init.Uniform(0.5)
    assert mx.init.create("uniform", scale=0.5) != mx.init.Uniform(0.25)
    init = mx.init.One()
    assert mx.init.create(init) is init
    with pytest.raises(AssertionError, match="nonsense"):
        mx.init.create("nonsense")


def test_registered_initializer_serves_variables() -> None:
    @mx.init.register
    class TwosForTest(mx.init.Initializer):
        def _init_weight(self, name: str, arr: Any) -> None:
            arr[:] = 2

    assert np.all(filled(mx.init.Zero(), "x", (2,), __init__=TwosForTest().dumps()) == 2)
    with pytest.raises(NotImplementedError):
        filled(mx.init.Initializer(), "fc_weight", (2,))


def test_random_initializers_repeat_with_the_seed_and_leave_numpy_alone() -> None:
    np.random.seed(3)
    expected = np.random.rand()
    np.random.seed(3)
    for init in (mx.init.Uniform(), mx.init.Normal(), mx.init.Xavier(), mx.init.Orthogonal()):
        mx.random.seed(11)
        first, second = filled(init, "a_weight", (5, 4)), filled(init, "a_weight", (5, 4))
        mx.random.seed(11)
        np.testing.assert_array_equal(filled(init, "a_weight", (5, 4)), first)
        assert not np.array_equal(first, second)
    assert np.random.rand() == expected


def test_distributions_have_the_stated_width() -> None:
    mx.random.seed(0)
    uniform = filled(mx.init.Uniform(0.5), "a_weight", (200, 200))
    assert -0.5 <= uniform.min() < -0.49 and 0.49 < uniform.max() <= 0.5
    assert abs(filled(mx.init.Normal(0.5), "a_weight", (200, 200)).std() - 0.5) < 0.01
    shape = (40, 60, 3, 3)
    for factor, size in (("in", 540), ("out", 360), ("avg", 450)):
        values = filled(mx.init.Xavier("uniform", factor, 2.0), "a_weight", shape)
        assert np.abs(values).max() == pytest.approx(np.sqrt(2.0 / size), rel=1e-2)
        gauss = filled(mx.init.Xavier("gaussian", factor, 2.0), "a_weight", shape)
        assert gauss.std() == pytest.approx(np.sqrt(2.0 / size), rel=2e-2)
    slope = filled(mx.init.MSRAPrelu("in", 0.5), "a_weight", (300, 200))
    assert slope.std() == pytest.approx(np.sqrt(2 / 1.25 / 200), rel=2e-2)


def test_xavier_refuses_vectors_and_unknown_words() -> None:
    for init, shape in (
        (mx.init.Xavier(), (3,)),
        (mx.init.Xavier(factor_type="mid"), (3, 3)),
        (mx.init.Xavier(rnd_type="cauchy"), (3, 3)),
        (mx.init.Orthogonal(rand_type="cauchy"), (3, 3)),
    ):
        with pytest.raises(ValueError, match="a_weight"):
            filled(init, "a_weight", shape)


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (4, 2, 3)])
@pytest.mark.parametrize("rand_type", ["uniform", "normal"])
def test_orthogonal_rows_or_columns(shape: tuple[int, ...], rand_type: str) -> None:
    matrix = filled(mx.init.Orthogonal(2.0, rand_type), "a_weight", shape).reshape(shape[0], -1)
    small = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    np.testing.assert_allclose(small, 4 * np.eye(len(small)), atol=1e-5)


def test_lstm_bias_and_bilinear_have_mxnets_values() -> None:
    assert filled(mx.init.LSTMBias(3.0), "h_weight", (8,)).tolist() == [0, 0, 3, 3, 0, 0, 0, 0]
    row = np.array([0.25, 0.75, 0.75])
    np.testing.assert_allclose(filled(mx.init.Bilinear(), "up_weight", (1, 2, 3, 3))[0, 1], np.outer(row, row))


def test_mixed_takes_the_first_match_from_the_start_of_the_name() -> None:
    mixed = mx.init.Mixed(["fc1", ".*weight", "fc2"], [mx.init.One(), mx.init.Constant(2), mx.init.Constant(3)])
    assert np.all(filled(mixed, "fc1_weight", (2,)) == 1)
    assert np.all(filled(mixed, "my_fc1_weight", (2,)) == 2)
    with pytest.raises(ValueError, match="other"):
        filled(mixed, "other", (2,))
    with pytest.raises(AssertionError):
        mx.init.Mixed(["a"], [])


def test_load_takes_arrays_by_name_and_falls_back(tmp_path: Any) -> None:
    arrays = {"arg:a_weight": mx.nd.array([1, 2]), "b_weight": mx.nd.array([3, 4])}
    mx.nd.save(str(tmp_path / "p"), arrays)
    for source in (arrays, str(tmp_path / "p")):
        load = mx.init.Load(source, default_init=mx.init.Constant(9), verbose=True)
        assert filled(load, "a_weight", (2,)).tolist() == [1, 2]
        assert filled(load, "b_weight", (2,)).tolist() == [3, 4]
        assert filled(load, "c_weight", (2,)).tolist() == [9, 9]
    with pytest.raises(AssertionError, match="shape"):
        filled(load, "a_weight", (3,))
    with pytest.raises(AssertionError, match="c_weight"):
        filled(mx.init.Load(arrays), "c_weight", (2,))


def test_verbose_initializer_logs(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    filled(mx.init.Constant(2).set_verbosity(True), "a_weight", (4,))
    filled(mx.init.Constant(2).set_verbosity(True, lambda arr: "mine"), "a_bias", (4,))
    assert caplog.messages == ["Initialized a_weight as weight: 2.0", "Initialized a_bias as bias: mine"]


@pytest.mark.parametrize("mode", ["lstm", "gru", "rnn_tanh"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_fused_rnn_fills_its_parts_by_name(mode: str, bidirectional: bool) -> None:
    cell = mx.rnn.FusedRNNCell(3, 2, mode, bidirectional, prefix="", forget_bias=4.0)
    output, _ = cell.unroll(5, mx.sym.Variable("data"), layout="TNC", merge_outputs=True)
    shapes, _, _ = output.infer_shape(data=(5, 2, 6))
    shape = dict(zip(output.list_arguments(), shapes, strict=True))["parameters"]
    init = mx.init.FusedRNN(mx.init.Constant(2), 3, 2, mode, bidirectional, 4.0)
    array = mx.nd.zeros(shape)
    init(InitDesc("parameters", {"__init__": init.dumps()}), array)
    for name, part in cell.unpack_weights({"parameters": array}).items():
        forget = mode == "lstm" and name.endswith("_f_bias")
        assert np.all(part.asnumpy() == (2 if name.endswith("weight") else 4 if forget else 0)), name
    outer = mx.init.FusedRNN(None, 3, 2, mode, bidirectional)
    mx.init.One()(InitDesc("parameters", {"__init__": outer.dumps()}), array)
    parts = cell.unpack_weights({"parameters": array})
    assert all(np.all(part.asnumpy() == 1) for name, part in parts.items() if name.endswith("weight"))
    with pytest.raises(ValueError, match="parameters"):
        outer._init_weight("parameters", array)
