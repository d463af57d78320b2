"""Runs the parts of a program that is cut over several contexts, behind the interface of one executor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from bucketmod.runtime.executor import Executor
from bucketmod.runtime.parameter_store import ParameterStore
from bucketmod.runtime.workspace import Workspace

_Key = TypeVar("_Key")

_STRIDE = 0x9E3779B97F4A7C15  # apart in all bits: random numbers of parts must not repeat each other
_SEED_MASK = (1 << 63) - 1


@dataclass(frozen=True)
class PlacedPart:
    """``cuts``: inputs that other parts make, with (part, output); ``wrt``: inputs that are differentiated."""

    executor: Executor
    cuts: tuple[tuple[str, tuple[int, int]], ...]
    wrt: tuple[str, ...]


class PlacedExecutor:
    """Parts in the order in which they depend on each other; values that one hands to another are copied.

    ``heads``: (part, output) of each output of the whole, ``output_shapes`` their names and shapes. Parameters,
    gradients and inputs are those of one store and one set of buffers, as for :class:`Executor`, whose methods these
    are; each part has a workspace of its own.
    """

    def __init__(
        self,
        parts: Sequence[PlacedPart],
        heads: Sequence[tuple[int, int]],
        output_shapes: list[tuple[str, tuple[int, ...]]],
        store: ParameterStore,
        workspace: Workspace,
    ) -> None:
        self._parts = list(parts)
        self._heads = list(heads)
        self.output_shapes = output_shapes
        self.store = store
        self.trains = any(part.executor.trains for part in parts)
        self.takes_seed = any(part.executor.takes_seed for part in parts)
        self._workspace = workspace
        self._sums: dict[str, np.ndarray] = {}

    def release(self) -> None:
        """Every part looks after its own views."""

    def input(self, name: str) -> np.ndarray | None:
        """As of :class:`Executor`; parts that use one input share its buffer."""
        found = [part.executor.input(name) for part in self._parts]
        return next((array for array in reversed(found) if array is not None), None)

    def forward(self, seed: tuple[int, int] = (0, 0)) -> None:
        """Runs all parts, each with random numbers of its own."""
        self._workspace.owner = self
        for number, part in enumerate(self._parts):
            for name, (source, index) in part.cuts:
                target = part.executor.input(name)
                if target is not None:
                    np.copyto(target, self._parts[source].executor.outputs()[index])
            part.executor.forward(((seed[0] + number * _STRIDE) & _SEED_MASK, seed[1]))

    def backward(self, head_gradients: Mapping[str, np.ndarray] | None = None) -> None:
        """Runs the parts backward, last to first; the errors are those of :class:`Executor`."""
        self._check_owner("backward")
        if not self.trains:
            raise RuntimeError("backward needs a training program, this one was compiled for inference")
        self.check_heads(head_gradients)
        flowing: dict[tuple[int, int], np.ndarray] = {}
        for output, terms in self._given(head_gradients or {}).items():
            for term in terms:
                if term is not None:  # check_heads has seen that no gradient is missing
                    _add(flowing, output, term)
        self._sums = {}
        for number, part in reversed(list(enumerate(self._parts))):
            if part.executor.trains:
                shapes = part.executor.output_shapes
                heads = {name: flowing[number, i] for i, (name, _) in enumerate(shapes) if (number, i) in flowing}
                part.executor.backward(heads)
                self._collect(part, flowing)

    def _collect(self, part: PlacedPart, flowing: dict[tuple[int, int], np.ndarray]) -> None:
        """Copies what a part computed for its inputs: parts with an input in common use one buffer for its gradient."""
        sources = dict(part.cuts)
        for name in part.wrt:
            if name in sources:
                _add(flowing, sources[name], part.executor.gradient(name))
            elif name not in self.store.gradients:
                _add(self._sums, name, part.executor.gradient(name))

    def check_heads(self, head_gradients: Mapping[str, np.ndarray] | None) -> None:
        """As of :class:`Executor`."""
        given = self._given(head_gradients or {})
        for number, part in enumerate(self._parts):
            known = {}
            for index, (name, shape) in enumerate(part.executor.output_shapes):
                terms = given.get((number, index), [np.broadcast_to(np.float32(0), shape)])  # from other parts: fits
                if all(term is not None for term in terms):
                    known[name] = terms[0]
            part.executor.check_heads(known)  # type: ignore[arg-type]

    def _given(self, head_gradients: Mapping[str, np.ndarray]) -> dict[tuple[int, int], list[np.ndarray | None]]:
        """What the caller gave for outputs of parts; an output that stands twice has two gradients."""
        found: dict[tuple[int, int], list[np.ndarray | None]] = {}
        for head, (name, _) in zip(self._heads, self.output_shapes, strict=True):
            found.setdefault(head, []).append(head_gradients.get(name))
        return found

    def outputs(self) -> list[np.ndarray]:
        """Views of the parts' workspaces, valid until any program runs in them; RuntimeError as of Executor."""
        self._check_owner("outputs")
        return [self._parts[part].executor.outputs()[index] for part, index in self._heads]

    def gradient(self, name: str) -> np.ndarray:
        """Gradient of an input after ``backward``; KeyError when the program does not compute it."""
        if name in self.store.gradients:
            return self.store.gradients[name]
        self._check_owner("gradient")
        return self._sums[name]

    def _check_owner(self, wanted: str) -> None:
        if self._workspace.owner is not self:
            raise RuntimeError(
                f"{wanted}: no results of this bucket: no forward ran yet, or another bucket (or mode) ran after it "
                "and wrote over them; call forward first, and copy outputs that must last longer"
            )


def _add(sums: dict[_Key, np.ndarray], key: _Key, term: np.ndarray) -> None:
    """Adds to the sum under ``key``, which begins as a copy of its first term."""
    sums[key] = term.copy() if key not in sums else np.add(sums[key], term, out=sums[key])
