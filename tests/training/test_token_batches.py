"""Batches sized by tokens: every bucket has a batch size of its own, bound once and then switched to for nothing."""

from __future__ import annotations

import random

import numpy as np
import pytest

import bucketmod as mx

VOCABULARY, TOKENS = 11, 24


def sentences():
    rng = np.random.default_rng(0)
    lengths = [2] * 30 + [4] * 20 + [8] * 10 + [5] * 3 + [9]
    return [rng.integers(0, VOCABULARY, length).tolist() for length in lengths]


def iterator(**options):
    random.seed(0)
    np.random.seed(0)
    return mx.rnn.BucketSentenceIter(sentences(), buckets=[2, 4, 8], tokens=TOKENS, invalid_label=-1, **options)


def test_every_batch_has_about_as_many_tokens(capsys):
    data = iterator()
    assert data.batch_sizes == {2: 12, 4: 6, 8: 3} and data.batch_size == 3
    assert data.provide_data[0].shape == data.provide_label[0].shape == (3, 8)
    seen = {2: 0, 4: 0, 8: 0}
    for batch in data:
        rows = data.batch_sizes[batch.bucket_key]
        assert batch.data[0].shape == batch.provide_data[0].shape == (rows, batch.bucket_key)
        assert batch.provide_label[0].shape == (rows, batch.bucket_key)
        seen[batch.bucket_key] += rows
    assert seen == {2: 24, 4: 18, 8: 12}  # of 30, 20 and 13: what fills batches
    transposed = next(iterator(layout="TN"))
    assert transposed.data[0].shape == (transposed.bucket_key, data.batch_sizes[transposed.bucket_key])


def test_a_bucket_with_few_sentences_is_one_batch_and_long_sentences_come_one_by_one():
    data = mx.rnn.BucketSentenceIter([[1] * 2] * 5 + [[1] * 30] * 2, buckets=[2, 30], tokens=TOKENS)
    assert data.batch_sizes == {2: 5, 30: 1}
    assert sorted(batch.data[0].shape for batch in data) == [(1, 30), (1, 30), (5, 2)]


def test_buckets_are_the_lengths_that_fill_a_batch():
    data = mx.rnn.BucketSentenceIter(sentences(), tokens=TOKENS)
    assert data.buckets == [2, 4, 8]  # three sentences of 5 words do not fill a batch of 4


@pytest.mark.parametrize("wrong", [{}, {"batch_size": 3, "tokens": 24}, {"tokens": 0}, {"batch_size": 0}])
def test_one_of_batch_size_and_tokens_is_needed(wrong):
    with pytest.raises(ValueError, match="expected one of them"):
        mx.rnn.BucketSentenceIter(sentences(), buckets=[9], **wrong)


def sym_gen(length):
    words, label = mx.sym.Variable("data"), mx.sym.Variable("softmax_label")
    embedded = mx.sym.Embedding(words, input_dim=VOCABULARY, output_dim=VOCABULARY, name="embed")
    scores = mx.sym.Reshape(embedded, shape=(-1, VOCABULARY))
    return mx.sym.SoftmaxOutput(scores, mx.sym.Reshape(label, shape=(-1,)), name="softmax", use_ignore=True,
                                ignore_label=-1, normalization="valid"), ("data",), ("softmax_label",)  # fmt: skip


def expected_step(table, words, label, rate):
    """One step of gradient descent on the mean cross entropy of the labels that count."""
    words, label = words.ravel().astype(int), label.ravel().astype(int)
    scores = table[words]
    probabilities = np.exp(scores - scores.max(1, keepdims=True))
    probabilities /= probabilities.sum(1, keepdims=True)
    probabilities[np.arange(len(label)), np.maximum(label, 0)] -= 1
    probabilities[label == -1] = 0
    gradient = np.zeros_like(table)
    np.add.at(gradient, words, probabilities / (label != -1).sum())
    return table - rate * gradient


def test_training_binds_every_bucket_once_to_its_own_batch_size():
    data = iterator()
    module = mx.mod.BucketingModule(sym_gen, default_bucket_key=data.default_bucket_key)
    module.bind(data.provide_data, data.provide_label)
    table = np.random.default_rng(1).standard_normal((VOCABULARY, VOCABULARY)).astype("f4")
    module.init_params(arg_params={"embed_weight": mx.nd.array(table)})
    module.init_optimizer(optimizer_params={"learning_rate": 0.5, "rescale_grad": 1.0})

    def epoch(table):
        for batch in data:
            module.prepare(batch)
            module.forward_backward(batch)
            module.update()
            assert module.get_outputs()[0].shape == (batch.data[0].size, VOCABULARY)
            table = expected_step(table, batch.data[0].asnumpy(), batch.label[0].asnumpy(), 0.5)
            np.testing.assert_allclose(module.get_params()[0]["embed_weight"].asnumpy(), table, rtol=1e-4, atol=1e-5)
        data.reset()
        return table

    def bound():
        parts = module._buckets.values()
        return {id(executor) for part in parts for executor in part._exec_group.execs[0]._executors.values()}

    table = epoch(table)
    executors, compiled, cache = bound(), mx.binding.compiled_count(), mx.binding.get_cache()
    looked_up = cache.counts.hits + cache.counts.misses
    workspace = module._curr_module._exec_group.memory.contexts[0].workspace.nbytes
    assert len(executors) == 3
    epoch(table)
    assert bound() == executors and mx.binding.compiled_count() == compiled
    assert cache.counts.hits + cache.counts.misses == looked_up
    assert module._curr_module._exec_group.memory.contexts[0].workspace.nbytes == workspace


def test_one_bucket_with_two_batch_sizes_is_bound_once_for_each():
    module = mx.mod.BucketingModule(sym_gen, default_bucket_key=4)
    module.bind([("data", (6, 4))], [("softmax_label", (6, 4))])
    module.init_params(mx.init.Zero())

    def step(rows):
        words = np.ones((rows, 4))
        shapes = [("data", words.shape)], [("softmax_label", words.shape)]
        module.forward_backward(mx.io.DataBatch([mx.nd.array(words)], [mx.nd.array(words)], bucket_key=4,
                                                provide_data=shapes[0], provide_label=shapes[1]))  # fmt: skip
        assert module.get_outputs()[0].shape == (rows * 4, VOCABULARY)
        return module._curr_module._exec_group.execs[0]

    first, second = step(6), step(3)
    assert first is not second
    compiled = mx.binding.compiled_count()
    assert [step(rows) for rows in (6, 3, 6)] == [first, second, first]
    assert mx.binding.compiled_count() == compiled
