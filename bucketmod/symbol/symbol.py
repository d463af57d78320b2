"""Symbol: what users hold of a graph, one or more outputs of its nodes."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn, overload

import numpy as np

from bucketmod.atomic_file import replacing
from bucketmod.base import DTYPE_CODES, MXNetError, NotImplementedForSymbol
from bucketmod.operators import get_op
from bucketmod.operators.shapes import Shape, complete
from bucketmod.symbol import inference
from bucketmod.symbol.compose import HIDDEN_KEYS, apply_operator, hidden_key, replace_variables, single, text
from bucketmod.symbol.graph import Entry, Node, auxiliary_nodes, copy_graph, topological_nodes
from bucketmod.symbol.serialization import read_graph, write_graph

_HIDDEN = {f"__{key}__": key for key in HIDDEN_KEYS}
_Walk = tuple[list[Entry], list[Node], list[Node], list[Node]]


class Symbol:
    """One or more outputs of a graph of operators over variables. Describes a computation; holds no numbers.

    Python's operators make new nodes; between two symbols they need equal shapes (``broadcast_add`` and its family
    broadcast). ``outputs``: list of (Node, index of its output).
    """

    __slots__ = ("outputs", "_walked", "__weakref__")
    __array_ufunc__ = None  # numpy numbers on the left leave the operation to us

    def __init__(self, outputs: Sequence[Entry]) -> None:
        self.outputs: list[Entry] = list(outputs)
        self._walked: _Walk | None = None

    # -- the graph ---------------------------------------------------------------------------------------------------

    def topological_nodes(self) -> list[Node]:
        """All nodes, inputs before users: depth first, left to right, each node once."""
        return list(self._walk()[1])

    def _walk(self) -> _Walk:
        """(outputs, all nodes, arguments, auxiliary states). Nodes keep their inputs for life, so that one walk over
        the graph answers every later question."""
        walked = self._walked
        if walked is None or walked[0] != self.outputs:
            nodes = topological_nodes(self.outputs)
            variables, states = [node for node in nodes if node.op is None], auxiliary_nodes(nodes)
            arguments = [node for node in variables if node not in states] if states else variables
            walked = list(self.outputs), nodes, arguments, [node for node in variables if node in states]
            self._walked = walked
        return walked

    @property
    def name(self) -> str | None:
        """The node's name; None for a group of several nodes."""
        first = self.outputs[0][0]
        return first.name if all(node is first for node, _ in self.outputs) else None

    def list_arguments(self) -> list[str]:
        """Names of the variables in order of first use, each node once, auxiliary states not among them."""
        return [node.name for node in self._walk()[2]]

    def list_auxiliary_states(self) -> list[str]:
        """Names of the variables that operators keep as states, such as moving averages."""
        return [node.name for node in self._walk()[3]]

    def list_inputs(self) -> list[str]:
        """Names of all variables, arguments and auxiliary states, in order of first use."""
        return [node.name for node in self._walk()[1] if node.op is None]

    def list_outputs(self) -> list[str]:
        """``<node>_output`` for each output; a variable's own name."""
        return [node.output_name(index) for node, index in self.outputs]

    def get_internals(self) -> Symbol:
        """A group of all visible outputs of all nodes, so that ``s.get_internals()["fc1_output"]`` cuts the graph."""
        return Symbol([(node, i) for node in self.topological_nodes() for i in range(node.visible_outputs)])

    def get_children(self) -> Symbol | None:
        """A group of the inputs of the output nodes; None when they have none."""
        heads = dict.fromkeys(node for node, _ in self.outputs)
        entries = [entry for node in heads for entry in node.inputs]
        return Symbol(entries) if entries else None

    def __repr__(self) -> str:
        if self.name is not None:
            return f"<Symbol {self.name}>"
        return f"<Symbol group [{', '.join(node.name for node, _ in self.outputs)}]>"

    def __len__(self) -> int:
        return len(self.outputs)

    def __iter__(self) -> Iterator[Symbol]:
        return (Symbol([entry]) for entry in self.outputs)

    def __getitem__(self, index: int | str | slice) -> Symbol:
        """One output by position or by its name in ``list_outputs``; several by a slice.

        Raises IndexError, ValueError for a name that no output or more than one has, TypeError for other indices.
        """
        if isinstance(index, str):
            found = [i for i, name in enumerate(self.list_outputs()) if name == index]
            if len(found) != 1:
                problem = "no output is" if not found else f"{len(found)} outputs are"
                raise ValueError(f"{problem} called {index!r}: use a position, or a name from list_outputs()")
            return Symbol([self.outputs[found[0]]])
        if isinstance(index, slice):
            return Group(list(self)[index])
        if not isinstance(index, (int, np.integer)) or isinstance(index, bool):
            raise TypeError(f"a Symbol is indexed by a whole number, an output name or a slice, not {index!r}")
        if index < 0:
            raise MXNetError(f"output {index}: positions start at 0")
        if index >= len(self.outputs):
            raise IndexError(f"output {index} of {len(self.outputs)}")
        return Symbol([self.outputs[index]])

    # -- copies and composition --------------------------------------------------------------------------------------

    def __copy__(self) -> Symbol:
        return Symbol(copy_graph(self.outputs))

    def __deepcopy__(self, memo: Any = None) -> Symbol:
        return self.__copy__()

    def copy(self) -> Symbol:
        """A symbol over copies of all nodes."""
        return self.__copy__()

    def __getstate__(self) -> dict[str, str]:
        return {"json": self.tojson()}

    def __setstate__(self, state: dict[str, str]) -> None:
        self.outputs, self._walked = read_graph(state["json"]), None

    def __call__(self, *args: Symbol, name: str | None = None, **kwargs: Symbol) -> Symbol:
        """A copy of this graph with symbols in place of free variables: ``net(data=other)``.

        ``name`` renames the output node. Raises MXNetError for a keyword that is no variable, TypeError for what is no
        symbol.
        """
        if args and kwargs:
            raise TypeError("give the inputs by position or by keyword, not both")
        for value in [*args, *kwargs.values()]:
            if not isinstance(value, Symbol):
                raise TypeError(f"composition takes symbols, not {type(value).__name__} {value!r}")
        if args:
            raise MXNetError("a finished graph is composed by keyword only: net(data=symbol)")
        entries = {key: single(value.outputs, "composition", key) for key, value in kwargs.items()}
        return Symbol(replace_variables(self.outputs, entries, name))

    # -- attributes --------------------------------------------------------------------------------------------------

    def attr(self, key: str) -> str | None:
        """An attribute of the node as text, None without it or for a group. Also ``name`` and ``op_name``."""
        node = self._single_node()
        if node is None:
            return None
        if key == "name":
            return node.name
        if key == "op_name":
            return node.op_name
        value = node.attrs.get(key)
        return node.attrs.get(f"__{key}__") if value is None and key in HIDDEN_KEYS else value

    def list_attr(self, recursive: bool = False) -> dict[str, str]:
        """Attributes of the node, the operator's and the ``__hidden__`` ones; {} for a group."""
        if recursive:
            raise DeprecationWarning("list_attr(recursive=True) is gone: attr_dict() has the attributes of all nodes")
        node = self._single_node()
        return {} if node is None else _shown_attrs(node)

    def attr_dict(self) -> dict[str, dict[str, str]]:
        """Attributes of every node that has some, by the node's name."""
        return {node.name: _shown_attrs(node) for node in self.topological_nodes() if node.attrs}

    def _set_attr(self, **kwargs: str) -> None:
        """Sets attributes of the node. Raises ValueError for values that are no text, MXNetError for a group."""
        node = self._single_node()
        if node is None:
            raise MXNetError("attributes belong to one node, this is a group")
        for key, value in kwargs.items():
            if not isinstance(value, str):
                raise ValueError(f"attribute {key!r} must be text, not {value!r}")
            node.attrs[hidden_key(key)] = value
        node._parsed = None

    def _single_node(self) -> Node | None:
        first = self.outputs[0][0]
        return first if all(node is first for node, _ in self.outputs) else None

    # -- shapes and types --------------------------------------------------------------------------------------------

    def infer_shape(self, *args: Shape, **kwargs: Shape) -> tuple[Any, Any, Any]:
        """(argument shapes, output shapes, auxiliary shapes), lists of tuples in the order of the ``list_`` methods.

        Known shapes come by name, or by position in the order of ``list_arguments``; 0 is an unknown dimension. When
        some shape stays open, a warning lists the arguments and (None, None, None) comes back. Raises ShapeError (an
        MXNetError) naming the node where shapes contradict each other, TypeError for what is no tuple.
        """
        result, missing = self._infer_shape(args, kwargs)
        if missing:
            known = ", ".join(f"{name} {shape}" for name, shape in missing)
            warnings.warn(f"these shapes stay open, give more of them (0 = unknown): {known}", stacklevel=2)
            return None, None, None
        return result

    def infer_shape_partial(self, *args: Shape, **kwargs: Shape) -> tuple[Any, Any, Any]:
        """As :meth:`infer_shape`, but with what is known: () for an unknown shape, 0 for an unknown dimension."""
        return self._infer_shape(args, kwargs)[0]

    def _infer_shape(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, Any, Any], list[Any]]:
        _, nodes, arguments, states = self._walk()
        values = inference.infer_shapes(nodes, self._known(args, kwargs, nodes, _as_shape))
        result = (
            [values[node][0] or () for node in arguments],
            [values[node][index] or () for node, index in self.outputs],
            [values[node][0] or () for node in states],
        )
        missing = [(n.output_name(i), s or "?") for n in nodes for i, s in enumerate(values[n]) if not complete(s)]
        return result, missing

    def infer_type(self, *args: Any, **kwargs: Any) -> tuple[Any, Any, Any]:
        """(argument, output, auxiliary) element types as numpy scalar types, or (None, None, None) when some stay open.

        Known types come by name or by position, as anything numpy takes for a dtype.
        """
        result = self.infer_type_partial(*args, **kwargs)
        return (None, None, None) if any(None in part for part in result) else result

    def infer_type_partial(self, *args: Any, **kwargs: Any) -> tuple[Any, Any, Any]:
        """As :meth:`infer_type`, with None for what stays open."""
        _, nodes, arguments, states = self._walk()
        values = inference.infer_types(nodes, self._known(args, kwargs, nodes, _as_type))
        return (
            [_scalar_type(values[node][0]) for node in arguments],
            [_scalar_type(values[node][index]) for node, index in self.outputs],
            [_scalar_type(values[node][0]) for node in states],
        )

    def _known(self, args: Sequence[Any], kwargs: Mapping[str, Any], nodes: list[Node], read: Any) -> dict[str, Any]:
        if args and kwargs:
            raise ValueError("give what is known by position or by keyword, not both")
        if args:
            names = self.list_arguments()
            if len(args) > len(names):
                raise MXNetError(f"{len(args)} given for {len(names)} arguments: {', '.join(names)}")
            kwargs = dict(zip(names, args, strict=False))
        names_set = {node.name for node in nodes if node.op is None}
        for key in kwargs:
            if key not in names_set:
                raise MXNetError(f"{key!r} is no input of this symbol; its inputs: {', '.join(self.list_inputs())}")
        return {key: read(key, value) for key, value in kwargs.items() if value is not None}

    # -- files -------------------------------------------------------------------------------------------------------

    def tojson(self, remove_amp_cast: bool = True) -> str:
        """The graph as JSON text that MXNet 1.9 reads too. (No automatic casts are put in, so none are removed.)"""
        return write_graph(self.outputs)

    def save(self, fname: str, remove_amp_cast: bool = True) -> None:
        """Writes :meth:`tojson` to a file, which appears whole or not at all.

        Raises TypeError unless ``fname`` is a path, OSError where it cannot be written.
        """
        if not isinstance(fname, (str, os.PathLike)):
            raise TypeError(f"fname must be a file name, not {type(fname).__name__}")
        content = self.tojson(remove_amp_cast).encode("utf-8")
        with replacing(fname) as stream:
            stream.write(content)

    def debug_str(self) -> str:
        """A readable list of all nodes."""
        lines = ["Symbol Outputs:"]
        lines += [f"\toutput[{i}]={node.name}({index})" for i, (node, index) in enumerate(self.outputs)]
        for node in self.topological_nodes():
            if node.is_variable:
                lines.append(f"Variable:{node.name}")
                continue
            lines += ["--------------------", f"Op:{node.op_name}, Name={node.name}", "Inputs:"]
            lines += [f"\targ[{i}]={child.name}({index})" for i, (child, index) in enumerate(node.inputs)]
            if node.attrs:
                lines += ["Attrs:", *(f"\t{key}={value}" for key, value in sorted(node.attrs.items()))]
        return "\n".join(lines) + "\n"

    # -- arithmetic --------------------------------------------------------------------------------------------------

    def __add__(self, other: Any) -> Symbol:
        return binary(self, other, "_Plus", "_PlusScalar")

    __radd__ = __add__

    def __sub__(self, other: Any) -> Symbol:
        return binary(self, other, "_Minus", "_MinusScalar")

    def __rsub__(self, other: Any) -> Symbol:
        return binary(self, other, "_Minus", "_RMinusScalar")

    def __mul__(self, other: Any) -> Symbol:
        return binary(self, other, "_Mul", "_MulScalar")

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Symbol:
        return binary(self, other, "_Div", "_DivScalar")

    def __rtruediv__(self, other: Any) -> Symbol:
        return binary(self, other, "_Div", "_RDivScalar")

    __div__ = __truediv__
    __rdiv__ = __rtruediv__

    def __mod__(self, other: Any) -> Symbol:
        return binary(self, other, "_Mod", "_ModScalar")

    def __rmod__(self, other: Any) -> Symbol:
        return binary(self, other, "_Mod", "_RModScalar")

    def __pow__(self, other: Any) -> Symbol:
        return binary(self, other, "_Power", "_PowerScalar")

    def __rpow__(self, other: Any) -> Symbol:
        return binary(self, other, "_Power", "_rpower_scalar")

    def __neg__(self) -> Symbol:
        return self * -1.0

    def __abs__(self) -> Symbol:
        return Symbol(apply_operator(get_op("abs"), "abs", {"data": single(self.outputs, "abs", "data")}, {}, None))

    def __eq__(self, other: object) -> Symbol:  # type: ignore[override]
        return binary(self, other, "_equal", "_equal_scalar")

    def __ne__(self, other: object) -> Symbol:  # type: ignore[override]
        return binary(self, other, "_not_equal", "_not_equal_scalar")

    def __gt__(self, other: Any) -> Symbol:
        return binary(self, other, "_greater", "_greater_scalar")

    def __ge__(self, other: Any) -> Symbol:
        return binary(self, other, "_greater_equal", "_greater_equal_scalar")

    def __lt__(self, other: Any) -> Symbol:
        return binary(self, other, "_lesser", "_lesser_scalar")

    def __le__(self, other: Any) -> Symbol:
        return binary(self, other, "_lesser_equal", "_lesser_equal_scalar")

    __hash__ = object.__hash__  # == makes a node, so sets and dictionaries go by identity

    def __bool__(self) -> NoReturn:
        raise NotImplementedForSymbol("__bool__", "truth value")

    def __iadd__(self, other: Any) -> NoReturn:
        raise NotImplementedForSymbol("__iadd__", "+=")

    def __isub__(self, other: Any) -> NoReturn:
        raise NotImplementedForSymbol("__isub__", "-=")

    def __imul__(self, other: Any) -> NoReturn:
        raise NotImplementedForSymbol("__imul__", "*=")

    def __itruediv__(self, other: Any) -> NoReturn:
        raise NotImplementedForSymbol("__itruediv__", "/=")

    def __imod__(self, other: Any) -> NoReturn:
        raise NotImplementedForSymbol("__imod__", "%=")

    # -- what needs numbers ------------------------------------------------------------------------------------------

    def asnumpy(self) -> NoReturn:
        raise NotImplementedForSymbol("asnumpy")

    def asscalar(self) -> NoReturn:
        raise NotImplementedForSymbol("asscalar")

    def wait_to_read(self) -> NoReturn:
        raise NotImplementedForSymbol("wait_to_read")

    def as_in_context(self) -> NoReturn:
        raise NotImplementedForSymbol("as_in_context")

    def detach(self) -> NoReturn:
        raise NotImplementedForSymbol("detach")

    def backward(self) -> NoReturn:
        raise NotImplementedForSymbol("backward")

    def gradient(self, wrt: Sequence[str]) -> NoReturn:
        """Symbolic gradients are made by the compiler when a module is bound, not as symbols (nor in MXNet)."""
        raise MXNetError("Symbol.gradient is not available: bind the symbol for training, or MakeLoss and backward")

    def as_nd_ndarray(self) -> Symbol:
        """This symbol: there is only one kind of array interface here."""
        return self

    def as_np_ndarray(self) -> NoReturn:
        raise NotImplementedError("as_np_ndarray: MXNet's numpy interface is not part of bucketmod")

    def bind(
        self,
        ctx: Any,
        args: Any,
        args_grad: Any = None,
        grad_req: Any = "write",
        aux_states: Any = None,
        group2ctx: Any = None,
        shared_exec: Any = None,
    ) -> Any:
        """An ``mx.executor.Executor`` over these arrays, which its programs read and write in place.

        ``args``, ``args_grad``, ``aux_states``: NDArrays in a list in the order of the arguments, or in a dict by name;
        gradients may be left out. ``grad_req``: null, write or add, for all, in a list, or in a dict (others: null).
        ``group2ctx``: contexts by ``ctx_group``. ``shared_exec``: an executor to share working memory with; only the
        one that ran last has results. ValueError or TypeError for arrays that are missing or none, MXNetError for
        shapes and contexts that do not fit.
        """
        from bucketmod.executor import bind

        return bind(self, ctx, args, args_grad, grad_req, aux_states, group2ctx, shared_exec)

    def simple_bind(
        self,
        ctx: Any,
        grad_req: Any = "write",
        type_dict: Any = None,
        stype_dict: Any = None,
        group2ctx: Any = None,
        shared_arg_names: Any = None,
        shared_exec: Any = None,
        shared_buffer: Any = None,
        **kwargs: Any,
    ) -> Any:
        """As :meth:`bind`, over new arrays of zeros. ``kwargs``: shapes of inputs as tuples; the others are inferred.

        ``type_dict``: element types by name. ``shared_arg_names``: arguments whose arrays are those of
        ``shared_exec``. ``shared_buffer``: a dict of arrays to take the others from, which receives new ones.
        RuntimeError for shapes that do not fit or stay open.
        """
        from bucketmod.executor import simple_bind

        return simple_bind(
            self, ctx, grad_req, type_dict, stype_dict, group2ctx, shared_arg_names, shared_exec, shared_buffer,
            **kwargs,
        )  # fmt: skip

    def eval(self, ctx: Any = None, **kwargs: Any) -> Any:
        """The outputs for these arguments, by :meth:`bind` and ``forward``. ``ctx``: default: the current context."""
        from bucketmod.executor import evaluate

        return evaluate(self, ctx, **kwargs)

    def get_backend_symbol(self, backend: str) -> NoReturn:
        raise NotImplementedError(f"Symbol.get_backend_symbol({backend!r}): there are no other backends here")

    def optimize_for(self, backend: str, *args: Any, **kwargs: Any) -> NoReturn:
        raise NotImplementedError(f"Symbol.optimize_for({backend!r}): there are no other backends here")


