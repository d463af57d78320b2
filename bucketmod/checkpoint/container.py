"""The file of a checkpoint: arrays, a description of what they are, and a checksum over both.

    magic     b"bucketmod-checkpoint-1" and a line feed
    arrays    as ``mx.nd.save`` writes a list of them
    content   JSON, UTF-8
    lengths   of arrays and content (u64 each, little endian)
    checksum  SHA-256 of all before it

A file is written beside its place and renamed when all of it is on the disk. Reading checks lengths and checksum before
it looks inside, so a file that was cut, or in which a bit has changed, is never used.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Sequence
from typing import Any, BinaryIO

from bucketmod.atomic_file import replacing
from bucketmod.base import MXNetError
from bucketmod.ndarray import NDArray
from bucketmod.ndarray.serialization import read_list, write_list

MAGIC = b"bucketmod-checkpoint-1\n"
_LENGTHS = struct.Struct("<QQ")
_CHECKSUM_BYTES = hashlib.sha256().digest_size
_BLOCK = 1 << 20


class _Hashing:
    """A stream that hashes what goes through it. ``written``: bytes so far."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream
        self.hash = hashlib.sha256()
        self.written = 0

    def write(self, data: Any) -> int:
        self.hash.update(data)
        self.stream.write(data)
        self.written += memoryview(data).nbytes
        return memoryview(data).nbytes


def write(fname: str, content: Any, arrays: Sequence[NDArray]) -> None:
    """Writes a file that appears whole or not at all. ``content``: whatever JSON can hold.

    MXNetError when the file system refuses.
    """
    encoded = json.dumps(content, separators=(",", ":")).encode()
    try:
        with replacing(fname) as stream:
            out = _Hashing(stream)
            out.write(MAGIC)
            write_list(out, arrays)
            lengths = _LENGTHS.pack(out.written - len(MAGIC), len(encoded))
            out.write(encoded)
            out.write(lengths)
            stream.write(out.hash.digest())
    except OSError as error:
        raise MXNetError(f"cannot write checkpoint {fname}: {error.strerror or error}") from error


def read(fname: str) -> tuple[Any, list[NDArray]]:
    """(content, arrays) of a file. MXNetError when it is missing, damaged, or no checkpoint."""
    try:
        with open(fname, "rb") as stream:
            arrays_bytes, content_bytes = _check(stream, os.fstat(stream.fileno()).st_size, fname)
            stream.seek(len(MAGIC))
            arrays = read_list(stream, arrays_bytes, fname)
            stream.seek(len(MAGIC) + arrays_bytes)
            encoded = stream.read(content_bytes)
    except OSError as error:
        raise MXNetError(f"cannot read checkpoint {fname}: {error.strerror or error}") from error
    try:
        return json.loads(encoded), arrays
    except (ValueError, RecursionError) as error:
        raise MXNetError(f"{fname}: the description of the checkpoint is no JSON ({error})") from None


def _check(stream: BinaryIO, size: int, fname: str) -> tuple[int, int]:
    """Lengths of arrays and content, once the whole file is known to be as it was written."""
    tail = _LENGTHS.size + _CHECKSUM_BYTES
    if stream.read(len(MAGIC)) != MAGIC or size < len(MAGIC) + tail:
        raise MXNetError(f"{fname} is no checkpoint of this package, or was cut short")
    stream.seek(size - tail)
    lengths = _LENGTHS.unpack(stream.read(_LENGTHS.size))
    if len(MAGIC) + sum(lengths) + tail != size:
        raise MXNetError(f"{fname} is damaged: it has {size} bytes, its parts {lengths}")
    stream.seek(0)
    found, left = hashlib.sha256(), size - _CHECKSUM_BYTES
    while left:
        block = stream.read(min(left, _BLOCK))
        if not block:
            raise MXNetError(f"{fname} was cut short while it was read")
        found.update(block)
        left -= len(block)
    if found.digest() != stream.read(_CHECKSUM_BYTES):
        raise MXNetError(f"{fname} is damaged: its checksum does not fit its contents")
    return lengths
