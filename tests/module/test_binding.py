"""Requests are named by what decides the compiled bytes; artifacts come from the cache or are compiled once."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import textwrap

import pytest
from small_models import FEATURES, batch, bucket_batch, classifier, linear, make_bucketing, make_module

import bucketmod as mx
from bucketmod import binding
from bucketmod.compiler.target import parse_target

DATA, LABEL = [("data", (4, 5))], [("softmax_label", (4,))]


def bucket(symbol=None, data=DATA, label=LABEL, **options):
    return binding.make_bucket(classifier() if symbol is None else symbol, data, label, **options)


def digest(of=None, is_train=True, wrt=("fc_weight",), target="cpu"):
    return (of or bucket()).request(is_train, wrt, target).request_digest


@pytest.fixture
def cache(tmp_path):
    """An empty cache, as long as the test runs."""
    yield binding.set_cache(tmp_path / "cache")
    binding.set_cache(None)


def test_a_bucket_knows_all_shapes_and_roles():
    made = bucket(key=7)
    assert [(a.name, a.role, a.shape, a.dtype) for a in made.arguments] == [
        ("data", "data", (4, 5), "float32"), ("fc_weight", "parameter", (3, 5), "float32"),
        ("fc_bias", "parameter", (3,), "float32"), ("softmax_label", "label", (4,), "float32"),
    ]  # fmt: skip
    assert made.outputs == (("softmax_output", (4, 3)),)
    request = made.request(True, ("fc_weight",))
    assert (request.mode, request.wrt, request.name) == ("train", ("fc_weight",), "bucket 7, training")
    assert request.info["bucket_key"] == 7
    assert made.request(False).mode == "infer"
    assert made.request(True).mode == "infer"  # without gradients there is nothing to go back for


def test_equal_programs_have_equal_digests_in_every_process():
    script = textwrap.dedent("""
        from small_models import classifier
        from bucketmod import binding
        made = binding.make_bucket(classifier(), [("data", (4, 5))], [("softmax_label", (4,))])
        print(made.request(True, ("fc_weight",), "cpu").request_digest)
    """)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), *sys.path])}
    other = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, env=environment)
    assert other.stdout.strip() == digest()


def test_annotations_and_initialisers_do_not_change_the_digest():
    weight = mx.sym.Variable("fc_weight", lr_mult=3, init=mx.init.One())
    scores = mx.sym.FullyConnected(mx.sym.Variable("data"), weight=weight, num_hidden=3, name="fc")
    same = mx.sym.SoftmaxOutput(scores, mx.sym.Variable("softmax_label"), name="softmax")
    assert digest(bucket(same)) == digest()
    assert digest(bucket(mx.sym.load_json(classifier().tojson()))) == digest()


def test_whatever_changes_the_program_changes_the_digest():
    other = mx.sym.FullyConnected(mx.sym.Variable("data"), num_hidden=3, name="other")
    other = mx.sym.SoftmaxOutput(other, mx.sym.Variable("softmax_label"), name="softmax")
    scaled = mx.sym.FullyConnected(mx.sym.Variable("data"), num_hidden=3, name="fc")
    scaled = mx.sym.SoftmaxOutput(scaled, mx.sym.Variable("softmax_label"), name="softmax", grad_scale=2)
    elsewhere = "cpu:x86-64-v4" if parse_target("cpu").name == "cpu:x86-64-v3" else "cpu:x86-64-v3"
    digests = [
        digest(), digest(wrt=("fc_weight", "fc_bias")), digest(wrt=()), digest(is_train=False, wrt=()),
        digest(target=elsewhere), digest(target="cuda:sm_90"), digest(bucket(other)), digest(bucket(scaled)),
        digest(bucket(data=[("data", (2, 5))], label=[("softmax_label", (2,))])),
        digest(bucket(state_names=["data"], data_names=[])),
        digest(bucket(data=[mx.io.DataDesc("data", (4, 5), dtype="float16")], label=None, symbol=linear()), wrt=()),
        digest(bucket(data=[mx.io.DataDesc("data", (4, 5))], label=None, symbol=linear()), wrt=()),
    ]  # fmt: skip
    assert digest(target="cpu:x86-64-v4") != digest(target="cpu:x86-64-v3")
    assert len(set(digests)) == len(digests)


def test_unknown_targets():
    with pytest.raises(ValueError, match="abacus"):
        digest(target="abacus")


def test_a_miss_is_compiled_once_and_told_in_one_line(cache, caplog):
    caplog.set_level(logging.WARNING)
    before = binding.compiled_count()
    for _ in range(2):
        make_module(n=3).forward(batch(3))
    assert binding.compiled_count() == before + 1
    assert binding.compile_seconds() > 0
    assert (cache.counts.hits, cache.counts.misses) == (1, 1)
    (line,) = [record.message for record in caplog.records if "not in the cache" in record.message]
    assert "softmax, training" in line and "scripts/precompile_buckets.py" in line and " s;" in line
    (entry,) = cache.entries()
    assert entry.info["mode"] == "train" and entry.info["shapes"]["data"] == [3, FEATURES]
    fresh = binding.set_cache(cache.directory)  # as a new process would find it
    make_module(n=3).forward(batch(3))
    assert (fresh.counts.hits, fresh.counts.misses) == (1, 0)


def test_a_damaged_artifact_is_compiled_again(cache, caplog):
    make_module(n=3).forward(batch(3), is_train=False)
    (entry,) = cache.entries()
    folder = cache.object_folder(entry.object_digest)
    for library in folder.glob("module.*"):
        library.write_bytes(library.read_bytes()[:-100])
    binding.set_cache(cache.directory)
    make_module(n=3).forward(batch(3), is_train=False)
    assert "compiled again" in caplog.text


def test_a_miss_with_compiling_switched_off_names_bucket_target_and_command(cache, monkeypatch):
    monkeypatch.setenv("BUCKETMOD_COMPILE", "0")
    module = make_bucketing()
    with pytest.raises(binding.MissingArtifactError, match="bucket 3, inference.*cpu:.*--buckets 3 .*--mode infer"):
        module.forward(bucket_batch(3), is_train=False)
    with pytest.raises(mx.MXNetError, match="bucket 3, training.*--mode train"):
        module.forward(bucket_batch(3), is_train=True)
    with pytest.raises(binding.MissingArtifactError, match="optimizer kernels"):
        module.init_optimizer()
    assert not cache.directory.exists() or not cache.entries()


def test_nothing_is_compiled_before_it_runs(cache):
    module = make_bucketing()
    module.prepare(bucket_batch(3))
    module.switch_bucket(3, None)
    assert cache.counts.misses == 0


def test_the_default_cache_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("BUCKETMOD_CACHE", str(tmp_path / "elsewhere"))
    assert binding.get_cache().directory == tmp_path / "elsewhere"
    monkeypatch.delenv("BUCKETMOD_CACHE")
    assert binding.get_cache().directory.name == "bucketmod"


def test_models_of_wrong_kind():
    with pytest.raises(mx.MXNetError, match="same|name"):
        bucket(mx.sym.Variable("data") + mx.sym.Variable("data"))


def test_a_machine_without_the_gradient_builder_asks_for_what_one_with_it_compiles(monkeypatch):
    from importlib import metadata

    from bucketmod import compiler

    installed = metadata.version
    pin = f"onnxruntime-training-cpu=={installed('onnxruntime-training-cpu')}"
    if pin not in (metadata.requires("bucketmod") or ()):
        pytest.skip("another gradient builder is installed than bucketmod asks for")

    def version(name):
        if name == "onnxruntime-training-cpu":
            raise metadata.PackageNotFoundError(name)
        return installed(name)

    with_builder = compiler.versions()
    monkeypatch.setattr(metadata, "version", version)
    assert compiler.versions.__wrapped__() == with_builder
