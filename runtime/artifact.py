"""An artifact: one compiled bucket in one mode, as a folder that can be verified and loaded.

The folder holds ``manifest.json``, the library (``module.so``, or ``module.o`` where it was built without a linker)
and, when the program has constants that are too large for the code, ``constants.npz``. The manifest names the digests
of the other two, and the cache names the folder by the digest of the manifest, so one digest vouches for all three.

Digests detect damage and mix-ups. They do not make a stranger's cache safe: a library is machine code, load only what
your own processes (or people you trust) have written.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bucketmod.runtime.cpu import host_flags
from bucketmod.runtime.errors import ArtifactError, IncompatibleCpuError
from bucketmod.runtime.gradient_rows import table_size
from bucketmod.runtime.memory import ALIGNMENT, aligned_copy
from bucketmod.runtime.tvm_runtime import load_library

FORMAT_VERSION = 6
MANIFEST_FILE = "manifest.json"
CONSTANTS_FILE = "constants.npz"
LIBRARY_FILES = ("module.so", "module.o")

MODES = ("train", "infer", "update")
ROLES = (
    "data", "label", "parameter", "auxiliary", "state", "seed", "head_gradient", "constant", "gradient",
    "gradient_rows", "output", "prepared",
)  # fmt: skip
# The roles whose memory the kernels write; of these, the ones in the workspace have an offset.
WRITTEN_ROLES = ("output", "gradient", "auxiliary")
DTYPES = (
    "float32", "float64", "float16", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool"
)  # fmt: skip

_MANIFEST_LIMIT = 64 << 20  # bytes; the largest manifests measured are some 100 kB
_SIZE_LIMIT = 1 << 48  # bytes; more than any machine's memory, far from overflowing 64 bits
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class TensorSpec:
    """One tensor that the library's functions take.

    ``name``: unique in the manifest. ``role``: what it is for, see ``ROLES``.
    ``shape``, ``dtype``: dense, C order.
    ``of``: the partner: for a gradient and its table of rows (see :mod:`bucketmod.runtime.gradient_rows`) the input
    that they belong to, for a head gradient the output, for an auxiliary output the auxiliary input that it replaces,
    for what is prepared the digest of its computation; empty otherwise.
    ``offset``: bytes from the start of the workspace for a tensor that lives there, a multiple of 64; None for a
    buffer that the caller owns.
    """

    name: str
    role: str
    shape: tuple[int, ...]
    dtype: str
    of: str = ""
    offset: int | None = None

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        size = np.dtype(self.dtype).itemsize
        for dim in self.shape:
            size *= dim
        return size


@dataclass(frozen=True)
class Manifest:
    """What an artifact is, what it needs and how its functions are called.

    ``mode``: ``train`` (entries ``forward`` and ``backward``), ``infer`` (entry ``infer``) or ``update`` (one entry an
    optimizer kernel, see :mod:`bucketmod.runtime.update`).
    ``target``: canonical name, as ``cpu:x86-64-v4`` or ``cuda:sm_90``.
    ``cpu_flags``: features (Linux's names) that the code needs where it runs.
    ``library``: file name, ``module.so`` or ``module.o``; ``library_sha256``: its digest.
    ``constants_sha256``: digest of ``constants.npz``, empty when there is none.
    ``workspace_bytes``: memory for everything between inputs and outputs; the caller lends it, 64-byte aligned.
    ``nodes``: kernel calls, all entries together. ``compile_seconds``: how long compiling took.
    ``compiler``: one line with the versions that made it. ``model_digest``: digest of the program it came from, empty
    for ``update``.
    ``tensors``: every tensor of the program's surface.
    ``entries``: for each function of the library the names of the tensors that it takes, in order, and after them the
    workspace, by address (see :mod:`bucketmod.runtime.entry`; ``update`` entries: flat tensors and scalars).
    ``tuning``: for each kernel whose cut was measured what was chosen, for people; empty where nothing was measured.
    ``format_version``: of this description; another version is refused.
    """

    mode: str
    target: str
    cpu_flags: tuple[str, ...]
    library: str
    library_sha256: str
    constants_sha256: str
    workspace_bytes: int
    nodes: int
    compile_seconds: float
    compiler: str
    model_digest: str
    tensors: tuple[TensorSpec, ...]
    entries: dict[str, tuple[str, ...]] = field(default_factory=dict)
    tuning: dict[str, str] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    def tensor(self, name: str) -> TensorSpec:
        """Raises KeyError for an unknown name."""
        for spec in self.tensors:
            if spec.name == name:
                return spec
        raise KeyError(name)

    def by_role(self, role: str) -> list[TensorSpec]:
        """Tensors of this role, in the order of the program."""
        return [spec for spec in self.tensors if spec.role == role]

    def to_json(self) -> str:
        """Text of ``manifest.json``; equal manifests give equal text."""
        return json.dumps(dataclasses.asdict(self), indent=1, sort_keys=True) + "\n"

    @staticmethod
    def from_json(text: str | bytes) -> Manifest:
        """Raises ArtifactError for anything that the compiler could not have written."""
        return _ManifestReader(text).read()


class _ManifestReader:
    """Reads a manifest from a file that may hold anything."""

    def __init__(self, text: str | bytes):
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ArtifactError(f"{MANIFEST_FILE} is not JSON: {error}") from error
        if not isinstance(document, dict):
            raise ArtifactError(f"{MANIFEST_FILE} must hold one JSON object, found {type(document).__name__}")
        self.document = document

    def read(self) -> Manifest:
        version = self.value(self.document, "format_version", int)
        if version != FORMAT_VERSION:
            raise ArtifactError(
                f"artifact format {version} cannot be read by this version of bucketmod (it reads {FORMAT_VERSION}): "
                "compile the model again"
            )
        expected = {f.name for f in dataclasses.fields(Manifest)}
        if set(self.document) != expected:
            raise ArtifactError(f"{MANIFEST_FILE}: missing or unknown fields {sorted(expected ^ set(self.document))}")
        get = {f: self.value(self.document, f, str) for f in ("mode", "target", "library", "compiler", "model_digest")}
        if get["mode"] not in MODES or get["library"] not in LIBRARY_FILES:
            raise ArtifactError(f"{MANIFEST_FILE}: unknown mode {get['mode']!r} or library name {get['library']!r}")
        tensors = tuple(self.tensor(item) for item in self.value(self.document, "tensors", list))
        manifest = Manifest(
            **get,
            cpu_flags=self.texts("cpu_flags"),
            library_sha256=self.digest("library_sha256"),
            constants_sha256=self.digest("constants_sha256", may_be_empty=True),
            workspace_bytes=self.size(self.document, "workspace_bytes"),
            nodes=self.size(self.document, "nodes"),
            compile_seconds=float(self.value(self.document, "compile_seconds", (int, float))),
            tensors=tensors,
            entries=self.entries({spec.name for spec in tensors}),
            tuning=self.tuning(),
        )
        self.check_layout(manifest)
        return manifest

    def value(self, holder: dict[str, Any], name: str, kind: Any) -> Any:
        value = holder.get(name)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ArtifactError(f"{MANIFEST_FILE}: field {name!r} has value {str(value)[:80]!r} of the wrong type")
        return value

    def size(self, holder: dict[str, Any], name: str) -> int:
        value = self.value(holder, name, int)
        if not 0 <= value < _SIZE_LIMIT:
            raise ArtifactError(f"{MANIFEST_FILE}: field {name!r} is {value}, out of range")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        values = self.value(self.document, name, list)
        if not all(isinstance(value, str) for value in values):
            raise ArtifactError(f"{MANIFEST_FILE}: field {name!r} must hold strings only")
        return tuple(values)

    def digest(self, name: str, may_be_empty: bool = False) -> str:
        value = self.value(self.document, name, str)
        if not (may_be_empty and value == "") and not _DIGEST.fullmatch(value):
            raise ArtifactError(f"{MANIFEST_FILE}: field {name!r} is {value[:80]!r}, not a SHA-256 digest")
        return value

    def tensor(self, item: Any) -> TensorSpec:
        if not isinstance(item, dict) or set(item) != {"name", "role", "shape", "dtype", "of", "offset"}:
            raise ArtifactError(f"{MANIFEST_FILE}: a tensor is described by {str(item)[:120]}")
        name, role, dtype, of = (self.value(item, key, str) for key in ("name", "role", "dtype", "of"))
        if role not in ROLES or dtype not in DTYPES:
            raise ArtifactError(f"{MANIFEST_FILE}: tensor {name[:80]!r} has role {role!r} and dtype {dtype!r}")
        shape = self.value(item, "shape", list)
        if len(shape) > 32 or not all(type(dim) is int and 0 <= dim < _SIZE_LIMIT for dim in shape):
            raise ArtifactError(f"{MANIFEST_FILE}: tensor {name[:80]!r} has shape {str(shape)[:120]}")
        offset = None if item["offset"] is None else self.size(item, "offset")
        spec = TensorSpec(name, role, tuple(shape), dtype, of, offset)
        if spec.nbytes >= _SIZE_LIMIT:
            raise ArtifactError(f"{MANIFEST_FILE}: tensor {name[:80]!r} would take {spec.nbytes} bytes")
        return spec

    def entries(self, known: set[str]) -> dict[str, tuple[str, ...]]:
        entries: dict[str, tuple[str, ...]] = {}
        for function, names in self.value(self.document, "entries", dict).items():
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise ArtifactError(f"{MANIFEST_FILE}: entry {function[:80]!r} must list names of tensors")
            if unknown := [name for name in names if name not in known]:
                raise ArtifactError(f"{MANIFEST_FILE}: entry {function[:80]!r} takes unknown tensors {unknown[:5]}")
            entries[function] = tuple(names)
        return entries

    def tuning(self) -> dict[str, str]:
        found = self.value(self.document, "tuning", dict)
        if not all(isinstance(text, str) for text in found.values()):
            raise ArtifactError(f"{MANIFEST_FILE}: field 'tuning' must hold strings only")
        return found

    def check_layout(self, manifest: Manifest) -> None:
        names = [spec.name for spec in manifest.tensors]
        if len(set(names)) != len(names):
            raise ArtifactError(f"{MANIFEST_FILE}: two tensors have the same name")
        gradients = {spec.of: spec for spec in manifest.by_role("gradient")}
        for spec in manifest.tensors:
            if spec.role == "gradient_rows" and manifest.mode != "update":
                rows = gradients[spec.of].shape[0] if spec.of in gradients and gradients[spec.of].shape else 0
                if (spec.shape, spec.dtype) != ((table_size(rows),), "int32"):
                    raise ArtifactError(f"{MANIFEST_FILE}: {spec.name!r} is no table of rows of a gradient")
            if spec.role == "prepared" and not (_DIGEST.fullmatch(spec.of) and "prepare" in manifest.entries):
                raise ArtifactError(f"{MANIFEST_FILE}: {spec.name!r} is prepared by nothing")
            if spec.offset is None:
                continue
            inside = spec.offset + spec.nbytes <= manifest.workspace_bytes
            if not inside or spec.offset % ALIGNMENT or spec.role not in WRITTEN_ROLES:
                raise ArtifactError(
                    f"{MANIFEST_FILE}: tensor {spec.name!r} ({spec.role}, {spec.nbytes} bytes at {spec.offset}) does "
                    f"not fit the workspace of {manifest.workspace_bytes} bytes"
                )


class Artifact:
    """A verified artifact. Its library is loaded when the first function is asked for."""

    def __init__(self, folder: Path, manifest: Manifest, constants: dict[str, np.ndarray]):
        self.folder = folder
        self.manifest = manifest
        self.constants = constants
        self._library: Any = None

    @staticmethod
    def load(folder: Path | str, digest: str | None = None) -> Artifact:
        """Verifies and opens the artifact in ``folder``; ``digest``: of the manifest, when it is known.

        Raises ArtifactError when something is missing, damaged or of another format, IncompatibleCpuError when this
        CPU cannot run it.
        """
        folder = Path(folder)
        manifest = verify(folder, digest)
        missing = sorted(set(manifest.cpu_flags) - host_flags())
        if missing:
            raise IncompatibleCpuError(
                f"artifact {folder} was compiled for {manifest.target} and needs {', '.join(missing)}, which this CPU "
                "lacks: compile for --target cpu (this machine) or a lower level such as cpu:x86-64-v3"
            )
        return Artifact(folder, manifest, _read_constants(folder, manifest))

    def function(self, name: str) -> Any:
        """The library's function of this name, called as ``f(*tensors)``; ArtifactError when there is none."""
        if self._library is None:
            if self.manifest.target.startswith("cuda"):
                raise NotImplementedError(
                    f"CUDA execution: artifact {self.folder} was compiled for {self.manifest.target}; this version "
                    "compiles for CUDA ahead of time but runs programs on CPUs only"
                )
            try:
                self._library = load_library(self.folder / self.manifest.library)
            except Exception as error:  # the loader has its own kinds of errors
                raise ArtifactError(f"cannot load {self.folder / self.manifest.library}: {error}") from error
        try:
            return self._library[name]
        except AttributeError as error:
            raise ArtifactError(f"{self.folder / self.manifest.library} has no function {name!r}") from error


def verify(folder: Path, digest: str | None = None) -> Manifest:
    """Checks every digest of the artifact without loading its code; returns the manifest, or raises ArtifactError."""
    text = _read_limited(folder / MANIFEST_FILE, _MANIFEST_LIMIT)
    if digest is not None and hashlib.sha256(text).hexdigest() != digest:
        raise ArtifactError(f"{folder / MANIFEST_FILE} was changed after it was written: it does not match {digest}")
    manifest = Manifest.from_json(text)
    _check_digest(folder / manifest.library, manifest.library_sha256)
    if manifest.constants_sha256:
        _check_digest(folder / CONSTANTS_FILE, manifest.constants_sha256)
    return manifest


def file_digest(path: Path) -> str:
    """SHA-256 of a file in hexadecimal; OSError when it cannot be read."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _check_digest(path: Path, expected: str) -> None:
    try:
        found = file_digest(path)
    except OSError as error:
        raise ArtifactError(f"cannot read {path}: {error}") from error
    if found != expected:
        raise ArtifactError(f"{path} is damaged or foreign: SHA-256 is {found}, the manifest says {expected}")


def _read_limited(path: Path, limit: int) -> bytes:
    try:
        with open(path, "rb") as file:
            text = file.read(limit + 1)
    except OSError as error:
        raise ArtifactError(f"cannot read {path}: {error}") from error
    if len(text) > limit:
        raise ArtifactError(f"{path} has more than {limit} bytes")
    return text


def _read_constants(folder: Path, manifest: Manifest) -> dict[str, np.ndarray]:
    specs = manifest.by_role("constant")
    if not specs:
        return {}
    path, constants = folder / CONSTANTS_FILE, {}
    try:
        with np.load(path, allow_pickle=False) as archive:
            for spec in specs:
                constants[spec.name] = aligned_copy(archive[spec.name])
    except Exception as error:  # numpy and zipfile raise many kinds for files that are not theirs
        raise ArtifactError(f"cannot read constants from {path}: {error}") from error
    for spec in specs:
        array = constants[spec.name]
        if (array.shape, array.dtype.name) != (spec.shape, spec.dtype):
            raise ArtifactError(
                f"{path}: {spec.name!r} is {array.dtype.name}{array.shape}, not {spec.dtype}{spec.shape}"
            )
    return constants
