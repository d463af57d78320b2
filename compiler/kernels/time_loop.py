"""The time loop of a recurrent layer as one kernel, forward and backward, tuned for CPUs.

Each step is a small matrix product and the equations of the cell on its result while that is in the first cache. The
unit of parallel work inside a step is a tile: some rows of the batch by one vector of hidden units, with all gates of
these units, so that the equations need nothing from other tiles. The recurrent weight is packed once a call.

Everything that does not depend on the state (x Wi, and the gradients of the input and of the weights) is left to large
products outside of the loop: ``recurrent.py`` puts these together.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tvm import tirx
from tvm.tirx.script import builder as T

from bucketmod.compiler.kernels import emission as emit
from bucketmod.compiler.kernels import math
from bucketmod.compiler.kernels.cells import Cell, Maths, States
from bucketmod.compiler.kernels.kernel import Kernel, TensorShape

if TYPE_CHECKING:
    from bucketmod.compiler.target import CpuFeatures

Expr = Any

# A parallel region costs about 3 us; below this many floating point operations a step is faster on one thread.
_MIN_PARALLEL_FLOPS = 1e6
# More rows than this save no loads: each row needs its own, however many share those of the weight.
_MOST_ROWS = 16


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
    def weight(self) -> TensorShape:
        return self._tensor(self.cell.gates * self.hidden, self.hidden)

    @property
    def bias(self) -> TensorShape:
        return self._tensor(self.cell.gates * self.hidden)

    def portable(self) -> Any:
        raise NotImplementedError(
            f"{self.name}: a loop over time is no single schedulable kernel; recurrent.py composes it of steps instead"
        )


@dataclass(frozen=True)
class ForwardLoop(TimeLoop):
    """Inputs: X Wi + bi [T, N, G H], Wh [G H, H], bh [G H], h0 [N, H] and, where the cell has one, c0.

    Outputs: Y [T, N, H], h_n, (c_n); for ``training`` also what the gradient needs: gates [T, N, 4 H] of cells with
    gates, and of a cell state its values [T, N, H].
    """

    training: bool

    @property
    def name(self) -> str:
        return f"{self.cell.name}_forward"

    @property
    def inputs(self) -> list[TensorShape]:
        states = [self._state()] * (2 if self.cell.has_cell else 1)
        return [self._sequence(self.cell.gates), self.weight, self.bias, *states]

    @property
    def outputs(self) -> list[TensorShape]:
        states = [self._state()] * (2 if self.cell.has_cell else 1)
        return [self._sequence(), *states, *self._kept()]

    def _kept(self) -> list[TensorShape]:
        if not self.training:
            return []
        gates = [self._sequence(self.cell.saved)] if self.cell.saved else []
        return gates + ([self._sequence()] if self.cell.has_cell else [])

    def scratch(self, cpu: CpuFeatures) -> list[TensorShape]:
        """The packed weight, and the hidden state before and after a step, padded to whole vectors."""
        t = Tiling.forward(self, cpu)
        return [
            self._tensor(t.blocks, self.hidden, self.cell.gates * t.lanes),
            self._tensor(2, self.batch, t.blocks * t.lanes),
        ]

    def tuned(self, cpu: CpuFeatures) -> Any:
        names = ["X", "W", "bias", "h0"] + ["c0"] * self.cell.has_cell
        names += ["Y", "hn"] + ["cn"] * self.cell.has_cell
        if self.training:
            names += ["gates"] * bool(self.cell.saved) + ["cells"] * self.cell.has_cell
        names += ["packed", "state"]
        arguments = dict(zip(names, [*self.inputs, *self.outputs, *self.scratch(cpu)], strict=True))
        tiling = Tiling.forward(self, cpu)
        return emit.build_named(self.name, arguments, lambda buffers: _ForwardEmitter(self, tiling, buffers).run())


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

    def scratch(self, cpu: CpuFeatures) -> list[TensorShape]:
        """The packed weight, sums for the bias of each row of tiles, and the state's gradient besides the product."""
        t = Tiling.backward(self, cpu)
        sums = self.cell.gates * (2 if self.cell.apart else 1)
        shapes = [
            self._tensor(t.blocks, self.cell.gates * self.hidden, t.lanes),
            self._tensor(t.tiles, sums, t.blocks * t.lanes),
        ]
        return shapes + ([self._tensor(self.batch, t.blocks * t.lanes)] if self.cell.apart else [])

    def tuned(self, cpu: CpuFeatures) -> Any:
        names = [*self.input_names, *self.output_names, "packed", "sums"] + ["carry"] * bool(self.cell.apart)
        arguments = dict(zip(names, [*self.inputs, *self.outputs, *self.scratch(cpu)], strict=True))
        tiling = Tiling.backward(self, cpu)
        return emit.build_named(self.name, arguments, lambda buffers: _BackwardEmitter(self, tiling, buffers).run())


