"""Emits the loop over time of a recurrent layer, backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tvm.tirx.script import builder as T

from bucketmod.compiler.kernels import emission as emit
from bucketmod.compiler.kernels.recurrence.cells import States
from bucketmod.compiler.kernels.recurrence.loop_emission import LoopEmitter, Sums, Tile

if TYPE_CHECKING:
    from bucketmod.compiler.kernels.recurrence.time_loop import BackwardLoop

Expr = Any
_ROWS_AHEAD = 4  # of the weight, while it is packed


class BackwardEmitter(LoopEmitter):
    """Step s multiplies the gate gradients of the step before it by Wh; with dh0 wanted there is one more step."""

    loop: BackwardLoop

    @property
    def sums(self) -> int:
        return 1

    @property
    def names(self) -> list[str]:
        return ["dX", "dP"] if self.cell.apart else ["dX"]

    def loop_over_time(self) -> None:
        loop, zeros = self.loop, emit.splat(0.0, self.lanes)
        self.pack_weight()
        with self.each_vector() as (row, unit):
            # dc0 holds the gradient of the cell state while the loop runs.
            if self.cell.has_cell:
                given = "dcn" in self.buffers
                self.store("dc0", self.load("dcn", row, unit=unit) if given else zeros, row, unit=unit)
            if self.cell.apart:
                self.store_padded("carry", zeros, row, unit=unit)
        self.over_time(loop.steps + loop.wants_h0, self.begin)
        with self.shared(self.tiling.units) as unit:
            self.sum_bias(unit)

    def pack_weight(self) -> None:
        with self.shared(self.cell.gates * self.loop.hidden) as k:
            self.pack(k)

    def begin(self, step: Expr) -> None:
        self.step = step
        self.time = T.bind(step if self.loop.reverse else self.loop.steps - 1 - step)

    def pack(self, k: Expr) -> None:
        """Packed weight: [unit, k, lane] with k along all gates. It is read as it lies and written to many places, each
        of which the next rows of it go on with."""
        with T.serial(self.tiling.units) as unit:
            emit.prefetch(self.buffers["packed"], unit, k + _ROWS_AHEAD, 0)
            emit.store(self.buffers["packed"], self.load("W", k, unit=unit), unit, k, 0, lanes=self.lanes)

    def product(self, tile: Tile, sums: Sums) -> None:
        """The gate gradients of the step before this one, which is the time after it, times Wh."""
        gradient, packed = self.buffers[self.names[-1]], self.buffers["packed"]
        with T.If(self.step == 0):
            with T.Then():
                for (row, v), total in sums.items():
                    at = tile.first + row
                    given = "dhn" in self.buffers
                    total.value = self.load("dhn", at, unit=tile.unit + v) if given else emit.splat(0.0, self.lanes)
            with T.Else():
                for total in sums.values():
                    total.value = emit.splat(0.0, self.lanes)
                after = T.bind(self.time - 1 if self.loop.reverse else self.time + 1)
                emit.multiply(
                    sums,
                    self.cell.gates * self.loop.hidden,
                    lambda row, k: gradient[after, tile.first + row, k],
                    lambda v, k: emit.load(packed, tile.unit + v, k, 0, lanes=self.lanes),
                    lambda k: self.fetch_weights(tile, k),
                )

    def touched(self) -> dict[str, int]:
        names = {"gates": self.cell.saved, "cells": 1, "Y": 1, "dY": 1}
        if not self.loop.in_place:
            names |= {"dX": self.cell.gates, "dP": self.cell.gates}
        return {name: arrays for name, arrays in names.items() if name in self.buffers}

    def equations_of_rows(self, tile: Tile, unit: Expr, sums: Callable[[Expr], list[Expr]]) -> None:
        def dh(row: Expr) -> Expr:
            (product,) = sums(row)
            return self.state_gradient(unit, tile.first + row, product)

        if not self.loop.wants_h0:
            self.gradients(tile, unit, dh)
            return
        with T.If(self.step < self.loop.steps):
            with T.Then():
                self.gradients(tile, unit, dh)
            with T.Else(), T.serial(tile.rows) as row:
                self.store("dh0", dh(row), tile.first + row, unit=unit)

    def state_gradient(self, unit: Expr, row: Expr, product: Expr) -> Expr:
        return product + self.load_padded("carry", row, unit=unit) if self.cell.apart else product

    def gradients(self, tile: Tile, unit: Expr, dh: Callable[[Expr], Expr]) -> None:
        """The equations for each row, and the sums over rows for the bias."""
        sums = [emit.Register(self.lanes) for _ in self.names for _ in range(self.cell.gates)]
        with T.If(self.begins(tile)):
            with T.Then():
                for total in sums:
                    total.value = emit.splat(0.0, self.lanes)
            with T.Else():
                for i, total in enumerate(sums):
                    total.value = self.load_padded("sums", tile.number, i, unit=unit)
        with T.serial(tile.rows) as row:
            self.equations(unit, T.bind(tile.first + row), dh(row), sums)
        for i, total in enumerate(sums):
            self.store_padded("sums", total.value, tile.number, i, unit=unit)

    def begins(self, tile: Tile) -> Expr:
        """Whether these are the first rows of the tile that the equations see."""
        return self.step == 0

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
