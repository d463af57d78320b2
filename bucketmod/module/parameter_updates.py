"""How parameters follow their gradients: on each context by an updater, or on a store that all contexts share."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bucketmod import binding
from bucketmod import optimizer as opt
from bucketmod.atomic_file import replacing
from bucketmod.base import MXNetError
from bucketmod.context import Context
from bucketmod.kvstore import KVStore
from bucketmod.model import _create_kvstore, _initialize_kvstore
from bucketmod.module.context_memory import SharedMemory
from bucketmod.module.executor_group import DataParallelExecutorGroup
from bucketmod.ndarray import NDArray


class ParameterUpdates:
    """An optimizer with its states: one for all modules that share parameters.

    ``kvstore``: sums gradients over contexts; None: every context keeps to its own. ``on_kvstore``: the optimizer runs
    on the store, under the parameters' names; otherwise on each context, under position * contexts + context.
    ``updater``: what is called for the parameters; None on a store. ``own_store``: nobody else uses the store, so it
    and all contexts may hold a parameter in one array: they are equal after every update.
    """

    def __init__(
        self, optimizer: opt.Optimizer, kvstore: Any, on_kvstore: bool, param_names: Sequence[str],
        own_store: bool = False,
    ):  # fmt: skip
        self.optimizer = optimizer
        self.kvstore = kvstore
        self.on_kvstore = on_kvstore
        self.updater = None if on_kvstore else opt.get_updater(optimizer)
        self.own_store = own_store
        self._memory: SharedMemory | None = None  # whose arrays the store's values live in
        # Of the module that made the optimizer, so that states stay with their parameter in buckets that order
        # parameters differently.
        self._position = {name: position for position, name in enumerate(param_names)}

    def start(
        self, group: DataParallelExecutorGroup, arg_params: Mapping[str, NDArray], compression: Mapping[str, Any] | None
    ) -> None:
        """Gives the store, if there is one, the optimizer and the parameters' values. ``compression``: of the gradients
        that it exchanges."""
        group.memory.separate()
        if self.kvstore is None:
            return
        if isinstance(self.kvstore, KVStore) and self.optimizer.uses_kernels:
            self.kvstore.kernels = self.optimizer.kernels  # adding up is compiled where updating is
        if compression:
            self.kvstore.set_gradient_compression(compression)
        if self.on_kvstore:
            self.kvstore.set_optimizer(self.optimizer)
        _initialize_kvstore(self.kvstore, group.param_arrays, arg_params, group.param_names, self.on_kvstore)
        self._share(group)

    def _share(self, group: DataParallelExecutorGroup) -> None:
        """One array for each parameter, in main memory, where nobody can tell."""
        if not (self.own_store and self.on_kvstore and type(self.kvstore) is KVStore):
            return
        if len(group.contexts) < len(group.memory.contexts) or not all(map(_in_main_memory, group.contexts)):
            return  # a context left out may hold other values
        self._memory = group.memory
        for name, array in group.memory.share(self, group.param_names).items():
            self.kvstore.share(name, NDArray(array))

    def keep_apart(self) -> None:
        """The store keeps its values while others write to the contexts' parameters, as stores of their own do."""
        self.kvstore.keep_apart()

    def end_sharing(self) -> None:
        """Contexts and store go on with arrays of their own."""
        self.kvstore.forget_homes()
        self._memory = None

    def bind(self, group: DataParallelExecutorGroup) -> Callable[[], None]:
        """A function that changes the group's parameters by its gradients. MXNetError unless the group is bound for
        training and the optimizer knows all its parameters."""
        if group.memory.sharer is not self:
            group.memory.separate()
            if self._memory is not None:  # this module has other memory than the one whose optimizer it borrowed
                self._memory.separate()
        gradients = group.grad_arrays
        if gradients is None:
            raise MXNetError("update() needs a module that was bound with for_training=True")
        parameters = group.own_param_arrays() if self._writes_in_updates_only else group.param_arrays
        trained = [
            (name, own, grads)
            for name, own, grads in zip(group.param_names, parameters, gradients, strict=True)
            if grads[0] is not None
        ]
        if strangers := [name for name, _, _ in trained if name not in self._position]:
            raise MXNetError(f"the optimizer does not know {', '.join(strangers)}: it was made for another graph")
        exchange = self._exchange(trained)
        calls: list[Callable[[], Any]] = []
        if self.updater is not None:
            arguments = self._updater_calls(trained, len(group.contexts))
            calls = [functools.partial(self.updater, *each) for each in arguments]

        def update() -> None:
            try:
                exchange()
                for call in calls:
                    call()
            finally:
                group.parameters_changed()

        return update

    @property
    def _writes_in_updates_only(self) -> bool:
        """Whether nobody keeps the parameters' arrays, to write to them at other times: stores may, and so may
        optimizers of users."""
        return self.kvstore is None and type(self.optimizer).__module__.startswith(f"{opt.__name__}.")

    def _updater_calls(
        self, trained: Sequence[tuple[str, list[NDArray], Any]], contexts: int
    ) -> list[tuple[list[int], list[NDArray], list[NDArray]]]:
        """(indices, gradients, parameters) for each context: states are kept apart by the index."""
        return [
            (
                [self._position[name] * contexts + context for name, _, _ in trained],
                [grads[context] for _, _, grads in trained],
                [own[context] for _, own, _ in trained],
            )
            for context in range(contexts)
        ]

    def _exchange(self, trained: Sequence[tuple[str, list[NDArray], Any]]) -> Callable[[], None]:
        """Through the store: gradients in, new parameters out, or the sum of the gradients when it has no optimizer."""
        store, on_store = self.kvstore, self.on_kvstore
        shares = self._memory is not None
        names, gradients = [name for name, _, _ in trained], [grads for _, _, grads in trained]

        def exchange() -> None:
            if store is None or (shares and store.push_to_homes(names, gradients)):
                return
            for position, (name, own, grads) in enumerate(trained):
                store.pushpull(name, grads, out=own if on_store else None, priority=-position)

        return exchange

    def pull_rows(self, group: DataParallelExecutorGroup, row_ids: Mapping[str, Any]) -> None:
        """From the store into row_sparse parameters: the rows that ``row_ids`` has for their names. Dense ones have all
        their rows: a warning. ValueError for a name that is no parameter."""
        for name, rows in row_ids.items():
            position = group.param_names.index(name)
            arrays = group.param_arrays[position]
            if arrays[0].stype == "row_sparse":
                self.kvstore.row_sparse_pull(name, arrays, row_ids=rows, priority=-position)
            else:
                warnings.warn(f"{name}.stype is not 'row_sparse'. No need to perform row_sparse_pull.", stacklevel=3)

    def save_states(self, fname: str) -> None:
        """Writes the optimizer's states (not its counts)."""
        if self.updater is None:
            self.kvstore.save_optimizer_states(fname)
            return
        states = self.updater.get_states()
        with replacing(fname) as stream:
            stream.write(states)

    def load_states(self, fname: str) -> None:
        """Reads what ``save_states`` wrote."""
        if self.updater is None:
            self.kvstore.load_optimizer_states(fname)
            return
        with open(fname, "rb") as file:
            self.updater.set_states(file.read())


