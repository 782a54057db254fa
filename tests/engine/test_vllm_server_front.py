"""`h1r serve URL` before vLLM's own server with our plugin: chats are passed on, and DeepConf ends traces inside it."""

from __future__ import annotations

import re
from pathlib import Path

import httpx2
import numpy as np
import pytest
from deepconf_served import PROBLEM, PROMPT, RECIPE, first_character
from engine_subjects import SECTION, Letters
from served_model import LIMITS, eventually, running

from h1r.engine.native.engine import NativeEngine
from h1r.engine.protocol import SamplingParams
from h1r.models.falcon_h1.hybrid import HybridForCausalLM
from h1r.serve.urls import open_urls

pytestmark = pytest.mark.slow
"""The server of the conformance suite takes half a minute to start on a busy machine."""


def test_in_front_of_vllm_chats_are_passed_on_and_doubtful_traces_end_inside(
    served: str, model: HybridForCausalLM, tmp_path: Path
) -> None:
    first_character(tmp_path)
    own = {f"scaling.{name}": value for name, value in RECIPE.scaling.model_dump(exclude_defaults=True).items()}
    asked = {"messages": [{"role": "user", "content": Letters().decode(PROMPT)}], "seed": 3}
    with (
        open_urls([f"{served}/v1"], own, LIMITS) as front,
        running(front) as server,
    ):
        asked["model"] = front.models()[0]["id"]
        greedy = SamplingParams(temperature=0.0, max_tokens=9)
        (expected,) = NativeEngine(model, Letters(), SECTION).generate([PROMPT], greedy)
        short = {**asked, "temperature": 0, "max_tokens": 9}
        plain = server.client.post("/v1/chat/completions", json=short).json()
        assert plain["choices"][0]["message"]["content"] == expected.text
        usage = plain["usage"]
        assert (usage["prompt_tokens"], usage["completion_tokens"]) == (len(PROMPT), expected.num_tokens)
        before, options = drawn(served), {"verifier": PROBLEM.verifier, "return_traces": "tokens"}
        reply = server.client.post("/v1/chat/completions", json={**asked, "deepconf": options}).json()
        said, traces = reply["usage"]["deepconf"], reply["deepconf"]["traces"]
        assert (said["stopping"], said["traces"]) == ("engine", 12)
        stopped = [one for one in traces if one["state"] == "stopped"]
        assert stopped
        for one in stopped:
            means = np.convolve(one["confidences"], np.full(4, 0.25), "valid")
            assert one["tokens"] == len(one["confidences"]) == 4 + np.flatnonzero(means < said["threshold"])[0]
        told = reply["usage"]["completion_tokens"]
        assert told == sum(one["tokens"] for one in traces)
        server.client.post("/v1/chat/completions", json=short)
        told += expected.num_tokens  # of the last request, whose count comes after all others'
        assert eventually(lambda: drawn(served) - before >= told)
        # After a stop vLLM itself draws nothing but the end that it is made to draw.
        assert drawn(served) - before <= told + len(stopped)


def drawn(url: str) -> int:
    """Tokens that the server has drawn since its start."""
    text = httpx2.get(f"{url}/metrics").text
    found = re.search(r"^vllm:generation_tokens_total\{.*\} ([\d.e+]+)$", text, re.MULTILINE)
    assert found is not None
    return int(float(found[1]))
