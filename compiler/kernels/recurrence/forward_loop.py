"""Emits the loop over time of a recurrent layer, forward."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tvm.tirx.script import builder as T

from bucketmod.compiler.kernels import emission as emit
from bucketmod.compiler.kernels.recurrence.cells import Lstm, Step
from bucketmod.compiler.kernels.recurrence.loop_emission import LoopEmitter, Sums, Tile

if TYPE_CHECKING:
    from bucketmod.compiler.kernels.recurrence.time_loop import ForwardLoop

Expr = Any


class ForwardEmitter(LoopEmitter):
    loop: ForwardLoop

    @property
    def sums(self) -> int:
        return self.cell.gates

    def loop_over_time(self) -> None:
        loop = self.loop
        self.pack_weight()
        with self.each_vector() as (row, unit):
            # c_n holds the cell state while the loop runs: each tile reads and writes its own part of it.
            self.store_padded("state", self.load("h0", row, unit=unit), 0, row, unit=unit)
            if self.cell.has_cell:
                self.store("cn", self.load("c0", row, unit=unit), row, unit=unit)
        self.over_time(loop.steps, self.begin)
        with self.each_vector() as (row, unit):
            self.store("hn", self.load_padded("state", loop.steps % 2, row, unit=unit), row, unit=unit)

    def pack_weight(self) -> None:
        if self.loop.packed:
            return
        weight = self.loop.packed_weight(self.tiling)
        with self.shared(weight.units) as unit:
            weight.pack(self.buffers["W"], self.buffers["packed"], unit)

    def begin(self, step: Expr) -> None:
        self.time = T.bind(self.loop.steps - 1 - step if self.loop.reverse else step)
        self.old = T.bind(step % 2)

    def product(self, tile: Tile, sums: Sums) -> None:
        lanes, gates, packed = self.lanes, self.cell.gates, self.buffers["packed"]
        for (_, column), total in sums.items():
            v, gate = divmod(column, gates)
            total.value = self.load("bias", unit=tile.unit + v, array=gate)

        def weight(column: int, k: Expr) -> Expr:
            v, gate = divmod(column, gates)
            return emit.load(packed, tile.unit + v, k, gate * lanes, lanes=lanes)

        def state(row: int, k: Expr) -> Expr:
            return self.buffers["state"][self.old, tile.first + row, k]

        emit.multiply(sums, self.loop.hidden, state, weight, lambda k: self.fetch_weights(tile, k))

    def touched(self) -> dict[str, int]:
        names = {"X": self.cell.gates, "Y": 1, "cells": 1}
        if not self.loop.in_place:
            names["gates"] = self.cell.saved
        return {name: arrays for name, arrays in names.items() if name in self.buffers}

    def equations_of_rows(self, tile: Tile, unit: Expr, sums: Callable[[Expr], list[Expr]]) -> None:
        single = isinstance(tile.rows, int) and tile.rows == 1  # as beside products in tile registers
        if isinstance(self.cell, Lstm) and not single:
            self.equations_in_parts(self.cell, tile, unit, sums)
            return
        with T.serial(tile.rows) as i:
            row = T.bind(tile.first + i)
            x, products = self.summands(unit, row, sums(i))
            step = self.cell.forward(self.maths, x, products, self.load_padded("state", self.old, row, unit=unit),
                                     self.load("cn", row, unit=unit) if self.cell.has_cell else None)  # fmt: skip
            self.store_hidden(step.hidden, unit, row)
            self.save(step, unit, row)

    def equations_in_parts(self, cell: Lstm, tile: Tile, unit: Expr, sums: Callable[[Expr], list[Expr]]) -> None:
        """The hidden states of all rows after all cell states: one after the other in each row, they are a chain of
        instructions so long that the CPU does not see the next row's."""
        waiting = [emit.scratch(self.tiling.rows * self.lanes) for _ in range(2)]
        with T.serial(tile.rows) as i:
            row = T.bind(tile.first + i)
            _, products = self.summands(unit, row, sums(i))
            new, saved = cell.renew(self.maths, products, self.load("cn", row, unit=unit))
            for memory, value in zip(waiting, (new, saved[3]), strict=True):
                emit.store(memory, value, i * self.lanes, lanes=self.lanes)
            self.save(Step(None, new, saved), unit, row)
        with T.serial(tile.rows) as i:
            new, o = (emit.load(memory, i * self.lanes, lanes=self.lanes) for memory in waiting)
            self.store_hidden(cell.expose(self.maths, new, o), unit, T.bind(tile.first + i))

    def summands(self, unit: Expr, row: Expr, products: list[Expr]) -> tuple[list[Expr], list[Expr]]:
        """x Wi + bi, and h Wh + bh with it: it is added here, not where the sums begin, for they would wait for it,
        which comes from beyond the caches."""
        cell = self.cell
        x = [self.load("X", self.time, row, unit=unit, array=gate) for gate in range(cell.gates)]
        return x, [p if gate in cell.apart else x[gate] + p for gate, p in enumerate(products)]

    def store_hidden(self, hidden: Expr, unit: Expr, row: Expr) -> None:
        self.store_padded("state", hidden, 1 - self.old, row, unit=unit)
        self.store("Y", hidden, self.time, row, unit=unit)

    def save(self, step: Step, unit: Expr, row: Expr) -> None:
        """The cell state, and what the gradient of the step needs."""
        if self.cell.has_cell:
            self.store("cn", step.cell, row, unit=unit)
        if self.loop.training:
            for array, value in enumerate(step.saved):
                self.store("gates", value, self.time, row, unit=unit, array=array)
            if self.cell.has_cell:
                self.store("cells", step.cell, self.time, row, unit=unit)
