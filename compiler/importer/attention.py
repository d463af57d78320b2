"""Converters of attention: what a node says of its operands becomes places of rows for the kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax

from bucketmod.compiler.importer.context import ImportContext, Node, bucketmod
from bucketmod.compiler.kernels.attention.attention import Attention
from bucketmod.compiler.kernels.attention.gradient import AttentionGrad
from bucketmod.compiler.kernels.attention.heads import Heads, Mask, Place
from bucketmod.compiler.kernels.emit import emit_kernel

op = relax.op
_KINDS = ("Attention", "BiasedAttention", "MaskedAttention")


@bucketmod(*_KINDS, *(f"{kind}Training" for kind in _KINDS))
def attention(context: ImportContext, node: Node, inputs: list[Any]) -> list[Any]:
    heads = _heads(context, node, inputs[:3], inputs[3:])
    kernel = Attention(heads, node.op_type.endswith("Training"))
    results = emit_kernel(context, kernel, [*inputs[:3], *_mask(context, node, 3, inputs[3:])])
    return [context.reshape(results[0], node.attribute("out_shape")), *results[1:]]


@bucketmod(*(f"{kind}Grad" for kind in _KINDS))
def attention_grad(context: ImportContext, node: Node, inputs: list[Any]) -> list[Any]:
    heads = _heads(context, node, inputs[1:4], inputs[6:])
    kernel = AttentionGrad(heads, bool(node.attribute("joint")))
    results = emit_kernel(context, kernel, [*inputs[:6], *_mask(context, node, 6, inputs[6:])])
    return [context.reshape(result, context.shape(x)) for result, x in zip(results, inputs[1:4], strict=False)]


def _heads(context: ImportContext, node: Node, operands: list[Any], mask: list[Any]) -> Heads:
    places, sizes = [], []
    for label, operand in zip("qkv", operands, strict=True):
        shape, order = node.attribute(f"{label}_shape"), node.attribute(f"{label}_perm")
        begin, _ = node.attribute(f"{label}_columns")
        places.append(_place(shape, order, begin, context.shape(operand)))
        sizes.append([shape[i] for i in order])
    batch, heads, queries, size = sizes[0]
    out_order = node.attribute("out_perm")
    value_size = sizes[2][3]
    rows = (batch, heads, queries, value_size)
    whole = tuple(node.attribute("out_shape"))
    out = _place([rows[i] for i in out_order], [out_order.index(i) for i in range(4)], 0, whole)
    fill = node.attribute("fill") if node.op_type.startswith("Masked") else None
    form = None
    if mask:
        b, h, q, k = context.shape(mask[0])
        form = Mask((b, h, k, q), fill)
    keys = sizes[1][2]
    q_place, k_place, v_place = places
    scale = float(node.attribute("scale"))
    return Heads(batch, heads, queries, keys, size, value_size, q_place, k_place, v_place, out, scale, form)


def _place(shape: list[int], order: list[int], begin: int, source: tuple[int, ...]) -> Place:
    """``shape``: the rows as they lie in memory, head by head; ``order``: its axes of batch, heads, rows, values."""
    if len(source) == 4:
        strides = [shape[1] * shape[2] * shape[3], shape[2] * shape[3], shape[3], 1]
    else:  # heads side by side, maybe with other columns
        strides = [shape[1] * source[2], source[2], shape[3], 1]
    batch, head, row, _ = (strides[i] for i in order)
    return Place(int(np.prod(source, dtype=np.int64)), begin, batch, row, head)


def _mask(context: ImportContext, node: Node, index: int, mask: list[Any]) -> list[Any]:
    """The mask with keys before queries, as the kernels want it; turned now where it is a constant."""
    if not mask:
        return []
    value = context.arrays.get(node.inputs[index])
    if value is not None:
        return [relax.const(np.ascontiguousarray(value.swapaxes(2, 3)), "float32")]
    batch, heads, queries, keys = context.shape(mask[0])
    if queries == 1:
        return [context.reshape(mask[0], (batch, heads, keys, 1))]
    return [context.emit(op.permute_dims(mask[0], [0, 1, 3, 2]))]
