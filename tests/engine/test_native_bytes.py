"""The formulas of temporaries against what PyTorch's operations make, on tensors without values."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from peak import Peak

from h1r.engine.native.memory_bytes import prefill_bytes, runner_bytes
from h1r.engine.native.runner import TorchRunner
from h1r.engine.native.slots import Slots
from h1r.engine.protocol import SamplingParams
from h1r.kernels.selection import select
from h1r.models.falcon_h1.cache import HybridCache
from h1r.models.falcon_h1.config import HybridConfig, preset
from h1r.models.falcon_h1.hybrid import HybridForCausalLM


@pytest.fixture
def fused_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention makes what a fused kernel makes: its result, and the mask as numbers. It takes no grouped heads beside
    a mask, as those of a card do not."""

    def fused(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, attn_mask: torch.Tensor) -> torch.Tensor:
        assert q.shape[1] == k.shape[1]
        q.new_zeros(attn_mask.shape).masked_fill_(~attn_mask, -torch.inf)
        return torch.empty_like(q)

    monkeypatch.setattr(F, "scaled_dot_product_attention", fused)


def without_values(config: HybridConfig, dtype: torch.dtype) -> HybridForCausalLM:
    """With two layers: what one leaves is gone when the next begins."""
    config = dataclasses.replace(config, num_hidden_layers=2)
    with torch.device("meta"):
        return HybridForCausalLM(config).to(dtype).use(select("torch"))


@pytest.mark.parametrize("name", ["tiny", "0.5b", "7b"])
@pytest.mark.parametrize("kind", ["sampling", "filters", "layers"])
def test_temporaries_of_a_step_are_those_of_the_formula(name: str, kind: str, fused_attention: None) -> None:
    """layers: with so few words that sampling needs next to nothing."""
    config = preset(name) if kind != "layers" else dataclasses.replace(preset(name), vocab_size=8)
    filters = {"top_k": 3, "top_p": 0.9, "min_p": 0.1} if kind == "filters" else {}
    params = SamplingParams(max_tokens=4, temperature=0.7, confidence_top_k=8, **filters)
    for dtype, rows, length in ((torch.bfloat16, 8, 64), (torch.bfloat16, 3, 2000), (torch.float32, 8, 300)):
        subject = without_values(config, dtype)
        cache = HybridCache.allocate(subject.config, rows, length, dtype, "meta")
        runner, slots = TorchRunner(subject), Slots(rows, config.vocab_size, 4, "meta")
        runner.begin(cache, slots, [params])
        with torch.inference_mode():
            with Peak() as sampling:
                runner._sample_rows(rows)
            with Peak() as layers:
                runner._decode_rows(rows, length)
        most = max(sampling.most, layers.most)
        foretold = rows * runner_bytes(subject, rows, length, bool(filters), True).per_slot
        assert most <= foretold <= 1.5 * most


@pytest.mark.parametrize("name", ["tiny", "0.5b", "7b", "34b"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["bf16", "fp32"])
def test_temporaries_of_a_prefill_are_those_of_the_formula(
    name: str, dtype: torch.dtype, fused_attention: None
) -> None:
    config = preset(name)
    subject = without_values(config, dtype)
    for rows, columns, length in ((1, 1024, 1024), (8, 128, 128), (64, 16, 16), (4, 256, 2048)):
        cache = HybridCache.allocate(subject.config, rows, length, dtype, "meta")
        ids, counts = (torch.zeros(shape, dtype=torch.long, device="meta") for shape in ((rows, columns), (rows,)))
        with torch.inference_mode(), Peak() as peak:
            subject.model.cached(ids, cache, counts, length)
        assert 0.88 * peak.most <= prefill_bytes(subject, rows, columns, length) <= 1.25 * peak.most
