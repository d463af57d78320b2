"""How many threads kernels use. TVM's own default counts two processors as one core, and pins threads to processors."""

from __future__ import annotations

import contextlib
import math
import os
from pathlib import Path

# How often an idle thread of the pool looks for work before it sleeps: some milliseconds, longer than pauses in a step.
# TVM's own 300,000 keep a core busy for so long that threads of other contexts, or processes, lack it.
_SPINS = 20_000
_COUNT_VARIABLES = ("TVM_NUM_THREADS", "OMP_NUM_THREADS")  # both are read by TVM's thread pool


def available_cores() -> int:
    """Physical cores that this process may use: its affinity and its control group's CPU quota count."""
    cores = set()
    for processor in os.sched_getaffinity(0):
        siblings = Path(f"/sys/devices/system/cpu/cpu{processor}/topology/thread_siblings_list")
        try:
            cores.add(siblings.read_text().strip())
        except OSError:
            cores.add(str(processor))
    return max(1, min(len(cores), _quota()))


def configure_threads() -> None:
    """Sets what TVM's thread pool reads when it starts, unless the user did: ``TVM_NUM_THREADS`` (all cores) and
    ``TVM_BIND_THREADS`` (0: pinned threads of two processes would fight for the same core), and
    ``TVM_THREAD_POOL_SPIN_COUNT``."""
    if not any(name in os.environ for name in _COUNT_VARIABLES):
        os.environ["TVM_NUM_THREADS"] = str(available_cores())
    os.environ.setdefault("TVM_BIND_THREADS", "0")
    os.environ.setdefault("TVM_THREAD_POOL_SPIN_COUNT", str(_SPINS))


def kernel_threads() -> int:
    """Threads of a kernel that has the machine to itself."""
    configure_threads()
    for name in _COUNT_VARIABLES:
        with contextlib.suppress(KeyError, ValueError):
            return max(1, int(os.environ[name]))
    return available_cores()


def _quota() -> int:
    """CPUs granted by the control group (version 2), rounded up; a large number where there is no limit."""
    try:
        limit, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return math.ceil(int(limit) / int(period))
    except (OSError, ValueError):  # no such file, or "max"
        return 1 << 16
