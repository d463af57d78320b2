"""Cells beside their graphs (tests/export compares those): weights, states, wrong uses."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest

import bucketmod as mx
from bucketmod.export import export_symbol

MODES = ("rnn_relu", "rnn_tanh", "lstm", "gru")


def run(symbol, arguments, **shapes):
    program = export_symbol(symbol, shapes, data_names=list(shapes), label_names=[], is_train=False)
    session = onnxruntime.InferenceSession(program.model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {port.name: arguments[port.name] for port in program.inputs})


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_unfused_cells_compute_what_the_fused_one_does_with_the_same_weights(mode, bidirectional):
    fused = mx.rnn.FusedRNNCell(3, num_layers=2, mode=mode, bidirectional=bidirectional, prefix="net_")
    stack = fused.unfuse()
    steps, batch, inputs = 4, 2, 5
    data = mx.sym.Variable("data")
    shapes = {"data": (steps, batch, inputs)}
    whole, _ = fused.unroll(steps, data, layout="TNC", merge_outputs=True)
    unrolled, _ = stack.unroll(steps, data, layout="TNC", merge_outputs=True)
    size = dict(zip(whole.list_arguments(), whole.infer_shape(**shapes)[0], strict=True))["net_parameters"]
    rng = np.random.default_rng(1)
    packed = {"net_parameters": mx.nd.array(rng.standard_normal(size).astype(np.float32))}
    plain = stack.pack_weights(fused.unpack_weights(packed))
    value = rng.standard_normal(shapes["data"]).astype(np.float32)
    arguments = [{name: array.asnumpy() for name, array in each.items()} | {"data": value} for each in (packed, plain)]
    np.testing.assert_allclose(
        run(unrolled, arguments[1], **shapes)[0], run(whole, arguments[0], **shapes)[0], rtol=1e-5, atol=1e-6
    )
    again = fused.pack_weights(stack.unpack_weights(plain))
    np.testing.assert_array_equal(again["net_parameters"].asnumpy(), packed["net_parameters"].asnumpy())


@pytest.mark.parametrize("make", [mx.rnn.RNNCell, mx.rnn.LSTMCell, mx.rnn.GRUCell])
def test_unpacked_weights_are_copies_and_packing_brings_the_same_back(make):
    cell = make(2, prefix="c_")
    rows = 2 * len(cell._gate_names)
    arrays = {
        f"c_{group}_{kind}": mx.nd.array(np.random.standard_normal((rows, 2) if kind == "weight" else (rows,)))
        for group in ("i2h", "h2h")
        for kind in ("weight", "bias")
    }
    before = {name: array.asnumpy().copy() for name, array in arrays.items()}
    parts = cell.unpack_weights(arrays)
    again = cell.pack_weights(parts)
    assert set(again) == set(arrays)
    for part in parts.values():
        part[:] = 0
    for name, array in before.items():
        np.testing.assert_array_equal(arrays[name].asnumpy(), array)
        np.testing.assert_array_equal(again[name].asnumpy(), array)


def test_a_vector_of_the_wrong_size_is_refused():
    cell = mx.rnn.FusedRNNCell(3, mode="gru", prefix="f_")
    with pytest.raises(ValueError, match="'f_parameters' has 100 elements"):
        cell.unpack_weights({"f_parameters": mx.nd.zeros((100,))})


def test_begin_states_are_counted_until_reset():
    cell = mx.rnn.LSTMCell(4, prefix="c_")
    assert [s.name for s in cell.begin_state(func=mx.sym.Variable)] == ["c_begin_state_0", "c_begin_state_1"]
    assert [s.name for s in cell.begin_state()] == ["c_begin_state_2", "c_begin_state_3"]
    cell.reset()
    assert cell.begin_state()[0].name == "c_begin_state_0"
    assert cell.state_shape == [(0, 4), (0, 4)]


def test_states_given_as_variables_are_inputs():
    cell = mx.rnn.SequentialRNNCell()
    cell.add(mx.rnn.GRUCell(3, prefix="a_"))
    cell.add(mx.rnn.LSTMCell(3, prefix="b_"))
    outputs, states = cell.unroll(2, mx.sym.Variable("data"), begin_state=cell.begin_state(func=mx.sym.Variable))
    arguments = mx.sym.Group(outputs + states).list_arguments()
    assert [n for n in arguments if "begin" in n] == ["a_begin_state_0", "b_begin_state_0", "b_begin_state_1"]


def test_cells_share_parameters_that_are_handed_over():
    shared = mx.rnn.RNNParams("s_")
    first, second = (mx.rnn.RNNCell(3, prefix=prefix, params=shared) for prefix in ("x_", "y_"))
    output, _ = first(mx.sym.Variable("data"), first.begin_state())
    output, _ = second(output, second.begin_state())
    assert [n for n in output.list_arguments() if n.endswith("weight")] == ["s_i2h_weight", "s_h2h_weight"]


def test_an_activation_may_be_a_function():
    cell = mx.rnn.RNNCell(3, activation=lambda x, name: mx.sym.LeakyReLU(x, slope=0.1, name=name), prefix="c_")
    output, _ = cell(mx.sym.Variable("data"), cell.begin_state())
    assert output.name == "c_t0_out" and "LeakyReLU" in output.tojson()


def test_a_stack_with_dropout_and_residual_steps_like_it_unrolls():
    def build():
        cell = mx.rnn.SequentialRNNCell()
        cell.add(mx.rnn.ResidualCell(mx.rnn.GRUCell(3, prefix="g_")))
        cell.add(mx.rnn.DropoutCell(0.2))
        return cell

    step = build()
    step.reset()
    output, _ = step(mx.sym.Variable("data"), step.begin_state())
    unrolled, _ = build().unroll(1, [mx.sym.Variable("data")], merge_outputs=False)
    assert output.list_arguments() == unrolled[0].list_arguments()
    assert output.name.startswith("dropout")


@pytest.mark.parametrize(
    ("use", "error", "words"),
    [
        (lambda: mx.rnn.LSTMCell(3).unroll(2, None), AssertionError, "needs inputs"),
        (lambda: mx.rnn.LSTMCell(3).unroll(2, [mx.sym.Variable("a")]), AssertionError, "1 inputs for 2 steps"),
        (
            lambda: mx.rnn.LSTMCell(3).unroll(2, mx.sym.Group([mx.sym.Variable("a"), mx.sym.Variable("b")])),
            AssertionError,
            "this one groups 2",
        ),
        (lambda: mx.rnn.FusedRNNCell(3)(None, None), NotImplementedError, "unfuse"),
        (lambda: mx.rnn.FusedRNNCell(3, mode="lstn"), ValueError, "'lstn'"),
        (lambda: mx.rnn.ZoneoutCell(mx.rnn.FusedRNNCell(3)), AssertionError, "unfuse"),
        (lambda: mx.rnn.DropoutCell("0.5"), AssertionError, "number"),
        (
            lambda: mx.rnn.BidirectionalCell(mx.rnn.RNNCell(2), mx.rnn.RNNCell(2))(None, []),
            NotImplementedError,
            "unroll",
        ),
        (lambda: mx.rnn.ConvLSTMCell((1, 2, 4, 4), 3, h2h_kernel=(2, 2)), AssertionError, "must be odd"),
        (
            lambda: mx.rnn.BaseConvRNNCell(
                (1, 2, 4, 4), 3, (1, 1), (1, 1), (1, 1), (1, 1), (0, 0), (1, 1), None, None, "zeros", "zeros", "tanh"
            )(None, []),
            NotImplementedError,
            "ConvLSTMCell",
        ),
    ],
)
def test_wrong_uses_say_what_is_wrong(use, error, words):
    with pytest.raises(error, match=words):
        use()


def test_a_wrapped_cell_must_not_be_used_alone():
    base = mx.rnn.LSTMCell(3)
    wrapper = mx.rnn.ZoneoutCell(base, zoneout_states=0.1)
    wrapper.begin_state()
    with pytest.raises(AssertionError, match="wrapped"):
        base.begin_state()


def test_rnn_unroll_warns_and_unrolls():
    with pytest.warns(DeprecationWarning):
        outputs, _ = mx.rnn.rnn_unroll(mx.rnn.RNNCell(3, prefix="r_"), 2, mx.sym.Variable("data"))
    assert [o.name for o in outputs] == ["r_t0_out", "r_t1_out"]
