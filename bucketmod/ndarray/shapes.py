"""Shape arithmetic of ``reshape``: MXNet's special codes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from bucketmod.base import MXNetError


def resolve_reshape(source: Sequence[int], target: Sequence[int], reverse: bool = False) -> tuple[int, ...]:
    """The shape that ``target`` means for an array of shape ``source``.

    Codes: 0 keeps the dimension, -1 is inferred (once), -2 keeps all that remain, -3 joins the next two, -4 splits the
    next one into the two numbers that follow (one of them may be -1). With ``reverse`` the codes are matched from the
    right. Raises MXNetError when the sizes disagree.
    """
    if reverse:
        return resolve_reshape(source[::-1], _reverse_codes(target))[::-1]
    result = _expand_codes(tuple(source), tuple(target))
    size = math.prod(source)
    if -1 in result:
        known = math.prod(n for n in result if n != -1)
        if result.count(-1) > 1 or known == 0 or size % known:
            raise _mismatch(source, target)
        result = [size // known if n == -1 else n for n in result]
    if math.prod(result) != size:
        raise _mismatch(source, target)
    return tuple(result)


def _mismatch(source: Sequence[int], target: Sequence[int]) -> MXNetError:
    return MXNetError(
        f"reshape: an array of shape {tuple(source)} ({math.prod(source)} elements) cannot take shape {tuple(target)}"
    )


def _reverse_codes(target: Sequence[int]) -> list[int]:
    """Reverses the order of codes; the two numbers of a -4 follow it still, exchanged."""
    groups: list[list[int]] = []
    codes = iter(target)
    for code in codes:
        groups.append([code, *reversed([next(codes, -1), next(codes, -1)])] if code == -4 else [code])
    return [code for group in reversed(groups) for code in group]


def _expand_codes(source: tuple[int, ...], target: tuple[int, ...]) -> list[int]:
    result: list[int] = []
    position = 0  # the next dimension of the source
    codes = iter(target)
    try:
        for code in codes:
            if code == 0:
                result.append(source[position])
                position += 1
            elif code == -2:
                result.extend(source[position:])
                position = len(source)
            elif code == -3:
                result.append(source[position] * source[position + 1])
                position += 2
            elif code == -4:
                result.extend(_split(source[position], next(codes), next(codes)))
                position += 1
            elif code >= -1:
                result.append(code)
                position += 1
            else:
                raise _mismatch(source, target)
    except (IndexError, StopIteration):
        raise _mismatch(source, target) from None
    return result


def _split(size: int, first: int, second: int) -> tuple[int, int]:
    if first == -1 and second > 0:
        first = size // second
    if second == -1 and first > 0:
        second = size // first
    if first * second != size:
        raise MXNetError(f"reshape: a dimension of {size} cannot be split into {first} x {second}")
    return first, second
