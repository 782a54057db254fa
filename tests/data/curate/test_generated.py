import contextlib
import itertools
import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from h1r.config import GeneratedSource
from h1r.data.curate.io import generated as sources
from h1r.data.curate.io.generated import UNSOUND, GeneratedProblems, plain, sound_families
from h1r.data.solvers import traces
from h1r.errors import UserError
from h1r.records import content_id, read_jsonl, to_json, write_jsonl
from h1r.verify.reasoning_gym.grade import FULL_SCORE, score

DATA = Path(os.environ.get("H1R_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))


def generated(family, count, seed=0, **knobs):
    return list(
        itertools.islice(GeneratedProblems(GeneratedSource(family=family, knobs=knobs), seed).problems(), count)
    )


def scored_or_not(family, answer, entry):
    """What the scorer gives, 0 where it cannot read the answer."""
    with contextlib.suppress(Exception):
        return score(family, answer, entry) or 0.0
    return 0.0


# The whole list of families, so that an upgrade of reasoning-gym that changes one is noticed.
@pytest.mark.parametrize("family", sound_families())
def test_reference_of_a_sound_family_scores_one_after_a_json_round_trip(family, monkeypatch):
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    for problem in generated(family, 3, seed=3):
        entry = json.loads(to_json(problem))["metadata"]["entry"]
        assert score(family, problem.answer, entry) == 1.0
        assert scored_or_not(family, "nonsense", entry) < FULL_SCORE
        assert problem.answer == entry["answer"]
        assert problem.question == entry["question"]


@pytest.mark.parametrize("family", sorted(set(UNSOUND) - {"composite"}))
def test_an_unsound_family_is_refused_and_really_is_unsound(family):
    from reasoning_gym.factory import create_dataset

    with pytest.raises(UserError, match=f"family `{family}` is refused: its scorer"):
        GeneratedProblems(GeneratedSource(family=family), 0)
    dataset = create_dataset(family, seed=1, size=3)
    for entry in (dataset[0], dataset[1]):
        kept = json.loads(json.dumps({**entry, "answer": str(entry["answer"]), "metadata": plain(entry["metadata"])}))
        assert (score(family, kept["answer"], kept) or 0.0) < FULL_SCORE


def test_a_mixture_family_is_refused_with_the_mend():
    with pytest.raises(UserError, match="list those as sources of their own"):
        GeneratedProblems(GeneratedSource(family="composite"), 0)


def test_a_problem_carries_what_its_verifier_and_reader_need():
    (problem,) = generated("chain_sum", 1, max_digits=1)
    assert problem.verifier == "reasoning_gym"
    assert problem.family == "chain_sum"
    assert problem.category == "arithmetic"
    assert problem.id == content_id(problem.question)
    assert problem.difficulty["max_digits"] == 1
    assert problem.difficulty["num_terms"] == [2, 6]
    assert problem.metadata["dataset"] == "chain_sum"
    assert problem.metadata["entry"]["metadata"]["source_dataset"] == "chain_sum"


def test_problems_survive_the_record_file(tmp_path):
    made = generated("time_intervals", 20) + generated("aiw", 20)
    write_jsonl(tmp_path / "p.jsonl", made)
    from h1r.records import Problem

    assert list(read_jsonl(tmp_path / "p.jsonl", Problem)) == made


# list_functions, pool_matrix: the two that draw from the global generators. acre, gsm_symbolic: prepared by the block.
@pytest.mark.parametrize(
    "family", ["chain_sum", "list_functions", "pool_matrix", "acre", "gsm_symbolic", "figlet_font"]
)
def test_a_generated_stream_depends_on_its_seed_alone(family):
    random.seed(1)
    np.random.seed(1)
    first = generated(family, 5, seed=2)
    random.seed(9)
    np.random.seed(9)
    assert generated(family, 5, seed=2) == first
    assert generated(family, 5, seed=3) != first


def test_generation_leaves_the_global_generators_alone():
    random.seed(4)
    np.random.seed(4)
    expected = random.Random(4).random(), np.random.RandomState(4).rand()
    generated("list_functions", 3)
    assert (random.random(), np.random.rand()) == expected


def test_a_stream_goes_on_past_its_first_block_without_repeating_it():
    made = generated("chain_sum", 2 * sources.BLOCK, min_digits=4)
    assert len({problem.id for problem in made}) == 2 * sources.BLOCK


def test_a_stream_is_the_same_in_a_process_with_another_hash_seed():
    code = (
        "import itertools, hashlib; from h1r.config import GeneratedSource\n"
        "from h1r.data.curate.io.generated import GeneratedProblems\n"
        "for f in ('chain_sum', 'leg_counting', 'family_relationships'):\n"
        "    s = GeneratedProblems(GeneratedSource(family=f), 1).problems()\n"
        "    print(hashlib.sha256(repr(list(itertools.islice(s, 20))).encode()).hexdigest())\n"
    )
    outputs = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert outputs[0] == outputs[1]
    assert len(outputs[0].split()) == 3


def test_a_family_that_depends_on_the_hash_seed_asks_for_one(monkeypatch):
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    with pytest.raises(UserError, match="PYTHONHASHSEED=0"):
        GeneratedProblems(GeneratedSource(family="ransom_note"), 0)


def test_relations_whose_reference_is_wrong_are_left_out():
    answers = {
        problem.answer for problem in generated("family_relationships", 300, min_family_size=8, max_family_size=12)
    }
    assert "aunt" in answers
    assert not answers & {"mother-in-law", "father-in-law", "niece", "nephew"}


def test_milliseconds_agree_with_the_exact_difference():
    for problem in generated("time_intervals", 100, task_types=["time_ms"]):
        answers = {message.content for message in traces(problem, 1, random.Random(0))}
        assert answers <= {f"The answer is \\boxed{{{problem.answer}}}."}


def test_knobs_that_leave_only_unreliable_items_are_refused():
    with pytest.raises(UserError, match="only items whose reference answer is unreliable"):
        generated("aiw", 1, task_types=["colleagues"], task_type_weights=[1.0])


def test_enumerated_knobs_are_given_by_name():
    assert all(
        "friends" in problem.question for problem in generated("aiw", 9, task_types=["friends"], task_type_weights=[1])
    )


@pytest.mark.parametrize(
    ("family", "knobs", "message"),
    [
        ("chainsum", {}, "unknown family `chainsum`; did you mean `chain_sum`"),
        ("qqq", {}, "unknown family `qqq`; choose from ab,"),
        ("chain_sum", {"max_term": 3}, "has no knob `max_term`; did you mean `max_terms`"),
        ("chain_sum", {"seed": 3}, "`seed` is no knob"),
        ("chain_sum", {"min_terms": 9}, r"refuses its knobs \{'min_terms': 9\} \(AssertionError: max_terms"),
        ("chain_sum", {"min_terms": "two"}, "refuses its knobs .*TypeError"),
        ("chain_sum", {"min_digits": 1.5, "max_digits": 2.5}, "refuses its knobs"),
        ("aiw", {"task_types": ["enemies"]}, "knobs .* of family `aiw`: 'enemies'"),
        ("word_ladder", {"min_word_length": 1}, "refuses its knobs"),
    ],
)
def test_a_wrong_family_or_knob_is_named(family, knobs, message):
    with pytest.raises(UserError, match=message):
        GeneratedProblems(GeneratedSource(family=family, knobs=knobs), 0)


@pytest.mark.parametrize("family", ["chain_sum", "products"])
def test_numbers_of_a_formula_have_lengths_of_their_own_where_that_is_wanted(family: str) -> None:
    knobs = {"min_terms": 2, "max_terms": 4, "min_digits": 1, "max_digits": 2}
    everyday = GeneratedSource(family=family, knobs=knobs, numbers="everyday")
    found = list(itertools.islice(GeneratedProblems(everyday, 3).problems(), 400))
    assert found == list(itertools.islice(GeneratedProblems(everyday, 3).problems(), 400))
    lengths = {tuple(map(len, re.findall(r"\d+", problem.question))) for problem in found}
    assert lengths == {one for count in (2, 3, 4) for one in itertools.product((1, 2), repeat=count)}
    even = list(itertools.islice(GeneratedProblems(GeneratedSource(family=family, knobs=knobs), 3).problems(), 200))
    assert all(len({len(number) for number in re.findall(r"\d+", problem.question)}) == 1 for problem in even)
    for problem, library in zip(found, even, strict=False):
        formula, of_library = (one.metadata["entry"]["metadata"]["expression"] for one in (problem, library))
        assert problem.question == library.question.replace(of_library, formula)
        assert re.sub(r"\d+", "n", formula) == re.sub(r"\d+", "n", of_library)
        assert problem.answer == str(eval(formula))
        assert score(family, problem.answer, problem.metadata["entry"]) >= FULL_SCORE


def test_whole_numbers_that_are_sorted_have_no_point_where_that_is_wanted() -> None:
    knobs = {"max_decimals": 1}
    library, everyday = (
        list(itertools.islice(GeneratedProblems(source, 3).problems(), 200))
        for source in (
            GeneratedSource(family="number_sorting", knobs=knobs),
            GeneratedSource(family="number_sorting", knobs=knobs, numbers="everyday"),
        )
    )
    assert any(".0" in one.question for one in library)
    for one, other in zip(everyday, library, strict=True):
        assert not re.search(r"\.0\b", one.question + one.answer)
        for text, original in ((one.question, other.question), (one.answer, other.answer)):
            assert text == re.sub(r"-0\.0\b", "0", original).replace(".0,", ",").replace(".0\n", "\n").replace(
                ".0'", "'"
            )
        for reply in (one.answer, other.answer):
            assert score("number_sorting", reply, one.metadata["entry"]) >= FULL_SCORE


@pytest.mark.parametrize("source", [{"family": "gcd"}, {"family": "chain_sum", "knobs": {"allow_negation": True}}])
def test_numbers_of_other_families_are_the_library_s(source: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"family `{source['family']}` has no everyday numbers, only chain_sum, "):
        GeneratedProblems(GeneratedSource(**source, numbers="everyday"), 0)
