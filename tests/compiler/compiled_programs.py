"""Compiles a program in this process and runs it, for tests that compare numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bucketmod.compiler.artifact_writer import write_artifact
from bucketmod.compiler.pipeline import compile_program
from bucketmod.compiler.program import Program
from bucketmod.runtime.artifact import Artifact
from bucketmod.runtime.memory import aligned_copy, aligned_empty
from bucketmod.runtime.tvm_runtime import tensor


class CompiledProgram:
    """``run`` returns every output and gradient by name."""

    def __init__(self, program: Program, folder: Path, mode: str = "infer", wrt: Sequence[str] = (),
                 target: str = "cpu"):  # fmt: skip
        compiled = compile_program(program, mode, wrt, target)
        write_artifact(compiled.manifest, compiled.files, folder)
        self.artifact = Artifact.load(folder)
        self.manifest = self.artifact.manifest

    def run(self, inputs: dict[str, np.ndarray], seed: tuple[int, int] = (0, 0)) -> dict[str, np.ndarray]:
        manifest = self.manifest
        workspace = aligned_empty((manifest.workspace_bytes,), "uint8")
        workspace[:] = 255  # NaN: reading what nobody wrote shows
        arrays: dict[str, np.ndarray] = {}
        for spec in manifest.tensors:
            if spec.offset is not None:
                end = spec.offset + spec.nbytes
                arrays[spec.name] = workspace[spec.offset : end].view(spec.dtype).reshape(spec.shape)
            elif spec.role == "seed":
                arrays[spec.name] = aligned_copy(np.asarray(seed, np.int64))
            elif spec.role == "constant":
                arrays[spec.name] = self.artifact.constants[spec.name]
            elif spec.name in inputs:
                arrays[spec.name] = aligned_copy(np.asarray(inputs[spec.name], spec.dtype).reshape(spec.shape))
            else:
                arrays[spec.name] = aligned_empty(spec.shape, spec.dtype)
                arrays[spec.name].view("uint8")[...] = 255
        for entry in [name for name in ("infer", "forward", "backward") if name in manifest.entries]:
            names = manifest.entries[entry]
            self.artifact.function(entry)(*[tensor(arrays[name]) for name in names], tensor(workspace))
        return {
            spec.name: arrays[spec.name].copy() for spec in manifest.tensors if spec.role in ("output", "gradient")
        }