@overload
def binary(lhs: Symbol, rhs: Any, pair: str, scalar: str) -> Symbol: ...
@overload
def binary(lhs: Any, rhs: Symbol, pair: str, scalar: str) -> Symbol: ...
def binary(lhs: Any, rhs: Any, pair: str, scalar: str) -> Symbol:
    """``lhs op rhs`` with operator ``pair`` for two symbols, ``scalar`` for a symbol and a number (in either place).

    Raises TypeError for anything else.
    """
    if not isinstance(lhs, Symbol):
        lhs, rhs = rhs, lhs
    if isinstance(rhs, Symbol):
        inputs = {"lhs": single(lhs.outputs, pair, "lhs"), "rhs": single(rhs.outputs, pair, "rhs")}
        return Symbol(apply_operator(get_op(pair), pair, inputs, {}, None))
    if isinstance(rhs, (int, float, np.number, np.bool_)):
        inputs = {"data": single(lhs.outputs, scalar, "data")}
        return Symbol(apply_operator(get_op(scalar), scalar, inputs, {"scalar": text(rhs)}, None))
    raise TypeError(f"a Symbol combines with a Symbol or a number, not with {type(rhs).__name__} {rhs!r}")


def Group(symbols: Sequence[Symbol]) -> Symbol:
    """One symbol with the outputs of all; an output may come twice. Raises TypeError for what is no list of symbols."""
    symbols = list(symbols)
    if not symbols or not all(isinstance(s, Symbol) for s in symbols):
        raise TypeError(f"Group takes a list of one or more symbols, not {symbols!r}")
    return Symbol([entry for symbol in symbols for entry in symbol.outputs])


