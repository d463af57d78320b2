"""The workloads of the benchmarks as a user would write them: Module API, one batch shape a bucket.

W1 and W2 are word language models (two LSTM layers), W3 is a transformer encoder that classifies sequences.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import bucketmod as mx

BATCHES = 4  # distinct batches of each bucket, used in turn

_LSTM_BUCKETS = (10, 20, 30, 40, 50, 60)
WORKLOADS: dict[str, dict[str, Any]] = {
    "W1": dict(kind="lstm", vocabulary=10000, hidden=200, layers=2, batch=32, buckets=_LSTM_BUCKETS, rate=0.01),
    "W2": dict(kind="lstm", vocabulary=10000, hidden=650, layers=2, batch=20, buckets=_LSTM_BUCKETS, rate=0.01),
    "W3": dict(kind="transformer", vocabulary=10000, hidden=256, heads=4, inner=1024, layers=4, batch=16, longest=128,
               classes=10, buckets=(16, 32, 64, 128), rate=0.001),
}  # fmt: skip


def flops(workload: dict[str, Any], length: int, train: bool) -> int:
    """Floating-point operations of the matrix products of one step (2 a multiply-add); backward counts twice."""
    hidden, layers, batch = workload["hidden"], workload["layers"], workload["batch"]
    if workload["kind"] == "lstm":
        total = batch * length * (layers * 16 * hidden * hidden + 2 * hidden * workload["vocabulary"])
    else:
        token = layers * (8 * hidden * hidden + 4 * hidden * workload["inner"] + 4 * length * hidden)
        total = batch * (length * token + 2 * hidden * workload["classes"])
    return total * (3 if train else 1)


def language_model(workload: dict[str, Any], fused: bool) -> Any:
    """``sym_gen`` of W1 and W2: unrolled LSTM cells, or one operator for all layers and steps."""
    hidden, layers = workload["hidden"], workload["layers"]
    if fused:
        cell = mx.rnn.FusedRNNCell(hidden, num_layers=layers, mode="lstm")
    else:
        cell = mx.rnn.SequentialRNNCell()
        for layer in range(layers):
            cell.add(mx.rnn.LSTMCell(hidden, prefix=f"lstm_l{layer}_"))

    def sym_gen(length: int) -> Any:
        data, label = mx.sym.Variable("data"), mx.sym.Variable("softmax_label")
        embed = mx.sym.Embedding(data, input_dim=workload["vocabulary"], output_dim=hidden, name="embed")
        cell.reset()
        outputs, _ = cell.unroll(length, inputs=embed, merge_outputs=True, layout="TNC" if fused else "NTC")
        scores = mx.sym.FullyConnected(mx.sym.Reshape(outputs, shape=(-1, hidden)),
                                       num_hidden=workload["vocabulary"], name="pred")  # fmt: skip
        softmax = mx.sym.SoftmaxOutput(scores, mx.sym.Reshape(label, shape=(-1,)), name="softmax")
        return softmax, ("data",), ("softmax_label",)

    return sym_gen


def _attention(x: Any, hidden: int, heads: int, prefix: str) -> Any:
    """Self-attention of all heads; ``x`` is [batch, length, hidden]."""
    s = mx.sym
    projected = s.FullyConnected(x, num_hidden=3 * hidden, flatten=False, name=f"{prefix}qkv")
    query, key, value = (
        # [batch, length, hidden] -> [batch * heads, length, hidden / heads]
        s.reshape(s.transpose(s.reshape(part, shape=(0, 0, -4, heads, -1)), axes=(0, 2, 1, 3)), shape=(-3, 0, 0))
        for part in s.split(projected, num_outputs=3, axis=2)
    )
    scores = s.batch_dot(query, key, transpose_b=True) * (hidden // heads) ** -0.5
    mixed = s.reshape(s.batch_dot(s.softmax(scores, axis=-1), value), shape=(-4, -1, heads, 0, 0))
    mixed = s.reshape(s.transpose(mixed, axes=(0, 2, 1, 3)), shape=(0, 0, -3))
    return s.FullyConnected(mixed, num_hidden=hidden, flatten=False, name=f"{prefix}out")


def transformer(workload: dict[str, Any]) -> Any:
    """``sym_gen`` of W3: post-norm encoder layers, mean over time, one softmax over the classes."""
    hidden, heads, inner = workload["hidden"], workload["heads"], workload["inner"]
    s = mx.sym

    def sym_gen(length: int) -> Any:
        data, label = s.Variable("data"), s.Variable("softmax_label")
        x = s.Embedding(data, input_dim=workload["vocabulary"], output_dim=hidden, name="embed")
        position = s.Variable("pos_weight", shape=(1, workload["longest"], hidden))
        x = s.broadcast_add(x, s.slice_axis(position, axis=1, begin=0, end=length))
        for layer in range(workload["layers"]):
            prefix = f"l{layer}_"
            x = s.LayerNorm(x + _attention(x, hidden, heads, prefix), axis=-1, eps=1e-5, name=f"{prefix}ln1")
            wide = s.FullyConnected(x, num_hidden=inner, flatten=False, name=f"{prefix}ff1")
            narrow = s.FullyConnected(s.Activation(wide, act_type="relu"), num_hidden=hidden, flatten=False,
                                      name=f"{prefix}ff2")  # fmt: skip
            x = s.LayerNorm(x + narrow, axis=-1, eps=1e-5, name=f"{prefix}ln2")
        scores = s.FullyConnected(s.mean(x, axis=1), num_hidden=workload["classes"], name="cls")
        return s.SoftmaxOutput(scores, label, name="softmax"), ("data",), ("softmax_label",)

    return sym_gen


class Described:
    """A workload's graphs and its batches of random words, without anything bound."""

    def __init__(self, workload: dict[str, Any], fused: bool = False):
        self.workload, self.fused = workload, fused
        self.sym_gen = language_model(workload, fused) if workload["kind"] == "lstm" else transformer(workload)
        self.data = {length: self._batches(length) for length in workload["buckets"]}

    def _batches(self, length: int) -> list[Any]:
        random = np.random.RandomState(1000 + length)
        made = []
        for _ in range(BATCHES):
            words = random.randint(1, self.workload["vocabulary"], (self.workload["batch"], length + 1))
            data, label = words[:, :-1], words[:, 1:]
            if self.workload["kind"] == "transformer":
                label = random.randint(0, self.workload["classes"], self.workload["batch"])
            elif self.fused:
                data, label = data.T, label.T
            made.append(mx.io.DataBatch(
                [mx.nd.array(data)], [mx.nd.array(label)], bucket_key=length,
                provide_data=[mx.io.DataDesc("data", data.shape)],
                provide_label=[mx.io.DataDesc("softmax_label", label.shape)],
            ))  # fmt: skip
        return made


class Model(Described):
    """A workload bound and ready: ``train(bucket, i)`` and ``infer(bucket, i)`` run one step on batch ``i``, which is
    split over ``contexts`` contexts."""

    def __init__(self, workload: dict[str, Any], fused: bool = False, contexts: int = 1):
        super().__init__(workload, fused)
        lstm = workload["kind"] == "lstm"
        largest = self.data[max(workload["buckets"])][0]
        self.module = mx.mod.BucketingModule(
            self.sym_gen, default_bucket_key=max(workload["buckets"]), context=[mx.cpu(i) for i in range(contexts)]
        )
        self.module.bind(data_shapes=largest.provide_data, label_shapes=largest.provide_label)
        self.module.init_params(mx.init.Xavier(factor_type="in", magnitude=2.34))
        self.module.init_optimizer(
            optimizer="sgd" if lstm else "adam", optimizer_params={"learning_rate": workload["rate"]}
        )

    def train(self, length: int, index: int) -> None:
        self.module.forward_backward(self.data[length][index % BATCHES])
        self.module.update()

    def infer(self, length: int, index: int) -> None:
        self.module.forward(self.data[length][index % BATCHES], is_train=False)
        self.module.get_outputs()[0].wait_to_read()
