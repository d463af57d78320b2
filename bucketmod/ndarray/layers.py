"""Layers and heads as functions on arrays: what an operator of a graph computes in inference."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from bucketmod.base import MXNetError
from bucketmod.ndarray.linear import _log_softmax
from bucketmod.ndarray.operation import operation

_erf = np.vectorize(math.erf, otypes=[np.float64])


@operation(name="LeakyReLU")
def leaky_relu(
    data: np.ndarray, gamma: np.ndarray | None = None, act_type: str = "leaky", slope: float = 0.25, **_: Any
) -> np.ndarray:
    """leaky, elu, prelu (slopes in ``gamma``, one a channel), selu or gelu."""
    if act_type == "gelu":
        return (0.5 * data * (1 + _erf(data / math.sqrt(2)))).astype(data.dtype)
    scale, below = 1.0, data * slope
    if act_type == "prelu" and gamma is not None:
        wide = gamma if gamma.size == 1 else gamma.reshape((-1,) + (1,) * (data.ndim - 2))
        below = data * wide
    elif act_type in ("elu", "selu"):
        scale, slope = (1.0507009873554805, 1.6732632423543772) if act_type == "selu" else (1.0, slope)
        below = scale * slope * np.expm1(np.minimum(data, 0))
    elif act_type != "leaky":
        raise MXNetError(f"LeakyReLU: act_type {act_type!r} is not available here")
    return np.where(data > 0, data * scale, below).astype(data.dtype)


@operation()
def softmin(data: np.ndarray, axis: int = -1, temperature: float | None = None, **_: Any) -> np.ndarray:
    """softmax of -data."""
    return np.exp(_log_softmax(-data / data.dtype.type(temperature or 1), axis))


@operation(name="SoftmaxActivation")
def softmax_activation(data: np.ndarray, mode: str = "instance") -> np.ndarray:
    """softmax over the last axis (instance) or axis 1 (channel)."""
    return np.exp(_log_softmax(data, 1 if mode == "channel" else -1))


@operation()
def hard_sigmoid(data: np.ndarray, alpha: float = 0.2, beta: float = 0.5) -> np.ndarray:
    """alpha * data + beta, limited to [0, 1]."""
    return np.clip(alpha * data + beta, 0, 1).astype(data.dtype)


@operation()
def softmax_cross_entropy(data: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Sum over the rows of -log softmax(data)[label]."""
    rows = np.arange(len(data))
    return -_log_softmax(data, 1)[rows, label.astype(np.int64)].sum(keepdims=True)


@operation("MAERegressionOutput", "SVMOutput", name="LinearRegressionOutput")
def linear_regression_output(data: np.ndarray, label: np.ndarray, **_: Any) -> np.ndarray:
    """The data: a head differs in its gradient only."""
    return data


@operation(name="LogisticRegressionOutput")
def logistic_regression_output(data: np.ndarray, label: np.ndarray, **_: Any) -> np.ndarray:
    """1 / (1 + exp(-data))."""
    return 1 / (1 + np.exp(-data))


# ---- sequences


def _lengths(data: np.ndarray, lengths: np.ndarray | None, use: bool, axis: int) -> np.ndarray:
    if not use or lengths is None:
        return np.full(data.shape[1 - axis], data.shape[axis])
    return lengths.astype(np.int64)


@operation(name="SequenceLast")
def sequence_last(
    data: np.ndarray, sequence_length: np.ndarray | None = None, use_sequence_length: bool = False, axis: int = 0
) -> np.ndarray:
    """The last step of each sequence; ``axis`` is time (0 or 1), the other one the batch."""
    last = _lengths(data, sequence_length, use_sequence_length, axis) - 1
    return np.moveaxis(data, axis, 0)[last, np.arange(len(last))]


@operation(name="SequenceReverse")
def sequence_reverse(
    data: np.ndarray, sequence_length: np.ndarray | None = None, use_sequence_length: bool = False, axis: int = 0
) -> np.ndarray:
    """The first steps of each sequence turned round, as many as its length; time is axis 0."""
    if axis != 0:
        raise MXNetError(f"SequenceReverse: axis={axis}; time must be axis 0")
    lengths, steps = _lengths(data, sequence_length, use_sequence_length, 0), np.arange(len(data))[:, None]
    source = np.where(steps < lengths, lengths - 1 - steps, steps)
    return data[source, np.arange(len(lengths))]


