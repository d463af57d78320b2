"""Workers outlive a job, end when they have nothing to do, and their end is no harm to the process that asks them."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from bucketmod.compiler.worker_process import WorkerPool, WorkerProcess

UNKNOWN = {"mode": "update", "target": "cpu:abacus", "folder": "/nowhere"}  # answered without loading the compiler


@pytest.fixture
def worker():
    made = WorkerProcess()
    yield made
    made.close()


def refused(answer):
    return not answer["ok"] and "abacus" in answer["error"]


def test_one_process_answers_job_after_job(worker):
    assert refused(worker.run(UNKNOWN))
    first = worker.process.pid
    assert refused(worker.run(UNKNOWN)) and worker.process.pid == first


def test_a_worker_without_a_job_ends_and_the_next_job_starts_another():
    worker = WorkerProcess(idle=0.2)
    assert refused(worker.run(UNKNOWN))
    first = worker.process
    assert first.wait(30) == 0
    assert refused(worker.run(UNKNOWN)) and worker.process.pid != first.pid
    worker.close()


def test_a_job_that_meets_a_worker_about_to_end_is_given_to_another():
    worker = WorkerProcess(idle=0.2)
    assert refused(worker.run(UNKNOWN))
    ended = worker.process
    ended.wait(30)
    looks = [None]
    ended.poll = lambda: looks.pop() if looks else 0  # at first as it looked a moment before
    assert refused(worker.run(UNKNOWN)) and worker.process is not ended
    worker.close()


def test_a_worker_that_is_killed_is_an_answer_and_the_next_job_starts_another(worker):
    assert refused(worker.run(UNKNOWN))
    os.kill(worker.process.pid, signal.SIGSTOP)  # it holds the job when it dies
    killer = threading.Timer(0.3, os.kill, (worker.process.pid, signal.SIGKILL))
    killer.start()
    answer = worker.run(UNKNOWN)
    assert answer["kind"] == "crash" and "-9" in answer["error"]
    assert refused(worker.run(UNKNOWN))


def test_an_answer_that_nobody_waited_for_is_not_taken_for_the_next_one(worker):
    assert refused(worker.run(UNKNOWN))

    def interrupted():
        raise KeyboardInterrupt

    worker.process.stdout.readline = interrupted
    with pytest.raises(KeyboardInterrupt):
        worker.run({**UNKNOWN, "target": "cpu:sundial"})
    assert refused(worker.run(UNKNOWN))


def test_a_pool_keeps_one_worker():
    pool = WorkerPool()
    first, second = pool.take(), pool.take()
    assert refused(first.run(UNKNOWN)) and refused(second.run(UNKNOWN))
    pool.give_back(first)
    pool.give_back(second)
    assert second.process.poll() is not None, "the second one was ended"
    assert pool.take() is first
    pool.give_back(first)
    pool.close()
    assert first.process.poll() is not None


def test_a_forked_process_starts_a_worker_of_its_own():
    pool = WorkerPool()
    first = pool.take()
    pool.give_back(first)
    pool.forget()
    assert pool.take() is not first


def test_a_worker_ends_with_the_process_that_started_it(worker):
    assert refused(worker.run(UNKNOWN))
    worker.process.stdin.close()  # as the system does for a process that is gone
    deadline = time.monotonic() + 30
    while worker.process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert worker.process.poll() == 0
