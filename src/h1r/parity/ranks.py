"""Context parallelism over real processes: loss and every gradient against the single process."""

from __future__ import annotations

import torch

from h1r.common.prose import counted
from h1r.errors import UserError
from h1r.parity.measure import NotHereError, Worst
from h1r.parity.subject import Subject, free_bytes

DEGREES = (2, 3, 4, 6)


def context_parallel(subject: Subject, degree: int) -> Worst:
    """`degree` processes on the CPU in fp32, whatever the subject's dtype, each with a copy of the model."""
    if not (torch.distributed.is_available() and torch.distributed.is_gloo_available()):
        raise NotHereError("this build of torch has no torch.distributed with gloo")
    from h1r.train.parallel import check_degree, parity_worst_error

    try:
        check_degree(subject.config, degree)
    except UserError as why:
        raise NotHereError(str(why)) from None
    weights = 4 * sum(p.numel() for p in subject.model.parameters())
    needed, free = 3 * degree * weights, free_bytes("cpu")
    if free is not None and needed > free:
        raise NotHereError(
            f"{counted(degree, 'process')} need about {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free"
        )
    kernels = subject.model.kernels.name
    error = parity_worst_error(
        subject.checkpoint(), degree, subject.seed, subject.tokens, "torch" if kernels == "triton" else kernels
    )
    return Worst().add("loss or a gradient", error)