# ---- normalisation


def _normal(data: np.ndarray, axes: tuple[int, ...], eps: float) -> np.ndarray:
    mean = data.mean(axis=axes, keepdims=True)
    return (data - mean) / np.sqrt(data.var(axis=axes, keepdims=True) + eps)


def _along(vector: np.ndarray, axis: int, ndim: int) -> np.ndarray:
    return vector.reshape([-1 if i == axis % ndim else 1 for i in range(ndim)])


@operation(name="LayerNorm")
def layer_norm(
    data: np.ndarray, gamma: np.ndarray, beta: np.ndarray, axis: int = -1, eps: float = 1e-5, **_: Any
) -> np.ndarray:
    """(data - mean) / sqrt(variance + eps) * gamma + beta over ``axis``."""
    wide = (_along(vector, axis, data.ndim) for vector in (gamma, beta))
    return (_normal(data, (axis,), eps) * next(wide) + next(wide)).astype(data.dtype)


@operation(name="InstanceNorm")
def instance_norm(data: np.ndarray, gamma: np.ndarray, beta: np.ndarray, eps: float = 1e-3) -> np.ndarray:
    """The same over all places of each channel of each sample."""
    made = _normal(data, tuple(range(2, data.ndim)), eps)
    return (made * _along(gamma, 1, data.ndim) + _along(beta, 1, data.ndim)).astype(data.dtype)


@operation(name="GroupNorm")
def group_norm(
    data: np.ndarray, gamma: np.ndarray, beta: np.ndarray, num_groups: int = 1, eps: float = 1e-5, **_: Any
) -> np.ndarray:
    """The same over ``num_groups`` groups of channels of each sample; gamma and beta have a value for each."""
    made = _normal(data.reshape(len(data), num_groups, -1), (2,), eps)
    return (made * gamma[:, None] + beta[:, None]).reshape(data.shape).astype(data.dtype)


@operation(name="BatchNorm")
def batch_norm(
    data: np.ndarray,
    gamma: np.ndarray,
    beta: np.ndarray,
    moving_mean: np.ndarray,
    moving_var: np.ndarray,
    eps: float = 1e-3,
    fix_gamma: bool = True,
    axis: int = 1,
    **_: Any,
) -> np.ndarray:
    """(data - moving_mean) / sqrt(moving_var + eps) * gamma + beta for each channel; ``fix_gamma``: gamma is 1."""
    factor = (1 if fix_gamma else gamma) / np.sqrt(moving_var + eps)
    mean, factor, beta = (_along(vector, axis, data.ndim) for vector in (moving_mean, factor, beta))
    return ((data - mean) * factor + beta).astype(data.dtype)


@operation(name="Dropout")
def dropout(data: np.ndarray, p: float = 0.5, **_: Any) -> np.ndarray:
    """The data: nothing is dropped outside of training."""
    return data


# ---- images


class _Windows:
    """Windows that slide over the axes behind the first two."""

    def __init__(self, kernel: Sequence[int], stride: Sequence[int], dilate: Sequence[int], pad: Sequence[int]):
        ones = (1,) * len(kernel)
        self.kernel, self.stride, self.dilate = kernel, stride or ones, dilate or ones
        self.pad = pad or (0,) * len(kernel)

    def padded(self, data: np.ndarray, value: float = 0.0, end: Sequence[int] = ()) -> np.ndarray:
        ends = end or self.pad
        widths = [(0, 0), (0, 0), *zip(self.pad, ends, strict=True)]
        return np.pad(data, widths, constant_values=value)

    def parts(self, padded: np.ndarray, places: Sequence[int]) -> Iterator[tuple[tuple[int, ...], np.ndarray]]:
        """(index in the window, the values that all windows have there)."""
        for index in itertools.product(*map(range, self.kernel)):
            columns = zip(index, self.dilate, self.stride, places, strict=True)
            spots = [slice(i * d, i * d + (n - 1) * s + 1, s) for i, d, s, n in columns]
            at = (slice(None), slice(None), *spots)
            yield index, padded[at]


