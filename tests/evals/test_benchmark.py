import json
import random

import pytest

from h1r.common.progress import quiet
from h1r.config import EvalSection, RolloutSection
from h1r.data.tokenizer import train_tokenizer
from h1r.engine.protocol import SamplingParams
from h1r.engine.requests import refusal
from h1r.errors import UserError
from h1r.evals import benchmark
from h1r.evals.benchmark import evaluate
from h1r.evals.kept import unfinished
from h1r.records import Problem, Trace
from h1r.report.stored import EvalResult as ReportedEval
from h1r.rollout.pipeline import RolloutPipeline
from h1r.verify.workers.pool import VerifierPool

TOKENIZER = train_tokenizer(["what is 3 plus 4 " * 4], 300)
PROBLEMS = [Problem(f"p{i}", f"what is {i} plus 4", str(i + 4), family="small" if i < 3 else "large") for i in range(6)]
SECTION = EvalSection(samples=4, temperature=1.0, top_p=1.0, max_tokens=32)


@pytest.fixture(autouse=True)
def no_bars(progress_is_shown: None):
    quiet()


class ScriptedEngine:
    """Answers every request at once, last prompt first; `say(number, seed)` gives (text, finish reason)."""

    def __init__(self, say):
        self.say = say
        self.params = None

    def stream(self, prompts, params):
        self.params = self.params or list(params)
        for i in reversed(range(len(prompts))):
            number = int(TOKENIZER.decode(prompts[i]).split("what is ")[1].split()[0])
            for j in range(params[i].n):
                text, reason = self.say(number, params[i].seed + j)
                ids = TOKENIZER.encode(text, add_special_tokens=False)
                n = len(ids)
                yield Trace(i, j, ids, text, [-1.0] * n, [-1.0] * n, [9.0] * n, reason, error="broke")


def boxed(answer):
    return rf"<think> so </think> \boxed{{{answer}}}"


def run(say, problems=PROBLEMS, seed=0, section=SECTION):
    engine = ScriptedEngine(say)
    with VerifierPool() as pool:
        return evaluate(RolloutPipeline(engine, TOKENIZER, pool.verify_many), problems, section, seed), engine


def right_when_small(number, seed):
    return boxed(number + 4 if number < 3 else number), "stop"


def test_answers_are_credited_to_their_own_problems():
    result, _ = run(right_when_small)
    assert result.pass_at_1 == 0.5
    assert {family: row["pass_at_1"] for family, row in result.per_family.items()} == {"large": 0.0, "small": 1.0}
    assert [(o.problem_id, o.correct) for o in result.outcomes] == [(f"p{i}", 4 if i < 3 else 0) for i in range(6)]
    assert result.pass_at_k == {"1": 0.5, "2": 0.5, "4": 0.5}


def test_failures_that_are_not_the_models_are_shares_of_all_traces():
    def say(number, seed):
        return ("<think> so", "length") if number == 0 else (boxed(number + 4), "stop")

    result, _ = run(say)
    found = result.to_dict()
    assert (found["truncated"], found["no_answer"], found["unscored"]) == (1 / 6, 1 / 6, 0.0)
    assert found["pass_at_1"] == pytest.approx(5 / 6)


def test_a_problems_draws_do_not_depend_on_the_other_problems():
    def coin(number, seed):
        return boxed(number + random.Random(seed).choice([4, 5])), "stop"

    every = {o.problem_id: o.correct for o in run(coin)[0].outcomes}
    alone = {o.problem_id: o.correct for o in run(coin, problems=PROBLEMS[4:])[0].outcomes}
    assert alone == {key: every[key] for key in alone}
    assert every != {o.problem_id: o.correct for o in run(coin, seed=1)[0].outcomes}


def test_the_engine_samples_as_the_recipe_says():
    _, engine = run(right_when_small)
    assert {(p.n, p.temperature, p.top_p, p.max_tokens, p.fit) for p in engine.params} == {(4, 1.0, 1.0, 32, True)}
    assert len({p.seed for p in engine.params}) == len(PROBLEMS)


def test_examples_are_of_the_same_problems_whatever_the_model_answers():
    good, bad = (run(say)[0].examples for say in (right_when_small, lambda n, s: (boxed(n), "stop")))
    assert [e["question"] for e in good] == [e["question"] for e in bad]
    assert {e["family"] for e in good if e["correct"]} == {"small"}
    for shown in good:
        assert "".join(shown["tokens"]) == shown["text"]
        assert len(shown["tokens"]) == len(shown["token_ids"]) == len(shown["confidences"])


