"""The artifact of the optimizer kernels: one for each target, whatever the model."""

from __future__ import annotations

import time

from bucketmod.compiler import versions
from bucketmod.compiler.kernels.update import UPDATES, update_module
from bucketmod.compiler.lowering.host import build_object
from bucketmod.compiler.pipeline import CompiledProgram, package
from bucketmod.compiler.target import parse_target
from bucketmod.runtime.artifact import Manifest, TensorSpec

_ROLES = {"weight": "parameter", "grad": "gradient"}


def compile_updates(target_name: str) -> CompiledProgram:
    """The artifact of mode ``update``, as :mod:`bucketmod.runtime.update` loads it.

    Its entries are those of :mod:`bucketmod.compiler.kernels.update`, each with the names of its arrays. The shape of
    an array is (0,) in the manifest: any length is taken. Raises ValueError for an unknown target, NotImplementedError
    for CUDA.
    """
    target = parse_target(target_name)
    if target.cpu is None:
        raise NotImplementedError(f"optimizer kernels for {target.name}: CUDA execution comes in a later version")
    started = time.perf_counter()
    library = build_object(update_module(target.cpu), target.tvm(), pipeline="default")
    arrays = dict.fromkeys(name for update in UPDATES for name in update.arrays)
    manifest = Manifest(
        mode="update",
        target=target.name,
        cpu_flags=target.cpu.flags,
        library="",
        library_sha256="",
        constants_sha256="",
        workspace_bytes=0,
        nodes=len(UPDATES),
        compile_seconds=time.perf_counter() - started,
        compiler=versions(),
        model_digest="",
        tensors=tuple(TensorSpec(name, _ROLES.get(name, "state"), (0,), "float32") for name in arrays),
        entries={update.name: update.arrays for update in UPDATES},
    )
    return package(manifest, library, {})
