"""How far the code verifier agrees with recorded pass and fail, whether every reference solution passes, and how fast.

Recorded judgements: EvalPlus on twelve model runs over HumanEval and MBPP, each task with its own tests ("base") and
with many more ("plus"), and LiveCodeBench on one model. What the tests at hand reach:

    HumanEval base   all tests; as calls (`code_base`) and as HumanEval's own test code (`code_check`)
    MBPP base        all tests; the types that JSON loses are read off the asserts of MBPP's own prompt
    plus             every input on which a recorded solution failed, for each solution of that task, and for MBPP the
                     generated inputs of an earlier release as well; a recorded failure on no named input is left out
    LiveCodeBench    the first failing test of a recorded failure; nothing of a recorded pass

A reference solution gives the expected results, run like any other code.
"""

from __future__ import annotations

import ast
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any

from h1r.records import Problem, Verdict
from h1r.sandbox import Limits, SandboxPool
from h1r.sandbox.values import encode
from verification.code_reviewed import REVIEWED
from verification.common import DATA, Context, Judged, agreement, rows

SET_RESULTS = frozenset({
    "similar_elements", "find_char_long", "common_in_nested_lists", "extract_singly", "larg_nnum",
    "intersection_array", "find_dissimilar", "Diff",
})  # fmt: skip
TRUTH_RESULTS = frozenset(("check_str", "text_match_three", "text_starta_endb"))
"""MBPP functions whose result EvalPlus compares as a set, or by whether there is one (its `_special_oracle.py`)."""


def problem(name: str, tests: Any, **metadata: Any) -> Problem:
    return Problem(id=name, question="", answer="", verifier="code", metadata={"tests": tests, **metadata})


def fenced(code: str) -> str:
    return f"`````python\n{code}\n`````"


@cache
def humaneval() -> dict[str, dict[str, Any]]:
    """Task id -> the task, with the reference solution and tolerance of EvalPlus beside HumanEval's own."""
    plus = rows("humaneval_plus_contract/HumanEvalPlus.jsonl.gz")
    inputs = {row["task_id"].replace("_", "/"): row["inputs"] for row in rows(GENERATED)}
    tasks = zip(rows("humaneval/HumanEval.jsonl.gz"), plus, strict=True)
    return {task["task_id"]: {**task, **more, "generated": inputs.get(task["task_id"], [])} for task, more in tasks}


GENERATED = "humaneval_plus_inputs/HumanEvalPlusInputsType.jsonl.gz"


SHOWN = {124: [0.0, 1j], 252: [1j]}
"""Arguments of the kind that EvalPlus gives, where the asserts show whole numbers for what may be complex."""


@cache
def mbpp() -> dict[str, dict[str, Any]]:
    """Task id -> the task, its inputs with the types that the asserts of the prompt show."""
    prompts = {row["task_id"]: row["prompt"] for row in rows("mbpp_chatgpt_outputs/chatgpt_temp_0.0.jsonl.gz")}
    found = {}
    for task in rows("mbpp_plus/MbppPlus.jsonl.gz"):
        number = task["task_id"]
        shown = SHOWN.get(number) or asserted_arguments(prompts.get(number, ""), task["entry_point"])
        inputs = {key: [typed_arguments(case, shown) for case in task[key]] for key in ("base_input", "plus_input")}
        found[f"Mbpp/{number}"] = {**task, **inputs, "shown": shown}
    return found


def asserted_arguments(prompt: str, name: str) -> list[Any]:
    """The arguments of the first call of that function in the prompt's asserts; none if they are no literals."""
    for line in prompt.splitlines():
        if line.startswith("assert "):
            for node in ast.walk(ast.parse(line)):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name:
                    try:
                        return [ast.literal_eval(argument) for argument in node.args]
                    except ValueError:
                        return []
    return []


def typed_arguments(case: list[Any], shown: list[Any]) -> list[Any]:
    return [typed(value, shown[index]) if index < len(shown) else value for index, value in enumerate(case)]


def typed(value: Any, shown: Any) -> Any:
    """`value`, read from JSON, with the tuples, sets and numbers that `shown`, a value of its kind, has.

    What is nested deeper than `shown`, or has no counterpart in it, is like the first container that is there.
    """
    if isinstance(shown, (complex, float)) and isinstance(value, (str, int)):
        return type(shown)(value)
    if isinstance(shown, dict) and isinstance(value, dict):
        example = next(iter(shown.values()), None)
        return {key: typed(item, example) for key, item in value.items()}
    if not isinstance(value, list) or not isinstance(shown, (list, tuple, set)):
        return value
    examples = list(shown)
    kinds = {type(example) for example in examples}
    if len(kinds) > 1:
        inner = next((example for example in examples if isinstance(example, (list, tuple, set))), None)
        examples = [inner if isinstance(item, list) else None for item in value]
        if inner is None or isinstance(inner, tuple):
            examples = [shown if isinstance(item, list) else None for item in value]
    else:
        examples = [examples[0] if examples else None] * len(value)
    return type(shown)(typed(item, example) for item, example in zip(value, examples, strict=True))


