"""The fused cell: all layers, directions and steps are one RNN operator with one parameter vector."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from bucketmod import initializer, ndarray, symbol
from bucketmod.rnn.base_cell import Arrays, BaseRNNCell, Outputs, RNNParams, arrange_steps
from bucketmod.rnn.basic_cells import GRUCell, LSTMCell, RNNCell
from bucketmod.rnn.container_cells import BidirectionalCell, DropoutCell, SequentialRNNCell
from bucketmod.symbol import Symbol

_GATES = {
    "rnn_relu": ("",),
    "rnn_tanh": ("",),
    "lstm": ("_i", "_f", "_c", "_o"),
    "gru": ("_r", "_z", "_o"),
}


class FusedRNNCell(BaseRNNCell):
    """``num_layers`` layers of one kind as a single RNN node; can be unrolled, not stepped.

    ``mode``: rnn_relu, rnn_tanh, lstm or gru. ``dropout``: fraction dropped between layers while training.
    ``get_next_state``: unroll returns the last states too. ``prefix``: default ``<mode>_``. The one parameter is
    ``<prefix>parameters``, a vector.
    """

    def __init__(
        self,
        num_hidden: int,
        num_layers: int = 1,
        mode: str = "lstm",
        bidirectional: bool = False,
        dropout: float = 0.0,
        get_next_state: bool = False,
        forget_bias: float = 1.0,
        prefix: str | None = None,
        params: RNNParams | None = None,
    ) -> None:
        if mode not in _GATES:
            raise ValueError(f"mode={mode!r}: FusedRNNCell knows {', '.join(_GATES)}")
        super().__init__(prefix=f"{mode}_" if prefix is None else prefix, params=params)
        self._num_hidden = num_hidden
        self._num_layers = num_layers
        self._mode = mode
        self._bidirectional = bidirectional
        self._dropout = dropout
        self._get_next_state = get_next_state
        self._directions = ("l", "r") if bidirectional else ("l",)
        init = initializer.FusedRNN(None, num_hidden, num_layers, mode, bidirectional, forget_bias)
        self._parameter = self.params.get("parameters", init=init)
        self._parameter_name: str = self._parameter.list_outputs()[0]

    @property
    def state_info(self) -> list[Any]:
        shape = (len(self._directions) * self._num_layers, 0, self._num_hidden)
        return [{"shape": shape, "__layout__": "LNC"} for _ in range(2 if self._mode == "lstm" else 1)]

    @property
    def _gate_names(self) -> Sequence[str]:
        return _GATES[self._mode]

    def _blocks(self, num_input: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Names and shapes of the gates' weights, then of their biases, in the order of the parameter vector."""
        size = self._num_hidden
        for kind in ("weight", "bias"):
            for layer in range(self._num_layers):
                below = num_input if layer == 0 else size * len(self._directions)
                for direction in self._directions:
                    for group, columns in (("i2h", below), ("h2h", size)):
                        for gate in self._gate_names:
                            name = f"{self._prefix}{direction}{layer}_{group}{gate}_{kind}"
                            yield name, (size, columns) if kind == "weight" else (size,)

    def _vector_size(self, num_input: int) -> int:
        return sum(math.prod(shape) for _, shape in self._blocks(num_input))

    def _input_size(self, total: int) -> int:
        """The input size that gives a parameter vector of ``total`` elements; ValueError if none does."""
        per_column = self._num_hidden * len(self._gate_names) * len(self._directions)
        num_input, rest = divmod(total - self._vector_size(0), per_column)
        if rest or num_input < 0:
            raise ValueError(
                f"{self._parameter_name!r} has {total} elements, which no input size gives for {self._num_layers} "
                f"layers of {self._mode} with {self._num_hidden} units and {len(self._directions)} direction(s)"
            )
        return num_input

    def unpack_weights(self, args: Arrays) -> Arrays:
        """A copy of ``args`` with the vector cut into one array for each layer, direction and gate (copies)."""
        args = args.copy()
        vector = args.pop(self._parameter_name)
        start = 0
        for name, shape in self._blocks(self._input_size(vector.size)):
            end = start + math.prod(shape)
            args[name] = vector[start:end].reshape(shape).copy()
            start = end
        return args

    def pack_weights(self, args: Arrays) -> Arrays:
        """The inverse of :meth:`unpack_weights`."""
        args = args.copy()
        first = args[f"{self._prefix}l0_i2h{self._gate_names[0]}_weight"]
        parts = [args.pop(name).reshape((-1,)) for name, _ in self._blocks(first.shape[1])]
        args[self._parameter_name] = ndarray.concatenate(parts)
        return args

    def __call__(self, inputs: Symbol, states: Sequence[Symbol]) -> tuple[Symbol, list[Symbol]]:
        raise NotImplementedError("FusedRNNCell has no single step: use unroll, or unfuse() for cells that have")

    def unroll(
        self,
        length: int,
        inputs: Outputs,
        begin_state: Sequence[Symbol] | None = None,
        layout: str = "NTC",
        merge_outputs: bool | None = None,
    ) -> tuple[Outputs, list[Any]]:
        """As :meth:`BaseRNNCell.unroll`; the states are empty unless ``get_next_state`` was asked for."""
        self.reset()
        inputs, axis = arrange_steps(length, inputs, layout, True)
        assert axis in (0, 1), f"layout {layout!r}: FusedRNNCell takes TNC or NTC"
        if axis == 1:
            warnings.warn("FusedRNNCell runs over TNC data; NTC inputs and outputs are transposed", stacklevel=2)
            inputs = symbol.swapaxes(inputs, dim1=0, dim2=1)
        states = self.begin_state() if begin_state is None else begin_state
        names = ("state", "state_cell") if self._mode == "lstm" else ("state",)
        named = dict(zip(names, states, strict=True))
        rnn = symbol.RNN(
            data=inputs, parameters=self._parameter, state_size=self._num_hidden, num_layers=self._num_layers,
            bidirectional=self._bidirectional, p=self._dropout, state_outputs=self._get_next_state, mode=self._mode,
            name=f"{self._prefix}rnn", **named,
        )  # fmt: skip
        outputs, next_states = rnn, []
        if self._get_next_state:
            outputs, next_states = rnn[0], [rnn[1 + i] for i in range(len(named))]
            for state in next_states:
                state._set_attr(__layout__="LNC")
        if axis == 1:
            outputs = symbol.swapaxes(outputs, dim1=0, dim2=1)
        outputs, _ = arrange_steps(length, outputs, layout, merge_outputs)
        return outputs, next_states

    def unfuse(self) -> SequentialRNNCell:
        """The same network as a stack of plain cells, which can be stepped; weights move by unpack and pack."""
        stack = SequentialRNNCell()
        for layer in range(self._num_layers):
            cells = [self._plain_cell(f"{self._prefix}{direction}{layer}_") for direction in self._directions]
            if self._bidirectional:
                stack.add(BidirectionalCell(cells[0], cells[1], output_prefix=f"{self._prefix}bi_l{layer}_"))
            else:
                stack.add(cells[0])
            if self._dropout > 0 and layer != self._num_layers - 1:
                stack.add(DropoutCell(self._dropout, prefix=f"{self._prefix}_dropout{layer}_"))
        return stack

    def _plain_cell(self, prefix: str) -> BaseRNNCell:
        if self._mode == "lstm":
            return LSTMCell(self._num_hidden, prefix=prefix)
        if self._mode == "gru":
            return GRUCell(self._num_hidden, prefix=prefix)
        return RNNCell(self._num_hidden, activation=self._mode.removeprefix("rnn_"), prefix=prefix)