def test_a_rare_correct_answer_is_shown_beside_the_first_ones(monkeypatch):
    def say(number, seed):
        return boxed(number + 4 if number == 5 else 0), "stop"

    problems = [Problem(f"p{i}", f"what is {i} plus 4", str(i + 4), family="sums") for i in range(6)]
    several = run(say, problems)[0].examples
    assert [(e["problem_id"], e["correct"]) for e in several] == [(f"p{i}", i == 5) for i in range(6)]
    monkeypatch.setattr(benchmark, "EXAMPLE_TOKENS", 1)  # as answers that are long
    shown = run(say, problems)[0].examples
    assert [(e["problem_id"], e["correct"]) for e in shown] == [*[(f"p{i}", False) for i in range(4)], ("p5", True)]


def test_result_is_json():
    found = run(right_when_small)[0].to_dict()
    json.dumps(found, allow_nan=False)
    assert (found["samples_per_problem"], found["problems"], len(found["interval"])) == (4, 6, 2)


def test_no_problems_is_the_users_mistake():
    with pytest.raises(UserError, match="no held-out problem"):
        run(right_when_small, problems=[])


def test_a_failing_engine_gives_no_score():
    with pytest.raises(UserError, match=r"the engine generated nothing: broke \(asked 'what is "):
        run(lambda number, seed: ("", "error"))


def test_what_has_no_verdict_is_in_no_accuracy():
    def say(number, seed):
        return ("", "error") if number == 0 or (number == 1 and seed % 2) else (boxed(number + 4), "stop")

    with VerifierPool() as pool:
        section = RolloutSection(max_failed_share=0.5)
        pipeline = RolloutPipeline(ScriptedEngine(say), TOKENIZER, pool.verify_many, section=section)
        result = evaluate(pipeline, PROBLEMS, SECTION, 0)
    assert [(o.problem_id, o.correct, o.samples) for o in result.outcomes][:2] == [("p1", 2, 2), ("p2", 4, 4)]
    found = result.to_dict()
    assert (found["pass_at_1"], found["error"], found["unscored"], found["no_answer"]) == (1.0, 6 / 24, 0.0, 0.0)


def test_the_report_reads_the_result():
    result, _ = run(right_when_small)
    read = ReportedEval.model_validate(result.to_dict())
    assert (read.pass_at_1, read.per_family["small"].n, read.truncated) == (0.5, 3, 0.0)
    assert read.examples[0].tokens


class ShortEngine(ScriptedEngine):
    """Has no room for problem 5, and little for problem 4."""

    def stream(self, prompts, params):
        for trace in super().stream(prompts, params):
            if "what is 5" in TOKENIZER.decode(prompts[trace.prompt_index]):
                why = refusal([1] * 90, SamplingParams(max_tokens=32), TOKENIZER, 300, 100)
                trace = Trace(trace.prompt_index, trace.sample_index, [], "", [], [], [], "error", error=why)
            elif "what is 4" in TOKENIZER.decode(prompts[trace.prompt_index]):
                trace.room = 20 + trace.sample_index
            yield trace


def test_a_prompt_that_is_too_long_is_unscored_and_the_others_go_on(tmp_path):
    with VerifierPool() as pool:
        asked = []
        for attempt in range(3):
            engine = ShortEngine(right_when_small)
            pipeline = RolloutPipeline(engine, TOKENIZER, pool.verify_many)
            if attempt == 2:  # a kill before that one could be told
                kept = (tmp_path / "samples.jsonl").read_text(encoding="utf-8").splitlines(True)
                (tmp_path / "samples.jsonl").write_text("".join(kept[:-4]), encoding="utf-8")
            result = evaluate(pipeline, PROBLEMS, SECTION, 0, path=tmp_path / "samples.jsonl")
            assert [outcome.problem_id for outcome in result.outcomes] == [f"p{i}" for i in range(5)]
            assert result.pass_at_1 == pytest.approx(3 / 5)
            assert result.faults.error == result.faults.unanswerable == pytest.approx(1 / 6)
            assert unfinished(result.to_dict()) == 0  # nothing that asking again could mend
            assert result.room == {"max_tokens": 32, "lowered": 1, "least": 20, "none": 1}
            asked.append(len(engine.params or []))
        assert asked == [6, 0, 1]
        with pytest.raises(UserError, match=r"generated nothing: prompt \(90\)"):
            evaluate(pipeline, PROBLEMS[5:], SECTION, 0)
