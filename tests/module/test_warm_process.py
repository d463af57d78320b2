"""A process that finds everything in the cache needs numpy and TVM's runtime, nothing of the compiler."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

_SCRIPT = textwrap.dedent("""
    import json, sys
    class Refuse:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] in ("onnx", "onnxruntime", "torch") or name.startswith("tvm.relax"):
                raise ImportError(f"{name} must not be imported here")
    if sys.argv[1] == "warm":
        sys.meta_path.insert(0, Refuse())
    from small_models import bucket_batch, make_bucketing, numpy_params
    import bucketmod as mx
    module = make_bucketing()
    module.init_optimizer(optimizer="adam")
    for key in (6, 3, 8):
        module.forward_backward(bucket_batch(key, seed=key))
        module.update()
    module.forward(bucket_batch(6), is_train=False)
    maps = open("/proc/self/maps").read()
    print(json.dumps({
        "compiled": mx.binding.compiled_count(),
        "output": module.get_outputs()[0].asnumpy().tolist(),
        "weight": numpy_params(module)["fc_weight"].tolist(),
        "loaded": [name for name in ("onnx", "onnxruntime", "tvm.relax", "bucketmod.export") if name in sys.modules],
        "compiler": "libtvm_compiler" in maps,
    }))
""")


def run(kind: str, **environment: str) -> dict:
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    answer = subprocess.run(
        [sys.executable, "-c", _SCRIPT, kind], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": path, **environment},
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def cold():
    return run("cold")


def test_training_and_inference_from_a_warm_cache_without_the_compiler(cold):
    warm = run("warm", BUCKETMOD_COMPILE="0")
    assert warm["compiled"] == 0
    assert warm["loaded"] == []
    assert not warm["compiler"]
    assert warm["output"] == cold["output"]
    assert warm["weight"] == cold["weight"]


def test_the_process_that_compiles_does_not_load_the_compiler_either(cold):
    assert not cold["compiler"]
    assert "onnxruntime" not in cold["loaded"]


def test_numbers_do_not_depend_on_the_number_of_threads(cold):
    single = run("warm", TVM_NUM_THREADS="1")
    assert single["weight"] == cold["weight"]
