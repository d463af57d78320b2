"""Errors of the user's side and the marker for an attribute that was not given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class MXNetError(RuntimeError):
    """Whatever MXNet's engine would refuse: bad graphs, attributes, shapes, files. Scripts catch this name."""


class OperatorError(MXNetError):
    """An operator that does not exist here, or one whose attributes or inputs are wrong. Names the node."""


class ShapeError(MXNetError):
    """Shapes that contradict each other, or that a graph leaves open. Names the node where it showed."""


class NotImplementedForSymbol(MXNetError):
    """A method that needs numbers, called on a symbol, which has none."""

    def __init__(self, function: Callable[..., Any] | str, alias: str | None = None, *args: Any) -> None:
        name = function if isinstance(function, str) else function.__name__
        also = f" (that is, {alias})" if alias else ""
        super().__init__(f"{name}{also} needs values; a Symbol only describes a computation: bind it to a Module first")
        self.function, self.alias, self.args_given = name, alias, args


class _NullType:
    """Type of :data:`_Null`, the default of operator attributes: not given, so the operator's default holds."""

    def __repr__(self) -> str:
        return "_Null"

    def __bool__(self) -> bool:
        return False


_Null = _NullType()

# Numbers that stand for element types in files and in the ``__dtype__`` attribute of variables.
DTYPE_CODES = {
    "float32": 0,
    "float64": 1,
    "float16": 2,
    "uint8": 3,
    "int32": 4,
    "int8": 5,
    "int64": 6,
    "bool": 7,
}
DTYPE_NAMES = {code: name for name, code in DTYPE_CODES.items()}
