"""Plans of runs on cards: sizes that are known, and what is refused cannot fit. What is counted is held against the
kernels in tests/model/interpreted_triton.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from h1r.cli import main
from h1r.config import find_recipe, load_recipe
from h1r.errors import UserError
from h1r.models import build
from h1r.models.registry import preset
from h1r.train.documents import Document
from h1r.train.plan.cards import parse_cards
from h1r.train.plan.costs import pass_costs
from h1r.train.plan.plan import Stage, plan
from h1r.train.plan.run_time import RunTime, documents_at_hand, run_time
from h1r.train.plan.utilisation import Utilisation

PAPER = find_recipe("h1r-7b-cluster")


@pytest.mark.parametrize(("name", "millions"), [("7b", 7586), ("0.5b", 521), ("qwen3-8b", 8191), ("qwen3-0.6b", 596)])
def test_parameters_are_those_of_the_published_models(name: str, millions: int) -> None:
    costs = pass_costs(preset(name), torch.bfloat16, 64)
    assert round(costs.parameters / 1e6) == millions
    assert costs.root + costs.layers * costs.largest_unit == costs.parameters


def test_operations_are_two_a_weight_and_token_and_those_of_attention_and_scan() -> None:
    config = preset("7b")
    length = 4096
    costs = pass_costs(config, torch.bfloat16, length)
    weights = costs.parameters - config.vocab_size * config.hidden_size
    attention = 2 * length * config.num_attention_heads * config.head_dim
    heads = config.mamba_d_ssm * config.mamba_d_state
    scan = 2 * (config.mamba_chunk_size * (config.mamba_d_state + config.mamba_d_ssm) + 2 * heads)
    expected = length * (2 * weights + config.num_hidden_layers * (attention + scan))
    assert costs.flops == pytest.approx(expected, rel=1e-3)


def test_the_papers_layout_fits_its_cards_and_whole_weights_do_not() -> None:
    recipe = load_recipe(PAPER, {})
    made = plan(recipe, "sft", parse_cards("256xH100"))
    assert made.fits
    assert made.tokens == 128 * 36864
    assert made.bound_by == "computing"
    whole = plan(load_recipe(PAPER, {"parallel.shard": False}), "sft", parse_cards("256xH100"))
    assert not whole.fits
    assert whole.instead == {"parallel.shard": True}
    kept = plan(load_recipe(PAPER, {"parallel.checkpoint": False}), "sft", parse_cards("256xH100"))
    assert not kept.fits
    assert kept.instead == {"parallel.checkpoint": True}


def test_offloaded_inputs_take_the_room_of_two_and_their_time_on_the_bus() -> None:
    cards = parse_cards("256xH100")
    here, away = (plan(load_recipe(PAPER, {"parallel.offload": one}), "sft", cards) for one in (False, True))
    config = preset("7b")
    one = 36864 / 2 * 2 * config.hidden_size  # bytes of an input, in bfloat16, of a process's half of the row
    saved = here.memory["activations"] - away.memory["activations"]
    assert saved == pytest.approx((config.num_hidden_layers - 2) * one)
    longer = away.seconds["computing"] - here.seconds["computing"]
    assert longer == pytest.approx(2 * config.num_hidden_layers * one / 50e9)
    assert longer < here.seconds["computing"] / 10


def test_where_inputs_of_layers_do_not_fit_offloading_them_is_what_would() -> None:
    long = {"sft.seq_len": 131072, "parallel.context": 1, "parallel.shard": True, "sft.micro_batch_size": 1}
    made = plan(load_recipe(PAPER, long), "sft", parse_cards("256xH100"))
    assert not made.fits
    assert made.instead == {"parallel.checkpoint": True, "parallel.offload": True}


def test_weights_in_shards_take_their_share() -> None:
    recipe = load_recipe(PAPER, {})
    sizes = [plan(recipe, "sft", parse_cards(f"{count}xH200")).memory["weights"] for count in (8, 16)]
    assert sizes[0] == 2 * sizes[1]
    assert sizes[0] == pytest.approx(16 * 7.5856e9 / 8, rel=1e-4)


def test_copies_of_shards_take_more_memory_and_shorter_ways() -> None:
    one, copies = (plan(load_recipe(PAPER, {"parallel.replicate": n}), "sft", parse_cards("256xH100")) for n in (1, 32))
    assert copies.memory["weights"] == pytest.approx(32 * one.memory["weights"])
    element, parameters = 2, one.parameters
    among = (2 * element + 4) * 7 / 8 / 450e9  # in a node of 8
    across = 2 * 4 * 31 / 32 / 8 / 50e9  # the sums of a shard, between nodes
    assert copies.seconds["exchanging"] == pytest.approx(parameters * (among + across), rel=1e-6)
    assert copies.seconds["exchanging"] < one.seconds["exchanging"] / 3
    whole = plan(load_recipe(PAPER, {"parallel.replicate": 256}), "sft", parse_cards("256xH100"))
    assert (whole.fits, whole.instead) == (False, {"parallel.replicate": 1})
    with pytest.raises(UserError, match="3 copies of the shards do not divide 256 processes"):
        plan(load_recipe(PAPER, {"parallel.replicate": 3}), "sft", parse_cards("256xH100"))


def test_what_the_optimiser_keeps_counts() -> None:
    sizes = {
        kind: plan(load_recipe(PAPER, {"sft.optimizer.kind": kind}), "sft", parse_cards("8xH200")).memory["weights"]
        for kind in ("adamw", "adamw8bit", "muon")
    }
    assert sizes["adamw8bit"] == pytest.approx(sizes["adamw"] * 10 / 16)
    # Muon: 12 bytes in the layers, 16 for embedding and head
    assert 12 / 16 < sizes["muon"] / sizes["adamw"] < 13 / 16


def test_rl_of_the_7b_wants_shards_and_then_has_room_for_the_engines_whole_copy() -> None:
    recipe = load_recipe(find_recipe("h1r-7b"), {})
    whole = plan(recipe, "rl", parse_cards("8xH200"))
    assert not whole.fits
    assert whole.instead == {"parallel.shard": True}
    made = plan(load_recipe(find_recipe("h1r-7b-8xh200"), {}), "rl", parse_cards("8xH200"))
    assert made.fits
    assert made.memory["engine"] == 2 * made.parameters
    assert made.memory["weights"] == pytest.approx(16 * made.parameters / 8)
    cache = preset_cache("7b", 49152)
    assert made.sampling["cache"] == pytest.approx(made.sequences * cache, rel=1e-6)
    assert made.sequences == int(0.8 * (141e9 - sum(made.sampling.values()) + made.sampling["cache"]) / cache)


def preset_cache(name: str, length: int) -> int:
    """Bytes of a sequence's keys, values, convolution tail and fp32 states, by shape."""
    c = preset(name)
    tokens = length * 2 * c.num_key_value_heads * c.head_dim * 2
    states = 4 * c.mamba_d_ssm * c.mamba_d_state
    tail = 2 * (c.mamba_d_ssm + 2 * c.mamba_n_groups * c.mamba_d_state) * (c.mamba_d_conv - 1)
    return c.num_hidden_layers * (tokens + states + tail)


