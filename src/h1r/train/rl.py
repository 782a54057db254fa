"""GRPO with verifiable rewards (arXiv 2601.02346, section 3): clip-higher, no KL, no entropy bonus, truncated
importance sampling, cross-entropy on positive samples, zero-advantage groups backfilled.

    for every step:  groups with signal -> token streams -> policy loss + mu * positive cross-entropy -> AdamW

The sampler is an engine on the same weights in the same process, and several processes share the prompts of a step.
Trainer and sampler still run different kernels, so the importance weight between them is applied, and its mean is
logged: it belongs within a percent of 1.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from h1r.common.progress import note, progress
from h1r.config import Recipe, RLSection
from h1r.data.chat import prompt_ids
from h1r.engine.choose import open_engine
from h1r.errors import UserError
from h1r.kernels.layout import Layout
from h1r.models import HybridForCausalLM
from h1r.records import Problem, read_jsonl, read_lines, write_jsonl
from h1r.run.checkpoints import Checkpoints
from h1r.run.directory import Run
from h1r.run.metrics import Metrics
from h1r.train.advantages import group_advantages
from h1r.train.checkpoint import publish, restore, save_checkpoint
from h1r.train.linear_logprobs import head_logprobs
from h1r.train.losses import clipped_policy_loss, finite, tis_weights, token_norms
from h1r.train.memory import keep_freed_memory
from h1r.train.optim import linear_schedule, make_optimizer, optimizer_step
from h1r.train.parallel.launch import join
from h1r.train.parallel.world import ALONE, World
from h1r.train.rollouts import Collected, Group, GroupStream
from h1r.train.start import loaded, saved_tokenizer
from h1r.verify import open_backend, with_max_tests

SUMS = ("pg_loss", "ce_loss", "clip_fraction", "entropy", "tis_mean", "nonfinite", "tokens")
"""What `rollout_loss` measures."""


@dataclass
class Rollout:
    """One trace as the loss sees it."""

    ids: list[int]
    """Prompt and response."""
    prompt_length: int
    sampling_logprobs: list[float]
    advantage: float
    positive: bool
    norm: float = 0.0
    """Factor of each of its tokens in the policy loss (`token_norms`)."""
    ce_norm: float = 0.0
    """Factor of each of its tokens in the positive cross-entropy."""
    old_logprobs: Tensor | None = None
    """Trainer log-probabilities before the first update on this batch; None while they are the current ones."""
    valid: Tensor | None = None
    """[response] bool: tokens that enter the loss; None before the first forward pass: all of them."""

    @property
    def response_length(self) -> int:
        return len(self.ids) - self.prompt_length

    @property
    def num_valid(self) -> int:
        return self.response_length if self.valid is None else int(self.valid.sum())


def rl(recipe: Recipe, run: Run, resume: bool = False) -> dict[str, Any]:
    """Trains sft/model on the RL pool; writes rl/metrics.jsonl, rl/rollouts.jsonl, rl/checkpoints and rl/model.

    resume: go on from the newest checkpoint, to the same bits as an unbroken run. Returns steps and the last reward.
    Several processes draw prompts and train on rollouts of their own, and write what one would. Raises `UserError` for
    a recipe that asks for context parallelism.
    """
    if recipe.parallel.context > 1:
        raise UserError(
            f"rl keeps sequences whole, but [parallel] context = {recipe.parallel.context}, which sft alone can use; "
            "go on in the same run with --set parallel.context=1"
        )
    # The engine reads whole weights, so RL keeps them whole on every process, whatever SFT does.
    recipe = recipe.model_copy(update={"parallel": recipe.parallel.model_copy(update={"shard": False})})
    world = join("rl", recipe, run, resume)
    with run.timed("rl") if world.main else nullcontext(), ExitStack() as stack:
        stage, section = run.stage("rl"), recipe.rl
        with world.agreed():
            if world.data_degree > 1 and recipe.engine.kind != "native":
                raise UserError(
                    f'rl on {world.data_degree} processes draws rollouts on engine.kind = "native" only, not '
                    f'"{recipe.engine.kind}"; change it, or start rl without torchrun'
                )
            pool = stack.enter_context(open_backend(recipe.verify, format_checks=section.format_penalty > 0))
            tokenizer = saved_tokenizer(recipe, run.need("curate/tokenizer", "curate"))
            problems = list(read_jsonl(run.need("rl_pool/pool.jsonl", "curate --pool rl"), Problem))
            if not problems:
                raise UserError(f"{run.path}/rl_pool/pool.jsonl is empty: nothing is left to learn; loosen [rl_pool]")
            model = loaded(run.need("sft/model", "sft"), recipe.model.kernels).train()
            keep_freed_memory(model.device)
            optimizer = make_optimizer(model, section.optimizer)
            engine = stack.enter_context(open_engine(recipe.engine, tokenizer, model))
            problems = [
                with_max_tests(problem, section.max_tests, recipe.seed, section.partial_credit) for problem in problems
            ]
            prompts = [prompt_ids(tokenizer, problem.question, recipe.chat.system_prompt) for problem in problems]
            problems, prompts = _fitting(problems, prompts, recipe, model.config.max_position_embeddings)
            stream = GroupStream(problems, prompts, engine, pool.verify_many, section, recipe.seed, world)
            checkpoints = Checkpoints(stage)
            step = 0
            if resume and (found := checkpoints.latest()):
                state = restore(found[1], model, optimizer)
                step = state["step"]
                stream.restore(state["stream"])
        metrics = Metrics(stage / "metrics.jsonl", step) if world.main else None
        if world.main:
            _cut_examples(stage / "rollouts.jsonl", step)
        values: dict[str, float] = {}
        with progress("RL", total=section.steps, unit="step") as bar:
            bar.start_at(step)
            while step < section.steps:
                start = time.monotonic()
                model.eval()
                collected = stream.collect(step)
                sampled = time.monotonic()
                model.train()
                values = train_on(model, optimizer, collected.groups, section, step, world)
                values |= rollout_metrics(collected)
                values["rollout_seconds"] = round(sampled - start, 3)
                values["train_seconds"] = round(time.monotonic() - sampled, 3)
                if metrics is not None:
                    metrics.log(step, **values)
                    _keep_examples(stage / "rollouts.jsonl", step, collected)
                step += 1
                if step % section.checkpoint_every == 0 and step < section.steps:
                    state = {"step": step, "stream": stream.state()}
                    save_checkpoint(checkpoints, step, model, optimizer, tokenizer, state, world)
                bar.advance(1, reward=values["reward"], accuracy=values["accuracy"], tokens=values["mean_tokens"])
        if metrics is not None:
            metrics.close()
        publish(stage, model, tokenizer, world)
    return {"steps": section.steps, "reward": values.get("reward", math.nan)}


def _fitting(
    problems: list[Problem], prompts: list[list[int]], recipe: Recipe, positions: int
) -> tuple[list[Problem], list[list[int]]]:
    """The problems whose prompt leaves room for `rl.max_tokens`, and their prompts; `UserError` when none does."""
    room = min(positions, recipe.engine.max_model_len or positions) - recipe.rl.max_tokens
    fitting = [i for i, prompt in enumerate(prompts) if len(prompt) <= room]
    if not fitting:
        shortest = min(map(len, prompts))
        raise UserError(
            f"rl.max_tokens = {recipe.rl.max_tokens} and the shortest prompt's {shortest} tokens exceed the model's "
            f"{room + recipe.rl.max_tokens} positions; lower rl.max_tokens"
        )
    if len(fitting) < len(prompts):
        note(
            f"{len(prompts) - len(fitting)} of {len(prompts)} problems are too long beside rl.max_tokens, and left out"
        )
    return [problems[i] for i in fitting], [prompts[i] for i in fitting]


def train_on(
    model: HybridForCausalLM,
    optimizer: torch.optim.Optimizer,
    groups: Sequence[Group],
    section: RLSection,
    step: int,
    world: World = ALONE,
) -> dict[str, float]:
    """`updates_per_batch` optimiser steps on one batch of groups; returns the means of their metrics."""
    rollouts = [rollout for group in groups for rollout in to_rollouts(group, section)]
    if not rollouts:
        return {"loss": math.nan, "grad_norm": 0.0, "skipped": 0}
    set_norms(rollouts, section)
    if section.updates_per_batch > 1:
        with torch.no_grad():
            for micro in world.deal(_all_micro_batches(rollouts, section, world)):
                hidden, target, lengths = response_hidden(model, micro)
                old = head_logprobs(model, hidden, target, section.temperature)[0]
                for rollout, logprobs in zip(micro, old.split(lengths), strict=True):
                    rollout.old_logprobs = logprobs
    rows = []
    for _ in range(section.updates_per_batch):
        values = accumulate_gradients(model, rollouts, section, world)
        factor = linear_schedule(step, section.warmup_steps, 1 << 62)
        norm, stepped = optimizer_step(model, optimizer, section.optimizer, factor)
        values |= {"grad_norm": norm, "skipped": int(not stepped)}
        rows.append(values | {"learning_rate": section.optimizer.learning_rate * factor})
    return {key: sum(row[key] for row in rows) / len(rows) for key in rows[0]}


def to_rollouts(group: Group, section: RLSection) -> list[Rollout]:
    """The group's traces with their advantages; a trace without tokens (a refused request) has nothing to teach."""
    advantages = group_advantages(group.rewards, section.normalise_std).tolist()
    return [
        Rollout(group.prompt_ids + trace.token_ids, len(group.prompt_ids), trace.sampling_logprobs, advantage, correct)
        for trace, advantage, correct in zip(group.traces, advantages, group.correct, strict=True)
        if trace.token_ids
    ]


