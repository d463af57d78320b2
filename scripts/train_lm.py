#!/usr/bin/env python3
"""Trains a bucketed word language model from a text file: the classic bucketing script, on bucketmod.

    python scripts/train_lm.py --text train.txt --valid valid.txt --buckets 10,20,30,40 --epochs 3 --report report.json

The report (JSON) holds, per epoch, training and validation perplexity; per bucket, the number of training steps and
their median milliseconds; seconds spent compiling, and the cache's hits and misses.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import statistics
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import language_model as lm
import numpy as np

import bucketmod as mx
from bucketmod.precompile import precompile, print_table


class TimedModule(mx.mod.BucketingModule):
    """Notes how long each training step took, bucket by bucket."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.step_ms: dict[Any, list[float]] = defaultdict(list)
        self._started = 0.0

    def forward_backward(self, data_batch: Any) -> None:
        self._started = time.perf_counter()
        super().forward_backward(data_batch)

    def update(self) -> None:
        super().update()
        self.step_ms[self._curr_bucket_key].append((time.perf_counter() - self._started) * 1e3)


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", required=True, help="training text, one sentence or paragraph a line")
    parser.add_argument("--valid", help="validation text; without it the last tenth of --text is held out")
    parser.add_argument("--buckets", default="10,20,30,40,50,60", help="sentence lengths, comma-separated")
    parser.add_argument("--num-hidden", type=int, default=200)
    parser.add_argument("--num-embed", type=int, default=200)
    parser.add_argument("--num-layers", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--optimizer", default="adam", help="sgd or adam")
    parser.add_argument("--lr", type=float, default=0.002)
    parser.add_argument("--momentum", type=float, default=0.0, help="of sgd")
    parser.add_argument("--wd", type=float, default=0.0, help="weight decay")
    parser.add_argument("--dropout", type=float, default=0.0, help="between layers")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--cell", choices=["lstm", "gru", "rnn", "fused"], default="lstm")
    parser.add_argument("--vocabulary", type=int, default=10000, help="most frequent words to keep")
    parser.add_argument("--cache", help="directory of compiled buckets")
    parser.add_argument("--jobs", type=int, default=2, help="buckets compiled at a time")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--checkpoint", help="prefix: save parameters after every epoch")
    parser.add_argument("--report", help="write the JSON report here")
    options = parser.parse_args(argv)
    try:
        options.buckets = sorted({int(b) for b in options.buckets.split(",")})
    except ValueError:
        parser.error(f"--buckets {options.buckets!r}: expected numbers such as 10,20,30")
    if min(options.buckets) < 1:
        parser.error("--buckets: every length must be at least 1")
    return options


def read(path: str) -> list[list[str]]:
    try:
        return lm.read_sentences(Path(path).read_text(encoding="utf-8", errors="replace"))
    except OSError as error:
        sys.exit(f"cannot read {path}: {error.strerror}")


def load_data(options: argparse.Namespace) -> tuple[Any, Any, dict[str, int]]:
    """Iterators for training and validation, and the vocabulary."""
    train = read(options.text)
    if options.valid:
        valid = read(options.valid)
    else:
        order = random.Random(0).sample(range(len(train)), len(train))
        held = set(order[: max(1, len(train) // 10)])
        valid = [s for i, s in enumerate(train) if i in held]
        train = [s for i, s in enumerate(train) if i not in held]
    vocabulary = lm.build_vocabulary(train, options.vocabulary - 2)
    longest = max(options.buckets)
    iterators = []
    for name, sentences in (("training", train), ("validation", valid)):
        coded = lm.split_long(lm.encode(sentences, vocabulary), longest)
        iterator = mx.rnn.BucketSentenceIter(coded, options.batch_size, buckets=list(options.buckets),
                                             invalid_label=lm.PADDING)  # fmt: skip
        if not iterator.idx:
            sys.exit(f"the {name} text fills no batch of {options.batch_size} sentences in any bucket")
        iterators.append(iterator)
    return iterators[0], iterators[1], vocabulary


def compile_all(options: argparse.Namespace, config: lm.Configuration) -> dict[str, Any]:
    """Compiles every bucket before the first step, so that training never stops for one."""
    rows = precompile(lm.make_plan(config, options.buckets), modes=("train", "infer"), jobs=options.jobs,
                      cache=options.cache)  # fmt: skip
    print_table(rows)
    failed = [row for row in rows if row.error]
    if failed:
        sys.exit(1)
    return {
        "compile_seconds": round(sum(row.seconds for row in rows), 3),
        "cache_hits": sum(row.hit for row in rows),
        "cache_misses": sum(not row.hit for row in rows),
    }


def train(options: argparse.Namespace) -> dict[str, Any]:
    if options.cache:
        mx.binding.set_cache(options.cache)
    mx.random.seed(options.seed)
    np.random.seed(options.seed)
    random.seed(options.seed)
    train_iter, valid_iter, vocabulary = load_data(options)
    config = lm.Configuration(
        vocabulary=len(vocabulary), hidden=options.num_hidden, embed=options.num_embed, layers=options.num_layers,
        batch_size=options.batch_size, cell=options.cell, dropout=options.dropout,
    )  # fmt: skip
    report: dict[str, Any] = {"arguments": vars(options), "vocabulary": len(vocabulary), "epochs": []}
    report.update(compile_all(options, config))
    module = TimedModule(lm.make_sym_gen(config), default_bucket_key=train_iter.default_bucket_key, context=mx.cpu())
    module.bind(data_shapes=train_iter.provide_data, label_shapes=train_iter.provide_label)
    module.init_params(mx.init.Xavier(factor_type="in", magnitude=2.34))
    parameters = {"learning_rate": options.lr, "wd": options.wd}
    if options.optimizer == "sgd":
        parameters["momentum"] = options.momentum
    module.init_optimizer(optimizer=options.optimizer, optimizer_params=parameters)
    for epoch in range(options.epochs):
        metric = mx.metric.Perplexity(lm.PADDING)
        started = time.perf_counter()
        module.fit(
            train_iter, eval_metric=metric, num_epoch=epoch + 1, begin_epoch=epoch,
            batch_end_callback=mx.callback.Speedometer(options.batch_size, 50, auto_reset=False),
        )  # fmt: skip
        row = {"epoch": epoch, "train_perplexity": metric.get_global()[1],
               "seconds": round(time.perf_counter() - started, 3)}  # fmt: skip
        row["valid_perplexity"] = dict(module.score(valid_iter, mx.metric.Perplexity(lm.PADDING)))["perplexity"]
        print(f"epoch {epoch}: train perplexity {row['train_perplexity']:.2f}, "
              f"validation perplexity {row['valid_perplexity']:.2f}, {row['seconds']:.1f} s")  # fmt: skip
        report["epochs"].append(row)
        if options.checkpoint:
            arg_params, aux_params = module.get_params()
            mx.model.save_checkpoint(options.checkpoint, epoch + 1, module.symbol, arg_params, aux_params)
    report["buckets"] = {
        str(key): {"steps": len(times), "median_step_ms": round(statistics.median(times), 3)}
        for key, times in sorted(module.step_ms.items())
    }
    return report


def main(argv: list[str] | None = None) -> None:
    options = arguments(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    report = train(options)
    if options.report:
        Path(options.report).write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps({key: report[key] for key in ("compile_seconds", "cache_hits", "cache_misses", "buckets")}))


if __name__ == "__main__":
    main()
