"""Weights in the order in which products read them: one copy serves every product with the weight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tvm.tirx.script import builder as T

from bucketmod.compiler.kernels import emission as emit
from bucketmod.compiler.kernels import streams
from bucketmod.compiler.kernels.kernel import Kernel, TensorShape

if TYPE_CHECKING:
    from bucketmod.compiler.target import CpuFeatures

Expr = Any

# Vectors in a panel: on every CPU level the width of the fastest tiles, whatever the number of rows (plan.py). So the
# order does not depend on the rows, and products of all buckets read one copy.
PANEL_VECTORS = 2
_PANELS_AT_ONCE = 16  # that a task fills from each row of a weight that is not transposed: it reads whole lines


def packed_size(depth: int, columns: int, panel: int) -> int:
    """Values of a packed weight."""
    return -(-columns // panel) * depth * panel


class Packing(Kernel):
    """Brings a weight into the order in which the tuned forms of other kernels read it."""

    @property
    def common(self) -> bool:
        return True

    def portable(self) -> Any:
        raise NotImplementedError(f"{self.name}: weights are packed for CPUs only")


@dataclass(frozen=True)
class PackedWeight(Packing):
    """packed[panel, k, column] of the weight w[depth, columns], with ``trans`` w[columns, depth]; ``panel`` columns in
    each panel. Vectors in the last panel that have no column hold anything, further lanes of the others 0."""

    depth: int
    columns: int
    trans: bool
    panel: int

    @property
    def name(self) -> str:
        return "pack_weight"

    @property
    def inputs(self) -> list[TensorShape]:
        shape = (self.columns, self.depth) if self.trans else (self.depth, self.columns)
        return [(shape, "float32")]

    @property
    def outputs(self) -> list[TensorShape]:
        return [((packed_size(self.depth, self.columns, self.panel),), "float32")]

    def tuned(self, cpu: CpuFeatures) -> Any:
        arguments = dict(zip(("w", "packed"), [*self.inputs, *self.outputs], strict=True))
        return emit.build_named(self.name, arguments, lambda b: pack_weight(self, b["w"], b["packed"], cpu.lanes))


def pack_weight(weight: PackedWeight, w: Any, packed: Any, lanes: int) -> None:
    """Emits the copy from ``w`` to ``packed``; threads share the panels."""
    nanoseconds = 2 * weight.depth * weight.columns * streams.NS_PER_FLOAT
    whole, rest = divmod(weight.columns, weight.panel)
    if weight.trans:
        with streams.tasks(whole, nanoseconds) as panel:
            _pack_columns(weight, w, packed, lanes, panel, weight.panel)
        if rest:
            _pack_columns(weight, w, packed, lanes, whole, rest)
        return
    blocks = -(-whole // _PANELS_AT_ONCE)
    with streams.tasks(blocks, nanoseconds) as block, T.serial(weight.depth) as k:
        first = T.bind(block * _PANELS_AT_ONCE)
        with T.serial(T.min(whole - first, _PANELS_AT_ONCE)) as panel:
            _pack_row(weight, w, packed, lanes, T.bind(first + panel), weight.panel, k)
    if rest:
        with T.serial(weight.depth) as k:
            _pack_row(weight, w, packed, lanes, whole, rest, k)


def _pack_columns(weight: PackedWeight, w: Any, packed: Any, lanes: int, panel: Expr, columns: int) -> None:
    """Turns the rows of the transposed weight that are the columns of a panel, square by square."""
    full, rest = divmod(columns, lanes)

    def pack(offset: Expr, width: int) -> None:
        first = panel * weight.panel + offset

        def read(row: int, k: Expr, count: int) -> Expr:
            return emit.load(w, first + row, k, lanes=lanes, width=count)

        def write(k: Expr, value: Expr) -> None:
            emit.store(packed, value, (panel * weight.depth + k) * weight.panel + offset, lanes=lanes)

        emit.copy_transposed(read, write, weight.depth, width, lanes)

    if full:
        with T.serial(full) as v:  # a transpose is long code
            pack(T.bind(v * lanes), lanes)
    if rest:
        pack(full * lanes, rest)


def _pack_row(weight: PackedWeight, w: Any, packed: Any, lanes: int, panel: Expr, columns: int, k: Expr) -> None:
    """Copies what a panel has of row ``k``."""
    for offset in range(0, columns, lanes):
        width = min(lanes, columns - offset)
        value = emit.load(w, k, panel * weight.panel + offset, lanes=lanes, width=width)
        emit.store(packed, value, (panel * weight.depth + k) * weight.panel + offset, lanes=lanes)
