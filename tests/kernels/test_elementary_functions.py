"""The polynomial exp, tanh, sigmoid, erf and log against float64, at both vector widths."""

import math

import numpy as np
import pytest

from bucketmod.compiler.kernels import math as elementary
from bucketmod.compiler.target import host_level, parse_target

tvm = pytest.importorskip("tvm")

SPECIAL = [0.0, np.inf, -np.inf, np.nan, 3e38, -3e38, 88.72, 88.73, -87.3, -87.4, -104.0, 1e-40, -1e-30, 1.0]


def signed_powers(rng, low, high, n):
    return rng.choice([-1.0, 1.0], n) * 10.0 ** rng.uniform(low, high, n)


CASES = {
    "exp": (lambda rng, n: rng.uniform(-87.3, 88.7, n), np.exp),
    "sigmoid": (lambda rng, n: rng.uniform(-86, 100, n), lambda v: 1 / (1 + np.exp(-v))),
    "tanh": (lambda rng, n: np.r_[rng.uniform(-12, 12, n // 2), signed_powers(rng, -30, 1, n - n // 2)], np.tanh),
    "erf": (lambda rng, n: np.r_[rng.uniform(-5, 5, n // 2), signed_powers(rng, -30, 0.6, n - n // 2)],
            np.vectorize(math.erf, otypes=[np.float64])),
    "log": (lambda rng, n: np.r_[rng.uniform(0.5, 2, n // 2), 10 ** rng.uniform(-37.9, 38.5, n - n // 2)], np.log),
}  # fmt: skip


def run(name, values, target, lanes):
    from tvm.script.ir_builder import IRBuilder
    from tvm.tirx.script import builder as T

    n = len(values)
    with IRBuilder() as ib, T.prim_func(s_tir=True):
        T.func_name("main")
        source = T.arg("A", T.buffer((n,), "float32", layout=None))
        result = T.arg("B", T.buffer((n,), "float32", layout=None))
        with T.serial(n // lanes) as i:
            place = T.ramp(i * lanes, 1, lanes) if lanes > 1 else i
            T.buffer_store(result, getattr(elementary, name)(source[place]), [place])
    function = tvm.compile(tvm.IRModule({"main": ib.get()}), target=target.tvm())["main"]
    out = tvm.runtime.empty((n,), "float32")
    function(tvm.runtime.tensor(values), out)
    return out.numpy()


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("level", ["x86-64-v3", "x86-64-v4"])
@pytest.mark.parametrize("vector", [True, False])
def test_relative_error_stays_below_three_ten_millionths(name, level, vector):
    if level > host_level():
        pytest.skip(f"this CPU is {host_level()}")
    target = parse_target(f"cpu:{level}")
    draw, reference = CASES[name]
    values = draw(np.random.default_rng(7), 1 << 14).astype(np.float32)
    values[: len(SPECIAL)] = SPECIAL
    got = run(name, values, target, target.cpu.lanes if vector else 1).astype(np.float64)
    with np.errstate(all="ignore"):
        want = reference(values.astype(np.float64))
    tiny = np.finfo(np.float32).tiny
    with np.errstate(over="ignore"):
        limits = want.astype(np.float32)
    subnormal_argument = (name == "log") & (values > 0) & (values < tiny)
    normal = np.isfinite(limits) & (np.abs(want) > 1.7e-38) & ~subnormal_argument
    assert np.max(np.abs(got[normal] - want[normal]) / np.abs(want[normal])) < 3e-7
    np.testing.assert_allclose(got[~normal & ~subnormal_argument], limits[~normal & ~subnormal_argument], atol=1.7e-38)
    assert np.all(got[subnormal_argument] == -np.inf)
    if name in ("tanh", "erf", "sigmoid"):
        assert np.nanmax(np.abs(got)) <= 1


@pytest.mark.parametrize("level", ["x86-64-v3", "x86-64-v4"])
def test_limited_power_of_two(level):
    if level > host_level():
        pytest.skip(f"this CPU is {host_level()}")
    target = parse_target(f"cpu:{level}")
    values = np.random.default_rng(7).uniform(-99.5, 126, 1 << 12).astype(np.float32)
    values[:6] = [0, -100, -101, -3e38, -np.inf, np.nan]
    got = run("exp2_limited", values, target, target.cpu.lanes).astype(np.float64)
    np.testing.assert_allclose(got[6:], np.exp2(values[6:].astype(np.float64)), rtol=3e-7)
    assert got[0] == 1 and np.isnan(got[5]) and (got[1:5] == 2.0**-100).all()


@pytest.mark.parametrize("level", ["x86-64-v3", "x86-64-v4"])
def test_power_of_two_that_keeps_within_normal_numbers(level):
    if level > host_level():
        pytest.skip(f"this CPU is {host_level()}")
    target = parse_target(f"cpu:{level}")
    values = np.random.default_rng(7).uniform(-125, 127, 1 << 12).astype(np.float32)
    values[:8] = [0, np.nan, -125.1, -3e38, -np.inf, 128, 3e38, np.inf]
    got = run("exp2_saturated", values, target, target.cpu.lanes).astype(np.float64)
    np.testing.assert_allclose(got[8:], np.exp2(values[8:].astype(np.float64)), rtol=3e-7)
    assert got[0] == 1 and np.isnan(got[1]) and (got[2:5] == 0).all() and (got[5:8] == 2.0**127).all()
