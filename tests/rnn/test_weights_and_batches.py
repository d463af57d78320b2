"""Names of unpacked weights and batches of sentences: those that MXNet 1.9.1 gave; checkpoints of cells."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

import bucketmod as mx

RECORDED = Path(__file__).parent.parent / "recorded"
sys.path.insert(0, str(RECORDED))
import rnn_cases  # noqa: E402

EXPECTED = json.loads((RECORDED / "rnn.json").read_text())


@pytest.mark.parametrize("name", sorted(EXPECTED["unpacked"]))
def test_weights_are_cut_up_as_in_mxnet(name):
    cell, shapes = rnn_cases.cells(mx.rnn)[name]
    arrays = {key: mx.nd.array(value) for key, value in rnn_cases.numbered(shapes).items()}
    parts = cell.unpack_weights(arrays)
    assert {key: value.asnumpy().tolist() for key, value in parts.items()} == EXPECTED["unpacked"][name]
    packed = cell.pack_weights(parts)
    assert {k: v.asnumpy().tolist() for k, v in packed.items()} == {k: v.asnumpy().tolist() for k, v in arrays.items()}


@pytest.mark.parametrize("name", sorted(EXPECTED["batches"]))
def test_batches_are_those_of_mxnet(name, capsys):
    found = rnn_cases.batches(mx, **rnn_cases.OPTIONS[name])
    assert json.loads(json.dumps(found)) == EXPECTED["batches"][name]
    assert "discarded" in capsys.readouterr().out


def test_the_given_list_of_buckets_is_sorted_and_empty_buckets_vanish(capsys):
    buckets = [8, 2, 4]
    source = mx.rnn.BucketSentenceIter([[1, 2, 3]] * 4 + [[1] * 9], 2, buckets=buckets)
    assert buckets == [2, 4, 8]
    assert source.buckets == [4] and source.default_bucket_key == 4
    assert "discarded 1 sentences" in capsys.readouterr().out
    batch = source.next()
    np.testing.assert_array_equal(batch.data[0].asnumpy(), [[1, 2, 3, -1]] * 2)
    np.testing.assert_array_equal(batch.label[0].asnumpy(), [[2, 3, -1, -1]] * 2)
    source.next()
    with pytest.raises(StopIteration):
        source.next()


def test_sentences_that_fit_no_bucket_are_an_error():
    with pytest.raises(ValueError, match="fits a bucket"):
        mx.rnn.BucketSentenceIter([[1, 2, 3]], 1, buckets=[2])
    with pytest.raises(ValueError, match="layout 'NTC'"):
        mx.rnn.BucketSentenceIter([[1, 2, 3]], 1, layout="NTC")


def test_encoding_with_a_given_vocabulary():
    vocabulary = {"a": 0, "b": 1}
    with pytest.raises(AssertionError, match="'c'"):
        mx.rnn.encode_sentences([["a", "c"]], vocab=dict(vocabulary))
    coded, found = mx.rnn.encode_sentences([["a", "c", "d"], ["b"]], vocab=dict(vocabulary), unknown_token="?")
    assert found == {"a": 0, "b": 1, "?": 2}
    assert coded == [[0, 2, 2], [1]]


def test_new_numbers_skip_the_invalid_label():
    coded, vocabulary = mx.rnn.encode_sentences([["a", "b", "c", "a"]], invalid_label=1)
    assert coded == [[0, 2, 3, 0]]
    assert vocabulary == {"\n": 1, "a": 0, "b": 2, "c": 3}


def test_checkpoints_hold_one_array_for_each_gate(tmp_path):
    cell = mx.rnn.FusedRNNCell(2, mode="gru", prefix="f_")
    outputs, _ = cell.unroll(2, mx.sym.Variable("data"), layout="TNC", merge_outputs=True)
    size = outputs.infer_shape(data=(2, 1, 3))[0][1]
    arguments = {"f_parameters": mx.nd.array(np.arange(size[0], dtype=np.float32))}
    prefix = str(tmp_path / "model")
    callback = mx.rnn.do_rnn_checkpoint(cell, prefix, period=2)
    callback(0, outputs, arguments, {})
    assert not list(tmp_path.iterdir())
    callback(1, outputs, arguments, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model-0002.params", "model-symbol.json"]
    _, stored, _ = mx.model.load_checkpoint(prefix, 2)
    assert "f_l0_i2h_r_weight" in stored and "f_parameters" not in stored
    symbol, loaded, auxiliary = mx.rnn.load_rnn_checkpoint([cell], prefix, 2)
    assert symbol.tojson() == outputs.tojson() and not auxiliary
    np.testing.assert_array_equal(loaded["f_parameters"].asnumpy(), arguments["f_parameters"].asnumpy())
