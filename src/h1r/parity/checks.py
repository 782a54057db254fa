"""Every check by name, with its tolerance, and how they run."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from h1r.common.engines import Weights
from h1r.common.prose import counted
from h1r.errors import UserError
from h1r.parity import caching, checkpoints, engines, narrow, operators, packing, ranks
from h1r.parity.measure import Check, Tolerance

EXACT = Tolerance(float32=0.0, bfloat16=0.0, float64=0.0)
LOGITS = Tolerance(float32=2e-5, bfloat16=1e-1, float64=1e-10)
GRADIENTS = Tolerance(float32=1e-4, bfloat16=3e-1, float64=1e-9)
KERNELS = Tolerance(float32=2e-5, bfloat16=5e-2, float64=1e-10)
NATS = Tolerance(float32=1e-4, bfloat16=3e-1, float64=1e-5)
NATS_VLLM = Tolerance(float32=1e-3, bfloat16=3e-1, float64=1e-3)
BF16_WEIGHTS = Tolerance(float32=3e-2, bfloat16=3e-2, float64=3e-2)
INT8_WEIGHTS = Tolerance(float32=1e-1, bfloat16=1e-1, float64=1e-1)
RANKS = Tolerance(float32=1e-5, bfloat16=1e-5, float64=1e-5)
WEIGHTS: dict[Weights, Tolerance] = {"bfloat16": BF16_WEIGHTS, "int8": INT8_WEIGHTS}

CHECKS: tuple[Check, ...] = (
    Check("packed-logits", "documents end to end = each alone, logits", packing.packed_logits, LOGITS),
    Check("packed-gradients", "the same, every parameter's gradient", packing.packed_gradients, GRADIENTS),
    Check("packed-convolution", "the same, the convolution with its gradients", packing.packed_convolution, LOGITS),
    Check("packed-scan", "the same, the scan with its gradients", packing.packed_scan, GRADIENTS),
    Check("packed-attention", "the same, attention with its gradients", packing.packed_attention, LOGITS),
    Check(
        "left-padding", "padded left = alone, batches of 1 and more, with gradients", packing.left_padding, GRADIENTS
    ),
    Check("right-padding", "padded right = alone, with gradients", packing.right_padding, GRADIENTS),
    Check("prefill", "one prefill = training forward, every position", caching.prefill, LOGITS),
    Check("chunked-prefill", "prefill in random pieces = one prefill", caching.chunked_prefill, LOGITS),
    Check("ragged-prefill", "prompts of different length together = each alone", caching.ragged_prefill, LOGITS),
    Check("decode", "token by token = training forward", caching.decode, LOGITS),
    Check("forked-cache", "a cache copied to three slots = three prefills", caching.forked_cache, LOGITS),
    Check("saved-state", "state to disk and back in mid-sequence = going on", caching.saved_state, EXACT),
    Check("save-load", "checkpoint written and read = the same bits", checkpoints.save_load, EXACT),
    Check("reload", "own weights into a running engine = no change", engines.reload, EXACT),
    Check("engine-logprobs", "native engine's log-probabilities = training forward", engines.native_logprobs, NATS),
    *(
        Check(
            f"weights-{weights}",
            f"decoding with {weights} weights = with fp32 weights, logits",
            partial(narrow.narrow_logits, weights=weights),
            tolerance,
        )
        for weights, tolerance in WEIGHTS.items()
    ),
    Check("kernel-convolution", "kernels in use = definition in float64", operators.kernel_convolution, KERNELS),
    Check("kernel-scan", "the same, forward and backward", operators.kernel_scan, KERNELS),
    Check("kernel-step", "the same, forward and state", operators.kernel_step, KERNELS),
    Check("kernel-gate", "the same, forward and backward", operators.kernel_gate, KERNELS),
    Check("kernel-attention", "the same, forward and backward", operators.kernel_attention, KERNELS),
    Check("kernel-rms-norm", "the same, forward and backward", operators.kernel_rms_norm, KERNELS),
    Check("kernel-swiglu", "the same, forward and backward", operators.kernel_swiglu, KERNELS),
    Check("transformers", "logits of the same files in transformers", checkpoints.transformers_logits, LOGITS),
    Check("vllm", "log-probabilities of the same files in vLLM", engines.vllm_logprobs, NATS_VLLM),
    Check("vllm-reload", "own weights into a running vLLM = no change", engines.vllm_reload, EXACT),
    *(
        Check(
            f"context-parallel-{degree}",
            f"loss and gradients on {counted(degree, 'process')} = on one",
            partial(ranks.context_parallel, degree=degree),
            RANKS,
        )
        for degree in ranks.DEGREES
    ),
)


def choose(only: Sequence[str]) -> tuple[Check, ...]:
    """The checks of these names; a name's first word stands for all that begin with it (`kernel`, `packed`). All of
    them when `only` is empty. Raises `UserError` for a name that stands for none."""
    for name in only:
        if not any(_named(check, name) for check in CHECKS):
            raise UserError(f"--only {name} is no check; choose among {', '.join(check.name for check in CHECKS)}")
    return tuple(check for check in CHECKS if not only or any(_named(check, name) for name in only))


def _named(check: Check, name: str) -> bool:
    return check.name == name or check.name.startswith(f"{name}-")
