#!/usr/bin/env python3
"""The main job, start to finish, on text that every Python carries (``pydoc_data.topics``).

Text -> sentences -> buckets -> precompiled artifacts -> a two-layer LSTM language model is trained -> it writes a few
sentences -> a fresh process loads the checkpoint and the same artifacts, and finds the same validation perplexity.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import language_model as lm
import numpy as np
from tqdm import tqdm

import bucketmod as mx
from bucketmod.precompile import precompile, print_table

BUCKETS = (6, 10, 14, 20, 28)
VOCABULARY = 3000
EPOCHS = 4
BATCH = 32
CONFIG = dict(hidden=128, embed=128, layers=2, batch_size=BATCH, cell="lstm")


def topic_sentences() -> list[list[str]]:
    """Python's own reference manual: prose only, one sentence each."""
    from pydoc_data.topics import topics

    sentences = []
    for name in sorted(topics):
        for paragraph in re.split(r"\n\s*\n", topics[name]):
            if paragraph.startswith((" " * 6, ">>>", "..", "*")) or "::=" in paragraph:
                continue
            text = re.sub(r"[\"*`_~|\\^]+", "", " ".join(paragraph.split()))
            sentences += lm.read_sentences("\n".join(re.split(r"(?<=[.!?])\s+(?=[A-Z])", text)))
    return [words for words in sentences if len(words) >= 4]


def load_text() -> tuple[Any, list[list[int]], dict[str, int]]:
    """Training batches, validation sentences and the vocabulary; the same in every process."""
    random.seed(7)
    np.random.seed(7)
    sentences = topic_sentences()
    random.shuffle(sentences)
    held = len(sentences) // 10
    vocabulary = lm.build_vocabulary(sentences[held:], VOCABULARY - 2)
    train, valid = (
        lm.split_long(lm.encode(part, vocabulary), max(BUCKETS)) for part in (sentences[held:], sentences[:held])
    )
    return make_batches(train), valid, vocabulary


def make_batches(sentences: list[list[int]]) -> Any:
    return mx.rnn.BucketSentenceIter(sentences, BATCH, buckets=list(BUCKETS), invalid_label=lm.PADDING)


def make_module(vocabulary: dict[str, int], batches: Any) -> Any:
    config = lm.Configuration(vocabulary=len(vocabulary), **CONFIG)
    module = mx.mod.BucketingModule(lm.make_sym_gen(config), default_bucket_key=batches.default_bucket_key)
    module.bind(data_shapes=batches.provide_data, label_shapes=batches.provide_label)
    return module


def perplexity(module: Any, sentences: list[list[int]]) -> float:
    """Over the same batches each time: an iterator shuffles, and leaves out what fills no batch."""
    random.seed(5)
    np.random.seed(5)
    return dict(module.score(make_batches(sentences), mx.metric.Perplexity(lm.PADDING)))["perplexity"]


def train(module: Any, batches: Any) -> None:
    """Some epochs of Adam with a live line: loss (nats a word) and perplexity so far."""
    module.init_optimizer(optimizer="adam", optimizer_params={"learning_rate": 0.004})
    for epoch in range(EPOCHS):
        metric = mx.metric.Perplexity(lm.PADDING)
        batches.reset()
        often = 0.1 if sys.stderr.isatty() else 30  # a log file wants few lines
        with tqdm(batches, total=len(batches.idx), desc=f"epoch {epoch + 1}/{EPOCHS}", unit="batch",
                  mininterval=often) as bar:  # fmt: skip
            for batch in bar:
                module.forward_backward(batch)
                module.update()
                module.update_metric(metric, batch.label)
                value = metric.get()[1]
                bar.set_postfix(loss=f"{np.log(value):.3f}", perplexity=f"{value:.1f}", refresh=False)


