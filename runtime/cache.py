"""Compiled buckets on disk, shared by all processes that use the same directory.

    objects/<digest>/          artifacts, named by the SHA-256 of their manifest, which names the digests of the rest
    index/<request>.json       which object answers a request, and what a person wants to know about it
    locks/<request>.lock       held while a request is being compiled
    staging/                   folders that are being written

A request is the digest of everything that can change the compiled bytes (the program, mode, target, versions of the
compiler); whoever computes it the same way finds the same artifact. Everything is written beside its final place,
synced to the disk and renamed, so a reader sees whole files or none, and a killed process leaves only staging behind.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bucketmod.runtime.artifact import MANIFEST_FILE, Artifact, verify
from bucketmod.runtime.errors import ArtifactError, IncompatibleCpuError

logger = logging.getLogger("bucketmod")

_DIGEST = re.compile(r"[0-9a-f]{64}")
_INDEX_LIMIT = 1 << 20  # bytes of an index entry; real ones have some hundred
_STALE_SECONDS = 24 * 3600  # staging folders older than this were left by killed processes


@dataclass(frozen=True)
class IndexEntry:
    """``info``: for people and tables: model, bucket_key, target, mode, sizes, compile seconds."""

    request_digest: str
    object_digest: str
    info: dict[str, Any] = field(default_factory=dict)


@dataclass
class CacheCounts:
    """Requests of this process that were answered from the cache, and that were not."""

    hits: int = 0
    misses: int = 0


def default_cache_dir() -> Path:
    """``$BUCKETMOD_CACHE``, else ``bucketmod`` in the user's cache directory (``~/.cache``)."""
    if directory := os.environ.get("BUCKETMOD_CACHE"):
        return Path(directory)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bucketmod"


