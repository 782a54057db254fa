import gzip
import json
import os
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from h1r.config import CorpusSource
from h1r.data.curate.io.items import Item, chunks, read_items, write_items
from h1r.data.curate.io.read import Reader, expand, files_of
from h1r.data.solvers import traces
from h1r.errors import UserError

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
GSM8K = Path(os.environ.get("H1R_DATA") or SHARED) / "gsm8k" / "train.jsonl"


def reader(path: Path, rows: list[Any], **section: Any) -> Reader:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return Reader(
        CorpusSource.model_validate({"name": "s", "kind": "jsonl", "path": str(path), **section}), str(path), 2
    )


def read(path: Path, rows: list[Any], **section: Any) -> list[Item]:
    return list(reader(path / "rows.jsonl", rows, **section).items())


def test_columns_reach_into_objects_and_lists(tmp_path: Path) -> None:
    row = {"prompt": [{"content": "system"}, {"content": "Who? Say it."}], "meta": {"gold": 3.5, "topic": "x"}}
    columns = {"question": "prompt.-1.content", "answer": "meta.gold", "category": "meta.topic"}
    (item,) = read(tmp_path, [row], columns=columns, strip=["Say it."])
    assert (item.problem.question, item.problem.answer, item.problem.category) == ("Who?", "3.5", "x")
    assert item.ordinal == (2 << 32) + 1


@pytest.mark.parametrize(
    ("kind", "value", "rate"),
    [("share", 0.25, 0.25), ("percent", 25, 0.25), ("failed_share", 0.25, 0.75), ("failed_percent", 100.0, 0.0)],
)
def test_published_pass_rates_become_shares_of_success(tmp_path: Path, kind: str, value: float, rate: float) -> None:
    (item,) = read(tmp_path, [{"question": "q", "r": value}], columns={"pass_rate": "r"}, pass_rate_as=kind)
    assert item.pass_rate == rate


def test_a_pass_rate_out_of_range_is_a_bad_row(tmp_path: Path) -> None:
    found = reader(tmp_path / "rows.jsonl", [{"question": "q", "r": 25}], columns={"pass_rate": "r"})
    assert not list(found.items())
    assert "out of range" in found.bad[0].why


def test_every_row_is_an_item_or_a_bad_line_with_its_number(tmp_path: Path) -> None:
    rows = [{"question": "a"}, "{broken", "", "[1]", {"query": "b"}, {"question": ["c"]}, {"question": "d"}]
    found = reader(tmp_path / "rows.jsonl", rows)
    items = list(found.items())
    assert [item.ordinal & 0xFFFF for item in items] == [1, 7]
    assert [line.line for line in found.bad] == [2, 3, 4, 5, 6]
    assert "no column `question`" in found.bad[3].why


def test_a_conversation_keeps_its_turns_and_takes_thinking_apart(tmp_path: Path) -> None:
    call = {"function": {"name": "add", "arguments": '{"a": 1}'}}
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "One and one?"},
        {"role": "assistant", "content": "<think>ask</think>", "tool_calls": [call]},
        {"role": "tool", "content": "2"},
    ]
    done = [{"role": "assistant", "content": "Two.", "reasoning_content": "it says 2"}]
    columns = {"prompt": "p", "completion": "c", "tools": "t"}
    row = {"p": turns, "c": done, "t": '[{"name": "add"}]'}
    (item,) = read(tmp_path, [row], columns=columns, verifier="")
    messages = item.traces[0].messages
    assert [turn.role for turn in messages] == ["system", "user", "assistant", "tool", "assistant"]
    assert messages[2].thinking == "ask"
    assert messages[2].content == '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
    assert (messages[-1].thinking, messages[-1].content) == ("it says 2", "Two.")
    assert item.problem.question == "One and one?"
    assert item.problem.metadata["tools"] == [{"name": "add"}]


def test_thinking_that_never_closes_is_marked_as_cut_off(tmp_path: Path) -> None:
    (item,) = read(tmp_path, [{"question": "q", "c": "<think>so"}], columns={"question": "question", "completion": "c"})
    assert item.traces[0].finish_reason == "unclosed"


