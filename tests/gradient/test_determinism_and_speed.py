"""The same program gives the same bytes in every process; thousands of nodes take a second or two."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from gradient_cases import float_input, forward_program
from reference_ops import run_program

from bucketmod.compiler.gradient import differentiate
from bucketmod.compiler.program import DOMAIN, Program

BATCH, HIDDEN, WORDS = 2, 4, 7


def _cell(name: str, x: str, h: str, c: str, layer: int) -> list:
    p = f"{name}_"
    return [
        ("Gemm", [x, f"wi{layer}", f"bi{layer}"], [p + "i2h"], {"transB": 1}),
        ("Gemm", [h, f"wh{layer}", f"bh{layer}"], [p + "h2h"], {"transB": 1}),
        ("Add", [p + "i2h", p + "h2h"], [p + "gates"], {}),
        ("Split", [p + "gates"], [p + "i", p + "f", p + "u", p + "o"], {"axis": 1}),
        *[("Sigmoid", [p + gate], [p + "s" + gate], {}) for gate in "ifo"],
        ("Tanh", [p + "u"], [p + "su"], {}),
        ("Mul", [p + "sf", c], [p + "kept"], {}),
        ("Mul", [p + "si", p + "su"], [p + "new"], {}),
        ("Add", [p + "kept", p + "new"], [p + "c"], {}),
        ("Tanh", [p + "c"], [p + "tc"], {}),
        ("Mul", [p + "so", p + "tc"], [p + "h"], {}),
    ]


def unrolled(steps: int, layers: int) -> tuple[Program, list[str]]:
    """A language model of LSTM cells, one node after the other."""
    inputs = [float_input("data", (BATCH, steps), "data"), float_input("label", (BATCH * steps,), "label")]
    inputs += [float_input(n, s) for n, s in (("embedding", (WORDS, HIDDEN)), ("w", (WORDS, HIDDEN)), ("b", (WORDS,)))]
    nodes: list = [("Cast", ["data"], ["ids"], {"to": 7}), ("Gather", ["embedding", "ids"], ["embedded"], {}),
                   ("Split", ["embedded"], [f"part{t}" for t in range(steps)], {"axis": 1})]  # fmt: skip
    nodes += [("Squeeze", [f"part{t}", "one"], [f"x{t}"], {}) for t in range(steps)]
    current = [f"x{t}" for t in range(steps)]
    for layer in range(layers):
        shapes = {"wi": (4 * HIDDEN, HIDDEN), "wh": (4 * HIDDEN, HIDDEN), "bi": (4 * HIDDEN,), "bh": (4 * HIDDEN,)}
        inputs += [float_input(f"{name}{layer}", shape) for name, shape in shapes.items()]
        inputs += [float_input(f"{name}{layer}", (BATCH, HIDDEN), "state") for name in "hc"]
        h, c = f"h{layer}", f"c{layer}"
        for t in range(steps):
            nodes += _cell(f"l{layer}t{t}", current[t], h, c, layer)
            h, c = f"l{layer}t{t}_h", f"l{layer}t{t}_c"
            current[t] = h
    nodes += [("Unsqueeze", [current[t], "one"], [f"row{t}"], {}) for t in range(steps)]
    nodes += [("Concat", [f"row{t}" for t in range(steps)], ["hidden"], {"axis": 1}),
              ("Reshape", ["hidden", "rows"], ["flat"], {}), ("Gemm", ["flat", "w", "b"], ["logits"], {"transB": 1}),
              (f"{DOMAIN}::SoftmaxOutput", ["logits", "label"], ["out"], {"normalization": "batch"})]  # fmt: skip
    constants = {"one": np.array([1]), "rows": np.array([-1, HIDDEN])}
    program = forward_program(nodes, inputs, {"out": (BATCH * steps, WORDS)}, constants)
    return program, [port.name for port in inputs if port.role == "parameter"]


def digest() -> str:
    return differentiate(*unrolled(3, 2)).digest()


def test_bytes_do_not_depend_on_the_hash_seed():
    here = str(Path(__file__).parent)
    program = f"import sys; sys.path[:0] = [{here!r}, {str(Path(here).parent)!r}]\n"
    program += "import test_determinism_and_speed as t; print(t.digest())"
    found = {digest()}
    for seed in ("0", "1", "4242"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", program]
        made = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        found.add(made.stdout.strip())
    assert len(found) == 1


def test_order_of_names_asked_for_changes_the_order_of_outputs_only():
    program, wrt = unrolled(2, 1)
    one, other = differentiate(program, wrt), differentiate(program, wrt[::-1])
    assert [p.of for p in one.outputs[1:]] == [p.of for p in other.outputs[1:]][::-1]
    rng = np.random.default_rng(0)
    values = {p.name: rng.normal(size=p.shape).astype(np.float32) for p in program.inputs}
    values["data"], values["label"] = np.ones((BATCH, 2), np.float32), np.zeros(BATCH * 2, np.float32)
    first, second = run_program(one, values), run_program(other, values)
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_three_thousand_nodes_are_differentiated_quickly():
    program, wrt = unrolled(100, 2)
    assert len(program.model.graph.node) > 2500
    start = time.process_time()
    differentiate(program, wrt)
    assert time.process_time() - start < 20  # about one second; many more where something is quadratic
