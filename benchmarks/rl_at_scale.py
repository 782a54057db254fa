"""Where the time of an RL step goes with 1,000 engines: the controller of `h1r rl` on a clock of its own.

    python benchmarks/rl_at_scale.py [--engines 1000] [--trainers 256] [--card H100] [--lookahead 0 1 2 4 8] [--json]

What is run is the real thing: the loop (`train/rl.py`), rollouts ahead of it (`ahead.py`), the buffer of groups with
its journal (`rollouts.py`), tickets for engines (`cluster/engines.py`) and weights on their way (`cluster/handles.py`),
with `recipes/h1r-7b-ray.toml`. What is simulated is Ray, time, and what takes it (`simulated_cluster.py`): engines that
decode, a policy that trains, verdicts, files of weights. Threads are two tracks of the clock, the loop's and the
rollouts'; a track that waits for the other goes on when that is there. A token stands for 256, so that lists are short.

    known   batch, group, longest rollout, mean length: the paper's (arXiv 2601.02346, Table 2 and section 3)
            tokens a second: TII's of the published model in vLLM on H100, 512 tokens in and 32K out, a card
    chosen  lengths log-normal, half of their variance between problems; harder problems have longer rollouts
            pass rates as sin^2, so that about 7 of 10 groups teach something
            operations and memory as `--dry-run --gpus` has them; speeds of files and of verdicts, see `Costs`

Left out: what fails, prompts (some hundred tokens a group), weights in flight.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

import h1r.train.ahead
import h1r.train.rl as loop
from h1r.common.progress import quiet
from h1r.config import EngineSection, Recipe, RLSection, find_recipe, load_recipe
from h1r.records import Problem
from h1r.train.cluster.engines import RayEngines
from h1r.train.cluster.handles import Sender
from h1r.train.fleet import Fleet
from h1r.train.plan.cards import NODE, parse_cards
from h1r.train.plan.costs import flops_terms
from h1r.train.plan.plan import UTILISATION, Plan, plan, planned_config
from h1r.train.rollouts import Collected, Group, GroupStream
from simulated_cluster import UNIT, Batch, Clock, Costs, Engine, Ray, Track

MAX_SEQUENCES = EngineSection().max_sequences
BATCHES_BEFORE = 8
"""Batches that are not counted: the yield is not known, and nothing is sampled ahead yet."""


class Trainers:
    """A policy that takes its time, of which a step's is that of the plan for the tokens that it has."""

    positions, eos_token_ids = 1 << 18, (11,)

    def __init__(self, clock: Clock, costs: Costs) -> None:
        self._clock, self._costs = clock, costs

    def restore(self, step: int) -> dict[str, Any]:
        return {}

    def step(self, groups: Sequence[Group], step: int) -> dict[str, float]:
        a, b = self._costs.terms
        lengths = [UNIT * trace.num_tokens for group in groups for trace in group.traces]
        self._clock.wait(self._costs.update * sum(a * n + b * n * n for n in lengths) / self._costs.full)
        return {"skipped": 0.0, "grad_norm": 1.0}

    def send_weights(self, place: Path) -> dict[str, int]:
        self._clock.wait(self._costs.weights / self._costs.write)
        return {}

    def count_idle(self, why: str | None) -> None: ...

    def save(self, step: int, state: dict[str, Any], arrays: Mapping[str, np.ndarray], last: bool) -> int:
        return step

    def publish(self, steps: int) -> None: ...


