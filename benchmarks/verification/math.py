r"""How far the mathematical verifier agrees with recorded judgements, with labelled pairs, and with itself.

`equivalence` runs math-verify itself beside ours, as its documentation calls it. `references` asks whether every
reference answer of the data sets scores 1.0 under its own verifier.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from h1r.mathematics.read import read
from h1r.mathematics.types import Opaque
from h1r.records import Problem
from h1r.response.extract import last_boxed
from verification.common import DATA, Context, Judged, agreement, columns, disagreement, rows
from verification.math_reviewed import REVIEWED

END_TOKENS = re.compile(r"<｜end▁of▁sentence｜>|<\|im_end\|>")


def problem(answer: Any, verifier: str = "math_lenient", **metadata: Any) -> Problem:
    return Problem(id="", question="", answer=str(answer), verifier=verifier, metadata=metadata)


def equivalence_pairs() -> list[tuple[str, dict[str, Any]]]:
    found = []
    for row in rows("answer_equivalence/pairs.jsonl"):
        digest = hashlib.sha256((row["reference"] + "\0" + row["prediction"]).encode())
        found.append((digest.hexdigest(), row))
    return found


def gsm8k() -> Iterator[Judged]:
    for number, row in enumerate(rows("gsm8k_model_solutions/example_model_solutions.jsonl")):
        gold = row["ground_truth"].rpartition("A: ")[2].strip()
        for model in ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification"):
            yield Judged(
                f"gsm8k/{number}/{model}", problem(gold), row[model]["solution"], bool(row[model]["is_correct"])
            )


def qwen_math() -> Iterator[Judged]:
    for row in rows("qwen_math_cot_100/math_cot_100.jsonl.gz"):
        for number, (text, score) in enumerate(zip(row["code"], row["score"], strict=True)):
            yield Judged(f"qwen_math/{row['idx']}/{number}", problem(row["answer"], "math"), text, bool(score))


def areal() -> Iterator[Judged]:
    """Rollouts on AIME 24 and 25; the reference is found by the problem's text, which the prompt holds."""
    letters = re.compile(r"\W")
    references = {
        letters.sub("", row["problem"]): row["expected_answer"]
        for name in ("aime24", "aime25")
        for row in rows(f"{name}/test.jsonl")
    }
    for file in sorted((DATA / "areal_rollouts").glob("*.jsonl.gz")):
        for row in rows(f"areal_rollouts/{file.name}"):
            prompt = letters.sub("", row["prompt"])
            gold = [answer for text, answer in references.items() if text[:60] in prompt]
            gold = gold or [answer for text, answer in references.items() if text[-60:] in prompt]
            if len(set(gold)) == 1:
                name = f"areal/{file.name.removesuffix('.jsonl.gz')}/{row['task_id']}/{row['sample_idx']}"
                yield Judged(
                    name, problem(gold[0], "math"), END_TOKENS.sub("", row["completion"]), row["reward"] == 1.0
                )


def qwen_coder() -> Iterator[Judged]:
    """The recorded judgement reads `#### number` only, so that is what the answer is taken from here too."""
    (table,) = rows("qwen25coder7b_gsm8k_outputs/responses_labeled.json.gz")
    for key, (text,) in table["responses"].items():
        gold = table["reward_model"][key]["ground_truth"]
        stated = text.rpartition("####")[2] if "####" in text else ""
        yield Judged(f"qwen_coder/{key}", problem(gold), stated, bool(table["is_correct"][key][0]))


def qwen_coder_anywhere() -> Iterator[Judged]:
    """The same responses, wherever the answer stands, beside the number that the record extracted from anywhere."""
    (table,) = rows("qwen25coder7b_gsm8k_outputs/responses_labeled.json.gz")
    for key, (text,) in table["responses"].items():
        gold = table["reward_model"][key]["ground_truth"].replace(",", "")
        (found,) = table["preds"][key]
        recorded = found.strip("$.").replace(",", "")
        same = recorded.removeprefix("-").replace(".", "", 1).isdigit() and float(recorded) == float(gold)
        yield Judged(f"qwen_coder_anywhere/{key}", problem(gold), text, same)


