"""Operators that bring one input into the shape of another, or cut it to it."""

from __future__ import annotations

from collections.abc import Sequence

from bucketmod.operators import parameters as p
from bucketmod.operators import types
from bucketmod.operators.registry import Attrs, register
from bucketmod.operators.shapes import Shape, normal_axes, normal_axis, unify


def _slice_like(attrs: Attrs, ins: list[Shape], outs: list[Shape]) -> None:
    data, like = ins
    if data is None or like is None:
        return
    axes = normal_axes(attrs["axes"], len(data)) or range(len(data))
    if max(axes, default=0) >= len(like):
        raise ValueError(f"shape_like {like} has no axis {max(axes)}")
    made = [like[axis] if axis in axes else size for axis, size in enumerate(data)]
    for axis, size in enumerate(made):
        if size > data[axis] > 0:
            raise ValueError(f"axis {axis}: shape_like has {size} elements, data only {data[axis]}")
    outs[0] = unify(outs[0], tuple(made))


register(
    "slice_like",
    ["data", "shape_like"],
    [p.dims("axes", ())],
    shape=_slice_like,
    type_rule=types.same_but(1),
    doc="The first elements of data along ``axes`` (all by default), as many as shape_like has there.",
)


def _broadcast_like(attrs: Attrs, ins: list[Shape], outs: list[Shape]) -> None:
    data, like = ins
    if data is None or like is None:
        return
    if (attrs["lhs_axes"] is None) != (attrs["rhs_axes"] is None):
        raise ValueError("give both lhs_axes and rhs_axes, or neither")
    if attrs["lhs_axes"] is None:
        if len(data) != len(like):
            raise ValueError(f"lhs {data} and rhs {like} must have the same number of axes")
        pairs = [(axis, axis) for axis in range(len(data))]
    else:
        lhs, rhs = ([normal_axis(a, len(s)) for a in attrs[n]] for n, s in (("lhs_axes", data), ("rhs_axes", like)))
        if len(lhs) != len(rhs) or not lhs:
            raise ValueError(f"lhs_axes={attrs['lhs_axes']} and rhs_axes={attrs['rhs_axes']} must pair up")
        pairs = list(zip(lhs, rhs, strict=True))
    made = list(data)
    for left, right in pairs:
        if data[left] not in (0, 1, like[right]) and like[right]:
            raise ValueError(f"axis {left} of lhs {data} cannot become {like[right]}")
        made[left] = like[right]
    outs[0] = unify(outs[0], tuple(made))


register(
    "broadcast_like",
    ["lhs", "rhs"],
    [p.dims("lhs_axes", None, optional=True), p.dims("rhs_axes", None, optional=True)],
    shape=_broadcast_like,
    type_rule=types.same_but(1),
    doc="lhs repeated along its axes of length 1 to the shape of rhs; with lhs_axes and rhs_axes only along those.",
)


def _reshape_like(attrs: Attrs, ins: list[Shape], outs: list[Shape]) -> None:
    data, like = ins
    if data is None or like is None:
        return
    first, last = _range(attrs["lhs_begin"], attrs["lhs_end"], len(data))
    begin, end = _range(attrs["rhs_begin"], attrs["rhs_end"], len(like))
    made = (*data[:first], *like[begin:end], *data[last:])
    if made and 0 not in (*data, *made) and _size(made) != _size(data):
        raise ValueError(f"lhs {data} cannot become {made}: the numbers of elements differ")
    outs[0] = unify(outs[0], made or None)


def _range(begin: int | None, end: int | None, ndim: int) -> tuple[int, int]:
    first, last = ((0 if begin is None else begin), (ndim if end is None else end))
    first, last = (value + ndim if value < 0 else value for value in (first, last))
    if not 0 <= first <= last <= ndim:
        raise ValueError(f"axes {begin} to {end} are no range of {ndim} axes")
    return first, last


def _size(shape: Sequence[int]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total


register(
    "reshape_like",
    ["lhs", "rhs"],
    [p.integer(name, None, optional=True) for name in ("lhs_begin", "lhs_end", "rhs_begin", "rhs_end")],
    shape=_reshape_like,
    type_rule=types.same_but(1),
    doc="lhs in the shape of rhs; with begin and end only those axes of lhs take the lengths of those of rhs.",
)


def _crop(attrs: Attrs, ins: list[Shape], outs: list[Shape]) -> None:
    data = ins[0]
    like = ins[1] if len(ins) > 1 else None
    if data is None or (len(ins) > 1 and like is None):
        return
    if len(data) != 4 or (like is not None and len(like) != 4):
        raise ValueError(f"inputs {ins}: expected (N, C, height, width)")
    sizes = attrs["h_w"] if like is None else like[2:]
    if len(sizes) != 2 or any(size > n > 0 for size, n in zip(sizes, data[2:], strict=True)):
        raise ValueError(f"height and width {tuple(sizes)} do not lie inside of data {data}")
    made = (*data[:2], *sizes)
    for size, offset, n in zip(sizes, crop_offset(attrs, data, made), data[2:], strict=True):
        if offset < 0 or (n and offset + size > n):
            raise ValueError(f"offset={attrs['offset']} with height and width {tuple(sizes)} leaves data {data}")
    outs[0] = unify(outs[0], made)


def crop_offset(attrs: Attrs, data: Sequence[int], made: Sequence[int]) -> tuple[int, int]:
    """Row and column of ``data`` at which the cut-out begins. ValueError unless ``offset`` holds two numbers."""
    if attrs["center_crop"]:
        return (data[2] - made[2]) // 2, (data[3] - made[3]) // 2
    if len(attrs["offset"]) != 2:
        raise ValueError(f"offset={attrs['offset']}: expected a row and a column")
    return attrs["offset"][0], attrs["offset"][1]


register(
    "Crop",
    [],
    [
        p.count("num_args", most=2),
        p.lengths("offset", (0, 0)),
        p.lengths("h_w", (0, 0)),
        p.boolean("center_crop", False),
    ],
    variadic="num_args",
    shape=_crop,
    doc="A part of data (N, C, H, W): from ``offset``, or of the middle, of the height and width of a second input, "
    "or ``h_w``.",
)
