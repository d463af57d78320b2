"""Plans of precompilation: which are none, what a failing bucket leaves, and what the table shows."""

from __future__ import annotations

import io
import json

import pytest
from small_models import FEATURES, linear

import bucketmod as mx
from bucketmod import precompile

PLAN = """
from bucketmod.precompile import Plan
import beside
def plan():
    return Plan(beside.sym_gen, [1], lambda key: ([("data", (key, 2))], None))
def nothing():
    return 3
number = 4
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "a_plan_of_tests.py").write_text(PLAN)
    (tmp_path / "beside.py").write_text("def sym_gen(key):\n    raise ValueError(f'no graph for {key}')\n")
    (tmp_path / "broken_plan_of_tests.py").write_text("import json\njson.nothing\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_plan_is_found_in_a_file_with_what_lies_beside_it(folder):
    plan = precompile.load_plan("a_plan_of_tests.py:plan")
    assert plan.keys == [1] and plan.name == "model"


@pytest.mark.parametrize("model, message", [
    ("plan", "expected file.py:function"), ("a_plan_of_tests.py:", "expected file.py:function"),
    ("a_plan_of_tests.py:absent", "no function"), ("a_plan_of_tests.py:number", "no function"),
    ("a_plan_of_tests.py:nothing", "returned int"), ("nowhere.py:plan", "no such file"),
    ("no_such_package_of_tests:plan", "cannot import"), ("broken_plan_of_tests.py:plan", "AttributeError"),
])  # fmt: skip
def test_what_is_no_plan(folder, model, message):
    with pytest.raises(ValueError, match=message):
        precompile.load_plan(model)


def test_tuning_replaces_what_is_not_tuned_and_modules_find_it(tmp_path):
    plan = precompile.Plan(lambda _: (linear(), ("data",), None), [6], lambda key: ([("data", (key, FEATURES))], None))
    options = dict(target="cpu", modes=["infer"], cache=str(tmp_path), show_progress=False)
    (plain,) = precompile.precompile(plan, **options)
    assert not plain.hit and not plain.info["tuned"]
    (tuned,) = precompile.precompile(plan, **options, tune=True)
    assert not tuned.hit and tuned.info["tuned"] and tuned.error == ""
    text = io.StringIO()
    precompile.print_table([plain, tuned], file=text)
    assert [line.split()[-1] for line in text.getvalue().splitlines()[1:]] == ["compiled", "tuned"]
    for tune in (True, False):
        (again,) = precompile.precompile(plan, **options, tune=tune)
        assert again.hit and again.info["tuned"], "a tuned artifact answers both kinds of requests"
    before = mx.binding.compiled_count()
    mx.binding.set_cache(tmp_path)
    try:
        module = mx.mod.Module(linear(), label_names=None)
        module.bind([("data", (6, FEATURES))], for_training=False)
        module.init_params()
        module.forward(mx.io.DataBatch([mx.nd.ones((6, FEATURES))]))
        assert module.get_outputs()[0].shape[0] == 6
    finally:
        mx.binding.set_cache(None)
    assert mx.binding.compiled_count() == before, "the module found the tuned artifact"


def test_tuning_for_another_machine_is_refused(monkeypatch):
    monkeypatch.setattr("bucketmod.runtime.cpu.host_flags", lambda: frozenset({"avx", "avx2"}))
    plan = precompile.Plan(lambda key: (linear(), ("data",), None), [], lambda key: ([], None))
    with pytest.raises(ValueError, match="cpu:x86-64-v4 cannot run here: this machine has no"):
        precompile.precompile(plan, target="cpu:x86-64-v4", tune=True)


def test_a_bucket_that_fails_leaves_the_others(folder):
    def sym_gen(key):
        if key == "bad":
            raise ValueError("no graph for bad")
        return linear(), ("data",), None

    plan = precompile.Plan(sym_gen, [4, "bad"], lambda key: ([("data", (4, FEATURES))], None))
    with pytest.raises(ValueError, match="mode"):
        precompile.precompile(plan, modes=["test"])
    target = mx.binding.default_target()
    good, bad = precompile.precompile(plan, target=target, modes=["infer"], show_progress=False)
    assert good.key == 4 and good.error == "" and good.nodes > 0 and good.bytes > 0
    assert bad.error == "ValueError: no graph for bad"
    assert precompile.precompile(plan, [], modes=["infer"]) == []
    text = io.StringIO()
    precompile.print_table([good, bad], file=text)
    lines = text.getvalue().splitlines()
    assert lines[0].split() == ["bucket", "mode", "target", "nodes", "seconds", "kB"]
    assert lines[2].endswith("FAILED") and lines[-1] == "bucket 'bad' (infer): ValueError: no graph for bad"
    assert [row["key"] for row in json.loads(json.dumps(precompile.as_json([good, bad])))] == [4, "bad"]
    compiled = mx.binding.compiled_count()
    module = mx.mod.Module(linear(), label_names=None)
    module.bind([("data", (4, FEATURES))], for_training=False)
    module.init_params()
    module.forward(mx.io.DataBatch([mx.nd.ones((4, FEATURES))]))
    assert module.get_outputs()[0].shape[0] == 4
    assert mx.binding.compiled_count() == compiled  # a module finds it, whatever the bucket was called
