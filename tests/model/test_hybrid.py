"""The model agrees with itself: packed, padded, cached."""

from __future__ import annotations

import pytest
import torch
from geometries import SMALL, gap, geometries, random_ids, randomised
from hypothesis import example, given, settings
from hypothesis import strategies as st

from h1r.kernels.layout import Layout
from h1r.kernels.torch.conv import causal_conv
from h1r.kernels.torch.ssd import ssd_scan_rows, ssd_step
from h1r.models.falcon_h1.cache import HybridCache
from h1r.models.falcon_h1.config import HybridConfig
from h1r.models.layers.attention import masked_attention


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
@given(config=geometries(), lengths=st.lists(st.integers(1, 25), min_size=1, max_size=5))
def test_packed_equals_unpacked_forward_and_gradient(config: HybridConfig, lengths: list[int]) -> None:
    model = randomised(config).double()
    documents = [random_ids(config, n, seed=i) for i, n in enumerate(lengths)]
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
        batch[r, where[r]], mask[r, where[r]] = random_ids(SMALL, n, seed=r), 1
    padded = model(batch, mask)
    for r, n in enumerate(lengths):
        assert gap(padded[r, where[r]], model(random_ids(SMALL, n, seed=r)[None])[0]) < 1e-12


@settings(max_examples=10, deadline=None)
@given(config=geometries(), splits=st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_cached_forward_equals_full_forward_for_any_split(config: HybridConfig, splits: list[int]) -> None:
    model = randomised(config)
    total = sum(splits)
    tokens = random_ids(config, 2, total)
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
        batch[r, :n] = random_ids(SMALL, n, seed=r)
    with torch.no_grad():
        prefix = HybridCache.allocate(SMALL, 3, 11, torch.float32)
        model.model.cached(batch, prefix, torch.tensor(lengths))
        cache = HybridCache.allocate(SMALL, 6, 20, torch.float32)
        cache.copy_rows_(torch.arange(6), prefix, torch.tensor([0, 0, 1, 1, 2, 2]), 11)
        tails = random_ids(SMALL, 6, 4, seed=9)
        steps = [model.logits(model.model.cached(tails[:, t : t + 1], cache, None)) for t in range(4)]
        forked = torch.cat(steps, 1)
        for row in range(6):
            alone = model(torch.cat([random_ids(SMALL, lengths[row // 2], seed=row // 2), tails[row]])[None])[0, -4:]
            assert gap(forked[row], alone) < 2e-5


@pytest.mark.parametrize("counts", [[[2, 2], [1, 0]], [[3, 1], [0, 1]], [[1, 0], [1, 1], [1, 1]]])
def test_a_row_without_a_new_token_stays_as_it_is(counts: list[list[int]]) -> None:
    """Chunks of several prompts side by side, one of them of a single token: state by state one prefill."""
    model, lengths = randomised(SMALL), torch.tensor(counts).sum(0)
    ids = random_ids(SMALL, 2, 3)
    with torch.no_grad():
        whole, cut = (HybridCache.allocate(SMALL, 2, 4, torch.float32) for _ in range(2))
        model.model.cached(ids, whole, lengths)
        for now in map(torch.tensor, counts):
            chunk = torch.zeros(2, int(now.max()), dtype=torch.long)
            for row, (at, n) in enumerate(zip(cut.lengths.tolist(), now.tolist(), strict=True)):
                chunk[row, :n] = ids[row, at : at + n]
            model.model.cached(chunk, cut, now)
    assert cut.lengths.tolist() == lengths.tolist()
    for mine, expected in zip((*cut.conv, *cut.ssm), (*whole.conv, *whole.ssm), strict=True):
        assert gap(mine, expected) < 2e-5


def test_cache_memory_follows_its_formula() -> None:
    cache = HybridCache.allocate(SMALL, 5, 33, torch.float32)
    held = sum(t.nbytes for group in (cache.keys, cache.values, cache.conv, cache.ssm) for t in group)
    assert held + cache.lengths.nbytes == 5 * HybridCache.bytes_per_slot(SMALL, 33, torch.float32)


def test_repeated_keys_are_looked_at_as_grouped_heads_look() -> None:
    q, k, v = (torch.randn(2, heads, n, 16) for heads, n in ((6, 5), (2, 9), (2, 9)))
    mask = torch.arange(9) <= torch.tensor([[4], [2]])[:, None, None] + torch.arange(5)[:, None]
    grouped, repeated = (masked_attention(q, k, v, mask, repeat) for repeat in (False, True))
    torch.testing.assert_close(repeated, grouped, rtol=1e-5, atol=1e-6)
    # Query head 4 belongs to the second group of keys.
    alone = masked_attention(q[:, 4:5], k[:, 1:], v[:, 1:], mask, False)
    torch.testing.assert_close(repeated[:, 4:5], alone, rtol=1e-5, atol=1e-6)
