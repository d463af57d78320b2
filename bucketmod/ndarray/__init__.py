"""``mx.nd``: arrays and the functions on them."""

from typing import Any

from bucketmod.ndarray import elementwise, layers, linear, random, reduction, selection, shaping, sparse, updates
from bucketmod.ndarray.creation import (
    arange,
    array,
    concatenate,
    empty,
    eye,
    from_numpy,
    full,
    linspace,
    ones,
    waitall,
    zeros,
)
from bucketmod.ndarray.ndarray import NDArray
from bucketmod.ndarray.operation import OPERATIONS
from bucketmod.ndarray.serialization import load, load_frombuffer, save

OPERATIONS.update(
    {
        "random_uniform": random.uniform, "uniform": random.uniform, "random_normal": random.normal,
        "normal": random.normal, "random_randint": random.randint, "shuffle": random.shuffle,
    }
)  # fmt: skip

__all__ = [
    "NDArray", "arange", "array", "concatenate", "elementwise", "empty", "eye", "from_numpy", "full", "layers",
    "linear", "linspace", "load", "load_frombuffer", "ones", "random", "reduction", "save", "selection", "shaping",
    "sparse", "updates", "waitall", "zeros",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """The functions of the families, ``mx.nd.softmax`` and so on."""
    try:
        return OPERATIONS[name]
    except KeyError:
        raise AttributeError(f"mx.nd has no function {name!r}") from None


def __dir__() -> list[str]:
    return sorted({*globals(), *OPERATIONS})
