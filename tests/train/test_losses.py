"""The RL loss against its equation, written as a loop over rollouts and tokens with a full forward pass for each."""

from __future__ import annotations

import dataclasses
import math
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_training import gap, gradients, gradients_of, random_ids, rl_section, sequence_logprobs, tiny_model
from torch import Tensor

from h1r.config import RLSection
from h1r.models.falcon_h1.hybrid import HybridForCausalLM
from h1r.train.batch import Rollout, set_norms
from h1r.train.losses import clipped_policy_loss, entropy, finite, tis_weights, token_logprobs, token_norms
from h1r.train.policy_update import accumulate_gradients

AGGREGATIONS = ("token-mean", "seq-mean-token-mean")
MODEL = tiny_model(seed=1)


def rollouts_off_policy(model: HybridForCausalLM, seed: int = 0, count: int = 7, updated: bool = True) -> list[Rollout]:
    """Rollouts of random tokens whose old and sampler log-probabilities differ from the model's own."""
    rng = random.Random(seed)
    rollouts = []
    for number in range(count):
        prompt = rng.randint(1, 5)
        ids = random_ids(rng, prompt + rng.randint(1, 9))
        current = [float(value.detach()) for value in sequence_logprobs(model, ids)][prompt - 1 :]
        old = [value + rng.gauss(0, 0.3) for value in current]
        rollouts.append(
            Rollout(
                ids,
                prompt,
                [value + rng.gauss(0, 0.7) for value in (old if updated else current)],
                rng.gauss(0, 1),
                positive=number % 3 == 0,
                old_logprobs=torch.tensor(old, dtype=torch.float64) if updated else None,
            )
        )
    return rollouts


def fresh(rollouts: list[Rollout]) -> list[Rollout]:
    """Copies on which no forward pass has left a mark."""
    return [dataclasses.replace(rollout, norm=0.0, ce_norm=0.0, valid=None) for rollout in rollouts]


def obvious_loss(
    model: HybridForCausalLM, rollouts: list[Rollout], section: RLSection
) -> tuple[Tensor, dict[str, float]]:
    """The equation of h1r.train.losses, one token at a time. Only tokens with finite log-probabilities exist in it."""
    read = []
    for rollout in rollouts:
        current = sequence_logprobs(model, rollout.ids, section.temperature)[rollout.prompt_length - 1 :]
        tokens = []
        for t, logprob in enumerate(current):
            value = float(logprob.detach())
            old = value if rollout.old_logprobs is None else float(rollout.old_logprobs[t])
            sampled = rollout.sampling_logprobs[t]
            if all(math.isfinite(x) for x in (value, old, sampled)):
                tokens.append((logprob, old, sampled))
        read.append((rollout, tokens))
    num_tokens = sum(len(tokens) for _, tokens in read)
    num_rollouts = sum(bool(tokens) for _, tokens in read)
    num_positive = sum(len(tokens) for rollout, tokens in read if rollout.positive)
    policy, cross_entropy = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    clipped, tis_sum = 0, 0.0
    for rollout, tokens in read:
        whole = math.exp(sum(old - sampled for _, old, sampled in tokens))
        for logprob, old, sampled in tokens:
            ratio = torch.exp(logprob - old)
            r = float(ratio.detach())
            if rollout.advantage >= 0:
                surrogate = torch.clamp(ratio, max=1 + section.epsilon_high) * rollout.advantage
                clipped += r > 1 + section.epsilon_high
            else:
                surrogate = torch.clamp(ratio, min=1 - section.epsilon_low) * rollout.advantage
                clipped += r < 1 - section.epsilon_low
            ratios = {"token": math.exp(old - sampled), "sequence": whole, "none": 1.0}
            weight = min(ratios[section.tis_level], section.tis_cap)
            tis_sum += weight
            share = 1 / num_tokens if section.aggregation == "token-mean" else 1 / len(tokens) / num_rollouts
            policy = policy - share * weight * surrogate
            if rollout.positive:
                cross_entropy = cross_entropy - section.positive_ce * logprob / num_positive
    return policy + cross_entropy, {
        "loss": float(policy.detach() + cross_entropy.detach()),
        "pg_loss": float(policy.detach()),
        "ce_loss": float(cross_entropy.detach()),
        "clip_fraction": clipped / max(num_tokens, 1),
        "tis_mean": tis_sum / max(num_tokens, 1),
        "nonfinite": float(sum(rollout.response_length for rollout in rollouts) - num_tokens),
    }


