"""Prefill, decoding and every way to interrupt them equal the training forward: `Backbone.cached`."""

from __future__ import annotations

import itertools
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from h1r.models.cache import KVCache
from h1r.parity.measure import Worst
from h1r.parity.subject import Subject

DECODED = 16
"""Tokens that a check decodes one by one."""


@torch.no_grad()
def prefill(subject: Subject) -> Worst:
    """One prefill, logits at every position."""
    ids_BT = subject.ids(1, subject.tokens)
    return Worst().compare("logits", run(subject, ids_BT, cache(subject, 1))[0], subject.alone(ids_BT[0]))


@torch.no_grad()
def decode(subject: Subject) -> Worst:
    """Token by token from an empty cache, and after a prefill, in two rows."""
    ids_BT = subject.ids(2, subject.tokens)
    expected = torch.stack([subject.alone(row) for row in ids_BT])
    worst = Worst()
    for start in (0, subject.tokens - DECODED):
        held = cache(subject, 2)
        if start:
            run(subject, ids_BT[:, :start], held)
        steps = [run(subject, ids_BT[:, t : t + 1], held) for t in range(start, start + DECODED)]
        worst.compare(f"logits after position {start}", torch.cat(steps, 1), expected[:, start : start + DECODED])
    return worst


@torch.no_grad()
def chunked_prefill(subject: Subject) -> Worst:
    """Three random splits, one token among their pieces, against one prefill: every logit, and what the cache holds."""
    ids_BT = subject.ids(2, subject.tokens)
    whole = cache(subject, 2)
    expected = run(subject, ids_BT, whole)
    worst = Worst()
    for trial in range(3):
        borders = torch.randperm(subject.tokens - 2, generator=subject.generator(20 + trial))[:3] + 1
        cuts = sorted({0, *borders.tolist(), int(borders[0]) + 1, subject.tokens})
        held = cache(subject, 2)
        pieces = [run(subject, ids_BT[:, a:b], held) for a, b in itertools.pairwise(cuts)]
        worst.compare(f"logits, cut at {cuts[1:-1]}", torch.cat(pieces, 1), expected)
        for name, tensor in held.tensors().items():
            worst.compare(f"{name} of the cache, cut at {cuts[1:-1]}", tensor, whole.tensors()[name])
    return worst


@torch.no_grad()
def ragged_prefill(subject: Subject) -> Worst:
    """Prompts of different length in one prefill, then decoded together, against each alone."""
    prompts = subject.documents()
    tails = subject.ids(len(prompts), 4, stream=3)
    held, last = _ragged(subject, prompts)
    steps = torch.stack([last, *(run(subject, tails[:, t : t + 1], held)[:, 0] for t in range(3))], 1)
    worst = Worst()
    for r, prompt in enumerate(prompts):
        alone = subject.alone(torch.cat([prompt, tails[r]]))
        worst.compare(f"logits after a prompt of {len(prompt)}", steps[r], alone[len(prompt) - 1 : len(prompt) + 3])
    return worst


@torch.no_grad()
def forked_cache(subject: Subject) -> Worst:
    """A prefill copied to three slots that go on differently, against three prefills."""
    prompts = subject.documents()[-2:]
    source = torch.tensor([0, 1, 0, 1, 0, 1], device=subject.device)
    prefix, _ = _ragged(subject, prompts)
    forked = cache(subject, len(source))
    forked.copy_rows_(torch.arange(len(source), device=subject.device), prefix, source, max(map(len, prompts)))
    separate, _ = _ragged(subject, [prompts[i] for i in source.tolist()])
    tails = subject.ids(len(source), DECODED, stream=4)
    steps = [
        torch.cat([run(subject, tails[:, t : t + 1], held) for t in range(DECODED)], 1) for held in (forked, separate)
    ]
    after_fork, alone = steps
    return Worst().compare("logits after the fork", after_fork, alone)


@torch.no_grad()
def saved_state(subject: Subject) -> Worst:
    """A sequence stopped in the middle, its state written to disk, read back and continued, against going on. To the
    bit: the same kernels see the same numbers."""
    ids_BT = subject.ids(2, subject.tokens)
    middle = subject.tokens // 2
    held = cache(subject, 2)
    run(subject, ids_BT[:, :middle], held)
    files: list[Path] = [subject.workspace / "state.safetensors", subject.workspace / "state.pt"]
    save_file(held.tensors(), files[0])
    torch.save(held.tensors(), files[1])
    states: list[dict[str, Tensor]] = [load_file(files[0]), torch.load(files[1])]
    expected = _go_on(subject, ids_BT, middle, held)
    worst = Worst()
    for file, state in zip(files, states, strict=True):
        again = cache(subject, 2)
        again.restore(state)
        worst.compare(f"logits after {file.suffix}", _go_on(subject, ids_BT, middle, again), expected)
    return worst


def cache(subject: Subject, slots: int) -> KVCache:
    return subject.model.new_cache(slots, subject.tokens + DECODED)


def run(subject: Subject, ids_BT: Tensor, held: KVCache, num_new: Tensor | None = None) -> Tensor:
    """Logits [B, T, V] of new tokens."""
    return subject.model.logits(subject.model.model.cached(ids_BT, held, num_new))


def _go_on(subject: Subject, ids_BT: Tensor, start: int, held: KVCache) -> Tensor:
    """A chunk of prefill, then single tokens."""
    last = subject.tokens - 2
    pieces = [(start, last), (last, last + 1), (last + 1, last + 2)]
    return torch.cat([run(subject, ids_BT[:, a:b], held) for a, b in pieces], 1)


def _ragged(subject: Subject, prompts: list[Tensor]) -> tuple[KVCache, Tensor]:
    """The cache of prompts that were prefilled together, padded right, and the logits [B, V] of their last tokens."""
    lengths_B = torch.tensor([len(p) for p in prompts], device=subject.device)
    ids_BT = subject.ids(len(prompts), int(lengths_B.max()), stream=2)
    for r, prompt in enumerate(prompts):
        ids_BT[r, : len(prompt)] = prompt
    held = cache(subject, len(prompts))
    hidden = subject.model.model.cached(ids_BT, held, lengths_B)
    return held, subject.model.logits(hidden[torch.arange(len(prompts), device=subject.device), lengths_B - 1])
