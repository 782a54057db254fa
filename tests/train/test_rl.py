"""RL: sampler against trainer, a whole step against a loop, and runs that die and go on."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_training import (
    Killed,
    assert_same_stage,
    checksum_verdicts,
    metrics_of,
    rl_section,
    run_from,
    sequence_logprobs,
    tiny_model,
    train_rl_in,
    training_recipe,
)

from h1r.common.files import read_json, write_json
from h1r.config import EngineSection, Recipe
from h1r.data.chat import IM_START, render
from h1r.data.tokenizer import load_tokenizer
from h1r.engine.native.engine import NativeEngine
from h1r.engine.protocol import SamplingParams
from h1r.errors import UserError
from h1r.models import save
from h1r.models.falcon_h1.hybrid import HybridForCausalLM
from h1r.pipeline import finished, run_stage
from h1r.records import Message, Problem, Trace, Verdict, read_jsonl, write_jsonl
from h1r.run.checkpoints import Checkpoints
from h1r.run.directory import Run
from h1r.run.metrics import read_metrics
from h1r.train.batch import Rollout, micro_batches, set_norms, to_rollouts
from h1r.train.linear_logprobs import head_logprobs
from h1r.train.policy_update import accumulate_gradients, response_hidden, train_on
from h1r.train.rl import rl
from h1r.train.rl_log import rollout_metrics
from h1r.train.rollouts import Collected, Group
from h1r.train.start import starting_model

PROMPTS = [[5, 9, 11], [12, 3, 4, 4, 21, 8], [2, 2], [13, 1, 17, 9, 20]]


def group_of(prompt: list[int], answers: list[list[int]], rewards: list[float], sampled: float = -2.0) -> Group:
    traces = [
        Trace(0, i, ids, "", [sampled] * len(ids), [sampled] * len(ids), [1.0] * len(ids), "stop")
        for i, ids in enumerate(answers)
    ]
    correct = [reward > 0.5 for reward in rewards]
    return Group("p", prompt, traces, rewards, correct, correct, 0)


def sampled_rollouts(model: HybridForCausalLM, temperature: float) -> list[Rollout]:
    engine = NativeEngine(model, None, EngineSection(max_sequences=5, prefill_tokens=12))
    params = SamplingParams(n=4, temperature=temperature, max_tokens=24, seed=3)
    traces = engine.generate(PROMPTS, params)
    return [
        Rollout(
            PROMPTS[t.prompt_index] + t.token_ids,
            len(PROMPTS[t.prompt_index]),
            t.sampling_logprobs,
            advantage=1.0 if t.sample_index % 2 else -1.0,
            positive=bool(t.sample_index % 2),
        )
        for t in traces
    ]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("micro_batch_tokens", [1, 64, 10**6])
def test_sampler_logprob_equals_trainer_logprob(temperature: float, micro_batch_tokens: int) -> None:
    model = tiny_model(seed=5, dtype=torch.float32)
    rollouts = sampled_rollouts(model, temperature)
    assert len({rollout.response_length for rollout in rollouts}) > 3
    for micro in micro_batches(rollouts, micro_batch_tokens):
        hidden, targets, lengths = response_hidden(model, micro)
        trainer = head_logprobs(model, hidden, targets, temperature)[0].tolist()
        assert lengths == [rollout.response_length for rollout in micro]
        sampler = [value for rollout in micro for value in rollout.sampling_logprobs]
        np.testing.assert_allclose(trainer, sampler, atol=2e-5)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("tis_level", ["token", "sequence"])
def test_on_policy_the_importance_weight_is_one(temperature: float, tis_level: str) -> None:
    model = tiny_model(seed=5, dtype=torch.float32)
    rollouts = sampled_rollouts(model, temperature)
    section = rl_section(temperature=temperature, tis_level=tis_level)
    set_norms(rollouts, section)
    values = accumulate_gradients(model, rollouts, section)
    assert values["tis_mean"] == pytest.approx(1.0, abs=1e-4)
    assert values["clip_fraction"] == 0
    assert values["nonfinite"] == 0


@pytest.mark.parametrize("updates", [1, 2])
def test_a_head_in_chunks_gives_the_same_loss_gradient_and_metrics(
    updates: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a large vocabulary has it."""
    found = []
    for size in (1 << 40, 4 * tiny_model().config.vocab_size * 3):
        monkeypatch.setattr("h1r.train.linear_logprobs.LOGITS_BYTES", size)
        model = tiny_model(seed=5)
        section = rl_section(temperature=0.7, updates_per_batch=updates)
        values = train_on(model, torch.optim.SGD(model.parameters(), lr=0.1), GROUPS, section, 0)
        found.append((values, [p.detach().clone() for p in model.parameters()]))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-9)
    for whole, chunked in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(chunked, whole, rtol=1e-9, atol=1e-12)


