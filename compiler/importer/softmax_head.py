"""Converters of the fused head of a classifier and of its gradient."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax

from bucketmod.compiler.importer.context import ImportContext, Node, bucketmod
from bucketmod.compiler.kernels.emit import emit_kernel
from bucketmod.compiler.kernels.softmax_head.gradients import HeadDataGradient, HeadWeightGradient, LabelScale
from bucketmod.compiler.kernels.softmax_head.softmax_head import SoftmaxProjection


@bucketmod("SoftmaxProjection")
def softmax_projection(context: ImportContext, node: Node, inputs: list[Any]) -> Any:
    (rows, depth), (classes, _) = context.shape(inputs[0]), context.shape(inputs[1])
    kernel = SoftmaxProjection(rows, depth, classes, bias=len(inputs) > 2)
    (result,) = emit_kernel(context, kernel, inputs)
    return result


@bucketmod("SoftmaxHeadGrad")
def softmax_head_grad(context: ImportContext, node: Node, inputs: list[Any]) -> list[Any]:
    prob, label, x, w = inputs
    (rows, classes), depth = context.shape(prob), context.shape(x)[1]
    labels = int(np.prod(context.shape(label), dtype=np.int64))
    normalization = node.attribute("normalization", "null")
    scale = LabelScale(
        rows,
        labels,
        float(node.attribute("grad_scale", 1.0)) / (labels if normalization == "batch" else 1),
        int(node.attribute("ignore_label", -1.0)),
        use_ignore=bool(node.attribute("use_ignore", 0)),
        count_valid=normalization == "valid",
    )
    label = context.reshape(label, (labels,))
    (r,) = emit_kernel(context, scale, [label])
    if labels > rows:  # all labels count for the scale, the first ones belong to the rows
        label = context.emit(relax.op.strided_slice(label, [0], [0], [rows]))
    dx = dw = db = None
    if node.wants(0):
        (dx,) = emit_kernel(context, HeadDataGradient(rows, depth, classes), [prob, w, label, r])
    if node.wants(1):
        rx = context.emit(relax.op.multiply(x, context.reshape(r, (rows, 1))))
        kernel = HeadWeightGradient(rows, depth, classes, uniform=not scale.use_ignore)
        dw, db = emit_kernel(context, kernel, [prob, rx, r, label])
    return [dx, dw, db if node.wants(2) else None]
