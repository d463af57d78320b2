"""Every kernel gives the same bits on one thread and on several."""

from __future__ import annotations

import numpy as np
import pytest
from kernel_runner import final_form, on_threads, run_kernel

from bucketmod.compiler.kernels.dropout import Dropout
from bucketmod.compiler.kernels.embedding import EmbeddingGrad
from bucketmod.compiler.kernels.normalization import LayerNormGrad
from bucketmod.compiler.kernels.recurrence.cells import GRU, LSTM
from bucketmod.compiler.kernels.recurrence.time_loop import BackwardLoop, ForwardLoop
from bucketmod.compiler.kernels.reduction import ColumnSum
from bucketmod.compiler.kernels.softmax import Softmax, SoftmaxOutputGrad
from bucketmod.compiler.kernels.softmax_head.softmax_head import SoftmaxProjection


def floats(*shape):
    return np.random.RandomState(1).randn(*shape).astype(np.float32)


def on_floats(kernel):
    return kernel, [floats(*shape) / 10 for shape, _ in kernel.inputs]


CASES = {
    "column_sum": (ColumnSum(1009, 307), [floats(1009, 307)]),
    "embedding_grad": (EmbeddingGrad(101, 307, 900), [np.abs(floats(900)) * 40, floats(900, 307)]),
    "layer_norm_grad": (
        LayerNormGrad(509, 131),
        [floats(509, 131), floats(509, 131), floats(131), floats(509), np.abs(floats(509))],
    ),
    "softmax": (Softmax(300, 1009), [floats(300, 1009)]),
    "vocabulary_head": on_floats(SoftmaxProjection(101, 40, 1009)),
    "loss_head": (
        SoftmaxOutputGrad(300, 1009, normalization="valid", ignore_label=0.0),
        [floats(300, 1009), np.abs(floats(300)) * 3],
    ),
    "lstm_forward_by_tiles": on_floats(ForwardLoop(LSTM, 5, 13, 307, False, True)),
    "gru_backward_by_tiles": on_floats(BackwardLoop(GRU, 5, 13, 307, True, (True, True, False), True)),
    "gru_forward_by_rows": on_floats(ForwardLoop(GRU, 5, 29, 83, True, True)),
    "lstm_backward_by_rows": on_floats(BackwardLoop(LSTM, 5, 29, 83, False, (True, True, True), True)),
    "gru_forward_in_tile_registers": on_floats(ForwardLoop(GRU, 5, 23, 107, True, True)),
    "lstm_backward_in_tile_registers": on_floats(BackwardLoop(LSTM, 5, 23, 107, False, (True, True, True), True)),
    "dropout": (Dropout(100_003, 0.4), [floats(100_003), np.array([3, 4])]),
}


@pytest.mark.parametrize("name", CASES)
def test_bits_are_the_same_on_one_thread_and_on_three(cpu_target, name):
    kernel, inputs = CASES[name]
    assert "T.parallel" in final_form(kernel, cpu_target).script()
    results = [on_threads(count, lambda: run_kernel(kernel, cpu_target, "final", *inputs)) for count in (1, 3)]
    for one, several in zip(*results, strict=True):
        np.testing.assert_array_equal(one, several)
