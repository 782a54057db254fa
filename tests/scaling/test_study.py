import json
from collections import deque
from dataclasses import dataclass

import numpy as np
import pytest

from h1r.common.progress import progress, quiet
from h1r.common.scaling_methods import METHODS
from h1r.config import RolloutSection, ScalingSection
from h1r.data.tokenizer import train_tokenizer
from h1r.errors import UserError
from h1r.records import Problem, Trace, Verdict
from h1r.report.stored import ScalingResult
from h1r.rollout.pipeline import RolloutPipeline
from h1r.scaling.ballot import Method
from h1r.scaling.methods import method_of
from h1r.scaling.study import study
from h1r.scaling.voting import VOTERS
from h1r.verify.workers.pool import VerifierPool

TOKENIZER = train_tokenizer(["what is 3 plus 4 " * 4], 300)
PROBLEMS = [Problem(f"p{i}", f"what is {i} plus 4", str(i + 4), family="sums") for i in range(6)]
SECTION = ScalingSection(problems=6, budgets=[8, 20], warmup=4, keep_top=0.5, window=4, tau=0.9, max_tokens=64)


@pytest.fixture(autouse=True)
def no_bars(progress_is_shown: None):
    quiet()


class SequentialEngine:
    """One trace at a time. `model(number, rng)` gives (answer, confidences) for "what is <number> plus 4"."""

    def __init__(self, model):
        self.model = model
        self.generated = []

    def stream(self, prompts, params):
        self.generated.append(0)
        self.waiting, self.numbers = deque(), []
        for prompt, p in zip(prompts, params, strict=True):
            self.add(prompt, p)
        while self.waiting:
            i, j, p = self.waiting.popleft()
            answer, confidences = self.model(self.numbers[i], np.random.default_rng(p.seed + j))
            text = rf"<think> so </think> \boxed{{{answer}}}"
            reason, n = "stop", len(confidences)
            if p.confidence_threshold is not None:
                for end in range(p.confidence_window, n):
                    if sum(confidences[end - p.confidence_window : end]) / p.confidence_window < p.confidence_threshold:
                        reason, n, text = "confidence", end, ""
                        break
            self.generated[-1] += n
            ids = list(range(7, 7 + n))
            yield Trace(i, j, ids, text, [-1.0] * n, [-1.0] * n, confidences[:n], reason)

    def add(self, prompt, p):
        self.waiting.extend((len(self.numbers), j, p) for j in range(p.n))
        self.numbers.append(int(TOKENIZER.decode(prompt).split("what is ")[1].split()[0]))

    def cancel(self, prompt_index):
        self.waiting = deque(entry for entry in self.waiting if entry[0] != prompt_index)
        return []


def informative(number, rng):
    """Right answers are the minority and the confident ones."""
    right = rng.random() < 0.4
    level = 20.0 if right else 5.0
    answer = number + 4 if right else number + 5
    return answer, [float(level + rng.integers(0, 3)) for _ in range(int(rng.integers(6, 30)))]


@pytest.fixture(scope="module")
def outcome():
    engine = SequentialEngine(informative)
    with VerifierPool() as pool:
        result = study(RolloutPipeline(engine, TOKENIZER, pool.verify_many), PROBLEMS, SECTION, 7, progress, slots=1)
    return engine, result


def test_every_token_of_both_real_runs_is_in_the_result(outcome):
    engine, result = outcome
    majority, *deepconf = engine.generated
    assert result["majority"]["tokens"] == majority
    assert result["deepconf"]["tokens"] == sum(deepconf)


def test_replay_agrees_with_the_real_run_where_the_engine_is_exact(outcome):
    _, result = outcome
    assert result["agreement"] == {"same_verdict": 1.0, "prefixes": 1.0, "token_ratio": 1.0}
    real, replayed = (dict(result["budgets"][-1][key]) for key in ("deepconf", "deepconf_simulated"))
    assert (real.pop("simulated"), replayed.pop("simulated")) == (False, True)
    real.pop("seconds")
    assert real == replayed


