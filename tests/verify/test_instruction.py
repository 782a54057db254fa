"""Instruction following: the recorded results of IFBench, both data sets whole, and nothing passed over in silence."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from h1r.records import Problem
from h1r.verify import VerifierPool
from h1r.verify.instructions import grade as instruction

pytest.importorskip("langdetect")
DATA = Path(os.environ.get("H1R_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
needs_data = pytest.mark.skipif(not (DATA / "ifbench").is_dir(), reason="the data sets are not here")
LOWER = ("change_case:english_lowercase", {})
NO_COMMA = ("punctuation:no_comma", {})


@pytest.fixture(scope="module", autouse=True)
def _loaded() -> None:
    instruction.warm()


def problem(*pairs: tuple[str, dict[str, Any]], verifier: str = "instructions") -> Problem:
    metadata = {"instruction_id_list": [name for name, _ in pairs], "kwargs": [given for _, given in pairs]}
    return Problem(id="", question="Say something.", answer="", verifier=verifier, metadata=metadata)


def lines(name: str) -> Iterator[dict[str, Any]]:
    content = (DATA / name).read_bytes()
    for line in (gzip.decompress(content) if name.endswith("gz") else content).decode().splitlines():
        yield json.loads(line)


@needs_data
@pytest.mark.parametrize(("name", "count"), [("ifeval/input_data.jsonl", 541), ("ifbench/IFBench_test.jsonl", 300)])
def test_every_prompt_of_a_data_set_can_be_checked(name: str, count: int) -> None:
    checked = [instruction.follow(row, row["prompt"], "One, two.\n\n* three") for row in lines(name)]
    assert len(checked) == count


@needs_data
@pytest.mark.parametrize("which", ["library", "corrected"])
def test_recorded_results_come_out_again(which: str) -> None:
    prompts = {row["prompt"].strip(): row for row in lines("ifbench/IFBench_test.jsonl")}
    strict, loose = (list(lines(f"ifbench/eval_results_{mode}.jsonl.gz")) for mode in ("strict", "loose"))
    same = total = 0
    for by_strict, by_loose in zip(strict, loose, strict=True):
        row = prompts.get(by_strict["prompt"].strip())
        if row is None:  # one prompt was reworded since
            continue
        results = instruction.follow({**row, "checkers": which}, row["prompt"], by_strict["response"])
        same += sum(
            (item.strict, item.loose) == pair
            for item, pair in zip(
                results,
                zip(by_strict["follow_instruction_list"], by_loose["follow_instruction_list"], strict=True),
                strict=True,
            )
        )
        total += len(results)
    assert total > 330
    assert same / total >= 0.995


def test_all_instructions_must_hold_for_the_reward() -> None:
    verdict = instruction.grade(problem(LOWER, NO_COMMA), "all of this is in lower case, but here is a comma.")
    assert verdict.reward == 0.0
    assert verdict.parts["instructions_strict"] == 0.5
    assert verdict.error == "not followed: punctuation:no_comma"
    assert instruction.grade(problem(LOWER, NO_COMMA), "all of this is in lower case and without it.").reward == 1.0


def test_loose_forgives_a_first_line_and_strict_does_not() -> None:
    text = "Sure, here it is:\nall of this is in lower case and there is nothing else to it"
    verdict = instruction.grade(problem(LOWER), text)
    assert verdict.reward == 0.0
    assert verdict.parts == {"instructions_strict": 0.0, "instructions_loose": 1.0}


@pytest.mark.parametrize(
    ("metadata", "why"),
    [
        ({}, "needs `instruction_id_list`"),
        ({"instruction_id_list": [], "kwargs": []}, "needs `instruction_id_list`"),
        ({"instruction_id_list": ["punctuation:no_comma"], "kwargs": []}, "needs `instruction_id_list`"),
        ({"instruction_id_list": ["no:such"], "kwargs": [{}]}, "unknown instruction 'no:such'"),
        ({"instruction_id_list": [{"a": 1}], "kwargs": [{}]}, "unknown instruction"),
        ({"instruction_id_list": ["count:numbers"], "kwargs": [{}]}, "lacks its argument 'N'"),
        ({"instruction_id_list": ["count:numbers"], "kwargs": [{"M": 3}]}, "cannot be used"),
        ({"instruction_id_list": ["count:numbers"], "kwargs": ["N=3"]}, "are no object"),
    ],
)
def test_a_problem_that_cannot_be_checked_earns_nothing(metadata: dict[str, Any], why: str) -> None:
    owner = Problem(id="", question="", answer="", verifier="instructions", metadata=metadata)
    verdict = instruction.grade(owner, "a fine answer")
    assert verdict.reward == 0.0
    assert why in str(verdict.error)


def test_numbers_may_have_been_through_a_table_with_gaps() -> None:
    asked = problem(
        ("count:numbers", {"N": 2.0, "word": None}),
        ("words:keywords_specific_position", {"keyword": "two", "n": 1.0, "m": 3.0}),
    )
    verdict = instruction.grade(asked, "I have two numbers: 3 and 4.")
    assert (verdict.reward, verdict.error) == (1.0, None)


def test_a_checker_that_raises_is_not_satisfied(monkeypatch: pytest.MonkeyPatch) -> None:
    def raises(self: object, value: str) -> bool:
        raise ZeroDivisionError("of its own making")

    monkeypatch.setattr(instruction.checkers()["punctuation:no_comma"], "check_following", raises)
    verdict = instruction.grade(problem(NO_COMMA), "no comma here")
    assert verdict.reward == 0.0
    assert "ZeroDivisionError: of its own making" in str(verdict.error)


def test_a_checker_that_hangs_costs_its_own_verdict_only() -> None:
    # The package's title checker searches to the end of the line from every "<<".
    slow, other = problem(("detectable_format:title", {})), problem(NO_COMMA)
    with VerifierPool(time_limit_s=2.0) as pool:
        verdicts = pool.verify_many([slow, other], ["<<" * 400_000, "no comma here"])
    assert "time limit" in str(verdicts[0].error)
    assert [verdict.reward for verdict in verdicts] == [0.0, 1.0]


def test_language_is_detected_the_same_way_every_time() -> None:
    ambiguous = problem(("language:response_language", {"language": "de"}))
    found = {instruction.grade(ambiguous, "Alles in Ordnung, no problem, todo bien").reward for _ in range(20)}
    assert len(found) == 1


def test_nothing_is_downloaded() -> None:
    code = (
        "import socket, nltk\n"
        "def refuse(*a, **k): raise SystemExit('a connection was tried')\n"
        "socket.socket.connect = refuse; socket.getaddrinfo = refuse; nltk.data.path[:] = []\n"
        "from h1r.verify.instructions import grade as instruction\n"
        "instruction.warm()\n"
        "checked = instruction.follow({'instruction_id_list': ['words:start_verb', 'ratio:stop_words',"
        " 'format:title_case', 'length_constraints:number_sentences'], 'kwargs': [{}, {'percentage': 90}, {},"
        " {'relation': 'at least', 'num_sentences': 2}]}, '', 'Take The Next Train. Then Rest.')\n"
        "print([item.strict for item in checked])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.strip() == "[True, True, True, True]", done.stderr


def test_tagger_weights_may_hold_plain_data_only() -> None:
    from h1r.verify.instructions.languages import _PlainUnpickler

    evil = pickle.dumps(({}, {}, print))
    with pytest.raises(pickle.UnpicklingError):
        _PlainUnpickler(io.BytesIO(evil)).load()
