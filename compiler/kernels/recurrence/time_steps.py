"""One step of a recurrent layer as a kernel, forward and backward: loops over time are made of them where the loop
itself is not one tuned kernel.

The time is an argument and sequences are written in place, one time a call. So one function serves all steps, and how
much code a program holds does not depend on its length.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tvm import relax, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from bucketmod.compiler.kernels.recurrence.cells import Cell, Maths, States
from bucketmod.compiler.kernels.recurrence.time_loop import BackwardLoop, ForwardLoop, TimeLoop

Expr = Any
NOWHERE = -1  # the time before the first step
_SEQUENCES = ("X", "Y", "gates", "cells", "dX", "dY", "dP")


@dataclass(frozen=True)
class Step(ABC):
    """A step of ``loop``: the function takes the tensors ``reads``, the sequences ``written`` in place, the ``times``
    and last what it ``makes``. All are named as in the loop; besides there are the states before and after the step,
    ``h`` and ``c`` [N, H], their gradients ``dh`` and ``dc``, and ``p`` = h Wh + bh and its gradient ``dp`` [N, G H].
    """

    loop: TimeLoop

    @property
    @abstractmethod
    def name(self) -> str:
        """Symbol prefix for profiles."""

    @property
    @abstractmethod
    def reads(self) -> list[str]:
        """Tensors that are read."""

    @property
    @abstractmethod
    def written(self) -> list[str]:
        """Sequences of which one time is written."""

    @property
    @abstractmethod
    def times(self) -> list[str]:
        """Times, int64."""

    @property
    @abstractmethod
    def makes(self) -> list[str]:
        """New tensors."""

    @abstractmethod
    def unit(self, at: _Point) -> None:
        """Emits the equations of one hidden unit of one row of the batch."""

    def columns(self, name: str) -> int:
        """How many arrays of the hidden size stand side by side in a row of the tensor."""
        counts = {"gates": self.loop.cell.saved, **dict.fromkeys(("X", "p", "dX", "dP", "dp"), self.loop.cell.gates)}
        return counts.get(name, 1)

    def shape(self, name: str) -> tuple[int, ...]:
        row = self.loop.batch, self.columns(name) * self.loop.hidden
        return (self.loop.steps, *row) if name in _SEQUENCES else row

    def portable(self) -> Any:
        """A ``tirx.PrimFunc`` of one schedulable block."""
        with IRBuilder() as ib, T.prim_func(s_tir=True):
            T.func_name(self.name)
            T.func_attr({"tirx.noalias": True})
            names = [*self.reads, *self.written]
            buffers = {name: T.arg(name, T.buffer(self.shape(name), "float32")) for name in names}
            times = {name: T.arg(name, tirx.Var(name, "int64")) for name in self.times}
            buffers |= {
                f"{name}_out": T.arg(f"{name}_out", T.buffer(self.shape(name), "float32")) for name in self.makes
            }
            with T.grid(self.loop.batch, self.loop.hidden) as (row, unit):
                with T.sblock(self.name):
                    row = T.axis.spatial(self.loop.batch, row)
                    unit = T.axis.spatial(self.loop.hidden, unit)
                    self.unit(_Point(self.loop, buffers, times, row, unit))
        return ib.get()


class _Point:
    """Reads and writes one hidden unit of one row of the batch."""

    def __init__(self, loop: TimeLoop, buffers: dict[str, Any], times: dict[str, Expr], row: Expr, unit: Expr):
        self.loop, self.buffers, self.times, self.row, self.unit = loop, buffers, times, row, unit

    def _indices(self, array: int, time: Expr | None) -> list[Expr]:
        at = [self.row, self.unit + array * self.loop.hidden]
        return at if time is None else [time, *at]

    def read(self, name: str, array: int = 0, time: Expr | None = None) -> Expr:
        return self.buffers[name][tuple(self._indices(array, time))]

    def write(self, name: str, value: Expr, array: int = 0, time: Expr | None = None) -> None:
        T.buffer_store(self.buffers[name], value, self._indices(array, time))

    def before(self, sequence: str, initial: str) -> Expr:
        """A state before the step: of the sequence, or the initial one."""
        time = self.times["before"]
        earlier = self.read(sequence, time=tirx.max(time, tirx.IntImm("int64", 0)))
        return tirx.if_then_else(time >= 0, earlier, self.read(initial))


@dataclass(frozen=True)
class ForwardStep(Step):
    """X, p = h Wh + bh, h and (c) before the step -> h and (c) after it, and Y, gates, cells at ``time``."""

    loop: ForwardLoop

    @property
    def name(self) -> str:
        return f"{self.loop.cell.name}_forward_step"

    @property
    def reads(self) -> list[str]:
        return ["X", "p", *self.makes]

    @property
    def written(self) -> list[str]:
        cell, training = self.loop.cell, self.loop.training
        return ["Y"] + ["gates"] * (training and cell.saved > 0) + ["cells"] * (training and cell.has_cell)

    @property
    def times(self) -> list[str]:
        return ["time"]

    @property
    def makes(self) -> list[str]:
        return ["h"] + ["c"] * self.loop.cell.has_cell

    def unit(self, at: _Point) -> None:
        cell, time = self.loop.cell, at.times["time"]
        x = [at.read("X", gate, time) for gate in range(cell.gates)]
        p = [at.read("p", gate) for gate in range(cell.gates)]
        p = [p[gate] if gate in cell.apart else x[gate] + p[gate] for gate in range(cell.gates)]
        step = cell.forward(_maths(), x, p, at.read("h"), at.read("c") if cell.has_cell else None)
        at.write("h_out", step.hidden)
        at.write("Y", step.hidden, time=time)
        if cell.has_cell:
            at.write("c_out", step.cell)
        if "cells" in self.written:
            at.write("cells", step.cell, time=time)
        if "gates" in self.written:
            for array, value in enumerate(step.saved):
                at.write("gates", value, array, time)


@dataclass(frozen=True)
class BackwardStep(Step):
    """Gradient of a ``ForwardStep`` at ``time``, whose predecessor was at ``before``.

    Makes dp, the gradient of h Wh + bh, then the gradients of the states before the step: ``dc``, and for cells with
    gates ``apart`` ``dh``, that part which does not go through the product.
    """

    loop: BackwardLoop

    @property
    def name(self) -> str:
        return f"{self.loop.cell.name}_backward_step"

    @property
    def reads(self) -> list[str]:
        cell = self.loop.cell
        names = ["dh"] + ["dc"] * cell.has_cell + ["dY"] * self.loop.given[0] + ["gates"] * (cell.saved > 0)
        names += ["cells", "c0"] * cell.has_cell
        return names + {"hidden_before": ["Y", "h0"], "hidden": ["Y"]}.get(cell.reads[0], [])

    @property
    def written(self) -> list[str]:
        return ["dX"] + ["dP"] * bool(self.loop.cell.apart)

    @property
    def times(self) -> list[str]:
        return ["time", "before"]

    @property
    def makes(self) -> list[str]:
        return ["dp"] + ["dh"] * bool(self.loop.cell.apart) + ["dc"] * self.loop.cell.has_cell

    def unit(self, at: _Point) -> None:
        cell, time = self.loop.cell, at.times["time"]
        dh = at.read("dh")
        if "dY" in self.reads:
            dh = T.bind(dh + at.read("dY", time=time))
        dc = at.read("dc") if cell.has_cell else None
        saved = [at.read("gates", array, time) for array in range(cell.saved)]
        step = cell.backward(_maths(), dh, dc, saved, self._states(cell, at))
        for gate in range(cell.gates):
            at.write("dX", step.inputs[gate], gate, time)
            at.write("dp_out", step.products[gate], gate)
            if cell.apart:
                at.write("dP", step.products[gate], gate, time)
        if cell.apart:
            at.write("dh_out", step.hidden)
        if cell.has_cell:
            at.write("dc_out", step.cell)

    def _states(self, cell: Cell, at: _Point) -> States:
        states, time = States(), at.times["time"]
        for name in cell.reads:
            if name == "cell":
                states.cell = at.read("cells", time=time)
            elif name == "hidden":
                states.hidden = at.read("Y", time=time)
            elif name == "cell_before":
                states.cell_before = at.before("cells", "c0")
            else:
                states.hidden_before = at.before("Y", "h0")
        return states


def _maths() -> Maths:
    zero = tirx.FloatImm("float32", 0.0)
    return Maths(
        tirx.sigmoid,
        tirx.tanh,
        lambda x: tirx.Select(x < zero, zero, x),
        lambda x, y: tirx.Select(x > zero, y, zero),
        T.bind,
    )


class StepCalls:
    """Calls of one step's function in the Relax function under construction."""

    def __init__(self, context: Any, step: Step):
        self.context, self.step = context, step
        if step not in context.functions:
            context.functions[step] = context.bb.add_func(step.portable().without_attr("global_symbol"), step.name)
        self.function = context.functions[step]
        self.sequences = {name: self._new(name) for name in step.written}

    def _new(self, name: str) -> Expr:
        shape = relax.ShapeExpr(self.step.shape(name))
        return self.context.bb.emit(relax.op.builtin.alloc_tensor(shape, "float32", 0))

    def at(self, times: Iterable[int], tensors: dict[str, Expr]) -> list[Expr]:
        """Runs the step at ``times``; returns what it makes. ``self.sequences`` are what it has written so far."""
        step, names = self.step, list(self.sequences)
        arguments = [*(tensors[name] for name in step.reads), *self.sequences.values()]
        first = len(step.reads)
        made = [relax.TensorType(step.shape(name), "float32") for name in [*step.makes, *names]]
        call = relax.op.call_tir_inplace(
            self.function,
            relax.Tuple([*arguments, *(relax.prim_value(time) for time in times)]),
            [-1] * len(step.makes) + list(range(first, first + len(names))),
            made,
        )
        results = self.context.bb.emit(call)
        parts = [self.context.bb.emit(relax.TupleGetItem(results, i)) for i in range(len(made))]
        self.sequences = dict(zip(names, parts[len(step.makes) :], strict=True))
        return parts[: len(step.makes)]
