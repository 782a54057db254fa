"""Our own engine makes the traces of a curation."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_training import Killed

from h1r.config import Recipe
from h1r.data.curate.generate import Generate, generate_shard, in_batches
from h1r.data.curate.io.items import Given, Item
from h1r.data.tokenizer import train_tokenizer
from h1r.models import build, save
from h1r.models.falcon_h1.config import preset
from h1r.records import Problem
from h1r.train.teacher import engine_teacher

SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}


def recipe(path: Path, **traces: Any) -> Recipe:
    section = {"by": "engine", "n": 3, "max_tokens": 6, "temperature": 1.0, **traces}
    tree = {"name": "t", "model": {"checkpoint": str(path)}, "chat": {"system_prompt": ""}}
    return Recipe.model_validate({**tree, "corpus": {"traces": section}})


def checkpoint(path: Path) -> Path:
    tokenizer = train_tokenizer(["some words to read"], 280)
    ids = {"vocab_size": 288, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": tokenizer.eos_token_id}
    save(build(preset("tiny", **{**SMALL, **ids}), 0), path)
    tokenizer.save_pretrained(str(path))
    return path


def test_every_problem_gets_its_traces_whatever_else_is_in_the_batch(tmp_path: Path) -> None:
    found = recipe(checkpoint(tmp_path / "model"))
    problems = [Problem(str(n), f"What is {n}?", "0") for n in range(4)]
    with engine_teacher(found) as generate:
        together = dict(generate(problems))
        alone = dict(generate(problems[2:3]))
    assert sorted(together) == [0, 1, 2, 3]
    assert all(len(traces) == 3 for traces in together.values())
    assert json.dumps([one.text for one in alone[0]]) == json.dumps([one.text for one in together[2]])
    assert {one.finish_reason for traces in together.values() for one in traces} <= {"length", "stop"}
    assert together[1][0].messages[0].content == "What is 1?"


def test_a_shard_that_was_broken_off_ends_in_the_traces_of_an_unbroken_one(tmp_path: Path) -> None:
    found = recipe(checkpoint(tmp_path / "model"))
    items = [Item(n, Problem(str(n), f"What is {n}?", "0"), "s", "math", "sft") for n in range(7)]

    def dying(generate: Generate, after: int) -> Generate:
        def some(problems: Iterable[Problem]) -> Iterator[tuple[int, list[Given]]]:
            for count, one in enumerate(generate(problems)):
                if count == after:
                    raise Killed
                yield one

        return some

    whole, broken = tmp_path / "whole.jsonl", tmp_path / "broken.jsonl"
    with engine_teacher(found) as engine:
        assert generate_shard(whole, items, in_batches(engine, 4)) == 7
        for _ in range(2):
            with pytest.raises(Killed):
                generate_shard(broken, items, dying(in_batches(engine, 3), 2))
        assert generate_shard(broken, items, in_batches(engine, 3)) == 7 - 4
    assert sorted(broken.read_text().splitlines()) == sorted(whole.read_text().splitlines())
