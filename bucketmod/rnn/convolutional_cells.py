"""Recurrent cells whose two products are convolutions: over images that change from step to step."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from bucketmod import symbol
from bucketmod.rnn.base_cell import BaseRNNCell, RNNParams
from bucketmod.symbol import Symbol

Activation = str | Callable[..., Symbol]
Pair = tuple[int, int]
_leaky = functools.partial(symbol.LeakyReLU, act_type="leaky", slope=0.2)


class BaseConvRNNCell(BaseRNNCell):
    """What the convolutional cells share.

    ``input_shape``: of a step, batch included, in ``conv_layout``. The convolution of the input has the kernel, stride,
    padding and dilation called ``i2h_``; that of the state (``h2h_``) keeps its size, so its kernel must be odd
    (AssertionError). ``activation``: type of Activation, or a function(Symbol, name=).
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        num_hidden: int,
        h2h_kernel: Pair,
        h2h_dilate: Pair,
        i2h_kernel: Pair,
        i2h_stride: Pair,
        i2h_pad: Pair,
        i2h_dilate: Pair,
        i2h_weight_initializer: Any,
        h2h_weight_initializer: Any,
        i2h_bias_initializer: Any,
        h2h_bias_initializer: Any,
        activation: Activation,
        prefix: str = "",
        params: RNNParams | None = None,
        conv_layout: str = "NCHW",
    ) -> None:
        super().__init__(prefix=prefix, params=params)
        assert all(size % 2 for size in h2h_kernel), f"h2h_kernel={h2h_kernel}: both sizes must be odd"
        self._num_hidden = num_hidden
        self._conv_layout = conv_layout
        self._activation = activation
        same = tuple(dilate * (size - 1) // 2 for size, dilate in zip(h2h_kernel, h2h_dilate, strict=True))
        self._i2h_options = {"kernel": i2h_kernel, "stride": i2h_stride, "pad": i2h_pad, "dilate": i2h_dilate}
        self._h2h_options = {"kernel": h2h_kernel, "stride": (1, 1), "pad": same, "dilate": h2h_dilate}
        self._state_shape = self._first_state_shape(input_shape)
        self._i2h = (
            self.params.get("i2h_weight", init=i2h_weight_initializer),
            self.params.get("i2h_bias", init=i2h_bias_initializer),
        )
        self._h2h = (
            self.params.get("h2h_weight", init=h2h_weight_initializer),
            self.params.get("h2h_bias", init=h2h_bias_initializer),
        )

    def _first_state_shape(self, input_shape: Sequence[int]) -> tuple[int, ...]:
        step = symbol.Convolution(
            symbol.Variable("data"), num_filter=self._num_hidden, layout=self._conv_layout, **self._i2h_options
        )
        _, (shape,), _ = step.infer_shape(data=tuple(input_shape))
        return (0, *shape[1:])

    @property
    def state_info(self) -> list[Any]:
        return [{"shape": self._state_shape, "__layout__": self._conv_layout} for _ in range(2)]

    def __call__(self, inputs: Symbol, states: Sequence[Symbol]) -> tuple[Symbol, list[Symbol]]:
        raise NotImplementedError(f"{type(self).__name__} says nothing of gates; use ConvRNNCell, ConvLSTMCell, ...")

    def _convolutions(self, inputs: Symbol, hidden: Symbol, prefix: str) -> tuple[Symbol, Symbol]:
        filters = self._num_hidden * len(self._gate_names)
        layout = self._conv_layout
        return (
            symbol.Convolution(
                inputs, *self._i2h, num_filter=filters, layout=layout, name=f"{prefix}i2h", **self._i2h_options
            ),
            symbol.Convolution(
                hidden, *self._h2h, num_filter=filters, layout=layout, name=f"{prefix}h2h", **self._h2h_options
            ),
        )

    def _step_prefix(self) -> str:
        self._counter += 1
        return f"{self._prefix}t{self._counter}_"


class ConvRNNCell(BaseConvRNNCell):
    """h' = activation(i2h * x + h2h * h), where * is a convolution."""

    def __init__(
        self,
        input_shape: Sequence[int],
        num_hidden: int,
        h2h_kernel: Pair = (3, 3),
        h2h_dilate: Pair = (1, 1),
        i2h_kernel: Pair = (3, 3),
        i2h_stride: Pair = (1, 1),
        i2h_pad: Pair = (1, 1),
        i2h_dilate: Pair = (1, 1),
        i2h_weight_initializer: Any = None,
        h2h_weight_initializer: Any = None,
        i2h_bias_initializer: Any = "zeros",
        h2h_bias_initializer: Any = "zeros",
        activation: Activation = _leaky,
        prefix: str = "ConvRNN_",
        params: RNNParams | None = None,
        conv_layout: str = "NCHW",
    ) -> None:
        super().__init__(
            input_shape, num_hidden, h2h_kernel, h2h_dilate, i2h_kernel, i2h_stride, i2h_pad, i2h_dilate,
            i2h_weight_initializer, h2h_weight_initializer, i2h_bias_initializer, h2h_bias_initializer, activation,
            prefix, params, conv_layout,
        )  # fmt: skip

    @property
    def state_info(self) -> list[Any]:
        return super().state_info[:1]

    @property
    def _gate_names(self) -> Sequence[str]:
        return ("",)

    def __call__(self, inputs: Symbol, states: Sequence[Symbol]) -> tuple[Symbol, list[Symbol]]:
        name = self._step_prefix()
        i2h, h2h = self._convolutions(inputs, states[0], name)
        output = self._get_activation(i2h + h2h, self._activation, name=f"{name}out")
        return output, [output]


class ConvLSTMCell(BaseConvRNNCell):
    """An LSTM whose products are convolutions (Shi et al., "Convolutional LSTM Network", 2015); gates i, f, c, o."""

    def __init__(
        self,
        input_shape: Sequence[int],
        num_hidden: int,
        h2h_kernel: Pair = (3, 3),
        h2h_dilate: Pair = (1, 1),
        i2h_kernel: Pair = (3, 3),
        i2h_stride: Pair = (1, 1),
        i2h_pad: Pair = (1, 1),
        i2h_dilate: Pair = (1, 1),
        i2h_weight_initializer: Any = None,
        h2h_weight_initializer: Any = None,
        i2h_bias_initializer: Any = "zeros",
        h2h_bias_initializer: Any = "zeros",
        activation: Activation = _leaky,
        prefix: str = "ConvLSTM_",
        params: RNNParams | None = None,
        conv_layout: str = "NCHW",
    ) -> None:
        super().__init__(
            input_shape, num_hidden, h2h_kernel, h2h_dilate, i2h_kernel, i2h_stride, i2h_pad, i2h_dilate,
            i2h_weight_initializer, h2h_weight_initializer, i2h_bias_initializer, h2h_bias_initializer, activation,
            prefix, params, conv_layout,
        )  # fmt: skip

    @property
    def state_info(self) -> list[Any]:
        return super().state_info

    @property
    def _gate_names(self) -> Sequence[str]:
        return ("_i", "_f", "_c", "_o")

    def __call__(self, inputs: Symbol, states: Sequence[Symbol]) -> tuple[Symbol, list[Symbol]]:
        name = self._step_prefix()
        i2h, h2h = self._convolutions(inputs, states[0], name)
        channels = self._conv_layout.find("C")
        gates = symbol.SliceChannel(i2h + h2h, num_outputs=4, axis=channels, name=f"{name}slice")
        write, keep, read = (
            symbol.Activation(gates[index], act_type="sigmoid", name=f"{name}{'ifco'[index]}") for index in (0, 1, 3)
        )
        value = self._get_activation(gates[2], self._activation, name=f"{name}c")
        next_c = symbol.elemwise_add(keep * states[1], write * value, name=f"{name}state")
        next_h = symbol.elemwise_mul(read, self._get_activation(next_c, self._activation), name=f"{name}out")
        return next_h, [next_h, next_c]


class ConvGRUCell(BaseConvRNNCell):
    """A GRU whose products are convolutions; gates r, z, o, the reset gate acts on the product."""

    def __init__(
        self,
        input_shape: Sequence[int],
        num_hidden: int,
        h2h_kernel: Pair = (3, 3),
        h2h_dilate: Pair = (1, 1),
        i2h_kernel: Pair = (3, 3),
        i2h_stride: Pair = (1, 1),
        i2h_pad: Pair = (1, 1),
        i2h_dilate: Pair = (1, 1),
        i2h_weight_initializer: Any = None,
        h2h_weight_initializer: Any = None,
        i2h_bias_initializer: Any = "zeros",
        h2h_bias_initializer: Any = "zeros",
        activation: Activation = _leaky,
        prefix: str = "ConvGRU_",
        params: RNNParams | None = None,
        conv_layout: str = "NCHW",
    ) -> None:
        super().__init__(
            input_shape, num_hidden, h2h_kernel, h2h_dilate, i2h_kernel, i2h_stride, i2h_pad, i2h_dilate,
            i2h_weight_initializer, h2h_weight_initializer, i2h_bias_initializer, h2h_bias_initializer, activation,
            prefix, params, conv_layout,
        )  # fmt: skip

    @property
    def state_info(self) -> list[Any]:
        return super().state_info[:1]

    @property
    def _gate_names(self) -> Sequence[str]:
        return ("_r", "_z", "_o")

    def __call__(self, inputs: Symbol, states: Sequence[Symbol]) -> tuple[Symbol, list[Symbol]]:
        step, hidden = self._step_prefix(), states[0]
        i2h, h2h = self._convolutions(inputs, hidden, step)
        name = f"{step}_"  # as in the plain cell, most nodes have two underscores in MXNet's graphs
        i2h_r, i2h_z, i2h_o = symbol.SliceChannel(i2h, num_outputs=3, name=f"{name}i2h_slice")
        h2h_r, h2h_z, h2h_o = symbol.SliceChannel(h2h, num_outputs=3, name=f"{name}h2h_slice")
        reset = symbol.Activation(i2h_r + h2h_r, act_type="sigmoid", name=f"{name}r_act")
        update = symbol.Activation(i2h_z + h2h_z, act_type="sigmoid", name=f"{name}z_act")
        candidate = self._get_activation(i2h_o + reset * h2h_o, self._activation, name=f"{name}h_act")
        next_h = symbol.elemwise_add((1.0 - update) * candidate, update * hidden, name=f"{step}out")
        return next_h, [next_h]
