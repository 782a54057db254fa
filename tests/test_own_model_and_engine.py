"""The examples of a user's own model family and engine run through the command line, by recipes that name them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import warm
from h1r.data.tokenizer import train_tokenizer
from h1r.models import build, save
from h1r.models.registry import preset

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
SMALL = ["problems.train=60", "problems.rl=8", "problems.held_out=4", "sft.epochs=2", "eval.samples=1",
         "eval.max_tokens=16", "verify.workers=1", "corpus.workers=1"]  # fmt: skip


def h1r(*arguments: str | Path) -> str:
    done = warm.run(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_family_of_one_file_trains_saves_and_answers(tmp_path: Path) -> None:
    sets = [part for one in SMALL for part in ("--set", one)]
    for stage in ("curate", "sft", "eval"):
        h1r(stage, EXAMPLES / "own_model.toml", "--out", tmp_path, *sets)
    saved = json.loads((tmp_path / "sft" / "model" / "config.json").read_text())
    assert (saved["model_type"], saved["hidden_size"]) == ("own_gpt", 64)
    losses = [json.loads(line)["loss"] for line in (tmp_path / "sft" / "metrics.jsonl").read_text().splitlines()]
    assert losses[-1] < losses[0]
    assert json.loads((tmp_path / "eval" / "sft.json").read_text())


@pytest.mark.slow
def test_an_engine_of_one_file_gives_the_answers_of_the_native_one(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(["What is 1 + 1?", "What is 2 + 2?"], 300)
    config: Any = preset(
        "smoke", vocab_size=-(-len(tokenizer) // 16) * 16, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    checkpoint = save(build(config, seed=1), tmp_path / "model", tokenizer)
    told = []
    for recipe in ("own_engine.toml", "../recipes/smoke.toml"):
        out = h1r("solve", checkpoint, "What is 1 + 1?", "--recipe", EXAMPLES / recipe, "--json")
        told.append(json.loads(out))
    own, native = told[0][0], told[1][0]
    assert own["tokens"] > 0
    # A mean of log-probabilities, which the two engines compute by different kernels in fp32.
    assert own.pop("threshold") == pytest.approx(native.pop("threshold"), rel=1e-4)
    assert own == native
