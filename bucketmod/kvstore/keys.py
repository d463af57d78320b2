"""Keys and values of a store as callers give them: one of each, or lists."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bucketmod.ndarray import NDArray
from bucketmod.ndarray.sparse import RowSparseNDArray

Key = int | str
_ARRAYS = (NDArray, RowSparseNDArray)


def pairs(key: Any, value: Any) -> list[tuple[Key, list[Any]]]:
    """Each key with the arrays given for it, in the order of first appearance; arrays of a repeated key are joined.

    ``key``: an int or str, or a list of keys of one kind; ``value``: for a key an array or a list of arrays, for a list
    of keys a list of those. AssertionError for anything else.
    """
    grouped: dict[Key, list[Any]] = {}
    for each, arrays in flattened(key, value):
        grouped.setdefault(each, []).extend(arrays)
    return list(grouped.items())


def flattened(key: Any, value: Any) -> Iterator[tuple[Key, list[Any]]]:
    """As ``pairs``, but repeated keys stay apart."""
    if not isinstance(key, (tuple, list)):
        assert isinstance(key, (int, str)), f"unexpected type for keys: {type(key)}; a key is an int or a str"
        arrays = [value] if isinstance(value, _ARRAYS) else list(value)
        for array in arrays:
            assert isinstance(array, _ARRAYS), f"value of key {key!r} must be an NDArray, got {type(array)}"
        yield key, arrays
        return
    assert not isinstance(value, _ARRAYS) and len(key) == len(value), (
        f"{len(key)} keys need as many values, got {1 if isinstance(value, _ARRAYS) else len(value)}"
    )
    for kind in (int, str):
        some = any(isinstance(each, kind) for each in key)
        assert not some or all(isinstance(each, kind) for each in key), f"inconsistent types of keys detected: {key}"
    for each, arrays in zip(key, value, strict=True):
        yield from flattened(each, arrays)
