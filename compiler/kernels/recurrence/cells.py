"""Equations of the recurrent cells, forward and backward, once for every form of the kernels.

They are written with operators alone, so that an operand may be a vector in registers, a scalar expression or a whole
Relax tensor; ``Maths`` supplies what differs between these. No constant appears: x (1 - x) is written x - x x.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Value = Any
ByGate = Sequence[Value] | Mapping[int, Value]


@dataclass(frozen=True)
class Maths:
    """``let`` names a value that is used more than once; ``where_positive(x, y)`` is y where x > 0, otherwise 0."""

    sigmoid: Callable[[Value], Value]
    tanh: Callable[[Value], Value]
    relu: Callable[[Value], Value]
    where_positive: Callable[[Value, Value], Value]
    let: Callable[[Value], Value]


@dataclass
class Step:
    """Result of one step forward: the new hidden and cell state, and what the gradient needs of this step."""

    hidden: Value
    cell: Value | None
    saved: list[Value]


@dataclass
class StepGradient:
    """Result of one step backward.

    ``inputs`` and ``products``: gradients of the two summands of each gate, x Wi + bi and h Wh + bh; ``hidden``: what
    flows to the state before the step besides ``products`` Wh, None where nothing does; ``cell``: all that flows to the
    cell state before the step.
    """

    inputs: list[Value]
    products: list[Value]
    hidden: Value | None
    cell: Value | None


@dataclass(frozen=True)
class Cell(ABC):
    """``gates``: rows of the weights / hidden size. ``apart``: gates whose two summands are needed one by one.

    ``saved``: arrays of the hidden size kept for the gradient besides the states. ``reads``: the states around a step,
    by their names in ``States``, that the gradient of the step needs.
    """

    name: str
    gates: int
    saved: int
    reads: tuple[str, ...]
    apart: tuple[int, ...] = ()
    has_cell: bool = False

    @abstractmethod
    def forward(self, m: Maths, x: ByGate, p: ByGate, hidden: Value, cell: Value) -> Step:
        """One step. ``p``: h Wh + bh for each gate, for a gate not in ``apart`` with x Wi + bi added to it; ``x``: that
        summand alone, at least for the gates ``apart``."""

    @abstractmethod
    def backward(self, m: Maths, dh: Value, dc: Value, saved: Sequence[Value], states: States) -> StepGradient:
        """Gradient of one step. ``dh``, ``dc``: gradients of the states after it."""


@dataclass
class States:
    """States around a step; absent ones are None."""

    hidden_before: Value = None
    hidden: Value = None
    cell_before: Value = None
    cell: Value = None


@dataclass(frozen=True)
class Lstm(Cell):
    """Gates i, f, c, o; saved as they are after activation."""

    def forward(self, m: Maths, x: ByGate, p: ByGate, hidden: Value, cell: Value) -> Step:
        new, saved = self.renew(m, p, cell)
        return Step(self.expose(m, new, saved[3]), new, saved)

    def renew(self, m: Maths, p: ByGate, cell: Value) -> tuple[Value, list[Value]]:
        """The first part of a step: the new cell state, and the gates."""
        i, f, o = (m.let(m.sigmoid(p[gate])) for gate in (0, 1, 3))
        g = m.let(m.tanh(p[2]))
        return m.let(f * cell + i * g), [i, f, g, o]

    def expose(self, m: Maths, cell: Value, o: Value) -> Value:
        """The second part: the hidden state."""
        return m.let(o * m.tanh(cell))

    def backward(self, m: Maths, dh: Value, dc: Value, saved: Sequence[Value], states: States) -> StepGradient:
        i, f, g, o = saved
        squashed = m.let(m.tanh(states.cell))
        through = m.let(dh * o)
        d = m.let(dc + (through - through * squashed * squashed))
        dg, di = m.let(d * i), m.let(d * g)
        do, df = m.let(dh * squashed), m.let(d * states.cell_before)
        gates = [di * (i - i * i), df * (f - f * f), dg - dg * g * g, do * (o - o * o)]
        gates = [m.let(gate) for gate in gates]
        return StepGradient(gates, gates, None, d * f)


@dataclass(frozen=True)
class _Gru(Cell):
    """Gates r, z, o; saved r, z and o after activation, and h Wh_o + bh_o before r multiplies it."""

    def forward(self, m: Maths, x: ByGate, p: ByGate, hidden: Value, cell: Value) -> Step:
        r, z = m.let(m.sigmoid(p[0])), m.let(m.sigmoid(p[1]))
        product = m.let(p[2])
        o = m.let(m.tanh(x[2] + r * product))
        return Step(m.let(o + z * (hidden - o)), None, [r, z, o, product])

    def backward(self, m: Maths, dh: Value, dc: Value, saved: Sequence[Value], states: States) -> StepGradient:
        r, z, o, product = saved
        kept = m.let(dh * z)
        do = m.let(dh - kept)
        do = m.let(do - do * o * o)
        dr = m.let(do * product * (r - r * r))
        dz = m.let(dh * (states.hidden_before - o) * (z - z * z))
        return StepGradient([dr, dz, do], [dr, dz, m.let(do * r)], kept, None)


@dataclass(frozen=True)
class _Tanh(Cell):
    def forward(self, m: Maths, x: ByGate, p: ByGate, hidden: Value, cell: Value) -> Step:
        return Step(m.let(m.tanh(p[0])), None, [])

    def backward(self, m: Maths, dh: Value, dc: Value, saved: Sequence[Value], states: States) -> StepGradient:
        gate = m.let(dh - dh * states.hidden * states.hidden)
        return StepGradient([gate], [gate], None, None)


@dataclass(frozen=True)
class _Relu(Cell):
    def forward(self, m: Maths, x: ByGate, p: ByGate, hidden: Value, cell: Value) -> Step:
        return Step(m.let(m.relu(p[0])), None, [])

    def backward(self, m: Maths, dh: Value, dc: Value, saved: Sequence[Value], states: States) -> StepGradient:
        gate = m.let(m.where_positive(states.hidden, dh))
        return StepGradient([gate], [gate], None, None)


LSTM = Lstm("lstm", gates=4, saved=4, reads=("cell_before", "cell"), has_cell=True)
GRU = _Gru("gru", gates=3, saved=4, reads=("hidden_before",), apart=(2,))
RNN = {
    "tanh": _Tanh("rnn_tanh", gates=1, saved=0, reads=("hidden",)),
    "relu": _Relu("rnn_relu", gates=1, saved=0, reads=("hidden",)),
}