class Steps:
    """A tracker: what the loop says of its own time."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.rows: list[dict[str, float]] = []

    def log(self, step: int, values: Mapping[str, float | None]) -> None:
        self.rows.append({**{key: value or 0.0 for key, value in values.items()}, "moment": self._clock.monotonic()})

    def close(self) -> None: ...


def costs_of(recipe: Recipe, engines: int, trainers: int, card: str) -> tuple[Costs, int]:
    """What the plan of the recipe says, and how many sequences of full length an engine has room for."""

    def planned(engines: int) -> Plan:
        cluster = recipe.cluster.model_copy(update={"engines": engines, "trainers": trainers})
        return plan(recipe.model_copy(update={"cluster": cluster}), "rl", parse_cards(f"{engines + trainers}x{card}"))

    made = planned(engines)
    if not made.fits:
        sys.exit(f"h1r rl h1r-7b-ray does not fit these cards: {made.needed / 1e9:.0f} GB")
    a, b = flops_terms(planned_config(recipe))
    n = recipe.rl.max_tokens
    full = recipe.rl.batch_size * recipe.rl.num_generations * (a * n + b * n * n)
    prefill = a / (UTILISATION * 1e12 * made.cards.card.tflops)
    nodes = math.ceil(engines / NODE)
    return Costs(max(made.seconds.values()), (a, b), full, 2.0 * made.parameters, prefill, nodes), planned(1).sequences


def simulate(section: RLSection, costs: Costs, engines: int, together: int) -> dict[str, Any]:
    """Runs RL as `section` says, with lengths in units, and says where the time of its steps went."""
    clock = Clock()
    ray, trainers, tracker = Ray(clock, costs, together, section), Trainers(clock, costs), Steps(clock)
    batches: list[Batch] = []
    collect = GroupStream.collect

    def counted(stream: GroupStream, step: int, made: int | None = None) -> Collected:
        ray.batch = Batch()
        found = collect(stream, step, made)
        batches.append(ray.batch)
        return found

    began = time.process_time()
    with tempfile.TemporaryDirectory(prefix="h1r-scale-") as place, ExitStack() as stack:
        sampled = RayEngines(ray, lambda _: Engine(ray), engines, MAX_SEQUENCES, 600.0)
        sampled.open(Path(place), {})
        update = Sender(trainers, sampled, Path(place) / "weights").update  # type: ignore[arg-type]
        stack.enter_context(patch.object(loop, "time", clock))
        stack.enter_context(patch.object(h1r.train.ahead, "DaemonThreads", lambda *_: Track(clock)))
        stack.enter_context(patch.object(GroupStream, "collect", counted))
        problems = [Problem(str(number), "", "") for number in range(8 * section.batch_size)]
        loop.train_rl(
            trainers, Fleet(sampled, update, apart=True), ray.verify, problems, section, tracker,
            tokenizer=None, directory=Path(place),  # type: ignore[arg-type]
        )  # fmt: skip
    return told(section, tracker.rows, batches, engines, time.process_time() - began)


def told(
    section: RLSection, rows: Sequence[Mapping[str, float]], batches: Sequence[Batch], engines: int, processor: float
) -> dict[str, Any]:
    """Means over the steps and batches that are counted, in seconds of the clock where nothing else is said."""
    first, last = rows[BATCHES_BEFORE - 1], rows[-1]
    steps = len(rows) - BATCHES_BEFORE
    step = (last["moment"] - first["moment"]) / steps
    parts: dict[str, float] = defaultdict(float)
    for row in rows[BATCHES_BEFORE:]:
        for key in ("sync", "train"):
            parts[key] += row[f"{key}_seconds"] / steps
    counted = batches[BATCHES_BEFORE:]
    sampling = {
        key: sum(one.seconds[key] for one in counted) / len(counted) for key in ("rollout", "longest", "verify")
    }
    means = {key: sum(row[key] for row in rows[BATCHES_BEFORE:]) / steps for key in (
        "mean_tokens", "staleness", "truncated", "groups", "groups_generated")}  # fmt: skip
    return {
        "lookahead": section.lookahead,
        "partial_tokens": section.partial_tokens * UNIT,
        "batch_size": section.batch_size,
        "overdraw": section.backfill.overdraw,
        "engines": engines,
        "step_seconds": round(step, 1),
        "loop": {
            # A checkpoint waits for them, too, and is in none of the loop's own three.
            "waits_for_rollouts": round(step - parts["sync"] - parts["train"], 1), "sync": round(parts["sync"], 1),
            "update": round(parts["train"], 1),
        },
        "batch": {key: round(value, 1) for key, value in sampling.items()},
        "rounds": round(sum(one.rounds for one in counted) / len(counted), 2),
        "engines_busy": round(sum(one.busy for one in counted) / len(counted) / (engines * step), 3),
        "tokens_per_second": round(means["groups"] * section.num_generations * means["mean_tokens"] * UNIT / step),
        **{key: round(value * (UNIT if key == "mean_tokens" else 1), 3) for key, value in means.items()},
        "controller_processor_seconds": round(processor / len(rows), 2),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", type=int, default=1000)
    parser.add_argument("--trainers", type=int, default=256)
    parser.add_argument("--card", default="H100")
    parser.add_argument("--lookahead", type=int, nargs="+", default=[0, 1, 2, 4, 8])
    parser.add_argument("--steps", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=0, help="groups of a step; 0: the recipe's")
    parser.add_argument("--partial-tokens", type=int, default=0, help="as rl.partial_tokens")
    parser.add_argument("--overdraw", type=float, default=0.0, help="as rl.backfill.overdraw")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    options = parser.parse_args()
    quiet()
    keys: dict[str, Any] = {"rl.batch_size": options.batch_size} if options.batch_size else {}
    keys["rl.backfill.overdraw"] = options.overdraw
    recipe = load_recipe(find_recipe("h1r-7b-ray"), keys)
    costs, together = costs_of(recipe, options.engines, options.trainers, options.card)
    for lookahead in options.lookahead:
        changes = {
            "lookahead": lookahead, "steps": options.steps, "max_tokens": recipe.rl.max_tokens // UNIT,
            "partial_tokens": options.partial_tokens // UNIT,
        }  # fmt: skip
        found = simulate(recipe.rl.model_copy(update=changes), costs, options.engines, together)
        print(json.dumps(found) if options.json else json.dumps(found, indent=1), flush=True)


if __name__ == "__main__":
    main()
