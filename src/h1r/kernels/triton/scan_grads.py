"""Triton kernels of the scan's gradients. Symbols, shapes and the equations as in `scan.py`.

Nothing is added atomically: what several heads share (B, C) is summed by one program that walks over the heads, what
many programs share (A, D) is written in parts and summed in order. Two runs agree to the last bit.
"""

# mypy: disable-error-code="import-not-found,import-untyped,no-untyped-def"
from __future__ import annotations

import triton
import triton.language as tl

from h1r.kernels.triton.scan_states import chunk_at, product, tile


@triton.jit(do_not_specialize=["count", "T", "H"])
def grad_inputs(
    x, B, D, scores, grad_y, grad_states, decay, dt_by_head, chunks, grad_x, grad_step, grad_D, count, T, x_stride,
    B_stride, H,
    R: tl.constexpr, P: tl.constexpr, S: tl.constexpr, Q: tl.constexpr,
    BM: tl.constexpr, BP: tl.constexpr, BK: tl.constexpr, WIDE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """grad_x_j = dt_j u_j + D dy_j, u_j = exp(l_end - l_j) grad_state B_j + sum_{i >= j} scores_ij exp(l_i - l_j) dy_i.

    grad_step [H, T] gets u_j . x_j, grad_D [c, tiles, H] the tile's sum of x . dy. Grid: c * H * tiles of tokens.
    """
    tiles: tl.constexpr = Q // BM
    here = tl.program_id(0) % tiles
    h = tl.program_id(0) // tiles % H
    chunk = tl.program_id(0) // tiles // H
    start, length, document, _, left = chunk_at(chunks, count, chunk)
    side = here * BM
    if side >= length:
        return
    g = h // R
    j, p, k = side + tl.arange(0, BM), tl.arange(0, BP), tl.arange(0, BK)
    x += start * x_stride + h * P
    B += start * B_stride + g * S
    grad_y += (start * H + h) * P
    decay += h.to(tl.int64) * T + start
    dt_by_head += h.to(tl.int64) * T + start
    scores += (chunk.to(tl.int64) * (H // R) + g) * Q * Q
    decay_j = tl.load(decay + j, mask=j < length, other=0.0)
    total = tl.zeros([BM, BP], tl.float32)
    if left > 0:
        grad_states += ((chunk - document).to(tl.int64) * H + h) * P * S
        for s in range(0, S, BK):
            b = tile(B, j, length, B_stride, s + k, S, 1)
            grad = tile(grad_states, s + k, S, 1, p, P, S)
            total = product(b, grad, total, WIDE, PRECISION)
        total *= tl.exp(tl.load(decay + length - 1) - decay_j)[:, None]
    for top in range(side, length, BM):
        i = top + tl.arange(0, BM)
        score = tl.load(scores + i[None, :] * Q + j[:, None])
        fall = tl.load(decay + i, mask=i < length, other=0.0)[None, :] - decay_j[:, None]
        seen = (i[None, :] >= j[:, None]) & (i < length)[None, :]
        weight = score * tl.exp(tl.where(seen, fall, -float("inf")))
        pull = tile(grad_y, i, length, H * P, p, P, 1)
        total = product(weight, pull, total, WIDE, PRECISION)
    row = tile(x, j, length, x_stride, p, P, 1).to(tl.float32)
    pull = tile(grad_y, j, length, H * P, p, P, 1).to(tl.float32)
    step = tl.load(dt_by_head + j, mask=j < length, other=0.0)
    out = total * step[:, None] + pull * tl.load(D + h).to(tl.float32)
    inside = (j < length)[:, None] & (p < P)[None, :]
    tl.store(grad_x + ((start + j)[:, None] * H + h) * P + p[None, :], out, mask=inside)
    tl.store(grad_step + h.to(tl.int64) * T + start + j, tl.sum(total * row, 1), mask=j < length)
    tl.store(grad_D + (chunk.to(tl.int64) * tiles + here) * H + h, tl.sum(tl.sum(row * pull, 1), 0))


@triton.jit(do_not_specialize=["count", "T", "H"])
def grad_scores(
    x, grad_y, scores, decay, dt_by_head, chunks, out, row_sums, column_sums, count, T, x_stride, H,
    R: tl.constexpr, P: tl.constexpr, Q: tl.constexpr, SPLITS: tl.constexpr,
    BM: tl.constexpr, BP: tl.constexpr, WIDE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """out [SPLITS, c, G, Q, Q]: M_ij = sum over heads of exp(l_i - l_j) dt_j (dy_i . x_j), the gradient of the scores.

    W_ij = M_ij scores_ij of one head is the gradient of l_i - l_j: row_sums [tiles, H, T] adds it over j < i of a tile,
    column_sums over i > j. Both come from the same W, so what must cancel between them does, in bf16 too.
    Each of SPLITS programs walks over a share of a group's heads. Grid: c * G * SPLITS * tiles.
    """
    tiles: tl.constexpr = Q // BM
    G = H // R
    here = tl.program_id(0) % (tiles * tiles)
    split = tl.program_id(0) // (tiles * tiles) % SPLITS
    g = tl.program_id(0) // (tiles * tiles) // SPLITS % G
    chunk = tl.program_id(0) // (tiles * tiles) // SPLITS // G
    start, length, _, _, _ = chunk_at(chunks, count, chunk)
    down, across = here // tiles, here % tiles
    if (down * BM >= length) | (across > down):
        return
    i, j, p = down * BM + tl.arange(0, BM), across * BM + tl.arange(0, BM), tl.arange(0, BP)
    within = (chunk.to(tl.int64) * G + g) * Q * Q
    score = tl.load(scores + within + i[:, None] * Q + j[None, :])
    score = tl.where(i[:, None] > j[None, :], score, 0.0)
    seen = (i[:, None] >= j[None, :]) & (i < length)[:, None] & (j < length)[None, :]
    share: tl.constexpr = (R + SPLITS - 1) // SPLITS
    total = tl.zeros([BM, BM], tl.float32)
    for h in range(g * R + split * share, g * R + tl.minimum((split + 1) * share, R)):
        pull = tile(grad_y + (start * H + h) * P, i, length, H * P, p, P, 1)
        row = tile(x + start * x_stride + h * P, p, P, 1, j, length, x_stride)
        by_head = tl.cast(h, tl.int64) * T + start
        decay_i = tl.load(decay + by_head + i, mask=i < length, other=0.0)
        decay_j = tl.load(decay + by_head + j, mask=j < length, other=0.0)
        step = tl.load(dt_by_head + by_head + j, mask=j < length, other=0.0)
        fall = tl.exp(tl.where(seen, decay_i[:, None] - decay_j[None, :], -float("inf")))
        both = product(pull, row, tl.zeros([BM, BM], tl.float32), WIDE, PRECISION) * fall * step[None, :]
        total += both
        both *= score
        tl.store(row_sums + across.to(tl.int64) * H * T + by_head + i, tl.sum(both, 1), mask=i < length)
        tl.store(column_sums + down.to(tl.int64) * H * T + by_head + j, tl.sum(both, 0), mask=j < length)
    out += split.to(tl.int64) * count * G * Q * Q + within
    tl.store(out + i[:, None] * Q + j[None, :], total)


@triton.jit(do_not_specialize=["count", "T", "H"])
def grad_keys(
    rows, own, other, states, M, decay, dt_by_head, chunks, grad, dots, count, T, row_stride, own_stride, other_stride,
    H,
    R: tl.constexpr, P: tl.constexpr, S: tl.constexpr, Q: tl.constexpr, SPLITS: tl.constexpr,
    BM: tl.constexpr, BP: tl.constexpr, BS: tl.constexpr, FORWARD: tl.constexpr, WIDE: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """The gradient of B or C [T, G, S], summed over the heads of each group.

    FORWARD (C): sum_h exp(l_i) state^T dy_i + sum_j M_ij B_j, with rows = dy, own = C, other = B, states before the
    chunk. Else (B): sum_h exp(l_end - l_j) dt_j grad_state^T x_j + sum_i M_ij C_i, with rows = x, own = B, other = C,
    gradients of the states after it. dots [S tiles, H, T] gets each head's first term times own: the gradient of its
    exponent. Grid: c * G * tiles of [Q, S].
    """
    tiles_s: tl.constexpr = (S + BS - 1) // BS
    tiles: tl.constexpr = Q // BM * tiles_s
    G = H // R
    s_tile = tl.program_id(0) % tiles_s
    top = tl.program_id(0) // tiles_s % (Q // BM) * BM
    g = tl.program_id(0) // tiles % G
    chunk = tl.program_id(0) // tiles // G
    start, length, document, number, left = chunk_at(chunks, count, chunk)
    if top >= length:
        return
    i, p, s = top + tl.arange(0, BM), tl.arange(0, BP), s_tile * BS + tl.arange(0, BS)
    rows += start * row_stride
    own += start * own_stride + g * S
    other += start * other_stride + g * S
    if FORWARD:
        idle, slot = number == 0, (chunk - document - 1).to(tl.int64)
    else:
        idle, slot = left == 0, (chunk - document).to(tl.int64)
    total = tl.zeros([BM, BS], tl.float32)
    if not idle:
        mine = tile(own, i, length, own_stride, s, S, 1).to(tl.float32)
        for h in range(g * R, (g + 1) * R):
            row = tile(rows + h * P, i, length, row_stride, p, P, 1)
            state = tile(states + (slot * H + h) * P * S, p, P, S, s, S, 1)
            by_head = tl.cast(h, tl.int64) * T + start
            weight = tl.load(decay + by_head + i, mask=i < length, other=0.0)
            if FORWARD:
                weight = tl.exp(weight)
            else:
                weight = tl.exp(tl.load(decay + by_head + length - 1) - weight)
                weight *= tl.load(dt_by_head + by_head + i, mask=i < length, other=0.0)
            part = product(row, state, tl.zeros([BM, BS], tl.float32), WIDE, PRECISION) * weight[:, None]
            total += part
            tl.store(dots + s_tile.to(tl.int64) * H * T + by_head + i, tl.sum(part * mine, 1), mask=i < length)
    M += (chunk.to(tl.int64) * G + g) * Q * Q
    if FORWARD:
        first, last = 0, top + BM
    else:
        first, last = top, length
    for side in range(first, last, BM):
        j = side + tl.arange(0, BM)
        at = i[:, None] * Q + j[None, :] if FORWARD else j[None, :] * Q + i[:, None]
        weight = tl.zeros([BM, BM], tl.float32)
        for split in tl.static_range(SPLITS):
            weight += tl.load(M + split * tl.cast(count, tl.int64) * G * Q * Q + at)
        key = tile(other, j, length, other_stride, s, S, 1)
        total = product(weight, key, total, WIDE, PRECISION)
    inside = (i < length)[:, None] & (s < S)[None, :]
    tl.store(grad + ((start + i)[:, None] * G + g) * S + s[None, :], total, mask=inside)


@triton.jit(do_not_specialize=["count", "T", "H"])
def grad_steps(
    A, decay, dt_by_head, chunks, grad_step, row_sums, column_sums, outgoing, incoming, ends, grad_dt, grad_A,
    count, T, H, TILES: tl.constexpr, S_TILES: tl.constexpr, ENDS: tl.constexpr, Q: tl.constexpr, BM: tl.constexpr,
):  # fmt: skip
    """grad_dt [T, H] and grad_A [c, H] from the parts that the other kernels left. Grid: c * H.

    The gradient of dt_k A gathers everything whose decay passes token k: sums of W over i >= k > j (as row sums minus
    column sums), what left the chunk from tokens before k, what came in and was read at k or later, and what passed.
    """
    chunk, h = tl.program_id(0) // H, tl.program_id(0) % H
    start, length, _, number, left = chunk_at(chunks, count, chunk)
    if length == 0:
        return
    i, parts = tl.arange(0, Q), tl.cast(H, tl.int64) * T
    at = h.to(tl.int64) * T + start + i
    pull = tl.zeros([Q], tl.float32)
    for n in tl.static_range(TILES):
        lower = (i < length) & (i // BM >= n)
        pull += tl.load(row_sums + n * parts + at, mask=lower, other=0.0)
        below = (i < length) & (i // BM <= n) & (n * BM < length)
        pull -= tl.load(column_sums + n * parts + at, mask=below, other=0.0)
    before = tl.zeros([Q], tl.float32)
    for n in tl.static_range(S_TILES):
        pull += tl.load(incoming + n * parts + at, mask=(i < length) & (number > 0), other=0.0)
        before += tl.load(outgoing + n * parts + at, mask=(i < length) & (left > 0), other=0.0)
    passing = tl.zeros([Q], tl.float32)
    if (number > 0) & (left > 0):
        for block in range(ENDS):
            passing += tl.load(ends + (tl.cast(block, tl.int64) * count + chunk) * H + h)
    of_decay = tl.cumsum(pull, 0, reverse=True) + (tl.cumsum(before, 0) - before) + passing
    step = tl.load(dt_by_head + at, mask=i < length, other=0.0)
    direct = tl.load(grad_step + at, mask=i < length, other=0.0)
    out = direct + of_decay * tl.load(A + h).to(tl.float32)
    tl.store(grad_dt + (start + i) * H + h, out, mask=i < length)
    tl.store(grad_A + chunk.to(tl.int64) * H + h, tl.sum(tl.where(i < length, step * of_decay, 0.0), 0))
