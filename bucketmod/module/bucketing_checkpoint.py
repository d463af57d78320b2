"""The files of a BucketingModule: MXNet's, for integer keys, and whole checkpoints for keys of any kind."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bucketmod import ndarray as nd
from bucketmod.base import MXNetError
from bucketmod.checkpoint import Checkpoint, file_name
from bucketmod.checkpoint.tree import is_key
from bucketmod.model import load_params
from bucketmod.ndarray import NDArray
from bucketmod.symbol import load as load_symbol

Params = dict[str, NDArray]


def save_by_integer_keys(
    module: Any, prefix: str, epoch: int, buckets: Mapping[Any, Any], remove_amp_cast: bool
) -> None:
    """Parameters, the graph of each bucket, and their keys as an int32 array."""
    parameters = f"{prefix}-{epoch:04d}.params"
    module.save_params(parameters)
    for key, bucket in buckets.items():
        bucket.symbol.save(f"{prefix}-{key}-symbol.json", remove_amp_cast=remove_amp_cast)
    nd.save(f"{prefix}.buckets", [nd.array(list(buckets), dtype="int32")])
    logging.info('Saved checkpoint to "%s"', parameters)


def load_by_integer_keys(prefix: str, epoch: int) -> tuple[dict[int, Any], Params, Params]:
    """(graph by key, arguments, auxiliary states); graphs that came as ONNX models are left to ``sym_gen``.

    MXNetError when files are missing or damaged.
    """
    found = nd.load(f"{prefix}.buckets")
    if not isinstance(found, list) or len(found) != 1:
        raise MXNetError(f"{prefix}.buckets is no list of bucket keys")
    files = {int(key): f"{prefix}-{int(key)}-symbol.json" for key in found[0].asnumpy().ravel()}
    symbols = {key: load_symbol(file) for key, file in files.items() if not Path(file).with_suffix(".onnx").exists()}
    return symbols, *load_params(prefix, epoch)


def whole_is_later(prefix: str, epoch: int) -> bool:
    """Whether the checkpoint of the epoch is a whole one: the only one, or the one written last."""
    whole, parameters = Path(file_name(prefix, epoch)), Path(f"{prefix}-{epoch:04d}.params")
    if not whole.exists():
        return False
    return not parameters.exists() or whole.stat().st_mtime_ns >= parameters.stat().st_mtime_ns


def bucket_keys(found: Checkpoint) -> list[Any]:
    """Of the buckets that had been seen. MXNetError for a checkpoint of another kind of module."""
    keys = found.progress.get("buckets") if isinstance(found.progress, dict) else None
    if not isinstance(keys, list) or not all(is_key(key) for key in keys):
        raise MXNetError(f"{found.fname} is no checkpoint of a BucketingModule")
    return keys
