"""From a request to a loaded artifact: out of the cache, or compiled on the spot."""

from __future__ import annotations

import logging
import os
import shlex
import time
from pathlib import Path

from bucketmod.base import MXNetError
from bucketmod.compiler.service import CompileRequest, compile_requests
from bucketmod.runtime.artifact import Artifact
from bucketmod.runtime.cache import ArtifactCache, default_cache_dir

logger = logging.getLogger("bucketmod")

_SWITCH = "BUCKETMOD_COMPILE"


class MissingArtifactError(MXNetError):
    """No artifact answers the request, and compiling is switched off."""


class CompilationError(MXNetError):
    """A program could not be compiled; the message tells which node is at fault."""


class _State:
    """The cache in use, and what this process compiled."""

    def __init__(self) -> None:
        self.cache: ArtifactCache | None = None
        self.chosen = False
        self.compiled = 0
        self.seconds = 0.0


_state = _State()


def get_cache() -> ArtifactCache:
    """The cache that modules use: of :func:`set_cache`, else of ``$BUCKETMOD_CACHE`` as it is now."""
    if _state.cache is None or (not _state.chosen and _state.cache.directory != default_cache_dir()):
        _state.cache = ArtifactCache()
    return _state.cache


def set_cache(directory: str | os.PathLike[str] | None) -> ArtifactCache:
    """Makes modules use the cache in ``directory`` from now on (None: back to the default one)."""
    _state.cache = ArtifactCache(Path(directory)) if directory is not None else ArtifactCache()
    _state.chosen = directory is not None
    return _state.cache


def compiled_count() -> int:
    """Artifacts that modules of this process had to compile because the cache did not have them."""
    return _state.compiled


def compile_seconds() -> float:
    """Seconds that modules of this process waited for those."""
    return _state.seconds


def default_target() -> str:
    """The target that modules on ``cpu()`` compile for: ``$BUCKETMOD_TARGET``, else ``cpu`` (this machine)."""
    return os.environ.get("BUCKETMOD_TARGET") or "cpu"


def obtain(request: CompileRequest) -> Artifact:
    """The artifact that answers the request.

    Raises MissingArtifactError when it is not in the cache and ``BUCKETMOD_COMPILE=0``, CompilationError when compiling
    fails, IncompatibleCpuError when this CPU cannot run it.
    """
    cache = get_cache()
    artifact = cache.load(request.request_digest)
    if artifact is not None:
        return artifact
    command = _command(request)
    if os.environ.get(_SWITCH, "1") == "0":
        raise MissingArtifactError(
            f"{request.name}: no compiled artifact for target {request.target} in {cache.directory}, and compiling is "
            f"switched off ({_SWITCH}=0). Compile it ahead with: {command}"
        )
    started = time.perf_counter()
    (result,) = compile_requests([request], cache)
    if not result.ok or result.object_digest is None:
        raise CompilationError(f"{request.name}, target {request.target}: {result.error}")
    seconds = time.perf_counter() - started
    _state.seconds += seconds
    if not result.hit:
        _state.compiled += 1
        logger.warning("%s was not in the cache: compiled for %s in %.1f s; ahead of time: %s",
                       request.name, request.target, seconds, command)  # fmt: skip
    return cache.open(result.object_digest)


def _command(request: CompileRequest) -> str:
    key = request.info.get("bucket_key")
    buckets = "" if key in (None, "None") else f" --buckets {shlex.quote(str(key))}"
    mode = "infer" if request.mode == "infer" else "train"
    return f"scripts/precompile_buckets.py MODEL{buckets} --target {request.target} --mode {mode}"
