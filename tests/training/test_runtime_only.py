"""With a warm cache, training and inference need neither onnx nor onnxruntime nor TVM's compiler."""

from __future__ import annotations

from processes import run_python

# Trains some steps on every bucket, runs inference, and prints digests of what came out.
TRAINING = """
import hashlib, json
import bucketmod as mx
from training_cases import batches, make_module

module = make_module(mx, "lstm", "adam")
for batch, _ in zip(batches(mx, "NT"), range(6)):
    module.forward_backward(batch)
    module.update()
metric = mx.metric.Perplexity(0)
for batch, _ in zip(batches(mx, "NT"), range(6)):
    module.forward(batch, is_train=False)
    module.update_metric(metric, batch.label)
parameters = hashlib.sha256()
for name, value in sorted(module.get_params()[0].items()):
    parameters.update(value.asnumpy().tobytes())
found = {"parameters": parameters.hexdigest(), "perplexity": metric.get()[1]}
"""

BLOCKADE = """
import importlib.abc, sys

class Blockade(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("onnx", "onnxruntime") or name.startswith("tvm.relax"):
            raise ImportError(f"{name} must not be imported here")

sys.meta_path.insert(0, Blockade())

def refuse_compiler(event, arguments):
    if event == "ctypes.dlopen" and "libtvm_compiler" in str(arguments[0]):
        raise OSError("TVM's compiler must not be loaded here")

sys.addaudithook(refuse_compiler)
"""

REPORT = """
loaded = open("/proc/self/maps").read()
found["loaded"] = [name for name in ("libtvm_compiler", "onnxruntime", "onnx_cpp2py") if name in loaded]
found["compiled"] = mx.binding.compiled_count()
print(json.dumps(found))
"""


def test_a_warm_cache_needs_no_compiler() -> None:
    with_compiler = run_python(TRAINING + REPORT)
    without = run_python(BLOCKADE + TRAINING + REPORT, BUCKETMOD_COMPILE="0")
    assert without["compiled"] == 0
    assert without["loaded"] == []
    assert without["perplexity"] == with_compiler["perplexity"]
    assert without["parameters"] == with_compiler["parameters"]


def test_the_process_of_the_user_never_loads_the_compiler_even_when_it_compiles(tmp_path) -> None:
    small = """
import json
import bucketmod as mx

symbol = mx.sym.SoftmaxOutput(mx.sym.FullyConnected(mx.sym.Variable("data"), num_hidden=3, name="fc"), name="softmax")
module = mx.mod.Module(symbol)
module.bind([("data", (2, 5))], [("softmax_label", (2,))], for_training=False)
module.init_params()
module.forward(mx.io.DataBatch([mx.nd.ones((2, 5))], [mx.nd.zeros((2,))]), is_train=False)
found = {"sum": float(module.get_outputs()[0].asnumpy().sum())}
"""
    found = run_python(small + REPORT, BUCKETMOD_CACHE=str(tmp_path))
    assert abs(found["sum"] - 2) < 1e-5
    assert found["compiled"] == 1
    # The export side writes ONNX and may have loaded that package; what is large stays in the worker.
    assert not {"libtvm_compiler", "onnxruntime"} & set(found["loaded"])
