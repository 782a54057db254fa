"""The chunked state-space scan over documents laid end to end, in Triton: forward, and backward with recomputation.

Source: Dao & Gu, arXiv 2405.21060, sections 6 and 7. Within a chunk of Q tokens of one document (`chunks.py`), with
l_i = sum_{k <= i} dt_k A, end its last token, and K the state after the chunk before (0 at a document's first chunk):

    y_i   = exp(l_i) K C_i + sum_{j <= i} (C_i . B_j) exp(l_i - l_j) dt_j x_j + D x_i
    K'    = exp(l_end) K + sum_j exp(l_end - l_j) dt_j x_j B_j^T

Forward is four steps: decays l (`sum_decays`), what each chunk adds to the state (`outer_sums`), the walk over chunks
(`carry_forward`), scores C B^T once per group (`score_tiles`) and the outputs (`outputs`). Only the inputs are kept for
the backward pass, which computes decays, states and scores again; then, with g = dy and N the gradient of K':

    gradient of K   exp(l_end) N + sum_i exp(l_i) g_i C_i^T                          (outer_sums, carry_backward)
    x, dt direct    u_j = exp(l_end - l_j) N B_j + sum_i scores_ij exp(l_i - l_j) g_i;  dt_j u_j + D g_j and u_j . x_j
    scores          M_ij = sum_h exp(l_i - l_j) dt_j (g_i . x_j)                     (grad_scores)
    C, B            sum_h exp(l_i) K^T g_i + sum_j M_ij B_j, and the same for B      (grad_keys)
    dt, A by decay  sums of all terms above over the tokens that a decay spans       (grad_steps)

States and every sum are fp32; bf16 inputs are multiplied in bf16, fp16 inputs in tf32. Device memory beside inputs and
outputs: T // Q states of [H, P, S] (two of each in the backward pass) and Q^2 scores per chunk and group.

Shapes: T tokens, H heads, P head width, G groups of R heads, S state width, Q chunk, c chunks, D documents.
"""

# mypy: disable-error-code="import-not-found,import-untyped"
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor

from h1r.kernels.layout import Layout
from h1r.kernels.triton import scan_grads, scan_outputs, scan_states
from h1r.kernels.triton.chunks import Chunks, chunks_of
from h1r.kernels.triton.launch import checked, precision

WIDEST_HEAD = 128


@dataclass(frozen=True)
class Blocks:
    """Tile sizes and warps; `benchmarks/gpu_train_step.py --sweep` measures others."""

    tokens: int = 64
    """Rows of a tile of tokens, at most a chunk."""
    inner: int = 64
    """Elements of a summed dimension per step."""
    states: int = 128
    """State columns of a tile."""
    carried: int = 1024
    """Elements of a state that one program carries along a document."""
    splits: int = 4
    """Shares of a group's heads in the gradient of the scores, so that a short batch still fills the card. A constant:
    were it a function of the batch, a document's gradient would round differently beside other documents."""
    keys: int = 64
    """State columns of a tile in the gradients of B and C, which hold three tiles at once."""
    warps: int = 4
    """Of a program with heads of up to 64 channels; wider ones take twice as many, or registers spill."""
    stages: int = 2
    """Loads in flight before a product."""


BLOCKS = Blocks()


def scan(
    x_THP: Tensor,
    dt_TH: Tensor,
    A_H: Tensor,
    B_TGS: Tensor,
    C_TGS: Tensor,
    D_H: Tensor,
    layout: Layout,
    chunk_size: int,
) -> Tensor:
    if x_THP.shape[2] > WIDEST_HEAD:
        raise ValueError(
            f"the triton scan takes heads of up to {WIDEST_HEAD} channels, not {x_THP.shape[2]}; use torch"
        )
    size = min(max(triton.next_power_of_2(chunk_size), 16), 256)
    return _Scan.apply(x_THP, dt_TH, A_H, B_TGS, C_TGS, D_H, chunks_of(layout, size), BLOCKS)


def _packed(x: Tensor) -> Tensor:
    """[T, n, m] whose rows are adjacent inside, at any distance from each other."""
    return checked(x) if x.stride(2) == 1 and x.stride(1) == x.shape[2] else x.contiguous()


