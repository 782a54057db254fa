"""The model agrees with itself (packed, padded, cached) and with transformers."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from h1r.errors import UserError
from h1r.model import build, load, save
from h1r.model.cache import HybridCache
from h1r.model.config import PRESETS, HybridConfig, preset
from h1r.model.hybrid import HybridForCausalLM
from h1r.model.kernels.conv import causal_conv
from h1r.model.kernels.ssd import ssd_scan_rows, ssd_step
from h1r.model.layout import Layout

Factory = pytest.TempPathFactory

SMALL = HybridConfig(
    vocab_size=61, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=8, mamba_d_ssm=48, mamba_n_heads=6, mamba_d_head=8, mamba_n_groups=2,
    mamba_d_state=8, mamba_chunk_size=8, initializer_range=0.2,
    embedding_multiplier=1.7, lm_head_multiplier=0.6, attention_in_multiplier=1.3, attention_out_multiplier=0.7,
    key_multiplier=0.8, ssm_in_multiplier=1.2, ssm_out_multiplier=0.5, ssm_multipliers=(0.4, 0.9, 1.1, 0.7, 0.6),
    mlp_multipliers=(1.4, 0.3),
)  # fmt: skip

geometries = st.builds(
    lambda groups, per_group, norm, before, tied, chunk, kv, rep, conv, biases, d_head: dataclasses.replace(
        SMALL,
        mamba_n_groups=groups, mamba_n_heads=groups * per_group, mamba_d_head=d_head,
        mamba_d_ssm=groups * per_group * d_head, mamba_rms_norm=norm, mamba_norm_before_gate=before,
        tie_word_embeddings=tied, mamba_chunk_size=chunk, num_key_value_heads=kv, num_attention_heads=kv * rep,
        mamba_d_conv=conv, mamba_proj_bias=biases[0], projectors_bias=biases[0], attention_bias=biases[1],
        mlp_bias=biases[2], mamba_conv_bias=biases[3],
    ),
    groups=st.sampled_from([1, 2]), per_group=st.integers(1, 4), norm=st.booleans(), before=st.booleans(),
    tied=st.booleans(), chunk=st.sampled_from([2, 8, 16]),
    kv=st.sampled_from([1, 2, 3]), rep=st.sampled_from([1, 2, 3]),
    conv=st.sampled_from([2, 4]), biases=st.tuples(*[st.booleans()] * 4), d_head=st.sampled_from([4, 8]),
)  # fmt: skip


def randomised(config: HybridConfig, seed: int = 0) -> HybridForCausalLM:
    """Random weights in every tensor, also those that initialisation leaves constant."""
    model = build(config, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


def ids(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(3, SMALL.vocab_size, shape, generator=torch.Generator().manual_seed(seed))


def gap(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest difference relative to the largest magnitude."""
    return ((a - b).abs().max() / b.abs().max()).item()