def differential(name: str, task: dict[str, Any], inputs: list[Any], prompt: str = "") -> Problem:
    """The task with these inputs, what is expected coming from its reference solution. Limits close to EvalPlus' own.

    It gives a call one second, or four times what the reference took on its machine, and a process 4 GiB.
    """
    entry = task["entry_point"]
    is_mbpp = name.startswith("Mbpp")
    rule = "set" if entry in SET_RESULTS else "not_none" if entry in TRUTH_RESULTS else "equal"
    tests = {
        "base_input": inputs,
        "reference": task["canonical_solution"] if is_mbpp else task["prompt"] + task["reference"],
        "atol": task["atol"],
        "rule": rule if is_mbpp else "root" if entry == "find_zero" else "equal",
    }
    return problem(name, tests, entry_point=entry, prompt=prompt, limits={"time_s": 2.0, "memory_bytes": 4 << 30})


def evalplus_runs() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(model, task id, recorded solution) of all twelve runs."""
    for file in sorted((DATA / "evalplus_model_outputs").glob("*.json.gz")):
        benchmark, _, model = file.name.partition("__")
        model = model.removesuffix("-sanitized_eval_results.json.gz").removesuffix("_vllm_temp_0.0")
        (run,) = rows(f"evalplus_model_outputs/{file.name}")
        for name, solutions in run["eval"].items():
            for solution in solutions:
                yield f"{benchmark}/{model}", name, solution


def base_judgements() -> Iterator[Judged]:
    """EvalPlus runs a solution alone, so one that relies on the prompt's imports fails; ours does the same here."""
    for model, name, solution in evalplus_runs():
        task = tasks()[name]
        owner = differential(name, task, task["base_input"])
        yield Judged(f"base/{model}/{name}", owner, fenced(solution["solution"]), solution["base_status"] == "pass")


def check_judgements() -> Iterator[Judged]:
    """The same solutions under HumanEval's own test code, with the prompt's helpers and imports in place."""
    for model, name, solution in evalplus_runs():
        if name.startswith("HumanEval"):
            owner = checked(name, tasks()[name])
            yield Judged(
                f"check/{model}/{name}", owner, fenced(solution["solution"]), solution["base_status"] == "pass"
            )


def checked(name: str, task: dict[str, Any]) -> Problem:
    return problem(name, {"test": task["test"]}, entry_point=task["entry_point"], prompt=task["prompt"])


@cache
def tasks() -> dict[str, dict[str, Any]]:
    return {**humaneval(), **mbpp()}


def plus_judgements() -> Iterator[Judged]:
    named: dict[str, list[Any]] = defaultdict(list)
    for _, name, solution in evalplus_runs():
        named[name] += [case for case in solution["plus_fail_tests"] if case not in named[name]]
    for model, name, solution in evalplus_runs():
        passed = solution["plus_status"] == "pass"
        task = tasks()[name]
        inputs = [typed_arguments(case, task.get("shown", [])) for case in named[name]]
        generated = task.get("plus_input", [])
        if inputs + generated and (passed or solution["plus_fail_tests"]):
            owner = differential(name, task, inputs + generated)
            yield Judged(f"plus/{model}/{name}", owner, fenced(solution["solution"]), passed)


def agreeing(judgements: Callable[[], Iterable[Judged]]) -> Callable[[Context], dict[str, Any]]:
    def section(context: Context) -> dict[str, Any]:
        judged = list(judgements())
        return agreement(judged[::8] if context.quick else judged, context.pool, REVIEWED)

    return section


KINDS = {-2: "wrong answer", -3: "time limit", -4: "error"}
"""LiveCodeBench's codes of why a test failed."""


def livecodebench(context: Context) -> dict[str, Any]:
    """Recorded failures on the test that the record names: whether ours fails too, and for the same reason.

    Where the record shortened the test there is nothing to run; of what passed it names no test.
    """
    work, recorded, unreadable = [], [], 0
    for row in rows("livecodebench_outputs/qwen2.5-7b_zeroshotcot_codegen.jsonl.gz"):
        for code, passed, metadata in zip(row["code_list"], row["graded_list"], row["metadata"], strict=True):
            record = json.loads(metadata)
            if passed or "inputs" not in record:
                continue
            try:
                work.append((livecodebench_problem(row, record), fenced(code)))
                recorded.append(KINDS[record["error_code"]])
            except (ValueError, SyntaxError):
                unreadable += 1
    step = 8 if context.quick else 1
    work, recorded = work[::step], recorded[::step]
    verdicts = context.pool.verify_many([owner for owner, _ in work], [text for _, text in work])
    kinds = [kind_of(verdict) for verdict in verdicts]
    different = [
        {"id": owner.id, "recorded": theirs, "ours": ours, "error": verdict.error}
        | dict(zip(("right", "why"), REVIEWED.get(f"livecodebench/{owner.id}", ("unreviewed", "")), strict=True))
        for (owner, _), theirs, ours, verdict in zip(work, recorded, kinds, verdicts, strict=True)
        if theirs != ours
    ]
    return {
        "unreadable_tests": unreadable,
        "recorded_failures": len(work),
        "fail": sum(verdict.reward == 0 for verdict in verdicts),
        "same_reason": len(work) - len(different),
        "different": different,
    }


