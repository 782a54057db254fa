"""Online DeepConf, and the other methods, on the real engine against the replay of complete traces."""

import pytest
import torch

from h1r.common.scaling_methods import METHODS
from h1r.config import EngineSection
from h1r.engine.native.engine import NativeEngine
from h1r.engine.protocol import SamplingParams
from h1r.models.falcon_h1.config import preset
from h1r.models.falcon_h1.hybrid import HybridForCausalLM
from h1r.scaling.deepconf import majority_baseline, problem_seed, solve_many
from h1r.scaling.parameters import DeepConf
from h1r.scaling.replay import simulate_many

SLOTS = 6
PROMPTS = [[5 + i, 6 + i, 7 + i] for i in range(8)]
SEEDS = [problem_seed(0, str(i)) for i in range(len(PROMPTS))]
SAMPLING = SamplingParams(max_tokens=40, confidence_window=6, confidence_top_k=5)
BUDGET = 14


class Sum:
    """Reads a trace as its token sum modulo three, so that an untrained model's traces have answers to vote on."""

    def decode(self, ids, **options):
        return rf"\boxed{{{sum(ids) % 3}}}"


@pytest.fixture(scope="module")
def engine():
    torch.manual_seed(0)
    config = preset(
        "tiny", vocab_size=64, hidden_size=64, intermediate_size=96, num_hidden_layers=2, mamba_d_ssm=64,
        mamba_n_heads=2,
    )  # fmt: skip
    model = HybridForCausalLM(config).init_weights().eval()
    model.lm_head.weight.data.mul_(30)  # far from uniform, so that confidences differ
    return NativeEngine(model, Sum(), EngineSection(max_sequences=SLOTS), eos_token_ids=[3])


@pytest.fixture(scope="module")
def recorded(engine):
    return [s.traces for s in majority_baseline(engine, PROMPTS, BUDGET, SAMPLING, seeds=SEEDS)]


@pytest.mark.parametrize("tau", [None, 0.6])
def test_early_stops_and_consensus_inside_the_engine_equal_the_replay(engine, recorded, tau):
    params = DeepConf(BUDGET, warmup=4, keep_top=0.5, tau=tau, warmup_votes="all", sampling=SAMPLING)
    online = solve_many(engine, PROMPTS, params, seeds=SEEDS)
    replayed = simulate_many(recorded, params, slots=SLOTS)
    assert [s.states for s in online] == [s.states for s in replayed]
    assert [s.tokens for s in online] == [s.tokens for s in replayed]
    assert [(s.answer, s.stop_reason) for s in online] == [(s.answer, s.stop_reason) for s in replayed]
    assert any("stopped" in s.states for s in online)
    assert any(s.stop_reason == "consensus" for s in online) == (tau is not None)


OPTIONS = {
    "bayesian_stopping": {"shapes": [[0.5, 0.3, 0.2], [0.8, 0.1, 0.1]], "certain": 0.7},
    "adaptive_consistency": {"certain": 0.8},
    "esc": {"window": 3},
    "no_loops": {"repeats": 2, "period": 3, "shortest": 4},
}


ALL_AT_ONCE = ("best_of_n", "borda", "majority")  # of which one stands for all


@pytest.mark.parametrize("name", ["borda", *sorted(set(METHODS) - {"deepconf", *ALL_AT_ONCE})])
def test_each_method_inside_the_engine_equals_its_replay(engine, recorded, name):
    method = METHODS.require(name)(BUDGET, sampling=SAMPLING, **OPTIONS.get(name, {}))
    recorded = recorded[:3]
    online = solve_many(engine, PROMPTS[:3], method, seeds=SEEDS[:3])
    replayed = simulate_many(recorded, method, slots=SLOTS)
    assert [s.states for s in online] == [s.states for s in replayed]
    assert [s.tokens for s in online] == [s.tokens for s in replayed]
    assert [(s.answer, s.vote.index, s.stop_reason) for s in online] == [
        (s.answer, s.vote.index, s.stop_reason) for s in replayed
    ]
    for solution, whole in zip(online, recorded, strict=True):
        for trace in solution.traces:
            assert trace.token_ids == whole[trace.sample_index].token_ids[: trace.num_tokens]
    everything = sum(trace.num_tokens for traces in recorded for trace in traces)
    assert (sum(s.tokens_total for s in online) < everything) == (name not in ALL_AT_ONCE)
    assert any("stopped" in s.states for s in online) == (name == "no_loops")


def test_every_trace_of_the_engine_is_a_prefix_of_its_paired_baseline(engine, recorded):
    online = solve_many(engine, PROMPTS, DeepConf(BUDGET, warmup=4, keep_top=0.5, sampling=SAMPLING), seeds=SEEDS)
    for solution, whole in zip(online, recorded, strict=True):
        for trace in solution.traces:
            assert trace.token_ids == whole[trace.sample_index].token_ids[: trace.num_tokens]