@operation(name="Convolution")
def convolution(
    data: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None = None,
    kernel: Sequence[int] = (),
    stride: Sequence[int] = (),
    dilate: Sequence[int] = (),
    pad: Sequence[int] = (),
    num_group: int = 1,
    **_: Any,
) -> np.ndarray:
    """Filters ``weight`` sliding over data (N, C, ...)."""
    windows = _Windows(kernel, stride, dilate, pad)
    image = windows.padded(data)
    columns = zip(image.shape[2:], kernel, windows.stride, windows.dilate, strict=True)
    places = [(n - (k - 1) * d - 1) // s + 1 for n, k, s, d in columns]
    groups = []
    for part, filters in zip(np.split(image, num_group, 1), np.split(weight, num_group), strict=True):
        made = np.zeros((len(data), len(filters), *places), np.float64)
        for index, values in windows.parts(part, places):
            at: Any = (slice(None), slice(None), *index)
            made += np.einsum("nc...,fc->nf...", values, filters[at])
        groups.append(made)
    result = np.concatenate(groups, axis=1)
    return (result if bias is None else result + _along(bias, 1, data.ndim)).astype(data.dtype)


@operation(name="Pooling")
def pooling(
    data: np.ndarray,
    kernel: Sequence[int] = (),
    pool_type: str = "max",
    global_pool: bool = False,
    pooling_convention: str = "valid",
    stride: Sequence[int] = (),
    pad: Sequence[int] = (),
    count_include_pad: bool | None = None,
    **_: Any,
) -> np.ndarray:
    """Maximum, mean or sum of each window of data (N, C, ...)."""
    if pool_type not in ("max", "avg", "sum") or pooling_convention not in ("valid", "full"):
        raise MXNetError(f"Pooling: pool_type={pool_type}, pooling_convention={pooling_convention} is not available")
    sizes = data.shape[2:]
    windows = _Windows(sizes, (), (), ()) if global_pool else _Windows(kernel, stride, (), pad)
    round_ = math.ceil if pooling_convention == "full" and not global_pool else math.floor
    columns = list(zip(sizes, windows.kernel, windows.stride, windows.pad, strict=True))
    places = [round_((n + 2 * p - k) / s) + 1 for n, k, s, p in columns]
    ends = [max(p, (o - 1) * s + k - n - p) for o, (n, k, s, p) in zip(places, columns, strict=True)]

    def values(array: np.ndarray, value: float) -> list[np.ndarray]:
        return [part for _, part in windows.parts(windows.padded(array, value, ends), places)]

    if pool_type == "max":
        return np.max(values(data, -np.inf), axis=0).astype(data.dtype)
    total = np.sum(values(data, 0), axis=0)
    if pool_type == "avg":  # the padding counts, what a last window has beyond it does not
        inside = np.ones((1, 1, *sizes))
        if count_include_pad in (None, True):
            inside = windows.padded(inside, 1)
            widths = [(0, 0), (0, 0), *((0, e - p) for e, p in zip(ends, windows.pad, strict=True))]
            counted = [part for _, part in windows.parts(np.pad(inside, widths), places)]
        else:
            counted = values(inside, 0)
        total = total / np.sum(counted, axis=0)
    return total.astype(data.dtype)


@operation(name="UpSampling")
def up_sampling(data: np.ndarray, scale: int = 1, sample_type: str = "nearest", **_: Any) -> np.ndarray:
    """Every pixel of data (N, C, H, W) repeated ``scale`` times down and across."""
    if sample_type != "nearest":
        raise MXNetError(f"UpSampling: sample_type {sample_type!r} is not available; nearest is")
    return data.repeat(scale, axis=2).repeat(scale, axis=3)


@operation(fluent=True)
def depth_to_space(data: np.ndarray, block_size: int) -> np.ndarray:
    """(N, b * b * C, H, W) as (N, C, b * H, b * W)."""
    batch, channels, height, width = data.shape
    split = data.reshape(batch, block_size, block_size, channels // block_size**2, height, width)
    return split.transpose(0, 3, 4, 1, 5, 2).reshape(batch, -1, height * block_size, width * block_size)


@operation(fluent=True)
def space_to_depth(data: np.ndarray, block_size: int) -> np.ndarray:
    """(N, C, b * H, b * W) as (N, b * b * C, H, W)."""
    batch, channels, height, width = data.shape
    split = data.reshape(batch, channels, height // block_size, block_size, width // block_size, block_size)
    return split.transpose(0, 3, 5, 1, 2, 4).reshape(batch, -1, height // block_size, width // block_size)
