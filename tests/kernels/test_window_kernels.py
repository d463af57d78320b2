"""Sliding windows against numpy: unfolding, its transpose, pooling and the gradient of a maximum."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from bucketmod.compiler.kernels.windows import Col2Im, Im2Col, MaxPoolGrad, Pool, Windows

SAMPLES, CHANNELS = 2, 3
WINDOWS = [
    Windows((9, 21), (3, 3)),
    Windows((7, 40), (2, 2), (2, 2)),
    Windows((8, 37), (3, 2), (2, 1), (1, 2)),
    Windows((5, 19), (1, 3), (1, 3), (1, 2)),
    Windows((4, 6), (4, 6)),
]


def cut(x, windows):
    """[planes, down, across, kernel rows, kernel columns]."""
    spread = [(k - 1) * d + 1 for k, d in zip(windows.kernel, windows.dilation, strict=True)]
    (sh, sw), (dh, dw) = windows.stride, windows.dilation
    return sliding_window_view(x, spread, axis=(1, 2))[:, ::sh, ::sw, ::dh, ::dw]


def draw(windows, *shape):
    return np.random.RandomState(windows.image[1]).randint(-3, 4, shape or (SAMPLES * CHANNELS, *windows.image))


@pytest.mark.parametrize("windows", WINDOWS)
@pytest.mark.parametrize("joined", [False, True])
def test_im2col(run, windows, joined):
    x = draw(windows).astype(np.float32)
    expected = cut(x, windows).transpose(0, 3, 4, 1, 2).reshape(SAMPLES, -1, *windows.places)
    (found,) = run(Im2Col(SAMPLES, CHANNELS, windows, joined), x)
    np.testing.assert_array_equal(found, expected.swapaxes(0, 1) if joined else expected)


@pytest.mark.parametrize("windows", WINDOWS)
@pytest.mark.parametrize("shared", [False, True])
def test_col2im(run, windows, shared):
    planes = SAMPLES * CHANNELS
    columns = draw(windows, planes, 1 if shared else windows.size, *windows.places).astype(np.float32)
    expected = np.zeros((planes, *windows.image), np.float32)
    spread = np.broadcast_to(columns, (planes, windows.size, *windows.places))
    view = sliding_window_view(expected, windows.image, axis=(1, 2), writeable=True)[:, 0, 0]
    for at in range(windows.size):
        i, j = windows.split(at)
        for down in range(windows.places[0]):
            for across in range(windows.places[1]):
                spot = windows.spot(i, down, 0), windows.spot(j, across, 1)
                view[:, spot[0], spot[1]] += spread[:, at, down, across]
    (found,) = run(Col2Im(planes, windows, shared), columns.reshape(-1, *windows.places))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("windows", WINDOWS)
def test_pooling(run, windows):
    x = draw(windows).astype(np.float32)
    parts = cut(x, windows)
    for maximum, expected in ((True, parts.max((3, 4))), (False, parts.sum((3, 4)))):
        (found,) = run(Pool(len(x), windows, maximum), x)
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("windows", WINDOWS)
def test_the_first_maximum_gets_the_gradient(run, windows):
    x = draw(windows).astype(np.float32)  # few different values: many ties
    parts = cut(x, windows)
    y, dy = parts.max((3, 4)), draw(windows, len(x), *windows.places).astype(np.float32)
    expected = np.zeros_like(x)
    chosen = parts.reshape(*y.shape, -1).argmax(-1)
    for place in np.ndindex(*y.shape):
        i, j = windows.split(int(chosen[place]))
        expected[place[0], windows.spot(i, place[1], 0), windows.spot(j, place[2], 1)] += dy[place]
    (found,) = run(MaxPoolGrad(len(x), windows), dy, x, y)
    np.testing.assert_array_equal(found, expected)
