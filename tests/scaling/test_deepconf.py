"""The online run on a token-by-token engine, against a slow replay written without any code of the package."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lockstep import STRIDE, LockstepEngine, Scripted, cases, deepconf, extract, groups

from h1r.engine.protocol import SamplingParams
from h1r.scaling.confidence import TIE_SLACK
from h1r.scaling.deepconf import majority_baseline, problem_seed, solve_many
from h1r.scaling.replay import ReplayEngine, simulate_many


def online(problems, params, slots=None):
    engine = LockstepEngine(problems, slots)
    solutions = solve_many(
        engine, [[i] for i in range(len(problems))], params,
        seeds=[i * STRIDE for i in range(len(problems))], extract=extract, groups=groups(len(problems)),
    )  # fmt: skip
    return solutions, engine


def recorded(problems, budget):
    engine = LockstepEngine(problems)
    baseline = majority_baseline(
        engine, [[i] for i in range(len(problems))], budget, SamplingParams(),
        seeds=[i * STRIDE for i in range(len(problems))], extract=extract, groups=groups(len(problems)),
    )  # fmt: skip
    return [solution.traces for solution in baseline]


def slow_lowest(confidences, window):
    if len(confidences) < window:
        return sum(confidences) / len(confidences)
    return min(sum(confidences[i : i + window]) / window for i in range(len(confidences) - window + 1))


def slow_lead(first, second):
    """P(p > 1/2) of p ~ Beta(first + 1, second + 1), by adding up its density."""
    p = (np.arange(20_000) + 0.5) / 20_000
    density = p**first * (1 - p) ** second
    return density[p > 0.5].sum() / density.sum()


def slow_run(scripts, params):
    """One problem, every later trace started at once, one token a step. Returns (answer, tokens per trace, reason)."""
    window = params.sampling.confidence_window
    warm, rest = scripts[: params.warmup], scripts[params.warmup : params.budget]
    limit = np.percentile([slow_lowest(t.confidences, window) for t in warm], 100 * (1 - params.keep_top)) - TIE_SLACK
    votes, spare = [], []  # (trace number, answer, weight)

    def count(number, script, always=False):
        lowest = slow_lowest(script.confidences, window)
        if script.answer is not None:
            weight = 1.0 if params.voter == "majority" else lowest
            (votes if lowest >= limit or always else spare).append((number, script.answer, weight))

    def leading(ballots):
        totals = {}
        for _, answer, weight in sorted(ballots):
            totals[answer] = totals.get(answer, 0.0) + weight
        if not totals:
            return None, 0.0
        best = max(totals.values())
        everything = sum(totals.values())
        winner = next(a for a in totals if totals[a] == best)
        if params.consensus == "share":
            return winner, best / everything if everything else 0.0
        runner_up = max([0.0, *(total for a, total in totals.items() if a != winner)])
        return winner, slow_lead(*(total * len(ballots) / everything for total in (best, runner_up)))

    for number, script in enumerate(warm):
        count(number, script, always=params.warmup_votes == "all")
    tokens = {number: len(script.confidences) for number, script in enumerate(warm)}
    reason = "budget"
    if rest and params.tau is not None and leading(votes)[1] >= params.tau:
        reason, rest = "warmup consensus", []
    alive = list(range(len(rest)))
    for step in itertools.count(1):
        if not alive or reason == "consensus":
            break
        for j in alive:
            tokens[params.warmup + j] = step
        for j in list(alive):
            script = rest[j]
            if step == len(script.confidences):
                alive.remove(j)
                count(params.warmup + j, script)
            elif step >= window and sum(script.confidences[step - window : step]) / window < limit:
                alive.remove(j)
            else:
                continue
            if params.tau is not None and leading(votes)[1] >= params.tau:
                reason = "consensus"
                break
    return leading(votes if votes else spare)[0], tokens, reason


@given(cases())
def test_online_run_equals_the_slow_simulation(case):
    [problem], params = case
    [solution], _ = online([problem], params)
    answer, tokens, reason = slow_run(problem, params)
    assert solution.answer == answer
    assert {trace.sample_index: trace.num_tokens for trace in solution.traces} == tokens
    assert solution.stop_reason == reason


@given(cases(problems=3), st.sampled_from([None, 1, 2, 5]))
def test_replaying_complete_traces_equals_the_online_run(case, slots):
    problems, params = case
    found, _ = online(problems, params, slots)
    replayed = simulate_many(
        recorded(problems, params.budget), params, slots=slots, extract=extract, groups=groups(len(problems))
    )
    assert [s.to_dict() for s in replayed] == [s.to_dict() for s in found]
    assert [s.states for s in replayed] == [s.states for s in found]
    assert [[t.num_tokens for t in s.traces] for s in replayed] == [[t.num_tokens for t in s.traces] for s in found]


@given(cases(problems=3), st.sampled_from([None, 2]))
def test_every_generated_token_is_counted_once(case, slots):
    problems, params = case
    solutions, engine = online(problems, params, slots)
    assert sum(solution.tokens_total for solution in solutions) == engine.generated
    assert all(sum(solution.tokens.values()) == solution.tokens_total for solution in solutions)


@given(cases(problems=2))
def test_every_trace_is_a_prefix_of_the_paired_baseline(case):
    problems, params = case
    solutions, _ = online(problems, params, slots=3)
    for solution, whole in zip(solutions, recorded(problems, params.budget), strict=True):
        for trace in solution.traces:
            assert trace.confidences == whole[trace.sample_index].confidences[: trace.num_tokens]


def test_engine_is_told_each_problems_own_threshold_and_seeds():
    low = [Scripted([2.0, 2.0]), Scripted([4.0, 4.0]), Scripted([9.0] * 3), Scripted([9.0] * 3)]
    high = [Scripted([6.0, 6.0]), Scripted([8.0, 8.0]), Scripted([9.0] * 3), Scripted([9.0] * 3)]
    solutions, engine = online([low, high], deepconf(4, keep_top=0.5))
    warm, *later = engine.requests
    later = [request for requests in later for request in requests]
    assert [(p.n, p.seed, p.confidence_threshold) for p in warm] == [(2, 0, None), (2, STRIDE, None)]
    assert [(p.n, p.seed) for p in later] == [(2, 2), (2, STRIDE + 2)]
    assert [p.confidence_threshold for p in later] == pytest.approx([3.0, 7.0], abs=2 * TIE_SLACK)
    assert [solution.threshold for solution in solutions] == [3.0, 7.0]


def test_fixed_budget_launches_every_trace_however_clear_the_vote():
    [solution], _ = online([[Scripted([5.0] * 4)] * 6], deepconf(6, tau=None))
    assert (len(solution.traces), solution.stop_reason, solution.vote.share) == (6, "budget", 1.0)


def test_agreement_in_the_warmup_launches_nothing_more():
    [solution], engine = online([[Scripted([5.0] * 4)] * 6], deepconf(6, tau=0.95))
    assert (solution.stop_reason, solution.tokens_total, len(engine.requests)) == ("warmup consensus", 8, 1)


def test_a_lead_agrees_on_a_plurality_that_never_gets_the_share():
    answers = ["a", "b", "a", "c", "a", "d", "a", "e", "a", "f", "a", "g"]
    problem = [Scripted([6.0] * (2 + i), answer) for i, answer in enumerate(answers)]
    by_share, by_lead = (
        online([problem], deepconf(12, tau=0.9, consensus=consensus))[0][0] for consensus in ("share", "lead")
    )
    assert (by_share.stop_reason, by_share.answer) == ("budget", "a")
    # 4 votes against 1: 57 of 64; 5 against 1: 120 of 128
    assert (by_lead.stop_reason, by_lead.vote.totals["a"], by_lead.answer) == ("consensus", 5 * 6.0, "a")


def test_consensus_of_one_problem_leaves_the_others_running():
    split = [Scripted([5.0] * 2, "a"), Scripted([5.0] * 2, "b")]
    agreeing = [*split, Scripted([6.0] * 2, "a"), Scripted([6.0] * 2, "a"), Scripted([6.0] * 9, "a")]
    divided = [*split, Scripted([6.0] * 2, "a"), Scripted([6.0] * 3, "b"), Scripted([6.0] * 9, "a")]
    first, second = online([agreeing, divided], deepconf(5, tau=0.7))[0]
    assert (first.stop_reason, first.states[-1], first.tokens["cancelled"]) == ("consensus", "cancelled", 2)
    assert (second.stop_reason, second.tokens_total) == ("budget", 18)


def test_a_trace_that_entered_its_slot_late_has_spent_only_the_steps_since():
    lengths = [("a", 2), ("b", 2), ("a", 2), ("a", 3), ("a", 9), ("a", 9)]
    problem = [Scripted([6.0] * n, answer) for answer, n in lengths]
    params = deepconf(6, tau=0.7)
    [solution], _ = online([problem], params, slots=2)
    # Trace 4 enters when trace 2 leaves after step 2; trace 3 decides the vote (3 of 4) at step 3; trace 5 never ran.
    assert [trace.num_tokens for trace in solution.traces] == [2, 2, 2, 3, 1]
    [replayed] = simulate_many(recorded([problem], 6), params, slots=2, extract=extract, groups=groups(1))
    assert replayed.to_dict() == solution.to_dict()


def test_stopped_trace_does_not_vote():
    problem = [Scripted([5.0] * 3, "a"), Scripted([5.0] * 3, "a"), *[Scripted([1.0] * 9, "b")] * 4]
    [solution], _ = online([problem], deepconf(6))
    assert solution.states == ["voted"] * 2 + ["stopped"] * 4
    assert solution.tokens == {**dict.fromkeys(solution.tokens, 0), "voted": 6, "stopped": 8}
    assert solution.vote.totals == {"a": 10.0}


def test_trace_too_short_to_be_stopped_but_below_the_threshold_does_not_vote():
    problem = [Scripted([5.0] * 4, "a"), Scripted([5.0] * 4, "a"), Scripted([1.0], "b")]
    [solution], _ = online([problem], deepconf(3, window=4))
    assert solution.states[2] == "below_threshold"


@pytest.mark.parametrize(("rule", "answer"), [("above_threshold", "a"), ("all", "b")])
def test_warmup_traces_below_the_threshold_vote_only_when_told_to(rule, answer):
    problem = [Scripted([9.0] * 3, "a"), *[Scripted([5.0] * 3, "b")] * 3]
    [solution], _ = online([problem], deepconf(4, warmup=4, keep_top=0.1, warmup_votes=rule))
    assert solution.answer == answer


def test_answered_traces_vote_when_none_of_those_above_the_threshold_has_an_answer():
    problem = [Scripted([9.0] * 3, None), Scripted([5.0] * 3, "a"), Scripted([1.0] * 9, "b")]
    [solution], _ = online([problem], deepconf(3))
    assert (solution.answer, solution.fallback) == ("a", True)
    assert solution.answer_trace is solution.traces[1]


def test_failed_traces_are_counted_and_neither_vote_nor_set_the_threshold():
    problem = [Scripted([1.0] * 2, "b", "error"), Scripted([5.0] * 3, "a"), Scripted([5.0] * 3, "a", "error")]
    [solution], _ = online([problem], deepconf(3))
    assert (solution.threshold, solution.answer, solution.tokens["error"]) == (5.0, "a", 5)
    assert solution.vote.totals == {"a": 5.0}


def test_majority_baseline_gives_every_answered_trace_one_vote():
    problem = [Scripted([9.0] * 3, "a"), Scripted([1.0] * 5, "b"), Scripted([1.0] * 5, "b"), Scripted([2.0], None)]
    [solution] = majority_baseline(
        LockstepEngine([problem]), [[0]], 4, SamplingParams(), seeds=[0], extract=extract, groups=groups(1)
    )
    assert (solution.vote.totals, solution.tokens_total) == ({"a": 1.0, "b": 2.0}, 14)


def test_seeds_of_different_runs_and_problems_do_not_overlap():
    bases = sorted(problem_seed(seed, f"problem-{i}") for seed in range(3) for i in range(200))
    assert min(b - a for a, b in itertools.pairwise(bases)) > 512
    assert problem_seed(3, "x") == problem_seed(3, "x")


def test_replay_refuses_traces_that_cannot_be_replayed():
    [traces] = recorded([[Scripted([5.0] * 3)] * 2], 2)
    with pytest.raises(ValueError, match="fewer than the budget 3"):
        simulate_many([traces], deepconf(3), extract=extract)
    traces[1].finish_reason = "confidence"
    with pytest.raises(ValueError, match="trace 1 was cut short"):
        simulate_many([traces], deepconf(2), extract=extract)


@pytest.mark.parametrize("wrong", [{"warmup": 9}, {"keep_top": 0.0}, {"tau": 1.5}, {"warmup": 0}])
def test_parameters_that_cannot_work_are_refused(wrong):
    with pytest.raises(ValueError, match=r"out of range|more than the budget"):
        deepconf(**{"budget": 8, **wrong})


class BarrierEngine(ReplayEngine):
    """Begins no added prompt before all that came earlier has ended, as two streams would."""

    def add(self, prompt, params):
        index = super().add(prompt, params)
        if self._running:
            self.held = [self._waiting.pop() for _ in range(params.n)] + self.held
        return index

    def stream(self, prompts, params):
        self.held = []
        for trace in super().stream(prompts, params):
            yield trace
            if not self._running:
                self._waiting.extend(reversed(self.held))
                self.held = []


def test_no_problem_waits_for_the_warmup_of_another():
    """Eight problems of sixty-four traces in as many slots, lengths spread as of a reasoning model."""
    random = np.random.default_rng(3)
    problems = [
        [Scripted([5.0] * int(n), "a") for n in np.minimum(random.lognormal(4.0, 0.8, 64), 600) + 1] for _ in range(8)
    ]
    params = deepconf(64, warmup=16, window=16)
    traces, outcomes, busy = recorded(problems, 64), [], []
    for kind in (BarrierEngine, ReplayEngine):
        engine = kind(traces, slots=64)
        solutions = solve_many(
            engine, [[i] for i in range(8)], params, seeds=[0] * 8, extract=extract, groups=groups(8)
        )
        outcomes.append([solution.to_dict() for solution in solutions])
        busy.append(sum(solution.tokens_total for solution in solutions) / (64 * engine.steps))
    assert outcomes[0] == outcomes[1]  # what a problem comes to does not depend on it
    assert busy[1] > 1.1 * busy[0]
