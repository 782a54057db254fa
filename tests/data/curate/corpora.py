"""A small corpus with something for every step to drop, written for a test."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

from h1r.config import Recipe
from h1r.data.curate.plan import curate
from h1r.run.directory import Run

TREES = ("oak", "elm", "ash", "fir", "yew", "bay", "fig", "box")
LOOP = "and so we add them again, "


def question(n: int) -> str:
    return (
        f"Grove {n} has {n + 3} {TREES[n % 8]} trees and {2 * n + 1} {TREES[(n + 3) % 8]} trees; how many altogether?"
    )


def answer(n: int) -> str:
    return str(3 * n + 4)


def trace(n: int, said: str | None = None, thinking: str | None = None, form: str = "Altogether \\boxed{{{}}}.") -> str:
    thinking = f"{n + 3} + {2 * n + 1} = {answer(n)}, counted twice" if thinking is None else thinking
    return f"<think>\n{thinking}\n</think>\n\n" + form.format(said or answer(n))


def completions(n: int) -> list[str]:
    """Two right ones that differ, and one that a rule drops."""
    bad = [
        trace(n, said="1"), trace(n, thinking=" "), trace(n, form="It is {}."), trace(n, thinking=LOOP * 200),
        "<think>\nwe must", trace(n),
    ][n % 6]  # fmt: skip
    return [trace(n), trace(n, thinking=f"{2 * n + 1} and {n + 3} make {answer(n)}"), bad]


def write_corpus(path: Path, size: int = 60) -> list[dict[str, Any]]:
    """Writes sums (JSONL, grouped traces), rated problems (gzipped array) and chats; returns their sections."""
    with open(path / "sums.jsonl", "w") as lines:
        for n in range(size):
            for text in completions(n):
                lines.write(json.dumps({"q": question(n), "a": answer(n), "n": n, "out": text}) + "\n")
        lines.write("{broken\n")
        lines.write(json.dumps({"q": question(5), "a": answer(5), "n": size, "out": trace(5)}) + "\n")
        lines.write(json.dumps({"q": question(6).replace(" ", "  "), "a": answer(6), "n": size + 1, "out": trace(6)}))
    rated = [
        {"prompt": [{"role": "user", "content": question(1000 + n) + " Box it."}], "gold": answer(1000 + n),
         "failed": 100.0 * (n % 11) / 10}
        for n in range(size)
    ]  # fmt: skip
    rated.append({"prompt": [{"role": "user", "content": "What is one third?"}], "gold": "{", "failed": 10.0})
    near = question(1007).replace("?", ", please?")
    rated.append({"prompt": [{"role": "user", "content": near}], "gold": answer(1007), "failed": 50.0})
    with gzip.open(path / "rated.json.gz", "wt") as file:
        json.dump(rated, file)
    with open(path / "chats.jsonl", "w") as lines:
        for n in range(size // 4):
            turns = [
                {"role": "user", "content": f"Tell me about the {TREES[n % 8]}, number {n}."},
                {"role": "assistant", "content": "<think>first thoughts</think>A tree."},
                {"role": "user", "content": f"And in its {n}th year?"},
            ]
            lines.write(
                json.dumps({"prompt": turns, "completion": f"<think>rings: {n}</think>It has {n} rings."}) + "\n"
            )
    return [
        {"name": "sums", "kind": "jsonl", "path": "sums.jsonl", "group_by": "n",
         "columns": {"question": "q", "answer": "a", "completion": "out"}},
        {"name": "rated", "kind": "json", "path": "rated.json.gz", "use": "rl", "pass_rate_as": "failed_percent",
         "rollouts": 20, "strip": ["Box it."],
         "columns": {"question": "prompt.-1.content", "answer": "gold", "pass_rate": "failed"}},
        {"name": "chats", "kind": "jsonl", "path": "chats.jsonl", "domain": "other", "verifier": "",
         "columns": {"prompt": "prompt", "completion": "completion"}},
    ]  # fmt: skip


def corpus_recipe(path: Path, **corpus: Any) -> Recipe:
    """A recipe over `write_corpus`, with a benchmark that overlaps two of its problems."""
    sources = write_corpus(path)
    with open(path / "bench.jsonl", "w") as lines:
        for n in (3, 1004):
            lines.write(json.dumps({"question": question(n).upper(), "answer": answer(n)}) + "\n")
        lines.write(json.dumps({"question": "What is the capital of the moon, if any?", "answer": "none"}) + "\n")
    bench = [{"name": "bench", "kind": "jsonl", "path": "bench.jsonl", "columns": {"answer": "answer"}}]
    section = {"root": str(path), "sources": sources, "benchmarks": bench, "shard_records": 16, "workers": 1, **corpus}
    return Recipe.model_validate(
        {"name": "corpus", "corpus": section, "chat": {"system_prompt": ""}, "sft": {"seq_len": 256},
         "curate": {"boilerplate_share": 1.0}}
    )  # fmt: skip


def curated(recipe: Recipe, path: Path) -> tuple[dict[str, Any], Path]:
    return curate(recipe, Run.open(path, recipe)), path / "curate"


def outputs(stage: Path) -> dict[str, bytes]:
    """Every file that a curation leaves, but for those that say where and when."""
    files = [path for path in sorted(stage.rglob("*")) if path.is_file() and "spill" not in path.parts]
    assert not [path for path in files if path.suffix == ".partial"]
    return {str(path.relative_to(stage)): path.read_bytes() for path in files if path.name != "recipe.json"}
