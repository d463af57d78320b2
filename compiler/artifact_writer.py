"""Writes a compiled program as an artifact folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from bucketmod.runtime.artifact import MANIFEST_FILE, Manifest


def write_artifact(manifest: Manifest, files: Mapping[str, bytes], folder: Path) -> None:
    """Writes every file and flushes it to disk; the manifest comes last, so a folder with one is complete."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        _write(folder / name, data)
    _write(folder / MANIFEST_FILE, manifest.to_json().encode())


def _write(path: Path, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
