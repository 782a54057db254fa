"""Requests as evaluation tools send them, and what these read of the replies: two recorded from the tools, with names
and questions of ours put in, the third written after them. The tools themselves run in test_guide.py where they are
installed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from served_model import Running

REQUESTS = [json.loads(line) for line in (Path(__file__).parent / "client_requests.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("one", REQUESTS, ids=lambda one: one["client"])
def test_a_request_of_a_client_has_the_reply_that_its_client_reads(server: Running, one: dict[str, Any]) -> None:
    response = server.client.post(one["path"], json=one["body"], headers=one["headers"])
    assert response.status_code == 200, response.text
    found = response.json()
    (choice,) = found["choices"]
    assert choice["index"] == 0
    assert choice["finish_reason"] in ("stop", "length")
    if one["path"] == "/v1/completions":
        assert isinstance(choice["text"], str)
        assert all(stop not in choice["text"] for stop in one["body"]["stop"])
    else:
        assert choice["message"]["role"] == "assistant"
        assert isinstance(choice["message"]["content"], str)
    usage = found["usage"]
    assert usage["prompt_tokens"] + usage["completion_tokens"] == usage["total_tokens"]
    assert server.client.post(one["path"], json={**one["body"], "seed": 9}, headers=one["headers"]).status_code == 200
