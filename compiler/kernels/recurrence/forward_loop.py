"""Emits the loop over time of a recurrent layer, forward."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tvm.tirx.script import builder as T

from bucketmod.compiler.kernels import emission as emit
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
        with T.serial(tile.rows) as row:
            self.equations(unit, T.bind(tile.first + row), sums(row))

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
