"""Steps recorded and replayed, as CUDA graphs are, against the same engine step by step. No test here needs a GPU."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from geometries import SMALL, randomised
from recorded import HostWaitError, RecordedRunner, Recording

from h1r.config import EngineSection
from h1r.engine.native import graphs, memory_bytes, select_runner
from h1r.engine.native import scheduler as native
from h1r.engine.native.engine import NativeEngine
from h1r.engine.native.graphs import GraphRunner, graph_bytes, length_bucket, rows_bucket
from h1r.engine.native.memory_bytes import runner_bytes
from h1r.engine.native.runner import TorchRunner
from h1r.engine.native.select_runner import runner_for
from h1r.engine.native.slots import Slots
from h1r.engine.protocol import SamplingParams
from h1r.kernels.selection import select
from h1r.models.falcon_h1.cache import HybridCache
from h1r.models.falcon_h1.hybrid import HybridForCausalLM
from h1r.records import Trace

PROMPTS = [[5, 9, 11], [12, 3, 4, 4, 21, 30, 8] * 4, [2], [33, 1, 17, 9, 25]]
PARAMS = [
    SamplingParams(n=3, temperature=0.0, max_tokens=40),
    SamplingParams(n=4, temperature=1.0, max_tokens=25, stop_token_ids=(3, 8)),
    SamplingParams(n=3, temperature=0.8, top_p=0.9, max_tokens=50, confidence_window=4, confidence_threshold=3.595),
    SamplingParams(n=2, temperature=1.3, top_k=6, min_p=0.02, max_tokens=9),
]


@pytest.fixture
def model() -> HybridForCausalLM:
    """In fp64, so that the shape of a product decides no token."""
    return randomised(SMALL, seed=3).double().use(select("torch"))


@pytest.fixture
def recorded(model: HybridForCausalLM, monkeypatch: pytest.MonkeyPatch) -> RecordedRunner:
    """What every engine on `model` runs with from now on."""
    runner = RecordedRunner(model)
    plain = native.runner_for
    monkeypatch.setattr(native, "runner_for", lambda m, *rest: runner if m is model else plain(m, *rest))
    return runner


def engine(model: HybridForCausalLM, slots: int = 6) -> NativeEngine:
    return NativeEngine(model, None, EngineSection(max_sequences=slots, prefill_tokens=16), eos_token_ids=(7,))


def assert_same(got: list[Trace], expected: list[Trace]) -> None:
    for mine, theirs in zip(got, expected, strict=True):
        assert (mine.token_ids, mine.finish_reason) == (theirs.token_ids, theirs.finish_reason)
        for name in ("logprobs", "sampling_logprobs", "confidences"):
            assert getattr(mine, name) == pytest.approx(getattr(theirs, name), abs=2e-6)


def test_replayed_traces_are_those_of_plain_steps(model: HybridForCausalLM, recorded: RecordedRunner) -> None:
    got = engine(model).generate(PROMPTS, PARAMS)
    expected = engine(copy.deepcopy(model)).generate(PROMPTS, PARAMS)
    assert_same(got, expected)
    assert {trace.finish_reason for trace in expected} == {"stop", "length", "confidence"}
    assert {shape[1] for shape in recorded.shapes} >= {2, 4, 6}, "rows both grew and shrank over several buckets"
    assert len({shape[2] for shape in recorded.shapes if shape[0] == "decode"}) >= 3
    assert recorded.replays > 2 * len(recorded.shapes)


def test_a_cancelled_prompt_leaves_the_others_as_they_are(model: HybridForCausalLM, recorded: RecordedRunner) -> None:
    endless = [SamplingParams(n=2, max_tokens=30, seed=i) for i in range(4)]
    expected = engine(copy.deepcopy(model)).generate(PROMPTS, endless)
    running, looks, cancelled = engine(model, slots=8), 0, []

    def look() -> None:
        nonlocal looks
        looks += 1
        if looks == 6:
            cancelled.extend(running.cancel(1))

    running.watch(look)
    got = running.generate(PROMPTS, endless)
    assert {trace.finish_reason for trace in cancelled} == {"cancelled"}
    assert recorded.replays
    others = [[trace for trace in traces if trace.prompt_index != 1] for traces in (got, expected)]
    assert_same(*others)
    for trace in cancelled:
        whole = next(t for t in expected if (t.prompt_index, t.sample_index) == (1, trace.sample_index))
        assert trace.token_ids == whole.token_ids[: len(trace.token_ids)] != []


def test_rows_beside_the_running_ones_may_be_full_of_anything(model: HybridForCausalLM) -> None:
    """As an ended trace leaves them: as many tokens as there is room for, logits without meaning."""
    runner, rows, new = RecordedRunner(model), 4, 6
    results = []
    for junk in (False, True):
        torch.manual_seed(0)
        cache, slots = HybridCache.allocate(SMALL, rows, 8, model.dtype), Slots(rows, SMALL.vocab_size, new)
        slots.logits.normal_()
        for name, value in {"max_tokens": new, "window": 2, "temperature": 1.0}.items():
            slots.state[name][:] = value
        if junk:
            slots.state["count"][3], cache.lengths[3] = new, 8
            slots.logits[3] = torch.nan
            cache.ssm[0][3] = torch.inf
        with torch.inference_mode():
            runner.begin(cache, slots, [SamplingParams(max_tokens=new)])
            for step in range(1, 5):
                assert not runner.sample(3)
                runner.decode(3, step)
        results.append((slots.tokens[:3], slots.logprobs[:3], slots.logits[:3], cache.lengths[:3]))
    assert runner.replays
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_new_weights_reach_the_replayed_steps(model: HybridForCausalLM, recorded: RecordedRunner) -> None:
    """In place, and as tensors that lie elsewhere."""
    other = randomised(SMALL, seed=5).double().state_dict()
    greedy = SamplingParams(temperature=0.0, max_tokens=30)

    def generate(subject: HybridForCausalLM, assign: bool) -> tuple[list[Trace], int]:
        running, looks, before = engine(subject), 0, len(recorded.shapes)

        def look() -> None:
            nonlocal looks
            looks += 1
            if looks == 6 and assign:
                subject.load_state_dict(other, assign=True)
                running.runner.refresh()
            elif looks == 6:
                running.load_weights(other)

        running.watch(look)
        return running.generate([[5, 9]], greedy), len(recorded.shapes) - before

    kept = copy.deepcopy(model.state_dict())
    untouched = engine(copy.deepcopy(model)).generate([[5, 9]], greedy)
    expected, _ = generate(copy.deepcopy(model), assign=False)
    in_place, graphs = generate(model, assign=False)
    model.load_state_dict(kept)
    elsewhere, graphs_again = generate(model, assign=True)
    assert_same(in_place, expected)
    assert_same(elsewhere, expected)
    assert expected[0].token_ids != untouched[0].token_ids
    assert graphs_again > graphs, "tensors that moved need new graphs"


def test_a_recording_refuses_what_the_host_waits_for() -> None:
    numbers = torch.arange(4.0)
    for wait in (
        lambda: bool(numbers.any()),
        lambda: int(numbers.max()),
        lambda: numbers[numbers > 1],
        lambda: numbers.masked_select(numbers > 1),
        lambda: (numbers > 1).nonzero(),
        lambda: torch.tensor([1.0]),
    ):
        for mode in (torch.no_grad, torch.inference_mode):
            with mode(), pytest.raises(HostWaitError), Recording():
                wait()


def test_attention_that_asks_the_device_for_its_length_is_refused(model: HybridForCausalLM) -> None:
    cache = HybridCache.allocate(SMALL, 2, 8, model.dtype)
    with torch.inference_mode(), pytest.raises(HostWaitError), Recording():
        model.model.cached(torch.zeros(2, 1, dtype=torch.long), cache, None)


def test_a_plain_step_waits_only_for_its_answer(model: HybridForCausalLM) -> None:
    cache, slots = HybridCache.allocate(SMALL, 3, 8, model.dtype), Slots(3, SMALL.vocab_size, 4)
    slots.state["max_tokens"][:], slots.state["window"][:] = 4, 2
    runner = TorchRunner(model)
    params = SamplingParams(temperature=0.7, top_k=3, top_p=0.9, min_p=0.1, max_tokens=4, confidence_threshold=1.0)
    runner.begin(cache, slots, [params])
    with torch.inference_mode():
        with Recording():
            runner._sample_rows(3)
            runner.decode(3, 1)
        with pytest.raises(HostWaitError), Recording():
            runner.sample(3)


def test_no_step_reads_a_value(model: HybridForCausalLM) -> None:
    """Tensors without values: copies to the host, which on a CPU no operation shows, fail on them."""
    model.to("meta")
    cache, slots = HybridCache.allocate(SMALL, 4, 8, model.dtype, "meta"), Slots(4, SMALL.vocab_size, 4, "meta")
    runner = RecordedRunner(model)
    params = SamplingParams(temperature=0.7, top_k=3, top_p=0.9, min_p=0.1, max_tokens=4, confidence_threshold=1.0)
    runner.begin(cache, slots, [params])
    with torch.inference_mode():
        runner._sample_running(4)
        runner.decode(3, 1)
        with pytest.raises((RuntimeError, NotImplementedError)):
            slots.reason.tolist()


def test_buckets_hold_what_they_must_and_little_more() -> None:
    for n in range(1, 101):
        assert n <= rows_bucket(n, 100) <= min(100, 2 * n - 1)
    for length in range(1, 5001):
        assert length <= length_bucket(length, 5000, 256) <= min(5000, max(-(-length // 256) * 256, 1.25 * length))
    assert len({length_bucket(length, 32768, 256) for length in range(1, 32769)}) == 24


@pytest.fixture
def as_on_cuda(monkeypatch: pytest.MonkeyPatch) -> type:
    """Steps are recorded unless `enforce_eager` says no. A graph is the step itself and "takes" 50 MB."""

    class Capture:
        bytes = 50_000_000

        def __init__(self, device: torch.device) -> None:
            self.device = device

        def __call__(self, step: Callable[[], None]) -> Callable[[], object]:
            return step

    for module in (memory_bytes, select_runner):
        monkeypatch.setattr(module, "with_graphs", lambda model, enforce_eager: not enforce_eager)
    monkeypatch.setattr(graphs, "CudaCapture", Capture)
    return Capture


def test_graphs_are_announced_counted_and_measured(
    model: HybridForCausalLM, as_on_cuda: type, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "WORTH_SAYING", 0)
    params, running = SamplingParams(n=2, max_tokens=8), engine(model)
    running.generate([[5, 9]], params)
    plan = running.memory
    assert plan is not None
    step = runner_bytes(model, plan.call_tokens, plan.tokens, False, False).per_slot
    assert plan.graphs == graph_bytes(SMALL) + 2 * step
    assert plan.total == plan.fixed + 2 * plan.per_sequence + plan.prompts + plan.graphs
    decoding, memory, measured = capsys.readouterr().err.splitlines()
    assert decoding == "decoding: in PyTorch, recorded as CUDA graphs, since the model runs on torch kernels"
    assert " + 16 MiB for CUDA graphs = " in memory
    assert measured.startswith("CUDA graphs: 2 recorded in 0.0 s, they took 47.7 MiB where 16 MiB were counted")
    running.generate([[5, 9]], params)
    assert running.memory is not None
    assert running.memory.graphs == 50_000_000, "what was measured counts from then on"
    assert "CUDA graphs:" not in capsys.readouterr().err


def test_memory_of_graphs_counts_at_admission(model: HybridForCausalLM, as_on_cuda: type) -> None:
    params = SamplingParams(n=2, max_tokens=8)
    eager, graphs = (
        NativeEngine(model, None, EngineSection(memory_gib=0.01), (7,), enforce_eager=on) for on in (True, False)
    )
    assert [trace.num_tokens for trace in eager.generate([[5, 9]], params)] == [8, 8]
    (first, _) = graphs.generate([[5, 9]], params)
    assert "of memory, the engine has 10.2 MiB" in (first.error or "")


def test_enforce_eager_records_nothing(
    model: HybridForCausalLM, as_on_cuda: type, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And says so, by the section or by the argument; the argument wins."""
    monkeypatch.setattr(HybridForCausalLM, "device", property(lambda self: torch.device("cuda")))
    section = EngineSection(enforce_eager=True)
    for one in (NativeEngine(model, None, section), NativeEngine(model, None, None, None, True)):
        runner = runner_for(one.model, 8, None, one.section.enforce_eager)
        assert type(runner) is TorchRunner
        assert runner.how.startswith("in PyTorch, step by step as engine.enforce_eager asks, since ")
        assert runner_bytes(model, 8, 8, False, one.section.enforce_eager).graphs == 0
    forced = NativeEngine(model, None, section, None, False)
    assert type(runner_for(model, 8, None, forced.section.enforce_eager)) is GraphRunner