def test_another_temperature_than_the_samplers_shows_in_the_importance_weight() -> None:
    model = tiny_model(seed=5, dtype=torch.float32)
    rollouts = sampled_rollouts(model, 0.7)
    set_norms(rollouts, rl_section())
    assert abs(accumulate_gradients(model, rollouts, rl_section())["tis_mean"] - 1) > 0.01


GROUPS = [
    group_of([5, 9], [[1, 2, 7], [3, 7], [9, 9, 9, 9, 7], [4]], [1.0, 0.0, 0.0, 1.0]),
    group_of([3, 3, 8], [[6, 7], [2, 2, 2, 7], [11, 7], [1, 15, 3]], [1.0, 0.9, -0.1, -0.1]),
]


def test_two_updates_on_a_batch_equal_the_loop() -> None:
    """Rewards to weights: advantages, one old policy for both updates, clipping and the step itself."""
    section = rl_section(updates_per_batch=2, warmup_steps=4, temperature=0.8, tis_cap=1.5,
                         epsilon_low=0.05, epsilon_high=0.05, micro_batch_tokens=9,
                         optimizer={"learning_rate": 0.4, "grad_clip": 1e9})  # fmt: skip
    model, twin = tiny_model(seed=4), tiny_model(seed=4)
    values = train_on(model, torch.optim.SGD(model.parameters()), GROUPS, section, step=1)

    rate = 0.4 * 2 / 5
    answers = [(group, i, trace) for group in GROUPS for i, trace in enumerate(group.traces)]
    num_tokens = sum(trace.num_tokens for _, _, trace in answers)
    num_positive = sum(trace.num_tokens for group, i, trace in answers if group.correct[i])
    old: list[list[float]] = []
    clipped = 0
    for update in range(2):
        loss = torch.zeros((), dtype=torch.float64)
        for number, (group, i, trace) in enumerate(answers):
            mean = sum(group.rewards) / 4
            deviation = math.sqrt(sum((reward - mean) ** 2 for reward in group.rewards) / 3)
            advantage = (group.rewards[i] - mean) / deviation
            prompt = group.prompt_ids
            logprobs = sequence_logprobs(twin, prompt + trace.token_ids, 0.8)[len(prompt) - 1 :]
            if update == 0:
                old.append([logprob.item() for logprob in logprobs])
            for t, logprob in enumerate(logprobs):
                ratio = torch.exp(logprob - old[number][t])
                tis = min(math.exp(old[number][t] - trace.sampling_logprobs[t]), 1.5)
                if advantage > 0:
                    kept = torch.clamp(ratio, max=1.05)
                    clipped += ratio.item() > 1.05
                else:
                    kept = torch.clamp(ratio, min=0.95)
                    clipped += ratio.item() < 0.95
                loss = loss - tis * kept * advantage / num_tokens
                if group.correct[i]:
                    loss = loss - 0.1 * logprob / num_positive
        twin.zero_grad()
        loss.backward()
        with torch.no_grad():
            for parameter in twin.parameters():
                if parameter.grad is not None:
                    parameter -= rate * parameter.grad
    assert clipped > 0
    assert values["clip_fraction"] == pytest.approx(clipped / (2 * num_tokens))
    assert values["learning_rate"] == pytest.approx(rate)
    start = dict(tiny_model(seed=4).named_parameters())
    moved = max((p - start[name]).abs().max().item() for name, p in twin.named_parameters())
    apart = max((p - q).abs().max().item() for p, q in zip(model.parameters(), twin.parameters(), strict=True))
    assert moved > 1e-2
    assert apart < 1e-6 * moved


