#!/usr/bin/env python3
"""Speed of the matrix products and time loops, kernel by kernel, against the machine's peak in the same run.

    python scripts/benchmark_kernels.py [--threads 1] [--target cpu] [--seconds 0.5] [NAME ...]

NAMEs choose among the cases (parts of their names). All take turns, so a disturbance hits them alike, and each finds
its operands in memory, not in a cache. The best time of each counts. The peak is that of multiply-adds that stay in
registers, on as many threads.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np

# Products of the W1, W2 and W3 workloads at their largest buckets: rows, depth, columns.
PRODUCTS = {
    "W1 input projection": dict(m=1920, k=200, n=800, trans_b=True, bias=True),
    "W1 input gradient": dict(m=1920, k=800, n=200),
    "W1 weight gradient": dict(m=800, k=1920, n=200, trans_a=True),
    "W1 recurrent weight gradient": dict(m=800, k=1920, n=200, trans_a=True, shift=32),
    "W1 vocabulary": dict(m=1920, k=200, n=10000, trans_b=True, bias=True),
    "W1 vocabulary input gradient": dict(m=1920, k=10000, n=200),
    "W1 vocabulary weight gradient": dict(m=10000, k=1920, n=200, trans_a=True),
    "W2 vocabulary": dict(m=1200, k=650, n=10000, trans_b=True, bias=True),
    "W3 first layer": dict(m=2048, k=256, n=1024, trans_b=True, bias=True, activation="relu"),
    "W3 second layer": dict(m=2048, k=1024, n=256, trans_b=True, bias=True, addend=True),
    "W3 second layer input gradient": dict(m=2048, k=256, n=1024, slope_of="relu"),
    "W3 first layer input gradient": dict(m=2048, k=1024, n=256, addend=True),
    "W3 first layer weight gradient": dict(m=1024, k=2048, n=256, trans_a=True, column_sums=True),
    "W3 second layer weight gradient": dict(m=256, k=2048, n=1024, trans_a=True, column_sums=True),
    "W3 attention scores": dict(m=128, k=64, n=128, trans_b=True, batch=64),
    "W3 attention values": dict(m=128, k=128, n=64, batch=64),
    "one step": dict(m=32, k=200, n=800, trans_b=True, bias=True),
}
LOOPS = {"W1": (60, 32, 200), "W2": (60, 20, 650)}  # steps, batch, hidden


def cases() -> dict[str, tuple[Any, int]]:
    """Kernels by name, with their floating-point operations (2 a multiply-add of the products)."""
    from bucketmod.compiler.kernels.products.gemm import Gemm
    from bucketmod.compiler.kernels.recurrence.cells import GRU, LSTM
    from bucketmod.compiler.kernels.recurrence.time_loop import BackwardLoop, ForwardLoop

    found: dict[str, tuple[Any, int]] = {name: (Gemm(**sizes), Gemm(**sizes).flops) for name, sizes in PRODUCTS.items()}
    for workload, (steps, batch, hidden) in LOOPS.items():
        for cell in (LSTM, GRU):
            flops = 2 * steps * batch * cell.gates * hidden**2
            forward = ForwardLoop(cell, steps, batch, hidden, False, True)
            backward = BackwardLoop(cell, steps, batch, hidden, False, (True, False, False), False)
            found[f"{workload} {cell.name} forward"] = (forward, flops)
            found[f"{workload} {cell.name} backward"] = (backward, flops)
    return found


class Case:
    """A compiled kernel with arguments of its own."""

    def __init__(self, name: str, kernel: Any, flops: int, target: Any):
        import tvm

        from bucketmod.compiler.lowering.host import load_functions

        self.name, self.flops, self.best = name, flops, float("inf")
        started = time.process_time()
        self.run = load_functions({"main": kernel.tuned(target.cpu)}, target)["main"]
        self.compile_seconds = time.process_time() - started
        random = np.random.default_rng(0)
        shapes = [*kernel.inputs, *kernel.outputs, *kernel.scratch(target.cpu)]
        self.arrays = [_aligned((random.standard_normal(shape) / 10).astype(dtype)) for shape, dtype in shapes]
        self.arguments = [tvm.runtime.from_dlpack(array) for array in self.arrays]

    def measure(self, clock: Callable[[], float]) -> None:
        started = clock()
        self.run(*self.arguments)
        self.best = min(self.best, clock() - started)


def _aligned(array: np.ndarray) -> np.ndarray:
    from bucketmod.runtime.memory import aligned_copy

    return aligned_copy(array)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--target", default="cpu")
    parser.add_argument("--seconds", type=float, default=0.5, help="for each kernel, after compiling")
    options = parser.parse_args()
    os.environ["TVM_NUM_THREADS"] = str(options.threads)

    from machine_peak import MachinePeak

    from bucketmod.compiler.target import parse_target

    target = parse_target(options.target)
    chosen = {k: v for k, v in cases().items() if not options.names or any(name in k for name in options.names)}
    built = [Case(name, kernel, flops, target) for name, (kernel, flops) in chosen.items()]
    machine = MachinePeak(options.target, options.threads)
    clock = time.thread_time if options.threads == 1 else time.perf_counter  # what other processes take does not count
    peaks: list[float] = []
    ends = time.perf_counter() + options.seconds * len(built)
    while time.perf_counter() < ends or len(peaks) < 3:
        peaks.append(machine.measure())
        for case in built:
            case.measure(clock)
    peak = max(peaks)
    print(f"{target.name}, {options.threads} thread(s), peak {peak:.0f} GFLOP/s")
    print(f"{'kernel':32} {'ms':>8} {'GFLOP/s':>8} {'of peak':>8} {'compile s':>10}")
    for case in built:
        rate = case.flops / case.best / 1e9
        print(f"{case.name:32} {case.best * 1e3:8.3f} {rate:8.0f} {rate / peak:8.0%} {case.compile_seconds:10.2f}")


if __name__ == "__main__":
    main()
