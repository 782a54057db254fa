"""Losses by name, each against the equation of its paper, written as a loop over rollouts and tokens."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from test_losses import fresh, rollouts_off_policy
from tiny_training import gap, gradients, gradients_of, rl_section, sequence_logprobs, tiny_model
from torch import Tensor

from h1r.config import RLSection
from h1r.errors import UserError
from h1r.records import Trace
from h1r.train.advantages import overlong_penalty
from h1r.train.algorithms import Loss, TokenStreams, make_loss
from h1r.train.batch import Rollout, set_norms, to_rollouts
from h1r.train.losses import PolicyTerms
from h1r.train.policy_update import accumulate_gradients, train_on
from h1r.train.registry import LOSSES
from h1r.train.rollouts import Group

MODEL = tiny_model(seed=1)
Tokens = list[tuple[Tensor, float, float]]
"""Of each token with finite log-probabilities: the current one with gradient, the old one, the sampler's."""


def tokens_of(rollout: Rollout) -> Tokens:
    current = sequence_logprobs(MODEL, rollout.ids)[rollout.prompt_length - 1 :]
    assert rollout.old_logprobs is not None
    streams = zip(current, rollout.old_logprobs.tolist(), rollout.sampling_logprobs, strict=True)
    return [(x, old, sampled) for x, old, sampled in streams if math.isfinite(old) and math.isfinite(sampled)]


def weight(old: float, sampled: float) -> float:
    """Between sampler and trainer, which no algorithm is about: it multiplies each token's loss."""
    return min(math.exp(old - sampled), 2.0)


def slow_dr_grpo(batch: list[tuple[float, Tokens]], max_tokens: int) -> Tensor:
    """(1/G) sum_i (1/budget) sum_t min(r A, clip(r, 0.8, 1.2) A), to be maximised."""
    total = torch.zeros((), dtype=torch.float64)
    for advantage, tokens in batch:
        for x, old, sampled in tokens:
            ratio = torch.exp(x - old)
            bounded = min(max(float(ratio.detach()), 0.8), 1.2)
            inside = ratio if bounded == float(ratio.detach()) else torch.tensor(bounded, dtype=torch.float64)
            surrogate = torch.minimum(ratio * advantage, inside * advantage)
            total = total - weight(old, sampled) * surrogate / max_tokens
    return total / len(batch)


def slow_gspo(batch: list[tuple[float, Tokens]], max_tokens: int) -> Tensor:
    """(1/G) sum_i min(s A, clip(s, 1 - 3e-4, 1 + 4e-4) A), s = (pi(y) / pi_old(y)) ^ (1 / |y|)."""
    total = torch.zeros((), dtype=torch.float64)
    for advantage, tokens in batch:
        likelihood = torch.exp(torch.stack([x - old for x, old, _ in tokens]).sum())
        s = likelihood ** (1 / len(tokens))
        value = float(s.detach())
        if advantage >= 0:
            s = s if value <= 1.0004 else torch.tensor(1.0004, dtype=torch.float64)
        else:
            s = s if value >= 0.9997 else torch.tensor(0.9997, dtype=torch.float64)
        mean_weight = sum(weight(old, sampled) for _, old, sampled in tokens) / len(tokens)
        total = total - mean_weight * s * advantage
    return total / len(batch)


def slow_cispo(batch: list[tuple[float, Tokens]], max_tokens: int) -> Tensor:
    """1 / (all tokens) sum_i sum_t sg(min(r, 5)) A log pi."""
    total = torch.zeros((), dtype=torch.float64)
    for advantage, tokens in batch:
        for x, old, sampled in tokens:
            capped = min(math.exp(float(x.detach()) - old), 5.0)
            total = total - weight(old, sampled) * capped * advantage * x
    return total / sum(len(tokens) for _, tokens in batch)


SLOW: dict[str, Callable[[list[tuple[float, Tokens]], int], Tensor]] = {
    "dr_grpo": slow_dr_grpo,
    "gspo": slow_gspo,
    "cispo": slow_cispo,
}


