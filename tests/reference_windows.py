"""Convolutions, pooling and their gradients in numpy, named as their operators; one or two spatial axes.

Each is a sum over the values of a window; ``_spots`` says which part of the padded image meets value number k.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

# ruff: noqa: N802 (names of operators)


class _Windows:
    def __init__(self, options: dict[str, Any], image: tuple[int, ...], kernel: tuple[int, ...]):
        rank = len(image)
        self.kernel, self.image = tuple(kernel), image
        self.stride = options.get("strides") or [1] * rank
        self.dilation = options.get("dilations") or [1] * rank
        pads = options.get("pads") or [0] * 2 * rank
        self.pads = list(zip(pads[:rank], pads[rank:], strict=True))
        self.padded = tuple(n + b + e for n, (b, e) in zip(image, self.pads, strict=True))
        spread = [(k - 1) * d + 1 for k, d in zip(kernel, self.dilation, strict=True)]
        self.places = tuple((n - r) // s + 1 for n, r, s in zip(self.padded, spread, self.stride, strict=True))

    def spots(self) -> Iterator[tuple[tuple[int, ...], tuple[Any, ...]]]:
        """(index in the window, index into a padded image [N, C, ...]) for each value of a window, row by row."""
        for index in itertools.product(*map(range, self.kernel)):
            parts = []
            for i, d, s, n in zip(index, self.dilation, self.stride, self.places, strict=True):
                parts.append(slice(i * d, i * d + (n - 1) * s + 1, s))
            yield index, (slice(None), slice(None), *parts)

    def pad(self, x: np.ndarray, value: float = 0.0) -> np.ndarray:
        return np.pad(x, [(0, 0), (0, 0), *self.pads], constant_values=value)

    def crop(self, x: np.ndarray) -> np.ndarray:
        inner = [slice(b, b + n) for n, (b, _) in zip(self.image, self.pads, strict=True)]
        return x[(slice(None), slice(None), *inner)]


def _groups(options: dict[str, Any], *arrays: tuple[np.ndarray, int]) -> Iterator[list[np.ndarray]]:
    group = options.get("group", 1)
    yield from map(list, zip(*(np.split(array, group, axis) for array, axis in arrays), strict=True))


def _column(bias: np.ndarray, like: np.ndarray) -> np.ndarray:
    return bias.reshape(-1, *[1] * (like.ndim - 2))


def Conv(options, x, weight, bias=None):
    windows = _Windows(options, x.shape[2:], weight.shape[2:])
    parts = []
    for data, filters in _groups(options, (windows.pad(x), 1), (weight, 0)):
        parts.append(
            sum(
                np.einsum("nc...,fc->nf...", data[at], filters[(slice(None), slice(None), *k)])
                for k, at in windows.spots()
            )
        )
    made = np.concatenate(parts, axis=1)
    return made if bias is None else made + _column(bias, made)


def ConvTranspose(options, x, weight, bias=None):
    rank = x.ndim - 2
    more = options.get("output_padding") or [0] * rank
    plain = _Windows({**options, "pads": None}, x.shape[2:], weight.shape[2:])
    full = tuple(
        (n - 1) * s + (k - 1) * d + 1 + m
        for n, s, k, d, m in zip(x.shape[2:], plain.stride, plain.kernel, plain.dilation, more, strict=True)
    )
    pads = options.get("pads") or [0] * 2 * rank
    image = tuple(n - b - e for n, b, e in zip(full, pads[:rank], pads[rank:], strict=True))
    windows = _Windows(options, image, weight.shape[2:])
    parts = []
    for data, filters in _groups(options, (x, 1), (weight, 0)):
        made = np.zeros((len(x), filters.shape[1], *full), x.dtype)
        for k, at in windows.spots():
            made[at] += np.einsum("nc...,cf->nf...", data, filters[(slice(None), slice(None), *k)])
        parts.append(windows.crop(made))
    result = np.concatenate(parts, axis=1)
    return result if bias is None else result + _column(bias, result)


def ConvWeightGrad(options, x, dy, shape):
    windows = _Windows(options, x.shape[2:], tuple(shape[2:]))
    parts = []
    for data, gradient in _groups(options, (windows.pad(x), 1), (dy, 1)):
        made = np.zeros((gradient.shape[1], *shape[1:]), x.dtype)
        for k, at in windows.spots():
            flat = [part.reshape(*part.shape[:2], -1) for part in (gradient, data[at])]
            made[(slice(None), slice(None), *k)] = np.einsum("nfp,ncp->fc", *flat)
        parts.append(made)
    return np.concatenate(parts)


def MaxPool(options, x):
    windows = _Windows(options, x.shape[2:], tuple(options["kernel_shape"]))
    padded = windows.pad(x, np.finfo(x.dtype).min)
    return np.max([padded[at] for _, at in windows.spots()], axis=0)


def MaxPoolGrad(options, dy, x, y):
    windows = _Windows(options, x.shape[2:], tuple(options["kernel_shape"]))
    padded = windows.pad(x, np.finfo(x.dtype).min)
    made, free = np.zeros_like(padded), np.ones(y.shape, bool)
    for _, at in windows.spots():
        hit = free & (padded[at] == y)
        made[at] += dy * hit
        free &= ~hit
    return windows.crop(made)


def _shares(options, windows, dtype):
    if options.get("count_include_pad"):
        return np.full(windows.places, 1 / np.prod(windows.kernel), dtype)
    inside = windows.pad(np.ones((1, 1, *windows.image), dtype))
    return 1 / sum(inside[at] for _, at in windows.spots())


def AveragePool(options, x):
    windows = _Windows(options, x.shape[2:], tuple(options["kernel_shape"]))
    padded = windows.pad(x)
    return (sum(padded[at] for _, at in windows.spots()) * _shares(options, windows, x.dtype)).astype(x.dtype)


def AveragePoolGrad(options, dy, shape):
    windows = _Windows(options, tuple(shape[2:]), tuple(options["kernel_shape"]))
    made = np.zeros((*shape[:2], *windows.padded), dy.dtype)
    for _, at in windows.spots():
        made[at] += dy * _shares(options, windows, dy.dtype)
    return windows.crop(made)
