"""Memory plan: one offset in the workspace for every intermediate, found once at compile time.

Greedy by size (the largest first, each at the lowest offset that is free for as long as it lives): Pisarchyk and Lee,
"Efficient Memory Management for Deep Neural Net Inference", 2020, section 5.3.
"""

from __future__ import annotations

from bucketmod.compiler.lowering.calls import KernelCall, Storage
from bucketmod.runtime.memory import ALIGNMENT


def share_in_place(calls: list[KernelCall], pinned: set[Storage]) -> dict[Storage, Storage]:
    """Outputs that kernels write over an input of theirs: output -> the storage where it lives.

    The input must be an intermediate of the same size that nobody touches afterwards and that the call reads once.
    """
    last = {view.storage: index for index, call in enumerate(calls) for view in (*call.reads, *call.writes)}
    homes: dict[Storage, Storage] = {}
    for index, call in enumerate(calls):
        read = [view.storage for view in call.reads]
        for output, source in call.in_place.items():
            made, given = call.writes[output], call.reads[source]
            kinds = {made.storage.kind, given.storage.kind}
            free = last[given.storage] == index and given.storage not in pinned and read.count(given.storage) == 1
            fits = made.whole and given.whole and made.storage.nbytes == given.storage.nbytes
            if kinds == {"intermediate"} and free and fits:
                homes[made.storage] = homes.get(given.storage, given.storage)
    return homes


def lifetimes(
    calls: list[KernelCall], pinned: set[Storage], homes: dict[Storage, Storage]
) -> dict[Storage, tuple[int, int]]:
    """First and last call that touches each intermediate or what was written over it (``homes``: see
    ``share_in_place``); a pinned one lives to the end."""
    lives: dict[Storage, tuple[int, int]] = {}
    for index, call in enumerate(calls):
        for view in (*call.reads, *call.writes):
            storage = homes.get(view.storage, view.storage)
            if storage.kind == "intermediate":
                lives[storage] = (lives.get(storage, (index, index))[0], index)
    for storage in {homes.get(storage, storage) for storage in pinned}:
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
