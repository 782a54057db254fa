"""How far our verdict on each single instruction agrees with IFBench's recorded results, strict and loose.

`load` counts the prompts of both data sets whose every instruction can be checked.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from h1r.records import Problem
from h1r.verify.instructions.grade import InstructionError, follow
from verification.common import Context, Judged, agreement, rows

PROMPTS = {"ifeval": "ifeval/input_data.jsonl", "ifbench": "ifbench/IFBench_test.jsonl"}


def recorded(mode: str) -> Iterator[Judged]:
    """One record per instruction. Results name the prompt; one, reworded since, is found by its instruction."""
    prompts = {row["prompt"].strip(): row for row in rows(PROMPTS["ifbench"])}
    alone = {tuple(row["instruction_id_list"]): row for row in prompts.values()}
    for number, row in enumerate(rows(f"ifbench/eval_results_{mode}.jsonl.gz")):
        source = prompts.get(row["prompt"].strip()) or alone[tuple(row["instruction_id_list"])]
        kept = zip(source["instruction_id_list"], source["kwargs"], row["follow_instruction_list"], strict=True)
        for name, given, held in kept:
            owner = Problem(
                id="",
                question=source["prompt"],
                answer=name,
                verifier="instructions" if mode == "strict" else "instructions_loose",
                metadata={"instruction_id_list": [name], "kwargs": [given]},
            )
            yield Judged(f"ifbench_{mode}/{number}/{name}", owner, row["response"], held)


def ifbench(mode: str, context: Context) -> dict[str, Any]:
    return agreement(recorded(mode), context.pool, {})


def load(context: Context) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, path in PROMPTS.items():
        failed = []
        for row in rows(path):
            try:
                follow(row, row["prompt"], "An answer.")
            except InstructionError as error:
                failed.append(f"{row['key']}: {error}")
        found[name] = {"prompts": len(rows(path)), "can_be_checked": len(rows(path)) - len(failed), "failed": failed}
    return found


SECTIONS = {
    "instructions_load": load,
    "ifbench_strict": partial(ifbench, "strict"),
    "ifbench_loose": partial(ifbench, "loose"),
}
