"""RL with verifiable rewards (arXiv 2601.02346, section 3): clip-higher, no KL, no entropy bonus, truncated importance
sampling, cross-entropy on positive samples, zero-advantage groups backfilled. Other losses: `algorithms.py`.

    for every step:  groups with signal -> token streams -> policy loss + mu * positive cross-entropy -> AdamW

With `rl.lookahead` the groups of the next steps are sampled meanwhile (`ahead.py`).

The loop knows two halves: a policy that trains (`policy.py`) and a fleet that samples from its weights (`fleet.py`).
Where they run, it does not know: in this process, in several that run the loop in step (`World`), or in actors of a
Ray cluster (`cluster/`). Trainer and sampler run different kernels wherever they are, so the importance weight between
them is applied, and its mean is logged: it belongs within a percent of 1.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from h1r.common.progress import note, progress
from h1r.common.prose import counted
from h1r.config import EnvironmentSection, Recipe, RLSection, RolloutSection
from h1r.engine.protocol import Engine, Prompt
from h1r.errors import UserError
from h1r.models import CausalLM
from h1r.records import Problem, read_jsonl
from h1r.rollout.pipeline import RolloutPipeline, VerifyMany
from h1r.rollout.rewards import Rewards
from h1r.run.checkpoints import Checkpoints
from h1r.run.directory import Run
from h1r.run.trackers.base import NoTracker, Tracker
from h1r.run.trackers.open import open_trackers
from h1r.train.ahead import Ahead
from h1r.train.checkpoint import keep_defaults, restored_arrays
from h1r.train.cluster.handles import open_cluster, open_handles
from h1r.train.cluster.replies import TrainerLostError
from h1r.train.fleet import Fleet, nothing, open_fleet
from h1r.train.journal import Journal
from h1r.train.memory import keep_freed_memory
from h1r.train.mismatch import MismatchLimit
from h1r.train.parallel.gradients import Trained
from h1r.train.parallel.launch import join
from h1r.train.parallel.world import ALONE, World
from h1r.train.policy import LocalPolicy, Policy
from h1r.train.rl_log import cut_examples, keep_example, rollout_metrics
from h1r.train.rollouts import GroupStream
from h1r.train.start import rl_policy, rl_reference, rl_start
from h1r.train.stopping import Stopping
from h1r.verify import open_backend, with_max_tests

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def rl(recipe: Recipe, run: Run, resume: bool = False) -> dict[str, Any]:
    """Trains sft/model, or `rl.checkpoint`, on the RL pool.

    Writes rl/metrics.jsonl, rl/rollouts.jsonl, rl/checkpoints and rl/model.

    Builds the parts of `train_rl` from the recipe and the run directory. resume: go on from the newest checkpoint, to
    the same bits as an unbroken run. Returns steps and the last reward. Several processes draw prompts and train on
    rollouts of their own, and write what one would.
    """
    world = join("rl", recipe, run, resume)
    with run.timed("rl") if world.main else nullcontext(), ExitStack() as stack:
        directory, section = run.stage("rl"), recipe.rl
        with world.agreed():
            on_ray = recipe.cluster.backend == "ray"
            if on_ray and world.everyone is not None:
                raise UserError('cluster.backend = "ray" starts its own trainers; start `h1r rl` without torchrun')
            if section.in_flight and not on_ray:
                raise UserError(
                    "rl.in_flight needs engines that sample while the policy trains; set cluster.backend to ray, or "
                    "leave it out: rl.partial_tokens has rollouts go on with new weights in one process, too"
                )
            cluster = stack.enter_context(open_cluster(recipe)) if on_ray else None
            pool = stack.enter_context(open_backend(recipe.verify, Rewards(section.rewards).needs_format))
            source, tokenizer = rl_start(recipe, run)
            problems = list(read_jsonl(run.need("rl_pool/pool.jsonl", "curate --pool rl"), Problem))
            if not problems:
                raise UserError(f"{run.path}/rl_pool/pool.jsonl is empty: nothing is left to learn; loosen [rl_pool]")
            if cluster is None:
                model, wrapped = rl_policy(recipe, source, tokenizer, world)
                keep_freed_memory(model.device)
                reference = rl_reference(recipe, source, tokenizer, world) if section.kl_coef else None
        died_from: set[int] = set()
        began = time.monotonic()
        while True:
            try:
                with ExitStack() as attempt:
                    tracker: Tracker = NoTracker()
                    with world.agreed():
                        if world.main:
                            tracker = open_trackers(recipe, run, "rl", Checkpoints(directory).step_to_resume(resume))
                    attempt.callback(tracker.close)
                    if cluster is None:
                        policy: Policy = LocalPolicy(model, section, tokenizer, directory, reference, wrapped, world)
                        fleet = attempt.enter_context(open_fleet(recipe, tokenizer, wrapped, world))
                    else:
                        policy, fleet = attempt.enter_context(open_handles(cluster, recipe, run))
                    summary = train_rl(
                        policy,
                        fleet,
                        pool.verify_many,
                        problems,
                        section,
                        tracker,
                        tokenizer=tokenizer,
                        directory=directory,
                        rollout=recipe.rollout,
                        environment=recipe.environment,
                        seed=recipe.seed,
                        max_model_len=recipe.engine.max_model_len,
                        world=world,
                        resume=resume,
                        began=began,
                    )
                break
            except TrainerLostError as error:
                step, resume = Checkpoints(directory).step_to_resume(True), True
                if step in died_from:  # it may be what kills them
                    raise
                died_from.add(step)
                note(f"{error.what}; others go on from step {step}")
        keep_defaults(directory / "model", recipe, world)
        return summary


def train_rl(
    model: CausalLM | Policy,
    engine: Engine | Fleet,
    verifier: VerifyMany,
    problems: Sequence[Problem],
    section: RLSection,
    tracker: Tracker,
    *,
    tokenizer: PreTrainedTokenizerFast,
    directory: Path,
    system_prompt: str | None = None,
    rollout: RolloutSection | None = None,
    environment: EnvironmentSection | None = None,
    seed: int = 0,
    max_model_len: int | None = None,
    reference: Trained | None = None,
    wrapped: Trained | None = None,
    world: World = ALONE,
    resume: bool = False,
    began: float | None = None,
) -> dict[str, Any]:
    """Trains `model` in place, or a policy wherever it is, on `problems` for `section.steps` steps.

    engine: samples from what computes (`wrapped`), so that it sees every update, or a fleet, which is told of each.
    verifier: grades the answers.
    tracker: gets the numbers of every step. tokenizer: writes the prompts, and is saved with the model.
    directory: gets rollouts.jsonl, checkpoints/ and model/. seed: of the order of problems and of sampling.
    rollout: what becomes of traces that the engine fails at. environment: what answers the model; None: one turn.
    max_model_len: longest prompt and rollout together, where the engine takes less than the model's positions.
    reference: the model that the KL term holds `model` to, needed where `section.kl_coef` is not 0; it does not change.
    wrapped: what the passes are called through, where that is not the model itself. A policy has both already.
    resume: go on from the newest checkpoint in `directory`. began: what `time.monotonic` said when the time of
    `section.time_limit_s` began; None: now.

    Returns {"steps", "reward"}: the number of steps, and the mean reward of the last one. Raises `UserError` when no
    prompt leaves room for `section.max_tokens`, or nothing is registered as `section.algorithm`, and
    `StoppedEarlyError` when it was asked to end, and has saved where it is.
    """
    fleet = engine if isinstance(engine, Fleet) else Fleet(engine)
    checkpoints = Checkpoints(directory)
    step = world.told(checkpoints.step_to_resume(resume))
    with world.agreed():
        policy: Policy
        if isinstance(model, CausalLM):
            policy = LocalPolicy(model, section, tokenizer, directory, reference, wrapped, world)
        else:
            policy = model
        problems = [with_max_tests(problem, section.max_tests, seed, section.partial_credit) for problem in problems]
        pipeline = RolloutPipeline(fleet.engine, tokenizer, verifier, system_prompt, rollout, environment)
        prompts: list[Prompt] = [*pipeline.prompts(problems)]
        positions = policy.positions
        problems, prompts = _fitting(problems, prompts, section, min(positions, max_model_len or positions))
        journal = Journal(directory / "journal")
        stream = GroupStream(problems, prompts, pipeline, section, seed, world, journal if section.journal else None)
        state = policy.restore(step)
        if step:
            stream.restore(state["stream"], restored_arrays(checkpoints.at(step)))
            if step > section.steps:
                raise UserError(f"rl.steps = {section.steps}, but {step} are done; raise it, or give another --out")
        if world.main:
            cut_examples(directory / "rollouts.jsonl", step)
            journal.cut(stream.snapshot().drawn if step else None)
    ahead = Ahead(stream, section.lookahead, section.steps, step, fleet.apart and section.lookahead > 0)
    mismatch = MismatchLimit(section.max_mismatch_kl)
    values: dict[str, float] = {"reward": state.get("reward", math.nan)}
    drawn: dict[int, int] = {}  # up to each checkpoint: what one that is not whole yet has passed is still replayed
    with (
        progress("RL", total=section.steps, unit="step") as bar,
        Stopping(section.time_limit_s, world, began) as stopping,
        closing(ahead),
    ):
        bar.start_at(step)
        while step < section.steps:
            start = time.monotonic()
            take = fleet.update(step)
            if not section.lookahead:
                take()
                take = nothing
            synced = time.monotonic()
            ahead.begin(step, take)
            collected, behind = ahead.next()
            sampled = time.monotonic()
            values = policy.step(collected.groups, step)
            values |= rollout_metrics(collected, step) | dict(behind.metrics)
            if step == 0 and values["truncated"] == 1:
                note(
                    f"every rollout of the first step was cut off at rl.max_tokens = {section.max_tokens}: the model "
                    f"ended none with a token of {list(policy.eos_token_ids)}"
                )
            values["sync_seconds"] = round(synced - start, 3)
            values["rollout_seconds"] = round(sampled - synced, 3)
            values["train_seconds"] = round(time.monotonic() - sampled, 3)
            tracker.log(step, values)
            if world.main:
                keep_example(directory / "rollouts.jsonl", step, collected, problems)
            mismatch.add(values.get("mismatch_kl", 0.0))
            step += 1
            policy.count_idle(_why_idle(values))
            stop = stopping.why()
            # The last one too, for a run that is extended.
            if stop or step % section.checkpoint_every == 0 or step == section.steps:
                state = {"step": step, "stream": behind.as_json(), "reward": values["reward"]}
                drawn[step] = behind.drawn
                whole = policy.save(step, state, behind.arrays(), bool(stop) or step == section.steps)
                # What was begun has weights that a resumed run does not have. Neither the time that it takes nor a
                # failure of it costs the step, which is saved. With weights in flight it gets others anyhow.
                if not section.in_flight:
                    ahead.wait()
                if world.main and whole in drawn:
                    journal.cut(drawn[whole])
            bar.advance(1, reward=values["reward"], accuracy=values["accuracy"], tokens=values["mean_tokens"])
            if stop and step < section.steps:
                raise stopping.ended(
                    f"rl ends at step {step} of {section.steps}, since {stop}; --resume goes on from there"
                )
    policy.publish(section.steps)
    return {"steps": section.steps, "reward": values["reward"]}


def _why_idle(values: dict[str, float]) -> str | None:
    """Why a step changed no weight; None if it did."""
    if values["skipped"] == 1:
        return "its gradient was not finite"
    if values["grad_norm"] == 0:
        return "no group of rollouts had rewards that differ" if values["groups"] == 0 else "its gradient was zero"
    return None


def _fitting(
    problems: list[Problem], prompts: list[Prompt], section: RLSection, positions: int
) -> tuple[list[Problem], list[Prompt]]:
    """The problems whose prompt leaves room for `rl.max_tokens`, and their prompts; `UserError` when none does."""
    room = positions - section.max_tokens
    fitting = [i for i, prompt in enumerate(prompts) if len(prompt) <= room]
    if not fitting:
        shortest = min(map(len, prompts))
        raise UserError(
            f"rl.max_tokens = {section.max_tokens} and the shortest prompt's {counted(shortest, 'token')} "
            f"exceed the model's "
            f"{counted(positions, 'position')}; lower rl.max_tokens"
        )
    if len(fitting) < len(prompts):
        note(
            f"{len(prompts) - len(fitting)} of {len(prompts)} problems are too long beside rl.max_tokens, and left out"
        )
    return [problems[i] for i in fitting], [prompts[i] for i in fitting]
