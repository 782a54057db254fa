"""The steps of curation: functions from records to records, which tell a drop log what they drop and why.

    step(items, drop_log, ...) -> items

Each is a generator that holds a bounded number of records; chained, they are one pass over a file.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from h1r.common.reading import clean, clean_inside
from h1r.config import ControlsSection, CorpusSection, CurateSection, RLPoolSection
from h1r.data.curate.drop_log import DropLog
from h1r.data.curate.io.generated import derive_seed
from h1r.data.curate.io.items import BATCH_CHARS, Given, Item, chunks
from h1r.data.curate.joins.keys import share_of
from h1r.data.curate.rules.decontaminate import Near, Overlap, Overlaps
from h1r.data.curate.rules.difficulty import PoolDecision, Rollouts, judge_for_rl
from h1r.data.curate.rules.filters import Candidate, Rule, code_rule, excerpt, incomplete_rule, trace_rules
from h1r.data.solvers import can_trace
from h1r.data.solvers import traces as worked_traces
from h1r.records import FinishReason, Message, Problem, Sample, Verdict
from h1r.response.extract import last_boxed
from h1r.verify.controls import Refusal, Tally, examine, from_generator, reference_text
from h1r.verify.controls.validate import family_key

Verify = Callable[[Sequence[Problem], Sequence[str]], list[Verdict]]
CHUNK = 256
"""Records handed to the verifier at a time, or fewer with long traces."""
HELD_OUT = "held_out"
"""The use of problems that were drawn for evaluation."""
CONTROLS, FAMILIES = "negative controls", "families of negative controls"
CONFLICTS = "conflicting answers"
SOUND = (("normalise", "problem"), ("reference answers", "problem"), (CONTROLS, "problem"))
DISTINCT = (
    (FAMILIES, "problem"),
    ("decontamination", "problem"),
    (CONFLICTS, "problem"),
    ("exact duplicates", "problem"),
)
NEAR = (("near duplicates", "problem"),)
RL = (("RL pass rate", "problem"),)
SIFTED = (
    ("complete", "trace"), ("empty", "trace"), ("unboxed", "trace"), ("code", "trace"), ("incorrect", "trace"),
    ("over-long", "trace"), ("repetition", "trace"), ("repeated traces", "trace"), ("traces", "problem"),
)  # fmt: skip
WEIGHED = (("difficulty", "trace"), ("over-long in tokens", "trace"))
"""The steps of each pass, for its drop_log."""
CUT_OFF = frozenset({"length", "unclosed"})
"""Finish reasons of traces that did not come to an end."""


def normalise(items: Iterable[Item], drop_log: DropLog) -> Iterator[Item]:
    """Unicode in composed form, no control or zero-width characters, no blanks around. Empty questions go.

    Questions, answers and the turns of traces are cleaned alike, so that RL asks what SFT taught. What we generated
    stays as it is: its layout can be its content.
    """
    for item in items:
        drop_log.take("normalise")
        if from_generator(item.problem):
            yield item
            continue
        problem = dataclasses.replace(
            item.problem, question=clean(item.problem.question), answer=clean(item.problem.answer)
        )
        if problem.question:
            for trace in item.traces:
                trace.messages = [_cleaned(message) for message in trace.messages]
            yield dataclasses.replace(item, problem=problem)
        else:
            drop_log.drop("normalise", item, "empty question", item.problem.answer)


def _cleaned(message: Message) -> Message:
    """A tool's result keeps the blanks around it."""
    content = (clean_inside if message.role == "tool" else clean)(message.content)
    return Message(message.role, content, None if message.thinking is None else clean(message.thinking))


def stands_for(item: Item, sampled: frozenset[str]) -> bool:
    """Whether a problem needs no examination: it is generated, and a sample of its family, in `sampled`, passed."""
    return from_generator(item.problem) and family_key(item.problem) in sampled


def references(
    items: Iterable[Item], drop_log: DropLog, verify: Verify, sampled: frozenset[str] = frozenset()
) -> Iterator[Item]:
    """Drops problems whose reference does not score 1.0 under their own verifier; those without one pass unchecked."""
    step = "reference answers"
    for chunk in _chunks(items):
        checked = [item for item in chunk if not stands_for(item, sampled) and reference_text(item.problem)]
        verdicts = verify([item.problem for item in checked], [reference_text(item.problem) for item in checked])
        wrong = {item.ordinal: one for item, one in zip(checked, verdicts, strict=True) if one.reward < 1}
        for item in chunk:
            drop_log.take(step)
            if (verdict := wrong.get(item.ordinal)) is None:
                yield item
            else:
                why = f"{verdict.error}: " if verdict.error else ""
                drop_log.drop(step, item, "reference answer does not verify", why + item.problem.answer)


