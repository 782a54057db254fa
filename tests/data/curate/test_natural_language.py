"""Which language a question is in, and which questions go for it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from corpora import corpus_recipe, curated

from h1r.config import Recipe
from h1r.data.curate.rules.natural_language import language_of

QUESTIONS = {
    "en": "A farmer has 3 sheep and 5 hens. How many legs do all of the animals have together?",
    "fr": "Un fermier possède 3 moutons et 5 poules. Combien de pattes ont tous ses animaux ensemble ?",
    "de": "Ein Bauer hat 3 Schafe und 5 Hühner. Wie viele Beine haben alle seine Tiere zusammen?",
    "es": "Un granjero tiene 3 ovejas y 5 gallinas. ¿Cuántas patas tienen todos los animales juntos?",
    "ru": "У фермера есть 3 овцы и 5 кур. Сколько всего ног у всех его животных вместе?",
    "zh": "一个农夫有三只羊和五只鸡，问他的动物一共有多少条腿？",
}


@pytest.mark.parametrize("code", QUESTIONS)
def test_a_question_is_told_by_its_prose(code: str) -> None:
    assert language_of(QUESTIONS[code]) == code
    formulas = r" $\int_0^1 \frac{\sin x}{x} dx$ ```python" + "\nfor number in range(10): print(number)\n```"
    assert language_of(QUESTIONS[code] + formulas) == code


@pytest.mark.parametrize("text", ["", "Find x.", r"$\alpha + \beta = \gamma$", "12 + 30 - 7 = ?"])
def test_what_is_no_prose_has_no_language(text: str) -> None:
    assert language_of(text) is None


def recipe(path: Path, **changed: object) -> Recipe:
    tree = corpus_recipe(path).model_dump(mode="json")
    rows = [{"prompt": asked, "completion": f"<think>legs {n}</think>It is 22.", "finish_reason": "stop"}
            for n, asked in enumerate(QUESTIONS.values())]  # fmt: skip
    (path / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"name": "asked", "kind": "jsonl", "path": "asked.jsonl", "verifier": "", "domain": "other"}
    tree["corpus"] |= {"sources": [source], "benchmarks": [], **changed}
    return Recipe.model_validate({**tree, "curate": {"languages": ["en", "zh"], "boilerplate_share": 1.0}})


def test_questions_in_other_languages_are_dropped_and_counted(tmp_path: Path) -> None:
    summary, stage = curated(recipe(tmp_path), tmp_path / "run")
    (row,) = [row for row in summary["table"] if row["step"] == "language"]
    assert row["reasons"] == {f"in another language ({code})": 1 for code in ("de", "es", "fr", "ru")}
    kept = [json.loads(line)["messages"][-2]["content"] for line in (stage / "samples.jsonl").read_text().splitlines()]
    assert kept == [QUESTIONS["en"], QUESTIONS["zh"]]


def test_a_domain_has_a_limit_of_its_own(tmp_path: Path) -> None:
    summary, _ = curated(recipe(tmp_path, max_tokens_by={"other": 5}, traces={}), tmp_path / "run")
    (row,) = [row for row in summary["table"] if row["step"] == "over-long in tokens"]
    assert row["reasons"] == {"too many tokens": 2}


def test_a_limit_of_no_domain_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="max_tokens_by names domain `code`, which no source has"):
        recipe(tmp_path, max_tokens_by={"code": 5})
