"""Checkpoints of models: ``prefix-symbol.json`` and ``prefix-%04d.params``, each appearing whole or not at all."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from bucketmod import kvstore as kvs
from bucketmod import ndarray as nd
from bucketmod import symbol as sym
from bucketmod.base import MXNetError
from bucketmod.context import cpu
from bucketmod.ndarray import NDArray


class BatchEndParam(NamedTuple):
    """What callbacks get at the end of a batch: ``locals`` are the variables of the loop that called them."""

    epoch: int
    nbatch: int
    eval_metric: Any
    locals: dict[str, Any] | None


def save_checkpoint(
    prefix: str,
    epoch: int,
    symbol: Any,
    arg_params: Mapping[str, NDArray],
    aux_params: Mapping[str, NDArray],
    remove_amp_cast: bool = True,
) -> None:
    """Writes the symbol (unless None) and the parameters, under the names ``arg:...`` and ``aux:...``.

    Each file is written beside its place and renamed, so a crash leaves the last checkpoint whole.
    """
    if symbol is not None:
        symbol.save(f"{prefix}-symbol.json", remove_amp_cast=remove_amp_cast)
    arrays = {f"arg:{name}": values.as_in_context(cpu()) for name, values in arg_params.items()}
    arrays.update({f"aux:{name}": values.as_in_context(cpu()) for name, values in aux_params.items()})
    fname = f"{prefix}-{epoch:04d}.params"
    nd.save(fname, arrays)
    logging.info('Saved checkpoint to "%s"', fname)


def load_params(prefix: str, epoch: int) -> tuple[dict[str, NDArray], dict[str, NDArray]]:
    """(arguments, auxiliary states) by name from ``prefix-%04d.params``; warns when the file holds none.

    MXNetError when the file cannot be read or holds arrays without ``arg:`` or ``aux:`` names.
    """
    fname = f"{prefix}-{epoch:04d}.params"
    saved = nd.load(fname)
    if not saved:
        logging.warning("Params file '%s' is empty", fname)
        return {}, {}
    if not isinstance(saved, dict):
        raise MXNetError(f"{fname} holds a list of arrays; a checkpoint names them arg:... and aux:...")
    groups: dict[str, dict[str, NDArray]] = {"arg": {}, "aux": {}}
    for key, values in saved.items():
        kind, colon, name = key.partition(":")
        if not colon:
            raise MXNetError(f"{fname} holds an array named {key!r}; a checkpoint names them arg:... and aux:...")
        groups.setdefault(kind, {})[name] = values
    return groups["arg"], groups["aux"]


def load_checkpoint(prefix: str, epoch: int) -> tuple[Any, dict[str, NDArray], dict[str, NDArray]]:
    """(symbol, arguments, auxiliary states) of ``save_checkpoint``. MXNetError when a file is missing or damaged."""
    return (sym.load(f"{prefix}-symbol.json"), *load_params(prefix, epoch))


# ---- updates by way of a store: what Module and the old training loops share

_MOST_ELEMENTS = 16 * 1024 * 1024  # a local store does not update parameters larger than this


def _create_sparse_kvstore(kvstore: Any) -> tuple[kvs.KVStoreBase, bool]:
    """(store, True) for parameters that are row_sparse. TypeError unless a KVStore or a name."""
    if not isinstance(kvstore, (kvs.KVStore, str)):
        raise TypeError(f"row_sparse parameters need a KVStore or the name of one, got {kvstore!r}")
    store = kvs.create(kvstore) if isinstance(kvstore, str) else kvstore
    assert store.is_capable(kvs.KVStoreBase.OPTIMIZER), "row_sparse parameters need a store that runs an optimizer"
    return store, True


def _create_kvstore(
    kvstore: Any, num_device: int, arg_params: Mapping[str, NDArray]
) -> tuple[kvs.KVStoreBase | None, bool]:
    """(store or None, whether it updates the parameters) for a store, a name or None; TypeError for anything else.

    One device needs no store. ``MXNET_UPDATE_ON_KVSTORE=0``, a store without an optimizer, or a local one with a
    parameter of more than 16M elements, leaves the update to the devices.
    """
    on_store = bool(int(os.getenv("MXNET_UPDATE_ON_KVSTORE", "1")))
    store: kvs.KVStoreBase | None
    if kvstore is None or isinstance(kvstore, kvs.KVStoreBase):
        store = kvstore
    elif not isinstance(kvstore, str):
        raise TypeError(f"kvstore must be KVStore, str or None, got {type(kvstore)}")
    elif num_device == 1 and "dist" not in kvstore:
        store = None
    else:
        store = kvs.create(kvstore)
        if kvstore == "local" and any(param.size > _MOST_ELEMENTS for param in arg_params.values()):
            on_store = False
    return store, store is not None and on_store and store.is_capable(kvs.KVStoreBase.OPTIMIZER)


def _initialize_kvstore(
    kvstore: Any,
    param_arrays: Sequence[Sequence[NDArray]],
    arg_params: Mapping[str, NDArray],
    param_names: Sequence[str],
    update_on_kvstore: bool,
) -> None:
    """Gives a store the parameters; the devices' arrays (a list a parameter) get them too when it updates them.

    Stores of the user's own need no ``init``: those without get the parameters by ``broadcast`` too.
    """
    broadcasts = update_on_kvstore or not hasattr(kvstore, "init")
    for name, on_devices in zip(param_names, param_arrays, strict=False):
        if broadcasts and arg_params[name].stype == "default":
            kvstore.broadcast(name, arg_params[name], out=on_devices)
        else:
            kvstore.init(name, arg_params[name])


def _trained(
    param_arrays: Sequence[Sequence[NDArray]], grad_arrays: Sequence[Sequence[NDArray | None]]
) -> list[tuple[int, list[NDArray], list[NDArray]]]:
    """(position, arrays on the devices, gradients on the devices) of the parameters that have gradients."""
    found = []
    for index, (arrays, grads) in enumerate(zip(param_arrays, grad_arrays, strict=False)):
        present = [grad for grad in grads if grad is not None]
        if present and grads[0] is not None:
            found.append((index, list(arrays), present))
    return found


def _update_params_on_kvstore(
    param_arrays: Sequence[Sequence[NDArray]],
    grad_arrays: Sequence[Sequence[NDArray | None]],
    kvstore: Any,
    param_names: Sequence[str],
) -> None:
    """The store adds gradients up and updates; every device gets the new parameter. Keys are parameter names."""
    for index, arrays, grads in _trained(param_arrays, grad_arrays):
        kvstore.pushpull(param_names[index], grads, out=arrays, priority=-index)


def _update_params_on_kvstore_nccl(
    param_arrays: Sequence[Sequence[NDArray]],
    grad_arrays: Sequence[Sequence[NDArray | None]],
    kvstore: Any,
    param_names: Sequence[str],
) -> None:
    """As ``_update_params_on_kvstore``, several parameters a call (``MXNET_UPDATE_AGGREGATION_SIZE``, 16)."""
    found = _trained(param_arrays, grad_arrays)
    size = int(os.getenv("MXNET_UPDATE_AGGREGATION_SIZE", "16"))
    for start in range(0, len(found), size):
        part = found[start : start + size]
        kvstore.pushpull(
            [param_names[index] for index, _, _ in part],
            [grads for _, _, grads in part],
            out=[arrays for _, arrays, _ in part],
            priority=-start,
        )


def _update_params(
    param_arrays: Sequence[Sequence[NDArray]],
    grad_arrays: Sequence[Sequence[NDArray | None]],
    updater: Callable[..., Any],
    num_device: int,
    kvstore: Any = None,
    param_names: Sequence[str] | None = None,
) -> None:
    """Each device updates its own arrays, after a store (if any) has added gradients up for all of them.

    The updater's index is position * num_device + device, so that every device keeps states of its own.
    """
    updates: list[list[tuple[int, NDArray, NDArray]]] = [[] for _ in range(num_device)]
    for index, arrays, grads in _trained(param_arrays, grad_arrays):
        if kvstore is not None:
            assert param_names is not None, "a store knows parameters by name: give param_names"
            kvstore.pushpull(param_names[index], grads, priority=-index)
        for device, (array, grad) in enumerate(zip(arrays, grads, strict=False)):
            updates[device].append((index * num_device + device, grad, array))
    for of_device in updates:
        if of_device:
            updater(*(list(column) for column in zip(*of_device, strict=True)))


def __getattr__(name: str) -> Any:
    """``mx.model.FeedForward``, which is built on modules, and they on this file."""
    if name == "FeedForward":
        from bucketmod.feedforward import FeedForward

        return FeedForward
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