def equivalence(context: Context) -> dict[str, Any]:
    """Precision and recall on labelled pairs, on the half used in development and the half that was held out."""
    pairs = equivalence_pairs()
    owners = [problem(row["reference"], decimals=row["extra"].get("precision")) for _, row in pairs]
    verdicts = context.pool.verify_many(owners, [row["prediction"] for _, row in pairs])
    ours = [bool(verdict.reward) for verdict in verdicts]
    theirs = [math_verify_alone(row["reference"], row["prediction"], row["extra"]) for _, row in pairs]
    corrected = [
        not row["label"] if REVIEWED.get(f"equivalence/{name[:12]}", ("", ""))[0] == "ours" else bool(row["label"])
        for name, row in pairs
    ]
    labels = [bool(row["label"]) for _, row in pairs]
    held = [int(name[:2], 16) % 2 == 1 for name, _ in pairs]
    result: dict[str, Any] = {"pairs": len(pairs), "held_out_pairs": sum(held)}
    for part, mask in {"all": [True] * len(pairs), "held_out": held, "development": [not one for one in held]}.items():
        for kind, truth in {"as_labelled": labels, "after_review": corrected}.items():
            result[f"{part}_{kind}"] = {
                "ours": rates(ours, truth, mask),
                "math_verify": rates(theirs, truth, mask),
            }
    result["disagreements"] = [
        disagreement(f"equivalence/{name[:12]}", row["reference"], verdict, bool(row["label"]), REVIEWED)
        | {"held_out": hidden}
        for (name, row), verdict, hidden in zip(pairs, verdicts, held, strict=True)
        if bool(verdict.reward) != bool(row["label"])
    ]
    return result


def rates(verdicts: list[bool], truth: list[bool], mask: list[bool]) -> dict[str, float]:
    kept = [(verdict, real) for verdict, real, use in zip(verdicts, truth, mask, strict=True) if use]
    hits = sum(verdict and real for verdict, real in kept)
    return {
        "precision": hits / max(1, sum(verdict for verdict, _ in kept)),
        "recall": hits / max(1, sum(real for _, real in kept)),
    }


def math_verify_alone(reference: str, prediction: str, extra: dict[str, Any]) -> bool:
    """math-verify as its documentation calls it, with the options that the test of a pair used."""
    options: dict[str, Any] = {}
    if "precision" in extra:
        options["float_rounding"] = extra["precision"]
    if extra.get("allow_set_relation_comp"):
        options["allow_set_relation_comp"] = True
    return verified(parsed_reference(reference), prediction, **options)


def parsed_reference(reference: str) -> list[Any]:
    import math_verify

    parsed: list[Any] = math_verify.parse(reference) or math_verify.parse(f"${reference}$")
    return parsed


def verified(gold: list[Any], prediction: str, **options: Any) -> bool:
    import math_verify

    return bool(math_verify.verify(gold, math_verify.parse(prediction), **options))


def reference_answers() -> dict[str, list[str]]:
    """The reference answers of each data set."""

    def column(path: str, pick: Callable[[Any], Any]) -> list[str]:
        found = columns(path) if path.endswith("parquet") else rows(path)
        return [str(pick(row)) for row in found]

    return {
        "math_train": column("math_train/math.json.gz", lambda row: row["answer"]),
        "math_test": column("math_test_full/test.jsonl.gz", lambda row: last_boxed(row["solution"])),
        "math500": column("math500/test.jsonl", lambda row: row["answer"]),
        "aime_1983_2023": column("aime_1983_2023/aime.json.gz", lambda row: row["answer"]),
        "aime24": column("aime24/test.jsonl", lambda row: row["expected_answer"]),
        "aime25": column("aime25/test.jsonl", lambda row: row["expected_answer"]),
        "comp_math_24_25": column("comp_math_24_25/test.jsonl", lambda row: row["expected_answer"]),
        "amc23": column("amc23/test.jsonl", lambda row: row["answer"]),
        "olympiadbench": column("olympiadbench/test.jsonl.gz", lambda row: row["final_answer"][0]),
        "minerva": [answer for row in rows("rllm_math_test/minerva.json.gz") for answer in row["answer"]],
        "omni_math_500": column("omni_math_500/omni500.parquet", lambda row: row["answer"]),
        "numina_validation": column(
            "numina_validation/validation.parquet", lambda row: row["reward_model"]["ground_truth"]
        ),
        "deepscaler_uniform": column(
            "deepscaler_difficulty/deepscaler_uniform_train.parquet", lambda row: row["reward_model"]["ground_truth"]
        ),
        "openmathinstruct2": column(
            "openmathinstruct2_sample/openmathinstruct2.jsonl", lambda row: row["expected_answer"]
        ),
    }


def references(context: Context) -> dict[str, Any]:
    """Every reference answer must score 1.0 against itself; `untyped` are those that are compared as texts only."""
    result: dict[str, Any] = {}
    for name, answers in reference_answers().items():
        verdicts = context.pool.verify_many(
            [problem(answer, "math") for answer in answers], [rf"\boxed{{{answer}}}" for answer in answers]
        )
        result[name] = {
            "references": len(answers),
            "fail": [answer[:120] for answer, verdict in zip(answers, verdicts, strict=True) if verdict.reward < 1],
            "untyped": sum(isinstance(read(answer), Opaque) for answer in answers),
        }
    return result


def recorded(source: Any, context: Context) -> dict[str, Any]:
    return agreement(source(), context.pool, REVIEWED)


SECTIONS = {
    "equivalence": equivalence,
    **{
        source.__name__: partial(recorded, source)
        for source in (gsm8k, qwen_math, areal, qwen_coder, qwen_coder_anywhere)
    },
    "references": references,
}
