"""The Triton kernels: in Triton's interpreter and compiler on any machine, on the card where there is one."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import Tensor

from h1r.kernels.layout import Layout
from h1r.kernels.torch.operators import TORCH
from h1r.models.falcon_h1.config import HybridConfig, preset

HERE = Path(__file__).parent
SHARED_MEMORY = 227 * 1024  # of an H100 or H200, for one program

needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def child(arguments: list[str], **environment: str) -> str:
    """Runs python apart, since the interpreter and a stand-in driver change triton for the whole process."""
    variables = os.environ | {"OMP_NUM_THREADS": "1"} | environment
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=variables)
    assert done.returncode == 0, f"status {done.returncode}\n" + done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


@needs_triton
@pytest.mark.slow
def test_every_kernel_equals_its_definition_in_the_interpreter() -> None:
    out = child(
        ["-m", "pytest", str(HERE / "interpreted_triton.py"), "-v", "-p", "no:cacheprovider"], TRITON_INTERPRET="1"
    )
    assert re.search(r"\b(\d+) passed", out), out[-4000:]
    assert "skipped" not in out


@needs_triton
@pytest.mark.slow
def test_every_kernel_compiles_for_hopper_within_its_registers_and_shared_memory(tmp_path: Path) -> None:
    out = child([str(HERE / "compiled_triton.py")], TRITON_CACHE_DIR=str(tmp_path))
    rows = [json.loads(row) for row in out.splitlines()]
    assert {row["kernel"] for row in rows if row["tensor_cores"]} == {
        "outer_sums", "score_tiles", "outputs", "grad_inputs", "grad_scores", "grad_keys",
    }  # fmt: skip
    for row in rows:
        assert row["shared"] <= SHARED_MEMORY, row
        assert row["stack"] <= 64, row


def agrees(operator: Callable[..., Tensor], exact: Callable[..., Tensor], inputs: list[Tensor], kept: int = 0) -> None:
    """Values and gradients in bf16 (the last `kept` inputs in fp32) on the card, against float64, by their norms."""
    types = [torch.bfloat16] * (len(inputs) - kept) + [torch.float32] * kept
    cast = [t.detach().to(dtype).requires_grad_() for t, dtype in zip(inputs, types, strict=True)]
    wide = [t.detach().double().requires_grad_() for t in cast]
    got, expected = operator(*cast), exact(*wide)
    pull = torch.randn_like(got)
    found = torch.autograd.grad((got * pull).sum(), cast)
    wanted = torch.autograd.grad((expected * pull.double()).sum(), wide)
    for a, b in zip((got, *found), (expected, *wanted), strict=True):
        assert (a.double() - b).norm() <= 1e-2 * b.norm()


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, device="cuda")


def scan_inputs(config: HybridConfig, T: int) -> dict[str, Tensor]:
    H, P, G, S = config.mamba_n_heads, config.mamba_d_head, config.mamba_n_groups, config.mamba_d_state
    return {
        "x": random(T, H, P), "B": random(T, G, S), "C": random(T, G, S), "D": random(H),
        "dt": torch.rand(T, H, device="cuda") * 0.1, "A": -torch.rand(H, device="cuda") * 16,
    }  # fmt: skip


LENGTHS = [1500, 1, 130, 2465]
gpu = [needs_cuda, needs_triton, pytest.mark.gpu]


class TestOnTheCard:
    pytestmark = gpu

    @pytest.fixture(params=["0.5b", "7b", "34b"])
    def config(self, request: pytest.FixtureRequest) -> HybridConfig:
        return preset(request.param)

    def test_scan(self, config: HybridConfig) -> None:
        from h1r.kernels.triton import TRITON

        layout = Layout.of(LENGTHS, "cuda")
        agrees(
            lambda x, B, C, D, dt, A: TRITON.scan(x, dt, A, B, C, D, layout, 128),
            lambda x, B, C, D, dt, A: TORCH.scan(x, dt, A, B, C, D, layout, 128),
            list(scan_inputs(config, sum(LENGTHS)).values()),
            kept=2,
        )

    def test_conv_silu(self, config: HybridConfig) -> None:
        from h1r.kernels.triton import TRITON

        layout, n = Layout.of(LENGTHS, "cuda"), config.conv_dim
        agrees(
            lambda *t: TRITON.conv_silu(*t, layout),
            lambda *t: TORCH.conv_silu(*t, layout),
            [random(sum(LENGTHS), n), random(n, 4), random(n)],
        )

    def test_attention(self, config: HybridConfig) -> None:
        from h1r.kernels.triton import TRITON

        layout, T, E = Layout.of(LENGTHS, "cuda"), sum(LENGTHS), config.head_dim
        agrees(
            lambda *t: TRITON.attention(*t, layout),
            lambda *t: TORCH.attention(*t, layout),
            [random(T, config.num_attention_heads, E), *(random(T, config.num_key_value_heads, E) for _ in range(2))],
        )

    def test_pointwise(self, config: HybridConfig) -> None:
        from h1r.kernels.triton import TRITON

        m, d = config.mamba_d_ssm, config.hidden_size
        for before in (False, True):
            agrees(
                lambda y, z, w, b=before: TRITON.gate(y, z, w, config.mamba_n_groups, 1e-5, b),
                lambda y, z, w, b=before: TORCH.gate(y, z, w, config.mamba_n_groups, 1e-5, b),
                [random(999, m), random(999, m), random(m)],
            )
        agrees(
            lambda x, w: TRITON.rms_norm(x, w, 1e-5),
            lambda x, w: TORCH.rms_norm(x, w, 1e-5),
            [random(999, d), random(d)],
        )
        agrees(TRITON.swiglu, TORCH.swiglu, [random(999, d), random(999, d)])
        targets = torch.randint(0, config.vocab_size, (99,), device="cuda")
        agrees(
            lambda x: TRITON.token_logprobs(x, targets),
            lambda x: TORCH.token_logprobs(x, targets),
            [random(99, config.vocab_size)],
        )

    def test_two_runs_agree_to_the_last_bit(self, config: HybridConfig) -> None:
        from h1r.kernels.triton import TRITON

        layout, inputs = Layout.of(LENGTHS, "cuda"), scan_inputs(config, sum(LENGTHS))
        pull = torch.randn_like(inputs["x"])

        def run() -> list[Tensor]:
            x, B, C, D, dt, A = leaves = [t.clone().requires_grad_() for t in inputs.values()]
            y = TRITON.scan(x, dt, A, B, C, D, layout, 128)
            return [y.detach(), *torch.autograd.grad((y * pull).sum(), leaves)]

        assert all(torch.equal(a, b) for a, b in zip(run(), run(), strict=True))
