"""What the guide tells clients to run works against the server, where their packages are installed."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest
import yaml
from served_model import KEY, NAME, Running

GUIDE = (Path(__file__).resolve().parents[2] / "docs" / "guide" / "serve.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"<!-- run: (\w+) -->\n```(sh|python)\n(.*?)```", GUIDE, flags=re.DOTALL)

FILES = dict(re.findall(r"<!-- run: (\w+) -->\n```yaml\n(.*?)```", GUIDE, flags=re.DOTALL))

TABLES = {"lm_eval": r"(?m)^\|sums .*\|exact_match\|", "inspect": r"(?m)^accuracy  +\d"}
"""What programs print of a task that was scored."""


def test_every_recipe_is_found() -> None:
    assert [name for name, _, _ in BLOCKS] == [
        "curl", "openai", "lm_eval", "inspect", "langchain_openai", "litellm"
    ]  # fmt: skip


@pytest.mark.slow
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


def test_chat_programs_are_told_a_key_an_address_and_models_that_answer(server: Running) -> None:
    """As the programs ask: first for names, then with settings of their own, less those that they are told to drop."""
    read = {
        name: yaml.safe_load(re.sub(r"\bMODEL\b", NAME, re.sub(r"\$\{H1R_API_KEY\b[^}]*\}", KEY, text)))
        for name, text in FILES.items()
    }
    (endpoint,) = read["librechat"]["endpoints"]["custom"]
    webui = read["open_webui"]["services"]["open-webui"]
    assert webui["extra_hosts"] == ["host.docker.internal:host-gateway"]
    assert all(isinstance(value, str) for value in webui["environment"].values())
    own = webui["environment"]
    sent = {
        "temperature": 1,
        "top_p": 1,
        "presence_penalty": 0.5,
        "frequency_penalty": 0.5,
        "user": "one",
        "stream": True,
    }
    left = {key: value for key, value in sent.items() if key not in endpoint["dropParams"]}
    assert left == {"user": "one", "stream": True}
    for url, key, models in (
        (own["OPENAI_API_BASE_URL"], own["OPENAI_API_KEY"], [own["DEFAULT_MODELS"]]),
        (endpoint["baseURL"], endpoint["apiKey"], endpoint["models"]["default"]),
    ):
        here = url.replace("http://host.docker.internal:8000", server.url)
        assert here != url
        headers = {"Authorization": f"Bearer {key}"}
        listed = {one["id"] for one in httpx2.get(f"{here}/models", headers=headers).json()["data"]}
        assert NAME in listed
        for model in models:
            body = {
                **left,
                "model": model,
                "messages": [{"role": "user", "content": "What is 2 + 2?"}],
                "max_tokens": 8,
            }
            reply = httpx2.post(f"{here}/chat/completions", json=body, headers=headers, timeout=60)
            assert reply.status_code == 200, reply.text
            assert reply.text.rstrip().endswith("data: [DONE]")
