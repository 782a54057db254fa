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


def test_every_recipe_is_found() -> None:
    assert [name for name, _, _ in BLOCKS] == ["curl", "openai", "lm_eval", "inspect_ai"]


@pytest.mark.parametrize(("needs", "language", "text"), BLOCKS, ids=[name for name, _, _ in BLOCKS])
def test_a_recipe_of_the_guide_runs(server: Running, tmp_path: Path, needs: str, language: str, text: str) -> None:
    if not (shutil.which(needs) if language == "sh" else importlib.util.find_spec(needs)):
        pytest.skip(f"{needs} is not installed")
    text = text.replace("http://127.0.0.1:8000", server.url).replace("MODEL", NAME)
    (tmp_path / "recipe").write_text(text, encoding="utf-8")
    program = ["sh", "-e"] if language == "sh" else [sys.executable]
    key = {"OPENAI_API_KEY": KEY, "H1R_API_KEY": KEY}
    done = subprocess.run(
        [*program, "recipe"], cwd=tmp_path, env={**os.environ, **key}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert '"error":{"message"' not in done.stdout
