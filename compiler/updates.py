"""The artifact of the update kernels: one for each target, whatever the model."""

from __future__ import annotations

import time

from bucketmod.compiler import versions
from bucketmod.compiler.kernels.update import update_module
from bucketmod.compiler.linker import link
from bucketmod.compiler.lowering.host import build_object, flatten
from bucketmod.compiler.pipeline import CompiledProgram, package
from bucketmod.compiler.target import parse_target
from bucketmod.compiler.update_formulas import UPDATES
from bucketmod.runtime.artifact import Manifest, TensorSpec
from bucketmod.runtime.update import BY_ROWS

_ROLES = {"weight": "parameter", "grad": "gradient", "second_grad": "gradient"}


def compile_updates(target_name: str) -> CompiledProgram:
    """The artifact of mode ``update``, as :mod:`bucketmod.runtime.update` loads it.

    Its entries are those of :mod:`bucketmod.compiler.update_formulas`, each with the names of its arrays and sums (role
    output), and for those ``by_rows`` a second one, with the table of rows in place of sums. The shape of an array is
    (0,) in the manifest: any length is taken. Raises ValueError for an unknown target, NotImplementedError for CUDA.
    """
    target = parse_target(target_name)
    if target.cpu is None:
        raise NotImplementedError(f"optimizer kernels for {target.name}: CUDA execution comes in a later version")
    started = time.perf_counter()
    library = build_object(flatten(dict(update_module(target.cpu).functions.items())), target.tvm())
    roles = {name: _ROLES.get(name, "state") for update in UPDATES.values() for name in update.arrays}
    roles |= {name: "output" for update in UPDATES.values() for name in update.sums}
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
        tensors=(
            *(TensorSpec(name, role, (0,), "float32") for name, role in roles.items()),
            TensorSpec("rows", "gradient_rows", (0,), "int32"),
        ),
        entries={name: (*update.arrays, *update.sums) for name, update in UPDATES.items()}
        | {name + BY_ROWS: (*update.arrays, "rows") for name, update in UPDATES.items() if update.by_rows},
    )
    linked = link([library])
    name, library = ("module.o", library) if linked is None else ("module.so", linked)
    return package(manifest, name, library, {})
