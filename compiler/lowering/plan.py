"""Memory plan: one offset in the workspace for every intermediate, found once at compile time.

Greedy by size (the largest first, each at the lowest offset that is free for as long as it lives): Pisarchyk and Lee,
"Efficient Memory Management for Deep Neural Net Inference", 2020, section 5.3.
"""

from __future__ import annotations

from bucketmod.compiler.lowering.calls import KernelCall, Storage
from bucketmod.runtime.memory import ALIGNMENT


def lifetimes(calls: list[KernelCall], pinned: set[Storage]) -> dict[Storage, tuple[int, int]]:
    """First and last call that touches each intermediate; a pinned one lives to the end."""
    lives: dict[Storage, tuple[int, int]] = {}
    for index, call in enumerate(calls):
        for view in (*call.reads, *call.writes):
            if view.storage.kind == "intermediate":
                first = lives.get(view.storage, (index, index))[0]
                lives[view.storage] = (first, index)
    for storage in pinned:
        if storage in lives:
            lives[storage] = (lives[storage][0], len(calls))
    return lives


def plan_offsets(lives: dict[Storage, tuple[int, int]]) -> tuple[dict[Storage, int], int]:
    """Returns the byte offset of each storage and the size of the workspace in bytes."""
    placed: list[tuple[int, int, int, int]] = []  # start, end, first, last
    offsets: dict[Storage, int] = {}
    total = 0
    for storage in sorted(lives, key=lambda s: (-s.nbytes, lives[s])):
        first, last = lives[storage]
        size = _round_up(max(storage.nbytes, 1))
        start = 0
        for other_start, other_end, other_first, other_last in placed:  # sorted by start
            if other_last < first or last < other_first:
                continue
            if start + size <= other_start:
                break
            start = max(start, other_end)
        offsets[storage] = start
        placed.append((start, start + size, first, last))
        placed.sort()
        total = max(total, start + size)
    return offsets, total


def _round_up(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
