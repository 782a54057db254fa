"""The client of a vLLM server, against a stand-in that answers as vLLM does: what goes wrong stays with its trace.

The conformance suite runs the same client against vLLM's own server.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from geometries import SMALL, randomised

from h1r.config import EngineSection
from h1r.engine.choose import open_engine
from h1r.engine.protocol import SamplingParams
from h1r.engine.server.engine import VLLMServer
from h1r.errors import UserError
from h1r.models import save

VOCABULARY = 50


class StandIn(BaseHTTPRequestHandler):
    """Answers every prompt with its own last token, again and again. Prompts that begin with 40: status 400 with a
    reason; 41: the connection breaks after two tokens; 42: what it says is no JSON; 43: an error in mid-stream."""

    protocol_version = "HTTP/1.0"
    known: ClassVar[tuple[str, ...]] = ("h1r_key",)
    root: ClassVar[str] = "nowhere"
    bodies: ClassVar[list[dict[str, Any]]] = []
    posts: ClassVar[list[str]] = []
    takes_weights: ClassVar[bool] = False

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        if self.path != "/v1/models":
            return self._json(404, {"detail": "Not Found"})
        return self._json(200, {"data": [{"id": "m", "root": self.root, "max_model_len": 64}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path != "/v1/completions":
            self.posts.append(self.path)
            if self.takes_weights:
                return self._json(200, {"results": [[]]})
            return self._json(404, {"detail": "Not Found"})
        self.bodies.append(body)
        for name, value in body.get("vllm_xargs", {}).items():
            if name in self.known and value == "none":
                return self._json(400, {"error": {"message": f"{name} = 'none' is no number"}})
        if not body.get("stream"):
            return self._json(200, {"choices": []})
        prompt = body["prompt"]
        if prompt[0] == 40:
            return self._json(400, {"error": {"message": "not this one"}})
        self.send_response(200)
        self.end_headers()
        for i in range(body["max_tokens"]):
            if prompt[0] == 41 and i == 2:
                return None
            text = "no json" if prompt[0] == 42 else json.dumps(self._chunk(prompt[-1], i + 1 == body["max_tokens"]))
            if prompt[0] == 43 and i == 1:
                text = json.dumps({"error": {"message": "out of luck"}})
            self.wfile.write(f"data: {text}\n\n".encode())
        self.wfile.write(b"data: [DONE]\n\n")
        return None

    def _chunk(self, token: int, last: bool) -> dict[str, Any]:
        top = {f"token_id:{token}": -0.5, "token_id:1": -1.5, "token_id:2": -2.5}
        logprobs = {"token_logprobs": [-0.5], "top_logprobs": [top]}
        choice = {"token_ids": [token], "logprobs": logprobs, "finish_reason": "length" if last else None}
        return {"choices": [choice]}

    def _json(self, status: int, value: Any) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def engine() -> Iterator[VLLMServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), StandIn)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    StandIn.bodies.clear()
    yield VLLMServer(f"http://127.0.0.1:{server.server_port}/", None, EngineSection(max_sequences=2), [7], VOCABULARY)
    server.shutdown()
    thread.join()
    server.server_close()


def test_what_goes_wrong_with_one_trace_stays_with_it(engine: VLLMServer) -> None:
    prompts = [[5, 6], [40, 6], [41, 6], [42, 6], [43, 6], [5, 9]]
    traces = engine.generate(prompts, SamplingParams(max_tokens=3, confidence_top_k=2))
    assert [trace.finish_reason for trace in traces] == ["length", *["error"] * 4, "length"]
    assert [trace.token_ids for trace in (traces[0], traces[-1])] == [[6] * 3, [9] * 3]
    assert traces[0].confidences == [1.0] * 3
    assert traces[0].logprobs == traces[0].sampling_logprobs == [-0.5] * 3
    for trace, why in zip(traces[1:5], ("not this one", "without an end", "failed", "out of luck"), strict=True):
        assert why in str(trace.error)
    assert traces[2].token_ids == [6, 6]


def test_a_server_is_asked_for_what_it_has(engine: VLLMServer) -> None:
    assert (engine.seeded, engine.stops_early) == (True, False)
    params = SamplingParams(n=2, max_tokens=1, temperature=0.7, top_k=4, seed=3)
    engine.generate([[5, 6]], params)
    first, second = (body for body in StandIn.bodies if body.get("stream"))
    assert first["temperature"] == 0
    assert (first["vllm_xargs"]["h1r_temperature"], first["vllm_xargs"]["h1r_top_k"]) == (0.7, 4)
    assert first["vllm_xargs"]["h1r_key"] != second["vllm_xargs"]["h1r_key"]
    engine.seeded = False
    engine.generate([[5, 6]], params)
    plain = StandIn.bodies[-1]
    assert (plain["temperature"], plain["top_k"]) == (0.7, 4)
    assert 0 <= plain["seed"] < 2**31
    assert "vllm_xargs" not in plain


def test_what_a_server_cannot_do_is_refused(engine: VLLMServer) -> None:
    (trace,) = engine.generate([[5]], SamplingParams(max_tokens=2, confidence_threshold=1.0))
    assert "DeepConf plugin" in str(trace.error)
    (trace,) = engine.generate([[5]], SamplingParams(max_tokens=64))
    assert "64 positions" in str(trace.error)
    with pytest.raises(UserError, match="nowhere, which is not here to check new weights against"):
        engine.load_weights("somewhere")
    with pytest.raises(UserError, match="give eos_token_ids and vocab_size"):
        VLLMServer(engine.url)


def test_what_a_plain_server_does_not_tell_is_no_number(engine: VLLMServer) -> None:
    assert not engine.knows_sampling_logprobs
    for temperature, told in ((0.0, True), (1.0, True), (0.6, False)):
        (trace,) = engine.generate([[5, 6]], SamplingParams(max_tokens=3, temperature=temperature))
        assert trace.sampling_logprobs == (trace.logprobs if told else pytest.approx([math.nan] * 3, nan_ok=True))


def test_a_plain_server_takes_no_weights_and_cannot_train(
    engine: VLLMServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = randomised(SMALL)
    monkeypatch.setattr(StandIn, "root", str(save(model, tmp_path / "served")))
    section = EngineSection(kind="server", url=engine.url)
    other = save(model, tmp_path / "other")
    mend = r"takes no weights \(Not Found\); start it on the new checkpoint, or with VLLM_SERVER_DEV_MODE=1 .*h1r_files"
    with pytest.raises(UserError, match=mend), open_engine(section, None, lambda: model, other):
        pass
    with open_engine(section, None, lambda: model, StandIn.root) as opened:
        assert opened.generate([[5, 6]], SamplingParams(max_tokens=2))[0].token_ids == [6, 6]
    with pytest.raises(UserError, match="log-probabilities that training needs"), open_engine(section, None, model):
        pass


def test_a_state_dict_goes_to_no_other_machine_through_memory(
    engine: VLLMServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = randomised(SMALL)
    engine.config, engine.url = model.config, "http://192.0.2.1:8000"
    monkeypatch.setattr(engine, "_refuse_without_transfer", lambda: None)
    with pytest.raises(UserError, match=r"set \[engine\] weights_directory to a directory that both see"):
        engine.load_weights(model.state_dict())


def test_weights_change_only_after_what_runs_has_ended(
    engine: VLLMServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vLLM aborts what runs unless the pause says `wait`."""
    monkeypatch.setattr(StandIn, "takes_weights", True)
    monkeypatch.setattr(StandIn, "posts", [])
    engine.config = (model := randomised(SMALL)).config
    engine.load_weights(save(model, tmp_path / "new"))
    assert StandIn.posts[-5:] == [
        "/pause?mode=wait", "/start_weight_update", "/update_weights", "/finish_weight_update", "/resume"
    ]  # fmt: skip


def test_another_address_of_a_server_is_one_sentence(engine: VLLMServer) -> None:
    with pytest.raises(UserError, match=r"no vLLM server answers at .*/v1 \(Not Found\); .* its address without /v1"):
        VLLMServer(f"{engine.url}/v1", None, EngineSection(), [7], VOCABULARY)


def test_no_server_is_one_sentence() -> None:
    with pytest.raises(UserError, match=r"no vLLM server answers at http://127\.0\.0\.1:1"):
        VLLMServer("http://127.0.0.1:1")
