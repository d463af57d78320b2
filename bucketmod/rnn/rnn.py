"""Checkpoints in which the weights of every gate can be read by name."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

from bucketmod.model import load_checkpoint, save_checkpoint
from bucketmod.rnn.base_cell import Arrays, BaseRNNCell, Outputs
from bucketmod.symbol import Symbol

Cells = BaseRNNCell | Sequence[BaseRNNCell]


def _each(cells: Cells) -> Sequence[BaseRNNCell]:
    return [cells] if isinstance(cells, BaseRNNCell) else cells


def rnn_unroll(
    cell: BaseRNNCell,
    length: int,
    inputs: Outputs | None = None,
    begin_state: Sequence[Symbol] | None = None,
    input_prefix: str = "",
    layout: str = "NTC",
) -> tuple[Outputs, list[Any]]:
    """Deprecated: ``cell.unroll`` does the same. ``input_prefix`` has no effect any more."""
    warnings.warn("rnn_unroll is deprecated: call cell.unroll", DeprecationWarning, stacklevel=2)
    return cell.unroll(length, inputs, begin_state=begin_state, layout=layout)  # type: ignore[arg-type]


def save_rnn_checkpoint(
    cells: Cells, prefix: str, epoch: int, symbol: Symbol, arg_params: Arrays, aux_params: Arrays
) -> None:
    """Unpacks the weights of ``cells``, then writes ``prefix-symbol.json`` and ``prefix-<epoch>.params``."""
    for cell in _each(cells):
        arg_params = cell.unpack_weights(arg_params)
    save_checkpoint(prefix, epoch, symbol, arg_params, aux_params)


def load_rnn_checkpoint(cells: Cells, prefix: str, epoch: int) -> tuple[Symbol, Arrays, Arrays]:
    """Reads what :func:`save_rnn_checkpoint` wrote: (symbol, arguments with packed weights, auxiliary states)."""
    symbol, arg_params, aux_params = load_checkpoint(prefix, epoch)
    for cell in _each(cells):
        arg_params = cell.pack_weights(arg_params)
    return symbol, arg_params, aux_params


def do_rnn_checkpoint(cells: Cells, prefix: str, period: int = 1) -> Callable[..., None]:
    """A callback for the end of an epoch that saves a checkpoint every ``period`` epochs, numbered from 1."""
    period = max(1, int(period))

    def save(epoch: int, sym: Any = None, arg: Any = None, aux: Any = None) -> None:
        if (epoch + 1) % period == 0:
            save_rnn_checkpoint(cells, prefix, epoch + 1, sym, arg, aux)

    return save
