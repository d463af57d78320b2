"""Initialisers: how parameters get their first values.

Random ones draw from ``mx.random`` (not from numpy), so ``mx.random.seed`` makes them repeat.
"""

from __future__ import annotations

import json
import logging
import math
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from bucketmod import ndarray, random
from bucketmod.ndarray import NDArray
from bucketmod.registry import Registry


class InitDesc(str):
    """A parameter's name, with its Variable's attributes (``attrs``) and the module's initialiser (``global_init``)."""

    attrs: Mapping[str, str]
    global_init: Any

    def __new__(cls, name: str, attrs: Mapping[str, str] | None = None, global_init: Any = None) -> InitDesc:
        described = super().__new__(cls, name)
        described.attrs = attrs or {}
        described.global_init = global_init
        return described


# (ending of the name, what to call, the word in the log), first match wins; InitDesc and plain names differ.
_RULES = (
    ("weight", "_init_weight"), ("bias", "_init_bias"), ("gamma", "_init_gamma"), ("beta", "_init_beta"),
    ("min", "_init_zero"), ("max", "_init_one"),
)  # fmt: skip
_LEGACY_RULES = (
    ("bias", "_init_bias"), ("gamma", "_init_gamma"), ("beta", "_init_beta"), ("weight", "_init_weight"),
    ("moving_mean", "_init_zero"), ("moving_var", "_init_one"), ("moving_inv_var", "_init_zero"),
    ("moving_avg", "_init_zero"), ("min", "_init_zero"), ("max", "_init_one"),
)  # fmt: skip


class Initializer:
    """Base: chooses by the parameter's name. Subclasses write ``_init_weight(desc, arr)``, which fills ``arr``.

    With an InitDesc the Variable's own initialiser (attribute ``__init__``) comes first, then the ending: weight, bias
    (0), gamma (1), beta (0), min (0), max (1); ValueError for other names. A plain str takes the older rules, with a
    DeprecationWarning. ``kwargs``: the arguments that ``dumps`` writes.
    """

    def __init__(self, **kwargs: Any) -> None:
        self._kwargs = kwargs
        self._verbose = False
        self._print_func: Callable[[NDArray], str] | None = None

    def set_verbosity(self, verbose: bool = False, print_func: Callable[[NDArray], str] | None = None) -> Initializer:
        """Logs every array filled, with ``print_func`` of it (default: norm / sqrt(size)). Returns self."""
        self._verbose = verbose
        self._print_func = print_func or _root_mean_square
        return self

    def _verbose_print(self, desc: str, init: str, arr: NDArray) -> None:
        if self._verbose and self._print_func:
            logging.info("Initialized %s as %s: %s", desc, init, self._print_func(arr))

    def dumps(self) -> str:
        """JSON text ``["name", {arguments}]``, from which ``create`` makes the initialiser again."""
        return json.dumps([type(self).__name__.lower(), self._kwargs])

    def __call__(self, desc: str, arr: NDArray) -> None:
        """Fills ``arr``, the parameter ``desc``."""
        if not isinstance(desc, InitDesc):
            self._legacy_init(desc, arr)
            return
        if desc.global_init is None:
            desc.global_init = self
        own = desc.attrs.get("__init__", "")
        if own:
            create(own)._init_weight(desc, arr)
            self._verbose_print(desc, own, arr)
            return
        for ending, method in _RULES:
            if desc.endswith(ending):
                getattr(self, method)(desc, arr)
                self._verbose_print(desc, ending, arr)
                return
        self._init_default(desc, arr)

    def _legacy_init(self, name: str, arr: NDArray) -> None:
        warnings.warn(
            "an initializer was called with a plain name; call it with mx.init.InitDesc(name, attrs) instead",
            DeprecationWarning,
            stacklevel=3,
        )
        if not isinstance(name, str):
            raise TypeError(f"name must be text, got {type(name)}")
        if not isinstance(arr, NDArray):
            raise TypeError(f"arr must be an NDArray, got {type(arr)}")
        if name.startswith("upsampling"):
            self._init_bilinear(name, arr)
        elif name.startswith("stn_loc") and name.endswith("weight"):
            self._init_zero(name, arr)
        elif name.startswith("stn_loc") and name.endswith("bias"):
            self._init_loc_bias(name, arr)
        else:
            method = next((method for ending, method in _LEGACY_RULES if name.endswith(ending)), "_init_default")
            getattr(self, method)(name, arr)

    def _init_weight(self, name: str, arr: NDArray) -> None:
        raise NotImplementedError(f"{type(self).__name__} does not say how weights such as {name} start")

    def _init_zero(self, _: str, arr: NDArray) -> None:
        arr[:] = 0.0

    def _init_one(self, _: str, arr: NDArray) -> None:
        arr[:] = 1.0

    def _init_bias(self, name: str, arr: NDArray) -> None:
        arr[:] = 0.0

    def _init_gamma(self, name: str, arr: NDArray) -> None:
        arr[:] = 1.0

    def _init_beta(self, name: str, arr: NDArray) -> None:
        arr[:] = 0.0

    def _init_bilinear(self, _: str, arr: NDArray) -> None:
        """Weights of bilinear up-sampling: the same tent in every (output, input) channel pair."""
        height, width = arr.shape[2:]
        half = math.ceil(width / 2.0)
        centre = (2 * half - 1 - half % 2) / (2.0 * half)
        rows, columns = (1 - np.abs(np.arange(n) / half - centre) for n in (height, width))
        arr[:] = np.broadcast_to(np.outer(rows, columns), arr.shape)

    def _init_loc_bias(self, _: str, arr: NDArray) -> None:
        assert arr.shape == (6,), f"the bias of an affine transform has 6 elements, got shape {arr.shape}"
        arr[:] = [1.0, 0, 0, 0, 1.0, 0]

    def _init_default(self, name: str, _: NDArray) -> None:
        raise ValueError(
            f"Unknown initialization pattern for {name}: the name should end in weight, bias, gamma, beta, min or max, "
            "or its Variable should say how it starts: mx.sym.Variable(name, init=mx.init...)"
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Initializer):
            return NotImplemented
        return type(self) is type(other) and self._kwargs == other._kwargs

    __hash__ = None  # type: ignore[assignment]


