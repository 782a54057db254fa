"""The operators one by one on a CUDA card: errors against float64, milliseconds against other kernels, tile sizes.

Imported by `gpu_train_step.py`. Sets of kernels: ours (`triton`), plain PyTorch (`torch`), mamba-ssm with
causal-conv1d, and for the scan flash-linear-attention; those that cannot be imported are reported with the reason.
Without a card plain PyTorch runs alone, on the CPU: a rehearsal of the script, and no measurement.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from h1r.kernels.contract import Kernels
from h1r.kernels.layout import Layout
from h1r.kernels.mamba_ssm import MAMBA_SSM
from h1r.kernels.mamba_ssm import obstacle as mamba_ssm_obstacle
from h1r.kernels.torch.operators import TORCH
from h1r.models.falcon_h1.config import HybridConfig

TOLERANCE = 1e-2  # of ‖out - exact‖ / ‖exact‖ in bf16
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
Operator = Callable[..., Tensor]


@dataclasses.dataclass(frozen=True)
class Case:
    """One operator at one size: how a set of kernels runs it, and inputs whose last `kept` stay fp32."""

    run: Callable[[Kernels], Operator]
    inputs: list[Tensor]
    kept: int = 0

    def leaves(self, dtype: torch.dtype, rounded: torch.dtype = torch.bfloat16) -> list[Tensor]:
        """Leaf copies in `dtype` of the inputs as `rounded` holds them."""
        halves = len(self.inputs) - self.kept
        cast = [t.to(rounded) if i < halves else t for i, t in enumerate(self.inputs)]
        return [
            t.detach().to(torch.float32 if i >= halves and dtype != torch.float64 else dtype).clone().requires_grad_()
            for i, t in enumerate(cast)
        ]


def cases(config: HybridConfig, lengths: list[int]) -> dict[str, Case]:
    """Every operator of a layer of this geometry on documents of these lengths."""
    layout, T = Layout.of(lengths, DEVICE), sum(lengths)
    H, P, G, S = config.mamba_n_heads, config.mamba_d_head, config.mamba_n_groups, config.mamba_d_state
    M, N, E = config.mamba_d_ssm, config.conv_dim, config.head_dim

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, device=DEVICE)

    angle = random(T, E // 2)
    head = min(T, 4096)
    targets = torch.randint(0, config.vocab_size, (head,), device=DEVICE)

    def scan(k: Kernels) -> Operator:
        return lambda x, B, C, D, dt, A: k.scan(x, dt, A, B, C, D, layout, config.mamba_chunk_size)

    return {
        "conv_silu": Case(lambda k: lambda *t: k.conv_silu(*t, layout), [random(T, N), random(N, 4), random(N)]),
        "scan": Case(
            scan,
            [
                random(T, H, P), random(T, G, S), random(T, G, S), random(H), torch.rand(T, H, device=DEVICE) * 0.1,
                -torch.rand(H, device=DEVICE) * 16,
            ],
            kept=2,
        ),
        "gate": Case(lambda k: lambda y, z: k.gate(y, z, None, G, 1e-5, False), [random(T, M), random(T, M)]),
        "gate and norm": Case(
            lambda k: lambda y, z, w: k.gate(y, z, w, G, 1e-5, False), [random(T, M), random(T, M), random(M)]
        ),
        "attention": Case(
            lambda k: lambda *t: k.attention(*t, layout),
            [random(T, config.num_attention_heads, E), *(random(T, config.num_key_value_heads, E) for _ in range(2))],
        ),
        "rms_norm": Case(
            lambda k: lambda *t: k.rms_norm(*t, 1e-5), [random(T, config.hidden_size), random(config.hidden_size)]
        ),
        "swiglu": Case(lambda k: k.swiglu, [random(T, config.intermediate_size) for _ in range(2)]),
        "rotary": Case(
            lambda k: lambda x: k.rotary(x, angle.cos(), angle.sin()), [random(T, config.num_attention_heads, E)]
        ),
        "token_logprobs": Case(lambda k: lambda x: k.token_logprobs(x, targets), [random(head, config.vocab_size)]),
    }  # fmt: skip


def kernel_sets() -> tuple[dict[str, Kernels], dict[str, str]]:
    """The sets that can run on this machine, and why the others cannot."""
    if DEVICE.type != "cuda":
        why = "needs a CUDA card"
        return {"torch": TORCH}, {"triton": why, "mamba-ssm": why, "fla": why}
    from h1r.kernels.triton import TRITON

    sets, missing = {"triton": TRITON, "torch": TORCH}, {}
    if why := mamba_ssm_obstacle("cuda"):
        missing["mamba-ssm"] = why
    else:
        sets["mamba-ssm"] = MAMBA_SSM
    if importlib.util.find_spec("fla") is None:
        missing["fla"] = "fla cannot be imported; pip install flash-linear-attention"
    else:
        sets["fla"] = dataclasses.replace(TORCH, name="fla", scan=fla_scan)
    return sets, missing


def fla_scan(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, layout: Layout, _: int) -> Tensor:
    """The scan as gated linear attention: queries C, keys B, values dt x, log decays dt A."""
    from fla.ops.simple_gla import chunk_simple_gla

    repeat = x.shape[1] // B.shape[1]
    q, k = (t.repeat_interleave(repeat, 1)[None] for t in (C, B))
    v, g = (x * dt[..., None]).to(x.dtype)[None], (dt * A)[None]
    y, _state = chunk_simple_gla(q, k, v, g=g, scale=1.0, cu_seqlens=layout.cu_seqlens)
    return y[0] + D[:, None] * x


def errors(case: Case, kernels: Kernels) -> list[float]:
    """Relative errors of the output and of each gradient in bf16 against plain PyTorch in float64."""
    cast, exact = case.leaves(torch.bfloat16), case.leaves(torch.float64)
    got, expected = case.run(kernels)(*cast), case.run(TORCH)(*exact)
    pull = torch.randn_like(got)
    found = torch.autograd.grad((got * pull).sum(), cast)
    wanted = torch.autograd.grad((expected * pull.double()).sum(), exact)
    return [
        ((a.double() - b).norm() / b.norm()).item() for a, b in zip((got, *found), (expected, *wanted), strict=True)
    ]


def check(config: HybridConfig, name: str, sets: dict[str, Kernels]) -> list[dict[str, Any]]:
    """One row per operator and set: the worst error; a NaN or an exception is a failure."""
    rows = []
    for operator, case in cases(config, [1500, 1, 130, 417]).items():
        for kind, kernels in sets.items():
            if kind == "fla" and operator != "scan":
                continue
            row: dict[str, Any] = {"check": operator, "geometry": name, "kernels": kind, "tolerance": TOLERANCE}
            try:
                worst = max(errors(case, kernels), key=lambda e: (e != e, e))
                row |= {"error": worst, "verdict": "passed" if worst <= TOLERANCE else "failed"}
            except Exception as error:  # a peer's own failure must not end the run
                row |= {"error": None, "verdict": "failed", "why": f"{type(error).__name__}: {error}"[:200]}
            rows.append(row)
    return rows


def milliseconds(run: Callable[[], Any], repeats: int) -> float:
    """Median over `repeats` timed runs on the device, after three that warm up."""
    for _ in range(3):
        run()
    watches = [Stopwatch() for _ in range(repeats)]
    for watch in watches:
        with watch:
            run()
    return statistics.median(watch.milliseconds() for watch in watches)


class Stopwatch:
    """Of what a block does: on a card between two events of its stream, without waiting; else on the clock."""

    def __enter__(self) -> None:
        if DEVICE.type == "cuda":
            self.events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
            self.events[0].record()
        self.began = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.ended = time.perf_counter()
        if DEVICE.type == "cuda":
            self.events[1].record()

    def milliseconds(self) -> float:
        """On a card it waits until the block has run there. What failed in it is raised here."""
        if DEVICE.type != "cuda":
            return 1e3 * (self.ended - self.began)
        self.events[1].synchronize()
        return self.events[0].elapsed_time(self.events[1])


def free_cached() -> None:
    """Gives back what PyTorch keeps of freed memory of the card."""
    if DEVICE.type == "cuda":
        torch.cuda.empty_cache()


def forward_and_backward(operator: Operator, leaves: list[Tensor]) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Closures: forward without a graph, and forward with backward into `leaves`."""
    pull = torch.randn_like(operator(*leaves))

    def forward() -> None:
        with torch.no_grad():
            operator(*leaves)

    return forward, lambda: torch.autograd.grad(operator(*leaves), leaves, pull)


