"""The Mamba-2 mixer of Falcon-H1 (arXiv 2507.22448, section 2; state-space dual form in `kernels/torch/ssd.py`).

    z, xBC, dt = split(in_proj(h * ssm_in_multiplier) * mup_vector)
    x, B, C    = split(SiLU(causal_conv(xBC)))
    y          = SSD(x, softplus(dt + dt_bias), -exp(A_log), B, C) + D x
    out        = y * SiLU(z), with a grouped RMSNorm before or after the gate where the checkpoint has one

Shapes: T flat tokens, B sequences, D hidden, M = d_ssm, N = conv_dim = d_ssm + 2 G S, K = d_conv.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from h1r.kernels.contract import Kernels
from h1r.kernels.layout import Layout
from h1r.kernels.torch.operators import TORCH, add_skip, at_least_fp32
from h1r.kernels.torch.ssd import ssd_scan_rows
from h1r.models.falcon_h1.config import HybridConfig
from h1r.models.falcon_h1.multipliers import Scale, mup_vector, scales_of


@dataclass(frozen=True)
class Recurrence:
    """What one rank needs to run the convolution and the scan over its heads: all of them, or a share.

    conv_weight [N, K], conv_bias [N] or None, dt_bias [H], A_log [H], D [H], groups: B/C groups among the N channels.
    """

    conv_weight: Tensor
    conv_bias: Tensor | None
    dt_bias: Tensor
    A_log: Tensor
    D: Tensor
    groups: int


class GatedRMSNorm(nn.Module):
    """The weight of the mixer's RMSNorm; the arithmetic is `Kernels.gate`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))


