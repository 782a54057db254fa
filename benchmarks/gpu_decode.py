"""Decoding on one CUDA card, bf16, random weights: the native engine step by step, as CUDA graphs, and vLLM.

    python benchmarks/gpu_decode.py [--quick] [--geometries 0.5b,7b] [--cases 1:512:512,...] [--engines ...] [--json]
    python benchmarks/gpu_decode.py --quick --geometries tiny        without a card: fp32, and no graphs

A case is sequences:prompt:new. Each call is a whole generation with prefill, sampling at temperature 1 and
log-probabilities; what is printed is the median of calls after the first, and the first by itself, which compiles
kernels. Graphs do not outlive a call, so recording them is in every call of `graphs`. Each engine has the card for
itself, in a process of its own that ends before the next begins: vLLM takes most of a card's memory when it starts.
vLLM has its own sampling, on weights of its own (speed does not see them).

Rows: {"engine": "machine", ...} with the card and its measured read bandwidth; {"engine": "eager" | "graphs" | "vllm",
"geometry", "sequences", "prompt_tokens", "new_tokens", "tokens_per_s", "ms_per_step", "first_call_s"}, for the native
engine with "share_of_memory" (bytes of weights, states, keys and values that the steps must move, over the bandwidth),
"peak_mib" (measured above the weights) beside "foretold_mib", and of graphs "recorded", "recording_s", "graphs_mib" and
"graphs_foretold_mib". {"engine": "check", ...}: greedily, how many tokens agree between graphs and single steps, the
largest difference of their log-probabilities while they do, and each one's largest distance to the training forward.
Exit status 1 if graphs and single steps differ by more than the two differ from the training forward.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from decode_peers import VLLM
from h1r.common.progress import note, quiet
from h1r.config import EngineSection
from h1r.engine.native.engine import NativeEngine
from h1r.engine.native.graphs import GraphRunner
from h1r.engine.protocol import SamplingParams
from h1r.errors import UserError
from h1r.kernels.selection import select
from h1r.models.falcon_h1.config import HybridConfig, preset
from h1r.models.falcon_h1.hf_config import to_hf
from h1r.models.falcon_h1.hybrid import HybridForCausalLM
from h1r.records import Trace

ENGINES = ("eager", "graphs", "vllm")
CASES = ["1:512:512", "16:512:512", "64:512:512", "128:512:512", "16:512:8192"]
QUICK_CASES = ["1:64:128", "16:64:128"]
CHECK_TOKENS = 64


def main() -> int:
    arguments = command_line()
    quiet()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    torch.set_num_threads(arguments.threads)
    rows: list[dict[str, Any]] = [machine(device)]
    bandwidth = rows[0]["read_gb_per_s"]
    if len(arguments.engines) > 1:
        free(device)
        for engine in arguments.engines:
            rows += rows_of_process(engine)
    else:
        for name in arguments.geometries:
            rows += geometry_rows(name, device, dtype, arguments, bandwidth)
    print(json.dumps(rows) if arguments.json else "\n".join(map(str, rows)))
    return int(any(row.get("ok") is False for row in rows))


def command_line() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two small cases")
    parser.add_argument("--geometries", type=lambda text: text.split(","), default=["0.5b", "7b"])
    parser.add_argument("--cases", type=lambda text: text.split(","), help="sequences:prompt:new, comma-separated")
    parser.add_argument("--engines", type=lambda text: text.split(","), default=list(ENGINES))
    parser.add_argument("--repeats", type=int, default=3, help="calls of each engine after the first")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="without a card")
    parser.add_argument("--json", action="store_true", help="one JSON list of rows")
    arguments = parser.parse_args()
    cases = arguments.cases or (QUICK_CASES if arguments.quick else CASES)
    arguments.cases = [tuple(int(number) for number in case.split(":")) for case in cases]
    if unknown := sorted(set(arguments.engines) - set(ENGINES)):
        parser.error(f"--engines {unknown[0]} is unknown; choose among {', '.join(ENGINES)}")
    if "graphs" in arguments.engines and not torch.cuda.is_available():
        note("graphs are left out: they need a CUDA device")
        arguments.engines = [name for name in arguments.engines if name != "graphs"]
    return arguments


def rows_of_process(engine: str) -> list[dict[str, Any]]:
    """What this script, run for one engine alone, found; a row that says why, where it found nothing."""
    command = [sys.executable, __file__, *sys.argv[1:], "--engines", engine, "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    try:
        return [row for row in json.loads(done.stdout) if row["engine"] != "machine"]
    except ValueError:
        return [{"engine": engine, "ok": False, "why": f"its process ended with {done.returncode}, see above"}]


def free(device: torch.device) -> None:
    """Gives the card's memory back, for other processes."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def machine(device: torch.device) -> dict[str, Any]:
    """The card, and GB/s of reading, the best of several."""
    long = torch.zeros(256 << 20 if device.type == "cuda" else 64 << 20, device=device)
    times = [seconds(long.sum, device) for _ in range(6)]
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    return {
        "engine": "machine", "device": name, "torch": torch.__version__, "cuda": torch.version.cuda,
        "read_gb_per_s": round(long.nbytes / min(times) / 1e9, 1),
    }  # fmt: skip


