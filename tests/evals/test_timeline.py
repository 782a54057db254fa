"""The time of RL's steps: as trace events, and in the report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from h1r.common.files import write_json
from h1r.errors import UserError
from h1r.report import collect
from h1r.report.timeline import step_time_html, trace_events, write_timeline

STEPS = [
    {"step": 1, "time": 1003.0, "sync_seconds": 0.5, "rollout_seconds": 2.0, "train_seconds": 0.5, "mean_tokens": 10,
     "groups_generated": 6},
    {"step": 2, "time": 1007.5, "sync_seconds": 0.5, "rollout_seconds": 3.0, "train_seconds": 0.5, "mean_tokens": 10,
     "groups_generated": 4},
]  # fmt: skip


def run_of(path: Path, steps: list[dict[str, float]]) -> Path:
    write_json(path / "recipe.json", {"name": "a", "rl": {"num_generations": 8}})
    if steps:
        (path / "rl").mkdir()
        (path / "rl" / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in steps))
    return path


def test_parts_follow_one_another_and_gaps_between_steps_stay() -> None:
    events = trace_events(STEPS)
    assert [(one["name"], one["ts"] / 1e6, one["dur"] / 1e6) for one in events] == [
        ("step 1", 0.0, 3.0),
        ("weights to the engine", 0.0, 0.5), ("rollouts and verdicts", 0.5, 2.0), ("update", 2.5, 0.5),
        ("step 2", 3.5, 4.0),  # half a second went to something else, as to a checkpoint
        ("weights to the engine", 3.5, 0.5), ("rollouts and verdicts", 4.0, 3.0), ("update", 7.0, 0.5),
    ]  # fmt: skip
    assert {one["ph"] for one in events} == {"X"}


def test_runs_of_earlier_versions_have_fewer_parts() -> None:
    (step, rollouts, update) = trace_events([{"step": 1, "time": 9.0, "rollout_seconds": 2.0, "train_seconds": 1.0}])
    assert (step["dur"], rollouts["ts"], update["ts"]) == (3e6, 0.0, 2e6)


def test_the_report_says_what_a_step_spends_its_time_on(tmp_path: Path) -> None:
    page = step_time_html(collect(run_of(tmp_path, STEPS)))
    assert "<td>rollouts and verdicts</td>" in page
    assert "71.4%" in page, "5 of 7 seconds"
    assert "160 tokens a second" in page, "10 tokens x 10 groups x 8 rollouts in 5 seconds"


def test_a_timeline_is_written_of_rl_alone(tmp_path: Path) -> None:
    run = collect(run_of(tmp_path / "a", STEPS))
    write_timeline(run, tmp_path / "timeline.json")
    assert len(json.loads((tmp_path / "timeline.json").read_text())["traceEvents"]) == 8
    without = collect(run_of(tmp_path / "b", []))
    assert step_time_html(without) == ""
    with pytest.raises(UserError, match="no step of RL"):
        write_timeline(without, tmp_path / "timeline.json")
    with pytest.raises(UserError, match="cannot write"):
        write_timeline(run, tmp_path / "timeline.json" / "under-a-file.json")
