"""The time loop of a recurrent layer as one kernel, forward and backward, tuned for CPUs.

Each step is a small matrix product and the equations of the cell on its result while that is in the first cache. The
unit of parallel work inside a step is a tile: some rows of the batch by one or two vectors of hidden units, with all
gates of these units, so that the equations need nothing from other tiles. The recurrent weight is packed once a call.

Everything that does not depend on the state (x Wi, and the gradients of the input and of the weights) is left to large
products outside of the loop: ``layers.py`` puts these together.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from bucketmod.compiler.kernels import emission as emit
from bucketmod.compiler.kernels.kernel import Kernel, TensorShape
from bucketmod.compiler.kernels.recurrence.backward_loop import BackwardEmitter
from bucketmod.compiler.kernels.recurrence.cells import Cell
from bucketmod.compiler.kernels.recurrence.forward_loop import ForwardEmitter
from bucketmod.compiler.kernels.recurrence.loop_tiling import TileTiling, Tiling, tiling
from bucketmod.compiler.kernels.recurrence.loop_weight import PackedLoopWeight
from bucketmod.compiler.kernels.recurrence.tiled_loop import TiledBackward, TiledForward

if TYPE_CHECKING:
    from bucketmod.compiler.target import CpuFeatures


@dataclass(frozen=True)
class TimeLoop(Kernel):
    """Shapes of a loop: ``steps`` T, ``batch`` N, ``hidden`` H. ``reverse`` runs from the last time to the first."""

    cell: Cell
    steps: int
    batch: int
    hidden: int
    reverse: bool

    def _tensor(self, *shape: int) -> TensorShape:
        return shape, "float32"

    def _sequence(self, arrays: int = 1) -> TensorShape:
        return self._tensor(self.steps, self.batch, arrays * self.hidden)

    def _state(self) -> TensorShape:
        return self._tensor(self.batch, self.hidden)

    @property
    def flops(self) -> int:
        return 2 * self.steps * self.batch * self.cell.gates * self.hidden**2

    @property
    def weight(self) -> TensorShape:
        return self._tensor(self.cell.gates * self.hidden, self.hidden)

    @property
    def bias(self) -> TensorShape:
        return self._tensor(self.cell.gates * self.hidden)

    def portable(self) -> Any:
        raise NotImplementedError(
            f"{self.name}: a loop over time is no single schedulable kernel; layers.py composes it of steps instead"
        )


@dataclass(frozen=True)
class ForwardLoop(TimeLoop):
    """Inputs: X Wi + bi [T, N, G H], Wh [G H, H], bh [G H], h0 [N, H] and, where the cell has one, c0.

    Outputs: Y [T, N, H], h_n, (c_n); for ``training`` also what the gradient needs: gates [T, N, 4 H] of cells with
    gates, and of a cell state its values [T, N, H].

    ``packed``: the shape of Wh where that is a ``PackedLoopWeight`` already, which serves all calls.
    """

    training: bool
    packed: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.cell.name}_forward"

    @property
    def inputs(self) -> list[TensorShape]:
        states = [self._state()] * (2 if self.cell.has_cell else 1)
        weight = self._tensor(*self.packed) if self.packed else self.weight
        return [self._sequence(self.cell.gates), weight, self.bias, *states]

    @property
    def outputs(self) -> list[TensorShape]:
        states = [self._state()] * (2 if self.cell.has_cell else 1)
        return [self._sequence(), *states, *self._kept()]

    def _kept(self) -> list[TensorShape]:
        if not self.training:
            return []
        gates = [self._sequence(self.cell.saved)] if self.cell.saved else []
        return gates + ([self._sequence()] if self.cell.has_cell else [])

    @property
    def in_place(self) -> dict[int, int]:
        """Gates over X, where both have the same size."""
        cell = self.cell
        return {2 + cell.has_cell: 0} if self.training and cell.saved == cell.gates else {}

    def scratch(self, cpu: CpuFeatures) -> list[TensorShape]:
        """The packed weight, and the hidden state before and after a step, padded to whole vectors."""
        t = tiling(self, cpu, self.cell.gates)
        state = self._tensor(2, self.batch, t.units * t.lanes)
        if isinstance(t, TileTiling):
            return [_words(t.packed_words(self.cell.gates)), state, _words(t.left_words)]
        return [*([] if self.packed else self.packed_weight(t).outputs), state]

    def packed_weight(self, t: Tiling) -> PackedLoopWeight:
        """The order in which tiles of vector registers read Wh."""
        return PackedLoopWeight(self.cell.gates, self.hidden, t.lanes)

    def with_packed_weight(self, cpu: CpuFeatures, once: bool) -> tuple[int, Kernel, Kernel] | None:
        t = tiling(self, cpu, self.cell.gates)
        if self.packed or isinstance(t, TileTiling):
            return None
        weight = self.packed_weight(t)
        ((shape, _),) = weight.outputs
        return 1, weight, replace(self, packed=shape)

    def tuned(self, cpu: CpuFeatures) -> Any:
        names = ["X", "packed" if self.packed else "W", "bias", "h0"] + ["c0"] * self.cell.has_cell
        names += ["Y", "hn"] + ["cn"] * self.cell.has_cell
        if self.training:
            names += ["gates"] * bool(self.cell.saved) + ["cells"] * self.cell.has_cell
        t = tiling(self, cpu, self.cell.gates)
        names += ["packed"] * (not self.packed) + ["state"] + ["left"] * isinstance(t, TileTiling)
        arguments = dict(zip(names, [*self.inputs, *self.outputs, *self.scratch(cpu)], strict=True))
        form = TiledForward if isinstance(t, TileTiling) else ForwardEmitter
        return emit.build_named(self.name, arguments, lambda buffers: form(self, t, buffers).run())


@dataclass(frozen=True)
class BackwardLoop(TimeLoop):
    """Gradient of a ``ForwardLoop``. ``given``: which of dY, dh_n, dc_n are there; the others are zero.

    Inputs: Wh, what the forward loop kept (gates, cells), the states that the cell reads (Y, h0, c0), then the given of
    dY, dh_n, dc_n. Outputs: gradient of X Wi + bi [T, N, G H], for cells with gates ``apart`` also that of h Wh + bh;
    the sum over T and N of each of these [G H]; dh0 if ``wants_h0``; dc0 where the cell has one.
    """

    given: tuple[bool, bool, bool]
    wants_h0: bool

    @property
    def name(self) -> str:
        return f"{self.cell.name}_backward"

    @property
    def input_names(self) -> list[str]:
        cell = self.cell
        names = ["W"] + ["gates"] * bool(cell.saved) + ["cells", "c0"] * cell.has_cell
        names += {"hidden_before": ["Y", "h0"], "hidden": ["Y"]}.get(cell.reads[0], [])
        return names + [name for name, given in zip(("dY", "dhn", "dcn"), self.given, strict=True) if given]

    @property
    def output_names(self) -> list[str]:
        names = ["dX", "dbias"] if not self.cell.apart else ["dX", "dP", "dbias", "dbias_products"]
        return names + ["dh0"] * self.wants_h0 + ["dc0"] * self.cell.has_cell

    def _shape(self, name: str) -> TensorShape:
        if name in ("dX", "dP"):
            return self._sequence(self.cell.gates)
        if name in ("Y", "dY", "cells"):
            return self._sequence()
        if name == "gates":
            return self._sequence(self.cell.saved)
        return {"W": self.weight, "dbias": self.bias, "dbias_products": self.bias}.get(name, self._state())

    @property
    def inputs(self) -> list[TensorShape]:
        return [self._shape(name) for name in self.input_names]

    @property
    def outputs(self) -> list[TensorShape]:
        return [self._shape(name) for name in self.output_names]

    @property
    def in_place(self) -> dict[int, int]:
        """The gates' gradients over the gates, where both have the same size."""
        return {0: self.input_names.index("gates")} if self.cell.saved == self.cell.gates else {}

    def scratch(self, cpu: CpuFeatures) -> list[TensorShape]:
        """The packed weight, sums for the bias of each row of tiles, and the state's gradient besides the product."""
        t = tiling(self, cpu, 1)
        sums = self.cell.gates * (2 if self.cell.apart else 1)
        packed = self._tensor(t.units, self.cell.gates * self.hidden, t.lanes)
        shapes = [_words(t.packed_words(1)) if isinstance(t, TileTiling) else packed]
        shapes.append(self._tensor(t.tiles, sums, t.units * t.lanes))
        shapes += [self._tensor(self.batch, t.units * t.lanes)] * bool(self.cell.apart)
        return shapes + ([_words(t.left_words)] if isinstance(t, TileTiling) else [])

    def tuned(self, cpu: CpuFeatures) -> Any:
        t = tiling(self, cpu, 1)
        names = [*self.input_names, *self.output_names, "packed", "sums"] + ["carry"] * bool(self.cell.apart)
        names += ["left"] * isinstance(t, TileTiling)
        arguments = dict(zip(names, [*self.inputs, *self.outputs, *self.scratch(cpu)], strict=True))
        form = TiledBackward if isinstance(t, TileTiling) else BackwardEmitter
        return emit.build_named(self.name, arguments, lambda buffers: form(self, t, buffers).run())


def _words(count: int) -> TensorShape:
    return (count,), "uint32"