def seconds(run: Callable[[], Any], device: torch.device) -> float:
    wait(device)
    start = time.perf_counter()
    run()
    wait(device)
    return time.perf_counter() - start


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def geometry_rows(
    name: str, device: torch.device, dtype: torch.dtype, arguments: argparse.Namespace, bandwidth: float
) -> list[dict[str, Any]]:
    config = preset(name)
    if arguments.engines == ["vllm"]:
        longest = max(prompt + new for _, prompt, new in arguments.cases)
        with vllm_engine(config, dtype, longest, arguments) as vllm:
            return [row for case in arguments.cases for row in case_rows(name, config, None, vllm, case, arguments, 0)]
    with torch.device(device):
        model = HybridForCausalLM(config).init_weights().to(dtype).eval()
    model.use(select("auto" if device.type == "cuda" else "torch", device, dtype)).requires_grad_(False)
    rows = [row for case in arguments.cases for row in case_rows(name, config, model, None, case, arguments, bandwidth)]
    if "graphs" in arguments.engines:
        rows.append(check_row(name, model))
    del model
    free(device)
    return rows


@contextmanager
def vllm_engine(
    config: HybridConfig, dtype: torch.dtype, longest: int, arguments: argparse.Namespace
) -> Iterator[VLLM]:
    """On a checkpoint that is a configuration only."""
    with tempfile.TemporaryDirectory() as directory:
        kind = str(dtype).removeprefix("torch.")
        (Path(directory) / "config.json").write_text(json.dumps(to_hf(config, kind)), encoding="utf-8")
        settings = {
            "dtype": kind, "enforce_eager": not torch.cuda.is_available(), "load_format": "dummy",
            "max_num_seqs": max(sequences for sequences, _, _ in arguments.cases),
        }  # fmt: skip
        vllm = VLLM(directory, arguments.threads, longest + 8, False, settings)
        try:
            yield vllm
        finally:
            vllm.close()


def case_rows(
    name: str, config: HybridConfig, model: HybridForCausalLM | None, vllm: VLLM | None,
    case: tuple[int, int, int], arguments: argparse.Namespace, bandwidth: float,
) -> list[dict[str, Any]]:  # fmt: skip
    """Of a case, on the native engine with `model`, or on `vllm`."""
    sequences, prompt_tokens, new_tokens = case
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(3, config.vocab_size, (sequences, prompt_tokens), generator=generator).tolist()
    natives = {}
    if model is not None:
        natives = {kind: Native(model, sequences, kind == "eager") for kind in arguments.engines}
    runs: dict[str, Callable[[], float]] = {
        kind: partial(native.seconds, prompts, new_tokens) for kind, native in natives.items()
    }
    if vllm is not None:
        runs["vllm"] = partial(vllm.seconds, prompts, new_tokens)
    times: dict[str, list[float]] = {kind: [] for kind in runs}
    for _ in range(1 + arguments.repeats):
        for kind, run in runs.items():
            times[kind].append(run())
    rows = []
    for kind, (first, *later) in times.items():
        median = statistics.median(later or [first])
        row = {
            "engine": kind, "geometry": name, "sequences": sequences, "prompt_tokens": prompt_tokens,
            "new_tokens": new_tokens, "tokens_per_s": round(sequences * new_tokens / median, 1),
            "ms_per_step": round(1e3 * median / new_tokens, 3), "first_call_s": round(first, 2),
        }  # fmt: skip
        if model is not None:
            moved = bytes_moved(model, sequences, prompt_tokens, new_tokens)
            row |= {"share_of_memory": round(moved / median / bandwidth / 1e9, 3), **natives[kind].memory}
        rows.append(row)
        print(row, file=sys.stderr)
    return rows


