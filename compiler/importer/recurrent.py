"""Converters of recurrences: their kernels compose themselves (projection, time loop, weight products)."""

from __future__ import annotations

from typing import Any

from bucketmod.compiler.importer.context import ImportContext, Node, bucketmod
from bucketmod.compiler.kernels.recurrence import layers


@bucketmod("LSTM", "LSTMTraining")
def lstm(context: ImportContext, node: Node, inputs: list[Any]) -> list[Any]:
    training = node.op_type == "LSTMTraining"
    return layers.emit_lstm(context, *inputs, training=training, reverse=_reverse(node))


@bucketmod("LSTMGrad")
def lstm_grad(context: ImportContext, node: Node, inputs: list[Any]) -> list[Any]:
    return layers.emit_lstm_grad(context, *_padded(inputs, 13), reverse=_reverse(node), wanted=_wanted(node, 7))


@bucketmod("GRU", "GRUTraining")
def gru(context: ImportContext, node: Node, inputs: list[Any]) -> list[Any]:
    training = node.op_type == "GRUTraining"
    return layers.emit_gru(context, *inputs, training=training, reverse=_reverse(node))


@bucketmod("GRUGrad")
def gru_grad(context: ImportContext, node: Node, inputs: list[Any]) -> list[Any]:
    return layers.emit_gru_grad(context, *_padded(inputs, 10), reverse=_reverse(node), wanted=_wanted(node, 6))


@bucketmod("RNN", "RNNTraining")
def rnn(context: ImportContext, node: Node, inputs: list[Any]) -> list[Any]:
    activation = node.attribute("activation", "tanh")
    training = node.op_type == "RNNTraining"
    return layers.emit_rnn(context, *inputs, activation=activation, training=training, reverse=_reverse(node))


@bucketmod("RNNGrad")
def rnn_grad(context: ImportContext, node: Node, inputs: list[Any]) -> list[Any]:
    activation = node.attribute("activation", "tanh")
    args = _padded(inputs, 9)
    return layers.emit_rnn_grad(context, *args, activation=activation, reverse=_reverse(node),
                                   wanted=_wanted(node, 6))  # fmt: skip


def _reverse(node: Node) -> bool:
    return bool(node.attribute("reverse", 0))


def _wanted(node: Node, count: int) -> list[bool]:
    return [node.wants(i) for i in range(count)]


def _padded(inputs: list[Any], count: int) -> list[Any]:
    """Trailing optional inputs that were left out."""
    return [*inputs, *[None] * (count - len(inputs))]
