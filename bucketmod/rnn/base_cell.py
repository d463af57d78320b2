"""What all recurrent cells share: named parameters, begin states, stepping and unrolling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from bucketmod import ndarray, symbol
from bucketmod.symbol import Symbol

Arrays = dict[str, Any]  # name -> NDArray
Outputs = Symbol | list[Symbol]


def arrange_steps(
    length: int | None, inputs: Outputs, layout: str, merge: bool | None, in_layout: str | None = None
) -> tuple[Any, int]:
    """Brings a sequence into the form asked for: one Symbol (``merge`` True), a list of steps (False), as it is (None).

    Returns the sequence and the position of T in ``layout``. AssertionError when ``inputs`` is None, a grouped Symbol
    that would have to be split, or a list of another length.
    """
    assert inputs is not None, "unroll needs inputs: a Symbol for the whole sequence or a list with one for each step"
    axis = layout.find("T")
    in_axis = axis if in_layout is None else in_layout.find("T")
    if isinstance(inputs, Symbol):
        if merge is False:
            count = len(inputs.list_outputs())
            assert count == 1, (
                f"unroll splits a Symbol of one output, this one groups {count}: pass list(inputs) if they are steps"
            )
            inputs = list(symbol.split(inputs, axis=in_axis, num_outputs=length, squeeze_axis=1))
    else:
        assert length is None or len(inputs) == length, f"got {len(inputs)} inputs for {length} steps"
        if merge is True:
            inputs = symbol.Concat(*(symbol.expand_dims(step, axis=axis) for step in inputs), dim=axis)
            in_axis = axis
    if isinstance(inputs, Symbol) and axis != in_axis:
        inputs = symbol.swapaxes(inputs, dim1=axis, dim2=in_axis)
    return inputs, axis


class RNNParams:
    """Variables shared by the steps of a cell, or by several cells: each name is created once."""

    def __init__(self, prefix: str = "") -> None:
        self._prefix = prefix
        self._params: dict[str, Symbol] = {}

    def get(self, name: str, **kwargs: Any) -> Symbol:
        """The Variable called prefix + ``name``; ``kwargs`` go to Variable when it does not exist yet."""
        name = self._prefix + name
        if name not in self._params:
            self._params[name] = symbol.Variable(name, **kwargs)
        return self._params[name]


class BaseRNNCell:
    """A cell maps (input of a step, states) to (output, new states).

    ``prefix`` starts the names of its nodes, and of its parameters unless ``params`` brings them along.
    """

    def __init__(self, prefix: str = "", params: RNNParams | None = None) -> None:
        self._own_params = params is None
        self._prefix = prefix
        self._params = RNNParams(prefix) if params is None else params
        self._modified = False
        self.reset()

    def reset(self) -> None:
        """Starts the counters of steps and begin states again, for use in another graph."""
        self._init_counter = -1
        self._counter = -1
        for cell in getattr(self, "_cells", ()):
            cell.reset()

    def __call__(self, inputs: Symbol, states: Sequence[Symbol]) -> tuple[Symbol, list[Symbol]]:
        """One step: ``inputs`` [N, I] and the states that :attr:`state_info` describes."""
        raise NotImplementedError(f"{type(self).__name__} has no single step")

    @property
    def params(self) -> RNNParams:
        """The parameters, which from now on count as shared."""
        self._own_params = False
        return self._params

    @property
    def state_info(self) -> list[Any]:
        """For each state a dict of ``shape`` (batch size 0 = to be inferred) and ``__layout__``."""
        raise NotImplementedError(f"{type(self).__name__} does not describe its states")

    @property
    def state_shape(self) -> list[tuple[int, ...]]:
        """Shapes of the states, the batch size as 0."""
        return [info["shape"] for info in self.state_info]

    @property
    def _gate_names(self) -> Sequence[str]:
        return ()

    def _check_not_modified(self) -> None:
        assert not self._modified, (
            f"this {type(self).__name__} is wrapped by a modifier cell (zoneout, residual): use the wrapper instead"
        )

    def begin_state(self, func: Callable[..., Symbol] = symbol.zeros, **kwargs: Any) -> list[Symbol]:
        """States to start with, made by ``func(name=..., shape=..., __layout__=..., **kwargs)``.

        ``func`` may be ``mx.sym.Variable`` to feed the states as inputs.
        """
        self._check_not_modified()
        states = []
        for info in self.state_info:
            self._init_counter += 1
            kwargs.update(info or {})
            states.append(func(name=f"{self._prefix}begin_state_{self._init_counter}", **kwargs))
        return states

    def unpack_weights(self, args: Arrays) -> Arrays:
        """A copy of ``args`` in which each gate has a matrix and a bias of its own (copies); other entries are kept."""
        args = args.copy()
        size = getattr(self, "_num_hidden", 0)
        for group in ("i2h", "h2h") if self._gate_names else ():
            for kind in ("weight", "bias"):
                packed = args.pop(f"{self._prefix}{group}_{kind}")
                for index, gate in enumerate(self._gate_names):
                    rows = packed[index * size : (index + 1) * size]
                    args[f"{self._prefix}{group}{gate}_{kind}"] = rows.copy()
        return args

    def pack_weights(self, args: Arrays) -> Arrays:
        """The inverse of :meth:`unpack_weights`."""
        args = args.copy()
        for group in ("i2h", "h2h") if self._gate_names else ():
            for kind in ("weight", "bias"):
                parts = [args.pop(f"{self._prefix}{group}{gate}_{kind}") for gate in self._gate_names]
                args[f"{self._prefix}{group}_{kind}"] = ndarray.concatenate(parts)
        return args

    def unroll(
        self,
        length: int,
        inputs: Outputs,
        begin_state: Sequence[Symbol] | None = None,
        layout: str = "NTC",
        merge_outputs: bool | None = None,
    ) -> tuple[Outputs, list[Any]]:
        """Applies the cell to ``length`` steps.

        ``inputs``: one Symbol in ``layout`` (split on T) or a list of steps [N, I]. ``merge_outputs``: True gives one
        Symbol in ``layout``, False a list of steps, None whichever needs no further node.
        Returns (outputs, states after the last step).
        """
        self.reset()
        steps, _ = arrange_steps(length, inputs, layout, False)
        states = self.begin_state() if begin_state is None else begin_state
        outputs = []
        for step in steps[:length]:
            output, states = self(step, states)
            outputs.append(output)
        merged, _ = arrange_steps(length, outputs, layout, merge_outputs)
        return merged, list(states)

    def _get_activation(self, inputs: Symbol, activation: str | Callable[..., Symbol], **kwargs: Any) -> Symbol:
        if isinstance(activation, str):
            return symbol.Activation(inputs, act_type=activation, **kwargs)
        return activation(inputs, **kwargs)
