"""What one bucket computes: a graph with all its shapes, and how to ask for its compiled programs."""

from __future__ import annotations

import functools
import hashlib
import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bucketmod.base import MXNetError, ShapeError
from bucketmod.binding.artifacts import obtain
from bucketmod.binding.onnx_model import OnnxModel
from bucketmod.compiler import source_digest, versions
from bucketmod.compiler.service import CompileRequest
from bucketmod.compiler.target import parse_target
from bucketmod.context import Context
from bucketmod.runtime.executor import Executor
from bucketmod.runtime.parameter_store import ParameterStore
from bucketmod.runtime.workspace import InputBuffers, Workspace
from bucketmod.symbol.graph import Node
from bucketmod.symbol.symbol import Symbol

_DIGEST_FORMAT = 2
# What these folders say decides the program that the compiler sees, so it is part of an artifact's identity too.
_EXPORT_SOURCES = ("export", "operators", "symbol", "binding")

Graph = Symbol | OnnxModel


@dataclass(frozen=True)
class Argument:
    """An input of the graph. ``role``: data, label, state, parameter or auxiliary."""

    name: str
    role: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Bucket:
    """A graph bound to shapes. ``arguments``: in the order of the graph, auxiliary states last; ``outputs``: (name,
    shape); ``key``: the bucket key, None outside a BucketingModule."""

    graph: Graph
    arguments: tuple[Argument, ...]
    outputs: tuple[tuple[str, tuple[int, ...]], ...]
    key: Any = None
    _programs: dict[bool, bytes] = field(default_factory=dict, compare=False, repr=False)

    def by_role(self, role: str) -> list[Argument]:
        """Arguments of this role, in order."""
        return [argument for argument in self.arguments if argument.role == role]

    def request(
        self, is_train: bool, wrt: Sequence[str] = (), target: str = "cpu", model: str | None = None
    ) -> CompileRequest:
        """The request for one of the bucket's programs; nothing is exported until it has to be compiled.

        ``is_train``: whether Dropout is active; ``wrt``: inputs whose gradients are wanted: with any, the program has
        a backward part. ``model``: name for the cache's index. Raises ValueError for an unknown target.
        """
        mode, target = "train" if wrt else "infer", parse_target(target).name
        identity = {
            "format": _DIGEST_FORMAT,
            "graph": _canonical(self.graph, is_train),
            "arguments": [[a.name, a.role, list(a.shape), a.dtype] for a in self.arguments],
            "is_train": is_train,
            "mode": mode,
            "wrt": list(wrt),
            "target": target,
            "compiler": versions(),
            "export": _export_digest(),
        }
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
        shown = "training" if is_train else "inference"
        name = f"bucket {self.key!r}, {shown}" if self.key is not None else f"{self.graph_name}, {shown}"
        info = {
            "model": model or self.graph_name,
            "bucket_key": self.key if isinstance(self.key, int | str) else repr(self.key),
            "shapes": {a.name: list(a.shape) for a in self.arguments if a.role in ("data", "label", "state")},
        }
        return CompileRequest(lambda: self._program(is_train), mode, tuple(wrt), target, name, digest, info)

    def requests(
        self, is_train: bool, wrt: Sequence[str] = (), target: str = "cpu", model: str | None = None
    ) -> list[CompileRequest]:
        """All that an executor of this mode needs: see :meth:`request`."""
        return [self.request(is_train, wrt, target, model)]

    def executor(
        self,
        is_train: bool,
        wrt: Sequence[str],
        target: str,
        store: ParameterStore,
        workspace: Workspace,
        inputs: InputBuffers,
        accumulate: frozenset[str] = frozenset(),
    ) -> Executor:
        """One of the bucket's programs, found or compiled, and bound to this memory.

        ``is_train``, ``wrt``, ``target`` as in :meth:`request`, which also tells the errors with ``obtain``;
        ``accumulate``: inputs whose gradients add up over backward passes.
        """
        return Executor(obtain(self.request(is_train, wrt, target)), store, workspace, inputs, accumulate)

    def argument_contexts(self, context: Context) -> dict[str, Context]:
        """Where each argument and auxiliary state lives, when the bucket is bound to ``context``."""
        return {argument.name: context for argument in self.arguments}

    def output_contexts(self, context: Context) -> list[Context]:
        """Where each output lives."""
        return [context] * len(self.outputs)

    @property
    def graph_name(self) -> str:
        """The first output's name without its ending."""
        return self.outputs[0][0].removesuffix("_output") if self.outputs else "model"

    def _program(self, is_train: bool) -> bytes:
        """Bytes of the forward program."""
        if is_train not in self._programs:
            names = {role: [a.name for a in self.by_role(role)] for role in ("data", "label", "state")}
            if isinstance(self.graph, OnnxModel):
                program = self.graph.program(is_train)
            else:
                from bucketmod.export import export_symbol

                program = export_symbol(
                    self.graph,
                    {a.name: a.shape for a in self.arguments if a.role != "auxiliary"},
                    data_names=names["data"],
                    label_names=names["label"],
                    state_names=names["state"],
                    is_train=is_train,
                    dtypes={a.name: a.dtype for a in self.arguments if a.role != "auxiliary"},
                )
            self._programs[is_train] = program.to_bytes()
        return self._programs[is_train]


