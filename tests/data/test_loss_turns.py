"""Which turns of a conversation carry loss, as token masks."""

from __future__ import annotations

import pytest

from h1r.config import CurateSection
from h1r.data.chat import encode_sample, render
from h1r.data.curate.io.items import Given, Item
from h1r.data.curate.rules.steps import sample_of
from h1r.data.tokenizer import train_tokenizer
from h1r.records import Message, Problem

TURNS = [
    Message("system", "Be short."), Message("user", "One plus one?"), Message("assistant", "Two.", "easy"),
    Message("user", "And one?"), Message("assistant", "Three.", "again"),
]  # fmt: skip


@pytest.mark.parametrize("system", [True, False])
@pytest.mark.parametrize(
    ("loss", "weights", "taught"),
    [
        ("last", [0, 0, 1, 0, 0], ["<think>\nagain\n</think>\n\nThree."]),
        ("all", None, ["Two.", "<think>\nagain\n</think>\n\nThree."]),
        ("weights", [0, 0, 1, 0, 1], ["Two.", "<think>\nagain\n</think>\n\nThree."]),
        ("weights", [0, 0, 1, 0, 0], ["Two."]),
        ("weights", None, ["<think>\nagain\n</think>\n\nThree."]),
    ],
)
def test_loss_falls_on_the_turns_that_are_asked_for(
    loss: str, weights: list[int] | None, taught: list[str], system: bool
) -> None:
    turns = TURNS[0 if system else 1 :]
    tokenizer = train_tokenizer([render(TURNS, "")], 300)
    trace = Given(turns, turn_weights=weights and weights[-len(turns) :])
    item = Item(0, Problem("p", "q", "3"), "s", "math", "sft")
    encoded = encode_sample(tokenizer, sample_of(item, trace, 0, CurateSection(loss=loss).loss), "")  # type: ignore[arg-type]
    spans: list[list[int]] = []
    for token, flag, before in zip(encoded.token_ids, encoded.loss_mask, [0, *encoded.loss_mask], strict=False):
        if flag:
            if not before:
                spans.append([])
            spans[-1].append(token)
    assert [tokenizer.decode(span) for span in spans] == [text + "<|im_end|>" for text in taught]
    assert encoded.loss_mask[-1] == 1
