"""Compile jobs in worker processes, through the artifact cache.

Precompiling and compiling on a miss are the same path: requests whose artifact is in the cache are answered from it;
the rest are shared out to workers, each request under a lock of its own, so that two processes that want the same
artifact compile it once.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bucketmod.runtime.cache import ArtifactCache


@dataclass(frozen=True)
class CompileRequest:
    """One artifact to make.

    ``program``: bytes of a forward :class:`~bucketmod.compiler.program.Program`, or a function that makes them when
    they are needed (exporting costs time that a hit should not pay); ``mode``: "train", "infer", or "update" for the
    optimizer kernels, which come from no program (``b""``); ``wrt``: inputs to differentiate;
    ``target``: as in :func:`~bucketmod.compiler.target.parse_target`; ``name``: for messages, such as "bucket 20
    (train)"; ``request_digest``: identity in the cache's index; ``info``: shown in the index.
    """

    program: bytes | Callable[[], bytes]
    mode: str
    wrt: tuple[str, ...]
    target: str
    name: str
    request_digest: str
    info: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class CompileResult:
    """``seconds``: spent compiling, 0 for a hit; ``error``: readable text when not ``ok``."""

    request: CompileRequest
    ok: bool
    error: str | None
    object_digest: str | None
    seconds: float
    hit: bool = False


class _Worker:
    """A worker process, started on the first job and again after a crash."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None

    def run(self, job: dict[str, Any]) -> dict[str, Any]:
        if self.process is None or self.process.poll() is not None:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "bucketmod.compiler.worker"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )  # fmt: skip
            self.errors: list[str] = []
            self.drain = threading.Thread(target=self._drain, args=(self.process, self.errors), daemon=True)
            self.drain.start()
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(job) + "\n")
            self.process.stdin.flush()
            answer = self.process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if answer.endswith("\n"):  # a worker that is killed may leave half a line
            return json.loads(answer)
        code = self.process.wait()
        self.drain.join(5)  # what it said last is what tells why
        tail = "".join(self.errors[-15:]).strip()
        return {"ok": False, "error": f"the compile worker ended with code {code}\n{tail}".strip(), "kind": "crash"}

    @staticmethod
    def _drain(process: subprocess.Popen[str], lines: list[str]) -> None:
        assert process.stderr is not None
        for line in process.stderr:
            lines.append(line)
            del lines[:-200]

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            assert self.process.stdin is not None
            self.process.stdin.close()
            self.process.wait()


def _compile(request: CompileRequest, cache: ArtifactCache, worker: _Worker) -> CompileResult:
    """One request, under its lock."""
    with cache.lock(request.request_digest):
        found = cache.find(request.request_digest)
        if found is not None:
            return CompileResult(request, True, None, found.object_digest, 0.0, hit=True)
        started = time.perf_counter()
        try:
            program = request.program if isinstance(request.program, bytes) else request.program()
        except Exception as error:  # the user's model at fault: its message is the result
            return CompileResult(request, False, f"{type(error).__name__}: {error}", None, 0.0)
        with tempfile.TemporaryDirectory(prefix="bucketmod-job-") as scratch:
            source, folder = Path(scratch, "program.onnx"), Path(scratch, "artifact")
            source.write_bytes(program)
            answer = worker.run(
                {"program": str(source), "mode": request.mode, "wrt": list(request.wrt), "target": request.target,
                 "folder": str(folder)}
            )  # fmt: skip
            seconds = time.perf_counter() - started
            if not answer["ok"]:
                return CompileResult(request, False, answer["error"], None, seconds)
            digest = cache.publish(request.request_digest, folder, {**request.info, "seconds": round(seconds, 3)})
        return CompileResult(request, True, None, digest, seconds)


def compile_requests(
    requests: Sequence[CompileRequest],
    cache: ArtifactCache,
    jobs: int = 1,
    progress: Callable[[CompileResult], None] | None = None,
) -> list[CompileResult]:
    """Answers every request, in order. ``jobs``: worker processes at most; ``progress`` is called, on this thread, with
    each result as it comes. Failures are results, not exceptions."""
    workers = threading.local()
    started: list[_Worker] = []

    def run(request: CompileRequest) -> CompileResult:
        if not hasattr(workers, "own"):
            workers.own = _Worker()
            started.append(workers.own)
        return _compile(request, cache, workers.own)

    results: dict[int, CompileResult] = {}
    try:
        with ThreadPoolExecutor(max_workers=max(1, min(jobs, len(requests)))) as pool:
            futures = {pool.submit(run, request): index for index, request in enumerate(requests)}
            for future in as_completed(futures):
                result = results[futures[future]] = future.result()
                if progress is not None:
                    progress(result)
    finally:
        for worker in started:
            worker.close()
    return [results[index] for index in range(len(requests))]
