"""What `benchmarks/rl_step.py` counts as a step of ours, and that its check against TRL's gradient can fail."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import sequence_logprobs

from h1r.models import load


@pytest.fixture(scope="module")
def bench() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
        return importlib.import_module("rl_step")


@pytest.fixture(scope="module")
def task(bench: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    place = tmp_path_factory.mktemp("rl_step")
    bench.make_checkpoint("tiny", place)
    return bench.Task(str(place), prompts=2, group=3, new_tokens=5, micro=2)


def test_a_step_of_ours_is_of_the_work_that_was_asked_for(bench: Any, task: Any) -> None:
    steps: list[dict[str, Any]] = []

    class Turns:
        sampled = staticmethod(lambda: None)

        def wait(self, **found: Any) -> None:
            steps.append({**found, "seconds": 1.0, "processor_s": 1.0, "rollout_s": 0.5, "update_s": 0.5, "peak_mb": 1})
            if len(steps) == 3:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench.work_as_h1r(task, Turns())
    row = bench.row_of("h1r", steps[1:], task)
    assert (row["repeats"], row["new_tokens"], row["group"]) == (1, 5, 3)
    assert all(step["grad_norm"] > 0 for step in steps[1:])
    with pytest.raises(SystemExit, match="took steps"):
        bench.row_of("h1r", [*steps[1:], {**steps[1], "tokens": 4.0}], task)


def test_the_gradient_on_recorded_rollouts_is_that_of_the_formula(bench: Any, task: Any) -> None:
    draw = torch.Generator().manual_seed(0)
    recorded = [
        {"question": question, "ids": torch.randint(8, 700, (5,), generator=draw).tolist(), "reward": reward}
        for question, rewards in zip(task.questions, [(1.0, 2.0, 6.0), (0.0, 4.0, 5.0)], strict=True)
        for reward in rewards
    ]
    model, loss = load(task.checkpoint), torch.zeros(())
    for number in range(task.prompts):
        group = recorded[3 * number : 3 * number + 3]
        rewards = torch.tensor([one["reward"] for one in group])
        advantages = (rewards - rewards.mean()) / (rewards.std() + 1e-4)  # as TRL has it
        for one, advantage in zip(group, advantages, strict=True):
            loss -= advantage * sum(sequence_logprobs(model, bench.prompt_of(task, number) + one["ids"])[-5:]) / 30
    loss.backward()
    expected = float(torch.nn.utils.clip_grad_norm_(model.parameters(), float("inf")))
    found = bench.gradient_norm(task, recorded)
    bench.check_equal(expected, found)
    changed = [{**one, "reward": 3.0} if number == 1 else one for number, one in enumerate(recorded)]
    with pytest.raises(SystemExit, match="gradient norm"):
        bench.check_equal(expected, bench.gradient_norm(task, changed))
