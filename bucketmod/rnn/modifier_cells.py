"""Cells that wrap another cell and change what it gives out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from bucketmod import symbol
from bucketmod.rnn.base_cell import Arrays, BaseRNNCell, Outputs, RNNParams, arrange_steps
from bucketmod.rnn.container_cells import BidirectionalCell
from bucketmod.rnn.fused_cell import FusedRNNCell
from bucketmod.symbol import Symbol


class ModifierCell(BaseRNNCell):
    """Takes over the parameters and states of ``base_cell``, which must not be used alone any more."""

    def __init__(self, base_cell: BaseRNNCell) -> None:
        super().__init__()
        base_cell._modified = True
        self.base_cell = base_cell

    @property
    def params(self) -> RNNParams:
        self._own_params = False
        return self.base_cell.params

    @property
    def state_info(self) -> list[Any]:
        return self.base_cell.state_info

    def begin_state(self, init_sym: Callable[..., Symbol] = symbol.zeros, **kwargs: Any) -> list[Symbol]:  # type: ignore[override]
        """States of the base cell, made by ``init_sym``."""
        self._check_not_modified()
        self.base_cell._modified = False
        try:
            return self.base_cell.begin_state(func=init_sym, **kwargs)
        finally:
            self.base_cell._modified = True

    def unpack_weights(self, args: Arrays) -> Arrays:
        return self.base_cell.unpack_weights(args)

    def pack_weights(self, args: Arrays) -> Arrays:
        return self.base_cell.pack_weights(args)


class ZoneoutCell(ModifierCell):
    """Keeps, while training, a random part of the previous output and states (fractions given)."""

    def __init__(self, base_cell: BaseRNNCell, zoneout_outputs: float = 0.0, zoneout_states: float = 0.0) -> None:
        assert not isinstance(base_cell, FusedRNNCell), "zoneout acts on single steps: unfuse() the FusedRNNCell first"
        assert not isinstance(base_cell, BidirectionalCell), (
            "zoneout acts on single steps, which a BidirectionalCell does not have: wrap the two cells inside it"
        )
        super().__init__(base_cell)
        self.zoneout_outputs = zoneout_outputs
        self.zoneout_states = zoneout_states
        self.prev_output: Symbol | None = None

    def reset(self) -> None:
        super().reset()
        self.prev_output = None

    def __call__(self, inputs: Symbol, states: Sequence[Symbol]) -> tuple[Symbol, list[Symbol]]:
        output, next_states = self.base_cell(inputs, states)
        previous = symbol.zeros((0, 0)) if self.prev_output is None else self.prev_output
        output = _mix(self.zoneout_outputs, output, previous)
        mixed = [_mix(self.zoneout_states, new, old) for new, old in zip(next_states, states, strict=True)]
        self.prev_output = output
        return output, mixed


def _mix(fraction: float, new: Symbol, old: Symbol) -> Symbol:
    """``new``, with a random ``fraction`` of its elements taken from ``old``; Dropout of ones is the choice."""
    if fraction == 0:
        return new
    return symbol.where(symbol.Dropout(symbol.ones_like(new), p=fraction), new, old)


class ResidualCell(ModifierCell):
    """Output of the base cell plus its input."""

    def __call__(self, inputs: Symbol, states: Sequence[Symbol]) -> tuple[Symbol, list[Symbol]]:
        output, next_states = self.base_cell(inputs, states)
        return _plus_residual(output, inputs), next_states

    def unroll(
        self,
        length: int,
        inputs: Outputs,
        begin_state: Sequence[Symbol] | None = None,
        layout: str = "NTC",
        merge_outputs: bool | None = None,
    ) -> tuple[Outputs, list[Any]]:
        self.reset()
        self.base_cell._modified = False
        try:
            outputs, states = self.base_cell.unroll(length, inputs, begin_state, layout, merge_outputs)
        finally:
            self.base_cell._modified = True
        if merge_outputs is None:
            merge_outputs = isinstance(outputs, Symbol)
        inputs, _ = arrange_steps(length, inputs, layout, merge_outputs)
        if isinstance(outputs, Symbol):
            return _plus_residual(outputs, inputs), states
        return [_plus_residual(*pair) for pair in zip(outputs, inputs, strict=True)], states


def _plus_residual(output: Symbol, inputs: Any) -> Symbol:
    return symbol.elemwise_add(output, inputs, name=f"{output.name}_plus_residual")
