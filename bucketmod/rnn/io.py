"""Sentences in, batches out: each batch holds sentences of one bucket."""

from __future__ import annotations

import bisect
import operator
import random
from collections.abc import Sequence
from typing import Any

import numpy as np

from bucketmod import ndarray
from bucketmod.base import MXNetError
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

    ``tokens``: batches sized by tokens instead: a bucket of length n has batches of tokens // n sentences (at least 1,
    at most all of its sentences), so that all batches take about the same time and memory. ``batch_size`` is then None,
    and the attribute is that of the default bucket; ``batch_sizes`` has those of all. A BucketingModule binds each
    bucket to its own batch size once. ``rescale_grad`` is one for all: for a mean over the tokens of each batch give
    the loss ``normalization="valid"``.
    """

    def __init__(
        self,
        sentences: Sequence[Sequence[int]],
        batch_size: int | None = None,
        buckets: list[int] | None = None,
        invalid_label: int = -1,
        data_name: str = "data",
        label_name: str = "softmax_label",
        dtype: str = "float32",
        layout: str = "NT",
        tokens: int | None = None,
    ) -> None:
        super().__init__()
        if (batch_size is None) == (tokens is None) or (batch_size if tokens is None else tokens) < 1:  # type: ignore[operator]
            raise ValueError(f"batch_size={batch_size}, tokens={tokens}: expected one of them, 1 or more")
        if layout not in ("NT", "TN"):
            raise ValueError(f"layout {layout!r}: expected NT (a sentence a row) or TN (a sentence a column)")
        if not buckets:
            counts = np.bincount([len(s) for s in sentences])
            least = [batch_size or max(1, tokens // max(1, length)) for length in range(len(counts))]  # type: ignore[operator]
            buckets = [length for length, count in enumerate(counts) if count >= least[length]]
        buckets.sort()
        self.data_name, self.label_name = data_name, label_name
        self.dtype = dtype
        self.invalid_label = invalid_label
        self.layout = layout
        self.major_axis = layout.find("N")
        self._fill(sentences, buckets)
        self._order = [np.arange(len(rows)) for rows in self.data]
        self.batch_sizes = {
            length: batch_size or max(1, min(tokens // max(1, length), len(rows)))  # type: ignore[operator]
            for length, rows in zip(self.buckets, self.data, strict=True)
        }
        self.default_bucket_key = max(self.buckets)
        self.batch_size = self.batch_sizes[self.default_bucket_key]
        shape = (self.batch_size, self.default_bucket_key)
        self.provide_data = [self._describe(data_name, shape if self.major_axis == 0 else shape[::-1])]
        self.provide_label = [self._describe(label_name, shape if self.major_axis == 0 else shape[::-1])]
        self.idx = [
            (bucket, first)
            for bucket, (size, rows) in enumerate(zip(self.batch_sizes.values(), self.data, strict=True))
            for first in range(0, len(rows) - size + 1, size)
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
                "or a smaller batch_size or tokens"
            )

    def _describe(self, name: str, shape: tuple[int, ...]) -> Any:
        return DataDesc(name=name, shape=shape, layout=self.layout)

    def reset(self) -> None:
        """Starts over, in a new order."""
        self.curr_idx = 0
        random.shuffle(self.idx)
        for bucket, rows in enumerate(self.data):
            order = np.arange(len(rows))
            np.random.shuffle(order)
            self._reorder(bucket, order)
        self._make_arrays()

    def _reorder(self, bucket: int, rows: np.ndarray) -> None:
        self.data[bucket][:] = self.data[bucket][rows]
        self._order[bucket] = self._order[bucket][rows]

    def _make_arrays(self) -> None:
        self.nddata: list[Any] = []
        self.ndlabel: list[Any] = []
        for rows in self.data:
            label = np.full_like(rows, self.invalid_label)
            label[:, :-1] = rows[:, 1:]
            self.nddata.append(ndarray.array(rows, dtype=self.dtype))
            self.ndlabel.append(ndarray.array(label, dtype=self.dtype))

    def get_state(self) -> dict[str, Any]:
        """The order of batches and sentences, and the place in it: what ``set_state`` takes."""
        batches = np.array(self.idx, np.int64).reshape(-1, 2)
        return {"place": self.curr_idx, "batches": batches, "sentences": [order.copy() for order in self._order]}

    def set_state(self, state: Any) -> None:
        """Goes on from ``get_state``, given the same sentences and sizes. MXNetError for anything else."""
        try:
            place, batches, sentences = (state[name] for name in ("place", "batches", "sentences"))
            batches = [(int(bucket), int(first)) for bucket, first in batches]
            if sorted(batches) != sorted(self.idx) or [len(each) for each in sentences] != [len(r) for r in self.data]:
                raise ValueError("it is of other sentences or sizes of batches")
            if any((np.sort(each) != np.arange(len(each))).any() for each in sentences):
                raise ValueError("it is no order of the sentences")
            self.curr_idx = operator.index(place)
        except (LookupError, TypeError, ValueError) as error:
            raise MXNetError(f"no state of this BucketSentenceIter: {error}") from None
        self.idx = batches
        for bucket, order in enumerate(sentences):
            self._reorder(bucket, np.argsort(self._order[bucket])[order])
        self._make_arrays()

    def next(self) -> Any:
        """The next DataBatch, whose bucket_key is the length; StopIteration at the end."""
        if self.curr_idx == len(self.idx):
            raise StopIteration
        bucket, first = self.idx[self.curr_idx]
        self.curr_idx += 1
        rows = slice(first, first + self.batch_sizes[self.buckets[bucket]])
        data, label = self.nddata[bucket][rows], self.ndlabel[bucket][rows]
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
