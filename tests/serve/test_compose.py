"""compose.yaml and the Dockerfile: what they run works as processes, where no container can be started."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import httpx2
import yaml
from scripted_server import scripted
from served_model import eventually
from test_urls import BODY

import warm

ROOT = Path(__file__).resolve().parents[2]
SERVICES: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))["services"]
KEY = "a-key-of-a-container"


def test_the_front_of_the_compose_file_answers_over_both_replicas_with_a_key_alone() -> None:
    front = SERVICES["h1r"]
    entry = re.search(r"^ENTRYPOINT (\[.*\])$", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    assert entry is not None
    program = [one for one in yaml.safe_load(entry[1]) if one != "h1r"]
    assert set(front["depends_on"]) == {name for name in SERVICES if name != "h1r"}
    with scripted() as one, scripted() as two:
        here = dict(zip(sorted(front["depends_on"]), (one, two), strict=True))
        command = [re.sub(r"http://([\w-]+):8000/v1", lambda m: here[m[1]].url, part) for part in front["command"]]
        settings = ("--set", "scaling.window=4", "--set", "scaling.warmup=6", "--set", "scaling.budgets=[24]")
        process = warm.start(*program, *command, *settings, "--port", "0", env={"H1R_API_KEY": KEY})
        try:
            assert eventually(lambda: "serving scripted at" in process.stderr.read_text(), 240), process.stderr
            port = re.search(r"serving \S+ at http://0\.0\.0\.0:(\d+)/v1", process.stderr.read_text())
            assert port is not None
            url = f"http://127.0.0.1:{port[1]}"
            asked = {**BODY, "deepconf": {"budget": 24}}
            refused = httpx2.post(f"{url}/v1/chat/completions", json=asked, timeout=60)
            allowed = {"Authorization": f"Bearer {KEY}"}
            reply = httpx2.post(f"{url}/v1/chat/completions", json=asked, headers=allowed, timeout=60)
        finally:
            process.kill()
        assert refused.status_code == 401
        assert reply.json()["usage"]["deepconf"]["answer"] == "42"
        assert one.requests
        assert two.requests


def test_a_container_that_others_reach_stops_without_a_key() -> None:
    command = [one for one in SERVICES["h1r"]["command"] if not one.startswith("http")]
    done = warm.run("serve", "http://127.0.0.1:9/v1", *command, "--port", "0", env={"H1R_API_KEY": ""})
    assert done.returncode == 2
    assert "H1R_API_KEY" in done.stderr


def test_the_replicas_of_the_compose_file_tell_enough_log_probabilities_of_a_checkpoint_they_cannot_change() -> None:
    for name, service in SERVICES.items():
        if name == "h1r":
            continue
        told = " ".join(service["command"])
        assert "--max-logprobs 20" in told  # what a token confidence is made of
        assert service["volumes"][0].endswith(f":{service['command'][0]}:ro")
        assert service["healthcheck"]["test"][-1].endswith("/health")
