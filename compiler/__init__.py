"""The ahead-of-time compiler: an ONNX forward program in, an artifact out.

Importing this package imports neither TVM's compiler nor onnxruntime; the modules that need them do so when they run.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

_TOOLS = ("bucketmod", "apache-tvm", "onnxruntime-training-cpu")


@functools.lru_cache(maxsize=1)
def versions() -> str:
    """One line that names everything that can change the compiled bytes: it is part of every artifact's identity.

    The sources of this package are part of it, so that a changed kernel never meets an old artifact.
    """
    names = [f"{tool} {_version(tool)}" for tool in _TOOLS]
    return f"{', '.join(names)}, sources {source_digest(Path(__file__).parent)[:16]}"


def _version(tool: str) -> str:
    """As installed. A machine that only runs artifacts need not have the gradient builder: there it is the version that
    bucketmod asks for, so that it finds what a machine with that version compiled."""
    try:
        return metadata.version(tool)
    except metadata.PackageNotFoundError:
        pins = [
            text.partition("==")[2] for text in metadata.requires("bucketmod") or () if text.startswith(f"{tool}==")
        ]
        return pins[0] if pins else "missing"


def source_digest(root: Path, folders: Sequence[str] = ("",)) -> str:
    """SHA-256 of the names and contents of all Python files in these folders of ``root``."""
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted((root / folder).rglob("*.py")):
            digest.update(str(path.relative_to(root)).encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()
