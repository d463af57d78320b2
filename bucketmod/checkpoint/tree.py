"""Plain trees (containers, numbers, text, arrays) as JSON beside a list of arrays.

Numbers, text, None and lists stand for themselves; an object with one of the keys below says what it is:

    {"tuple": [...]}  {"dict": [[key, value], ...]}  {"array": n}  {"numpy": n, "shape": [...]}  {"scalar": n}

where n counts the arrays. Nothing else can be written, and nothing in a file can become anything else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bucketmod.base import DTYPE_CODES, MXNetError
from bucketmod.ndarray import NDArray

MAX_DEPTH = 50
_PLAIN = (bool, int, float, str)


def encode(value: Any, arrays: list[NDArray]) -> Any:
    """``value`` for ``json.dumps``; its arrays are appended to ``arrays``. TypeError, naming the type, for objects that
    are not plain data."""
    if value is None or type(value) in _PLAIN:
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, list):
        return [encode(item, arrays) for item in value]
    if isinstance(value, tuple):
        return {"tuple": [encode(item, arrays) for item in value]}
    if isinstance(value, Mapping):
        return {"dict": [[encode(key, arrays), encode(item, arrays)] for key, item in value.items()]}
    if isinstance(value, NDArray):
        arrays.append(value)
        return {"array": len(arrays) - 1}
    if isinstance(value, (np.ndarray, np.generic)) and value.dtype.name in DTYPE_CODES:
        arrays.append(NDArray(np.array(value, ndmin=1)))
        index = len(arrays) - 1
        return {"scalar": index} if isinstance(value, np.generic) else {"numpy": index, "shape": list(value.shape)}
    raise TypeError(f"{type(value)} cannot be saved: only plain data and arrays can")


def decode(value: Any, arrays: Sequence[NDArray], depth: int = 0) -> Any:
    """What ``encode`` was given. MXNetError for anything that ``encode`` does not write."""
    if depth > MAX_DEPTH:
        raise MXNetError(f"data nested more than {MAX_DEPTH} deep")
    if value is None or type(value) in _PLAIN:
        return value
    if isinstance(value, list):
        return [decode(item, arrays, depth + 1) for item in value]
    if not isinstance(value, dict):
        raise MXNetError(f"a {type(value).__name__} where data was expected")
    kind = next(iter(value), "nothing")
    content = value.get(kind)
    if kind == "tuple" and isinstance(content, list):
        return tuple(decode(item, arrays, depth + 1) for item in content)
    if kind == "dict" and isinstance(content, list):
        return dict(_item(pair, arrays, depth + 1) for pair in content)
    if kind in ("array", "numpy", "scalar"):
        return _array(kind, value, arrays)
    raise MXNetError(f"{kind!r} is no kind of data")


def _item(pair: Any, arrays: Sequence[NDArray], depth: int) -> tuple[Any, Any]:
    if not isinstance(pair, list) or len(pair) != 2:
        raise MXNetError("an item of a dict is no pair")
    key = decode(pair[0], arrays, depth)
    if not is_key(key):
        raise MXNetError(f"a {type(key).__name__} as key of a dict")
    return key, decode(pair[1], arrays, depth)


def is_key(key: Any) -> bool:
    """Whether a decoded value can be a key: None, a number, text, or a tuple of such."""
    if isinstance(key, tuple):
        return all(is_key(item) for item in key)
    return key is None or isinstance(key, (*_PLAIN, np.generic))


def _array(kind: str, value: dict[str, Any], arrays: Sequence[NDArray]) -> Any:
    index = value[kind]
    if type(index) is not int or not 0 <= index < len(arrays):
        raise MXNetError(f"array {index!r} of {len(arrays)}")
    if kind == "array":
        return arrays[index]
    found = arrays[index].numpy_view()
    if kind == "scalar" and found.shape == (1,):
        return found[0]
    shape = value.get("shape")
    if kind == "scalar" or not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
        raise MXNetError(f"array {index} of shape {found.shape} cannot be a {kind} of shape {shape!r}")
    try:
        return found.reshape(shape).copy()
    except ValueError as error:
        raise MXNetError(f"array {index}: {error}") from None
