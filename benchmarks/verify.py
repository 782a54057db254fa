"""How far the mathematical verifier agrees with the judgements of others, and how fast it is beside math-verify alone.

    python benchmarks/verify.py [--json] [--only NAME ...] [--quick]

Every disagreement is listed with who is right and why (`verify_reviewed.py`); those that nobody has looked at are
marked so. `equivalence` and `rate` run math-verify itself beside ours, in its own main thread with its own time limits.
The data are found by H1R_DATA, else ../shared/data beside the checkout; a set that is missing is reported as missing.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import logging
import os
import random
import re
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from h1r.records import Problem, Verdict
from h1r.verify import VerifierPool
from h1r.verify.extract import last_boxed
from h1r.verify.math_read import read
from h1r.verify.math_value import same_value
from verify_reviewed import REVIEWED

DATA = Path(os.environ.get("H1R_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
END_TOKENS = re.compile(r"<｜end▁of▁sentence｜>|<\|im_end\|>")
Judged = tuple[str, Problem, str, bool]
"""(record id, problem, response, the recorded judgement)."""


def rows(path: str) -> list[Any]:
    """The records of a JSON or JSONL file, gzipped or not."""
    file = DATA / path
    content = gzip.decompress(file.read_bytes()) if path.endswith("gz") else file.read_bytes()
    text = content.decode()
    if ".jsonl" in path:
        return [json.loads(line) for line in text.splitlines()]
    found = json.loads(text)
    return found if isinstance(found, list) else [found]


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
            yield f"gsm8k/{number}/{model}", problem(gold), row[model]["solution"], bool(row[model]["is_correct"])


def qwen_math() -> Iterator[Judged]:
    for row in rows("qwen_math_cot_100/math_cot_100.jsonl.gz"):
        for number, (text, score) in enumerate(zip(row["code"], row["score"], strict=True)):
            yield f"qwen_math/{row['idx']}/{number}", problem(row["answer"], "math"), text, bool(score)


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
                yield name, problem(gold[0], "math"), END_TOKENS.sub("", row["completion"]), row["reward"] == 1.0


def qwen_coder() -> Iterator[Judged]:
    """The recorded judgement reads `#### number` only, so that is what the answer is taken from here too."""
    (columns,) = rows("qwen25coder7b_gsm8k_outputs/responses_labeled.json.gz")
    for key, (text,) in columns["responses"].items():
        gold = columns["reward_model"][key]["ground_truth"]
        stated = text.rpartition("####")[2] if "####" in text else ""
        yield f"qwen_coder/{key}", problem(gold), stated, bool(columns["is_correct"][key][0])


def qwen_coder_anywhere() -> Iterator[Judged]:
    """The same responses, wherever the answer stands, beside the number that the record extracted from anywhere."""
    (columns,) = rows("qwen25coder7b_gsm8k_outputs/responses_labeled.json.gz")
    for key, (text,) in columns["responses"].items():
        gold = columns["reward_model"][key]["ground_truth"].replace(",", "")
        (found,) = columns["preds"][key]
        recorded = found.strip("$.").replace(",", "")
        same = recorded.replace(".", "", 1).isdigit() and float(recorded) == float(gold)
        yield f"qwen_coder_anywhere/{key}", problem(gold), text, same


def agreement(records: Iterator[Judged], pool: VerifierPool) -> dict[str, Any]:
    """The share of recorded judgements that ours equals, and every one that it does not."""
    judged = list(records)
    verdicts = pool.verify_many([item[1] for item in judged], [item[2] for item in judged])
    differ = [
        disagreement(name, owner.answer, verdict, recorded)
        for (name, owner, _, recorded), verdict in zip(judged, verdicts, strict=True)
        if bool(verdict.reward) != recorded
    ]
    wrong = sum(item["right"] not in ("ours", "policy") for item in differ)
    return {
        "judgements": len(judged),
        "agreement": 1 - len(differ) / len(judged),
        "agreement_after_review": 1 - wrong / len(judged),
        "disagreements": differ,
    }


def disagreement(name: str, reference: str, verdict: Verdict, recorded: bool) -> dict[str, Any]:
    right, why = REVIEWED.get(name, ("unreviewed", "nobody has looked at this one"))
    return {
        "id": name,
        "reference": reference[:120],
        "answer": (verdict.extracted or "")[:120],
        "ours": bool(verdict.reward),
        "recorded": recorded,
        "right": right,
        "why": why,
    }


def equivalence(pool: VerifierPool) -> dict[str, Any]:
    """Precision and recall on labelled pairs, on the half used in development and the half that was held out."""
    pairs = equivalence_pairs()
    owners = [problem(row["reference"], decimals=row["extra"].get("precision")) for _, row in pairs]
    verdicts = pool.verify_many(owners, [row["prediction"] for _, row in pairs])
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
        disagreement(f"equivalence/{name[:12]}", row["reference"], verdict, bool(row["label"])) | {"held_out": hidden}
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
    import math_verify

    options: dict[str, Any] = {}
    if "precision" in extra:
        options["float_rounding"] = extra["precision"]
    if extra.get("allow_set_relation_comp"):
        options["allow_set_relation_comp"] = True
    gold = math_verify.parse(reference) or math_verify.parse(f"${reference}$")
    return bool(math_verify.verify(gold, math_verify.parse(prediction), **options))


def references(pool: VerifierPool) -> dict[str, Any]:
    """Every reference answer must score 1.0 against itself."""
    import pyarrow.parquet as parquet

    def column(path: str, pick: Callable[[Any], Any]) -> list[str]:
        if path.endswith("parquet"):
            return [str(pick(row)) for row in parquet.read_table(DATA / path).to_pylist()]
        return [str(pick(row)) for row in rows(path)]

    sets = {
        "math_train": column("math_train/math.json.gz", lambda row: row["answer"]),
        "math_test": column("math_test_full/test.jsonl.gz", lambda row: last_boxed(row["solution"])),
        "math500": column("math500/test.jsonl", lambda row: row["answer"]),
        "aime_1983_2023": column("aime_1983_2023/aime.json.gz", lambda row: row["answer"]),
        "aime24": column("aime24/test.jsonl", lambda row: row["expected_answer"]),
        "aime25": column("aime25/test.jsonl", lambda row: row["expected_answer"]),
        "comp_math_24_25": column("comp_math_24_25/test.jsonl", lambda row: row["expected_answer"]),
        "amc23": column("amc23/test.jsonl", lambda row: row["answer"]),
        "olympiadbench": column("olympiadbench/test.jsonl.gz", lambda row: row["final_answer"][0]),
        "minerva": column("rllm_math_test/minerva.json.gz", lambda row: row["answer"][0]),
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
    result: dict[str, Any] = {}
    for name, answers in sets.items():
        verdicts = pool.verify_many(
            [problem(answer, "math") for answer in answers], [rf"\boxed{{{answer}}}" for answer in answers]
        )
        failed = [answer[:120] for answer, verdict in zip(answers, verdicts, strict=True) if verdict.reward < 1]
        result[name] = {"references": len(answers), "score_themselves": len(answers) - len(failed), "failed": failed}
    return result


def hostile_answers() -> list[str]:
    """One of each kind of answer that is made to stop a verifier."""
    contents = {
        "deep nests": "(" * 5_000 + ")" * 5_000,
        "deep fractions": r"\frac{" * 900 + "1" + "}{2}" * 900,
        "deep roots": r"\sqrt{" * 200 + "x" + "}" * 200,
        "power tower": "9^{9^{9^{9^{9}}}}",
        "huge exponent": "7^{999999999}",
        "large exponent": "99999^{99999}",
        "huge factorial": "999999999!",
        "nested factorial": "((((9!)!)!)!)!",
        "ten megabytes": "5" * 10_000_000,
        "long number": "1" * 9_000,
        "long sum": "+".join(["x"] * 2_000),
        "unknowns": "+".join(rf"\sin({letter}^{{99}})" for letter in "abcdfghjklmnopqrs"),
        "regex food, blanks": r"\text{" + " " * 9_000 + "x",
        "regex food, dollars": "$" * 5_000,
        "regex food, units": "5 " + "cm/" * 3_000,
        "regex food, brackets": "[(" * 2_000,
        "unreadable integral": r"\int_0^{9^{9^9}} x^{x^x} dx",
        "unreadable sum": r"\sum_{k=1}^{99999999} k!",
        "matrix bomb": r"\begin{pmatrix}" + r"9^{9^9} & " * 60 + r"1\end{pmatrix}",
        "list bomb": ",".join(f"x^{{{power}}}" for power in range(2_000)),
    }
    boxed = [rf"Thus \boxed{{{content}}}" for content in contents.values()]
    return [*boxed, "a" * 10_000_000, r"\boxed{" * 500_000, "<think>" * 100_000]


def traces(quick: bool) -> list[tuple[Problem, str]]:
    """Real responses: short worked solutions and long thinking."""
    found = [(owner, text) for source in (qwen_math, areal) for _, owner, text, _ in source()]
    return found[::4] if quick else found


def rate(quick: bool) -> dict[str, Any]:
    """Verdicts per second of processor time, ours and math-verify alone in turns, and ours with 1 % hostile answers.

    `grade` is the verdict alone, which is what math-verify gives; `service` adds what the pool adds: queues, workers,
    and the format checks of the whole response. Processor time counts the pool's workers too; wall time is beside it.
    """
    work = traces(quick)
    repeats = 3 if quick else 5
    hostile = hostile_answers()
    mixed = list(work)
    places = random.Random(0).sample(range(len(mixed)), max(1, len(mixed) // 100))
    for turn, place in enumerate(places):
        mixed[place] = (problem("x+5", "math"), hostile[turn % len(hostile)])
    sample = work[:: 8 if quick else 4]
    lost = 0
    with VerifierPool(workers=1) as pool:
        pool.verify_many([problem(r"\int_0^1 x dx", "math")], [r"\boxed{\int_0^1 y dy}"])  # starts the worker
        runs: dict[str, tuple[int, Callable[[], Any]]] = {
            "grade": (len(work), lambda: [_grade(owner, text) for owner, text in work]),
            "service": (len(work), lambda: pool.verify_many(*map(list, zip(*work, strict=True)))),
            "hostile": (len(mixed), lambda: pool.verify_many(*map(list, zip(*mixed, strict=True)))),
            "math_verify": (len(sample), lambda: [math_verify_alone(owner.answer, text, {}) for owner, text in sample]),
        }
        processor: dict[str, list[float]] = {name: [] for name in runs}
        wall: dict[str, list[float]] = {name: [] for name in runs}
        for turn in range(repeats + 1):
            for name, (count, run) in runs.items():
                for cached in (read, same_value):  # a run may profit from its own references, not from the run before
                    cached.cache_clear()
                start, used = time.perf_counter(), processor_seconds(pool)
                found = run()
                if name == "hostile":
                    lost += len(mixed) - len(found) + sum(found[place].reward > 0 for place in places)
                if turn:  # the first is a warm-up
                    wall[name].append(count / (time.perf_counter() - start))
                    processor[name].append(count / (processor_seconds(pool) - used))
        latencies = sorted(latency(pool, owner, text) for owner, text in mixed)
        worst = {text[:40]: round(latency(pool, problem("x+5", "math"), text), 4) for text in hostile}
    rates_per_core = {name: round(statistics.median(values), 1) for name, values in processor.items()}
    return {
        "traces": len(work),
        "mean_chars": round(statistics.mean(len(text) for _, text in work)),
        "hostile_share": len(places) / len(mixed),
        "repeats": repeats,
        "verdicts_per_core_s": rates_per_core,
        "verdicts_per_wall_s": {name: round(statistics.median(values), 1) for name, values in wall.items()},
        "grade_over_math_verify": round(rates_per_core["grade"] / rates_per_core["math_verify"], 1),
        "service_over_math_verify": round(rates_per_core["service"] / rates_per_core["math_verify"], 2),
        "throughput_lost_to_hostile": round(1 - rates_per_core["hostile"] / rates_per_core["service"], 4),
        "verdicts_lost_or_fooled": lost,
        "latency_ms": {
            "p50": round(1e3 * latencies[len(latencies) // 2], 3),
            "p99": round(1e3 * latencies[int(len(latencies) * 0.99)], 3),
            "max": round(1e3 * latencies[-1], 3),
        },
        "slowest_hostile_s": dict(sorted(worst.items(), key=lambda item: -item[1])[:5]),
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def latency(pool: VerifierPool, owner: Problem, text: str) -> float:
    start = time.perf_counter()
    pool.verify_many([owner], [text])
    return time.perf_counter() - start


def processor_seconds(pool: VerifierPool) -> float:
    """What this process and the pool's workers have used, in seconds."""
    ticks = 0
    for pid in pool.worker_pids():
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def _grade(owner: Problem, text: str) -> Verdict:
    """The verdict alone, in this process: no worker, no format checks. What math-verify alone is compared with."""
    from h1r.verify import math
    from h1r.verify.extract import split_response

    answer = split_response(text).answer
    return math.grade(owner, answer) if answer else Verdict(0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ("equivalence", "gsm8k", "qwen_math", "areal", "qwen_coder", "qwen_coder_anywhere", "references", "rate")
    parser.add_argument("--json", action="store_true", help="print JSON only")
    parser.add_argument("--quick", action="store_true", help="a quarter of the traces for `rate`")
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    sources = {"gsm8k": gsm8k, "qwen_math": qwen_math, "areal": areal, "qwen_coder": qwen_coder}
    sources["qwen_coder_anywhere"] = qwen_coder_anywhere
    result: dict[str, Any] = {}
    with VerifierPool(workers=1) as pool:
        for name in arguments.only:
            try:
                if name in sources:
                    result[name] = agreement(sources[name](), pool)
                else:
                    own = {"equivalence": lambda: equivalence(pool), "references": lambda: references(pool)}
                    result[name] = own[name]() if name in own else rate(arguments.quick)
            except FileNotFoundError as error:
                result[name] = {"missing": str(error.filename)}
    if arguments.json:
        json.dump(result, sys.stdout, indent=1, ensure_ascii=False)
        print()
        return
    for name, found in result.items():
        print(f"\n{name}")
        for key, value in found.items():
            if key == "disagreements":
                for item in value:
                    print(f"  {item['id']}: {item['right']}: {item['why']}")
                    print(
                        f"    reference {item['reference']!r}, answer {item['answer']!r}, recorded {item['recorded']}"
                    )
            else:
                print(f"  {key}: {value}")


if __name__ == "__main__":
    main()