def set_norms(rollouts: Sequence[Rollout], section: RLSection) -> None:
    """Denominators of both streams, from the whole batch: the loss then depends on no split into micro-batches."""
    lengths = [rollout.num_valid for rollout in rollouts]
    positive = sum(rollout.num_valid for rollout in rollouts if rollout.positive)
    for rollout, norm in zip(rollouts, token_norms(lengths, section.aggregation), strict=True):
        rollout.norm = norm
        rollout.ce_norm = section.positive_ce / positive if rollout.positive and positive else 0.0


def accumulate_gradients(
    model: HybridForCausalLM, rollouts: Sequence[Rollout], section: RLSection, world: World = ALONE
) -> dict[str, float]:
    """Adds the batch loss's gradient to the parameters and returns what was measured on the way.

    Tokens whose log-probability is not finite leave the loss; should any show up, the denominators are set again
    without them and the batch is run once more. Every process of `world` gets all rollouts, runs its share, and ends
    with the same gradient and numbers.
    """
    before = [rollout.num_valid for rollout in rollouts]
    totals = _accumulate(model, rollouts, section, world)
    if totals["nonfinite"]:
        _share_valid(rollouts, section, world)
    if [rollout.num_valid for rollout in rollouts] != before:
        set_norms(rollouts, section)
        model.zero_grad(set_to_none=True)
        totals = _accumulate(model, rollouts, section, world)
    world.sync_gradients(model)
    tokens = totals.pop("tokens")
    means = {key: totals.pop(key) / max(tokens, 1) for key in ("clip_fraction", "entropy", "tis_mean")}
    return {"loss": totals["pg_loss"] + totals["ce_loss"], **totals, **means}


