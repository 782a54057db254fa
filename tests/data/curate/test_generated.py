import contextlib
import itertools
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from h1r.config import FileSource, GeneratedSource
from h1r.data.curate.io import file_sources
from h1r.data.curate.io import generated as sources
from h1r.data.curate.io.generated import UNSOUND, open_source, plain, sound_families
from h1r.data.solvers import traces
from h1r.errors import UserError
from h1r.records import content_id, read_jsonl, to_json, write_jsonl
from h1r.verify.reasoning_gym.grade import FULL_SCORE, score

DATA = Path(os.environ.get("H1R_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))


def generated(family, count, seed=0, **knobs):
    return list(itertools.islice(open_source(GeneratedSource(family=family, knobs=knobs), seed, []).problems(), count))


def from_file(path, bad=None, kind="jsonl", seed=0, **columns):
    section = FileSource(kind=kind, path=str(path), columns=columns)
    return list(open_source(section, seed, [] if bad is None else bad).problems())


def jsonl(path, *rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def parquet(path, rows):
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


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
        open_source(GeneratedSource(family=family), 0, [])
    dataset = create_dataset(family, seed=1, size=3)
    for entry in (dataset[0], dataset[1]):
        kept = json.loads(json.dumps({**entry, "answer": str(entry["answer"]), "metadata": plain(entry["metadata"])}))
        assert (score(family, kept["answer"], kept) or 0.0) < FULL_SCORE


def test_a_mixture_family_is_refused_with_the_mend():
    with pytest.raises(UserError, match="list those as sources of their own"):
        open_source(GeneratedSource(family="composite"), 0, [])


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
        "from h1r.data.curate.io.generated import open_source\n"
        "for f in ('chain_sum', 'leg_counting', 'family_relationships'):\n"
        "    s = open_source(GeneratedSource(family=f), 1, []).problems()\n"
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
        open_source(GeneratedSource(family="ransom_note"), 0, [])


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
        open_source(GeneratedSource(family=family, knobs=knobs), 0, [])


def test_jsonl_columns_are_mapped_and_reach_into_objects(tmp_path):
    path = jsonl(
        tmp_path / "a.jsonl", {"q": {"text": "2 + 2?"}, "gold": 4, "sol": "2 + 2 = 4", "level": "easy", "n": 7}
    )
    (problem,) = from_file(path, question="q.text", answer="gold", solution="sol", family="level", id="n")
    assert (problem.question, problem.answer, problem.family, problem.id) == ("2 + 2?", "4", "easy", "7")
    assert problem.metadata == {"solution": "2 + 2 = 4"}
    assert (problem.verifier, problem.category, problem.source) == ("math", "default", str(path))


def test_bad_jsonl_lines_are_set_aside_with_their_place_and_reason(tmp_path):
    good = {"question": "q", "answer": "a"}
    path = jsonl(
        tmp_path / "a.jsonl", good, "{", "", "[1]", {"question": "q"}, {"question": "q", "answer": None},
        {"question": " ", "answer": "a"}, {"question": ["q"], "answer": "a"}, {**good, "question": "r"},
    )  # fmt: skip
    bad = []
    assert {problem.question for problem in from_file(path, bad)} == {"q", "r"}
    assert [line.line for line in bad] == [2, 3, 4, 5, 6, 7, 8]
    assert {line.path for line in bad} == {str(path)}
    reasons = [line.why for line in bad]
    assert reasons[0].startswith("not JSON")
    assert reasons[1:] == [
        "empty", "not an object but list", "no column `answer`", "column `answer` is empty",
        "column `question` is empty", "column `question` is list, not text or a number",
    ]  # fmt: skip
    assert bad[0].text == "{"


@pytest.mark.parametrize("rows", [[], [""], ["{"], [{"question": "q"}]])
def test_a_file_without_a_usable_line_is_a_user_error(tmp_path, rows):
    path = jsonl(tmp_path / "a.jsonl", *rows)
    with pytest.raises(UserError, match=r"a\.jsonl: no usable line"):
        from_file(path, [])


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_missing_file_is_a_user_error(tmp_path, kind):
    with pytest.raises(UserError, match=r"cannot read .*nowhere"):
        from_file(tmp_path / "nowhere", kind=kind)


def test_an_unknown_field_in_the_mapping_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="no field `quesion`; did you mean `question`"):
        from_file(tmp_path / "a.jsonl", quesion="q")


def test_parquet_rows_are_mapped_and_bad_ones_set_aside(tmp_path):
    rows = [
        {"item": {"q": "2 + 2?"}, "answer": "4"},
        {"item": {"q": None}, "answer": "5"},
        {"item": None, "answer": "6"},
    ]
    path = parquet(tmp_path / "a.parquet", rows)
    bad = []
    (problem,) = from_file(path, bad, kind="parquet", question="item.q")
    assert (problem.question, problem.answer) == ("2 + 2?", "4")
    assert [(line.line, line.why) for line in bad] == [(2, "column `item.q` is empty"), (3, "no column `item.q`")]


@pytest.mark.parametrize("column", ["quest", "item.p", "answer.x"])
def test_a_missing_parquet_column_is_named(tmp_path, column):
    path = parquet(tmp_path / "a.parquet", [{"question": "q", "item": {"q": "q"}, "answer": "4"}])
    with pytest.raises(UserError, match=rf"a\.parquet: no column `{column}`"):
        from_file(path, kind="parquet", question=column)


def test_a_file_that_is_no_parquet_is_a_user_error(tmp_path):
    (tmp_path / "a.parquet").write_text("hello")
    with pytest.raises(UserError, match="not a Parquet file"):
        from_file(tmp_path / "a.parquet", kind="parquet")


def hub(monkeypatch, rows):
    """The hub is out of reach in a test: a stand-in for the one function that is called."""

    class Library:
        @staticmethod
        def load_dataset(path, subset, split, streaming):
            assert (path, subset, split, streaming) == ("owner/name", "main", "test", True)
            return iter(rows)

    monkeypatch.setitem(sys.modules, "datasets", Library)
    section = FileSource(kind="hub", path="owner/name", subset="main", split="test", columns={"question": "q.text"})
    bad = []
    return list(open_source(section, 0, bad).problems()), bad


def test_hub_rows_are_streamed_and_mapped(monkeypatch):
    rows = [{"q": {"text": "2 + 2?"}, "answer": "4"}, {"q": {}, "answer": "4"}]
    problems, bad = hub(monkeypatch, rows)
    assert [problem.question for problem in problems] == ["2 + 2?"]
    assert [(line.path, line.line, line.why) for line in bad] == [("owner/name", 2, "no column `q.text`")]


def test_a_missing_hub_column_is_named(monkeypatch):
    with pytest.raises(UserError, match=r"owner/name: no column `q\.text`"):
        hub(monkeypatch, [{"question": "q", "answer": "4"}])


def test_hub_without_its_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"pip install open-h1r\[hub\]"):
        from_file("owner/name", kind="hub")


def test_files_are_read_in_an_order_of_the_seed_and_lose_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(file_sources, "SHUFFLE_BUFFER", 16)
    path = jsonl(tmp_path / "a.jsonl", *({"question": f"q{n}", "answer": "1"} for n in range(100)))
    one, again, other = (tuple(problem.question for problem in from_file(path, seed=seed)) for seed in (1, 1, 2))
    assert one == again
    assert one != other
    assert set(one) == set(other) == {f"q{n}" for n in range(100)}
    assert len(one) == 100
    assert max(abs(place - int(question[1:])) for place, question in enumerate(one[:50])) > 8


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("2*3=6\n#### 6", "6"),
        ("so \\boxed{1} or rather \\boxed{\\frac{1}{2}}, done", "\\frac{1}{2}"),
    ],
)
def test_the_answer_is_taken_from_a_solution_in_the_same_column(tmp_path, text, answer):
    path = jsonl(tmp_path / "a.jsonl", {"question": "q", "sol": text})
    (problem,) = from_file(path, answer="sol", solution="sol")
    assert problem.answer == answer
    assert problem.metadata["solution"] == text


def test_a_solution_without_a_final_answer_is_set_aside(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", {"question": "q", "sol": "no idea"}, {"question": "r", "sol": "\\boxed{2}"})
    bad = []
    assert len(from_file(path, bad, answer="sol", solution="sol")) == 1
    assert bad[0].why == "column `sol` has no final answer"


@pytest.mark.skipif(not (DATA / "gsm8k" / "train.jsonl").exists(), reason="real data not present")
def test_every_gsm8k_problem_is_read_with_a_numeric_answer_and_a_worked_trace():
    bad = []
    problems = from_file(DATA / "gsm8k" / "train.jsonl", bad, solution="answer")
    assert len(problems) == 7473
    assert bad == []
    for problem in problems[:500]:
        assert float(problem.answer.replace(",", "")) is not None
        (message,) = traces(problem, 3, random.Random(0))
        assert "<<" not in (message.thinking or "")
        assert message.content == f"The answer is \\boxed{{{problem.answer}}}."
