"""A program: one ONNX model, static in every shape, plus what each of its inputs and outputs is for.

The roles travel inside the model (``metadata_props``), so a program is one self-contained ONNX file. The same class
describes a forward program (written by the exporter) and a training program (written by ``differentiate``).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field

import numpy as np
import onnx

OPSET = 17
IR_VERSION = 8
DOMAIN = "bucketmod"  # domain of the model-local functions and of the operators that only the compiler knows

INPUT_ROLES = ("data", "label", "parameter", "auxiliary", "state", "seed", "head_gradient")
OUTPUT_ROLES = ("output", "gradient", "auxiliary")
SEED = "__seed__"  # name of the input that the compiler adds for random operators, int64[2] = (seed, step)

_METADATA_KEY = "bucketmod.program"


@dataclass(frozen=True)
class Port:
    """An input or output of a program.

    ``of`` names the partner: for a gradient output the input it belongs to, for a head-gradient input the output,
    for an auxiliary output the auxiliary input that it replaces.
    """

    name: str
    role: str
    shape: tuple[int, ...]
    dtype: str
    of: str = ""


@dataclass
class Program:
    """An ONNX model and the roles of its inputs and outputs, in the order of the graph.

    ``model``: opset 17 (``com.microsoft`` 1 and ``bucketmod`` 1 beside it where used), IR 8, every shape static,
    constants as initializers, everything else (parameters too) as graph inputs.
    """

    model: onnx.ModelProto
    inputs: list[Port] = field(default_factory=list)
    outputs: list[Port] = field(default_factory=list)

    @staticmethod
    def of(
        model: onnx.ModelProto,
        input_roles: dict[str, str],
        output_roles: dict[str, tuple[str, str]] | None = None,
        head_gradients: dict[str, str] | None = None,
    ) -> Program:
        """Reads shapes from the graph. ``output_roles``: name -> (role, of), default ("output", "");
        ``head_gradients``: input name -> output name."""
        roles, of = output_roles or {}, head_gradients or {}
        inputs = [Port(v.name, input_roles[v.name], *_tensor_type(v), of.get(v.name, "")) for v in model.graph.input]
        outputs = [
            Port(v.name, roles.get(v.name, ("output", ""))[0], *_tensor_type(v), roles.get(v.name, ("output", ""))[1])
            for v in model.graph.output
        ]
        program = Program(model, inputs, outputs)
        program._check_roles()
        return program

    def _check_roles(self) -> None:
        for port in self.inputs:
            if port.role not in INPUT_ROLES:
                raise ValueError(f"input {port.name!r} has role {port.role!r}; expected one of {INPUT_ROLES}")
        for port in self.outputs:
            if port.role not in OUTPUT_ROLES:
                raise ValueError(f"output {port.name!r} has role {port.role!r}; expected one of {OUTPUT_ROLES}")

    def by_role(self, role: str) -> list[Port]:
        """Inputs with this role, in order."""
        return [port for port in self.inputs if port.role == role]

    def to_bytes(self) -> bytes:
        """The model with its roles inside; the inverse of :meth:`from_bytes`."""
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        kept = [p for p in model.metadata_props if p.key != _METADATA_KEY]
        del model.metadata_props[:]
        model.metadata_props.extend(kept)
        roles = {
            "inputs": {p.name: [p.role, p.of] for p in self.inputs},
            "outputs": {p.name: [p.role, p.of] for p in self.outputs},
        }
        model.metadata_props.add(key=_METADATA_KEY, value=json.dumps(roles, sort_keys=True))
        return model.SerializeToString(deterministic=True)

    @staticmethod
    def from_bytes(data: bytes) -> Program:
        """Raises ValueError when the bytes are no ONNX model or carry no roles."""
        try:
            model = onnx.load_model_from_string(data)
        except Exception as error:  # protobuf raises its own DecodeError
            raise ValueError(f"not an ONNX model: {error}") from error
        text = next((p.value for p in model.metadata_props if p.key == _METADATA_KEY), None)
        if text is None:
            raise ValueError(f"the ONNX model has no {_METADATA_KEY!r} metadata: it was not written by bucketmod")
        try:
            roles = json.loads(text)
            inputs = {name: (str(role), str(of)) for name, (role, of) in roles["inputs"].items()}
            outputs = {name: (str(role), str(of)) for name, (role, of) in roles["outputs"].items()}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"the {_METADATA_KEY!r} metadata does not describe roles: {error!r}") from error
        missing = [value.name for value in model.graph.input if value.name not in inputs]
        if missing:
            raise ValueError(f"the {_METADATA_KEY!r} metadata has no role for {', '.join(missing)}")
        partners = {name: of for name, (_, of) in inputs.items() if of}
        return Program.of(model, {name: role for name, (role, _) in inputs.items()}, outputs, partners)

    def digest(self) -> str:
        """SHA-256 of the program; equal programs have equal digests whichever process wrote them."""
        return hashlib.sha256(self.to_bytes()).hexdigest()


def _tensor_type(value: onnx.ValueInfoProto) -> tuple[tuple[int, ...], str]:
    tensor = value.type.tensor_type
    dims = []
    for axis, dim in enumerate(tensor.shape.dim):
        if not dim.HasField("dim_value"):
            raise ValueError(
                f"{value.name!r}: axis {axis} is {dim.dim_param or 'unknown'!r}; every shape must be static: "
                "export the model once for each bucket"
            )
        dims.append(dim.dim_value)
    return tuple(dims), np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)).name
