"""Time of each kernel of a program: the same kernels in the same memory as compiled, but called one by one."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import tvm

from bucketmod.compiler.kernels.kernel import FLOPS
from bucketmod.compiler.lowering.calls import KernelCall, Storage
from bucketmod.compiler.lowering.host import PIPELINE, EntryPoint, build_module
from bucketmod.compiler.lowering.layout import make_entry
from bucketmod.compiler.pipeline import LoweredProgram, lower_program
from bucketmod.compiler.program import Program
from bucketmod.runtime.entry import entry_arguments
from bucketmod.runtime.gradient_rows import LIST, make_table
from bucketmod.runtime.memory import aligned_copy, aligned_empty


@dataclass
class KernelTime:
    """``calls`` of kernels with one name and the same shapes: ``seconds`` (sum over the calls, median over rounds),
    floating-point operations of matrix products, bytes read and written (each tensor counted once a call)."""

    name: str
    shapes: str
    calls: int
    seconds: float
    flops: int
    bytes: int


def profile_program(
    program: Program,
    mode: str,
    wrt: Sequence[str],
    target: str,
    values: Mapping[str, np.ndarray],
    rounds: int = 5,
    clock: Callable[[], float] = time.perf_counter,
) -> list[KernelTime]:
    """Runs every kernel in order, ``rounds`` times after a first one, and returns them with the slowest first; without
    those that run once for each set of parameters.

    ``values``: arrays of inputs by name; an input that is not among them holds small random numbers. ``clock``:
    seconds; ``time.process_time`` on a machine with other work to do. Raises ValueError where this machine cannot run
    code of the target.
    """
    lowered = lower_program(program, mode, wrt, target)
    lowered.target.check_host()
    once = [call for entry in lowered.layout.entries if entry.name == "prepare" for call in entry.calls]
    calls = [call for entry in lowered.layout.entries if entry.name != "prepare" for call in entry.calls]
    run = _runners(lowered, [*once, *calls], values)
    for function in run[: len(once)]:
        function()
    run = run[len(once) :]
    times = np.zeros((rounds + 1, len(calls)))
    for turn in range(rounds + 1):
        for index, function in enumerate(run):
            started = clock()
            function()
            times[turn, index] = clock() - started
    return _summarize(lowered, calls, np.median(times[1:], axis=0))


def _runners(
    lowered: LoweredProgram, calls: Sequence[KernelCall], values: Mapping[str, np.ndarray]
) -> list[Callable[[], None]]:
    layout = lowered.layout
    entries = [make_entry(f"kernel{index}", [call]) for index, call in enumerate(calls)]
    with lowered.context():
        module = build_module(lowered.functions, entries, layout.offsets, layout.workspace_bytes)
        library = tvm.tirx.build(module, lowered.target.tvm(), pipeline=PIPELINE)
    random = np.random.default_rng(0)
    ports = [port for port in layout.added if port.role == "gradient_rows"]
    known = {port.name: make_table((port.shape[0] - LIST) // 2, True) for port in ports} | dict(values)
    arrays: dict[Storage, np.ndarray] = {}
    for entry in entries:
        for storage in entry.arguments:
            if storage not in arrays:
                value = known.get(layout.names.get(storage, ""), storage.value)
                if value is None:
                    value = random.standard_normal(storage.shape) / 10
                arrays[storage] = aligned_copy(np.asarray(value).astype(storage.dtype).reshape(storage.shape))
    workspace = aligned_empty((max(layout.workspace_bytes, 1),), "uint8")
    workspace[:] = 0

    def runner(entry: EntryPoint) -> Callable[[], None]:
        used = [*(arrays[storage] for storage in entry.arguments), workspace]
        function, arguments = library[entry.name], entry_arguments(used)
        return lambda keep=used: function(*arguments)  # type: ignore[misc]  # keep: the arrays live as long

    return [runner(entry) for entry in entries]


def _summarize(lowered: LoweredProgram, calls: Sequence[KernelCall], seconds: np.ndarray) -> list[KernelTime]:
    flops = {}
    for var, function in lowered.functions.items():
        attributes = function.attrs or {}
        flops[var.name_hint] = int(attributes[FLOPS]) if FLOPS in attributes else 0
    read = {view.storage for call in calls for view in call.reads}
    read |= {storage for entry in lowered.layout.entries for storage in entry.arguments}
    found: dict[tuple[str, str], KernelTime] = {}
    for call, spent in zip(calls, seconds, strict=True):
        name = call.function.name_hint
        used = [view for view in call.writes if view.storage in read or len(call.writes) == 1]  # scratch is not counted
        views = [*call.reads, *used]
        shapes = " ".join("x".join(map(str, view.shape)) or "1" for view in views[:4])
        row = found.setdefault((name, shapes), KernelTime(name, shapes, 0, 0.0, 0, 0))
        row.calls += 1
        row.seconds += float(spent)
        row.flops += flops.get(name, 0)
        row.bytes += sum(int(np.prod(v.shape, dtype=np.int64)) * np.dtype(v.dtype).itemsize for v in views)
    return sorted(found.values(), key=lambda row: -row.seconds)
