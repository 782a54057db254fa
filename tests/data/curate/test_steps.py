import json
from collections import Counter
from typing import Any

import pytest
from corpora import answer, question

from h1r.config import CorpusSection, CurateSection, RLPoolSection
from h1r.data.curate.drop_log import DropLog, add_up
from h1r.data.curate.io.items import Given, Item
from h1r.data.curate.page import _overlap, _samples
from h1r.data.curate.rules import steps
from h1r.data.curate.rules.decontaminate import HeldOutIndex, Overlaps
from h1r.records import Message, Problem, Verdict

RULE = RLPoolSection(keep_unsolved_share=0.0, keep_overlong_share=0.0)


def item(n: int = 0, **fields: Any) -> Item:
    problem = Problem(f"p{n}", question(n), answer(n), **fields.pop("problem", {}))
    return Item(n, problem, "s", "math", fields.pop("use", "rl"), **fields)


def given(text: str, thinking: str | None = "hm", **fields: Any) -> Given:
    return Given([Message("user", "q"), Message("assistant", text, thinking)], **fields)


def recorded(rewards: list[float], answers: list[str | None], finish: str = "stop") -> Item:
    traces = [
        given("", reward=reward, extracted=one, finish_reason=finish)
        for reward, one in zip(rewards, answers, strict=True)
    ]
    return item(traces=traces)


def reason(one: Item, **corpus: Any) -> str | None:
    decision = steps.rl_decision(one, CorpusSection(**corpus), RULE)
    return None if decision is None else decision.reason


def test_the_rule_looks_at_the_first_eight_recorded_rollouts() -> None:
    assert reason(recorded([1.0] * 8 + [0.0] * 24, [None] * 32)) == "always solved"
    assert reason(recorded([1.0] * 7 + [0.0], [None] * 8)) == "sometimes solved"
    assert reason(recorded([0.0] * 8, ["7"] * 4 + list("abcd"))) == "never solved, answers agree: likely a wrong label"
    assert reason(recorded([0.0] * 8, ["7"] * 3 + list("abcde"))) == "never solved, answers scatter"
    assert reason(recorded([0.0] * 8, ["7"] * 8, finish="unclosed")) == "never solved, all too long"


def test_one_trace_is_a_solution_and_no_measurement() -> None:
    assert reason(recorded([1.0], ["7"])) is None


def test_published_rates_are_drawn_from_as_eight_rollouts() -> None:
    section: dict[str, Any] = {"published": "draw"}
    verdicts = Counter(reason(item(n, pass_rate=127 / 128, rollouts=128), **section) for n in range(400))
    # 8 of 128 miss the one failure with probability 120/128.
    assert 0.9 < verdicts["always solved"] / 400 < 0.97
    assert verdicts["sometimes solved"] == 400 - verdicts["always solved"]
    assert {reason(item(n, pass_rate=127 / 128, rollouts=128), published="rate") for n in range(9)} == {
        "sometimes solved"
    }
    unsolved = reason(item(pass_rate=0.0, rollouts=128), **section)
    assert unsolved == "never solved, answers not published"


def test_problems_are_split_by_their_ids_alone() -> None:
    section = CorpusSection(rl_share=0.3)
    every = list(steps.assigned((item(n, use="split") for n in range(2000)), section))
    some = list(steps.assigned((item(n, use="split") for n in range(500, 600)), section))
    assert [one.use for one in some] == [one.use for one in every[500:600]]
    assert 0.25 < sum(one.use == "rl" for one in every) / 2000 < 0.35


def sift(one: Item, keep_wrong: bool = False) -> tuple[list[Given], dict[str, int]]:
    drop_log = DropLog(*steps.SIFTED)
    kept = [trace for left in steps.sifted([one], drop_log, CurateSection(), keep_wrong) for trace in left.traces]
    table = add_up([drop_log.counts()])
    return kept, {why: count for row in table for why, count in row["reasons"].items()}


