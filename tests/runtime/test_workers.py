"""Tasks run side by side on workers, in order on each, and their errors reach who waits."""

from __future__ import annotations

import threading

import pytest

from bucketmod.runtime.threads import kernel_threads
from bucketmod.runtime.tvm_runtime import pool_size, set_pool_size
from bucketmod.runtime.worker import Stream, Worker, make_streams, share_threads, wait_all


@pytest.mark.parametrize(
    ("threads", "loads", "shares"),
    [
        (2, [1, 1], [1, 1]), (4, [1, 1], [2, 2]), (5, [1, 1], [3, 2]), (8, [1, 3], [2, 6]), (1, [1, 1, 1], [1, 1, 1]),
        (4, [1, 1, 1], [2, 1, 1]), (6, [0.1, 5], [1, 5]), (2, [7], [2]),
    ],
)  # fmt: skip
def test_threads_are_shared_in_proportion_to_the_load(threads, loads, shares):
    assert share_threads(threads, loads) == shares


def test_tasks_of_two_streams_meet_and_those_of_one_keep_their_order():
    first, second = (Stream(Worker(f"test-{i}", 1)) for i in range(2))
    barrier, seen = threading.Barrier(2, timeout=30), []
    for stream in (first, second):
        stream.submit(barrier.wait)  # returns when both streams are in it: they run at the same time
    for number in range(20):
        first.submit(seen.append, number)
    wait_all()
    assert seen == list(range(20))


def test_an_error_stops_the_stream_until_somebody_saw_it():
    worker, seen = Worker("test-errors", 1), []
    stream, other = Stream(worker), Stream(worker)

    def fail():
        raise ValueError("of the task")

    stream.submit(fail)
    stream.submit(seen.append, 1)
    other.submit(seen.append, 2)
    other.wait()  # its own tasks only
    with pytest.raises(ValueError, match="of the task"):
        stream.wait()
    stream.wait()
    stream.submit(seen.append, 3)
    stream.wait()
    assert seen == [2, 3]


def test_a_task_may_look_at_what_its_own_stream_writes():
    stream, seen = Stream(Worker("test-self", 1)), []
    stream.submit(lambda: (stream.wait(), seen.append("went on")))
    stream.wait()
    assert seen == ["went on"]


def test_workers_have_their_own_number_of_kernel_threads():
    streams, found = make_streams([1, 1]), []
    for stream in streams:
        stream.submit(lambda: found.append(pool_size()))
    wait_all()
    assert found == share_threads(kernel_threads(), [1, 1])
    assert pool_size() == kernel_threads()  # of this thread: as before
    set_pool_size(kernel_threads())
    assert make_streams([1, 1])[0].worker is streams[0].worker
