"""Compiled attention against the same program in numpy with every operator on its own."""

import numpy as np
import pytest
from compiled_programs import CompiledProgram
from reference_ops import run_program

import bucketmod as mx
from bucketmod.compiler.gradient import differentiate
from bucketmod.compiler.graph.constants import fold_constants
from bucketmod.compiler.pipeline import graph_phase
from bucketmod.export import export_symbol

BATCH, LENGTH, HEADS, SIZE = 3, 7, 3, 20


def heads_of(x):
    split = mx.sym.reshape(x, shape=(0, 0, -4, HEADS, -1))
    return mx.sym.reshape(mx.sym.transpose(split, axes=(0, 2, 1, 3)), shape=(-3, 0, 0))


def attend(q, k, v, mask=None):
    scores = mx.sym.batch_dot(q, k, transpose_b=True) * SIZE**-0.5
    scores = scores if mask is None else mx.sym.broadcast_add(scores, mask)
    context = mx.sym.reshape(mx.sym.batch_dot(mx.sym.softmax(scores, axis=-1), v), shape=(-4, -1, HEADS, 0, 0))
    return mx.sym.reshape(mx.sym.transpose(context, axes=(0, 2, 1, 3)), shape=(0, 0, -3))


def two_layers():
    """Self-attention on one projection, then attention to it with a mask and projections of its own."""
    x = mx.sym.Variable("x")
    width = HEADS * SIZE

    def dense(data, size, name):
        return mx.sym.FullyConnected(data, num_hidden=size, flatten=False, name=name)

    x = x + attend(*map(heads_of, mx.sym.split(dense(x, 3 * width, "qkv"), num_outputs=3, axis=2)))
    last = mx.sym.slice_axis(x, axis=1, begin=3, end=None)
    q, k, v = (heads_of(dense(data, width, name)) for data, name in ((last, "q"), (x, "k"), (x, "v")))
    y = attend(q, k, v, mx.sym.Variable("mask"))
    return mx.sym.SoftmaxOutput(dense(mx.sym.mean(y, axis=1), 5, "class"), mx.sym.Variable("label"), name="softmax")


def test_training_with_attention(tmp_path, target):
    width = HEADS * SIZE
    shapes = {"x": (BATCH, LENGTH, width), "mask": (1, LENGTH - 3, LENGTH), "label": (BATCH,)}
    program = export_symbol(two_layers(), shapes, data_names=["x", "mask"], label_names=["label"], is_train=True)
    wrt = [port.name for port in program.inputs if port.role == "parameter"] + ["x"]
    nodes = graph_phase(program, "train", wrt).model.graph.node
    kinds = [node.op_type for node in nodes if "Attention" in node.op_type]
    assert sorted(kinds) == ["AttentionGrad", "AttentionTraining", "BiasedAttentionGrad", "BiasedAttentionTraining"]
    rng = np.random.default_rng(0)
    inputs = {port.name: rng.standard_normal(port.shape).astype(np.float32) * 0.3 for port in program.inputs}
    inputs["mask"][0, :, 5:] = -30
    inputs["label"] = np.array([1, 4, 0], np.float32)
    want = run_program(differentiate(fold_constants(program), wrt), inputs)
    got = CompiledProgram(program, tmp_path, "train", wrt, target).run(inputs)
    assert set(got) == set(want) and len(got) == len(wrt) + 1
    for name, value in want.items():
        np.testing.assert_allclose(got[name], value, atol=3e-6, rtol=2e-4, err_msg=name)


@pytest.mark.cpu_only("it looks at the kernels for a CPU")
def test_layers_share_their_kernels():
    from bucketmod.compiler.pipeline import lower_program

    x = mx.sym.Variable("x")
    for layer in range(3):
        qkv = mx.sym.FullyConnected(x, num_hidden=3 * HEADS * SIZE, flatten=False, name=f"qkv{layer}")
        x = x + attend(*map(heads_of, mx.sym.split(qkv, num_outputs=3, axis=2)))
    shapes = {"x": (BATCH, LENGTH, HEADS * SIZE)}
    program = export_symbol(mx.sym.make_loss(x), shapes, data_names=["x"], label_names=[], is_train=True)
    wrt = [port.name for port in program.inputs if port.role == "parameter"]
    lowered = lower_program(program, "train", wrt, "cpu")
    names = [var.name_hint for var in lowered.functions]
    assert names.count("attention") == 1 and names.count("attention_grad") == 1