def run(
    model: HybridForCausalLM, rollouts: list[Rollout], section: RLSection
) -> tuple[dict[str, float], dict[str, Tensor]]:
    assert not gradients(model)
    rollouts = fresh(rollouts)
    set_norms(rollouts, section)
    values = accumulate_gradients(model, rollouts, section)
    return values, gradients(model)


def assert_equals_the_loop(model: HybridForCausalLM, rollouts: list[Rollout], section: RLSection) -> dict[str, float]:
    values, found = run(model, rollouts, section)
    loss, expected = obvious_loss(model, rollouts, section)
    assert {key: values[key] for key in expected} == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert gap(found, gradients_of(model, loss)) < 1e-9
    return values


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("tis_level", ["token", "sequence", "none"])
@pytest.mark.parametrize("updated", [False, True], ids=["on_policy", "after_an_update"])
def test_rl_loss_and_gradient_equal_the_loop(aggregation: str, tis_level: str, updated: bool) -> None:
    section = rl_section(aggregation=aggregation, tis_level=tis_level, micro_batch_tokens=30)
    rollouts = rollouts_off_policy(MODEL, updated=updated)
    values = assert_equals_the_loop(MODEL, rollouts, section)
    assert (values["clip_fraction"] > 0) == updated
    log_ratios = [
        old - sampled
        for r in rollouts
        if r.old_logprobs is not None
        for old, sampled in zip(r.old_logprobs.tolist(), r.sampling_logprobs, strict=True)
    ]
    assert not updated or min(log_ratios) < math.log(2) < max(log_ratios)


@pytest.mark.parametrize("temperature", [0.6, 0.85])
def test_rl_loss_at_another_temperature_equals_the_loop(temperature: float) -> None:
    section = rl_section(temperature=temperature, positive_ce=0.5, tis_cap=1.2, epsilon_low=0.1, epsilon_high=0.5)
    assert_equals_the_loop(MODEL, rollouts_off_policy(MODEL, seed=4), section)


def test_without_positives_there_is_no_cross_entropy() -> None:
    rollouts = [dataclasses.replace(r, positive=False) for r in rollouts_off_policy(MODEL, seed=2)]
    assert assert_equals_the_loop(MODEL, rollouts, rl_section(micro_batch_tokens=20))["ce_loss"] == 0


def test_positive_cross_entropy_alone_is_the_mean_over_all_positive_tokens() -> None:
    rollouts = [dataclasses.replace(r, advantage=0.0) for r in rollouts_off_policy(MODEL, seed=3)]
    values, found = run(MODEL, rollouts, rl_section(positive_ce=0.1, micro_batch_tokens=10))
    positive = [r for r in rollouts if r.positive]
    terms = [x for r in positive for x in sequence_logprobs(MODEL, r.ids)[r.prompt_length - 1 :]]
    expected = -0.1 * torch.stack(terms).mean()
    assert values["loss"] == pytest.approx(float(expected.detach()), rel=1e-10)
    assert gap(found, gradients_of(MODEL, expected)) < 1e-9


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("tis_level", ["token", "sequence"])
def test_rl_loss_does_not_depend_on_the_split_into_micro_batches(aggregation: str, tis_level: str) -> None:
    rollouts = rollouts_off_policy(MODEL, seed=5, count=9)
    rollouts[2].sampling_logprobs[0] = -math.inf
    results = [
        run(MODEL, rollouts, rl_section(aggregation=aggregation, tis_level=tis_level, micro_batch_tokens=tokens))
        for tokens in (1, 17, 40, 10**6)
    ]
    whole_values, whole_gradient = results[-1]
    for values, gradient in results[:-1]:
        assert values == pytest.approx(whole_values, rel=1e-10, abs=1e-14)
        assert gap(gradient, whole_gradient) < 1e-10


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("tis_level", ["token", "sequence"])
def test_a_token_the_sampler_gave_no_finite_logprob_leaves_the_loss(aggregation: str, tis_level: str) -> None:
    rollouts = rollouts_off_policy(MODEL, seed=6)
    rollouts[0].sampling_logprobs[0] = math.nan
    rollouts[1].sampling_logprobs[-1] = -math.inf
    rollouts[3].sampling_logprobs[:] = [math.inf] * rollouts[3].response_length
    assert rollouts[0].positive
    assert rollouts[3].positive
    section = rl_section(aggregation=aggregation, tis_level=tis_level, micro_batch_tokens=25)
    values = assert_equals_the_loop(MODEL, rollouts, section)
    assert values["nonfinite"] == 2 + rollouts[3].response_length


