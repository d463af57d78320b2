"""Which rows of a gradient are not zero.

The gradient of an embedding has a row for every word that there is, and a batch touches few of them. A table beside it
says which, so that the next backward pass clears those rows only, and an update need not read the others. The gradient
itself is always complete: whoever reads it sees every row.

A table is an int32 array that programs and update kernels read and programs write:

- ``COUNT``: how many rows are listed; ``ALL_ROWS`` where any row may hold anything.
- ``TRUSTED``: 1 while nobody but programs with this table writes to the gradient. At 0 programs clear every row, and
  list none.
- from ``LIST`` on: the numbers of the rows listed, in order of first use; then a mark for each row, 1 where it is
  listed.
"""

from __future__ import annotations

import numpy as np

from bucketmod.runtime.memory import aligned_zeros

COUNT, TRUSTED, LIST = 0, 1, 2
ALL_ROWS = -1


def table_size(rows: int) -> int:
    """Entries of the table of a gradient with this number of rows."""
    return LIST + 2 * rows


def make_table(rows: int, trusted: bool) -> np.ndarray:
    """A table of a gradient of which nothing is known yet."""
    table = aligned_zeros(table_size(rows), np.int32)
    table[COUNT], table[TRUSTED] = ALL_ROWS, trusted
    return table


def distrust(table: np.ndarray) -> None:
    """Others may write to the gradient from now on."""
    table[COUNT], table[TRUSTED] = ALL_ROWS, 0
