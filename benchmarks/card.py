"""All that a first run on a CUDA card should show, in one command and about eight minutes.

    python benchmarks/card.py [--only NAMES] [--limit SECONDS] [--out DIR]

Each part is a command of its own with a limit of its own: one that fails or hangs costs only itself, and what it last
printed is kept in DIR. At the end stands a table, a line per part: what came of it, in how many seconds, and its main
figures; DIR/card.json holds all rows. Parts: kernels (errors against float64, times beside plain PyTorch), tests (those
marked `gpu`), parity (packed, cached, saved, in other implementations), step (0.5B, and layers of the 7B, at 4,096 and
36,864 tokens: tokens/s, share of the measured ceiling, memory beside the plan's), decode (steps, graphs and vLLM),
demo (SFT, RL, evaluation and DeepConf of a tiny model), train (SFT and RL of the 0.5B geometry in bf16), vllm (our
plugin in vLLM stops traces). What cannot run here says why. Exit status 1 if a part failed.

Without a card the same parts run at the smallest sizes on the CPU, as a rehearsal.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).resolve().parent
ON_CARD = torch.cuda.is_available()
PATIENCE = 1 if ON_CARD else 5  # a rehearsal may run beside other work
PYTHON = sys.executable
H1R = [PYTHON, "-m", "h1r"]
Figures = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """limit_s: seconds after which it is ended. figures: reads the main ones from what it wrote. needs: packages."""

    name: str
    command: list[str]
    limit_s: int
    figures: Callable[[Path], Figures]
    needs: tuple[str, ...] = ()
    card_only: bool = False


def parts(out: Path) -> list[Part]:
    """In the order of what must be right first. Paths lie under `out`."""
    train, decode = str(HERE / "gpu_train_step.py"), str(HERE / "gpu_decode.py")
    small = [] if ON_CARD else ["--geometries", "tiny:2", "--tokens", "256"]
    geometry = ["model.preset=0.5b", "sft.compute_dtype=bfloat16", "rl.compute_dtype=bfloat16", "rl.steps=2"]
    cases = ["--quick", "--geometries", "0.5b,7b"] if ON_CARD else ["--geometries", "tiny", "--cases", "2:8:6"]
    demo, larger = str(out / "demo"), str(out / "train")
    smoke = str(HERE.parent / "recipes" / "smoke.toml")
    return [
        Part(
            "kernels",
            [PYTHON, train, "--quick", "--only", "checks,operators", *small, "--out", str(out / "kernels.json")],
            120, kernel_figures,
        ),
        Part(
            "tests", [PYTHON, "-m", "pytest", "-q", "-n0", "-m", "gpu", str(HERE.parent / "tests" / "model")],
            120, test_figures, needs=("pytest", "hypothesis"), card_only=True,
        ),
        Part(
            "parity",
            [*H1R, "parity", *(["0.5b", "--dtype", "bfloat16"] if ON_CARD else ["tiny"]), "--layers", "2", "--json"],
            120, parity_figures,
        ),
        Part(
            "step",
            [PYTHON, train, "--quick", "--only", "steps", *(small or ["--tokens", "4096,36864", "--no-peers"]),
             "--out", str(out / "step.json")],
            150, step_figures,
        ),
        Part("decode", [PYTHON, decode, *cases, "--repeats", "2", "--json"], 240, decode_figures),
        Part("demo", [*H1R, "demo", smoke, "--out", demo, "--json"], 240, run_figures),
        Part(
            "train", [*H1R, "demo", smoke, "--out", larger, "--json", *with_settings(geometry if ON_CARD else [])],
            240, run_figures,
        ),
        Part(
            "vllm",
            [*H1R, "solve", f"{demo}/rl/model", "2 + 3 = ?", "--recipe", smoke, "--json",
             *with_settings(["engine.kind=vllm", "scaling.warmup=4"])],
            180, solve_figures, needs=("vllm",),
        ),
    ]  # fmt: skip


def with_settings(settings: list[str]) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


def kernel_figures(log: Path) -> Figures:
    found = json.loads((log.parent / "kernels.json").read_text(encoding="utf-8"))
    ours = [row for row in found["checks"] if row["kernels"] in ("triton", "torch")]
    worst = max(ours, key=lambda row: row["error"] or 0.0)
    return {
        "card": found["card"], "matmul TFLOP/s": round(found["ceilings"]["matmul_flops"] / 1e12, 1),
        "copy GB/s": round(found["ceilings"]["copy_bytes_per_s"] / 1e9, 1),
        "checks passed": f"{sum(row['verdict'] == 'passed' for row in ours)} of {len(ours)}",
        "worst error": f"{worst['error']:.1e} ({worst['check']})",
    }  # fmt: skip


def test_figures(log: Path) -> Figures:
    counts = re.findall(r"(\d+) (passed|failed|skipped|error)", log.read_text(encoding="utf-8"))
    return {kind: int(count) for count, kind in counts}


def parity_figures(log: Path) -> Figures:
    checks = printed_json(log)["checks"]
    return {verdict: sum(c["verdict"] == verdict for c in checks) for verdict in sorted({c["verdict"] for c in checks})}


def step_figures(log: Path) -> Figures:
    rows = json.loads((log.parent / "step.json").read_text(encoding="utf-8"))["steps"]
    figures: Figures = {}
    for row in rows:
        if row["engine"] == "h1r" and row["mix"] == "one document":
            memory = f", {row['peak_gib']:.1f} GiB, foretold {row['foretold_gib']:.1f}" if "peak_gib" in row else ""
            said = (
                row.get("why") or f"{row['tokens_per_s']:,.0f} tokens/s, {row['share_of_ceiling']:.0%} of the ceiling"
            )
            figures[f"{row['geometry']} {row['tokens']:,}"] = said + memory
    return figures


def decode_figures(log: Path) -> Figures:
    figures: Figures = {}
    for row in printed_json(log):
        if "tokens_per_s" in row:
            figures[f"{row['engine']} {row['geometry']} x{row['sequences']}"] = f"{row['tokens_per_s']:,.0f} tokens/s"
        elif row["engine"] != "machine":
            figures[row["engine"]] = row.get("why", "ok" if row["ok"] else "differs")
    return figures


def run_figures(log: Path) -> Figures:
    found = printed_json(log)
    return {"pass@1": found["pass_at_1"], "wall s": round(found["wall_seconds"])}


def solve_figures(log: Path) -> Figures:
    found = printed_json(log)
    return {key: found[key] for key in ("answer", "traces", "tokens") if key in found}


def printed_json(log: Path) -> Any:
    """What a command printed last: one JSON value over one line or several, after notes of other libraries."""
    text = log.read_text(encoding="utf-8")
    for match in reversed(list(re.finditer(r"^[\[{]", text, re.MULTILINE))):
        try:
            return json.JSONDecoder().raw_decode(text, match.start())[0]
        except ValueError:
            continue
    raise ValueError("it printed no JSON")


def run(part: Part, out: Path) -> dict[str, Any]:
    """A row of the table. Everything that goes wrong ends in `why`."""
    row: dict[str, Any] = {"part": part.name, "verdict": "skipped", "seconds": 0.0, "figures": {}}
    if part.card_only and not ON_CARD:
        return row | {"why": "needs a CUDA card"}
    if missing := [name for name in part.needs if importlib.util.find_spec(name) is None]:
        return row | {"why": f"{missing[0]} is not installed"}
    log, start = out / f"{part.name}.log", time.perf_counter()
    try:
        with log.open("w", encoding="utf-8") as written:
            code = subprocess.run(
                part.command, stdout=written, stderr=subprocess.STDOUT, timeout=PATIENCE * part.limit_s, check=False
            ).returncode
        why = f"exit status {code}" if code else None
    except subprocess.TimeoutExpired:
        why = f"ended after its {PATIENCE * part.limit_s} s"
    row["seconds"] = round(time.perf_counter() - start, 1)
    try:
        row["figures"] = part.figures(log)
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        why = why or f"its output could not be read: {type(error).__name__}: {error}"
    if why is None:
        return row | {"verdict": "passed"}
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return row | {"verdict": "failed", "why": f"{why}; {lines[-1].strip()[:200]}" if lines else why}


def told(row: dict[str, Any]) -> str:
    said = [row["why"]] if "why" in row else []
    said += [f"{name} {value}" for name, value in row["figures"].items()]
    return f"{row['part']:<9} {row['verdict']:<8} {row['seconds']:>6.1f} s  {'; '.join(said)}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=lambda text: text.split(","), help="names of parts, comma-separated")
    parser.add_argument("--limit", type=float, default=PATIENCE * 480, help="seconds in all; none begins after them")
    parser.add_argument("--out", type=Path, default=Path("runs/card"), help="where logs and results go")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    chosen = parts(arguments.out)
    if unknown := sorted(set(arguments.only or []) - {part.name for part in chosen}):
        parser.error(f"--only {unknown[0]} is unknown; choose among {', '.join(part.name for part in chosen)}")
    start, rows = time.perf_counter(), []
    for part in chosen:
        if arguments.only and part.name not in arguments.only:
            continue
        if time.perf_counter() - start > arguments.limit:
            row = {"part": part.name, "verdict": "skipped", "seconds": 0.0, "figures": {}, "why": "no time was left"}
        else:
            row = run(part, arguments.out)
        rows.append(row)
        print(told(row), flush=True)
        (arguments.out / "card.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return int(any(row["verdict"] == "failed" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
