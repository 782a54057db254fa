"""Chats of every shape that data sets have: one conversation, or one reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from h1r.common.files import write_json
from h1r.config import CorpusSource, Recipe
from h1r.data.curate import passes
from h1r.data.curate.io.items import Item
from h1r.data.curate.io.read import Reader
from h1r.data.curate.plan import curate, told_of
from h1r.errors import UserError
from h1r.run.directory import Run

USER, REPLY = "How many legs have three hens?", "Three hens have \\boxed{6} legs."
THOUGHT = "Two legs a hen, and three hens."
ASKED = {"role": "user", "content": USER}


def section(kind: str, path: Path, **keys: Any) -> CorpusSource:
    return CorpusSource.model_validate({"name": "s", "kind": kind, "path": str(path), "verifier": "", **keys})


def read(tmp_path: Path, rows: list[dict[str, Any]], **keys: Any) -> tuple[list[Item], list[str]]:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    reader = Reader(section("jsonl", path, **keys), str(path), 0)
    return list(reader.items()), [line.why for line in reader.bad]


def turns(item: Item) -> list[tuple[str, str, str | None]]:
    (trace,) = item.traces
    return [(turn.role, turn.content, turn.thinking) for turn in trace.messages]


TAUGHT = [("user", USER, None), ("assistant", REPLY, THOUGHT)]
WRITTEN = f"<think>\n{THOUGHT}\n</think>\n\n{REPLY}"
SAME: dict[str, dict[str, Any]] = {
    "messages": {"messages": [ASKED, {"role": "assistant", "content": WRITTEN}]},
    "messages beside a question": {"question": USER, "messages": [ASKED, {"role": "assistant", "content": WRITTEN}]},
    "Alpaca": {"instruction": USER, "output": WRITTEN, "input": ""},
    "ShareGPT": {"conversations": [{"from": "human", "value": USER}, {"from": "gpt", "value": WRITTEN}]},
    "OpenThoughts": {
        "conversations": [
            {"from": "user", "value": USER},
            {
                "from": "assistant",
                "value": f"<|begin_of_thought|>\n\n{THOUGHT}\n\n<|end_of_thought|>\n\n"
                f"<|begin_of_solution|>\n\n{REPLY}\n\n<|end_of_solution|>",
            },
        ]
    },
    "OpenThoughts with metadata": {"problem": USER, "deepseek_reasoning": THOUGHT, "deepseek_solution": REPLY},
    "s1K": {"question": USER, "thinking_trajectories": [THOUGHT], "attempt": REPLY, "solution": "6"},
    "s1K-1.1": {"question": USER, "deepseek_thinking_trajectory": THOUGHT, "deepseek_attempt": REPLY,
                "gemini_thinking_trajectory": "other", "gemini_attempt": "other"},
    "reasoning beside content": {"messages": [ASKED, {"role": "assistant", "content": REPLY, "reasoning": THOUGHT}]},
    "reasoning_content": {"messages": [ASKED, {"role": "assistant", "content": REPLY, "reasoning_content": THOUGHT}]},
    "thinking told twice": {
        "messages": [ASKED, {"role": "assistant", "content": WRITTEN, "reasoning_content": THOUGHT}]
    },
    "content parts": {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": USER[:9]}, {"type": "text", "text": USER[9:]}]},
            {
                "role": "assistant",
                "content": [{"type": "thinking", "thinking": THOUGHT}, {"type": "text", "text": REPLY}],
            },
        ]
    },
    "all turns as JSON text": {"messages": json.dumps([ASKED, {"role": "assistant", "content": WRITTEN}])},
    "each turn as JSON text": {
        "messages": [json.dumps(ASKED), json.dumps({"role": "assistant", "content": WRITTEN})]
    },
    "an object of lists": {"messages": {"role": ["user", "assistant"], "content": [USER, WRITTEN]}},
    "prompt and completion": {"prompt": USER, "completion": WRITTEN},
    "prompt and completion as turns": {
        "prompt": [ASKED], "completion": [{"role": "assistant", "content": REPLY, "thinking": THOUGHT}]
    },
    "reasoning in a column": {"question": USER, "reasoning": THOUGHT, "response": REPLY},
    "nulls of Arrow": {
        "messages": [
            {**ASKED, "reasoning_content": None, "tool_calls": None},
            {"role": "assistant", "content": WRITTEN, "reasoning_content": None, "tool_calls": None, "name": None},
        ]
    },
}  # fmt: skip


@pytest.mark.parametrize("shape", SAME)
def test_every_shape_of_one_chat_gives_the_same_turns(tmp_path: Path, shape: str) -> None:
    (item,), bad = read(tmp_path, [SAME[shape]])
    assert bad == []
    assert turns(item) == TAUGHT
    assert item.problem.question == USER


def test_a_chat_of_many_turns_keeps_them_and_system_turns_become_one(tmp_path: Path) -> None:
    said = [("developer", "Be brief."), ("user", "One?"), ("assistant", "1"), ("user", "Two?"), ("assistant", "2")]
    row = {"system": "You count.", "messages": [{"role": role, "content": text} for role, text in said]}
    (item,), _ = read(tmp_path, [row])
    assert turns(item) == [
        ("system", "You count.\n\nBe brief.", None), ("user", "One?", None), ("assistant", "1", None),
        ("user", "Two?", None), ("assistant", "2", None),
    ]  # fmt: skip
    assert item.problem.question == "One?\n\nTwo?"


CALL = {"name": "add", "arguments": {"a": 1, "b": "é"}}
CALLS: dict[str, dict[str, Any]] = {
    "an object": {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": CALL}]},
    "arguments as text": {"role": "assistant", "content": "", "tool_calls": [
        {"function": {"name": "add", "arguments": json.dumps(CALL["arguments"])}}]},
    "calls as text": {"role": "assistant", "content": "", "tool_calls": json.dumps([CALL])},
    "the old key": {"role": "assistant", "content": None, "function_call": CALL},
    "filled with nulls": {"role": "assistant", "content": None, "tool_calls": [
        {"id": None, "function": {"name": "add", "arguments": {"a": 1.0, "b": "é", "c": None}}}]},
    "ShareGPT": {"from": "function_call", "value": json.dumps(CALL)},
}  # fmt: skip


def test_sharegpt_of_many_turns_has_the_system_and_the_tool_in_their_places(tmp_path: Path) -> None:
    said = [
        ("system", "Be brief."), ("human", "One?"), ("gpt", "1"), ("human", "Add."),
        ("function_call", json.dumps(CALL)), ("observation", "1é"), ("gpt", "Done."),
    ]  # fmt: skip
    (item,), bad = read(tmp_path, [{"conversations": [{"from": who, "value": text} for who, text in said]}])
    assert bad == []
    assert turns(item) == [
        ("system", "Be brief.", None), ("user", "One?", None), ("assistant", "1", None), ("user", "Add.", None),
        ("assistant", '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": "é"}}\n</tool_call>', None),
        ("tool", "1é", None), ("assistant", "Done.", None),
    ]  # fmt: skip


@pytest.mark.parametrize("shape", CALLS)
def test_every_shape_of_a_tool_call_is_written_alike(tmp_path: Path, shape: str) -> None:
    answered = [{"role": "tool", "content": "1é"}, {"role": "assistant", "content": "Done."}]
    (item,), bad = read(tmp_path, [{"messages": [ASKED, CALLS[shape], *answered]}])
    assert bad == []
    assert turns(item)[1][1] == '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": "é"}}\n</tool_call>'
    assert [role for role, _, _ in turns(item)] == ["user", "assistant", "tool", "assistant"]


def chat(*turns: tuple[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


REFUSED: dict[str, dict[str, Any]] = {
    "a turn of the role 'narrator'": chat(("user", "a"), ("narrator", "b")),
    "two assistant turns in a row": chat(("user", "a"), ("assistant", "b"), ("assistant", "c")),
    "begins with an assistant turn": chat(("assistant", "b"), ("user", "c"), ("assistant", "d")),
    "ends with a user turn": chat(("user", "a"), ("assistant", "b"), ("user", "c")),
    "a system turn after the start": chat(("user", "a"), ("system", "b"), ("assistant", "c")),
    "a tool turn that answers no call": chat(("user", "a"), ("tool", "b"), ("assistant", "c")),
    "the user turn number 1 is empty": chat(("user", " "), ("assistant", "c")),
    "a user turn without content": {"messages": [{"role": "user"}, {"role": "assistant", "content": "c"}]},
    "a part of the type 'image_url'": chat(("user", [{"type": "image_url", "image_url": {}}]), ("assistant", "c")),
    "a conversation is a list of turns, not str": {"messages": "Hello"},
    "a conversation is a list of turns, not list": {"messages": [["Hello", "Hi"]]},
    "cut off or broken": {"messages": '[{"role": "user", "content": "a"}, {"role": "assis'},
    "a tool call's arguments: no JSON, cut off or broken": {"messages": [ASKED, {
        "role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": '{"a": [1, '}}]}]},
    "a tool call's arguments are no object": {"messages": [ASKED, {
        "role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": "3"}}]}]},
    "a tool call's arguments hold NaN": {"messages": [ASKED, {
        "role": "assistant", "content": "", "tool_calls": {"function": {"name": "f", "arguments": '{"a": NaN}'}}}]},
    "`tool_calls` is no list": {"messages": [ASKED, {"role": "assistant", "content": "", "tool_calls": 5}]},
    "an `instruction` with an `input`": {"instruction": "Add both.", "input": "2, 3", "output": "5"},
    "thinking in two places that differ": {"messages": [ASKED, {
        "role": "assistant", "content": WRITTEN, "reasoning": "Something else."}]},
    "the weight 0.5 of a turn": {"messages": [ASKED, {"role": "assistant", "content": "b", "weight": 0.5}]},
    "two chats, `messages` and `conversations`": {"messages": [ASKED], "conversations": [ASKED]},
    "name a whole conversation as `messages`": {"prompt": USER, "completion": [
        ASKED, {"role": "assistant", "content": "b"}]},
    "no column `question`, and none of a known chat": {"texts": "a", "labels": "b"},
}  # fmt: skip


@pytest.mark.parametrize("why", REFUSED)
def test_what_fits_no_shape_is_set_aside_with_its_reason(tmp_path: Path, why: str) -> None:
    items, (found,) = read(tmp_path, [REFUSED[why]])
    assert items == []
    assert why in found


def test_a_whole_conversation_and_a_part_of_one_are_not_both_mapped(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="leave out one or the other"):
        read(tmp_path, [], columns={"messages": "m", "completion": "c"})


def test_weights_of_turns_are_kept_for_the_assistants(tmp_path: Path) -> None:
    said = [{"role": "user", "content": "a", "weight": 1}, {"role": "assistant", "content": "b", "weight": 0},
            {"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}]  # fmt: skip
    (item,), _ = read(tmp_path, [{"messages": said}])
    assert item.traces[0].turn_weights == [0, 0, 0, 1]


def varied() -> list[dict[str, Any]]:
    """Chats whose objects have other keys in every row, which one Arrow schema fills with nulls."""
    tools = [{"type": "function", "function": {"name": "add", "parameters": {"properties": {"a": {"type": "int"}}}}}]
    call = {"name": "add", "arguments": {"b": 2.5, "a": 1}}
    plain = [ASKED, {"role": "assistant", "content": REPLY, "reasoning_content": THOUGHT}]
    other = {"name": "look", "arguments": {"where": "up", "a": 3}}
    rows: list[dict[str, Any]] = [{"messages": plain, "answer": 6, "tools": None}]
    for one in (call, other):
        said = [ASKED, {"role": "assistant", "content": None, "tool_calls": [{"function": one}]},
                {"role": "tool", "content": "\u00b2 ", "name": "x"},
                {"role": "assistant", "content": REPLY}]  # fmt: skip
        rows.append({"messages": said, "answer": 2.5, "tools": tools if one is call else None})
    return rows


def test_lines_parquet_and_the_hub_give_the_same_samples_and_packed_rows_in_bits(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = [
        {**row, "messages": [{**turn, "content": f"{number} {turn['content'] or ''}"} for turn in row["messages"]]}
        for number, row in enumerate(varied() * 4)
    ]
    (tmp_path / "jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "parquet")
    datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "hub")

    def curated(kind: str) -> dict[str, bytes]:
        corpus = {"sources": [section(kind, tmp_path / kind).model_dump()], "workers": 1}
        keys = {"chat": {"system_prompt": ""}, "sft": {"seq_len": 96}, "curate": {"thinking": "optional"}}
        recipe = Recipe.model_validate({"name": "bits", "corpus": corpus, **keys})
        curate(recipe, Run.open(tmp_path / f"run-{kind}", recipe))
        stage = tmp_path / f"run-{kind}" / "curate"
        files = [*stage.glob("*.jsonl"), *stage.glob("packed/*"), *stage.glob("tokenizer/*")]
        return {str(path.relative_to(stage)): path.read_bytes() for path in files}

    lines = curated("jsonl")
    assert lines["samples.jsonl"].count(b"\n") == len(rows)
    assert pq.read_table(tmp_path / "run-jsonl" / "curate" / "packed").num_rows > 3
    assert curated("parquet") == lines
    assert curated("hub") == lines


@pytest.mark.parametrize("kind", ["parquet", "hub"])
def test_lines_parquet_and_the_hub_give_the_same_items(tmp_path: Path, kind: str) -> None:
    rows = varied()
    expected, bad = read(tmp_path, rows, columns={"answer": "answer"})
    assert bad == []
    assert len(expected) == 3
    (tmp_path / "set").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "set" / "train.parquet")
    if kind == "hub":
        pytest.importorskip("datasets")
    path = tmp_path / "set" / "train.parquet" if kind == "parquet" else tmp_path / "set"
    reader = Reader(section(kind, path, columns={"answer": "answer"}), str(path), 0)
    assert list(reader.items()) == expected
    assert reader.bad == []


def test_the_terminal_says_how_many_rows_of_a_file_are_set_aside_and_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rows.jsonl").write_bytes(
        b'{"question": "How many legs have two cats and a hen?", "answer": "10"}\n{"question": \n'
        b'{"question": "caf\xe9", "answer": "1"}\n{"question": "\\ud800", "answer": "1"}\n[1]\n{"question": \n'
    )
    recipe = Recipe.model_validate(
        {
            "name": "told",
            "corpus": {
                "root": str(tmp_path),
                "sources": [section("jsonl", tmp_path / "rows.jsonl", use="rl").model_dump()],
            },
        }
    )
    work = tmp_path / "work"
    write_json(work / "recipe.json", recipe.model_dump(mode="json"))
    result = passes.read(work, "0")
    told_of(tmp_path / "rows.jsonl", result)
    said = " ".join(capsys.readouterr().err.split())
    assert "5 rows set aside; 2: not JSON (Expecting value: line 1 column 14 (char 13)) (row 2 first)" in said
    for why in ("not UTF-8 (byte 0xe9 at 17) (row 3 first)", "half a surrogate pair", "not an object (row 5 first)"):
        assert why in said
