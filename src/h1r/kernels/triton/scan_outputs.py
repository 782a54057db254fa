"""The Triton kernel of the scan's outputs. Symbols and shapes as in `scan.py`."""

# mypy: disable-error-code="import-not-found,import-untyped,no-untyped-def"
from __future__ import annotations

import triton
import triton.language as tl

from h1r.kernels.triton.scan_states import chunk_at, product, tile


@triton.jit(do_not_specialize=["count", "T", "H"])
def outputs(
    x, C, D, scores, states, decay, dt_by_head, chunks, y, count, T, x_stride, C_stride, H,
    R: tl.constexpr, P: tl.constexpr, S: tl.constexpr, Q: tl.constexpr,
    BM: tl.constexpr, BP: tl.constexpr, BK: tl.constexpr, WIDE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """y_i = exp(l_i) state C_i + sum_{j <= i} scores_ij exp(l_i - l_j) dt_j x_j + D x_i. Grid: c * H * row tiles."""
    row_tiles: tl.constexpr = Q // BM
    top = tl.program_id(0) % row_tiles * BM
    h = tl.program_id(0) // row_tiles % H
    chunk = tl.program_id(0) // row_tiles // H
    start, length, document, number, _ = chunk_at(chunks, count, chunk)
    if top >= length:
        return
    g = h // R
    i, p, k = top + tl.arange(0, BM), tl.arange(0, BP), tl.arange(0, BK)
    x += start * x_stride + h * P
    C += start * C_stride + g * S
    decay += h.to(tl.int64) * T + start
    dt_by_head += h.to(tl.int64) * T + start
    scores += (chunk.to(tl.int64) * (H // R) + g) * Q * Q
    decay_i = tl.load(decay + i, mask=i < length, other=0.0)
    total = tl.zeros([BM, BP], tl.float32)
    if number > 0:
        states += ((chunk - document - 1).to(tl.int64) * H + h) * P * S
        for s in range(0, S, BK):
            c = tile(C, i, length, C_stride, s + k, S, 1)
            state = tile(states, s + k, S, 1, p, P, S)
            total = product(c, state, total, WIDE, PRECISION)
        total *= tl.exp(decay_i)[:, None]
    for side in range(0, top + BM, BM):
        j = side + tl.arange(0, BM)
        score = tl.load(scores + i[:, None] * Q + j[None, :])
        fall = decay_i[:, None] - tl.load(decay + j, mask=j < length, other=0.0)[None, :]
        seen = (i[:, None] >= j[None, :]) & (j < length)[None, :]
        step = tl.load(dt_by_head + j, mask=j < length, other=0.0)
        weight = score * tl.exp(tl.where(seen, fall, -float("inf"))) * step[None, :]
        row = tile(x, j, length, x_stride, p, P, 1)
        total = product(weight, row, total, WIDE, PRECISION)
    total += tile(x, i, length, x_stride, p, P, 1).to(tl.float32) * tl.load(D + h).to(tl.float32)
    inside = (i < length)[:, None] & (p < P)[None, :]
    tl.store(y + ((start + i)[:, None] * H + h) * P + p[None, :], total, mask=inside)
