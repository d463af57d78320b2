"""Picking elements by index."""

from __future__ import annotations

from bucketmod.operators import parameters as p
from bucketmod.operators import types
from bucketmod.operators.registry import Attrs, register
from bucketmod.operators.shapes import Shape, normal_axis, unify


def _one_hot(attrs: Attrs, ins: list[Shape], outs: list[Shape]) -> None:
    if outs[0] is not None:
        ins[0] = unify(ins[0], outs[0][:-1])
    if ins[0] is not None:
        outs[0] = unify(outs[0], (*ins[0], attrs["depth"]))


register(
    "one_hot",
    ["indices"],
    [p.count("depth"), p.real("on_value", 1.0), p.real("off_value", 0.0), p.dtype()],
    shape=_one_hot,
    type_rule=types.from_attribute,
    doc="A new last axis of length depth with on_value at the index and off_value elsewhere.",
)


def _pick(attrs: Attrs, ins: list[Shape], outs: list[Shape]) -> None:
    data = ins[0]
    if data is None:
        return
    if attrs["axis"] is None:
        raise ValueError("pick needs an axis here: axis=None is not available")
    axis = normal_axis(attrs["axis"], len(data))
    kept, dropped = (*data[:axis], 1, *data[axis + 1 :]), (*data[:axis], *data[axis + 1 :])
    index = ins[1]
    ins[1] = unify(index, kept if index is not None and len(index) == len(data) else dropped)
    outs[0] = unify(outs[0], kept if attrs["keepdims"] else dropped or (1,))


register(
    "pick",
    ["data", "index"],
    [
        p.integer("axis", -1, optional=True),
        p.boolean("keepdims", False),
        p.choice("mode", ("clip", "wrap"), "clip"),
    ],
    aliases=["choose_element_0index"],
    shape=_pick,
    type_rule=types.same_but(1),
    doc="One element along ``axis`` for each index.",
)


def _take(attrs: Attrs, ins: list[Shape], outs: list[Shape]) -> None:
    data, indices = ins[0], ins[1]
    if data is not None and indices is not None:
        axis = normal_axis(attrs["axis"], len(data))
        outs[0] = unify(outs[0], (*data[:axis], *indices, *data[axis + 1 :]))


register(
    "take",
    ["a", "indices"],
    [p.integer("axis", 0), p.choice("mode", ("clip", "raise", "wrap"), "clip")],
    shape=_take,
    type_rule=types.same_but(1),
    doc="Slices of a along ``axis``, by indices of any shape.",
)


def _batch_take(attrs: Attrs, ins: list[Shape], outs: list[Shape]) -> None:
    data = ins[0]
    if data is not None:
        if len(data) < 2:
            raise ValueError(f"a {data}: expected two axes")
        ins[1] = unify(ins[1], data[:-1])
    outs[0] = unify(outs[0], ins[1])


register(
    "batch_take",
    ["a", "indices"],
    shape=_batch_take,
    type_rule=types.same_but(1),
    doc="One element of each row of a (N, C), by indices (N,); those out of range are clipped.",
)


def _gather_nd(attrs: Attrs, ins: list[Shape], outs: list[Shape]) -> None:
    data, indices = ins
    if data is not None and indices is not None:
        if indices[0] > len(data):
            raise ValueError(f"indices {indices} name {indices[0]} axes, data {data} has {len(data)}")
        if indices[0]:
            outs[0] = unify(outs[0], (*indices[1:], *data[indices[0] :]) or (1,))


register(
    "gather_nd",
    ["data", "indices"],
    shape=_gather_nd,
    type_rule=types.same_but(1),
    doc="data[indices[0], indices[1], ...]: indices (M, ...) picks along the first M axes; indices must be in range.",
)