def _root_mean_square(arr: NDArray) -> str:
    return str((arr.norm() / math.sqrt(arr.size)).asscalar())


_registry = Registry(Initializer, "initializer")
alias = _registry.alias


def register(klass: type[Initializer]) -> type[Initializer]:
    """Class decorator: makes ``klass`` known to ``create`` by its lower-case name."""
    return _registry.register(klass)


def create(*args: Any, **kwargs: Any) -> Initializer:
    """An initialiser from a name and arguments, from the text of ``dumps``, or the instance given. AssertionError for
    unknown names."""
    return _registry.create(*args, **kwargs)


class Load:
    """Takes parameters from ``param``: a dict of arrays or the name of a file (``arg:``/``aux:`` before names dropped).

    ``default_init`` fills the others (AssertionError without it). AssertionError when shapes differ.
    """

    def __init__(self, param: str | Mapping[str, NDArray], default_init: Any = None, verbose: bool = False) -> None:
        arrays = ndarray.load(param) if isinstance(param, str) else param
        assert isinstance(arrays, Mapping), f"Load needs arrays by name, got {type(arrays)}"
        self.param = {
            name[4:] if name.startswith(("arg:", "aux:")) else name: values for name, values in arrays.items()
        }
        self.default_init = default_init
        self.verbose = verbose

    def __call__(self, name: str, arr: NDArray) -> None:
        if name in self.param:
            loaded = self.param[name]
            assert arr.shape == loaded.shape, f"Parameter {name} has shape {arr.shape}, the loaded one {loaded.shape}"
            arr[:] = loaded
        else:
            assert self.default_init is not None, f"Parameter {name} was not loaded and there is no default_init"
            self.default_init(name, arr)
        if self.verbose:
            logging.info("Initialized %s by %s", name, "loading" if name in self.param else "default")


