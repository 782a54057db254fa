"""The presets are the published models: sizes, parameter counts and multipliers, from Table 1 of arXiv 2507.22448 and
the released checkpoints. The tables below are what those print."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from torch import nn

from h1r.errors import UserError
from h1r.models import registry
from h1r.models.falcon_h1.config import PRESETS, HybridConfig, preset
from h1r.models.falcon_h1.hf_config import from_hf
from h1r.models.falcon_h1.hybrid import HybridForCausalLM

PUBLISHED = ["90m", "0.5b", "1.5b", "1.5b-deep", "3b", "7b", "34b"]
# Columns as PUBLISHED. Table 1 prints 32,778 as the vocabulary of the 0.5B; the released checkpoint has 32784 rows.
SIZES = {
    "num_hidden_layers": (24, 36, 24, 66, 32, 44, 72),
    "hidden_size": (512, 1024, 2048, 1280, 2560, 3072, 5120),
    "intermediate_size": (768, 2048, 4608, 3072, 6144, 12288, 21504),
    "num_attention_heads": (8, 8, 8, 6, 10, 12, 20),
    "num_key_value_heads": (2, 2, 2, 2, 2, 2, 4),
    "head_dim": (64, 64, 128, 128, 128, 128, 128),
    "mamba_n_heads": (24, 24, 48, 24, 32, 24, 32),
    "mamba_d_head": (32, 64, 64, 64, 128, 128, 128),
    "mamba_d_ssm": (768, 1536, 3072, 1536, 4096, 3072, 4096),
    "mamba_n_groups": (1, 1, 1, 1, 1, 1, 2),
    "mamba_d_state": (64, 128, 256, 256, 256, 256, 256),
    "mamba_d_conv": (4,) * 7,
    "mamba_chunk_size": (128,) * 7,
    "mamba_rms_norm": (False, False, True, True, True, True, True),
    "vocab_size": (32768, 32784, 65536, 65536, 65536, 130048, 261120),
    "max_position_embeddings": (262144, 16384, 131072, 131072, 131072, 262144, 262144),
    "tie_word_embeddings": (True, False, False, False, False, False, False),
}
ALIKE = {
    "rope_theta": 1e11, "rms_norm_eps": 1e-5, "attention_bias": False, "mlp_bias": False, "projectors_bias": False,
    "mamba_proj_bias": False, "mamba_conv_bias": True, "mamba_norm_before_gate": False, "initializer_range": 0.02,
    "bos_token_id": 1, "eos_token_id": 11, "pad_token_id": 0, "time_step_limit": (0.0, float("inf")),
}  # fmt: skip
BILLIONS = ("0.09", "0.52", "1.55", "1.55", "3.15", "7.59", "33.6")
# Columns as PUBLISHED[1:]; each to the digits that are printed
MULTIPLIERS = {
    "lm_head": (".0390625", ".01953125", ".03125", ".015625", ".0130208333", ".0078125"),
    "attention_out": (".9375", ".234375", ".5", ".15", ".1041666667", ".0375"),
    "key": (".390625", ".0690533966", ".1767766953", ".0441941738", ".0306903985", ".0110485435"),
    "mlp_gate": (".8838835", ".4419417", ".7071068", ".3535534", ".2946278", ".1767767"),
    "mlp_down": (".5859375", ".1302083", ".3125", ".078125", ".0325521", ".0111607"),
    "ssm_in": ("1.25", ".625", "1.0", ".5", ".4166667", ".25"),
    "ssm_out": (".2357023", ".1178511", ".2357023", ".0883883", ".1178511", ".0883883"),
    "ssm_B": (".3535534", ".1767767", ".1767767", ".1767767", ".1767767", ".1767767"),
    "ssm_z": (".353553",) * 6,
    "ssm_x": (".25",) * 6,
    "ssm_C": (".5",) * 6,
    "ssm_dt": (".353553",) * 6,
    "embedding": ("5.65685",) * 6,
    "attention_in": ("1.0",) * 6,
}


def on_meta(config: HybridConfig) -> HybridForCausalLM:
    with torch.device("meta"):
        return HybridForCausalLM(config)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def multipliers(config: HybridConfig) -> dict[str, float]:
    names = ("lm_head", "attention_out", "key", "ssm_in", "ssm_out", "embedding", "attention_in")
    ssm = dict(zip(("ssm_z", "ssm_x", "ssm_B", "ssm_C", "ssm_dt"), config.ssm_multipliers, strict=True))
    mlp = dict(zip(("mlp_gate", "mlp_down"), config.mlp_multipliers, strict=True))
    return {name: getattr(config, f"{name}_multiplier") for name in names} | ssm | mlp


def printed(value: float, like: str) -> str:
    """`value` with as many decimals as `like`, and without the leading zero where that has none."""
    text = f"{value:.{len(like.partition('.')[2])}f}"
    return text.removeprefix("0") if like.startswith(".") else text


@pytest.mark.parametrize(("index", "name"), list(enumerate(PUBLISHED)))
def test_a_preset_has_the_published_sizes_and_parameter_count(index: int, name: str) -> None:
    config = PRESETS[name]
    expected = {field: column[index] for field, column in SIZES.items()} | ALIKE
    assert {field: getattr(config, field) for field in expected} == expected
    assert printed(count(on_meta(config)) / 1e9, BILLIONS[index]) == BILLIONS[index]


@pytest.mark.parametrize(("index", "name"), list(enumerate(PUBLISHED[1:])))
def test_a_preset_has_the_published_multipliers_to_every_printed_digit(index: int, name: str) -> None:
    found, expected = multipliers(PRESETS[name]), {key: column[index] for key, column in MULTIPLIERS.items()}
    assert {key: printed(found[key], expected[key]) for key in expected} == expected


def test_the_90m_has_its_multipliers_folded_into_the_weights() -> None:
    folded = multipliers(PRESETS["90m"])
    assert (folded.pop("embedding"), folded.pop("lm_head")) == (0.034423828125, 0.078125)
    assert set(folded.values()) == {1.0}


def test_the_7b_counts_what_the_released_index_adds_up_to() -> None:
    model = on_meta(PRESETS["7b"]).to(torch.bfloat16)
    assert count(model) == 7_585_648_736
    assert sum(tensor.nbytes for tensor in model.state_dict().values()) == 15_171_297_472
    for layer in model.model.layers:
        parts = {name: count(getattr(layer, name)) for name in ("self_attn", "mamba", "feed_forward")}
        assert parts == {"self_attn": 11_010_048, "mamba": 29_979_208, "feed_forward": 113_246_208}


def test_the_instruction_tuned_7b_has_one_more_row_and_longer_chunks() -> None:
    instruct = preset("7b", vocab_size=130049, mamba_chunk_size=256)
    differing = {
        f.name for f in dataclasses.fields(instruct) if getattr(instruct, f.name) != getattr(PRESETS["7b"], f.name)
    }
    assert differing == {"vocab_size", "mamba_chunk_size"}
    assert count(on_meta(instruct)) == 7_585_648_736 + 2 * 3072


# What the released config.json files hold, with the keys of older transformers that no forward pass reads
RELEASED = {
    "0.5b": {
        "attention_out_multiplier": 0.9375, "head_dim": 64, "hidden_size": 1024, "intermediate_size": 2048,
        "key_multiplier": 0.39062499999999994, "lm_head_multiplier": 0.0390625, "mamba_chunk_size": 128,
        "mamba_d_head": 64, "mamba_d_ssm": 1536, "mamba_d_state": 128, "mamba_rms_norm": False,
        "max_position_embeddings": 16384, "mlp_multipliers": [0.8838834764831844, 0.5859375], "num_attention_heads": 8,
        "num_hidden_layers": 36, "ssm_in_multiplier": 1.25, "ssm_out_multiplier": 0.23570226039551587,
        "ssm_multipliers": [0.3535533905932738, 0.25, 0.3535533905932738, 0.5, 0.3535533905932738],
        "vocab_size": 32784,
    },
    "7b": {
        "attention_out_multiplier": 0.10416666666666667, "head_dim": 128, "hidden_size": 3072,
        "intermediate_size": 12288, "key_multiplier": 0.030690398488999456, "lm_head_multiplier": 0.013020833333333334,
        "mamba_chunk_size": 128, "mamba_d_head": 128, "mamba_d_ssm": 3072, "mamba_d_state": 256,
        "mamba_rms_norm": True, "max_position_embeddings": 262144,
        "mlp_multipliers": [0.2946278254943948, 0.032552083333333336], "num_attention_heads": 12,
        "num_hidden_layers": 44, "ssm_in_multiplier": 0.4166666666666667, "ssm_out_multiplier": 0.11785113019775793,
        "ssm_multipliers": [0.3535533905932738, 0.25, 0.1767766952966369, 0.5, 0.3535533905932738],
        "vocab_size": 130048,
    },
}  # fmt: skip
SHARED = {
    "architectures": ["FalconH1ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
    "attention_in_multiplier": 1.0, "attn_layer_indices": None, "bos_token_id": 1,
    "embedding_multiplier": 5.656854249492381, "eos_token_id": 11, "hidden_act": "silu", "initializer_range": 0.02,
    "mamba_conv_bias": True, "mamba_d_conv": 4, "mamba_expand": 2, "mamba_n_groups": 1, "mamba_n_heads": 24,
    "mamba_norm_before_gate": False, "mamba_proj_bias": False, "mamba_use_mlp": True, "mlp_bias": False,
    "mlp_expansion_factor": 8, "model_type": "falcon_h1", "num_key_value_heads": 2, "num_logits_to_keep": 1,
    "pad_token_id": 0, "projectors_bias": False, "rms_norm_eps": 1e-05, "rope_scaling": None,
    "rope_theta": 100000000000.0, "tie_word_embeddings": False, "time_step_floor": 0.0001, "time_step_max": 0.1,
    "time_step_min": 0.001, "time_step_rank": "auto", "torch_dtype": "bfloat16", "transformers_version": "4.52.0",
    "use_cache": True,
}  # fmt: skip


@pytest.mark.parametrize("name", RELEASED)
def test_a_released_configuration_is_the_preset(name: str) -> None:
    raw = json.loads(json.dumps(SHARED | RELEASED[name]))
    found, expected = dataclasses.asdict(from_hf(raw, "config.json")), dataclasses.asdict(PRESETS[name])
    for field, value in expected.items():
        exact = not field.endswith(("multiplier", "multipliers"))
        assert found[field] == (value if exact else pytest.approx(value, rel=1e-14)), field


def test_overrides_of_widths_bring_their_multipliers_along() -> None:
    narrow = preset("7b", hidden_size=1536)
    assert narrow.lm_head_multiplier == pytest.approx(40 / 1536)
    assert preset("7b", hidden_size=1536, lm_head_multiplier=0.5).lm_head_multiplier == 0.5
    assert preset("tiny", hidden_size=64).lm_head_multiplier == 1.0


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"mamba_heads": 3}, "mamba_heads is no field"),
        ({"mamba_n_heads": 5}, "mamba_d_ssm must equal"),
        ({"num_key_value_heads": 0}, "num_key_value_heads = 0 must be at least 1"),
        ({"num_key_value_heads": 3}, "num_attention_heads must be a multiple"),
        ({"mamba_n_groups": 5}, "mamba_n_heads must be a multiple"),
        ({"head_dim": 7}, "head_dim must be even"),
        ({"mamba_d_conv": 1}, "mamba_d_conv must be at least 2"),
        ({"hidden_size": "64"}, "hidden_size = '64' must be a whole number"),
        ({"hidden_size": True}, "hidden_size = True must be a whole number"),
        ({"mlp_bias": 1}, "mlp_bias = 1 must be true or false"),
        ({"rope_theta": None}, "rope_theta = None must be a number"),
        ({"ssm_multipliers": [1.0] * 4}, "ssm_multipliers = .* must be 5 numbers"),
        ({"time_step_limit": (0.5, 0.1)}, "time_step_limit must have its lower bound first"),
        ({"rms_norm_eps": 0.0}, "rms_norm_eps must be positive"),
        ({"pad_token_id": 4096}, "pad_token_id must be less than vocab_size"),
        ({"eos_token_id": [2, "x"]}, "eos_token_id = .* must be a whole number or a list"),
    ],
)
def test_a_geometry_that_cannot_be_is_refused_by_name(overrides: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        preset("tiny", **overrides)


def test_an_unknown_preset_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"model.preset: unknown preset `8b`; use one of .*`7b`"):
        registry.preset("8b")


def test_lists_become_tuples_so_that_equal_configurations_are_equal() -> None:
    one = preset("tiny", eos_token_id=[2, 5], mlp_multipliers=[1, 2])
    other = preset("tiny", eos_token_id=(2, 5), mlp_multipliers=(1.0, 2.0))
    assert (one, hash(one)) == (other, hash(other))
    assert one.eos_token_ids == (2, 5)
    assert preset("tiny", eos_token_id=None).eos_token_ids == ()
