r"""What restating a question earns, and which honest answers the rules against it cost.

    restating     the last formula of each question, and each of its formulas, in a box: how many earn, before and after
    rollouts      recorded responses, with their questions: every one that equals the reference and does not earn
    references    the same question in two data sets: the reference of one as the answer to the other

"Before" is the form "any", which accepts whatever equals the reference.
"""

from __future__ import annotations

import dataclasses
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from h1r.mathematics.question import question_formulas
from h1r.records import Problem
from h1r.response.extract import last_boxed
from verification.common import DATA, Context, Reviewed, columns, rows
from verification.math import END_TOKENS

REVIEWED: Reviewed = dict.fromkeys(
    ("qwen05b/svamp/867/9", "qwen05b/svamp/507/4", "qwen05b/svamp/507/14"),
    ("ours", "the reference is a whole number, and the response ends in a division that it does not carry out"),
)

Asked = tuple[str, Problem, str]
"""(name of the record, problem with its question, response)"""


def asked(question: str, answer: Any, verifier: str = "math", **metadata: Any) -> Problem:
    return Problem(id="", question=question, answer=str(answer), verifier=verifier, metadata=metadata)


def questions() -> dict[str, list[tuple[str, str]]]:
    """Data set -> its questions and reference answers."""

    def chat(row: Any) -> str:
        return str(row["prompt"][-1]["content"])

    deepscaler = [
        row
        for part in ("easy_extreme", "uniform", "hard_extreme")
        for row in columns(f"deepscaler_difficulty/deepscaler_{part}_train.parquet")
    ]
    return {
        "math500": [(row["problem"], row["answer"]) for row in rows("math500/test.jsonl")],
        "math_test": [
            (row["problem"], last_boxed(row["solution"]) or "") for row in rows("math_test_full/test.jsonl.gz")
        ],
        "math_train": [(row["problem"], row["answer"]) for row in rows("math_train/math.json.gz")],
        "olympiadbench": [(row["question"], row["final_answer"][0]) for row in rows("olympiadbench/test.jsonl.gz")],
        "omni_math_500": [(row["problem"], row["answer"]) for row in columns("omni_math_500/omni500.parquet")],
        "deepscaler": [(chat(row), row["reward_model"]["ground_truth"]) for row in deepscaler],
        "openmathinstruct2": [
            (row["problem"], row["expected_answer"]) for row in rows("openmathinstruct2_sample/openmathinstruct2.jsonl")
        ],
        "comp_math_24_25": [(row["problem"], row["expected_answer"]) for row in rows("comp_math_24_25/test.jsonl")],
    }


def before_and_after(items: list[Asked], context: Context) -> tuple[list[bool], list[bool], list[str]]:
    """Whether each answer earns with the form "any" and as the problem has it, and the errors of the latter."""
    texts = [text for _, _, text in items]
    anyhow = [dataclasses.replace(owner, metadata={**owner.metadata, "form": "any"}) for _, owner, _ in items]
    first = context.pool.verify_many(anyhow, texts)
    second = context.pool.verify_many([owner for _, owner, _ in items], texts)
    return (
        [verdict.reward == 1 for verdict in first],
        [verdict.reward == 1 for verdict in second],
        [verdict.error or "" for verdict in second],
    )


def restating(context: Context) -> dict[str, Any]:
    """How many questions a box with their last formula answers, of MATH-500 also a box with any of their formulas."""
    result: dict[str, Any] = {}
    for name, pairs in questions().items():
        pairs = pairs if name == "math500" else pairs[:: 20 if context.quick or len(pairs) > 10_000 else 2]
        items = [
            (str(number), asked(question, answer), rf"\boxed{{{formula}}}")
            for number, (question, answer) in enumerate(pairs)
            for formula in question_formulas(question)[0 if name == "math500" else -1 :]
        ]
        earned, earns, _ = before_and_after(items, context)
        last = {number: place for place, (number, _, _) in enumerate(items)}
        result[name] = {
            "questions": len(pairs),
            "last_formula_before": sum(earned[place] for place in last.values()),
            "last_formula_after": sum(earns[place] for place in last.values()),
            "any_formula_before": len({item[0] for item, earning in zip(items, earned, strict=True) if earning}),
            "any_formula_after": len({item[0] for item, earning in zip(items, earns, strict=True) if earning}),
            "earning_but_not_as_written": [
                {"question": owner.question[-200:], "answer": text[7:-1][:120], "reference": owner.answer[:120]}
                for (_, owner, text), earning in zip(items, earns, strict=True)
                if earning and _letters(text[7:-1]) != _letters(owner.answer)
            ],
        }
    return result


