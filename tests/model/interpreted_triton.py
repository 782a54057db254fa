"""The Triton kernels in Triton's interpreter, on a machine without a GPU: `test_kernels_triton.py` runs this file.

The interpreter has to be chosen before triton is imported, so these tests need a process of their own. Each program of
a kernel takes milliseconds there: sizes are small, and tiles are made smaller than they are, to have several.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import triton.language as tl
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from triton.runtime import interpreter

from h1r.kernels.contract import Kernels
from h1r.kernels.layout import Layout
from h1r.kernels.reference import REFERENCE
from h1r.kernels.torch.operators import TORCH
from h1r.kernels.triton import TRITON
from h1r.kernels.triton.chunks import chunks_of
from h1r.models import build
from h1r.models.falcon_h1.config import preset
from h1r.train.plan.costs import bytes_beside, kept_storages, pass_costs

conv_module, gate_module, scan_module = (
    importlib.import_module(f"h1r.kernels.triton.{name}") for name in ("conv", "gate", "scan")
)
SMALL_TILES = scan_module.Blocks(tokens=16, inner=16, states=16, carried=32, splits=2, keys=16)

settings.register_profile(
    "interpreter", deadline=None, derandomize=True, phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
settings.load_profile("interpreter")

TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}


@pytest.fixture(autouse=True, scope="module")
def _small_tiles() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan_module, "BLOCKS", SMALL_TILES)
        patch.setattr(conv_module, "TILES", 2)
        patch.setattr(gate_module, "PARTS", 2)
        yield


@pytest.fixture(autouse=True, scope="module")
def _products_of_bf16() -> Any:
    """The interpreter keeps bf16 as 16-bit integers and would multiply those; here they are widened first."""
    plain = interpreter.InterpreterBuilder.create_dot

    def wide(handle: Any) -> Any:
        if handle.dtype.scalar != tl.bfloat16:
            return handle
        return interpreter.TensorHandle((handle.data.astype(np.uint32) << 16).view(np.float32), tl.float32)

    def create_dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        return plain(self, wide(a), wide(b), *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreter.InterpreterBuilder, "create_dot", create_dot)
        yield


def agrees(
    operator: Callable[..., Tensor],
    definition: Callable[..., Tensor],
    inputs: list[Tensor],
    dtype: torch.dtype = torch.float32,
    kept: tuple[int, ...] = (),
) -> None:
    """Values and gradients of `operator` on inputs of `dtype` (those in `kept` stay fp32) against the definition in
    float64 on the same rounded numbers, relative to the largest."""
    cast = [t.to(torch.float32 if i in kept else dtype).requires_grad_() for i, t in enumerate(inputs)]
    exact = [t.detach().double().requires_grad_() for t in cast]
    expected, got = definition(*exact), operator(*cast)
    pull = torch.randn(expected.shape, generator=torch.Generator().manual_seed(0)).to(got.dtype)
    wanted = torch.autograd.grad((expected * pull.double()).sum(), exact)
    found = torch.autograd.grad((got * pull).sum(), cast)
    for a, b in zip((got, *found), (expected, *wanted), strict=True):
        error = (a.double() - b).abs().max() / b.abs().max().clamp_min(1)
        assert error <= TOLERANCE[dtype], f"{error:.2e}"


def scan_inputs(T: int, groups: int, repeat: int, P: int, S: int) -> list[Tensor]:
    torch.manual_seed(T)
    H = groups * repeat
    return [
        torch.randn(T, H, P), torch.rand(T, H), -torch.rand(H) * 2, torch.randn(T, groups, S),
        torch.randn(T, groups, S), torch.randn(H),
    ]  # fmt: skip


documents = st.lists(st.integers(1, 30), min_size=1, max_size=3)


@settings(max_examples=6)
@given(
    lengths=documents, groups=st.integers(1, 2), repeat=st.integers(1, 3), chunk=st.sampled_from([1, 16, 32]),
    P=st.sampled_from([3, 8, 20]), S=st.sampled_from([4, 17]),
)  # fmt: skip
@example(lengths=[40, 1], groups=1, repeat=3, chunk=32, P=20, S=20)
def test_scan(lengths: list[int], groups: int, repeat: int, chunk: int, P: int, S: int) -> None:
    layout = Layout.of(lengths)
    agrees(
        lambda *t: TRITON.scan(*t, layout, chunk),
        lambda *t: REFERENCE.scan(*t, layout, chunk),
        scan_inputs(sum(lengths), groups, repeat, P, S),
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_scan_in_half_precision(dtype: torch.dtype) -> None:
    layout = Layout.of([21, 3])
    agrees(
        lambda *t: TRITON.scan(*t, layout, 16),
        lambda *t: REFERENCE.scan(*t, layout, 16),
        scan_inputs(24, 1, 2, 8, 16),
        dtype,
        kept=(1, 2),
    )


def test_scan_takes_states_beyond_the_range_of_fp16() -> None:
    x, dt, A, B, C, D = scan_inputs(40, 1, 1, 4, 4)
    x, B, C = x.abs().half() * 500, B.abs().half() * 500, C.half() * 1e-3
    layout = Layout.of([40])
    y = TRITON.scan(x, dt, A * 0.01, B, C, D.half(), layout, 16)
    exact = REFERENCE.scan(
        x.double(), dt.double(), A.double() * 0.01, B.double(), C.double(), D.half().double(), layout, 16
    )
    assert torch.isfinite(y).all()
    assert (y.double() - exact).abs().max() <= 2e-3 * exact.abs().max()


def test_packed_documents_equal_single_ones_to_the_last_bit() -> None:
    lengths = [19, 1, 16]
    inputs = scan_inputs(sum(lengths), 1, 2, 4, 4)
    pull = torch.randn(sum(lengths), 2, 4)

    def run(rows: slice, layout: Layout) -> list[Tensor]:
        x, dt, A, B, C, D = inputs
        parts = [t[rows].clone().requires_grad_() for t in (x, dt, B, C)]
        y = TRITON.scan(parts[0], parts[1], A, parts[2], parts[3], D, layout, 16)
        return [y.detach(), *torch.autograd.grad((y * pull[rows]).sum(), parts)]

    packed = run(slice(None), Layout.of(lengths))
    start = 0
    for length in lengths:
        rows = slice(start, start + length)
        for together, alone in zip(packed, run(rows, Layout.of([length])), strict=True):
            assert torch.equal(together[rows], alone)
        start += length


@settings(max_examples=200)
@given(lengths=st.lists(st.integers(1, 100), min_size=1, max_size=12), size=st.sampled_from([16, 32]))
def test_chunks_cover_every_token_once_and_cross_no_border(lengths: list[int], size: int) -> None:
    layout = Layout.of(lengths)
    table = chunks_of(layout, size)
    tokens, slots = [], []
    for chunk, (start, length, document, number, left) in enumerate(table.chunks.t().tolist()):
        tokens += range(start, start + length)
        if length:
            assert set(layout.seq_idx[start : start + length].tolist()) == {document}
            assert layout.positions[start] == number * size
            assert (left == 0) == (layout.remaining[start + length - 1] == 0)
        if length and left:
            slots.append(chunk - document)
    assert tokens == list(range(sum(lengths)))
    assert slots == list(range(len(slots)))
    assert len(slots) <= table.slots
    first, count = table.documents.tolist()
    assert [table.chunks[0, c] for c in first] == layout.cu_seqlens[:-1].tolist()
    assert count == [-(-n // size) for n in lengths]


dtypes = st.sampled_from(list(TOLERANCE))


@settings(max_examples=4)
@given(
    lengths=documents, channels=st.sampled_from([1, 5, 33]), taps=st.integers(2, 5), biased=st.booleans(), dtype=dtypes
)  # fmt: skip
@example(lengths=[3], channels=8, taps=5, biased=False, dtype=torch.float32)  # fewer tokens than taps
@example(lengths=[40], channels=8, taps=4, biased=True, dtype=torch.bfloat16)  # several programs along the tokens
def test_conv_silu(lengths: list[int], channels: int, taps: int, biased: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(sum(lengths))
    layout = Layout.of(lengths)
    inputs = [torch.randn(sum(lengths), channels), torch.randn(channels, taps)]
    inputs += [torch.randn(channels)] if biased else []
    agrees(
        lambda x, w, b=None: TRITON.conv_silu(x, w, b, layout),
        lambda x, w, b=None: REFERENCE.conv_silu(x, w, b, layout),
        inputs,
        dtype,
    )


@settings(max_examples=6)
@given(
    rows=st.integers(1, 5), groups=st.integers(1, 3), width=st.sampled_from([1, 7, 40]), norm=st.booleans(),
    before=st.booleans(),
)  # fmt: skip
def test_gate(rows: int, groups: int, width: int, norm: bool, before: bool) -> None:
    torch.manual_seed(rows)
    inputs = [torch.randn(rows, groups * width), torch.randn(rows, groups * width) * 2]
    inputs += [torch.randn(groups * width)] if norm else []
    agrees(
        lambda y, z, w=None: TRITON.gate(y, z, w, groups, 1e-5, before),
        lambda y, z, w=None: REFERENCE.gate(y, z, w, groups, 1e-5, before),
        inputs,
    )


@settings(max_examples=5)
@given(rows=st.integers(1, 4), width=st.sampled_from([1, 7, 40, 160]), dtype=dtypes)
def test_rms_norm_and_swiglu(rows: int, width: int, dtype: torch.dtype) -> None:
    torch.manual_seed(rows)
    x, weight = torch.randn(2, rows, width), torch.randn(width)
    agrees(lambda x, w: TRITON.rms_norm(x, w, 1e-5), lambda x, w: REFERENCE.rms_norm(x, w, 1e-5), [x, weight], dtype)
    agrees(TRITON.swiglu, REFERENCE.swiglu, [torch.randn(rows, width) * 3, torch.randn(rows, width)], dtype)


@settings(max_examples=5)
@given(rows=st.integers(1, 5), heads=st.integers(1, 3), half=st.sampled_from([1, 4, 12]))
def test_rotary(rows: int, heads: int, half: int) -> None:
    torch.manual_seed(rows)
    angle = torch.randn(rows, half)
    cos, sin = angle.cos(), angle.sin()
    agrees(
        lambda x: TRITON.rotary(x, cos, sin),
        lambda x: REFERENCE.rotary(x, cos.double(), sin.double()),
        [torch.randn(rows, heads, 2 * half)],
    )


@settings(max_examples=5)
@given(rows=st.integers(1, 4), width=st.sampled_from([2, 61, 4097, 9000]))
def test_token_logprobs(rows: int, width: int) -> None:
    torch.manual_seed(rows)
    targets = torch.randint(0, width, (rows,))
    agrees(
        lambda x: TRITON.token_logprobs(x, targets),
        lambda x: REFERENCE.token_logprobs(x, targets),
        [torch.randn(rows, width) * 4],
    )


def test_token_logprobs_of_forbidden_words() -> None:
    logits = torch.full((1, 9000), -torch.inf)
    logits[0, 8000:8002] = 0
    logits.requires_grad_()
    got = TRITON.token_logprobs(logits, torch.tensor([8001]))
    got.sum().backward()
    torch.testing.assert_close(got, torch.tensor([0.5]).log())
    assert torch.isfinite(logits.grad).all()


@settings(max_examples=5)
@given(rows=st.integers(1, 3), groups=st.integers(1, 2), P=st.sampled_from([3, 8, 9]), S=st.sampled_from([4, 19]))
def test_step(rows: int, groups: int, P: int, S: int) -> None:
    torch.manual_seed(rows)
    H = groups * 2
    inputs = [
        torch.randn(rows, H, P, S), torch.randn(rows, H, P), torch.rand(rows, H), -torch.rand(H),
        torch.randn(rows, groups, S), torch.randn(rows, groups, S), torch.randn(H),
    ]  # fmt: skip
    exact = [t.double() for t in inputs]
    expected, got = REFERENCE.step(*exact), TRITON.step(*inputs)
    for a, b in ((got, expected), (inputs[0], exact[0])):
        assert (a.double() - b).abs().max() <= 2e-6 * b.abs().max()


def test_slices_of_a_projection_are_read_in_place() -> None:
    """z, xBC and dt side by side in one matrix, as in_proj leaves them, give what copies of them give."""
    torch.manual_seed(0)
    layout, heads, P, S = Layout.of([17, 4]), 2, 4, 3
    width = heads * P
    whole = torch.randn(21, 2 * width + 2 * S + heads)
    taps, weight = torch.randn(width + 2 * S, 4), torch.randn(width)

    def run(copied: bool) -> Tensor:
        parts = whole.split([width, width + 2 * S, heads], -1)
        z, xBC, dt = (t.contiguous() if copied else t for t in parts)
        x, B, C = TRITON.conv_silu(xBC, taps, None, layout).split([width, S, S], -1)
        y = TRITON.scan(
            x.unflatten(-1, (heads, P)),
            dt.abs(),
            -torch.ones(heads),
            B[:, None],
            C[:, None],
            torch.ones(heads),
            layout,
            16,
        )
        return TRITON.gate(y.flatten(1), z, weight, 1, 1e-5, False)

    assert torch.equal(run(False), run(True))


def test_double_precision_is_refused() -> None:
    with pytest.raises(TypeError, match="fp32, bf16 and fp16"):
        TRITON.rms_norm(torch.randn(2, 4, dtype=torch.float64), torch.ones(4), 1e-5)


def test_a_model_on_these_kernels_has_the_loss_and_gradients_of_plain_pytorch() -> None:
    config = preset(
        "tiny", hidden_size=16, intermediate_size=24, num_attention_heads=2, num_key_value_heads=1, head_dim=8,
        mamba_d_ssm=16, mamba_n_heads=2, mamba_d_head=8, mamba_d_state=8, mamba_rms_norm=True, num_hidden_layers=1,
        vocab_size=32,
    )  # fmt: skip
    model, layout = build(config, 0), Layout.of([19, 3])
    ids = torch.randint(0, 32, (22,), generator=torch.Generator().manual_seed(0))

    def loss_and_gradients(kernels: Kernels) -> list[Tensor]:
        model.use(kernels).zero_grad()
        loss = -kernels.token_logprobs(model.logits(model.model(ids, layout)), ids).mean()
        loss.backward()
        return [loss.detach(), *(p.grad for p in model.parameters())]

    ours = dataclasses.replace(TRITON, attention=TORCH.attention)  # the one operator that needs the card
    for a, b in zip(loss_and_gradients(ours), loss_and_gradients(TORCH), strict=True):
        assert (a - b).abs().max() <= 1e-5 * b.abs().max()


def test_a_plan_counts_what_a_layer_on_these_kernels_keeps() -> None:
    config = preset(
        "tiny", hidden_size=32, intermediate_size=48, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
        mamba_d_ssm=32, mamba_n_heads=4, mamba_d_head=8, mamba_d_state=8, mamba_rms_norm=True, vocab_size=32,
    )  # fmt: skip
    length = 48
    own = dataclasses.replace(TRITON, attention=TORCH.attention)
    found = []
    for layers in (1, 2):
        model = build(config.replaced(num_hidden_layers=layers), 0).train().use(own)
        layout = Layout.of([length])
        with kept_storages() as kept:
            model.model(torch.zeros(length, dtype=torch.long), layout)
        shared = [*model.parameters(), *model.buffers(), layout.positions, layout.remaining]
        found.append(bytes_beside(kept, shared))
    counted = pass_costs(config, torch.float32, length).kept * length
    assert abs(counted - (found[1] - found[0])) < 0.05 * counted
