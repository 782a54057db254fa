"""The state-space dual (SSD) form of Mamba-2, in plain PyTorch (Dao & Gu, arXiv 2405.21060, sections 6 and 7).

Per head, with scalar decay a_t = exp(dt_t * A):

    state_t = a_t * state_{t-1} + dt_t * x_t B_t^T          y_t = state_t C_t

Two forms of the same map (the two lines above, token by token, are in `reference.py`):

* `ssd_scan`: chunks of Q tokens; inside a chunk the map is a masked matrix product, between chunks a recurrence on
  states. Training and prefill.
* `ssd_step`: one token per sequence, in place. Decoding.

Documents: a token with another `seq_idx` than its predecessor starts from a zero state. The masks are applied where
`seq_idx` differs rather than by a large negative decay, so that the reset is exact and its gradient is zero.

Shapes: T tokens, H heads, P head width (`d_head`), G groups (heads of a group share B and C), S state width
(`d_state`), Q chunk, c chunks. States are fp32 or wider. Left out: D * x and the gate, which `operators.py` adds.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def ssd_scan(
    x_THP: Tensor, dt_TH: Tensor, A_H: Tensor, B_TGS: Tensor, C_TGS: Tensor, seq_idx: Tensor, chunk_size: int
) -> Tensor:
    """The chunked form over documents laid end to end. Returns y [T, H, P]; differentiable in all but `seq_idx`.

    Any T: the tail of the last chunk is padded with dt = 0, which changes no state.
    """
    T, H, _ = x_THP.shape
    pad = -T % chunk_size
    if pad:
        x_THP, B_TGS, C_TGS = (F.pad(t, (0, 0, 0, 0, 0, pad)) for t in (x_THP, B_TGS, C_TGS))
        dt_TH = F.pad(dt_TH, (0, 0, 0, pad))
        seq_idx = torch.cat([seq_idx, seq_idx[-1:].expand(pad)])
    c = (T + pad) // chunk_size
    x, dt, B, C = (t.unflatten(0, (c, chunk_size)) for t in (x_THP, dt_TH, B_TGS, C_TGS))
    y, _ = _chunked(x, dt, A_H, B, C, seq_idx.view(c, chunk_size), None, 1)
    return y.reshape(T + pad, H, -1)[:T]


def ssd_scan_rows(
    x_BTHP: Tensor, dt_BTH: Tensor, A_H: Tensor, B_BTGS: Tensor, C_BTGS: Tensor, initial_BHPS: Tensor, chunk_size: int
) -> tuple[Tensor, Tensor]:
    """The chunked form over independent rows that go on from `initial_BHPS`: prefill.

    Tokens with dt = 0 change no state, so rows of different length are padded on the right with dt = 0. Returns
    y [B, T, H, P] and the states after the last token [B, H, P, S] (fp32 or wider).
    """
    rows, T, H, P = x_BTHP.shape
    pad = -T % chunk_size
    if pad:
        x_BTHP, B_BTGS, C_BTGS = (F.pad(t, (0, 0, 0, 0, 0, pad)) for t in (x_BTHP, B_BTGS, C_BTGS))
        dt_BTH = F.pad(dt_BTH, (0, 0, 0, pad))
    c = rows * (T + pad) // chunk_size
    shaped = [t.reshape(c, chunk_size, *t.shape[2:]) for t in (x_BTHP, dt_BTH, B_BTGS, C_BTGS)]
    y, final = _chunked(shaped[0], shaped[1], A_H, shaped[2], shaped[3], None, initial_BHPS, rows)
    return y.reshape(rows, T + pad, H, P)[:, :T], final


def ssd_step(state_BHPS: Tensor, x_BHP: Tensor, dt_BH: Tensor, A_H: Tensor, B_BGS: Tensor, C_BGS: Tensor) -> Tensor:
    """One token for each of B sequences; `state_BHPS` is updated in place. Returns y [B, H, P]."""
    rows, H, P, S = state_BHPS.shape
    G = B_BGS.shape[1]
    decay_BH11 = torch.exp(dt_BH * A_H)[..., None, None]
    update_BGRP1 = (x_BHP * dt_BH[..., None]).view(rows, G, H // G, P, 1)
    grouped = state_BHPS.mul_(decay_BH11).view(rows, G, H // G, P, S)
    grouped.addcmul_(update_BGRP1, B_BGS[:, :, None, None, :])
    y = torch.bmm(state_BHPS.view(rows * G, (H // G) * P, S), C_BGS.reshape(rows * G, S, 1))
    return y.view(rows, H, P)


def _chunked(
    x_cQHP: Tensor,
    dt_cQH: Tensor,
    A_H: Tensor,
    B_cQGS: Tensor,
    C_cQGS: Tensor,
    seq_cQ: Tensor | None,
    initial_BHPS: Tensor | None,
    rows: int,
) -> tuple[Tensor, Tensor]:
    """y [c, Q, H, P] and the final states [rows, H, P, S] of `rows` equal runs of chunks.

    Everything but the product inside a chunk keeps the layout [c, Q, H, P] in which x arrives: with one group, as in
    all Falcon-H1 models but the 34B, no tensor of x's size is then transposed for the sake of a matrix product.
    """
    c, Q, H, P = x_cQHP.shape
    G, S = B_cQGS.shape[2:]
    R = H // G
    log_decay_cQH = (dt_cQH * A_H).cumsum(1)
    B_cGQS, C_cGQS = B_cQGS.permute(0, 2, 1, 3), C_cQGS.permute(0, 2, 1, 3)
    dtx_cQHP = x_cQHP * dt_cQH[..., None]

    # What a chunk adds to the state at its end, and how much of the incoming state survives it
    to_end_cQH = torch.exp((log_decay_cQH[:, -1:] - log_decay_cQH).clamp_min(-80))
    from_start_cQH = torch.exp(log_decay_cQH.clamp_min(-80))
    survive_cH = from_start_cQH[:, -1]
    visible = torch.ones(Q, Q, dtype=torch.bool, device=x_cQHP.device).tril()
    if seq_cQ is not None:
        last_c = seq_cQ[:, -1]
        before_c = torch.cat([last_c.new_full((1,), -1), last_c[:-1]])
        to_end_cQH = to_end_cQH * (seq_cQ == last_c[:, None])[..., None]
        from_start_cQH = from_start_cQH * (seq_cQ == before_c[:, None])[..., None]
        survive_cH = survive_cH * (last_c == before_c)[:, None]
        visible = (visible & (seq_cQ[:, :, None] == seq_cQ[:, None, :]))[:, None]
    weighted_cGQK = _by_group(dtx_cQHP * to_end_cQH[..., None], G)
    added_cHPS = (weighted_cGQK.transpose(-1, -2) @ B_cGQS).reshape(c, H, P, S)
    if initial_BHPS is None:
        initial_BHPS = added_cHPS.new_zeros(rows, H, P, S)
    before, final = _Carry.apply(
        added_cHPS.view(rows, c // rows, H, P * S),
        survive_cH.view(rows, c // rows, H, 1),
        initial_BHPS.reshape(rows, H, P * S).to(added_cHPS.dtype),
    )
    incoming_cGKS = before.view(c, G, R * P, S)
    carried_cGQK = C_cGQS @ incoming_cGKS.transpose(-1, -2)
    carried_cQHP = carried_cGQK.permute(0, 2, 1, 3).reshape(c, Q, H, P)

    # Inside a chunk: y_i = sum_{j <= i, same document} (C_i . B_j) exp(l_i - l_j) dt_j x_j
    # The mask lies on the scores, which all heads of a group share. Decays are clamped to where exp is neither zero nor
    # above one: e^-80 is nothing beside the i = j term, and exp of what underflows costs ten times as much on a CPU.
    log_decay_cHQ = log_decay_cQH.transpose(1, 2)
    decay_cHQQ = torch.exp((log_decay_cHQ[..., :, None] - log_decay_cHQ[..., None, :]).clamp(-80, 0))
    scores_cGQQ = (C_cGQS @ B_cGQS.transpose(-1, -2)).masked_fill(~visible, 0)
    weight_cHQQ = (decay_cHQQ.view(c, G, R, Q, Q) * scores_cGQQ[:, :, None]).view(c, H, Q, Q)
    inside_cHQP = weight_cHQQ.to(x_cQHP.dtype) @ dtx_cQHP.transpose(1, 2)
    return torch.addcmul(inside_cHQP.transpose(1, 2), carried_cQHP, from_start_cQH[..., None]), final.view(
        rows, H, P, S
    )


def _by_group(x_cQHP: Tensor, groups: int) -> Tensor:
    """[c, Q, H, P] -> [c, G, Q, (heads of a group) * P]; a view when there is one group."""
    return x_cQHP.unflatten(2, (groups, -1)).flatten(3).transpose(1, 2)


class _Carry(torch.autograd.Function):
    """states_c = survive_c * states_{c-1} + added_c along dim 1; returns (the state before each chunk, the last state).

    One in-place kernel per chunk in each direction: under autograd's own bookkeeping the loop would dominate a step.
    """

    @staticmethod
    def forward(ctx: Any, added: Tensor, survive: Tensor, initial: Tensor) -> tuple[Tensor, Tensor]:
        before = torch.empty_like(added)
        state = initial
        for i in range(added.shape[1]):
            before[:, i] = state
            state = torch.addcmul(added[:, i], state, survive[:, i])
        ctx.save_for_backward(survive, before)
        return before, state

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        grad_before, grad_final = grads
        survive, before = ctx.saved_tensors
        grad_added = torch.empty_like(before)
        running = grad_final
        for i in range(before.shape[1] - 1, -1, -1):
            grad_added[:, i] = running
            running = torch.addcmul(grad_before[:, i], running, survive[:, i])
        grad_survive = (grad_added * before).sum(-1, keepdim=True)
        return grad_added, grad_survive, running
