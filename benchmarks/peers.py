"""What the benchmarks share: one set of weights in our model and in transformers', and alternating timing."""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch

from h1r.models import build, save
from h1r.models.falcon_h1.config import HybridConfig, preset
from h1r.models.falcon_h1.hybrid import HybridForCausalLM

GEOMETRIES: dict[str, HybridConfig] = {
    "tiny": preset("tiny"),
    "4M": preset(
        "tiny", hidden_size=256, num_hidden_layers=4, intermediate_size=640, num_attention_heads=8, mamba_d_ssm=512,
        mamba_n_heads=16, vocab_size=1024, mamba_chunk_size=64,
    ),
    "32M": preset(
        "tiny", hidden_size=512, num_hidden_layers=8, intermediate_size=1280, num_attention_heads=8, head_dim=64,
        mamba_d_ssm=1024, mamba_n_heads=16, mamba_d_head=64, vocab_size=8192, mamba_chunk_size=64,
    ),
    "100M": preset(
        "tiny", hidden_size=768, num_hidden_layers=12, intermediate_size=1920, num_attention_heads=12, head_dim=64,
        mamba_d_ssm=1536, mamba_n_heads=24, mamba_d_head=64, vocab_size=16384, mamba_chunk_size=64,
    ),
    "0.5B": preset("0.5b"),
}  # fmt: skip

HELD = {
    "x86-64-v3": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    "x86-64-v4": {
        "ATEN_CPU_CAPABILITY": "avx512", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE", "MKL_ENABLE_INSTRUCTIONS": "AVX512",
    },
}  # fmt: skip
"""What holds torch, oneDNN and MKL to a level of ours, on processors of Intel."""


def hold(level: str | None) -> None:
    """Runs this program anew, all of it, ours and torch, held to an instruction set: both read the environment once,
    as they are loaded. Returns where that is so already, or no level is asked for."""
    if level is None:
        return
    wanted = {"H1R_ARCH": level, **HELD[level]}
    if any(os.environ.get(name) != value for name, value in wanted.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **wanted})
    told = torch.backends.cpu.get_cpu_capability()
    if told.lower() != wanted["ATEN_CPU_CAPABILITY"]:
        raise SystemExit(f"torch runs on {told}, not {level}: this processor does not have it")


def command_line(description: str | None) -> argparse.Namespace:
    """--quick and --threads, the latter already in force."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    return arguments


def pair(geometry: str, seed: int = 0) -> tuple[HybridForCausalLM, Any]:
    """Our model and transformers' `FalconH1ForCausalLM` with the same fp32 weights."""
    from transformers import FalconH1ForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    ours = build(GEOMETRIES[geometry], seed)
    with tempfile.TemporaryDirectory() as directory:
        save(ours, directory)
        theirs = FalconH1ForCausalLM.from_pretrained(directory, dtype=torch.float32)
    return ours, theirs


def alternate(runs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median seconds of each run after one warm-up, taking turns, so that a noisy machine hits all of them."""
    for run in runs.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}
