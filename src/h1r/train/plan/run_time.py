"""The time of a whole run, from the plan of its step (`plan.py`): steps times what trains and samples in one.

    SFT  epochs of the recipe times the steps of one, which the documents say, or else so many tokens in rows without a
         gap; every step at full rows
    RL   `rl.steps`, each of which trains on rollouts of mean length and samples in rounds, one after another; a round
         lasts until its longest rollout has ended, and longer where an engine has more of them than fit together

A step of decoding reads the weights once and what each sequence keeps: its time is that at a share of the bandwidth of
the card's memory. The first round draws the batch, those after it what taught nothing; `rl.backfill.overdraw` draws
more at once.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from h1r.common.html import duration
from h1r.common.prose import counted, figures
from h1r.config import Recipe
from h1r.models.registry import family_of
from h1r.train.documents import Documents, PackedDocuments
from h1r.train.mixture import Joined
from h1r.train.plan.costs import flops_terms
from h1r.train.plan.plan import UTILISATION, Plan, planned_config
from h1r.train.sft import Batches
from h1r.train.start import compute_dtype_of
from h1r.train.validation import kept_out

MEAN_SHARE = 20_000 / 49_152
"""Mean length of a rollout over the longest: where RL settles in the paper (arXiv 2601.02346, section 3, Table 2)."""
DECODING = 0.6
"""Share of the memory's bandwidth that decoding reads at. Our choice: the published tokens a second of the 7B in vLLM
on an H100 are 0.5 of it with 2 sequences a card, 0.8 with 16 and 0.5 with 32."""
USEFUL = 0.7
"""Share of groups that teach something. Our choice."""
SAMPLE_TOKENS = 10**9
"""Of data, where nobody says how many there are."""


@dataclass(frozen=True)
class RunTime:
    """steps: of the run. tokens: of the data of SFT, once over; None in RL. known: whether somebody said how many, or
    they are `SAMPLE_TOKENS`. training, sampling: seconds a step; sampling is 0 in SFT, and None where nothing is known
    of it. ahead: whether both go on at once."""

    steps: int
    tokens: int | None
    known: bool
    training: float
    sampling: float | None
    ahead: bool
    assumes: list[str]

    @property
    def step(self) -> float:
        """Seconds of a step, of what is known of it."""
        sampling = self.sampling or 0.0
        return max(self.training, sampling) if self.ahead else self.training + sampling

    def as_json(self) -> dict[str, Any]:
        """What is printed; seconds, tokens and steps are those of `SAMPLE_TOKENS` where they are not known."""
        return {**dataclasses.asdict(self), "seconds_per_step": self.step, "seconds": self.steps * self.step}

    def told(self) -> list[str]:
        """As lines of text."""
        whole, steps = duration(self.steps * self.step), counted(self.steps, "step")
        if self.tokens is None:
            parts = f"{duration(self.training)} of training"
            if self.sampling is not None:
                how = "at once" if self.ahead else "one after the other"
                parts += f" and {duration(self.sampling)} of sampling, {how}"
            line = f"a run: {steps}, {whole} ({duration(self.step)} a step: {parts})"
        elif self.known:
            line = f"a run: {steps}, {whole}"
        else:
            line = f"a run: {whole} for each 10^9 tokens of data ({steps}); how many there are, --tokens says"
        return [line, f"It assumes {'; '.join(self.assumes)}."]


def documents_at_hand(recipe: Recipe, run: Path | None) -> Documents | None:
    """What SFT of the recipe trains on where that is packed and here; run: the directory of one. Raises as
    `PackedDocuments` does."""
    section = recipe.sft
    data = [part.data for part in section.mixture] or ([section.data] if section.data else [])
    places = [Path(one) for one in data] or ([run / "curate"] if run else [])
    if not places or not all((place / "packed").is_dir() for place in places):
        return None
    found = [PackedDocuments(place / "packed", section.seq_len, number) for number, place in enumerate(places)]
    return Joined(found) if section.mixture else found[0]


def run_time(recipe: Recipe, made: Plan, documents: Documents | None = None, tokens: float | None = None) -> RunTime:
    """Of the run that `made` plans a step of. documents: those of SFT, where they are at hand; tokens: of its data,
    where somebody says how many."""
    return _of_rl(recipe, made) if made.stage == "rl" else _of_sft(recipe, made, documents, tokens)


def _of_sft(recipe: Recipe, made: Plan, documents: Documents | None, tokens: float | None) -> RunTime:
    section = recipe.sft
    epochs = f"{figures(section.epochs)} passes over"
    if documents is not None and tokens is None:
        trained, _ = kept_out(documents, section.validation.documents, recipe.seed)
        number = sum(document.length for document in trained)
        steps = Batches(trained, section, recipe.seed).total_steps
        what = (
            f"{epochs} {counted(len(trained), 'document')} of {counted(number, 'token')}, packed as the run packs them"
        )
    else:
        number = round(tokens or SAMPLE_TOKENS)
        steps = max(1, round(section.epochs * math.ceil(number / made.tokens)))
        what = f"{epochs} {counted(number, 'token')} in rows without a gap"
    left_out = "no time for validation, checkpoints and what fails"
    known = tokens is not None or documents is not None
    return RunTime(steps, number, known, made.seconds[made.bound_by], 0.0, False, [what, left_out])


def _of_rl(recipe: Recipe, made: Plan) -> RunTime:
    rl, cluster = recipe.rl, recipe.cluster
    mean = round(MEAN_SHARE * rl.max_tokens)
    a, b = flops_terms(planned_config(recipe))
    shorter = (a * mean + b * mean**2) / (a * rl.max_tokens + b * rl.max_tokens**2)
    training = max(made.seconds["computing"] * shorter, made.seconds["exchanging"] * mean / rl.max_tokens)
    ahead = cluster.backend == "ray" and rl.lookahead > 0
    assumes = [f"rollouts of {counted(mean, 'token')} on average"]
    if recipe.engine.kind == "server":
        assumes.append("no time for sampling, which is on servers that are not planned")
        sampling = None
    else:
        sampling, rounds = _sampling(recipe, made, mean)
        whole = rl.max_tokens if not rl.partial_tokens else min(rl.partial_tokens, rl.max_tokens)
        useful = f"of whose groups {100 * USEFUL:.0f} % teach something"
        assumes.append(
            f"{figures(rounds, 2)} rounds a step, {useful}, each with a rollout of {counted(whole, 'token')}"
            if rounds > 1.05
            else f"one round a step, {useful}, with a rollout of {counted(whole, 'token')}"
        )
        assumes.append(f"decoding at {DECODING:g} of the memory's {made.cards.card.memory:,.0f} GB/s")
    assumes.append("no time for prompts, verdicts, weights on their way, checkpoints and what fails")
    return RunTime(rl.steps, None, True, training, sampling, ahead, assumes)


def _sampling(recipe: Recipe, made: Plan, mean: int) -> tuple[float, float]:
    """Seconds of a step in which engines sample, and the rounds that it has on average."""
    rl, back = recipe.rl, recipe.rl.backfill
    engines = recipe.cluster.engines if recipe.cluster.backend == "ray" else made.cards.count
    groups, rounds = float(rl.batch_size), 1.0
    if back.mode == "backfill":
        # Of n groups those that teach are binomial: a round that draws a share more than is asked for falls short when
        # they are as many deviations below their mean. What the second draws is what is asked for: half of the time
        # a third must follow.
        deviation = math.sqrt((1 - USEFUL) / rl.batch_size)
        short = math.erfc(back.overdraw / deviation / math.sqrt(2)) / 2
        groups *= min((1 + back.overdraw) / USEFUL, back.max_rounds) if back.overdraw else 1
        rounds += short if back.overdraw else 1 + short
        rounds = min(rounds, back.max_rounds)
    longest = min(rl.max_tokens, rl.partial_tokens or rl.max_tokens)
    drawn = math.ceil(groups / engines) * rl.num_generations
    together = min(made.sequences, drawn)
    first = (longest + (drawn / together - 1) * min(mean, longest)) * _decoding(recipe, made, together, mean)
    again = longest * _decoding(recipe, made, min(made.sequences, rl.num_generations), mean)
    return first + (rounds - 1) * again, rounds


def _decoding(recipe: Recipe, made: Plan, sequences: int, mean: int) -> float:
    """Seconds in which a card decodes a token of each of so many sequences, which are half done."""
    config, card = planned_config(recipe), made.cards.card
    dtype = compute_dtype_of(recipe.rl) or torch.float32
    each = family_of(config).model_class.cache_type.bytes_per_slot(config, mean // 2, dtype)
    reading = (dtype.itemsize * made.parameters + sequences * each) / (DECODING * 1e9 * card.memory)
    return max(reading, 2 * made.parameters * sequences / (UTILISATION * 1e12 * card.tflops))
