"""What training changes beside the parameters, as plain data: optimizers, schedules, generators of random numbers."""

from __future__ import annotations

import logging
import random as python_random
from typing import Any

import numpy as np

from bucketmod.base import MXNetError
from bucketmod.checkpoint import tree
from bucketmod.lr_scheduler import LRScheduler
from bucketmod.ndarray import random as mx_random
from bucketmod.optimizer import Updater
from bucketmod.runtime.optimizer_state import OptimizerState

# Kept apart or made anew by the constructor: objects of this process, and a second name for one of the counts.
_NOT_PROGRESS = ("kernels", "param_dict", "sym_info", "idx2name", "lr_scheduler", "_index_update_count")


def get_updater_progress(updater: Updater) -> dict[str, Any]:
    """States of all parameters, and everything that the optimizer counts and its schedule remembers.

    Attributes of a user's optimizer that are no plain data are left out, with a warning.
    """
    optimizer = updater.optimizer
    return {
        "optimizer": _class_name(optimizer),
        "attributes": _plain_attributes(optimizer, _NOT_PROGRESS),
        "schedule": _schedule_progress(optimizer.lr_scheduler),
        "states": dict(updater.states),
    }


def set_updater_progress(updater: Updater, progress: Any) -> None:
    """Goes on where ``get_updater_progress`` was asked.

    MXNetError unless the optimizer and its schedule are of the classes that they were then, and for damaged data.
    """
    optimizer = updater.optimizer
    wanted = _entry(progress, "optimizer", str)
    if wanted != _class_name(optimizer):
        raise MXNetError(f"the checkpoint was made with the optimizer {wanted}, this one is {_class_name(optimizer)}")
    attributes = _entry(progress, "attributes", dict)
    schedule = progress.get("schedule")
    if (schedule is None) != (optimizer.lr_scheduler is None):
        raise MXNetError("the checkpoint and the optimizer must both have an lr_scheduler, or none")
    _set_attributes(optimizer, attributes, _NOT_PROGRESS)
    counts = optimizer._all_index_update_counts
    if not all(isinstance(of_device, dict) for of_device in counts.values()):
        raise MXNetError("damaged update counts in the checkpoint")
    optimizer._index_update_count = counts.setdefault(0, {})
    if schedule is not None:
        _set_schedule_progress(optimizer.lr_scheduler, schedule)
    states = _entry(progress, "states", dict)
    updater.states = OptimizerState(states)
    updater.states_synced = dict.fromkeys(states, False)


def _schedule_progress(schedule: Any) -> dict[str, Any] | None:
    """None without a schedule. A plain function has no state, so it is only named."""
    if schedule is None:
        return None
    attributes = _plain_attributes(schedule, ()) if isinstance(schedule, LRScheduler) else {}
    return {"class": _class_name(schedule), "attributes": attributes}


def _set_schedule_progress(schedule: Any, progress: Any) -> None:
    wanted = _entry(progress, "class", str)
    if wanted != _class_name(schedule):
        raise MXNetError(f"the checkpoint was made with the schedule {wanted}, this one is {_class_name(schedule)}")
    _set_attributes(schedule, _entry(progress, "attributes", dict), ())


def _class_name(thing: Any) -> str:
    return type(thing).__name__


def _plain_attributes(thing: Any, without: tuple[str, ...]) -> dict[str, Any]:
    found, left = {}, []
    for name, value in vars(thing).items():
        if name in without:
            continue
        try:
            tree.encode(value, [])
        except TypeError:
            left.append(name)
        else:
            found[name] = value
    if left:
        logging.warning("%s: %s cannot be saved in a checkpoint", _class_name(thing), ", ".join(left))
    return found


def _set_attributes(thing: Any, attributes: dict[str, Any], without: tuple[str, ...]) -> None:
    """Only those that ``thing`` has itself: nothing that a file says can hide a method."""
    own = vars(thing)
    for name, value in attributes.items():
        if name not in own or name in without:
            raise MXNetError(f"{_class_name(thing)} has no attribute {name!r} to take from a checkpoint")
        if isinstance(own[name], dict) and not isinstance(value, dict):
            raise MXNetError(f"{_class_name(thing)}.{name} must be a dict, the checkpoint has {type(value)}")
    own.update(attributes)


def _entry(progress: Any, name: str, kind: type) -> Any:
    value = progress.get(name) if isinstance(progress, dict) else None
    if not isinstance(value, kind):
        raise MXNetError(f"damaged progress: {name!r} is {type(value)}, expected {kind.__name__}")
    return value


# ---- random numbers


def get_random_states() -> dict[str, Any]:
    """The states of ``mx.random``, ``numpy.random`` and ``random``: iterators shuffle by the latter two."""
    legacy: Any = np.random.get_state(legacy=False)
    legacy["state"]["key"] = legacy["state"]["key"].astype(np.int64)
    return {"mx": mx_random.get_state(), "numpy": legacy, "python": python_random.getstate()}


def set_random_states(states: Any) -> None:
    """Goes on with the random numbers of ``get_random_states``. MXNetError for damaged data."""
    legacy = _entry(states, "numpy", dict)
    try:
        key, place = legacy["state"]["key"], legacy["state"]["pos"]
        if key.shape != (624,) or type(place) is not int or not 0 <= place <= 624:  # numpy does not look itself
            raise ValueError("the state of numpy.random does not fit its generator")
        np.random.set_state({**legacy, "state": {"key": key.astype(np.uint32), "pos": place}})
        python_random.setstate(states["python"])
        mx_random.set_state(states["mx"])
    except (LookupError, TypeError, AttributeError, OverflowError, ValueError) as error:
        raise MXNetError(f"damaged states of random numbers in the checkpoint: {error}") from None

