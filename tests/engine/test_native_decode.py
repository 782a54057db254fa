"""Decoding in C against the training forward, to the definitions of sampling, and to the last bit against itself."""

from __future__ import annotations

import itertools

import pytest
import torch
from geometries import SMALL, geometries, randomised
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from h1r.config import EngineSection
from h1r.engine.native.engine import NativeEngine
from h1r.engine.native.runner import DOUBTFUL, FULL, STOPPED, NativeRunner, TorchRunner
from h1r.engine.native.slots import Slots
from h1r.engine.protocol import SamplingParams
from h1r.kernels.selection import select
from h1r.models.falcon_h1.cache import HybridCache
from h1r.models.falcon_h1.config import HybridConfig
from h1r.models.falcon_h1.decode import Decoder
from h1r.models.falcon_h1.hybrid import HybridForCausalLM

WIDE = HybridConfig(
    vocab_size=130, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=6,
    num_key_value_heads=2, head_dim=32, mamba_d_ssm=128, mamba_n_heads=4, mamba_d_head=32, mamba_d_state=32,
    mamba_rms_norm=True,
)  # fmt: skip
"""Whole vectors everywhere, unlike `SMALL`; three query heads to a group."""


def native(config: HybridConfig, seed: int = 0) -> HybridForCausalLM:
    return randomised(config, seed).use(select("native"))


