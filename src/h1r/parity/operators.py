"""The model's operators one at a time, on its own shapes: the kernels in use against their definition in float64.

Inputs are random; the parameters that an operator takes are the model's own. Inputs in half precision
are handed to the definition as they were rounded, so that only the arithmetic is compared.
"""

from __future__ import annotations

import torch

from h1r.kernels.layout import Layout
from h1r.kernels.reference import REFERENCE
from h1r.models.checks import FamilyChecks, Operator, copies
from h1r.models.layers.norm import RMSNorm
from h1r.models.registry import family_of, resolved
from h1r.parity.measure import NotHereError, Worst, compare_gradients
from h1r.parity.subject import Subject


def own_operator(subject: Subject, name: str) -> Operator:
    """An operator that the model's family has of its own. Raises `NotHereError` where it has none of that name."""
    make = _family_checks(subject).operators.get(name)
    if make is None:
        raise NotHereError(f"the family {subject.config.model_type} has no {name.removeprefix('exact_')}")
    return make(subject.model, subject)


def attention(subject: Subject) -> Operator:
    c, T = subject.config, subject.tokens
    shapes = [(T, heads, c.head_dim) for heads in (c.num_attention_heads, *[c.num_key_value_heads] * 2)]
    return Operator(
        ("q", "k", "v"),
        [subject.noise(*shape, stream=6 + i) for i, shape in enumerate(shapes)],
        3,
        lambda kernels, t, layout: kernels.attention(t[0], t[1], t[2], layout),
    )


def rms_norm(subject: Subject) -> Operator:
    norm = next((m for m in subject.model.modules() if isinstance(m, RMSNorm)), None)
    if norm is None:
        raise NotHereError(f"the family {subject.config.model_type} has no RMSNorm")
    return Operator(
        ("x", "weight"),
        [subject.noise(subject.tokens, subject.config.hidden_size), *copies(norm.weight)],
        1,
        lambda kernels, t, layout: kernels.rms_norm(t[0], t[1], norm.eps),
    )


def swiglu(subject: Subject) -> Operator:
    shape = (subject.tokens, subject.config.intermediate_size)
    return Operator(
        ("gate", "up"),
        [subject.noise(*shape), subject.noise(*shape, stream=1)],
        2,
        lambda kernels, t, layout: kernels.swiglu(t[0], t[1]),
    )


def kernel_convolution(subject: Subject) -> Worst:
    return against_definition(subject, own_operator(subject, "convolution"))


def kernel_attention(subject: Subject) -> Worst:
    return against_definition(subject, attention(subject))


def kernel_gate(subject: Subject) -> Worst:
    return against_definition(subject, own_operator(subject, "gate"))


def kernel_rms_norm(subject: Subject) -> Worst:
    return against_definition(subject, rms_norm(subject))


def kernel_swiglu(subject: Subject) -> Worst:
    return against_definition(subject, swiglu(subject))


def kernel_scan(subject: Subject) -> Worst:
    return against_definition(subject, own_operator(subject, "exact_scan"))


def kernel_step(subject: Subject) -> Worst:
    """Tokens of two sequences, one after the other; outputs and the state they leave."""
    steps = _family_checks(subject).step
    if steps is None:
        raise NotHereError(f"the family {subject.config.model_type} has no recurrent step")
    state, tokens = steps(subject.model, subject)
    exact = state.double()
    worst = Worst()
    with torch.no_grad():
        for i, inputs in enumerate(tokens, 1):
            y = subject.model.kernels.step(state, *inputs)
            expected = REFERENCE.step(exact, *[t.double() for t in inputs])
            worst.compare(f"output of step {i}", y, expected).compare(f"state after step {i}", state, exact)
    return worst


def against_definition(subject: Subject, operator: Operator) -> Worst:
    """Output and the gradient of every input, packed documents, kernels in use against `reference` in float64."""
    layout = Layout.of(subject.lengths(), subject.device)
    inputs = [t.requires_grad_() for t in operator.inputs]
    exact = [t.detach().double().requires_grad_() for t in inputs]
    got, expected = operator.run(subject.model.kernels, inputs, layout), operator.run(REFERENCE, exact, layout)
    pull = subject.noise(*got.shape, stream=1, dtype=got.dtype)
    found = torch.autograd.grad((got * pull).sum(), inputs)
    wanted = torch.autograd.grad((expected * pull.double()).sum(), exact)
    return compare_gradients(Worst().compare("output", got, expected), operator.names, found, wanted)


def _family_checks(subject: Subject) -> FamilyChecks:
    checks: FamilyChecks | None = resolved(family_of(subject.config).checks)
    return checks or FamilyChecks()
