"""Converters of matrix products: every one becomes a Gemm kernel, transposes and batches included."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax

from bucketmod.compiler.importer.context import ImportContext, Node, bucketmod, converter, microsoft
from bucketmod.compiler.importer.elementwise import const
from bucketmod.compiler.kernels.emit import emit_kernel
from bucketmod.compiler.kernels.products.gemm import Gemm

op = relax.op


def _untransposed(context: ImportContext, name: str, expr: Any) -> tuple[Any, bool]:
    """The operand behind a transpose of its last two axes: the kernel reads it transposed for nothing."""
    source = context.transposed_from.get(name)
    return (context.expr(source), True) if source is not None else (expr, False)


def _bias(context: ImportContext, node: Node, columns: int) -> Any | None:
    """The third operand of a Gemm where it is one row that is added as it is."""
    if len(node.inputs) < 3 or not node.inputs[2] or node.attribute("beta", 1.0) != 1.0:
        return None
    expr = context.expr(node.inputs[2])
    return context.reshape(expr, (columns,)) if context.shape(expr) in ((columns,), (1, columns)) else None


@converter("Gemm")
def gemm(context: ImportContext, node: Node, inputs: list[Any]) -> Any:
    a, swap_a = _untransposed(context, node.inputs[0], inputs[0])
    b, swap_b = _untransposed(context, node.inputs[1], inputs[1])
    trans_a = bool(node.attribute("transA", 0)) != swap_a
    trans_b = bool(node.attribute("transB", 0)) != swap_b
    (m, k), (k2, n) = _sides(context.shape(a), trans_a), _sides(context.shape(b), trans_b)
    if k != k2:
        raise node.fail(f"cannot multiply {(m, k)} by {(k2, n)}: the inner sizes differ")
    alpha = node.attribute("alpha", 1.0)
    bias = _bias(context, node, n) if alpha == 1.0 else None
    kernel = Gemm(m, k, n, trans_a, trans_b, bias=bias is not None)
    (result,) = emit_kernel(context, kernel, [a, b] if bias is None else [a, b, bias])
    if alpha != 1.0:
        result = context.emit(op.multiply(result, const(alpha, result, context)))
    if bias is None and len(inputs) > 2 and inputs[2] is not None:
        addend, beta = inputs[2], node.attribute("beta", 1.0)
        if beta != 1.0:
            addend = context.emit(op.multiply(addend, const(beta, addend, context)))
        result = context.emit(op.add(result, addend))
    return result


@bucketmod("FusedGemm")
def fused_gemm(context: ImportContext, node: Node, inputs: list[Any]) -> list[Any]:
    """A product with its epilogue, as ``graph.epilogues`` describes it."""
    a, swap_a = inputs[0], False
    if len(context.shape(a)) == 2:  # of several matrices the rows are read as those of one, transposed they lie apart
        a, swap_a = _untransposed(context, node.inputs[0], a)
    b, swap_b = _untransposed(context, node.inputs[1], inputs[1])
    trans_a, trans_b = bool(node.attribute("transA", 0)) != swap_a, bool(node.attribute("transB", 0)) != swap_b
    k, n = _sides(context.shape(b), trans_b)
    shape = tuple(node.attribute("shape"))
    m = int(np.prod(shape, dtype=np.int64)) // n
    bias, addend, saved = ([*inputs, None, None, None])[2:5]
    kernel = Gemm(
        m,
        k,
        n,
        trans_a,
        trans_b,
        bias=bias is not None,
        addend=addend is not None,
        activation=node.attribute("activation", ""),
        slope_of=node.attribute("slope_of", ""),
        column_sums=node.wants(1),
    )
    operands = [a, b, *(operand for operand in (bias, addend, saved) if operand is not None)]
    result, *sums = emit_kernel(context, kernel, operands)
    return [context.reshape(result, shape), *sums]


def _sides(shape: tuple[int, ...], transposed: bool) -> tuple[int, int]:
    rows, cols = shape[-2:]
    return (cols, rows) if transposed else (rows, cols)


@converter("MatMul")
@microsoft("FusedMatMul")
def matmul(context: ImportContext, node: Node, inputs: list[Any]) -> Any:
    if node.attribute("transBatchA", 0) or node.attribute("transBatchB", 0):
        raise node.fail("transBatchA and transBatchB are not built")
    a, swap_a = _untransposed(context, node.inputs[0], inputs[0])
    b, swap_b = _untransposed(context, node.inputs[1], inputs[1])
    if min(len(context.shape(a)), len(context.shape(b))) < 2:
        raise node.fail(f"operands of shape {context.shape(a)} and {context.shape(b)}: vectors are not built")
    trans_a = bool(node.attribute("transA", 0)) != swap_a
    trans_b = bool(node.attribute("transB", 0)) != swap_b
    result = product(context, node, a, b, trans_a, trans_b)
    alpha = node.attribute("alpha", 1.0)
    return result if alpha == 1.0 else context.emit(op.multiply(result, const(alpha, result, context)))


def product(context: ImportContext, node: Node, a: Any, b: Any, trans_a: bool, trans_b: bool) -> Any:
    """``op(a) @ op(b)`` with NumPy's broadcasting of the leading axes."""
    shape_a, shape_b = context.shape(a), context.shape(b)
    (m, k), (k2, n) = _sides(shape_a, trans_a), _sides(shape_b, trans_b)
    if k != k2:
        raise node.fail(f"cannot multiply {shape_a} by {shape_b}: the inner sizes {k} and {k2} differ")
    lead_a, lead_b = shape_a[:-2], shape_b[:-2]
    if not trans_a and np.prod(lead_b, dtype=int) == 1:  # one matrix on the right: all rows at once
        rows = int(np.prod(lead_a, dtype=int)) * m
        kernel = Gemm(rows, k, n, False, trans_b)
        operands = [context.reshape(a, (rows, k)), context.reshape(b, shape_b[-2:])]
        (result,) = emit_kernel(context, kernel, operands)
        lead = lead_a if len(lead_a) >= len(lead_b) else (1,) * (len(lead_b) - len(lead_a)) + lead_a
        return context.reshape(result, (*lead, m, n))
    lead = np.broadcast_shapes(lead_a, lead_b)
    batch = int(np.prod(lead, dtype=int))
    a, shared_a = _batched(context, a, lead)
    b, shared_b = _batched(context, b, lead)
    kernel = Gemm(m, k, n, trans_a, trans_b, batch=batch, batch_a=not shared_a, batch_b=not shared_b)
    (result,) = emit_kernel(context, kernel, [a, b])
    return context.reshape(result, (*lead, m, n))


def _batched(context: ImportContext, x: Any, lead: tuple[int, ...]) -> tuple[Any, bool]:
    """``x`` with one batch axis, or as one matrix shared by the whole batch."""
    shape = context.shape(x)
    batch, own = int(np.prod(lead, dtype=int)), int(np.prod(shape[:-2], dtype=int))
    if own == 1 and batch > 1:
        return context.reshape(x, shape[-2:]), True
    if own != batch:
        x = context.emit(op.broadcast_to(x, (*lead, *shape[-2:])))
    return context.reshape(x, (batch, *shape[-2:])), False
