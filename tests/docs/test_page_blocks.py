"""The code blocks of README and the pages run, in a directory that has what they speak of.

A shell block runs command by command, each once however many pages name it; a Python block is a program.
What a comment says is not run, and programs of others (`pip`, `docker`, ...) and what runs until it is stopped (a
server, a conversation) are only parsed (test_page_commands.py).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

import warm
from h1r.common.packaged import packaged
from h1r.config import resolve
from h1r.run.directory import Run
from page_blocks import Block, blocks, words

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCKS = [
    block
    for page in PAGES
    for block in blocks(page)
    if page.parent.name != "log" and block.not_run is None and not block.elsewhere
]
TALKING = (["h1r", "serve"], ["h1r", "chat"], ["h1r", "watch"])
OTHERS = ("pip", "make", "git", "torchrun", "vllm", "docker")
FILES = {
    "problems.jsonl": [
        {"question": "What is 2 + 3?", "answer": "5", "reference": "5"},
        {"question": "What is 4 + 4?", "answer": "8", "reference": "8"},
    ],
    "own.jsonl": [{"text": "What is 2 + 3?", "gold": "5"}, {"text": "What is 9 - 4?", "gold": "5"}],
    "chats.jsonl": [{"question": f"What is {n} + 1?", "answer": str(n + 1)} for n in range(4)],
    "answers.jsonl": [{"prediction": r"\boxed{5}", "reference": "5"}, {"prediction": "4", "reference": "5"}],
}
RECIPE = {
    "name": "demo",
    "chat": {"system_prompt": ""},
    "verify": {"workers": 1},
    "sft": {"epochs": 1},
    "eval": {"samples": 2, "max_tokens": 96},
    "scaling": {"budgets": [4], "warmup": 2, "window": 8, "temperature": 1.0, "top_p": 1.0, "max_tokens": 96},
}
OPENED = """
from contextlib import ExitStack
from h1r import Problem, SamplingParams
from h1r.evals.answers import open_checkpoint, recipe_of
engine, tokenizer = ExitStack().enter_context(open_checkpoint("runs/demo", recipe_of("runs/demo")))
prompt_ids = tokenizer("What is 12 + 30 - 7?")["input_ids"]
"""
BEFORE = {
    "docs/guide/add-an-engine.md": "from h1r.common.engines import ENGINES\n",
    "docs/guide/add-a-model.md": "from own_model import GPT, GPTConfig, from_hf, to_hf\n",
    "docs/guide/deepconf.md": OPENED,
    "docs/guide/parallel.md": """
import torch
import torch.distributed as dist
from h1r.kernels.layout import Layout
from h1r.models import load
dist.init_process_group("gloo", init_method="file://" + __import__("os").path.abspath("group"), rank=0, world_size=1)
group = all_ranks = dist.group.WORLD
model, rank, degree, tokens_of_the_whole_batch = load("runs/demo/rl/model").float(), 0, 1, 12
layout = Layout.of([5, 7])
ids = torch.arange(12)
weights, targets = torch.ones(12), ids
nll = lambda hidden, targets: -model.lm_head(hidden).log_softmax(-1).gather(-1, targets[:, None])[:, 0]
""",
    "docs/guide/rollouts.md": OPENED
    + """
from h1r.verify import VerifierPool
verify_many = VerifierPool(1).verify_many
problems = [Problem("1", "What is 2 + 3?", "5")]
""",
    "docs/internals/engine.md": OPENED,
}
"""What the Python of a page takes for granted."""


@pytest.fixture(scope="module")
def desks(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """A directory for each page."""
    return cache(lambda page: desk(tmp_path_factory.mktemp(page.stem), page))


def desk(folder: Path, page: Path) -> Path:
    """A checkout's recipes and examples, runs whose model is that of the package, and some files."""
    for name in ("recipes", "examples", "benchmarks"):
        (folder / name).symlink_to(ROOT / name)
    for path in (ROOT / "examples").glob("own_*.py"):
        (folder / path.name).symlink_to(path)
    for name in ("demo", "smoke"):
        run = Run.open(folder / "runs" / name, resolve({**RECIPE, "name": name}, {}, "the test"))
        shutil.copytree(packaged("models", "shipped", "small"), run.path / "rl" / "model")
    (folder / "model").symlink_to(folder / "runs" / "demo" / "rl" / "model")
    for name, rows in FILES.items():
        if name == "answers.jsonl" and "verify answers.jsonl" not in page.read_text(encoding="utf-8"):
            continue  # there it is what a command writes
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "bin").mkdir()
    for name, module in (("h1r", "-m h1r "), ("python", "")):
        program = folder / "bin" / name
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" {module}"$@"\n', encoding="utf-8")
        program.chmod(0o755)
    return folder


def commands() -> dict[str, tuple[Path, str, str | None]]:
    """Where it stands -> its page, a command and, where the page shows that it is refused, the message."""
    found: dict[str, tuple[Path, str, str | None]] = {}
    seen: set[str] = set()
    for block in BLOCKS:
        for command in block.commands if block.language == "sh" else ():
            told = words(command)
            if told[0] in OTHERS or told[:2] in TALKING or command in seen:
                continue
            seen.add(command)
            refusal = re.search(rf"^\$ {re.escape(command)}\n(h1r: .*)$", block.text, flags=re.MULTILINE)
            place = f"{block.page.relative_to(ROOT)}:{block.line} {command[:40]}"
            found[place] = (block.page, command, refusal[1] if refusal else None)
    return found


COMMANDS = commands()


@pytest.mark.parametrize(("page", "command", "refusal"), COMMANDS.values(), ids=COMMANDS.keys())
def test_a_command_of_a_page_runs(desks: Callable[[Path], Path], page: Path, command: str, refusal: str | None) -> None:
    told, desk = words(command), desks(page)
    if told[0] == "h1r" and not {"|", ">"} & set(told):
        done = warm.run(*told[1:], cwd=desk)
    else:
        path = {"PATH": f"{desk / 'bin'}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT / "src")}
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=desk, env={**os.environ, **path}, capture_output=True, text=True, timeout=250,
        )  # fmt: skip
    if refusal is None:
        assert done.returncode == 0, done.stderr[-3000:]
    else:
        assert (done.returncode, refusal) == (2, done.stderr.splitlines()[-1])


PROGRAMS = [block for block in BLOCKS if block.language == "python"]


@pytest.mark.parametrize("block", PROGRAMS, ids=lambda block: f"{block.page.relative_to(ROOT)}:{block.line}")
def test_the_python_of_a_page_runs(desks: Callable[[Path], Path], block: Block) -> None:
    desk = desks(block.page)
    program = desk / f"block_{block.line}.py"
    program.write_text(BEFORE.get(str(block.page.relative_to(ROOT)), "") + block.text, encoding="utf-8")
    done = warm.python(program, cwd=desk)
    assert done.returncode == 0, done.stderr[-3000:]
