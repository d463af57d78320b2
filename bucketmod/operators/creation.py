"""Operators without inputs."""

from __future__ import annotations

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
