"""The table of operators. An operator is a name, argument names, attributes, a shape rule and a type rule."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bucketmod.base import OperatorError
from bucketmod.operators import types
from bucketmod.operators.parameters import Param
from bucketmod.operators.shapes import Shape

Attrs = Mapping[str, Any]
Names = Sequence[str]
# Rules fill in the lists that they are given: what is unknown (None, or 0 for one dimension) becomes known where the
# operator determines it, from inputs to outputs and back. They raise ValueError when the shapes contradict each other.
ShapeRule = Callable[[Attrs, list[Shape], list[Shape]], None]
TypeRule = Callable[[Attrs, list[str | None], list[str | None]], None]


@dataclass(frozen=True, eq=False)
class OpDef:
    """An operator of the graph.

    ``arguments``: every argument that a call may give, in order; ``inputs_of`` and ``outputs_of`` narrow these
    down for one set of parsed attributes. ``variadic`` names the attribute that holds the number of inputs of an
    operator that takes any number of them. The first ``visible_of(attrs)`` outputs are seen by the user.
    ``variable_attrs``: attributes that an automatically made argument gets (its initializer, say).
    """

    name: str
    arguments: tuple[str, ...]
    params: tuple[Param, ...]
    shape_rule: ShapeRule
    type_rule: TypeRule
    inputs_of: Callable[[Attrs], Names]
    outputs_of: Callable[[Attrs], Names]
    visible_of: Callable[[Attrs], int]
    auxiliary: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    variadic: str = ""
    variable_attrs: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    doc: str = ""
    _parsed: dict[tuple[tuple[str, str], ...], Attrs] = field(default_factory=dict, repr=False)

    def parse(self, attrs: Mapping[str, str]) -> Attrs:
        """Typed values of all parameters, defaults included. Do not change the result: equal texts share it.

        ``attrs`` may hold ``__hidden__`` keys, which are no parameters. Raises OperatorError for a missing,
        unknown or unreadable attribute.
        """
        key = tuple(attrs.items())
        parsed = self._parsed.get(key)
        if parsed is None:
            if len(self._parsed) > 4096:  # a long process that makes ever new attributes must not grow for ever
                self._parsed.clear()
            parsed = self._parsed[key] = self._parse(attrs)
        return parsed

    def _parse(self, attrs: Mapping[str, str]) -> dict[str, Any]:
        given = {k: v for k, v in attrs.items() if not (k.startswith("__") and k.endswith("__"))}
        parsed: dict[str, Any] = {}
        for param in self.params:
            if param.name not in given:
                if param.required:
                    raise OperatorError(f"{self.name} needs the attribute {param.name} ({param.kind})")
                parsed[param.name] = param.default
                continue
            value = given.pop(param.name)
            try:
                parsed[param.name] = param.read(value)
            except (ValueError, OverflowError):
                raise OperatorError(f"{self.name}: {param.name}={value!r} is not {_a(param.kind)}") from None
        if given and self.params:
            known = ", ".join(p.name for p in self.params)
            raise OperatorError(f"{self.name} has no attribute {', '.join(map(repr, given))}; it has: {known}")
        return parsed

    def inputs(self, attrs: Attrs) -> list[str]:
        """Argument names for these parsed attributes, auxiliary states not among them."""
        return list(self.inputs_of(attrs))

    def aux(self, attrs: Attrs) -> list[str]:
        """Names of the auxiliary states; in a node they come after the inputs."""
        return list(self.auxiliary)

    def output_names(self, attrs: Attrs) -> list[str]:
        """Suffixes of all outputs, the invisible ones too."""
        return list(self.outputs_of(attrs))

    def num_outputs(self, attrs: Attrs) -> int:
        return len(self.outputs_of(attrs))

    def visible_outputs(self, attrs: Attrs) -> int:
        return self.visible_of(attrs)

    def infer_shape(
        self, attrs: Attrs, in_shapes: Sequence[Shape], out_shapes: Sequence[Shape]
    ) -> tuple[list[Shape], list[Shape], list[Shape]]:
        """(inputs, outputs, auxiliary): what is known after one look, in either direction.

        ``in_shapes`` holds inputs and then auxiliary states. Unknown: None for a shape, 0 for a dimension.
        Raises ValueError when the shapes contradict each other.
        """
        ins, outs = list(in_shapes), list(out_shapes)
        self.shape_rule(attrs, ins, outs)
        split = len(ins) - len(self.auxiliary)
        return ins[:split], outs, ins[split:]


def _a(kind: str) -> str:
    return kind if kind.startswith(("one of", "text")) else f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


_BY_NAME: dict[str, OpDef] = {}


def register(
    name: str,
    arguments: Names = ("data",),
    params: Sequence[Param] = (),
    *,
    shape: ShapeRule,
    type_rule: TypeRule = types.same,
    inputs_of: Callable[[Attrs], Names] | None = None,
    aux: Names = (),
    outputs: Names | Callable[[Attrs], Names] = ("output",),
    visible: int | Callable[[Attrs], int] | None = None,
    aliases: Names = (),
    variadic: str = "",
    variable_attrs: Mapping[str, Mapping[str, str]] | None = None,
    doc: str = "",
) -> OpDef:
    """Adds an operator. ``visible`` defaults to all outputs; ``inputs_of`` to all arguments, or to arg0, arg1, ..., as
    many as the attribute ``variadic`` says."""
    fixed_arguments = tuple(arguments)
    outputs_of = outputs if callable(outputs) else _always(tuple(outputs))
    if visible is None:
        visible_of: Callable[[Attrs], int] = lambda attrs: len(outputs_of(attrs))  # noqa: E731
    else:
        visible_of = visible if callable(visible) else _always(visible)
    op = OpDef(
        name=name,
        arguments=fixed_arguments,
        params=tuple(params),
        shape_rule=shape,
        type_rule=type_rule,
        inputs_of=inputs_of or (_numbered(variadic) if variadic else _always(fixed_arguments)),
        auxiliary=tuple(aux),
        outputs_of=outputs_of,
        visible_of=visible_of,
        aliases=tuple(aliases),
        variadic=variadic,
        variable_attrs=variable_attrs or {},
        doc=doc,
    )
    for spelling in (name, *op.aliases):
        if spelling in _BY_NAME:
            raise ValueError(f"operator {spelling!r} is registered twice")
        _BY_NAME[spelling] = op
    return op


def _always(value: Any) -> Callable[[Attrs], Any]:
    return lambda attrs: value


def _numbered(count: str) -> Callable[[Attrs], list[str]]:
    return lambda attrs: [f"arg{i}" for i in range(attrs[count])]


def get_op(name: str) -> OpDef:
    """The operator of this name or alias. Raises OperatorError that names it when there is none."""
    op = _BY_NAME.get(name)
    if op is None:
        raise OperatorError(f"operator {name!r} is not available in this version of bucketmod")
    return op


def op_names() -> list[str]:
    """Every name and alias."""
    return list(_BY_NAME)