def _accumulate(
    model: HybridForCausalLM, rollouts: Sequence[Rollout], section: RLSection, world: World
) -> dict[str, float]:
    totals = dict.fromkeys(SUMS, 0.0)
    for micro in world.deal(_all_micro_batches(rollouts, section, world)):
        loss, values = rollout_loss(model, micro, section)
        loss.backward()
        for key, value in values.items():
            totals[key] += value
    return {key: world.sum(value) for key, value in totals.items()}


def _share_valid(rollouts: Sequence[Rollout], section: RLSection, world: World) -> None:
    """Which tokens are finite, as the process that ran each rollout found it."""
    batches = _all_micro_batches(rollouts, section, world)
    found = world.gather([[rollout.valid for rollout in micro] for micro in world.deal(batches)])
    for micro, masks in zip(batches, found, strict=True):
        for rollout, valid in zip(micro, masks, strict=True):
            rollout.valid = valid


def _all_micro_batches(rollouts: Sequence[Rollout], section: RLSection, world: World) -> list[list[Rollout]]:
    """Those of the whole batch, small enough that every process gets a share."""
    share = -(-sum(len(rollout.ids) for rollout in rollouts) // world.data_degree)
    return micro_batches(rollouts, min(section.micro_batch_tokens, share))


def rollout_loss(
    model: HybridForCausalLM, rollouts: Sequence[Rollout], section: RLSection
) -> tuple[Tensor, dict[str, float]]:
    """This micro-batch's share of the batch loss, and sums over its tokens for the metrics.

    Marks tokens whose log-probabilities are not finite in `Rollout.valid`.
    """
    hidden, target, lengths = response_hidden(model, rollouts)
    logprobs, spread = head_logprobs(model, hidden, target, section.temperature, with_entropy=True)
    repeat = torch.tensor(lengths, device=logprobs.device)

    def per_token(values: list[float]) -> Tensor:
        return torch.repeat_interleave(logprobs.new_tensor(values), repeat)

    sampled = logprobs.new_tensor([value for r in rollouts for value in r.sampling_logprobs])
    old = logprobs.detach()
    if rollouts[0].old_logprobs is not None:
        old = torch.cat([r.old_logprobs for r in rollouts if r.old_logprobs is not None])
    good = finite(logprobs, old, sampled)
    for rollout, valid in zip(rollouts, good.split(lengths), strict=True):
        rollout.valid = valid.cpu()  # it travels between processes, which have cards of their own
    logprobs, old, sampled = (torch.where(good, stream, 0.0) for stream in (logprobs, old, sampled))
    sequence = torch.repeat_interleave(torch.arange(len(rollouts), device=logprobs.device), repeat)
    tis = tis_weights(old, sampled, section.tis_cap, section.tis_level, sequence)
    advantages = per_token([r.advantage for r in rollouts])
    terms = clipped_policy_loss(logprobs, old, advantages, section.epsilon_low, section.epsilon_high)
    pg_loss = (terms.loss * tis * per_token([r.norm for r in rollouts]) * good).sum()
    ce_loss = -(logprobs * per_token([r.ce_norm for r in rollouts]) * good).sum()
    return pg_loss + ce_loss, {
        "pg_loss": pg_loss.item(),
        "ce_loss": ce_loss.item(),
        "clip_fraction": terms.clipped.sum().item(),
        "entropy": spread[good].sum().item(),
        "tis_mean": tis[good].sum().item(),
        "nonfinite": float((~good).sum().item()),
        "tokens": float(good.sum().item()),
    }


def response_hidden(model: HybridForCausalLM, rollouts: Sequence[Rollout]) -> tuple[Tensor, Tensor, list[int]]:
    """Hidden states [T, D] that predict the response tokens [T] of all rollouts end to end, and each one's share of
    T."""
    layout = Layout.of([len(rollout.ids) for rollout in rollouts], model.device)
    ids = torch.tensor([token for rollout in rollouts for token in rollout.ids], device=model.device)
    is_response = torch.tensor(
        [flag for r in rollouts for flag in [False] * r.prompt_length + [True] * r.response_length],
        device=model.device,
    )
    target = is_response.nonzero().squeeze(-1)
    return model.model(ids, layout)[target - 1], ids[target], [rollout.response_length for rollout in rollouts]


def micro_batches(rollouts: Sequence[Rollout], max_tokens: int) -> list[list[Rollout]]:
    """Rollouts in order, cut where the next one would exceed `max_tokens`; a longer one stands alone."""
    batches: list[list[Rollout]] = []
    room = 0
    for rollout in rollouts:
        if not batches or len(rollout.ids) > room:
            batches.append([])
            room = max_tokens
        batches[-1].append(rollout)
        room -= len(rollout.ids)
    return batches


def rollout_metrics(collected: Collected) -> dict[str, float]:
    """Means over every rollout sampled in the step, the dropped groups included; from the batch when none was."""
    groups = collected.sampled or collected.groups
    traces = [trace for group in groups for trace in group.traces]
    n = max(1, len(traces))
    formed = [one for group in groups for one in group.well_formed if one is not None]
    return {
        "reward": sum(sum(group.rewards) for group in groups) / n,
        "accuracy": sum(sum(group.correct) for group in groups) / n,
        "mean_tokens": sum(trace.num_tokens for trace in traces) / n,
        "truncated": sum(trace.finish_reason == "length" for trace in traces) / n,
        "groups": len(collected.groups),
        "groups_generated": collected.generated,
        "groups_dropped": collected.dropped,
        "groups_from_cache": collected.from_cache,
        **({"format": sum(formed) / len(formed)} if formed else {}),
    }


def _cut_examples(path: Path, start_step: int) -> None:
    """Takes out what an attempt that died wrote at `start_step` and later; a torn last line goes too."""
    kept = []
    for _, text in read_lines(path) if path.exists() else ():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            break
        if line["step"] < start_step:
            kept.append(line)
    write_jsonl(path, kept)


def _keep_examples(path: Path, step: int, collected: Collected) -> None:
    """Appends one group of the step, for people to read."""
    if not collected.sampled:
        return
    group = collected.sampled[0]
    pairs = list(zip(group.traces, group.rewards, strict=True))
    line = {
        "step": step,
        "problem_id": group.problem_id,
        "rollouts": [{"text": trace.text, "reward": reward} for trace, reward in pairs],
    }
    with open(path, "a", encoding="utf-8") as handle:
        handle.write(json.dumps(line, ensure_ascii=False) + "\n")
