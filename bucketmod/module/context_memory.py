"""The memory of a family of modules: for each context one copy of everything, which all its buckets share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from bucketmod.context import Context
from bucketmod.ndarray import NDArray
from bucketmod.optimizer.gradient_array import GradientArray
from bucketmod.runtime.memory import aligned_copy
from bucketmod.runtime.parameter_store import ParameterStore
from bucketmod.runtime.worker import Stream, make_streams
from bucketmod.runtime.workspace import InputBuffers, Workspace


@dataclass
class ContextMemory:
    """Parameters, gradients, workspace and inputs of one context. ``stream``: where its programs run beside those of
    other contexts; None when they run in the thread that asks for them."""

    context: Context
    stream: Stream | None = None
    store: ParameterStore = field(default_factory=lambda: ParameterStore(private=True))
    workspace: Workspace = field(default_factory=Workspace)
    inputs: InputBuffers = field(default_factory=InputBuffers)

    def __post_init__(self) -> None:
        if self.stream is not None:  # updates do not wait for programs that were asked for before
            self.store.open_parameters()

    def run(self, function: Callable[..., None], *args: Any) -> None:
        """Calls ``function(*args)``: now, or on the stream, after what was asked for before."""
        if self.stream is None:
            function(*args)
        else:
            self.stream.submit(function, *args)

    def wait(self) -> None:
        """Returns when nothing runs here any more; raises what went wrong meanwhile."""
        if self.stream is not None:
            self.stream.wait()

    def array(self, data: np.ndarray, context: Context | None = None) -> NDArray:
        """``data``, which programs of this context write, for users: whoever looks at it waits for the stream first.
        ``context``: where a graph that is cut over contexts has it, when that is elsewhere."""
        context = context or self.context
        return NDArray(data, context) if self.stream is None else StreamArray(data, context, self.stream)

    def parameter(self, name: str, context: Context | None = None) -> NDArray:
        """The parameter ``name``, for users, who may write to it at any time."""
        self.store.open_parameters()
        return self.array(self.store.parameters[name], context)

    def auxiliary_state(self, name: str, context: Context | None = None) -> NDArray:
        """The same for an auxiliary state."""
        self.store.open_parameters()
        return self.array(self.store.auxiliary[name], context)

    def gradient(self, name: str, context: Context | None = None) -> NDArray:
        """The gradient of the parameter ``name``, as ``array`` gives it."""
        if self.stream is None:
            return GradientArray(self.store, name, context or self.context)
        self.store.open_gradient(name)
        return self.array(self.store.gradients[name], context)


class Sharer(Protocol):
    """Who updates parameters that all contexts hold in one array each."""

    def keep_apart(self) -> None:
        """Somebody else is about to write to these arrays."""

    def end_sharing(self) -> None:
        """Contexts are about to hold arrays of their own."""


@dataclass
class SharedMemory:
    """One memory a context. ``copies_stale``: whether the modules' own copies of the parameters are older than what
    the contexts hold. ``sharer``: None while every context has parameters of its own. ``version``: changes when arrays
    of parameters are replaced, and programs must be bound again."""

    contexts: list[ContextMemory]
    copies_stale: bool = False
    sharer: Sharer | None = None
    version: int = 0
    _shared: list[str] = field(default_factory=list)

    def share(self, sharer: Sharer, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Has every context hold the first one's arrays of these parameters, which are equal in all; the arrays."""
        self.separate()
        for memory in self.contexts:
            memory.wait()
        first, *others = self.contexts
        arrays = {name: first.store.parameters[name] for name in names}
        for memory in self.contexts:
            memory.store.open_parameters()  # the sharer writes when it likes
        for memory in others:
            memory.store.parameters.update(arrays)
        self.sharer, self._shared = sharer, list(names)
        self.version += 1
        return arrays

    def separate(self) -> None:
        """Gives every context arrays of its own again, if they were shared."""
        if self.sharer is None:
            return
        for memory in self.contexts:
            memory.wait()
        self.sharer.end_sharing()
        for memory in self.contexts[1:]:
            for name in self._shared:
                memory.store.parameters[name] = aligned_copy(memory.store.parameters[name])
        self.sharer, self._shared = None, []
        self.version += 1

    @staticmethod
    def of(contexts: Sequence[Context], work_load: Sequence[float]) -> SharedMemory:
        """Empty memory; several contexts get a thread each, and cores in proportion to their load."""
        streams = make_streams(work_load) if len(contexts) > 1 else [None]
        return SharedMemory([ContextMemory(*pair) for pair in zip(contexts, streams, strict=True)])


class StreamArray(NDArray):
    """An array that programs on a stream write: reading and writing it waits until they are done.

    Slices and other views of it are plain arrays, of the moment when they were taken.
    """

    __slots__ = ("_array", "_stream")

    def __init__(self, data: np.ndarray, context: Context, stream: Stream) -> None:
        self._stream = stream
        super().__init__(data, context)

    @property
    def _data(self) -> np.ndarray:  # type: ignore[override]  # the base has a plain attribute
        self._stream.wait()
        return self._array

    @_data.setter
    def _data(self, data: np.ndarray) -> None:
        self._array = data

    def wait_to_read(self) -> None:
        """Returns when nothing writes here any more."""
        self._stream.wait()

    wait_to_write = wait_to_read