def test_rewards_become_advantages_and_empty_traces_leave() -> None:
    group = group_of([1, 2], [[3], [], [4, 5], [6]], [1.0, 0.0, 0.0, 1.0])
    rollouts = to_rollouts(group, rl_section(deviation="population"))
    assert [rollout.ids for rollout in rollouts] == [[1, 2, 3], [1, 2, 4, 5], [1, 2, 6]]
    assert [rollout.advantage for rollout in rollouts] == [1.0, -1.0, 1.0]
    assert [rollout.positive for rollout in rollouts] == [True, False, True]
    of_sample = to_rollouts(group, rl_section())
    assert [rollout.advantage for rollout in of_sample] == pytest.approx([3**0.5 / 2, -(3**0.5) / 2, 3**0.5 / 2])
    plain = to_rollouts(group, rl_section(normalise_std=False))
    assert [rollout.advantage for rollout in plain] == [0.5, -0.5, 0.5]


def test_the_cross_entropy_imitates_no_answer_that_is_ill_formed() -> None:
    group = group_of([1], [[3], [4], [5]], [1.0, 0.9, 1.0])
    group.well_formed = [True, False, None]  # None: nobody looked
    rollouts = to_rollouts(group, rl_section())
    set_norms(rollouts, rl_section(positive_ce=0.1))
    assert [rollout.positive for rollout in rollouts] == [True, False, True]
    assert [rollout.ce_norm for rollout in rollouts] == [0.05, 0.0, 0.05]


def test_a_batch_without_groups_leaves_the_weights_alone() -> None:
    model = tiny_model()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    values = train_on(model, torch.optim.SGD(model.parameters()), [], rl_section(), 0)
    assert values["skipped"] == 0  # this counts gradients that are not finite, and there was none
    assert math.isnan(values["loss"])
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


@given(lengths=st.lists(st.integers(1, 30), max_size=20), max_tokens=st.integers(1, 60))
def test_micro_batches_keep_order_and_fit_or_stand_alone(lengths: list[int], max_tokens: int) -> None:
    rollouts = [Rollout([0] * length, 1, [], 0.0, False) for length in lengths]
    batches = micro_batches(rollouts, max_tokens)
    assert [len(rollout.ids) for batch in batches for rollout in batch] == lengths
    assert all(batches)
    sizes = [sum(len(rollout.ids) for rollout in batch) for batch in batches]
    assert all(size <= max_tokens or len(batch) == 1 for size, batch in zip(sizes, batches, strict=True))
    for size, following in zip(sizes, batches[1:], strict=False):
        assert size + len(following[0].ids) > max_tokens


def test_rollout_metrics_count_dropped_groups_too() -> None:
    dropped = group_of([1], [[1, 2, 3, 4], [5]], [0.0, 0.0])
    dropped.traces[0].finish_reason = "length"
    collected = Collected([GROUPS[0]], generated=2, dropped=1, from_cache=0, sampled=[GROUPS[0], dropped])
    values = rollout_metrics(collected, 0)
    assert values["reward"] == pytest.approx(2 / 6)
    assert values["accuracy"] == pytest.approx(2 / 6)
    assert values["mean_tokens"] == pytest.approx((3 + 2 + 5 + 1 + 4 + 1) / 6)
    assert values["truncated"] == pytest.approx(1 / 6)
    assert (values["groups"], values["groups_generated"], values["groups_dropped"]) == (1, 2, 1)


