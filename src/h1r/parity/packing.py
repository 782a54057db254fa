"""Documents beside each other change nothing: packed end to end, or padded left or right.

The expectation is always the training forward of each document alone.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from h1r.kernels.layout import Layout
from h1r.models.checks import Operator
from h1r.parity.measure import Worst, compare_gradients
from h1r.parity.operators import attention, own_operator
from h1r.parity.subject import Subject


def packed_logits(subject: Subject) -> Worst:
    with torch.no_grad():
        return Worst().compare("logits", _packed(subject), _each_alone(subject))


def packed_gradients(subject: Subject) -> Worst:
    return _gradients(subject, _packed, _each_alone)


def packed_convolution(subject: Subject) -> Worst:
    return _operator(subject, own_operator(subject, "convolution"))


def packed_scan(subject: Subject) -> Worst:
    return _operator(subject, own_operator(subject, "scan"))


def packed_attention(subject: Subject) -> Worst:
    return _operator(subject, attention(subject))


def left_padding(subject: Subject) -> Worst:
    return _padding(subject, "left")


def right_padding(subject: Subject) -> Worst:
    return _padding(subject, "right")


def _packed(subject: Subject) -> Tensor:
    documents = subject.documents()
    layout = Layout.of([len(d) for d in documents], subject.device)
    return subject.model.logits(subject.model.model(torch.cat(documents), layout))


def _each_alone(subject: Subject) -> Tensor:
    return torch.cat([subject.alone(document) for document in subject.documents()])


def _gradients(subject: Subject, run: Callable[[Subject], Tensor], expect: Callable[[Subject], Tensor]) -> Worst:
    """Every parameter's gradient of a random linear function of the logits."""
    names, parameters = subject.parameters()

    def gradients(of: Callable[[Subject], Tensor]) -> tuple[Tensor | None, ...]:
        logits = of(subject)
        pull = subject.noise(*logits.shape, stream=1)
        return torch.autograd.grad((logits * pull).sum(), parameters, allow_unused=True)

    return compare_gradients(Worst(), names, gradients(run), gradients(expect))


def _padding(subject: Subject, side: str) -> Worst:
    """Logits at real positions and every parameter's gradient: one document padded, then all of them in one batch."""
    worst = Worst()
    documents = subject.documents()
    longest = max(documents, key=len)
    for rows, extra in (([longest], 3), (documents, 2)):

        def padded(subject: Subject, rows: list[Tensor] = rows, extra: int = extra) -> Tensor:
            ids_BT, real_BT = _rectangle(subject, rows, max(map(len, rows)) + extra, side)
            return subject.model(ids_BT, real_BT)[real_BT.bool()]

        def alone(subject: Subject, rows: list[Tensor] = rows) -> Tensor:
            return torch.cat([subject.alone(row) for row in rows])

        with torch.no_grad():
            worst.compare(f"logits of a batch of {len(rows)}", padded(subject), alone(subject))
        found = _gradients(subject, padded, alone)
        worst.add(f"{found.where}, batch of {len(rows)}", found.error)
    return worst


def _rectangle(subject: Subject, rows: list[Tensor], width: int, side: str) -> tuple[Tensor, Tensor]:
    """ids [B, width], filled up with random tokens that would show if looked at, and the mask of real ones."""
    ids_BT = subject.ids(len(rows), width, stream=2)
    real_BT = torch.zeros_like(ids_BT)
    for r, row in enumerate(rows):
        place = slice(width - len(row), width) if side == "left" else slice(0, len(row))
        ids_BT[r, place], real_BT[r, place] = row, 1
    return ids_BT, real_BT


def _operator(subject: Subject, operator: Operator) -> Worst:
    """One operator over all documents against each alone: outputs and the gradient of every input."""
    lengths = subject.lengths()
    inputs = [t.requires_grad_() for t in operator.inputs]
    packed = operator.run(subject.model.kernels, inputs, Layout.of(lengths, subject.device))
    pieces = [
        operator.run(subject.model.kernels, operator.slice(inputs, start, start + n), Layout.of([n], subject.device))
        for start, n in zip(_starts(lengths), lengths, strict=True)
    ]
    alone = torch.cat(pieces)
    pull = subject.noise(*alone.shape, stream=1, dtype=alone.dtype)
    got, expected = (torch.autograd.grad((y * pull).sum(), inputs) for y in (packed, alone))
    return compare_gradients(Worst().compare("output", packed, alone), operator.names, got, expected)


def _starts(lengths: list[int]) -> list[int]:
    return [sum(lengths[:i]) for i in range(len(lengths))]