class ArtifactCache:
    """``counts`` tells hits and misses of :meth:`load`. Reading works on a read-only directory too."""

    def __init__(self, directory: Path | str | None = None):
        """``directory``: default as in :func:`default_cache_dir`; it is made when something is published."""
        self.directory = Path(directory) if directory is not None else default_cache_dir()
        self.counts = CacheCounts()
        self._loaded: dict[str, Artifact] = {}

    def find(self, request_digest: str) -> IndexEntry | None:
        """The entry that answers the request, its object verified (but not loaded); None when there is none, or when
        what is there is damaged (one warning tells so)."""
        entry = self._read_index(request_digest)
        if entry is None:
            return None
        try:
            verify(self.object_folder(entry.object_digest), entry.object_digest)
        except ArtifactError as error:
            logger.warning("cached artifact is not usable and will be compiled again: %s", error)
            return None
        return entry

    def load(self, request_digest: str) -> Artifact | None:
        """The artifact that answers the request, or None as in :meth:`find`; counts a hit or a miss.

        An artifact is opened once a process. Raises IncompatibleCpuError when it is intact, but not for this CPU.
        """
        artifact = None
        if entry := self._read_index(request_digest):
            try:
                artifact = self._loaded.get(entry.object_digest) or self.open(entry.object_digest)
            except IncompatibleCpuError:
                raise
            except ArtifactError as error:
                logger.warning("cached artifact is not usable and will be compiled again: %s", error)
        if artifact is None:
            self.counts.misses += 1
        else:
            self.counts.hits += 1
        return artifact

    def open(self, object_digest: str) -> Artifact:
        """The object of this digest; ArtifactError when it is missing or damaged."""
        artifact = self._loaded[object_digest] = Artifact.load(self.object_folder(object_digest), object_digest)
        return artifact

    def publish(self, request_digest: str, folder: Path | str, info: dict[str, Any]) -> str:
        """Copies the artifact in ``folder`` into the cache as the answer to the request; returns its object digest.

        ``info`` must be JSON. Raises ArtifactError when the folder holds no intact artifact, OSError when the
        directory cannot be written.
        """
        _check_digest(request_digest)
        folder = Path(folder)
        manifest = verify(folder)
        digest = hashlib.sha256((folder / MANIFEST_FILE).read_bytes()).hexdigest()
        for name in ("objects", "index", "staging"):
            self._make(name)
        self._drop_stale()
        target = self.object_folder(digest)
        if not self._is_intact(digest):
            staged = self.directory / "staging" / uuid.uuid4().hex
            shutil.copytree(folder, staged)
            _sync_tree(staged)
            self._replace(staged, target)
        size = sum(file.stat().st_size for file in target.iterdir())
        entry = {
            "object": digest,
            "info": {"target": manifest.target, "mode": manifest.mode, "nodes": manifest.nodes,
                     "compile_seconds": manifest.compile_seconds, "bytes": size,
                     "workspace_bytes": manifest.workspace_bytes, **info},
        }  # fmt: skip
        self._write_index(request_digest, entry)
        return digest

    @contextlib.contextmanager
    def lock(self, request_digest: str) -> Iterator[None]:
        """Held by the one process that compiles the request; the others wait here and then find the artifact."""
        from filelock import FileLock

        _check_digest(request_digest)
        self._make("locks")
        with FileLock(self.directory / "locks" / f"{request_digest}.lock"):
            yield

    def entries(self) -> list[IndexEntry]:
        """All readable index entries, ordered by model, bucket key, target and mode; objects are not verified."""
        found = []
        with contextlib.suppress(OSError):
            for path in (self.directory / "index").iterdir():
                if path.suffix == ".json" and (entry := self._read_index(path.stem)):
                    found.append(entry)
        columns = ("model", "bucket_key", "target", "mode")
        return sorted(found, key=lambda entry: [str(entry.info.get(column, "")) for column in columns])

    def object_folder(self, object_digest: str) -> Path:
        """Where the object of this digest is (or would be)."""
        return self.directory / "objects" / _check_digest(object_digest)

    def _read_index(self, request_digest: str) -> IndexEntry | None:
        if not _DIGEST.fullmatch(request_digest):
            return None
        path = self.directory / "index" / f"{request_digest}.json"
        try:
            with open(path, "rb") as file:
                document = json.loads(file.read(_INDEX_LIMIT))
            digest, info = document["object"], document["info"]
            if not _DIGEST.fullmatch(digest) or not isinstance(info, dict):
                raise ValueError("it names no object")
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            logger.warning("cache index %s is damaged and ignored: %s", path, error)
            return None
        return IndexEntry(request_digest, digest, info)

    def _write_index(self, request_digest: str, entry: dict[str, Any]) -> None:
        staged = self.directory / "staging" / f"{uuid.uuid4().hex}.json"
        staged.write_text(json.dumps(entry, indent=1, sort_keys=True) + "\n")
        _sync(staged)
        index = self.directory / "index"
        os.replace(staged, index / f"{request_digest}.json")
        _sync(index)

    def _is_intact(self, digest: str) -> bool:
        try:
            verify(self.object_folder(digest), digest)
        except ArtifactError:
            return False
        return True

    def _replace(self, staged: Path, target: Path) -> None:
        """Moves a finished folder into its place; a damaged one that is in the way goes, an intact one stays."""
        for _ in range(16):  # another process may put the same object back between two calls
            try:
                os.rename(staged, target)
                _sync(target.parent)
                return
            except OSError:
                if not target.exists():
                    raise
            if self._is_intact(target.name):
                shutil.rmtree(staged, ignore_errors=True)
                return
            with contextlib.suppress(FileNotFoundError):
                old = self.directory / "staging" / uuid.uuid4().hex
                os.rename(target, old)
                shutil.rmtree(old, ignore_errors=True) if old.is_dir() else old.unlink()
        raise OSError(f"cannot put an artifact at {target}: other processes keep writing damaged files there")

    def _make(self, name: str) -> None:
        try:
            (self.directory / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(
                f"cannot write the artifact cache {self.directory} ({error.strerror}): set BUCKETMOD_CACHE or --cache "
                "to a directory that can be written"
            ) from error

    def _drop_stale(self) -> None:
        limit = time.time() - _STALE_SECONDS
        for path in (self.directory / "staging").iterdir():
            with contextlib.suppress(OSError):
                if path.stat().st_mtime < limit:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()


def _check_digest(text: str) -> str:
    """Digests become file names: nothing else may."""
    if not _DIGEST.fullmatch(text):
        raise ValueError(f"expected a SHA-256 digest in hexadecimal, got {text[:80]!r}")
    return text


def _sync_tree(folder: Path) -> None:
    for path in folder.iterdir():
        _sync(path)
    _sync(folder)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
