"""Reductions over axes, and the arg reductions. A full reduction gives shape (1,), not a scalar."""

from __future__ import annotations

from collections.abc import Sequence

from bucketmod.operators import parameters as p
from bucketmod.operators.registry import Attrs, register
from bucketmod.operators.shapes import Shape, normal_axes, normal_axis, unify


def reduced_axes(axis: Sequence[int] | None, exclude: bool, ndim: int) -> list[int]:
    """The axes that a reduction removes, counted from the front: all of them for None and ()."""
    if not axis:
        return list(range(ndim))
    axes = normal_axes(axis, ndim)
    return [i for i in range(ndim) if i not in axes] if exclude else axes


def reduced_shape(data: tuple[int, ...], axes: Sequence[int], keepdims: bool) -> tuple[int, ...]:
    if keepdims:
        return tuple([1 if i in axes else d for i, d in enumerate(data)])
    return tuple([d for i, d in enumerate(data) if i not in axes]) or (1,)


def _reduce(attrs: Attrs, ins: list[Shape], outs: list[Shape]) -> None:
    if ins[0] is not None:
        axes = reduced_axes(attrs["axis"], attrs.get("exclude", False), len(ins[0]))
        outs[0] = unify(outs[0], reduced_shape(ins[0], axes, attrs["keepdims"]))


_PARAMS = [p.dims("axis", None, optional=True), p.boolean("keepdims", False), p.boolean("exclude", False)]
_AXIS_DOC = "over ``axis`` (all by default; with exclude over all others)."
register("sum", params=_PARAMS, aliases=["sum_axis"], shape=_reduce, doc=f"Sum {_AXIS_DOC}")
register("mean", params=_PARAMS, shape=_reduce, doc=f"Mean {_AXIS_DOC}")
register("prod", params=_PARAMS, shape=_reduce, doc=f"Product {_AXIS_DOC}")
register("max", params=_PARAMS, aliases=["max_axis"], shape=_reduce, doc=f"Maximum {_AXIS_DOC}")
register("min", params=_PARAMS, aliases=["min_axis"], shape=_reduce, doc=f"Minimum {_AXIS_DOC}")


def _arg_reduce(attrs: Attrs, ins: list[Shape], outs: list[Shape]) -> None:
    if ins[0] is not None:
        axis = attrs["axis"]
        axes = list(range(len(ins[0]))) if axis is None else [normal_axis(axis, len(ins[0]))]
        outs[0] = unify(outs[0], reduced_shape(ins[0], axes, attrs["keepdims"]))


_ARG_PARAMS = [p.integer("axis", None, optional=True), p.boolean("keepdims", False)]
register("argmax", params=_ARG_PARAMS, shape=_arg_reduce, doc="Position of the greatest element along ``axis``.")
register("argmin", params=_ARG_PARAMS, shape=_arg_reduce, doc="Position of the smallest element along ``axis``.")
register("nansum", params=_PARAMS, shape=_reduce, doc=f"Sum of what is a number {_AXIS_DOC}")
register("nanprod", params=_PARAMS, shape=_reduce, doc=f"Product of what is a number {_AXIS_DOC}")
register(
    "norm",
    params=[
        p.integer("ord", 2),
        p.dims("axis", None, optional=True),
        p.dtype("out_dtype", None),
        p.boolean("keepdims", False),
    ],
    shape=_reduce,
    doc="Square root of the sum of squares (ord 2), or sum of absolute values (ord 1), over ``axis``, all by default.",
)


def _argmax_channel(attrs: Attrs, ins: list[Shape], outs: list[Shape]) -> None:
    if ins[0] is not None:
        if len(ins[0]) < 2:
            raise ValueError(f"data {ins[0]}: expected two or more axes")
        outs[0] = unify(outs[0], (ins[0][0], *ins[0][2:]))


register("argmax_channel", shape=_argmax_channel, doc="Position of the greatest element along axis 1.")


def _softmax_cross_entropy(attrs: Attrs, ins: list[Shape], outs: list[Shape]) -> None:
    if ins[0] is not None:
        if len(ins[0]) != 2:
            raise ValueError(f"data {ins[0]}: expected (N, C)")
        ins[1] = unify(ins[1], ins[0][:1])
    outs[0] = unify(outs[0], (1,))


register(
    "softmax_cross_entropy",
    ["data", "label"],
    shape=_softmax_cross_entropy,
    doc="Sum over the rows of -log softmax(data)[label]: data (N, C), label (N,) class numbers, output (1,).",
)
