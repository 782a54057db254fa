"""The DeepConf plugin: in a plain `vllm.LLM` on a CPU, and by itself under both of vLLM's model runners."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import math
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from geometries import SMALL, random_ids, randomised
from hypothesis import given, settings
from hypothesis import strategies as st
from test_windows import first_below
from torch import Tensor

from h1r.engine.sampling import token_confidence
from h1r.models import save

# Imported by the tests: each process that collects them would spend seconds on it.
if importlib.util.find_spec("vllm") is None:
    pytest.skip("vLLM is not installed: make setup-vllm", allow_module_level=True)

GROUP = "vllm.logits_processors"
NAME = "h1r.engine.vllm.plugin:DeepConf"
VOCABULARY = 30


def test_the_plugin_is_registered_where_vllm_looks() -> None:
    from vllm.v1.sample.logits_processor import LOGITSPROCS_GROUP

    assert LOGITSPROCS_GROUP == GROUP
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert list(project["entry-points"][GROUP].values()) == [NAME]


@pytest.fixture(scope="module")
def generate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., list[Any]]]:
    """`vllm.LLM.generate` of a small model that ends with 7 or 9, with nothing of ours but the plugin."""
    from vllm import LLM
    from vllm.distributed import cleanup_dist_env_and_memory

    from h1r.engine.vllm.engine import process_kept

    config = dataclasses.replace(SMALL, head_dim=32, eos_token_id=(7, 9), max_position_embeddings=256)
    checkpoint = save(randomised(config, 3), tmp_path_factory.mktemp("model"))
    patch = pytest.MonkeyPatch()
    if not any(one.value == NAME for one in importlib.metadata.entry_points(group=GROUP)):
        # The project was installed before it had the entry point: stand in for its metadata.
        metadata = tmp_path_factory.mktemp("site") / "stand_in-0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text("Name: stand-in\nVersion: 0\n", encoding="utf-8")
        (metadata / "entry_points.txt").write_text(f"[{GROUP}]\ndeepconf = {NAME}\n", encoding="utf-8")
        patch.syspath_prepend(metadata.parent)
    with process_kept(in_process=True):
        llm = LLM(
            str(checkpoint), dtype="float32", skip_tokenizer_init=True, enforce_eager=True, max_model_len=256,
            enable_prefix_caching=False, max_num_seqs=4, disable_log_stats=True, kv_cache_memory_bytes=1 << 26,
        )  # fmt: skip
    yield lambda prompts, params: llm.generate(
        [{"prompt_token_ids": prompt} for prompt in prompts], params, use_tqdm=False
    )
    llm.llm_engine.engine_core.shutdown()
    cleanup_dist_env_and_memory()
    patch.undo()


def confidences(output: Any, top_k: int) -> list[float]:
    """From the log-probabilities that vLLM reports: what a user has."""
    return [-float(np.mean(sorted(p.logprob for p in step.values())[::-1][:top_k])) for step in output.logprobs]


PROMPTS = [random_ids(SMALL, n, seed=n).tolist() for n in (3, 40, 5, 17, 9, 60, 4, 11)]


def test_a_plain_llm_ends_each_doubtful_trace_at_its_own_threshold(generate: Callable[..., list[Any]]) -> None:
    from vllm import SamplingParams

    whole = [one.outputs[0] for one in generate(PROMPTS, SamplingParams(temperature=0, max_tokens=40, logprobs=20))]
    each, expected, early = [], [], 0
    for i, output in enumerate(whole):
        window, top_k = (1, 20) if i % 2 else (4, 5)
        values = confidences(output, top_k)
        groups = np.convolve(values, np.ones(window) / window, "valid") if len(values) >= window else np.array([np.inf])
        threshold = float(np.quantile(groups, 0.3)) + 1e-4
        asks = {"deepconf_threshold": threshold, "deepconf_window": window, "deepconf_top_k": top_k} if i else None
        each.append(SamplingParams(temperature=0, max_tokens=40, extra_args=asks))
        n = first_below(values, window, threshold) if i else 0
        cut = 0 < n < len(values) and output.token_ids[n - 1] not in (7, 9)
        expected.append(list(output.token_ids[:n]) if cut else list(output.token_ids))
        early += cut
    assert early >= 4
    for got, tokens, output in zip(generate(PROMPTS, each), expected, whole, strict=True):
        answer = list(got.outputs[0].token_ids)
        if tokens == list(output.token_ids):
            assert answer == tokens
        else:
            assert answer[:-1] == tokens
            assert answer[-1] in (7, 9)
            assert got.outputs[0].finish_reason == "stop"


def test_a_sampled_trace_ends_at_the_first_low_group_and_with_the_token_that_was_named(
    generate: Callable[..., list[Any]],
) -> None:
    from vllm import SamplingParams

    asks = {"deepconf_threshold": 4.6, "deepconf_window": 5, "deepconf_top_k": 20, "deepconf_end_token_ids": [9]}
    params = SamplingParams(temperature=1.0, max_tokens=60, logprobs=20, extra_args=asks)
    stopped = 0
    for one in generate(PROMPTS, params):
        output = one.outputs[0]
        values, n = confidences(output, 20), len(output.token_ids)
        low = first_below(values, 5, 4.6)
        assert low == 0 or low >= n - 1
        if low == n - 1:
            assert output.token_ids[-1] == 9
            stopped += 1
    assert stopped >= 3


def test_a_request_with_arguments_that_cannot_work_is_refused(generate: Callable[..., list[Any]]) -> None:
    from vllm import SamplingParams
    from vllm.exceptions import VLLMValidationError

    for asks, why in (
        ({"deepconf_threshold": "high"}, "deepconf_threshold = 'high'; it must be a number"),
        ({"deepconf_window": 5}, "deepconf_threshold = None"),
        ({"deepconf_threshold": 1.0, "deepconf_window": 0}, "deepconf_window = 0"),
        ({"deepconf_threshold": 1.0, "deepconf_top_k": 2.5}, "deepconf_top_k = 2.5"),
        ({"deepconf_threshold": 1.0, "deepconf_windows": 5}, "deepconf_windows is unknown"),
        ({"deepconf_threshold": 1.0, "deepconf_end_token_ids": []}, "deepconf_end_token_ids = "),
    ):
        with pytest.raises(VLLMValidationError, match=why):
            generate([PROMPTS[0]], SamplingParams(max_tokens=2, extra_args=asks))
    with pytest.raises(VLLMValidationError, match="ignore_eos leaves none"):
        generate([PROMPTS[0]], SamplingParams(ignore_eos=True, extra_args={"deepconf_threshold": 1.0}))


HOSTILE: list[dict[str, Any]] = [
    *({"deepconf_threshold": value} for value in (math.nan, math.inf, -math.inf, 1e301, True, "1", [1.0], {"a": 1})),
    *(
        {"deepconf_threshold": 1.0, name: value}
        for name in ("deepconf_window", "deepconf_top_k")
        for value in (0, -1, 10**9, 2**64 - 1, 1e300, math.nan, math.inf, 2.5, "20", [20], None, True)
    ),
    *(
        {"deepconf_threshold": 1.0, "deepconf_end_token_ids": value}
        for value in (
            [], -1, [-1], 10**9, [10**9], [2**64 - 1], [2**63], 1.5, [math.nan], "7", ["7"], [[7]], {"7": 1}, True,
            list(range(65)), [7] * 100_000, [None],
        )
    ),
    *({"deepconf_threshold": 1.0, name: 1} for name in ("deepconf_", "deepconf_stop", "deepconf_" + "x" * 10**6)),
]  # fmt: skip
"""Arguments that no request may bring."""


@pytest.mark.parametrize("asks", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_arguments_are_refused_where_they_come_in_and_harm_no_worker(asks: dict[str, Any]) -> None:
    from vllm import SamplingParams
    from vllm.v1.sample.logits_processor import BatchUpdate

    from h1r.engine.vllm.deepconf import DeepConf

    params = SamplingParams(extra_args=asks)
    with pytest.raises(ValueError, match="deepconf") as refused:
        DeepConf.validate_params(params)
    assert len(str(refused.value)) < 300
    processor = DeepConf(SimpleNamespace(model_config=None), torch.device("cpu"), False)
    processor.update_state(BatchUpdate(1, [], [(0, params, [1], [])], []))
    logits = torch.randn(1, VOCABULARY)
    assert torch.equal(processor.apply(logits.clone()), logits)


def test_the_largest_arguments_that_are_admitted_cost_little() -> None:
    from vllm import SamplingParams
    from vllm.v1.sample.logits_processor import BatchUpdate

    from h1r.engine.vllm.deepconf import MAX_END_TOKENS, MAX_TOKEN_ID, MAX_TOP_K, MAX_WINDOW, DeepConf

    config = SimpleNamespace(model_config=SimpleNamespace(get_vocab_size=lambda: VOCABULARY))
    processor = DeepConf(config, torch.device("cpu"), False)
    ends = [7, *range(MAX_TOKEN_ID - MAX_END_TOKENS + 2, MAX_TOKEN_ID + 1)]
    asks = {
        "deepconf_threshold": 100.0, "deepconf_window": MAX_WINDOW, "deepconf_top_k": MAX_TOP_K,
        "deepconf_end_token_ids": ends,
    }  # fmt: skip
    for window in (2, 100, MAX_WINDOW):  # growing in steps wastes no more than a factor
        params = SamplingParams(extra_args={**asks, "deepconf_window": window})
        DeepConf.validate_params(params)
        processor.update_state(BatchUpdate(4, [], [(i, params, [1], []) for i in range(4)], []))
    logits = torch.randn(4, VOCABULARY)
    assert torch.equal(processor.apply(logits.clone()), logits)
    held = sum(t.nbytes for t in (processor.windows.sums_SR, processor.ends_SE, processor.threshold_S))
    assert held < 16 * 2 * (MAX_WINDOW + 1) * 8 + 16 * MAX_END_TOKENS * 8 + 1000
    # Of the ends, only the one that the model has is left; without any, the trace is not stopped.
    assert set(processor.ends_SE[processor.slots[0][0]].tolist()) == {7}
    outside = SamplingParams(extra_args={**asks, "deepconf_end_token_ids": ends[1:]})
    processor.update_state(BatchUpdate(4, [], [(0, outside, [1], [])], []))
    assert 0 not in processor.slots


def test_a_vllm_that_the_plugin_does_not_fit_starts_and_refuses_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from vllm import SamplingParams
    from vllm.v1.sample.logits_processor import LogitsProcessor
    from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsProcessor as LogitsProcessorV2

    from h1r.engine.vllm import plugin as vllm_plugin

    assert vllm_plugin._load().__name__ == "DeepConf"
    monkeypatch.setitem(sys.modules, "h1r.engine.vllm.deepconf", None)  # as if its import failed
    plugin = vllm_plugin._load()
    assert issubclass(plugin, LogitsProcessor)
    assert issubclass(plugin, LogitsProcessorV2)
    one = plugin(None, None)
    plugin.validate_params(SamplingParams(extra_args={"other": 1}))
    with pytest.raises(ValueError, match="DeepConf is not available on this server: this package does not fit"):
        plugin.validate_params(SamplingParams(extra_args={"deepconf_threshold": 1.0}))
    one.update_state(None)
    assert not one.add_request(0, SamplingParams())
    logits = torch.randn(2, VOCABULARY)
    assert one.apply(logits, None) is logits


@pytest.mark.parametrize(
    "asks",
    [
        *({"h1r_temperature": value} for value in ("nan", math.inf, -1, "x", "1e400")),
        *({"h1r_top_k": value} for value in (-1, math.inf, "many")),
        *({"h1r_top_p": value} for value in (0, "nan", 2)),
        *({"h1r_min_p": value} for value in (-1, "nan", 2)),
        *({"h1r_key": value} for value in (2**63, "", "0x5", math.inf)),
        *({"h1r_name": value} for value in (5, "n" * 1000)),
    ],
    ids=str,
)
def test_the_seeded_sampler_refuses_arguments_that_cannot_work(asks: dict[str, Any]) -> None:
    from vllm import SamplingParams

    from h1r.engine.vllm.worker import SeededSampler

    with pytest.raises(ValueError, match=r"h1r_|SamplingParams"):
        SeededSampler.validate_params(SamplingParams(extra_args={"h1r_key": "5", **asks}))


class Requests:
    """Seeded requests and their logits; half of them ask for a stop."""

    def __init__(self, seed: int, count: int, steps: int) -> None:
        from vllm import SamplingParams

        rng = np.random.default_rng(seed)
        self.logits = 2 * torch.randn(count, steps, VOCABULARY, generator=torch.Generator().manual_seed(seed))
        self.asks: list[dict[str, Any] | None] = []
        for _ in range(count):
            ends = [7] if rng.random() < 0.5 else [7, 9, 11]
            ask = {
                "deepconf_threshold": float(rng.uniform(3, 5)),
                "deepconf_window": int(rng.integers(1, 7)),
                "deepconf_top_k": int(rng.integers(1, 25)),
                "deepconf_end_token_ids": ends,
            }
            self.asks.append(ask if rng.random() < 0.7 else None)
        self.params = [SamplingParams(extra_args=ask) for ask in self.asks]

    def expected(self, i: int, step: int, first: int = 0) -> Tensor:
        """Logits of request i at a step after the processor; tokens before `first` were not seen."""
        row, ask = self.logits[i, step].clone(), self.asks[i]
        if ask is None:
            return row
        k = torch.tensor([ask["deepconf_top_k"]])
        seen = [float(token_confidence(self.logits[i, t][None], k, 30)) for t in range(first, step)]
        if first_below(seen, ask["deepconf_window"], ask["deepconf_threshold"]):
            kept = row[ask["deepconf_end_token_ids"]]
            row[:] = -math.inf
            row[ask["deepconf_end_token_ids"]] = kept
        return row


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 9999))
def test_the_first_runner_sees_requests_come_go_move_and_come_back(seed: int) -> None:
    from vllm.v1.sample.logits_processor import BatchUpdate, MoveDirectionality

    from h1r.engine.vllm.deepconf import DeepConf

    rng, requests = np.random.default_rng(seed), Requests(seed, 12, 40)
    processor = DeepConf(None, torch.device("cpu"), False)
    outputs: list[list[int]] = [[] for _ in range(12)]
    firsts, waiting, batch = [0] * 12, list(range(12)), list[int]()
    for _ in range(40):
        removed, added, moved = [], [], []
        if batch and rng.random() < 0.2:
            # As vLLM does: a request leaves (done, or preempted and back later), and the last one fills its place.
            at, last = int(rng.integers(len(batch))), len(batch) - 1
            waiting.append(batch[at])
            removed.append(at)
            if at != last:
                moved.append((last, at, MoveDirectionality.UNIDIRECTIONAL))
                batch[at] = batch[last]
            batch.pop()
        if not removed:
            while waiting and len(batch) < 6 and rng.random() < 0.7:
                i = waiting.pop(0)
                firsts[i] = len(outputs[i])
                added.append((len(batch), requests.params[i], [1], outputs[i]))
                batch.append(i)
            if len(batch) > 1 and rng.random() < 0.3:
                a, b = (int(x) for x in rng.choice(len(batch), 2, replace=False))
                moved.append((a, b, MoveDirectionality.SWAP))
                batch[a], batch[b] = batch[b], batch[a]
        changed = bool(removed or added or moved)
        processor.update_state(BatchUpdate(len(batch), removed, added, moved) if changed else None)
        if not batch:
            continue
        got = processor.apply(torch.stack([requests.logits[i, len(outputs[i])] for i in batch]))
        for row, i in zip(got, batch, strict=True):
            assert torch.equal(row, requests.expected(i, len(outputs[i]), firsts[i]))
            outputs[i].append(1)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 9999))
def test_the_second_runner_has_slots_in_any_order(seed: int) -> None:
    from h1r.engine.vllm.deepconf import DeepConf

    rng, requests, slots = np.random.default_rng(seed), Requests(seed, 12, 24), 5
    lengths = np.zeros(slots, dtype=np.int32)
    prompt, prefill = (SimpleNamespace(np=lengths.copy(), gpu=None) for _ in range(2))
    prompt.gpu = torch.from_numpy(prompt.np)
    processor = DeepConf(
        None, SimpleNamespace(device=torch.device("cpu"), max_num_reqs=slots, prompt_len=prompt, prefill_len=prefill)
    )
    held: dict[int, tuple[int, int, int]] = {}
    waiting = list(range(12))
    while waiting or held:
        for slot in range(slots):
            if slot not in held and waiting and rng.random() < 0.6:
                i, first = waiting.pop(0), int(rng.choice([0, 0, 3]))
                prompt.np[slot] = rng.integers(1, 9)
                prefill.np[slot] = prompt.np[slot] + first
                assert processor.add_request(slot, requests.params[i]) == (requests.asks[i] is not None)
                held[slot] = i, first, first
        rows = [slot for slot in rng.permutation(slots).tolist() if slot in held and rng.random() < 0.8]
        if rows:
            mapping = torch.tensor(rows, dtype=torch.int32)
            context = SimpleNamespace(
                expanded_idx_mapping=mapping,
                idx_mapping_np=mapping.numpy(),
                pos=torch.tensor([prompt.np[slot] + held[slot][1] - 1 for slot in rows]),
            )
            got = processor.apply(torch.stack([requests.logits[held[s][0], held[s][1]] for s in rows]), context)
            for row, slot in zip(got, rows, strict=True):
                i, step, first = held[slot]
                assert torch.equal(row, requests.expected(i, step, first))
                held[slot] = i, step + 1, first
        for slot in [slot for slot, (_, step, _) in held.items() if step == 24 or rng.random() < 0.02]:
            del held[slot]


def test_a_trace_that_may_not_end_yet_ends_when_it_may() -> None:
    """vLLM's min_tokens forbids every end token for a while."""
    from vllm import SamplingParams
    from vllm.v1.sample.logits_processor import BatchUpdate

    from h1r.engine.vllm.deepconf import DeepConf

    processor, output = DeepConf(None, torch.device("cpu"), False), list[int]()
    asks = {"deepconf_threshold": 100.0, "deepconf_window": 2, "deepconf_end_token_ids": [7]}
    processor.update_state(BatchUpdate(1, [], [(0, SamplingParams(extra_args=asks), [1], output)], []))
    ended = []
    for step in range(6):
        logits = torch.randn(1, VOCABULARY)
        if step < 4:
            logits[0, 7] = -math.inf
        got = processor.apply(logits)
        ended.append(int((got > -math.inf).sum()) == 1)
        output.append(1)
    assert ended == [False] * 4 + [True] * 2


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 9999))
def test_rows_of_drafts_are_stopped_as_one_token_at_a_time(seed: int) -> None:
    """A request has a row for its next token and one for each draft; some of the drafts are then refused."""
    from h1r.engine.vllm.deepconf import DeepConf

    rng, requests, slots, drafts = np.random.default_rng(seed), Requests(seed, 4, 40), 4, 3
    lengths = np.full(slots, 5, dtype=np.int32)
    length = SimpleNamespace(np=lengths, gpu=torch.from_numpy(lengths))
    speculative = SimpleNamespace(num_speculative_tokens=drafts)
    processor = DeepConf(
        SimpleNamespace(model_config=None, speculative_config=speculative),
        SimpleNamespace(device=torch.device("cpu"), max_num_reqs=slots, prompt_len=length, prefill_len=length),
    )
    for slot in range(slots):
        processor.add_request(slot, requests.params[slot])
    steps = [0] * slots
    while max(steps) + drafts < 40:
        rows = [
            (s, steps[s] + d, d) for s in rng.permutation(slots).tolist() for d in range(rng.integers(1, drafts + 2))
        ]
        context = SimpleNamespace(
            expanded_idx_mapping=torch.tensor([s for s, _, _ in rows], dtype=torch.int32),
            expanded_local_pos=torch.tensor([d for _, _, d in rows], dtype=torch.int32),
            idx_mapping_np=np.unique([s for s, _, _ in rows]),
            pos=torch.tensor([5 + step - 1 for _, step, _ in rows]),
        )
        # What a draft leads to is other logits than what comes in its place when it is refused.
        kept = [int(rng.integers(1, 1 + sum(s == slot for s, _, _ in rows))) for slot in range(slots)]
        given_rows = [requests.logits[s, step] if d < kept[s] else torch.randn(VOCABULARY) for s, step, d in rows]
        got = processor.apply(torch.stack(given_rows), context)
        for row, (s, step, d) in zip(got, rows, strict=True):
            if d < kept[s]:
                assert torch.equal(row, requests.expected(s, step))
        steps = [step + k for step, k in zip(steps, kept, strict=True)]
