"""Elementwise arithmetic on numpy arrays with MXNet's rules, below the NDArray class.

Two arrays must have one dtype, and the result has it too, comparisons included (1.0 and 0.0). A scalar is converted to
the dtype of the array first, so integer arrays see the truncated scalar, and integer division truncates.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from bucketmod.base import MXNetError
from bucketmod.runtime.memory import aligned_empty

Scalar: TypeAlias = float | int | bool | np.generic
SCALAR_TYPES = (float, int, np.generic)


def _divide(lhs: Any, rhs: Any, out: np.ndarray) -> None:
    if out.dtype.kind in "iub":
        with np.errstate(divide="ignore", invalid="ignore"):
            np.copyto(out, np.trunc(np.true_divide(lhs, rhs)), casting="unsafe")
    else:
        np.true_divide(lhs, rhs, out=out)


def _modulo(lhs: Any, rhs: Any, out: np.ndarray) -> None:
    np.mod(lhs, rhs, out=out)
    out[np.broadcast_to(np.equal(rhs, 0), out.shape)] = 0  # MXNet: x % 0 is 0


def _from_ufunc(ufunc: np.ufunc) -> Callable[[Any, Any, np.ndarray], None]:
    return lambda lhs, rhs, out: ufunc(lhs, rhs, out=out, casting="unsafe")


def _truth(ufunc: np.ufunc) -> Callable[[Any, Any, np.ndarray], None]:
    return lambda lhs, rhs, out: np.copyto(out, ufunc(lhs, rhs), casting="unsafe")


BINARY: dict[str, Callable[[Any, Any, np.ndarray], None]] = {
    "add": _from_ufunc(np.add),
    "subtract": _from_ufunc(np.subtract),
    "multiply": _from_ufunc(np.multiply),
    "divide": _divide,
    "modulo": _modulo,
    "power": _from_ufunc(np.power),
    "maximum": _from_ufunc(np.maximum),
    "minimum": _from_ufunc(np.minimum),
    "hypot": _from_ufunc(np.hypot),
    "equal": _truth(np.equal),
    "not_equal": _truth(np.not_equal),
    "greater": _truth(np.greater),
    "greater_equal": _truth(np.greater_equal),
    "lesser": _truth(np.less),
    "lesser_equal": _truth(np.less_equal),
    "logical_and": _truth(np.logical_and),
    "logical_or": _truth(np.logical_or),
    "logical_xor": _truth(np.logical_xor),
}


def binary(name: str, lhs: np.ndarray | Scalar, rhs: np.ndarray | Scalar, out: np.ndarray | None = None) -> np.ndarray:
    """``name`` (a key of ``BINARY``) of two arrays, or of an array and a scalar; at least one is an array.

    ``out`` may be one of the operands. Raises MXNetError when dtypes differ, shapes cannot be broadcast, or ``out`` has
    another shape than the result.
    """
    left, right, dtype = _operands(name, lhs, rhs)
    try:
        shape = np.broadcast_shapes(np.shape(left), np.shape(right))
    except ValueError:
        raise MXNetError(
            f"{name}: shapes {np.shape(left)} and {np.shape(right)} cannot be broadcast together; "
            "dimensions must be equal or 1, counted from the last"
        ) from None
    if out is None:
        out = aligned_empty(shape, dtype)
    elif out.shape != shape:
        raise MXNetError(f"{name}: the result has shape {shape}, the array to write into has {out.shape}")
    with np.errstate(all="ignore"):
        BINARY[name](left, right, out)
    return out


def _operands(name: str, lhs: np.ndarray | Scalar, rhs: np.ndarray | Scalar) -> tuple[Any, Any, np.dtype]:
    if isinstance(lhs, np.ndarray) and isinstance(rhs, np.ndarray):
        if lhs.dtype != rhs.dtype:
            raise MXNetError(
                f"{name}: arrays of {lhs.dtype} and {rhs.dtype}; make the dtypes equal with astype() first"
            )
        return lhs, rhs, lhs.dtype
    if isinstance(lhs, np.ndarray):
        return lhs, cast_scalar(rhs, lhs.dtype), lhs.dtype
    assert isinstance(rhs, np.ndarray)
    return cast_scalar(lhs, rhs.dtype), rhs, rhs.dtype


def cast_scalar(value: Any, dtype: np.dtype) -> Any:
    """``value`` as a scalar of ``dtype``, truncated for integers."""
    if dtype.kind in "iu":
        return np.array(int(value)).astype(dtype)[()]
    return np.array(value).astype(dtype)[()]