def rollouts() -> Iterator[Asked]:
    """Recorded responses with their questions."""
    for row in rows("qwen_math_cot_100/math_cot_100.jsonl.gz"):
        for number, text in enumerate(row["code"]):
            yield f"qwen_math/{row['idx']}/{number}", asked(row["question"], row["answer"]), text
    known = {
        _letters(question): (question, answer)
        for path in ("aime24", "aime25")
        for question, answer in ((row["problem"], row["expected_answer"]) for row in rows(f"{path}/test.jsonl"))
    }
    for file in sorted((DATA / "areal_rollouts").glob("*.jsonl.gz")):
        for row in rows(f"areal_rollouts/{file.name}"):
            prompt = _letters(row["prompt"])
            for letters, (question, answer) in known.items():
                if letters[:60] in prompt or letters[-60:] in prompt:
                    name = f"areal/{file.name.removesuffix('.jsonl.gz')}/{row['task_id']}/{row['sample_idx']}"
                    yield name, asked(question, answer), END_TOKENS.sub("", row["completion"])
                    break
    for number, row in enumerate(rows("gsm8k_model_solutions/example_model_solutions.jsonl")):
        gold = row["ground_truth"].rpartition("A: ")[2].strip()
        for model in ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification"):
            owner = asked(row["question"], gold, "math_lenient")
            yield f"gsm8k/{number}/{model}", owner, row[model]["solution"]
    (table,) = rows("qwen25coder7b_gsm8k_outputs/responses_labeled.json.gz")
    for key, (text,) in table["responses"].items():
        gold = table["reward_model"][key]["ground_truth"]
        yield f"qwen_coder/{key}", asked(table["extra_info"][key]["question"], gold, "math_lenient"), text
    for row in rows("qwen05b_traces/traces.jsonl.gz"):
        for number, trace in enumerate(row["traces"]):
            name = f"qwen05b/{row['source']}/{row['idx']}/{number}"
            yield name, asked(row["problem"], row["gold"], "math_lenient"), trace["text"]
    for number, row in enumerate(rows("openmathinstruct2_sample/openmathinstruct2.jsonl")):
        yield f"openmathinstruct2/{number}", asked(row["problem"], row["expected_answer"]), row["generated_solution"]
    for number, row in enumerate(rows("comp_math_24_25/test.jsonl")):
        owner = asked(row["problem"], row["expected_answer"], "math_lenient")
        yield f"comp_math/{number}", owner, row.get("reference_solution") or ""


def references() -> Iterator[Asked]:
    """Pairs of references to one question that are written differently, each as the answer to the other."""
    by_question: defaultdict[str, dict[str, tuple[str, str]]] = defaultdict(dict)
    for name, pairs in questions().items():
        for question, answer in pairs:
            by_question[_letters(question)][f"{name}: {answer}"] = (question, answer)
    for letters, found in by_question.items():
        answers = {answer for _, answer in found.values()}
        for one, (question, gold) in found.items():
            for other in sorted(answers - {gold}):
                yield f"{letters[:40]}/{one}", asked(question, gold), rf"\boxed{{{other}}}"


def _letters(text: str) -> str:
    return re.sub(r"\W|_", "", text)


def changed(source: Any, context: Context) -> dict[str, Any]:
    """Every answer of a source that equals its reference and does not earn."""
    items: list[Asked] = list(source())
    items = items[::4] if context.quick else items
    earned, earns, errors = before_and_after(items, context)
    lost = [place for place in range(len(items)) if earned[place] and not earns[place]]
    return {
        "answers": len(items),
        "equal_to_the_reference": sum(earned),
        "earning": sum(earns),
        "disagreements": list(_described(lost, items, errors)),
    }


def _described(places: Iterable[int], items: list[Asked], errors: list[str]) -> Iterator[dict[str, Any]]:
    for place in places:
        name, owner, text = items[place]
        right, why = REVIEWED.get(name, ("unreviewed", "nobody has looked at this one"))
        yield {
            "id": name,
            "question": owner.question[-300:],
            "reference": owner.answer[:120],
            "answer": (last_boxed(text) or text[-200:])[:200],
            "error": errors[place],
            "recorded": "equal",
            "right": right,
            "why": why,
        }


def rollout_changes(context: Context) -> dict[str, Any]:
    return changed(rollouts, context)


def reference_changes(context: Context) -> dict[str, Any]:
    return changed(references, context)


SECTIONS = {"restating": restating, "rollout_changes": rollout_changes, "reference_changes": reference_changes}
