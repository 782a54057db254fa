"""The structs of `csrc` that Python fills in, field by field as `decode.h` and `sample.c` declare them.

`build.library` compares the size of each with C's when it loads the library, so that one that was changed on one side
alone is an error and no wild pointer.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from ctypes import POINTER, Structure, c_float, c_int64, c_void_p


class Matrix(Structure):
    _fields_ = [
        *((name, c_void_p) for name in ("weight", "bias", "scale")),
        *((name, c_int64) for name in ("n", "k", "terms")),
    ]


class Layer(Structure):
    _fields_ = [
        *((name, Matrix) for name in ("input", "out", "gate_up", "down")),
        *((name, c_void_p) for name in ("input_norm", "mlp_norm", "gate_norm", "conv_weight", "conv_bias")),
        *((name, c_void_p) for name in ("dt_bias", "A", "skip")),
    ]


class Model(Structure):
    _fields_ = [
        *((name, c_int64) for name in ("layers", "hidden", "ff", "vocab", "heads", "kv_heads", "head_dim")),
        *((name, c_int64) for name in ("ssm_heads", "ssm_head_dim", "groups", "d_state", "taps", "norm_before_gate")),
        *(
            (name, c_float)
            for name in ("eps", "dt_low", "dt_high", "embedding_scale", "mixer_scale", "attention_scale")
        ),
        *((name, c_void_p) for name in ("embedding", "final_norm")),
        ("layer", POINTER(Layer)),
        ("head", Matrix),
    ]


class Cache(Structure):
    _fields_ = [
        *((name, POINTER(c_void_p)) for name in ("keys", "values", "conv", "ssm")),
        *((name, c_void_p) for name in ("cos", "sin", "lengths")),
        ("max_length", c_int64),
    ]


class Scratch(Structure):
    _fields_ = [
        *((name, c_void_p) for name in ("x", "h", "projected", "conv", "mixed", "inner", "gathered")),
        *((f"ld_{name}", c_int64) for name in ("hidden", "projected", "conv", "mixed", "inner")),
        *((name, c_void_p) for name in ("row", "position", "q", "q_scale")),
        ("ld_q", c_int64),
    ]


class Sampler(Structure):
    _fields_ = [
        *((name, c_void_p) for name in ("logits", "ends", "tokens", "logprobs", "sampling_logprobs", "confidences")),
        *((name, c_void_p) for name in ("count", "max_tokens", "window", "key", "top_k", "last")),
        *((name, c_void_p) for name in ("temperature", "top_p", "min_p", "threshold", "group_sum")),
        *((name, c_int64) for name in ("vocab", "new_tokens", "confidence_top_k")),
        *((name, c_void_p) for name in ("reason", "scratch")),
    ]


STRUCTS: Mapping[str, type[Structure]] = {
    "matrix": Matrix, "layer": Layer, "model": Model, "cache": Cache, "scratch": Scratch, "sampler": Sampler,
}  # fmt: skip
"""By their names in C."""


def check_sizes(library: ctypes.CDLL, structs: Mapping[str, type[Structure]] = STRUCTS) -> None:
    """Raises `RuntimeError` when a struct has another size in the library (its `sizeof_NAME`) than here."""
    for name, mirror in structs.items():
        size = c_int64.in_dll(library, f"sizeof_{name}").value
        if size != ctypes.sizeof(mirror):
            raise RuntimeError(
                f"struct `{name}` of the C kernels has {size} bytes and its mirror in h1r/kernels/cpu/structs.py has"
                f" {ctypes.sizeof(mirror)}; make their fields equal"
            )
