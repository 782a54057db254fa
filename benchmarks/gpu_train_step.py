"""A training step in bf16 on one CUDA card: forward, backward and AdamW of Falcon-H1 geometries, packed, at 4K and 36K.

python benchmarks/gpu_train_step.py [--quick] [--only PARTS] [--compile] [--checkpoint] [--kernels NAME] [--out FILE]
python benchmarks/gpu_train_step.py --geometries tiny:2 --tokens 256 --quick     without a card: a rehearsal

In this order: the card's ceilings (a large matrix product and a copy, measured), the error of every operator against
float64, milliseconds of every operator against other kernels, and the training step: tokens/s, the share of the
measured matmul ceiling by the model's own operations, peak memory. transformers runs the same weights on the same
tokens, in turn, and the losses are compared; it has no way to pack documents, so that comparison is on one document,
and a further row shows ours on a packed mix. Peak memory stands beside what `h1r sft --dry-run` foretells: weights,
gradients, AdamW's state, what layers keep, and the work of one. Exit status 1 if a check fails or losses differ.

Without a card it runs on the CPU, in bf16 and on plain PyTorch, to show that every line runs: its times say nothing.

The model's operations per token, forward and backward: 6 per weight of a matrix product, 6 L E per query head and
layer for a token in a document of L (causal, half of 12), and 12 P S per head for the recurrence. Work that an
implementation adds (chunks, recomputation) is not counted.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import random
import statistics
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

import gpu_operators
from gpu_operators import DEVICE
from h1r.config import Recipe
from h1r.kernels.contract import Kernels
from h1r.kernels.layout import Layout
from h1r.models import save
from h1r.models.falcon_h1.config import HybridConfig, preset
from h1r.models.falcon_h1.hybrid import Block, HybridForCausalLM
from h1r.train.linear_logprobs import linear_logprobs
from h1r.train.plan.cards import parse_cards
from h1r.train.plan.plan import plan

PARTS = ("checks", "operators", "steps")
GEOMETRIES = "0.5b:36,7b:8"  # 8 layers of the 7B, its embedding and its head: two thousand million parameters
LOSS_TOLERANCE = 2e-2  # nats, between two bf16 models


def operations(config: HybridConfig, model: nn.Module, lengths: list[int]) -> float:
    """Floating-point operations of the model for one step on documents of these lengths."""
    products = sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear))
    heads = config.num_attention_heads * config.head_dim
    attention = 6 * config.num_hidden_layers * heads * sum(n * n for n in lengths)
    scan = 12 * config.num_hidden_layers * config.mamba_n_heads * config.mamba_d_head * config.mamba_d_state
    return (6 * products + scan) * sum(lengths) + attention


def packed_lengths(tokens: int, seed: int = 0) -> list[int]:
    """Log-normal document lengths (median 1,500 tokens, or half of `tokens`) that fill `tokens` exactly."""
    draw, lengths, median = random.Random(seed), [], math.log(min(1500, tokens / 2))
    while sum(lengths) < tokens:
        lengths.append(min(max(int(draw.lognormvariate(median, 1.0)), 16), tokens - sum(lengths)))
    return lengths


def build(name: str, layers: int, kernels: Kernels) -> HybridForCausalLM:
    config = preset(name, num_hidden_layers=layers)
    with torch.device(DEVICE):
        model = HybridForCausalLM(config)
    return model.to(torch.bfloat16).init_weights(torch.Generator(DEVICE).manual_seed(0)).use(kernels)


def foretold_gib(name: str, layers: int, parameters: int, tokens: int, checkpoint: bool) -> float:
    """Peak of a step on one document: 8 bytes a parameter (its weight, gradient and two moments in bf16), and what the
    plan of `h1r sft --dry-run` says of activations and work. It counts our Triton kernels, and no others."""
    recipe = Recipe.model_validate(
        {
            "name": "card",
            "model": {"preset": name, "overrides": {"num_hidden_layers": layers}},
            "sft": {"seq_len": tokens, "batch_size": 1, "micro_batch_size": 1, "compute_dtype": "bfloat16"},
            "parallel": {"checkpoint": checkpoint},
        }
    )
    memory = plan(recipe, "sft", parse_cards("1xH200")).memory
    return (8 * parameters + memory["activations"] + memory["work"]) / 2**30


def compiled(model: HybridForCausalLM) -> None:
    """torch.compile of each layer around the kernels, which stay as they are."""
    operators = {f.name for f in dataclasses.fields(Kernels)} - {"name", "reason"}
    kept = {name: torch.compiler.disable(getattr(model.kernels, name)) for name in operators}
    model.use(dataclasses.replace(model.kernels, **kept))
    for layer in model.model.layers:
        layer.compile()


def checkpointed(model: HybridForCausalLM) -> None:
    """Layers keep their input alone and run again in the backward pass."""
    from torch.utils.checkpoint import checkpoint

    for layer in cast(list[Block], list(model.model.layers)):
        plain = layer.forward

        def forward(*arguments: Any, plain: Callable[..., Tensor] = plain) -> Tensor:
            return cast(Tensor, checkpoint(plain, *arguments, use_reentrant=False))

        layer.forward = forward  # type: ignore[method-assign]


def our_loss(model: HybridForCausalLM, ids_T: Tensor, layout: Layout) -> Tensor:
    """Mean cross-entropy of each token but the first of its document."""
    hidden = model.model(ids_T, layout)
    followed = layout.remaining > 0
    targets = ids_T.roll(-1)[followed]
    return -linear_logprobs(
        hidden[followed], model.lm_head.weight, targets, model.config.lm_head_multiplier, chunk=4096
    ).mean()


def their_loss(model: Any, ids_T: Tensor) -> Tensor:
    logits = model(ids_T[None]).logits[0, :-1].float()
    return nn.functional.cross_entropy(logits, ids_T[1:])


@dataclasses.dataclass
class Runner:
    """One model and its optimizer; `loss` runs the forward pass."""

    model: nn.Module
    loss: Callable[[], Tensor]

    def __post_init__(self) -> None:
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-5, fused=True)

    def step(self) -> Tensor:
        value = self.loss()
        value.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return value.detach()

    def held_bytes(self) -> int:
        """Weights and optimizer state, which stay between steps."""
        state = [t for entry in self.optimizer.state.values() for t in entry.values() if isinstance(t, Tensor)]
        return sum(t.nbytes for t in [*self.model.parameters(), *state])


def steps_in_turn(runners: dict[str, Runner], repeats: int) -> dict[str, dict[str, Any]]:
    """Each model's median milliseconds, first loss, and peak memory without what the other models hold."""
    found: dict[str, dict[str, Any]] = {name: {} for name in runners}
    times: dict[str, list[float]] = {name: [] for name in runners}
    on_card = DEVICE.type == "cuda"
    for turn in range(repeats + 2):
        for name, runner in runners.items():
            row = found[name]
            if "why" in row:
                continue
            if on_card:
                torch.cuda.reset_peak_memory_stats()
            watch = gpu_operators.Stopwatch()
            try:
                with watch:
                    loss = runner.step()
                taken = watch.milliseconds()
            except Exception as error:  # out of memory, or a peer's own failure
                row["why"] = f"{type(error).__name__}: {error}"[:300]
                runner.optimizer.zero_grad()
                gpu_operators.free_cached()
                continue
            row.setdefault("loss", loss.item())
            if on_card:
                others = sum(other.held_bytes() for label, other in runners.items() if label != name)
                row["peak_gib"] = (torch.cuda.max_memory_allocated() - others) / 2**30
            if turn >= 2:
                times[name].append(taken)
    return {name: row | ({"ms": statistics.median(times[name])} if times[name] else {}) for name, row in found.items()}


