"""Packing: documents of different length into rows of `seq_len` tokens, so that no forward pass computes padding.

First fit in the order given, over a bounded number of open rows: what stays open is what a row could still take. The
model resets attention, convolution and SSM state at every document border, so packing changes no document's loss.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

OPEN_ROWS = 64


def pack(lengths: Sequence[int], order: Iterable[int], seq_len: int) -> list[list[int]]:
    """Rows of document indices; a document longer than `seq_len` counts as `seq_len` (it is right-trimmed).

    Every index of `order` appears in exactly one row, and rows stand in the order in which they were opened.
    """
    rows: list[list[int]] = []
    open_rows: list[tuple[int, list[int]]] = []
    for index in order:
        need = min(lengths[index], seq_len)
        for slot, (room, row) in enumerate(open_rows):
            if need <= room:
                row.append(index)
                open_rows[slot] = (room - need, row)
                break
        else:
            row = [index]
            rows.append(row)
            open_rows.append((seq_len - need, row))
            if len(open_rows) > OPEN_ROWS:
                open_rows.remove(min(open_rows, key=lambda entry: entry[0]))
    return rows
