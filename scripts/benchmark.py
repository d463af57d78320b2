#!/usr/bin/env python3
"""Step times of the W1 language model, as JSON lines: ``{peer, workload, bucket, metric, value, ...}``.

    python scripts/benchmark.py --workload W1 [--cell unrolled|fused] [--rounds 5] [--steps 5]

``train_ms`` and ``infer_ms`` lines hold one step each, in rounds over all buckets, so that a disturbance of the machine
hits every bucket alike. ``summary`` lines follow: the median step, the GFLOP/s of its matrix products, and their share
of the machine's peak, measured in the same run. The readable table goes to standard error.
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

import numpy as np

import bucketmod as mx

W1 = dict(vocabulary=10000, embed=200, hidden=200, layers=2, batch=32, buckets=(10, 20, 30, 40, 50, 60), lr=0.01)
WORKLOADS = {"W1": W1}
BATCHES = 4  # distinct batches of each bucket, used in turn


def flops(workload: dict[str, Any], length: int, train: bool) -> int:
    """Floating-point operations of the matrix products of one step (2 a multiply-add); backward counts twice."""
    embed, hidden, words = workload["embed"], workload["hidden"], workload["vocabulary"]
    token = 8 * hidden * (embed + hidden) + (workload["layers"] - 1) * 16 * hidden * hidden + 2 * hidden * words
    return workload["batch"] * length * token * (3 if train else 1)


class LanguageModel:
    """The W1 script on the Module API: unrolled LSTM cells, or one fused operator."""

    def __init__(self, workload: dict[str, Any], fused: bool):
        self.workload, self.fused = workload, fused
        self.data = {length: self.batches(length) for length in workload["buckets"]}
        largest = self.data[max(workload["buckets"])][0]
        self.module = mx.mod.BucketingModule(self.make_sym_gen(), default_bucket_key=max(workload["buckets"]))
        self.module.bind(data_shapes=largest.provide_data, label_shapes=largest.provide_label)
        self.module.init_params(mx.init.Xavier(factor_type="in", magnitude=2.34))
        self.module.init_optimizer(optimizer="sgd", optimizer_params={"learning_rate": workload["lr"]})

    def make_sym_gen(self) -> Any:
        hidden, layers = self.workload["hidden"], self.workload["layers"]
        if self.fused:
            cell = mx.rnn.FusedRNNCell(hidden, num_layers=layers, mode="lstm")
        else:
            cell = mx.rnn.SequentialRNNCell()
            for layer in range(layers):
                cell.add(mx.rnn.LSTMCell(hidden, prefix=f"lstm_l{layer}_"))

        def sym_gen(length: int) -> Any:
            data, label = mx.sym.Variable("data"), mx.sym.Variable("softmax_label")
            embed = mx.sym.Embedding(data, input_dim=self.workload["vocabulary"],
                                     output_dim=self.workload["embed"], name="embed")  # fmt: skip
            cell.reset()
            layout = "TNC" if self.fused else "NTC"
            outputs, _ = cell.unroll(length, inputs=embed, merge_outputs=True, layout=layout)
            scores = mx.sym.FullyConnected(mx.sym.Reshape(outputs, shape=(-1, hidden)),
                                           num_hidden=self.workload["vocabulary"], name="pred")  # fmt: skip
            softmax = mx.sym.SoftmaxOutput(scores, mx.sym.Reshape(label, shape=(-1,)), name="softmax")
            return softmax, ("data",), ("softmax_label",)

        return sym_gen

    def batches(self, length: int) -> list[Any]:
        random = np.random.RandomState(1000 + length)
        made = []
        for _ in range(BATCHES):
            words = random.randint(1, self.workload["vocabulary"], (self.workload["batch"], length + 1))
            data, label = (part.T if self.fused else part for part in (words[:, :-1], words[:, 1:]))
            made.append(mx.io.DataBatch(
                [mx.nd.array(data)], [mx.nd.array(label)], bucket_key=length,
                provide_data=[mx.io.DataDesc("data", data.shape)],
                provide_label=[mx.io.DataDesc("softmax_label", label.shape)],
            ))  # fmt: skip
        return made

    def train(self, length: int, index: int) -> None:
        self.module.forward_backward(self.data[length][index % BATCHES])
        self.module.update()

    def infer(self, length: int, index: int) -> None:
        self.module.forward(self.data[length][index % BATCHES], is_train=False)


def measure_peak() -> float:
    """GFLOP/s, the best of some bursts in a process of its own: TVM's compiler, which makes the kernel, would bring a
    second thread pool into this one."""
    command = [sys.executable, str(Path(__file__).with_name("machine_peak.py")), "10"]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure(options: argparse.Namespace, emit: Any) -> tuple[dict[tuple[str, int], list[float]], float]:
    """Milliseconds of every step by (mode, bucket), and the machine's peak in GFLOP/s."""
    model = LanguageModel(WORKLOADS[options.workload], options.cell == "fused")
    buckets = WORKLOADS[options.workload]["buckets"]
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


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workload", choices=sorted(WORKLOADS), default="W1")
    parser.add_argument("--cell", choices=["unrolled", "fused"], default="unrolled")
    parser.add_argument("--modes", default="train,infer")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--threads", type=int, help="as TVM_NUM_THREADS; default: every core")
    options = parser.parse_args(argv)
    # Before TVM starts its threads, so that the kernels and the measured peak use the same number.
    if options.threads or "TVM_NUM_THREADS" not in os.environ:
        os.environ["TVM_NUM_THREADS"] = str(options.threads or len(os.sched_getaffinity(0)))

    def emit(bucket: int | None, metric: str, value: float, **more: Any) -> None:
        line = {"peer": f"bucketmod_{options.cell}", "workload": options.workload, "bucket": bucket, "metric": metric}
        print(json.dumps({**line, "value": round(value, 4), **more}), flush=True)

    steps, peak = measure(options, emit)
    emit(None, "peak_gflops", peak)
    print(f"{'mode':6} {'bucket':>6} {'ms':>9} {'GFLOP/s':>8} {'of peak':>8}", file=sys.stderr)
    for (mode, length), times in steps.items():
        median = statistics.median(times)
        rate = flops(WORKLOADS[options.workload], length, mode == "train") / median / 1e6
        emit(length, f"{mode}_summary", median, gflops=round(rate, 1), share_of_peak=round(rate / peak, 3))
        print(f"{mode:6} {length:6} {median:9.2f} {rate:8.0f} {rate / peak:8.0%}", file=sys.stderr)


if __name__ == "__main__":
    main()
