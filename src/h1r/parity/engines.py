"""Engines say what the training forward says, before and after they take weights."""

from __future__ import annotations

import copy
import importlib.util
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from h1r.config import EngineSection
from h1r.engine.native.engine import NativeEngine
from h1r.engine.protocol import Engine, SamplingParams
from h1r.parity.measure import NotHereError, Worst
from h1r.parity.subject import Subject
from h1r.records import Trace

if TYPE_CHECKING:
    from h1r.engine.vllm.engine import VLLMEngine

NEW_TOKENS = 12
TRACES = 3
"""Of each prompt."""


def native_logprobs(subject: Subject) -> Worst:
    """Sampled-token log-probabilities in nats."""
    return engine_logprobs(subject, NativeEngine(subject.model, eos_token_ids=()))


def engine_logprobs(subject: Subject, engine: Engine) -> Worst:
    """Log-probabilities that `engine` reports for what it sampled, against the training forward of prompt and answer.
    Absolute, in nats."""
    prompts = _prompts(subject)
    traces = engine.generate(prompts, SamplingParams(n=TRACES, max_tokens=NEW_TOKENS, seed=subject.seed))
    worst = Worst()
    for trace in traces:
        if trace.finish_reason == "error":
            raise RuntimeError(f"the engine answered: {trace.error}")
        prompt = prompts[trace.prompt_index]
        with torch.no_grad():
            logits_TV = subject.alone(torch.tensor([*prompt, *trace.token_ids], device=subject.device))
        said = logits_TV[len(prompt) - 1 : -1].float().log_softmax(-1)
        for i, (token, logprob) in enumerate(zip(trace.token_ids, trace.logprobs, strict=True)):
            place = f"token {i} of trace {trace.sample_index} of prompt {trace.prompt_index}"
            worst.add(place, abs(said[i, token].item() - logprob))
    return worst


def reload(subject: Subject) -> Worst:
    """A running engine takes its own weights: between two calls, in the middle of one, and after every tensor was
    overwritten. Greedy tokens and their log-probabilities to the bit."""
    engine = NativeEngine(copy.deepcopy(subject.model), eos_token_ids=())
    prompts = _prompts(subject)
    greedy = [SamplingParams(temperature=0.0, max_tokens=n) for n in (NEW_TOKENS // 2, NEW_TOKENS)]
    expected = engine.generate(prompts, greedy)
    worst = Worst()

    engine.load_weights(engine.model.state_dict())
    _compare(worst, "own tensors", engine.generate(prompts, greedy), expected)

    stream = engine.stream(prompts, greedy)
    first = next(stream)
    engine.load_weights(subject.checkpoint())
    _compare(worst, "own checkpoint, in the middle of a stream", [first, *stream], expected)

    with torch.no_grad():
        for tensor in engine.model.state_dict().values():
            tensor.add_(1)
    engine.load_weights(subject.checkpoint())
    _compare(worst, "own checkpoint, over other weights", engine.generate(prompts, greedy), expected)
    return worst


def vllm_logprobs(subject: Subject) -> Worst:
    """As `native_logprobs`, for vLLM, which reads the files itself."""
    with _vllm(subject) as engine:
        return engine_logprobs(subject, engine)


def vllm_reload(subject: Subject) -> Worst:
    """As `reload`, for vLLM: own tensors, own checkpoint, and own checkpoint after other weights."""
    prompts, greedy, worst = _prompts(subject), SamplingParams(temperature=0.0, max_tokens=NEW_TOKENS), Worst()
    with _vllm(subject) as engine:
        expected = engine.generate(prompts, greedy)
        engine.load_weights(subject.model.state_dict())
        _compare(worst, "own tensors", engine.generate(prompts, greedy), expected)
        engine.load_weights({name: tensor + 1 for name, tensor in subject.model.state_dict().items()})
        engine.load_weights(subject.directory())
        _compare(worst, "own checkpoint, over other weights", engine.generate(prompts, greedy), expected)
    return worst


@contextmanager
def _vllm(subject: Subject) -> Iterator[VLLMEngine]:
    """An engine on the subject's files, in this process. Raises `NotHereError` where vLLM is not or cannot run it."""
    if importlib.util.find_spec("vllm") is None:
        raise NotHereError("vllm is not installed; `h1r docs vllm` says how")
    from h1r.engine.vllm.engine import VLLMEngine
    from h1r.engine.vllm.limits import unsupported

    dtype = str(subject.dtype).removeprefix("torch.")
    if why := unsupported(subject.config, subject.device.type == "cpu", dtype):
        raise NotHereError(f"vLLM cannot run this geometry: {why}")
    engine = VLLMEngine(
        subject.directory(),
        section=EngineSection(max_sequences=TRACES),
        eos_token_ids=(),
        dtype=dtype,
        max_model_len=subject.tokens,
        in_process=True,
    )
    try:
        yield engine
    finally:
        engine.close()


def _compare(worst: Worst, where: str, got: list[Trace], expected: list[Trace]) -> None:
    for a, b in zip(got, expected, strict=True):
        if a.token_ids != b.token_ids:
            worst.add(f"{where}: other tokens for prompt {b.prompt_index}", math.inf)
        else:
            errors = [abs(x - y) for x, y in zip(a.logprobs, b.logprobs, strict=True)]
            worst.add(f"{where}: log-probabilities for prompt {b.prompt_index}", max(errors))


def _prompts(subject: Subject) -> list[list[int]]:
    """Two prompts: a short one, and one of most of the tokens, so that states have crossed a chunk before decoding."""
    longest = max(1, subject.tokens - NEW_TOKENS)
    return [subject.ids(n, stream=30 + n).tolist() for n in (3, longest)]
