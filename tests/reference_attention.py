"""Attention of the domain ``bucketmod`` with numpy, by the meaning of its attributes; used by ``reference_ops``."""

from __future__ import annotations

import numpy as np


def _rows(options, label, tensor):
    """An operand as [batch, heads, rows, values], a view of the tensor."""
    begin, end = options[f"{label}_columns"]
    rows = tensor[..., begin:end]
    shape = options[f"{label}_shape"]
    # Splitting the last axis of a cut copies unless it is done on each row.
    rows = rows if rows.ndim == 4 else np.lib.stride_tricks.as_strided(
        rows, shape, (*rows.strides[:2], rows.strides[2] * shape[3], rows.strides[2]))  # fmt: skip
    return rows.transpose(options[f"{label}_perm"])


def _scores(options, q, k, mask):
    scores = q @ k.swapaxes(2, 3) * options["scale"]
    replaced = np.zeros(scores.shape, bool)
    if mask is not None and "fill" in options:
        replaced = np.broadcast_to(mask != 0, scores.shape)
        scores = np.where(replaced, options["fill"], scores)
    elif mask is not None:
        scores = scores + mask
    return scores.astype(q.dtype), replaced


def attention(options, q, k, v, mask=None):
    q, k, v = (_rows(options, label, x) for label, x in zip("qkv", (q, k, v), strict=True))
    scores, _ = _scores(options, q, k, mask)
    top = scores.max(axis=-1, keepdims=True)
    power = np.exp(scores - top)
    total = power.sum(axis=-1, keepdims=True)
    out = (power / total @ v).transpose(options["out_perm"]).reshape(options["out_shape"])
    return out, ((top + np.log(total)) / np.log(2))[..., 0]


def attention_grad(options, dout, q, k, v, out, statistics, mask=None):
    tensors = (q, k, v)
    order = options["out_perm"]
    q, k, v = (_rows(options, label, x) for label, x in zip("qkv", tensors, strict=True))
    rows = [(*q.shape[:3], v.shape[3])[i] for i in order]
    dout, out = (x.reshape(rows).transpose(np.argsort(order)) for x in (dout, out))
    scores, replaced = _scores(options, q, k, mask)
    power = np.exp(scores - statistics[..., None] * np.log(2))
    slope = power * (dout @ v.swapaxes(2, 3) - (dout * out).sum(axis=-1, keepdims=True)) * options["scale"]
    slope = np.where(replaced, 0, slope)
    gradients = (slope @ k, slope.swapaxes(2, 3) @ q, power.swapaxes(2, 3) @ dout)
    made = [np.zeros_like(tensors[0])] * 3 if options["joint"] else [np.zeros_like(x) for x in tensors]
    for label, gradient, place in zip("qkv", gradients, made, strict=True):
        _rows(options, label, place)[...] = gradient
    return tuple(made[:1] if options["joint"] else made)
