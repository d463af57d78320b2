"""What a module's training consists of beside its parameters, as plain data that a checkpoint can hold."""

from __future__ import annotations

from typing import Any

import numpy as np

from bucketmod.base import MXNetError
from bucketmod.checkpoint.progress import get_updater_progress, set_updater_progress
from bucketmod.kvstore import KVStore
from bucketmod.optimizer import Updater
from bucketmod.runtime.memory import aligned_zeros


def get_module_progress(module: Any) -> dict[str, Any]:
    """{"updater": the optimizer with its states, or None; "states": the module's states; "residuals": what compression
    of gradients has not sent yet}.

    NotImplementedError for a module whose optimizer is not found: leaving it out would not go unnoticed later.
    """
    updater = _updater(module)
    if updater is None and module.optimizer_initialized and module.get_params()[0]:
        raise NotImplementedError(f"{type(module).__name__}.get_progress: how this module keeps its optimizer")
    stateful = module.binded and getattr(module, "_state_names", None)
    states = module.get_states(merge_multi_context=False) if stateful else []
    return {
        "updater": None if updater is None else get_updater_progress(updater),
        "states": states,
        "residuals": dict(_residuals(module) or {}),
    }


def set_module_progress(module: Any, progress: Any) -> None:
    """Takes what ``get_module_progress`` gave. MXNetError unless the module has an optimizer where that one had, of the
    same class, and for damaged data."""
    if not isinstance(progress, dict):
        raise MXNetError(f"damaged progress: {type(progress)}, expected a dict")
    updater, saved = _updater(module), progress.get("updater")
    if saved is not None:
        if updater is None:
            raise MXNetError("the checkpoint has optimizer states, the module has no optimizer: call init_optimizer()")
        set_updater_progress(updater, saved)
        _set_store_values(module)
    if states := progress.get("states"):
        module.set_states(states=states)
    residuals, own = progress.get("residuals") or {}, _residuals(module)
    if not isinstance(residuals, dict) or any(not isinstance(array, np.ndarray) for array in residuals.values()):
        raise MXNetError("damaged progress: the residuals of gradient compression are no arrays")
    if residuals and own is None:
        raise MXNetError("the checkpoint was made with gradient compression, the module has none: compression_params")
    for key, array in residuals.items():
        own[key] = aligned_zeros(array.shape, array.dtype)
        own[key][...] = array


def _updater(module: Any) -> Updater | None:
    """Of the module, or of the store that updates for it."""
    own, store = getattr(module, "_updater", None), getattr(module, "_kvstore", None)
    found = own if own is not None else getattr(store, "_updater", None)
    return found if isinstance(found, Updater) else None


def _residuals(module: Any) -> Any:
    """By key and device; None without gradient compression."""
    return getattr(getattr(getattr(module, "_kvstore", None), "_compression", None), "residuals", None)


def _set_store_values(module: Any) -> None:
    """A store that updates has parameters of its own: they become the module's."""
    store = getattr(module, "_kvstore", None)
    if not getattr(module, "_update_on_kvstore", False) or not isinstance(store, KVStore):
        return
    for name, array in module.get_params()[0].items():
        if name in store._values:
            array.copyto(store._values[name])
