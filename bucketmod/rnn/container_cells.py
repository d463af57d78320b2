"""Cells made of cells: a stack, a pair of directions; and dropout between the cells of a stack."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from typing import Any

from bucketmod import symbol
from bucketmod.rnn.base_cell import Arrays, BaseRNNCell, Outputs, RNNParams, arrange_steps
from bucketmod.symbol import Symbol


class _ContainerCell(BaseRNNCell):
    """Shares one set of parameters with its cells and hands everything on to them, in order."""

    def __init__(self, params: RNNParams | None) -> None:
        super().__init__(prefix="", params=params)
        self._override_cell_params = params is not None
        self._cells: list[BaseRNNCell] = []

    def _adopt(self, cell: BaseRNNCell) -> None:
        if self._override_cell_params:
            assert cell._own_params, f"{type(self).__name__} and a cell inside it were both given params: give one"
            cell.params._params.update(self.params._params)
        self.params._params.update(cell.params._params)
        self._cells.append(cell)

    @property
    def state_info(self) -> list[Any]:
        return [info for cell in self._cells for info in cell.state_info]

    def begin_state(self, **kwargs: Any) -> list[Symbol]:  # type: ignore[override]
        self._check_not_modified()
        return [state for cell in self._cells for state in cell.begin_state(**kwargs)]

    def unpack_weights(self, args: Arrays) -> Arrays:
        for cell in self._cells:
            args = cell.unpack_weights(args)
        return args

    def pack_weights(self, args: Arrays) -> Arrays:
        for cell in self._cells:
            args = cell.pack_weights(args)
        return args


class SequentialRNNCell(_ContainerCell):
    """A stack: the output of a cell is the input of the next one; states are those of the cells, in order."""

    def __init__(self, params: RNNParams | None = None) -> None:
        super().__init__(params)

    def add(self, cell: BaseRNNCell) -> None:
        """Puts a cell on top."""
        self._adopt(cell)

    def __call__(self, inputs: Symbol, states: Sequence[Symbol]) -> tuple[Symbol, list[Symbol]]:
        self._counter += 1
        next_states: list[Symbol] = []
        first = 0
        for cell in self._cells:
            assert not isinstance(cell, BidirectionalCell), "a stack with a BidirectionalCell has no step: unroll it"
            last = first + len(cell.state_info)
            inputs, after = cell(inputs, states[first:last])
            next_states.extend(after)
            first = last
        return inputs, next_states

    def unroll(
        self,
        length: int,
        inputs: Outputs,
        begin_state: Sequence[Symbol] | None = None,
        layout: str = "NTC",
        merge_outputs: bool | None = None,
    ) -> tuple[Outputs, list[Any]]:
        """Unrolls cell after cell; only the last one is asked for ``merge_outputs``."""
        self.reset()
        if begin_state is None:
            begin_state = self.begin_state()
        next_states: list[Any] = []
        first = 0
        for index, cell in enumerate(self._cells):
            last = first + len(cell.state_info)
            merge = merge_outputs if index == len(self._cells) - 1 else None
            inputs, after = cell.unroll(length, inputs, begin_state[first:last], layout, merge)
            next_states.extend(after)
            first = last
        return inputs, next_states


class BidirectionalCell(_ContainerCell):
    """One cell runs forward, the other backward in time; outputs are joined on the feature axis."""

    def __init__(
        self, l_cell: BaseRNNCell, r_cell: BaseRNNCell, params: RNNParams | None = None, output_prefix: str = "bi_"
    ) -> None:
        super().__init__(params)
        self._output_prefix = output_prefix
        self._adopt(l_cell)
        self._adopt(r_cell)

    def __call__(self, inputs: Symbol, states: Sequence[Symbol]) -> tuple[Symbol, list[Symbol]]:
        raise NotImplementedError("BidirectionalCell needs the whole sequence and has no single step: use unroll")

    def unroll(
        self,
        length: int,
        inputs: Outputs,
        begin_state: Sequence[Symbol] | None = None,
        layout: str = "NTC",
        merge_outputs: bool | None = None,
    ) -> tuple[Outputs, list[Any]]:
        """As :meth:`BaseRNNCell.unroll`; the states come as two lists, [forward, backward]."""
        self.reset()
        steps, axis = arrange_steps(length, inputs, layout, False)
        if begin_state is None:
            begin_state = self.begin_state()
        left, right = self._cells
        middle = len(left.state_info)
        forward, forward_states = left.unroll(length, steps, begin_state[:middle], layout, merge_outputs)
        backward, backward_states = right.unroll(length, steps[::-1], begin_state[middle:], layout, merge_outputs)
        if merge_outputs is None:  # merged only where both cells did so unasked
            merge_outputs = isinstance(forward, Symbol) and isinstance(backward, Symbol)
            if not merge_outputs:
                forward, _ = arrange_steps(length, forward, layout, False)
                backward, _ = arrange_steps(length, backward, layout, False)
        states = [forward_states, backward_states]
        if merge_outputs:
            backward = symbol.reverse(backward, axis=axis)
            return symbol.Concat(forward, backward, dim=2, name=f"{self._output_prefix}out"), states
        pairs = zip(forward, backward[::-1], strict=True)  # type: ignore[index]
        return [symbol.Concat(*pair, dim=1, name=f"{self._output_prefix}t{t}") for t, pair in enumerate(pairs)], states


class DropoutCell(BaseRNNCell):
    """Dropout on the inputs; has no state. ``dropout``: the fraction that is dropped."""

    def __init__(self, dropout: float, prefix: str = "dropout_", params: RNNParams | None = None) -> None:
        super().__init__(prefix, params)
        assert isinstance(dropout, numbers.Real), f"dropout must be a number between 0 and 1, got {dropout!r}"
        self.dropout: float = dropout

    @property
    def state_info(self) -> list[Any]:
        return []

    def __call__(self, inputs: Symbol, states: Sequence[Symbol]) -> tuple[Symbol, list[Symbol]]:
        if self.dropout > 0:
            inputs = symbol.Dropout(data=inputs, p=self.dropout)
        return inputs, list(states)

    def unroll(
        self,
        length: int,
        inputs: Outputs,
        begin_state: Sequence[Symbol] | None = None,
        layout: str = "NTC",
        merge_outputs: bool | None = None,
    ) -> tuple[Outputs, list[Any]]:
        """A merged sequence gets one Dropout node, a list one for each step."""
        self.reset()
        inputs, _ = arrange_steps(length, inputs, layout, merge_outputs)
        if isinstance(inputs, Symbol):
            return self(inputs, [])
        return super().unroll(length, inputs, begin_state, layout, merge_outputs)