def test_vllm_keeps_its_share_of_the_card_while_the_trainer_trains() -> None:
    recipe = load_recipe(find_recipe("h1r-7b-8xh200"), {"engine.kind": "vllm"})
    made = plan(recipe, "rl", parse_cards("8xH200"))
    assert not made.fits
    assert made.instead.keys() == {"engine.gpu_memory_utilization"}
    assert made.memory["engine"] == pytest.approx(0.9 * 141e9)


def test_engines_on_cards_of_their_own_are_planned_apart() -> None:
    found = find_recipe("h1r-7b-ray")
    made = plan(load_recipe(found, {}), "rl", parse_cards("16xH200"))
    together = plan(load_recipe(find_recipe("h1r-7b-8xh200"), {}), "rl", parse_cards("8xH200"))
    assert made.fits
    assert made.memory == {part: size for part, size in together.memory.items() if part != "engine"}
    assert made.seconds == together.seconds
    assert made.sampling["engine"] == pytest.approx(0.9 * 141e9)
    assert "weights" not in made.sampling
    assert made.notes[-1] == "8 cards of these train, and 8 sample."
    native = plan(load_recipe(found, {"engine.kind": "native"}), "rl", parse_cards("16xH200"))
    assert native.sampling["engine"] == 2 * made.parameters
    assert native.sequences > together.sequences
    with pytest.raises(UserError, match="8 engines take a card each, and --gpus names 8"):
        plan(load_recipe(found, {}), "rl", parse_cards("8xH200"))


