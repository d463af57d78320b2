"""Sentences in, batches out: each batch holds sentences of one bucket."""

from __future__ import annotations

import bisect
import random
from collections.abc import Sequence
from typing import Any

import numpy as np

from bucketmod import ndarray
from bucketmod.io import DataBatch, DataDesc, DataIter


def encode_sentences(
    sentences: Sequence[Sequence[str]],
    vocab: dict[str, int] | None = None,
    invalid_label: int = -1,
    invalid_key: str = "\n",
    start_label: int = 0,
    unknown_token: str | None = None,
) -> tuple[list[list[int]], dict[str, int]]:
    """Words to numbers. Returns (coded sentences, vocabulary).

    Without ``vocab`` a new one is made: ``invalid_key`` gets ``invalid_label``, words get numbers from ``start_label``
    on as they appear, without ``invalid_label``. A given ``vocab`` must hold every word (AssertionError), unless
    ``unknown_token`` says what stands for the others; it is added, under a free number, when the vocabulary lacks it.
    """
    given = vocab is not None
    if vocab is None:
        vocab = {invalid_key: invalid_label}
    taken = {invalid_label, *vocab.values()}
    number = start_label
    coded = []
    for sentence in sentences:
        row = []
        for word in sentence:
            if word not in vocab:
                assert not given or unknown_token, f"word {word!r} is not in the vocabulary; give an unknown_token"
                word = unknown_token or word
                if word not in vocab:
                    while number in taken:
                        number += 1
                    vocab[word] = number
                    number += 1
            row.append(vocab[word])
        coded.append(row)
    return coded, vocab


class BucketSentenceIter(DataIter):
    """Batches of coded sentences for a language model; the label of a step is the word after it.

    ``buckets``: lengths; default: those that at least ``batch_size`` sentences have. A given list is sorted in place. A
    sentence goes into the smallest bucket that holds it and is filled up with ``invalid_label``; longer ones are
    dropped, and so are the sentences of a bucket that are short of a full batch. ``layout``: NT, or TN for batches
    [length, batch_size]. Order: ``random`` shuffles the batches, ``numpy.random`` the sentences of a bucket, at the
    start and at every reset. Raises ValueError for another layout or when no sentence fits any bucket.
    """

    def __init__(
        self,
        sentences: Sequence[Sequence[int]],
        batch_size: int,
        buckets: list[int] | None = None,
        invalid_label: int = -1,
        data_name: str = "data",
        label_name: str = "softmax_label",
        dtype: str = "float32",
        layout: str = "NT",
    ) -> None:
        super().__init__()
        if layout not in ("NT", "TN"):
            raise ValueError(f"layout {layout!r}: expected NT (a sentence a row) or TN (a sentence a column)")
        if not buckets:
            counts = np.bincount([len(s) for s in sentences])
            buckets = [length for length, count in enumerate(counts) if count >= batch_size]
        buckets.sort()
        self.batch_size = batch_size
        self.data_name, self.label_name = data_name, label_name
        self.dtype = dtype
        self.invalid_label = invalid_label
        self.layout = layout
        self.major_axis = layout.find("N")
        self._fill(sentences, buckets)
        self.default_bucket_key = max(self.buckets)
        shape = (batch_size, self.default_bucket_key)
        self.provide_data = [self._describe(data_name, shape if self.major_axis == 0 else shape[::-1])]
        self.provide_label = [self._describe(label_name, shape if self.major_axis == 0 else shape[::-1])]
        self.idx = [
            (bucket, first)
            for bucket, rows in enumerate(self.data)
            for first in range(0, len(rows) - batch_size + 1, batch_size)
        ]
        self.reset()

    def _fill(self, sentences: Sequence[Sequence[int]], buckets: list[int]) -> None:
        """Sets ``buckets`` to those that got a sentence and ``data`` to their rows [sentences, length]."""
        rows: list[list[np.ndarray]] = [[] for _ in buckets]
        dropped = 0
        for sentence in sentences:
            bucket = bisect.bisect_left(buckets, len(sentence))
            if bucket == len(buckets):
                dropped += 1
                continue
            row = np.full(buckets[bucket], self.invalid_label, dtype=self.dtype)
            row[: len(sentence)] = sentence
            rows[bucket].append(row)
        print(f"WARNING: discarded {dropped} sentences longer than the largest bucket.")
        self.buckets = [length for length, kept in zip(buckets, rows, strict=True) if kept]
        self.data = [np.asarray(kept, dtype=self.dtype) for kept in rows if kept]
        if not self.buckets:
            raise ValueError(
                f"none of the {len(sentences)} sentences fits a bucket of {buckets}: give buckets that do, "
                f"or a smaller batch_size than {self.batch_size}"
            )

    def _describe(self, name: str, shape: tuple[int, ...]) -> Any:
        return DataDesc(name=name, shape=shape, layout=self.layout)

    def reset(self) -> None:
        """Starts over, in a new order."""
        self.curr_idx = 0
        random.shuffle(self.idx)
        self.nddata: list[Any] = []
        self.ndlabel: list[Any] = []
        for rows in self.data:
            np.random.shuffle(rows)
            label = np.full_like(rows, self.invalid_label)
            label[:, :-1] = rows[:, 1:]
            self.nddata.append(ndarray.array(rows, dtype=self.dtype))
            self.ndlabel.append(ndarray.array(label, dtype=self.dtype))

    def next(self) -> Any:
        """The next DataBatch, whose bucket_key is the length; StopIteration at the end."""
        if self.curr_idx == len(self.idx):
            raise StopIteration
        bucket, first = self.idx[self.curr_idx]
        self.curr_idx += 1
        data = self.nddata[bucket][first : first + self.batch_size]
        label = self.ndlabel[bucket][first : first + self.batch_size]
        if self.major_axis == 1:
            data, label = data.T, label.T
        return DataBatch(
            [data],
            [label],
            pad=0,
            bucket_key=self.buckets[bucket],
            provide_data=[self._describe(self.data_name, data.shape)],
            provide_label=[self._describe(self.label_name, label.shape)],
        )
