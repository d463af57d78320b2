"""What the exporter promises beside numbers: roles, names, modes, types, errors."""

from __future__ import annotations

import time

import numpy as np
import onnx
import onnxruntime
import pytest
from reference_ops import run_program

import bucketmod as mx
from bucketmod.base import MXNetError, ShapeError
from bucketmod.compiler.functions import function
from bucketmod.compiler.program import Program
from bucketmod.export import export_symbol


def export(symbol, is_train=False, **shapes):
    data = [name for name in shapes if not name.endswith("label")]
    labels = [name for name in shapes if name.endswith("label")]
    return export_symbol(symbol, shapes, data_names=data, label_names=labels, is_train=is_train)


def run(program, seed=0, **given):
    rng = np.random.default_rng(seed)
    inputs = {p.name: given.get(p.name, rng.standard_normal(p.shape).astype(p.dtype)) for p in program.inputs}
    onnxruntime.set_seed(seed)
    session = onnxruntime.InferenceSession(program.model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run([p.name for p in program.outputs], inputs)


def language_model(steps, hidden=8, layers=2, vocabulary=20, dropout=0.0):
    stack = mx.rnn.SequentialRNNCell()
    for layer in range(layers):
        stack.add(mx.rnn.LSTMCell(hidden, prefix=f"lstm_l{layer}_"))
        if dropout:
            stack.add(mx.rnn.DropoutCell(dropout, prefix=f"drop_l{layer}_"))
    data, label = mx.sym.Variable("data"), mx.sym.Variable("softmax_label")
    embedded = mx.sym.Embedding(data, input_dim=vocabulary, output_dim=hidden, name="embed")
    outputs, _ = stack.unroll(steps, embedded, merge_outputs=True)
    scores = mx.sym.FullyConnected(mx.sym.Reshape(outputs, shape=(-1, hidden)), num_hidden=vocabulary, name="pred")
    return mx.sym.SoftmaxOutput(scores, mx.sym.Reshape(label, shape=(-1,)), name="softmax")


def test_inputs_have_roles_and_inferred_shapes():
    a, state = mx.sym.Variable("a"), mx.sym.Variable("state")
    hidden = mx.sym.FullyConnected(a, num_hidden=5, name="fc") + state
    symbol = mx.sym.SoftmaxOutput(hidden, name="softmax")
    program = export_symbol(
        symbol,
        {"a": (3, 4), "softmax_label": (3,)},
        data_names=["a"],
        label_names=["softmax_label"],
        state_names=["state"],
        is_train=True,
    )
    assert [(p.name, p.role, p.shape) for p in program.inputs] == [
        ("a", "data", (3, 4)),
        ("fc_weight", "parameter", (5, 4)),
        ("fc_bias", "parameter", (5,)),
        ("state", "state", (3, 5)),
        ("softmax_label", "label", (3,)),
    ]
    assert [(p.name, p.role, p.shape) for p in program.outputs] == [("softmax_output", "output", (3, 5))]


def test_the_label_stays_an_input_where_nobody_reads_it_and_its_shape_is_inferred():
    a, label = mx.sym.Variable("a"), mx.sym.Variable("softmax_label")
    symbol = mx.sym.SoftmaxOutput(mx.sym.FullyConnected(a, num_hidden=5, name="fc"), label, name="softmax")
    program = export_symbol(symbol, {"a": (3, 4)}, data_names=["a"], label_names=["softmax_label"], is_train=False)
    assert [(p.name, p.shape) for p in program.by_role("label")] == [("softmax_label", (3,))]


def test_nodes_are_called_like_the_symbols_nodes():
    a = mx.sym.Variable("a")
    symbol = mx.sym.FullyConnected(mx.sym.Activation(a, act_type="relu", name="act"), num_hidden=5, name="fc")
    names = [node.name for node in export(symbol, a=(2, 3, 4)).model.graph.node]
    assert names == ["act", "fc", "fc/1"]


def test_equal_exports_have_equal_digests_and_modes_differ_by_dropout():
    plain, dropped = (language_model(3, dropout=p) for p in (0.0, 0.5))
    shapes = {"data": (2, 3), "softmax_label": (2, 3)}
    assert export(plain, **shapes).digest() == export(plain, **shapes).digest()
    assert export(plain, **shapes).digest() == export(plain, is_train=True, **shapes).digest()
    assert export(dropped, **shapes).digest() != export(dropped, is_train=True, **shapes).digest()
    assert Program.from_bytes(export(dropped, **shapes).to_bytes()).digest() == export(dropped, **shapes).digest()


def test_dropout_is_active_in_training_only_with_a_stream_for_each_node():
    a = mx.sym.Variable("a")
    symbol = mx.sym.Group([mx.sym.Dropout(a, p=0.25, name="one"), mx.sym.Dropout(a, p=0.5, name="two")])
    ones = np.ones((100, 100), np.float32)
    inference, training = (export(symbol, is_train=mode, a=(100, 100)) for mode in (False, True))
    assert all((output == 1).all() for output in run(inference, a=ones))
    nodes = [node for node in training.model.graph.node if node.op_type == "Dropout"]
    assert [onnx.helper.get_node_attr_value(node, "seed") for node in nodes] == [0, 1]
    for output, rate in zip(run(training, a=ones), (0.25, 0.5), strict=True):
        assert set(np.unique(output)) == {np.float32(0), np.float32(1 / (1 - rate))}
        assert abs((output == 0).mean() - rate) < 0.03


def test_dropout_that_is_always_on_is_active_in_inference():
    symbol = mx.sym.Dropout(mx.sym.Variable("a"), p=0.5, mode="always", name="drop")
    assert [node.op_type for node in export(symbol, a=(3, 4)).model.graph.node] == ["Dropout"]


def test_fused_dropout_acts_between_layers_while_training():
    cell = mx.rnn.FusedRNNCell(3, num_layers=3, mode="gru", dropout=0.5, prefix="f_")
    outputs, _ = cell.unroll(4, mx.sym.Variable("a"), layout="TNC", merge_outputs=True)
    kinds = [node.op_type for node in export(outputs, is_train=True, a=(4, 2, 3)).model.graph.node]
    assert [kind for kind in kinds if kind in ("GRU", "Dropout")] == ["GRU", "Dropout", "GRU", "Dropout", "GRU"]
    assert "Dropout" not in [node.op_type for node in export(outputs, a=(4, 2, 3)).model.graph.node]


def test_outputs_that_are_inputs_constants_or_twice_there_get_names_of_their_own():
    a = mx.sym.Variable("a")
    same = mx.sym.identity(a, name="same")
    symbol = mx.sym.Group([a, same, same, mx.sym.zeros((2, 3), name="nothing"), mx.sym.relu(a, name="positive")])
    program = export(symbol, a=(2, 3))
    onnx.checker.check_model(program.model, full_check=True)
    assert [p.name for p in program.outputs] == [
        "a/1", "same_output", "same_output/1", "nothing_output", "positive_output",
    ]  # fmt: skip
    value = np.arange(-3, 3, dtype=np.float32).reshape(2, 3)
    for output, expected in zip(run(program, a=value), [value, value, value, 0 * value, value.clip(0)], strict=True):
        np.testing.assert_array_equal(output, expected)


def test_nodes_of_one_name_stay_apart():
    a = mx.sym.Variable("a")
    symbol = mx.sym.relu(a, name="twin") - mx.sym.sigmoid(a, name="twin")
    program = export(symbol, a=(2, 3))
    onnx.checker.check_model(program.model, full_check=True)
    value = np.ones((2, 3), np.float32)
    np.testing.assert_allclose(run(program, a=value)[0], 1 - 1 / (1 + np.exp(-value)), rtol=1e-6)


def test_element_types_follow_those_of_the_inputs():
    data, label = mx.sym.Variable("data"), mx.sym.Variable("softmax_label")
    hidden = mx.sym.Embedding(data, input_dim=5, output_dim=3, dtype="float64", name="embed")
    symbol = mx.sym.SoftmaxOutput(mx.sym.sum(hidden, axis=1) * 2, label, name="softmax")
    program = export_symbol(
        symbol,
        {"data": (2, 4), "softmax_label": (2,)},
        data_names=["data"],
        label_names=["softmax_label"],
        is_train=False,
        dtypes={"data": np.int32},
    )
    assert [p.dtype for p in program.inputs] == ["int32", "float64", "float64"]
    (output,) = run(program, data=np.array([[0, 1, 2, 3], [-1, 5, 4, 4]], np.int32))
    assert output.dtype == np.float64
    np.testing.assert_allclose(output.sum(axis=1), 1)


def test_padding_with_minus_one_takes_the_first_row():
    symbol = mx.sym.Embedding(mx.sym.Variable("a"), input_dim=3, output_dim=2, name="embed")
    table = np.arange(6, dtype=np.float32).reshape(3, 2)
    (rows,) = run(export(symbol, a=(3,)), a=np.array([-1, 1, 7], np.float32), embed_weight=table)
    np.testing.assert_array_equal(rows, table[[0, 1, 2]])


def image(a, axes=2):
    """``a`` (3, 4) as (1, 1, ..., 3, 4) with so many spatial axes."""
    return mx.sym.Reshape(a, shape=(1,) * axes + (3, 4))


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda a: mx.sym.LeakyReLU(a, act_type="rrelu", name="op"), ["LeakyReLU", "'op'", "rrelu"]),
        (
            lambda a: mx.sym.take(a, mx.sym.Variable("i", shape=(2,)), mode="raise", name="op"),
            ["take", "'op'", "raise"],
        ),
        (
            lambda a: mx.sym.LayerNorm(a, output_mean_var=True, name="op")[0],
            ["LayerNorm", "'op'", "output_mean_var"],
        ),
        (
            lambda a: mx.sym.RNN(
                mx.sym.expand_dims(a, axis=0),
                state_size=2,
                num_layers=1,
                mode="gru",
                use_sequence_length=True,
                name="op",
            ),
            ["RNN", "'op'", "use_sequence_length"],
        ),
        (
            lambda a: mx.sym.Convolution(image(a, 3), kernel=(1, 1, 1), num_filter=2, name="op"),
            ["Convolution", "'op'", "3 spatial axes"],
        ),
        (
            lambda a: mx.sym.Deconvolution(image(a), kernel=(2, 2), num_filter=2, target_shape=(4, 5), name="op"),
            ["Deconvolution", "'op'", "target_shape=(4, 5)"],
        ),
        (lambda a: mx.sym.Pooling(image(a), kernel=(2, 2), pool_type="lp", name="op"), ["Pooling", "'op'", "lp"]),
        (
            lambda a: mx.sym.Pooling(image(a), kernel=(2, 2), pooling_convention="same", name="op"),
            ["Pooling", "'op'", "same"],
        ),
        (
            lambda a: mx.sym.Pooling(image(a, 3), kernel=(1, 1, 1), name="op"),
            ["Pooling", "'op'", "3 spatial axes"],
        ),
        (
            lambda a: mx.sym.Pad(image(a), mode="reflect", pad_width=(0, 0, 0, 0, 3, 0, 0, 0), name="op"),
            ["Pad", "'op'", "reflect", "3"],
        ),
        (lambda a: mx.sym.norm(a, ord=3, name="op"), ["norm", "'op'", "ord=3"]),
        (lambda a: mx.sym.norm(a, out_dtype="float64", name="op"), ["norm", "'op'", "float64"]),
        (
            lambda a: mx.sym.GroupNorm(image(a), num_groups=1, output_mean_var=True, name="op")[0],
            ["GroupNorm", "'op'", "output_mean_var"],
        ),
        (
            lambda a: mx.sym.SequenceReverse(a, axis=1, name="op"),
            ["SequenceReverse", "'op'", "axis=1"],
        ),
    ],
)
def test_what_is_not_built_is_refused_by_name(build, words):
    with pytest.raises(NotImplementedError) as error:
        export(build(mx.sym.Variable("a")), a=(3, 4))
    assert all(word in str(error.value) for word in words)