class Mixed:
    """The first of ``patterns`` (regular expressions, matched from the start of the name) chooses the initialiser.

    ValueError when none matches.
    """

    def __init__(self, patterns: Sequence[str], initializers: Sequence[Any]) -> None:
        assert len(patterns) == len(initializers), f"{len(patterns)} patterns for {len(initializers)} initializers"
        self.map = [(re.compile(pattern), init) for pattern, init in zip(patterns, initializers, strict=True)]

    def __call__(self, name: str, arr: NDArray) -> None:
        for pattern, init in self.map:
            if pattern.match(name):
                init(name, arr)
                return
        raise ValueError(
            f"Parameter name {name} matches none of {[p.pattern for p, _ in self.map]}; add a last pattern '.*'"
        )


@register
@alias("zeros")
class Zero(Initializer):
    """Zeros."""

    def __init__(self) -> None:
        super().__init__()

    def _init_weight(self, name: str, arr: NDArray) -> None:
        arr[:] = 0


@register
@alias("ones")
class One(Initializer):
    """Ones."""

    def __init__(self) -> None:
        super().__init__()

    def _init_weight(self, name: str, arr: NDArray) -> None:
        arr[:] = 1


@register
class Constant(Initializer):
    """A number, or an array that can be broadcast to the parameter."""

    def __init__(self, value: Any) -> None:
        super().__init__(value=value)
        self.value = value

    def _init_weight(self, name: str, arr: NDArray) -> None:
        arr[:] = self.value

    def dumps(self) -> str:
        value = self.value.asnumpy() if isinstance(self.value, NDArray) else self.value
        plain = value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value
        return json.dumps([type(self).__name__.lower(), {"value": plain}])


@register
class Uniform(Initializer):
    """Uniform samples from [-scale, scale)."""

    def __init__(self, scale: float = 0.07) -> None:
        super().__init__(scale=scale)
        self.scale = scale

    def _init_weight(self, name: str, arr: NDArray) -> None:
        random.uniform(-self.scale, self.scale, arr.shape, out=arr)


@register
class Normal(Initializer):
    """Normal samples with mean 0 and standard deviation sigma."""

    def __init__(self, sigma: float = 0.01) -> None:
        super().__init__(sigma=sigma)
        self.sigma = sigma

    def _init_weight(self, name: str, arr: NDArray) -> None:
        random.normal(0, self.sigma, arr.shape, out=arr)


@register
class Orthogonal(Initializer):
    """``scale`` times an orthogonal matrix: from the singular vectors of a random one (``rand_type`` uniform, normal).

    Further axes count as columns.
    """

    def __init__(self, scale: float = 1.414, rand_type: str = "uniform") -> None:
        super().__init__(scale=scale, rand_type=rand_type)
        self.scale = scale
        self.rand_type = rand_type

    def _init_weight(self, name: str, arr: NDArray) -> None:
        shape = (arr.shape[0], math.prod(arr.shape[1:]))
        if self.rand_type == "uniform":
            start = random.uniform(-1.0, 1.0, shape=shape)
        elif self.rand_type == "normal":
            start = random.normal(0.0, 1.0, shape=shape)
        else:
            raise ValueError(f"{name}: rand_type {self.rand_type!r} is neither uniform nor normal")
        left, _, right = np.linalg.svd(start.numpy_view(), full_matrices=False)
        arr[:] = self.scale * (left if left.shape == shape else right).reshape(arr.shape)