def make_bucket(
    graph: Graph,
    data_shapes: Sequence[Any],
    label_shapes: Sequence[Any] | None = None,
    *,
    data_names: Sequence[str] = ("data",),
    label_names: Sequence[str] = ("softmax_label",),
    state_names: Sequence[str] = (),
    key: Any = None,
) -> Bucket:
    """Infers every shape of the graph from those of data and labels (DataDesc or (name, shape) pairs).

    Raises ShapeError when shapes contradict each other or one stays unknown, MXNetError when two arguments have one
    name; both name the node.
    """
    described = {desc[0]: desc for desc in [*data_shapes, *(label_shapes or ())]}
    arguments = graph.list_arguments()
    if len(set(arguments)) != len(arguments):
        twice = sorted({name for name in arguments if arguments.count(name) > 1})
        raise MXNetError(f"two variables have the name {', '.join(twice)}: give every Variable a name of its own")
    described = {name: desc for name, desc in described.items() if name in arguments}
    shapes = {name: tuple(int(dim) for dim in desc[1]) for name, desc in described.items()}
    dtypes = {name: np.dtype(getattr(desc, "dtype", np.float32)).name for name, desc in described.items()}
    with warnings.catch_warnings():  # what stays open is an error here, told below
        warnings.simplefilter("ignore")
        found, out_shapes, aux_shapes = graph.infer_shape(**shapes)
    if found is None:
        raise ShapeError(_unknown_shapes(graph, shapes, key))
    types, _, aux_types = graph.infer_type_partial(**dtypes)
    roles = {**dict.fromkeys(state_names, "state"), **dict.fromkeys(label_names, "label")}
    roles.update(dict.fromkeys(data_names, "data"))
    auxiliary = graph.list_auxiliary_states()
    made = [
        Argument(name, roles.get(name, "parameter"), tuple(shape), _type_name(dtype))
        for name, shape, dtype in zip(arguments, found, types, strict=True)
    ]
    made += [
        Argument(name, "auxiliary", tuple(shape), _type_name(dtype))
        for name, shape, dtype in zip(auxiliary, aux_shapes, aux_types, strict=True)
    ]
    outputs = zip(graph.list_outputs(), out_shapes, strict=True)
    return Bucket(graph, tuple(made), tuple((name, tuple(shape)) for name, shape in outputs), key)


def _unknown_shapes(graph: Graph, shapes: dict[str, tuple[int, ...]], key: Any) -> str:
    found, _, auxiliary = graph.infer_shape_partial(**shapes)
    names = [*graph.list_arguments(), *graph.list_auxiliary_states()]
    unknown = [f"{n} {s}" for n, s in zip(names, [*found, *auxiliary], strict=True) if not s or 0 in s]
    where = "" if key is None else f"bucket {key!r}: "
    return (
        f"{where}shapes of {', '.join(unknown) or 'some outputs'} cannot be told from {shapes}: give the shapes of all "
        "data and labels to bind, or declare the variable with its shape"
    )


def _type_name(dtype: Any) -> str:
    return np.dtype(np.float32 if dtype is None else dtype).name


def _canonical(graph: Graph, is_train: bool) -> Any:
    """Digest of the graph without what does not change its program: initialisers, learning-rate factors and other
    annotations."""
    if isinstance(graph, OnnxModel):
        return graph.digest(is_train)
    position: dict[Node, int] = {}
    described: list[Any] = []
    texts: dict[int, list[tuple[str, str]]] = {}  # nodes with equal attributes share what was parsed of them
    for index, node in enumerate(graph.topological_nodes()):
        position[node] = index
        if node.op is None:
            described.append(node.name)
            continue
        attrs = texts.get(id(node.parsed))
        if attrs is None:
            attrs = sorted([item for item in node.attrs.items() if not item[0].startswith("__")])
            texts[id(node.parsed)] = attrs
        described.append((node.op.name, node.name, attrs, [(position[child], output) for child, output in node.inputs]))
    described.append([(position[node], output) for node, output in graph.outputs])
    return hashlib.sha256(repr(described).encode()).hexdigest()


@functools.lru_cache(maxsize=1)
def _export_digest() -> str:
    return source_digest(Path(__file__).parent.parent, _EXPORT_SOURCES)