def test_rows_of_one_group_are_traces_of_one_problem(tmp_path: Path) -> None:
    rows = [{"p": f"<user>q{n // 3}</user>", "c": f"c{n}", "n": n // 3, "r": n % 2} for n in range(6)]
    columns = {"prompt": "p", "completion": "c", "reward": "r"}
    first, second = read(tmp_path, rows, columns=columns, group_by="n", question_pattern="<user>(.*)</user>")
    assert (first.problem.question, second.problem.question) == ("q0", "q1")
    assert [trace.answer.content for trace in second.traces] == ["c3", "c4", "c5"]
    assert [trace.reward for trace in first.traces] == [0.0, 1.0, 0.0]
    assert first.traces[0].messages[0].content == "q0"


def test_a_list_of_completions_is_as_many_traces(tmp_path: Path) -> None:
    columns = {"question": "question", "completion": "c", "reward": "r", "finish_reason": "f"}
    turns = [{"role": "assistant", "content": "<think>hm</think>two"}]
    rows = [
        {"question": "a", "c": ["one", "<think>so"], "r": [True, 0.0], "f": ["stop", None]},
        {"question": "b", "c": [turns, turns], "r": None, "f": None},
        {"question": "c", "c": [], "r": [], "f": []},
    ]
    first, second, third = read(tmp_path, rows, columns=columns)
    assert [(one.answer.content, one.reward, one.finish_reason) for one in first.traces] == [
        ("one", 1.0, "stop"), ("", 0.0, "unclosed"),
    ]  # fmt: skip
    assert [(one.answer.thinking, one.answer.content, one.reward) for one in second.traces] == [("hm", "two", None)] * 2
    assert third.traces == []


def test_rewards_that_are_not_one_for_each_completion_are_a_bad_row(tmp_path: Path) -> None:
    rows = [{"question": "a", "c": ["x", "y"], "r": reward} for reward in ([1.0], 1.0, [1.0, "no"])]
    columns = {"question": "question", "completion": "c", "reward": "r"}
    found = reader(tmp_path / "rows.jsonl", rows, columns=columns)
    assert not list(found.items())
    assert [line.why for line in found.bad] == [
        *["2 completions need a list of as many in the column of `reward`"] * 2, "reward 'no' is no number",
    ]  # fmt: skip


def test_a_hub_data_set_reads_like_its_rows(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    rows = [{"prompt": [{"role": "user", "content": f"q{n}"}], "gold": {"answer": str(n)}} for n in range(5)]
    (tmp_path / "set").mkdir()
    pq.write_table(pa.Table.from_pylist(rows[:3]), tmp_path / "set" / "train-0.parquet")
    pq.write_table(pa.Table.from_pylist(rows[3:]), tmp_path / "set" / "train-1.parquet")
    columns = {"question": "prompt.-1.content", "answer": "gold.answer"}
    section = CorpusSource.model_validate(
        {"name": "s", "kind": "hub", "path": str(tmp_path / "set"), "columns": columns}
    )
    (path,) = files_of(section, "nowhere")
    assert list(Reader(section, path, 2).items()) == read(tmp_path, rows, columns=columns)


def test_a_hub_data_set_that_cannot_be_opened_is_one_sentence(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    section = CorpusSource.model_validate({"name": "s", "kind": "hub", "path": str(tmp_path / "none")})
    with pytest.raises(UserError, match=r"cannot open hub data set .*none \(subset None, split train\): "):
        list(Reader(section, section.path, 0).items())


def test_a_group_in_two_places_is_two_items_which_the_question_brings_together(tmp_path: Path) -> None:
    rows = [{"question": "q", "n": n} for n in (1, 2, 1)]
    assert len(read(tmp_path, rows, group_by="n")) == 3


@pytest.mark.parametrize("end", ["eos", "STOP", "end_turn", "eos_token", "stop_sequence", "tool_calls", "<|im_end|>"])
def test_natural_ends_by_any_name_are_no_reason_to_drop_a_trace(tmp_path: Path, end: str) -> None:
    rows = [{"prompt": "q", "completion": "<think>a</think>5", "end": end}]
    (item,) = read(tmp_path, rows, columns={"prompt": "prompt", "completion": "completion", "finish_reason": "end"})
    assert item.traces[0].finish_reason == "stop"


@pytest.mark.parametrize(
    ("end", "reason"), [("MAX_TOKENS", "length"), ("truncated", "length"), ("Safety", "safety"), ("", "")]
)
def test_other_ends_are_told(tmp_path: Path, end: str, reason: str) -> None:
    rows = [{"prompt": "q", "completion": "<think>a</think>5", "end": end}]
    (item,) = read(tmp_path, rows, columns={"prompt": "prompt", "completion": "completion", "finish_reason": "end"})
    assert item.traces[0].finish_reason == reason


def test_questions_as_parts_and_answers_in_a_list_of_one_are_read(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "What is "}, {"type": "text", "text": "5?"}]
    rows = [{"q": parts, "a": ["5"]}, {"q": "q2", "a": [5]}, {"q": "q3", "a": ["5", "6"]}, {"q": "q4", "a": []}]
    found = reader(tmp_path / "rows.jsonl", rows, columns={"question": "q", "answer": "a"})
    assert [(item.problem.question, item.problem.answer) for item in found.items()] == [
        ("What is 5?", "5"),
        ("q2", "5"),
    ]
    assert len(found.bad) == 2


def test_csv_reads_like_lines(tmp_path: Path) -> None:
    first_row = '"Two, or ""three""\nlines?",7,0.25,"<think>a</think>\n\n7"'
    text = f"\ufeffq,a,rate,out\r\n{first_row}\r\n\r\nshort,1\r\nlast,8,,\r\n"
    with gzip.open(tmp_path / "rows.csv", "wb") as file:
        file.write(text.encode("utf-8"))
    columns = {"question": "q", "answer": "a", "pass_rate": "rate", "prompt": "q", "completion": "out"}
    section = {"name": "s", "kind": "csv", "path": str(tmp_path / "rows.csv"), "columns": columns}
    found = Reader(CorpusSource.model_validate(section), str(tmp_path / "rows.csv"), 0)
    first, last = found.items()
    assert (first.problem.question, first.problem.answer, first.pass_rate) == ('Two, or "three"\nlines?', "7", 0.25)
    assert (first.traces[0].answer.thinking, first.traces[0].answer.content) == ("a", "7")
    assert (last.problem.answer, last.pass_rate) == ("8", None)
    assert [line.why for line in found.bad] == ["2 values for 4 columns"]


def test_a_chain_of_thought_without_tags_ends_before_its_last_paragraph_where_asked(tmp_path: Path) -> None:
    texts = ["First 2.\n\nThen 5.\n\nIt is \\boxed{7}.", "First 2.\nIt is 7.", "It is 7.", "<think>a</think>7"]
    rows = [{"prompt": f"q{n}", "completion": text} for n, text in enumerate(texts)]
    plain = [item.traces[0].answer for item in read(tmp_path, rows, chain_of_thought="plain")]
    assert [(turn.thinking, turn.content) for turn in plain] == [
        ("First 2.\n\nThen 5.", "It is \\boxed{7}."), ("First 2.", "It is 7."), (None, "It is 7."), ("a", "7"),
    ]  # fmt: skip
    assert read(tmp_path, rows)[0].traces[0].answer.thinking is None


def test_gzipped_arrays_and_parquet_read_like_lines(tmp_path: Path) -> None:
    rows = [{"question": f"q{n}", "answer": str(n)} for n in range(5)]
    with gzip.open(tmp_path / "rows.json.gz", "wt") as file:
        json.dump(rows, file)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    expected = read(tmp_path, rows, columns={"answer": "answer"})
    for kind, name in (("json", "rows.json.gz"), ("parquet", "rows.parquet")):
        section = CorpusSource.model_validate(
            {"name": "s", "kind": kind, "path": name, "columns": {"answer": "answer"}}
        )
        (path,) = files_of(section, str(tmp_path))
        assert list(Reader(section, path, 2).items()) == expected


def test_items_survive_their_file(tmp_path: Path) -> None:
    rows = [{"question": f"q\u2028{n}", "c": "<think>\u0000x</think>y", "r": 0.5, "s": "why"} for n in range(700)]
    columns = {"question": "question", "completion": "c", "pass_rate": "r", "solution": "s"}
    items = read(tmp_path, rows, columns=columns)
    assert write_items(tmp_path / "items.parquet", items) == 700
    assert list(read_items(tmp_path / "items.parquet")) == items


def test_long_traces_make_smaller_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("h1r.data.curate.io.items.BATCH_CHARS", 2500)
    rows = [{"question": f"q{n}", "c": "x" * (1000 if n < 9 else 1)} for n in range(600)]
    items = read(tmp_path, rows, columns={"question": "question", "completion": "c"})
    write_items(tmp_path / "items.parquet", items)
    metadata = pq.read_metadata(tmp_path / "items.parquet")
    sizes = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
    assert sizes[:3] == [3, 3, 3]
    assert sizes[3] > 3
    assert sum(sizes) == 600
    assert list(read_items(tmp_path / "items.parquet")) == items


def test_chunks_end_by_number_or_by_size() -> None:
    found = list(chunks([1, 1, 1, 9, 1, 5, 5], 3, 8, int))
    assert found == [[1, 1, 1], [9], [1, 5, 5]]
    assert not list(chunks([], 3, 8, int))


def test_paths_take_environment_variables_and_name_missing_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_DIR", "/somewhere")
    assert expand("$SOME_DIR/a") == "/somewhere/a"
    monkeypatch.delenv("SOME_DIR")
    with pytest.raises(UserError, match="SOME_DIR, which is not set"):
        expand("${SOME_DIR}/a")


def test_an_unknown_field_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean `completion`"):
        read(tmp_path, [{}], columns={"completions": "c"})


def test_a_file_of_bad_rows_is_not_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("h1r.data.curate.io.read.MAX_BAD", 3)
    with pytest.raises(UserError, match=r"3 rows up to row 4 cannot be read, the first since no column `question`"):
        read(tmp_path, [{"question": "a"}, *[{"query": "b"}] * 9])


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("2*3=6\n#### 6", "6"),
        ("so \\boxed{1} or rather \\boxed{\\frac{1}{2}}, done", "\\frac{1}{2}"),
        ("no idea", None),
    ],
)
def test_the_answer_is_taken_from_a_solution_in_the_same_column(tmp_path: Path, text: str, answer: str | None) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"question": "q", "sol": text}) + "\n")
    section = CorpusSource(name="s", kind="jsonl", path=str(path), columns={"answer": "sol", "solution": "sol"})
    found = list(Reader(section, str(path), 0).items())
    assert [item.problem.answer for item in found] == [answer or ""]
    assert found[0].problem.metadata["solution"] == text


