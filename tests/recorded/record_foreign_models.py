"""Records small models that PyTorch exported, and PyTorch's own numbers for them.

Run with PyTorch 2.13 and onnx:  python tests/recorded/record_foreign_models.py
Writes foreign_<name>.onnx for each model, and foreign_models.npz with arrays <name>/<input, output or gradient>.
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch

HERE = Path(__file__).parent
CLASSES, BATCH, LENGTH = 11, 3, 5


class LanguageModel(torch.nn.Module):
    """Embedding, recurrent layers and a classifier; returns mean cross-entropy and logits."""

    def __init__(self, recurrence: torch.nn.Module, width: int) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(CLASSES, 6)
        self.recurrence = recurrence
        self.out = torch.nn.Linear(width, CLASSES)

    def forward(self, data, label):
        logits = self.out(self.recurrence(self.embed(data))[0])
        loss = torch.nn.functional.cross_entropy(logits.reshape(-1, CLASSES), label.reshape(-1), ignore_index=0)
        return loss, logits


class Classifier(torch.nn.Module):
    """Two layers with GELU and LayerNorm between them; returns the summed, weighted cross-entropy."""

    def __init__(self) -> None:
        super().__init__()
        self.body = torch.nn.Sequential(
            torch.nn.Linear(6, 16), torch.nn.GELU(), torch.nn.LayerNorm(16), torch.nn.Linear(16, CLASSES)
        )
        self.register_buffer("weight", torch.linspace(0.5, 1.5, CLASSES))

    def forward(self, data, label):
        return torch.nn.functional.cross_entropy(self.body(data), label, weight=self.weight, reduction="sum")


def models() -> dict[str, tuple[torch.nn.Module, torch.Tensor, torch.Tensor]]:
    """name -> model, data, label."""
    words = torch.randint(CLASSES, (BATCH, LENGTH)), torch.randint(CLASSES, (BATCH, LENGTH))
    lstm = torch.nn.LSTM(6, 7, 2, batch_first=True)
    gru = torch.nn.GRU(6, 7, bidirectional=True, batch_first=True)
    rnn = torch.nn.RNN(6, 7, nonlinearity="relu", batch_first=True)
    return {
        "lstm": (LanguageModel(lstm, 7), *words),
        "gru": (LanguageModel(gru, 14), *words),
        "rnn": (LanguageModel(rnn, 7), *words),
        "mlp": (Classifier(), torch.randn(BATCH, 6), torch.randint(CLASSES, (BATCH,))),
    }


def export(model: torch.nn.Module, data, label, dynamo: bool = False) -> onnx.ModelProto:
    """By one of PyTorch's two exporters. Weights keep their PyTorch names: nothing is folded."""
    if dynamo:
        options = dict(dynamo=True, optimize=False, external_data=False, opset_version=18, verbose=False)
    else:
        training = torch.onnx.TrainingMode.TRAINING
        options = dict(dynamo=False, do_constant_folding=False, training=training, opset_version=17)
    outputs = ["loss", "logits"] if isinstance(model, LanguageModel) else ["loss"]
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model, (data, label), buffer, input_names=["data", "label"], output_names=outputs, **options
        )
    return onnx.load_model_from_string(buffer.getvalue())


def numbers(model: torch.nn.Module, data, label) -> dict[str, np.ndarray]:
    """Inputs, outputs and ``gradient of <parameter>`` as PyTorch computes them."""
    outputs = model(data, label)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    model.zero_grad()
    outputs[0].backward()
    arrays = {"data": data.numpy(), "label": label.numpy()}
    arrays |= {name: o.detach().numpy() for name, o in zip(("loss", "logits"), outputs, strict=False)}
    return arrays | {f"gradient of {n}": p.grad.numpy() for n, p in model.named_parameters()}


def main() -> None:
    torch.manual_seed(0)
    arrays = {}
    for name, (model, data, label) in models().items():
        proto = export(model, data, label)
        for node in proto.graph.node:
            node.doc_string = ""
            del node.metadata_props[:]
        onnx.save(proto, HERE / f"foreign_{name}.onnx")
        arrays |= {f"{name}/{key}": value for key, value in numbers(model, data, label).items()}
    np.savez_compressed(HERE / "foreign_models.npz", **arrays)


if __name__ == "__main__":
    main()