class Mamba2(nn.Module):
    """Parameter names are those of transformers' `falcon_h1`."""

    mup_vector: Tensor
    kernels: Kernels = TORCH

    def __init__(self, config: HybridConfig) -> None:
        super().__init__()
        self.config = config
        d, m, heads = config.hidden_size, config.mamba_d_ssm, config.mamba_n_heads
        self.in_proj = nn.Linear(d, m + config.conv_dim + heads, bias=config.mamba_proj_bias)
        self.conv1d = nn.Conv1d(
            config.conv_dim, config.conv_dim, config.mamba_d_conv, groups=config.conv_dim, bias=config.mamba_conv_bias
        )
        self.dt_bias = nn.Parameter(torch.ones(heads))
        self.A_log = nn.Parameter(torch.tensor([math.log(head) for head in range(1, heads + 1)]))
        self.D = nn.Parameter(torch.ones(heads))
        self.out_proj = nn.Linear(m, d, bias=config.projectors_bias)
        if config.mamba_rms_norm:
            self.norm = GatedRMSNorm(m)
        self.register_buffer("mup_vector", mup_vector(config), persistent=False)

    def init_recurrence(self, generator: torch.Generator | None = None) -> None:
        """Mamba-2's initialisation of A, the time steps and the convolution."""
        bound = self.config.mamba_d_conv**-0.5
        with torch.no_grad():
            self.A_log.uniform_(1.0, 16.0, generator=generator).log_()
            dt = self.dt_bias.uniform_(math.log(1e-3), math.log(1e-1), generator=generator).exp()
            self.dt_bias.copy_(dt + torch.log(-torch.expm1(-dt)))  # softplus(dt_bias) = dt
            self.conv1d.weight.uniform_(-bound, bound, generator=generator)
            if self.conv1d.bias is not None:
                self.conv1d.bias.zero_()

    @property
    def in_scale(self) -> Scale:
        """The multipliers of `in_proj`."""
        return scales_of(self.config).mixer_in._replace(after=self.mup_vector)

    def project(self, h: Tensor, decoding: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """z [..., M], xBC [..., N] before the convolution, dt [..., heads] before softplus."""
        config, scale = self.config, self.in_scale
        product = scale.on_output(self.in_proj(h * scale.before)) if decoding else scale.linear(h, self.in_proj)
        z, xBC, dt = product.split([config.mamba_d_ssm, config.conv_dim, config.mamba_n_heads], dim=-1)
        return z, xBC, dt

    def forward(self, h_TD: Tensor, layout: Layout) -> Tensor:
        """Over documents laid end to end; every document starts from a zero state. Returns [T, M]."""
        z, xBC, dt = self.project(h_TD)
        return self.gate(self.mix(xBC, dt, layout, self.recurrence()).flatten(-2), z)

    def recurrence(self) -> Recurrence:
        """The parameters of `mix` for all heads."""
        return Recurrence(
            self.conv1d.weight[:, 0], self.conv1d.bias, self.dt_bias, self.A_log, self.D, self.config.mamba_n_groups
        )

    def mix(self, xBC_TN: Tensor, dt_TH: Tensor, layout: Layout, recurrence: Recurrence) -> Tensor:
        """Everything that looks along the sequence: convolution, scan and D x. Returns y [T, H, P] before the gate.

        `recurrence` may hold a share of the heads, with the channels of `xBC_TN` and the columns of `dt_TH` to match:
        x of those heads, then B and C of `recurrence.groups` groups.
        """
        xBC = self.kernels.conv_silu(xBC_TN, recurrence.conv_weight, recurrence.conv_bias, layout)
        x, B, C = self._split(xBC, recurrence.groups)
        dt, A = self._dt(dt_TH, recurrence.dt_bias), _decay(recurrence.A_log)
        return self.kernels.scan(x, dt, A, B, C, recurrence.D, layout, self.config.mamba_chunk_size)

    def gate(self, y: Tensor, z: Tensor) -> Tensor:
        """y SiLU(z) and the norm, where there is one: [..., M]."""
        config = self.config
        weight = self.norm.weight if config.mamba_rms_norm else None
        return self.kernels.gate(
            y, z, weight, config.mamba_n_groups, config.rms_norm_eps, config.mamba_norm_before_gate
        )

    def cached(self, h_BTD: Tensor, conv: Tensor, ssm: Tensor, num_new_B: Tensor | None) -> Tensor:
        """T new tokens per sequence after the cached state: `conv` [B, K-1, N], the last inputs of the convolution, and
        `ssm` [B, heads, P, S], both updated in place. Row b has `num_new_B[b]` real tokens, the rest is padding on the
        right (None: all are real). Returns [B, T, M]; outputs at padding are meaningless."""
        rows, T = h_BTD.shape[:2]
        z, xBC, dt = self.project(h_BTD, decoding=T == 1)
        taps = self.config.mamba_d_conv
        window_BLN = torch.cat([conv, xBC.to(conv.dtype)], dim=1)
        if T == 1 and num_new_B is None:
            conv.copy_(window_BLN[:, 1:])
            xBC = (window_BLN * self.conv1d.weight[:, 0].t()).sum(1)
            if self.conv1d.bias is not None:
                xBC = xBC + self.conv1d.bias
            x, B, C = self._split(F.silu(xBC.to(h_BTD.dtype)), self.config.mamba_n_groups)
            y = self.kernels.step(ssm, x, self._dt(dt[:, 0], self.dt_bias), _decay(self.A_log), B, C, self.D)
            return self.gate(y.flatten(-2), z[:, 0])[:, None]
        window_BNL = window_BLN.transpose(1, 2)
        xBC = F.silu(F.conv1d(window_BNL, self.conv1d.weight, self.conv1d.bias, groups=self.config.conv_dim))
        x, B, C = self._split(xBC.transpose(1, 2).to(h_BTD.dtype), self.config.mamba_n_groups)
        dt_BTH = self._dt(dt, self.dt_bias)
        if num_new_B is None:
            conv.copy_(window_BLN[:, T:])
        else:
            column = torch.arange(T, device=h_BTD.device)
            dt_BTH = dt_BTH * (column < num_new_B[:, None])[..., None]
            tail = num_new_B[:, None] + torch.arange(taps - 1, device=h_BTD.device)
            conv.copy_(window_BLN.gather(1, tail[..., None].expand(rows, taps - 1, self.config.conv_dim)))
        y, final = ssd_scan_rows(
            at_least_fp32(x),
            dt_BTH,
            _decay(self.A_log),
            at_least_fp32(B),
            at_least_fp32(C),
            ssm,
            self.config.mamba_chunk_size,
        )
        ssm.copy_(final)
        return self.gate(add_skip(y, x, self.D).flatten(-2), z)

    def _split(self, xBC: Tensor, groups: int) -> tuple[Tensor, Tensor, Tensor]:
        """x [..., heads, P], B and C [..., groups, S] of [..., channels]."""
        config = self.config
        width = groups * config.mamba_d_state
        x, B, C = xBC.split([xBC.shape[-1] - 2 * width, width, width], dim=-1)
        return x.unflatten(-1, (-1, config.mamba_d_head)), B.unflatten(-1, (groups, -1)), C.unflatten(-1, (groups, -1))

    def _dt(self, dt: Tensor, bias: Tensor) -> Tensor:
        dt = F.softplus(at_least_fp32(dt) + at_least_fp32(bias))
        low, high = self.config.time_step_limit
        return dt if (low, high) == (0.0, float("inf")) else dt.clamp(low, high)


def _decay(A_log_H: Tensor) -> Tensor:
    return -torch.exp(at_least_fp32(A_log_H))
