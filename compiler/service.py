"""Compile jobs in worker processes, through the artifact cache.

Precompiling and compiling on a miss are the same path: requests whose artifact is in the cache are answered from it;
the rest are shared out to workers, each request under a lock of its own, so that two processes that want the same
artifact compile it once.
"""

from __future__ import annotations

import json
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bucketmod.compiler.worker_process import POOL, WorkerProcess
from bucketmod.runtime.cache import ArtifactCache

TUNED = "tuned"  # in the info of an index entry


@dataclass(frozen=True)
class CompileRequest:
    """One artifact to make.

    ``program``: bytes of a forward :class:`~bucketmod.compiler.program.Program`, or a function that makes them when
    they are needed (exporting costs time that a hit should not pay); ``mode``: "train", "infer", or "update" for the
    optimizer kernels, which come from no program (``b""``); ``wrt``: inputs to differentiate;
    ``target``: as in :func:`~bucketmod.compiler.target.parse_target`; ``name``: for messages, such as "bucket 20
    (train)"; ``request_digest``: identity in the cache's index; ``info``: shown in the index; ``tune``: kernels
    are cut as measured on this machine. That is no part of the identity: who asks later gets the tuned artifact.
    """

    program: bytes | Callable[[], bytes]
    mode: str
    wrt: tuple[str, ...]
    target: str
    name: str
    request_digest: str
    info: dict[str, Any] = field(default_factory=dict)
    tune: bool = False


@dataclass(frozen=True)
class CompileResult:
    """``seconds``: spent compiling, 0 for a hit; ``error``: readable text when not ``ok``."""

    request: CompileRequest
    ok: bool
    error: str | None
    object_digest: str | None
    seconds: float
    hit: bool = False


def _compile(request: CompileRequest, cache: ArtifactCache, worker: WorkerProcess) -> CompileResult:
    """One request, under its lock."""
    with cache.lock(request.request_digest):
        found = cache.find(request.request_digest)
        if found is not None and (found.info.get(TUNED) or not request.tune):
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
                 "folder": str(folder), "tune": request.tune}
            )  # fmt: skip
            seconds = time.perf_counter() - started
            if not answer["ok"]:
                return CompileResult(request, False, answer["error"], None, seconds)
            info = {**request.info, "seconds": round(seconds, 3), TUNED: request.tune}
            digest = cache.publish(request.request_digest, folder, info)
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
    taken: list[WorkerProcess] = []

    def run(indices: list[int]) -> list[tuple[int, CompileResult]]:
        if not hasattr(workers, "own"):
            workers.own = POOL.take()
            taken.append(workers.own)
        return [(index, _compile(requests[index], cache, workers.own)) for index in indices]

    results: dict[int, CompileResult] = {}
    try:
        with ThreadPoolExecutor(max_workers=max(1, min(jobs, len(requests)))) as pool:
            futures = [pool.submit(run, indices) for indices in _shares(requests, jobs)]
            for future in as_completed(futures):
                for index, result in future.result():
                    results[index] = result
                    if progress is not None:
                        progress(result)
    finally:
        for worker in taken:
            POOL.give_back(worker)
    return [results[index] for index in range(len(requests))]


def _shares(requests: Sequence[CompileRequest], jobs: int) -> list[list[int]]:
    """Positions of requests that one worker should answer: those of a bucket, which have kernels in common; each by
    itself where workers would be left without any."""
    if jobs <= 1:
        return [[index] for index in range(len(requests))]
    shares: dict[str, list[int]] = {}
    for index, request in enumerate(requests):
        key = json.dumps([request.info.get("model"), request.info.get("bucket_key"), request.target], default=str)
        shares.setdefault(key, []).append(index)
    return list(shares.values()) if len(shares) >= jobs else [[index] for index in range(len(requests))]