def controlled(
    items: Iterable[Item],
    drop_log: DropLog,
    verify: Verify,
    section: ControlsSection,
    tally: Tally,
    sampled: frozenset[str] = frozenset(),
) -> Iterator[Item]:
    """Drops problems that pay an answer which solves nothing, and adds what their families paid to `tally`."""
    for chunk in _chunks(items):
        drop_log.take(CONTROLS, len(chunk))
        if not section.enabled:
            yield from chunk
            continue
        examined = [item for item in chunk if not stands_for(item, sampled)]
        found = examine([item.problem for item in examined], verify, section, families=False)
        tally.add(found.tally)
        refusals = {item.ordinal: why for item, why in zip(examined, found.refusals, strict=True)}
        for item in chunk:
            if (why := refusals.get(item.ordinal)) is None:
                yield item
            else:
                drop_log.drop(CONTROLS, item, why.reason, why.detail)


def of_accepted_families(items: Iterable[Item], drop_log: DropLog, refused: dict[str, Refusal]) -> Iterator[Item]:
    """Drops the problems of families that are refused as a whole, which only the counts of all shards tell.

    Held-out problems among them are counted apart: what a model is evaluated on has become smaller.
    """
    for item in items:
        drop_log.take(FAMILIES)
        why = refused.get(family_key(item.problem)) if item.problem.verifier else None
        if why is None:
            yield item
        else:
            reason = f"held out, and {why.reason}" if item.use == HELD_OUT else why.reason
            drop_log.drop(FAMILIES, item, reason, f"{why.detail}: {item.problem.question}")


def without(items: Iterable[Item], drop_log: DropLog, step: str, twins: dict[int, tuple[Any, ...]]) -> Iterator[Item]:
    """Drops what a join over all records found: ordinal -> (id of the twin, reason)."""
    for item in items:
        drop_log.take(step)
        if (found := twins.get(item.ordinal)) is None:
            yield item
        else:
            drop_log.drop(step, item, found[1], f"as {found[0]}: {item.problem.question}")


def merged(
    items: Iterable[Item], drop_log: DropLog, twins: dict[int, tuple[Any, ...]], take: Callable[[Item, int], bool]
) -> Iterator[Item]:
    """Drops exact copies, whose traces go by `take(copy, ordinal of the one that stays)` to that one."""
    step = "exact duplicates"
    for item in items:
        drop_log.take(step)
        if (found := twins.get(item.ordinal)) is None:
            yield item
        else:
            twin, reason, first = found
            reason = f"{reason}, traces merged" if take(item, first) else reason
            drop_log.drop(step, item, reason, f"as {twin}: {item.problem.question}")


def decontaminated(
    items: Iterable[Item],
    drop_log: DropLog,
    by_source: dict[str, Overlaps],
    near: Callable[[Item, Near, Problem], None],
) -> Iterator[Item]:
    """Drops what overlaps a benchmark (`decontaminate.py`); counts go to the `Overlaps` of its source and use. What is
    near a held-out problem and stays is told to `near`."""
    step = "decontamination"
    for item in items:
        drop_log.take(step)
        overlap, twin = by_source[f"{item.source}|{item.use}"].check(item.problem) or (None, item.problem)
        if isinstance(overlap, Overlap):
            details = {"held_out": twin.id, "coverage": round(overlap.coverage, 4), "run": excerpt(overlap.run)}
            drop_log.drop(
                step, item, f"{overlap.evidence} overlap with held-out", item.problem.question, details=details
            )
            continue
        if overlap is not None:
            near(item, overlap, twin)
        yield item


def assigned(items: Iterable[Item], section: CorpusSection) -> Iterator[Item]:
    """SFT or RL for the problems of `split` sources: disjoint, and the same whatever else is in the corpus.

    Held-out problems end here.
    """
    for item in items:
        if item.use == HELD_OUT:
            continue
        if item.use == "split":
            for_rl = share_of("use", str(section.seed), item.problem.id) < section.rl_share
            item.use = "rl" if for_rl else "sft"
        yield item


