"""Runs one bound artifact: a bucket's training or inference program over shared buffers."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np

from bucketmod.runtime.artifact import Artifact, TensorSpec
from bucketmod.runtime.entry import entry_arguments
from bucketmod.runtime.errors import ArtifactError
from bucketmod.runtime.gradient_rows import make_table
from bucketmod.runtime.memory import ALIGNMENT
from bucketmod.runtime.parameter_store import ParameterStore
from bucketmod.runtime.workspace import InputBuffers, Workspace

_PREPARED = -1  # part of the workspace for what is computed before every use


class Executor:
    """Binds the entries of an artifact to a store, a workspace and input buffers.

    The argument list of every entry is made once (and again only when shared memory grew): a step is one call into the
    library, however many kernels it runs.

    ``accumulate``: names of inputs whose gradients add up over backward passes instead of being overwritten.
    ``trains``: whether there is a backward part; ``takes_seed``: whether the program draws random numbers.
    """

    def __init__(
        self,
        artifact: Artifact,
        store: ParameterStore,
        workspace: Workspace,
        inputs: InputBuffers,
        accumulate: frozenset[str] = frozenset(),
    ):
        manifest = artifact.manifest
        expected = {"train": ("forward", "backward"), "infer": ("infer",)}.get(manifest.mode, ())
        prepares = manifest.mode == "infer" and "prepare" in manifest.entries
        expected += ("prepare",) * prepares
        if not expected or set(manifest.entries) != set(expected):
            raise ArtifactError(f"{artifact.folder}: mode {manifest.mode!r} with entries {sorted(manifest.entries)}")
        self.artifact = artifact
        self.store = store
        self.trains = manifest.mode == "train"
        self.takes_seed = bool(manifest.by_role("seed"))
        self._workspace = workspace
        self._inputs = inputs
        self._accumulate = accumulate
        self._functions = [artifact.function(name) for name in expected]
        self._entries = [manifest.entries[name] for name in expected]
        self._output_specs = manifest.by_role("output")
        self._head_specs = {spec.of: spec for spec in manifest.by_role("head_gradient")}
        self._gradient_specs = {spec.of: spec for spec in manifest.by_role("gradient")}
        self._parameters = {spec.name for spec in manifest.by_role("parameter")}
        self._arrays: dict[str, np.ndarray] = {}
        self._calls: list[tuple[Any, ...]] | None = None
        self._sums: list[tuple[np.ndarray, np.ndarray]] = []
        self._input_gradients: dict[str, np.ndarray] = {}
        self._seed: np.ndarray | None = None
        self._prepared = [spec.of for spec in manifest.by_role("prepared")] if prepares else []
        self._prepared_from: int | None = None  # version of the parameters
        self._changes_states = any(spec.role == "auxiliary" and spec.of for spec in manifest.tensors)
        self._kept = False  # whether the workspace holds what backward needs

    @property
    def output_shapes(self) -> list[tuple[str, tuple[int, ...]]]:
        """Names and shapes of the outputs, in order."""
        return [(spec.name, spec.shape) for spec in self._output_specs]

    def release(self) -> None:
        """Drops every view of shared memory; called when that memory is about to move."""
        self._calls = None
        self._arrays = {}
        self._sums = []
        self._seed = None

    def input(self, name: str) -> np.ndarray | None:
        """The buffer of a data, label or state input, to be written before ``forward``; None when the program does not
        use an input of this name. Valid until another bucket needs a larger one: ask again for each step."""
        if self._calls is None:
            self._bind()
        return self._arrays.get(name)

    def forward(self, seed: tuple[int, int] = (0, 0)) -> None:
        """Runs inference, or the forward part of training. ``seed``: for random numbers, (seed, number of the step)."""
        calls = self._calls or self._bind()
        if self._seed is not None:
            self._seed[:] = seed
        self._workspace.owner = self
        if self._prepared and (self._prepared_from is None or self._prepared_from != self.store.parameters_version):
            self._prepare(calls[1])
        self._functions[0](*calls[0])
        self._kept = self.trains
        if self._changes_states:
            self.store.parameters_changed()

    def _prepare(self, call: tuple[Any, ...]) -> None:
        """Computes what follows from the parameters alone, unless another program did so."""
        if self.store.lacks(self._prepared):
            self._functions[1](*call)
            self.store.has_prepared(self._prepared)
        self._prepared_from = self.store.parameters_version

    def backward(self, head_gradients: Mapping[str, np.ndarray] | None = None) -> None:
        """Computes the gradients of the last forward, which must have been of this executor (RuntimeError otherwise).

        A second call runs that forward again first: the first one used up what it had kept.

        ``head_gradients``: output name -> gradient with the output's shape. Loss outputs need none (theirs are ignored
        unless the loss takes one). ValueError when one is missing or has another shape.
        """
        calls = self._own_results("backward")
        if not self.trains:
            raise RuntimeError("backward needs a training program, this one was compiled for inference")
        if self._head_specs:
            self.check_heads(head_gradients)
        for of, spec in self._head_specs.items():
            self._arrays[spec.name][...] = head_gradients[of]  # type: ignore[index]  # checked
        if not self._kept:
            self._functions[0](*calls[0])
        self._kept = False
        self._functions[1](*calls[1])
        if self._changes_states:
            self.store.parameters_changed()
        for total, part in self._sums:
            np.add(total, part, out=total)

    def check_heads(self, head_gradients: Mapping[str, np.ndarray] | None) -> None:
        """ValueError when ``backward`` needs a gradient of an output that is not among these, or has another shape."""
        for of, spec in self._head_specs.items():
            given = None if head_gradients is None else head_gradients.get(of)
            if given is None:
                raise ValueError(f"output {of!r} is not a loss: backward needs its gradient, shape {spec.shape}")
            if tuple(given.shape) != spec.shape:
                raise ValueError(f"gradient of output {of!r} has shape {tuple(given.shape)}, expected {spec.shape}")

    def outputs(self) -> list[np.ndarray]:
        """The outputs in order: views of the workspace, valid until any program runs in it.

        RuntimeError when there are none: before the first forward, or after another program's.
        """
        self._own_results("outputs")
        return [self._arrays[spec.name] for spec in self._output_specs]

    def gradient(self, name: str) -> np.ndarray:
        """Gradient of the input ``name`` after ``backward``; KeyError when the program does not compute it."""
        if name in self._parameters:
            return self.store.gradients[name]
        if name in self._accumulate:
            return self._input_gradients[name]
        self._own_results("gradient")
        return self._arrays[self._gradient_specs[name].name]

    def _own_results(self, wanted: str) -> list[tuple[Any, ...]]:
        """The argument lists, if the workspace still holds what this executor's forward left there."""
        if self._calls is None or self._workspace.owner is not self:
            raise RuntimeError(
                f"{wanted}: no results of this bucket: no forward ran yet, or another bucket (or mode) ran after it "
                "and wrote over them; call forward first, and copy outputs that must last longer"
            )
        return self._calls

    def _bind(self) -> list[tuple[Any, ...]]:
        manifest = self.artifact.manifest
        memory = self._workspace.borrow(self, max(manifest.workspace_bytes, 1))
        arrays = {spec.name: self._array(spec, memory) for spec in manifest.tensors if spec.role != "prepared"}
        arrays |= self._place_prepared(manifest.by_role("prepared"))
        self._arrays = arrays
        calls = [entry_arguments([*(arrays[name] for name in entry), memory]) for entry in self._entries]
        self._calls = calls
        self._sums = self._find_sums(arrays)
        listed = {spec.of for spec in manifest.by_role("gradient_rows")} - self._accumulate
        for name in self._gradient_specs.keys() & self._parameters - listed:
            self.store.open_gradient(name)  # this program writes all rows and lists none
        seeds = manifest.by_role("seed")
        self._seed = arrays[seeds[0].name] if seeds else None
        return calls

    def _place_prepared(self, specs: list[TensorSpec]) -> dict[str, np.ndarray]:
        """By name: in the store, where it stays and serves all programs, or where it is computed before every use, in
        memory that every program of this workspace uses for that."""
        if self.store.parameters_version is not None:
            return {spec.name: self.store.prepared(spec.of, spec.shape, spec.dtype) for spec in specs}
        if not specs:
            return {}
        offsets = list(itertools.accumulate((-(-spec.nbytes // ALIGNMENT) * ALIGNMENT for spec in specs), initial=0))
        memory = self._workspace.part(_PREPARED).borrow(self, offsets[-1])
        return {
            spec.name: memory[offset : offset + spec.nbytes].view(spec.dtype).reshape(spec.shape)
            for spec, offset in zip(specs, offsets, strict=False)
        }

    def _array(self, spec: TensorSpec, memory: np.ndarray) -> np.ndarray:
        if spec.role == "constant":
            return self.artifact.constants[spec.name]
        if spec.offset is not None:
            view = memory[spec.offset : spec.offset + spec.nbytes]
            return view.view(spec.dtype).reshape(spec.shape)
        if spec.role in ("parameter", "auxiliary") and (spec.of or spec.name) in self._parameters:
            return self.store.parameter(spec.of or spec.name, spec.shape, spec.dtype)
        if spec.role == "auxiliary":
            return self.store.auxiliary_state(spec.of or spec.name, spec.shape, spec.dtype)
        if spec.role == "gradient" and spec.of in self._parameters:
            if spec.of in self._accumulate:
                return self.store.partial_gradient(spec.of, spec.shape, spec.dtype)
            return self.store.gradient(spec.of, spec.shape, spec.dtype)
        if spec.role == "gradient_rows":
            rows = self._gradient_specs[spec.of].shape[0]
            # What adds up is written by others as well, and its parts are no gradients that an update sees.
            return make_table(rows, False) if spec.of in self._accumulate else self.store.row_table(spec.of, rows)
        return self._inputs.borrow(self, f"{spec.role}:{spec.name}", spec.shape, spec.dtype)

    def _find_sums(self, arrays: dict[str, np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
        """(total, part of one pass) for each gradient that adds up."""
        sums = []
        for of in sorted(self._accumulate & set(self._gradient_specs)):
            spec = self._gradient_specs[of]
            if of in self._parameters:
                total = self.store.gradient(of, spec.shape, spec.dtype)
            else:
                total = self._input_gradients.setdefault(of, np.zeros(spec.shape, spec.dtype))
            sums.append((total, arrays[spec.name]))
        return sums
