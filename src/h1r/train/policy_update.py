"""Optimiser steps on one batch of groups, and the gradient of the batch's loss, micro-batch by micro-batch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from h1r.config import RLSection
from h1r.kernels.layout import Layout
from h1r.models import CausalLM
from h1r.train.algorithms import TokenStreams, make_loss
from h1r.train.batch import Rollout, micro_batches, set_norms, to_rollouts
from h1r.train.linear_logprobs import head_logprobs
from h1r.train.losses import finite, kl_estimate, tis_weights
from h1r.train.optim import linear_schedule, optimizer_step
from h1r.train.parallel.balance import document_costs, spread
from h1r.train.parallel.gradients import Trained, call, computing_model, give_back, weights_of
from h1r.train.parallel.world import ALONE, World
from h1r.train.rollouts import Group

PER_TOKEN = ("clip_fraction", "entropy", "tis_mean", "tis_capped", "mismatch_kl")
SUMS = ("pg_loss", "ce_loss", *PER_TOKEN, "nonfinite", "tokens")
"""What `rollout_loss` measures. tis_capped: tokens whose importance weight is at its cap. mismatch_kl: of the trainer's
distribution from the one that was sampled from, nats (k3 estimator); 0 where engine and trainer agree."""
KL_SUMS = ("kl_loss", "kl")
"""What it measures besides where there is a KL term."""


def train_on(
    model: Trained,
    optimizer: torch.optim.Optimizer,
    groups: Sequence[Group],
    section: RLSection,
    step: int,
    world: World = ALONE,
    reference: Trained | None = None,
) -> dict[str, float]:
    """`updates_per_batch` optimiser steps on one batch of groups; returns the means of their metrics.

    reference: the model of the KL term, needed where `kl_coef` is not 0.
    """
    rollouts = [rollout for group in groups for rollout in to_rollouts(group, section)]
    if not rollouts:
        return {"loss": math.nan, "grad_norm": 0.0, "skipped": 0}
    set_norms(rollouts, section)
    if section.updates_per_batch > 1:
        for rollout, logprobs in _logprobs(model, rollouts, section, world):
            rollout.old_logprobs = logprobs
    if section.kl_coef:
        assert reference is not None
        for rollout, logprobs in _logprobs(reference, rollouts, section, world):
            rollout.reference_logprobs = logprobs
    rows = []
    for _ in range(section.updates_per_batch):
        values = accumulate_gradients(model, rollouts, section, world)
        factor = linear_schedule(step, section.warmup_steps, 1 << 62)
        norm, stepped = optimizer_step(weights_of(model), optimizer, section.optimizer, factor)
        values |= {"grad_norm": norm, "skipped": int(not stepped)}
        rows.append(values | {"learning_rate": section.optimizer.learning_rate * factor})
    return {key: sum(row[key] for row in rows) / len(rows) for key in rows[0]}


@torch.no_grad()
def _logprobs(
    model: Trained, rollouts: Sequence[Rollout], section: RLSection, world: World
) -> list[tuple[Rollout, Tensor]]:
    """The rollouts that this process runs, and the log-probability of each response token under `model`."""
    found: list[tuple[Rollout, Tensor]] = []
    shares = _shares(model, rollouts, section, world)
    for micro in shares[world.data_rank]:
        logprobs, _, lengths = call(model, response_logprobs, micro, section, world)
        found += zip(micro, logprobs.split(lengths), strict=True)
    for silent in _silent(model, rollouts, shares, world):
        call(model, response_logprobs, silent, section, world)
    give_back(model)
    return found


def accumulate_gradients(
    model: Trained, rollouts: Sequence[Rollout], section: RLSection, world: World = ALONE
) -> dict[str, float]:
    """Adds the batch loss's gradient to the parameters and returns what was measured on the way.

    Tokens whose log-probability is not finite leave the loss; should any show up, the denominators are set again
    without them and the batch is run once more. Every process of `world` gets all rollouts, runs its share, and ends
    with the same gradient and numbers.
    """
    before = [rollout.num_valid for rollout in rollouts]
    totals = _accumulate(model, rollouts, section, world)
    if totals["nonfinite"]:
        _share_valid(model, rollouts, section, world)
    if [rollout.num_valid for rollout in rollouts] != before:
        set_norms(rollouts, section)
        weights_of(model).zero_grad(set_to_none=True)
        totals = _accumulate(model, rollouts, section, world)
    world.sync_gradients(model)
    tokens = totals.pop("tokens")
    per_token = [key for key in (*PER_TOKEN, "kl") if key in totals]
    means: dict[str, float] = {key: totals.pop(key) / max(tokens, 1) for key in per_token}
    return {"loss": totals["pg_loss"] + totals["ce_loss"] + totals.get("kl_loss", 0.0), **totals, **means}


def _accumulate(model: Trained, rollouts: Sequence[Rollout], section: RLSection, world: World) -> dict[str, float]:
    totals = dict.fromkeys(SUMS + KL_SUMS * bool(section.kl_coef), 0.0)
    shares = _shares(model, rollouts, section, world)
    for micro in shares[world.data_rank]:
        loss, values = call(model, rollout_loss, micro, section, world)
        loss.backward()
        if world.context_rank == 0:  # the ranks of a row measure the same tokens
            for key, value in values.items():
                totals[key] += value
    for silent in _silent(model, rollouts, shares, world):
        call(model, rollout_loss, silent, section, world)[0].backward()
    return {key: world.sum(value) for key, value in totals.items()}


def _share_valid(model: Trained, rollouts: Sequence[Rollout], section: RLSection, world: World) -> None:
    """Which tokens are finite, as the process that ran each rollout found it."""
    shares = _shares(model, rollouts, section, world)
    found = world.rows([[rollout.valid for rollout in micro] for micro in shares[world.data_rank]])
    for share, said in zip(shares, found, strict=True):
        for micro, masks in zip(share, said, strict=True):
            for rollout, valid in zip(micro, masks, strict=True):
                rollout.valid = valid


def _shares(model: Trained, rollouts: Sequence[Rollout], section: RLSection, world: World) -> list[list[list[Rollout]]]:
    """The micro-batches of each row of the grid."""
    if world.data_degree == 1:
        return [micro_batches(rollouts, section.micro_batch_tokens)]
    costs = document_costs(computing_model(model), [len(rollout.ids) for rollout in rollouts])
    shares = spread(costs, world.data_degree)
    return [micro_batches([rollouts[i] for i in share], section.micro_batch_tokens) for share in shares]


def _silent(
    model: Trained, rollouts: Sequence[Rollout], shares: list[list[list[Rollout]]], world: World
) -> Iterator[list[Rollout]]:
    """Micro-batches without a loss, for the passes that this process runs along (`World.idle_rounds`)."""
    rounds = world.idle_rounds([len(share) for share in shares])
    if not rounds:
        return
    shortest = min(rollouts, key=lambda rollout: len(rollout.ids))
    zeros = torch.zeros(shortest.response_length, device=weights_of(model).device)
    for _ in range(rounds):
        yield [replace(shortest, norm=0.0, ce_norm=0.0, old_logprobs=None, reference_logprobs=zeros)]


def rollout_loss(
    model: CausalLM, rollouts: Sequence[Rollout], section: RLSection, world: World = ALONE
) -> tuple[Tensor, dict[str, float]]:
    """This micro-batch's share of the batch loss, and sums over its tokens for the metrics.

    The context-parallel ranks of a row run one micro-batch. Each computes the log-probabilities of its own tokens; they
    exchange them, and all compute the loss of the whole: a loss may then look at whole sequences, whatever it is.

    Marks tokens whose log-probabilities are not finite in `Rollout.valid`.
    """
    logprobs, spread, lengths = response_logprobs(model, rollouts, section, world, with_entropy=True)
    repeat = torch.tensor(lengths, device=logprobs.device)

    def per_token(values: list[float]) -> Tensor:
        return torch.repeat_interleave(logprobs.new_tensor(values), repeat)

    sampled = logprobs.new_tensor([value for r in rollouts for value in r.sampling_logprobs])
    old = logprobs.detach()
    if rollouts[0].old_logprobs is not None:
        old = torch.cat([r.old_logprobs for r in rollouts if r.old_logprobs is not None])
    streams = [logprobs, old, sampled]
    if section.kl_coef:
        streams.append(torch.cat([r.reference_logprobs for r in rollouts if r.reference_logprobs is not None]))
    good = finite(*streams)
    for rollout, valid in zip(rollouts, good.split(lengths), strict=True):
        rollout.valid = valid.cpu()  # it travels between processes, which have cards of their own
    logprobs, old, sampled, *reference = (torch.where(good, stream, 0.0) for stream in streams)
    sequence = torch.repeat_interleave(torch.arange(len(rollouts), device=logprobs.device), repeat)
    tis = tis_weights(old, sampled, section.tis_cap, section.tis_level, sequence)
    advantages, norms = per_token([r.advantage for r in rollouts]), per_token([r.norm for r in rollouts])
    terms = make_loss(section).per_token(TokenStreams(logprobs, old, advantages, sequence, good))
    pg_loss = (terms.loss * tis * norms * good).sum()
    ce_loss = -(logprobs * per_token([r.ce_norm for r in rollouts]) * good).sum()
    loss = pg_loss + ce_loss
    values = {
        "pg_loss": pg_loss.item(),
        "ce_loss": ce_loss.item(),
        "clip_fraction": 0.0 if terms.clipped is None else (terms.clipped & good).sum().item(),
        "entropy": spread[good].sum().item(),
        "tis_mean": tis[good].sum().item(),
        "tis_capped": float((tis[good] >= section.tis_cap).sum().item()),
        "mismatch_kl": kl_estimate(sampled, old)[good].sum().item(),
        "nonfinite": float((~good).sum().item()),
        "tokens": float(good.sum().item()),
    }
    if reference:
        kl = kl_estimate(logprobs, reference[0]) * good
        kl_loss = section.kl_coef * (kl * norms).sum()
        loss = loss + kl_loss
        values |= {"kl_loss": kl_loss.item(), "kl": kl.sum().item()}
    return loss, values


def response_logprobs(
    model: CausalLM, rollouts: Sequence[Rollout], section: RLSection, world: World = ALONE, with_entropy: bool = False
) -> tuple[Tensor, Tensor, list[int]]:
    """Log-probability [T] of each response token of all rollouts end to end, the entropy [T] of its distribution (zeros
    without `with_entropy`), and each rollout's share of T; the same on every rank of a row."""
    hidden, target, lengths, start = _own_hidden(model, rollouts, world)
    own = head_logprobs(model, hidden, target, section.temperature, with_entropy)
    logprobs, entropy = (world.joined(one, start, sum(lengths)) for one in own)
    return logprobs, entropy, lengths


def response_hidden(model: CausalLM, rollouts: Sequence[Rollout]) -> tuple[Tensor, Tensor, list[int]]:
    """Hidden states [T, D] that predict the response tokens [T] of all rollouts end to end, and each one's share of
    T."""
    return _own_hidden(model, rollouts, ALONE)[:3]


def _own_hidden(model: CausalLM, rollouts: Sequence[Rollout], world: World) -> tuple[Tensor, Tensor, list[int], int]:
    """As `response_hidden`, of the response tokens that this rank predicts, and how many come before them."""
    layout = Layout.of([len(rollout.ids) for rollout in rollouts], model.device)
    ids = torch.tensor([token for rollout in rollouts for token in rollout.ids], device=model.device)
    is_response = torch.tensor([flag for r in rollouts for flag in r.is_response], device=model.device)
    target, mine = is_response.nonzero().squeeze(-1), world.share(layout.num_tokens)
    # A token is predicted by the rank that holds the token before it, which may not be its own.
    start = int((target <= mine.start).sum())
    target = target[start:][target[start:] <= mine.stop]
    hidden = model.model(ids[mine], layout)[target - 1 - mine.start]
    return hidden, ids[target], [rollout.response_length for rollout in rollouts], start