def has_worked_solution(item: Item) -> bool:
    """Whether there is a solution that can be taught: the source's, or one by a solver of ours. Code that passes its
    tests, without a word, is none."""
    return can_trace(item.problem) and "tests" not in item.problem.metadata


def with_solutions(items: Iterable[Item], count: int = 1, seed: int = 0) -> Iterator[Item]:
    """Worked solutions as traces, `count` at most, for SFT problems that have no other.

    They depend on the problem and `seed` alone, not on what else is in the corpus.
    """
    for item in items:
        if not item.traces and item.use == "sft" and has_worked_solution(item):
            rng = random.Random(derive_seed(seed, "traces", item.problem.id))
            found = worked_traces(item.problem, count, rng)
            item.traces = [Given([Message("user", item.problem.question), turn]) for turn in found]
        yield item


def states_the_reference(item: Item, trace: Given) -> bool:
    """Whether a trace of a generated problem boxes its reference, character for character. The reference is examined
    with those of its family (`references`), so such a trace is right and needs no scorer."""
    return from_generator(item.problem) and last_boxed(trace.answer.content) == item.problem.answer


def verified(items: Iterable[Item], verify: Verify, trusted: frozenset[str]) -> Iterator[Item]:
    """Gives every trace of a verifiable problem its reward; those of `trusted` sources keep the recorded one."""
    for chunk in _chunks(items):
        asked = [
            (item, trace)
            for item in chunk
            if item.problem.verifier and (item.problem.answer or "tests" in item.problem.metadata)
            for trace in item.traces
            if not (item.source in trusted and trace.reward is not None) and not states_the_reference(item, trace)
        ]
        verdicts = verify([item.problem for item, _ in asked], [trace.text for _, trace in asked])
        for (_, trace), verdict in zip(asked, verdicts, strict=True):
            trace.reward, trace.extracted, trace.error = verdict.reward, verdict.extracted, verdict.error
            trace.reason = verdict.reason
            trace.tested = "tests_total" in verdict.parts
        for item in chunk:
            for trace in item.traces:
                if trace.reward is None and states_the_reference(item, trace):
                    trace.reward = 1.0
                trace.extracted = trace.extracted or last_boxed(trace.answer.content)
            rewards = [trace.reward for trace in item.traces if trace.reward is not None]
            if len(rewards) > 1:
                item.pass_rate, item.rollouts = sum(reward >= 1 for reward in rewards) / len(rewards), len(rewards)
            yield item


def for_rl(
    items: Iterable[Item], drop_log: DropLog, section: CorpusSection, rule: RLPoolSection, kept: Callable[[Item], None]
) -> Iterator[Item]:
    """Hands the problems of the RL pool to `kept` and yields the others."""
    step = "RL pass rate"
    for item in items:
        if item.use != "rl":
            yield item
            continue
        drop_log.take(step)
        decision = rl_decision(item, section, rule)
        if decision is None or decision.keep:
            kept(item if decision is None else dataclasses.replace(item, problem=decision.problem))
        else:
            drop_log.drop(step, item, decision.reason, item.problem.question)


def rl_decision(item: Item, section: CorpusSection, rule: RLPoolSection) -> PoolDecision | None:
    """What the pass-rate rule says of a problem; None without a pass rate, which the SFT model will measure.

    Of more verified traces than `rl_pool.rollouts` the first count. A published rate stands for as many rollouts as the
    source says: that many of them are drawn, or all are taken (`corpus.published`).
    """
    judged = [trace for trace in item.traces if trace.reward is not None][: rule.rollouts]
    if len(judged) > 1:  # a single one is a worked solution, no rollout
        verdicts = [Verdict(float(trace.reward or 0), error=trace.error, reason=trace.reason) for trace in judged]
        reasons: list[FinishReason] = ["length" if trace.finish_reason in CUT_OFF else "stop" for trace in judged]
        return judge_for_rl(item.problem, Rollouts(verdicts, [trace.extracted for trace in judged], reasons), rule)
    if item.pass_rate is None:
        return None
    published = item.rollouts or rule.rollouts
    solved = round(item.pass_rate * published)
    drawn = published
    if section.published == "draw" and published > rule.rollouts:
        rng = random.Random(derive_seed(section.seed, "published", item.problem.id))
        drawn = rule.rollouts
        solved = sum(number < solved for number in rng.sample(range(published), drawn))
    rewards = [1.0] * solved + [0.0] * (drawn - solved)
    finish: list[FinishReason] = ["stop"] * drawn
    decision = judge_for_rl(item.problem, Rollouts([Verdict(r) for r in rewards], [None] * drawn, finish), rule)
    if not solved:
        decision = dataclasses.replace(decision, reason="never solved, answers not published")
    difficulty = {**decision.problem.difficulty, "published_pass_rate": item.pass_rate}
    return dataclasses.replace(decision, problem=dataclasses.replace(decision.problem, difficulty=difficulty))


