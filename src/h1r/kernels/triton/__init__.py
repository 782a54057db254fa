"""The operators as Triton kernels, for CUDA: bf16, fp16 and fp32 in, fp32 sums and states.

Written for flat tokens: each kernel takes positions or the table of chunks, so that packing costs nothing and leaks
nothing. They take slices of in_proj's output as they are. Nothing is summed atomically: two runs agree to the last bit,
and a document's results do not depend on what is packed beside it. The design and the traffic are in
docs/internals/kernels.md.
"""

from __future__ import annotations

from h1r.kernels.contract import Kernels
from h1r.kernels.triton.attention import attention
from h1r.kernels.triton.conv import conv_silu
from h1r.kernels.triton.gate import gate, rms_norm, swiglu
from h1r.kernels.triton.logprobs import token_logprobs
from h1r.kernels.triton.rotary import rotary
from h1r.kernels.triton.scan import scan
from h1r.kernels.triton.step import step

TRITON = Kernels(
    "triton", conv_silu=conv_silu, scan=scan, gate=gate, attention=attention, rms_norm=rms_norm, swiglu=swiglu,
    rotary=rotary, token_logprobs=token_logprobs, step=step,
)  # fmt: skip
