"""Compile workers as the process that needs them sees them: started when there is a job, kept for the next one."""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import threading
from typing import Any

IDLE_SECONDS = 30.0  # a worker without work holds some 400 MB: after this time it ends


class WorkerProcess:
    """A worker process, started on the first job, and again after it ended or crashed. ``idle``: seconds after which it
    ends without a job."""

    def __init__(self, idle: float = IDLE_SECONDS) -> None:
        self.idle = idle
        self.process: subprocess.Popen[str] | None = None
        self._errors: list[str] = []
        self._drain: threading.Thread | None = None

    def run(self, job: dict[str, Any]) -> dict[str, Any]:
        """The worker's answer; one with ``"kind": "crash"`` when the process ended without one."""
        try:
            return self._run(job)
        except BaseException:
            if self.process is not None:
                self.process.kill()  # an answer that comes later would be taken for that to the next job
                self.process.wait()
            raise

    def _run(self, job: dict[str, Any]) -> dict[str, Any]:
        for _ in range(2):
            answer = self._ask(job)
            if answer.endswith("\n"):  # a worker that is killed may leave half a line
                return json.loads(answer)
            assert self.process is not None and self._drain is not None
            code = self.process.wait()
            self._drain.join(5)  # what it said last is what tells why
            if code != 0:  # 0: it had waited long enough just when the job came
                break
        tail = "".join(self._errors[-15:]).strip()
        return {"ok": False, "error": f"the compile worker ended with code {code}\n{tail}".strip(), "kind": "crash"}

    def _ask(self, job: dict[str, Any]) -> str:
        if self.process is None or self.process.poll() is not None:
            self._start()
        assert self.process is not None and self.process.stdin is not None and self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(job) + "\n")
            self.process.stdin.flush()
            return self.process.stdout.readline()
        except BrokenPipeError:
            return ""

    def _start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bucketmod.compiler.worker", str(self.idle)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._errors = []
        self._drain = threading.Thread(target=_collect, args=(self.process, self._errors), daemon=True)
        self._drain.start()

    def close(self) -> None:
        """Ends the process, if there is one."""
        if self.process is not None and self.process.poll() is None:
            assert self.process.stdin is not None
            self.process.stdin.close()
            self.process.wait()


def _collect(process: subprocess.Popen[str], lines: list[str]) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        lines.append(line)
        del lines[:-200]


class WorkerPool:
    """Hands out workers, and keeps one for the next job: loading the compiler takes a second, and a worker remembers
    kernels that programs have in common."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Starts anew, as in a forked process: the worker answers to the process that started it."""
        self._lock = threading.Lock()
        self._kept: WorkerProcess | None = None

    def take(self) -> WorkerProcess:
        """The worker that was kept, or a new one. It is the caller's until ``give_back``."""
        with self._lock:
            kept, self._kept = self._kept, None
        return kept or WorkerProcess()

    def give_back(self, worker: WorkerProcess) -> None:
        """Keeps the worker, or ends it where one is kept already."""
        with self._lock:
            if self._kept is None:
                self._kept = worker
                return
        worker.close()

    def close(self) -> None:
        """Ends the worker that is kept."""
        self.take().close()


POOL = WorkerPool()
atexit.register(POOL.close)
os.register_at_fork(after_in_child=POOL.forget)