def load(fname: str | os.PathLike[str]) -> Symbol:
    """Reads a symbol from a JSON file. Raises TypeError unless ``fname`` is a path, MXNetError for a bad file."""
    if not isinstance(fname, (str, os.PathLike)):
        raise TypeError(f"fname must be a file name, not {type(fname).__name__}")
    try:
        with open(fname, encoding="utf-8") as file:
            content = file.read()
    except (OSError, ValueError) as error:
        raise MXNetError(f"cannot read the symbol file {os.fspath(fname)!r}: {error}") from error
    try:
        return load_json(content)
    except MXNetError as error:
        raise type(error)(f"symbol file {os.fspath(fname)!r}: {error}") from error


def load_json(json_str: str) -> Symbol:
    """Reads a symbol from JSON text. Raises TypeError unless it is text, MXNetError for text that is no symbol."""
    if not isinstance(json_str, str):
        raise TypeError(f"json_str must be text, not {type(json_str).__name__}")
    return Symbol(read_graph(json_str))


def _shown_attrs(node: Node) -> dict[str, str]:
    shown = dict(node.attrs)
    for hidden in _HIDDEN.keys() & shown.keys():
        shown[_HIDDEN[hidden]] = shown[hidden]
    return shown


def _as_shape(name: str, value: Any) -> Shape:
    if not isinstance(value, tuple):
        raise TypeError(f"the shape of {name!r} must be a tuple, not {type(value).__name__} {value!r}")
    return tuple([max(int(d), 0) for d in value]) or None


def _as_type(name: str, value: Any) -> str:
    found = np.dtype(value).name
    if found not in DTYPE_CODES:
        raise TypeError(f"the element type of {name!r} must be one of {', '.join(DTYPE_CODES)}, not {found}")
    return found


def _scalar_type(name: str | None) -> Any:
    return None if name is None else np.dtype(name).type if name != "bfloat16" else None