@register
class Xavier(Initializer):
    """Samples of a width that keeps activations the same from layer to layer.

    ``rnd_type``: uniform from [-s, s) or gaussian with deviation s, where s = sqrt(magnitude / factor).
    ``factor_type``: factor = in, out, or their mean avg, each the number of connections of an element. ValueError for
    vectors and for other words.
    """

    def __init__(self, rnd_type: str = "uniform", factor_type: str = "avg", magnitude: float = 3) -> None:
        super().__init__(rnd_type=rnd_type, factor_type=factor_type, magnitude=magnitude)
        self.rnd_type = rnd_type
        self.factor_type = factor_type
        self.magnitude = float(magnitude)

    def _init_weight(self, name: str, arr: NDArray) -> None:
        if arr.ndim < 2:
            raise ValueError(f"Xavier needs at least two axes, {name} has shape {arr.shape}")
        window = math.prod(arr.shape[2:])
        fan_in, fan_out = arr.shape[1] * window, arr.shape[0] * window
        factors = {"avg": (fan_in + fan_out) / 2.0, "in": fan_in, "out": fan_out}
        if self.factor_type not in factors:
            raise ValueError(f"{name}: factor_type {self.factor_type!r} is none of avg, in, out")
        scale = math.sqrt(self.magnitude / factors[self.factor_type])
        if self.rnd_type == "uniform":
            random.uniform(-scale, scale, arr.shape, out=arr)
        elif self.rnd_type == "gaussian":
            random.normal(0, scale, arr.shape, out=arr)
        else:
            raise ValueError(f"{name}: rnd_type {self.rnd_type!r} is neither uniform nor gaussian")


@register
class MSRAPrelu(Xavier):
    """Gaussian Xavier for layers before a leaky rectifier of the given slope: magnitude 2 / (1 + slope^2)."""

    def __init__(self, factor_type: str = "avg", slope: float = 0.25) -> None:
        super().__init__("gaussian", factor_type, 2.0 / (1 + slope**2))
        self._kwargs = {"factor_type": factor_type, "slope": slope}


@register
class Bilinear(Initializer):
    """Weights of bilinear up-sampling, for a 4-D parameter."""

    def __init__(self) -> None:
        super().__init__()

    def _init_weight(self, name: str, arr: NDArray) -> None:
        self._init_bilinear(name, arr)


@register
class LSTMBias(Initializer):
    """0, and ``forget_bias`` in the second quarter, where the forget gate of an LSTM is.

    It is meant for a Variable's ``init``: by name alone a bias starts at 0 whatever the initialiser.
    """

    def __init__(self, forget_bias: float = 1.0) -> None:
        super().__init__(forget_bias=forget_bias)
        self.forget_bias = forget_bias

    def _init_weight(self, name: str, arr: NDArray) -> None:
        size = arr.shape[0] // 4
        arr[:] = 0.0
        arr[size : 2 * size] = self.forget_bias


@register
class FusedRNN(Initializer):
    """The vector of a FusedRNNCell: each part by its own name, with ``init`` (None: the module's initialiser).

    ``init``: an initialiser or its text. The forget gate's biases of an LSTM are ``forget_bias``, both of them.
    """

    def __init__(
        self,
        init: Any,
        num_hidden: int,
        num_layers: int,
        mode: str,
        bidirectional: bool = False,
        forget_bias: float = 1.0,
    ) -> None:
        own = create(init) if isinstance(init, str) else init
        super().__init__(
            init=None if own is None else own.dumps(),
            num_hidden=num_hidden,
            num_layers=num_layers,
            mode=mode,
            bidirectional=bidirectional,
            forget_bias=forget_bias,
        )
        self._init = own

    def _init_weight(self, desc: str, arr: NDArray) -> None:
        from bucketmod.rnn import FusedRNNCell  # the cells need initialisers, so not at the top

        sizes = {key: value for key, value in self._kwargs.items() if key != "init"}
        cell = FusedRNNCell(prefix="", **sizes)
        outer = getattr(desc, "global_init", None)
        fill = outer if self._init is None else self._init
        if fill is None:
            raise ValueError(f"{desc}: FusedRNN without an initializer of its own works inside another one only")
        parts = cell.unpack_weights({"parameters": arr})
        for name, part in parts.items():
            if self._kwargs["mode"] == "lstm" and name.endswith("_f_bias"):
                part[:] = self._kwargs["forget_bias"]
            else:
                fill(InitDesc(name, global_init=outer), part)
        arr[:] = cell.pack_weights(parts)["parameters"]
