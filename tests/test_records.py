import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from h1r.errors import UserError
from h1r.records import BadLine, Message, Problem, Sample, content_id, read_jsonl, write_jsonl

GOOD = '{"id": "a", "question": "1+1?", "answer": "2"}'

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(), children, max_size=3),
    max_leaves=6,
)
problems = st.builds(
    Problem,
    id=st.text(), question=st.text(), answer=st.text(), family=st.text(), category=st.text(),
    difficulty=st.dictionaries(st.text(), json_values, max_size=3),
    metadata=st.dictionaries(st.text(), json_values, max_size=3),
)  # fmt: skip


@given(st.lists(problems, max_size=5))
def test_written_problems_read_back_equal(tmp_path_factory: pytest.TempPathFactory, records: list[Problem]) -> None:
    path = tmp_path_factory.mktemp("jsonl") / "x.jsonl"
    assert write_jsonl(path, records) == len(records)
    assert list(read_jsonl(path, Problem)) == records


def test_written_samples_read_back_equal(tmp_path: Path) -> None:
    sample = Sample("a", [Message("user", "é\u2028\n"), Message("assistant", "2", thinking="1 + 1")], weight=1.5)
    write_jsonl(tmp_path / "x.jsonl", [sample])
    assert list(read_jsonl(tmp_path / "x.jsonl", Sample)) == [sample]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "JSON"),
        ("{", "JSON"),
        ("[1]", "object"),
        ('{"id": "a", "question": "q"}', "answer"),
        ('{"id": "a", "question": "q", "answer": 2}', "answer"),
        ('{"id": "a", "question": "q", "answer": "2", "sloution": ""}', "sloution"),
    ],
)
def test_bad_line_is_set_aside_with_its_place_and_reason(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(f"{GOOD}\n{text}\n{GOOD}\n")
    bad: list[BadLine] = []
    assert [record.id for record in read_jsonl(path, Problem, bad)] == ["a", "a"]
    assert [(line.path, line.line, line.text) for line in bad] == [(str(path), 2, text)]
    assert why in bad[0].why


def test_bad_line_without_a_list_is_a_sentence_naming_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(f"{GOOD}\nnot json\n")
    with pytest.raises(UserError, match=r"x\.jsonl, line 2: .*; mend or delete the line"):
        list(read_jsonl(path, Problem))


def test_bytes_that_are_not_utf8_do_not_stop_the_reader(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(GOOD.replace("1+1", "1\xff1").encode("latin-1") + b"\n")
    assert next(read_jsonl(path, Problem)).question == "1\N{REPLACEMENT CHARACTER}1?"


def test_missing_file_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read .*none\.jsonl: No such file"):
        list(read_jsonl(tmp_path / "none.jsonl", Problem))


def test_a_writer_that_fails_leaves_the_old_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    write_jsonl(path, [{"old": 1}])

    def records() -> object:
        yield {"new": 1}
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        write_jsonl(path, records())
    assert json.loads(path.read_text()) == {"old": 1}


def test_a_line_of_a_million_characters_is_kept_short_in_the_bad_list(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text("x" * 1_000_000 + os.linesep)
    bad: list[BadLine] = []
    assert list(read_jsonl(path, Problem, bad)) == []
    assert len(bad[0].text) == 2000


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        ("What is 2 + 2?", "what is  2 + 2", True),
        ("What is 2 + 2?", "What is 2 - 2?", False),
        ("What is 2 + 2?", "What is 2 + 3?", False),
        ("-5", "5", False),
    ],
)
def test_content_id_is_equal_exactly_for_the_same_content(left: str, right: str, same: bool) -> None:
    assert (content_id(left) == content_id(right)) is same
