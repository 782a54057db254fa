"""Checkpoints come back to the bit, in every layout that the format allows; what would load into another model is
refused with a sentence that names it."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from geometries import SMALL, geometries, randomised
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from h1r.errors import UserError
from h1r.models import checkpoint, load, save
from h1r.models.checkpoint import read_config
from h1r.models.falcon_h1.config import HybridConfig
from h1r.models.falcon_h1.hf_config import from_hf, to_hf
from h1r.models.falcon_h1.hybrid import HybridForCausalLM

RECURRENCE = ("A_log", "D", "dt_bias")


def same_bits(one: HybridForCausalLM, other: HybridForCausalLM) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(a[n].dtype == b[n].dtype and torch.equal(a[n], b[n]) for n in a)


@settings(max_examples=25, deadline=None)
@given(
    config=geometries(), dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]), shards=st.booleans(),
    seed=st.integers(0, 2**31),
)  # fmt: skip
def test_saved_and_loaded_is_the_same_to_the_bit(
    config: HybridConfig, dtype: torch.dtype, shards: bool, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.mktemp("saved")
    model = randomised(config, seed, dtype)
    save(model, directory, max_shard_size=2000 if shards else "5GB")
    assert len(list(directory.glob("*.safetensors"))) == 1 or shards
    found = load(directory)
    assert found.config == config
    assert same_bits(found, model)


def test_shards_are_named_by_an_index_that_counts_their_bytes(tmp_path: Path) -> None:
    model = randomised(SMALL)
    save(model, tmp_path, max_shard_size=20_000)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    files = {path.name: load_file(path) for path in tmp_path.glob("*.safetensors")}
    assert len(files) > 2
    assert index["weight_map"] == {name: file for file, tensors in files.items() for name in tensors}
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in model.state_dict().values())


@pytest.mark.parametrize("mask", [0o022, 0o027])
def test_files_are_as_readable_as_the_user_wants_files_to_be(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        save(HybridForCausalLM(SMALL), tmp_path / "model", max_shard_size=10_000)
    finally:
        os.umask(before)
    modes = {file.name: file.stat().st_mode & 0o777 for file in (tmp_path / "model").iterdir()}
    assert len(modes) > 4
    assert set(modes.values()) == {0o666 & ~mask}


def test_a_save_over_shards_leaves_none_of_them_and_keeps_what_is_not_its_own(tmp_path: Path) -> None:
    save(randomised(SMALL), tmp_path, max_shard_size=20_000)
    (tmp_path / "README.md").write_text("a card")
    model = randomised(SMALL, 1)
    save(model, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "README.md", "config.json", "generation_config.json", "model.safetensors",
    ]  # fmt: skip
    assert same_bits(load(tmp_path), model)


def test_loading_a_checkpoint_imports_no_compiler(tmp_path: Path) -> None:
    """Tensors that are made on the meta device by name import torch._dynamo: seconds before a first token."""
    save(randomised(SMALL), tmp_path)
    code = "import sys; from h1r.models import load; load(sys.argv[1]); print('torch._dynamo' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "False"


def test_recurrence_parameters_keep_the_wider_type_that_they_are_stored_in(tmp_path: Path) -> None:
    model = randomised(SMALL, dtype=torch.bfloat16)
    for name, parameter in model.named_parameters():
        if name.endswith(RECURRENCE):
            parameter.data = parameter.data.float() + 1e-4
    save(model, tmp_path)
    found = load(tmp_path)
    assert found.dtype == torch.bfloat16
    assert same_bits(found, model)
    assert {p.dtype for p in load(tmp_path, dtype=torch.float32).parameters()} == {torch.float32}


def test_a_cast_leaves_no_parameter_narrower_than_what_kernels_read(tmp_path: Path) -> None:
    save(randomised(SMALL, dtype=torch.bfloat16), tmp_path)
    assert {p.dtype for p in load(tmp_path).parameters()} == {torch.bfloat16}
    assert {p.dtype for p in load(tmp_path).cast(torch.float32).parameters()} == {torch.float32}
    kept = {
        n.rpartition(".")[2]
        for n, p in randomised(SMALL).cast(torch.bfloat16).named_parameters()
        if p.dtype == torch.float32
    }
    assert kept == {"A_log", "D", "dt_bias"}


def test_weights_are_read_into_the_types_of_a_running_model(tmp_path: Path) -> None:
    save(randomised(SMALL, 1), tmp_path)
    model = randomised(SMALL, 0, torch.bfloat16)
    checkpoint.load_weights(model, tmp_path)
    assert same_bits(model, randomised(SMALL, 1, torch.bfloat16))


TIED = HybridConfig(**{**{f: getattr(SMALL, f) for f in SMALL.__dataclass_fields__}, "tie_word_embeddings": True})


@pytest.mark.parametrize("kept", ["model.embed_tokens.weight", "lm_head.weight"])
def test_tied_weights_load_from_either_name(kept: str, tmp_path: Path) -> None:
    model = randomised(TIED)
    save(model, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    assert "lm_head.weight" not in tensors
    tensors[kept] = tensors.pop("model.embed_tokens.weight")
    save_file(tensors, tmp_path / "model.safetensors")
    found = load(tmp_path)
    assert found.lm_head.weight is found.model.embed_tokens.weight
    assert same_bits(found, model)


def test_tied_weights_that_differ_are_refused(tmp_path: Path) -> None:
    save(randomised(TIED), tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] + 1
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"tie_word_embeddings is true, but lm_head.weight and .* differ"):
        load(tmp_path)


def _dropped(tensors: dict[str, Tensor]) -> None:
    del tensors["model.layers.1.mamba.D"]


def _added(tensors: dict[str, Tensor]) -> None:
    tensors["model.layers.0.mamba.extra"] = torch.zeros(1)


def _reshaped(tensors: dict[str, Tensor]) -> None:
    tensors["model.layers.0.mamba.D"] = torch.zeros(7)


def _quantised(tensors: dict[str, Tensor]) -> None:
    name = "model.layers.0.mamba.in_proj.weight"
    tensors[name] = tensors[name].to(torch.float8_e4m3fn)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_dropped, r"tensor model.layers.1.mamba.D is missing \(1 in all\)"),
        (_added, "tensor model.layers.0.mamba.extra has no place in this model"),
        (_reshaped, r"tensor model.layers.0.mamba.D has shape \[7\], config.json asks for \[6\]"),
        (_quantised, "in_proj.weight is stored as F8_E4M3, which is not supported"),
    ],
)
def test_tensors_of_another_model_are_refused_and_change_nothing(change: Any, message: str, tmp_path: Path) -> None:
    save(randomised(SMALL, 1), tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    change(tensors)
    save_file(tensors, tmp_path / "model.safetensors")
    running = randomised(SMALL, 0)
    with pytest.raises(UserError, match=message):
        load(tmp_path)
    with pytest.raises(UserError, match=message):
        checkpoint.load_weights(running, tmp_path)
    assert same_bits(running, randomised(SMALL, 0))


def test_buffers_that_other_writers_store_are_passed_over(tmp_path: Path) -> None:
    model = randomised(SMALL)
    save(model, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["model.layers.0.mamba.mup_vector"] = torch.zeros(3)
    tensors["model.rotary_emb.inv_freq"] = torch.zeros(4)
    save_file(tensors, tmp_path / "model.safetensors")
    assert same_bits(load(tmp_path), model)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "holds no config.json"),
        ({"config.json": "{"}, "not JSON"),
        ({"config.json": "[]"}, "not a JSON object"),
        ({"config.json": json.dumps(to_hf(SMALL, "float32"))}, "holds no model.safetensors"),
        (
            {"config.json": json.dumps(to_hf(SMALL, "float32")), "model.safetensors": "cut off"},
            "cannot read .*model.safetensors",
        ),
        (
            {"config.json": json.dumps(to_hf(SMALL, "float32")), "model.safetensors.index.json": "{}"},
            "names no shards in its directory",
        ),
        (
            {
                "config.json": json.dumps(to_hf(SMALL, "float32")),
                "model.safetensors.index.json": '{"weight_map": {"a": "../b.safetensors"}}',
            },
            "names no shards in its directory",
        ),
    ],
)
def test_a_directory_that_is_no_checkpoint_says_what_it_lacks(
    files: dict[str, str], message: str, tmp_path: Path
) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        load(tmp_path)


def test_one_file_beside_the_shards_of_an_index_is_refused(tmp_path: Path) -> None:
    save(randomised(SMALL), tmp_path / "whole")
    save(randomised(SMALL), tmp_path / "cut", max_shard_size=20_000)
    (tmp_path / "whole" / "model.safetensors").rename(tmp_path / "cut" / "model.safetensors")
    with pytest.raises(UserError, match=r"holds both model.safetensors and the shards"):
        load(tmp_path / "cut")


def test_a_hub_id_is_fetched_through_huggingface_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, asked = randomised(SMALL), []
    save(model, tmp_path)

    def download(repo_id: str, revision: str | None = None, **patterns: Any) -> str:
        asked.append((repo_id, revision, patterns["allow_patterns"]))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert same_bits(load("tiiuae/Falcon-H1R-7B", revision="main"), model)
    ((repo_id, revision, patterns),) = asked
    assert (repo_id, revision) == ("tiiuae/Falcon-H1R-7B", "main")
    assert {"*.json", "*.safetensors"} <= set(patterns)
    assert not any("bin" in pattern for pattern in patterns)


@pytest.mark.parametrize(
    "name", ["runs/demo/model/final", "./model", "../model", "no such place", "/tmp/none", "here/x"]
)
def test_a_path_never_reaches_the_network(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*_: Any, **__: Any) -> str:
        raise AssertionError("the hub was asked")

    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(UserError, match="no checkpoint directory"):
        load(name)


def test_a_local_directory_is_read_without_the_hub_and_takes_no_revision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(*_: Any, **__: Any) -> str:
        raise AssertionError("the hub was asked")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    save(randomised(SMALL), tmp_path / "owner" / "name")
    monkeypatch.chdir(tmp_path)
    assert load("owner/name").config == SMALL
    with pytest.raises(UserError, match="revision 'v1' is for hub ids"):
        load("owner/name", revision="v1")


def test_a_hub_that_does_not_answer_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*_: Any, **__: Any) -> str:
        raise OSError("offline\nand a long trace")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(
        UserError, match=r"could not be fetched from the hub \(offline\); check the name and the network$"
    ):
        load("tiiuae/Falcon-H1R-7B")


REFUSED: list[tuple[str, Any, str]] = [
    ("hidden_act", "gelu", "hidden_act = 'gelu' is not supported: the gates are SiLU"),
    ("attn_layer_indices", [0, 2], r"attn_layer_indices = \[0, 2\] is not supported: every layer has attention"),
    ("mamba_use_mlp", False, "mamba_use_mlp = False is not supported: every layer has an MLP"),
    ("per_layer_config", {"0": {}}, "per_layer_config = .* is not supported: all layers are alike"),
    ("attention_dropout", 0.1, "attention_dropout = 0.1 is not supported: there is no dropout"),
    ("partial_rotary_factor", 0.5, "partial_rotary_factor = 0.5 is not supported: whole heads rotate"),
    ("sliding_window", 4096, "sliding_window = 4096 is not supported"),
    ("quantization_config", {"bits": 4}, "quantization_config = .* is not supported"),
    ("layer_types", ["hybrid", "mamba"], "layer_types is only supported as 'hybrid'"),
    ("layers_block_type", ["attention"], "layers_block_type is only supported as 'hybrid'"),
    ("attn_rotary_emb", 4, "attn_rotary_emb = 4 is not supported"),
    ("rope_scaling", {"rope_type": "yarn", "factor": 4.0}, "rope_scaling = .* only rope_type 'default' is"),
    ("rope_scaling", {"type": "linear", "factor": 2.0}, "rope_scaling = .* only rope_type 'default' is"),
    ("rope_parameters", {"full": {"rope_theta": 1e4}}, "one table for all layers is"),
    ("rope_parameters", {"partial_rotary_factor": 0.5}, "rope_parameters = .* whole heads rotate"),
    ("rope_parameters", {"rope_theta": 5e5}, "rope_theta = .* disagree, and readers choose differently"),
    ("time_step_limit", [0.1], r"time_step_limit = \[0.1\] must be two numbers"),
    ("time_step_limit", "none", "time_step_limit = 'none' must be two numbers"),
    ("time_step_limit", [0.5, 0.1], "time_step_limit must have its lower bound first"),
    ("qk_norm", True, "qk_norm = True is unknown here and may change the model"),
    ("num_experts", 8, "num_experts = 8 is unknown here"),
    ("attn_logit_softcapping", 30.0, "attn_logit_softcapping = 30.0 is unknown here"),
    ("hidden_size", "32", "hidden_size = '32' must be a whole number"),
    ("num_attention_heads", 0, "num_attention_heads = 0 must be at least 1"),
    ("mamba_n_groups", 4, "mamba_n_heads must be a multiple of mamba_n_groups"),
    ("mamba_d_ssm", 50, "mamba_d_ssm must equal mamba_n_heads"),
    ("head_dim", 7, "head_dim must be even"),
    ("ssm_multipliers", [1.0, 2.0], "ssm_multipliers = .* must be 5 numbers"),
]


def test_a_checkpoint_of_a_family_that_is_not_here_is_refused_by_name(tmp_path: Path) -> None:
    raw = to_hf(SMALL, "float32") | {"model_type": "llama"}
    (tmp_path / "config.json").write_text(json.dumps(raw), encoding="utf-8")
    with pytest.raises(
        UserError, match=r"model_type: unknown model family `llama`; use one of `falcon_h1`, (`own_.*`, )*`qwen3`"
    ):
        read_config(tmp_path)


@pytest.mark.parametrize(("key", "value", "message"), REFUSED)
def test_a_configuration_that_is_not_implemented_is_refused_by_name(key: str, value: Any, message: str) -> None:
    raw = to_hf(SMALL, "float32")
    raw[key] = value
    with pytest.raises(UserError, match=f"^config.json: .*{message}"):
        from_hf(raw, "config.json")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden_act", "swish"), ("attn_layer_indices", None), ("mamba_use_mlp", None), ("quantization_config", None),
        ("rope_scaling", None), ("rope_scaling", {"type": "default"}), ("layer_types", ["hybrid"] * 2),
        ("time_step_min", 0.01), ("mlp_expansion_factor", 8), ("qk_norm", False), ("tie_last_hidden_states", True),
        ("num_logits_to_keep", 1), ("torch_dtype", "bfloat16"), ("attn_rotary_emb", 8),
    ],
)  # fmt: skip
def test_what_changes_nothing_is_accepted(key: str, value: Any) -> None:
    assert from_hf({**to_hf(SMALL, "float32"), key: value}, "config.json") == SMALL


@settings(max_examples=50, deadline=None)
@given(config=geometries())
def test_a_configuration_survives_its_json(config: HybridConfig) -> None:
    text = json.dumps(to_hf(config, "bfloat16"), allow_nan=False)
    assert from_hf(json.loads(text), "config.json") == config


@pytest.mark.parametrize(
    ("written", "limit"),
    [
        ([0.0, {"__float__": "Infinity"}], (0.0, math.inf)),
        ([0.0, math.inf], (0.0, math.inf)),
        ([0.0, 1e38], (0.0, math.inf)),
        (None, (0.0, math.inf)),
        ([0.01, 0.2], (0.01, 0.2)),
    ],
)
def test_an_unbounded_time_step_is_read_in_every_spelling(written: Any, limit: tuple[float, float]) -> None:
    assert from_hf({**to_hf(SMALL, "float32"), "time_step_limit": written}, "config.json").time_step_limit == limit


def test_ends_of_a_sequence_are_those_of_both_files(tmp_path: Path) -> None:
    save(randomised(SMALL), tmp_path)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [11, 17]}')
    assert load(tmp_path).config.eos_token_ids == (11, 17)
