"""Programs build for CUDA on machines without a GPU, in every test run; what cannot be built is named."""

from __future__ import annotations

import re

import pytest
from tvm import IRModule
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

import bucketmod as mx
from bucketmod.compiler import cuda
from bucketmod.compiler.cuda import build_for_cuda, schedule_gpu
from bucketmod.compiler.errors import CompileError
from bucketmod.compiler.target import parse_target
from bucketmod.export import export_symbol

TARGET = parse_target("cuda:sm_90")
S = mx.sym


def head(x):
    return S.SoftmaxOutput(S.FullyConnected(x, num_hidden=5, name="cls"), S.Variable("softmax_label"), name="softmax")


def language_model(length):
    cells = mx.rnn.SequentialRNNCell()
    cells.add(mx.rnn.LSTMCell(6, prefix="lstm_"))
    cells.add(mx.rnn.DropoutCell(0.2))
    cells.add(mx.rnn.GRUCell(6, prefix="gru_"))
    words = S.Embedding(S.Variable("data"), input_dim=9, output_dim=4, name="embed")
    outputs, _ = cells.unroll(length, inputs=words, merge_outputs=True)
    return head(S.Reshape(outputs, shape=(-1, 6))), {"data": (3, length), "softmax_label": (3 * length,)}


def attention():
    data = S.Variable("data")
    weights = S.softmax(S.batch_dot(data, data, transpose_b=True), axis=-1)
    x = S.LayerNorm(data + S.batch_dot(weights, data), name="norm")
    return head(S.mean(x, axis=1)), {"data": (2, 7, 8), "softmax_label": (2,)}


def build(symbol, shapes, mode):
    program = export_symbol(
        symbol, shapes, data_names=["data"], label_names=["softmax_label"], is_train=mode == "train"
    )
    wrt = [port.name for port in program.by_role("parameter")] if mode == "train" else []
    return build_for_cuda(program, mode, wrt, TARGET)


def assert_source_for_each_kernel(built):
    source = built.source()
    for kernel in built.kernels():
        assert re.search(rf"__global__ .*\b{kernel}_kernel\w*\(", source), kernel


def test_a_language_model_for_training():
    built = build(*language_model(4), "train")
    assert built.seeded
    assert_source_for_each_kernel(built)
    expected = {"lstm_forward_step", "lstm_backward_step", "gru_forward_step", "gru_backward_step", "dropout",
                "dropout_grad", "embedding_grad", "softmax_output_grad"}  # fmt: skip
    assert expected <= set(built.kernels())
    assert built.kernels() == build(*language_model(5), "train").kernels()  # one more step needs no other code


def test_attention_for_inference():
    built = build(*attention(), "infer")
    assert {"softmax", "layer_norm"} <= set(built.kernels())
    assert_source_for_each_kernel(built)


def loops_without_blocks():
    with IRBuilder() as ib, T.prim_func(s_tir=True):
        T.func_name("loops")
        source = T.arg("source", T.buffer((8,), "float32"))
        target = T.arg("target", T.buffer((8,), "float32"))
        with T.serial(8) as i:
            T.buffer_store(target, source[i], [i])
    return ib.get()


def test_a_kernel_that_cannot_be_scheduled_is_named():
    with pytest.raises(CompileError, match="kernel 'loops' cannot be scheduled for cuda:sm_90"):
        schedule_gpu(IRModule({"loops": loops_without_blocks()}), TARGET)


def wide_vectors():
    """CUDA has no vectors of 64."""
    with IRBuilder() as ib, T.prim_func(s_tir=True):
        T.func_name("wide")
        source = T.arg("source", T.buffer((98,), "float32"))
        target = T.arg("target", T.buffer((98,), "float32"))
        with T.launch_thread("threadIdx.x", 1):
            T.buffer_store(target, source[T.ramp(0, 1, 64)], [T.ramp(0, 1, 64)])
    return ib.get()


@pytest.mark.parametrize(
    "form, message",
    [
        (wide_vectors, "kernel 'softmax' cannot be built for cuda:sm_90: .*float32x64"),
        (None, "kernel 'softmax' has no code for cuda:sm_90: its loops are bound to no threads"),
    ],
)
def test_a_kernel_that_does_not_run_on_a_gpu_is_named(form, message, monkeypatch):
    def schedule_but_softmax(name, function, target):
        if name != "softmax":
            return schedule(name, function, target)
        return form().with_attr("tirx.is_scheduled", True) if form else function

    schedule = cuda._schedule
    monkeypatch.setattr(cuda, "_schedule", schedule_but_softmax)
    with pytest.raises(CompileError, match=message):
        build(*attention(), "infer")


def test_targets_of_other_kinds_are_refused():
    program = export_symbol(*attention(), data_names=["data"], label_names=["softmax_label"], is_train=False)
    with pytest.raises(ValueError, match="'cpu:x86-64-v3' is not a CUDA target"):
        build_for_cuda(program, "infer", [], parse_target("cpu:x86-64-v3"))
