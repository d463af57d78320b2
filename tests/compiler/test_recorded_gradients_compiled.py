"""Every operator of the user's side, compiled with its gradients, against numbers recorded from MXNet 1.9.1.

Many graphs are put side by side into one program: compiling them one by one would take minutes.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from compiled_programs import CompiledProgram

import bucketmod as mx
from bucketmod.compiler.errors import CompileError
from bucketmod.compiler.program import Program
from bucketmod.export import export_symbol

RECORDED = Path(__file__).parents[1] / "recorded"
sys.path.insert(0, str(RECORDED))
from operator_cases import all_cases, read_arrays  # noqa: E402

_WITH_NUMBERS_OF_OUR_OWN = ("cast", "leaky_relu_selu", "pair_mod", "broadcast_mod", "scalar_mod_zero", "scalar_rmod")
_REFUSED = ("slice_steps",)
_TOGETHER = 18


@functools.cache
def recorded(what: str) -> dict[str, dict[str, np.ndarray]]:
    """``what``: "forward" (names: in/..., out/...) or "gradients" (names of arguments)."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for key, array in read_arrays(RECORDED, what).items():
        case, _, name = key.partition("/")
        if not name.startswith("next/"):  # auxiliary states after the step: tests/gradient looks at those
            found.setdefault(case, {})[name] = array
    return found


NAMES = sorted(set(recorded("gradients")) - {*_WITH_NUMBERS_OF_OUR_OWN, *_REFUSED})
GROUPS = [NAMES[i::-(-len(NAMES) // _TOGETHER)] for i in range(-(-len(NAMES) // _TOGETHER))]


@functools.cache
def cases():
    return all_cases(mx)


def export(name: str) -> Program:
    symbol, shapes, _ = cases()[name]
    return export_symbol(symbol, shapes, data_names=["a"], label_names=[], is_train=True)


def side_by_side(programs: dict[str, Program]) -> Program:
    """One program; every name in it begins with the name of its part."""
    whole, roles, outputs = onnx.ModelProto(), {}, {}
    for name, program in programs.items():
        model = onnx.compose.add_prefix(program.model, f"{name}/", rename_functions=False, inplace=False)
        functions = {f.name for f in whole.functions}
        whole.functions.extend(f for f in model.functions if f.name not in functions)
        for field in ("node", "input", "output", "initializer", "value_info"):
            getattr(whole.graph, field).extend(getattr(model.graph, field))
        whole.ir_version, whole.graph.name = model.ir_version, "parts"
        known = {(o.domain, o.version) for o in whole.opset_import}
        whole.opset_import.extend(o for o in model.opset_import if (o.domain, o.version) not in known)
        roles.update({f"{name}/{port.name}": port.role for port in program.inputs})
        outputs.update({f"{name}/{p.name}": (p.role, p.of and f"{name}/{p.of}") for p in program.outputs})
    return Program.of(whole, roles, outputs)


def head_gradient(shape: tuple[int, ...], index: int) -> np.ndarray:
    """As it was recorded, for output number ``index``."""
    return np.cos(np.arange(int(np.prod(shape))) * 1.7 + index).reshape(shape).astype(np.float32)


@pytest.mark.filterwarnings("ignore:FusedRNNCell runs over TNC")
@pytest.mark.parametrize("names", GROUPS, ids=lambda names: f"{names[0]}..{names[-1]}")
def test_gradients_equal_those_of_mxnet(names, tmp_path, target):
    programs = {name: export(name) for name in names}
    wrt = [f"{name}/{argument}" for name in names for argument in recorded("gradients")[name]]
    values = {}
    for name, program in programs.items():
        values |= {f"{name}/{p.name}": recorded("forward")[name][f"in/{p.name}"] for p in program.inputs}
        for index, port in enumerate(program.outputs):
            values[f"{name}/{port.name}_head_gradient"] = head_gradient(port.shape, index)
    found = CompiledProgram(side_by_side(programs), tmp_path, "train", wrt, target).run(values)
    for name in names:
        for argument, gradient in recorded("gradients")[name].items():
            np.testing.assert_allclose(
                found[f"{name}/{argument}_gradient"], gradient, rtol=2e-4, atol=1e-5, err_msg=f"{name}: {argument}"
            )


def test_gradient_that_is_not_built_is_refused_by_name(tmp_path, target):
    wrt = list(recorded("gradients")["slice_steps"])
    with pytest.raises(CompileError, match="the gradient of a slice with step -2 is not built"):
        CompiledProgram(export("slice_steps"), tmp_path, "train", wrt, target)