def transformers_model(ours: HybridForCausalLM) -> tuple[nn.Module | None, str]:
    """transformers' model with our weights, and which kernels it found."""
    try:
        from transformers import FalconH1ForCausalLM
        from transformers.utils import logging
    except ImportError as error:
        return None, f"transformers cannot be imported: {error}"
    logging.set_verbosity_error()
    missing = gpu_operators.mamba_ssm_obstacle(DEVICE.type)
    with tempfile.TemporaryDirectory() as directory:
        save(ours, directory)
        theirs = FalconH1ForCausalLM.from_pretrained(directory, dtype=torch.bfloat16).to(ours.device)
    theirs.train()
    return theirs, f"plain PyTorch path: {missing}" if missing else "mamba-ssm kernels"


def train_rows(
    name: str, layers: int, tokens: int, kernels: Kernels, ceiling: float, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Rows of one geometry and length: ours and transformers in turn on one document, then ours on a packed mix."""
    ours = build(name, layers, kernels)
    parameters = sum(p.numel() for p in ours.parameters())
    theirs, found_kernels = (None, "left out by --no-peers") if options.no_peers else transformers_model(ours)
    if options.checkpoint:
        checkpointed(ours)
        if theirs is not None:
            name_of = "activation_checkpointing_enable"  # gradient_checkpointing_enable in older ones
            getattr(theirs, name_of if hasattr(theirs, name_of) else "gradient_checkpointing_enable")()
    if options.compile:
        compiled(ours)
    ids = torch.randint(3, ours.config.vocab_size, (tokens,), device=ours.device)
    repeats = 3 if options.quick else 8

    def rows_of(mix: str, lengths: list[int], runners: dict[str, Runner]) -> list[dict[str, Any]]:
        work = operations(ours.config, ours, lengths)
        rows = []
        for engine, measured in steps_in_turn(runners, repeats).items():
            row: dict[str, Any] = {
                "engine": engine, "geometry": name, "layers": layers, "tokens": tokens, "mix": mix,
                "documents": len(lengths), "kernels": kernels.name if engine == "h1r" else found_kernels,
            }  # fmt: skip
            if "ms" in measured:
                seconds = measured["ms"] / 1e3
                row |= {"tokens_per_s": tokens / seconds, "share_of_ceiling": work / seconds / ceiling}
            if engine == "h1r":
                row["foretold_gib"] = foretold_gib(name, layers, parameters, tokens, options.checkpoint)
            rows.append(row | measured)
        return rows

    single, packed = Layout.of([tokens], ours.device), packed_lengths(tokens)
    runners = {"h1r": Runner(ours, lambda: our_loss(ours, ids, single))}
    if theirs is not None:
        runners["transformers"] = Runner(theirs, partial(their_loss, theirs, ids))
    rows = rows_of("one document", [tokens], runners)
    if theirs is None:
        rows.append({"engine": "transformers", "geometry": name, "tokens": tokens, "why": found_kernels})
    elif all("loss" in row for row in rows):
        gap = abs(rows[0]["loss"] - rows[1]["loss"])
        rows[1] |= {"loss_difference": gap, "verdict": "passed" if gap <= LOSS_TOLERANCE else "failed"}
    del runners, theirs
    gpu_operators.free_cached()
    layout = Layout.of(packed, ours.device)
    return rows + rows_of("packed", packed, {"h1r": Runner(ours, lambda: our_loss(ours, ids, layout))})


def ceilings(repeats: int) -> dict[str, float]:
    """What the card does at most, measured: a bf16 product of random matrices, and a copy (bytes read and written)."""
    n, copied = (8192, 2**30) if DEVICE.type == "cuda" else (512, 2**22)
    a, b = (torch.randn(n, n, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    product = gpu_operators.milliseconds(lambda: a @ b, repeats)
    source = torch.randn(copied, device=DEVICE)
    target = torch.empty_like(source)
    copy = gpu_operators.milliseconds(lambda: target.copy_(source), repeats)
    return {"matmul_flops": 2 * n**3 / (product / 1e3), "copy_bytes_per_s": 2 * source.nbytes / (copy / 1e3)}


def installed(names: list[str]) -> dict[str, str]:
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def show(title: str, rows: list[dict[str, Any]]) -> None:
    print(f"\n{title}", flush=True)
    for row in rows:
        print(
            "  " + "  ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in row.items()), flush=True
        )


def command_line() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="4K tokens and few repeats")
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(PARTS), help=", ".join(PARTS))
    parser.add_argument("--geometries", default=GEOMETRIES, help="preset:layers, comma-separated")
    parser.add_argument("--tokens", help="lengths of the training step, comma-separated")
    parser.add_argument("--compile", action="store_true", help="torch.compile of the layers around the kernels")
    parser.add_argument("--checkpoint", action="store_true", help="recompute layers in the backward pass")
    parser.add_argument("--no-peers", action="store_true", help="leave transformers out of the training step")
    parser.add_argument("--kernels", help="of our training step: triton, torch or mamba-ssm")
    parser.add_argument("--sweep", action="store_true", help="also measure the scan with other tile sizes")
    parser.add_argument("--out", type=Path, help="write the whole result as JSON")
    options = parser.parse_args()
    if unknown := sorted(set(options.only) - set(PARTS)):
        parser.error(f"--only {unknown[0]} is unknown; choose among {', '.join(PARTS)}")
    options.geometries = {name: int(layers) for name, layers in (g.split(":") for g in options.geometries.split(","))}
    lengths = options.tokens or ("4096" if options.quick else "4096,36864")
    options.tokens = [int(length) for length in lengths.split(",")]
    options.kernels = options.kernels or ("triton" if DEVICE.type == "cuda" else "torch")
    return options


def main() -> None:
    options = command_line()
    sets, missing = gpu_operators.kernel_sets()
    if options.kernels not in sets or options.kernels == "fla":
        sys.exit(f"--kernels {options.kernels}: {missing.get(options.kernels, 'unknown; triton, torch or mamba-ssm')}")
    repeats = 10 if options.quick else 30
    result: dict[str, Any] = {
        "card": torch.cuda.get_device_name() if DEVICE.type == "cuda" else "none: a rehearsal on the CPU",
        "packages": installed(
            ["torch", "triton", "transformers", "mamba-ssm", "causal-conv1d", "flash-linear-attention"]
        ),
        "missing": missing,
        "ceilings": ceilings(repeats),
    }
    show("The card", [{"card": result["card"], **result["ceilings"]}, result["packages"], missing])
    if "checks" in options.only:
        result["checks"] = checks(options, sets)
    if "operators" in options.only:
        result |= operators(options, sets, repeats)
    if "steps" in options.only:
        result["steps"] = steps(options, sets[options.kernels], result["ceilings"]["matmul_flops"])
    if options.out:
        options.out.write_text(json.dumps(result, indent=1), encoding="utf-8")
    ours = [row for row in result.get("checks", []) if row["kernels"] == options.kernels] + result.get("steps", [])
    sys.exit(any(row.get("verdict") == "failed" or (row.get("engine") == "h1r" and "why" in row) for row in ours))


def checks(options: argparse.Namespace, sets: dict[str, Kernels]) -> list[dict[str, Any]]:
    rows = [row for name in options.geometries for row in gpu_operators.check(preset(name), name, sets)]
    show("Errors against float64", rows)
    return rows


def operators(options: argparse.Namespace, sets: dict[str, Kernels], repeats: int) -> dict[str, Any]:
    lengths = packed_lengths(options.tokens[-1])
    found = {
        "operators": [
            row
            for name in options.geometries
            for row in gpu_operators.time_operators(preset(name), name, lengths, sets, repeats)
        ]
    }
    show("Operators, packed", found["operators"])
    if options.sweep and "triton" in sets:
        found["sweep"] = [
            row for name in options.geometries for row in gpu_operators.sweep_scan(preset(name), name, lengths, repeats)
        ]
        show("The scan with other tiles", found["sweep"])
    return found


def steps(options: argparse.Namespace, kernels: Kernels, ceiling: float) -> list[dict[str, Any]]:
    found = []
    for name, layers in options.geometries.items():
        for count in options.tokens:
            rows = train_rows(name, layers, count, kernels, ceiling, options)
            show(f"Training step, {name}, {count} tokens", rows)
            found += rows
            gpu_operators.free_cached()
    return found


if __name__ == "__main__":
    main()