def time_operators(
    config: HybridConfig, name: str, lengths: list[int], sets: dict[str, Kernels], repeats: int
) -> list[dict[str, Any]]:
    """One row per operator and set: milliseconds forward, and forward with backward, in bf16."""
    rows = []
    for operator, case in cases(config, lengths).items():
        for kind, kernels in sets.items():
            if kind == "fla" and operator != "scan":
                continue
            row: dict[str, Any] = {"operator": operator, "geometry": name, "tokens": sum(lengths), "kernels": kind}
            try:
                forward, both = forward_and_backward(case.run(kernels), case.leaves(torch.bfloat16))
                row |= {"forward_ms": milliseconds(forward, repeats), "both_ms": milliseconds(both, repeats)}
            except Exception as error:
                row["why"] = f"{type(error).__name__}: {error}"[:200]
            free_cached()
            rows.append(row)
    return rows


def sweep_scan(config: HybridConfig, name: str, lengths: list[int], repeats: int) -> list[dict[str, Any]]:
    """The scan with other tile sizes, one changed at a time; the chunk too."""
    from h1r.kernels.triton import TRITON

    module = importlib.import_module("h1r.kernels.triton.scan")
    usual = module.BLOCKS
    tries: list[tuple[str, Any, int]] = [("as shipped", usual, config.mamba_chunk_size)]
    tries += [(f"chunk {n}", usual, n) for n in (64, 128, 256) if n != config.mamba_chunk_size]
    for field, values in {
        "tokens": (32, 128), "inner": (32, 128), "states": (64, 256), "keys": (32, 128), "carried": (512, 2048),
        "splits": (1, 2, 8), "warps": (2, 8), "stages": (1, 3, 4),
    }.items():  # fmt: skip
        tries += [(f"{field} {v}", dataclasses.replace(usual, **{field: v}), config.mamba_chunk_size) for v in values]
    rows = []
    for label, blocks, chunk in tries:
        case = cases(dataclasses.replace(config, mamba_chunk_size=chunk), lengths)["scan"]
        row: dict[str, Any] = {"sweep": label, "geometry": name, "tokens": sum(lengths)}
        module.BLOCKS = blocks
        try:
            forward, both = forward_and_backward(case.run(TRITON), case.leaves(torch.bfloat16))
            row |= {"forward_ms": milliseconds(forward, repeats), "both_ms": milliseconds(both, repeats)}
        except Exception as error:  # more shared memory than there is
            row["why"] = f"{type(error).__name__}: {error}"[:200]
        rows.append(row)
    module.BLOCKS = usual
    return rows
