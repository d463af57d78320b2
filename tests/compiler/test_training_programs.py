"""Small models as users write them, compiled for training and inference: numbers against the same program in numpy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from compiled_programs import CompiledProgram
from reference_ops import as_float64, run_program

import bucketmod as mx
from bucketmod.compiler.gradient import differentiate
from bucketmod.compiler.graph.constants import fold_constants
from bucketmod.compiler.program import Program
from bucketmod.export import export_symbol

BATCH, LENGTH, VOCABULARY, EMBED, HIDDEN, CLASSES = 3, 5, 11, 6, 7, 4
S = mx.sym
RECURRENT_MODES = {"lstm": mx.rnn.LSTMCell, "gru": mx.rnn.GRUCell, "rnn_tanh": mx.rnn.RNNCell}


def mlp() -> tuple[mx.sym.Symbol, dict[str, tuple[int, ...]]]:
    data = S.Variable("data")
    hidden = S.Activation(S.FullyConnected(data, num_hidden=HIDDEN, name="fc1"), act_type="relu")
    hidden = S.Activation(S.FullyConnected(hidden, num_hidden=HIDDEN, name="fc2"), act_type="tanh")
    scores = S.FullyConnected(hidden, num_hidden=CLASSES, name="fc3")
    head = S.SoftmaxOutput(scores, S.Variable("softmax_label"), name="softmax", normalization="batch")
    return head, {"data": (BATCH, EMBED), "softmax_label": (BATCH,)}


def language_model(mode: str, fused: bool) -> tuple[mx.sym.Symbol, dict[str, tuple[int, ...]]]:
    """Two recurrent layers over embedded words; the last word is padding and ignored."""
    if fused:
        cell = mx.rnn.FusedRNNCell(HIDDEN, num_layers=2, mode=mode, prefix=f"{mode}_")
    else:
        cell = mx.rnn.SequentialRNNCell()
        for layer in range(2):
            cell.add(RECURRENT_MODES[mode](HIDDEN, prefix=f"{mode}_l{layer}_"))
    words = S.Embedding(S.Variable("data"), input_dim=VOCABULARY, output_dim=EMBED, name="embed")
    outputs, _ = cell.unroll(LENGTH, inputs=words, merge_outputs=True, layout="TNC" if fused else "NTC")
    scores = S.FullyConnected(S.Reshape(outputs, shape=(-1, HIDDEN)), num_hidden=VOCABULARY, name="pred")
    label = S.Reshape(S.Variable("softmax_label"), shape=(-1,))
    head = S.SoftmaxOutput(scores, label, name="softmax", use_ignore=True, ignore_label=0, normalization="valid")
    shape = (LENGTH, BATCH) if fused else (BATCH, LENGTH)
    return head, {"data": shape, "softmax_label": shape}


def transformer(heads: int = 2, width: int = 8, inner: int = 10) -> tuple[mx.sym.Symbol, dict[str, tuple[int, ...]]]:
    """One layer of attention and one of two products, classifying the mean over time."""

    def dense(x, units, name):
        return S.FullyConnected(x, num_hidden=units, flatten=False, name=name)

    x = S.Embedding(S.Variable("data"), input_dim=VOCABULARY, output_dim=width, name="embed")
    position = S.Variable("position_weight", shape=(1, LENGTH + 2, width))
    x = S.broadcast_add(x, S.slice_axis(position, axis=1, begin=0, end=LENGTH))
    parts = S.split(dense(x, 3 * width, "qkv"), num_outputs=3, axis=2)
    split = [S.transpose(S.reshape(part, shape=(0, 0, -4, heads, -1)), axes=(0, 2, 1, 3)) for part in parts]
    q, k, v = (S.reshape(part, shape=(-3, 0, 0)) for part in split)
    attention = S.softmax(S.batch_dot(q, k, transpose_b=True) * (width // heads) ** -0.5, axis=-1)
    context = S.reshape(S.batch_dot(attention, v), shape=(-4, -1, heads, 0, 0))
    context = S.reshape(S.transpose(context, axes=(0, 2, 1, 3)), shape=(0, 0, -3))
    x = S.LayerNorm(x + dense(context, width, "out"), axis=-1, eps=1e-5, name="norm1")
    hidden = S.Activation(dense(x, inner, "up"), act_type="relu")
    x = S.LayerNorm(x + dense(hidden, width, "down"), axis=-1, eps=1e-5, name="norm2")
    scores = S.FullyConnected(S.mean(x, axis=1), num_hidden=CLASSES, name="cls")
    head = S.SoftmaxOutput(scores, S.Variable("softmax_label"), name="softmax")
    return head, {"data": (BATCH, LENGTH), "softmax_label": (BATCH,)}


def wide_classifier(normalization: str) -> tuple[mx.sym.Symbol, dict[str, tuple[int, ...]]]:
    """So many classes that projection and softmax, and the products of their gradient, are one kernel each."""
    rows = 13 * 7
    hidden = S.Activation(S.FullyConnected(S.Variable("data"), num_hidden=37, name="fc1"), act_type="tanh")
    scores = S.FullyConnected(hidden, num_hidden=1009, name="fc2")
    head = S.SoftmaxOutput(scores, S.Variable("softmax_label"), name="softmax", normalization=normalization,
                           use_ignore=normalization != "null", ignore_label=1, grad_scale=2.0)  # fmt: skip
    return head, {"data": (rows, EMBED), "softmax_label": (rows,)}


MODELS: dict[str, Callable[[], tuple[mx.sym.Symbol, dict[str, tuple[int, ...]]]]] = {
    "mlp": mlp,
    "transformer": transformer,
    **{f"wide_{norm}": lambda norm=norm: wide_classifier(norm) for norm in ("null", "batch", "valid")},
    **{f"{mode}_unrolled": lambda mode=mode: language_model(mode, False) for mode in RECURRENT_MODES},
    **{f"{mode}_fused": lambda mode=mode: language_model(mode, True) for mode in (*RECURRENT_MODES, "rnn_relu")},
}


def export(symbol: mx.sym.Symbol, shapes: dict[str, tuple[int, ...]], is_train: bool = True) -> Program:
    labels = [name for name in shapes if name.endswith("label")]
    data = [name for name in shapes if name not in labels]
    return export_symbol(symbol, shapes, data_names=data, label_names=labels, is_train=is_train)


def values_for(program: Program, largest: int) -> dict[str, np.ndarray]:
    """Numbers from 0 up to ``largest`` for labels and words, small ones around 0 for everything else."""
    rng = np.random.default_rng(4)
    numbers = {"softmax_label"} | ({"data"} if any(n.op_type == "Gather" for n in program.model.graph.node) else set())
    return {
        port.name: (rng.integers(0, largest, port.shape) if port.name in numbers else rng.normal(0, 0.5, port.shape))
        .astype(np.float32)
        for port in program.inputs
    }  # fmt: skip


def reference(program: Program, wrt: list[str], values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the program as it was exported computes, in double precision: nothing in it is found or fused."""
    training = differentiate(fold_constants(program), wrt)
    return run_program(as_float64(training), {name: value.astype(np.float64) for name, value in values.items()})