@pytest.mark.skipif(not GSM8K.exists(), reason="real data not present")
def test_every_gsm8k_problem_is_read_with_a_numeric_answer_and_a_worked_trace() -> None:
    columns = {"answer": "answer", "solution": "answer"}
    reader = Reader(CorpusSource(name="g", kind="jsonl", path=str(GSM8K), columns=columns), str(GSM8K), 0)
    items = list(reader.items())
    assert len(items) == 7473
    assert reader.bad == []
    for item in items[:500]:
        assert float(item.problem.answer.replace(",", "")) is not None
        (message,) = traces(item.problem, 3, random.Random(0))
        assert message.thinking


@pytest.mark.parametrize("depth", [120, 450, 900])
def test_text_that_holds_deep_json_is_set_aside(tmp_path: Path, depth: int) -> None:
    """A column of text, as Parquet has it, out of which a value is taken."""
    (tmp_path / "f.jsonl").write_text(
        json.dumps(
            {"question": "q", "answer": "1", "more": json.dumps({"tests": 0}).replace("0", "[" * depth + "]" * depth)}
        )
        + "\n"
    )
    section = CorpusSource(name="s", kind="jsonl", path="f", columns={"answer": "answer"}, metadata={"t": "more.tests"})
    reader = Reader(section, str(tmp_path / "f.jsonl"), 0)
    assert list(reader.items()) == []
    assert [bad.why for bad in reader.bad] == ["nested too deep"]


def test_nulls_and_floats_of_tests_mean_what_they_say(tmp_path: Path) -> None:
    tests = [
        [{"input": [1], "output": None}],
        {"fn_name": "f", "inputs": [[{"a": None}, 6.0]], "outputs": [2.0]},
    ]
    rows = [{"question": f"q{n}", "answer": 3.0, "tests": one, "more": {"kept": one}} for n, one in enumerate(tests)]
    (tmp_path / "f.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    section = CorpusSource(
        name="s", kind="jsonl", path="f", verifier="code",
        columns={"question": "question", "answer": "answer", "tests": "tests"}, metadata={"more": "more.kept"},
    )  # fmt: skip
    found = [item.problem for item in Reader(section, str(tmp_path / "f.jsonl"), 0).items()]
    assert [json.dumps(one.metadata["tests"]) for one in found] == list(map(json.dumps, tests))
    assert [json.dumps(one.metadata["more"]) for one in found] == list(map(json.dumps, tests))
    assert {one.answer for one in found} == {"3"}  # text, as where Parquet has made floats of all
