"""The generator behind ``mx.random`` and ``mx.nd.random``, and the counter that numbers dropout masks.

One generator serves all contexts. Unseeded runs start from seed 0, as in MXNet, so a script gives the same numbers
each time; they are not MXNet's numbers. numpy's and Python's own generators are left alone.
"""

from __future__ import annotations

import operator
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from bucketmod.base import MXNetError, _Null
from bucketmod.context import Context
from bucketmod.ndarray.creation import array
from bucketmod.ndarray.ndarray import NDArray, resolve_context, resolve_dtype
from bucketmod.runtime.memory import aligned_empty


class _Stream:
    """Seed, generator and the number of the next training step; one of it in a process."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.reset(0)

    def reset(self, seed_state: int) -> None:
        with self.lock:
            self.seed = seed_state
            self.generator = np.random.Generator(np.random.PCG64(seed_state & (2**128 - 1)))
            self.step = 0

    def take_step(self) -> tuple[int, int]:
        with self.lock:
            step, self.step = self.step, self.step + 1
            return self.seed, step


_stream = _Stream()


def seed(seed_state: int, ctx: Context | str = "all") -> None:
    """Restarts all random numbers: samplers, initialisers and dropout masks. ValueError unless an integer."""
    try:
        number = operator.index(seed_state)
    except TypeError:
        raise ValueError(f"seed_state must be an integer, got {seed_state!r} of {type(seed_state)}") from None
    _stream.reset(number)


def current_seed() -> int:
    """The seed in force: the argument of the last ``seed()``, or 0."""
    return _stream.seed


def get_state() -> dict[str, Any]:
    """Where the generator and the numbering of steps are, as plain data: what ``set_state`` takes."""
    with _stream.lock:
        return {"seed": _stream.seed, "step": _stream.step, "generator": _stream.generator.bit_generator.state}


def set_state(state: Any) -> None:
    """Goes on from a state that ``get_state`` gave. ValueError for anything else."""
    try:
        seed_state, step = operator.index(state["seed"]), operator.index(state["step"])
        _stream.reset(seed_state)
        with _stream.lock:
            _stream.generator.bit_generator.state = state["generator"]
            _stream.step = step
    except (LookupError, TypeError, OverflowError, ValueError) as error:
        raise ValueError(f"no state of mx.random: {error}") from None


def next_step() -> tuple[int, int]:
    """(seed, step) for the dropout masks of one training forward; the step counts up from 0 since ``seed()``."""
    return _stream.take_step()


def _given(value: Any, default: Any) -> Any:
    return default if value is None or value is _Null else value


def _sample(
    draw: Any, parameters: Sequence[Any], shape: Any, dtype: DTypeLike, ctx: Context | None, out: NDArray | None
) -> NDArray:
    """``draw(generator, shape)`` gives float32 standard samples that the parameters then scale; see the callers."""
    if isinstance(parameters[0], NDArray):
        lead = parameters[0].shape
        inner = _as_shape(_given(shape, ()))
        scale = [p.numpy_view().reshape(lead + (1,) * len(inner)) for p in parameters]
        wanted: tuple[int, ...] = lead + inner
        context = parameters[0].context
    else:
        scale = list(parameters)
        wanted = _as_shape(_given(shape, (1,) if out is None else out.shape))
        context = resolve_context(ctx) if out is None else out.context
    if out is not None and out.shape != wanted:
        raise MXNetError(f"random: shape {wanted} was asked for, out has shape {out.shape}")
    target = out.numpy_view() if out is not None else aligned_empty(wanted, resolve_dtype(_given(dtype, np.float32)))
    with _stream.lock:
        np.copyto(target, draw(_stream.generator, wanted, *scale), casting="unsafe")
    return out if out is not None else NDArray(target, context)


def _as_shape(shape: Any) -> tuple[int, ...]:
    return (int(shape),) if isinstance(shape, (int, np.integer)) else tuple(int(n) for n in shape)


def uniform(
    low: Any = 0, high: Any = 1, shape: Any = _Null, dtype: Any = _Null, ctx: Context | None = None,
    out: NDArray | None = None, **kwargs: Any,
) -> NDArray:  # fmt: skip
    """Samples from [low, high); shape (1,) unless given, ``out`` is filled in place.

    ``low`` and ``high`` may be arrays of one shape: then ``shape`` samples are drawn for each of their elements.
    """

    def draw(generator: np.random.Generator, wanted: tuple[int, ...], low: Any, high: Any) -> np.ndarray:
        width = np.subtract(high, low, dtype=np.float32)
        samples = generator.random(wanted, np.float32)
        samples *= width  # in place: fresh memory for each step would cost more than the numbers
        samples += np.asarray(low, np.float32)
        return samples

    return _sample(draw, (low, high), shape, dtype, ctx, out)


def normal(
    loc: Any = 0, scale: Any = 1, shape: Any = _Null, dtype: Any = _Null, ctx: Context | None = None,
    out: NDArray | None = None, **kwargs: Any,
) -> NDArray:  # fmt: skip
    """Samples from the normal distribution with mean ``loc`` and standard deviation ``scale``; as ``uniform``."""

    def draw(generator: np.random.Generator, wanted: tuple[int, ...], loc: Any, scale: Any) -> np.ndarray:
        samples = generator.standard_normal(wanted, np.float32)
        samples *= np.asarray(scale, np.float32)
        samples += np.asarray(loc, np.float32)
        return samples

    return _sample(draw, (loc, scale), shape, dtype, ctx, out)


def randn(*shape: int, **kwargs: Any) -> NDArray:
    """Normal samples of the shape given by position; keywords loc, scale, dtype, ctx, out."""
    return normal(shape=shape or (1,), **kwargs)


def randint(
    low: int, high: int, shape: Any = _Null, dtype: Any = _Null, ctx: Context | None = None, out: NDArray | None = None,
    **kwargs: Any,
) -> NDArray:  # fmt: skip
    """Integers from [low, high), int32 unless ``dtype`` says int64."""

    def draw(generator: np.random.Generator, wanted: tuple[int, ...], low: int, high: int) -> np.ndarray:
        return generator.integers(low, high, wanted)

    return _sample(draw, (int(low), int(high)), shape, _given(dtype, "int32"), ctx, out)


def shuffle(data: NDArray, **kwargs: Any) -> NDArray:
    """A copy with the first axis in random order."""
    with _stream.lock:
        order = _stream.generator.permutation(len(data))
    return array(NDArray(data.numpy_view()[order], data.context), data.context)


def multinomial(
    data: NDArray, shape: Any = _Null, get_prob: bool = False, dtype: DTypeLike = "int32", **_: Any
) -> NDArray:
    """Class numbers drawn from the probabilities on the last axis of ``data``; ``shape`` samples for each row."""
    if get_prob:
        raise NotImplementedError("multinomial: get_prob=True is not supported")
    probabilities = data.numpy_view()
    inner = _as_shape(_given(shape, ()))
    cumulative = np.cumsum(probabilities, -1, dtype=np.float64).reshape(
        probabilities.shape[:-1] + (1,) * len(inner) + probabilities.shape[-1:]
    )
    with _stream.lock:
        points = _stream.generator.random(probabilities.shape[:-1] + inner)
    drawn = (points[..., None] * cumulative[..., -1:] >= cumulative).sum(-1)
    return array(np.atleast_1d(drawn), data.context, dtype)
