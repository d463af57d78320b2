"""Stores of one process: gradients of its contexts are added up, and parameters updated, in main memory."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bucketmod import binding
from bucketmod import optimizer as opt
from bucketmod.atomic_file import replacing
from bucketmod.base import MXNetError
from bucketmod.kvstore.base import KVStoreBase
from bucketmod.kvstore.compression import TwoBitCompression, parse_threshold
from bucketmod.kvstore.keys import Key, flattened, pairs
from bucketmod.ndarray import NDArray
from bucketmod.ndarray.sparse import RowSparseNDArray, add_rows, pull_rows
from bucketmod.optimizer.gradient_sum import GradientSum
from bucketmod.runtime.memory import aligned_empty

_MANY_ELEMENTS = 1 << 14  # from here on, copying takes longer than starting a kernel
_LOCAL_TYPES = ("local", "device", "local_allreduce_cpu", "local_allreduce_device", "local_update_cpu")


class KVStore(KVStoreBase):
    """Values by key, made by ``create``; ``handle`` is the type's name.

    What is pushed for a key (an array for each device) is added up. Without an updater the sum becomes the value; with
    one, ``updater(key, sum, value)`` changes the value. All keys of a store are int, or all are str (MXNetError).

    ``kernels`` does the adding: numpy, until an optimizer or compression brings compiled kernels.
    """

    def __init__(self, handle: str) -> None:
        assert isinstance(handle, str), f"a KVStore is made by create(), from the name of a type; got {type(handle)}"
        self.handle = handle
        self.kernels: opt.UpdateKernels = opt.REFERENCE
        self._updater: Callable[[Any, Any, NDArray], Any] | None = None
        self._values: dict[Key, NDArray] = {}
        self._sums: dict[Key, NDArray] = {}  # where gradients are added up for the updater; made once for each key
        self._homes: dict[Key, NDArray] = {}  # arrays of a module that values live in: see share()
        self._row_sparse: set[Key] = set()  # whose values have this storage type for the caller; here all are dense
        self._compression: TwoBitCompression | None = None

    # ---- values

    def init(self, key: Any, value: Any) -> None:
        """Gives keys their first values, copies of ``value``. MXNetError for a key that has one already."""
        for each, arrays in flattened(key, value):
            self._check_kind(each)
            for array in arrays:
                if each in self._values:
                    raise MXNetError(
                        f"duplicate init of key {each}: init() and broadcast() take a key once; push() changes it"
                    )
                self._values[each] = array.copy() if array.stype == "default" else array.tostype("default")
                if array.stype != "default":
                    self._row_sparse.add(each)

    def push(self, key: Any, value: Any, priority: int = 0) -> None:
        """Adds arrays up over devices, in order, and puts the sum into the value (by the updater, if there is one).

        Row_sparse arrays give a row_sparse sum: an optimizer that is lazy touches their rows only. MXNetError for an
        unknown key, or arrays that differ in shape, dtype or storage type.
        """
        for each, arrays in pairs(key, value):
            if any(array.stype == "row_sparse" for array in arrays):
                self._push_rows(each, arrays)
            elif arrays:
                self._push(each, arrays)

    def _push_rows(self, key: Key, arrays: Sequence[Any]) -> None:
        stored = self._value(key)
        if self._compression is not None or any(array.stype != "row_sparse" for array in arrays):
            raise MXNetError(f"push of key {key!r}: row_sparse arrays come without compression and without dense ones")
        total = arrays[0] if len(arrays) == 1 else add_rows(arrays)
        if self._updater is not None:
            self._updater(key, total, stored)
        else:
            total.copyto(self._target(self._values, key, total))

    def _push(self, key: Key, arrays: Sequence[NDArray]) -> None:
        stored = self._value(key)
        if self._updater is None:
            self._add_up(key, arrays, self._target(self._values, key, arrays[0]))
            self._row_sparse.discard(key)
            return
        self._updater(key, self._sum(key, arrays), stored)

    def _sum(self, key: Key, arrays: Sequence[NDArray]) -> NDArray:
        """For the updater. Compiled kernels add the last two arrays up themselves, while they update."""
        if self._compression is None and len(arrays) == 1:
            return arrays[0]
        updater = self._updater
        if self._compression is not None or not (isinstance(updater, opt.Updater) and updater.optimizer.uses_kernels):
            return self._added(key, arrays)
        _check_alike(key, [array.numpy_view() for array in arrays])
        *others, last = arrays
        first = others[0] if len(others) == 1 else self._added(key, others)
        return GradientSum((first, last), lambda *_: self._added(key, arrays).numpy_view(), first.context)

    def _added(self, key: Key, arrays: Sequence[NDArray]) -> NDArray:
        total = self._target(self._sums, key, arrays[0])
        self._add_up(key, arrays, total)
        return total

    @staticmethod
    def _target(group: dict[Key, NDArray], key: Key, like: Any) -> NDArray:
        """The array of ``key`` in ``group``, replaced when its shape or dtype is another than that of ``like``."""
        known = group.get(key)
        if known is None or known.shape != like.shape or known.dtype != like.dtype:
            known = group[key] = NDArray(aligned_empty(like.shape, like.dtype), like.context)
        return known

    def _add_up(self, key: Key, arrays: Sequence[NDArray], total: NDArray) -> None:
        views, target = [array.numpy_view() for array in arrays], total.numpy_view()
        _check_alike(key, views)
        if self._compression is not None:
            self._compression.add_up(key, views, target)
        elif len(views) == 1:
            self.kernels.run("copy_one", (target, views[0]))
        else:
            self.kernels.run("add_two", (target, *views[:2]))
            for view in views[2:]:
                self.kernels.run("add_one", (target, view))

    def pull(self, key: Any, out: Any = None, priority: int = 0, ignore_sparse: bool = True) -> None:
        """Copies values to ``out``, one or many arrays for a key. MXNetError for unknown keys and other shapes.

        ``ignore_sparse``: row_sparse arrays in ``out`` stay as they are; ``row_sparse_pull`` fills them.
        """
        assert out is not None, "pull() needs out"
        for each, arrays in flattened(key, out):
            value = self._value(each)
            self._copy_out(value, [array for array in arrays if array.stype == "default"])
            home = self._homes.get(each)
            if home is not None and any(array.numpy_view() is home.numpy_view() for array in arrays):
                self._values[each] = home  # which holds the value again
            for array in arrays:
                if array.stype != "default" and not ignore_sparse:
                    array[:] = value

    def pushpull(self, key: Any, value: Any, out: Any = None, priority: int = 0) -> None:
        """``push``, then ``pull`` to ``out``, or into the pushed arrays when ``out`` is None."""
        self.push(key, value, priority)
        self.pull(key, value if out is None else out, priority)

    def _copy_out(self, value: NDArray, arrays: Sequence[NDArray]) -> None:
        """As ``pull``, two large arrays at a time: the value is read once for both, and all cores copy.

        Arrays that share memory get it once, and the memory that the value lives in needs nothing.
        """
        source = value.numpy_view()
        targets = {id(array.numpy_view()): array for array in arrays if array.numpy_view() is not source}
        views = [array.numpy_view() for array in targets.values()]
        alike = all(view.shape == source.shape and view.dtype == source.dtype for view in views)
        if source.size < _MANY_ELEMENTS or not alike:
            for array in targets.values():
                value.copyto(array)
            return
        for start in range(0, len(views) - 1, 2):
            self.kernels.run("copy_two", (*views[start : start + 2], source))
        if len(views) % 2:
            self.kernels.run("copy_one", (views[-1], source))

    def share(self, key: Key, home: NDArray) -> None:
        """Lets the value of ``key`` live in ``home``, an array that it was pulled to: an update changes both at once.

        Before anybody else writes to ``home``, ``keep_apart`` is due. MXNetError for an unknown key.
        """
        value = self._value(key)
        self._values[key] = self._homes[key] = NDArray(home.numpy_view(), value.context)

    def push_to_homes(self, keys: Sequence[Key], gradients: Sequence[Sequence[NDArray]]) -> bool:
        """``pushpull`` of all keys to their homes at once, which is one call of the optimizer and no copy. Does nothing
        and returns False unless all values live there, and an optimizer takes what is pushed as it is."""
        updater, homes = self._updater, [self._homes.get(key) for key in keys]
        if self._compression is not None or not isinstance(updater, opt.Updater):
            return False
        values = [home for key, home in zip(keys, homes, strict=True) if home is not None and home is self._values[key]]
        if len(values) < len(keys):
            return False
        updater(list(keys), [self._sum(key, arrays) for key, arrays in zip(keys, gradients, strict=True)], values)
        return True

    def keep_apart(self) -> None:
        """Has every value that lives in a shared array in memory of the store's own, until it is pulled there again."""
        for key, home in self._homes.items():
            if self._values[key] is home:
                self._values[key] = home.copy()

    def forget_homes(self) -> None:
        """Ends all sharing: values stay in memory of the store's own."""
        self.keep_apart()
        self._homes.clear()

    def broadcast(self, key: Any, value: Any, out: Any, priority: int = 0) -> None:
        """``init`` with ``value``, then ``pull`` to ``out``."""
        self.init(key, value)
        self.pull(key, out, priority)

    def row_sparse_pull(self, key: Any, out: Any = None, priority: int = 0, row_ids: Any = None) -> None:
        """Fills row_sparse arrays with the rows that ``row_ids`` name, each once and in order.

        ``row_ids``: an array for each ``out``, or one for all. AssertionError unless their numbers agree; MXNetError
        where the value or ``out`` is dense, and for rows that the value does not have.
        """
        assert out is not None, "row_sparse_pull() needs out"
        assert row_ids is not None, "row_sparse_pull() needs row_ids"
        targets = [(each, array) for each, arrays in flattened(key, out) for array in arrays]
        ids = [row_ids] if isinstance(row_ids, NDArray) else list(row_ids)
        if isinstance(key, (list, tuple)):
            ids = [array for _, arrays in flattened(key, ids) for array in arrays]
        ids = ids * len(targets) if len(ids) == 1 else ids
        assert len(ids) == len(targets), f"{len(ids)} arrays of row_ids do not match {len(targets)} outs"
        for (each, array), rows in zip(targets, ids, strict=True):
            value = self._value(each)
            if each not in self._row_sparse or not isinstance(array, RowSparseNDArray):
                raise MXNetError(f"row_sparse_pull of key {each!r}: the value and out must have row_sparse storage")
            pull_rows(value, rows, array)

    def _value(self, key: Key) -> NDArray:
        self._check_kind(key)
        if key not in self._values:
            raise MXNetError(f"key {key} has not been inited: call init() before push() and pull()")
        return self._values[key]

    def _check_kind(self, key: Key) -> None:
        first = next(iter(self._values), key)
        if isinstance(first, str) != isinstance(key, str):
            raise MXNetError(f"Mixed key types are not allowed: the store has keys like {first!r}, got {key!r}")

    # ---- updates

    def is_capable(self, capability: str) -> bool:
        """True for "optimizer". ValueError for other words."""
        if capability.lower() == KVStoreBase.OPTIMIZER:
            return True
        raise ValueError(f"Unknown capability: {capability}")

    def set_optimizer(self, optimizer: opt.Optimizer) -> None:
        """From now on pushed gradients update the values by ``optimizer``, with states of the store's own.

        An optimizer that uses kernels gets compiled ones, found or compiled; raises what ``binding.obtain`` does.
        """
        if optimizer.uses_kernels:
            if optimizer.kernels is opt.REFERENCE:
                optimizer.kernels = self._compiled_kernels()
            self.kernels = optimizer.kernels
        self._set_updater(opt.get_updater(optimizer))

    def set_gradient_compression(self, compression_params: Any) -> None:
        """Compresses what is pushed from now on: ``{"type": "2bit", "threshold": 0.5}``, see ``TwoBitCompression``.

        For "device" stores (Exception for others, as in MXNet); AssertionError and MXNetError for unfit parameters.
        """
        if "device" not in self.type:
            raise Exception(f"Gradient compression is not supported for a {self.type!r} kvstore; make a 'device' one")
        threshold = parse_threshold(compression_params)
        if self._compression is None:
            self._compression = TwoBitCompression(threshold, self._compiled_kernels())
        self._compression.threshold = threshold

    def _compiled_kernels(self) -> opt.UpdateKernels:
        if self.kernels is opt.REFERENCE:
            self.kernels = opt.CompiledKernels(binding.update_kernels(binding.default_target()))
        return self.kernels

    def _set_updater(self, updater: Callable[[Any, Any, NDArray], Any]) -> None:
        """``updater(key, pushed sum, value)`` changes the value in place at every push."""
        self._updater = updater

    def save_optimizer_states(self, fname: str, dump_optimizer: bool = False, format: str = "bucketmod") -> None:
        """Writes the states (and the optimizer, if asked); ``format``: as for ``Updater.get_states``. AssertionError
        without an optimizer."""
        assert isinstance(self._updater, opt.Updater), "the store has no optimizer: call set_optimizer() before saving"
        states = self._updater.get_states(dump_optimizer, format)
        with replacing(fname) as stream:
            stream.write(states)

    def load_optimizer_states(self, fname: str) -> None:
        """Reads what ``save_optimizer_states`` wrote. AssertionError without an optimizer."""
        assert isinstance(self._updater, opt.Updater), "the store has no optimizer: call set_optimizer() before loading"
        with open(fname, "rb") as file:
            self._updater.set_states(file.read())

    # ---- what it is

    @property
    def type(self) -> str:
        """The name that it was made with."""
        return self.handle

    @property
    def rank(self) -> int:
        """0: there is one worker."""
        return 0

    @property
    def num_workers(self) -> int:
        """1."""
        return 1

    def _barrier(self) -> None:
        """Returns at once: there is nobody to wait for."""

    def _send_command_to_servers(self, head: int, body: str) -> None:
        raise NotImplementedError("commands to servers: training on several machines (dist kvstores)")