@pytest.mark.parametrize("stage", ["sft", "rl"])
@pytest.mark.parametrize(
    ("name", "cards"), [("h1r-3b-1xh200", "1xH200"), ("h1r-7b-8xh200", "8xH200"), ("h1r-7b-cluster", "256xH100")]
)
def test_the_recipes_fit_the_cards_that_they_are_for(name: str, cards: str, stage: Stage) -> None:
    made = plan(load_recipe(find_recipe(name), {}), stage, parse_cards(cards))
    assert made.fits
    assert made.needed < 1e9 * made.cards.card.gb


def test_a_wrong_grid_and_unknown_cards_are_refused() -> None:
    with pytest.raises(UserError, match="needs a multiple of 2 processes"):
        plan(load_recipe(PAPER, {}), "sft", parse_cards("3xH100"))
    with pytest.raises(UserError, match="does not divide both the 12 query heads and the 24 SSM heads"):
        plan(load_recipe(PAPER, {"parallel.context": 8}), "sft", parse_cards("8xH100"))
    for wrong in ("0xH100", "8xV100", "8 H100", "", "xH100"):
        with pytest.raises(UserError, match="is no number of cards"):
            parse_cards(wrong)


def test_the_command_prints_the_plan_and_its_exit_code_says_whether_it_fits(capsys: pytest.CaptureFixture[str]) -> None:
    fits = ["sft", "h1r-7b-cluster", "--dry-run", "--gpus", "256xH100"]
    assert code_of(fits) == 0
    assert "in all" in capsys.readouterr().out
    assert code_of([*fits, "--set", "parallel.shard=false", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["instead"] == {"parallel.shard": True}
    assert found["needed_bytes"] == pytest.approx(sum(found["memory_bytes"].values()))
    assert code_of(["rl", "h1r-7b", "--gpus", "8xH200"]) == 2
    assert "--dry-run" in capsys.readouterr().err


def test_a_run_has_the_steps_of_its_documents_or_of_so_many_tokens(tmp_path: Path) -> None:
    changes = {"sft.epochs": 2, "sft.seq_len": 100, "sft.batch_size": 4, "sft.micro_batch_size": 1}
    recipe = load_recipe(PAPER, changes)
    made = plan(recipe, "sft", parse_cards("8xH100"))
    documents = [Document([0] * 60, [1] * 60, 1.0) for _ in range(42)]  # a row holds one
    exact, tokens = run_time(recipe, made, documents), run_time(recipe, made, tokens=42 * 60)
    assert (exact.steps, exact.tokens, exact.known) == (2 * 11, 42 * 60, True)
    assert (tokens.steps, tokens.tokens, tokens.known) == (2 * 7, 42 * 60, True)
    assert exact.as_json()["seconds"] == pytest.approx(22 * made.seconds[made.bound_by])
    unknown = run_time(recipe, made)
    assert (unknown.tokens, unknown.known) == (10**9, False)
    assert "for each 10^9 tokens of data" in unknown.told()[0]
    assert documents_at_hand(recipe, None) is documents_at_hand(recipe, tmp_path) is None
    (tmp_path / "curate" / "packed").mkdir(parents=True)
    with pytest.raises(UserError, match="holds no packed shard"):
        documents_at_hand(recipe, tmp_path)


def test_a_run_of_rl_is_its_steps_of_training_and_sampling() -> None:
    def of(cards: str, name: str = "h1r-7b-8xh200", **changes: Any) -> RunTime:
        recipe = load_recipe(find_recipe(name), {key.replace("__", "."): one for key, one in changes.items()})
        return run_time(recipe, plan(recipe, "rl", parse_cards(cards)))

    one = of("8xH200")
    assert one.sampling is not None
    assert one.step == one.training + one.sampling
    assert of("8xH200", rl__steps=7).as_json()["seconds"] == pytest.approx(7 * one.step)
    # its longest rollout alone takes a token at a time
    longest = 49_152 * 2 * 7.5856e9 / (0.6 * 4.8e12)
    assert of("8xH200", rl__backfill__mode="reject").sampling > longest
    reject, cut = (of("8xH200", rl__backfill__mode="reject", rl__partial_tokens=n).sampling for n in (0, 16_384))
    assert cut < reject < one.sampling
    ray = of("16xH200", "h1r-7b-ray")
    assert ray.step == max(ray.training, ray.sampling or 0.0)
    server = of("8xH200", engine__kind="server", engine__urls=["http://localhost:1"])
    assert (server.sampling, server.step) == (None, server.training)
    assert "servers that are not planned" in server.told()[1]


def code_of(arguments: list[str]) -> int:
    try:
        return main(arguments)
    except SystemExit as ended:
        return int(ended.code or 0)


@pytest.mark.parametrize(("kind", "bytes_each"), [("adamw", 16), ("muon", 12), ("adamw8bit", 10)])
def test_adapters_need_the_model_twice_and_what_their_optimiser_keeps(kind: str, bytes_each: int) -> None:
    changes = {"lora.rank": 16, "parallel.shard": False, "parallel.context": 1, "parallel.checkpoint": True}
    recipe = load_recipe(PAPER, {**changes, "sft.micro_batch_size": 1, "sft.optimizer.kind": kind})
    made = plan(recipe, "sft", parse_cards("1xH200"))
    config = preset("7b")
    costs = pass_costs(config, torch.bfloat16, 64)
    norms = costs.parameters - 2 * costs.root
    assert 2 * costs.parameters + 2 * 0.98 * norms < made.memory["weights"] < 4 * costs.parameters
    projections = (config.num_attention_heads + 2 * config.num_key_value_heads) * config.head_dim
    qkv = 3 * config.hidden_size + projections
    o = config.hidden_size + config.num_attention_heads * config.head_dim
    mamba_in = config.hidden_size + config.mamba_d_ssm + config.conv_dim + config.mamba_n_heads
    mamba_out, mlp = config.hidden_size + config.mamba_d_ssm, 3 * (config.hidden_size + config.intermediate_size)
    assert made.memory["adapters"] == bytes_each * 16 * config.num_hidden_layers * (
        qkv + o + mamba_in + mamba_out + mlp
    )
    assert made.fits
    assert not plan(load_recipe(PAPER, {**changes, "lora.rank": 0}), "sft", parse_cards("1xH200")).fits
    with pytest.raises(UserError, match=r"parallel\.shard = false"):
        plan(load_recipe(PAPER, {"lora.rank": 16}), "sft", parse_cards("256xH100"))


class H200Model:
    """As far as its share of a card is asked for: the 7B on a device that is not here."""

    config = preset("7b")
    device = torch.device("cuda")


@pytest.mark.parametrize(("name", "peak"), [("NVIDIA H200", 989), ("NVIDIA A100-SXM4-80GB", 312), ("Tesla K80", None)])
def test_a_steps_share_of_its_cards_is_that_of_the_operations_the_plan_counts(
    name: str, peak: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    found = Utilisation(H200Model(), 8).of([36864, 5000, 5000], 2.0, updates=2)  # type: ignore[arg-type]
    if peak is None:
        assert found == {}
        return
    long, short = (pass_costs(preset("7b"), torch.bfloat16, n).flops for n in (36864, 5000))
    tflops = 3 * 2 * (long + 2 * short) / 2.0 / 8 / 1e12
    assert found["tflops"] == pytest.approx(tflops, rel=1e-4)
    assert found["mfu"] == pytest.approx(tflops / peak, abs=1e-4)


def test_a_processor_has_no_share() -> None:
    model = build(preset("tiny"), seed=0)
    assert Utilisation(model, 1).of([64], 1.0) == {}
