"""Operators without inputs."""

from __future__ import annotations

from math import ceil

from bucketmod.operators import parameters as p
from bucketmod.operators import types
from bucketmod.operators.registry import Attrs, register
from bucketmod.operators.shapes import Shape, unify


def _given(attrs: Attrs, ins: list[Shape], outs: list[Shape]) -> None:
    outs[0] = unify(attrs["shape"] or None, outs[0])


_FILL = [p.lengths("shape", ()), p.text("ctx", ""), p.dtype()]
_SHAPE_DOC = "A dimension 0 in ``shape`` is completed by whoever uses the result."
register("_zeros", [], _FILL, shape=_given, type_rule=types.from_attribute, doc=f"Zeros. {_SHAPE_DOC}")
register("_ones", [], _FILL, shape=_given, type_rule=types.from_attribute, doc=f"Ones. {_SHAPE_DOC}")
register(
    "_full",
    [],
    [*_FILL, p.real("value")],
    shape=_given,
    type_rule=types.from_attribute,
    doc=f"``value`` everywhere. {_SHAPE_DOC}",
)


def _arange(attrs: Attrs, ins: list[Shape], outs: list[Shape]) -> None:
    start, stop, step = arange_bounds(attrs)
    if step == 0 or attrs["infer_range"]:
        raise ValueError("arange needs a stop and a step that is not 0")
    count = ceil((stop - start) / step) * attrs["repeat"]
    if not 0 < count < 2**31:
        raise ValueError(f"arange from {start} to {stop} by {step} has {count} elements")
    outs[0] = unify(outs[0], (count,))


def arange_bounds(attrs: Attrs) -> tuple[float, float, float]:
    """(start, stop, step); a single bound is the stop."""
    start, stop = attrs["start"], attrs["stop"]
    return (0.0, start, attrs["step"]) if stop is None else (start, stop, attrs["step"])


register(
    "_arange",
    [],
    [
        p.real("start"),
        p.real("stop", None, optional=True),
        p.real("step", 1.0),
        p.count("repeat", 1),
        p.boolean("infer_range", False),
        p.text("ctx", ""),
        p.dtype(),
    ],
    shape=_arange,
    type_rule=types.from_attribute,
    doc="start, start + step, ... below stop, each ``repeat`` times.",
)
