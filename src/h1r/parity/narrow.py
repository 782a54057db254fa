"""What decoding with narrow weights (`engine.weights`) costs in exactness, on a text: logits, and what follows."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from h1r.common.engines import Weights
from h1r.common.prose import counted
from h1r.config import EngineSection
from h1r.engine.native.c_decoder import decoder_class, obstacle
from h1r.engine.native.engine import NativeEngine
from h1r.engine.protocol import SamplingParams
from h1r.parity.measure import NotHereError, Worst
from h1r.parity.subject import Subject

WRITTEN = 8
"""Traces that the model writes where there is no text."""
LONGEST = 256
"""Tokens of each."""


@torch.no_grad()
def narrow_logits(subject: Subject, weights: Weights) -> Worst:
    """Logits of every token of the text by the decoder with narrow weights, against the same with fp32 weights. With
    them: the largest and mean difference, the mean KL in nats, and how often the most likely token is the same."""
    if why := obstacle(subject.model):
        raise NotHereError(f"narrow weights are for decoding in C, and {why}")
    pieces, what = _text(subject)
    worst, most, total, kl, agreed = Worst(), 0.0, 0.0, 0.0, 0
    exactly = list(_logits(subject, pieces, "auto"))
    for i, (exact, narrow) in enumerate(zip(exactly, _logits(subject, pieces, weights), strict=True)):
        worst.compare(f"piece {i}", narrow, exact)
        apart = (narrow - exact).abs()
        most, total = max(most, apart.max().item()), total + apart.double().mean(1).sum().item()
        said, heard = exact.double().log_softmax(-1), narrow.double().log_softmax(-1)
        kl += F.kl_div(heard, said, log_target=True, reduction="sum").item()
        agreed += int((exact.argmax(-1) == narrow.argmax(-1)).sum())
    tokens = sum(map(len, pieces))
    worst.figures = {
        "max_logit_error": most, "mean_logit_error": total / tokens, "kl_nats": kl / tokens,
        "greedy_agreement": agreed / tokens, "tokens": tokens,
    }  # fmt: skip
    worst.note = (
        f"logits differ by {most:.2g} at most and {total / tokens:.2g} in the mean, KL {kl / tokens:.1e} nats a token, "
        f"greedy agreement {100 * agreed / tokens:.2f} % over {counted(tokens, 'token')} {what}"
    )
    return worst


def _text(subject: Subject) -> tuple[list[Tensor], str]:
    """Pieces of token ids, and what they are: of the user's text, or of what the model writes with fp32 weights."""
    longest = min(LONGEST, subject.config.max_position_embeddings)
    if subject.text_ids is not None:
        ids = torch.tensor(subject.text_ids[: WRITTEN * longest])
        return list(ids.split(longest)), "of the text"
    prompts = [subject.ids(2, stream=60 + i).tolist() for i in range(WRITTEN)]
    engine = NativeEngine(subject.model, section=EngineSection(max_sequences=WRITTEN), eos_token_ids=())
    params = SamplingParams(max_tokens=max(1, min(subject.tokens, longest) - 2), seed=subject.seed)
    traces = engine.generate(prompts, params)
    return [torch.tensor([*prompts[one.prompt_index], *one.token_ids]) for one in traces], "that the model wrote"


def _logits(subject: Subject, pieces: list[Tensor], weights: Weights) -> Iterator[Tensor]:
    """[tokens, V] of each piece, from an empty cache."""
    longest = max(len(ids) for ids in pieces)
    decoder = decoder_class(subject.model)(subject.model, longest, weights)
    for ids in pieces:
        logits = torch.empty(len(ids), subject.config.vocab_size)
        cache = decoder.bind(subject.model.new_cache(1, longest))
        decoder.run(cache, torch.tensor([len(ids)]), ids, torch.arange(len(ids)), logits)
        yield logits