def test_a_token_whose_old_logprob_is_not_finite_leaves_the_loss() -> None:
    rollouts = rollouts_off_policy(MODEL, seed=7)
    assert rollouts[4].old_logprobs is not None
    rollouts[4].old_logprobs[0] = -math.inf
    assert assert_equals_the_loop(MODEL, rollouts, rl_section())["nonfinite"] == 1


def test_a_token_the_trainer_finds_impossible_leaves_the_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(seed=1)
    rollouts = rollouts_off_policy(model, seed=8)
    impossible = rollouts[2].ids[-1]
    mask = torch.zeros(model.config.vocab_size, dtype=torch.float64)
    mask[impossible] = -math.inf
    real = model.logits
    monkeypatch.setattr(model, "logits", lambda hidden: real(hidden) + mask)
    values = assert_equals_the_loop(model, rollouts, rl_section(micro_batch_tokens=20))
    assert values["nonfinite"] == sum(r.ids[r.prompt_length :].count(impossible) for r in rollouts) > 0
    assert math.isfinite(values["entropy"])


def test_a_batch_without_one_finite_token_has_no_loss_and_no_gradient() -> None:
    rollouts = rollouts_off_policy(MODEL, seed=9, count=2)
    for rollout in rollouts:
        rollout.sampling_logprobs[:] = [math.nan] * rollout.response_length
    values, found = run(MODEL, rollouts, rl_section())
    assert values["loss"] == 0
    assert not any(bool(gradient.any()) for gradient in found.values())


def test_denominators_come_back_when_a_token_becomes_finite_again() -> None:
    rollouts = fresh(rollouts_off_policy(MODEL, seed=10))
    expected, wanted = run(MODEL, rollouts, rl_section())
    good = rollouts[1].sampling_logprobs[0]
    rollouts[1].sampling_logprobs[0] = math.nan
    set_norms(rollouts, rl_section())
    assert accumulate_gradients(MODEL, rollouts, rl_section())["nonfinite"] == 1
    gradients(MODEL)
    rollouts[1].sampling_logprobs[0] = good
    values = accumulate_gradients(MODEL, rollouts, rl_section())
    assert values == pytest.approx(expected, rel=1e-12)
    assert gap(gradients(MODEL), wanted) < 1e-10


def test_no_gradient_flows_through_the_importance_weight() -> None:
    old = torch.tensor([-1.0, -0.5], requires_grad=True)
    sampled = torch.tensor([-1.3, -0.4], requires_grad=True)
    for level in ("token", "sequence"):
        weights = tis_weights(old, sampled, 2.0, level, torch.tensor([0, 0]))  # type: ignore[arg-type]
        assert not weights.requires_grad


