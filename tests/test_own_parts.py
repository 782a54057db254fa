"""The examples of users' own losses and trackers, through the command line."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest

from h1r.cli import main
from h1r.common.files import read_json
from h1r.run.metrics import read_metrics

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


ONE_WORKER = ("--set", "verify.workers=1", "--set", "corpus.workers=1")
"""Each worker imports the scorers anew, which takes longer than what they do here."""


def h1r(*arguments: str | Path) -> None:
    with pytest.raises(SystemExit) as end:
        raise SystemExit(main([str(one) for one in (*arguments, *ONE_WORKER)]))
    assert not end.value.code


@pytest.fixture(scope="module")
def curated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The curated data of both recipes, which have the same problems."""
    run = tmp_path_factory.mktemp("own") / "run"
    h1r("curate", EXAMPLES / "own_tracker.toml", "--out", run)
    return run / "curate"


def test_a_loss_of_ones_own_trains(curated: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(curated, run / "curate")
    for stage in ("sft", "rl"):
        h1r(stage, EXAMPLES / "own_loss.toml", "--out", run)
    lines = read_metrics(run / "rl" / "metrics.jsonl")
    assert [line["step"] for line in lines] == [0, 1]
    assert all(line["groups"] > 0 and line["grad_norm"] > 0 for line in lines)
    assert all(line["pg_loss"] == line["loss"] != 0 and line["clip_fraction"] == 0 for line in lines)
    assert read_json(run / "recipe.json")["rl"]["algorithm"] == "rloo"


def test_a_tracker_of_ones_own_gets_the_steps_of_training_and_the_results_of_evaluation(
    curated: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(curated, run / "curate")
    recipe = EXAMPLES / "own_tracker.toml"
    h1r("sft", recipe, "--out", run)
    h1r("eval", recipe, "--model", "sft", "--no-scaling", "--out", run)
    with open(run / "trackers" / "csv" / "sft.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    lines = read_metrics(run / "sft" / "metrics.jsonl")
    assert [(int(row["step"]), float(row["loss"])) for row in rows] == [(one["step"], one["loss"]) for one in lines]
    with open(run / "trackers" / "csv" / "eval_sft.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert float(row["pass_at_1"]) == read_json(run / "eval" / "sft.json")["pass_at_1"]
