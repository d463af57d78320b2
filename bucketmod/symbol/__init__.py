"""Symbols: variables, operators, groups, files. Every registered operator is a function here: ``mx.sym.Activation``."""

from types import SimpleNamespace
from typing import Any

from bucketmod.symbol.functions import (
    OPERATOR_FUNCTIONS,
    arange,
    full,
    hypot,
    maximum,
    minimum,
    ones,
    pow,
    power,
    zeros,
)
from bucketmod.symbol.graph import Node
from bucketmod.symbol.symbol import Group, Symbol, load, load_json
from bucketmod.symbol.variables import Variable, var

# Operators whose names start with an underscore are those behind Python's own operators and functions.
_internal = SimpleNamespace(**{n: f for n, f in OPERATOR_FUNCTIONS.items() if n.startswith("_")})
globals().update({n: f for n, f in OPERATOR_FUNCTIONS.items() if not n.startswith("_")})

__all__ = [
    "Group",
    "Node",
    "Symbol",
    "Variable",
    "arange",
    "full",
    "hypot",
    "load",
    "load_json",
    "maximum",
    "minimum",
    "ones",
    "pow",
    "power",
    "var",
    "zeros",
]


def __getattr__(name: str) -> Any:
    raise AttributeError(f"operator or function {name!r} is not available in mx.sym of this version of bucketmod")
