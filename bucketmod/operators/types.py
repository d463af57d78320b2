"""Type rules: like shape rules, over names of element types, None where unknown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Type = str | None
Attrs = Mapping[str, Any]


def unify(values: list[Type]) -> Type:
    """The one type among these. Raises ValueError when there are two."""
    found: Type = None
    for value in values:
        if value is not None:
            if found is not None and found != value:
                raise ValueError(f"element types {found} and {value} do not agree: use Cast")
            found = value
    return found


def same(attrs: Attrs, ins: list[Type], outs: list[Type]) -> None:
    """All inputs and outputs have one type."""
    found = unify([*ins, *outs])
    if found is not None:
        ins[:] = [found] * len(ins)
        outs[:] = [found] * len(outs)


def from_attribute(attrs: Attrs, ins: list[Type], outs: list[Type]) -> None:
    """The attribute ``dtype`` is the type of the outputs, the inputs may have any; without it all are the same."""
    if attrs["dtype"] is None:
        same(attrs, ins, outs)
    else:
        outs[:] = [unify([attrs["dtype"], out]) for out in outs]


def same_but(*free: int) -> Any:
    """All inputs and outputs have one type, but for the inputs at positions ``free``, which may have any."""

    def rule(attrs: Attrs, ins: list[Type], outs: list[Type]) -> None:
        bound = [i for i in range(len(ins)) if i not in free]
        found = unify([*(ins[i] for i in bound), *outs])
        if found is not None:
            for i in bound:
                ins[i] = found
            outs[:] = [found] * len(outs)

    return rule