def _in_main_memory(context: Context) -> bool:
    return context.device_type in ("cpu", "cpu_pinned", "cpu_shared")


def make_optimizer(
    optimizer: Any, options: Mapping[str, Any], symbol: Any, index_names: Mapping[Any, str], batch_size: int
) -> opt.Optimizer:
    """By name with ``options``, or an Optimizer as it is; with compiled kernels where its class uses them.

    By name, gradients are divided by the batch size unless ``options`` has ``rescale_grad``; an Optimizer that does
    otherwise gets a warning. AssertionError for another type.
    """
    rescale_grad = 1.0 / batch_size
    if isinstance(optimizer, str):
        options = {"rescale_grad": rescale_grad, **options}
        optimizer = opt.create(optimizer, sym=symbol, param_idx2name=dict(index_names), **options)
    else:
        assert isinstance(optimizer, opt.Optimizer), f"expected a name or an Optimizer, got {type(optimizer)}"
        if optimizer.rescale_grad != rescale_grad:
            warnings.warn(
                f"the optimizer's rescale_grad is {optimizer.rescale_grad}, not 1 / batch size ({rescale_grad}): "
                "gradients are sums over the batch; is this intended?",
                stacklevel=3,
            )
        if not optimizer.idx2name:
            optimizer.idx2name = dict(index_names)
    if optimizer.uses_kernels and optimizer.kernels is opt.REFERENCE:
        optimizer.kernels = opt.CompiledKernels(binding.update_kernels(binding.default_target()))
    return optimizer


def create_store(kvstore: Any, contexts: int, arg_params: Mapping[str, NDArray]) -> tuple[Any, bool]:
    """(store or None, whether the optimizer runs on it) for what users pass as ``kvstore``."""
    if isinstance(kvstore, str) and "dist" in kvstore:
        raise NotImplementedError(f"kvstore {kvstore!r}: training on several machines")
    return _create_kvstore(kvstore, contexts, arg_params)
