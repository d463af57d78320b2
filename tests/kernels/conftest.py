"""Every CPU level, and both forms of a kernel: the portable one, which is the same everywhere, on one level."""

from __future__ import annotations

import pytest
from kernel_runner import TARGETS, run_kernel, skip_without


@pytest.fixture(params=TARGETS, ids=lambda target: target.arch)
def cpu_target(request):
    """A CPU target that this machine can run."""
    skip_without(request.param)
    return request.param


FORMS = [*(("final", target) for target in TARGETS), ("portable", TARGETS[0])]


@pytest.fixture(params=FORMS, ids=lambda param: f"{param[0]}-{param[1].arch}")
def run(request):
    """``run(kernel, *inputs)``: what a form of the kernel writes."""
    form, target = request.param
    skip_without(target)
    return lambda kernel, *inputs: run_kernel(kernel, target, form, *inputs)
