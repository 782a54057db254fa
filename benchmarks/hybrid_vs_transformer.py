"""The paper's throughput claim (arXiv 2601.02346, appendix B) in real vLLM: a hybrid decodes long outputs faster than a
transformer of its size, the more so the more sequences there are.

    python benchmarks/hybrid_vs_transformer.py --quick --json      under ten minutes on two cores
    python benchmarks/hybrid_vs_transformer.py --geometry 7b       H1R-7B and Qwen3-8B on one large GPU, bf16

small   both geometries of the paper with widths over 8 and depths over 4, fp32, the transformer's MLP made wider or
        narrower until both have the same number of parameters. Keys and values per token keep the paper's ratio, 3.27.
7b      the released geometries as they are: 7.59 and 8.19 billion parameters.

Weights are random, which speed does not see. Both models live in vLLM engines of their own process, and take turns at
every point, so that a busy machine hits both. At each point, `sequences` sequences that already hold `context` tokens
(vLLM's DecodeBenchConnector fills the cache, nothing is prefilled) decode, sampling at temperature 1, and the steps are
timed. What a whole run of P tokens in and N out would decode at follows by adding the time of all its steps, between
measured contexts on a straight line; `--check` runs one whole generation to hold that against.

Rows: {"kind": "step", "engine", "geometry", "sequences", "context", "running", "tokens_per_s"}; "running" is how many
sequences the cache had room for, which is what a server would do with the rest waiting. {"kind": "run", ...,
"prompt_tokens", "new_tokens", "tokens_per_s"} adds the steps up. {"kind": "ratio", ..., "ratio"}: hybrid over
transformer. {"kind": "crossing", "sequences", "context"}: where it passes 1, on a straight line in the logarithm of the
context; null when it does not, which "ratio_first" and "ratio_last" explain.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import math
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from h1r.engine.vllm.limits import block_tokens
from h1r.models.falcon_h1.config import HybridConfig, preset
from h1r.models.falcon_h1.hf_config import to_hf
from h1r.models.falcon_h1.hybrid import HybridForCausalLM

NAMES = ("hybrid", "transformer")
WARM_STEPS = 3
PAPER_RUNS = ((512, 32768), (8192, 16384))


def hybrid_config(geometry: str) -> HybridConfig:
    if geometry == "7b":
        return preset("7b")
    return dataclasses.replace(
        preset("7b"), vocab_size=8192, hidden_size=384, intermediate_size=1536, num_hidden_layers=11,
        num_attention_heads=6, num_key_value_heads=1, head_dim=32, mamba_d_ssm=384, mamba_n_heads=12, mamba_d_head=32,
        mamba_d_state=32, mamba_chunk_size=128,
    )  # fmt: skip


def transformer_config(geometry: str, target: int) -> Any:
    """Qwen3-8B, or its shape at the small widths with the MLP that brings it closest to `target` parameters."""
    from transformers import Qwen3Config

    def config(vocab: int, hidden: int, ff: int, layers: int, heads: int, kv_heads: int, head_dim: int) -> Any:
        return Qwen3Config(
            vocab_size=vocab, hidden_size=hidden, intermediate_size=ff, num_hidden_layers=layers,
            num_attention_heads=heads, num_key_value_heads=kv_heads, head_dim=head_dim,
            tie_word_embeddings=False, max_position_embeddings=1 << 16,
            rope_parameters={"rope_type": "default", "rope_theta": 1e6}, architectures=["Qwen3ForCausalLM"],
        )  # fmt: skip

    if geometry == "7b":
        return config(151936, 4096, 12288, 36, 32, 8, 128)
    widths = range(1024, 2049, 32)
    return min(
        (config(8192, 512, ff, 9, 16, 4, 32) for ff in widths), key=lambda one: abs(transformer_size(one) - target)
    )


def transformer_size(config: Any) -> int:
    from transformers import Qwen3ForCausalLM

    with torch.device("meta"):
        return sum(parameter.numel() for parameter in Qwen3ForCausalLM(config).parameters())


def hybrid_size(config: HybridConfig) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in HybridForCausalLM(config).parameters())


class Bench:
    """One model in vLLM, inside its own process."""

    def __init__(self, directory: str, settings: dict[str, Any]) -> None:
        os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1"}
        from vllm import LLM
        from vllm.config import KVTransferConfig

        filled = KVTransferConfig(
            kv_connector="DecodeBenchConnector",
            kv_role="kv_both",
            kv_connector_extra_config={"fill_mean": 0.0, "fill_std": 0.02},
        )
        self.vocabulary, self.processor = settings.pop("vocabulary"), settings.pop("processor")
        self.llm = LLM(
            directory, load_format="dummy", skip_tokenizer_init=True, generation_config="vllm", disable_log_stats=True,
            kv_transfer_config=filled, **settings,
        )  # fmt: skip
        self.core = self.llm.llm_engine
        cache = self.core.vllm_config.cache_config
        self.cache_tokens = int(cache.num_gpu_blocks * cache.block_size)
        self.number = 0

    def steps(self, sequences: int, context: int, steps: int, seconds: float) -> tuple[float, int]:
        """(median seconds of a decoding step, sequences decoded in it): at most `steps`, and about `seconds` in all."""
        from vllm import SamplingParams

        clock = time.process_time if self.processor else time.perf_counter
        params = SamplingParams(max_tokens=steps + WARM_STEPS + 2, ignore_eos=True, detokenize=False, temperature=1.0)
        generator = torch.Generator().manual_seed(context)
        names = []
        for _ in range(sequences):
            self.number += 1
            names.append(str(self.number))
            prompt = torch.randint(3, self.vocabulary, (context,), generator=generator).tolist()
            self.core.add_request(names[-1], {"prompt_token_ids": prompt}, params)
        running, taken = 0, []
        for step in range(steps + WARM_STEPS + sequences):
            start = clock()
            outputs = self.core.step()
            elapsed = clock() - start
            # The first steps admit; once as many answer as in the step before, all that fit are decoding.
            if outputs and len(outputs) == running and step >= WARM_STEPS:
                taken.append(elapsed)
            running = len(outputs)
            if len(taken) >= steps or (len(taken) >= 3 and sum(taken) > seconds):
                break
        self.core.abort_request(names)
        while self.core.has_unfinished_requests():
            self.core.step()
        return statistics.median(taken), running

    def run(self, sequences: int, prompt: int, new: int) -> float:
        """Seconds of a whole generation, from the first token to the last."""
        from vllm import SamplingParams

        params = SamplingParams(max_tokens=new, ignore_eos=True, detokenize=False, temperature=1.0)
        prompts = [{"prompt_token_ids": [5] * prompt} for _ in range(sequences)]
        clock = time.process_time if self.processor else time.perf_counter
        start = clock()
        self.llm.generate(prompts, params, use_tqdm=False)
        return clock() - start


def serve(pipe: Connection, directory: str, settings: dict[str, Any], threads: int) -> None:
    """Answers calls of `Bench` methods until None comes."""
    torch.set_num_threads(threads)
    bench = Bench(directory, settings)
    pipe.send(bench.cache_tokens)
    while (call := pipe.recv()) is not None:
        pipe.send(getattr(bench, call[0])(*call[1:]))


class Peer:
    """The handle of a `Bench` in another process."""

    def __init__(self, directory: Path, settings: dict[str, Any], threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, str(directory), settings, threads), daemon=True)
        self.process.start()
        theirs.close()
        self.cache_tokens: int = self.pipe.recv()

    def call(self, name: str, *arguments: Any) -> Any:
        self.pipe.send((name, *arguments))
        return self.pipe.recv()

    def close(self) -> None:
        self.pipe.send(None)
        self.process.join(30)


def prepare(
    arguments: argparse.Namespace, directory: Path, longest: int, on_gpu: bool
) -> tuple[dict[str, dict[str, Any]], dict[str, int]]:
    """Writes both models' configurations; what vLLM is to be started with, and how many parameters each has."""
    hybrid = hybrid_config(arguments.geometry)
    sizes = {"hybrid": hybrid_size(hybrid)}
    transformer = transformer_config(arguments.geometry, sizes["hybrid"])
    sizes["transformer"] = transformer_size(transformer)
    dtype = "bfloat16" if on_gpu else "float32"
    settings: dict[str, Any] = {
        "processor": arguments.clock == "processor",
        "dtype": dtype,
        "max_model_len": longest + 64,
        "max_num_seqs": max(arguments.sequences),
        "enforce_eager": not on_gpu,
        "enable_prefix_caching": False,
    }
    if on_gpu:
        # Two engines share the card: equal memory for both, so that neither has more room for its cache.
        settings["gpu_memory_utilization"] = 0.46
    else:
        settings["kv_cache_memory_bytes"] = int(arguments.cache_gb * 2**30)
    (directory / "hybrid").mkdir()
    (directory / "hybrid/config.json").write_text(json.dumps(to_hf(hybrid, dtype)), encoding="utf-8")
    transformer.save_pretrained(directory / "transformer")
    own = {
        "hybrid": {
            "vocabulary": hybrid.vocab_size,
            "mamba_ssm_cache_dtype": "float32",
            "block_size": block_tokens(hybrid, getattr(torch, dtype).itemsize),
        },
        "transformer": {"vocabulary": transformer.vocab_size},
    }
    return {name: {**settings, **own[name]} for name in NAMES}, sizes


