"""Turns T tensors that belong to T steps in time into one tensor with a leading time axis, and back.

Three things meet here. A *view* says that a tensor is ``source[index]`` along some axis, with that axis dropped.
*Stacking* finds or makes the tensor [T, ...] whose rows are given tensors: where they are views of one tensor in order,
it is that tensor. *Hoisting* replaces T equal nodes by one node on stacks; their outputs become views of its output.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from bucketmod.compiler.graph.graph import Graph, Node
from bucketmod.compiler.graph.hoisting import plan_hoist

_BACKWARDS_END = np.iinfo(np.int64).min
_UNARY = frozenset("Abs Clip Dropout Elu Erf Exp LeakyRelu Neg Relu Sigmoid Softplus Softsign Sqrt Tanh".split())


@dataclass(frozen=True)
class View:
    """One position of ``source`` along ``axis``; the viewing tensor lacks that axis."""

    source: str
    axis: int
    index: int


class Stacks:
    """The stacks of one graph. ``members[source]`` are the tensors that are views of row 0, 1, ... of a stack that
    was made here; nothing makes them any more until :meth:`write_members` gives those still read a maker."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.members: dict[str, list[str]] = {}
        self.kept: set[Node] = set()  # nodes that must not be hoisted
        self._pending: list[str] = []
        self._views: dict[str, View | None] = {}
        self._stacked: dict[tuple[str, ...], str] = {}
        self._time_major: dict[tuple[str, int], str] = {}

    # --- views

    def view(self, tensor: str) -> View | None:
        """What the tensor is a view of, None when it is none."""
        if tensor not in self._views:
            self._views[tensor] = self._read_view(tensor)
        return self._views[tensor]

    def _read_view(self, tensor: str) -> View | None:
        """Squeeze (or Reshape, Gather at one place) of one piece of a tensor cut along an axis."""
        graph = self.graph
        node = graph.producer(tensor)
        if node is None or not node.inputs:
            return None
        if node.op == "Gather":
            place = graph.constant(node.inputs[1])
            if place is None or place.ndim != 0:
                return None
            axis = int(node.attributes.get("axis", 0)) % len(graph.shape(node.inputs[0]))
            return View(node.inputs[0], axis, int(place) % graph.shape(node.inputs[0])[axis])
        if node.op not in ("Squeeze", "Reshape"):
            return None
        piece = node.inputs[0]
        cut = self._cut(piece)
        whole = graph.shape(piece)
        axes = [cut.axis] if cut is not None else [a for a, size in enumerate(whole) if size == 1]
        for axis in axes:
            if (*whole[:axis], *whole[axis + 1 :]) == graph.shape(tensor):
                return cut or View(piece, axis, 0)
        return None

    def _cut(self, piece: str) -> View | None:
        """Split into pieces of size 1, or a Slice of size 1: where the piece lies (its axis still there)."""
        node, index = self.graph.slot(piece)
        if node is None:
            return None
        shape, whole = self.graph.shape(piece), self.graph.shape(node.inputs[0]) if node.inputs else ()
        if node.op == "Split":
            axis = int(node.attributes.get("axis", 0)) % len(whole)
            return View(node.inputs[0], axis, index) if len(node.outputs) == whole[axis] else None
        if node.op == "Slice" and len(node.inputs) >= 4:
            starts, axes = self.graph.constant(node.inputs[1]), self.graph.constant(node.inputs[3])
            if starts is not None and axes is not None and starts.size == axes.size == 1:
                axis, start = int(axes[0]) % len(whole), int(starts[0])
                if shape[axis] == 1:
                    start = start + whole[axis] if start < 0 else start
                    return View(node.inputs[0], axis, min(max(start, 0), whole[axis] - 1))
        return None

    def depends_on(self, tensors: Iterable[str], nodes: set[Node]) -> bool:
        """Whether one of the tensors is computed from what one of the nodes makes."""
        queue, seen = list(tensors), set()
        visited: set[Node] = set()
        while queue:
            tensor = queue.pop()
            if not tensor or tensor in seen:
                continue
            seen.add(tensor)
            node = self.graph.producer(tensor)
            if node is None:
                view = self._views.get(tensor)
                if view is not None:
                    queue.append(view.source)
            elif node in nodes:
                return True
            elif node not in visited:
                visited.add(node)
                queue.extend(node.inputs)
        return False

    # --- stacking

    def register(self, source: str, tensors: Sequence[str]) -> None:
        """From now on tensor t is row t of ``source``. Its old maker must be gone."""
        self.members[source] = list(tensors)
        self._pending.append(source)
        for index, tensor in enumerate(tensors):
            self._views[tensor] = View(source, 0, index)

    def direction(self, tensors: Sequence[str]) -> int:
        """1 when the tensors are views of one tensor in order, -1 in reverse order, 0 otherwise."""
        views = [self.view(t) for t in tensors]
        first = views[0]
        if first is None or any(v is None or (v.source, v.axis) != (first.source, first.axis) for v in views):
            return 0
        places = [v.index for v in views if v is not None]
        if places == list(range(places[0], places[0] + len(places))):
            return 1
        return -1 if places == list(range(places[0], places[0] - len(places), -1)) else 0

    def stack(self, tensors: Sequence[str], make: bool, order: int, name: str) -> str | None:
        """The tensor [T, ...] whose row t is tensors[t]. Where there is none and nothing can be hoisted, the
        tensors are concatenated if ``make`` says so, else the answer is None."""
        key = tuple(tensors)
        if key not in self._stacked:
            found = self._find_stack(key, make, order, name)
            if found is None and make:
                found = self._concatenate(key, order, name)
            if found is None:
                return None
            self._stacked[key] = found
        return self._stacked[key]

    def _find_stack(self, tensors: tuple[str, ...], make: bool, order: int, name: str) -> str | None:
        found = self._from_views(tensors, order, name)
        if found is not None or len(tensors) == 1:
            return found
        slots = [self.graph.slot(t) for t in tensors]
        nodes = [node for node, _ in slots if node is not None]
        if len(nodes) != len(tensors) or len({index for _, index in slots}) != 1:
            return None
        if len(set(nodes)) != len(nodes) or not self.hoist(nodes, make):
            return None
        return self._from_views(tensors, order, name)

    def _from_views(self, tensors: tuple[str, ...], order: int, name: str) -> str | None:
        direction, view = self.direction(tensors), self.view(tensors[0])
        if not direction or view is None:
            return None
        length = self.graph.shape(view.source)[view.axis]
        if len(tensors) == 1 and length > 1:
            return None  # a single step out of many: cheaper to take the step than to turn the whole tensor
        whole = self.time_major(view.source, view.axis, order, name)
        if direction == 1 and len(tensors) == length:
            return whole
        end = view.index + direction * len(tensors)
        return self._slice(whole, view.index, end if end >= 0 else _BACKWARDS_END, direction, order, name)

    def _slice(self, tensor: str, start: int, end: int, step: int, order: int, name: str) -> str:
        places = range(self.graph.shape(tensor)[0])[start : end if end != _BACKWARDS_END else None : step]
        bounds = [
            self.graph.add_constant([value], f"{name}_slice_{what}")
            for what, value in (("start", start), ("end", end), ("axis", 0), ("step", step))
        ]
        shape = (len(places), *self.graph.shape(tensor)[1:])
        return self.graph.add("Slice", [tensor, *bounds], [shape], f"{name}_slice", order).outputs[0]

    def _concatenate(self, tensors: tuple[str, ...], order: int, name: str) -> str:
        shape = self.graph.shape(tensors[0])
        rows = [self.reshape(t, (1, *shape), order, f"{name}_row") for t in tensors]
        if len(rows) == 1:
            return rows[0]
        stacked = (len(rows), *shape)
        return self.graph.add("Concat", rows, [stacked], f"{name}_stack", order, attributes={"axis": 0}).outputs[0]

    def time_major(self, tensor: str, axis: int, order: int, name: str) -> str:
        """The tensor with that axis in front."""
        key = (tensor, axis)
        if key not in self._time_major:
            rank = len(self.graph.shape(tensor))
            to_front = [axis, *(a for a in range(rank) if a != axis)]
            free = self._gather_turned(tensor, axis, order, name) or self._work_turned(tensor, axis, order, name)
            self._time_major[key] = free or self.transpose(tensor, to_front, order, name)
        return self._time_major[key]

    def _gather_turned(self, tensor: str, axis: int, order: int, name: str) -> str | None:
        """An embedding that nobody else reads is looked up in time order: turning indices is cheaper than rows."""
        graph = self.graph
        node = graph.producer(tensor)
        if axis == 0 or node is None or node.op != "Gather" or int(node.attributes.get("axis", 0)) != 0:
            return None
        table, places = node.inputs
        rank = len(graph.shape(places))
        if axis >= rank or tensor in graph.outputs or len(graph.readers(tensor)) != 1:
            return None
        turned = self.transpose(places, [axis, *(a for a in range(rank) if a != axis)], order, f"{name}_index")
        shape = (*graph.shape(turned), *graph.shape(table)[1:])
        named = graph.take_name(node)
        made = graph.add("Gather", [table, turned], [shape], named, node.order, attributes={"axis": 0})
        return made.outputs[0]

    def _work_turned(self, tensor: str, axis: int, order: int, name: str) -> str | None:
        """What was done to a merged sequence between two layers is done to it as the recurrence left it."""
        graph = self.graph
        node = graph.producer(tensor)
        if node is None or not self._is_turned(tensor, axis):
            return None
        whole = self.time_major(node.inputs[0], axis, order, name)
        named = graph.take_name(node)
        made = graph.add(
            node.op, [whole, *node.inputs[1:]], [graph.shape(whole)], named, node.order,
            elem_types=[graph.elem_types[tensor]], attributes=node.attributes,
        )  # fmt: skip
        return made.outputs[0]

    def _is_turned(self, tensor: str, axis: int) -> bool:
        """Whether the tensor is work on single elements of a Transpose that putting the axis in front undoes."""
        graph = self.graph
        node = graph.producer(tensor)
        if node is None or node.op not in _UNARY or tensor in graph.outputs or len(graph.readers(tensor)) != 1:
            return False
        if any(graph.readers(name) or name in graph.outputs for name in node.outputs[1:]):
            return False
        if any(name and graph.constant(name) is None for name in node.inputs[1:]):
            return False
        turned = graph.producer(node.inputs[0])
        if turned is None or turned.op != "Transpose" or "perm" not in turned.attributes:
            return self._is_turned(node.inputs[0], axis)
        perm = list(turned.attributes["perm"])
        return [perm.pop(axis), *perm] == list(range(len(perm) + 1))

    def transpose(self, tensor: str, perm: Sequence[int], order: int, name: str) -> str:
        """Transposed; two in a row become one, and one that moves only axes of size 1 a Reshape."""
        graph = self.graph
        node = graph.producer(tensor)
        if node is not None and node.op == "Transpose" and "perm" in node.attributes:
            before = node.attributes["perm"]
            return self.transpose(node.inputs[0], [before[p] for p in perm], order, name)
        shape = graph.shape(tensor)
        if list(perm) == list(range(len(shape))):
            return tensor
        turned = [shape[p] for p in perm]
        wide = [p for p in perm if shape[p] != 1]
        if wide == sorted(wide):
            return self.reshape(tensor, turned, order, name)
        attributes = {"perm": list(perm)}
        return graph.add("Transpose", [tensor], [turned], f"{name}_transpose", order, attributes=attributes).outputs[0]

    def reshape(self, tensor: str, shape: Sequence[int], order: int, name: str) -> str:
        """Reshaped; two in a row become one."""
        graph = self.graph
        node = graph.producer(tensor)
        if node is not None and node.op == "Reshape":
            tensor = node.inputs[0]
        if tuple(shape) == graph.shape(tensor):
            return tensor
        target = graph.add_constant(list(shape), f"{name}_shape")
        return graph.add("Reshape", [tensor, target], [shape], f"{name}_reshape", order).outputs[0]

    # --- hoisting

    def hoist(self, nodes: Sequence[Node], make: bool) -> bool:
        """Replaces equal nodes, the t-th of time t, by one on stacks of their inputs; False: nothing was changed
        but perhaps the way to some of their inputs."""
        graph, first = self.graph, nodes[0]
        if not self.kept.isdisjoint(nodes):
            return False
        columns = list(zip(*(n.inputs for n in nodes), strict=False))
        if any(len(n.inputs) != len(columns) for n in nodes):
            return False
        shared = [all(graph.same(column[0], name) for name in column) for column in columns]
        if all(shared) or any("" in column for column, one in zip(columns, shared, strict=True) if not one):
            return False
        plan = plan_hoist(graph, nodes, shared)
        if plan is None or self.depends_on((name for n in nodes for name in n.inputs), set(nodes)):
            return False
        inputs = []
        for column, one in zip(columns, shared, strict=True):
            whole = column[0] if one else self.stack(column, make, first.order, first.name)
            if whole is None:
                return False
            inputs.append(whole)
        for node in nodes:
            graph.remove(node)
        made = plan(self, inputs)
        for index, source in enumerate(made):
            if source:
                self.register(source, [n.outputs[index] for n in nodes])
        return True

    def spread(self) -> None:
        """Hoists and merges onward from every stack made so far, as far as it goes."""
        while self._pending:
            source = self._pending.pop()
            tensors = self.members[source]
            if len(tensors) < 2:
                continue
            for reader in self.graph.readers(tensors[0]):
                if not reader.removed and not self._merge(source, tensors, reader):
                    group = self._equal_readers(tensors, reader)
                    if group is not None:
                        self.hoist(group, make=False)

    def _equal_readers(self, tensors: Sequence[str], reader: Node) -> list[Node] | None:
        """For each t a node that does to tensor t what ``reader`` does to tensor 0."""

        def signature(node: Node, tensor: str) -> tuple:
            others = tuple(
                "." if name == tensor else "?" if self._varies(name) else name or "-" for name in node.inputs
            )
            return node.op, others, len(node.outputs)

        wanted = signature(reader, tensors[0])
        group = [reader]
        for tensor in tensors[1:]:
            alike = (n for n in self.graph.readers(tensor) if n not in group[-1:] and signature(n, tensor) == wanted)
            node = next(alike, None)
            if node is None:
                return None
            group.append(node)
        return group if len(set(group)) == len(group) else None

    def _varies(self, name: str) -> bool:
        """Whether a tensor may be another one at each step: parameters and large constants are not."""
        return bool(name) and (
            self.graph.producer(name) is not None or self._views.get(name) is not None
            or self.graph.constant(name) is not None
        )  # fmt: skip

    # --- merging

    def _merge(self, source: str, tensors: Sequence[str], reader: Node) -> bool:
        """A Concat of all rows, as they are or each with a new axis at which they are joined, is the stack itself."""
        graph = self.graph
        concat, rows = reader, list(reader.inputs)
        if reader.op in ("Unsqueeze", "Reshape"):
            readers = graph.readers(reader.outputs[0])
            if len(readers) != 1 or readers[0].op != "Concat":
                return False
            concat = readers[0]
            makers = [graph.producer(name) for name in concat.inputs]
            if any(m is None or m.op not in ("Unsqueeze", "Reshape") for m in makers):
                return False
            rows = [m.inputs[0] for m in makers if m is not None]
        backwards = rows == list(reversed(tensors))
        if concat.op != "Concat" or not (rows == list(tensors) or backwards):
            return False
        piece, whole = graph.shape(concat.inputs[0]), graph.shape(concat.outputs[0])
        axis = int(concat.attributes["axis"]) % len(whole)
        shape = graph.shape(tensors[0])
        if piece != shape and piece != (*shape[:axis], 1, *shape[axis:]):
            return False
        target = concat.outputs[0]
        if backwards:
            turned_back = self._reversal_of(target, axis)
            if turned_back is None:
                source = self._slice(source, len(tensors) - 1, _BACKWARDS_END, -1, concat.order, concat.name)
            else:
                target = turned_back
        self._replace_concat(concat, source, axis, target)
        return True

    def _replace_concat(self, concat: Node, source: str, axis: int, target: str) -> None:
        graph = self.graph
        whole = graph.shape(concat.outputs[0])
        rank = len(graph.shape(source)) - 1
        maker = graph.producer(target)
        graph.remove(concat)
        if maker is not None and maker is not concat:
            graph.remove(maker)
        perm = [*range(1, axis + 1), 0, *range(axis + 1, rank + 1)]
        merged = self.transpose(source, perm, concat.order, concat.name)
        graph.redirect(target, self.reshape(merged, whole, concat.order, concat.name))

    def _reversal_of(self, tensor: str, axis: int) -> str | None:
        """The output of the one node that reads the tensor, if that turns it round along the axis."""
        graph = self.graph
        readers = graph.readers(tensor)
        if tensor in graph.outputs or len(readers) != 1 or readers[0].op != "Slice" or len(readers[0].inputs) != 5:
            return None
        bounds = [graph.constant(name) for name in readers[0].inputs[1:]]
        length, rank = graph.shape(tensor)[axis], len(graph.shape(tensor))
        if any(b is None or b.size != 1 for b in bounds):
            return None
        start, end, where, step = (int(b.reshape(-1)[0]) for b in bounds if b is not None)
        whole = start in (-1, length - 1) and end < -length and where % rank == axis and step == -1
        return readers[0].outputs[0] if whole else None

    # --- writing back

    def write_members(self, last_state: dict[str, tuple[Node, int]]) -> None:
        """Gives members that are still read a maker. ``last_state``: for a stack the node whose output (by index)
        holds its last row anyway."""
        live = self._live_members()
        for source, tensors in self.members.items():
            used = [t for t in tensors if t in live]
            node, index = last_state.get(source, (None, 0))
            tail = tensors[-1] if node is not None and not self._runs_backwards(node) else tensors[0]
            if node is not None and tail in used and (len(used) <= 2 or len(tensors) <= 2):
                self.graph.rename_output(node, index, tail)
                used.remove(tail)
            if used:
                self._cut_up(source, tensors, used)
        self.graph.drop_dead()

    @staticmethod
    def _runs_backwards(node: Node) -> bool:
        return bool(node.attributes.get("reverse", 0))

    def _cut_up(self, source: str, tensors: Sequence[str], used: Sequence[str]) -> None:
        """One Split where many rows are wanted, for the gradient of a Slice is as large as the whole stack."""
        graph = self.graph
        maker = graph.producer(source)
        name, order = (maker.name, maker.order) if maker is not None else (source, 0)
        piece = (1, *graph.shape(tensors[0]))
        axes = graph.add_constant([0], f"{name}_axes")
        if len(used) <= 2 < len(tensors):
            places = [tensors.index(t) for t in used]
            pieces = dict(zip(used, (self._slice(source, p, p + 1, 1, order, name) for p in places), strict=True))
        else:
            shapes = [piece] * len(tensors)
            types = [graph.elem_types[source]] * len(tensors)
            rows, along = f"{name}_rows", {"axis": 0}
            split = graph.add("Split", [source], shapes, rows, order, elem_types=types, attributes=along)
            pieces = dict(zip(tensors, split.outputs, strict=True))
        for tensor in used:
            shape = [graph.shape(tensor)]
            graph.add("Squeeze", [pieces[tensor], axes], shape, f"{tensor}_row", order, outputs=[tensor])

    def _live_members(self) -> set[str]:
        live: set[str] = set()
        queue, seen = list(self.graph.outputs), set()
        while queue:
            tensor = queue.pop()
            if not tensor or tensor in seen:
                continue
            seen.add(tensor)
            node = self.graph.producer(tensor)
            if node is not None:
                queue.extend(node.inputs)
            elif self._views.get(tensor) is not None:
                live.add(tensor)
                queue.append(self._views[tensor].source)  # type: ignore[union-attr]
        return live
