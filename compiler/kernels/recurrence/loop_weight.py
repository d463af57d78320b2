"""The recurrent weight in the order in which a loop over time reads it: one copy serves loops of any length."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tvm.tirx.script import builder as T

from bucketmod.compiler.kernels import emission as emit
from bucketmod.compiler.kernels import streams
from bucketmod.compiler.kernels.kernel import TensorShape
from bucketmod.compiler.kernels.products.packed_weight import Packing

if TYPE_CHECKING:
    from bucketmod.compiler.target import CpuFeatures

Expr = Any


@dataclass(frozen=True)
class PackedLoopWeight(Packing):
    """packed[unit, k, gate, lane] of Wh[gates H, H], transposed; lanes beyond the last unit repeat it."""

    gates: int
    hidden: int
    lanes: int

    @property
    def name(self) -> str:
        return "pack_loop_weight"

    @property
    def units(self) -> int:
        """Vectors of ``lanes`` hidden units."""
        return -(-self.hidden // self.lanes)

    @property
    def inputs(self) -> list[TensorShape]:
        return [((self.gates * self.hidden, self.hidden), "float32")]

    @property
    def outputs(self) -> list[TensorShape]:
        return [((self.units, self.hidden, self.gates * self.lanes), "float32")]

    def tuned(self, cpu: CpuFeatures) -> Any:
        arguments = dict(zip(("W", "packed"), [*self.inputs, *self.outputs], strict=True))
        return emit.build_named(self.name, arguments, lambda buffers: self._pack_all(buffers["W"], buffers["packed"]))

    def _pack_all(self, weight: Any, packed: Any) -> None:
        nanoseconds = 2 * self.gates * self.hidden**2 * streams.NS_PER_FLOAT
        with streams.tasks(self.units, nanoseconds) as unit:
            self.pack(weight, packed, unit)

    def pack(self, weight: Any, packed: Any, unit: Expr) -> None:
        """Emits the copy for one vector of units. While a gate is copied, rows of the next one are fetched."""
        hidden, lanes = self.hidden, self.lanes
        with T.serial(self.gates) as gate:
            last = gate == self.gates - 1
            next_gate, next_unit = T.bind(T.Select(last, 0, gate + 1)), T.bind(T.Select(last, unit + 1, unit))

            def source(lane: int, k: Expr, count: int) -> Expr:
                row = T.min(unit * lanes + lane, hidden - 1)
                emit.prefetch(weight, next_gate * hidden + next_unit * lanes + lane, k)
                return emit.load(weight, gate * hidden + row, k, lanes=lanes, width=count)

            def target(k: Expr, value: Expr) -> None:
                emit.prefetch(packed, next_unit, k, next_gate * lanes)
                emit.store(packed, value, unit, k, gate * lanes, lanes=lanes)

            emit.copy_transposed(source, target, hidden, lanes, lanes)
