"""Which gradients are wanted, and whether they replace the last ones or add up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bucketmod.base import MXNetError

GRAD_REQS = ("null", "write", "add")


def parse_grad_req(
    grad_req: Any, arguments: Sequence[str], parameters: Sequence[str], fixed: Sequence[str], inputs: Sequence[str]
) -> dict[str, str]:
    """null, write or add for every argument.

    ``grad_req``: a text for all ``parameters`` but the ``fixed`` ones, and for ``inputs``, whose gradients are wanted
    too; a dict by name that overrides this, with write for what it leaves out; a list or tuple in the order of
    ``arguments`` (AssertionError for another length). Other arguments (labels, states) have null. ValueError for
    another type, MXNetError for another word.
    """
    default = grad_req if isinstance(grad_req, str) else "write"
    chosen = {name: default for name in [*parameters, *inputs] if name not in fixed}
    if isinstance(grad_req, (list, tuple)):
        assert len(grad_req) == len(arguments), (
            f"grad_req has {len(grad_req)} entries for {len(arguments)} arguments: {', '.join(arguments)}"
        )
        chosen = dict(zip(arguments, grad_req, strict=True))
    elif isinstance(grad_req, Mapping):
        chosen.update(grad_req)
    elif not isinstance(grad_req, str):
        raise ValueError(f"grad_req must be a str, list, tuple or dict, got {type(grad_req)}")
    for name, word in chosen.items():
        if word not in GRAD_REQS:
            raise MXNetError(f"grad_req of {name!r} is {word!r}; it must be one of {', '.join(GRAD_REQS)}")
    differentiable = {*parameters, *inputs}
    return {name: chosen.get(name, "null") if name in differentiable else "null" for name in arguments}
