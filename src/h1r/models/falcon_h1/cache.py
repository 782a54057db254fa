"""The hybrid's cache: keys and values, and per layer and slot the last d_conv - 1 inputs of the convolution
[d_conv-1, N] and the recurrent state [heads, P, S].

The recurrent state is never narrower than fp32: a bf16 state drifts between prefill and decode.
"""

from __future__ import annotations

from torch import Tensor

from h1r.models.cache import KVCache
from h1r.models.config import ModelConfig
from h1r.models.falcon_h1.config import HybridConfig


class HybridCache(KVCache):
    """`KVCache` with the states of the Mamba-2 mixers."""

    @classmethod
    def state_shapes(cls, config: ModelConfig) -> dict[str, tuple[tuple[int, ...], bool]]:
        assert isinstance(config, HybridConfig)
        return {
            "conv": ((config.mamba_d_conv - 1, config.conv_dim), False),
            "ssm": ((config.mamba_n_heads, config.mamba_d_head, config.mamba_d_state), True),
        }

    @property
    def conv(self) -> list[Tensor]:
        return self.states["conv"]

    @property
    def ssm(self) -> list[Tensor]:
        return self.states["ssm"]
