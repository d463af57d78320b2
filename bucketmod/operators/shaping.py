"""Operators that move, cut, join or repeat elements without changing them."""

from __future__ import annotations

from collections.abc import Sequence

from bucketmod.operators import parameters as p
from bucketmod.operators import shapes
from bucketmod.operators.registry import Attrs, register
from bucketmod.operators.shapes import Shape, normal_axes, normal_axis, unify, unify_dims


def reshaped(data: tuple[int, ...], codes: Sequence[int], reverse: bool = False) -> tuple[int, ...]:
    """The shape that Reshape's codes describe; 0 where it depends on an unknown dimension.

    Codes: n > 0 that length; 0 copies the input's dimension; -1 takes what is left over; -2 copies all remaining
    dimensions; -3 merges two; -4 splits one into the two numbers that follow, one of which may be -1. ``reverse``
    matches from the last axis, with the codes read backwards. Raises ValueError when the codes do not fit.
    """
    if reverse:
        return reshaped(data[::-1], codes[::-1], False)[::-1]
    out: list[int] = []
    used, leftover, i = 0, -1, 0

    def next_dim() -> int:
        nonlocal used
        if used >= len(data):
            raise ValueError(f"shape={tuple(codes)} asks for more dimensions than {data} has")
        used += 1
        return data[used - 1]

    while i < len(codes):
        code = codes[i]
        i += 1
        if code > 0:
            out.append(code)
            used += 1
        elif code == 0:
            out.append(next_dim())
        elif code == -1:
            if leftover >= 0:
                raise ValueError(f"shape={tuple(codes)} holds -1 twice")
            leftover = len(out)
            out.append(1)
            used += 1
        elif code == -2:
            out.extend(data[used:])
            used = max(used, len(data))
        elif code == -3:
            out.append(next_dim() * next_dim())
        elif code == -4 and i + 2 <= len(codes):
            out.extend(_split_dim(next_dim(), codes[i], codes[i + 1]))
            i += 2
        else:
            raise ValueError(f"shape={tuple(codes)} holds {code}, which is no length and no code with its arguments")
    return _fill_leftover(data, out, leftover, codes)


def _split_dim(dim: int, first: int, second: int) -> list[int]:
    if first == second == -1 or first * second == 0 or min(first, second) < -1:
        raise ValueError(f"-4 cannot split into {first} and {second}: one may be -1, else they are lengths")
    if first == -1:
        first = dim // second
    elif second == -1:
        second = dim // first
    if dim and first * second != dim:
        raise ValueError(f"-4 cannot split {dim} into {first} and {second}")
    return [first, second]


def _fill_leftover(data: tuple[int, ...], out: list[int], leftover: int, codes: Sequence[int]) -> tuple[int, ...]:
    if 0 in data:  # the rest depends on what is not known yet
        if leftover >= 0:
            out[leftover] = 0
        return tuple(out)
    total, rest = shapes.size(data), shapes.size(out)
    if leftover >= 0 and rest and total % rest == 0:
        out[leftover] = total // rest
    elif rest != total or leftover >= 0:
        raise ValueError(f"{data} with {total} elements cannot become shape={tuple(codes)}")
    return tuple(out)


def _target_shape(data: tuple[int, ...], target: Sequence[int], keep_highest: bool) -> tuple[int, ...]:
    """The form before codes existed: one 0 stands for what is left over."""
    out = list(target)
    if keep_highest:
        out[0] = data[0]
    unknown = [i for i, d in enumerate(out) if d == 0 and not (keep_highest and i == 0)]
    if len(unknown) > 1:
        raise ValueError(f"target_shape={tuple(target)} leaves more than one dimension open")
    return _fill_leftover(data, [d or 1 for d in out], unknown[0] if unknown else -1, target)