RL = {
    "steps": 7,
    "warmup_steps": 2,
    "batch_size": 2,
    "num_generations": 3,
    "temperature": 1.0,
    "max_tokens": 12,
    "micro_batch_tokens": 100,
    "checkpoint_every": 3,
    "optimizer": {"learning_rate": 2e-3},
    "backfill": {"max_rounds": 3},
}


def ready_for_rl(curated: Path, path: Path, recipe: Recipe) -> Run:
    """A run whose SFT model is the starting model and whose pool is every candidate."""
    run = run_from(curated, path, recipe)
    save(starting_model(recipe, run), run.stage("sft") / "model")
    shutil.copy(run.path / "curate" / "problems_rl.jsonl", run.stage("rl_pool") / "pool.jsonl")
    return run


def unbroken_as_one_that_died(curated: Path, tmp_path: Path, recipe: Recipe, deaths: Sequence[int] = (3,)) -> Run:
    """A run of RL from beginning to end, to whose bits another comes that died after these steps and was resumed."""
    unbroken, broken = (ready_for_rl(curated, tmp_path / name, recipe) for name in ("unbroken", "broken"))
    expected = train_rl_in(unbroken, recipe)
    for attempt, step in enumerate(deaths):
        with pytest.raises(Killed):
            train_rl_in(broken, recipe, resume=attempt > 0, dies_after=step)
        found = Checkpoints(broken.path / "rl").latest()
        assert (found[0] if found else 0) == step // 3 * 3
    torch.manual_seed(999)
    assert train_rl_in(broken, recipe, resume=True) == expected
    assert_same_stage(broken.path / "rl", unbroken.path / "rl")
    assert _examples(broken) == _examples(unbroken)
    return unbroken


def _examples(run: Run) -> list[dict[str, Any]]:
    lines = (run.path / "rl" / "rollouts.jsonl").read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines if line]


@pytest.mark.parametrize(
    ("deaths", "changes"),
    [
        ((5,), {}),
        ((4, 6), {"updates_per_batch": 2, "tis_level": "sequence", "aggregation": "seq-mean-token-mean"}),
        ((2,), {}),
        ((4,), {"compute_dtype": "bfloat16"}),
        ((5,), {"curriculum": {"choose": "pass_rate", "min_group": 2, "max_group": 5, "retire_after": 1}}),
    ],
    ids=["once", "twice_off_policy", "before_the_first_checkpoint", "in_bfloat16", "by_pass_rates"],
)
def test_a_resumed_rl_run_equals_an_unbroken_one_bit_for_bit(
    curated: Path, tmp_path: Path, deaths: tuple[int, ...], changes: dict[str, Any]
) -> None:
    unbroken = unbroken_as_one_that_died(curated, tmp_path, training_recipe(rl={**RL, **changes}), deaths)
    assert [line["step"] for line in _examples(unbroken)] == list(range(7))
    lines = metrics_of(unbroken.path / "rl")
    assert all(line["groups"] > 0 and line["grad_norm"] > 0 for line in lines)


def test_a_run_that_is_extended_equals_a_longer_one_bit_for_bit(curated: Path, tmp_path: Path) -> None:
    longer = ready_for_rl(curated, tmp_path / "longer", training_recipe(rl=RL))
    expected = train_rl_in(longer, training_recipe(rl=RL))
    extended = ready_for_rl(curated, tmp_path / "extended", training_recipe(rl={**RL, "steps": 4}))
    assert train_rl_in(extended, training_recipe(rl={**RL, "steps": 4}))["steps"] == 4
    assert train_rl_in(extended, training_recipe(rl={**RL, "checkpoint_every": 2}), resume=True) == expected
    assert_same_stage(extended.path / "rl", longer.path / "rl")
    assert _examples(extended) == _examples(longer)
    with pytest.raises(UserError, match=r"rl\.steps = 4, but 7 are done"):
        train_rl_in(extended, training_recipe(rl={**RL, "steps": 4}), resume=True)