@dataclass(frozen=True)
class _Geometry:
    """Sizes and the constants that the kernels are compiled for."""

    T: int
    H: int
    P: int
    G: int
    S: int
    chunks: Chunks
    blocks: Blocks
    dtype: torch.dtype

    @property
    def rows(self) -> int:
        return min(self.blocks.tokens, self.chunks.size)

    @property
    def head(self) -> int:
        return max(triton.next_power_of_2(self.P), 16)

    @property
    def state(self) -> int:
        return min(max(triton.next_power_of_2(self.S), 16), self.blocks.states)

    @property
    def keys(self) -> int:
        return min(self.state, self.blocks.keys)

    @property
    def inner(self) -> int:
        return min(max(triton.next_power_of_2(self.S), 16), self.blocks.inner)

    @property
    def carried(self) -> int:
        return min(triton.next_power_of_2(self.P * self.S), self.blocks.carried)

    @property
    def product(self) -> dict[str, Any]:
        """Options of the kernels that multiply tiles."""
        return {
            "WIDE": self.dtype != torch.bfloat16,
            "PRECISION": precision(self.dtype),
            "num_warps": self.blocks.warps * (2 if self.head > 64 else 1),
            "num_stages": self.blocks.stages,
        }

    @property
    def ends(self) -> int:
        return triton.cdiv(self.P * self.S, self.carried)


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, chunks: Chunks, blocks: Blocks
    ) -> Tensor:
        x, B, C = _packed(x), _packed(B), _packed(C)
        (T, H, P), (G, S) = x.shape, B.shape[1:]
        n = _Geometry(T, H, P, G, S, chunks, blocks, x.dtype)
        decay, steps = _decays(n, dt, A)
        states = _states(n, x, B, decay, steps)
        scores = _scores(n, B, C)
        y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        scan_outputs.outputs[(chunks.count * n.H * (chunks.size // n.rows),)](
            x, C, D, scores, states, decay, steps, chunks.chunks, y, chunks.count, n.T, x.stride(0), C.stride(0), n.H,
            R=n.H // n.G, P=n.P, S=n.S, Q=chunks.size, BM=n.rows, BP=n.head, BK=n.inner, **n.product,
        )  # fmt: skip
        ctx.save_for_backward(x, dt, A, B, C, D)
        ctx.geometry = n
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, dt, A, B, C, D = ctx.saved_tensors
        return *_gradients(ctx.geometry, grads[0].contiguous(), x, dt, A, B, C, D), None, None


def _decays(n: _Geometry, dt: Tensor, A: Tensor) -> tuple[Tensor, Tensor]:
    decay = torch.empty(n.H, n.T, dtype=torch.float32, device=dt.device)
    steps = torch.empty_like(decay)
    dt = dt if dt.stride(1) == 1 else dt.contiguous()
    scan_states.sum_decays[(n.chunks.count * n.H,)](
        dt, A, n.chunks.chunks, decay, steps, n.chunks.count, n.T, dt.stride(0), n.H, Q=n.chunks.size, num_warps=1
    )
    return decay, steps


def _outer_sums(n: _Geometry, rows: Tensor, keys: Tensor, decay: Tensor, steps: Tensor, forward: bool) -> Tensor:
    out = torch.empty(n.chunks.slots, n.H, n.P, n.S, dtype=torch.float32, device=rows.device)
    tile = min(n.head, n.blocks.tokens)
    tiles = triton.cdiv(n.P, tile) * triton.cdiv(n.S, n.state)
    scan_states.outer_sums[(n.chunks.count * n.H * tiles,)](
        rows, keys, decay, steps, n.chunks.chunks, out, n.chunks.count, n.T, rows.stride(0), keys.stride(0), n.H,
        R=n.H // n.G, P=n.P, S=n.S, BP=tile, BS=n.state, BK=n.rows, FORWARD=forward, **n.product,
    )  # fmt: skip
    return out


def _states(n: _Geometry, x: Tensor, B: Tensor, decay: Tensor, steps: Tensor) -> Tensor:
    """The state at the end of every chunk but a document's last, [slots, H, P, S]."""
    states = _outer_sums(n, x, B, decay, steps, True)
    documents = n.chunks.documents
    scan_states.carry_forward[(documents.shape[1] * n.H * n.ends,)](
        states, decay, n.chunks.chunks, documents, n.chunks.count, documents.shape[1], n.T, n.H,
        PS=n.P * n.S, BLOCK=n.carried, num_warps=4,
    )  # fmt: skip
    return states


def _scores(n: _Geometry, B: Tensor, C: Tensor) -> Tensor:
    Q = n.chunks.size
    scores = torch.empty(n.chunks.count, n.G, Q, Q, dtype=torch.float32, device=B.device)
    scan_states.score_tiles[(n.chunks.count * n.G * (Q // n.rows) ** 2,)](
        B, C, n.chunks.chunks, scores, n.chunks.count, B.stride(0), C.stride(0), n.G,
        S=n.S, Q=Q, BM=n.rows, BK=n.inner, **n.product,
    )  # fmt: skip
    return scores


def _gradients(
    n: _Geometry, grad_y: Tensor, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor
) -> tuple[Tensor, ...]:
    """Gradients of x, dt, A, B, C and D."""
    chunks, Q, count, device = n.chunks, n.chunks.size, n.chunks.count, x.device
    tiles, R = Q // n.rows, n.H // n.G
    by_head = (n.H, n.T)
    decay, steps = _decays(n, dt, A)
    states, scores = _states(n, x, B, decay, steps), _scores(n, B, C)
    grad_states = _outer_sums(n, grad_y, C, decay, steps, False)
    ends = torch.empty(n.ends, count, n.H, dtype=torch.float32, device=device)
    scan_states.carry_backward[(chunks.documents.shape[1] * n.H * n.ends,)](
        grad_states, states, decay, chunks.chunks, chunks.documents, ends, count, chunks.documents.shape[1], n.T, n.H,
        PS=n.P * n.S, BLOCK=n.carried, num_warps=4,
    )  # fmt: skip

    grad_x = torch.empty(x.shape, dtype=x.dtype, device=device)
    grad_step = torch.empty(by_head, dtype=torch.float32, device=device)
    grad_D = torch.zeros(count * tiles, n.H, dtype=torch.float32, device=device)
    scan_grads.grad_inputs[(count * n.H * tiles,)](
        x, B, D, scores, grad_y, grad_states, decay, steps, chunks.chunks, grad_x, grad_step, grad_D, count, n.T,
        x.stride(0), B.stride(0), n.H,
        R=R, P=n.P, S=n.S, Q=Q, BM=n.rows, BP=n.head, BK=n.inner, **n.product,
    )  # fmt: skip

    splits = min(n.blocks.splits, R)
    M = torch.empty(splits, count, n.G, Q, Q, dtype=torch.float32, device=device)
    row_sums = torch.empty(tiles, *by_head, dtype=torch.float32, device=device)
    column_sums = torch.empty_like(row_sums)
    scan_grads.grad_scores[(count * n.G * splits * tiles**2,)](
        x, grad_y, scores, decay, steps, chunks.chunks, M, row_sums, column_sums, count, n.T, x.stride(0), n.H,
        R=R, P=n.P, Q=Q, SPLITS=splits, BM=n.rows, BP=n.head, **n.product,
    )  # fmt: skip

    tiles_s = triton.cdiv(n.S, n.keys)
    dots = torch.empty(2, tiles_s, *by_head, dtype=torch.float32, device=device)
    grad_B, grad_C = (torch.empty(B.shape, dtype=B.dtype, device=device) for _ in range(2))
    for forward, grad, rows, own, other, of_states in (
        (False, grad_B, x, B, C, grad_states),
        (True, grad_C, grad_y, C, B, states),
    ):
        scan_grads.grad_keys[(count * n.G * tiles * tiles_s,)](
            rows, own, other, of_states, M, decay, steps, chunks.chunks, grad, dots[int(forward)], count, n.T,
            rows.stride(0), own.stride(0), other.stride(0), n.H,
            R=R, P=n.P, S=n.S, Q=Q, SPLITS=splits, BM=n.rows, BP=n.head, BS=n.keys, FORWARD=forward, **n.product,
        )  # fmt: skip

    grad_dt = torch.empty(n.T, n.H, dtype=dt.dtype, device=device)
    grad_A = torch.zeros(count, n.H, dtype=torch.float32, device=device)
    scan_grads.grad_steps[(count * n.H,)](
        A, decay, steps, chunks.chunks, grad_step, row_sums, column_sums, dots[0], dots[1], ends, grad_dt, grad_A,
        count, n.T, n.H, TILES=tiles, S_TILES=tiles_s, ENDS=n.ends, Q=Q, BM=n.rows, num_warps=1,
    )  # fmt: skip
    return grad_x, grad_dt, grad_A.sum(0).to(A.dtype), grad_B, grad_C, grad_D.sum(0).to(D.dtype)
