"""Runs kernels and single functions for the tests: compiled for a CPU level, on arrays that start at 64 bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import tvm
from tvm import ir, tirx

from bucketmod.compiler.kernels.kernel import Kernel
from bucketmod.compiler.lowering.host import _FLATTEN, _NARROW, is_written, load_functions
from bucketmod.compiler.passes.schedule_cpu import schedule_cpu
from bucketmod.compiler.target import Target, parse_target
from bucketmod.runtime.cpu import host_flags
from bucketmod.runtime.memory import aligned_empty

TARGETS = [parse_target(f"cpu:x86-64-{level}") for level in ("v3", "v4", "v4-amx")]


def skip_without(target: Target) -> None:
    missing = set(target.cpu.flags) - host_flags()
    if missing:
        pytest.skip(f"this machine has no {', '.join(sorted(missing))}")


def final_form(kernel: Kernel, target: Target) -> tirx.PrimFunc:
    """What the compiler runs on ``target``: the tuned form, or the portable one as it schedules it."""
    return kernel.tuned(target.cpu) or scheduled(kernel.portable(), target)


def scheduled(function: tirx.PrimFunc, target: Target) -> tirx.PrimFunc:
    return schedule_cpu(function, target.cpu)


def build(functions: Sequence[tirx.PrimFunc], target: Target) -> list[Any]:
    """The functions compiled, in one module: much faster than one by one."""
    check_written(functions)
    names = [f"kernel{i}" for i in range(len(functions))]
    compiled = load_functions(dict(zip(names, functions, strict=True)), target)
    return [compiled[name] for name in names]


def check_written(functions: Sequence[tirx.PrimFunc]) -> None:
    """The passes that ``flatten`` spares kernels of a family would not change them."""
    module = tvm.IRModule({ir.GlobalVar(f"kernel{i}"): f for i, f in enumerate(functions) if is_written(f)})
    module = tvm.transform.Sequential(_FLATTEN)(module)
    tvm.ir.assert_structural_equal(tvm.transform.Sequential(_NARROW)(module), module)


def aligned(array: np.ndarray) -> np.ndarray:
    copy = aligned_empty(array.shape, array.dtype)
    copy[...] = array
    return copy


def call(
    function: tirx.PrimFunc, target: Target, inputs: Sequence[np.ndarray], outputs: int, built: Any = None
) -> list[np.ndarray]:
    """What ``function`` writes to its ``outputs`` buffers after the inputs, and to further ones, of scratch.

    They start as NaN, or as the largest number of an integer type: what is not written shows.
    """
    written = function.params[len(inputs) :]
    made = [aligned_empty(tuple(map(int, p.shape)), str(p.ty.dtype.dtype)) for p in written]
    for array in made:
        array[...] = np.nan if array.dtype.kind == "f" else True if array.dtype == bool else np.iinfo(array.dtype).max
    arrays = [*(aligned(x) for x in inputs), *made]
    (built or build([function], target)[0])(*map(tvm.runtime.from_dlpack, arrays))
    return made[:outputs]


def run_kernel(kernel: Kernel, target: Target, form: str, *inputs: np.ndarray) -> list[np.ndarray]:
    """``form``: "final" or "portable"."""
    function = final_form(kernel, target) if form == "final" else kernel.portable()
    return call(function, target, inputs, len(kernel.outputs))


def on_threads(count: int, work: Callable[[], Any]) -> Any:
    """What ``work`` returns, run where parallel loops have ``count`` threads.

    TVM makes a pool for every thread that starts such loops, as large as the environment says then.
    """
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(1) as fresh:
        patch.setenv("TVM_NUM_THREADS", str(count))
        return fresh.submit(work).result()