@settings(max_examples=20, deadline=None)
@given(lengths=st.lists(st.integers(1, 7), min_size=1, max_size=5), taps=st.integers(2, 5), biased=st.booleans())
@example(lengths=[3], taps=5, biased=False)  # fewer tokens than taps
@example(lengths=[1], taps=4, biased=True)
def test_convolution_equals_one_document_at_a_time_forward_and_backward(
    lengths: list[int], taps: int, biased: bool
) -> None:
    torch.manual_seed(len(lengths))
    inputs = [torch.randn(sum(lengths), 3), torch.randn(3, taps), *([torch.randn(3)] if biased else [])]
    inputs = [t.double().requires_grad_() for t in inputs]
    bias = inputs[2] if biased else None
    got = causal_conv(inputs[0], inputs[1], bias, Layout.of(lengths))
    padded = [torch.nn.functional.pad(x.t()[None], (taps - 1, 0)) for x in inputs[0].split(lengths)]
    parts = [torch.nn.functional.conv1d(x, inputs[1][:, None], bias, groups=3)[0].t() for x in padded]
    expected = torch.cat(parts)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    pull = torch.randn_like(expected)
    ours, theirs = (torch.autograd.grad((y * pull).sum(), inputs) for y in (got, expected))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_scan_in_rows_equals_steps_from_any_state() -> None:
    torch.manual_seed(0)
    B, T, H, P, G, S = 3, 11, 4, 3, 2, 5
    x, dt, A = torch.randn(B, T, H, P), torch.rand(B, T, H), -torch.rand(H)
    b, c, state = torch.randn(B, T, G, S), torch.randn(B, T, G, S), torch.randn(B, H, P, S)
    y, final = ssd_scan_rows(x, dt, A, b, c, state, 4)
    stepped = state.clone()
    steps = torch.stack([ssd_step(stepped, x[:, t], dt[:, t], A, b[:, t], c[:, t]) for t in range(T)], 1)
    torch.testing.assert_close(y, steps, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(final, stepped, rtol=1e-5, atol=1e-5)


@settings(max_examples=10, deadline=None)
@given(config=geometries, lengths=st.lists(st.integers(1, 25), min_size=1, max_size=5))
def test_packed_equals_unpacked_forward_and_gradient(config: HybridConfig, lengths: list[int]) -> None:
    model = randomised(config).double()
    documents = [ids(n, seed=i) for i, n in enumerate(lengths)]
    packed = model.logits(model.model(torch.cat(documents), Layout.of(lengths)))
    alone = torch.cat([model(document[None])[0] for document in documents])
    assert gap(packed, alone) < 1e-10
    pull = torch.randn(packed.shape, generator=torch.Generator().manual_seed(0)).double()
    parameters = list(model.parameters())
    for a, b in zip(
        torch.autograd.grad((packed * pull).sum(), parameters),
        torch.autograd.grad((alone * pull).sum(), parameters),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(rows: int, side: str) -> None:
    model = randomised(SMALL).double()
    lengths = [5, 12, 9][:rows]
    batch, mask = torch.zeros(rows, 14, dtype=torch.long), torch.zeros(rows, 14, dtype=torch.long)
    where = [slice(14 - n, 14) if side == "left" else slice(0, n) for n in lengths]
    for r, n in enumerate(lengths):
        batch[r, where[r]], mask[r, where[r]] = ids(n, seed=r), 1
    padded = model(batch, mask)
    for r, n in enumerate(lengths):
        assert gap(padded[r, where[r]], model(ids(n, seed=r)[None])[0]) < 1e-12


@settings(max_examples=10, deadline=None)
@given(config=geometries, splits=st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_cached_forward_equals_full_forward_for_any_split(config: HybridConfig, splits: list[int]) -> None:
    model = randomised(config)
    total = sum(splits)
    tokens = ids(2, total)
    with torch.no_grad():
        full = model(tokens)
        cache = HybridCache.allocate(config, 2, total, torch.float32)
        parts, at = [], 0
        for n in splits:
            parts.append(model.logits(model.model.cached(tokens[:, at : at + n], cache, None)))
            at += n
    assert gap(torch.cat(parts, 1), full) < 2e-5


def test_ragged_prefill_then_fork_equals_separate_sequences() -> None:
    model = randomised(SMALL)
    lengths = [3, 11, 7]
    batch = torch.zeros(3, 11, dtype=torch.long)
    for r, n in enumerate(lengths):
        batch[r, :n] = ids(n, seed=r)
    with torch.no_grad():
        prefix = HybridCache.allocate(SMALL, 3, 11, torch.float32)
        model.model.cached(batch, prefix, torch.tensor(lengths))
        cache = HybridCache.allocate(SMALL, 6, 20, torch.float32)
        cache.copy_rows_(torch.arange(6), prefix, torch.tensor([0, 0, 1, 1, 2, 2]), 11)
        tails = ids(6, 4, seed=9)
        steps = [model.logits(model.model.cached(tails[:, t : t + 1], cache, None)) for t in range(4)]
        forked = torch.cat(steps, 1)
        for row in range(6):
            alone = model(torch.cat([ids(lengths[row // 2], seed=row // 2), tails[row]])[None])[0, -4:]
            assert gap(forked[row], alone) < 2e-5


@settings(max_examples=12, deadline=None)
@given(config=geometries)
def test_transformers_loads_what_we_save_and_agrees(
    config: HybridConfig, tmp_path_factory: pytest.TempPathFactory
) -> None:
    from transformers import FalconH1ForCausalLM

    directory = tmp_path_factory.mktemp("checkpoint")
    model = randomised(config)
    save(model, directory)
    theirs = FalconH1ForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    tokens = ids(2, 21)
    with torch.no_grad():
        assert gap(model(tokens), theirs(tokens).logits) < 2e-5


def test_we_load_what_transformers_saves_and_agree(tmp_path: Path) -> None:
    from transformers import FalconH1Config, FalconH1ForCausalLM

    from h1r.model.hf_config import to_hf

    torch.manual_seed(0)
    theirs = FalconH1ForCausalLM(FalconH1Config(**to_hf(SMALL, "float32"))).eval()
    theirs.save_pretrained(tmp_path)
    ours = load(tmp_path)
    tokens = ids(2, 21)
    with torch.no_grad():
        assert gap(ours(tokens), theirs(tokens).logits) < 2e-5


@pytest.mark.parametrize("tied", [False, True])
def test_saving_and_loading_keeps_every_bit(tied: bool, tmp_path: Path) -> None:
    model = randomised(dataclasses.replace(SMALL, tie_word_embeddings=tied, time_step_limit=(0.001, 0.1)))
    again = load(save(model, tmp_path))
    assert again.config == model.config
    for (name, a), (other, b) in zip(model.state_dict().items(), again.state_dict().items(), strict=True):
        assert name == other
        assert torch.equal(a, b)


def test_the_7b_preset_counts_the_published_parameters() -> None:
    with torch.device("meta"):
        model = HybridForCausalLM(PRESETS["7b"])
    assert sum(p.numel() for p in model.parameters()) == 7_585_648_736


def test_presets_follow_the_published_multipliers() -> None:
    seven = preset("7b")
    assert seven.lm_head_multiplier == pytest.approx(0.0130208333, rel=1e-8)
    assert seven.attention_out_multiplier == pytest.approx(0.1041666667, rel=1e-8)
    assert seven.key_multiplier == pytest.approx(0.0306903985, rel=1e-8)
    assert seven.mlp_multipliers == pytest.approx((0.2946278, 0.0325521), rel=1e-6)
    assert seven.ssm_multipliers == pytest.approx((0.3535534, 0.25, 0.1767767, 0.5, 0.3535534), rel=1e-6)
    assert preset("34b").key_multiplier == pytest.approx(0.0110485435, rel=1e-8)
    assert preset("3b").ssm_out_multiplier == pytest.approx(0.0883883, rel=1e-6)


def test_another_architecture_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(UserError, match="llama"):
        load(tmp_path)


def test_a_missing_tensor_is_refused_by_name(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    save(randomised(SMALL), tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors.pop("model.layers.1.mamba.D")
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"layers\.1\.mamba\.D"):
        load(tmp_path)


def test_cache_memory_follows_its_formula() -> None:
    cache = HybridCache.allocate(SMALL, 5, 33, torch.float32)
    held = sum(t.nbytes for group in (cache.keys, cache.values, cache.conv, cache.ssm) for t in group)
    assert held + cache.lengths.nbytes == 5 * HybridCache.bytes_per_slot(SMALL, 33, torch.float32)