def write_sentences(module: Any, vocabulary: dict[str, int], starts: list[str]) -> list[str]:
    """Continues each beginning word by word, sampling from the model; all of them in one batch."""
    words = {index: word for word, index in vocabulary.items()}
    generator = np.random.default_rng(3)
    length = BUCKETS[2]
    rows = [lm.encode([start.split()], vocabulary)[0] for start in starts]
    while len(rows[0]) < length:
        data = np.zeros((BATCH, length), np.float32)
        for i, row in enumerate(rows):
            data[i, : len(row)] = row
        shape = data.shape
        batch = mx.io.DataBatch(
            data=[mx.nd.array(data)], label=[mx.nd.zeros(shape)], bucket_key=length,
            provide_data=[mx.io.DataDesc("data", shape)], provide_label=[mx.io.DataDesc("softmax_label", shape)],
        )  # fmt: skip
        module.forward(batch, is_train=False)
        scores = module.get_outputs()[0].asnumpy().reshape(BATCH, length, -1)
        for i, row in enumerate(rows):
            chances = scores[i, len(row) - 1].astype(np.float64) ** 1.3
            chances[:2] = 0  # neither padding nor unknown words
            row.append(int(generator.choice(len(chances), p=chances / chances.sum())))
    return [" ".join(words[i] for i in row) for row in rows]


def resume(prefix: str) -> None:
    """Run in a fresh process: checkpoint and cached artifacts only."""
    train_batches, valid, vocabulary = load_text()
    _, arg_params, aux_params = mx.model.load_checkpoint(prefix, EPOCHS)
    module = make_module(vocabulary, train_batches)
    module.set_params(arg_params, aux_params)
    value = perplexity(module, valid)
    compilers = [name for name in ("onnx", "onnxruntime", "tvm.relax") if name in sys.modules]
    print(json.dumps({"perplexity": value, "compiled": mx.binding.compiled_count(), "imported": compilers}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--resume", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.resume:
        resume(options.resume)
        return
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    started = time.perf_counter()
    mx.random.seed(1)
    train_batches, valid, vocabulary = load_text()
    print(f"{len(train_batches.idx)} training batches of {BATCH} sentences, {len(valid)} sentences for validation, "
          f"buckets {', '.join(map(str, BUCKETS))}, {len(vocabulary)} words")  # fmt: skip
    config = lm.Configuration(vocabulary=len(vocabulary), **CONFIG)
    rows = precompile(lm.make_plan(config, BUCKETS), jobs=2, show_progress=True)
    print_table(rows)
    if any(row.error for row in rows):
        sys.exit(1)
    module = make_module(vocabulary, train_batches)
    module.init_params(mx.init.Xavier(factor_type="in", magnitude=2.34))
    before = perplexity(module, valid)
    train(module, train_batches)
    after = perplexity(module, valid)
    print(f"validation perplexity: {before:.1f} before, {after:.1f} after {EPOCHS} epochs")
    for sentence in write_sentences(module, vocabulary, ["the", "if the", "a class", "an exception", "functions"]):
        print(f"  {sentence}")
    with tempfile.TemporaryDirectory(prefix="bucketmod-demo-") as folder:
        prefix = str(Path(folder, "demo"))
        mx.model.save_checkpoint(prefix, EPOCHS, module.symbol, *module.get_params())
        answer = subprocess.run([sys.executable, __file__, "--resume", prefix], check=True, capture_output=True,
                                text=True).stdout  # fmt: skip
    fresh = json.loads(answer.splitlines()[-1])
    print(f"a fresh process with the checkpoint and the cached artifacts: {fresh['perplexity']:.1f}, "
          f"{fresh['compiled']} artifacts compiled")  # fmt: skip
    same = abs(fresh["perplexity"] - after) <= 1e-5 * after
    compiled = sum(not row.hit for row in rows)
    print(f"demo {'passed' if same and after < before else 'FAILED'} in {time.perf_counter() - started:.0f} s: "
          f"{compiled} artifacts compiled, {sum(row.hit for row in rows)} from the cache")  # fmt: skip
    sys.exit(not (same and after < before))


if __name__ == "__main__":
    main()