def decode(decoder: Decoder, ids_BT: Tensor, cuts: list[int]) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits [B, T, V] of calls that end at `cuts`, and what the cache holds afterwards."""
    rows, tokens = ids_BT.shape
    cache = HybridCache.allocate(decoder.config, rows, tokens, torch.float32)
    bound, pieces = decoder.bind(cache), []
    for start, end in itertools.pairwise([0, *cuts, tokens]):
        count = end - start
        logits = torch.empty(rows * count, decoder.config.vocab_size)
        ids = ids_BT[:, start:end].flatten()
        decoder.run(bound, torch.full((rows,), count), ids, torch.arange(rows * count), logits)
        pieces.append(logits.view(rows, count, -1))
    return torch.cat(pieces, 1), cache.tensors()


@settings(max_examples=40, deadline=None)
@given(config=geometries(), cuts=st.sets(st.integers(1, 18), max_size=5), seed=st.integers(0, 99))
def test_any_geometry_cut_anyhow_equals_the_training_forward(config: HybridConfig, cuts: set[int], seed: int) -> None:
    model = native(config, seed)
    ids = torch.randint(0, config.vocab_size, (2, 19), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        expected = model.use(select("torch"))(ids)
        decoder = Decoder(model.use(select("native")), 38)
        got, held = decode(decoder, ids, sorted(cuts))
        cache = HybridCache.allocate(config, 2, 19, torch.float32)
        model.model.cached(ids, cache, None)
    torch.testing.assert_close(got, expected, atol=2e-5, rtol=2e-5)
    for name, tensor in cache.tensors().items():
        torch.testing.assert_close(held[name], tensor, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("config", [SMALL, WIDE], ids=["ragged", "whole"])
def test_a_token_is_the_same_bits_in_any_batch_and_any_cut(config: HybridConfig) -> None:
    decoder = Decoder(native(config), 1000)
    ids = torch.randint(0, config.vocab_size, (5, 150), generator=torch.Generator().manual_seed(1))
    whole, held = decode(decoder, ids, [])
    for cuts in ([1, 2, 3, 70, 71], list(range(140, 150))):
        got, again = decode(decoder, ids, cuts)
        assert torch.equal(got, whole)
        assert all(torch.equal(held[name], again[name]) for name in held)
    for row in range(5):
        assert torch.equal(decode(decoder, ids[row : row + 1], [149])[0][0], whole[row])


def test_threads_change_no_bit() -> None:
    decoder = Decoder(native(WIDE), 300)
    ids = torch.randint(0, WIDE.vocab_size, (3, 40), generator=torch.Generator().manual_seed(1))
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(decode(decoder, ids, [38, 39])[0])
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_too_many_tokens_for_the_scratch_are_refused() -> None:
    with pytest.raises(ValueError, match="scratch is for 7"):
        decode(Decoder(native(SMALL), 7), torch.zeros(2, 4, dtype=torch.long), [])


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 9999),
    vocab=st.sampled_from([3, 16, 61, 64, 130, 1000]),
    spread=st.sampled_from([0.0, 0.5, 3.0, 30.0]),
    temperature=st.sampled_from([0.0, 0.3, 1.0, 1.7]),
    top_k=st.sampled_from([0, 1, 2, 20, 5000]),
    top_p=st.sampled_from([0.0503, 0.4703, 0.9307, 1.0]),
    min_p=st.sampled_from([0.0, 0.02, 0.3, 1.0]),
    ties=st.booleans(),
)
def test_sampling_in_c_is_that_of_the_definitions(
    seed: int, vocab: int, spread: float, temperature: float, top_k: int, top_p: float, min_p: float, ties: bool
) -> None:
    """Masses of top_p are chosen to lie between the sums of equal shares, where rounding cannot decide."""
    rows, said = 6, 3
    model = native(HybridConfig(**{**SMALL.__dict__, "vocab_size": vocab}))
    generator = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(rows, vocab, generator=generator)
    if ties:
        logits = logits.round()
    params = SamplingParams(
        temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, max_tokens=said + 1, confidence_window=2,
        confidence_threshold=1.5, confidence_top_k=4,
    )  # fmt: skip
    results = []
    for runner in (NativeRunner(model, rows), TorchRunner(model)):
        slots = Slots(rows, vocab, said + 1)
        slots.logits.copy_(logits)
        slots.ends[:, 1] = True
        earlier = torch.rand(rows, said, generator=torch.Generator().manual_seed(seed)) * 3
        slots.confidences[:, :said] = earlier
        numbers = {
            "count": said,
            "max_tokens": torch.tensor([said + 1, 9, 9, 9, 9, 9]),
            "window": 2,
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
            "min_p": min_p,
            "threshold": 1.5,
            "group_sum": earlier[:, -2:].double().sum(1),
            "key": torch.randint(1 << 62, (rows,), generator=torch.Generator().manual_seed(seed)),
        }
        for name, value in numbers.items():
            slots.state[name][:] = value
        runner.begin(HybridCache.allocate(model.config, rows, 4, torch.float32), slots, [params])
        ended = runner.sample(rows)
        results.append((slots, ended))
    (mine, ended), (theirs, expected_ended) = results
    assert torch.equal(mine.tokens, theirs.tokens)
    assert torch.equal(mine.state["last"], theirs.state["last"])
    assert torch.equal(mine.reason, theirs.reason)
    assert ended == expected_ended
    for name in ("logprobs", "sampling_logprobs", "confidences"):
        torch.testing.assert_close(getattr(mine, name), getattr(theirs, name), atol=2e-5, rtol=2e-6)
    torch.testing.assert_close(mine.state["group_sum"], theirs.state["group_sum"], atol=2e-5, rtol=2e-6)


def test_an_end_token_outranks_doubt_and_doubt_the_limit() -> None:
    model = native(SMALL)
    slots = Slots(3, SMALL.vocab_size, 1)
    slots.logits[:, 5] = 9.0
    slots.ends[0, 5] = True
    for name, value in {"max_tokens": 1, "window": 1, "threshold": torch.tensor([1e9, 1e9, -1e9])}.items():
        slots.state[name][:] = value
    for runner in (NativeRunner(model, 3), TorchRunner(model)):
        slots.state["count"].zero_()
        slots.state["group_sum"].zero_()
        params = SamplingParams(temperature=0, max_tokens=1, confidence_window=1, confidence_threshold=1.0)
        runner.begin(HybridCache.allocate(SMALL, 3, 4, torch.float32), slots, [params])
        assert runner.sample(3)
        assert slots.reason.tolist() == [STOPPED, DOUBTFUL, FULL]


def test_the_engine_sees_weights_that_a_trainer_changed_in_place() -> None:
    model = native(SMALL, seed=1)
    engine = NativeEngine(model, None, EngineSection(max_sequences=2), eos_token_ids=())
    greedy = SamplingParams(temperature=0.0, max_tokens=12)
    before = engine.generate([[5, 9]], greedy)
    model.load_state_dict(randomised(SMALL, seed=2).state_dict())
    fresh = NativeEngine(native(SMALL, seed=2), None, EngineSection(max_sequences=2), eos_token_ids=())
    after = engine.generate([[5, 9]], greedy)
    assert after == fresh.generate([[5, 9]], greedy)
    assert after != before
