"""How the scan cuts documents into chunks on the device, without asking the device for a length.

Chunks are cut at document borders: chunk j of a document covers its tokens [jQ, (j+1)Q). A chunk then holds one
document, so no mask compares documents, no state is multiplied by a "reset", and the arithmetic on a document does not
depend on its neighbours: packed equals unpacked to the last bit. The price is one part-filled chunk per document.

Grids need a number known on the host. Of T tokens in D documents there are at most T // Q + D chunks; those beyond the
real count have length 0 and their programs leave at once. States stand between two chunks of one document, so there
are never more than T // Q of them, whatever the number of documents: the state at the end of chunk c of document d has
slot c - d (every document before has one slot less than chunks).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from h1r.kernels.layout import Layout


@dataclass(frozen=True)
class Chunks:
    """`chunks` [5, c] int32: first token, length, document, number in its document, chunks that follow in it.
    `documents` [2, D] int32: first chunk, number of chunks. `cu_seqlens` [D+1] int32."""

    size: int
    slots: int
    chunks: Tensor
    documents: Tensor
    cu_seqlens: Tensor

    @property
    def count(self) -> int:
        """Columns of `chunks`: an upper bound of the number of chunks."""
        return self.chunks.shape[1]


# One table per layout and chunk size: a batch passes through many layers.
_tables: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def chunks_of(layout: Layout, size: int) -> Chunks:
    """The table for chunks of `size` tokens, on the layout's device; made once per layout."""
    by_size: dict[int, Chunks] = _tables.setdefault(layout.cu_seqlens, {})
    if size not in by_size:
        by_size[size] = _cut(layout, size)
    return by_size[size]


def _cut(layout: Layout, size: int) -> Chunks:
    cu_seqlens, T = layout.cu_seqlens, layout.num_tokens
    documents = cu_seqlens.shape[0] - 1
    count_D = (cu_seqlens.diff() + size - 1) // size
    after_D = count_D.cumsum(0)
    chunk_c = torch.arange(T // size + documents, device=cu_seqlens.device)
    document_c = torch.searchsorted(after_D, chunk_c, right=True).clamp_max(documents - 1)
    number_c = chunk_c - (after_D - count_D)[document_c]
    start_c = cu_seqlens[document_c] + number_c * size
    length_c = (cu_seqlens[document_c + 1] - start_c).clamp(0, size)
    left_c = count_D[document_c] - 1 - number_c
    return Chunks(
        size,
        max(T // size, 1),
        torch.stack([start_c, length_c, document_c, number_c, left_c]).to(torch.int32),
        torch.stack([after_D - count_D, count_D]).to(torch.int32),
        cu_seqlens.to(torch.int32),
    )
