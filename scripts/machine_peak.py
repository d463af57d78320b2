"""The machine's peak, measured: fused multiply-adds that never leave the registers, on every thread at once."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import numpy as np
import tvm
from tvm.tirx.script import builder as T

from bucketmod.compiler.kernels.emission import Register, build_function, load, splat, store
from bucketmod.compiler.target import CpuFeatures, parse_target

ROUNDS = 100_000


def _kernel(cpu: CpuFeatures, threads: int) -> tuple[Any, int]:
    """A function (factors -> sums) and its floating-point operations a call. Enough independent sums run at once to
    hide the latency of the units; two registers stay free for the factors."""
    chains = min(cpu.registers - 4, 24)

    def body(factors: Any, sums: Any) -> None:
        with T.parallel(threads) as thread:
            registers = [Register(cpu.lanes) for _ in range(chains)]
            for index, register in enumerate(registers):
                register.value = splat(float(index), cpu.lanes)
            with T.serial(ROUNDS) as _:
                x, y = (load(factors, i * cpu.lanes, lanes=cpu.lanes) for i in range(2))
                for register in registers:
                    register.value = register.value * x + y
            for index, register in enumerate(registers):
                store(sums, register.value, (thread * chains + index) * cpu.lanes, lanes=cpu.lanes)

    shapes = [("factors", ((2 * cpu.lanes,), "float32")), ("sums", ((threads * chains * cpu.lanes,), "float32"))]
    return build_function("peak", shapes, body), 2 * threads * chains * cpu.lanes * ROUNDS


class MachinePeak:
    """``measure()`` gives GFLOP/s of one short burst; take the best of several, spread over a run."""

    def __init__(self, target: str = "cpu", threads: int | None = None):
        parsed = parse_target(target)
        assert parsed.cpu is not None
        self.threads = threads or int(os.environ.get("TVM_NUM_THREADS", len(os.sched_getaffinity(0))))
        function, self.operations = _kernel(parsed.cpu, self.threads)
        module = tvm.IRModule({"peak": function.with_attr("global_symbol", "peak")})
        self.run = tvm.compile(module, target=parsed.tvm())["peak"]
        lanes = parsed.cpu.lanes
        self.factors = tvm.runtime.tensor(np.repeat(np.float32([0.999, 0.001]), lanes))
        self.sums = tvm.runtime.empty(tuple(int(d) for d in function.params[1].shape), "float32")

    def measure(self) -> float:
        started = time.perf_counter()
        self.run(self.factors, self.sums)
        return self.operations / (time.perf_counter() - started) / 1e9


if __name__ == "__main__":
    machine = MachinePeak()
    print(max(machine.measure() for _ in range(int(sys.argv[1]))))
