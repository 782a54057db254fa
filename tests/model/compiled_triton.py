"""Compiles the Triton kernels for an H100 or H200 on any machine: `test_kernels_triton.py` runs this file.

The interpreter forgives what the compiler refuses (a variable that changes its type in a loop, more shared memory than
there is). A stand-in for the driver names the target, launches become compilations, and what each kernel needs is
printed as JSON, one line a kernel: registers, bytes of stack (registers spilled), bytes of shared memory.

python tests/model/compiled_triton.py [scan] [conv] [rest]      default: all
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

DISASSEMBLER = os.path.join(os.path.dirname(triton.__file__), "backends", "nvidia", "bin", "cuobjdump")


class Hopper:
    """The part of a driver that compilation asks for."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


launch = JITFunction.run
seen: set[str] = set()


def compile_only(self: JITFunction, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
    kernel = launch(self, *args, grid=grid, warmup=True, **options)
    if kernel.hash not in seen:
        seen.add(kernel.hash)
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(kernel.asm["cubin"])
            file.flush()
            usage = subprocess.run([DISASSEMBLER, "--dump-resource-usage", file.name], capture_output=True, text=True)
        used = {name: int(count) for name, count in re.findall(r"\b(REG|STACK):(\d+)", usage.stdout)}
        row = {
            "kernel": kernel.name,
            "options": {k: v for k, v in options.items() if k in ("FORWARD", "ORDER", "num_warps")},
            "registers": used["REG"], "stack": used["STACK"], "shared": kernel.metadata.shared,
            "tensor_cores": "wgmma.mma_async" in kernel.asm["ptx"],
        }  # fmt: skip
        print(json.dumps(row), flush=True)
    return kernel


def main(parts: list[str]) -> None:
    driver.set_active(Hopper())
    JITFunction.run = compile_only  # type: ignore[method-assign]
    from h1r.kernels.layout import Layout
    from h1r.kernels.triton import TRITON
    from h1r.models.falcon_h1.config import preset

    config, layout = preset("7b"), Layout.of([300, 200, 12])
    T, H, P, S = layout.num_tokens, config.mamba_n_heads, config.mamba_d_head, config.mamba_d_state
    width, channels = config.mamba_d_ssm, config.conv_dim

    def half(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=torch.bfloat16).requires_grad_()

    projected = half(T, width + channels + H)
    z, xBC, dt = projected.split([width, channels, H], -1)
    if "conv" in parts:
        TRITON.conv_silu(xBC, half(channels, config.mamba_d_conv), half(channels), layout).sum().backward()
    if "scan" in parts:
        A = torch.rand(H).requires_grad_()
        x, B, C = half(T, channels).split([width, S, S], -1)
        steps = dt.float().detach().requires_grad_()
        y = TRITON.scan(x.unflatten(-1, (H, P)), steps, A, B[:, None], C[:, None], half(H), layout, 128)
        y.sum().backward()
    if "rest" in parts:
        for before in (False, True):
            TRITON.gate(half(T, width), z, half(width), 1, 1e-5, before).sum().backward()
        TRITON.rms_norm(half(T, width), half(width), 1e-5).sum().backward()
        TRITON.swiglu(half(T, width), half(T, width)).sum().backward()
        angle = torch.randn(T, config.head_dim // 2)
        TRITON.rotary(half(T, 12, config.head_dim), angle, angle).sum().backward()
        TRITON.token_logprobs(half(4, config.vocab_size), torch.zeros(4, dtype=torch.long)).sum().backward()
        one = [
            t.detach() for t in (half(2, H, P), torch.rand(2, H), torch.rand(H), half(2, 1, S), half(2, 1, S), half(H))
        ]
        TRITON.step(torch.randn(2, H, P, S), *one)


if __name__ == "__main__":
    main(sys.argv[1:] or ["scan", "conv", "rest"])
