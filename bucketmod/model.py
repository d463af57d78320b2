"""Checkpoints of models: ``prefix-symbol.json`` and ``prefix-%04d.params``, each appearing whole or not at all."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

from bucketmod import ndarray as nd
from bucketmod import symbol as sym
from bucketmod.base import MXNetError
from bucketmod.context import cpu
from bucketmod.ndarray import NDArray


class BatchEndParam(NamedTuple):
    """What callbacks get at the end of a batch: ``locals`` are the variables of the loop that called them."""

    epoch: int
    nbatch: int
    eval_metric: Any
    locals: dict[str, Any] | None


def save_checkpoint(
    prefix: str,
    epoch: int,
    symbol: Any,
    arg_params: Mapping[str, NDArray],
    aux_params: Mapping[str, NDArray],
    remove_amp_cast: bool = True,
) -> None:
    """Writes the symbol (unless None) and the parameters, under the names ``arg:...`` and ``aux:...``.

    Each file is written beside its place and renamed, so a crash leaves the last checkpoint whole.
    """
    if symbol is not None:
        symbol.save(f"{prefix}-symbol.json", remove_amp_cast=remove_amp_cast)
    arrays = {f"arg:{name}": values.as_in_context(cpu()) for name, values in arg_params.items()}
    arrays.update({f"aux:{name}": values.as_in_context(cpu()) for name, values in aux_params.items()})
    fname = f"{prefix}-{epoch:04d}.params"
    nd.save(fname, arrays)
    logging.info('Saved checkpoint to "%s"', fname)


def load_params(prefix: str, epoch: int) -> tuple[dict[str, NDArray], dict[str, NDArray]]:
    """(arguments, auxiliary states) by name from ``prefix-%04d.params``; warns when the file holds none.

    MXNetError when the file cannot be read or holds arrays without ``arg:`` or ``aux:`` names.
    """
    fname = f"{prefix}-{epoch:04d}.params"
    saved = nd.load(fname)
    if not saved:
        logging.warning("Params file '%s' is empty", fname)
        return {}, {}
    if not isinstance(saved, dict):
        raise MXNetError(f"{fname} holds a list of arrays; a checkpoint names them arg:... and aux:...")
    groups: dict[str, dict[str, NDArray]] = {"arg": {}, "aux": {}}
    for key, values in saved.items():
        kind, colon, name = key.partition(":")
        if not colon:
            raise MXNetError(f"{fname} holds an array named {key!r}; a checkpoint names them arg:... and aux:...")
        groups.setdefault(kind, {})[name] = values
    return groups["arg"], groups["aux"]


def load_checkpoint(prefix: str, epoch: int) -> tuple[Any, dict[str, NDArray], dict[str, NDArray]]:
    """(symbol, arguments, auxiliary states) of ``save_checkpoint``. MXNetError when a file is missing or damaged."""
    return (sym.load(f"{prefix}-symbol.json"), *load_params(prefix, epoch))
