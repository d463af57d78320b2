"""Shapes that may be partly unknown, and the rules that many operators share.

A shape is None (nothing known) or a tuple in which 0 is an unknown dimension.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import prod
from typing import Any

Shape = tuple[int, ...] | None
Attrs = Mapping[str, Any]


def complete(shape: Shape) -> bool:
    """Whether every dimension is known."""
    return bool(shape) and 0 not in (shape or ())


def unify(a: Shape, b: Shape) -> Shape:
    """What is known when both describe one tensor. Raises ValueError when they contradict each other."""
    if a == b or not b:  # no tensor has zero dimensions here, so () knows nothing
        return a
    if not a:
        return b
    if len(a) != len(b):
        raise ValueError(f"shapes {a} and {b} do not agree: {len(a)} and {len(b)} dimensions")
    return tuple([_one_dim(x, y, a, b) for x, y in zip(a, b, strict=True)])


def _one_dim(x: int, y: int, a: Sequence[int], b: Sequence[int]) -> int:
    if x == y or y == 0:
        return x
    if x == 0:
        return y
    raise ValueError(f"shapes {tuple(a)} and {tuple(b)} do not agree (0 = unknown)")


def unify_dims(values: Iterable[int]) -> int:
    """One dimension known from several places."""
    found = 0
    for value in values:
        if value:
            if found and found != value:
                raise ValueError(f"one dimension is both {found} and {value}")
            found = value
    return found


def size(dims: Sequence[int]) -> int:
    """Number of elements, 0 when a dimension is unknown."""
    return prod(dims)


def normal_axis(axis: int, ndim: int) -> int:
    """``axis`` counted from the front. Raises ValueError outside of [-ndim, ndim)."""
    if not -ndim <= axis < ndim:
        raise ValueError(f"axis {axis} does not exist in {ndim} dimensions")
    return axis + ndim if axis < 0 else axis


def normal_axes(axes: Sequence[int], ndim: int) -> list[int]:
    """Sorted, counted from the front. Raises ValueError for one that does not exist or comes twice."""
    found = sorted([normal_axis(axis, ndim) for axis in axes])
    if len(set(found)) != len(found):
        raise ValueError(f"axes {tuple(axes)} name one axis twice")
    return found


def same(attrs: Attrs, ins: list[Shape], outs: list[Shape]) -> None:
    """Every input and output has one shape; each may bring dimensions that the others lack."""
    found: Shape = None
    for shape in ins:
        found = unify(found, shape)
    for shape in outs:
        found = unify(found, shape)
    ins[:] = [found] * len(ins)
    outs[:] = [found] * len(outs)


def outputs_like_first(attrs: Attrs, ins: list[Shape], outs: list[Shape]) -> None:
    """The first input and all outputs have one shape; the other inputs are left alone."""
    found = ins[0]
    for shape in outs:
        found = unify(found, shape)
    ins[0] = found
    outs[:] = [found] * len(outs)


def broadcast(attrs: Attrs, ins: list[Shape], outs: list[Shape]) -> None:
    """Two inputs that broadcast as in numpy."""
    if ins[0] is None or ins[1] is None:
        return
    outs[0] = unify(broadcast_shapes(ins[0], ins[1]), outs[0])


def broadcast_shapes(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    """Raises ValueError when two dimensions differ and neither is 1. An unknown one meeting 1 stays unknown."""
    ndim = max(len(a), len(b))
    dims = []
    for x, y in zip((1,) * (ndim - len(a)) + a, (1,) * (ndim - len(b)) + b, strict=True):
        if x == y or y == 1:
            dims.append(x)
        elif x == 1 or x == 0:
            dims.append(y)
        elif y == 0:
            dims.append(x)
        else:
            raise ValueError(f"shapes {a} and {b} do not broadcast: {x} meets {y}")
    return tuple(dims)