def measure(arguments: argparse.Namespace, peers: dict[str, Peer]) -> list[dict[str, Any]]:
    rows = []
    for sequences in arguments.sequences:
        for context in arguments.contexts:
            found: dict[str, list[tuple[float, int]]] = {name: [] for name in NAMES}
            for _ in range(arguments.repeats):
                for name in NAMES:
                    found[name].append(
                        peers[name].call("steps", sequences, context, arguments.steps, arguments.seconds)
                    )
            for name in NAMES:
                # What else runs on the machine only ever slows a turn down: the fastest one counts.
                seconds, running = min(found[name])
                rows.append(
                    {
                        "kind": "step", "engine": f"vllm-{name}", "geometry": arguments.geometry,
                        "sequences": sequences, "context": context, "running": running,
                        "tokens_per_s": round(running / seconds, 1), "threads": arguments.threads,
                        "clock": arguments.clock,
                    }
                )  # fmt: skip
            print(f"{sequences} x {context}: {rows[-2]['tokens_per_s']} {rows[-1]['tokens_per_s']}", file=sys.stderr)
    return rows


def whole_run(points: list[tuple[int, float]], sequences: int, prompt: int, new: int) -> float | None:
    """Tokens per second of `new` tokens after `prompt`, from (context, tokens per second) of single steps; None where
    the measured contexts do not reach. Seconds of a step are on straight lines between them."""
    contexts, rates = zip(*points, strict=True)
    if prompt + new > contexts[-1] or prompt < contexts[0]:
        return None
    cuts = sorted({prompt, prompt + new, *(c for c in contexts if prompt < c < prompt + new)})

    def seconds(at: int) -> float:
        for (a, x), (b, y) in itertools.pairwise(points):
            if a <= at <= b:
                return sequences * ((1 / x) + (1 / y - 1 / x) * (at - a) / (b - a))
        return sequences / rates[-1]

    total = sum((b - a) * (seconds(a) + seconds(b)) / 2 for a, b in itertools.pairwise(cuts))
    return sequences * new / total