def test_a_finished_run_goes_on_with_more_steps_and_its_evaluation_is_no_longer_finished(
    curated: Path, tmp_path: Path
) -> None:
    section = {**RL, "steps": 1, "max_idle_steps": 0}
    run = ready_for_rl(curated, tmp_path / "run", training_recipe(rl=section))
    assert run_stage("rl", training_recipe(rl=section), run)["steps"] == 1
    write_json(run.path / "done" / "eval_rl.json", {"accuracy": 0.5})
    assert run_stage("rl", training_recipe(rl=section), run, resume=True)["steps"] == 1
    assert finished(run, "eval_rl") is not None
    more = training_recipe(rl={**section, "steps": 2, "checkpoint_every": 1})
    assert run_stage("rl", more, Run.open(run.path, more, resume=True), resume=True)["steps"] == 2
    assert finished(run, "eval_rl") is None
    assert [line["step"] for line in metrics_of(run.path / "rl")] == [0, 1]
    attempts = [json.loads(line) for line in (run.path / "attempts.jsonl").read_text().splitlines()]
    assert [line["stage"] for line in attempts] == ["rl", "settings", "rl"]
    assert attempts[1]["changed"] == {"rl.checkpoint_every": [3, 1], "rl.steps": [1, 2]}


@pytest.mark.parametrize("penalty", [0.0, 0.1])
def test_the_format_is_read_only_where_it_costs_reward(curated: Path, tmp_path: Path, penalty: float) -> None:
    recipe = training_recipe(rl={**RL, "steps": 1, "rewards": {"format": penalty}, "max_idle_steps": 0})
    run = ready_for_rl(curated, tmp_path / "run", recipe)
    rl(recipe, run)
    (line,) = read_metrics(run.path / "rl" / "metrics.jsonl")
    assert ("format" in line) == (penalty > 0)
    assert [key for key in line if key.startswith("reward/")] == ["reward/correct", "reward/format"][
        : 1 + (penalty > 0)
    ]


def test_rewards_run_at_most_so_many_tests_of_a_code_problem(curated: Path, tmp_path: Path) -> None:
    recipe = training_recipe(rl={**RL, "steps": 1, "max_tests": 7})
    run = ready_for_rl(curated, tmp_path / "run", recipe)
    pool = run.path / "rl_pool" / "pool.jsonl"
    write_jsonl(pool, [dataclasses.replace(problem, verifier="code") for problem in read_jsonl(pool, Problem)])
    asked: dict[str, Problem] = {}

    def asking(problems: Sequence[Problem], texts: Sequence[str]) -> list[Verdict]:
        asked.update({problem.id: problem for problem in problems})
        return checksum_verdicts(problems, texts)

    train_rl_in(run, recipe, verifier=asking)
    assert {problem.metadata["max_tests"] for problem in asked.values()} == {7}


def test_the_rl_checkpoint_holds_the_surplus_groups(curated: Path, tmp_path: Path) -> None:
    changes = {"steps": 9, "checkpoint_every": 1, "batch_size": 3, "backfill": {"max_rounds": 6}}
    recipe = training_recipe(rl={**RL, **changes})
    run = ready_for_rl(curated, tmp_path / "run", recipe)
    train_rl_in(run, recipe)
    lines = metrics_of(run.path / "rl")
    assert sum(line["groups_from_cache"] for line in lines) > 0
    checkpoints = Checkpoints(run.path / "rl")
    assert checkpoints.step_to_resume(True) == 9
    state = read_json(checkpoints.at(8) / "state.json")
    assert state["step"] == 8
    assert len(state["stream"]["cache"]) == lines[8]["groups_from_cache"]


def test_rl_reads_and_writes_the_weights_it_samples_from(curated: Path, tmp_path: Path) -> None:
    recipe = training_recipe(rl={**RL, "steps": 4})
    run = ready_for_rl(curated, tmp_path / "run", recipe)
    train_rl_in(run, recipe)
    for line in metrics_of(run.path / "rl"):
        if line["groups_from_cache"] == 0:
            assert line["tis_mean"] == pytest.approx(1.0, abs=1e-4)
    tokenizer = load_tokenizer(run.path / "rl" / "model")
    turns = [{"role": "user", "content": "1 + 1?"}]
    asked = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    assert asked == render([Message("user", "1 + 1?")], recipe.chat.system_prompt) + f"{IM_START}assistant\n"


