"""Choice by measurement: a kernel runs on this machine in each of the cuts that its model of cost holds for good, and
the fastest is kept. Models are right on average; a machine has caches, memory and neighbours of its own.
"""

from __future__ import annotations

import dataclasses
import functools
import statistics
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm

from bucketmod.compiler.kernels.kernel import Kernel
from bucketmod.compiler.lowering.host import load_functions
from bucketmod.compiler.target import Target
from bucketmod.runtime.memory import aligned_copy
from bucketmod.runtime.threads import kernel_threads

# All forms take turns, in rounds, for this long; so many rounds are the fewest, for kernels that take long.
_SECONDS, _ROUNDS = 0.5, 5
# An alternative is chosen where it needs at most this share of the time, in two series of measurements: the best of
# several would seem a little faster than it is.
_WORTH = 0.98
_KEPT = 512  # choices that a process remembers: programs of other modes and buckets have kernels in common


@dataclass(frozen=True)
class Choice:
    """``kernel``: the form that was fastest of ``tried`` ones; ``speed``: beside what the model of cost chose."""

    kernel: Kernel
    tried: int
    speed: float


class Tuner:
    """Chooses how kernels of one program are cut. Raises ValueError where this machine cannot run the target."""

    def __init__(self, target: Target):
        target.check_host()
        kernel_threads()  # as many as the user's process will have
        self.target = target
        self.choices: dict[Kernel, Choice] = {}

    def choose(self, kernel: Kernel) -> Kernel:
        """``kernel``, or the alternative of it that is faster here."""
        if kernel not in self.choices:
            self.choices[kernel] = fastest(kernel, self.target)
        return self.choices[kernel].kernel

    def report(self) -> dict[str, str]:
        """What was chosen for each kernel that has alternatives, as the manifest tells it."""
        return {
            _description(kernel): f"{getattr(choice.kernel, 'cut', None) or 'as the model of cost says'}: "
            f"{choice.speed:.2f} times the speed of the model's choice, best of {choice.tried}"
            for kernel, choice in self.choices.items()
            if choice.tried > 1
        }


@functools.lru_cache(maxsize=_KEPT)
def fastest(kernel: Kernel, target: Target) -> Choice:
    """Measures ``kernel`` and its alternatives on all threads."""
    assert target.cpu is not None
    forms = [kernel, *kernel.alternatives(target.cpu)]
    if len(forms) == 1:
        return Choice(kernel, 1, 1.0)
    trials = _trials(forms, target)
    seconds = _measure(trials)
    best = min(range(len(forms)), key=seconds.__getitem__)
    if seconds[best] > _WORTH * seconds[0]:
        return Choice(kernel, len(forms), 1.0)
    before, after = _measure([trials[0], trials[best]])
    if after > _WORTH * before:
        return Choice(kernel, len(forms), 1.0)
    return Choice(forms[best], len(forms), before / after)


def _trials(forms: list[Kernel], target: Target) -> list[Any]:
    """A call of each form. All have the same inputs and outputs, so none finds its own in better places."""
    assert target.cpu is not None
    functions: dict[str, Any] = {f"form{i}": form.tuned(target.cpu) for i, form in enumerate(forms)}
    loaded = load_functions(functions, target)
    random = np.random.default_rng(0)
    shared: list[Any] = []
    trials = []
    for form, (name, function) in zip(forms, functions.items(), strict=True):
        buffers = list(function.params)
        common = len(buffers) - len(form.scratch(target.cpu))
        shared = shared or [_tensor(random, buffer) for buffer in buffers[:common]]
        own = [_tensor(random, buffer) for buffer in buffers[common:]]
        trials.append(functools.partial(loaded[name], *shared, *own))
    return trials


def _tensor(random: np.random.Generator, buffer: Any) -> Any:
    shape = tuple(int(size) for size in buffer.shape)
    values = random.standard_normal(shape, np.float32) / 10
    return tvm.runtime.from_dlpack(aligned_copy(values.astype(str(buffer.dtype))))


def _measure(trials: list[Any]) -> list[float]:
    """Median seconds of each, in rounds in which every one has a turn."""
    for trial in trials:
        trial()
    times: list[list[float]] = [[] for _ in trials]
    ends = time.perf_counter() + _SECONDS
    while time.perf_counter() < ends or len(times[-1]) < _ROUNDS:
        for trial, found in zip(trials, times, strict=True):
            started = time.perf_counter()
            trial()
            found.append(time.perf_counter() - started)
    return [statistics.median(found) for found in times]


def _description(kernel: Any) -> str:
    """The kernel's name and what its instance has other than by default."""
    values = {field.name: (getattr(kernel, field.name), field.default) for field in dataclasses.fields(kernel)}
    options = (f"{name}={value}" for name, (value, default) in values.items() if value != default)
    return " ".join([kernel.name, *options])
