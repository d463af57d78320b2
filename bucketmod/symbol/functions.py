"""Python functions for operators, made from the registry: ``mx.sym.FullyConnected(data, num_hidden=10)``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bucketmod.base import MXNetError, _Null
from bucketmod.operators import OpDef, get_op, op_names
from bucketmod.symbol.compose import apply_operator, single, text
from bucketmod.symbol.graph import Entry
from bucketmod.symbol.symbol import Symbol, binary

OperatorFunction = Callable[..., Symbol]


def operator_function(spelling: str) -> OperatorFunction:
    """The function for an operator's name or alias; automatic node names come from this spelling."""
    op = get_op(spelling)
    function = _variadic_function(op, spelling) if op.variadic else _fixed_function(op, spelling)
    function.__name__ = function.__qualname__ = spelling
    function.__module__ = "bucketmod.symbol"
    function.__doc__ = _documentation(op)
    function.__signature__ = _signature(op)  # type: ignore[attr-defined]
    return function


def _fixed_function(op: OpDef, spelling: str) -> OperatorFunction:
    positional = [*op.arguments, *op.auxiliary, *(p.name for p in op.params)]
    inputs = frozenset((*op.arguments, *op.auxiliary))

    def call(*args: Any, name: str | None = None, attr: dict[str, str] | None = None, out: Any = None, **kwargs: Any):
        if len(args) > len(positional):
            raise TypeError(f"{spelling}() takes {len(positional)} positional arguments, got {len(args)}")
        for key, value in zip(positional, args, strict=False):
            if key in kwargs:
                raise TypeError(f"{spelling}() got two values for {key!r}")
            kwargs[key] = value
        entries: dict[str, Entry] = {}
        attrs: dict[str, str] = dict(_checked(attr)) if attr else {}
        for key, value in kwargs.items():
            if isinstance(value, Symbol):
                entries[key] = single(value.outputs, spelling, key)
            elif key in inputs:
                if value is not None:
                    raise TypeError(f"{spelling}(): {key} must be a Symbol, not {type(value).__name__} {value!r}")
            elif value is not _Null:
                attrs[key] = _attribute_text(key, value)
        return Symbol(apply_operator(op, spelling, entries, attrs, name))

    return call


def _variadic_function(op: OpDef, spelling: str) -> OperatorFunction:
    def call(*data: Any, name: str | None = None, attr: dict[str, str] | None = None, out: Any = None, **kwargs: Any):
        for value in data:
            if not isinstance(value, Symbol):
                raise TypeError(f"{spelling}(): inputs must be Symbols, not {type(value).__name__}: {spelling}(*list)")
        attrs = dict(_checked(attr)) if attr else {}
        for key, value in kwargs.items():
            if isinstance(value, Symbol):
                raise TypeError(f"{spelling}() takes its inputs by position, not as {key}=")
            if value is not _Null:
                attrs[key] = _attribute_text(key, value)
        attrs.setdefault(op.variadic, str(len(data)))
        if attrs[op.variadic] == "0":
            raise MXNetError(f"{spelling}() needs one input or more")
        entries = [single(value.outputs, spelling, str(i)) for i, value in enumerate(data)]
        return Symbol(apply_operator(op, spelling, entries, attrs, name))

    return call


def _checked(attr: dict[str, str]) -> dict[str, str]:
    for key, value in attr.items():
        if not isinstance(value, str):
            raise ValueError(f"attribute {key!r} must be text, not {type(value).__name__} {value!r}")
    return attr


def _attribute_text(key: str, value: Any) -> str:
    if key == "dtype" and value is not None and not isinstance(value, str):
        return np.dtype(value).name
    return text(value)


def _signature(op: OpDef) -> inspect.Signature:
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    after = inspect.Parameter.KEYWORD_ONLY if op.variadic else kind
    found = [inspect.Parameter(n, kind, default=None) for n in (*op.arguments, *op.auxiliary)]
    if op.variadic:
        found = [inspect.Parameter("data", inspect.Parameter.VAR_POSITIONAL)]
    found += [inspect.Parameter(p.name, after, default=_Null) for p in op.params if p.name != op.variadic]
    only = inspect.Parameter.KEYWORD_ONLY
    found += [inspect.Parameter(n, only, default=None) for n in ("name", "attr", "out")]
    return inspect.Signature([*found, inspect.Parameter("kwargs", inspect.Parameter.VAR_KEYWORD)])


def _documentation(op: OpDef) -> str:
    lines = [op.doc or op.name, ""]
    if op.arguments:
        lines.append("Inputs: " + ", ".join(op.arguments) + " (Symbols; made as variables where not given).")
    elif op.variadic:
        lines.append("Inputs: one Symbol or more, by position.")
    for param in op.params:
        if param.name != op.variadic:
            lines.append(f"{param.name}: {param.kind}" + (", required" if param.required else f" = {param.default}"))
    lines += ["name, attr: the node's name and further attributes.", "", "Raises OperatorError for wrong attributes."]
    return "\n".join(lines)


OPERATOR_FUNCTIONS: dict[str, OperatorFunction] = {name: operator_function(name) for name in op_names()}