def _reshape(attrs: Attrs, ins: list[Shape], outs: list[Shape]) -> None:
    data = ins[0]
    if not attrs["shape"] and not attrs["target_shape"]:
        raise ValueError("Reshape needs the attribute shape")
    if data is None:
        return
    if attrs["shape"]:
        found = reshaped(data, attrs["shape"], attrs["reverse"])
    else:
        found = _target_shape(data, attrs["target_shape"], attrs["keep_highest"])
    outs[0] = unify(outs[0], found)
    if shapes.complete(outs[0]) and data.count(0) == 1:  # one unknown left: the number of elements tells it
        total, rest = shapes.size(outs[0] or ()), shapes.size([d for d in data if d])
        if total % rest:
            raise ValueError(f"{data} cannot become {outs[0]}")
        ins[0] = tuple([d or total // rest for d in data])


register(
    "Reshape",
    params=[
        p.dims("shape", ()),
        p.boolean("reverse", False),
        p.lengths("target_shape", ()),
        p.boolean("keep_highest", False),
    ],
    aliases=["reshape"],
    shape=_reshape,
    doc=f"The same elements in another shape. {(reshaped.__doc__ or '').split('Codes: ')[1].split(' Raises')[0]}",
)


def _flatten(attrs: Attrs, ins: list[Shape], outs: list[Shape]) -> None:
    data = ins[0]
    if data is not None:
        outs[0] = unify(outs[0], (data[0], shapes.size(data[1:])))
        ins[0] = unify(data, (*(outs[0] or ())[:1], *data[1:]))


register("Flatten", aliases=["flatten"], shape=_flatten, doc="(N, ...) as (N, product of the rest).")


def _concat(attrs: Attrs, ins: list[Shape], outs: list[Shape]) -> None:
    known = next((s for s in [*ins, outs[0]] if s is not None), None)
    if known is None:
        return
    axis = normal_axis(attrs["dim"], len(known))
    common: Shape = (0,) * len(known)
    for shape in [*ins, outs[0]]:  # all dimensions but the joined one are common
        if shape is not None and len(shape) != len(known):
            raise ValueError(f"{known} and {shape} have different numbers of dimensions")
        common = unify(common, None if shape is None else _with(shape, axis, 0))
    lengths = [0 if s is None else s[axis] for s in ins]
    total = outs[0][axis] if outs[0] is not None else 0
    if 0 not in lengths:
        total = unify_dims([total, sum(lengths)])
    elif total and lengths.count(0) == 1:
        lengths = [n or total - sum(lengths) for n in lengths]
    assert common is not None
    ins[:] = [_with(common, axis, n) for n in lengths]
    outs[0] = _with(common, axis, total)


def _with(shape: tuple[int, ...], axis: int, dim: int) -> tuple[int, ...]:
    return (*shape[:axis], dim, *shape[axis + 1 :])


register(
    "Concat",
    [],
    [p.count("num_args", most=p.MOST_EDGES), p.integer("dim", 1)],
    variadic="num_args",
    aliases=["concat"],
    shape=_concat,
    doc="The inputs joined along axis ``dim``.",
)


def _stack(attrs: Attrs, ins: list[Shape], outs: list[Shape]) -> None:
    found: Shape = None
    for shape in ins:
        found = unify(found, shape)
    if found is None and outs[0] is None:
        return
    axis = normal_axis(attrs["axis"], len(found) + 1 if found is not None else len(outs[0] or ()))
    if outs[0] is not None:
        found = unify(found, (*outs[0][:axis], *outs[0][axis + 1 :]))
    assert found is not None
    ins[:] = [found] * len(ins)
    outs[0] = unify(outs[0], (*found[:axis], len(ins), *found[axis:]))


register(
    "stack",
    [],
    [p.integer("axis", 0), p.count("num_args", most=p.MOST_EDGES)],
    variadic="num_args",
    shape=_stack,
    doc="Inputs of one shape, joined along a new axis.",
)


def _slice_channel(attrs: Attrs, ins: list[Shape], outs: list[Shape]) -> None:
    count, squeeze = attrs["num_outputs"], attrs["squeeze_axis"]
    part: Shape = None
    for shape in outs:
        part = unify(part, shape)
    if ins[0] is None and part is None:
        return
    ndim = len(ins[0]) if ins[0] is not None else len(part or ()) + int(squeeze)
    axis = normal_axis(attrs["axis"], ndim)
    if ins[0] is not None:
        length = ins[0][axis]
        if length % count:
            raise ValueError(f"axis {axis} of {ins[0]} cannot be cut into {count} equal parts")
        if squeeze and length and length != count:
            raise ValueError(f"squeeze_axis needs length {count} on axis {axis} of {ins[0]}")
        found = (*ins[0][:axis], *ins[0][axis + 1 :]) if squeeze else _with(ins[0], axis, length // count)
        part = unify(part, found)
    assert part is not None
    whole = (*part[:axis], count, *part[axis:]) if squeeze else _with(part, axis, part[axis] * count)
    ins[0] = unify(ins[0], whole)
    outs[:] = [part] * count


register(
    "SliceChannel",
    params=[p.count("num_outputs", most=p.MOST_EDGES), p.integer("axis", 1), p.boolean("squeeze_axis", False)],
    outputs=lambda a: [f"output{i}" for i in range(a["num_outputs"])],
    aliases=["split"],
    shape=_slice_channel,
    doc="num_outputs equal parts along ``axis``; squeeze_axis drops that axis when its parts have length 1.",
)


def _permuted(order: Sequence[int], ins: list[Shape], outs: list[Shape]) -> None:
    if ins[0] is not None:
        outs[0] = unify(outs[0], tuple([ins[0][i] for i in order]))
    if outs[0] is not None:
        back: list[int] = [0] * len(order)
        for position, source in enumerate(order):
            back[source] = outs[0][position]
        ins[0] = tuple(back)


def _rank(ins: list[Shape], outs: list[Shape]) -> int | None:
    known = ins[0] if ins[0] is not None else outs[0]
    return None if known is None else len(known)


def _transpose(attrs: Attrs, ins: list[Shape], outs: list[Shape]) -> None:
    ndim, axes = _rank(ins, outs), attrs["axes"]
    if ndim is None:
        return
    order = [normal_axis(a, ndim) for a in axes] if axes else list(range(ndim))[::-1]
    if sorted(order) != list(range(ndim)):
        raise ValueError(f"axes={axes} is no order of {ndim} dimensions")
    _permuted(order, ins, outs)


register(
    "transpose",
    params=[p.dims("axes", ())],
    shape=_transpose,
    doc="Axes in the order ``axes``, by default reversed.",
)


def _swap_axis(attrs: Attrs, ins: list[Shape], outs: list[Shape]) -> None:
    ndim = _rank(ins, outs)
    if ndim is None:
        return
    order = list(range(ndim))
    a, b = normal_axis(attrs["dim1"], ndim), normal_axis(attrs["dim2"], ndim)
    order[a], order[b] = order[b], order[a]
    _permuted(order, ins, outs)


register(
    "SwapAxis",
    params=[p.integer("dim1", 0), p.integer("dim2", 0)],
    aliases=["swapaxes"],
    shape=_swap_axis,
    doc="Axes dim1 and dim2 exchanged.",
)


def _expand_dims(attrs: Attrs, ins: list[Shape], outs: list[Shape]) -> None:
    if ins[0] is None and outs[0] is None:
        return
    ndim = len(ins[0]) + 1 if ins[0] is not None else len(outs[0] or ())
    axis = normal_axis(attrs["axis"], ndim)
    if outs[0] is not None:
        ins[0] = unify(ins[0], (*outs[0][:axis], *outs[0][axis + 1 :]))
    if ins[0]:
        outs[0] = unify(outs[0], (*ins[0][:axis], 1, *ins[0][axis:]))


register("expand_dims", params=[p.integer("axis")], shape=_expand_dims, doc="A new axis of length 1 at ``axis``.")


def _squeeze(attrs: Attrs, ins: list[Shape], outs: list[Shape]) -> None:
    data = ins[0]
    if data is None or (attrs["axis"] is None and 0 in data):
        return
    if attrs["axis"] is None:
        axes = [i for i, d in enumerate(data) if d == 1]
    else:
        axes = normal_axes(attrs["axis"], len(data))
        for axis in axes:
            if data[axis] > 1:
                raise ValueError(f"axis {axis} of {data} has length {data[axis]}, only length 1 can be squeezed out")
    outs[0] = unify(outs[0], tuple([d for i, d in enumerate(data) if i not in axes]) or (1,))


register(
    "squeeze",
    params=[p.dims("axis", None, optional=True)],
    shape=_squeeze,
    doc="Without the axes of length 1, or those of them named by ``axis``.",
)


def _slice_axis(attrs: Attrs, ins: list[Shape], outs: list[Shape]) -> None:
    data = ins[0]
    if data is None:
        return
    axis = normal_axis(attrs["axis"], len(data))
    length = data[axis]
    if not length:
        outs[0] = unify(outs[0], data)
        return
    begin, end = attrs["begin"], attrs["end"]
    begin = begin + length if begin < 0 else begin
    end = length if end is None else end + length if end < 0 else end
    if not 0 <= begin < end <= length:
        raise ValueError(f"begin={attrs['begin']}, end={attrs['end']} is no part of axis {axis} of {data}")
    outs[0] = unify(outs[0], _with(data, axis, end - begin))
    ins[0] = unify(data, _with(outs[0] or (), axis, length))


register(
    "slice_axis",
    params=[p.integer("axis"), p.integer("begin"), p.integer("end", optional=True)],
    shape=_slice_axis,
    doc="Positions [begin, end) of ``axis``; negative ones count from the end, end=None means to the end.",
)


def slice_bounds(length: int, begin: int | None, end: int | None, step: int | None) -> tuple[int, int, int]:
    """(first, stop, step) as Python's own slices would have them for an axis of this length."""
    return slice(begin, end, step).indices(length)


def _slice(attrs: Attrs, ins: list[Shape], outs: list[Shape]) -> None:
    data, begin, end = ins[0], attrs["begin"], attrs["end"]
    if len(begin) != len(end):
        raise ValueError(f"begin={begin} and end={end} have different lengths")
    if data is None:
        return
    if len(begin) > len(data):
        raise ValueError(f"begin={begin} names more axes than {data} has")
    steps = [*attrs["step"], *[None] * (len(begin) - len(attrs["step"]))]
    out = list(data)
    for axis, (first, last, step) in enumerate(zip(begin, end, steps, strict=False)):
        if step == 0:
            raise ValueError(f"step={attrs['step']} holds 0")
        if data[axis]:
            out[axis] = len(range(*slice_bounds(data[axis], first, last, step)))
            if not out[axis]:
                raise ValueError(f"begin={begin}, end={end} leaves nothing of axis {axis} of {data}")
    outs[0] = unify(outs[0], tuple(out))


register(
    "slice",
    params=[p.optional_items("begin"), p.optional_items("end"), p.optional_items("step", ())],
    aliases=["crop"],
    shape=_slice,
    doc="data[begin:end:step] on the leading axes; None as in Python.",
)


def _broadcast_to(attrs: Attrs, ins: list[Shape], outs: list[Shape]) -> None:
    data, target = ins[0], attrs["shape"]
    if data is None:
        return
    if len(data) != len(target):
        raise ValueError(f"shape={target} must have as many dimensions as {data}")
    outs[0] = unify(outs[0], _stretched(data, target, f"shape={target}"))


def _stretched(data: tuple[int, ...], target: Sequence[int], words: str) -> tuple[int, ...]:
    for have, want in zip(data, target, strict=True):
        if want and have > 1 and have != want:
            raise ValueError(f"{data} cannot be broadcast to {words}: only length 1 stretches")
    return tuple([want or have for have, want in zip(data, target, strict=True)])


register(
    "broadcast_to",
    params=[p.lengths("shape", ())],
    shape=_broadcast_to,
    doc="Axes of length 1 repeated to ``shape``; 0 there keeps the input's length.",
)


def _broadcast_axis(attrs: Attrs, ins: list[Shape], outs: list[Shape]) -> None:
    data, axes, sizes = ins[0], attrs["axis"], attrs["size"]
    if len(axes) != len(sizes):
        raise ValueError(f"axis={axes} and size={sizes} have different lengths")
    if data is None:
        return
    target = [0] * len(data)
    for axis, length in zip(axes, sizes, strict=True):
        target[normal_axis(axis, len(data))] = length
    outs[0] = unify(outs[0], _stretched(data, target, f"axis={axes}, size={sizes}"))


register(
    "broadcast_axis",
    params=[p.dims("axis", ()), p.lengths("size", ())],
    aliases=["broadcast_axes"],
    shape=_broadcast_axis,
    doc="The axes of length 1 named by ``axis``, repeated to the lengths in ``size``.",
)


def _tile(attrs: Attrs, ins: list[Shape], outs: list[Shape]) -> None:
    data, reps = ins[0], attrs["reps"]
    if data is None:
        return
    ndim = max(len(data), len(reps))
    padded, times = (1,) * (ndim - len(data)) + data, (1,) * (ndim - len(reps)) + tuple(reps)
    outs[0] = unify(outs[0], tuple([d * r for d, r in zip(padded, times, strict=True)]))


register("tile", params=[p.lengths("reps")], shape=_tile, doc="The whole input repeated reps[i] times along axis i.")


def _repeat(attrs: Attrs, ins: list[Shape], outs: list[Shape]) -> None:
    data = ins[0]
    if data is None:
        return
    if attrs["axis"] is None:
        outs[0] = unify(outs[0], (shapes.size(data) * attrs["repeats"],))
    else:
        axis = normal_axis(attrs["axis"], len(data))
        outs[0] = unify(outs[0], _with(data, axis, data[axis] * attrs["repeats"]))


register(
    "repeat",
    params=[p.count("repeats"), p.integer("axis", None, optional=True)],
    shape=_repeat,
    doc="Each element repeated ``repeats`` times along ``axis`` (None: of the flattened input).",
)
register("reverse", params=[p.dims("axis")], aliases=["flip"], shape=shapes.same, doc="Order turned round along axis.")
