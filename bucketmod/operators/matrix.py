"""Products of matrices."""

from __future__ import annotations

from bucketmod.operators import parameters as p
from bucketmod.operators.registry import Attrs, register
from bucketmod.operators.shapes import Shape, unify, unify_dims

_PARAMS = [
    p.boolean("transpose_a", False),
    p.boolean("transpose_b", False),
    p.choice("forward_stype", ("csr", "default", "row_sparse"), None, optional=True),
]


def _dot(attrs: Attrs, ins: list[Shape], outs: list[Shape]) -> None:
    lhs, rhs = ins[0], ins[1]
    if lhs is None or rhs is None:
        return
    if len(lhs) == len(rhs) == 1:
        ins[0] = ins[1] = unify(lhs, rhs)
        outs[0] = unify(outs[0], (1,))
        return
    rows, inner_a = (lhs[1:], lhs[0]) if attrs["transpose_a"] else (lhs[:-1], lhs[-1])
    columns, inner_b = (rhs[:-1], rhs[-1]) if attrs["transpose_b"] else (rhs[1:], rhs[0])
    if inner_a and inner_b and inner_a != inner_b:
        raise ValueError(f"cannot multiply {lhs} and {rhs}: the inner dimensions are {inner_a} and {inner_b}")
    inner = inner_a or inner_b
    ins[0] = (inner, *rows) if attrs["transpose_a"] else (*rows, inner)
    ins[1] = (*columns, inner) if attrs["transpose_b"] else (inner, *columns)
    outs[0] = unify(outs[0], (*rows, *columns))


register(
    "dot",
    ["lhs", "rhs"],
    _PARAMS,
    shape=_dot,
    doc="Contracts the last axis of lhs with the first of rhs (with transpose_a the first of lhs, with transpose_b "
    "the last of rhs). Two vectors give (1,).",
)


def _batch_dot(attrs: Attrs, ins: list[Shape], outs: list[Shape]) -> None:
    lhs, rhs, out = ins[0], ins[1], outs[0]
    for shape in (lhs, rhs):
        if shape is not None and len(shape) < 3:
            raise ValueError(f"batch_dot needs three dimensions or more, got {shape}")
    if lhs is None or rhs is None:
        return
    batch = unify(lhs[:-2], rhs[:-2])
    assert batch is not None
    m, k = (lhs[-1], lhs[-2]) if attrs["transpose_a"] else (lhs[-2], lhs[-1])
    k2, n = (rhs[-1], rhs[-2]) if attrs["transpose_b"] else (rhs[-2], rhs[-1])
    if k and k2 and k != k2:
        raise ValueError(f"cannot multiply {lhs} and {rhs}: the inner dimensions are {k} and {k2}")
    out = unify(out, (*batch, m, n))
    assert out is not None
    batch, m, n, k = out[:-2], out[-2], out[-1], unify_dims([k, k2])
    ins[0] = (*batch, k, m) if attrs["transpose_a"] else (*batch, m, k)
    ins[1] = (*batch, n, k) if attrs["transpose_b"] else (*batch, k, n)
    outs[0] = out


register(
    "batch_dot",
    ["lhs", "rhs"],
    _PARAMS,
    shape=_batch_dot,
    doc="One matrix product for each index of the leading axes: (..., M, K) and (..., K, N) give (..., M, N).",
)