def test_importance_weights_by_hand() -> None:
    old = torch.log(torch.tensor([0.1, 0.2, 0.9, 0.3]))
    sampled = torch.log(torch.tensor([0.2, 0.1, 0.1, 0.4]))
    rollout = torch.tensor([0, 0, 1, 2])
    token = tis_weights(old, sampled, 2.0, "token", rollout)
    assert token.tolist() == pytest.approx([0.5, 2.0, 2.0, 0.75])
    sequence = tis_weights(old, sampled, 2.0, "sequence", rollout)
    assert sequence.tolist() == pytest.approx([1.0, 1.0, 2.0, 0.75])


def test_an_overflowing_importance_ratio_is_the_cap() -> None:
    weights = tis_weights(torch.tensor([0.0]), torch.tensor([-1000.0]), 2.0, "token", torch.tensor([0]))
    assert weights.tolist() == [2.0]


@given(
    logprob=st.floats(-6, 0), old=st.floats(-6, 0), advantage=st.floats(-3, 3),
    low=st.floats(0.01, 0.9), high=st.floats(0.01, 2),
)  # fmt: skip
def test_clipped_surrogate_equals_its_two_cases(
    logprob: float, old: float, advantage: float, low: float, high: float
) -> None:
    x = torch.tensor([logprob], dtype=torch.float64, requires_grad=True)
    terms = clipped_policy_loss(x, torch.tensor([old], dtype=torch.float64), torch.tensor([advantage]), low, high)
    terms.loss.sum().backward()
    ratio, advantage = math.exp(logprob - old), float(torch.tensor(advantage))
    outside = ratio > 1 + high if advantage > 0 else ratio < 1 - low
    held = outside and advantage != 0
    bound = 1 + high if advantage > 0 else 1 - low
    assert terms.loss.item() == pytest.approx(-advantage * (bound if held else ratio), rel=1e-9, abs=1e-12)
    assert x.grad is not None
    if min(abs(ratio - 1 - high), abs(ratio - 1 + low)) > 1e-9:
        assert float(x.grad) == pytest.approx(0.0 if held else -advantage * ratio, rel=1e-9, abs=1e-12)
        assert bool(terms.clipped) == held


@given(st.lists(st.integers(0, 9), min_size=1, max_size=12))
def test_token_norms_make_the_weights_of_a_batch_sum_to_one(lengths: list[int]) -> None:
    for aggregation in AGGREGATIONS:
        norms = token_norms(lengths, aggregation)  # type: ignore[arg-type]
        shares = [length * norm for length, norm in zip(lengths, norms, strict=True)]
        assert sum(shares) == pytest.approx(1.0 if any(lengths) else 0.0)
        filled = [share for share, length in zip(shares, lengths, strict=True) if length]
        even = [1 / len(filled) for _ in filled]
        of_tokens = [length / sum(lengths) for length in lengths if length]
        assert filled == pytest.approx(of_tokens if aggregation == "token-mean" else even)


def test_token_logprobs_and_entropy_at_a_temperature_equal_the_definitions() -> None:
    logits = torch.randn(5, 11, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    targets = [3, 0, 10, 3, 7]
    for temperature in (1.0, 0.7):
        logprobs = token_logprobs(logits, torch.tensor(targets), temperature)
        entropies = entropy(logits, temperature)
        for t, target in enumerate(targets):
            weights = [math.exp(value / temperature) for value in logits[t].tolist()]
            p = [weight / sum(weights) for weight in weights]
            assert float(logprobs[t]) == pytest.approx(math.log(p[target]), rel=1e-12)
            assert float(entropies[t]) == pytest.approx(-sum(x * math.log(x) for x in p), rel=1e-12)


def test_half_precision_logits_give_fp32_logprobs() -> None:
    logits = torch.randn(3, 7, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert token_logprobs(logits, torch.tensor([1, 2, 3])).dtype == torch.float32
    assert entropy(logits).dtype == torch.float32


def test_finite_is_true_where_every_stream_is() -> None:
    a, b = torch.tensor([0.0, math.nan, 1.0, 2.0]), torch.tensor([-math.inf, 0.0, 1.0, math.inf])
    assert finite(a, b).tolist() == [False, False, True, False]