def _two(symbol_op: str, scalar_op: str, reverse_op: str, compute: Callable[[Any, Any], Any], doc: str) -> Any:
    def call(left: Any, right: Any) -> Any:
        if isinstance(left, Symbol):
            return binary(left, right, symbol_op, scalar_op)
        if isinstance(right, Symbol):
            return binary(left, right, symbol_op, reverse_op)
        return compute(left, right)

    call.__doc__ = f"{doc}, for symbols of equal shape or a symbol and a number."
    return call


maximum = _two("_Maximum", "_MaximumScalar", "_MaximumScalar", max, "The greater one, elementwise")
minimum = _two("_Minimum", "_MinimumScalar", "_MinimumScalar", min, "The smaller one, elementwise")
hypot = _two("_Hypot", "_HypotScalar", "_HypotScalar", np.hypot, "sqrt(left**2 + right**2)")
power = pow = _two("_Power", "_PowerScalar", "_RPowerScalar", lambda a, b: a**b, "left to the power of right")
for _name, _function in (("maximum", maximum), ("minimum", minimum), ("hypot", hypot), ("power", power)):
    _function.__name__ = _function.__qualname__ = _name


def zeros(shape: int | Sequence[int], dtype: Any = None, **kwargs: Any) -> Symbol:
    """Zeros. A dimension 0 is completed by shape inference."""
    return OPERATOR_FUNCTIONS["_zeros"](shape=shape, dtype=dtype or "float32", **kwargs)


def ones(shape: int | Sequence[int], dtype: Any = None, **kwargs: Any) -> Symbol:
    """Ones. A dimension 0 is completed by shape inference."""
    return OPERATOR_FUNCTIONS["_ones"](shape=shape, dtype=dtype or "float32", **kwargs)


def full(shape: int | Sequence[int], val: float, dtype: Any = None, **kwargs: Any) -> Symbol:
    """``val`` everywhere."""
    return OPERATOR_FUNCTIONS["_full"](shape=shape, dtype=dtype or "float32", value=float(val), **kwargs)


def arange(
    start: float,
    stop: float | None = None,
    step: float = 1.0,
    repeat: int = 1,
    infer_range: bool = False,
    name: str | None = None,
    dtype: Any = None,
) -> Symbol:
    """start, start + step, ... below ``stop`` (0, 1, ... below ``start`` without one), each ``repeat`` times."""
    return OPERATOR_FUNCTIONS["_arange"](
        start=start, stop=stop, step=step, repeat=repeat, infer_range=infer_range, name=name, dtype=dtype or "float32"
    )


# Methods that only put the symbol in first place: x.sum(axis=1) is mx.sym.sum(x, axis=1).
_FLUENT = """
abs arccosh arcsinh arctanh argmax argmax_channel argmin broadcast_axes broadcast_like broadcast_to cbrt ceil clip cos
cosh degrees depth_to_space exp expm1 fix flip floor log log10 log1p log2 log_softmax max mean min nanprod nansum norm
one_hot ones_like pad pick prod radians rcbrt reciprocal relu repeat reshape reshape_like rint round rsqrt sigmoid sign
sin sinh slice slice_axis slice_like softmax softmin space_to_depth split sqrt square sum swapaxes take tan tanh tile
transpose trunc zeros_like
""".split()


def _fluent_method(spelling: str) -> Callable[..., Symbol]:
    function = OPERATOR_FUNCTIONS[spelling]

    def method(self: Symbol, *args: Any, **kwargs: Any) -> Symbol:
        return function(self, *args, **kwargs)

    method.__name__, method.__qualname__ = spelling, f"Symbol.{spelling}"
    method.__doc__ = f"``mx.sym.{spelling}`` of this symbol."
    return method


def _squeeze(self: Symbol, axis: Any = None, inplace: bool = False, **kwargs: Any) -> Symbol:
    """``mx.sym.squeeze`` of this symbol; ``inplace`` changes nothing here."""
    return OPERATOR_FUNCTIONS["squeeze"](self, axis=axis, **kwargs)


def _expand_dims(self: Symbol, axis: int, inplace: bool = False, **kwargs: Any) -> Symbol:
    """``mx.sym.expand_dims`` of this symbol; ``inplace`` changes nothing here."""
    return OPERATOR_FUNCTIONS["expand_dims"](self, axis=axis, **kwargs)


def _flatten(self: Symbol, inplace: bool = False, **kwargs: Any) -> Symbol:
    """``mx.sym.flatten`` of this symbol; ``inplace`` changes nothing here."""
    return OPERATOR_FUNCTIONS["flatten"](self, **kwargs)


def _astype(self: Symbol, dtype: Any, **kwargs: Any) -> Symbol:
    """``mx.sym.cast`` of this symbol."""
    return OPERATOR_FUNCTIONS["cast"](self, dtype=dtype, **kwargs)


def install_fluent_methods() -> None:
    """Gives Symbol its methods named like operators."""
    for spelling in _FLUENT:
        setattr(Symbol, spelling, _fluent_method(spelling))
    special = {"squeeze": _squeeze, "expand_dims": _expand_dims, "flatten": _flatten, "astype": _astype}
    for spelling, method in special.items():
        method.__name__, method.__qualname__ = spelling, f"Symbol.{spelling}"
        setattr(Symbol, spelling, method)


install_fluent_methods()