def sifted(items: Iterable[Item], drop_log: DropLog, curate: CurateSection, keep_wrong: bool) -> Iterator[Item]:
    """Drops traces by the rules of section 2, then repeated ones, and problems that are left without any.

    `keep_wrong`: wrong traces of a problem that none solves stay.
    """
    rules = _rules(curate)
    for item in items:
        drop_log.take("traces")
        if not item.traces:
            drop_log.drop("traces", item, "no trace", item.problem.question)
            continue
        unsolved = keep_wrong and not any((trace.reward or 0) >= 1 for trace in item.traces)
        kept: list[Given] = []
        seen: set[tuple[str, str]] = set()
        for number, trace in enumerate(item.traces):
            candidate = _candidate(item, trace, number, curate.loss)
            for name, rule in rules:
                drop_log.take(name)
                reason = None if name == "incorrect" and unsolved else rule(candidate)
                if reason:
                    drop_log.drop(name, item, reason, trace.error or trace.text, candidate.id)
                    break
            else:
                drop_log.take("repeated traces")
                key = (" ".join((trace.answer.thinking or "").split()), " ".join(trace.answer.content.split()))
                if key in seen:
                    drop_log.drop("repeated traces", item, "same trace", trace.answer.content, candidate.id)
                else:
                    seen.add(key)
                    kept.append(trace)
        if kept:
            yield dataclasses.replace(item, traces=kept)
        else:
            drop_log.drop("traces", item, "no trace is left", item.problem.question)


def _rules(curate: CurateSection) -> list[tuple[str, Rule]]:
    """The rules in order. Length in tokens (`corpus.max_tokens`) is a matter of a later pass."""
    rules = {
        "complete": incomplete_rule,
        "code": code_rule,
        **dict(trace_rules(curate.max_chars, curate.thinking == "required")),
    }
    return [(name, rules[name]) for name, _ in sifted_steps(curate) if name in rules]


def sifted_steps(curate: CurateSection) -> list[tuple[str, str]]:
    """`SIFTED` without the cap on characters where there is none."""
    return [step for step in SIFTED if curate.max_chars or step[0] != "over-long"]


def _candidate(item: Item, trace: Given, number: int, loss: str) -> Candidate:
    """A trace in the shape that the rules know. One that nobody could judge counts as right."""
    reward = 1.0 if trace.reward is None else trace.reward
    parts = {"tests_total": 1.0} if trace.tested else {}
    verdict = Verdict(reward, parts, extracted=trace.extracted, error=trace.error, reason=trace.reason)
    return Candidate(item.problem, sample_of(item, trace, number, loss), verdict)


def sample_of(item: Item, trace: Given, number: int, loss: str = "last") -> Sample:
    """A trace as a training conversation, without weight yet. loss: `curate.loss`."""
    metadata: dict[str, Any] = {"trace": number, "source": item.source, "domain": item.domain}
    if trace.finish_reason:
        metadata["finish_reason"] = trace.finish_reason
    if "tools" in item.problem.metadata:
        metadata["tools"] = item.problem.metadata["tools"]
    if loss == "all":
        metadata["loss_turns"] = [int(message.role == "assistant") for message in trace.messages]
    elif loss == "weights" and trace.turn_weights is not None:
        metadata["loss_turns"] = trace.turn_weights
    return Sample(item.problem.id, trace.messages, item.problem.family, item.problem.category, metadata=metadata)


def _chunks(items: Iterable[Item]) -> Iterator[list[Item]]:
    return chunks(items, CHUNK, BATCH_CHARS, lambda item: sum(trace.num_chars for trace in item.traces))
