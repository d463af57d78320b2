"""The tasks of parallel loops: each runs once, on whichever thread is free."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from kernel_runner import TARGETS, aligned, build, on_threads
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from bucketmod.compiler.kernels.kernel import TUNED
from bucketmod.compiler.passes.share_tasks import share_tasks

_MOST_ROUNDS = 20_000_000  # seconds


def function(arguments, body):
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("kernel")
        T.func_attr({"global_symbol": "kernel", "tirx.noalias": False, TUNED: True})
        body(*(T.arg(name, T.buffer(shape, "int32", layout=None)) for name, shape in arguments))
    return builder.get()


def run(kernel, threads, *arrays):
    arrays = [aligned(array) for array in arrays]
    built = build([kernel], TARGETS[0])[0]
    on_threads(threads, lambda: built(*map(tvm.runtime.from_dlpack, arrays)))
    return arrays


def count_up(runs, extent):
    with T.parallel(extent) as task:
        T.buffer_store(runs, runs[task] + 1, [task])


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("extent", [1, 2, 3, 5, 63, 64, 65, 127, 1000])
def test_each_task_runs_once(extent, threads):
    kernel = function([("runs", (extent + 1,))], lambda runs: count_up(runs, extent))
    (runs,) = run(kernel, threads, np.zeros(extent + 1, np.int32))
    assert runs.tolist() == [1] * extent + [0]


@pytest.mark.parametrize("extent", [0, 1, 63, 64, 65, 129])
def test_each_task_runs_once_where_their_number_is_known_at_run_time(extent):
    kernel = function([("count", (1,)), ("runs", (200,))], lambda count, runs: count_up(runs, count[0]))
    _, runs = run(kernel, 3, np.array([extent], np.int32), np.zeros(200, np.int32))
    assert runs.tolist() == [1] * extent + [0] * (200 - extent)


def test_tasks_of_a_thread_that_is_held_up_run_on_another():
    """The first task waits for all others, half of which would be its own thread's."""
    tasks = 8

    def body(done, rounds):
        with T.parallel(tasks) as task:
            with T.If(task == 0):
                with T.Then(), T.While(tirx.all(rounds[0] < _MOST_ROUNDS, _sum(done, tasks) < tasks - 1)):
                    T.evaluate(T.call_llvm_intrin("void", "llvm.x86.sse2.pause"))
                    T.buffer_store(rounds, rounds[0] + 1, [0])
                with T.Else():
                    T.buffer_store(done, 1, [task])

    kernel = function([("done", (tasks,)), ("rounds", (1,))], body)
    done, rounds = run(kernel, 2, np.zeros(tasks, np.int32), np.zeros(1, np.int32))
    assert done.tolist() == [0] + [1] * (tasks - 1)
    assert rounds[0] < _MOST_ROUNDS


def _sum(buffer, count):
    return sum((buffer[index] for index in range(1, count)), buffer[0])


def test_loops_of_a_parallel_region_stay():
    def body(runs):
        with T.attr("default", "pragma_parallel_launch_point", 1):
            count_up(runs, 10)

    kernel = function([("runs", (10,))], body)
    assert share_tasks(kernel).script() == kernel.script()
