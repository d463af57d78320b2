"""Records MXNet 1.9.1's optimizers: parameters and states after a few updates, state files, and update functions of nd.

The cases are functions of the package (``mx``); the tests run them with ours. Run with MXNet's Python 3.9
environment: writes optimizers.npz beside this file.
"""

import pathlib
import warnings

import numpy as np

COMMON = {"wd": 0.05, "clip_gradient": 0.4, "rescale_grad": 0.5}

CASES = {
    "sgd": ("sgd", {}),
    "sgd options": ("sgd", {"momentum": 0.9, **COMMON}),
    "sgd not lazy": ("sgd", {"momentum": 0.9, "lazy_update": False}),
    "nag": ("nag", {"momentum": 0.9}),
    "nag options": ("nag", {"momentum": 0.8, **COMMON}),
    "nag without momentum": ("nag", COMMON),
    "nag negative momentum": ("nag", {"momentum": -0.5}),
    "signum": ("signum", {}),
    "signum options": ("signum", {"momentum": 0.8, "wd_lh": 0.1, **COMMON}),
    "signum without momentum": ("signum", {"momentum": 0.0, **COMMON}),
    "ftml": ("ftml", {}),
    "ftml options": ("ftml", {"beta1": 0.7, "beta2": 0.9, "epsilon": 1e-3, **COMMON}),
    "lars": ("lars", {}),
    "lars options": ("lars", {"momentum": 0.9, "eta": 0.1, "eps": 0.01, **COMMON}),
    "lars without correction": ("lars", {"momentum": 0.9, "eta": 0.1, "momentum_correction": False}),
    "lbsgd": ("lbsgd", {}),
    "lbsgd options": ("lbsgd", {"momentum": 0.9, "batch_scale": 2, "updates_per_epoch": 1, **COMMON}),
    "lbsgd power2": ("lbsgd", {"warmup_strategy": "power2", "batch_scale": 2, "begin_epoch": 2}),
    "lbsgd sqrt": ("lbsgd", {"warmup_strategy": "sqrt", "batch_scale": 2}),
    "lbsgd lars": ("lbsgd", {"warmup_strategy": "lars", "momentum": 0.5, **COMMON}),
    "lbsgd other": ("lbsgd", {"warmup_strategy": "none", "batch_scale": 2}),
    "lamb": ("lamb", {}),
    "lamb options": ("lamb", {"epsilon": 1e-3, "lower_bound": 0.5, "upper_bound": 1.0, **COMMON}),
    "lamb without correction": ("lamb", {"bias_correction": False, "beta1": 0.8, "beta2": 0.95}),
    "dcasgd": ("dcasgd", {}),
    "dcasgd options": ("dcasgd", {"lamda": 0.5, **COMMON}),
    "adam": ("adam", {}),
    "adam options": ("adam", {"beta1": 0.8, "beta2": 0.95, "epsilon": 1e-3, **COMMON}),
    "adagrad": ("adagrad", {}),
    "adagrad options": ("adagrad", {"eps": 1e-3, **COMMON}),
    "rmsprop": ("rmsprop", {}),
    "rmsprop options": ("rmsprop", {"gamma1": 0.8, "clip_weights": 0.9, **COMMON}),
    "rmsprop centered": ("rmsprop", {"centered": True}),
    "rmsprop centered options": ("rmsprop", {"centered": True, "gamma1": 0.8, "gamma2": 0.7, "clip_weights": 0.9,
                                             "epsilon": 1e-3, **COMMON}),
    "adadelta": ("adadelta", {}),
    "adadelta options": ("adadelta", {"rho": 0.8, "epsilon": 1e-3, **COMMON}),
    "ftrl": ("ftrl", {}),
    "ftrl options": ("ftrl", {"lamda1": 0.3, "beta": 0.5, **COMMON}),
    "adamax": ("adamax", {}),
    "adamax options": ("adamax", {"beta1": 0.8, "beta2": 0.95, **COMMON}),
    "nadam": ("nadam", {}),
    "nadam options": ("nadam", {"beta1": 0.8, "beta2": 0.95, "epsilon": 1e-3, "schedule_decay": 0.1, **COMMON}),
    "test": ("test", {"rescale_grad": 0.5}),
    "ccsgd": ("ccsgd", {"momentum": 0.5}),
    "clip 0 adagrad": ("adagrad", {"clip_gradient": 0.0}),
    "clip 0 rmsprop": ("rmsprop", {"clip_gradient": 0.0}),
    "scheduled sgd": ("sgd", {"momentum": 0.9, "schedule": True}),
    "scheduled lars": ("lars", {"momentum": 0.9, "eta": 0.1, "schedule": True}),
    "scheduled adamax": ("adamax", {"schedule": True}),
    "late adam": ("adam", {"begin_num_update": 50}),
    "late ftml": ("ftml", {"begin_num_update": 50}),
}  # fmt: skip

