"""Choice by measurement: what is chosen, what the manifest tells of it, and that results stay."""

import numpy as np
import pytest
from compiled_programs import OnCpu

import bucketmod as mx
from bucketmod.compiler import tuning
from bucketmod.compiler.kernels.embedding import Embedding
from bucketmod.compiler.kernels.products.gemm import Gemm
from bucketmod.compiler.target import parse_target
from bucketmod.compiler.tuning import Tuner, fastest
from bucketmod.export import export_symbol

GEMM = Gemm(64, 300, 72, addend=True)


@pytest.fixture
def target():
    return parse_target("cpu")


@pytest.fixture(autouse=True)
def forget():
    """No test knows what others pretended to have measured."""
    fastest.cache_clear()
    yield
    fastest.cache_clear()


@pytest.fixture
def series(monkeypatch):
    """``series(first, second)``: what two measurements say, the first one of (model's, first alternative, others)."""

    def script(first, second):
        answers = [first, second]

        def measure(trials):
            times = answers.pop(0)
            return [*times, *([9.0] * (len(trials) - len(times)))]

        monkeypatch.setattr(tuning, "_measure", measure)
        return answers

    return script


def test_the_fastest_form_is_chosen_when_two_measurements_say_so(series, target):
    series([1.0, 0.8], [1.0, 0.9])
    choice = fastest(GEMM, target)
    assert choice.kernel == GEMM.alternatives(target.cpu)[0]
    assert choice.speed == pytest.approx(1 / 0.9) and choice.tried == 1 + len(GEMM.alternatives(target.cpu))


@pytest.mark.parametrize("first, second", [([1.0, 0.99], None), ([1.0, 0.8], [1.0, 1.0]), ([1.0, 1.2], None)])
def test_the_model_is_right_unless_something_else_is_clearly_faster(series, target, first, second):
    left = series(first, second)
    choice = fastest(GEMM, target)
    assert choice.kernel == GEMM and choice.speed == 1.0
    assert len(left) == (1 if second is None else 0), "a second measurement only to confirm the first"


def test_a_kernel_with_one_form_is_not_measured(series, target):
    left = series([], [])
    embedding = Embedding(10, 4, 3)
    assert fastest(embedding, target).kernel == embedding and len(left) == 2


def test_a_measurement_serves_all_programs_of_a_process(series, target):
    left = series([1.0, 0.8], [1.0, 0.9])
    first, second = Tuner(target), Tuner(target)
    assert first.choose(GEMM) == first.choose(GEMM) == second.choose(GEMM) != GEMM
    assert left == [] and first.report() == second.report()


def test_the_report_names_kernel_cut_and_gain(series, target):
    series([1.0, 0.8], [1.0, 0.8])
    tuner = Tuner(target)
    chosen = tuner.choose(GEMM)
    tuner.choose(Embedding(10, 4, 3))
    assert list(tuner.report()) == ["gemm_nn_add m=64 k=300 n=72 addend=True"], "one form is no choice"
    (text,) = tuner.report().values()
    assert text.startswith(f"{chosen.cut}: 1.25 times the speed of the model's choice, best of ")


def test_every_form_gets_the_same_operands_and_turns(target):
    forms = [GEMM, *GEMM.alternatives(target.cpu)]
    trials = tuning._trials(forms, target)
    assert len(trials) == len(forms)
    assert all(trial.args[0] is trials[0].args[0] for trial in trials)
    seconds = tuning._measure(trials)
    assert len(seconds) == len(forms) and all(np.array(seconds) > 0)


def test_what_this_machine_cannot_run_is_not_tuned(monkeypatch):
    monkeypatch.setattr("bucketmod.runtime.cpu.host_flags", lambda: frozenset({"avx", "avx2"}))
    with pytest.raises(ValueError, match="cpu:x86-64-v4 cannot run here"):
        Tuner(parse_target("cpu:x86-64-v4"))


def trained_layer():
    hidden = mx.sym.FullyConnected(mx.sym.Variable("data"), num_hidden=72, name="fc1")
    head = mx.sym.FullyConnected(mx.sym.relu(hidden), num_hidden=40, name="fc2")
    graph = mx.sym.SoftmaxOutput(head, mx.sym.Variable("label"), name="softmax")
    return export_symbol(graph, {"data": (300, 64), "label": (300,)}, data_names=["data"], label_names=["label"],
                         is_train=True)  # fmt: skip


def test_a_tuned_program_computes_the_same_and_its_manifest_tells_what_was_chosen(tmp_path, monkeypatch):
    """Every choice is made for an alternative, whether it is faster or not."""
    monkeypatch.setattr(tuning, "_measure", lambda trials: [2.0, *([1.0] * (len(trials) - 1))])
    program = trained_layer()
    rng = np.random.default_rng(0)
    values = {port.name: rng.normal(0, 0.3, port.shape).astype(port.dtype) for port in program.inputs}
    values["label"] = rng.integers(0, 40, 300).astype(np.float32)
    wrt = [port.name for port in program.by_role("parameter")]
    plain = OnCpu(program, tmp_path / "plain", "train", wrt, "cpu")
    tuned = OnCpu(program, tmp_path / "tuned", "train", wrt, "cpu", tune=True)
    assert plain.artifact.manifest.tuning == {}
    told = tuned.artifact.manifest.tuning
    assert any(name.startswith("gemm_") and "Plan(" in text and "2.00 times" in text for name, text in told.items())
    want = plain.run(values, (0, 0))
    for name, got in tuned.run(values, (0, 0)).items():
        np.testing.assert_allclose(got, want[name], rtol=1e-4, atol=1e-5, err_msg=name)
