"""Threads that run programs side by side, each with threads of its own for the kernels."""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any

from bucketmod.runtime.threads import kernel_threads
from bucketmod.runtime.tvm_runtime import set_pool_size


class Worker:
    """A thread that runs tasks in the order of their coming; kernels that it starts use ``threads`` threads.

    TVM keeps a pool of threads for every thread that calls it, so two workers never wait for each other's kernels. The
    thread starts with the first task and stays: a pool lives as long as the process.
    """

    def __init__(self, name: str, threads: int):
        self.threads = threads
        self._tasks: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._started = threading.Lock()

    @property
    def is_current(self) -> bool:
        """Whether the caller is this worker."""
        return threading.current_thread() is self._thread

    def put(self, task: Callable[[], None]) -> None:
        """Runs the task, which must not raise, after those that came before."""
        if self._started.acquire(blocking=False):  # taken once and never given back
            self._thread.start()
        self._tasks.put(task)

    def _run(self) -> None:
        set_pool_size(self.threads)
        while True:
            task = self._tasks.get()
            task()
            del task  # what it holds may be large, and the next one may be long in coming


class Stream:
    """The tasks of one owner on a worker: it waits for its own tasks only, and sees only their errors."""

    def __init__(self, worker: Worker):
        self.worker = worker
        self._pending = 0
        self._changed = threading.Condition()
        self._error: BaseException | None = None
        _streams.add(self)

    def submit(self, function: Callable[..., None], *args: Any) -> None:
        """Calls ``function(*args)`` on the worker, later. After an error nothing runs until ``wait`` raised it."""
        with self._changed:
            self._pending += 1
        self.worker.put(functools.partial(self._perform, function, args))

    def _perform(self, function: Callable[..., None], args: tuple[Any, ...]) -> None:
        error = None
        if self._error is None:
            try:
                function(*args)
            except BaseException as raised:  # told to the owner: a worker outlives every task
                error = raised
        with self._changed:
            self._error = self._error or error
            self._pending -= 1
            if not self._pending:
                self._changed.notify_all()

    def wait(self) -> None:
        """Returns when all tasks are done; raises the first error since the last call. A task itself never waits."""
        if not self._pending and self._error is None:
            return
        if self.worker.is_current:
            return
        with self._changed:
            self._changed.wait_for(lambda: not self._pending)
            error, self._error = self._error, None
        if error is not None:
            raise error


_streams: weakref.WeakSet[Stream] = weakref.WeakSet()


def wait_all() -> None:
    """Returns when no stream of this process has tasks left; raises the first error among them."""
    for stream in list(_streams):
        stream.wait()


def make_streams(loads: Sequence[float]) -> list[Stream]:
    """A stream for each entry of ``loads``, on as many workers, which share the threads that kernels may use.

    A worker gets threads in proportion to its load, at least one. Workers are shared by all that ask for the same
    split: one training step at a time has the machine.
    """
    shares = share_threads(kernel_threads(), loads)
    return [Stream(_worker(index, threads)) for index, threads in enumerate(shares)]


def share_threads(threads: int, loads: Sequence[float]) -> list[int]:
    """``threads`` split in proportion to ``loads``, none below one; what rounding leaves goes to the largest rests."""
    wanted = [threads * load / sum(loads) for load in loads]
    shares = [max(1, int(each)) for each in wanted]
    by_rest = sorted(range(len(loads)), key=lambda index: shares[index] - wanted[index])
    for index in by_rest[: max(0, threads - sum(shares))]:
        shares[index] += 1
    return shares


@functools.cache
def _worker(index: int, threads: int) -> Worker:
    return Worker(f"bucketmod-context-{index}", threads)
