"""Records a PyTorch language model exported once for each bucket, and its training by PyTorch over mixed buckets.

Run with PyTorch 2.13 and onnx:  python tests/recorded/record_foreign_training.py
Writes foreign_training_<length>.onnx and foreign_training.npz (batches, the loss of every step, parameters).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch
from record_foreign_models import BATCH, CLASSES, LanguageModel, export

HERE = Path(__file__).parent
LENGTHS = (3, 6)
STEPS = 30
LEARNING_RATE, MOMENTUM = 0.3, 0.9


def words(length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Each word decides the next; class 0 is left out of the loss."""
    sentence = torch.empty(BATCH, length + 1, dtype=torch.int64)
    sentence[:, 0] = torch.randint(1, CLASSES, (BATCH,))
    for step in range(length):
        sentence[:, step + 1] = sentence[:, step] * 3 % (CLASSES - 1) + 1
    sentence[0, length:] = 0
    return sentence[:, :-1].contiguous(), sentence[:, 1:].contiguous()


def exported(model: torch.nn.Module) -> dict[int, onnx.ModelProto]:
    """bucket key -> model."""
    found = {}
    for length in LENGTHS:
        found[length] = export(model, *words(length))
        for node in found[length].graph.node:
            node.doc_string = ""
            del node.metadata_props[:]
    return found


def train(model: torch.nn.Module) -> dict[str, np.ndarray]:
    """Batches, losses and the parameters afterwards."""
    optimizer = torch.optim.SGD(model.parameters(), LEARNING_RATE, MOMENTUM)
    keys = [LENGTHS[0], *(LENGTHS[i] for i in torch.randint(len(LENGTHS), (STEPS - 2,))), LENGTHS[1]]
    arrays, losses = {"keys": np.array(keys)}, []
    for step, key in enumerate(keys):
        data, label = words(key)
        arrays |= {f"data {step}": data.numpy(), f"label {step}": label.numpy()}
        optimizer.zero_grad()
        loss = model(data, label)[0]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    arrays["losses"] = np.array(losses)
    return arrays | {f"parameter {n}": p.detach().numpy().copy() for n, p in model.named_parameters()}


def make_model() -> torch.nn.Module:
    return LanguageModel(torch.nn.LSTM(6, 7, batch_first=True), 7)


def main() -> None:
    torch.manual_seed(0)
    model = make_model()
    for length, proto in exported(model).items():
        onnx.save(proto, HERE / f"foreign_training_{length}.onnx")
    np.savez_compressed(HERE / "foreign_training.npz", **train(model))


if __name__ == "__main__":
    main()