def test_on_cuda_steps_are_recorded_by_default(model: HybridForCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    assert type(runner_for(model, 8)) is TorchRunner
    monkeypatch.setattr(HybridForCausalLM, "device", property(lambda self: torch.device("cuda")))
    assert type(runner_for(model, 8)) is GraphRunner


@pytest.mark.parametrize("kernels", ["native", "torch"])
def test_enforce_eager_without_a_gpu_says_that_it_changes_nothing(
    kernels: str, capsys: pytest.CaptureFixture[str]
) -> None:
    subject = randomised(SMALL, seed=3).use(select(kernels))
    NativeEngine(subject, None, None, (), enforce_eager=True).generate([[5]], SamplingParams(max_tokens=2))
    line = capsys.readouterr().err.splitlines()[0]
    assert line.startswith("decoding: in C" if kernels == "native" else "decoding: in PyTorch, since")
    assert line.endswith("; engine.enforce_eager changes nothing, since CUDA graphs need a GPU")


def test_the_graph_used_longest_ago_goes_first(model: HybridForCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "MOST_GRAPHS", 3)
    runner, slots = RecordedRunner(model, positions=1), Slots(2, SMALL.vocab_size, 4)
    cache = HybridCache.allocate(SMALL, 2, 40, model.dtype)
    runner.begin(cache, slots, [SamplingParams()])
    with torch.inference_mode():
        for length in (1, 1, 2, 2, 3, 3, 1, 4, 4, 1, 2):
            cache.lengths.zero_()
            runner.decode(2, length)
    assert [shape[2] for shape in runner.shapes] == [1, 2, 3, 4, 2], "1 was used again before 4 came, 2 was not"
    assert [shape[2] for shape in runner._graphs] == [4, 1, 2]