@dataclass(frozen=True)
class Tiling:
    """``blocks`` of one vector of hidden units by ``tiles`` of ``rows`` rows of the batch, the last maybe lower."""

    lanes: int
    blocks: int
    rows: int
    tiles: int
    parallel: bool

    @classmethod
    def forward(cls, loop: TimeLoop, cpu: CpuFeatures) -> Tiling:
        return cls._make(loop, cpu, loop.cell.gates)

    @classmethod
    def backward(cls, loop: TimeLoop, cpu: CpuFeatures) -> Tiling:
        return cls._make(loop, cpu, 1)

    @classmethod
    def _make(cls, loop: TimeLoop, cpu: CpuFeatures, vectors: int) -> Tiling:
        """The tile's sums fill the registers, but for one operand of the smaller side of the tile and one to load."""
        most = max(
            rows for rows in range(1, _MOST_ROWS + 1) if rows * vectors + min(rows, vectors) + 1 <= cpu.registers
        )
        tiles = -(-loop.batch // most)
        rows = -(-loop.batch // tiles)
        flops = 2 * loop.batch * loop.cell.gates * loop.hidden**2
        blocks = -(-loop.hidden // cpu.lanes)
        return cls(cpu.lanes, blocks, rows, -(-loop.batch // rows), flops >= _MIN_PARALLEL_FLOPS)


class _Emitter:
    """What both directions share: loops, packing, tiles, loads and stores of hidden units."""

    def __init__(self, loop: TimeLoop, tiling: Tiling, buffers: dict[str, Any]):
        self.loop, self.cell, self.tiling, self.buffers = loop, loop.cell, tiling, buffers
        self.lanes = tiling.lanes
        self.maths = _vector_maths()

    def parallel(self, extent: Expr) -> Any:
        return (T.parallel if self.tiling.parallel else T.serial)(extent)

    def width(self, block: Expr) -> Expr | None:
        """How many units of a block exist; None where all blocks are full."""
        return self.loop.hidden - block * self.lanes if self.loop.hidden % self.lanes else None

    def load(self, name: str, *indices: Expr, block: Expr, array: int = 0) -> Expr:
        """The units of ``block`` in array ``array`` of those that stand side by side along the last axis."""
        at = array * self.loop.hidden + block * self.lanes
        return emit.load(self.buffers[name], *indices, at, lanes=self.lanes, width=self.width(block))

    def store(self, name: str, value: Expr, *indices: Expr, block: Expr, array: int = 0) -> None:
        at = array * self.loop.hidden + block * self.lanes
        emit.store(self.buffers[name], value, *indices, at, lanes=self.lanes, width=self.width(block))

    def load_padded(self, name: str, *indices: Expr, block: Expr) -> Expr:
        return emit.load(self.buffers[name], *indices, block * self.lanes, lanes=self.lanes)

    def store_padded(self, name: str, value: Expr, *indices: Expr, block: Expr) -> None:
        emit.store(self.buffers[name], value, *indices, block * self.lanes, lanes=self.lanes)

    def each_vector(self, body: Callable[[Expr, Expr], None]) -> None:
        """``body(row, block)`` for all of a state [N, H]."""
        with T.serial(self.loop.batch) as row, T.serial(self.tiling.blocks) as block:
            body(row, block)

    def each_tile(self, body: Callable[[Expr, Expr, int], None]) -> None:
        """``body(block, tile, rows)`` in parallel; tiles of one block follow each other and share its weights."""
        t = self.tiling
        last = self.loop.batch - (t.tiles - 1) * t.rows
        with self.parallel(t.blocks * t.tiles) as task:
            block, tile = T.bind(task // t.tiles), T.bind(task % t.tiles)
            if last == t.rows:
                body(block, tile, t.rows)
                return
            with T.If(tile < t.tiles - 1):
                with T.Then():
                    body(block, tile, t.rows)
                with T.Else():
                    body(block, tile, last)

    def spill(self, sums: dict[tuple[int, int], emit.Register], vectors: int) -> list[Any]:
        """Puts the sums into memory, one buffer a vector, so that the equations are emitted once for all rows."""
        rows = len(sums) // vectors
        buffers = [emit.scratch(rows * self.lanes) for _ in range(vectors)]
        for (row, v), total in sums.items():
            emit.store(buffers[v], total.value, row * self.lanes, lanes=self.lanes)
        return buffers


class _ForwardEmitter(_Emitter):
    def run(self) -> None:
        loop = self.loop
        with self.parallel(self.tiling.blocks) as block:
            self.pack(block)
        self.each_vector(self.copy_initial)
        with T.serial(loop.steps) as step:
            self.time = T.bind(loop.steps - 1 - step if loop.reverse else step)
            self.old = T.bind(step % 2)
            self.each_tile(self.tile)
        self.each_vector(
            lambda row, block: self.store(
                "hn", self.load_padded("state", loop.steps % 2, row, block=block), row, block=block
            )
        )

    def copy_initial(self, row: Expr, block: Expr) -> None:
        """c_n holds the cell state while the loop runs: each tile reads and writes its own part of it."""
        self.store_padded("state", self.load("h0", row, block=block), 0, row, block=block)
        if self.cell.has_cell:
            self.store("cn", self.load("c0", row, block=block), row, block=block)

    def pack(self, block: Expr) -> None:
        """Packed weight: [block, k, gate, unit]."""
        hidden, lanes = self.loop.hidden, self.lanes
        full = hidden // lanes

        def copy(gate: int, width: int) -> None:
            def source(unit: int, k: Expr, count: int) -> Expr:
                row = gate * hidden + block * lanes + unit
                return emit.load(self.buffers["W"], row, k, lanes=lanes, width=count)

            def target(k: Expr, value: Expr) -> None:
                emit.store(self.buffers["packed"], value, block, k, gate * lanes, lanes=lanes)

            emit.copy_transposed(source, target, hidden, width, lanes)

        for gate in range(self.cell.gates):
            if full:
                with T.If(block < full), T.Then():
                    copy(gate, lanes)
            if hidden % lanes:
                with T.If(block == full), T.Then():
                    copy(gate, hidden % lanes)

    def tile(self, block: Expr, tile: Expr, rows: int) -> None:
        cell, lanes = self.cell, self.lanes
        first = T.bind(tile * self.tiling.rows)
        sums = {at: emit.Register(lanes) for at in itertools.product(range(rows), range(cell.gates))}
        for (row, gate), total in sums.items():
            bias = emit.load(
                self.buffers["bias"], gate * self.loop.hidden + block * lanes, lanes=lanes, width=self.width(block)
            )
            if gate not in cell.apart:
                bias = bias + self.load("X", self.time, first + row, block=block, array=gate)
            total.value = bias
        emit.multiply(
            sums,
            self.loop.hidden,
            lambda row, k: self.buffers["state"][self.old, first + row, k],
            lambda gate, k: emit.load(self.buffers["packed"], block, k, gate * lanes, lanes=lanes),
        )
        products = self.spill(sums, cell.gates)
        with T.serial(rows) as row:
            self.equations(block, T.bind(first + row), [emit.load(p, row * lanes, lanes=lanes) for p in products])

    def equations(self, block: Expr, row: Expr, products: list[Expr]) -> None:
        cell = self.cell
        x = {gate: self.load("X", self.time, row, block=block, array=gate) for gate in cell.apart}
        step = cell.forward(
            self.maths,
            x,
            products,
            self.load_padded("state", self.old, row, block=block),
            self.load("cn", row, block=block) if cell.has_cell else None,
        )
        self.store_padded("state", step.hidden, 1 - self.old, row, block=block)
        self.store("Y", step.hidden, self.time, row, block=block)
        if cell.has_cell:
            self.store("cn", step.cell, row, block=block)
        if self.loop.training:  # type: ignore[attr-defined]
            for array, value in enumerate(step.saved):
                self.store("gates", value, self.time, row, block=block, array=array)
            if cell.has_cell:
                self.store("cells", step.cell, self.time, row, block=block)


class _BackwardEmitter(_Emitter):
    loop: BackwardLoop

    def run(self) -> None:
        """Step s multiplies the gate gradients of the step before it by Wh; with dh0 wanted there is one more step."""
        loop = self.loop
        self.names = ["dX", "dP"] if self.cell.apart else ["dX"]
        with self.parallel(self.tiling.blocks) as block:
            self.pack(block)
        self.each_vector(self.copy_initial)
        with T.serial(loop.steps + loop.wants_h0) as step:
            self.step = step
            self.time = T.bind(step if loop.reverse else loop.steps - 1 - step)
            self.each_tile(self.tile)
        with T.serial(self.tiling.blocks) as block:
            self.sum_bias(block)

    def copy_initial(self, row: Expr, block: Expr) -> None:
        """dc0 holds the gradient of the cell state while the loop runs."""
        zeros = emit.splat(0.0, self.lanes)
        if self.cell.has_cell:
            self.store("dc0", self.load("dcn", row, block=block) if "dcn" in self.buffers else zeros, row, block=block)
        if self.cell.apart:
            self.store_padded("carry", zeros, row, block=block)

    def pack(self, block: Expr) -> None:
        """Packed weight: [block, k, unit] with k along all gates."""
        with T.serial(self.cell.gates * self.loop.hidden) as k:
            emit.store(self.buffers["packed"], self.load("W", k, block=block), block, k, 0, lanes=self.lanes)

    def tile(self, block: Expr, tile: Expr, rows: int) -> None:
        lanes = self.lanes
        first = T.bind(tile * self.tiling.rows)
        sums = {(row, 0): emit.Register(lanes) for row in range(rows)}
        with T.If(self.step == 0):
            with T.Then():
                for (row, _), total in sums.items():
                    given = "dhn" in self.buffers
                    total.value = self.load("dhn", first + row, block=block) if given else emit.splat(0.0, lanes)
            with T.Else():
                for total in sums.values():
                    total.value = emit.splat(0.0, lanes)
                after = T.bind(self.time - 1 if self.loop.reverse else self.time + 1)
                gradient = self.buffers[self.names[-1]]
                emit.multiply(
                    sums,
                    self.cell.gates * self.loop.hidden,
                    lambda row, k: gradient[after, first + row, k],
                    lambda _, k: emit.load(self.buffers["packed"], block, k, 0, lanes=lanes),
                )
        (product,) = self.spill(sums, 1)
        if not self.loop.wants_h0:
            self.equations_of_rows(block, tile, first, rows, product)
            return
        with T.If(self.step < self.loop.steps):
            with T.Then():
                self.equations_of_rows(block, tile, first, rows, product)
            with T.Else(), T.serial(rows) as row:
                dh0 = self.state_gradient(block, first + row, emit.load(product, row * lanes, lanes=lanes))
                self.store("dh0", dh0, first + row, block=block)

    def state_gradient(self, block: Expr, row: Expr, product: Expr) -> Expr:
        return product + self.load_padded("carry", row, block=block) if self.cell.apart else product

    def equations_of_rows(self, block: Expr, tile: Expr, first: Expr, rows: int, product: Any) -> None:
        """The equations for each row, and the sums over rows for the bias."""
        lanes = self.lanes
        sums = [emit.Register(lanes) for _ in self.names for _ in range(self.cell.gates)]
        with T.If(self.step == 0):
            with T.Then():
                for total in sums:
                    total.value = emit.splat(0.0, lanes)
            with T.Else():
                for i, total in enumerate(sums):
                    total.value = self.load_padded("sums", tile, i, block=block)
        with T.serial(rows) as row:
            dh = self.state_gradient(block, first + row, emit.load(product, row * lanes, lanes=lanes))
            self.equations(block, T.bind(first + row), dh, sums)
        for i, total in enumerate(sums):
            self.store_padded("sums", total.value, tile, i, block=block)

    def equations(self, block: Expr, row: Expr, dh: Expr, sums: list[emit.Register]) -> None:
        cell, at = self.cell, (self.time, row)
        if "dY" in self.buffers:
            dh = dh + self.load("dY", *at, block=block)
        saved = [emit.let(self.load("gates", *at, block=block, array=i)) for i in range(cell.saved)]
        dc = self.load("dc0", row, block=block) if cell.has_cell else None
        result = cell.backward(self.maths, emit.let(dh), dc, saved, self.states(block, row))
        for total, value in zip(sums, [*result.inputs, *result.products], strict=False):
            total.value = total.value + value
        for name, gates in zip(self.names, (result.inputs, result.products), strict=False):
            for array, value in enumerate(gates):
                self.store(name, value, *at, block=block, array=array)
        if cell.has_cell:
            self.store("dc0", result.cell, row, block=block)
        if cell.apart:
            self.store_padded("carry", result.hidden, row, block=block)

    def states(self, block: Expr, row: Expr) -> States:
        cell, states = self.cell, States()
        if "cell" in cell.reads:
            states.cell = self.load("cells", self.time, row, block=block)
        if "hidden" in cell.reads:
            states.hidden = emit.let(self.load("Y", self.time, row, block=block))
        for name, sequence, initial in (("cell_before", "cells", "c0"), ("hidden_before", "Y", "h0")):
            if name in cell.reads:
                setattr(states, name, self.before(sequence, initial, block, row))
        return states

    def before(self, sequence: str, initial: str, block: Expr, row: Expr) -> Expr:
        """The state before this step: of the step that ran before it in the forward loop, or the initial one."""
        register = emit.Register(self.lanes)
        with ExitStack() as stack:
            stack.enter_context(T.If(self.step == self.loop.steps - 1))
            with T.Then():
                register.value = self.load(initial, row, block=block)
            with T.Else():
                time = self.time + 1 if self.loop.reverse else self.time - 1
                register.value = self.load(sequence, time, row, block=block)
        return register.value

    def sum_bias(self, block: Expr) -> None:
        gates = self.cell.gates
        for i, name in enumerate(["dbias", "dbias_products"][: len(self.names)]):
            for gate in range(gates):
                total = self.load_padded("sums", 0, i * gates + gate, block=block)
                for tile in range(1, self.tiling.tiles):
                    total = total + self.load_padded("sums", tile, i * gates + gate, block=block)
                self.store(name, total, block=block, array=gate)


def _vector_maths() -> Maths:
    def relu(x: Expr) -> Expr:
        return tirx.Select(x < math.constant(0.0, x), math.constant(0.0, x), x)

    def where_positive(x: Expr, y: Expr) -> Expr:
        return tirx.Select(x > math.constant(0.0, x), y, math.constant(0.0, y))

    return Maths(
        lambda x: math.sigmoid(x, emit.bind), lambda x: math.tanh(x, emit.bind), relu, where_positive, emit.let
    )
