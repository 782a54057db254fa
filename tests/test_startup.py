"""What the first answer waits for, held by what is imported for it: seconds depend on the machine, this does not."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

NEVER = ("datasets", "duckdb", "huggingface_hub", "math_verify", "matplotlib", "pandas", "pyarrow", "reasoning_gym",
         "scipy", "sympy", "torch._dynamo", "torch._inductor", "transformers")  # fmt: skip
LEFT_OUT = {
    "generate": [*NEVER, "h1r.mathematics", "h1r.scaling", "starlette", "uvicorn"],
    "solve": [*NEVER, "starlette", "uvicorn"],
    "serve": [*NEVER],
}
PROGRAM = """
import json, os, signal, socket, sys, threading, time, urllib.error, urllib.request
from h1r.cli import main

left_out, loaded, answered = json.loads(sys.argv[1]), {}, []

def run(*words):
    try:
        code = main(words)
    except SystemExit as end:
        code = end.code or 0
    assert code == 0, words

def look(command):
    loaded[command] = sorted({*left_out[command]} & {*sys.modules})

def ask_the_server(url):
    body = {"model": "small", "prompt": "1 + 1 =", "max_tokens": 4}
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    while not answered:
        try:
            answered.append(json.load(urllib.request.urlopen(request, timeout=300))["usage"]["completion_tokens"])
        except urllib.error.URLError:
            time.sleep(0.1)
    look("serve")
    os.kill(os.getpid(), signal.SIGTERM)

run("generate", "h1r:small", "-p", "1 + 1 =", "--max-tokens", "4")
look("generate")
run("solve", "What is 12 + 30 - 7?", "--set", "scaling.budgets=[8]")
look("solve")
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
threading.Thread(target=ask_the_server, args=[f"http://127.0.0.1:{port}/v1/completions"], daemon=True).start()
run("serve", "--port", str(port))
assert answered == [4]
print("\\n" + json.dumps(loaded))
"""


@cache
def loaded() -> dict[str, list[str]]:
    """Of what each command leaves out, what was loaded after its first answer. One process runs them in turn."""
    command = [sys.executable, "-c", PROGRAM, json.dumps(LEFT_OUT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, list[str]] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("command", LEFT_OUT)
def test_the_first_answer_waits_for_no_import_that_it_does_not_need(command: str) -> None:
    assert loaded()[command] == []


MISTAKES = """
import sys
from pathlib import Path
from h1r.cli import main

for name in ("none.jsonl", "none.json"):
    Path(name).touch()
for task in ("sft", "rl", "eval"):
    main(["init", task, "--model", "h1r:small", "--data", "none.jsonl"])
for words in (
    *("sft none.jsonl --model h1r:small", "sft none.json --model h1r:small", "sft sft.toml", "rl rl.toml"),
    *("rl tiny --model h1r:small --problems none.jsonl", "solve none.jsonl", "solve gone.jsonl", "eval eval.toml"),
    *("eval h1r:small --benchmark none.jsonl", "eval eval.toml --benchmark none.json", "verify none.jsonl"),
    *("sft gone.jsonl --model h1r:small", "sft sft.toml --set sft.data=gone.jsonl"),
):
    assert main(words.split()) == 2, words
    assert "torch" not in sys.modules, words
"""


def test_what_is_loaded_is_called_as_it_was_given(tmp_path: Path) -> None:
    (tmp_path / "own.jsonl").write_text('{"question": "1 + 1?", "answer": "2"}\n')
    command = [sys.executable, "-m", "h1r", "eval", "h1r:small", "--benchmark", "own.jsonl", "--dry-run"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True, cwd=tmp_path)
    assert done.stderr.splitlines()[0] == "loading h1r:small"


def test_a_file_is_looked_at_before_anything_slow_is_loaded(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MISTAKES], capture_output=True, text=True, timeout=100, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "loading" not in done.stderr
