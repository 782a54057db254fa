import json
from pathlib import Path

import pytest

from h1r.errors import UserError
from h1r.verify.batch import CHUNK, verify_file


def verdicts(tmp_path: Path, *lines: object, **options: object) -> list[dict]:
    path = tmp_path / "answers.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), encoding="utf-8")
    return list(verify_file(path, **options))  # type: ignore[arg-type]


def test_every_line_gets_its_verdict_in_order(tmp_path):
    found = verdicts(
        tmp_path,
        {"prediction": "1/2", "reference": "0.5"},
        {"prediction": r"\int_0^1 x\,dx", "reference": r"\frac{1}{2}"},
        {"prediction": "<think>hm</think>So it is \\boxed{7}.", "reference": "7"},
        {"prediction": "12 m", "reference": "12 cm", "label": "ignored"},
        {"prediction": 5, "reference": 5},
    )
    assert [row["line"] for row in found] == [1, 2, 3, 4, 5]
    assert [row["reward"] for row in found] == [1.0, 1.0, 1.0, 0.0, 1.0]


@pytest.mark.parametrize("verifier", ["math", "math_lenient", "exact"])
def test_a_bare_answer_needs_no_box_whatever_the_verifier(tmp_path, verifier):
    (row,) = verdicts(tmp_path, {"prediction": "Alice", "reference": "alice", "verifier": verifier})
    assert row["reward"] == 1.0


def test_a_line_that_cannot_be_read_is_a_verdict_of_zero_with_the_reason(tmp_path):
    found = verdicts(
        tmp_path,
        "junk",
        [1],
        {"prediction": "5"},
        {"prediction": "5", "reference": "5", "verifier": "mth"},
        {"prediction": "5", "reference": "5", "metadata": 3},
        {"prediction": "5", "reference": "5"},
    )
    assert [row["reward"] for row in found] == [0.0] * 5 + [1.0]
    assert all(row["error"] for row in found[:5])
    assert "`math`" in found[3]["error"]


def test_files_longer_than_a_chunk_keep_their_order(tmp_path):
    found = verdicts(tmp_path, *({"prediction": str(n), "reference": "7"} for n in range(CHUNK + 50)))
    assert len(found) == CHUNK + 50
    assert [row["line"] for row in found if row["reward"]] == [8]


def test_what_the_caller_got_wrong_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="cannot read"):
        list(verify_file(tmp_path / "missing.jsonl"))
    with pytest.raises(UserError, match="unknown verifier"):
        verdicts(tmp_path, {"prediction": "5", "reference": "5"}, verifier="mth")
