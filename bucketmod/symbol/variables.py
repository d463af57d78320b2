"""Free variables: data, labels, parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bucketmod import attribute
from bucketmod.base import DTYPE_CODES
from bucketmod.symbol.compose import hidden_key, text
from bucketmod.symbol.graph import Node
from bucketmod.symbol.symbol import Symbol

_STORAGE = {"default": "0", "row_sparse": "1", "csr": "2"}


def Variable(
    name: str,
    attr: dict[str, str] | None = None,
    shape: Sequence[int] | None = None,
    lr_mult: float | None = None,
    wd_mult: float | None = None,
    dtype: Any = None,
    init: Any = None,
    stype: str | None = None,
    profiler_scope: str | None = None,
    **kwargs: Any,
) -> Symbol:
    """A symbol for an input called ``name``.

    ``shape``: what is known of its shape (0 = unknown). ``lr_mult``, ``wd_mult``: factors for the optimizer.
    ``init``: an Initializer or its text form, for this variable only. Further keywords must look ``__like_this__``.
    Raises TypeError unless the name is text, ValueError for other keywords.
    """
    if not isinstance(name, str):
        raise TypeError(f"a variable's name must be text, not {type(name).__name__} {name!r}")
    attrs = {hidden_key(key): value for key, value in attribute.current().get(attr).items()}
    if shape is not None:
        attrs["__shape__"] = text(shape)
    if lr_mult is not None:
        attrs["__lr_mult__"] = str(lr_mult)
    if wd_mult is not None:
        attrs["__wd_mult__"] = str(wd_mult)
    if dtype is not None:
        attrs["__dtype__"] = str(_dtype_code(dtype))
    if init is not None:
        attrs["__init__"] = init if isinstance(init, str) else init.dumps()
    if stype is not None:
        if stype not in _STORAGE:
            raise ValueError(f"stype={stype!r} is none of {', '.join(_STORAGE)}")
        attrs["__storage_type__"] = _STORAGE[stype]
    if profiler_scope is not None:
        attrs["__profiler_scope__"] = profiler_scope
    for key, value in kwargs.items():
        if not (key.startswith("__") and key.endswith("__")):
            raise ValueError(f"Variable({name!r}): no keyword {key!r}; attributes of your own must look __like_this__")
        attrs[key] = str(value)
    return Symbol([(Node(None, name, attrs, []), 0)])


def _dtype_code(dtype: Any) -> int:
    found = np.dtype(dtype).name
    if found not in DTYPE_CODES:
        raise TypeError(f"dtype={dtype!r} is none of {', '.join(DTYPE_CODES)}")
    return DTYPE_CODES[found]


var = Variable
