"""Floors under the agreement with recorded judgements; `benchmarks/verify.py` lists every disagreement."""

import gzip
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from h1r.records import Problem
from h1r.response.extract import last_boxed
from h1r.verify import VerifierPool

DATA = Path(os.environ.get("H1R_DATA", Path(__file__).parents[3] / "shared" / "data"))


@pytest.fixture(scope="module")
def pool():
    with VerifierPool(workers=1, time_limit_s=10) as pool:
        yield pool


def rows(relative: str) -> list[Any]:
    path = DATA / relative
    if not path.exists():
        pytest.skip(f"no {relative} under H1R_DATA")
    text = (gzip.decompress(path.read_bytes()) if relative.endswith("gz") else path.read_bytes()).decode()
    return [json.loads(line) for line in text.splitlines()] if ".jsonl" in relative else json.loads(text)


def rewards(pool: VerifierPool, cases: list[tuple[Any, str]], verifier: str, **metadata: Any) -> list[float]:
    problems = [Problem(str(n), "", str(gold), verifier, metadata=metadata) for n, (gold, _) in enumerate(cases)]
    return [verdict.reward for verdict in pool.verify_many(problems, [text for _, text in cases])]


def test_labelled_pairs_are_never_fooled_and_seldom_missed(pool):
    pairs = rows("answer_equivalence/pairs.jsonl")
    problems = [
        Problem("p", "", row["reference"], "math_lenient", metadata={"decimals": row["extra"].get("precision")})
        for row in pairs
    ]
    verdicts = pool.verify_many(problems, [row["prediction"] for row in pairs])
    fooled = [row for row, found in zip(pairs, verdicts, strict=True) if found.reward and not row["label"]]
    missed = [row for row, found in zip(pairs, verdicts, strict=True) if row["label"] and not found.reward]
    print(f"{len(pairs)} pairs, fooled by {fooled}, missed {missed}")
    assert not fooled
    assert len(missed) <= 0.03 * sum(row["label"] for row in pairs)


def test_gsm8k_solutions_are_judged_as_recorded(pool):
    cases, labels = [], []
    for row in rows("gsm8k_model_solutions/example_model_solutions.jsonl")[::4]:
        for model in ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification"):
            cases.append((row["ground_truth"].rpartition("A: ")[2].strip(), row[model]["solution"]))
            labels.append(float(row[model]["is_correct"]))
    assert rewards(pool, cases, "math_lenient") == labels


def test_qwen_samples_are_judged_as_recorded_but_for_ten_thousand_and_a_time_of_day(pool):
    cases = [
        ((row["answer"], text), float(score))
        for row in rows("qwen_math_cot_100/math_cot_100.jsonl.gz")
        for text, score in zip(row["code"], row["score"], strict=True)
    ]
    found = rewards(pool, [case for case, _ in cases], "math")
    differ = [case[0] for (case, score), reward in zip(cases, found, strict=True) if reward != score]
    assert sorted(differ) == sorted(["10{,}000"] + [r"\text{4:30 p.m.}"] * 8)


def test_thinking_rollouts_are_judged_as_recorded(pool):
    letters = re.compile(r"\W")
    references = {letters.sub("", row["problem"])[:60]: row["expected_answer"] for row in rows("aime25/test.jsonl")}
    cases, labels = [], []
    for row in rows("areal_rollouts/aime25__openmath-nemotron-1.5b.jsonl.gz"):
        prompt = letters.sub("", row["prompt"])
        gold = [answer for start, answer in references.items() if start in prompt]
        assert len(gold) == 1
        cases.append((gold[0], row["completion"]))
        labels.append(row["reward"])
    assert rewards(pool, cases, "math") == labels


@pytest.mark.parametrize(
    ("path", "key", "unreadable"),
    [
        ("math_train/math.json.gz", "answer", 2),  # two are empty
        ("math_test_full/test.jsonl.gz", "solution", 0),
        ("aime_1983_2023/aime.json.gz", "answer", 0),
        ("comp_math_24_25/test.jsonl", "expected_answer", 0),
        ("olympiadbench/test.jsonl.gz", "final_answer", 0),
        ("rllm_math_test/minerva.json.gz", "answer", 0),
    ],
)
def test_references_score_against_themselves(pool, path, key, unreadable):
    answers = [row[key][0] if isinstance(row[key], list) else row[key] for row in rows(path)]
    if key == "solution":
        answers = [last_boxed(answer) for answer in answers]
    found = rewards(pool, [(answer, rf"\boxed{{{answer}}}") for answer in answers], "math")
    assert found.count(0.0) == unreadable
