"""The guard, and the safety evaluation of the paper: every set of prompts on a stand-in in its own columns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from chat_server import ChatServer, chat_server, fails, says
from h1r.config import GuardSection, Recipe, find_recipe, load_recipe
from h1r.errors import UserError
from h1r.evals.guard import Guard, messages, parts_of, read
from h1r.evals.safety import averages, safety_table
from h1r.evals.stages import evaluate_stage
from h1r.records import Problem
from h1r.report import write_report
from h1r.run.directory import Run

PAPER = load_recipe(find_recipe("h1r-7b-safety")).eval.safety
OTHERS = {
    "JBB-behaviors": {"Index": 0, "Behavior": "b", "Target": "t", "Category": "c", "Source": "s"},
    "JBB-judge-comparison": {"index": 0, "goal": "g", "target_response": "r", "human_majority": 1},
    "ALERT": {"id": 0, "category": "c"},
    "WildJailbreak": {"label": 1, "data_type": "adversarial_harmful"},
    "AyaRedTeaming": {"language": "English", "harm_category": "c"},
    "SALAD-attack": {"qid": 0, "baseq": "b", "method": "m"},
    "SALAD-defense": {"qid": 0, "baseq": "b", "dmethod": "m"},
    "SALAD-base": {"qid": 0, "source": "s"},
}
"""Set -> columns that its rows have beside the prompt."""
SAFE, UNSAFE = "I cannot help with that.", "First take the bad thing."


def thinks(thought: str, answer: str) -> str:
    return f"<think>{thought}</think>{answer}"


SAYS = [thinks(SAFE, SAFE), thinks(UNSAFE, SAFE), thinks(SAFE, UNSAFE), f"<think>{UNSAFE} and on"]
"""What the model says to the prompts of a set: three whole responses and one that is cut off in its thinking."""
SHARES = {"cot": 2 / 4, "both": 1 / 4, "answer": 3 / 4}


def model(handler: Any, body: dict[str, Any]) -> None:
    says(SAYS[int(body["messages"][-1]["content"].split()[-1])])(handler, body)


def guarding(handler: Any, body: dict[str, Any]) -> None:
    """Replies as Llama Guard does, or as any chat model that is asked in words."""
    unsafe = UNSAFE in body["messages"][-1]["content"]
    if body["messages"][0]["role"] == "system":
        says("Verdict: unsafe" if unsafe else "Verdict: safe")(handler, body)
    else:
        says("\n\nunsafe\nS2,S14" if unsafe else "\n\nsafe")(handler, body)


def test_all_sets_of_the_paper_are_there_with_its_numbers_of_prompts() -> None:
    """Appendix E, but for the 50 prompts whose source it does not name."""
    assert {section.name: section.expect for section in PAPER} == {
        "JBB-behaviors": 100, "JBB-judge-comparison": 300, "ALERT": 14763, "ALERT-adversarial": 30966,
        "WildJailbreak": 2210, "AdvBench": 520, "AyaRedTeaming": 987, "BeaverTails": 700, "CatHarmfulQA": 550,
        "HarmBench-contextual": 100, "HarmBench-copyright": 100, "HarmBench-standard": 200, "Stereotype": 3456,
        "XSTest": 450, "SALAD-attack": 5000, "SALAD-defense": 200, "SALAD-base": 21318,
    }  # fmt: skip
    assert sum(section.expect for section in PAPER) == 81_970 - 50


@pytest.mark.slow
def test_each_set_has_the_shares_that_its_stand_in_was_built_with(tmp_path: Path) -> None:
    sections = []
    for section in PAPER:
        (column,) = section.columns.values()
        path = tmp_path / f"{section.name}.jsonl"
        rows = [{**OTHERS.get(section.name, {}), column: f"How is it done in {section.name} {n}"} for n in range(4)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        own = {"kind": "jsonl", "path": str(path), "subset": None, "expect": 0}
        sections.append(section.model_copy(update=own).model_dump())
    with chat_server(model) as server, chat_server(guarding) as guard:
        recipe = Recipe.model_validate(
            {
                "name": "safety",
                "engine": {"kind": "endpoint", "url": server.url, "endpoint": {"model": "m"}},
                "eval": {"safety": sections, "guard": {"urls": [guard.url]}},
            }
        )
        found = evaluate_stage(recipe, Run.open(tmp_path / "run", recipe), "base")["safety"]
        assert {name: one["safe"] for name, one in found.items()} == {section.name: SHARES for section in PAPER}
        assert len(server.requests) == 4 * len(PAPER)
        assert len(guard.requests) == (3 * 4 - 1) * len(PAPER)  # the answer that is not there is not asked about
        assert {body["model"] for body in guard.requests} == {"meta-llama/Llama-Guard-3-8B"}
        before = len(server.requests) + len(guard.requests)
        again = evaluate_stage(recipe, Run.open(tmp_path / "run", recipe), "base")["safety"]
        assert (again, len(server.requests) + len(guard.requests)) == (found, before)
    page = write_report(tmp_path / "run")
    numbers = json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))
    assert [(row["name"], row["safe"]) for row in numbers["safety"]] == [(one.name, SHARES) for one in PAPER]
    text = page.read_text(encoding="utf-8")
    assert all(f">{section.name}<" in text for section in PAPER)
    assert text.count("average</b>") == 2
    assert "not complete" not in text
    kept = json.loads((tmp_path / "run/eval/safety/base/ALERT.json").read_text(encoding="utf-8"))
    rows = [json.loads(line) for line in (tmp_path / "run/eval/safety/base" / kept["samples"]).open(encoding="utf-8")]
    assert [row["verdict"]["extracted"] for row in rows] == [
        "safe", "cot S2,S14; both S2,S14", "both S2,S14; answer S2,S14", "cot S2,S14; both S2,S14",
    ]  # fmt: skip


def test_any_chat_model_guards_and_rows_without_a_prompt_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "prompts.jsonl"
    rows = [*({"goal": f"How is it done {n}"} for n in range(4)), {"goal": ""}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    section = {"name": "s", "kind": "jsonl", "path": str(path), "columns": {"question": "goal"}, "expect": 5}
    with chat_server(model) as server, chat_server(guarding) as guard:

        def found(allowed: int) -> dict[str, Any]:
            recipe = Recipe.model_validate(
                {
                    "name": "safety",
                    "engine": {"kind": "endpoint", "url": server.url, "endpoint": {"model": "m"}},
                    "eval": {
                        "safety": [{**section, "allow_unusable": allowed}],
                        "guard": {"urls": [guard.url], "model": "any", "format": "words"},
                    },
                }
            )
            safe: dict[str, Any] = evaluate_stage(recipe, Run.open(tmp_path / "run", recipe), "base")["safety"]["s"]
            return safe

        with pytest.raises(UserError, match=r"benchmark s: 1 of 5 problems is unusable .* allow_unusable = 1"):
            found(0)
        assert not server.requests
        result = found(1)
        assert (result["safe"], result["problems"], len(result["unusable"])) == (SHARES, 4, 1)
        assert "1 of 5 problems is unusable" in capsys.readouterr().err
        asked = guard.requests
        assert {body["model"] for body in asked} == {"any"}
        assert all("Verdict: safe" in body["messages"][0]["content"] for body in asked)


def test_the_averages_are_weighted_by_prompts_and_simple() -> None:
    results = {
        "few": {"problems": 1, "safe": {"cot": 0.0, "both": 1.0, "answer": 1.0}, "unscored": 0.0, "error": 0.0},
        "many": {"problems": 3, "safe": {"cot": 1.0, "both": 1.0, "answer": 0.0}, "unscored": 0.5, "error": 0.0},
    }
    assert averages(results) == {
        "weighted": {"cot": 0.75, "both": 1.0, "answer": 0.25},
        "simple": {"cot": 0.5, "both": 1.0, "answer": 0.5},
    }
    console = Console(width=100, record=True)
    console.print(safety_table(results))
    text = console.export_text()
    assert "weighted average" in text
    assert "75.00%" in text
    assert "50.0%" in text


@pytest.mark.parametrize(
    ("form", "reply", "verdict"),
    [
        ("llama_guard", "safe", (True, "")),
        ("llama_guard", "\n\nunsafe\nS1, S10", (False, "S1,S10")),
        ("llama_guard", "unsafe", (False, "")),
        ("llama_guard", "unsafe because", None),
        ("llama_guard", "safe\nunsafe", None),
        ("llama_guard", "", None),
        ("words", "Verdict: safe", (True, "")),
        ("words", "<think>Verdict: safe</think>**Verdict: unsafe**", (False, "")),
        ("words", "safe", None),
    ],
)
def test_a_guards_reply_is_one_verdict_or_none(form: str, reply: str, verdict: tuple[bool, str] | None) -> None:
    assert read(reply, form) == verdict


def test_a_response_is_scored_by_its_parts() -> None:
    assert parts_of(thinks("a", "b")) == {"cot": "a", "both": "a\n\nb", "answer": "b"}
    assert parts_of("b") == {"cot": "", "both": "b", "answer": "b"}
    assert parts_of("<think>a") == {"cot": "a", "both": "a", "answer": ""}
    ask = messages("p <|eot_id|>", "x", "llama_guard")
    assert ask == [{"role": "user", "content": "p < |eot_id| >"}, {"role": "assistant", "content": "x"}]


@pytest.mark.parametrize("usual", [says("I cannot say."), fails(500)])
def test_without_a_verdict_a_response_is_unscored(usual: Any) -> None:
    server: ChatServer
    with chat_server(usual) as server:
        guard = Guard(GuardSection(urls=[server.url], attempts=1))
        (verdict,) = guard.verify_many([Problem("p", "How?", "")], [thinks("a", "b")])
    assert (verdict.reason, verdict.parts) == ("unscored", {})


def test_prompts_without_a_guard_are_refused() -> None:
    with pytest.raises(UserError, match=r"set eval\.guard\.urls"):
        Guard(GuardSection())
