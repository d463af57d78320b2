"""Dropout with a counter-based generator: the mask depends on seed, step, stream and position, on nothing else.

The generator is Philox4x32 with seven rounds (J. K. Salmon, M. A. Moraes, R. O. Dror, D. E. Shaw: "Parallel random
numbers: as easy as 1, 2, 3", SC 2011; seven rounds pass BigCrush there). Its key is the seed; its counter is made of
the step's low word, the number of the counter, the step's high word and the stream.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tvm import te, tirx
from tvm.tirx.script import builder as T

from bucketmod.compiler.kernels import emission as emit
from bucketmod.compiler.kernels import math as vector
from bucketmod.compiler.kernels import streams
from bucketmod.compiler.kernels.kernel import Kernel, TensorShape

if TYPE_CHECKING:
    from bucketmod.compiler.target import CpuFeatures

Expr = Any
ROUNDS = 7
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_WORDS = 4  # that one counter gives
# Word w of counter b * 16 + l belongs to element b * 64 + w * 16 + l: vectors of up to 16 lanes are neighbours both in
# counters and in elements, and the mask is the same for every width of vectors.
_NEIGHBOURS = 16
_BLOCK = _NEIGHBOURS * _WORDS
_NS_PER_ELEMENT = 0.35


@dataclass(frozen=True)
class Dropout(Kernel):
    """(x[count] float32, seed[2] int64 = (seed, step)) -> y[count] float32, mask[count] bool.

    y = x / (1 - ratio) where the mask is true, else 0. ``stream`` tells the dropouts of a program apart.
    """

    count: int
    ratio: float
    stream: int = 0

    def __post_init__(self) -> None:
        if not 0.0 <= self.ratio < 1.0:
            raise ValueError(f"the ratio of a dropout is at least 0 and below 1, not {self.ratio}")

    @property
    def name(self) -> str:
        return "dropout"

    @property
    def outputs(self) -> list[TensorShape]:
        return [((self.count,), "float32"), ((self.count,), "bool")]

    @property
    def _threshold(self) -> int:
        """Random words below it drop their element."""
        return min(round(self.ratio * 2**32), 2**32 - 1)

    @property
    def _scale(self) -> float:
        return 1.0 / (1.0 - self.ratio)

    def portable(self) -> Any:
        x = te.placeholder((self.count,), name="x")
        seed = te.placeholder((2,), "int64", name="seed")

        def kept(i: Any) -> Any:
            number = tirx.floordiv(i, _BLOCK) * _NEIGHBOURS + tirx.floormod(i, _NEIGHBOURS)
            word = tirx.floordiv(tirx.floormod(i, _BLOCK), _NEIGHBOURS)

            def choose(words: Sequence[Expr]) -> Expr:
                high = tirx.Select(word == 2, words[2], words[3])
                low = tirx.Select(word == 0, words[0], words[1])
                return tirx.Select(word < 2, low, high) >= _unsigned(self._threshold)

            counter, key = self._counter_and_key(tirx.Cast("uint32", number), seed)
            return _bound(counter, lambda c: _bound(key, lambda k: philox(c, k, _bound, choose)))

        mask = te.compute((self.count,), kept, name="mask")
        scale, zero = tirx.FloatImm("float32", self._scale), tirx.FloatImm("float32", 0.0)
        y = te.compute((self.count,), lambda i: tirx.Select(mask[i], x[i] * scale, zero), name="y")
        return te.create_prim_func([x, seed, y, mask])

    def _counter_and_key(self, number: Expr, seed: Expr, lanes: int = 1) -> tuple[list[Expr], list[Expr]]:
        def halves(value: Expr) -> list[Expr]:
            return [tirx.Cast("uint32", value), tirx.Cast("uint32", value >> tirx.IntImm("int64", 32))]

        words = [*halves(seed[1]), _unsigned(self.stream % 2**32), *halves(seed[0])]
        low, high, stream, *key = [word if lanes == 1 else tirx.Broadcast(word, lanes) for word in words]
        # The multiplied words are those that TVM cannot know: it refuses to compute with constants of such a size.
        return [low, number, high, stream], key

    def tuned(self, cpu: CpuFeatures) -> Any:
        lanes = min(cpu.lanes, _NEIGHBOURS)
        blocks, rest = divmod(self.count, _BLOCK)

        def body(x: Expr, seed: Expr, y: Expr, mask: Expr) -> None:
            if blocks:
                with streams.tasks(blocks, self.count * _NS_PER_ELEMENT) as block:
                    self._block((x, seed, y, mask), block, _BLOCK, lanes)
            if rest:
                self._block((x, seed, y, mask), blocks, rest, lanes)

        arguments = [("x", self.outputs[0]), ("seed", ((2,), "int64")), ("y", self.outputs[0])]
        return emit.build_function(self.name, [*arguments, ("mask", self.outputs[1])], body)

    def _block(self, buffers: tuple[Expr, ...], block: Expr, count: int, lanes: int) -> None:
        """The first ``count`` elements of ``block``."""
        x, seed, y, mask = buffers
        threshold = tirx.Broadcast(_unsigned(self._threshold), lanes)
        for start in range(0, _NEIGHBOURS, lanes):
            first = tirx.Cast("uint32", block * _NEIGHBOURS + start)
            number = tirx.Ramp(first, _unsigned(1), lanes)
            words: list[Expr] = []
            counter, key = self._counter_and_key(number, seed, lanes)
            philox(_held(counter), _held(key), lambda values, use: use(_held(values)), words.extend)
            for w, word in enumerate(words):
                width = min(lanes, count - w * _NEIGHBOURS - start)
                if width <= 0:
                    continue
                at = block * _BLOCK + (w * _NEIGHBOURS + start)
                kept = word >= threshold
                value = emit.load(x, at, lanes=lanes, width=width) * emit.splat(self._scale, lanes)
                emit.store(y, tirx.Select(kept, value, emit.splat(0.0, lanes)), at, lanes=lanes, width=width)
                _store_mask(mask, kept, at, lanes, width)


@dataclass(frozen=True)
class DropoutGrad(Kernel):
    """(dy[count] float32, mask[count] bool) -> dx[count] = dy / (1 - ratio) where the mask is true, else 0."""

    count: int
    ratio: float

    @property
    def name(self) -> str:
        return "dropout_grad"

    @property
    def outputs(self) -> list[TensorShape]:
        return [((self.count,), "float32")]

    def portable(self) -> Any:
        """The only form: as a map of one pass, it is scheduled as well as it could be written."""
        dy = te.placeholder((self.count,), name="dy")
        mask = te.placeholder((self.count,), "bool", name="mask")
        scale, zero = tirx.FloatImm("float32", 1.0 / (1.0 - self.ratio)), tirx.FloatImm("float32", 0.0)
        dx = te.compute((self.count,), lambda i: tirx.Select(mask[i], dy[i] * scale, zero), name="dx")
        return te.create_prim_func([dy, mask, dx])


Bind = Callable[[Sequence[Expr], Callable[[Sequence[Expr]], Any]], Any]


def philox(counter: Sequence[Expr], key: Sequence[Expr], bind: Bind, use: Callable[[Sequence[Expr]], Any]) -> Any:
    """``use(words)`` with the four uint32 words that Philox4x32-7 gives for ``counter`` (4 words) under ``key`` (2).

    Words may be vectors. ``bind(values, use)`` gives names to values that are used more than once.
    """

    def step(state: Sequence[Expr], number: int) -> Any:
        if number == ROUNDS:
            return use(state)
        keys = [_narrow(_wide(k) + _like(w * number % 2**32, k, "uint64")) for k, w in zip(key, _WEYL, strict=True)]
        products = [_multiply(m, c) for m, c in zip(_MULTIPLIERS, (state[0], state[2]), strict=True)]
        (high0, low0), (high1, low1) = products
        mixed = [high1 ^ state[1] ^ keys[0], low1, high0 ^ state[3] ^ keys[1], low0]
        return bind(mixed, lambda following: step(following, number + 1))

    return step(counter, 0)


def _multiply(factor: int, value: Expr) -> tuple[Expr, Expr]:
    """High and low word of a product of 32-bit words.

    Like the sum of a key above, it is taken in 64 bits: TVM tells LLVM that no operation of 32 bits overflows.
    """
    product = _wide(value) * _like(factor, value, "uint64")
    return _narrow(product >> _like(32, value, "uint64")), _narrow(product)


def _wide(value: Expr) -> Expr:
    lanes = vector.lanes_of(value)
    return tirx.Cast("uint64" if lanes == 1 else f"uint64x{lanes}", value)


def _narrow(value: Expr) -> Expr:
    lanes = vector.lanes_of(value)
    return tirx.Cast("uint32" if lanes == 1 else f"uint32x{lanes}", value)


def _unsigned(value: int) -> Expr:
    return tirx.const(value, "uint32")


def _like(value: int, like: Expr, dtype: str) -> Expr:
    lanes = vector.lanes_of(like)
    constant = tirx.const(value, dtype)
    return constant if lanes == 1 else tirx.Broadcast(constant, lanes)


def _bound(values: Sequence[Expr], use: Callable[[Sequence[Expr]], Any], done: tuple[Expr, ...] = ()) -> Any:
    """Names for values inside of an expression."""
    if not values:
        return use(done)
    return vector.bind(values[0], lambda v: _bound(values[1:], use, (*done, v)))


def _held(values: Sequence[Expr]) -> list[Expr]:
    """Values in registers."""
    held = []
    for value in values:
        lanes = vector.lanes_of(value)
        register = T.alloc_buffer((lanes,), "uint32", layout=None)
        T.buffer_store(register, value, [T.ramp(0, 1, lanes)])
        held.append(register[T.ramp(0, 1, lanes)])
    return held


def _store_mask(mask: Expr, kept: Expr, at: Expr, lanes: int, width: int) -> None:
    if width == lanes:
        T.buffer_store(mask, kept, [T.ramp(at, 1, lanes)])
        return
    memory = T.alloc_buffer((lanes,), "bool", layout=None)
    T.buffer_store(memory, kept, [T.ramp(0, 1, lanes)])
    with T.serial(width) as i:
        T.buffer_store(mask, memory[i], [at + i])
