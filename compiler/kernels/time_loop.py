"""The time loop of a recurrent layer as one kernel, forward and backward, tuned for CPUs.

Each step is a small matrix product and the equations of the cell on its result while that is in the first cache. The
unit of parallel work inside a step is a tile: some rows of the batch by one or two vectors of hidden units, with all
gates of these units, so that the equations need nothing from other tiles. The recurrent weight is packed once a call.

Everything that does not depend on the state (x Wi, and the gradients of the input and of the weights) is left to large
products outside of the loop: ``recurrent.py`` puts these together.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tvm import tirx
from tvm.tirx.script import builder as T

from bucketmod.compiler.kernels import emission as emit
from bucketmod.compiler.kernels import math
from bucketmod.compiler.kernels.cells import Cell, Maths, States
from bucketmod.compiler.kernels.gemm import most_rows
from bucketmod.compiler.kernels.kernel import Kernel, TensorShape

if TYPE_CHECKING:
    from bucketmod.compiler.target import CpuFeatures

Expr = Any

# A parallel region costs about 3 us; below this many floating point operations a step is faster on one thread.
_MIN_PARALLEL_FLOPS = 1e6


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
        t = Tiling.of(self, cpu, self.cell.gates)
        return [
            self._tensor(t.units, self.hidden, self.cell.gates * t.lanes),
            self._tensor(2, self.batch, t.units * t.lanes),
        ]

    def tuned(self, cpu: CpuFeatures) -> Any:
        names = ["X", "W", "bias", "h0"] + ["c0"] * self.cell.has_cell
        names += ["Y", "hn"] + ["cn"] * self.cell.has_cell
        if self.training:
            names += ["gates"] * bool(self.cell.saved) + ["cells"] * self.cell.has_cell
        names += ["packed", "state"]
        arguments = dict(zip(names, [*self.inputs, *self.outputs, *self.scratch(cpu)], strict=True))
        tiling = Tiling.of(self, cpu, self.cell.gates)
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
        t = Tiling.of(self, cpu, 1)
        sums = self.cell.gates * (2 if self.cell.apart else 1)
        shapes = [
            self._tensor(t.units, self.cell.gates * self.hidden, t.lanes),
            self._tensor(t.tiles, sums, t.units * t.lanes),
        ]
        return shapes + ([self._tensor(self.batch, t.units * t.lanes)] if self.cell.apart else [])

    def tuned(self, cpu: CpuFeatures) -> Any:
        names = [*self.input_names, *self.output_names, "packed", "sums"] + ["carry"] * bool(self.cell.apart)
        arguments = dict(zip(names, [*self.inputs, *self.outputs, *self.scratch(cpu)], strict=True))
        tiling = Tiling.of(self, cpu, 1)
        return emit.build_named(self.name, arguments, lambda buffers: _BackwardEmitter(self, tiling, buffers).run())


@dataclass(frozen=True)
class Tiling:
    """``units``: vectors of ``lanes`` hidden units. A tile has ``width`` of them, maybe fewer in the last column of
    tiles. A column has ``tiles`` tiles of ``rows`` rows of the batch; the last ``short`` of them have one row less.
    """

    lanes: int
    units: int
    width: int
    rows: int
    tiles: int
    short: int
    parallel: bool

    @classmethod
    def of(cls, loop: TimeLoop, cpu: CpuFeatures, gates: int) -> Tiling:
        """The tiling for a step that computes ``gates`` sums for each hidden unit."""
        units = -(-loop.hidden // cpu.lanes)
        width = min(units, 2 if gates == 1 else 1)  # with a single vector there would be a load for each multiply-add
        tiles = -(-loop.batch // most_rows(gates * width, cpu.registers))
        rows = -(-loop.batch // tiles)
        flops = 2 * loop.batch * loop.cell.gates * loop.hidden**2
        return cls(cpu.lanes, units, width, rows, tiles, tiles * rows - loop.batch, flops >= _MIN_PARALLEL_FLOPS)

    @property
    def blocks(self) -> int:
        """Columns of tiles."""
        return -(-self.units // self.width)


class _Emitter:
    """What both directions share: loops over tiles, loads and stores of hidden units."""

    def __init__(self, loop: TimeLoop, tiling: Tiling, buffers: dict[str, Any]):
        self.loop, self.cell, self.tiling, self.buffers = loop, loop.cell, tiling, buffers
        self.lanes = tiling.lanes
        self.maths = _vector_maths()

    def parallel(self, extent: Expr) -> Any:
        return (T.parallel if self.tiling.parallel else T.serial)(extent)

    def width(self, unit: Expr) -> Expr | None:
        """How many lanes of a vector of units exist; None where all vectors are full."""
        return self.loop.hidden - unit * self.lanes if self.loop.hidden % self.lanes else None

    def load(self, name: str, *indices: Expr, unit: Expr, array: int = 0) -> Expr:
        """A vector of units in array ``array`` of those that stand side by side along the last axis."""
        at = array * self.loop.hidden + unit * self.lanes
        return emit.load(self.buffers[name], *indices, at, lanes=self.lanes, width=self.width(unit))

    def store(self, name: str, value: Expr, *indices: Expr, unit: Expr, array: int = 0) -> None:
        at = array * self.loop.hidden + unit * self.lanes
        emit.store(self.buffers[name], value, *indices, at, lanes=self.lanes, width=self.width(unit))

    def load_padded(self, name: str, *indices: Expr, unit: Expr) -> Expr:
        return emit.load(self.buffers[name], *indices, unit * self.lanes, lanes=self.lanes)

    def store_padded(self, name: str, value: Expr, *indices: Expr, unit: Expr) -> None:
        emit.store(self.buffers[name], value, *indices, unit * self.lanes, lanes=self.lanes)

    @contextmanager
    def each_vector(self) -> Iterator[tuple[Expr, Expr]]:
        """Row and unit for all of a state [N, H]."""
        with T.serial(self.loop.batch) as row, T.serial(self.tiling.units) as unit:
            yield row, unit

    def each_tile(self, body: Callable[[Expr, int, Expr, int], None]) -> None:
        """``body(first unit, width, tile, rows)`` in parallel; neighbouring tiles share the weights of a column."""
        t = self.tiling
        last_width = t.units - (t.blocks - 1) * t.width
        with self.parallel(t.blocks * t.tiles) as task:
            unit, tile = T.bind(task // t.tiles * t.width), T.bind(task % t.tiles)
            for width in sorted({t.width, last_width}, reverse=True):
                for rows in (t.rows, t.rows - 1)[: 1 + bool(t.short)]:
                    conditions = []
                    if last_width != t.width:
                        conditions.append(unit + t.width <= t.units if width == t.width else unit + t.width > t.units)
                    if t.short:
                        conditions.append(tile < t.tiles - t.short if rows == t.rows else tile >= t.tiles - t.short)
                    _when(conditions, functools.partial(body, unit, width, tile, rows))

    def first_row(self, tile: Expr) -> Expr:
        t = self.tiling
        return T.bind(tile * t.rows - T.max(tile - (t.tiles - t.short), 0) if t.short else tile * t.rows)

    def spill(self, sums: dict[tuple[int, int], emit.Register], rows: int, gates: int) -> list[Any]:
        """Puts the sums into memory, one buffer [unit, row] a gate, so that the equations are emitted only once."""
        width = len(sums) // rows // gates
        buffers = [emit.scratch(width * rows * self.lanes) for _ in range(gates)]
        for (row, column), total in sums.items():
            v, gate = divmod(column, gates)
            emit.store(buffers[gate], total.value, (v * rows + row) * self.lanes, lanes=self.lanes)
        return buffers

    def spilled(self, buffer: Any, v: Expr, row: Expr, rows: int) -> Expr:
        return emit.load(buffer, (v * rows + row) * self.lanes, lanes=self.lanes)


class _ForwardEmitter(_Emitter):
    loop: ForwardLoop

    def run(self) -> None:
        loop = self.loop
        with self.parallel(self.tiling.units) as unit:
            self.pack(unit)
        with self.each_vector() as (row, unit):
            # c_n holds the cell state while the loop runs: each tile reads and writes its own part of it.
            self.store_padded("state", self.load("h0", row, unit=unit), 0, row, unit=unit)
            if self.cell.has_cell:
                self.store("cn", self.load("c0", row, unit=unit), row, unit=unit)
        with T.serial(loop.steps) as step:
            self.time = T.bind(loop.steps - 1 - step if loop.reverse else step)
            self.old = T.bind(step % 2)
            self.each_tile(self.tile)
        with self.each_vector() as (row, unit):
            self.store("hn", self.load_padded("state", loop.steps % 2, row, unit=unit), row, unit=unit)

    def pack(self, unit: Expr) -> None:
        """Packed weight: [unit, k, gate, lane]."""
        hidden, lanes = self.loop.hidden, self.lanes
        full, rest = divmod(hidden, lanes)

        def copy(gate: int, width: int) -> None:
            def source(lane: int, k: Expr, count: int) -> Expr:
                return emit.load(self.buffers["W"], gate * hidden + unit * lanes + lane, k, lanes=lanes, width=count)

            def target(k: Expr, value: Expr) -> None:
                emit.store(self.buffers["packed"], value, unit, k, gate * lanes, lanes=lanes)

            emit.copy_transposed(source, target, hidden, width, lanes)

        for gate in range(self.cell.gates):
            if full:
                _when([unit < full] if rest else [], functools.partial(copy, gate, lanes))
            if rest:
                _when([unit == full], functools.partial(copy, gate, rest))

    def tile(self, first_unit: Expr, width: int, tile: Expr, rows: int) -> None:
        lanes, gates = self.lanes, self.cell.gates
        first = self.first_row(tile)
        sums = {at: emit.Register(lanes) for at in itertools.product(range(rows), range(width * gates))}
        for (_, column), total in sums.items():
            v, gate = divmod(column, gates)
            total.value = self.load("bias", unit=first_unit + v, array=gate)

        def weight(column: int, k: Expr) -> Expr:
            v, gate = divmod(column, gates)
            return emit.load(self.buffers["packed"], first_unit + v, k, gate * lanes, lanes=lanes)

        emit.multiply(sums, self.loop.hidden, lambda row, k: self.buffers["state"][self.old, first + row, k], weight)
        buffers = self.spill(sums, rows, gates)
        with T.serial(width) as v, T.serial(rows) as row:
            products = [self.spilled(buffer, v, row, rows) for buffer in buffers]
            self.equations(T.bind(first_unit + v), T.bind(first + row), products)

    def equations(self, unit: Expr, row: Expr, products: list[Expr]) -> None:
        """X is added here, not where the sums begin: they would wait for it, which comes from beyond the caches."""
        cell = self.cell
        x = [self.load("X", self.time, row, unit=unit, array=gate) for gate in range(cell.gates)]
        products = [p if gate in cell.apart else x[gate] + p for gate, p in enumerate(products)]
        step = cell.forward(
            self.maths,
            x,
            products,
            self.load_padded("state", self.old, row, unit=unit),
            self.load("cn", row, unit=unit) if cell.has_cell else None,
        )
        self.store_padded("state", step.hidden, 1 - self.old, row, unit=unit)
        self.store("Y", step.hidden, self.time, row, unit=unit)
        if cell.has_cell:
            self.store("cn", step.cell, row, unit=unit)
        if self.loop.training:
            for array, value in enumerate(step.saved):
                self.store("gates", value, self.time, row, unit=unit, array=array)
            if cell.has_cell:
                self.store("cells", step.cell, self.time, row, unit=unit)


class _BackwardEmitter(_Emitter):
    loop: BackwardLoop

    def run(self) -> None:
        """Step s multiplies the gate gradients of the step before it by Wh; with dh0 wanted there is one more step."""
        loop, zeros = self.loop, emit.splat(0.0, self.lanes)
        self.names = ["dX", "dP"] if self.cell.apart else ["dX"]
        with self.parallel(self.tiling.units) as unit:
            self.pack(unit)
        with self.each_vector() as (row, unit):
            # dc0 holds the gradient of the cell state while the loop runs.
            if self.cell.has_cell:
                given = "dcn" in self.buffers
                self.store("dc0", self.load("dcn", row, unit=unit) if given else zeros, row, unit=unit)
            if self.cell.apart:
                self.store_padded("carry", zeros, row, unit=unit)
        with T.serial(loop.steps + loop.wants_h0) as step:
            self.step = step
            self.time = T.bind(step if loop.reverse else loop.steps - 1 - step)
            self.each_tile(self.tile)
        with T.serial(self.tiling.units) as unit:
            self.sum_bias(unit)

    def pack(self, unit: Expr) -> None:
        """Packed weight: [unit, k, lane] with k along all gates."""
        with T.serial(self.cell.gates * self.loop.hidden) as k:
            emit.store(self.buffers["packed"], self.load("W", k, unit=unit), unit, k, 0, lanes=self.lanes)

    def tile(self, first_unit: Expr, width: int, tile: Expr, rows: int) -> None:
        first = self.first_row(tile)
        sums = {at: emit.Register(self.lanes) for at in itertools.product(range(rows), range(width))}
        with T.If(self.step == 0):
            with T.Then():
                for (row, v), total in sums.items():
                    given = "dhn" in self.buffers
                    dhn = self.load("dhn", first + row, unit=first_unit + v) if given else emit.splat(0.0, self.lanes)
                    total.value = dhn
            with T.Else():
                self.product(sums, first_unit, first)
        (buffer,) = self.spill(sums, rows, 1)
        with T.serial(width) as v:
            unit = T.bind(first_unit + v)
            if not self.loop.wants_h0:
                self.equations_of_rows(unit, tile, first, rows, lambda row: self.spilled(buffer, v, row, rows))
                return
            with T.If(self.step < self.loop.steps):
                with T.Then():
                    self.equations_of_rows(unit, tile, first, rows, lambda row: self.spilled(buffer, v, row, rows))
                with T.Else(), T.serial(rows) as row:
                    dh0 = self.state_gradient(unit, first + row, self.spilled(buffer, v, row, rows))
                    self.store("dh0", dh0, first + row, unit=unit)

    def product(self, sums: dict[tuple[int, int], emit.Register], first_unit: Expr, first: Expr) -> None:
        """The gate gradients of the step before this one, which is the time after it, times Wh."""
        for total in sums.values():
            total.value = emit.splat(0.0, self.lanes)
        after = T.bind(self.time - 1 if self.loop.reverse else self.time + 1)
        gradient = self.buffers[self.names[-1]]
        emit.multiply(
            sums,
            self.cell.gates * self.loop.hidden,
            lambda row, k: gradient[after, first + row, k],
            lambda v, k: emit.load(self.buffers["packed"], first_unit + v, k, 0, lanes=self.lanes),
        )

    def state_gradient(self, unit: Expr, row: Expr, product: Expr) -> Expr:
        return product + self.load_padded("carry", row, unit=unit) if self.cell.apart else product

    def equations_of_rows(
        self, unit: Expr, tile: Expr, first: Expr, rows: int, product: Callable[[Expr], Expr]
    ) -> None:
        """The equations for each row, and the sums over rows for the bias."""
        sums = [emit.Register(self.lanes) for _ in self.names for _ in range(self.cell.gates)]
        with T.If(self.step == 0):
            with T.Then():
                for total in sums:
                    total.value = emit.splat(0.0, self.lanes)
            with T.Else():
                for i, total in enumerate(sums):
                    total.value = self.load_padded("sums", tile, i, unit=unit)
        with T.serial(rows) as row:
            dh = self.state_gradient(unit, first + row, product(row))
            self.equations(unit, T.bind(first + row), dh, sums)
        for i, total in enumerate(sums):
            self.store_padded("sums", total.value, tile, i, unit=unit)

    def equations(self, unit: Expr, row: Expr, dh: Expr, sums: list[emit.Register]) -> None:
        cell, at = self.cell, (self.time, row)
        if "dY" in self.buffers:
            dh = dh + self.load("dY", *at, unit=unit)
        saved = [emit.let(self.load("gates", *at, unit=unit, array=i)) for i in range(cell.saved)]
        dc = self.load("dc0", row, unit=unit) if cell.has_cell else None
        result = cell.backward(self.maths, emit.let(dh), dc, saved, self.states(unit, row))
        for total, value in zip(sums, [*result.inputs, *result.products], strict=False):
            total.value = total.value + value
        for name, gates in zip(self.names, (result.inputs, result.products), strict=False):
            for array, value in enumerate(gates):
                self.store(name, value, *at, unit=unit, array=array)
        if cell.has_cell:
            self.store("dc0", result.cell, row, unit=unit)
        if cell.apart:
            self.store_padded("carry", result.hidden, row, unit=unit)

    def states(self, unit: Expr, row: Expr) -> States:
        cell, states = self.cell, States()
        if "cell" in cell.reads:
            states.cell = self.load("cells", self.time, row, unit=unit)
        if "hidden" in cell.reads:
            states.hidden = emit.let(self.load("Y", self.time, row, unit=unit))
        for name, sequence, initial in (("cell_before", "cells", "c0"), ("hidden_before", "Y", "h0")):
            if name in cell.reads:
                setattr(states, name, self.before(sequence, initial, unit, row))
        return states

    def before(self, sequence: str, initial: str, unit: Expr, row: Expr) -> Expr:
        """The state before this step: that of the step that ran before it in the forward loop, or the initial one."""
        register = emit.Register(self.lanes)
        with T.If(self.step == self.loop.steps - 1):
            with T.Then():
                register.value = self.load(initial, row, unit=unit)
            with T.Else():
                time = self.time + 1 if self.loop.reverse else self.time - 1
                register.value = self.load(sequence, time, row, unit=unit)
        return register.value

    def sum_bias(self, unit: Expr) -> None:
        gates = self.cell.gates
        for i, name in enumerate(["dbias", "dbias_products"][: len(self.names)]):
            for gate in range(gates):
                total = emit.Register(self.lanes)
                total.value = emit.splat(0.0, self.lanes)
                with T.serial(self.tiling.tiles) as tile:
                    total.value = total.value + self.load_padded("sums", tile, i * gates + gate, unit=unit)
                self.store(name, total.value, unit=unit, array=gate)


def _when(conditions: list[Expr], body: Callable[[], None]) -> None:
    """Emits ``body`` under all ``conditions``."""
    if not conditions:
        return body()
    with T.If(conditions[0]), T.Then():
        _when(conditions[1:], body)


def _vector_maths() -> Maths:
    def relu(x: Expr) -> Expr:
        return tirx.Select(x < math.constant(0.0, x), math.constant(0.0, x), x)

    def where_positive(x: Expr, y: Expr) -> Expr:
        return tirx.Select(x > math.constant(0.0, x), y, math.constant(0.0, y))

    return Maths(
        lambda x: math.sigmoid(x, emit.bind), lambda x: math.tanh(x, emit.bind), relu, where_positive, emit.let
    )
