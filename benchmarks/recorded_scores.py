"""Do recorded answers have their recorded scores when `h1r eval` asks for them anew? Writes each benchmark and the
replies of a server to a directory, starts `recorded_server.py`, which resets connections, and prints JSON.

    python benchmarks/recorded_scores.py DATA [--resets 0.05] [--only canonical ...]

    canonical   HumanEval by `h1r eval local-benchmarks`: its own solutions
    pass        the same: functions whose body is `pass`
    mmlu_pro    1,749 responses; the record is MMLU-Pro's own grading, which takes the first match
    ifbench     294 responses; the record is whether all instructions were followed, loosely

DATA: a directory with humaneval/, mmlu_pro_sample/ and ifbench/, in the names of their repositories. agree: answers
with the recorded verdict. reset: connections that the server broke.
"""

from __future__ import annotations

import argparse
import gzip
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from recorded_server import account_of, running


class Recorded(NamedTuple):
    """What is asked: arguments of `h1r eval`; what is answered, by a part of the prompt, and the recorded verdicts."""

    arguments: list[str]
    replies: dict[str, str]
    right: dict[str, bool]


def rows(path: Path) -> Iterator[dict[str, Any]]:
    raw = path.read_bytes()
    yield from map(json.loads, (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode().splitlines())


def human_eval(data: Path, body: str | None) -> Recorded:
    replies = {}
    for row in rows(data / "humaneval" / "HumanEval.jsonl.gz"):
        code = row["prompt"] + (row["canonical_solution"] if body is None else body)
        replies[row["prompt"].strip()] = f"```python\n{code}\n```"
    arguments = ["local-benchmarks", "--set", f"corpus.root={data.resolve()}", "--only", "HumanEval"]
    return Recorded(arguments, replies, dict.fromkeys(replies, body is None))


def of_table(work: Path, name: str, problems: list[dict[str, Any]], table: str) -> list[str]:
    """Arguments for a benchmark whose file and table are written here."""
    (work / f"{name}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in problems), encoding="utf-8")
    path = work / f"{name}.toml"
    head = f'[[eval.benchmarks]]\nname = "{name}"\nkind = "jsonl"\npath = "{work / name}.jsonl"\n'
    path.write_text(head + table, encoding="utf-8")
    return ["--benchmark", str(path), "--set", "controls.enabled=false", "--set", "eval.samples=1"]


def mmlu_pro(data: Path, work: Path) -> Recorded:
    problems, replies, right = [], {}, {}
    for row in rows(data / "mmlu_pro_sample" / "model_outputs_stem.jsonl.gz"):
        asked = f"[{row['model']}, question {row['question_id']}]"
        problems.append({"question": asked, "answer": row["gold"]})
        replies[asked], right[asked] = row["output"], row["pred"] == row["gold"]
    columns = 'verifier = "choice"\ncolumns = { question = "question", answer = "answer" }\n'
    return Recorded(
        of_table(work, "mmlu_pro", problems, f'{columns}constants = {{ match = "first" }}\n'), replies, right
    )


def ifbench(data: Path, work: Path) -> Recorded:
    prompts = {row["prompt"].strip(): row for row in rows(data / "ifbench" / "IFBench_test.jsonl")}
    alone = {tuple(row["instruction_id_list"]): row for row in prompts.values()}  # for the one reworded since
    problems, replies, right = [], {}, {}
    for row in rows(data / "ifbench" / "eval_results_loose.jsonl.gz"):
        problem = prompts.get(row["prompt"].strip()) or alone[tuple(row["instruction_id_list"])]
        asked = problem["prompt"].strip()
        problems.append(problem)
        replies[asked], right[asked] = row["response"], row["follow_all_instructions"]
    columns = (
        'verifier = "instructions_loose"\ncolumns = { question = "prompt", id = "key" }\n'
        'metadata = { instruction_id_list = "instruction_id_list", kwargs = "kwargs" }\n'
    )
    return Recorded(of_table(work, "ifbench", problems, columns), replies, right)


def measure(recorded: Recorded, work: Path, resets: float) -> dict[str, Any]:
    (work / "replies.json").write_text(json.dumps({key: [text] for key, text in recorded.replies.items()}))
    with running(replies=work / "replies.json", seconds=0.01, resets=resets) as url:
        asked = ["--url", url, "--model", "recorded", "--no-scaling", "--out", str(work / "run"), "--json"]
        command = [sys.executable, "-m", "h1r", "eval", *recorded.arguments, *asked]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        account = account_of(url)
    if not done.stdout:
        return {"exit": done.returncode}
    (result,) = json.loads(done.stdout)["eval_base"]["benchmarks"].values()
    (samples,) = (work / "run").rglob("*.samples.jsonl")
    text: dict[tuple[int, int], str] = {}
    reward: dict[tuple[int, int], float] = {}
    for line in rows(samples):
        place = line["problem"], line["sample"]
        if "question" in line:
            text[place] = line["question"]
        if line.get("verdict"):
            reward[place] = line["verdict"]["reward"]
    found = {place: max((key for key in recorded.right if key in asked), key=len) for place, asked in text.items()}
    return {
        "exit": done.returncode,
        "problems": result["problems"],
        "unusable": len(result["unusable"]),
        "right": sum(one >= 1 for one in reward.values()),
        "recorded_right": sum(recorded.right.values()),
        "agree": sum((reward[place] >= 1) == recorded.right[key] for place, key in found.items()),
        **{key: result[key] for key in ("pass_at_1", "unscored", "error")},
        "requests": account["requests"],
        "reset": account.get("reset", 0),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--resets", type=float, default=0.05)
    names = ("canonical", "pass", "mmlu_pro", "ifbench")
    parser.add_argument("--only", nargs="*", choices=names, default=names)
    given = parser.parse_args()
    answer = {}
    for name in given.only:
        with tempfile.TemporaryDirectory() as directory:
            work = Path(directory)
            if name in ("canonical", "pass"):
                recorded = human_eval(given.data, None if name == "canonical" else "    pass\n")
            else:
                recorded = {"mmlu_pro": mmlu_pro, "ifbench": ifbench}[name](given.data, work)
            answer[name] = measure(recorded, work, given.resets)
    print(json.dumps(answer, indent=1))
