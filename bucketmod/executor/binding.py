"""``Symbol.bind``, ``simple_bind`` and ``eval``: what users give, checked and put in the order of the arguments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bucketmod.base import MXNetError
from bucketmod.binding import Bucket, make_bucket, place
from bucketmod.context import Context, current_context
from bucketmod.executor.executor import Executor
from bucketmod.executor.shapes import bucket_for, reshaped
from bucketmod.io import DataDesc
from bucketmod.ndarray import NDArray, zeros

GRAD_REQS = ("null", "write", "add")


def bind(
    symbol: Any,
    ctx: Context,
    args: Any,
    args_grad: Any = None,
    grad_req: Any = "write",
    aux_states: Any = None,
    group2ctx: Mapping[str, Context] | None = None,
    shared_exec: Executor | None = None,
) -> Executor:
    """See ``Symbol.bind``."""
    _check_context(ctx)
    names = symbol.list_arguments()
    arguments = _in_order("args", args, names)
    gradients = _in_order("args_grad", args_grad, names, allow_missing=True) if args_grad is not None else None
    auxiliary = _in_order("aux_states", aux_states if aux_states is not None else [], symbol.list_auxiliary_states())
    if not group2ctx:
        _check_arrays_on(ctx, names, arguments)
    requests = _requests(grad_req, names)
    bucket = bucket_for(symbol, ctx, arguments, group2ctx)
    _check_gradients(names, arguments, gradients)
    workspace = shared_exec._workspace if shared_exec is not None else None
    return Executor(symbol, ctx, bucket, arguments, gradients, requests, auxiliary, group2ctx, workspace)


def simple_bind(
    symbol: Any,
    ctx: Context,
    grad_req: Any = "write",
    type_dict: Mapping[str, Any] | None = None,
    stype_dict: Mapping[str, str] | None = None,
    group2ctx: Mapping[str, Context] | None = None,
    shared_arg_names: list[str] | None = None,
    shared_exec: Executor | None = None,
    shared_buffer: dict[str, NDArray] | None = None,
    **kwargs: Any,
) -> Executor:
    """See ``Symbol.simple_bind``."""
    _check_context(ctx)
    if shared_arg_names is not None and not isinstance(shared_arg_names, list):
        raise ValueError(f"shared_arg_names must be a list or None, got {type(shared_arg_names)}")
    if shared_buffer is not None and not isinstance(shared_buffer, dict):
        raise ValueError(f"shared_buffer must be a dict or None, got {type(shared_buffer)}")
    if isinstance(grad_req, (list, Mapping)) and not grad_req:
        raise RuntimeError("grad_req in simple_bind cannot be an empty list or dict")
    for name, stype in (stype_dict or {}).items():
        if stype != "default":
            raise NotImplementedError(f"storage type {stype!r} of {name}: only dense (default) arrays are supported")
    shapes = {name: shape for name, shape in kwargs.items() if isinstance(shape, tuple)}
    names = symbol.list_arguments()
    try:
        requests = _requests(grad_req, names, exact=True)
        bucket = _bucket_of_shapes(symbol, ctx, shapes, type_dict or {}, group2ctx)
    except (MXNetError, ValueError, KeyError) as error:
        given = "".join(f"{name}: {shape}\n" for name, shape in kwargs.items())
        raise RuntimeError(f"simple_bind error. Arguments:\n{given}{error}") from None
    memory = _Allocation(shared_exec, shared_arg_names or [], shared_buffer)
    own = [argument for argument in bucket.arguments if argument.role != "auxiliary"]
    contexts = bucket.argument_contexts(ctx)
    arguments = [memory.take(a.name, a.shape, a.dtype, contexts[a.name], "arg") for a in own]
    gradients = [
        memory.take(a.name, a.shape, a.dtype, contexts[a.name], "grad") if requests[a.name] != "null" else None
        for a in own
    ]
    auxiliary = [memory.take(a.name, a.shape, a.dtype, contexts[a.name], "aux") for a in bucket.by_role("auxiliary")]
    workspace = shared_exec._workspace if shared_exec is not None else None
    return Executor(symbol, ctx, bucket, arguments, gradients, requests, auxiliary, group2ctx, workspace)


def evaluate(symbol: Any, ctx: Context | None = None, **kwargs: NDArray) -> list[NDArray]:
    """See ``Symbol.eval``."""
    return bind(symbol, current_context() if ctx is None else ctx, kwargs).forward()


def _bucket_of_shapes(
    symbol: Any,
    ctx: Context,
    shapes: Mapping[str, tuple[int, ...]],
    types: Mapping[str, Any],
    group2ctx: Mapping[str, Context] | None,
) -> Bucket:
    """As :func:`bucket_for`, with the shapes that are not given inferred; types are float32 where nothing tells."""
    described = [DataDesc(name, shape, types.get(name, np.float32)) for name, shape in shapes.items()]
    known = make_bucket(symbol, described, data_names=(), label_names=())
    every = [DataDesc(a.name, a.shape, types.get(a.name, a.dtype)) for a in known.arguments if a.role != "auxiliary"]
    return place(make_bucket(symbol, every, data_names=(), label_names=()), ctx, group2ctx)


class _Allocation:
    """Where ``simple_bind`` gets arrays: from another executor, from a pool of arrays by name, or new ones."""

    def __init__(self, shared: Executor | None, names: Sequence[str], pool: dict[str, NDArray] | None) -> None:
        self._shared, self._names, self._pool = shared, set(names), pool
        self._lent: dict[str, Mapping[str, NDArray | None]] = {}
        if shared is not None:
            self._lent = {"arg": shared.arg_dict, "grad": shared.grad_dict, "aux": shared.aux_dict}

    def take(self, name: str, shape: tuple[int, ...], dtype: str, ctx: Context, kind: str) -> NDArray:
        lent = self._lent.get(kind, {}).get(name) if name in self._names or kind == "aux" else None
        if lent is not None and lent.shape == shape and lent.dtype == np.dtype(dtype).type:
            return lent
        if lent is not None and kind != "aux":
            raise MXNetError(f"argument {name} is shared with an executor where it has shape {lent.shape}, not {shape}")
        if self._pool is None or kind == "aux" or name in self._names:
            return zeros(shape, ctx, dtype=dtype)
        return self._take_from_pool(f"grad of {name}" if kind == "grad" else name, shape, dtype, ctx)

    def _take_from_pool(self, key: str, shape: tuple[int, ...], dtype: str, ctx: Context) -> NDArray:
        assert self._pool is not None
        present = self._pool.get(key)
        if present is not None and present.size >= np.prod(shape) and present.dtype == np.dtype(dtype).type:
            return reshaped(present, shape)
        self._pool[key] = zeros(shape, ctx, dtype=dtype)
        return self._pool[key]


def _check_context(ctx: Any) -> None:
    if not isinstance(ctx, Context):
        raise TypeError(f"ctx must be a Context, got {type(ctx)}")
    if ctx.device_type not in ("cpu", "cpu_pinned", "cpu_shared"):
        raise NotImplementedError(f"CUDA execution: context {ctx} cannot run programs; use mx.cpu()")


def _in_order(kind: str, given: Any, names: Sequence[str], allow_missing: bool = False) -> list[Any]:
    """Arrays in the order of ``names`` from a list or a dict."""
    wanted = f"{kind} takes a list of NDArrays or a dict of them by name"
    if isinstance(given, Mapping):
        missing = [name for name in names if name not in given]
        if missing and not allow_missing:
            raise ValueError(f"key `{missing[0]}` is missing in `{kind}`")
        arrays = [given.get(name) for name in names]
    elif isinstance(given, list):
        if len(given) != len(names):
            raise ValueError(f"Length of {kind} does not match the number of arguments: {len(given)} given for "
                             f"{', '.join(names)}")  # fmt: skip
        arrays = given
    else:
        raise TypeError(f"{wanted}, got {type(given)}")
    for name, array in zip(names, arrays, strict=True):
        if not isinstance(array, NDArray) and not (array is None and allow_missing):
            raise TypeError(f"{wanted}, got {type(array)} for {name}")
    return list(arrays)


def _requests(grad_req: Any, names: Sequence[str], exact: bool = False) -> dict[str, str]:
    """null, write or add by argument; a dict means null for what it leaves out. ``exact``: every word in a list is for
    an argument."""
    if isinstance(grad_req, str):
        words = [grad_req] * len(names)
    elif isinstance(grad_req, Mapping):
        words = [grad_req.get(name, "null") for name in names]
    elif isinstance(grad_req, list):
        words = grad_req
    else:
        raise TypeError(f"grad_req must be a str, list or dict, got {type(grad_req)}")
    for word in words:
        if word not in GRAD_REQS:
            error = ValueError if isinstance(grad_req, str) else KeyError
            raise error(f"grad_req {word!r}: it must be one of {', '.join(GRAD_REQS)}")
    if len(words) != len(names):
        raise ValueError(f"grad_req has {len(words)} entries for {len(names)} arguments: {', '.join(names)}")
    return dict(zip(names, words, strict=True))


def _check_arrays_on(ctx: Context, names: Sequence[str], arrays: Sequence[NDArray]) -> None:
    for name, array in zip(names, arrays, strict=True):
        if array.context != ctx:
            raise MXNetError(
                f"argument {name} is in {array.context} while binding with ctx={ctx}: all must be there unless "
                "group2ctx places parts of the graph elsewhere"
            )


def _check_gradients(
    names: Sequence[str], arrays: Sequence[NDArray], gradients: Sequence[NDArray | None] | None
) -> None:
    """Gradients are written in place, so they must have the shapes of the arguments."""
    for name, array, gradient in zip(names, arrays, gradients or [None] * len(names), strict=True):
        if gradient is not None and (gradient.shape, gradient.dtype) != (array.shape, array.dtype):
            raise MXNetError(
                f"args_grad of {name}: {gradient.dtype.__name__}{gradient.shape} given for an argument "
                f"{array.dtype.__name__}{array.shape}"
            )