def assert_equal(got: dict[str, np.ndarray], want: dict[str, np.ndarray]) -> None:
    assert set(got) == set(want)
    for name, value in want.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-4, atol=2e-6, err_msg=name)


@pytest.mark.filterwarnings("ignore:FusedRNNCell runs over TNC")
@pytest.mark.parametrize("name", MODELS)
def test_outputs_and_gradients(name, tmp_path, target):
    program = export(*MODELS[name]())
    wrt = [port.name for port in program.by_role("parameter")]
    values = values_for(program, CLASSES if name in ("mlp", "transformer") else VOCABULARY)
    got = CompiledProgram(program, tmp_path, "train", wrt, target).run(values)
    assert_equal(got, reference(program, wrt, values))


@pytest.mark.filterwarnings("ignore:FusedRNNCell runs over TNC")
@pytest.mark.parametrize("name", MODELS)
def test_inference(name, tmp_path, target):
    program = export(*MODELS[name](), is_train=False)
    values = values_for(program, CLASSES if name in ("mlp", "transformer") else VOCABULARY)
    want = run_program(as_float64(program), {name: value.astype(np.float64) for name, value in values.items()})
    assert_equal(CompiledProgram(program, tmp_path, target=target).run(values), want)


def dropped(x: mx.sym.Symbol, drop: Callable[[mx.sym.Symbol], mx.sym.Symbol]) -> mx.sym.Symbol:
    """A classifier on ``drop`` of hidden units; what is left of these is a second output."""
    hidden = drop(S.FullyConnected(x, num_hidden=40, name="fc1"))
    scores = S.FullyConnected(hidden, num_hidden=CLASSES, name="fc2")
    return S.Group([S.SoftmaxOutput(scores, S.Variable("softmax_label"), name="softmax"), S.BlockGrad(hidden)])


def test_dropout_passes_what_it_keeps_and_its_gradient(tmp_path, target):
    ratio, shapes = 0.3, {"data": (BATCH, EMBED), "softmax_label": (BATCH,)}
    program = export(dropped(S.Variable("data"), lambda x: S.Dropout(x, p=ratio)), shapes)
    wrt = [port.name for port in program.by_role("parameter")]
    values = values_for(program, CLASSES)
    compiled = CompiledProgram(program, tmp_path, "train", wrt, target)
    got = compiled.run(values, seed=(7, 3))
    prob, kept = (port.name for port in program.outputs if port.role == "output")
    mask = (got[kept] != 0) / (1 - ratio)
    assert abs((mask != 0).mean() - (1 - ratio)) < 0.15
    masked = export(dropped(S.Variable("data"), lambda x: x * S.Variable("mask")), {**shapes, "mask": mask.shape})
    want = reference(masked, wrt, {**values, "mask": mask})
    want = dict(zip([prob, kept, *list(want)[2:]], want.values(), strict=True))
    assert_equal(got, want)
    np.testing.assert_array_equal(compiled.run(values, seed=(7, 3))[kept], got[kept])
    assert (compiled.run(values, seed=(7, 4))[kept] != got[kept]).any()
