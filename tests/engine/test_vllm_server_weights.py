"""What vLLM's own server is told beside completions: new weights, and what its workers recorded.

One real server, on a CPU, that is slow to start.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine_subjects import CONFIG, SECTION, Letters, gap, said
from geometries import SMALL, random_ids, randomised

from h1r.config import EngineSection
from h1r.engine.choose import open_engine
from h1r.engine.protocol import SamplingParams
from h1r.engine.server.engine import VLLMServer
from h1r.engine.server.events import get_json
from h1r.errors import UserError
from h1r.models import save
from h1r.models.falcon_h1.hybrid import HybridForCausalLM
from h1r.records import Trace

pytestmark = pytest.mark.slow
"""The server of the conformance suite takes half a minute to start on a busy machine."""

PROMPTS = [[5, 9, 11], random_ids(CONFIG, 90).tolist()]
"""The second is longer than a block of vLLM's cache, and is asked again: its prefill is cached."""
GREEDY = SamplingParams(temperature=0.0, max_tokens=8)


@pytest.fixture(scope="module")
def engine(served: str) -> VLLMServer:
    return VLLMServer(served, Letters(), SECTION)


def one_by_one(engine: VLLMServer) -> list[Trace]:
    """The prompts, each alone: which requests a server batches is chance, and its last bits depend on it."""
    return [trace for prompt in PROMPTS for trace in engine.generate([prompt], GREEDY)]


@pytest.fixture
def own(engine: VLLMServer, model: HybridForCausalLM) -> Iterator[list[Trace]]:
    """What the server says with the weights it started with, which it has again afterwards."""
    yield one_by_one(engine)
    engine.load_weights(model.state_dict())


def kept(engine: VLLMServer, names: list[str]) -> int:
    """Of how many of these traces the server has a record."""
    return sum(state is not None for state in engine.call("h1r_progress", names)[0])


def test_a_server_that_takes_its_own_weights_changes_no_bit(
    engine: VLLMServer, model: HybridForCausalLM, own: list[Trace], tmp_path: Path
) -> None:
    engine.load_weights(model.state_dict())
    assert said(one_by_one(engine)) == said(own)
    engine.load_weights(save(model, tmp_path / "again"))
    assert said(one_by_one(engine)) == said(own)


def test_a_server_computes_with_the_weights_it_was_given_last(
    engine: VLLMServer, model: HybridForCausalLM, own: list[Trace], tmp_path: Path
) -> None:
    for seed, as_directory in ((6, False), (7, True)):
        other = randomised(CONFIG, seed=seed)
        engine.load_weights(save(other, tmp_path / "other") if as_directory else other.state_dict())
        changed = engine.generate(PROMPTS, GREEDY)
        assert gap(other, PROMPTS, changed) < 1e-4
        assert gap(model, PROMPTS, changed) > 1e-2
    engine.load_weights(model.state_dict())
    assert said(one_by_one(engine)) == said(own)


def test_weights_that_do_not_fit_change_nothing_at_a_server(
    engine: VLLMServer, model: HybridForCausalLM, own: list[Trace], tmp_path: Path
) -> None:
    state = model.state_dict()
    with pytest.raises(UserError, match=r"tensor model\.layers\.1\.mamba\.D is missing"):
        engine.load_weights({name: t for name, t in state.items() if name != "model.layers.1.mamba.D"})
    with pytest.raises(UserError, match=r"key_multiplier = 0\.5, the running engine has 0\.8"):
        engine.load_weights(save(randomised(dataclasses.replace(CONFIG, key_multiplier=0.5)), tmp_path / "wider"))
    again = engine.generate(PROMPTS, GREEDY)
    assert [trace.token_ids for trace in again] == [trace.token_ids for trace in own]
    assert gap(model, PROMPTS, again) < 1e-4


