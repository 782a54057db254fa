"""Triton kernels of the scan that forward and backward share: decays, outer sums, the walk over states, scores.

Symbols and shapes as in `scan.py`. Every kernel takes `chunks` [5, c] and finds in it the tokens of its chunk. Token
offsets are 64-bit; offsets inside a chunk fit 32 bits.
"""

# mypy: disable-error-code="import-not-found,import-untyped,no-untyped-def"
from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def chunk_at(chunks, count, chunk):
    """First token (64-bit), length, document, number in the document, chunks that follow in it."""
    start = tl.load(chunks + chunk).to(tl.int64)
    length = tl.load(chunks + count + chunk)
    document = tl.load(chunks + 2 * count + chunk)
    number = tl.load(chunks + 3 * count + chunk)
    left = tl.load(chunks + 4 * count + chunk)
    return start, length, document, number, left


@triton.jit
def tile(base, i, i_end, i_stride, k, k_end, k_stride):
    """base[i, k] as [len(i), len(k)], zero beyond the ends."""
    inside = (i < i_end)[:, None] & (k < k_end)[None, :]
    return tl.load(base + i[:, None] * i_stride + k[None, :] * k_stride, mask=inside, other=0.0)


@triton.jit
def product(a, b, total, WIDE: tl.constexpr, PRECISION: tl.constexpr):
    """total + a b: in bf16, or with WIDE in fp32 operands at this precision; the sum is fp32."""
    operand: tl.constexpr = tl.float32 if WIDE else tl.bfloat16
    return tl.dot(a.to(operand), b.to(operand), total, input_precision=PRECISION)


@triton.jit(do_not_specialize=["count", "T", "H"])
def sum_decays(dt, A, chunks, decay, dt_by_head, count, T, dt_stride, H, Q: tl.constexpr):
    """decay [H, T] = sum of dt A from the chunk's first token up to each token, and dt as [H, T]. Grid: c * H."""
    chunk, h = tl.program_id(0) // H, tl.program_id(0) % H
    start, length, _, _, _ = chunk_at(chunks, count, chunk)
    i = tl.arange(0, Q)
    step = tl.load(dt + (start + i) * dt_stride + h, mask=i < length, other=0.0).to(tl.float32)
    total = tl.cumsum(step * tl.load(A + h).to(tl.float32), 0)
    out = h.to(tl.int64) * T + start + i
    tl.store(decay + out, total, mask=i < length)
    tl.store(dt_by_head + out, step, mask=i < length)


