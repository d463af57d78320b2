"""Matrix products and the layers' forward functions on arrays, for metrics, initialisers and scripts."""

from __future__ import annotations

from typing import Any

import numpy as np

from bucketmod.base import MXNetError
from bucketmod.ndarray.operation import operation


@operation(fluent=True)
def dot(lhs: np.ndarray, rhs: np.ndarray, transpose_a: bool = False, transpose_b: bool = False, **_: Any) -> np.ndarray:
    """The last axis of ``lhs`` against the first of ``rhs``; transposed, the first axis of ``lhs`` or the last of
    ``rhs``."""
    left = np.moveaxis(lhs, 0, -1) if transpose_a else lhs
    return np.tensordot(left, np.moveaxis(rhs, -1, 0) if transpose_b else rhs, axes=1)


@operation()
def batch_dot(
    lhs: np.ndarray, rhs: np.ndarray, transpose_a: bool = False, transpose_b: bool = False, **_: Any
) -> np.ndarray:
    """Matrix products over a leading batch axis."""
    left = np.swapaxes(lhs, -1, -2) if transpose_a else lhs
    right = np.swapaxes(rhs, -1, -2) if transpose_b else rhs
    return np.matmul(left, right)


@operation(name="FullyConnected")
def fully_connected(
    data: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None = None,
    num_hidden: int = 0,
    no_bias: bool = False,
    flatten: bool = True,
) -> np.ndarray:
    """data . weight^T + bias."""
    result = np.matmul(data.reshape((data.shape[0], -1)) if flatten else data, weight.T)
    return result if no_bias or bias is None else result + bias


@operation(name="Activation")
def activation(data: np.ndarray, act_type: str) -> np.ndarray:
    """relu, sigmoid, tanh, softrelu (log(1+exp x)) or softsign."""
    if act_type == "relu":
        return np.maximum(data, 0)
    if act_type == "sigmoid":
        return 1 / (1 + np.exp(-data))
    if act_type == "tanh":
        return np.tanh(data)
    if act_type == "softrelu":
        return np.logaddexp(data, np.zeros((), data.dtype))
    if act_type == "softsign":
        return data / (1 + np.abs(data))
    raise MXNetError(f"Activation: act_type {act_type!r} is none of relu, sigmoid, tanh, softrelu, softsign")


def _log_softmax(data: np.ndarray, axis: int) -> np.ndarray:
    shifted = data - data.max(axis=axis, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True))


@operation(fluent=True)
def softmax(data: np.ndarray, axis: int = -1, temperature: float | None = None, **_: Any) -> np.ndarray:
    """exp(x / temperature), normalised to a sum of 1 along ``axis``."""
    scaled = data if temperature is None else data / data.dtype.type(temperature)
    raised = np.exp(scaled - scaled.max(axis=axis, keepdims=True))
    return raised / raised.sum(axis=axis, keepdims=True)


@operation(fluent=True)
def log_softmax(data: np.ndarray, axis: int = -1, temperature: float | None = None, **_: Any) -> np.ndarray:
    """The logarithm of ``softmax``."""
    return _log_softmax(data if temperature is None else data / data.dtype.type(temperature), axis)


@operation(name="SoftmaxOutput")
def softmax_output(
    data: np.ndarray, label: np.ndarray, multi_output: bool = False, preserve_shape: bool = False, **_: Any
) -> np.ndarray:
    """softmax over axis 1 (``multi_output``), the last axis (``preserve_shape``), or all of a sample."""
    if multi_output or preserve_shape:
        return np.exp(_log_softmax(data, 1 if multi_output else -1))
    return np.exp(_log_softmax(data.reshape(len(data), -1), 1)).reshape(data.shape)


@operation(name="L2Normalization")
def l2_normalization(data: np.ndarray, eps: float = 1e-10, mode: str = "instance") -> np.ndarray:
    """Divided by the root of the sum of squares over all but the batch (instance), axis 1 (channel) or the rest."""
    axes = {"instance": tuple(range(1, data.ndim)), "channel": (1,), "spatial": tuple(range(2, data.ndim))}
    if mode not in axes:
        raise MXNetError(f"L2Normalization: mode {mode!r} is none of {', '.join(axes)}")
    return data / np.sqrt(np.square(data).sum(axis=axes[mode], keepdims=True) + data.dtype.type(eps))