def test_a_file_that_the_server_cannot_read_is_refused_before_anything_changes(
    engine: VLLMServer, own: list[Trace], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = engine.call

    def elsewhere(method: str, *arguments: Any) -> list[Any]:
        moved = [[file.replace("/", "/nowhere/", 1) for file in files] for files in arguments]
        return call(method, *(moved if method == "h1r_unreadable" else arguments))

    monkeypatch.setattr(engine, "call", elsewhere)
    with pytest.raises(UserError, match=r"cannot read /nowhere/.*weights_directory"):
        engine.load_weights(save(randomised(CONFIG, seed=6), tmp_path))
    monkeypatch.undo()
    assert said(engine.generate([PROMPTS[0]], GREEDY)) == said(own[:1])


def test_a_server_answers_again_after_an_update_that_failed(
    engine: VLLMServer, own: list[Trace], monkeypatch: pytest.MonkeyPatch
) -> None:
    post = engine._post

    def failing(path: str, body: Any = None) -> None:
        post("no_such_path" if path == "start_weight_update" else path, body)

    monkeypatch.setattr(engine, "_post", failing)
    with pytest.raises(UserError, match="failed at /no_such_path"):
        engine.load_weights(randomised(CONFIG, seed=6).state_dict())
    monkeypatch.undo()
    assert said(engine.generate([PROMPTS[0]], GREEDY)) == said(own[:1])


def test_open_engine_has_the_server_take_the_checkpoint_it_should_have(
    engine: VLLMServer, model: HybridForCausalLM, own: list[Trace], tmp_path: Path
) -> None:
    section = EngineSection(kind="server", url=engine.url)
    other = randomised(CONFIG, seed=8)

    def never() -> HybridForCausalLM:
        raise AssertionError("a server needs no model in this process")

    with open_engine(section, None, never, save(other, tmp_path)) as opened:
        assert gap(other, PROMPTS, opened.generate(PROMPTS, GREEDY)) < 1e-4
    # The checkpoint it was started on is no longer what it has.
    with open_engine(section, None, never, engine.root) as opened:
        assert gap(model, PROMPTS, opened.generate(PROMPTS, GREEDY)) < 1e-4
    with pytest.raises(UserError, match="start a new engine"), open_engine(section, None, never, save(
        randomised(SMALL), tmp_path / "small"
    )):  # fmt: skip
        pass


def test_a_server_follows_a_model_in_training(engine: VLLMServer, own: list[Trace]) -> None:
    trained = randomised(CONFIG, seed=9)
    section = EngineSection(kind="server", url=engine.url)
    with open_engine(section, None, trained) as following:
        assert gap(trained, PROMPTS, following.generate(PROMPTS, GREEDY)) < 1e-4
        optimizer = torch.optim.AdamW(trained.parameters(), lr=0.05)
        ids = random_ids(CONFIG, 2, 20)
        logits = trained(ids)[:, :-1]
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).backward()
        before = randomised(CONFIG, seed=9)
        optimizer.step()
        after = following.generate(PROMPTS, GREEDY)
        assert gap(trained, PROMPTS, after) < 1e-4
        assert gap(before, PROMPTS, after) > 1e-2


def test_what_the_server_recorded_is_fetched_once_and_then_gone(
    engine: VLLMServer, endless_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: list[str] = []
    call = engine.call

    def watched(method: str, *arguments: Any, url: str | None = None) -> list[Any]:
        names.extend(arguments[0])
        return call(method, *arguments, url=url)

    monkeypatch.setattr(engine, "call", watched)
    params = SamplingParams(n=4, temperature=0.6, max_tokens=12, seed=3)
    for trace in engine.generate(PROMPTS, params):
        assert len(trace.sampling_logprobs) == trace.num_tokens
        assert np.isfinite(trace.sampling_logprobs).all()
        assert trace.sampling_logprobs != trace.logprobs
    # One that runs until it is cancelled, beside one that ends when the other has surely begun.
    endless = SamplingParams(n=2, temperature=1e-4, max_tokens=endless_tokens)
    short = SamplingParams(temperature=0.0, max_tokens=endless_tokens // 4)
    stream = engine.stream([[3], [3]], [endless, short])
    next(stream)
    cancelled = engine.cancel(0)
    assert list(stream) == []
    assert cancelled
    for trace in cancelled:
        assert len(trace.sampling_logprobs) == trace.num_tokens
        assert np.isfinite(trace.sampling_logprobs).all()
    # What was cancelled leaves the batch at the next step.
    engine.generate(PROMPTS, GREEDY)
    assert len(names) == 8 + 2
    assert kept(engine, names) == 0


def test_records_that_nobody_asks_for_are_bounded(engine: VLLMServer) -> None:
    names = [f"abandoned-{number}" for number in range(2 * SECTION.max_sequences + 10)]
    for name in names:
        extra = {"h1r_key": "1", "h1r_temperature": 0.6, "h1r_name": name}
        body = {"model": engine.model, "prompt": [3], "max_tokens": 3, "temperature": 0.0, "vllm_xargs": extra}
        get_json(f"{engine.url}/v1/completions", body)
    # The last one is still in the batch.
    assert 1 < kept(engine, names) <= 2 * SECTION.max_sequences + 1