def test_only_the_largest_budget_is_real(outcome):
    _, result = outcome
    rows = [(row["budget"], row["majority"]["simulated"], row["deepconf"]["simulated"]) for row in result["budgets"]]
    assert rows == [(8, True, True), (20, False, False)]


def test_confidence_that_knows_better_beats_the_majority(outcome):
    _, result = outcome
    assert result["confidence"]["auroc"] == 1.0
    assert result["deepconf"]["accuracy"] == 1.0 > result["majority"]["accuracy"]
    assert result["paired"]["accuracy_difference"] == 1.0 - result["majority"]["accuracy"]
    assert result["paired"]["better"] == round(6 * result["paired"]["accuracy_difference"])
    assert 0 < result["paired"]["token_saving"] < 1
    assert set(result["voters"]) == set(VOTERS)
    assert result["voters"]["majority"] == result["majority"]["accuracy"] < result["voters"]["min_window"]


def test_other_methods_are_priced_on_the_same_traces(outcome):
    _, result = outcome
    assert set(result["methods"]) == set(METHODS) - {"majority", "deepconf", "bayesian_stopping"}  # which needs shapes
    methods, majority = result["methods"], result["majority"]
    assert methods["best_of_n"]["accuracy"] == 1.0 > majority["accuracy"]  # as confidence knows better here
    assert methods["best_of_n"]["tokens"] == methods["borda"]["tokens"] == majority["tokens"]
    assert methods["short_1"]["tokens"] < methods["short_3"]["tokens"] < majority["tokens"]
    assert methods["adaptive_consistency"]["paired"]["token_saving"] > 0


def test_another_method_takes_the_place_of_deepconf():
    section = SECTION.model_copy(update={"method": "esc", "options": {"window": 4}, "budgets": [20], "tau": None})
    with VerifierPool() as pool:
        result = study(
            RolloutPipeline(SequentialEngine(informative), TOKENIZER, pool.verify_many), PROBLEMS, section, 7
        )
    read = ScalingResult.model_validate(result)
    assert (read.method, read.deepconf.tokens, "saving" in result["budgets"][0]) == (
        "esc", result["budgets"][0]["deepconf_simulated"]["tokens"], False,
    )  # fmt: skip
    assert result["agreement"] == {"same_verdict": 1.0, "prefixes": 1.0, "token_ratio": 1.0}
    assert result["methods"]["deepconf"]["tokens"] > 0
    assert "esc" not in result["methods"]
    assert read.label == "esc"
    assert read.model_copy(update={"method": "<b>short_3</b>"}).label == "b short 3 b"  # it stands in HTML


def test_the_saving_is_what_consensus_saves_and_what_ending_doubtful_traces_adds(outcome):
    _, result = outcome
    for row in result["budgets"]:
        spent = row.get("deepconf_simulated", row["deepconf"])["tokens"]
        assert sum(row["saving"].values()) == pytest.approx(1 - spent / row["majority"]["tokens"])
    assert min(result["budgets"][-1]["saving"].values()) > 0


def test_without_stops_all_that_is_saved_is_consensus():
    engine = SequentialEngine(lambda number, rng: (number + 4, [9.0] * 12))
    with VerifierPool() as pool:
        result = study(RolloutPipeline(engine, TOKENIZER, pool.verify_many), PROBLEMS, SECTION, 7)
    saving = result["budgets"][-1]["saving"]
    assert (saving["confidence"], saving["consensus"]) == (0.0, result["paired"]["token_saving"])


def test_result_is_json_with_readable_examples(outcome):
    _, result = outcome
    json.dumps(result, allow_nan=False)
    assert {"voted", "stopped"} <= {shown["state"] for shown in result["examples"]}
    for shown in result["examples"]:
        assert len(shown["tokens"]) == len(shown["token_ids"]) == len(shown["confidences"])
        assert shown["question"]
        assert shown["threshold"] is not None


