"""What the guide tells clients to run works against the server, where their packages are installed."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from served_model import KEY, NAME, Running

GUIDE = (Path(__file__).resolve().parents[2] / "docs" / "guide" / "serve.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"<!-- run: (\w+) -->\n```(sh|python)\n(.*?)```", GUIDE, flags=re.DOTALL)

TABLES = {"lm_eval": r"(?m)^\|sums .*\|exact_match\|", "inspect": r"(?m)^accuracy  +\d"}
"""What programs print of a task that was scored."""


def test_every_recipe_is_found() -> None:
    assert [name for name, _, _ in BLOCKS] == [
        "curl", "openai", "lm_eval", "inspect", "langchain_openai", "litellm"
    ]  # fmt: skip


@pytest.mark.parametrize(("needs", "language", "text"), BLOCKS, ids=[name for name, _, _ in BLOCKS])
def test_a_recipe_of_the_guide_runs(server: Running, tmp_path: Path, needs: str, language: str, text: str) -> None:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    if not (shutil.which(needs, path=path) if language == "sh" else importlib.util.find_spec(needs)):
        pytest.skip(f"{needs} is not installed")
    text = text.replace("http://127.0.0.1:8000", server.url).replace("MODEL", NAME)
    (tmp_path / "recipe").write_text(text, encoding="utf-8")
    program = ["sh", "-e"] if language == "sh" else [sys.executable]
    own = {"OPENAI_API_KEY": KEY, "H1R_API_KEY": KEY, "PATH": path, "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [*program, "recipe"], cwd=tmp_path, env={**os.environ, **own}, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    if needs in TABLES:
        assert re.search(TABLES[needs], done.stdout), done.stdout
    assert '"error":{"message"' not in done.stdout
