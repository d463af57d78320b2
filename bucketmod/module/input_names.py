"""Names and shapes of inputs as users give them, checked against the graph."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Sequence
from typing import Any

from bucketmod.io import DataDesc


def check_input_names(symbol: Any, names: Sequence[str], kind: str, throw: bool = True) -> None:
    """ValueError (or a warning) for names that are no arguments of the symbol, with those that they may be."""
    arguments = symbol.list_arguments()
    for name in names:
        if name in arguments:
            continue
        parameters = (".weight", "_weight", "_bias", "_gamma", "_beta")
        candidates = difflib.get_close_matches(name, arguments) or [a for a in arguments if not a.endswith(parameters)]
        message = (
            f"{kind}_names {list(names)}: the symbol has no argument {name!r}. Did you mean one of: "
            f"{', '.join(candidates)}"
        )
        if throw:
            raise ValueError(message)
        warnings.warn(message, stacklevel=3)


def present_names(model: Any, data_names: Any, label_names: Any) -> tuple[Any, Any]:
    """The default names ("data", "softmax_label") count for an ONNX model only if it has such inputs."""
    inputs = {value.name for value in model.graph.input}
    data_names = None if data_names == ("data",) and "data" not in inputs else data_names
    label_names = () if label_names == ("softmax_label",) and "softmax_label" not in inputs else label_names
    return data_names, label_names


def check_names_match(names: Sequence[str], shapes: Sequence[DataDesc], kind: str, throw: bool) -> None:
    """ValueError (or a warning) when shapes are given for other names than the module has."""
    found = [desc.name for desc in shapes]
    if sorted(found) != sorted(names):
        message = f"{kind}_shapes are given for {found}, but {kind}_names are {list(names)}"
        if throw:
            raise ValueError(message)
        warnings.warn(message, stacklevel=4)


def described(item: Any) -> DataDesc:
    desc = item if isinstance(item, DataDesc) else DataDesc(*item)
    if isinstance(desc.shape, (list, tuple)):
        return DataDesc(desc.name, tuple(desc.shape), desc.dtype, desc.layout)
    raise TypeError(f"shape of {desc.name!r} must be a tuple, got {desc.shape!r}")