def test_a_torn_example_line_does_not_stop_a_new_start(curated: Path, tmp_path: Path) -> None:
    recipe = training_recipe(rl={**RL, "steps": 2})
    run = ready_for_rl(curated, tmp_path / "run", recipe)
    (run.stage("rl") / "rollouts.jsonl").write_text('{"step": 0, "rollouts": []}\n{"step": 1, "rol', encoding="utf-8")
    train_rl_in(run, recipe)
    assert [line["step"] for line in _examples(run)] == [0, 1]
    assert all(line["rollouts"] for line in _examples(run))
    assert all(line["question"] and line["reference"] for line in _examples(run))
    assert all(one["tokens"] and one["finish_reason"] for line in _examples(run) for one in line["rollouts"])


def test_rl_whose_answers_have_no_room_is_refused_with_the_numbers(curated: Path, tmp_path: Path) -> None:
    recipe = training_recipe(rl={"max_tokens": 1 << 30})
    with pytest.raises(UserError, match=r"rl\.max_tokens = 1073741824 and the shortest prompt's \d+ tokens exceed"):
        train_rl_in(ready_for_rl(curated, tmp_path / "run", recipe), recipe)


def test_problems_too_long_for_the_model_are_left_out_of_rl(
    curated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], progress_is_shown: None
) -> None:
    recipe = training_recipe(rl={"max_tokens": 8, "steps": 1})
    run = ready_for_rl(curated, tmp_path / "run", recipe)
    pool = run.path / "rl_pool" / "pool.jsonl"
    problems = list(read_jsonl(pool, Problem))
    long = Problem("long", "1 + " * 200_000, "1")
    write_jsonl(pool, [long, *problems])
    train_rl_in(run, recipe)
    assert f"1 of {len(problems) + 1} problems are too long" in capsys.readouterr().err


def test_an_empty_pool_is_refused_with_the_file(curated: Path, tmp_path: Path) -> None:
    recipe = training_recipe(rl=RL)
    run = ready_for_rl(curated, tmp_path / "run", recipe)
    (run.path / "rl_pool" / "pool.jsonl").write_text("")
    with pytest.raises(UserError, match=r"rl_pool/pool\.jsonl is empty"):
        rl(recipe, run)


def wrong(problems: Sequence[Problem], texts: Sequence[str]) -> list[Verdict]:
    """Every answer is wrong."""
    return [Verdict(0.0, {"correct": 0.0, "format": 1.0}) for _ in texts]


def test_rl_whose_rewards_are_all_equal_ends_with_an_error_and_no_model(curated: Path, tmp_path: Path) -> None:
    changes = {"steps": 3, "checkpoint_every": 1, "backfill": {"max_rounds": 1}}
    recipe = training_recipe(rl={**RL, **changes})
    run = ready_for_rl(curated, tmp_path / "run", recipe)
    with pytest.raises(UserError, match="none of 3 rl steps changed a weight, the last since no group of rollouts"):
        train_rl_in(run, recipe, verifier=wrong)
    assert not (run.path / "rl" / "model").exists()
    with pytest.raises(UserError, match="none of 3 rl steps changed a weight"):
        train_rl_in(run, recipe, resume=True, verifier=wrong)
    recipe = training_recipe(rl={**RL, **changes, "max_idle_steps": 2})
    with pytest.raises(UserError, match=r"2 rl steps in a row changed no weight.*raise rl\.max_idle_steps"):
        train_rl_in(ready_for_rl(curated, tmp_path / "limited", recipe), recipe, verifier=wrong)
    recipe = training_recipe(rl={**RL, **changes, "max_idle_steps": 0})
    ignored = ready_for_rl(curated, tmp_path / "ignored", recipe)
    train_rl_in(ignored, recipe, verifier=wrong)
    assert (ignored.path / "rl" / "model").exists()
