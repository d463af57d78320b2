"""Emits the loop over time of a recurrent layer, forward."""

from __future__ import annotations

import functools
import itertools
from typing import TYPE_CHECKING, Any

from tvm.tirx.script import builder as T

from bucketmod.compiler.kernels import emission as emit
from bucketmod.compiler.kernels.loop_emission import LoopEmitter, when

if TYPE_CHECKING:
    from bucketmod.compiler.kernels.time_loop import ForwardLoop

Expr = Any


class ForwardEmitter(LoopEmitter):
    loop: ForwardLoop

    def run(self) -> None:
        with self.threads():
            self.loop_over_time()

    def loop_over_time(self) -> None:
        loop = self.loop
        with self.shared(self.tiling.units) as unit:
            self.pack(unit)
        with self.each_vector() as (row, unit):
            # c_n holds the cell state while the loop runs: each tile reads and writes its own part of it.
            self.store_padded("state", self.load("h0", row, unit=unit), 0, row, unit=unit)
            if self.cell.has_cell:
                self.store("cn", self.load("c0", row, unit=unit), row, unit=unit)
        self.over_time(loop.steps, self.begin, self.tile)
        with self.each_vector() as (row, unit):
            self.store("hn", self.load_padded("state", loop.steps % 2, row, unit=unit), row, unit=unit)

    def begin(self, step: Expr) -> None:
        self.time = T.bind(self.loop.steps - 1 - step if self.loop.reverse else step)
        self.old = T.bind(step % 2)

    def pack(self, unit: Expr) -> None:
        """Packed weight: [unit, k, gate, lane]. While a gate is copied, the rows of the next one are fetched."""
        hidden, lanes = self.loop.hidden, self.lanes
        full, rest = divmod(hidden, lanes)

        def copy(gate: int, width: int) -> None:
            further = gate < self.cell.gates - 1
            following = hidden if further else lanes - gate * hidden

            def source(lane: int, k: Expr, count: int) -> Expr:
                row = gate * hidden + unit * lanes + lane
                emit.prefetch(self.buffers["W"], row + following, k)
                return emit.load(self.buffers["W"], row, k, lanes=lanes, width=count)

            def target(k: Expr, value: Expr) -> None:
                if further:
                    emit.prefetch(self.buffers["packed"], unit, k, (gate + 1) * lanes)
                else:
                    emit.prefetch(self.buffers["packed"], unit + 1, k, 0)
                emit.store(self.buffers["packed"], value, unit, k, gate * lanes, lanes=lanes)

            emit.copy_transposed(source, target, hidden, width, lanes)

        for gate in range(self.cell.gates):
            if full:
                when([unit < full] if rest else [], functools.partial(copy, gate, lanes))
            if rest:
                when([unit == full], functools.partial(copy, gate, rest))

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

        self.fetch_rows(self.touched(), self.time, first_unit, first, rows, width)
        emit.multiply(
            sums,
            self.loop.hidden,
            lambda row, k: self.buffers["state"][self.old, first + row, k],
            weight,
            lambda k: self.fetch_weights(first_unit, width, tile, rows, k),
        )
        buffers = self.spill(sums, rows, gates)
        with T.serial(width) as v, T.serial(rows) as row:
            products = [self.spilled(buffer, v, row, rows) for buffer in buffers]
            self.equations(T.bind(first_unit + v), T.bind(first + row), products)

    def touched(self) -> dict[str, int]:
        """Sequences that the equations read or write, with the number of arrays in each."""
        names = {"X": self.cell.gates, "Y": 1, "cells": 1}
        if not self.loop.in_place:
            names["gates"] = self.cell.saved
        return {name: arrays for name, arrays in names.items() if name in self.buffers}

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
