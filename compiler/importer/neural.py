"""Converters of operators that have a kernel family of their own: softmax, normalization, embedding, dropout, heads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from tvm import relax

from bucketmod.compiler.importer.context import ImportContext, Node, bucketmod, converter, microsoft, normalize_axis
from bucketmod.compiler.kernels.batch_normalization import BatchNorm, BatchNormGrad, BatchNormInference
from bucketmod.compiler.kernels.dropout import Dropout, DropoutGrad
from bucketmod.compiler.kernels.embedding import Embedding, EmbeddingGrad
from bucketmod.compiler.kernels.emit import emit_kernel
from bucketmod.compiler.kernels.normalization import LayerNorm, LayerNormGrad
from bucketmod.compiler.kernels.softmax import Softmax, SoftmaxGrad, SoftmaxOutputGrad

op = relax.op


def _size(shape: Sequence[int]) -> int:
    return int(np.prod(shape, dtype=np.int64))


def _on_rows(context: ImportContext, kernel_of: Any, inputs: Sequence[Any], axis: int) -> Any:
    """Runs a kernel over rows along ``axis``, moving that axis last and back where it is not."""
    shape = context.shape(inputs[0])
    rank = len(shape)
    last = [*[i for i in range(rank) if i != axis], axis]
    moved = [x if axis == rank - 1 else context.emit(op.permute_dims(x, last)) for x in inputs]
    rows, cols = _size(shape) // shape[axis], shape[axis]
    (result,) = emit_kernel(context, kernel_of(rows, cols), [context.reshape(x, (rows, cols)) for x in moved])
    result = context.reshape(result, [shape[i] for i in last])
    return result if axis == rank - 1 else context.emit(op.permute_dims(result, [last.index(i) for i in range(rank)]))


@converter("Softmax", "LogSoftmax")
def softmax(context: ImportContext, node: Node, inputs: list[Any]) -> Any:
    axis = normalize_axis(node, node.attribute("axis", -1), len(context.shape(inputs[0])))
    log = node.op_type == "LogSoftmax"
    return _on_rows(context, lambda rows, cols: Softmax(rows, cols, log), inputs, axis)


@microsoft("SoftmaxGrad_13", "LogSoftmaxGrad_13")
def softmax_grad(context: ImportContext, node: Node, inputs: list[Any]) -> Any:
    axis = normalize_axis(node, node.attribute("axis", -1), len(context.shape(inputs[0])))
    log = node.op_type == "LogSoftmaxGrad_13"
    return _on_rows(context, lambda rows, cols: SoftmaxGrad(rows, cols, log), inputs, axis)


@bucketmod("SoftmaxOutput")
def softmax_output(context: ImportContext, node: Node, inputs: list[Any]) -> Any:
    """Classes on axis 1 (multi_output), on the last axis (preserve_shape) or over everything behind the batch."""
    x = inputs[0]
    shape = context.shape(x)
    if node.attribute("multi_output", 0):
        return _on_rows(context, lambda rows, cols: Softmax(rows, cols, False), [x], 1)
    rows, cols = _head_rows(node, shape)
    (result,) = emit_kernel(context, Softmax(rows, cols, False), [context.reshape(x, (rows, cols))])
    return context.reshape(result, shape)


def _head_rows(node: Node, shape: tuple[int, ...]) -> tuple[int, int]:
    if node.attribute("preserve_shape", 0):
        return _size(shape[:-1]), shape[-1]
    return shape[0], _size(shape[1:])


@bucketmod("SoftmaxOutputGrad")
def softmax_output_grad(context: ImportContext, node: Node, inputs: list[Any]) -> Any:
    prob, label = inputs[:2]
    head = inputs[2] if len(inputs) > 2 else None
    shape = context.shape(prob)
    if node.attribute("multi_output", 0):
        outer, classes, inner = shape[0], shape[1], _size(shape[2:])
    else:
        (outer, classes), inner = _head_rows(node, shape), 1
    dense = context.shape(label) == shape
    kernel = SoftmaxOutputGrad(
        outer,
        classes,
        inner,
        labels=0 if dense else _size(context.shape(label)),
        batch=shape[0],
        grad_scale=float(node.attribute("grad_scale", 1.0)),
        ignore_label=float(node.attribute("ignore_label", -1.0)),
        use_ignore=bool(node.attribute("use_ignore", 0)),
        multi_output=bool(node.attribute("multi_output", 0)),
        normalization=node.attribute("normalization", "null"),
        smooth_alpha=float(node.attribute("smooth_alpha", 0.0)),
        dense_label=dense,
        head_gradient=head is not None,
    )
    whole = (outer, classes, inner)
    args = [context.reshape(prob, whole), context.reshape(label, whole) if dense else label]
    if head is not None:
        args.append(context.reshape(head, whole))
    (result,) = emit_kernel(context, kernel, args)
    return context.reshape(result, shape)


@converter("LayerNormalization")
def layer_norm(context: ImportContext, node: Node, inputs: list[Any]) -> list[Any]:
    x, gamma = inputs[:2]
    shape = context.shape(x)
    axis = normalize_axis(node, node.attribute("axis", -1), len(shape))
    rows, cols = _size(shape[:axis]), _size(shape[axis:])
    beta = inputs[2] if len(inputs) > 2 and inputs[2] is not None else relax.const(np.zeros(cols, np.float32))
    kernel = LayerNorm(rows, cols, float(node.attribute("epsilon", 1e-5)))
    args = [context.reshape(x, (rows, cols)), context.reshape(gamma, (cols,)), context.reshape(beta, (cols,))]
    y, mean, inv_std = emit_kernel(context, kernel, args)
    stats = (*shape[:axis], *[1] * (len(shape) - axis))
    return [context.reshape(y, shape), context.reshape(mean, stats), context.reshape(inv_std, stats)]


@microsoft("LayerNormalizationGrad")
def layer_norm_grad(context: ImportContext, node: Node, inputs: list[Any]) -> list[Any]:
    dy, x, gamma, mean, inv_std = inputs
    shape = context.shape(x)
    axis = normalize_axis(node, node.attribute("axis", -1), len(shape))
    rows, cols = _size(shape[:axis]), _size(shape[axis:])
    args = [context.reshape(dy, (rows, cols)), context.reshape(x, (rows, cols)), context.reshape(gamma, (cols,)),
            context.reshape(mean, (rows,)), context.reshape(inv_std, (rows,))]  # fmt: skip
    dx, dgamma, dbeta = emit_kernel(context, LayerNormGrad(rows, cols), args)
    kept = context.shape(gamma)
    return [context.reshape(dx, shape), context.reshape(dgamma, kept), context.reshape(dbeta, kept)]


def _on_channels(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """The shape as [outer, channels, inner]: what lies before the second axis, and behind it."""
    return shape[0], shape[1], _size(shape[2:])


@bucketmod("BatchNorm")
def batch_norm(context: ImportContext, node: Node, inputs: list[Any]) -> list[Any]:
    shape = context.shape(inputs[0])
    kernel = BatchNorm(*_on_channels(shape), float(node.attribute("epsilon", 1e-3)))
    y, *statistics = emit_kernel(context, kernel, inputs)
    return [context.reshape(y, shape), *statistics]


@bucketmod("BatchNormGrad")
def batch_norm_grad(context: ImportContext, node: Node, inputs: list[Any]) -> list[Any]:
    shape = context.shape(inputs[1])
    made = emit_kernel(context, BatchNormGrad(*_on_channels(shape), data=node.wants(0)), inputs)
    return [context.reshape(made[0], shape), *made[1:]] if node.wants(0) else [None, *made]


@converter("BatchNormalization")
def batch_normalization(context: ImportContext, node: Node, inputs: list[Any]) -> Any:
    if node.attribute("training_mode", 0):
        raise node.fail("training_mode=1 is not built; export with training_mode=0")
    shape = context.shape(inputs[0])
    kernel = BatchNormInference(*_on_channels(shape), float(node.attribute("epsilon", 1e-5)))
    (result,) = emit_kernel(context, kernel, inputs)
    return context.reshape(result, shape)


def _ids(context: ImportContext, name: str, expr: Any, rows: int) -> Any:
    """Row numbers as the caller gave them: the kernel reads floats as well, and keeps them in range itself."""
    source, low, high = context.clipped_from.get(name, (context.cast_from.get(name), 0, rows - 1))
    return context.expr(source) if source is not None and (low, high) == (0, rows - 1) else expr


@converter("Gather")
def gather(context: ImportContext, node: Node, inputs: list[Any]) -> Any:
    data = inputs[0]
    shape = context.shape(data)
    axis = normalize_axis(node, node.attribute("axis", 0), len(shape))
    if axis == 0 and len(shape) == 2 and context.dtype(data) == "float32" and node.inputs[1] not in context.arrays:
        ids = _ids(context, node.inputs[1], inputs[1], shape[0])
        count = _size(context.shape(ids))
        kernel = Embedding(shape[0], shape[1], count, context.dtype(ids))
        (result,) = emit_kernel(context, kernel, [context.reshape(ids, (count,)), data])
        return context.reshape(result, (*context.shape(ids), shape[1]))
    return context.emit(op.take(data, inputs[1], axis))


@microsoft("GatherGrad")
def gather_grad(context: ImportContext, node: Node, inputs: list[Any]) -> Any:
    """(shape of the data, indices, dY) -> dData: rows of dY added up by index."""
    shape = tuple(int(d) for d in context.array(node, 0, "the shape"))
    axis = normalize_axis(node, node.attribute("axis", 0), len(shape))
    if axis != 0:
        raise node.fail(f"the gradient of a gather along axis {axis} is not built; only axis 0 is")
    ids = _ids(context, node.inputs[1], inputs[1], shape[0])
    count, dim = _size(context.shape(ids)), _size(shape[1:])
    table = context.row_tables.get(node.outputs[0])
    kernel = EmbeddingGrad(shape[0], dim, count, context.dtype(ids), by_rows=table is not None)
    args = [context.reshape(ids, (count,)), context.reshape(inputs[2], (count, dim))]
    if table is not None:
        args.append(table)
    (result,) = emit_kernel(context, kernel, args)
    return context.reshape(result, shape)


def _ratio(context: ImportContext, node: Node, index: int) -> float:
    return float(context.array(node, index, "the ratio")) if len(node.inputs) > index and node.inputs[index] else 0.5


@converter("Dropout")
def dropout(context: ImportContext, node: Node, inputs: list[Any]) -> list[Any]:
    x = inputs[0]
    training = context.optional_array(node, 2, "training_mode")
    if training is None or not bool(training):
        if node.wants(1):
            raise node.fail("the mask of a Dropout outside of training is not built")
        return [x, None]
    shape = context.shape(x)
    count = _size(shape)
    kernel = Dropout(count, _ratio(context, node, 1), int(node.attribute("seed", 0)))
    y, mask = emit_kernel(context, kernel, [context.reshape(x, (count,)), context.seed])
    return [context.reshape(y, shape), context.reshape(mask, shape)]


@microsoft("DropoutGrad")
def dropout_grad(context: ImportContext, node: Node, inputs: list[Any]) -> Any:
    dy, mask = inputs[:2]
    shape = context.shape(dy)
    count = _size(shape)
    kernel = DropoutGrad(count, _ratio(context, node, 2))
    (result,) = emit_kernel(context, kernel, [context.reshape(dy, (count,)), context.reshape(mask, (count,))])
    return context.reshape(result, shape)