def kind_of(verdict: Verdict) -> str:
    if verdict.reward == 1.0:
        return "pass"
    why = verdict.error or ""
    return next((kind for kind in ("wrong answer", "time limit") if kind in why), "error")


def livecodebench_problem(row: dict[str, Any], record: dict[str, Any]) -> Problem:
    """The problem with the one test of the record; `ValueError` or `SyntaxError` when the record shortened it."""
    name = str(row["question_id"])
    if "(truncated)" in record["inputs"] + record["expected"]:
        raise ValueError("shortened")
    if not row["starter_code"]:
        return problem(name, [{"input": record["inputs"], "output": record["expected"]}], language="python")
    entry = row["starter_code"].rpartition("def ")[2].partition("(")[0]
    is_text = row["starter_code"].rpartition("->")[2].strip().startswith("str")
    arguments = ast.literal_eval(record["inputs"])
    expected = record["expected"] if is_text else ast.literal_eval(record["expected"])
    case = {"input": "\n".join(map(json.dumps, arguments)), "output": json.dumps(expected), "testtype": "functional"}
    return problem(name, [case], func_name=entry)


def references(context: Context) -> dict[str, Any]:
    """Whether every reference solution passes its own tests."""
    sets: dict[str, Iterator[tuple[Problem, str]]] = {
        "humaneval": humaneval_references(),
        "humaneval_plus": humaneval_plus_references(),
        "mbpp_plus": mbpp_references(),
        "leetcode_train": leetcode("rllm_code/leetcode_train.json.gz"),
        "leetcode_test": leetcode("rllm_code/leetcode_test.json.gz"),
    }
    result: dict[str, Any] = {}
    for name, pairs in sets.items():
        work = list(pairs)[:: 8 if context.quick else 1]
        start = time.perf_counter()
        verdicts = context.pool.verify_many([owner for owner, _ in work], [fenced(code) for _, code in work])
        failed = {
            owner.id: {"why": verdict.error, "reviewed": REVIEWED.get(f"{name}/{owner.id}", ("unreviewed", ""))[1]}
            for (owner, _), verdict in zip(work, verdicts, strict=True)
            if verdict.reward < 1
        }
        result[name] = {
            "references": len(work),
            "pass": len(work) - len(failed),
            "tests": round(sum(verdict.parts.get("tests_total", 0) for verdict in verdicts)),
            "seconds": round(time.perf_counter() - start, 2),
            "failed": failed,
        }
    return result


def humaneval_references() -> Iterator[tuple[Problem, str]]:
    for name, task in humaneval().items():
        yield checked(name, task), task["prompt"] + task["canonical_solution"]


def humaneval_plus_references() -> Iterator[tuple[Problem, str]]:
    """EvalPlus' corrected solution against itself, on every input at hand that keeps the task's contract."""
    with SandboxPool() as pool:
        for name, task in humaneval().items():
            guarded = task["prompt"] + task["contract"] + task["reference"]
            inputs = task["base_input"] + accepted(pool, guarded, task["entry_point"], task["generated"])
            yield differential(name, task, inputs), task["prompt"] + task["reference"]


def accepted(pool: SandboxPool, code: str, entry: str, inputs: list[Any]) -> list[Any]:
    """The inputs on which the code raises nothing."""
    kept = []
    with pool.lease() as slot, slot.calls({"kind": "calls", "code": [code]}, Limits(memory_bytes=4 << 30)) as session:
        session.receive()
        for case in inputs:
            reply, _ = session.ask({"do": "call", "target": entry, "args": [encode(value) for value in case]})
            if reply is not None and "value" in reply:
                kept.append(case)
    return kept


def mbpp_references() -> Iterator[tuple[Problem, str]]:
    for name, task in mbpp().items():
        owner = differential(name, task, task["base_input"] + task["plus_input"])
        yield owner, task["canonical_solution"]


def leetcode(path: str) -> Iterator[tuple[Problem, str]]:
    for number, row in enumerate(rows(path)):
        yield problem(str(number), row["tests"]), row["solutions"]


SECTIONS = {
    "code_base": agreeing(base_judgements),
    "code_check": agreeing(check_judgements),
    "code_plus": agreeing(plus_judgements),
    "code_livecodebench": livecodebench,
    "code_references": references,
}
