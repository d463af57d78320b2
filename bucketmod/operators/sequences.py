"""Sequences of their own lengths in one batch."""

from __future__ import annotations

from bucketmod.operators import parameters as p
from bucketmod.operators import types
from bucketmod.operators.registry import Attrs, register
from bucketmod.operators.shapes import Shape, unify

_LENGTHS = [p.boolean("use_sequence_length", False), p.integer("axis", 0)]
_INPUTS = ["data", "sequence_length"]


def _batch_axis(attrs: Attrs, data: tuple[int, ...]) -> int:
    if attrs["axis"] not in (0, 1) or len(data) < 2:
        raise ValueError(f"axis={attrs['axis']} for data {data}: time must be axis 0 or 1 of two or more")
    return 1 - int(attrs["axis"])


def _sequence(attrs: Attrs, ins: list[Shape], outs: list[Shape]) -> None:
    ins[0] = outs[0] = unify(ins[0], outs[0])
    _take_lengths(attrs, ins)


def _take_lengths(attrs: Attrs, ins: list[Shape]) -> None:
    if ins[0] is not None:
        batch = ins[0][_batch_axis(attrs, ins[0])]
        if len(ins) > 1:
            ins[1] = unify(ins[1], (batch,))


def _sequence_last(attrs: Attrs, ins: list[Shape], outs: list[Shape]) -> None:
    _take_lengths(attrs, ins)
    if ins[0] is not None:
        outs[0] = unify(outs[0], (ins[0][_batch_axis(attrs, ins[0])], *ins[0][2:]))


def _inputs(attrs: Attrs) -> list[str]:
    return _INPUTS if attrs["use_sequence_length"] else _INPUTS[:1]


_DOC = "Time is axis 0 (or 1), the batch the other one of the two; with use_sequence_length, sequence_length (N,)"
register(
    "SequenceMask",
    _INPUTS,
    [_LENGTHS[0], p.real("value", 0.0), _LENGTHS[1]],
    inputs_of=_inputs,
    shape=_sequence,
    type_rule=types.same_but(1),
    doc=f"{_DOC} says from which step on a sequence is replaced by ``value``.",
)
register(
    "SequenceLast",
    _INPUTS,
    _LENGTHS,
    inputs_of=_inputs,
    shape=_sequence_last,
    type_rule=types.same_but(1),
    doc=f"The last step of each sequence. {_DOC} says how many steps it has.",
)
register(
    "SequenceReverse",
    _INPUTS,
    _LENGTHS,
    inputs_of=_inputs,
    shape=_sequence,
    type_rule=types.same_but(1),
    doc=f"Each sequence in reverse order. {_DOC} says how many steps turn round; the others stay.",
)
