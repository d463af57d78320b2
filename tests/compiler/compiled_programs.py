"""Compiles a program in this process and runs it, for tests that compare numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from bucketmod.compiler.artifact_writer import write_artifact
from bucketmod.compiler.pipeline import compile_program
from bucketmod.compiler.program import Program
from bucketmod.compiler.target import parse_target
from bucketmod.runtime.artifact import Artifact
from bucketmod.runtime.entry import entry_arguments
from bucketmod.runtime.memory import aligned_copy, aligned_empty


class CompiledProgram:
    """A forward program ("infer"), or one with the gradients of ``wrt`` ("train"), compiled for ``target``.

    For CUDA it is built everywhere, and runs where there is a GPU that can run it.
    """

    def __init__(self, program: Program, folder: Path, mode: str = "infer", wrt: Sequence[str] = (),
                 target: str = "cpu"):  # fmt: skip
        form = OnGpu if target.startswith("cuda") else OnCpu
        self.form = form(program, folder, mode, wrt, target)

    def run(self, inputs: dict[str, np.ndarray], seed: tuple[int, int] = (0, 0)) -> dict[str, np.ndarray]:
        """Every output and gradient by name. Skips the test on a machine that cannot run the target."""
        return self.form.run(inputs, seed)


class OnCpu:
    """An artifact, written and loaded."""

    def __init__(
        self, program: Program, folder: Path, mode: str, wrt: Sequence[str], target: str, tune: bool = False
    ):
        compiled = compile_program(program, mode, wrt, target, tune)
        write_artifact(compiled.manifest, compiled.files, folder)
        self.artifact = Artifact.load(folder)

    def run(self, inputs: dict[str, np.ndarray], seed: tuple[int, int]) -> dict[str, np.ndarray]:
        manifest = self.artifact.manifest
        fences = [Fenced((manifest.workspace_bytes,), "uint8")]
        workspace = fences[0].array
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
                fences.append(Fenced(spec.shape, spec.dtype))
                arrays[spec.name] = fences[-1].array
        for entry in [name for name in ("prepare", "infer", "forward", "backward") if name in manifest.entries]:
            if entry == "infer":
                workspace[:] = 255  # other programs may have run since anything was prepared
            names = manifest.entries[entry]
            self.artifact.function(entry)(*entry_arguments([*(arrays[name] for name in names), workspace]))
        for fence in fences:
            fence.check()
        return {
            spec.name: arrays[spec.name].copy() for spec in manifest.tensors if spec.role in ("output", "gradient")
        }


class Fenced:
    """Memory that a program writes: it begins as NaN, so that reading what nobody wrote shows, and what lies beside it
    must stay as it was."""

    _BESIDE = 512  # bytes, more than the widest vector store
    _MARK = 0xAB

    def __init__(self, shape: Sequence[int], dtype: str):
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        self.memory = aligned_empty((size + 2 * self._BESIDE,), "uint8")
        self.memory[:] = self._MARK
        inner = self.memory[self._BESIDE : self._BESIDE + size]
        inner[:] = 255
        self.array = inner.view(dtype).reshape(shape)
        self.size = size

    def check(self) -> None:
        for name, part in (("before", self.memory[: self._BESIDE]), ("after", self.memory[self._BESIDE + self.size :])):
            assert (part == self._MARK).all(), f"the program wrote {name} memory of shape {self.array.shape}"


class OnGpu:
    """A Relax executable for CUDA."""

    def __init__(self, program: Program, folder: Path, mode: str, wrt: Sequence[str], target: str):
        from bucketmod.compiler.cuda import build_for_cuda

        self.target = parse_target(target)
        self.built = build_for_cuda(program, mode, wrt, self.target)

    def run(self, inputs: dict[str, np.ndarray], seed: tuple[int, int]) -> dict[str, np.ndarray]:
        import tvm
        from tvm import relax

        device = tvm.cuda(0)
        if not device.exist:
            pytest.skip(f"built for {self.target.name}; no GPU here to run it")
        level = f"sm_{device.compute_version.replace('.', '')}"
        if level != self.target.arch.rstrip("af"):
            pytest.skip(f"built for {self.target.name}; the GPU here is {level}")
        program = self.built.program
        given = [np.asarray(inputs[port.name], port.dtype).reshape(port.shape) for port in program.inputs]
        if self.built.seeded:
            given.append(np.asarray(seed, np.int64))
        machine = relax.VirtualMachine(self.built.executable, device)
        results = machine["main"](*[tvm.runtime.tensor(array, device) for array in given])
        return {
            port.name: result.numpy().reshape(port.shape)
            for port, result in zip(program.outputs, results, strict=True)
            if port.role in ("output", "gradient")
        }
