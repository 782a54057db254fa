"""Samples that are longer than a row: trimmed, left out or refused (`sft.overlong`), and always counted.

A trimmed sample has lost its end token: a model of nothing but these never learns to stop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from h1r.common.progress import note
from h1r.config import SFTSection
from h1r.errors import UserError
from h1r.train.documents import Documents

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def without_overlong(
    documents: Documents, section: SFTSection, tokenizer: PreTrainedTokenizerFast, tell: bool = True
) -> Documents:
    """The documents that `section.overlong` keeps. tell: print how many were too long.

    A document that fills a row and does not end as others do, was longer. `UserError` where `overlong` refuses one, for
    more than `max_overlong` of all, and where none is left.
    """
    ends = {tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|im_end|>")}
    full: set[int] = set()
    for place in range(len(documents)):
        if documents[place].length >= section.seq_len:
            full.add(place)
        elif len(ends) < 3:
            ends.add(documents[place].ids[-1])
    cut = {place for place in full if documents[place].ids[-1] not in ends}
    if not cut:
        return documents
    sentence = f"{len(cut)} of {len(documents)} samples are longer than sft.seq_len = {section.seq_len}"
    if section.overlong == "refuse":
        raise UserError(f"{sentence}; raise it, or set sft.overlong to trim or drop them")
    if len(cut) > section.max_overlong * len(documents):
        raise UserError(
            f"{sentence}, more than sft.max_overlong = {section.max_overlong:g} of all; raise seq_len, or max_overlong "
            "to train without them or their end tokens"
        )
    if tell:
        note(f"{sentence} and are {'left out' if section.overlong == 'drop' else 'trimmed, without their end token'}")
    if section.overlong == "trim":
        return documents
    kept = [documents[place] for place in range(len(documents)) if place not in cut]
    if not kept:
        raise UserError(f"{sentence}, and none is left without them; raise it")
    return kept  # type: ignore[return-value]