def test_code_that_fails_its_tests_is_told_from_a_verifier_that_failed() -> None:
    said = {
        "a": Verdict(0.0, {"tests_passed": 1.0, "tests_total": 2.0}, error="test 2 of 2: wrong answer"),
        "b": Verdict(0.0, {}, error="the sandbox failed", reason="unscored"),
    }
    one = item(use="sft", problem={"verifier": "code", "metadata": {"tests": ["assert f()"]}})
    one.traces = [given(f"```python\n{name} = 1\n```") for name in said]

    def verify(problems: Any, texts: Any) -> list[Verdict]:
        return [next(verdict for name, verdict in said.items() if f"\n{name} = 1" in text) for text in texts]

    kept, reasons = sift(next(steps.verified([one], verify, frozenset())))
    assert not kept
    assert reasons == {"fails its tests": 1, "not scored": 1, "no trace is left": 1}


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("```python\ndef f(x):\n    return x\n```", None),
        ("```python\ndef f(x:\n    return\n```", "code does not parse"),
        ("```cpp\nint main() {}\n```", "code in another language"),
        ("I would rather not.", "no code"),
        ("```python\n" + "(".join(f"f{n}" for n in range(9000)) + "\n```", "code does not parse"),
    ],
)
def test_code_must_parse_and_be_in_the_language_asked_for(code: str, why: str | None) -> None:
    problem = {"verifier": "code", "metadata": {"tests": ["assert f(1) == 1"], "language": "python"}}
    kept, reasons = sift(item(use="sft", problem=problem, traces=[given(code, reward=1.0)]))
    assert bool(kept) == (why is None)
    assert why is None or reasons[why] == 1


def test_wrong_traces_stay_only_where_asked_and_none_is_right() -> None:
    wrong = [given(f"\\boxed{{{n}}}", f"way {n}", reward=0.0) for n in (1, 2)]
    right = given(f"\\boxed{{{answer(0)}}}", reward=1.0)
    assert len(sift(item(use="sft", traces=wrong))[0]) == 0
    assert len(sift(item(use="sft", traces=wrong), keep_wrong=True)[0]) == 2
    assert sift(item(use="sft", traces=[*wrong, right]), keep_wrong=True)[0] == [right]


def test_what_nobody_can_verify_passes_the_verdict_rule() -> None:
    chat = item(use="sft", problem={"verifier": ""}, traces=[given("A tree.")])
    assert len(sift(chat)[0]) == 1


def test_normalising_composes_characters_and_drops_what_is_empty() -> None:
    drop_log = DropLog(*steps.SOUND)
    rows = [item(0), item(1), item(2)]
    rows[0].problem.question = " cafe\u0301\r\n\u200bau lait\u0000 "
    rows[1].problem.question = "\ufeff \u200b"
    kept = list(steps.normalise(rows, drop_log))
    assert [one.problem.question for one in kept] == ["caf\u00e9\nau lait", question(2)]
    assert add_up([drop_log.counts()])[0]["reasons"] == {"empty question": 1}


def test_what_overlaps_in_part_is_written_and_shown_with_the_words_it_shares() -> None:
    words = [f"{chr(97 + n)}word" for n in range(20)]
    held_out = Problem("h0", " ".join(words), "1", family="bench")
    shared = " ".join(words[2:14])
    log, near = DropLog(("decontamination", "problem")), []
    by_source = {"s|rl": Overlaps(HeldOutIndex([held_out]))}
    taken = [item(0), Item(1, Problem("p1", f"Begin {shared} end", "1"), "s", "math", "rl")]
    kept = list(steps.decontaminated(taken, log, by_source, lambda *found: near.append(found)))
    assert ([one.problem.id for one in kept], near) == (["p0"], [])
    ((*_, reason, _, written),) = log._rows
    details = json.loads(written)
    assert (reason, details) == (
        "ngram overlap with held-out", {"held_out": "h0", "coverage": 0.6, "run": shared}
    )  # fmt: skip
    assert _overlap(details) == f": 60% of h0, <q>{shared}</q>"


def test_lengths_are_charted_up_to_the_longest_and_no_bar_hides_a_number() -> None:
    share = {"samples": 1, "tokens": 1, "kept_samples": 1, "kept_tokens": 1, "sample_share": 1, "token_share": 1}
    summary = {
        "mixture": {"math": {**share, "wanted_share": None}}, "weights": dict.fromkeys(("hard", "medium", "easy"), 1),
        "classes": {}, "length_bins": [32, 64, 128, 2048], "lengths": {"math": {"0": 10_527, "1": 28_871}},
    }  # fmt: skip
    chart = _samples(summary)
    chart = chart[chart.index("<svg") :]
    assert chart.count("<rect") == 2
    assert ">32<" in chart
    assert "128" not in chart
    assert chart.rindex("<rect") < chart.index("10,527</text>")