def test_dropout_along_axes_draws_one_mask_for_all_positions():
    symbol = mx.sym.Dropout(mx.sym.Variable("a"), p=0.5, axes=(1,), name="drop")
    assert [node.op_type for node in export(symbol, a=(3, 4)).model.graph.node] == ["Identity"]
    training = export(symbol, is_train=True, a=(30, 4))
    made = run_program(training, {"a": np.ones((30, 4), np.float32)})["drop_output"]
    assert set(np.unique(made)) == {0, 2}
    assert (made == made[:, :1]).all()


WRONG_SHAPES = [
    (lambda a: mx.sym.Convolution(a, kernel=(3, 3), num_filter=2), (1, 2, 5), "expected 4 axes"),
    (lambda a: mx.sym.Convolution(a, kernel=(3, 3), num_filter=2), (1, 2, 2, 5), "exceeds the input"),
    (lambda a: mx.sym.Convolution(a, kernel=(1, 1), num_filter=2, num_group=2), (1, 3, 2, 5), "do not divide"),
    (lambda a: mx.sym.Convolution(a, kernel=(1, 1), num_filter=2, stride=(1,)), (1, 3, 2, 5), "expected 2 values"),
    (lambda a: mx.sym.Convolution(a, kernel=(1, 1), num_filter=2, layout="NHWC"), (1, 3, 2, 5), "second axis"),
    (lambda a: mx.sym.Deconvolution(a, kernel=(1, 1), num_filter=2, adj=(1, 1)), (1, 3, 2, 5), "below stride"),
    (lambda a: mx.sym.Deconvolution(a, kernel=(1, 1), num_filter=2, pad=(1, 1)), (1, 3, 2, 5), "leaves nothing"),
    (lambda a: mx.sym.Deconvolution(a, kernel=(1, 1), num_filter=3, num_group=2), (1, 4, 2, 5), "do not divide"),
    (lambda a: mx.sym.Pooling(a, kernel=(3, 3)), (1, 1, 2, 4), "exceeds the input"),
    (lambda a: mx.sym.Pooling(a, kernel=(3,)), (1, 1, 2, 4), "expected 2 sizes"),
    (lambda a: mx.sym.Pooling(a, kernel=(1, 1), pad=(1, 1)), (1, 1, 2, 4), "smaller than kernel"),
    (lambda a: mx.sym.Pooling(a, kernel=(1, 1), layout="NHWC"), (1, 1, 2, 4), "second axis"),
    (lambda a: mx.sym.Pooling(a, kernel=(1, 1)), (1, 4), "one to three spatial axes"),
    (lambda a: mx.sym.UpSampling(a, scale=2, sample_type="nearest"), (1, 4), "expected"),
    (lambda a: mx.sym.Pad(a, mode="edge", pad_width=(1, 0, 0, 0, 0, 0, 0, 0)), (1, 2, 3, 4), "0 for the first two"),
    (lambda a: mx.sym.depth_to_space(a, block_size=2), (1, 2, 3, 4), "no multiple"),
    (lambda a: mx.sym.space_to_depth(a, block_size=2), (1, 2, 3, 4), "must be multiples"),
    (lambda a: mx.sym.InstanceNorm(a), (2, 3), "expected"),
    (lambda a: mx.sym.GroupNorm(a, num_groups=2), (2, 3, 4), "divisible"),
    (lambda a: mx.sym.L2Normalization(a, mode="channel"), (2, 3), "mode=channel"),
    (lambda a: mx.sym.LRN(a, nsize=2), (2, 3, 4, 5), "must be odd"),
    (lambda a: mx.sym.LRN(a, nsize=3), (2, 3, 4), "expected"),
    (lambda a: mx.sym.SoftmaxActivation(a, mode="channel"), (2, 3), "too few axes"),
    (lambda a: mx.sym.SequenceMask(a, axis=2), (2, 3, 4), "axis 0 or 1"),
    (lambda a: mx.sym.slice_like(a, mx.sym.Variable("b", shape=(9, 9))), (3, 4), "data only 3"),
    (lambda a: mx.sym.slice_like(a, mx.sym.Variable("b", shape=(2,))), (3, 4), "no axis 1"),
    (lambda a: mx.sym.broadcast_like(a, mx.sym.Variable("b", shape=(2, 2))), (3, 1), "cannot become"),
    (lambda a: mx.sym.broadcast_like(a, mx.sym.Variable("b", shape=(2,))), (3, 1), "same number of axes"),
    (lambda a: mx.sym.broadcast_like(a, mx.sym.Variable("b", shape=(2,)), lhs_axes=(0,)), (1, 1), "give both"),
    (lambda a: mx.sym.reshape_like(a, mx.sym.Variable("b", shape=(2,))), (3, 1), "numbers of elements differ"),
    (lambda a: mx.sym.reshape_like(a, mx.sym.Variable("b", shape=(3,)), lhs_begin=5), (3, 1), "no range"),
    (lambda a: mx.sym.Crop(a, h_w=(9, 9)), (1, 1, 3, 4), "inside of data"),
    (lambda a: mx.sym.Crop(a, h_w=(3, 3), offset=(1, 0)), (1, 1, 3, 4), "leaves data"),
    (lambda a: mx.sym.Crop(a, h_w=(3, 3), offset=(1,)), (1, 1, 3, 4), "a row and a column"),
    (lambda a: mx.sym.gather_nd(a, mx.sym.Variable("b", shape=(3, 2))), (3, 4), "name 3 axes"),
    (lambda a: mx.sym.argmax_channel(a), (3,), "two or more axes"),
    (lambda a: mx.sym.LinearRegressionOutput(a, mx.sym.Variable("b", shape=(3, 2))), (3, 4), "do not agree"),
    (lambda a: a + mx.sym.arange(5, 1), (3,), "elements"),
]


