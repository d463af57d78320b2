"""The cells that do the computing: plain RNN, LSTM, GRU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from bucketmod import initializer, symbol
from bucketmod.rnn.base_cell import BaseRNNCell, RNNParams
from bucketmod.symbol import Symbol


class _GatedCell(BaseRNNCell):
    """A cell made of two products: of the input (i2h) and of the previous output (h2h), all gates side by side."""

    def __init__(self, num_hidden: int, prefix: str, params: RNNParams | None, **i2h_bias: Any) -> None:
        super().__init__(prefix=prefix, params=params)
        self._num_hidden = num_hidden
        self._i2h = (self.params.get("i2h_weight"), self.params.get("i2h_bias", **i2h_bias))
        self._h2h = (self.params.get("h2h_weight"), self.params.get("h2h_bias"))

    def _products(self, inputs: Symbol, hidden: Symbol, prefix: str) -> tuple[Symbol, Symbol]:
        size = self._num_hidden * len(self._gate_names)
        return (
            symbol.FullyConnected(inputs, *self._i2h, num_hidden=size, name=f"{prefix}i2h"),
            symbol.FullyConnected(hidden, *self._h2h, num_hidden=size, name=f"{prefix}h2h"),
        )

    def _step_prefix(self) -> str:
        self._counter += 1
        return f"{self._prefix}t{self._counter}_"


class RNNCell(_GatedCell):
    """h' = activation(Wi x + bi + Wh h + bh). ``activation``: type of Activation, or a function(Symbol, name=)."""

    def __init__(
        self,
        num_hidden: int,
        activation: str | Callable[..., Symbol] = "tanh",
        prefix: str = "rnn_",
        params: RNNParams | None = None,
    ) -> None:
        super().__init__(num_hidden, prefix, params)
        self._activation = activation

    @property
    def state_info(self) -> list[Any]:
        return [{"shape": (0, self._num_hidden), "__layout__": "NC"}]

    @property
    def _gate_names(self) -> Sequence[str]:
        return ("",)

    def __call__(self, inputs: Symbol, states: Sequence[Symbol]) -> tuple[Symbol, list[Symbol]]:
        name = self._step_prefix()
        i2h, h2h = self._products(inputs, states[0], name)
        output = self._get_activation(i2h + h2h, self._activation, name=f"{name}out")
        return output, [output]


class LSTMCell(_GatedCell):
    """Gates i, f, c, o. ``forget_bias`` is added when i2h_bias is initialised; the graph has no trace of it."""

    def __init__(
        self, num_hidden: int, prefix: str = "lstm_", params: RNNParams | None = None, forget_bias: float = 1.0
    ) -> None:
        super().__init__(num_hidden, prefix, params, init=initializer.LSTMBias(forget_bias=forget_bias))

    @property
    def state_info(self) -> list[Any]:
        return [{"shape": (0, self._num_hidden), "__layout__": "NC"} for _ in range(2)]

    @property
    def _gate_names(self) -> Sequence[str]:
        return ("_i", "_f", "_c", "_o")

    def __call__(self, inputs: Symbol, states: Sequence[Symbol]) -> tuple[Symbol, list[Symbol]]:
        name = self._step_prefix()
        i2h, h2h = self._products(inputs, states[0], name)
        gates = symbol.SliceChannel(i2h + h2h, num_outputs=4, name=f"{name}slice")
        write, keep, value, read = (
            symbol.Activation(gates[index], act_type=kind, name=f"{name}{gate}")
            for index, (gate, kind) in enumerate(zip("ifco", ("sigmoid", "sigmoid", "tanh", "sigmoid"), strict=True))
        )
        next_c = symbol.elemwise_add(keep * states[1], write * value, name=f"{name}state")
        next_h = symbol.elemwise_mul(read, symbol.Activation(next_c, act_type="tanh"), name=f"{name}out")
        return next_h, [next_h, next_c]


class GRUCell(_GatedCell):
    """Gates r, z, o; h' = (1 - z) tanh(i2h_o + r * h2h_o) + z h: the reset gate acts on the product, as in cuDNN."""

    def __init__(self, num_hidden: int, prefix: str = "gru_", params: RNNParams | None = None) -> None:
        super().__init__(num_hidden, prefix, params)

    @property
    def state_info(self) -> list[Any]:
        return [{"shape": (0, self._num_hidden), "__layout__": "NC"}]

    @property
    def _gate_names(self) -> Sequence[str]:
        return ("_r", "_z", "_o")

    def __call__(self, inputs: Symbol, states: Sequence[Symbol]) -> tuple[Symbol, list[Symbol]]:
        step, hidden = self._step_prefix(), states[0]
        name = f"{step}_"  # all nodes but the output have two underscores in MXNet's graphs
        i2h, h2h = self._products(inputs, hidden, name)
        i2h_r, i2h_z, i2h_o = symbol.SliceChannel(i2h, num_outputs=3, name=f"{name}i2h_slice")
        h2h_r, h2h_z, h2h_o = symbol.SliceChannel(h2h, num_outputs=3, name=f"{name}h2h_slice")
        reset = symbol.Activation(i2h_r + h2h_r, act_type="sigmoid", name=f"{name}r_act")
        update = symbol.Activation(i2h_z + h2h_z, act_type="sigmoid", name=f"{name}z_act")
        candidate = symbol.Activation(i2h_o + reset * h2h_o, act_type="tanh", name=f"{name}h_act")
        next_h = symbol.elemwise_add((1.0 - update) * candidate, update * hidden, name=f"{step}out")
        return next_h, [next_h]