class Native:
    """The native engine in one of its two ways, and what its last call took."""

    def __init__(self, model: HybridForCausalLM, sequences: int, enforce_eager: bool) -> None:
        section = EngineSection(max_sequences=sequences, prefill_tokens=8192)
        self.engine = NativeEngine(model, None, section, eos_token_ids=(), enforce_eager=enforce_eager)
        self.memory: dict[str, Any] = {}

    def seconds(self, prompts: list[list[int]], new_tokens: int) -> float:
        device = self.engine.model.device
        on_card = device.type == "cuda"
        if on_card:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        taken = seconds(partial(self.generate, prompts, SamplingParams(max_tokens=new_tokens)), device)
        plan, runner = self.engine.memory, self.engine.runner
        assert plan is not None
        self.memory = {"foretold_mib": round((plan.total - plan.graphs) / 2**20, 1)}
        if on_card:
            self.memory["peak_mib"] = round((torch.cuda.max_memory_allocated() - before) / 2**20, 1)
        if isinstance(runner, GraphRunner):
            self.memory |= {
                "recorded": runner.recorded, "recording_s": round(runner.seconds, 2),
                "graphs_mib": round(runner.graph_bytes / 2**20, 1),
                "graphs_foretold_mib": round(plan.graphs / 2**20, 1),
            }  # fmt: skip
        return taken

    def generate(self, prompts: list[list[int]], params: SamplingParams) -> list[Trace]:
        traces = self.engine.generate(prompts, params)
        if short := [trace.error for trace in traces if trace.num_tokens != params.max_tokens]:
            raise UserError(f"a trace ended early: {short[0]}; ask for fewer sequences or tokens with --cases")
        return traces


def bytes_moved(model: HybridForCausalLM, sequences: int, prompt: int, new: int) -> float:
    """Of all steps of a call, the least: every matrix once a step, every state read and written, every key and value
    read."""
    c, element = model.config, model.dtype.itemsize
    table = 0 if c.tie_word_embeddings else c.vocab_size * c.hidden_size
    weights = (sum(p.numel() for p in model.parameters()) - table) * element
    states = c.num_hidden_layers * 2 * c.mamba_d_ssm * c.mamba_d_state * 4
    cached = c.num_hidden_layers * 2 * c.num_key_value_heads * c.head_dim * element * (prompt + new / 2)
    return new * (weights + sequences * (states + cached))


@torch.inference_mode()
def check_row(name: str, model: HybridForCausalLM) -> dict[str, Any]:
    """Graphs against single steps and both against the training forward, on three greedy traces of unlike lengths."""
    vocab = model.config.vocab_size
    prompts = [[3 + (7 * i + n) % (vocab - 3) for i in range(n)] for n in (5, 64, 200)]
    params = SamplingParams(temperature=0.0, max_tokens=CHECK_TOKENS)
    found = {kind: Native(model, 3, kind == "eager").generate(prompts, params) for kind in ("eager", "graphs")}
    agree, apart = 0, 0.0
    for one, other in zip(found["eager"], found["graphs"], strict=True):
        pairs = zip(one.token_ids, other.token_ids, one.logprobs, other.logprobs, strict=True)
        for *_, x, y in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs):
            agree, apart = agree + 1, max(apart, abs(x - y))
    forward = {kind: distance(model, prompts, traces) for kind, traces in found.items()}
    return {
        "engine": "check", "geometry": name, "tokens": 3 * CHECK_TOKENS, "tokens_that_agree": agree,
        "graphs_from_eager": round(apart, 5), **{f"{kind}_from_forward": round(d, 5) for kind, d in forward.items()},
        "ok": apart <= sum(forward.values()) and forward["graphs"] <= 2 * forward["eager"],
    }  # fmt: skip


def distance(model: HybridForCausalLM, prompts: list[list[int]], traces: list[Trace]) -> float:
    """Largest difference of the traces' log-probabilities to the training forward, nats."""
    worst = 0.0
    for prompt, trace in zip(prompts, traces, strict=True):
        ids = torch.tensor([[*prompt, *trace.token_ids]], device=model.device)
        logits = model(ids)[0, len(prompt) - 1 : -1].float()
        exact = logits.log_softmax(-1).gather(-1, ids[0, len(prompt) :, None])[:, 0]
        worst = max(worst, float((exact.cpu() - torch.tensor(trace.logprobs)).abs().max()))
    return worst


if __name__ == "__main__":
    sys.exit(main())
