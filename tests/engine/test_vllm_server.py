"""The client of a vLLM server, against a stand-in that answers as vLLM does: what goes wrong stays with its trace.

The conformance suite runs the same client against vLLM's own server.
"""

from __future__ import annotations

import contextlib
import json
import math
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, ClassVar

import pytest
from geometries import SMALL, randomised

from h1r.common.servers import Servers
from h1r.config import EngineSection, RolloutSection
from h1r.engine.choose import open_engine
from h1r.engine.protocol import SamplingParams
from h1r.engine.server.engine import VLLMServer
from h1r.errors import UserError
from h1r.models import save
from h1r.rollout.retry import RetryingEngine
from loopback import http_server

VOCABULARY = 50


class StandIn(BaseHTTPRequestHandler):
    """Answers every prompt with its own last token, again and again. Prompts that begin with 40: status 400 with a
    reason; 41: the connection breaks after two tokens; 42: what it says is no JSON; 43: an error in mid-stream; 44: it
    waits for `goes_on` after two tokens."""

    protocol_version = "HTTP/1.0"
    known: ClassVar[tuple[str, ...]] = ("h1r_key",)
    root: ClassVar[str] = "nowhere"
    bodies: ClassVar[list[dict[str, Any]]] = []
    posts: ClassVar[list[str]] = []
    takes_weights: ClassVar[bool] = False
    key: ClassVar[str | None] = None
    goes_on: ClassVar[threading.Event] = threading.Event()
    broken: ClassVar[set[int]] = set()
    """Ports of servers that are overloaded."""

    def log_message(self, *_: Any) -> None:
        pass

    def _is_refused(self) -> bool:
        said = self.headers["Authorization"]
        if self.key is None or said == f"Bearer {self.key}":
            return False
        self._json(401, {"error": {"message": f"{said} is no key"}})
        return True

    def do_GET(self) -> None:
        if self._is_refused():
            return None
        if self.path != "/v1/models":
            return self._json(404, {"detail": "Not Found"})
        return self._json(200, {"data": [{"id": "m", "root": self.root, "max_model_len": 64}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self._is_refused():
            return None
        port = self.server.server_address[1]
        if port in self.broken and body.get("stream"):
            return self._json(503, {"error": {"message": "too busy"}})
        if self.path != "/v1/completions":
            self.posts.append(self.path)
            if self.takes_weights:
                return self._json(200, {"results": [[]]})
            return self._json(404, {"detail": "Not Found"})
        self.bodies.append({**body, "port": port})
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
            if prompt[0] == 44 and i == 2:
                self.goes_on.wait(30)
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


@contextlib.contextmanager
def stand_in() -> Iterator[str]:
    StandIn.bodies.clear()
    with http_server(StandIn) as address:
        yield address


@pytest.fixture
def engine() -> Iterator[VLLMServer]:
    with stand_in() as url:
        yield VLLMServer(f"{url}/", None, EngineSection(max_sequences=2), [7], VOCABULARY)


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


def test_a_trace_can_be_read_while_it_grows_without_the_token_that_ends_it(
    engine: VLLMServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("h1r.engine.streaming.LOOK_SECONDS", 0.01)
    StandIn.goes_on.clear()

    def look() -> None:
        if (engine.written(0, 0), engine.written(0, 0, 1), engine.written(1, 0)) == ([9, 9], [9], [7]):
            StandIn.goes_on.set()

    engine.watch(look)
    traces = engine.generate([[44, 9], [44, 7]], SamplingParams(max_tokens=3, confidence_top_k=2))
    assert StandIn.goes_on.is_set()
    assert [trace.token_ids for trace in traces] == [[9] * 3, [7] * 3]
    assert engine.written(0, 0) == []


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


def test_servers_share_the_prompts_and_a_prompt_stays_on_one() -> None:
    with stand_in() as first, stand_in() as second:
        section = EngineSection(kind="server", urls=[first, second], max_sequences=4)
        engine = VLLMServer(section.addresses, None, section, [7], VOCABULARY)
        StandIn.bodies.clear()
        traces = engine.generate([[5, 6], [5, 8], [5, 9], [5, 10]], SamplingParams(n=3, max_tokens=4))
        assert [trace.token_ids[0] for trace in traces] == [t for t in (6, 8, 9, 10) for _ in range(3)]
        ports = {
            last: {body["port"] for body in StandIn.bodies if body["prompt"][-1] == last} for last in (6, 8, 9, 10)
        }
        assert all(len(one) == 1 for one in ports.values())
        assert len(set.union(*ports.values())) == 2


def test_a_trace_of_a_server_that_is_overloaded_is_tried_again_on_another(monkeypatch: pytest.MonkeyPatch) -> None:
    with stand_in() as first, stand_in() as second:
        engine = VLLMServer([first, second], None, EngineSection(max_sequences=2), [7], VOCABULARY)
        monkeypatch.setattr(StandIn, "broken", {int(first.rsplit(":", 1)[1])})
        prompts = [[5, 6], [5, 8], [5, 9], [5, 10]]
        traces = engine.generate(prompts, SamplingParams(max_tokens=4))
        assert {str(trace.error) for trace in traces if trace.finish_reason == "error"} == {
            f"the server at {first} failed: too busy"
        }
        retrying = RetryingEngine(engine, RolloutSection(max_failed_share=0.0, backoff_s=0.0))
        assert [trace.token_ids for trace in retrying.generate(prompts, SamplingParams(max_tokens=4))] == [
            [t] * 4 for t in (6, 8, 9, 10)
        ]


def test_a_key_goes_with_every_request_and_into_no_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StandIn, "key", "s3cret")
    section = EngineSection(max_sequences=2, key_variable="H1R_TEST_KEY")
    with stand_in() as url:
        with pytest.raises(UserError, match="H1R_TEST_KEY, which holds the API key, is not set"):
            VLLMServer(url, None, section, [7], VOCABULARY)
        for key in ("s3cret", "another"):
            monkeypatch.setenv("H1R_TEST_KEY", key)
            if key == "s3cret":
                engine = VLLMServer(url, None, section, [7], VOCABULARY)
                (trace,) = engine.generate([[5, 6]], SamplingParams(max_tokens=2))
                assert trace.token_ids == [6, 6]
                continue
            with pytest.raises(UserError, match=r"the API key is refused.*key_variable names what holds it") as caught:
                VLLMServer(url, None, section, [7], VOCABULARY)
            assert key not in str(caught.value)
        monkeypatch.setattr(StandIn, "key", "new")
        (trace,) = engine.generate([[5, 6]], SamplingParams(max_tokens=2))
        assert "the API key is refused" in str(trace.error)
        assert "s3cret" not in str(trace.error)


def test_servers_of_different_checkpoints_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with stand_in() as first, stand_in() as second:
        port = int(second.rsplit(":", 1)[1])
        model = property(lambda self: f"m{self.server.server_address[1] == port:d}")
        monkeypatch.setattr(StandIn, "root", model)
        with pytest.raises(UserError, match=f"{second} serves m1, and {first} m0"):
            VLLMServer([first, second], None, EngineSection(), [7], VOCABULARY)


def test_what_a_server_cannot_do_is_refused(engine: VLLMServer) -> None:
    (trace,) = engine.generate([[5]], SamplingParams(max_tokens=2, confidence_threshold=1.0))
    assert "DeepConf plugin" in str(trace.error)
    (trace,) = engine.generate([[5]], SamplingParams(max_tokens=64))
    assert "64 positions" in str(trace.error)
    (trace,) = engine.generate([[5]], SamplingParams(max_tokens=64, fit=True))
    assert (trace.room, trace.num_tokens, trace.error) == (63, 63, None)
    with pytest.raises(UserError, match=r"nowhere, which is not here, .*new weights cannot be checked against it"):
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
    engine.config, engine.servers = model.config, Servers([engine.url, "http://192.0.2.1:8000"])
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
