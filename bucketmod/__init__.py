"""bucketmod: MXNet's Module API over one compiled executable for each bucket. ``import bucketmod as mx``.

Everything is imported on first use: this file runs before ``bucketmod.runtime`` too, which must stay small.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_MODULES = {
    "sym": "symbol",
    "nd": "ndarray",
    "mod": "module",
    "init": "initializer",
    "opt": "optimizer",
    "kv": "kvstore",
    "mon": "monitor",
    **{
        name: name
        for name in (
            "attribute base binding callback checkpoint context contrib executor initializer io kvstore lr_scheduler "
            "metric model module monitor name ndarray optimizer random registry rnn symbol"
        ).split()
    },
}
_NAMES = {
    "AttrScope": "attribute",
    "Context": "context",
    "MXNetError": "base",
    "cpu": "context",
    "current_context": "context",
    "gpu": "context",
    "num_gpus": "context",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        value: Any = importlib.import_module(f"{__name__}.{_MODULES[name]}")
    elif name in _NAMES:
        value = getattr(importlib.import_module(f"{__name__}.{_NAMES[name]}"), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES, *_NAMES})