@pytest.mark.parametrize("algorithm", SLOW)
@pytest.mark.parametrize("broken", [False, True], ids=["all_finite", "a_token_without_a_logprob"])
def test_loss_and_gradient_equal_the_loop(algorithm: str, broken: bool) -> None:
    section = rl_section(algorithm=algorithm, micro_batch_tokens=30, max_tokens=40)
    rollouts = fresh(rollouts_off_policy(MODEL, seed=3))
    rollouts[2].old_logprobs = rollouts[2].old_logprobs * 3.0  # type: ignore[operator]  # ratios far above every bound
    if broken:
        rollouts[1].sampling_logprobs[0] = math.nan
    set_norms(rollouts, section)
    assert not gradients(MODEL)
    values = accumulate_gradients(MODEL, rollouts, section)
    found = gradients(MODEL)
    expected = SLOW[algorithm]([(rollout.advantage, tokens_of(rollout)) for rollout in rollouts], 40)
    assert values["loss"] == pytest.approx(float(expected.detach()), rel=1e-9)
    assert gap(found, gradients_of(MODEL, expected)) < 1e-9
    assert values["ce_loss"] == 0
    assert 0 < values["clip_fraction"] < 1
    assert values["nonfinite"] == int(broken)


@pytest.mark.parametrize("algorithm", ["grpo", *SLOW])
def test_the_loss_does_not_depend_on_the_split_into_micro_batches(algorithm: str) -> None:
    results = []
    for tokens in (1, 17, 10**6):
        section = rl_section(algorithm=algorithm, micro_batch_tokens=tokens)
        rollouts = fresh(rollouts_off_policy(MODEL, seed=5))
        set_norms(rollouts, section)
        results.append((accumulate_gradients(MODEL, rollouts, section), gradients(MODEL)))
    for values, gradient in results[:-1]:
        assert values == pytest.approx(results[-1][0], rel=1e-10, abs=1e-14)
        assert gap(gradient, results[-1][1]) < 1e-10


def test_advantages_of_dr_grpo_are_not_divided_by_the_deviation() -> None:
    rewards = [1.0, 0.0, 0.0, 0.0]
    assert make_loss(rl_section(algorithm="dr_grpo")).advantages(rewards).tolist() == [0.75, -0.25, -0.25, -0.25]
    deviation = math.sqrt(sum((reward - 0.25) ** 2 for reward in rewards) / 3)
    for name in ("grpo", "gspo", "cispo"):
        found = make_loss(rl_section(algorithm=name)).advantages(rewards).tolist()
        assert found == pytest.approx([0.75 / deviation, *[-0.25 / deviation] * 3])


def test_an_algorithm_brings_its_papers_defaults_and_a_recipe_overrides_them() -> None:
    assert (rl_section().epsilon_low, rl_section().epsilon_high, rl_section().positive_ce) == (0.2, 0.28, 0.1)
    gspo = rl_section(algorithm="gspo")
    assert (gspo.epsilon_low, gspo.epsilon_high, gspo.positive_ce) == (3e-4, 4e-4, 0.0)
    assert gspo.aggregation == "seq-mean-token-mean"
    own = rl_section(algorithm="gspo", epsilon_high=0.1, aggregation="token-mean")
    assert (own.epsilon_low, own.epsilon_high, own.aggregation) == (3e-4, 0.1, "token-mean")
    assert RLSection.model_validate(gspo.model_dump()) == gspo


def test_an_unknown_algorithm_is_refused_with_the_nearest_names() -> None:
    with pytest.raises(UserError, match=r"unknown loss `gsop`; use one of .*`gspo`"):
        make_loss(rl_section(algorithm="gsop"))


@pytest.fixture
def reinforce() -> Iterator[str]:
    """A loss of somebody's own, registered for one test."""

    class Reinforce(Loss):
        def per_token(self, streams: TokenStreams) -> PolicyTerms:
            return PolicyTerms(-self.section.algorithm_options["scale"] * streams.advantages * streams.logprobs)

    LOSSES.add("reinforce", Reinforce, replace=True)
    yield "reinforce"
    del LOSSES._parts["reinforce"]


def test_a_registered_loss_is_used_with_its_options(reinforce: str) -> None:
    options: dict[str, Any] = {"algorithm_options": {"scale": 2.5}, "positive_ce": 0}
    section = rl_section(algorithm=reinforce, **options)
    rollouts = fresh(rollouts_off_policy(MODEL, seed=6))
    set_norms(rollouts, section)
    values = accumulate_gradients(MODEL, rollouts, section)
    found = gradients(MODEL)
    batch = [(rollout.advantage, tokens_of(rollout)) for rollout in rollouts]
    terms = [-2.5 * weight(old, sampled) * a * x for a, tokens in batch for x, old, sampled in tokens]
    assert gap(found, gradients_of(MODEL, torch.stack(terms).mean())) < 1e-9
    assert values["clip_fraction"] == 0


# Terms that are off by default


