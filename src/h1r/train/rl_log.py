"""What an RL step leaves for people: the means over its rollouts, and one group of them in full."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from h1r.records import Problem, read_lines, write_jsonl
from h1r.train.ended_early import is_looped
from h1r.train.partial import token_staleness
from h1r.train.rollouts import Collected


def rollout_metrics(collected: Collected, step: int) -> dict[str, float]:
    """Means over every rollout sampled for the step, the dropped groups included; from the batch when none was.

    yield: share of the groups sampled for the step that teach something. staleness: steps that the weights have taken
    between sampling a group of the batch (its first token) and training on it, mean and largest. sampled_tokens: in
    this step. longest: the most of one rollout. Where rollouts may take several steps, token_staleness is the mean over
    tokens, and groups_waiting those that go on. looped: share of rollouts that a loop ended; censored: of all that were
    sampled, those that were stopped for their confidence and are in no other number but the tokens sampled.
    """
    ages = [step - group.born for group in collected.groups]
    groups = collected.sampled or collected.groups
    traces = [trace for group in groups for trace in group.traces]
    n = max(1, len(traces))
    censored, looped = sum(len(group.censored) for group in groups), sum(map(is_looped, traces))
    parts = [named for group in groups for named in group.parts]
    formed = [one for group in groups for one in group.well_formed if one is not None]
    return {
        "reward": sum(sum(group.rewards) for group in groups) / n,
        "accuracy": sum(sum(group.correct) for group in groups) / n,
        "mean_tokens": sum(trace.num_tokens for trace in traces) / n,
        "truncated": sum(trace.finish_reason == "length" for trace in traces) / n,
        **({"looped": looped / n} if looped else {}),
        **({"censored": censored / (len(traces) + censored)} if censored else {}),
        "groups": len(collected.groups),
        "groups_generated": collected.generated,
        "groups_dropped": collected.dropped,
        "groups_from_cache": collected.from_cache,
        **({"yield": 1 - collected.dropped / collected.generated} if collected.generated else {}),
        "staleness": sum(ages) / max(1, len(ages)),
        "max_staleness": max(ages, default=0),
        **({"format": sum(formed) / len(formed)} if formed else {}),
        "sampled_tokens": collected.tokens,
        "longest": collected.longest,
        **_parts_of_rollouts(collected, step),
        **{f"reward/{name}": sum(one[name] for one in parts) / n for name in (parts[0] if parts else {})},
    }


def _parts_of_rollouts(collected: Collected, step: int) -> dict[str, float]:
    counts = [token_staleness(group.segments, step) for group in collected.groups]
    tokens = sum(count for count, _ in counts)
    if not tokens and not collected.waiting:
        return {}
    stale = sum(behind for _, behind in counts) / max(1, tokens)
    return {"groups_waiting": collected.waiting, "token_staleness": stale}


def cut_examples(path: Path, start_step: int) -> None:
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


def keep_example(path: Path, step: int, collected: Collected, problems: Sequence[Problem]) -> None:
    """Appends one group of the step, for people to read, with its question and reference from `problems`."""
    if not collected.sampled:
        return
    group = collected.sampled[0]
    each = list(zip(group.traces, group.rewards, group.parts, strict=True))
    problem = next((one for one in problems if one.id == group.problem_id), None)
    line = {
        "step": step,
        "problem_id": group.problem_id,
        **({"question": problem.question, "reference": problem.answer} if problem else {}),
        "rollouts": [
            {
                "text": trace.text,
                "reward": reward,
                "parts": parts,
                "tokens": trace.num_tokens,
                "finish_reason": trace.finish_reason,
            }
            for trace, reward, parts in each
        ],
    }
    with open(path, "a", encoding="utf-8") as handle:
        handle.write(json.dumps(line, ensure_ascii=False) + "\n")
