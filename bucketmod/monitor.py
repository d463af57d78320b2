"""``mx.mon.Monitor``: statistics of every operator's outputs, of what flows back, and of all parameters."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from math import sqrt
from typing import Any

from bucketmod import ndarray as nd
from bucketmod.ndarray import NDArray

Statistic = Callable[[NDArray], NDArray | list[NDArray]]


class Monitor:
    """Collects a statistic of what executors compute, in every ``interval``-th batch.

    ``stat_func``: NDArray -> NDArray or a list of them; default: norm(x) / sqrt(size). ``pattern``: a regular
    expression; names that it matches from their beginning are kept. ``sort``: by name instead of in the order in which
    things are computed. ``monitor_all``: the inputs of operators too.

    ``install`` (or ``Module.install_monitor``) has an executor run monitored programs, which are slower and take more
    memory; ``tic`` goes before a batch, ``toc`` or ``toc_print`` after it.
    """

    def __init__(
        self,
        interval: int,
        stat_func: Statistic | None = None,
        pattern: str = ".*",
        sort: bool = False,
        monitor_all: bool = False,
    ) -> None:
        self.stat_func: Statistic = stat_func if stat_func is not None else _root_mean_square
        self.interval = interval
        self.activated = False
        self.queue: list[tuple[int, str, NDArray | list[NDArray]]] = []
        self.step = 0
        self.exes: list[Any] = []
        self.re_prog = re.compile(pattern)
        self.sort = sort
        self.monitor_all = monitor_all

    def stat_helper(self, name: str, array: NDArray) -> None:
        """What executors call for each value."""
        if self.activated and self.re_prog.match(name):
            self.queue.append((self.step, name, self.stat_func(array)))

    def install(self, exe: Any) -> None:
        """Watches an executor, beside those watched already."""
        exe.set_monitor_callback(self.stat_helper, self.monitor_all)
        self.exes.append(exe)

    def tic(self) -> None:
        """A batch begins: every ``interval``-th call starts collecting."""
        if self.step % self.interval == 0:
            self.queue = []
            self.activated = True
        self.step += 1

    def toc(self) -> list[tuple[int, str, str]]:
        """The batch is done: (number of the batch from 1, name, statistic as text) of everything seen, then of the
        arguments and auxiliary states of every executor; empty when nothing is collected in this batch."""
        if not self.activated:
            return []
        for exe in self.exes:
            for array in exe.arg_arrays:  # contexts may still be running
                array.wait_to_read()
        for exe in self.exes:
            for name, array in [*exe.arg_dict.items(), *exe.aux_dict.items()]:
                self.stat_helper(name, array)
        self.activated = False
        queue, self.queue = self.queue, []
        if self.sort:
            queue.sort(key=lambda entry: entry[1])
        return [(step, name, _text(values)) for step, name, values in queue]

    def toc_print(self) -> None:
        """Logs what ``toc`` gives, a line each."""
        for step, name, text in self.toc():
            logging.info("Batch: %7d %-30s %s", step, name, text)


def _root_mean_square(array: NDArray) -> NDArray:
    return nd.norm(array) / sqrt(array.size)


def _text(values: NDArray | list[NDArray]) -> str:
    """Numbers as they are, arrays as numpy prints them. AssertionError for a statistic that is no NDArray."""
    values = [values] if isinstance(values, NDArray) else values
    assert isinstance(values, list), f"stat_func must return an NDArray or a list of them, got {type(values)}"
    shown = ""
    for value in values:
        assert isinstance(value, NDArray), f"stat_func must return an NDArray or a list of them, got {type(value)}"
        shown += str(value.asscalar() if value.shape == (1,) else value.asnumpy()) + "\t"
    return shown