HALF = {
    name: (name, {"multi_precision": True, **options})
    for name, options in {
        "sgd": {"momentum": 0.9}, "nag": {"momentum": 0.9}, "adam": {}, "lamb": {},
        "lars": {"momentum": 0.9, "eta": 0.1}, "lbsgd": {"momentum": 0.5}, "ftml": {}, "adagrad": {},
    }.items()
}  # fmt: skip

SHAPES = {"a_weight": (3, 5), "a_bias": (7,), "b_gamma": (5,)}
RATES = {"sgd", "nag", "lars", "lbsgd", "dcasgd", "adagrad", "ftml", "ccsgd"}  # the others have rates of their own


def make(mx, name, options):
    options = dict(options)
    if options.pop("schedule", False):
        options["lr_scheduler"] = mx.lr_scheduler.FactorScheduler(2, 0.5, base_lr=0.2)
    elif name in RATES:
        options.setdefault("learning_rate", 0.1)
    elif name in ("adam", "adamax", "nadam", "rmsprop", "lamb"):
        options.setdefault("learning_rate", 0.02)
    optimizer = mx.optimizer.create(name, param_idx2name=dict(enumerate(SHAPES)), **options)
    optimizer.set_lr_mult({"a_bias": 2.0})
    optimizer.set_wd_mult({**optimizer.wd_mult, "a_bias": 0.5})
    return optimizer


def flat(state):
    """The arrays of a state, in order."""
    if state is None:
        return []
    if isinstance(state, (list, tuple)):
        return [array for each in state for array in flat(each)]
    return [state.asnumpy().astype(np.float64)]


def run(mx, name, options, dtype="float32", attach=None):
    """All parameters after each of four updates, then all states, as one flat array. ``attach``: gets the optimizer."""
    rng = np.random.RandomState(4)
    optimizer = make(mx, name, options)
    if attach is not None:
        attach(optimizer)
    updater = mx.optimizer.get_updater(optimizer)
    weights = [mx.nd.array(rng.randn(*shape), dtype=dtype) for shape in SHAPES.values()]
    found = []
    for step in range(4):
        grads = [mx.nd.array(rng.randn(*w.shape), dtype=dtype) for w in weights]
        indices = [0, 1, 2]
        if step == 2:  # one that is updated less often, and alone
            updater(1, grads[1], weights[1])
        else:
            updater(indices, grads, weights)
        found += [w.asnumpy().ravel().astype(np.float64) for w in weights]
    found += [array.ravel() for index in range(3) for array in flat(updater.states[index])]
    return np.concatenate(found), updater


_ROWS = {"wd": 0.05, "rescale_grad": 0.5, "clip_gradient": 0.4}
FUNCTIONS = {
    "sgd_update": ("w g", {"lr": 0.1, **_ROWS}),
    "sgd_mom_update": ("w g s", {"lr": 0.1, "momentum": 0.9, **_ROWS}),
    "nag_mom_update": ("w g s", {"lr": 0.1, "momentum": 0.9, **_ROWS}),
    "adam_update": ("w g s p", {"lr": 0.1, "beta1": 0.8, **_ROWS}),
    "rmsprop_update": ("w g p", {"lr": 0.1, "clip_weights": 0.8, **_ROWS}),
    "rmspropalex_update": ("w g p s s", {"lr": 0.1, "gamma1": 0.99, **_ROWS}),
    "ftrl_update": ("w g s p", {"lr": 0.1, "lamda1": 0.05, **_ROWS}),
    "ftml_update": ("w g p p s", {"lr": 0.1, "t": 3, "wd": 0.05, "rescale_grad": 0.5, "clip_grad": 0.4}),
    "signsgd_update": ("w g", {"lr": 0.1, **_ROWS}),
    "signum_update": ("w g s", {"lr": 0.1, "momentum": 0.9, "wd_lh": 0.1, **_ROWS}),
    "lamb_update_phase1": ("w g s p", {"t": 3, **_ROWS}),
    "lamb_update_phase2": ("w g n n", {"lr": 0.1, "upper_bound": 0.9}),
    "mp_sgd_update": ("h k m", {"lr": 0.1, **_ROWS}),
    "mp_sgd_mom_update": ("h k s m", {"lr": 0.1, "momentum": 0.9, **_ROWS}),
    "mp_nag_mom_update": ("h k s m", {"lr": 0.1, "momentum": 0.9, **_ROWS}),
}
DEFAULTS = {
    "default sgd_update": ("sgd_update", "w g", {"lr": 0.1}),
    "default adam_update": ("adam_update", "w g s p", {"lr": 0.1}),
    "default rmsprop_update": ("rmsprop_update", "w g p", {"lr": 0.1}),
    "default rmspropalex_update": ("rmspropalex_update", "w g p s s", {"lr": 0.1}),
    "default ftrl_update": ("ftrl_update", "w g s p", {"lr": 0.1}),
    "default ftml_update": ("ftml_update", "w g p p s", {"lr": 0.1, "t": 1}),
    "default signum_update": ("signum_update", "w g s", {"lr": 0.1}),
    "default nag_mom_update": ("nag_mom_update", "w g s", {"lr": 0.1}),
    "default lamb_update_phase1": ("lamb_update_phase1", "w g s p", {"t": 1, "wd": 0.05}),
}
MULTI = {
    "multi_sgd_update": ("w g", {}),
    "multi_sgd_mom_update": ("w g s", {"momentum": 0.9}),
    "multi_mp_sgd_update": ("h k m", {}),
    "multi_mp_sgd_mom_update": ("h k s m", {"momentum": 0.9}),
}


