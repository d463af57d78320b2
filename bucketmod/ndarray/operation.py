"""How a function on numpy arrays becomes a function of ``mx.nd`` and, where MXNet has one, a method of NDArray.

The families (``elementwise``, ``reduction``, ...) hold plain numpy functions; ``@operation`` lifts each: NDArray
arguments become their numpy views, the result becomes an aligned NDArray of its own memory, and ``out=`` and ``name=``
are added.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from bucketmod.base import MXNetError
from bucketmod.context import Context
from bucketmod.ndarray.ndarray import NDArray
from bucketmod.runtime.memory import aligned_empty

OPERATIONS: dict[str, Callable[..., Any]] = {}  # everything that mx.nd offers beside the functions that create arrays


def operation(
    *aliases: str, fluent: bool = False, name: str | None = None
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Registers the decorated numpy function in ``OPERATIONS`` under its name and ``aliases``; lifted as said above.

    ``fluent`` makes it a method of NDArray too. ``name`` replaces the function's own name (for names such as ``max``
    that would hide builtins in their module). ValueError and IndexError from numpy become MXNetError.
    """

    def lift(function: Callable[..., Any]) -> Callable[..., Any]:
        public = name or function.__name__

        @functools.wraps(function)
        def lifted(*args: Any, out: Any = None, **kwargs: Any) -> Any:
            kwargs.pop("name", None)
            operands = [*_arrays(args), *_arrays(kwargs.values())]
            context = operands[0].context if operands else kwargs.pop("ctx", None)
            try:
                with np.errstate(all="ignore"):
                    result = function(*map(_unwrap, args), **{key: _unwrap(value) for key, value in kwargs.items()})
            except (ValueError, IndexError) as error:
                raise MXNetError(f"nd.{public} on shapes {[item.shape for item in operands]}: {error}") from error
            views = [item.numpy_view() for item in operands]
            if isinstance(result, (list, tuple)):
                targets = out if out is not None else [None] * len(result)
                return [
                    _deliver(public, part, target, views, context) for part, target in zip(result, targets, strict=True)
                ]
            return _deliver(public, result, out, views, context)

        lifted.__name__ = lifted.__qualname__ = public
        for each in (public, *aliases):
            OPERATIONS[each] = lifted
        if fluent:
            setattr(NDArray, public, lifted)
        return lifted

    return lift


def _arrays(values: Any) -> list[NDArray]:
    return [
        item
        for value in values
        for item in (value if isinstance(value, (list, tuple)) else [value])
        if isinstance(item, NDArray)
    ]


def _unwrap(value: Any) -> Any:
    if isinstance(value, NDArray):
        return value.numpy_view()
    if isinstance(value, (list, tuple)) and any(isinstance(item, NDArray) for item in value):
        return [_unwrap(item) for item in value]
    return value


def _deliver(name: str, result: Any, out: NDArray | None, views: list[np.ndarray], context: Context | None) -> NDArray:
    found = np.asarray(result)
    found = found.reshape(1) if found.ndim == 0 else found
    if out is not None:
        if out.shape != found.shape:
            raise MXNetError(f"nd.{name}: the result has shape {found.shape}, out has shape {out.shape}")
        np.copyto(out.numpy_view(), found, casting="unsafe")
        return out
    if (
        found.flags.c_contiguous
        and found.ctypes.data % 64 == 0
        and not any(np.may_share_memory(found, v) for v in views)
    ):
        return NDArray(found, context)
    own = aligned_empty(found.shape, found.dtype)
    np.copyto(own, found)
    return NDArray(own, context)
