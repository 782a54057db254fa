"""Every implementation of DeepConf's stop rule stops a trace at the same token: C, PyTorch, vLLM, server, replay."""

from __future__ import annotations

import functools
from types import SimpleNamespace

import pytest
import torch
from geometries import SMALL, randomised
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from test_windows import first_below
from torch import Tensor

from h1r.engine.confidence_window import Windows
from h1r.engine.native.runner import DOUBTFUL, NativeRunner, TorchRunner
from h1r.engine.native.slots import Slots
from h1r.engine.protocol import SamplingParams
from h1r.engine.sampling import token_confidence
from h1r.engine.server.stream import Live, Stream, _low
from h1r.kernels.selection import select
from h1r.models.falcon_h1.cache import HybridCache
from h1r.scaling.confidence import stop_length

TOKENS, TOP_K, V = 16, 5, SMALL.vocab_size


@functools.cache
def runners() -> tuple[NativeRunner, TorchRunner]:
    model = randomised(SMALL, 0).use(select("native"))
    return NativeRunner(model, 1), TorchRunner(model)


def by_runner(runner: NativeRunner | TorchRunner, logits_TV: Tensor, params: SamplingParams) -> int:
    slots = Slots(1, V, TOKENS)
    assert params.confidence_threshold is not None
    for name, value in {
        "max_tokens": TOKENS + 1, "window": params.confidence_window, "threshold": params.confidence_threshold,
    }.items():  # fmt: skip
        slots.state[name][:] = value
    runner.begin(HybridCache.allocate(SMALL, 1, 4, torch.float32), slots, [params])
    for step, row in enumerate(logits_TV):
        slots.logits[0] = row
        if runner.sample(1):
            assert int(slots.reason[0]) == DOUBTFUL
            return step + 1
    return 0


def by_windows(confidences: list[float], params: SamplingParams) -> int:
    windows = Windows(torch.device("cpu"))
    windows.reserve(1, params.confidence_window)
    below = 0
    for at, confidence in enumerate(confidences):
        numbers = (0, at, confidence, params.confidence_window, params.confidence_threshold)
        below = int(windows.record(*(torch.tensor([number]) for number in numbers)))
    return below


def by_server(logprobs_TV: Tensor, params: SamplingParams) -> int:
    """The first token after which a trace that ended there counts as stopped, given the chunks of a server."""
    section = SimpleNamespace(max_sequences=1)
    stream = Stream(SimpleNamespace(tokenizer=None, section=section))  # type: ignore[arg-type]
    live = Live(0, 0, [1], params, ends=[])
    for step, row in enumerate(logprobs_TV):
        top = {str(i): value for i, value in enumerate(row.topk(20).values.tolist())}
        said = {"token_logprobs": [0.0], "top_logprobs": [top]}
        stream._take(live, {"choices": [{"token_ids": [5], "logprobs": said}]})
        if _low(live, step + 1) == step + 1:
            return step + 1
    return 0


def by_vllm(logits_TV: Tensor, params: SamplingParams) -> int:
    """The processor forces an end as the token after the one that stops."""
    from vllm import SamplingParams as Params
    from vllm.v1.sample.logits_processor import BatchUpdate

    from h1r.engine.vllm.deepconf import DeepConf

    asks = {
        "deepconf_threshold": params.confidence_threshold, "deepconf_window": params.confidence_window,
        "deepconf_top_k": TOP_K, "deepconf_end_token_ids": [7],
    }  # fmt: skip
    processor, output = DeepConf(None, torch.device("cpu"), False), list[int]()
    processor.update_state(BatchUpdate(1, [], [(0, Params(extra_args=asks), [1], output)], []))
    for step in range(TOKENS + 1):
        row = logits_TV[min(step, TOKENS - 1)]
        if int(processor.apply(row[None].clone()).isinf().sum()) == V - 1:
            return step
        output.append(5)
    return 0


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 9999), window=st.integers(1, TOKENS + 2), share=st.floats(0, 1), spread=st.floats(0.5, 6))
@pytest.mark.parametrize("vllm", [False, pytest.param(True, id="vllm")])
def test_every_implementation_stops_at_the_same_token(
    vllm: bool, seed: int, window: int, share: float, spread: float
) -> None:
    """A threshold lies between two means, where rounding cannot decide."""
    generator = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(TOKENS, V, generator=generator) * torch.rand(TOKENS, 1, generator=generator)
    confidences = token_confidence(logits, torch.full((TOKENS,), TOP_K), TOP_K).double().tolist()
    means = sorted(sum(confidences[n - window : n]) / window for n in range(window, TOKENS + 1)) or [1.0]
    means = [means[0] - 1, *means, means[-1] + 1]
    at = min(int(share * (len(means) - 1)), len(means) - 2)
    assume(means[at + 1] - means[at] > 1e-3)
    threshold = (means[at] + means[at + 1]) / 2
    params = SamplingParams(
        temperature=0, confidence_window=window, confidence_threshold=threshold, confidence_top_k=TOP_K
    )
    expected = first_below(confidences, window, threshold)
    if vllm:
        pytest.importorskip("vllm", reason="vLLM is not installed: make setup-vllm")
        assert by_vllm(logits, params) == expected
        return
    for runner in runners():
        assert by_runner(runner, logits, params) == expected
    assert by_windows(confidences, params) == expected
    assert by_server(logits.log_softmax(-1), params) == expected
    assert (stop_length(confidences, window, threshold) or 0) == expected
