"""Which engine a recipe's section opens, and that one with weights of its own follows a model in training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from geometries import SMALL, randomised

from h1r.common.engines import ENGINES
from h1r.config import EngineSection
from h1r.engine.choose import open_engine
from h1r.engine.following import Following
from h1r.engine.native.engine import NativeEngine
from h1r.engine.protocol import Engine, SamplingParams
from h1r.errors import UserError
from h1r.models import save
from h1r.models.falcon_h1.hybrid import HybridForCausalLM


class Recorder:
    """Stands for an engine with weights of its own."""

    def __init__(self) -> None:
        self.taken: list[dict[str, torch.Tensor]] = []

    def load_weights(self, weights: Any) -> None:
        self.taken.append({name: tensor.clone() for name, tensor in weights.items()})

    def generate(self, prompts: Any, params: Any) -> list[Any]:
        return []


def adamw(**kind: bool) -> Callable[[HybridForCausalLM], None]:
    def step(model: HybridForCausalLM) -> None:
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        torch.optim.AdamW(model.parameters(), **kind).step()

    return step


def restored(model: HybridForCausalLM) -> None:
    model.load_state_dict(randomised(SMALL, 1).state_dict())


def replaced(model: HybridForCausalLM) -> None:
    model.lm_head.weight.data = model.lm_head.weight.data + 1


@pytest.mark.parametrize(
    "change", [adamw(), adamw(fused=True), adamw(foreach=True), restored, replaced],
    ids=["plain", "fused", "foreach", "restored", "replaced"],
)  # fmt: skip
def test_weights_are_taken_once_after_each_change(change: Callable[[HybridForCausalLM], None]) -> None:
    model, inner = randomised(SMALL), Recorder()
    following = Following(cast(Engine, inner), model)
    following.generate([], SamplingParams())
    assert inner.taken == []
    for times in (1, 2):
        change(model)
        for _ in range(2):
            following.generate([], SamplingParams())
        assert len(inner.taken) == times
        assert all(torch.equal(inner.taken[-1][name], tensor) for name, tensor in model.state_dict().items())


def test_the_native_engine_reads_the_model_in_training_itself() -> None:
    model = randomised(SMALL)
    with open_engine(EngineSection(), None, model) as engine:
        assert isinstance(engine, NativeEngine)
        assert engine.model is model


@pytest.mark.slow
def test_vllm_reads_the_directory_and_loads_no_second_model(vllm_installed: None, tmp_path: Path) -> None:
    model = randomised(SMALL.__class__(**{**vars(SMALL), "head_dim": 32, "eos_token_id": None}))
    section = EngineSection(kind="vllm", max_model_len=32)
    params = SamplingParams(n=2, max_tokens=6, seed=3)

    def never() -> HybridForCausalLM:
        raise AssertionError("vLLM needs no model in this process")

    with open_engine(section, None, never, save(model, tmp_path)) as engine:
        traces = engine.generate([[3, 4, 5]], params)
    native = NativeEngine(model, None).generate([[3, 4, 5]], params)
    assert [trace.token_ids for trace in traces] == [trace.token_ids for trace in native]


def test_a_server_needs_an_address_where_one_answers() -> None:
    with pytest.raises(ValueError, match="needs url"):
        EngineSection(kind="server")
    section = EngineSection(kind="server", url="http://127.0.0.1:1")
    model = randomised(SMALL)
    for one in (model, lambda: model):
        with (
            pytest.raises(UserError, match=r"no vLLM server answers at http://127\.0\.0\.1:1"),
            open_engine(section, None, one, "somewhere"),
        ):
            pass


def test_an_engine_that_registers_is_opened_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ENGINES, "_parts", dict(ENGINES._parts))

    @ENGINES.register("mine")
    class Mine(Recorder):
        def __init__(self, model: Any, tokenizer: Any, section: EngineSection) -> None:
            super().__init__()
            self.model, self.section, self.closed = model, section, False

        def close(self) -> None:
            self.closed = True

    model = randomised(SMALL)
    with open_engine(EngineSection(kind="mine", options={"a": 1}), None, lambda: model) as engine:
        mine = cast(Any, engine)
        assert isinstance(mine, Mine)
        assert (mine.model is model, mine.section.options, mine.closed) == (True, {"a": 1}, False)
    assert mine.closed


def test_an_engine_that_nobody_registered_is_refused_with_the_nearest_names() -> None:
    with pytest.raises(UserError, match=r"unknown engine `nativ`; use one of `native`"):
        EngineSection(kind="nativ")