def test_the_same_seed_gives_the_same_study_and_another_seed_another():
    def tokens(seed):
        with VerifierPool() as pool:
            pipeline = RolloutPipeline(SequentialEngine(informative), TOKENIZER, pool.verify_many)
            result = study(pipeline, PROBLEMS, SECTION, seed)
        return result["majority"]["tokens"], result["deepconf"]["tokens"]

    assert tokens(1) == tokens(1) != tokens(2)


@pytest.mark.parametrize(("problems", "budgets"), [([], [8]), (PROBLEMS, [])])
def test_nothing_to_study_is_refused(problems, budgets):
    section = SECTION.model_copy(update={"budgets": budgets})
    with pytest.raises(UserError, match="there is no"):
        study(RolloutPipeline(SequentialEngine(informative), TOKENIZER), problems, section, 0)


def test_the_report_reads_the_result(outcome):
    _, result = outcome
    read = ScalingResult.model_validate(result)
    assert (read.budget, read.problems, len(read.budgets)) == (20, 6, 2)
    assert read.token_saving == result["paired"]["token_saving"]
    assert read.deepconf.tokens_by_state["stopped"] > 0


class Refusing(SequentialEngine):
    """Fails at every trace of the second problem."""

    def stream(self, prompts, params):
        for trace in super().stream(prompts, params):
            index, sample = trace.prompt_index, trace.sample_index
            failed = self.numbers[index] == 2
            yield Trace(index, sample, [], "", [], [], [], "error", error="too long") if failed else trace


def test_a_study_ends_with_the_reason_where_the_engine_fails_at_more_than_the_recipe_allows():
    with pytest.raises(UserError, match=r"failed at 20 of 120 traces, twice each.*too long .asked 'what is 2 plus 4'"):
        study(RolloutPipeline(Refusing(informative), TOKENIZER), PROBLEMS, SECTION, 7)


def test_a_problem_that_the_engine_cannot_answer_is_left_out_of_the_study():
    section = RolloutSection(max_failed_share=0.9)
    with VerifierPool() as pool:
        pipeline = RolloutPipeline(Refusing(informative), TOKENIZER, pool.verify_many, section=section)
        result = study(pipeline, PROBLEMS, SECTION, 7)
    assert [one["problem_id"] for one in result["outcomes"]] == ["p0", "p1", "p3", "p4", "p5"]
    assert result["deepconf"]["accuracy"] == 1.0


def test_an_answer_that_could_not_be_scored_is_in_no_accuracy():
    def verify_many(problems, texts):
        pairs = zip(problems, texts, strict=True)
        return [Verdict(0.0, reason="unscored") if p.id == "p0" else Verdict(float(p.answer in t)) for p, t in pairs]

    result = study(RolloutPipeline(SequentialEngine(informative), TOKENIZER, verify_many), PROBLEMS, SECTION, 7)
    assert result["deepconf"]["accuracy"] == 1.0
    assert [one["deepconf"]["correct"] for one in result["outcomes"]] == [None, *[True] * 5]


def test_a_defect_of_a_plugins_method_costs_its_own_row_alone(monkeypatch, capsys):
    @dataclass(frozen=True, slots=True)
    class Broken(Method):
        def first(self):
            raise ZeroDivisionError("of the plugin")

    monkeypatch.setattr(
        "h1r.scaling.study.others", lambda *_: {"broken": Broken(8), "short_1": method_of(SECTION, 8, "short_1")}
    )
    section = SECTION.model_copy(update={"problems": 2, "budgets": [8]})
    quiet(False)
    with VerifierPool() as pool:
        pipeline = RolloutPipeline(SequentialEngine(informative), TOKENIZER, pool.verify_many)
        result = study(pipeline, PROBLEMS[:2], section, 7)
    assert set(result["methods"]) == {"short_1"}
    assert "method broken of a plugin is not in the study: ZeroDivisionError" in capsys.readouterr().err