@triton.jit(do_not_specialize=["count", "T", "H"])
def outer_sums(
    rows, keys, decay, dt_by_head, chunks, out, count, T, row_stride, key_stride, H,
    R: tl.constexpr, P: tl.constexpr, S: tl.constexpr, BP: tl.constexpr, BS: tl.constexpr, BK: tl.constexpr,
    FORWARD: tl.constexpr, WIDE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """out [slot, H, P, S] = sum_t w_t rows_t keys_t^T over a chunk.

    FORWARD: rows = x, keys = B, w_t = exp(decay_end - decay_t) dt_t: what a chunk adds to the state at its end.
    Else: rows = dy, keys = C, w_t = exp(decay_t): the gradient that its outputs send to the state before it.
    Grid: c * H * tiles of [P, S].
    """
    tiles_s: tl.constexpr = (S + BS - 1) // BS
    tiles: tl.constexpr = (P + BP - 1) // BP * tiles_s
    here = tl.program_id(0) % tiles
    h = tl.program_id(0) // tiles % H
    chunk = tl.program_id(0) // tiles // H
    start, length, document, number, left = chunk_at(chunks, count, chunk)
    if FORWARD:
        idle, slot = left == 0, chunk - document
    else:
        idle, slot = number == 0, chunk - document - 1
    if (length == 0) | idle:
        return
    p = here // tiles_s * BP + tl.arange(0, BP)
    s = here % tiles_s * BS + tl.arange(0, BS)
    k = tl.arange(0, BK)
    rows += start * row_stride + h * P
    keys += start * key_stride + h // R * S
    decay += h.to(tl.int64) * T + start
    dt_by_head += h.to(tl.int64) * T + start
    total = tl.zeros([BP, BS], tl.float32)
    end = tl.load(decay + length - 1)
    for t in range(0, length, BK):
        inside = t + k < length
        row = tile(rows, p, P, 1, t + k, length, row_stride)
        key = tile(keys, t + k, length, key_stride, s, S, 1)
        weight = tl.load(decay + t + k, mask=inside, other=0.0)
        if FORWARD:
            weight = tl.exp(end - weight) * tl.load(dt_by_head + t + k, mask=inside, other=0.0)
        else:
            weight = tl.exp(weight)
        total = product(row.to(tl.float32) * weight[None, :], key, total, WIDE, PRECISION)
    out += (slot.to(tl.int64) * H + h) * P * S
    tl.store(out + p[:, None] * S + s[None, :], total, mask=(p < P)[:, None] & (s < S)[None, :])


@triton.jit(do_not_specialize=["count", "T", "H"])
def carry_forward(states, decay, chunks, documents, count, num_documents, T, H, PS: tl.constexpr, BLOCK: tl.constexpr):
    """states [slot, H, PS] in place, along each document: state_j += exp(decay over chunk j) state_{j-1}.

    Grid: D * H * blocks of P S.
    """
    blocks: tl.constexpr = (PS + BLOCK - 1) // BLOCK
    h = tl.program_id(0) // blocks % H
    document = tl.program_id(0) // blocks // H
    first = tl.load(documents + document)
    chunks_here = tl.load(documents + num_documents + document)
    at = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    state = tl.zeros([BLOCK], tl.float32)
    for j in range(chunks_here - 1):
        start, length, _, _, _ = chunk_at(chunks, count, first + j)
        end = tl.load(decay + h.to(tl.int64) * T + start + length - 1)
        here = states + ((first + j - document).to(tl.int64) * H + h) * PS + at
        state = tl.exp(end) * state + tl.load(here, mask=at < PS, other=0.0)
        tl.store(here, state, mask=at < PS)


@triton.jit(do_not_specialize=["count", "T", "H"])
def carry_backward(
    grads, states, decay, chunks, documents, grad_ends, count, num_documents, T, H,
    PS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The same walk from the end: grad_j += exp(decay over chunk j+1) grad_{j+1}, in place.

    grad_ends [block, c, H] gets, for chunks that a state passes through, its share of the gradient of the chunk's whole
    decay: exp(decay) <grad at its end, state at its start>.
    """
    blocks: tl.constexpr = (PS + BLOCK - 1) // BLOCK
    block = tl.program_id(0) % blocks
    h = tl.program_id(0) // blocks % H
    document = tl.program_id(0) // blocks // H
    first = tl.load(documents + document)
    chunks_here = tl.load(documents + num_documents + document)
    at = block * BLOCK + tl.arange(0, BLOCK)
    slot = (first - document).to(tl.int64)
    grad = tl.zeros([BLOCK], tl.float32)
    for back in range(1, chunks_here):
        j = chunks_here - 1 - back
        here = ((slot + j) * H + h) * PS + at
        if back > 1:
            start, length, _, _, _ = chunk_at(chunks, count, first + j + 1)
            survive = tl.exp(tl.load(decay + h.to(tl.int64) * T + start + length - 1))
            state = tl.load(states + here, mask=at < PS, other=0.0)
            row = block.to(tl.int64) * count + first + j + 1
            tl.store(grad_ends + row * H + h, survive * tl.sum(grad * state, 0))
            grad = grad * survive
        grad += tl.load(grads + here, mask=at < PS, other=0.0)
        tl.store(grads + here, grad, mask=at < PS)


@triton.jit(do_not_specialize=["count", "G"])
def score_tiles(
    B, C, chunks, scores, count, B_stride, C_stride, G,
    S: tl.constexpr, Q: tl.constexpr, BM: tl.constexpr, BK: tl.constexpr, WIDE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """scores [c, G, Q, Q] = C_i . B_j in fp32, in the tiles on and below the diagonal. Grid: c * G * tiles."""
    across: tl.constexpr = Q // BM
    here = tl.program_id(0) % (across * across)
    g = tl.program_id(0) // (across * across) % G
    chunk = tl.program_id(0) // (across * across) // G
    start, length, _, _, _ = chunk_at(chunks, count, chunk)
    top, side = here // across * BM, here % across * BM
    if (top >= length) | (side > top):
        return
    i, j, k = top + tl.arange(0, BM), side + tl.arange(0, BM), tl.arange(0, BK)
    B += start * B_stride + g * S
    C += start * C_stride + g * S
    total = tl.zeros([BM, BM], tl.float32)
    for s in range(0, S, BK):
        c = tile(C, i, length, C_stride, s + k, S, 1)
        b = tile(B, s + k, S, 1, j, length, B_stride)
        total = product(c, b, total, WIDE, PRECISION)
    scores += (chunk.to(tl.int64) * G + g) * Q * Q
    tl.store(scores + i[:, None] * Q + j[None, :], total)
