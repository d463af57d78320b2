#!/usr/bin/env python3
"""Step times of a workload, as JSON lines: ``{peer, workload, bucket, metric, value, ...}``.

    python scripts/benchmark.py --workload W1|W2|W3 [--cell unrolled|fused] [--threads N] [--target cpu] [--profile]

``train_ms`` and ``infer_ms`` lines hold one step each, in rounds over all buckets, so that a disturbance of the machine
hits every bucket alike. ``summary`` lines follow: the median step, the GFLOP/s of its matrix products, and their share
of the machine's peak, measured in the same run. With ``--profile`` the time of every kernel follows, as ``kernel``
lines: name, shapes, calls, ms, GFLOP/s, GB/s. Readable tables go to standard error.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from workloads import WORKLOADS, Described, Model, flops


def measure_peak() -> float:
    """GFLOP/s, the best of some bursts in a process of its own: TVM's compiler, which makes the kernel, would bring a
    second thread pool into this one."""
    command = [sys.executable, str(Path(__file__).with_name("machine_peak.py")), "10"]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure(options: argparse.Namespace, emit: Any) -> tuple[dict[tuple[str, int], list[float]], float]:
    """Milliseconds of every step by (mode, bucket), and the machine's peak in GFLOP/s."""
    model = Model(WORKLOADS[options.workload], options.cell == "fused", options.contexts)
    buckets = options.buckets or WORKLOADS[options.workload]["buckets"]
    steps: dict[tuple[str, int], list[float]] = defaultdict(list)
    peaks = []
    for mode in options.modes.split(","):
        run = getattr(model, mode)
        for length in sorted(buckets, reverse=True):  # compiles where needed, touches all memory once
            run(length, 0)
        for turn in range(options.rounds):
            peaks.append(measure_peak())
            for length in buckets:
                run(length, 0)
                for index in range(options.steps):
                    started = time.perf_counter()
                    run(length, index)
                    steps[mode, length].append((time.perf_counter() - started) * 1e3)
                    emit(length, f"{mode}_ms", steps[mode, length][-1], round=turn)
    return steps, max(peaks)


def profile(options: argparse.Namespace, emit: Any) -> None:
    """Kernel by kernel, in a process without the module: the compiler has a thread pool of its own."""
    from bucketmod.binding.bucket import make_bucket
    from bucketmod.compiler.profile import profile_program
    from bucketmod.compiler.program import Program

    workload = WORKLOADS[options.workload]
    model = Described(workload, options.cell == "fused")
    clock = time.process_time if options.cpu else time.perf_counter
    for mode in options.modes.split(","):
        for length in options.buckets or [max(workload["buckets"])]:
            batch = model.data[length][0]
            bucket = make_bucket(model.sym_gen(length)[0], batch.provide_data, batch.provide_label, key=length)
            wrt = [argument.name for argument in bucket.by_role("parameter")] if mode == "train" else []
            request = bucket.request(mode == "train", wrt, options.target)
            values = {"data": batch.data[0].asnumpy(), "softmax_label": batch.label[0].asnumpy()}
            program = Program.from_bytes(request.program())
            rows = profile_program(program, request.mode, wrt, request.target, values, options.rounds, clock)
            total = sum(row.seconds for row in rows)
            print(f"\n{mode} {length}: {total * 1e3:.2f} ms, {sum(row.calls for row in rows)} calls", file=sys.stderr)
            print(f"{'ms':>9} {'share':>6} {'calls':>5} {'GFLOP/s':>8} {'GB/s':>6}  kernel", file=sys.stderr)
            for row in rows:
                rate, traffic = row.flops / row.seconds / 1e9, row.bytes / row.seconds / 1e9
                emit(length, "kernel", row.seconds * 1e3, mode=mode, name=row.name, shapes=row.shapes, calls=row.calls,
                     gflops=round(rate, 1), gbytes=round(traffic, 1))  # fmt: skip
                print(f"{row.seconds * 1e3:9.3f} {row.seconds / total:6.1%} {row.calls:5} {rate:8.0f} {traffic:6.1f}  "
                      f"{row.name}  {row.shapes}", file=sys.stderr)  # fmt: skip


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workload", choices=sorted(WORKLOADS), default="W1")
    parser.add_argument("--cell", choices=["unrolled", "fused"], default="unrolled")
    parser.add_argument("--contexts", type=int, default=1, help="contexts that share each batch and the threads")
    parser.add_argument("--modes", default="train,infer")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--threads", type=int, help="as TVM_NUM_THREADS; default: every core")
    parser.add_argument("--target", default="cpu", help="what to compile for; default: this machine")
    parser.add_argument("--buckets", type=lambda text: [int(part) for part in text.split(",")], help="e.g. 10,60")
    parser.add_argument("--profile", action="store_true", help="kernel by kernel (largest bucket unless --buckets)")
    parser.add_argument("--only-profile", action="store_true", help="leave the steps out")
    parser.add_argument("--cpu", action="store_true", help="profile by CPU time, for a machine with other work to do")
    options = parser.parse_args(argv)
    os.environ["BUCKETMOD_TARGET"] = options.target
    # Before TVM starts its threads, so that the kernels and the measured peak use the same number.
    if options.threads or "TVM_NUM_THREADS" not in os.environ:
        os.environ["TVM_NUM_THREADS"] = str(options.threads or len(os.sched_getaffinity(0)))

    def emit(bucket: int | None, metric: str, value: float, **more: Any) -> None:
        line = {"peer": f"bucketmod_{options.cell}", "workload": options.workload, "bucket": bucket, "metric": metric}
        print(json.dumps({**line, "value": round(value, 4), **more}), flush=True)

    if not options.only_profile:
        report_steps(options, emit)
    if options.only_profile:
        profile(options, emit)
    elif options.profile:
        subprocess.run([sys.executable, __file__, *(argv or sys.argv[1:]), "--only-profile"], check=True)


def report_steps(options: argparse.Namespace, emit: Any) -> None:
    steps, peak = measure(options, emit)
    emit(None, "peak_gflops", peak)
    print(f"peak {peak:.0f} GFLOP/s\n{'mode':6} {'bucket':>6} {'ms':>9} {'GFLOP/s':>8} {'of peak':>8}", file=sys.stderr)
    for (mode, length), times in steps.items():
        median = statistics.median(times)
        rate = flops(WORKLOADS[options.workload], length, mode == "train") / median / 1e6
        emit(length, f"{mode}_summary", median, gflops=round(rate, 1), share_of_peak=round(rate / peak, 3))
        print(f"{mode:6} {length:6} {median:9.2f} {rate:8.0f} {rate / peak:8.0%}", file=sys.stderr)


if __name__ == "__main__":
    main()
