"""Batches of images from idx files, the format of the MNIST digits."""

from __future__ import annotations

import os
import struct
from typing import Any

import numpy as np

from bucketmod.base import MXNetError
from bucketmod.io.file_iter import FileIter, arguments, described, whole_number

_IMAGES, _LABELS = 2051, 2049  # unsigned bytes on three axes, on one
_DEFAULTS = {
    "image": "./train-images-idx3-ubyte", "label": "./train-labels-idx1-ubyte", "batch_size": 128, "shuffle": True,
    "flat": False, "seed": 0, "silent": False, "num_parts": 1, "part_index": 0, "dtype": None, "data_name": "data",
    "label_name": "softmax_label",
}  # fmt: skip


def _read_idx(fname: str, magic: int) -> np.ndarray:
    """The bytes of an idx file, in its shape. MXNetError when it is missing, cut short or of another kind."""
    axes = magic % 256
    try:
        with open(fname, "rb") as stream:
            head = stream.read(4 + 4 * axes)
            left = os.fstat(stream.fileno()).st_size - len(head)
            found, *shape = struct.unpack(f">{1 + axes}I", head) if len(head) == 4 + 4 * axes else (0,)
            size = int(np.prod(shape, dtype=object)) if shape else 0
            if found != magic or size > left:
                raise MXNetError(f"MNISTIter: {fname} is no idx file with {axes} axes of bytes, or was cut short")
            return np.frombuffer(stream.read(size), np.uint8).reshape(shape)
    except OSError as error:
        raise MXNetError(f"MNISTIter cannot read {fname}: {error.strerror or error}") from error


class MNISTIter(FileIter):
    """Images [batch, 1, rows, columns] with values from 0 to 255/256, and their labels [batch], as float32.

    Keyword arguments only. ``image``, ``label``: idx files, not compressed. ``flat``: images as
    [batch, rows * columns]. ``shuffle``: an order drawn from ``seed`` once, the same in every epoch (not MXNet's).
    Rows short of a full batch are dropped. ``num_parts``, ``part_index``: only that part of the rows. MXNetError for
    files that are missing or damaged, for fewer labels than images, and for a ``dtype`` other than float32.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        given = arguments("MNISTIter", args, kwargs, _DEFAULTS)
        if given["dtype"] not in (None, "None", "float32"):
            raise MXNetError(f"{given['dtype']} is not supported for MNISTIter: expected float32")
        images, labels = _read_idx(given["image"], _IMAGES), _read_idx(given["label"], _LABELS)
        if len(images) != len(labels):
            raise MXNetError(f"MNISTIter: {len(images)} images in {given['image']}, {len(labels)} labels")
        parts, part = whole_number("MNISTIter", "num_parts", given["num_parts"]), int(given["part_index"])
        if not 0 <= part < parts:
            raise MXNetError(f"MNISTIter: part_index={part} of num_parts={parts}")
        step = len(images) // parts
        rows = slice(part * step, (part + 1) * step if part + 1 < parts else len(images))
        self._images, self._labels = images[rows], labels[rows]
        batch_size = whole_number("MNISTIter", "batch_size", given["batch_size"])
        if batch_size > len(self._images):
            raise MXNetError(f"MNISTIter: {len(self._images)} images are fewer than a batch of {batch_size}")
        if given["shuffle"]:
            order = np.random.RandomState(int(given["seed"])).permutation(len(self._images))
            self._images, self._labels = self._images[order], self._labels[order]
        self._shape = (images.shape[1] * images.shape[2],) if given["flat"] else (1, *images.shape[1:])
        super().__init__(
            batch_size,
            described(given["data_name"], batch_size, self._shape, np.float32),
            described(given["label_name"], batch_size, (), np.float32),
        )
        self.cursor = 0

    def reset(self) -> None:
        """Back to the first batch."""
        self.cursor = 0

    def _read(self) -> tuple[np.ndarray, np.ndarray, int, np.ndarray] | None:
        size, begin = self.batch_size, self.cursor
        if begin + size > len(self._images):
            return None
        self.cursor += size
        images = self._images[begin : begin + size].astype(np.float32) * np.float32(1 / 256)
        labels = self._labels[begin : begin + size].astype(np.float32)
        return images.reshape(size, *self._shape), labels, 0, np.zeros(size, np.uint64)