@pytest.mark.parametrize(("build", "shape", "words"), WRONG_SHAPES)
def test_shapes_that_do_not_fit_say_why(build, shape, words):
    with pytest.raises(MXNetError, match=words):
        build(mx.sym.Variable("a")).infer_shape(a=shape)


def test_unknown_sizes_are_told_by_the_output_of_a_convolution():
    made = mx.sym.Convolution(mx.sym.Variable("a"), kernel=(3, 3), pad=(1, 0), num_filter=4, name="conv")
    whole = made + mx.sym.Variable("b", shape=(7, 4, 5, 6))
    assert whole.infer_shape(a=(0, 2, 0, 0))[0][0] == (7, 2, 5, 8)


def test_open_shapes_name_the_variable():
    symbol = mx.sym.Variable("a") + mx.sym.Variable("b")
    with pytest.raises(ShapeError, match="variable 'a'"):
        export_symbol(symbol, {}, data_names=["a"], label_names=[], is_train=False)


def test_two_variables_of_one_name_are_refused():
    with pytest.raises(MXNetError, match="'a'"):
        export(mx.sym.Variable("a") + mx.sym.Variable("a"), a=(2, 3))


def test_exporting_an_unrolled_network_takes_time_in_proportion():
    symbols = {steps: language_model(steps) for steps in (10, 100)}
    seconds = {}
    for steps, symbol in symbols.items():
        times = []
        for _ in range(3):
            start = time.process_time()
            export(symbol, is_train=True, data=(2, steps), softmax_label=(2, steps))
            times.append(time.process_time() - start)
        seconds[steps] = min(times)
    assert seconds[100] < 40 * seconds[10]  # 10 in proportion, 100 where something is quadratic


def test_only_forward_operators_of_the_domain_have_a_body():
    assert list(function("LSTM").attribute) == ["hidden_size", "reverse"]
    with pytest.raises(KeyError, match="bucketmod::LSTMGrad has no function body"):
        function("LSTMGrad")