def _check_alike(key: Key, views: Sequence[np.ndarray]) -> None:
    for view in views[1:]:
        if view.shape != views[0].shape or view.dtype != views[0].dtype:
            raise MXNetError(
                f"push of key {key!r}: arrays differ, {views[0].dtype}{views[0].shape} and {view.dtype}{view.shape}"
            )


def create(name: str = "local") -> KVStoreBase:
    """A store: "local", "device" (allows gradient compression), or the name of a registered class.

    Both do their work on the CPU. Names of no store give a local one, as in MXNet, with a warning. TypeError unless
    ``name`` is text; NotImplementedError for "dist..." (several machines), MXNetError for "nccl".
    """
    if not isinstance(name, str):
        raise TypeError(f"the name of a kvstore must be a string, got {name!r}")
    name = name.lower()
    if name in KVStoreBase.kv_registry:
        return KVStoreBase.kv_registry[name]()
    if "dist" in name:
        raise NotImplementedError(f"kvstore {name!r}: training on several machines")
    if name == "nccl":
        raise MXNetError("kvstore 'nccl': this build has no NCCL; use 'device'")
    if name not in _LOCAL_TYPES:
        warnings.warn(f"there is no kvstore {name!r}: this one works like 'local'", stacklevel=2)
    return KVStore(name)
