"""Memory of the native engine: foretold, kept to, and waited for; and prompts that do not hold up running sequences."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from geometries import SMALL, randomised

from h1r.config import EngineSection
from h1r.engine.native import memory, scheduler
from h1r.engine.native.batch import Batch, Prefill
from h1r.engine.native.engine import NativeEngine
from h1r.engine.protocol import SamplingParams
from h1r.kernels.selection import select
from h1r.models.falcon_h1.hybrid import HybridForCausalLM

_CHILD = """
import json, re, sys, torch
from pathlib import Path
from h1r.config import EngineSection
from h1r.engine.native.engine import NativeEngine
from h1r.engine.protocol import SamplingParams
from h1r.models import build
from h1r.models.falcon_h1.config import preset
from h1r.kernels.selection import select

sequences, prompt, new, calls, kernels = json.loads(sys.argv[1])
# Keys and values, recurrent state, vocabulary and weights all weigh something here.
config = preset("tiny", vocab_size=4096, mamba_d_state=64, num_hidden_layers=3)

def resident(key):
    return int(re.search(key + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024

def run(sequences, prompt, new, calls):
    engine = NativeEngine(model, None, EngineSection(max_sequences=sequences), eos_token_ids=())
    for _ in range(calls):
        traces = engine.generate([[3] * prompt], SamplingParams(n=sequences, max_tokens=new))
        assert all(trace.num_tokens == new for trace in traces)
    return engine.memory.total

model = build(config, 0).use(select(kernels))
run(1, 4, 2, 1)
Path("/proc/self/clear_refs").write_text("5")
before = resident("VmRSS")
print(json.dumps([run(sequences, prompt, new, calls), resident("VmHWM") - before]))
"""


@pytest.mark.parametrize(
    ("sizes", "kernels"),
    [
        ((48, 64, 400, 1), "native"), ((200, 300, 40, 1), "native"), ((200, 100, 20, 3), "native"),
        ((150, 1000, 6, 2), "torch"),
    ],
    ids=["long answers", "many sequences", "one call after another", "in PyTorch"],
)  # fmt: skip
def test_predicted_memory_is_what_a_process_takes(sizes: tuple[int, int, int, int], kernels: str) -> None:
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("the peak of a process's memory is read from Linux's /proc")
    found = subprocess.run(
        [sys.executable, "-c", _CHILD, json.dumps([*sizes, kernels])],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    predicted, measured = json.loads(found.stdout)
    assert measured == pytest.approx(predicted, rel=0.1)


def native(memory_gib: float | None = None, **section: int) -> NativeEngine:
    model = randomised(SMALL, seed=1).use(select("native"))
    return NativeEngine(model, None, EngineSection(memory_gib=memory_gib, **section), eos_token_ids=())


def bytes_for(sequences: int, prompt: list[int], params: SamplingParams) -> float:
    """GiB that a call needs."""
    engine = native(max_sequences=sequences)
    engine.generate([prompt], dataclasses.replace(params, n=sequences))
    assert engine.memory is not None
    assert engine.memory.sequences == sequences
    return engine.memory.total / 2**30


def test_sequences_wait_for_memory() -> None:
    params = SamplingParams(n=12, max_tokens=10, seed=4)
    small = native(bytes_for(3, [5, 6], params))
    traces = small.generate([[5, 6]], params)
    assert small.memory is not None
    assert small.memory.sequences == 3
    assert small.memory.total <= small.memory.budget
    assert traces == native().generate([[5, 6]], params)


def test_a_request_that_can_never_fit_is_refused_alone() -> None:
    params = [SamplingParams(max_tokens=8, seed=1), SamplingParams(n=2, max_tokens=50_000)]
    engine = native(memory_gib=0.01)
    traces = engine.generate([[5, 6], [7]], params)
    assert traces[0] == native().generate([[5, 6]], params[0])[0]
    assert [trace.finish_reason for trace in traces[1:]] == ["error", "error"]
    assert "raise engine.memory_gib" in (traces[1].error or "")
    assert "50000" in (traces[1].error or "")


def test_requests_that_fit_only_one_by_one_run_one_after_another() -> None:
    """A long prompt and a long answer each need nearly all; together their slot would be longer than either."""
    long_prompt, long_answer = [3 + i % 50 for i in range(300)], [4]
    params = [SamplingParams(max_tokens=2, seed=1), SamplingParams(max_tokens=500, seed=1)]
    enough = max(bytes_for(1, long_prompt, params[0]), bytes_for(1, long_answer, params[1]))
    engine = native(enough)
    assert engine.generate([long_prompt, long_answer], params) == native().generate([long_prompt, long_answer], params)


def test_memory_is_announced_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(scheduler, "WORTH_SAYING", 0)
    engine = native()
    for _ in range(2):
        engine.generate([[5]], SamplingParams(n=2, max_tokens=3))
    lines = capsys.readouterr().err.splitlines()
    assert lines.count("decoding: in C") == 1
    said = [line for line in lines if line.startswith("memory:")]
    assert len(said) == 1
    assert "2 x" in said[0]
    assert "sequences of up to 4 tokens" in said[0]


def test_memory_is_announced_again_when_twice_as_much_is_taken(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(scheduler, "WORTH_SAYING", 0)
    engine = native()
    for tokens in (30, 31, 33, 400):
        engine.generate([[5]], SamplingParams(n=2, max_tokens=tokens))
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("memory:")]
    assert [re.search(r"up to (\d+) tokens", line)[1] for line in said] == ["31", "401"]  # type: ignore[index]


def test_little_memory_is_announced_where_it_bounds_what_runs_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    params = SamplingParams(n=4, max_tokens=3)
    native().generate([[5]], params)
    assert "memory:" not in capsys.readouterr().err
    native(bytes_for(2, [5], params)).generate([[5]], params)
    said = capsys.readouterr().err
    assert "memory: 2 x" in said
    assert said.endswith("; 4 would run at once with more\n")


def test_decoding_without_c_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    engine = NativeEngine(randomised(SMALL, seed=1), None, EngineSection(), eos_token_ids=())
    engine.generate([[5]], SamplingParams(max_tokens=2))
    assert "decoding: in PyTorch, since the model runs on torch kernels" in capsys.readouterr().err


@pytest.mark.parametrize("kernels", ["native", "torch"])
def test_running_sequences_decode_between_the_chunks_of_a_long_prompt(
    kernels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model: HybridForCausalLM = randomised(SMALL, seed=1).use(select(kernels))
    engine = NativeEngine(model, None, EngineSection(max_sequences=4, prefill_tokens=8), eos_token_ids=())
    events: list[str] = []
    advance, sample = Prefill.advance, Batch._sample

    def spy_advance(self: Prefill, *rest: object) -> bool:
        events.append("prefill")
        return advance(self, *rest)  # type: ignore[arg-type]

    def spy_sample(self: Batch) -> object:
        events.append(f"token {len(self.rows)}")
        return sample(self)

    monkeypatch.setattr(Prefill, "advance", spy_advance)
    monkeypatch.setattr(Batch, "_sample", spy_sample)
    long_prompt = [3 + i % 50 for i in range(60)]
    params = SamplingParams(max_tokens=30, seed=2)
    traces = engine.generate([[5, 6], long_prompt], params)
    assert events[: 2 * 9] == ["prefill", "token 1"] + ["prefill", "token 1"] * 7 + ["prefill", "token 2"]
    whole = NativeEngine(model, None, EngineSection(), eos_token_ids=()).generate([[5, 6], long_prompt], params)
    assert [t.token_ids for t in traces] == [t.token_ids for t in whole]


def test_traces_of_a_prompt_prefill_once_in_c(monkeypatch: pytest.MonkeyPatch) -> None:
    from h1r.engine.native.runner import NativeRunner

    seen: list[int] = []
    prefill = NativeRunner.prefill

    def spy(self: NativeRunner, cache: object, ids: torch.Tensor, counts: torch.Tensor, ending: object) -> torch.Tensor:
        seen.append(int(counts.sum()))
        return prefill(self, cache, ids, counts, ending)  # type: ignore[arg-type]

    monkeypatch.setattr(NativeRunner, "prefill", spy)
    native(max_sequences=3).generate([[5, 6, 7, 8]], SamplingParams(n=11, max_tokens=4))
    assert seen == [4]


@pytest.mark.parametrize("kernels", ["native", "torch"])
def test_python_does_no_more_in_a_step_of_many_sequences(kernels: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls of functions, Python's and C's, in steps that neither start nor end a trace."""
    model = randomised(SMALL, seed=1).use(select(kernels))
    calls: list[int] = []
    step = Batch.step

    def counted(self: Batch) -> object:
        before = len(self.rows)
        seen = 0

        def count(frame: object, event: str, argument: object) -> None:
            nonlocal seen
            seen += event in ("call", "c_call")

        sys.setprofile(count)
        try:
            ended = step(self)
        finally:
            sys.setprofile(None)
        if before == len(self.rows):
            calls.append(seen)
        return ended

    monkeypatch.setattr(Batch, "step", counted)
    steps = {}
    for sequences in (2, 50):
        calls.clear()
        engine = NativeEngine(model, None, EngineSection(max_sequences=sequences), eos_token_ids=())
        engine.generate([[5, 6, 7]], SamplingParams(n=sequences, max_tokens=12, top_p=0.9, seed=2))
        assert len(calls) == 10
        steps[sequences] = min(calls)  # what is set up once comes on top
    assert steps[2] == steps[50]


@pytest.mark.parametrize("installed", [None, 1 << 34])
@pytest.mark.parametrize("kept", [{}, {"keep_prompt": True}, {"keep_state": True}], ids=["nothing", "prompt", "state"])
def test_a_machine_that_does_not_say_what_is_free_answers_all_the_same(
    kept: dict[str, bool], installed: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Macs do not, and a container without /proc."""
    monkeypatch.setattr(memory, "free_memory_bytes", lambda: None)
    monkeypatch.setattr(memory, "installed_memory_bytes", lambda: installed)
    subject = NativeEngine(randomised(SMALL, seed=1).use(select("torch")), None, EngineSection(), eos_token_ids=())
    params = SamplingParams(max_tokens=3, **kept)
    for _ in range(2):
        (trace,) = subject.generate([[3, 4, 5]], params)
        assert (trace.error, trace.num_tokens) == (None, 3)
    assert subject.memory is not None
    assert "nan" not in subject.memory.sentence()
    assert (subject.kept.limit > 0) == bool(kept)
