"""What every store offers, the registry of stores, and the plainest store."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, ClassVar

from bucketmod.ndarray import NDArray


class KVStoreBase:
    """Base of stores: a module takes any object of a class derived from this one.

    Keys are int or str; values and outs are an NDArray, or a list with one for each device.
    """

    OPTIMIZER: ClassVar[str] = "optimizer"
    kv_registry: ClassVar[dict[str, type[KVStoreBase]]] = {}

    @staticmethod
    def register(klass: type[KVStoreBase]) -> type[KVStoreBase]:
        """Class decorator: makes ``klass`` known to ``create`` by its lower-case name; warns when that was taken."""
        assert isinstance(klass, type), f"register() takes a class, got {klass!r}"
        name = klass.__name__.lower()
        old = KVStoreBase.kv_registry.get(name)
        if old is not None:
            warnings.warn(
                f"kvstore {name!r} is now {klass.__module__}.{klass.__name__}, no longer {old.__module__}."
                f"{old.__name__}",
                stacklevel=2,
            )
        KVStoreBase.kv_registry[name] = klass
        return klass

    def broadcast(self, key: Any, value: Any, out: Any, priority: int = 0) -> None:
        """Gives the value of the first worker to every ``out``."""
        raise NotImplementedError(f"{type(self).__name__}.broadcast")

    def pushpull(self, key: Any, value: Any, out: Any = None, priority: int = 0) -> None:
        """Adds ``value`` up over devices and workers, and copies the result to ``out`` (None: into ``value``)."""
        raise NotImplementedError(f"{type(self).__name__}.pushpull")

    def set_optimizer(self, optimizer: Any) -> None:
        """Lets the store update its values by what is pushed."""
        raise NotImplementedError(f"{type(self).__name__}.set_optimizer")

    def is_capable(self, capability: str) -> bool:
        """Whether the store can do something, such as ``KVStoreBase.OPTIMIZER``. ValueError for unknown words."""
        raise NotImplementedError(f"{type(self).__name__}.is_capable")

    def save_optimizer_states(self, fname: str, dump_optimizer: bool = False) -> None:
        """Writes the states of the store's optimizer (and the optimizer, if asked) to a file."""
        raise NotImplementedError(f"{type(self).__name__}.save_optimizer_states")

    def load_optimizer_states(self, fname: str) -> None:
        """Reads what ``save_optimizer_states`` wrote."""
        raise NotImplementedError(f"{type(self).__name__}.load_optimizer_states")

    @property
    def type(self) -> str:
        """The name of this kind of store."""
        raise NotImplementedError(f"{type(self).__name__}.type")

    @property
    def rank(self) -> int:
        """The number of this worker, from 0."""
        raise NotImplementedError(f"{type(self).__name__}.rank")

    @property
    def num_workers(self) -> int:
        """How many workers (machines) there are."""
        raise NotImplementedError(f"{type(self).__name__}.num_workers")


@KVStoreBase.register
class TestStore(KVStoreBase):
    """The plainest store, for tests of what uses one: it keeps nothing and has no optimizer."""

    __test__ = False  # not a test case, whatever its name says to pytest

    def broadcast(self, key: Any, value: NDArray, out: Any, priority: int = 0) -> None:
        for each in _listed(out):
            each[:] = value

    def pushpull(self, key: Any, value: Any, out: Any = None, priority: int = 0) -> None:
        """The sum goes to ``out``, or into every array of a list ``value``; an array alone stays as it is."""
        if isinstance(value, NDArray):
            for each in _listed(out) if out is not None else ():
                each[:] = value
            return
        total = value[0].copy()
        for each in value[1:]:
            total += each
        for each in value if out is None else _listed(out):
            each[:] = total

    @staticmethod
    def is_capable(capability: str) -> bool:  # type: ignore[override]
        if capability.lower() == KVStoreBase.OPTIMIZER:
            return False
        raise ValueError(f"Unknown capability: {capability}")

    @property
    def type(self) -> str:
        return "teststore"

    @property
    def rank(self) -> int:
        return 0

    @property
    def num_workers(self) -> int:
        return 1


def _listed(arrays: NDArray | Sequence[NDArray]) -> list[NDArray]:
    return [arrays] if isinstance(arrays, NDArray) else list(arrays)
