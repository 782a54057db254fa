"""Puts the model of a finished run into the package: weights in bfloat16, tokenizer, settings, and a model card.

    python tools/ship_model.py RUN      writes src/h1r/models/shipped

`tools/make_shipped.py` does this and all that comes before it; `h1r demo small` goes on with RL.

The card's figures are those of the run's own evaluation, of weights in float32. The shipped ones are asked by
`h1r eval h1r:small --benchmark h1r:everyday.jsonl --prompt "{question}"`.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import torch

from h1r.config import load_recipe
from h1r.data.tokenizer import load_tokenizer
from h1r.models import load, save
from h1r.train.checkpoint import keep_defaults
from h1r.train.parallel.world import ALONE

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = ROOT / "src" / "h1r" / "models" / "shipped"
CARD = """---
license: apache-2.0
library_name: open-h1r
tags: [falcon_h1, hybrid, mamba-2, reasoning]
---

# small: the model that comes with Open-H1R

A hybrid of attention and Mamba-2 (`falcon_h1`) with {parameters:,} parameters, in bfloat16, {megabytes:.1f} MB. It
shows what the system does, and answers at once, without a download: `h1r solve "What is 12 + 30 - 7?"`.

It has learnt the {families} kinds of problem below, one question at a time, and nothing else; the table says how well:
below 50 % it is more often wrong than right. All are asked in everyday words too, and formulas with blanks and without.
It has read no other text: it cannot chat, knows no facts, and answers other questions wrongly and without a sign of
doubt. So it does where a problem goes beyond those of its training: longer numbers and lists, sums of more than four
numbers, products of three, formulas that mix `*` with `+`, lists of numbers of one digit.

## How it was made

The recipe is `recipes/small.toml`, seed {seed}, {problems:,} generated problems of
reasoning-gym with worked traces, {stages}. No other data went in.
In a checkout `python tools/make_shipped.py` (or `make shipped`) makes it again, this card too, in some 35 minutes on
two cores.

## What it scores

{held_out} held-out problems, {samples} samples each at temperature 1, pass@1 with 95 % intervals over problems, of the
weights in float32:

| problems | pass@1 | interval |
|---|---|---|
{rows}

## Beside the model of the demo

{shared}
"""
SHARED = """400 problems that neither recipe draws, of the four families that both learned, as hard as the demo's and
four answers to each: in reasoning-gym's own words, and in everyday ones.
Of pass@1 and of the difference paired by problem, per cent and points with 95 % intervals ({of};
`benchmarks/shared_families.py`):

{table}"""


def main(run: Path) -> None:
    stage = "rl" if (run / "rl" / "model").is_dir() else "sft"
    result = json.loads((run / "eval" / f"{stage}.json").read_text(encoding="utf-8"))
    recipe = json.loads((run / "recipe.json").read_text(encoding="utf-8"))
    target = SHIPPED / "small"
    shutil.rmtree(SHIPPED, ignore_errors=True)
    source = run / stage / "model"
    model = load(source).cast(torch.bfloat16)
    save(model, target, load_tokenizer(source))
    keep_defaults(target, load_recipe(run / "recipe.json"), ALONE)
    (target / "README.md").write_text(card(target, stage, model, result, recipe), encoding="utf-8")
    for path in sorted(SHIPPED.rglob("*")):
        if path.is_file():
            path.chmod(0o644)
            print(f"{path.stat().st_size:>10,}  {path.relative_to(ROOT)}")


def card(target: Path, stage: str, model: torch.nn.Module, result: dict[str, Any], recipe: dict[str, Any]) -> str:
    families = result["per_family"]
    rows = {f"`{name}`": score for name, score in sorted(families.items())}
    rows["**all**"] = {**result, "interval": result["interval"]}
    return CARD.format(
        shared=shared(target),
        stages="supervised fine-tuning" + (", then reinforcement learning" if stage == "rl" else " alone"),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        megabytes=(target / "model.safetensors").stat().st_size / 1e6,
        families=len(families),
        seed=recipe["seed"],
        problems=recipe["problems"]["train"],
        held_out=result["problems"],
        samples=result["samples_per_problem"],
        rows="\n".join(
            f"| {name} | {percent(score['pass_at_1'])} | {interval(score)} |" for name, score in rows.items()
        ),
    )


def shared(target: Path) -> str:
    """The committed table of `benchmarks/shared_families.py`, with whether it is of these weights."""
    given, _, table = (ROOT / "benchmarks" / "shared_families.md").read_text(encoding="utf-8").partition("\n\n")
    measured = given.removeprefix("Weights: ")
    weights = hashlib.sha256((target / "model.safetensors").read_bytes()).hexdigest()
    same = (
        "of these weights" if weights == measured else f"of earlier weights, sha256 {measured[:12]}, and not of these"
    )
    return SHARED.format(of=same, table=table.rstrip())


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def interval(score: dict[str, Any]) -> str:
    return " to ".join(map(percent, score["interval"])) if score.get("interval") else ""


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
