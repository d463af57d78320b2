"""Optimizer states as MXNet's files hold them: pickles, read and written here as plain data.

This package's own form, :mod:`bucketmod.optimizer.state_file`, is the default; this one is for exchange with MXNet.

Reading walks the opcodes itself and imports or calls nothing: a file can only yield containers, numbers, text, bytes,
arrays, and the optimizers and schedulers of this package with plain attributes. Everything else is an error. Writing
produces what MXNet 1.9.1 unpickles.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import struct
from collections.abc import Callable
from typing import Any

import numpy as np

from bucketmod import lr_scheduler
from bucketmod.base import DTYPE_CODES, MXNetError
from bucketmod.ndarray import NDArray
from bucketmod.ndarray.serialization import read_array, write_array
from bucketmod.optimizer.optimizer import Optimizer

_ARRAY_CLASS = ("mxnet.ndarray.ndarray", "NDArray")
_OPTIMIZER_MODULE = "mxnet.optimizer.optimizer"
_SCHEDULER_MODULE = "mxnet.lr_scheduler"
SCHEDULERS = ("LRScheduler", "FactorScheduler", "MultiFactorScheduler", "PolyScheduler", "CosineScheduler")
_BYTEARRAY = {("builtins", "bytearray"), ("__builtin__", "bytearray")}
_NUMPY = {"numpy", "numpy.core.multiarray", "numpy._core.multiarray", "numpy.core.numeric", "numpy._core.numeric"}
_MAX_DEPTH = 100


class _Name:
    """A class or function that the file names; it is never looked up."""

    def __init__(self, module: str, name: str) -> None:
        self.path = (module, name)


class _Object:
    """What the file would build by calling ``path`` with ``arguments`` and giving it ``state``."""

    def __init__(self, path: tuple[str, str], arguments: Any) -> None:
        self.path = path
        self.arguments = arguments
        self.state: Any = None


class _Reader:
    """The stack machine of pickle, for the opcodes that plain data needs."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def read(self, data: bytes) -> Any:
        for opcode, argument, _ in pickletools.genops(io.BytesIO(data)):
            if opcode.name == "STOP":
                return self.stack.pop()
            self._step(opcode.name, argument)
        raise MXNetError("optimizer states: the data ends too early")

    def _step(self, name: str, argument: Any) -> None:
        if name in ("PROTO", "FRAME"):
            return
        if name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name]())
        elif name in _LITERALS:
            self.stack.append(argument)
        elif name == "MARK":
            self.marks.append(len(self.stack))
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = self.stack[-1]
        elif name in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = self.stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[argument])
        elif name in _ACTIONS:
            _ACTIONS[name](self, argument)
        else:
            raise MXNetError(f"optimizer states: {name} is not allowed; the file holds more than arrays and plain data")

    def since_mark(self) -> list[Any]:
        start = self.marks.pop()
        taken = self.stack[start:]
        del self.stack[start:]
        return taken

    def take(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise IndexError("stack underflow")
        taken = self.stack[-count:]
        del self.stack[-count:]
        return taken

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise TypeError("SETITEM on something that is no dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if isinstance(key, tuple):  # hashing one that is deep, or holds itself many times over, has no bounds
                raise TypeError("a tuple as a key")
            target[key] = value

    def append(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise TypeError("APPEND to something that is no list")
        self.stack[-1].extend(items)

    def reduce(self) -> None:
        function, arguments = self.take(2)
        if not isinstance(function, _Name) or not isinstance(arguments, tuple):
            raise TypeError("REDUCE of something that is no class")
        if function.path in _BYTEARRAY:
            (content,) = arguments or (b"",)
            self.stack.append(bytearray(_as_bytes(content)))
        else:
            self.stack.append(_Object(_allowed(function.path), arguments))

    def build(self) -> None:
        target, state = self.take(2)
        if not isinstance(target, _Object):
            raise TypeError("BUILD on something that is no object")
        target.state = state
        self.stack.append(target)


def _as_bytes(content: Any) -> bytes:
    if not isinstance(content, (bytes, bytearray)):
        raise TypeError(f"expected bytes, got {type(content)}")
    return bytes(content)


def _allowed(path: tuple[str, str]) -> tuple[str, str]:
    module, name = path
    known = (
        path == _ARRAY_CLASS
        or (module == _OPTIMIZER_MODULE and name.lower() in Optimizer.opt_registry)
        or (module == _SCHEDULER_MODULE and name in SCHEDULERS)
        or (module in _NUMPY and name in ("_reconstruct", "ndarray", "dtype", "scalar", "_frombuffer"))
        or path == ("collections", "OrderedDict")
    )
    if not known:
        raise MXNetError(
            f"optimizer states: {module}.{name} is not allowed in the file; only arrays and plain data are"
        )
    return path


_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False, "EMPTY_DICT": dict, "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple, "EMPTY_SET": set,
}  # fmt: skip
_LITERALS = {
    "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8",
    "SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8",
}  # fmt: skip


def _global(reader: _Reader, argument: str) -> None:
    module, name = argument.split(" ", 1)
    reader.stack.append(_Name(module, name))


def _stack_global(reader: _Reader, _: Any) -> None:
    module, name = reader.take(2)
    if not isinstance(module, str) or not isinstance(name, str):
        raise TypeError("STACK_GLOBAL without names")
    reader.stack.append(_Name(module, name))


_ACTIONS: dict[str, Callable[[_Reader, Any], None]] = {
    "GLOBAL": _global,
    "STACK_GLOBAL": _stack_global,
    "TUPLE": lambda r, _: r.stack.append(tuple(r.since_mark())),
    "TUPLE1": lambda r, _: r.stack.append(tuple(r.take(1))),
    "TUPLE2": lambda r, _: r.stack.append(tuple(r.take(2))),
    "TUPLE3": lambda r, _: r.stack.append(tuple(r.take(3))),
    "SETITEM": lambda r, _: r.set_items(r.take(2)),
    "SETITEMS": lambda r, _: r.set_items(r.since_mark()),
    "APPEND": lambda r, _: r.append(r.take(1)),
    "APPENDS": lambda r, _: r.append(r.since_mark()),
    "REDUCE": lambda r, _: r.reduce(),
    "NEWOBJ": lambda r, _: r.reduce(),
    "BUILD": lambda r, _: r.build(),
}


class _Resolver:
    """Turns what the reader left (containers with ``_Object`` in them) into values; shared parts stay shared."""

    def __init__(self) -> None:
        self.done: dict[int, Any] = {}
        self.open: set[int] = set()

    def resolve(self, value: Any) -> Any:
        if value is None or isinstance(value, (bool, int, float, str, bytes, bytearray)):
            return value
        if id(value) in self.done:
            return self.done[id(value)]
        if id(value) in self.open or len(self.open) > _MAX_DEPTH:
            raise MXNetError("optimizer states: containers hold themselves or are nested too deeply")
        self.open.add(id(value))
        result = self.done[id(value)] = self._convert(value)
        self.open.remove(id(value))
        return result

    def _convert(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {self.resolve(key): self.resolve(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(self.resolve(item) for item in value)
        if isinstance(value, _Object):
            return self._build(value.path, value.arguments, value.state)
        raise MXNetError(f"optimizer states: a bare {type(value).__name__} is not allowed in the file")

    def _build(self, path: tuple[str, str], arguments: Any, state: Any) -> Any:
        module, name = path
        if path == _ARRAY_CLASS:
            return self._mxnet_array(state)
        if module in _NUMPY:
            return self._numpy_array(name, arguments, state)
        if module == "collections":
            return {}
        plain = self.resolve(state)
        if not isinstance(plain, dict):
            raise MXNetError(f"optimizer states: {name} without attributes")
        if module == _SCHEDULER_MODULE:
            return with_attributes(getattr(lr_scheduler, name), plain)
        return with_attributes(Optimizer.opt_registry[name.lower()], plain)

    def _mxnet_array(self, state: Any) -> NDArray | None:
        if not isinstance(state, dict) or "handle" not in state:
            raise MXNetError("optimizer states: an NDArray without contents")
        return None if state["handle"] is None else read_array(_as_bytes(state["handle"]))

    def _numpy_array(self, name: str, arguments: Any, state: Any) -> Any:
        """The array of numpy's ways to pickle: ``_reconstruct`` (old), ``_frombuffer`` (protocol 5), ``scalar``."""
        if name == "scalar":
            dtype, content = arguments
            return np.frombuffer(_as_bytes(content), _dtype(dtype), count=1)[0]
        if name == "_reconstruct":
            _, shape, dtype, column_order, content = state
            order: Any = "F" if column_order else "C"
        elif name == "_frombuffer":
            content, dtype, shape, order = arguments
        else:
            raise MXNetError(f"optimizer states: a bare numpy.{name} is not allowed in the file")
        return np.frombuffer(_as_bytes(content), _dtype(dtype)).reshape(shape, order=order).copy()


def _dtype(described: Any) -> np.dtype:
    text = described.arguments[0] if isinstance(described, _Object) and described.path[1] == "dtype" else None
    if not isinstance(text, str) or np.dtype(text).name not in DTYPE_CODES:
        raise MXNetError(f"optimizer states: numpy dtype {text!r} is not allowed in the file")
    order = described.state[1] if isinstance(described.state, tuple) and len(described.state) > 1 else "<"
    return np.dtype(text).newbyteorder(">" if order == ">" else "<")


def with_attributes(klass: type, attributes: dict[str, Any]) -> Any:
    """An instance of ``klass`` that holds ``attributes``, which must be identifiers; methods cannot be replaced."""
    made: Any = object.__new__(klass)
    for key, value in attributes.items():
        if not isinstance(key, str) or not key.isidentifier() or key.startswith("__") or hasattr(klass, key):
            raise MXNetError(f"optimizer states: {klass.__name__} cannot take an attribute {key!r}")
        made.__dict__[key] = value
    if isinstance(made, Optimizer):
        made.__setstate__({**_defaults(klass), **made.__dict__})
    return made


def _defaults(klass: type) -> dict[str, Any]:
    """Attributes of a new optimizer; of the base alone where the class cannot be made without arguments."""
    try:
        return dict(klass().__dict__)
    except TypeError:
        return dict(Optimizer().__dict__)


def loads(data: bytes) -> Any:
    """The value in ``data``: a pickle of arrays and plain containers, written by MXNet or by ``dumps``.

    Raises MXNetError for damaged data and for whatever else a pickle could hold.
    """
    try:
        return _Resolver().resolve(_Reader().read(_as_bytes(data)))
    except (LookupError, ValueError, TypeError, AttributeError, ArithmeticError, MemoryError, struct.error) as error:
        raise MXNetError(f"optimizer states: damaged data ({type(error).__name__}: {error})") from error


# ---- writing


def dumps(value: Any) -> bytes:
    """A pickle (protocol 4) from which MXNet gets ``value``: arrays, plain containers, this package's optimizers.

    Raises TypeError, naming the type, for anything else.
    """
    out = io.BytesIO()
    out.write(b"\x80\x04")
    _write(out, value)
    out.write(pickle.STOP)
    return out.getvalue()


def _write(out: io.BytesIO, value: Any) -> None:
    if isinstance(value, NDArray):
        _write_array(out, value)
    elif isinstance(value, (np.generic, np.ndarray)) and value.ndim == 0:
        _write(out, value.item())
    elif isinstance(value, dict):
        out.write(pickle.EMPTY_DICT + pickle.MARK)
        for key, item in value.items():
            _write(out, key)
            _write(out, item)
        out.write(pickle.SETITEMS)
    elif isinstance(value, list):
        out.write(pickle.EMPTY_LIST + pickle.MARK)
        for item in value:
            _write(out, item)
        out.write(pickle.APPENDS)
    elif isinstance(value, tuple):
        out.write(pickle.MARK)
        for item in value:
            _write(out, item)
        out.write(pickle.TUPLE)
    elif isinstance(value, (Optimizer, lr_scheduler.LRScheduler)):
        _write_object(out, value)
    else:
        _write_plain(out, value)


def _write_plain(out: io.BytesIO, value: Any) -> None:
    if value is None:
        out.write(pickle.NONE)
    elif isinstance(value, bool):
        out.write(pickle.NEWTRUE if value else pickle.NEWFALSE)
    elif isinstance(value, int):
        digits = pickle.encode_long(value)
        out.write(pickle.LONG1 + bytes([len(digits)]) + digits)
    elif isinstance(value, float):
        out.write(pickle.BINFLOAT + struct.pack(">d", value))
    elif isinstance(value, str):
        encoded = value.encode("utf-8", "surrogatepass")
        out.write(pickle.BINUNICODE + struct.pack("<I", len(encoded)) + encoded)
    elif isinstance(value, (bytes, bytearray)):
        out.write(pickle.BINBYTES8 + struct.pack("<Q", len(value)) + value)
    else:
        raise TypeError(f"optimizer states of {type(value)} cannot be written; arrays and plain containers can")


def _write_global(out: io.BytesIO, module: str, name: str) -> None:
    out.write(pickle.GLOBAL + f"{module}\n{name}\n".encode())


def _write_array(out: io.BytesIO, array: NDArray) -> None:
    content = io.BytesIO()
    write_array(content, array)
    _write_global(out, *_ARRAY_CLASS)
    out.write(pickle.NONE + pickle.TUPLE1 + pickle.REDUCE + pickle.EMPTY_DICT)
    _write_plain(out, "handle")
    _write_global(out, "builtins", "bytearray")
    _write_plain(out, content.getvalue())
    out.write(pickle.TUPLE1 + pickle.REDUCE + pickle.SETITEM + pickle.BUILD)


def _write_object(out: io.BytesIO, value: Optimizer | lr_scheduler.LRScheduler) -> None:
    klass = type(value)
    if not klass.__module__.startswith("bucketmod."):
        raise TypeError(f"{klass.__module__}.{klass.__name__} cannot be written: MXNet would not know the class")
    if isinstance(value, Optimizer):
        module, attributes = _OPTIMIZER_MODULE, value.__getstate__()
    else:
        module, attributes = _SCHEDULER_MODULE, dict(value.__dict__)
    _write_global(out, module, klass.__name__)
    out.write(pickle.EMPTY_TUPLE + pickle.NEWOBJ)
    _write(out, attributes)
    out.write(pickle.BUILD)
