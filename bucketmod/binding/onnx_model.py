"""An ONNX model where a Symbol could stand: what ``sym_gen`` may return instead."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from bucketmod.atomic_file import replacing
from bucketmod.base import ShapeError


class OnnxModel:
    """A model made elsewhere (an ``onnx.ModelProto``), with the part of Symbol's interface that modules use.

    Its initialisers are parameters, and their values the parameters' first values; its inputs are data and labels.
    Every shape must be static: export the model once for each bucket.
    """

    def __init__(self, model: Any, data_names: Sequence[str] | None = None, label_names: Sequence[str] | None = None):
        """``data_names``: default: every input that is no initialiser and no label.

        Raises CompileError for names that the model does not have and for shapes that are not static,
        UnsupportedOperatorError (one of it) naming a node that cannot be taken in.
        """
        self.model = model
        self._names = (data_names, tuple(label_names or ()))
        self._programs: dict[bool, Any] = {}
        self.initial_values: dict[str, np.ndarray] = {}
        self._program = self.program(is_train=False)
        self.data_names = [port.name for port in self._program.by_role("data")]
        self.label_names = [port.name for port in self._program.by_role("label")]

    @property
    def name(self) -> str:
        """Name of the ONNX graph."""
        return self.model.graph.name

    def list_arguments(self) -> list[str]:
        """Data, labels and parameters in the order of the program."""
        return [port.name for port in self._arguments()]

    def list_auxiliary_states(self) -> list[str]:
        """Parameters that no gradient changes."""
        return [port.name for port in self._program.by_role("auxiliary")]

    def list_outputs(self) -> list[str]:
        """As the model names them."""
        return [port.name for port in self._program.outputs]

    def attr_dict(self) -> dict[str, dict[str, str]]:
        """No annotations."""
        return {}

    def infer_shape(self, **shapes: tuple[int, ...]) -> tuple[list[Any], list[Any], list[Any]]:
        """The model's own shapes; ShapeError when other ones are asked for."""
        for port in self._arguments():
            if shapes.get(port.name, port.shape) != port.shape:
                raise ShapeError(
                    f"ONNX model {self.name!r}: input {port.name!r} has the static shape {port.shape}, but is bound to "
                    f"{shapes[port.name]}: export the model once for each bucket and batch size"
                )
        auxiliary = self._program.by_role("auxiliary")
        outputs = [port.shape for port in self._program.outputs]
        return [port.shape for port in self._arguments()], outputs, [port.shape for port in auxiliary]

    infer_shape_partial = infer_shape

    def infer_type_partial(self, **dtypes: Any) -> tuple[list[Any], list[Any], list[Any]]:
        """The model's own element types, whatever a batch brings: arrays are converted."""
        auxiliary, outputs = self._program.by_role("auxiliary"), self._program.outputs
        ports = (self._arguments(), outputs, auxiliary)
        kinds = [[np.dtype(port.dtype).type for port in group] for group in ports]
        return kinds[0], kinds[1], kinds[2]

    def program(self, is_train: bool) -> Any:
        """The forward program (``bucketmod.compiler.program.Program``); they differ where the model has Dropout."""
        if is_train not in self._programs:
            from bucketmod.compiler.foreign import adopt

            data_names, label_names = self._names
            self._programs[is_train], self.initial_values = adopt(
                self.model, data_names, label_names, is_train=is_train
            )
        return self._programs[is_train]

    def digest(self, is_train: bool) -> str:
        """SHA-256 of the program, without the parameters' values."""
        return hashlib.sha256(self.program(is_train).to_bytes()).hexdigest()

    def save(self, fname: str | os.PathLike[str], remove_amp_cast: bool = True) -> None:
        """Writes the ONNX model; a name that ends in ``.json`` (as checkpoints choose it) ends in ``.onnx`` instead."""
        name = os.fspath(fname)
        with replacing(name.removesuffix(".json") + ".onnx" if name.endswith(".json") else name) as stream:
            stream.write(self.model.SerializeToString())

    def _arguments(self) -> list[Any]:
        return [port for port in self._program.inputs if port.role != "auxiliary"]


def is_model(value: Any) -> bool:
    """Whether this is an ``onnx.ModelProto``; asked by name, so that onnx is not imported for it."""
    return type(value).__name__ == "ModelProto"
