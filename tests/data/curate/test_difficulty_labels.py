"""The judge's word for how hard problems are: asked for once, kept, and not guessed where it does not come."""

from __future__ import annotations

import json
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from corpora import corpus_recipe, curated

from chat_server import chat_server, fails, says
from h1r.config import Recipe
from h1r.data.curate.label import label_of
from h1r.errors import UserError

QUESTIONS = [f"Tree {n} has {n + 2} branches with {n + 5} leaves each; how many leaves are there?" for n in range(6)]


def recipe(path: Path, url: str | None) -> Recipe:
    rows = [{"q": asked, "a": str((n + 2) * (n + 5)), "out": f"<think>times, {n}</think>\\boxed{{{(n + 2) * (n + 5)}}}"}
            for n, asked in enumerate(QUESTIONS)]  # fmt: skip
    (path / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tree = corpus_recipe(path).model_dump(mode="json")
    source = {"name": "asked", "kind": "jsonl", "path": "asked.jsonl",
              "columns": {"question": "q", "answer": "a", "completion": "out"}}  # fmt: skip
    tree["corpus"] |= {"sources": [source], "benchmarks": [], "traces": {}, "max_tokens_by": {}, "mixture": {}}
    judge = {"urls": [url], "model": "judge", "attempts": 1} if url else {}
    curate = {"boilerplate_share": 1.0, "difficulty": "judge"}
    return Recipe.model_validate({**tree, "curate": curate, "judge": judge})


def by_number(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
    """Tree 0 is easy, tree 5 hard, tree 4 gets no label, the others are medium."""
    number = int(body["messages"][0]["content"].partition("Tree ")[2].partition(" ")[0])
    words = {0: "Easy.", 5: "<think>easy? no</think>hard", 4: "I cannot say."}
    says(words.get(number, "**medium**"))(handler, body)


def test_labels_are_the_classes_of_samples(tmp_path: Path) -> None:
    with chat_server(by_number) as server:
        summary, stage = curated(recipe(tmp_path, server.url), tmp_path / "run")
        assert len(server.requests) == 6
    assert summary["difficulty_labels"] == {"easy": 1, "hard": 1, "medium": 3, "none": 1}
    found = [json.loads(line) for line in (stage / "samples.jsonl").read_text().splitlines()]
    classes = {row["messages"][-2]["content"]: (row["difficulty_class"], row["weight"]) for row in found}
    assert classes[QUESTIONS[0]] == ("easy", 0.5)
    assert classes[QUESTIONS[5]] == ("hard", 1.5)
    assert classes[QUESTIONS[2]] == ("medium", 1.0)


def test_what_a_person_has_to_mend_stops_and_what_came_is_kept(tmp_path: Path) -> None:
    with chat_server(fails(402), says("hard"), says("easy")) as server:
        stopped = recipe(tmp_path, server.url)
        stopped = stopped.model_copy(update={"judge": stopped.judge.model_copy(update={"concurrency": 1})})
        with pytest.raises(UserError, match="out of credit"):
            curated(stopped, tmp_path / "run")
        before = len(server.requests)
        server.usual = says("medium")
        summary, _ = curated(stopped, tmp_path / "run")
        assert len(server.requests) == before + 4
    assert summary["difficulty_labels"] == {"easy": 1, "hard": 1, "medium": 4}


def without_credit_for_tree_0(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
    """Tree 0 is refused for want of credit while others, asked for at the same time, are still written."""
    if "Tree 0 " in body["messages"][0]["content"]:
        fails(402)(handler, body)
    else:
        time.sleep(0.3)
        says("easy")(handler, body)


def test_what_is_under_way_when_credit_ends_is_kept(tmp_path: Path) -> None:
    with chat_server(without_credit_for_tree_0) as server:
        stopped = recipe(tmp_path, server.url)
        stopped = stopped.model_copy(update={"judge": stopped.judge.model_copy(update={"concurrency": 3})})
        with pytest.raises(UserError, match="out of credit"):
            curated(stopped, tmp_path / "run")
        assert len(server.requests) == 3, "nothing follows"
        server.usual = says("medium")
        summary, _ = curated(stopped, tmp_path / "run")
        assert len(server.requests) == 3 + 4, "the two that were under way are not asked again"
    assert summary["difficulty_labels"] == {"easy": 2, "medium": 4}


def test_without_a_judge_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"judge\.urls"):
        curated(recipe(tmp_path, None), tmp_path / "run")


@pytest.mark.parametrize(
    ("reply", "label"),
    [("Hard", "hard"), ("<think>easy or hard</think>\nmedium.", "medium"), ("hardly", None), ("", None)],
)
def test_the_last_word_counts(reply: str, label: str | None) -> None:
    assert label_of(reply) == label