def crossing(points: list[tuple[int, float]]) -> float | None:
    """The context at which the ratio passes 1 from below."""
    for (a, x), (b, y) in itertools.pairwise(points):
        if x < 1 <= y:
            share = (1 - x) / (y - x)
            return math.exp(math.log(a) + share * (math.log(b) - math.log(a)))
    return None


def summarise(rows: list[dict[str, Any]], geometry: str, runs: list[tuple[int, int]]) -> list[dict[str, Any]]:
    more: list[dict[str, Any]] = []
    for sequences in sorted({row["sequences"] for row in rows}):
        curves = {
            name: [
                (row["context"], row["tokens_per_s"])
                for row in rows
                if row["sequences"] == sequences and row["engine"] == f"vllm-{name}"
            ]
            for name in NAMES
        }
        ratios = [(c, h / t) for (c, h), (_, t) in zip(curves["hybrid"], curves["transformer"], strict=True)]
        common = {"geometry": geometry, "sequences": sequences}
        more += [{"kind": "ratio", **common, "context": c, "ratio": round(r, 3)} for c, r in ratios]
        at = crossing(ratios)
        more.append({
            "kind": "crossing", **common, "context": None if at is None else round(at),
            "ratio_first": round(ratios[0][1], 3), "ratio_last": round(ratios[-1][1], 3),
        })  # fmt: skip
        for prompt, new in runs:
            speeds = {name: whole_run(curves[name], sequences, prompt, new) for name in NAMES}
            if any(speed is None for speed in speeds.values()):
                continue
            for name, speed in speeds.items():
                more.append({
                    "kind": "run", "engine": f"vllm-{name}", **common, "prompt_tokens": prompt, "new_tokens": new,
                    "tokens_per_s": round(speed or 0, 1),
                    "ratio": round((speeds["hybrid"] or 0) / (speed or 1), 3) if name == "transformer" else 1.0,
                })  # fmt: skip
    return more


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--geometry", choices=["small", "7b"], default="small")
    parser.add_argument("--quick", action="store_true", help="fewer points, under ten minutes on two cores")
    parser.add_argument("--json", action="store_true", help="one list of rows instead of a table")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--clock", choices=["wall", "processor"], default="wall", help="processor: for one thread on a busy machine"
    )
    parser.add_argument("--sequences", type=numbers, help="comma-separated")
    parser.add_argument("--contexts", type=numbers, help="comma-separated, ascending")
    parser.add_argument("--repeats", type=int, default=3, help="turns of each engine at a point")
    parser.add_argument("--steps", type=int, default=12, help="decoding steps in a turn; their median counts")
    parser.add_argument("--seconds", type=float, default=1.5, help="of steps in a turn, about")
    parser.add_argument("--cache-gb", type=float, default=3.0, help="cache of each engine, without a GPU")
    parser.add_argument("--check", action="store_true", help="also one whole generation, 64 in and 512 out")
    arguments = parser.parse_args()
    large = arguments.geometry == "7b"
    if arguments.clock == "processor" and (arguments.threads > 1 or torch.cuda.is_available()):
        parser.error("--clock processor counts what one thread on a CPU did; add --threads 1")
    default_sequences = [2, 8, 16, 32, 64, 128] if large else [1, 4, 16]
    default_contexts = [512, 2048, 8192, 16384, 24576, 33280] if large else [64, 256, 1024, 2048, 4096, 8192, 16384]
    arguments.sequences = arguments.sequences or ([1, 16] if arguments.quick else default_sequences)
    quick_contexts = [*default_contexts[1:-1:2], default_contexts[-1]]
    arguments.contexts = arguments.contexts or (quick_contexts if arguments.quick else default_contexts)
    first, last = arguments.contexts[0], arguments.contexts[-1]
    runs = list(PAPER_RUNS) if large else [(first, c - first) for c in arguments.contexts[1:]]
    with tempfile.TemporaryDirectory() as directory:
        settings, sizes = prepare(arguments, Path(directory), last, large or torch.cuda.is_available())
        if large and not torch.cuda.is_available():
            billions = " and ".join(f"{size / 1e9:.2f}" for size in sizes.values())
            parser.error(f"--geometry 7b, {billions} billion parameters in bf16, needs a GPU with 80 GB or more")
        peers = {name: Peer(Path(directory) / name, settings[name], arguments.threads) for name in NAMES}
        rows = measure(arguments, peers)
        rows += summarise(rows, arguments.geometry, runs)
        if arguments.check:
            for name in NAMES:
                seconds = peers[name].call("run", 16, 64, 512)
                rows.append({
                    "kind": "check", "engine": f"vllm-{name}", "geometry": arguments.geometry, "sequences": 16,
                    "prompt_tokens": 64, "new_tokens": 512, "tokens_per_s": round(16 * 512 / seconds, 1),
                })  # fmt: skip
        for peer in peers.values():
            peer.close()
    rows += [{"kind": "model", "engine": f"vllm-{name}", "parameters": sizes[name]} for name in NAMES]
    if arguments.json:
        print(json.dumps(rows, indent=1))
        return
    for row in rows:
        print("  ".join(f"{key}={value}" for key, value in row.items()))


if __name__ == "__main__":
    main()