def group(lengths: list[int], rewards: list[float], cut: list[bool]) -> Group:
    traces = [
        Trace(0, i, [1 + (3 * i + t) % 20 for t in range(n)], "", [-2.0] * n, [-2.0] * n, [1.0] * n,
              "length" if cut[i] else "stop")
        for i, n in enumerate(lengths)
    ]  # fmt: skip
    correct = [reward > 0.5 for reward in rewards]
    return Group("p", [5, 9], traces, rewards, correct, [None] * len(lengths), 0)


@pytest.mark.parametrize("updates", [1, 2])
def test_the_kl_term_is_the_k3_estimate_by_hand(updates: int) -> None:
    groups = [group([3, 4, 2, 5], [1.0, 0.0, 0.0, 1.0], [False] * 4)]
    options: dict[str, Any] = {"optimizer": {"learning_rate": 1e-3, "grad_clip": 1e9}, "updates_per_batch": updates}
    reference, steps = tiny_model(seed=9), []
    for coefficient in (0.0, 0.3):
        model = tiny_model(seed=1)
        section = rl_section(kl_coef=coefficient, warmup_steps=0, **options)
        values = train_on(model, torch.optim.SGD(model.parameters()), groups, section, 0, reference=reference)
        steps.append((values, dict(model.named_parameters())))
    assert "kl" not in steps[0][0]
    assert all(p.grad is None for p in reference.parameters())
    if updates > 1:
        return
    divergence = torch.zeros((), dtype=torch.float64)
    twin = tiny_model(seed=1)
    for trace in groups[0].traces:
        ids = groups[0].prompt_ids + trace.token_ids
        pairs = zip(sequence_logprobs(twin, ids)[1:], sequence_logprobs(reference, ids)[1:], strict=True)
        for own, other in pairs:
            ratio = torch.exp(other.detach() - own)
            divergence = divergence + ratio - torch.log(ratio) - 1
    divergence = divergence / 14
    assert steps[1][0]["kl"] == pytest.approx(float(divergence.detach()), rel=1e-9)
    assert steps[1][0]["kl_loss"] == pytest.approx(0.3 * float(divergence.detach()), rel=1e-9)
    assert steps[1][0]["loss"] == pytest.approx(steps[0][0]["loss"] + steps[1][0]["kl_loss"], rel=1e-9)
    pull = gradients_of(twin, 0.3 * divergence)
    moved = {name: (steps[0][1][name] - steps[1][1][name]).detach() / 1e-3 for name in pull}
    assert gap(moved, pull) < 1e-8


def test_against_itself_the_kl_term_is_zero_and_has_no_gradient() -> None:
    groups = [group([3, 4], [1.0, 0.0], [False] * 2)]
    ends = []
    for coefficient in (0.0, 5.0):
        model = tiny_model(seed=1)
        optimizer = torch.optim.SGD(model.parameters())
        section = rl_section(kl_coef=coefficient, warmup_steps=0)
        values = train_on(model, optimizer, groups, section, 0, reference=tiny_model(seed=1))
        ends.append(list(model.parameters()))
    assert values["kl"] == pytest.approx(0.0, abs=1e-12)
    for without, with_it in zip(*ends, strict=True):
        torch.testing.assert_close(with_it, without, rtol=0, atol=1e-12)


def test_cut_off_rollouts_leave_the_loss_but_count_in_the_advantages() -> None:
    given = group([3, 4, 2], [1.0, 0.0, 0.0], [False, True, False])
    everything, masked = to_rollouts(given, rl_section()), to_rollouts(given, rl_section(mask_truncated=True))
    assert [len(rollout.ids) for rollout in everything] == [5, 6, 4]
    assert [len(rollout.ids) for rollout in masked] == [5, 4]
    assert [rollout.advantage for rollout in masked] == [everything[0].advantage, everything[2].advantage]


@pytest.mark.parametrize(
    ("tokens", "expected"), [(0, 0.0), (80, 0.0), (81, 0.05), (90, 0.5), (99, 0.95), (100, 1.0), (120, 1.0)]
)
def test_the_overlong_penalty_rises_in_a_straight_line_over_the_buffer(tokens: int, expected: float) -> None:
    assert overlong_penalty(tokens, 100, 20, 1.0) == pytest.approx(expected)
    assert overlong_penalty(tokens, 100, 20, 0.5) == pytest.approx(expected / 2)
    assert overlong_penalty(tokens, 100, 0, 1.0) == 0.0


def test_a_buffer_longer_than_a_rollout_is_refused() -> None:
    with pytest.raises(ValueError, match="overlong_buffer = 50 exceeds max_tokens = 40"):
        rl_section(max_tokens=40, overlong_buffer=50)
