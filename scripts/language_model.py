"""The bucketed word language model that the scripts share: text, symbol, plan, evaluation.

``train_lm.py`` trains it, ``demo.py`` shows it, ``precompile_buckets.py scripts/language_model.py:plan`` compiles it.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import bucketmod as mx
from bucketmod.precompile import Plan

PADDING = 0
UNKNOWN = "<unk>"
WORD = re.compile(r"[A-Za-z0-9]+(?:['-][A-Za-z0-9]+)*|[^\sA-Za-z0-9]")


@dataclass(frozen=True)
class Configuration:
    """Sizes of the model. ``cell``: lstm, gru, rnn (unrolled cells) or fused (one LSTM operator for all layers)."""

    vocabulary: int
    hidden: int = 200
    embed: int = 200
    layers: int = 2
    batch_size: int = 32
    cell: str = "lstm"
    dropout: float = 0.0


def read_sentences(text: str) -> list[list[str]]:
    """One sentence a line, split into words and punctuation; empty lines are left out."""
    lines = (WORD.findall(line.lower()) for line in text.splitlines())
    return [words for words in lines if words]


def build_vocabulary(sentences: Iterable[Sequence[str]], limit: int) -> dict[str, int]:
    """The ``limit`` most frequent words, numbered from 2; 0 is padding, 1 stands for every other word."""
    counts = Counter(word for sentence in sentences for word in sentence)
    words = sorted(counts, key=lambda word: (-counts[word], word))[:limit]
    return {"<pad>": PADDING, UNKNOWN: 1, **{word: index for index, word in enumerate(words, 2)}}


def encode(sentences: Iterable[Sequence[str]], vocabulary: dict[str, int]) -> list[list[int]]:
    unknown = vocabulary[UNKNOWN]
    return [[vocabulary.get(word, unknown) for word in sentence] for sentence in sentences]


def split_long(sentences: Iterable[list[int]], longest: int) -> list[list[int]]:
    """Cuts what no bucket holds into pieces that the largest one does: long paragraphs are not thrown away."""
    return [s[i : i + longest] for s in sentences for i in range(0, len(s), longest) if len(s[i : i + longest]) > 1]


def make_cell(config: Configuration) -> Any:
    if config.cell == "fused":
        return mx.rnn.FusedRNNCell(config.hidden, num_layers=config.layers, mode="lstm", prefix="lstm_",
                                   dropout=config.dropout)  # fmt: skip
    kinds = {"lstm": mx.rnn.LSTMCell, "gru": mx.rnn.GRUCell, "rnn": mx.rnn.RNNCell}
    stack = mx.rnn.SequentialRNNCell()
    for layer in range(config.layers):
        stack.add(kinds[config.cell](num_hidden=config.hidden, prefix=f"{config.cell}_l{layer}_"))
        if config.dropout > 0 and layer + 1 < config.layers:
            stack.add(mx.rnn.DropoutCell(config.dropout, prefix=f"{config.cell}_d{layer}_"))
    return stack


def make_sym_gen(config: Configuration) -> Callable[[int], tuple[Any, tuple[str], tuple[str]]]:
    """``sym_gen(length)`` of the classic script: embedding, recurrent layers, one softmax over all words."""
    cell = make_cell(config)

    def sym_gen(length: int) -> tuple[Any, tuple[str], tuple[str]]:
        data = mx.sym.Variable("data")
        label = mx.sym.Variable("softmax_label")
        embed = mx.sym.Embedding(data=data, input_dim=config.vocabulary, output_dim=config.embed, name="embed")
        cell.reset()
        outputs, _ = cell.unroll(length, inputs=embed, merge_outputs=True, layout="NTC")
        flat = mx.sym.Reshape(outputs, shape=(-1, config.hidden))
        scores = mx.sym.FullyConnected(data=flat, num_hidden=config.vocabulary, name="pred")
        target = mx.sym.Reshape(label, shape=(-1,))
        return mx.sym.SoftmaxOutput(data=scores, label=target, name="softmax", use_ignore=True,
                                    ignore_label=PADDING), ("data",), ("softmax_label",)  # fmt: skip

    return sym_gen


def make_plan(config: Configuration, buckets: Sequence[int]) -> Plan:
    """What ``precompile`` needs: the graph of each bucket and the shapes it is fed with."""

    def shapes(length: int) -> tuple[list[Any], list[Any]]:
        shape = (config.batch_size, length)
        return [mx.io.DataDesc("data", shape)], [mx.io.DataDesc("softmax_label", shape)]

    return Plan(make_sym_gen(config), tuple(buckets), shapes, name=f"{config.cell} language model")


def plan() -> Plan:
    """For the command line; sizes come from the environment (LM_VOCABULARY, LM_HIDDEN, LM_EMBED, LM_LAYERS, LM_BATCH,
    LM_CELL), with W1 of the benchmark as the default."""

    def number(name: str, default: int) -> int:
        return int(os.environ.get(name, default))

    config = Configuration(
        vocabulary=number("LM_VOCABULARY", 10000), hidden=number("LM_HIDDEN", 200), embed=number("LM_EMBED", 200),
        layers=number("LM_LAYERS", 2), batch_size=number("LM_BATCH", 32), cell=os.environ.get("LM_CELL", "lstm"),
    )  # fmt: skip
    return make_plan(config, (10, 20, 30, 40, 50, 60))