def arguments(mx, kinds, seed=8, size=6):
    """Arrays: w weight, g gradient, s state, p positive state, n norm, h/k float16 weight and gradient, m copy of h."""
    rng = np.random.RandomState(seed)
    base = np.round(rng.randn(size), 2)
    made = []
    for kind in kinds.split():
        if kind in "hm":
            made.append(mx.nd.array(base, dtype="float16" if kind == "h" else "float32"))
        elif kind == "n":
            made.append(mx.nd.array([1.3 + len(made)]))
        else:
            value = np.abs(rng.randn(size)) if kind == "p" else rng.randn(size)
            made.append(mx.nd.array(value, dtype="float16" if kind == "k" else "float32"))
    return made


def run_function(mx, name, kinds, options):
    """The result (written over the weight), then what became of the arguments."""
    arrays = arguments(mx, kinds)
    written = {} if name == "lamb_update_phase1" else {"out": arrays[0]}
    result = getattr(mx.nd, name)(*arrays, **options, **written)
    return np.concatenate([a.asnumpy().astype(np.float64) for a in [result, *arrays]])


def run_multi(mx, name, kinds, options, preloaded):
    """Two parameters by one call."""
    groups = [arguments(mx, kinds, seed=seed, size=seed) for seed in (5, 7)]
    arrays, options = [array for group in groups for array in group], {"num_weights": 2, "rescale_grad": 0.5, **options}
    weights = [group[0] for group in groups]
    if preloaded:
        rates = [mx.nd.array([0.1, 0.2]), mx.nd.array([0.05, 0.0])]
        getattr(mx.nd, "preloaded_" + name)(*arrays, *rates, out=weights, clip_gradient=0.4, **options)
    else:
        getattr(mx.nd, name)(*arrays, out=weights, lrs=(0.1, 0.2), wds=(0.05, 0.0), clip_gradient=0.4, **options)
    return np.concatenate([a.asnumpy().astype(np.float64) for a in arrays])


def run_lars_rates(mx):
    arrays = [mx.nd.array(values) for values in ([0.1, 0.2, 0.3], [4.0, 0.0, 9.0], [1.0, 4.0, 0.25], [0.0, 0.5, 0.1])]
    sums = mx.nd.multi_sum_sq(mx.nd.array([1.0, 2.0]), mx.nd.array([[3.0, 4.0], [0.5, 1.0]]), num_arrays=2)
    rates = mx.nd.multi_lars(*arrays, eta=0.1, eps=0.01, rescale_grad=0.5)
    return np.concatenate([sums.asnumpy(), rates.asnumpy()]).astype(np.float64)


def functions(mx):
    """Results of the nd functions by case."""
    found = {name: run_function(mx, name, *case) for name, case in FUNCTIONS.items()}
    found.update({case: run_function(mx, *what) for case, what in DEFAULTS.items()})
    for name, case in MULTI.items():
        found[name] = run_multi(mx, name, *case, preloaded=False)
        found["preloaded_" + name] = run_multi(mx, name, *case, preloaded=True)
    found["multi_lars"] = run_lars_rates(mx)
    return found


if __name__ == "__main__":
    import mxnet

    warnings.simplefilter("ignore")
    recorded = {}
    for case, (name, options) in CASES.items():
        recorded["case/" + case], updater = run(mxnet, name, options)
        if "options" in case or case == "test":
            recorded["states/" + name] = np.frombuffer(updater.get_states(), np.uint8)
            recorded["full/" + name] = np.frombuffer(updater.get_states(dump_optimizer=True), np.uint8)
    for case, (name, options) in HALF.items():
        recorded["half/" + case], _ = run(mxnet, name, options, "float16")
    recorded.update({"function/" + name: value for name, value in functions(mxnet).items()})
    np.savez_compressed(pathlib.Path(__file__).parent / "optimizers.npz", **recorded)
